/**
 * Connection tracking: what a packet does to its connection, and which packets may begin one.
 *
 *   TCP            by its states and windows: `conntrack-tcp.ts`. Begins with a SYN.
 *   UDP, UDP-Lite  any packet begins; a reply proves that there is another end, one more packet that both mean it.
 *                  Until then it is a question and its answer, and lasts no longer than an unanswered one.
 *   ICMP queries   echo and timestamp (RFC 5508): a query begins, and only its own kind of reply answers it.
 *   others         as UDP, by protocol and addresses, and by ports if they have any.
 *
 * None may begin with a later fragment, of which nothing is known but its addresses, or with an ICMP error: that
 * belongs to the connection that it quotes, and changes nothing of it (RFC 4787 REQ-12, RFC 5382 REQ-10).
 *
 * What begins all the same, because a rule lets it or the network is open, is followed as UDP is: by the two ends
 * alone, whatever its segments or types are. A SYN is then the beginning of another connection, a query of being
 * followed.
 *
 * Timeouts and capacity are `connections.ts`; which timeout a connection has, and how much it is worth when room is
 * needed, is decided here. A connection of which both ends have shown that they mean it (STATUS_ASSURED) does not give
 * way, unless it is closing; ICMP always may.
 */
import type { Pool } from '../burst.js'
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import * as entryLayout from './connection-entry.js'
import type { Connections } from './connections.js'
import * as judgement from './conntrack-tcp.js'
import { ConntrackTcp } from './conntrack-tcp.js'
import * as headerTypes from './headers.js'
import type { Headers } from './headers.js'
import * as tcpStates from './tcp-states.js'

export { TIMEOUTS } from './connection-entry.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { CONNECTION_SHIFT, HEADER_CONNECTIONS_INVALID } = layout
const {
  CLASS_MASK,
  CLASS_SHIFT,
  CONN_COUNTERS,
  CONN_STATUS,
  CONN_ZONES,
  LIST_MASK,
  STATE_SHIFT,
  STATUS_ASSURED,
  STATUS_REPLIED,
  TIMEOUT_ICMP,
  TIMEOUT_TCP_ESTABLISHED,
  TIMEOUT_TCP_SYN,
  TIMEOUT_UDP,
  TIMEOUT_UDP_NEW,
  TIMEOUT_UDP_QUERY,
  WORTH_KEPT,
  WORTH_SHIFT,
  firstTimeout,
  isQueryPort,
} = entryLayout
const { FRAGMENT_LATER, PROTOCOL_TCP } = headerTypes
const { JUDGED_INVALID, JUDGED_OVER, JUDGED_PASSES } = judgement
const { TCP_STATES, UNFOLLOWED } = tcpStates

// What `track` returns.
export const TRACK_OK = 0
export const TRACK_INVALID = 1 // drop it
export const TRACK_NEW = 2 // its connection was over and is removed: treat the packet as one without

const REPLY = 1
const STATE_MASK = 0xf
/** ICMP: bits of the state. */
const ASKED_ECHO = 1
const ASKED_TIMESTAMP = 2
const CLASS = CLASS_MASK << CLASS_SHIFT
const LIST = LIST_MASK << CLASS_SHIFT
/** Float64 from one entry to the next, and of an entry the first counter. */
const COUNTERS_SHIFT = CONNECTION_SHIFT - 1
const COUNTERS = CONN_COUNTERS >> 1

export class Conntrack {
  private readonly connections: Connections
  private readonly words: Int32Array
  private readonly counters: Float64Array
  private readonly header: Int32Array
  private readonly tcp: ConntrackTcp

  constructor(arena: Arena, pool: Pool, connections: Connections) {
    this.connections = connections
    this.words = connections.words
    this.counters = connections.counters
    this.header = arena.header
    this.tcp = new ConntrackTcp(pool, connections)
  }

  /** Whether a packet that belongs to no connection may begin one. */
  mayBegin(h: Headers): boolean {
    if (h.fragment === FRAGMENT_LATER) return false
    if (h.protocol === PROTOCOL_TCP) return this.tcp.mayBegin(h)
    return h.icmp < 0 || askedBy(h) > 0
  }

  /** The first packet of a new entry. It is counted, and `track` is not called for it. */
  begin(entry: number, h: Headers, now: number): void {
    const at = entry << CONNECTION_SHIFT
    let status = this.words[at + CONN_STATUS]
    const isSegment = h.protocol === PROTOCOL_TCP
    if (isSegment && this.tcp.mayBegin(h)) status = this.tcp.begin(entry, h, status)
    else if (isSegment) status |= UNFOLLOWED << STATE_SHIFT
    else if (h.icmp >= 0 && askedBy(h) > 0) status |= askedBy(h) << STATE_SHIFT
    else if (firstTimeout(h.protocol) === TIMEOUT_UDP_NEW && isQueryPort(h.destinationPort))
      status = (status & ~CLASS) | (TIMEOUT_UDP_QUERY << CLASS_SHIFT)
    this.connections.see(entry, status, now)
    this.count(entry, 0, h)
  }

