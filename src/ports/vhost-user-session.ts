/**
 * One front-end's connection: its messages, one strictly after another, become what the shard is told.
 *
 *   front-end ──message──> guest (features, memory, rings, log) ──share──> shard ──applied──> answer ──> front-end
 *
 * What a message means for the guest is in `vhost-user-guest.ts`. The next is read when the last has been applied and
 * answered: whoever asked for an answer (REPLY_ACK) has it only when the shard works by the new state.
 *
 * Whatever breaks the protocol ends the connection with a sentence that says what; if an answer was asked for, it says
 * failure first. Nothing here ever throws to the outside. At most MESSAGES_A_TURN messages are handled before others
 * have their turn; a peer that does not read its answers is hung up on.
 *
 * We hold no descriptor of a ring between two bursts, so the in-flight memory that a front-end may ask for (it keeps it
 * for us over a crash) is made as libvhost-user lays it out, stays zero, and is not looked at when it comes back.
 */
import type { Socket } from './device.js'
import { SystemFailure, check, native } from './native.js'
import { type GuestLine, type GuestOptions, VhostUserGuest, requireOffered } from './vhost-user-guest.js'
import { REGIONS_MAX } from './vhost-user-memory.js'
import * as wire from './vhost-user-message.js'
import { type Message, MessageReader, ProtocolError } from './vhost-user-message.js'

const MESSAGES_A_TURN = 64
const STATUS_MAX = 0xffn
const MTU_MAX = 65535n

/** What a session needs of its surroundings. */
export interface SessionLine extends GuestLine, Pick<Socket, 'inject'> {
  /** The connection is over, its descriptors are closed. `reason` null: the peer left. */
  ended(reason: string | null): void
}

export class VhostUserSession {
  /** the connection's descriptor */
  readonly fd: number
  readonly guest: VhostUserGuest
  private readonly features: bigint
  private readonly line: SessionLine
  private readonly reader: MessageReader
  private protocolFeatures = 0n
  private status = 0n
  private watch = -1
  private isClosed = false

  /** Takes the connection over. */
  constructor(fd: number, options: GuestOptions, line: SessionLine) {
    this.fd = fd
    this.features = options.features
    this.line = line
    this.guest = new VhostUserGuest(options, line)
    this.reader = new MessageReader(fd)
    this.listen()
  }

  /** Tells a shard that knows nothing of all that the front-end has shared so far. */
  restore(): void {
    this.guest.restore().catch((error: unknown) => this.end(sentence(error)))
  }

  /** Lets go of everything, without a word to `ended`. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    native.unwatch(this.watch)
    this.reader.close()
    this.guest.close()
    native.close(this.fd)
  }

  private end(reason: string | null): void {
    if (this.isClosed) return
    this.close()
    this.line.ended(reason)
  }

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
    try {
      wire.checkShape(message)
      const isAnswered = await this.obey(message)
      if (!isAnswered) this.acknowledge(message, 0n)
    } catch (error) {
      if (!this.isClosed) this.acknowledge(message, 1n)
      throw error
    } finally {
      for (const fd of message.fds) native.close(fd)
    }
  }

  private acknowledge({ request, needReply }: Message, result: bigint): void {
    if (needReply && (this.protocolFeatures & wire.PROTOCOL_REPLY_ACK) !== 0n)
      this.answer(request, wire.wordPayload(result))
  }

  private answer(request: number, payload: Uint8Array, fds: number[] = []): true {
    if (!this.isClosed && !wire.sendReply(this.fd, request, payload, fds))
      throw new ProtocolError('the peer does not read its answers')
    return true
  }

  private answerWord(request: number, value: bigint): true {
    return this.answer(request, wire.wordPayload(value))
  }

  /** Does what a message says; true: it has been answered. */
  private async obey(message: Message): Promise<boolean> {
    const { request, payload } = message
    switch (request) {
      case wire.GET_FEATURES:
        return this.answerWord(request, this.features)
      case wire.GET_PROTOCOL_FEATURES:
        return this.answerWord(request, wire.OFFERED_PROTOCOL_FEATURES)
      case wire.GET_QUEUE_NUM:
        return this.answerWord(request, BigInt(wire.QUEUE_PAIRS_MAX))
      case wire.GET_MAX_MEM_SLOTS:
        return this.answerWord(request, BigInt(REGIONS_MAX))
      case wire.GET_STATUS:
        return this.answerWord(request, this.status)
      case wire.GET_INFLIGHT_FD:
        return this.giveInflight(payload)
      case wire.GET_VRING_BASE: {
        const { ring } = wire.readVringState(payload)
        return this.answer(request, wire.vringStatePayload(ring, await this.guest.stop(ring)))
      }
      case wire.SET_LOG_BASE: {
        const [fd = -1] = message.fds
        const told = this.guest.setLog(fd, payload.readBigUInt64LE(0), payload.readBigUInt64LE(8))
        message.fds.length = 0
        await told
        return this.answerWord(request, 0n)
      }
      default:
        await this.apply(message)
        return false
    }
  }

