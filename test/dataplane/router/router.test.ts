/**
 * The router through the whole pipeline: what a host behind it, or outside, gets of what another one sends. Every packet
 * that comes out is compared with one built anew from what it should say, checksums included.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  EGRESS_CHECKSUM,
  HEADER_CONNECTIONS_USED,
  HEADER_ROUTED_PACKETS,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  CHECKSUM_OFFSET,
  CHECKSUM_START,
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
import {
  type CompiledForward,
  type CompiledRoute,
  type CompiledRouter,
  FILTER_ADDRESS,
  FILTER_ADDRESS_AND_PORT,
  FILTER_NONE,
} from '../../../src/dataplane/router/router-table.js'
import type { SentFrame } from '../../../src/ports/memory.js'
import { type Packet, build } from './packet-builder.js'
import {
  A,
  B,
  type Host,
  Routed,
  SERVER4,
  SERVER6,
  addRule,
  arp,
  assertFrame,
  assertSent,
  framed,
  ip,
  lanOf,
  openFirewall,
  routerOf,
  routesOf,
  routing,
  uplinkOf,
  usualFirewall,
} from './router-rig.js'

const SYN = 2
const ACK = 16
const RST = 4
const FIN = 1
const [G1, G2, G3] = A.guests
type Family = 4 | 6
const FAMILIES: Family[] = [4, 6]
const addressOf = (host: Host, family: Family): string => (family === 4 ? host.ip4 : host.ip6)
const server = (family: Family): string => (family === 4 ? SERVER4 : SERVER6)
const outside = (family: Family): string => (family === 4 ? A.outside4 : A.outside6)
const gateway = (family: Family): string => (family === 4 ? A.gateway4 : A.gateway6)
const icmp = (family: Family): number => (family === 4 ? 1 : 58)

/** From a guest to the server outside. */
function outbound(family: Family, more: Partial<Packet> = {}, host: Host = G1): Packet {
  return {
    family,
    source: ip(addressOf(host, family)),
    destination: ip(server(family)),
    protocol: 17,
    sourcePort: 40000,
    destinationPort: 5000,
    payload: [1, 2, 3, 4, 5],
    ...more,
  }
}

/** What a packet is one hop further, with these changes. */
const hop = (packet: Packet, more: Partial<Packet> = {}): Packet => ({
  ...packet,
  hopLimit: (packet.hopLimit ?? 64) - 1,
  ...more,
})

/** The answer to a packet. */
const replyTo = (packet: Packet, more: Partial<Packet> = {}): Packet => ({
  ...packet,
  source: packet.destination,
  destination: packet.source,
  sourcePort: packet.destinationPort ?? 0,
  destinationPort: packet.sourcePort ?? 0,
  ...more,
})

/** An ICMP error of a router's about a packet as it came. */
function errorAbout(packet: Packet, from: string, type: number, code: number, word = 0): Packet {
  const quote = build(packet).subarray(0, packet.family === 4 ? 576 - 28 : 1280 - 48)
  const base = { source: ip(from), destination: packet.source, type, code, word, payload: quote }
  if (packet.family === 6) return { ...base, family: 6, protocol: 58 }
  return { ...base, family: 4, protocol: 1, typeOfService: 0xc0, dontFragment: true, id: 0 }
}

const toIsp = (sent: SentFrame[], packet: Packet): void => assertSent(sent, A.isp.port, A.isp.mac, A.uplinkMac, packet)
const toGuest = (sent: SentFrame[], packet: Packet, guest: Host = G1): void =>
  assertSent(sent, guest.port, guest.mac, A.gatewayMac, packet)

const forwardTo = (family: Family, more: Partial<CompiledForward> = {}): CompiledForward => ({
  protocol: 6,
  family,
  ip: null,
  firstPort: 8080,
  lastPort: 8080,
  to: ip(addressOf(G1, family)),
  toPort: 80,
  ...more,
})

// ---- NAT ----

