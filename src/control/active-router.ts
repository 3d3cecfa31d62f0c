/**
 * The router of a running network: its place on the guests' segment, its uplink, its services, and what of all this the
 * shard must know.
 *
 * The router is a port of its own on the segment (PORT_GATEWAY). `compile` makes the whole of its configuration; it is
 * told when it differs from what was told last: after a change of the definition, a lease that a forward names, an
 * uplink that got other addresses. Addresses that belong to ports (leases, assigned ones) are bound one by one.
 *
 * Frames for services come from the punt ring by `handle`, and answers go through the inject ring.
 */
import { contains, formatIp, parseIp } from '../services/address.js'
import type { Ip, Prefix } from '../services/address.js'
import { readResolvers, watchResolvers } from '../services/host-network.js'
import { LeaseJournal } from '../services/lease-journal.js'
import type { Lease, LeaseEvent } from '../services/leases.js'
import type { CompiledNetwork, CompiledPort } from '../dataplane/port-table.js'
import { PORT_GATEWAY, PORT_LINK } from '../dataplane/port-table.js'
import type { CompiledRouter } from '../dataplane/router/router-table.js'
import type { ActivePort } from './active-port.js'
import { ActiveUplink, hostDevice } from './active-uplink.js'
import type { Carrier } from './carrier.js'
import { GatewayServices, resolveGuest, sitesOf } from './gateway-services.js'
import { macBytes, macWords, stableMac } from './mac.js'
import type {
  FabricEvent,
  Lease as LeaseStatus,
  NetworkDefinition,
  PortLeases,
  RouteEntry,
  UplinkStatus,
} from './model.js'
import { whoHas } from './questions.js'
import { type RouterPlace, compileRouter, compileRoutes } from './router-compile.js'
import { parseUplink } from './uplink.js'

/** What the router's own port takes unfinished: everything, nothing is sent out of it. */
const ALL_OFFLOADS = 15
const PROBE_MILLIS = 120
/** No host has it: who has an address is another than this. */
const NO_MAC = '00:00:00:00:00:00'

/** What a router needs of the fabric it runs in. */
export interface RouterHost {
  /** the shard that carries the network */
  readonly shard: Carrier
  /** a file for the network's leases; null: they end with the daemon */
  leaseFile(uuid: string): string | null
  takePort(): number
  setPort(number: number, port: ActivePort): void
  givePort(number: number): void
  takeSegment(): number
  giveSegment(number: number): void
  /** the name of the port of this number */
  portName(number: number): string | null
  /** the port of this name on the guests' segment */
  portNumber(name: string): number | null
  /** the segment of another active network with a router */
  segmentOf(network: string): number | null
  /** the links of all uplinks, and the subnets of all networks */
  prefixes(): Prefix[]
  /** puts a frame out of one of the router's own ports */
  inject(port: number, frame: Uint8Array): void
  /** whether an address is in use by another than `mac`, as far as the shard knows */
  isUsed(segment: number, address: Ip, mac: string): boolean
  uplinkChanged(status: UplinkStatus): void
  problem(reason: string): void
  tell(event: FabricEvent): void
}

/** Whether a network of this definition has a router. */
export function isRouted(network: NetworkDefinition): boolean {
  return network.mode !== 'bridge' && network.subnets.length > 0
}

/** The interface that a network's uplink is on; null: it has none. */
function uplinkDevice(network: NetworkDefinition): string | null {
  const uplink = parseUplink(network.uplink, 'uplink')
  if (uplink === null || network.mode === 'isolated') return null
  return uplink.kind === 'host' ? hostDevice(network) : uplink.dev
}

export class ActiveRouter {
  readonly gatewayPort: number
  readonly mac: string
  readonly services: GatewayServices
  private definition: NetworkDefinition
  private readonly zone: number
  private readonly host: RouterHost
  private uplink: ActiveUplink | null = null
  private told = ''
  private portsTail: Promise<unknown> = Promise.resolve()
  private readonly stopWatching: () => void
  private isClosed = false

