/**
 * What the router says of packets that it does not pass on, and what it makes of others' errors, through the whole
 * pipeline: ICMP errors translated with what they quote, hop limits, sizes, MSS.
 */
import assert from 'node:assert/strict'
import { CHECKSUM_OFFSET, CHECKSUM_START, OFFLOAD, OFFLOAD_CHECKSUM } from '../../../src/dataplane/layout.js'
import { type Packet, build } from './packet-builder.js'
import {
  ACK,
  FAMILIES,
  type Family,
  G1,
  G2,
  SYN,
  addressOf,
  errorAbout,
  forwardTo,
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
import { A, assertFrame, idOf, ip, routing, uplinkOf } from './router-rig.js'

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
      const seen = hop(packet, { source: ip(outside(family)), ...translated, id: 1 })
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
    const id = idOf(sent[0].bytes)
    assert.notEqual(id, 55)
    assertFrame(sent[0], A.isp.port, A.isp.mac, A.uplinkMac, {
      ...seen,
      fragment: { id, from: 0, to: 1280, more: true },
    })
    assertFrame(sent[1], A.isp.port, A.isp.mac, A.uplinkMac, {
      ...seen,
      fragment: { id, from: 1280, to: 1480, more: false },
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