for (const family of FAMILIES) {
  routing(`UDP through NAT and back, IPv${family}`, (weft) => {
    const packet = outbound(family)
    const seen = hop(packet, { source: ip(outside(family)) })
    toIsp(weft.from(A, G1, packet), seen)
    const reply = replyTo(seen, { hopLimit: 50, payload: [9, 9] })
    toGuest(weft.from(A, A.isp, reply), hop(reply, { destination: packet.source }))
    for (let i = 0; i < 3; i++) toIsp(weft.from(A, G1, packet), seen)
    assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 1)
    assert.equal(weft.arena.header[HEADER_ROUTED_PACKETS], 5)
    assert.deepEqual(weft.drops(), {})
  })

  routing(`TCP through NAT, from its handshake to its end, IPv${family}`, (weft) => {
    const tcp = (flags: number, sequence: number, acknowledgment: number, payload: number[] = []): Packet =>
      outbound(family, { protocol: 6, flags, sequence, acknowledgment, payload, destinationPort: 80 })
    const out = (packet: Packet): void => toIsp(weft.from(A, G1, packet), hop(packet, { source: ip(outside(family)) }))
    const back = (packet: Packet): void => {
      const seen = replyTo({ ...packet, source: ip(outside(family)) })
      toGuest(weft.from(A, A.isp, seen), hop(seen, { destination: packet.source }))
    }
    out(tcp(SYN, 100, 0))
    back(tcp(SYN | ACK, 500, 101))
    out(tcp(ACK, 101, 501))
    out(tcp(ACK, 101, 501, [1, 2, 3]))
    back(tcp(ACK, 501, 104, [4, 5]))
    weft.loop.pipeline.configureRouter(
      A.lan,
      routerOf(A, { firewall: { ...usualFirewall(), policies: [0, 0, 0, 0, 0] } }),
    )
    out(tcp(ACK, 104, 503, [6]))
    out(tcp(FIN | ACK, 105, 503))
    back(tcp(FIN | ACK, 503, 106))
    out(tcp(ACK, 106, 504))
    assert.deepEqual(weft.drops(), {})
    const stray = tcp(ACK, 0x7000000, 0x7000000, [1])
    assert.deepEqual(weft.from(A, G1, stray), [], 'out of the window')
  })

  routing(`ping through NAT, IPv${family}`, (weft) => {
    const [ask, answer] = family === 4 ? [8, 0] : [128, 129]
    const packet = outbound(family, { protocol: icmp(family), type: ask, identifier: 2077 })
    const seen = hop(packet, { source: ip(outside(family)) })
    toIsp(weft.from(A, G1, packet), seen)
    const second = outbound(family, { protocol: icmp(family), type: ask, identifier: 2077 }, G2)
    const [sent] = weft.from(A, G2, second)
    const identifier = (sent.bytes[sent.bytes.length - 9] << 8) | sent.bytes[sent.bytes.length - 8]
    assert.notEqual(identifier, 2077, 'two guests with the same identifier are told apart')
    assertFrame(sent, A.isp.port, A.isp.mac, A.uplinkMac, hop(second, { source: ip(outside(family)), identifier }))
    const reply = { ...replyTo(seen), type: answer, identifier }
    toGuest(weft.from(A, A.isp, reply), hop(reply, { destination: second.source, identifier: 2077 }), G2)
    const first = { ...reply, identifier: 2077 }
    toGuest(weft.from(A, A.isp, first), hop(first, { destination: packet.source }))
  })

  routing(`guests that use the same port get different ones outside, IPv${family}`, (weft) => {
    const seenPorts = new Set<number>()
    for (const host of A.guests) {
      const packet = outbound(family, {}, host)
      const [sent] = weft.from(A, host, packet)
      const at = 14 + (family === 4 ? 20 : 40)
      const sourcePort = (sent.bytes[at] << 8) | sent.bytes[at + 1]
      assertFrame(sent, A.isp.port, A.isp.mac, A.uplinkMac, hop(packet, { source: ip(outside(family)), sourcePort }))
      assert.equal(sourcePort % 2, 0, 'the parity is kept')
      seenPorts.add(sourcePort)
      const reply = replyTo(hop(packet, { source: ip(outside(family)), sourcePort }))
      toGuest(weft.from(A, A.isp, reply), hop(reply, { destination: packet.source, destinationPort: 40000 }), host)
    }
    assert.equal(seenPorts.size, 4)
  })

  routing(`a port has one outside port, whatever it talks to, IPv${family}`, (weft) => {
    for (const host of [G1, G2]) weft.from(A, host, outbound(family, {}, host))
    const other = outbound(family, { destination: ip(family === 4 ? '192.0.2.81' : '2001:db8:ffff::81') }, G2)
    const [first] = weft.from(A, G2, outbound(family, {}, G2))
    const [sent] = weft.from(A, G2, other)
    const at = 14 + (family === 4 ? 20 : 40)
    assert.deepEqual(sent.bytes.slice(at, at + 2), first.bytes.slice(at, at + 2))
  })

  routing(`an unfinished checksum stays right through NAT, IPv${family}`, (weft) => {
    const packet = outbound(family, { protocol: 6, flags: SYN, isUnfinished: true })
    const l4 = 14 + (family === 4 ? 20 : 40)
    const fields: [number, number][] = [
      [OFFLOAD, OFFLOAD_CHECKSUM],
      [CHECKSUM_START, l4],
      [CHECKSUM_OFFSET, 16],
    ]
    const sent = weft.from(A, G1, packet, fields)
    toIsp(sent, hop(packet, { source: ip(outside(family)) }))
    assert.equal(sent[0].flags, EGRESS_CHECKSUM)
  })

  routing(`other protocols are translated by their addresses, IPv${family}`, (weft) => {
    const packet = outbound(family, { protocol: 47, payload: [0, 0, 8, 0, 1, 2, 3, 4] })
    const seen = hop(packet, { source: ip(outside(family)) })
    toIsp(weft.from(A, G1, packet), seen)
    const reply = replyTo(seen)
    toGuest(weft.from(A, A.isp, reply), hop(reply, { destination: packet.source }))
    assert.deepEqual(weft.from(A, G2, { ...packet, source: ip(addressOf(G2, family)) }), [], 'one guest at a time')
    assert.deepEqual(weft.reasons(), { 'no-nat-port': 1 })
  })

  routing(
    `without NAT addresses stay as they are, IPv${family}`,
    (weft) => {
      const packet = outbound(family)
      toIsp(weft.from(A, G1, packet), hop(packet))
      const reply = replyTo(packet)
      toGuest(weft.from(A, A.isp, reply), hop(reply))
      const news = replyTo(outbound(family, { sourcePort: 7 }))
      assert.deepEqual(weft.from(A, A.isp, news), [])
      assert.deepEqual(weft.reasons(), { policy: 1 })
    },
    { nat: [] },
  )
}