  constructor(definition: NetworkDefinition, zone: number, host: RouterHost) {
    this.definition = definition
    this.zone = zone
    this.host = host
    this.mac = stableMac(definition.uuid, 'gateway')
    const file = host.leaseFile(definition.uuid)
    const journal = file === null ? null : new LeaseJournal(file)
    for (const { line, reason } of journal?.problems ?? []) host.problem(`leases ${file}: line ${line}: ${reason}`)
    this.services = new GatewayServices(definition, {
      mac: macBytes(this.mac),
      journal,
      send: (frame) => host.inject(this.gatewayPort, frame),
      probe: (address, mac) => this.probe(address, mac),
      isThere: (lease) => this.isThere(lease),
      onLease: (event, lease) => this.leaseChanged(event, lease),
      onProblem: (reason) => host.problem(reason),
      resolvers: () => this.resolvers(),
      taken: () => this.definition.ports.flatMap(({ addresses }) => addresses.map((text) => parseIp(text)!)),
      hasWayOut6: () => this.uplink?.gateways.some((ip) => ip.length === 4) ?? false,
    })
    // last: a number that is taken before something throws is lost
    this.gatewayPort = host.takePort()
    this.stopWatching = watchResolvers(() => this.services.retune())
  }

  /** The router's own port, as the segment's configuration has it. */
  compiledPort(mtu: number): CompiledPort {
    return {
      port: this.gatewayPort,
      flags: PORT_LINK | PORT_GATEWAY,
      mtu,
      pvid: 0,
      vids: [],
      offloads: ALL_OFFLOADS,
      macLimit: 1,
    }
  }

  /** Starts it, once the segment is configured. Rejects if the uplink cannot be opened and `patient` is false. */
  async start(patient: boolean): Promise<void> {
    const { low, high } = macWords(this.mac)
    await this.ask({ do: 'static', low, keyHigh: high, network: this.zone, port: this.gatewayPort })
    await this.openUplink(patient)
    await this.configure()
    for (const port of this.definition.ports) await this.bindPort(port.name)
    this.services.start()
    this.announce()
  }

  async change(definition: NetworkDefinition): Promise<void> {
    const before = this.definition
    this.definition = definition
    const linkOf = ({ uplink, subnets }: NetworkDefinition): string =>
      JSON.stringify([uplink, subnets.some(({ cidr }) => cidr.includes(':'))])
    const isOther = linkOf(before) !== linkOf(definition)
    const old = this.uplink
    // One interface has room for one uplink: only then the old one goes before the new one is known to work.
    const isFirst = isOther && old !== null && old.dev === uplinkDevice(definition)
    try {
      if (isFirst) await this.closeUplink()
      if (isOther) await this.openUplink(false)
      else old?.change(definition)
      this.services.configure(definition)
      await this.configure()
    } catch (error) {
      await this.takeBack(before, old, isFirst)
      throw error
    }
    if (isOther && !isFirst) await old?.close()
    this.announce()
  }

  /** Back to a definition and its uplink, which runs unless `isClosed`. */
  private async takeBack(before: NetworkDefinition, old: ActiveUplink | null, isClosed: boolean): Promise<void> {
    this.definition = before
    if (this.uplink !== old) {
      await this.closeUplink().catch(ignore)
      this.uplink = isClosed ? null : old
    }
    if (isClosed) await this.openUplink(true)
    else old?.change(before)
    this.services.configure(before)
    await this.configure()
  }

  /** Tells the shard what it does not know yet. */
  async configure(): Promise<void> {
    if (this.isClosed) return
    const router = this.compile()
    const text = JSON.stringify(router)
    if (text === this.told) return
    this.told = text
    try {
      await this.ask({ do: 'router', zone: this.zone, router })
    } catch (error) {
      this.told = ''
      throw error
    }
    this.services.rerouted()
  }

  /** Another shard or a new process of it, which has taken the bindings over, as all that is in the arena. */
  async restore(): Promise<void> {
    this.told = ''
    await this.uplink?.restore()
    await this.configure()
  }

  async close(): Promise<void> {
    this.stopWatching()
    this.services.close()
    try {
      await this.closeUplink()
    } finally {
      this.isClosed = true
      this.host.givePort(this.gatewayPort)
      await this.ask({ do: 'router', zone: this.zone, router: null })
    }
  }

  // ---- ports ----

  /** Binds what belongs to a port: assigned addresses, and the leases that it holds. */
  async bindPort(name: string): Promise<void> {
    await this.bindAddresses(name)
    for (const lease of this.services.leases.list()) if (lease.port === name) await this.bindLease(lease)
  }

  /**
   * Somebody connected to a port, or left it. Behind one that is left nobody holds an address: its hosts may turn up
   * behind another, as a guest does that migrates. What the definition says of the port stays, and its leases are bound
   * again when it is taken.
   */
  portChanged(name: string, isUp: boolean): void {
    this.portsTail = this.portsTail.then(() => (isUp ? this.bindPort(name) : this.unbindPort(name))).catch(ignore)
  }

