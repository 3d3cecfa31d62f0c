/**
 * IP addresses and prefixes: vectors of RFC 4291 and RFC 5952, `node:net` as the judge of what is an address, the URL
 * parser as a second writer of canonical text, and BigInt arithmetic as the model.
 */
import assert from 'node:assert/strict'
import { isIP } from 'node:net'
import { test } from 'node:test'
import {
  type Ip,
  addToIp,
  bitsOf,
  compareIp,
  contains,
  eui64,
  familyOf,
  formatIp,
  formatPrefix,
  groupMac,
  ipBytes,
  ipFromBytes,
  isBroadcast,
  isHostAddress,
  isLinkLocal,
  isLoopback,
  isMapped,
  isMulticast,
  isPrivate,
  isShared,
  isUnspecified,
  lastOf,
  linkLocalOf,
  maskIp,
  maskOf,
  networkOf,
  overlaps,
  parseIp,
  parseNetwork,
  parseNetworkOrIp,
  parsePrefix,
  solicitedNodeOf,
  stepsBetween,
} from '../../src/services/address.js'

const ip = (text: string): Ip => {
  const parsed = parseIp(text)
  assert.ok(parsed, text)
  return parsed
}

let seed = 7
const random = (below: number): number => {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0
  return (seed >>> 8) % below
}
const randomWord = (): number =>
  random(3) === 0 ? [0, -1, 0xffff][random(3)] : (random(1 << 24) << 8) ^ random(1 << 24)
const randomIp = (words: number): Ip => Array.from({ length: words }, randomWord)
const big = (of: Ip): bigint => of.reduce((sum, word) => (sum << 32n) | BigInt(word >>> 0), 0n)

