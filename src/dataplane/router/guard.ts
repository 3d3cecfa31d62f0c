/**
 * Guard: a host behind a port uses its own addresses only, and plays no DHCP server or router (RFC 2827 at the port;
 * RFC 6105, RFC 7610, RFC 6980).
 *
 * It looks at ports of segments that have a router. On each of them nobody may use the gateway's MAC. On guarded ports:
 *
 * - MAC: the port's own, where it has one by order; no MAC that is static at another port (as those of leases are).
 * - IPv4 and IPv6 addresses, in IP packets and in ARP and neighbor discovery: never the router's; never one that is
 *   bound to another port by a lease or by order, or that another port has used in the last minute. A port that has a
 *   leased or assigned IPv4 address may use no other. Otherwise the first to use an address has it: `neighbors.ts`
 *   keeps them. An address that is not in the segment's subnets is used only by a port that routes, or by order.
 * - Answers of DHCP servers, router advertisements and redirects are dropped, whatever extension headers stand before
 *   them; an IPv6 packet whose headers do not end within the frame is dropped, and so is IP inside IEEE 802.2 (SNAP),
 *   which hosts understand and filters forget (VU#855201).
 *
 * Each of the three can be waived for a port. A burst comes in runs: what was just found right is not looked up again.
 */
import type { Burst, Pool } from '../burst.js'
import * as drops from '../drops.js'
import type { Fdb } from '../fdb.js'
import * as layout from '../layout.js'
import * as portTable from '../port-table.js'
import type { PortTable } from '../port-table.js'
import { isLinkLocal4, isLinkLocal6 } from './address-kinds.js'
import { arpSender, validArp } from './arp.js'
import type { Neighbors } from './neighbors.js'
import type { RouterTable } from './router-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  DROP_BAD_ARP,
  DROP_BAD_IP,
  DROP_BAD_ND,
  DROP_DHCP_SERVER,
  DROP_IP_OPTIONS,
  DROP_MARTIAN,
  DROP_ROUTER_ADVERTISEMENT,
  DROP_SPOOFED_ADDRESS,
  DROP_SPOOFED_MAC,
} = drops
const { ETHERTYPE, INGRESS, LENGTH, MAC_HIGH, OFFSET, RECORD_SHIFT, SOURCE_LOW, TAG, VID } = layout
const { PORT_GATEWAY, PORT_GUARDED, PORT_LINK, PORT_ROUTES, PORT_SERVES_DHCP } = portTable

const TYPE_IP = 0x0800
const TYPE_ARP = 0x0806
const TYPE_IP6 = 0x86dd
const TYPE_LEAST = 0x0600
const SNAP = 0xaaaa0300 | 0
const EXTENSIONS_MAX = 8
const PROTOCOL_IGMP = 2
// clients take what comes to these ports, from whatever port it was sent
const DHCP_SERVER = 67
const DHCP_CLIENT = 68
const DHCP6_CLIENT = 546
/** Seconds for which an address stays with the port that used it last. */
const CLAIM_SECONDS = 60

/** Sends the packets that a neighbor's answer has set free. */
export interface Releases {
  sendReleased(): void
}

export class Guard {
  private readonly pool: Pool
  private readonly ports: PortTable
  private readonly fdb: Fdb
  private readonly table: RouterTable
  private readonly neighbors: Neighbors
  private readonly releases: Releases
  // what was last found right: the MAC of a port, and an address of it
  private macPort = -1
  private macLow = 0
  private macHigh = 0
  private macVid = 0
  private ipPort = -1
  private ipFamily = 0
  private ip0 = 0
  private ip1 = 0
  private ip2 = 0
  private ip3 = 0
  private ipMacLow = 0
  private ipMacHigh = 0
  private now = 0

  constructor(pool: Pool, ports: PortTable, fdb: Fdb, table: RouterTable, neighbors: Neighbors, releases: Releases) {
    this.pool = pool
    this.ports = ports
    this.fdb = fdb
    this.table = table
    this.neighbors = neighbors
    this.releases = releases
  }

  process(burst: Burst, now: number): void {
    const { packets, count } = burst
    const { records } = this.pool
    this.now = now
    this.macPort = this.ipPort = -1 // a binding may have changed since
    let kept = 0
    let port = -1
    let segment = -1
    let isWatched = false
    for (let i = 0; i < count; i++) {
      const packet = packets[i]
      const record = packet << RECORD_SHIFT
      if (records[record + INGRESS] !== port) {
        port = records[record + INGRESS]
        segment = this.ports.network[port]
        isWatched = this.table.gatewayPort[segment] >= 0 && (this.ports.flags[port] & PORT_GATEWAY) === 0
      }
      const reason = isWatched ? this.judge(packet, record, port, segment) : 0
      if (reason === 0) packets[kept++] = packet
      else this.pool.drop(packet, reason)
    }
    burst.count = kept
  }

