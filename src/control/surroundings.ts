/**
 * What is chosen for a network whose definition leaves it open, and what around it stands against a definition: the
 * host's addresses and routes, the other networks' subnets.
 *
 * A network of mode nat, route or open without subnets gets a free IPv4 /24 and a unique local IPv6 /64, without an
 * uplink the best that this process may open. Both are written into its definition, so they stay.
 *
 * Two subnets may be the same as long as nobody could mean either: behind NAT they are, two isolated networks are. They
 * must differ where both are routed to the same outside, and where a network has a route to the other.
 */
import { randomUUID } from 'node:crypto'
import { accessSync, constants, readFileSync } from 'node:fs'
import { type Prefix, contains, formatIp, formatPrefix, overlaps, parseIp, parseNetwork } from '../services/address.js'
import { hostAddresses, hostRoutes, pickSubnet, prefixesInUse, uniqueLocalPrefix } from '../services/host-network.js'
import { ROUTED_MODES } from './definition.js'
import { Failure } from './failure.js'
import type { NetworkDefinition, NetworkMode } from './model.js'
import { invalid, join } from './schema.js'
import { prefixOf } from './subnet.js'
import { outsideOf } from './uplink.js'

export const CAP_NET_ADMIN = 12
/** A route shorter than this is a way out, not a network in use. */
const SHORTEST_NETWORK = 8

/** The host as far as networks are chosen by it. Tests give one of their own. */
export interface Surroundings {
  /** the uplink of a network that names none; null: this process can open none */
  bestUplink(): string | null
  /** free subnets for a network, as CIDRs */
  pickSubnets(uuid: string, taken: readonly Prefix[]): string[]
  /** who on this host has addresses of it, `interface eth0 has 192.0.2.7/24`; null: nobody */
  usedBy(prefix: Prefix): string | null
}

export const hostSurroundings: Surroundings = {
  bestUplink: () => (mayMakeTaps() ? 'host' : null),
  pickSubnets(uuid, taken) {
    const four = pickSubnet([...prefixesInUse(), ...taken], uuid)
    return [...(four === null ? [] : [four]), uniqueLocalPrefix(uuid)]
  },
  usedBy(prefix) {
    const own = hostAddresses().find(({ address }) => contains(prefix, address.ip) || contains(address, prefix.ip))
    if (own !== undefined) return `interface ${own.dev} has ${formatPrefix(own.address)}`
    const route = hostRoutes().find(
      ({ destination }) => destination.prefix >= SHORTEST_NETWORK && overlaps(destination, prefix),
    )
    if (route === undefined) return null
    const hop = route.gateway === null ? '' : `via ${formatIp(route.gateway)} `
    return `the host has a route to ${formatPrefix(route.destination)} ${hop}by interface ${route.dev}`
  },
}

/** Whether this process may make a TAP: what a `host` uplink needs. */
export function mayMakeTaps(): boolean {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
    return holdsCapability(CAP_NET_ADMIN)
  } catch {
    return false
  }
}

/** Whether this process has a capability in effect, by its number in capabilities(7). */
export function holdsCapability(bit: number): boolean {
  const line = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return ((BigInt(`0x${line?.[1] ?? '0'}`) >> BigInt(bit)) & 1n) === 1n
}

/**
 * A written network with what it leaves open: `current` is the network that it changes, whose subnets and uplink stay.
 * Anything but a network that needs subnets is returned as it is.
 */
export function completed(
  value: unknown,
  surroundings: Surroundings,
  current: NetworkDefinition | null,
  others: Iterable<NetworkDefinition>,
): unknown {
  if (typeof value !== 'object' || value === null) return value
  const given = value as { mode?: unknown; uuid?: unknown; subnets?: unknown; uplink?: unknown }
  if (!ROUTED_MODES.includes(given.mode as NetworkMode)) return value
  const uuid = given.uuid ?? current?.uuid ?? randomUUID()
  const result: Record<string, unknown> = { ...given, uuid }
  if (isEmpty(given.subnets)) {
    const kept = current?.subnets ?? []
    const taken = [...others].flatMap(({ subnets }) => subnets.map(prefixOf))
    if (kept.length > 0) result.subnets = kept
    else if (typeof uuid === 'string') result.subnets = surroundings.pickSubnets(uuid, taken)
  }
  if (given.uplink === undefined) {
    const kept = current !== null && ROUTED_MODES.includes(current.mode) ? current : null
    result.uplink = kept === null ? surroundings.bestUplink() : kept.uplink
  }
  return result
}

