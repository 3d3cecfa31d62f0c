/**
 * Virtual reassembly: fragments in every order, overlaps and duplicates as in the frag6 and Open vSwitch tests, limits,
 * floods of one port against another's datagrams, timeouts. Every test ends with an empty table and a whole pool.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Pool } from '../../../src/dataplane/burst.js'
import {
  DROP_FRAGMENT_LIMIT,
  DROP_FRAGMENT_OVERLAP,
  DROP_FRAGMENT_TIMEOUT,
  DROP_LINK_DOWN,
} from '../../../src/dataplane/drops.js'
import {
  type Arena,
  DROP_SHIFT,
  ETHERTYPE,
  HEADER_FRAGMENTS_HELD,
  HEADER_SECRET,
  INGRESS,
  OFFSET,
  RECORD_SHIFT,
} from '../../../src/dataplane/layout.js'
import { DATAGRAMS, PORT_DATAGRAMS, RANGES } from '../../../src/dataplane/router/datagrams.js'
import { Identifications } from '../../../src/dataplane/router/identification.js'
import {
  FRAGMENT_GOES_ON,
  FRAGMENT_HELD,
  Fragments,
  HELD_FRAGMENTS,
  HELD_MAX,
  TIMEOUT_SECONDS,
} from '../../../src/dataplane/router/fragments.js'
import { Headers } from '../../../src/dataplane/router/headers.js'
import { GEOMETRY, newArena, randomFrom } from '../rig.js'

const PORTS = GEOMETRY.ports

interface Piece {
  id: number
  start: number
  end: number
  more: boolean
  family?: 4 | 6
  source?: number
  protocol?: number
  /** IPv6: what the fragment header says comes next; default: the protocol */
  next?: number
}

/** The byte that a datagram has at a place. */
const payloadByte = (i: number): number => (i * 7 + (i >> 8)) & 255

/** UDP from 4000 to 53 from byte 0 on, behind 8 bytes of destination options where `next` is 60. */
function payload({ start, end, next }: Piece): Uint8Array {
  const bytes = Uint8Array.from({ length: end - start }, (_, i) => payloadByte(start + i))
  const udp = [4000 >> 8, 4000 & 255, 0, 53, 0x20, 0, 0, 0]
  if (start === 0) bytes.set(next === 60 ? [17, 0, 1, 4, 0, 0, 0, 0, ...udp] : udp)
  return bytes
}

function frameOf(piece: Piece): Uint8Array {
  const { id, start, more, family = 4, source = 5, protocol = 17 } = piece
  const body = payload(piece)
  const header = family === 4 ? 20 : 48
  const frame = new Uint8Array(14 + header + body.length)
  const view = new DataView(frame.buffer)
  frame.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2])
  view.setUint16(12, family === 4 ? 0x0800 : 0x86dd)
  if (family === 4) {
    view.setUint16(14, 0x4500)
    view.setUint16(16, 20 + body.length)
    view.setUint16(18, id)
    view.setUint16(20, (start >> 3) | (more ? 0x2000 : 0))
    frame.set([64, protocol], 22)
    view.setInt32(26, 0x0a000000 | source)
    view.setInt32(30, 0x0a000101)
    let sum = 0
    for (let at = 14; at < 34; at += 2) sum += view.getUint16(at)
    sum = (sum & 0xffff) + (sum >>> 16)
    view.setUint16(24, ~(sum + (sum >>> 16)) & 0xffff)
  } else {
    view.setUint32(14, 0x60000000)
    view.setUint16(18, 8 + body.length)
    frame.set([44, 64], 20)
    view.setInt32(22, 0x20010db8)
    view.setInt32(34, source)
    view.setInt32(38, 0x20010db8)
    view.setInt32(50, 0x101)
    frame[54] = piece.next ?? protocol
    view.setUint16(56, start | (more ? 1 : 0))
    view.setInt32(58, id)
  }
  frame.set(body, 14 + header)
  return frame
}

interface Passed {
  id: number
  port: number
  offset: number
  protocol: number
  ports: string
}

class Bench {
  readonly arena: Arena
  readonly pool: Pool
  readonly fragments: Fragments
  readonly passed: Passed[] = []
  private readonly h = new Headers()
  private readonly startFree: number

