/**
 * IPv4 and IPv6 addresses and prefixes: text, bytes of a packet, and the int32 words that the tables hold.
 *
 * An `Ip` is an array of int32 words as they stand in the packet, most significant first: one is an IPv4 address, four
 * are an IPv6 address. The number of words is the family; nothing here mixes families: an IPv4 address is never
 * contained in, or equal to, anything of IPv6, `::ffff:0:0/96` included.
 *
 * Text is read strictly, as `node:net`'s isIP does: four decimal numbers without leading zeros, or RFC 4291 section 2.2
 * (with an IPv4 tail, too). Refused: `10.1`, octal and hexadecimal numbers, blanks, and zone identifiers
 * (`fe80::1%eth0`), which have no meaning in a network of Weft's. Text is written in the one canonical form: RFC 5952,
 * lower case, the longest run of zeros as `::`, and an IPv4 tail in `::ffff:0:0/96` alone.
 *
 * A prefix is an address and a length. `parsePrefix` keeps the bits behind the length (an interface's `10.0.0.1/24`),
 * `parseNetwork` refuses them (`10.0.0.0/24` or nothing).
 *
 * All functions are pure, and return a fresh array where they return an address.
 */
import type { CompiledPrefix, Ip } from '../dataplane/router/router-table.js'

export type { Ip } from '../dataplane/router/router-table.js'
export type Prefix = CompiledPrefix

// ---- text ----

/** An address from its text; null if it is none. */
export function parseIp(text: string): Ip | null {
  return text.includes(':') ? parseIp6(text) : parseIp4(text)
}

function parseIp4(text: string): Ip | null {
  const parts = text.split('.')
  if (parts.length !== 4) return null
  let word = 0
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return null
    word = (word << 8) | Number(part)
  }
  return [word]
}

function parseIp6(text: string): Ip | null {
  const halves = text.split('::')
  if (halves.length > 2) return null
  const first = groupsOf(halves[0], halves.length === 1)
  const last = halves.length === 2 ? groupsOf(halves[1], true) : []
  if (first === null || last === null) return null
  const missing = 8 - first.length - last.length
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null
  const groups = [...first, ...new Array<number>(missing).fill(0), ...last]
  return [0, 2, 4, 6].map((i) => (groups[i] << 16) | groups[i + 1])
}

/** The 16-bit groups of one side of `::`; null if it is malformed. An IPv4 tail can stand at the very end alone. */
function groupsOf(text: string, isEnd: boolean): number[] | null {
  if (text === '') return []
  const parts = text.split(':')
  const groups: number[] = []
  for (const [i, part] of parts.entries()) {
    if (/^[\da-f]{1,4}$/i.test(part)) {
      groups.push(Number.parseInt(part, 16))
      continue
    }
    const tail = isEnd && i === parts.length - 1 ? parseIp4(part) : null
    if (tail === null) return null
    groups.push(tail[0] >>> 16, tail[0] & 0xffff)
  }
  return groups
}

/** The canonical text of an address. */
export function formatIp(ip: Ip): string {
  if (ip.length === 1) return formatIp4(ip[0])
  if (ip[0] === 0 && ip[1] === 0 && ip[2] === 0xffff) return `::ffff:${formatIp4(ip[3])}`
  const groups = ip.flatMap((word) => [word >>> 16, word & 0xffff])
  let start = 0
  let length = 1 // a single zero stays as it is
  for (let i = 0; i < 8; i++) {
    let end = i
    while (end < 8 && groups[end] === 0) end++
    if (end - i > length) {
      start = i
      length = end - i
    }
  }
  const text = (of: number[]): string => of.map((group) => group.toString(16)).join(':')
  return length === 1 ? text(groups) : `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`
}

function formatIp4(word: number): string {
  return `${word >>> 24}.${(word >>> 16) & 255}.${(word >>> 8) & 255}.${word & 255}`
}

