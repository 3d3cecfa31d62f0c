/**
 * vhost-user on the wire: messages of a front-end (QEMU) and the answers to them. QEMU, docs/interop/vhost-user.rst.
 *
 * A message on the stream is a header of three words in host order, then a payload:
 *
 *   u32 request | u32 flags: bits 0-1 version 1, bit 2 reply, bit 3 an answer is wanted | u32 bytes of the payload
 *
 * Descriptors come with its first byte (SCM_RIGHTS). `MessageReader` reads exactly the header, then exactly the payload,
 * so the kernel keeps each message's descriptors apart; it takes what is there and goes on at the next call, however the
 * peer cuts its writes. `SHAPES` says of each request how long its payload is and how many descriptors it needs: what
 * does not fit is refused before anything of it is done.
 *
 * Limits: payload 4 KiB, 8 descriptors a message. Every refusal is a ProtocolError, in words; whoever gets one ends the
 * connection, since it is not known where the next message begins or what the peer believes.
 */
import { check, native } from './native.js'

/** Front-end requests that are served, by number. */
export const GET_FEATURES = 1
export const SET_FEATURES = 2
export const SET_OWNER = 3
export const RESET_OWNER = 4
export const SET_MEM_TABLE = 5
export const SET_LOG_BASE = 6
export const SET_LOG_FD = 7
export const SET_VRING_NUM = 8
export const SET_VRING_ADDR = 9
export const SET_VRING_BASE = 10
export const GET_VRING_BASE = 11
export const SET_VRING_KICK = 12
export const SET_VRING_CALL = 13
export const SET_VRING_ERR = 14
export const GET_PROTOCOL_FEATURES = 15
export const SET_PROTOCOL_FEATURES = 16
export const GET_QUEUE_NUM = 17
export const SET_VRING_ENABLE = 18
export const SEND_RARP = 19
export const NET_SET_MTU = 20
export const GET_INFLIGHT_FD = 31
export const SET_INFLIGHT_FD = 32
export const RESET_DEVICE = 34
export const GET_MAX_MEM_SLOTS = 36
export const ADD_MEM_REG = 37
export const REM_MEM_REG = 38
export const SET_STATUS = 39
export const GET_STATUS = 40

// Features of virtio-net (virtio 1.2, 5.1.3) and of the ring (6), and two of vhost's own.
export const CSUM = 1n << 0n // the guest may send unfinished checksums
export const GUEST_CSUM = 1n << 1n // and takes them
export const MTU = 1n << 3n
export const GUEST_TSO4 = 1n << 7n
export const GUEST_TSO6 = 1n << 8n
export const GUEST_ECN = 1n << 9n
export const HOST_TSO4 = 1n << 11n
export const HOST_TSO6 = 1n << 12n
export const HOST_ECN = 1n << 13n
export const MRG_RXBUF = 1n << 15n
export const GUEST_ANNOUNCE = 1n << 21n
export const MQ = 1n << 22n
export const LOG_ALL = 1n << 26n // vhost: written pages are noted in the dirty log
export const ANY_LAYOUT = 1n << 27n
export const INDIRECT_DESC = 1n << 28n
export const EVENT_IDX = 1n << 29n
export const PROTOCOL_FEATURES = 1n << 30n // vhost-user: there are features of the protocol itself
export const VERSION_1 = 1n << 32n
export const GUEST_USO4 = 1n << 54n
export const GUEST_USO6 = 1n << 55n
export const HOST_USO = 1n << 56n

const PLAIN_FEATURES =
  VERSION_1 |
  MRG_RXBUF |
  INDIRECT_DESC |
  EVENT_IDX |
  ANY_LAYOUT |
  MQ |
  MTU |
  GUEST_ANNOUNCE |
  LOG_ALL |
  PROTOCOL_FEATURES
const OFFLOAD_FEATURES =
  CSUM |
  GUEST_CSUM |
  HOST_TSO4 |
  HOST_TSO6 |
  HOST_ECN |
  HOST_USO |
  GUEST_TSO4 |
  GUEST_TSO6 |
  GUEST_ECN |
  GUEST_USO4 |
  GUEST_USO6

