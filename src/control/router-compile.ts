/**
 * Compiles a network's router into what the shard works by: numbers and arrays, no names. Pure.
 *
 * Routes come from the subnets, the definition and the uplink, in this order, and the longest prefix first. A forward
 * to a name has the families in which the name has an address now; without one it is left out. Forwards with an outside
 * address stand before those for any.
 */
import { TIMEOUTS } from '../dataplane/router/conntrack.js'
import * as routerTable from '../dataplane/router/router-table.js'
import type {
  CompiledForward,
  CompiledNat,
  CompiledRoute,
  CompiledRouter,
  CompiledSegment,
  Ip,
} from '../dataplane/router/router-table.js'
import { contains, linkLocalOf, networkOf, parseIp, parseNetwork } from '../services/address.js'
import type { Prefix } from '../services/address.js'
import { sitesOf } from './gateway-services.js'
import { macBytes, macWords } from './mac.js'
import type { NetworkDefinition, RouteEntry } from './model.js'
import { parseRules } from './rule.js'
import { compileRules, defaultPolicies } from './rule-compile.js'

const { FILTER_ADDRESS, FILTER_ADDRESS_AND_PORT, FILTER_NONE } = routerTable
const FILTERS = { 'address-and-port': FILTER_ADDRESS_AND_PORT, address: FILTER_ADDRESS, none: FILTER_NONE }
const PROTOCOLS = { tcp: 6, udp: 17 }

/** A router where it is. */
export interface RouterPlace {
  definition: NetworkDefinition
  zone: number
  gatewayPort: number
  /** the gateway's, on the guests' segment */
  mac: string
  uplink: UplinkPlace | null
  portNumber(name: string): number | null
  /** the segment of another network with a router */
  segmentOf(network: string): number | null
  /** the address of a guest by its name or text */
  guest(name: string, family: 4 | 6): Ip | null
}

/** What an uplink gives to its router. */
export interface UplinkPlace {
  readonly segment: number
  readonly addresses: readonly Prefix[]
  compileSegment(proxied: Ip[]): CompiledSegment
  compileRoutes(): CompiledRoute[]
}

/** A route with what is shown of it: where it comes from, and the network it leads to, if that is another one. */
export type ShownRoute = CompiledRoute & { origin: RouteEntry['origin']; network?: string }

export function compileRouter(place: RouterPlace): CompiledRouter {
  const { definition, zone, gatewayPort, mac, uplink } = place
  const { connections, nat, mode } = definition
  const forwards = compileForwards(place)
  const { low, high } = macWords(mac)
  return {
    zone,
    lan: {
      segment: zone,
      gatewayPort,
      macLow: low,
      macHigh: high,
      vid: 0,
      mtu: definition.mtu,
      addresses: [
        ...sitesOf(definition).map(({ subnet, gateway }) => ({ ip: gateway, prefix: subnet.prefix })),
        { ip: linkLocalOf(macBytes(mac)), prefix: 64 },
      ],
      proxied: [],
      services: serviceBits(definition),
    },
    uplink: uplink?.compileSegment(forwards.flatMap(({ ip }) => (ip === null ? [] : [ip]))) ?? null,
    routes: compileRoutes(place)
      .map(({ ip, prefix, segment, gateway }): CompiledRoute => ({ ip, prefix, segment, gateway }))
      .toSorted((a, b) => b.prefix - a.prefix),
    nat: mode === 'nat' ? compileNat(place) : [],
    filtering: FILTERS[nat.filtering],
    forwards,
    isOpen: mode === 'open',
    firewall: compileRules(parseRules(definition.rules, definition.sets), definition.sets, {
      policies: defaultPolicies(mode),
      portNumber: (name) => place.portNumber(name),
    }),
    timeouts: TIMEOUTS.map(({ name, seconds }) => connections.timeouts[name] ?? seconds),
    connectionLimit: connections.limit,
    portLimit: connections.portLimit,
  }
}

function serviceBits({ subnets, dns, dhcp }: NetworkDefinition): number {
  const has4 = subnets.some(({ cidr }) => !cidr.includes(':'))
  const has6 = subnets.some(({ cidr }) => cidr.includes(':'))
  const leases4 = subnets.some((subnet) => !subnet.cidr.includes(':') && subnet.dhcp !== null)
  return (
    (has4 && (leases4 || dhcp.reservations.length > 0) ? routerTable.SERVICE_DHCP : 0) |
    (has6 ? routerTable.SERVICE_DHCP6 | routerTable.SERVICE_ROUTER_ADVERTISEMENT : 0) |
    (dns.enabled ? routerTable.SERVICE_DNS : 0)
  )
}

function compileNat({ definition: { nat }, uplink }: RouterPlace): CompiledNat[] {
  const first = (words: number) => uplink?.addresses.find(({ ip }) => ip.length === words)
  return [first(1), nat.ipv6 ? first(4) : undefined].flatMap((address) =>
    address === undefined ? [] : [{ ip: address.ip, firstPort: nat.firstPort, lastPort: nat.lastPort }],
  )
}

function compileForwards({ definition, guest }: RouterPlace): CompiledForward[] {
  const inOrder = definition.forwards.toSorted((a, b) => Number(a.address === null) - Number(b.address === null))
  return inOrder.flatMap((forward) =>
    ([4, 6] as const).flatMap((family): CompiledForward[] => {
      const to = guest(forward.to, family)
      const ip = forward.address === null ? null : parseIp(forward.address)
      if (to === null || (ip !== null && ip.length !== to.length)) return []
      const { firstPort, lastPort, toPort } = forward
      return [{ protocol: PROTOCOLS[forward.protocol], family, ip, firstPort, lastPort, to, toPort }]
    }),
  )
}

export function compileRoutes({ definition, zone, uplink, segmentOf }: RouterPlace): ShownRoute[] {
  const connected = sitesOf(definition).map(({ subnet }) => ({
    ...networkOf(subnet),
    segment: zone,
    gateway: null,
    origin: 'connected' as const,
  }))
  const fixed = definition.routes.flatMap(({ destination, via }): ShownRoute[] => {
    const prefix = parseNetwork(destination)
    const gateway = parseIp(via)
    if (prefix === null) return []
    const origin = 'static' as const
    if (gateway === null) {
      const segment = segmentOf(via)
      return segment === null ? [] : [{ ...prefix, segment, gateway: null, origin, network: via }]
    }
    const isOutside = !sitesOf(definition).some(({ subnet }) => contains(subnet, gateway))
    if (!isOutside) return [{ ...prefix, segment: zone, gateway, origin }]
    return uplink === null ? [] : [{ ...prefix, segment: uplink.segment, gateway, origin }]
  })
  const outside = (uplink?.compileRoutes() ?? []).map((route) => ({
    ...route,
    origin: route.gateway === null ? ('connected' as const) : ('default' as const),
  }))
  return [...connected, ...fixed, ...outside]
}
