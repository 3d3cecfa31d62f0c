/**
 * Capture filters: a small expression language in the manner of tcpdump, compiled once, evaluated on frames.
 *
 *   expression = term { or term }     term = factor { and factor }     factor = not factor | ( expression ) | primitive
 *   primitive  = [src|dst] host ADDRESS | [src|dst] net CIDR | [src|dst] port N | [src|dst] portrange N-M
 *              | ether [src|dst] host MAC | vlan [VID] | arp | ip | ip6 | icmp | icmp6 | tcp | udp | proto N
 *              | broadcast | multicast | greater BYTES | less BYTES
 *
 * `&&`, `||` and `!` are understood too; two primitives side by side mean `and`. The program is an Int32Array in
 * postfix order, OPERATION_WORDS words an operation; results stand on a stack of bits, so an expression has at most 32
 * levels. A frame is looked at behind its outer VLAN tag. IPv6 extension headers are walked up to EXTENSIONS_MAX; of a
 * fragment only the first has ports. Evaluation allocates nothing and reads nothing beyond the frame.
 */
import { LENGTH, OFFSET, RECORD_SHIFT, TAG_PRESENT } from './layout.js'

/** operation, direction, four words of value, two of mask or prefix */
const OPERATION_WORDS = 8
const LEVELS_MAX = 32
const OPERATIONS_MAX = 256
const EXTENSIONS_MAX = 8

const AND = 1
const OR = 2
const NOT = 3
const HOST4 = 4
const HOST6 = 5
const PORTS = 6
const ETHER = 7
const VLAN = 8
const TYPE = 9
const PROTOCOL = 10
const BROADCAST = 11
const MULTICAST = 12
const GREATER = 13
const LESS = 14

const EITHER = 0
const SOURCE = 1
const DESTINATION = 2

const TYPE_IPV4 = 0x0800
const TYPE_ARP = 0x0806
const TYPE_IPV6 = 0x86dd

// ---- compiling ----

class Parser {
  readonly program: number[] = []
  private readonly words: string[]
  private at = 0
  private pending = 0 // results on the stack when the program has come this far

  constructor(text: string) {
    this.words = text.match(/\(|\)|!|&&|\|\||[^\s()!&|]+|[&|]/g) ?? []
  }

  parse(): void {
    this.expression(0)
    if (this.at < this.words.length) this.fail(`'${this.next('')}' is not expected here`)
  }

  private expression(level: number): void {
    if (level >= LEVELS_MAX) this.fail(`more than ${LEVELS_MAX} levels of brackets`)
    this.term(level)
    while (this.take('or') || this.take('||')) {
      this.term(level)
      this.emit(OR)
    }
  }

  private term(level: number): void {
    this.factor(level)
    for (;;) {
      if (!(this.take('and') || this.take('&&'))) {
        const next = this.words[this.at]
        if (next === undefined || next === ')' || next === 'or' || next === '||') return
      }
      this.factor(level)
      this.emit(AND)
    }
  }

  private factor(level: number): void {
    if (this.take('not') || this.take('!')) {
      if (level + 1 >= LEVELS_MAX) this.fail(`more than ${LEVELS_MAX} levels`)
      this.factor(level + 1)
      this.emit(NOT)
    } else if (this.take('(')) {
      this.expression(level + 1)
      if (!this.take(')')) this.fail(`')' is missing`)
    } else {
      this.primitive()
    }
  }

  private primitive(): void {
    const word = this.next('a condition')
    const direction = word === 'src' ? SOURCE : word === 'dst' ? DESTINATION : EITHER
    const kind = direction === EITHER ? word : this.next(`host, net, port or portrange behind '${word}'`)
    switch (kind) {
      case 'host':
        return this.address(direction, this.next('an address'), false)
      case 'net':
        return this.address(direction, this.next('a network'), true)
      case 'port': {
        const port = this.integer(this.next('a port'), 0, 65535)
        return this.emit(PORTS, direction, port, port)
      }
      case 'portrange': {
        const [first = '', last = ''] = this.next('a range of ports').split('-')
        return this.emit(PORTS, direction, this.integer(first, 0, 65535), this.integer(last, 0, 65535))
      }
    }
    if (direction !== EITHER) this.fail(`'${kind}' cannot stand behind '${word}'`)
    this.simple(kind)
  }

