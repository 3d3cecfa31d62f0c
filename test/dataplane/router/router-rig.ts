/**
 * A switch with routers, for the tests of the router through the whole pipeline: one zone or two, each with guests on a
 * LAN segment and a host outside on its uplink segment, and the router's own port on both.
 *
 *   zone a: LAN segment 0, ports 1 to 4, gateway port 10; uplink segment 1, port 5, gateway port 11
 *   zone b: LAN segment 2, ports 21 to 24, gateway port 30; uplink segment 3, port 25, gateway port 31
 *
 * Hosts have a port, a MAC and addresses; `teach` lets the router know them all, by ARP and neighbor discovery, so that
 * nothing has to wait. Frames are built and compared by `packet-builder.ts`: what the router changed is rebuilt from
 * the changed description, checksums included.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Loop } from '../../../src/dataplane/loop.js'
import type { Geometry } from '../../../src/dataplane/layout.js'
import { COUNTER_SHIFT, HEADER_NOW, HEADER_SECRET } from '../../../src/dataplane/layout.js'
import { type CompiledPort, PORT_GATEWAY, PORT_LINK } from '../../../src/dataplane/port-table.js'
import { TIMEOUTS } from '../../../src/dataplane/router/connections.js'
import {
  ACCEPT,
  type CompiledFirewall,
  DROP,
  END_ANY,
  PATHS,
  RULE_DESTINATION_PORTS,
  RULE_FAMILY,
  RULE_FROM,
  RULE_ICMP,
  RULE_ICMP_MASK,
  RULE_PATHS,
  RULE_PROTOCOL,
  RULE_SOURCE_PORTS,
  RULE_STATES,
  RULE_TO,
  RULE_VERDICT,
  RULE_WORDS,
  STATE_NEW,
  VERDICT_RULE_SHIFT,
} from '../../../src/dataplane/router/firewall.js'
import {
  type CompiledRoute,
  type CompiledRouter,
  type CompiledSegment,
  FILTER_ADDRESS_AND_PORT,
} from '../../../src/dataplane/router/router-table.js'
import { MESSAGE_SERVICE, RING_ID, RING_KIND, RING_LENGTH, RING_PORT } from '../../../src/dataplane/ring.js'
import type { SentFrame } from '../../../src/ports/memory.js'
import { GEOMETRY, Switch, plain } from '../rig.js'
import { ANY_ID, type Packet, build, hex } from './packet-builder.js'

/** An IPv4 address as one word, an IPv6 address as four. */
export function ip(text: string): number[] {
  if (!text.includes(':')) return [text.split('.').reduce((sum, octet) => (sum << 8) | Number(octet), 0)]
  const [head, tail] = text.split('::')
  const groups = (part: string | undefined): number[] =>
    part ? part.split(':').map((g) => Number.parseInt(g, 16)) : []
  const first = groups(head)
  const last = groups(tail)
  const all = [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last]
  return [0, 2, 4, 6].map((i) => (all[i] << 16) | all[i + 1])
}

const octetsOf = (mac: string): number[] => mac.split(':').map((octet) => Number.parseInt(octet, 16))
/** A MAC in the FDB's words. */
export function macWords(mac: string): { low: number; high: number } {
  const [a, b, c, d, e, f] = octetsOf(mac)
  return { high: a | (b << 8), low: c | (d << 8) | (e << 16) | (f << 24) }
}

export interface Host {
  port: number
  mac: string
  ip4: string
  ip6: string
}

/** The hosts and addresses of a zone, by its letter. */
export interface Site {
  lan: number
  uplink: number
  gatewayPort: number
  uplinkGatewayPort: number
  gatewayMac: string
  uplinkMac: string
  gateway4: string
  gateway6: string
  outside4: string
  outside6: string
  guests: Host[]
  /** the next router outside, to which all default routes lead */
  isp: Host
  subnet4: string
  subnet6: string
}

function site(index: number): Site {
  const n = index + 1
  const portOf = index * 20
  return {
    lan: index * 2,
    uplink: index * 2 + 1,
    gatewayPort: portOf + 10,
    uplinkGatewayPort: portOf + 11,
    gatewayMac: `02:aa:00:00:0${n}:01`,
    uplinkMac: `02:aa:00:00:0${n}:02`,
    gateway4: `10.0.${n}.1`,
    gateway6: `fd00:0:0:${n}::1`,
    outside4: `198.51.100.${n}`,
    outside6: `2001:db8:${n}::1`,
    guests: [1, 2, 3, 4].map((guest) => ({
      port: portOf + guest,
      mac: `02:00:00:0${n}:00:0${guest}`,
      ip4: `10.0.${n}.1${guest}`,
      ip6: `fd00:0:0:${n}::1${guest}`,
    })),
    isp: { port: portOf + 5, mac: `02:ee:00:00:0${n}:01`, ip4: '198.51.100.254', ip6: `2001:db8:${n}::fe` },
    subnet4: `10.0.${n}.0`,
    subnet6: `fd00:0:0:${n}::`,
  }
}

