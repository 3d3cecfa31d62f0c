/**
 * The services of a network's gateway: DHCP, DHCPv6, router advertisements, DNS. Frames in, frames out.
 *
 * A frame comes as a guest sent it, with the name of its port; answers go back by `send`, which puts them out of the
 * router's own port on the guests' segment. What each service says follows from the network's definition (`configure`)
 * and from the leases, which also name the hosts in the local zone.
 *
 * A network of mode isolated has no way out: its DHCP names no router, its DNS knows local names only.
 */
import { linkLocalOf, parseIp, parsePrefix, stepsBetween } from '../services/address.js'
import type { Ip, Prefix } from '../services/address.js'
import { encodeOption, optionCode } from '../services/dhcp4-options.js'
import type { Dhcp4Settings } from '../services/dhcp4-reply.js'
import { type Context4, Dhcp4Server } from '../services/dhcp4-server.js'
import { type Context6, Dhcp6Server, type Dhcp6Settings } from '../services/dhcp6-server.js'
import { DnsServer } from '../services/dns-server.js'
import { serveStream } from '../services/dns-stream.js'
import { parseUpstream } from '../services/dns-upstream.js'
import { type Datagram, readDatagram, writeDatagram } from '../services/frame.js'
import { LeaseRoom } from '../services/lease-room.js'
import type { LeaseJournal } from '../services/lease-journal.js'
import { DEFAULT_LEASE_SETTINGS, type Lease, type LeaseEvent, Leases } from '../services/leases.js'
import { RouterAdvertiser, type RouterSettings } from '../services/router-advertisement.js'
import { TcpResponder } from '../services/tcp-responder.js'
import type { NetworkDefinition, PortLeases } from './model.js'

const PORT_DNS = 53
const PORT_DHCP = 67
const PORT_DHCP6 = 547
const TYPE_IP6 = 0x86dd
const PROTOCOL_TCP = 6
const PROTOCOL_ICMP6 = 58
const INTERVAL_SECONDS = 600
const ROUTER_LIFETIME_SECONDS = 1800
const PREFIX_SECONDS = 86_400
const SWEEP_MILLIS = 1000

export interface ServiceHost {
  /** the router's MAC on the guests' segment */
  mac: Uint8Array
  journal: LeaseJournal | null
  /** puts a frame out of the router's port */
  send(frame: Uint8Array): void
  /** whether someone else than `mac` uses an address */
  probe(address: Ip, mac: string): Promise<boolean>
  /** whether the holder of a lease is there */
  isThere(lease: Lease): Promise<boolean>
  onLease(event: LeaseEvent, lease: Lease): void
  onProblem(reason: string): void
  /** the host's resolvers */
  resolvers(): string[]
  /** addresses that may not be leased, beside the gateways' */
  taken(): Ip[]
  /** whether there is an IPv6 way out */
  hasWayOut6(): boolean
}

/** A subnet of a definition, read. */
export interface Site {
  subnet: Prefix
  gateway: Ip
  range: { from: Ip; to: Ip } | null
}

const ip = (text: string): Ip => {
  const found = parseIp(text)
  if (found === null) throw new Error(`${text} is no address, and was checked`)
  return found
}

export function sitesOf(network: NetworkDefinition): Site[] {
  return network.subnets.map(({ cidr, gateway, dhcp }) => ({
    subnet: parsePrefix(cidr)!,
    gateway: ip(gateway),
    range: dhcp === null ? null : { from: ip(dhcp.from), to: ip(dhcp.to) },
  }))
}

const nowSeconds = (): number => Date.now() / 1000

export class GatewayServices {
  readonly leases: Leases
  readonly dns = new DnsServer()
  private readonly room: LeaseRoom
  private network: NetworkDefinition
  private readonly host: ServiceHost
  private readonly dhcp4: Dhcp4Server
  private readonly dhcp6: Dhcp6Server
  private readonly advertiser: RouterAdvertiser
  private readonly tcp: TcpResponder
  private readonly timer: NodeJS.Timeout
  private readonly waiting4: [Datagram, Context4][] = []
  private readonly waiting6: [Datagram, Context6][] = []
  /** what the forwarder and the advertiser were told last: told again, they begin anew */
  private toldUpstreams = ''
  private toldAdvertised = ''

