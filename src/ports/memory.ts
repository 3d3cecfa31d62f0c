/**
 * Memory ports: a driver without devices, for tests and micro-benchmarks. What is handed in is received in bursts, what
 * is transmitted is handed back as bytes, with the VLAN tag in place, as a device would see it.
 *
 * Segmentation and checksums are native code's work: such frames are handed back whole, and `flags` tells what was
 * asked.
 */
import type { Driver } from '../dataplane/loop.js'
import { Pool } from '../dataplane/burst.js'
import {
  type Arena,
  BURST_CAPACITY,
  EGRESS_PACKET,
  EGRESS_PORT,
  EGRESS_PORT_MASK,
  EGRESS_STRIDE,
  EGRESS_TAGGED,
  INGRESS,
  LENGTH,
  OFFSET,
  RECORD_SHIFT,
  TCI,
  TRANSMITTED_PACKETS,
} from '../dataplane/layout.js'

export interface SentFrame {
  port: number
  bytes: Uint8Array
  /** EGRESS_* bits that the pipeline asked for */
  flags: number
}

export class MemoryDriver implements Driver {
  /** frames sent, in their order, until somebody takes them out */
  readonly sent: SentFrame[] = []
  private readonly arena: Arena
  private readonly pool: Pool
  private readonly waiting: { port: number; bytes: Uint8Array; fields: [field: number, value: number][] }[] = []

  constructor(arena: Arena) {
    this.arena = arena
    this.pool = new Pool(arena)
    this.pool.reset()
  }

  /**
   * Hands in a frame, as if the port had received it.
   * @param fields record fields that a device would have set: TAG, OFFLOAD, SEGMENT_BYTES and so on
   */
  give(port: number, bytes: Uint8Array, fields: [field: number, value: number][] = []): void {
    this.waiting.push({ port, bytes, fields })
  }

  receive(): number {
    let count = 0
    for (let next = this.waiting[0]; next !== undefined && count < BURST_CAPACITY; next = this.waiting[0]) {
      const packet = this.pool.take(next.bytes.length)
      if (packet < 0) break
      this.waiting.shift()
      const record = packet << RECORD_SHIFT
      this.arena.bytes.set(next.bytes, this.arena.records[record + OFFSET])
      this.arena.records[record + INGRESS] = next.port
      for (const [field, value] of next.fields) this.arena.records[record + field] = value
      this.arena.burst[count++] = packet
    }
    return count
  }

  transmit(pairs: number): void {
    const { bytes, egress, records } = this.arena
    for (let i = 0; i < pairs; i++) {
      const packet = egress[i * EGRESS_STRIDE + EGRESS_PACKET]
      const word = egress[i * EGRESS_STRIDE + EGRESS_PORT]
      const record = packet << RECORD_SHIFT
      const frame = bytes.slice(records[record + OFFSET], records[record + OFFSET] + records[record + LENGTH])
      const tci = records[record + TCI]
      const tagged = (word & EGRESS_TAGGED) !== 0
      const port = word & EGRESS_PORT_MASK
      this.sent.push({
        port,
        bytes: tagged
          ? Uint8Array.of(...frame.subarray(0, 12), 0x81, 0, tci >> 8, tci & 255, ...frame.subarray(12))
          : frame,
        flags: word & ~EGRESS_PORT_MASK,
      })
      this.pool.count(port, TRANSMITTED_PACKETS, 1, frame.length)
      this.pool.release(packet)
    }
  }
}