export const A = site(0)
export const B = site(1)
export const SERVER4 = '192.0.2.80'
export const SERVER6 = '2001:db8:ffff::80'

export const openFirewall = (): CompiledFirewall => ({
  policies: new Array<number>(PATHS).fill(ACCEPT),
  rules: [],
  identities: [],
  ranges: [],
  ranges6: [],
})

/** What INTERFACE.md says without rules: guests may, the outside may not. */
export const usualFirewall = (): CompiledFirewall => ({
  ...openFirewall(),
  policies: [ACCEPT, DROP, ACCEPT, ACCEPT, DROP],
})

export interface RuleOptions {
  states?: number
  family?: number
  protocol?: number
  icmp?: number
  from?: [end: number, first: number, count: number]
  to?: [end: number, first: number, count: number]
  destinationPorts?: [first: number, last: number]
}

/** Adds a rule to a firewall. */
export function addRule(to: CompiledFirewall, action: number, paths: number[], options: RuleOptions = {}): void {
  const row = new Array<number>(RULE_WORDS).fill(0)
  const place = to.rules.length / RULE_WORDS + 1
  row[RULE_VERDICT] = action | (place << VERDICT_RULE_SHIFT)
  row[RULE_PATHS] = paths.reduce((bits, path) => bits | (1 << path), 0)
  row[RULE_STATES] = options.states ?? STATE_NEW
  row[RULE_FAMILY] = options.family ?? 0
  row[RULE_PROTOCOL] = options.protocol ?? -1
  row[RULE_ICMP_MASK] = options.icmp === undefined ? 0 : 0xffff
  row[RULE_ICMP] = options.icmp ?? 0
  const ends: [at: number, end: [number, number, number] | undefined][] = [
    [RULE_FROM, options.from],
    [RULE_TO, options.to],
  ]
  for (const [at, end] of ends) {
    row[at] = end?.[0] ?? END_ANY
    row[at + 1] = end?.[1] ?? 0
    row[at + 2] = end?.[2] ?? 0
  }
  row[RULE_SOURCE_PORTS + 1] = -1
  row[RULE_DESTINATION_PORTS + 1] = -1
  if (options.destinationPorts !== undefined) {
    row[RULE_DESTINATION_PORTS] = to.ranges.length / 2
    row[RULE_DESTINATION_PORTS + 1] = 1
    to.ranges.push(...options.destinationPorts)
  }
  to.rules.push(...row)
  to.identities.push(`rule ${place}`)
}

export function lanOf(at: Site): CompiledSegment {
  const { low, high } = macWords(at.gatewayMac)
  return {
    segment: at.lan,
    gatewayPort: at.gatewayPort,
    macLow: low,
    macHigh: high,
    vid: 0,
    mtu: 1500,
    addresses: [
      { ip: ip(at.gateway4), prefix: 24 },
      { ip: ip(at.gateway6), prefix: 64 },
      { ip: ip('fe80::1'), prefix: 64 },
    ],
    proxied: [],
    services: 0,
  }
}

export function uplinkOf(at: Site): CompiledSegment {
  const { low, high } = macWords(at.uplinkMac)
  return {
    segment: at.uplink,
    gatewayPort: at.uplinkGatewayPort,
    macLow: low,
    macHigh: high,
    vid: 0,
    mtu: 1500,
    addresses: [
      { ip: ip(at.outside4), prefix: 24 },
      { ip: ip(at.outside6), prefix: 64 },
      { ip: ip('fe80::2'), prefix: 64 },
    ],
    proxied: [],
    services: 0,
  }
}

export const routesOf = (at: Site): CompiledRoute[] => [
  { ip: ip(at.subnet6), prefix: 64, segment: at.lan, gateway: null },
  { ip: ip(at.outside6), prefix: 64, segment: at.uplink, gateway: null },
  { ip: ip(at.subnet4), prefix: 24, segment: at.lan, gateway: null },
  { ip: ip(at.outside4), prefix: 24, segment: at.uplink, gateway: null },
  { ip: [0], prefix: 0, segment: at.uplink, gateway: ip(at.isp.ip4) },
  { ip: [0, 0, 0, 0], prefix: 0, segment: at.uplink, gateway: ip(at.isp.ip6) },
]

