/**
 * The routers of the networks as the API speaks of them: leases, neighbors, routes, connections, forwards, rules,
 * names.
 *
 * What is defined is in the definition and changes by way of `Networks.change`, whole or not at all; what runs is asked
 * of the fabric. A network that does not run shows what is defined. Lists of a network without a router are empty.
 */
import { compareIp, formatIp, parseIp } from '../services/address.js'
import { Failure } from './failure.js'
import { splitGuest, parseForwardSource } from './forwarding.js'
import type {
  ConnectionEntry,
  Fabric,
  Forward,
  Lease,
  NeighborEntry,
  NetworkDefinition,
  RouteEntry,
  RuleEntry,
  StaticRoute,
  TraceReport,
} from './model.js'
import { portOf } from './network.js'
import type { Networks } from './networks.js'
import * as edits from './router-edits.js'
import { parseMac } from './port-definition.js'
import { invalid } from './schema.js'
import { parseAddress } from './subnet.js'

export class Routers {
  private readonly networks: Networks
  private readonly fabric: Fabric

  constructor(networks: Networks, fabric: Fabric) {
    this.networks = networks
    this.fabric = fabric
  }

  // Leases.

  /** Leases, and reservations that nobody has leased, by address. */
  leases(network: string): Lease[] {
    const { definition, active } = this.find(network)
    const { reservations } = definition.dhcp
    const reserved = (address: string) => reservations.some((one) => one.address === address)
    const leased = (active ? this.fabric.leases(definition.name) : []).map((lease) => ({
      ...lease,
      reserved: lease.reserved || reserved(lease.address),
    }))
    const held = new Set(leased.map((lease) => lease.address))
    const idle = reservations.filter((one) => !held.has(one.address)).map(reservedLease)
    return [...leased, ...idle].toSorted(byAddress)
  }

  async reserve(network: string, reservation: { mac: string; address: string; name?: string }): Promise<Lease> {
    const mac = parseMac(reservation.mac, 'mac')
    const address = formatIp(parseAddress(reservation.address, 'address'))
    await this.networks.change(network, (before) => {
      const holder = this.leases(network).find((lease) => lease.address === address && lease.mac !== mac)
      if (holder !== undefined && !holder.reserved) {
        throw invalid('address', `${address} is leased to ${holder.mac}; weft lease release ${before.name} ${address}`)
      }
      return edits.withReservation(before, { ...reservation, mac, address })
    })
    return this.leases(network).find((lease) => lease.address === address) as Lease
  }

  /** Takes back a lease, a reservation, or both. */
  async release(network: string, text: string): Promise<void> {
    const address = formatIp(parseAddress(text, 'address'))
    const found = this.leases(network).find((lease) => lease.address === address)
    const { definition } = this.find(network)
    if (found === undefined) {
      throw new Failure('ERR_NOT_FOUND', `network ${definition.name} has no lease of ${address}`)
    }
    if (definition.dhcp.reservations.some((one) => one.address === address)) {
      await this.networks.change(network, (before) => edits.withoutReservation(before, address))
    }
    await this.networks.serial(async () => {
      const { definition: now, active } = this.find(network)
      const leased =
        active && this.fabric.leases(now.name).some((lease) => lease.address === address && isLeased(lease))
      if (leased) await this.fabric.releaseLease(now.name, address)
    })
  }

  // Tables of what runs.

  neighbors(network: string): NeighborEntry[] {
    const { definition, active } = this.find(network)
    return active ? this.fabric.neighbors(definition.name) : []
  }

  connections(network: string, limit: number): ConnectionEntry[] {
    const { definition, active } = this.find(network)
    return active ? this.fabric.connections(definition.name, limit) : []
  }

  async flushConnections(network: string): Promise<number> {
    const flushed = await this.networks.serial(async () => {
      this.networks.requireActive(network)
      return this.fabric.flushConnections(this.find(network).definition.name)
    })
    this.networks.emit({ type: 'connection.flushed', network: this.find(network).definition.name, flushed })
    return flushed
  }

  trace(network: string, port: string, packet: string): Promise<TraceReport> {
    this.networks.requireActive(network)
    const { definition } = this.find(network)
    const isUplink = port === 'uplink' && this.fabric.uplink(definition.name) !== null
    if (!isUplink) portOf(definition, port)
    return this.fabric.trace(definition.name, port, packet)
  }