/** What a port offers: the same for its whole life, since a front-end that comes back must find what it knew. */
export const offeredFeatures = (offloads: boolean): bigint => PLAIN_FEATURES | (offloads ? OFFLOAD_FEATURES : 0n)

// Features of the protocol.
export const PROTOCOL_MQ = 1n << 0n
export const PROTOCOL_LOG_SHMFD = 1n << 1n
export const PROTOCOL_RARP = 1n << 2n
export const PROTOCOL_REPLY_ACK = 1n << 3n
export const PROTOCOL_NET_MTU = 1n << 4n
export const PROTOCOL_INFLIGHT_SHMFD = 1n << 12n
export const PROTOCOL_RESET_DEVICE = 1n << 13n
export const PROTOCOL_CONFIGURE_MEM_SLOTS = 1n << 15n
export const PROTOCOL_STATUS = 1n << 16n
export const OFFERED_PROTOCOL_FEATURES =
  PROTOCOL_MQ |
  PROTOCOL_LOG_SHMFD |
  PROTOCOL_RARP |
  PROTOCOL_REPLY_ACK |
  PROTOCOL_NET_MTU |
  PROTOCOL_INFLIGHT_SHMFD |
  PROTOCOL_RESET_DEVICE |
  PROTOCOL_CONFIGURE_MEM_SLOTS |
  PROTOCOL_STATUS

export const QUEUE_PAIRS_MAX = 16
export const RINGS_MAX = QUEUE_PAIRS_MAX * 2
/** Entries of a ring: a power of two up to this. */
export const RING_SIZE_MAX = 1024
/** Regions in one SET_MEM_TABLE; each has its descriptor. */
export const TABLE_REGIONS_MAX = 8

export const HEADER_BYTES = 12
const PAYLOAD_MAX = 4096
const DESCRIPTORS_MAX = 8
export const VERSION = 1
const VERSION_MASK = 3
export const FLAG_REPLY = 4
export const FLAG_NEED_REPLY = 8

/** The peer broke the protocol: ends the connection with this sentence. */
export class ProtocolError extends Error {
  constructor(sentence: string) {
    super(sentence)
    this.name = 'ProtocolError'
  }
}

export interface Message {
  request: number
  /** an answer is wanted, if REPLY_ACK was agreed on */
  needReply: boolean
  payload: Buffer
  /** descriptors: whoever uses one takes it out, the others are closed */
  fds: number[]
}

interface Shape {
  name: string
  /** lengths that the payload may have */
  bytes: readonly number[]
  /** descriptors: fewest and most */
  fds: readonly [fewest: number, most: number]
}

const NOTHING = { bytes: [0], fds: [0, 0] } as const
const WORD = { bytes: [8], fds: [0, 0] } as const
const EVENT = { bytes: [8], fds: [0, 1] } as const
/** QEMU sends the description of 20 bytes with the padding of its own structure. */
const INFLIGHT_BYTES = [20, 24]
const TABLE_BYTES = Array.from({ length: TABLE_REGIONS_MAX }, (_, i) => 8 + 32 * (i + 1))

