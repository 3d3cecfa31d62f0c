/**
 * Prometheus metrics: the fabric's counters, read when they are scraped.
 *
 * Nothing is counted here. Each metric is set anew in `collect()` from the numbers of the moment, so that forwarding
 * pays nothing and a removed port leaves no series behind. Counters start again at 0 with their port.
 */
import { Counter, Gauge, Registry, collectDefaultMetrics } from 'prom-client'
import type { Fabric, PortStatus, ShardStatus } from './model.js'
import { running } from './network.js'
import type { Networks } from './networks.js'

export interface MetricSources {
  networks: Networks
  fabric: Fabric
  version: string
  clients: () => number
}

/** The metrics of a daemon, in a registry of their own. */
export function createMetrics({ networks, fabric, version, clients }: MetricSources): Registry {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })

  const eachPort = (visit: (labels: { network: string; port: string }, port: PortStatus) => void) => {
    for (const { name } of networks.list(false)) {
      for (const port of networks.ports(name)) visit({ network: name, port: port.name }, port)
    }
  }
  const portCounter = (name: string, help: string, count: (port: PortStatus) => number) =>
    new Counter({
      name,
      help,
      registers,
      labelNames: ['network', 'port'] as const,
      collect() {
        this.reset()
        eachPort((labels, port) => this.inc(labels, count(port)))
      },
    })
  const shardGauge = (name: string, help: string, value: (shard: ShardStatus) => number) =>
    new Gauge({
      name,
      help,
      registers,
      labelNames: ['shard'] as const,
      collect() {
        this.reset()
        for (const shard of fabric.shards()) this.set({ shard: String(shard.index) }, value(shard))
      },
    })
  const shardCounter = (name: string, help: string, value: (shard: ShardStatus) => number) =>
    new Counter({
      name,
      help,
      registers,
      labelNames: ['shard'] as const,
      collect() {
        this.reset()
        for (const shard of fabric.shards()) this.inc({ shard: String(shard.index) }, value(shard))
      },
    })

  const build = new Gauge({
    name: 'weft_build_info',
    help: 'The version, always 1',
    registers,
    labelNames: ['version'] as const,
  })
  build.set({ version }, 1)
  registry.registerMetric(
    new Gauge({
      name: 'weft_networks',
      help: 'Networks by state',
      registers: [],
      labelNames: ['state'] as const,
      collect() {
        const active = networks.list(false).length
        this.set({ state: 'active' }, active)
        this.set({ state: 'inactive' }, networks.list(true).length - active)
      },
    }),
  )
  registry.registerMetric(
    new Gauge({
      name: 'weft_clients',
      help: 'Clients connected to the API',
      registers: [],
      collect() {
        this.set(clients())
      },
    }),
  )
  registry.registerMetric(
    new Gauge({
      name: 'weft_port_up',
      help: '1 if the port is up, else 0',
      registers: [],
      labelNames: ['network', 'port', 'kind'] as const,
      collect() {
        this.reset()
        eachPort((labels, { kind, state }) => this.set({ ...labels, kind }, state === 'up' ? 1 : 0))
      },
    }),
  )
  registry.registerMetric(
    new Counter({
      name: 'weft_port_drops_total',
      help: 'Frames dropped, by reason',
      registers: [],
      labelNames: ['network', 'port', 'reason'] as const,
      collect() {
        this.reset()
        eachPort((labels, { drops }) => {
          for (const [reason, count] of Object.entries(drops)) this.inc({ ...labels, reason }, count)
        })
      },
    }),
  )
  portCounter('weft_port_receive_packets_total', 'Frames received', (port) => port.receive.packets)
  portCounter('weft_port_receive_bytes_total', 'Bytes received', (port) => port.receive.bytes)
  portCounter('weft_port_receive_dropped_total', 'Frames dropped on receipt', (port) => port.receive.dropped)
  portCounter('weft_port_transmit_packets_total', 'Frames sent', (port) => port.transmit.packets)
  portCounter('weft_port_transmit_bytes_total', 'Bytes sent', (port) => port.transmit.bytes)
  portCounter('weft_port_transmit_dropped_total', 'Frames not sent', (port) => port.transmit.dropped)
  portCounter('weft_port_segmented_total', 'Large frames cut in software', (port) => port.software.segmented)
  portCounter('weft_port_checksums_total', 'Checksums finished in software', (port) => port.software.checksums)
  registry.registerMetric(
    new Gauge({
      name: 'weft_port_leases',
      help: 'Leases and offers of the hosts behind the port, reserved ones not counted',
      registers: [],
      labelNames: ['network', 'port', 'family'] as const,
      collect() {
        this.reset()
        eachPort((labels, { leases }) => {
          if (leases === null) return
          this.set({ ...labels, family: '4' }, leases.ip4)
          this.set({ ...labels, family: '6' }, leases.ip6)
        })
      },
    }),
  )
  portCounter('weft_port_leases_gave_way_total', 'Leases that gave way to others of the port', ({ leases }) =>
    leases === null ? 0 : leases.gaveWay,
  )
  portCounter('weft_port_leases_refused_total', 'Requests for a lease that got none', ({ leases }) =>
    leases === null ? 0 : leases.refused,
  )
  shardGauge('weft_pool_slots', 'Slots of the packet pool', (shard) => shard.pool.slots)
  shardGauge('weft_pool_free', 'Free slots of the packet pool', (shard) => shard.pool.free)
  shardGauge('weft_fdb_capacity', 'Entries the forwarding table can hold', (shard) => shard.fdb.capacity)
  shardGauge('weft_fdb_entries', 'Entries in the forwarding table', (shard) => shard.fdb.used)
  shardCounter('weft_fdb_learned_total', 'Addresses learned', (shard) => shard.fdb.learned)
  shardCounter('weft_fdb_expired_total', 'Addresses forgotten by age', (shard) => shard.fdb.expired)
  shardCounter('weft_fdb_evicted_total', 'Addresses that made room for others', (shard) => shard.fdb.evicted)
  shardCounter('weft_fdb_moved_total', 'Addresses that changed their port', (shard) => shard.fdb.moved)
  shardCounter('weft_fdb_refused_total', 'Addresses not learned: the port has its limit', (shard) => shard.fdb.refused)
  shardGauge('weft_neighbor_capacity', 'Neighbors the table can hold', (shard) => shard.neighbors.capacity)
  shardGauge('weft_neighbor_entries', 'Neighbors in the table', (shard) => shard.neighbors.used)
  shardCounter('weft_neighbor_evicted_total', 'Neighbors that made room', (shard) => shard.neighbors.evicted)
  shardCounter('weft_neighbor_failed_total', 'Neighbors that did not answer', (shard) => shard.neighbors.failed)
  shardGauge('weft_connection_capacity', 'Connections the table can hold', (shard) => shard.connections.capacity)
  shardGauge('weft_connection_entries', 'Connections in the table', (shard) => shard.connections.used)
  shardCounter('weft_connection_made_total', 'Connections begun', (shard) => shard.connections.made)
  shardCounter('weft_connection_expired_total', 'Connections forgotten by age', (shard) => shard.connections.expired)
  shardCounter('weft_connection_evicted_total', 'Connections that made room', (shard) => shard.connections.evicted)
  shardCounter(
    'weft_connection_refused_total',
    'Connections there was no room for',
    (shard) => shard.connections.refused,
  )
  shardCounter('weft_connection_invalid_total', 'Packets that fit no state', (shard) => shard.connections.invalid)
  shardGauge('weft_mapping_capacity', 'NAT mappings the table can hold', (shard) => shard.mappings.capacity)
  shardGauge('weft_mapping_entries', 'NAT mappings in the table', (shard) => shard.mappings.used)
  shardCounter('weft_mapping_refused_total', 'NAT mappings without a free port', (shard) => shard.mappings.refused)
  shardCounter('weft_router_packets_total', 'Packets routed', (shard) => shard.router.packets)
  shardGauge('weft_router_fragments_held', 'Fragments that wait for their first', (shard) => shard.router.fragmentsHeld)
  shardCounter('weft_router_icmp_sent_total', 'ICMP errors sent', (shard) => shard.router.icmpSent)
  shardCounter('weft_router_icmp_limited_total', 'ICMP errors not sent, by rate', (shard) => shard.router.icmpLimited)
  networkTables(networks, fabric).forEach((metric) => registry.registerMetric(metric))
  registry.registerMetric(
    new Gauge({
      name: 'weft_network_shard',
      help: 'Always 1: the shard that carries the network',
      registers: [],
      labelNames: ['network', 'shard'] as const,
      collect() {
        this.reset()
        for (const { name, runsOn } of networks.list(false))
          if (runsOn !== null) this.set({ network: name, shard: String(runsOn) }, 1)
      },
    }),
  )
  shardGauge('weft_shard_networks', 'Networks that the shard carries', (shard) => shard.networks)
  shardGauge('weft_shard_ports', 'Their ports', (shard) => shard.ports)
  shardCounter('weft_shard_cpu_seconds_total', 'Processor time of its process', (shard) => shard.cpuSeconds)
  shardCounter('weft_shard_restarts_total', 'Restarts of the shard', (shard) => shard.restarts)
  return registry
}

/** What the routers of active networks hold. */
function networkTables(networks: Networks, fabric: Fabric): Gauge<'network'>[] {
  const gauge = (name: string, help: string, value: (network: string) => number | null) =>
    new Gauge({
      name,
      help,
      registers: [],
      labelNames: ['network'] as const,
      collect() {
        this.reset()
        for (const network of networks.list(false)) {
          const now = network.subnets.length === 0 ? null : running(() => value(network.name))
          if (now !== null) this.set({ network: network.name }, now)
        }
      },
    })
  const leased = (network: string) => fabric.leases(network).filter((lease) => lease.expiresAt !== null).length
  return [
    gauge('weft_leases', 'Addresses leased', leased),
    gauge('weft_reservations', 'Addresses reserved', (name) => networks.definition(name).dhcp.reservations.length),
    gauge('weft_forwards', 'Forwards', (name) => networks.definition(name).forwards.length),
    gauge('weft_rules', 'Firewall rules', (name) => networks.definition(name).rules.length),
    gauge('weft_uplink_up', '1 if the uplink is up, else 0', (name) => {
      const uplink = fabric.uplink(name)
      return uplink === null ? null : Number(uplink.state === 'up')
    }),
  ]
}
