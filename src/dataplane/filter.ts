/**
 * Capture filters: programs that tell which frames a capture takes, evaluated on frames. `filter-compile.ts` makes them
 * from a user's expression.
 *
 * A program is an Int32Array in postfix order, OPERATION_WORDS words an operation; results stand on a stack of bits, 32
 * deep. A frame is looked at behind its outer VLAN tag. IPv6 extension headers are walked up to EXTENSIONS_MAX; of a
 * fragment only the first has ports. Evaluation allocates nothing and reads nothing beyond the frame.
 */
import { LENGTH, OFFSET, RECORD_SHIFT, TAG_PRESENT } from './layout.js'

/** operation, direction, four words of value, two of mask or prefix */
export const OPERATION_WORDS = 8

export const AND = 1
export const OR = 2
export const NOT = 3
export const HOST4 = 4
export const HOST6 = 5
export const PORTS = 6
export const ETHER = 7
export const VLAN = 8
export const TYPE = 9
export const PROTOCOL = 10
export const BROADCAST = 11
export const MULTICAST = 12
export const GREATER = 13
export const LESS = 14

export const EITHER = 0
export const SOURCE = 1
export const DESTINATION = 2

export const TYPE_IPV4 = 0x0800
export const TYPE_ARP = 0x0806
export const TYPE_IPV6 = 0x86dd

const EXTENSIONS_MAX = 8

/** Evaluates programs on frames. One per shard: it keeps what it parsed of a frame in its fields. */
export class Filter {
  private readonly bytes: Uint8Array
  private readonly records: Int32Array
  private frame = 0
  private end = 0
  private type = 0
  private l3 = 0 // byte in the arena, -1: no IP or ARP
  private l4 = 0 // byte in the arena, -1: none, or a later fragment
  private protocol = 0 // -1: no IP

  constructor(bytes: Uint8Array, records: Int32Array) {
    this.bytes = bytes
    this.records = records
  }

  /** @param tag TAG_PRESENT | TCI of a tag that stands in front of the payload, else 0 */
  matches(program: Int32Array, packet: number, tag: number): boolean {
    if (program.length === 0) return true
    this.parse(packet)
    let stack = 0
    for (let i = 0; i < program.length; i += OPERATION_WORDS) {
      const operation = program[i]
      if (operation === NOT) {
        stack ^= 1
      } else if (operation === AND || operation === OR) {
        const right = stack & 1
        stack >>>= 1
        stack = operation === AND ? stack & (right | ~1) : stack | right
      } else {
        stack = (stack << 1) | (this.test(program, i, tag) ? 1 : 0)
      }
    }
    return (stack & 1) === 1
  }

  /** Finds the headers, each checked against the frame's end. */
  private parse(packet: number): void {
    const { bytes, records } = this
    const record = packet << RECORD_SHIFT
    this.frame = records[record + OFFSET]
    this.end = this.frame + records[record + LENGTH]
    this.l3 = this.l4 = this.protocol = -1
    this.type = 0
    if (this.end - this.frame < 14) return
    let at = this.frame + 12
    this.type = (bytes[at] << 8) | bytes[at + 1]
    if (this.type === 0x8100 && at + 6 <= this.end) {
      at += 4 // captured before ingress has popped the tag
      this.type = (bytes[at] << 8) | bytes[at + 1]
    }
    const l3 = at + 2
    if (this.type === TYPE_IPV4 && l3 + 20 <= this.end) {
      this.l3 = l3
      this.protocol = bytes[l3 + 9]
      const length = (bytes[l3] & 15) << 2
      if (length >= 20 && (((bytes[l3 + 6] & 0x1f) << 8) | bytes[l3 + 7]) === 0) this.l4 = l3 + length
    } else if (this.type === TYPE_IPV6 && l3 + 40 <= this.end) {
      this.l3 = l3
      this.parseIpv6(l3)
    } else if (this.type === TYPE_ARP && l3 + 28 <= this.end) {
      this.l3 = l3
    }
  }

