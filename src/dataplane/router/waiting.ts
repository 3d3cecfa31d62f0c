/**
 * Packets that wait for a neighbor to answer: a short queue for each entry of the neighbor table.
 *
 * The queue's head is a word of the entry (NEIGHBOR_WAITING: place + 1), the rest is here: a place holds a packet, the
 * entry that it waits for, and the next place of the queue.
 *
 * Capacity: QUEUE packets an entry, of which a further one takes the place of the first; HELD_NEIGHBOR in all. When all
 * places are taken, the port of ingress that has most gives way, which may be the new packet's own: who sends to many
 * addresses that do not answer takes no place from others. All are dropped with the reason `neighbor-queue`.
 *
 * The memory is the shard process's own: with it go the packets.
 */
import type { Pool } from '../burst.js'
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import { Ranking } from '../ranking.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_NEIGHBOR_QUEUE } = drops
const { INGRESS, RECORD_SHIFT } = layout

/** Packets that wait for one neighbor. */
export const QUEUE = 3
/** Packets that wait for neighbors, of all segments. */
export const HELD_NEIGHBOR = 192

export class Waiting {
  private readonly pool: Pool
  private readonly entries: Int32Array
  private readonly head: number
  private readonly packets = new Int32Array(HELD_NEIGHBOR).fill(-1) // -1: the place is free
  private readonly next = new Int32Array(HELD_NEIGHBOR) // place + 1 of the next in the queue, 0: none
  private readonly waitsFor = new Int32Array(HELD_NEIGHBOR) // entry
  private readonly free = new Int32Array(HELD_NEIGHBOR)
  private freeCount = HELD_NEIGHBOR
  private readonly ranking: Ranking // places by port of ingress

  /**
   * @param entries of the neighbor table
   * @param head the word of an entry that is the queue's head
   */
  constructor(pool: Pool, entries: Int32Array, head: number, portRows: number) {
    this.pool = pool
    this.entries = entries
    this.head = head
    this.ranking = new Ranking(portRows)
    for (let i = 0; i < HELD_NEIGHBOR; i++) this.free[i] = i
  }

  /** Packets that wait, of all entries. */
  count(): number {
    return HELD_NEIGHBOR - this.freeCount
  }

  /** Lets a packet wait for an entry. Takes it over. */
  hold(entry: number, packet: number): void {
    const { entries, head, next } = this
    let length = 0
    for (let at = entries[entry + head]; at !== 0; at = next[at - 1]) length++
    if (length >= QUEUE) this.give(entries[entry + head] - 1)
    else if (this.freeCount === 0 && !this.makeRoom(packet)) return this.pool.drop(packet, DROP_NEIGHBOR_QUEUE)
    const place = this.free[--this.freeCount]
    this.packets[place] = packet
    this.waitsFor[place] = entry
    next[place] = 0
    this.ranking.add(this.port(packet), 1)
    let last = entries[entry + head]
    while (last !== 0 && next[last - 1] !== 0) last = next[last - 1]
    if (last === 0) entries[entry + head] = place + 1
    else next[last - 1] = place + 1
  }

  /** Takes all that wait for an entry, in their order. Returns how many: at most QUEUE. */
  take(entry: number, into: Int32Array): number {
    const { entries, head, next } = this
    let count = 0
    for (let at = entries[entry + head]; at !== 0; at = next[at - 1]) {
      into[count++] = this.packets[at - 1]
      this.vacate(at - 1)
    }
    entries[entry + head] = 0
    return count
  }

  /** Frees a place of the port that has most of them; false if that is the packet's own. */
  private makeRoom(packet: number): boolean {
    const { counts } = this.ranking
    const fullest = this.ranking.first()
    if (counts[this.port(packet)] >= counts[fullest]) return false
    for (let place = 0; place < HELD_NEIGHBOR; place++) {
      if (this.port(this.packets[place]) !== fullest) continue
      this.give(place)
      return true
    }
    return false
  }

  /** Drops the packet in a place. */
  private give(place: number): void {
    const { entries, head, next } = this
    const entry = this.waitsFor[place]
    if (entries[entry + head] === place + 1) {
      entries[entry + head] = next[place]
    } else {
      let before = entries[entry + head] - 1
      while (next[before] !== place + 1) before = next[before] - 1
      next[before] = next[place]
    }
    const packet = this.packets[place]
    this.vacate(place)
    this.pool.drop(packet, DROP_NEIGHBOR_QUEUE)
  }

  private vacate(place: number): void {
    this.ranking.add(this.port(this.packets[place]), -1)
    this.packets[place] = -1
    this.free[this.freeCount++] = place
  }

  private port(packet: number): number {
    return this.pool.records[(packet << RECORD_SHIFT) + INGRESS]
  }
}
