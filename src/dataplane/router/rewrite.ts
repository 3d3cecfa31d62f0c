/**
 * Rewrite: changes addresses, ports, hop limit and MSS of a packet in place, and keeps every checksum right by the
 * difference (RFC 1624, RFC 3022 section 4.2). It changes what `Headers` say along with the bytes.
 *
 *   IPv4 header      by the difference of its words; the identifications of both families: see `identification.ts`
 *   TCP UDP DCCP     addresses (by the pseudo-header) and ports count; so do UDP-Lite's, and ICMPv6's addresses
 *   UDP              0 says that there is none and stays; a result of 0 is written as 0xffff (RFC 768, 8200)
 *   ICMP, ICMPv6     the identifier of a query stands for both ports (RFC 5508)
 *   SCTP             addresses only: its ports are under a CRC32c, its addresses under nothing
 *   unfinished       the field holds the pseudo-header's plain sum: addresses count, all else is summed when it is
 *                    finished. So also of segmentation-offload frames
 *   later fragments  addresses only; the first one carries the checksum of all
 *   other protocols  addresses only
 *
 * An unfinished checksum that is not this transport's own (an inner packet's) leaves this one finished, and it is
 * treated so: Linux computes an outer checksum so that finishing the inner one keeps it right.
 *
 * The packet must have come through `Headers.parse`, and its slot must have no other holder. No state, no capacity.
 *
 * Not done here: destinations inside an IPv6 routing header; translation between IPv4 and IPv6.
 */
import type { Pool } from '../burst.js'
import * as layout from '../layout.js'
import * as addressKinds from './address-kinds.js'
import { advanced, changed16, changed32, corrected, swapped } from './checksum.js'
import * as headers from './headers.js'
import type { Headers } from './headers.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { CHECKSUM_START, OFFLOAD, OFFLOAD_CHECKSUM, OFFSET, RECORD_SHIFT } = layout
const { FRAGMENT_LATER, FRAGMENT_NONE, PROTOCOL_DCCP, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UDP_LITE } =
  headers
const { isIcmpQuery } = headers
const { isGroup4, isGroup6, isMartianSource4, isMartianSource6 } = addressKinds

const IPV6_BYTES = 40
const FRAGMENT_HEADER_BYTES = 8
const TCP_BYTES = 20
const TCP_SYN = 0x02
const OPTION_END = 0
const OPTION_NONE = 1
const OPTION_MSS = 2
const OPTION_MSS_BYTES = 4
/** The default that IANA lists for IP (RFC 1700). */
const HOP_LIMIT = 64
/** What one hop less adds to the sum: the hop limit is a word's high byte. */
const HOP = 0xfeff
const NONE = -1

export class Rewrite {
  private readonly pool: Pool

  constructor(pool: Pool) {
    this.pool = pool
  }

  /** @param port the new source port, or the identifier of an ICMP query; of no meaning where there is neither */
  rewriteSource(h: Headers, ip0: number, ip1: number, ip2: number, ip3: number, port: number): void {
    const { view } = this.pool
    let difference = changed32(h.source0, ip0)
    if (h.family === 4) {
      view.setInt32(h.l3 + 12, ip0)
      this.correctIpv4(h.l3, difference)
    } else {
      difference += changed32(h.source1, ip1) + changed32(h.source2, ip2) + changed32(h.source3, ip3)
      writeAddress(view, h.l3 + 8, ip0, ip1, ip2, ip3)
    }
    h.source0 = ip0
    h.source1 = ip1
    h.source2 = ip2
    h.source3 = ip3
    if (h.fragment === FRAGMENT_LATER) return
    const place = portPlace(h, 0)
    this.correctTransport(h, difference, place, port)
    if (place === NONE) return
    h.sourcePort = port
    if (h.icmp >= 0) h.destinationPort = port
  }

