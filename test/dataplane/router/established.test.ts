/**
 * Packets of established connections, by the burst and by the long way (`reference/safety.md`: cold and warm).
 *
 * Two switches are given the same bursts: in one, the router takes every packet the long way and judges its ends
 * each time. After each burst they must have sent the same bytes by the same ports in the same order, and their arenas
 * must hold the same: connections, mappings, neighbors, drops, counters, header. Packets of all kinds, right ones and
 * mutated ones, of connections out, by a forward, by a hairpin and between zones; between bursts the configuration
 * changes, neighbors go and time passes.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  GSO_SHIFT,
  GSO_TCP4,
  GSO_UDP,
  HEADER_LENGTH,
  INGRESS,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  RECORD_SHIFT,
  SEGMENT_BYTES,
} from '../../../src/dataplane/layout.js'
import { PORT_GUARDED } from '../../../src/dataplane/port-table.js'
import { DROP, PATH_OUT, STATE_ESTABLISHED } from '../../../src/dataplane/router/firewall.js'
import type { CompiledRouter } from '../../../src/dataplane/router/router-table.js'
import type { SentFrame } from '../../../src/ports/memory.js'
import { randomFrom } from '../rig.js'
import { type Packet, build, hex, sumOf } from './packet-builder.js'
import { ACK, FIN, RST, SYN, errorAbout, forwardTo } from './router-exchange.js'
import {
  A,
  B,
  type Host,
  Routed,
  SERVER4,
  SERVER6,
  type Site,
  addRule,
  framed,
  ip,
  lanOf,
  openFirewall,
  routerOf,
  routesOf,
  uplinkOf,
  usualFirewall,
} from './router-rig.js'

type Random = (below: number) => number
const pick = <T>(random: Random, of: readonly T[]): T => of[random(of.length)]
const TCP = 6
const UDP = 17
const NEW_SEQUENCE = 1000

// ---- the two switches ----

class Pair {
  readonly warm = new Routed()
  readonly cold = new Routed()
  readonly both = [this.warm, this.cold]
  /** packets that the warm switch was given, and those of them that it took the long way */
  given = 0
  long = 0

  constructor() {
    const { pipeline } = this.warm.loop
    const warm = pipeline['walk']
    const burst = warm.routeBurst.bind(warm)
    const route = warm.route.bind(warm)
    warm.routeBurst = (packets, count) => {
      this.given += count
      burst(packets, count)
    }
    warm.route = (packet, segment) => {
      this.long++
      route(packet, segment)
    }
    const cold = this.cold.loop.pipeline['walk']
    cold['hasPassed'] = () => false
    const { ports, pool } = this.cold.loop.pipeline
    cold.routeBurst = (packets, count) => {
      for (let i = 0; i < count; i++)
        cold.route(packets[i], ports.network[pool.records[(packets[i] << RECORD_SHIFT) + INGRESS]])
    }
  }

  each(action: (weft: Routed) => void): void {
    for (const weft of this.both) action(weft)
  }

  give(at: Site, host: Host, packet: Uint8Array, fields: [number, number][] = [], padding = 0): void {
    const frame = framed(
      host === at.isp ? at.uplinkMac : at.gatewayMac,
      host.mac,
      packet,
      packet[0] >> 4 === 6 ? 0x86dd : 0x0800,
    )
    const padded = new Uint8Array(Math.max(14, frame.length + padding))
    padded.set(frame.subarray(0, padded.length))
    this.each((weft) => weft.give(host.port, padded, fields))
  }

  /** Both take what they were given. */
  run(where: string): SentFrame[] {
    const [warm, cold] = this.both.map((weft) => weft.run())
    const list = (sent: SentFrame[]): string[] => sent.map(({ port, bytes, flags }) => `${port} ${flags} ${hex(bytes)}`)
    assert.deepEqual(list(warm), list(cold), where)
    for (const section of [
      'connections',
      'connectionIndex',
      'mappings',
      'neighbors',
      'drops',
      'counters',
      'header',
    ] as const) {
      const [one, other] = this.both.map(({ arena }) => arena[section])
      if (Buffer.compare(bytesOf(one), bytesOf(other)) !== 0)
        assert.deepEqual([...one], [...other], `${where}: ${section}`)
    }
    return warm
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array | Float64Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)

