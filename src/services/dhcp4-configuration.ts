/**
 * What a DHCPv4 client takes from an ACK: its configuration, believed as far as it makes sense.
 *
 * An answer is refused (null) without an address that a host can have, with a mask that is none, or with a lease of
 * less than 10 s. What else is not sound is left out: an MTU below 576, a router that is not on the link (with a mask
 * of /32, as clouds give it, any is), malformed routes. Routes of option 121 replace option 3 (RFC 3442).
 * Standards: RFC 2131 section 4.4.1, RFC 2132.
 */
import { compareIp, contains, formatIp, isHostAddress, maskOf } from './address.js'
import type { Ip, Prefix } from './address.js'
import type { Message4 } from './dhcp4-codec.js'
import * as option from './dhcp4-options.js'
import type { OptionRoute } from './dhcp4-options.js'

const LEAST_MTU = 576
const LEAST_LEASE = 10
const INFINITE = 0xffffffff

export interface Configuration4 {
  address: Prefix
  /** the default router; null: none */
  router: Ip | null
  /** beside the default route */
  routes: OptionRoute[]
  dns: Ip[]
  ntp: Ip[]
  domain: string | null
  mtu: number | null
  server: Ip
  /** Infinity: for good */
  leaseSeconds: number
}

/** T1 and T2, in seconds from the request; the usual ones if what the server says makes no sense. */
export function timesOf({ options }: Message4, leaseSeconds: number): [number, number] {
  const renew = option.decodeNumber(options?.get(option.OPTION_T1), 4) ?? leaseSeconds / 2
  const rebind = option.decodeNumber(options?.get(option.OPTION_T2), 4) ?? (leaseSeconds * 7) / 8
  const isSound = renew > 0 && renew <= rebind && rebind <= leaseSeconds
  return isSound ? [renew, rebind] : [leaseSeconds / 2, (leaseSeconds * 7) / 8]
}

/** What an ACK says; null if it is not sound. */
export function configurationOf({ yiaddr, options }: Message4, server: Ip): Configuration4 | null {
  const seconds = option.decodeNumber(options?.get(option.OPTION_LEASE_TIME), 4)
  if (options === null || yiaddr === null || !isHostAddress(yiaddr)) return null
  if (seconds === null || seconds < LEAST_LEASE) return null
  const mask = options.get(option.OPTION_MASK)
  const prefix = mask === undefined ? classOf(yiaddr) : prefixOf(mask)
  if (prefix === null) return null
  const address = { ip: yiaddr, prefix }
  const routes = option.decodeRoutes(options.get(option.OPTION_ROUTES) ?? new Uint8Array(0)) ?? []
  const byDefault = routes.find(({ destination }) => destination.prefix === 0)
  const routers = option.decodeIps(options.get(option.OPTION_ROUTER)).filter(isHostAddress)
  const onLink = routers.find((one) => prefix === 32 || contains(address, one))
  const router = (routes.length > 0 ? byDefault?.via : onLink) ?? null
  const mtu = option.decodeNumber(options.get(option.OPTION_MTU), 2)
  return {
    address,
    router: router !== null && formatIp(router) !== formatIp(yiaddr) ? router : null,
    routes: routes.filter(({ destination }) => destination.prefix > 0),
    dns: option.decodeIps(options.get(option.OPTION_DNS)).filter(isHostAddress),
    ntp: option.decodeIps(options.get(option.OPTION_NTP)).filter(isHostAddress),
    domain: option.decodeText(options.get(option.OPTION_DOMAIN)),
    mtu: mtu !== null && mtu >= LEAST_MTU ? mtu : null,
    server,
    leaseSeconds: seconds === INFINITE ? Number.POSITIVE_INFINITY : seconds,
  }
}

function prefixOf(mask: Uint8Array): number | null {
  const ip = option.decodeIp(mask)
  if (ip === null) return null
  for (let prefix = 1; prefix <= 32; prefix++) if (compareIp(ip, maskOf(4, prefix)) === 0) return prefix
  return null
}

/** RFC 2131 leaves it to the client: the address's old class. */
function classOf([word]: Ip): number {
  const first = word >>> 24
  return first < 128 ? 8 : first < 192 ? 16 : 24
}
