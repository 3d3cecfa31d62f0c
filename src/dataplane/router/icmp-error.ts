/**
 * What the router itself has to say of a packet that it does not pass on: ICMP and ICMPv6 errors and TCP resets, each
 * built in a fresh slot. Also reads the packet that somebody else's error quotes.
 *
 * A new frame is whole from its IP header on (byte 14), with full checksums and a clean record: LENGTH and ETHERTYPE
 * are set, nothing is unfinished whatever the quoted packet was. The Ethernet header and the ingress are the caller's.
 * Call before the packet is rewritten: the quote shows it as it came. The packet stays the caller's.
 *
 *   IPv4 (RFC 792, 1812)  quotes as much as makes 576 bytes in all (4.3.2.3), precedence internetwork control (4.3.2.5)
 *   IPv6 (RFC 4443)       quotes as much as makes 1280 bytes in all
 *   TCP  (RFC 9293)       a reset as section 3.10.7.1 has it for a closed port
 *
 * Of a segmentation-offload frame all headers are quoted and nothing behind.
 *
 * Nothing is said about (RFC 1812 4.3.2.7, RFC 4443 2.4 e): ICMP errors and redirects, ICMP of kinds that may be such;
 * later fragments; frames to an Ethernet group; packets to an IP group; sources that are no single host. The exception
 * is IPv6's packet-too-big, which groups may cause. A reset is answered by nothing, and so are fragments of TCP.
 *
 * Limits: 100 a second and zone, 10 a second and destination (RFC 4443 2.4 f, RFC 1812 4.3.2.8), each a bucket that is
 * full again with each second of the clock; but what came by a port of the switch is answered 10 times a second
 * whatever other ports have spent of their zone's. Destinations share 1024 buckets by a keyed hash. What is over a
 * limit is counted, and not sent.
 */
import type { Pool } from '../burst.js'
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import type { Arena } from '../layout.js'
import * as addressKinds from './address-kinds.js'
import { checksum, pseudoHeader4, pseudoHeader6 } from './checksum.js'
import { KeyedHash } from './hash-index.js'
import * as headers from './headers.js'
import type { Headers } from './headers.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_BAD_TRANSPORT, DROP_INVALID } = drops
const { ETHERTYPE, HEADER_ICMP_LIMITED, HEADER_ICMP_SENT, HEADER_LENGTH, INGRESS, MAC_HIGH, OFFSET, RECORD_SHIFT } =
  layout
const { FRAGMENT_LATER, FRAGMENT_NONE, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP } = headers
const { isIcmpError } = headers
const { isGroup4, isGroup6, isMartianSource4, isMartianSource6 } = addressKinds

/** Why a destination is unreachable. */
export const UNREACHABLE_NETWORK = 0
export const UNREACHABLE_HOST = 1
export const UNREACHABLE_PORT = 2
export const UNREACHABLE_PROHIBITED = 3
/** Their codes in ICMP (RFC 792, RFC 1812 section 5.2.7.1) and ICMPv6 (RFC 4443 section 3.1). */
const CODES_IPV4 = Int32Array.of(0, 1, 3, 13)
const CODES_IPV6 = Int32Array.of(0, 3, 4, 1)

export const ZONE_PER_SECOND = 100
export const DESTINATION_PER_SECOND = 10
export const PORT_PER_SECOND = 10
const ZONES = 512
const DESTINATIONS = 1024
const PURPOSE = 7

const ETHERNET_BYTES = 14
const TYPE_IPV4 = 0x0800
const TYPE_IPV6 = 0x86dd
const IPV4_BYTES = 20
const IPV6_BYTES = 40
const ICMP_BYTES = 8
const TCP_BYTES = 20
const IPV4_ERROR_BYTES = 576
const IPV6_ERROR_BYTES = 1280
const HOP_LIMIT = 64
/** Version, header length, and as type of service internetwork control. */
const IPV4_ERROR_FIRST = 0x45c0
const IPV4_FIRST = 0x4500
/** Never fragmented, so the identification may be 0 (RFC 6864 section 4.1). */
const DONT_FRAGMENT = 0x4000

