/**
 * One front-end's connection: its messages, one strictly after another, become what the shard is told.
 *
 *   front-end ──message──> model (features, memory, rings, log) ──share──> shard ──applied──> answer ──> front-end
 *
 * The model holds every descriptor that the front-end gave and is still in use. It is changed first and then shared, so
 * that a shard that dies at any moment is replaced by one that is told the whole model (`restore`); a message that was
 * under way then waits for that and is done. The next message is read when the last is applied and answered: whoever
 * asked for an answer (REPLY_ACK) has it only when the shard works by the new state.
 *
 * A ring is told to the shard as soon as features, memory and its own pieces are there, in any order; disabled rings
 * too. With PROTOCOL_FEATURES rings begin disabled (SET_VRING_ENABLE), features without that bit enable them all; the
 * state is kept while a ring is stopped. Features cannot change while rings run, but for LOG_ALL, which begins and ends
 * the dirty log of a migration.
 *
 * Whatever breaks the protocol ends the connection with a sentence that says what; if an answer was asked for, it says
 * failure first. Nothing here ever throws to the outside. At most MESSAGES_A_TURN messages are handled before others
 * have their turn; a peer that does not read its answers is hung up on.
 *
 * We hold no descriptor of a ring between two bursts, so the in-flight memory that a front-end may ask for (it keeps it
 * for us over a crash) is made as libvhost-user lays it out, stays zero, and is not looked at when it comes back.
 */
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } from '../dataplane/port-table.js'
import { type GuestChange, ShardEnded, type Socket } from './device.js'
import { SystemFailure, check, native } from './native.js'
import { GuestMemory, REGIONS_MAX, requireEvent, requireMemory } from './vhost-user-memory.js'
import * as wire from './vhost-user-message.js'
import { type Message, MessageReader, ProtocolError } from './vhost-user-message.js'
import { VhostUserRing } from './vhost-user-ring.js'

const MESSAGES_A_TURN = 64
/** bytes of a dirty log: a bit a page of 4 KiB, so this is for 8 TiB of guest memory */
const LOG_BYTES_MAX = 1n << 28n
const STATUS_MAX = 0xffn
const MTU_MAX = 65535n

export interface SessionOptions {
  /** features of virtio and vhost that the port offers */
  features: bigint
  /** rings are asked without end */
  isPolled: boolean
}

/** What a session needs of its surroundings. */
export interface SessionLine extends Pick<Socket, 'share' | 'inject'> {
  /** a ring began or ended to run */
  changed(): void
  /** The connection is over, its descriptors are closed. `reason` null: the peer left. */
  ended(reason: string | null): void
}

export class VhostUserSession {
  /** the connection's descriptor */
  readonly fd: number
  private readonly options: SessionOptions
  private readonly line: SessionLine
  private readonly reader: MessageReader
  private readonly memory = new GuestMemory()
  private readonly rings = Array.from({ length: wire.RINGS_MAX }, (_, i) => new VhostUserRing(i))
  private log: { fd: number; bytes: bigint; offset: bigint } | null = null
  private features: bigint | null = null
  private protocolFeatures = 0n
  private status = 0n
  private watch = -1
  private isClosed = false
  /** a shard's end is waited over by these */
  private waiting: (() => void)[] = []

