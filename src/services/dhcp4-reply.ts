/**
 * What a DHCPv4 answer says: the settings of a network as options, chosen by what the client asks for, and where the
 * answer is sent (RFC 2131 section 4.1).
 *
 * Sent always, as far as there is something to say: message type, server identifier, lease times, mask, and an MTU
 * other than 1500 (a client that does not ask for it would send too large packets). The others are sent in the
 * client's order if it asks for them (option 55), or all if it has no such list. With routes, 121 and 249 say the
 * default route too, as a client that takes them ignores option 3 (RFC 3442). A user's own options replace those that
 * come from settings.
 *
 * Echoed, always from the checked copy in the decoded message: the client identifier (RFC 6842), the machine
 * identifier of PXE (97), and the relay's option 82 as it came, the last of all (RFC 3046 section 2.2) and only to a
 * relay.
 *
 * PXE: `bootFiles` by the client's architecture (option 93), `ipxe` for iPXE, which says so in option 77, else
 * `default`; in `file` if that has room for it, and in option 67; the server in `siaddr` and option 66. An HTTP client
 * of UEFI is told its own class (option 60), else it would not take the answer.
 */
import { formatIp, lastOf, maskOf } from './address.js'
import type { Ip, Prefix } from './address.js'
import { writeDomain, writeDomains } from './domain-list.js'
import { ACK, BOOTREPLY, NAK, OPTION_MESSAGE_TYPE, encodeMessage } from './dhcp4-codec.js'
import type { Message4 } from './dhcp4-codec.js'
import * as option from './dhcp4-options.js'
import type { OptionRoute } from './dhcp4-options.js'
import type { Datagram } from './frame.js'
import type { Lease } from './leases.js'

export const SERVER_PORT = 67
export const CLIENT_PORT = 68
/** RFC 2131 section 2: what every client takes, as an IP packet; the headers are no part of the message. */
const LEAST_LONGEST = 576
const HEADERS_BYTES = 28
const USUAL_MTU = 1500
const INFINITE = 0xffffffff
const LONGEST_FILE = 127
/** More than fits one option is not echoed. */
const LONGEST_ECHO = 255
const LINK_SELECTION = 5
const SERVER_OVERRIDE = 11
const BROADCAST_MAC = Uint8Array.of(255, 255, 255, 255, 255, 255)
const BROADCAST_IP = Uint8Array.of(255, 255, 255, 255)

export interface Dhcp4Subnet {
  subnet: Prefix
  /** the server's address in it */
  server: Ip
  /** option 3; null: none */
  router: Ip | null
  /** null: reservations only */
  range: { from: Ip; to: Ip } | null
  /** the server has a port in it; else it is reached through relays alone */
  isOnLink: boolean
}

/** Everything the server says. Plain values, checked by whoever made them. */
export interface Dhcp4Settings {
  /** 6 bytes: the source of answers */
  mac: Uint8Array
  /** those on the link first; a client gets an address of the first one that has one for it */
  subnets: Dhcp4Subnet[]
  /** Infinity, or 60 at least */
  leaseSeconds: number
  dns: Ip[]
  ntp: Ip[]
  domain: string | null
  search: string[]
  /** null: not said */
  mtu: number | null
  routes: OptionRoute[]
  bootServer: Ip | null
  /** by number of the architecture (`0`, `7`), `ipxe`, `default` */
  bootFiles: Record<string, string>
  /** by number, as `encodeOption` gives them */
  options: Map<number, Uint8Array>
}

/** A request as the server works on it. */
export interface Request4 {
  message: Message4
  options: Map<number, Uint8Array>
  datagram: Datagram
  port: string
  nowSeconds: number
}

/** RFC 3527: the relay's choice of a subnet, else its own address. */
export function relaySubnet({ message, options }: Request4): Ip | null {
  if (message.giaddr === null) return null
  const relay = option.decodeRelay(options.get(option.OPTION_RELAY) ?? new Uint8Array(0))
  return option.decodeIp(relay?.get(LINK_SELECTION)) ?? message.giaddr
}

/** The server identifier: the server's own, or what the relay wants to stand there (RFC 5107). */
export function serverIdentifier({ message, options }: Request4, subnet: Dhcp4Subnet): Ip {
  if (message.giaddr === null) return subnet.server
  const relay = option.decodeRelay(options.get(option.OPTION_RELAY) ?? new Uint8Array(0))
  return option.decodeIp(relay?.get(SERVER_OVERRIDE)) ?? subnet.server
}

