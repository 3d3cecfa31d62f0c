/**
 * Mappings: which outside port a guest's port has (NAPT with endpoint-independent mapping).
 *
 *   inside:  zone, protocol, address, port, at which outside address  -->  outside port
 *   outside: zone, protocol, outside address, port                    -->  the same entry
 *
 * A guest's port has one outside port, whatever it talks to (RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1), at the
 * one outside address of its zone and family (REQ-2). `port-range.ts` chooses it: the same if it is free, else a random
 * one, of the same parity, never a forward's. What outsiders may send to it is asked for each new connection:
 * `mayEnter` (REQ-8, RFC 5382 REQ-3).
 *
 * No two share a port (REQ-3b) while there are others. When all are taken by connections that both ends mean, a new
 * mapping may have one that is another's already (KEY_SHARED), if its packet's far end is not the other's: answers are
 * told apart by their connections alone. It too stays the same whatever its guest's port talks to; a connection to a
 * far end that the other talks to is refused. Nobody enters by a shared port but the answers, so it needs a filtering
 * by address and port. Protocols without ports share in this way at once.
 *
 * A mapping lives by its connections, which it has in a list; it has no timer of its own, so what refreshes it, and
 * how TCP's end shortens it (RFC 7857 section 2), is `conntrack.ts`. After the last one it is idle for IDLE_SECONDS:
 * nobody may enter, but its port goes to nobody else while there are others (RFC 6888 REQ-8), and a new connection of
 * the same guest's port has it again. Error messages never end one (RFC 4787 REQ-12).
 *
 *   protocol               port                       range
 *   TCP, UDP               source port                the zone's
 *   ICMP, ICMPv6           identifier of a query      the same numbers
 *   others                 kept as it is, or 0        any: one guest has the outside port, others share it
 *
 * Capacity: the arena's section; OWNER_LIMIT a port of the switch, family and protocol; the ports of the range. At each
 * limit another mapping gives way, and the connections with it: of the owner at its limit one that nobody has to miss,
 * else of the port that has most; `mapping-lists.ts` says which. If none may, the new one is refused and counted.
 *
 * The entries are in the arena; lists and bitmaps are this process's own. One that takes over makes them anew from
 * whole entries (MAP_KEY is written last, and cleared first) and from the connections' CONN_MAPPING: so
 * `connections.ts` takes over before. Entries from MAP_END of entry 0 on were never used; their memory is not touched.
 *
 * Not done here: rewriting (`rewrite.ts`); forwards (`zone.ts`), which are found before a mapping is asked for;
 * protocol helpers, of which there are none (RFC 4787 REQ-10).
 */
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import * as portTable from '../port-table.js'
import * as connectionTable from './connections.js'
import type { Connections } from './connections.js'
import { KeyedHash } from './hash-index.js'
import type { Flow } from './flow.js'
import * as headers from './headers.js'
import * as mappingLists from './mapping-lists.js'
import { MappingLists, rowKind, rowOf } from './mapping-lists.js'
import * as mappingEntry from './mapping-entry.js'
import { KEY_SHARED, MappingKeys, familyOf, isAt, keyOf } from './mapping-entry.js'
import { OutsideAddress, type PortRange, type Random } from './port-range.js'
import * as routerTable from './router-table.js'
import type { CompiledForward, CompiledNat } from './router-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  CONNECTION_SHIFT,
  HEADER_MAPPINGS_REFUSED,
  HEADER_MAPPINGS_USED,
  HEADER_MAPPING_CAPACITY,
  HEADER_NOW,
  HEADER_TIME_NANOS,
  MAPPING_SHIFT,
} = layout
const { NETWORKS_MAX } = portTable
const {
  CONN_DESTINATION,
  CONN_END,
  CONN_IP6,
  CONN_MAPPING,
  CONN_MAP_NEXT,
  CONN_MAP_PREVIOUS,
  CONN_PORTS,
  CONN_SOURCE,
  CONN_STATUS,
  CONN_ZONES,
  IP6_DESTINATION,
  IP6_SOURCE,
  STATUS_LIVE,
  WORTH_ENDING,
  WORTH_KEPT,
  WORTH_SHIFT,
} = connectionTable
const { PROTOCOL_TCP, PROTOCOL_UDP } = headers
const { FILTER_ADDRESS, FILTER_NONE } = routerTable
const { ENDING, IDLE, KEPT, UNPROVEN } = mappingLists
const {
  MAP_CONNECTIONS,
  MAP_END,
  MAP_ENDING,
  MAP_IDLE_SINCE,
  MAP_INSIDE,
  MAP_KEPT,
  MAP_KEY,
  MAP_OUTSIDE,
  MAP_OWNER,
  MAP_PORTS,
} = mappingEntry

