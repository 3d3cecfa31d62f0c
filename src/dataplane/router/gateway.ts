/**
 * Gateway: takes out of a burst what concerns the router of a segment, as a host on it.
 *
 *   to its MAC                     IP to `router.ts`; ARP and neighbor discovery answered here; the rest dropped
 *   to a group                     ARP and neighbor solicitations for its addresses answered; DHCP and router
 *                                  solicitations handed to the services; the rest is flooded as any frame
 *   to others, or from itself      goes on
 *
 * It also speaks for the router: `send` puts an Ethernet header before a packet and leaves it in the burst `routed`,
 * with the router's port as its ingress; `forward.ts` then treats it as any frame. Neighbors are asked for here, and
 * what their answers set free is sent.
 *
 * Services get a copy of a frame through the punt ring, at most SERVED_PER_SECOND a port and second.
 */
import type { Burst, Pool } from '../burst.js'
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import type { Mirror } from '../mirror.js'
import * as portTable from '../port-table.js'
import type { PortTable } from '../port-table.js'
import { isLinkLocal6 } from './address-kinds.js'
import { ARP_REPLY, ARP_REQUEST, answerArp, arpSender, arpTarget, askArp, validArp } from './arp.js'
import * as fragments from './fragments.js'
import { Headers } from './headers.js'
import { Discovery, ND_ROUTER_SOLICITATION, ND_SOLICITATION, advertise, solicit } from './nd.js'
import * as neighborTable from './neighbors.js'
import type { Neighbors } from './neighbors.js'
import { type Releases, isPayload } from './guard.js'
import * as routerTable from './router-table.js'
import type { RouterTable } from './router-table.js'
import * as waiting from './waiting.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_BAD_ARP, DROP_BAD_ND, DROP_NOT_ROUTED, DROP_NOT_SERVED, DROP_NO_SLOT, DROP_SERVICE_BUSY } = drops
const {
  BURST_CAPACITY,
  DESTINATION_LOW,
  ETHERTYPE,
  INGRESS,
  LENGTH,
  MAC_HIGH,
  OFFSET,
  RECORD_SHIFT,
  SOURCE_LOW,
  TAG,
  TCI,
  VID,
} = layout
const { PORT_GATEWAY, PORT_GUARDED } = portTable
const { NEIGHBOR_IP, NEIGHBOR_MAC_HIGH, NEIGHBOR_MAC_LOW, NEIGHBOR_STATE, STATE_PROBE } = neighborTable
const { HELD_NEIGHBOR } = waiting
const { HELD_FRAGMENTS } = fragments
const { SERVICE_DHCP, SERVICE_DHCP6, SERVICE_DHCP_CLIENT, SERVICE_ROUTER_ADVERTISEMENT } = routerTable

const TYPE_IP = 0x0800
const TYPE_ARP = 0x0806
const TYPE_IP6 = 0x86dd
const BROADCAST_LOW = -1
const BROADCAST_HIGH = 0xffff
/** Frames that the services take from one port in a second, DNS apart, which has limits of its own. */
const SERVED_PER_SECOND = 64
/** What answers can set free in one burst: all that waits before it, and what it brings or frees itself. */
const RELEASED_MAX = HELD_NEIGHBOR + HELD_FRAGMENTS + BURST_CAPACITY

/** What routes IP packets that are for the gateway's MAC. Takes every packet over. */
export interface RoutesPackets {
  /** A burst of them, in their order. */
  routeBurst(packets: Int32Array, count: number): void
  /** A packet that has waited for its next hop's address. */
  reroute(packet: number): void
}

/** What forwards a burst of frames that the router sends. */
export interface ForwardsFrames {
  /** it is at work, and cannot take another burst now */
  readonly busy: boolean
  process(burst: Burst): void
}

