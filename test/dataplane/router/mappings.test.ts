/**
 * Mappings: the behaviours that RFC 5780 clients look for, limits and what gives way, reserved ports, zones, random
 * operations against a plain model, and a successor on the same arena.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Arena,
  type Geometry,
  HEADER_MAPPINGS_REFUSED,
  HEADER_MAPPINGS_USED,
  HEADER_NOW,
  HEADER_SECRET,
} from '../../../src/dataplane/layout.js'
import {
  CONN_MAPPING,
  CONN_STATUS,
  CONN_WORDS,
  Connections,
  WORTH_ENDING,
  WORTH_KEPT,
  WORTH_SHIFT,
  WORTH_UNPROVEN,
} from '../../../src/dataplane/router/connections.js'
import { Flow } from '../../../src/dataplane/router/flow.js'
import { ASKED_MAX, IDLE_SECONDS, Mappings, OWNER_LIMIT } from '../../../src/dataplane/router/mappings.js'
import { PortRange } from '../../../src/dataplane/router/port-range.js'
import {
  type CompiledForward,
  type CompiledNat,
  FILTER_ADDRESS,
  FILTER_ADDRESS_AND_PORT,
  FILTER_NONE,
} from '../../../src/dataplane/router/router-table.js'
import { GEOMETRY, newArena, randomFrom } from '../rig.js'

const OUTSIDE = 0xc6336401 | 0 // 198.51.100.1
const OUTSIDE6 = [0x20010db8, 0, 0, 1]
const ZONE = 3
const TCP = 6
const UDP = 17
const ICMP = 1
const GRE = 47

const nat = (firstPort = 1024, lastPort = 65535, ip = [OUTSIDE]): CompiledNat => ({ ip, firstPort, lastPort })

interface Ends {
  source?: number
  sourcePort?: number
  destination?: number
  destinationPort?: number
  protocol?: number
  family?: number
}

/** A packet of guest 10.0.0.`source`, or fd00::`source`, to 203.0.113.`destination`. */
function outbound({ source = 5, sourcePort = 5000, destination = 1, destinationPort = 53, ...more }: Ends): Flow {
  const flow = new Flow()
  flow.family = more.family ?? 4
  flow.protocol = more.protocol ?? UDP
  flow.sourcePort = sourcePort
  flow.destinationPort = destinationPort
  if (flow.family === 4) {
    flow.source0 = 0x0a000000 | source
    flow.destination0 = (0xcb007100 | 0) + destination
  } else {
    flow.source0 = 0xfd000000 | 0
    flow.source3 = source
    flow.destination0 = 0x20010db8
    flow.destination3 = destination
  }
  return flow
}

/** What its peer answers, to an outside port. */
function inbound(flow: Flow, port: number, outside = [OUTSIDE]): Flow {
  const back = new Flow()
  back.family = flow.family
  back.protocol = flow.protocol
  back.source0 = flow.destination0
  back.source1 = flow.destination1
  back.source2 = flow.destination2
  back.source3 = flow.destination3
  back.sourcePort = flow.destinationPort
  back.destination0 = outside[0] ?? 0
  back.destination1 = outside[1] ?? 0
  back.destination2 = outside[2] ?? 0
  back.destination3 = outside[3] ?? 0
  back.destinationPort = port
  return back
}

interface OpenOptions {
  owner?: number
  zone?: number
  outside?: number[]
  worth?: number
  mayShare?: boolean
}

const kept = { worth: WORTH_KEPT }

class Bench {
  readonly arena: Arena
  connections: Connections
  mappings: Mappings
  now = 10

  constructor(geometry: Partial<Geometry> = {}) {
    this.arena = newArena({ ...GEOMETRY, connectionCapacity: 4096, mappingCapacity: 4096, ...geometry })
    for (let i = 0; i < 4; i++) this.arena.header[HEADER_SECRET + i] = Math.imul(0x1234567, i + 3)
    this.connections = new Connections(this.arena, GEOMETRY.ports)
    this.mappings = new Mappings(this.arena, GEOMETRY.ports, this.connections)
    this.connections.mappings = this.mappings
    this.mappings.configure(ZONE, [nat()], [])
    this.seconds(10)
  }

  /** A new shard process on the same arena, whose time goes on. */
  succeed(): void {
    this.connections = new Connections(this.arena, GEOMETRY.ports)
    this.mappings = new Mappings(this.arena, GEOMETRY.ports, this.connections)
    this.connections.mappings = this.mappings
  }

  seconds(now: number): void {
    this.now = now
    this.arena.header[HEADER_NOW] = now
  }

