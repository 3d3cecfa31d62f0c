/**
 * The forwarding database: which port an address was last seen at (IEEE 802.1Q clause 8.8).
 *
 * Key: network, VID, MAC. Open addressing with linear probing in the arena's FDB section, so that the control process
 * can list it and the next shard process can take it over; deletion shifts back, there are no tombstones. At most half
 * of the entries are used. The hash multiplies with secret odd numbers, because guests choose the addresses.
 *
 * What complicates it:
 * - Age. An entry that is not seen for the network's ageing time is forgotten. Each port has a list of its entries by
 *   age, oldest first; seeing an address again moves it to the end, but only once a second, so a busy address costs one
 *   compare.
 * - Moves. An address seen at another port moves there, and the move is counted and told.
 * - Capacity. When the table is full, the oldest entry of the port that holds most makes room: who floods addresses
 *   evicts its own (as in Open vSwitch). A port at its own limit learns nothing more; its frames are forwarded all the
 *   same.
 * - Static entries never age, move or give way, and stand in no list. A frame with such a source at another port is not
 *   learned from.
 *
 * - Networks that move to another shard. Their entries come here by `takeIn`, with their ages: see `transfer.ts`.
 *
 * Not done here: whether a frame may be learned from (`ingress.ts` dropped those with a bad source).
 */
import * as layout from './layout.js'
import type { Arena } from './layout.js'
import type { PortTable } from './port-table.js'
import { Ranking } from './ranking.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  FDB_KEY_HIGH,
  FDB_MAC_LOW,
  FDB_MOVES,
  FDB_NETWORK,
  FDB_NEWER,
  FDB_OLDER,
  FDB_PORT,
  FDB_SEEN,
  FDB_SHIFT,
  FDB_STATIC,
  HEADER_FDB_CAPACITY,
  HEADER_FDB_EVICTED,
  HEADER_FDB_EXPIRED,
  HEADER_FDB_LEARNED,
  HEADER_FDB_MOVED,
  HEADER_FDB_REFUSED,
  HEADER_FDB_USED,
  HEADER_NOW,
} = layout

/** Moves remembered until the shard tells them; further ones are only counted. */
export const MOVES_REMEMBERED = 32
/** Words of a remembered move: MAC_LOW, KEY_HIGH, network, from, to. */
export const MOVE_STRIDE = 5
const ENTRY_WORDS = 1 << FDB_SHIFT
/** Entries forgotten in one sweep, so that no sweep holds up the frames. */
const SWEEP_LIMIT = 4096

export class Fdb {
  readonly moves = new Int32Array(MOVES_REMEMBERED * MOVE_STRIDE)
  moveCount = 0
  private readonly entries: Int32Array
  private readonly header: Int32Array
  private readonly ports: PortTable
  private readonly mask: number // entries
  private readonly wordMask: number
  private readonly limit: number
  private readonly oldest: Int32Array
  private readonly newest: Int32Array
  private readonly ranking: Ranking // learned entries by port
  private readonly held: Int32Array // the same, to read
  private readonly secret: Int32Array // odd multipliers
  touched = 0 // what `touch` read: of no use

  /** @param secret four random int32 */
  constructor(arena: Arena, ports: PortTable, secret: Int32Array) {
    this.entries = arena.fdb
    this.header = arena.header
    this.ports = ports
    this.mask = arena.header[HEADER_FDB_CAPACITY] - 1
    this.wordMask = (this.mask << FDB_SHIFT) | (ENTRY_WORDS - 1)
    this.limit = arena.header[HEADER_FDB_CAPACITY] >> 1
    this.oldest = new Int32Array(ports.size).fill(-1)
    this.newest = new Int32Array(ports.size).fill(-1)
    this.ranking = new Ranking(ports.size)
    this.held = this.ranking.counts
    this.secret = Int32Array.from(secret, (value) => value | 1)
    this.takeOver()
  }

  /**
   * The place (a word of the table) where the search for a key starts, for `lookup` and `learn`. It depends on the key
   * alone, so it stays right whatever is learned or forgotten in between.
   */
  place(low: number, keyHigh: number, network: number): number {
    return this.hash(low, keyHigh, network + 1)
  }

  /**
   * Reads the entries at the first `count` places, and does nothing with them: in a loop as short as this the reads
   * from a large table go on side by side, so the burst waits for memory once and not once a frame.
   */
  touch(places: Int32Array, count: number): void {
    const entries = this.entries
    let read = 0
    for (let i = 0; i < count; i++) read |= entries[places[i]]
    this.touched = read // or V8 would leave the reads out
  }

