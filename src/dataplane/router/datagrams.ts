/**
 * The datagrams of which some fragments have come and some have not: `fragments.ts` says what they are for.
 *
 * An entry has the key, what its first fragment said, and the ranges of bytes that have come, by their start. Entries
 * are found by a chained hash under the arena's secret, and stand in a list of their port by age.
 *
 * Capacity: DATAGRAMS in all, PORT_DATAGRAMS a port, RANGES fragments of each. When it is full, `giver` names the one
 * that must give way: the oldest of a port at its limit, else the oldest of the port that has most.
 */
import * as drops from '../drops.js'
import { Ranking } from '../ranking.js'
import { KeyedHash } from './hash-index.js'
import type { Headers } from './headers.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_FRAGMENT_LIMIT, DROP_FRAGMENT_OVERLAP } = drops

/** Datagrams of which not all has been seen. */
export const DATAGRAMS = 1000
export const PORT_DATAGRAMS = 64
/** Fragments of a datagram: 64 KiB over a link with an MTU of 576. */
export const RANGES = 128
const BUCKETS = 2048 // a power of two
const PURPOSE = 4

// Words of a datagram.
export const DATAGRAM_SHIFT = 5
const KEY = 0 // zone | IPv6 << 12 | protocol of IPv4 << 16
const PORT = 1
const ID = 2
const SOURCE = 3 // 4 words
const DESTINATION = 7 // 4 words
const BUCKET = 11
const CHAIN = 12 // next of the bucket, or of the free ones; -1: none
export const DATAGRAM_STATE = 13
export const DATAGRAM_COUNT = 14 // ranges
export const DATAGRAM_BYTES = 15 // in all ranges
const REACH = 16 // byte behind the farthest range
export const DATAGRAM_TOTAL = 17 // bytes, once the last fragment has come; else -1
export const DATAGRAM_BEGUN = 18 // seconds
export const DATAGRAM_PORTS = 19 // source << 16 | destination, once the first fragment has come
export const DATAGRAM_PROTOCOL = 20 // of the transport, then too
export const DATAGRAM_HELD = 21 // packets
const OLDER = 22 // in the list of its port
export const DATAGRAM_NEWER = 23
export const DATAGRAM_OUTSIDE_ID = 24 // of IPv4, once the first fragment has come

export const WAITING = 0
export const OPEN = 1
export const SPOILED = 2

/** A range that is there already. */
export const DUPLICATE = -1

export class Datagrams {
  readonly words = new Int32Array(DATAGRAMS << DATAGRAM_SHIFT)
  /** by port, the next ones by DATAGRAM_NEWER; -1: none */
  readonly oldest: Int32Array
  used = 0
  private readonly newest: Int32Array
  private readonly ranking: Ranking // datagrams by port
  private readonly ranges = new Int32Array(DATAGRAMS * RANGES) // start / 8 << 16 | end
  private readonly buckets = new Int32Array(BUCKETS).fill(-1)
  private readonly keyed: KeyedHash
  private free = 0
  private place = 0 // of the range that `judge` looked for

  constructor(header: Int32Array, portRows: number) {
    this.keyed = new KeyedHash(header, PURPOSE)
    this.oldest = new Int32Array(portRows).fill(-1)
    this.newest = new Int32Array(portRows).fill(-1)
    this.ranking = new Ranking(portRows)
    for (let i = 0; i < DATAGRAMS; i++) this.words[(i << DATAGRAM_SHIFT) + CHAIN] = i + 1 < DATAGRAMS ? i + 1 : -1
  }

  bucketOf(h: Headers, key: number, port: number): number {
    const low = this.keyed.mix(key, h.fragmentId, h.source0, h.destination0)
    if (h.family === 4) return (low ^ port) & (BUCKETS - 1)
    const middle = this.keyed.mix(low, h.source1, h.source2, h.source3)
    return (this.keyed.mix(middle, h.destination1, h.destination2, h.destination3) ^ port) & (BUCKETS - 1)
  }

  find(h: Headers, key: number, port: number, bucket: number): number {
    const { words } = this
    let index = this.buckets[bucket]
    for (; index >= 0; index = words[(index << DATAGRAM_SHIFT) + CHAIN]) {
      const datagram = index << DATAGRAM_SHIFT
      if (
        words[datagram + ID] === h.fragmentId &&
        words[datagram + PORT] === port &&
        words[datagram + KEY] === key &&
        words[datagram + SOURCE] === h.source0 &&
        words[datagram + SOURCE + 1] === h.source1 &&
        words[datagram + SOURCE + 2] === h.source2 &&
        words[datagram + SOURCE + 3] === h.source3 &&
        words[datagram + DESTINATION] === h.destination0 &&
        words[datagram + DESTINATION + 1] === h.destination1 &&
        words[datagram + DESTINATION + 2] === h.destination2 &&
        words[datagram + DESTINATION + 3] === h.destination3
      )
        break
    }
    return index
  }