  constructor(network: NetworkDefinition, host: ServiceHost) {
    this.network = network
    this.host = host
    this.leases = new Leases(network.uuid, host.journal, nowSeconds(), (event, lease) => this.heard(event, lease))
    this.room = new LeaseRoom(this.leases, {
      isThere: (lease) => host.isThere(lease),
      onProblem: (reason) => host.onProblem(`leases: ${reason}`),
    })
    this.dhcp4 = new Dhcp4Server({
      leases: this.leases,
      room: this.room,
      settings: this.dhcp4Settings(),
      probe: (address, mac) => host.probe(address, mac),
      onProblem: (reason) => host.onProblem(`DHCP: ${reason}`),
    })
    this.dhcp6 = new Dhcp6Server({
      leases: this.leases,
      settings: this.dhcp6Settings(),
      room: this.room,
      onProblem: (reason) => host.onProblem(`DHCPv6: ${reason}`),
    })
    this.advertiser = new RouterAdvertiser(this.advertised(), (frame) => host.send(frame))
    this.tcp = new TcpResponder({
      mac: host.mac,
      listen: PORT_DNS,
      mtu: network.mtu,
      send: (frame) => host.send(frame),
      onConnection: (connection) => {
        const client = { port: connection.port, ip: connection.opening.source.ip, isTcp: true }
        serveStream(connection, (query, respond) => this.dns.handle(query, client, respond))
      },
    })
    this.configure(network)
    for (const lease of this.leases.list()) this.name(lease, true)
    this.timer = setInterval(() => this.sweep(), SWEEP_MILLIS)
    this.timer.unref()
  }

  /** Sends what belongs to a running network: the first advertisements. */
  start(): void {
    if (this.hasIp6()) this.advertiser.start()
  }

  configure(network: NetworkDefinition): void {
    this.network = network
    const { dhcp, dns } = network
    this.leases.configure({
      ...DEFAULT_LEASE_SETTINGS,
      reservations: dhcp.reservations.map(({ mac, address, name }) => ({ mac, address: ip(address), name })),
      portLimit: dhcp.portLimit ?? fairShare(sitesOf(network)),
      portLimits: portLimits(network),
      excluded: [...sitesOf(network).map(({ gateway }) => gateway), ...this.host.taken()],
      reservedNames: [...DEFAULT_LEASE_SETTINGS.reservedNames, ...dns.hosts.map(({ name }) => name)],
    })
    this.dhcp4.configure(this.dhcp4Settings())
    this.dhcp6.configure(this.dhcp6Settings())
    this.dns.zone.configure({
      domain: network.domain,
      gateway: sitesOf(network).map(({ gateway }) => gateway),
      host: [],
      subnets: sitesOf(network).map(({ subnet }) => subnet),
      hosts: [
        ...dns.hosts.map(({ name, addresses }) => ({ name, addresses: addresses.map(ip) })),
        ...dhcp.reservations.flatMap(({ name, address }) =>
          name === null ? [] : [{ name, addresses: [ip(address)] }],
        ),
      ],
      aliases: dns.aliases,
      services: dns.services,
      texts: dns.texts,
      delegated: dns.domains.map(({ domain }) => domain),
    })
    this.retune()
    this.rerouted()
    this.tcp.setMtu(network.mtu)
  }

  /**
   * The host's resolvers may have changed. Other upstreams, or another judgement of what they say, make the forwarder
   * forget its cache and what is on its way; the same ones leave it alone.
   */
  retune(): void {
    const { dns, mode } = this.network
    const isIsolated = mode === 'isolated'
    const upstreams = isIsolated ? [] : dns.upstreams.length > 0 ? dns.upstreams : this.host.resolvers()
    const domains = isIsolated ? [] : dns.domains
    const told = JSON.stringify([upstreams, domains, dns.rebindProtection])
    if (told === this.toldUpstreams) return
    this.toldUpstreams = told
    const parsed = (texts: readonly string[]) => texts.flatMap((text) => parseUpstream(text) ?? [])
    this.dns.forwarder.rebindProtection = dns.rebindProtection
    this.dns.forwarder.setUpstreams(
      parsed(upstreams),
      domains.map((one) => ({ domain: one.domain, upstreams: parsed(one.upstreams) })),
    )
  }

  /** The way out by IPv6 may have come or gone. Only settings that differ are advertised anew. */
  rerouted(): void {
    const settings = this.advertised()
    const told = JSON.stringify(settings)
    if (told === this.toldAdvertised) return
    this.toldAdvertised = told
    this.advertiser.configure(settings)
  }