  /** The port of an address, -1 if unknown. */
  lookup(place: number, low: number, keyHigh: number, network: number): number {
    const entry = this.find(place, low, keyHigh, network + 1)
    return entry < 0 ? -1 : this.entries[entry + FDB_PORT]
  }

  /** The port of a static entry, -1 if there is none. */
  staticPort(place: number, low: number, keyHigh: number, network: number): number {
    const entry = this.find(place, low, keyHigh, network + 1)
    return entry >= 0 && this.entries[entry + FDB_SEEN] === FDB_STATIC ? this.entries[entry + FDB_PORT] : -1
  }

  /**
   * Learns that an address is at a port, or sees it again.
   * @param place of the key
   * @param keyHigh octets 1 and 2 of the address in bits 0 to 15, VID in bits 16 to 27
   * @param seconds now
   */
  learn(place: number, low: number, keyHigh: number, network: number, port: number, seconds: number): void {
    const entries = this.entries
    const entry = this.find(place, low, keyHigh, network + 1)
    if (entry < 0) {
      this.insertLearned(low, keyHigh, network + 1, port, seconds)
    } else if (entries[entry + FDB_PORT] === port) {
      if (entries[entry + FDB_SEEN] !== seconds && entries[entry + FDB_SEEN] !== FDB_STATIC) {
        entries[entry + FDB_SEEN] = seconds
        this.toNewest(entry, port)
      }
    } else if (entries[entry + FDB_SEEN] !== FDB_STATIC) {
      this.move(entry, port, seconds)
    }
  }

  /** Adds or replaces a static entry. Returns false if the table is full of static entries. */
  addStatic(low: number, keyHigh: number, network: number, port: number): boolean {
    const entry = this.find(this.place(low, keyHigh, network), low, keyHigh, network + 1)
    if (entry >= 0 && this.entries[entry + FDB_SEEN] !== FDB_STATIC) this.unlink(entry)
    if (entry < 0) {
      if (this.header[HEADER_FDB_USED] >= this.limit && !this.evict()) return false
      this.claim(low, keyHigh, network + 1, port, FDB_STATIC)
      return true
    }
    this.entries[entry + FDB_PORT] = port
    this.entries[entry + FDB_SEEN] = FDB_STATIC
    return true
  }

  /**
   * Takes an entry over from another shard's table; what is known of the key here stays as it is. The port's entries
   * come oldest first.
   * @param seen second; FDB_STATIC: a static entry
   * @returns false, counted: there is no room
   */
  takeIn(low: number, keyHigh: number, network: number, port: number, seen: number, moves: number): boolean {
    if (this.find(this.place(low, keyHigh, network), low, keyHigh, network + 1) >= 0) return true
    if (this.header[HEADER_FDB_USED] >= this.limit && !this.evict()) {
      this.header[HEADER_FDB_REFUSED]++
      return false
    }
    const entry = this.claim(low, keyHigh, network + 1, port, seen)
    this.entries[entry + FDB_MOVES] = moves
    if (seen !== FDB_STATIC) this.append(entry, port)
    return true
  }

  /** Removes one entry, static or learned. Returns whether it was there. */
  remove(low: number, keyHigh: number, network: number): boolean {
    const entry = this.find(this.place(low, keyHigh, network), low, keyHigh, network + 1)
    if (entry < 0) return false
    this.erase(entry)
    return true
  }

  /**
   * Forgets entries of a network: those of `port` (-1: any) and `vid` (-1: any).
   * @param statics also the static ones
   * @returns how many
   */
  flush(network: number, port: number, vid: number, statics: boolean): number {
    const entries = this.entries
    let removed = 0
    for (let i = 0; i <= this.mask; i++) {
      const entry = i << FDB_SHIFT
      if (entries[entry + FDB_NETWORK] !== network + 1) continue
      if (port >= 0 && entries[entry + FDB_PORT] !== port) continue
      if (vid >= 0 && entries[entry + FDB_KEY_HIGH] >>> 16 !== vid) continue
      if (!statics && entries[entry + FDB_SEEN] === FDB_STATIC) continue
      this.erase(entry)
      removed++
      i-- // another entry may have been shifted here
    }
    return removed
  }

