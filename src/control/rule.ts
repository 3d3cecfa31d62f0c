/**
 * Firewall rules: sentences that users write, parsed and written back. `rule-compile.ts` makes numbers of them.
 *
 *   RULE  = accept|drop|reject [in|out|local] [from END] [to END] [PROTO] [sport PORTS] [dport PORTS]
 *           [type N[/CODE]] [state STATE,...] [log]
 *   END   = ADDRESS | CIDR | PORTNAME | $SET | any; behind `to` also gateway
 *   PROTO = tcp | udp | icmp | icmp6 | another name of PROTOCOLS | 0..255
 *   PORTS = N[-M],... | $SET
 *   STATE = new | established | related | invalid
 *
 * The action stands first, the other clauses in any order, each at most once. `formatRule` writes one canonical form.
 *
 * What they mean
 * - `out` is guest to uplink, `in` uplink to guest, `local` guest to guest of the network, `to gateway` guest to the
 *   router itself, `in` with `to gateway` uplink to the router itself. A rule without any of these is tried on all five
 *   paths. What the router itself sends is not judged, so `from gateway` is refused.
 * - An address makes the rule one of its family; so do `icmp` (IPv4) and `icmp6` (IPv6). A set may hold both families.
 * - `sport` and `dport` without a protocol fit every protocol that has ports.
 * - Without `state` a rule fits what begins a connection; `firewall.ts` says what becomes of the other states.
 * - A name is the switch port that a host is behind: the packet's ingress for `from`, its destination's for `to`. What
 *   looks like an address is one: digits and dots that make none are refused, as are the rule's own words. A port may
 *   be named before it exists; until then the rule fits nothing, which is right for each action: nothing comes from a
 *   port that is not there, and nothing goes to it.
 * - What could never fit (`out to vm1`, `icmp from fe80::1`) is refused, as is a set that is not defined: a typing
 *   error must not leave a door open.
 *
 * Limits: RULES_MAX rules, SETS_MAX sets of a kind, SET_ENTRIES_MAX entries in one, LIST_MAX in a list of ports, and
 * ENTRIES_MAX entries of sets in all rules of a network together. Beyond: ERR_CAPACITY.
 */
import {
  type Prefix,
  bitsOf,
  compareIp,
  familyOf,
  formatIp,
  formatPrefix,
  networkOf,
  parseIp,
  parsePrefix,
} from '../services/address.js'
import { Failure } from './failure.js'
import { invalid, join, quote } from './schema.js'

export const RULES_MAX = 512
export const SETS_MAX = 256
export const SET_ENTRIES_MAX = 4096
export const LIST_MAX = 64
/** Entries of the sets that a network's rules name, counted where they are named. */
export const ENTRIES_MAX = 65536
const RULE_LENGTH_MAX = 1024

export type Action = 'accept' | 'drop' | 'reject'
export type Direction = 'in' | 'out' | 'local'
export type RuleState = 'new' | 'established' | 'related' | 'invalid'
export type PortRange = [first: number, last: number]
export type RuleEnd =
  | { kind: 'prefix'; prefix: Prefix }
  | { kind: 'port'; name: string }
  | { kind: 'set'; name: string }
  /** as `to` alone */
  | { kind: 'gateway' }
export type RulePorts = { kind: 'set'; name: string } | { kind: 'list'; ranges: PortRange[] }

/** A parsed rule; null: not named. */
export interface Rule {
  action: Action
  direction: Direction | null
  from: RuleEnd | null
  to: RuleEnd | null
  protocol: number | null
  sourcePorts: RulePorts | null
  destinationPorts: RulePorts | null
  icmp: { type: number; code: number | null } | null
  /** in the order of STATES */
  states: RuleState[] | null
  log: boolean
}

/** As `NetworkDefinition.sets`. */
export interface RuleSets {
  addresses: Record<string, string[]>
  ports: Record<string, string[]>
}

export const PROTOCOL_ICMP = 1
export const PROTOCOL_ICMP6 = 58
const ACTIONS: readonly string[] = ['accept', 'drop', 'reject']
const STATES: readonly RuleState[] = ['new', 'established', 'related', 'invalid']
/** Protocols that go by a name (IANA protocol numbers). Those of PORTED have ports. */
const PROTOCOLS: Record<string, number> = {
  tcp: 6,
  udp: 17,
  dccp: 33,
  sctp: 132,
  udplite: 136,
  icmp: PROTOCOL_ICMP,
  icmp6: PROTOCOL_ICMP6,
  igmp: 2,
  gre: 47,
  esp: 50,
  ah: 51,
}
export const PORTED: readonly number[] = [6, 17, 33, 132, 136]
const DIRECTIONS: readonly string[] = ['in', 'out', 'local']
const CLAUSES: readonly string[] = ['from', 'to', 'sport', 'dport', 'type', 'state', 'log']
const WORDS: readonly string[] = [...ACTIONS, ...DIRECTIONS, ...CLAUSES, ...Object.keys(PROTOCOLS)]
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/

