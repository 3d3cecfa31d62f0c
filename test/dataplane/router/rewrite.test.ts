/**
 * Rewrite: every change in place against the packet built anew from the changed description, and against packets that
 * scapy computed.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Headers } from '../../../src/dataplane/router/headers.js'
import { IcmpErrors } from '../../../src/dataplane/router/icmp-error.js'
import { Rewrite } from '../../../src/dataplane/router/rewrite.js'
import { LENGTH, OFFSET, RECORD_SHIFT } from '../../../src/dataplane/layout.js'
import { Bench, type Packet, build, extension, hex, randomBelow, randomPacket, unhex } from './packet-builder.js'
import { VECTORS } from './rewrite-vectors.js'

const bench = new Bench()
const { pool } = bench
const rewrite = new Rewrite(pool)
const errors = new IcmpErrors(bench.arena, pool, 64)
const h = new Headers()
const quoted = new Headers()

const padded = (ip: number[]): [number, number, number, number] => [ip[0], ip[1] ?? 0, ip[2] ?? 0, ip[3] ?? 0]
const place = (protocol: number): number => (protocol === 6 ? 16 : protocol === 17 ? 6 : 2)

/** Puts a described packet, its checksum unfinished if it says so, and parses it. */
function put(packet: Packet, segment = 0): number {
  const number = bench.put(build(packet), { padding: segment === 0 ? 3 : 0 })
  assert.equal(h.parse(pool, number), 0)
  if (packet.isUnfinished) {
    bench.leaveUnfinished(number, h.l4, place(packet.protocol), segment, h.l4 - h.l3 + 20)
    assert.equal(h.parse(pool, number), 0)
  }
  return number
}

/** The IP packet as it is now, without padding. */
const now = (): string => hex(pool.bytes.slice(h.l3, h.end))

/** What `h` says must be what a new reading of the bytes says. */
function checkFields(packet: number): void {
  const fresh = new Headers()
  assert.equal(fresh.parse(pool, packet), 0)
  assert.deepEqual(h, fresh)
}

/** The description after a source or destination has been translated. */
function translated(packet: Packet, end: 'source' | 'destination', ip: number[], port: number): Packet {
  const isQuery = packet.identifier !== undefined
  const hasPort = [6, 17, 33, 136].includes(packet.protocol)
  const portName = end === 'source' ? 'sourcePort' : 'destinationPort'
  return { ...packet, [end]: ip, ...(isQuery ? { identifier: port } : hasPort ? { [portName]: port } : {}) }
}

test('the vectors that scapy computed', () => {
  for (const { name, action, ip, port, before, after } of VECTORS) {
    const packet = bench.put(unhex(before), { atEnd: true })
    assert.equal(h.parse(pool, packet), 0, name)
    const [ip0, ip1, ip2, ip3] = padded(ip)
    if (action === 'source') rewrite.rewriteSource(h, ip0, ip1, ip2, ip3, port)
    else if (action === 'destination') rewrite.rewriteDestination(h, ip0, ip1, ip2, ip3, port)
    else {
      const isSource = action === 'quotedSource'
      assert.equal(quoted.parseQuote(pool.view, h.family, h.l4 + 8, h.end), 0, name)
      if (isSource) rewrite.translateQuotedSource(h, quoted, ip0, ip1, ip2, ip3, port)
      else rewrite.translateQuotedDestination(h, quoted, ip0, ip1, ip2, ip3, port)
    }
    assert.equal(now(), after, name)
    pool.release(packet)
  }
})

