/**
 * The DHCPv4 server of a network: what it does with each kind of message. What an answer says is in `dhcp4-reply.ts`,
 * who has which address in `leases.ts`.
 *
 *   client says                                     server
 *   DISCOVER                                        OFFER, after a probe if the address is new; with rapid commit ACK
 *   REQUEST with server identifier (selecting)      ACK, NAK; nothing if it means another server
 *   REQUEST with requested address (init-reboot)    ACK, NAK
 *   REQUEST with ciaddr (renewing, rebinding)       ACK, NAK
 *   DECLINE                                         quarantine
 *   RELEASE                                         end of the lease
 *   INFORM                                          ACK without an address
 *   BOOTP                                           the reserved address, for good; nothing if there is no reservation
 *
 * The server is the only one of its network (the guard sees to that), so it is authoritative: it also confirms an
 * address that it does not know of, if that is free (its journal was lost), and refuses one of another subnet.
 *
 * Who may. A client's hardware address must be the source of its frame, unless a relay stands between; so a guest can
 * spend, release and decline only what is its own, at its own port. A client behind a relay that renews by unicast
 * comes with the relay's source and no giaddr: it gets no answer, and gets one when it rebinds through the relay. Each
 * port may send 10 messages a second, 20 at once, by relays 100 and 200; more are dropped and counted.
 *
 * In use. Before an address is offered to someone who did not have it, the caller is asked whether anyone on the link
 * uses it. The offer waits up to 200 ms for that; silence means free, and is believed for a minute. An address in use
 * goes into quarantine, and the next one is tried in the time that is left. While an answer waits, the client's
 * repetitions get none. Where a port has all its leases, the answer waits first for one to give way (`lease-room.ts`).
 *
 * Answers that confirm a lease are given out after the journal is on the disk. Whoever has several requests at hand
 * calls `handleAll`, which waits for the disk once. If it cannot be written there is no answer, and `onProblem` is
 * told.
 *
 * Capacity: that of the leases; one probe an address that is on offer. Standards: RFC 2131, 2132, 3046, 4039, 6842.
 */
import { contains, formatIp, isHostAddress } from './address.js'
import type { Ip } from './address.js'
import * as codec from './dhcp4-codec.js'
import * as option from './dhcp4-options.js'
import { SERVER_PORT, makeReply, relaySubnet, serverIdentifier } from './dhcp4-reply.js'
import type { Dhcp4Settings, Dhcp4Subnet, Request4 } from './dhcp4-reply.js'
import type { Datagram } from './frame.js'
import type { LeaseRoom } from './lease-room.js'
import type { Holder, Lease, Leases } from './leases.js'

const PROBE_MILLISECONDS = 200
const PROBE_SECONDS = 60
const RATE = 10
const BURST = 20
/** A relay speaks for so many clients. */
const RELAYED = 10
const SHORTEST_LEASE = 120

export interface Context4 {
  /** name of the port that the frame came in by */
  port: string
  /** wall clock; fractions count for the rate */
  nowSeconds: number
}

export type Answer4 = Datagram | null | Promise<Datagram | null>

export interface Dhcp4Options {
  leases: Leases
  settings: Dhcp4Settings
  /** whether someone else than `mac` uses the address; null: nobody can tell */
  probe: ((address: Ip, mac: string) => Promise<boolean>) | null
  /** makes room at a port that has all its leases; null: there is none then */
  room?: LeaseRoom | null
  onProblem?: (reason: string) => void
  /** of the probe's wait; setTimeout unless told */
  later?: (run: () => void, milliseconds: number) => void
}

export interface Dhcp4Counts {
  received: number
  malformed: number
  /** a hardware address that is not the frame's source */
  spoofed: number
  limited: number
  offered: number
  confirmed: number
  refused: number
  /** no address could be had */
  exhausted: number
  inUse: number
}

export class Dhcp4Server {
  readonly counts: Dhcp4Counts = {
    received: 0,
    malformed: 0,
    spoofed: 0,
    limited: 0,
    offered: 0,
    confirmed: 0,
    refused: 0,
    exhausted: 0,
    inUse: 0,
  }
  private settings: Dhcp4Settings
  private readonly leases: Leases
  private readonly probe: Dhcp4Options['probe']
  private readonly room: LeaseRoom | null
  private readonly onProblem: (reason: string) => void
  private readonly later: (run: () => void, milliseconds: number) => void
  private readonly probed = new Map<string, number>() // address, until when it counts as free
  private readonly waiting = new Set<string>() // holders whose answer waits for a probe
  private readonly rates = new Map<string, { tokens: number; at: number }>() // by port