  /** Takes a packet of a connection in: its state, timeout and counters. Returns TRACK_*. */
  track(match: number, h: Headers, now: number): number {
    const entry = match >> 1
    const direction = match & 1
    const before = this.words[(entry << CONNECTION_SHIFT) + CONN_STATUS]
    let status = before
    if (h.protocol === PROTOCOL_TCP) status = this.trackTcp(match, h, before)
    else if (h.icmp >= 0) status = trackIcmp(h, direction, before)
    else status = trackPair(h.protocol, direction, before)
    if (status === JUDGED_INVALID) {
      this.header[HEADER_CONNECTIONS_INVALID]++
      return TRACK_INVALID
    }
    if (status === JUDGED_OVER) {
      this.connections.remove(entry)
      return TRACK_NEW
    }
    if (direction === REPLY && status >= 0) status |= STATUS_REPLIED
    if (status !== JUDGED_PASSES) this.connections.see(entry, status, now)
    this.count(entry, direction, h)
    return TRACK_OK
  }

  private trackTcp(match: number, h: Headers, status: number): number {
    if (((status >> STATE_SHIFT) & STATE_MASK) !== UNFOLLOWED) return this.tcp.track(match, h, status)
    return this.tcp.mayBegin(h) ? JUDGED_OVER : trackPair(h.protocol, match & 1, status)
  }

  private count(entry: number, direction: number, h: Headers): void {
    const at = (entry << COUNTERS_SHIFT) + COUNTERS + (direction << 1)
    this.counters[at]++
    this.counters[at + 1] += h.end - h.l3
  }
}

/** The bit of a query's type, minus that of a reply's, 0 for any other type. */
function askedBy(h: Headers): number {
  const type = h.icmp >> 8
  if (h.family === 6) return type === 128 ? ASKED_ECHO : type === 129 ? -ASKED_ECHO : 0
  if (type === 8) return ASKED_ECHO
  if (type === 0) return -ASKED_ECHO
  return type === 13 ? ASKED_TIMESTAMP : type === 14 ? -ASKED_TIMESTAMP : 0
}

/**
 * ICMP queries and replies. A query against the direction is the other end's own, with the same identifier: some hosts
 * always take the same one. It begins another connection.
 */
function trackIcmp(h: Headers, direction: number, status: number): number {
  const asked = askedBy(h)
  const known = (status >> STATE_SHIFT) & STATE_MASK
  if (asked > 0) return direction === REPLY ? JUDGED_OVER : status | (asked << STATE_SHIFT)
  if (known === 0) return trackPair(h.protocol, direction, status)
  return direction === REPLY && asked !== 0 && (known & -asked) !== 0 ? status : JUDGED_INVALID
}

/** Protocols without states of their own, and connections that are not followed. */
function trackPair(protocol: number, direction: number, status: number): number {
  if (direction === REPLY || (status & STATUS_REPLIED) === 0 || (status & STATUS_ASSURED) !== 0) return status
  const first = firstTimeout(protocol)
  if (first === TIMEOUT_ICMP) return status
  const isQuery = (status & CLASS) === TIMEOUT_UDP_QUERY << CLASS_SHIFT
  let timeout = first
  if (first === TIMEOUT_UDP_NEW) timeout = isQuery ? TIMEOUT_UDP_QUERY : TIMEOUT_UDP
  else if (first === TIMEOUT_TCP_SYN) timeout = TIMEOUT_TCP_ESTABLISHED
  return (status & ~LIST) | place(timeout, WORTH_KEPT) | STATUS_ASSURED
}

function place(timeout: number, worth: number): number {
  return (timeout << CLASS_SHIFT) | (worth << WORTH_SHIFT)
}

/**
 * The state of a connection in a word: of TCP its state, of others `unreplied`, `replied`, or `assured`.
 * @param words of the table, which another process may be writing
 */
export function stateName(words: Int32Array, entry: number): string {
  const at = entry << CONNECTION_SHIFT
  const status = words[at + CONN_STATUS]
  if (words[at + CONN_ZONES] >>> 24 === PROTOCOL_TCP) return TCP_STATES[(status >> STATE_SHIFT) & STATE_MASK] ?? 'none'
  if ((status & STATUS_ASSURED) !== 0) return 'assured'
  return (status & STATUS_REPLIED) !== 0 ? 'replied' : 'unreplied'
}
