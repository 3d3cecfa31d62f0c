/**
 * The DHCPv6 server of a network (RFC 8415): bytes of a datagram in, the answer out.
 *
 *     SOLICIT              ADVERTISE with an address held for it; with rapid commit REPLY and the lease
 *     REQUEST              REPLY with the lease
 *     RENEW, REBIND        REPLY; a lease that is not known is made if it can be, so nobody loses an address with a
 *                          lost journal; addresses that cannot be kept come back with lifetimes of 0
 *     CONFIRM              REPLY: are these addresses right on this link; silence if there are none
 *     RELEASE, DECLINE     REPLY; NoBinding for what is not the client's own
 *     INFORMATION-REQUEST  REPLY with options, no lease
 *
 * The server is the only one on its link (the guards see to that), so an ADVERTISE has preference 255 and clients do
 * not wait for others. It has no prefixes to delegate and no temporary addresses: IA_PD and IA_TA are answered with
 * their status codes. Unicast is not offered: a unicast message gets UseMulticast, or nothing, as the RFC says for its
 * type. Answers hold what the client asks for by its option list; without a list, resolvers and domains.
 *
 * Who a client is: the MAC of the frame at its port first, so that a guest keeps its address when its firmware, its
 * installer and its system use DUIDs of their own. DUID and IAID tell the identity associations of one MAC apart: each
 * takes a place, 1 to 8; an association of another DUID at the same MAC is taken for an earlier system of this guest,
 * and its place taken over. Behind a relay the MAC is the relay's and tells nothing: there an association is DUID and
 * IAID. Only a relay at a port in `trustedRelays` is believed the client's MAC (RFC 6939, or a DUID made of it).
 *
 * Limits: 10 messages a second at a port and 20 at once, of a trusted relay 100 and 200; those beyond are dropped;
 * leases as `leases.ts` has it. An answer has 1232 octets at most: options that do not fit are left out and counted.
 * Answers are given out after the journal is on the disk; whoever has several messages at hand calls `handleAll`, which
 * waits for the disk once. If it cannot be written there is no answer, and `onProblem` is told.
 *
 * Standards: RFC 8415; RFC 3646 (resolvers, domains), 4242 (refresh time), 4704 (FQDN), 5908 (NTP), 5970 (boot file),
 * 6355 (DUID-UUID), 6939, 7083 (SOL_MAX_RT). Not done: reconfigure, authentication, prefix delegation.
 */
import {
  type Ip,
  contains,
  ipBytes,
  ipFromBytes,
  isHostAddress,
  isLinkLocal,
  isMulticast,
  isSameIp,
  isUnspecified,
} from './address.js'
import * as codec from './dhcp6-codec.js'
import type { Association, ClientMessage, Option, Relay } from './dhcp6-codec.js'
import { type Dhcp6Options, configuredOptions, macOfDuid, nameOf } from './dhcp6-options.js'
import type { Datagram } from './frame.js'
import type { LeaseRoom } from './lease-room.js'
import type { Holder, Lease, LeasePool, Leases } from './leases.js'

const LARGEST_ANSWER = 1232
const PREFERENCE = 255
/** Messages of a port in a second, and at once. */
const PORT_RATE = 10
const PORT_BURST = 20
/** A relay speaks for so many clients. */
const RELAYED = 10
/** Ports whose rate is remembered. */
const PORTS = 4096

export interface Dhcp6Settings extends Dhcp6Options {
  /** of the network: the server's DUID is made of it */
  uuid: string
  /** the router's MAC and link-local address, from which answers come */
  mac: Uint8Array
  address: Ip
  /** the link's IPv6 subnets; with more than one range, the first that has an address left */
  pools: LeasePool[]
  /** valid lifetime; Infinity: for ever. Addresses are preferred for three quarters of it. */
  leaseSeconds: number
  /** seconds after which an information request is to be repeated */
  refreshSeconds: number
  /** names of ports whose relays are believed about their clients' MACs */
  trustedRelays: string[]
}

