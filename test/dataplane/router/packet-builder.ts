/**
 * IP packets for the tests of the router, built from a description with every length and checksum computed anew: the
 * oracle of whoever changes packets in place. What a change should give is built from the changed description.
 *
 * Also a pool to put them in, frames at the very end of their slots too, where a read outside them shows.
 *
 * RFC 791, 8200, 793, 768, 792, 4443; checksums by RFC 1071 over bytes, on purpose in another way than the router's.
 */
import { Pool } from '../../../src/dataplane/burst.js'
import {
  type Arena,
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  ETHERTYPE,
  type Geometry,
  HEADER_LENGTH,
  LENGTH,
  MAC_HIGH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  OFFSET,
  RECORD_SHIFT,
  SEGMENT_BYTES,
  SLOT_HEADROOM,
  SMALL_SLOT_BYTES,
  arenaBytes,
  formatArena,
  viewArena,
} from '../../../src/dataplane/layout.js'

const GEOMETRY: Geometry = {
  smallSlots: 16,
  largeSlots: 4,
  ports: 4,
  fdbCapacity: 256,
  neighborCapacity: 256,
  connectionCapacity: 256,
  mappingCapacity: 256,
  puntBytes: 4096,
  injectBytes: 4096,
}

/** xorshift32: a function that gives whole numbers below its argument. */
export function randomBelow(seed: number): (below: number) => number {
  let state = seed | 0 || 1
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

export interface Transport {
  protocol: number
  /** ports of TCP, UDP and their like; the identifier of an ICMP query */
  sourcePort?: number
  destinationPort?: number
  identifier?: number
  /** TCP */
  flags?: number
  sequence?: number
  acknowledgment?: number
  window?: number
  tcpOptions?: number[]
  /** UDP without a checksum */
  isBare?: boolean
  /** ICMP */
  type?: number
  code?: number
  /** of an ICMP error, behind its checksum */
  word?: number
  payload?: ArrayLike<number>
}

export interface Packet extends Transport {
  family: 4 | 6
  /** one word or four */
  source: number[]
  destination: number[]
  hopLimit?: number
  typeOfService?: number
  /** IPv4 */
  id?: number
  dontFragment?: boolean
  options?: number[]
  /** IPv6: type and bytes of each extension header, from its length on */
  extensions?: [type: number, rest: number[]][]
  /** IPv6 header of its own kind, IPv4 fields: bytes `from` to before `to` of the transport */
  fragment?: { id: number; from: number; to: number; more: boolean }
  /** the checksum holds the pseudo-header's sum */
  isUnfinished?: boolean
}

/** In place of an identification: whatever the router has chosen. `assertFrame` takes it from the frame. */
export const ANY_ID = -1

const half = (value: number): number[] => [(value >>> 8) & 255, value & 255]
const full = (value: number): number[] => [...half(value >>> 16), ...half(value & 0xffff)]

/** The 16-bit one's complement sum of bytes. */
export function sumOf(bytes: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i++) sum += i % 2 === 0 ? bytes[i] * 256 : bytes[i]
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000)
  return sum
}

const pseudoHeader = (packet: Packet, length: number): number[] => [
  ...packet.source.flatMap(full),
  ...packet.destination.flatMap(full),
  ...full(length),
  ...full(packet.protocol),
]

/** Header of a transport with its checksum 0, and the place of the checksum; -1: it has none of this kind. */
function transportHeader(packet: Packet): [header: number[], place: number] {
  const { protocol, sourcePort = 0, destinationPort = 0, payload = [] } = packet
  const ports = [...half(sourcePort), ...half(destinationPort)]
  if (protocol === 6) {
    const options = packet.tcpOptions ?? []
    const rest = [...full(packet.sequence ?? 1), ...full(packet.acknowledgment ?? 0)]
    const control = ((5 + options.length / 4) << 12) | (packet.flags ?? 16)
    return [[...ports, ...rest, ...half(control), ...half(packet.window ?? 512), 0, 0, 0, 0, ...options], 16]
  }
  if (protocol === 17 || protocol === 136) return [[...ports, ...half(8 + payload.length), 0, 0], 6]
  if (protocol === 33) return [[...ports, 3, 0, 0, 0, 0, 0, 0, 9], 6]
  if (protocol === 132) return [[...ports, 1, 2, 3, 4, 5, 6, 7, 8], -1]
  if (protocol === (packet.family === 4 ? 1 : 58)) {
    const word = packet.identifier === undefined ? full(packet.word ?? 0) : [...half(packet.identifier), 0, 3]
    return [[packet.type ?? 0, packet.code ?? 0, 0, 0, ...word], 2]
  }
  return [[], -1]
}

