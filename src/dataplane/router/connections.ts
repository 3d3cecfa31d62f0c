/**
 * The table of connections: who talks with whom through the router, and what it must remember of it.
 *
 * An entry (`connection-entry.ts`) is four lines of 64 bytes in the arena. It is found by two keys, each a zone and a
 * 5-tuple: that of the original direction, and that of the replies as they arrive, behind whatever is translated. Both
 * are in one hash index. A packet's match is `entry << 1 | direction` (0 original, 1 reply). What a packet does to its
 * connection is `conntrack.ts`.
 *
 * Age. An entry that is not seen for its timeout expires. Its place among the others (`connection-lists.ts`) and the
 * second it was seen are written at most once in a 64th of the timeout, so a busy connection costs one compare; it
 * expires that much late, never early. Where one port owns connections of zones with different timeouts, the longest
 * can delay the others.
 *
 * Capacity: the section of the arena, every entry of it. Limits: so many entries a zone, and so many a port, whatever
 * zone they are of. At the port's limit an entry of its own gives way, at the zone's one of the port of the zone that
 * has most of little worth, and when the table is full one of that port of all: `connection-lists.ts` says which, and
 * when established ones must go. Where none may, the new connection is refused and counted.
 *
 * A new shard process takes the table over: an entry counts as soon as STATUS_LIVE is set, which is written last, and
 * until it is cleared, which is written first. Everything else (index, lists, free entries, counts) is made anew from
 * the entries, so it does not matter where the predecessor was killed. Entries from CONN_END of entry 0 on were never
 * used, and their memory is not touched; so is that of the index while there was none.
 */
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import * as portTable from '../port-table.js'
import * as entryLayout from './connection-entry.js'
import { ConnectionKeys, isSameFlow } from './connection-keys.js'
import { ConnectionLists, lowestBit } from './connection-lists.js'
import type { Flow } from './flow.js'

export * from './connection-entry.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  CONNECTION_SHIFT,
  HEADER_CONNECTIONS_EVICTED,
  HEADER_CONNECTIONS_EXPIRED,
  HEADER_CONNECTIONS_MADE,
  HEADER_CONNECTIONS_REFUSED,
  HEADER_CONNECTIONS_USED,
  HEADER_CONNECTION_CAPACITY,
  HEADER_NOW,
} = layout
const {
  CLASS_MASK,
  CLASS_SHIFT,
  CONN_COUNTERS,
  CONN_CREATED,
  CONN_END,
  CONN_GENERATION,
  CONN_MAPPING,
  CONN_MAP_NEXT,
  CONN_MAP_PREVIOUS,
  CONN_NEIGHBOR,
  CONN_OWNER,
  CONN_REPLY_NEIGHBOR,
  CONN_SEEN,
  CONN_STATUS,
  CONN_ZONES,
  LIST_MASK,
  STATUS_DNAT,
  STATUS_IP6,
  STATUS_LIVE,
  STATUS_SNAT,
  TIMEOUTS,
  WORTH_KEPT,
  WORTH_SHIFT,
} = entryLayout
const { firstTimeout } = entryLayout
const { NETWORKS_MAX } = portTable

/** Zones have these until they are configured. */
const ZONE_LIMIT = 65536
const PORT_LIMIT = 16384
/** Entries forgotten in one sweep, so that no sweep holds up the frames. */
const SWEEP_LIMIT = 512
const CLASS_BITS = 4
const LIST = LIST_MASK << CLASS_SHIFT
/** More than there are entries: a second and an entry as one number, to sort. */
const ENTRIES_MAX = 2 ** 24

/** What is told of connections that have a mapping. */
export interface Mapped {
  /** One is forgotten. */
  release(mapping: number, entry: number, now: number): void
  /** One is worth something else, WORTH_*. */
  weigh(mapping: number, before: number, after: number): void
  /** One was seen, after a 64th of its timeout. */
  refresh(mapping: number): void
}

