/**
 * A router's connection tracking alone, for its tests: packets written into an arena, judged as `router.ts` has them
 * judged, with a word for each verdict. The headers are filled in here, not parsed.
 */
import { Pool } from '../../../src/dataplane/burst.js'
import { CONN_STATUS, CONN_WORDS, Connections, WORTH_SHIFT } from '../../../src/dataplane/router/connections.js'
import { Conntrack, TRACK_INVALID, TRACK_NEW, stateName } from '../../../src/dataplane/router/conntrack.js'
import { Flow } from '../../../src/dataplane/router/flow.js'
import {
  FRAGMENT_LATER,
  FRAGMENT_NONE,
  Headers,
  PROTOCOL_ICMP,
  PROTOCOL_ICMP6,
  PROTOCOL_TCP,
} from '../../../src/dataplane/router/headers.js'
import { type Arena, type Geometry, HEADER_NOW, HEADER_SECRET, HEADER_SMALL } from '../../../src/dataplane/layout.js'
import { GEOMETRY, newArena } from '../rig.js'

export const FIN = 0x01
export const SYN = 0x02
export const RST = 0x04
export const PSH = 0x08
export const ACK = 0x10

/** `new`: it began a connection. `again`: the same, of one that was over. */
export type Verdict = 'new' | 'again' | 'ok' | 'invalid' | 'refused'

export interface Segment {
  flags: number
  seq: number
  ack?: number
  /** bytes of payload */
  length?: number
  window?: number
  /** shift of the window scale option; no option without it */
  scale?: number
  /** FRAGMENT_* */
  fragment?: number
}

export const PORTS = 32

export function tracking(geometry: Partial<Geometry> = {}): Arena {
  const arena = newArena({ ...GEOMETRY, smallSlots: 64, largeSlots: 1, ...geometry })
  for (let i = 0; i < 4; i++) arena.header[HEADER_SECRET + i] = Math.imul(0x9e3779b9, i + 7)
  return arena
}

export function flow(more: Partial<Flow> = {}): Flow {
  const base = { protocol: PROTOCOL_TCP, source0: 0x0a000005, destination0: 0x5db8d822, sourcePort: 40000 }
  return Object.assign(new Flow(), base, { destinationPort: 443 }, more)
}

/** The same as its replies have it, where nothing is translated. */
export function reverse(of: Flow): Flow {
  return Object.assign(new Flow(), {
    family: of.family,
    protocol: of.protocol,
    source0: of.destination0,
    source1: of.destination1,
    source2: of.destination2,
    source3: of.destination3,
    destination0: of.source0,
    destination1: of.source1,
    destination2: of.source2,
    destination3: of.source3,
    sourcePort: of.destinationPort,
    destinationPort: of.sourcePort,
  })
}

export class Tracker {
  readonly arena: Arena
  readonly pool: Pool
  readonly connections: Connections
  readonly conntrack: Conntrack
  readonly headers = new Headers()
  owner = 1
  zone = 0
  /** whether what may not begin begins all the same */
  isOpen = false

  constructor(arena: Arena = tracking()) {
    this.arena = arena
    this.pool = new Pool(arena)
    this.connections = new Connections(arena, PORTS)
    this.conntrack = new Conntrack(arena, this.pool, this.connections)
  }

  get now(): number {
    return this.arena.header[HEADER_NOW]
  }

  set now(seconds: number) {
    this.arena.header[HEADER_NOW] = seconds
  }

