/**
 * One network as the registry keeps it: its definition, whether it runs, and what is told of it.
 *
 * Pure functions: the status of a network and of ports that do not run, a port's settings laid over each other, and the
 * events that a change means.
 */
import { isDeepStrictEqual } from 'node:util'
import { UPLINK_PORT, sharedDevice } from './definition.js'
import { Failure } from './failure.js'
import type {
  Fabric,
  FabricEvent,
  Forward,
  NetworkDefinition,
  NetworkStatus,
  PortDefinition,
  PortStatus,
  Reservation,
  StaticRoute,
} from './model.js'
import type { Action } from './plan.js'
import type { PortInput } from './port-definition.js'
import { invalid, quote } from './schema.js'

export interface Network {
  definition: NetworkDefinition
  persistent: boolean
  active: boolean
}

/** Something that happened, as subscribers hear of it: `type` is the topic. */
export type Event =
  | FabricEvent
  | { type: 'network.added' | 'network.removed' | 'network.started' | 'network.stopped'; network: string }
  | { type: 'network.changed'; network: string }
  | { type: 'port.added' | 'port.changed' | 'port.removed'; network: string; port: string }
  | { type: 'fdb.added' | 'fdb.removed'; network: string; mac: string; vid: number; port: string }
  | { type: 'rule.added' | 'rule.removed'; network: string; rule: string }
  | { type: 'forward.added' | 'forward.removed'; network: string; forward: Forward }
  | { type: 'route.added' | 'route.removed'; network: string; route: StaticRoute }
  | { type: 'reservation.added' | 'reservation.removed'; network: string; reservation: Reservation }
  | { type: 'record.changed'; network: string }
  | { type: 'connection.flushed'; network: string; flushed: number }

export function status({ definition, active, persistent }: Network, fabric: Fabric): NetworkStatus {
  const { name, uuid, mode, autostart, subnets, uplink, domain, mtu, fdbAgeSeconds, shard, ports } = definition
  return {
    name,
    uuid,
    mode,
    active,
    persistent,
    autostart,
    subnets,
    uplink,
    uplinkStatus: active ? running(() => fabric.uplink(name)) : null,
    domain,
    mtu,
    fdbAgeSeconds,
    shard,
    runsOn: active ? running(() => fabric.shardOf(name)) : null,
    ports: ports.length,
  }
}

/** What the fabric says of an active network; null in the moments in which it stops or starts again. */
export function running<T>(ask: () => T): T | null {
  try {
    return ask()
  } catch (error) {
    if (error instanceof Failure && error.code === 'ERR_NETWORK_INACTIVE') return null
    throw error
  }
}

export function portOf(network: NetworkDefinition, name: string): PortDefinition {
  const port = network.ports.find((one) => one.name === name)
  if (port !== undefined) return port
  throw new Failure('ERR_PORT_NOT_FOUND', `network ${network.name} has no port ${name}`)
}

export function isUplink(network: NetworkDefinition, port: string): boolean {
  return network.mode === 'bridge' && port === UPLINK_PORT
}

/** A written port with settings laid over it: null takes one out, an access VLAN replaces a trunk and the reverse. */
export function merged(written: PortInput, settings: Record<string, unknown>): Record<string, unknown> {
  const { name, kind, ...changes } = settings
  if (name !== undefined && name !== written.name) throw invalid('name', `port ${written.name} keeps its name`)
  if (kind !== undefined && kind !== written.kind) {
    throw invalid('kind', `port ${written.name} stays ${written.kind}; remove it and add it as ${quote(kind)}`)
  }
  const result: Record<string, unknown> = { ...written }
  if (changes.access != null) for (const key of ['trunk', 'native']) delete result[key]
  if (changes.trunk != null) delete result.access
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) delete result[key]
    else if (value !== undefined) result[key] = value
  }
  if (changes.trunk === null) delete result.native
  return result
}

/** The status of a port whose network does not run. */
export function idle(port: PortDefinition, network: NetworkDefinition): PortStatus {
  const { name, vlan, mac, mtu, isolated, link, macLimit, leaseLimit, addresses, allow, ...options } = port
  const none = { packets: 0, bytes: 0, dropped: 0 }
  return {
    name,
    kind: port.kind,
    state: 'down',
    reason: `network ${network.name} is not active`,
    mac,
    mtu: mtu ?? network.mtu,
    vlan,
    isolated,
    link,
    macLimit,
    leaseLimit,
    leases: null,
    addresses,
    allow,
    offloads: [],
    receive: none,
    transmit: { ...none },
    drops: {},
    software: { segmented: 0, checksums: 0 },
    options,
  }
}

