/**
 * A port as users write it, parsed into a `PortDefinition` with every default filled in, and written back.
 *
 * Users write a port flat, with the option names of the command line: `{ name: vm1, kind: tap, dev: tap7, access: 10
 * }`. `parsePort` takes such a value from anywhere (a file, the API, the store), `writtenPort` is its inverse and
 * leaves out what equals the default; the store and `network export` use it. The schemas are published by
 * `rpc.discover`.
 *
 * `addresses` are IP addresses that the host behind the port may use beside those of its leases, `allow` what the
 * guards let it do: everything at the uplink of a bridge network, else nothing of it. A port has at most 64 addresses.
 *
 * VLANs: `access` alone makes an access port, `trunk` a trunk with the given VIDs, `native` the VLAN of its untagged
 * frames, which need not be listed in `trunk`. Without any the port takes no part in VLANs. VID 0 and 4095 are reserved
 * (IEEE 802.1Q-2022 table 9-2).
 */
import { isIP } from 'node:net'
import { type Static, Type } from 'typebox'
import { formatIp, isHostAddress, parseIp } from '../services/address.js'
import { Failure } from './failure.js'
import type { PortDefinition, PortKind, PortOptions, PortWaiver, VlanDefinition } from './model.js'
import { check, invalid, join, quote } from './schema.js'

export const PORT_KINDS: readonly PortKind[] = ['tap', 'netdev', 'vhost-user', 'qemu', 'pcap']
const LATER_KINDS: readonly string[] = ['xdp', 'vde', 'vxlan']

/** Bytes of `sun_path` less its end (unix(7)). */
export const SOCKET_PATH_BYTES = 107
export const MTU_MINIMUM = 576
export const MTU_MAXIMUM = 65521
const PORT_ADDRESSES_MAX = 64
const WAIVERS: readonly PortWaiver[] = ['spoofing', 'dhcp-server', 'router']
const MAC_LIMIT = 1024
const MAC_LIMIT_UPLINK = 8192

const NAME_PATTERN = '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'

export const Name = Type.String({
  pattern: NAME_PATTERN,
  minLength: 1,
  maxLength: 64,
  description: 'a name (1 to 64 of A-Z a-z 0-9 _ . -, not starting with . or -)',
})
export const Interface = Type.String({
  pattern: NAME_PATTERN,
  minLength: 1,
  maxLength: 15,
  description: 'an interface name (1 to 15 of A-Z a-z 0-9 _ . -, not starting with . or -)',
})
export const Mac = Type.String({
  pattern: '^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$',
  description: 'a MAC address like 52:54:00:12:34:56',
})
export const Vid = Type.Integer({ minimum: 1, maximum: 4094, description: 'a VLAN ID, 1..4094' })
export const Mtu = Type.Integer({ minimum: MTU_MINIMUM, maximum: MTU_MAXIMUM, description: 'bytes of an IP packet' })
const Text = Type.String({ minLength: 1, maxLength: 4096, description: 'a text of 1 to 4096 characters' })
const Namespace = Type.Union([Name, Type.Integer({ minimum: 1 })], {
  description: 'the name of a network namespace or a process id',
})
const Owner = Type.Union(
  [Type.String({ pattern: '^[A-Za-z0-9_][A-Za-z0-9_.-]*$', maxLength: 32 }), Type.Integer({ minimum: 0 })],
  { description: 'a user name or uid' },
)

