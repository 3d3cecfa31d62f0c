/**
 * The drivers of the micro-benchmark of switching, and what it shares with that of routing (decision-routed.ts).
 *
 * A treadmill is a driver that costs next to nothing: its frames lie ready in the pool, a receive call writes their
 * addresses, resets their records and lists them, a transmit call throws the pairs away. It goes through a sequence of
 * frames and begins it again. Its clock (HEADER_NOW) advances a second every FRAMES_A_SECOND frames: few, so that
 * warm-up sees many seconds, and what is done once a second is part of the cost.
 */
import {
  type Arena,
  BURST_CAPACITY,
  HEADER_NOW,
  INGRESS,
  LENGTH,
  OFFSET,
  RECORD_SHIFT,
  REFERENCES,
  TAG,
} from '../src/dataplane/layout.js'
import type { Pool } from '../src/dataplane/burst.js'
import type { Driver, Loop } from '../src/dataplane/loop.js'

export const FRAME_BYTES = 60
/** Frames that a driver goes through before it begins again; a power of two. */
export const SEQUENCE = 1 << 17
export const FRAMES_A_SECOND = 500_000
/** Bytes before a frame where the driver keeps the frame's first 16 bytes as they were. */
const TEMPLATE = 32

/** What is measured: a loop over its treadmill. */
export interface Stand {
  readonly loop: Loop
  readonly driver: { sent: number; receive(): number }
  /** frames dropped so far */
  drops(): number
}

/** mulberry32: 32 random bits a call. */
export function randomFrom(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (t ^ (t >>> 14)) >>> 0
  }
}

/** The frames of a case: by which port each comes, and the lower halves of its two addresses. */
export interface Sequence {
  ingress: Int32Array
  source: Int32Array
  destination: Int32Array
}

export class Treadmill implements Driver {
  sent = 0
  private readonly arena: Arena
  private readonly halves: Uint16Array
  private readonly packets = new Int32Array(BURST_CAPACITY)
  private readonly frames = new Int32Array(BURST_CAPACITY)
  private readonly burst: number
  private readonly sequence: Sequence
  private readonly tagged: boolean
  private next = 0
  private untilSecond = FRAMES_A_SECOND

  constructor(arena: Arena, pool: Pool, burst: number, sequence: Sequence, head: number[]) {
    this.arena = arena
    this.halves = new Uint16Array(arena.buffer)
    this.burst = burst
    this.sequence = sequence
    this.tagged = head[12] === 0x81
    for (let i = 0; i < BURST_CAPACITY; i++) {
      const packet = pool.take(FRAME_BYTES)
      const frame = arena.records[(packet << RECORD_SHIFT) + OFFSET]
      this.packets[i] = packet
      this.frames[i] = frame
      arena.bytes.set(head, frame)
      arena.bytes.set(head, frame - TEMPLATE)
    }
  }

  receive(): number {
    const { halves, burst, sequence, packets, frames } = this
    const { records, bytes } = this.arena
    const { ingress, source, destination } = sequence
    const listed = this.arena.burst
    for (let i = 0; i < burst; i++) {
      const at = (this.next + i) & (SEQUENCE - 1)
      const packet = packets[i]
      const frame = frames[i]
      const record = packet << RECORD_SHIFT
      if (this.tagged) bytes.copyWithin(frame, frame - TEMPLATE, frame - TEMPLATE + 16)
      const half = frame >> 1
      halves[half + 1] = destination[at]
      halves[half + 2] = destination[at] >>> 16
      halves[half + 4] = source[at]
      halves[half + 5] = source[at] >>> 16
      records[record + OFFSET] = frame
      records[record + LENGTH] = FRAME_BYTES
      records[record + INGRESS] = ingress[at]
      records[record + TAG] = 0
      records[record + REFERENCES] = 1
      listed[i] = packet
    }
    this.next = (this.next + burst) & (SEQUENCE - 1)
    this.untilSecond -= burst
    if (this.untilSecond <= 0) {
      this.untilSecond += FRAMES_A_SECOND
      this.arena.header[HEADER_NOW] += 1
    }
    return burst
  }

  transmit(pairs: number): void {
    this.sent += pairs
  }
}
