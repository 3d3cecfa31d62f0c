/**
 * Virtual reassembly: lets the router treat the fragments of a datagram as what they are parts of, without putting it
 * together (RFC 4787 REQ-14, RFC 6146 section 3.4).
 *
 * Only the first fragment has the ports. It passes, and they are remembered; every later fragment gets them in its
 * `Headers` (and, of IPv6, the transport's protocol, which its own header need not name). Later ones that come before
 * the first are held, and stand in a ready list, by their offset, once it has come:
 *
 *   WAITING --first--> OPEN --all bytes seen--> forgotten
 *      +------overlap----+--> SPOILED: every further fragment is dropped
 *
 * - Overlaps. Fragments that overlap, or contradict each other about where the datagram ends, spoil it: what is held
 *   is dropped, and all that follows (RFC 5722; of IPv4 the same, as RFC 3128 and Linux have it). What has passed
 *   lacks the rest, so no receiver can put it together. An exact duplicate is dropped and spoils nothing.
 * - Sizes. The first fragment must have FIRST_BYTES_4 or FIRST_BYTES_6 bytes: smaller ones are not made by any link,
 *   but by those who hide headers from firewalls. Of others no size is asked, since a router that cuts fragments again
 *   leaves small ones in the middle.
 * - The key is zone, port of ingress, family, source, destination, identification, and of IPv4 the protocol (RFC 791,
 *   RFC 8200 section 4.5). With the port in it, nobody spoils a datagram of another port.
 * - A fragment that has passed carries ports, protocol and the identification that it has outside in its record, in the
 *   words of the checksum offload, which no fragment uses: `recall` reads them when the router meets it again after it
 *   had to wait for its next hop.
 *
 * Capacity: that of `datagrams.ts`, where they and their ranges are; of held packets HELD_FRAGMENTS slots of the small
 * size in all (a large one counts as LARGE_COST) and HELD_MAX a datagram; for TIMEOUT_SECONDS. A port at its limit
 * loses its own oldest datagram. When all is full, the port that has most loses its oldest. So a flood costs its own
 * port alone; the oldest gives way and not the newest, because a whole datagram comes within milliseconds, and what
 * has not become complete in that time hardly will.
 *
 * The memory is the shard process's own: with it go the packets. Not done here: what a fragment must be in itself
 * (`headers.ts`), and real reassembly.
 */
import type { Pool } from '../burst.js'
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import { Ranking } from '../ranking.js'
import * as datagramTable from './datagrams.js'
import { Datagrams } from './datagrams.js'
import * as headers from './headers.js'
import type { Headers } from './headers.js'
import type { Identifications } from './identification.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_FRAGMENT_LIMIT, DROP_FRAGMENT_OVERLAP, DROP_FRAGMENT_TIMEOUT, DROP_LINK_DOWN } = drops
const { CHECKSUM_OFFSET, CHECKSUM_START, HEADER_FRAGMENTS_HELD, HEADER_SMALL_SLOTS, INGRESS, RECORD_SHIFT } = layout
const { FRAGMENT_FIRST, FRAGMENT_NONE } = headers
const {
  DATAGRAMS,
  DATAGRAM_BEGUN,
  DATAGRAM_BYTES,
  DATAGRAM_COUNT,
  DATAGRAM_HELD,
  DATAGRAM_NEWER,
  DATAGRAM_OUTSIDE_ID,
  DATAGRAM_PORTS,
  DATAGRAM_PROTOCOL,
  DATAGRAM_SHIFT,
  DATAGRAM_STATE,
  DATAGRAM_TOTAL,
  DUPLICATE,
  OPEN,
  SPOILED,
  WAITING,
} = datagramTable

// What `process` returns, if no DROP_* reason.
export const FRAGMENT_GOES_ON = 0
export const FRAGMENT_HELD = -1 // it is kept here

/** Small slots that hold packets, those of the ready list among them. */
export const HELD_FRAGMENTS = 256
/** Held packets of one datagram. */
export const HELD_MAX = 16
export const TIMEOUT_SECONDS = 15
/** Bytes of IP packet that a first fragment has at least. */
export const FIRST_BYTES_4 = 400
export const FIRST_BYTES_6 = 1280 // the smallest MTU of IPv6
/** What a large slot counts for: there are eight times as few. */
const LARGE_COST = 8
const HELD_SHIFT = 4
/** In CHECKSUM_OFFSET: the protocol below, the identification from here on. */
const ID_SHIFT = 8

export class Fragments {
  private readonly pool: Pool
  private readonly header: Int32Array
  private readonly smallSlots: number
  private readonly identifications: Identifications
  private readonly datagrams: Datagrams
  private readonly words: Int32Array // of the datagrams
  private readonly held = new Int32Array(DATAGRAMS << HELD_SHIFT) // packets of a datagram, by start
  private readonly heldStart = new Int32Array(DATAGRAMS << HELD_SHIFT)
  private readonly portRows: number
  private readonly ranking: Ranking // small slots by port
  private units = 0 // small slots in all
  private readonly ready = new Int32Array(HELD_FRAGMENTS) // a ring
  private readyAt = 0
  private readyCount = 0