routing('bare UDP checksums stay 0', (weft) => {
  const packet = outbound(4, { isBare: true })
  toIsp(weft.from(A, G1, packet), hop(packet, { source: ip(A.outside4) }))
})

routing('padding behind the packet is carried along and harms nothing', (weft) => {
  const packet = outbound(4)
  const padded = Uint8Array.from([...build(packet), 0xee, 0xee, 0xee])
  const [sent] = weft.from(A, G1, padded)
  assert.deepEqual(sent.bytes.subarray(14, 14 + padded.length - 3), build(hop(packet, { source: ip(A.outside4) })))
})

// ---- forwards ----

for (const family of FAMILIES)
  routing(
    `a forward lets in, and keeps the source, IPv${family}`,
    (weft) => {
      const syn: Packet = {
        ...replyTo(outbound(family)),
        destination: ip(outside(family)),
        protocol: 6,
        flags: SYN,
        sourcePort: 999,
        destinationPort: 8080,
      }
      const inside = hop(syn, { destination: ip(addressOf(G1, family)), destinationPort: 80 })
      toGuest(weft.from(A, A.isp, syn), inside)
      const answer = replyTo(inside, { flags: SYN | ACK, hopLimit: 64, acknowledgment: 2, sequence: 5 })
      toIsp(weft.from(A, G1, answer), hop(answer, { source: ip(outside(family)), sourcePort: 8080 }))
      const ack = { ...syn, flags: ACK, sequence: 2, acknowledgment: 6 }
      toGuest(weft.from(A, A.isp, ack), hop(ack, { destination: ip(addressOf(G1, family)), destinationPort: 80 }))
      assert.deepEqual(weft.drops(), {})
    },
    { forwards: [forwardTo(4), forwardTo(6)] },
  )

