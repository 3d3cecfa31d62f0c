/**
 * What makes a network's router: DHCP, DNS, routes, forwards, rules and their sets, NAT, connection tracking; parsed
 * with every default filled in, and written back without what equals it.
 *
 * A network without subnets has no router: any of these settings is refused there. Forwards need a way in, so an
 * isolated network has none. Capacity a network: 256 forwards, 512 rules, 64 routes; the other limits are in
 * `rule.ts` (sets), `dhcp-settings.ts` and `dns-settings.ts`. Beyond it, ERR_CAPACITY.
 *
 * Standards: RFC 4787 section 5 (filtering), RFC 5382 and 7857 (the least that timeouts should be: not enforced).
 */
import { type Static, Type } from 'typebox'
import { TIMEOUTS } from '../dataplane/router/conntrack.js'
import { type DhcpObject, DhcpInput, parseDhcp, writtenDhcp } from './dhcp-settings.js'
import { DnsInput, parseDns, writtenDns } from './dns-settings.js'
import { Failure } from './failure.js'
import {
  FORWARDS_MAX,
  ForwardInput,
  ROUTES_MAX,
  RouteInput,
  parseForwards,
  parseRoutes,
  writtenForward,
} from './forwarding.js'
import type { ConnectionSettings, NatSettings, NetworkDefinition, NetworkMode, Subnet } from './model.js'
import { formatRule, parseRules, parseSets } from './rule.js'
import { invalid, join } from './schema.js'
import type { Uplink } from './uplink.js'

export const RULES_MAX = 512
const CONNECTIONS = 262_144
const CONNECTIONS_OF_PORT = 65_536

const closed = { additionalProperties: false }
const Port = Type.Integer({ minimum: 1, maximum: 65535 })
export const RuleText = Type.String({ minLength: 1, maxLength: 4096, description: 'a rule' })
const NatInput = Type.Object(
  {
    filtering: Type.Optional(
      Type.Union([Type.Literal('address-and-port'), Type.Literal('address'), Type.Literal('none')]),
    ),
    firstPort: Type.Optional(Port),
    lastPort: Type.Optional(Port),
    ipv6: Type.Optional(Type.Boolean()),
  },
  closed,
)
const ConnectionInput = Type.Object(
  {
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 4_194_304 })),
    portLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 4_194_304 })),
    timeouts: Type.Optional(Type.Record(Type.String(), Type.Integer({ minimum: 1, maximum: 1_000_000 }))),
  },
  closed,
)
const Members = Type.Record(Type.String(), Type.Array(Type.Union([Type.String(), Type.Integer()])))
const SetsInput = Type.Object({ addresses: Type.Optional(Members), ports: Type.Optional(Members) }, closed)

/** The keys of a network that are the router's. */
export const RouterSettings = {
  dhcp: Type.Optional(DhcpInput),
  dns: Type.Optional(DnsInput),
  routes: Type.Optional(Type.Array(RouteInput)),
  forwards: Type.Optional(Type.Array(ForwardInput)),
  rules: Type.Optional(Type.Array(RuleText)),
  sets: Type.Optional(SetsInput),
  nat: Type.Optional(NatInput),
  connections: Type.Optional(ConnectionInput),
}
const Shell = Type.Object(RouterSettings)
export type RouterInput = Static<typeof Shell>

export type Router = Pick<
  NetworkDefinition,
  'dhcp' | 'dns' | 'routes' | 'forwards' | 'rules' | 'sets' | 'nat' | 'connections'
>

/** What the router's settings must fit to. */
export interface RouterContext {
  network: string
  mode: NetworkMode
  subnets: Subnet[]
  uplink: Uplink | null
}

export function parseRouter(given: RouterInput, dhcp: DhcpObject, context: RouterContext, path: string): Router {
  const { network, mode, subnets, uplink } = context
  if (subnets.length === 0) refuseWithoutSubnets(given, dhcp, mode, path)
  const { routes = [], forwards = [], rules = [] } = given
  limit(routes, ROUTES_MAX, 'routes', path)
  limit(forwards, FORWARDS_MAX, 'forwards', path)
  limit(rules, RULES_MAX, 'rules', path)
  if (mode === 'isolated' && forwards.length > 0) {
    throw invalid(join(path, 'forwards'), 'an isolated network has none: nothing comes in from outside')
  }
  const sets = parseSets(membersOf(given.sets), join(path, 'sets'))
  const parsedRoutes = parseRoutes(routes, network, { subnets, routes: [], uplink }, join(path, 'routes'))
  return {
    dhcp: parseDhcp(dhcp, subnets, join(path, 'dhcp')),
    dns: parseDns(given.dns, join(path, 'dns')),
    routes: parsedRoutes,
    forwards: parseForwards(forwards, { subnets, routes: parsedRoutes, uplink }, join(path, 'forwards')),
    rules: parseRules(rules, sets, join(path, 'rules')).map(formatRule),
    sets,
    nat: parseNat(given.nat ?? {}, join(path, 'nat')),
    connections: parseConnections(given.connections ?? {}, join(path, 'connections')),
  }
}