  /** A connection through a mapping, as the router makes it: [mapping, connection], -1 if refused. */
  open(
    ends: Ends,
    { owner = 1, zone = ZONE, outside = [OUTSIDE], worth = WORTH_UNPROVEN, mayShare = false }: OpenOptions = {},
  ): [mapping: number, connection: number] {
    const flow = outbound(ends)
    const mapping = this.mappings.bind(zone, flow, owner, this.now, mayShare ? inbound(flow, 0) : null)
    if (mapping < 0) return [-1, -1]
    const reply = inbound(flow, this.mappings.outsidePort(mapping), outside)
    if (flow.protocol === ICMP) reply.sourcePort = reply.destinationPort
    const connection = this.connections.create(zone, zone, flow, reply, owner, this.now)
    assert.ok(connection >= 0)
    this.mappings.attach(mapping, connection)
    this.weigh(connection, worth)
    return [mapping, connection]
  }

  /** Says what a connection is worth. */
  weigh(connection: number, worth: number): void {
    const status = this.connections.words[connection * CONN_WORDS + CONN_STATUS]
    this.connections.see(connection, (status & ~(3 << WORTH_SHIFT)) | (worth << WORTH_SHIFT), this.now)
  }

  /** The outside port of a guest's port. */
  port(ends: Ends, options: OpenOptions = {}): number {
    const [mapping] = this.open(ends, options)
    return mapping < 0 ? -1 : this.mappings.outsidePort(mapping)
  }

  enters(ends: Ends, port: number, filtering: number): boolean {
    const flow = inbound(outbound(ends), port)
    const mapping = this.mappings.findOutside(ZONE, flow)
    return mapping >= 0 && this.mappings.mayEnter(mapping, filtering, flow)
  }

  used(): number {
    return this.arena.header[HEADER_MAPPINGS_USED]
  }

  refused(): number {
    return this.arena.header[HEADER_MAPPINGS_REFUSED]
  }
}

const forward = (more: Partial<CompiledForward>): CompiledForward => ({
  protocol: TCP,
  family: 4,
  ip: null,
  firstPort: 8080,
  lastPort: 8080,
  to: [0x0a000005],
  toPort: 80,
  ...more,
})

// ---- mapping ----

for (const protocol of [TCP, UDP, ICMP])
  test(`protocol ${protocol}: the same outside port whatever it talks to; others get others`, () => {
    const bench = new Bench()
    const port = bench.port({ protocol })
    assert.equal(port, 5000, 'the inside port is free')
    assert.equal(bench.port({ protocol, destination: 2 }), port)
    if (protocol !== ICMP) assert.equal(bench.port({ protocol, destinationPort: 54 }), port)
    assert.equal(bench.port({ protocol, destination: 3, destinationPort: 54 }), port)
    assert.equal(bench.used(), 1)
    const other = bench.port({ protocol, source: 6 })
    assert.notEqual(other, port)
    assert.equal(other % 2, 0)
    const mapping = bench.mappings.findOutside(ZONE, inbound(outbound({ protocol }), other))
    assert.equal(bench.mappings.insidePort(mapping), 5000)
    assert.equal(bench.mappings.insideWord(mapping, 0), 0x0a000006)
    assert.equal(bench.mappings.outsideWord(mapping, 0), OUTSIDE)
  })

test('protocols and zones do not share ports, outside addresses do not meet', () => {
  const bench = new Bench()
  bench.mappings.configure(4, [nat()], [])
  assert.equal(bench.port({ protocol: TCP }), 5000)
  assert.equal(bench.port({ protocol: UDP }), 5000)
  assert.equal(bench.port({}, { zone: 4 }), 5000)
  assert.equal(bench.used(), 3)
  const packet = inbound(outbound({}), 5000)
  const [here, there] = [bench.mappings.findOutside(ZONE, packet), bench.mappings.findOutside(4, packet)]
  assert.ok(here >= 0 && there >= 0 && here !== there)
  assert.equal(bench.mappings.findOutside(5, packet), -1)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 5000, [OUTSIDE + 1])), -1)
  assert.equal(bench.mappings.bind(7, outbound({}), 1, 0), -1, 'a zone without translation')
  assert.equal(bench.mappings.bind(ZONE, outbound({ family: 6 }), 1, 0), -1)
})

test('IPv6: all words of both addresses count', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(), nat(2000, 3000, OUTSIDE6)], [])
  const six = { family: 6, sourcePort: 2500 }
  const options = { outside: OUTSIDE6 }
  assert.equal(bench.port(six, options), 2500)
  assert.equal(bench.port({ ...six, destination: 9 }, options), 2500)
  const other = bench.port({ ...six, source: 77 }, options)
  assert.ok(other !== 2500 && other >= 2000 && other <= 3000)
  const found = bench.mappings.findOutside(ZONE, inbound(outbound(six), 2500, OUTSIDE6))
  assert.equal(bench.mappings.insideWord(found, 3), 5)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound(six), 2500, [0x20010db8, 0, 0, 2])), -1)
  assert.ok(
    bench.mappings.mayEnter(found, FILTER_ADDRESS, inbound(outbound({ ...six, destination: 9 }), 2500, OUTSIDE6)),
  )
  assert.ok(
    !bench.mappings.mayEnter(found, FILTER_ADDRESS, inbound(outbound({ ...six, destination: 8 }), 2500, OUTSIDE6)),
  )
})