/** `tcp`, `icmp6`; the number as text where there is no name. */
export function protocolName(protocol: number): string {
  return Object.keys(PROTOCOLS).find((name) => PROTOCOLS[name] === protocol) ?? String(protocol)
}

// ---- parsing ----

class Sentence {
  private readonly words: string[]
  private readonly path: string
  private at = 0
  private readonly rule: Rule

  constructor(text: string, path: string) {
    this.path = path
    if (text.length > RULE_LENGTH_MAX) this.fail(`is longer than ${RULE_LENGTH_MAX} characters`)
    this.words = text.split(/\s+/).filter((word) => word !== '')
    const action = this.words[this.at++]
    if (action === undefined) this.fail('is empty: a rule begins with accept, drop or reject')
    if (!ACTIONS.includes(action)) this.fail(`${cite(action)} is not accept, drop or reject`)
    this.rule = {
      action: action as Action,
      direction: null,
      from: null,
      to: null,
      protocol: null,
      sourcePorts: null,
      destinationPorts: null,
      icmp: null,
      states: null,
      log: false,
    }
  }

  parse(): Rule {
    const { rule } = this
    const seen = new Set<string>()
    while (this.at < this.words.length) {
      const before = this.words[this.at - 1]
      const word = this.words[this.at++]
      const protocol = protocolOf(word)
      const clause = CLAUSES.includes(word) ? word : DIRECTIONS.includes(word) ? 'direction' : 'protocol'
      if (clause === 'protocol' && protocol === null) this.fail(`${cite(word)} is not understood after ${cite(before)}`)
      if (seen.has(clause))
        this.fail(CLAUSES.includes(clause) ? `${cite(word)} stands twice` : `${cite(word)} is a second ${clause}`)
      seen.add(clause)
      if (clause === 'direction') rule.direction = word as Direction
      else if (clause === 'protocol') rule.protocol = protocol
      else if (clause === 'from') rule.from = this.end(word)
      else if (clause === 'to') rule.to = this.end(word)
      else if (clause === 'sport') rule.sourcePorts = this.ports(word)
      else if (clause === 'dport') rule.destinationPorts = this.ports(word)
      else if (clause === 'type') rule.icmp = this.icmp()
      else if (clause === 'state') rule.states = this.states()
      else rule.log = true
    }
    this.refuseImpossible()
    return rule
  }

  private end(clause: string): RuleEnd | null {
    const wanted = `an address, a prefix, a port's name, $set${clause === 'to' ? ', any or gateway' : ' or any'}`
    const word = this.operand(clause, wanted)
    if (word === 'any') return null
    if (word === 'gateway' && clause === 'to') return { kind: 'gateway' }
    if (word === 'gateway') this.fail('"from gateway": what the gateway itself sends is not judged by rules')
    if (word.startsWith('$')) return { kind: 'set', name: this.setName(word) }
    if (/[:/]/.test(word) || /^[\d.]*\.[\d.]*$/.test(word)) {
      const prefix = prefixOf(word)
      if (typeof prefix === 'string') this.fail(prefix)
      return { kind: 'prefix', prefix }
    }
    if (!NAME.test(word)) this.fail(`${cite(word)} after ${cite(clause)} is not ${wanted}`)
    return { kind: 'port', name: word }
  }

  private ports(clause: string): RulePorts {
    const word = this.operand(clause, 'ports like 80 or 80,8000-8100, or $set')
    if (word.startsWith('$')) return { kind: 'set', name: this.setName(word) }
    const parts = word.split(',')
    if (parts.length > LIST_MAX) this.fail(`${cite(clause)}: more than ${LIST_MAX} entries, name a set`)
    const ranges = parts.map((part) => {
      const range = parsePortRange(part)
      if (range === null) this.fail(notPorts(part))
      return range
    })
    return { kind: 'list', ranges }
  }