export interface Dhcp6ServerOptions {
  leases: Leases
  settings: Dhcp6Settings
  /** makes room at a port that has all its leases, for when the client asks again */
  room?: LeaseRoom | null
  onProblem?: (reason: string) => void
}

export interface Context6 {
  /** name of the port that the frame came in by */
  port: string
  /** wall clock, that of the leases; fractions count for the rate */
  nowSeconds: number
}

/** An address held or leased for an association. */
interface Held {
  holder: Holder
  pool: LeasePool
  lease: Lease
}

/** One client's message at work. */
interface Exchange {
  message: ClientMessage
  pools: LeasePool[]
  mac: string
  port: string
  /** DUID in hexadecimal */
  duid: string
  /** the MAC is that of a relay with many clients */
  isShared: boolean
  name: string | null
  nowSeconds: number
  /** the name that a lease of this exchange got */
  hostname: string | null
  /** places given to associations of this message */
  places: Set<number>
}

interface Allowance {
  tokens: number
  seconds: number
}

export class Dhcp6Server {
  readonly counts = { received: 0, answered: 0, malformed: 0, refused: 0, limited: 0, optionsLeftOut: 0 }
  private settings: Dhcp6Settings
  private serverId: Uint8Array
  private readonly leases: Leases
  private readonly room: LeaseRoom | null
  private readonly onProblem: (reason: string) => void
  private readonly allowances = new Map<string, Allowance>()

  constructor({ leases, settings, room, onProblem }: Dhcp6ServerOptions) {
    this.leases = leases
    this.room = room ?? null
    this.settings = settings
    this.onProblem = onProblem ?? (() => undefined)
    this.serverId = codec.duidOf(settings.uuid)
  }

  /** Takes new settings; they count from the next message on. */
  configure(settings: Dhcp6Settings): void {
    this.serverId = codec.duidOf(settings.uuid)
    this.settings = settings
  }

  /** The answer to a datagram, for the port it came from; null: none. */
  handle(datagram: Datagram, context: Context6): Datagram | null {
    return this.handleAll([[datagram, context]])[0]
  }

  /** Answers several that are at hand, with one wait for the disk. */
  handleAll(requests: readonly [Datagram, Context6][]): (Datagram | null)[] {
    const answers = requests.map(([datagram, context]) => this.answerTo(datagram, context))
    try {
      this.leases.commit()
      return answers
    } catch (error) {
      this.onProblem(`leases cannot be written: ${(error as Error).message}`)
      return answers.map(() => null)
    }
  }

  private answerTo(datagram: Datagram, { port, nowSeconds }: Context6): Datagram | null {
    this.counts.received++
    if (!this.isWithinRate(port, nowSeconds)) {
      this.counts.limited++
      return null
    }
    const { source, destination, payload } = datagram
    const isAddressed = source.ip.length === 16 && destination.port === codec.SERVER_PORT
    const received = isAddressed && isHostAddress(ipFromBytes(source.ip)) ? codec.readRequest(payload) : null
    if (received === null) {
      this.counts.malformed++
      return null
    }
    const { relays, message } = received
    const isUnicast = relays.length === 0 && !isMulticast(ipFromBytes(destination.ip))
    const answer = this.isProper(message, isUnicast, relays.length > 0 || isLinkLocal(ipFromBytes(source.ip)))
      ? this.answer(message, isUnicast, this.exchange(message, relays, source.mac, { port, nowSeconds }))
      : null
    if (answer === null) {
      this.counts.refused++
      return null
    }
    this.counts.answered++
    return {
      source: { mac: this.settings.mac, ip: ipBytes(this.settings.address), port: codec.SERVER_PORT },
      destination: { ...source, port: relays.length > 0 ? codec.SERVER_PORT : codec.CLIENT_PORT },
      payload: codec.writeRelayReply(relays, answer),
    }
  }