/** The inverse of `parseRouter`, without what equals the default. */
export function writtenRouter(router: Router): RouterInput {
  const { routes, forwards, rules, sets, nat, connections } = router
  const dhcp = writtenDhcp(router.dhcp)
  const dns = writtenDns(router.dns)
  const used = Object.fromEntries(Object.entries(sets).filter(([, one]) => Object.keys(one).length > 0))
  const { timeouts, ...limits } = changed(connections, parseConnections({}, ''))
  const tracking = { ...limits, ...(Object.keys(connections.timeouts).length === 0 ? {} : { timeouts }) }
  const translation = changed(nat, parseNat({}, ''))
  return {
    ...(dhcp === undefined ? {} : { dhcp }),
    ...(dns === undefined ? {} : { dns }),
    ...(routes.length === 0 ? {} : { routes: routes.map((one) => ({ ...one })) }),
    ...(forwards.length === 0 ? {} : { forwards: forwards.map(writtenForward) }),
    ...(rules.length === 0 ? {} : { rules: [...rules] }),
    ...(Object.keys(used).length === 0 ? {} : { sets: used }),
    ...(Object.keys(translation).length === 0 ? {} : { nat: translation }),
    ...(Object.keys(tracking).length === 0 ? {} : { connections: tracking }),
  }
}

/** The settings that differ from their defaults. */
function changed<T extends object>(settings: T, defaults: T): Partial<T> {
  const entries = Object.entries(settings).filter(([key, value]) => value !== defaults[key as keyof T])
  return Object.fromEntries(entries) as Partial<T>
}

function refuseWithoutSubnets(given: RouterInput, dhcp: DhcpObject, mode: NetworkMode, path: string): void {
  const { range: _range, ...settings } = dhcp
  const present = Object.keys(RouterSettings).find((key) => {
    const value = key === 'dhcp' ? settings : given[key as keyof RouterInput]
    return value !== undefined && value !== null && Object.keys(value).length > 0
  })
  if (present === undefined) return
  const kind = mode === 'bridge' ? 'a bridge network' : 'a network without subnets'
  throw invalid(join(path, present), `${kind} has none: it has no router`)
}

function limit(list: readonly unknown[], most: number, key: string, path: string): void {
  if (list.length <= most) return
  const at = join(path, key)
  throw new Failure('ERR_CAPACITY', `${at}: a network has at most ${most} ${key}`, at)
}

/** YAML reads a port as a number. */
function membersOf(given: Static<typeof SetsInput> = {}): NetworkDefinition['sets'] {
  const texts = (sets: Static<typeof Members> = {}) =>
    Object.fromEntries(Object.entries(sets).map(([name, members]) => [name, members.map(String)]))
  return { addresses: texts(given.addresses), ports: texts(given.ports) }
}

function parseNat(given: Static<typeof NatInput>, path: string): NatSettings {
  const { filtering = 'address-and-port', firstPort = 1024, lastPort = 65535, ipv6 = true } = given
  if (lastPort < firstPort) throw invalid(join(path, 'lastPort'), `${firstPort}-${lastPort} runs backwards`)
  return { filtering, firstPort, lastPort, ipv6 }
}

function parseConnections(given: Static<typeof ConnectionInput>, path: string): ConnectionSettings {
  const { limit: most = CONNECTIONS, portLimit = Math.min(CONNECTIONS_OF_PORT, most), timeouts = {} } = given
  if (portLimit > most) throw invalid(join(path, 'portLimit'), `${portLimit} is above the network's limit, ${most}`)
  const at = join(path, 'timeouts')
  const names = TIMEOUTS.map((one) => one.name)
  const kept: Record<string, number> = {}
  for (const [name, seconds] of Object.entries(timeouts)) {
    const standard = TIMEOUTS.find((one) => one.name === name)
    if (standard === undefined) throw invalid(join(at, name), `unknown key (known are ${names.join(', ')})`)
    if (standard.seconds !== seconds) kept[name] = seconds
  }
  return { limit: most, portLimit, timeouts: kept }
}