const UNREACHABLE_4 = 0x0300
const TOO_BIG_4 = 0x0304
const TIME_EXCEEDED_4 = 0x0b00
const UNREACHABLE_6 = 0x0100
const TOO_BIG_6 = 0x0200
const TIME_EXCEEDED_6 = 0x0300

const TCP_FIN = 0x01
const TCP_SYN = 0x02
const TCP_RST = 0x04
const TCP_ACK = 0x10

export class IcmpErrors {
  private readonly pool: Pool
  private readonly header: Int32Array
  private readonly keyed: KeyedHash
  private readonly zoneSpent = new Int32Array(ZONES) // in the second `second`, as those below
  private readonly destinationSpent = new Int32Array(DESTINATIONS)
  private readonly portSpent: Int32Array // by the port that it came by
  private second = -1

  constructor(arena: Arena, pool: Pool, portRows: number) {
    this.pool = pool
    this.header = arena.header
    this.keyed = new KeyedHash(arena.header, PURPOSE)
    this.portSpent = new Int32Array(portRows)
  }

  /**
   * The hop limit ran out.
   * @param zone whose limit it counts to
   * @param now seconds
   * @param ip0 source of the error, an address of the router, as all of `ip0` to `ip3` below
   * @returns the new packet, -1: none
   */
  timeExceeded(h: Headers, zone: number, now: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    if (!this.mayAnswer(h, false)) return -1
    return this.build(h, h.family === 4 ? TIME_EXCEEDED_4 : TIME_EXCEEDED_6, 0, zone, now, ip0, ip1, ip2, ip3)
  }

  /**
   * The destination cannot be reached.
   * @param reason UNREACHABLE_*
   */
  unreachable(
    h: Headers,
    reason: number,
    zone: number,
    now: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
  ): number {
    if (!this.mayAnswer(h, false)) return -1
    const icmp = h.family === 4 ? UNREACHABLE_4 | CODES_IPV4[reason] : UNREACHABLE_6 | CODES_IPV6[reason]
    return this.build(h, icmp, 0, zone, now, ip0, ip1, ip2, ip3)
  }

  /**
   * The next link takes no packet as long (RFC 1191, RFC 8201).
   * @param mtu bytes of an IP packet there
   */
  tooBig(
    h: Headers,
    mtu: number,
    zone: number,
    now: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
  ): number {
    if (!this.mayAnswer(h, h.family === 6)) return -1
    return this.build(h, h.family === 4 ? TOO_BIG_4 : TOO_BIG_6, mtu, zone, now, ip0, ip1, ip2, ip3)
  }

  /** The reset that answers a TCP segment to a closed port, in the name of its destination; -1: none. */
  reset(h: Headers, zone: number, now: number): number {
    if (h.protocol !== PROTOCOL_TCP || h.fragment !== FRAGMENT_NONE || !this.mayAnswer(h, false)) return -1
    const { view } = this.pool
    const flags = view.getUint8(h.l4 + 13)
    if ((flags & TCP_RST) !== 0) return -1
    const ip = h.family === 4 ? IPV4_BYTES : IPV6_BYTES
    const packet = this.take(h, ip + TCP_BYTES, zone, now)
    if (packet < 0) return -1
    const l3 = this.pool.records[(packet << RECORD_SHIFT) + OFFSET] + ETHERNET_BYTES
    const l4 = l3 + ip
    this.writeIp(h, l3, IPV4_FIRST, TCP_BYTES, PROTOCOL_TCP)
    this.writeAddress(l3, true, h.destination0, h.destination1, h.destination2, h.destination3)
    view.setInt32(l4, (h.destinationPort << 16) | h.sourcePort)
    const hasAck = (flags & TCP_ACK) !== 0
    const payload = h.end - h.l4 - ((view.getUint8(h.l4 + 12) >>> 4) << 2)
    const length = payload + ((flags & TCP_SYN) !== 0 ? 1 : 0) + ((flags & TCP_FIN) !== 0 ? 1 : 0)
    view.setInt32(l4 + 4, hasAck ? view.getInt32(h.l4 + 8) : 0)
    view.setInt32(l4 + 8, hasAck ? 0 : (view.getInt32(h.l4 + 4) + length) | 0)
    view.setUint16(l4 + 12, (5 << 12) | (hasAck ? TCP_RST : TCP_RST | TCP_ACK))
    view.setUint16(l4 + 14, 0)
    view.setInt32(l4 + 16, 0)
    const pseudo =
      h.family === 4
        ? pseudoHeader4(h.source0, h.destination0, PROTOCOL_TCP, TCP_BYTES)
        : pseudoHeader6(view, l3 + 8, PROTOCOL_TCP, TCP_BYTES)
    view.setUint16(l4 + 16, checksum(view, l4, l4 + TCP_BYTES, pseudo))
    if (h.family === 4) this.finishIpv4(l3)
    return packet
  }