/** Mappings that one port of the switch may have of a family and a protocol: TCP, UDP, ICMP, all others together. */
export const OWNER_LIMIT = 8192
/** How long a port is kept after its last connection. */
export const IDLE_SECONDS = 120
/** `mayEnter` asks this many of a mapping's connections, the newest. */
export const ASKED_MAX = 256
/** Entries forgotten in one sweep, so that no sweep holds up the frames. */
const SWEEP_LIMIT = 2048
/** Mappings that give way for one new one: those whose ports have left the range make no room. */
const GIVE_WAY_MAX = 16
/** Connections that end with a mapping at once; one that has more gives way for a later packet. */
const END_MAX = 64
/** Ports that are tried, when all are taken, for one to share. */
const SHARE_TRIES = 16
/** Beside a port that was chosen: it is shared. */
const SHARED = 0x10000
const PURPOSE_RANDOM = 5

/** Random numbers for ports: a counter hashed under the arena's secret, so those seen tell nothing of the next. */
class HashedCounter implements Random {
  private readonly keyed: KeyedHash
  private readonly start: number
  private counter = 0

  constructor(header: Int32Array) {
    this.keyed = new KeyedHash(header, PURPOSE_RANDOM)
    this.start = header[HEADER_TIME_NANOS]
  }

  next(): number {
    this.counter = (this.counter + 1) | 0
    return this.keyed.mix(this.counter, this.start, 0, 0)
  }
}

export class Mappings {
  /** the entries: from entry << MAPPING_SHIFT on */
  readonly words: Int32Array
  private readonly table: Connections
  private readonly connections: Int32Array
  private readonly header: Int32Array
  private readonly keys: MappingKeys
  private readonly random: HashedCounter
  private readonly capacity: number
  private readonly portRows: number
  private readonly outsides: (OutsideAddress | null)[] // zone << 1 | IPv6
  private readonly lists: MappingLists
  private sharing = 0 // mappings whose port is shared
  private readonly free: Int32Array // a stack; entries from `end` on are free as well
  private freeCount = 0
  private end = 0

  /** Takes over what the arena holds; its connections have done so. */
  constructor(arena: Arena, portRows: number, connections: Connections) {
    const { header } = arena
    this.words = arena.mappings
    this.table = connections
    this.connections = arena.connections
    this.header = header
    this.keys = new MappingKeys(arena)
    this.random = new HashedCounter(header)
    this.capacity = header[HEADER_MAPPING_CAPACITY]
    this.portRows = portRows
    this.outsides = new Array<OutsideAddress | null>(NETWORKS_MAX << 1).fill(null)
    this.lists = new MappingLists(this.capacity, portRows)
    this.free = new Int32Array(this.capacity)
    this.takeOver()
  }

  /**
   * Sets the outside addresses of a zone, at most one a family, their port ranges, and the forwards whose ports they
   * must leave out. Mappings that are there stay as they are; those at another address are no longer given out.
   */
  configure(zone: number, nat: readonly CompiledNat[], forwards: readonly CompiledForward[]): void {
    for (let six = 0; six < 2; six++) {
      const place = (zone << 1) | six
      const wanted = nat.find(({ ip }) => ip.length === (six === 0 ? 1 : 4))
      const before = this.outsides[place]
      if (wanted === undefined) this.outsides[place] = null
      else if (before !== null && before.is(wanted.ip)) before.configure(wanted, forwards)
      else {
        const outside = new OutsideAddress(wanted, this.random)
        outside.configure(wanted, forwards)
        this.outsides[place] = outside
        this.adopt(place)
      }
    }
  }

