/**
 * Parsed firewall rules made into the numbers that the shard evaluates (`Firewall`), and its log records into words.
 *
 * Each list of addresses or ports becomes sorted ranges that do not overlap, once for all rules that use it. Which
 * paths a rule is tried on is decided here: what comes from the uplink is from no guest's port and what goes there is
 * to none, so a rule with `from PORTNAME` is left out where packets come from the uplink, and one with `to PORTNAME`
 * where they go to it or to the gateway.
 *
 * Policies (`defaultPolicies`): nat, route and isolated networks accept what guests begin, and drop what is begun from
 * outside, the router itself included; open and bridge networks accept everything. Capacity: see `rule.ts`.
 */
import * as firewall from '../dataplane/router/firewall.js'
import type { CompiledFirewall } from '../dataplane/router/firewall.js'
import { type Ip, compareIp, familyOf, formatIp, lastOf, networkOf, parseNetworkOrIp } from '../services/address.js'
import type { NetworkMode } from './model.js'
import {
  type Action,
  PORTED,
  type PortRange,
  type Rule,
  type RuleEnd,
  type RulePorts,
  type RuleSets,
  type RuleState,
  familyOfProtocol,
  formatEnd,
  formatPorts,
  formatRule,
  parsePortRange,
  protocolName,
  setOf,
} from './rule.js'
import { invalid, quote } from './schema.js'

export interface RuleContext {
  /** by PATH_*: DROP, ACCEPT or REJECT, see `defaultPolicies` */
  policies: number[]
  /** the number of the port of this name; null: there is none */
  portNumber(name: string): number | null
}

const ACTIONS: Record<Action, number> = {
  accept: firewall.ACCEPT,
  drop: firewall.DROP,
  reject: firewall.REJECT,
}
const STATES: Record<RuleState, number> = {
  new: firewall.STATE_NEW,
  established: firewall.STATE_ESTABLISHED,
  related: firewall.STATE_RELATED,
  invalid: firewall.STATE_INVALID,
}
const PATHS_ALL = (1 << firewall.PATHS) - 1
/** What happened, by action, and where, by path. */
const DONE = ['dropped', 'accepted', 'rejected']
const PATH_NAMES = ['out', 'in', 'local', 'to gateway', 'in to gateway']

/** What becomes of packets that no rule fits, by path. */
export function defaultPolicies(mode: NetworkMode): number[] {
  const policies = new Array<number>(firewall.PATHS).fill(firewall.ACCEPT)
  if (mode === 'open' || mode === 'bridge') return policies
  policies[firewall.PATH_IN] = firewall.DROP
  policies[firewall.PATH_SELF] = firewall.DROP
  return policies
}

/** @param rules of `parseRules` with the same sets. Throws ERR_INVALID if a set is missing all the same. */
export function compileRules(rules: readonly Rule[], sets: RuleSets, context: RuleContext): CompiledFirewall {
  const compiled: CompiledFirewall = {
    policies: context.policies,
    rules: [],
    identities: rules.map(formatRule),
    ranges: [],
    ranges6: [],
  }
  const lists = new Map<string, number[]>() // what stands in `ranges` and `ranges6` already
  const once = (key: string, add: () => number[]): number[] => {
    const known = lists.get(key) ?? add()
    lists.set(key, known)
    return known
  }
  const end = (of: RuleEnd | null): number[] => {
    if (of === null || of.kind === 'gateway') return [firewall.END_ANY, 0, 0, 0, 0]
    if (of.kind === 'port') return [firewall.END_PORT, context.portNumber(of.name) ?? firewall.PORT_NONE, 0, 0, 0]
    return once(`end ${formatEnd(of)}`, () => {
      const texts = of.kind === 'set' ? setOf(sets.addresses, of.name, 'rules') : [formatEnd(of)]
      return [firewall.END_ADDRESSES, ...addAddresses(compiled, texts)]
    })
  }
  const ports = (of: RulePorts | null): number[] => {
    if (of === null) return [0, -1]
    return once(`ports ${formatPorts(of)}`, () =>
      addPorts(compiled, of.kind === 'set' ? setOf(sets.ports, of.name, 'rules').map(rangeOf) : of.ranges),
    )
  }
  for (const [i, rule] of rules.entries()) {
    const { icmp, protocol } = rule
    const hasPorts = (rule.sourcePorts ?? rule.destinationPorts) !== null
    const states: readonly RuleState[] = rule.states ?? ['new']
    compiled.rules.push(
      ACTIONS[rule.action] | (rule.log ? firewall.VERDICT_LOG : 0) | ((i + 1) << firewall.VERDICT_RULE_SHIFT),
      pathsOf(rule),
      states.reduce((bits, state) => bits | STATES[state], 0),
      familyOfProtocol(protocol),
      protocol ?? (hasPorts ? firewall.PROTOCOL_PORTED : firewall.PROTOCOL_ANY),
      icmp === null ? 0 : icmp.code === null ? 0xff00 : 0xffff,
      icmp === null ? 0 : (icmp.type << 8) | (icmp.code ?? 0),
      ...end(rule.from),
      ...end(rule.to),
      ...ports(rule.sourcePorts),
      ...ports(rule.destinationPorts),
    )
  }
  return compiled
}

