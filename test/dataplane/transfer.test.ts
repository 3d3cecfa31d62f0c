/**
 * Networks that go from one shard's tables to another's: entries come out equal, what refers to each other still does,
 * and the frames of the networks meet the same as if nothing had moved. Two switches get the same random conversations;
 * one of them then hands zone a to a third, and all that follows must leave by the same ports with the same bytes.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { byAge, lead } from '../../src/control/table-transfer.js'
import {
  FDB_STATIC,
  HEADER_CONNECTIONS_EVICTED,
  HEADER_CONNECTIONS_USED,
  HEADER_FDB_CAPACITY,
  HEADER_FDB_EVICTED,
  HEADER_FDB_REFUSED,
  HEADER_FDB_USED,
  HEADER_MAPPINGS_USED,
  HEADER_NEIGHBORS_USED,
} from '../../src/dataplane/layout.js'
import * as conn from '../../src/dataplane/router/connection-entry.js'
import * as map from '../../src/dataplane/router/mapping-entry.js'
import * as neighbor from '../../src/dataplane/router/neighbors.js'
import {
  DONE,
  PIECE_RECORDS,
  RECORD_AGE,
  RECORD_KEY_HIGH,
  RECORD_MAC_LOW,
  RECORD_MOVES,
  RECORD_PORT,
  type TableName,
} from '../../src/dataplane/transfer.js'
import type { SentFrame } from '../../src/ports/memory.js'
import { GEOMETRY, randomFrom } from './rig.js'
import { type Packet, build } from './router/packet-builder.js'
import { ACK, FIN, RST, SYN, outbound, replyTo } from './router/router-exchange.js'
import { A, B, type Routed, type Site, ip, macWords, routerOf } from './router/router-rig.js'
import { PORTS, SEGMENTS, assertWhole, knows, records, routed, transferOf } from './table-rig.js'

function give(weft: Routed, table: TableName, list: Int32Array[]): number[] {
  const transfer = transferOf(weft)
  const results: number[] = []
  for (let first = 0; first < list.length; first += PIECE_RECORDS) {
    const piece = list.slice(first, first + PIECE_RECORDS)
    const places = new Int32Array(piece.length)
    transfer.takeIn(table, Int32Array.from(piece.flatMap((record) => [...record])), 0, piece.length, places)
    results.push(...places)
  }
  return results
}

/** As the control process does it. */
function carry(from: Routed, to: Routed, segments = SEGMENTS, ports = PORTS): void {
  const transfer = transferOf(from)
  transfer.choose(segments)
  transfer.halt(ports)
  give(to, 'fdb', byAge(records(from, 'fdb', segments), RECORD_AGE))
  give(to, 'neighbors', byAge(records(from, 'neighbors', segments), neighbor.NEIGHBOR_CONFIRMED))
  const mappings = byAge(records(from, 'mappings', segments), map.MAP_IDLE_SINCE)
  const places = give(to, 'mappings', mappings)
  const connections = byAge(records(from, 'connections', segments), conn.CONN_SEEN, conn.CONN_ORDER)
  lead(connections, mappings, places)
  give(to, 'connections', connections)
}

function discard(weft: Routed, segments = SEGMENTS): void {
  const transfer = transferOf(weft)
  transfer.choose(segments)
  for (const table of ['connections', 'mappings', 'neighbors', 'fdb'] as const)
    for (let from = 0; from !== DONE; ) from = transfer.discard(table, from)
}

// ---- conversations ----

/** What a guest and the server outside say next, as a function of how far they are. */
class Talk {
  private step = 0
  private readonly first: Packet

  constructor(random: (below: number) => number, site: Site, serial: number) {
    const family = random(3) === 0 ? 6 : 4
    const kind = random(4)
    const host = site.guests[random(site.guests.length)]
    const source = ip(family === 4 ? host.ip4 : host.ip6)
    // atomic ones keep their identification (RFC 6864); that of others is each shard's own
    const ends = { source, sourcePort: 20000 + serial, destinationPort: 80 + random(3), dontFragment: true }
    this.first = kind === 0 ? outbound(family, { ...ends, protocol: 17 }) : outbound(family, { ...ends, protocol: 6 })
    this.host = host
    this.site = site
  }

  readonly host: Site['guests'][number]
  readonly site: Site

