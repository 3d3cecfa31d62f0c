/**
 * ICMP errors and TCP resets: every frame against the one built from its description; what is never answered; limits.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as drops from '../../../src/dataplane/drops.js'
import {
  ETHERTYPE,
  HEADER_ICMP_LIMITED,
  HEADER_ICMP_SENT,
  INGRESS,
  LENGTH,
  MAC_HIGH,
  OFFLOAD,
  RECORD_SHIFT,
  SEGMENT_BYTES,
} from '../../../src/dataplane/layout.js'
import { Headers } from '../../../src/dataplane/router/headers.js'
import * as icmpError from '../../../src/dataplane/router/icmp-error.js'
import { Bench, type Packet, build, hex, randomBelow, randomPacket } from './packet-builder.js'

const { IcmpErrors, PORT_PER_SECOND } = icmpError
const OWN4: [number, number, number, number] = [0x0a000001, 0, 0, 0]
const OWN6: [number, number, number, number] = [0xfd000001 | 0, 0, 0, 1]
const A4 = [0x0a000005]
const B4 = [0x5db8d822]
const A6 = [0xfd000001 | 0, 0, 0, 5]
const B6 = [0x20010db8, 0x70000, 0, 0x99]
const four = (more: Partial<Packet> = {}): Packet => ({ family: 4, source: A4, destination: B4, protocol: 17, ...more })
const six = (more: Partial<Packet> = {}): Packet => ({ family: 6, source: A6, destination: B6, protocol: 17, ...more })
const bytesOf = (length: number): number[] => Array.from({ length }, (_, i) => (i * 31) & 255)

class Router {
  readonly bench = new Bench()
  readonly errors = new IcmpErrors(this.bench.arena, this.bench.pool, 64)
  readonly h = new Headers()
  readonly free = this.bench.pool.free()
  now = 0

  /** Puts a packet, lets `answer` speak of it, and gives the answer's IP packet in hex, null for none. */
  ask(
    packet: Packet,
    answer: (h: Headers, own: typeof OWN4) => number,
    prepare?: (number: number) => void,
  ): string | null {
    const { pool } = this.bench
    this.now++
    this.bench.fill(0xa5)
    const number = this.bench.put(build(packet))
    assert.equal(this.h.parse(pool, number), 0)
    prepare?.(number)
    const before = hex(this.bench.read(number))
    const made = answer(this.h, packet.family === 4 ? OWN4 : OWN6)
    assert.equal(hex(this.bench.read(number)), before, 'the packet itself is left')
    pool.release(number)
    if (made < 0) {
      assert.equal(pool.free(), this.free)
      return null
    }
    const record = made << RECORD_SHIFT
    assert.deepEqual([pool.records[record + OFFLOAD], pool.records[record + SEGMENT_BYTES]], [0, 0])
    assert.equal(pool.records[record + ETHERTYPE], packet.family === 4 ? 0x0800 : 0x86dd)
    assert.equal(new Headers().parse(pool, made), 0)
    const ip = this.bench.read(made)
    assert.equal(ip.length, pool.records[record + LENGTH] - 14)
    pool.release(made)
    assert.equal(pool.free(), this.free)
    return hex(ip)
  }

  exceeded(packet: Packet, prepare?: (number: number) => void): string | null {
    return this.ask(packet, (h, own) => this.errors.timeExceeded(h, 3, this.now, ...own), prepare)
  }

  reset(packet: Packet): string | null {
    return this.ask(packet, (h) => this.errors.reset(h, 3, this.now))
  }
}

/** The error about a packet as it should be. */
function expected(about: Packet, type: number, code: number, word = 0, quote?: number): string {
  const isIpv4 = about.family === 4
  const most = isIpv4 ? 576 - 28 : 1280 - 48
  const payload = build(about).slice(0, Math.min(quote ?? most, most))
  const common: Packet = {
    family: about.family,
    source: [],
    destination: about.source,
    protocol: 0,
    type,
    code,
    word,
    payload,
  }
  if (isIpv4)
    return hex(build({ ...common, source: [OWN4[0]], protocol: 1, id: 0, dontFragment: true, typeOfService: 0xc0 }))
  return hex(build({ ...common, source: OWN6, protocol: 58 }))
}

