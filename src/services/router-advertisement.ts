/**
 * Router advertisements: what hosts need to make themselves IPv6 addresses, to find the way out and resolvers.
 *
 *     start    three multicast advertisements within 16 s each, then one after a random time between a third of
 *              `intervalSeconds` and all of it
 *     change   the same from the start on, so that hosts learn of it soon
 *     solicited  an answer to the one host at once; to `::` or when the answers' rate is used up, a multicast one
 *     stop     a last one: no router, no resolvers
 *
 * What is taken away is told for as long as a host may remember it: a prefix is advertised with a preferred lifetime of
 * 0 (hosts stop choosing it, and keep what they have open) for two hours at most, since a host cuts no address's life
 * shorter than that (RFC 4862 section 5.5.3); a resolver, a search domain or a route with a lifetime of 0.
 *
 * Rates: one multicast advertisement in 3 s, ten unicast ones in a second over all hosts. A host that floods
 * solicitations so uses up its neighbours' unicast answers, never their multicast one.
 *
 * Capacity: an advertisement has at most 1280 octets, so that it fits any link. Options are written in the order of
 * their weight (link-layer address, MTU, prefixes, resolvers, domains, routes, then all that was taken away), and those
 * that no longer fit are left out and counted. 32 things taken away are remembered, the oldest give way.
 *
 * Solicitations are refused as RFC 4861 section 6.1.1 says: hop limit not 255, bad checksum, code, length or options, a
 * source link-layer address with source `::`. The answer goes to the MAC that the frame came from, whatever the option
 * says, so that nobody can have answers sent to others.
 *
 * Standards: RFC 4861, RFC 4862, RFC 4191 (preference, routes), RFC 8106 (resolvers, domains), RFC 7772 (unicast
 * answers). Not done: listening to other routers, mobility (RFC 6275), PREF64.
 */
import { type Ip, groupMac, ipBytes, isMulticast, isSameIp, isUnspecified, maskIp, parseIp } from './address.js'
import { writeDomains } from './domain-list.js'
import {
  DISCOVERY_HOP_LIMIT,
  type DiscoveryOption,
  type Icmp6Message,
  readDiscoveryOptions,
  readIcmp6,
  writeDiscoveryOption,
  writeIcmp6,
} from './icmp6-frame.js'

const ROUTER_SOLICITATION = 133
const ROUTER_ADVERTISEMENT = 134
const SOLICITATION_BYTES = 8
const OPTION_SOURCE_LINK_LAYER = 1
const OPTION_PREFIX = 3
const OPTION_MTU = 5
const OPTION_ROUTE = 24
const OPTION_RESOLVERS = 25
const OPTION_DOMAINS = 31
const ALL_NODES = parseIp('ff02::1')!
const ALL_ROUTERS = parseIp('ff02::2')!

/** Milliseconds between two multicast advertisements at least: MIN_DELAY_BETWEEN_RAS. */
const MULTICAST_GAP = 3000
/** Milliseconds that an answer by multicast waits at most: MAX_RA_DELAY_TIME. */
const ANSWER_DELAY = 500
const INITIAL_COUNT = 3
/** MAX_INITIAL_RTR_ADVERT_INTERVAL, in seconds. */
const INITIAL_SECONDS = 16
/** Unicast answers a second, and as many at once. */
const UNICAST_RATE = 10
/** The ICMPv6 part of the smallest packet that every link carries. */
const LARGEST_MESSAGE = 1280 - 40
const MOST_WITHDRAWN = 32
/** Seconds: a host keeps an address that long, whatever it is told. */
const SHORTEST_VALID = 7200
const PREFERENCES = { medium: 0, high: 1, low: 3 }

export type RouterPreference = keyof typeof PREFERENCES

export interface AdvertisedPrefix {
  ip: Ip
  /** bits; hosts make addresses of 64 alone */
  prefix: number
  onLink: boolean
  autonomous: boolean
  /** seconds, up to 0xffffffff: for ever */
  validSeconds: number
  /** not above `validSeconds` */
  preferredSeconds: number
}

