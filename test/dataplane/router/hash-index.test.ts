/**
 * The hash index against a plain Map in seeded random order, runs that wrap around the end of the section, and the
 * keyed hash: that every bit of a key moves the slot, that structured keys spread, and that no difference of two keys
 * cancels out whatever the secret.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HEADER_SECRET, HEADER_SIZE } from '../../../src/dataplane/layout.js'
import { HashIndex, KeyedHash } from '../../../src/dataplane/router/hash-index.js'
import { randomFrom } from '../rig.js'

const random32 = (random: (below: number) => number): number => random(2 ** 32) | 0

function keyed(seed: number, purpose = 1): KeyedHash {
  const random = randomFrom(seed)
  const header = new Int32Array(HEADER_SIZE / 4)
  for (let i = 0; i < 4; i++) header[HEADER_SECRET + i] = random32(random)
  return new KeyedHash(header, purpose)
}

/** All values that the index offers for a hash. */
function valuesOf(index: HashIndex, hash: number): number[] {
  const values: number[] = []
  for (let slot = index.first(hash); slot >= 0; slot = index.next(slot, hash)) values.push(index.value(slot))
  return values.sort((a, b) => a - b)
}

test('random insertions and removals, few hashes and many', () => {
  for (const [seed, hashes] of [
    [1, 3],
    [2, 40],
    [3, 2 ** 32],
  ]) {
    const random = randomFrom(seed)
    const index = new HashIndex(new Int32Array(256))
    const model = new Map<number, number>() // value to hash
    for (let step = 0; step < 20000; step++) {
      const value = random(90)
      const hash = model.get(value)
      if (hash === undefined) {
        // homes near the end of the section, so that runs wrap
        const fresh = hashes === 40 ? random(8) - 4 + (random(5) << 20) : random(hashes) | 0
        assert.equal(index.insert(fresh, value), true)
        model.set(value, fresh)
      } else {
        assert.deepEqual(
          valuesOf(index, hash),
          [...model.entries()]
            .filter(([, other]) => other === hash)
            .map(([key]) => key)
            .sort((a, b) => a - b),
        )
        assert.equal(index.remove(hash + 1, value), false)
        assert.equal(index.remove(hash, value), true)
        assert.equal(index.remove(hash, value), false)
        model.delete(value)
      }
      assert.equal(index.used, model.size)
    }
    for (const [value, hash] of model) assert.ok(valuesOf(index, hash).includes(value))
    for (const [value, hash] of model) assert.equal(index.remove(hash, value), true)
    assert.equal(index.used, 0)
  }
})

test('the section is all zero when everything is removed', () => {
  const slots = new Int32Array(64)
  const index = new HashIndex(slots)
  for (let i = 0; i < 20; i++) index.insert(30 + (i % 3), i)
  for (let i = 0; i < 20; i++) assert.ok(index.remove(30 + (i % 3), i))
  assert.ok(slots.every((word) => word === 0))
})

test('refuses when seven in eight slots are used, and search still ends', () => {
  const index = new HashIndex(new Int32Array(128))
  let inserted = 0
  while (index.insert(Math.imul(inserted, 77), inserted)) inserted++
  assert.equal(inserted, 55)
  assert.equal(index.first(0x7fffffff), -1)
  index.touch(Int32Array.of(1, -5, 0x7fffffff), 3)
  assert.ok(index.remove(0, 0))
  assert.ok(index.insert(5, 0xffffff))
  assert.deepEqual(valuesOf(index, 5), [0xffffff])
  index.clear()
  assert.equal(index.used, 0)
  assert.equal(index.first(5), -1)
})

test('a section that is no power of two is refused', () => {
  for (const words of [0, 2, 6, 100]) assert.throws(() => new HashIndex(new Int32Array(words)), RangeError)
})

test('every bit of a key changes about half of the hash', () => {
  const random = randomFrom(11)
  const hash = keyed(4)
  for (let word = 0; word < 4; word++)
    for (let bit = 0; bit < 32; bit++) {
      const changes = new Array<number>(32).fill(0)
      for (let i = 0; i < 400; i++) {
        const key = [0, 0, 0, 0].map(() => random32(random))
        const before = hash.mix(key[0], key[1], key[2], key[3])
        key[word] ^= 1 << bit
        const difference = before ^ hash.mix(key[0], key[1], key[2], key[3])
        for (let out = 0; out < 32; out++) changes[out] += (difference >>> out) & 1
      }
      for (const [out, count] of changes.entries())
        assert.ok(count > 60 && count < 340, `word ${word} bit ${bit} moves bit ${out} ${count} times in 400`)
    }
})

test('keys in sequence spread over the slots as random ones do', () => {
  const hash = keyed(5)
  const patterns: ((i: number) => [number, number, number, number])[] = [
    (i) => [6 << 24, 0x0a000001, 0x5db8d822, (i << 16) | 443],
    (i) => [6 << 24, 0x0a000001, i, (40000 << 16) | 443],
    (i) => [6 << 24, i << 8, i, 0],
    (i) => [i << 12, 0, 0, 0],
  ]
  const buckets = 1 << 14
  for (const [number, pattern] of patterns.entries()) {
    const load = new Int32Array(buckets)
    for (let i = 0; i < buckets; i++) load[hash.mix(...pattern(i)) & (buckets - 1)]++
    const empty = load.filter((count) => count === 0).length / buckets
    assert.ok(empty > 0.34 && empty < 0.4, `pattern ${number}: ${empty} empty, random keys leave 0.368`)
    assert.ok(Math.max(...load) < 12, `pattern ${number}`)
  }
})

test('no pair of high-bit changes cancels out under many secrets', () => {
  const random = randomFrom(6)
  let collisions = 0
  for (let seed = 0; seed < 300; seed++) {
    const hash = keyed(seed + 100)
    const key = [0, 0, 0, 0].map(() => random32(random))
    for (let first = 0; first < 4; first++)
      for (let second = first + 1; second < 4; second++)
        for (const bit of [31, 30, 16, 15]) {
          const other = [...key]
          other[first] ^= 1 << bit
          other[second] ^= 1 << bit
          const same = hash.mix(key[0], key[1], key[2], key[3]) === hash.mix(other[0], other[1], other[2], other[3])
          if (same) collisions++
        }
  }
  assert.ok(collisions <= 2, `${collisions} of 7200`)
})

test('tables with different purposes, and arenas with different secrets, hash differently', () => {
  const hashes = [keyed(1, 1), keyed(1, 2), keyed(2, 1)].map((hash) => hash.mix(1, 2, 3, 4))
  assert.equal(new Set(hashes).size, 3)
  assert.equal(keyed(1, 1).mix(1, 2, 3, 4), hashes[0])
})