function transport(packet: Packet): number[] {
  const [header, place] = transportHeader(packet)
  const bytes = [...header, ...Array.from(packet.payload ?? [])]
  if (place < 0 || packet.isBare) return bytes
  const hasPseudo = packet.protocol !== 1
  const pseudo = hasPseudo ? pseudoHeader(packet, bytes.length) : []
  let field = 0xffff - sumOf([...pseudo, ...bytes])
  if (packet.isUnfinished) field = sumOf(pseudo)
  else if (field === 0 && (packet.protocol === 17 || packet.protocol === 136)) field = 0xffff
  bytes[place] = field >> 8
  bytes[place + 1] = field & 255
  return bytes
}

/** The bytes of a described packet, from the IP header on. */
export function build(packet: Packet): Uint8Array {
  const whole = transport(packet)
  const { fragment, hopLimit = 64, typeOfService = 0 } = packet
  const body = fragment ? whole.slice(fragment.from, fragment.to) : whole
  if (packet.family === 4) {
    const options = packet.options ?? []
    const id = fragment?.id ?? packet.id ?? 1
    const bits = fragment ? (fragment.more ? 0x2000 : 0) | (fragment.from / 8) : packet.dontFragment ? 0x4000 : 0
    const first = 0x40 | (5 + options.length / 4)
    const total = 20 + options.length + body.length
    const header = [first, typeOfService, ...half(total), ...half(id), ...half(bits), hopLimit, packet.protocol, 0, 0]
    header.push(...full(packet.source[0]), ...full(packet.destination[0]), ...options)
    header.splice(10, 2, ...half(0xffff - sumOf(header)))
    return Uint8Array.from([...header, ...body])
  }
  const chain: [number, number[]][] = [...(packet.extensions ?? [])]
  if (fragment) chain.push([44, [0, ...half(fragment.from | (fragment.more ? 1 : 0)), ...full(fragment.id)]])
  const types = [...chain.map(([type]) => type), packet.protocol]
  const extensions = chain.flatMap(([, rest], i) => [types[i + 1], ...rest])
  const length = extensions.length + body.length
  const header = [0x60, 0, 0, 0, ...half(length), types[0], hopLimit]
  const addresses = [...packet.source.flatMap(full), ...packet.destination.flatMap(full)]
  return Uint8Array.from([...header, ...addresses, ...extensions, ...body])
}

/** The first bytes of an extension header's rest: its length, and zeros for the remainder. */
export const extension = (bytes: number): number[] => [bytes / 8 - 1, ...Array.from({ length: bytes - 2 }, () => 0)]

export class Bench {
  readonly arena: Arena
  readonly pool: Pool

  constructor() {
    const buffer = new ArrayBuffer(arenaBytes(GEOMETRY))
    formatArena(buffer, GEOMETRY)
    this.arena = viewArena(buffer)
    this.pool = new Pool(this.arena)
    this.pool.reset()
  }

  /** Fills every slot with one byte. */
  fill(value: number): void {
    const { bytes, records } = this.pool
    const packet = this.pool.take(0)
    const first = records[(packet << RECORD_SHIFT) + OFFSET] - SLOT_HEADROOM - packet * SMALL_SLOT_BYTES
    this.pool.release(packet)
    bytes.fill(value, first)
  }

