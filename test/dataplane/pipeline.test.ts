/**
 * The pipeline through the loop, without VLANs: what is forwarded where, what is dropped by which name, what an egress
 * port is asked to finish, and that bursts of any size come out whole and in order.
 */
import assert from 'node:assert/strict'
import {
  CHECKSUM_START,
  EGRESS_CAPACITY,
  EGRESS_CHECKSUM,
  EGRESS_SEGMENT,
  GSO_SHIFT,
  GSO_TCP4,
  GSO_TCP6,
  GSO_UDP,
  HEADER_LENGTH,
  HEADER_TURNS,
  OFFLOAD,
  OFFLOAD_BAD,
  OFFLOAD_CHECKSUM,
  OFFLOAD_TRUNCATED,
  SEGMENT_BYTES,
} from '../../src/dataplane/layout.js'
import {
  PORT_ISOLATED,
  PORT_LINK,
  TAKES_CHECKSUM,
  TAKES_TSO4,
  TAKES_TSO6,
  TAKES_USO,
} from '../../src/dataplane/port-table.js'
import { GEOMETRY, GROUP, frame, mac, plain, randomFrom, switching } from './rig.js'

const four = [plain(0), plain(1), plain(2), plain(3)]

switching('an unknown address floods, a known one gets its frames alone', (weft) => {
  weft.ports(four)
  const question = frame(mac(2), mac(1))
  assert.deepEqual(weft.leaves(0, question), [1, 2, 3])
  assert.deepEqual(weft.leaves(1, frame(mac(1), mac(2))), [0])
  const [sent, ...more] = weft.pass(0, question)
  assert.deepEqual([sent.port, sent.flags, more.length], [1, 0, 0])
  assert.deepEqual(sent.bytes, question)
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1))), [1, 2, 3])
  assert.deepEqual(weft.leaves(0, frame('33:33:00:00:00:01', mac(1))), [1, 2, 3])
  assert.deepEqual(weft.received(0), [4, 240])
  assert.equal(weft.transmitted(1)[0], 4)
  assert.deepEqual(weft.drops(), {})
})

switching('an answer in the same burst as the question is not flooded', (weft) => {
  weft.ports(four)
  weft.give(0, frame(GROUP, mac(1)))
  weft.give(1, frame(mac(1), mac(2)))
  assert.deepEqual(
    weft.run().map(({ port }) => port),
    [1, 2, 3, 0],
  )
  assert.equal(weft.arena.header[HEADER_TURNS], 1)
})

switching('an address that moves is followed, and of one that moves within a burst the last place counts', (weft) => {
  weft.ports(four)
  weft.pass(0, frame(GROUP, mac(1)))
  weft.pass(2, frame(GROUP, mac(1)))
  assert.deepEqual(weft.leaves(3, frame(mac(1), mac(9))), [2])
  weft.give(0, frame(GROUP, mac(1)))
  weft.give(1, frame(GROUP, mac(1)))
  weft.give(3, frame(mac(1), mac(9)))
  assert.deepEqual(weft.run().at(-1)?.port, 1)
})

switching('an address is forgotten after its time and flooded again', (weft) => {
  weft.ports(four, 0, 60)
  weft.seconds = 10
  weft.pass(0, frame(GROUP, mac(1)))
  weft.seconds = 69
  assert.deepEqual(weft.leaves(1, frame(mac(1), mac(2))), [0])
  weft.seconds = 70
  weft.loop.turn(0)
  assert.deepEqual(weft.leaves(1, frame(mac(1), mac(2))), [0, 2, 3])
})

switching('isolated ports reach the others, not each other', (weft) => {
  const flags = PORT_LINK | PORT_ISOLATED
  weft.ports([plain(0, { flags }), plain(1, { flags }), plain(2)])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1))), [2])
  assert.deepEqual(weft.leaves(2, frame(GROUP, mac(3))), [0, 1])
  assert.deepEqual(weft.leaves(1, frame(mac(1), mac(2))), [])
  assert.deepEqual(weft.leaves(1, frame(mac(3), mac(2))), [2])
  assert.deepEqual(weft.drops(), { '1 no-recipient': 1 })
})

switching('a link that is down takes nothing and gets nothing', (weft) => {
  weft.ports(four)
  weft.pass(1, frame(GROUP, mac(2)))
  weft.ports([plain(0), plain(1, { flags: 0 }), plain(2), plain(3)])
  assert.deepEqual(weft.leaves(0, frame(mac(2), mac(1))), [])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1))), [2, 3])
  assert.deepEqual(weft.leaves(1, frame(GROUP, mac(2))), [])
  assert.deepEqual(weft.drops(), { '1 egress-down': 1, '1 link-down': 1 })
})