export interface AdvertisedRoute {
  ip: Ip
  prefix: number
  lifetimeSeconds: number
  preference: RouterPreference
}

export interface RouterSettings {
  /** the router's MAC */
  mac: Uint8Array
  /** its link-local address */
  address: Ip
  /** 0: it is no default router, there is no way out */
  routerLifetimeSeconds: number
  preference: RouterPreference
  /** addresses come by DHCPv6 */
  managed: boolean
  /** other things come by DHCPv6 */
  other: boolean
  /** of the link, 1280 or more; null: not told */
  mtu: number | null
  /** hop limit for the hosts' packets; 0: not told */
  hopLimit: number
  prefixes: AdvertisedPrefix[]
  routes: AdvertisedRoute[]
  resolvers: Ip[]
  /** search domains */
  domains: string[]
  /** MaxRtrAdvInterval, 4 to 1800; lifetimes of resolvers and domains are three times this */
  intervalSeconds: number
}

/** Time and chance, so that tests can have their own. */
export interface Clock {
  /** milliseconds that never go back */
  now(): number
  /** calls back once after so many milliseconds; returns what calls it off */
  after(delayMillis: number, callback: () => void): () => void
  /** 0 to 1, 1 excluded */
  random(): number
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(delayMillis, callback) {
    const timer = setTimeout(callback, delayMillis)
    timer.unref()
    return () => clearTimeout(timer)
  },
  random: Math.random,
}

/** Something that was advertised and is no longer. */
interface Withdrawn {
  /** by which it is known when it comes back */
  key: string
  /** on the clock: no host remembers it after this */
  untilMillis: number
  option(secondsLeft: number): DiscoveryOption
}

export class RouterAdvertiser {
  private settings: RouterSettings
  private readonly send: (frame: Uint8Array) => void
  private readonly clock: Clock
  private withdrawn: Withdrawn[] = []
  private cancel: (() => void) | null = null
  private isRunning = false
  private dueMillis = 0
  private initialLeft = 0
  private lastMulticastMillis = Number.NEGATIVE_INFINITY
  private tokens = UNICAST_RATE
  private tokensMillis = 0
  readonly counts = { sent: 0, solicited: 0, refused: 0, limited: 0, optionsLeftOut: 0 }

  /** @param send takes multicast frames, to every port of the network */
  constructor(settings: RouterSettings, send: (frame: Uint8Array) => void, clock: Clock = systemClock) {
    this.settings = settings
    this.send = send
    this.clock = clock
    this.tokensMillis = clock.now()
  }

  start(): void {
    if (this.isRunning) return
    this.isRunning = true
    this.initialLeft = INITIAL_COUNT
    this.schedule(0)
  }

  /** New settings, told soon. What the old ones had and the new ones have not is withdrawn. */
  configure(settings: RouterSettings): void {
    const before = this.settings
    if (this.counts.sent + this.counts.solicited > 0) this.withdraw(before, settings)
    if (this.isRunning && !isSameIp(before.address, settings.address)) {
      this.multicast(true) // to hosts it is another router, with a gap of its own
      this.lastMulticastMillis = Number.NEGATIVE_INFINITY
    }
    this.settings = settings
    if (!this.isRunning) return
    this.initialLeft = INITIAL_COUNT
    this.schedule(0)
  }

  /** Tells the hosts, at once, that the router goes. */
  stop(): void {
    if (!this.isRunning) return
    this.isRunning = false
    this.cancel?.()
    this.cancel = null
    this.multicast(true)
  }

  /**
   * Takes a frame with a router solicitation.
   * @returns the answer for the port it came from; null if there is none, or it goes by multicast in its time
   */
  solicited(frame: Uint8Array): Uint8Array | null {
    if (!this.isRunning) return null
    const solicitation = this.readSolicitation(frame)
    if (solicitation === null) {
      this.counts.refused++
      return null
    }
    this.counts.solicited++
    if (!isUnspecified(solicitation.source)) {
      if (this.takeToken())
        return this.frameTo(solicitation.sourceMac, solicitation.source, this.message(this.settings, false))
      this.counts.limited++
    }
    this.schedule(this.clock.random() * ANSWER_DELAY)
    return null
  }