  /** The next packet through a switch, and what the switch sent. */
  next(random: (below: number) => number): (weft: Routed) => unknown {
    const step = this.step++
    const isTcp = this.first.protocol === 6
    const payload = Array.from({ length: random(20) }, (_, i) => i)
    const roll = random(10)
    return (weft) => {
      const { host, site, first } = this
      const outer = ip(first.family === 4 ? site.outside4 : site.outside6)
      const out = (more: Partial<Packet>): unknown => weft.from(site, host, { ...first, payload, ...more })
      const back = (more: Partial<Packet>): unknown =>
        weft.from(site, site.isp, { ...replyTo({ ...first, source: outer }), payload, ...more })
      if (!isTcp) return step % 2 === 0 ? out({}) : back({})
      if (step === 0) return out({ flags: SYN, sequence: 100, payload: [] })
      if (step === 1) return back({ flags: SYN | ACK, sequence: 500, acknowledgment: 101, payload: [] })
      if (step > 4 && roll === 0) return out({ flags: RST, sequence: 101, payload: [] })
      if (step > 4 && roll === 1) return out({ flags: FIN | ACK, sequence: 101, acknowledgment: 501, payload: [] })
      if (roll === 2) return out({ flags: ACK, sequence: 0x70000000, acknowledgment: 501 }) // out of the window
      return step % 2 === 0
        ? out({ flags: ACK, sequence: 101, acknowledgment: 501 })
        : back({ flags: ACK, sequence: 501, acknowledgment: 101 })
    }
  }
}

/** What a switch sent, without what its router asks by itself: who is being asked does not come along. */
function answers(sent: unknown): SentFrame[] {
  return (sent as SentFrame[]).filter(({ bytes }) => {
    const type = (bytes[12] << 8) | bytes[13]
    return type !== 0x0806 && !(type === 0x86dd && bytes[20] === 58 && bytes[54] === 135)
  })
}

/** One random event of zone a or b, as what it does to a switch that has the zone. */
function happening(random: (below: number) => number, talks: Talk[], serial: { next: number }) {
  if (talks.length < 4 || random(4) === 0) talks.push(new Talk(random, random(3) === 0 ? B : A, serial.next++))
  const talk = talks[random(talks.length)]
  return { site: talk.site, act: talk.next(random) }
}

for (const seed of [1, 2, 3, 4]) {
  test(`a network that has moved meets the same as one that stayed, seed ${seed}`, () => {
    const random = randomFrom(seed)
    const talks: Talk[] = []
    const serial = { next: 0 }
    const stays = routed(10 + seed, 5000)
    const before = routed(20 + seed, 5000)
    const after = routed(30 + seed, 100_000)
    for (const weft of [stays, before]) {
      for (const site of [A, B]) {
        weft.site(site)
        weft.teach(site)
      }
    }
    const both = (act: (weft: Routed) => unknown, site: Site, moved: boolean): void => {
      const expected = answers(act(stays))
      assert.deepEqual(answers(act(moved && site === A ? after : before)), expected)
    }
    for (let i = 0; i < 600; i++) {
      const { site, act } = happening(random, talks, serial)
      both(act, site, false)
      if (random(30) === 0) {
        const seconds = 1 + random(9)
        assert.deepEqual(before.wait(seconds), stays.wait(seconds))
        for (const weft of [stays, before]) for (const each of [A, B]) weft.teach(each)
      }
    }
    after.site(A) // its configuration, and the router's own static entries
    after.site(B) // a zone of this shard's own; that the numbers are another's does not matter here
    after.teach(B)
    const told = knows(before)
    carry(before, after)
    assert.deepEqual(knows(after), told)
    assert.deepEqual(knows(before), told, 'nothing is taken yet')
    assertWhole(after)
    const others = knows(before, [B.lan, B.uplink])
    discard(before)
    assert.deepEqual(knows(before), { fdb: [], neighbors: [], mappings: [], connections: [] })
    assert.deepEqual(knows(before, [B.lan, B.uplink]), others)
    assertWhole(before)
    for (let i = 0; i < 600; i++) {
      const { site, act } = happening(random, talks, serial)
      both(act, site, true)
      if (random(30) === 0) {
        const seconds = random(4) === 0 ? 200 : 1 + random(9)
        // what each sends by itself, probes, has its own rhythm
        for (const weft of [stays, before, after]) {
          weft.wait(seconds)
          for (const each of [A, B]) weft.teach(each)
        }
      }
    }
    const { fdb, ...now } = knows(after)
    const { fdb: fdbThere, ...there } = knows(stays)
    assert.deepEqual(now.connections, there.connections)
    assert.deepEqual(now.mappings, there.mappings)
    assert.equal(fdb.length, fdbThere.length)
    assertWhole(after)
    assertWhole(before)
    for (const weft of [stays, before, after]) weft.checkPool()
    // all of it can be let go of, to the last entry
    for (const weft of [before, after]) {
      discard(weft, [A.lan, A.uplink, B.lan, B.uplink])
      for (const word of [HEADER_CONNECTIONS_USED, HEADER_MAPPINGS_USED, HEADER_NEIGHBORS_USED, HEADER_FDB_USED])
        assert.equal(weft.arena.header[word], 0)
    }
  })
}