  constructor({ leases, settings, probe, room, onProblem, later }: Dhcp4Options) {
    this.leases = leases
    this.settings = settings
    this.probe = probe
    this.room = room ?? null
    this.onProblem = onProblem ?? (() => undefined)
    this.later = later ?? ((run, milliseconds) => void setTimeout(run, milliseconds))
  }

  /** Takes new settings; clients hear of them when they renew. */
  configure(settings: Dhcp4Settings): void {
    this.settings = settings
  }

  /** Answers one datagram; null: not at all. */
  handle(datagram: Datagram, context: Context4): Answer4 {
    return this.handleAll([[datagram, context]])[0]
  }

  /** Answers several that are at hand, with one wait for the disk. */
  handleAll(requests: readonly [Datagram, Context4][]): Answer4[] {
    const answers = requests.map(([datagram, context]) => this.answer(datagram, context))
    if (this.isCommitted()) return answers
    // offers promise nothing yet, but they are not worth telling apart: a client repeats
    return answers.map(() => null)
  }

  /** Forgets what is old. Call it now and then, together with the leases' own `sweep`. */
  sweep(nowSeconds: number): void {
    for (const [address, until] of this.probed)
      if (until <= nowSeconds || until > nowSeconds + PROBE_SECONDS) this.probed.delete(address)
    for (const [port, { at }] of this.rates) if (Math.abs(nowSeconds - at) > BURST) this.rates.delete(port)
  }

  private isCommitted(): boolean {
    try {
      this.leases.commit()
      return true
    } catch (error) {
      this.onProblem(`leases cannot be written: ${(error as Error).message}`)
      return false
    }
  }

  private answer(datagram: Datagram, { port, nowSeconds }: Context4): Answer4 {
    const { counts } = this
    counts.received++
    const message = datagram.destination.port === SERVER_PORT ? codec.decodeMessage(datagram.payload) : null
    const isRelayed = message !== null && message.giaddr !== null
    if (!this.isWithinRate(port, isRelayed ? RELAYED : 1, nowSeconds)) {
      counts.limited++
      return null
    }
    if (message === null || message.op !== codec.BOOTREQUEST) {
      counts.malformed++
      return null
    }
    if (message.giaddr === null ? !isSame(message.chaddr, datagram.source.mac) : !isHostAddress(message.giaddr)) {
      counts.spoofed++
      return null
    }
    const request = { message, options: message.options ?? new Map(), datagram, port, nowSeconds }
    switch (codec.messageType(message)) {
      case codec.DISCOVER:
        return this.discover(request)
      case codec.REQUEST:
        return this.request(request)
      case codec.DECLINE:
        return this.giveBack(request, option.decodeIp(request.options.get(option.OPTION_REQUESTED_ADDRESS)), true)
      case codec.RELEASE:
        return this.giveBack(request, message.ciaddr, false)
      case codec.INFORM:
        return this.inform(request)
      case 0:
        return this.bootp(request)
      default:
        return null
    }
  }

  /** @param share relayed messages have a rate of their own beside the port's, so many times it */
  private isWithinRate(port: string, share: number, nowSeconds: number): boolean {
    const key = share === 1 ? port : `${port} by relay`
    const rate = this.rates.get(key) ?? { tokens: BURST * share, at: nowSeconds }
    // a clock that went back counts as no time
    rate.tokens = Math.min(BURST * share, rate.tokens + Math.max(0, nowSeconds - rate.at) * RATE * share)
    rate.at = nowSeconds
    this.rates.set(key, rate)
    if (rate.tokens < 1) return false
    rate.tokens--
    return true
  }

  // ---- the messages ----

  private discover(request: Request4): Answer4 {
    const holder = holderOf(request)
    const wanted = option.decodeIp(request.options.get(option.OPTION_REQUESTED_ADDRESS))
    const isRapid = request.options.has(option.OPTION_RAPID_COMMIT)
    const choose = (): [Dhcp4Subnet, Lease] | null => {
      for (const subnet of this.subnetsFor(request)) {
        const lease = this.leases.offer(holder, subnet, wanted, request.nowSeconds)
        if (lease !== null) return [subnet, lease]
      }
      return null
    }
    return this.afterProbe(holder, request, choose, (subnet, lease) => {
      if (!isRapid) {
        this.counts.offered++
        const seconds = this.secondsFor(request)
        return makeReply(this.settings, subnet, request, codec.OFFER, { ...lease, seconds })
      }
      return this.confirm(request, subnet, lease.address, [[option.OPTION_RAPID_COMMIT, new Uint8Array(0)]])
    })
  }

