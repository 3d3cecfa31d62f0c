/**
 * The firewall between guests of one network: what its rules refuse does not pass by any kind of frame, what belongs to
 * an accepted connection does, and nothing that a guest needs to have an address is kept from it.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HEADER_CONNECTIONS_USED } from '../../../src/dataplane/layout.js'
import {
  ACCEPT,
  type CompiledFirewall,
  DROP,
  END_PORT,
  PATH_LOCAL,
  REJECT,
} from '../../../src/dataplane/router/firewall.js'
import { type Packet, build, hex } from './packet-builder.js'
import {
  A,
  BROADCAST,
  type Host,
  NOBODY,
  Routed,
  SERVER4,
  addRule,
  arp,
  assertSent,
  discovery,
  framed,
  ip,
  routerOf,
  usualFirewall,
} from './router-rig.js'

const [G1, G2, G3, G4] = A.guests
const SYN = 2
const ACK = 16

class Filtered extends Routed {
  /** Ports that a packet between two guests leaves by, if it is sent to this MAC. */
  between(from: Host, mac: string, packet: Packet): number[] {
    const sent = this.pass(from.port, framed(mac, from.mac, build(packet)))
    for (const { bytes } of sent) assert.equal(hex(bytes.subarray(14)), hex(build(packet)), 'it is not changed')
    return sent.map(({ port }) => port).sort((a, b) => a - b)
  }
}

function filtering(name: string, rules: (firewall: CompiledFirewall) => void, body: (weft: Filtered) => void): void {
  test(name, () => {
    const weft = new Filtered()
    const firewall = usualFirewall()
    rules(firewall)
    weft.site(A, routerOf(A, { firewall }))
    weft.teach(A)
    body(weft)
    weft.checkPool()
  })
}

const isolating = (firewall: CompiledFirewall): void => {
  firewall.policies[PATH_LOCAL] = DROP
}
const udp = (from: Host, to: Host, more: Partial<Packet> = {}): Packet => ({
  family: 4,
  source: ip(from.ip4),
  destination: ip(to.ip4),
  protocol: 17,
  sourcePort: 1000,
  destinationPort: 2000,
  ...more,
})
const udp6 = (from: Host, to: Host): Packet => ({
  ...udp(from, to),
  family: 6,
  source: ip(from.ip6),
  destination: ip(to.ip6),
})

filtering(
  'without rules nothing is looked at',
  () => {},
  (weft) => {
    assert.deepEqual(weft.between(G1, G2.mac, udp(G1, G2)), [G2.port])
    assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
  },
)

filtering('what the policy drops does not pass, by any address', isolating, (weft) => {
  for (const packet of [
    udp(G1, G2),
    udp6(G1, G2),
    udp(G1, G2, { protocol: 6, flags: ACK }),
    udp(G1, G2, { protocol: 47 }),
  ])
    for (const mac of [G2.mac, '02:77:00:00:00:01', BROADCAST]) assert.deepEqual(weft.between(G1, mac, packet), [], mac)
  assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
})

filtering('broken IP does not pass', isolating, (weft) => {
  const whole = build(udp(G1, G2))
  for (let length = 0; length < whole.length; length++)
    assert.deepEqual(weft.pass(G1.port, framed(G2.mac, G1.mac, whole.subarray(0, length), 0x0800)), [], `${length}`)
})

filtering('what a guest needs to have an address passes', isolating, (weft) => {
  const others = [G2.port, G3.port, G4.port]
  const frames: Uint8Array[] = [
    framed(BROADCAST, G1.mac, arp(1, G1.mac, G1.ip4, NOBODY, G2.ip4), 0x0806),
    framed(
      BROADCAST,
      G1.mac,
      build({ ...udp(G1, G2), source: [0], destination: [-1], sourcePort: 68, destinationPort: 67 }),
    ),
    framed('33:33:ff:00:00:12', G1.mac, discovery(135, G1.ip6, 'ff02::1:ff00:12', G2.ip6, { mac: G1.mac })),
  ]
  for (const frame of frames)
    assert.deepEqual(
      weft
        .pass(G1.port, frame)
        .map(({ port }) => port)
        .sort((a, b) => a - b),
      others,
    )
})

filtering('guests still reach the outside, which still answers', isolating, (weft) => {
  const packet = { ...udp(G1, G2), destination: ip(SERVER4), sourcePort: 4000 }
  assert.equal(weft.from(A, G1, packet)[0].port, A.isp.port)
  const reply: Packet = {
    ...packet,
    source: ip(SERVER4),
    destination: ip(A.outside4),
    sourcePort: 2000,
    destinationPort: 4000,
  }
  assertSent(weft.from(A, A.isp, reply), G1.port, G1.mac, A.gatewayMac, {
    ...reply,
    destination: ip(G1.ip4),
    hopLimit: 63,
  })
})