  /** Takes the connection over. */
  constructor(fd: number, options: SessionOptions, line: SessionLine) {
    this.fd = fd
    this.options = options
    this.line = line
    this.reader = new MessageReader(fd)
    this.listen()
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

  /** Tells a shard that knows nothing of all that the front-end has shared so far. */
  restore(): void {
    if (this.isClosed) return
    const told = this.tellAll()
    Promise.all(told).then(
      () => this.goOn(),
      (error) => {
        if (!(error instanceof ShardEnded)) this.end(sentence(error))
      },
    )
  }

  /** Lets go of everything, without a word to `ended`. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    native.unwatch(this.watch)
    this.reader.close()
    this.memory.close()
    for (const ring of this.rings) ring.close()
    this.setLog(null)
    native.close(this.fd)
    this.goOn()
  }

  private end(reason: string | null): void {
    if (this.isClosed) return
    this.close()
    this.line.ended(reason)
  }

  // ---- messages ----

  private listen(): void {
    const watch = native.watch(this.fd, () => void this.turn())
    if (watch >= 0) this.watch = watch
    else queueMicrotask(() => this.end(sentence(new SystemFailure(-watch, 'the connection'))))
  }

  /** Handles what has come. Never rejects. */
  private async turn(): Promise<void> {
    native.unwatch(this.watch)
    this.watch = -1
    try {
      for (let i = 0; i < MESSAGES_A_TURN; i++) {
        const message = this.reader.read()
        if (message === 'closed') return this.end(null)
        if (message === null) break
        await this.handle(message)
        if (this.isClosed) return
      }
      this.listen()
    } catch (error) {
      this.end(sentence(error))
    }
  }

  private async handle(message: Message): Promise<void> {
    const acknowledge = (result: bigint): boolean =>
      !message.needReply || !this.has(wire.PROTOCOL_REPLY_ACK) || this.reply(message.request, wire.wordPayload(result))
    try {
      wire.checkShape(message)
      const isAnswered = await this.obey(message)
      if (!this.isClosed && !isAnswered && !acknowledge(0n))
        throw new ProtocolError('the peer does not read its answers')
    } catch (error) {
      if (!this.isClosed) acknowledge(1n)
      throw error
    } finally {
      for (const fd of message.fds) native.close(fd)
    }
  }

  /** Does what a message says; true: it has been answered. */
  private async obey(message: Message): Promise<boolean> {
    const { request, payload, fds } = message
    switch (request) {
      case wire.GET_FEATURES:
        return this.answer(request, wire.wordPayload(this.options.features))
      case wire.SET_FEATURES:
        return this.setFeatures(payload.readBigUInt64LE())
      case wire.GET_PROTOCOL_FEATURES:
        return this.answer(request, wire.wordPayload(wire.OFFERED_PROTOCOL_FEATURES))
      case wire.SET_PROTOCOL_FEATURES:
        this.protocolFeatures = subset(payload.readBigUInt64LE(), wire.OFFERED_PROTOCOL_FEATURES, 'protocol features')
        return false
      case wire.GET_QUEUE_NUM:
        return this.answer(request, wire.wordPayload(BigInt(wire.QUEUE_PAIRS_MAX)))
      case wire.GET_MAX_MEM_SLOTS:
        return this.answer(request, wire.wordPayload(BigInt(REGIONS_MAX)))
      case wire.SET_OWNER:
      case wire.SET_LOG_FD: // would tell of a full log: it cannot be full
      case wire.SET_INFLIGHT_FD:
        return false
      case wire.SET_MEM_TABLE:
      case wire.ADD_MEM_REG:
      case wire.REM_MEM_REG:
        return this.setMemory(request, payload, fds)
      case wire.SET_LOG_BASE:
        return this.setLogBase(payload, fds)
      case wire.SEND_RARP:
        this.line.inject(rarp(payload.subarray(0, 6)))
        return false
      case wire.NET_SET_MTU:
        if (payload.readBigUInt64LE() > MTU_MAX)
          throw new ProtocolError(`the peer set an MTU of ${payload.readBigUInt64LE()}`)
        return false // the port's own limits frames
      case wire.GET_INFLIGHT_FD:
        return this.giveInflight(payload)
      case wire.RESET_OWNER:
      case wire.RESET_DEVICE:
        return this.reset()
      case wire.SET_STATUS:
        return this.setStatus(payload.readBigUInt64LE())
      case wire.GET_STATUS:
        return this.answer(request, wire.wordPayload(this.status))
      default:
        return this.obeyRing(message)
    }
  }

  private async obeyRing({ request, payload, fds }: Message): Promise<boolean> {
    switch (request) {
      case wire.SET_VRING_NUM:
        return this.setSize(wire.readVringState(payload))
      case wire.SET_VRING_BASE:
        return this.setPosition(wire.readVringState(payload))
      case wire.GET_VRING_BASE:
        return this.stop(wire.readVringState(payload).ring)
      case wire.SET_VRING_ENABLE:
        return this.enable(wire.readVringState(payload))
      case wire.SET_VRING_ADDR: {
        const addresses = wire.readVringAddresses(payload)
        const ring = this.ring(addresses.ring)
        ring.addresses = addresses
        return this.tellRings([ring])
      }
      default:
        return this.setEvent(request, payload, fds)
    }
  }

  private reply(request: number, payload: Uint8Array, fds: number[] = []): boolean {
    return wire.sendReply(this.fd, request, payload, fds)
  }

  private answer(request: number, payload: Uint8Array, fds: number[] = []): true {
    if (!this.isClosed && !this.reply(request, payload, fds))
      throw new ProtocolError('the peer does not read its answers')
    return true
  }

  private has(protocolFeature: bigint): boolean {
    return (this.protocolFeatures & protocolFeature) !== 0n
  }

  // ---- features, memory, log ----

  private async setFeatures(features: bigint): Promise<false> {
    subset(features, this.options.features, 'features')
    const before = this.features
    if (before === features) return false
    if (this.isRunning && before !== null && (before | wire.LOG_ALL) !== (features | wire.LOG_ALL))
      throw new ProtocolError('the peer changed features while rings run')
    this.features = features
    if ((features & wire.PROTOCOL_FEATURES) === 0n) for (const ring of this.rings) ring.isEnabled = true
    if (((before ?? 0n) & wire.LOG_ALL) !== (features & wire.LOG_ALL)) await this.tell(this.logChange())
    return this.tellRings(this.rings)
  }

  private async setMemory(request: number, payload: Buffer, fds: number[]): Promise<false> {
    if (request === wire.SET_MEM_TABLE) {
      const regions = wire.readTable(payload)
      if (regions.length !== fds.length)
        throw new ProtocolError(`the peer sent ${fds.length} descriptors for ${regions.length} memory regions`)
      this.memory.set(regions, fds)
      fds.length = 0
    } else if (request === wire.ADD_MEM_REG) {
      this.memory.add(wire.readRegion(payload, 8), fds[0] ?? -1)
      fds.length = 0
    } else {
      this.memory.remove(wire.readRegion(payload, 8))
    }
    await this.tell(this.memory.change())
    return this.tellRings(this.rings.filter((ring) => !ring.isStarted))
  }

  private async setLogBase(payload: Buffer, fds: number[]): Promise<true> {
    const bytes = payload.readBigUInt64LE(0)
    const offset = payload.readBigUInt64LE(8)
    if (bytes === 0n || bytes > LOG_BYTES_MAX || offset > LOG_BYTES_MAX)
      throw new ProtocolError(`the peer sent a dirty log of ${bytes} bytes at ${offset}`)
    requireMemory(fds[0] ?? -1, offset + bytes, 'the dirty log')
    this.setLog({ fd: fds.shift() ?? -1, bytes, offset })
    if (this.isLogged) await this.tell(this.logChange())
    return this.answer(wire.SET_LOG_BASE, wire.wordPayload(0n))
  }

  private setLog(log: { fd: number; bytes: bigint; offset: bigint } | null): void {
    if (this.log) native.close(this.log.fd)
    this.log = log
  }

  private get isLogged(): boolean {
    return this.log !== null && ((this.features ?? 0n) & wire.LOG_ALL) !== 0n
  }

  private logChange(): { change: GuestChange; fds: number[] } {
    if (this.log === null || !this.isLogged) return { change: { set: 'log', bytes: '0', offset: '0' }, fds: [] }
    const { fd, bytes, offset } = this.log
    return { change: { set: 'log', bytes: String(bytes), offset: String(offset) }, fds: [fd] }
  }

  private giveInflight(payload: Buffer): true {
    const queues = payload.readUInt16LE(16)
    const size = payload.readUInt16LE(18)
    if (queues < 1 || queues > wire.RINGS_MAX || size < 1 || size > wire.RING_SIZE_MAX)
      throw new ProtocolError(`the peer asked for in-flight memory of ${queues} rings of ${size}`)
    // of a ring: a head of 16 bytes and 16 for each descriptor, filled up to 64
    const bytes = queues * Math.ceil((16 + 16 * size) / 64) * 64
    const fd = check(native.createMemory(bytes), 'in-flight memory')
    const answer = Buffer.from(payload)
    answer.writeBigUInt64LE(BigInt(bytes), 0)
    answer.writeBigUInt64LE(0n, 8)
    try {
      return this.answer(wire.GET_INFLIGHT_FD, answer, [fd])
    } finally {
      native.close(fd)
    }
  }

  private setStatus(status: bigint): Promise<false> | false {
    if (status > STATUS_MAX) throw new ProtocolError(`the peer set the device status ${status}`)
    this.status = status
    return status === 0n ? this.reset() : false
  }

  /** The device as at first, but for its memory: a front-end does not send again what it believes is known. */
  private async reset(): Promise<false> {
    for (const ring of this.rings) {
      await this.stopRing(ring)
      ring.isEnabled = false
      ring.addresses = null
      ring.size = 0
    }
    this.features = null
    this.status = 0n
    return false
  }

  // ---- rings ----

  private ring(index: number): VhostUserRing {
    const ring = this.rings[index]
    if (!ring) throw new ProtocolError(`the peer spoke of ring ${index}, there are ${wire.RINGS_MAX}`)
    return ring
  }

  private async setSize({ ring: index, value }: { ring: number; value: number }): Promise<false> {
    const ring = this.ring(index)
    if (value < 1 || value > wire.RING_SIZE_MAX || (value & (value - 1)) !== 0)
      throw new ProtocolError(`ring ${index} of ${value} entries: not a power of two up to ${wire.RING_SIZE_MAX}`)
    if (ring.isStarted && value !== ring.size) throw new ProtocolError(`the peer changed ring ${index} while it runs`)
    ring.size = value
    return ring.isStarted ? false : this.tellRings([ring])
  }

  private setPosition({ ring: index, value }: { ring: number; value: number }): false {
    const ring = this.ring(index)
    if (value > 0xffff) throw new ProtocolError(`ring ${index} at position ${value}: not 0..65535`)
    if (ring.isStarted) throw new ProtocolError(`the peer moved ring ${index} while it runs`)
    ring.position = value
    return false
  }

  private enable({ ring: index, value }: { ring: number; value: number }): Promise<false> {
    const ring = this.ring(index)
    if (value > 1) throw new ProtocolError(`ring ${index} is neither enabled nor disabled by ${value}`)
    ring.isEnabled = value === 1
    return this.tellRings([ring])
  }

  private async setEvent(request: number, payload: Buffer, fds: number[]): Promise<false> {
    const { ring: index, without } = wire.readVringEvent(payload)
    const name = wire.requestName(request)
    const ring = this.ring(index)
    if (without !== (fds.length === 0))
      throw new ProtocolError(`the peer sent ${name} of ring ${index} ${without ? 'with' : 'without'} a descriptor`)
    if (!without) requireEvent(fds[0] ?? -1, `the descriptor of ${name} of ring ${index}`)
    if (request === wire.SET_VRING_ERR) return false // errors end the connection, which tells more
    const fd = fds.shift() ?? -1
    if (request === wire.SET_VRING_KICK) ring.setKick(fd)
    else ring.setCall(fd)
    return this.tellRings([ring])
  }

  /** Stops a ring and answers with its position. */
  private async stop(index: number): Promise<true> {
    const ring = this.ring(index)
    await this.stopRing(ring)
    return this.answer(wire.GET_VRING_BASE, wire.vringStatePayload(index, ring.position))
  }

  private async stopRing(ring: VhostUserRing): Promise<void> {
    if (ring.isStarted) {
      const change = { set: 'stop', ring: ring.index } as const
      let position = await this.tell({ change, fds: [] })
      while (position === null && !this.isClosed) position = await this.tell({ change, fds: [] })
      if (this.isClosed) return
      ring.stopped((position ?? 0) & 0xffff)
      this.line.changed()
    } else {
      ring.stopped(ring.position)
    }
  }

  /** Tells the shard of those rings that have all they need. */
  private async tellRings(rings: readonly VhostUserRing[]): Promise<false> {
    for (const ring of rings) {
      if (this.features === null || this.memory.isEmpty || !ring.isComplete || this.isClosed) continue
      await this.tell(ring.start(this.features, this.options.isPolled))
      if (!this.isClosed) this.line.changed()
    }
    return false
  }

  // ---- the shard ----

  /**
   * Shares a change; its result. null: the shard ended before, and the next has been told of everything by `restore`.
   * @throws ProtocolError if the shard refuses it
   */
  private async tell({ change, fds }: { change: GuestChange; fds: number[] }): Promise<number | null> {
    try {
      return await this.line.share(change, fds)
    } catch (error) {
      if (!(error instanceof ShardEnded)) throw new ProtocolError(`${subject(change)} is refused: ${sentence(error)}`)
      await new Promise<void>((resolve) => this.waiting.push(resolve))
      return null
    }
  }

  private tellAll(): Promise<number>[] {
    const { features } = this
    const changes = this.memory.isEmpty ? [] : [this.memory.change()]
    if (this.isLogged) changes.push(this.logChange())
    for (const ring of this.rings)
      if (ring.isStarted && features !== null) changes.push(ring.start(features, this.options.isPolled))
    return changes.map(({ change, fds }) => this.line.share(change, fds))
  }

  private goOn(): void {
    const { waiting } = this
    this.waiting = []
    for (const resolve of waiting) resolve()
  }
}

function subset(bits: bigint, offered: bigint, what: string): bigint {
  if ((bits & ~offered) !== 0n)
    throw new ProtocolError(`the peer took ${what} 0x${(bits & ~offered).toString(16)}, which are not offered`)
  return bits
}

function subject(change: GuestChange): string {
  if (change.set === 'memory') return 'the memory'
  return change.set === 'log' ? 'the dirty log' : `ring ${change.ring}`
}

const sentence = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** A RARP request of a host for itself (RFC 903), by which switches learn where it is now. */
function rarp(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(60)
  frame.fill(0xff, 0, 6)
  frame.set(mac, 6)
  frame.set([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], 12)
  frame.set(mac, 22)
  frame.set(mac, 32)
  return frame
}
