/**
 * A network as users write it, parsed into a `NetworkDefinition` with every default filled in, and written back.
 *
 * Input comes from a file, the API or the store and is not trusted: unknown keys and values are refused with their path
 * (`ports[2].access: 4095 is not 1..4094`). `parseNetwork` and `writtenNetwork` are inverse; so what `network export`
 * prints, `network define` takes.
 *
 *   bridge             shares the interface that `uplink: netdev:IFNAME` names: a port named `uplink` of kind netdev,
 *                      made here if the list of ports lacks it; no router
 *   isolated           no way out; with subnets a router that gives addresses and names
 *   nat, route, open   subnets behind a router with an uplink (`uplink.ts`). nat translates sources; route sends them
 *                      as they are and lets nothing new in; open lets everything through
 *
 * A network of mode nat, route or open must have subnets, and an uplink or `none`. Where the user gave neither, they
 * are chosen once, in `surroundings.ts`, before the network is parsed: so the definition says what it is.
 */
import { randomUUID } from 'node:crypto'
import { type Static, Type } from 'typebox'
import { parseDomainName } from './dns-settings.js'
import { type DhcpObject, splitDhcp } from './dhcp-settings.js'
import type { NetworkDefinition, NetworkMode, PortDefinition, StaticEntry, Subnet } from './model.js'
import { Mac, Mtu, Name, PortInput, parseMac, parsePort, untaggedVid, writtenPort } from './port-definition.js'
import { RouterSettings, parseRouter, writtenRouter } from './router-settings.js'
import { check, invalid, join, quote } from './schema.js'
import { SubnetInput, parseSubnets, writtenSubnet } from './subnet.js'
import { type Uplink, parseUplink, writtenUplink } from './uplink.js'

/** Modes whose guests reach the outside through the network's router. */
export const ROUTED_MODES: readonly NetworkMode[] = ['nat', 'route', 'open']
const MODES: readonly NetworkMode[] = [...ROUTED_MODES, 'isolated', 'bridge']
/** The port of a bridge network that stands for its uplink. */
export const UPLINK_PORT = 'uplink'

export const AgeSeconds = Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'seconds, 1..1000000' })
/** 0 is the part of a network that takes no part in VLANs. */
export const TableVid = Type.Integer({ minimum: 0, maximum: 4094 })

export const StaticInput = Type.Object(
  { mac: Mac, port: Name, vid: Type.Optional(TableVid) },
  { additionalProperties: false },
)
const OUTSIDES = 'host, netdev:IFNAME or none'
const UplinkText = Type.String({ minLength: 1, maxLength: 1024, description: OUTSIDES })

/** Pinned to a shard, from 0 on; null: automatic. That it runs is not asked here: see `placement.ts`. */
export const ShardNumber = Type.Union([Type.Integer({ minimum: 0, maximum: 1023 }), Type.Null()], {
  errorText: 'the number of a shard, from 0 on',
})

/** A network as users write it, its ports aside. */
export const NetworkSettings = {
  name: Name,
  mode: Type.Optional(Type.String({ description: `one of ${MODES.join(', ')}` })),
  uplink: Type.Optional(Type.Union([UplinkText, Type.Null()], { errorText: OUTSIDES })),
  domain: Type.Optional(Type.Union([Type.String(), Type.Null()], { errorText: 'a DNS name' })),
  subnets: Type.Optional(Type.Array(SubnetInput)),
  ...RouterSettings,
  mtu: Type.Optional(Mtu),
  fdbAgeSeconds: Type.Optional(AgeSeconds),
  shard: Type.Optional(ShardNumber),
  autostart: Type.Optional(Type.Boolean()),
}
const Uuid = Type.String({
  pattern: '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$',
  description: 'a UUID like 6f0e8a52-3b1c-4f57-9c1e-0d2a4b6c8e10',
})
export const NetworkInput = Type.Object(
  {
    ...NetworkSettings,
    uuid: Type.Optional(Uuid),
    ports: Type.Optional(Type.Array(PortInput)),
    fdb: Type.Optional(Type.Array(StaticInput)),
  },
  { additionalProperties: false },
)
export type NetworkInput = Static<typeof NetworkInput>
// Ports and the like are checked one by one: an error in one of several alternatives would name none of them well.
const Shell = Type.Object(
  {
    ...NetworkSettings,
    subnets: Type.Optional(Type.Array(Type.Unknown())),
    forwards: Type.Optional(Type.Array(Type.Unknown())),
    routes: Type.Optional(Type.Array(Type.Unknown())),
    dhcp: Type.Optional(Type.Unknown()),
    uuid: Type.Optional(Uuid),
    ports: Type.Optional(Type.Array(Type.Unknown())),
    fdb: Type.Optional(Type.Array(StaticInput)),
  },
  { additionalProperties: false },
)