  /**
   * A frame that the shard handed over.
   * @param port name of the port it came in by
   * @param isUnfinished its transport checksum is not there yet
   */
  handle(frame: Uint8Array, port: string, isUnfinished: boolean): void {
    const type = (frame[12] << 8) | frame[13]
    const protocol = type === TYPE_IP6 ? frame[20] : frame[23]
    if (protocol === PROTOCOL_TCP) {
      if (this.network.dns.enabled) this.tcp.receive(frame, port, isUnfinished)
      return
    }
    if (protocol === PROTOCOL_ICMP6) {
      const answer = this.advertiser.solicited(frame)
      if (answer !== null) this.host.send(answer)
      return
    }
    const datagram = readDatagram(frame)
    if (datagram === null) return
    if (datagram.destination.port === PORT_DNS) this.answerDns(datagram, port)
    else if (datagram.destination.port === PORT_DHCP) this.answerDhcp(datagram, port)
    else if (datagram.destination.port === PORT_DHCP6) this.answerDhcp6(datagram, port)
  }

  /** A port has gone: what it held may go to others at once. */
  releasePort(port: string): void {
    this.room.forget(port)
    this.leases.releasePort(port, nowSeconds())
  }

  portLeases(port: string): PortLeases {
    const { leases, room } = this
    return { limit: leases.limitOf(port), ...leases.countsOf(port), ...room.counts(port) }
  }

  close(): void {
    clearInterval(this.timer)
    this.advertiser.stop()
    this.tcp.close()
    this.dns.forwarder.close()
    this.host.journal?.close()
  }

  // ---- what each is told ----

  private hasIp6(): boolean {
    return this.network.subnets.some(({ cidr }) => cidr.includes(':'))
  }

  /** Addresses at which guests reach DNS. */
  private resolversFor(family: 4 | 6): Ip[] {
    if (!this.network.dns.enabled) return []
    return sitesOf(this.network)
      .map(({ gateway }) => gateway)
      .filter((gateway) => gateway.length === (family === 4 ? 1 : 4))
  }

  private dhcp4Settings(): Dhcp4Settings {
    const { dhcp, domain, mtu, mode } = this.network
    const isRouted = mode !== 'isolated'
    const options = new Map<number, Uint8Array>()
    for (const [key, text] of Object.entries(dhcp.options)) {
      const code = optionCode(key)
      if (code !== null) options.set(code, encodeOption(code, text))
    }
    return {
      mac: this.host.mac,
      subnets: sitesOf(this.network)
        .filter(({ gateway }) => gateway.length === 1)
        .map(({ subnet, gateway, range }) => ({
          subnet,
          server: gateway,
          router: isRouted ? gateway : null,
          range,
          isOnLink: true,
        })),
      leaseSeconds: dhcp.leaseSeconds,
      dns: this.resolversFor(4),
      ntp: [],
      domain,
      search: domain === null ? [] : [domain],
      mtu,
      routes: [],
      bootServer: dhcp.bootServer === null ? null : ip(dhcp.bootServer),
      bootFiles: dhcp.bootFiles,
      options,
    }
  }

  private dhcp6Settings(): Dhcp6Settings {
    const { uuid, dhcp, domain } = this.network
    return {
      uuid,
      mac: this.host.mac,
      address: linkLocalOf(this.host.mac),
      pools: sitesOf(this.network)
        .filter(({ gateway }) => gateway.length === 4)
        .map(({ subnet, range }) => ({ subnet, range })),
      leaseSeconds: Math.max(dhcp.leaseSeconds, 600),
      refreshSeconds: 3600,
      trustedRelays: this.network.ports.filter(({ allow }) => allow.includes('router')).map(({ name }) => name),
      resolvers: this.resolversFor(6),
      domains: domain === null ? [] : [domain],
      domain,
      ntpServers: [],
      bootFiles: {},
      solicitSeconds: null,
      informationSeconds: null,
    }
  }

  private advertised(): RouterSettings {
    const { domain, mtu, mode } = this.network
    const sites = sitesOf(this.network).filter(({ gateway }) => gateway.length === 4)
    const hasPools = sites.some(({ range }) => range !== null)
    return {
      mac: this.host.mac,
      address: linkLocalOf(this.host.mac),
      routerLifetimeSeconds: mode !== 'isolated' && this.host.hasWayOut6() ? ROUTER_LIFETIME_SECONDS : 0,
      preference: 'medium',
      managed: hasPools,
      other: true,
      mtu: mtu >= 1280 ? mtu : null,
      hopLimit: 64,
      prefixes: sites.map(({ subnet }) => ({
        ip: subnet.ip,
        prefix: subnet.prefix,
        onLink: true,
        autonomous: subnet.prefix === 64,
        validSeconds: PREFIX_SECONDS,
        preferredSeconds: PREFIX_SECONDS / 2,
      })),
      routes: [],
      resolvers: this.resolversFor(6),
      domains: domain === null ? [] : [domain],
      intervalSeconds: INTERVAL_SECONDS,
    }
  }

