/**
 * vhost-user in native code, from rings in shared memory to packets and back: a driver in this process
 * (vhost-driver.ts) and the addon's engine. What a driver may do, and what it may not.
 */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { after, afterEach, suite, test } from 'node:test'
import { DROP_BAD_DESCRIPTOR, DROP_NO_PEER, DROP_QUEUE_FULL, DROP_TRANSMIT_ERROR } from '../../src/dataplane/drops.js'
import * as layout from '../../src/dataplane/layout.js'
import { RING_ENABLED } from '../../src/ports/native.js'
import {
  CSUM,
  Engine,
  EVENT_IDX,
  frameOf,
  GUEST,
  Guest,
  HOST_ECN,
  HOST_TSO4,
  HOST_TSO6,
  HOST_USO,
  INDIRECT,
  MRG_RXBUF,
  NEXT,
  type Ring,
  VERSION_1,
  WRITE,
} from './vhost-driver.js'

const PORT = 3
const OTHER = 4
const EPROTO = 71

const engine = new Engine()
const guests: Guest[] = []
const descriptorsOpen = (): number => readdirSync('/proc/self/fd').length
const before = descriptorsOpen()

type Options = ConstructorParameters<typeof Guest>[1]

/** A guest that goes when the test ends. */
function plug(options: Options = {}, port = PORT): Guest {
  const guest = new Guest(port, options)
  guests.push(guest)
  return guest.connect()
}

/** The bytes of all frames that come. */
const arrived = (port = PORT): Buffer[] =>
  engine
    .receiveAll()
    .filter((frame) => frame.port === port)
    .map(({ bytes }) => bytes)

/** Whether a ring works: a frame comes from the guest. */
function assertAlive(guest: Guest, port = PORT): void {
  const frame = frameOf(4711)
  guest.send(frame)
  assert.deepEqual(arrived(port), [frame])
}

const zeroCounters = (): void => {
  engine.arena.counters.fill(0)
  engine.arena.drops.fill(0)
}

afterEach(() => {
  for (const guest of guests.splice(0)) guest.close()
  engine.receiveAll()
  assert.equal(engine.slotsInUse(), 0, 'slots')
  assert.equal(descriptorsOpen(), before, 'descriptors')
  zeroCounters()
})
after(() => engine.close())

const several = (count: number, length = 60): Buffer[] =>
  Array.from({ length: count }, (_, i) => frameOf(i, length + i * 3))

