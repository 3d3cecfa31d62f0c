/**
 * Who gives way, and what expires next: the connections of each owner in lists by age.
 *
 * A list holds the entries of one owner (the port where a connection's first packet came in), of one timeout and one
 * worth, oldest first. So the next to expire and the next to give way are heads of lists. The lists' ends and the
 * counts are of this process; the links are in the entries.
 *
 * Who gives way: of an owner, its oldest entry of WORTH_UNPROVEN, whatever the timeout, else its oldest of
 * WORTH_ENDING: these are its loose ones. Of several owners, the one that has most of such entries, the asking one
 * itself if none has more. So a flood evicts its own, and who has many established connections loses none to it.
 *
 * Where nobody has loose ones, the least lately seen of WORTH_KEPT goes, from who has too much: of the zone that has
 * most entries, if it has more than the asking one, and there of the owner that has most, if it has more than the
 * asking owner. So no few ports hold the whole table against others, nor a zone's limit. Nobody loses such to himself.
 *
 * The owner with most loose ones in the whole table stands in a `Ranking`. That of a zone, and who has most of all, are
 * looked for by walks, see `Fullest`.
 */
import * as portTable from '../port-table.js'
import { Ranking } from '../ranking.js'
import * as entryLayout from './connection-entry.js'
import { Fullest } from './fullest.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  CLASS_MASK,
  CLASS_SHIFT,
  CONN_NEWER,
  CONN_OLDER,
  CONN_ORDER,
  CONN_OWNER,
  CONN_STATUS,
  CONN_WORDS,
  CONN_ZONES,
  TIMEOUTS,
  WORTH_KEPT,
  WORTH_SHIFT,
} = entryLayout
const { NETWORKS_MAX } = portTable

const LIST_SHIFT = 5 // lists of an owner: by worth, and of each by timeout
const CLASSES = TIMEOUTS.length
/** Bits of an owner's lists by worth. */
const UNPROVEN = (1 << CLASSES) - 1
const ENDING = UNPROVEN << CLASSES
const KEPT = ENDING << CLASSES

export class ConnectionLists {
  readonly portRows: number
  /** entries by owner, and by the zone they began in; to read */
  readonly held: Int32Array
  readonly zoneHeld = new Int32Array(NETWORKS_MAX)
  /** by owner: bits of the lists that are not empty; to read */
  readonly listed: Int32Array
  private readonly words: Int32Array
  private readonly oldest: Int32Array // by owner << LIST_SHIFT | list
  private readonly newest: Int32Array
  private readonly loose: Ranking // entries that may give way, by owner
  private readonly ownerZone: Int32Array // where the owner began its last connection
  private readonly loosest = new Fullest(NETWORKS_MAX) // owner, by zone
  private readonly fullest = new Fullest(NETWORKS_MAX)
  private readonly fullestZone = new Fullest(1)
  private order = 0

  /** @param words of the table of connections */
  constructor(words: Int32Array, portRows: number) {
    this.words = words
    this.portRows = portRows
    this.held = new Int32Array(portRows)
    this.listed = new Int32Array(portRows)
    this.oldest = new Int32Array(portRows << LIST_SHIFT).fill(-1)
    this.newest = new Int32Array(portRows << LIST_SHIFT).fill(-1)
    this.loose = new Ranking(portRows)
    this.ownerZone = new Int32Array(portRows).fill(-1)
  }

  /** A new entry, at the end of the list that its status names. */
  enter(entry: number): void {
    const at = entry * CONN_WORDS
    const owner = this.words[at + CONN_OWNER]
    const zone = this.words[at + CONN_ZONES] & 0xfff
    this.ownerZone[owner] = zone
    this.fullest.note(zone, owner, ++this.held[owner])
    this.fullestZone.note(0, zone, ++this.zoneHeld[zone])
    this.put(entry)
  }

  leave(entry: number): void {
    const at = entry * CONN_WORDS
    this.held[this.words[at + CONN_OWNER]]--
    this.zoneHeld[this.words[at + CONN_ZONES] & 0xfff]--
    this.take(entry)
  }

  /** Writes an entry's status, and puts it at the end of the list that this one names. */
  move(entry: number, status: number): void {
    this.take(entry)
    this.words[entry * CONN_WORDS + CONN_STATUS] = status
    this.put(entry)
  }

  /** To the end of its list. */
  refresh(entry: number): void {
    const at = entry * CONN_WORDS
    const list = listOf(this.words[at + CONN_OWNER], this.words[at + CONN_STATUS])
    this.order = (this.order + 1) | 0
    this.words[at + CONN_ORDER] = this.order
    if (this.newest[list] === entry) return
    this.unlink(entry, list)
    this.link(entry, list)
  }

  /** The oldest entry of an owner in a list (0 to 31); -1: none. */
  head(owner: number, list: number): number {
    return this.oldest[(owner << LIST_SHIFT) | list]
  }

  /** The entry of an owner that gives way first; -1: none may. */
  leastOf(owner: number): number {
    const listed = this.listed[owner]
    const unproven = this.oldestOf(owner, listed & UNPROVEN)
    return unproven >= 0 ? unproven : this.oldestOf(owner, listed & ENDING)
  }