  private readSolicitation(frame: Uint8Array): Icmp6Message | null {
    const message = readIcmp6(frame)
    if (message === null || message.hopLimit !== DISCOVERY_HOP_LIMIT) return null
    const { source, destination, bytes } = message
    if (bytes[0] !== ROUTER_SOLICITATION || bytes[1] !== 0 || bytes.length < SOLICITATION_BYTES) return null
    const { address } = this.settings
    if (isMulticast(destination) ? !isSameIp(destination, ALL_ROUTERS) : !isSameIp(destination, address)) return null
    const options = readDiscoveryOptions(bytes, SOLICITATION_BYTES)
    if (options === null || isSameIp(source, address)) return null
    if (isUnspecified(source) && options.some(({ type }) => type === OPTION_SOURCE_LINK_LAYER)) return null
    return message
  }

  private takeToken(): boolean {
    const now = this.clock.now()
    this.tokens = Math.min(UNICAST_RATE, this.tokens + ((now - this.tokensMillis) / 1000) * UNICAST_RATE)
    this.tokensMillis = now
    if (this.tokens < 1) return false
    this.tokens--
    return true
  }

  /** The next multicast advertisement after a delay, or when the gap allows; an earlier one stays as it is. */
  private schedule(delayMillis: number): void {
    const now = this.clock.now()
    const due = Math.max(now + delayMillis, this.lastMulticastMillis + MULTICAST_GAP)
    if (this.cancel !== null && this.dueMillis <= due) return
    this.cancel?.()
    this.dueMillis = due
    this.cancel = this.clock.after(due - now, () => {
      this.cancel = null
      if (this.initialLeft > 0) this.initialLeft--
      this.multicast(false)
      this.schedule(this.intervalMillis())
    })
  }

  private intervalMillis(): number {
    const most = this.settings.intervalSeconds
    const least = Math.max(3, most / 3)
    const seconds = least + this.clock.random() * Math.max(0, most - least)
    return (this.initialLeft > 0 ? Math.min(seconds, INITIAL_SECONDS) : seconds) * 1000
  }

  private multicast(isLast: boolean): void {
    this.lastMulticastMillis = this.clock.now()
    this.counts.sent++
    this.send(this.frameTo(groupMac(ALL_NODES), ALL_NODES, this.message(this.settings, isLast)))
  }

  private frameTo(destinationMac: Uint8Array, destination: Ip, bytes: Uint8Array): Uint8Array {
    const { mac, address } = this.settings
    return writeIcmp6({
      sourceMac: mac,
      destinationMac,
      source: address,
      destination,
      hopLimit: DISCOVERY_HOP_LIMIT,
      bytes,
    })
  }

  private message(settings: RouterSettings, isLast: boolean): Uint8Array {
    const lifetime = isLast ? 0 : Math.min(settings.routerLifetimeSeconds, 0xffff)
    const preference = lifetime === 0 ? 0 : PREFERENCES[settings.preference] // RFC 4191 section 2.2
    const bytes = new Uint8Array(LARGEST_MESSAGE)
    bytes[0] = ROUTER_ADVERTISEMENT
    bytes[4] = settings.hopLimit
    bytes[5] = (settings.managed ? 0x80 : 0) | (settings.other ? 0x40 : 0) | (preference << 3)
    bytes[6] = lifetime >> 8
    bytes[7] = lifetime
    let length = 16 // reachable time and retransmission timer are not told
    for (const option of this.options(settings, isLast)) {
      const next = length + sizeOf(option)
      if (next > LARGEST_MESSAGE) {
        this.counts.optionsLeftOut++
        continue
      }
      bytes.set(writeDiscoveryOption(option), length)
      length = next
    }
    return bytes.subarray(0, length)
  }

