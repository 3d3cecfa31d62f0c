/**
 * Cutting IPv4 packets: every cut is put together again by plain code and compared, over MTUs, lengths, options, pieces
 * of pieces and unfinished checksums; refusals take no slot.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Pool } from '../../../src/dataplane/burst.js'
import {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  ETHERTYPE,
  INGRESS,
  LENGTH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  OFFSET,
  RECORD_SHIFT,
  REFERENCES,
  SEGMENT_BYTES,
  VID,
} from '../../../src/dataplane/layout.js'
import { PIECES_MAX, cutPacket } from '../../../src/dataplane/router/fragmentation.js'
import { Headers } from '../../../src/dataplane/router/headers.js'
import { GEOMETRY, newArena, randomFrom } from '../rig.js'

const arena = newArena({ ...GEOMETRY, smallSlots: 256, largeSlots: 32 })
const pool = new Pool(arena)
pool.reset()
const pieces = new Int32Array(PIECES_MAX)

const add16 = (bytes: Uint8Array, sum: number): number => {
  let total = sum
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i] << 8) | (bytes[i + 1] ?? 0)
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 65536)
  return total
}

interface Shape {
  payload: number
  options?: number[]
  dontFragment?: boolean
  more?: boolean
  offset?: number
  padding?: number
}

/** A UDP packet in a slot, its transport checksum unfinished; bytes of the frame are returned too. */
function packetOf({
  payload,
  options = [],
  dontFragment = false,
  more = false,
  offset = 0,
  padding = 0,
}: Shape): number {
  const header = 20 + options.length
  const packet = pool.take(14 + header + payload + padding)
  assert.ok(packet >= 0)
  const record = packet << RECORD_SHIFT
  const { records } = arena
  const frame = new Uint8Array(14 + header + payload + padding)
  const view = new DataView(frame.buffer)
  frame.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x40 | (header >> 2), 0x10])
  view.setUint16(16, header + payload)
  view.setUint16(18, 0xbeef)
  view.setUint16(20, (dontFragment ? 0x4000 : 0) | (more ? 0x2000 : 0) | (offset >> 3))
  frame.set([63, 17, 0, 0, 10, 0, 0, 5, 192, 0, 2, 1], 22)
  frame.set(options, 34)
  for (let i = 0; i < payload; i++) frame[14 + header + i] = (i * 13 + (i >> 8)) & 255
  if (offset === 0) {
    view.setUint16(14 + header + 4, payload)
    view.setUint16(14 + header + 6, 0)
  }
  view.setUint16(24, ~add16(frame.subarray(14, 14 + header), 0) & 0xffff)
  records[record + ETHERTYPE] = 0x0800
  records[record + INGRESS] = 7
  records[record + VID] = 12
  arena.bytes.set(frame, records[record + OFFSET])
  return packet
}

const frameOf = (packet: number): Uint8Array => {
  const record = packet << RECORD_SHIFT
  const at = arena.records[record + OFFSET]
  return arena.bytes.slice(at, at + arena.records[record + LENGTH])
}

interface Whole {
  payload: Uint8Array
  options: number[][]
  lengths: number[]
  more: boolean
  start: number
}

/** Checks each piece as a receiver does, and puts them together. */
function together(count: number, mtu: number): Whole {
  const options: number[][] = []
  const lengths: number[] = []
  const parts: [start: number, bytes: Uint8Array][] = []
  let more = true
  for (let i = 0; i < count; i++) {
    const frame = frameOf(pieces[i])
    const view = new DataView(frame.buffer)
    const header = (frame[14] & 15) << 2
    const total = view.getUint16(16)
    assert.equal(frame.length, 14 + total)
    assert.ok(total <= mtu, `${total} of ${mtu}`)
    assert.equal(add16(frame.subarray(14, 14 + header), 0), 0xffff, 'header checksum')
    assert.equal(view.getUint16(18), 0xbeef)
    assert.deepEqual([...frame.subarray(0, 12)], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2])
    assert.deepEqual([...frame.subarray(26, 34)], [10, 0, 0, 5, 192, 0, 2, 1])
    const bits = view.getUint16(20)
    more = (bits & 0x2000) !== 0
    if (i < count - 1) {
      assert.ok(more)
      assert.equal((total - header) % 8, 0)
      assert.ok(total + 8 > mtu, 'a piece that is not the last is as long as may be')
    }
    options.push([...frame.subarray(34, 14 + header)])
    lengths.push(total)
    parts.push([(bits & 0x1fff) << 3, frame.subarray(14 + header)])
    const record = pieces[i] << RECORD_SHIFT
    assert.equal(arena.records[record + INGRESS], 7)
    assert.equal(arena.records[record + VID], 12)
    assert.equal(arena.records[record + REFERENCES], 1)
    assert.equal(arena.records[record + OFFLOAD], 0)
    const h = new Headers()
    if (parts[i][0] > 0 || frame.length > 60) assert.equal(h.parse(pool, pieces[i]), 0)
  }
  const start = parts[0][0]
  const payload = new Uint8Array(parts.reduce((sum, [, bytes]) => sum + bytes.length, 0))
  let at = start
  for (const [from, bytes] of parts) {
    assert.equal(from, at)
    payload.set(bytes, from - start)
    at += bytes.length
  }
  return { payload, options, lengths, more, start }
}

