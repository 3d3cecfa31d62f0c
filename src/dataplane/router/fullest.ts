/**
 * Who has most of something, by scope (a zone, say): an answer that is kept while it is nearly right.
 *
 * `note` hears of each that grows, and so of any that has more than all before. When the one that had most has lost
 * a 64th, the caller looks for another, by a walk over all, and says who it is: a flood pays for the walk once in so
 * many packets. Capacity: the scopes.
 */
const SLACK_SHIFT = 6

export class Fullest {
  private readonly who: Int32Array // + 1; 0: not known
  private readonly had: Int32Array

  constructor(scopes: number) {
    this.who = new Int32Array(scopes)
    this.had = new Int32Array(scopes)
  }

  /** One has so many now. */
  note(scope: number, one: number, count: number): void {
    if (count > this.had[scope]) this.set(scope, one, count)
  }

  /** Who has most; -1: that must be looked for. */
  known(scope: number, counts: Int32Array): number {
    const one = this.who[scope] - 1
    const had = this.had[scope]
    return one >= 0 && counts[one] > 0 && counts[one] >= had - (had >> SLACK_SHIFT) ? one : -1
  }

  /** Who it is, as was looked for; -1: nobody has any. */
  set(scope: number, one: number, count: number): void {
    this.who[scope] = one + 1
    this.had[scope] = one < 0 ? 0 : count
  }
}