routing(
  'a forward of a range keeps the distance, and of UDP is UDP',
  (weft) => {
    const at = (destinationPort: number, protocol = 17): Packet => ({
      ...replyTo(outbound(4)),
      destination: ip(A.outside4),
      sourcePort: 999,
      destinationPort,
      protocol,
      flags: SYN,
    })
    for (const port of [6000, 6005, 6010]) {
      const inside = hop(at(port), { destination: ip(G1.ip4), destinationPort: port - 1000 })
      toGuest(weft.from(A, A.isp, at(port)), inside)
    }
    for (const packet of [at(5999), at(6011), at(6005, 6)]) assert.deepEqual(weft.from(A, A.isp, packet), [])
    assert.deepEqual(weft.reasons(), { policy: 3 })
  },
  { forwards: [forwardTo(4, { protocol: 17, firstPort: 6000, lastPort: 6010, toPort: 5000 })] },
)

routing(
  'a forward of an address that the router answers for',
  (weft) => {
    const proxied = ip('198.51.100.40')
    const request = arp(1, A.isp.mac, A.isp.ip4, '00:00:00:00:00:00', '198.51.100.40')
    assert.equal(weft.pass(A.isp.port, framed('ff:ff:ff:ff:ff:ff', A.isp.mac, request, 0x0806)).length, 1)
    const syn: Packet = {
      ...replyTo(outbound(4)),
      destination: proxied,
      protocol: 6,
      flags: SYN,
      destinationPort: 8080,
    }
    toGuest(weft.from(A, A.isp, syn), hop(syn, { destination: ip(G1.ip4), destinationPort: 80 }))
    assert.deepEqual(weft.from(A, A.isp, { ...syn, destination: ip(A.outside4) }), [], 'not of its own')
  },
  {
    uplink: { ...uplinkOf(A), proxied: [ip('198.51.100.40')] },
    forwards: [forwardTo(4, { ip: ip('198.51.100.40') })],
  },
)

routing(
  'what may begin no connection is not forwarded',
  (weft) => {
    const base: Packet = { ...replyTo(outbound(4)), destination: ip(A.outside4), protocol: 6, destinationPort: 8080 }
    for (const flags of [0, ACK, RST, FIN, SYN | ACK, SYN | FIN, 0x29, FIN | ACK])
      assert.deepEqual(weft.from(A, A.isp, { ...base, flags }), [], `flags ${flags}`)
    assert.deepEqual(weft.reasons(), { invalid: 8 })
    assert.equal(weft.arena.header[HEADER_CONNECTIONS_USED], 0)
  },
  { forwards: [forwardTo(4)] },
)

const refusing = usualFirewall()
addRule(refusing, DROP, [PATH_IN], { protocol: 6, destinationPorts: [80, 80] })
routing(
  'a rule is stronger than a forward, a policy is not',
  (weft) => {
    const syn: Packet = {
      ...replyTo(outbound(4)),
      destination: ip(A.outside4),
      protocol: 6,
      flags: SYN,
      destinationPort: 8080,
    }
    assert.deepEqual(weft.from(A, A.isp, syn), [])
    assert.deepEqual(weft.reasons(), { policy: 1 })
  },
  { forwards: [forwardTo(4)], firewall: refusing },
)

// ---- hairpin ----

for (const family of FAMILIES)
  routing(
    `a guest uses a forward's outside address, IPv${family}`,
    (weft) => {
      for (const guest of [G2, G1]) {
        const syn = outbound(
          family,
          { destination: ip(outside(family)), protocol: 6, flags: SYN, destinationPort: 8080 },
          guest,
        )
        const inside = hop(syn, {
          source: ip(outside(family)),
          destination: ip(addressOf(G1, family)),
          destinationPort: 80,
        })
        const [sent] = weft.from(A, guest, syn)
        const at = 14 + (family === 4 ? 20 : 40)
        const sourcePort = (sent.bytes[at] << 8) | sent.bytes[at + 1]
        assertFrame(sent, G1.port, G1.mac, A.gatewayMac, { ...inside, sourcePort })
        const answer = replyTo(
          { ...inside, sourcePort },
          { flags: SYN | ACK, acknowledgment: 2, sequence: 9, hopLimit: 64 },
        )
        const back = hop(answer, {
          source: ip(outside(family)),
          sourcePort: 8080,
          destination: syn.source,
          destinationPort: 40000,
        })
        toGuest(weft.from(A, G1, answer), back, guest)
      }
    },
    { forwards: [forwardTo(4), forwardTo(6)] },
  )

