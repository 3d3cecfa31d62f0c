/**
 * Frames of all kinds, cut, mixed and mutated, through two zones that are not routed to each other, with guards, NAT,
 * forwards, services and reconfiguration on the way. Whatever comes in:
 *
 * - nothing throws, and every drop has a name;
 * - what a zone's ports sent leaves by that zone's ports alone;
 * - nobody but the router speaks with the router's MAC, and what it routes has a right IPv4 header;
 * - when all that waits has timed out, every slot is back in the pool, and the router works as before.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  HEADER_LENGTH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  SEGMENT_BYTES,
} from '../../../src/dataplane/layout.js'
import { PORT_GUARDED, PORT_ROUTES, PORT_SERVES_DHCP } from '../../../src/dataplane/port-table.js'
import { DROP, PATH_LOCAL, PATH_OUT, REJECT, STATE_ESTABLISHED } from '../../../src/dataplane/router/firewall.js'
import type { CompiledRouter } from '../../../src/dataplane/router/router-table.js'
import type { SentFrame } from '../../../src/ports/memory.js'
import { randomFrom } from '../rig.js'
import { type Packet, build, extension, hex, sumOf } from './packet-builder.js'
import {
  A,
  B,
  BROADCAST,
  type Host,
  NOBODY,
  Routed,
  SERVER4,
  SERVER6,
  type Site,
  addRule,
  arp,
  discovery,
  framed,
  ip,
  lanOf,
  openFirewall,
  routerOf,
  uplinkOf,
  usualFirewall,
} from './router-rig.js'

type Random = (below: number) => number
const pick = <T>(random: Random, of: readonly T[]): T => of[random(of.length)]

/** A zone's router in one of several ways. */
function variant(site: Site, random: Random): CompiledRouter {
  const firewall = random(3) === 0 ? openFirewall() : usualFirewall()
  if (random(3) === 0)
    addRule(firewall, pick(random, [DROP, REJECT]), [PATH_OUT, PATH_LOCAL], {
      protocol: 17,
      destinationPorts: [5, 2000],
    })
  if (random(6) === 0) addRule(firewall, DROP, [PATH_OUT], { states: STATE_ESTABLISHED, protocol: 1 })
  return routerOf(site, {
    lan: {
      ...lanOf(site),
      services: random(32),
      proxied: [ip(`10.0.${site === A ? 1 : 2}.99`)],
      mtu: pick(random, [1500, 1280]),
    },
    uplink: { ...uplinkOf(site), mtu: pick(random, [1500, 1300, 9000]) },
    filtering: random(3),
    isOpen: random(4) === 0,
    firewall,
    ...(random(4) === 0 ? { nat: [] } : {}),
    forwards: [
      { protocol: 6, family: 4, ip: null, firstPort: 80, lastPort: 90, to: ip(site.guests[0].ip4), toPort: 8080 },
      { protocol: 17, family: 6, ip: null, firstPort: 53, lastPort: 53, to: ip(site.guests[1].ip6), toPort: 53 },
      { protocol: 17, family: 4, ip: null, firstPort: 7, lastPort: 7, to: ip(site.guests[2].ip4), toPort: 9 },
    ],
    connectionLimit: pick(random, [16, 512]),
    portLimit: pick(random, [8, 256]),
  })
}

const SMALL_PORTS = [7, 53, 67, 68, 80, 85, 546, 547, 1024, 4000, 4001]

function addressIn(site: Site, random: Random, family: 4 | 6): string {
  const hosts = [...site.guests, site.isp].map((host) => (family === 4 ? host.ip4 : host.ip6))
  const own = family === 4 ? [site.gateway4, site.outside4, SERVER4] : [site.gateway6, site.outside6, SERVER6]
  const odd =
    family === 4
      ? [
          '0.0.0.0',
          '255.255.255.255',
          '224.0.0.1',
          '127.0.0.1',
          '10.0.1.255',
          '10.0.2.11',
          '192.0.2.77',
          `10.0.1.${random(256)}`,
        ]
      : [
          '::',
          'ff02::1',
          'ff02::1:2',
          '::1',
          'fe80::1',
          'fe80::55',
          '2001:db8:5::5',
          'fd00:0:0:2::11',
          `fd00:0:0:1::${random(256)}`,
        ]
  return pick(random, [...hosts, ...hosts, ...own, ...own, ...odd])
}