export class Gateway implements Releases {
  /** frames of the router, which go on behind the burst */
  readonly routed: Burst = { packets: new Int32Array(BURST_CAPACITY), count: 0 }
  now = 0
  private readonly pool: Pool
  private readonly ports: PortTable
  private readonly table: RouterTable
  private readonly neighbors: Neighbors
  private readonly mirror: Mirror
  private readonly forward: ForwardsFrames
  private router: RoutesPackets | null = null
  private readonly own = new Int32Array(BURST_CAPACITY) // IP packets of the burst for the router's MAC
  private ownCount = 0
  private readonly headers = new Headers()
  private readonly discovery = new Discovery()
  private readonly served: Int32Array // frames for services by port, in the second `servedAt`
  private servedAt = 0
  private readonly released = new Int32Array(RELEASED_MAX)
  private releasedCount = 0

  constructor(
    pool: Pool,
    ports: PortTable,
    table: RouterTable,
    neighbors: Neighbors,
    mirror: Mirror,
    forward: ForwardsFrames,
  ) {
    this.pool = pool
    this.ports = ports
    this.table = table
    this.neighbors = neighbors
    this.mirror = mirror
    this.forward = forward
    this.served = new Int32Array(ports.size)
  }

  /** Tells who routes: the router needs the gateway too, so it comes second. */
  attach(router: RoutesPackets): void {
    this.router = router
  }

  process(burst: Burst, now: number): void {
    const { packets, count } = burst
    const { records } = this.pool
    const { table, ports } = this
    this.now = now
    let kept = 0
    let port = -1
    let segment = -1
    let isServed = false
    for (let i = 0; i < count; i++) {
      const packet = packets[i]
      const record = packet << RECORD_SHIFT
      if (records[record + INGRESS] !== port) {
        port = records[record + INGRESS]
        segment = ports.network[port]
        isServed = table.gatewayPort[segment] >= 0 && (ports.flags[port] & PORT_GATEWAY) === 0
      }
      const vid = records[record + VID]
      if (isServed && vid === table.vid[segment] && !isPayload(records[record + TAG], vid)) {
        const high = records[record + MAC_HIGH] & 0xffff
        if ((high & 1) !== 0) {
          if (this.takeGroup(packet, record, segment)) continue
        } else if (high === table.macHigh[segment] && records[record + DESTINATION_LOW] === table.macLow[segment]) {
          this.takeOwn(packet, record, segment)
          continue
        }
      }
      packets[kept++] = packet
    }
    burst.count = kept
    if (this.ownCount > 0) this.routeOwn()
    if (this.releasedCount > 0) this.routeReleased()
    if (this.neighbors.probeCount > 0) this.sendProbes()
  }

  // ---- what the router sends ----

  /** Sends a packet, which starts with its IP or ARP header at 14, to a MAC on a segment. Takes it over. */
  send(packet: number, segment: number, type: number, macLow: number, macHigh: number): void {
    const { view, records } = this.pool
    const { table } = this
    const record = packet << RECORD_SHIFT
    const frame = records[record + OFFSET]
    const ownLow = table.macLow[segment]
    const ownHigh = table.macHigh[segment]
    view.setUint16(frame, macHigh, true)
    view.setInt32(frame + 2, macLow, true)
    view.setUint16(frame + 6, ownHigh, true)
    view.setInt32(frame + 8, ownLow, true)
    view.setUint16(frame + 12, type)
    records[record + INGRESS] = table.gatewayPort[segment]
    records[record + TAG] = 0
    records[record + VID] = table.vid[segment]
    records[record + TCI] = table.vid[segment]
    records[record + ETHERTYPE] = type
    records[record + DESTINATION_LOW] = macLow
    records[record + SOURCE_LOW] = ownLow
    records[record + MAC_HIGH] = macHigh | (ownHigh << 16)
    const { routed } = this
    if (routed.count === BURST_CAPACITY) {
      if (this.forward.busy) return this.pool.drop(packet, DROP_NO_SLOT)
      this.forward.process(routed)
    }
    routed.packets[routed.count++] = packet
  }

  /** Sends a packet to a neighbor's MAC. */
  sendTo(packet: number, entry: number): void {
    const { entries } = this.neighbors
    const type = this.neighbors.family(entry) === 4 ? TYPE_IP : TYPE_IP6
    const segment = this.neighbors.segment(entry)
    this.send(packet, segment, type, entries[entry + NEIGHBOR_MAC_LOW], entries[entry + NEIGHBOR_MAC_HIGH])
  }

