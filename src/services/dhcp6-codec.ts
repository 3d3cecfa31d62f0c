/**
 * DHCPv6 messages between bytes and objects (RFC 8415): what clients and relays send is read, what a server answers is
 * written.
 *
 * Reading goes from the outside in. A message is a list of options; an identity association is an option with a list
 * of options of its own, and so is an address in it; a relayed message is an option of the relay's message, up to 8
 * deep. Each list is checked in full, every length against the list that it stands in, before anything of it is used.
 * What is handed out are copies of what was checked. An answer is built anew from those copies: no length that a client
 * wrote is ever written back (CVE-2026-5367 of OVN was that).
 *
 * Limits: a message of 1500 octets; 64 options a list; 8 relays; 8 identity associations a message, 16 addresses in
 * each; a DUID of 130 octets. What is beyond is refused whole: nobody but an attacker gets there.
 *
 * Refused when read (null): anything malformed; what clients or servers only receive; an option that may stand once and
 * stands twice.
 */
import { type Ip, ipBytes, ipFromBytes } from './address.js'

export const CLIENT_PORT = 546
export const SERVER_PORT = 547

export const SOLICIT = 1
export const ADVERTISE = 2
export const REQUEST = 3
export const CONFIRM = 4
export const RENEW = 5
export const REBIND = 6
export const REPLY = 7
export const RELEASE = 8
export const DECLINE = 9
export const INFORMATION_REQUEST = 11
export const RELAY_FORWARD = 12
export const RELAY_REPLY = 13

export const OPTION_CLIENT_ID = 1
export const OPTION_SERVER_ID = 2
export const OPTION_IA_NA = 3
export const OPTION_IA_TA = 4
export const OPTION_IA_ADDRESS = 5
export const OPTION_REQUESTED = 6
export const OPTION_PREFERENCE = 7
export const OPTION_RELAY_MESSAGE = 9
export const OPTION_STATUS = 13
export const OPTION_RAPID_COMMIT = 14
export const OPTION_INTERFACE_ID = 18
export const OPTION_DNS_SERVERS = 23
export const OPTION_DOMAIN_LIST = 24
export const OPTION_IA_PD = 25
export const OPTION_IA_PREFIX = 26
export const OPTION_INFORMATION_REFRESH = 32 // RFC 4242
export const OPTION_FQDN = 39 // RFC 4704
export const OPTION_NTP = 56 // RFC 5908
export const OPTION_BOOT_FILE_URL = 59 // RFC 5970
export const OPTION_ARCHITECTURE = 61 // RFC 5970
export const OPTION_CLIENT_LINK_LAYER = 79 // RFC 6939
export const OPTION_SOL_MAX_RT = 82
export const OPTION_INF_MAX_RT = 83

export const STATUS_SUCCESS = 0
export const STATUS_NO_ADDRESSES = 2
export const STATUS_NO_BINDING = 3
export const STATUS_NOT_ON_LINK = 4
export const STATUS_USE_MULTICAST = 5
export const STATUS_NO_PREFIX = 6

/** A lifetime that never ends. */
export const INFINITY = 0xffffffff

/** Octets of a message that are read at most. */
export const LARGEST_MESSAGE = 1500
/** Relays that a message may have come through. */
export const MOST_RELAYS = 8
/** Identity associations in a message, of all kinds. */
export const MOST_ASSOCIATIONS = 8
const MOST_ADDRESSES = 16
const MOST_OPTIONS = 64
const LONGEST_DUID = 130
const RELAY_BYTES = 34
const ETHERNET_TYPE = 1

/** Options that a message has once at most (RFC 8415 section 21 and the RFCs above). */
const SINGLE = new Set([
  OPTION_CLIENT_ID,
  OPTION_SERVER_ID,
  OPTION_REQUESTED,
  OPTION_RELAY_MESSAGE,
  OPTION_STATUS,
  OPTION_RAPID_COMMIT,
  OPTION_INTERFACE_ID,
  OPTION_FQDN,
  OPTION_ARCHITECTURE,
  OPTION_CLIENT_LINK_LAYER,
])
/** What a server is sent, relays apart. */
const FROM_CLIENTS = new Set([SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE, INFORMATION_REQUEST])

export interface Option {
  code: number
  data: Uint8Array
}

/** IA_NA, IA_TA or IA_PD, without the lifetimes that the client would like. */
export interface Association {
  kind: typeof OPTION_IA_NA | typeof OPTION_IA_TA | typeof OPTION_IA_PD
  /** unsigned 32 bits, by which the client tells its associations apart */
  iaid: number
  /** of IA_NA and IA_TA; empty with IA_PD */
  addresses: Ip[]
}

