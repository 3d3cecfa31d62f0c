/**
 * The walk of an IP packet through the router, top to bottom.
 *
 *   parse -> martians -> fragments -> connection
 *     known:  to its next hop
 *     error:  an ICMP error goes where the connection that it quotes comes from (answers.ts)
 *     new:    forward (DNAT) -> the router itself? -> route -> firewall -> NAT -> connection (beginning.ts)
 *   next hop: neighbor known? -> TTL -> MTU -> connection's state -> rewrite -> send
 *
 * A packet that cannot go on is answered with an ICMP error, quoting it as it came: so TTL and MTU are judged before
 * anything is rewritten. One whose next hop must first be asked for waits as it came, and takes the whole walk again.
 *
 * Segments of a zone: the guests' (lan) and the uplink's. A route may also lead to the segment of another zone; the
 * connection then belongs to the zone it began in, its replies are known in the other, and both zones' firewalls judge
 * it. Addresses are translated only on the way out by the uplink, and for a guest that uses a forward's outside address
 * (hairpin, RFC 4787 REQ-9).
 *
 * The neighbor of each direction is kept in the connection, with the generation of routes and neighbors it was found
 * in; and so is the segment from which packets of that direction have been found to be no martians. With these most
 * packets of known connections need not walk: a burst goes to `established.ts` first, and what it does not take comes
 * to `route`.
 */
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import * as portTable from '../port-table.js'
import * as addressKinds from './address-kinds.js'
import * as answering from './answers.js'
import { Answers } from './answers.js'
import { Beginning } from './beginning.js'
import * as connectionTable from './connection-entry.js'
import { keptNeighbor, withNeighbor, withPassed } from './connection-entry.js'
import * as tracking from './conntrack.js'
import { Established } from './established.js'
import * as cutting from './fragmentation.js'
import { cutPacket } from './fragmentation.js'
import { Flow } from './flow.js'
import * as fragmentTable from './fragments.js'
import type { RoutesPackets } from './gateway.js'
import * as headerTypes from './headers.js'
import * as icmpErrors from './icmp-error.js'
import type { GivesUp } from './neighbors.js'
import type { RouterState } from './state.js'
import type { Zone } from './zone.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  DROP_HOP_LIMIT,
  DROP_INVALID,
  DROP_ISOLATED,
  DROP_MARTIAN,
  DROP_NOT_ROUTED,
  DROP_NO_NEIGHBOR,
  DROP_NO_ROUTE,
  DROP_TOO_BIG,
} = drops
const { PORT_ISOLATED } = portTable
const { CONNECTION_SHIFT, HEADER_LENGTH, HEADER_ROUTED_PACKETS, INGRESS, LENGTH, OFFSET, RECORD_SHIFT, SEGMENT_BYTES } =
  layout
const { FRAGMENT_NONE, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP } = headerTypes
const {
  isGroup4,
  isGroup6,
  isLinkLocal4,
  isLinkLocal6,
  isMartianDestination4,
  isMartianDestination6,
  isMartianSource4,
  isMartianSource6,
} = addressKinds
const {
  CONN_DESTINATION,
  CONN_GENERATION,
  CONN_IP6,
  CONN_NEIGHBOR,
  CONN_PORTS,
  CONN_REPLY_DESTINATION,
  CONN_REPLY_NEIGHBOR,
  CONN_REPLY_PORTS,
  CONN_REPLY_SOURCE,
  CONN_SOURCE,
  CONN_STATUS,
  IP6_DESTINATION,
  IP6_REPLY_DESTINATION,
  IP6_REPLY_SOURCE,
  IP6_SOURCE,
  PASSED_SHIFT,
  STATUS_DNAT,
  STATUS_IP6,
  STATUS_SNAT,
} = connectionTable
const { FRAGMENT_HELD } = fragmentTable
const { TRACK_NEW, TRACK_OK } = tracking
const { PIECES_MAX } = cutting
const { UNREACHABLE_HOST, UNREACHABLE_NETWORK } = icmpErrors
const { ANSWER_TIME_EXCEEDED, ANSWER_TOO_BIG } = answering

const ETHERNET_BYTES = 14
const TCP_SYN = 0x02
const PORT_DHCP = 67
/** No segment, no connection. */
const NOWHERE = -1
const NONE = -1

export class Router implements RoutesPackets, GivesUp {
  private readonly state: RouterState
  private readonly words: Int32Array // of the connections
  private readonly header: Int32Array
  private readonly beginning: Beginning
  private readonly answers: Answers
  private readonly established: Established
  private readonly to = new Flow() // what `translated` found
  private readonly pieces = new Int32Array(PIECES_MAX)