  private icmp(): { type: number; code: number | null } {
    const word = this.operand('type', 'an ICMP type like 8 or 3/4')
    const [type = '', code = '0', ...more] = word.split('/')
    if (more.length > 0 || ![type, code].every((part) => isNumber(part, 255)))
      this.fail(`${cite(word)} after "type" is not an ICMP type like 8 or 3/4 (0..255)`)
    return { type: Number(type), code: word.includes('/') ? Number(code) : null }
  }

  private states(): RuleState[] {
    const known = STATES.join(', ')
    const word = this.operand('state', known)
    const named = word.split(',')
    for (const [i, state] of named.entries()) {
      if (!STATES.includes(state as RuleState)) this.fail(`${cite(state)} is not one of ${known}`)
      if (named.indexOf(state) !== i) this.fail(`${cite(state)} stands twice after "state"`)
    }
    return STATES.filter((state) => named.includes(state))
  }

  private operand(clause: string, wanted: string): string {
    const word = this.words[this.at++]
    if (word === undefined) this.fail(`${cite(clause)} needs ${wanted}`)
    if (WORDS.includes(word)) this.fail(`${cite(clause)} needs ${wanted}, not ${cite(word)}`)
    return word
  }

  private setName(word: string): string {
    if (!NAME.test(word.slice(1))) this.fail(`${cite(word)} is not a set's name`)
    return word.slice(1)
  }

  /** Refuses clauses that exclude each other. */
  private refuseImpossible(): void {
    const { direction, from, to, protocol, sourcePorts, destinationPorts, icmp } = this.rule
    const name = protocol === null ? '' : protocolName(protocol)
    if ((sourcePorts ?? destinationPorts) !== null && protocol !== null && !PORTED.includes(protocol))
      this.fail(`"${sourcePorts === null ? 'dport' : 'sport'}" cannot stand with ${cite(name)}, which has no ports`)
    if (icmp !== null && familyOfProtocol(protocol) === 0) this.fail('"type" needs icmp or icmp6')
    if (to?.kind === 'gateway' && (direction === 'out' || direction === 'local'))
      this.fail(`"to gateway" cannot stand with "${direction}", which is guest to ${DESTINATIONS[direction]}`)
    if (from?.kind === 'port' && direction === 'in')
      this.fail(`"from ${from.name}" cannot stand with "in": what comes in is from the uplink, not from a port`)
    if (to?.kind === 'port' && direction === 'out')
      this.fail(`"to ${to.name}" cannot stand with "out": what goes out is to the uplink, not to a port`)
    const families = [familyOfEnd(from), familyOfEnd(to), familyOfProtocol(protocol)]
    if (families.includes(4) && families.includes(6)) this.fail('names both IPv4 and IPv6, which no packet is')
  }

  private fail(sentence: string): never {
    throw invalid(this.path, sentence)
  }
}

const DESTINATIONS: Record<string, string> = { out: 'uplink', local: 'guest' }

const cite = (word: string): string => {
  const text = quote(word)
  return text.startsWith('"') ? text : `"${text}"`
}

const isNumber = (text: string, most: number): boolean => /^(0|[1-9]\d*)$/.test(text) && Number(text) <= most

const notPorts = (text: string): string => `${cite(text)} is not a port (0..65535) or a range like 80-90`

const familyOfEnd = (end: RuleEnd | null): number => (end?.kind === 'prefix' ? familyOf(end.prefix.ip) : 0)

/** The family that a protocol belongs to; 0: both. */
export function familyOfProtocol(protocol: number | null): number {
  return protocol === PROTOCOL_ICMP ? 4 : protocol === PROTOCOL_ICMP6 ? 6 : 0
}

function protocolOf(word: string): number | null {
  if (Object.hasOwn(PROTOCOLS, word)) return PROTOCOLS[word]
  return isNumber(word, 255) ? Number(word) : null
}

/** `80` or `80-90`; null if it is neither. */
export function parsePortRange(text: string): PortRange | null {
  const [first, last = first, ...more] = text.split('-')
  if (more.length > 0 || !isNumber(first, 65535) || !isNumber(last, 65535) || Number(first) > Number(last)) return null
  return [Number(first), Number(last)]
}

/** An address or a prefix; a text says what is wrong. */
function prefixOf(text: string): Prefix | string {
  const ip = parseIp(text)
  if (ip !== null) return { ip, prefix: bitsOf(ip) }
  const prefix = parsePrefix(text)
  if (prefix === null) return `${cite(text)} is not an address or a prefix like 10.0.0.0/24`
  const network = networkOf(prefix)
  if (compareIp(network.ip, prefix.ip) === 0) return prefix
  return `${cite(text)} has bits behind its prefix: the network is ${formatPrefix(network)}`
}