routing('two guests meet at their outside ports (RFC 4787 REQ-9)', (weft) => {
  weft.from(A, G1, outbound(4, { sourcePort: 4001 }))
  weft.from(A, G2, outbound(4, { sourcePort: 4002 }, G2))
  const packet = outbound(4, { sourcePort: 4001, destination: ip(A.outside4), destinationPort: 4002 })
  const seen = hop(packet, { source: ip(A.outside4), destination: ip(G2.ip4) })
  toGuest(weft.from(A, G1, packet), seen, G2)
  const reply = replyTo(seen, { hopLimit: 64 })
  toGuest(weft.from(A, G2, reply), hop(reply, { source: ip(A.outside4), destination: ip(G1.ip4) }), G1)
  const other = outbound(4, { sourcePort: 4002, destination: ip(A.outside4), destinationPort: 4001 }, G2)
  toGuest(weft.from(A, G2, other), hop(other, { source: ip(A.outside4), destination: ip(G1.ip4) }), G1)
  assert.deepEqual(weft.drops(), {})
})

routing('an outside port that nobody has leads to the router itself', (weft) => {
  const packet = outbound(4, { destination: ip(A.outside4), destinationPort: 4002 })
  toGuest(weft.from(A, G1, packet), errorAbout(packet, A.gateway4, 3, 3))
  assert.deepEqual(weft.reasons(), { 'not-served': 1 })
})

routing('the router answers a ping to its outside address, whoever has that identifier', (weft) => {
  const ping = outbound(4, { protocol: 1, type: 8, identifier: 7 }, G2)
  weft.from(A, G2, ping)
  const own = outbound(4, { protocol: 1, type: 8, identifier: 7, destination: ip(A.outside4) })
  toGuest(weft.from(A, G1, own), { ...replyTo(own), type: 0, hopLimit: 64 })
})

// ---- filtering ----

for (const [filtering, name, address, port] of [
  [FILTER_NONE, 'endpoint-independent', true, true],
  [FILTER_ADDRESS, 'address-dependent', false, true],
  [FILTER_ADDRESS_AND_PORT, 'address- and port-dependent', false, false],
] as const)
  routing(
    `filtering: ${name}`,
    (weft) => {
      const packet = outbound(4)
      toIsp(weft.from(A, G1, packet), hop(packet, { source: ip(A.outside4) }))
      const back = replyTo({ ...packet, source: ip(A.outside4) })
      const lets = (news: Packet): boolean => {
        const sent = weft.from(A, A.isp, news)
        if (sent.length > 0) toGuest(sent, hop(news, { destination: ip(G1.ip4) }))
        return sent.length > 0
      }
      assert.equal(lets({ ...back, source: ip('192.0.2.99') }), address, 'another address')
      assert.equal(lets({ ...back, sourcePort: 5001 }), port, 'another port')
      assert.equal(lets({ ...back, destinationPort: 40002 }), false, 'a port that nobody has')
      assert.equal(lets({ ...back, protocol: 6, flags: SYN }), false, 'another protocol')
      assert.equal(lets(back), true, 'the answer')
    },
    { filtering },
  )

routing(
  'a guest answers whom its mapping has let in',
  (weft) => {
    weft.from(A, G1, outbound(4))
    const news = replyTo(outbound(4, { source: ip(A.outside4), destination: ip('192.0.2.99') }))
    toGuest(weft.from(A, A.isp, news), hop(news, { destination: ip(G1.ip4) }))
    const answer = outbound(4, { destination: ip('192.0.2.99') })
    toIsp(weft.from(A, G1, answer), hop(answer, { source: ip(A.outside4) }))
  },
  { filtering: FILTER_NONE },
)

// ---- ICMP errors ----