test('more than a piece: thousands of connections, in order, found by both keys', () => {
  const geometry = { ...GEOMETRY, connectionCapacity: 8192, mappingCapacity: 8192 }
  const limits = { connectionLimit: 8192, portLimit: 8192 }
  const before = routed(1, 9000, geometry)
  const after = routed(2, 100_000, geometry)
  before.site(A, routerOf(A, limits))
  before.teach(A)
  const opened = 5000
  for (let i = 0; i < opened; i++) {
    before.from(A, A.guests[i & 3], outbound(4, { source: ip(A.guests[i & 3].ip4), sourcePort: 2000 + i }))
    if (i % 100 === 0) before.seconds = before.now + 1
  }
  assert.equal(before.arena.header[HEADER_CONNECTIONS_USED], opened)
  after.site(A, routerOf(A, limits))
  const told = knows(before)
  carry(before, after)
  assert.deepEqual(knows(after), told)
  assert.equal(after.arena.header[HEADER_CONNECTIONS_USED], opened)
  assertWhole(after)
  discard(before)
  assert.equal(before.arena.header[HEADER_CONNECTIONS_USED] + before.arena.header[HEADER_MAPPINGS_USED], 0)
})

test('what is older than the other arena is as old as that', () => {
  const before = routed(1, 5000)
  const after = routed(2, 20)
  for (const weft of [before, after]) weft.site(A)
  before.teach(A)
  before.from(A, A.guests[0], outbound(4))
  before.seconds = 5100
  carry(before, after)
  const entry = after.arena.connections
  assert.deepEqual([entry[conn.CONN_SEEN], entry[conn.CONN_CREATED]], [0, 0])
  assertWhole(after)
})

test('static entries, moved addresses and ages of the FDB', () => {
  const before = routed(1, 1000)
  const after = routed(2, 5000)
  for (const weft of [before, after]) weft.site(A)
  const { fdb } = before.loop.pipeline
  const learn = (low: number, port: number, second: number): void =>
    fdb.learn(fdb.place(low, 0x10002, A.lan), low, 0x10002, A.lan, port, second)
  learn(1, A.guests[0].port, 990)
  learn(2, A.guests[1].port, 995)
  learn(2, A.guests[2].port, 998)
  fdb.addStatic(3, 0x10002, A.lan, A.guests[3].port)
  carry(before, after)
  const found = records(after, 'fdb', [A.lan]).filter((record) => record[RECORD_KEY_HIGH] === 0x10002)
  const shown = found.map((one) => [one[RECORD_MAC_LOW], one[RECORD_PORT], one[RECORD_AGE], one[RECORD_MOVES]])
  assert.deepEqual(
    shown.toSorted((a, b) => a[0] - b[0]),
    [
      [1, A.guests[0].port, 10, 0],
      [2, A.guests[2].port, 2, 1],
      [3, A.guests[3].port, FDB_STATIC, 0],
    ],
  )
  after.seconds = 5000 + 291
  after.loop.pipeline.fdb.sweep(5000 + 291)
  const left = records(after, 'fdb', [A.lan]).map((record) => record[RECORD_MAC_LOW])
  assert.deepEqual([left.includes(1), left.includes(2), left.includes(3)], [false, true, true])
})

test('bindings come along, and go on binding', () => {
  const before = routed(1, 1000)
  const after = routed(2, 5000)
  for (const weft of [before, after]) weft.site(A)
  const [guest] = A.guests
  const { low, high } = macWords(guest.mac)
  const [word] = ip(guest.ip4)
  before.loop.pipeline.neighbors.bind(A.lan, 4, word, 0, 0, 0, low, high, guest.port, 1000)
  before.loop.pipeline.neighbors.bind(A.lan, 4, word + 1, 0, 0, 0, 0, 0, guest.port, 1000)
  carry(before, after)
  const { neighbors } = after.loop.pipeline
  assert.equal(neighbors.bound4[guest.port], 2)
  const entry = neighbors.find(A.lan, 4, word, 0, 0, 0)
  assert.ok(neighbors.isBound(entry) && neighbors.isUsable(entry))
  assert.equal(neighbors.learn(A.lan, 4, word, 0, 0, 0, 9, 9, A.guests[1].port, 5000), -1)
  const anyMac = neighbors.find(A.lan, 4, word + 1, 0, 0, 0)
  assert.ok(neighbors.isBound(anyMac) && !neighbors.isUsable(anyMac))
  assert.ok(neighbors.learn(A.lan, 4, word + 1, 0, 0, 0, 9, 9, guest.port, 5000) >= 0)
})