  constructor(state: RouterState) {
    this.state = state
    this.words = state.arena.connections
    this.header = state.arena.header
    this.answers = new Answers(state, this)
    this.beginning = new Beginning(state, this, this.answers)
    this.established = new Established(state, this)
  }

  routeBurst(packets: Int32Array, count: number): void {
    this.established.process(packets, count)
  }

  /** A packet for the gateway's MAC on a segment, by the long way. Takes it over. */
  route(packet: number, segment: number): void {
    const { state } = this
    const { connections, fragments, headers, pool } = state
    const broken = headers.parse(pool, packet)
    if (broken !== 0) return pool.drop(packet, broken)
    this.enter(packet, segment)
    const type = headers.icmp >> 8
    if (headers.protocol === PROTOCOL_ICMP6 && type >= 133 && type <= 137) return this.answers.discovery()
    const isWhole = headers.fragment === FRAGMENT_NONE
    const match = isWhole ? connections.find(state.zone.zone, headers) : NONE
    if (match >= 0 && this.hasPassed(match)) return this.walk(match)
    const odd = this.judgeEnds()
    if (odd !== 0) return pool.drop(packet, odd)
    if (match >= 0) this.notePassed(match)
    if (isWhole) return this.walk(match)
    const verdict = fragments.process(headers, state.zone.zone, state.now)
    if (verdict === FRAGMENT_HELD) return
    if (verdict !== 0) return pool.drop(packet, verdict)
    this.walk(connections.find(state.zone.zone, headers))
    this.routeFreed()
  }

  /** Whether a packet of a match, from the segment in hand, has been judged right as things are now. */
  private hasPassed(match: number): boolean {
    const at = (match >> 1) << CONNECTION_SHIFT
    if (this.words[at + CONN_GENERATION] !== this.generation()) return false
    return this.words[at + CONN_NEIGHBOR + (match & 1)] >>> PASSED_SHIFT === this.state.segment + 1
  }

  /** Notes that it has. Where a firewall judges every packet, none has for those behind it. */
  private notePassed(match: number): void {
    const { state, words } = this
    if (state.judgesAll[state.connections.zone(match >> 1)] !== 0) return
    const at = (match >> 1) << CONNECTION_SHIFT
    this.renew(at)
    words[at + CONN_NEIGHBOR + (match & 1)] = withPassed(words[at + CONN_NEIGHBOR + (match & 1)], state.segment)
  }

  /** Later fragments that their first one, which came after them, has set free. */
  private routeFreed(): void {
    const { state } = this
    const { fragments, headers, pool } = state
    for (let packet = fragments.takeReady(headers); packet >= 0; packet = fragments.takeReady(headers)) {
      const segment = this.segmentOf(packet)
      if (segment >= 0) {
        this.enter(packet, segment)
        this.walk(state.connections.find(state.zone.zone, headers))
      } else {
        pool.drop(packet, DROP_NO_ROUTE)
      }
    }
  }

  /** A packet that has waited for its next hop's address, as it came. */
  reroute(packet: number): void {
    const { state } = this
    if (!this.again(packet)) return
    if (state.headers.fragment !== FRAGMENT_NONE) state.fragments.recall(state.headers)
    this.walk(state.connections.find(state.zone.zone, state.headers))
  }

  /** A packet that has waited in vain. */
  unreachable(packet: number): void {
    if (this.again(packet)) this.answers.refuse(UNREACHABLE_HOST, 0, DROP_NO_NEIGHBOR)
  }

  private again(packet: number): boolean {
    const { state } = this
    const segment = this.segmentOf(packet)
    const isThere = segment >= 0 && state.headers.parse(state.pool, packet) === 0
    if (isThere) this.enter(packet, segment)
    else state.pool.drop(packet, DROP_NO_ROUTE)
    return isThere
  }

  /** The segment by which a packet came; -1 if the router has left it since. */
  private segmentOf(packet: number): number {
    const { pool, ports, table } = this.state
    const segment = ports.network[pool.records[(packet << RECORD_SHIFT) + INGRESS]]
    return segment >= 0 && table.zone[segment] >= 0 ? segment : -1
  }

  private enter(packet: number, segment: number): void {
    const { state } = this
    state.packet = packet
    state.segment = segment
    state.zone = state.table.zones[state.table.zone[segment]]
  }

