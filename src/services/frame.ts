/**
 * Ethernet frames with a UDP datagram in them, as services receive and send them: read with every length checked,
 * written with full checksums (a DHCP client drops an answer whose UDP checksum is left to the card).
 *
 * A received frame's checksums are not verified: it may come from a guest on this machine with its checksum unfinished.
 * What is read is a copy: whoever answers later, when the frame has gone back to its slot, still has it. What is
 * written is untagged, without IP options, never fragmented and marked so (IPv4: identification 0 with "don't
 * fragment", RFC 6864): the caller keeps below the MTU.
 *
 * Refused when read (null): anything cut short, tags, fragments, other protocols than UDP, lengths that contradict each
 * other, IPv6 without a checksum (RFC 8200 section 8.1). IPv6 extension headers are not read: such a datagram is
 * refused. Capacity: none; nothing is kept. Standards: RFC 791, RFC 768, RFC 1071, RFC 8200.
 */

export interface Endpoint {
  /** 6 bytes */
  mac: Uint8Array
  /** 4 or 16 bytes */
  ip: Uint8Array
  port: number
}

export interface Datagram {
  source: Endpoint
  destination: Endpoint
  payload: Uint8Array
}

export const PROTOCOL_UDP = 17
const PROTOCOL_ICMP = 1
const ETHERNET_BYTES = 14
const ETHERTYPE_IPV4 = 0x0800
const ETHERTYPE_IPV6 = 0x86dd
const IPV4_BYTES = 20
const IPV6_BYTES = 40
const UDP_BYTES = 8
/** MF and the fragment's offset; DF and the reserved bit do not matter. */
const FRAGMENT_BITS = 0x3fff
const DONT_FRAGMENT = 0x4000
const HOP_LIMIT = 64

/** The datagram in a frame, as a copy; null if there is none, or the frame is not sound. */
export function readDatagram(frame: Uint8Array): Datagram | null {
  if (frame.length < ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES) return null
  const type = word(frame, 12)
  if (type === ETHERTYPE_IPV4) return readIpv4(frame)
  if (type === ETHERTYPE_IPV6) return readIpv6(frame)
  return null
}

function readIpv4(frame: Uint8Array): Datagram | null {
  const at = ETHERNET_BYTES
  const headerBytes = (frame[at] & 15) << 2
  const total = word(frame, at + 2)
  if (frame[at] >> 4 !== 4 || headerBytes < IPV4_BYTES) return null
  if (total > frame.length - at || total < headerBytes + UDP_BYTES) return null
  if ((word(frame, at + 6) & FRAGMENT_BITS) !== 0 || frame[at + 9] !== PROTOCOL_UDP) return null
  return readUdp(frame, at + 12, 4, at + headerBytes, at + total)
}

function readIpv6(frame: Uint8Array): Datagram | null {
  const at = ETHERNET_BYTES
  if (frame.length < at + IPV6_BYTES + UDP_BYTES) return null
  const length = word(frame, at + 4)
  if (frame[at] >> 4 !== 6 || frame[at + 6] !== PROTOCOL_UDP) return null
  if (length > frame.length - at - IPV6_BYTES || length < UDP_BYTES) return null
  if (word(frame, at + IPV6_BYTES + 6) === 0) return null
  return readUdp(frame, at + 8, 16, at + IPV6_BYTES, at + IPV6_BYTES + length)
}

function readUdp(frame: Uint8Array, addresses: number, addressBytes: number, at: number, end: number): Datagram | null {
  const length = word(frame, at + 4)
  if (length < UDP_BYTES || length > end - at) return null
  const bytes = new Uint8Array(frame.subarray(0, at + length)) // a copy, also of a Buffer, whose slice is a view
  const part = (from: number, count: number): Uint8Array => bytes.subarray(from, from + count)
  return {
    source: { mac: part(6, 6), ip: part(addresses, addressBytes), port: word(bytes, at) },
    destination: { mac: part(0, 6), ip: part(addresses + addressBytes, addressBytes), port: word(bytes, at + 2) },
    payload: bytes.subarray(at + UDP_BYTES),
  }
}

