/**
 * The language of capture filters, in the manner of tcpdump, and its compiler.
 *
 *   expression = term { or term }     term = factor { and factor }     factor = not factor | ( expression ) | primitive
 *   primitive  = [src|dst] host ADDRESS | [src|dst] net CIDR | [src|dst] port N | [src|dst] portrange N-M
 *              | ether [src|dst] host MAC | vlan [VID] | arp | ip | ip6 | icmp | icmp6 | tcp | udp | proto N
 *              | broadcast | multicast | greater BYTES | less BYTES
 *
 * `&&`, `||` and `!` are understood too; two primitives side by side mean `and`. Limits: 256 conditions, and brackets
 * as deep as the evaluator's stack of 32 results allows. What is wrong is refused with the place and the word.
 */
import {
  AND,
  BROADCAST,
  DESTINATION,
  EITHER,
  ETHER,
  GREATER,
  HOST4,
  HOST6,
  LESS,
  MULTICAST,
  NOT,
  OPERATION_WORDS,
  OR,
  PORTS,
  PROTOCOL,
  SOURCE,
  TYPE,
  TYPE_ARP,
  TYPE_IPV4,
  TYPE_IPV6,
  VLAN,
} from './filter.js'

const LEVELS_MAX = 32
const OPERATIONS_MAX = 256

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