export interface Relay {
  hopCount: number
  /** an address of the client's link; `::` if the relay does not tell */
  link: Ip
  /** whom the relay had it from: the client, or another relay */
  peer: Ip
  /** given back unchanged; null: the relay sent none */
  interfaceId: Uint8Array | null
  /** the client's MAC as its relay saw it (RFC 6939); null: not told */
  clientMac: Uint8Array | null
}

export interface ClientMessage {
  type: number
  /** 24 bits */
  transaction: number
  /** null: an information request may have none */
  clientId: Uint8Array | null
  serverId: Uint8Array | null
  associations: Association[]
  /** codes the client asks for; null: it has no list */
  requested: number[] | null
  hasRapidCommit: boolean
  /** data of OPTION_FQDN, at least 1 octet; null: none */
  fqdn: Uint8Array | null
  /** the first of the client's architectures (RFC 4578); null: not told */
  architecture: number | null
}

export interface Received {
  /** outermost first, the one next to the client last; empty: the client itself sent it */
  relays: Relay[]
  message: ClientMessage
}

// ---- reading ----

/** A message to a server, out of a datagram's payload; null if it is none or is not sound. */
export function readRequest(payload: Uint8Array): Received | null {
  if (payload.length > LARGEST_MESSAGE) return null
  const relays: Relay[] = []
  let bytes: Uint8Array = new Uint8Array(payload)
  while (bytes.length > 0 && bytes[0] === RELAY_FORWARD) {
    if (relays.length === MOST_RELAYS || bytes.length < RELAY_BYTES) return null
    const options = readOptions(bytes, RELAY_BYTES)
    const inner = options?.find(({ code }) => code === OPTION_RELAY_MESSAGE)
    const relay = options && readRelay(bytes, options)
    if (!inner || !relay) return null
    relays.push(relay)
    bytes = inner.data
  }
  const message = readClientMessage(bytes)
  return message && { relays, message }
}

/**
 * A list of options from `at` to the end, with copies of their data.
 * @returns null if one goes beyond the end, is cut short, or stands twice and must not
 */
export function readOptions(bytes: Uint8Array, at: number): Option[] | null {
  const options: Option[] = []
  const seen = new Set<number>()
  let from = at
  while (from < bytes.length) {
    if (bytes.length - from < 4 || options.length === MOST_OPTIONS) return null
    const code = word(bytes, from)
    const end = from + 4 + word(bytes, from + 2)
    if (end > bytes.length || (seen.has(code) && SINGLE.has(code))) return null
    seen.add(code)
    options.push({ code, data: new Uint8Array(bytes.subarray(from + 4, end)) })
    from = end
  }
  return from === bytes.length ? options : null
}

function readRelay(bytes: Uint8Array, options: Option[]): Relay | null {
  const address = dataOf(options, OPTION_CLIENT_LINK_LAYER)
  if (bytes[1] > MOST_RELAYS || (address && address.length < 2)) return null
  const isMac = address !== null && address.length === 8 && word(address, 0) === ETHERNET_TYPE
  return {
    hopCount: bytes[1],
    link: ipFromBytes(bytes, 2, 16),
    peer: ipFromBytes(bytes, 18, 16),
    interfaceId: dataOf(options, OPTION_INTERFACE_ID),
    clientMac: isMac ? address.subarray(2) : null,
  }
}

function readClientMessage(bytes: Uint8Array): ClientMessage | null {
  if (bytes.length < 4 || !FROM_CLIENTS.has(bytes[0])) return null
  const options = readOptions(bytes, 4)
  if (options === null) return null
  const clientId = dataOf(options, OPTION_CLIENT_ID)
  const serverId = dataOf(options, OPTION_SERVER_ID)
  if ((clientId && !isDuid(clientId)) || (serverId && !isDuid(serverId))) return null
  const associations: Association[] = []
  for (const option of options) {
    if (option.code !== OPTION_IA_NA && option.code !== OPTION_IA_TA && option.code !== OPTION_IA_PD) continue
    const association = readAssociation(option.code, option.data)
    if (association === null || associations.length === MOST_ASSOCIATIONS) return null
    if (associations.some(({ kind, iaid }) => kind === association.kind && iaid === association.iaid)) return null
    associations.push(association)
  }
  const requested = dataOf(options, OPTION_REQUESTED)
  const fqdn = dataOf(options, OPTION_FQDN)
  const architecture = dataOf(options, OPTION_ARCHITECTURE)
  if ((requested && requested.length % 2 !== 0) || (fqdn && fqdn.length === 0)) return null
  if (architecture && (architecture.length === 0 || architecture.length % 2 !== 0)) return null
  return {
    type: bytes[0],
    transaction: (bytes[1] << 16) | word(bytes, 2),
    clientId,
    serverId,
    associations,
    requested: requested && Array.from({ length: requested.length / 2 }, (_, i) => word(requested, i * 2)),
    hasRapidCommit: dataOf(options, OPTION_RAPID_COMMIT) !== null,
    fqdn,
    architecture: architecture && word(architecture, 0),
  }
}

