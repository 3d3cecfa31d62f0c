/**
 * VLANs: what every kind of port does with every kind of tag, in and out, byte by byte.
 *
 * `matrix` is the table of IEEE 802.1Q as Weft keeps it: for a frame with this tag received by this port, the VID it is
 * classified to, or the drop. Where it then comes out, and with which tag, follows from `outlets` alone.
 */
import assert from 'node:assert/strict'
import { CHECKSUM_START, OFFLOAD, OFFLOAD_CHECKSUM, TAG, TAG_PRESENT } from '../../src/dataplane/layout.js'
import type { CompiledPort } from '../../src/dataplane/port-table.js'
import { GROUP, access, frame, mac, plain, switching, trunk } from './rig.js'

/** Ports: each kind as ingress, the others as outlets. */
const ACCESS10 = 0
const ACCESS20 = 1
const TRUNK = 2 // 10 to 20, no native VLAN
const NATIVE10 = 3 // 10 to 20, native 10
const NATIVE20 = 4 // 10 and 20, native 20
const NONE = 5
const NONE_TOO = 6
const ports: CompiledPort[] = [
  access(ACCESS10, 10),
  access(ACCESS20, 20),
  trunk(TRUNK, [[10, 20]]),
  trunk(NATIVE10, [[10, 20]], 10),
  trunk(
    NATIVE20,
    [
      [10, 10],
      [20, 20],
    ],
    20,
  ),
  plain(NONE),
  plain(NONE_TOO),
]

/** By VID: the ports that carry it, and whether with a tag. */
const outlets: Record<number, [port: number, tagged: boolean][]> = {
  10: [
    [ACCESS10, false],
    [TRUNK, true],
    [NATIVE10, false],
    [NATIVE20, true],
  ],
  15: [
    [TRUNK, true],
    [NATIVE10, true],
  ],
  20: [
    [ACCESS20, false],
    [TRUNK, true],
    [NATIVE10, true],
    [NATIVE20, false],
  ],
}

const refused = 'vlan-not-allowed'
const reserved = 'vlan-reserved'
const twice = 'double-tag'
/** Columns: the tags of the frame. Priority 5 and DEI stand in each TCI, so that they can be followed. */
const columns: [name: string, tags: number[]][] = [
  ['untagged', []],
  ['priority-tagged', [0xb000]],
  ['tag 10', [0xb00a]],
  ['tag 15', [0xb00f]],
  ['tag 20', [0xb014]],
  ['tag 30', [0xb01e]],
  ['tag 4095', [0xbfff]],
  ['double tag 10, 20', [0xb00a, 0xb014]],
  ['double tag 0, 20', [0xb000, 0xb014]],
]
const matrix: [port: number, results: (number | string)[]][] = [
  [ACCESS10, [10, 10, refused, refused, refused, refused, reserved, twice, twice]],
  [ACCESS20, [20, 20, refused, refused, refused, refused, reserved, twice, twice]],
  [TRUNK, [refused, refused, 10, 15, 20, refused, reserved, twice, twice]],
  [NATIVE10, [10, 10, 10, 15, 20, refused, reserved, twice, twice]],
  [NATIVE20, [20, 20, 10, refused, 20, refused, reserved, twice, twice]],
  [NONE, [0, 0, 0, 0, 0, 0, reserved, twice, twice]],
]