function release(count: number): void {
  for (let i = 0; i < count; i++) pool.release(pieces[i])
}

test('pieces are what the packet was, over MTUs and lengths', () => {
  const free = pool.free()
  const random = randomFrom(3)
  for (let round = 0; round < 400; round++) {
    const payload = 8 + random(round % 8 === 0 ? 60000 : 4000)
    const mtu = Math.max(68 + random(1500), Math.ceil(payload / 60) + 30)
    const packet = packetOf({ payload, padding: random(3) === 0 ? 20 : 0 })
    const before = frameOf(packet)
    const count = cutPacket(pool, packet, mtu, pieces)
    assert.ok(count > 0, `${payload} over ${mtu}`)
    const whole = together(count, mtu)
    assert.deepEqual(whole.payload, before.slice(34, 34 + payload))
    assert.equal(whole.more, false)
    release(count)
    pool.release(packet)
  }
  assert.equal(pool.free(), free)
})

test('as few pieces as fit', () => {
  const counts: [payload: number, mtu: number, count: number][] = [
    [1480, 1500, 1],
    [1481, 1500, 2],
    [1480 * 2, 1500, 2],
    [1480 * 2 + 1, 1500, 3],
    [1475, 1492, 2], // a link whose payload is no multiple of 8
    [1472 + 1472, 1492, 2],
    [556 + 552, 576, 2], // the last one may be longer than the others
    [557 + 552, 576, 3],
    [48 * 63 + 48, 68, 64],
  ]
  for (const [payload, mtu, expected] of counts) {
    const packet = packetOf({ payload })
    const count = cutPacket(pool, packet, mtu, pieces)
    assert.equal(count, expected, `${payload} over ${mtu}`)
    together(count, mtu)
    release(count)
    pool.release(packet)
  }
})

test('a piece is cut again: offsets go on, the last one keeps what the packet said', () => {
  for (const more of [true, false]) {
    const packet = packetOf({ payload: 1480, offset: 2960, more })
    const before = frameOf(packet)
    const count = cutPacket(pool, packet, 576, pieces)
    assert.equal(count, 3)
    const whole = together(count, 576)
    assert.equal(whole.start, 2960)
    assert.equal(whole.more, more)
    assert.deepEqual(whole.payload, before.slice(34))
    release(count)
    pool.release(packet)
  }
})

test('options: all in the first piece, those with the copy bit in every one', () => {
  const record = [7, 7, 4, 0, 0, 0, 0] // record route: not copied
  const security = [130, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9] // copied
  const alert = [148, 4, 0, 0] // router alert: copied
  const options = [1, ...record, ...security, ...alert, 0]
  assert.equal(options.length, 24)
  const packet = packetOf({ payload: 3000, options })
  const before = frameOf(packet)
  const count = cutPacket(pool, packet, 600, pieces)
  const whole = together(count, 600)
  assert.deepEqual(whole.options[0], options)
  for (const later of whole.options.slice(1)) assert.deepEqual(later, [...security, ...alert, 0])
  assert.deepEqual(whole.payload, before.slice(14 + 44))
  release(count)
  pool.release(packet)

  const plain = packetOf({ payload: 3000, options: [7, 3, 4, 1] })
  const plainCount = cutPacket(pool, plain, 600, pieces)
  assert.deepEqual(together(plainCount, 600).options, [
    [7, 3, 4, 1],
    ...Array.from({ length: plainCount - 1 }, () => []),
  ])
  release(plainCount)
  pool.release(plain)

  // an option that does not fit ends them
  const broken = packetOf({ payload: 3000, options: [130, 200, 1, 1] })
  const { view } = pool
  const count3 = cutPacket(pool, broken, 600, pieces)
  assert.ok(count3 > 0)
  assert.equal(view.getUint8(arena.records[(pieces[1] << RECORD_SHIFT) + OFFSET] + 14), 0x45)
  release(count3)
  pool.release(broken)
})

