/**
 * The captures that run, and the reader of the punt ring: matched frames go to whoever captures, frames of ring ports
 * to their devices. A reader that throws loses its capture, not the others'.
 */
import { CAPTURES_MAX } from '../dataplane/mirror.js'
import { TAG_PRESENT } from '../dataplane/layout.js'
import {
  MESSAGE_CAPTURE,
  MESSAGE_SERVICE,
  RING_DIRECTION,
  RING_ID,
  RING_KIND,
  RING_LENGTH,
  RING_NANOS,
  RING_PORT,
  RING_SECONDS,
  RING_TAG,
} from '../dataplane/ring.js'
import { Failure } from './failure.js'
import type { Capture, CapturedFrame } from './model.js'
import type { Shard } from './shard.js'

/** Messages read before other work of the control process gets its turn. */
const READ_LIMIT = 4096

interface Session {
  network: number
  port: number
  program: number[]
  onFrame: (frame: CapturedFrame) => void
}

export class Captures {
  private readonly shard: Shard
  private readonly sessions: (Session | null)[] = new Array<Session | null>(CAPTURES_MAX).fill(null)
  private readonly portName: (port: number) => string | null
  private readonly onSent: (port: number, timeNanos: bigint, bytes: Uint8Array) => void
  private readonly onService: (segment: number, port: number, frame: Uint8Array, isUnfinished: boolean) => void

  constructor(
    shard: Shard,
    portName: (port: number) => string | null,
    onSent: (port: number, timeNanos: bigint, bytes: Uint8Array) => void,
    onService: (segment: number, port: number, frame: Uint8Array, isUnfinished: boolean) => void,
  ) {
    this.shard = shard
    this.portName = portName
    this.onSent = onSent
    this.onService = onService
  }

  async start(session: Session): Promise<Capture> {
    const id = this.sessions.indexOf(null)
    if (id < 0) throw new Failure('ERR_CAPACITY', `capture: ${CAPTURES_MAX} are running already`)
    this.sessions[id] = session
    const lostBefore = this.shard.punt.lost()
    try {
      await this.ask(id, session)
    } catch (error) {
      this.sessions[id] = null
      throw error
    }
    return {
      lost: () => (this.shard.punt.lost() - lostBefore) | 0,
      stop: async () => {
        if (this.sessions[id] !== session) return
        await this.shard.ask({ do: 'release', capture: id })
        this.drain(Number.POSITIVE_INFINITY)
        this.sessions[id] = null
      },
    }
  }

  /** Tells a new shard process which captures run. */
  restart(): void {
    for (const [id, session] of this.sessions.entries()) if (session) void this.ask(id, session).catch(() => undefined)
  }

  /** Reads the punt ring. What is answered meanwhile wakes the shard once. */
  drain(limit: number = READ_LIMIT): void {
    this.shard.together(() => this.read(limit))
  }

  private read(limit: number): void {
    const ring = this.shard.punt
    const header = ring.header()
    let read = 0
    for (let index = ring.peek(); index >= 0; index = ring.peek()) {
      if (read++ >= limit) {
        setImmediate(() => this.drain())
        return
      }
      if (header[index + RING_KIND] === MESSAGE_SERVICE) {
        try {
          this.serve(index)
        } finally {
          ring.consume(index) // a defect in a service is met once, not for ever
        }
        continue
      }
      const bytes = wireBytes(ring.data(), ring.place(index), header[index + RING_LENGTH], header[index + RING_TAG])
      const timeNanos = BigInt(header[index + RING_SECONDS]) * 1_000_000_000n + BigInt(header[index + RING_NANOS])
      if (header[index + RING_KIND] === MESSAGE_CAPTURE) {
        const session = this.sessions[header[index + RING_ID]]
        const port = this.portName(header[index + RING_PORT])
        if (session && port !== null)
          session.onFrame({ timeNanos, port, direction: header[index + RING_DIRECTION] === 0 ? 'in' : 'out', bytes })
      } else {
        this.onSent(header[index + RING_PORT], timeNanos, bytes)
      }
      ring.consume(index)
    }
  }

  private serve(index: number): void {
    const ring = this.shard.punt
    const header = ring.header()
    const start = ring.place(index)
    const frame = ring.data().subarray(start, start + header[index + RING_LENGTH])
    this.onService(header[index + RING_ID], header[index + RING_PORT], frame, header[index + RING_DIRECTION] !== 0)
  }

  private ask(id: number, session: Session): Promise<number> {
    const { network, port, program } = session
    return this.shard.ask({ do: 'capture', capture: id, network, port, program })
  }
}

/** The frame as on the wire: its tag, which the shard keeps apart, in front of the payload again. */
function wireBytes(data: Uint8Array, start: number, length: number, tag: number): Uint8Array {
  const frame = data.subarray(start, start + length)
  if ((tag & TAG_PRESENT) === 0 || length < 12) return frame
  const whole = new Uint8Array(length + 4)
  whole.set(frame.subarray(0, 12))
  whole.set([0x81, 0, (tag >> 8) & 255, tag & 255], 12)
  whole.set(frame.subarray(12), 16)
  return whole
}
