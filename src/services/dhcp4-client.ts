/**
 * The DHCPv4 client of a router's own uplink (RFC 2131 section 4.4). Datagrams in and out, a configuration as result.
 *
 *   state         leaves it by                      to
 *   stopped       start                             selecting
 *   selecting     first sound OFFER                 requesting    DISCOVER after 4, 8, 16, 32, then every 64 s
 *   requesting    ACK                               checking      REQUEST 4 times, then selecting
 *                 NAK                               selecting
 *   rebooting     ACK / NAK / no answer in 4 tries  bound / selecting / selecting
 *   checking      nobody uses the address           bound
 *                 someone does                      selecting, after DECLINE and 10 s
 *   bound         T1                                renewing
 *   renewing      ACK / NAK / T2                    bound / selecting / rebinding   unicast to the server
 *   rebinding     ACK / NAK / end of the lease      bound / selecting / selecting   broadcast
 *
 * All waits are varied by up to a second. A renewal is repeated after half of the time that is left, 60 s at least.
 * `restart` is for a link that came back: it asks for the same address again (rebooting), and keeps the configuration
 * in use until it is refused, changed or over. `onBound` is called when the configuration is new or has changed,
 * `onLost` when it must not be used any more.
 *
 * Believed is only what answers the transaction under way: a random number, the client's own hardware address, a
 * server identifier (the chosen one's, or any when rebinding), an address that a host can have, a mask that is one.
 * MTUs below 576 are ignored; routes of option 121 replace option 3 (RFC 3442). A renewal goes to the station that the
 * last answer came from: the server or, if it is elsewhere, the gateway to it.
 *
 * Time is monotonic: neither the clock nor a suspended host's matters. Capacity: one lease. Not done: several offers
 * are not compared, the first one is taken.
 */
import { randomInt } from 'node:crypto'
import { compareIp, isHostAddress } from './address.js'
import type { Ip } from './address.js'
import * as codec from './dhcp4-codec.js'
import type { Message4 } from './dhcp4-codec.js'
import { configurationOf, timesOf } from './dhcp4-configuration.js'
import type { Configuration4 } from './dhcp4-configuration.js'
import * as option from './dhcp4-options.js'
import { CLIENT_PORT, SERVER_PORT } from './dhcp4-reply.js'
import type { Datagram } from './frame.js'

const FIRST_WAIT = 4
const LONGEST_WAIT = 64
const TRIES = 4
const DECLINED_WAIT = 10
const LEAST_RENEWAL_WAIT = 60
const LONGEST_TIMER = 2_000_000 // seconds; setTimeout takes 2^31 ms
const LONGEST_MESSAGE = 1500
const NOBODY = Uint8Array.of(0, 0, 0, 0)
const EVERYBODY = Uint8Array.of(255, 255, 255, 255)
const BROADCAST_MAC = Uint8Array.of(255, 255, 255, 255, 255, 255)
const REQUESTED = [1, 121, 3, 6, 15, 26, 28, 42, 51, 58, 59, 119]

export type { Configuration4 } from './dhcp4-configuration.js'

export type ClientState =
  | 'stopped'
  | 'selecting'
  | 'requesting'
  | 'rebooting'
  | 'checking'
  | 'bound'
  | 'renewing'
  | 'rebinding'

export interface ClientOptions {
  /** 6 bytes */
  mac: Uint8Array
  hostname: string | null
  send: (datagram: Datagram) => void
  onBound: (configuration: Configuration4) => void
  onLost: () => void
  /** whether someone on the link uses the address (RFC 2131 section 2.2); null: not asked */
  probe?: ((address: Ip) => Promise<boolean>) | null
  /** setTimeout and a monotonic clock unless told */
  timers?: Timers
}

export interface Timers {
  /** @returns what `clear` takes */
  set: (run: () => void, milliseconds: number) => unknown
  clear: (timer: unknown) => void
  /** milliseconds */
  now: () => number
}

const systemTimers: Timers = {
  set: (run, milliseconds) => setTimeout(run, milliseconds),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout),
  now: () => performance.now(),
}

interface Held {
  configuration: Configuration4
  serverMac: Uint8Array
  /** seconds of the timers' clock */
  renewAt: number
  rebindAt: number
  endsAt: number
}

export class Dhcp4Client {
  state: ClientState = 'stopped'
  private readonly options: ClientOptions
  private readonly timers: Timers
  private timer: unknown = null
  private xid = 0
  private tries = 0
  private startedAt = 0
  private secs = 0
  private offer: { address: Ip; server: Ip } | null = null
  private held: Held | null = null

  constructor(options: ClientOptions) {
    this.options = options
    this.timers = options.timers ?? systemTimers
  }