  /** A packet of this flow, with `length` bytes of transport. */
  pass(of: Flow, length: number, more: Partial<Headers> = {}): Verdict {
    const { headers: h, connections, conntrack, now } = this
    const l3 = this.arena.header[HEADER_SMALL] + 128
    const header = of.family === 4 ? 20 : 40
    Object.assign(h, of, { l3, l4: l3 + header, end: l3 + header + length, fragment: FRAGMENT_NONE, icmp: -1 }, more)
    const match = connections.find(this.zone, h)
    let isAgain = false
    if (match >= 0) {
      const verdict = conntrack.track(match, h, now)
      if (verdict === TRACK_INVALID) return 'invalid'
      if (verdict !== TRACK_NEW) return 'ok'
      isAgain = true
    }
    if (!conntrack.mayBegin(h) && !this.isOpen) return 'invalid'
    const entry = connections.create(this.zone, this.zone, h, reverse(of), this.owner, now)
    if (entry < 0) return 'refused'
    conntrack.begin(entry, h, now)
    return isAgain ? 'again' : 'new'
  }

  tcp(of: Flow, segment: Segment): Verdict {
    const { view } = this.pool
    const l4 = this.arena.header[HEADER_SMALL] + 128 + (of.family === 4 ? 20 : 40)
    const scaled = segment.scale !== undefined
    const options = scaled ? 12 : 0
    view.setUint32(l4 + 4, segment.seq >>> 0)
    view.setUint32(l4 + 8, (segment.ack ?? 0) >>> 0)
    view.setUint8(l4 + 12, (20 + options) << 2)
    view.setUint8(l4 + 13, segment.flags)
    view.setUint16(l4 + 14, segment.window ?? 65535)
    const list = scaled ? [2, 4, 5, 180, 1, 3, 3, segment.scale!, 4, 2, 0, 0] : []
    for (const [i, byte] of list.entries()) view.setUint8(l4 + 20 + i, byte)
    const fragment = segment.fragment ?? FRAGMENT_NONE
    const length = fragment === FRAGMENT_LATER ? 0 : 20 + options
    return this.pass(of, length + (segment.length ?? 0), { fragment })
  }

  icmp(of: Flow, type: number, more: Partial<Headers> = {}): Verdict {
    const protocol = of.family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMP6
    return this.pass(Object.assign({}, of, { protocol }), 16, { icmp: type << 8, ...more })
  }

  /** The state of the connection of a flow; 'gone': there is none. */
  state(of: Flow): string {
    const match = this.connections.find(this.zone, of)
    return match < 0 ? 'gone' : stateName(this.connections.words, match >> 1)
  }

  worth(of: Flow): number {
    const match = this.connections.find(this.zone, of)
    return match < 0 ? -1 : (this.connections.words[(match >> 1) * CONN_WORDS + CONN_STATUS] >> WORTH_SHIFT) & 3
  }

  /** Forgets all that has expired by then. */
  sweep(seconds: number): void {
    this.now = seconds
    while (this.connections.sweep(seconds));
  }
}

/** Two ends of a TCP connection through a tracker; numbers are told from 0, each end's first is added. */
export class Session {
  readonly tracker: Tracker
  readonly there: Flow
  readonly back: Flow
  readonly first: [number, number]
  /** what segments offer that say nothing else */
  window = 65535

  constructor(tracker: Tracker, first: [number, number] = [1000, 5000], there: Flow = flow()) {
    this.tracker = tracker
    this.there = there
    this.back = reverse(there)
    this.first = first
  }

  /** From the end that begins (0) or the other (1). */
  send(from: 0 | 1, flags: number, seq: number, ack = 0, length = 0, more: Partial<Segment> = {}): Verdict {
    const first = this.first
    return this.tracker.tcp(from === 0 ? this.there : this.back, {
      flags,
      seq: (first[from] + seq) | 0,
      ack: (flags & ACK) === 0 ? 0 : (first[from ^ 1] + ack) | 0,
      length,
      window: this.window,
      ...more,
    })
  }

  /** The three segments; both with this scale. */
  shake(scale = 7, window = 64000): void {
    this.send(0, SYN, 0, 0, 0, { scale, window })
    this.send(1, SYN | ACK, 0, 1, 0, { scale, window })
    this.window = window >> scale
    this.send(0, ACK, 1, 1)
    this.send(1, ACK, 1, 1)
  }

  get state(): string {
    return this.tracker.state(this.there)
  }
}
