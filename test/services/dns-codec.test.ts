/**
 * Names, messages and the writer: vectors, what RFC 9267 says goes wrong, one by one, and mutated messages by the
 * thousand, none of which may throw, run on, or be taken for sound where the test's own reader disagrees.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as codec from '../../src/services/dns-codec.js'
import { FORMERR, MessageScan, NOERROR, NOTIMP, Query } from '../../src/services/dns-codec.js'
import {
  NameEntry,
  NameKey,
  NameReader,
  NameTable,
  isSameName,
  nameFromText,
  nameToText,
} from '../../src/services/dns-name.js'
import { MessageWriter } from '../../src/services/dns-writer.js'
import { a, answer, cname, query, random, read, soa, wire } from './dns-messages.js'

const bytes = (...parts: (number | string | number[])[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === 'string' ? [...Buffer.from(part, 'latin1')] : part)))
const header = (flags: number, ...counts: number[]): number[] => [
  0,
  7,
  flags >> 8,
  flags & 255,
  ...counts.flatMap((n) => [n >> 8, n & 255]),
]

test('names from and to text', () => {
  for (const text of ['.', 'a', 'web.lan', '_http._tcp.lan', 'x'.repeat(63), `a\\.b.c`, '\\000\\255.x', 'a\\\\b'])
    assert.equal(nameToText(nameFromText(text)!), text)
  assert.deepEqual(nameFromText('WeB.Lan.'), Uint8Array.from(wire('web.lan')))
  const longest = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(61)}`
  assert.equal(nameFromText(longest)!.length, 255)
  for (const text of ['', '..', '.a', 'a..b', 'x'.repeat(64), `${longest}d`, 'a\\', 'ü€', '\\999'])
    assert.equal(nameFromText(text), null, text)
})

test('compressed names are read, unsound ones refused', () => {
  const reader = new NameReader()
  const at12 = (...parts: (number | string)[]): Uint8Array => bytes(new Array<number>(12).fill(0), ...parts)
  const good = at12(3, 'lan', 0, 3, 'web', 0xc0, 12, 0xc0, 17)
  assert.equal(reader.read(good, 17, good.length), 23)
  assert.equal(nameToText(reader.bytes.slice(0, reader.length)), 'web.lan')
  assert.equal(reader.read(good, 23, good.length), 25)
  assert.equal(reader.length, 9)
  const bad: Record<string, [Uint8Array, number]> = {
    itself: [at12(0xc0, 12), 12],
    forward: [at12(0xc0, 14, 0), 12],
    'two in a loop': [at12(0xc0, 14, 0xc0, 12), 14],
    'a label that runs into its own pointer': [at12(1, 'a', 0xc0, 12), 14],
    'the same from its start': [at12(1, 'a', 0xc0, 12), 12],
    'the header': [at12(0, 0xc0, 4), 13],
    'past the end': [at12(0xff, 0xff), 12],
    'half a pointer': [at12(0xc0), 12],
    'label type 01': [at12(0x40, 0), 12],
    'label type 10': [at12(0x80, 0), 12],
    'a label past the end': [at12(5, 'abc'), 12],
    'no end': [at12(3, 'abc'), 12],
    nothing: [at12(), 12],
  }
  for (const [what, [message, at]] of Object.entries(bad))
    assert.equal(reader.read(message, at, message.length), -1, what)
  const target = (i: number): number => (i === 0 ? 12 : 11 + 2 * i)
  const chain = [0, ...Array.from({ length: 200 }, (_, i) => [0xc0 | (target(i) >> 8), target(i) & 255]).flat()]
  const hops = bytes(new Array<number>(12).fill(0), chain)
  assert.ok(reader.read(hops, 13 + 2 * 100, hops.length) > 0)
  assert.equal(reader.read(hops, 13 + 2 * 120 + 20, hops.length), -1, 'more pointers than a name has labels')
  const label = [63, ...new Array<number>(63).fill(97)]
  const long = bytes(new Array<number>(12).fill(0), label, label, label, 62, 'b'.repeat(62), 0)
  assert.equal(reader.read(long, 12, long.length), -1, '256 bytes')
})

test('a table of names finds by any case, and domains by their longest', () => {
  const table = new NameTable<NameEntry>()
  for (const text of ['lan', 'web.lan', 'a.web.lan', '.']) table.add(new NameEntry(nameFromText(text)!))
  const key = new NameKey()
  const domainOf = (text: string): string => {
    const name = Uint8Array.from(wire(text))
    return nameToText(table.findDomain(name, key.compute(name, 0))!.name)
  }
  assert.equal(domainOf('X.WEB.lan'), 'web.lan')
  assert.equal(domainOf('B.a.web.LAN'), 'a.web.lan')
  assert.equal(domainOf('weblan'), '.')
  table.remove(table.get(nameFromText('web.lan')!)!)
  assert.equal(domainOf('x.web.lan'), 'lan')
  assert.equal(table.size, 3)
  assert.ok(isSameName(Uint8Array.from(wire('aB.c')), 0, Uint8Array.from(wire('Ab.C')), 0))
})

test('names in a table against a plain map, with colliding operations', () => {
  const next = random(7)
  const table = new NameTable<NameEntry>()
  const model = new Map<string, NameEntry>()
  for (let i = 0; i < 20_000; i++) {
    const text = `h${next(500)}.${next(3)}.lan`
    const known = model.get(text)
    assert.equal(table.get(nameFromText(text)!), known ?? null)
    if (known) {
      table.remove(known)
      model.delete(text)
    } else {
      const entry = new NameEntry(nameFromText(text)!)
      table.add(entry)
      model.set(text, entry)
    }
  }
  assert.equal(table.size, model.size)
  assert.equal(table.list().length, model.size)
})

test('queries: what is taken and what is answered with a code', () => {
  const parsed = new Query()
  assert.equal(parsed.parse(query('Web.lan', 'A', { edns: 4096, dnssec: true })), NOERROR)
  assert.deepEqual([parsed.type, parsed.class, parsed.udpBytes, parsed.isDnssecOk], [1, 1, 4096, true])
  assert.equal(parsed.parse(query('web.lan', 'A', { edns: 100 })), NOERROR)
  assert.equal(parsed.udpBytes, 512)
  assert.equal(parsed.parse(query('web.lan', 'A', { edns: 1232, version: 1 })), codec.BADVERS)
  assert.equal(parsed.parse(query('web.lan', 'A', { flags: 0x2800 })), NOTIMP)
  const plain = query('web.lan', 'A')
  const opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]
  const withRecords = (count: number, ...parts: number[]): Uint8Array => {
    const message = bytes([...plain], parts)
    message[11] = count
    return message
  }
  assert.equal(parsed.parse(withRecords(1, ...opt.slice(0, 9), 0, 4, 0, 10, 0, 0)), NOERROR, 'an option of no bytes')
  const bad: Record<string, Uint8Array> = {
    'no question': bytes(header(0x100, 0, 0, 0, 0)),
    'two questions': bytes(header(0x100, 2, 0, 0, 0), [...plain.subarray(12)], [...plain.subarray(12)]),
    'bytes behind': bytes([...plain], 0),
    'question cut short': plain.slice(0, -1),
    'OPT twice': withRecords(2, ...opt, ...opt),
    'OPT of a name': withRecords(1, 1, 97, ...opt),
    'RDLENGTH past the end': withRecords(1, ...opt.slice(0, 9), 0, 1),
    'an option past the record': withRecords(1, ...opt.slice(0, 9), 0, 4, 0, 10, 0, 5),
    'half an option': withRecords(1, ...opt.slice(0, 9), 0, 3, 0, 10, 0),
    'a missing record': withRecords(1),
    'many missing records': withRecords(255),
    'OPT asked for': query('web.lan', 41),
    'pointer in the question': bytes(header(0x100, 1, 0, 0, 0), 0xc0, 12, 0, 1, 0, 1),
  }
  for (const [what, message] of Object.entries(bad)) assert.equal(parsed.parse(message), FORMERR, what)
})

test('answers: data that contradicts its type or length is refused', () => {
  const scan = new MessageScan()
  const asked = query('x.example', 'A')
  const withData = (type: number, data: number[]): Uint8Array =>
    answer(asked, { answers: [{ name: 'x.example', type, ttl: 1, data }], edns: false })
  assert.ok(scan.scan(withData(1, [1, 2, 3, 4])))
  assert.ok(scan.scan(withData(65280, [])), 'unknown types may hold anything')
  assert.ok(scan.scan(withData(64, [0, 1, 0])), 'SVCB is nothing to us')
  assert.ok(scan.scan(withData(16, [0])))
  const bad: [string, number, number[]][] = [
    ['A of 3', 1, [1, 2, 3]],
    ['A of 5', 1, [1, 2, 3, 4, 5]],
    ['AAAA of 4', 28, [1, 2, 3, 4]],
    ['CNAME with more behind', 5, [...wire('a'), 0]],
    ['CNAME without end', 5, [1, 97]],
    ['CNAME that points to itself', 5, [0xc0, 12 + 11 + 4 + 11 + 10]],
    ['MX of two bytes', 15, [0, 1]],
    ['SOA without numbers', 6, [...wire('a'), ...wire('b')]],
    ['TXT of nothing', 16, []],
    ['TXT past the end', 16, [5, 97]],
    ['SRV past the end', 33, [0, 0, 0, 0, 0]],
    ['HINFO of one string', 13, [0]],
  ]
  for (const [what, type, data] of bad) assert.equal(scan.scan(withData(type, data)), false, what)
  const optInAnswer = answer(asked, { answers: [{ name: '', type: 41, ttl: 0, data: [] }], edns: false })
  assert.equal(scan.scan(optInAnswer), false)
  const trailing = bytes([...withData(1, [1, 2, 3, 4])], 1, 2, 3)
  assert.ok(scan.scan(trailing))
  assert.equal(scan.end, trailing.length - 3)
})

test('the writer compresses, also against the question, and copies records of other messages', () => {
  const writer = new MessageWriter()
  const scan = new MessageScan()
  const asked = query('WWW.Example.com', 'A', { id: 0xbeef })
  const message = answer(asked, {
    answers: [cname('www.example.com', 'host.example.com', 77), a('host.example.com', '192.0.2.1')],
    authorities: [soa('example.com', 5, 6)],
    additionals: [{ name: 'x.example.com', type: 65280, ttl: 9, data: [1, 2, 3] }],
    edns: false,
  })
  assert.ok(scan.scan(message))
  writer.begin(asked, scan.questionEnd)
  for (let i = 0; i < scan.count; i++) writer.record(message, scan, i)
  writer.answers = 2
  writer.authorities = 1
  writer.additionals = 1
  const copy = writer.finish(0x8180)
  assert.ok(copy.length < message.length - 50, `${copy.length} of ${message.length}`)
  assert.equal(read(copy).name, 'WWW.Example.com')
  const lowered = (texts: string[]): string[] => texts.map((text) => text.toLowerCase())
  assert.deepEqual(lowered(read(copy).answers), read(message).answers)
  assert.deepEqual(lowered(read(copy).authorities), read(message).authorities)
  assert.deepEqual(lowered(read(copy).additionals), read(message).additionals)
  assert.deepEqual(read(copy).ttls, read(message).ttls)
  assert.ok(scan.scan(copy))
})

test('what does not fit is marked, not written over', () => {
  const writer = new MessageWriter()
  const asked = query('a.b', 'TXT')
  writer.begin(asked, asked.length)
  const data = new Uint8Array(30_000)
  const name = Uint8Array.from(wire('c.b'))
  for (let i = 0; i < 3; i++) {
    const opened = writer.open(name, 0, 65280, 1)
    writer.data(65280, data, 0, data.length)
    writer.close(opened)
  }
  assert.ok(writer.isFull)
  writer.begin(asked, asked.length)
  assert.equal(writer.isFull, false)
  assert.equal(writer.finish(0).length, asked.length)
})

test('mutated messages: nothing throws, and what is found sound is sound to another reader too', () => {
  const next = random(99)
  const asked = query('www.example.com', 'A', { edns: 1232 })
  const full = answer(asked, {
    answers: [cname('www.example.com', 'a.b.example.com'), a('a.b.example.com', '192.0.2.1')],
    authorities: [soa('example.com', 5, 6)],
    additionals: [{ name: 'x', type: 65, ttl: 9, data: [0, 1, 0, 0, 1, 0, 3, 2, 104, 50] }],
  })
  const scan = new MessageScan()
  scan.scan(full)
  const writer = new MessageWriter()
  writer.begin(full, scan.questionEnd)
  for (let i = 0; i < 4; i++) writer.record(full, scan, i)
  Object.assign(writer, { answers: 2, authorities: 1, additionals: 1 })
  const seeds = [asked, full, writer.finish(0x8180)]
  const parsed = new Query()
  let sound = 0
  for (let i = 0; i < 60_000; i++) {
    const message = seeds[next(seeds.length)].slice()
    for (let n = next(4); n >= 0; n--) message[next(message.length)] = next(2) === 0 ? next(256) : 0xc0 | next(2)
    const cut = next(4) === 0 ? message.slice(0, next(message.length + 1)) : message
    if (cut.length >= 12) parsed.parse(cut)
    if (!scan.scan(cut)) continue
    sound++
    read(cut.slice(0, scan.end))
    writer.begin(cut, scan.questionEnd)
    for (let record = 0; record < scan.count; record++) if (record !== scan.opt) writer.record(cut, scan, record)
    writer.answers = scan.answers
    writer.authorities = scan.authorities
    writer.additionals = scan.additionals - (scan.opt < 0 ? 0 : 1)
    const copy = writer.finish(0)
    assert.ok(new MessageScan().scan(copy) || scan.opt < 0)
    read(copy)
  }
  assert.ok(sound > 1000, `${sound} sound`)
})
