/**
 * The neighbor table: which MAC address, behind which port, an IP address of a segment has (RFC 826, RFC 4861).
 *
 * One table serves two ends: the router asks it for the next hop's MAC, and the guard (`guard.ts`) for the port that an
 * address belongs to. An entry is made when the router looks for an address (INCOMPLETE), when a host asks for the
 * router or answers it, when a guarded host uses an address for the first time, and by `bind`, for leases and assigned
 * addresses.
 *
 *   INCOMPLETE --answer--> REACHABLE --30 s--> STALE --used--> PROBE --answer--> REACHABLE
 *       |3 probes                                                |3 probes
 *       +--> FAILED (3 s, then gone or asked for again)                            +--> gone
 *
 * What a host sends confirms its entry, so a host in use is not probed. Packets for an INCOMPLETE entry wait:
 * `waiting.ts`.
 *
 * Capacity: the arena's; and for each port a number of entries, of which the oldest gives way to a new one: who claims
 * many addresses loses its own. When the table is full, the port that has most loses its oldest. Entries without an
 * answer belong to the router's own port of the segment and give way among themselves (RFC 6583). Bound entries never
 * give way.
 *
 * The table is in the arena and has one writer. A new shard process takes over what is whole and forgets the rest.
 */
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import type { Pool } from '../burst.js'
import { Ranking } from '../ranking.js'
import { HashIndex, KeyedHash } from './hash-index.js'
import { QUEUE, Waiting } from './waiting.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_NO_NEIGHBOR } = drops
const {
  HEADER_NEIGHBORS_EVICTED,
  HEADER_NEIGHBORS_FAILED,
  HEADER_NEIGHBORS_USED,
  HEADER_NEIGHBOR_CAPACITY,
  NEIGHBOR_SHIFT,
} = layout

// Words of an entry.
export const NEIGHBOR_KEY = 0 // segment + 1 | family << 16; 0: free
export const NEIGHBOR_IP = 1 // 4 words
export const NEIGHBOR_MAC_LOW = 5 // in the FDB's words
export const NEIGHBOR_MAC_HIGH = 6
export const NEIGHBOR_PORT = 7 // behind which it is; the router's own for one that has not answered
export const NEIGHBOR_STATE = 8
export const NEIGHBOR_FLAGS = 9
export const NEIGHBOR_CONFIRMED = 10 // seconds
export const NEIGHBOR_PROBED = 11 // seconds, of the last probe
export const NEIGHBOR_PROBES = 12 // sent without an answer
const OLDER = 13 // in the list of its port, by age
const NEWER = 14
export const NEIGHBOR_WAITING = 15 // packet + 1 at the head of the queue; 0: none

export const STATE_INCOMPLETE = 1
export const STATE_REACHABLE = 2
export const STATE_STALE = 3
export const STATE_PROBE = 4
export const STATE_FAILED = 5

/** By order: a lease or an assigned address. Its port, and its MAC unless it has none, are not to be changed. */
export const FLAG_BOUND = 1
/** Bound without a MAC: any of the port's. */
export const FLAG_ANY_MAC = 2
/** Its MAC is known. */
export const FLAG_MAC = 4

const REACHABLE_SECONDS = 30
const FAILED_SECONDS = 3
const FORGET_SECONDS = 900
const PROBES = 3
/** Entries of a port, and entries without an answer of a segment. */
export const PORT_LIMIT = 64
export const OPEN_PORT_LIMIT = 1024
const INCOMPLETE_LIMIT = 128
const ENTRY_WORDS = 1 << NEIGHBOR_SHIFT
/** Tells the hashes of this table from those of others. */
const HASH_PURPOSE = 1

export class Neighbors {
  /** changes when an entry goes: whoever remembers entries asks anew */
  generation = 1
  /** entries to be probed now, listed by `sweep` for the router to send: `probeCount` of them */
  readonly probes = new Int32Array(256)
  probeCount = 0
  /** packets that may go now, or not at all, taken from a queue: `releasedCount` of them */
  readonly released = new Int32Array(QUEUE)
  releasedCount = 0
  readonly entries: Int32Array
  private readonly header: Int32Array
  private readonly pool: Pool
  private readonly index: HashIndex
  private readonly hash: KeyedHash
  private readonly capacity: number
  private readonly free: Int32Array
  private freeCount = 0
  private readonly oldest: Int32Array
  private readonly newest: Int32Array
  private readonly ranking: Ranking // entries by port, bound ones not among them
  private readonly count: Int32Array // the same, to read
  private readonly limit: Int32Array // of a port
  /** bound IPv4 addresses of a port: one that has some may use no others */
  readonly bound4: Int32Array
  private readonly waiting: Waiting
  private readonly pending: Int32Array // entries that wait for an answer, which the sweep looks at each second
  private readonly pendingPlace: Int32Array // by entry's number: place in `pending` + 1; 0: not there
  private pendingCount = 0