  /** The entry of the whole table that gives way to an owner's in a zone; -1: none may. */
  least(zone: number, asking: number): number {
    const { counts } = this.loose
    const loosest = this.loose.first()
    if (counts[loosest] > 0) return this.leastOf(counts[asking] >= counts[loosest] ? asking : loosest)
    const fullest = this.findFullestZone()
    if (fullest === zone || this.zoneHeld[fullest] <= this.zoneHeld[zone] + 1) return this.keptIn(zone, asking)
    const owner = this.most(this.held, this.fullest, fullest)
    return owner < 0 ? -1 : this.keptOf(owner)
  }

  /** The same of those that the owners of a zone have. */
  leastIn(zone: number, asking: number): number {
    const { counts } = this.loose
    const loosest = this.most(counts, this.loosest, zone)
    if (loosest < 0) return this.keptIn(zone, asking)
    const isOwn = this.ownerZone[asking] === zone && counts[asking] >= counts[loosest]
    return this.leastOf(isOwn ? asking : loosest)
  }

  /** The established entry that gives way in a zone; -1: nobody has more than who asks. */
  private keptIn(zone: number, asking: number): number {
    const owner = this.most(this.held, this.fullest, zone)
    return owner >= 0 && this.held[owner] > this.held[asking] + 1 ? this.keptOf(owner) : -1
  }

  private keptOf(owner: number): number {
    return this.oldestOf(owner, this.listed[owner] & KEPT)
  }

  /** The owner of a zone that has most by a count; -1: none has any. */
  private most(counts: Int32Array, fullest: Fullest, zone: number): number {
    const known = fullest.known(zone, counts)
    if (known >= 0 && this.ownerZone[known] === zone) return known
    let found = -1
    for (let owner = 0; owner < this.portRows; owner++)
      if (this.ownerZone[owner] === zone && counts[owner] > 0 && (found < 0 || counts[owner] > counts[found]))
        found = owner
    fullest.set(zone, found, found < 0 ? 0 : counts[found])
    return found
  }

  private findFullestZone(): number {
    const { fullestZone, zoneHeld } = this
    const known = fullestZone.known(0, zoneHeld)
    if (known >= 0) return known
    let found = 0
    for (let zone = 1; zone < NETWORKS_MAX; zone++) if (zoneHeld[zone] > zoneHeld[found]) found = zone
    fullestZone.set(0, found, zoneHeld[found])
    return found
  }

  /** The one among the heads of some lists that was put there first. */
  private oldestOf(owner: number, lists: number): number {
    const { words } = this
    let found = -1
    for (let left = lists; left !== 0; left &= left - 1) {
      const entry = this.oldest[(owner << LIST_SHIFT) | lowestBit(left)]
      const isOlder =
        found < 0 || ((words[entry * CONN_WORDS + CONN_ORDER] - words[found * CONN_WORDS + CONN_ORDER]) | 0) < 0
      if (isOlder) found = entry
    }
    return found
  }

  private put(entry: number): void {
    const at = entry * CONN_WORDS
    const owner = this.words[at + CONN_OWNER]
    const status = this.words[at + CONN_STATUS]
    this.order = (this.order + 1) | 0
    this.words[at + CONN_ORDER] = this.order
    this.link(entry, listOf(owner, status))
    this.listed[owner] |= 1 << numberOf(status)
    if (((status >> WORTH_SHIFT) & 3) === WORTH_KEPT) return
    this.loose.add(owner, 1)
    this.loosest.note(this.words[at + CONN_ZONES] & 0xfff, owner, this.loose.counts[owner])
  }

  private take(entry: number): void {
    const at = entry * CONN_WORDS
    const owner = this.words[at + CONN_OWNER]
    const status = this.words[at + CONN_STATUS]
    const list = listOf(owner, status)
    this.unlink(entry, list)
    if (this.oldest[list] < 0) this.listed[owner] &= ~(1 << numberOf(status))
    if (((status >> WORTH_SHIFT) & 3) !== WORTH_KEPT) this.loose.add(owner, -1)
  }

  private link(entry: number, list: number): void {
    const { words } = this
    const at = entry * CONN_WORDS
    const last = this.newest[list]
    words[at + CONN_OLDER] = last
    words[at + CONN_NEWER] = -1
    if (last < 0) this.oldest[list] = entry
    else words[last * CONN_WORDS + CONN_NEWER] = entry
    this.newest[list] = entry
  }

  private unlink(entry: number, list: number): void {
    const { words } = this
    const at = entry * CONN_WORDS
    const older = words[at + CONN_OLDER]
    const newer = words[at + CONN_NEWER]
    if (older < 0) this.oldest[list] = newer
    else words[older * CONN_WORDS + CONN_NEWER] = newer
    if (newer < 0) this.newest[list] = older
    else words[newer * CONN_WORDS + CONN_OLDER] = older
  }
}

function listOf(owner: number, status: number): number {
  return (owner << LIST_SHIFT) | numberOf(status)
}

function numberOf(status: number): number {
  return ((status >> WORTH_SHIFT) & 3) * CLASSES + ((status >> CLASS_SHIFT) & CLASS_MASK)
}

/** The number of the lowest bit that is set. */
export function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits)
}
