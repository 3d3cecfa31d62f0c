/**
 * The captures that run, and the reader of the shards' punt rings: matched frames go to whoever captures, frames of
 * ring ports to their devices. A reader that throws loses its capture, not the others'.
 *
 * A capture has its number in all shards, and runs in the one that carries its network; it goes along when that moves.
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
  type Ring,
} from '../dataplane/ring.js'
import { Failure } from './failure.js'
import type { Capture, CapturedFrame } from './model.js'
import type { Carrier } from './carrier.js'
import type { Shard } from './shard.js'
import type { RequestBody } from './shard-channel.js'

/** Messages read before other work of the control process gets its turn. */
const READ_LIMIT = 4096

interface Session {
  carrier: Carrier
  network: number
  port: number
  program: number[]
  onFrame: (frame: CapturedFrame) => void
}

/** A capture that runs, and the frames that it lost: on shards where it was, and what this one had lost before. */
interface Running extends Session {
  lost: number
  lostBefore: number
}

export class Captures {
  private readonly sessions: (Running | null)[] = new Array<Running | null>(CAPTURES_MAX).fill(null)
  private readonly portName: (port: number) => string | null
  private readonly onSent: (port: number, timeNanos: bigint, bytes: Uint8Array) => void
  private readonly onService: (segment: number, port: number, frame: Uint8Array, isUnfinished: boolean) => void

  constructor(
    portName: (port: number) => string | null,
    onSent: (port: number, timeNanos: bigint, bytes: Uint8Array) => void,
    onService: (segment: number, port: number, frame: Uint8Array, isUnfinished: boolean) => void,
  ) {
    this.portName = portName
    this.onSent = onSent
    this.onService = onService
  }

  async start(asked: Session): Promise<Capture> {
    const id = this.sessions.indexOf(null)
    if (id < 0) throw new Failure('ERR_CAPACITY', `capture: ${CAPTURES_MAX} are running already`)
    const session = { ...asked, lost: 0, lostBefore: asked.carrier.punt.lost() }
    this.sessions[id] = session
    try {
      await session.carrier.ask(request(id, session))
    } catch (error) {
      this.sessions[id] = null
      throw error
    }
    return {
      lost: () => session.lost + ((session.carrier.punt.lost() - session.lostBefore) | 0),
      stop: async () => {
        if (this.sessions[id] !== session) return
        await session.carrier.ask({ do: 'release', capture: id })
        this.drain(session.carrier.shard, Number.POSITIVE_INFINITY)
        this.sessions[id] = null
      },
    }
  }

  /** Tells a new process of a shard which captures run there. */
  restart(shard: Shard): void {
    for (const [id, session] of this.sessions.entries())
      if (session?.carrier.shard === shard) void shard.ask(request(id, session)).catch(() => undefined)
  }

  /**
   * Networks, which no shard carries just now, go from one shard to another: their captures are begun there, and ended
   * and read out here. Rejects, and changes nothing, if the other shard refuses; exchanged, it takes itself back.
   */
  async follow(carriers: readonly Carrier[], from: Shard, to: Shard): Promise<void> {
    const following = [...this.sessions.entries()].flatMap(([id, session]) =>
      session !== null && carriers.includes(session.carrier) ? [{ id, session }] : [],
    )
    const begun: number[] = []
    try {
      for (const { id, session } of following) {
        await to.ask(request(id, session))
        begun.push(id)
      }
    } catch (error) {
      for (const id of begun) void to.ask({ do: 'release', capture: id }).catch(() => undefined)
      throw error
    }
    for (const { id } of following) await from.ask({ do: 'release', capture: id }).catch(() => undefined)
    if (following.length > 0) this.drain(from, Number.POSITIVE_INFINITY)
    for (const { session } of following) {
      session.lost += (from.punt.lost() - session.lostBefore) | 0
      session.lostBefore = to.punt.lost()
    }
  }

  /** Reads a shard's punt ring. What is answered meanwhile wakes the shard once. */
  drain(shard: Shard, limit: number = READ_LIMIT): void {
    shard.together(() => this.read(shard, limit))
  }

  private read(shard: Shard, limit: number): void {
    const ring = shard.punt
    const header = ring.header()
    let read = 0
    for (let index = ring.peek(); index >= 0; index = ring.peek()) {
      if (read++ >= limit) {
        setImmediate(() => this.drain(shard))
        return
      }
      if (header[index + RING_KIND] === MESSAGE_SERVICE) {
        try {
          this.serve(ring, index)
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

  private serve(ring: Ring, index: number): void {
    const header = ring.header()
    const start = ring.place(index)
    const frame = ring.data().subarray(start, start + header[index + RING_LENGTH])
    this.onService(header[index + RING_ID], header[index + RING_PORT], frame, header[index + RING_DIRECTION] !== 0)
  }
}

function request(id: number, { network, port, program }: Session): RequestBody {
  return { do: 'capture', capture: id, network, port, program }
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