// ---- connections ----

interface Flow {
  /** who began it, and the other end */
  ends: [{ site: Site; host: Host }, { site: Site; host: Host }]
  /** a packet from each end, as the router gets it */
  packets: [Packet, Packet]
  sequence: [number, number]
}

function ipOf(bytes: Uint8Array, at: number, family: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  return family === 4 ? [view.getInt32(at)] : [0, 4, 8, 12].map((offset) => view.getInt32(at + offset))
}

/** What the other end answers to a frame that it got. */
function answerTo(frame: Uint8Array, sent: Packet): Packet {
  const isIpv4 = sent.family === 4
  const l4 = isIpv4 ? 34 : 54
  return {
    family: sent.family,
    protocol: sent.protocol,
    source: ipOf(frame, isIpv4 ? 30 : 38, sent.family),
    destination: ipOf(frame, isIpv4 ? 26 : 22, sent.family),
    sourcePort: frame[l4 + 2] * 256 + frame[l4 + 3],
    destinationPort: frame[l4] * 256 + frame[l4 + 1],
  }
}

/** Begins a connection of a random kind and takes it through its first packets; null: the router lets it not. */
function begin(pair: Pair, random: Random): Flow | null {
  const family = random(5) === 0 ? 6 : 4
  const guest = pick(random, A.guests)
  const kind = random(6)
  const addressOf = (host: Host): number[] => ip(family === 4 ? host.ip4 : host.ip6)
  const server = ip(family === 4 ? SERVER4 : SERVER6)
  const own = ip(family === 4 ? A.outside4 : A.outside6)
  const isTcp = random(2) === 0
  const forwarded = isTcp ? 8080 : 6000
  const outside = { site: A, host: A.isp }
  let ends: Flow['ends'] = [{ site: A, host: guest }, outside]
  let source = addressOf(guest)
  let destination = server
  let destinationPort = 80
  if (kind === 3) {
    ends = [outside, { site: A, host: A.guests[0] }]
    source = server
    destination = own
    destinationPort = forwarded
  } else if (kind === 4) {
    ends = [
      { site: A, host: guest },
      { site: A, host: A.guests[0] },
    ]
    destination = own
    destinationPort = forwarded
  } else if (kind === 5) {
    const other = pick(random, B.guests)
    ends = [
      { site: A, host: guest },
      { site: B, host: other },
    ]
    destination = addressOf(other)
  }
  const sourcePort = 1024 + random(60000)
  const there: Packet = { family, protocol: isTcp ? TCP : UDP, source, destination, sourcePort, destinationPort }
  const flow: Flow = { ends, packets: [there, there], sequence: [NEW_SEQUENCE, NEW_SEQUENCE] }
  const hello: Packet = { ...there, flags: SYN, sequence: NEW_SEQUENCE - 1, window: 65535 }
  pair.give(ends[0].site, ends[0].host, build(hello))
  const [got] = pair.run('first packet')
  if (got === undefined || got.port !== ends[1].host.port || got.bytes.length < 42) return null
  flow.packets[1] = answerTo(got.bytes, there)
  for (const [end, flags] of [
    [1, SYN | ACK],
    [0, ACK],
    [1, ACK],
  ]) {
    const sequence = NEW_SEQUENCE - (flags === ACK ? 0 : 1)
    const packet: Packet = { ...flow.packets[end], flags, sequence, acknowledgment: NEW_SEQUENCE, window: 65535 }
    const { site, host } = ends[end]
    pair.give(site, host, build(packet))
    pair.run('handshake')
  }
  return flow
}

// ---- packets of all kinds ----

const setHeaderSum = (bytes: Uint8Array): void => {
  bytes[10] = bytes[11] = 0
  const sum = 0xffff - sumOf(bytes.subarray(0, Math.min((bytes[0] & 15) * 4, bytes.length)))
  bytes[10] = sum >> 8
  bytes[11] = sum & 255
}