/**
 * An answer.
 * @param type OFFER, ACK or NAK; 0: BOOTP
 * @param lease null: of a NAK, or to an INFORM
 */
export function makeReply(
  settings: Dhcp4Settings,
  subnet: Dhcp4Subnet,
  request: Request4,
  type: number,
  lease: Lease | null,
  extra: [number, Uint8Array][] = [],
): Datagram {
  const { message, options } = request
  const isNak = type === NAK
  const file = isNak ? '' : bootFile(settings, options)
  const reply: Message4 = {
    op: BOOTREPLY,
    hops: 0,
    xid: message.xid,
    secs: 0,
    // a relay broadcasts what the flag says: a client that was refused has no address to be reached at
    isBroadcast: message.isBroadcast || (isNak && message.giaddr !== null),
    ciaddr: isNak || type === 0 ? null : message.ciaddr,
    yiaddr: lease?.address ?? null,
    siaddr: isNak ? null : (settings.bootServer ?? (file === '' ? null : subnet.server)),
    giaddr: message.giaddr,
    chaddr: message.chaddr,
    sname: '',
    file: file.length <= LONGEST_FILE ? file : '',
    options: null,
  }
  if (type !== 0) {
    const said = new Map<number, Uint8Array>([
      [OPTION_MESSAGE_TYPE, Uint8Array.of(type)],
      [option.OPTION_SERVER, option.ipList([serverIdentifier(request, subnet)])],
      ...extra,
    ])
    const client = options.get(option.OPTION_CLIENT)
    if (client !== undefined && client.length <= LONGEST_ECHO) said.set(option.OPTION_CLIENT, client)
    if (!isNak) sayAll(said, settings, subnet, request, lease, file)
    reply.options = said
    const relay = options.get(option.OPTION_RELAY)
    const isSound = relay !== undefined && relay.length <= LONGEST_ECHO && option.decodeRelay(relay) !== null
    if (isSound && message.giaddr !== null) said.set(option.OPTION_RELAY, relay)
  }
  return addressed(settings, subnet, request, reply, type, longestFor(settings, options))
}

/** How long the message may be: what the client takes, as far as the link takes it. */
function longestFor({ mtu }: Dhcp4Settings, options: Map<number, Uint8Array>): number {
  const wished = option.decodeNumber(options.get(option.OPTION_LONGEST_MESSAGE), 2) ?? LEAST_LONGEST
  return Math.max(LEAST_LONGEST, Math.min(wished, mtu ?? USUAL_MTU)) - HEADERS_BYTES
}

function sayAll(
  said: Map<number, Uint8Array>,
  settings: Dhcp4Settings,
  subnet: Dhcp4Subnet,
  { options }: Request4,
  lease: Lease | null,
  file: string,
): void {
  if (lease !== null) {
    const seconds = Math.min(lease.seconds, INFINITE)
    said.set(option.OPTION_LEASE_TIME, option.uint32(seconds))
    if (seconds < INFINITE) {
      said.set(option.OPTION_T1, option.uint32(Math.floor(seconds / 2)))
      said.set(option.OPTION_T2, option.uint32(Math.floor((seconds * 7) / 8)))
    }
  }
  const known = optionsOf(settings, subnet, lease, file)
  const always = settings.mtu === null || settings.mtu === USUAL_MTU ? [] : [option.OPTION_MTU]
  const wished = options.get(option.OPTION_REQUESTED_OPTIONS)
  for (const code of [option.OPTION_MASK, ...always, ...(wished ?? known.keys())]) {
    const value = known.get(code)
    if (value !== undefined) said.set(code, value)
  }
  // what a user set is for all: firmware reads some of it without asking
  for (const [code, value] of settings.options) said.set(code, value)
  const boot = options.has(option.OPTION_ARCHITECTURE) ? [option.OPTION_BOOT_SERVER, option.OPTION_BOOT_FILE] : []
  for (const code of boot) if (known.has(code)) said.set(code, known.get(code)!)
  const machine = options.get(option.OPTION_MACHINE)
  if (machine?.length === 17) said.set(option.OPTION_MACHINE, machine)
  const vendorClass = option.decodeText(options.get(option.OPTION_CLASS))
  if (file !== '' && vendorClass?.startsWith('HTTPClient'))
    said.set(option.OPTION_CLASS, new TextEncoder().encode('HTTPClient'))
  const fqdn = option.decodeFqdn(options.get(option.OPTION_FQDN))
  const hostname = lease?.hostname ?? null
  if (fqdn !== null && hostname !== null) said.set(option.OPTION_FQDN, fqdnOf(settings, fqdn.flags, hostname))
}