  /** The same for the destination. */
  rewriteDestination(h: Headers, ip0: number, ip1: number, ip2: number, ip3: number, port: number): void {
    const { view } = this.pool
    let difference = changed32(h.destination0, ip0)
    if (h.family === 4) {
      view.setInt32(h.l3 + 16, ip0)
      this.correctIpv4(h.l3, difference)
    } else {
      difference += changed32(h.destination1, ip1) + changed32(h.destination2, ip2) + changed32(h.destination3, ip3)
      writeAddress(view, h.l3 + 24, ip0, ip1, ip2, ip3)
    }
    h.destination0 = ip0
    h.destination1 = ip1
    h.destination2 = ip2
    h.destination3 = ip3
    if (h.fragment === FRAGMENT_LATER) return
    const place = portPlace(h, 2)
    this.correctTransport(h, difference, place, port)
    if (place === NONE) return
    h.destinationPort = port
    if (h.icmp >= 0) h.sourcePort = port
  }

  /** Gives a packet another identification: an IPv4 packet, or an IPv6 one with a fragment header. */
  renumber(h: Headers, id: number): void {
    const { view } = this.pool
    if (h.family === 4) {
      view.setUint16(h.l3 + 4, id)
      this.correctIpv4(h.l3, changed16(h.fragmentId, id))
    } else {
      view.setInt32(h.fragmentHeader + 4, id)
    }
    h.fragmentId = id
  }

  /**
   * One hop less.
   * @returns false if none would be left: then nothing is changed, and the packet must not go on (RFC 1812, 5.3.1)
   */
  decrementHopLimit(h: Headers): boolean {
    const left = h.hopLimit - 1
    if (left <= 0) return false
    const { view } = this.pool
    if (h.family === 4) {
      view.setUint8(h.l3 + 8, left)
      this.correctIpv4(h.l3, HOP)
    } else {
      view.setUint8(h.l3 + 7, left)
    }
    h.hopLimit = left
    return true
  }

  /**
   * Lowers the maximum segment size that a TCP SYN announces, if it is higher (RFC 9293 section 3.7.1). A SYN without
   * the option stays without.
   * @param mss bytes of TCP payload, at most
   * @returns whether it was lowered
   */
  clampMss(h: Headers, mss: number): boolean {
    if (h.protocol !== PROTOCOL_TCP || h.fragment === FRAGMENT_LATER) return false
    const { view } = this.pool
    const { l4 } = h
    if ((view.getUint8(l4 + 13) & TCP_SYN) === 0) return false
    const end = l4 + ((view.getUint8(l4 + 12) >>> 4) << 2)
    for (let at = l4 + TCP_BYTES; end - at >= OPTION_MSS_BYTES; ) {
      const option = view.getUint8(at)
      if (option === OPTION_END) return false
      if (option === OPTION_NONE) {
        at++
        continue
      }
      const length = view.getUint8(at + 1)
      if (length < 2) return false
      if (option === OPTION_MSS && length === OPTION_MSS_BYTES) return this.lowerMss(h, at + 2, mss)
      at += length
    }
    return false
  }

  /**
   * Changes the source of the packet that an ICMP error quotes, where the quote has them: address, port or identifier,
   * IPv4 header checksum, transport checksum. The error's own checksum is kept right; its own addresses are left.
   * @param h the error
   * @param quoted what `IcmpErrors.parseQuoted` found in it
   */
  translateQuotedSource(
    h: Headers,
    quoted: Headers,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    port: number,
  ): void {
    const { view } = this.pool
    const at = quoted.l3 + (quoted.family === 4 ? 12 : 8)
    this.translateQuoted(h, quoted, at, ip0, ip1, ip2, ip3, portPlace(quoted, 0), port)
    quoted.source0 = ip0
    quoted.source1 = ip1
    quoted.source2 = ip2
    quoted.source3 = ip3
    this.readPorts(view, quoted)
  }

  /** The same for the destination of the quoted packet. */
  translateQuotedDestination(
    h: Headers,
    quoted: Headers,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    port: number,
  ): void {
    const { view } = this.pool
    const at = quoted.l3 + (quoted.family === 4 ? 16 : 24)
    this.translateQuoted(h, quoted, at, ip0, ip1, ip2, ip3, portPlace(quoted, 2), port)
    quoted.destination0 = ip0
    quoted.destination1 = ip1
    quoted.destination2 = ip2
    quoted.destination3 = ip3
    this.readPorts(view, quoted)
  }

