/**
 * DHCPv4 options as data: number, name, and the type by which a user's text becomes bytes and bytes become a value.
 *
 * Text of each type: `ip` 10.0.0.1; `ips` a list of them; `u8`, `u16`, `u32`, `i32` a decimal number; `u16s` a list;
 * `flag` true or false; `text` as it is; `domain`, `domains` names; `routes` pairs DESTINATION/LENGTH VIA; `hex` bytes
 * in hexadecimal, colons allowed. Members of a list stand between commas. Any option can be written as bytes:
 * `hex:0a0b`. A number that is not in the table has the type that its text looks like: addresses if it is a list of
 * those, else text.
 *
 * Those marked `own` belong to the protocol or to the exchange, and cannot be set. Standards: RFC 2132, and what
 * stands behind the later ones. Capacity: a value of at most 1024 bytes.
 */
import { formatIp, ipBytes, ipFromBytes, maskIp, parseIp, parseNetwork } from './address.js'
import type { Ip, Prefix } from './address.js'
import { readDomain, writeDomain } from './domain-list.js'

export const OPTION_MASK = 1
export const OPTION_ROUTER = 3
export const OPTION_DNS = 6
export const OPTION_HOSTNAME = 12
export const OPTION_DOMAIN = 15
export const OPTION_MTU = 26
export const OPTION_BROADCAST = 28
export const OPTION_NTP = 42
export const OPTION_REQUESTED_ADDRESS = 50
export const OPTION_LEASE_TIME = 51
export const OPTION_SERVER = 54
export const OPTION_REQUESTED_OPTIONS = 55
export const OPTION_MESSAGE = 56
export const OPTION_LONGEST_MESSAGE = 57
export const OPTION_T1 = 58
export const OPTION_T2 = 59
export const OPTION_CLASS = 60
export const OPTION_CLIENT = 61
export const OPTION_BOOT_SERVER = 66
export const OPTION_BOOT_FILE = 67
export const OPTION_USER_CLASS = 77
export const OPTION_RAPID_COMMIT = 80
export const OPTION_FQDN = 81
export const OPTION_RELAY = 82
export const OPTION_ARCHITECTURE = 93
export const OPTION_MACHINE = 97
export const OPTION_SEARCH = 119
export const OPTION_ROUTES = 121
export const OPTION_ROUTES_MICROSOFT = 249

const LONGEST_VALUE = 1024

type OptionType =
  | 'ip'
  | 'ips'
  | 'u8'
  | 'u16'
  | 'u32'
  | 'i32'
  | 'flag'
  | 'text'
  | 'domain'
  | 'domains'
  | 'routes'
  | 'hex'
  | 'own'

const TABLE: readonly [code: number, name: string, type: OptionType][] = [
  [1, 'subnet-mask', 'own'],
  [2, 'time-offset', 'i32'],
  [3, 'router', 'ips'],
  [4, 'time-servers', 'ips'],
  [6, 'dns-servers', 'ips'],
  [7, 'log-servers', 'ips'],
  [9, 'lpr-servers', 'ips'],
  [12, 'host-name', 'own'],
  [13, 'boot-file-size', 'u16'],
  [15, 'domain-name', 'domain'],
  [16, 'swap-server', 'ip'],
  [17, 'root-path', 'text'],
  [18, 'extensions-path', 'text'],
  [19, 'ip-forwarding', 'flag'],
  [22, 'max-datagram-reassembly', 'u16'],
  [23, 'default-ttl', 'u8'],
  [26, 'interface-mtu', 'u16'],
  [28, 'broadcast-address', 'ip'],
  [31, 'router-discovery', 'flag'],
  [33, 'static-routes', 'ips'],
  [35, 'arp-cache-timeout', 'u32'],
  [37, 'tcp-ttl', 'u8'],
  [38, 'tcp-keepalive', 'u32'],
  [40, 'nis-domain', 'text'],
  [41, 'nis-servers', 'ips'],
  [42, 'ntp-servers', 'ips'],
  [43, 'vendor-information', 'hex'],
  [44, 'netbios-name-servers', 'ips'],
  [45, 'netbios-datagram-servers', 'ips'],
  [46, 'netbios-node-type', 'u8'],
  [47, 'netbios-scope', 'text'],
  [48, 'x-font-servers', 'ips'],
  [50, 'requested-address', 'own'],
  [51, 'lease-time', 'own'],
  [52, 'overload', 'own'],
  [53, 'message-type', 'own'],
  [54, 'server-identifier', 'own'],
  [55, 'parameter-request-list', 'own'],
  [56, 'message', 'own'],
  [57, 'maximum-message-size', 'own'],
  [58, 'renewal-time', 'own'],
  [59, 'rebinding-time', 'own'],
  [60, 'vendor-class', 'text'],
  [61, 'client-identifier', 'own'],
  [64, 'nis-plus-domain', 'text'],
  [65, 'nis-plus-servers', 'ips'],
  [66, 'tftp-server-name', 'text'],
  [67, 'boot-file-name', 'text'],
  [69, 'smtp-servers', 'ips'],
  [70, 'pop3-servers', 'ips'],
  [80, 'rapid-commit', 'own'],
  [81, 'client-fqdn', 'own'],
  [82, 'relay-agent-information', 'own'],
  [93, 'client-architecture', 'own'], // RFC 4578
  [94, 'client-network-interface', 'own'],
  [97, 'client-machine-identifier', 'own'],
  [100, 'posix-timezone', 'text'], // RFC 4833
  [101, 'tzdb-timezone', 'text'],
  [108, 'ipv6-only-preferred', 'u32'], // RFC 8925
  [114, 'captive-portal', 'text'], // RFC 8910
  [116, 'auto-configuration', 'u8'], // RFC 2563
  [119, 'domain-search', 'domains'], // RFC 3397
  [120, 'sip-servers', 'hex'], // RFC 3361
  [121, 'classless-static-routes', 'routes'], // RFC 3442
  [125, 'vendor-identifying-information', 'hex'], // RFC 3925
  [128, 'tftp-server-address', 'ips'],
  [138, 'capwap-controllers', 'ips'], // RFC 5417
  [150, 'tftp-servers', 'ips'], // RFC 5859
  [208, 'pxelinux-magic', 'hex'], // RFC 5071
  [209, 'pxelinux-configuration', 'text'],
  [210, 'pxelinux-path-prefix', 'text'],
  [211, 'pxelinux-reboot-time', 'u32'],
  [249, 'microsoft-routes', 'routes'],
  [252, 'wpad', 'text'],
]