  /**
   * Reads the packet that an ICMP error quotes.
   * @param h the error
   * @param into receives the quoted packet, as it was on its way
   * @returns 0; DROP_INVALID if `h` is no such error or went to another than who sent what it quotes; DROP_BAD_IP,
   *   DROP_IP_OPTIONS or DROP_BAD_TRANSPORT if the quote does not show whose it is
   */
  parseQuoted(h: Headers, into: Headers): number {
    if (h.icmp < 0 || !isIcmpError(h.family, h.icmp >> 8)) return DROP_INVALID
    if (h.fragment !== FRAGMENT_NONE) return DROP_BAD_TRANSPORT
    const reason = into.parseQuote(this.pool.view, h.family, h.l4 + ICMP_BYTES, h.end)
    if (reason !== 0) return reason
    const isForSender =
      into.source0 === h.destination0 &&
      into.source1 === h.destination1 &&
      into.source2 === h.destination2 &&
      into.source3 === h.destination3
    return isForSender ? 0 : DROP_INVALID
  }

  /** Whether a packet may be answered at all. */
  private mayAnswer(h: Headers, isGroupAllowed: boolean): boolean {
    if (h.fragment === FRAGMENT_LATER) return false
    const isIpv4 = h.family === 4
    if (isIpv4 ? isMartianSource4(h.source0) : isMartianSource6(h.source0, h.source1, h.source2)) return false
    if (!isGroupAllowed) {
      if ((this.pool.records[(h.packet << RECORD_SHIFT) + MAC_HIGH] & 1) !== 0) return false
      if (isIpv4 ? isGroup4(h.destination0) : isGroup6(h.destination0)) return false
    }
    if (h.icmp < 0) return true
    const type = h.icmp >> 8
    // IPv4: queries and replies that are known to be such; IPv6: informational ones but the redirect
    if (isIpv4) return type === 0 || type === 8 || (type >= 13 && type <= 18)
    return type >= 128 && type !== 137
  }

  /** @param word what stands behind the checksum: 0 or the MTU */
  private build(
    h: Headers,
    icmp: number,
    word: number,
    zone: number,
    now: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
  ): number {
    const { bytes, view, records } = this.pool
    const isIpv4 = h.family === 4
    const before = (isIpv4 ? IPV4_BYTES : IPV6_BYTES) + ICMP_BYTES
    const most = (isIpv4 ? IPV4_ERROR_BYTES : IPV6_ERROR_BYTES) - before
    const allHeaders = records[(h.packet << RECORD_SHIFT) + HEADER_LENGTH]
    let quote = allHeaders > 0 ? allHeaders - ETHERNET_BYTES : h.end - h.l3
    if (quote > most) quote = most
    const packet = this.take(h, before + quote, zone, now)
    if (packet < 0) return -1
    const l3 = records[(packet << RECORD_SHIFT) + OFFSET] + ETHERNET_BYTES
    const l4 = l3 + before - ICMP_BYTES
    const end = l3 + before + quote
    this.writeIp(h, l3, IPV4_ERROR_FIRST, ICMP_BYTES + quote, isIpv4 ? PROTOCOL_ICMP : PROTOCOL_ICMP6)
    this.writeAddress(l3, true, ip0, ip1, ip2, ip3)
    view.setUint16(l4, icmp)
    view.setUint16(l4 + 2, 0)
    view.setInt32(l4 + 4, word)
    bytes.copyWithin(l4 + ICMP_BYTES, h.l3, h.l3 + quote)
    const pseudo = isIpv4 ? 0 : pseudoHeader6(view, l3 + 8, PROTOCOL_ICMP6, end - l4)
    view.setUint16(l4 + 2, checksum(view, l4, end, pseudo))
    if (isIpv4) this.finishIpv4(l3)
    return packet
  }

