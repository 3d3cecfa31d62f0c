/**
 * What the host's own network looks like, to choose what fits beside it: an uplink's interface, subnets that are not in
 * use, the resolvers to ask. Everything is read, nothing is changed.
 *
 *     interfaces   node:os                    addresses with their prefixes
 *     routes       /proc/net/route            destination, gateway and mask as hexadecimal words of the machine's order
 *                  /proc/net/ipv6_route       the same as 32 digits in the order of the wire
 *     resolvers    /etc/resolv.conf           nameserver, search and domain; options are ignored
 *
 * These are the main routing table's routes. What policy routing keeps in other tables (some VPNs) is not seen, but its
 * interface's addresses are. A route shorter than 8 bits is a way out (a default route, or a half of one, as OpenVPN's
 * `redirect-gateway def1` has), not a network in use.
 *
 * A choice depends on the seed and on what is taken, nothing else: the same network gets the same subnet again.
 *
 * Limits: a resolver file of 64 KiB, 16 resolvers, 32 search domains; further ones are ignored.
 * Standards: RFC 1918 (private addresses), RFC 4193 (unique local addresses), resolv.conf(5).
 */
import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { type NetworkInterfaceInfo, endianness, networkInterfaces } from 'node:os'
import {
  type Ip,
  type Prefix,
  bitsOf,
  formatIp,
  formatPrefix,
  ipFromBytes,
  isLinkLocal,
  isMulticast,
  isUnspecified,
  lastOf,
  maskIp,
  parseIp,
  parsePrefix,
} from './address.js'
import { writeDomain } from './domain-list.js'

export interface HostFiles {
  route: string
  route6: string
  resolvers: string
}

export const HOST_FILES: HostFiles = {
  route: '/proc/net/route',
  route6: '/proc/net/ipv6_route',
  resolvers: '/etc/resolv.conf',
}

export interface HostRoute {
  destination: Prefix
  /** null: on the link */
  gateway: Ip | null
  /** name of the interface */
  dev: string
  metric: number
}

export interface Resolvers {
  /** addresses; a link-local one with its zone (`fe80::1%eth0`) */
  servers: string[]
  search: string[]
}

type Interfaces = Record<string, NetworkInterfaceInfo[] | undefined>

/** Of a route (linux/route.h, linux/ipv6_route.h). */
const FLAG_UP = 0x1
const FLAG_GATEWAY = 0x2
const FLAG_REJECT = 0x200
const FLAG_LOCAL = 0x80000000
/** Bits of the shortest route that stands for a network and not for the way out. */
const SHORTEST_NETWORK = 8
const RESOLVER_FILE_BYTES = 65536
const MOST_SERVERS = 16
const MOST_DOMAINS = 32

// ---- routes and addresses ----

/** The host's routes of both families that lead somewhere; unreadable files have none. */
export function hostRoutes(files: HostFiles = HOST_FILES): HostRoute[] {
  const routes = (path: string, read: (fields: string[]) => HostRoute | null): HostRoute[] =>
    textOf(path)
      .split('\n')
      .flatMap((line) => read(line.trim().split(/\s+/)) ?? [])
  return [...routes(files.route, readRoute4), ...routes(files.route6, readRoute6)]
}

function readRoute4(fields: string[]): HostRoute | null {
  if (fields.length < 8 || ![1, 2, 3, 7].every((i) => /^[\dA-F]{1,8}$/i.test(fields[i]))) return null
  const flags = Number.parseInt(fields[3], 16)
  if ((flags & FLAG_UP) === 0 || (flags & FLAG_REJECT) !== 0) return null
  return {
    destination: { ip: [machineWord(fields[1])], prefix: Math.clz32(~machineWord(fields[7])) },
    gateway: (flags & FLAG_GATEWAY) !== 0 ? [machineWord(fields[2])] : null,
    dev: fields[0],
    metric: Number(fields[6]),
  }
}

/** Address of eight digits that the kernel printed as a number of this machine's. */
function machineWord(digits: string): number {
  const bytes = Buffer.from(digits.padStart(8, '0'), 'hex')
  return endianness() === 'LE' ? bytes.readInt32LE(0) : bytes.readInt32BE(0)
}