  private simple(kind: string): void {
    switch (kind) {
      case 'ether':
        return this.ether()
      case 'vlan': {
        const next = this.words[this.at]
        if (next === undefined || !/^\d+$/.test(next)) return this.emit(VLAN, EITHER, -1)
        return this.emit(VLAN, EITHER, this.integer(this.next('a VID'), 0, 4094))
      }
      case 'arp':
        return this.emit(TYPE, EITHER, TYPE_ARP)
      case 'ip':
        return this.emit(TYPE, EITHER, TYPE_IPV4)
      case 'ip6':
        return this.emit(TYPE, EITHER, TYPE_IPV6)
      case 'icmp':
        return this.emit(PROTOCOL, EITHER, 1)
      case 'icmp6':
        return this.emit(PROTOCOL, EITHER, 58)
      case 'tcp':
        return this.emit(PROTOCOL, EITHER, 6)
      case 'udp':
        return this.emit(PROTOCOL, EITHER, 17)
      case 'proto':
        return this.emit(PROTOCOL, EITHER, this.integer(this.next('a protocol number'), 0, 255))
      case 'broadcast':
        return this.emit(BROADCAST)
      case 'multicast':
        return this.emit(MULTICAST)
      case 'greater':
        return this.emit(GREATER, EITHER, this.integer(this.next('a length'), 0, 65535))
      case 'less':
        return this.emit(LESS, EITHER, this.integer(this.next('a length'), 0, 65535))
    }
    this.fail(`'${kind}' is no condition`)
  }

  private ether(): void {
    const word = this.next("host, src or dst behind 'ether'")
    const direction = word === 'src' ? SOURCE : word === 'dst' ? DESTINATION : EITHER
    let mac = direction === EITHER && word !== 'host' ? word : this.next('a MAC address')
    if (mac === 'host') mac = this.next('a MAC address')
    if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac)) this.fail(`'${mac}' is no MAC address`)
    const octets = mac.split(':').map((octet) => Number.parseInt(octet, 16))
    this.emit(ETHER, direction, (octets[0] << 8) | octets[1], word32(octets, 2))
  }

  private address(direction: number, text: string, isNetwork: boolean): void {
    const [address = '', prefixText] = text.split('/')
    if (prefixText !== undefined && !isNetwork) this.fail(`'${text}' is a network: write net ${text}`)
    const v4 = parseIpv4(address)
    const octets = v4 ?? parseIpv6(address)
    if (octets === null) this.fail(`'${address}' is no IP address`)
    const bits = v4 ? 32 : 128
    const prefix = prefixText === undefined ? bits : this.integer(prefixText, 0, bits)
    if (v4) return this.emit(HOST4, direction, word32(octets, 0), 0, 0, 0, prefix)
    this.emit(HOST6, direction, word32(octets, 0), word32(octets, 4), word32(octets, 8), word32(octets, 12), prefix)
  }

  private integer(text: string, least: number, most: number): number {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < least || value > most) this.fail(`'${text}' is not ${least}..${most}`)
    return value
  }

  private take(word: string): boolean {
    if (this.words[this.at] !== word) return false
    this.at++
    return true
  }

  private next(what: string): string {
    const word = this.words[this.at]
    if (word === undefined) this.fail(`${what} is missing at the end`)
    this.at++
    return word
  }

  private emit(...operation: number[]): void {
    if (this.program.length >= OPERATIONS_MAX * OPERATION_WORDS) this.fail(`more than ${OPERATIONS_MAX} conditions`)
    if (operation[0] === AND || operation[0] === OR) this.pending--
    else if (operation[0] !== NOT && ++this.pending > LEVELS_MAX) this.fail(`more than ${LEVELS_MAX} levels`)
    for (let i = 0; i < OPERATION_WORDS; i++) this.program.push(operation[i] ?? 0)
  }

  private fail(what: string): never {
    throw new Error(`filter: word ${Math.min(this.at, this.words.length)}: ${what}`)
  }
}

function word32(octets: readonly number[], at: number): number {
  return (octets[at] << 24) | (octets[at + 1] << 16) | (octets[at + 2] << 8) | octets[at + 3]
}

function parseIpv4(text: string): number[] | null {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return null
  const octets = text.split('.').map(Number)
  return octets.every((octet) => octet <= 255) ? octets : null
}

function parseIpv6(text: string): number[] | null {
  const halves = text.split('::')
  if (!/^[0-9a-f:]+$/i.test(text) || halves.length > 2) return null
  const groups = halves.map((half) => (half === '' ? [] : half.split(':')))
  const given = groups.reduce((sum, half) => sum + half.length, 0)
  if (halves.length === 1 ? given !== 8 : given > 7) return null
  const all = halves.length === 1 ? groups[0] : [...groups[0], ...Array(8 - given).fill('0'), ...groups[1]]
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return null
  return all.flatMap((group) => {
    const value = Number.parseInt(group, 16)
    return [value >> 8, value & 255]
  })
}

/**
 * Compiles an expression; the empty one matches every frame.
 * @throws Error with the place and the word that is wrong
 */
export function compileFilter(text: string): Int32Array {
  if (text.trim() === '') return new Int32Array(0)
  const parser = new Parser(text)
  parser.parse()
  return Int32Array.from(parser.program)
}

// ---- evaluating ----

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