  /** @param match of a connection, NONE */
  private walk(match: number): void {
    const { header } = this
    header[HEADER_ROUTED_PACKETS] = (header[HEADER_ROUTED_PACKETS] + 1) | 0
    // an error has no ports, and may look like an echo with identifier 0: it is asked for first
    if (this.answers.isError()) this.answers.related()
    else if (match >= 0) this.known(match)
    else this.beginning.begin()
  }

  /** Addresses that cannot stand where they stand (RFC 1812 section 5.3.7, RFC 2827, RFC 3704). */
  private judgeEnds(): number {
    const { headers: h, zone, segment } = this.state
    const { family, source0, source1, source2, source3, destination0, destination1, destination2, destination3 } = h
    if (family === 4) {
      if (source0 === 0 && h.protocol === PROTOCOL_UDP && h.destinationPort === PORT_DHCP)
        return zone.answersOn(segment, 4, destination0, 0, 0, 0) ? 0 : DROP_MARTIAN
      if (isMartianSource4(source0) || isMartianDestination4(destination0)) return DROP_MARTIAN
      if (isGroup4(destination0) || zone.isBroadcast(segment, destination0)) return DROP_NOT_ROUTED
      // RFC 3927 section 2.7: as below
      if (isLinkLocal4(source0) || isLinkLocal4(destination0)) {
        if (!zone.answersOn(segment, 4, destination0, 0, 0, 0)) return DROP_NOT_ROUTED
        if (isLinkLocal4(source0)) return zone.ownSegment(4, source0, 0, 0, 0) >= 0 ? DROP_MARTIAN : 0
      }
    } else {
      if (isMartianSource6(source0, source1, source2)) return DROP_MARTIAN
      if (isMartianDestination6(destination0, destination1, destination2)) return DROP_MARTIAN
      if (isGroup6(destination0)) return DROP_NOT_ROUTED
      // a link-local address means nothing on another link: its host may speak to the router only
      if (isLinkLocal6(source0) || isLinkLocal6(destination0)) {
        if (!zone.answersOn(segment, 6, destination0, destination1, destination2, destination3)) return DROP_NOT_ROUTED
        // any other source is judged as one always is
        if (isLinkLocal6(source0)) return 0
      }
    }
    const isLan = zone.isOnLink(zone.lan, family, source0, source1, source2, source3)
    if (zone.ownSegment(family, source0, source1, source2, source3) >= 0) return DROP_MARTIAN
    if (isLan) return segment === zone.lan ? 0 : DROP_MARTIAN
    const back = zone.route(family, source0, source1, source2, source3)
    const way = back < 0 ? NOWHERE : zone.routeSegment(back)
    // from outside may come what the router knows no way to, but not what is another way
    return way === segment || (way === NOWHERE && segment === zone.uplink) ? 0 : DROP_MARTIAN
  }

  /** A packet of a connection. */
  private known(match: number): void {
    const { state } = this
    const entry = match >> 1
    const direction = match & 1
    if (state.judgesAll[state.connections.zone(entry)] !== 0 && !this.beginning.judgeAgain(entry, direction)) return
    this.pass(entry, direction, false)
  }

  /** The first packet of a connection that has just been made. */
  passNew(entry: number): void {
    this.pass(entry, 0, true)
  }

  private pass(entry: number, direction: number, isNew: boolean): void {
    const { state } = this
    const { headers: h, pool, table, packet, rewrite, gateway } = state
    const neighbor = this.nextHop(entry, direction)
    if (neighbor < 0) return this.answers.refuse(UNREACHABLE_NETWORK, 0, DROP_NO_ROUTE)
    if (!this.isReady(neighbor)) return
    if (this.areIsolated(neighbor)) return this.isolate(entry, direction)
    if (h.hopLimit <= 1) return this.answers.refuse(ANSWER_TIME_EXCEEDED, 0, DROP_HOP_LIMIT)
    const mtu = table.mtu[state.neighbors.segment(neighbor)]
    const record = packet << RECORD_SHIFT
    const segment = pool.records[record + SEGMENT_BYTES]
    const size = segment === 0 ? h.end - h.l3 : pool.records[record + HEADER_LENGTH] - ETHERNET_BYTES + segment
    const isTooBig = size > mtu
    if (isTooBig && (h.dontFragment || segment !== 0)) return this.answers.refuse(ANSWER_TOO_BIG, mtu, DROP_TOO_BIG)
    if (!isNew) {
      const verdict = state.conntrack.track((entry << 1) | direction, h, state.now)
      if (verdict === TRACK_NEW) return this.beginning.begin()
      if (verdict !== TRACK_OK && !state.zone.isOpen) return pool.drop(packet, DROP_INVALID)
    }
    rewrite.decrementHopLimit(h)
    const status = this.words[(entry << CONNECTION_SHIFT) + CONN_STATUS]
    if ((status & (STATUS_SNAT | STATUS_DNAT)) !== 0) this.translate(entry, direction, status)
    if (h.protocol === PROTOCOL_TCP && table.mtu[state.segment] !== mtu) this.clamp(mtu)
    pool.records[record + LENGTH] = h.end - pool.records[record + OFFSET] // without padding
    if (isTooBig) this.cut(neighbor, mtu)
    else gateway.sendTo(packet, neighbor)
  }