/** A router with NAT for both families and the usual firewall. */
export function routerOf(at: Site, more: Partial<CompiledRouter> = {}): CompiledRouter {
  return {
    zone: at.lan,
    lan: lanOf(at),
    uplink: uplinkOf(at),
    routes: routesOf(at),
    nat: [
      { ip: ip(at.outside4), firstPort: 1024, lastPort: 65535 },
      { ip: ip(at.outside6), firstPort: 1024, lastPort: 65535 },
    ],
    filtering: FILTER_ADDRESS_AND_PORT,
    forwards: [],
    isOpen: false,
    firewall: usualFirewall(),
    timeouts: TIMEOUTS.map(({ seconds }) => seconds),
    connectionLimit: 512,
    portLimit: 256,
    ...more,
  }
}

/** A frame with this IP packet. */
export function framed(to: string, from: string, packet: Uint8Array, type = packet[0] >> 4 === 6 ? 0x86dd : 0x0800) {
  return Uint8Array.from([...octetsOf(to), ...octetsOf(from), type >> 8, type & 255, ...packet])
}

const words = (address: number[]): number[] =>
  address.flatMap((w) => [w >>> 24, (w >>> 16) & 255, (w >>> 8) & 255, w & 255])

/** The 28 bytes of an ARP packet. */
export function arp(operation: number, fromMac: string, from: string, toMac: string, to: string): Uint8Array {
  return Uint8Array.from([
    0,
    1,
    8,
    0,
    6,
    4,
    0,
    operation,
    ...octetsOf(fromMac),
    ...words(ip(from)),
    ...octetsOf(toMac),
    ...words(ip(to)),
  ])
}

/** A neighbor solicitation (135) or advertisement (136) as an IPv6 packet. */
export function discovery(
  type: number,
  from: string,
  to: string,
  target: string,
  options: { flags?: number; option?: number; mac?: string; hopLimit?: number } = {},
): Uint8Array {
  const option = options.mac === undefined ? [] : [options.option ?? type - 134, 1, ...octetsOf(options.mac)]
  return build({
    family: 6,
    source: ip(from),
    destination: ip(to),
    protocol: 58,
    type,
    word: options.flags ?? 0,
    hopLimit: options.hopLimit ?? 255,
    payload: [...words(ip(target)), ...option],
  })
}

export const BROADCAST = 'ff:ff:ff:ff:ff:ff'
export const NOBODY = '00:00:00:00:00:00'

export interface Served {
  segment: number
  port: number
  bytes: Uint8Array
}

export class Routed extends Switch {
  constructor(geometry: Geometry = { ...GEOMETRY, connectionCapacity: 1024 }) {
    super(geometry)
    for (let i = 0; i < 4; i++) this.arena.header[HEADER_SECRET + i] = Math.imul(0x9e3779b9, i + 3)
  }

  /**
   * Configures a zone's ports and router.
   * @param guestFlags of the guests' ports, besides PORT_LINK
   */
  site(at: Site, router: CompiledRouter | null = routerOf(at), guestFlags = 0, port: Partial<CompiledPort> = {}): void {
    const gateway = { flags: PORT_LINK | PORT_GATEWAY, mtu: 9000, offloads: 15, macLimit: 1 }
    const guests = at.guests.map((guest) => plain(guest.port, { ...port, flags: PORT_LINK | guestFlags }))
    this.ports([...guests, plain(at.gatewayPort, gateway)], at.lan)
    this.ports([plain(at.isp.port, { mtu: 9000 }), plain(at.uplinkGatewayPort, gateway)], at.uplink)
    const { pipeline } = this.loop
    const lan = macWords(at.gatewayMac)
    const uplink = macWords(at.uplinkMac)
    pipeline.fdb.addStatic(lan.low, lan.high, at.lan, at.gatewayPort)
    pipeline.fdb.addStatic(uplink.low, uplink.high, at.uplink, at.uplinkGatewayPort)
    pipeline.configureRouter(at.lan, router)
  }

  /** Lets the router know all hosts of a site. */
  teach(at: Site): void {
    for (const guest of at.guests) this.greet(guest, at.gatewayMac, at.gateway4, at.gateway6)
    this.greet(at.isp, at.uplinkMac, at.outside4, at.outside6)
    this.driver.sent.splice(0)
  }

