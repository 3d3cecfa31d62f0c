/**
 * The keys of the connections: where an entry is found, by its original direction and by its replies.
 *
 * A key is a zone, a family, a protocol, two addresses and two ports. Both keys of an entry stand in it
 * (`connection-entry.ts`) and lead to it through one hash index, whose values are matches: `entry << 1 | direction`.
 * Everything that is asked for is compared in full; the hash only says where to look.
 */
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import * as entryLayout from './connection-entry.js'
import { HashIndex, KeyedHash } from './hash-index.js'
import type { Flow } from './flow.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { BURST_CAPACITY, CONNECTION_SHIFT } = layout
const {
  CONN_DESTINATION,
  CONN_IP6,
  CONN_PORTS,
  CONN_REPLY_SOURCE,
  CONN_SOURCE,
  CONN_STATUS,
  CONN_TCP,
  CONN_ZONES,
  IP6_REPLY_SOURCE,
  STATUS_IP6,
} = entryLayout

/** Words from a key of the original direction to that of the replies. */
const REPLY_KEY = CONN_REPLY_SOURCE - CONN_SOURCE
const PURPOSE = 1
/** Stands in the hashed zone word of an IPv6 key. */
const IP6_KEY = 0x1000

export class ConnectionKeys {
  private readonly words: Int32Array
  private readonly index: HashIndex
  private readonly keyed: KeyedHash
  private readonly places = new Int32Array(BURST_CAPACITY)
  touched = 0 // what `touch` read: of no use

  constructor(arena: Arena) {
    this.words = arena.connections
    this.index = new HashIndex(arena.connectionIndex)
    this.keyed = new KeyedHash(arena.header, PURPOSE)
  }

  /** Empties the index. */
  clear(): void {
    this.index.clear()
  }

  hash(zone: number, flow: Flow): number {
    const ports = (flow.sourcePort << 16) | flow.destinationPort
    const head = zone | (flow.protocol << 24)
    if (flow.family === 4) return this.hash4(head, flow.source0, flow.destination0, ports)
    const first = this.keyed.mix(head | IP6_KEY, flow.source0, flow.destination0, ports)
    const second = this.keyed.mix(first, flow.source1, flow.source2, flow.source3)
    return this.keyed.mix(second, flow.destination1, flow.destination2, flow.destination3)
  }

  /**
   * `hash` of an IPv4 key that is no `Flow` yet.
   * @param head zone | protocol << 24
   * @param ports source << 16 | destination
   */
  hash4(head: number, source: number, destination: number, ports: number): number {
    return this.keyed.mix(head, source, destination, ports)
  }