suite('vhost-user: frames of a guest', () => {
  test('they come in, in order, and its descriptors go back', () => {
    const guest = plug()
    const sent = several(100)
    for (const frame of sent) guest.send(frame)
    assert.deepEqual(arrived(), sent)
    assert.deepEqual(
      guest.transmitRings[0].takeUsed(),
      sent.map((_, head) => ({ head, length: 0 })),
    )
  })

  test('over the end of the ring and of the 16-bit index', () => {
    const guest = plug({ size: 8, index: 65530 })
    for (let i = 0; i < 40; i++) {
      const sent = several(5).map((_, k) => frameOf(i * 5 + k))
      for (const frame of sent) guest.send(frame, { kick: false })
      guest.transmitRings[0].tell()
      assert.deepEqual(arrived(), sent)
      assert.equal(guest.transmitRings[0].takeUsed().length, 5)
    }
  })

  test('a chain may be cut anywhere, the header too, directly and in an indirect table', () => {
    const guest = plug()
    const ring = guest.transmitRings[0]
    const cuts = [[12], [5], [5, 5, 5], [1, 1, 1, 9, 1], [12, 0, 14], [13], [40, 20]]
    for (const table of [false, true])
      for (const cut of cuts) {
        const frame = frameOf(cut.length, 100)
        const { place, length } = guest.write(frame)
        let from = 0
        const parts = [...cut, length].map((bytes) => {
          const part = { place: place + from, length: Math.min(bytes, length - from) }
          from += part.length
          return part
        })
        ring.offer(table ? ring.indirect(parts, false) : ring.chain(parts, false))
        ring.tell()
        assert.deepEqual(arrived(), [frame], `${cut} ${table}`)
      }
  })

  test('of every length in the slot of the right size, to the longest', () => {
    const guest = plug()
    for (const length of [1, 13, 14, 15, 16, 17, 64, 255, 256, 257, 1514, 1982, 1983, 9014, 65549, 69566]) {
      const frame = Buffer.from(Array.from({ length }, (_, i) => i * 31 + length))
      guest.send(frame)
      assert.deepEqual(arrived(), [frame], String(length))
    }
    assert.equal(engine.drops(PORT, DROP_BAD_DESCRIPTOR), 0)
  })

  test('the header has 10 bytes for a driver of before virtio 1 without mergeable buffers', () => {
    for (const [features, bytes] of [
      [0n, 10],
      [VERSION_1, 12],
      [MRG_RXBUF, 12],
    ] as const) {
      const guest = new Guest(PORT, { features })
      guest.connect()
      assert.equal(guest.headerBytes, bytes)
      assertAlive(guest)
      guest.give(1, 100)
      engine.transmit(PORT, [frameOf(1)])
      assert.deepEqual(guest.takeFrames(), [frameOf(1)])
      guest.close()
    }
  })

  test('a segmentation header that is true is written down, one that lies is marked', () => {
    const guest = plug({ features: VERSION_1 | MRG_RXBUF | CSUM | HOST_TSO4 })
    const frame = tcpFrame(3000)
    const header = Buffer.alloc(12)
    header[0] = 1
    header[1] = layout.GSO_TCP4
    header.writeUInt16LE(1000, 4)
    header.writeUInt16LE(34, 6)
    header.writeUInt16LE(16, 8)
    guest.send(frame, { header })
    const [good] = engine.receiveAll()
    assert.deepEqual(good.bytes, frame)
    assert.equal(good.record[layout.OFFLOAD], layout.OFFLOAD_CHECKSUM | (layout.GSO_TCP4 << layout.GSO_SHIFT))
    assert.equal(good.record[layout.SEGMENT_BYTES], 1000)
    header.writeUInt16LE(40000, 6)
    guest.send(frame, { header })
    assert.equal(engine.receiveAll()[0].record[layout.OFFLOAD], layout.OFFLOAD_BAD)
  })

  test('what its driver has not negotiated is not believed (virtio 1.2, 5.1.6.2)', () => {
    const { GSO_TCP4, GSO_TCP6, GSO_UDP } = layout
    const asks: [type: number, needed: bigint][] = [
      [0, CSUM],
      [GSO_TCP4, CSUM | HOST_TSO4],
      [GSO_TCP4 | 0x80, CSUM | HOST_TSO4 | HOST_ECN],
      [GSO_TCP6, CSUM | HOST_TSO6],
      [GSO_UDP, CSUM | HOST_USO],
    ]
    const all = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO
    const header = Buffer.alloc(12)
    const offloadWith = (features: bigint, type: number): number => {
      const guest = plug({ features: VERSION_1 | features })
      header[1] = type
      guest.send(tcpFrame(100), { header })
      const [{ record }] = engine.receiveAll()
      guest.close()
      guests.pop()
      return record[layout.OFFLOAD]
    }
    header.writeUInt16LE(34, 6)
    header.writeUInt16LE(16, 8)
    header[0] = 1
    for (const [type, needed] of asks)
      for (const bit of [CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO])
        if ((needed & bit) !== 0n)
          assert.equal(offloadWith(all & ~bit, type), layout.OFFLOAD_BAD, `${type} without ${bit}`)
    assert.equal(offloadWith(CSUM, 0), layout.OFFLOAD_CHECKSUM)
    header.writeUInt16LE(0, 8)
    assert.equal(offloadWith(CSUM, 0), 0, 'the source port, finished at once')
    assert.equal(offloadWith(0n, 0), layout.OFFLOAD_BAD)
    header[0] = 2 // the sender has verified it: asks for nothing
    assert.equal(offloadWith(0n, 0), 0)
  })

  test('several rings are asked in turn, a burst of one at a time', () => {
    const guest = plug({ queues: 3, bytes: 1 << 23 })
    for (let i = 0; i < 200; i++) for (let queue = 0; queue < 3; queue++) guest.send(frameOf(queue), { queue })
    const first = engine.receive()
    assert.equal(first.length, 64)
    const counts = [0, 0, 0]
    for (const { bytes } of [...first, ...engine.receive(), ...engine.receive()]) counts[bytes.readUInt32BE(14)]++
    assert.deepEqual(counts, [64, 64, 64])
    assert.equal(engine.receiveAll().length, 600 - 192)
  })

  test('a ring never enabled keeps its frames; one disabled loses them, and they are counted', () => {
    const guest = new Guest(PORT)
    guests.push(guest)
    const ring = guest.transmitRings[0]
    guest.memory.share(PORT)
    assert.equal(ring.set(-1, 0), 0)
    guest.send(frameOf(1))
    assert.deepEqual(arrived(), [])
    assert.equal(ring.set(), 0)
    assert.deepEqual(arrived(), [frameOf(1)])
    assert.equal(ring.set(-1, 0), 0)
    guest.send(frameOf(2))
    assert.deepEqual(arrived(), [])
    assert.equal(ring.takeUsed().length, 2)
    assert.equal(engine.drops(PORT, DROP_NO_PEER), 1)
    assert.equal(ring.set(), 0)
    assertAlive(guest)
  })
})

