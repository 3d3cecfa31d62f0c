/**
 * A guest's side of vhost-user, without a guest: memory, split virtqueues and a virtio-net driver in this process, and
 * the engine of the addon beside it. The driver does as virtio 1.2 wants unless a test makes it do otherwise:
 * `descriptor`, `offer` and the views are there for that.
 *
 * Guest addresses begin at GUEST, front-end addresses at USER; `place` is a byte of the memory.
 */
import assert from 'node:assert/strict'
import { Pool } from '../../src/dataplane/burst.js'
import * as layout from '../../src/dataplane/layout.js'
import { check, native, RING_ENABLED } from '../../src/ports/native.js'

export const GUEST = 0x1_0000_0000n
export const USER = 0x7f12_3456_0000n
export const NEXT = 1
export const WRITE = 2
export const INDIRECT = 4
export const CSUM = 1n << 0n
export const HOST_TSO4 = 1n << 11n
export const HOST_TSO6 = 1n << 12n
export const HOST_ECN = 1n << 13n
export const HOST_USO = 1n << 56n
export const MRG_RXBUF = 1n << 15n
export const EVENT_IDX = 1n << 29n
export const VERSION_1 = 1n << 32n

const GEOMETRY: layout.Geometry = {
  smallSlots: 512,
  largeSlots: 64,
  ports: 16,
  fdbCapacity: 256,
  neighborCapacity: 256,
  connectionCapacity: 256,
  mappingCapacity: 256,
  puntBytes: 256,
  injectBytes: 256,
}

export interface Received {
  port: number
  bytes: Buffer
  /** of the packet's record, by the words of layout.ts */
  record: Int32Array
}

/** The engine over a small arena. One a process: opening another closes the first. */
export class Engine {
  readonly arena: layout.Arena
  readonly pool: Pool

  constructor() {
    const buffer = new ArrayBuffer(layout.arenaBytes(GEOMETRY))
    layout.formatArena(buffer, GEOMETRY)
    this.arena = layout.viewArena(buffer)
    check(native.attachArena(this.arena.bytes), 'arena')
    this.pool = new Pool(this.arena)
  }

  /** One turn: what has come, and what ports have ended, as `[port, errno]`. */
  receive(wait = 0): Received[] {
    const { arena } = this
    const count = native.receive(wait)
    const frames: Received[] = []
    for (const packet of arena.burst.subarray(0, count)) {
      const record = arena.records.slice(packet << layout.RECORD_SHIFT, (packet + 1) << layout.RECORD_SHIFT)
      const at = record[layout.OFFSET]
      frames.push({
        port: record[layout.INGRESS],
        bytes: Buffer.from(arena.bytes.slice(at, at + record[layout.LENGTH])),
        record,
      })
      this.pool.release(packet)
    }
    return frames
  }

  /** Turns until nothing comes any more. */
  receiveAll(): Received[] {
    const all: Received[] = []
    for (let frames = this.receive(); frames.length > 0; frames = this.receive()) all.push(...frames)
    return all
  }

  events(): [port: number, code: number][] {
    const { events, header } = this.arena
    const pairs: [number, number][] = []
    for (let i = 0; i < header[layout.HEADER_EVENT_COUNT]; i++)
      pairs.push([events[i * 2 + layout.EVENT_PORT], events[i * 2 + layout.EVENT_CODE]])
    return pairs
  }

  /** Sends frames in one call. */
  transmit(port: number, frames: readonly Uint8Array[], flags = 0, fields: [word: number, value: number][] = []): void {
    const { arena } = this
    for (const [i, bytes] of frames.entries()) {
      const packet = this.pool.take(bytes.length)
      assert.ok(packet >= 0)
      const record = packet << layout.RECORD_SHIFT
      arena.bytes.set(bytes, arena.records[record + layout.OFFSET])
      for (const [word, value] of fields) arena.records[record + word] = value
      arena.egress[i * 2 + layout.EGRESS_PACKET] = packet
      arena.egress[i * 2 + layout.EGRESS_PORT] = port | flags
    }
    native.transmit(frames.length)
  }

  counter(port: number, word: number): number {
    return this.arena.counters[(port << layout.COUNTER_SHIFT) + word]
  }

  drops(port: number, reason: number): number {
    return this.arena.drops[(port << layout.DROP_SHIFT) + reason]
  }

  /** Slots that nobody has given back. */
  slotsInUse(): number {
    const { header } = this.arena
    const free = header[layout.HEADER_FREE_SMALL_COUNT] + header[layout.HEADER_FREE_LARGE_COUNT]
    return GEOMETRY.smallSlots + GEOMETRY.largeSlots - free
  }

  close(): void {
    native.detachArena()
  }
}

/** A file that the guest and the engine share. */
export class GuestMemory {
  readonly fd: number
  readonly bytes: Buffer
  private used = 0

  /** @param file opened for reading and writing, in place of an anonymous one */
  constructor(size: number, file?: number) {
    this.fd = file ?? check(native.createMemory(size), 'memory')
    this.bytes = Buffer.from(check(native.mapMemory(this.fd, size), 'mapping'))
  }