/** `10.0.0.1/24`, `fe80::1/64`: the length is needed, bits behind it are kept. Null if it is no prefix. */
export function parsePrefix(text: string): Prefix | null {
  const slash = text.indexOf('/')
  if (slash < 0) return null
  const ip = parseIp(text.slice(0, slash))
  const digits = text.slice(slash + 1)
  if (ip === null || !/^(0|[1-9]\d{0,2})$/.test(digits) || Number(digits) > bitsOf(ip)) return null
  return { ip, prefix: Number(digits) }
}

/** As `parsePrefix`, but the bits behind the length must be 0. */
export function parseNetwork(text: string): Prefix | null {
  const prefix = parsePrefix(text)
  return prefix !== null && compareIp(prefix.ip, maskIp(prefix.ip, prefix.prefix)) === 0 ? prefix : null
}

/** A prefix whose bits behind the length are 0, or an address, which is a prefix of its full length. */
export function parseNetworkOrIp(text: string): Prefix | null {
  const ip = parseIp(text)
  return ip === null ? parseNetwork(text) : { ip, prefix: bitsOf(ip) }
}

export function formatPrefix({ ip, prefix }: Prefix): string {
  return `${formatIp(ip)}/${prefix}`
}

// ---- bytes ----

/** 4 or 16 bytes, as they stand in a packet. */
export function ipBytes(ip: Ip): Uint8Array {
  return Uint8Array.from(ip.flatMap((word) => [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]))
}

/**
 * The address that stands at `at`.
 * @param length 4 or 16; all the bytes from `at` on unless told. Anything else, or fewer bytes than that, throws a
 *   RangeError: the caller checks lengths before.
 */
export function ipFromBytes(bytes: Uint8Array, at = 0, length = bytes.length - at): Ip {
  if ((length !== 4 && length !== 16) || at < 0 || at + length > bytes.length)
    throw new RangeError(`${length} bytes at ${at} of ${bytes.length} are no IP address`)
  const ip: Ip = []
  for (let i = at; i < at + length; i += 4)
    ip.push((bytes[i] << 24) | (bytes[i + 1] << 16) | (bytes[i + 2] << 8) | bytes[i + 3])
  return ip
}

// ---- arithmetic ----

export function familyOf(ip: Ip): 4 | 6 {
  return ip.length === 1 ? 4 : 6
}

/** Bits of an address of this family: the longest prefix. */
export function bitsOf(ip: Ip): 32 | 128 {
  return ip.length === 1 ? 32 : 128
}

/** The netmask of a prefix length, as an address. */
export function maskOf(family: 4 | 6, prefix: number): Ip {
  return (family === 4 ? [0] : [0, 32, 64, 96]).map((before) => {
    const ones = Math.min(Math.max(prefix - before, 0), 32)
    return ones === 0 ? 0 : -1 << (32 - ones)
  })
}

/** The address with all bits behind the prefix 0. */
export function maskIp(ip: Ip, prefix: number): Ip {
  const mask = maskOf(familyOf(ip), prefix)
  return ip.map((word, i) => word & mask[i])
}

/** The network's own prefix: bits behind the length are 0. */
export function networkOf({ ip, prefix }: Prefix): Prefix {
  return { ip: maskIp(ip, prefix), prefix }
}

/** The last address of a prefix: with IPv4 up to /30 the directed broadcast. */
export function lastOf({ ip, prefix }: Prefix): Ip {
  const mask = maskOf(familyOf(ip), prefix)
  return ip.map((word, i) => word | ~mask[i])
}

export function contains({ ip, prefix }: Prefix, other: Ip): boolean {
  if (ip.length !== other.length) return false
  const mask = maskOf(familyOf(ip), prefix)
  return ip.every((word, i) => ((word ^ other[i]) & mask[i]) === 0)
}

/** Whether two prefixes have an address in common: one contains the other. */
export function overlaps(a: Prefix, b: Prefix): boolean {
  return a.prefix < b.prefix ? contains(a, b.ip) : contains(b, a.ip)
}

/** Negative, 0 or positive, as numbers compare; every IPv4 address stands before every IPv6 address. */
export function compareIp(a: Ip, b: Ip): number {
  if (a.length !== b.length) return a.length - b.length
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return (a[i] >>> 0) - (b[i] >>> 0)
  return 0
}