  private async unbindPort(name: string): Promise<void> {
    const port = this.host.portNumber(name)
    if (port === null) return
    await this.leavePort(port)
    await this.bindAddresses(name)
    for (const lease of this.services.leases.list()) if (lease.port === name) await this.releaseMac(lease.mac)
  }

  private async bindAddresses(name: string): Promise<void> {
    const port = this.host.portNumber(name)
    const definition = this.definition.ports.find((one) => one.name === name)
    if (port === null || definition === undefined) return
    const mac = definition.mac === null ? { low: 0, high: 0 } : macWords(definition.mac)
    for (const text of definition.addresses) {
      const ip = parseIp(text)!
      await this.ask({ do: 'bind', segment: this.zone, ip, macLow: mac.low, macHigh: mac.high, port })
    }
  }

  /** A port has gone for good: its leases end. */
  releasePort(name: string): void {
    this.services.releasePort(name)
  }

  /** What the router knows of the hosts behind a port goes. */
  async leavePort(number: number): Promise<void> {
    await this.ask({ do: 'leave', segment: this.zone, port: number })
  }

  // ---- frames ----

  handle(segment: number, frame: Uint8Array, port: number, isUnfinished: boolean): void {
    if (segment !== this.zone) {
      this.uplink?.handle(frame)
      return
    }
    const name = this.host.portName(port)
    if (name !== null) this.services.handle(frame, name, isUnfinished)
  }

  owns(segment: number): boolean {
    return segment === this.zone || segment === this.uplink?.segment
  }

  // ---- what is shown ----

  uplinkStatus(): UplinkStatus | null {
    return this.uplink?.status() ?? null
  }

  /** The segment of the uplink, -1: none. */
  uplinkSegment(): number {
    return this.uplink?.segment ?? -1
  }

  /** The uplink's device as a port, undefined: none; and its hidden network. */
  uplinkPort(): number | undefined {
    return this.uplink?.port.number
  }

  /** All ports that it has: its own, and those of the uplink. */
  ports(): number[] {
    const { uplink } = this
    return [this.gatewayPort, ...(uplink === null ? [] : [uplink.port.number, uplink.gatewayPort])]
  }

  /** The uplink's device; null: none. */
  uplinkDevice(): ActivePort | null {
    return this.uplink?.port ?? null
  }

  uplinkNetwork(): CompiledNetwork | null {
    return this.uplink?.compile() ?? null
  }

  prefixes(): Prefix[] {
    return [...sitesOf(this.definition).map(({ subnet }) => subnet), ...(this.uplink?.prefixes() ?? [])]
  }

  portLeases(name: string): PortLeases {
    return this.services.portLeases(name)
  }

  leases(): LeaseStatus[] {
    return this.services.leases.list().map(leaseStatus)
  }

  async releaseLease(address: string): Promise<void> {
    const ip = parseIp(address)
    if (ip !== null) this.services.leases.release(ip, Date.now() / 1000)
  }

  routes(): RouteEntry[] {
    const name = (segment: number): string => (segment === this.uplink?.segment ? 'uplink' : this.definition.name)
    return compileRoutes(this.place()).map(({ ip, prefix, segment, gateway, origin, network }) => ({
      destination: `${formatIp(ip)}/${prefix}`,
      via: gateway === null ? null : formatIp(gateway),
      interface: network ?? name(segment),
      origin,
    }))
  }

  /** All that the shard must know of it. */
  compile(): CompiledRouter {
    return compileRouter(this.place())
  }

  private place(): RouterPlace {
    const { definition, zone, gatewayPort, mac, uplink, host, services } = this
    return {
      definition,
      zone,
      gatewayPort,
      mac,
      uplink,
      portNumber: (name) => host.portNumber(name),
      segmentOf: (network) => host.segmentOf(network),
      guest: (name, family) => resolveGuest(definition, services.leases, name, family),
    }
  }

  // ---- the uplink ----

  private async openUplink(patient: boolean): Promise<void> {
    const parsed = parseUplink(this.definition.uplink, 'uplink')
    if (parsed === null || this.definition.mode === 'isolated') {
      this.uplink = null
      return
    }
    const uplink = new ActiveUplink(this.definition, parsed, this.host, async () => {
      this.services.retune()
      await this.configure().catch((error: Error) => this.host.problem(error.message))
    })
    try {
      await uplink.open(patient)
    } catch (error) {
      await uplink.close().catch(ignore)
      throw error
    }
    this.uplink = uplink
  }