switching('networks are apart, also for an entry that outlived its port', (weft) => {
  weft.ports([plain(0), plain(1)], 0)
  weft.ports([plain(2), plain(3)], 1)
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1))), [1])
  assert.deepEqual(weft.leaves(2, frame(mac(1), mac(3))), [3])
  weft.pass(1, frame(GROUP, mac(2)))
  weft.ports([plain(0)], 0)
  weft.ports([plain(1), plain(2), plain(3)], 1)
  assert.deepEqual(weft.leaves(0, frame(mac(2), mac(1))), [])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1))), [])
  assert.deepEqual(weft.drops(), { '0 no-recipient': 2 })
})

switching('frames that no switch forwards are dropped by name', (weft) => {
  weft.ports([plain(0), plain(1)])
  weft.pass(1, frame(GROUP, mac(2)))
  const expected: Record<string, number> = {}
  const dropped = (name: string, bytes: Uint8Array, fields: [number, number][] = []): void => {
    assert.deepEqual(weft.pass(0, bytes, fields), [], name)
    expected[`0 ${name}`] = (expected[`0 ${name}`] ?? 0) + 1
    assert.deepEqual(weft.drops(), expected)
  }
  for (let length = 0; length < 14; length++) dropped('runt', frame(mac(2), mac(1), { length }))
  for (let length = 14; length < 18; length++) dropped('runt', frame(mac(2), mac(1), { tags: [0], length }))
  dropped('bad-length', frame(mac(2), mac(1), { type: 47 }))
  dropped('bad-length', frame(mac(2), mac(1), { type: 0x5ff }))
  dropped('bad-source', frame(mac(2), '00:00:00:00:00:00'))
  dropped('bad-source', frame(mac(2), GROUP))
  dropped('bad-source', frame(mac(2), '01:00:5e:00:00:01'))
  for (const last of '0123456789abcdef') dropped('link-local', frame(`01:80:c2:00:00:0${last}`, mac(1)))
  weft.pass(0, frame(GROUP, mac(1)))
  dropped('same-port', frame(mac(1), mac(7)))
  dropped('bad-offload', frame(mac(2), mac(1)), [[OFFLOAD, OFFLOAD_BAD]])
  dropped('oversize', frame(mac(2), mac(1)), [[OFFLOAD, OFFLOAD_TRUNCATED]])
})

switching('what only looks like them is forwarded', (weft) => {
  weft.ports([plain(0), plain(1)])
  weft.pass(1, frame(GROUP, mac(2)))
  for (const bytes of [
    frame(mac(2), mac(1), { length: 14, type: 0 }), // an 802.3 frame without payload
    frame(mac(2), mac(1), { type: 46 }),
    frame(mac(2), mac(1), { type: 0x600 }),
    frame('01:80:c2:00:00:10', mac(1)),
    frame('01:80:c2:00:01:00', mac(1)),
    frame('01:80:c3:00:00:00', mac(1)),
    frame(mac(2), '00:00:00:00:01:00'),
    frame(mac(2), '00:01:00:00:00:00'),
    frame(mac(2), mac(1), { tags: [0], length: 18 }),
  ])
    assert.deepEqual(
      weft.pass(0, bytes).map((sent) => [sent.port, ...sent.bytes]),
      [[1, ...bytes]],
    )
  assert.deepEqual(weft.drops(), {})
})

switching("a port's MTU bounds what comes in and what goes out, the tag apart", (weft) => {
  weft.ports([plain(0, { mtu: 2000 }), plain(1, { mtu: 1000 }), plain(2, { mtu: 2000 })])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1), { length: 1014 })), [1, 2])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1), { length: 1015 })), [2])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1), { length: 2014 })), [2])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1), { length: 2018, tags: [9] })), [2])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1), { length: 2015 })), [])
  assert.deepEqual(weft.leaves(0, frame(GROUP, mac(1), { length: 2019, tags: [9] })), [])
  assert.deepEqual(weft.leaves(1, frame(GROUP, mac(2), { length: 1015 })), [])
  assert.deepEqual(weft.drops(), { '0 oversize': 2, '1 oversize': 1, '1 egress-mtu': 3 })
})

const large = (type: number, segment = 1000): [number, number][] => [
  [OFFLOAD, OFFLOAD_CHECKSUM | (type << GSO_SHIFT)],
  [SEGMENT_BYTES, segment],
  [HEADER_LENGTH, 54],
  [CHECKSUM_START, 34],
]

