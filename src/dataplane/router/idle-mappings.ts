/**
 * The mappings that no connection uses, by age: a list for each owner and one for each range of ports. `mappings.ts`
 * forgets them when they are old, and lets them give way before, when an owner, a range or the table is full.
 *
 * Capacity: that of the table. The lists are memory of the shard process; one that takes over makes them anew.
 */
import { Ranking } from '../ranking.js'
import type { PortRange } from './port-range.js'

export class IdleMappings {
  /** of each owner; -1: none */
  readonly oldest: Int32Array
  private readonly newest: Int32Array
  private readonly older: Int32Array // by mapping: in the list of its owner
  private readonly newer: Int32Array
  private readonly rangeOlder: Int32Array // and in that of its range
  private readonly rangeNewer: Int32Array
  private readonly ranking: Ranking // by owner

  constructor(capacity: number, portRows: number) {
    this.oldest = new Int32Array(portRows).fill(-1)
    this.newest = new Int32Array(portRows).fill(-1)
    this.older = new Int32Array(capacity)
    this.newer = new Int32Array(capacity)
    this.rangeOlder = new Int32Array(capacity)
    this.rangeNewer = new Int32Array(capacity)
    this.ranking = new Ranking(portRows)
  }

  /** The oldest of the owner that has most; -1: there is none. */
  oldestOfFullest(): number {
    return this.oldest[this.ranking.first()]
  }

  /** @param range null: none */
  append(mapping: number, owner: number, range: PortRange | null): void {
    const last = this.newest[owner]
    this.older[mapping] = last
    this.newer[mapping] = -1
    if (last < 0) this.oldest[owner] = mapping
    else this.newer[last] = mapping
    this.newest[owner] = mapping
    this.ranking.add(owner, 1)
    if (range !== null) this.appendToRange(mapping, range)
  }

  /** For one that stands in its owner's list already. */
  appendToRange(mapping: number, range: PortRange): void {
    const last = range.newest
    this.rangeOlder[mapping] = last
    this.rangeNewer[mapping] = -1
    if (last < 0) range.oldest = mapping
    else this.rangeNewer[last] = mapping
    range.newest = mapping
  }

  remove(mapping: number, owner: number, range: PortRange | null): void {
    const before = this.older[mapping]
    const after = this.newer[mapping]
    if (before < 0) this.oldest[owner] = after
    else this.newer[before] = after
    if (after < 0) this.newest[owner] = before
    else this.older[after] = before
    this.ranking.add(owner, -1)
    if (range === null) return
    const rangeBefore = this.rangeOlder[mapping]
    const rangeAfter = this.rangeNewer[mapping]
    if (rangeBefore < 0) range.oldest = rangeAfter
    else this.rangeNewer[rangeBefore] = rangeAfter
    if (rangeAfter < 0) range.newest = rangeBefore
    else this.rangeOlder[rangeAfter] = rangeBefore
  }
}
