/**
 * One router: its addresses, routes and forwards as arrays, and the questions that the frame path asks of them.
 *
 * An answer that is a place (`route`, `forward`) is an index into the arrays here. All lists are searched in order:
 * they are short (see the limits of `src/control/definition.ts`), and only a connection's first packet asks.
 */
import { isLinkLocal6 } from './address-kinds.js'
import type { Flow } from './flow.js'
import type { CompiledPrefix, CompiledRouter, CompiledSegment, Ip } from './router-table.js'

/** Words of a row of `own`, `routes` and `forwards`. */
const OWN = 8 // segment, family, prefix, proxied, address
const ROUTE = 12 // family, prefix, segment, has a gateway, destination, gateway
const FORWARD = 14 // protocol, family, any address, first, last, toPort, outside address, inside address

const word = (ip: Ip, index: number): number => (index < ip.length ? ip[index] | 0 : 0)

export class Zone {
  readonly zone: number
  /** segments, -1: none */
  readonly lan: number
  readonly uplink: number
  readonly filtering: number
  readonly isOpen: boolean
  /** whether the sources of what leaves by the uplink are translated, by family */
  readonly translates4: boolean
  readonly translates6: boolean
  private readonly own: Int32Array
  private readonly routes: Int32Array
  private readonly forwards: Int32Array

  constructor(router: CompiledRouter | null, zone: number) {
    this.zone = zone
    this.lan = router?.lan.segment ?? -1
    this.uplink = router?.uplink?.segment ?? -1
    this.filtering = router?.filtering ?? 0
    this.isOpen = router?.isOpen ?? false
    this.translates4 = router?.nat.some(({ ip }) => ip.length === 1) ?? false
    this.translates6 = router?.nat.some(({ ip }) => ip.length === 4) ?? false
    const segments = router === null ? [] : [router.lan, ...(router.uplink ? [router.uplink] : [])]
    this.own = Int32Array.from(segments.flatMap(ownRows))
    this.routes = Int32Array.from((router?.routes ?? []).flatMap((route) => routeRow(route, route)))
    this.forwards = Int32Array.from(
      (router?.forwards ?? []).flatMap((one) => [
        one.protocol,
        one.family,
        one.ip === null ? 1 : 0,
        one.firstPort,
        one.lastPort,
        one.toPort,
        ...[0, 1, 2, 3].map((i) => word(one.ip ?? [], i)),
        ...[0, 1, 2, 3].map((i) => word(one.to, i)),
      ]),
    )
  }

  /** The segment on which an address is the router's own or one it answers for; -1: none. */
  ownSegment(family: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const { own } = this
    for (let i = 0; i < own.length; i += OWN) {
      if (own[i + 4] === ip0 && own[i + 5] === ip1 && own[i + 6] === ip2 && own[i + 7] === ip3 && own[i + 1] === family)
        return own[i]
    }
    return -1
  }

  /** Whether the router answers for an address on this segment: its own there, or one proxied there. */
  answersOn(segment: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number): boolean {
    const { own } = this
    for (let i = 0; i < own.length; i += OWN) {
      if (own[i] !== segment || own[i + 1] !== family) continue
      if (own[i + 4] === ip0 && own[i + 5] === ip1 && own[i + 6] === ip2 && own[i + 7] === ip3) return true
    }
    return false
  }

  /**
   * The row of the router's first address of this family on a segment, for `ownWord`; link-local ones are taken only if
   * there is no other. -1: none.
   */
  address(segment: number, family: number): number {
    const { own } = this
    let found = -1
    for (let i = 0; i < own.length; i += OWN) {
      if (own[i] !== segment || own[i + 1] !== family || own[i + 3] !== 0) continue
      const isLinkLocal = family === 6 && isLinkLocal6(own[i + 4])
      if (!isLinkLocal) return i
      if (found < 0) found = i
    }
    return found
  }

  /** A word (0 to 3) of the address in a row that `address` or `addressFor` gave. */
  ownWord(row: number, index: number): number {
    return this.own[row + 4 + index]
  }

  /** The row of the router's address on the link that shares a prefix with a host, or any of the family. -1: none. */
  addressFor(segment: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const { own } = this
    for (let i = 0; i < own.length; i += OWN) {
      if (own[i] !== segment || own[i + 1] !== family || own[i + 3] !== 0) continue
      if (shares(own, i + 4, own[i + 2], ip0, ip1, ip2, ip3)) return i
    }
    return this.address(segment, family)
  }