  constructor() {
    this.arena = newArena({ ...GEOMETRY, largeSlots: 64 })
    for (let i = 0; i < 4; i++) this.arena.header[HEADER_SECRET + i] = 0x1234567 * (i + 3)
    this.pool = new Pool(this.arena)
    this.pool.reset()
    this.startFree = this.pool.free()
    this.fragments = new Fragments(this.arena, this.pool, PORTS, new Identifications(this.arena.header))
  }

  /** One fragment through the table, and what it sets free. Returns the verdict on it. */
  give(piece: Piece, { port = 1, zone = 0, now = 0, slot = 0 } = {}): number {
    const frame = frameOf(piece)
    const packet = this.pool.take(Math.max(slot, frame.length))
    assert.ok(packet >= 0, 'the pool is empty')
    const record = packet << RECORD_SHIFT
    this.arena.records[record + INGRESS] = port
    this.arena.records[record + ETHERTYPE] = piece.family === 6 ? 0x86dd : 0x0800
    this.arena.bytes.set(frame, this.arena.records[record + OFFSET])
    assert.equal(this.h.parse(this.pool, packet), 0)
    const verdict = this.fragments.process(this.h, zone, now)
    if (verdict === FRAGMENT_GOES_ON) this.goesOn(packet)
    else if (verdict !== FRAGMENT_HELD) this.pool.drop(packet, verdict)
    for (let ready = this.fragments.takeReady(this.h); ready >= 0; ready = this.fragments.takeReady(this.h)) {
      assert.equal(this.h.packet, ready)
      this.goesOn(ready)
    }
    assert.ok(this.held() <= HELD_FRAGMENTS)
    return verdict
  }

  held(): number {
    return this.arena.header[HEADER_FRAGMENTS_HELD]
  }

  drops(port: number, reason: number): number {
    return this.arena.drops[(port << DROP_SHIFT) + reason]
  }

  /** The offsets that passed, in their order. */
  offsets(id: number): number[] {
    return this.passed.filter((one) => one.id === id).map(({ offset }) => offset)
  }

  finish(): void {
    this.fragments.sweep(1 << 20)
    assert.equal(this.fragments.count(), 0, 'datagrams are left')
    assert.equal(this.held(), 0)
    assert.equal(this.pool.free(), this.startFree, 'slots leaked or freed twice')
  }

  private goesOn(packet: number): void {
    const { h } = this
    const { protocol, sourcePort, destinationPort } = h
    // as if it had waited for its next hop
    assert.equal(h.parse(this.pool, packet), 0)
    this.fragments.recall(h)
    assert.deepEqual([h.protocol, h.sourcePort, h.destinationPort], [protocol, sourcePort, destinationPort])
    const port = this.arena.records[(packet << RECORD_SHIFT) + INGRESS]
    const ports = `${sourcePort} ${destinationPort}`
    this.passed.push({ id: h.fragmentId, port, offset: h.fragmentOffset, protocol, ports })
    this.pool.release(packet)
  }
}

function fragmenting(name: string, body: (bench: Bench) => void): void {
  test(name, () => {
    const bench = new Bench()
    body(bench)
    bench.finish()
  })
}

/** A datagram of so many bytes in pieces of a size. */
function pieces(id: number, bytes: number, size: number, more: Partial<Piece> = {}): Piece[] {
  const result: Piece[] = []
  for (let start = 0; start < bytes; start += size) {
    const end = Math.min(start + size, bytes)
    result.push({ id, start, end, more: end < bytes, ...more })
  }
  return result
}

function permutations<T>(of: readonly T[]): T[][] {
  if (of.length < 2) return [[...of]]
  return of.flatMap((one, i) => permutations(of.filter((_, j) => j !== i)).map((rest) => [one, ...rest]))
}

