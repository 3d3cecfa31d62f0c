/**
 * Mutated frames through the whole pipeline, while the ports' configuration changes between bursts: nothing is thrown,
 * no slot leaks, every frame is accounted for, and none comes out where it must not.
 *
 * What is checked of each frame sent is worked out here from the bytes as they were handed in and the configuration as
 * written, without a line of the dataplane: the frame's number stands in its last four bytes, which no stage touches.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CHECKSUM_START,
  GSO_SHIFT,
  HEADER_LENGTH,
  OFFLOAD,
  SEGMENT_BYTES,
  TAG,
  TAG_PRESENT,
} from '../../src/dataplane/layout.js'
import { type CompiledPort, PORT_ISOLATED, PORT_LINK } from '../../src/dataplane/port-table.js'
import { GEOMETRY, GROUP, Switch, access, frame, mac, plain, randomFrom, trunk } from './rig.js'

const PORTS = 12
const FRAMES = 200_000

interface Given {
  port: number
  bytes: Uint8Array
  tag: number
}

const word = (bytes: Uint8Array, at: number): number => (bytes[at] << 8) | bytes[at + 1]

/** The VID a frame belongs to by the rules of 802.1Q, 0 for the part of a network without VLANs, -1: to none. */
function vidOf({ port, bytes, tag }: Given, ports: Map<number, CompiledPort>): number {
  const { pvid, vids, flags } = ports.get(port)!
  const tci = tag !== 0 ? tag & 0xffff : word(bytes, 12) === 0x8100 ? word(bytes, 14) : -1
  if ((tci & 0xfff) === 4095 && tci >= 0) return -1
  if (vids.length === 0) return 0
  const tagged = tci < 0 ? 0 : tci & 0xfff
  if (tagged !== 0 && (flags & 32) !== 0) return -1
  const vid = tagged === 0 ? pvid : tagged
  return vids.some(([first, last]) => first <= vid && vid <= last) ? vid : -1
}

const carries = ({ vids }: CompiledPort, vid: number): boolean =>
  vids.length === 0 ? vid === 0 : vids.some(([first, last]) => first <= vid && vid <= last)

function randomPort(port: number, random: (below: number) => number): CompiledPort {
  const more = {
    mtu: [1500, 1500, 600, 9000][random(4)],
    offloads: random(16),
    macLimit: random(5) === 0 ? 3 : 1024,
  }
  const vid = 1 + random(4)
  const kind = random(3)
  const made =
    kind === 0
      ? plain(port, more)
      : kind === 1
        ? access(port, vid, more)
        : trunk(port, [[1, vid]], random(2) ? vid : null, more)
  if (random(6) === 0) made.flags |= PORT_ISOLATED
  if (random(12) === 0) made.flags &= ~PORT_LINK
  return made
}

function randomFrame(random: (below: number) => number, number: number): Uint8Array {
  const tags = Array.from(
    { length: [0, 0, 1, 1, 1, 2][random(6)] },
    () => [random(6), random(65536), 0x6002][random(3)],
  )
  const to = random(4) === 0 ? GROUP : mac(random(20))
  const bytes = frame(to, mac(random(20)), {
    tags,
    type: [0x800, 0x86dd, 0x806, 40][random(4)],
    length: 60 + random(90),
  })
  const mutations = random(3) === 0 ? 1 + random(4) : 0
  for (let i = 0; i < mutations; i++) bytes[random(20)] = [random(256), 0, 0x81, 0xff, 0x88, 0xa8][random(6)]
  const cut = random(10) === 0 ? bytes.slice(0, random(40)) : bytes
  if (cut.length >= 28) new DataView(cut.buffer).setUint32(cut.length - 4, number)
  return cut
}

function randomFields(random: (below: number) => number): [number, number][] {
  const fields: [number, number][] = []
  if (random(8) === 0) fields.push([TAG, TAG_PRESENT | (random(2) ? random(6) : random(65536))])
  if (random(8) === 0) {
    fields.push([OFFLOAD, random(8) | (random(8) << GSO_SHIFT)], [CHECKSUM_START, random(70)])
    if (random(2)) fields.push([SEGMENT_BYTES, random(1600)], [HEADER_LENGTH, random(100)])
  }
  return fields
}

