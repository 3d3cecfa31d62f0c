/**
 * An index by hash: finds the entries of a table that have more keys than one, or that must not move. Connections,
 * mappings and neighbors use it; the table holds the keys, the index holds a number for each.
 *
 *   slot:  hash | value + 1      (0 in the second word: empty)
 *
 * Open addressing with linear probing over a power of two of slots, the whole hash beside the value, so that a search
 * passes other keys without a look at their entries. Deletion shifts back; there are no tombstones, so a search stays
 * short however long the table lives. The caller compares the full key of each value that is offered:
 *
 *   for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash))
 *     if (isMine(index.value(slot))) return index.value(slot)
 *
 * A key is hashed by `KeyedHash`: whoever sends packets chooses the keys, and must not be able to choose ones that
 * collide. Each word of the key goes through two multiplications with secret odd numbers of its own and a fold between
 * them, then all are added and finished. One multiplication a word would not do: the top bit of a word then changes
 * only the top bit of its product, whatever the secret, and two such changes cancel out. It is no cryptographic hash:
 * it withstands who sees no hashes, and nothing here shows one.
 *
 * Capacity: as many slots as the section has, of which seven in eight may be used; `insert` refuses beyond. The
 * sections of `layout.ts` have two slots a key. Values: 0 to 2^24 - 1.
 *
 * A process that takes over a table calls `clear` and inserts every key again: what a killed process left here is not
 * believed.
 */
import * as layout from '../layout.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { HEADER_SECRET, INDEX_SHIFT } = layout

/** Words of a slot. */
const SLOT = 1 << INDEX_SHIFT

/** Spreads the bits of a word over all of it: the finish of MurmurHash3. */
function spread(word: number): number {
  let h = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}

/** A hash of four words under the secret of an arena. */
export class KeyedHash {
  private readonly key0: number
  private readonly key1: number
  private readonly key2: number
  private readonly key3: number
  private readonly fold0: number
  private readonly fold1: number
  private readonly fold2: number
  private readonly fold3: number
  private readonly offset: number
  private readonly finish: number

  /**
   * @param header of the arena, with its secret
   * @param purpose any number: tables with different ones hash the same key differently
   */
  constructor(header: Int32Array, purpose: number) {
    const secret = (index: number): number => header[HEADER_SECRET + (index & 3)]
    const derive = (index: number): number => {
      const first = spread((secret(index) + Math.imul(index + 1, 0x9e3779b9) + Math.imul(purpose, 0x61c88647)) | 0)
      return spread((spread(first ^ secret(index + 1)) + spread(secret(index + 2) ^ index)) ^ secret(index + 3))
    }
    this.key0 = derive(0) | 1
    this.key1 = derive(1) | 1
    this.key2 = derive(2) | 1
    this.key3 = derive(3) | 1
    this.fold0 = derive(4) | 1
    this.fold1 = derive(5) | 1
    this.fold2 = derive(6) | 1
    this.fold3 = derive(7) | 1
    this.offset = derive(8)
    this.finish = derive(9) | 1
  }

  /**
   * The hash of a key of four words. A longer key: `mix(mix(a, b, c, d), e, f, g)`; a shorter one: with zeros.
   * @returns an int32
   */
  mix(a: number, b: number, c: number, d: number): number {
    const { offset } = this
    const a1 = Math.imul(a ^ offset, this.key0)
    const b1 = Math.imul(b ^ offset, this.key1)
    const c1 = Math.imul(c ^ offset, this.key2)
    const d1 = Math.imul(d ^ offset, this.key3)
    const ab = (Math.imul(a1 ^ (a1 >>> 16), this.fold0) + Math.imul(b1 ^ (b1 >>> 16), this.fold1)) | 0
    const cd = (Math.imul(c1 ^ (c1 >>> 16), this.fold2) + Math.imul(d1 ^ (d1 >>> 16), this.fold3)) | 0
    let h = (ab + cd) | 0
    h = Math.imul(h ^ (h >>> 15), this.finish)
    return h ^ (h >>> 16)
  }
}

export class HashIndex {
  /** values in the index; to read */
  used = 0
  private readonly slots: Int32Array
  private readonly mask: number // of a slot's first word
  private readonly limit: number
  touched = 0 // what `touch` read: of no use

  /**
   * @param slots a section of the arena: a power of two of slots
   * @throws RangeError for another size
   */
  constructor(slots: Int32Array) {
    const words = slots.length
    if (words < SLOT * 2 || (words & (words - 1)) !== 0) throw new RangeError(`hash index: ${words} words`)
    this.slots = slots
    this.mask = words - SLOT
    this.limit = (words >> INDEX_SHIFT) - (words >> (INDEX_SHIFT + 3)) - 1
  }

  /** Empties it. Its whole memory is written: leave it out for a section that was never used. */
  clear(): void {
    this.slots.fill(0)
    this.used = 0
  }

  /** The first slot that has this hash; -1: none. */
  first(hash: number): number {
    return this.seek((hash << INDEX_SHIFT) & this.mask, hash)
  }

  /** The next one behind `slot`, which `first` or `next` gave, with no change of the index in between; -1: none. */
  next(slot: number, hash: number): number {
    return this.seek((slot + SLOT) & this.mask, hash)
  }

  /** What stands in a slot that `first` or `next` gave. */
  value(slot: number): number {
    return this.slots[slot + 1] - 1
  }

  /**
   * Adds a value; that its key is not there yet is the caller's to know.
   * @returns false if the index is full
   */
  insert(hash: number, value: number): boolean {
    if (this.used >= this.limit) return false
    const { slots, mask } = this
    let slot = (hash << INDEX_SHIFT) & mask
    while (slots[slot + 1] !== 0) slot = (slot + SLOT) & mask
    slots[slot] = hash
    slots[slot + 1] = value + 1
    this.used++
    return true
  }

  /** Takes a value out, and closes the gap: later ones of the same run move up. Returns whether it was there. */
  remove(hash: number, value: number): boolean {
    const { slots, mask } = this
    let gap = this.first(hash)
    while (gap >= 0 && slots[gap + 1] !== value + 1) gap = this.next(gap, hash)
    if (gap < 0) return false
    for (let slot = (gap + SLOT) & mask; slots[slot + 1] !== 0; slot = (slot + SLOT) & mask) {
      const home = (slots[slot] << INDEX_SHIFT) & mask
      // it may fill the gap unless its home lies behind the gap
      if (((slot - home) & mask) < ((slot - gap) & mask)) continue
      slots[gap] = slots[slot]
      slots[gap + 1] = slots[slot + 1]
      gap = slot
    }
    slots[gap] = 0
    slots[gap + 1] = 0
    this.used--
    return true
  }

  /**
   * Reads the slots where the search for the first `count` hashes starts, and does nothing with them: in a loop as
   * short as this the reads from a large index go on side by side, so the burst waits for memory once and not once a
   * packet. The caller then does the same with the entries that `first` leads to, in a loop of its own.
   */
  touch(hashes: Int32Array, count: number): void {
    const { slots, mask } = this
    let read = 0
    for (let i = 0; i < count; i++) read |= slots[(hashes[i] << INDEX_SHIFT) & mask]
    this.touched = read // or V8 would leave the reads out
  }

  private seek(from: number, hash: number): number {
    const { slots, mask } = this
    let slot = from
    while (slots[slot + 1] !== 0) {
      if (slots[slot] === hash) return slot
      slot = (slot + SLOT) & mask
    }
    return -1
  }
}