/** An Ethernet frame with TCP over IPv4, no checksums. */
function tcpFrame(payload: number): Buffer {
  const frame = Buffer.alloc(54 + payload, 0x5a)
  frameOf(0, 14).copy(frame)
  frame.writeUInt16BE(0x0800, 12)
  Buffer.from([0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]).copy(frame, 14)
  frame.writeUInt16BE(40 + payload, 16)
  Buffer.from([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]).copy(frame, 34)
  return frame
}

/** Chains that no driver may make, by what is wrong: each returns the head. `bytes` is what a good one would have. */
const BAD_CHAINS: Record<string, (guest: Guest, ring: Ring, writable: boolean) => number> = {
  'an address beyond the memory': (guest, ring, writable) =>
    single(ring, GUEST + BigInt(guest.memory.bytes.length), 100, writable),
  'an address below the memory': (_, ring, writable) => single(ring, GUEST - 1n, 100, writable),
  'the end beyond the memory': (guest, ring, writable) =>
    single(ring, GUEST + BigInt(guest.memory.bytes.length - 50), 100, writable),
  'an end that wraps': (_, ring, writable) => single(ring, -50n, 100, writable),
  'a length of 4 GiB': (_, ring, writable) => single(ring, GUEST, 0xffffffff, writable),
  'no byte': (_, ring, writable) => single(ring, GUEST, 0, writable),
  'a header and no frame': (_, ring, writable) => single(ring, GUEST, 12, writable),
  'half a header': (_, ring, writable) => single(ring, GUEST, 5, writable),
  'a direction that does not fit': (_, ring, writable) => single(ring, GUEST, 100, !writable),
  'directions mixed': (guest, ring, writable) => {
    const head = ring.chain([guest.write(frameOf(0)), guest.write(frameOf(1))], writable)
    ring.descriptor(head + 1, GUEST, 100, writable ? 0 : WRITE)
    return head
  },
  'a loop to itself': (_, ring, writable) => {
    ring.descriptor(200, GUEST, 1, NEXT | (writable ? WRITE : 0), 200)
    return 200
  },
  'a loop over two': (_, ring, writable) => {
    ring.descriptor(200, GUEST, 1, NEXT | (writable ? WRITE : 0), 201)
    ring.descriptor(201, GUEST, 1, NEXT | (writable ? WRITE : 0), 200)
    return 200
  },
  'a next beyond the ring': (_, ring, writable) => {
    ring.descriptor(200, GUEST, 100, NEXT | (writable ? WRITE : 0), 256)
    return 200
  },
  'an indirect table beyond the memory': (guest, ring) => {
    ring.descriptor(200, GUEST + BigInt(guest.memory.bytes.length - 16), 32, INDIRECT)
    return 200
  },
  'an indirect table of 17 bytes': (guest, ring) => {
    ring.descriptor(200, GUEST + BigInt(guest.memory.allocate(32)), 17, INDIRECT)
    return 200
  },
  'an indirect table of none': (guest, ring) => {
    ring.descriptor(200, GUEST + BigInt(guest.memory.allocate(16)), 0, INDIRECT)
    return 200
  },
  'an indirect table of 1025': (guest, ring) => {
    ring.descriptor(200, GUEST + BigInt(guest.memory.allocate(1025 * 16)), 1025 * 16, INDIRECT)
    return 200
  },
  'an indirect table at an odd address': (guest, ring) => {
    ring.descriptor(200, GUEST + BigInt(guest.memory.allocate(64) + 1), 16, INDIRECT)
    return 200
  },
  'an indirect table in an indirect table': (guest, ring) => {
    const table = guest.memory.allocate(32)
    ring.descriptor(0, GUEST + BigInt(table + 16), 16, INDIRECT, 0, table)
    ring.descriptor(200, GUEST + BigInt(table), 32, INDIRECT)
    return 200
  },
  'indirect and next': (guest, ring, writable) => {
    const head = ring.indirect([guest.write(frameOf(0))], writable)
    ring.memory.bytes.writeUInt16LE(INDIRECT | NEXT, ring.descriptors + head * 16 + 12)
    return head
  },
  'a loop in an indirect table': (guest, ring, writable) => {
    const table = guest.memory.allocate(32)
    ring.descriptor(0, GUEST, 1, NEXT | (writable ? WRITE : 0), 0, table)
    ring.descriptor(200, GUEST + BigInt(table), 32, INDIRECT)
    return 200
  },
}

