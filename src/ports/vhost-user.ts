/**
 * Kind `vhost-user`: a guest that shares its memory with Weft. The front-end (QEMU) connects to a unix socket that Weft
 * listens on, or listens itself and Weft connects, for ever, with back-off (`client`). What is said there is
 * `vhost-user-session.ts`; the shard maps the memory and works the rings.
 *
 *   nobody ──connection──> driver not started ──a ring runs──> up
 *     ^                          ^                             |
 *     └──────── the peer left ───┴──── the guest stopped it ───┘
 *
 * A peer or guest that breaks the rules is hung up on: the port is in error, with its reason, until the next one.
 *
 * One peer at a time: while one is connected, another is turned away at once, unless the first has left. The port is in
 * the shard while somebody is connected. Pulling the cable (`setLink`) ends the connection and takes the listening path
 * away: that is what a front-end shows its guest as a link that is down.
 */
import { unlinkSync } from 'node:fs'
import { KIND_VHOST_USER } from '../dataplane/layout.js'
import type { Device, Socket } from './device.js'
import { SystemFailure, check, native } from './native.js'
import { offeredFeatures } from './vhost-user-message.js'
import { VhostUserSession } from './vhost-user-session.js'

export interface VhostUserOptions {
  path: string
  client: boolean
  /** rings are asked without end, which takes a whole core */
  poll: boolean
  /** the guest may leave checksums and segmentation to us, and takes them */
  offloads: boolean
}

/** Permissions of a listening path: the guest's QEMU may run as another user of the daemon's group. */
const SOCKET_MODE = 0o660

export class VhostUserDevice implements Device {
  readonly hasPeer = true
  readonly mac = null
  readonly mtuLimit = 0
  readonly patientWith: readonly string[]
  private readonly options: VhostUserOptions
  private readonly socket: Socket
  private readonly name: string
  private link = true
  private isOpen = false
  private listening = -1
  private watch = -1
  private session: VhostUserSession | null = null

  constructor(options: VhostUserOptions, socket: Socket) {
    this.options = options
    this.socket = socket
    this.name = `vhost-user ${options.path}`
    this.patientWith = options.client ? ['ENOENT', 'ECONNREFUSED', 'EAGAIN'] : []
  }

  /** None while the guest takes nothing at all, so that it never gets more than it agreed to when it starts again. */
  get offloads(): number {
    return this.session?.guest.isRunning ? this.session.guest.offloads : 0
  }

  open(): void {
    this.isOpen = true
    if (!this.link || this.session) return
    if (this.options.client) this.plugIn(check(native.connectUnix(this.options.path), this.name))
    else if (this.listening < 0) this.listen()
  }

  failed(code: number): boolean {
    this.unplug()
    const known: Record<number, string> = {
      [EPROTO]: 'the guest broke its ring',
      [EFAULT]: 'the guest took memory away that it had shared',
    }
    this.socket.report('error', `${this.name}: ${known[code] ?? new SystemFailure(code, 'the rings ended').message}`)
    return this.options.client && this.link
  }

  check(): void {
    const guest = this.session?.guest
    // a driver that starts agrees on features first; memory follows at once, unless there is none to share
    if (guest?.hasFeatures && !guest.hasMemory)
      this.socket.report('down', `${this.name}: QEMU shares no memory with the card: see the -object of weft qemu`)
  }

  setMtu(): void {}

  setLink(up: boolean): void {
    if (this.link === up) return
    this.link = up
    if (!up) this.closeAll()
    else if (this.isOpen) this.socket.openLater()
  }

  restore(): void {
    this.session?.restore()
  }

  close(): void {
    this.isOpen = false
    this.closeAll()
  }

  private listen(): void {
    this.listening = check(native.listenUnix(this.options.path, SOCKET_MODE), this.name)
    this.watch = native.watch(this.listening, () => this.accept())
    if (this.watch < 0) {
      const failure = new SystemFailure(-this.watch, this.name)
      this.closeAll()
      throw failure
    }
    this.socket.report('down', `${this.name}: nobody is connected`)
  }

  private accept(): void {
    const fd = native.accept(this.listening)
    if (fd < 0) {
      // with no descriptors left it would be asked again at once, without end
      if (fd === -EMFILE || fd === -ENFILE) this.giveWay(new SystemFailure(-fd, this.name))
      return
    }
    // one that comes again may be faster than the news that its last connection ended
    if (this.session && native.peerGone(this.session.fd)) this.unplug()
    if (this.session) native.close(fd)
    else this.plugIn(fd)
  }

  private giveWay(failure: SystemFailure): void {
    this.closeAll()
    this.socket.report('error', failure.message)
    this.socket.openLater()
  }

  private plugIn(fd: number): void {
    const { poll, offloads } = this.options
    this.socket.attach(KIND_VHOST_USER, [])
    this.session = new VhostUserSession(
      fd,
      { features: offeredFeatures(offloads), isPolled: poll },
      {
        share: (change, fds) => this.socket.share(change, fds),
        inject: (bytes) => this.socket.inject(bytes),
        changed: () => this.show(),
        ended: (reason) => this.ended(reason),
      },
    )
    this.show()
  }

  private show(): void {
    if (this.session?.guest.isRunning) this.socket.report('up', null)
    else this.socket.report('down', `${this.name}: the guest's driver has not started`)
  }

  private ended(reason: string | null): void {
    // QEMU leaves so when the port offers less than its guest has agreed to before
    const hint = this.session?.guest.hasFeatures ? '' : '; the last peer left without agreeing on features'
    this.unplug()
    if (reason === null) this.socket.report('down', `${this.name}: nobody is connected${hint}`)
    else this.socket.report('error', `${this.name}: ${reason}`)
    if (this.options.client && this.link) this.socket.openLater()
  }

  private unplug(): void {
    if (!this.session) return
    this.session.close()
    this.session = null
    this.socket.detach()
  }

  private closeAll(): void {
    this.unplug()
    if (this.listening < 0) return
    native.unwatch(this.watch)
    native.close(this.listening)
    this.listening = -1
    try {
      unlinkSync(this.options.path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
}

const EFAULT = 14
const ENFILE = 23
const EMFILE = 24
const EPROTO = 71
