/**
 * What the router knows: compiled configuration, in arrays indexed by segment and in one `Zone` a router.
 *
 * A segment is a layer-2 domain that a router has an interface on: a network of guests, or the hidden network of an
 * uplink. It goes by its network's number. On each the router has a port of its own (PORT_GATEWAY), a MAC address and
 * addresses: to the switch, the router is a host on that port. A zone is one router: the number of its guests' segment.
 * Every connection belongs to a zone, so two networks may use the same addresses.
 *
 * Addresses are int32 words as they stand in the packet, most significant first: one for IPv4, four for IPv6.
 *
 * Capacity: NETWORKS_MAX segments. The lists inside a zone are searched in order, and only for a connection's first
 * packet: their lengths are limited where they are configured.
 */
import type { CompiledFirewall } from './firewall.js'
import { Zone } from './zone.js'
import { NETWORKS_MAX } from '../port-table.js'

// What the gateway does for hosts of a segment (bits of `services`): those packets go to the services.
export const SERVICE_DHCP = 1 // UDP port 67
export const SERVICE_DNS = 2 // UDP and TCP port 53
export const SERVICE_DHCP6 = 4 // UDP port 547
export const SERVICE_ROUTER_ADVERTISEMENT = 8 // router solicitations
export const SERVICE_DHCP_CLIENT = 16 // UDP port 68: answers for the router's own uplink

/** Which packets from outside may use a mapping that a guest has made (RFC 4787 section 5). */
export const FILTER_ADDRESS_AND_PORT = 0
export const FILTER_ADDRESS = 1
export const FILTER_NONE = 2

/** One word for IPv4, four for IPv6. */
export type Ip = number[]

export interface CompiledPrefix {
  ip: Ip
  prefix: number
}

export interface CompiledSegment {
  segment: number
  gatewayPort: number
  /** the gateway's MAC in words as the FDB has it */
  macLow: number
  macHigh: number
  /** VLAN in which the gateway is; 0: the VLAN-unaware part */
  vid: number
  /** bytes of an IP packet */
  mtu: number
  /** the router's own addresses, with the prefix on the link */
  addresses: CompiledPrefix[]
  /** further addresses for which it answers ARP and neighbor solicitations: those of forwards */
  proxied: Ip[]
  services: number
}

export interface CompiledRoute extends CompiledPrefix {
  segment: number
  /** next hop; null: the destination is on the link */
  gateway: Ip | null
}

export interface CompiledForward {
  /** 6 or 17 */
  protocol: number
  family: number
  /** null: any address of the router on its uplink */
  ip: Ip | null
  firstPort: number
  lastPort: number
  to: Ip
  /** port that the first one goes to; the others follow */
  toPort: number
}

export interface CompiledNat {
  /** source of what leaves by the uplink: one word or four */
  ip: Ip
  firstPort: number
  lastPort: number
}

export interface CompiledRouter {
  zone: number
  lan: CompiledSegment
  uplink: CompiledSegment | null
  /** longest prefix first */
  routes: CompiledRoute[]
  /** at most one a family; none: sources stay as they are */
  nat: CompiledNat[]
  filtering: number
  forwards: CompiledForward[]
  /** filters nothing and takes packets of connections that it has not seen begin */
  isOpen: boolean
  firewall: CompiledFirewall
  /** seconds by TIMEOUT_* of `conntrack.ts` */
  timeouts: number[]
  /** connections of the zone, and of one port of it, at most */
  connectionLimit: number
  portLimit: number
}

/** By segment: where the router is on it, and whose. */
export class RouterTable {
  /** whether there is any router */
  active = false
  /** zone of a segment; -1: no router is there */
  readonly zone = new Int32Array(NETWORKS_MAX).fill(-1)
  readonly gatewayPort = new Int32Array(NETWORKS_MAX).fill(-1)
  readonly macLow = new Int32Array(NETWORKS_MAX)
  readonly macHigh = new Int32Array(NETWORKS_MAX)
  readonly vid = new Int32Array(NETWORKS_MAX)
  readonly mtu = new Int32Array(NETWORKS_MAX)
  readonly services = new Int32Array(NETWORKS_MAX)
  /** 1: the segment is an uplink */
  readonly uplink = new Int32Array(NETWORKS_MAX)
  /** 1: frames between guests of the network are judged too */
  readonly filtered = new Int32Array(NETWORKS_MAX)
  /** by zone; a zone without a router has the empty one */
  readonly zones: Zone[] = []

  constructor() {
    const none = new Zone(null, 0)
    for (let i = 0; i < NETWORKS_MAX; i++) this.zones.push(none)
  }

  /** Replaces a zone's configuration whole; null: the zone is gone. */
  configure(zone: number, router: CompiledRouter | null): void {
    if (zone < 0 || zone >= NETWORKS_MAX) throw new RangeError(`zone ${zone}: not 0..${NETWORKS_MAX - 1}`)
    for (let segment = 0; segment < NETWORKS_MAX; segment++) {
      if (this.zone[segment] !== zone) continue
      this.zone[segment] = this.gatewayPort[segment] = -1
    }
    for (const side of router === null ? [] : [router.lan, ...(router.uplink ? [router.uplink] : [])]) {
      const { segment } = side
      this.zone[segment] = zone
      this.gatewayPort[segment] = side.gatewayPort
      this.macLow[segment] = side.macLow
      this.macHigh[segment] = side.macHigh
      this.vid[segment] = side.vid
      this.mtu[segment] = side.mtu
      this.services[segment] = side.services
      this.uplink[segment] = side === router?.uplink ? 1 : 0
    }
    this.zones[zone] = new Zone(router, zone)
    this.active = this.zone.some((value) => value >= 0)
  }
}