  /** What the uplink has; null: nothing. */
  get configuration(): Configuration4 | null {
    return this.held?.configuration ?? null
  }

  start(): void {
    if (this.state === 'stopped') this.begin()
  }

  /** The link is back, perhaps elsewhere: asks whether what it had is still right there. */
  restart(): void {
    if (this.state === 'stopped' || this.held === null) {
      this.begin()
      return
    }
    this.enter('rebooting')
    this.retry()
  }

  /** Gives the lease back and stops. `onLost` is not called. */
  stop(): void {
    const { held } = this
    this.clear()
    this.state = 'stopped'
    this.held = null
    if (held === null) return
    this.newTransaction()
    const { address, server } = held.configuration
    const extra: [number, Uint8Array][] = [[option.OPTION_SERVER, option.ipList([server])]]
    this.send(codec.RELEASE, address.ip, extra, held)
  }

  /** Takes a datagram that came to the client's port. */
  handle(datagram: Datagram): void {
    if (this.state === 'stopped' || datagram.destination.port !== CLIENT_PORT) return
    const message = codec.decodeMessage(datagram.payload)
    if (message === null || message.op !== codec.BOOTREPLY || message.xid !== this.xid) return
    if (message.chaddr.some((byte, i) => byte !== this.options.mac[i])) return
    const server = option.decodeIp(message.options?.get(option.OPTION_SERVER))
    if (server === null || !isHostAddress(server)) return
    const type = codec.messageType(message)
    if (type === codec.OFFER && this.state === 'selecting') this.takeOffer(message, server)
    else if (type === codec.ACK) this.takeAck(message, server, datagram.source.mac)
    else if (type === codec.NAK) this.takeNak(server)
  }

  // ---- what comes ----

  private takeOffer({ yiaddr }: Message4, server: Ip): void {
    if (yiaddr === null || !isHostAddress(yiaddr)) return
    this.offer = { address: yiaddr, server }
    this.enterSame('requesting')
    this.retry()
  }

  private isExpected(server: Ip): boolean {
    switch (this.state) {
      case 'requesting':
        return this.offer !== null && compareIp(this.offer.server, server) === 0
      case 'renewing':
        return this.held !== null && compareIp(this.held.configuration.server, server) === 0
      case 'rebinding':
      case 'rebooting':
        return true
      default:
        return false
    }
  }

  private takeAck(message: Message4, server: Ip, serverMac: Uint8Array): void {
    const configuration = this.isExpected(server) ? configurationOf(message, server) : null
    if (configuration === null) return
    const asked = this.state === 'requesting' ? this.offer?.address : this.held?.configuration.address.ip
    if (asked === undefined || compareIp(asked, configuration.address.ip) !== 0) return
    const from = this.startedAt // RFC 2131 section 4.4.1: the lease counts from when it was asked for
    const { leaseSeconds } = configuration
    const [renew, rebind] = timesOf(message, leaseSeconds)
    const next: Held = {
      configuration,
      serverMac: new Uint8Array(serverMac),
      renewAt: from + renew,
      rebindAt: from + rebind,
      endsAt: from + leaseSeconds,
    }
    const { probe } = this.options
    if (this.state !== 'requesting' || probe == null) {
      this.bind(next)
      return
    }
    this.clear()
    this.state = 'checking'
    const { xid } = this
    const isStill = (): boolean => this.state === 'checking' && this.xid === xid
    probe(configuration.address.ip).then(
      (isInUse) => {
        if (!isStill()) return
        if (isInUse) this.decline(configuration.address.ip, server)
        else this.bind(next)
      },
      () => isStill() && this.bind(next),
    )
  }

  private takeNak(server: Ip): void {
    if (!this.isExpected(server)) return
    this.lose()
    this.begin()
  }

  private bind(next: Held): void {
    const before = this.held?.configuration
    this.held = next
    this.offer = null
    this.clear()
    this.state = 'bound'
    this.wait(next.renewAt - this.now(), () => this.renew())
    if (JSON.stringify(before) !== JSON.stringify(next.configuration)) this.options.onBound(next.configuration)
  }

  private decline(address: Ip, server: Ip): void {
    this.lose()
    this.send(codec.DECLINE, null, [
      [option.OPTION_REQUESTED_ADDRESS, option.ipList([address])],
      [option.OPTION_SERVER, option.ipList([server])],
    ])
    this.enter('selecting')
    this.wait(DECLINED_WAIT, () => this.retry())
  }

  private lose(): void {
    if (this.held === null) return
    this.held = null
    this.options.onLost()
  }

  // ---- what goes ----

  private begin(): void {
    this.enter('selecting')
    this.retry()
  }

  /** A new transaction. */
  private enter(state: ClientState): void {
    this.newTransaction()
    this.enterSame(state)
  }