test('protocols without ports to translate: one guest at a time', () => {
  const bench = new Bench()
  const gre = { protocol: GRE, sourcePort: 0, destinationPort: 0 }
  const [mapping, connection] = bench.open(gre)
  assert.equal(bench.mappings.outsidePort(mapping), 0)
  assert.deepEqual(bench.open({ ...gre, source: 6 }), [-1, -1])
  assert.equal(bench.open({ ...gre, destination: 2 })[0], mapping)
  assert.equal(bench.refused(), 1)
  bench.connections.remove(connection)
  assert.deepEqual(bench.open({ ...gre, source: 6 }), [-1, -1])
  bench.connections.flush(ZONE)
  assert.equal(bench.port({ ...gre, source: 6 }), 0, 'an idle one gives way')
})

test('protocols without ports: guests share what is not told apart by it, if the far ends differ', () => {
  const bench = new Bench()
  const gre = { protocol: GRE, sourcePort: 0, destinationPort: 0 }
  const sharing = { mayShare: true }
  assert.equal(bench.port(gre, sharing), 0)
  assert.equal(bench.port({ ...gre, source: 6 }, sharing), -1)
  assert.equal(bench.port({ ...gre, source: 6, destination: 2 }, sharing), 0)
  assert.equal(bench.port({ ...gre, source: 7, destination: 3 }, sharing), 0)
  assert.equal(bench.port({ ...gre, source: 6, destination: 3 }, sharing), -1)
  assert.equal(bench.used(), 3)
})

// ---- filtering ----

test('filtering: who may enter by a mapping that a guest has made', () => {
  const bench = new Bench()
  const port = bench.port({ destination: 1, destinationPort: 53 })
  const cases: [ends: Ends, modes: number[]][] = [
    [{ destination: 1, destinationPort: 53 }, [FILTER_ADDRESS_AND_PORT, FILTER_ADDRESS, FILTER_NONE]],
    [{ destination: 1, destinationPort: 99 }, [FILTER_ADDRESS, FILTER_NONE]],
    [{ destination: 2, destinationPort: 53 }, [FILTER_NONE]],
  ]
  for (const [ends, modes] of cases)
    for (const mode of [FILTER_ADDRESS_AND_PORT, FILTER_ADDRESS, FILTER_NONE])
      assert.equal(bench.enters(ends, port, mode), modes.includes(mode), `${JSON.stringify(ends)} ${mode}`)
  assert.equal(bench.enters({}, port + 2, FILTER_NONE), false)
  bench.port({ destination: 2 })
  assert.equal(bench.enters({ destination: 2, destinationPort: 1 }, port, FILTER_ADDRESS), true)
  bench.connections.flush(ZONE)
  assert.equal(bench.enters({}, port, FILTER_NONE), false, 'nobody enters by an idle one')
})

test('filtering: an outsider that has been let in lets in no others, ICMP never enters', () => {
  const bench = new Bench()
  const [mapping] = bench.open({ destination: 1 })
  const outsider = inbound(outbound({ destination: 9, destinationPort: 9 }), 5000)
  const reply = outbound({ destination: 9, destinationPort: 9 })
  const connection = bench.connections.create(ZONE, ZONE, outsider, reply, 2, bench.now)
  bench.mappings.attach(mapping, connection)
  assert.equal(bench.enters({ destination: 9, destinationPort: 8 }, 5000, FILTER_ADDRESS), false)
  assert.equal(bench.enters({ destination: 1, destinationPort: 8 }, 5000, FILTER_ADDRESS), true)
  const query = bench.port({ protocol: ICMP, sourcePort: 7, destinationPort: 7 })
  assert.equal(bench.enters({ protocol: ICMP }, query, FILTER_NONE), false)
})

test('filtering asks the newest connections only', () => {
  const bench = new Bench()
  for (let i = 0; i <= ASKED_MAX; i++) bench.open({ destination: i % 256, destinationPort: 100 + (i >> 8) })
  assert.equal(bench.enters({ destination: 1, destinationPort: 9 }, 5000, FILTER_ADDRESS), true)
  bench.open({ destination: 0, destinationPort: 300 })
  assert.equal(bench.enters({ destination: 1, destinationPort: 9 }, 5000, FILTER_ADDRESS), false)
})

// ---- ports ----