  /**
   * The mapping of a packet's source, made if there is none. A fresh one is idle until a connection is attached.
   * @param owner port of the switch that it is accounted to
   * @param reply where ports may be shared: its answers, whose destination is written here; null: they may not
   * @returns the mapping; -1: refused, no port is free, or the zone translates no addresses of this family
   */
  bind(zone: number, flow: Flow, owner: number, now: number, reply: Flow | null = null): number {
    const outside = this.outsides[(zone << 1) | (flow.family === 4 ? 0 : 1)]
    if (outside === null) return -1
    const key = keyOf(zone, flow)
    const own = this.keys.findInside(key, flow, outside.ip)
    if (own >= 0 && this.sharing === 0) return own
    const found = own >= 0 ? own : this.sharing > 0 ? this.keys.findInside(key | KEY_SHARED, flow, outside.ip) : -1
    if (found >= 0) {
      // the far end may be one that another mapping with this port talks to
      if (reply === null || this.isUnanswered(zone, outside, reply, this.outsidePort(found))) return found
      return this.refuse()
    }
    const { lists } = this
    const row = rowOf(owner, rowKind(flow.family, flow.protocol))
    if (lists.held[row] >= OWNER_LIMIT && !this.giveWay(lists.leastOf(row))) return this.refuse()
    if (this.header[HEADER_MAPPINGS_USED] >= this.capacity && !this.giveWay(lists.least(row))) return this.refuse()
    const port = this.choosePort(zone, flow, outside, row, reply)
    if (port < 0) return this.refuse()
    return this.claim(zone, flow, outside, port, owner, now)
  }

  /**
   * Takes a mapping over from another shard's table, as it stands in a record (`transfer.ts`); its connections are
   * attached as they come. Idle ones come oldest first.
   * @param at of the record's first word
   * @param now by which its age becomes seconds
   * @returns the mapping; -1, counted: there is no room, or its port is another's
   */
  takeIn(record: Int32Array, at: number, now: number): number {
    const { words } = this
    const isTaken = this.isOutsideTaken(record, at)
    const isFull = this.header[HEADER_MAPPINGS_USED] >= this.capacity
    if (isTaken || (isFull && !this.giveWay(this.lists.least(rowIn(record, at))))) return this.refuse()
    const mapping = this.takeFree()
    const to = mapping << MAPPING_SHIFT
    for (let word = MAP_PORTS; word <= MAP_OWNER; word++) words[to + word] = record[at + word]
    words[to + MAP_CONNECTIONS] = words[to + MAP_ENDING] = words[to + MAP_KEPT] = 0
    words[to + MAP_IDLE_SINCE] = Math.max(0, now - record[at + MAP_IDLE_SINCE])
    words[to + MAP_KEY] = record[at + MAP_KEY] // last, as in `claim`
    this.enter(mapping)
    this.lists.put(mapping, rowIn(words, to), zoneIn(words, to), IDLE)
    const range = this.rangeOf(to)
    if (range !== null) range.take(record[at + MAP_PORTS] & 0xffff)
    return mapping
  }

  /**
   * Forgets idle mappings of chosen zones, a piece at a time; their connections must have gone before.
   * @param chosen by zone: 1 if it is
   * @param from entry
   * @param slots entries to look at, and `limit` those to forget, at most
   * @returns the entry to go on from; -1: that was the last
   */
  discard(chosen: Uint8Array, from: number, slots: number, limit: number): number {
    const { words } = this
    let left = limit
    let mapping = from
    for (; mapping < this.end && mapping < from + slots && left > 0; mapping++) {
      const at = mapping << MAPPING_SHIFT
      const key = words[at + MAP_KEY]
      if (key === 0 || words[at + MAP_CONNECTIONS] !== 0 || chosen[key & 0xfff] === 0) continue
      this.erase(mapping)
      left--
    }
    return mapping < this.end ? mapping : -1
  }

