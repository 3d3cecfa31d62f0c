/**
 * The uplink of a router: a hidden network with two ports, the device and the router's own.
 *
 *   host     a TAP into this host's stack. Weft gives the host's end an address, and with mode route and open the
 *            routes to the guests' subnets; all of it goes with the TAP. The router's next hop is the host.
 *   netdev   a raw socket on an interface, with a MAC and addresses of the router's own: as configured, or by DHCP.
 *
 * The device may vanish and return: the port is opened again with back-off, and what depends on it is done again:
 * addresses of the TAP, the DHCP lease. `onChange` is told of everything that changes the router's configuration.
 */
import {
  addToIp,
  contains,
  formatIp,
  formatPrefix,
  ipBytes,
  linkLocalOf,
  maskIp,
  networkOf,
  parsePrefix,
} from '../services/address.js'
import type { Ip, Prefix } from '../services/address.js'
import { Dhcp4Client } from '../services/dhcp4-client.js'
import type { Configuration4 } from '../services/dhcp4-configuration.js'
import { readDatagram, writeDatagram } from '../services/frame.js'
import { pickTransferSubnet, prefixesInUse, uniqueLocalPrefix } from '../services/host-network.js'
import type { CompiledNetwork } from '../dataplane/port-table.js'
import { PORT_GATEWAY, PORT_LINK } from '../dataplane/port-table.js'
import type { CompiledRoute, CompiledSegment } from '../dataplane/router/router-table.js'
import { SERVICE_DHCP_CLIENT } from '../dataplane/router/router-table.js'
import { native } from '../ports/native.js'
import { ActivePort } from './active-port.js'
import { UPLINK_PORT } from './definition.js'
import { macBytes, macWords, stableMac } from './mac.js'
import type { NetworkDefinition, PortDefinition, UplinkStatus } from './model.js'
import { parsePort } from './port-definition.js'
import type { RouterHost } from './active-router.js'
import { compilePort, emptyNetwork } from './snapshot.js'
import type { Uplink } from './uplink.js'

const DEFAULT4: Prefix = { ip: [0], prefix: 0 }
const DEFAULT6: Prefix = { ip: [0, 0, 0, 0], prefix: 0 }
const EEXIST = -17
/** Hosts on the link that can be next hops. */
const MAC_LIMIT = 1024

export class ActiveUplink {
  readonly segment: number
  readonly gatewayPort: number
  readonly port: ActivePort
  readonly mac: string
  /** the interface */
  readonly dev: string
  /** the router's addresses on it, and its next hops */
  addresses: Prefix[] = []
  gateways: Ip[] = []
  private readonly host: RouterHost
  private readonly kind: Uplink['kind']
  private readonly hostSide: Prefix[] = []
  private readonly onChange: () => Promise<void>
  private network: NetworkDefinition
  private readonly client: Dhcp4Client | null = null
  private routes: { destination: Prefix; via: Ip }[] = []
  /** the routes that the host has been given */
  private readonly routed = new Map<string, HostRoute>()
  private told = ''
  private isClosed = false

  constructor(network: NetworkDefinition, uplink: Uplink, host: RouterHost, onChange: () => Promise<void>) {
    this.network = network
    this.host = host
    this.kind = uplink.kind
    this.onChange = onChange
    this.segment = host.takeSegment()
    this.gatewayPort = host.takePort()
    this.mac = stableMac(network.uuid, 'uplink/router')
    const definition =
      uplink.kind === 'host' ? devicePort('tap', hostDevice(network)) : devicePort('netdev', uplink.dev)
    const number = host.takePort()
    this.dev = 'dev' in definition ? definition.dev : ''
    this.port = new ActivePort(
      number,
      definition,
      network.mtu,
      stableMac(network.uuid, 'uplink/host'),
      host.shard,
      (_port, isState) => this.portChanged(isState),
    )
    host.setPort(number, this.port)
    if (uplink.kind === 'host') this.takeHostAddresses(uplink.addresses)
    else {
      this.addresses = [...uplink.addresses]
      this.gateways = [...uplink.gateways]
      if (uplink.dhcp) this.client = this.makeClient()
    }
  }

  /** Opens the device; keeps trying if it is not there. Rejects if `patient` is false and it cannot be opened. */
  async open(patient: boolean): Promise<void> {
    await this.configure()
    const { low, high } = macWords(this.mac)
    await this.host.shard.ask({
      do: 'static',
      low,
      keyHigh: high,
      network: this.segment,
      port: this.gatewayPort,
    })
    await this.port.open(patient)
  }

  change(network: NetworkDefinition): void {
    this.network = network
    this.port.change({ ...this.port.definition }, network.mtu)
    if (this.kind === 'host' && this.port.state === 'up') this.dressHost()
  }