/** What every kind of port has. */
export const PortSettings = {
  access: Type.Optional(Vid),
  trunk: Type.Optional(
    Type.Union([Type.String({ minLength: 1, maxLength: 32768 }), Type.Array(Vid, { maxItems: 4094 })], {
      description: 'VLAN IDs like 10,20-29',
    }),
  ),
  native: Type.Optional(Vid),
  mac: Type.Optional(Mac),
  mtu: Type.Optional(Mtu),
  isolated: Type.Optional(Type.Boolean()),
  link: Type.Optional(Type.Boolean({ description: 'true or false: false is a pulled cable' })),
  macLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 131072, description: 'addresses learned at the port' })),
  leaseLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, description: 'leases of the hosts behind it' })),
  addresses: Type.Optional(
    Type.Array(Type.String({ minLength: 1, maxLength: 64 }), {
      maxItems: PORT_ADDRESSES_MAX,
      description: `a list of at most ${PORT_ADDRESSES_MAX} IP addresses`,
    }),
  ),
  allow: Type.Optional(
    Type.Array(Type.Union([Type.Literal('spoofing'), Type.Literal('dhcp-server'), Type.Literal('router')]), {
      description: `a list of ${WAIVERS.join(', ')}`,
    }),
  ),
}
/** What only some kinds have. */
export const KindSettings = {
  tap: {
    dev: Type.Optional(Interface),
    netns: Type.Optional(Namespace),
    queues: Type.Optional(Type.Integer({ minimum: 1, maximum: 16 })),
    owner: Type.Optional(Owner),
    offloads: Type.Optional(Type.Boolean()),
  },
  netdev: { dev: Interface, netns: Type.Optional(Namespace) },
  'vhost-user': {
    path: Text,
    client: Type.Optional(Type.Boolean()),
    queues: Type.Optional(Type.Integer({ minimum: 1, maximum: 16 })),
    poll: Type.Optional(Type.Boolean()),
    offloads: Type.Optional(Type.Boolean()),
  },
  qemu: { path: Text, client: Type.Optional(Type.Boolean()), dgram: Type.Optional(Type.Boolean()) },
  pcap: { read: Type.Optional(Text), write: Type.Optional(Text) },
}

const closed = { additionalProperties: false }
export const PortInputs = {
  tap: Type.Object({ name: Name, kind: Type.Literal('tap'), ...KindSettings.tap, ...PortSettings }, closed),
  netdev: Type.Object({ name: Name, kind: Type.Literal('netdev'), ...KindSettings.netdev, ...PortSettings }, closed),
  'vhost-user': Type.Object(
    { name: Name, kind: Type.Literal('vhost-user'), ...KindSettings['vhost-user'], ...PortSettings },
    closed,
  ),
  qemu: Type.Object({ name: Name, kind: Type.Literal('qemu'), ...KindSettings.qemu, ...PortSettings }, closed),
  pcap: Type.Object({ name: Name, kind: Type.Literal('pcap'), ...KindSettings.pcap, ...PortSettings }, closed),
}
/** A port as users write it. */
export const PortInput = Type.Union([
  PortInputs.tap,
  PortInputs.netdev,
  PortInputs['vhost-user'],
  PortInputs.qemu,
  PortInputs.pcap,
])
export type PortInput = Static<typeof PortInput>

/** Throws ERR_INVALID or ERR_UNSUPPORTED. `uplink` says that the port is the uplink of a bridge network. */
export function parsePort(value: unknown, path = '', uplink = false): PortDefinition {
  const kind = portKind(value, path)
  const given = check(PortInputs[kind], value, path)
  return {
    ...portOptions(given, path),
    name: given.name,
    vlan: parseVlan(given, path),
    mac: given.mac === undefined ? null : parseMac(given.mac, join(path, 'mac')),
    mtu: given.mtu ?? null,
    isolated: given.isolated ?? false,
    link: given.link ?? true,
    macLimit: given.macLimit ?? (uplink ? MAC_LIMIT_UPLINK : MAC_LIMIT),
    leaseLimit: given.leaseLimit ?? null,
    addresses: parseAddresses(given.addresses ?? [], join(path, 'addresses')),
    allow: given.allow === undefined && !uplink ? [] : WAIVERS.filter((one) => given.allow?.includes(one) ?? true),
  }
}

/** Canonical, each once, in the order given. */
function parseAddresses(values: readonly string[], path: string): string[] {
  const addresses = values.map((text, index) => {
    const ip = parseIp(text)
    if (ip === null) throw invalid(join(path, index), `${quote(text)} is not an IP address`)
    if (!isHostAddress(ip)) throw invalid(join(path, index), `${text} is no address of a host`)
    return formatIp(ip)
  })
  return [...new Set(addresses)]
}

/** The inverse of `parsePort`: flat, without what equals the default. */
export function writtenPort(port: PortDefinition, uplink = false): PortInput {
  const { name, vlan, mac, mtu, isolated, link, macLimit, leaseLimit, addresses, allow, ...options } = port
  return {
    name,
    ...writtenOptions(options, name),
    ...(vlan.mode === 'access' ? { access: vlan.access as number } : {}),
    ...(vlan.mode === 'trunk' ? { trunk: writtenVids(vlan.trunk) } : {}),
    ...(vlan.mode === 'trunk' && vlan.native !== null ? { native: vlan.native } : {}),
    ...(mac === null ? {} : { mac }),
    ...(mtu === null ? {} : { mtu }),
    ...(isolated ? { isolated } : {}),
    ...(link ? {} : { link }),
    ...(macLimit === (uplink ? MAC_LIMIT_UPLINK : MAC_LIMIT) ? {} : { macLimit }),
    ...(leaseLimit === null ? {} : { leaseLimit }),
    ...(addresses.length === 0 ? {} : { addresses }),
    ...(allow.length === (uplink ? WAIVERS.length : 0) ? {} : { allow }),
  } as PortInput
}