  /**
   * Forgets all entries of chosen networks, a piece at a time, from the table's end on: what is shifted meanwhile goes
   * to where it is met yet.
   * @param chosen by network: 1 if it is
   * @param from how many entries were looked at
   * @param slots entries to look at, and `limit` those to forget, at most
   * @returns how many were looked at; -1: all
   */
  discard(chosen: Uint8Array, from: number, slots: number, limit: number): number {
    const entries = this.entries
    let left = limit
    let looked = from
    for (; looked <= this.mask && looked < from + slots && left > 0; ) {
      const entry = (this.mask - looked) << FDB_SHIFT
      const network = entries[entry + FDB_NETWORK] - 1
      if (network >= 0 && chosen[network] === 1) {
        this.erase(entry) // and look again: one from the table's start may have been shifted here
        left--
      } else looked++
    }
    return looked <= this.mask ? looked : -1
  }

  /** Forgets what is too old. Call it about once a second; returns whether more is left to do at once. */
  sweep(seconds: number): boolean {
    let left = SWEEP_LIMIT
    for (let port = 0; port < this.ports.size && left > 0; port++) {
      if (this.held[port] === 0) continue
      const aging = this.ports.agingSeconds[port]
      for (; left > 0; left--) {
        const entry = this.oldest[port]
        if (entry < 0 || seconds - this.entries[entry + FDB_SEEN] < aging) break
        this.erase(entry)
        this.header[HEADER_FDB_EXPIRED]++
      }
    }
    return left === 0
  }

  /** Learned entries of a port. */
  learnedAt(port: number): number {
    return this.held[port]
  }

  private hash(low: number, keyHigh: number, network: number): number {
    const secret = this.secret
    let h = (Math.imul(low, secret[0]) + Math.imul(keyHigh, secret[1]) + Math.imul(network, secret[2])) | 0
    h = Math.imul(h ^ (h >>> 16), secret[3])
    return ((h ^ (h >>> 15)) & this.mask) << FDB_SHIFT
  }

  private find(place: number, low: number, keyHigh: number, network: number): number {
    const entries = this.entries
    for (let entry = place; ; entry = (entry + ENTRY_WORDS) & this.wordMask) {
      if (entries[entry + FDB_NETWORK] === 0) return -1
      if (
        entries[entry + FDB_MAC_LOW] === low &&
        entries[entry + FDB_KEY_HIGH] === keyHigh &&
        entries[entry + FDB_NETWORK] === network
      )
        return entry
    }
  }

  /** Writes an entry for a key that is not in the table into its free place; returns it. */
  private claim(low: number, keyHigh: number, network: number, port: number, seen: number): number {
    const entries = this.entries
    let entry = this.hash(low, keyHigh, network)
    while (entries[entry + FDB_NETWORK] !== 0) entry = (entry + ENTRY_WORDS) & this.wordMask
    entries[entry + FDB_MAC_LOW] = low
    entries[entry + FDB_KEY_HIGH] = keyHigh
    entries[entry + FDB_OLDER] = -1
    entries[entry + FDB_NEWER] = -1
    entries[entry + FDB_MOVES] = 0
    entries[entry + FDB_PORT] = port
    entries[entry + FDB_SEEN] = seen
    entries[entry + FDB_NETWORK] = network // last: from here on the entry counts, should this process die
    this.header[HEADER_FDB_USED]++
    return entry
  }

  private insertLearned(low: number, keyHigh: number, network: number, port: number, seconds: number): void {
    if (this.held[port] >= this.ports.macLimit[port]) {
      this.header[HEADER_FDB_REFUSED]++
      return
    }
    if (this.header[HEADER_FDB_USED] >= this.limit && !this.evict()) {
      this.header[HEADER_FDB_REFUSED]++
      return
    }
    this.append(this.claim(low, keyHigh, network, port, seconds), port)
    this.header[HEADER_FDB_LEARNED]++
  }

  private move(entry: number, port: number, seconds: number): void {
    const entries = this.entries
    if (this.held[port] >= this.ports.macLimit[port]) {
      this.header[HEADER_FDB_REFUSED]++
      return
    }
    if (this.moveCount < MOVES_REMEMBERED) {
      const move = this.moveCount++ * MOVE_STRIDE
      this.moves[move] = entries[entry + FDB_MAC_LOW]
      this.moves[move + 1] = entries[entry + FDB_KEY_HIGH]
      this.moves[move + 2] = entries[entry + FDB_NETWORK] - 1
      this.moves[move + 3] = entries[entry + FDB_PORT]
      this.moves[move + 4] = port
    }
    this.unlink(entry)
    entries[entry + FDB_PORT] = port
    entries[entry + FDB_SEEN] = seconds
    entries[entry + FDB_MOVES]++
    this.append(entry, port)
    this.header[HEADER_FDB_MOVED]++
  }