/** All that the settings have to say, by option. */
function optionsOf(
  settings: Dhcp4Settings,
  { subnet, server, router }: Dhcp4Subnet,
  lease: Lease | null,
  file: string,
): Map<number, Uint8Array> {
  const { dns, ntp, domain, search, mtu, routes, bootServer } = settings
  const text = new TextEncoder()
  const known = new Map<number, Uint8Array>([[option.OPTION_MASK, option.ipList([maskOf(4, subnet.prefix)])]])
  if (router !== null) known.set(option.OPTION_ROUTER, option.ipList([router]))
  if (dns.length > 0) known.set(option.OPTION_DNS, option.ipList(dns))
  if (lease?.hostname != null) known.set(option.OPTION_HOSTNAME, text.encode(lease.hostname))
  if (domain !== null) known.set(option.OPTION_DOMAIN, text.encode(domain))
  if (mtu !== null) known.set(option.OPTION_MTU, option.uint16(mtu))
  if (subnet.prefix < 31) known.set(option.OPTION_BROADCAST, option.ipList([lastOf(subnet)]))
  if (ntp.length > 0) known.set(option.OPTION_NTP, option.ipList(ntp))
  if (search.length > 0) known.set(option.OPTION_SEARCH, writeDomains(search))
  if (routes.length > 0) {
    const byDefault = router === null ? [] : [{ destination: { ip: [0], prefix: 0 }, via: router }]
    const value = option.encodeRoutes([...byDefault, ...routes])
    known.set(option.OPTION_ROUTES, value)
    known.set(option.OPTION_ROUTES_MICROSOFT, value)
  }
  if (file !== '') {
    known.set(option.OPTION_BOOT_SERVER, text.encode(formatIp(bootServer ?? server)))
    known.set(option.OPTION_BOOT_FILE, text.encode(file))
  }
  return known
}

function bootFile({ bootFiles }: Dhcp4Settings, options: Map<number, Uint8Array>): string {
  const isIpxe = Buffer.from(options.get(option.OPTION_USER_CLASS) ?? [])
    .toString('latin1')
    .includes('iPXE')
  if (isIpxe && Object.hasOwn(bootFiles, 'ipxe')) return bootFiles.ipxe
  const architecture = option.decodeNumber(options.get(option.OPTION_ARCHITECTURE)?.subarray(0, 2), 2)
  if (architecture !== null && Object.hasOwn(bootFiles, `${architecture}`)) return bootFiles[`${architecture}`]
  return Object.hasOwn(bootFiles, 'default') ? bootFiles.default : ''
}

/** RFC 4702 section 3: the server has the name; the result codes are 255, the form is the client's. */
function fqdnOf({ domain }: Dhcp4Settings, flags: number, hostname: string): Uint8Array {
  const name = domain === null ? hostname : `${hostname}.${domain}`
  const isEncoded = (flags & option.FQDN_ENCODED) !== 0
  const overridden = (flags & option.FQDN_SERVER) === 0 ? option.FQDN_OVERRIDDEN : 0
  const own = option.FQDN_SERVER | overridden | (flags & option.FQDN_ENCODED)
  const encoded = isEncoded ? (writeDomain(name) ?? new Uint8Array(0)) : new TextEncoder().encode(name)
  return Uint8Array.of(own, 255, 255, ...encoded)
}

/** Where the answer goes. */
function addressed(
  { mac }: Dhcp4Settings,
  { server }: Dhcp4Subnet,
  { message, datagram }: Request4,
  reply: Message4,
  type: number,
  longest: number,
): Datagram {
  const source = { mac, ip: option.ipList([server]), port: SERVER_PORT }
  const payload = encodeMessage(reply, longest)
  const to = (hardware: Uint8Array, ip: Uint8Array, port: number): Datagram => ({
    source,
    destination: { mac: hardware, ip, port },
    payload,
  })
  if (message.giaddr !== null) return to(datagram.source.mac, option.ipList([message.giaddr]), SERVER_PORT)
  if (type === NAK) return to(BROADCAST_MAC, BROADCAST_IP, CLIENT_PORT)
  if (message.ciaddr !== null && type === ACK) return to(message.chaddr, option.ipList([message.ciaddr]), CLIENT_PORT)
  if (message.isBroadcast || reply.yiaddr === null) return to(BROADCAST_MAC, BROADCAST_IP, CLIENT_PORT)
  return to(message.chaddr, option.ipList([reply.yiaddr]), CLIENT_PORT)
}