  private judge(packet: number, record: number, port: number, segment: number): number {
    const { records } = this.pool
    const low = records[record + SOURCE_LOW]
    const high = records[record + MAC_HIGH] >>> 16
    if (low === this.table.macLow[segment] && high === this.table.macHigh[segment]) return DROP_SPOOFED_MAC
    const flags = this.ports.flags[port]
    if ((flags & PORT_GUARDED) === 0) return 0
    const vid = records[record + VID]
    if (low !== this.macLow || high !== this.macHigh || port !== this.macPort || vid !== this.macVid) {
      if (!this.isOwnMac(port, segment, low, high, vid)) return DROP_SPOOFED_MAC
      this.macLow = low
      this.macHigh = high
      this.macPort = port
      this.macVid = vid
    }
    if (vid !== this.table.vid[segment] || isPayload(records[record + TAG], vid)) return 0
    const type = records[record + ETHERTYPE]
    if (type === TYPE_IP) return this.judgeIp(record, port, segment, flags)
    if (type === TYPE_IP6) return this.judgeIp6(record, port, segment, flags)
    if (type === TYPE_ARP) {
      if (validArp(this.pool, packet) === 0) return DROP_BAD_ARP
      const sender = arpSender(this.pool, packet)
      return sender === 0 ? 0 : this.judgeAddress(record, port, segment, 4, sender, 0, 0, 0)
    }
    return type < TYPE_LEAST && this.isSnap(record) ? DROP_BAD_IP : 0
  }

  private isOwnMac(port: number, segment: number, low: number, high: number, vid: number): boolean {
    const { ports, fdb } = this
    if ((ports.ownMacLow[port] | ports.ownMacHigh[port]) !== 0)
      return ports.ownMacLow[port] === low && ports.ownMacHigh[port] === high
    const keyHigh = high | (vid << 16)
    const holder = fdb.staticPort(fdb.place(low, keyHigh, segment), low, keyHigh, segment)
    return holder < 0 || holder === port
  }

  private judgeIp(record: number, port: number, segment: number, flags: number): number {
    const { bytes, view, records } = this.pool
    if (records[record + LENGTH] < 34) return DROP_BAD_IP
    const ip = records[record + OFFSET] + 14
    const source = view.getInt32(ip + 12)
    const isLater = (view.getUint16(ip + 6) & 0x1fff) !== 0
    if (bytes[ip + 9] === 17 && !isLater) {
      const transport = ip + (bytes[ip] & 15) * 4
      if (transport + 8 > records[record + OFFSET] + records[record + LENGTH]) return DROP_BAD_IP
      const destinationPort = view.getUint16(transport + 2)
      if (destinationPort === DHCP_CLIENT && (flags & PORT_SERVES_DHCP) === 0) return DROP_DHCP_SERVER
      if (source === 0 && destinationPort === DHCP_SERVER && view.getUint16(transport) === DHCP_CLIENT) return 0
    }
    // a host without an address reports its groups all the same (RFC 3376 section 4.2.13)
    if (source === 0 && bytes[ip + 9] === PROTOCOL_IGMP) return 0
    return this.judgeAddress(record, port, segment, 4, source, 0, 0, 0)
  }

  private judgeIp6(record: number, port: number, segment: number, flags: number): number {
    const { bytes, view, records } = this.pool
    if (records[record + LENGTH] < 54) return DROP_BAD_IP
    const ip = records[record + OFFSET] + 14
    const end = records[record + OFFSET] + records[record + LENGTH]
    let next = bytes[ip + 6]
    let at = ip + 40
    let isFragment = false
    let isLater = false
    for (let i = 0; isExtension(next) && !isLater; i++) {
      if (i >= EXTENSIONS_MAX || at + 8 > end) return DROP_IP_OPTIONS
      if (next === 44) {
        isFragment = true
        isLater = (view.getUint16(at + 2) & 0xfff8) !== 0
      }
      const length = next === 44 ? 8 : next === 51 ? (bytes[at + 1] + 2) * 4 : (bytes[at + 1] + 1) * 8
      next = bytes[at]
      at += length
    }
    if (at > end) return DROP_IP_OPTIONS
    let type = 0
    if (!isLater && (next === 58 || next === 17)) {
      if (at + 8 > end) return DROP_IP_OPTIONS
      type = next === 58 ? bytes[at] : 0
      if ((type === 134 || type === 137) && (flags & PORT_ROUTES) === 0) return DROP_ROUTER_ADVERTISEMENT
      if (isFragment && type >= 133 && type <= 137) return DROP_BAD_ND
      const destinationPort = next === 17 ? view.getUint16(at + 2) : 0
      if (destinationPort === DHCP6_CLIENT && (flags & PORT_SERVES_DHCP) === 0) return DROP_DHCP_SERVER
    }
    const ip0 = view.getInt32(ip + 8)
    const ip1 = view.getInt32(ip + 12)
    const ip2 = view.getInt32(ip + 16)
    const ip3 = view.getInt32(ip + 20)
    if (ip0 >>> 24 === 0xff) return DROP_MARTIAN
    // from the unspecified address come duplicate address detection and multicast listener reports
    if ((ip0 | ip1 | ip2 | ip3) === 0) return type >= 130 && type <= 143 ? 0 : DROP_SPOOFED_ADDRESS
    const reason = this.judgeAddress(record, port, segment, 6, ip0, ip1, ip2, ip3)
    if (reason !== 0 || type !== 136) return reason
    if (at + 24 > end) return DROP_BAD_ND
    const target0 = view.getInt32(at + 8)
    const target1 = view.getInt32(at + 12)
    const target2 = view.getInt32(at + 16)
    return this.judgeAddress(record, port, segment, 6, target0, target1, target2, view.getInt32(at + 20))
  }

