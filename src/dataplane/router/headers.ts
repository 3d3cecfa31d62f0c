/**
 * What the headers of the packet in hand say: one object, filled anew for each packet by `parse`.
 *
 * Every header is checked here, once, and nothing behind reads a length that a guest wrote. `parse` refuses what
 * contradicts itself by a DROP_* reason:
 *
 *   IPv4 (RFC 791, 1812)  version, header and total length within the frame, header checksum; source routes are refused
 *                         (LSRR, SSRR), other options pass if their lengths add up
 *   IPv6 (RFC 8200)       payload length within the frame; at most 8 extension headers and 256 bytes of them, as
 *                         `native/headers.c` has it; hop-by-hop only first; routing type 0 refused (RFC 5095);
 *                         authentication skipped; ESP and "no next header" count as the protocol; no jumbograms
 *   fragments             a multiple of 8 bytes unless the last, never empty, never past 65535; the first one holds the
 *                         whole transport header (RFC 1858, 7112), a later one of TCP cannot overlay it (RFC 3128); a
 *                         lone IPv6 fragment is a whole packet with `fragmentHeader` set (RFC 6946)
 *   transport             TCP's header length, UDP's length, eight bytes of ICMP
 *   unfinished checksums  of this transport header, or of one inside a UDP or foreign payload: otherwise finishing it
 *                         would change bytes that have been judged. Never of a fragment
 *
 * A segmentation-offload frame is read as any other: Linux writes the whole frame's length into its IP header (packets
 * past 64 KiB are not negotiated), and `native/offload.c` refuses one whose header disagrees. The frame may be longer
 * than its IP packet: padding.
 *
 * Not done here: martian addresses, which the router judges by `address-kinds.ts` and by what it knows; checksums of
 * transports, which the ends verify.
 */
import type { Pool } from '../burst.js'
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import { fold, halves, sumRange } from './checksum.js'
import { Flow } from './flow.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_BAD_IP, DROP_BAD_IP_CHECKSUM, DROP_BAD_OFFLOAD, DROP_BAD_TRANSPORT, DROP_IP_OPTIONS } = drops
const { CHECKSUM_OFFSET, CHECKSUM_START, ETHERTYPE, LENGTH, OFFLOAD, OFFLOAD_CHECKSUM, OFFSET, RECORD_SHIFT } = layout

/** A packet is whole, or which of its fragments it is. */
export const FRAGMENT_NONE = 0
export const FRAGMENT_FIRST = 1
export const FRAGMENT_LATER = 2

export const PROTOCOL_ICMP = 1
export const PROTOCOL_TCP = 6
export const PROTOCOL_UDP = 17
export const PROTOCOL_DCCP = 33
export const PROTOCOL_ICMP6 = 58
export const PROTOCOL_SCTP = 132
export const PROTOCOL_UDP_LITE = 136

const ETHERNET_BYTES = 14
const TYPE_IPV4 = 0x0800
const TYPE_IPV6 = 0x86dd
const IPV4_BYTES = 20
const IPV6_BYTES = 40
const DATAGRAM_BYTES_MAX = 65535

const OPTION_END = 0
const OPTION_NONE = 1
const OPTION_LOOSE_ROUTE = 131
const OPTION_STRICT_ROUTE = 137

const EXTENSIONS_MAX = 8
const EXTENSION_BYTES_MAX = 256
const HOP_BY_HOP = 0
const ROUTING = 43
const FRAGMENT = 44
const AUTHENTICATION = 51
const DESTINATION_OPTIONS = 60
const FRAGMENT_HEADER_BYTES = 8

const TCP_BYTES = 20
const UDP_BYTES = 8
const ICMP_BYTES = 8
const SCTP_BYTES = 12
const DCCP_BYTES = 12
const TCP_CHECKSUM = 16
const UDP_CHECKSUM = 6
const ICMP_CHECKSUM = 2
/** Behind this many bytes of a transport that is not TCP or ICMP, nothing is judged or rewritten. */
const JUDGED_BYTES = 8