/** Throws ERR_INVALID, ERR_CAPACITY or ERR_UNSUPPORTED. A network without `uuid` gets a new one. */
export function parseNetwork(value: unknown, path = ''): NetworkDefinition {
  const given = check(Shell, value, path)
  const mode = parseMode(given.mode, path)
  const { range, settings } = splitDhcp(given.dhcp, join(path, 'dhcp'))
  const subnets = networkSubnets(given.subnets ?? [], range, mode, path)
  const uplink = parseOutside(given.uplink, mode, path)
  const device = mode === 'bridge' && uplink?.kind === 'netdev' ? uplink.dev : null
  const ports = parsePorts(given.ports ?? [], device, path)
  const context = { network: given.name, mode, subnets, uplink }
  return {
    name: given.name,
    uuid: given.uuid?.toLowerCase() ?? randomUUID(),
    mode,
    uplink: writtenUplink(uplink),
    domain: parseDomain(given.domain, given.name, subnets, path),
    subnets,
    ...parseRouter(given as Parameters<typeof parseRouter>[0], settings, context, path),
    mtu: given.mtu ?? 1500,
    fdbAgeSeconds: given.fdbAgeSeconds ?? 300,
    shard: given.shard ?? null,
    autostart: given.autostart ?? false,
    ports,
    fdb: parseStatics(given.fdb ?? [], ports, path),
  }
}

/** The inverse of `parseNetwork`, without what equals the default. */
export function writtenNetwork(network: NetworkDefinition): NetworkInput {
  const bridge = network.mode === 'bridge'
  const routed = ROUTED_MODES.includes(network.mode)
  const domain = network.subnets.length === 0 ? null : defaultDomain(network.name)
  return {
    name: network.name,
    uuid: network.uuid,
    mode: network.mode,
    ...(network.uplink === null ? (routed ? { uplink: 'none' } : {}) : { uplink: network.uplink }),
    ...(network.domain === domain ? {} : { domain: network.domain }),
    ...(network.subnets.length === 0 ? {} : { subnets: network.subnets.map(writtenSubnet) }),
    ...(network.mtu === 1500 ? {} : { mtu: network.mtu }),
    ...(network.fdbAgeSeconds === 300 ? {} : { fdbAgeSeconds: network.fdbAgeSeconds }),
    ...(network.shard === null ? {} : { shard: network.shard }),
    ...(network.autostart ? { autostart: true } : {}),
    ...(writtenRouter(network) as object),
    ports: network.ports.map((port) => writtenPort(port, bridge && port.name === UPLINK_PORT)),
    ...(network.fdb.length === 0 ? {} : { fdb: network.fdb.map(({ mac, vid, port }) => ({ mac, vid, port })) }),
  }
}

/** The domain of a network that names none: its own name under `internal`, which no public DNS has. */
export function defaultDomain(network: string): string {
  const label = network
    .toLowerCase()
    .replace(/[^a-z0-9-]/g, '-')
    .slice(0, 63)
    .replace(/^-+|-+$/g, '')
  return `${label === '' ? 'network' : label}.internal`
}

/** A static entry of a network with these ports; without `vid` it stands in the VLAN of the port's untagged frames. */
export function parseStatic(value: unknown, ports: readonly PortDefinition[], path = ''): StaticEntry {
  const given = check(StaticInput, value, path)
  const port = ports.find((one) => one.name === given.port)
  if (port === undefined) throw invalid(join(path, 'port'), `there is no port ${given.port} in the network`)
  return { mac: parseMac(given.mac, join(path, 'mac')), vid: given.vid ?? untaggedVid(port.vlan), port: given.port }
}

function parseMode(mode: string | undefined, path: string): NetworkMode {
  if (mode === undefined) return 'isolated'
  if (MODES.includes(mode as NetworkMode)) return mode as NetworkMode
  throw invalid(join(path, 'mode'), `${quote(mode)} is not one of ${MODES.join(', ')}`)
}

