/**
 * An entry of the table of mappings, word by word, and the two keys by which it is found: `mappings.ts` says what they
 * are for. Both stand in one index, under hashes of their own.
 */
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import { HashIndex, KeyedHash } from './hash-index.js'
import type { Flow } from './flow.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { MAPPING_SHIFT } = layout

// Words of an entry.
export const MAP_KEY = 0 // zone in bits 0 to 11, protocol in 12 to 19, family (4, 6) in 20 to 23, KEY_SHARED; 0: free
/** In MAP_KEY: the outside port is another mapping's too. Such stand in the index by keys of their own. */
export const KEY_SHARED = 1 << 24
export const MAP_PORTS = 1 // inside << 16 | outside
export const MAP_INSIDE = 2 // 4 words; IPv4 has the first, the others are 0
export const MAP_OUTSIDE = 6 // 4 words
export const MAP_OWNER = 10 // port of the switch
export const MAP_CONNECTIONS = 11 // first of its connections + 1; 0: none, it is idle
export const MAP_IDLE_SINCE = 12 // second of HEADER_NOW
export const MAP_ENDING = 13 // of its connections those of WORTH_ENDING
export const MAP_KEPT = 14 // and those of WORTH_KEPT
export const MAP_END = 15 // of entry 0: first entry that was never used

const PURPOSE_INSIDE = 2
const PURPOSE_OUTSIDE = 3

export class MappingKeys {
  private readonly words: Int32Array
  private readonly index: HashIndex
  private readonly keyedInside: KeyedHash
  private readonly keyedOutside: KeyedHash

  constructor(arena: Arena) {
    this.words = arena.mappings
    this.index = new HashIndex(arena.mappingIndex)
    this.keyedInside = new KeyedHash(arena.header, PURPOSE_INSIDE)
    this.keyedOutside = new KeyedHash(arena.header, PURPOSE_OUTSIDE)
  }

  clear(): void {
    this.index.clear()
  }

  /** Adds a whole entry, which must not be there. */
  insert(mapping: number): void {
    const at = mapping << MAPPING_SHIFT
    this.index.insert(this.insideHash(at), mapping)
    this.index.insert(this.outsideHash(at), mapping)
  }

  /** Takes out an entry that still is whole. */
  remove(mapping: number): void {
    const at = mapping << MAPPING_SHIFT
    this.index.remove(this.insideHash(at), mapping)
    this.index.remove(this.outsideHash(at), mapping)
  }

  /** The mapping of a flow's source at an outside address (4 words), by its MAP_KEY; -1: none. */
  findInside(key: number, flow: Flow, outside: Int32Array): number {
    const { words, index } = this
    const { source0, source1, source2, source3, sourcePort } = flow
    const hash = hashOf(this.keyedInside, key, sourcePort, source0, source1, source2, source3)
    for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash)) {
      const at = index.value(slot) << MAPPING_SHIFT
      if (
        words[at + MAP_INSIDE] === source0 &&
        words[at + MAP_PORTS] >>> 16 === sourcePort &&
        words[at + MAP_KEY] === key &&
        words[at + MAP_INSIDE + 1] === source1 &&
        words[at + MAP_INSIDE + 2] === source2 &&
        words[at + MAP_INSIDE + 3] === source3 &&
        isAt(words, at + MAP_OUTSIDE, outside[0], outside[1], outside[2], outside[3])
      )
        return index.value(slot)
    }
    return -1
  }

  /** The mapping that has an outside address and port; -1: none. */
  findOutside(key: number, port: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const { words, index } = this
    const hash = hashOf(this.keyedOutside, key, port, ip0, ip1, ip2, ip3)
    for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash)) {
      const at = index.value(slot) << MAPPING_SHIFT
      if (words[at + MAP_KEY] !== key || (words[at + MAP_PORTS] & 0xffff) !== port) continue
      if (isAt(words, at + MAP_OUTSIDE, ip0, ip1, ip2, ip3)) return index.value(slot)
    }
    return -1
  }

  private insideHash(at: number): number {
    const { words } = this
    const ip = at + MAP_INSIDE
    const port = words[at + MAP_PORTS] >>> 16
    return hashOf(this.keyedInside, words[at + MAP_KEY], port, words[ip], words[ip + 1], words[ip + 2], words[ip + 3])
  }

  private outsideHash(at: number): number {
    const { words } = this
    const ip = at + MAP_OUTSIDE
    const port = words[at + MAP_PORTS] & 0xffff
    return hashOf(this.keyedOutside, words[at + MAP_KEY], port, words[ip], words[ip + 1], words[ip + 2], words[ip + 3])
  }
}

/** MAP_KEY of a flow's mapping. */
export function keyOf(zone: number, flow: Flow): number {
  return zone | (flow.protocol << 12) | (flow.family << 20)
}

/** The family in a MAP_KEY. */
export function familyOf(key: number): number {
  return (key >>> 20) & 0xf
}

function hashOf(
  keyed: KeyedHash,
  key: number,
  port: number,
  ip0: number,
  ip1: number,
  ip2: number,
  ip3: number,
): number {
  const hash = keyed.mix(key, port, ip0, 0)
  return familyOf(key) === 4 ? hash : keyed.mix(hash, ip1, ip2, ip3)
}

/** Whether an address stands in a table. */
export function isAt(words: Int32Array, at: number, ip0: number, ip1: number, ip2: number, ip3: number): boolean {
  return words[at] === ip0 && words[at + 1] === ip1 && words[at + 2] === ip2 && words[at + 3] === ip3
}