  /** Sends the answer to a packet's sender: a new packet, or the same one turned round. */
  sendBack(packet: number, segment: number, macLow: number, macHigh: number): void {
    const { bytes, records } = this.pool
    const isIp6 = bytes[records[(packet << RECORD_SHIFT) + OFFSET] + 14] >> 4 === 6
    this.send(packet, segment, isIp6 ? TYPE_IP6 : TYPE_IP, macLow, macHigh)
  }

  /** Notes what a neighbor's answer has set free: it is routed when the burst is through. */
  sendReleased(): void {
    const { neighbors } = this
    for (let i = 0; i < neighbors.releasedCount; i++) this.released[this.releasedCount++] = neighbors.released[i]
    neighbors.releasedCount = 0
  }

  private routeOwn(): void {
    const count = this.ownCount
    this.ownCount = 0
    this.router!.routeBurst(this.own, count)
  }

  private routeReleased(): void {
    const count = this.releasedCount
    this.releasedCount = 0
    for (let i = 0; i < count; i++) this.router!.reroute(this.released[i])
  }

  /** Asks for the neighbors that are listed to be asked for. */
  sendProbes(): void {
    const { neighbors } = this
    for (let i = 0; i < neighbors.probeCount; i++) this.ask(neighbors.probes[i])
    neighbors.probeCount = 0
  }

  /** Announces the router's IPv4 address on a segment (RFC 5227 section 3). */
  announce(segment: number, ip0: number): void {
    const { table } = this
    const packet = askArp(this.pool, table.macLow[segment], table.macHigh[segment], ip0, ip0)
    if (packet >= 0) this.send(packet, segment, TYPE_ARP, BROADCAST_LOW, BROADCAST_HIGH)
  }

  private ask(entry: number): void {
    const { neighbors, table } = this
    const { entries } = neighbors
    const segment = neighbors.segment(entry)
    const family = neighbors.family(entry)
    if (segment < 0 || table.zone[segment] < 0) return
    const zone = table.zones[table.zone[segment]]
    const ip0 = entries[entry + NEIGHBOR_IP]
    const ip1 = entries[entry + NEIGHBOR_IP + 1]
    const ip2 = entries[entry + NEIGHBOR_IP + 2]
    const ip3 = entries[entry + NEIGHBOR_IP + 3]
    const own = zone.addressFor(segment, family, ip0, ip1, ip2, ip3)
    if (own < 0) return
    const isProbe = entries[entry + NEIGHBOR_STATE] === STATE_PROBE
    let macLow = isProbe ? entries[entry + NEIGHBOR_MAC_LOW] : BROADCAST_LOW
    let macHigh = isProbe ? entries[entry + NEIGHBOR_MAC_HIGH] : BROADCAST_HIGH
    const ownLow = table.macLow[segment]
    const ownHigh = table.macHigh[segment]
    if (family === 4) {
      const packet = askArp(this.pool, ownLow, ownHigh, zone.ownWord(own, 0), ip0)
      if (packet >= 0) this.send(packet, segment, TYPE_ARP, macLow, macHigh)
      return
    }
    if (!isProbe) {
      // 33:33:ff and the last three octets (RFC 2464 section 7)
      macHigh = 0x3333
      macLow = 0xff | ((ip3 & 0xff0000) >>> 8) | ((ip3 & 0xff00) << 8) | ((ip3 & 0xff) << 24)
    }
    const source0 = zone.ownWord(own, 0)
    const source1 = zone.ownWord(own, 1)
    const source2 = zone.ownWord(own, 2)
    const source3 = zone.ownWord(own, 3)
    const packet = solicit(this.pool, source0, source1, source2, source3, ip0, ip1, ip2, ip3, isProbe, ownLow, ownHigh)
    if (packet >= 0) this.send(packet, segment, TYPE_IP6, macLow, macHigh)
  }

  // ---- what is for the router ----

  private takeOwn(packet: number, record: number, segment: number): void {
    const type = this.pool.records[record + ETHERTYPE]
    if (type === TYPE_IP || type === TYPE_IP6) this.own[this.ownCount++] = packet
    else if (type === TYPE_ARP) this.takeArp(packet, record, segment, false)
    else this.pool.drop(packet, DROP_NOT_SERVED)
  }

