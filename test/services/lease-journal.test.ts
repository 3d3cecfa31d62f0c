/**
 * services/lease-journal.ts with leases.ts: restarts, a crash at every byte of the file, corrupt lines, growth, a disk
 * that refuses.
 */
import assert from 'node:assert/strict'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, suite, test } from 'node:test'
import { LeaseJournal } from '../../src/services/lease-journal.js'
import { DEFAULT_LEASE_SETTINGS, Leases } from '../../src/services/leases.js'
import type { Holder, Lease } from '../../src/services/leases.js'
import { ip } from './dhcp4-rig.js'

const NOW = 1_800_000_000
const pool = { subnet: { ip: ip('10.0.0.0'), prefix: 24 }, range: { from: ip('10.0.0.2'), to: ip('10.0.0.250') } }
const folder = mkdtempSync(join(tmpdir(), 'weft-leases-'))
after(() => rmSync(folder, { recursive: true }))
let files = 0

const holder = (n: number): Holder => ({ mac: `52:54:00:00:00:0${n}`, port: `p${n}`, client: '01', association: '' })

interface Opened {
  journal: LeaseJournal
  leases: Leases
}

function open(path: string, now = NOW): Opened {
  const journal = new LeaseJournal(path)
  const leases = new Leases('net', journal, now, () => undefined)
  leases.configure({ ...DEFAULT_LEASE_SETTINGS, portLimit: 1000 })
  return { journal, leases }
}

function take({ leases }: Opened, who: Holder, now = NOW, name: string | null = null): Lease {
  const lease = leases.grant(who, pool, leases.offer(who, pool, null, now)!.address, 3600, name, now)!
  leases.commit()
  return lease
}

const path = (): string => join(folder, `${files++}.journal`)
const shown = ({ leases }: Opened): string[] =>
  leases.list().map(({ text, mac, port, hostname, expiresAt }) => [text, mac, port, hostname, expiresAt].join(' '))

