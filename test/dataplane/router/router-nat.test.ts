/**
 * The router's translation of addresses through the whole pipeline: NAT both ways, forwards, hairpin, and what of the
 * outside may use a guest's mapping. Every packet that comes out is compared with one built anew from what it should
 * say, checksums included.
 */
import assert from 'node:assert/strict'
import {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  EGRESS_CHECKSUM,
  HEADER_CONNECTIONS_USED,
  HEADER_LENGTH,
  HEADER_ROUTED_PACKETS,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  SEGMENT_BYTES,
} from '../../../src/dataplane/layout.js'
import { DROP, PATH_IN } from '../../../src/dataplane/router/firewall.js'
import { FILTER_ADDRESS, FILTER_ADDRESS_AND_PORT, FILTER_NONE } from '../../../src/dataplane/router/router-table.js'
import { type Packet, build } from './packet-builder.js'
import {
  ACK,
  FAMILIES,
  FIN,
  G1,
  G2,
  RST,
  SYN,
  addressOf,
  errorAbout,
  forwardTo,
  hop,
  icmp,
  outbound,
  outside,
  replyTo,
  toGuest,
  toIsp,
} from './router-exchange.js'
import {
  A,
  addRule,
  arp,
  assertFrame,
  framed,
  type Host,
  idOf,
  ip,
  routerOf,
  routing,
  uplinkOf,
  usualFirewall,
} from './router-rig.js'

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
  const seen = build(hop(packet, { source: ip(A.outside4), id: idOf(sent.bytes) }))
  assert.deepEqual(sent.bytes.subarray(14, 14 + padded.length - 3), seen)
})

routing('packets that may be cut have numbers of their own behind the router, atomic ones keep theirs', (weft) => {
  const sendAll = (more: Partial<Packet>, fields: [number, number][] = []): number[] =>
    [G1, G2, G1, G2].map((guest) => idOf(weft.from(A, guest, outbound(4, { id: 7, ...more }, guest), fields)[0].bytes))
  for (let round = 0; round < 3; round++) {
    const [first, ...others] = sendAll({})
    assert.deepEqual(
      others,
      [1, 2, 3].map((i) => (first + i) & 0xffff),
    )
    const [other] = sendAll({ destination: ip('192.0.2.99') })
    assert.notEqual(other, others[2] + 1, 'another far end, other numbers')
    assert.deepEqual(sendAll({ dontFragment: true }), [7, 7, 7, 7])
  }
  // the second half of a forward's conversation: the guest's answers
  const back = replyTo(outbound(4, { source: ip(A.outside4) }))
  weft.from(A, A.isp, back)
  assert.equal(idOf(weft.from(A, A.isp, { ...back, id: 7 })[0].bytes), 7, 'to a guest nothing is changed')
})

routing('a frame for segmentation takes as many numbers as it becomes datagrams', (weft) => {
  const send = (bytes: number, fields: [number, number][] = []): number => {
    const packet = outbound(4, { payload: new Uint8Array(bytes), isUnfinished: fields.length > 0 })
    return idOf(weft.from(A, G1, packet, fields)[0].bytes)
  }
  const offload: [number, number][] = [
    [OFFLOAD, OFFLOAD_CHECKSUM],
    [CHECKSUM_START, 34],
    [CHECKSUM_OFFSET, 6],
    [SEGMENT_BYTES, 1000],
    [HEADER_LENGTH, 42],
  ]
  for (let round = 0; round < 3; round++) {
    const first = send(10)
    assert.equal(send(4100, offload), (first + 1) & 0xffff)
    assert.equal(send(10), (first + 6) & 0xffff)
    const answer = replyTo(outbound(4, { source: ip(A.outside4) }))
    weft.from(A, A.isp, answer)
  }
})

// ---- one outside port for several guests ----

for (const protocol of [17, 47])
  routing(
    `two guests share what they have outside, and each has its own answers, protocol ${protocol}`,
    (weft) => {
      const to = (host: Host, destination: string, more: Partial<Packet> = {}): Packet =>
        outbound(4, { protocol, destination: ip(destination), sourcePort: 3000, ...more }, host)
      for (const [guest, server] of [
        [G1, '192.0.2.1'],
        [G2, '192.0.2.2'],
      ] as const)
        for (let i = 0; i < 3; i++) {
          const packet = to(guest, server)
          const seen = hop(packet, { source: ip(A.outside4) })
          toIsp(weft.from(A, guest, packet), seen)
          toGuest(weft.from(A, A.isp, replyTo(seen)), hop(replyTo(seen), { destination: packet.source }), guest)
        }
      assert.deepEqual(weft.from(A, G2, to(G2, '192.0.2.1')), [], 'answers of one far end cannot be told apart')
      assert.deepEqual(weft.reasons(), { 'no-nat-port': 1 })
      const error = errorAbout(hop(to(G2, '192.0.2.2'), { source: ip(A.outside4) }), A.isp.ip4, 3, 1)
      assert.equal(weft.from(A, A.isp, error)[0].port, G2.port, 'an error goes to whom it is about')
    },
    { nat: [{ ip: ip(A.outside4), firstPort: 3000, lastPort: 3000 }] },
  )

routing(
  'no port is shared where more than answers may come in',
  (weft) => {
    for (let i = 0; i < 2; i++) {
      weft.from(A, G1, outbound(4))
      weft.from(A, A.isp, replyTo(outbound(4, { source: ip(A.outside4), sourcePort: 3000 })))
    }
    assert.deepEqual(weft.from(A, G2, outbound(4, { destination: ip('192.0.2.9') }, G2)), [])
    assert.deepEqual(weft.reasons(), { 'no-nat-port': 1 })
  },
  { nat: [{ ip: ip(A.outside4), firstPort: 3000, lastPort: 3000 }], filtering: FILTER_ADDRESS },
)

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
