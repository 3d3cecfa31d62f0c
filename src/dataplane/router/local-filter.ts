/**
 * The firewall between guests of one network (PATH_LOCAL): judges frames on their way from one port to another.
 *
 * Only networks whose rules can refuse such frames come here (`RouterTable.filtered`); all others are switched without
 * a look. IP packets belong to connections as in the router: the first packet is judged, and what follows passes while
 * its state is right. A flooded frame is judged for each port that it would leave by, and begins no connection.
 *
 * Never filtered: ARP, neighbor discovery and multicast listener reports, DHCP: without them a guest has no address;
 * and what the router itself sends, which was judged on its way. Refused: IP that contradicts itself. A later fragment
 * has no ports, so rules that name some do not fit it: it passes by the rules that name its protocol or its addresses
 * only.
 */
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import * as portTable from '../port-table.js'
import * as connectionTable from './connection-entry.js'
import * as tracking from './conntrack.js'
import * as firewall from './firewall.js'
import type { Firewall } from './firewall.js'
import { Flow } from './flow.js'
import * as headerTypes from './headers.js'
import { Headers, isIcmpError } from './headers.js'
import * as icmpErrors from './icmp-error.js'
import type { RouterState } from './state.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_BAD_IP, DROP_CONNECTION_LIMIT, DROP_INVALID, DROP_POLICY } = drops
const { CONNECTION_SHIFT, ETHERTYPE, MAC_HIGH, RECORD_SHIFT, SOURCE_LOW } = layout
const { PORT_GATEWAY } = portTable
const { CONN_EGRESS, CONN_OWNER } = connectionTable
const { TRACK_INVALID, TRACK_OK } = tracking
const {
  ACCEPT,
  PATH_LOCAL,
  REJECT,
  STATE_ESTABLISHED,
  STATE_INVALID,
  STATE_NEW,
  STATE_RELATED,
  VERDICT_ACTION,
  VERDICT_LOG,
} = firewall
const { UNREACHABLE_PORT } = icmpErrors
const { FRAGMENT_LATER, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP } = headerTypes

const TYPE_IP = 0x0800
const TYPE_IP6 = 0x86dd

export class LocalFilter {
  /** why the last frame was not admitted: a DROP_* reason */
  reason = 0
  private readonly state: RouterState
  private readonly headers = new Headers()
  private readonly quoted = new Headers()
  private readonly reply = new Flow()

  constructor(state: RouterState) {
    this.state = state
  }

  /**
   * Whether a frame may go from one port of a network to another. The frame stays the caller's; what a rule rejects is
   * answered here.
   * @param isFlooded it goes to other ports too: it begins no connection
   */
  admits(packet: number, network: number, ingress: number, egress: number, isFlooded: boolean): boolean {
    const { state, headers: h } = this
    const { pool, ports } = state
    const record = packet << RECORD_SHIFT
    const type = pool.records[record + ETHERTYPE]
    if (type !== TYPE_IP && type !== TYPE_IP6) return true
    if (((ports.flags[ingress] | ports.flags[egress]) & PORT_GATEWAY) !== 0) return true
    this.reason = h.parse(pool, packet)
    if (this.reason !== 0) {
      this.reason = DROP_BAD_IP
      return false
    }
    if (this.isConfiguration()) return true
    const judge = state.firewalls[network]
    const isError = h.icmp >= 0 && isIcmpError(h.family, h.icmp >> 8)
    if (isError && this.isRelated(network)) return this.judge(judge, STATE_RELATED, packet, ingress, egress)
    const match = isError ? -1 : state.connections.find(network, h)
    const isKnown = match >= 0 && this.isBetween(match, ingress, egress)
    if (isKnown) {
      const verdict = state.conntrack.track(match, h, state.now)
      if (verdict === TRACK_INVALID) return this.refuse(DROP_INVALID)
      if (verdict === TRACK_OK)
        return !judge.needsEveryPacket(PATH_LOCAL) || this.judge(judge, STATE_ESTABLISHED, packet, ingress, egress)
    }
    const isStateless = isFlooded || h.fragment === FRAGMENT_LATER
    const isNew = isStateless || state.conntrack.mayBegin(h)
    if (!this.judge(judge, isNew ? STATE_NEW : STATE_INVALID, packet, ingress, egress)) return false
    // what goes another way than its connection, or by a key that the router has, is judged each time
    if (isStateless || !isNew || match >= 0) return true
    this.reply.reverse(h)
    const entry = state.connections.create(network, network, h, this.reply, ingress, state.now)
    if (entry < 0) return this.refuse(DROP_CONNECTION_LIMIT)
    state.connections.words[(entry << CONNECTION_SHIFT) + CONN_EGRESS] = egress + 1
    state.conntrack.begin(entry, h, state.now)
    return true
  }