const oneWay = (firewall: CompiledFirewall): void => {
  isolating(firewall)
  addRule(firewall, ACCEPT, [PATH_LOCAL], { from: [END_PORT, G1.port, 0] })
}

filtering('what is accepted is answered, and nothing begins the other way', oneWay, (weft) => {
  for (const [packet, reply] of [
    [udp(G1, G2), udp(G2, G1, { sourcePort: 2000, destinationPort: 1000 })],
    [udp6(G1, G2), { ...udp6(G2, G1), sourcePort: 2000, destinationPort: 1000 }],
  ]) {
    assert.deepEqual(weft.between(G2, G1.mac, reply), [])
    assert.deepEqual(weft.between(G1, G2.mac, packet), [G2.port])
    assert.deepEqual(weft.between(G2, G1.mac, reply), [G1.port])
    assert.deepEqual(weft.between(G2, G1.mac, { ...reply, sourcePort: 2001 }), [])
  }
})

filtering('errors about an accepted connection pass, others do not', oneWay, (weft) => {
  const packet = udp(G1, G2)
  const error = (quoted: Packet): Packet => ({ ...udp(G2, G1), protocol: 1, type: 3, code: 3, payload: build(quoted) })
  assert.deepEqual(weft.between(G2, G1.mac, error(packet)), [])
  weft.between(G1, G2.mac, packet)
  assert.deepEqual(weft.between(G2, G1.mac, error(packet)), [G1.port])
  assert.deepEqual(weft.between(G2, G1.mac, error({ ...packet, sourcePort: 1001 })), [])
})

filtering('TCP is judged by its states', oneWay, (weft) => {
  const segment = (flags: number): Packet => udp(G1, G2, { protocol: 6, flags })
  assert.deepEqual(weft.between(G1, G2.mac, segment(ACK)), [])
  assert.deepEqual(weft.between(G1, G2.mac, segment(SYN)), [G2.port])
  const answer = udp(G2, G1, {
    protocol: 6,
    flags: SYN | ACK,
    sourcePort: 2000,
    destinationPort: 1000,
    acknowledgment: 2,
  })
  assert.deepEqual(weft.between(G2, G1.mac, answer), [G1.port])
  assert.equal(weft.reasons().invalid, 1)
})

const shielding = (firewall: CompiledFirewall): void => {
  addRule(firewall, DROP, [PATH_LOCAL], { to: [END_PORT, G3.port, 0] })
}

filtering('a flooded frame is judged for each port', shielding, (weft) => {
  for (let i = 0; i < 3; i++)
    for (const mac of [BROADCAST, '02:77:00:00:00:01'])
      assert.deepEqual(weft.between(G1, mac, udp(G1, G3)), [G2.port, G4.port])
  assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
})

filtering('a connection is between two ports', shielding, (weft) => {
  assert.deepEqual(weft.between(G1, G2.mac, udp(G1, G3)), [G2.port], 'to the MAC of another')
  assert.deepEqual(weft.between(G1, G3.mac, udp(G1, G3)), [], 'to its own')
})

filtering("the router's connections mean nothing between guests", isolating, (weft) => {
  const packet = { ...udp(G1, G2), destination: ip(SERVER4) }
  assert.equal(weft.from(A, G1, packet).length, 1)
  assert.deepEqual(weft.between(G1, G2.mac, packet), [])
})

filtering(
  'a rejected packet is answered by the router',
  (firewall) => addRule(firewall, REJECT, [PATH_LOCAL]),
  (weft) => {
    const packet = udp(G1, G2)
    const error: Packet = {
      family: 4,
      source: ip(A.gateway4),
      destination: ip(G1.ip4),
      protocol: 1,
      type: 3,
      code: 3,
      typeOfService: 0xc0,
      dontFragment: true,
      id: 0,
      payload: build(packet),
    }
    assertSent(weft.pass(G1.port, framed(G2.mac, G1.mac, build(packet))), G1.port, G1.mac, A.gatewayMac, error)
    const syn = udp(G1, G2, { protocol: 6, flags: SYN, sequence: 7 })
    const [reset, ...more] = weft.pass(G1.port, framed(G2.mac, G1.mac, build(syn)))
    assert.deepEqual(more, [])
    assert.equal(reset.bytes[14 + 33] & 4, 4)
    assert.deepEqual(weft.reasons(), { policy: 2 })
  },
)
