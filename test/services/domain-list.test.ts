/** Domain names on the wire: RFC 1035 section 3.1 by hand, limits, pieces, what is refused. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readDomain, writeDomain, writeDomains } from '../../src/services/domain-list.js'

const wire = (...labels: string[]): Uint8Array =>
  Uint8Array.from(labels.flatMap((label) => [label.length, ...Buffer.from(label, 'latin1')]))
const complete = (...labels: string[]): Uint8Array => Uint8Array.of(...wire(...labels), 0)

test('names are written and read', () => {
  for (const [name, labels] of [
    ['example.test', ['example', 'test']],
    ['A.Example.Test.', ['a', 'example', 'test']],
    ['_dns.x-y.z', ['_dns', 'x-y', 'z']],
    ['a', ['a']],
    [`${'a'.repeat(63)}.b`, ['a'.repeat(63), 'b']],
  ] as const) {
    const bytes = complete(...labels)
    assert.deepEqual(writeDomain(name), bytes)
    assert.deepEqual(readDomain(bytes), { name: labels.join('.'), isComplete: true })
    for (let length = 1; length < bytes.length; length++) {
      const cut = readDomain(bytes.subarray(0, length))
      if (cut !== null) assert.equal(cut.isComplete, false)
    }
  }
  assert.deepEqual(writeDomains(['a.b', 'no name', 'c']), Uint8Array.of(1, 97, 1, 98, 0, 1, 99, 0))
})

test('parts of names', () => {
  assert.deepEqual(readDomain(wire('Web')), { name: 'web', isComplete: false })
  assert.deepEqual(readDomain(new Uint8Array(0)), { name: '', isComplete: false })
  assert.deepEqual(readDomain(Uint8Array.of(0)), { name: '', isComplete: true })
})

test('what is no name is refused', () => {
  const long = ['a', 'b', 'c', 'd'].map((letter) => letter.repeat(63))
  for (const name of ['', '.', 'a..b', '-a', 'a-', 'a b', 'ä', 'a'.repeat(64), long.join('.'), 'a\0b'])
    assert.equal(writeDomain(name), null, name)
  for (const bytes of [
    [0xc0, 0], // a pointer
    [0x40, 97],
    [64, ...new Array(64).fill(97), 0],
    [5, 97],
    [1, 97, 0, 0],
    [1, 97, 0, 1, 98, 0],
    [1, 0, 0],
    [1, 46, 0],
    [1, 45, 0],
    [1, 0xe4, 0],
    complete(...long),
  ])
    assert.equal(readDomain(Uint8Array.from(bytes)), null, `${bytes}`)
})