export class Headers extends Flow {
  /** byte in the arena */
  l3 = 0
  /** byte in the arena of the transport header; of a later fragment: of its payload */
  l4 = 0
  /** byte in the arena behind the IP packet, which may be before the end of the frame (padding) */
  end = 0
  /** FRAGMENT_* */
  fragment = 0
  /** IPv4: 16 bits, IPv6: 32, 0 without a fragment header */
  fragmentId = 0
  /** IPv4 fragments behind `fragments.ts`: the identification that they have where their source is translated */
  outsideId = 0
  /** bytes of payload before this fragment's */
  fragmentOffset = 0
  moreFragments = false
  /** byte in the arena of the IPv6 fragment header; 0: none */
  fragmentHeader = 0
  /** always true of IPv6: its routers do not fragment */
  dontFragment = false
  hopLimit = 0
  /** type << 8 | code of ICMP and ICMPv6; -1: neither, or a later fragment */
  icmp = -1
  /** the packet's number */
  packet = -1

  /**
   * Reads the headers of a packet whose frame is untagged and has an IP ETHERTYPE in its record. A later fragment has
   * no ports, and its protocol is what its own fragment header says. After a refusal the fields say nothing.
   * @returns 0, or the DROP_* reason for which it must be dropped
   */
  parse(pool: Pool, packet: number): number {
    const { view, records } = pool
    const record = packet << RECORD_SHIFT
    const frame = records[record + OFFSET]
    const limit = frame + records[record + LENGTH]
    const type = records[record + ETHERTYPE]
    this.packet = packet
    this.l3 = frame + ETHERNET_BYTES
    let reason = DROP_BAD_IP
    if (type === TYPE_IPV4) reason = this.parseIpv4(view, frame + ETHERNET_BYTES, limit)
    else if (type === TYPE_IPV6) reason = this.parseIpv6(view, frame + ETHERNET_BYTES, limit)
    if (reason !== 0) return reason
    reason = this.parseTransport(view)
    if (reason !== 0) return reason
    if ((records[record + OFFLOAD] & OFFLOAD_CHECKSUM) !== 0) {
      const start = frame + records[record + CHECKSUM_START]
      if (!this.mayFinish(start, records[record + CHECKSUM_OFFSET])) return DROP_BAD_OFFLOAD
    }
    return 0
  }

  /**
   * Reads the packet that another one, an ICMP error, quotes: its addresses, its protocol and its ports or identifier.
   * It may be cut off behind them, and its IPv4 header checksum is not verified: who quotes may have edited it. `end`
   * is that of the quote.
   * @param start byte in the arena where the quoted IP header stands
   * @param limit byte in the arena behind the quote
   * @returns 0; DROP_BAD_IP or DROP_BAD_TRANSPORT if it does not say whose it is: cut off before, or a later fragment
   */
  parseQuote(view: DataView, family: number, start: number, limit: number): number {
    this.packet = -1
    this.l3 = start
    if (family === 4) {
      if (limit - start < IPV4_BYTES) return DROP_BAD_IP
      const first = view.getInt32(start)
      const header = (first >>> 22) & 0x3c
      if (first >>> 28 !== 4 || header < IPV4_BYTES || header > limit - start) return DROP_BAD_IP
      const total = first & 0xffff
      if (total < header) return DROP_BAD_IP
      const bits = view.getInt32(start + 4)
      this.l4 = start + header
      this.end = total < limit - start ? start + total : limit
      this.setIpv4(bits, view.getInt32(start + 8), view.getInt32(start + 12), view.getInt32(start + 16))
      this.fragmentOffset = (bits & 0x1fff) << 3
      this.moreFragments = (bits & 0x2000) !== 0
    } else {
      if (limit - start < IPV6_BYTES || view.getUint8(start) >>> 4 !== 6) return DROP_BAD_IP
      const behind = start + IPV6_BYTES + view.getUint16(start + 4)
      this.readIpv6(view, start, behind < limit ? behind : limit)
      const reason = this.walkExtensions(view)
      if (reason !== 0) return reason
    }
    if (this.fragmentOffset !== 0) return DROP_BAD_TRANSPORT
    if (this.moreFragments) this.fragment = FRAGMENT_FIRST
    const { l4, protocol } = this
    const left = this.end - l4
    if (protocol === (family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMP6)) {
      if (left < 6) return DROP_BAD_TRANSPORT
      this.readIcmp(view, l4)
    } else if (hasPorts(protocol)) {
      if (left < 4) return DROP_BAD_TRANSPORT
      this.readPorts(view, l4)
    }
    return 0
  }

