/**
 * Subnets of a network as users write them: a CIDR, or `{ cidr, gateway, dhcp }`; and the addresses in them.
 *
 *   10.7.0.0/24                          gateway 10.7.0.1, leases 10.7.0.2 to 10.7.0.254
 *   10.7.0.254/24                        the same with the gateway 10.7.0.254
 *   { cidr: 'fd00:7::/64' }              gateway fd00:7::1, hosts make their own addresses (RFC 4862)
 *   { cidr: 'fd00:7::/120', dhcp: 'fd00:7::10-fd00:7::ff' }
 *
 * IPv4: /8 to /30, so that a gateway and a guest fit between the network's address and the broadcast (RFC 919). IPv6:
 * /48 to /126; in any other than a /64 hosts cannot make their own address, so it needs a range or `dhcp: off`. The
 * range may have the gateway inside: the server leases it to nobody. A network has at most 16 subnets.
 */
import { type Static, Type } from 'typebox'
import {
  type Ip,
  type Prefix,
  addToIp,
  compareIp,
  contains,
  familyOf,
  formatIp,
  formatPrefix,
  isHostAddress,
  isLinkLocal,
  isSameIp,
  lastOf,
  networkOf,
  overlaps,
  parseIp,
  parsePrefix,
} from '../services/address.js'
import { Failure } from './failure.js'
import type { Subnet } from './model.js'
import { check, invalid, join, quote } from './schema.js'

export const SUBNETS_MAX = 16

const Cidr = Type.String({ minLength: 1, maxLength: 64, description: 'a subnet like 10.0.0.0/24' })
export const RangeInput = Type.Union(
  [
    Type.String({ minLength: 1, maxLength: 128 }),
    Type.Object({ from: Type.String(), to: Type.String() }, { additionalProperties: false }),
    Type.Null(),
  ],
  { errorText: 'off or a range FROM-TO' },
)
const SubnetObject = Type.Object(
  { cidr: Cidr, gateway: Type.Optional(Type.String()), dhcp: Type.Optional(RangeInput) },
  { additionalProperties: false },
)
export const SubnetInput = Type.Union([Cidr, SubnetObject])
export type SubnetInput = Static<typeof SubnetInput>
type Range = Static<typeof RangeInput>

/** The subnets of a network. `dhcp` is the network's own setting, which stands over those of the subnets. */
export function parseSubnets(values: readonly unknown[], dhcp: Range | undefined, path: string): Subnet[] {
  const at = join(path, 'subnets')
  if (values.length > SUBNETS_MAX) {
    throw new Failure('ERR_CAPACITY', `${at}: a network has at most ${SUBNETS_MAX} subnets`, at)
  }
  const range = dhcp === undefined || isOff(dhcp) ? null : rangeEnds(dhcp, join(path, 'dhcp'))
  let used = range === null
  const subnets = values.map((value, index) => {
    const place = join(at, index)
    const given = typeof value === 'string' ? { cidr: value } : check(SubnetObject, value, place)
    const mine = range !== null && !used && holds(given.cidr, range.from)
    if (mine) used = true
    const chosen = dhcp !== undefined && isOff(dhcp) ? null : mine ? dhcp : given.dhcp
    return parseSubnet(given, chosen, place, mine ? join(path, 'dhcp') : join(place, 'dhcp'))
  })
  if (!used && range !== null) {
    throw invalid(join(path, 'dhcp'), `${formatIp(range.from)} is in no subnet of the network`)
  }
  subnets.forEach((subnet, index) => {
    const other = subnets.slice(0, index).find((one) => overlaps(prefixOf(one), prefixOf(subnet)))
    if (other !== undefined) throw invalid(join(at, index), `${subnet.cidr} overlaps ${other.cidr}`)
  })
  return subnets
}

