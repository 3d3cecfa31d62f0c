/**
 * The loop of a shard: receive a burst, take it through the pipeline, once a second forget what is too old.
 *
 * The same loop runs in the shard process over native ports, and in tests and the micro-benchmarks over memory ports.
 * It never waits for the control process: what that has to say is read between two turns (`shard-process.ts`).
 */
import type { Burst } from './burst.js'
import type { Transmitter } from './egress.js'
import * as layout from './layout.js'
import type { Arena } from './layout.js'
import * as drops from './drops.js'
import { Pipeline } from './pipeline.js'
import { Ring } from './ring.js'
import * as ring from './ring.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { BURST_CAPACITY, HEADER_INJECT, HEADER_INJECT_BYTES, HEADER_NOW, HEADER_TURNS, INGRESS, OFFSET, RECORD_SHIFT } =
  layout
const { RING_LENGTH, RING_PORT } = ring
const { DROP_NO_SLOT } = drops

/** What moves the bytes: native code, or memory ports. */
export interface Driver extends Transmitter {
  /**
   * Waits up to `waitMillis` (-1: as long as it takes, at most a second) for frames, lists them as the arena's burst,
   * and returns how many.
   */
  receive(waitMillis: number): number
}

/** Until something happens: a driver ends a wait once a second by itself, for the once-a-second work. */
const WAIT_MILLIS = -1

export class Loop {
  readonly pipeline: Pipeline
  private readonly driver: Driver
  private readonly header: Int32Array
  private readonly burst: Burst
  private readonly inject: Ring
  private sweptAt = 0
  private sweepAgain = false

  constructor(arena: Arena, driver: Driver, portRows: number, secret: Int32Array) {
    this.driver = driver
    this.header = arena.header
    this.burst = { packets: arena.burst, count: 0 }
    this.inject = new Ring(arena.buffer, arena.header[HEADER_INJECT], arena.header[HEADER_INJECT_BYTES])
    this.pipeline = new Pipeline(arena, driver, portRows, secret)
  }

  /** One turn. Returns the number of frames it carried. */
  turn(waitMillis: number = WAIT_MILLIS): number {
    const { burst } = this
    const wait = this.sweepAgain || !this.inject.isEmpty() ? 0 : waitMillis
    burst.count = this.driver.receive(wait)
    this.takeInjected()
    const carried = burst.count
    if (carried > 0) {
      this.header[HEADER_TURNS]++
      this.pipeline.process(burst)
    }
    const seconds = this.header[HEADER_NOW]
    if (seconds !== this.sweptAt || this.sweepAgain) {
      this.sweptAt = seconds
      this.sweepAgain = this.pipeline.sweep(seconds)
    }
    return carried
  }

  /** Adds to the burst the frames that ring ports receive from the control process, as far as there is room. */
  private takeInjected(): void {
    const { burst, inject } = this
    const { pool } = this.pipeline
    while (burst.count < BURST_CAPACITY) {
      const index = inject.peek()
      if (index < 0) return
      const header = inject.header()
      const port = header[index + RING_PORT]
      const length = header[index + RING_LENGTH]
      const packet = pool.take(length)
      if (packet >= 0) {
        const record = packet << RECORD_SHIFT
        pool.records[record + INGRESS] = port
        pool.bytes.copyWithin(pool.records[record + OFFSET], inject.place(index), inject.place(index) + length)
        burst.packets[burst.count++] = packet
      } else {
        pool.countDrop(port, DROP_NO_SLOT)
      }
      inject.consume(index)
    }
  }
}