  /** A host asks for its gateway, and so makes itself known. */
  greet(host: Host, gatewayMac: string, gateway4: string, gateway6: string): void {
    this.give(host.port, framed(BROADCAST, host.mac, arp(1, host.mac, host.ip4, NOBODY, gateway4), 0x0806))
    const solicitation = discovery(135, host.ip6, gateway6, gateway6, { mac: host.mac })
    this.give(host.port, framed(gatewayMac, host.mac, solicitation))
    this.run()
  }

  /** A host of a site sends an IP packet to its gateway. */
  from(at: Site, host: Host, packet: Packet | Uint8Array, fields: [number, number][] = []): SentFrame[] {
    const gateway = host === at.isp ? at.uplinkMac : at.gatewayMac
    return this.pass(
      host.port,
      framed(gateway, host.mac, packet instanceof Uint8Array ? packet : build(packet)),
      fields,
    )
  }

  /** What the services got since the last time. */
  served(): Served[] {
    const found: Served[] = []
    const { punt } = this
    for (let index = punt.peek(); index >= 0; index = punt.peek()) {
      const header = punt.header()
      if (header[index + RING_KIND] === MESSAGE_SERVICE) {
        const at = punt.place(index)
        const bytes = this.arena.bytes.slice(at, at + header[index + RING_LENGTH])
        found.push({ segment: header[index + RING_ID], port: header[index + RING_PORT], bytes })
      }
      punt.consume(index)
    }
    return found
  }

  /** A new shard process on the same arena. The caller configures it anew. */
  restart(): void {
    const loop = new Loop(this.arena, this.driver, GEOMETRY.ports, Int32Array.of(1, 2, 3, 4))
    Object.assign(this, { loop })
  }

  /** The seconds pass one by one, each with its sweep. Returns what was sent. */
  wait(seconds: number): SentFrame[] {
    const from = this.now
    const sent: SentFrame[] = []
    for (let i = 1; i <= seconds; i++) {
      this.seconds = from + i
      sent.push(...this.run())
    }
    return sent
  }

  get now(): number {
    return this.arena.header[HEADER_NOW]
  }

  /** All drops with a reason, by reason alone. */
  reasons(): Record<string, number> {
    const result: Record<string, number> = {}
    for (const [key, count] of Object.entries(this.drops())) {
      const reason = key.slice(key.indexOf(' ') + 1)
      result[reason] = (result[reason] ?? 0) + count
    }
    return result
  }

  /** Frames that a port got. */
  gotten(port: number): number {
    return this.arena.counters[(port << COUNTER_SHIFT) + 2]
  }
}

/** A test of a switch with zone a configured and its hosts known, whose pool must be whole at its end. */
export function routing(name: string, body: (weft: Routed) => void, router: Partial<CompiledRouter> = {}): void {
  test(name, () => {
    const weft = new Routed()
    weft.site(A, routerOf(A, router))
    weft.teach(A)
    body(weft)
    weft.checkPool()
  })
}

/** One frame was sent: by this port, from and to these MACs, and it is this packet. */
export function assertSent(sent: SentFrame[], port: number, to: string, from: string, packet: Packet): void {
  assert.equal(sent.length, 1, `${sent.length} frames sent`)
  assertFrame(sent[0], port, to, from, packet)
}

export function assertFrame(sent: SentFrame, port: number, to: string, from: string, packet: Packet): void {
  assert.equal(sent.port, port, 'the port')
  assert.equal(hex(sent.bytes.subarray(0, 6)), to.replaceAll(':', ''), 'the destination MAC')
  assert.equal(hex(sent.bytes.subarray(6, 12)), from.replaceAll(':', ''), 'the source MAC')
  assert.equal(hex(sent.bytes.subarray(14)), hex(build(numbered(packet, sent.bytes))), 'the packet')
}

/** The identification of a frame's packet: of IPv6, whose fragment header comes first. */
export function idOf(frame: Uint8Array): number {
  const view = new DataView(frame.buffer, frame.byteOffset)
  return frame[14] >> 4 === 4 ? view.getUint16(18) : view.getUint32(58)
}

/** A packet with the identification that a frame has, if it may be any. */
export function numbered(packet: Packet, frame: Uint8Array): Packet {
  const { fragment } = packet
  if (fragment?.id === ANY_ID) return { ...packet, fragment: { ...fragment, id: idOf(frame) } }
  return packet.family === 4 && packet.id === ANY_ID && !fragment ? { ...packet, id: idOf(frame) } : packet
}
