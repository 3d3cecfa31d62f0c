/**
 * Finds addresses in an upstream's answer that are not for the outside to give: with one, a page from outside could
 * have a guest's browser talk to a machine in here under the page's own name (DNS rebinding; dnsmasq's
 * --stop-dns-rebind).
 *
 * Looked at are A and AAAA records and the address hints of SVCB and HTTPS (RFC 9460 section 14.3.2), in the answer and
 * the additional section. Counted as private: 0/8, 10/8, 127/8, 169.254/16, 172.16/12, 192.168/16, ::, ::1, fc00::/7,
 * fe80::/10, fec0::/10, and the IPv4 ones mapped (::ffff:0:0/96) or translated (64:ff9b::/96) into IPv6.
 */
import {
  CLASS_IN,
  type MessageScan,
  RECORD_CLASS,
  RECORD_DATA,
  RECORD_LENGTH,
  RECORD_TYPE,
  TYPE_A,
  TYPE_AAAA,
  TYPE_HTTPS,
  TYPE_SVCB,
  word,
} from './dns-codec.js'
import { NameReader } from './dns-name.js'

const HINT_IPV4 = 4
const HINT_IPV6 = 6

export function isPrivateIpv4(bytes: Uint8Array, at: number): boolean {
  const first = bytes[at]
  const second = bytes[at + 1]
  if (first === 0 || first === 10 || first === 127) return true
  if (first === 169) return second === 254
  if (first === 172) return (second & 0xf0) === 16
  return first === 192 && second === 168
}

export function isPrivateIpv6(bytes: Uint8Array, at: number): boolean {
  const first = word(bytes, at)
  if ((first & 0xfe00) === 0xfc00 || (first & 0xff80) === 0xfe80) return true
  if (first === 0x64 && word(bytes, at + 2) === 0xff9b && areZero(bytes, at + 4, at + 12))
    return isPrivateIpv4(bytes, at + 12)
  if (!areZero(bytes, at, at + 10)) return false
  const sixth = word(bytes, at + 10)
  if (sixth === 0xffff) return isPrivateIpv4(bytes, at + 12)
  return sixth === 0 && areZero(bytes, at + 12, at + 15) && bytes[at + 15] <= 1
}

function areZero(bytes: Uint8Array, at: number, end: number): boolean {
  while (at < end && bytes[at] === 0) at++
  return at === end
}

const reader = new NameReader()

/** Whether the hints of a service binding have a private address. Unsound parameters are passed over. */
function hasPrivateHint(message: Uint8Array, data: number, end: number): boolean {
  let at = reader.read(message, data + 2, end)
  while (at >= 0 && at + 4 <= end) {
    const key = word(message, at)
    const last = Math.min(at + 4 + word(message, at + 2), end)
    at += 4
    if (key === HINT_IPV4) for (; at + 4 <= last; at += 4) if (isPrivateIpv4(message, at)) return true
    if (key === HINT_IPV6) for (; at + 16 <= last; at += 16) if (isPrivateIpv6(message, at)) return true
    at = last
  }
  return false
}

/** Whether a message, which `scan` has found sound, has an address that only we may give. */
export function hasPrivateAddress(message: Uint8Array, scan: MessageScan): boolean {
  for (let i = 0; i < scan.count; i++) {
    if (scan.word(i, RECORD_CLASS) !== CLASS_IN) continue
    const type = scan.word(i, RECORD_TYPE)
    const data = scan.word(i, RECORD_DATA)
    if (type === TYPE_A && isPrivateIpv4(message, data)) return true
    if (type === TYPE_AAAA && isPrivateIpv6(message, data)) return true
    if (type !== TYPE_SVCB && type !== TYPE_HTTPS) continue
    if (hasPrivateHint(message, data, data + scan.word(i, RECORD_LENGTH))) return true
  }
  return false
}