/** Lower case; refuses group addresses and zero, which no host has. */
export function parseMac(text: string, path: string): string {
  const mac = check(Mac, text, path).toLowerCase()
  if (Number.parseInt(mac.slice(0, 2), 16) & 1) throw invalid(path, `${mac} is a group address, a host has none`)
  if (mac === '00:00:00:00:00:00') throw invalid(path, `${mac} is no address of a host`)
  return mac
}

/** `10,20-29` to ascending VIDs, each once. */
export function parseVids(value: string | readonly number[], path: string): number[] {
  const vids = new Set<number>()
  for (const word of typeof value === 'string' ? value.split(',') : value.map(String)) {
    const range = /^\s*(\d{1,5})(?:-(\d{1,5}))?\s*$/.exec(word)
    if (range === null) throw invalid(path, `${quote(word)} is not a VLAN ID or a range like 20-29`)
    const first = Number(range[1])
    const last = range[2] === undefined ? first : Number(range[2])
    for (const vid of [first, last]) if (vid < 1 || vid > 4094) throw invalid(path, `${vid} is not 1..4094`)
    if (last < first) throw invalid(path, `${first}-${last} runs backwards`)
    for (let vid = first; vid <= last; vid++) vids.add(vid)
  }
  if (vids.size === 0) throw invalid(path, 'names no VLAN')
  return [...vids].toSorted((a, b) => a - b)
}

/** Ascending VIDs to `10,20-29`. */
export function writtenVids(vids: readonly number[]): string {
  const ranges: string[] = []
  for (let at = 0; at < vids.length; ) {
    let end = at
    while (end + 1 < vids.length && vids[end + 1] === (vids[end] ?? 0) + 1) end++
    ranges.push(end === at ? `${vids[at]}` : `${vids[at]}-${vids[end]}`)
    at = end + 1
  }
  return ranges.join(',')
}

/** The VLAN of a port's untagged frames, as the FDB counts it: 0 for a port that takes no part in VLANs. */
export function untaggedVid(vlan: VlanDefinition): number {
  return vlan.mode === 'access' ? (vlan.access ?? 0) : vlan.mode === 'trunk' ? (vlan.native ?? 0) : 0
}

/** Throws ERR_INVALID, with the length, for a path that no unix socket can have. */
export function checkSocketPath(path: string, at: string): void {
  const bytes = Buffer.byteLength(path)
  if (bytes > SOCKET_PATH_BYTES) {
    throw invalid(at, `${quote(path)} is ${bytes} bytes long, a unix socket's path has at most ${SOCKET_PATH_BYTES}`)
  }
  checkAbsolute(path, at)
}

function checkAbsolute(path: string, at: string): void {
  if (path.includes('\0')) throw invalid(at, `${quote(path)} contains a zero byte`)
  if (!path.startsWith('/')) throw invalid(at, `${quote(path)} is not an absolute path`)
}

function portKind(value: unknown, path: string): PortKind {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(path, `${quote(value)} is not a port (an object with name and kind)`)
  }
  const kind = (value as { kind?: unknown }).kind
  const at = join(path, 'kind')
  if (kind === undefined) throw invalid(at, `is missing (${PORT_KINDS.join(', ')})`)
  if (typeof kind === 'string' && LATER_KINDS.includes(kind)) {
    throw new Failure('ERR_UNSUPPORTED', `${at}: ports of kind ${kind} come in a later version of Weft`, at)
  }
  if (!PORT_KINDS.includes(kind as PortKind)) {
    throw invalid(at, `${quote(kind)} is not one of ${PORT_KINDS.join(', ')}`)
  }
  return kind as PortKind
}