test('errors of all kinds, short, long and odd', () => {
  const router = new Router()
  const { errors } = router
  for (const length of [0, 1, 7, 200, 519, 520, 521, 1183, 1184, 1185, 1400])
    for (const packet of [
      four({ payload: bytesOf(length), options: length === 7 ? [7, 7, 4, 0, 0, 0, 0, 0] : [] }),
      six({ payload: bytesOf(length) }),
      six({ protocol: 6, payload: bytesOf(length) }),
    ]) {
      const is4 = packet.family === 4
      assert.equal(router.exceeded(packet), is4 ? expected(packet, 11, 0) : expected(packet, 3, 0))
      const codes = is4 ? [0, 1, 3, 13] : [0, 3, 4, 1]
      for (let reason = 0; reason < 4; reason++) {
        const answer = router.ask(packet, (h, own) => errors.unreachable(h, reason, 3, router.now, ...own))
        assert.equal(answer, expected(packet, is4 ? 3 : 1, codes[reason]))
      }
      const tooBig = router.ask(packet, (h, own) => errors.tooBig(h, 1400, 3, router.now, ...own))
      assert.equal(tooBig, is4 ? expected(packet, 3, 4, 1400) : expected(packet, 2, 0, 1400))
    }
  assert.equal(router.bench.arena.header[HEADER_ICMP_LIMITED], 0)
  assert.equal(router.bench.arena.header[HEADER_ICMP_SENT], 11 * 3 * 6)
})

test('random packets, first fragments and unfinished ones among them', () => {
  const router = new Router()
  const random = randomBelow(2024)
  for (let i = 0; i < 1000; i++) {
    const packet = randomPacket(random)
    if (i % 4 === 0) {
      packet.payload = bytesOf(100)
      packet.isUnfinished = false
      packet.fragment = { id: i, from: 0, to: 64, more: true }
    }
    const answer = router.exceeded(packet, (number) => {
      if (packet.isUnfinished) router.bench.leaveUnfinished(number, router.h.l4, packet.protocol === 6 ? 16 : 6)
    })
    assert.equal(answer, packet.family === 4 ? expected(packet, 11, 0) : expected(packet, 3, 0))
  }
})

test('of a segmentation-offload frame the headers are quoted; padding never is', () => {
  const router = new Router()
  for (const base of [four(), six()]) {
    const packet: Packet = { ...base, protocol: 6, payload: bytesOf(60000), isUnfinished: true }
    const headerBytes = base.family === 4 ? 40 : 60
    const answer = router.ask(
      packet,
      (h, own) => router.errors.tooBig(h, 1400, 0, router.now, ...own),
      (number) => router.bench.leaveUnfinished(number, router.h.l4, 16, 1448, headerBytes),
    )
    const type = base.family === 4 ? 3 : 2
    assert.equal(answer, expected(packet, type, base.family === 4 ? 4 : 0, 1400, headerBytes))
  }
  const { bench, h, errors } = router
  const number = bench.put(build(four({ payload: [1] })), { padding: 17 })
  h.parse(bench.pool, number)
  const made = errors.timeExceeded(h, 0, 1000, ...OWN4)
  assert.equal(hex(bench.read(made)), expected(four({ payload: [1] }), 11, 0))
})

