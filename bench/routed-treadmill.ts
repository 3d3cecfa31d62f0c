/**
 * The treadmill of the routed cases (decision-routed.ts): a driver whose frames lie ready, as treadmill.ts describes.
 *
 * What the router changes in a frame is written back at each receive call: MACs, hop limit, addresses, ports, both
 * checksums. All that is in a list, WORDS words a frame, in the order in which this machine stores them. Frames carry
 * no payload: UDP datagrams of 8 bytes, TCP segments that acknowledge, padded to 60 bytes. Checksums are right.
 */
import {
  type Arena,
  BURST_CAPACITY,
  HEADER_NOW,
  INGRESS,
  LENGTH,
  OFFSET,
  RECORD_SHIFT,
  REFERENCES,
  TAG,
} from '../src/dataplane/layout.js'
import type { Pool } from '../src/dataplane/burst.js'
import type { Driver } from '../src/dataplane/loop.js'
import { FRAMES_A_SECOND, FRAME_BYTES } from './treadmill.js'

/** The port that frames to the uplink's router come by; all others are guests'. */
export const UPLINK_DEVICE = 1
/** Octets 1 and 2 of all MACs, and octets 3 to 6 of the router's. */
export const MAC_HIGH_HALF = 0x5452
export const LAN_MAC = 0x01000000
export const UPLINK_MAC = 0x02000000
export const FLAG_SYN = 2
export const FLAG_ACK = 16
const SEQUENCE_NUMBER = 0x01020304

// Words of a frame in the list of what the treadmill sends.
export const WORDS = 8
const FROM = 0 // port
const SOURCE_MAC = 1
const SUM_WORD = 2 // hop limit, protocol, header checksum
const SOURCE = 3
const DESTINATION = 4
const PORTS = 5
const LAST = 6 // the word that holds the transport's checksum

/** A 32-bit word in the order in which this machine stores it. */
const swap = (word: number): number => (word << 24) | ((word << 8) & 0xff0000) | ((word >>> 8) & 0xff00) | (word >>> 24)

const fold = (sum: number): number => {
  const once = (sum & 0xffff) + Math.floor(sum / 65536)
  return (once & 0xffff) + (once >>> 16)
}
const halvesOf = (word: number): number => (word >>> 16) + (word & 0xffff)

const bytesOf = (word: number): number[] => [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]
// both ends begin with the same number and send nothing
const sequenceOf = (flags: number): number => SEQUENCE_NUMBER - ((flags & FLAG_SYN) === 0 ? 0 : 1)
const acknowledgementOf = (flags: number): number => (flags === FLAG_SYN ? 0 : SEQUENCE_NUMBER)

/** One frame as numbers, most significant byte first, and how it becomes words of the treadmill's list. */
export class Shape {
  readonly protocol: number
  private readonly transport: number // bytes
  private readonly isTcp: boolean

  constructor(protocol: 'udp' | 'tcp') {
    this.isTcp = protocol === 'tcp'
    this.protocol = this.isTcp ? 6 : 17
    this.transport = this.isTcp ? 20 : 8
  }

  /** What is the same in all frames: everything but what `write` writes. */
  head(flags: number): number[] {
    const total = 20 + this.transport
    const ip = [0x45, 0, total >> 8, total & 255, 0, 0, 0x40, 0, 64, this.protocol, 0, 0]
    const sequence = bytesOf(sequenceOf(flags))
    const tcp = [...sequence, ...bytesOf(acknowledgementOf(flags)), 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]
    return [...new Array<number>(12).fill(0), 8, 0, ...ip, ...new Array<number>(12).fill(0), ...(this.isTcp ? tcp : [])]
  }

  /** The place of the LAST word, in words from the IP header. */
  get last(): number {
    return this.isTcp ? 9 : 6
  }