  allocate(size: number, alignment = 16): number {
    const place = Math.ceil(this.used / alignment) * alignment
    assert.ok(place + size <= this.bytes.length, 'the guest has no memory left')
    this.used = place + size
    return place
  }

  /** Shares all of it with a port. */
  share(port: number): number {
    const words = BigUint64Array.of(GUEST, BigInt(this.bytes.length), USER, 0n)
    return native.setGuestMemory(port, words, [check(native.duplicate(this.fd), 'memory')])
  }

  close(): void {
    native.close(this.fd)
  }
}

export interface Settings {
  port: number
  ring: number
  size?: number
  features?: bigint
  /** available and used index to begin with */
  index?: number
}

export interface Part {
  place: number
  length: number
}

export interface Used {
  head: number
  length: number
}

/** A virtqueue in a guest's memory, and its two eventfds. */
export class Ring {
  readonly memory: GuestMemory
  readonly settings: Required<Settings>
  readonly descriptors: number
  readonly available: number
  readonly used: number
  readonly kick = check(native.createEvent(), 'kick')
  readonly call = check(native.createEvent(), 'call')
  /** what the driver has made available, and what it has seen used */
  availableIndex: number
  usedIndex: number
  private nextDescriptor = 0

  constructor(memory: GuestMemory, settings: Settings) {
    this.memory = memory
    this.settings = { size: 256, features: VERSION_1 | MRG_RXBUF, index: 0, ...settings }
    const { size, index } = this.settings
    this.descriptors = memory.allocate(size * 16)
    this.available = memory.allocate(size * 2 + 6)
    this.used = memory.allocate(size * 8 + 6)
    this.availableIndex = this.usedIndex = index
    memory.bytes.writeUInt16LE(index, this.available + 2)
    memory.bytes.writeUInt16LE(index, this.used + 2)
  }

  /** Hands the ring to the engine; returns its answer. */
  set(position = -1, flags = RING_ENABLED, change: { kick?: number; call?: number; log?: bigint } = {}): number {
    const { port, ring, size, features } = this.settings
    const places = [this.descriptors, this.available, this.used].map((place) => USER + BigInt(place))
    const addresses = BigUint64Array.of(features, ...places, change.log ?? GUEST + BigInt(this.used))
    const kick = change.kick ?? check(native.duplicate(this.kick), 'kick')
    const call = change.call ?? check(native.duplicate(this.call), 'call')
    return native.setRing(port, ring, addresses, size, position, flags, kick, call)
  }

  stop(): number {
    return native.stopRing(this.settings.port, this.settings.ring)
  }

  descriptor(index: number, address: bigint, length: number, flags: number, next = 0, table = this.descriptors): void {
    const at = table + index * 16
    const { bytes } = this.memory
    bytes.writeBigUInt64LE(BigInt.asUintN(64, address), at)
    bytes.writeUInt32LE(length, at + 8)
    bytes.writeUInt16LE(flags, at + 12)
    bytes.writeUInt16LE(next, at + 14)
  }

  /** Writes a chain into the table, from the next free descriptor on, and returns its head. */
  chain(parts: readonly Part[], writable: boolean): number {
    const { size } = this.settings
    const head = this.nextDescriptor
    for (const [i, { place, length }] of parts.entries()) {
      const at = (head + i) % size
      const more = i < parts.length - 1
      const flags = (writable ? WRITE : 0) | (more ? NEXT : 0)
      this.descriptor(at, GUEST + BigInt(place), length, flags, more ? (at + 1) % size : 0)
    }
    this.nextDescriptor = (head + parts.length) % size
    return head
  }

  /** The same in an indirect table. */
  indirect(parts: readonly Part[], writable: boolean): number {
    const table = this.memory.allocate(parts.length * 16)
    for (const [i, { place, length }] of parts.entries()) {
      const more = i < parts.length - 1
      const flags = (writable ? WRITE : 0) | (more ? NEXT : 0)
      this.descriptor(i, GUEST + BigInt(place), length, flags, more ? i + 1 : 0, table)
    }
    const head = this.nextDescriptor
    this.descriptor(head, GUEST + BigInt(table), parts.length * 16, INDIRECT)
    this.nextDescriptor = (head + 1) % this.settings.size
    return head
  }

  /** Makes a chain available; the engine is not told. */
  offer(head: number): void {
    const { bytes } = this.memory
    bytes.writeUInt16LE(head, this.available + 4 + (this.availableIndex % this.settings.size) * 2)
    this.setIndex(this.availableIndex + 1)
  }

  setIndex(index: number): void {
    this.availableIndex = index & 0xffff
    this.memory.bytes.writeUInt16LE(this.availableIndex, this.available + 2)
  }

  tell(): void {
    check(native.signalEvent(this.kick), 'kick')
  }

  /** What the device has given back since the last time. */
  takeUsed(): Used[] {
    const { bytes } = this.memory
    const all: Used[] = []
    for (; this.usedIndex !== bytes.readUInt16LE(this.used + 2); this.usedIndex = (this.usedIndex + 1) & 0xffff) {
      const at = this.used + 4 + (this.usedIndex % this.settings.size) * 8
      all.push({ head: bytes.readUInt32LE(at), length: bytes.readUInt32LE(at + 4) })
    }
    return all
  }