  /**
   * Turns an echo request into its reply, in place: addresses swapped, type, hop limit (RFC 1122 section 3.2.2.6, RFC
   * 4443 section 4.2). The Ethernet header is the caller's.
   * @returns false if there is no reply to it: no echo request, a fragment, a group at either end, or behind IPv6
   *   extension headers other than a lone fragment's
   */
  answerEcho(h: Headers): boolean {
    const { view } = this.pool
    const { l3, l4 } = h
    const isIpv4 = h.family === 4
    if (h.icmp !== (isIpv4 ? 0x0800 : 0x8000) || h.fragment !== FRAGMENT_NONE) return false
    if (isIpv4) {
      if (isMartianSource4(h.source0) || isGroup4(h.destination0)) return false
    } else {
      const plain = IPV6_BYTES + (h.fragmentHeader === 0 ? 0 : FRAGMENT_HEADER_BYTES)
      if (l4 - l3 !== plain || isGroup6(h.destination0)) return false
      if (isMartianSource6(h.source0, h.source1, h.source2)) return false
    }
    const { source0, source1, source2, source3 } = h
    h.source0 = h.destination0
    h.source1 = h.destination1
    h.source2 = h.destination2
    h.source3 = h.destination3
    h.destination0 = source0
    h.destination1 = source1
    h.destination2 = source2
    h.destination3 = source3
    // a sum does not mind that addresses change places
    if (isIpv4) {
      const before = view.getUint16(l3 + 8)
      const after = (HOP_LIMIT << 8) | (before & 0xff)
      view.setInt32(l3 + 12, h.source0)
      view.setInt32(l3 + 16, h.destination0)
      view.setUint8(l3 + 8, HOP_LIMIT)
      this.correctIpv4(l3, changed16(before, after))
    } else {
      writeAddress(view, l3 + 8, h.source0, h.source1, h.source2, h.source3)
      writeAddress(view, l3 + 24, source0, source1, source2, source3)
      view.setUint8(l3 + 7, HOP_LIMIT)
    }
    const reply = isIpv4 ? 0x0000 : 0x8100
    view.setUint16(l4, reply)
    if (!this.isUnfinished(h)) {
      const field = view.getUint16(l4 + 2)
      view.setUint16(l4 + 2, corrected(field, changed16(h.icmp, reply)))
    }
    h.icmp = reply
    h.hopLimit = HOP_LIMIT
    return true
  }

  private correctIpv4(l3: number, difference: number): void {
    const { view } = this.pool
    view.setUint16(l3 + 10, corrected(view.getUint16(l3 + 10), difference))
  }

  /** Whether the checksum of the packet's own transport is unfinished; `parse` let it start nowhere else but inside. */
  private isUnfinished(h: Headers): boolean {
    const { records } = this.pool
    const record = h.packet << RECORD_SHIFT
    return (
      (records[record + OFFLOAD] & OFFLOAD_CHECKSUM) !== 0 &&
      records[record + OFFSET] + records[record + CHECKSUM_START] === h.l4
    )
  }

  /**
   * Writes a port and brings the transport's checksum up to date with it and with the addresses.
   * @param addresses what the pseudo-header's sum grew by
   * @param place byte of the transport header where the port stands; NONE: it has none
   */
  private correctTransport(h: Headers, addresses: number, place: number, port: number): void {
    const { view } = this.pool
    const { l4 } = h
    let ports = 0
    if (place !== NONE) {
      ports = changed16(view.getUint16(l4 + place), port)
      view.setUint16(l4 + place, port)
    }
    const offset = checksumPlace(h)
    if (offset === NONE) return
    const counted = h.protocol === PROTOCOL_ICMP ? 0 : addresses
    const field = view.getUint16(l4 + offset)
    if (this.isUnfinished(h)) view.setUint16(l4 + offset, advanced(field, counted))
    else view.setUint16(l4 + offset, correctedField(h.protocol, field, counted + ports))
  }