function readAssociation(kind: Association['kind'], data: Uint8Array): Association | null {
  const at = kind === OPTION_IA_TA ? 4 : 12
  if (data.length < at) return null
  const options = readOptions(data, at)
  if (options === null || options.length > MOST_ADDRESSES) return null
  const addresses: Ip[] = []
  for (const { code, data: inner } of options) {
    if (code !== OPTION_IA_ADDRESS && code !== OPTION_IA_PREFIX) continue
    const fixed = code === OPTION_IA_ADDRESS ? 24 : 25
    if (inner.length < fixed || readOptions(inner, fixed) === null) return null
    if (kind !== OPTION_IA_PD && code === OPTION_IA_ADDRESS) addresses.push(ipFromBytes(inner, 0, 16))
  }
  return { kind, iaid: long(data, 0), addresses }
}

/** Type, then 1 to 128 octets (section 11.1). */
function isDuid(data: Uint8Array): boolean {
  return data.length > 2 && data.length <= LONGEST_DUID
}

function dataOf(options: readonly Option[], code: number): Uint8Array | null {
  return options.find((option) => option.code === code)?.data ?? null
}

// ---- writing ----

/** A server's message to a client. */
export function writeMessage(type: number, transaction: number, options: readonly Option[]): Uint8Array {
  const header = Uint8Array.of(type, transaction >> 16, transaction >> 8, transaction)
  return join([header, ...options.map(writeOption)])
}

/** A message to a client on the way back through its relays; the message itself if there were none. */
export function writeRelayReply(relays: readonly Relay[], message: Uint8Array): Uint8Array {
  return relays.reduceRight((inner, { hopCount, link, peer, interfaceId }) => {
    const options = [{ code: OPTION_RELAY_MESSAGE, data: inner }]
    if (interfaceId) options.unshift({ code: OPTION_INTERFACE_ID, data: interfaceId })
    const header = [Uint8Array.of(RELAY_REPLY, hopCount), ipBytes(link), ipBytes(peer)]
    return join([...header, ...options.map(writeOption)])
  }, message)
}

function writeOption({ code, data }: Option): Uint8Array {
  return join([words(code, data.length), data])
}

/** An identity association in an answer; `renewSeconds` and `rebindSeconds` (T1, T2) are not in an IA_TA. */
export function associationOption(
  { kind, iaid }: Association,
  renewSeconds: number,
  rebindSeconds: number,
  options: readonly Option[],
): Option {
  const fixed = kind === OPTION_IA_TA ? longs(iaid) : longs(iaid, renewSeconds, rebindSeconds)
  return { code: kind, data: join([fixed, ...options.map(writeOption)]) }
}

export function addressOption(address: Ip, preferredSeconds: number, validSeconds: number): Option {
  return { code: OPTION_IA_ADDRESS, data: join([ipBytes(address), longs(preferredSeconds, validSeconds)]) }
}

export function statusOption(status: number, text: string): Option {
  return { code: OPTION_STATUS, data: join([words(status), Buffer.from(text, 'utf8')]) }
}

export function addressesOption(code: number, addresses: readonly Ip[]): Option {
  return { code, data: join(addresses.map(ipBytes)) }
}

/** One option of RFC 5908 with an NTP server's address as suboption for each. */
export function ntpOption(servers: readonly Ip[]): Option {
  return { code: OPTION_NTP, data: join(servers.flatMap((server) => [words(1, 16), ipBytes(server)])) }
}

export function secondsOption(code: number, seconds: number): Option {
  return { code, data: longs(seconds) }
}

/** The DUID made of a UUID (RFC 6355): 18 octets. */
export function duidOf(uuid: string): Uint8Array {
  const hex = uuid.replaceAll('-', '')
  if (!/^[\da-f]{32}$/i.test(hex)) throw new RangeError(`${uuid} is no UUID`)
  return join([words(4), Buffer.from(hex, 'hex')])
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1]
}

function long(bytes: Uint8Array, at: number): number {
  return word(bytes, at) * 0x10000 + word(bytes, at + 2)
}

function words(...values: number[]): Uint8Array {
  return Uint8Array.from(values.flatMap((value) => [value >> 8, value]))
}

function longs(...values: number[]): Uint8Array {
  return Uint8Array.from(values.flatMap((value) => [value >>> 24, value >>> 16, value >>> 8, value]))
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
