/**
 * Forwards and static routes of a network, between text and parts.
 *
 *   tcp:8080 web1                          the uplink's port 8080 goes to port 8080 of the guest with the name web1
 *   udp:[203.0.113.5:]5000-5009 10.0.0.7:6000       ports 5000 to 5009 go to 6000 to 6009
 *   tcp:[2001:db8::1]:443 [fd00::7]:443             an IPv6 address stands in brackets where a port follows
 *
 * A forward without an address takes what comes to any address of the router on its uplink; one with an address goes
 * before it. Two forwards of one protocol must not share a port at the same address. A name is a lease's or a
 * reservation's and may be of no guest yet.
 *
 * A route goes to a next hop on a link of the router, or to another network of this daemon, by its name.
 * A network has at most 256 forwards and 64 routes.
 */
import { type Static, Type } from 'typebox'
import {
  bitsOf,
  contains,
  familyOf,
  formatIp,
  formatPrefix,
  isSameIp,
  parseIp,
  parseNetwork,
} from '../services/address.js'
import type { Forward, StaticRoute, Subnet } from './model.js'
import { check, invalid, join, quote } from './schema.js'
import { guestAddress, parseAddress, prefixOf, subnetOf } from './subnet.js'
import type { Uplink } from './uplink.js'

export const FORWARDS_MAX = 256
export const ROUTES_MAX = 64

const Port = Type.Integer({ minimum: 1, maximum: 65535 })
const ForwardObject = Type.Object(
  {
    protocol: Type.Union([Type.Literal('tcp'), Type.Literal('udp')]),
    address: Type.Optional(Type.Union([Type.String(), Type.Null()], { errorText: 'an IP address' })),
    firstPort: Port,
    lastPort: Type.Optional(Port),
    to: Type.String(),
    toPort: Type.Optional(Port),
  },
  { additionalProperties: false },
)
/** As users write it: a text, or its parts. */
export const ForwardInput = Type.Union([Type.String({ minLength: 1, maxLength: 512 }), ForwardObject], {
  errorText: 'a forward like "tcp:8080 web1:80"',
})
export type ForwardInput = Static<typeof ForwardInput>
export const RouteInput = Type.Object(
  { destination: Type.String({ minLength: 1, maxLength: 64 }), via: Type.String({ minLength: 1, maxLength: 64 }) },
  { additionalProperties: false },
)

/** Where a forward is taken: its first operand. */
export type ForwardSource = Pick<Forward, 'protocol' | 'address' | 'firstPort' | 'lastPort'>

/** What a network's forwards and routes must fit to. */
export interface Links {
  subnets: readonly Subnet[]
  routes: readonly StaticRoute[]
  uplink: Uplink | null
}

/** A DNS label by which a guest goes: a lease's or a reservation's name. */
export const HOST_NAME = /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/

export function parseForward(value: unknown, links: Links, path: string): Forward {
  const given = typeof value === 'string' ? splitForward(value, path) : check(ForwardObject, value, path)
  const source = checkSource({ address: null, lastPort: given.firstPort, ...given }, path)
  const to = parseGuest(given.to, links, join(path, 'to'))
  const toPort = given.toPort ?? source.firstPort
  const last = toPort + source.lastPort - source.firstPort
  if (last > 65535) {
    throw invalid(join(path, 'toPort'), `the ports ${toPort}-${last} end beyond 65535`)
  }
  const [outside, inside] = [source.address, to].map((text) => (text === null ? null : parseIp(text)))
  if (outside && inside && familyOf(outside) !== familyOf(inside)) {
    throw invalid(join(path, 'to'), `${to} is not of the family of ${source.address}`)
  }
  return { ...source, to, toPort }
}

/** `tcp:8080`, `udp:203.0.113.5:5000-5009`, `tcp:[2001:db8::1]:443`. */
export function parseForwardSource(text: string, path: string): ForwardSource {
  const [, protocol, six, four, first, last] =
    /^(tcp|udp):(?:\[([^\]]+)\]:|([^\s:[\]]+):)?(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? []
  if (protocol === undefined) throw invalid(path, `${quote(text)} is not tcp|udp:[ADDRESS:]PORT[-PORT]`)
  const ports = { firstPort: Number(first), lastPort: Number(last ?? first) }
  return checkSource({ protocol: protocol as 'tcp' | 'udp', address: six ?? four ?? null, ...ports }, path)
}

export function writtenForwardSource({ protocol, address, firstPort, lastPort }: ForwardSource): string {
  const outside = address === null ? '' : `${bracketed(address)}:`
  return `${protocol}:${outside}${firstPort}${lastPort === firstPort ? '' : `-${lastPort}`}`
}

export function writtenForward(forward: Forward): string {
  const { firstPort, to, toPort } = forward
  return `${writtenForwardSource(forward)} ${toPort === firstPort ? to : `${bracketed(to)}:${toPort}`}`
}

/** What two forwards have in common, in words; null if they get along. */
export function forwardClash(one: Forward, other: Forward): string | null {
  if (one.protocol !== other.protocol || one.address !== other.address) return null
  const first = Math.max(one.firstPort, other.firstPort)
  const last = Math.min(one.lastPort, other.lastPort)
  if (first > last) return null
  const [family, otherFamily] = [one, other].map(({ to }) => parseIp(to)?.length)
  const known = family !== undefined && otherFamily !== undefined
  if (one.address === null && known && family !== otherFamily) return null
  return `${one.protocol} port ${first}${last === first ? '' : `-${last}`}`
}