  constructor(arena: Arena, pool: Pool, portRows: number, identifications: Identifications) {
    this.pool = pool
    this.identifications = identifications
    this.header = arena.header
    this.smallSlots = arena.header[HEADER_SMALL_SLOTS]
    this.datagrams = new Datagrams(arena.header, portRows)
    this.words = this.datagrams.words
    this.portRows = portRows
    this.ranking = new Ranking(portRows)
    this.header[HEADER_FRAGMENTS_HELD] = 0
  }

  /**
   * Judges a parsed packet of a zone; whole ones pass. When a first fragment has gone on and been handled, take what it
   * set free by `takeReady`.
   * @returns FRAGMENT_GOES_ON, with ports and protocol in `h`; FRAGMENT_HELD; else the DROP_* reason for which the
   *   caller must drop it
   */
  process(h: Headers, zone: number, now: number): number {
    if (h.fragment === FRAGMENT_NONE) return FRAGMENT_GOES_ON
    const isFirst = h.fragment === FRAGMENT_FIRST
    if (isFirst && h.end - h.l3 < (h.family === 4 ? FIRST_BYTES_4 : FIRST_BYTES_6)) return DROP_FRAGMENT_LIMIT
    const port = this.pool.records[(h.packet << RECORD_SHIFT) + INGRESS]
    const key = zone | (h.family === 4 ? h.protocol << 16 : 1 << 12)
    const { datagrams, words } = this
    const bucket = datagrams.bucketOf(h, key, port)
    let index = datagrams.find(h, key, port, bucket)
    if (index >= 0 && now - words[(index << DATAGRAM_SHIFT) + DATAGRAM_BEGUN] >= TIMEOUT_SECONDS) {
      this.discard(index, DROP_FRAGMENT_TIMEOUT)
      index = -1
    }
    if (index < 0) {
      const giver = datagrams.giver(port)
      if (giver >= 0) this.discard(giver, DROP_FRAGMENT_LIMIT)
      index = datagrams.begin(h, key, port, bucket, now)
    }
    const datagram = index << DATAGRAM_SHIFT
    if (words[datagram + DATAGRAM_STATE] === SPOILED) return DROP_FRAGMENT_OVERLAP

    const start = h.fragmentOffset
    const end = start + h.end - (h.family === 4 ? h.l4 : h.fragmentHeader + 8)
    const verdict = datagrams.judge(index, start, end, h.moreFragments)
    if (verdict === DUPLICATE) return DROP_FRAGMENT_OVERLAP
    if (verdict !== 0) {
      this.dropHeld(index, verdict)
      words[datagram + DATAGRAM_STATE] = SPOILED
      return verdict
    }
    if (!isFirst && words[datagram + DATAGRAM_STATE] === WAITING) return this.hold(index, h, port, start, end)
    datagrams.insert(index, start, end, h.moreFragments)
    return this.pass(index, h, zone, isFirst)
  }

  /**
   * The next packet that a first fragment has set free, parsed into `h`, ports included; it needs no `process`.
   * @returns the packet, which is the caller's from here on; -1: no more
   */
  takeReady(h: Headers): number {
    while (this.readyCount > 0) {
      const packet = this.ready[this.readyAt]
      this.readyAt = (this.readyAt + 1) % HELD_FRAGMENTS
      this.readyCount--
      this.account(packet, -1)
      const reason = h.parse(this.pool, packet)
      if (reason === 0) {
        this.recall(h)
        return packet
      }
      this.pool.drop(packet, reason)
    }
    return -1
  }

  /** Gives a parsed fragment that has passed before, and has not been rewritten since, its ports and protocol again. */
  recall(h: Headers): void {
    const record = h.packet << RECORD_SHIFT
    const ports = this.pool.records[record + CHECKSUM_START]
    h.sourcePort = ports >>> 16
    h.destinationPort = ports & 0xffff
    const word = this.pool.records[record + CHECKSUM_OFFSET]
    h.protocol = word & 0xff
    h.outsideId = word >>> ID_SHIFT
  }

  /** Forgets what is too old, and drops what is held of it. Call it once a second. */
  sweep(now: number): void {
    for (let port = 0; port < this.portRows; port++) {
      for (let index = this.datagrams.oldest[port]; index >= 0; index = this.datagrams.oldest[port]) {
        if (now - this.words[(index << DATAGRAM_SHIFT) + DATAGRAM_BEGUN] < TIMEOUT_SECONDS) break
        this.discard(index, DROP_FRAGMENT_TIMEOUT)
      }
    }
  }

  /** Forgets all of a port, and drops what is held of it: for a port that goes. */
  forget(port: number): void {
    while (this.datagrams.oldest[port] >= 0) this.discard(this.datagrams.oldest[port], DROP_LINK_DOWN)
  }