test('packets that wait are dropped and counted, and their slots come back', () => {
  const before = routed(1, 1000)
  before.site(A)
  before.teach(A)
  const stranger = outbound(4, { destination: ip('198.51.100.77') })
  before.from(A, A.guests[0], stranger)
  assert.ok(before.loop.pipeline.pool.free() < before.startFree)
  const late = build({ ...outbound(4), fragmentOffset: 64 } as Packet)
  before.from(A, A.guests[0], late)
  const transfer = transferOf(before)
  transfer.choose(SEGMENTS)
  transfer.halt(PORTS)
  before.checkPool()
  assert.equal(before.reasons()['no-neighbor'], 1)
})

test('a connection that leads to a network which stays is left behind', () => {
  const before = routed(1, 1000)
  const after = routed(2, 1000)
  before.site(A)
  before.site(B)
  after.site(A)
  const { connections } = before.loop.pipeline.router
  const flow = before.loop.pipeline.router.headers
  Object.assign(flow, { family: 4, protocol: 17, source0: 1, destination0: 2, sourcePort: 3, destinationPort: 4 })
  const reply = Object.assign(Object.create(flow), { source0: 2, destination0: 1, sourcePort: 4, destinationPort: 3 })
  assert.ok(connections.create(A.lan, B.lan, flow, reply, A.guests[0].port, 1000) >= 0)
  carry(before, after)
  assert.equal(after.arena.header[HEADER_CONNECTIONS_USED], 0)
  discard(before)
  assert.equal(before.arena.header[HEADER_CONNECTIONS_USED], 0)
})

test('full tables: what is worth little gives way, else it is refused and counted', () => {
  const small = { ...GEOMETRY, connectionCapacity: 256, mappingCapacity: 256, neighborCapacity: 256, fdbCapacity: 256 }
  const limits = { connectionLimit: 8192, portLimit: 8192 }
  const before = routed(1, 1000)
  before.site(A, routerOf(A, limits))
  before.teach(A)
  for (let i = 0; i < 300; i++) before.from(A, A.guests[0], outbound(4, { sourcePort: 3000 + i }))
  const { fdb } = before.loop.pipeline
  for (let i = 0; i < 200; i++) fdb.learn(fdb.place(i, 7, A.lan), i, 7, A.lan, A.guests[i & 3].port, 900 + (i >> 1))
  const after = routed(2, 1000, small)
  after.site(A, routerOf(A, limits))
  after.site(B, routerOf(B, limits))
  after.teach(B)
  const { header } = after.arena
  for (let i = 0; i < 200; i++) {
    const [guest] = B.guests
    const packet = outbound(4, { source: ip(guest.ip4), sourcePort: 4000 + i })
    after.from(B, guest, packet)
    const reply = replyTo({ ...packet, source: ip(B.outside4) })
    after.from(B, B.isp, reply)
    after.from(B, guest, packet)
  }
  const kept = knows(after, [B.lan, B.uplink]).connections.length
  carry(before, after)
  assert.equal(header[HEADER_CONNECTIONS_USED], 256)
  assert.equal(knows(after, [B.lan, B.uplink]).connections.length, kept, 'what is established gives way to nobody')
  assert.ok(header[HEADER_CONNECTIONS_EVICTED] > 200, 'of the unproven, the oldest')
  assert.ok(header[HEADER_MAPPINGS_USED] <= 256)
  assert.equal(header[HEADER_FDB_USED], header[HEADER_FDB_CAPACITY] >> 1)
  assert.ok(header[HEADER_FDB_EVICTED] > 0)
  assertWhole(after)
  after.checkPool()

  // all places are taken by what is established
  const full = routed(3, 1000, small)
  full.site(A, routerOf(A, limits))
  full.site(B, routerOf(B, limits))
  full.teach(B)
  for (let i = 0; i < 256; i++) {
    const [guest] = B.guests
    const packet = outbound(4, { source: ip(guest.ip4), sourcePort: 4000 + i })
    full.from(B, guest, packet)
    full.from(B, B.isp, replyTo({ ...packet, source: ip(B.outside4) }))
    full.from(B, guest, packet)
  }
  for (let i = 0; i < 200; i++) full.loop.pipeline.fdb.addStatic(i, 9, B.lan, B.guests[0].port)
  carry(before, full)
  assert.equal(knows(full).connections.length, 1, 'the port that has most makes room for one, which gives way itself')
  assert.equal(full.arena.header[HEADER_CONNECTIONS_EVICTED], 300)
  assert.ok(full.arena.header[HEADER_FDB_REFUSED] > 0)
  assertWhole(full)
})