for (const family of [4, 6] as const)
  fragmenting(`IPv${family}: fragments in every order go on with their ports`, (bench) => {
    const orders = permutations(pieces(0, 1232 * 4 + 100, 1232, { family }))
    assert.equal(orders.length, 120)
    for (const [id, order] of orders.entries()) {
      const firstAt = order.findIndex(({ start }) => start === 0)
      for (const [i, piece] of order.entries())
        assert.equal(bench.give({ ...piece, id }), i < firstAt ? FRAGMENT_HELD : FRAGMENT_GOES_ON)
      const released = order.slice(0, firstAt).map(({ start }) => start)
      const direct = order.slice(firstAt + 1).map(({ start }) => start)
      assert.deepEqual(bench.offsets(id), [0, ...released.sort((a, b) => a - b), ...direct])
      assert.equal(bench.fragments.count(), 0, 'a whole datagram is forgotten at once')
    }
    for (const { ports, protocol } of bench.passed) {
      assert.equal(ports, '4000 53')
      assert.equal(protocol, 17)
    }
  })

fragmenting('IPv6: the protocol behind further headers comes from the first fragment', (bench) => {
  const [first, second] = pieces(9, 2000, 1240, { family: 6, next: 60 })
  assert.equal(bench.give(second), FRAGMENT_HELD)
  assert.equal(bench.give(first), FRAGMENT_GOES_ON)
  assert.deepEqual(
    bench.passed.map(({ protocol, ports }) => [protocol, ports]),
    [
      [17, '4000 53'],
      [17, '4000 53'],
    ],
  )
})

fragmenting('whole packets and lone IPv6 fragments pass at once', (bench) => {
  const h = new Headers()
  assert.equal(bench.fragments.process(h, 0, 0), FRAGMENT_GOES_ON)
  const packet = bench.pool.take(200)
  const lone = frameOf({ id: 1, start: 0, end: 100, more: false, family: 6, protocol: 253 })
  bench.arena.bytes.set(lone, bench.arena.records[(packet << RECORD_SHIFT) + OFFSET])
  bench.arena.records[(packet << RECORD_SHIFT) + ETHERTYPE] = 0x86dd
  const reason = h.parse(bench.pool, packet)
  assert.equal(reason, 0)
  assert.equal(bench.fragments.process(h, 0, 0), FRAGMENT_GOES_ON)
  assert.equal(bench.fragments.count(), 0)
  bench.pool.release(packet)
})

fragmenting('ping -s 8000 over 1500, 64 KiB over 1500 and over 576, cut again to 1400', (bench) => {
  const sizes: [bytes: number, size: number][] = [
    [8008, 1480],
    [65508, 1480],
    [65508, 552],
  ]
  for (const [id, [bytes, size]] of sizes.entries())
    for (const piece of pieces(id, bytes, size)) assert.equal(bench.give(piece), FRAGMENT_GOES_ON)
  const again = pieces(7, 8008, 1480).flatMap(({ start, end, more, id }) =>
    end - start > 1376
      ? [
          { id, start, end: start + 1376, more: true },
          { id, start: start + 1376, end, more },
        ]
      : [],
  )
  for (const piece of again.filter(({ start }) => start < 7400)) assert.equal(bench.give(piece), FRAGMENT_GOES_ON)
})

// ---- overlaps ----