test('random packets: source, destination, hop limit', () => {
  const random = randomBelow(0xabcde)
  let unfinished = 0
  for (let i = 0; i < 5000; i++) {
    const packet = randomPacket(random)
    const other = randomPacket(random)
    const ip = packet.family === 4 ? [random(2) === 0 ? -1 - random(9) : other.source[0]] : other.destination
    if (packet.family === 6 && ip.length < 4) ip.push(random(99), random(99) - 50, 0x7fffffff)
    const port = [0, 0xffff, random(0x10000)][random(3)]
    const segment = packet.isUnfinished && packet.protocol === 6 ? 100 : 0
    if (packet.isUnfinished) unfinished++
    const number = put(packet, segment)
    const end = random(2) === 0 ? 'source' : 'destination'
    const [ip0, ip1, ip2, ip3] = padded(ip)
    if (end === 'source') rewrite.rewriteSource(h, ip0, ip1, ip2, ip3, port)
    else rewrite.rewriteDestination(h, ip0, ip1, ip2, ip3, port)
    const expected = translated(packet, end, ip.slice(0, packet.family === 4 ? 1 : 4), port)
    assert.equal(now(), hex(build(expected)), JSON.stringify(packet))
    assert.equal(rewrite.decrementHopLimit(h), true)
    const hop = { ...expected, hopLimit: (packet.hopLimit ?? 0) - 1 }
    assert.equal(now(), hex(build(hop)))
    checkFields(number)
    pool.release(number)
  }
  assert.ok(unfinished > 500)
})

test('a large segmentation-offload frame, there and back', () => {
  const payload = Uint8Array.from({ length: 60000 }, (_, i) => i * 7)
  for (const family of [4, 6] as const) {
    const source = family === 4 ? [0x0a000001] : [0x20010db8, 1, 2, 3]
    const packet: Packet = {
      family,
      source,
      destination: source,
      protocol: 6,
      sourcePort: 1,
      payload,
      isUnfinished: true,
    }
    const number = put(packet, 1448)
    const before = now()
    const other = family === 4 ? [0x05060708] : [9, -9, 99, -99]
    rewrite.rewriteSource(h, ...padded(other), 777)
    assert.equal(now(), hex(build({ ...packet, source: other, sourcePort: 777 })))
    rewrite.rewriteSource(h, ...padded(source), 1)
    assert.equal(now(), before)
    pool.release(number)
  }
})

test('every port, so every checksum: UDP never becomes 0, TCP and ICMP are as computed', () => {
  const base: Packet = { family: 4, source: [0x0a000001], destination: [0x08080808], protocol: 17 }
  for (const protocol of [17, 6, 1]) {
    const packet: Packet =
      protocol === 1 ? { ...base, protocol, type: 8, identifier: 0 } : { ...base, protocol, sourcePort: 0 }
    const number = put(packet)
    let zero = 0
    for (let port = 0; port < 0x10000; port += 1) {
      rewrite.rewriteSource(h, 0x0a000001, 0, 0, 0, port)
      const field = pool.view.getUint16(h.l4 + place(protocol))
      if (field === 0 || field === 0xffff) {
        zero++
        assert.equal(now(), hex(build(translated(packet, 'source', [0x0a000001], port))))
        assert.equal(field, protocol === 17 ? 0xffff : 0)
      } else if (port % 1021 === 0) {
        assert.equal(now(), hex(build(translated(packet, 'source', [0x0a000001], port))))
      }
    }
    assert.ok(zero >= 1, `${protocol}: the walk met no zero`)
    pool.release(number)
  }
})

test('UDP without a checksum stays without', () => {
  const bare: Packet = { family: 4, source: [1 << 28], destination: [2 << 28], protocol: 17, isBare: true }
  const number = put(bare)
  rewrite.rewriteSource(h, 3 << 28, 0, 0, 0, 99)
  rewrite.rewriteDestination(h, 4 << 28, 0, 0, 0, 98)
  assert.equal(
    now(),
    hex(build({ ...bare, source: [3 << 28], destination: [4 << 28], sourcePort: 99, destinationPort: 98 })),
  )
  pool.release(number)
})