  /** Messages that have no answer of their own. */
  private apply(message: Message): Promise<void> | void {
    const { guest } = this
    const { request, payload } = message
    switch (request) {
      case wire.SET_FEATURES:
        return guest.setFeatures(payload.readBigUInt64LE())
      case wire.SET_PROTOCOL_FEATURES: {
        const { OFFERED_PROTOCOL_FEATURES } = wire
        this.protocolFeatures = requireOffered(
          payload.readBigUInt64LE(),
          OFFERED_PROTOCOL_FEATURES,
          'protocol features',
        )
        return
      }
      case wire.SET_MEM_TABLE:
      case wire.ADD_MEM_REG:
      case wire.REM_MEM_REG:
        return this.setMemory(message)
      case wire.SEND_RARP:
        this.line.inject(rarp(payload.subarray(0, 6)))
        return
      case wire.NET_SET_MTU: // the port's own limits frames
        if (payload.readBigUInt64LE() > MTU_MAX)
          throw new ProtocolError(`the peer set an MTU of ${payload.readBigUInt64LE()}`)
        return
      case wire.SET_STATUS:
        return this.setStatus(payload.readBigUInt64LE())
      case wire.RESET_OWNER:
      case wire.RESET_DEVICE:
        return this.setStatus(0n)
      case wire.SET_OWNER:
      case wire.SET_LOG_FD: // would tell of a full log: it cannot be full
      case wire.SET_INFLIGHT_FD:
        return
      default:
        return this.applyRing(message)
    }
  }

  private applyRing(message: Message): Promise<void> | void {
    const { guest } = this
    const { request, payload } = message
    if (request === wire.SET_VRING_ADDR) return guest.setAddresses(wire.readVringAddresses(payload))
    if (request === wire.SET_VRING_KICK || request === wire.SET_VRING_CALL || request === wire.SET_VRING_ERR)
      return this.setEvent(message)
    const { ring, value } = wire.readVringState(payload)
    if (request === wire.SET_VRING_NUM) return guest.setSize(ring, value)
    if (request === wire.SET_VRING_BASE) return guest.setPosition(ring, value)
    return guest.enable(ring, value)
  }

  private setMemory({ request, payload, fds }: Message): Promise<void> {
    if (request === wire.REM_MEM_REG) return this.guest.removeMemory(wire.readRegion(payload, 8))
    const regions = request === wire.ADD_MEM_REG ? [wire.readRegion(payload, 8)] : wire.readTable(payload)
    if (regions.length !== fds.length)
      throw new ProtocolError(`the peer sent ${fds.length} descriptors for ${regions.length} memory regions`)
    const told =
      request === wire.ADD_MEM_REG ? this.guest.addMemory(regions[0], fds[0]) : this.guest.setMemory(regions, [...fds])
    fds.length = 0 // taken
    return told
  }

  private setEvent({ request, payload, fds }: Message): Promise<void> {
    const { ring, without } = wire.readVringEvent(payload)
    if (without !== (fds.length === 0)) {
      const how = without ? 'with' : 'without'
      throw new ProtocolError(`the peer sent ${wire.requestName(request)} of ring ${ring} ${how} a descriptor`)
    }
    const told = this.guest.setEvent(request, ring, fds[0] ?? -1)
    fds.length = 0 // taken
    return told
  }

  private setStatus(status: bigint): Promise<void> | void {
    if (status > STATUS_MAX) throw new ProtocolError(`the peer set the device status ${status}`)
    this.status = status
    if (status === 0n) return this.guest.reset()
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
