/**
 * Checksum: sums over every alignment and length, and differences against sums made anew.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as checksums from '../../../src/dataplane/router/checksum.js'
import { Bench, build, randomBelow, sumOf, unhex } from './packet-builder.js'

const { advanced, changed16, changed32, checksum, corrected, fold, halves, swapped } = checksums

test('the example of RFC 1071 section 3', () => {
  const bytes = unhex('0001f203f4f5f6f7')
  const view = new DataView(bytes.buffer)
  assert.equal(fold(checksums.sumRange(view, 0, 8, 0)), 0xddf2)
  assert.equal(checksum(view, 0, 8, 0), 0x220d)
})

test('the examples of RFC 1624 section 4: equation 3 gives 0, never 0xffff', () => {
  assert.equal(corrected(0xdd2f, changed16(0x5555, 0x3285)), 0x0000)
  assert.equal(corrected(0x0000, changed16(0x3285, 0x5555)), 0xdd2f)
})

test('ranges of every alignment and length', () => {
  const random = randomBelow(71)
  const bytes = Uint8Array.from({ length: 200 }, () => random(256))
  const view = new DataView(bytes.buffer)
  for (let start = 0; start < 8; start++)
    for (let end = start; end < 120; end++) {
      const before = random(0x10000)
      const plain = sumOf([before >> 8, before & 255, ...bytes.slice(start, end)])
      assert.equal(fold(checksums.sumRange(view, start, end, before)), plain)
      assert.equal(checksum(view, start, end, before), 0xffff - plain)
    }
})

test('the longest frame, all ones, does not run over', () => {
  const view = new DataView(new Uint8Array(69632).fill(0xff).buffer)
  assert.equal(fold(checksums.sumRange(view, 0, 69632, 0xffff)), 0xffff)
  assert.equal(fold(checksums.sumRange(view, 0, 69631, 0)), sumOf(new Uint8Array(69631).fill(0xff)))
})

test('differences of words, at even and odd places, finished and unfinished', () => {
  const random = randomBelow(99)
  for (let i = 0; i < 20000; i++) {
    const bytes = Uint8Array.from({ length: 20 + random(20) }, () => [0, 255, random(256)][random(3)])
    bytes[0] = 1
    const view = new DataView(bytes.buffer)
    const before = sumOf(bytes)
    const at = random(bytes.length - 5) + 1
    let difference: number
    if (random(2) === 0) {
      const old = view.getUint16(at)
      const now = [0, 0xffff, random(0x10000)][random(3)]
      view.setUint16(at, now)
      difference = at % 2 === 0 ? changed16(old, now) : changed16(swapped(old), swapped(now))
    } else {
      const even = at & ~1
      if (even === 0) continue
      const old = view.getInt32(even)
      view.setInt32(even, [0, -1, random(0x7fffffff) - 0x3fffffff][random(3)])
      difference = changed32(old, view.getInt32(even))
    }
    assert.equal(corrected(0xffff - before, difference), 0xffff - sumOf(bytes))
    assert.equal(advanced(before, difference), sumOf(bytes))
  }
})

test('small words', () => {
  assert.equal(halves(-1), 0x1fffe)
  assert.equal(fold(-1), 0xffff)
  assert.equal(fold(0x1fffe), 0xffff)
  assert.equal(fold(0), 0)
  assert.equal(swapped(0x1234), 0x3412)
})

test('pseudo-headers, and ICMPv6', () => {
  const bench = new Bench()
  const words = [0x20010db8, -1, 0x00010000, 5]
  const packet = bench.put(
    build({ family: 6, source: words, destination: words, protocol: 58, type: 135, payload: [1, 2, 3] }),
  )
  const l3 = bench.pool.records[packet << 4] + 14
  assert.equal(checksums.icmp6Checksum(bench.pool, l3, l3 + 40, l3 + 51), 0)
  const field = bench.pool.view.getUint16(l3 + 42)
  bench.pool.view.setUint16(l3 + 42, 0)
  assert.equal(checksums.icmp6Checksum(bench.pool, l3, l3 + 40, l3 + 51), field)
  const plain = sumOf(unhex('0a000001c0a80101001105dc'))
  assert.equal(fold(checksums.pseudoHeader4(0x0a000001, 0xc0a80101 | 0, 17, 1500)), plain)
})