switching('a segmentation-offload frame is measured by its segments', (weft) => {
  const offloads = TAKES_CHECKSUM | TAKES_TSO4
  weft.ports([plain(0, { offloads }), plain(1, { offloads }), plain(2, { offloads, mtu: 1039 })])
  const bytes = frame(GROUP, mac(1), { length: 60_000 })
  assert.deepEqual(weft.leaves(0, bytes, large(GSO_TCP4)), [1])
  assert.deepEqual(weft.leaves(0, bytes, large(GSO_TCP4, 999)), [1, 2])
  assert.deepEqual(weft.leaves(0, bytes, large(GSO_TCP4, 1460)), [1])
  assert.deepEqual(weft.leaves(0, bytes, large(GSO_TCP4, 1461)), [])
  assert.deepEqual(weft.leaves(0, bytes), [])
  assert.deepEqual(weft.drops(), { '2 egress-mtu': 2, '0 oversize': 2 })
})

switching('a port is asked to finish exactly what it cannot take', (weft) => {
  const all = [TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO]
  const ports = [plain(0)]
  for (let set = 0; set < 16; set++)
    ports.push(plain(1 + set, { offloads: all.reduce((sum, bit, i) => sum | ((set >> i) & 1 ? bit : 0), 0) }))
  weft.ports(ports)
  const needs = new Map([
    [GSO_TCP4, 2],
    [GSO_TCP6, 4],
    [GSO_UDP, 8],
  ])
  const bytes = frame(GROUP, mac(1), { length: 5000 })
  for (const [type, need] of needs)
    for (const { port, flags } of weft.pass(0, bytes, large(type))) {
      const set = port - 1
      const expected = (set & need) === 0 ? EGRESS_SEGMENT : (set & 1) === 0 ? EGRESS_CHECKSUM : 0
      assert.equal(flags, expected, `type ${type}, capabilities ${set}`)
    }
  const partial = weft.pass(0, frame(GROUP, mac(1)), [[OFFLOAD, OFFLOAD_CHECKSUM]])
  assert.equal(partial.length, 16)
  for (const { port, flags } of partial) assert.equal(flags, (port - 1) & 1 ? 0 : EGRESS_CHECKSUM)
  for (const { flags } of weft.pass(0, frame(GROUP, mac(1)))) assert.equal(flags, 0)
})

for (const size of [1, 2, 255, 256, 257, 600])
  switching(`${size} frames come out complete and in order`, (weft) => {
    weft.ports(four)
    weft.pass(1, frame(GROUP, mac(2)))
    const random = randomFrom(size)
    const lengths = Array.from({ length: size }, () => 60 + random(1400))
    for (const length of lengths) weft.give(0, frame(mac(2), mac(1), { length }))
    const sent = weft.run()
    assert.deepEqual(
      sent.map(({ port, bytes }) => [port, bytes.length]),
      lengths.map((length) => [1, length]),
    )
    assert.equal(weft.received(0)[0], size)
    assert.equal(
      weft.received(0)[1],
      lengths.reduce((sum, length) => sum + length, 0),
    )
    assert.equal(weft.arena.header[HEADER_TURNS], 1 + Math.ceil(size / 256))
  })

const PORTS = 1200
switching(
  'bursts of floods to more ports than the egress list holds come out complete',
  (weft) => {
    weft.ports(Array.from({ length: PORTS }, (_, port) => plain(port)))
    const frames = 40
    assert.ok(frames * (PORTS - 1) > EGRESS_CAPACITY * 5)
    for (let i = 0; i < frames; i++) weft.give(i, frame(GROUP, mac(i), { length: 60 + i }))
    const sent = weft.run()
    assert.equal(weft.arena.header[HEADER_TURNS], 1)
    assert.equal(sent.length, frames * (PORTS - 1))
    let at = 0
    for (let i = 0; i < frames; i++)
      for (let port = 0; port < PORTS; port++)
        if (port !== i) assert.deepEqual([sent[at].port, sent[at++].bytes.length], [port, 60 + i])
  },
  { ...GEOMETRY, ports: PORTS },
)

switching('without any other port a frame is dropped and the port still learns', (weft) => {
  weft.ports([plain(0)])
  weft.pass(0, frame(GROUP, mac(1)))
  weft.ports([plain(0), plain(1), plain(2)])
  assert.deepEqual(weft.leaves(1, frame(mac(1), mac(2))), [0])
  assert.deepEqual(weft.drops(), { '0 no-recipient': 1 })
})