  private enterSame(state: ClientState): void {
    this.clear()
    this.state = state
    this.tries = 0
  }

  private newTransaction(): void {
    this.xid = randomInt(0x100000000)
    this.startedAt = this.now()
  }

  /** Sends what the state has to say, and waits for an answer, twice as long each time. */
  private retry(): void {
    if (this.held !== null && this.now() >= this.held.endsAt) this.lose()
    const { held, offer } = this
    const gaveUp = this.tries >= TRIES && this.state !== 'selecting'
    if (gaveUp || (this.state === 'rebooting' && held === null)) {
      this.lose()
      this.begin()
      return
    }
    // before anything is sent: the answer may come while it is
    const seconds = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.tries++)
    this.wait(seconds + randomInt(-1000, 1001) / 1000, () => this.retry())
    if (this.state === 'selecting') {
      this.send(codec.DISCOVER, null, [])
    } else if (this.state === 'requesting' && offer !== null) {
      this.startedAt = this.now()
      this.send(codec.REQUEST, null, [
        [option.OPTION_SERVER, option.ipList([offer.server])],
        [option.OPTION_REQUESTED_ADDRESS, option.ipList([offer.address])],
      ])
    } else if (held !== null) {
      const address = option.ipList([held.configuration.address.ip])
      this.send(codec.REQUEST, null, [[option.OPTION_REQUESTED_ADDRESS, address]])
    }
  }

  /** RFC 2131 section 4.4.5: unicast until T2, then broadcast until the end. */
  private renew(): void {
    const { held } = this
    if (held === null) return
    const now = this.now()
    if (now >= held.endsAt) {
      this.lose()
      this.begin()
      return
    }
    const isRebinding = now >= held.rebindAt
    const state = isRebinding ? 'rebinding' : 'renewing'
    if (this.state !== state) this.enter(state)
    else this.startedAt = now
    const end = isRebinding ? held.endsAt : held.rebindAt
    const left = end - now
    this.wait(Math.min(left, Math.max(left / 2, LEAST_RENEWAL_WAIT)), () => this.renew())
    this.send(codec.REQUEST, held.configuration.address.ip, [], isRebinding ? null : held)
  }

  /** @param to where a unicast goes; null: to everybody */
  private send(type: number, ciaddr: Ip | null, extra: [number, Uint8Array][], to: Held | null = null): void {
    const { mac, hostname } = this.options
    // a REQUEST says what its DISCOVER said (RFC 2131 section 4.4.1)
    if (this.state !== 'requesting') this.secs = Math.min(0xffff, Math.floor(this.now() - this.startedAt))
    const options = new Map<number, Uint8Array>([
      [codec.OPTION_MESSAGE_TYPE, Uint8Array.of(type)],
      [option.OPTION_CLIENT, Uint8Array.of(1, ...mac)],
      ...extra,
    ])
    if (type === codec.DISCOVER || type === codec.REQUEST) {
      options.set(option.OPTION_LONGEST_MESSAGE, option.uint16(LONGEST_MESSAGE))
      options.set(option.OPTION_REQUESTED_OPTIONS, Uint8Array.from(REQUESTED))
      if (hostname !== null) options.set(option.OPTION_HOSTNAME, new TextEncoder().encode(hostname))
    }
    const message: Message4 = {
      op: codec.BOOTREQUEST,
      hops: 0,
      xid: this.xid,
      secs: this.secs,
      isBroadcast: false,
      ciaddr,
      yiaddr: null,
      siaddr: null,
      giaddr: null,
      chaddr: mac,
      sname: '',
      file: '',
      options,
    }
    const payload = codec.encodeMessage(message, LONGEST_MESSAGE)
    const ip = ciaddr === null ? NOBODY : option.ipList([ciaddr])
    const server = to === null ? EVERYBODY : option.ipList([to.configuration.server])
    this.options.send({
      source: { mac, ip, port: CLIENT_PORT },
      destination: { mac: to?.serverMac ?? BROADCAST_MAC, ip: server, port: SERVER_PORT },
      payload,
    })
  }

  // ---- time ----

  /** Seconds of the timers' clock. */
  private now(): number {
    return this.timers.now() / 1000
  }

  private wait(seconds: number, run: () => void): void {
    this.clear()
    const isLong = seconds > LONGEST_TIMER
    const next = isLong ? () => this.wait(seconds - LONGEST_TIMER, run) : run
    if (seconds === Number.POSITIVE_INFINITY) return
    this.timer = this.timers.set(next, Math.max(0, isLong ? LONGEST_TIMER : seconds) * 1000)
  }

  private clear(): void {
    if (this.timer !== null) this.timers.clear(this.timer)
    this.timer = null
  }
}
