/**
 * A virtqueue as its front-end describes it, piece by piece: size, addresses, position, descriptors, whether it is
 * enabled. It starts when all pieces are there (a kick descriptor, or the word that there is none), whatever their
 * order, and stops when the front-end asks for its position (GET_VRING_BASE).
 *
 * `position` is where it starts. While the ring runs the shard knows better, and is told -1: go on where you are.
 */
import type { GuestChange, RingSettings } from './device.js'
import { RING_ENABLED, RING_LOGGED, RING_POLLED, native } from './native.js'
import type { VringAddresses } from './vhost-user-message.js'

export class VhostUserRing {
  readonly index: number
  /** entries; 0: not told yet */
  size = 0
  /** next available index, 0 to 65535 */
  position = 0
  addresses: VringAddresses | null = null
  isEnabled = false
  /** the shard works it */
  isStarted = false
  /** descriptors, -1: none */
  kick = -1
  call = -1
  /** the driver sends no kicks by intent */
  isSilent = false

  constructor(index: number) {
    this.index = index
  }

  /** All that the ring itself needs is there. */
  get isComplete(): boolean {
    return this.size > 0 && this.addresses !== null && (this.kick >= 0 || this.isSilent)
  }

  get isRunning(): boolean {
    return this.isStarted && this.isEnabled
  }

  /** Takes a descriptor in place of the one before, -1: none from now on. */
  setKick(fd: number): void {
    if (this.kick >= 0) native.close(this.kick)
    this.kick = fd
    this.isSilent = fd < 0
  }

  setCall(fd: number): void {
    if (this.call >= 0) native.close(this.call)
    this.call = fd
  }

  /** The ring as the shard is told of it; from then on it runs there. */
  start(features: bigint, isPolled: boolean): { change: GuestChange; fds: number[] } {
    const { addresses, kick, call } = this
    if (addresses === null) throw new Error(`ring ${this.index} is started without its addresses`)
    const position = this.isStarted ? -1 : this.position
    this.isStarted = true
    const settings: RingSettings = {
      features: String(features),
      descriptors: String(addresses.descriptors),
      available: String(addresses.available),
      used: String(addresses.used),
      log: String(addresses.log),
      size: this.size,
      position,
      flags:
        (this.isEnabled ? RING_ENABLED : 0) |
        (addresses.logged ? RING_LOGGED : 0) |
        (isPolled || this.isSilent ? RING_POLLED : 0),
    }
    const change = { set: 'ring', ring: this.index, settings, kick: kick >= 0, call: call >= 0 } as const
    return { change, fds: [kick, call].filter((fd) => fd >= 0) }
  }

  /** It has stopped here; only another kick starts it again. */
  stopped(position: number): void {
    this.isStarted = false
    this.position = position
    this.setKick(-1)
    this.isSilent = false
  }

  close(): void {
    this.setKick(-1)
    this.setCall(-1)
  }
}
