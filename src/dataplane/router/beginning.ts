/**
 * A packet that belongs to no connection: what it may begin.
 *
 *   destination is the router's?   a forward's, or a mapping's that lets it in: its destination is translated (DNAT)
 *                                  else it is for the router itself (answers.ts)
 *   route                          of the destination, translated
 *   may it begin a connection?     conntrack.ts
 *   firewall                       by the path from segment to segment; of another network's firewall too, if it goes
 *                                  there
 *   translated source?             on the way out by the uplink; and for a guest that came by the outside address of
 *                                  another one (hairpin): the other must answer to the router
 *   connection                     with the addresses that its replies will have
 *
 * A forwarded packet passes a policy that drops, not a rule: to forward is to let in.
 */
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import type { Answers } from './answers.js'
import * as firewall from './firewall.js'
import type { Firewall } from './firewall.js'
import { Flow } from './flow.js'
import * as headerTypes from './headers.js'
import * as icmpErrors from './icmp-error.js'
import type { Router } from './router.js'
import * as routerTable from './router-table.js'
import type { RouterState } from './state.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_CONNECTION_LIMIT, DROP_INVALID, DROP_NO_NAT_PORT, DROP_NO_ROUTE, DROP_POLICY } = drops
const { INGRESS, RECORD_SHIFT } = layout
const {
  ACCEPT,
  PATH_IN,
  PATH_LOCAL,
  PATH_OUT,
  REJECT,
  STATE_ESTABLISHED,
  STATE_INVALID,
  STATE_NEW,
  VERDICT_ACTION,
  VERDICT_LOG,
  VERDICT_RULE_SHIFT,
} = firewall
const { PROTOCOL_ICMP, PROTOCOL_ICMP6 } = headerTypes
const { FILTER_ADDRESS_AND_PORT, FILTER_NONE } = routerTable
const { UNREACHABLE_NETWORK } = icmpErrors

const NO_MAPPING = -1
const NO_PORT = -2

export class Beginning {
  private readonly state: RouterState
  private readonly router: Router
  private readonly answers: Answers
  /** the packet's ends with its destination translated: what the firewall judges */
  private readonly inside = new Flow()
  /** the mapping by whose outside port it came, NO_MAPPING: by a forward */
  private entered = NO_MAPPING
  /** its replies, as they will arrive */
  private readonly reply = new Flow()

  constructor(state: RouterState, router: Router, answers: Answers) {
    this.state = state
    this.router = router
    this.answers = answers
  }

  /** Takes the packet in hand over. */
  begin(): void {
    const { state, inside } = this
    const { headers: h, zone, segment, packet, pool } = state
    if (this.answers.isForClient()) return state.gateway.serve(packet, segment)
    inside.copy(h)
    const own = zone.ownSegment(h.family, h.destination0, h.destination1, h.destination2, h.destination3)
    const isOwn = own >= 0
    if (isOwn && (own !== zone.uplink || !this.translateDestination())) return this.answers.own()
    const { destination0, destination1, destination2, destination3 } = inside
    const route = zone.route(h.family, destination0, destination1, destination2, destination3)
    const out = route < 0 ? -1 : zone.routeSegment(route)
    // the router is no way from the uplink back to it
    if (out < 0 || (out === zone.uplink && segment === zone.uplink))
      return this.answers.refuse(UNREACHABLE_NETWORK, 0, DROP_NO_ROUTE)
    const isElsewhere = out !== zone.uplink && out !== zone.lan
    const isFromUplink = segment === zone.uplink
    // what comes from outside meets the rules for it, also where it only passes on to another network
    const path = isFromUplink ? PATH_IN : out === zone.uplink || isElsewhere ? PATH_OUT : PATH_LOCAL
    const flowState = zone.isOpen || state.conntrack.mayBegin(h) ? STATE_NEW : STATE_INVALID

    const judge = state.firewalls[zone.zone]
    const other = isElsewhere ? state.firewalls[out] : judge
    let egress = -1
    if (judge.namesEgress(path) || (isElsewhere && other.namesEgress(PATH_IN))) {
      const neighbor = this.router.neighborBy(
        zone,
        route,
        h.family,
        destination0,
        destination1,
        destination2,
        destination3,
      )
      if (neighbor < 0) return this.answers.refuse(UNREACHABLE_NETWORK, 0, DROP_NO_ROUTE)
      if (!this.router.isReady(neighbor)) return
      egress = state.neighbors.port(neighbor)
    }
    if (!this.judge(judge, path, flowState, egress, isOwn && path === PATH_IN)) return
    if (isElsewhere && !this.judge(other, PATH_IN, flowState, egress, false)) return

    const mapping = this.translateSource(out === zone.uplink || (isOwn && !isFromUplink))
    if (mapping === NO_PORT) return pool.drop(packet, DROP_NO_NAT_PORT)
    const owner = pool.records[(packet << RECORD_SHIFT) + INGRESS]
    const replyZone = isElsewhere ? out : zone.zone
    const entry = state.connections.create(zone.zone, replyZone, h, this.reply, owner, state.now)
    if (entry < 0) return pool.drop(packet, DROP_CONNECTION_LIMIT)
    // a connection holds one mapping: its own, or the one that let it in
    if (mapping >= 0) state.mappings.attach(mapping, entry)
    else if (isOwn && this.entered >= 0) state.mappings.attach(this.entered, entry)
    state.connections.setTranslated(entry, mapping >= 0, isOwn)
    state.conntrack.begin(entry, h, state.now)
    this.router.passNew(entry)
  }