function packetIn(site: Site, random: Random, depth = 0): Uint8Array {
  const family = random(2) === 0 ? 4 : 6
  const icmp = family === 4 ? 1 : 58
  const protocol = pick(random, [6, 6, 17, 17, icmp, icmp, 47, 132, 33, 136, 0, 59])
  const packet: Packet = {
    family,
    source: ip(addressIn(site, random, family)),
    destination: ip(addressIn(site, random, family)),
    protocol,
    sourcePort: pick(random, SMALL_PORTS),
    destinationPort: pick(random, SMALL_PORTS),
    hopLimit: pick(random, [0, 1, 2, 64, 255]),
    flags: random(64),
    sequence: random(5) * 100,
    acknowledgment: random(5) * 100,
    dontFragment: random(2) === 0,
    id: random(4),
    payload: new Uint8Array(pick(random, [0, 1, 8, 40, 700, 1300, 1460, 1900])),
  }
  if (protocol === icmp) {
    packet.type = pick(
      random,
      family === 4 ? [0, 3, 8, 8, 11, 12, 13, 14, 5] : [1, 2, 3, 128, 128, 129, 133, 134, 135, 136, 137, 143],
    )
    packet.code = random(5)
    if (random(2) === 0) packet.identifier = random(3)
    if (random(2) === 0 && depth < 2) packet.payload = packetIn(site, random, depth + 1).subarray(0, 600)
  }
  if (protocol === 6 && random(3) === 0) packet.tcpOptions = [2, 4, 5, 180]
  if (family === 4 && random(8) === 0)
    packet.options = pick(random, [
      [7, 7, 4, 1, 2, 3, 4, 1],
      [131, 3, 4, 0],
      [1, 1, 1, 0],
    ])
  if (family === 6 && random(6) === 0)
    packet.extensions = pick(random, [[[0, extension(8)]], [[60, extension(16)]], [[43, extension(8)]]]) as [
      number,
      number[],
    ][]
  if (random(5) === 0) {
    const from = pick(random, [0, 0, 8, 400, 1280])
    packet.fragment = { id: random(4), from, to: from + pick(random, [8, 400, 408, 1280, 1400]), more: random(3) > 0 }
  }
  return build(packet)
}

function frameIn(site: Site, from: Host, random: Random): Uint8Array {
  const gateway = from === site.isp ? site.uplinkMac : site.gatewayMac
  const to = pick(random, [
    gateway,
    gateway,
    gateway,
    BROADCAST,
    '33:33:00:00:00:01',
    pick(random, site.guests).mac,
    '02:77:00:00:00:01',
  ])
  const mac =
    random(12) === 0 ? pick(random, [gateway, pick(random, site.guests).mac, '00:00:00:00:00:00', BROADCAST]) : from.mac
  switch (random(8)) {
    case 0:
      return framed(
        to,
        mac,
        arp(
          1 + random(3),
          random(6) === 0 ? NOBODY : mac,
          addressIn(site, random, 4),
          NOBODY,
          addressIn(site, random, 4),
        ),
        0x0806,
      )
    case 1: {
      const options = {
        flags: (random(8) << 29) | 0,
        mac: pick(random, [mac, BROADCAST, NOBODY]),
        hopLimit: pick(random, [255, 255, 64]),
      }
      const type = pick(random, [135, 136])
      return framed(
        to,
        mac,
        discovery(type, addressIn(site, random, 6), addressIn(site, random, 6), addressIn(site, random, 6), options),
      )
    }
    case 2:
      return framed(
        to,
        mac,
        Uint8Array.of(0xaa, 0xaa, 3, 0, 0, 0, 8, random(8), ...packetIn(site, random).subarray(0, 60)),
        60,
      )
    default: {
      const bytes = framed(to, mac, packetIn(site, random))
      // most come from the host that says so
      const source = bytes[12] === 8 ? ip(from.ip4) : ip(from.ip6)
      if (random(3) > 0) {
        const view = new DataView(bytes.buffer)
        source.forEach((word, i) => view.setInt32(14 + (source.length === 1 ? 12 : 8) + i * 4, word))
        if (source.length === 1) mend(bytes)
      }
      return bytes
    }
  }
}

/** Makes the IPv4 header checksum of a frame right, so that it gets further in. */
function mend(frame: Uint8Array): void {
  const end = 14 + (frame[14] & 15) * 4
  if (frame.length < 34 || frame[12] !== 8 || frame[13] !== 0 || end > frame.length) return
  frame[24] = frame[25] = 0
  const field = 0xffff - sumOf(frame.subarray(14, end))
  frame[24] = field >> 8
  frame[25] = field & 255
}

function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  let frame = bytes.slice()
  const times = random(4)
  for (let i = 0; i < times; i++)
    switch (random(5)) {
      case 0:
        frame = frame.slice(0, random(frame.length + 1))
        break
      case 1:
        frame = Uint8Array.from([...frame, ...new Uint8Array(random(60)).fill(random(256))])
        break
      case 2:
        if (frame.length > 12)
          frame = Uint8Array.from([...frame.subarray(0, 12), 0x81, 0, random(16), random(256), ...frame.subarray(12)])
        break
      default: {
        const first = random(3) === 0 ? 0 : 12
        if (frame.length > first) frame[first + random(Math.min(frame.length - first, 70))] = random(256)
      }
    }
  if (random(2) === 0) mend(frame)
  return frame
}

