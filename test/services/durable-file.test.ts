/** Durable files: what stands at the path is the old content or the new, and nothing else stays behind. */
import assert from 'node:assert/strict'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { exchangeFile, replaceFile, syncFolder } from '../../src/services/durable-file.js'

const folder = mkdtempSync(join(tmpdir(), 'weft-durable-'))
after(() => rmSync(folder, { recursive: true }))

test('a file is made, then replaced, with its mode and no other file', () => {
  const path = join(folder, 'some.json')
  replaceFile(path, Buffer.from('first, and longer'), 0o640)
  replaceFile(path, Buffer.from('second'), 0o600)
  assert.equal(readFileSync(path, 'utf8'), 'second')
  assert.equal(statSync(path).mode & 0o777, 0o600)
  assert.deepEqual(readdirSync(folder), ['some.json'])
})

test('what a crash left beside it does no harm', () => {
  const path = join(folder, 'some.json')
  writeFileSync(join(folder, '.some.json.new'), 'half of something much longer')
  replaceFile(path, Buffer.from('third'))
  assert.equal(readFileSync(path, 'utf8'), 'third')
  assert.deepEqual(readdirSync(folder), ['some.json'])
})

test('an exchanged file is the one that is written on to', () => {
  const path = join(folder, 'some.json')
  const fd = exchangeFile(path, Buffer.from('fourth'))
  writeSync(fd, ' and fifth', 6)
  closeSync(fd)
  assert.equal(readFileSync(path, 'utf8'), 'fourth and fifth')
})

test('what cannot be put there leaves things as they were', () => {
  const path = join(folder, 'taken')
  mkdirSync(join(path, 'below'), { recursive: true })
  assert.throws(() => replaceFile(path, Buffer.from('x')), { code: 'EISDIR' })
  assert.throws(() => replaceFile(join(folder, 'gone', 'file'), Buffer.from('x')), { code: 'ENOENT' })
  assert.throws(() => syncFolder(join(folder, 'gone')), { code: 'ENOENT' })
  assert.deepEqual(readdirSync(folder).toSorted(), ['some.json', 'taken'])
})
