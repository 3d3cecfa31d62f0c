/**
 * An entry of the table of connections, word by word, and the timeouts by which entries expire. `connections.ts` says
 * how the table works; other files take these names from there.
 *
 *   line 0  both keys (IPv4), status, lists: all that most packets need
 *   line 1  TCP's windows, packets and bytes of each direction
 *   line 2  the rest of IPv6 addresses
 *   line 3  what is read seldom
 *
 * Standards: RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2 for the timeouts.
 */
import * as layout from '../layout.js'

const { CONNECTION_SHIFT, NEIGHBOR_SHIFT } = layout

export const CONN_WORDS = 1 << CONNECTION_SHIFT
// Words of an entry.
export const CONN_ZONES = 0 // zone in bits 0 to 11, that of the replies in bits 12 to 23, protocol in bits 24 to 31
export const CONN_SOURCE = 1 // IPv4 address, or the first word of an IPv6 address, as those below
export const CONN_DESTINATION = 2
export const CONN_PORTS = 3 // source << 16 | destination
export const CONN_REPLY_SOURCE = 4
export const CONN_REPLY_DESTINATION = 5
export const CONN_REPLY_PORTS = 6
export const CONN_STATUS = 7 // STATUS_*
export const CONN_SEEN = 8 // second of HEADER_NOW, up to a 64th of the timeout ago
export const CONN_NEIGHBOR = 9 // of the router: the way of packets of the original direction, see below
export const CONN_REPLY_NEIGHBOR = 10 // the same of replies
export const CONN_GENERATION = 11 // of the router: whether the two are still right
export const CONN_OWNER = 12 // port
export const CONN_MAPPING = 13 // entry of `mappings.ts` + 1; 0: none
export const CONN_OLDER = 14 // neighbour in its list, -1: none
export const CONN_NEWER = 15
export const CONN_TCP = 16 // of `conntrack-tcp.ts`: 4 words a direction
export const CONN_COUNTERS = 24 // four Float64: packets and bytes of the original direction, of the replies
export const CONN_IP6 = 32 // words 1 to 3 of the addresses, at IP6_* from here
export const CONN_REOPEN = 44 // of `conntrack-tcp.ts`: 2 words
export const CONN_CREATED = 48 // second of HEADER_NOW
export const CONN_EGRESS = 49 // of `local-filter.ts`: the port it goes to + 1; 0: it goes through the router
export const CONN_MAP_NEXT = 50 // of `mappings.ts`: the connections of a mapping
export const CONN_MAP_PREVIOUS = 51
export const CONN_ORDER = 52 // counts placements at the end of a list, wraps
export const CONN_END = 63 // of entry 0: first entry that was never used

export const IP6_SOURCE = 0
export const IP6_DESTINATION = 3
export const IP6_REPLY_SOURCE = 6
export const IP6_REPLY_DESTINATION = 9

// CONN_STATUS: bits; the protocol's state from STATE_SHIFT on (4 bits), TIMEOUT_* from CLASS_SHIFT on (4 bits), WORTH_*
// from WORTH_SHIFT on (2 bits).
export const STATUS_IP6 = 0x01
export const STATUS_REPLIED = 0x02 // a reply was seen
export const STATUS_ASSURED = 0x04 // both ends have shown that they mean it
export const STATUS_SNAT = 0x08 // the source is translated
export const STATUS_DNAT = 0x10 // the destination is translated
export const STATUS_LOCAL = 0x20 // of the router
export const STATUS_LIVE = 0x40 // the entry is whole
export const STATE_SHIFT = 8
export const CLASS_SHIFT = 16
export const CLASS_MASK = 0xf
export const WORTH_SHIFT = 20
/** Class and worth together: they say which list the entry stands in. */
export const LIST_MASK = 0x3f

// CONN_NEIGHBOR: in bits 0 to 19 the number of the neighbor by which packets of the direction go on + 1, 0: not known.
// From PASSED_SHIFT on the segment + 1 from which such packets have been judged right, 0: none, see `established.ts`.
// Both are in line 0, and hold as long as CONN_GENERATION does.
export const PASSED_SHIFT = 20
const NEIGHBOR_MASK = (1 << PASSED_SHIFT) - 1

/** The neighbor's entry in a word of CONN_NEIGHBOR; negative: none. */
export function keptNeighbor(word: number): number {
  return ((word & NEIGHBOR_MASK) - 1) << NEIGHBOR_SHIFT
}

/** A word of CONN_NEIGHBOR with a neighbor in it. */
export function withNeighbor(word: number, neighbor: number): number {
  return (word & ~NEIGHBOR_MASK) | ((neighbor >> NEIGHBOR_SHIFT) + 1)
}

/** A word of CONN_NEIGHBOR with a segment from which packets have been judged right. */
export function withPassed(word: number, segment: number): number {
  return (word & NEIGHBOR_MASK) | ((segment + 1) << PASSED_SHIFT)
}

/** What gives way first. */
export const WORTH_UNPROVEN = 0
export const WORTH_ENDING = 1
export const WORTH_KEPT = 2

/** Timeouts by number. */
export const TIMEOUT_TCP_SYN = 0
export const TIMEOUT_TCP_ESTABLISHED = 1
export const TIMEOUT_TCP_CLOSING = 2
export const TIMEOUT_TCP_RESET = 3
export const TIMEOUT_UDP_NEW = 4
export const TIMEOUT_UDP = 5
export const TIMEOUT_ICMP = 6
export const TIMEOUT_OTHER = 7
export const TIMEOUT_UDP_QUERY = 8

/**
 * Their names and defaults, none below what RFC 4787, 5382 and 5508 ask for. Of UDP to well-known ports these may be
 * shorter, as the application needs it (RFC 4787 REQ-5a).
 */
export const TIMEOUTS: readonly { name: string; seconds: number }[] = [
  { name: 'tcp-syn', seconds: 240 }, // until both ends have answered
  { name: 'tcp-established', seconds: 7440 },
  { name: 'tcp-closing', seconds: 240 }, // when both ends have closed
  { name: 'tcp-reset', seconds: 10 },
  { name: 'udp-new', seconds: 120 }, // until who began has answered a reply
  { name: 'udp', seconds: 300 },
  { name: 'icmp', seconds: 60 },
  { name: 'other', seconds: 600 },
  { name: 'udp-query', seconds: 30 }, // to DNS and NTP: a question each, with a port of its own
]
const PORT_DNS = 53
const PORT_NTP = 123

/** The timeout of a connection whose first packet has this protocol: TCP, UDP and UDP-Lite, ICMP, or another. */
export function firstTimeout(protocol: number): number {
  if (protocol === 6) return TIMEOUT_TCP_SYN
  if (protocol === 17 || protocol === 136) return TIMEOUT_UDP_NEW
  return protocol === 1 || protocol === 58 ? TIMEOUT_ICMP : TIMEOUT_OTHER
}

/** Whether a UDP datagram to this port is a question that one datagram answers. */
export function isQueryPort(port: number): boolean {
  return port === PORT_DNS || port === PORT_NTP
}