function nextPacket(flow: Flow, end: number, random: Random): Packet {
  const length = random(4) === 0 ? random(1400) : random(20)
  const payload = Uint8Array.from({ length }, () => random(256))
  const packet: Packet = { ...flow.packets[end], payload, hopLimit: 64, id: random(65536), window: 65535, flags: ACK }
  packet.dontFragment = random(2) === 0
  packet.typeOfService = random(256)
  packet.sequence = flow.sequence[end]
  packet.acknowledgment = flow.sequence[1 - end]
  if (random(3) === 0) packet.tcpOptions = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]
  if (random(6) === 0 && packet.family === 4) packet.isBare = true
  flow.sequence[end] += length
  return packet
}

/** Gives a packet of a flow, or something like it, to both switches. */
function giveOne(pair: Pair, flow: Flow, end: number, random: Random): void {
  const packet = nextPacket(flow, end, random)
  const { protocol } = packet
  let { site, host } = flow.ends[end]
  const fields: [number, number][] = []
  let padding = 0
  let edit: (bytes: Uint8Array) => void = () => {}
  const l4 = packet.family === 4 ? 20 : 40
  const headers = l4 + (protocol === UDP ? 8 : 20 + (packet.tcpOptions?.length ?? 0))
  const finish = (start: number, offset: number): void => {
    packet.isUnfinished = true
    packet.isBare = false
    fields.push([CHECKSUM_START, start], [CHECKSUM_OFFSET, offset])
  }
  const place = protocol === UDP ? 6 : 16
  const kind = random(40)
  if (kind === 0) packet.hopLimit = random(3)
  else if (kind === 1) packet.flags = pick(random, [SYN, FIN | ACK, RST, SYN | ACK, 0, ACK | 0xc8, random(256)])
  else if (kind === 2) packet.sequence = random(0x7fffffff)
  else if (kind === 3) packet.acknowledgment = random(0x7fffffff)
  else if (kind === 4)
    packet.options = pick(random, [
      [1, 1, 1, 1],
      [7, 4, 4, 0],
      [0, 0, 0, 0],
      [131, 4, 4, 0],
      [1, 9, 9, 9],
    ])
  else if (kind === 5)
    packet.fragment = { id: random(9), from: random(3) * 8, to: 24 + random(3) * 8, more: random(2) === 0 }
  else if (kind === 6) packet.payload = new Uint8Array(1400 + random(200))
  else if (kind === 7) padding = random(30)
  else if (kind === 8) padding = -random(40)
  else if (kind < 13) {
    finish(14 + l4, place)
    fields.push([OFFLOAD, OFFLOAD_CHECKSUM])
  } else if (kind === 13) {
    finish(14 + l4 + random(30) - 10, random(20))
    fields.push([OFFLOAD, OFFLOAD_CHECKSUM])
  } else if (kind < 17) {
    packet.payload = new Uint8Array(2000 + random(3000))
    finish(14 + l4, place)
    fields.push([OFFLOAD, OFFLOAD_CHECKSUM | ((protocol === UDP ? GSO_UDP : GSO_TCP4) << GSO_SHIFT)])
    fields.push([SEGMENT_BYTES, random(1600)], [HEADER_LENGTH, 14 + headers + (random(9) === 0 ? 8 : 0)])
  } else if (kind === 17) {
    // from another place, with addresses as they are
    site = pick(random, [A, B])
    host = pick(random, [...site.guests, site.isp])
  } else if (kind === 18) packet.protocol = protocol === UDP ? TCP : UDP
  else if (kind === 19) [packet.source, packet.destination] = [packet.destination, packet.source]
  else if (kind < 23) {
    // one byte of the headers
    const [at, value, isSummed] = [random(headers), random(256), random(3) > 0]
    edit = (bytes) => {
      bytes[at] = value
      if (isSummed && packet.family === 4) setHeaderSum(bytes)
    }
  } else if (kind < 26) {
    // a length: of the packet, of the datagram, of the TCP header; a little wrong, or much
    const at = pick(random, packet.family === 4 ? [2, l4 + 4, l4 + 12] : [4, l4 + 4, l4 + 12])
    const by = random(3) === 0 ? random(65536) : random(9) - 4
    edit = (bytes) => {
      const value = bytes[at] * 256 + bytes[at + 1] + (at === l4 + 12 ? by << 10 : by)
      bytes[at] = value >> 8
      bytes[at + 1] = value & 255
      if (packet.family === 4) setHeaderSum(bytes)
    }
  } else if (kind === 26) {
    // a transport checksum that is nothing special, or a form of zero
    const value = pick(random, [0, 0xffff, random(65536)])
    edit = (bytes) => {
      bytes[l4 + place] = value >> 8
      bytes[l4 + place + 1] = value & 255
    }
  }
  if (random(60) === 0) return pair.give(site, host, build(errorAbout(packet, SERVER4, 3, 4, 1200)), fields)
  const bytes = build(packet)
  edit(bytes)
  pair.give(site, host, bytes, fields, padding)
}