  private async closeUplink(): Promise<void> {
    const { uplink } = this
    this.uplink = null
    await uplink?.close()
  }

  private resolvers(): string[] {
    const own = readResolvers().servers
    return own.length > 0 ? own : (this.uplink?.resolvers() ?? [])
  }

  // ---- leases ----

  private leaseChanged(event: LeaseEvent, lease: Lease): void {
    if (event === 'granted' || event === 'renewed') void this.bindLease(lease).catch(ignore)
    else void this.unbindLease(lease).catch(ignore)
    if (this.definition.forwards.some(({ to }) => parseIp(to) === null)) void this.configure().catch(ignore)
    this.host.tell({ type: `lease.${event}`, network: this.definition.name, lease: leaseStatus(lease) })
  }

  private async bindLease({ address, mac, port: name }: Lease): Promise<void> {
    const port = this.host.portNumber(name)
    if (port === null) return
    const { low, high } = macWords(mac)
    await this.ask({ do: 'bind', segment: this.zone, ip: address, macLow: low, macHigh: high, port })
    if (this.hasGuard(name)) await this.ask({ do: 'static', low, keyHigh: high, network: this.zone, port })
  }

  private async unbindLease({ address, mac, port }: Lease): Promise<void> {
    await this.ask({ do: 'unbind', segment: this.zone, ip: address })
    const isStillHeld = this.services.leases.list().some((lease) => lease.mac === mac && lease.port === port)
    if (!isStillHeld) await this.releaseMac(mac)
  }

  /** A lease's MAC is no longer held fast to its port, unless the definition says where it is. */
  private async releaseMac(mac: string): Promise<void> {
    const { ports, fdb } = this.definition
    if (ports.some((one) => one.mac === mac) || fdb.some((one) => one.mac === mac)) return
    const { low, high } = macWords(mac)
    await this.ask({ do: 'forget', low, keyHigh: high, network: this.zone })
  }

  /** Whether the MAC of a lease is held fast to its port. */
  private hasGuard(name: string): boolean {
    const port = this.definition.ports.find((one) => one.name === name)
    return port !== undefined && port.vlan.mode === 'none' && !port.allow.includes('spoofing')
  }

  /** Asks the guests' segment who has an IPv4 address, and looks whether somebody has answered. */
  private async probe(address: Ip, mac: string): Promise<boolean> {
    if (address.length !== 1) return false
    const site = sitesOf(this.definition).find(({ subnet }) => contains(subnet, address))
    if (site === undefined) return false
    this.host.inject(this.gatewayPort, whoHas(macBytes(this.mac), site.gateway, address, null))
    await new Promise((resolve) => setTimeout(resolve, PROBE_MILLIS))
    return this.host.isUsed(this.zone, address, mac)
  }

  /** Asks the holder of a lease whether it is there: its MAC alone, so only its port pays (RFC 1122 2.3.2.1). */
  private async isThere({ address, mac, port }: Lease): Promise<boolean> {
    const site = sitesOf(this.definition).find(({ subnet }) => contains(subnet, address))
    const isGone = site === undefined || this.host.portNumber(port) === null
    if (isGone) return false
    this.host.inject(this.gatewayPort, whoHas(macBytes(this.mac), site.gateway, address, macBytes(mac)))
    await new Promise((resolve) => setTimeout(resolve, PROBE_MILLIS))
    return this.host.isUsed(this.zone, address, NO_MAC)
  }

  private announce(): void {
    for (const { gateway } of sitesOf(this.definition))
      if (gateway.length === 1) void this.ask({ do: 'announce', segment: this.zone, ip: gateway[0] }).catch(ignore)
  }

  private ask(request: Parameters<Carrier['ask']>[0]): Promise<number> {
    return this.host.shard.ask(request)
  }
}

const ignore = (): undefined => undefined

function leaseStatus(lease: Lease): LeaseStatus {
  const { text, mac, hostname, port, expiresAt, reserved } = lease
  return {
    address: text,
    mac,
    hostname,
    port,
    expiresAt: Number.isFinite(expiresAt) ? new Date(expiresAt * 1000).toISOString() : null,
    reserved,
  }
}
