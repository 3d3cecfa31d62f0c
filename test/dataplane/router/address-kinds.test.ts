/** Kinds of addresses, at the edges of each range. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as kinds from '../../../src/dataplane/router/address-kinds.js'

test('martians', () => {
  const ip = (text: string): number => text.split('.').reduce((word, octet) => (word << 8) | Number(octet), 0)
  const sources = ['0.0.0.0', '0.1.2.3', '127.0.0.1', '127.255.255.255', '224.0.0.1', '239.1.1.1', '240.0.0.1']
  for (const text of [...sources, '255.255.255.255']) assert.equal(kinds.isMartianSource4(ip(text)), true, text)
  for (const text of ['1.0.0.0', '10.0.0.1', '126.255.255.255', '128.0.0.1', '169.254.1.1', '223.255.255.255'])
    assert.equal(kinds.isMartianSource4(ip(text)), false, text)
  for (const text of ['0.0.0.0', '127.0.0.1', '240.0.0.1', '255.255.255.254'])
    assert.equal(kinds.isMartianDestination4(ip(text)), true, text)
  for (const text of ['10.0.0.1', '224.0.0.1', '239.255.255.255', '255.255.255.255'])
    assert.equal(kinds.isMartianDestination4(ip(text)), false, text)
  for (const text of ['224.0.0.0', '239.255.255.255', '255.255.255.255']) assert.equal(kinds.isGroup4(ip(text)), true)
  for (const text of ['223.255.255.255', '240.0.0.0', '10.0.0.255']) assert.equal(kinds.isGroup4(ip(text)), false)
  assert.deepEqual(
    ['169.254.0.0', '169.253.1.1'].map((text) => kinds.isLinkLocal4(ip(text))),
    [true, false],
  )
  const sixes: [words: number[], source: boolean, destination: boolean][] = [
    [[0, 0, 0, 0], true, true],
    [[0, 0, 0, 1], true, true],
    [[0, 0, 0xffff, 0x0a000001], true, true],
    [[0xff020000 | 0, 0, 0, 1], true, false],
    [[0xfe800000 | 0, 0, 0, 1], false, false],
    [[0x20010db8, 0, 0, 1], false, false],
    [[0, 1, 0, 0], false, false],
  ]
  for (const [[w0, w1, w2], source, destination] of sixes) {
    assert.equal(kinds.isMartianSource6(w0, w1, w2), source)
    assert.equal(kinds.isMartianDestination6(w0, w1, w2), destination)
  }
  assert.deepEqual([kinds.isGroup6(0xff020000 | 0), kinds.isGroup6(0xfe800000 | 0)], [true, false])
  const links = [0xfe800000 | 0, 0xfebf0000 | 0, 0xfec00000 | 0].map((word) => kinds.isLinkLocal6(word))
  assert.deepEqual(links, [true, true, false])
})