  /** The mapping that has a packet's destination as its outside; -1: none. */
  findOutside(zone: number, flow: Flow): number {
    const { destination0, destination1, destination2, destination3 } = flow
    const key = keyOf(zone, flow)
    return this.keys.findOutside(key, flow.destinationPort, destination0, destination1, destination2, destination3)
  }

  /**
   * Whether a packet from outside, which belongs to no connection, may use a mapping (RFC 4787 section 5).
   * @param filtering FILTER_* of `router-table.ts`
   * @param flow of the packet as it came
   */
  mayEnter(mapping: number, filtering: number, flow: Flow): boolean {
    if (flow.protocol !== PROTOCOL_TCP && flow.protocol !== PROTOCOL_UDP) return false
    const { words, connections } = this
    const at = mapping << MAPPING_SHIFT
    let connection = words[at + MAP_CONNECTIONS] - 1
    if (connection < 0) return false
    if (filtering === FILTER_NONE) return true
    for (let left = ASKED_MAX; connection >= 0 && left > 0; left--) {
      const entry = connection << CONNECTION_SHIFT
      connection = connections[entry + CONN_MAP_NEXT] - 1
      if (!this.isOutbound(at, entry)) continue // that an outsider has been let in lets in nobody
      if (!isRemote(connections, entry, flow)) continue
      if (filtering === FILTER_ADDRESS || (connections[entry + CONN_PORTS] & 0xffff) === flow.sourcePort) return true
    }
    return false
  }

  /** Gives a mapping one more connection, which keeps it from becoming idle. */
  attach(mapping: number, connection: number): void {
    const { words, connections } = this
    const at = mapping << MAPPING_SHIFT
    const before = worthIn(words, at)
    const entry = this.link(mapping, connection)
    this.weighIn(at, (connections[entry + CONN_STATUS] >> WORTH_SHIFT) & 3, 1)
    this.settle(mapping, before)
  }

  /** Takes a connection from its mapping, which is idle after the last one. */
  release(mapping: number, connection: number, now: number): void {
    const { words, connections } = this
    const at = mapping << MAPPING_SHIFT
    const entry = connection << CONNECTION_SHIFT
    const before = worthIn(words, at)
    const next = connections[entry + CONN_MAP_NEXT]
    const previous = connections[entry + CONN_MAP_PREVIOUS]
    if (previous === 0) words[at + MAP_CONNECTIONS] = next
    else connections[((previous - 1) << CONNECTION_SHIFT) + CONN_MAP_NEXT] = next
    if (next !== 0) connections[((next - 1) << CONNECTION_SHIFT) + CONN_MAP_PREVIOUS] = previous
    connections[entry + CONN_MAPPING] = 0
    this.weighIn(at, (connections[entry + CONN_STATUS] >> WORTH_SHIFT) & 3, -1)
    if (words[at + MAP_CONNECTIONS] === 0) words[at + MAP_IDLE_SINCE] = now
    this.settle(mapping, before)
  }

  /** A connection of a mapping is worth something else. */
  weigh(mapping: number, before: number, after: number): void {
    const at = mapping << MAPPING_SHIFT
    const worth = worthIn(this.words, at)
    this.weighIn(at, before, -1)
    this.weighIn(at, after, 1)
    this.settle(mapping, worth)
  }

  /** A connection of a mapping was seen. */
  refresh(mapping: number): void {
    const { words } = this
    const at = mapping << MAPPING_SHIFT
    const worth = worthIn(words, at)
    this.lists.move(mapping, rowIn(words, at), zoneIn(words, at), worth, worth)
  }

  outsidePort(mapping: number): number {
    return this.words[(mapping << MAPPING_SHIFT) + MAP_PORTS] & 0xffff
  }