// ---- what happens between bursts ----

/** A zone's router in one of several ways; most often the plain one. */
function variant(site: Site, random: Random): CompiledRouter {
  const other = site === A ? B : A
  const routes = [
    ...routesOf(site),
    { ip: ip(other.subnet4), prefix: 24, segment: other.lan, gateway: null },
    { ip: ip(other.subnet6), prefix: 64, segment: other.lan, gateway: null },
  ].sort((a, b) => b.prefix - a.prefix || a.ip.length - b.ip.length)
  const firewall = openFirewall()
  const plain: Partial<CompiledRouter> = {
    routes,
    firewall,
    nat: site === A ? routerOf(site).nat : [],
    forwards:
      site === A ? [forwardTo(4), forwardTo(4, { protocol: UDP, firstPort: 6000, lastPort: 6000 }), forwardTo(6)] : [],
  }
  switch (random(14)) {
    case 0: // every packet is judged
      addRule(firewall, DROP, [PATH_OUT], { states: STATE_ESTABLISHED, protocol: UDP, destinationPorts: [53, 53] })
      return routerOf(site, plain)
    case 1: // and most are refused
      addRule(firewall, DROP, [PATH_OUT], { states: STATE_ESTABLISHED, protocol: UDP })
      return routerOf(site, plain)
    case 2:
      return routerOf(site, { ...plain, isOpen: true })
    case 3:
      return routerOf(site, { ...plain, uplink: { ...uplinkOf(site), mtu: 600 + random(900) } })
    case 4:
      return routerOf(site, { ...plain, lan: { ...lanOf(site), mtu: 600 + random(900) } })
    case 5: // the server is the router's own address now
      return routerOf(site, {
        ...plain,
        uplink: { ...uplinkOf(site), addresses: [...uplinkOf(site).addresses, { ip: ip(SERVER4), prefix: 32 }] },
      })
    case 6: // nobody knows a way to it
      return routerOf(site, { ...plain, routes: routes.filter(({ gateway }) => gateway === null) })
    case 7: // it is on the LAN
      return routerOf(site, {
        ...plain,
        routes: [{ ip: ip(SERVER4), prefix: 32, segment: site.lan, gateway: null }, ...routes],
      })
    case 8:
      return routerOf(site, { ...plain, nat: [] })
    case 9:
      return routerOf(site, { ...plain, firewall: usualFirewall() })
    default:
      return routerOf(site, plain)
  }
}

function disturb(pair: Pair, random: Random): void {
  const site = pick(random, [A, A, B])
  const router = variant(site, random)
  const host = pick(random, [...site.guests, site.isp])
  const segment = host === site.isp ? site.uplink : site.lan
  const second = pair.warm.now + pick(random, [1, 1, 2, 31, 40, 130])
  const [kind, family, isMoved] = [Math.max(0, random(10) - 4), pick(random, [4, 6] as const), random(2) === 0]
  const [ip0, ip1 = 0, ip2 = 0, ip3 = 0] = ip(family === 4 ? host.ip4 : host.ip6)
  pair.each((weft) => {
    const { pipeline } = weft.loop
    const { neighbors } = pipeline
    if (kind === 0) pipeline.configureRouter(site.lan, router)
    else if (kind === 1) weft.seconds = second
    else if (kind === 2) pipeline.leave(segment, host.port)
    else if (kind === 3) neighbors.unbind(segment, family, ip0, ip1, ip2, ip3)
    else if (kind === 4)
      neighbors.bind(segment, family, ip0, ip1, ip2, ip3, isMoved ? 0x5555 : 0, 2, host.port, weft.now)
    else if (neighbors.find(segment, family, ip0, ip1, ip2, ip3) >= 0) {
      neighbors.learn(segment, family, ip0, ip1, ip2, ip3, 0x7777, isMoved ? 2 : 0x0202, host.port, weft.now)
      if (neighbors.releasedCount > 0) pipeline['gateway'].sendReleased()
    }
  })
  pair.run(`disturbance ${kind}`)
}