  /** Whether the packet in hand came by an isolated port and goes to another one of the same network. */
  private areIsolated(neighbor: number): boolean {
    const { neighbors, packet, pool, ports } = this.state
    const ingress = pool.records[(packet << RECORD_SHIFT) + INGRESS]
    const egress = neighbors.port(neighbor)
    const both = ports.flags[ingress] & ports.flags[egress] & PORT_ISOLATED
    return both !== 0 && ports.network[ingress] === ports.network[egress]
  }

  /** Drops a packet between isolated ports, and lets none of its connection pass by the short way. */
  private isolate(entry: number, direction: number): void {
    const { pool, packet } = this.state
    this.words[(entry << CONNECTION_SHIFT) + CONN_NEIGHBOR + direction] = 0
    pool.drop(packet, DROP_ISOLATED)
  }

  /** A segment's MSS may not promise what the smaller of two links does not take. */
  private clamp(mtu: number): void {
    const { headers: h, pool, rewrite, table, segment } = this.state
    if (h.fragment !== FRAGMENT_NONE || (pool.bytes[h.l4 + 13] & TCP_SYN) === 0) return
    const least = table.mtu[segment] < mtu ? table.mtu[segment] : mtu
    rewrite.clampMss(h, least - (h.family === 4 ? 40 : 60))
  }

  private cut(neighbor: number, mtu: number): void {
    const { pool, packet, gateway } = this.state
    const { pieces } = this
    const count = cutPacket(pool, packet, mtu, pieces)
    if (count < 0) return pool.drop(packet, DROP_TOO_BIG)
    for (let i = 0; i < count; i++) gateway.sendTo(pieces[i], neighbor)
    pool.release(packet)
  }

  // ---- the next hop ----

  /**
   * The neighbor by which a connection's packets of one direction go on: -1 if there is no way, or no room to ask.
   * Routes are those of the zone that it began in.
   */
  nextHop(entry: number, direction: number): number {
    const { words, state } = this
    const at = entry << CONNECTION_SHIFT
    this.renew(at)
    const kept = keptNeighbor(words[at + CONN_NEIGHBOR + direction])
    if (kept >= 0) return kept
    const zone = state.table.zones[state.connections.zone(entry)]
    const isIp6 = (words[at + CONN_STATUS] & STATUS_IP6) !== 0
    const further = at + CONN_IP6 + (direction === 0 ? IP6_REPLY_SOURCE : IP6_SOURCE)
    const family = isIp6 ? 6 : 4
    const ip0 = words[at + (direction === 0 ? CONN_REPLY_SOURCE : CONN_SOURCE)]
    const ip1 = isIp6 ? words[further] : 0
    const ip2 = isIp6 ? words[further + 1] : 0
    const ip3 = isIp6 ? words[further + 2] : 0
    const route = zone.route(family, ip0, ip1, ip2, ip3)
    const found = route < 0 ? -1 : this.neighborBy(zone, route, family, ip0, ip1, ip2, ip3)
    // to ask may have cost another its entry, and changed the generation
    this.renew(at)
    const way = at + CONN_NEIGHBOR + direction
    if (found >= 0) words[way] = withNeighbor(words[way], found)
    return found
  }

  /** What changes with the configuration, and when a neighbor goes. */
  private generation(): number {
    return (this.state.neighbors.generation + this.state.configured) | 0
  }

  /** Makes a connection forget what was found out for it in another generation. */
  private renew(at: number): void {
    const { words } = this
    const generation = this.generation()
    if (words[at + CONN_GENERATION] === generation) return
    words[at + CONN_NEIGHBOR] = words[at + CONN_REPLY_NEIGHBOR] = 0
    words[at + CONN_GENERATION] = generation
  }