const SHAPES = new Map<number, Shape>([
  [GET_FEATURES, { name: 'GET_FEATURES', ...NOTHING }],
  [SET_FEATURES, { name: 'SET_FEATURES', ...WORD }],
  [SET_OWNER, { name: 'SET_OWNER', ...NOTHING }],
  [RESET_OWNER, { name: 'RESET_OWNER', ...NOTHING }],
  [SET_MEM_TABLE, { name: 'SET_MEM_TABLE', bytes: TABLE_BYTES, fds: [1, TABLE_REGIONS_MAX] }],
  [SET_LOG_BASE, { name: 'SET_LOG_BASE', bytes: [16], fds: [1, 1] }],
  [SET_LOG_FD, { name: 'SET_LOG_FD', bytes: [0, 8], fds: [0, 1] }],
  [SET_VRING_NUM, { name: 'SET_VRING_NUM', ...WORD }],
  [SET_VRING_ADDR, { name: 'SET_VRING_ADDR', bytes: [40], fds: [0, 0] }],
  [SET_VRING_BASE, { name: 'SET_VRING_BASE', ...WORD }],
  [GET_VRING_BASE, { name: 'GET_VRING_BASE', ...WORD }],
  [SET_VRING_KICK, { name: 'SET_VRING_KICK', ...EVENT }],
  [SET_VRING_CALL, { name: 'SET_VRING_CALL', ...EVENT }],
  [SET_VRING_ERR, { name: 'SET_VRING_ERR', ...EVENT }],
  [GET_PROTOCOL_FEATURES, { name: 'GET_PROTOCOL_FEATURES', ...NOTHING }],
  [SET_PROTOCOL_FEATURES, { name: 'SET_PROTOCOL_FEATURES', ...WORD }],
  [GET_QUEUE_NUM, { name: 'GET_QUEUE_NUM', ...NOTHING }],
  [SET_VRING_ENABLE, { name: 'SET_VRING_ENABLE', ...WORD }],
  [SEND_RARP, { name: 'SEND_RARP', ...WORD }],
  [NET_SET_MTU, { name: 'NET_SET_MTU', ...WORD }],
  [GET_INFLIGHT_FD, { name: 'GET_INFLIGHT_FD', bytes: INFLIGHT_BYTES, fds: [0, 0] }],
  [SET_INFLIGHT_FD, { name: 'SET_INFLIGHT_FD', bytes: INFLIGHT_BYTES, fds: [1, 1] }],
  [RESET_DEVICE, { name: 'RESET_DEVICE', ...NOTHING }],
  [GET_MAX_MEM_SLOTS, { name: 'GET_MAX_MEM_SLOTS', ...NOTHING }],
  [ADD_MEM_REG, { name: 'ADD_MEM_REG', bytes: [40], fds: [1, 1] }],
  [REM_MEM_REG, { name: 'REM_MEM_REG', bytes: [40], fds: [0, 1] }], // one that comes is closed, as the text allows
  [SET_STATUS, { name: 'SET_STATUS', ...WORD }],
  [GET_STATUS, { name: 'GET_STATUS', ...NOTHING }],
])

export const requestName = (request: number): string => SHAPES.get(request)?.name ?? `request ${request}`

/** Refuses a message that is unknown or not of its request's shape. */
export function checkShape({ request, payload, fds }: Message): void {
  const shape = SHAPES.get(request)
  if (!shape) throw new ProtocolError(`the peer sent request ${request}, which is not served`)
  if (!shape.bytes.includes(payload.length))
    throw new ProtocolError(`the peer sent ${shape.name} with ${payload.length} bytes, not ${shape.bytes.join(' or ')}`)
  const [fewest, most] = shape.fds
  if (fds.length < fewest || fds.length > most) {
    const wanted = fewest === most ? `${fewest}` : `${fewest} to ${most}`
    throw new ProtocolError(`the peer sent ${shape.name} with ${fds.length} descriptors, not ${wanted}`)
  }
}

/** Reads messages from a connection, which stays its owner's. */
export class MessageReader {
  private readonly fd: number
  private readonly header = Buffer.alloc(HEADER_BYTES)
  private payload: Buffer | null = null
  private have = 0 // bytes of the header, or of the payload once there is one
  private fds: number[] = []

  constructor(fd: number) {
    this.fd = fd
  }

  /**
   * The next message; null: not all of it is there yet; 'closed': the peer is gone.
   * @throws ProtocolError; SystemFailure if the connection broke
   */
  read(): Message | null | 'closed' {
    if (this.payload === null) {
      const state = this.fill(this.header)
      if (state !== 'whole') return state
      this.payload = Buffer.alloc(this.payloadBytes())
      this.have = 0
    }
    const state = this.fill(this.payload)
    if (state !== 'whole') return state
    const message = {
      request: this.header.readUInt32LE(0),
      needReply: (this.header.readUInt32LE(4) & FLAG_NEED_REPLY) !== 0,
      payload: this.payload,
      fds: this.fds,
    }
    this.payload = null
    this.have = 0
    this.fds = []
    return message
  }

  /** Lets go of the descriptors of a message that has not come to its end. */
  close(): void {
    for (const fd of this.fds) native.close(fd)
    this.fds = []
  }