  constructor(arena: Arena, pool: Pool, portRows: number) {
    this.entries = arena.neighbors
    this.header = arena.header
    this.pool = pool
    this.index = new HashIndex(arena.neighborIndex)
    this.hash = new KeyedHash(arena.header, HASH_PURPOSE)
    this.capacity = arena.header[HEADER_NEIGHBOR_CAPACITY]
    this.free = new Int32Array(this.capacity)
    this.oldest = new Int32Array(portRows).fill(-1)
    this.newest = new Int32Array(portRows).fill(-1)
    this.ranking = new Ranking(portRows)
    this.count = this.ranking.counts
    this.limit = new Int32Array(portRows).fill(PORT_LIMIT)
    this.bound4 = new Int32Array(portRows)
    this.waiting = new Waiting(pool, this.entries, NEIGHBOR_WAITING, portRows)
    this.pending = new Int32Array(this.capacity)
    this.pendingPlace = new Int32Array(this.capacity)
    this.takeOver()
  }

  /** Entries that may be learned at a port. */
  setLimit(port: number, limit: number): void {
    this.limit[port] = limit
  }

  /** The entry (its first word) of an address on a segment; -1: none. */
  find(segment: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const key = (segment + 1) | (family << 16)
    const hash = this.hashOf(key, ip0, ip1, ip2, ip3)
    const { entries, index } = this
    for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash)) {
      const entry = index.value(slot) << NEIGHBOR_SHIFT
      if (
        entries[entry + NEIGHBOR_IP] === ip0 &&
        entries[entry + NEIGHBOR_KEY] === key &&
        entries[entry + NEIGHBOR_IP + 1] === ip1 &&
        entries[entry + NEIGHBOR_IP + 2] === ip2 &&
        entries[entry + NEIGHBOR_IP + 3] === ip3
      )
        return entry
    }
    return -1
  }

  segment(entry: number): number {
    return (this.entries[entry + NEIGHBOR_KEY] & 0xffff) - 1
  }

  family(entry: number): number {
    return this.entries[entry + NEIGHBOR_KEY] >>> 16
  }

  /** The port behind which it is; the router's own while nobody has answered. */
  port(entry: number): number {
    return this.entries[entry + NEIGHBOR_PORT]
  }

  isBound(entry: number): boolean {
    return (this.entries[entry + NEIGHBOR_FLAGS] & FLAG_BOUND) !== 0
  }

  /** Whether packets for it can be sent now. */
  isUsable(entry: number): boolean {
    const { entries } = this
    const state = entries[entry + NEIGHBOR_STATE]
    return (entries[entry + NEIGHBOR_FLAGS] & FLAG_MAC) !== 0 && state !== STATE_FAILED && state !== STATE_INCOMPLETE
  }

  /** Whether it has not answered just now: packets for it are refused and it is not asked again at once. */
  hasFailed(entry: number, now: number): boolean {
    const { entries } = this
    return (
      entries[entry + NEIGHBOR_STATE] === STATE_FAILED && now - entries[entry + NEIGHBOR_CONFIRMED] < FAILED_SECONDS
    )
  }

  /** The router is about to send to a usable entry: one that has not been heard of for long is probed. */
  use(entry: number, now: number): void {
    const { entries } = this
    if (now - entries[entry + NEIGHBOR_CONFIRMED] < REACHABLE_SECONDS) return
    if (entries[entry + NEIGHBOR_STATE] === STATE_PROBE) return
    entries[entry + NEIGHBOR_STATE] = STATE_PROBE
    entries[entry + NEIGHBOR_PROBES] = 0
    entries[entry + NEIGHBOR_PROBED] = now - 1
    this.wait(entry)
  }

  /**
   * The router looks for an address that has no entry. Returns the new INCOMPLETE entry, which is listed in `probes`;
   * -1 if there is no room.
   * @param port the router's own on the segment
   */
  look(segment: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number, port: number, now: number) {
    if (this.probeCount >= this.probes.length) return -1
    const entry = this.make(segment, family, ip0, ip1, ip2, ip3, port, INCOMPLETE_LIMIT)
    if (entry < 0) return -1
    const { entries } = this
    entries[entry + NEIGHBOR_CONFIRMED] = now
    this.restart(entry, now)
    return entry
  }

  /** Lets a packet wait for an entry that is not usable yet, and asks for it. Takes it over. */
  hold(entry: number, packet: number, now: number): void {
    const { entries } = this
    if (entries[entry + NEIGHBOR_PROBED] < 0 || entries[entry + NEIGHBOR_STATE] === STATE_FAILED)
      this.restart(entry, now)
    this.waiting.hold(entry, packet)
  }

  /** Moves the packets that wait for an entry to `released`. */
  takeWaiting(entry: number): void {
    this.releasedCount = this.waiting.take(entry, this.released)
  }

  /**
   * A host said that an address is its own: makes or updates the entry, and moves what waits for it to `released`.
   * Returns the entry; -1 if it is bound to another place, or there is no room.
   */
  learn(
    segment: number,
    family: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    macLow: number,
    macHigh: number,
    port: number,
    now: number,
  ): number {
    const { entries } = this
    this.releasedCount = 0
    let entry = this.find(segment, family, ip0, ip1, ip2, ip3)
    if (entry < 0) {
      entry = this.make(segment, family, ip0, ip1, ip2, ip3, port, this.limit[port])
      if (entry < 0) return -1
    } else if (!this.mayBe(entry, macLow, macHigh, port)) {
      return -1
    }
    const isNews =
      entries[entry + NEIGHBOR_MAC_LOW] !== macLow ||
      entries[entry + NEIGHBOR_MAC_HIGH] !== macHigh ||
      (entries[entry + NEIGHBOR_FLAGS] & FLAG_MAC) === 0
    if (isNews) {
      entries[entry + NEIGHBOR_MAC_LOW] = macLow
      entries[entry + NEIGHBOR_MAC_HIGH] = macHigh
      entries[entry + NEIGHBOR_FLAGS] |= FLAG_MAC
    }
    if (entries[entry + NEIGHBOR_PORT] !== port) this.move(entry, port)
    this.confirm(entry, now)
    if (entries[entry + NEIGHBOR_WAITING] !== 0) this.takeWaiting(entry)
    return entry
  }

  /** The entry goes to another port, which loses its oldest one if it has as many as it may. */
  private move(entry: number, port: number): void {
    this.unlink(entry)
    if (this.count[port] >= this.limit[port]) this.evict(port)
    this.entries[entry + NEIGHBOR_PORT] = port
    this.link(entry)
  }

  /** Whether the entry may be this host: it is bound to it, or bound to nobody. */
  mayBe(entry: number, macLow: number, macHigh: number, port: number): boolean {
    const { entries } = this
    const flags = entries[entry + NEIGHBOR_FLAGS]
    if ((flags & FLAG_BOUND) === 0) return true
    if (entries[entry + NEIGHBOR_PORT] !== port) return false
    if ((flags & FLAG_ANY_MAC) !== 0) return true
    return entries[entry + NEIGHBOR_MAC_LOW] === macLow && entries[entry + NEIGHBOR_MAC_HIGH] === macHigh
  }

  /** The host has been heard of. */
  confirm(entry: number, now: number): void {
    const { entries } = this
    if (entries[entry + NEIGHBOR_CONFIRMED] === now && entries[entry + NEIGHBOR_STATE] === STATE_REACHABLE) return
    entries[entry + NEIGHBOR_CONFIRMED] = now
    entries[entry + NEIGHBOR_STATE] = STATE_REACHABLE
    entries[entry + NEIGHBOR_PROBES] = 0
    this.unlink(entry)
    this.link(entry)
  }

  /** Seconds since the host was heard of. */
  age(entry: number, now: number): number {
    return now - this.entries[entry + NEIGHBOR_CONFIRMED]
  }

  /**
   * Binds an address to a port by order, and to a MAC unless both its words are 0. Returns false if there is no room.
   */
  bind(
    segment: number,
    family: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    macLow: number,
    macHigh: number,
    port: number,
    now: number,
  ): boolean {
    this.unbind(segment, family, ip0, ip1, ip2, ip3)
    const { entries } = this
    let entry = this.find(segment, family, ip0, ip1, ip2, ip3)
    if (entry >= 0) this.remove(entry, DROP_NO_NEIGHBOR)
    if (this.freeCount === 0) this.evict(this.ranking.first())
    entry = this.take(segment, family, ip0, ip1, ip2, ip3, port)
    if (entry < 0) return false
    const hasMac = (macLow | macHigh) !== 0
    entries[entry + NEIGHBOR_FLAGS] = FLAG_BOUND | (hasMac ? FLAG_MAC : FLAG_ANY_MAC)
    entries[entry + NEIGHBOR_MAC_LOW] = macLow
    entries[entry + NEIGHBOR_MAC_HIGH] = macHigh
    entries[entry + NEIGHBOR_STATE] = hasMac ? STATE_STALE : STATE_INCOMPLETE
    entries[entry + NEIGHBOR_CONFIRMED] = now - REACHABLE_SECONDS
    if (family === 4) this.bound4[port]++
    return true
  }

  /** Takes a binding back; what was learned of it goes too. */
  unbind(segment: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number): boolean {
    const entry = this.find(segment, family, ip0, ip1, ip2, ip3)
    if (entry < 0 || !this.isBound(entry)) return false
    this.remove(entry, DROP_NO_NEIGHBOR)
    return true
  }

  /**
   * Takes an entry over from another shard's table, as it stands in a record (`transfer.ts`). Those of one port come
   * oldest first.
   * @param at of the record's first word
   * @param now by which its age becomes seconds
   * @returns false: there is no room
   */
  takeIn(record: Int32Array, at: number, now: number): boolean {
    const { entries } = this
    const key = record[at + NEIGHBOR_KEY]
    const segment = (key & 0xffff) - 1
    const family = key >>> 16
    const ip = at + NEIGHBOR_IP
    if (this.find(segment, family, record[ip], record[ip + 1], record[ip + 2], record[ip + 3]) >= 0) return true
    if (this.freeCount === 0) this.evict(this.ranking.first())
    const port = record[at + NEIGHBOR_PORT]
    const entry = this.take(segment, family, record[ip], record[ip + 1], record[ip + 2], record[ip + 3], port)
    if (entry < 0) return false
    entries[entry + NEIGHBOR_MAC_LOW] = record[at + NEIGHBOR_MAC_LOW]
    entries[entry + NEIGHBOR_MAC_HIGH] = record[at + NEIGHBOR_MAC_HIGH]
    entries[entry + NEIGHBOR_FLAGS] = record[at + NEIGHBOR_FLAGS]
    // who was being asked is asked again when the next packet comes
    entries[entry + NEIGHBOR_STATE] = record[at + NEIGHBOR_STATE] === STATE_REACHABLE ? STATE_REACHABLE : STATE_STALE
    entries[entry + NEIGHBOR_CONFIRMED] = Math.max(0, now - record[at + NEIGHBOR_CONFIRMED])
    this.link(entry)
    if (this.isBound(entry) && family === 4) this.bound4[port]++
    return true
  }

  /** Drops the packets that wait for neighbors of a chosen segment (`chosen` holds 1). */
  dropWaiting(chosen: Uint8Array): void {
    const { entries } = this
    for (let entry = 0; entry < this.capacity << NEIGHBOR_SHIFT; entry += ENTRY_WORDS) {
      if (entries[entry + NEIGHBOR_WAITING] === 0 || chosen[(entries[entry + NEIGHBOR_KEY] & 0xffff) - 1] !== 1)
        continue
      this.takeWaiting(entry)
      for (let i = 0; i < this.releasedCount; i++) this.pool.drop(this.released[i], DROP_NO_NEIGHBOR)
      this.releasedCount = 0
    }
  }

  private restart(entry: number, now: number): void {
    const { entries } = this
    entries[entry + NEIGHBOR_STATE] = STATE_INCOMPLETE
    entries[entry + NEIGHBOR_PROBES] = 1
    entries[entry + NEIGHBOR_PROBED] = now
    if (this.probeCount < this.probes.length) this.probes[this.probeCount++] = entry
    this.wait(entry)
  }

  /** Forgets what is known of a segment, or of one port of it (-1: all), bound entries included. */
  flush(segment: number, port: number): number {
    const { entries } = this
    let forgotten = 0
    for (let i = 0; i < this.capacity; i++) {
      const entry = i << NEIGHBOR_SHIFT
      if ((entries[entry + NEIGHBOR_KEY] & 0xffff) !== segment + 1) continue
      if (port >= 0 && entries[entry + NEIGHBOR_PORT] !== port) continue
      this.remove(entry, DROP_NO_NEIGHBOR)
      forgotten++
    }
    return forgotten
  }

  /**
   * Once a second: lists in `probes` the entries to ask for again, and gives up those that do not answer. The router is
   * told of each packet that waits for one of those.
   */
  sweep(now: number, router: GivesUp): void {
    const { entries, pending } = this
    for (let i = 0; i < this.pendingCount; ) {
      const entry = pending[i]
      const state = entries[entry + NEIGHBOR_STATE]
      const isOver = state !== STATE_INCOMPLETE && state !== STATE_PROBE
      const isDue = !isOver && entries[entry + NEIGHBOR_PROBED] < now
      if (isOver || (isDue && entries[entry + NEIGHBOR_PROBES] >= PROBES)) {
        this.unwait(entry) // the last one is in its place now
        if (!isOver) this.giveUp(entry, now, router)
        continue
      }
      if (isDue && this.probeCount < this.probes.length) {
        entries[entry + NEIGHBOR_PROBES]++
        entries[entry + NEIGHBOR_PROBED] = now
        this.probes[this.probeCount++] = entry
      }
      i++
    }
    this.forgetOld(now)
  }

  /** Frees an entry; what waits for it is dropped. */
  remove(entry: number, reason: number): void {
    const { entries } = this
    this.takeWaiting(entry)
    for (let i = 0; i < this.releasedCount; i++) this.pool.drop(this.released[i], reason)
    this.releasedCount = 0
    if (this.isBound(entry)) {
      if (this.family(entry) === 4) this.bound4[entries[entry + NEIGHBOR_PORT]]--
    } else {
      this.unlink(entry)
    }
    this.unwait(entry)
    this.index.remove(this.entryHash(entry), entry >> NEIGHBOR_SHIFT)
    entries[entry + NEIGHBOR_KEY] = 0
    entries[entry + NEIGHBOR_STATE] = 0
    this.free[this.freeCount++] = entry >> NEIGHBOR_SHIFT
    this.header[HEADER_NEIGHBORS_USED]--
    this.generation = (this.generation + 1) | 0
  }

  private giveUp(entry: number, now: number, router: GivesUp): void {
    const { entries } = this
    this.header[HEADER_NEIGHBORS_FAILED]++
    this.takeWaiting(entry)
    for (let i = 0; i < this.releasedCount; i++) router.unreachable(this.released[i])
    this.releasedCount = 0
    if (entries[entry + NEIGHBOR_STATE] === STATE_PROBE && !this.isBound(entry))
      return this.remove(entry, DROP_NO_NEIGHBOR)
    entries[entry + NEIGHBOR_STATE] = STATE_FAILED
    entries[entry + NEIGHBOR_CONFIRMED] = now
  }

  /** FAILED entries are tried again after a while; entries nobody has heard of go, the oldest of each port first. */
  private forgetOld(now: number): void {
    const { entries, oldest } = this
    for (let port = 0; port < oldest.length; port++) {
      for (let entry = oldest[port], looked = 0; entry >= 0 && looked < 8; looked++) {
        const following = entries[entry + NEWER]
        const age = now - entries[entry + NEIGHBOR_CONFIRMED]
        const state = entries[entry + NEIGHBOR_STATE]
        if (age > FORGET_SECONDS || (state === STATE_FAILED && age > FAILED_SECONDS))
          this.remove(entry, DROP_NO_NEIGHBOR)
        else if (state === STATE_REACHABLE && age >= REACHABLE_SECONDS) entries[entry + NEIGHBOR_STATE] = STATE_STALE
        entry = following
      }
    }
  }

  private make(
    segment: number,
    family: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    port: number,
    limit: number,
  ): number {
    if (this.count[port] >= limit && !this.evict(port)) return -1
    if (this.freeCount === 0 && !this.evict(this.ranking.first())) return -1
    const entry = this.take(segment, family, ip0, ip1, ip2, ip3, port)
    if (entry < 0) return -1
    this.link(entry)
    return entry
  }

  /** The oldest entry of a port gives way; false if it has none. */
  private evict(port: number): boolean {
    const victim = this.oldest[port]
    if (victim < 0) return false
    this.header[HEADER_NEIGHBORS_EVICTED]++
    this.remove(victim, DROP_NO_NEIGHBOR)
    return true
  }

  private take(
    segment: number,
    family: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    port: number,
  ): number {
    if (this.freeCount === 0) return -1
    const { entries } = this
    const place = this.free[--this.freeCount]
    const entry = place << NEIGHBOR_SHIFT
    entries.fill(0, entry, entry + ENTRY_WORDS)
    entries[entry + NEIGHBOR_IP] = ip0
    entries[entry + NEIGHBOR_IP + 1] = ip1
    entries[entry + NEIGHBOR_IP + 2] = ip2
    entries[entry + NEIGHBOR_IP + 3] = ip3
    entries[entry + NEIGHBOR_PORT] = port
    entries[entry + NEIGHBOR_PROBED] = -1
    entries[entry + OLDER] = entries[entry + NEWER] = -1
    entries[entry + NEIGHBOR_KEY] = (segment + 1) | (family << 16)
    this.index.insert(this.entryHash(entry), place)
    this.header[HEADER_NEIGHBORS_USED]++
    return entry
  }

  private entryHash(entry: number): number {
    const { entries } = this
    return this.hashOf(
      entries[entry + NEIGHBOR_KEY],
      entries[entry + NEIGHBOR_IP],
      entries[entry + NEIGHBOR_IP + 1],
      entries[entry + NEIGHBOR_IP + 2],
      entries[entry + NEIGHBOR_IP + 3],
    )
  }

  private hashOf(key: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const first = this.hash.mix(key, ip0, ip1, ip2)
    return key >>> 16 === 4 ? first : this.hash.mix(first, ip3, 0, 0)
  }

  /** Puts an entry into the list of those that are waited for; it holds all entries, each once. */
  private wait(entry: number): void {
    const place = entry >> NEIGHBOR_SHIFT
    if (this.pendingPlace[place] !== 0) return
    this.pending[this.pendingCount++] = entry
    this.pendingPlace[place] = this.pendingCount
  }

  /** Takes it out again; the last one takes its place. */
  private unwait(entry: number): void {
    const { pending, pendingPlace } = this
    const place = pendingPlace[entry >> NEIGHBOR_SHIFT]
    if (place === 0) return
    pendingPlace[entry >> NEIGHBOR_SHIFT] = 0
    const last = pending[--this.pendingCount]
    if (last === entry) return
    pending[place - 1] = last
    pendingPlace[last >> NEIGHBOR_SHIFT] = place
  }

  /** Puts an entry at the young end of its port's list. Bound entries stand in none. */
  private link(entry: number): void {
    if (this.isBound(entry)) return
    const { entries, newest, oldest } = this
    const port = entries[entry + NEIGHBOR_PORT]
    const last = newest[port]
    entries[entry + OLDER] = last
    entries[entry + NEWER] = -1
    if (last >= 0) entries[last + NEWER] = entry
    else oldest[port] = entry
    newest[port] = entry
    this.ranking.add(port, 1)
  }

  private unlink(entry: number): void {
    if (this.isBound(entry)) return
    const { entries, newest, oldest } = this
    const port = entries[entry + NEIGHBOR_PORT]
    const older = entries[entry + OLDER]
    const newer = entries[entry + NEWER]
    if (older >= 0) entries[older + NEWER] = newer
    else oldest[port] = newer
    if (newer >= 0) entries[newer + OLDER] = older
    else newest[port] = older
    this.ranking.add(port, -1)
  }

  /** The entries of a predecessor: those that are whole are taken over, their queues are lost with it. */
  private takeOver(): void {
    const { entries, header } = this
    this.index.clear()
    header[HEADER_NEIGHBORS_USED] = 0
    for (let place = this.capacity - 1; place >= 0; place--) {
      const entry = place << NEIGHBOR_SHIFT
      const port = entries[entry + NEIGHBOR_PORT]
      const isWhole =
        entries[entry + NEIGHBOR_KEY] !== 0 &&
        (entries[entry + NEIGHBOR_FLAGS] & (FLAG_MAC | FLAG_BOUND)) !== 0 &&
        port >= 0 &&
        port < this.oldest.length
      if (!isWhole) {
        entries[entry + NEIGHBOR_KEY] = 0
        this.free[this.freeCount++] = place
        continue
      }
      entries[entry + NEIGHBOR_WAITING] = 0
      entries[entry + NEIGHBOR_PROBED] = -1 // who has no MAC is asked when the next packet comes
      entries[entry + NEIGHBOR_STATE] = STATE_STALE
      this.index.insert(this.entryHash(entry), place)
      header[HEADER_NEIGHBORS_USED]++
      this.link(entry)
      if (this.isBound(entry) && this.family(entry) === 4) this.bound4[port]++
    }
  }
}

/** Who hears of packets whose next hop does not answer, and takes them. */
export interface GivesUp {
  unreachable(packet: number): void
}