const isEmpty = (list: unknown): boolean => list === undefined || (Array.isArray(list) && list.length === 0)

/** Throws ERR_SUBNET_BUSY if a subnet that the user gave, and `before` lacks, is in use on the host. */
export function refuseHostSubnets(
  given: unknown,
  network: NetworkDefinition,
  before: NetworkDefinition | null,
  surroundings: Surroundings,
): void {
  if (isEmpty(given) || !ROUTED_MODES.includes(network.mode)) return
  network.subnets.forEach((subnet, index) => {
    if (before?.subnets.some((one) => one.cidr === subnet.cidr)) return
    const owner = surroundings.usedBy(prefixOf(subnet))
    if (owner === null) return
    const at = join('subnets', index)
    throw new Failure('ERR_SUBNET_BUSY', `${at}: ${subnet.cidr} is in use on this host: ${owner}`, at)
  })
}

/** Throws ERR_SUBNET_BUSY if a network cannot run beside the others that do. */
export function refuseBusySubnets(network: NetworkDefinition, others: Iterable<NetworkDefinition>): void {
  for (const other of others) {
    if (other.name === network.name || !mustDiffer(network, other)) continue
    network.subnets.forEach((subnet, index) => {
      const shared = other.subnets.find((one) => overlaps(prefixOf(one), prefixOf(subnet)))
      if (shared === undefined) return
      const at = join('subnets', index)
      const sentence = `${subnet.cidr} overlaps ${shared.cidr} of network ${other.name}`
      throw new Failure('ERR_SUBNET_BUSY', `${at}: ${sentence}, and both are routed to the same`, at)
    })
  }
}

function mustDiffer(one: NetworkDefinition, other: NetworkDefinition): boolean {
  const leads = (from: NetworkDefinition, to: NetworkDefinition) => from.routes.some(({ via }) => via === to.name)
  if (leads(one, other) || leads(other, one)) return true
  const routed = (network: NetworkDefinition) => network.mode === 'route' || network.mode === 'open'
  const outside = outsideOf(one.uplink)
  return outside !== null && outside === outsideOf(other.uplink) && routed(one) && routed(other)
}

/**
 * Throws ERR_INVALID if a route by way of another network leads back: what is sent to its destination would go round
 * until its hop limit ends it.
 */
export function refuseRouteLoops(network: NetworkDefinition, others: Iterable<NetworkDefinition>): void {
  const networks = new Map([...others].map((one) => [one.name, one]))
  networks.set(network.name, network)
  network.routes.forEach(({ destination, via }, index) => {
    const prefix = parseNetwork(destination)
    if (prefix === null) return
    const passed = [network.name]
    for (let next: string | undefined = via; next !== undefined && parseIp(next) === null; ) {
      if (passed.includes(next)) {
        const at = `${join('routes', index)}.via`
        throw invalid(at, `${destination} goes round: ${[...passed, next].join(' -> ')}`)
      }
      passed.push(next)
      const onward: NetworkDefinition | undefined = networks.get(next)
      const arrived = onward?.subnets.some((one) => overlaps(prefixOf(one), prefix)) ?? true
      next = arrived ? undefined : onward?.routes.find((one) => covers(one.destination, prefix))?.via
    }
  })
}

function covers(destination: string, prefix: Prefix): boolean {
  const wider = parseNetwork(destination)
  return wider !== null && wider.prefix <= prefix.prefix && contains(wider, prefix.ip)
}