  private parseIpv4(view: DataView, l3: number, limit: number): number {
    const room = limit - l3
    if (room < IPV4_BYTES) return DROP_BAD_IP
    const word0 = view.getInt32(l3)
    const word1 = view.getInt32(l3 + 4)
    const header = (word0 >>> 22) & 0x3c
    const total = word0 & 0xffff
    if (word0 >>> 28 !== 4 || header < IPV4_BYTES || total < header || total > room) return DROP_BAD_IP
    const word2 = view.getInt32(l3 + 8)
    const source = view.getInt32(l3 + 12)
    const destination = view.getInt32(l3 + 16)
    let sum = halves(word0) + halves(word1) + halves(word2) + halves(source) + halves(destination)
    if (header !== IPV4_BYTES) sum = sumRange(view, l3 + IPV4_BYTES, l3 + header, sum)
    if (fold(sum) !== 0xffff) return DROP_BAD_IP_CHECKSUM
    this.l4 = l3 + header
    this.end = l3 + total
    this.setIpv4(word1, word2, source, destination)
    if (header !== IPV4_BYTES) {
      const reason = judgeOptions(view, l3 + IPV4_BYTES, l3 + header)
      if (reason !== 0) return reason
    }
    if ((word1 & 0x3fff) === 0) return 0
    return this.setFragment((word1 & 0x1fff) << 3, (word1 & 0x2000) !== 0, header)
  }

