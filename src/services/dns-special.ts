/**
 * Names with a meaning of their own, which are answered here and never asked for outside, and the names of addresses.
 *
 * - RFC 6761: `localhost` is this machine, whichever machine asks; `invalid` and `test` do not exist. RFC 7686: nor
 *   does `onion`. RFC 6762: `local` is multicast DNS's. RFC 8375: `home.arpa` is the site's own. RFC 9476: `alt` is no
 *   DNS. RFC 9462: `resolver.arpa` tells of the resolver alone.
 * - RFC 6303, 7793: the reverse domains of private, shared, loopback, link-local and documentation addresses.
 *
 * A domain given upstreams of its own goes before these, and so does the network's own.
 */
import type { Ip, Prefix } from './address.js'

export const EMPTY_DOMAINS: readonly string[] = [
  'invalid',
  'test',
  'onion',
  'local',
  'home.arpa',
  'alt',
  'resolver.arpa',
  ...['0', '127', '254.169', '2.0.192', '100.51.198', '113.0.203', '255.255.255.255', '10', '168.192'].map(
    (digits) => `${digits}.in-addr.arpa`,
  ),
  ...Array.from({ length: 16 }, (_, i) => `${16 + i}.172.in-addr.arpa`),
  ...Array.from({ length: 64 }, (_, i) => `${64 + i}.100.in-addr.arpa`),
  `${'0.'.repeat(32)}ip6.arpa`,
  `1.${'0.'.repeat(31)}ip6.arpa`,
  ...['d.f', '8.e.f', '9.e.f', 'a.e.f', 'b.e.f', '8.b.d.0.1.0.0.2'].map((digits) => `${digits}.ip6.arpa`),
]

/** The digits of an address as its reverse name has them, first to last: 4 numbers, or 32 hexadecimal digits. */
function digitsOf(ip: Ip): string[] {
  const digits: string[] = []
  const [bits, radix] = ip.length === 1 ? [8, 10] : [4, 16]
  for (const part of ip)
    for (let shift = 32 - bits; shift >= 0; shift -= bits)
      digits.push(((part >>> shift) & ((1 << bits) - 1)).toString(radix))
  return digits
}

function joined(digits: readonly string[], isIpv4: boolean): string {
  return [...[...digits].reverse(), isIpv4 ? 'in-addr' : 'ip6', 'arpa'].join('.')
}

/** `1.0.0.10.in-addr.arpa` of 10.0.0.1 (RFC 1035 section 3.5, RFC 3596 section 2.5). */
export function reverseName(ip: Ip): string {
  return joined(digitsOf(ip), ip.length === 1)
}

/** The reverse domains that make up a prefix: one if it ends between two digits, else up to 128 or 8. */
export function reverseDomains({ ip, prefix }: Prefix): string[] {
  const bits = ip.length === 1 ? 8 : 4
  const radix = ip.length === 1 ? 10 : 16
  const digits = digitsOf(ip)
  const whole = Math.floor(prefix / bits)
  const rest = prefix - whole * bits
  if (rest === 0) return [joined(digits.slice(0, whole), ip.length === 1)]
  const count = 1 << (bits - rest)
  const first = Number.parseInt(digits[whole], radix) & ~(count - 1)
  return Array.from({ length: count }, (_, i) =>
    joined([...digits.slice(0, whole), (first + i).toString(radix)], ip.length === 1),
  )
}