/** The inverse, without what equals the default. */
export function writtenSubnet(subnet: Subnet): SubnetInput {
  const prefix = prefixOf(subnet)
  const gateway = isSameIp(ipOf(subnet.gateway), addToIp(prefix.ip, 1)) ? {} : { gateway: subnet.gateway }
  const plain = defaultRange(prefix, ipOf(subnet.gateway))
  const same = subnet.dhcp?.from === plain?.from && subnet.dhcp?.to === plain?.to
  const dhcp = same && !needsRange(prefix) ? {} : { dhcp: subnet.dhcp === null ? 'off' : writtenRange(subnet.dhcp) }
  return { cidr: subnet.cidr, ...gateway, ...dhcp }
}

const writtenRange = ({ from, to }: { from: string; to: string }): string => `${from}-${to}`

/** The prefix of a subnet that has been parsed. */
export function prefixOf({ cidr }: { cidr: string }): Prefix {
  return parsePrefix(cidr) as Prefix
}

/** The subnet that holds an address; null if none does. */
export function subnetOf(subnets: readonly Subnet[], ip: Ip): Subnet | null {
  return subnets.find((one) => contains(prefixOf(one), ip)) ?? null
}

/**
 * An address that a guest may have in one of the subnets, or ERR_INVALID: not the network's own, not the broadcast, not
 * the gateway's.
 */
export function guestAddress(subnets: readonly Subnet[], text: string, path: string): Ip {
  const ip = parseAddress(text, path)
  const subnet = subnetOf(subnets, ip)
  if (subnet === null) throw invalid(path, `${quote(text)} is in no subnet of the network`)
  refuseEnds(prefixOf(subnet), ip, path)
  if (isSameIp(ip, ipOf(subnet.gateway))) throw invalid(path, `${text} is the gateway's address`)
  return ip
}

/** An IPv4 or IPv6 address that a host can have, or ERR_INVALID. */
export function parseAddress(text: string, path: string): Ip {
  const ip = parseIp(text)
  if (ip === null) throw invalid(path, `${quote(text)} is not an IP address`)
  if (!isHostAddress(ip)) throw invalid(path, `${text} is no address of a host`)
  return ip
}

/** A prefix for an interface, `10.0.0.2/24`: its address is neither the network's nor the broadcast. */
export function parseInterfaceAddress(text: string, path: string): Prefix {
  const prefix = parsePrefix(text)
  if (prefix === null) throw invalid(path, `${quote(text)} is not an address with its prefix like 192.0.2.2/24`)
  if (!isHostAddress(prefix.ip)) throw invalid(path, `${text} is no address of a host`)
  if (prefix.prefix < (familyOf(prefix.ip) === 4 ? 31 : 127)) refuseEnds(prefix, prefix.ip, path)
  return prefix
}

function parseSubnet(given: Static<typeof SubnetObject>, dhcp: Range | undefined, path: string, at: string): Subnet {
  const place = join(path, 'cidr')
  const written = parsePrefix(given.cidr)
  if (written === null) throw invalid(place, `${quote(given.cidr)} is not a subnet like 10.0.0.0/24`)
  const prefix = networkOf(written)
  const [least, most] = familyOf(prefix.ip) === 4 ? [8, 30] : [48, 126]
  if (prefix.prefix < least || prefix.prefix > most) {
    const sentence = `the prefix length of an IPv${familyOf(prefix.ip)} subnet is ${least}..${most}`
    throw invalid(place, `${given.cidr}: ${sentence}, not ${prefix.prefix}`)
  }
  const usable = [addToIp(prefix.ip, 1), lastOf(prefix)].every((ip) => isHostAddress(ip) && !isLinkLocal(ip))
  if (!usable) throw invalid(place, `${given.cidr} holds addresses that no network of guests can have`)

  const named = isSameIp(written.ip, prefix.ip) ? null : written.ip
  const asked = given.gateway === undefined ? null : parseAddress(given.gateway, join(path, 'gateway'))
  if (named !== null && asked !== null && !isSameIp(named, asked)) {
    throw invalid(join(path, 'gateway'), `${given.gateway} is not the address in ${given.cidr}`)
  }
  const gateway = asked ?? named ?? addToIp(prefix.ip, 1)
  if (!contains(prefix, gateway)) {
    throw invalid(join(path, 'gateway'), `${formatIp(gateway)} is not in ${formatPrefix(prefix)}`)
  }
  refuseEnds(prefix, gateway, join(path, named === null ? 'gateway' : 'cidr'))
  return { cidr: formatPrefix(prefix), gateway: formatIp(gateway), dhcp: parseRange(dhcp, prefix, gateway, at) }
}