function settle(pair: Pair): void {
  pair.each((weft) => {
    for (const site of [A, B]) {
      const { neighbors } = weft.loop.pipeline
      for (const segment of [site.lan, site.uplink]) neighbors.flush(segment, -1)
      weft.loop.pipeline.configureRouter(
        site.lan,
        variant(site, () => 13),
      )
      weft.teach(site)
    }
  })
  pair.run('settled')
}

for (const [name, flags, seed] of [
  ['unguarded', 0, 1],
  ['unguarded, other packets', 0, 2],
  ['guarded', PORT_GUARDED, 3],
] as const)
  test(`warm and cold are the same, ${name}`, () => {
    const pair = new Pair()
    const random = randomFrom(seed)
    pair.each((weft) => {
      weft.seconds = 100
      for (const site of [A, B])
        weft.site(
          site,
          variant(site, () => 13),
          flags,
          { mtu: 9000, offloads: 15 },
        )
    })
    settle(pair)
    const flows: Flow[] = []
    for (let round = 0; round < 1500; round++) {
      if (round % 60 === 59) settle(pair)
      else if (random(12) === 0) disturb(pair, random)
      const fresh = flows.length < 12 || random(20) === 0 ? begin(pair, random) : null
      if (fresh !== null) flows[flows.length < 12 ? flows.length : random(12)] = fresh
      if (flows.length === 0) continue
      // runs of a flow, mixed with others
      let flow = pick(random, flows)
      let end = random(2)
      for (let left = random(16); left >= 0; left--) {
        if (random(4) === 0) flow = pick(random, flows)
        if (random(4) === 0) end = random(2)
        giveOne(pair, flow, end, random)
      }
      pair.run(`round ${round}`)
    }
    const short = pair.given - pair.long
    assert.ok(short > 3000 && pair.long > 2000, `${short} of ${pair.given} by the burst`)
    // what waits is given up
    for (let second = 0; second < 60; second++) {
      pair.each((weft) => (weft.seconds = weft.now + 1))
      pair.run('the end')
    }
    pair.each((weft) => weft.checkPool())
  })

test('a UDP checksum that becomes 0 is written as 0xffff, and one that is none stays 0', () => {
  const pair = new Pair()
  pair.each((weft) => weft.site(A))
  pair.each((weft) => weft.teach(A))
  const there: Packet = {
    family: 4,
    protocol: UDP,
    source: ip(A.guests[0].ip4),
    destination: ip(SERVER4),
    sourcePort: 5000,
    destinationPort: 53,
  }
  const give = (field?: number): number => {
    const bytes = build(there)
    if (field !== undefined) bytes.set([field >> 8, field & 255], 26)
    pair.give(A, A.guests[0], bytes)
    const [{ bytes: sent }] = pair.run(`field ${field}`)
    return sent[40] * 256 + sent[41]
  }
  give()
  pair.give(
    A,
    A.isp,
    build(answerTo(framed(A.isp.mac, A.uplinkMac, build({ ...there, source: ip(A.outside4) })), there)),
  )
  pair.run('answer')
  give()
  const before = pair.long
  // sums go round at 0xffff: the field that ends at it is as far from any other as their results are
  const field = (1 + 0xffff - give(1)) % 0xffff
  assert.equal(give(field), 0xffff)
  assert.equal(give(0), 0)
  assert.equal(pair.long, before, 'all by the burst')
})
