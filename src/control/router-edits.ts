/**
 * Changes of a network's router, each from one definition to the next: reservations, routes, forwards, rules, names.
 *
 * Pure. The result is written and parsed again as a whole, so whatever a definition may not hold is refused here as it
 * is in a file, with the path of the new entry; only what concerns the entry that is asked for is told in its own
 * words.
 */
import { formatIp, formatPrefix, networkOf, parseIp, parsePrefix } from '../services/address.js'
import { ROUTED_MODES, parseNetwork, writtenNetwork } from './definition.js'
import { parseDomainName } from './dns-settings.js'
import { Failure } from './failure.js'
import { parseDestination, parseForwardSource, writtenForwardSource } from './forwarding.js'
import type {
  DnsSettings,
  Forward,
  NetworkDefinition,
  NetworkMode,
  Reservation,
  RuleEntry,
  StaticRoute,
} from './model.js'
import { RULES_MAX } from './router-settings.js'
import { parseRule } from './rule.js'
import { invalid, quote } from './schema.js'
import { writtenSubnet } from './subnet.js'

/** A definition with settings laid over its written form, checked as a whole. */
export function rewritten(before: NetworkDefinition, settings: Record<string, unknown>): NetworkDefinition {
  return parseNetwork({ ...writtenNetwork(before), ...settings })
}

export interface NetworkChanges {
  mode?: string
  uplink?: string | null
  domain?: string | null
  dhcp?: unknown
  /** all of them */
  subnets?: unknown[]
  addSubnets?: unknown[]
  /** CIDRs */
  removeSubnets?: string[]
  mtu?: number
  fdbAgeSeconds?: number
  /** null: automatic */
  shard?: number | null
  autostart?: boolean
}

/** The written form of a network with settings changed, for `parseNetwork`. */
export function changedSettings(before: NetworkDefinition, changes: NetworkChanges): Record<string, unknown> {
  const { addSubnets = [], removeSubnets = [], dhcp, ...settings } = changes
  const written: Record<string, unknown> = { ...writtenNetwork(before) }
  const mode = settings.mode ?? before.mode
  if ((mode === 'bridge') !== (before.mode === 'bridge')) {
    throw invalid('mode', `network ${before.name} stays ${before.mode}: bridge and other modes do not change live`)
  }
  if (mode === 'isolated' && before.mode !== 'isolated') delete written.uplink
  if (dhcp !== undefined) written.dhcp = changedDhcp(written.dhcp as object | undefined, dhcp)
  const kept = keptSubnets(before, settings.subnets ?? before.subnets.map(writtenSubnet), removeSubnets)
  const subnets = [...kept, ...addSubnets]
  const emptied = subnets.length === 0 && (removeSubnets.length > 0 || settings.subnets !== undefined)
  if (emptied && ROUTED_MODES.includes(mode as NetworkMode)) {
    throw invalid('subnets', `a network of mode ${mode} needs one`)
  }
  const { subnets: _subnets, ...result } = { ...written, ...settings }
  return subnets.length === 0 ? result : { ...result, subnets }
}

/** `off` and a range leave the other settings as they are. */
function changedDhcp(written: object | undefined, dhcp: unknown): unknown {
  return typeof dhcp === 'string' || dhcp === null ? { ...written, range: dhcp } : dhcp
}

function keptSubnets(before: NetworkDefinition, subnets: readonly unknown[], gone: readonly string[]): unknown[] {
  const names = gone.map((text) => {
    const prefix = parsePrefix(text)
    const cidr = prefix === null ? text : formatPrefix(networkOf(prefix))
    if (before.subnets.some((one) => one.cidr === cidr)) return cidr
    throw new Failure('ERR_NOT_FOUND', `network ${before.name} has no subnet ${quote(text)}`)
  })
  return subnets.filter((one) => !names.includes(typeof one === 'string' ? one : (one as { cidr: string }).cidr))
}