test('parity and side are kept while there is a port, then given up', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(1016, 1031)], [])
  const given = Array.from({ length: 16 }, (_, i) => bench.port({ source: i, sourcePort: 2001 }, kept))
  assert.deepEqual(
    given.slice(0, 4).sort((a, b) => a - b),
    [1025, 1027, 1029, 1031],
  )
  assert.deepEqual(
    given.slice(4, 8).sort((a, b) => a - b),
    [1024, 1026, 1028, 1030],
  )
  assert.deepEqual(given.slice(8, 12).map(String).sort(), ['1017', '1019', '1021', '1023'])
  assert.deepEqual(given.slice(12).map(String).sort(), ['1016', '1018', '1020', '1022'])
  assert.equal(bench.port({ source: 99 }), -1)
  assert.equal(bench.refused(), 1)
  const low = new Bench()
  low.mappings.configure(ZONE, [nat(1, 65535)], [])
  assert.equal(low.port({ sourcePort: 123 }), 123)
  for (let source = 10; source < 60; source++) {
    const port = low.port({ source, sourcePort: 123 })
    assert.ok(port % 2 === 1 && port < 1024)
  }
})

test('a forward has its ports for itself: by protocol, family and address', () => {
  const bench = new Bench()
  const forwards = [
    forward({ firstPort: 5000, lastPort: 5009 }),
    forward({ protocol: UDP, firstPort: 6000, lastPort: 6000, ip: [OUTSIDE] }),
    forward({ protocol: UDP, firstPort: 7000, lastPort: 7000, ip: [OUTSIDE + 1] }),
    forward({ protocol: UDP, family: 6, firstPort: 7001, lastPort: 7001 }),
  ]
  bench.mappings.configure(ZONE, [nat(5000, 7001)], forwards)
  assert.equal(bench.port({ sourcePort: 5000 }), 5000, 'UDP')
  assert.equal(bench.port({ sourcePort: 7000 }), 7000)
  assert.equal(bench.port({ sourcePort: 7001 }), 7001)
  assert.notEqual(bench.port({ sourcePort: 6000 }), 6000)
  for (let sourcePort = 4990; sourcePort < 5010; sourcePort++)
    assert.ok(bench.port({ protocol: TCP, sourcePort }) > 5009)
  bench.mappings.configure(ZONE, [nat(5000, 7001)], [])
  assert.equal(bench.port({ protocol: TCP, source: 9, sourcePort: 5004 }), 5004, 'removed live')
})

test('a forward added on a port in use waits for it; the port is nobody else’s afterwards', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(5000, 5003)], [])
  bench.port({ protocol: TCP, sourcePort: 5000 })
  bench.mappings.configure(ZONE, [nat(5000, 5003)], [forward({ firstPort: 5000, lastPort: 5000 })])
  assert.equal(bench.port({ protocol: TCP, sourcePort: 5000, destination: 4 }), 5000)
  bench.connections.flush(ZONE)
  bench.mappings.sweep(bench.now + IDLE_SECONDS)
  assert.equal(bench.used(), 0)
  const given = [0, 1, 2, 3].map((source) => bench.port({ protocol: TCP, source, sourcePort: 5000 }, kept))
  assert.deepEqual(
    given.sort((a, b) => a - b),
    [-1, 5001, 5002, 5003],
  )
})

test('chosen ports spread over the range', () => {
  const bench = new Bench({ mappingCapacity: 8192, connectionCapacity: 8192 })
  const buckets = new Array<number>(16).fill(0)
  for (let i = 0; i < 4000; i++) {
    const mapping = bench.mappings.bind(ZONE, outbound({ source: i, sourcePort: 40001 }), i % 7, 0)
    buckets[(bench.mappings.outsidePort(mapping) - 1024) >> 12]++
  }
  const chi = buckets.reduce((sum, n) => sum + (n - 250) ** 2 / 250, 0)
  assert.ok(chi < 60, `chi-square ${chi}: ${buckets}`)
})

test('a range gives each of its ports once, whatever its bounds', () => {
  const random = randomFrom(9)
  const numbers = { next: () => random(2 ** 32) | 0 }
  for (let round = 0; round < 150; round++) {
    const first = 1 + random(2200)
    const last = first + random(200)
    const low = first + random(100)
    const range = new PortRange(numbers)
    range.configure(first, last, [[low, low + 3]])
    const given = new Set<number>()
    for (let port = range.choose(random(65536)); port >= 0; port = range.choose(random(65536))) {
      assert.ok(port >= first && port <= last && (port < low || port > low + 3) && !given.has(port))
      range.take(port)
      given.add(port)
    }
    const reserved = Math.max(0, Math.min(last, low + 3) - low + 1)
    assert.equal(given.size, last - first + 1 - reserved)
  }
})

// ---- limits ----