/** Text, and its canonical text where that differs. */
const GOOD: [text: string, canonical?: string][] = [
  ['0.0.0.0'],
  ['255.255.255.255'],
  ['10.0.0.1'],
  ['192.168.127.9'],
  ['::'],
  ['::1'],
  ['1::'],
  ['2001:db8::1'],
  // RFC 5952 section 4 and 5
  ['2001:0db8::0001', '2001:db8::1'],
  ['2001:db8:0:0:0:0:2:1', '2001:db8::2:1'],
  ['2001:db8:0:1:1:1:1:1'],
  ['2001:db8::1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
  ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
  ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
  ['2001:DB8:A:bCd::F', '2001:db8:a:bcd::f'],
  ['::ffff:192.0.2.1'],
  ['::ffff:c000:201', '::ffff:192.0.2.1'],
  ['::192.0.2.1', '::c000:201'],
  ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
  ['1:2:3:4:5:6:1.2.3.4', '1:2:3:4:5:6:102:304'],
  ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
  ['::2:3:4:5:6:7:8', '0:2:3:4:5:6:7:8'],
  ['0:0:0:0:0:0:0:0', '::'],
]

/** Comma-separated: what is no address. */
const BAD = [
  ', ,1,10.1,10.0.1,1.2.3.4.5,1.2.3.256,01.2.3.4,1.2.3.00,0x1.2.3.4,1.2.3.4 , 1.2.3.4,1.2.3.,.1.2.3',
  '1..2.3,1.2.3.-4,1.2.3.4\n,1.2.3.4/8,a.b.c.d,1.2.3.1e1,\u0661.2.3.4',
  ':,:::,1:2:3:4:5:6:7,1:2:3:4:5:6:7:8:9,1:2:3:4:5:6:7:8::,::1:2:3:4:5:6:7:8,1::2::3,12345::,g::,1:,:1',
  '1::2:,:1::2,::1.2.3,::01.2.3.4,1.2.3.4::,1.2.3.4:1::,::1.2.3.4:1,::1 ,[::1],::-1,::+1',
  '1:2:3:4:5:6:7:1.2.3.4,::1.2.3.4.5,::/0,::\n',
].flatMap((texts) => texts.split(','))

test('text to address and back', () => {
  for (const [text, canonical = text] of GOOD) {
    assert.ok(isIP(text) > 0, text)
    assert.equal(formatIp(ip(text)), canonical, text)
    assert.deepEqual(ip(canonical), ip(text))
    assert.equal(familyOf(ip(text)), isIP(text))
    assert.equal(bitsOf(ip(text)), isIP(text) === 4 ? 32 : 128)
  }
  for (const text of BAD) {
    assert.equal(parseIp(text), null, JSON.stringify(text))
    assert.equal(isIP(text), 0, JSON.stringify(text))
  }
  assert.equal(parseIp('fe80::1%eth0'), null) // the one difference to isIP
})

test('words are as they stand in the packet', () => {
  assert.deepEqual(ip('10.1.2.3'), [0x0a010203])
  assert.deepEqual(ip('192.0.2.1'), [0xc0000201 | 0])
  assert.deepEqual(ip('2001:db8::8000:1'), [0x20010db8, 0, 0, 0x80000001 | 0])
})

test('random addresses keep their value, and the canonical text is the one of others', () => {
  for (let i = 0; i < 5000; i++) {
    const one = randomIp(random(2) === 0 ? 1 : 4)
    const text = formatIp(one)
    assert.deepEqual(parseIp(text), one)
    assert.deepEqual(ipFromBytes(ipBytes(one)), one)
    if (one.length === 4 && !isMapped(one)) assert.equal(new URL(`http://[${text}]/`).hostname, `[${text}]`)
  }
})

test('mutated text is read as node:net reads it', () => {
  const letters = '0123456789abcdefF:::...%/ x'
  for (let i = 0; i < 20000; i++) {
    const text = GOOD[random(GOOD.length)][0].split('')
    for (let edits = random(3); edits >= 0; edits--) {
      const at = random(text.length + 1)
      text.splice(at, random(2), ...(random(3) > 0 ? [letters[random(letters.length)]] : []))
    }
    const changed = text.join('')
    const family = changed.includes('%') ? 0 : isIP(changed)
    const parsed = parseIp(changed)
    assert.equal(parsed === null ? 0 : familyOf(parsed), family, changed)
    if (parsed?.length === 4)
      assert.deepEqual(ip(new URL(`http://[${changed}]/`).hostname.slice(1, -1)), parsed, changed)
  }
})

test('bytes of the wrong length are refused', () => {
  const bytes = new Uint8Array(24)
  bytes.set([1, 2, 3, 4], 5)
  assert.deepEqual(ipFromBytes(bytes, 5, 4), [0x01020304])
  assert.deepEqual(ipFromBytes(bytes, 8), [0x04000000, 0, 0, 0])
  const wrong: [at: number, length: number][] = [
    [0, 24],
    [21, 4],
    [9, 16],
    [-1, 4],
    [0, 5],
    [0, 0],
  ]
  for (const [at, length] of wrong) assert.throws(() => ipFromBytes(bytes, at, length), RangeError)
})

test('prefixes: bits behind the length are kept or refused', () => {
  assert.deepEqual(parsePrefix('10.1.2.3/8'), { ip: ip('10.1.2.3'), prefix: 8 })
  assert.deepEqual(parsePrefix('fe80::1/64'), { ip: ip('fe80::1'), prefix: 64 })
  assert.equal(parseNetwork('10.1.2.3/8'), null)
  assert.equal(parseNetwork('fe80::1/64'), null)
  assert.equal(formatPrefix(parseNetwork('10.0.0.0/8')!), '10.0.0.0/8')
  assert.equal(formatPrefix(parseNetwork('2001:DB8::/32')!), '2001:db8::/32')
  assert.equal(formatPrefix(parseNetwork('0.0.0.0/0')!), '0.0.0.0/0')
  assert.equal(formatPrefix(parseNetwork('::/0')!), '::/0')
  assert.equal(formatPrefix(networkOf(parsePrefix('10.1.2.3/15')!)), '10.0.0.0/15')
  assert.equal(formatPrefix(parseNetworkOrIp('10.1.2.3')!), '10.1.2.3/32')
  assert.equal(formatPrefix(parseNetworkOrIp('fe80::1')!), 'fe80::1/128')
  assert.equal(formatPrefix(parseNetworkOrIp('10.0.0.0/8')!), '10.0.0.0/8')
  for (const text of ['10.0.0.1', '10.0.0.0/', '/8', '10.0.0.0/33', '::/129', '10.0.0.0/08', '10.0.0.0/8/8', '10/8'])
    assert.equal(parsePrefix(text), null, text)
  for (const text of ['10.0.0.0/-1', '10.0.0.0/+8', '10.0.0.0/ 8', '10.0.0.0/255.0.0.0', '10.0.0.0/1e1', ''])
    assert.equal(parsePrefix(text), null, text)
  for (const text of ['10.0.0.1/8', 'vm1', '']) assert.equal(parseNetworkOrIp(text), null, text)
})

test('masks, members, overlaps and order are those of numbers', () => {
  for (let i = 0; i < 5000; i++) {
    const words = random(2) === 0 ? 1 : 4
    const bits = BigInt(words * 32)
    const a = { ip: randomIp(words), prefix: random(words * 32 + 1) }
    const b = { ip: random(2) === 0 ? randomIp(words) : a.ip.slice(), prefix: random(words * 32 + 1) }
    if (random(2) === 0) b.ip[random(words)] ^= 1 << random(32)
    const shift = bits - BigInt(a.prefix)
    const mask = ((1n << BigInt(a.prefix)) - 1n) << shift
    assert.equal(big(maskOf(words === 1 ? 4 : 6, a.prefix)), mask)
    assert.equal(big(maskIp(a.ip, a.prefix)), big(a.ip) & mask)
    assert.equal(big(lastOf(a)), big(a.ip) | ((1n << shift) - 1n))
    assert.equal(contains(a, b.ip), big(a.ip) >> shift === big(b.ip) >> shift)
    const longest = bits - BigInt(Math.min(a.prefix, b.prefix))
    assert.equal(overlaps(a, b), big(a.ip) >> longest === big(b.ip) >> longest)
    assert.equal(Math.sign(compareIp(a.ip, b.ip)), big(a.ip) < big(b.ip) ? -1 : big(a.ip) > big(b.ip) ? 1 : 0)
  }
  assert.ok(compareIp(ip('255.255.255.255'), ip('::')) < 0)
  assert.ok(!contains(parsePrefix('::/0')!, ip('10.0.0.1')))
  assert.ok(!overlaps(parsePrefix('::/0')!, parsePrefix('0.0.0.0/0')!))
})

test('adding and subtracting carries, and goes round at the ends', () => {
  for (let i = 0; i < 5000; i++) {
    const one = randomIp(random(2) === 0 ? 1 : 4)
    const size = [random(3), random(1 << 24), random(1 << 24) * 2 ** 24 + random(1 << 24)][random(3)]
    const n = random(2) === 0 ? size : -size
    const sum = addToIp(one, n)
    assert.equal(big(sum), BigInt.asUintN(one.length * 32, big(one) + BigInt(n)))
    assert.ok(sum.every((word) => word === (word | 0)))
    const steps = big(sum) - big(one)
    if (steps > -(2n ** 53n) && steps < 2n ** 53n) assert.equal(stepsBetween(one, sum), Number(steps))
  }
  assert.equal(formatIp(addToIp(ip('10.0.0.255'), 1)), '10.0.1.0')
  assert.equal(formatIp(addToIp(ip('255.255.255.255'), 1)), '0.0.0.0')
  assert.equal(formatIp(addToIp(ip('2001:db8::'), -1)), '2001:db7:ffff:ffff:ffff:ffff:ffff:ffff')
  assert.ok(Number.isNaN(stepsBetween(ip('::'), ip('0.0.0.0'))))
})

test('what an address is', () => {
  const kinds = { isUnspecified, isLoopback, isLinkLocal, isMulticast, isPrivate, isShared, isBroadcast, isMapped }
  const table: [string, ...(keyof typeof kinds | 'isHostAddress')[]][] = [
    ['0.0.0.0', 'isUnspecified'],
    ['0.0.0.1'],
    ['::', 'isUnspecified'],
    ['127.255.0.1', 'isLoopback'],
    ['::1', 'isLoopback'],
    ['::2', 'isHostAddress'],
    ['169.254.1.1', 'isLinkLocal', 'isHostAddress'],
    ['169.255.1.1', 'isHostAddress'],
    ['febf::1', 'isLinkLocal', 'isHostAddress'],
    ['fec0::1', 'isHostAddress'],
    ['223.255.255.255', 'isHostAddress'],
    ['224.0.0.1', 'isMulticast'],
    ['239.255.255.255', 'isMulticast'],
    ['240.0.0.1'],
    ['255.255.255.255', 'isBroadcast'],
    ['ff02::1', 'isMulticast'],
    ['10.255.255.255', 'isPrivate', 'isHostAddress'],
    ['11.0.0.0', 'isHostAddress'],
    ['172.15.255.255', 'isHostAddress'],
    ['172.16.0.0', 'isPrivate', 'isHostAddress'],
    ['172.31.255.255', 'isPrivate', 'isHostAddress'],
    ['172.32.0.0', 'isHostAddress'],
    ['192.168.0.1', 'isPrivate', 'isHostAddress'],
    ['fdff::1', 'isPrivate', 'isHostAddress'],
    ['fe00::1', 'isHostAddress'],
    ['100.64.0.1', 'isShared', 'isHostAddress'],
    ['100.128.0.1', 'isHostAddress'],
    ['::ffff:10.0.0.1', 'isMapped'],
    ['2001:db8::1', 'isHostAddress'],
  ]
  for (const [text, ...are] of table)
    for (const [name, is] of Object.entries({ ...kinds, isHostAddress }))
      assert.equal(is(ip(text)), (are as string[]).includes(name), `${name} ${text}`)
})

test('addresses made of a MAC or of another address', () => {
  const mac = [0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde] // RFC 2464 section 4
  assert.equal(formatIp(linkLocalOf(mac)), 'fe80::3656:78ff:fe9a:bcde')
  assert.equal(formatIp(eui64(parsePrefix('2001:db8:1:2::5/64')!, mac)), '2001:db8:1:2:3656:78ff:fe9a:bcde')
  assert.equal(formatIp(eui64(parsePrefix('2001:db8:1:2::/48')!, mac)), '2001:db8:1:0:3656:78ff:fe9a:bcde')
  assert.equal(formatIp(linkLocalOf([0x52, 0, 0, 0, 0, 1])), 'fe80::5000:ff:fe00:1')
  assert.equal(formatIp(solicitedNodeOf(ip('4037::1:800:200e:8c6c'))), 'ff02::1:ff0e:8c6c') // RFC 4291 section 2.7.1
  assert.deepEqual([...groupMac(ip('224.129.2.3'))], [1, 0, 0x5e, 1, 2, 3])
  assert.deepEqual([...groupMac(ip('ff02::1:ff0e:8c6c'))], [0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c])
})