  /** Makes room: forgets the oldest entry of the port that holds most. False if there are only static ones. */
  private evict(): boolean {
    const fullest = this.ranking.first()
    if (this.held[fullest] === 0) return false
    this.erase(this.oldest[fullest])
    this.header[HEADER_FDB_EVICTED]++
    return true
  }

  // A port's list by age.

  private append(entry: number, port: number): void {
    this.linkNewest(entry, port)
    this.ranking.add(port, 1)
  }

  private unlink(entry: number): void {
    const port = this.entries[entry + FDB_PORT]
    this.takeOut(entry, port)
    this.ranking.add(port, -1)
  }

  private toNewest(entry: number, port: number): void {
    if (this.newest[port] === entry) return
    this.takeOut(entry, port)
    this.linkNewest(entry, port)
  }

  private linkNewest(entry: number, port: number): void {
    const entries = this.entries
    const last = this.newest[port]
    entries[entry + FDB_OLDER] = last
    entries[entry + FDB_NEWER] = -1
    if (last < 0) this.oldest[port] = entry
    else entries[last + FDB_NEWER] = entry
    this.newest[port] = entry
  }

  private takeOut(entry: number, port: number): void {
    const entries = this.entries
    const older = entries[entry + FDB_OLDER]
    const newer = entries[entry + FDB_NEWER]
    if (older < 0) this.oldest[port] = newer
    else entries[older + FDB_NEWER] = newer
    if (newer < 0) this.newest[port] = older
    else entries[newer + FDB_OLDER] = older
  }

  /** Deletes an entry and closes the gap: later entries of the same run move up. */
  private erase(entry: number): void {
    const entries = this.entries
    if (entries[entry + FDB_SEEN] !== FDB_STATIC) this.unlink(entry)
    this.header[HEADER_FDB_USED]--
    let gap = entry
    for (let next = (gap + ENTRY_WORDS) & this.wordMask; ; next = (next + ENTRY_WORDS) & this.wordMask) {
      if (entries[next + FDB_NETWORK] === 0) break
      const home = this.hash(entries[next + FDB_MAC_LOW], entries[next + FDB_KEY_HIGH], entries[next + FDB_NETWORK])
      // it may fill the gap unless its home lies behind the gap
      if (((next - home) & this.wordMask) < ((next - gap) & this.wordMask)) continue
      this.relocate(next, gap)
      gap = next
    }
    entries[gap + FDB_NETWORK] = 0
  }

  private relocate(from: number, to: number): void {
    const entries = this.entries
    entries.copyWithin(to, from, from + ENTRY_WORDS)
    if (entries[to + FDB_SEEN] === FDB_STATIC) return
    const port = entries[to + FDB_PORT]
    const older = entries[to + FDB_OLDER]
    const newer = entries[to + FDB_NEWER]
    if (older < 0) this.oldest[port] = to
    else entries[older + FDB_NEWER] = to
    if (newer < 0) this.newest[port] = to
    else entries[newer + FDB_OLDER] = to
  }

  /**
   * Takes over what an earlier shard process left, which may have died in the middle of a change and hashed with
   * another secret: reads every whole entry, and builds the table anew with all ages at 0.
   */
  private takeOver(): void {
    const entries = this.entries
    const found: number[] = []
    for (let i = 0; i <= this.mask; i++) {
      const entry = i << FDB_SHIFT
      const port = entries[entry + FDB_PORT]
      if (entries[entry + FDB_NETWORK] > 0 && port >= 0 && port < this.ports.size)
        found.push(
          entries[entry + FDB_MAC_LOW],
          entries[entry + FDB_KEY_HIGH],
          entries[entry + FDB_NETWORK],
          port,
          entries[entry + FDB_SEEN],
        )
    }
    const now = this.header[HEADER_NOW]
    entries.fill(0)
    this.header[HEADER_FDB_USED] = 0
    for (let i = 0; i < found.length && this.header[HEADER_FDB_USED] < this.limit; i += 5) {
      const place = this.hash(found[i], found[i + 1], found[i + 2])
      if (this.find(place, found[i], found[i + 1], found[i + 2]) >= 0) continue // copied half-way by a deletion
      const seen = found[i + 4] === FDB_STATIC ? FDB_STATIC : now
      const entry = this.claim(found[i], found[i + 1], found[i + 2], found[i + 3], seen)
      if (seen !== FDB_STATIC) this.append(entry, found[i + 3])
    }
  }
}
