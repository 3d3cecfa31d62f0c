/**
 * Capture filters: a vector for every primitive, what the compiler refuses and where, and that nothing is read beyond
 * the frame whatever the frame says.
 *
 * The frames are written out in hex by field, from RFC 791, 8200, 826, 9293 and 768.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compileFilter } from '../../src/dataplane/filter-compile.js'
import { Filter } from '../../src/dataplane/filter.js'
import { LENGTH, OFFSET, TAG_PRESENT } from '../../src/dataplane/layout.js'
import { randomFrom } from './rig.js'

const hex = (...parts: string[]): Uint8Array =>
  Uint8Array.from(Buffer.from(parts.join('').replaceAll(/[ :]/g, ''), 'hex'))
const A = '02:00:00:00:00:0a'
const B = '02:00:00:00:00:0b'
const v4 = (protocol: string, rest: string, fragment = '0000'): Uint8Array =>
  hex(B, A, '0800', '4500 0030 0001', fragment, '40', protocol, '0000', '0a000001', 'c0a80102', rest)
const v6 = (next: string, rest: string): Uint8Array =>
  hex(
    B,
    A,
    '86dd',
    '60000000 0020',
    next,
    '40',
    'fd00 0000 0000 0000 0000 0000 0000 0001',
    'fd00 0000 0000 0000 0000 0000 0000 0002',
    rest,
  )
const PORTS = '04d2 0050 00000000 00000000 50020000 00000000'

const frames = {
  tcp: v4('06', PORTS),
  udp: v4('11', '0035 1f90 0008 0000'),
  icmp: v4('01', '0800 0000 0001 0001'),
  later: v4('06', PORTS, '2001'),
  first: v4('06', PORTS, '2000'),
  options: hex(B, A, '0800', '4600 0034 0001 0000 40 06 0000 0a000001 c0a80102 01010101', PORTS),
  tcp6: v6('06', PORTS),
  hops: v6('00', `2c00 0000 0000 0000 0600 0000 0000 0001 ${PORTS}`), // hop-by-hop, first fragment, TCP
  later6: v6('2c', `0600 0009 0000 0001 ${PORTS}`),
  icmp6: v6('3a', '8700 0000 00000000'),
  arp: hex('ffffffffffff', A, '0806', '0001 0800 06 04 0001', A, '0a000001', '000000000000', '0a000002'),
  group: hex('333300000001', A, '86dd', '00'.repeat(60)),
  tagged: hex(B, A, '8100 a00a 0800', '4500 0030 0001 0000 40 11 0000 0a000001 c0a80102 0035 1f90 0008 0000'),
  short: hex(B, A, '0800', '45'),
}
type Name = keyof typeof frames
const all = Object.keys(frames) as Name[]

/** The frame stands in the middle of bytes that would match, were they read. */
function matches(filter: string | Int32Array, bytes: Uint8Array, tag = 0, around = 0): boolean {
  const program = typeof filter === 'string' ? compileFilter(filter) : filter
  const room = new Uint8Array(bytes.length + 512).fill(around)
  room.set(bytes, 256)
  const records = new Int32Array(32)
  records[16 + OFFSET] = 256
  records[16 + LENGTH] = bytes.length
  return new Filter(room, records).matches(program, 1, tag)
}

const ipv4: Name[] = ['tcp', 'udp', 'icmp', 'later', 'first', 'options', 'tagged']
const ipv6: Name[] = ['tcp6', 'hops', 'later6', 'icmp6']
const tcpPorts: Name[] = ['tcp', 'first', 'options', 'tcp6', 'hops']
const vectors: [filter: string, matching: Name[]][] = [
  ['', all],
  ['ip', [...ipv4, 'short']],
  ['ip6', [...ipv6, 'group']],
  ['arp', ['arp']],
  ['tcp', ['tcp', 'later', 'first', 'options', 'tcp6', 'hops', 'later6']],
  ['udp', ['udp', 'tagged']],
  ['icmp', ['icmp']],
  ['icmp6', ['icmp6']],
  ['proto 17', ['udp', 'tagged']],
  ['host 10.0.0.1', [...ipv4, 'arp']],
  ['src host 10.0.0.1', [...ipv4, 'arp']],
  ['dst host 10.0.0.1', []],
  ['dst host 192.168.1.2', ipv4],
  ['dst host 10.0.0.2', ['arp']],
  ['net 192.168.0.0/16', ipv4],
  ['dst net 192.168.1.0/31', []],
  ['dst net 192.168.1.2/31', ipv4],
  ['net 0.0.0.0/0', [...ipv4, 'arp']],
  ['host fd00::1', ipv6],
  ['src host fd00::2', []],
  ['net fd00::/16', ipv6],
  ['dst net fd00::2/127', ipv6],
  ['dst net fd00::4/126', []],
  ['net ::/0', [...ipv6, 'group']],
  ['port 80', tcpPorts],
  ['src port 80', []],
  ['dst port 80', tcpPorts],
  ['src port 1234', tcpPorts],
  ['port 8080', ['udp', 'tagged']],
  ['portrange 50-60', ['udp', 'tagged']],
  ['dst portrange 1-100', tcpPorts],
  [`ether host ${A}`, all],
  [`ether src ${A}`, all],
  [`ether dst ${A}`, []],
  ['ether dst host 02:00:00:00:00:0B', all.filter((name) => name !== 'arp' && name !== 'group')],
  ['broadcast', ['arp']],
  ['multicast', ['arp', 'group']],
  ['vlan', ['tagged']],
  ['vlan 10', ['tagged']],
  ['vlan 11', []],
  ['less 42', ['icmp', 'udp', 'arp', 'short'].filter((name) => frames[name as Name].length <= 42) as Name[]],
  ['greater 74', all.filter((name) => frames[name].length >= 74)],
  ['not ip', all.filter((name) => ![...ipv4, 'short'].includes(name))],
  ['arp or icmp and host 10.0.0.1', ['arp', 'icmp']],
  ['(arp or icmp) and dst host 10.0.0.2', ['arp']],
  ['tcp port 80 and not ip6', ['tcp', 'first', 'options']],
  ['! ( tcp || udp ) && ip', ['icmp', 'short']],
  ['not not arp', ['arp']],
]