  // ---- who asks ----

  private answerDns(datagram: Datagram, port: string): void {
    if (!this.network.dns.enabled) return
    const { source, destination } = datagram
    // the datagram is a view of the frame, which is gone when a forwarded answer comes
    const from = { mac: this.host.mac, ip: destination.ip.slice(), port: PORT_DNS }
    const to = { mac: source.mac.slice(), ip: source.ip.slice(), port: source.port }
    this.dns.handle(datagram.payload, { port, ip: to.ip, isTcp: false }, (payload) =>
      this.host.send(writeDatagram({ source: from, destination: to, payload })),
    )
  }

  /** Requests that have come in one go are answered together: they wait for the disk once. */
  private later(): void {
    if (this.waiting4.length + this.waiting6.length > 1) return
    setImmediate(() => {
      const answers = this.dhcp4.handleAll(this.waiting4.splice(0))
      for (const answer of answers) {
        if (answer instanceof Promise) void answer.then((datagram) => this.sendDatagram(datagram))
        else this.sendDatagram(answer)
      }
      for (const answer of this.dhcp6.handleAll(this.waiting6.splice(0))) this.sendDatagram(answer)
    })
  }

  private answerDhcp(datagram: Datagram, port: string): void {
    if (!this.network.subnets.some(({ cidr }) => !cidr.includes(':'))) return
    if (isRelayed(datagram.payload) && !this.mayRelay(port)) return
    this.waiting4.push([datagram, { port, nowSeconds: nowSeconds() }])
    this.later()
  }

  private answerDhcp6(datagram: Datagram, port: string): void {
    this.waiting6.push([datagram, { port, nowSeconds: nowSeconds() }])
    this.later()
  }

  /** A DHCP relay is believed of ports that may be routers alone: it speaks for others. */
  private mayRelay(port: string): boolean {
    return this.network.ports.some(({ name, allow }) => name === port && allow.includes('router'))
  }

  private sendDatagram(datagram: Datagram | null): void {
    if (datagram !== null) this.host.send(writeDatagram(datagram))
  }

  // ---- names ----

  private heard(event: LeaseEvent, lease: Lease): void {
    this.name(lease, event === 'granted' || event === 'renewed')
    this.host.onLease(event, lease)
  }

  /** A lease's host name leads to its address, and the reverse, as long as it lasts. */
  private name(lease: Lease, isHeld: boolean): void {
    const { hostname, mac, address } = lease
    if (hostname === null) return
    if (isHeld) this.dns.zone.setHost(hostname, [address], mac)
    else this.dns.zone.removeHost(hostname, mac, address.length === 1 ? 4 : 6)
  }

  private sweep(): void {
    const now = nowSeconds()
    this.leases.sweep(now)
    this.dhcp4.sweep(now)
  }
}

/** Leases a port may have where nobody says how many: a fifth of the smallest range, 4 to 16. */
function fairShare(sites: readonly Site[]): number {
  const sizes = sites.flatMap(({ range }) => (range === null ? [] : [stepsBetween(range.from, range.to) + 1]))
  return Math.max(4, Math.min(DEFAULT_LEASE_SETTINGS.portLimit, Math.floor(Math.min(...sizes) / 5)))
}

/** By order; and a port that may be a router may be a relay, which speaks for a segment of its own. */
function portLimits({ ports }: NetworkDefinition): Record<string, number> {
  const limits = ports.flatMap(({ name, leaseLimit, allow }): [string, number][] => {
    const limit = leaseLimit ?? (allow.includes('router') ? DEFAULT_LEASE_SETTINGS.networkLimit : null)
    return limit === null ? [] : [[name, limit]]
  })
  return Object.fromEntries(limits)
}

/** Whether a DHCPv4 message says that it came by a relay (giaddr): believed of ports that may be routers alone. */
function isRelayed(payload: Uint8Array): boolean {
  return payload.length >= 28 && (payload[24] | payload[25] | payload[26] | payload[27]) !== 0
}

/** The address that a guest's name or text stands for; null: there is none now. */
export function resolveGuest(network: NetworkDefinition, leases: Leases, guest: string, family: 4 | 6): Ip | null {
  const words = family === 4 ? 1 : 4
  const direct = parseIp(guest)
  if (direct !== null) return direct.length === words ? direct : null
  const name = guest.toLowerCase().replace(new RegExp(`\\.${network.domain ?? ''}$`), '')
  const leased = leases.byName(name).find(({ address }) => address.length === words)
  if (leased !== undefined) return leased.address
  return leases.reservationsByName(name).find(({ address }) => address.length === words)?.address ?? null
}