  private parseIpv6(view: DataView, l3: number, limit: number): number {
    const room = limit - l3
    if (room < IPV6_BYTES || view.getUint8(l3) >>> 4 !== 6) return DROP_BAD_IP
    const payload = view.getUint16(l3 + 4)
    if (payload > room - IPV6_BYTES) return DROP_BAD_IP
    this.readIpv6(view, l3, l3 + IPV6_BYTES + payload)
    const { protocol } = this
    if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_ICMP6) return 0
    const reason = this.walkExtensions(view)
    if (reason !== 0) return reason
    if (this.fragmentHeader === 0 || (this.fragmentOffset === 0 && !this.moreFragments)) return 0
    // RFC 8200 section 4.5: what stands before the fragment header comes once in the whole packet
    const once = this.fragmentHeader - l3 - IPV6_BYTES
    const start = this.fragmentHeader + FRAGMENT_HEADER_BYTES
    const reach = once + this.fragmentOffset + (this.end - start)
    return this.judgeFragment(this.end - start, reach)
  }

  /** Fields of an IPv4 header from its words 1 to 4, as of a whole packet. */
  private setIpv4(word1: number, word2: number, source: number, destination: number): void {
    this.family = 4
    this.protocol = (word2 >>> 16) & 0xff
    this.source0 = source
    this.source1 = 0
    this.source2 = 0
    this.source3 = 0
    this.destination0 = destination
    this.destination1 = 0
    this.destination2 = 0
    this.destination3 = 0
    this.dontFragment = (word1 & 0x4000) !== 0
    this.hopLimit = word2 >>> 24
    this.setWhole(word1 >>> 16)
  }

  /** Fields of an IPv6 header that is known to be there, as of a packet without extension headers. */
  private readIpv6(view: DataView, l3: number, end: number): void {
    this.family = 6
    this.protocol = view.getUint8(l3 + 6)
    this.source0 = view.getInt32(l3 + 8)
    this.source1 = view.getInt32(l3 + 12)
    this.source2 = view.getInt32(l3 + 16)
    this.source3 = view.getInt32(l3 + 20)
    this.destination0 = view.getInt32(l3 + 24)
    this.destination1 = view.getInt32(l3 + 28)
    this.destination2 = view.getInt32(l3 + 32)
    this.destination3 = view.getInt32(l3 + 36)
    this.l4 = l3 + IPV6_BYTES
    this.end = end
    this.dontFragment = true
    this.hopLimit = view.getUint8(l3 + 7)
    this.setWhole(0)
  }

  private setWhole(id: number): void {
    this.fragment = FRAGMENT_NONE
    this.fragmentId = id
    this.fragmentOffset = 0
    this.moreFragments = false
    this.fragmentHeader = 0
    this.sourcePort = 0
    this.destinationPort = 0
    this.icmp = -1
  }

  /** An IPv4 fragment behind a header of so many bytes, which comes once in the whole packet. */
  private setFragment(offset: number, more: boolean, header: number): number {
    this.fragmentOffset = offset
    this.moreFragments = more
    const length = this.end - this.l4
    return this.judgeFragment(length, header + offset + length)
  }

  private judgeFragment(length: number, reach: number): number {
    this.fragment = this.fragmentOffset === 0 ? FRAGMENT_FIRST : FRAGMENT_LATER
    if (length === 0 || reach > DATAGRAM_BYTES_MAX) return DROP_BAD_IP
    return this.moreFragments && (length & 7) !== 0 ? DROP_BAD_IP : 0
  }

  /**
   * Follows the extension headers from `l4` to the transport header, or to the payload of a later fragment. Leaves
   * `l4`, `protocol` and what a fragment header says.
   */
  private walkExtensions(view: DataView): number {
    const first = this.l4
    const { end } = this
    let next = this.protocol
    let at = first
    for (let count = 0; ; count++) {
      if (
        next !== HOP_BY_HOP &&
        next !== ROUTING &&
        next !== FRAGMENT &&
        next !== AUTHENTICATION &&
        next !== DESTINATION_OPTIONS
      )
        break
      if (count === EXTENSIONS_MAX) return DROP_IP_OPTIONS
      // RFC 7112: a first fragment that does not hold the chain is no better than one without its ports
      const cut = this.moreFragments ? DROP_BAD_TRANSPORT : DROP_BAD_IP
      if (end - at < 8) return cut
      if (next === HOP_BY_HOP && at !== first) return DROP_BAD_IP
      if (next === ROUTING && view.getUint8(at + 2) === 0) return DROP_IP_OPTIONS
      let size = (view.getUint8(at + 1) + 1) << 3
      if (next === AUTHENTICATION) size = (view.getUint8(at + 1) + 2) << 2
      if (next === FRAGMENT) {
        if (this.fragmentHeader !== 0) return DROP_BAD_IP
        size = FRAGMENT_HEADER_BYTES
        const bits = view.getUint16(at + 2)
        this.fragmentHeader = at
        this.fragmentOffset = bits & 0xfff8
        this.moreFragments = (bits & 1) !== 0
        this.fragmentId = view.getInt32(at + 4)
      }
      if (at + size - first > EXTENSION_BYTES_MAX) return DROP_IP_OPTIONS
      if (size > end - at) return cut
      next = view.getUint8(at)
      at += size
      if (this.fragmentOffset !== 0) break
    }
    this.l4 = at
    this.protocol = next
    return 0
  }

  private parseTransport(view: DataView): number {
    const { l4, protocol } = this
    const left = this.end - l4
    // RFC 3128: no first fragment ends before the header does, so this one contradicts it
    if (this.fragment === FRAGMENT_LATER)
      return protocol === PROTOCOL_TCP && this.fragmentOffset < TCP_BYTES ? DROP_BAD_TRANSPORT : 0
    if (protocol === PROTOCOL_TCP) {
      if (left < TCP_BYTES) return DROP_BAD_TRANSPORT
      const header = (view.getUint8(l4 + 12) >>> 4) << 2
      if (header < TCP_BYTES || header > left) return DROP_BAD_TRANSPORT
      this.readPorts(view, l4)
    } else if (protocol === PROTOCOL_UDP) {
      if (left < UDP_BYTES) return DROP_BAD_TRANSPORT
      const length = view.getUint16(l4 + 4)
      if (length < UDP_BYTES || (length > left && this.fragment === FRAGMENT_NONE)) return DROP_BAD_TRANSPORT
      this.readPorts(view, l4)
    } else if (protocol === (this.family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMP6)) {
      if (left < ICMP_BYTES) return DROP_BAD_TRANSPORT
      this.readIcmp(view, l4)
    } else if (hasPorts(protocol)) {
      const least = protocol === PROTOCOL_SCTP ? SCTP_BYTES : protocol === PROTOCOL_DCCP ? DCCP_BYTES : UDP_BYTES
      if (left < least) return DROP_BAD_TRANSPORT
      this.readPorts(view, l4)
    }
    return 0
  }

  private readPorts(view: DataView, l4: number): void {
    const ports = view.getInt32(l4)
    this.sourcePort = ports >>> 16
    this.destinationPort = ports & 0xffff
  }

  private readIcmp(view: DataView, l4: number): void {
    this.icmp = view.getUint16(l4)
    if (!isIcmpQuery(this.family, this.icmp >> 8)) return
    this.sourcePort = view.getUint16(l4 + 4)
    this.destinationPort = this.sourcePort
  }

  /** Whether a checksum from `start` on may be finished, in the field `offset` bytes behind. */
  private mayFinish(start: number, offset: number): boolean {
    const { l4, protocol } = this
    if (this.fragment !== FRAGMENT_NONE || offset < 0 || start + offset + 2 > this.end) return false
    if (protocol === PROTOCOL_TCP) return start === l4 && offset === TCP_CHECKSUM
    if (this.icmp >= 0) return start === l4 && offset === ICMP_CHECKSUM
    if (protocol === PROTOCOL_UDP && start === l4) return offset === UDP_CHECKSUM
    return start >= l4 + JUDGED_BYTES
  }
}