test('what is never answered', () => {
  const router = new Router()
  const fragment = { id: 1, from: 24, to: 48, more: true }
  const payload = bytesOf(64)
  const never: Packet[] = [
    ...[3, 4, 5, 11, 12, 9, 10, 30, 40, 200].map((type) => four({ protocol: 1, type })),
    four({ payload, fragment }),
    four({ destination: [0xe0000001 | 0] }),
    four({ destination: [-1] }),
    ...[0, 0x7f000001, 0xe0000001 | 0, 0xf0000001 | 0, -1].map((ip) => four({ source: [ip] })),
    ...[1, 2, 3, 4, 100, 127, 137].map((type) => six({ protocol: 58, type })),
    six({ payload, fragment }),
    six({ destination: [0xff0e0000 | 0, 0, 0, 1] }),
    ...[
      [0, 0, 0, 0],
      [0, 0, 0, 1],
      [0xff020000 | 0, 0, 0, 1],
      [0, 0, 0xffff, 1],
    ].map((source) => six({ source })),
  ]
  for (const packet of never) {
    assert.equal(router.exceeded(packet), null, JSON.stringify(packet))
    for (let reason = 0; reason < 4; reason++)
      assert.equal(
        router.ask(packet, (h, own) => router.errors.unreachable(h, reason, 3, router.now, ...own)),
        null,
      )
    if (packet.protocol !== 1 && packet.protocol !== 58)
      assert.equal(
        router.ask({ ...packet, protocol: 6 }, (h) => router.errors.reset(h, 3, router.now)),
        null,
      )
  }
  const toGroup = (number: number): void => {
    router.bench.pool.records[(number << RECORD_SHIFT) + MAC_HIGH] = 0x0202_0001
  }
  for (const packet of [four(), six()]) {
    assert.equal(router.exceeded(packet, toGroup), null)
    assert.notEqual(router.exceeded(packet), null)
  }
  for (const type of [0, 8, 13, 14, 15, 16, 17, 18]) assert.notEqual(router.exceeded(four({ protocol: 1, type })), null)
  for (const type of [128, 129, 135, 143]) assert.notEqual(router.exceeded(six({ protocol: 58, type })), null)
  // groups may learn that a packet is too big (RFC 4443 section 2.4 e.3), of IPv6 only
  const tooBig = (h: Headers, own: typeof OWN4): number => router.errors.tooBig(h, 1280, 3, router.now, ...own)
  const group = six({ destination: [0xff0e0000 | 0, 0, 0, 1] })
  assert.equal(router.ask(group, tooBig, toGroup), expected(group, 2, 0, 1280))
  assert.equal(router.ask(four({ destination: [0xe0000001 | 0] }), tooBig), null)
  assert.equal(router.ask(four(), tooBig, toGroup), null)
  assert.equal(router.ask(six({ protocol: 58, type: 1 }), tooBig), null)
  assert.equal(router.bench.arena.header[HEADER_ICMP_LIMITED], 0)
})

test('a reset answers a segment as a closed port does (RFC 9293 section 3.10.7.1)', () => {
  const router = new Router()
  const [FIN, SYN, RST, ACK] = [1, 2, 4, 16]
  const sequence = 0xfffffff0 | 0
  for (const base of [four({ protocol: 6 }), six({ protocol: 6 })])
    for (const [flags, length, answer] of [
      [SYN, 0, { flags: RST | ACK, sequence: 0, acknowledgment: (sequence + 1) | 0 }],
      [SYN | FIN, 0, { flags: RST | ACK, sequence: 0, acknowledgment: (sequence + 2) | 0 }],
      [SYN, 30, { flags: RST | ACK, sequence: 0, acknowledgment: (sequence + 31) | 0 }],
      [0, 5, { flags: RST | ACK, sequence: 0, acknowledgment: (sequence + 5) | 0 }],
      [ACK, 5, { flags: RST, sequence: 0x1234567, acknowledgment: 0 }],
      [SYN | ACK, 0, { flags: RST, sequence: 0x1234567, acknowledgment: 0 }],
      [FIN | ACK, 9, { flags: RST, sequence: 0x1234567, acknowledgment: 0 }],
      [RST, 0, null],
      [RST | ACK, 0, null],
    ] as const) {
      const segment: Packet = {
        ...base,
        sourcePort: 40000,
        destinationPort: 80,
        flags,
        sequence,
        acknowledgment: 0x1234567,
        tcpOptions: [2, 4, 5, 180],
        payload: bytesOf(length),
      }
      const reset =
        answer &&
        hex(
          build({
            ...base,
            ...answer,
            source: base.destination,
            destination: base.source,
            sourcePort: 80,
            destinationPort: 40000,
            window: 0,
            id: 0,
            dontFragment: true,
          }),
        )
      assert.equal(router.reset(segment), reset, JSON.stringify(segment))
    }
  assert.equal(router.reset(four()), null, 'no TCP')
  const fragment = { id: 1, from: 0, to: 24, more: true }
  assert.equal(router.reset(four({ protocol: 6, payload: bytesOf(64), fragment })), null, 'a fragment')
})

