/**
 * native/checksum.c: published vectors, and random bytes of every length and alignment against the slow sum of the rig.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { checksum } from '../rig/frames.js'
import { ask, askOne, cannotCompile, hex, seeded } from './ask.js'

const complemented = (bytes: Uint8Array): string => (~checksum(bytes) & 0xffff).toString(16).padStart(4, '0')

suite('checksum', { skip: cannotCompile }, () => {
  test('the example of RFC 1071, section 3', async () => {
    assert.equal(await askOne('sum 0 0001f203f4f5f6f7'), 'ddf2')
  })

  test('an IPv4 header with its checksum sums to ffff (example of Wikipedia, "Internet checksum")', async () => {
    assert.equal(await askOne('sum 0 450000730000400040110000c0a80001c0a800c7'), '479e') // ~b861
    assert.equal(await askOne('sum 0 45000073000040004011b861c0a80001c0a800c7'), 'ffff')
  })

  test('nothing, one byte, carries that ripple', async () => {
    const answers = await ask(['sum 0 ', 'sum 0 ab', 'sum 0 ffff', 'sum 0 ffff0001', `sum 0 ${'ff'.repeat(65535)}`])
    assert.deepEqual(answers, ['0000', 'ab00', 'ffff', '0001', 'ff00'])
  })

  test('every length up to 130 bytes at every alignment', async () => {
    const random = seeded(1071)
    const questions: string[] = []
    const expected: string[] = []
    for (let length = 1; length <= 130; length++) {
      const bytes = Uint8Array.from({ length }, () => random())
      questions.push(`sum ${length % 8} ${hex(bytes)}`, `sum ${random() % 8} ${hex(bytes)}`)
      expected.push(complemented(bytes), complemented(bytes))
    }
    for (const length of [1448, 9001, 65535, 69566]) {
      const bytes = Uint8Array.from({ length }, () => random())
      questions.push(`sum 1 ${hex(bytes)}`)
      expected.push(complemented(bytes))
    }
    assert.deepEqual(await ask(questions), expected)
  })
})