test('an unfinished checksum is finished before the cut, without the padding', () => {
  for (const payload of [2000, 2001, 3333]) {
    const packet = packetOf({ payload, padding: 9 })
    const record = packet << RECORD_SHIFT
    const at = arena.records[record + OFFSET]
    arena.bytes.fill(0xff, at + 34 + payload, at + 34 + payload + 9)
    const pseudo = add16(Uint8Array.of(10, 0, 0, 5, 192, 0, 2, 1, 0, 17, payload >> 8, payload & 255), 0)
    pool.view.setUint16(at + 34 + 6, pseudo)
    arena.records[record + OFFLOAD] = OFFLOAD_CHECKSUM
    arena.records[record + CHECKSUM_START] = 34
    arena.records[record + CHECKSUM_OFFSET] = 6
    const count = cutPacket(pool, packet, 1500, pieces)
    const whole = together(count, 1500)
    assert.equal(add16(whole.payload, pseudo), 0xffff)
    assert.equal(arena.records[record + OFFLOAD], 0, 'the packet itself is finished too')
    release(count)
    pool.release(packet)
  }
})

test('a UDP checksum of 0 is written as 0xffff', () => {
  const packet = packetOf({ payload: 1600 })
  const record = packet << RECORD_SHIFT
  const at = arena.records[record + OFFSET]
  arena.bytes.fill(0, at + 34, at + 34 + 1600)
  pool.view.setUint16(at + 34 + 6, 0xffff)
  arena.records[record + OFFLOAD] = OFFLOAD_CHECKSUM
  arena.records[record + CHECKSUM_START] = 34
  arena.records[record + CHECKSUM_OFFSET] = 6
  const count = cutPacket(pool, packet, 1500, pieces)
  assert.equal(pool.view.getUint16(at + 34 + 6), 0xffff)
  release(count)
  pool.release(packet)
})

test('what is refused takes no slot', () => {
  const refused = (packet: number, mtu: number, into = pieces): void => {
    const free = pool.free()
    assert.equal(cutPacket(pool, packet, mtu, into), -1)
    assert.equal(pool.free(), free)
    pool.release(packet)
  }
  refused(packetOf({ payload: 3000, dontFragment: true }), 1500)
  refused(packetOf({ payload: 3000 }), 67)
  refused(packetOf({ payload: 48 * 64 + 49 }), 68)
  refused(packetOf({ payload: 3000 }), 1500, new Int32Array(2))
  const segmented = packetOf({ payload: 3000 })
  arena.records[(segmented << RECORD_SHIFT) + SEGMENT_BYTES] = 1000
  refused(segmented, 1500)
  const six = packetOf({ payload: 3000 })
  arena.records[(six << RECORD_SHIFT) + ETHERTYPE] = 0x86dd
  refused(six, 1500)
})

test('a pool that runs dry in the middle gets back what was taken', () => {
  const packet = packetOf({ payload: 6000 })
  const kept: number[] = []
  for (let one = pool.take(60); one >= 0; one = pool.take(60)) kept.push(one)
  for (let i = 0; i < 3; i++) pool.release(kept.pop()!)
  const free = pool.free()
  assert.equal(cutPacket(pool, packet, 1500, pieces), -1)
  assert.equal(pool.free(), free)
  pool.release(kept.pop()!)
  pool.release(kept.pop()!)
  const count = cutPacket(pool, packet, 1500, pieces)
  assert.equal(count, 5)
  together(count, 1500)
  release(count)
  for (const one of kept) pool.release(one)
  pool.release(packet)
})