  /** A frame to a group. Returns whether it was taken; else it is flooded. */
  private takeGroup(packet: number, record: number, segment: number): boolean {
    const { bytes, records, view } = this.pool
    const type = records[record + ETHERTYPE]
    if (type === TYPE_ARP) return this.takeArp(packet, record, segment, true)
    const ip = records[record + OFFSET] + 14
    const length = records[record + LENGTH]
    const services = this.table.services[segment]
    if (type === TYPE_IP) {
      if ((services & (SERVICE_DHCP | SERVICE_DHCP_CLIENT)) === 0 || length < 42) return false
      if (bytes[ip + 9] !== 17 || (view.getUint16(ip + 6) & 0x1fff) !== 0) return false
      const transport = ip + (bytes[ip] & 15) * 4
      if (transport + 8 > ip - 14 + length) return false
      const port = view.getUint16(transport + 2)
      if (port === 68 && (services & SERVICE_DHCP_CLIENT) !== 0) {
        this.serveCopy(packet, record, segment)
        return false
      }
      if (port !== 67 || (services & SERVICE_DHCP) === 0) return false
      this.serve(packet, segment)
      return true
    }
    if (type !== TYPE_IP6 || length < 62) return false
    const next = bytes[ip + 6]
    if (next === 17 && view.getUint16(ip + 42) === 547 && (services & SERVICE_DHCP6) !== 0) {
      this.serve(packet, segment)
      return true
    }
    if (next !== 58) return false
    const message = bytes[ip + 40]
    if (message === ND_SOLICITATION) return this.takeSolicitation(packet, segment)
    if (message === ND_ROUTER_SOLICITATION && (services & SERVICE_ROUTER_ADVERTISEMENT) !== 0)
      this.serveCopy(packet, record, segment)
    return false
  }

  /** Hands a frame to the services and frees it. */
  serve(packet: number, segment: number): void {
    if (this.isServedNow(packet) && this.mirror.serve(packet, segment)) this.pool.release(packet)
    else this.pool.drop(packet, DROP_SERVICE_BUSY)
  }

  /** The same for DNS, which has its own limits. */
  serveDns(packet: number, segment: number): void {
    if (this.mirror.serve(packet, segment)) this.pool.release(packet)
    else this.pool.drop(packet, DROP_SERVICE_BUSY)
  }

  private serveCopy(packet: number, record: number, segment: number): void {
    if (this.isServedNow(packet) && this.mirror.serve(packet, segment)) return
    this.pool.countDrop(this.pool.records[record + INGRESS], DROP_SERVICE_BUSY)
  }

  private isServedNow(packet: number): boolean {
    if (this.now !== this.servedAt) {
      this.servedAt = this.now
      this.served.fill(0)
    }
    const port = this.pool.records[(packet << RECORD_SHIFT) + INGRESS]
    return ++this.served[port] <= SERVED_PER_SECOND
  }

  private takeArp(packet: number, record: number, segment: number, isGroup: boolean): boolean {
    const { records } = this.pool
    const { table, neighbors } = this
    const operation = validArp(this.pool, packet)
    if (operation === 0) {
      this.pool.drop(packet, DROP_BAD_ARP)
      return true
    }
    const port = records[record + INGRESS]
    const low = records[record + SOURCE_LOW]
    const high = records[record + MAC_HIGH] >>> 16
    const sender = arpSender(this.pool, packet)
    const target = arpTarget(this.pool, packet)
    const zone = table.zones[table.zone[segment]]
    const isForRouter = zone.answersOn(segment, 4, target, 0, 0, 0)
    const known = neighbors.find(segment, 4, sender, 0, 0, 0)
    // only who asks for the router, answers it or is known already is remembered; the guard has done so on its ports
    if (
      (this.ports.flags[port] & PORT_GUARDED) === 0 &&
      (known >= 0 || isForRouter) &&
      zone.isOnLink(segment, 4, sender, 0, 0, 0) &&
      !zone.answersOn(segment, 4, sender, 0, 0, 0)
    ) {
      neighbors.learn(segment, 4, sender, 0, 0, 0, low, high, port, this.now)
      if (neighbors.releasedCount > 0) this.sendReleased()
    }
    if (operation === ARP_REQUEST && isForRouter) {
      answerArp(this.pool, packet, table.macLow[segment], table.macHigh[segment])
      this.send(packet, segment, TYPE_ARP, low, high)
      return true
    }
    if (isGroup) return false
    if (operation === ARP_REPLY) this.pool.release(packet)
    else this.pool.drop(packet, DROP_NOT_SERVED)
    return true
  }