export function isSameIp(a: Ip, b: Ip): boolean {
  return compareIp(a, b) === 0
}

/**
 * The address `n` further (`n` may be negative).
 * @param n a safe integer. Beyond the last address it goes on at the first: who walks a range compares with its end.
 */
export function addToIp(ip: Ip, n: number): Ip {
  const sum = ip.slice()
  let carry = n
  for (let i = ip.length - 1; i >= 0 && carry !== 0; i--) {
    const low = carry - Math.floor(carry / 2 ** 32) * 2 ** 32 // 0 to 2^32 - 1
    const word = (ip[i] >>> 0) + low
    sum[i] = word | 0
    carry = Math.floor(carry / 2 ** 32) + (word >= 2 ** 32 ? 1 : 0)
  }
  return sum
}

/** How many steps from `from` to `to`, of one family; exact up to 2^53, NaN for two families. */
export function stepsBetween(from: Ip, to: Ip): number {
  if (from.length !== to.length) return Number.NaN
  return from.reduce((steps, word, i) => steps * 2 ** 32 + ((to[i] >>> 0) - (word >>> 0)), 0)
}

// ---- what an address is ----

const within =
  (...texts: string[]) =>
  (ip: Ip): boolean =>
    texts.some((text) => contains(parsePrefix(text)!, ip))

export const isUnspecified = within('0.0.0.0/32', '::/128')
export const isLoopback = within('127.0.0.0/8', '::1/128')
export const isLinkLocal = within('169.254.0.0/16', 'fe80::/10')
export const isMulticast = within('224.0.0.0/4', 'ff00::/8')
/** RFC 1918 and unique local addresses (RFC 4193). */
export const isPrivate = within('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7')
/** RFC 6598: between a provider's customers and its own NAT. */
export const isShared = within('100.64.0.0/10')
/** The limited broadcast, of IPv4 alone. */
export const isBroadcast = within('255.255.255.255/32')
/** `::ffff:0:0/96`: an IPv4 address in IPv6 form, which must not be on any wire. */
export const isMapped = within('::ffff:0:0/96')
const isReserved = within('0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3', '::/128', '::1/128', 'ff00::/8', '::ffff:0:0/96')

/** Whether a host can have it on a network: no group, no loopback, nothing reserved. Link-local addresses can. */
export function isHostAddress(ip: Ip): boolean {
  return !isReserved(ip)
}

// ---- addresses made of others ----

/**
 * An address of the prefix with the modified EUI-64 identifier of a MAC (RFC 4291 appendix A).
 * @param prefix an IPv6 prefix of at most 64 bits
 * @param mac 6 bytes
 */
export function eui64(prefix: Prefix, mac: ArrayLike<number>): Ip {
  const [high, low] = maskIp(prefix.ip, Math.min(prefix.prefix, 64))
  return [
    high,
    low,
    ((mac[0] ^ 2) << 24) | (mac[1] << 16) | (mac[2] << 8) | 0xff,
    (0xfe << 24) | (mac[3] << 16) | (mac[4] << 8) | mac[5],
  ]
}

/** The link-local IPv6 address of a MAC. */
export function linkLocalOf(mac: ArrayLike<number>): Ip {
  return eui64({ ip: [0xfe800000 | 0, 0, 0, 0], prefix: 64 }, mac)
}

/** The solicited-node group of an IPv6 address (RFC 4291 section 2.7.1). */
export function solicitedNodeOf(ip: Ip): Ip {
  return [0xff020000 | 0, 0, 1, (0xff << 24) | (ip[3] & 0xffffff)]
}

/** The 6 bytes of the MAC that a group address is sent to (RFC 1112 section 6.4, RFC 2464 section 7). */
export function groupMac(ip: Ip): Uint8Array {
  const bytes = ipBytes(ip)
  return ip.length === 1
    ? Uint8Array.of(0x01, 0x00, 0x5e, bytes[1] & 0x7f, bytes[2], bytes[3])
    : Uint8Array.of(0x33, 0x33, ...bytes.slice(12))
}