export class Connections {
  /** the entries, CONN_WORDS each */
  readonly words: Int32Array
  /** the same memory, for CONN_COUNTERS */
  readonly counters: Float64Array
  mappings: Mapped | null = null
  private readonly header: Int32Array
  private readonly keys: ConnectionKeys
  private readonly lists: ConnectionLists
  private readonly capacity: number
  private readonly zoneLimit = new Int32Array(NETWORKS_MAX)
  private readonly portLimit = new Int32Array(NETWORKS_MAX) // by zone
  private readonly timeouts = new Int32Array(NETWORKS_MAX << CLASS_BITS) // by zone << CLASS_BITS | TIMEOUT_*
  private readonly grains = new Int32Array(NETWORKS_MAX << CLASS_BITS)
  private readonly free: Int32Array // a stack; entries from `end` on are free as well
  private freeCount = 0
  private end = 0

  /** Takes over what the arena holds. */
  constructor(arena: Arena, portRows: number) {
    const { header, connections } = arena
    this.words = connections
    this.counters = new Float64Array(connections.buffer, connections.byteOffset, connections.length >> 1)
    this.header = header
    this.keys = new ConnectionKeys(arena)
    this.lists = new ConnectionLists(connections, portRows)
    this.capacity = header[HEADER_CONNECTION_CAPACITY]
    this.free = new Int32Array(this.capacity)
    const defaults = TIMEOUTS.map(({ seconds }) => seconds)
    for (let zone = 0; zone < NETWORKS_MAX; zone++) this.configure(zone, defaults, ZONE_LIMIT, PORT_LIMIT)
    this.takeOver()
  }

  /**
   * Sets a zone's timeouts (seconds by TIMEOUT_*), and how many connections may begin in it and at one port of it. What
   * is there already stays until it expires or gives way.
   */
  configure(zone: number, timeouts: readonly number[], connectionLimit: number, portLimit: number): void {
    for (let kind = 0; kind < TIMEOUTS.length; kind++) {
      const seconds = Math.max(1, timeouts[kind])
      this.timeouts[(zone << CLASS_BITS) | kind] = seconds
      this.grains[(zone << CLASS_BITS) | kind] = Math.max(1, seconds >> 6)
    }
    this.zoneLimit[zone] = connectionLimit
    this.portLimit[zone] = portLimit
  }

  /** The hash of an IPv4 key as words, for `find4` and `touch`: see `ConnectionKeys.hash4`. */
  hash4(head: number, source: number, destination: number, ports: number): number {
    return this.keys.hash4(head, source, destination, ports)
  }

  /**
   * Reads what `find4` and `Conntrack.track` will read for the first `count` hashes (a burst at most), and does
   * nothing with it: the reads go on side by side, first those of the index, then those of the entries.
   */
  touch(hashes: Int32Array, count: number): void {
    this.keys.touch(hashes, count)
  }

  /** The match of a packet that arrived in a zone; -1: none. */
  find(zone: number, flow: Flow): number {
    const { keys } = this
    return keys.find(keys.hash(zone, flow), zone, flow)
  }

  /** `find` for an IPv4 key as words, see `ConnectionKeys.hash4`. */
  find4(hash: number, head: number, source: number, destination: number, ports: number): number {
    return this.keys.find4(hash, head, source, destination, ports)
  }

  /** The zone that a connection began in. */
  zone(entry: number): number {
    return this.words[(entry << CONNECTION_SHIFT) + CONN_ZONES] & 0xfff
  }

  /** Connections of an owner. */
  heldBy(owner: number): number {
    return this.lists.held[owner]
  }

  /** Connections that began in a zone. */
  heldIn(zone: number): number {
    return this.lists.zoneHeld[zone]
  }