test('an idle mapping keeps its port for 120 s, and has it when its guest comes back', () => {
  const bench = new Bench()
  const [, connection] = bench.open({})
  bench.connections.remove(connection)
  bench.mappings.sweep(bench.now + IDLE_SECONDS - 1)
  assert.equal(bench.used(), 1)
  assert.notEqual(bench.port({ source: 6 }), 5000)
  assert.equal(bench.port({ destination: 3 }), 5000)
  bench.mappings.sweep(bench.now + 1000)
  assert.equal(bench.used(), 2, 'in use')
  bench.connections.flush(ZONE)
  bench.mappings.sweep(bench.now + IDLE_SECONDS)
  assert.equal(bench.used(), 0)
})

test('a full range: idle mappings give way, then unproven, then ending ones, the oldest first; kept ones stay', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(3000, 3009)], [])
  const open = Array.from({ length: 10 }, (_, i) => bench.open({ source: i, sourcePort: 3000 + i }, kept))
  assert.equal(bench.port({ source: 20 }), -1)
  assert.equal(bench.refused(), 1)
  for (const [i, place] of [8, 5].entries()) {
    bench.seconds(20 + i)
    bench.weigh(open[place][1], WORTH_ENDING)
  }
  for (const [i, place] of [7, 2, 4].entries()) {
    bench.seconds(30 + i)
    bench.connections.remove(open[place][1])
  }
  bench.seconds(40)
  bench.weigh(open[3][1], WORTH_UNPROVEN)
  assert.deepEqual(
    [20, 21, 22, 23, 24, 25, 26].map((source) => bench.port({ source }, kept)),
    [3007, 3002, 3004, 3003, 3008, 3005, -1],
  )
  assert.equal(bench.used(), 10)
  assert.equal(bench.connections.find(ZONE, outbound({ source: 3, sourcePort: 3003 })), -1, 'it went with its mapping')
  assert.equal(bench.port({ protocol: TCP, source: 23, sourcePort: 3001 }), 3001, 'another protocol')
})

test('a mapping is worth what the best of its connections is', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(3000, 3001)], [])
  const [, better] = bench.open({ sourcePort: 3000 }, kept)
  for (let destination = 2; destination < 6; destination++) bench.open({ sourcePort: 3000, destination })
  const [, other] = bench.open({ sourcePort: 3001 }, kept)
  assert.equal(bench.port({ source: 9 }), -1)
  bench.weigh(better, WORTH_ENDING)
  bench.weigh(other, WORTH_ENDING)
  bench.succeed()
  bench.mappings.configure(ZONE, [nat(3000, 3001)], [])
  bench.weigh(other, WORTH_KEPT)
  assert.equal(bench.port({ source: 9 }, kept), 3000, 'with all its connections')
  assert.equal(bench.connections.heldBy(1), 2)
  assert.equal(bench.port({ source: 10 }), -1)
})

test('a mapping with many connections gives way in pieces', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(3000, 3000)], [])
  for (let i = 0; i < 200; i++) bench.open({ sourcePort: 3000, destination: i })
  const tries = Array.from({ length: 4 }, () => bench.port({ source: 9 }))
  assert.deepEqual(tries, [-1, -1, -1, 3000])
})

test('owners that hold a whole range lose their least used to those that have few', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(3000, 3099)], [])
  for (let i = 0; i < 100; i++) {
    bench.seconds(10 + i)
    bench.open({ source: i % 4, sourcePort: 3000 + i }, { owner: i % 4, worth: WORTH_KEPT })
  }
  // 3000 is used all the time
  bench.seconds(9000)
  bench.connections.seeAgain(bench.connections.find(ZONE, outbound({ source: 0, sourcePort: 3000 })), 1, 9000)
  const ports = Array.from({ length: 20 }, (_, i) =>
    bench.port({ source: 7, sourcePort: 9000 + i }, { owner: 7, ...kept }),
  )
  assert.ok(ports.every((port) => port >= 3000))
  assert.equal(bench.used(), 100)
  assert.deepEqual(
    [0, 1, 2, 3, 7].map((owner) => bench.connections.heldBy(owner)),
    [20, 20, 20, 20, 20],
  )
  assert.equal(bench.port({ source: 7, sourcePort: 9100 }, { owner: 7 }), -1, 'a share is no more than a share')
  assert.ok(bench.connections.find(ZONE, outbound({ source: 0, sourcePort: 3000 })) >= 0)
})