function single(ring: Ring, address: bigint, length: number, writable: boolean): number {
  ring.descriptor(200, address, length, writable ? WRITE : 0)
  return 200
}

suite('vhost-user: drivers that break the rules', () => {
  for (const [what, make] of Object.entries(BAD_CHAINS)) {
    test(`${what}: given back empty and counted, what is before and behind passes`, () => {
      const guest = plug()
      const ring = guest.transmitRings[0]
      guest.send(frameOf(1), { kick: false })
      const head = make(guest, ring, false)
      ring.offer(head)
      guest.send(frameOf(2))
      assert.deepEqual(arrived(), [frameOf(1), frameOf(2)])
      const used = ring.takeUsed()
      assert.equal(used.length, 3)
      assert.deepEqual(used[1], { head, length: 0 })
      assert.equal(engine.drops(PORT, DROP_BAD_DESCRIPTOR), 1)
      assert.deepEqual(engine.events(), [])
    })

    test(`${what}: the same in the receive ring`, () => {
      const guest = plug()
      const ring = guest.receiveRings[0]
      guest.give(1, 200)
      ring.offer(make(guest, ring, true))
      guest.give(1, 200)
      engine.transmit(PORT, [frameOf(1), frameOf(2)])
      assert.deepEqual(
        ring.takeUsed().map(({ length }) => length),
        [76, 0, 76],
      )
      assert.equal(engine.drops(PORT, DROP_BAD_DESCRIPTOR), 1)
      assert.equal(engine.counter(PORT, layout.TRANSMITTED_PACKETS), 2)
    })
  }

  test('a frame longer than any: given back empty and counted', () => {
    const guest = plug()
    guest.send(Buffer.alloc(69567))
    assertAlive(guest)
    assert.equal(engine.drops(PORT, DROP_BAD_DESCRIPTOR), 1)
  })

  const breaks: Record<string, (guest: Guest) => void> = {
    'a head beyond the ring': ({ transmitRings: [ring] }) => {
      ring.offer(256)
      ring.tell()
    },
    'an index that jumps past the ring': ({ transmitRings: [ring] }) => {
      ring.setIndex(ring.availableIndex + 257)
      ring.tell()
    },
    'an index that runs back': ({ transmitRings: [ring] }) => {
      ring.setIndex(ring.availableIndex - 1)
      ring.tell()
    },
    'a head beyond the receive ring': ({ receiveRings: [ring] }) => {
      ring.offer(300)
      engine.transmit(PORT, [frameOf(1)])
    },
    'an index of the receive ring that jumps': ({ receiveRings: [ring] }) => {
      ring.setIndex(1000)
      engine.transmit(PORT, [frameOf(1)])
    },
  }
  for (const [what, breakIt] of Object.entries(breaks)) {
    test(`${what}: the port ends with EPROTO, another goes on, and it can be attached anew`, () => {
      const guest = plug()
      const other = plug({}, OTHER)
      breakIt(guest)
      engine.receive()
      assert.deepEqual(engine.events(), [[PORT, EPROTO]])
      engine.transmit(PORT, [frameOf(1)])
      assert.ok(engine.drops(PORT, DROP_NO_PEER) >= 1)
      assertAlive(other, OTHER)
      guests.splice(guests.indexOf(guest), 1)
      guest.close()
      assertAlive(plug())
    })
  }

  test('a thousand chains of a thousand descriptors cost a bounded number a turn, and end', () => {
    const guest = plug({ size: 1024 })
    const ring = guest.transmitRings[0]
    for (let i = 0; i < 1024; i++) ring.descriptor(i, GUEST, 1, NEXT, (i + 1) % 1024)
    for (let i = 0; i < 1024; i++) ring.offer(i)
    ring.tell()
    engine.receive()
    assert.ok(engine.drops(PORT, DROP_BAD_DESCRIPTOR) <= 5)
    for (let i = 0; i < 1024; i++) engine.receive()
    assert.equal(engine.drops(PORT, DROP_BAD_DESCRIPTOR), 1024)
    assertAlive(guest)
  })
})

