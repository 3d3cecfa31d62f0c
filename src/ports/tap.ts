/**
 * Kind `tap`: an interface that Weft makes, or adopts by name, and holds the file side of.
 *
 * A device that Weft makes goes with the daemon, also when it is killed. One that was there before is adopted and, when
 * the port is closed, left as it was found: MTU and flags are given back. More than one queue opens the device as
 * multi-queue; frames are taken from and given to the first, since one shard serves the port.
 */
import { KIND_TAP } from '../dataplane/layout.js'
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } from '../dataplane/port-table.js'
import { type Device, type Socket, namespacePath, requireNamespace } from './device.js'
import { IFF_UP, type OpenedTap, SystemFailure, check, native } from './native.js'

export interface TapOptions {
  dev: string
  netns: string | null
  queues: number
  /** uid that may open the device too, found when it is opened; null: nobody */
  owner: () => number | null
  offloads: boolean
  /** of the device if Weft makes it: the same each time, so that neighbours' caches stay right */
  mac: string
}

export class TapDevice implements Device {
  readonly hasPeer = false
  readonly offloads: number
  mac: string | null = null
  readonly mtuLimit = 0
  readonly patientWith = []
  private readonly options: TapOptions
  private readonly socket: Socket
  private readonly netns: string
  private mtu: number
  private link = true
  private opened: OpenedTap | null = null

  constructor(options: TapOptions, mtu: number, socket: Socket) {
    this.options = options
    this.mtu = mtu
    this.socket = socket
    this.netns = namespacePath(options.netns)
    this.offloads = options.offloads ? TAKES_CHECKSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_USO : 0
  }

  open(): void {
    const { dev, netns, owner, offloads, queues } = this.options
    requireNamespace(netns)
    this.opened = check(
      native.openTap(dev, this.netns, this.mtu, owner() ?? -1, offloads, queues > 1, this.options.mac),
      `tap ${dev}`,
    )
    this.mac = this.opened.mac
    if (!this.link) this.setLink(false)
    this.socket.attach(KIND_TAP, [this.opened.fd])
    this.socket.report('up', null)
  }

  failed(code: number): boolean {
    this.closeDescriptor()
    this.socket.report('error', code === EBADFD ? `tap ${this.options.dev}: the device was deleted` : describe(code))
    return true
  }

  check(): void {
    if (!this.opened) return
    const link = native.getLink(this.options.dev, this.netns)
    if (typeof link === 'number') this.socket.report('error', `tap ${this.options.dev}: the device was deleted`)
    else if ((link.flags & IFF_UP) === 0) this.socket.report('down', `tap ${this.options.dev}: the interface is down`)
    else this.socket.report('up', null)
  }

  setMtu(mtu: number): void {
    this.mtu = mtu
    if (this.opened) check(native.setLinkMtu(this.options.dev, this.netns, mtu), `tap ${this.options.dev}: MTU ${mtu}`)
  }

  setLink(up: boolean): void {
    this.link = up
    if (this.opened) check(native.setCarrier(this.opened.fd, up), `tap ${this.options.dev}: link`)
  }

  close(): void {
    const { opened } = this
    if (opened?.existed) native.restoreTap(opened.fd, this.options.dev, this.netns, opened.mtu, opened.flags)
    this.closeDescriptor()
  }

  private closeDescriptor(): void {
    if (!this.opened) return
    this.socket.detach()
    native.close(this.opened.fd)
    this.opened = null
  }
}

const EBADFD = 77
const describe = (code: number): string => new SystemFailure(code, 'tap').message
