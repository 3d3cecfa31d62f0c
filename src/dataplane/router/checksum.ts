/**
 * The Internet checksum (RFC 1071) on bytes of the arena, whole and by difference (RFC 1624).
 *
 * A sum is a number of 32 bits, read as unsigned, that 16-bit words were added to; `fold` brings its carries around and
 * makes 16 bits of it. 128 KiB can be summed before a sum runs over, which is more than any slot holds. Bytes are read
 * in network order, so a folded sum is written as it is. Reads need no alignment.
 *
 * By difference: when words of a packet change, `changed16` and `changed32` give what its sum grows by; the differences
 * of several words are added before they are used. `corrected` applies them to a checksum, which is a complement (RFC
 * 1624, equation 3: HC' = ~(~HC + ~m + m')), `advanced` to an unfinished one, which holds a plain sum. Equation 3 gives
 * what a full computation gives, 0 and 0xffff included; the one exception is a checksum that came as the other form of
 * zero, and stays valid.
 *
 * A word that starts at an odd distance from where the sum began counts with its bytes swapped: `swapped`.
 *
 * Not known here: UDP's 0, which says that there is no checksum (`rewrite.ts`).
 */
import type { Pool } from '../burst.js'

/** A sum made 16 bits wide, its carries brought around. */
export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16)
  return (once & 0xffff) + (once >>> 16)
}

/** The sum of a 32-bit word's halves. */
export function halves(word: number): number {
  return (word >>> 16) + (word & 0xffff)
}

/**
 * Adds the bytes from `start` to before `end` to a sum. An odd last byte counts as if a zero followed it.
 * @returns the sum, not folded
 */
export function sumRange(view: DataView, start: number, end: number, sum: number): number {
  let total = sum | 0
  let at = start
  for (; end - at >= 4; at += 4) {
    const word = view.getInt32(at)
    total = (total + (word >>> 16) + (word & 0xffff)) | 0
  }
  if (end - at >= 2) {
    total = (total + view.getUint16(at)) | 0
    at += 2
  }
  if (end > at) total = (total + (view.getUint8(at) << 8)) | 0
  return total
}

/** The checksum of a range and of what `sum` holds already: 16 bits, as they are written. */
export function checksum(view: DataView, start: number, end: number, sum: number): number {
  return ~fold(sumRange(view, start, end, sum)) & 0xffff
}

/** What a sum grows by when a 16-bit word changes. */
export function changed16(before: number, after: number): number {
  return (~before & 0xffff) + after
}

/** What a sum grows by when a 32-bit word changes. */
export function changed32(before: number, after: number): number {
  return halves(~before) + halves(after)
}

/** The bytes of a 16-bit word the other way around. */
export function swapped(word: number): number {
  return ((word & 0xff) << 8) | (word >>> 8)
}

/** A checksum after the words under it grew by `difference`. */
export function corrected(field: number, difference: number): number {
  return ~fold((~field & 0xffff) + difference) & 0xffff
}

/** An unfinished checksum, which is a plain sum, after its words grew by `difference`. */
export function advanced(field: number, difference: number): number {
  return fold(field + difference)
}

/** The sum of an IPv4 pseudo-header (RFC 9293 section 3.1). */
export function pseudoHeader4(source: number, destination: number, protocol: number, length: number): number {
  return halves(source) + halves(destination) + protocol + length
}

/**
 * The sum of an IPv6 pseudo-header (RFC 8200 section 8.1).
 * @param addresses byte where the source address stands, the destination behind it
 */
export function pseudoHeader6(view: DataView, addresses: number, protocol: number, length: number): number {
  return sumRange(view, addresses, addresses + 32, protocol + halves(length))
}

/**
 * The checksum of an ICMPv6 message from `l4` to before `end`, its pseudo-header included (RFC 4443 section 2.3).
 * @returns what to write into the field if that is 0; 0 over a message whose checksum is right
 */
export function icmp6Checksum(pool: Pool, l3: number, l4: number, end: number): number {
  const { view } = pool
  return checksum(view, l4, end, pseudoHeader6(view, l3 + 8, 58, end - l4))
}