suite('vhost-user: frames to a guest', () => {
  test('they fill its buffers, in order, a header made here before each', () => {
    const guest = plug()
    guest.give(100, 2048)
    const sent = several(100)
    engine.transmit(PORT, sent)
    const got = guest.take()
    assert.deepEqual(
      got.map((frame) => frame.subarray(12)),
      sent,
    )
    for (const frame of got) assert.deepEqual(frame.subarray(0, 12), Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]))
    assert.equal(engine.counter(PORT, layout.TRANSMITTED_PACKETS), 100)
    assert.equal(
      engine.counter(PORT, layout.TRANSMITTED_BYTES),
      sent.reduce((sum, frame) => sum + frame.length, 0),
    )
  })

  test('with mergeable buffers one takes as many as it needs, and their number is in the header', () => {
    const guest = plug({ index: 65500 })
    guest.give(100, 1000)
    const sent = [frameOf(1, 988), frameOf(2, 989), frameOf(3, 60), frameOf(4, 65549), frameOf(5, 1988)]
    engine.transmit(PORT, sent)
    const got = guest.take()
    assert.deepEqual(
      got.map((frame) => frame.subarray(12)),
      sent,
    )
    assert.deepEqual(
      got.map((frame) => frame.readUInt16LE(10)),
      [1, 2, 1, 66, 2],
    )
  })

  test('without them a frame must fit one chain, of however many descriptors; else it is dropped', () => {
    const guest = plug({ features: VERSION_1 })
    const ring = guest.receiveRings[0]
    const place = guest.memory.allocate(4000)
    const parts = [5, 7, 100, 900].map((length, i) => ({ place: place + i * 1000, length }))
    const head = ring.indirect(parts, true)
    ring.offer(head)
    engine.transmit(PORT, [frameOf(1, 1001), frameOf(2, 1000)])
    assert.equal(engine.drops(PORT, DROP_TRANSMIT_ERROR), 1)
    assert.deepEqual(ring.takeUsed(), [{ head, length: 1012 }])
    const { bytes } = guest.memory
    const got = Buffer.concat(parts.map((part) => bytes.subarray(part.place, part.place + part.length)))
    assert.deepEqual(got.subarray(12), frameOf(2, 1000))
  })

  test('a frame that all buffers of the ring together cannot hold is dropped', () => {
    const guest = plug({ size: 4 })
    guest.give(4, 100)
    engine.transmit(PORT, [frameOf(1, 1000), frameOf(2)])
    assert.equal(engine.drops(PORT, DROP_TRANSMIT_ERROR), 1)
    assert.deepEqual(guest.takeFrames(), [frameOf(2)])
  })

  test('without a ring that is enabled they are dropped as no-peer', () => {
    const guest = new Guest(PORT)
    guests.push(guest)
    engine.transmit(PORT, [frameOf(1)])
    guest.memory.share(PORT)
    guest.receiveRings[0].set(-1, 0)
    guest.give(1, 100)
    engine.transmit(PORT, [frameOf(2)])
    assert.equal(engine.drops(PORT, DROP_NO_PEER), 2)
    assert.deepEqual(guest.takeFrames(), [])
  })

  test('tags, checksums and segments: as asked', () => {
    const guest = plug()
    guest.give(20, 4000)
    engine.transmit(PORT, [frameOf(1)], layout.EGRESS_TAGGED, [[layout.TCI, 0x6007]])
    const tag = Buffer.from([0x81, 0, 0x60, 7])
    const plain = frameOf(1)
    assert.deepEqual(guest.takeFrames(), [Buffer.concat([plain.subarray(0, 12), tag, plain.subarray(12)])])

    const large = tcpFrame(3000)
    const fields: [number, number][] = [
      [layout.OFFLOAD, layout.OFFLOAD_CHECKSUM | (layout.GSO_TCP4 << layout.GSO_SHIFT)],
      [layout.SEGMENT_BYTES, 1000],
      [layout.CHECKSUM_START, 34],
      [layout.CHECKSUM_OFFSET, 16],
      [layout.HEADER_LENGTH, 54],
    ]
    engine.transmit(PORT, [large], 0, fields)
    const [whole] = guest.take()
    assert.deepEqual([...whole.subarray(0, 12)], [1, 1, 54, 0, 1000 & 255, 1000 >> 8, 34, 0, 16, 0, 1, 0])
    assert.deepEqual(whole.subarray(12), large)
    engine.transmit(PORT, [large], layout.EGRESS_TAGGED, fields)
    assert.deepEqual([...guest.take()[0].subarray(0, 12)], [1, 1, 58, 0, 1000 & 255, 1000 >> 8, 38, 0, 16, 0, 1, 0])

    engine.transmit(PORT, [large], layout.EGRESS_SEGMENT, fields)
    const segments = guest.take()
    assert.deepEqual(
      segments.map((segment) => segment.length),
      [1066, 1066, 1066],
    )
    for (const segment of segments) assert.deepEqual(segment.subarray(0, 10), Buffer.alloc(10))
    assert.equal(engine.counter(PORT, layout.SEGMENTED_PACKETS), 1)
    engine.transmit(PORT, [large], layout.EGRESS_CHECKSUM, fields.slice(0, 1).concat(fields.slice(2)))
    assert.equal(engine.counter(PORT, layout.COMPLETED_CHECKSUMS), 1)
  })

  test('several rings: flows spread, each keeps to its ring', () => {
    const guest = plug({ queues: 4, bytes: 1 << 24 })
    for (let queue = 0; queue < 4; queue++) guest.give(200, 200, queue)
    const flows = Array.from({ length: 64 }, (_, flow) => {
      const frame = tcpFrame(40)
      frame.writeUInt16BE(1000 + flow, 34)
      return frame
    })
    engine.transmit(PORT, flows)
    engine.transmit(PORT, flows)
    const counts = [0, 1, 2, 3].map((queue) => {
      const frames = guest.takeFrames(queue)
      const half = frames.length / 2
      assert.deepEqual(frames.slice(0, half), frames.slice(half))
      return frames.length
    })
    assert.equal(
      counts.reduce((sum, count) => sum + count),
      128,
    )
    for (const count of counts) assert.ok(count >= 12, String(counts))
  })
})