  /** A solicitation to a group: taken if it is for one of the router's addresses. */
  private takeSolicitation(packet: number, segment: number): boolean {
    const { headers, discovery, table } = this
    const reason = headers.parse(this.pool, packet)
    if (reason !== 0 || !discovery.read(this.pool, headers)) {
      this.pool.drop(packet, reason === 0 ? DROP_BAD_ND : reason)
      return true
    }
    const { target0, target1, target2, target3 } = discovery
    const zone = table.zones[table.zone[segment]]
    if (!zone.answersOn(segment, 6, target0, target1, target2, target3)) return false
    this.answerSolicitation(packet, segment, headers)
    return true
  }

  /** Neighbor discovery that is addressed to the router itself. Takes the packet over. */
  discover(packet: number, segment: number, headers: Headers): void {
    const { discovery } = this
    if (!discovery.read(this.pool, headers)) return this.pool.drop(packet, DROP_BAD_ND)
    const zone = this.table.zones[this.table.zone[segment]]
    const { target0, target1, target2, target3 } = discovery
    if (discovery.type === ND_SOLICITATION) {
      if (zone.answersOn(segment, 6, target0, target1, target2, target3))
        return this.answerSolicitation(packet, segment, headers)
      return this.pool.drop(packet, DROP_NOT_ROUTED)
    }
    // an advertisement makes no entry (RFC 4861 section 7.2.5); the guard has read it on its ports
    const record = packet << RECORD_SHIFT
    const port = this.pool.records[record + INGRESS]
    const isWanted = this.neighbors.find(segment, 6, target0, target1, target2, target3) >= 0
    if (isWanted && (this.ports.flags[port] & PORT_GUARDED) === 0) {
      const low = discovery.hasMac ? discovery.macLow : this.pool.records[record + SOURCE_LOW]
      const high = discovery.hasMac ? discovery.macHigh : this.pool.records[record + MAC_HIGH] >>> 16
      this.neighbors.learn(segment, 6, target0, target1, target2, target3, low, high, port, this.now)
      if (this.neighbors.releasedCount > 0) this.sendReleased()
    }
    this.pool.release(packet)
  }

  private answerSolicitation(packet: number, segment: number, h: Headers): void {
    const { discovery, table, neighbors } = this
    const { records } = this.pool
    const record = packet << RECORD_SHIFT
    const port = records[record + INGRESS]
    const low = records[record + SOURCE_LOW]
    const high = records[record + MAC_HIGH] >>> 16
    const isUnspecified = (h.source0 | h.source1 | h.source2 | h.source3) === 0
    if (!isUnspecified && (this.ports.flags[port] & PORT_GUARDED) === 0 && this.mayBeNeighbor(segment, h)) {
      neighbors.learn(segment, 6, h.source0, h.source1, h.source2, h.source3, low, high, port, this.now)
      if (neighbors.releasedCount > 0) this.sendReleased()
    }
    const answer = advertise(this.pool, h, discovery, table.macLow[segment], table.macHigh[segment])
    if (answer >= 0) {
      if (isUnspecified) this.send(answer, segment, TYPE_IP6, 0x01000000, 0x3333)
      else this.send(answer, segment, TYPE_IP6, low, high)
    }
    this.pool.release(packet)
  }

  /** Whether the source of a packet can be a host on the link: it is of the link, and not the router's. */
  private mayBeNeighbor(segment: number, { source0, source1, source2, source3 }: Headers): boolean {
    const zone = this.table.zones[this.table.zone[segment]]
    if (!isLinkLocal6(source0) && !zone.isOnLink(segment, 6, source0, source1, source2, source3)) return false
    return !zone.answersOn(segment, 6, source0, source1, source2, source3)
  }
}