test('a full range: a port is shared where the far ends differ, and stays the same from then on', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(3000, 3003)], [])
  const sharing = { worth: WORTH_KEPT, mayShare: true }
  const first = Array.from({ length: 4 }, (_, i) => bench.open({ sourcePort: 3000 + i }, sharing))
  assert.equal(bench.port({ source: 6, sourcePort: 3001 }, sharing), -1, 'the far end is the same')
  const [shared, connection] = bench.open({ source: 6, sourcePort: 3001, destination: 2 }, sharing)
  assert.equal(bench.mappings.outsidePort(shared), 3001)
  assert.equal(bench.open({ source: 6, sourcePort: 3001, destination: 3 }, sharing)[0], shared)
  assert.equal(bench.port({ source: 6, sourcePort: 3001 }, sharing), -1, 'so is it here')
  assert.equal(bench.port({ sourcePort: 3001, destination: 2 }, sharing), -1, 'and for whom it was first')
  assert.equal(bench.refused(), 3)
  const third = bench.port({ source: 7, sourcePort: 9000, destination: 2 }, sharing)
  assert.ok([3000, 3002].includes(third), 'of the same parity, another far end')
  assert.equal(bench.used(), 6)

  bench.succeed()
  bench.mappings.configure(ZONE, [nat(3000, 3003)], [])
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 3001)), first[1][0], 'outsiders find the first')
  assert.equal(bench.port({ source: 6, sourcePort: 3001, destination: 4 }, sharing), 3001)
  bench.connections.remove(first[1][1])
  bench.mappings.sweep(bench.now + IDLE_SECONDS)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 3001)), -1)
  assert.equal(bench.port({ source: 8, sourcePort: 9001 }), -1, 'the port is taken as long as one has it')
  bench.connections.remove(connection)
  for (const destination of [3, 4])
    bench.connections.remove(bench.connections.find(ZONE, outbound({ source: 6, sourcePort: 3001, destination })) >> 1)
  bench.mappings.sweep(bench.now + IDLE_SECONDS)
  assert.equal(bench.port({ source: 8, sourcePort: 9001 }, kept), 3001)
})

test('a port is not shared while another gives way, nor one that a forward has', () => {
  const bench = new Bench()
  bench.mappings.configure(ZONE, [nat(3000, 3001)], [])
  const sharing = { worth: WORTH_KEPT, mayShare: true }
  bench.open({ sourcePort: 3000 }, sharing)
  bench.open({ sourcePort: 3001 })
  assert.equal(bench.port({ source: 6, destination: 2 }, sharing), 3001)
  assert.equal(bench.used(), 2)
  bench.mappings.configure(ZONE, [nat(3000, 3001)], [forward({ protocol: UDP, firstPort: 3000, lastPort: 3001 })])
  assert.equal(bench.port({ source: 7, destination: 3 }, sharing), -1)
})

test('half-open connections of eight owners leave a ninth all it asks for', () => {
  const bench = new Bench({ mappingCapacity: 2 ** 17, connectionCapacity: 2 ** 17 })
  bench.connections.configure(ZONE, new Array(9).fill(200), 1 << 20, 1 << 20)
  for (let i = 0; i < 8 * 8100; i++)
    bench.open({ protocol: TCP, source: i & 7, sourcePort: 1024 + (i >> 3) }, { owner: 8 + (i & 7) })
  for (let i = 0; i < 160; i++) {
    const [mapping, connection] = bench.open({ protocol: TCP, source: 20, sourcePort: 40000 + i }, { owner: 20 })
    assert.ok(mapping >= 0)
    for (let more = 0; more < 8; more++)
      bench.open({ protocol: TCP, source: more, sourcePort: 20000 + i }, { owner: 8 + more })
    bench.weigh(connection, WORTH_KEPT)
  }
  assert.equal(bench.connections.heldBy(20), 160)
})

test('an owner at its limit loses its own, of that protocol, in the order of their worth', () => {
  const bench = new Bench({ mappingCapacity: 32768, connectionCapacity: 32768 })
  bench.connections.configure(ZONE, new Array(9).fill(100), 1 << 20, 1 << 20)
  const bind = (source: number, sourcePort: number, owner: number, protocol = UDP): number =>
    bench.mappings.bind(ZONE, outbound({ source, sourcePort, protocol }), owner, bench.now)
  bind(9, 60000, 2)
  bench.open({ sourcePort: 2000 }, kept)
  bench.open({ sourcePort: 2001 })
  for (let i = 2; i < OWNER_LIMIT; i++) assert.ok(bind(5, 2000 + i, 1) >= 0)
  assert.equal(bench.used(), OWNER_LIMIT + 1)
  assert.ok(bind(5, 50000, 1) >= 0)
  assert.equal(bench.used(), OWNER_LIMIT + 1)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 2002)), -1, 'the oldest idle one')
  assert.ok(bench.mappings.findOutside(ZONE, inbound(outbound({}), 60000)) >= 0)
  for (let i = 3; i < OWNER_LIMIT; i++) bench.open({ sourcePort: 2000 + i }, kept)
  bench.open({ sourcePort: 50000 }, kept)
  assert.ok(bind(5, 50001, 1) >= 0)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 2001)), -1, 'the unproven one')
  bench.open({ sourcePort: 50001 }, kept)
  assert.equal(bind(5, 50002, 1), -1)
  assert.equal(bench.refused(), 1)
  assert.ok(bind(9, 60001, 2) >= 0)
  for (let i = 0; i < OWNER_LIMIT; i++) assert.ok(bind(5, 2000 + i, 1, TCP) >= 0, 'TCP has its own')
})