  /**
   * Makes an entry of the least worth; `Conntrack.begin` then says what it is.
   * @param replyZone zone in which replies arrive
   * @param reply their 5-tuple as it will arrive
   * @param owner port that answers for it
   * @returns the entry; -1, counted: no room, or one of the keys is taken
   */
  create(zone: number, replyZone: number, flow: Flow, reply: Flow, owner: number, now: number): number {
    const { words, keys } = this
    const isTaken = this.find(zone, flow) >= 0 || this.find(replyZone, reply) >= 0
    if (isTaken || (zone === replyZone && isSameFlow(flow, reply)) || !this.makeRoom(zone, owner)) {
      this.header[HEADER_CONNECTIONS_REFUSED]++
      return -1
    }
    const entry = this.takeFree()
    const at = entry << CONNECTION_SHIFT
    for (let word = 0; word < CONN_END; word++) words[at + word] = 0
    words[at + CONN_ZONES] = zone | (replyZone << 12) | (flow.protocol << 24)
    keys.write(at, 0, flow)
    keys.write(at, 1, reply)
    words[at + CONN_SEEN] = now
    words[at + CONN_CREATED] = now
    words[at + CONN_OWNER] = owner
    const status = (firstTimeout(flow.protocol) << CLASS_SHIFT) | (flow.family === 6 ? STATUS_IP6 : 0)
    words[at + CONN_STATUS] = status | STATUS_LIVE // last: see above
    keys.add(entry)
    this.lists.enter(entry)
    this.header[HEADER_CONNECTIONS_USED]++
    this.header[HEADER_CONNECTIONS_MADE]++
    return entry
  }

  /**
   * Takes an entry over from another shard's table, as it stands in a record (`transfer.ts`). It keeps its state and
   * counters; the way it goes, its lists and its mapping are found anew. Those of one owner come oldest first.
   * @param at of the record's first word
   * @param now by which its ages become seconds
   * @returns the entry; -1, counted: there is no room
   */
  takeIn(record: Int32Array, at: number, now: number): number {
    const { words, header } = this
    const isFull = this.freeCount === 0 && this.end >= this.capacity
    if (isFull && !this.evict(this.lists.least(record[at + CONN_ZONES] & 0xfff, record[at + CONN_OWNER]))) {
      header[HEADER_CONNECTIONS_REFUSED]++
      return -1
    }
    const entry = this.takeFree()
    const to = entry << CONNECTION_SHIFT
    for (let word = 0; word < CONN_END; word++) if (word !== CONN_STATUS) words[to + word] = record[at + word]
    words[to + CONN_SEEN] = Math.max(0, now - record[at + CONN_SEEN])
    words[to + CONN_CREATED] = Math.max(0, now - record[at + CONN_CREATED])
    words[to + CONN_NEIGHBOR] = words[to + CONN_REPLY_NEIGHBOR] = words[to + CONN_GENERATION] = 0
    words[to + CONN_MAPPING] = words[to + CONN_MAP_NEXT] = words[to + CONN_MAP_PREVIOUS] = 0
    words[to + CONN_STATUS] = record[at + CONN_STATUS] // last: see above
    if (!this.isWhole(to)) {
      words[to + CONN_STATUS] = 0
      this.free[this.freeCount++] = entry
      return -1
    }
    this.keys.add(entry)
    this.lists.enter(entry)
    header[HEADER_CONNECTIONS_USED]++
    return entry
  }

  /** Says which addresses of a connection are translated. */
  setTranslated(entry: number, isSource: boolean, isDestination: boolean): void {
    const bits = (isSource ? STATUS_SNAT : 0) | (isDestination ? STATUS_DNAT : 0)
    this.words[(entry << CONNECTION_SHIFT) + CONN_STATUS] |= bits
  }