/** Throws ERR_INVALID, which names the word. Sets are not looked up: see `parseRules`. */
export function parseRule(text: string, path = 'rule'): Rule {
  return new Sentence(text, path).parse()
}

/** A network's rules, whose sets must be among `sets`. Throws ERR_INVALID or ERR_CAPACITY. */
export function parseRules(texts: readonly string[], sets: RuleSets, path = 'rules'): Rule[] {
  if (texts.length > RULES_MAX) throw capacity(path, `more than ${RULES_MAX} rules`)
  let entries = 0
  const rules = texts.map((text, i) => {
    const at = join(path, i)
    const rule = parseRule(text, at)
    for (const end of [rule.from, rule.to])
      if (end?.kind === 'set') entries += setOf(sets.addresses, end.name, at).length
    for (const ports of [rule.sourcePorts, rule.destinationPorts])
      if (ports?.kind === 'set') entries += setOf(sets.ports, ports.name, at).length
    return rule
  })
  if (entries > ENTRIES_MAX) throw capacity(path, `use more than ${ENTRIES_MAX} entries of sets`)
  return rules
}

/** The same sets with canonical entries. Throws ERR_INVALID or ERR_CAPACITY. */
export function parseSets(sets: RuleSets, path = 'sets'): RuleSets {
  const parse = (kind: keyof RuleSets, canonical: (text: string, at: string) => string): Record<string, string[]> => {
    const named = Object.entries(sets[kind])
    if (named.length > SETS_MAX) throw capacity(join(path, kind), `more than ${SETS_MAX} sets`)
    return Object.fromEntries(
      named.map(([name, entries]) => {
        const at = join(join(path, kind), name)
        const isName = NAME.test(name) && name !== '__proto__'
        if (!isName) throw invalid(join(path, kind), `${cite(name)} is not a set's name`)
        if (entries.length > SET_ENTRIES_MAX) throw capacity(at, `more than ${SET_ENTRIES_MAX} entries`)
        return [name, entries.map((entry, i) => canonical(entry, join(at, i)))]
      }),
    )
  }
  return {
    addresses: parse('addresses', (text, at) => {
      const prefix = prefixOf(text)
      if (typeof prefix === 'string') throw invalid(at, prefix)
      return formatEnd({ kind: 'prefix', prefix })
    }),
    ports: parse('ports', (text, at) => {
      const range = parsePortRange(text)
      if (range === null) throw invalid(at, notPorts(text))
      return formatRange(range)
    }),
  }
}

/** The entries of a set. Throws ERR_INVALID if there is none of this name. */
export function setOf(sets: Record<string, string[]>, name: string, path: string): string[] {
  if (!Object.hasOwn(sets, name)) throw invalid(path, `there is no set "$${name}" of this kind`)
  return sets[name]
}

const capacity = (path: string, sentence: string): Failure => new Failure('ERR_CAPACITY', `${path}: ${sentence}`, path)

// ---- writing ----

/** The canonical text: `parseRule` of it gives the same rule. */
export function formatRule(rule: Rule): string {
  const { icmp } = rule
  const words = [rule.action, rule.direction ?? '']
  if (rule.from !== null) words.push('from', formatEnd(rule.from))
  if (rule.to !== null) words.push('to', formatEnd(rule.to))
  if (rule.protocol !== null) words.push(protocolName(rule.protocol))
  if (rule.sourcePorts !== null) words.push('sport', formatPorts(rule.sourcePorts))
  if (rule.destinationPorts !== null) words.push('dport', formatPorts(rule.destinationPorts))
  if (icmp !== null) words.push('type', icmp.code === null ? `${icmp.type}` : `${icmp.type}/${icmp.code}`)
  if (rule.states !== null) words.push('state', rule.states.join(','))
  if (rule.log) words.push('log')
  return words.filter((word) => word !== '').join(' ')
}

export function formatEnd(end: RuleEnd): string {
  if (end.kind === 'gateway') return 'gateway'
  if (end.kind === 'set') return `$${end.name}`
  if (end.kind === 'port') return end.name
  return end.prefix.prefix === bitsOf(end.prefix.ip) ? formatIp(end.prefix.ip) : formatPrefix(end.prefix)
}

export function formatPorts(ports: RulePorts): string {
  return ports.kind === 'set' ? `$${ports.name}` : ports.ranges.map(formatRange).join(',')
}

const formatRange = ([first, last]: PortRange): string => (first === last ? `${first}` : `${first}-${last}`)