test('fragments: the first carries the checksum, later ones change their addresses only', () => {
  const random = randomBelow(4711)
  for (let i = 0; i < 400; i++) {
    const payload = Array.from({ length: 200 }, () => random(256))
    const packet: Packet = { ...randomPacket(random), payload, isUnfinished: false }
    if (packet.protocol === 6 || packet.protocol === 58 || packet.protocol === 1) packet.tcpOptions = []
    const from = [0, 40, 104][random(3)]
    const fragment = { id: random(0x10000), from, to: from + 64, more: true }
    const ip = packet.family === 4 ? [0x01020304] : [0x01020304, 5, 6, 7]
    const number = put({ ...packet, fragment })
    rewrite.rewriteDestination(h, ...padded(ip), 4242)
    assert.equal(now(), hex(build({ ...translated(packet, 'destination', ip, 4242), fragment })))
    checkFields(number)
    pool.release(number)
  }
})

test('ICMP errors: addresses only', () => {
  const quote = build({ family: 4, source: [1 << 28], destination: [5], protocol: 17 })
  const error: Packet = { family: 4, source: [7 << 24], destination: [1 << 28], protocol: 1, type: 3, payload: quote }
  const number = put(error)
  rewrite.rewriteSource(h, 9 << 24, 0, 0, 0, 5555)
  assert.equal(now(), hex(build({ ...error, source: [9 << 24] })))
  assert.equal(h.sourcePort, 0)
  pool.release(number)
})

test('the hop limit is never brought to 0', () => {
  for (const family of [4, 6] as const)
    for (const hopLimit of [0, 1, 2]) {
      const ip = family === 4 ? [1 << 28] : [1 << 29, 0, 0, 1]
      const packet: Packet = { family, source: ip, destination: ip, protocol: 17, hopLimit }
      const number = put(packet)
      assert.equal(rewrite.decrementHopLimit(h), hopLimit === 2)
      assert.equal(now(), hex(build({ ...packet, hopLimit: hopLimit === 2 ? 1 : hopLimit })))
      pool.release(number)
    }
})

test('MSS: lowered where it is higher, at even and odd places, and the checksum with it', () => {
  const mss = (value: number): number[] => [2, 4, value >> 8, value & 255]
  const base: Packet = {
    family: 4,
    source: [1 << 28],
    destination: [2 << 28],
    protocol: 6,
    flags: 2,
    payload: [1, 2, 3],
  }
  const cases: [before: number[], after: number[] | null][] = [
    [mss(1460), mss(1360)],
    [
      [1, ...mss(1460), 1, 1, 0],
      [1, ...mss(1360), 1, 1, 0],
    ],
    [
      [1, 1, 1, ...mss(0xffff), 0],
      [1, 1, 1, ...mss(1360), 0],
    ],
    [
      [3, 3, 7, ...mss(9000), 1],
      [3, 3, 7, ...mss(1360), 1],
    ],
    [
      [8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, ...mss(1361)],
      [8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, ...mss(1360)],
    ],
    [mss(1360), null],
    [mss(536), null],
    [[], null],
    [[0, ...mss(1460), 0, 0, 0], null],
    [[2, 5, 5, 180, 0, 0, 0, 0], null],
    [[9, 0, ...mss(1460), 0, 0], null],
    [[9, 1, ...mss(1460), 0, 0], null],
    [[9, 40, ...mss(1460), 0, 0], null],
    [[1, 1, 1, 2], null],
    [[1, 1, 2, 4], null],
    [[1, 2, 4, 255], null],
  ]
  for (const family of [4, 6] as const)
    for (const [before, after] of cases)
      for (const isUnfinished of [false, true])
        for (const flags of [0x02, 0x12, 0x10]) {
          const ip = family === 4 ? [1 << 28] : [1 << 29, 0, 0, 1]
          const packet: Packet = {
            ...base,
            family,
            source: ip,
            destination: ip,
            tcpOptions: before,
            isUnfinished,
            flags,
          }
          const number = put(packet)
          const isLowered = after !== null && flags !== 0x10
          assert.equal(rewrite.clampMss(h, 1360), isLowered, JSON.stringify(packet))
          assert.equal(now(), hex(build({ ...packet, tcpOptions: isLowered ? after : before })))
          pool.release(number)
        }
  const udp = put({ ...base, protocol: 17 })
  assert.equal(rewrite.clampMss(h, 1), false)
  pool.release(udp)
})

