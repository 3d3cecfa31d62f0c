/**
 * native/segment.c: against Linux's own segments, and by parsing each segment here again with another checksum.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { checksum, concat } from '../rig/frames.js'
import { ask, askOne, cannotCompile, hex, seeded, unhex } from './ask.js'
import { segmentBytes, segmentVectors } from './segment-vectors.js'

const half = (frame: Uint8Array, at: number): number => (frame[at] << 8) | frame[at + 1]
const bytesOf = (value: number): number[] => [(value >> 8) & 0xff, value & 0xff]

interface Shape {
  ipv6: boolean
  tcp: boolean
  optionBytes: number // of the TCP header
  payload: Uint8Array
}

/** A large frame as a guest sends it: checksums are left for later, so they hold anything. */
function large(shape: Shape): Uint8Array {
  const options = new Uint8Array(shape.tcp ? shape.optionBytes : 0).fill(1)
  const l4 = shape.tcp
    ? concat([156, 64, 1, 187, 0xff, 0xff, 0xf0, 0, 1, 2, 3, 4], [((20 + options.length) / 4) << 4, 0x99])
    : concat([156, 64, 0, 53], bytesOf(8 + shape.payload.length), [0x12, 0x34])
  const rest = shape.tcp ? concat([1, 246, 0xab, 0xcd, 0, 0], options) : []
  const segment = concat(l4, rest, shape.payload)
  const protocol = shape.tcp ? 6 : 17
  const addresses = Array.from({ length: shape.ipv6 ? 32 : 8 }, (_, i) => i * 7 + 10)
  const ip = shape.ipv6
    ? concat([0x60, 0, 0, 9], bytesOf(segment.length), [protocol, 64], addresses)
    : concat([0x45, 0], bytesOf(20 + segment.length), [0xff, 0xf0, 0x40, 0, 64, protocol, 0, 0], addresses)
  return concat([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], shape.ipv6 ? [0x86, 0xdd] : [8, 0], ip, segment)
}

/** Checks lengths and checksums of one segment and returns where its payload starts. */
function verify(frame: Uint8Array): number {
  const ipv6 = half(frame, 12) === 0x86dd
  const l4 = ipv6 ? 54 : 34
  const protocol = frame[ipv6 ? 20 : 23]
  if (ipv6) {
    assert.equal(half(frame, 18), frame.length - 54)
  } else {
    assert.equal(half(frame, 16), frame.length - 14)
    assert.equal(checksum(frame.subarray(14, 34)), 0)
  }
  const addresses = ipv6 ? frame.subarray(22, 54) : frame.subarray(26, 34)
  const pseudo = concat(addresses, [0, 0], bytesOf(frame.length - l4), [0, protocol])
  assert.equal(checksum(concat(pseudo, frame.subarray(l4))), 0)
  if (protocol === 17) {
    assert.equal(half(frame, l4 + 4), frame.length - l4)
    return l4 + 8
  }
  return l4 + (frame[l4 + 12] >> 4) * 4
}

async function segmentsOf(bytes: number, frame: Uint8Array): Promise<Uint8Array[]> {
  const answer = await askOne(`segment ${bytes} ${hex(frame)}`)
  assert.notEqual(answer, 'refused')
  return answer.split(' ').map(unhex)
}