function networkSubnets(
  given: readonly unknown[],
  range: DhcpObject['range'],
  mode: NetworkMode,
  path: string,
): Subnet[] {
  const at = join(path, 'subnets')
  if (mode === 'bridge' && given.length > 0) throw invalid(at, 'a bridge network has none: it has no router')
  if (ROUTED_MODES.includes(mode) && given.length === 0) throw invalid(at, `a network of mode ${mode} needs one`)
  if (given.length === 0) {
    if (range === undefined || range === null || range === 'off') return []
    throw invalid(join(path, 'dhcp'), `${quote(range)} needs a subnet`)
  }
  return parseSubnets(given, range, path)
}

function parseOutside(given: string | null | undefined, mode: NetworkMode, path: string): Uplink | null {
  const at = join(path, 'uplink')
  const uplink = parseUplink(given ?? null, at)
  if (mode === 'isolated' && uplink !== null) {
    throw invalid(at, `an isolated network has none, ${quote(given)} needs another mode`)
  }
  if (mode !== 'bridge') return uplink
  if (uplink === null) throw invalid(at, 'is missing: a bridge network needs netdev:IFNAME')
  if (uplink.kind !== 'netdev') throw invalid(at, `a bridge network needs netdev:IFNAME, not ${uplink.kind}`)
  if (given?.includes(',')) {
    throw invalid(at, `${quote(given)}: a bridge network has no address of its own there, it takes netdev:IFNAME alone`)
  }
  return uplink
}

function parseDomain(
  given: string | null | undefined,
  network: string,
  subnets: readonly Subnet[],
  path: string,
): string | null {
  if (given === null) return null
  if (given === undefined) return subnets.length === 0 ? null : defaultDomain(network)
  if (subnets.length === 0) throw invalid(join(path, 'domain'), `${quote(given)} needs a subnet: no router, no DNS`)
  return parseDomainName(given, join(path, 'domain'))
}

function parsePorts(values: readonly unknown[], device: string | null, path: string): PortDefinition[] {
  const places = values.map((_, index) => join(join(path, 'ports'), index))
  const ports = values.map((value, index) => {
    const name = (value as { name?: unknown } | null)?.name
    return parsePort(value, places[index], device !== null && name === UPLINK_PORT)
  })
  const uplink = ports.find((port) => port.name === UPLINK_PORT)
  if (device !== null && uplink === undefined) {
    places.unshift(join(path, 'uplink'))
    ports.unshift(parsePort({ name: UPLINK_PORT, kind: 'netdev', dev: device }, join(path, 'uplink'), true))
  } else if (device !== null && (uplink?.kind !== 'netdev' || uplink.dev !== device)) {
    throw invalid(join(path, 'uplink'), `the port named ${UPLINK_PORT} is not the interface ${device}`)
  }
  ports.forEach((port, index) => {
    for (const other of ports.slice(0, index)) {
      if (other.name === port.name) throw invalid(`${places[index]}.name`, `there are two ports named ${port.name}`)
      const shared = sharedDevice(other, port)
      if (shared !== null) throw invalid(places[index] ?? path, `${shared} is in use by port ${other.name}`)
    }
  })
  return ports
}

/** What two ports cannot both have, named; null if they get along. */
export function sharedDevice(one: PortDefinition, other: PortDefinition): string | null {
  if ((one.kind === 'tap' || one.kind === 'netdev') && (other.kind === 'tap' || other.kind === 'netdev')) {
    return one.dev === other.dev && one.netns === other.netns ? `interface ${one.dev}` : null
  }
  if ((one.kind === 'qemu' || one.kind === 'vhost-user') && (other.kind === 'qemu' || other.kind === 'vhost-user')) {
    return one.path === other.path && !(one.client && other.client) ? `socket ${one.path}` : null
  }
  if (one.kind === 'pcap' && other.kind === 'pcap') {
    return one.write !== null && one.write === other.write ? `file ${one.write}` : null
  }
  return null
}

function parseStatics(values: readonly unknown[], ports: readonly PortDefinition[], path: string): StaticEntry[] {
  const entries: StaticEntry[] = []
  values.forEach((value, index) => {
    const at = join(join(path, 'fdb'), index)
    const entry = parseStatic(value, ports, at)
    if (entries.some((one) => one.mac === entry.mac && one.vid === entry.vid)) {
      throw invalid(at, `${entry.mac} stands twice in VLAN ${entry.vid}`)
    }
    entries.push(entry)
  })
  return entries
}
