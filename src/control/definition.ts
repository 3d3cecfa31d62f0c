/**
 * A network as users write it, parsed into a `NetworkDefinition` with every default filled in, and written back.
 *
 * Input comes from a file, the API or the store and is not trusted: unknown keys and values are refused with their path
 * (`ports[2].access: 4095 is not 1..4094`). `parseNetwork` and `writtenNetwork` are inverse; so what `network export`
 * prints, `network define` takes.
 *
 * A network of mode `bridge` shares the interface that `uplink: netdev:IFNAME` names: a port named `uplink` of kind
 * netdev, made here if the list of ports lacks it. Modes and options that need the router are known and refused as
 * unsupported.
 */
import { randomUUID } from 'node:crypto'
import { type Static, Type } from 'typebox'
import { Failure } from './failure.js'
import type { NetworkDefinition, NetworkMode, PortDefinition, StaticEntry } from './model.js'
import {
  Interface,
  Mac,
  Mtu,
  Name,
  PortInput,
  parseMac,
  parsePort,
  untaggedVid,
  writtenPort,
} from './port-definition.js'
import { check, invalid, join, quote } from './schema.js'

const ROUTER_MODES: readonly string[] = ['nat', 'route', 'open']
const MODES: readonly NetworkMode[] = ['isolated', 'bridge']
/** The port of a bridge network that stands for its uplink. */
export const UPLINK_PORT = 'uplink'

export const AgeSeconds = Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'seconds, 1..1000000' })
/** 0 is the part of a network that takes no part in VLANs. */
export const TableVid = Type.Integer({ minimum: 0, maximum: 4094 })

export const StaticInput = Type.Object(
  { mac: Mac, port: Name, vid: Type.Optional(TableVid) },
  { additionalProperties: false },
)
const Uplink = Type.String({ minLength: 1, maxLength: 256, description: 'none or netdev:IFNAME' })

/** A network as users write it, its ports aside. */
export const NetworkSettings = {
  name: Name,
  mode: Type.Optional(Type.String({ description: `one of ${MODES.join(', ')}` })),
  uplink: Type.Optional(Type.Union([Uplink, Type.Null()], { errorText: 'none or netdev:IFNAME' })),
  mtu: Type.Optional(Mtu),
  fdbAgeSeconds: Type.Optional(AgeSeconds),
  autostart: Type.Optional(Type.Boolean()),
  subnets: Type.Optional(Type.Array(Type.Unknown(), { description: 'empty until the router exists' })),
  dhcp: Type.Optional(
    Type.Union([Type.Literal('off'), Type.Unknown()], { description: 'off until the router exists' }),
  ),
  domain: Type.Optional(Type.Union([Type.String(), Type.Null()], { description: 'null until the router exists' })),
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
// Ports are checked one by one, by their kind: an error in one of several alternatives would name none of them well.
const Shell = Type.Object(
  {
    ...NetworkSettings,
    uuid: Type.Optional(Uuid),
    ports: Type.Optional(Type.Array(Type.Unknown())),
    fdb: Type.Optional(Type.Array(StaticInput)),
  },
  { additionalProperties: false },
)

/** Throws ERR_INVALID or ERR_UNSUPPORTED. A network without `uuid` gets a new one. */
export function parseNetwork(value: unknown, path = ''): NetworkDefinition {
  const given = check(Shell, value, path)
  const mode = parseMode(given.mode, path)
  refuseRouter(given, mode, path)
  const device = parseUplink(given.uplink, mode, path)
  const ports = parsePorts(given.ports ?? [], device, path)
  return {
    name: given.name,
    uuid: given.uuid?.toLowerCase() ?? randomUUID(),
    mode,
    uplink: device === null ? null : `netdev:${device}`,
    domain: null,
    mtu: given.mtu ?? 1500,
    fdbAgeSeconds: given.fdbAgeSeconds ?? 300,
    autostart: given.autostart ?? false,
    ports,
    fdb: parseStatics(given.fdb ?? [], ports, path),
  }
}

/** The inverse of `parseNetwork`, without what equals the default. */
export function writtenNetwork(network: NetworkDefinition): NetworkInput {
  const bridge = network.mode === 'bridge'
  return {
    name: network.name,
    uuid: network.uuid,
    mode: network.mode,
    ...(network.uplink === null ? {} : { uplink: network.uplink }),
    ...(network.mtu === 1500 ? {} : { mtu: network.mtu }),
    ...(network.fdbAgeSeconds === 300 ? {} : { fdbAgeSeconds: network.fdbAgeSeconds }),
    ...(network.autostart ? { autostart: true } : {}),
    ports: network.ports.map((port) => writtenPort(port, bridge && port.name === UPLINK_PORT)),
    ...(network.fdb.length === 0 ? {} : { fdb: network.fdb.map(({ mac, vid, port }) => ({ mac, vid, port })) }),
  }
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
  const at = join(path, 'mode')
  if (ROUTER_MODES.includes(mode)) {
    const sentence = `mode ${mode} needs the router, which comes in a later version of Weft (now: isolated, bridge)`
    throw new Failure('ERR_UNSUPPORTED', `${at}: ${sentence}`, at)
  }
  if (!MODES.includes(mode as NetworkMode)) throw invalid(at, `${quote(mode)} is not one of ${MODES.join(', ')}`)
  return mode as NetworkMode
}

function refuseRouter(given: Static<typeof Shell>, mode: NetworkMode, path: string): void {
  const refuse = (key: string): never => {
    const at = join(path, key)
    const sentence = `a network of mode ${mode} has none: it needs the router, which comes in a later version of Weft`
    throw new Failure('ERR_UNSUPPORTED', `${at}: ${sentence}`, at)
  }
  if (given.subnets !== undefined && given.subnets.length > 0) refuse('subnets')
  if (given.dhcp !== undefined && given.dhcp !== null && given.dhcp !== 'off') refuse('dhcp')
  if (given.domain !== undefined && given.domain !== null) refuse('domain')
}

/** The uplink's interface, null without. */
function parseUplink(uplink: string | null | undefined, mode: NetworkMode, path: string): string | null {
  const at = join(path, 'uplink')
  const given = uplink === null || uplink === 'none' ? undefined : uplink
  if (given === 'sockets' || given === 'host') {
    const sentence = `uplink ${given} needs the router, which comes in a later version of Weft`
    throw new Failure('ERR_UNSUPPORTED', `${at}: ${sentence}`, at)
  }
  if (mode === 'isolated') {
    if (given === undefined) return null
    throw invalid(at, `an isolated network has none, ${quote(given)} needs mode bridge`)
  }
  if (given === undefined) throw invalid(at, 'is missing: a bridge network needs netdev:IFNAME')
  const [kind, ...rest] = given.split(':')
  const [device, ...options] = rest.join(':').split(',')
  if (kind !== 'netdev' || device === undefined) throw invalid(at, `${quote(given)} is not netdev:IFNAME`)
  if (options.length > 0) {
    const sentence = `${quote(options.join(','))} needs the router, which comes in a later version of Weft`
    throw new Failure('ERR_UNSUPPORTED', `${at}: ${sentence}`, at)
  }
  return check(Interface, device, at)
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
  if (one.kind === 'qemu' && other.kind === 'qemu') {
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
