/**
 * The outside addresses that translated sources have, and the ports of each by protocol: which are taken, which are
 * reserved, and the choice of a free one.
 *
 * The choice (RFC 4787 REQ-3 and REQ-4, RFC 6056): the inside port itself if it is free; else a random free one, on the
 * same side of 1024 and of the same parity while there is one, then of the other parity, then of the other side. Ports
 * are bits, 32 a word, and free ones are counted by side and parity, so a choice looks into one class, which has one: a
 * few random tries, then from a random word on to the next free port, 2,048 words in the worst case.
 *
 * Reserved are those that forwards have: a guest that got one would take over their packets (the port shadow of
 * CVE-2021-3773). Ports outside the range may be taken, by mappings made before the range was changed.
 */

import * as headers from './headers.js'
import type { CompiledForward, CompiledNat } from './router-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP } = headers

const PORTS = 65536
const WORDS = PORTS / 32
const TRIES = 8
const WELL_KNOWN = 1024
const EVEN = 0x55555555
const ODD = 0xaaaaaaaa | 0

/** What gives numbers that outsiders cannot foresee. */
export interface Random {
  /** an int32 */
  next(): number
}

export class PortRange {
  private first = 1
  private last = 0
  private readonly taken = new Int32Array(WORDS)
  private readonly reserved = new Int32Array(WORDS)
  private readonly free = new Int32Array(4) // ports of the range: below 1024 even, odd, above even, odd
  private readonly random: Random

  constructor(random: Random) {
    this.random = random
  }

  /** @param reserved pairs of first and last port */
  configure(first: number, last: number, reserved: readonly (readonly [first: number, last: number])[]): void {
    this.first = first
    this.last = last
    this.reserved.fill(0)
    for (const [low, high] of reserved)
      for (let port = low; port <= high; port++) this.reserved[port >>> 5] |= 1 << (port & 31)
    this.free.fill(0)
    for (let port = first; port <= last; port++) if (this.isFree(port)) this.free[classOf(port)]++
  }

  /** Whether a translated source may have it now. */
  isFree(port: number): boolean {
    if (port < this.first || port > this.last) return false
    return ((this.taken[port >>> 5] | this.reserved[port >>> 5]) & (1 << (port & 31))) === 0
  }

  /** Whether a translated source has it and another may have it too. */
  isShareable(port: number): boolean {
    if (port < this.first || port > this.last) return false
    return (this.taken[port >>> 5] & ~this.reserved[port >>> 5] & (1 << (port & 31))) !== 0
  }

  /** Any port of the range, of an inside one's parity. */
  pick(inside: number): number {
    const port = this.first + ((this.random.next() >>> 0) % (this.last - this.first + 1))
    return (port & ~1) | (inside & 1)
  }

  take(port: number): void {
    if (this.isFree(port)) this.free[classOf(port)]--
    this.taken[port >>> 5] |= 1 << (port & 31)
  }

  give(port: number): void {
    this.taken[port >>> 5] &= ~(1 << (port & 31))
    if (this.isFree(port)) this.free[classOf(port)]++
  }

  /** A free port for an inside one; it is not taken yet. -1: none is free. */
  choose(inside: number): number {
    if (this.isFree(inside)) return inside
    const wanted = classOf(inside)
    for (let other = 0; other < 4; other++) {
      const kind = wanted ^ other // parity is bit 0, so it is given up first
      if (this.free[kind] > 0) return this.search(kind)
    }
    return -1
  }

  /** A random free port of a class that has one. */
  private search(kind: number): number {
    const low = kind >= 2 && this.first < WELL_KNOWN ? WELL_KNOWN : this.first
    const high = kind < 2 && this.last >= WELL_KNOWN ? WELL_KNOWN - 1 : this.last
    const count = high - low + 1
    let start = low
    for (let i = 0; i < TRIES; i++) {
      start = low + ((this.random.next() >>> 0) % count)
      const port = (start & ~1) | (kind & 1)
      if (port >= low && port <= high && this.isFree(port)) return port
    }
    const parity = (kind & 1) === 0 ? EVEN : ODD
    const from = low >>> 5
    const to = high >>> 5
    let word = start >>> 5
    for (let left = to - from; left >= 0; left--) {
      let bits = ~(this.taken[word] | this.reserved[word]) & parity
      if (word === from) bits &= -1 << (low & 31)
      if (word === to) bits &= -1 >>> (31 - (high & 31))
      if (bits !== 0) return (word << 5) + 31 - Math.clz32(bits & -bits)
      word = word === to ? from : word + 1
    }
    return -1
  }
}

/** Side of 1024 and parity. */
function classOf(port: number): number {
  return (port >= WELL_KNOWN ? 2 : 0) | (port & 1)
}

/** The outside address of a zone and family, with a range for each protocol whose ports are translated. */
export class OutsideAddress {
  readonly ip = new Int32Array(4)
  private readonly tcp: PortRange
  private readonly udp: PortRange
  private readonly icmp: PortRange

  constructor(nat: CompiledNat, random: Random) {
    this.ip.set(nat.ip)
    this.tcp = new PortRange(random)
    this.udp = new PortRange(random)
    this.icmp = new PortRange(random)
  }

  configure({ ip, firstPort, lastPort }: CompiledNat, forwards: readonly CompiledForward[]): void {
    const family = ip.length === 1 ? 4 : 6
    const here = forwards.filter((one) => one.family === family && (one.ip === null || this.is(one.ip)))
    const portsOf = (protocol: number): [number, number][] =>
      here.filter((one) => one.protocol === protocol).map((one) => [one.firstPort, one.lastPort])
    this.tcp.configure(firstPort, lastPort, portsOf(PROTOCOL_TCP))
    this.udp.configure(firstPort, lastPort, portsOf(PROTOCOL_UDP))
    this.icmp.configure(firstPort, lastPort, [])
  }

  is(ip: readonly number[]): boolean {
    for (let i = 0; i < ip.length; i++) if ((ip[i] | 0) !== this.ip[i]) return false
    return true
  }

  /** The range of a protocol; null: its ports are kept. */
  range(protocol: number): PortRange | null {
    if (protocol === PROTOCOL_TCP) return this.tcp
    if (protocol === PROTOCOL_UDP) return this.udp
    return this.isIdentifier(protocol) ? this.icmp : null
  }

  /** Whether the number that is translated is an identifier, which stands for both ports. */
  isIdentifier(protocol: number): boolean {
    return protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMP6
  }
}
