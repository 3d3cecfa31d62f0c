/**
 * What waits in the router, through the whole pipeline: packets for a next hop that must be asked for, and fragments
 * for their first. All slots must come back, also when the answer never comes, or the router goes.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HEADER_CONNECTIONS_USED } from '../../../src/dataplane/layout.js'
import type { CompiledRoute } from '../../../src/dataplane/router/router-table.js'
import type { SentFrame } from '../../../src/ports/memory.js'
import type { Packet } from './packet-builder.js'
import {
  FAMILIES,
  G1,
  G2,
  G3,
  addressOf,
  errorAbout,
  forwardTo,
  gateway,
  hop,
  outbound,
  outside,
  replyTo,
  toGuest,
  toIsp,
} from './router-exchange.js'
import {
  A,
  Routed,
  SERVER4,
  arp,
  assertFrame,
  assertSent,
  framed,
  idOf,
  ip,
  routerOf,
  routesOf,
  routing,
  usualFirewall,
} from './router-rig.js'

// ---- next hops ----

test('a packet for an unknown next hop waits until it has answered', () => {
  const weft = new Routed()
  weft.site(A)
  weft.greet(G1, A.gatewayMac, A.gateway4, A.gateway6)
  const packets = [1, 2, 3].map((n) => outbound(4, { payload: [n] }))
  for (const packet of packets) weft.from(A, G1, packet)
  const answer = arp(2, A.isp.mac, A.isp.ip4, A.uplinkMac, A.outside4)
  const sent = weft.pass(A.isp.port, framed(A.uplinkMac, A.isp.mac, answer, 0x0806))
  assert.equal(sent.length, 3)
  for (const [i, packet] of packets.entries())
    assertFrame(sent[i], A.isp.port, A.isp.mac, A.uplinkMac, hop(packet, { source: ip(A.outside4) }))
  assert.deepEqual(weft.drops(), {})
  weft.checkPool()
})

for (const family of FAMILIES)
  test(`a host that does not answer is unreachable after three questions, IPv${family}`, () => {
    const weft = new Routed()
    weft.site(A)
    weft.greet(G1, A.gatewayMac, A.gateway4, A.gateway6)
    const packet = outbound(family, { destination: ip(family === 4 ? '10.0.1.200' : 'fd00:0:0:1::200') })
    const isQuestion = ({ port, bytes }: SentFrame): boolean =>
      port !== G1.port && (bytes[12] === 8 ? bytes[13] === 6 : bytes[54] === 135)
    let questions = weft.from(A, G1, packet).filter(isQuestion).length / 3
    const sent = weft.wait(2)
    assert.equal(sent.filter(({ port }) => port === G1.port && sent.length === 0).length, 0)
    questions += sent.filter(isQuestion).length / 3
    assert.equal(questions, 3)
    const errors = weft.wait(1)
    const [type, code] = family === 4 ? [3, 1] : [1, 3]
    toGuest(errors, errorAbout(packet, gateway(family), type, code))
    toGuest(weft.from(A, G1, packet), errorAbout(packet, gateway(family), type, code))
    assert.deepEqual(weft.reasons(), { 'no-neighbor': 2 })
    weft.wait(4)
    assert.equal(weft.from(A, G1, packet).filter(isQuestion).length, 3, 'then it is asked for again')
    weft.wait(10)
    weft.checkPool()
  })

test('a next hop that goes silent is asked for, and then refused', () => {
  const weft = new Routed()
  weft.site(A)
  weft.teach(A)
  weft.seconds = 40
  weft.run()
  const packet = outbound(4)
  const seen = hop(packet, { source: ip(A.outside4) })
  toIsp(
    weft.from(A, G1, packet).filter(({ bytes }) => bytes[13] === 0),
    seen,
  )
  weft.wait(3)
  toIsp(
    weft.from(A, G1, packet).filter(({ bytes }) => bytes[13] === 0),
    seen,
  )
  weft.wait(1)
  const sent = weft.from(A, G1, packet)
  assert.ok(
    sent.every(({ bytes }) => bytes[12] === 8 && bytes[13] === 6),
    'a question, and no packet',
  )
  weft.pass(
    A.isp.port,
    framed(A.uplinkMac, A.isp.mac, arp(2, '02:ee:00:00:00:09', A.isp.ip4, A.uplinkMac, A.outside4), 0x0806),
  )
  weft.wait(5)
  weft.checkPool()
})

routing('a next hop with a new MAC is followed at once', (weft) => {
  const packet = outbound(4)
  toIsp(weft.from(A, G1, packet), hop(packet, { source: ip(A.outside4) }))
  const mac = '02:ee:00:00:00:09'
  weft.pass(
    A.isp.port,
    framed('ff:ff:ff:ff:ff:ff', mac, arp(1, mac, A.isp.ip4, '00:00:00:00:00:00', A.isp.ip4), 0x0806),
  )
  assertSent(weft.from(A, G1, packet), A.isp.port, mac, A.uplinkMac, hop(packet, { source: ip(A.outside4) }))
})

routing(
  'a changed route is followed at once',
  (weft) => {
    const packet = outbound(4)
    toIsp(weft.from(A, G1, packet), hop(packet))
    const route: CompiledRoute = { ip: ip(SERVER4), prefix: 32, segment: A.lan, gateway: ip(G3.ip4) }
    weft.loop.pipeline.configureRouter(A.lan, routerOf(A, { nat: [], routes: [route, ...routesOf(A)] }))
    toGuest(weft.from(A, G1, packet), hop(packet), G3)
  },
  { nat: [] },
)

routing('a guest whose port leaves is forgotten, with its connections', (weft) => {
  weft.from(A, G1, outbound(4))
  assert.equal(weft.loop.pipeline.leave(A.lan, G1.port) > 0, true)
  assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
})

test('a router that goes takes along what waits in it', () => {
  const weft = new Routed()
  weft.site(A)
  weft.greet(G1, A.gatewayMac, A.gateway4, A.gateway6)
  weft.from(A, G1, outbound(4))
  weft.from(A, G1, outbound(6))
  weft.from(A, G1, outbound(4, { destination: ip('10.0.1.200') }))
  weft.from(
    A,
    G1,
    outbound(4, { payload: new Uint8Array(1000), fragment: { id: 5, from: 800, to: 1008, more: false } }),
  )
  weft.loop.pipeline.configureRouter(A.lan, null)
  weft.wait(20)
  assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
  weft.checkPool()
})

// ---- fragments ----

for (const family of FAMILIES) {
  const large = (more: Partial<Packet> = {}): Packet =>
    outbound(family, { payload: Array.from({ length: 3000 }, (_, i) => (i * 7) & 255), ...more })
  const pieces = (packet: Packet): Packet[] =>
    [
      { from: 0, to: 1280, more: true },
      { from: 1280, to: 2560, more: true },
      { from: 2560, to: 3008, more: false },
    ].map((part) => ({ ...packet, fragment: { id: packet.id ?? 0x4321, ...part } }))

  for (const [name, order] of [
    ['first to last', [0, 1, 2]],
    ['last to first', [2, 1, 0]],
    ['with the first in the middle', [1, 0, 2]],
  ] as const)
    routing(`fragments through NAT and back, ${name}, IPv${family}`, (weft) => {
      const packet = large()
      const parts = pieces(packet)
      const sent = order.flatMap((i) => weft.from(A, G1, parts[i]))
      const seen = hop(packet, { source: ip(outside(family)) })
      const inOrder = [...order].sort((a, b) =>
        order.indexOf(0) >= Math.max(order.indexOf(a), order.indexOf(b)) ? a - b : order.indexOf(a) - order.indexOf(b),
      )
      assert.equal(sent.length, 3)
      const whole = inOrder.map((i) => pieces(seen)[i])
      for (const [i, part] of whole.entries()) assertFrame(sent[i], A.isp.port, A.isp.mac, A.uplinkMac, part)
      assert.equal(new Set(sent.map(({ bytes }) => idOf(bytes))).size, 1)
      assert.notEqual(idOf(sent[0].bytes), 0x4321)
      const reply = replyTo(seen, { hopLimit: 60 })
      const back = order.flatMap((i) => weft.from(A, A.isp, pieces(reply)[i]))
      assert.equal(back.length, 3)
      for (const [i, which] of inOrder.entries())
        assertFrame(back[i], G1.port, G1.mac, A.gatewayMac, pieces(hop(reply, { destination: packet.source }))[which])
      assert.deepEqual(weft.drops(), {})
      weft.wait(20)
    })

  routing(`guests behind one address do not meet by their identifications, IPv${family}`, (weft) => {
    const ids: number[] = []
    for (let round = 0; round < 20; round++)
      for (const guest of A.guests) {
        const parts = pieces(large({ source: ip(addressOf(guest, family)) }))
        const sent = parts.map((part) => weft.from(A, guest, { ...part, fragment: { ...part.fragment!, id: round } }))
        const own = new Set(sent.map(([{ bytes }]) => idOf(bytes)))
        assert.equal(own.size, 1, 'one datagram')
        ids.push(...own)
      }
    assert.equal(new Set(ids).size, 80)
    // between guests nothing is changed
    const packet = large({ destination: ip(addressOf(G2, family)) })
    for (const part of pieces(packet)) assertSent(weft.from(A, G1, part), G2.port, G2.mac, A.gatewayMac, hop(part))
  })

  routing(`fragments of a forward, IPv${family}`, (weft) => {
    weft.loop.pipeline.configureRouter(A.lan, routerOf(A, { forwards: [forwardTo(family, { protocol: 17 })] }))
    const packet: Packet = { ...replyTo(large()), destination: ip(outside(family)), destinationPort: 8080 }
    const sent = [2, 1, 0].flatMap((i) => weft.from(A, A.isp, pieces(packet)[i]))
    const inside = pieces(hop(packet, { destination: ip(addressOf(G1, family)), destinationPort: 80 }))
    assert.equal(sent.length, 3)
    for (const [i, part] of inside.entries()) assertFrame(sent[i], G1.port, G1.mac, A.gatewayMac, part)
  })

  routing(`fragments whose first never comes, or is refused, are dropped, IPv${family}`, (weft) => {
    weft.from(A, G1, pieces(large())[1])
    weft.wait(16)
    assert.deepEqual(weft.reasons(), { 'fragment-timeout': 1 })
    weft.loop.pipeline.configureRouter(
      A.lan,
      routerOf(A, { firewall: { ...usualFirewall(), policies: [0, 0, 0, 0, 0] } }),
    )
    for (const i of [2, 1, 0]) assert.deepEqual(weft.from(A, G1, pieces(large())[i]), [])
    weft.wait(16)
    const { policy, invalid = 0, ...more } = weft.reasons()
    assert.equal(policy + invalid, 3)
    assert.deepEqual(more, { 'fragment-timeout': 1 })
  })

  test(`fragments wait for the next hop like others, IPv${family}`, () => {
    const weft = new Routed()
    weft.site(A)
    weft.greet(G1, A.gatewayMac, A.gateway4, A.gateway6)
    const packet = large()
    for (const i of [2, 0, 1])
      assert.equal(
        weft
          .from(A, G1, pieces(packet)[i])
          .filter(({ port, bytes }) => port === A.isp.port && bytes[12] !== 8 && bytes[54] !== 135).length,
        0,
      )
    weft.greet(A.isp, A.uplinkMac, A.outside4, A.outside6)
    weft.driver.sent.splice(0)
    weft.checkPool()
    const again = [2, 0, 1].flatMap((i) =>
      weft.from(
        A,
        G1,
        pieces({ ...packet })[i].fragment === undefined
          ? packet
          : { ...pieces(packet)[i], fragment: { ...pieces(packet)[i].fragment!, id: 9 } },
      ),
    )
    assert.equal(again.length, 3)
    weft.wait(20)
    weft.checkPool()
  })
}