suite('vhost-user: frames that wait', () => {
  test('a guest without buffers gets what was queued when it gives some, whole and in order', () => {
    const guest = plug({ bytes: 1 << 23 })
    const sent = several(200)
    engine.transmit(PORT, sent.slice(0, 100))
    guest.give(50, 300)
    engine.transmit(PORT, sent.slice(100))
    engine.receive()
    const got = guest.takeFrames()
    while (got.length < sent.length) {
      guest.give(10, 300)
      engine.receive()
      const more = guest.takeFrames()
      assert.ok(more.length > 0)
      got.push(...more)
    }
    assert.deepEqual(got, sent)
    assert.equal(engine.counter(PORT, layout.TRANSMITTED_PACKETS), 200)
  })

  test('the queue has an end: what does not fit is dropped, and its end is where it was', () => {
    const guest = plug({ bytes: 1 << 23 })
    for (let i = 0; i < 30; i++)
      engine.transmit(
        PORT,
        Array.from({ length: 50 }, (_, k) => frameOf(i * 50 + k, 1500)),
      )
    const lost = engine.drops(PORT, DROP_QUEUE_FULL)
    const kept = engine.counter(PORT, layout.TRANSMITTED_PACKETS)
    assert.equal(lost + kept, 1500)
    assert.equal(kept, Math.floor((1 << 20) / 1516))
    const got: Buffer[] = []
    for (let i = 0; i < 10; i++) {
      guest.give(100, 2000)
      engine.receive()
      got.push(...guest.takeFrames())
    }
    assert.deepEqual(
      got.map((frame) => frame.readUInt32BE(14)),
      Array.from({ length: kept }, (_, i) => i),
    )
  })

  test('the header waits with its frame', () => {
    const guest = plug()
    engine.transmit(PORT, [tcpFrame(100)], layout.EGRESS_TAGGED, [
      [layout.TCI, 5],
      [layout.OFFLOAD, layout.OFFLOAD_CHECKSUM],
      [layout.CHECKSUM_START, 34],
      [layout.CHECKSUM_OFFSET, 16],
    ])
    guest.give(3, 100)
    engine.receive()
    const [frame] = guest.take()
    assert.deepEqual([...frame.subarray(0, 12)], [1, 0, 0, 0, 0, 0, 38, 0, 16, 0, 2, 0])
  })

  for (const features of [VERSION_1 | MRG_RXBUF, VERSION_1 | MRG_RXBUF | EVENT_IDX]) {
    test(`a kick is asked for only while something waits (event index: ${(features & EVENT_IDX) !== 0n})`, async () => {
      const guest = plug({ features })
      const ring = guest.receiveRings[0]
      const wanted = (): boolean =>
        (features & EVENT_IDX) === 0n ? ring.usedFlags === 0 : ring.kickEvent === ring.availableIndex
      guest.give(2, 100)
      engine.receive(1)
      assert.equal(wanted(), false)
      engine.transmit(PORT, [frameOf(1), frameOf(2), frameOf(3)])
      engine.receive(1)
      assert.equal(wanted(), true)
      guest.give(2, 100)
      ring.tell()
      engine.receive(1)
      assert.equal(guest.takeFrames().length, 3)
      engine.receive(1)
      assert.equal(wanted(), false)
      // what was given and not asked for is no news
      await Promise.resolve()
      guest.give(1, 100)
      assert.deepEqual(engine.receive(1), [])
    })
  }

  test('they are dropped, and counted, when the ring stops', () => {
    const guest = plug()
    engine.transmit(PORT, [frameOf(1), frameOf(2)])
    assert.equal(guest.receiveRings[0].stop(), 0)
    assert.equal(engine.drops(PORT, DROP_NO_PEER), 2)
  })
})

