/**
 * Fragmentation: cuts an IPv4 packet that is too long for the next link and may be cut (RFC 791 section 3.2).
 *
 *   packet     Ethernet | header, all options | payload ....................................
 *   fragments  Ethernet | header, all options | as many bytes as fit, a multiple of 8 | MF
 *              Ethernet | header, copied options (those with the high bit) | ...      | MF
 *              Ethernet | header, copied options                           | the rest | MF as the packet had it
 *
 * A fragment may be cut again: offsets go on from its own. Each piece is a slot of its own with a record like the
 * packet's; addresses, identification, TTL and type of service are the packet's, so it is cut after all rewriting. An
 * unfinished transport checksum covers the whole packet: it is finished first, in the packet itself, whose record says
 * so then. The caller must be the packet's only holder.
 *
 * Capacity: PIECES_MAX fragments. Refused: DF, segmentation offload, IPv6 (its routers do not fragment), an MTU below
 * MTU_MIN, a pool that has not enough slots: then nothing is taken.
 */
import type { Pool } from '../burst.js'
import * as layout from '../layout.js'
import { checksum } from './checksum.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  ETHERTYPE,
  LENGTH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  OFFSET,
  RECORD_SHIFT,
  REFERENCES,
  SEGMENT_BYTES,
} = layout

/** Fragments that one packet is cut into, at most. */
export const PIECES_MAX = 64
/** Smallest MTU of an IPv4 link. */
export const MTU_MIN = 68

const ETHERNET_BYTES = 14
const TYPE_IPV4 = 0x0800
const HEADER_BYTES = 20
const DONT_FRAGMENT = 0x4000
const MORE_FRAGMENTS = 0x2000
const OFFSET_MASK = 0x1fff
const OPTION_END = 0
const OPTION_NONE = 1
const OPTION_COPIED = 0x80
const UDP_CHECKSUM = 6

/**
 * Cuts a packet, whose headers `Headers.parse` has found right.
 * @param mtu bytes of an IP packet on the link
 * @param pieces takes the fragments, in their order: the caller's from here on, as is the packet itself
 * @returns how many; -1: refused, nothing taken
 */
export function cutPacket(pool: Pool, packet: number, mtu: number, pieces: Int32Array): number {
  const { view, bytes, records } = pool
  const record = packet << RECORD_SHIFT
  if (records[record + ETHERTYPE] !== TYPE_IPV4 || records[record + SEGMENT_BYTES] !== 0 || mtu < MTU_MIN) return -1
  const frame = records[record + OFFSET]
  const l3 = frame + ETHERNET_BYTES
  const header = (view.getUint8(l3) & 0x0f) << 2
  const bits = view.getUint16(l3 + 6)
  if ((bits & DONT_FRAGMENT) !== 0) return -1
  const end = l3 + view.getUint16(l3 + 2)
  const laterHeader = copiedLength(view, l3, header)
  const count = piecesFor(end - l3 - header, mtu, header, laterHeader)
  if (count > PIECES_MAX || count > pieces.length) return -1
  finishChecksum(pool, record, end)

  let at = l3 + header
  for (let i = 0; i < count; i++) {
    const own = i === 0 ? header : laterHeader
    const room = (mtu - own) & ~7
    const isLast = i === count - 1
    const size = isLast ? end - at : room
    const piece = pool.take(ETHERNET_BYTES + own + size)
    if (piece < 0) {
      for (let taken = 0; taken < i; taken++) pool.release(pieces[taken])
      return -1
    }
    copyRecord(records, record, piece << RECORD_SHIFT)
    const to = records[(piece << RECORD_SHIFT) + OFFSET]
    bytes.copyWithin(to, frame, l3 + HEADER_BYTES)
    if (i === 0) bytes.copyWithin(to + ETHERNET_BYTES + HEADER_BYTES, l3 + HEADER_BYTES, l3 + header)
    else copyOptions(view, l3, header, to + ETHERNET_BYTES, laterHeader)
    bytes.copyWithin(to + ETHERNET_BYTES + own, at, at + size)
    const more = isLast ? bits & MORE_FRAGMENTS : MORE_FRAGMENTS
    const offset = (bits & OFFSET_MASK) + ((at - l3 - header) >>> 3)
    writeHeader(view, to + ETHERNET_BYTES, own, size, more | offset)
    pieces[i] = piece
    at += size
  }
  return count
}

