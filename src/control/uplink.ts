/**
 * Where a network reaches the outside, between its text and its parts:
 *
 *   host[,address=CIDR]...                                        a TAP into this host's stack
 *   netdev:IFNAME[,address=CIDR|dhcp]...[,gateway=ADDRESS]...     a raw socket, with a MAC and addresses of its own
 *   none                                                          nowhere
 *   sockets                                                       the user's own sockets: in a later version
 *
 * With `host`, `address` is the router's own address on the link to the host; without, Weft picks the link's subnet.
 * With `netdev`, the addresses are the router's on that interface, by DHCP unless told; a gateway must be on the link
 * of one of them, or be an IPv6 link-local address. An uplink has at most 16 addresses, and one gateway a family.
 */
import {
  type Ip,
  type Prefix,
  contains,
  familyOf,
  formatIp,
  formatPrefix,
  isLinkLocal,
  networkOf,
} from '../services/address.js'
import { Failure } from './failure.js'
import { Interface } from './port-definition.js'
import { check, invalid, quote } from './schema.js'
import { parseAddress, parseInterfaceAddress } from './subnet.js'

export const UPLINK_ADDRESSES_MAX = 16

export type Uplink =
  | { kind: 'host' /** of the router on the link to the host; empty: Weft picks */; addresses: Prefix[] }
  | { kind: 'netdev'; dev: string /** IPv4 by DHCP */; dhcp: boolean; addresses: Prefix[]; gateways: Ip[] }

/** Null for `none`. Throws ERR_INVALID or ERR_UNSUPPORTED. */
export function parseUplink(text: string | null, path: string): Uplink | null {
  if (text === null || text === 'none') return null
  if (text === 'sockets' || text.startsWith('sockets,')) {
    throw new Failure('ERR_UNSUPPORTED', `${path}: uplink sockets comes in a later version of Weft`, path)
  }
  const [head = '', ...options] = text.split(',')
  const [kind, ...rest] = head.split(':')
  const dev = rest.join(':')
  if (kind === 'host' && rest.length === 0) {
    const { addresses, gateways, dhcp } = parseOptions(options, path)
    if (gateways.length > 0) throw invalid(path, 'uplink host takes no gateway: the host is it')
    if (dhcp) throw invalid(path, 'uplink host takes no address=dhcp: no server is on that link')
    return { kind, addresses }
  }
  if (kind !== 'netdev' || rest.length === 0) {
    throw invalid(path, `${quote(text)} is not host, netdev:IFNAME or none`)
  }
  const { addresses, gateways, dhcp } = parseOptions(options, path)
  const uplink = { kind, dev: check(Interface, dev, path), dhcp: dhcp || addresses.length === 0, addresses, gateways }
  if (dhcp && addresses.some(({ ip }) => familyOf(ip) === 4)) {
    throw invalid(path, 'address=dhcp and an IPv4 address exclude each other')
  }
  for (const gateway of gateways) refuseAstray(gateway, addresses, path)
  return uplink as Uplink
}

/** The one way to write it; null for none. */
export function writtenUplink(uplink: Uplink | null): string | null {
  if (uplink === null) return null
  const addresses = uplink.addresses.map((one) => `,address=${formatPrefix(one)}`).join('')
  if (uplink.kind === 'host') return `host${addresses}`
  const dhcp = uplink.dhcp && addresses !== '' ? ',address=dhcp' : ''
  return `netdev:${uplink.dev}${dhcp}${addresses}${uplink.gateways.map((ip) => `,gateway=${formatIp(ip)}`).join('')}`
}

/** What two networks share if they have the same: the outside they are routed to. Null without an uplink. */
export function outsideOf(text: string | null): string | null {
  return text === null ? null : (text.split(',')[0] ?? null)
}

function parseOptions(
  options: readonly string[],
  path: string,
): { addresses: Prefix[]; gateways: Ip[]; dhcp: boolean } {
  const addresses: Prefix[] = []
  const gateways: Ip[] = []
  let dhcp = false
  for (const option of options) {
    const [, key = '', value = ''] = /^([a-z]+)=(.+)$/.exec(option) ?? []
    if (key === 'address' && value === 'dhcp') dhcp = true
    else if (key === 'address') {
      const prefix = parseInterfaceAddress(value, path)
      if (addresses.some((one) => formatIp(one.ip) === formatIp(prefix.ip))) {
        throw invalid(path, `${value} stands twice`)
      }
      addresses.push(prefix)
    } else if (key === 'gateway') {
      const gateway = parseAddress(value, path)
      if (gateways.some((one) => one.length === gateway.length)) {
        throw invalid(path, `${value} is a second gateway of IPv${familyOf(gateway)}`)
      }
      gateways.push(gateway)
    } else throw invalid(path, `${quote(option)} is not address=CIDR, address=dhcp or gateway=ADDRESS`)
  }
  if (addresses.length > UPLINK_ADDRESSES_MAX) {
    throw new Failure('ERR_CAPACITY', `${path}: an uplink has at most ${UPLINK_ADDRESSES_MAX} addresses`, path)
  }
  return { addresses, gateways, dhcp }
}

function refuseAstray(gateway: Ip, addresses: readonly Prefix[], path: string): void {
  const ofFamily = addresses.filter(({ ip }) => ip.length === gateway.length)
  const text = formatIp(gateway)
  if (ofFamily.length === 0) throw invalid(path, `gateway=${text} needs an address of its family`)
  if (ofFamily.some(({ ip }) => formatIp(ip) === text)) throw invalid(path, `${text} is the router's own address`)
  if (familyOf(gateway) === 6 && isLinkLocal(gateway)) return
  if (!ofFamily.some((one) => contains(networkOf(one), gateway))) {
    throw invalid(path, `gateway=${text} is on the link of no address of the uplink`)
  }
}