/** Throws ERR_INVALID for a network without a router. */
export function requireRouter({ name, subnets }: NetworkDefinition): void {
  if (subnets.length > 0) return
  throw new Failure('ERR_INVALID', `network ${name} has no router: it has no subnets`)
}

export function withReservation(
  before: NetworkDefinition,
  reservation: { mac: string; address: string; name?: string },
): NetworkDefinition {
  requireRouter(before)
  const { dhcp = {} } = writtenNetwork(before)
  const reservations = [...before.dhcp.reservations.map(stripName), reservation]
  return rewritten(before, { dhcp: { ...(dhcp as object), reservations } })
}

const stripName = ({ mac, address, name }: Reservation) => (name === null ? { mac, address } : { mac, address, name })

export function withoutReservation(before: NetworkDefinition, address: string): NetworkDefinition {
  const reservations = before.dhcp.reservations.filter((one) => one.address !== address)
  return { ...before, dhcp: { ...before.dhcp, reservations } }
}

export function withRoute(before: NetworkDefinition, route: StaticRoute): NetworkDefinition {
  requireRouter(before)
  return rewritten(before, { routes: [...before.routes, route] })
}

export function withoutRoute(before: NetworkDefinition, text: string): NetworkDefinition {
  const destination = formatPrefix(parseDestination(text, 'destination'))
  const routes = before.routes.filter((one) => one.destination !== destination)
  if (routes.length === before.routes.length) {
    throw new Failure('ERR_NOT_FOUND', `network ${before.name} has no route to ${destination} of its own`)
  }
  // A forward may lead to a guest behind the route: then the route stays.
  return rewritten(before, { routes })
}

export function withForward(before: NetworkDefinition, forward: object | string): NetworkDefinition {
  requireRouter(before)
  return rewritten(before, { forwards: [...before.forwards, forward] })
}

/** The forward that was made with the same first operand. */
export function findForward(network: NetworkDefinition, text: string): Forward {
  const source = writtenForwardSource(parseForwardSource(text, 'forward'))
  const found = network.forwards.find((one) => writtenForwardSource(one) === source)
  if (found !== undefined) return found
  throw new Failure('ERR_NOT_FOUND', `network ${network.name} has no forward ${source}`)
}

export function withoutForward(before: NetworkDefinition, forward: Forward): NetworkDefinition {
  return { ...before, forwards: before.forwards.filter((one) => one !== forward) }
}

/** `at`: its number afterwards, from 1 on; without, it comes last. */
export function withRule(before: NetworkDefinition, rule: string, at: number | undefined): NetworkDefinition {
  requireRouter(before)
  const { length } = before.rules
  if (length >= RULES_MAX) throw new Failure('ERR_CAPACITY', `network ${before.name} has ${RULES_MAX} rules already`)
  const place = at ?? length + 1
  if (place < 1 || place > length + 1) throw invalid('at', `${place} is not 1..${length + 1}`)
  // Alone first: in the whole it would be named by its place in the list.
  parseRule(rule, 'rule')
  return rewritten(before, { rules: before.rules.toSpliced(place - 1, 0, rule) })
}

export function withoutRule(before: NetworkDefinition, number: number): NetworkDefinition {
  if (number >= 1 && number <= before.rules.length) return { ...before, rules: before.rules.toSpliced(number - 1, 1) }
  throw new Failure('ERR_NOT_FOUND', `network ${before.name} has no rule ${number}`)
}

/** The rules of a network that does not run, or of which nothing is counted. */
export function uncounted(rules: readonly string[]): RuleEntry[] {
  return rules.map((rule, index) => ({ number: index + 1, rule, packets: 0, bytes: 0 }))
}

/** A name of the network's DNS: `value` is addresses, a target, PRIORITY WEIGHT PORT TARGET, or texts. */
export interface NameRecord {
  name: string
  type: 'a' | 'aaaa' | 'cname' | 'srv' | 'txt'
  value: string[]
}

