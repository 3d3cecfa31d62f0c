/**
 * MAC addresses between text and the two words by which the FDB knows them: octets 3 to 6 and octets 1 and 2, each as a
 * little-endian processor loads them from a frame.
 */

import { createHash } from 'node:crypto'

export interface MacWords {
  low: number
  high: number
}

/** @param text six octets in hexadecimal, colons between: checked by whoever took it from the user */
export function macWords(text: string): MacWords {
  const octets = text.split(':').map((octet) => Number.parseInt(octet, 16))
  return {
    low: octets[2] | (octets[3] << 8) | (octets[4] << 16) | (octets[5] << 24),
    high: octets[0] | (octets[1] << 8),
  }
}

/** The six octets of an address. */
export function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':'), (octet) => Number.parseInt(octet, 16))
}

export function macText(low: number, high: number): string {
  const octets = [high, high >> 8, low, low >> 8, low >> 16, low >> 24]
  return octets.map((octet) => (octet & 255).toString(16).padStart(2, '0')).join(':')
}

/** A locally administered address for the host behind a port, the same each time. */
export function stableMac(uuid: string, port: string): string {
  const digest = createHash('sha256').update(`${uuid}/${port}`).digest()
  return `52:${[...digest.subarray(0, 5)].map((byte) => byte.toString(16).padStart(2, '0')).join(':')}`
}