for (const byDevice of [false, true])
  for (const [port, results] of matrix)
    for (const [column, [name, tags]] of columns.entries()) {
      if (byDevice && tags.length === 0) continue
      switching(`port ${port}, ${name}${byDevice ? ', the outer tag taken by the device' : ''}`, (weft) => {
        weft.ports(ports)
        const whole = frame(GROUP, mac(1), { tags })
        const inner = frame(GROUP, mac(1), { tags: tags.slice(1) })
        const sent = byDevice ? weft.pass(port, inner, [[TAG, TAG_PRESENT | tags[0]]]) : weft.pass(port, whole)
        const result = results[column]
        if (typeof result === 'string') {
          assert.deepEqual(sent, [])
          assert.deepEqual(weft.drops(), { [`${port} ${result}`]: 1 })
          return
        }
        const priority = (tags[0] ?? 0) & 0xf000
        const expected: [number, boolean][] = result === 0 ? [[NONE_TOO, tags.length > 0]] : outlets[result]
        const others = expected.filter(([outlet]) => outlet !== port)
        assert.deepEqual(
          sent.map((one) => one.port).sort((a, b) => a - b),
          others.map(([outlet]) => outlet),
        )
        for (const [outlet, tagged] of others) {
          const tci = result === 0 ? tags[0] : priority | result
          // the payload counts from the frame's start as it was received; only the tag may differ
          const payload = (byDevice ? inner : whole).slice(byDevice ? 14 : 14 + tags.length * 4)
          const head = frame(GROUP, mac(1), { tags: tagged ? [tci] : [], length: tagged ? 18 : 14 })
          const bytes = sent.find((one) => one.port === outlet)?.bytes
          assert.deepEqual(bytes, Uint8Array.of(...head, ...payload), `port ${outlet}`)
        }
        assert.deepEqual(weft.drops(), {})
      })
    }

switching("a known address is sought in the frame's own VLAN", (weft) => {
  weft.ports(ports)
  weft.pass(TRUNK, frame(GROUP, mac(7), { tags: [10] }))
  assert.deepEqual(weft.leaves(ACCESS10, frame(mac(7), mac(1))), [TRUNK])
  assert.deepEqual(weft.leaves(ACCESS20, frame(mac(7), mac(2))), [TRUNK, NATIVE10, NATIVE20], 'unknown in VLAN 20')
  weft.pass(NATIVE20, frame(GROUP, mac(7)))
  assert.deepEqual(weft.leaves(ACCESS20, frame(mac(7), mac(2))), [NATIVE20])
  assert.deepEqual(weft.leaves(ACCESS10, frame(mac(7), mac(1))), [TRUNK])
})

switching('a port that leaves a VLAN gets none of it, though its addresses are still known', (weft) => {
  weft.ports(ports)
  weft.pass(TRUNK, frame(GROUP, mac(7), { tags: [10] }))
  weft.ports(ports.map((port) => (port.port === TRUNK ? trunk(TRUNK, [[11, 20]]) : port)))
  assert.deepEqual(weft.pass(ACCESS10, frame(mac(7), mac(1))), [])
  assert.deepEqual(weft.drops(), { [`${ACCESS10} no-recipient`]: 1 })
})

switching('popping a tag moves an unfinished checksum with the payload', (weft) => {
  weft.ports([access(0, 10), trunk(1, [[10, 10]])])
  let start = -1
  const { driver, arena } = weft
  const send = driver.transmit.bind(driver)
  driver.transmit = (pairs) => {
    start = arena.records[(arena.egress[0] << 4) + CHECKSUM_START]
    send(pairs)
  }
  const fields: [number, number][] = [
    [OFFLOAD, OFFLOAD_CHECKSUM],
    [CHECKSUM_START, 38],
  ]
  weft.pass(1, frame(GROUP, mac(1), { tags: [10], length: 80 }), fields)
  assert.equal(start, 34)
  weft.pass(0, frame(GROUP, mac(2), { length: 80 }), [
    [OFFLOAD, OFFLOAD_CHECKSUM],
    [CHECKSUM_START, 34],
  ])
  assert.equal(start, 34)
})

switching('a service tag counts as a second tag', (weft) => {
  weft.ports(ports)
  for (const type of [0x88a8, 0x9100]) {
    assert.deepEqual(weft.pass(ACCESS10, frame(GROUP, mac(1), { type })), [])
    assert.deepEqual(weft.pass(TRUNK, frame(GROUP, mac(1), { type, tags: [10] })), [])
  }
  assert.deepEqual(weft.drops(), { [`${ACCESS10} double-tag`]: 2, [`${TRUNK} double-tag`]: 2 })
})
