/**
 * What one front-end has shared so far, and telling the shard of it: features, memory, dirty log, rings.
 *
 * Every descriptor that the front-end gave and is still in use is held here. The model is changed first and then
 * shared, so that a shard that dies at any moment is replaced by one that is told the whole model (`restore`); a change
 * that was under way then waits for that and is done.
 *
 * A ring is told to the shard as soon as features, memory and its own pieces are there, in any order; disabled rings
 * too. With PROTOCOL_FEATURES rings begin disabled (SET_VRING_ENABLE), features without that bit enable them all; the
 * state is kept while a ring is stopped. Features cannot change while rings run, but for LOG_ALL, which begins and ends
 * the dirty log of a migration.
 *
 * Each method takes effect whole or throws a ProtocolError; those that tell the shard resolve when it has applied all.
 */
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } from '../dataplane/port-table.js'
import { type GuestChange, ShardEnded, type Socket } from './device.js'
import { native } from './native.js'
import { GuestMemory, requireEvent, requireMemory } from './vhost-user-memory.js'
import * as wire from './vhost-user-message.js'
import { ProtocolError, type Region, type VringAddresses } from './vhost-user-message.js'
import { VhostUserRing } from './vhost-user-ring.js'

/** bytes of a dirty log: a bit a page of 4 KiB, so this is for 8 TiB of guest memory */
const LOG_BYTES_MAX = 1n << 28n

export interface GuestOptions {
  /** features of virtio and vhost that the port offers */
  features: bigint
  /** rings are asked without end */
  isPolled: boolean
}

/** What is needed of the surroundings. */
export interface GuestLine extends Pick<Socket, 'share'> {
  /** a ring began or ended to run */
  changed(): void
}

interface Telling {
  change: GuestChange
  fds: number[]
}

export class VhostUserGuest {
  private readonly options: GuestOptions
  private readonly line: GuestLine
  private readonly memory = new GuestMemory()
  private readonly rings = Array.from({ length: wire.RINGS_MAX }, (_, i) => new VhostUserRing(i))
  private log: { fd: number; bytes: bigint; offset: bigint } | null = null
  private features: bigint | null = null
  private isClosed = false
  /** changes that wait for the next shard */
  private waiting: (() => void)[] = []

  constructor(options: GuestOptions, line: GuestLine) {
    this.options = options
    this.line = line
  }

  /** Features are agreed on. */
  get hasFeatures(): boolean {
    return this.features !== null
  }

  get hasMemory(): boolean {
    return !this.memory.isEmpty
  }

  /** Frames flow in one direction at least. */
  get isRunning(): boolean {
    return this.rings.some((ring) => ring.isRunning)
  }

  /** What the guest takes unfinished: TAKES_* bits. */
  get offloads(): number {
    const features = this.features ?? 0n
    const takes = (bits: bigint, flag: number): number => ((features & bits) === bits ? flag : 0)
    if (!takes(wire.GUEST_CSUM, TAKES_CHECKSUM)) return 0
    return (
      TAKES_CHECKSUM |
      takes(wire.GUEST_TSO4, TAKES_TSO4) |
      takes(wire.GUEST_TSO6, TAKES_TSO6) |
      takes(wire.GUEST_USO4 | wire.GUEST_USO6, TAKES_USO)
    )
  }

  /** Tells a shard that knows nothing of everything. Rejects if it refuses. */
  async restore(): Promise<void> {
    const { features } = this
    const changes: Telling[] = this.memory.isEmpty ? [] : [this.memory.change()]
    if (this.isLogged) changes.push(this.logChange())
    for (const ring of this.rings)
      if (ring.isStarted && features !== null) changes.push(ring.start(features, this.options.isPolled))
    try {
      await Promise.all(changes.map(({ change, fds }) => this.line.share(change, fds)))
    } catch (error) {
      if (error instanceof ShardEnded) return // there will be another
      throw error
    }
    this.goOn()
  }

  close(): void {
    this.isClosed = true
    this.memory.close()
    for (const ring of this.rings) ring.close()
    this.holdLog(null)
    this.goOn()
  }

  // ---- features, memory, log ----

  async setFeatures(features: bigint): Promise<void> {
    requireOffered(features, this.options.features, 'features')
    const before = this.features
    if (before === features) return
    if (this.isRunning && before !== null && (before | wire.LOG_ALL) !== (features | wire.LOG_ALL))
      throw new ProtocolError('the peer changed features while rings run')
    this.features = features
    if ((features & wire.PROTOCOL_FEATURES) === 0n) for (const ring of this.rings) ring.isEnabled = true
    if (((before ?? 0n) & wire.LOG_ALL) !== (features & wire.LOG_ALL)) await this.tell(this.logChange())
    await this.tellRings(this.rings)
  }

  /** Takes the descriptors, one a region, unless it throws at once. */
  setMemory(regions: readonly Region[], fds: readonly number[]): Promise<void> {
    this.memory.set(regions, fds)
    return this.tellMemory()
  }

  /** Takes the descriptor unless it throws at once. */
  addMemory(region: Region, fd: number): Promise<void> {
    this.memory.add(region, fd)
    return this.tellMemory()
  }

  removeMemory(region: Region): Promise<void> {
    this.memory.remove(region)
    return this.tellMemory()
  }

  /** Takes the descriptor unless it throws at once. */
  setLog(fd: number, bytes: bigint, offset: bigint): Promise<unknown> {
    if (bytes === 0n || bytes > LOG_BYTES_MAX || offset > LOG_BYTES_MAX)
      throw new ProtocolError(`the peer sent a dirty log of ${bytes} bytes at ${offset}`)
    requireMemory(fd, offset + bytes, 'the dirty log')
    this.holdLog({ fd, bytes, offset })
    return this.isLogged ? this.tell(this.logChange()) : Promise.resolve()
  }