  insidePort(mapping: number): number {
    return this.words[(mapping << MAPPING_SHIFT) + MAP_PORTS] >>> 16
  }

  /** A word (0 to 3) of the outside address. */
  outsideWord(mapping: number, index: number): number {
    return this.words[(mapping << MAPPING_SHIFT) + MAP_OUTSIDE + index]
  }

  insideWord(mapping: number, index: number): number {
    return this.words[(mapping << MAPPING_SHIFT) + MAP_INSIDE + index]
  }

  /** Forgets all mappings of a zone; their connections lose them. Returns how many. */
  flush(zone: number): number {
    const { words, connections } = this
    let removed = 0
    for (let mapping = 0; mapping < this.end; mapping++) {
      const at = mapping << MAPPING_SHIFT
      if (words[at + MAP_KEY] === 0 || zoneIn(words, at) !== zone) continue
      const before = worthIn(words, at)
      for (let first = words[at + MAP_CONNECTIONS]; first !== 0; first = words[at + MAP_CONNECTIONS]) {
        const entry = (first - 1) << CONNECTION_SHIFT
        words[at + MAP_CONNECTIONS] = connections[entry + CONN_MAP_NEXT]
        connections[entry + CONN_MAPPING] = 0
      }
      words[at + MAP_ENDING] = words[at + MAP_KEPT] = 0
      this.settle(mapping, before)
      this.erase(mapping)
      removed++
    }
    return removed
  }

  /** Forgets what has been idle long enough. Call it about once a second; returns whether there is more to do. */
  sweep(now: number): boolean {
    const { lists } = this
    let left = SWEEP_LIMIT
    for (let row = 0; row < lists.rows && left > 0; row++) {
      for (; left > 0; left--) {
        const mapping = lists.head(row, IDLE)
        if (mapping < 0 || now - this.words[(mapping << MAPPING_SHIFT) + MAP_IDLE_SINCE] < IDLE_SECONDS) break
        this.erase(mapping)
      }
    }
    return left === 0
  }

  private refuse(): number {
    this.header[HEADER_MAPPINGS_REFUSED]++
    return -1
  }

  /** An outside port for a source that has no mapping, with SHARED if it is; others of the range give way. -1: none. */
  private choosePort(zone: number, flow: Flow, outside: OutsideAddress, row: number, reply: Flow | null): number {
    const { lists } = this
    const range = outside.range(flow.protocol)
    if (range === null) return this.keepPort(zone, flow, outside, reply)
    for (let tries = 0; tries < GIVE_WAY_MAX; tries++) {
      const port = range.choose(flow.sourcePort)
      if (port >= 0) return port
      const loose = lists.looseFor(zone, row)
      const shared = loose < 0 && reply !== null ? this.sharePort(zone, flow, outside, range, reply) : -1
      if (shared >= 0) return shared | SHARED
      if (!this.giveWay(loose < 0 ? lists.keptFor(zone, row) : loose)) return -1
    }
    return -1
  }

  /** A port that is taken already, but not with the far end of these answers; -1: none was found. */
  private sharePort(zone: number, flow: Flow, outside: OutsideAddress, range: PortRange, reply: Flow): number {
    let port = flow.sourcePort
    for (let tries = 0; tries < SHARE_TRIES; tries++) {
      if (range.isShareable(port) && this.isUnanswered(zone, outside, reply, port)) return port
      port = range.pick(flow.sourcePort)
    }
    return -1
  }

  /** The port of a source whose protocol has none to translate. */
  private keepPort(zone: number, flow: Flow, outside: OutsideAddress, reply: Flow | null): number {
    const { ip } = outside
    const port = flow.sourcePort
    const holder = this.keys.findOutside(keyOf(zone, flow), port, ip[0], ip[1], ip[2], ip[3])
    const isIdle = holder >= 0 && this.words[(holder << MAPPING_SHIFT) + MAP_CONNECTIONS] === 0
    if (isIdle) this.erase(holder)
    if (reply !== null && !this.isUnanswered(zone, outside, reply, port)) return -1
    if (holder < 0 || isIdle) return port
    return reply === null ? -1 : port | SHARED
  }