  private isWithinRate(port: string, nowSeconds: number): boolean {
    const share = this.settings.trustedRelays.includes(port) ? RELAYED : 1
    const known = this.allowances.get(port) ?? { tokens: PORT_BURST * share, seconds: nowSeconds }
    const passed = Math.max(0, nowSeconds - known.seconds)
    const tokens = Math.min(PORT_BURST * share, known.tokens + passed * PORT_RATE * share)
    this.allowances.delete(port) // the one that is not seen for longest stays first
    this.allowances.set(port, { tokens: tokens < 1 ? tokens : tokens - 1, seconds: nowSeconds })
    if (this.allowances.size > PORTS) this.allowances.delete(this.allowances.keys().next().value!)
    return tokens >= 1
  }

  /** RFC 8415 section 16: which messages a server discards. */
  private isProper(message: ClientMessage, isUnicast: boolean, isOnLink: boolean): boolean {
    const { type, clientId, serverId, associations } = message
    const isOurs = serverId !== null && Buffer.compare(serverId, this.serverId) === 0
    if (!isUnicast && !isOnLink) return false
    switch (type) {
      case codec.SOLICIT:
      case codec.CONFIRM:
      case codec.REBIND:
        return !isUnicast && clientId !== null && serverId === null
      case codec.INFORMATION_REQUEST:
        return !isUnicast && (serverId === null || isOurs) && associations.length === 0
      default:
        return clientId !== null && isOurs
    }
  }

  private exchange(message: ClientMessage, relays: Relay[], frameMac: Uint8Array, context: Context6): Exchange {
    const { port, nowSeconds } = context
    const isTrusted = this.settings.trustedRelays.includes(port)
    const told = relays.length > 0 && isTrusted ? (relays.at(-1)!.clientMac ?? macOfDuid(message.clientId)) : null
    const link = relays.findLast((relay) => !isUnspecified(relay.link))?.link
    return {
      message,
      pools: this.settings.pools.filter(({ subnet }) => link === undefined || contains(subnet, link)),
      mac: macText(told ?? frameMac),
      port,
      duid: Buffer.from(message.clientId ?? []).toString('hex'),
      isShared: relays.length > 0 && told === null,
      name: nameOf(message.fqdn),
      nowSeconds,
      hostname: null,
      places: new Set(),
    }
  }

  private answer(message: ClientMessage, isUnicast: boolean, exchange: Exchange): Uint8Array | null {
    if (isUnicast) return this.reply(exchange, [codec.statusOption(codec.STATUS_USE_MULTICAST, 'use multicast')], false)
    switch (message.type) {
      case codec.SOLICIT:
        if (!message.hasRapidCommit) return this.advertise(exchange)
        return this.replyLeases(exchange, [{ code: codec.OPTION_RAPID_COMMIT, data: new Uint8Array(0) }])
      case codec.REQUEST:
      case codec.RENEW:
      case codec.REBIND:
        return this.replyLeases(exchange, [])
      case codec.CONFIRM:
        return this.confirm(exchange)
      case codec.RELEASE:
      case codec.DECLINE: {
        const unknown = message.associations.flatMap((association) => this.giveBack(exchange, association))
        return this.reply(exchange, [codec.statusOption(codec.STATUS_SUCCESS, 'done'), ...unknown], false)
      }
      default:
        return this.reply(exchange, [
          codec.secondsOption(codec.OPTION_INFORMATION_REFRESH, this.settings.refreshSeconds),
        ])
    }
  }

  // ---- leases ----

  private advertise(exchange: Exchange): Uint8Array {
    let offers = 0
    const options = exchange.message.associations.map((association) => {
      const held = this.hold(exchange, association)
      if (held === null) return noneOf(association, false)
      offers++
      return this.granted(association, held.lease.address, [])
    })
    if (offers > 0) options.unshift({ code: codec.OPTION_PREFERENCE, data: Uint8Array.of(PREFERENCE) })
    return this.write(codec.ADVERTISE, exchange, options)
  }

