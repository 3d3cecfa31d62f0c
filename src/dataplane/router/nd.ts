/**
 * Neighbor discovery for IPv6 (RFC 4861 sections 4.3, 4.4, 7): reading solicitations and advertisements, and the
 * packets that the router sends.
 *
 * `Discovery.read` checks what section 7.1 demands: hop limit 255, ICMP code 0, a target that is no group, options
 * whose lengths add up, and no source link-layer option from an unspecified source; besides, a MAC that is no group.
 * The ICMP checksum is verified too, unless it is unfinished. Router advertisements and redirects are not read: the
 * router heeds neither.
 */
import * as layout from '../layout.js'
import type { Pool } from '../burst.js'
import { icmp6Checksum } from './checksum.js'
import type { Headers } from './headers.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { OFFLOAD, OFFLOAD_CHECKSUM, OFFSET, RECORD_SHIFT } = layout

export const ND_ROUTER_SOLICITATION = 133
export const ND_ROUTER_ADVERTISEMENT = 134
export const ND_SOLICITATION = 135
export const ND_ADVERTISEMENT = 136
export const ND_REDIRECT = 137

const OPTION_SOURCE_MAC = 1
const OPTION_TARGET_MAC = 2
const OPTIONS_MAX = 16
/** Bytes: Ethernet and IPv6 headers, the message, one option. */
const FRAME_BYTES = 14 + 40 + 24 + 8
const SOLICITED = 0x40000000
const OVERRIDE = 0x20000000
const FROM_ROUTER = 0x80000000 | 0

/** What the solicitation or advertisement in hand says. */
export class Discovery {
  type = 0
  target0 = 0
  target1 = 0
  target2 = 0
  target3 = 0
  isSolicited = false
  hasMac = false
  macLow = 0
  macHigh = 0

  /** Reads a message whose headers `h` holds. Returns false if it must be dropped. */
  read(pool: Pool, h: Headers): boolean {
    const { view } = pool
    const at = h.l4
    this.type = h.icmp >> 8
    if (h.hopLimit !== 255 || (h.icmp & 255) !== 0 || h.end - at < 24 || h.fragmentHeader !== 0) return false
    const isSolicitation = this.type === ND_SOLICITATION
    this.target0 = view.getInt32(at + 8)
    this.target1 = view.getInt32(at + 12)
    this.target2 = view.getInt32(at + 16)
    this.target3 = view.getInt32(at + 20)
    if (this.target0 >>> 24 === 0xff) return false
    this.isSolicited = (view.getInt32(at + 4) & SOLICITED) !== 0
    if (!isSolicitation && this.isSolicited && h.destination0 >>> 24 === 0xff) return false
    if (!this.readOptions(pool, at + 24, h.end, isSolicitation ? OPTION_SOURCE_MAC : OPTION_TARGET_MAC)) return false
    const isUnspecified = (h.source0 | h.source1 | h.source2 | h.source3) === 0
    if (isUnspecified && (!isSolicitation || this.hasMac)) return false
    const isUnfinished = (pool.records[(h.packet << RECORD_SHIFT) + OFFLOAD] & OFFLOAD_CHECKSUM) !== 0
    return isUnfinished || icmp6Checksum(pool, h.l3, at, h.end) === 0
  }

  private readOptions(pool: Pool, start: number, end: number, wanted: number): boolean {
    const { bytes, view } = pool
    this.hasMac = false
    let at = start
    for (let i = 0; i < OPTIONS_MAX && at + 2 <= end; i++) {
      const length = bytes[at + 1] * 8
      if (length === 0 || at + length > end) return false
      if (bytes[at] === wanted && length === 8) {
        if ((bytes[at + 2] & 1) !== 0) return false // a group is no host's address
        this.hasMac = true
        this.macHigh = view.getUint16(at + 2, true)
        this.macLow = view.getInt32(at + 4, true)
      }
      at += length
    }
    return at === end
  }
}

/**
 * An advertisement of one of the router's addresses (`target`) to the sender of the solicitation in `h`, or to all
 * nodes if that has no address: a new packet without its Ethernet header; -1 if the pool is empty.
 */
export function advertise(pool: Pool, h: Headers, discovery: Discovery, macLow: number, macHigh: number): number {
  const packet = pool.take(FRAME_BYTES)
  if (packet < 0) return -1
  const { view } = pool
  const ip = pool.records[(packet << RECORD_SHIFT) + OFFSET] + 14
  const isUnspecified = (h.source0 | h.source1 | h.source2 | h.source3) === 0
  writeHeader(pool, ip, ND_ADVERTISEMENT)
  writeIp(pool, ip + 8, discovery.target0, discovery.target1, discovery.target2, discovery.target3)
  if (isUnspecified) writeIp(pool, ip + 24, 0xff020000 | 0, 0, 0, 1)
  else writeIp(pool, ip + 24, h.source0, h.source1, h.source2, h.source3)
  view.setInt32(ip + 44, FROM_ROUTER | OVERRIDE | (isUnspecified ? 0 : SOLICITED))
  writeIp(pool, ip + 48, discovery.target0, discovery.target1, discovery.target2, discovery.target3)
  finish(pool, ip, OPTION_TARGET_MAC, macLow, macHigh)
  return packet
}

/**
 * A solicitation for `target` from the router's address: a new packet without its Ethernet header, to the target's
 * solicited-node group, or to the target itself (`isProbe`, section 7.3.3); -1 if the pool is empty.
 */
export function solicit(
  pool: Pool,
  source0: number,
  source1: number,
  source2: number,
  source3: number,
  target0: number,
  target1: number,
  target2: number,
  target3: number,
  isProbe: boolean,
  macLow: number,
  macHigh: number,
): number {
  const packet = pool.take(FRAME_BYTES)
  if (packet < 0) return -1
  const ip = pool.records[(packet << RECORD_SHIFT) + OFFSET] + 14
  writeHeader(pool, ip, ND_SOLICITATION)
  writeIp(pool, ip + 8, source0, source1, source2, source3)
  if (isProbe) writeIp(pool, ip + 24, target0, target1, target2, target3)
  else writeIp(pool, ip + 24, 0xff020000 | 0, 0, 1, 0xff000000 | (target3 & 0xffffff))
  pool.view.setInt32(ip + 44, 0)
  writeIp(pool, ip + 48, target0, target1, target2, target3)
  finish(pool, ip, OPTION_SOURCE_MAC, macLow, macHigh)
  return packet
}

function writeHeader(pool: Pool, ip: number, type: number): void {
  const { view } = pool
  view.setInt32(ip, 0x60000000)
  view.setInt32(ip + 4, ((24 + 8) << 16) | (58 << 8) | 255)
  view.setInt32(ip + 40, type << 24)
}

function writeIp(pool: Pool, at: number, ip0: number, ip1: number, ip2: number, ip3: number): void {
  const { view } = pool
  view.setInt32(at, ip0)
  view.setInt32(at + 4, ip1)
  view.setInt32(at + 8, ip2)
  view.setInt32(at + 12, ip3)
}

function finish(pool: Pool, ip: number, option: number, macLow: number, macHigh: number): void {
  const { bytes, view } = pool
  bytes[ip + 64] = option
  bytes[ip + 65] = 1
  view.setUint16(ip + 66, macHigh, true)
  view.setInt32(ip + 68, macLow, true)
  view.setUint16(ip + 42, icmp6Checksum(pool, ip, ip + 40, ip + FRAME_BYTES - 14))
}
