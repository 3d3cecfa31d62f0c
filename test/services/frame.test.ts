/**
 * services/frame.ts: frames made by scapy, round trips, every truncation, lengths that lie.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { checksum, pseudoHeaderSum, readDatagram, writeDatagram } from '../../src/services/frame.js'
import type { Datagram } from '../../src/services/frame.js'
import { frames, seeded } from './dhcp4-rig.js'

const six: Datagram = {
  source: { mac: Uint8Array.of(2, 0, 0, 0, 0, 1), ip: new Uint8Array(16).fill(0xfe), port: 547 },
  destination: { mac: Uint8Array.of(2, 0, 0, 0, 0, 2), ip: new Uint8Array(16).fill(0x20), port: 546 },
  payload: Uint8Array.of(1, 2, 3),
}

suite('frame', () => {
  test("scapy's answer is written byte for byte", () => {
    assert.deepEqual(writeDatagram(readDatagram(frames.ack)!), frames.ack)
  })

  test('reads ports, addresses and payload, as a copy', () => {
    const frame = frames.discover.slice()
    const { source, destination, payload } = readDatagram(frame)!
    frame.fill(0)
    assert.deepEqual([source.port, destination.port, payload.length], [68, 67, frames.discover.length - 42])
    assert.deepEqual([...source.mac], [0x52, 0x54, 0, 0x12, 0x34, 0x56])
    assert.deepEqual([...destination.ip], [255, 255, 255, 255])
    assert.equal(payload[0], 1)
    assert.equal(readDatagram(Buffer.from(frames.discover))!.payload.length, payload.length)
  })

  test('what is written is read again, of any length', () => {
    for (let length = 0; length < 70; length++) {
      const random = seeded(length)
      const payload = Uint8Array.from({ length }, random)
      for (const one of [six, readDatagram(frames.ack)!])
        assert.deepEqual(readDatagram(writeDatagram({ ...one, payload })), { ...one, payload })
    }
  })

  test('checksums sum to nothing, and are never 0', () => {
    const random = seeded(768)
    for (let i = 0; i < 3000; i++) {
      const payload = Uint8Array.from({ length: 1 + (i % 5) }, random)
      const frame = writeDatagram({ ...six, payload })
      const pseudo = pseudoHeaderSum(six.source.ip, six.destination.ip, 17, 8 + payload.length)
      assert.equal(checksum(frame, 54, frame.length, pseudo), 0)
      assert.notEqual((frame[60] << 8) | frame[61], 0)
    }
    // a payload chosen so that the sum is 0
    const frame = writeDatagram({ ...six, payload: Uint8Array.of(0, 0) })
    const fitting = writeDatagram({ ...six, payload: frame.slice(60, 62) })
    assert.deepEqual([fitting[60], fitting[61]], [255, 255])
  })

  test('refuses every truncation', () => {
    for (const frame of [frames.ack, writeDatagram(six)])
      for (let length = 0; length < frame.length; length++)
        assert.equal(readDatagram(frame.subarray(0, length)), null, `${length}`)
  })

  test('padding behind the packet is no payload', () => {
    const frame = new Uint8Array(64)
    frame.set(writeDatagram({ ...readDatagram(frames.ack)!, payload: Uint8Array.of(7) }))
    assert.deepEqual(readDatagram(frame)!.payload, Uint8Array.of(7))
  })

  test('refuses what contradicts itself', () => {
    const wrong: [string, number, number][] = [
      ['a VLAN tag', 12, 0x81],
      ['version 5', 14, 0x55],
      ['a header of 16 bytes', 14, 0x44],
      ['a header beyond the packet', 14, 0x4f],
      ['a total length beyond the frame', 16, 0x7f],
      ['a total length within the header', 17, 20],
      ['more fragments', 20, 0x20],
      ['a fragment offset', 21, 1],
      ['TCP', 23, 6],
      ['a UDP length of 7', 39, 7],
      ['a UDP length beyond the packet', 38, 0xff],
    ]
    for (const [what, at, value] of wrong) {
      const frame = writeDatagram({ ...readDatagram(frames.ack)!, payload: Uint8Array.of(1, 2, 3) })
      frame[at] = value
      assert.equal(readDatagram(frame), null, what)
    }
    for (const [at, value] of [
      [14, 0x45],
      [18, 1],
      [20, 0],
      [20, 44],
      [58, 9],
    ]) {
      const frame = writeDatagram(six)
      frame[at] = value
      assert.equal(readDatagram(frame), null, `IPv6, byte ${at}`)
    }
    const unsummed = writeDatagram(six)
    unsummed.fill(0, 60, 62)
    assert.equal(readDatagram(unsummed), null, 'IPv6 without a checksum')
  })

  test('IP options are skipped', () => {
    const plain = writeDatagram({ ...readDatagram(frames.ack)!, payload: Uint8Array.of(9) })
    const frame = new Uint8Array([...plain.slice(0, 34), 1, 1, 1, 0, ...plain.slice(34)])
    frame[14] = 0x46
    frame[17] += 4
    assert.deepEqual(readDatagram(frame)!.payload, Uint8Array.of(9))
  })

  test('bytes at random do no harm', () => {
    const random = seeded(4)
    for (let i = 0; i < 20000; i++) {
      const frame = (i % 2 === 0 ? frames.ack : writeDatagram(six)).slice(0, 20 + random())
      for (let n = 0; n < 4; n++) frame[12 + (random() % 50)] = random()
      const found = readDatagram(frame)
      if (found !== null) assert.ok(found.payload.length <= frame.length - 42)
    }
  })

  test('cannot write what is no datagram', () => {
    assert.throws(() => writeDatagram({ ...six, payload: new Uint8Array(65528) }), RangeError)
    assert.throws(() => writeDatagram({ ...six, source: { ...six.source, ip: new Uint8Array(4) } }), RangeError)
  })
})