function readRoute6(fields: string[]): HostRoute | null {
  if (fields.length < 10 || ![0, 4].every((i) => /^[\da-f]{32}$/i.test(fields[i]))) return null
  const [flags, prefix, metric] = [fields[8], fields[1], fields[5]].map((digits) => Number.parseInt(digits, 16))
  const ip = ipFromBytes(Buffer.from(fields[0], 'hex'))
  if ((flags & FLAG_UP) === 0 || (flags & FLAG_REJECT) !== 0 || (flags & FLAG_LOCAL) !== 0) return null
  if (isMulticast(ip) || isLinkLocal(ip) || !(prefix <= 128)) return null
  return {
    destination: { ip, prefix },
    gateway: (flags & FLAG_GATEWAY) !== 0 ? ipFromBytes(Buffer.from(fields[4], 'hex')) : null,
    dev: fields[9],
    metric,
  }
}

/** The route by which the host reaches the outside: the one of the least metric; null: there is none. */
export function defaultRoute(family: 4 | 6, files: HostFiles = HOST_FILES): HostRoute | null {
  const routes = hostRoutes(files).filter(
    ({ destination: { ip, prefix }, dev }) =>
      bitsOf(ip) === (family === 4 ? 32 : 128) && prefix === 0 && isUnspecified(ip) && dev !== 'lo',
  )
  return routes.reduce<HostRoute | null>((best, one) => (best && best.metric <= one.metric ? best : one), null)
}

/** The host's own addresses with the prefixes of their links, loopback's among them. */
export function hostAddresses(interfaces: Interfaces = networkInterfaces()): { dev: string; address: Prefix }[] {
  return Object.entries(interfaces).flatMap(([dev, list]) =>
    (list ?? []).flatMap(({ cidr }) => {
      const address = cidr === null ? null : parsePrefix(cidr)
      return address === null ? [] : [{ dev, address }]
    }),
  )
}

/**
 * Everything that a subnet of ours would stand in the way of: networks on the host's links, routes to others, gateways,
 * resolvers.
 */
export function prefixesInUse(files: HostFiles = HOST_FILES, interfaces: Interfaces = networkInterfaces()): Prefix[] {
  const whole = (ip: Ip): Prefix => ({ ip, prefix: bitsOf(ip) })
  const routes = hostRoutes(files)
  return [
    ...hostAddresses(interfaces).map(({ address }) => address),
    ...routes.map(({ destination }) => destination).filter(({ prefix }) => prefix >= SHORTEST_NETWORK),
    ...routes.flatMap(({ gateway }) => (gateway === null ? [] : [whole(gateway)])),
    ...readResolvers(files.resolvers).servers.flatMap((text) => {
      const ip = parseIp(text)
      return ip === null ? [] : [whole(ip)]
    }),
  ].map(({ ip, prefix }) => ({ ip: maskIp(ip, prefix), prefix }))
}

// ---- subnets ----

/** A private /24 that overlaps nothing taken, as text; null: all of RFC 1918 is taken. */
export function pickSubnet(taken: readonly Prefix[], seed: string): string | null {
  return pick(taken, seed, 24)
}

/** A /30 likewise, for a link between two routers. */
export function pickTransferSubnet(taken: readonly Prefix[], seed: string): string | null {
  return pick(taken, `transfer ${seed}`, 30)
}

/** The /64 of a network's own unique local prefix (RFC 4193): subnet 0 of a /48 that its UUID determines. */
export function uniqueLocalPrefix(uuid: string): string {
  const digest = createHash('sha256').update(`weft unique local ${uuid.toLowerCase()}`).digest()
  const high = (0xfd << 24) | digest.readUIntBE(0, 3)
  return formatPrefix({ ip: [high, digest.readUInt16BE(3) << 16, 0, 0], prefix: 64 })
}

function pick(taken: readonly Prefix[], seed: string, length: 24 | 30): string | null {
  const ranges = rangesOf(taken)
  const digest = createHash('sha256').update(seed).digest()
  const size = 2 ** (32 - length)
  const parts = 256 / size
  const firstPart = digest.readUInt32BE(4) % parts
  for (const block of blocks(digest.readUInt32BE(0)))
    for (let i = 0; i < parts; i++) {
      const start = block * 256 + ((firstPart + i) % parts) * size
      if (isFree(ranges, start, start + size - 1)) return formatPrefix({ ip: [start | 0], prefix: length })
    }
  return null
}

