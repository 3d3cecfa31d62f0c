/**
 * Ethernet frames with an ICMPv6 message in them, whole: read with every length and the checksum checked, written with
 * the checksum in place; and the options of neighbor discovery messages.
 *
 * What is read is a copy, so that nothing in an answer can come from beyond what was checked.
 *
 * Refused when read (null): anything cut short, tags, another version or next header than ICMPv6 (so extension headers
 * and fragments too, as RFC 6980 asks for neighbor discovery), a wrong checksum, a group as the source. Kernels finish
 * the checksum of ICMPv6 themselves, so a guest's message never comes with it left to a card.
 *
 * Standards: RFC 4443 (ICMPv6), RFC 8200, RFC 4861 section 4.6 (options), RFC 2464 (Ethernet).
 */
import { type Ip, ipBytes, ipFromBytes, isMulticast } from './address.js'
import { checksum, pseudoHeaderSum, writeFrame } from './frame.js'

export const PROTOCOL_ICMP6 = 58
/** Neighbor discovery takes and sends nothing that a router has passed on. */
export const DISCOVERY_HOP_LIMIT = 255
const ETHERNET_BYTES = 14
const IPV6_BYTES = 40
const ICMP6_BYTES = 4
const ETHERTYPE_IPV6 = 0x86dd
const CHECKSUM_AT = 2

export interface Icmp6Message {
  /** 6 bytes each */
  sourceMac: Uint8Array
  destinationMac: Uint8Array
  source: Ip
  destination: Ip
  hopLimit: number
  /** from the type on, at least 4 bytes */
  bytes: Uint8Array
}

/** An option of neighbor discovery; `value` is what follows its type and length: 6 bytes, or 8 n + 6. */
export interface DiscoveryOption {
  type: number
  value: Uint8Array
}

/** The ICMPv6 message in a frame, as a copy; null if there is none, or it is not sound. */
export function readIcmp6(frame: Uint8Array): Icmp6Message | null {
  const start = ETHERNET_BYTES + IPV6_BYTES
  if (frame.length < start + ICMP6_BYTES) return null
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  if (view.getUint16(12) !== ETHERTYPE_IPV6 || frame[ETHERNET_BYTES] >> 4 !== 6) return null
  const length = view.getUint16(ETHERNET_BYTES + 4)
  if (frame[ETHERNET_BYTES + 6] !== PROTOCOL_ICMP6) return null
  if (length < ICMP6_BYTES || length > frame.length - start) return null
  const copy = new Uint8Array(frame.subarray(0, start + length))
  const source = copy.subarray(22, 38)
  const destination = copy.subarray(38, 54)
  const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_ICMP6, length)
  if (checksum(copy, start, copy.length, pseudo) !== 0) return null
  if (isMulticast(ipFromBytes(source))) return null
  return {
    sourceMac: copy.subarray(6, 12),
    destinationMac: copy.subarray(0, 6),
    source: ipFromBytes(source),
    destination: ipFromBytes(destination),
    hopLimit: copy[ETHERNET_BYTES + 7],
    bytes: copy.subarray(start),
  }
}

/** The frame of a message; whatever stands where its checksum goes is replaced. */
export function writeIcmp6(message: Icmp6Message): Uint8Array {
  const { sourceMac, destinationMac, source, destination, hopLimit, bytes } = message
  return writeFrame(
    { mac: sourceMac, ip: ipBytes(source) },
    { mac: destinationMac, ip: ipBytes(destination) },
    PROTOCOL_ICMP6,
    hopLimit,
    bytes,
    CHECKSUM_AT,
  )
}

/**
 * The options of a neighbor discovery message.
 * @param at where they begin: behind the message's fixed part
 * @returns null if one has length 0 or goes beyond the end: the whole message is invalid then (RFC 4861 section 4.6)
 */
export function readDiscoveryOptions(bytes: Uint8Array, at: number): DiscoveryOption[] | null {
  if (at > bytes.length) return null
  const options: DiscoveryOption[] = []
  for (let from = at; from < bytes.length; ) {
    if (bytes.length - from < 8) return null
    const length = bytes[from + 1] * 8
    if (length === 0 || length > bytes.length - from) return null
    options.push({ type: bytes[from], value: bytes.subarray(from + 2, from + length) })
    from += length
  }
  return options
}

/** The bytes of an option: its value is filled up with zeros to a multiple of 8 in all. */
export function writeDiscoveryOption({ type, value }: DiscoveryOption): Uint8Array {
  const units = Math.ceil((value.length + 2) / 8)
  if (units > 255) throw new RangeError(`an option of ${value.length} bytes`)
  const bytes = new Uint8Array(units * 8)
  bytes[0] = type
  bytes[1] = units
  bytes.set(value, 2)
  return bytes
}