  private replyLeases(exchange: Exchange, first: Option[]): Uint8Array {
    const leased = exchange.message.associations.map((association) => this.lease(exchange, association))
    return this.reply(exchange, [...first, ...leased])
  }

  /** Leases an address for an association, or says why not. */
  private lease(exchange: Exchange, association: Association): Option {
    const { message, pools, name, nowSeconds } = exchange
    const isRenewal = message.type === codec.RENEW || message.type === codec.REBIND
    const { kind, addresses } = association
    const isElsewhere = (address: Ip): boolean => poolOf(pools, address) === null
    if (kind === codec.OPTION_IA_NA && message.type === codec.REQUEST && addresses.some(isElsewhere))
      return refusal(association, codec.STATUS_NOT_ON_LINK, 'not on this link')
    const held = this.hold(exchange, association)
    const { leaseSeconds } = this.settings
    const lease = held && this.leases.grant(held.holder, held.pool, held.lease.address, leaseSeconds, name, nowSeconds)
    if (lease) exchange.hostname ??= lease.hostname
    const gone = isRenewal ? addresses.filter((address) => !lease || !isSameIp(address, lease.address)) : []
    if (lease) return this.granted(association, lease.address, gone)
    if (kind === codec.OPTION_IA_NA && gone.length > 0) return withdrawal(association, gone)
    return noneOf(association, isRenewal)
  }

  /** An address for an association: what is reserved, what it has or had, what it asks for, any that is left. */
  private hold(exchange: Exchange, association: Association): Held | null {
    const { pools, nowSeconds } = exchange
    const holder = association.kind === codec.OPTION_IA_NA ? this.holderOf(exchange, association) : null
    if (holder === null || pools.length === 0) return null
    const own = this.leases.find(holder, pools[0].subnet.ip)
    const before = [own?.address ?? null, ...association.addresses]
    const tries: { pool: LeasePool | null; wanted: Ip | null }[] = [
      ...pools.map(({ subnet }) => ({ pool: { subnet, range: null }, wanted: null })),
      ...before.map((wanted) => ({ pool: wanted && poolOf(pools, wanted), wanted })),
      ...pools.map((pool) => ({ pool, wanted: null })),
    ]
    for (const { pool, wanted } of tries) {
      const lease = pool && this.leases.offer(holder, pool, wanted, nowSeconds)
      if (lease) return { holder, pool, lease }
    }
    void this.room?.make(holder.port, pools, holder.mac, nowSeconds)
    return null
  }

  /** Under which key the leases have an association; null: its MAC has no place left. */
  private holderOf(exchange: Exchange, { iaid }: Association): Holder | null {
    const { mac, port, duid, pools, places } = exchange
    const client = clientOf(duid, iaid)
    if (exchange.isShared) return { mac, port, client, association: client }
    const like = pools[0]?.subnet.ip ?? [0, 0, 0, 0]
    let best = 0
    let bestRank = Number.POSITIVE_INFINITY
    for (let place = 1; place <= codec.MOST_ASSOCIATIONS; place++) {
      const own = this.leases.find({ mac, port, client, association: `${place}` }, like)
      let rank = 1 // free, or of a system that this guest has had before
      if (own?.client === client) rank = 0
      else if (own?.client.slice(0, -8) === duid) rank = own.state === 'expired' ? 2 : 3
      if (rank < bestRank && !places.has(place) && rank < 3) {
        best = place
        bestRank = rank
      }
    }
    if (best === 0) return null
    places.add(best)
    return { mac, port, client, association: `${best}` }
  }

  private giveBack(exchange: Exchange, association: Association): Option[] {
    const { message, mac, port, duid, nowSeconds } = exchange
    const client = clientOf(duid, association.iaid)
    let found = 0
    for (const address of association.kind === codec.OPTION_IA_NA ? association.addresses : []) {
      const lease = this.leases.byAddress(address)
      if (lease?.mac !== mac || lease.port !== port || lease.client !== client) continue
      const holder: Holder = { mac, port, client, association: lease.association }
      const isDone =
        message.type === codec.RELEASE
          ? this.leases.releaseBy(holder, address, nowSeconds)
          : this.leases.decline(holder, address, nowSeconds)
      if (isDone) found++
    }
    return found > 0 ? [] : [refusal(association, codec.STATUS_NO_BINDING, 'no such binding')]
  }