  /** Datagrams that are remembered. */
  count(): number {
    return this.datagrams.used
  }

  // A fragment and its datagram.

  private pass(index: number, h: Headers, zone: number, isFirst: boolean): number {
    const { words } = this
    const datagram = index << DATAGRAM_SHIFT
    if (isFirst) {
      words[datagram + DATAGRAM_PORTS] = (h.sourcePort << 16) | h.destinationPort
      words[datagram + DATAGRAM_PROTOCOL] = h.protocol
      if (h.family === 4)
        words[datagram + DATAGRAM_OUTSIDE_ID] = this.identifications.next(zone, h.destination0, h.protocol, 1)
      words[datagram + DATAGRAM_STATE] = OPEN
      this.setFree(index)
    }
    this.stamp(h.packet, datagram)
    if (words[datagram + DATAGRAM_BYTES] === words[datagram + DATAGRAM_TOTAL]) this.discard(index, 0)
    this.recall(h)
    return FRAGMENT_GOES_ON
  }

  /** Keeps a later fragment whose first has not come. Returns FRAGMENT_HELD, or why it must be dropped. */
  private hold(index: number, h: Headers, port: number, start: number, end: number): number {
    const { words, held, heldStart } = this
    const datagram = index << DATAGRAM_SHIFT
    const count = words[datagram + DATAGRAM_HELD]
    if (count === HELD_MAX || !this.makeRoom(port, this.cost(h.packet), index)) {
      if (words[datagram + DATAGRAM_COUNT] === 0) this.discard(index, 0)
      return DROP_FRAGMENT_LIMIT
    }
    this.datagrams.insert(index, start, end, h.moreFragments)
    const first = index << HELD_SHIFT
    let at = first + count
    for (; at > first && heldStart[at - 1] > start; at--) {
      held[at] = held[at - 1]
      heldStart[at] = heldStart[at - 1]
    }
    held[at] = h.packet
    heldStart[at] = start
    words[datagram + DATAGRAM_HELD] = count + 1
    this.account(h.packet, 1)
    return FRAGMENT_HELD
  }

  /** Moves what is held of a datagram to the ready list. They still count as held until they are taken. */
  private setFree(index: number): void {
    const datagram = index << DATAGRAM_SHIFT
    const count = this.words[datagram + DATAGRAM_HELD]
    for (let i = 0; i < count; i++) {
      const packet = this.held[(index << HELD_SHIFT) + i]
      this.stamp(packet, datagram)
      this.ready[(this.readyAt + this.readyCount) % HELD_FRAGMENTS] = packet
      this.readyCount++
    }
    this.words[datagram + DATAGRAM_HELD] = 0
  }

  private stamp(packet: number, datagram: number): void {
    const record = packet << RECORD_SHIFT
    const { words } = this
    this.pool.records[record + CHECKSUM_START] = words[datagram + DATAGRAM_PORTS]
    this.pool.records[record + CHECKSUM_OFFSET] =
      words[datagram + DATAGRAM_PROTOCOL] | (words[datagram + DATAGRAM_OUTSIDE_ID] << ID_SHIFT)
  }

  /**
   * Sees to it that a packet of a port can be held, at the cost of the port that holds most.
   * @param keep datagram that does not give way
   */
  private makeRoom(port: number, cost: number, keep: number): boolean {
    while (this.units + cost > HELD_FRAGMENTS) {
      const { counts } = this.ranking
      const fullest = this.ranking.first()
      let index = this.datagrams.oldest[counts[fullest] > counts[port] ? fullest : port]
      while (index >= 0) {
        const datagram = index << DATAGRAM_SHIFT
        if (this.words[datagram + DATAGRAM_HELD] > 0 && index !== keep) break
        index = this.words[datagram + DATAGRAM_NEWER]
      }
      if (index < 0) return false
      this.discard(index, DROP_FRAGMENT_LIMIT)
    }
    return true
  }

  private cost(packet: number): number {
    return packet < this.smallSlots ? 1 : LARGE_COST
  }

  /** @param change 1: a packet is held; -1: no more */
  private account(packet: number, change: number): void {
    const cost = this.cost(packet) * change
    this.units += cost
    this.ranking.add(this.pool.records[(packet << RECORD_SHIFT) + INGRESS], cost)
    this.header[HEADER_FRAGMENTS_HELD] += change
  }

  private dropHeld(index: number, reason: number): void {
    const datagram = index << DATAGRAM_SHIFT
    for (let i = 0; i < this.words[datagram + DATAGRAM_HELD]; i++) {
      const packet = this.held[(index << HELD_SHIFT) + i]
      this.account(packet, -1)
      this.pool.drop(packet, reason)
    }
    this.words[datagram + DATAGRAM_HELD] = 0
  }

  /** Forgets a datagram, and drops what is held of it. */
  private discard(index: number, reason: number): void {
    this.dropHeld(index, reason)
    this.datagrams.remove(index)
  }
}