const byName = new Map(TABLE.map(([code, name]) => [name, code]))
const types = new Map(TABLE.map(([code, , type]) => [code, type]))

/** A route of options 121 and 249. */
export interface OptionRoute {
  destination: Prefix
  via: Ip
}

/** The number of an option that a user names by number or name; null: there is none, or it cannot be set. */
export function optionCode(key: string): number | null {
  const code = byName.get(key) ?? (/^[1-9]\d{0,2}$/.test(key) ? Number(key) : 0)
  return code < 1 || code > 254 || types.get(code) === 'own' ? null : code
}

/** The bytes of an option as a user wrote it. Throws Error with the reason. */
export function encodeOption(code: number, text: string): Uint8Array {
  const bytes = text.startsWith('hex:') ? encodeHex(text.slice(4)) : encode(typeOf(code, text), text)
  if (bytes === null) throw new Error(`option ${code}: ${JSON.stringify(text)} is not of type ${typeOf(code, text)}`)
  if (bytes.length > LONGEST_VALUE) throw new Error(`option ${code}: ${bytes.length} bytes, at most ${LONGEST_VALUE}`)
  return bytes
}

function typeOf(code: number, text: string): OptionType {
  return types.get(code) ?? (encodeIps(text) === null ? 'text' : 'ips')
}

function encode(type: OptionType, text: string): Uint8Array | null {
  switch (type) {
    case 'ip':
      return text.includes(',') ? null : encodeIps(text)
    case 'ips':
      return encodeIps(text)
    case 'u8':
      return encodeNumber(text, 1, 0, 0xff)
    case 'u16':
      return encodeNumber(text, 2, 0, 0xffff)
    case 'u32':
      return encodeNumber(text, 4, 0, 0xffffffff)
    case 'i32':
      return encodeNumber(text, 4, -0x80000000, 0x7fffffff)
    case 'flag':
      return text === 'true' || text === 'false' ? Uint8Array.of(text === 'true' ? 1 : 0) : null
    case 'text':
      return text === '' ? null : new TextEncoder().encode(text)
    case 'domain':
      return writeDomain(text) === null ? null : new TextEncoder().encode(text)
    case 'domains':
      return joined(listOf(text).map(writeDomain))
    case 'routes':
      return encodeRouteText(text)
    case 'hex':
      return encodeHex(text)
    case 'own':
      return null
  }
}

function listOf(text: string): string[] {
  return text.split(',').map((one) => one.trim())
}

function joined(parts: (Uint8Array | null)[]): Uint8Array | null {
  return parts.includes(null) ? null : Uint8Array.from(parts.flatMap((part) => [...part!]))
}

function encodeIps(text: string): Uint8Array | null {
  const ips = listOf(text).map(parseIp)
  return ips.some((ip) => ip === null || ip.length !== 1) ? null : ipList(ips as Ip[])
}

function encodeNumber(text: string, bytes: number, least: number, most: number): Uint8Array | null {
  const value = Number(text)
  if (!/^-?\d+$/.test(text) || value < least || value > most) return null
  return uint32(value >>> 0).slice(4 - bytes)
}

