/**
 * Which mapping gives way for another: the mappings in lists by who has them and by what they are worth, oldest first.
 *
 *   IDLE      no connection uses it
 *   UNPROVEN  nobody has to miss one of its connections: a SYN or a datagram that nobody answered, an answered question
 *   ENDING    one at least is closing
 *   KEPT      one at least has shown that both ends mean it
 *
 * A row is an owner (a port of the switch), a family and a kind of protocol: TCP, UDP, ICMP and the others do not take
 * each other's ports. Within a row IDLE gives way first, then UNPROVEN, then ENDING, of each the oldest; these are its
 * loose ones. Of several rows the one that has most loose ones gives way, the asking one itself if none has more. Only
 * where none has any, the row that has most mappings loses a KEPT one, the least lately used, to one that has fewer: so
 * whoever has none gets his share, and who holds many loses them to those who have few, never to himself.
 *
 * Who has most loose ones in the table stands in a `Ranking`; in a zone, and who has most of all, is looked for by a
 * walk over the ports, see `Fullest`.
 *
 * Capacity: that of the table. The lists are memory of the shard process; one that takes over makes them anew.
 */
import * as portTable from '../port-table.js'
import { Ranking } from '../ranking.js'
import { Fullest } from './fullest.js'
import * as headers from './headers.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { NETWORKS_MAX } = portTable
const { PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP } = headers

// What a mapping is worth, also the order in which they give way.
export const IDLE = 0
export const UNPROVEN = 1
export const ENDING = 2
export const KEPT = 3

const WORTH_BITS = 2
/** Rows of an owner: bits 0 and 1 the kind of protocol, bit 2 IPv6. */
const ROW_BITS = 3
const ROWS = 1 << ROW_BITS

/** Which of its owner's rows a mapping stands in. */
export function rowKind(family: number, protocol: number): number {
  const six = family === 4 ? 0 : 4
  if (protocol === PROTOCOL_TCP) return six
  if (protocol === PROTOCOL_UDP) return six | 1
  return protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMP6 ? six | 2 : six | 3
}

export function rowOf(owner: number, kind: number): number {
  return (owner << ROW_BITS) | kind
}

export class MappingLists {
  /** mappings by row; to read */
  readonly held: Int32Array
  readonly rows: number
  private readonly portRows: number
  private readonly heldBy: Int32Array // by owner
  private readonly loose: Int32Array // by row
  private readonly looseBy: Ranking // by owner
  private readonly rowZone: Int32Array // of the row's last mapping
  private readonly looseIn = new Int32Array(NETWORKS_MAX << ROW_BITS) // by scope: zone << ROW_BITS | kind
  private readonly loosest = new Fullest(NETWORKS_MAX << ROW_BITS) // row, by scope
  private readonly fullest = new Fullest(NETWORKS_MAX << ROW_BITS)
  private readonly fullestOwner = new Fullest(1)
  private readonly oldest: Int32Array // by row << WORTH_BITS | worth; -1: none
  private readonly newest: Int32Array
  private readonly older: Int32Array // by mapping
  private readonly newer: Int32Array

  constructor(capacity: number, portRows: number) {
    this.portRows = portRows
    this.rows = portRows << ROW_BITS
    this.held = new Int32Array(this.rows)
    this.heldBy = new Int32Array(portRows)
    this.loose = new Int32Array(this.rows)
    this.looseBy = new Ranking(portRows)
    this.rowZone = new Int32Array(this.rows).fill(-1)
    this.oldest = new Int32Array(this.rows << WORTH_BITS).fill(-1)
    this.newest = new Int32Array(this.rows << WORTH_BITS).fill(-1)
    this.older = new Int32Array(capacity)
    this.newer = new Int32Array(capacity)
  }

  /** One more mapping of a row, of a zone. It stands in no list yet. */
  enter(row: number, zone: number): void {
    const held = ++this.held[row]
    const owner = row >> ROW_BITS
    this.rowZone[row] = zone
    this.fullest.note(scopeOf(row, zone), row, held)
    this.fullestOwner.note(0, owner, ++this.heldBy[owner])
  }

  leave(row: number): void {
    this.held[row]--
    this.heldBy[row >> ROW_BITS]--
  }

  /** Puts a mapping at the end of a list. */
  put(mapping: number, row: number, zone: number, worth: number): void {
    const list = (row << WORTH_BITS) | worth
    const last = this.newest[list]
    this.older[mapping] = last
    this.newer[mapping] = -1
    if (last < 0) this.oldest[list] = mapping
    else this.newer[last] = mapping
    this.newest[list] = mapping
    if (worth !== KEPT) this.count(row, zone, 1)
  }