for (const family of FAMILIES) {
  const [unreachable, portCode, exceeded] = family === 4 ? [3, 3, 11] : [1, 4, 3]
  const error = (from: string, to: string, type: number, code: number, quoted: Packet): Packet => ({
    family,
    source: ip(from),
    destination: ip(to),
    protocol: icmp(family),
    type,
    code,
    payload: build(quoted),
  })

  routing(`errors from outside reach the guest, about its own packet, IPv${family}`, (weft) => {
    const [ask] = family === 4 ? [8] : [128]
    for (const more of [{}, { protocol: 6, flags: SYN }, { protocol: icmp(family), type: ask, identifier: 9 }]) {
      // a second guest with the same ports, so that the ports are translated too
      weft.from(A, G2, outbound(family, more, G2))
      const packet = outbound(family, more)
      const [sent] = weft.from(A, G1, packet)
      const l4 = 14 + (family === 4 ? 20 : 40)
      const place = packet.identifier === undefined ? l4 : l4 + 4
      const number = (sent.bytes[place] << 8) | sent.bytes[place + 1]
      const translated = packet.identifier === undefined ? { sourcePort: number } : { identifier: number }
      const seen = hop(packet, { source: ip(outside(family)), ...translated })
      const host = error(server(family), outside(family), unreachable, portCode, { ...seen, hopLimit: 1 })
      const inside = { ...packet, hopLimit: 1 }
      const expected = error(server(family), addressOf(G1, family), unreachable, portCode, inside)
      toGuest(weft.from(A, A.isp, host), hop(expected))
      const way = error(addressOf(A.isp, family), outside(family), exceeded, 0, { ...seen, hopLimit: 1 })
      toGuest(
        weft.from(A, A.isp, way),
        hop(error(addressOf(A.isp, family), addressOf(G1, family), exceeded, 0, inside)),
      )
    }
  })

  routing(
    `errors of a guest go out under the outside address, IPv${family}`,
    (weft) => {
      const packet: Packet = {
        ...replyTo(outbound(family)),
        destination: ip(outside(family)),
        sourcePort: 999,
        destinationPort: 8080,
      }
      const inside = hop(packet, { destination: ip(addressOf(G1, family)), destinationPort: 80 })
      toGuest(weft.from(A, A.isp, packet), inside)
      const refused = error(addressOf(G1, family), server(family), unreachable, portCode, inside)
      const quoted = { ...packet, hopLimit: inside.hopLimit! }
      toIsp(weft.from(A, G1, refused), hop(error(outside(family), server(family), unreachable, portCode, quoted)))
    },
    { forwards: [forwardTo(4, { protocol: 17 }), forwardTo(6, { protocol: 17 })] },
  )

  routing(`errors about nothing known are dropped, IPv${family}`, (weft) => {
    const packet = outbound(family)
    weft.from(A, G1, packet)
    const seen = hop(packet, { source: ip(outside(family)) })
    const wrong: Packet[] = [
      error(server(family), outside(family), unreachable, portCode, { ...seen, sourcePort: 40001 }),
      error(server(family), outside(family), unreachable, portCode, {
        ...seen,
        destination: ip(addressOf(A.isp, family)),
      }),
      error(server(family), outside(family), unreachable, portCode, packet),
      error(server(family), outside(family), unreachable, portCode, { ...seen, protocol: 6 }),
      error(server(family), outside(family), unreachable, portCode, replyTo(seen)),
    ]
    for (const one of wrong) assert.deepEqual(weft.from(A, A.isp, one), [])
    assert.deepEqual(weft.reasons(), { invalid: 5 })
    // and the connection is none the worse
    toGuest(weft.from(A, A.isp, replyTo(seen)), hop(replyTo(seen), { destination: packet.source }))
  })
}

routing(
  'a ping does not hide errors from the same host',
  (weft) => {
    weft.from(A, G1, outbound(4, { protocol: 1, type: 8, identifier: 0 }))
    const packet = outbound(4)
    toIsp(weft.from(A, G1, packet), hop(packet))
    const refused: Packet = { ...replyTo(packet), protocol: 1, type: 3, code: 3, payload: build(hop(packet)) }
    toGuest(weft.from(A, A.isp, refused), hop(refused))
  },
  { nat: [] },
)