  // Routes.

  routes(network: string): RouteEntry[] {
    const { definition, active } = this.find(network)
    if (active) return this.fabric.routes(definition.name)
    const { name, subnets, routes } = definition
    return [
      ...subnets.map(
        ({ cidr }): RouteEntry => ({ destination: cidr, via: null, interface: name, origin: 'connected' }),
      ),
      ...routes.map(({ destination, via }): RouteEntry => {
        const isAddress = parseIp(via) !== null
        return { destination, via: isAddress ? via : null, interface: isAddress ? name : via, origin: 'static' }
      }),
    ]
  }

  async addRoute(network: string, route: StaticRoute): Promise<StaticRoute> {
    const via = parseIp(route.via) === null ? this.find(route.via).definition.name : route.via
    let added: StaticRoute | undefined
    await this.networks.change(network, (before) => {
      const after = edits.withRoute(before, { ...route, via })
      added = after.routes.at(-1)
      return after
    })
    return added as StaticRoute
  }

  async removeRoute(network: string, destination: string): Promise<void> {
    await this.networks.change(network, (before) => edits.withoutRoute(before, destination))
  }

  // Forwards.

  forwards(network: string): Forward[] {
    return this.find(network).definition.forwards
  }

  /** `source` is `tcp|udp:[ADDRESS:]PORT[-PORT]`, `guest` is `GUEST[:PORT]`. */
  async addForward(network: string, source: string, guest: string): Promise<Forward> {
    const forward = { ...parseForwardSource(source, 'forward'), ...splitGuest(guest, 'to') }
    let added: Forward | undefined
    await this.networks.change(network, (before) => {
      const after = edits.withForward(before, forward)
      added = after.forwards.at(-1)
      return after
    })
    return added as Forward
  }

  async removeForward(network: string, source: string): Promise<Forward> {
    let removed: Forward | undefined
    await this.networks.change(network, (before) => {
      removed = edits.findForward(before, source)
      return edits.withoutForward(before, removed)
    })
    return removed as Forward
  }

  // Rules.

  rules(network: string): RuleEntry[] {
    const { definition, active } = this.find(network)
    return active ? this.fabric.rules(definition.name) : edits.uncounted(definition.rules)
  }

  async addRule(network: string, rule: string, at: number | undefined): Promise<RuleEntry> {
    let number = 0
    await this.networks.change(network, (before) => {
      const after = edits.withRule(before, rule, at)
      number = at ?? after.rules.length
      return after
    })
    return edits.uncounted(this.find(network).definition.rules)[number - 1]
  }

  async removeRule(network: string, number: number): Promise<RuleEntry> {
    let removed: RuleEntry | undefined
    await this.networks.change(network, (before) => {
      const after = edits.withoutRule(before, number)
      removed = this.rules(network)[number - 1]
      return after
    })
    return removed as RuleEntry
  }

  // Names.

  records(network: string): edits.NameRecord[] {
    return edits.records(this.find(network).definition)
  }

  async addRecord(network: string, record: edits.NameRecord): Promise<edits.NameRecord[]> {
    await this.networks.change(network, (before) => edits.withRecord(before, record))
    const name = record.name.toLowerCase().replace(/\.$/, '')
    return this.records(network).filter((one) => one.name === name)
  }

  async removeRecords(network: string, name: string, type: edits.NameRecord['type'] | undefined): Promise<number> {
    const before = this.records(network).length
    await this.networks.change(network, (definition) => edits.withoutRecords(definition, name, type))
    return before - this.records(network).length
  }

  private find(name: string): { definition: NetworkDefinition; active: boolean } {
    return { definition: this.networks.definition(name), active: this.networks.show(name).active }
  }
}

const isLeased = (lease: Lease): boolean => lease.expiresAt !== null

const reservedLease = ({ address, mac, name }: NetworkDefinition['dhcp']['reservations'][number]): Lease => ({
  address,
  mac,
  hostname: name,
  port: null,
  expiresAt: null,
  reserved: true,
})

function byAddress(a: Lease, b: Lease): number {
  const [one, other] = [parseIp(a.address), parseIp(b.address)]
  return one === null || other === null ? 0 : compareIp(one, other)
}