test(`${FRAMES} mutated frames, ports changing between bursts`, () => {
  const weft = new Switch({ ...GEOMETRY, smallSlots: 300, ports: PORTS })
  const random = randomFrom(20_251_121)
  const ports = new Map<number, CompiledPort>()
  const networkOf = new Map<number, number>()
  let delivered = 0
  let number = 0
  let seconds = 0
  while (number < FRAMES) {
    if (random(3) === 0) {
      // a port may go from one network to the other; addresses learned before are left as they are
      for (let port = 0; port < PORTS; port++) {
        if (networkOf.has(port) && random(3) > 0) continue
        networkOf.set(port, random(2))
        ports.set(port, randomPort(port, random))
      }
      for (const network of [0, 1])
        weft.ports(
          [...ports.values()].filter(({ port }) => networkOf.get(port) === network),
          network,
          5,
        )
    }
    weft.seconds = seconds += random(3)
    const given = new Map<number, Given>()
    const size = [1, 7, 64, 256, 257][random(5)]
    const before = weft.arena.drops.reduce((sum, drops) => sum + drops, 0)
    for (let i = 0; i < size; i++) {
      const [port, bytes, fields] = [random(PORTS), randomFrame(random, ++number), randomFields(random)]
      if (bytes.length >= 28)
        given.set(number, { port, bytes: bytes.slice(), tag: fields.find(([field]) => field === TAG)?.[1] ?? 0 })
      weft.give(port, bytes, fields)
    }
    const sent = weft.run()
    const arrived = new Set<number>()
    let short = 0
    for (const { port, bytes } of sent) {
      const id = new DataView(bytes.buffer, bytes.byteOffset).getUint32(Math.max(0, bytes.length - 4))
      const origin = given.get(id)
      if (origin === undefined) {
        // too short to bear a number: only its length can be held against it
        assert.ok(bytes.length < 28 + 4, 'a frame that nobody sent')
        short++
        continue
      }
      const why = `frame ${id}, port ${origin.port} to ${port}`
      const [from, to] = [ports.get(origin.port)!, ports.get(port)!]
      assert.notEqual(port, origin.port, why)
      assert.equal(networkOf.get(port), networkOf.get(origin.port), `${why}: another network`)
      const vid = vidOf(origin, ports)
      assert.ok(vid >= 0 && carries(to, vid), `${why}: not a member of VID ${vid}`)
      assert.equal(from.flags & to.flags & PORT_ISOLATED, 0, `${why}: both isolated`)
      assert.ok((from.flags & to.flags & PORT_LINK) !== 0, `${why}: a link is down`)
      assert.deepEqual(bytes.slice(0, 12), origin.bytes.slice(0, 12), `${why}: addresses changed`)
      arrived.add(id)
    }
    delivered += arrived.size
    const dropped = weft.arena.drops.reduce((sum, drops) => sum + drops, 0) - before
    // a flooded frame may be dropped at one port and sent by another, so the sum is a bound; received frames are exact
    assert.ok(arrived.size + short + dropped >= size, `of ${size} frames ${arrived.size} arrived, ${dropped} dropped`)
    assert.equal(weft.loop.pipeline.pool.free(), weft.startFree)
  }
  const received = Array.from({ length: PORTS }, (_, port) => weft.received(port)[0]).reduce((a, b) => a + b)
  assert.equal(received, number)
  assert.ok(delivered > FRAMES / 8, `only ${delivered} frames arrived: the test tests little`)
  weft.drops() // each has a name
  weft.checkPool()
})

test('of unicast frames each is sent once or dropped once', () => {
  const weft = new Switch({ ...GEOMETRY, ports: PORTS })
  const random = randomFrom(3)
  let sent = 0
  let given = 0
  for (let round = 0; round < 200; round++) {
    const ports = Array.from({ length: PORTS }, (_, port) => randomPort(port, random))
    weft.ports(ports)
    for (const { pvid, vids } of ports) // every address is known in every VLAN: nothing is flooded
      for (const vid of vids.length === 0 ? [0] : [1, 2, 3, 4, pvid].filter((one) => one > 0))
        for (let host = 0; host < 20; host++) {
          const key = 2 | (vid << 16)
          assert.ok(weft.loop.pipeline.fdb.addStatic(host << 24, key, 0, host % PORTS))
        }
    for (let i = 0; i < 100; i++, given++) {
      const tags = random(2) ? [random(6)] : []
      weft.give(random(PORTS), frame(mac(random(20)), mac(random(20)), { tags, length: 60 + random(1200) }))
    }
    sent += weft.run().length
  }
  const dropped = Object.values(weft.drops()).reduce((a, b) => a + b)
  assert.equal(sent + dropped, given)
  assert.ok(sent > given / 20 && dropped > given / 20)
  weft.checkPool()
})
