/**
 * Known connections against new ones: a packet must come out of the router the same whether it begins a connection or
 * belongs to one, of whatever shape it is (`reference/safety.md`: each packet cold and warm). Random packets go out and
 * are answered several times over; each is compared with one built anew.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  EGRESS_CHECKSUM,
  HEADER_CONNECTIONS_USED,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
} from '../../../src/dataplane/layout.js'
import { randomFrom } from '../rig.js'
import { type Packet, build, randomPacket } from './packet-builder.js'
import {
  ACK,
  type Family,
  G1,
  SYN,
  addressOf,
  hop,
  outside,
  replyTo,
  server,
  toGuest,
  toIsp,
} from './router-exchange.js'
import { A, Routed, ip, routerOf } from './router-rig.js'

/** What a device says of a packet with an unfinished checksum. */
function unfinished(packet: Packet): [number, number][] {
  if (!packet.isUnfinished) return []
  const bytes = build(packet)
  const headers = packet.family === 4 ? (bytes[0] & 15) * 4 : 40 + (packet.extensions === undefined ? 0 : 24)
  const place = packet.protocol === 6 ? 16 : packet.protocol === 17 ? 6 : 2
  return [
    [OFFLOAD, OFFLOAD_CHECKSUM],
    [CHECKSUM_START, 14 + headers],
    [CHECKSUM_OFFSET, place],
  ]
}

for (const isTranslated of [true, false])
  test(`cold and warm, ${isTranslated ? 'with' : 'without'} NAT`, () => {
    const weft = new Routed()
    const limits = { connectionLimit: 1024, portLimit: 1024 }
    weft.site(A, routerOf(A, isTranslated ? limits : { ...limits, nat: [] }))
    weft.teach(A)
    const random = randomFrom(7)
    for (let i = 0; i < 1500; i++) {
      const shape = randomPacket(random)
      const family: Family = shape.family
      const { protocol } = shape
      if (protocol === 47 || protocol === 132 || protocol === 33 || protocol === 136) continue
      const isEcho = protocol === 1 || protocol === 58
      const packet: Packet = {
        ...shape,
        source: ip(addressOf(G1, family)),
        destination: ip(server(family)),
        sourcePort: 2000 + i,
        destinationPort: 80,
        flags: SYN,
        sequence: 1000,
        acknowledgment: 0,
      }
      if (isEcho) Object.assign(packet, { type: family === 4 ? 8 : 128, identifier: 2000 + i })
      if (protocol === 6) packet.payload = []
      const source = isTranslated ? ip(outside(family)) : packet.source
      for (let times = 0; times < 3; times++) {
        const sent = weft.from(A, G1, packet, unfinished(packet))
        toIsp(sent, hop(packet, { source }))
        assert.equal(sent[0].flags, packet.isUnfinished ? EGRESS_CHECKSUM : 0)
      }
      const seen = hop(packet, { source, hopLimit: 64 })
      const more: Partial<Packet> = isEcho ? { type: family === 4 ? 0 : 129 } : {}
      if (protocol === 6) Object.assign(more, { flags: SYN | ACK, acknowledgment: 1001 })
      const reply = replyTo(seen, more)
      for (let times = 0; times < 2; times++)
        toGuest(weft.from(A, A.isp, reply, unfinished(reply)), hop(reply, { destination: packet.source }))
      // once more, where both ends have been heard
      if (protocol === 6) {
        const data = { ...packet, flags: ACK, sequence: 1001, acknowledgment: 1001, payload: shape.payload ?? [] }
        for (let times = 0; times < 2; times++) toIsp(weft.from(A, G1, data, unfinished(data)), hop(data, { source }))
      } else {
        toIsp(weft.from(A, G1, packet, unfinished(packet)), hop(packet, { source }))
      }
      // what must not pass of a new connection must not of a known one
      for (const wrong of [{ hopLimit: 1 }, { options: [131, 3, 4, 0] }]) {
        if (family === 6 && 'options' in wrong) continue
        const sent = weft.from(A, G1, { ...packet, extensions: [], ...wrong, isUnfinished: false })
        assert.ok(
          sent.every(({ port }) => port === G1.port),
          'it passed',
        )
      }
      const broken = build({ ...packet, isUnfinished: false })
      if (family === 4) {
        broken[10] ^= 0x10
        assert.deepEqual(weft.from(A, G1, broken), [])
      }
      const long = build({ ...packet, isUnfinished: false })
      assert.deepEqual(weft.from(A, G1, long.subarray(0, long.length - 1)), [], 'cut off')
    }
    assert.ok(weft.arena.header[HEADER_CONNECTIONS_USED] > 0)
    weft.checkPool()
  })