  write(
    list: Int32Array,
    at: number,
    from: number,
    mac: number,
    source: number,
    destination: number,
    ports: number,
    flags: number,
  ): void {
    const total = 20 + this.transport
    const second = (64 << 24) | (this.protocol << 16)
    const header = 0x4500 + total + 0x4000 + halvesOf(second) + halvesOf(source) + halvesOf(destination)
    let sum = halvesOf(source) + halvesOf(destination) + this.protocol + this.transport + halvesOf(ports)
    const numbers = halvesOf(sequenceOf(flags)) + halvesOf(acknowledgementOf(flags))
    sum += this.isTcp ? numbers + (0x5000 | flags) + 0xffff : this.transport
    const check = ~fold(sum) & 0xffff
    list[at + FROM] = from
    list[at + SOURCE_MAC] = mac
    list[at + SUM_WORD] = swap(second | (~fold(header) & 0xffff))
    list[at + SOURCE] = swap(source)
    list[at + DESTINATION] = swap(destination)
    list[at + PORTS] = swap(ports)
    list[at + LAST] = swap(this.isTcp ? check << 16 : (this.transport << 16) | check)
  }
}

export class RoutedTreadmill implements Driver {
  sent = 0
  /** once a second of the clock */
  onSecond: () => void = () => {}
  private readonly arena: Arena
  private readonly halves: Uint16Array
  private readonly words: Int32Array
  private readonly packets = new Int32Array(BURST_CAPACITY)
  private readonly frames = new Int32Array(BURST_CAPACITY)
  private readonly last: number
  private list: Int32Array = new Int32Array(0)
  private mask = 0
  private burst = 0
  private next = 0
  private untilSecond = FRAMES_A_SECOND

  constructor(arena: Arena, pool: Pool, shape: Shape) {
    this.arena = arena
    this.halves = new Uint16Array(arena.buffer)
    this.words = new Int32Array(arena.buffer)
    this.last = shape.last
    for (let i = 0; i < BURST_CAPACITY; i++) {
      const packet = pool.take(FRAME_BYTES)
      this.packets[i] = packet
      this.frames[i] = arena.records[(packet << RECORD_SHIFT) + OFFSET]
    }
  }

  /** What it goes through from now on, `burst` frames at a time. */
  load(list: Int32Array, burst: number, head: number[]): void {
    this.list = list
    this.mask = list.length / WORDS - 1
    this.burst = burst
    this.next = 0
    for (let i = 0; i < BURST_CAPACITY; i++) this.arena.bytes.set(head, this.frames[i])
  }

  receive(): number {
    const { halves, words, burst, list, packets, frames, last, mask } = this
    const { records } = this.arena
    const listed = this.arena.burst
    for (let i = 0; i < burst; i++) {
      const at = ((this.next + i) & mask) * WORDS
      const packet = packets[i]
      const frame = frames[i]
      const record = packet << RECORD_SHIFT
      const half = frame >> 1
      const ip = (frame + 14) >> 2
      const from = list[at + FROM]
      const mac = list[at + SOURCE_MAC]
      halves[half] = MAC_HIGH_HALF
      halves[half + 1] = 0
      halves[half + 2] = (from === UPLINK_DEVICE ? UPLINK_MAC : LAN_MAC) >>> 16
      halves[half + 3] = MAC_HIGH_HALF
      halves[half + 4] = mac
      halves[half + 5] = mac >>> 16
      words[ip + 2] = list[at + SUM_WORD]
      words[ip + 3] = list[at + SOURCE]
      words[ip + 4] = list[at + DESTINATION]
      words[ip + 5] = list[at + PORTS]
      words[ip + last] = list[at + LAST]
      records[record + OFFSET] = frame
      records[record + LENGTH] = FRAME_BYTES
      records[record + INGRESS] = from
      records[record + TAG] = 0
      records[record + REFERENCES] = 1
      listed[i] = packet
    }
    this.next = (this.next + burst) & mask
    this.untilSecond -= burst
    if (this.untilSecond <= 0) {
      this.untilSecond += FRAMES_A_SECOND
      this.arena.header[HEADER_NOW] += 1
      this.onSecond()
    }
    return burst
  }

  transmit(pairs: number): void {
    this.sent += pairs
  }

  /** Of the packet that is the i-th of a burst, its number. */
  packet(i: number): number {
    return this.packets[i]
  }
}