function parseRange(dhcp: Range | undefined, prefix: Prefix, gateway: Ip, path: string): Subnet['dhcp'] {
  if (dhcp === undefined) {
    if (!needsRange(prefix)) return defaultRange(prefix, gateway)
    const sentence = `is missing: hosts make their own address in a /64 only, a /${prefix.prefix} needs FROM-TO or off`
    throw invalid(path, sentence)
  }
  if (isOff(dhcp)) return null
  const { from, to } = rangeEnds(dhcp, path)
  for (const ip of [from, to]) {
    if (!contains(prefix, ip)) throw invalid(path, `${formatIp(ip)} is not in ${formatPrefix(prefix)}`)
    refuseEnds(prefix, ip, path)
  }
  if (compareIp(from, to) > 0) throw invalid(path, `${formatIp(from)}-${formatIp(to)} runs backwards`)
  if (isSameIp(from, to) && isSameIp(from, gateway)) throw invalid(path, `${formatIp(from)} is the gateway's address`)
  return { from: formatIp(from), to: formatIp(to) }
}

/** All of an IPv4 subnet that is no network's address, broadcast, or gateway at an end; IPv6: none. */
function defaultRange(prefix: Prefix, gateway: Ip): Subnet['dhcp'] {
  if (familyOf(prefix.ip) === 6) return null
  let from = addToIp(prefix.ip, 1)
  let to = addToIp(lastOf(prefix), -1)
  if (isSameIp(from, gateway)) from = addToIp(from, 1)
  if (isSameIp(to, gateway)) to = addToIp(to, -1)
  return { from: formatIp(from), to: formatIp(to) }
}

function rangeEnds(dhcp: Range, path: string): { from: Ip; to: Ip } {
  const [from = '', to = '', ...rest] = typeof dhcp === 'string' ? dhcp.split('-') : [dhcp?.from, dhcp?.to]
  const ends = { from: parseIp(from.trim()), to: parseIp(to.trim()) }
  if (ends.from === null || ends.to === null || rest.length > 0 || ends.from.length !== ends.to.length) {
    throw invalid(path, `${quote(dhcp)} is not off or a range FROM-TO`)
  }
  return ends as { from: Ip; to: Ip }
}

/** IPv4: neither the network's address nor the broadcast. IPv6: not the routers' anycast (RFC 4291 section 2.6.1). */
function refuseEnds(prefix: Prefix, ip: Ip, path: string): void {
  if (isSameIp(ip, networkOf(prefix).ip)) throw invalid(path, `${formatIp(ip)} is the network's own address`)
  if (familyOf(ip) === 4 && isSameIp(ip, lastOf(prefix))) {
    throw invalid(path, `${formatIp(ip)} is the broadcast address of ${formatPrefix(networkOf(prefix))}`)
  }
}

function holds(cidr: string, ip: Ip): boolean {
  const prefix = parsePrefix(cidr)
  return prefix !== null && contains(prefix, ip)
}

const needsRange = ({ ip, prefix }: Prefix): boolean => familyOf(ip) === 6 && prefix !== 64
const isOff = (dhcp: Range): boolean => dhcp === null || dhcp === 'off'
const ipOf = (text: string): Ip => parseIp(text) as Ip
