/**
 * Kind `netdev`: an existing interface through raw sockets: a physical NIC, a veth, the TAP of a QEMU guest.
 *
 * Nothing about the interface is changed: promiscuous mode is a membership of the socket and goes with it, the host
 * keeps its addresses. An interface that is down or gone is waited for; one without Ethernet frames (a VPN's layer-3
 * device, the loopback) is refused. Frames that came faster than they were taken are the kernel's to drop: it is asked
 * for their number. The kernel cuts segmentation-offload frames and
 * finishes checksums where the interface cannot, so the port takes all of them.
 */
import { KIND_PACKET } from '../dataplane/layout.js'
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } from '../dataplane/port-table.js'
import { type Device, type Socket, namespacePath, requireNamespace } from './device.js'
import { IFF_RUNNING, IFF_UP, type OpenedPacket, SystemFailure, check, native } from './native.js'

export interface NetdevOptions {
  dev: string
  netns: string | null
}

const ENETDOWN = 100

export class NetdevDevice implements Device {
  readonly hasPeer = false
  readonly offloads = TAKES_CHECKSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_USO
  mac: string | null = null
  mtuLimit = 0
  readonly patientWith = ['ENETDOWN']
  private readonly options: NetdevOptions
  private readonly socket: Socket
  private readonly netns: string
  private opened: OpenedPacket | null = null
  private lost = 0

  constructor(options: NetdevOptions, socket: Socket) {
    this.options = options
    this.socket = socket
    this.netns = namespacePath(options.netns)
  }

  open(): void {
    const { dev, netns } = this.options
    requireNamespace(netns)
    this.opened = check(native.openPacket(dev, this.netns), `netdev ${dev}`)
    this.mac = this.opened.mac
    this.mtuLimit = this.opened.mtu
    this.socket.attach(KIND_PACKET, [this.opened.fd, this.opened.fdOut])
    this.check()
  }

  failed(code: number): boolean {
    this.closeDescriptors()
    const gone = typeof native.getLink(this.options.dev, this.netns) === 'number'
    if (gone) this.socket.report('error', `netdev ${this.options.dev}: no such device`)
    else if (code === ENETDOWN) this.socket.report('down', `netdev ${this.options.dev}: the interface is down`)
    else this.socket.report('error', new SystemFailure(code, `netdev ${this.options.dev}`).message)
    return true
  }

  /** Follows the link: no carrier is `down`. An interface that was replaced by another of its name is opened anew. */
  check(): void {
    if (!this.opened) return
    this.losses()
    const link = native.getLink(this.options.dev, this.netns)
    if (typeof link === 'number') return // the socket tells that itself
    if (link.index !== this.opened.index) {
      this.closeDescriptors()
      this.open()
      return
    }
    this.mtuLimit = link.mtu
    if ((link.flags & IFF_UP) === 0) this.socket.report('down', `netdev ${this.options.dev}: the interface is down`)
    else if ((link.flags & IFF_RUNNING) === 0) this.socket.report('down', `netdev ${this.options.dev}: no carrier`)
    else this.socket.report('up', null)
  }

  losses(): number {
    if (this.opened) this.lost += Math.max(0, native.packetLosses(this.opened.fd))
    return this.lost
  }

  /** The interface is not Weft's: its MTU stays. */
  setMtu(): void {}

  setLink(): void {}

  close(): void {
    this.closeDescriptors()
  }

  private closeDescriptors(): void {
    if (!this.opened) return
    this.losses()
    this.socket.detach()
    native.close(this.opened.fd)
    native.close(this.opened.fdOut)
    this.opened = null
  }
}