const first: Piece = { id: 1, start: 0, end: 1480, more: true }
/** Each contradicts `first` and the fragment from 1480 to 2960, or says another end than 4000. */
const OVERLAPS: [what: string, piece: Piece][] = [
  ['the end of another', { id: 1, start: 1472, end: 2000, more: true }],
  ['the start of another', { id: 1, start: 1400, end: 1488, more: true }],
  ['inside another', { id: 1, start: 1600, end: 2000, more: true }],
  ['all of another', { id: 1, start: 1472, end: 2968, more: true }],
  ['the same start, shorter', { id: 1, start: 1480, end: 2000, more: true }],
  ['another first', { id: 1, start: 0, end: 1400, more: true }],
  ['beyond the end', { id: 1, start: 4000, end: 4800, more: true }],
  ['another end', { id: 1, start: 4000, end: 4800, more: false }],
  ['an end before others', { id: 1, start: 2960, end: 3200, more: false }],
]
for (const [what, piece] of OVERLAPS) {
  fragmenting(`overlap of ${what}: the datagram is dropped, and all that follows`, (bench) => {
    const rest: Piece[] = [
      { id: 1, start: 1480, end: 2960, more: true },
      { id: 1, start: 3600, end: 4000, more: false },
    ]
    for (const one of [first, ...rest]) assert.equal(bench.give(one), FRAGMENT_GOES_ON)
    assert.equal(bench.give(piece), DROP_FRAGMENT_OVERLAP)
    assert.equal(bench.give({ id: 1, start: 2960, end: 3600, more: true }), DROP_FRAGMENT_OVERLAP)
    assert.equal(bench.give(first, { now: TIMEOUT_SECONDS - 1 }), DROP_FRAGMENT_OVERLAP)
    assert.equal(bench.give({ ...first, id: 2 }), FRAGMENT_GOES_ON)
    assert.equal(bench.give(first, { now: TIMEOUT_SECONDS }), FRAGMENT_GOES_ON)
    assert.equal(bench.drops(1, DROP_FRAGMENT_OVERLAP), 3)
  })
  fragmenting(`overlap of ${what}, held: nothing of it goes on`, (bench) => {
    if (piece.start === 0) return
    const rest: Piece[] = [
      { id: 1, start: 1480, end: 2960, more: true },
      { id: 1, start: 3600, end: 4000, more: false },
    ]
    for (const one of rest) assert.equal(bench.give(one), FRAGMENT_HELD)
    if (what === 'the start of another') assert.equal(bench.give(piece), DROP_FRAGMENT_OVERLAP)
    else bench.give(piece)
    assert.equal(bench.held(), 0)
    assert.equal(bench.give(first), DROP_FRAGMENT_OVERLAP)
    assert.deepEqual(bench.passed, [])
    assert.equal(bench.drops(1, DROP_FRAGMENT_OVERLAP), 4)
  })
}

fragmenting('a first fragment that overlaps what is held', (bench) => {
  assert.equal(bench.give({ id: 1, start: 1472, end: 2000, more: false }), FRAGMENT_HELD)
  assert.equal(bench.give(first), DROP_FRAGMENT_OVERLAP)
  assert.deepEqual(bench.passed, [])
})

fragmenting('exact duplicates are dropped and spoil nothing, held or not', (bench) => {
  const [one, two, three] = pieces(3, 4000, 1480)
  assert.equal(bench.give(three), FRAGMENT_HELD)
  assert.equal(bench.give(three), DROP_FRAGMENT_OVERLAP)
  assert.equal(bench.give(one), FRAGMENT_GOES_ON)
  assert.equal(bench.give(one), DROP_FRAGMENT_OVERLAP)
  assert.equal(bench.give(three), DROP_FRAGMENT_OVERLAP)
  assert.equal(bench.give(two), FRAGMENT_GOES_ON)
  assert.deepEqual(bench.offsets(3), [0, 2960, 1480])
})

fragmenting('nobody spoils a datagram of another port, zone, protocol, address or identification', (bench) => {
  const [one, two] = pieces(3, 2000, 1480)
  const bad = { ...two, start: 1472 }
  assert.equal(bench.give(one), FRAGMENT_GOES_ON)
  bench.give(bad, { port: 2 })
  bench.give(bad, { zone: 1 })
  bench.give({ ...bad, protocol: 132 })
  bench.give({ ...bad, source: 6 })
  bench.give({ ...bad, id: 4 })
  bench.give({ ...bad, family: 6 })
  assert.equal(bench.held(), 6)
  assert.equal(bench.give(two), FRAGMENT_GOES_ON)
  assert.deepEqual(bench.offsets(3), [0, 1480])
})

// ---- limits ----

fragmenting('a first fragment that no link makes is dropped, small ones behind it are not', (bench) => {
  assert.equal(bench.give({ id: 1, start: 0, end: 376, more: true }), DROP_FRAGMENT_LIMIT)
  assert.equal(bench.give({ id: 2, start: 0, end: 384, more: true }), FRAGMENT_GOES_ON)
  assert.equal(bench.give({ id: 2, start: 384, end: 392, more: true }), FRAGMENT_GOES_ON)
  assert.equal(bench.give({ id: 3, start: 0, end: 1224, more: true, family: 6 }), DROP_FRAGMENT_LIMIT)
  assert.equal(bench.give({ id: 4, start: 0, end: 1232, more: true, family: 6 }), FRAGMENT_GOES_ON)
})

