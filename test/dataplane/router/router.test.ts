/**
 * The router through the whole pipeline: addresses that cannot be, routes between guests and between networks, the
 * firewall's verdicts, open mode, limits.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  HEADER_CONNECTIONS_EVICTED,
  HEADER_CONNECTIONS_USED,
  HEADER_MAPPINGS_USED,
} from '../../../src/dataplane/layout.js'
import {
  ACCEPT,
  DROP,
  PATH_GATEWAY,
  PATH_IN,
  PATH_LOCAL,
  PATH_OUT,
  PATH_SELF,
  REJECT,
  STATE_ESTABLISHED,
  STATE_INVALID,
} from '../../../src/dataplane/router/firewall.js'
import { PORT_ISOLATED } from '../../../src/dataplane/port-table.js'
import type { CompiledRoute, CompiledRouter } from '../../../src/dataplane/router/router-table.js'
import { type Packet, build } from './packet-builder.js'
import {
  ACK,
  FAMILIES,
  G1,
  G2,
  G3,
  RST,
  SYN,
  addressOf,
  errorAbout,
  gateway,
  hop,
  icmp,
  outbound,
  outside,
  replyTo,
  server,
  toGuest,
  toIsp,
} from './router-exchange.js'
import {
  A,
  B,
  Routed,
  SERVER4,
  SERVER6,
  addRule,
  assertSent,
  ip,
  lanOf,
  openFirewall,
  routerOf,
  routesOf,
  routing,
  uplinkOf,
  usualFirewall,
} from './router-rig.js'

test('isolated ports do not meet by way of the router', () => {
  const weft = new Routed()
  weft.site(A, routerOf(A), PORT_ISOLATED)
  weft.teach(A)
  for (const family of FAMILIES) {
    const packet = outbound(family, { destination: ip(addressOf(G2, family)) })
    // the second and third would be taken by the short way
    for (let i = 0; i < 3; i++) assert.deepEqual(weft.from(A, G1, packet), [], `IPv${family}`)
    assert.deepEqual(weft.from(A, G2, replyTo(packet)), [])
    const other = outbound(4, { sourcePort: 50000 + family })
    toIsp(weft.from(A, G1, other), hop(other, { source: ip(A.outside4) }))
  }
  assert.deepEqual(weft.reasons(), { isolated: 8 })
  weft.checkPool()
})

test('an own address that is link-local opens no way for forged sources', () => {
  const weft = new Routed()
  const uplink = uplinkOf(A)
  uplink.addresses.push({ ip: ip('169.254.10.1'), prefix: 16 })
  weft.site(A, routerOf(A, { uplink }))
  weft.teach(A)
  const forged: [string, string][] = [
    [G1.ip4, '169.254.10.1'],
    [A.gateway4, '169.254.10.1'],
    [G1.ip6, 'fe80::2'],
    [A.gateway6, 'fe80::2'],
  ]
  for (const [source, destination] of forged) {
    const family = source.includes(':') ? 6 : 4
    const packet = outbound(family, { source: ip(source), destination: ip(destination) })
    assert.deepEqual(weft.from(A, A.isp, packet), [], source)
  }
  assert.deepEqual(weft.reasons(), { martian: 4 })
  weft.checkPool()
})

routing('IPv4 link-local addresses stay on their link (RFC 3927 section 2.7)', (weft) => {
  assert.deepEqual(weft.from(A, G1, outbound(4, { source: ip('169.254.7.7') })), [])
  assert.deepEqual(weft.from(A, G1, outbound(4, { destination: ip('169.254.169.254') })), [])
  assert.deepEqual(weft.reasons(), { 'not-routed': 2 })
})

// ---- addresses that cannot be ----

routing('martians and spoofed sources go nowhere', (weft) => {
  const sources = ['0.0.0.0', '0.1.2.3', '127.0.0.1', '224.0.0.5', '240.0.0.1', '255.255.255.255', A.gateway4]
  const foreign = ['192.0.2.7', '10.0.2.11', A.isp.ip4, A.outside4]
  for (const source of [
    ...sources,
    ...foreign,
    '::1',
    '::',
    'ff02::5',
    '::ffff:a00:10b',
    '2001:db8:5::1',
    A.gateway6,
    SERVER6,
  ]) {
    const family = source.includes(':') ? 6 : 4
    assert.deepEqual(weft.from(A, G1, outbound(family, { source: ip(source) })), [], source)
  }
  assert.deepEqual(weft.reasons(), { martian: 18 })
})

routing('martian destinations and groups are not routed', (weft) => {
  for (const destination of ['0.0.0.1', '127.0.0.1', '240.0.0.1', '::1', '::ffff:a00:10c'])
    assert.deepEqual(
      weft.from(A, G1, outbound(destination.includes(':') ? 6 : 4, { destination: ip(destination) })),
      [],
      destination,
    )
  assert.deepEqual(weft.reasons(), { martian: 5 })
  for (const destination of [
    '224.0.0.251',
    '239.1.1.1',
    '255.255.255.255',
    '10.0.1.255',
    '10.0.1.0',
    'ff02::1',
    'ff0e::5',
  ])
    assert.deepEqual(
      weft.from(A, G1, outbound(destination.includes(':') ? 6 : 4, { destination: ip(destination) })),
      [],
      destination,
    )
  for (const [source, destination] of [
    ['fe80::11', SERVER6],
    [G1.ip6, 'fe80::77'],
    ['fe80::11', G2.ip6],
  ])
    assert.deepEqual(
      weft.from(A, G1, outbound(6, { source: ip(source), destination: ip(destination) })),
      [],
      destination,
    )
  assert.deepEqual(weft.reasons(), { martian: 5, 'not-routed': 10 })
})

const viaGuest: CompiledRoute = { ip: ip('10.99.0.0'), prefix: 16, segment: A.lan, gateway: ip(G2.ip4) }
const spoofable = { nat: [], firewall: openFirewall(), routes: [viaGuest, ...routesOf(A)] }
routing(
  'from outside nobody is a guest, a network behind a guest, or the router',
  (weft) => {
    for (const source of [G1.ip4, '10.99.1.2', A.outside4, A.gateway4, G1.ip6, A.outside6, A.gateway6]) {
      const family = source.includes(':') ? 6 : 4
      const packet: Packet = { ...outbound(family), source: ip(source), destination: ip(addressOf(G3, family)) }
      assert.deepEqual(weft.from(A, A.isp, packet), [], source)
    }
    assert.deepEqual(weft.reasons(), { martian: 7 })
  },
  spoofable,
)

routing(
  'a network behind a guest may send, and is reached',
  (weft) => {
    const packet = outbound(4, { source: ip('10.99.1.2') })
    toIsp(weft.from(A, G2, packet), hop(packet))
    toGuest(weft.from(A, A.isp, replyTo(packet)), hop(replyTo(packet)), G2)
    const direct = outbound(4, { destination: ip('10.99.7.7') })
    toGuest(weft.from(A, G1, direct), hop(direct), G2)
  },
  spoofable,
)

routing('nobody asks for a lease of anybody but the router', (weft) => {
  for (const [destination, protocol] of [
    [SERVER4, 17],
    [SERVER4, 6],
    ['127.0.0.1', 17],
    [G2.ip4, 17],
  ] as const) {
    const packet = outbound(4, { source: [0], destination: ip(destination), protocol, flags: SYN, destinationPort: 67 })
    assert.deepEqual(weft.from(A, G1, packet), [], destination)
  }
  assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
})

routing('the uplink is no way back to itself', (weft) => {
  const packet: Packet = { ...outbound(4), source: ip('203.0.113.5') }
  const sent = weft.from(A, A.isp, packet)
  assert.ok(sent.every(({ port, bytes }) => port === A.isp.port && bytes[14 + 9] === 1))
  assert.deepEqual(weft.reasons(), { 'no-route': 1 })
})

routing('what no route leads to is refused', (weft) => {
  weft.loop.pipeline.configureRouter(A.lan, routerOf(A, { routes: routesOf(A).slice(0, 4) }))
  for (const family of FAMILIES) {
    const packet = outbound(family)
    toGuest(weft.from(A, G1, packet), errorAbout(packet, gateway(family), family === 4 ? 3 : 1, 0))
  }
  assert.deepEqual(weft.reasons(), { 'no-route': 2 })
})

routing('broken headers are named', (weft) => {
  const sum = build(outbound(4))
  sum[10] ^= 1
  weft.from(A, G1, sum)
  weft.from(A, G1, build(outbound(4)).subarray(0, 27))
  weft.from(A, G1, build(outbound(4, { protocol: 6 })).subarray(0, 39))
  weft.from(A, G1, outbound(4, { options: [131, 7, 4, 1, 2, 3, 4, 0] }))
  weft.from(A, G1, outbound(6, { extensions: [[43, [0, 0, 1, 0, 0, 0, 0]]] }))
  assert.deepEqual(weft.reasons(), { 'bad-ip-checksum': 1, 'bad-ip': 2, 'ip-options': 2 })
})

// ---- between guests, and between networks ----

routing('the router routes between guests that ask it to', (weft) => {
  for (const family of FAMILIES) {
    const packet = outbound(family, { destination: ip(addressOf(G2, family)) })
    toGuest(weft.from(A, G1, packet), hop(packet), G2)
    toGuest(weft.from(A, G2, replyTo(packet)), hop(replyTo(packet)))
  }
})

const toB: CompiledRoute[] = [
  { ip: ip(B.subnet6), prefix: 64, segment: B.lan, gateway: null },
  { ip: ip(B.subnet4), prefix: 24, segment: B.lan, gateway: null },
]
const toA: CompiledRoute[] = [
  { ip: ip(A.subnet6), prefix: 64, segment: A.lan, gateway: null },
  { ip: ip(A.subnet4), prefix: 24, segment: A.lan, gateway: null },
]

function peering(
  name: string,
  of: Partial<CompiledRouter>,
  and: Partial<CompiledRouter>,
  body: (weft: Routed) => void,
): void {
  test(name, () => {
    const weft = new Routed()
    weft.site(A, routerOf(A, of))
    weft.site(B, routerOf(B, and))
    weft.teach(A)
    weft.teach(B)
    body(weft)
    weft.checkPool()
  })
}

const inviting = usualFirewall()
inviting.policies[PATH_IN] = ACCEPT
const peersOfB = { routes: [...toA, ...routesOf(B)], firewall: inviting }
const peersOfA = { routes: [...toB, ...routesOf(A)] }

peering('two networks that are routed to each other, each by its own rules', peersOfA, peersOfB, (weft) => {
  const [H1] = B.guests
  for (const family of FAMILIES) {
    const packet = outbound(family, { destination: ip(addressOf(H1, family)) })
    assertSent(weft.from(A, G1, packet), H1.port, H1.mac, B.gatewayMac, hop(packet))
    assertSent(weft.from(B, H1, replyTo(packet)), G1.port, G1.mac, A.gatewayMac, hop(replyTo(packet)))
    const news = replyTo(packet, { sourcePort: 7 })
    assert.deepEqual(weft.from(B, H1, news), [], 'the other way the policy of a drops')
    const exceeded = { ...packet, hopLimit: 1 }
    assertSent(
      weft.from(A, G1, exceeded),
      G1.port,
      G1.mac,
      A.gatewayMac,
      errorAbout(exceeded, gateway(family), family === 4 ? 11 : 3, 0),
    )
    const unreachable: Packet = {
      family,
      source: replyTo(packet).source,
      destination: packet.source,
      protocol: icmp(family),
      type: family === 4 ? 3 : 1,
      code: family === 4 ? 3 : 4,
      payload: build(packet),
    }
    assertSent(weft.from(B, H1, unreachable), G1.port, G1.mac, A.gatewayMac, hop(unreachable))
  }
  assert.deepEqual(weft.reasons(), { policy: 2, 'hop-limit': 2 })
})

peering(
  "the other network's firewall is asked too, and so is one's own",
  { ...peersOfA, firewall: { ...usualFirewall(), policies: [DROP, ACCEPT, ACCEPT, ACCEPT, DROP] } },
  peersOfB,
  (weft) => {
    const [H1] = B.guests
    assert.deepEqual(weft.from(A, G1, outbound(4, { destination: ip(H1.ip4) })), [], 'a lets nothing out')
    const packet = replyTo(outbound(4, { destination: ip(H1.ip4) }))
    assertSent(weft.from(B, H1, packet), G1.port, G1.mac, A.gatewayMac, hop(packet))
    assert.deepEqual(weft.reasons(), { policy: 1 })
  },
)

peering('networks that are not routed to each other never meet', {}, {}, (weft) => {
  const [H1] = B.guests
  for (const family of FAMILIES) {
    const sent = weft.from(A, G1, outbound(family, { destination: ip(addressOf(H1, family)) }))
    assert.deepEqual(
      sent.map(({ port }) => port),
      [A.isp.port],
      'it goes the default way',
    )
    const spoofed = outbound(family, { source: ip(addressOf(H1, family)), destination: ip(addressOf(G2, family)) })
    assert.deepEqual(weft.from(A, G1, spoofed), [])
  }
})

// ---- firewall ----

for (const family of FAMILIES) {
  const rejecting = usualFirewall()
  addRule(rejecting, REJECT, [PATH_OUT, PATH_GATEWAY, PATH_LOCAL])
  routing(
    `reject answers in the destination's name for TCP, by ICMP for the rest, IPv${family}`,
    (weft) => {
      for (const destination of [server(family), addressOf(G2, family), gateway(family)]) {
        const udp = outbound(family, { destination: ip(destination) })
        const [type, code] = family === 4 ? [3, 3] : [1, 4]
        toGuest(weft.from(A, G1, udp), errorAbout(udp, gateway(family), type, code))
        const syn = outbound(family, {
          destination: ip(destination),
          protocol: 6,
          flags: SYN,
          sequence: 700,
          payload: [],
        })
        const reset = replyTo(syn, { flags: RST | ACK, sequence: 0, acknowledgment: 701, window: 0, hopLimit: 64 })
        toGuest(weft.from(A, G1, syn), family === 4 ? { ...reset, dontFragment: true, id: 0 } : reset)
      }
      assert.deepEqual(weft.reasons(), { policy: 6 })
      assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
    },
    { firewall: rejecting },
  )
}

const picky = usualFirewall()
addRule(picky, DROP, [PATH_OUT], { protocol: 17, destinationPorts: [5000, 5000] })
addRule(picky, ACCEPT, [PATH_IN], { protocol: 17 })
routing(
  'rules decide by path',
  (weft) => {
    assert.deepEqual(weft.from(A, G1, outbound(4)), [])
    const other = outbound(4, { destinationPort: 5001 })
    toIsp(weft.from(A, G1, other), hop(other))
    const inbound = replyTo(outbound(4, { sourcePort: 6 }))
    toGuest(weft.from(A, A.isp, inbound), hop(inbound))
    assert.deepEqual(weft.from(A, A.isp, { ...inbound, protocol: 6, flags: SYN }), [])
    assert.deepEqual(weft.reasons(), { policy: 2 })
  },
  { firewall: picky, nat: [] },
)

routing('the outside reaches nothing of the router', (weft) => {
  for (const family of FAMILIES) {
    const base = { ...replyTo(outbound(family)), destination: ip(outside(family)) }
    for (const more of [
      { destinationPort: 53 },
      { protocol: 6, flags: SYN, destinationPort: 22 },
      { protocol: icmp(family), type: family === 4 ? 8 : 128 },
    ])
      assert.deepEqual(weft.from(A, A.isp, { ...base, ...more }), [])
  }
  assert.deepEqual(weft.reasons(), { policy: 6 })
})

const pingable = usualFirewall()
pingable.policies[PATH_SELF] = ACCEPT
routing(
  'unless a rule says so; then still what it does not serve is dropped silently',
  (weft) => {
    const ping: Packet = { ...replyTo(outbound(4)), destination: ip(A.outside4), protocol: 1, type: 8, identifier: 5 }
    toIsp(weft.from(A, A.isp, ping), { ...replyTo(ping), type: 0 })
    assert.deepEqual(
      weft.from(A, A.isp, { ...replyTo(outbound(4)), destination: ip(A.outside4), destinationPort: 53 }),
      [],
    )
    assert.deepEqual(weft.reasons(), { 'not-served': 1 })
  },
  { firewall: pingable },
)

const strict = usualFirewall()
addRule(strict, DROP, [PATH_OUT], { states: STATE_ESTABLISHED })
routing(
  'a rule about established packets is asked for each of them',
  (weft) => {
    const packet = outbound(4)
    toIsp(weft.from(A, G1, packet), hop(packet, { source: ip(A.outside4) }))
    assert.deepEqual(weft.from(A, G1, packet), [])
    assert.deepEqual(weft.reasons(), { policy: 1 })
  },
  { firewall: strict },
)

const lenient = usualFirewall()
addRule(lenient, ACCEPT, [PATH_OUT, PATH_IN], { states: STATE_INVALID })
routing(
  'a rule may let pass what fits no connection',
  (weft) => {
    for (const [more, protocol] of [
      [{ type: 0, identifier: 7 }, 1],
      [{ type: 14, identifier: 7 }, 1],
      [{ flags: ACK }, 6],
    ] as const) {
      const packet = outbound(4, { protocol, ...more })
      toIsp(weft.from(A, G1, packet), hop(packet))
    }
    weft.wait(3)
  },
  { firewall: lenient, nat: [] },
)

// ---- open mode ----

routing(
  'open: everything is routed as it is, from the middle of a connection too',
  (weft) => {
    const middle = outbound(4, { protocol: 6, flags: ACK, sequence: 9, acknowledgment: 9 })
    toIsp(weft.from(A, G1, middle), hop(middle))
    toGuest(weft.from(A, A.isp, replyTo(middle)), hop(replyTo(middle)))
    toIsp(weft.from(A, G1, middle), hop(middle))
    const news = replyTo(outbound(6, { sourcePort: 9 }))
    toGuest(weft.from(A, A.isp, news), hop(news))
    for (const [protocol, type] of [
      [1, 0],
      [1, 8],
      [1, 14],
      [1, 17],
    ]) {
      const packet = outbound(4, { protocol, type, identifier: 3 + type })
      for (let i = 0; i < 2; i++) toIsp(weft.from(A, G1, packet), hop(packet))
    }
    assert.deepEqual(weft.drops(), {})
    weft.wait(100)
  },
  { nat: [], isOpen: true, firewall: openFirewall() },
)

// ---- limits ----

routing(
  'a port that begins too many connections loses its own oldest, others lose none',
  (weft) => {
    const other = outbound(4, { sourcePort: 50000 }, G2)
    weft.from(A, G2, other)
    for (let i = 0; i < 100; i++) assert.equal(weft.from(A, G1, outbound(4, { sourcePort: 2000 + i })).length, 1)
    assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 33)
    const reply = replyTo(hop(other, { source: ip(A.outside4) }))
    toGuest(weft.from(A, A.isp, reply), hop(reply, { destination: other.source }), G2)
  },
  { portLimit: 32 },
)

routing(
  'when all outside ports are taken by connections that both ends mean, a new one is refused, and they go on',
  (weft) => {
    const converse = (sourcePort: number, host = G1): boolean => {
      const packet = outbound(4, { sourcePort }, host)
      const [sent] = weft.from(A, host, packet)
      if (sent === undefined) return false
      const destinationPort = (sent.bytes[34] << 8) | sent.bytes[35]
      weft.from(A, A.isp, replyTo({ ...packet, source: ip(A.outside4), sourcePort: destinationPort }))
      return weft.from(A, host, packet).length === 1
    }
    for (let i = 0; i < 20; i++) assert.equal(converse(2000 + i), i < 16, `${i}`)
    assert.deepEqual(weft.reasons(), { 'no-nat-port': 4 })
    assert.equal(weft.from(A, G1, outbound(4, { sourcePort: 2000, destinationPort: 1 })).length, 1)
    for (let i = 0; i < 8; i++) assert.ok(converse(2000 + i, G2), 'another guest has its share')
    assert.equal(converse(3000), false)
    assert.deepEqual(weft.reasons(), { 'no-nat-port': 5 })
  },
  { nat: [{ ip: ip(A.outside4), firstPort: 3000, lastPort: 3015 }] },
)

routing(
  'what nobody has answered gives its outside port up, the oldest first',
  (weft) => {
    const syn = (sourcePort: number, host = G1): boolean =>
      weft.from(A, host, outbound(4, { protocol: 6, flags: SYN, sourcePort }, host)).length === 1
    for (let i = 0; i < 200; i++) assert.ok(syn(2000 + i))
    for (let i = 0; i < 8; i++) assert.ok(syn(2000 + i, G2))
    const { header } = weft.arena
    assert.equal(header[HEADER_MAPPINGS_USED], 16)
    assert.equal(header[HEADER_CONNECTIONS_EVICTED], 192)
    for (let i = 0; i < 16; i++) assert.equal(weft.from(A, G1, outbound(4, { sourcePort: 2000 + i })).length, 1, 'UDP')
    assert.equal(header[HEADER_CONNECTIONS_EVICTED], 192)
    assert.deepEqual(weft.reasons(), {})
  },
  { nat: [{ ip: ip(A.outside4), firstPort: 3000, lastPort: 3015 }] },
)

routing('an isolated network has no way out', (weft) => {
  weft.loop.pipeline.configureRouter(
    A.lan,
    routerOf(A, { uplink: null, nat: [], routes: [routesOf(A)[0], routesOf(A)[2]] }),
  )
  for (const family of FAMILIES) {
    const packet = outbound(family)
    toGuest(weft.from(A, G1, packet), errorAbout(packet, gateway(family), family === 4 ? 3 : 1, 0))
  }
})

test('a new process goes on with the connections of the old one', () => {
  const weft = new Routed()
  weft.site(A)
  weft.teach(A)
  const packet = outbound(4)
  const seen = hop(packet, { source: ip(A.outside4) })
  toIsp(weft.from(A, G1, packet), seen)
  weft.from(A, G2, outbound(4, {}, G2))
  weft.restart()
  weft.site(A)
  const reply = replyTo(seen)
  toGuest(weft.from(A, A.isp, reply), hop(reply, { destination: packet.source }))
  toIsp(weft.from(A, G1, packet), seen)
  weft.checkPool()
})

routing("what is too big for the guests' segment is refused outside", (weft) => {
  weft.loop.pipeline.configureRouter(A.lan, routerOf(A, { lan: { ...lanOf(A), mtu: 1280 } }))
  const packet = outbound(6)
  weft.from(A, G1, packet)
  const reply = replyTo(hop(packet, { source: ip(A.outside6) }), { payload: new Uint8Array(1300) })
  toIsp(weft.from(A, A.isp, reply), errorAbout(reply, A.outside6, 2, 0, 1280))
})