  private translateQuoted(
    h: Headers,
    quoted: Headers,
    at: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
    place: number,
    port: number,
  ): void {
    const { view } = this.pool
    const { l3, l4, end } = quoted
    let addresses = changed32(view.getInt32(at), ip0)
    let all = addresses
    if (quoted.family === 4) {
      view.setInt32(at, ip0)
      const before = view.getUint16(l3 + 10)
      this.correctIpv4(l3, addresses)
      all += changed16(before, view.getUint16(l3 + 10))
    } else {
      addresses += changed32(view.getInt32(at + 4), ip1) + changed32(view.getInt32(at + 8), ip2)
      addresses += changed32(view.getInt32(at + 12), ip3)
      all = addresses
      writeAddress(view, at, ip0, ip1, ip2, ip3)
    }
    let ports = 0
    if (place !== NONE) {
      ports = changed16(view.getUint16(l4 + place), port)
      view.setUint16(l4 + place, port)
      all += ports
    }
    const offset = checksumPlace(quoted)
    if (offset !== NONE && end - l4 >= offset + 2) {
      const field = view.getUint16(l4 + offset)
      const counted = quoted.protocol === PROTOCOL_ICMP ? 0 : addresses
      const after = correctedField(quoted.protocol, field, counted + ports)
      view.setUint16(l4 + offset, after)
      all += changed16(field, after)
    }
    if (this.isUnfinished(h)) return
    const own = h.l4 + 2
    view.setUint16(own, corrected(view.getUint16(own), all))
  }

  private readPorts(view: DataView, quoted: Headers): void {
    const source = portPlace(quoted, 0)
    if (source === NONE) return
    quoted.sourcePort = view.getUint16(quoted.l4 + source)
    quoted.destinationPort = view.getUint16(quoted.l4 + portPlace(quoted, 2))
  }

  private lowerMss(h: Headers, at: number, mss: number): boolean {
    const { view } = this.pool
    const before = view.getUint16(at)
    if (before <= mss) return false
    view.setUint16(at, mss)
    if (this.isUnfinished(h)) return true
    const isOdd = ((at - h.l4) & 1) !== 0
    const difference = isOdd ? changed16(swapped(before), swapped(mss)) : changed16(before, mss)
    const field = h.l4 + 16
    view.setUint16(field, corrected(view.getUint16(field), difference))
    return true
  }
}

function writeAddress(view: DataView, at: number, ip0: number, ip1: number, ip2: number, ip3: number): void {
  view.setInt32(at, ip0)
  view.setInt32(at + 4, ip1)
  view.setInt32(at + 8, ip2)
  view.setInt32(at + 12, ip3)
}

/** Where a port that may be changed stands in the transport header: `place`, or an ICMP query's identifier, or NONE. */
function portPlace(h: Headers, place: number): number {
  const { protocol } = h
  if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP) return place
  if (h.icmp >= 0) return isIcmpQuery(h.family, h.icmp >> 8) ? 4 : NONE
  return protocol === PROTOCOL_DCCP || protocol === PROTOCOL_UDP_LITE ? place : NONE
}

/** Where the checksum stands in the transport header; NONE where addresses and ports are under none. */
function checksumPlace(h: Headers): number {
  const { protocol } = h
  if (protocol === PROTOCOL_TCP) return 16
  if (protocol === PROTOCOL_UDP || protocol === PROTOCOL_DCCP || protocol === PROTOCOL_UDP_LITE) return 6
  return h.icmp >= 0 ? 2 : NONE
}

/** A finished checksum after what it covers grew by `difference`, with UDP's rules for 0. */
function correctedField(protocol: number, field: number, difference: number): number {
  if (protocol !== PROTOCOL_UDP && protocol !== PROTOCOL_UDP_LITE) return corrected(field, difference)
  if (field === 0) return 0
  const after = corrected(field, difference)
  return after === 0 ? 0xffff : after
}