test('quoted packets, whole and cut off at every byte, finished and unfinished', () => {
  const random = randomBelow(0xbeef)
  let done = 0
  for (let i = 0; i < 1500; i++) {
    const inner: Packet = { ...randomPacket(random), isUnfinished: false }
    const { family } = inner
    const l4 = build({ ...inner, protocol: 253, payload: [] }).length
    const whole = build(inner)
    let cut = random(3) === 0 ? whole.length : Math.min(whole.length, l4 + 8 + random(20))
    if (inner.protocol === 6 && cut === l4 + 17) cut-- // half a checksum is left as it came
    const error = (of: Packet): Packet => ({
      family,
      source: family === 4 ? [3 << 28] : [3 << 28, 0, 0, 9],
      destination: inner.source,
      protocol: family === 4 ? 1 : 58,
      type: family === 4 ? [3, 4, 11, 12][i % 4] : 1 + (i % 4),
      payload: build(of).slice(0, cut),
      isUnfinished: i % 5 === 0,
    })
    const number = put(error(inner))
    assert.equal(errors.parseQuoted(h, quoted), 0, JSON.stringify(inner))
    const ports = inner.identifier ?? inner.sourcePort
    assert.equal(quoted.sourcePort, [6, 17, 33, 136, 132, 1, 58].includes(inner.protocol) ? ports : 0)
    const ip = family === 4 ? [0x7eadbeef] : [0x7eadbeef, -3, 4, 5]
    const port = random(0x10000)
    const end = i % 2 === 0 ? 'source' : 'destination'
    if (end === 'source') rewrite.translateQuotedSource(h, quoted, ...padded(ip), port)
    else rewrite.translateQuotedDestination(h, quoted, ...padded(ip), port)
    const after = { ...error(translated(inner, end, ip, port)), destination: inner.source }
    assert.equal(now(), hex(build(after)), JSON.stringify(inner))
    const again = new Headers()
    assert.equal(again.parseQuote(pool.view, family, h.l4 + 8, h.end), 0)
    assert.deepEqual(quoted, again)
    pool.release(number)
    done++
  }
  assert.equal(done, 1500)
})

test('echo requests become replies', () => {
  const random = randomBelow(12)
  for (let i = 0; i < 300; i++) {
    const family = i % 2 === 0 ? 4 : 6
    const source = family === 4 ? [0x0a000000 | random(999)] : [0x20010db8, random(9), 0, random(9)]
    const destination = family === 4 ? [0x0b000000 | random(999)] : [0xfe800000 | 0, 0, 0, 1]
    const request: Packet = {
      family,
      source,
      destination,
      protocol: family === 4 ? 1 : 58,
      type: family === 4 ? 8 : 128,
      identifier: random(0x10000),
      hopLimit: 1 + random(255),
      payload: Array.from({ length: random(60) }, () => random(256)),
      isUnfinished: i % 3 === 0,
    }
    if (family === 4 && i % 4 === 0) request.options = [7, 7, 4, 0, 0, 0, 0, 0]
    if (family === 6 && i % 5 === 0)
      request.fragment = { id: 5, from: 0, to: 8 + (request.payload?.length ?? 0), more: false }
    if (request.fragment) request.isUnfinished = false
    const number = put(request)
    assert.equal(rewrite.answerEcho(h), true)
    const type = family === 4 ? 0 : 129
    assert.equal(now(), hex(build({ ...request, source: destination, destination: source, type, hopLimit: 64 })))
    checkFields(number)
    assert.equal(rewrite.answerEcho(h), false, 'a reply has no reply')
    pool.release(number)
  }
})