  /** Takes it from the list that it stands in. */
  take(mapping: number, row: number, zone: number, worth: number): void {
    this.unlink(mapping, (row << WORTH_BITS) | worth)
    if (worth !== KEPT) this.count(row, zone, -1)
  }

  /** From one list of its row to the end of another. */
  move(mapping: number, row: number, zone: number, from: number, to: number): void {
    if (from === to) {
      if (this.newest[(row << WORTH_BITS) | to] === mapping) return
      this.take(mapping, row, zone, from)
      return this.put(mapping, row, zone, to)
    }
    this.take(mapping, row, zone, from)
    this.put(mapping, row, zone, to)
  }

  /** The oldest of a row in a list; -1: none. */
  head(row: number, worth: number): number {
    return this.oldest[(row << WORTH_BITS) | worth]
  }

  /** The loose one of a row that gives way first; -1: it has none. */
  leastOf(row: number): number {
    for (let worth = IDLE; worth < KEPT; worth++) {
      const mapping = this.oldest[(row << WORTH_BITS) | worth]
      if (mapping >= 0) return mapping
    }
    return -1
  }

  /** The loose one that gives way for one more of a row, of those that a zone has of its kind; -1: none. */
  looseFor(zone: number, asking: number): number {
    if (this.looseIn[scopeOf(asking, zone)] === 0) return -1
    const row = this.most(this.loose, this.loosest, zone, asking)
    return row < 0 ? -1 : this.leastOf(this.loose[asking] >= this.loose[row] ? asking : row)
  }

  /** The kept one that does, where there is no loose one; -1: none. */
  keptFor(zone: number, asking: number): number {
    const row = this.most(this.held, this.fullest, zone, asking)
    return row >= 0 && this.held[row] > this.held[asking] + 1 ? this.head(row, KEPT) : -1
  }

  /** The one that gives way for one more of a row in the whole table; -1: none. */
  least(asking: number): number {
    const { counts } = this.looseBy
    const loosest = this.looseBy.first()
    const asker = asking >> ROW_BITS
    if (counts[loosest] > 0)
      return this.leastOf(this.greatest(this.loose, counts[asker] >= counts[loosest] ? asker : loosest))
    const owner = this.findFullestOwner()
    if (owner < 0 || this.heldBy[owner] <= this.heldBy[asker] + 1) return -1
    return this.head(this.greatest(this.held, owner), KEPT)
  }

  private count(row: number, zone: number, change: number): void {
    const scope = scopeOf(row, zone)
    this.loose[row] += change
    this.looseBy.add(row >> ROW_BITS, change)
    this.looseIn[scope] += change
    this.loosest.note(scope, row, this.loose[row])
  }

  private unlink(mapping: number, list: number): void {
    const before = this.older[mapping]
    const after = this.newer[mapping]
    if (before < 0) this.oldest[list] = after
    else this.newer[before] = after
    if (after < 0) this.newest[list] = before
    else this.older[after] = before
  }

  /** The row of a zone, of the kind of another, that has most by a count; -1: none has any. */
  private most(counts: Int32Array, fullest: Fullest, zone: number, like: number): number {
    const scope = scopeOf(like, zone)
    const known = fullest.known(scope, counts)
    if (known >= 0 && this.rowZone[known] === zone) return known
    let found = -1
    for (let row = like & (ROWS - 1); row < this.rows; row += ROWS)
      if (this.rowZone[row] === zone && counts[row] > 0 && (found < 0 || counts[row] > counts[found])) found = row
    fullest.set(scope, found, found < 0 ? 0 : counts[found])
    return found
  }

  /** -1: nobody has any. */
  private findFullestOwner(): number {
    const { fullestOwner, heldBy } = this
    const known = fullestOwner.known(0, heldBy)
    if (known >= 0) return known
    let found = 0
    for (let owner = 1; owner < this.portRows; owner++) if (heldBy[owner] > heldBy[found]) found = owner
    if (heldBy[found] === 0) found = -1
    fullestOwner.set(0, found, found < 0 ? 0 : heldBy[found])
    return found
  }

  /** The row of an owner that has most by a count. */
  private greatest(counts: Int32Array, owner: number): number {
    let found = owner << ROW_BITS
    for (let row = found + 1; row < (owner + 1) << ROW_BITS; row++) if (counts[row] > counts[found]) found = row
    return found
  }
}

/** The place of a zone and of what a row is of. */
function scopeOf(row: number, zone: number): number {
  return (zone << ROW_BITS) | (row & (ROWS - 1))
}