  /** Whether no connection has these answers, at an outside port. Writes it into them. */
  private isUnanswered(zone: number, outside: OutsideAddress, reply: Flow, port: number): boolean {
    const { ip } = outside
    reply.destination0 = ip[0]
    reply.destination1 = ip[1]
    reply.destination2 = ip[2]
    reply.destination3 = ip[3]
    reply.destinationPort = port
    // the identifier of an ICMP query stands in both places
    if (outside.isIdentifier(reply.protocol)) reply.sourcePort = port
    return this.table.find(zone, reply) < 0
  }

  /** Forgets a mapping with its connections. Returns whether it is gone. */
  private giveWay(mapping: number): boolean {
    if (mapping < 0) return false
    const { words } = this
    const at = mapping << MAPPING_SHIFT
    for (let left = END_MAX; left > 0 && words[at + MAP_CONNECTIONS] !== 0; left--)
      this.table.evict(words[at + MAP_CONNECTIONS] - 1)
    if (words[at + MAP_CONNECTIONS] !== 0) return false
    this.erase(mapping)
    return true
  }

  private isOutbound(at: number, entry: number): boolean {
    const { words, connections } = this
    if (connections[entry + CONN_SOURCE] !== words[at + MAP_INSIDE]) return false
    if (connections[entry + CONN_PORTS] >>> 16 !== words[at + MAP_PORTS] >>> 16) return false
    if (familyOf(words[at + MAP_KEY]) === 4) return true
    const rest = entry + CONN_IP6 + IP6_SOURCE
    return (
      connections[rest] === words[at + MAP_INSIDE + 1] &&
      connections[rest + 1] === words[at + MAP_INSIDE + 2] &&
      connections[rest + 2] === words[at + MAP_INSIDE + 3]
    )
  }

  private claim(zone: number, flow: Flow, outside: OutsideAddress, port: number, owner: number, now: number): number {
    const { words } = this
    const mapping = this.takeFree()
    const at = mapping << MAPPING_SHIFT
    words[at + MAP_PORTS] = (flow.sourcePort << 16) | (port & 0xffff)
    words[at + MAP_INSIDE] = flow.source0
    words[at + MAP_INSIDE + 1] = flow.source1
    words[at + MAP_INSIDE + 2] = flow.source2
    words[at + MAP_INSIDE + 3] = flow.source3
    for (let i = 0; i < 4; i++) words[at + MAP_OUTSIDE + i] = outside.ip[i]
    words[at + MAP_OWNER] = owner
    words[at + MAP_CONNECTIONS] = words[at + MAP_ENDING] = words[at + MAP_KEPT] = 0
    words[at + MAP_IDLE_SINCE] = now
    // last: from here on the entry counts, should this process die
    words[at + MAP_KEY] = keyOf(zone, flow) | (port >= SHARED ? KEY_SHARED : 0)
    this.enter(mapping)
    this.lists.put(mapping, rowIn(words, at), zone, IDLE)
    const range = this.rangeOf(at)
    if (range !== null) range.take(port & 0xffff)
    return mapping
  }

  /** A free entry; there must be one. */
  private takeFree(): number {
    if (this.freeCount > 0) return this.free[--this.freeCount]
    const mapping = this.end
    this.words[MAP_END] = ++this.end
    return mapping
  }

  /** Puts an entry into the index and the counts. */
  private enter(mapping: number): void {
    this.keys.insert(mapping)
    const at = mapping << MAPPING_SHIFT
    this.lists.enter(rowIn(this.words, at), zoneIn(this.words, at))
    if ((this.words[at + MAP_KEY] & KEY_SHARED) !== 0) this.sharing++
    this.header[HEADER_MAPPINGS_USED]++
  }