  /** Whether a match is a connection between these two ports; the router's own mean nothing between guests. */
  private isBetween(match: number, ingress: number, egress: number): boolean {
    const { words } = this.state.connections
    const at = (match >> 1) << CONNECTION_SHIFT
    const isReply = (match & 1) !== 0
    return (
      words[at + CONN_EGRESS] === (isReply ? ingress : egress) + 1 &&
      words[at + CONN_OWNER] === (isReply ? egress : ingress)
    )
  }

  private judge(judge: Firewall, flowState: number, packet: number, ingress: number, egress: number): boolean {
    const { state, headers: h } = this
    const verdict = judge.evaluate(PATH_LOCAL, h, h.icmp, flowState, ingress, egress)
    const bytes = h.end - h.l3
    judge.count(PATH_LOCAL, verdict, 1, bytes)
    if ((verdict & VERDICT_LOG) !== 0)
      judge.log(verdict, PATH_LOCAL, h, h.icmp, flowState, ingress, egress, bytes, state.now)
    const action = verdict & VERDICT_ACTION
    if (action === ACCEPT) return true
    if (action === REJECT) this.answer(packet, ingress)
    return this.refuse(flowState === STATE_INVALID ? DROP_INVALID : DROP_POLICY)
  }

  private refuse(reason: number): boolean {
    this.reason = reason
    return false
  }

  /** Tells the sender of a rejected packet, in the router's name: a reset for TCP, an ICMP error for all else. */
  private answer(packet: number, ingress: number): void {
    const { state, headers: h } = this
    const { pool, errors, gateway } = state
    const segment = state.ports.network[ingress]
    const zone = state.table.zones[segment]
    const row = zone.addressFor(segment, h.family, h.source0, h.source1, h.source2, h.source3)
    let answer = -1
    if (h.protocol === PROTOCOL_TCP) answer = errors.reset(h, segment, state.now)
    else if (row >= 0) answer = this.unreachable(segment, row)
    if (answer < 0) return
    const record = packet << RECORD_SHIFT
    gateway.sendBack(answer, segment, pool.records[record + SOURCE_LOW], pool.records[record + MAC_HIGH] >>> 16)
  }

  private unreachable(segment: number, row: number): number {
    const { state } = this
    const zone = state.table.zones[segment]
    const ip0 = zone.ownWord(row, 0)
    const ip1 = zone.ownWord(row, 1)
    const ip2 = zone.ownWord(row, 2)
    const ip3 = zone.ownWord(row, 3)
    return state.errors.unreachable(this.headers, UNREACHABLE_PORT, segment, state.now, ip0, ip1, ip2, ip3)
  }

  /** Whether an ICMP error quotes a packet of a known connection. */
  private isRelated(network: number): boolean {
    const { state, quoted, headers } = this
    if (state.errors.parseQuoted(headers, quoted) !== 0) return false
    return state.connections.find(network, quoted) >= 0
  }

  /** What a guest needs to have an address at all. */
  private isConfiguration(): boolean {
    const { headers: h } = this
    if (h.protocol === PROTOCOL_UDP && h.fragment !== FRAGMENT_LATER) {
      const { sourcePort, destinationPort } = h
      if (h.family === 4)
        return (sourcePort === 68 && destinationPort === 67) || (sourcePort === 67 && destinationPort === 68)
      return (sourcePort === 546 && destinationPort === 547) || (sourcePort === 547 && destinationPort === 546)
    }
    const type = h.icmp >> 8
    return h.protocol === PROTOCOL_ICMP6 && ((type >= 130 && type <= 137) || type === 143)
  }
}
