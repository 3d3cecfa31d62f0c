/**
 * A burst: the packets that are in work together. Stages take one, compact it to the packets that go on, and leave it.
 *
 * The packets themselves are slots of the arena's pool; a packet is its slot's number. Who takes a packet out of a
 * burst owns it: transmits it, or drops it by `Pool.drop`, which counts the reason and frees the slot.
 */
import * as layout from './layout.js'
import type { Arena } from './layout.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  COUNTER_SHIFT,
  DROP_SHIFT,
  HEADER_FREE_LARGE_COUNT,
  HEADER_FREE_SMALL_COUNT,
  HEADER_LARGE,
  HEADER_SMALL,
  HEADER_SMALL_SLOTS,
  INGRESS,
  LARGE_SLOT_BYTES,
  LENGTH,
  MAX_FRAME_BYTES,
  OFFSET,
  RECORD_SHIFT,
  REFERENCES,
  SLOT_HEADROOM,
  SMALL_SLOT_BYTES,
} = layout

export interface Burst {
  readonly packets: Int32Array
  count: number
}

/** The packet pool as TypeScript sees it: native code takes slots when it receives, both sides give them back. */
export class Pool {
  readonly bytes: Uint8Array
  readonly view: DataView // of the same bytes, for words at any place
  readonly records: Int32Array
  readonly counters: Float64Array
  private readonly header: Int32Array
  private readonly freeSmall: Int32Array
  private readonly freeLarge: Int32Array
  private readonly drops: Float64Array
  private readonly smallSlots: number

  constructor(arena: Arena) {
    this.bytes = arena.bytes
    this.view = new DataView(arena.bytes.buffer, arena.bytes.byteOffset, arena.bytes.byteLength)
    this.records = arena.records
    this.counters = arena.counters
    this.header = arena.header
    this.freeSmall = arena.freeSmall
    this.freeLarge = arena.freeLarge
    this.drops = arena.drops
    this.smallSlots = arena.header[HEADER_SMALL_SLOTS]
  }

  /** Empties the pool: every slot is free. For an arena that no native engine works on; the engine does it itself. */
  reset(): void {
    const small = this.smallSlots
    const large = this.freeLarge.length
    for (let i = 0; i < small; i++) this.freeSmall[i] = small - 1 - i
    for (let i = 0; i < large; i++) this.freeLarge[i] = small + large - 1 - i
    this.header[HEADER_FREE_SMALL_COUNT] = small
    this.header[HEADER_FREE_LARGE_COUNT] = large
  }

  /** Free slots of both sizes. */
  free(): number {
    return this.header[HEADER_FREE_SMALL_COUNT] + this.header[HEADER_FREE_LARGE_COUNT]
  }

  /**
   * A slot for a frame of `length` bytes, its record cleared, with one reference.
   * @returns the packet; -1 if the pool has none or the frame is longer than any slot
   */
  take(length: number): number {
    const small = length <= SMALL_SLOT_BYTES - SLOT_HEADROOM
    const word = small ? HEADER_FREE_SMALL_COUNT : HEADER_FREE_LARGE_COUNT
    const left = this.header[word] - 1
    if (left < 0 || length > MAX_FRAME_BYTES) return -1
    this.header[word] = left
    const packet = small ? this.freeSmall[left] : this.freeLarge[left]
    const record = packet << RECORD_SHIFT
    this.records.fill(0, record, record + (1 << RECORD_SHIFT))
    this.records[record + OFFSET] = this.slot(packet)
    this.records[record + LENGTH] = length
    this.records[record + REFERENCES] = 1
    return packet
  }

  /** Gives up one reference; the last one frees the slot. */
  release(packet: number): void {
    const holders = (packet << RECORD_SHIFT) + REFERENCES
    const left = this.records[holders] - 1
    this.records[holders] = left
    if (left !== 0) return
    if (packet < this.smallSlots) {
      const free = this.header[HEADER_FREE_SMALL_COUNT]
      this.freeSmall[free] = packet
      this.header[HEADER_FREE_SMALL_COUNT] = free + 1
    } else {
      const free = this.header[HEADER_FREE_LARGE_COUNT]
      this.freeLarge[free] = packet
      this.header[HEADER_FREE_LARGE_COUNT] = free + 1
    }
  }

  /** Drops a packet: counts the reason at the port it came in by, gives up the reference. */
  drop(packet: number, reason: number): void {
    this.countDrop(this.records[(packet << RECORD_SHIFT) + INGRESS], reason)
    this.release(packet)
  }

  countDrop(port: number, reason: number): void {
    const counter = (port << DROP_SHIFT) + reason
    this.drops[counter] = this.drops[counter] + 1
  }

  /** Adds to a port's counters, once a burst. */
  count(port: number, packetCounter: number, packets: number, bytes: number): void {
    const counter = (port << COUNTER_SHIFT) + packetCounter
    this.counters[counter] = this.counters[counter] + packets
    this.counters[counter + 1] = this.counters[counter + 1] + bytes
  }

  private slot(packet: number): number {
    if (packet < this.smallSlots) return this.header[HEADER_SMALL] + packet * SMALL_SLOT_BYTES + SLOT_HEADROOM
    return this.header[HEADER_LARGE] + (packet - this.smallSlots) * LARGE_SLOT_BYTES + SLOT_HEADROOM
  }
}
