/** ICMPv6 frames and discovery options: vectors made with scapy 2.7, each read, written, cut short and broken. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatIp, parseIp } from '../../src/services/address.js'
import { readDiscoveryOptions, readIcmp6, writeDiscoveryOption, writeIcmp6 } from '../../src/services/icmp6-frame.js'

const solicitation = Buffer.from(
  '33330000000252540012345686dd6000000000103afffe80000000000000505400fffe123456' +
    'ff020000000000000000000000000002850071b5000000000101525400123456',
  'hex',
)

test('a message is read', () => {
  const message = readIcmp6(solicitation)!
  assert.equal(formatIp(message.source), 'fe80::5054:ff:fe12:3456')
  assert.equal(formatIp(message.destination), 'ff02::2')
  assert.equal(Buffer.from(message.sourceMac).toString('hex'), '525400123456')
  assert.equal(message.hopLimit, 255)
  assert.equal(message.bytes.length, 16)
  assert.deepEqual(readDiscoveryOptions(message.bytes, 8), [
    { type: 1, value: Uint8Array.from(Buffer.from('525400123456', 'hex')) },
  ])
})

test('and written again, byte for byte', () => {
  const message = readIcmp6(solicitation)!
  message.bytes[2] = 0x55
  assert.deepEqual(Buffer.from(writeIcmp6(message)), solicitation)
})

test('what is read is a copy', () => {
  const frame = new Uint8Array(solicitation)
  const message = readIcmp6(frame)!
  frame.fill(0xff)
  assert.equal(message.bytes[0], 133)
  assert.equal(message.sourceMac[0], 0x52)
})

test('padding behind the message is not part of it', () => {
  assert.equal(readIcmp6(Buffer.concat([solicitation, Buffer.alloc(30)]))!.bytes.length, 16)
})

test('every frame cut short is refused', () => {
  for (let length = 0; length < solicitation.length; length++)
    assert.equal(readIcmp6(solicitation.subarray(0, length)), null, `${length}`)
})

test('every changed bit that counts is refused', () => {
  const uncounted = new Set([14, 15, 16, 17, 21]) // traffic class, flow label, hop limit
  for (let bit = 14 * 8; bit < solicitation.length * 8; bit++) {
    const at = bit >> 3
    if (uncounted.has(at) && !(at === 14 && bit % 8 < 4)) continue
    const frame = new Uint8Array(solicitation)
    frame[at] ^= 0x80 >> (bit & 7)
    assert.equal(readIcmp6(frame), null, `bit ${bit}`)
  }
})

test('a group as the source, a tag, another protocol, extension headers are refused', () => {
  const message = readIcmp6(solicitation)!
  assert.equal(readIcmp6(writeIcmp6({ ...message, source: parseIp('ff02::1')! })), null)
  for (const [at, value] of [
    [12, 0x81],
    [13, 0x00],
    [20, 0], // hop-by-hop options
    [20, 44], // fragment
    [20, 17],
  ]) {
    const frame = new Uint8Array(solicitation)
    frame[at] = value
    assert.equal(readIcmp6(frame), null, `${at} ${value}`)
  }
})

test('options: lengths of 0 and beyond the end, pieces', () => {
  const bytes = Uint8Array.of(1, 1, 2, 3, 4, 5, 6, 7, 5, 1, 0, 0, 0, 0, 5, 220)
  assert.equal(readDiscoveryOptions(bytes, 0)!.length, 2)
  assert.deepEqual(readDiscoveryOptions(bytes, 16), [])
  assert.equal(readDiscoveryOptions(bytes, 17), null)
  for (let length = 1; length < 16; length++)
    assert.equal(readDiscoveryOptions(bytes.subarray(0, length), 0)?.length ?? null, length === 8 ? 1 : null)
  for (const [at, value] of [
    [1, 0],
    [9, 0],
    [9, 2],
    [1, 255],
  ])
    assert.equal(readDiscoveryOptions(bytes.with(at, value), 0), null, `${at} ${value}`)
})

test('options are written in units of eight', () => {
  for (const [length, size] of [
    [0, 8],
    [6, 8],
    [7, 16],
    [14, 16],
    [2038, 2040],
  ]) {
    const value = new Uint8Array(length).fill(7)
    const written = writeDiscoveryOption({ type: 3, value })
    assert.equal(written.length, size)
    assert.deepEqual(readDiscoveryOptions(written, 0)![0].value.subarray(0, length), value)
  }
  assert.throws(() => writeDiscoveryOption({ type: 3, value: new Uint8Array(2039) }), RangeError)
})