function parseVlan(given: PortInput, path: string): VlanDefinition {
  const { access, trunk, native } = given
  if (access !== undefined && (trunk !== undefined || native !== undefined)) {
    throw invalid(join(path, 'access'), `${access} and a trunk exclude each other`)
  }
  if (access !== undefined) return { mode: 'access', access, native: null, trunk: [] }
  if (trunk === undefined) {
    if (native !== undefined) throw invalid(join(path, 'native'), `${native} needs trunk`)
    return { mode: 'none', access: null, native: null, trunk: [] }
  }
  const vids = parseVids(trunk, join(path, 'trunk'))
  if (native !== undefined && !vids.includes(native)) vids.push(native)
  return { mode: 'trunk', access: null, native: native ?? null, trunk: vids.toSorted((a, b) => a - b) }
}

function portOptions(given: PortInput, path: string): PortOptions {
  switch (given.kind) {
    case 'tap':
      return {
        kind: 'tap',
        dev: check(Interface, given.dev ?? given.name, join(path, 'dev')),
        netns: given.netns === undefined ? null : String(given.netns),
        queues: given.queues ?? 1,
        owner: given.owner === undefined ? null : String(given.owner),
        offloads: given.offloads ?? true,
      }
    case 'netdev':
      return { kind: 'netdev', dev: given.dev, netns: given.netns === undefined ? null : String(given.netns) }
    case 'vhost-user':
      checkSocketPath(given.path, join(path, 'path'))
      return {
        kind: 'vhost-user',
        path: given.path,
        client: given.client ?? false,
        queues: given.queues ?? 1,
        poll: given.poll ?? false,
        offloads: given.offloads ?? true,
      }
    case 'qemu':
      return qemuOptions(given, path)
    case 'pcap':
      return pcapOptions(given, path)
  }
}

function qemuOptions(given: Static<typeof PortInputs.qemu>, path: string): PortOptions {
  const at = join(path, 'path')
  const dgram = given.dgram ?? false
  const client = given.client ?? false
  const tcp = /^(?:\[([^\]/]+)\]|([^/:]+)):(\d{1,5})$/.exec(given.path)
  if (tcp === null) {
    // A client of datagrams binds a path of its own beside the peer's (`ports/qemu.ts`).
    checkSocketPath(dgram && client ? `${given.path}.weft` : given.path, at)
  } else {
    const address = tcp[1] ?? tcp[2] ?? ''
    if (dgram) throw invalid(at, `${given.path} is a TCP address, dgram takes the path of a unix socket`)
    const loopback = address === 'localhost' || address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
    if (!loopback) throw invalid(at, `${quote(address)} is not a loopback address (127.0.0.1, [::1])`)
    const port = Number(tcp[3])
    if (port < 1 || port > 65535) throw invalid(at, `${port} is not 1..65535`)
  }
  return { kind: 'qemu', path: given.path, client, dgram }
}

function pcapOptions(given: Static<typeof PortInputs.pcap>, path: string): PortOptions {
  const { read = null, write = null } = given
  if (read === null && write === null)
    throw invalid(join(path, 'read'), 'a pcap port reads a file, writes one, or both')
  if (read !== null) checkAbsolute(read, join(path, 'read'))
  if (write !== null) checkAbsolute(write, join(path, 'write'))
  if (read !== null && read === write) throw invalid(join(path, 'write'), `${quote(write)} is the file that is read`)
  return { kind: 'pcap', read, write }
}

function writtenOptions(options: PortOptions, name: string): Record<string, unknown> {
  switch (options.kind) {
    case 'tap':
      return {
        kind: 'tap',
        ...(options.dev === name ? {} : { dev: options.dev }),
        ...(options.netns === null ? {} : { netns: options.netns }),
        ...(options.queues === 1 ? {} : { queues: options.queues }),
        ...(options.owner === null ? {} : { owner: options.owner }),
        ...(options.offloads ? {} : { offloads: false }),
      }
    case 'netdev':
      return { kind: 'netdev', dev: options.dev, ...(options.netns === null ? {} : { netns: options.netns }) }
    case 'vhost-user':
      return {
        kind: 'vhost-user',
        path: options.path,
        ...(options.client ? { client: true } : {}),
        ...(options.queues === 1 ? {} : { queues: options.queues }),
        ...(options.poll ? { poll: true } : {}),
        ...(options.offloads ? {} : { offloads: false }),
      }
    case 'qemu':
      return {
        kind: 'qemu',
        path: options.path,
        ...(options.client ? { client: true } : {}),
        ...(options.dgram ? { dgram: true } : {}),
      }
    case 'pcap':
      return {
        kind: 'pcap',
        ...(options.read === null ? {} : { read: options.read }),
        ...(options.write === null ? {} : { write: options.write }),
      }
  }
}