suite('vhost-user: notifications', () => {
  test('by flags: no kick is wanted while the port is polled; a call comes once a burst unless it is unwanted', () => {
    const guest = plug()
    const ring = guest.transmitRings[0]
    guest.rings.forEach((one) => one.wasCalled())
    guest.send(frameOf(1))
    assert.equal(engine.receive().length, 1)
    assert.equal(ring.usedFlags, 1)
    assert.equal(ring.wasCalled(), true)
    engine.receive(1)
    assert.equal(ring.usedFlags, 0)
    ring.availableFlags = 1
    guest.send(frameOf(2))
    assert.equal(engine.receive(1000).length, 1)
    assert.equal(ring.wasCalled(), false)
    guest.give(3, 100)
    engine.transmit(PORT, [frameOf(1), frameOf(2), frameOf(3)])
    assert.equal(guest.receiveRings[0].wasCalled(), true)
    assert.equal(guest.receiveRings[0].wasCalled(), false)
  })

  test('by index: a call comes when the used index passes the one that the driver names, over the wrap too', () => {
    const guest = plug({ features: VERSION_1 | MRG_RXBUF | EVENT_IDX, index: 65534 })
    const ring = guest.transmitRings[0]
    const send = (): boolean => {
      guest.send(frameOf(1))
      assert.equal(engine.receive().length, 1)
      return ring.wasCalled()
    }
    send() // the first of a ring calls always
    ring.callEvent = 0
    assert.equal(send(), false)
    assert.equal(send(), true)
    assert.equal(send(), false)
    assert.equal(ring.usedFlags, 0)
    engine.receive(1)
    assert.equal(ring.kickEvent, ring.availableIndex)
  })

  test('a frame that comes while nobody is asked for a kick is found, as long as the port is polled', () => {
    const guest = plug()
    guest.send(frameOf(1))
    assert.equal(engine.receive().length, 1)
    guest.send(frameOf(2), { kick: false })
    assert.equal(engine.receive().length, 1)
  })

  test('a frame without a kick is found before the engine sleeps; a kick ends the sleep', () => {
    const guest = plug()
    engine.receive()
    guest.send(frameOf(1), { kick: false })
    assert.equal(engine.receive(1000).length, 1)
    const started = Date.now()
    for (let i = 0; i < 5; i++) assert.equal(engine.receive(20).length, 0)
    assert.ok(Date.now() - started >= 80)
    guest.send(frameOf(2))
    assert.equal(engine.receive(1000).length, 1)
  })

  test('a ring without a kick is looked at every millisecond, a polled one all the time', () => {
    const guest = plug()
    const [ring] = guest.transmitRings
    assert.equal(ring.set(-1, RING_ENABLED, { kick: -1 }), 0)
    for (let i = 0; i < 300; i++) engine.receive(i < 3 ? 2 : 0)
    guest.send(frameOf(1), { kick: false })
    const found = (): boolean => engine.receive(5).length === 1 || engine.receive(5).length === 1
    assert.ok(found())
    assert.equal(ring.set(-1, RING_ENABLED | 4), 0)
    for (let i = 0; i < 600; i++) engine.receive(0)
    engine.receive(3)
    assert.equal(ring.usedFlags, 1)
    guest.send(frameOf(2), { kick: false })
    assert.ok(found())
  })

  test('an idle guest costs nothing: no turn of the engine ends before something happens', () => {
    const guest = plug({ queues: 4, bytes: 1 << 23 })
    assertAlive(guest)
    engine.receive(1)
    const started = process.cpuUsage()
    for (let i = 0; i < 5; i++) assert.deepEqual(engine.receive(100), [])
    const { user, system } = process.cpuUsage(started)
    assert.ok(user + system < 50_000, `${user + system} µs of 500000`)
  })
})