test('a full table: the owner with most idle mappings gives way', () => {
  const bench = new Bench({ mappingCapacity: 256 })
  const bind = (sourcePort: number, owner: number): number =>
    bench.mappings.bind(ZONE, outbound({ source: owner, sourcePort }), owner, bench.now)
  for (let i = 0; i < 56; i++) bind(2000 + i, 1)
  for (let i = 0; i < 200; i++) bind(3000 + i, 2)
  assert.equal(bench.used(), 256)
  for (let i = 0; i < 50; i++) assert.ok(bind(4000 + i, 3) >= 0)
  assert.equal(bench.used(), 256)
  for (let i = 0; i < 56; i++) assert.ok(bench.mappings.findOutside(ZONE, inbound(outbound({}), 2000 + i)) >= 0)
  for (let i = 0; i < 50; i++) assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 3000 + i)), -1)
})

test('another outside address: old mappings live on for their connections only; back again they are known', () => {
  const bench = new Bench()
  const [old] = bench.open({})
  bench.mappings.configure(ZONE, [nat(1024, 65535, [OUTSIDE + 1])], [])
  const [fresh] = bench.open({ destination: 2 }, { outside: [OUTSIDE + 1] })
  assert.notEqual(fresh, old)
  assert.equal(bench.mappings.outsidePort(fresh), 5000)
  assert.equal(bench.mappings.outsideWord(fresh, 0), OUTSIDE + 1)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 5000)), old)
  bench.mappings.configure(ZONE, [], [])
  assert.equal(bench.mappings.bind(ZONE, outbound({}), 1, 0), -1)
  bench.mappings.configure(ZONE, [nat()], [])
  assert.equal(bench.mappings.bind(ZONE, outbound({}), 1, 0), old)
  assert.notEqual(bench.port({ source: 6 }), 5000, 'its port is taken')
  bench.connections.flush(ZONE)
  bench.mappings.sweep(bench.now + IDLE_SECONDS)
  assert.equal(bench.used(), 0)
})

test('flush forgets the mappings of a zone alone, and their connections lose them', () => {
  const bench = new Bench()
  bench.mappings.configure(4, [nat()], [])
  const [, connection] = bench.open({})
  bench.open({ destination: 2 })
  bench.mappings.bind(ZONE, outbound({ source: 8 }), 1, 0)
  bench.open({}, { zone: 4 })
  assert.equal(bench.mappings.flush(ZONE), 2)
  assert.equal(bench.used(), 1)
  assert.equal(bench.arena.connections[connection * CONN_WORDS + CONN_MAPPING], 0)
  bench.connections.flush(ZONE)
  assert.equal(bench.port({ source: 30 }), 5000, 'its port is free')
})

// ---- at random, and a successor ----

