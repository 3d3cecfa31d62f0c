/**
 * TCP segments in Ethernet frames (RFC 9293 section 3.1): read with every length checked, written with full checksums.
 *
 * Refused when read (null): anything cut short, tags, fragments, other protocols, IPv6 extension headers, lengths that
 * contradict each other, a wrong checksum unless it is said to be unfinished, senders that cannot be answered (group
 * addresses, unspecified). Of the options only the MSS is read; malformed ones are passed over. Bytes behind the
 * packet's end, with which short frames are filled up, are left out.
 */
import { type Endpoint, checksum, pseudoHeaderSum, writeFrame } from './frame.js'

export const FLAG_FIN = 1
export const FLAG_SYN = 2
export const FLAG_RST = 4
export const FLAG_PSH = 8
export const FLAG_ACK = 16

export interface Segment {
  source: Endpoint
  destination: Endpoint
  /** int32, as all sequence numbers here */
  sequence: number
  acknowledgment: number
  flags: number
  window: number
  /** of the option; 0: none */
  mss: number
  payload: Uint8Array
}

const ETHERNET_BYTES = 14
const TCP_BYTES = 20
const PROTOCOL_TCP = 6
const HOP_LIMIT = 64

/** The segment in a frame. Addresses and payload are views of a copy of it. */
export function readSegment(frame: Uint8Array, isUnfinished: boolean): Segment | null {
  if (frame.length < ETHERNET_BYTES + 20 + TCP_BYTES) return null
  const bytes = new Uint8Array(frame)
  const view = new DataView(bytes.buffer)
  const type = view.getUint16(12)
  const ip = ETHERNET_BYTES
  let at = ip + 40
  let end = 0
  let addressBytes = 16
  if (type === 0x0800) {
    at = ip + ((bytes[ip] & 15) << 2)
    end = ip + view.getUint16(ip + 2)
    addressBytes = 4
    if (bytes[ip] >> 4 !== 4 || at < ip + 20 || (view.getUint16(ip + 6) & 0x3fff) !== 0) return null
    if (bytes[ip + 9] !== PROTOCOL_TCP || end > bytes.length || at > end) return null
    if (checksum(bytes, ip, at, 0) !== 0) return null
  } else if (type === 0x86dd) {
    end = ip + 40 + view.getUint16(ip + 4)
    if (bytes[ip] >> 4 !== 6 || bytes[ip + 6] !== PROTOCOL_TCP || end > bytes.length) return null
  } else return null
  if (at + TCP_BYTES > end) return null
  const data = at + ((bytes[at + 12] >> 4) << 2)
  if (data < at + TCP_BYTES || data > end) return null
  const addresses = addressBytes === 4 ? ip + 12 : ip + 8
  const source = bytes.subarray(addresses, addresses + addressBytes)
  const destination = bytes.subarray(addresses + addressBytes, addresses + 2 * addressBytes)
  const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_TCP, end - at)
  if (!isUnfinished && checksum(bytes, at, end, pseudo) !== 0) return null
  if ((bytes[6] & 1) !== 0 || !isHost(source)) return null
  return {
    source: { mac: bytes.subarray(6, 12), ip: source, port: view.getUint16(at) },
    destination: { mac: bytes.subarray(0, 6), ip: destination, port: view.getUint16(at + 2) },
    sequence: view.getInt32(at + 4),
    acknowledgment: view.getInt32(at + 8),
    flags: bytes[at + 13],
    window: view.getUint16(at + 14),
    mss: mssOf(bytes, at + TCP_BYTES, data),
    payload: bytes.subarray(data, end),
  }
}

function isHost(ip: Uint8Array): boolean {
  if (ip.length === 4) return ip[0] !== 0 && ip[0] !== 127 && ip[0] < 224
  return ip[0] !== 0xff && ip.some((byte, i) => byte !== 0 && (i < 15 || byte !== 1))
}

function mssOf(bytes: Uint8Array, at: number, end: number): number {
  while (at < end && bytes[at] !== 0) {
    if (bytes[at] === 1) at++
    else {
      const length = bytes[at + 1]
      if (at + 1 >= end || length < 2 || at + length > end) return 0
      if (bytes[at] === 2 && length === 4) return (bytes[at + 2] << 8) | bytes[at + 3]
      at += length
    }
  }
  return 0
}

/** The frame of a segment. The MSS option goes out if `mss` is not 0. */
export function writeSegment(segment: Segment): Uint8Array {
  const { source, destination, payload, mss } = segment
  const headerBytes = TCP_BYTES + (mss > 0 ? 4 : 0)
  const bytes = new Uint8Array(headerBytes + payload.length)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, source.port)
  view.setUint16(2, destination.port)
  view.setInt32(4, segment.sequence)
  view.setInt32(8, segment.acknowledgment)
  bytes[12] = (headerBytes >> 2) << 4
  bytes[13] = segment.flags
  view.setUint16(14, segment.window)
  if (mss > 0) {
    bytes[20] = 2
    bytes[21] = 4
    view.setUint16(22, mss)
  }
  bytes.set(payload, headerBytes)
  return writeFrame(source, destination, PROTOCOL_TCP, HOP_LIMIT, bytes, 16)
}