  /** Deletes an idle entry. */
  private erase(mapping: number): void {
    const { words } = this
    const at = mapping << MAPPING_SHIFT
    const range = this.rangeOf(at)
    const row = rowIn(words, at)
    this.lists.take(mapping, row, zoneIn(words, at), IDLE)
    this.keys.remove(mapping)
    if (range !== null && !this.isShared(at)) range.give(words[at + MAP_PORTS] & 0xffff)
    if ((words[at + MAP_KEY] & KEY_SHARED) !== 0) this.sharing--
    words[at + MAP_KEY] = 0
    this.lists.leave(row)
    this.header[HEADER_MAPPINGS_USED]--
    this.free[this.freeCount++] = mapping
  }

  /** Whether another mapping has the outside port of an entry that stands in the index no more. */
  private isShared(at: number): boolean {
    if (this.sharing === 0) return false
    const key = this.words[at + MAP_KEY]
    return this.hasOutside(this.words, at, key | KEY_SHARED) || this.hasOutside(this.words, at, key & ~KEY_SHARED)
  }

  /** The range that an entry has its port of; null: none, or its address is no longer the zone's. */
  private rangeOf(at: number): PortRange | null {
    const { words } = this
    const key = words[at + MAP_KEY]
    const outside = this.outsides[((key & 0xfff) << 1) | (familyOf(key) === 4 ? 0 : 1)]
    if (outside === null) return null
    const { ip } = outside
    return isAt(words, at + MAP_OUTSIDE, ip[0], ip[1], ip[2], ip[3]) ? outside.range((key >>> 12) & 0xff) : null
  }

  /** Puts a connection first in a mapping's list; its first word. */
  private link(mapping: number, connection: number): number {
    const { words, connections } = this
    const at = mapping << MAPPING_SHIFT
    const first = words[at + MAP_CONNECTIONS]
    if (first !== 0) connections[((first - 1) << CONNECTION_SHIFT) + CONN_MAP_PREVIOUS] = connection + 1
    const entry = connection << CONNECTION_SHIFT
    connections[entry + CONN_MAP_NEXT] = first
    connections[entry + CONN_MAP_PREVIOUS] = 0
    connections[entry + CONN_MAPPING] = mapping + 1
    words[at + MAP_CONNECTIONS] = connection + 1
    return entry
  }

  /** Counts a connection of a worth. */
  private weighIn(at: number, worth: number, change: number): void {
    if (worth === WORTH_ENDING) this.words[at + MAP_ENDING] += change
    else if (worth === WORTH_KEPT) this.words[at + MAP_KEPT] += change
  }

  /** Moves a mapping to the list of what it is worth now. */
  private settle(mapping: number, before: number): void {
    const { words } = this
    const at = mapping << MAPPING_SHIFT
    const after = worthIn(words, at)
    if (after !== before) this.lists.move(mapping, rowIn(words, at), zoneIn(words, at), before, after)
  }

  /** Enters what is there of an outside address into its fresh ranges. */
  private adopt(place: number): void {
    const { words } = this
    for (let mapping = 0; mapping < this.end; mapping++) {
      const at = mapping << MAPPING_SHIFT
      const key = words[at + MAP_KEY]
      if (key === 0 || (((key & 0xfff) << 1) | (familyOf(key) === 4 ? 0 : 1)) !== place) continue
      const range = this.rangeOf(at)
      if (range !== null) range.take(words[at + MAP_PORTS] & 0xffff)
    }
  }