// ---- hop limit ----

for (const family of FAMILIES) {
  const [type, code] = family === 4 ? [11, 0] : [3, 0]
  routing(`the hop limit runs out, either way, IPv${family}`, (weft) => {
    for (const hopLimit of [0, 1]) {
      const packet = outbound(family, { hopLimit })
      toGuest(weft.from(A, G1, packet), errorAbout(packet, gateway(family), type, code))
    }
    const packet = outbound(family, { hopLimit: 2 })
    const seen = hop(packet, { source: ip(outside(family)) })
    toIsp(weft.from(A, G1, packet), seen)
    const reply = replyTo(seen, { hopLimit: 1 })
    toIsp(weft.from(A, A.isp, reply), errorAbout(reply, outside(family), type, code))
    assert.deepEqual(weft.reasons(), { 'hop-limit': 3 })
  })
}

routing('errors are limited, the packets are dropped all the same', (weft) => {
  let errors = 0
  for (let i = 0; i < 50; i++) errors += weft.from(A, G1, outbound(4, { hopLimit: 1 })).length
  assert.equal(errors, 10)
  weft.seconds = 1
  assert.equal(weft.from(A, G1, outbound(4, { hopLimit: 1 })).length, 1)
  assert.deepEqual(weft.reasons(), { 'hop-limit': 51 })
})

// ---- size ----

const narrow = { uplink: { ...uplinkOf(A), mtu: 1300 } }

for (const family of FAMILIES)
  routing(
    `a packet that is too big and must not be cut is refused, IPv${family}`,
    (weft) => {
      const bytes = 1300 - (family === 4 ? 28 : 48)
      const fits = outbound(family, { dontFragment: true, payload: new Uint8Array(bytes) })
      toIsp(weft.from(A, G1, fits), hop(fits, { source: ip(outside(family)) }))
      const packet = outbound(family, { dontFragment: true, payload: new Uint8Array(bytes + 1) })
      const [type, code] = family === 4 ? [3, 4] : [2, 0]
      toGuest(weft.from(A, G1, packet), errorAbout(packet, gateway(family), type, code, 1300))
      assert.deepEqual(weft.reasons(), { 'too-big': 1 })
    },
    narrow,
  )

routing(
  'a packet that is too big and may be cut is cut behind the translation',
  (weft) => {
    const payload = Array.from({ length: 1472 }, (_, i) => i & 255)
    const packet = outbound(4, { payload, id: 55 })
    const sent = weft.from(A, G1, packet)
    assert.equal(sent.length, 2)
    const seen = hop(packet, { source: ip(A.outside4) })
    assertFrame(sent[0], A.isp.port, A.isp.mac, A.uplinkMac, {
      ...seen,
      fragment: { id: 55, from: 0, to: 1280, more: true },
    })
    assertFrame(sent[1], A.isp.port, A.isp.mac, A.uplinkMac, {
      ...seen,
      fragment: { id: 55, from: 1280, to: 1480, more: false },
    })
    assert.deepEqual(weft.drops(), {})
  },
  narrow,
)

/** A TCP frame for segmentation, with so many bytes of payload in segments of that many. */
function gso(family: Family, bytes: number, segment: number): [Packet, [number, number][]] {
  const packet = outbound(family, {
    protocol: 6,
    flags: ACK,
    isUnfinished: true,
    payload: new Uint8Array(bytes),
    sequence: 101,
    acknowledgment: 501,
    dontFragment: true,
  })
  const l4 = 14 + (family === 4 ? 20 : 40)
  return [
    packet,
    [
      [OFFLOAD, OFFLOAD_CHECKSUM | ((family === 4 ? 1 : 4) << 8)],
      [CHECKSUM_START, l4],
      [CHECKSUM_OFFSET, 16],
      [8, segment],
      [11, l4 + 20],
    ],
  ]
}