  /** Whether the port may use an address; if so, that it has. */
  private judgeAddress(
    record: number,
    port: number,
    segment: number,
    family: number,
    ip0: number,
    ip1: number,
    ip2: number,
    ip3: number,
  ): number {
    const { records } = this.pool
    const macLow = records[record + SOURCE_LOW]
    const macHigh = records[record + MAC_HIGH] >>> 16
    if (
      ip0 === this.ip0 &&
      ip3 === this.ip3 &&
      ip2 === this.ip2 &&
      ip1 === this.ip1 &&
      port === this.ipPort &&
      macLow === this.ipMacLow &&
      macHigh === this.ipMacHigh &&
      family === this.ipFamily
    )
      return 0
    const zone = this.table.zones[this.table.zone[segment]]
    if (zone.answersOn(segment, family, ip0, ip1, ip2, ip3)) return DROP_SPOOFED_ADDRESS
    const isLinkLocal = family === 6 ? isLinkLocal6(ip0) : isLinkLocal4(ip0)
    const isOfLink = isLinkLocal || zone.isOnLink(segment, family, ip0, ip1, ip2, ip3)
    if (isOfLink || (this.ports.flags[port] & PORT_ROUTES) === 0) {
      const { neighbors } = this
      const entry = neighbors.find(segment, family, ip0, ip1, ip2, ip3)
      const isBound = entry >= 0 && neighbors.isBound(entry)
      if (!isBound && (!isOfLink || (family === 4 && neighbors.bound4[port] > 0))) return DROP_SPOOFED_ADDRESS
      if (entry >= 0 && !this.mayTake(entry, macLow, macHigh, port)) return DROP_SPOOFED_ADDRESS
      if (isOfLink) neighbors.learn(segment, family, ip0, ip1, ip2, ip3, macLow, macHigh, port, this.now)
      if (neighbors.releasedCount > 0) this.releases.sendReleased()
    }
    this.ipPort = port
    this.ipFamily = family
    this.ip0 = ip0
    this.ip1 = ip1
    this.ip2 = ip2
    this.ip3 = ip3
    this.ipMacLow = macLow
    this.ipMacHigh = macHigh
    return 0
  }

  /** An address goes to another port only when its holder has been silent, or is the router's question. */
  private mayTake(entry: number, macLow: number, macHigh: number, port: number): boolean {
    const { neighbors, ports } = this
    if (neighbors.isBound(entry)) return neighbors.mayBe(entry, macLow, macHigh, port)
    const holder = neighbors.port(entry)
    if (holder === port || (ports.flags[holder] & PORT_GATEWAY) !== 0) return true
    if ((ports.flags[holder] & PORT_LINK) === 0) return true
    return neighbors.age(entry, this.now) > CLAIM_SECONDS
  }

  /** IPv4, ARP or IPv6 in an IEEE 802.2 SNAP header with the OUI of Ethernet. */
  private isSnap(record: number): boolean {
    const { view, records } = this.pool
    if (records[record + LENGTH] < 22) return false
    const frame = records[record + OFFSET]
    if (view.getInt32(frame + 14) !== SNAP || view.getUint16(frame + 18) !== 0) return false
    const type = view.getUint16(frame + 20)
    return type === TYPE_IP || type === TYPE_ARP || type === TYPE_IP6
  }
}

/**
 * Whether a frame is of a VLAN that guests make among themselves, on the part of the network that knows no VLANs. A tag
 * of VID 0 says a priority only (IEEE 802.1Q-2018 9.6): hosts take such a frame as untagged, so it is no payload.
 */
export function isPayload(tag: number, vid: number): boolean {
  return vid === 0 && (tag & 0xfff) !== 0
}

/** Hop-by-hop options, routing, fragment, authentication, destination options (RFC 8200 section 4). */
function isExtension(next: number): boolean {
  return next === 0 || next === 43 || next === 44 || next === 51 || next === 60
}