for (const [filter, matching] of vectors)
  test(`'${filter}' matches ${matching.length} of ${all.length} frames`, () => {
    for (const name of all) assert.equal(matches(filter, frames[name]), matching.includes(name), name)
  })

test('a tag that stands in the record counts as one in the frame', () => {
  assert.ok(matches('vlan 10 and udp', frames.udp, TAG_PRESENT | 0x600a))
  assert.ok(!matches('vlan 11', frames.udp, TAG_PRESENT | 10))
  assert.ok(!matches('vlan', frames.udp))
})

test('what is wrong is refused with its place', () => {
  const wrong: [string, RegExp][] = [
    ['foo', /word 1: 'foo' is no condition/],
    ['tcp and', /word 2: a condition is missing/],
    ['arp )', /word 2: '\)' is not expected/],
    ['( arp', /word 2: '\)' is missing/],
    ['host', /word 1: an address is missing/],
    ['arp or host 1.2.3', /word 4: '1\.2\.3' is no IP address/],
    ['host 1.2.3.256', /no IP address/],
    ['host 1.2.3.4/8', /is a network: write net/],
    ['net 1.2.3.4/33', /'33' is not 0\.\.32/],
    ['net fd00::/129', /'129' is not 0\.\.128/],
    ['net 1.2.3.4/', /'' is not/],
    ['host fd00::1::2', /no IP address/],
    ['host 1:2:3:4:5:6:7', /no IP address/],
    ['host 1:2:3:4:5:6:7:8:9', /no IP address/],
    ['host 12345::', /no IP address/],
    ['port 65536', /word 2: '65536' is not 0\.\.65535/],
    ['port http', /'http' is not/],
    ['portrange 5', /'' is not/],
    ['src tcp', /'tcp' cannot stand behind 'src'/],
    ['src', /host, net, port or portrange/],
    ['vlan 4095', /'4095' is not 0\.\.4094/],
    ['proto 256', /'256' is not 0\.\.255/],
    ['ether host 02:00', /no MAC address/],
    ['greater -1', /'-1' is not/],
    ['arp & ip', /'&' is no condition/],
    ['('.repeat(40) + 'arp' + ')'.repeat(40), /more than 32 levels/],
    ['not '.repeat(40) + 'arp', /more than 32 levels/],
    [Array(200).fill('arp').join(' or '), /more than 256/],
    ['arp or ip and ('.repeat(17) + 'udp' + ')'.repeat(17), /more than 32 levels/],
  ]
  for (const [filter, reason] of wrong) assert.throws(() => compileFilter(filter), reason, filter)
})

test('the deepest expression that is accepted gives the right answer', () => {
  // each level leaves two results on the stack below the next
  const deep = (levels: number): string => 'arp or ip and ('.repeat(levels) + 'udp' + ')'.repeat(levels)
  assert.ok(matches(deep(15), frames.udp))
  assert.ok(!matches(deep(15), frames.tcp))
  assert.ok(matches(deep(15), frames.arp))
})

test('random expressions agree with their meaning', () => {
  const random = randomFrom(11)
  const leaves = vectors.map(([filter]) => filter).filter((filter) => filter !== '' && !/ and | or |[!(]/.test(filter))
  const make = (level: number): [text: string, holds: (name: Name) => boolean] => {
    const kind = level === 0 ? 0 : random(4)
    if (kind === 0) {
      const leaf = leaves[random(leaves.length)]
      const matching = new Set(vectors.find(([filter]) => filter === leaf)![1])
      return [leaf, (name) => matching.has(name)]
    }
    const [left, isLeft] = make(level - 1)
    if (kind === 1) return [`not (${left})`, (name) => !isLeft(name)]
    const [right, isRight] = make(level - 1)
    if (kind === 2) return [`(${left}) and (${right})`, (name) => isLeft(name) && isRight(name)]
    return [`(${left}) or (${right})`, (name) => isLeft(name) || isRight(name)]
  }
  for (let round = 0; round < 500; round++) {
    const [text, holds] = make(5)
    const program = compileFilter(text)
    for (const name of all) assert.equal(matches(program, frames[name]), holds(name), `${text}: ${name}`)
  }
})

test('nothing beyond the frame is read, whatever it claims', () => {
  const programs = vectors.filter(([filter]) => filter !== '').map(([filter]) => compileFilter(filter))
  const random = randomFrom(12)
  for (let round = 0; round < 4000; round++) {
    const whole = frames[all[random(all.length)]].slice()
    for (let i = random(4); i > 0; i--) whole[12 + random(whole.length - 12)] = random(256)
    const cut = whole.slice(0, random(whole.length + 1))
    for (const program of programs) {
      const answer = matches(program, cut, 0, 0)
      assert.equal(matches(program, cut, 0, 0xff), answer)
      assert.equal(matches(program, cut, 0, 0x06), answer)
    }
  }
})
