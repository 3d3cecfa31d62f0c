/**
 * The gateway as a host on its segments: ARP and neighbor discovery byte by byte, what is handed to services and how
 * much of it, what is flooded all the same, announcements, and that hostile answers teach it nothing.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OFFLOAD, OFFLOAD_CHECKSUM, CHECKSUM_START } from '../../../src/dataplane/layout.js'
import {
  SERVICE_DHCP,
  SERVICE_DHCP6,
  SERVICE_DHCP_CLIENT,
  SERVICE_DNS,
  SERVICE_ROUTER_ADVERTISEMENT,
} from '../../../src/dataplane/router/router-table.js'
import {
  PORT_ACCESS,
  PORT_GATEWAY,
  PORT_GUARDED,
  PORT_LINK,
  PORT_VLAN_AWARE,
} from '../../../src/dataplane/port-table.js'
import { access } from '../rig.js'
import { type Packet, build, hex } from './packet-builder.js'
import {
  A,
  BROADCAST,
  NOBODY,
  Routed,
  arp,
  assertSent,
  discovery,
  framed,
  ip,
  lanOf,
  macWords,
  routerOf,
  uplinkOf,
} from './router-rig.js'

const [G1, G2, G3] = A.guests
const EVERYBODY = [G2.port, G3.port, A.guests[3].port]
const ALL_SERVICES = SERVICE_DHCP | SERVICE_DHCP6 | SERVICE_DNS | SERVICE_ROUTER_ADVERTISEMENT

function gateway(name: string, body: (weft: Routed) => void, services = ALL_SERVICES, guestFlags = 0): void {
  test(name, () => {
    const weft = new Routed()
    weft.seconds = 50
    const router = routerOf(A, { lan: { ...lanOf(A), services, proxied: [ip('10.0.1.99'), ip('fd00:0:0:1::99')] } })
    weft.site(A, router, guestFlags)
    body(weft)
    weft.checkPool()
  })
}

const ports = (sent: { port: number }[]): number[] => sent.map(({ port }) => port).sort((a, b) => a - b)

// ---- ARP ----

gateway('an ARP request for the gateway is answered, and goes no further', (weft) => {
  const sent = weft.pass(G1.port, framed(BROADCAST, G1.mac, arp(1, G1.mac, G1.ip4, NOBODY, A.gateway4), 0x0806))
  assert.equal(sent.length, 1)
  assert.equal(sent[0].port, G1.port)
  const expected = framed(G1.mac, A.gatewayMac, arp(2, A.gatewayMac, A.gateway4, G1.mac, G1.ip4), 0x0806)
  assert.equal(hex(sent[0].bytes), hex(expected))
  assert.deepEqual(weft.drops(), {})
})

gateway('padding and an unfinished checksum of the request are not in the answer', (weft) => {
  const request = [...arp(1, G1.mac, G1.ip4, NOBODY, A.gateway4), ...new Array<number>(200).fill(0xcc)]
  const frame = framed(BROADCAST, G1.mac, Uint8Array.from(request), 0x0806)
  const sent = weft.pass(G1.port, frame, [
    [OFFLOAD, OFFLOAD_CHECKSUM],
    [CHECKSUM_START, 100],
  ])
  assert.equal(sent.length, 1)
  assert.equal(sent[0].bytes.length, 42)
  assert.equal(sent[0].flags, 0)
})

gateway('a unicast request and one for a proxied address are answered, one from nobody too', (weft) => {
  for (const [to, target, sender] of [
    [A.gatewayMac, A.gateway4, G1.ip4],
    [BROADCAST, '10.0.1.99', G1.ip4],
    [BROADCAST, A.gateway4, '0.0.0.0'],
  ]) {
    const sent = weft.pass(G1.port, framed(to, G1.mac, arp(1, G1.mac, sender, NOBODY, target), 0x0806))
    assert.equal(sent.length, 1)
    assert.equal(hex(sent[0].bytes.subarray(14)), hex(arp(2, A.gatewayMac, target, G1.mac, sender)))
  }
  assert.equal(weft.loop.pipeline.neighbors.find(A.lan, 4, 0, 0, 0, 0), -1)
})

gateway('a request for another is flooded, and the router is deaf to its outside address on the inside', (weft) => {
  for (const target of [G2.ip4, A.outside4, '10.0.1.200']) {
    const sent = weft.pass(G1.port, framed(BROADCAST, G1.mac, arp(1, G1.mac, G1.ip4, NOBODY, target), 0x0806))
    assert.deepEqual(ports(sent), EVERYBODY)
  }
  assert.equal(weft.loop.pipeline.neighbors.find(A.lan, 4, ip(G1.ip4)[0], 0, 0, 0), -1, 'and makes no neighbor')
})

gateway('replies to the router are taken in only from the link, and never for its own address', (weft) => {
  const { neighbors } = weft.loop.pipeline
  const tell = (address: string): void => {
    const sent = weft.pass(
      G1.port,
      framed(A.gatewayMac, G1.mac, arp(2, G1.mac, address, A.gatewayMac, A.gateway4), 0x0806),
    )
    assert.deepEqual(sent, [])
  }
  tell(G1.ip4)
  assert.notEqual(neighbors.find(A.lan, 4, ip(G1.ip4)[0], 0, 0, 0), -1)
  for (const address of ['192.0.2.9', A.gateway4, '10.0.1.99', A.outside4, A.isp.ip4]) {
    tell(address)
    assert.equal(neighbors.find(A.lan, 4, ip(address)[0], 0, 0, 0), -1, address)
  }
})

gateway('malformed ARP is dropped', (weft) => {
  const wrong = arp(1, G2.mac, G1.ip4, NOBODY, A.gateway4)
  assert.deepEqual(weft.pass(G1.port, framed(BROADCAST, G1.mac, wrong, 0x0806)), [])
  assert.deepEqual(weft.pass(G1.port, framed(BROADCAST, G1.mac, Uint8Array.of(0, 1, 8), 0x0806)), [])
  assert.deepEqual(
    weft.pass(G1.port, framed(A.gatewayMac, G1.mac, arp(2, A.gatewayMac, G1.ip4, NOBODY, A.gateway4), 0x0806)),
    [],
  )
  assert.deepEqual(weft.drops(), { [`${G1.port} bad-arp`]: 3 })
})

gateway('other types to its MAC are dropped, to groups they are flooded', (weft) => {
  assert.deepEqual(weft.pass(G1.port, framed(A.gatewayMac, G1.mac, new Uint8Array(46), 0x88b5)), [])
  assert.deepEqual(weft.drops(), { [`${G1.port} not-served`]: 1 })
  assert.deepEqual(ports(weft.pass(G1.port, framed(BROADCAST, G1.mac, new Uint8Array(46), 0x88b5))), EVERYBODY)
})

gateway("floods and unknown addresses never reach the gateway's own port", (weft) => {
  weft.pass(G1.port, framed(BROADCAST, G1.mac, new Uint8Array(46), 0x88b5))
  weft.pass(G1.port, framed('02:00:00:77:77:77', G1.mac, new Uint8Array(46), 0x88b5))
  weft.pass(G1.port, framed(A.gatewayMac, G1.mac, new Uint8Array(46), 0x88b5))
  assert.equal(weft.gotten(A.gatewayPort), 0)
})

// ---- neighbor discovery ----

const SNM_GATEWAY = '33:33:ff:00:00:01'
const answer = (to: string, target: string, flags: number): Packet => ({
  family: 6,
  source: ip(target),
  destination: ip(to),
  protocol: 58,
  type: 136,
  word: flags | 0,
  hopLimit: 255,
  payload: [
    ...ip(target).flatMap((w) => [w >>> 24, (w >>> 16) & 255, (w >>> 8) & 255, w & 255]),
    2,
    1,
    ...A.gatewayMac.split(':').map((octet) => Number.parseInt(octet, 16)),
  ],
})

gateway('a solicitation for the gateway is answered, and goes no further', (weft) => {
  for (const target of [A.gateway6, 'fe80::1', 'fd00:0:0:1::99']) {
    const group = discovery(135, G1.ip6, `ff02::1:ff00:1`, target, { mac: G1.mac })
    const sent = weft.pass(G1.port, framed(SNM_GATEWAY, G1.mac, group))
    assertSent(sent, G1.port, G1.mac, A.gatewayMac, answer(G1.ip6, target, 0xe0000000))
    const unicast = discovery(135, G1.ip6, target, target)
    assertSent(
      weft.pass(G1.port, framed(A.gatewayMac, G1.mac, unicast)),
      G1.port,
      G1.mac,
      A.gatewayMac,
      answer(G1.ip6, target, 0xe0000000),
    )
  }
  assert.deepEqual(weft.drops(), {})
  const [a, b, c, d] = ip(G1.ip6)
  assert.notEqual(weft.loop.pipeline.neighbors.find(A.lan, 6, a, b, c, d), -1)
})

gateway('who tests an address of the gateway is told by all nodes', (weft) => {
  const probe = discovery(135, '::', 'ff02::1:ff00:1', A.gateway6)
  const sent = weft.pass(G1.port, framed(SNM_GATEWAY, G1.mac, probe))
  assert.deepEqual(ports(sent), [G1.port, ...EVERYBODY])
  assertSent([sent[0]], sent[0].port, '33:33:00:00:00:01', A.gatewayMac, answer('ff02::1', A.gateway6, 0xa0000000))
})

gateway('a solicitation for another is flooded', (weft) => {
  const sent = weft.pass(
    G1.port,
    framed('33:33:ff:00:00:12', G1.mac, discovery(135, G1.ip6, 'ff02::1:ff00:12', G2.ip6, { mac: G1.mac })),
  )
  assert.deepEqual(ports(sent), EVERYBODY)
})

gateway('discovery that breaks the standard is dropped', (weft) => {
  const wrong: Uint8Array[] = [
    discovery(135, G1.ip6, A.gateway6, A.gateway6, { mac: G1.mac, hopLimit: 254 }),
    discovery(135, '::', A.gateway6, A.gateway6, { mac: G1.mac }),
    discovery(136, '::', A.gateway6, G1.ip6, { mac: G1.mac }),
    discovery(136, G1.ip6, A.gateway6, 'ff02::1', { mac: G1.mac }),
    discovery(136, G1.ip6, A.gateway6, G1.ip6, { mac: BROADCAST }),
    discovery(135, G1.ip6, A.gateway6, A.gateway6, { mac: '33:33:00:00:00:01' }),
    build({
      family: 6,
      source: ip(G1.ip6),
      destination: ip(A.gateway6),
      protocol: 58,
      type: 135,
      code: 1,
      hopLimit: 255,
      payload: new Array(16).fill(0),
    }),
    build({
      family: 6,
      source: ip(G1.ip6),
      destination: ip(A.gateway6),
      protocol: 58,
      type: 135,
      hopLimit: 255,
      payload: new Array(12).fill(0),
    }),
  ]
  const options = (rest: number[]): Uint8Array =>
    build({
      ...answer(A.gateway6, G1.ip6, 0),
      source: ip(G1.ip6),
      type: 135,
      payload: [...answer('::', A.gateway6, 0).payload!.toString().split(',').map(Number).slice(0, 16), ...rest],
    })
  wrong.push(options([1, 0, 2, 0, 0, 0, 0, 1]), options([1, 2, 2, 0, 0, 0, 0, 1]), options([1, 1, 2, 0, 0, 0, 0, 1, 0]))
  const corrupt = discovery(135, G1.ip6, A.gateway6, A.gateway6, { mac: G1.mac })
  corrupt[corrupt.length - 1] ^= 1
  wrong.push(corrupt)
  for (const [i, packet] of wrong.entries()) {
    assert.deepEqual(weft.pass(G1.port, framed(A.gatewayMac, G1.mac, packet)), [], `${i}`)
    assert.deepEqual(weft.drops(), { [`${G1.port} bad-nd`]: i + 1 })
  }
})

gateway('an unasked advertisement makes no neighbor, nor does one for the router or off the link', (weft) => {
  const { neighbors } = weft.loop.pipeline
  const used = (): number => weft.arena.header[64]
  for (const target of [G1.ip6, A.gateway6, '2001:db8:77::1']) {
    const packet = discovery(136, G1.ip6, A.gateway6, target, { mac: G1.mac, flags: 0x60000000 })
    assert.deepEqual(weft.pass(G1.port, framed(A.gatewayMac, G1.mac, packet)), [])
  }
  const far = discovery(135, '2001:db8:77::1', A.gateway6, A.gateway6, { mac: G1.mac })
  assert.equal(weft.pass(G1.port, framed(A.gatewayMac, G1.mac, far)).length, 1, 'it is answered')
  assert.equal(used(), 0)
  const [a, b, c, d] = ip('2001:db8:77::1')
  assert.equal(neighbors.find(A.lan, 6, a, b, c, d), -1)
})

gateway(
  'behind a guarded port an advertisement names its own MAC or none',
  (weft) => {
    const { neighbors } = weft.loop.pipeline
    const [a, b, c, d] = ip(G1.ip6)
    const hello = build({ family: 6, source: ip(G1.ip6), destination: ip(G2.ip6), protocol: 17 })
    weft.pass(G1.port, framed(G2.mac, G1.mac, hello))
    const entry = neighbors.find(A.lan, 6, a, b, c, d)
    assert.notEqual(entry, -1)
    const packet = discovery(136, G1.ip6, A.gateway6, G1.ip6, { mac: G2.mac, flags: 0x60000000 })
    weft.pass(G1.port, framed(A.gatewayMac, G1.mac, packet))
    const words = macWords(G1.mac)
    assert.equal(neighbors.entries[entry + 5], words.low)
    assert.equal(neighbors.entries[entry + 6], words.high)
  },
  ALL_SERVICES,
  PORT_GUARDED,
)

// ---- echo ----

gateway('echo requests are answered on the segment that they come from', (weft) => {
  for (const [source, own] of [
    [G1.ip4, A.gateway4],
    [G1.ip6, A.gateway6],
    ['fe80::11', 'fe80::1'],
    [G1.ip4, A.outside4],
  ]) {
    const family = own.includes(':') ? 6 : 4
    const [request, reply] = family === 4 ? [8, 0] : [128, 129]
    const packet: Packet = {
      family,
      source: ip(source),
      destination: ip(own),
      protocol: family === 4 ? 1 : 58,
      type: request,
      identifier: 9,
      payload: [1, 2, 3, 4, 5],
    }
    const expected: Packet = { ...packet, source: ip(own), destination: ip(source), type: reply, hopLimit: 64 }
    assertSent(weft.from(A, G1, { ...packet, hopLimit: 3 }), G1.port, G1.mac, A.gatewayMac, expected)
  }
})

// ---- services ----

const dhcp = (more: Partial<Packet> = {}): Packet => ({
  family: 4,
  source: [0],
  destination: [-1],
  protocol: 17,
  sourcePort: 68,
  destinationPort: 67,
  payload: Array.from({ length: 240 }, (_, i) => i & 255),
  ...more,
})
const dhcp6 = (more: Partial<Packet> = {}): Packet => ({
  family: 6,
  source: ip('fe80::11'),
  destination: ip('ff02::1:2'),
  protocol: 17,
  sourcePort: 546,
  destinationPort: 547,
  payload: [1, 2, 3, 4],
  ...more,
})
const solicitation = (to: string): Packet => ({
  family: 6,
  source: ip('fe80::11'),
  destination: ip(to),
  protocol: 58,
  type: 133,
  hopLimit: 255,
})

gateway('DHCP goes to the services whole, and to nobody else', (weft) => {
  const frames: [Uint8Array, number[]][] = [
    [framed(BROADCAST, G1.mac, build(dhcp())), []],
    [framed(A.gatewayMac, G1.mac, build(dhcp({ source: ip(G1.ip4), destination: ip(A.gateway4) }))), []],
    [framed(BROADCAST, G1.mac, build(dhcp({ options: [1, 1, 1, 1] }))), []],
    [framed('33:33:00:01:00:02', G1.mac, build(dhcp6())), []],
    [framed(A.gatewayMac, G1.mac, build(dhcp6({ destination: ip('fe80::1') }))), []],
    [framed(A.gatewayMac, G1.mac, build(solicitation('fe80::1'))), []],
    [framed('33:33:00:00:00:02', G1.mac, build(solicitation('ff02::2'))), EVERYBODY],
  ]
  for (const [i, [frame, flooded]] of frames.entries()) {
    assert.deepEqual(ports(weft.pass(G1.port, frame)), flooded, `${i}`)
    const served = weft.served()
    assert.equal(served.length, 1, `${i}`)
    assert.deepEqual(
      { ...served[0], bytes: hex(served[0].bytes) },
      { segment: A.lan, port: G1.port, bytes: hex(frame) },
    )
  }
  assert.deepEqual(weft.drops(), {})
})

gateway(
  'without the services all of it is flooded or refused',
  (weft) => {
    assert.deepEqual(ports(weft.pass(G1.port, framed(BROADCAST, G1.mac, build(dhcp())))), EVERYBODY)
    assert.deepEqual(ports(weft.pass(G1.port, framed('33:33:00:01:00:02', G1.mac, build(dhcp6())))), EVERYBODY)
    assert.deepEqual(
      ports(weft.pass(G1.port, framed('33:33:00:00:00:02', G1.mac, build(solicitation('ff02::2'))))),
      EVERYBODY,
    )
    const sent = weft.from(A, G1, dhcp({ source: ip(G1.ip4), destination: ip(A.gateway4) }))
    assert.equal(sent[0].bytes[14 + 20], 3, 'port unreachable')
    assert.deepEqual(weft.served(), [])
  },
  0,
)

gateway('DNS over UDP and TCP goes to the services', (weft) => {
  for (const [own, source] of [
    [A.gateway4, G1.ip4],
    [A.gateway6, G1.ip6],
  ]) {
    const family = own.includes(':') ? 6 : 4
    for (const protocol of [17, 6]) {
      const packet: Packet = {
        family,
        source: ip(source),
        destination: ip(own),
        protocol,
        sourcePort: 5000,
        destinationPort: 53,
        flags: 2,
      }
      assert.deepEqual(weft.from(A, G1, packet), [])
      assert.equal(hex(weft.served()[0].bytes.subarray(14)), hex(build(packet)))
    }
  }
  assert.deepEqual(weft.drops(), {})
})

gateway('what is for port 67 in a later fragment, or cut off, is not', (weft) => {
  const later = dhcp({ fragment: { id: 1, from: 8, to: 248, more: false } })
  weft.pass(G1.port, framed(BROADCAST, G1.mac, build(later)))
  const whole = build(dhcp())
  for (let length = 0; length < 28; length++)
    weft.pass(G1.port, framed(BROADCAST, G1.mac, whole.subarray(0, length), 0x0800))
  assert.deepEqual(weft.served(), [])
})

gateway('a port gets 64 frames a second served, and takes none from another port', (weft) => {
  for (let i = 0; i < 100; i++) weft.give(G1.port, framed(BROADCAST, G1.mac, build(dhcp())))
  weft.give(G2.port, framed(BROADCAST, G2.mac, build(dhcp())))
  weft.run()
  const served = weft.served()
  assert.equal(served.filter(({ port }) => port === G1.port).length, 64)
  assert.equal(served.filter(({ port }) => port === G2.port).length, 1)
  assert.deepEqual(weft.drops(), { [`${G1.port} service-busy`]: 36 })
  weft.seconds = 51
  weft.pass(G1.port, framed(BROADCAST, G1.mac, build(dhcp())))
  assert.equal(weft.served().length, 1)
})

gateway('a full ring is named, and the frame dropped', (weft) => {
  const query: Packet = {
    family: 4,
    source: ip(G1.ip4),
    destination: ip(A.gateway4),
    protocol: 17,
    destinationPort: 53,
    payload: new Array(1400).fill(1),
  }
  for (let i = 0; i < 400; i++) weft.give(G1.port, framed(A.gatewayMac, G1.mac, build(query)))
  weft.run()
  const { length } = weft.served()
  assert.ok(length > 100 && length < 400)
  assert.deepEqual(weft.drops(), { [`${G1.port} service-busy`]: 400 - length })
})

test('on the uplink the DHCP client gets its answers', () => {
  const weft = new Routed()
  weft.site(A, routerOf(A, { uplink: { ...uplinkOf(A), services: SERVICE_DHCP_CLIENT } }))
  const answerOf = (destination: number[]): Packet =>
    dhcp({ source: ip(A.isp.ip4), destination, sourcePort: 67, destinationPort: 68 })
  weft.pass(A.isp.port, framed(BROADCAST, A.isp.mac, build(answerOf([-1]))))
  weft.pass(A.isp.port, framed(A.uplinkMac, A.isp.mac, build(answerOf(ip(A.outside4)))))
  const served = weft.served()
  assert.deepEqual(
    served.map(({ segment, port }) => [segment, port]),
    [
      [A.uplink, A.isp.port],
      [A.uplink, A.isp.port],
    ],
  )
  weft.checkPool()
})

// ---- what the router says of itself ----

gateway('an announcement tells all hosts of the segment where an address is', (weft) => {
  weft.loop.pipeline.announce(A.lan, ip(A.gateway4)[0])
  const sent = weft.run()
  assert.deepEqual(ports(sent), [G1.port, ...EVERYBODY])
  for (const { bytes } of sent)
    assert.equal(
      hex(bytes),
      hex(framed(BROADCAST, A.gatewayMac, arp(1, A.gatewayMac, A.gateway4, NOBODY, A.gateway4), 0x0806)),
    )
})

gateway('the router asks for a host by ARP, and by discovery of its group', (weft) => {
  weft.from(A, A.isp, { family: 4, source: ip(A.isp.ip4), destination: ip(A.outside4), protocol: 1, type: 8 })
  const packet: Packet = {
    family: 4,
    source: ip(G1.ip4),
    destination: ip('192.0.2.1'),
    protocol: 17,
    sourcePort: 1,
    destinationPort: 2,
  }
  const asked = weft.from(A, G1, packet)
  assert.equal(asked.length, 1)
  assert.equal(asked[0].port, A.isp.port)
  assert.equal(
    hex(asked[0].bytes),
    hex(framed(BROADCAST, A.uplinkMac, arp(1, A.uplinkMac, A.outside4, NOBODY, A.isp.ip4), 0x0806)),
  )
  const asked6 = weft.from(A, G1, {
    family: 6,
    source: ip(G1.ip6),
    destination: ip('2001:db8:ffff::1'),
    protocol: 17,
    sourcePort: 1,
    destinationPort: 2,
  })
  assert.equal(asked6.length, 1)
  const expected = discovery(135, A.outside6, 'ff02::1:ff00:fe', A.isp.ip6, { mac: A.uplinkMac })
  assert.equal(hex(asked6[0].bytes), hex(framed('33:33:ff:00:00:fe', A.uplinkMac, expected)))
  weft.wait(10)
})

gateway('a known host is asked at its own address, not all', (weft) => {
  weft.teach(A)
  weft.seconds = 90
  const packet: Packet = {
    family: 4,
    source: ip(G1.ip4),
    destination: ip('192.0.2.1'),
    protocol: 17,
    sourcePort: 1,
    destinationPort: 2,
  }
  const sent = [...weft.from(A, G1, packet), ...weft.wait(1)]
  const question = sent.find(({ bytes }) => bytes[12] === 8 && bytes[13] === 6)
  assert.ok(question)
  assert.equal(
    hex(question.bytes),
    hex(framed(A.isp.mac, A.uplinkMac, arp(1, A.uplinkMac, A.outside4, NOBODY, A.isp.ip4), 0x0806)),
  )
  weft.from(A, G1, { ...packet, family: 6, source: ip(G1.ip6), destination: ip('2001:db8:ffff::1') })
  const sent6 = weft.wait(1).find(({ bytes }) => bytes[12] === 0x86)
  assert.ok(sent6)
  assert.equal(
    hex(sent6.bytes),
    hex(framed(A.isp.mac, A.uplinkMac, discovery(135, A.outside6, A.isp.ip6, A.isp.ip6, { mac: A.uplinkMac }))),
  )
  weft.wait(5)
})

test('in a VLAN the gateway serves that VLAN alone', () => {
  const weft = new Routed()
  weft.site(A, null)
  const guests = [access(G1.port, 7), access(G2.port, 8), access(G3.port, 7)]
  weft.ports(
    [...guests, access(A.gatewayPort, 7, { flags: PORT_LINK | PORT_GATEWAY | PORT_VLAN_AWARE | PORT_ACCESS })],
    A.lan,
  )
  const { low, high } = macWords(A.gatewayMac)
  weft.loop.pipeline.fdb.addStatic(low, high | (7 << 16), A.lan, A.gatewayPort)
  weft.loop.pipeline.configureRouter(A.lan, routerOf(A, { lan: { ...lanOf(A), vid: 7 } }))
  const ask = (host: typeof G1) =>
    weft.pass(host.port, framed(BROADCAST, host.mac, arp(1, host.mac, host.ip4, NOBODY, A.gateway4), 0x0806))
  const sent = ask(G1)
  assert.equal(sent.length, 1)
  assert.equal(
    hex(sent[0].bytes),
    hex(framed(G1.mac, A.gatewayMac, arp(2, A.gatewayMac, A.gateway4, G1.mac, G1.ip4), 0x0806)),
  )
  assert.deepEqual(ask(G2), [])
  assert.deepEqual(weft.pass(G2.port, framed(A.gatewayMac, G2.mac, new Uint8Array(46), 0x0800)), [])
  weft.checkPool()
})

gateway('more answers than the queues hold in one burst lose no slot', (weft) => {
  // a burst in which everything that waits is answered, and then as much again
  weft.teach(A)
  const host = (i: number): string => `10.0.1.${100 + i}`
  const send = (i: number): void => {
    const packet: Packet = {
      family: 4,
      source: ip(A.isp.ip4),
      destination: ip(host(i)),
      protocol: 17,
      sourcePort: 9,
      destinationPort: 9,
    }
    weft.give(A.isp.port, framed(A.uplinkMac, A.isp.mac, build(packet)))
  }
  const router = routerOf(A, { isOpen: true, nat: [] })
  router.firewall.policies.fill(1)
  weft.loop.pipeline.configureRouter(A.lan, router)
  for (let i = 0; i < 64; i++) for (let n = 0; n < 3; n++) send(i)
  weft.run()
  const tell = (i: number): void =>
    weft.give(G1.port, framed(A.gatewayMac, G1.mac, arp(2, G1.mac, host(i), A.gatewayMac, A.gateway4), 0x0806))
  for (let i = 0; i < 64; i++) tell(i)
  for (let i = 64; i < 110; i++) for (let n = 0; n < 3; n++) send(i)
  for (let i = 64; i < 110; i++) tell(i)
  weft.run()
  weft.wait(20)
})
