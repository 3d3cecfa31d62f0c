/**
 * A vhost-user front-end without a guest: connects to a port (or listens for one), says what a test orders, well or
 * badly formed, and reads the answers.
 *
 * Descriptors that are sent stay the test's: `memory` and `event` make them and keep them until `close`. `start` says
 * what QEMU says when a guest's driver starts, over memory whose rings are all zero: no driver has put anything there.
 */
import { rmSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { check, native } from '../../src/ports/native.js'
import * as wire from '../../src/ports/vhost-user-message.js'

export interface Reply {
  request: number
  payload: Buffer
  fds: number[]
}

/** Guest memory of tests: one region, seen by the front-end at USER. */
export const MEMORY_BYTES = 1 << 20
export const USER = 0x7f0000000000n
export const GUEST = 0x10000000n
export const FEATURES = wire.VERSION_1 | wire.MRG_RXBUF | wire.PROTOCOL_FEATURES

const DEADLINE_MILLIS = 10_000

export class FrontEnd {
  readonly fd: number
  private readonly own: number[] = []
  private rest: Buffer = Buffer.alloc(0)

  private constructor(fd: number) {
    this.fd = fd
  }

  static connect(path: string): FrontEnd {
    return new FrontEnd(check(native.connectUnix(path), path))
  }

  /** Listens on a path until a port has connected. */
  static async listen(path: string, seconds = 20): Promise<FrontEnd> {
    const listening = check(native.listenUnix(path, 0o600), path)
    try {
      const deadline = Date.now() + seconds * 1000
      for (;;) {
        const fd = native.accept(listening)
        if (fd >= 0) return new FrontEnd(fd)
        if (Date.now() > deadline) throw new Error(`nobody connected to ${path}`)
        await turn()
      }
    } finally {
      native.close(listening)
      rmSync(path)
    }
  }

  /** A descriptor of shared memory. */
  memory(bytes = MEMORY_BYTES): number {
    return this.keep(check(native.createMemory(bytes), 'memory'))
  }

  event(): number {
    return this.keep(check(native.createEvent(), 'event'))
  }

  keep(fd: number): number {
    this.own.push(fd)
    return fd
  }

  // ---- messages ----

  /** Sends bytes as they are. Returns false if they are not taken. */
  sendBytes(bytes: Buffer, fds: number[] = []): boolean {
    return native.sendMessage(this.fd, bytes, fds) >= 0
  }

  send(request: number, payload: Uint8Array = new Uint8Array(0), fds: number[] = [], flags = wire.VERSION): boolean {
    return this.sendBytes(message(request, payload, flags), fds)
  }

  /** The next answer; null: the connection was closed. */
  async receive(): Promise<Reply | null> {
    const into = Buffer.alloc(4096)
    const fds: number[] = []
    const deadline = Date.now() + DEADLINE_MILLIS
    for (;;) {
      const reply = this.cut(fds)
      if (reply) return reply
      const got = native.receiveMessage(this.fd, into)
      const length = typeof got === 'number' ? got : got[0]
      if (typeof got !== 'number') fds.push(...got.slice(1))
      if (length > 0) this.rest = Buffer.concat([this.rest, into.subarray(0, length)])
      else if (length !== -EAGAIN) return null
      else if (Date.now() > deadline) throw new Error('waited in vain for an answer')
      else await turn()
    }
  }

  /** Sends a request and returns its answer. */
  async ask(request: number, payload?: Uint8Array, fds?: number[], flags?: number): Promise<Reply> {
    this.send(request, payload, fds, flags)
    const reply = await this.receive()
    if (reply === null) throw new Error(`the connection was closed on ${wire.requestName(request)}`)
    if (reply.request !== request) throw new Error(`${wire.requestName(request)} was answered by ${reply.request}`)
    return reply
  }

  /** Sends a request and waits until it is done; its result, 0: well. Needs `greet` before. */
  async done(request: number, payload?: Uint8Array, fds?: number[]): Promise<bigint> {
    return (await this.ask(request, payload, fds, wire.VERSION | wire.FLAG_NEED_REPLY)).payload.readBigUInt64LE()
  }

  async askWord(request: number): Promise<bigint> {
    return (await this.ask(request)).payload.readBigUInt64LE()
  }

  /** Waits until the other side has closed the connection. */
  async seeClosed(): Promise<void> {
    while ((await this.receive()) !== null);
  }

  // ---- what QEMU says ----

  /** The first words: protocol features, all that are offered. */
  async greet(): Promise<void> {
    await this.askWord(wire.GET_FEATURES)
    const offered = await this.askWord(wire.GET_PROTOCOL_FEATURES)
    this.send(wire.SET_PROTOCOL_FEATURES, wire.wordPayload(offered))
    this.send(wire.SET_OWNER)
  }

  /** Shares memory and starts a pair of rings, each in a page of its own. Returns the memory's descriptor. */
  async start({ features = FEATURES, pair = 0 } = {}): Promise<number> {
    const fd = this.memory()
    await this.done(wire.SET_FEATURES, wire.wordPayload(features))
    await this.done(wire.SET_MEM_TABLE, tablePayload([{ guest: GUEST, bytes: BigInt(MEMORY_BYTES), user: USER }]), [fd])
    for (const ring of [pair * 2, pair * 2 + 1]) await this.startRing(ring)
    return fd
  }

  async startRing(ring: number, position = 0): Promise<void> {
    await this.done(wire.SET_VRING_NUM, wire.vringStatePayload(ring, 256))
    await this.done(wire.SET_VRING_BASE, wire.vringStatePayload(ring, position))
    await this.done(wire.SET_VRING_ADDR, addressesPayload(ring))
    await this.done(wire.SET_VRING_CALL, wire.wordPayload(BigInt(ring)), [this.event()])
    await this.done(wire.SET_VRING_KICK, wire.wordPayload(BigInt(ring)), [this.event()])
    await this.done(wire.SET_VRING_ENABLE, wire.vringStatePayload(ring, 1))
  }

  close(): void {
    for (const fd of [this.fd, ...this.own]) native.close(fd)
    this.own.length = 0
  }

  private cut(fds: number[]): Reply | null {
    const { rest } = this
    if (rest.length < wire.HEADER_BYTES) return null
    const end = wire.HEADER_BYTES + rest.readUInt32LE(8)
    if (rest.length < end) return null
    if (rest.readUInt32LE(4) !== (wire.VERSION | wire.FLAG_REPLY)) throw new Error(`flags ${rest.readUInt32LE(4)}`)
    this.rest = rest.subarray(end)
    return { request: rest.readUInt32LE(0), payload: rest.subarray(wire.HEADER_BYTES, end), fds: fds.splice(0) }
  }
}

/** A message's bytes; `bytes` lies about the payload's length. */
export function message(request: number, payload: Uint8Array, flags = wire.VERSION, bytes = payload.length): Buffer {
  const head = Buffer.alloc(wire.HEADER_BYTES)
  head.writeUInt32LE(request >>> 0, 0)
  head.writeUInt32LE(flags >>> 0, 4)
  head.writeUInt32LE(bytes >>> 0, 8)
  return Buffer.concat([head, payload])
}

export interface TestRegion {
  guest: bigint
  bytes: bigint
  user: bigint
  offset?: bigint
}

export function regionPayload({ guest, bytes, user, offset = 0n }: TestRegion): Buffer {
  const words = BigUint64Array.of(guest, bytes, user, offset)
  return Buffer.from(words.buffer)
}

export function tablePayload(regions: readonly TestRegion[], count = regions.length): Buffer {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(count)
  return Buffer.concat([head, ...regions.map(regionPayload)])
}

/** A region message of ADD_MEM_REG and REM_MEM_REG. */
export const oneRegionPayload = (region: TestRegion): Buffer => Buffer.concat([Buffer.alloc(8), regionPayload(region)])

/** Where the front-end sees the parts of a ring: 16 KiB each, 4 for each part. */
export const ringPlace = (ring: number): { descriptors: bigint; available: bigint; used: bigint } => {
  const start = USER + BigInt(ring) * 16384n
  return { descriptors: start, available: start + 8192n, used: start + 12288n }
}

export function addressesPayload(ring: number, flags = 0, places = ringPlace(ring)): Buffer {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(ring, 0)
  head.writeUInt32LE(flags, 4)
  const { descriptors, used, available } = places
  const log = GUEST + (used - USER)
  return Buffer.concat([head, Buffer.from(BigUint64Array.of(descriptors, used, available, log).buffer)])
}

const EAGAIN = 11