export function parseForwards(values: readonly unknown[], links: Links, path: string): Forward[] {
  const forwards = values.map((value, index) => parseForward(value, links, join(path, index)))
  forwards.forEach((forward, index) => {
    for (const other of forwards.slice(0, index)) {
      const clash = forwardClash(other, forward)
      if (clash === null) continue
      throw invalid(join(path, index), `${clash} is forwarded already, by "${writtenForward(other)}"`)
    }
  })
  return forwards
}

export function parseRoutes(values: readonly unknown[], network: string, links: Links, path: string): StaticRoute[] {
  const routes = values.map((value, index) => parseRoute(value, network, links, join(path, index)))
  routes.forEach((route, index) => {
    const other = routes.slice(0, index).find((one) => one.destination === route.destination)
    if (other === undefined) return
    throw invalid(join(path, index), `${route.destination} has a route already, via ${other.via}`)
  })
  return routes
}

function parseRoute(value: unknown, network: string, { subnets, uplink }: Links, path: string): StaticRoute {
  const given = check(RouteInput, value, path)
  const at = join(path, 'destination')
  const prefix = parseDestination(given.destination, at)
  const connected = subnets.find((one) => {
    const subnet = prefixOf(one)
    return contains(subnet, prefix.ip) && subnet.prefix <= prefix.prefix
  })
  if (connected !== undefined) {
    throw invalid(at, `${formatPrefix(prefix)} is on the network's own link, in ${connected.cidr}`)
  }
  const route = { destination: formatPrefix(prefix), via: given.via }
  const place = join(path, 'via')
  const hop = parseIp(given.via)
  if (hop === null) {
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(given.via)) {
      throw invalid(place, `${quote(given.via)} is neither an address nor the name of a network`)
    }
    if (given.via === network) throw invalid(place, `${given.via} is the network itself`)
    return route
  }
  parseAddress(given.via, place)
  if (hop.length !== prefix.ip.length) throw invalid(place, `${given.via} is not of the family of ${route.destination}`)
  const subnet = subnetOf(subnets, hop)
  if (subnet !== null) guestAddress(subnets, given.via, place)
  else if (!onUplink(hop, uplink)) throw invalid(place, `${given.via} is on no link of the network`)
  return { ...route, via: formatIp(hop) }
}

/** A destination without host bits, or ERR_INVALID that says what it would be. */
export function parseDestination(text: string, path: string): NonNullable<ReturnType<typeof parseNetwork>> {
  const ip = parseIp(text)
  const prefix = ip === null ? parseNetwork(text) : { ip, prefix: bitsOf(ip) }
  if (prefix === null) throw invalid(path, `${quote(text)} is not a destination like 10.9.0.0/16`)
  return prefix
}

/** With addresses by DHCP, or picked when it starts, the link is not known yet: the next hop is believed. */
function onUplink(hop: number[], uplink: Uplink | null): boolean {
  if (uplink === null) return false
  const known = uplink.addresses.filter(({ ip }) => ip.length === hop.length)
  if (known.length === 0) return uplink.kind === 'host' || (uplink.dhcp && hop.length === 1)
  return known.some((one) => contains(one, hop) && !isSameIp(one.ip, hop))
}

function checkSource({ protocol, address, firstPort, lastPort }: ForwardSource, path: string): ForwardSource {
  const first = check(Port, firstPort, join(path, 'firstPort'))
  const last = check(Port, lastPort, join(path, 'lastPort'))
  if (last < first) throw invalid(join(path, 'lastPort'), `${first}-${last} runs backwards`)
  const outside = address === null ? null : formatIp(parseAddress(address, join(path, 'address')))
  return { protocol, address: outside, firstPort: first, lastPort: last }
}

/** The two operands of a forward's text. */
function splitForward(text: string, path: string): ForwardSource & { to: string; toPort?: number } {
  const [source = '', guest = '', ...rest] = text.trim().split(/\s+/)
  if (guest === '' || rest.length > 0) {
    throw invalid(path, `${quote(text)} is not tcp|udp:[ADDRESS:]PORT[-PORT] GUEST[:PORT]`)
  }
  return { ...parseForwardSource(source, path), ...splitGuest(guest, path) }
}

/** GUEST or GUEST:PORT; an IPv6 address with a port stands in brackets. */
export function splitGuest(text: string, path: string): { to: string; toPort?: number } {
  if (parseIp(text) !== null) return { to: text }
  const [, six, plain, port] = /^(?:\[([^\]]+)\]|([^\s:[\]]+))(?::(\d{1,5}))?$/.exec(text) ?? []
  const to = six ?? plain
  if (to === undefined) throw invalid(path, `${quote(text)} is not GUEST or GUEST:PORT`)
  return port === undefined ? { to } : { to, toPort: check(Port, Number(port), join(path, 'toPort')) }
}

function parseGuest(text: string, links: Links, path: string): string {
  const ip = parseIp(text)
  if (ip === null) {
    if (HOST_NAME.test(text)) return text.toLowerCase()
    throw invalid(path, `${quote(text)} is neither an address nor the name of a guest`)
  }
  if (subnetOf(links.subnets, ip) !== null) return formatIp(guestAddress(links.subnets, text, path))
  parseAddress(text, path)
  const behind = links.routes.some(({ destination }) => {
    const prefix = parseNetwork(destination)
    return prefix !== null && prefix.prefix > 0 && contains(prefix, ip)
  })
  if (!behind) throw invalid(path, `${text} is in no subnet of the network, and no route leads to it`)
  return formatIp(ip)
}

const bracketed = (text: string): string => (text.includes(':') ? `[${text}]` : text)