  private confirm(exchange: Exchange): Uint8Array | null {
    const { message, pools } = exchange
    const addresses = message.associations.flatMap((association) => association.addresses)
    if (addresses.length === 0) return null
    const isRight = addresses.every((address) => poolOf(pools, address) !== null)
    const status = isRight
      ? codec.statusOption(codec.STATUS_SUCCESS, 'on this link')
      : codec.statusOption(codec.STATUS_NOT_ON_LINK, 'not on this link')
    return this.reply(exchange, [status])
  }

  // ---- answers ----

  private granted(association: Association, address: Ip, gone: readonly Ip[]): Option {
    const valid = Math.min(Math.floor(this.settings.leaseSeconds), codec.INFINITY)
    const isEndless = valid === codec.INFINITY
    const preferred = isEndless ? valid : Math.floor(valid * 0.75)
    const [renew, rebind] = isEndless ? [valid, valid] : [Math.floor(preferred * 0.5), Math.floor(preferred * 0.8)]
    const ended = gone.map((one) => codec.addressOption(one, 0, 0))
    return codec.associationOption(association, renew, rebind, [
      codec.addressOption(address, preferred, valid),
      ...ended,
    ])
  }

  /** A REPLY, with what is configured unless it only says how something ended. */
  private reply(exchange: Exchange, options: Option[], isConfiguring = true): Uint8Array {
    return this.write(codec.REPLY, exchange, options, isConfiguring)
  }

  private write(type: number, exchange: Exchange, options: Option[], isConfiguring = true): Uint8Array {
    const { message, hostname } = exchange
    const all: Option[] = [{ code: codec.OPTION_SERVER_ID, data: this.serverId }]
    if (message.clientId) all.push({ code: codec.OPTION_CLIENT_ID, data: message.clientId })
    all.push(...options)
    let bytes = all.reduce((sum, { data }) => sum + 4 + data.length, 4)
    for (const option of isConfiguring ? configuredOptions(this.settings, message, hostname) : []) {
      if (bytes + 4 + option.data.length > LARGEST_ANSWER) {
        this.counts.optionsLeftOut++
        continue
      }
      bytes += 4 + option.data.length
      all.push(option)
    }
    return codec.writeMessage(type, message.transaction, all)
  }
}

/** As `Lease.client` has it: the DUID's digits, then eight of the IAID. */
function clientOf(duid: string, iaid: number): string {
  return `${duid}${iaid.toString(16).padStart(8, '0')}`
}

function refusal(association: Association, status: number, text: string): Option {
  return codec.associationOption(association, 0, 0, [codec.statusOption(status, text)])
}

/** @param isRenewal of a binding: there never was one of the kinds that are not leased */
function noneOf(association: Association, isRenewal: boolean): Option {
  const { kind } = association
  if (isRenewal && kind !== codec.OPTION_IA_NA) return refusal(association, codec.STATUS_NO_BINDING, 'no such binding')
  return kind === codec.OPTION_IA_PD
    ? refusal(association, codec.STATUS_NO_PREFIX, 'no prefix available')
    : refusal(association, codec.STATUS_NO_ADDRESSES, 'no address available')
}

function withdrawal(association: Association, addresses: readonly Ip[]): Option {
  const options = addresses.map((address) => codec.addressOption(address, 0, 0))
  return codec.associationOption(association, 0, 0, options)
}

function poolOf(pools: readonly LeasePool[], address: Ip): LeasePool | null {
  return pools.find(({ subnet }) => contains(subnet, address)) ?? null
}

function macText(mac: Uint8Array): string {
  return [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':')
}