  private options(settings: RouterSettings, isLast: boolean): DiscoveryOption[] {
    const now = this.clock.now()
    this.withdrawn = this.withdrawn.filter(({ untilMillis }) => untilMillis > now)
    const shared = isLast ? 0 : 3 * settings.intervalSeconds
    const options: DiscoveryOption[] = [{ type: OPTION_SOURCE_LINK_LAYER, value: settings.mac }]
    if (settings.mtu !== null) options.push({ type: OPTION_MTU, value: bytesOf([0, 0], settings.mtu) })
    for (const one of settings.prefixes) options.push(prefixOption(one, one.validSeconds, one.preferredSeconds))
    if (settings.resolvers.length > 0) options.push(resolversOption(settings.resolvers, shared))
    if (settings.domains.length > 0) options.push(domainsOption(settings.domains, shared))
    for (const one of settings.routes) options.push(routeOption(one, isLast ? 0 : one.lifetimeSeconds))
    for (const one of this.withdrawn) options.push(one.option(Math.ceil((one.untilMillis - now) / 1000)))
    return options
  }

  private withdraw(before: RouterSettings, after: RouterSettings): void {
    const now = this.clock.now()
    const shared = 3 * before.intervalSeconds
    const add = (key: string, seconds: number, option: Withdrawn['option']): void => {
      this.withdrawn.push({ key, untilMillis: now + seconds * 1000, option })
    }
    for (const one of before.prefixes)
      add(prefixKey(one), Math.min(one.validSeconds, SHORTEST_VALID), (left) => prefixOption(one, left, 0))
    for (const one of before.resolvers) add(`resolver ${one}`, shared, () => resolversOption([one], 0))
    for (const one of before.domains) add(`domain ${one}`, shared, () => domainsOption([one], 0))
    for (const one of before.routes) add(routeKey(one), one.lifetimeSeconds, () => routeOption(one, 0))
    const there = new Set([
      ...after.prefixes.map(prefixKey),
      ...after.resolvers.map((one) => `resolver ${one}`),
      ...after.domains.map((one) => `domain ${one}`),
      ...after.routes.map(routeKey),
    ])
    const byKey = new Map(this.withdrawn.filter(({ key }) => !there.has(key)).map((one) => [one.key, one]))
    this.withdrawn = [...byKey.values()].slice(-MOST_WITHDRAWN)
  }
}

/** Octets of a written option. */
function sizeOf({ value }: DiscoveryOption): number {
  return Math.ceil((value.length + 2) / 8) * 8
}

function prefixKey({ ip, prefix }: AdvertisedPrefix): string {
  return `prefix ${maskIp(ip, prefix)}/${prefix}`
}

function routeKey({ ip, prefix }: AdvertisedRoute): string {
  return `route ${maskIp(ip, prefix)}/${prefix}`
}

function prefixOption({ ip, prefix, onLink, autonomous }: AdvertisedPrefix, valid: number, preferred: number) {
  const flags = (onLink ? 0x80 : 0) | (autonomous ? 0x40 : 0)
  const value = bytesOf([prefix, flags], valid, Math.min(preferred, valid), 0, ...maskIp(ip, prefix))
  return { type: OPTION_PREFIX, value }
}

function routeOption({ ip, prefix, preference }: AdvertisedRoute, seconds: number): DiscoveryOption {
  const words = maskIp(ip, prefix).slice(0, prefix === 0 ? 0 : prefix <= 64 ? 2 : 4)
  return { type: OPTION_ROUTE, value: bytesOf([prefix, PREFERENCES[preference] << 3], seconds, ...words) }
}

function resolversOption(resolvers: readonly Ip[], seconds: number): DiscoveryOption {
  return { type: OPTION_RESOLVERS, value: bytesOf([0, 0], seconds, ...resolvers.flat()) }
}

function domainsOption(domains: readonly string[], seconds: number): DiscoveryOption {
  return { type: OPTION_DOMAINS, value: Uint8Array.of(...bytesOf([0, 0], seconds), ...writeDomains(domains)) }
}

/** Octets, then words of 32 bits. */
function bytesOf(octets: readonly number[], ...words: readonly number[]): Uint8Array {
  return Uint8Array.of(...octets, ...ipBytes([...words]))
}