fragmenting('a datagram has so many fragments, and so many of them are held', (bench) => {
  for (let i = 1; i <= HELD_MAX; i++)
    assert.equal(bench.give({ id: 1, start: i * 400, end: i * 400 + 400, more: true }), FRAGMENT_HELD)
  const next: Piece = { id: 1, start: 8000, end: 8400, more: false }
  assert.equal(bench.give(next), DROP_FRAGMENT_LIMIT)
  assert.equal(bench.give({ id: 1, start: 0, end: 400, more: true }), FRAGMENT_GOES_ON)
  assert.equal(bench.held(), 0)
  assert.equal(bench.give(next), FRAGMENT_GOES_ON, 'what was refused did not come')
  const many = pieces(2, 400 * (RANGES + 2), 400)
  for (const piece of many.slice(0, RANGES)) assert.equal(bench.give(piece), FRAGMENT_GOES_ON)
  assert.equal(bench.give(many[RANGES]), DROP_FRAGMENT_LIMIT)
  assert.equal(bench.give(many[RANGES + 1]), DROP_FRAGMENT_OVERLAP)
})

fragmenting("a port at its limit loses its own oldest datagram, and nobody else's", (bench) => {
  const [one, two] = pieces(0, 2000, 1480)
  assert.equal(bench.give(one, { port: 2 }), FRAGMENT_GOES_ON)
  for (let id = 0; id < PORT_DATAGRAMS + 1; id++) bench.give({ ...one, id })
  assert.equal(bench.fragments.count(), PORT_DATAGRAMS + 1)
  assert.equal(bench.give(two), FRAGMENT_HELD, 'its first is forgotten')
  assert.equal(bench.give({ ...two, id: PORT_DATAGRAMS }), FRAGMENT_GOES_ON)
  assert.equal(bench.give(two, { port: 2 }), FRAGMENT_GOES_ON)
})

fragmenting('when all is full, the port that has most gives way', (bench) => {
  let given = 0
  for (let port = 1; given < DATAGRAMS - 1; port++)
    for (let i = 0; i < PORT_DATAGRAMS && given < DATAGRAMS - 1; i++, given++) bench.give({ ...first, id: i }, { port })
  assert.equal(bench.give({ ...first, id: 500 }, { port: 40 }), FRAGMENT_GOES_ON)
  for (let id = 501; id < 550; id++) assert.equal(bench.give({ ...first, id }, { port: 41 }), FRAGMENT_GOES_ON)
  assert.equal(bench.fragments.count(), DATAGRAMS)
  assert.equal(bench.give({ id: 500, start: 1480, end: 1600, more: false }, { port: 40 }), FRAGMENT_GOES_ON)
})

fragmenting('a flood of one port leaves the datagrams of another whole', (bench) => {
  const random = randomFrom(11)
  for (let round = 0; round < 300; round++) {
    const victim = pieces(round, 8008, 1480).reverse()
    for (const piece of victim) {
      for (let i = 0; i < 12; i++) {
        const start = random(4) === 0 ? 0 : 1480
        bench.give({ id: random(65536), start, end: start + 1480, more: true, source: random(200) }, { port: 3 })
      }
      bench.give(piece, { port: 1 })
    }
    const starts = bench.passed.filter(({ id, port }) => id === round && port === 1).map(({ offset }) => offset)
    assert.deepEqual(starts, [0, 1480, 2960, 4440, 5920, 7400])
  }
  assert.equal(bench.drops(1, DROP_FRAGMENT_LIMIT), 0)
  assert.ok(bench.drops(3, DROP_FRAGMENT_LIMIT) > 1000)
  assert.equal(bench.drops(1, DROP_FRAGMENT_OVERLAP), 0)
})

fragmenting('packets that flood the slots for held ones give way to others', (bench) => {
  for (let id = 0; id < 40; id++)
    for (let i = 1; i < 9; i++) bench.give({ id, start: i * 400, end: i * 400 + 400, more: true }, { port: 3 })
  assert.equal(bench.held(), HELD_FRAGMENTS)
  for (const piece of pieces(99, 8008, 1480).reverse()) assert.ok(bench.give(piece, { port: 1 }) <= 0)
  assert.equal(bench.drops(1, DROP_FRAGMENT_LIMIT), 0)
  assert.equal(bench.drops(3, DROP_FRAGMENT_LIMIT), 40 * 8 - HELD_FRAGMENTS + 8)
})