  private takeOver(): void {
    const { words, connections, header } = this
    this.end = Math.min(Math.max(words[MAP_END], 0), this.capacity)
    if (this.end === 0 && header[HEADER_MAPPINGS_USED] === 0) return
    header[HEADER_MAPPINGS_USED] = 0
    this.keys.clear()
    for (let mapping = this.end - 1; mapping >= 0; mapping--) {
      const at = mapping << MAPPING_SHIFT
      words[at + MAP_CONNECTIONS] = words[at + MAP_ENDING] = words[at + MAP_KEPT] = 0
      if (this.isWhole(at)) this.enter(mapping)
      else {
        words[at + MAP_KEY] = 0
        this.free[this.freeCount++] = mapping
      }
    }
    const connectionEnd = Math.min(connections[CONN_END], connections.length >> CONNECTION_SHIFT)
    for (let connection = 0; connection < connectionEnd; connection++) {
      const entry = connection << CONNECTION_SHIFT
      const mapping = connections[entry + CONN_MAPPING] - 1
      if ((connections[entry + CONN_STATUS] & STATUS_LIVE) === 0 || mapping === -1) continue
      if (!this.isOf(mapping, connections[entry + CONN_ZONES])) {
        connections[entry + CONN_MAPPING] = 0
        continue
      }
      this.link(mapping, connection)
      this.weighIn(mapping << MAPPING_SHIFT, (connections[entry + CONN_STATUS] >> WORTH_SHIFT) & 3, 1)
    }
    for (let mapping = 0; mapping < this.end; mapping++) {
      const at = mapping << MAPPING_SHIFT
      if (words[at + MAP_KEY] === 0) continue
      if (words[at + MAP_CONNECTIONS] === 0) words[at + MAP_IDLE_SINCE] = header[HEADER_NOW]
      this.lists.put(mapping, rowIn(words, at), zoneIn(words, at), worthIn(words, at))
    }
  }

  /** Whether what a predecessor left can be an entry, and is not there yet. */
  private isWhole(at: number): boolean {
    const { words } = this
    const key = words[at + MAP_KEY]
    const family = (key & ~KEY_SHARED) >>> 20
    const owner = words[at + MAP_OWNER]
    if ((family !== 4 && family !== 6) || (key & 0xfff) >= NETWORKS_MAX || owner < 0 || owner >= this.portRows)
      return false
    return !this.isOutsideTaken(words, at)
  }

  /** Whether another mapping has alone what the entry that stands in `from` has: its outside address and port. */
  private isOutsideTaken(from: Int32Array, at: number): boolean {
    const key = from[at + MAP_KEY]
    return (key & KEY_SHARED) === 0 && this.hasOutside(from, at, key)
  }

  /** Whether a mapping of a key is known that has the outside address and port of the entry that stands in `from`. */
  private hasOutside(from: Int32Array, at: number, key: number): boolean {
    const ip = at + MAP_OUTSIDE
    const port = from[at + MAP_PORTS] & 0xffff
    return this.keys.findOutside(key, port, from[ip], from[ip + 1], from[ip + 2], from[ip + 3]) >= 0
  }

  /** Whether a connection of these CONN_ZONES can have a mapping. */
  isOf(mapping: number, zones: number): boolean {
    if (mapping < 0 || mapping >= this.end) return false
    const key = this.words[(mapping << MAPPING_SHIFT) + MAP_KEY]
    return key !== 0 && (key & 0xfff) === (zones & 0xfff) && ((key >>> 12) & 0xff) === zones >>> 24
  }
}

/** What a mapping in a table is worth. */
function worthIn(words: Int32Array, at: number): number {
  if (words[at + MAP_KEPT] > 0) return KEPT
  if (words[at + MAP_ENDING] > 0) return ENDING
  return words[at + MAP_CONNECTIONS] !== 0 ? UNPROVEN : IDLE
}

function zoneIn(words: Int32Array, at: number): number {
  return words[at + MAP_KEY] & 0xfff
}

function rowIn(words: Int32Array, at: number): number {
  const key = words[at + MAP_KEY]
  return rowOf(words[at + MAP_OWNER], rowKind(familyOf(key), (key >>> 12) & 0xff))
}

/** Whether a packet's source is the address that a connection was made to. */
function isRemote(connections: Int32Array, entry: number, flow: Flow): boolean {
  if (connections[entry + CONN_DESTINATION] !== flow.source0) return false
  if (flow.family === 4) return true
  const rest = entry + CONN_IP6 + IP6_DESTINATION
  return (
    connections[rest] === flow.source1 &&
    connections[rest + 1] === flow.source2 &&
    connections[rest + 2] === flow.source3
  )
}