export function records({ dns }: NetworkDefinition): NameRecord[] {
  const ofFamily = (six: boolean) =>
    dns.hosts.flatMap(({ name, addresses }): NameRecord[] => {
      const value = addresses.filter((address) => address.includes(':') === six)
      return value.length === 0 ? [] : [{ name, type: six ? 'aaaa' : 'a', value }]
    })
  return [
    ...ofFamily(false),
    ...ofFamily(true),
    ...dns.aliases.map(({ name, target }): NameRecord => ({ name, type: 'cname', value: [target] })),
    ...dns.services.map(
      ({ name, priority, weight, port, target }): NameRecord => ({
        name,
        type: 'srv',
        value: [String(priority), String(weight), String(port), target],
      }),
    ),
    ...dns.texts.map(({ name, text }): NameRecord => ({ name, type: 'txt', value: text })),
  ].toSorted((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.type < b.type ? -1 : 1))
}

/** Adds a record; addresses join those that the name has. */
export function withRecord(before: NetworkDefinition, { name: text, type, value }: NameRecord): NetworkDefinition {
  requireRouter(before)
  const name = parseDomainName(text, 'name')
  const [target = '', weight = '', port = '', host = ''] = value
  const alone = () => {
    if (value.length !== 1) throw invalid('value', `a record of type ${type} has one value, not ${value.length}`)
    return target
  }
  const added = { ...before.dns }
  if (type === 'cname') added.aliases = [...added.aliases, { name, target: alone() }]
  else if (type === 'txt') added.texts = [...added.texts, { name, text: value }]
  else if (type === 'srv') {
    const numbers = [target, weight, port].map((one) => (/^\d{1,5}$/.test(one) ? Number(one) : Number.NaN))
    if (value.length !== 4 || numbers.some(Number.isNaN)) {
      throw invalid('value', `${quote(value.join(' '))} is not PRIORITY WEIGHT PORT TARGET`)
    }
    const [priority = 0, share = 0, number = 0] = numbers
    added.services = [...added.services, { name, target: host, port: number, priority, weight: share }]
  } else added.hosts = withAddresses(added.hosts, name, addressesOf(value, type))
  return rewritten(before, { dns: added })
}

/** Takes all records of a name out, or those of one type. */
export function withoutRecords(before: NetworkDefinition, text: string, type?: NameRecord['type']): NetworkDefinition {
  const name = parseDomainName(text, 'name')
  const gone = (one: NameRecord['type'], entry: { name: string }) => entry.name === name && (type ?? one) === one
  const { dns } = before
  const hosts = dns.hosts.flatMap((host) => {
    const addresses = host.addresses.filter((address) => !gone(address.includes(':') ? 'aaaa' : 'a', host))
    return addresses.length === 0 ? [] : [{ name: host.name, addresses }]
  })
  const after: DnsSettings = {
    ...dns,
    hosts,
    aliases: dns.aliases.filter((one) => !gone('cname', one)),
    services: dns.services.filter((one) => !gone('srv', one)),
    texts: dns.texts.filter((one) => !gone('txt', one)),
  }
  if (records({ ...before, dns: after }).length === records(before).length) {
    const kind = type === undefined ? '' : ` of type ${type}`
    throw new Failure('ERR_NOT_FOUND', `network ${before.name} has no record ${name}${kind}`)
  }
  return { ...before, dns: after }
}

function addressesOf(values: readonly string[], type: 'a' | 'aaaa'): string[] {
  if (values.length === 0) throw invalid('value', 'is missing')
  return values.map((text) => {
    const ip = parseIp(text)
    if (ip !== null && (ip.length === 1) === (type === 'a')) return formatIp(ip)
    throw invalid('value', `${quote(text)} is not an IPv${type === 'a' ? 4 : 6} address`)
  })
}

function withAddresses(hosts: DnsSettings['hosts'], name: string, more: readonly string[]): DnsSettings['hosts'] {
  const known = hosts.find((one) => one.name === name)
  const addresses = [...new Set([...(known?.addresses ?? []), ...more])]
  return [...hosts.filter((one) => one !== known), { name, addresses }]
}