  /** A packet was seen: the status that the connection now has, and its place by age. */
  see(entry: number, status: number, now: number): void {
    const { words } = this
    const at = entry << CONNECTION_SHIFT
    const before = words[at + CONN_STATUS]
    const mapping = words[at + CONN_MAPPING] - 1
    if (((before ^ status) & LIST) !== 0) {
      this.lists.move(entry, status)
      words[at + CONN_SEEN] = now
      if (mapping >= 0 && this.mappings !== null)
        this.mappings.weigh(mapping, (before >> WORTH_SHIFT) & 3, (status >> WORTH_SHIFT) & 3)
      return
    }
    if (before !== status) words[at + CONN_STATUS] = status
    const kind = (status >> CLASS_SHIFT) & CLASS_MASK
    if (now - words[at + CONN_SEEN] < this.grains[((words[at + CONN_ZONES] & 0xfff) << CLASS_BITS) | kind]) return
    words[at + CONN_SEEN] = now
    this.lists.refresh(entry)
    if (mapping >= 0 && this.mappings !== null) this.mappings.refresh(mapping)
  }

  /**
   * A packet was seen that changes nothing of its connection but age and counters.
   * @param bytes of the IP packet
   */
  seeAgain(match: number, bytes: number, now: number): void {
    const { counters, words } = this
    const entry = match >> 1
    const at = entry << CONNECTION_SHIFT
    if (words[at + CONN_SEEN] !== now) this.see(entry, words[at + CONN_STATUS], now)
    const counter = ((at + CONN_COUNTERS) >> 1) + ((match & 1) << 1)
    counters[counter]++
    counters[counter + 1] += bytes
  }

  /** Forgets a connection. */
  remove(entry: number): void {
    const { words } = this
    const at = entry << CONNECTION_SHIFT
    const status = words[at + CONN_STATUS]
    if ((status & STATUS_LIVE) === 0) return
    words[at + CONN_STATUS] = status & ~STATUS_LIVE // first: see above
    this.keys.remove(entry)
    this.lists.leave(entry)
    this.header[HEADER_CONNECTIONS_USED]--
    const mapping = words[at + CONN_MAPPING]
    if (mapping !== 0 && this.mappings !== null) this.mappings.release(mapping - 1, entry, this.header[HEADER_NOW])
    this.free[this.freeCount++] = entry
  }

  /** Forgets the connections that began in a zone or reply into it. Returns how many. */
  flush(zone: number): number {
    const { words } = this
    let removed = 0
    for (let entry = 0; entry < this.end; entry++) {
      const at = entry << CONNECTION_SHIFT
      const zones = words[at + CONN_ZONES]
      if ((words[at + CONN_STATUS] & STATUS_LIVE) === 0) continue
      if ((zones & 0xfff) !== zone && ((zones >> 12) & 0xfff) !== zone) continue
      this.remove(entry)
      removed++
    }
    return removed
  }

  /**
   * Forgets connections that are of a chosen zone in either direction, a piece at a time.
   * @param chosen by zone: 1 if it is
   * @param from entry
   * @param slots entries to look at, and `limit` those to forget, at most
   * @returns the entry to go on from; -1: that was the last
   */
  discard(chosen: Uint8Array, from: number, slots: number, limit: number): number {
    const { words } = this
    let left = limit
    let entry = from
    for (; entry < this.end && entry < from + slots && left > 0; entry++) {
      const at = entry << CONNECTION_SHIFT
      const zones = words[at + CONN_ZONES]
      if ((words[at + CONN_STATUS] & STATUS_LIVE) === 0) continue
      if ((chosen[zones & 0xfff] | chosen[(zones >> 12) & 0xfff]) === 0) continue
      this.remove(entry)
      left--
    }
    return entry < this.end ? entry : -1
  }

  /** Forgets the connections of an owner: its port is gone. Returns how many. */
  flushOwner(owner: number): number {
    const { lists } = this
    const removed = lists.held[owner]
    for (let listed = lists.listed[owner]; listed !== 0; listed = lists.listed[owner])
      this.remove(lists.head(owner, lowestBit(listed)))
    return removed
  }

  /** Forgets what has expired. Call it about once a second; returns whether more is left to do at once. */
  sweep(now: number): boolean {
    const { lists } = this
    let left = SWEEP_LIMIT
    for (let owner = 0; owner < lists.portRows; owner++) {
      for (let listed = lists.listed[owner]; listed !== 0; listed &= listed - 1) {
        const list = lowestBit(listed)
        for (let entry = lists.head(owner, list); entry >= 0; entry = lists.head(owner, list)) {
          if (!this.isExpired(entry, now)) break
          if (left-- === 0) return true
          this.remove(entry)
          this.header[HEADER_CONNECTIONS_EXPIRED]++
        }
      }
    }
    return false
  }