/** Fragments for so much payload: the first has another header than those behind it. */
function piecesFor(payload: number, mtu: number, header: number, laterHeader: number): number {
  const left = payload - (mtu - header)
  if (left <= 0) return 1
  const behind = payload - ((mtu - header) & ~7)
  const room = (mtu - laterHeader) & ~7
  const last = mtu - laterHeader // the last one need not be a multiple of 8
  return behind <= last ? 2 : 2 + Math.ceil((behind - last) / room)
}

/** What a piece's record has of its packet's; where it is and how long, and its holders, are its own. */
function copyRecord(records: Int32Array, from: number, to: number): void {
  for (let word = 0; word < 1 << RECORD_SHIFT; word++)
    if (word !== OFFSET && word !== LENGTH && word !== REFERENCES) records[to + word] = records[from + word]
}

function writeHeader(view: DataView, l3: number, header: number, payload: number, fragment: number): void {
  view.setUint8(l3, 0x40 | (header >>> 2))
  view.setUint16(l3 + 2, header + payload)
  view.setUint16(l3 + 6, fragment)
  view.setUint16(l3 + 10, 0)
  view.setUint16(l3 + 10, checksum(view, l3, l3 + header, 0))
}

/** Bytes of an option, 0 for the end of them or one that does not fit. */
function optionLength(view: DataView, at: number, end: number): number {
  const type = view.getUint8(at)
  if (type === OPTION_END) return 0
  if (type === OPTION_NONE) return 1
  if (end - at < 2) return 0
  const length = view.getUint8(at + 1)
  return length < 2 || length > end - at ? 0 : length
}

/** Bytes of the header that every fragment but the first has. */
function copiedLength(view: DataView, l3: number, header: number): number {
  const end = l3 + header
  let length = HEADER_BYTES
  for (let at = l3 + HEADER_BYTES; at < end; ) {
    const size = optionLength(view, at, end)
    if (size === 0) break
    if ((view.getUint8(at) & OPTION_COPIED) !== 0) length += size
    at += size
  }
  return (length + 3) & ~3
}

/** Copies the options that every fragment has, and fills up with their end. */
function copyOptions(view: DataView, l3: number, header: number, to: number, toHeader: number): void {
  const end = l3 + header
  let target = to + HEADER_BYTES
  for (let at = l3 + HEADER_BYTES; at < end; ) {
    const size = optionLength(view, at, end)
    if (size === 0) break
    if ((view.getUint8(at) & OPTION_COPIED) !== 0) {
      for (let i = 0; i < size; i++) view.setUint8(target + i, view.getUint8(at + i))
      target += size
    }
    at += size
  }
  for (; target < to + toHeader; target++) view.setUint8(target, OPTION_END)
}

/** Finishes the transport's checksum, if it is not: its field holds the pseudo-header's sum and takes part as it is. */
function finishChecksum(pool: Pool, record: number, end: number): void {
  const { view, records } = pool
  if ((records[record + OFFLOAD] & OFFLOAD_CHECKSUM) === 0) return
  const start = records[record + OFFSET] + records[record + CHECKSUM_START]
  const field = records[record + CHECKSUM_OFFSET]
  const sum = checksum(view, start, end, 0)
  view.setUint16(start + field, sum === 0 && field === UDP_CHECKSUM ? 0xffff : sum) // 0 would say that there is none
  records[record + OFFLOAD] &= ~OFFLOAD_CHECKSUM
}