/** Bits of the paths on which a rule is tried. */
function pathsOf({ direction, from, to }: Rule): number {
  const { PATH_IN, PATH_OUT, PATH_LOCAL, PATH_GATEWAY, PATH_SELF } = firewall
  let paths = PATHS_ALL
  if (to?.kind === 'gateway') paths = direction === 'in' ? 1 << PATH_SELF : 1 << PATH_GATEWAY
  else if (direction !== null) paths = 1 << { in: PATH_IN, out: PATH_OUT, local: PATH_LOCAL }[direction]
  if (from?.kind === 'port') paths &= ~((1 << PATH_IN) | (1 << PATH_SELF))
  if (to?.kind === 'port') paths &= (1 << PATH_IN) | (1 << PATH_LOCAL)
  return paths
}

/** Returns the place and the number of the IPv4 ranges, and of the IPv6 ranges. */
function addAddresses(compiled: CompiledFirewall, texts: readonly string[]): number[] {
  const ranges = texts.map(endsOf).sort(([a], [b]) => compareIp(a, b))
  const [four, six] = [4, 6].map((family) => merged(ranges.filter(([first]) => familyOf(first) === family)))
  const places = [compiled.ranges.length / 2, four.length, compiled.ranges6.length / 8, six.length]
  for (const word of four.flat(2)) compiled.ranges.push(word ^ firewall.SIGN)
  for (const word of six.flat(2)) compiled.ranges6.push(word ^ firewall.SIGN)
  return places
}

/** The first and the last address of a prefix. */
function endsOf(text: string): [first: Ip, last: Ip] {
  const prefix = parseNetworkOrIp(text)
  if (prefix === null) throw invalid('sets', `${quote(text)} is not an address or a prefix`)
  return [networkOf(prefix).ip, lastOf(prefix)]
}

/** Sorted ranges without those inside others. */
function merged(ranges: readonly [first: Ip, last: Ip][]): [first: Ip, last: Ip][] {
  const out: [Ip, Ip][] = []
  for (const [first, last] of ranges) {
    const before = out.at(-1)
    if (before === undefined || compareIp(first, before[1]) > 0) out.push([first, last])
    else if (compareIp(last, before[1]) > 0) before[1] = last
  }
  return out
}

function addPorts(compiled: CompiledFirewall, ranges: readonly PortRange[]): number[] {
  const out: PortRange[] = []
  for (const [first, last] of [...ranges].sort(([a], [b]) => a - b)) {
    const before = out.at(-1)
    if (before === undefined || first > before[1]) out.push([first, last])
    else if (last > before[1]) before[1] = last
  }
  const place = compiled.ranges.length / 2
  compiled.ranges.push(...out.flat())
  return [place, out.length]
}

function rangeOf(text: string): PortRange {
  const range = parsePortRange(text)
  if (range === null) throw invalid('sets', `${quote(text)} is not a port or a range`)
  return range
}

/**
 * A record of `Firewall.logs` in words.
 * @param record LOG_WORDS from its first word on
 * @param portName the name of a port's number; null: none
 * @returns the rule's place, 1 is the first, and a text like `dropped tcp 10.0.0.5:1234 > 10.0.0.7:80 (local, new, from
 *   port vm1, 60 bytes)`
 */
export function formatLogged(
  record: ArrayLike<number>,
  portName: (port: number) => string | null,
): { rule: number; packet: string } {
  const verdict = record[firewall.LOG_VERDICT]
  const words = record[firewall.LOG_FAMILY] === 4 ? 1 : 4
  const icmp = record[firewall.LOG_ICMP]
  const protocol = record[firewall.LOG_PROTOCOL]
  const host = (at: number, portAt: number): string => {
    const text = formatIp(Array.from({ length: words }, (_, i) => record[at + i]))
    if (!PORTED.includes(protocol)) return text
    return words === 1 ? `${text}:${record[portAt]}` : `[${text}]:${record[portAt]}`
  }
  const action = DONE[verdict & firewall.VERDICT_ACTION]
  const source = host(firewall.LOG_SOURCE, firewall.LOG_SOURCE_PORT)
  const destination = host(firewall.LOG_DESTINATION, firewall.LOG_DESTINATION_PORT)
  const from = portName(record[firewall.LOG_INGRESS])
  const to = portName(record[firewall.LOG_EGRESS])
  const state = Object.keys(STATES).find((name) => STATES[name as RuleState] === record[firewall.LOG_STATE])
  const details = [
    PATH_NAMES[record[firewall.LOG_PATH]],
    state,
    ...(from === null ? [] : [`from port ${from}`]),
    ...(to === null ? [] : [`to port ${to}`]),
    `${record[firewall.LOG_BYTES]} bytes`,
  ].join(', ')
  const kind = icmp < 0 ? '' : ` type ${icmp >> 8}/${icmp & 255}`
  return {
    rule: verdict >> firewall.VERDICT_RULE_SHIFT,
    packet: `${action} ${protocolName(protocol)}${kind} ${source} > ${destination} (${details})`,
  }
}
