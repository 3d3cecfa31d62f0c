/**
 * ARP for IPv4 over Ethernet (RFC 826, RFC 5227): reading, and the packets that the router sends.
 *
 * `valid` accepts what the standard and security want of a packet from a guest: Ethernet and IPv4, a request or a
 * reply, its sender's hardware address that of the frame. Everything else is dropped by the guard on guarded ports.
 *
 * Offsets are from the start of the frame: 14 bytes of Ethernet header, then hardware type, protocol type, two lengths,
 * operation, sender's MAC and address, target's MAC and address.
 */
import * as layout from '../layout.js'
import type { Pool } from '../burst.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { HEADER_LENGTH, LENGTH, MAC_HIGH, OFFLOAD, OFFSET, RECORD_SHIFT, SEGMENT_BYTES, SOURCE_LOW } = layout

export const ARP_REQUEST = 1
export const ARP_REPLY = 2
/** Bytes of a frame with an ARP packet, without padding. */
export const ARP_FRAME_BYTES = 42

const TYPES = 0x00010800 // Ethernet, IPv4
const LENGTHS = 0x0604
const OPERATION = 20
const SENDER_MAC = 22
const SENDER_IP = 28
const TARGET_MAC = 32
const TARGET_IP = 38

/** The operation of a well-formed ARP packet whose sender is the frame's; 0: it is none. */
export function validArp(pool: Pool, packet: number): number {
  const record = packet << RECORD_SHIFT
  if (pool.records[record + LENGTH] < ARP_FRAME_BYTES) return 0
  const frame = pool.records[record + OFFSET]
  const { view } = pool
  if (view.getInt32(frame + 14) !== TYPES || view.getUint16(frame + 18) !== LENGTHS) return 0
  const operation = view.getUint16(frame + OPERATION)
  if (operation !== ARP_REQUEST && operation !== ARP_REPLY) return 0
  const high = view.getUint16(frame + SENDER_MAC, true)
  if (high !== pool.records[record + MAC_HIGH] >>> 16) return 0
  return view.getInt32(frame + SENDER_MAC + 2, true) === pool.records[record + SOURCE_LOW] ? operation : 0
}

export function arpSender(pool: Pool, packet: number): number {
  return pool.view.getInt32(pool.records[(packet << RECORD_SHIFT) + OFFSET] + SENDER_IP)
}

export function arpTarget(pool: Pool, packet: number): number {
  return pool.view.getInt32(pool.records[(packet << RECORD_SHIFT) + OFFSET] + TARGET_IP)
}

/** Turns a request for one of the router's addresses into its answer; the Ethernet header is the caller's. */
export function answerArp(pool: Pool, packet: number, macLow: number, macHigh: number): void {
  const { bytes, view, records } = pool
  const record = packet << RECORD_SHIFT
  const frame = records[record + OFFSET]
  const target = view.getInt32(frame + TARGET_IP)
  records[record + LENGTH] = ARP_FRAME_BYTES
  records[record + OFFLOAD] = records[record + SEGMENT_BYTES] = records[record + HEADER_LENGTH] = 0 // nothing to finish
  view.setUint16(frame + OPERATION, ARP_REPLY)
  bytes.copyWithin(frame + TARGET_MAC, frame + SENDER_MAC, frame + SENDER_MAC + 10)
  view.setUint16(frame + SENDER_MAC, macHigh, true)
  view.setInt32(frame + SENDER_MAC + 2, macLow, true)
  view.setInt32(frame + SENDER_IP, target)
}

/**
 * A question of the router's, or a gratuitous announcement if `target` is `sender` (RFC 5227 section 3): a new packet
 * with everything but the Ethernet header; -1 if the pool is empty.
 */
export function askArp(pool: Pool, macLow: number, macHigh: number, sender: number, target: number): number {
  const packet = pool.take(ARP_FRAME_BYTES)
  if (packet < 0) return -1
  const { view } = pool
  const frame = pool.records[(packet << RECORD_SHIFT) + OFFSET]
  view.setInt32(frame + 14, TYPES)
  view.setUint16(frame + 18, LENGTHS)
  view.setUint16(frame + OPERATION, ARP_REQUEST)
  view.setUint16(frame + SENDER_MAC, macHigh, true)
  view.setInt32(frame + SENDER_MAC + 2, macLow, true)
  view.setInt32(frame + SENDER_IP, sender)
  view.setUint16(frame + TARGET_MAC, 0)
  view.setInt32(frame + TARGET_MAC + 2, 0)
  view.setInt32(frame + TARGET_IP, target)
  return packet
}