  private payloadBytes(): number {
    const flags = this.header.readUInt32LE(4)
    const bytes = this.header.readUInt32LE(8)
    const name = requestName(this.header.readUInt32LE(0))
    if ((flags & VERSION_MASK) !== VERSION)
      throw new ProtocolError(`the peer sent ${name} of version ${flags & VERSION_MASK}, not 1`)
    if ((flags & FLAG_REPLY) !== 0) throw new ProtocolError(`the peer sent ${name} as an answer to nothing`)
    if (bytes > PAYLOAD_MAX)
      throw new ProtocolError(`the peer sent ${name} with ${bytes} bytes, more than ${PAYLOAD_MAX}`)
    return bytes
  }

  private fill(into: Buffer): 'whole' | null | 'closed' {
    while (this.have < into.length) {
      const got = native.receiveMessage(this.fd, into.subarray(this.have))
      const length = typeof got === 'number' ? got : got[0]
      if (typeof got !== 'number') this.fds.push(...got.slice(1))
      if (length === -EAGAIN) return null
      if (length === 0 || length === -ECONNRESET) return this.ended()
      this.have += check(length, 'the connection')
      if (this.fds.length > DESCRIPTORS_MAX)
        throw new ProtocolError(`the peer sent ${this.fds.length} descriptors, more than ${DESCRIPTORS_MAX}`)
    }
    return 'whole'
  }

  private ended(): 'closed' {
    if (this.have > 0 || this.payload !== null) throw new ProtocolError('the connection ended within a message')
    return 'closed'
  }
}

/** Sends an answer; false: the peer does not read, or is gone. */
export function sendReply(fd: number, request: number, payload: Uint8Array, fds: number[] = []): boolean {
  const bytes = Buffer.alloc(HEADER_BYTES + payload.length)
  bytes.writeUInt32LE(request, 0)
  bytes.writeUInt32LE(VERSION | FLAG_REPLY, 4)
  bytes.writeUInt32LE(payload.length, 8)
  bytes.set(payload, HEADER_BYTES)
  return native.sendMessage(fd, bytes, fds) === 0
}

// ---- payloads ----

export const wordPayload = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}

/** A ring's number and a value. */
export const readVringState = (payload: Buffer): { ring: number; value: number } => ({
  ring: payload.readUInt32LE(0),
  value: payload.readUInt32LE(4),
})

export const vringStatePayload = (ring: number, value: number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt32LE(ring, 0)
  bytes.writeUInt32LE(value, 4)
  return bytes
}

/** The ring of an event: its number, and whether there is no descriptor by intent. */
export const readVringEvent = (payload: Buffer): { ring: number; without: boolean } => {
  const word = payload.readBigUInt64LE()
  return { ring: Number(word & 0xffn), without: (word & 0x100n) !== 0n }
}

export interface VringAddresses {
  ring: number
  /** the used ring is written to the dirty log, at `log` */
  logged: boolean
  descriptors: bigint
  used: bigint
  available: bigint
  log: bigint
}

export const readVringAddresses = (payload: Buffer): VringAddresses => ({
  ring: payload.readUInt32LE(0),
  logged: (payload.readUInt32LE(4) & 1) !== 0,
  descriptors: payload.readBigUInt64LE(8),
  used: payload.readBigUInt64LE(16),
  available: payload.readBigUInt64LE(24),
  log: payload.readBigUInt64LE(32),
})

export interface Region {
  guest: bigint
  bytes: bigint
  user: bigint
  offset: bigint
}

/** One region description of 32 bytes. */
export const readRegion = (payload: Buffer, at: number): Region => ({
  guest: payload.readBigUInt64LE(at),
  bytes: payload.readBigUInt64LE(at + 8),
  user: payload.readBigUInt64LE(at + 16),
  offset: payload.readBigUInt64LE(at + 24),
})

/** The regions of SET_MEM_TABLE. */
export function readTable(payload: Buffer): Region[] {
  const count = payload.readUInt32LE(0)
  if (payload.length !== 8 + 32 * count)
    throw new ProtocolError(`the peer sent SET_MEM_TABLE of ${count} regions with ${payload.length} bytes`)
  return Array.from({ length: count }, (_, i) => readRegion(payload, 8 + 32 * i))
}

const EAGAIN = 11
const ECONNRESET = 104