/** Random opens, closes, sweeps, flushes and restarts against Maps. */
test('random operations agree with a plain model', () => {
  const random = randomFrom(21)
  const bench = new Bench({ mappingCapacity: 1024 })
  const zones = [3, 4]
  const forwards = [forward({ protocol: UDP, firstPort: 2000, lastPort: 2010 })]
  const configure = (): void => {
    for (const zone of zones) bench.mappings.configure(zone, [nat(2000, 2063)], forwards)
  }
  configure()
  const ports = new Map<string, number>() // inside key to outside port
  const open: { key: string; connection: number }[] = []
  const inUse = (key: string): boolean => open.some((one) => one.key === key)
  /** -1: idle */
  const worthOf = (key: string): number =>
    open.reduce((most, one) => {
      if (one.key !== key) return most
      return Math.max(most, (bench.connections.words[one.connection * CONN_WORDS + CONN_STATUS] >> WORTH_SHIFT) & 3)
    }, -1)
  for (let step = 0; step < 6000; step++) {
    const action = random(100)
    if (action < 55) {
      const zone = zones[random(2)]
      const protocol = random(2) === 0 ? TCP : UDP
      const ends = { protocol, source: random(6), sourcePort: 2000 + random(64), destination: random(200) }
      const flow = outbound(ends)
      const key = `${zone} ${protocol} ${ends.source} ${ends.sourcePort}`
      if (bench.connections.find(zone, flow) >= 0) continue
      const known = ports.get(key)
      const side = `${zone} ${protocol} `
      const there = [...ports.keys()].filter((one) => one.startsWith(side))
      const shareOf = (source: string): number => there.filter((one) => one.split(' ')[2] === source).length
      const best = new Map(there.map((one) => [one, worthOf(one)]))
      const [mapping, connection] = bench.open(ends, {
        zone,
        owner: ends.source + (zone - 3) * 6,
        worth: random(8) > 0 ? WORTH_KEPT : random(2),
      })
      if (mapping < 0) {
        assert.equal(known, undefined)
        assert.equal(there.length, protocol === UDP ? 64 - 11 : 64, 'refused though a port was free')
        assert.ok(
          [...best.values()].every((worth) => worth === WORTH_KEPT),
          'refused though one could give way',
        )
        const most = Math.max(...there.map((one) => shareOf(one.split(' ')[2])))
        assert.ok(most <= shareOf(String(ends.source)) + 1, 'refused though another has more')
        continue
      }
      const port = bench.mappings.outsidePort(mapping)
      assert.ok(port >= (protocol === UDP ? 2011 : 2000) && port <= 2063)
      if (known !== undefined) assert.equal(port, known, 'the same as before')
      for (const [other, taken] of ports)
        if (other !== key && other.startsWith(side) && taken === port) {
          const least = Math.min(...best.values())
          assert.ok((best.get(other) ?? -1) < WORTH_KEPT || least === WORTH_KEPT, 'a kept one gives way the last')
          if (least === WORTH_KEPT) assert.ok(shareOf(other.split(' ')[2]) > shareOf(String(ends.source)) + 1)
          for (const one of open.filter((each) => each.key === other)) open.splice(open.indexOf(one), 1)
          ports.delete(other)
        }
      ports.set(key, port)
      open.push({ key, connection })
    } else if (action < 97) {
      if (open.length === 0) continue
      const [{ connection }] = open.splice(random(open.length), 1)
      bench.connections.remove(connection)
    } else if (action < 98) {
      bench.seconds(bench.now + 300)
      bench.mappings.sweep(bench.now)
      for (const key of ports.keys()) if (!inUse(key)) ports.delete(key)
    } else if (action < 99) {
      bench.succeed()
      configure()
    } else configure()
    assert.equal(bench.used(), ports.size)
  }
  assert.ok(bench.refused() > 0 && ports.size > 50)
  bench.connections.flush(3)
  bench.connections.flush(4)
  bench.seconds(1 << 20)
  while (bench.mappings.sweep(bench.now));
  assert.equal(bench.used(), 0)
})

test('a successor knows every mapping and its connections; those without are idle', () => {
  const bench = new Bench()
  const [used, one] = bench.open({})
  const [, two] = bench.open({ destination: 2 })
  const [idle, three] = bench.open({ source: 6, sourcePort: 6000 })
  bench.connections.remove(three)
  bench.succeed()
  bench.mappings.configure(ZONE, [nat()], [])
  assert.equal(bench.used(), 2)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 5000)), used)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 6000)), idle)
  assert.notEqual(bench.port({ source: 7 }), 5000)
  assert.notEqual(bench.port({ source: 7, sourcePort: 6000 }), 6000)
  assert.equal(bench.enters({ destination: 2, destinationPort: 9 }, 5000, FILTER_ADDRESS), true)
  bench.mappings.sweep(bench.now + IDLE_SECONDS - 1)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 6000)), idle)
  bench.mappings.sweep(bench.now + IDLE_SECONDS)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 6000)), -1)
  bench.connections.remove(one)
  bench.mappings.sweep(1000)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 5000)), used)
  bench.connections.remove(two)
  bench.mappings.sweep(1000)
  assert.equal(bench.mappings.findOutside(ZONE, inbound(outbound({}), 5000)), -1)
})

test('a successor believes nothing that cannot be', () => {
  const random = randomFrom(8)
  for (let round = 0; round < 40; round++) {
    const bench = new Bench({ mappingCapacity: 256, connectionCapacity: 256 })
    for (let i = 0; i < 60; i++) bench.open({ source: i % 5, sourcePort: 3000 + i })
    const { mappings, connections } = bench.arena
    for (let i = 0; i < 200; i++) mappings[random(64 * 16)] = random(4) === 0 ? random(2 ** 32) : random(64)
    for (let i = 0; i < 40; i++) connections[random(60) * CONN_WORDS + CONN_MAPPING] = random(400) - 100
    bench.succeed()
    bench.mappings.configure(ZONE, [nat()], [])
    for (let i = 0; i < 60; i++) bench.open({ source: 10, sourcePort: 3000 + i, destination: 2 })
    for (let zone = 0; zone < 8; zone++) bench.connections.flush(zone)
    while (bench.mappings.sweep(1 << 20));
  }
})