  /** The neighbor on a route of a zone to an address; asked for if it is not known. -1: no room to ask. */
  neighborBy(zone: Zone, route: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const { neighbors, table, now } = this.state
    const segment = zone.routeSegment(route)
    const isFurther = zone.hasGateway(route)
    const to0 = isFurther ? zone.routeGateway(route, 0) : ip0
    const to1 = isFurther ? zone.routeGateway(route, 1) : ip1
    const to2 = isFurther ? zone.routeGateway(route, 2) : ip2
    const to3 = isFurther ? zone.routeGateway(route, 3) : ip3
    const entry = neighbors.find(segment, family, to0, to1, to2, to3)
    if (entry >= 0) return entry
    return neighbors.look(segment, family, to0, to1, to2, to3, table.gatewayPort[segment], now)
  }

  /** Whether packets can go to a neighbor now; if not, the packet in hand waits or is refused. */
  isReady(neighbor: number): boolean {
    const { state } = this
    const { neighbors, packet } = state
    if (neighbors.isUsable(neighbor)) {
      neighbors.use(neighbor, state.now)
      return true
    }
    if (neighbors.hasFailed(neighbor, state.now)) this.answers.refuse(UNREACHABLE_HOST, 0, DROP_NO_NEIGHBOR)
    else neighbors.hold(neighbor, packet, state.now)
    return false
  }

  // ---- translation ----

  /** Whether a connection is between two guests of the zone. */
  isLocal(entry: number, direction: number): boolean {
    const neighbor = this.nextHop(entry, direction)
    return neighbor >= 0 && this.state.neighbors.segment(neighbor) === this.state.zone.lan
  }

  /**
   * The ends that packets of a match have behind the router; null if they stay as they are. Valid until the next call.
   */
  translated(match: number): Flow | null {
    const { words, to } = this
    const at = (match >> 1) << CONNECTION_SHIFT
    const status = words[at + CONN_STATUS]
    if ((status & (STATUS_SNAT | STATUS_DNAT)) === 0) return null
    const isReply = (match & 1) !== 0
    const isIp6 = (status & STATUS_IP6) !== 0
    // what a packet looks like behind the router is the reverse of the other direction's ends
    const source6 = at + CONN_IP6 + (isReply ? IP6_DESTINATION : IP6_REPLY_DESTINATION)
    const destination6 = at + CONN_IP6 + (isReply ? IP6_SOURCE : IP6_REPLY_SOURCE)
    const ports = words[at + (isReply ? CONN_PORTS : CONN_REPLY_PORTS)]
    to.source0 = words[at + (isReply ? CONN_DESTINATION : CONN_REPLY_DESTINATION)]
    to.source1 = isIp6 ? words[source6] : 0
    to.source2 = isIp6 ? words[source6 + 1] : 0
    to.source3 = isIp6 ? words[source6 + 2] : 0
    to.destination0 = words[at + (isReply ? CONN_SOURCE : CONN_REPLY_SOURCE)]
    to.destination1 = isIp6 ? words[destination6] : 0
    to.destination2 = isIp6 ? words[destination6 + 1] : 0
    to.destination3 = isIp6 ? words[destination6 + 2] : 0
    to.sourcePort = ports & 0xffff
    to.destinationPort = ports >>> 16
    return to
  }

  private translate(entry: number, direction: number, status: number): void {
    const { headers: h, rewrite } = this.state
    const to = this.translated((entry << 1) | direction)
    if (to === null) return
    const isSource = (status & (direction === 0 ? STATUS_SNAT : STATUS_DNAT)) !== 0
    const isDestination = (status & (direction === 0 ? STATUS_DNAT : STATUS_SNAT)) !== 0
    if (isSource) this.renumber()
    if (isSource) rewrite.rewriteSource(h, to.source0, to.source1, to.source2, to.source3, to.sourcePort)
    if (isDestination)
      rewrite.rewriteDestination(
        h,
        to.destination0,
        to.destination1,
        to.destination2,
        to.destination3,
        to.destinationPort,
      )
  }

  /** Another identification for a packet that is a fragment or may become one, and whose source is to be translated. */
  private renumber(): void {
    const { headers: h, identifications, packet, pool, rewrite, zone } = this.state
    if (h.family === 6) {
      if (h.fragmentHeader !== 0) rewrite.renumber(h, identifications.changed(h, h.fragmentId))
      return
    }
    if (h.fragment !== FRAGMENT_NONE) return rewrite.renumber(h, h.outsideId)
    if (h.dontFragment) return
    const record = packet << RECORD_SHIFT
    const segment = pool.records[record + SEGMENT_BYTES]
    const headers = pool.records[record + HEADER_LENGTH]
    const count = segment === 0 ? 1 : Math.ceil((h.end - pool.records[record + OFFSET] - headers) / segment)
    rewrite.renumber(h, identifications.next(zone.zone, h.destination0, h.protocol, count))
  }
}