  /** A new shard process: everything is told again. The device is attached with all others. */
  async restore(): Promise<void> {
    this.told = ''
    await this.configure()
  }

  async close(): Promise<void> {
    this.isClosed = true
    this.client?.stop()
    try {
      await this.port.close()
      const { shard } = this.host
      await shard.ask({ do: 'flush', network: this.segment, port: -1, vid: -1, statics: true })
      await shard.ask({ do: 'leave', segment: this.segment, port: -1 })
      await shard.ask({ do: 'configure', network: emptyNetwork(this.segment) })
    } finally {
      this.host.givePort(this.port.number)
      this.host.givePort(this.gatewayPort)
      this.host.giveSegment(this.segment)
    }
  }

  /** A frame that the shard handed over: an answer of a DHCP server. */
  handle(frame: Uint8Array): void {
    const datagram = readDatagram(frame)
    if (datagram !== null) this.client?.handle(datagram)
  }

  status(): UplinkStatus {
    const { state, reason, receive, transmit, drops } = this.port.status()
    const isWaiting = this.client !== null && state === 'up' && this.client.configuration === null
    return {
      kind: this.kind,
      dev:
        this.port.definition.kind === 'tap' || this.port.definition.kind === 'netdev' ? this.port.definition.dev : '',
      state: isWaiting ? 'down' : state,
      reason: isWaiting ? 'no answer from a DHCP server yet' : reason,
      mac: this.mac,
      addresses: this.addresses.map(formatPrefix),
      gateways: this.gateways.map(formatIp),
      receive,
      transmit,
      drops,
    }
  }

  compileSegment(proxied: Ip[]): CompiledSegment {
    const { low, high } = macWords(this.mac)
    return {
      segment: this.segment,
      gatewayPort: this.gatewayPort,
      macLow: low,
      macHigh: high,
      vid: 0,
      mtu: this.port.mtu,
      addresses: [...this.addresses, linkLocalPrefix(this.mac)],
      proxied,
      services: this.client === null ? 0 : SERVICE_DHCP_CLIENT,
    }
  }

  compileRoutes(): CompiledRoute[] {
    const { segment } = this
    const onLink = this.addresses.map((one) => ({ ...networkOf(one), segment, gateway: null }))
    const further = this.routes.map(({ destination, via }) => ({ ...destination, segment, gateway: via }))
    const byDefault = this.gateways.map((gateway) => ({
      ...(gateway.length === 1 ? DEFAULT4 : DEFAULT6),
      segment,
      gateway,
    }))
    return [...onLink, ...further, ...byDefault]
  }

  /** Resolvers that came with a DHCP lease. */
  resolvers(): string[] {
    return this.client?.configuration?.dns.map(formatIp) ?? []
  }

  /** The link's subnets, for other networks to keep away from. */
  prefixes(): Prefix[] {
    return this.addresses.map(networkOf)
  }

  // ---- the device ----

  private async configure(): Promise<void> {
    const network = this.compile()
    const text = JSON.stringify(network)
    if (text === this.told) return
    this.told = text
    await this.host.shard.ask({ do: 'configure', network })
  }

  compile(): CompiledNetwork {
    const { port } = this
    const device = compilePort({
      number: port.number,
      definition: port.definition,
      mtu: port.mtu,
      offloads: port.device.offloads,
    })
    const own = { ...device, port: this.gatewayPort, flags: PORT_LINK | PORT_GATEWAY, offloads: 15 }
    return { network: this.segment, agingSeconds: 300, ports: [device, own] }
  }

  private portChanged(isState: boolean): void {
    if (this.isClosed) return
    // behind a link that has been away may be other hosts
    if (isState) void this.host.shard.ask({ do: 'leave', segment: this.segment, port: -1 }).catch(none)
    if (isState && this.port.state === 'up') {
      if (this.kind === 'host') {
        this.routed.clear() // a TAP that is made anew has none
        this.dressHost()
      } else if (this.client?.state === 'stopped') this.client.start()
      else this.client?.restart()
    }
    if (isState) this.host.uplinkChanged(this.status())
    void this.configure()
      .then(() => this.onChange())
      .then(() => this.announce(), none)
  }

  /** Tells the link where the router's IPv4 addresses are (RFC 5227 section 3). */
  private announce(): void {
    for (const { ip } of this.addresses)
      if (ip.length === 1) void this.host.shard.ask({ do: 'announce', segment: this.segment, ip: ip[0] }).catch(none)
  }

  // ---- host ----