  private parseIpv6(l3: number): void {
    const bytes = this.bytes
    let next = bytes[l3 + 6]
    let at = l3 + 40
    for (let i = 0; i < EXTENSIONS_MAX && at + 8 <= this.end; i++) {
      if (next === 44) {
        if ((((bytes[at + 2] << 8) | bytes[at + 3]) & 0xfff8) !== 0) {
          this.protocol = bytes[at]
          return
        }
        next = bytes[at]
        at += 8
      } else if (next === 0 || next === 43 || next === 60) {
        next = bytes[at]
        at += (bytes[at + 1] + 1) << 3
      } else {
        break
      }
    }
    this.protocol = next
    this.l4 = at
  }

  private test(program: Int32Array, i: number, tag: number): boolean {
    const direction = program[i + 1]
    switch (program[i]) {
      case HOST4:
        return this.type === TYPE_IPV4
          ? this.testPair(program, i, direction, 12, 4, 1)
          : this.testPair(program, i, direction, 14, 10, 1)
      case HOST6:
        return this.testPair(program, i, direction, 8, 16, 4)
      case PORTS:
        return this.testPorts(direction, program[i + 2], program[i + 3])
      case ETHER:
        return (
          (direction !== DESTINATION && this.isMac(this.frame + 6, program[i + 2], program[i + 3])) ||
          (direction !== SOURCE && this.isMac(this.frame, program[i + 2], program[i + 3]))
        )
      case VLAN: {
        const vid = this.vid(tag)
        return vid >= 0 && (program[i + 2] < 0 || vid === program[i + 2])
      }
      case TYPE:
        return this.type === program[i + 2]
      case PROTOCOL:
        return this.protocol === program[i + 2]
      case BROADCAST:
        return this.isMac(this.frame, 0xffff, -1)
      case MULTICAST:
        return this.end - this.frame >= 14 && (this.bytes[this.frame] & 1) === 1
      case GREATER:
        return this.end - this.frame >= program[i + 2]
      default:
        return this.end - this.frame <= program[i + 2]
    }
  }

  private vid(tag: number): number {
    if ((tag & TAG_PRESENT) !== 0) return tag & 0xfff
    const at = this.frame + 12
    if (this.end - this.frame < 18 || this.bytes[at] !== 0x81 || this.bytes[at + 1] !== 0) return -1
    return ((this.bytes[at + 2] & 15) << 8) | this.bytes[at + 3]
  }

  /** Source and destination address: at l3 + offset, and `step` behind it. ARP's sender and target count for IPv4. */
  private testPair(
    program: Int32Array,
    i: number,
    direction: number,
    offset: number,
    step: number,
    words: number,
  ): boolean {
    if (this.l3 < 0 || this.type === (words === 1 ? TYPE_IPV6 : TYPE_IPV4)) return false
    if (words === 4 && this.type !== TYPE_IPV6) return false
    return (
      (direction !== DESTINATION && this.isAddress(program, i, this.l3 + offset, words)) ||
      (direction !== SOURCE && this.isAddress(program, i, this.l3 + offset + step, words))
    )
  }

  private isAddress(program: Int32Array, i: number, at: number, words: number): boolean {
    const bytes = this.bytes
    let bits = program[i + 6]
    for (let word = 0; word < words && bits > 0; word++, bits -= 32) {
      const p = at + (word << 2)
      const value = (bytes[p] << 24) | (bytes[p + 1] << 16) | (bytes[p + 2] << 8) | bytes[p + 3]
      const mask = bits >= 32 ? -1 : -1 << (32 - bits)
      if (((value ^ program[i + 2 + word]) & mask) !== 0) return false
    }
    return true
  }

  private testPorts(direction: number, first: number, last: number): boolean {
    const carries = this.protocol === 6 || this.protocol === 17 || this.protocol === 132
    if (!carries || this.l4 < 0 || this.l4 + 4 > this.end) return false
    const bytes = this.bytes
    const source = (bytes[this.l4] << 8) | bytes[this.l4 + 1]
    const destination = (bytes[this.l4 + 2] << 8) | bytes[this.l4 + 3]
    return (
      (direction !== DESTINATION && source >= first && source <= last) ||
      (direction !== SOURCE && destination >= first && destination <= last)
    )
  }

  private isMac(at: number, high: number, low: number): boolean {
    const bytes = this.bytes
    if (this.end - this.frame < 14) return false
    return (
      ((bytes[at] << 8) | bytes[at + 1]) === high &&
      ((bytes[at + 2] << 24) | (bytes[at + 3] << 16) | (bytes[at + 4] << 8) | bytes[at + 5]) === low
    )
  }
}