  /**
   * A packet of a known connection, where a rule judges such too. Returns whether it may go on; else it was taken.
   */
  judgeAgain(entry: number, direction: number): boolean {
    const { state, inside } = this
    const { zone, segment } = state
    const home = state.connections.zone(entry)
    const judge = state.firewalls[home]
    const path = zone.zone !== home || segment === zone.uplink ? PATH_IN : PATH_OUT
    const isLocal = path === PATH_OUT && this.router.isLocal(entry, direction)
    const taken = isLocal ? PATH_LOCAL : path
    if (!judge.needsEveryPacket(taken)) return true
    inside.copy(state.headers)
    const to = this.router.translated((entry << 1) | direction)
    if (to !== null && path === PATH_IN) inside.copyDestination(to)
    const neighbor = judge.namesEgress(taken) ? this.router.nextHop(entry, direction) : -1
    const egress = neighbor < 0 ? -1 : state.neighbors.port(neighbor)
    return this.judge(judge, taken, STATE_ESTABLISHED, egress, false)
  }

  /**
   * Asks a firewall about `inside`; what it refuses is answered and dropped. `isForwarded`: a policy does not count
   * against it.
   */
  private judge(judge: Firewall, path: number, flowState: number, egress: number, isForwarded: boolean): boolean {
    if (flowState === STATE_NEW && !judge.decides(path)) return true
    const { state, inside } = this
    const { headers: h, pool, packet, now } = state
    const ingress = pool.records[(packet << RECORD_SHIFT) + INGRESS]
    const verdict = judge.evaluate(path, inside, h.icmp, flowState, ingress, egress)
    const bytes = h.end - h.l3
    judge.count(path, verdict, 1, bytes)
    if ((verdict & VERDICT_LOG) !== 0) judge.log(verdict, path, inside, h.icmp, flowState, ingress, egress, bytes, now)
    const action = verdict & VERDICT_ACTION
    if (action === ACCEPT) return true
    if (isForwarded && flowState === STATE_NEW && verdict >> VERDICT_RULE_SHIFT === 0) return true
    if (action === REJECT) this.answers.reject(DROP_POLICY)
    else pool.drop(packet, flowState === STATE_INVALID ? DROP_INVALID : DROP_POLICY)
    return false
  }

  /** Whether a packet to the router's outside address goes on to a guest; `inside` then says to which. */
  private translateDestination(): boolean {
    const { state, inside } = this
    this.entered = NO_MAPPING
    const { headers: h, zone, mappings } = state
    const forward = zone.forward(h)
    if (forward >= 0) {
      inside.destination0 = zone.forwardWord(forward, 0)
      inside.destination1 = zone.forwardWord(forward, 1)
      inside.destination2 = zone.forwardWord(forward, 2)
      inside.destination3 = zone.forwardWord(forward, 3)
      inside.destinationPort = zone.forwardPort(forward, h.destinationPort)
      return true
    }
    const mapping = mappings.findOutside(zone.zone, h)
    if (mapping < 0) return false
    // guests of one network may always meet at their outside addresses (RFC 4787 REQ-9)
    const isHairpin = state.segment === zone.lan
    if (!mappings.mayEnter(mapping, isHairpin ? FILTER_NONE : zone.filtering, h)) return false
    this.entered = mapping
    inside.destination0 = mappings.insideWord(mapping, 0)
    inside.destination1 = mappings.insideWord(mapping, 1)
    inside.destination2 = mappings.insideWord(mapping, 2)
    inside.destination3 = mappings.insideWord(mapping, 3)
    inside.destinationPort = mappings.insidePort(mapping)
    return true
  }

  /**
   * Fills in `reply`: the reverse of `inside`, to the outside address where the source is translated.
   * @returns the mapping, NO_MAPPING if there is none, NO_PORT if there should be one and no port is free
   */
  private translateSource(isAsked: boolean): number {
    const { state, inside, reply } = this
    const { headers: h, zone } = state
    reply.reverse(inside)
    if (!isAsked || !(h.family === 4 ? zone.translates4 : zone.translates6)) return NO_MAPPING
    const owner = state.pool.records[(state.packet << RECORD_SHIFT) + INGRESS]
    const mayShare = zone.filtering === FILTER_ADDRESS_AND_PORT
    const mapping = state.mappings.bind(zone.zone, h, owner, state.now, mayShare ? reply : null)
    if (mapping < 0) return NO_PORT
    reply.destination0 = state.mappings.outsideWord(mapping, 0)
    reply.destination1 = state.mappings.outsideWord(mapping, 1)
    reply.destination2 = state.mappings.outsideWord(mapping, 2)
    reply.destination3 = state.mappings.outsideWord(mapping, 3)
    reply.destinationPort = state.mappings.outsidePort(mapping)
    // the identifier of an ICMP query stands in both places
    if (h.protocol === PROTOCOL_ICMP || h.protocol === PROTOCOL_ICMP6) reply.sourcePort = reply.destinationPort
    return mapping
  }
}