  /** The datagram that must be removed before one of this port can begin; -1: there is room. */
  giver(port: number): number {
    const { ranking } = this
    if (ranking.counts[port] >= PORT_DATAGRAMS) return this.oldest[port]
    return this.used === DATAGRAMS ? this.oldest[ranking.first()] : -1
  }

  /** A fresh datagram, in WAITING; `giver` must be -1. */
  begin(h: Headers, key: number, port: number, bucket: number, now: number): number {
    const { words, buckets, ranking } = this
    const index = this.free
    const datagram = index << DATAGRAM_SHIFT
    this.free = words[datagram + CHAIN]
    this.used++
    words.fill(0, datagram, datagram + (1 << DATAGRAM_SHIFT))
    words[datagram + KEY] = key
    words[datagram + PORT] = port
    words[datagram + ID] = h.fragmentId
    words[datagram + SOURCE] = h.source0
    words[datagram + SOURCE + 1] = h.source1
    words[datagram + SOURCE + 2] = h.source2
    words[datagram + SOURCE + 3] = h.source3
    words[datagram + DESTINATION] = h.destination0
    words[datagram + DESTINATION + 1] = h.destination1
    words[datagram + DESTINATION + 2] = h.destination2
    words[datagram + DESTINATION + 3] = h.destination3
    words[datagram + DATAGRAM_STATE] = WAITING
    words[datagram + DATAGRAM_TOTAL] = -1
    words[datagram + DATAGRAM_BEGUN] = now
    words[datagram + BUCKET] = bucket
    words[datagram + CHAIN] = buckets[bucket]
    buckets[bucket] = index
    const last = this.newest[port]
    words[datagram + OLDER] = last
    words[datagram + DATAGRAM_NEWER] = -1
    if (last < 0) this.oldest[port] = index
    else words[(last << DATAGRAM_SHIFT) + DATAGRAM_NEWER] = index
    this.newest[port] = index
    ranking.add(port, 1)
    return index
  }

  remove(index: number): void {
    const { words, buckets } = this
    const datagram = index << DATAGRAM_SHIFT
    const bucket = words[datagram + BUCKET]
    const after = words[datagram + CHAIN]
    if (buckets[bucket] === index) buckets[bucket] = after
    else {
      let before = buckets[bucket]
      while (words[(before << DATAGRAM_SHIFT) + CHAIN] !== index) before = words[(before << DATAGRAM_SHIFT) + CHAIN]
      words[(before << DATAGRAM_SHIFT) + CHAIN] = after
    }
    const port = words[datagram + PORT]
    const older = words[datagram + OLDER]
    const newer = words[datagram + DATAGRAM_NEWER]
    if (older < 0) this.oldest[port] = newer
    else words[(older << DATAGRAM_SHIFT) + DATAGRAM_NEWER] = newer
    if (newer < 0) this.newest[port] = older
    else words[(newer << DATAGRAM_SHIFT) + OLDER] = older
    this.ranking.add(port, -1)
    words[datagram + CHAIN] = this.free
    this.free = index
    this.used--
  }

  /**
   * Looks where a range belongs, and leaves the place for `insert`.
   * @returns 0: it fits in; DUPLICATE; else the DROP_* reason for which the datagram is spoiled
   */
  judge(index: number, start: number, end: number, more: boolean): number {
    const { words, ranges } = this
    const datagram = index << DATAGRAM_SHIFT
    const total = words[datagram + DATAGRAM_TOTAL]
    const count = words[datagram + DATAGRAM_COUNT]
    const first = index * RANGES
    let at = first + count // most come in order, so search from the end
    while (at > first && (ranges[at - 1] >>> 16) << 3 >= start) at--
    if (at < first + count) {
      const next = ranges[at]
      if ((next >>> 16) << 3 === start && (next & 0xffff) === end) return DUPLICATE
      if ((next >>> 16) << 3 < end) return DROP_FRAGMENT_OVERLAP
    }
    if (at > first && (ranges[at - 1] & 0xffff) > start) return DROP_FRAGMENT_OVERLAP
    if (total >= 0 && (more ? end > total : end !== total)) return DROP_FRAGMENT_OVERLAP
    if (!more && words[datagram + REACH] > end) return DROP_FRAGMENT_OVERLAP
    if (count === RANGES) return DROP_FRAGMENT_LIMIT
    this.place = at
    return 0
  }

  insert(index: number, start: number, end: number, more: boolean): void {
    const { words, ranges, place } = this
    const datagram = index << DATAGRAM_SHIFT
    const behind = index * RANGES + words[datagram + DATAGRAM_COUNT]
    for (let at = behind; at > place; at--) ranges[at] = ranges[at - 1]
    ranges[place] = ((start >>> 3) << 16) | end
    words[datagram + DATAGRAM_COUNT]++
    words[datagram + DATAGRAM_BYTES] += end - start
    if (end > words[datagram + REACH]) words[datagram + REACH] = end
    if (!more) words[datagram + DATAGRAM_TOTAL] = end
  }
}