/** The frame of a datagram. Throws RangeError if it cannot be one: too long, or addresses of different kinds. */
export function writeDatagram(datagram: Datagram): Uint8Array {
  const { source, destination, payload } = datagram
  const length = UDP_BYTES + payload.length
  if (length > 0xffff) throw new RangeError(`a UDP payload of ${payload.length} bytes`)
  const segment = new Uint8Array(length)
  setWord(segment, 0, source.port)
  setWord(segment, 2, destination.port)
  setWord(segment, 4, length)
  segment.set(payload, UDP_BYTES)
  return writeFrame(source, destination, PROTOCOL_UDP, HOP_LIMIT, segment, 6)
}

/**
 * The frame of any segment: a TCP segment, an ICMP or ICMPv6 message.
 * @param segment with its own header; copied
 * @param checksumAt where in it the checksum goes, which covers the pseudo-header too except with
 *   ICMP, and counts nothing that stands there; below 0: nowhere
 */
export function writeFrame(
  source: Omit<Endpoint, 'port'>,
  destination: Omit<Endpoint, 'port'>,
  protocol: number,
  hopLimit: number,
  segment: Uint8Array,
  checksumAt: number,
): Uint8Array {
  const is4 = source.ip.length === 4
  if (source.ip.length !== destination.ip.length || (!is4 && source.ip.length !== 16))
    throw new RangeError(`addresses of ${source.ip.length} and ${destination.ip.length} bytes`)
  const headerBytes = is4 ? IPV4_BYTES : IPV6_BYTES
  if (segment.length > 0xffff - (is4 ? IPV4_BYTES : 0)) throw new RangeError(`a segment of ${segment.length} bytes`)
  const frame = new Uint8Array(ETHERNET_BYTES + headerBytes + segment.length)
  const at = ETHERNET_BYTES
  frame.set(destination.mac, 0)
  frame.set(source.mac, 6)
  setWord(frame, 12, is4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6)
  if (is4) {
    frame[at] = 0x45
    setWord(frame, at + 2, IPV4_BYTES + segment.length)
    setWord(frame, at + 6, DONT_FRAGMENT)
    frame[at + 8] = hopLimit
    frame[at + 9] = protocol
    frame.set(source.ip, at + 12)
    frame.set(destination.ip, at + 16)
    setWord(frame, at + 10, checksum(frame, at, at + IPV4_BYTES, 0))
  } else {
    frame[at] = 0x60
    setWord(frame, at + 4, segment.length)
    frame[at + 6] = protocol
    frame[at + 7] = hopLimit
    frame.set(source.ip, at + 8)
    frame.set(destination.ip, at + 24)
  }
  const start = at + headerBytes
  frame.set(segment, start)
  if (checksumAt < 0) return frame
  setWord(frame, start + checksumAt, 0)
  const hasPseudo = protocol !== PROTOCOL_ICMP
  const pseudo = hasPseudo ? pseudoHeaderSum(source.ip, destination.ip, protocol, segment.length) : 0
  const sum = checksum(frame, start, frame.length, pseudo)
  // UDP: 0 says that there is none (RFC 768), so a sum of 0 is sent as its other form
  setWord(frame, start + checksumAt, sum === 0 && protocol === PROTOCOL_UDP ? 0xffff : sum)
  return frame
}

/** The Internet checksum (RFC 1071) of bytes `from` to `end` (excluded), on top of `sum`, complemented: 0 to 65535. */
export function checksum(bytes: Uint8Array, from: number, end: number, sum: number): number {
  let total = sum + addWords(bytes, from, end)
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000)
  return ~total & 0xffff
}

/** The sum of the pseudo-header's words, to go on with in `checksum`. */
export function pseudoHeaderSum(source: Uint8Array, destination: Uint8Array, protocol: number, length: number): number {
  return addWords(source, 0, source.length) + addWords(destination, 0, destination.length) + protocol + length
}

function addWords(bytes: Uint8Array, from: number, end: number): number {
  let total = 0
  let at = from
  for (; at + 1 < end; at += 2) total += (bytes[at] << 8) | bytes[at + 1]
  return at < end ? total + (bytes[at] << 8) : total
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1]
}

function setWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8
  bytes[at + 1] = value
}
