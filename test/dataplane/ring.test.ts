/**
 * The ring against a plain queue: random messages, wrap-around of data and cursors, full, lost; and frames through it
 * in both directions, captured by the mirror and injected into the loop.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compileFilter } from '../../src/dataplane/filter-compile.js'
import {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  HEADER_INJECT,
  HEADER_INJECT_BYTES,
  HEADER_LENGTH,
  HEADER_TIME_NANOS,
  HEADER_TIME_SECONDS,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  RING_HEADER_BYTES,
  SEGMENT_BYTES,
  TAG_PRESENT,
} from '../../src/dataplane/layout.js'
import { PORT_LINK, PORT_RING } from '../../src/dataplane/port-table.js'
import {
  MESSAGE_CAPTURE,
  MESSAGE_FRAME,
  RING_DIRECTION,
  RING_ID,
  RING_KIND,
  RING_LENGTH,
  RING_NANOS,
  RING_PORT,
  RING_SECONDS,
  RING_TAG,
  Ring,
} from '../../src/dataplane/ring.js'
import { checksum } from '../rig/frames.js'
import { GROUP, type Switch, access, frame, mac, plain, randomFrom, switching, trunk } from './rig.js'

const SIZE = 4096
const OFFSET = 64

function newRing(cursor = 0): { writer: Ring; reader: Ring } {
  const buffer = new SharedArrayBuffer(OFFSET + RING_HEADER_BYTES + SIZE)
  const cursors = new Int32Array(buffer, OFFSET)
  cursors[0] = cursors[32] = cursor
  return { writer: new Ring(buffer, OFFSET, SIZE), reader: new Ring(buffer, OFFSET, SIZE) }
}

function put(ring: Ring, port: number, bytes: Uint8Array): boolean {
  const index = ring.reserve(bytes.length)
  if (index < 0) return false
  ring.header()[index + RING_KIND] = MESSAGE_FRAME
  ring.header()[index + RING_PORT] = port
  ring.data().set(bytes, ring.place(index))
  ring.publish()
  return true
}

function get(ring: Ring): { port: number; bytes: Uint8Array } | null {
  const index = ring.peek()
  if (index < 0) return null
  const [place, length] = [ring.place(index), ring.header()[index + RING_LENGTH]]
  const message = { port: ring.header()[index + RING_PORT], bytes: ring.data().slice(place, place + length) }
  ring.consume(index)
  return message
}

for (const [name, cursor] of [
  ['from the start', 0],
  ['while the cursors overflow', 0x7fffe000],
  ['below 0', -8192],
] as const)
  test(`random messages come out as they went in, ${name}`, () => {
    const { writer, reader } = newRing(cursor)
    const random = randomFrom(cursor + 1)
    const queue: { port: number; bytes: Uint8Array }[] = []
    let lost = 0
    for (let step = 0; step < 60_000; step++) {
      if (random(5) < 3) {
        const length = random(4) === 0 ? random(1500) : random(100)
        const message = { port: step, bytes: Uint8Array.from({ length }, () => random(256)) }
        const room = writer.hasRoom(length)
        assert.equal(put(writer, message.port, message.bytes), room)
        if (room) queue.push(message)
        else lost++
      } else {
        assert.deepEqual(get(reader), queue.shift() ?? null)
      }
      assert.equal(reader.isEmpty(), queue.length === 0)
    }
    assert.equal(reader.lost(), lost)
    assert.ok(lost > 100)
    for (const message of queue) assert.deepEqual(get(reader), message)
    assert.equal(get(reader), null)
  })

test('a ring holds its size and not a byte more', () => {
  const { writer, reader } = newRing()
  const bytes = new Uint8Array(96) // 128 with its header
  for (let i = 0; i < SIZE / 128; i++) assert.ok(put(writer, i, bytes))
  assert.equal(put(writer, 99, new Uint8Array(0)), false)
  assert.equal(writer.lost(), 1)
  assert.deepEqual(get(reader), { port: 0, bytes })
  assert.ok(put(writer, 32, bytes))
  assert.equal(put(writer, 99, bytes), false)
  for (let i = 1; i <= 32; i++) assert.equal(get(reader)?.port, i)
  assert.equal(get(reader), null)
})

test('a message that is not published does not exist', () => {
  const { writer, reader } = newRing()
  writer.reserve(10)
  assert.ok(reader.isEmpty())
  assert.ok(put(writer, 1, Uint8Array.of(5)))
  assert.deepEqual(get(reader), { port: 1, bytes: Uint8Array.of(5) })
})

interface Captured {
  id: number
  port: number
  direction: number
  tag: number
  bytes: Uint8Array
}

function captured(weft: Switch, kind = MESSAGE_CAPTURE): Captured[] {
  const result: Captured[] = []
  for (let index = weft.punt.peek(); index >= 0; index = weft.punt.peek()) {
    const header = weft.punt.header()
    assert.equal(header[index + RING_KIND], kind)
    assert.deepEqual([header[index + RING_SECONDS], header[index + RING_NANOS]], [1234, 5678])
    const place = weft.punt.place(index)
    result.push({
      id: header[index + RING_ID],
      port: header[index + RING_PORT],
      direction: header[index + RING_DIRECTION],
      tag: header[index + RING_TAG],
      bytes: weft.punt.data().slice(place, place + header[index + RING_LENGTH]),
    })
    weft.punt.consume(index)
  }
  return result
}

const watch = (weft: Switch, id: number, port: number, filter: string, network = 0): void => {
  weft.arena.header[HEADER_TIME_SECONDS] = 1234
  weft.arena.header[HEADER_TIME_NANOS] = 5678
  weft.loop.pipeline.mirror.start(id, network, port, compileFilter(filter))
}

switching('a capture of a port sees what it receives and what it sends, as on the wire', (weft) => {
  weft.ports([access(0, 10), trunk(1, [[10, 10]]), access(2, 10)])
  watch(weft, 3, 1, '')
  const down = frame(GROUP, mac(1))
  weft.pass(0, down)
  assert.deepEqual(captured(weft), [{ id: 3, port: 1, direction: 1, tag: TAG_PRESENT | 10, bytes: down }])
  const up = frame(mac(1), mac(2), { tags: [10] })
  weft.pass(1, up)
  assert.deepEqual(captured(weft), [{ id: 3, port: 1, direction: 0, tag: 0, bytes: up }])
  weft.pass(2, frame(mac(1), mac(3)))
  assert.deepEqual(captured(weft), [], 'not its frame')
  const bad = frame(GROUP, GROUP)
  weft.pass(1, bad)
  assert.deepEqual(
    captured(weft).map(({ bytes }) => bytes),
    [bad],
    'what is dropped is seen as well',
  )
  weft.loop.pipeline.mirror.stop(3)
  weft.pass(1, up)
  assert.deepEqual(captured(weft), [])
})

switching('a captured frame has the checksum that its egress finishes, unless it is to be cut', (weft) => {
  weft.ports([plain(0), plain(1)])
  watch(weft, 0, 0, '')
  watch(weft, 1, 1, '')
  const head = frame(mac(2), mac(1), { length: 34 })
  const datagram = [0x9c, 0x40, 0, 53, 0, 11, 0x12, 0x34, 1, 2, 3]
  const given = Uint8Array.from([...head, ...datagram])
  const unfinished: [number, number][] = [
    [OFFLOAD, OFFLOAD_CHECKSUM],
    [CHECKSUM_START, 34],
    [CHECKSUM_OFFSET, 6],
  ]
  const finished = given.slice()
  new DataView(finished.buffer).setUint16(40, checksum(given.subarray(34)))
  weft.pass(0, given, unfinished)
  for (const { bytes } of captured(weft)) assert.deepEqual(bytes, finished)
  // a sum of 0 would say that there is no checksum
  const zero = given.slice()
  zero.set([0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0], 34)
  weft.pass(0, zero, unfinished)
  const [first, second] = captured(weft)
  zero.set([0xff, 0xff], 40)
  assert.deepEqual([first.bytes, second.bytes], [zero, zero])
  const segmented: [number, number][] = [[SEGMENT_BYTES, 2], [HEADER_LENGTH, 42], ...unfinished]
  weft.pass(0, given, segmented)
  assert.deepEqual(captured(weft)[0].bytes, given)
})

switching('a VLAN filter goes by the tag on that side of the switch', (weft) => {
  weft.ports([access(0, 10), trunk(1, [[10, 10]])])
  watch(weft, 0, 0, 'vlan')
  watch(weft, 1, 1, 'vlan 10')
  weft.pass(0, frame(GROUP, mac(1)))
  assert.deepEqual(
    captured(weft).map(({ id, direction }) => [id, direction]),
    [[1, 1]],
  )
  weft.pass(1, frame(GROUP, mac(2), { tags: [10] }))
  assert.deepEqual(
    captured(weft).map(({ id, direction }) => [id, direction]),
    [[1, 0]],
  )
})

switching('a capture of a network sees each frame once, and no other network', (weft) => {
  weft.ports([plain(0), plain(1), plain(2)])
  weft.ports([plain(3), plain(4)], 1)
  watch(weft, 0, -1, '')
  watch(weft, 15, -1, 'broadcast', 1)
  weft.give(0, frame(GROUP, mac(1)))
  weft.give(3, frame(GROUP, mac(1)))
  weft.give(3, frame(mac(9), mac(1)))
  weft.run()
  assert.deepEqual(
    captured(weft).map(({ id, port, direction }) => [id, port, direction]),
    [
      [0, 0, 0],
      [15, 3, 0],
    ],
  )
})

switching('a full ring loses captured frames, counts them, and forwards all the same', (weft) => {
  weft.ports([plain(0), plain(1)])
  watch(weft, 0, -1, '')
  const frames = 600
  for (let i = 0; i < frames; i++) weft.give(0, frame(GROUP, mac(1), { length: 1400 }))
  assert.equal(weft.run().length, frames)
  const seen = captured(weft).length
  assert.ok(seen > 100 && seen < frames)
  assert.equal(weft.punt.lost(), frames - seen)
})

switching('frames for a ring port go to the ring, those from it come by the inject ring', (weft) => {
  weft.ports([plain(0), plain(1), plain(2, { flags: PORT_LINK | PORT_RING })])
  weft.arena.header[HEADER_TIME_SECONDS] = 1234
  weft.arena.header[HEADER_TIME_NANOS] = 5678
  const bytes = frame(GROUP, mac(1))
  assert.deepEqual(weft.leaves(0, bytes), [1])
  assert.deepEqual(captured(weft, MESSAGE_FRAME), [{ id: 0, port: 2, direction: 1, tag: 0, bytes }])
  assert.equal(weft.transmitted(2)[0], 1)
  const { buffer, header } = weft.arena
  const inject = new Ring(buffer, header[HEADER_INJECT], header[HEADER_INJECT_BYTES])
  for (let i = 0; i < 300; i++) assert.ok(put(inject, 2, frame(mac(1), mac(5))))
  assert.deepEqual(
    weft.run().map(({ port }) => port),
    Array(300).fill(0),
  )
  assert.deepEqual(weft.leaves(0, frame(mac(5), mac(1))), [])
  assert.equal(captured(weft, MESSAGE_FRAME).length, 1)
  let given = 0
  for (; weft.punt.lost() === 0; given++) weft.pass(0, frame(mac(5), mac(1), { length: 1514 }))
  assert.deepEqual(weft.drops(), { '2 queue-full': 1 })
  assert.equal(captured(weft, MESSAGE_FRAME).length, given - 1)
})