/** What a device could have said of a frame's unfinished work: within the frame, not always right. */
function offload(frame: Uint8Array, random: Random): [number, number][] {
  if (frame.length < 60 || random(6) > 0) return []
  const start = 14 + random(frame.length - 16)
  const l4 = frame[12] === 8 ? 34 : 54
  const isGso = random(2) === 0
  const place = random(2) === 0 && l4 + 18 <= frame.length ? l4 : start
  const offset = pick(
    random,
    [16, 6, 2, 0].filter((at) => place + at + 2 <= frame.length),
  )
  const fields: [number, number][] = [
    [OFFLOAD, OFFLOAD_CHECKSUM | (isGso ? pick(random, [1, 4, 5]) << 8 : 0)],
    [CHECKSUM_START, place],
    [CHECKSUM_OFFSET, offset],
  ]
  if (isGso) fields.push([SEGMENT_BYTES, 8 + random(1500)], [HEADER_LENGTH, Math.min(frame.length, l4 + 20)])
  return fields
}

/** Ports by which frames of a site may leave; the router's own while there is no router: nothing is behind it. */
const portsOf = (site: Site): Set<number> =>
  new Set([...site.guests.map(({ port }) => port), site.isp.port, site.gatewayPort, site.uplinkGatewayPort])

/** The MAC of the router on the segment of a port. */
function routerAt(port: number): string {
  const site = portsOf(A).has(port) ? A : B
  const mac = port === site.isp.port || port === site.uplinkGatewayPort ? site.uplinkMac : site.gatewayMac
  return mac.replaceAll(':', '')
}

/** @param gone sites that have no router just now: anybody may use its MAC */
function check(sent: readonly SentFrame[], allowed: Set<number>, gone: Set<Site>): void {
  for (const { port, bytes } of sent) {
    assert.ok(allowed.has(port), `a frame left by port ${port}: ${hex(bytes)}`)
    const isRouters = hex(bytes.subarray(6, 12)) === routerAt(port)
    if (!isRouters || gone.has(portsOf(A).has(port) ? A : B) || bytes[12] !== 8 || bytes[13] !== 0) continue
    const header = (bytes[14] & 15) * 4
    assert.ok(header >= 20 && 14 + header <= bytes.length)
    assert.equal(sumOf(bytes.subarray(14, 14 + header)), 0xffff, `a wrong header checksum: ${hex(bytes)}`)
  }
}

for (const seed of [1, 2, 3, 4, 5, 6])
  test(`whatever comes in, seed ${seed}`, () => {
    const random = randomFrom(seed)
    const weft = new Routed()
    const sites = [A, B]
    const gone = new Set<Site>()
    const guestFlags = pick(random, [0, PORT_GUARDED, PORT_GUARDED | PORT_ROUTES | PORT_SERVES_DHCP])
    for (const site of sites) {
      weft.site(site, variant(site, random), site === A ? PORT_GUARDED : guestFlags)
      weft.teach(site)
    }
    const all = new Set([...portsOf(A), ...portsOf(B)])
    let now = 1
    let came = 0
    for (let round = 0; round < 400; round++) {
      const site = pick(random, sites)
      const hosts = [...site.guests, site.isp]
      const count = 1 + random(random(8) === 0 ? 200 : 12)
      let last = frameIn(site, hosts[0], random)
      for (let i = 0; i < count; i++) {
        const host = pick(random, hosts)
        if (random(4) > 0) last = frameIn(site, host, random)
        const frame = random(2) === 0 ? last : mutate(last, random)
        weft.give(host.port, frame, offload(frame, random))
      }
      came += count
      const sent = weft.run()
      check(sent, portsOf(site), gone)
      weft.served()
      if (random(3) === 0) {
        weft.seconds = now += random(20) === 0 ? 40 : 1
        check(weft.run(), all, gone)
      }
      if (random(12) === 0) {
        const router = random(10) === 0 ? null : variant(site, random)
        weft.loop.pipeline.configureRouter(site.lan, router)
        if (router === null) gone.add(site)
        else gone.delete(site)
      }
      if (random(40) === 0) weft.loop.pipeline.leave(site.lan, pick(random, site.guests).port)
      if (random(60) === 0) weft.loop.pipeline.announce(site.lan, ip(site.gateway4)[0])
      if (random(30) === 0) {
        const [address] = ip(pick(random, site.guests).ip4)
        weft.loop.pipeline.neighbors.bind(site.lan, 4, address, 0, 0, 0, 0, 0, pick(random, site.guests).port, now)
      }
      check(weft.run(), all, gone)
    }
    assert.ok(came > 3000)
    for (let i = 0; i < 30; i++) {
      weft.seconds = ++now
      check(weft.run(), all, gone)
    }
    weft.drops() // each has a name
    weft.checkPool()
    // and it works as before
    for (const site of sites) {
      for (const guest of site.guests) weft.loop.pipeline.leave(site.lan, guest.port)
      weft.site(site)
      weft.loop.pipeline.leave(site.uplink, -1)
      weft.teach(site)
      const [guest] = site.guests
      const packet: Packet = {
        family: 4,
        source: ip(guest.ip4),
        destination: ip('192.0.2.200'),
        protocol: 17,
        sourcePort: 40000,
        destinationPort: 40000,
        dontFragment: true,
      }
      const [sent, ...more] = weft.from(site, guest, packet)
      assert.deepEqual(more, [])
      assert.equal(hex(sent.bytes.subarray(14)), hex(build({ ...packet, source: ip(site.outside4), hopLimit: 63 })))
    }
    weft.checkPool()
  })