  /** Whether an address is in one of the router's prefixes on the link of a segment. */
  isOnLink(segment: number, family: number, ip0: number, ip1: number, ip2: number, ip3: number): boolean {
    const { own } = this
    for (let i = 0; i < own.length; i += OWN) {
      if (own[i] !== segment || own[i + 1] !== family || own[i + 3] !== 0) continue
      if (shares(own, i + 4, own[i + 2], ip0, ip1, ip2, ip3)) return true
    }
    return false
  }

  /** Whether an IPv4 address is the network's or the broadcast address of a prefix on the link. */
  isBroadcast(segment: number, ip0: number): boolean {
    const { own } = this
    for (let i = 0; i < own.length; i += OWN) {
      if (own[i] !== segment || own[i + 1] !== 4 || own[i + 3] !== 0 || own[i + 2] > 30) continue
      const host = own[i + 2] === 0 ? -1 : (1 << (32 - own[i + 2])) - 1
      if (((own[i + 4] ^ ip0) & ~host) === 0 && ((ip0 & host) === host || (ip0 & host) === 0)) return true
    }
    return false
  }

  /** The route to an address, longest prefix first; -1: none. */
  route(family: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
    const { routes } = this
    for (let i = 0; i < routes.length; i += ROUTE)
      if (routes[i] === family && shares(routes, i + 4, routes[i + 1], ip0, ip1, ip2, ip3)) return i
    return -1
  }

  routeSegment(route: number): number {
    return this.routes[route + 2]
  }

  hasGateway(route: number): boolean {
    return this.routes[route + 3] !== 0
  }

  routeGateway(route: number, index: number): number {
    return this.routes[route + 8 + index]
  }

  /**
   * The forward that a packet from outside, or a hairpin, goes by; -1: none. The destination is one of the router's.
   */
  forward(flow: Flow): number {
    const { forwards } = this
    for (let i = 0; i < forwards.length; i += FORWARD) {
      if (forwards[i] !== flow.protocol || forwards[i + 1] !== flow.family) continue
      if (flow.destinationPort < forwards[i + 3] || flow.destinationPort > forwards[i + 4]) continue
      if (forwards[i + 2] !== 0) return i
      if (
        forwards[i + 6] === flow.destination0 &&
        forwards[i + 7] === flow.destination1 &&
        forwards[i + 8] === flow.destination2 &&
        forwards[i + 9] === flow.destination3
      )
        return i
    }
    return -1
  }

  forwardWord(forward: number, index: number): number {
    return this.forwards[forward + 10 + index]
  }

  /** The inside port for an outside one. */
  forwardPort(forward: number, port: number): number {
    return this.forwards[forward + 5] + port - this.forwards[forward + 3]
  }
}

function ownRows({ segment, addresses, proxied }: CompiledSegment): number[] {
  const row = ({ ip, prefix }: CompiledPrefix, isProxied: number): number[] => [
    segment,
    ip.length === 1 ? 4 : 6,
    prefix,
    isProxied,
    ...[0, 1, 2, 3].map((i) => word(ip, i)),
  ]
  const further = proxied.flatMap((ip) => row({ ip, prefix: ip.length * 32 }, 1))
  return [...addresses.flatMap((address) => row(address, 0)), ...further]
}

function routeRow(
  { ip, prefix }: CompiledPrefix,
  { segment, gateway }: { segment: number; gateway: Ip | null },
): number[] {
  return [
    ip.length === 1 ? 4 : 6,
    prefix,
    segment,
    gateway === null ? 0 : 1,
    ...[0, 1, 2, 3].map((i) => word(ip, i)),
    ...[0, 1, 2, 3].map((i) => word(gateway ?? [], i)),
  ]
}

/** Whether the address in a row has its first `prefix` bits in common with another. */
function shares(
  rows: Int32Array,
  at: number,
  prefix: number,
  ip0: number,
  ip1: number,
  ip2: number,
  ip3: number,
): boolean {
  if (prefix <= 32) return ((rows[at] ^ ip0) & mask(prefix)) === 0
  if (rows[at] !== ip0) return false
  if (prefix <= 64) return ((rows[at + 1] ^ ip1) & mask(prefix - 32)) === 0
  if (rows[at + 1] !== ip1) return false
  if (prefix <= 96) return ((rows[at + 2] ^ ip2) & mask(prefix - 64)) === 0
  return rows[at + 2] === ip2 && ((rows[at + 3] ^ ip3) & mask(prefix - 96)) === 0
}

/** The first `bits` (0 to 32) of a word. */
function mask(bits: number): number {
  return bits === 0 ? 0 : -1 << (32 - bits)
}
