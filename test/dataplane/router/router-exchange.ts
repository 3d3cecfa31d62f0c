/**
 * Packets between the guests of zone a and the outside, for the tests of the router: what a guest sends, what it is one
 * hop further, its answer, and the ICMP error that a router makes of it; all as descriptions, to build and to compare.
 */
import type { CompiledForward } from '../../../src/dataplane/router/router-table.js'
import type { SentFrame } from '../../../src/ports/memory.js'
import { ANY_ID, type Packet, build } from './packet-builder.js'
import { A, type Host, SERVER4, SERVER6, assertSent, ip } from './router-rig.js'

export const SYN = 2
export const ACK = 16
export const RST = 4
export const FIN = 1
export const [G1, G2, G3] = A.guests
export type Family = 4 | 6
export const FAMILIES: Family[] = [4, 6]
export const addressOf = (host: Host, family: Family): string => (family === 4 ? host.ip4 : host.ip6)
export const server = (family: Family): string => (family === 4 ? SERVER4 : SERVER6)
export const outside = (family: Family): string => (family === 4 ? A.outside4 : A.outside6)
export const gateway = (family: Family): string => (family === 4 ? A.gateway4 : A.gateway6)
export const icmp = (family: Family): number => (family === 4 ? 1 : 58)

/** From a guest to the server outside. */
export function outbound(family: Family, more: Partial<Packet> = {}, host: Host = G1): Packet {
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

/**
 * What a packet is one hop further, with these changes. One with another source has another identification as well,
 * unless nobody needs it (RFC 6864).
 */
export const hop = (packet: Packet, more: Partial<Packet> = {}): Packet => ({
  ...packet,
  hopLimit: (packet.hopLimit ?? 64) - 1,
  ...(more.source !== undefined && packet.dontFragment !== true ? { id: ANY_ID } : {}),
  ...more,
})

/** The answer to a packet. */
export const replyTo = (packet: Packet, more: Partial<Packet> = {}): Packet => ({
  ...packet,
  source: packet.destination,
  destination: packet.source,
  sourcePort: packet.destinationPort ?? 0,
  destinationPort: packet.sourcePort ?? 0,
  ...(packet.id === ANY_ID ? { id: 1 } : {}),
  ...more,
})

/** An ICMP error of a router's about a packet as it came. */
export function errorAbout(packet: Packet, from: string, type: number, code: number, word = 0): Packet {
  const quote = build(packet).subarray(0, packet.family === 4 ? 576 - 28 : 1280 - 48)
  const base = { source: ip(from), destination: packet.source, type, code, word, payload: quote }
  if (packet.family === 6) return { ...base, family: 6, protocol: 58 }
  return { ...base, family: 4, protocol: 1, typeOfService: 0xc0, dontFragment: true, id: 0 }
}

export const toIsp = (sent: SentFrame[], packet: Packet): void =>
  assertSent(sent, A.isp.port, A.isp.mac, A.uplinkMac, packet)
export const toGuest = (sent: SentFrame[], packet: Packet, guest: Host = G1): void =>
  assertSent(sent, guest.port, guest.mac, A.gatewayMac, packet)

export const forwardTo = (family: Family, more: Partial<CompiledForward> = {}): CompiledForward => ({
  protocol: 6,
  family,
  ip: null,
  firstPort: 8080,
  lastPort: 8080,
  to: ip(addressOf(G1, family)),
  toPort: 80,
  ...more,
})