  /** The match of a flow that arrived in a zone; -1: none. */
  find(hash: number, zone: number, flow: Flow): number {
    const { words, index } = this
    const ports = (flow.sourcePort << 16) | flow.destinationPort
    const head = zone | (flow.protocol << 24)
    if (flow.family === 4) return this.find4(hash, head, flow.source0, flow.destination0, ports)
    for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash)) {
      const match = index.value(slot)
      const direction = match & 1
      const at = (match >> 1) << CONNECTION_SHIFT
      const key = at + direction * REPLY_KEY
      if (words[key + CONN_SOURCE] !== flow.source0 || words[key + CONN_DESTINATION] !== flow.destination0) continue
      if (words[key + CONN_PORTS] !== ports || headOf(words[at + CONN_ZONES], direction) !== head) continue
      if ((words[at + CONN_STATUS] & STATUS_IP6) === 0) continue
      if (this.hasRest(at + CONN_IP6 + direction * IP6_REPLY_SOURCE, flow)) return match
    }
    return -1
  }

  /** `find` for an IPv4 key, its words as for `hash4`. */
  find4(hash: number, head: number, source: number, destination: number, ports: number): number {
    const { words, index } = this
    for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash)) {
      const match = index.value(slot)
      const direction = match & 1
      const at = (match >> 1) << CONNECTION_SHIFT
      const key = at + direction * REPLY_KEY
      if (words[key + CONN_SOURCE] !== source || words[key + CONN_DESTINATION] !== destination) continue
      if (words[key + CONN_PORTS] !== ports || headOf(words[at + CONN_ZONES], direction) !== head) continue
      if ((words[at + CONN_STATUS] & STATUS_IP6) === 0) return match
    }
    return -1
  }

  /**
   * See `Connections.touch`. Each loop only reads what the one before it has fetched, or does nothing but fetch: a
   * branch that waits for memory would hold up the reads behind it.
   */
  touch(hashes: Int32Array, count: number): void {
    const { words, index, places } = this
    index.touch(hashes, count)
    let found = 0
    for (let i = 0; i < count; i++) {
      const slot = index.first(hashes[i])
      if (slot >= 0) places[found++] = (index.value(slot) >> 1) << CONNECTION_SHIFT
    }
    let read = 0
    for (let i = 0; i < found; i++) read |= words[places[i]] | words[places[i] + CONN_TCP]
    for (let i = 0; i < found; i++)
      if ((words[places[i] + CONN_STATUS] & STATUS_IP6) !== 0) read |= words[places[i] + CONN_IP6]
    this.touched = read // or V8 would leave the reads out
  }

  /** Writes a key into an entry whose zones are written. */
  write(at: number, direction: number, flow: Flow): void {
    const { words } = this
    const key = at + direction * REPLY_KEY
    words[key + CONN_SOURCE] = flow.source0
    words[key + CONN_DESTINATION] = flow.destination0
    words[key + CONN_PORTS] = (flow.sourcePort << 16) | flow.destinationPort
    if (flow.family === 4) return
    const rest = at + CONN_IP6 + direction * IP6_REPLY_SOURCE
    words[rest] = flow.source1
    words[rest + 1] = flow.source2
    words[rest + 2] = flow.source3
    words[rest + 3] = flow.destination1
    words[rest + 4] = flow.destination2
    words[rest + 5] = flow.destination3
  }

  /** Makes an entry findable, by what stands in it. */
  add(entry: number): void {
    const at = entry << CONNECTION_SHIFT
    this.index.insert(this.hashOf(at, 0), entry << 1)
    this.index.insert(this.hashOf(at, 1), (entry << 1) | 1)
  }

  remove(entry: number): void {
    const at = entry << CONNECTION_SHIFT
    this.index.remove(this.hashOf(at, 0), entry << 1)
    this.index.remove(this.hashOf(at, 1), (entry << 1) | 1)
  }

  private hasRest(rest: number, flow: Flow): boolean {
    const { words } = this
    return (
      words[rest] === flow.source1 &&
      words[rest + 1] === flow.source2 &&
      words[rest + 2] === flow.source3 &&
      words[rest + 3] === flow.destination1 &&
      words[rest + 4] === flow.destination2 &&
      words[rest + 5] === flow.destination3
    )
  }

  /** `hash` of a key that stands in an entry. */
  private hashOf(at: number, direction: number): number {
    const { words, keyed } = this
    const head = headOf(words[at + CONN_ZONES], direction)
    const key = at + direction * REPLY_KEY
    const isIp6 = (words[at + CONN_STATUS] & STATUS_IP6) !== 0
    const source = words[key + CONN_SOURCE]
    const destination = words[key + CONN_DESTINATION]
    const first = keyed.mix(isIp6 ? head | IP6_KEY : head, source, destination, words[key + CONN_PORTS])
    if (!isIp6) return first
    const rest = at + CONN_IP6 + direction * IP6_REPLY_SOURCE
    const second = keyed.mix(first, words[rest], words[rest + 1], words[rest + 2])
    return keyed.mix(second, words[rest + 3], words[rest + 4], words[rest + 5])
  }
}

/** Zone and protocol of one direction, from CONN_ZONES. */
function headOf(zones: number, direction: number): number {
  return ((zones >> (direction * 12)) & 0xfff) | (zones & 0xff000000)
}

/** Whether two flows of one family and protocol are the same. */
export function isSameFlow(a: Flow, b: Flow): boolean {
  return (
    a.source0 === b.source0 &&
    a.source1 === b.source1 &&
    a.source2 === b.source2 &&
    a.source3 === b.source3 &&
    a.destination0 === b.destination0 &&
    a.destination1 === b.destination1 &&
    a.destination2 === b.destination2 &&
    a.destination3 === b.destination3 &&
    a.sourcePort === b.sourcePort &&
    a.destinationPort === b.destinationPort
  )
}