/** The private /24 blocks as their first 24 bits, in the order in which they are tried. */
function* blocks(random: number): Generator<number> {
  const from = (first: string): number => (parseIp(first)![0] >>> 0) / 256
  yield* turn(from('192.168.100.0'), 151, random)
  yield* turn(from('192.168.2.0'), 98, random)
  yield* turn(from('192.168.251.0'), 5, random)
  yield* turn(from('192.168.0.0'), 2, 1) // those that most routers at home have come last
  yield* turn(from('172.16.0.0'), 16 * 256, random)
  yield* turn(from('10.0.0.0'), 65536, random)
}

function* turn(first: number, count: number, random: number): Generator<number> {
  for (let i = 0; i < count; i++) yield first + ((random + i) % count)
}

/** IPv4 prefixes as ranges of numbers, ascending, those that touch made one. */
function rangesOf(taken: readonly Prefix[]): { start: number; end: number }[] {
  const sorted = taken
    .filter(({ ip }) => bitsOf(ip) === 32)
    .map((one) => ({ start: maskIp(one.ip, one.prefix)[0] >>> 0, end: lastOf(one)[0] >>> 0 }))
    .sort((a, b) => a.start - b.start)
  const ranges: { start: number; end: number }[] = []
  for (const one of sorted) {
    const last = ranges.at(-1)
    if (last && one.start <= last.end + 1) last.end = Math.max(last.end, one.end)
    else ranges.push(one)
  }
  return ranges
}

function isFree(ranges: readonly { start: number; end: number }[], start: number, end: number): boolean {
  let low = 0
  let high = ranges.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (ranges[middle].end < start) low = middle + 1
    else high = middle
  }
  return low === ranges.length || ranges[low].start > end
}

// ---- resolvers ----

/** The host's resolvers; a file that is missing or names none has none. */
export function readResolvers(path: string = HOST_FILES.resolvers): Resolvers {
  const servers = new Set<string>()
  let search: string[] = []
  for (const line of textOf(path, RESOLVER_FILE_BYTES).split('\n')) {
    const [word, ...values] = line.trim().split(/\s+/)
    if (word === 'nameserver' && values.length > 0) {
      const server = serverOf(values[0])
      if (server !== null && servers.size < MOST_SERVERS) servers.add(server)
    } else if (word === 'search' || word === 'domain') search = values // the last one counts
  }
  const domains = search.map((name) => name.toLowerCase().replace(/\.$/, '')).filter((name) => writeDomain(name))
  return { servers: [...servers], search: domains.slice(0, MOST_DOMAINS) }
}

function serverOf(text: string): string | null {
  const [address, zone, more] = text.split('%')
  const ip = parseIp(address)
  if (ip === null || isMulticast(ip) || more !== undefined) return null
  if (zone === undefined) return formatIp(ip)
  return isLinkLocal(ip) && /^[\w.@-]{1,15}$/.test(zone) ? `${formatIp(ip)}%${zone}` : null
}

/**
 * Tells when the resolvers have changed; a file that is replaced, removed or made counts too. The file is read at
 * intervals: it is short, and a watch on it would miss what happens to the links that lead to it.
 * @param intervalMillis the process does not stay alive for it
 * @returns what ends it
 */
export function watchResolvers(
  onChange: (resolvers: Resolvers) => void,
  path: string = HOST_FILES.resolvers,
  intervalMillis = 2000,
): () => void {
  let known = JSON.stringify(readResolvers(path))
  const look = (): void => {
    const resolvers = readResolvers(path)
    const text = JSON.stringify(resolvers)
    if (text === known) return
    known = text
    onChange(resolvers)
  }
  const timer = setInterval(look, intervalMillis)
  timer.unref()
  return () => clearInterval(timer)
}

/** A file's text, its first `limit` bytes if one is given; empty if it cannot be read. */
function textOf(path: string, limit?: number): string {
  try {
    if (limit === undefined) return readFileSync(path, 'latin1')
    const file = openSync(path, 'r')
    try {
      const bytes = Buffer.alloc(limit)
      return bytes.toString('latin1', 0, readSync(file, bytes, 0, limit, 0))
    } finally {
      closeSync(file)
    }
  } catch {
    return ''
  }
}