/** Walks the options of an IPv4 header (RFC 791 section 3.1). */
function judgeOptions(view: DataView, start: number, end: number): number {
  for (let at = start; at < end; ) {
    const option = view.getUint8(at)
    if (option === OPTION_END) return 0
    if (option === OPTION_LOOSE_ROUTE || option === OPTION_STRICT_ROUTE) return DROP_IP_OPTIONS
    if (option === OPTION_NONE) {
      at++
      continue
    }
    const length = end - at < 2 ? 0 : view.getUint8(at + 1)
    if (length < 2 || length > end - at) return DROP_BAD_IP
    at += length
  }
  return 0
}

/** Whether a transport begins with two ports. */
export function hasPorts(protocol: number): boolean {
  return (
    protocol === PROTOCOL_TCP ||
    protocol === PROTOCOL_UDP ||
    protocol === PROTOCOL_SCTP ||
    protocol === PROTOCOL_DCCP ||
    protocol === PROTOCOL_UDP_LITE
  )
}

/** Whether an ICMP type is a query or its reply with an identifier: echo, and of ICMPv4 timestamp. */
export function isIcmpQuery(family: number, type: number): boolean {
  if (family === 6) return type === 128 || type === 129
  return type === 0 || type === 8 || type === 13 || type === 14
}

/** Whether an ICMP type is an error that quotes a packet (RFC 792 without redirects, RFC 4443). */
export function isIcmpError(family: number, type: number): boolean {
  if (family === 6) return type >= 1 && type <= 4
  return type === 3 || type === 4 || type === 11 || type === 12
}