  /** The router's and the host's addresses on the link between them. */
  private takeHostAddresses(given: readonly Prefix[]): void {
    const has = (words: number): boolean => given.some(({ ip }) => ip.length === words)
    const wants6 = this.network.subnets.some(({ cidr }) => cidr.includes(':'))
    const chosen = [...given]
    if (!has(1)) {
      const taken = [...prefixesInUse(), ...this.host.prefixes()]
      const picked = pickTransferSubnet(taken, this.network.uuid)
      const subnet = picked === null ? null : parsePrefix(picked)
      if (subnet !== null) chosen.push({ ip: addToIp(subnet.ip, 2), prefix: subnet.prefix })
    }
    if (!has(4) && wants6) {
      const subnet = parsePrefix(uniqueLocalPrefix(`${this.network.uuid}/uplink`))!
      chosen.push({ ip: addToIp(subnet.ip, 2), prefix: subnet.prefix })
    }
    for (const router of chosen) {
      const first = addToIp(maskIp(router.ip, router.prefix), 1)
      const ip = formatIp(first) === formatIp(router.ip) ? addToIp(first, 1) : first
      this.addresses.push(router)
      this.hostSide.push({ ip, prefix: router.prefix })
      this.gateways.push(ip)
    }
  }

  /** Gives the host's end of the TAP its addresses, and the routes to guests that are not hidden behind NAT. */
  private dressHost(): void {
    const { definition } = this.port
    if (definition.kind !== 'tap') return
    const problem = (result: number, what: string): void => {
      if (result < 0 && result !== EEXIST) this.host.problem(`uplink ${definition.dev}: ${what}: errno ${-result}`)
    }
    for (const { ip, prefix } of this.hostSide)
      problem(native.addAddress(definition.dev, '', ipBytes(ip), prefix), `address ${formatIp(ip)}`)
    const wanted = this.hostRoutes()
    for (const [cidr, route] of this.routed) {
      if (wanted.has(cidr)) continue
      native.removeRoute(definition.dev, '', ...route)
      this.routed.delete(cidr)
    }
    for (const [cidr, route] of wanted) {
      problem(native.addRoute(definition.dev, '', ...route), `route to ${cidr}`)
      this.routed.set(cidr, route)
    }
  }

  /** The routes that the host needs to the guests' subnets, by subnet: none to those that are hidden behind NAT. */
  private hostRoutes(): Map<string, HostRoute> {
    const { mode, nat, subnets } = this.network
    const routes = new Map<string, HostRoute>()
    for (const { cidr } of subnets) {
      const subnet = parsePrefix(cidr)!
      const isHidden = mode === 'nat' && (subnet.ip.length === 1 || nat.ipv6)
      const via = this.addresses.find(({ ip }) => ip.length === subnet.ip.length)
      if (!isHidden && via !== undefined) routes.set(cidr, [ipBytes(subnet.ip), subnet.prefix, ipBytes(via.ip)])
    }
    return routes
  }

  // ---- DHCP ----

  private makeClient(): Dhcp4Client {
    return new Dhcp4Client({
      mac: macBytes(this.mac),
      hostname: null,
      send: (datagram) => this.host.inject(this.gatewayPort, writeDatagram(datagram)),
      onBound: (configuration) => this.bound(configuration),
      onLost: () => this.bound(null),
    })
  }

  private bound(configuration: Configuration4 | null): void {
    this.addresses = this.addresses.filter(({ ip }) => ip.length === 4)
    this.gateways = this.gateways.filter((ip) => ip.length === 4)
    this.routes = []
    if (configuration !== null) {
      this.addresses.unshift(configuration.address)
      if (configuration.router !== null) this.gateways.unshift(configuration.router)
      this.routes = configuration.routes.filter(({ via }) => contains(configuration.address, via))
    }
    this.host.uplinkChanged(this.status())
    void this.onChange().then(() => this.announce(), none)
  }
}

const none = (): undefined => undefined

/** As native code takes it: destination, its length, next hop. */
type HostRoute = [destination: Uint8Array, prefix: number, gateway: Uint8Array]

/** The TAP's name: `weft-NETWORK` as far as 15 characters go, then a part of the UUID that tells it from others. */
export function hostDevice({ name, uuid }: NetworkDefinition): string {
  const plain = `weft-${name.replaceAll(/[^\w.-]/g, '-')}`
  return plain.length <= 15 ? plain : `${plain.slice(0, 10)}-${uuid.slice(0, 4)}`
}

/** The device as a port; it is the outside, so nothing is held against what comes from it. */
function devicePort(kind: 'tap' | 'netdev', dev: string): PortDefinition {
  return parsePort({ name: UPLINK_PORT, kind, dev, macLimit: MAC_LIMIT }, '', true)
}

function linkLocalPrefix(mac: string): Prefix {
  return { ip: linkLocalOf(macBytes(mac)), prefix: 64 }
}
