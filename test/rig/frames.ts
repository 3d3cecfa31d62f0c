/**
 * Builders of raw Ethernet frames for tests, and what tests read from them.
 *
 * Every builder returns a new Uint8Array with correct lengths and checksums; who wants a broken frame breaks one.
 * Addresses are written as people write them ('02:00:00:00:00:01', '10.0.0.1').
 *
 * IEEE 802.3 and 802.1Q, RFC 826 (ARP), RFC 791 (IPv4), RFC 768 (UDP), RFC 792 (ICMP), RFC 1071 (checksum).
 */
export const broadcast = 'ff:ff:ff:ff:ff:ff'

/** An EtherType for local experiments (IEEE 802, clause 9.2.4): no kernel answers it. */
export const experiment = 0x88b5

export const macBytes = (text: string): number[] => text.split(':').map((part) => Number.parseInt(part, 16))
export const ipBytes = (address: string): number[] => address.split('.').map(Number)
const half = (value: number): number[] => [(value >> 8) & 0xff, value & 0xff]

/** A locally administered unicast MAC address made of a number below 2^32. */
export function mac(n: number): string {
  const bytes = [0x02, 0x77, n >>> 24, (n >>> 16) & 0xff, (n >>> 8) & 0xff, n & 0xff]
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':')
}

export function concat(...parts: (Uint8Array | readonly number[])[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** The internet checksum (RFC 1071) of the given bytes. */
export function checksum(bytes: Uint8Array): number {
  let sum = 0
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at] << 8) | (bytes[at + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

/** An Ethernet frame, padded to 60 bytes unless `padded` is false. */
export function ethernet(
  destination: string,
  source: string,
  type: number,
  payload: Uint8Array | readonly number[] = [],
  padded = true,
): Uint8Array {
  const frame = concat(macBytes(destination), macBytes(source), half(type), payload)
  if (!padded || frame.length >= 60) return frame
  return concat(frame, new Uint8Array(60 - frame.length))
}

/** A frame of the experimental EtherType that carries a text by which a test knows it again. */
export const marked = (destination: string, source: string, text: string): Uint8Array =>
  ethernet(destination, source, experiment, new TextEncoder().encode(text))

/** The frame with a VLAN tag put in front of its EtherType: apply twice for a double tag. */
export function tagged(frame: Uint8Array, vid: number, priority = 0, tpid = 0x8100): Uint8Array {
  return concat(frame.subarray(0, 12), half(tpid), half((priority << 13) | vid), frame.subarray(12))
}

export function arpRequest(source: string, sender: string, target: string): Uint8Array {
  const body = [0, 1, 8, 0, 6, 4, 0, 1, ...macBytes(source), ...ipBytes(sender), 0, 0, 0, 0, 0, 0, ...ipBytes(target)]
  return ethernet(broadcast, source, 0x0806, body)
}

/** An IPv4 packet (no Ethernet header). */
export function ipv4(source: string, destination: string, protocol: number, payload: Uint8Array): Uint8Array {
  const total = 20 + payload.length
  const header = [0x45, 0, ...half(total), 0, 1, 0, 0, 64, protocol, 0, 0, ...ipBytes(source), ...ipBytes(destination)]
  const sum = checksum(new Uint8Array(header))
  header[10] = sum >> 8
  header[11] = sum & 0xff
  return concat(header, payload)
}

/** A UDP datagram in IPv4 (no Ethernet header). */
export function udp(
  source: string,
  sourcePort: number,
  destination: string,
  destinationPort: number,
  payload: Uint8Array,
): Uint8Array {
  const length = 8 + payload.length
  const datagram = concat(half(sourcePort), half(destinationPort), half(length), [0, 0], payload)
  const pseudo = concat(ipBytes(source), ipBytes(destination), [0, 17], half(length), datagram)
  const sum = checksum(pseudo) || 0xffff
  datagram[6] = sum >> 8
  datagram[7] = sum & 0xff
  return ipv4(source, destination, 17, datagram)
}

/** An ICMP echo request in IPv4 (no Ethernet header). */
export function echoRequest(source: string, destination: string, id: number, sequence: number): Uint8Array {
  const message = concat([8, 0, 0, 0], half(id), half(sequence), new Uint8Array(32))
  const sum = checksum(message)
  message[2] = sum >> 8
  message[3] = sum & 0xff
  return ipv4(source, destination, 1, message)
}

const address = (frame: Uint8Array, at: number): string =>
  [...frame.subarray(at, at + 6)].map((byte) => byte.toString(16).padStart(2, '0')).join(':')

export const destinationOf = (frame: Uint8Array): string => address(frame, 0)
export const sourceOf = (frame: Uint8Array): string => address(frame, 6)
export const typeOf = (frame: Uint8Array): number => (frame[12] << 8) | frame[13]

/** The VID of the outer 802.1Q tag, or null when the frame is untagged. */
export const vidOf = (frame: Uint8Array): number | null =>
  typeOf(frame) === 0x8100 ? ((frame[14] & 0x0f) << 8) | frame[15] : null

/** True when the frame carries this text somewhere. */
export const carries = (frame: Uint8Array, text: string): boolean => Buffer.from(frame).includes(text)
