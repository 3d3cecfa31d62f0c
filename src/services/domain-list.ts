/**
 * Domain names in the wire form of RFC 1035 section 3.1, without compression, as DHCPv6 (RFC 8415 section 10) and
 * router advertisements (RFC 8106) carry them: labels with their lengths, a 0 at the end.
 *
 * Limits: a label of 63 octets, a name of 255. Written names have letters, digits, hyphens and underscores only; read
 * ones too, and are lower case. Refused when read: compression pointers, anything cut short, other characters.
 */

const LONGEST_LABEL = 63
const LONGEST_NAME = 255
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/

/** A name's wire form; null if it is no host's or domain's name. A dot at the end is allowed. */
export function writeDomain(name: string): Uint8Array | null {
  const labels = name.toLowerCase().replace(/\.$/, '').split('.')
  if (!labels.every((label) => LABEL.test(label))) return null
  const bytes: number[] = []
  for (const label of labels) bytes.push(label.length, ...Buffer.from(label, 'latin1'))
  bytes.push(0)
  return bytes.length <= LONGEST_NAME ? Uint8Array.from(bytes) : null
}

/** Names one behind the other; those that are no names are left out. */
export function writeDomains(names: readonly string[]): Uint8Array {
  return Uint8Array.from(names.flatMap((name) => [...(writeDomain(name) ?? [])]))
}

export interface ReadDomain {
  /** without final dot; empty: the root, or nothing */
  name: string
  /** a 0 stood at its end; else it is a part of a name (RFC 4704 section 4.2) */
  isComplete: boolean
}

/** The one name that `bytes` hold from first to last; null if it is malformed or something stands behind it. */
export function readDomain(bytes: Uint8Array): ReadDomain | null {
  if (bytes.length > LONGEST_NAME) return null
  const labels: string[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = bytes[at]
    if (length === 0) return at + 1 === bytes.length ? { name: labels.join('.'), isComplete: true } : null
    if (length > LONGEST_LABEL || at + 1 + length > bytes.length) return null
    const label = Buffer.from(bytes.subarray(at + 1, at + 1 + length))
      .toString('latin1')
      .toLowerCase()
    if (!LABEL.test(label)) return null
    labels.push(label)
    at += 1 + length
  }
  return { name: labels.join('.'), isComplete: false }
}