/** What subscribers hear of a change. */
export function announced(network: string, actions: readonly Action[]): Event[] {
  return actions.flatMap((action): Event[] => {
    switch (action.do) {
      case 'port.add':
        return [{ type: 'port.added', network, port: action.port.name }]
      case 'port.set':
        return [{ type: 'port.changed', network, port: action.to.name }]
      case 'port.remove':
        return [{ type: 'port.removed', network, port: action.port.name }]
      case 'network.change':
        return announcedRouter(network, action.from, action.to)
      case 'fdb.add':
        return [{ type: 'fdb.added', network, ...action.entry }]
      case 'fdb.remove':
        return [{ type: 'fdb.removed', network, ...action.entry }]
      default:
        return []
    }
  })
}

/** What subscribers hear of a changed router: what went first, then what came. */
function announcedRouter(network: string, from: NetworkDefinition, to: NetworkDefinition): Event[] {
  const gone = <T>(of: (definition: NetworkDefinition) => T[]): T[] => missing(of(from), of(to))
  const come = <T>(of: (definition: NetworkDefinition) => T[]): T[] => missing(of(to), of(from))
  const reservations = (one: NetworkDefinition) => one.dhcp.reservations
  return [
    ...gone((one) => one.rules).map((rule): Event => ({ type: 'rule.removed', network, rule })),
    ...gone((one) => one.forwards).map((forward): Event => ({ type: 'forward.removed', network, forward })),
    ...gone((one) => one.routes).map((route): Event => ({ type: 'route.removed', network, route })),
    ...gone(reservations).map((reservation): Event => ({ type: 'reservation.removed', network, reservation })),
    ...come((one) => one.rules).map((rule): Event => ({ type: 'rule.added', network, rule })),
    ...come((one) => one.forwards).map((forward): Event => ({ type: 'forward.added', network, forward })),
    ...come((one) => one.routes).map((route): Event => ({ type: 'route.added', network, route })),
    ...come(reservations).map((reservation): Event => ({ type: 'reservation.added', network, reservation })),
    ...(isDeepStrictEqual(from.dns, to.dns) ? [] : [{ type: 'record.changed', network } as const]),
  ]
}

/** Those of one list that another lacks; of equal ones, as many as are too many. */
function missing<T>(list: readonly T[], other: readonly T[]): T[] {
  const counts = new Map<string, number>()
  for (const one of other) counts.set(JSON.stringify(one), (counts.get(JSON.stringify(one)) ?? 0) + 1)
  return list.filter((one) => {
    const key = JSON.stringify(one)
    const left = counts.get(key) ?? 0
    counts.set(key, left - 1)
    return left <= 0
  })
}

/**
 * Throws ERR_PORT_BUSY if ports to be opened in a network share a device with its others or with an active network's.
 */
export function refuseBusy(
  networks: Iterable<Network>,
  network: NetworkDefinition,
  added: readonly PortDefinition[],
): void {
  const refuse = (port: PortDefinition, other: PortDefinition, owner: string) => {
    const shared = sharedDevice(other, port)
    if (shared === null) return
    const sentence = `${shared} is in use by port ${other.name} of network ${owner}`
    throw new Failure('ERR_PORT_BUSY', `port ${port.name}: ${sentence}`)
  }
  for (const port of added) {
    for (const other of network.ports) if (other.name !== port.name) refuse(port, other, network.name)
  }
  for (const { definition, active } of networks) {
    if (!active || definition.name === network.name) continue
    for (const port of added) for (const other of definition.ports) refuse(port, other, definition.name)
  }
}

/**
 * Throws if the uplink of a started network is in error: for a network that is made now a missing interface is a
 * mistake, later it is a fault that may pass.
 */
export function refuseDeadUplink(fabric: Fabric, { name, mode, uplink }: NetworkDefinition): void {
  if (uplink === null) return
  const found = mode === 'bridge' ? fabric.port(name, UPLINK_PORT) : fabric.uplink(name)
  if (found?.state !== 'error') return
  const code = uplink.startsWith('netdev:') ? 'ERR_DEVICE_NOT_FOUND' : 'ERR_IO'
  throw new Failure(code, `network ${name}: uplink ${uplink}: ${found.reason}`, 'uplink')
}