  private request(request: Request4): Answer4 {
    const { message, options, nowSeconds } = request
    const server = option.decodeIp(options.get(option.OPTION_SERVER))
    const requested = option.decodeIp(options.get(option.OPTION_REQUESTED_ADDRESS))
    const address = requested ?? message.ciaddr
    const subnets = this.subnetsFor(request)
    if (address === null || subnets.length === 0) return null
    const holder = holderOf(request)
    if (server !== null && !subnets.some((one) => formatIp(serverIdentifier(request, one)) === formatIp(server))) {
      const offer = this.leases.find(holder, address)
      if (offer?.state === 'offered') this.leases.releaseBy(holder, offer.address, nowSeconds)
      return null
    }
    const subnet = subnets.find((one) => contains(one.subnet, address))
    if (subnet === undefined) return this.refuse(request, subnets[0], 'wrong network')
    if (!this.leases.mayHave(holder, subnet, address, nowSeconds))
      return this.refuse(request, subnet, 'address not available')
    const known = this.leases.find(holder, address)
    const isKnown = known !== null && known.text === formatIp(address)
    if (server !== null || isKnown) return this.confirm(request, subnet, address)
    if (known !== null && known.state === 'bound' && message.ciaddr === null)
      return this.refuse(request, subnet, 'another address is yours') // it comes from elsewhere, and has one here
    const choose = (): [Dhcp4Subnet, Lease] | null => {
      const lease = this.leases.offer(holder, subnet, address, nowSeconds)
      return lease === null ? null : [subnet, lease]
    }
    return this.afterProbe(holder, request, choose, (_, lease) =>
      lease.text === formatIp(address)
        ? this.confirm(request, subnet, address)
        : this.refuse(request, subnet, 'address in use'),
    )
  }

  private giveBack(request: Request4, address: Ip | null, isDeclined: boolean): null {
    const server = option.decodeIp(request.options.get(option.OPTION_SERVER))
    const isForUs = this.subnetsFor(request).some(
      (one) => server === null || formatIp(serverIdentifier(request, one)) === formatIp(server),
    )
    if (address === null || !isForUs) return null
    if (isDeclined) this.leases.decline(holderOf(request), address, request.nowSeconds)
    else this.leases.releaseBy(holderOf(request), address, request.nowSeconds)
    this.probed.delete(formatIp(address))
    return null
  }

  private inform(request: Request4): Datagram | null {
    const { ciaddr } = request.message
    const subnet = this.subnetsFor(request).find((one) => ciaddr !== null && contains(one.subnet, ciaddr))
    if (ciaddr === null || subnet === undefined || !isHostAddress(ciaddr)) return null
    const lease = this.leases.byAddress(ciaddr)
    const { mac, port } = holderOf(request)
    if (lease !== null && (lease.mac !== mac || lease.port !== port)) return null
    this.counts.confirmed++
    return makeReply(this.settings, subnet, request, codec.ACK, null)
  }

  private bootp(request: Request4): Datagram | null {
    const holder = holderOf(request)
    for (const one of this.subnetsFor(request)) {
      const pool = { subnet: one.subnet, range: null }
      const offer = this.leases.offer(holder, pool, null, request.nowSeconds)
      if (offer === null || !offer.reserved) continue
      const seconds = Number.POSITIVE_INFINITY
      const lease = this.leases.grant(holder, pool, offer.address, seconds, null, request.nowSeconds)
      if (lease === null) continue
      this.counts.confirmed++
      return makeReply(this.settings, one, request, 0, lease)
    }
    return null
  }

  // ---- answers ----

  private confirm(
    request: Request4,
    subnet: Dhcp4Subnet,
    address: Ip,
    extra: [number, Uint8Array][] = [],
  ): Datagram | null {
    const { options, nowSeconds } = request
    const name =
      option.decodeFqdn(options.get(option.OPTION_FQDN))?.name ?? option.decodeText(options.get(option.OPTION_HOSTNAME))
    const seconds = this.secondsFor(request)
    const lease = this.leases.grant(holderOf(request), subnet, address, seconds, name, nowSeconds)
    if (lease === null) return this.refuse(request, subnet, 'address not available')
    this.counts.confirmed++
    return makeReply(this.settings, subnet, request, codec.ACK, lease, extra)
  }