suite('lease-journal', () => {
  test('leases, names, quarantine and what was released come back', () => {
    const file = path()
    const first = open(file)
    for (let n = 1; n <= 5; n++) take(first, holder(n), NOW, `vm${n}`)
    const given = first.leases.find(holder(2), ip('10.0.0.0'))!.text
    first.leases.release(ip(given), NOW)
    first.leases.quarantine(ip('10.0.0.99'))
    first.leases.commit()
    const again = open(file, NOW + 5)
    assert.deepEqual(shown(again), shown(first))
    assert.equal(again.leases.byName('vm3').length, 1)
    assert.equal(again.leases.mayHave(holder(7), pool, ip('10.0.0.99'), NOW + 5), false)
    assert.equal(take(again, holder(2), NOW + 5).text, given)
  })

  test('a lease that ended meanwhile is remembered for its guest, one that lasts for good lasts', () => {
    const file = path()
    const first = open(file)
    const { text } = take(first, holder(1))
    const { address } = first.leases.offer(holder(2), pool, null, NOW)!
    first.leases.grant(holder(2), pool, address, Number.POSITIVE_INFINITY, null, NOW)
    first.leases.commit()
    const again = open(file, NOW + 4000)
    assert.deepEqual(shown(again).length, 1)
    assert.equal(again.leases.list()[0].expiresAt, Number.POSITIVE_INFINITY)
    assert.equal(take(again, holder(1), NOW + 4000).text, text)
  })

  test('a clock that was set back between two runs leaves no more time than was granted', () => {
    const file = path()
    take(open(file), holder(1))
    assert.equal(open(file, NOW - 1e6).leases.list()[0].expiresAt, NOW - 1e6 + 3600)
  })

  test('cut at each byte: every committed lease is there, none twice, and it goes on', () => {
    const file = path()
    const first = open(file)
    const ends: number[] = []
    const promised: string[] = []
    for (let n = 1; n <= 4; n++) {
      promised.push(`${take(first, holder(n)).text} ${holder(n).mac}`)
      ends.push(statSync(file).size)
    }
    const whole = readFileSync(file)
    const cut = path()
    for (let length = 0; length <= whole.length; length++) {
      writeFileSync(cut, whole.subarray(0, length))
      const again = open(cut)
      const there = again.leases.list().map(({ text, mac }) => `${text} ${mac}`)
      const count = ends.filter((end) => end <= length).length
      assert.deepEqual(there.toSorted(), promised.slice(0, count).toSorted(), `${length}`)
      assert.deepEqual(again.journal.problems, [])
      // the client whose ACK never left asks again
      const mine = take(again, holder(4))
      again.journal.close()
      const third = open(cut)
      const texts = third.leases.list().map(({ text }) => text)
      assert.equal(new Set(texts).size, texts.length)
      assert.ok(texts.includes(mine.text))
      assert.equal(`${mine.text} ${mine.mac}`, promised[3])
      third.journal.close()
    }
  })

  test('corrupt lines in the middle are reported, the others used, the file kept', () => {
    const file = path()
    const first = open(file)
    take(first, holder(1))
    appendFileSync(file, 'garbage\n{"a":"10.0.0.300"}\nnull\n[]\n{"a":5,"m":[],"e":"x"}\n\0\0\0\n')
    appendFileSync(file, `${'x'.repeat(5000)}\n`)
    const [own] = readFileSync(file, 'utf8').split('\n', 1)
    const line = own.replaceAll('00:01', '00:02').replace(/10\.0\.0\.\d+/, '10.0.0.9')
    appendFileSync(file, `${line}\n{"a":"10.0`)
    const again = open(file)
    assert.deepEqual(
      again.leases
        .list()
        .map(({ mac }) => mac)
        .toSorted(),
      [holder(1).mac, holder(2).mac],
    )
    assert.deepEqual(
      again.journal.problems.map(({ line: number }) => number),
      [2, 4, 7, 8, 0, 0, 0],
    )
    assert.ok(readFileSync(`${file}.corrupt`, 'utf8').includes('garbage'))
    take(again, holder(3))
    assert.equal(open(file).leases.list().length, 3)
  })

  test('it stays small: written anew by rename, with nothing lost', () => {
    const file = path()
    const first = open(file)
    for (let n = 1; n <= 5; n++) take(first, holder(n))
    const { address } = first.leases.find(holder(1), ip('10.0.0.0'))!
    for (let i = 0; i < 2000; i++) {
      first.leases.grant(holder(1), pool, address, 3600, null, NOW + Math.floor(i / 100))
      if (i % 20 === 0) first.leases.commit()
    }
    first.leases.commit()
    assert.ok(statSync(file).size < 80000, `${statSync(file).size}`)
    assert.deepEqual(shown(open(file, NOW + 20)), shown(first))
    assert.ok(!existsSync(`${file}.new`))
  })

  test('a step of the clock is written down', () => {
    const file = path()
    const first = open(file)
    take(first, holder(1))
    first.leases.sweep(NOW + 1e8)
    assert.equal(open(file, NOW + 1e8).leases.list()[0].expiresAt, NOW + 1e8 + 3600)
  })

  test('nothing committed, nothing on the disk; one commit for many', () => {
    const file = path()
    const { leases, journal } = open(file)
    for (let n = 1; n <= 5; n++)
      leases.grant(holder(n), pool, leases.offer(holder(n), pool, null, NOW)!.address, 60, null, NOW)
    assert.equal(statSync(file).size, 0)
    assert.equal(journal.isClean, false)
    leases.commit()
    assert.equal(readFileSync(file, 'utf8').split('\n').length, 6)
    assert.equal(journal.isClean, true)
  })

  test('a file that cannot be written: commit throws, and nothing is lost once it can', () => {
    const file = path()
    const opened = open(file)
    take(opened, holder(1))
    opened.journal.close() // what it writes to is gone
    assert.throws(() => take(opened, holder(2)))
    assert.throws(() => opened.leases.commit())
    opened.journal.compact()
    assert.equal(open(file).leases.list().length, 2)
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.endsWith('.new')),
      [],
    )
  })
})
