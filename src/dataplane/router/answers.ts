/**
 * What the router does with packets that go no further: it answers them, hands them to its services, or says why not.
 *
 * To the router itself: echo requests are answered in place, DHCP and DNS go to the services, the rest is refused: on
 * the guests' segment with an ICMP error or a reset, on the uplink silently. Which of these a guest or the outside may
 * reach is the firewall's to say (PATH_GATEWAY, PATH_SELF); DHCP and neighbor discovery are never filtered, or a guest
 * could not have an address.
 *
 * An ICMP error about a connection goes to the end that sent what it quotes, with the quote translated back (RFC 5508
 * section 4); one that quotes nothing known is dropped. It changes nothing of the connection.
 *
 * Not done: echo requests in fragments are not answered.
 */
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import * as firewall from './firewall.js'
import { Flow } from './flow.js'
import { Headers } from './headers.js'
import * as headerTypes from './headers.js'
import * as icmpErrors from './icmp-error.js'
import type { Router } from './router.js'
import * as routerTable from './router-table.js'
import type { RouterState } from './state.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_HOP_LIMIT, DROP_INVALID, DROP_NOT_SERVED, DROP_NO_ROUTE, DROP_POLICY, DROP_ROUTER_ADVERTISEMENT } = drops
const { INGRESS, MAC_HIGH, RECORD_SHIFT, SOURCE_LOW } = layout
const { ACCEPT, PATH_GATEWAY, PATH_IN, PATH_OUT, PATH_SELF, STATE_NEW, STATE_RELATED, VERDICT_ACTION, VERDICT_LOG } =
  firewall
const { FRAGMENT_LATER, FRAGMENT_NONE, PROTOCOL_TCP, PROTOCOL_UDP, isIcmpError } = headerTypes
const { UNREACHABLE_PORT } = icmpErrors
const { SERVICE_DHCP, SERVICE_DHCP6, SERVICE_DHCP_CLIENT, SERVICE_DNS, SERVICE_ROUTER_ADVERTISEMENT } = routerTable

const ND_ROUTER_SOLICITATION = 133
const ND_SOLICITATION = 135
const ND_ADVERTISEMENT = 136
const ECHO_4 = 0x0800
const ECHO_6 = 0x8000

// What is said of a packet that is refused.
export const ANSWER_TIME_EXCEEDED = -1
export const ANSWER_TOO_BIG = -2
// else UNREACHABLE_* of icmp-error.ts

export class Answers {
  private readonly state: RouterState
  private readonly router: Router
  private readonly quoted = new Headers()
  private readonly inverse = new Flow()

  constructor(state: RouterState, router: Router) {
    this.state = state
    this.router = router
  }

  /** Drops the packet in hand, and tells its sender why, as far as that may be told. */
  refuse(answer: number, mtu: number, reason: number): void {
    const { state } = this
    const { headers: h, zone, segment, now, errors } = state
    const own = zone.addressFor(segment, h.family, h.source0, h.source1, h.source2, h.source3)
    if (own >= 0) {
      const ip0 = zone.ownWord(own, 0)
      const ip1 = zone.ownWord(own, 1)
      const ip2 = zone.ownWord(own, 2)
      const ip3 = zone.ownWord(own, 3)
      let error = -1
      if (answer === ANSWER_TIME_EXCEEDED) error = errors.timeExceeded(h, zone.zone, now, ip0, ip1, ip2, ip3)
      else if (answer === ANSWER_TOO_BIG) error = errors.tooBig(h, mtu, zone.zone, now, ip0, ip1, ip2, ip3)
      else error = errors.unreachable(h, answer, zone.zone, now, ip0, ip1, ip2, ip3)
      if (error >= 0) this.sendToSender(error)
    }
    state.pool.drop(state.packet, reason)
  }

  /** The same for a rule's or the router's own `reject`: a reset for TCP, port unreachable for all else. */
  reject(reason: number): void {
    const { state } = this
    if (state.headers.protocol !== PROTOCOL_TCP) return this.refuse(UNREACHABLE_PORT, 0, reason)
    const reset = state.errors.reset(state.headers, state.zone.zone, state.now)
    if (reset >= 0) this.sendToSender(reset)
    state.pool.drop(state.packet, reason)
  }

  /** Sends what was made about the packet in hand to the host that sent it. */
  private sendToSender(answer: number): void {
    const { state } = this
    const record = state.packet << RECORD_SHIFT
    const { records } = state.pool
    state.gateway.sendBack(answer, state.segment, records[record + SOURCE_LOW], records[record + MAC_HIGH] >>> 16)
  }

  /** ICMPv6 of neighbor discovery that is addressed to the router. */
  discovery(): void {
    const { state } = this
    const type = state.headers.icmp >> 8
    if (type === ND_SOLICITATION || type === ND_ADVERTISEMENT) {
      state.gateway.discover(state.packet, state.segment, state.headers)
    } else if (
      type === ND_ROUTER_SOLICITATION &&
      (state.table.services[state.segment] & SERVICE_ROUTER_ADVERTISEMENT) !== 0
    ) {
      state.gateway.serve(state.packet, state.segment)
    } else {
      state.pool.drop(state.packet, DROP_ROUTER_ADVERTISEMENT)
    }
  }

  isError(): boolean {
    const { headers: h } = this.state
    return h.icmp >= 0 && isIcmpError(h.family, h.icmp >> 8)
  }