fragmenting('large slots count for eight', (bench) => {
  for (let id = 0; id < 60; id++) bench.give({ id, start: 1480, end: 2960, more: true }, { slot: 9000 })
  assert.equal(bench.held(), HELD_FRAGMENTS / 8)
})

// ---- time ----

fragmenting('what waits too long is dropped and counted; a first fragment that comes then begins anew', (bench) => {
  const [one, two] = pieces(1, 2000, 1480)
  assert.equal(bench.give(two, { now: 100 }), FRAGMENT_HELD)
  bench.fragments.sweep(100 + TIMEOUT_SECONDS - 1)
  assert.equal(bench.held(), 1)
  bench.fragments.sweep(100 + TIMEOUT_SECONDS)
  assert.equal(bench.held(), 0)
  assert.equal(bench.drops(1, DROP_FRAGMENT_TIMEOUT), 1)
  assert.equal(bench.give(two, { now: 200 }), FRAGMENT_HELD)
  assert.equal(bench.give(one, { now: 200 + TIMEOUT_SECONDS }), FRAGMENT_GOES_ON, 'without a sweep')
  assert.equal(bench.drops(1, DROP_FRAGMENT_TIMEOUT), 2)
  assert.deepEqual(bench.offsets(1), [0])
})

fragmenting('a port that goes takes its fragments along', (bench) => {
  const [, two] = pieces(1, 2000, 1480)
  bench.give(two, { port: 1 })
  bench.give(two, { port: 2 })
  bench.fragments.forget(1)
  assert.equal(bench.held(), 1)
  assert.equal(bench.drops(1, DROP_LINK_DOWN), 1)
})

// ---- at random ----

fragmenting('shuffled datagrams of several ports all pass, each fragment once', (bench) => {
  const random = randomFrom(77)
  for (let round = 0; round < 60; round++) {
    const queue: { port: number; piece: Piece; key: number }[] = []
    for (const port of [1, 2, 3])
      for (let id = 0; id < 5; id++)
        for (const piece of pieces(id, 1500 + random(6000), 8 * (60 + random(120))))
          queue.push({ port, piece, key: random(1 << 30) })
    queue.sort((a, b) => a.key - b.key)
    bench.passed.length = 0
    for (const [i, { port, piece }] of queue.entries()) {
      assert.ok(bench.give(piece, { port }) <= 0)
      const again = queue[random(i + 1)]
      const isOver = queue.slice(i + 1).every((one) => one.port !== again.port || one.piece.id !== again.piece.id)
      if (!isOver) assert.equal(bench.give(again.piece, { port: again.port }), DROP_FRAGMENT_OVERLAP)
    }
    const said = (port: number, id: number, offset: number): string => `${port} ${id} ${offset}`
    assert.deepEqual(
      bench.passed.map(({ port, id, offset }) => said(port, id, offset)).sort(),
      queue.map(({ port, piece }) => said(port, piece.id, piece.start)).sort(),
    )
    assert.ok(bench.passed.every(({ ports }) => ports === '4000 53'))
    assert.equal(bench.fragments.count(), 0)
  }
})

fragmenting('at random, hostile: never a throw, never a leaked slot, never too much held', (bench) => {
  const random = randomFrom(5)
  for (let i = 0; i < 30000; i++) {
    const start = random(3) === 0 ? 0 : 8 * random(1000)
    const length = 8 * (1 + random(180))
    const family = random(4) === 0 ? 6 : 4
    const piece = { id: random(40), start, end: start + length, more: random(4) !== 0 || start === 0, family } as const
    // the parser refuses first fragments without the whole transport header
    if (start === 0 && length < 16) continue
    bench.give(piece, { port: random(5), zone: random(2), now: i >> 8, slot: random(20) === 0 ? 4000 : 0 })
    if ((i & 0xff) === 0) bench.fragments.sweep(i >> 8)
  }
})