  private refuse(request: Request4, subnet: Dhcp4Subnet, reason: string): Datagram {
    this.counts.refused++
    const text = new TextEncoder().encode(reason)
    return makeReply(this.settings, subnet, request, codec.NAK, null, [[option.OPTION_MESSAGE, text]])
  }

  /** What the client asks for, within what the network gives. */
  private secondsFor({ options }: Request4): number {
    const { leaseSeconds } = this.settings
    const wished = option.decodeNumber(options.get(option.OPTION_LEASE_TIME), 4) ?? leaseSeconds
    return Math.min(leaseSeconds, Math.max(wished, SHORTEST_LEASE))
  }

  /** The subnets that a client's address can be of. */
  private subnetsFor(request: Request4): Dhcp4Subnet[] {
    const relay = relaySubnet(request)
    return this.settings.subnets.filter((one) => (relay === null ? one.isOnLink : contains(one.subnet, relay)))
  }

  // ---- the probe ----

  /**
   * Chooses an address, makes sure that nobody uses it, and answers.
   * @param choose again after an address turned out to be in use, or room has been made
   */
  private afterProbe(
    holder: Holder,
    request: Request4,
    choose: () => [Dhcp4Subnet, Lease] | null,
    answer: (subnet: Dhcp4Subnet, lease: Lease) => Datagram | null,
  ): Answer4 {
    const key = `${holder.port} ${holder.mac}`
    if (this.waiting.has(key)) return null
    const { nowSeconds } = request
    const chosen = choose()
    if (chosen !== null && this.isSure(chosen[1], nowSeconds)) return answer(...chosen)
    if (chosen === null && this.room === null) {
      this.counts.exhausted++
      return null
    }
    this.waiting.add(key)
    return (chosen === null ? this.chooseLater(holder, request, choose) : Promise.resolve(chosen))
      .then(
        (first) =>
          first && (this.isSure(first[1], nowSeconds) ? first : this.probeUntilFree(holder, nowSeconds, first, choose)),
      )
      .then((free) => (free === null ? null : answer(...free)))
      .then((reply) => (this.isCommitted() ? reply : null))
      .finally(() => this.waiting.delete(key))
  }

  /** Whether it is known that nobody else uses the address. */
  private isSure({ state, text }: Lease, nowSeconds: number): boolean {
    return this.probe === null || state === 'bound' || (this.probed.get(text) ?? 0) > nowSeconds
  }

  private async chooseLater(
    { port, mac }: Holder,
    request: Request4,
    choose: () => [Dhcp4Subnet, Lease] | null,
  ): Promise<[Dhcp4Subnet, Lease] | null> {
    const hasRoom = await this.room!.make(port, this.subnetsFor(request), mac, request.nowSeconds)
    const chosen = hasRoom ? choose() : null
    if (chosen === null) this.counts.exhausted++
    return chosen
  }

  private async probeUntilFree(
    holder: Holder,
    nowSeconds: number,
    first: [Dhcp4Subnet, Lease],
    choose: () => [Dhcp4Subnet, Lease] | null,
  ): Promise<[Dhcp4Subnet, Lease] | null> {
    let isOver = false
    const end = new Promise<boolean>((resolve) =>
      this.later(() => {
        isOver = true
        resolve(false)
      }, PROBE_MILLISECONDS),
    )
    for (let chosen: [Dhcp4Subnet, Lease] | null = first; chosen !== null; chosen = choose()) {
      const { address, text } = chosen[1]
      if (isOver) return null // the client repeats, and this address is probed then
      const asked = this.probe!(address, holder.mac).catch(() => false)
      const isInUse = await Promise.race([asked, end])
      if (!isInUse) {
        // what was on offer may be gone: released, or taken back by order
        if (this.leases.find(holder, address)?.text !== text) return null
        this.probed.set(text, nowSeconds + PROBE_SECONDS)
        return chosen
      }
      this.counts.inUse++
      this.leases.quarantine(address)
    }
    this.counts.exhausted++
    return null
  }
}

function holderOf({ message, options, port }: Request4): Holder {
  const client = options.get(option.OPTION_CLIENT)
  return {
    mac: Buffer.from(message.chaddr)
      .toString('hex')
      .replace(/..(?=.)/g, '$&:'),
    port,
    client: client === undefined ? '' : Buffer.from(client.subarray(0, 255)).toString('hex'),
    association: '',
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}