  /** Whether a DHCP server answers the uplink's client, by the address that it offers (RFC 2131 section 4.1). */
  isForClient(): boolean {
    const { headers: h, table, segment } = this.state
    return (
      h.destinationPort === 68 &&
      h.protocol === PROTOCOL_UDP &&
      h.family === 4 &&
      (table.services[segment] & SERVICE_DHCP_CLIENT) !== 0
    )
  }

  /** An ICMP error: it goes the way of the connection that it quotes. */
  related(): void {
    const { state, quoted, inverse } = this
    const { headers: h, pool, packet, zone, rewrite, connections } = state
    const broken = state.errors.parseQuoted(h, quoted)
    if (broken !== 0) return pool.drop(packet, broken)
    // what this end sent came to the other as the reverse of what is quoted
    inverse.reverse(quoted)
    const match = connections.find(zone.zone, inverse)
    if (match < 0) return pool.drop(packet, DROP_INVALID)
    const neighbor = this.router.nextHop(match >> 1, match & 1)
    if (neighbor < 0) return pool.drop(packet, DROP_NO_ROUTE)
    if (!this.router.isReady(neighbor)) return
    const path = state.segment === zone.uplink ? PATH_IN : PATH_OUT
    const judge = state.firewalls[zone.zone]
    const ingress = pool.records[(packet << RECORD_SHIFT) + INGRESS]
    const verdict = judge.evaluate(path, h, h.icmp, STATE_RELATED, ingress, state.neighbors.port(neighbor))
    if ((verdict & VERDICT_ACTION) !== ACCEPT) {
      judge.count(path, verdict, 1, h.end - h.l3)
      return pool.drop(packet, DROP_POLICY)
    }
    if (h.hopLimit <= 1) return pool.drop(packet, DROP_HOP_LIMIT)
    rewrite.decrementHopLimit(h)
    const to = this.router.translated(match)
    if (to !== null) {
      // the error is from the host that the quoted packet went to, or from a router on the way there
      const isFromHost =
        h.source0 === quoted.destination0 &&
        h.source1 === quoted.destination1 &&
        h.source2 === quoted.destination2 &&
        h.source3 === quoted.destination3
      if (isFromHost) rewrite.rewriteSource(h, to.source0, to.source1, to.source2, to.source3, 0)
      rewrite.rewriteDestination(h, to.destination0, to.destination1, to.destination2, to.destination3, 0)
      rewrite.translateQuotedSource(
        h,
        quoted,
        to.destination0,
        to.destination1,
        to.destination2,
        to.destination3,
        to.destinationPort,
      )
      rewrite.translateQuotedDestination(h, quoted, to.source0, to.source1, to.source2, to.source3, to.sourcePort)
    }
    state.gateway.sendTo(packet, neighbor)
  }

  /** A packet to one of the router's addresses that is part of nothing else. */
  own(): void {
    const { state } = this
    const { headers: h, pool, packet, segment, zone, table, gateway } = state
    const isOutside = segment === zone.uplink
    const services = table.services[segment]
    if (h.fragment === FRAGMENT_LATER) return pool.drop(packet, DROP_NOT_SERVED)
    if (h.protocol === PROTOCOL_UDP && this.isConfiguration(services)) return gateway.serve(packet, segment)
    const judge = state.firewalls[zone.zone]
    const path = isOutside ? PATH_SELF : PATH_GATEWAY
    if (judge.decides(path)) {
      const record = packet << RECORD_SHIFT
      const ingress = pool.records[record + INGRESS]
      const verdict = judge.evaluate(path, h, h.icmp, STATE_NEW, ingress, -1)
      judge.count(path, verdict, 1, h.end - h.l3)
      if ((verdict & VERDICT_LOG) !== 0)
        judge.log(verdict, path, h, h.icmp, STATE_NEW, ingress, -1, h.end - h.l3, state.now)
      if ((verdict & VERDICT_ACTION) === firewall.REJECT) return this.reject(DROP_POLICY)
      if ((verdict & VERDICT_ACTION) !== ACCEPT) return pool.drop(packet, DROP_POLICY)
    }
    if (h.fragment === FRAGMENT_NONE) {
      if ((h.icmp === ECHO_4 || h.icmp === ECHO_6) && state.rewrite.answerEcho(h)) {
        const record = packet << RECORD_SHIFT
        const { records } = pool
        return gateway.sendBack(packet, segment, records[record + SOURCE_LOW], records[record + MAC_HIGH] >>> 16)
      }
      const isDns = h.destinationPort === 53 && (h.protocol === PROTOCOL_UDP || h.protocol === PROTOCOL_TCP)
      if (isDns && (services & SERVICE_DNS) !== 0) return gateway.serveDns(packet, segment)
    }
    if (isOutside || h.icmp >= 0) pool.drop(packet, DROP_NOT_SERVED)
    else this.reject(DROP_NOT_SERVED)
  }

  /** DHCP, without which a guest has no address. */
  private isConfiguration(services: number): boolean {
    const { destinationPort: port } = this.state.headers
    if (port === 67) return (services & SERVICE_DHCP) !== 0
    if (port === 68) return (services & SERVICE_DHCP_CLIENT) !== 0
    return port === 547 && (services & SERVICE_DHCP6) !== 0
  }
}