  /**
   * Puts an IP packet into a slot, behind an Ethernet header of its own.
   * @param options `atEnd`: the frame ends with its slot; `padding`: bytes behind the packet
   */
  put(ip: Uint8Array, options: { atEnd?: boolean; padding?: number; family?: number } = {}): number {
    const { bytes, records } = this.pool
    const length = 14 + ip.length + (options.padding ?? 0)
    const packet = this.pool.take(length)
    const record = packet << RECORD_SHIFT
    const slot = records[record + OFFSET] - SLOT_HEADROOM
    if (options.atEnd) records[record + OFFSET] = slot + SMALL_SLOT_BYTES - length
    const frame = records[record + OFFSET]
    bytes.fill(0xee, frame, frame + length)
    bytes.set(ip, frame + 14)
    records[record + ETHERTYPE] = (options.family ?? ip[0] >> 4) === 6 ? 0x86dd : 0x0800
    records[record + MAC_HIGH] = 0x0202
    return packet
  }

  /** Marks a packet's checksum as unfinished, and the frame for segmentation if `segment` is given. */
  leaveUnfinished(packet: number, l4: number, place: number, segment = 0, headerBytes = 0): void {
    const { records } = this.pool
    const record = packet << RECORD_SHIFT
    records[record + OFFLOAD] = OFFLOAD_CHECKSUM
    records[record + CHECKSUM_START] = l4 - records[record + OFFSET]
    records[record + CHECKSUM_OFFSET] = place
    records[record + SEGMENT_BYTES] = segment
    records[record + HEADER_LENGTH] = segment === 0 ? 0 : 14 + headerBytes
  }

  /** The IP packet in a slot, to the frame's end. */
  read(packet: number): Uint8Array {
    const { bytes, records } = this.pool
    const record = packet << RECORD_SHIFT
    const frame = records[record + OFFSET]
    return bytes.slice(frame + 14, frame + records[record + LENGTH])
  }
}

export const hex = (bytes: Uint8Array): string => Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')
export const unhex = (text: string): Uint8Array =>
  Uint8Array.from(text.match(/../g) ?? [], (b) => Number.parseInt(b, 16))

/** A described packet of a random kind, with addresses that are no martians; `isUnfinished` where that can be. */
export function randomPacket(random: (below: number) => number): Packet {
  const family = random(2) === 0 ? 4 : 6
  const word = (): number => (random(0x7fffffff) << 1) ^ random(0x7fffffff)
  const address = (): number[] =>
    family === 4
      ? [(random(117) + 10) * 0x1000000 + random(0xffffff)].map((w) => w | 0)
      : [0x20010000 | random(0xffff), word(), word(), word()]
  const kinds = family === 4 ? [6, 6, 17, 17, 1, 33, 136, 132, 47] : [6, 6, 17, 17, 58, 33, 136, 132, 47]
  const protocol = kinds[random(kinds.length)]
  const payload = Array.from({ length: random(3) === 0 ? random(400) : random(12) }, () => random(256))
  const packet: Packet = {
    family,
    source: address(),
    destination: address(),
    protocol,
    payload,
    hopLimit: 2 + random(254),
    sourcePort: random(0x10000),
    destinationPort: random(0x10000),
  }
  if (protocol === 6) {
    packet.flags = random(256)
    packet.sequence = word()
    if (random(3) === 0) packet.tcpOptions = [1, 1, 8, 10, ...Array.from({ length: 8 }, () => random(256))]
  }
  if (protocol === 17 && family === 4 && random(5) === 0) packet.isBare = true
  if (protocol === 1 || protocol === 58) {
    packet.type = family === 4 ? [0, 8, 13, 14][random(4)] : 128 + random(2)
    packet.identifier = random(0x10000)
  }
  if (family === 4 && random(5) === 0) packet.options = [7, 7, 4, 1, 2, 3, 4, 1]
  if (family === 6 && random(4) === 0)
    packet.extensions = [
      [0, extension(8)],
      [60, extension(16)],
    ]
  const isOfPseudo = protocol === 6 || protocol === 17 || protocol === 1 || protocol === 58
  if (isOfPseudo && !packet.isBare && random(4) === 0) packet.isUnfinished = true
  return packet
}