  /** A slot for an IP packet of so many bytes that answers `h`, within the limits; -1: none. */
  private take(h: Headers, length: number, zone: number, now: number): number {
    const packet = this.spend(h, zone & (ZONES - 1), now) ? this.pool.take(ETHERNET_BYTES + length) : -1
    if (packet < 0) {
      this.header[HEADER_ICMP_LIMITED]++
      return -1
    }
    this.pool.records[(packet << RECORD_SHIFT) + ETHERTYPE] = h.family === 4 ? TYPE_IPV4 : TYPE_IPV6
    this.header[HEADER_ICMP_SENT]++
    return packet
  }

  /** Takes one from the buckets of zone, port and the host that is answered; false if there is none. */
  private spend(h: Headers, zone: number, now: number): boolean {
    const { destinationSpent, portSpent, zoneSpent } = this
    if (this.second !== now) {
      this.second = now
      zoneSpent.fill(0)
      destinationSpent.fill(0)
      portSpent.fill(0)
    }
    const port = this.pool.records[(h.packet << RECORD_SHIFT) + INGRESS]
    const hash = this.keyed.mix(h.source0, h.source1 ^ zone, h.source2, h.source3)
    const bucket = hash & (DESTINATIONS - 1)
    if (destinationSpent[bucket] >= DESTINATION_PER_SECOND) return false
    if (zoneSpent[zone] >= ZONE_PER_SECOND && portSpent[port] >= PORT_PER_SECOND) return false
    zoneSpent[zone]++
    destinationSpent[bucket]++
    portSpent[port]++
    return true
  }

  /** An IP header to the source of `h`, without the source address and IPv4's checksum. */
  private writeIp(h: Headers, l3: number, first: number, payload: number, protocol: number): void {
    const { view } = this.pool
    if (h.family === 4) {
      view.setInt32(l3, (first << 16) | (IPV4_BYTES + payload))
      view.setInt32(l3 + 4, DONT_FRAGMENT)
      view.setInt32(l3 + 8, (HOP_LIMIT << 24) | (protocol << 16))
    } else {
      view.setInt32(l3, 6 << 28)
      view.setInt32(l3 + 4, (payload << 16) | (protocol << 8) | HOP_LIMIT)
    }
    this.writeAddress(l3, false, h.source0, h.source1, h.source2, h.source3)
  }

  private writeAddress(l3: number, isSource: boolean, ip0: number, ip1: number, ip2: number, ip3: number): void {
    const { view } = this.pool
    if (view.getUint8(l3) >>> 4 === 4) {
      view.setInt32(l3 + (isSource ? 12 : 16), ip0)
      return
    }
    const at = l3 + (isSource ? 8 : 24)
    view.setInt32(at, ip0)
    view.setInt32(at + 4, ip1)
    view.setInt32(at + 8, ip2)
    view.setInt32(at + 12, ip3)
  }

  private finishIpv4(l3: number): void {
    const { view } = this.pool
    view.setUint16(l3 + 10, checksum(view, l3, l3 + IPV4_BYTES, 0))
  }
}