function encodeHex(text: string): Uint8Array | null {
  const digits = text.replaceAll(':', '')
  return /^([\da-f]{2})+$/i.test(digits) ? Uint8Array.from(Buffer.from(digits, 'hex')) : null
}

function encodeRouteText(text: string): Uint8Array | null {
  const routes: OptionRoute[] = []
  for (const one of listOf(text)) {
    const [destination, via, ...rest] = one.split(/\s+/)
    const prefix = parseNetwork(destination)
    const ip = parseIp(via ?? '')
    if (prefix === null || ip === null || prefix.ip.length !== 1 || ip.length !== 1 || rest.length > 0) return null
    routes.push({ destination: prefix, via: ip })
  }
  return encodeRoutes(routes)
}

// ---- values ----

export function uint16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value)
}

export function uint32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value)
}

export function ipList(ips: readonly Ip[]): Uint8Array {
  return Uint8Array.from(ips.flatMap((ip) => [...ipBytes(ip)]))
}

/** RFC 3442: length of the prefix, as many bytes of it as it needs, the next hop. */
export function encodeRoutes(routes: readonly OptionRoute[]): Uint8Array {
  return Uint8Array.from(
    routes.flatMap(({ destination: { ip, prefix }, via }) => [
      prefix,
      ...ipBytes(ip).subarray(0, (prefix + 7) >> 3),
      ...ipBytes(via),
    ]),
  )
}

/** The routes of option 121; null if it is malformed. Bits behind a prefix are taken as 0. */
export function decodeRoutes(bytes: Uint8Array): OptionRoute[] | null {
  const routes: OptionRoute[] = []
  for (let at = 0; at < bytes.length; ) {
    const prefix = bytes[at++]
    const count = (prefix + 7) >> 3
    if (prefix > 32 || at + count + 4 > bytes.length) return null
    const network = new Uint8Array(4)
    network.set(bytes.subarray(at, at + count))
    const destination = { ip: maskIp(ipFromBytes(network), prefix), prefix }
    routes.push({ destination, via: ipFromBytes(bytes, at + count, 4) })
    at += count + 4
  }
  return routes
}

/** The address that an option holds; null if its length is wrong or it is 0.0.0.0. */
export function decodeIp(bytes: Uint8Array | undefined): Ip | null {
  const ips = decodeIps(bytes)
  return ips.length === 1 && bytes?.length === 4 ? ips[0] : null
}

/** The addresses that an option holds, without 0.0.0.0; empty if its length is wrong. */
export function decodeIps(bytes: Uint8Array | undefined): Ip[] {
  if (bytes === undefined || bytes.length % 4 !== 0) return []
  const ips: Ip[] = []
  for (let at = 0; at < bytes.length; at += 4) ips.push(ipFromBytes(bytes, at, 4))
  return ips.filter((ip) => formatIp(ip) !== '0.0.0.0')
}

/** A number of 1, 2 or 4 bytes; null if the option is not there or its length is wrong. */
export function decodeNumber(bytes: Uint8Array | undefined, length: 1 | 2 | 4): number | null {
  if (bytes?.length !== length) return null
  return bytes.reduce((value, byte) => value * 256 + byte, 0)
}

/** Printable ASCII up to the first 0; null if there is something else in it or nothing. */
export function decodeText(bytes: Uint8Array | undefined): string | null {
  if (bytes === undefined) return null
  const text = String.fromCharCode(...bytes.subarray(0, 1024)).replace(/\0[^]*$/, '')
  return /^[\x20-\x7e]+$/.test(text) ? text : null
}

/** The name in option 81 (RFC 4702 section 2): in wire form with flag E, else text; null if there is none. */
export function decodeFqdn(bytes: Uint8Array | undefined): { flags: number; name: string } | null {
  if (bytes === undefined || bytes.length < 4) return null
  const flags = bytes[0]
  const rest = bytes.subarray(3)
  const name = (flags & FQDN_ENCODED) === 0 ? decodeText(rest) : (readDomain(rest)?.name ?? '')
  return name === null || name === '' ? null : { flags, name }
}

// Flags of option 81.
export const FQDN_SERVER = 1
export const FQDN_OVERRIDDEN = 2
export const FQDN_ENCODED = 4
export const FQDN_NONE = 8

/**
 * The sub-options of option 82 by number; null if it is malformed (RFC 3046 section 2.0). Repeated ones: the first
 * counts.
 */
export function decodeRelay(bytes: Uint8Array): Map<number, Uint8Array> | null {
  const found = new Map<number, Uint8Array>()
  for (let at = 0; at < bytes.length; ) {
    if (at + 2 > bytes.length || at + 2 + bytes[at + 1] > bytes.length) return null
    const end = at + 2 + bytes[at + 1]
    if (!found.has(bytes[at])) found.set(bytes[at], bytes.slice(at + 2, end))
    at = end
  }
  return found
}