  /** Whether the device has called since the last time. */
  wasCalled(): boolean {
    return native.drainEvent(this.call) === 0
  }

  /** Flags of `used`: 1, no kick wanted. */
  get usedFlags(): number {
    return this.memory.bytes.readUInt16LE(this.used)
  }

  /** Available index at which a kick is wanted. */
  get kickEvent(): number {
    return this.memory.bytes.readUInt16LE(this.used + 4 + this.settings.size * 8)
  }

  set callEvent(index: number) {
    this.memory.bytes.writeUInt16LE(index, this.available + 4 + this.settings.size * 2)
  }

  set availableFlags(flags: number) {
    this.memory.bytes.writeUInt16LE(flags, this.available)
  }

  close(): void {
    native.close(this.kick)
    native.close(this.call)
  }
}

/** A virtio-net driver with one pair of queues, or more. */
export class Guest {
  readonly memory: GuestMemory
  readonly receiveRings: Ring[] = []
  readonly transmitRings: Ring[] = []
  readonly headerBytes: number
  private readonly port: number
  /** place of each receive buffer by its ring and head */
  private readonly buffers = new Map<Ring, Map<number, Part>>()

  constructor(
    port: number,
    { features = VERSION_1 | MRG_RXBUF, size = 256, queues = 1, bytes = 1 << 22, index = 0, file = -1 } = {},
  ) {
    this.port = port
    this.memory = new GuestMemory(bytes, file < 0 ? undefined : file)
    this.headerBytes = (features & (VERSION_1 | MRG_RXBUF)) === 0n ? 10 : 12
    for (let i = 0; i < queues; i++) {
      this.receiveRings.push(new Ring(this.memory, { port, ring: i * 2, size, features, index }))
      this.transmitRings.push(new Ring(this.memory, { port, ring: i * 2 + 1, size, features, index }))
    }
    check(native.attachPort(port, layout.KIND_VHOST_USER, -1, -1), 'port')
  }

  get rings(): Ring[] {
    return [...this.receiveRings, ...this.transmitRings]
  }

  /** Shares memory and rings. */
  connect(): this {
    check(this.memory.share(this.port), 'memory')
    for (const ring of this.rings) check(ring.set(), 'ring')
    return this
  }

  /** Puts a frame into the memory, its header before it, and returns where. */
  write(frame: Uint8Array, header: Uint8Array = new Uint8Array(12)): Part {
    const length = this.headerBytes + frame.length
    const place = this.memory.allocate(length)
    this.memory.bytes.set(header.subarray(0, this.headerBytes), place)
    this.memory.bytes.set(frame, place + this.headerBytes)
    return { place, length }
  }

  /** Sends a frame, in one descriptor, and kicks. */
  send(frame: Uint8Array, { queue = 0, header = new Uint8Array(12), kick = true } = {}): void {
    const ring = this.transmitRings[queue]
    ring.offer(ring.chain([this.write(frame, header)], false))
    if (kick) ring.tell()
  }

  /** Gives receive buffers. */
  give(count: number, length: number, queue = 0): void {
    const ring = this.receiveRings[queue]
    const buffers = this.buffers.get(ring) ?? new Map<number, Part>()
    this.buffers.set(ring, buffers)
    for (let i = 0; i < count; i++) {
      const part = { place: this.memory.allocate(length), length }
      const head = ring.chain([part], true)
      buffers.set(head, part)
      ring.offer(head)
    }
  }

  /** Frames that have arrived, header first. */
  take(queue = 0): Buffer[] {
    const ring = this.receiveRings[queue]
    const frames: Buffer[] = []
    const used = ring.takeUsed()
    for (let i = 0; i < used.length; ) {
      const first = this.bytesOf(ring, used[i])
      const count = this.headerBytes === 12 ? first.readUInt16LE(10) : 1
      assert.ok(count >= 1 && i + count <= used.length, `${count} buffers of ${used.length - i}`)
      frames.push(Buffer.concat(used.slice(i, i + count).map((one) => this.bytesOf(ring, one))))
      i += count
    }
    return frames
  }

  /** The same without the headers. */
  takeFrames(queue = 0): Buffer[] {
    return this.take(queue).map((frame) => frame.subarray(this.headerBytes))
  }

  private bytesOf(ring: Ring, used: Used): Buffer {
    const buffer = this.buffers.get(ring)?.get(used.head)
    assert.ok(buffer !== undefined && used.length <= buffer.length)
    return Buffer.from(this.memory.bytes.subarray(buffer.place, buffer.place + used.length))
  }

  close(): void {
    native.detachPort(this.port)
    for (const ring of this.rings) ring.close()
    this.memory.close()
  }
}

/** A frame of some length, told apart by its number. */
export function frameOf(number: number, length = 64): Buffer {
  const frame = Buffer.alloc(length, number & 0xff)
  Buffer.from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]).copy(frame)
  if (length >= 18) frame.writeUInt32BE(number, 14)
  return frame
}
