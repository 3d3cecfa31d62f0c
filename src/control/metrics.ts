/**
 * Prometheus metrics: the fabric's counters, read when they are scraped.
 *
 * Nothing is counted here. Each metric is set anew in `collect()` from the numbers of the moment, so that forwarding
 * pays nothing and a removed port leaves no series behind. Counters start again at 0 with their port.
 */
import { Counter, Gauge, Registry, collectDefaultMetrics } from 'prom-client'
import type { Fabric, PortStatus, ShardStatus } from './model.js'
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
  shardGauge('weft_pool_slots', 'Slots of the packet pool', (shard) => shard.pool.slots)
  shardGauge('weft_pool_free', 'Free slots of the packet pool', (shard) => shard.pool.free)
  shardGauge('weft_fdb_capacity', 'Entries the forwarding table can hold', (shard) => shard.fdb.capacity)
  shardGauge('weft_fdb_entries', 'Entries in the forwarding table', (shard) => shard.fdb.used)
  shardCounter('weft_fdb_learned_total', 'Addresses learned', (shard) => shard.fdb.learned)
  shardCounter('weft_fdb_expired_total', 'Addresses forgotten by age', (shard) => shard.fdb.expired)
  shardCounter('weft_fdb_evicted_total', 'Addresses that made room for others', (shard) => shard.fdb.evicted)
  shardCounter('weft_fdb_moved_total', 'Addresses that changed their port', (shard) => shard.fdb.moved)
  shardCounter('weft_fdb_refused_total', 'Addresses not learned: the port has its limit', (shard) => shard.fdb.refused)
  shardCounter('weft_shard_restarts_total', 'Restarts of the shard', (shard) => shard.restarts)
  return registry
}