test('10 a second and destination, 100 a second and zone; counted both ways', () => {
  const { bench, errors, h } = new Router()
  const { pool, arena } = bench
  const shower = (zone: number, now: number, hosts: number, each: number): number => {
    let sent = 0
    for (let host = 0; host < hosts; host++) {
      const packet = bench.put(build(four({ source: [0x0a000100 + host] })))
      h.parse(pool, packet)
      for (let i = 0; i < each; i++) {
        const made = errors.timeExceeded(h, zone, now, ...OWN4)
        if (made >= 0) {
          sent++
          pool.release(made)
        }
      }
      pool.release(packet)
    }
    return sent
  }
  assert.equal(shower(1, 5, 1, 50), 10)
  assert.equal(shower(1, 5, 1, 50), 0)
  assert.equal(shower(1, 6, 1, 50), 10)
  assert.equal(shower(1, 7, 50, 5), 100)
  assert.equal(shower(1, 7, 50, 5), 0)
  assert.equal(shower(2, 7, 15, 5), 75, 'another zone has its own')
  assert.equal(shower(511, 7, 1, 1), 1)
  assert.equal(arena.header[HEADER_ICMP_SENT], 10 + 10 + 100 + 75 + 1)
  assert.equal(arena.header[HEADER_ICMP_LIMITED], 40 + 50 + 40 + 150 + 250)
})

test('a port that has spent the second of its zone leaves the others a share each', () => {
  const { bench, errors, h } = new Router()
  const { pool } = bench
  const shower = (port: number, hosts: number, each: number): number => {
    let sent = 0
    for (let host = 0; host < hosts; host++) {
      const packet = bench.put(build(six({ source: [0xfd000000 | 0, port, 0, host] })))
      pool.records[(packet << RECORD_SHIFT) + INGRESS] = port
      h.parse(pool, packet)
      for (let i = 0; i < each; i++) {
        const made = errors.unreachable(h, 0, 1, 5, ...OWN6)
        if (made >= 0) sent++
        if (made >= 0) pool.release(made)
      }
      pool.release(packet)
    }
    return sent
  }
  assert.equal(shower(1, 20, 10), 100)
  assert.equal(shower(1, 1, 10), 0)
  assert.equal(shower(2, 20, 3), PORT_PER_SECOND)
  assert.equal(shower(3, 20, 3), PORT_PER_SECOND)
})

test('an empty pool is no error', () => {
  const { bench, errors, h } = new Router()
  const { pool } = bench
  const packet = bench.put(build(four()))
  h.parse(pool, packet)
  const taken: number[] = []
  for (let one = pool.take(100); one >= 0; one = pool.take(100)) taken.push(one)
  assert.equal(errors.timeExceeded(h, 0, 1, ...OWN4), -1)
  assert.equal(bench.arena.header[HEADER_ICMP_SENT], 0)
  for (const one of taken) pool.release(one)
  const made = errors.timeExceeded(h, 0, 1, ...OWN4)
  assert.ok(made >= 0)
})