  /** A free entry; there must be one. */
  private takeFree(): number {
    if (this.freeCount > 0) return this.free[--this.freeCount]
    const entry = this.end
    this.words[CONN_END] = ++this.end
    return entry
  }

  private isExpired(entry: number, now: number): boolean {
    const at = entry << CONNECTION_SHIFT
    const kind = (this.words[at + CONN_STATUS] >> CLASS_SHIFT) & CLASS_MASK
    const row = ((this.words[at + CONN_ZONES] & 0xfff) << CLASS_BITS) | kind
    return now - this.words[at + CONN_SEEN] >= this.timeouts[row] + this.grains[row]
  }

  /** Keeps the limits: lets others give way, two at most for each, so that a limit that was lowered is reached. */
  private makeRoom(zone: number, owner: number): boolean {
    const { lists } = this
    for (let i = 0; i < 2 && lists.held[owner] >= this.portLimit[zone]; i++)
      if (!this.evict(lists.leastOf(owner)) && i === 0) return false
    for (let i = 0; i < 2 && lists.zoneHeld[zone] >= this.zoneLimit[zone]; i++)
      if (!this.evict(lists.leastIn(zone, owner)) && i === 0) return false
    return this.freeCount > 0 || this.end < this.capacity || this.evict(lists.least(zone, owner))
  }

  /** Makes a connection give way; -1: none. Returns whether there was one. */
  evict(entry: number): boolean {
    if (entry < 0) return false
    this.remove(entry)
    this.header[HEADER_CONNECTIONS_EVICTED]++
    return true
  }

  /** Makes index, lists, free entries and counts from the entries that are whole, by age; clears the others. */
  private takeOver(): void {
    const { words, header, keys, lists } = this
    this.end = Math.min(Math.max(words[CONN_END], 0), this.capacity)
    header[HEADER_CONNECTIONS_USED] = 0
    if (this.end === 0) return
    keys.clear()
    const byAge = new Float64Array(this.end)
    let found = 0
    for (let entry = this.end - 1; entry >= 0; entry--) {
      const at = entry << CONNECTION_SHIFT
      if (this.isWhole(at)) {
        const seen = words[at + CONN_SEEN]
        if (seen < 0 || seen > header[HEADER_NOW]) words[at + CONN_SEEN] = header[HEADER_NOW]
        byAge[found++] = words[at + CONN_SEEN] * ENTRIES_MAX + entry
      } else {
        words[at + CONN_STATUS] = 0
        this.free[this.freeCount++] = entry
      }
    }
    byAge.subarray(0, found).sort()
    for (let i = 0; i < found; i++) {
      const entry = byAge[i] % ENTRIES_MAX
      const at = entry << CONNECTION_SHIFT
      // what the predecessor had found may be another's place by now
      words[at + CONN_NEIGHBOR] = words[at + CONN_REPLY_NEIGHBOR] = words[at + CONN_GENERATION] = 0
      keys.add(entry)
      lists.enter(entry)
      header[HEADER_CONNECTIONS_USED]++
    }
  }

  private isWhole(at: number): boolean {
    const { words } = this
    const status = words[at + CONN_STATUS]
    const zones = words[at + CONN_ZONES]
    const owner = words[at + CONN_OWNER]
    if ((status & STATUS_LIVE) === 0 || owner < 0 || owner >= this.lists.portRows) return false
    if (((status >> WORTH_SHIFT) & 3) > WORTH_KEPT) return false
    if (((status >> CLASS_SHIFT) & CLASS_MASK) >= TIMEOUTS.length) return false
    return (zones & 0xfff) < NETWORKS_MAX && ((zones >> 12) & 0xfff) < NETWORKS_MAX
  }
}