suite('segmentation', { skip: cannotCompile }, () => {
  for (const vector of segmentVectors) {
    test(`${vector.name}: the same segments as Linux makes`, async () => {
      const answer = await askOne(`segment ${segmentBytes} ${vector.frame}`)
      assert.deepEqual(answer.split(' '), vector.segments)
    })

    test(`${vector.name}: refused when cut short, whole with padding`, async () => {
      const questions: string[] = []
      for (let length = 2; length < vector.frame.length; length += 2) {
        questions.push(`segment ${segmentBytes} ${vector.frame.slice(0, length)}`)
      }
      assert.deepEqual(new Set(await ask(questions)), new Set(['refused']))
      const padded = await askOne(`segment ${segmentBytes} ${vector.frame}0000`)
      assert.deepEqual(padded.split(' '), vector.segments)
    })
  }

  for (const ipv6 of [false, true]) {
    for (const tcp of [true, false]) {
      test(`64 KiB of ${tcp ? 'TCP' : 'UDP'} over IPv${ipv6 ? 6 : 4}, every segment verified`, async () => {
        const random = seeded(ipv6 ? 6 : 4)
        const payload = Uint8Array.from({ length: 65000 }, () => random())
        const frame = large({ ipv6, tcp, optionBytes: 12, payload })
        const start = (ipv6 ? 54 : 34) + (tcp ? 32 : 8)
        const segments = await segmentsOf(1448, frame)
        assert.equal(segments.length, Math.ceil(65000 / 1448))
        const payloads = segments.map((segment, index) => {
          assert.equal(verify(segment), start)
          if (!ipv6) assert.equal(half(segment, 18), (0xfff0 + index) & 0xffff)
          if (tcp) {
            const view = new DataView(segment.buffer)
            assert.equal(view.getUint32(start - 28), (0xfffff000 + index * 1448) % 2 ** 32)
            const last = index === segments.length - 1
            assert.equal(segment[start - 19], 0x10 | (index === 0 ? 0x80 : 0) | (last ? 0x09 : 0))
          }
          return segment.subarray(start)
        })
        assert.deepEqual(concat(...payloads), payload)
      })
    }
  }

  test('payload of one segment, of exactly two, of none', async () => {
    for (const [bytes, count] of [
      [100, 1],
      [200, 2],
      [0, 1],
      [201, 3],
    ] as const) {
      const frame = large({ ipv6: false, tcp: true, optionBytes: 40, payload: new Uint8Array(bytes) })
      const segments = await segmentsOf(100, frame)
      assert.equal(segments.length, count)
      for (const segment of segments) verify(segment)
    }
  })

  test('a UDP checksum that comes out as 0 is sent as ffff', async () => {
    const frame = large({ ipv6: false, tcp: false, optionBytes: 0, payload: new Uint8Array(2) })
    const [first] = (await segmentsOf(100, frame)) as [Uint8Array]
    // the checksum of the zero payload, put into the payload, makes the sum ffff and its complement 0
    frame.set(first.subarray(40, 42), 42)
    const [second] = (await segmentsOf(100, frame)) as [Uint8Array]
    assert.equal(half(second, 40), 0xffff)
    verify(second)
  })

  test('what cannot be cut is refused', async () => {
    const good = large({ ipv6: false, tcp: true, optionBytes: 0, payload: new Uint8Array(300) })
    const good6 = large({ ipv6: true, tcp: true, optionBytes: 0, payload: new Uint8Array(300) })
    const broken: [Uint8Array, number, number][] = [
      [good, 12, 0x09], // another EtherType
      [good, 14, 0x44], // a header of 16 bytes
      [good, 14, 0x55], // version 5
      [good, 16, 0xff], // longer than the frame
      [good, 20, 0x20], // a first fragment
      [good, 21, 0x01], // a later one
      [good, 23, 1], // ICMP
      [good, 46, 0x40], // a TCP header of 16 bytes
      [good6, 14, 0x40], // version 4
      [good6, 20, 44], // a fragment header
      [good6, 20, 51], // an authentication header
      [good6, 18, 0xff], // longer than the frame
    ]
    const questions = broken.map(([frame, at, value]) => {
      const copy = frame.slice()
      copy[at] = value
      return `segment 100 ${hex(copy)}`
    })
    for (const bytes of [0, -1, 65536]) questions.push(`segment ${bytes} ${hex(good)}`)
    const answers = await ask(questions)
    assert.deepEqual(
      answers,
      questions.map(() => 'refused'),
    )
  })
})