test('echo requests without a reply are left as they are', () => {
  const four: Packet = { family: 4, source: [1 << 28], destination: [2 << 28], protocol: 1, type: 8, identifier: 1 }
  const six: Packet = {
    ...four,
    family: 6,
    source: [1 << 29, 0, 0, 1],
    destination: [1 << 29, 0, 0, 2],
    protocol: 58,
    type: 128,
  }
  const payload = Array.from({ length: 40 }, () => 0)
  const refused: Packet[] = [
    { ...four, type: 0 },
    { ...four, code: 1 },
    { ...four, type: 13 },
    { ...four, payload, fragment: { id: 1, from: 0, to: 16, more: true } },
    { ...four, payload, fragment: { id: 1, from: 16, to: 48, more: false } },
    { ...four, destination: [0xe0000001 | 0] },
    { ...four, destination: [-1] },
    { ...four, source: [0x7f000001] },
    { ...four, protocol: 17 },
    { ...six, type: 129 },
    { ...six, payload, fragment: { id: 1, from: 0, to: 16, more: true } },
    { ...six, destination: [0xff020000 | 0, 0, 0, 1] },
    { ...six, source: [0, 0, 0, 0] },
    { ...six, extensions: [[60, extension(8)]] },
  ]
  for (const packet of refused) {
    const number = put(packet)
    assert.equal(rewrite.answerEcho(h), false, JSON.stringify(packet))
    assert.equal(now(), hex(build(packet)))
    pool.release(number)
  }
})

test('nothing outside the frame is read or written, whatever the packet', () => {
  const random = randomBelow(0x5eed)
  const seenKinds = new Set<number>()
  for (let i = 0; i < 4000; i++) {
    const inner = randomPacket(random)
    const isError = random(3) === 0
    const packet: Packet = isError
      ? { ...inner, protocol: inner.family === 4 ? 1 : 58, type: 3, payload: build(inner), isUnfinished: false }
      : inner
    if (isError) delete packet.identifier
    const ip = build(packet)
    const first = ip[0] >> 4 === 4 ? (ip[0] & 15) * 4 : 40
    for (let n = random(5); n > 0; n--) ip[first + random(ip.length - first)] = random(256)
    const results: string[] = []
    for (const value of [0x00, 0x55, 0xff]) {
      const number = bench.put(ip, { atEnd: true })
      const record = number << RECORD_SHIFT
      const frame = pool.records[record + OFFSET]
      const end = frame + pool.records[record + LENGTH]
      pool.bytes.fill(value, frame - 64, frame)
      pool.bytes.fill(value, end, end + 1024)
      const reasons = [h.parse(pool, number)]
      if (reasons[0] === 0) {
        reasons.push(errors.parseQuoted(h, quoted))
        if (reasons[1] === 0) {
          rewrite.translateQuotedSource(h, quoted, 1, 2, 3, 4, 5)
          rewrite.translateQuotedDestination(h, quoted, 6, 7, 8, 9, 10)
        }
        rewrite.rewriteSource(h, 11 << 24, 12, 13, 14, 15)
        rewrite.rewriteDestination(h, 16 << 24, 17, 18, 19, 20)
        rewrite.decrementHopLimit(h)
        rewrite.clampMss(h, 500)
        rewrite.answerEcho(h)
        seenKinds.add(h.protocol)
      }
      for (let at = frame - 64; at < frame; at++) assert.equal(pool.bytes[at], value)
      for (let at = end; at < end + 1024; at++) if (pool.bytes[at] !== value) assert.fail(`written ${at - end} behind`)
      results.push(`${reasons.join()} ${hex(bench.read(number))}`)
      pool.release(number)
    }
    assert.equal(results[1], results[0])
    assert.equal(results[2], results[0])
  }
  assert.ok(seenKinds.size >= 6)
})
