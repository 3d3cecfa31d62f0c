/**
 * What a DHCPv6 client is told beside its addresses, and what it tells of itself: resolvers, domains, time servers,
 * boot files, names.
 *
 * A client gets what its option list (RFC 8415 section 21.7) asks for; one without a list gets resolvers and domains.
 * Its full name goes back whenever it sent one (RFC 4704 section 6).
 *
 * Standards: RFC 3646 (resolvers, domains), 4704 (FQDN), 5908 (NTP), 5970 (boot file), 7083 (SOL_MAX_RT, INF_MAX_RT).
 */
import type { Ip } from './address.js'
import * as codec from './dhcp6-codec.js'
import type { ClientMessage, Option } from './dhcp6-codec.js'
import { readDomain, writeDomain, writeDomains } from './domain-list.js'

const FQDN_SERVER_UPDATES = 1
const FQDN_OVERRIDDEN = 2
const FQDN_NONE = 4
const WITHOUT_LIST = [codec.OPTION_DNS_SERVERS, codec.OPTION_DOMAIN_LIST]
const DUID_LINK_LAYER_TIME = 1
const DUID_LINK_LAYER = 3
const ETHERNET = 1

export interface Dhcp6Options {
  resolvers: Ip[]
  /** search domains */
  domains: string[]
  /** where the guests' names are; null: nowhere, names are not told back */
  domain: string | null
  ntpServers: Ip[]
  /** URLs by client architecture (RFC 4578) as decimal text, `default` for the others */
  bootFiles: Record<string, string>
  /** the longest time between two SOLICITs and between two INFORMATION-REQUESTs, 60 to 86400; null: the client's */
  solicitSeconds: number | null
  informationSeconds: number | null
}

/**
 * What of the settings a client gets.
 * @param hostname the name that its lease has; null: none
 */
export function configuredOptions(settings: Dhcp6Options, message: ClientMessage, hostname: string | null): Option[] {
  const { resolvers, domains, domain, ntpServers, bootFiles, solicitSeconds, informationSeconds } = settings
  const { requested, fqdn, architecture } = message
  const bootFile = bootFiles[`${architecture}`] ?? bootFiles.default ?? ''
  const options = [
    codec.addressesOption(codec.OPTION_DNS_SERVERS, resolvers),
    { code: codec.OPTION_DOMAIN_LIST, data: writeDomains(domains) },
    codec.ntpOption(ntpServers),
    { code: codec.OPTION_BOOT_FILE_URL, data: new Uint8Array(Buffer.from(bootFile, 'utf8')) },
  ]
  if (solicitSeconds !== null) options.push(codec.secondsOption(codec.OPTION_SOL_MAX_RT, solicitSeconds))
  if (informationSeconds !== null) options.push(codec.secondsOption(codec.OPTION_INF_MAX_RT, informationSeconds))
  const asked = new Set(requested ?? WITHOUT_LIST)
  const given = options.filter(({ code, data }) => data.length > 0 && asked.has(code))
  const name = fqdn && hostname !== null && domain !== null ? fqdnOf(fqdn[0], `${hostname}.${domain}`) : null
  return name ? [{ code: codec.OPTION_FQDN, data: name }, ...given] : given
}

/** The server keeps the names, whatever the client would do. */
function fqdnOf(clientFlags: number, name: string): Uint8Array | null {
  const domain = writeDomain(name)
  const isOverridden = (clientFlags & FQDN_SERVER_UPDATES) === 0
  return domain && Uint8Array.of(FQDN_SERVER_UPDATES | (isOverridden ? FQDN_OVERRIDDEN : 0), ...domain)
}

/** How a client calls itself in its FQDN option; null: not at all, or it wants its name kept out of DNS. */
export function nameOf(fqdn: Uint8Array | null): string | null {
  if (fqdn === null || (fqdn[0] & FQDN_NONE) !== 0) return null
  const name = readDomain(fqdn.subarray(1))?.name ?? ''
  return name === '' ? null : name
}

/** The MAC that a DUID was made of (RFC 8415 sections 11.2 and 11.4); null: of none. */
export function macOfDuid(duid: Uint8Array | null): Uint8Array | null {
  if (duid === null || duid.length < 4 || ((duid[2] << 8) | duid[3]) !== ETHERNET) return null
  const type = (duid[0] << 8) | duid[1]
  if (type === DUID_LINK_LAYER && duid.length === 10) return duid.subarray(4)
  return type === DUID_LINK_LAYER_TIME && duid.length === 14 ? duid.subarray(8) : null
}