  private holdLog(log: { fd: number; bytes: bigint; offset: bigint } | null): void {
    if (this.log) native.close(this.log.fd)
    this.log = log
  }

  private get isLogged(): boolean {
    return this.log !== null && ((this.features ?? 0n) & wire.LOG_ALL) !== 0n
  }

  private logChange(): Telling {
    if (this.log === null || !this.isLogged) return { change: { set: 'log', bytes: '0', offset: '0' }, fds: [] }
    const { fd, bytes, offset } = this.log
    return { change: { set: 'log', bytes: String(bytes), offset: String(offset) }, fds: [fd] }
  }

  /** The device as at first, but for its memory: a front-end does not send again what it believes is known. */
  async reset(): Promise<void> {
    for (const ring of this.rings) {
      await this.stopRing(ring)
      ring.isEnabled = false
      ring.addresses = null
      ring.size = 0
    }
    this.features = null
  }

  // ---- rings ----

  async setSize(index: number, size: number): Promise<void> {
    const ring = this.ring(index)
    if (size < 1 || size > wire.RING_SIZE_MAX || (size & (size - 1)) !== 0)
      throw new ProtocolError(`ring ${index} of ${size} entries: not a power of two up to ${wire.RING_SIZE_MAX}`)
    if (ring.isStarted && size !== ring.size) throw new ProtocolError(`the peer changed ring ${index} while it runs`)
    ring.size = size
    if (!ring.isStarted) await this.tellRings([ring])
  }

  setPosition(index: number, position: number): void {
    const ring = this.ring(index)
    if (position > 0xffff) throw new ProtocolError(`ring ${index} at position ${position}: not 0..65535`)
    if (ring.isStarted) throw new ProtocolError(`the peer moved ring ${index} while it runs`)
    ring.position = position
  }

  setAddresses(addresses: VringAddresses): Promise<void> {
    const ring = this.ring(addresses.ring)
    ring.addresses = addresses
    return this.tellRings([ring])
  }

  enable(index: number, value: number): Promise<void> {
    const ring = this.ring(index)
    if (value > 1) throw new ProtocolError(`ring ${index} is neither enabled nor disabled by ${value}`)
    ring.isEnabled = value === 1
    return this.tellRings([ring])
  }

  /** Takes a kick, a call or the descriptor of errors, unless it throws at once; `fd` -1: there is none by intent. */
  setEvent(request: number, index: number, fd: number): Promise<void> {
    const ring = this.ring(index)
    if (fd >= 0) requireEvent(fd, `the descriptor of ${wire.requestName(request)} of ring ${index}`)
    if (request === wire.SET_VRING_ERR) {
      if (fd >= 0) native.close(fd) // errors end the connection, which tells more
      return Promise.resolve()
    }
    if (request === wire.SET_VRING_KICK) ring.setKick(fd)
    else ring.setCall(fd)
    return this.tellRings([ring])
  }

  /** Stops a ring; its position. */
  async stop(index: number): Promise<number> {
    const ring = this.ring(index)
    await this.stopRing(ring)
    return ring.position
  }

  private ring(index: number): VhostUserRing {
    const ring = this.rings[index]
    if (!ring) throw new ProtocolError(`the peer spoke of ring ${index}, there are ${wire.RINGS_MAX}`)
    return ring
  }

  private async stopRing(ring: VhostUserRing): Promise<void> {
    if (!ring.isStarted) {
      ring.stopped(ring.position)
      return
    }
    const change = { set: 'stop', ring: ring.index } as const
    let position = await this.tell({ change, fds: [] })
    while (position === null && !this.isClosed) position = await this.tell({ change, fds: [] })
    if (this.isClosed) return
    ring.stopped((position ?? 0) & 0xffff)
    this.line.changed()
  }

  // ---- the shard ----

  private async tellMemory(): Promise<void> {
    await this.tell(this.memory.change())
    await this.tellRings(this.rings.filter((ring) => !ring.isStarted))
  }

  /** Tells the shard of those rings that have all they need. */
  private async tellRings(rings: readonly VhostUserRing[]): Promise<void> {
    for (const ring of rings) {
      if (this.features === null || this.memory.isEmpty || !ring.isComplete || this.isClosed) continue
      await this.tell(ring.start(this.features, this.options.isPolled))
      if (!this.isClosed) this.line.changed()
    }
  }

  /**
   * Shares a change; its result. null: the shard ended before, and the next has been told of everything by `restore`.
   * @throws ProtocolError if the shard refuses it
   */
  private async tell({ change, fds }: Telling): Promise<number | null> {
    try {
      return await this.line.share(change, fds)
    } catch (error) {
      if (!(error instanceof ShardEnded))
        throw new ProtocolError(`${subject(change)} is refused: ${error instanceof Error ? error.message : error}`)
      if (!this.isClosed) await new Promise<void>((resolve) => this.waiting.push(resolve))
      return null
    }
  }

  private goOn(): void {
    const { waiting } = this
    this.waiting = []
    for (const resolve of waiting) resolve()
  }
}

/** Refuses bits that were not offered; else returns them. */
export function requireOffered(bits: bigint, offered: bigint, what: string): bigint {
  if ((bits & ~offered) !== 0n)
    throw new ProtocolError(`the peer took ${what} 0x${(bits & ~offered).toString(16)}, which are not offered`)
  return bits
}

function subject(change: GuestChange): string {
  if (change.set === 'memory') return 'the memory'
  return change.set === 'log' ? 'the dirty log' : `ring ${change.ring}`
}