for (const family of FAMILIES)
  routing(
    `a segmentation-offload frame is measured by its segments, IPv${family}`,
    (weft) => {
      const tcp = { protocol: 6, payload: [], sequence: 100 }
      weft.from(A, G1, outbound(family, { ...tcp, flags: SYN }))
      const answer = replyTo(outbound(family, { ...tcp, source: ip(outside(family)) }), {
        flags: SYN | ACK,
        sequence: 500,
        acknowledgment: 101,
        window: 65535,
      })
      weft.from(A, A.isp, answer)
      weft.from(A, G1, outbound(family, { ...tcp, flags: ACK, sequence: 101, acknowledgment: 501 }))
      const header = family === 4 ? 40 : 60
      const [packet, fields] = gso(family, 20000, 1300 - header)
      toIsp(weft.from(A, G1, packet, fields), hop(packet, { source: ip(outside(family)) }))
      const [long, longFields] = gso(family, 20000, 1300 - header + 1)
      const sent = weft.from(A, G1, long, longFields)
      assert.equal(sent.length, 1)
      assert.equal(sent[0].port, G1.port)
      const at = 14 + (family === 4 ? 20 : 40)
      assert.deepEqual([...sent[0].bytes.subarray(at, at + 2)], family === 4 ? [3, 4] : [2, 0])
      assert.deepEqual(weft.reasons(), { 'too-big': 1 })
    },
    narrow,
  )

routing(
  'what is too big from outside is refused there',
  (weft) => {
    const packet = outbound(4)
    weft.from(A, G1, packet)
    const reply = replyTo(hop(packet, { source: ip(A.outside4) }), {
      dontFragment: true,
      payload: new Uint8Array(1473),
    })
    toIsp(weft.from(A, A.isp, reply), errorAbout(reply, A.outside4, 3, 4, 1500))
  },
  { uplink: { ...uplinkOf(A), mtu: 9000 } },
)

for (const family of FAMILIES)
  routing(
    `the MSS is clamped where the MTUs differ, both ways, IPv${family}`,
    (weft) => {
      const least = 1300 - (family === 4 ? 40 : 60)
      const mss = (value: number): number[] => [2, 4, value >> 8, value & 255]
      const syn = outbound(family, { protocol: 6, flags: SYN, tcpOptions: mss(1460), sequence: 1 })
      const seen = hop(syn, { source: ip(outside(family)), tcpOptions: mss(least) })
      toIsp(weft.from(A, G1, syn), seen)
      const answer = replyTo(seen, {
        flags: SYN | ACK,
        tcpOptions: mss(1440),
        sequence: 9,
        acknowledgment: 7,
        payload: [],
      })
      toGuest(weft.from(A, A.isp, answer), hop(answer, { destination: syn.source, tcpOptions: mss(least) }))
      const small = { ...syn, sourcePort: 1111, tcpOptions: mss(500) }
      toIsp(weft.from(A, G1, small), hop(small, { source: ip(outside(family)) }))
    },
    narrow,
  )

routing('where the MTUs are the same, the MSS stays', (weft) => {
  const syn = outbound(4, { protocol: 6, flags: SYN, tcpOptions: [2, 4, 9000 >> 8, 9000 & 255] })
  toIsp(weft.from(A, G1, syn), hop(syn, { source: ip(A.outside4) }))
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
    ].map((part) => ({ ...packet, fragment: { id: 0x4321, ...part } }))

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
      const reply = replyTo(seen, { hopLimit: 60 })
      const back = order.flatMap((i) => weft.from(A, A.isp, pieces(reply)[i]))
      assert.equal(back.length, 3)
      for (const [i, which] of inOrder.entries())
        assertFrame(back[i], G1.port, G1.mac, A.gatewayMac, pieces(hop(reply, { destination: packet.source }))[which])
      assert.deepEqual(weft.drops(), {})
      weft.wait(20)
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
  'when all outside ports are taken, a new one is refused, and known ones go on',
  (weft) => {
    const seen: SentFrame[][] = []
    for (let i = 0; i < 20; i++) seen.push(weft.from(A, G1, outbound(4, { sourcePort: 2000 + i })))
    assert.equal(seen.filter(({ length }) => length === 1).length, 16)
    assert.deepEqual(weft.reasons(), { 'no-nat-port': 4 })
    assert.equal(weft.from(A, G1, outbound(4, { sourcePort: 2000, destinationPort: 1 })).length, 1)
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