test('a quote is read only if it says whose packet it was', () => {
  const { bench, errors, h } = new Router()
  const quoted = new Headers()
  const read = (error: Packet): string => {
    const packet = bench.put(build(error), { atEnd: true })
    assert.equal(h.parse(bench.pool, packet), 0)
    const reason = errors.parseQuoted(h, quoted)
    bench.pool.release(packet)
    return reason === 0 ? '' : (drops.DROP_NAMES[reason] ?? '')
  }
  const payload = bytesOf(64)
  for (const [inner, icmp, type] of [
    [four({ sourcePort: 7, destinationPort: 8, payload }), 1, 3],
    [six({ sourcePort: 7, destinationPort: 8, payload }), 58, 1],
  ] as const) {
    const is4 = inner.family === 4
    const l4 = is4 ? 20 : 40
    const about = (quote: Uint8Array | number[], more: Partial<Packet> = {}): Packet => ({
      family: inner.family,
      source: is4 ? [0x01010101] : [0x20010001, 0, 0, 1],
      destination: inner.source,
      protocol: icmp,
      type,
      payload: quote,
      ...more,
    })
    const quote = build(inner)
    for (let length = 0; length <= quote.length; length++) {
      const reason = read(about(quote.slice(0, length)))
      assert.equal(reason, length < l4 ? 'bad-ip' : length < l4 + 4 ? 'bad-transport' : '', `${length}`)
    }
    assert.deepEqual([quoted.sourcePort, quoted.destinationPort, quoted.protocol], [7, 8, 17])
    assert.deepEqual([quoted.source0, quoted.destination0], [inner.source[0], inner.destination[0]])
    const echo = build({ ...inner, protocol: icmp, type: is4 ? 8 : 128, identifier: 99 })
    assert.equal(read(about(echo.slice(0, l4 + 5))), 'bad-transport')
    assert.equal(read(about(echo.slice(0, l4 + 6))), '')
    assert.deepEqual([quoted.sourcePort, quoted.icmp], [99, is4 ? 0x0800 : 0x8000])
    assert.equal(read(about(build({ ...inner, protocol: 47 }).slice(0, l4))), '')
    const later = build({ ...inner, fragment: { id: 1, from: 16, to: 48, more: true } })
    assert.equal(read(about(later)), 'bad-transport')
    assert.equal(read(about(build({ ...inner, fragment: { id: 1, from: 0, to: 48, more: true } }))), '')
    assert.equal(quoted.fragment, 1)
    assert.equal(read(about(quote, { destination: inner.destination })), 'invalid', 'to another than its sender')
    for (const other of is4 ? [0, 8, 5, 13] : [0, 5, 128, 137])
      assert.equal(read(about(quote, { type: other })), 'invalid', `${other}`)
    assert.equal(read(about([...quote, 1, 2, 3])), '')
    assert.equal(quoted.end - quoted.l3, quote.length, 'what is behind the quoted packet is no part of it')
    const versions = quote.slice()
    versions[0] ^= 0x20
    assert.equal(read(about(versions)), 'bad-ip')
    const whole = 8 + quote.length
    const fragment = { id: 1, from: 0, to: whole & ~7, more: true }
    assert.equal(read(about(quote, { fragment })), 'bad-transport', 'a fragment of an error')
  }
  const spoiled = build(four({ payload }))
  spoiled[10] ^= 255
  assert.equal(read({ ...four(), source: B4, destination: A4, protocol: 1, type: 3, payload: spoiled }), '')
  spoiled[3] = 12
  assert.equal(read({ ...four(), source: B4, destination: A4, protocol: 1, type: 3, payload: spoiled }), 'bad-ip')
  const long = build(four({ protocol: 47, payload }))
  long[0] = 0x4f
  const about = (quote: Uint8Array): Packet =>
    four({ source: B4, destination: A4, protocol: 1, type: 3, payload: quote })
  assert.equal(read(about(long.slice(0, 59))), 'bad-ip')
  assert.equal(read(about(long.slice(0, 60))), '')
  assert.equal(read(four()), 'invalid')
})
