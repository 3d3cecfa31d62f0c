/**
 * native/offload.c: which virtio_net headers are believed, what is built from them, and checksums finished in software.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { arpRequest, checksum, ethernet, ipv4, tagged, udp } from '../rig/frames.js'
import { ask, askOne, cannotCompile, hex, seeded, unhex } from './ask.js'
import { segmentVectors } from './segment-vectors.js'

const bad = '2 0 0 0 0'
const tcp4 = segmentVectors[0]
const tcp6 = segmentVectors[1]
const udp4 = segmentVectors[2]

interface Claim {
  flags?: number
  gso?: number
  size?: number
  start?: number
  offset?: number
  frame?: string
}

function claim(vector: (typeof segmentVectors)[0], change: Claim = {}): string {
  const header = {
    flags: 1,
    gso: vector.gso,
    size: 10,
    start: vector.checksumStart,
    offset: vector.checksumOffset,
    frame: vector.frame,
    ...change,
  }
  return `accept ${header.flags} ${header.gso} 9999 ${header.size} ${header.start} ${header.offset} ${header.frame}`
}

suite('offload', { skip: cannotCompile }, () => {
  test('a true claim is accepted, with the header length computed', async () => {
    for (const vector of segmentVectors) {
      const { gso, checksumStart, checksumOffset, headerLength } = vector
      const expected = `${(gso << 8) | 1} 10 ${checksumStart} ${checksumOffset} ${headerLength}`
      assert.equal(await askOne(claim(vector)), expected, vector.name)
    }
  })

  test('a claim about a tagged frame counts from its start', async () => {
    const frame = hex(tagged(unhex(tcp4.frame), 5))
    assert.equal(await askOne(claim(tcp4, { start: 38, frame })), `${(0x81 << 8) | 1} 10 38 16 70`)
    assert.equal(await askOne(claim(tcp4, { frame })), bad)
    // a checksum may not start within the tag, which will be gone
    assert.equal(await askOne(claim(tcp4, { gso: 0, start: 14, frame })), bad)
    assert.equal(await askOne(claim(tcp4, { gso: 0, start: 38, frame })), '1 0 38 16 0')
  })

  test('a frame without claim, and one whose checksum was verified by its sender', async () => {
    assert.equal(await askOne(claim(tcp4, { flags: 0, gso: 0 })), '0 0 0 0 0')
    assert.equal(await askOne(claim(tcp4, { flags: 2, gso: 0 })), '0 0 0 0 0')
    assert.equal(await askOne(claim(tcp4, { flags: 3, gso: 0 })), '1 0 34 16 0')
  })

  test('a claim that contradicts the frame is bad', async () => {
    const length = tcp4.frame.length / 2
    const lies: Claim[] = [
      { flags: 0 }, // segmentation without a checksum
      { size: 0 },
      { gso: 4 }, // TCP over IPv6
      { gso: 5 }, // UDP
      { gso: 3 }, // UFO
      { gso: 2 },
      { gso: 0x80 }, // ECN alone
      { gso: 0xff },
      { start: 33 },
      { start: 35 },
      { offset: 6 },
      { gso: 0, start: 13 },
      { gso: 0, start: 0, offset: 0 },
      { gso: 0, start: length, offset: 0 },
      { gso: 0, start: length - 2, offset: 1 },
      { gso: 0, start: 65535, offset: 65535 },
      { frame: tcp4.frame.slice(0, -2) }, // the packet's end is missing
      { frame: tcp4.frame.slice(0, 100) },
    ]
    const answers = await ask(lies.map((lie) => claim(tcp4, lie)))
    for (const [i, lie] of lies.entries()) assert.equal(answers[i], bad, JSON.stringify(lie))
    assert.equal(await askOne(claim(tcp6, { gso: 1 })), bad)
    assert.equal(await askOne(claim(udp4, { gso: 1 })), bad)
    assert.equal(await askOne(claim(udp4, { gso: 0x85 })), bad) // ECN is TCP's
  })

  /** The frame with the checksum over `start` to its end stored `offset` behind. */
  const summed = (given: Uint8Array, start: number, offset: number): string => {
    const frame = given.slice()
    new DataView(frame.buffer).setUint16(start + offset, checksum(frame.subarray(start)))
    return `0 0 0 0 0 ${hex(frame)}`
  }

  test('a checksum at any other place is finished before anybody looks at the frame', async () => {
    const frame = unhex(tcp4.frame)
    const places = [
      [14, 10], // the IPv4 header's own field, over all
      [14, 12], // the source address
      [14, 16], // the destination
      [34, 0], // the source port
      [34, 2],
      [34, 18], // beside the checksum
      [32, 18], // on the checksum, but over more
      [36, 14],
      [frame.length - 2, 0],
    ]
    for (const [start, offset] of places)
      assert.equal(await askOne(claim(tcp4, { gso: 0, start, offset })), summed(frame, start, offset), `${start}`)
    const outer = tagged(frame, 5)
    const frameTwice = tagged(outer, 7) // headers behind a second tag are nobody's own
    assert.equal(await askOne(claim(tcp4, { gso: 0, start: 18, frame: hex(outer) })), summed(outer, 18, 16))
    assert.equal(await askOne(claim(tcp4, { gso: 0, start: 42, frame: hex(frameTwice) })), summed(frameTwice, 42, 16))
    const arp = arpRequest('02:00:00:00:00:09', '10.0.0.9', '10.0.0.1')
    assert.equal(await askOne(claim(tcp4, { gso: 0, start: 20, offset: 10, frame: hex(arp) })), summed(arp, 20, 10))
  })

  test('a checksum of a fragment is finished at once: the next one would not be of the same kind', async () => {
    const frame = unhex(tcp4.frame)
    frame[20] = 0x20 // more of them follow
    assert.equal(await askOne(claim(tcp4, { gso: 0, frame: hex(frame) })), summed(frame, 34, 16))
  })

  test("SCTP's checksum is finished as CRC32c (RFC 9260, appendix A)", async () => {
    // check value of "123456789": e3069283, stored in the order of the algorithm's bytes
    const packet = (payload: Uint8Array): Uint8Array =>
      ethernet('02:00:00:00:00:02', '02:00:00:00:00:01', 0x0800, ipv4('10.0.0.1', '10.0.0.2', 132, payload), false)
    const crc32c = (bytes: Uint8Array): number => {
      let crc = 0xffffffff
      for (const byte of bytes) {
        crc ^= byte
        for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0)
      }
      return ~crc >>> 0
    }
    assert.equal(crc32c(new TextEncoder().encode('123456789')), 0xe3069283)
    for (const bytes of [12, 13, 32, 1400]) {
      const random = seeded(bytes)
      const frame = packet(Uint8Array.from({ length: bytes }, () => random()))
      const claimed = claim(tcp4, { gso: 0, start: 34, offset: 8, frame: hex(frame) + '0000' }) // padded
      new DataView(frame.buffer).setUint32(42, 0)
      new DataView(frame.buffer).setUint32(42, crc32c(frame.subarray(34)), true)
      assert.equal(await askOne(claimed), `0 0 0 0 0 ${hex(frame)}0000`)
    }
    assert.equal(
      await askOne(claim(tcp4, { gso: 0, start: 34, offset: 8, frame: hex(packet(new Uint8Array(11))) })),
      bad,
    )
    const elsewhere = packet(new Uint8Array(40).fill(9))
    const expected = summed(elsewhere, 34, 12)
    assert.equal(await askOne(claim(tcp4, { gso: 0, start: 34, offset: 12, frame: hex(elsewhere) })), expected)
  })

  test('a frame that asks for more than 8192 segments is bad', async () => {
    const frame = unhex(tcp4.frame + '00'.repeat(8200 - 25))
    new DataView(frame.buffer).setUint16(16, frame.length - 14)
    assert.equal(await askOne(claim(tcp4, { size: 1, frame: hex(frame) })), bad)
    assert.notEqual(await askOne(claim(tcp4, { size: 2, frame: hex(frame) })), bad)
  })

  test('IPv6 extension headers: eight of them and no more', async () => {
    const base = unhex(segmentVectors[3]?.frame ?? '')
    const answers: string[] = []
    for (const count of [8, 9]) {
      const options = '3c00010400000000'.repeat(count - 1) + hex(base.subarray(54, 62))
      const frame = unhex(hex(base.subarray(0, 54)) + options + hex(base.subarray(62)))
      new DataView(frame.buffer).setUint16(18, frame.length - 54)
      const vector = { ...segmentVectors[3], checksumStart: 54 + 8 * count }
      answers.push(await askOne(claim(vector, { frame: hex(frame) })))
    }
    assert.deepEqual(answers, [`${(5 << 8) | 1} 10 118 6 126`, bad])
  })

  test('the header is built from the record, moved by a tag', async () => {
    // flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers: virtio 1.2, 5.1.6, little-endian
    assert.equal(await askOne(`express 0 ${(0x81 << 8) | 1} 1448 34 16 66`), '01814200a805220010000000')
    assert.equal(await askOne(`express 4 ${(0x81 << 8) | 1} 1448 34 16 66`), '01814600a805260010000000')
    assert.equal(await askOne('express 4 1 0 34 6 0'), '010000000000260006000000')
    assert.equal(await askOne('express 4 0 0 34 6 0'), '000000000000000000000000')
  })

  test('finished checksums: RFC 768 zero, odd length, outside of the frame', async () => {
    const good = udp('10.0.0.1', 1000, '10.0.0.2', 53, Uint8Array.of(1, 2, 3))
    const frame = new Uint8Array(14 + good.length)
    frame.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0])
    frame.set(good, 14)
    const expected = hex(frame)
    // what a guest leaves: the sum of 10.0.0.1, 10.0.0.2, protocol 17 and length 11
    new DataView(frame.buffer).setUint16(40, 0x0a00 + 1 + 0x0a00 + 2 + 17 + 11)
    assert.equal(await askOne(`complete 34 6 ${hex(frame)}`), expected)
    const zeros = '00'.repeat(34)
    assert.equal(await askOne(`complete 34 6 ${zeros}ffff000000000000`), `${zeros}ffff00000000ffff`)
    assert.equal(await askOne(`complete 34 4 ${zeros}ffff000000000000`), `${zeros}ffff000000000000`)
    const refused = ['13 6', '35 6', '42 0', '100 6', '34 7', '34 65535', '-1 6', '34 -1', '2147483647 6']
    const answers = await ask(refused.map((places) => `complete ${places} ${zeros}ffff000000000000`))
    assert.deepEqual(
      answers,
      refused.map(() => 'refused'),
    )
  })
})
