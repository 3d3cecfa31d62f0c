/**
 * A fabric without shards or devices, for the tests of what stands above it: it keeps what it was told, counts nothing
 * by itself, and refuses what a test orders it to refuse. `calls` is the log of all changes that took effect, in order.
 */
import { Failure } from '../../src/control/failure.js'
import type {
  Capture,
  CapturedFrame,
  ConnectionEntry,
  Fabric,
  FabricEvent,
  FdbEntry,
  Lease,
  NeighborEntry,
  NetworkDefinition,
  PortDefinition,
  PortStatus,
  RouteEntry,
  RuleEntry,
  ShardStatus,
  StaticEntry,
  TraceReport,
  UplinkStatus,
} from '../../src/control/model.js'

interface FakeNetwork {
  definition: NetworkDefinition
  ports: Map<string, PortDefinition>
  learned: FdbEntry[]
  statics: StaticEntry[]
  leases: Lease[]
  connections: ConnectionEntry[]
}

export class FakeFabric implements Fabric {
  readonly calls: string[] = []
  readonly networks = new Map<string, FakeNetwork>()
  readonly captures: ((frame: CapturedFrame) => void)[] = []
  /** devices that do not exist: addPort rejects */
  readonly missing = new Set<string>()
  /** the next call whose name starts so is refused */
  refuse: string | null = null
  /** so many calls are obeyed, the next is refused */
  refuseAfter = Infinity
  closed = false
  shardCount = 1
  private readonly listeners: ((event: FabricEvent) => void)[] = []
  private readonly counters = new Map<string, { packets: number; bytes: number }>()

  async start(network: NetworkDefinition): Promise<void> {
    this.did(`start ${network.name}`)
    const ports = new Map(network.ports.map((port) => [port.name, port]))
    const tables = { learned: [], statics: [...network.fdb], leases: [], connections: [] }
    this.networks.set(network.name, { definition: network, ports, ...tables })
  }

  async stop(network: string): Promise<void> {
    this.did(`stop ${network}`)
    this.networks.delete(network)
  }

  async change(network: NetworkDefinition): Promise<void> {
    this.did(`change ${network.name}`)
    this.network(network.name).definition = network
  }

  async addPort(network: string, port: PortDefinition, isPatient = false): Promise<void> {
    if (!isPatient && 'dev' in port && this.missing.has(port.dev)) {
      throw new Failure('ERR_DEVICE_NOT_FOUND', `port ${port.name}: there is no interface ${port.dev}`)
    }
    this.did(`addPort ${network} ${port.name}`)
    this.network(network).ports.set(port.name, port)
  }

  async setPort(network: string, port: PortDefinition): Promise<void> {
    this.did(`setPort ${network} ${port.name}`)
    this.network(network).ports.set(port.name, port)
  }

  async removePort(network: string, port: string): Promise<void> {
    this.did(`removePort ${network} ${port}`)
    this.network(network).ports.delete(port)
  }

  ports(network: string): PortStatus[] {
    return [...this.network(network).ports.keys()].map((name) => this.port(network, name))
  }

  port(network: string, name: string): PortStatus {
    const { definition, ports } = this.network(network)
    const { vlan, mac, mtu, isolated, link, macLimit, leaseLimit, addresses, allow, ...options } = ports.get(
      name,
    ) as PortDefinition
    const broken = 'dev' in options && this.missing.has(options.dev)
    const counted = this.counters.get(`${network}/${name}`) ?? { packets: 0, bytes: 0 }
    return {
      name,
      kind: options.kind,
      state: broken ? 'error' : link ? 'up' : 'down',
      reason: broken ? `there is no interface ${options.dev}` : link ? null : 'link is down by order',
      mac,
      mtu: mtu ?? definition.mtu,
      vlan,
      isolated,
      link,
      macLimit,
      leaseLimit,
      leases: null,
      addresses,
      allow,
      offloads: [],
      receive: { ...counted, dropped: 1 },
      transmit: { ...counted, dropped: 0 },
      drops: { runt: 1 },
      software: { segmented: 0, checksums: 0 },
      options,
    }
  }

  fdb(network: string, filter: { port?: string; vid?: number }): FdbEntry[] {
    const { learned, statics } = this.network(network)
    const fixed = statics.map((entry) => ({ ...entry, static: true, ageSeconds: 0 }))
    return [...fixed, ...learned].filter(
      (entry) => (filter.port ?? entry.port) === entry.port && (filter.vid ?? entry.vid) === entry.vid,
    )
  }

  async addStatic(network: string, entry: StaticEntry): Promise<void> {
    this.did(`addStatic ${network} ${entry.mac}`)
    this.network(network).statics.push(entry)
  }

  async removeEntry(network: string, mac: string, vid: number): Promise<void> {
    this.did(`removeEntry ${network} ${mac} ${vid}`)
    const found = this.network(network)
    const other = (entry: { mac: string; vid: number }) => entry.mac !== mac || entry.vid !== vid
    found.statics = found.statics.filter(other)
    found.learned = found.learned.filter(other)
  }

  async flush(network: string): Promise<number> {
    this.did(`flush ${network}`)
    const found = this.network(network)
    const { length } = found.learned
    found.learned = []
    return length
  }

  async capture(
    _network: string,
    _port: string | null,
    _filter: Int32Array | null,
    onFrame: (frame: CapturedFrame) => void,
  ): Promise<Capture> {
    this.captures.push(onFrame)
    return {
      stop: async () => {
        this.captures.splice(this.captures.indexOf(onFrame), 1)
      },
      lost: () => 0,
    }
  }

  leases(network: string): Lease[] {
    return this.network(network).leases
  }

  async releaseLease(network: string, address: string): Promise<void> {
    this.did(`releaseLease ${network} ${address}`)
    const found = this.network(network)
    found.leases = found.leases.filter((lease) => lease.address !== address)
  }

  neighbors(network: string): NeighborEntry[] {
    return [...this.network(network).ports.keys()].map((port, index) => ({
      address: `10.0.0.${index + 2}`,
      mac: '52:54:00:00:00:01',
      port,
      state: 'reachable',
      ageSeconds: 3,
    }))
  }

  routes(network: string): RouteEntry[] {
    const { subnets } = this.network(network).definition
    return subnets.map(({ cidr }) => ({ destination: cidr, via: null, interface: network, origin: 'connected' }))
  }

  connections(network: string, limit: number): ConnectionEntry[] {
    return this.network(network).connections.slice(0, limit)
  }

  async flushConnections(network: string): Promise<number> {
    this.did(`flushConnections ${network}`)
    return this.network(network).connections.splice(0).length
  }

  rules(network: string): RuleEntry[] {
    const { rules } = this.network(network).definition
    return rules.map((rule, index) => ({ number: index + 1, rule, packets: 7, bytes: 700 }))
  }

  uplink(network: string): UplinkStatus | null {
    const { uplink } = this.network(network).definition
    if (uplink === null) return null
    const dev = uplink.startsWith('netdev:') ? (uplink.slice(7).split(',')[0] ?? '') : `weft-${network}`
    const broken = this.missing.has(dev)
    return {
      kind: uplink.startsWith('netdev:') ? 'netdev' : 'host',
      dev,
      state: broken ? 'error' : 'up',
      reason: broken ? `there is no interface ${dev}` : null,
      mac: '52:54:00:00:00:fe',
      addresses: ['192.0.2.2/24'],
      gateways: ['192.0.2.1'],
      receive: { packets: 0, bytes: 0, dropped: 0 },
      transmit: { packets: 0, bytes: 0, dropped: 0 },
      drops: {},
    }
  }

  async trace(network: string, port: string, packet: string): Promise<TraceReport> {
    this.network(network)
    return { steps: [`port ${port} receives ${packet}`], verdict: 'dropped: policy' }
  }

  shards(): ShardStatus[] {
    return Array.from(
      { length: this.shardCount },
      (_, index): ShardStatus => ({
        index,
        pid: process.pid,
        restarts: 0,
        cpuSeconds: 1.5,
        networks: this.networks.size,
        ports: [...this.networks.values()].reduce((sum, { ports }) => sum + ports.size, 0),
        pool: { slots: 100, free: 99 },
        fdb: { capacity: 1024, used: 1, learned: 2, expired: 0, evicted: 0, moved: 0, refused: 0 },
        neighbors: { capacity: 64, used: 3, evicted: 0, failed: 1 },
        connections: { capacity: 512, used: 5, made: 9, expired: 4, evicted: 0, refused: 0, invalid: 2 },
        mappings: { capacity: 512, used: 2, refused: 0 },
        router: { packets: 1234, fragmentsHeld: 0, icmpSent: 1, icmpLimited: 0 },
      }),
    )
  }

  shardOf(network: string): number {
    return this.network(network).definition.shard ?? 0
  }

  onEvent(listener: (event: FabricEvent) => void): void {
    this.listeners.push(listener)
  }

  async close(): Promise<void> {
    this.closed = true
  }

  // What tests do to it.

  learn(network: string, entry: { mac: string; vid: number; port: string }): void {
    this.network(network).learned.push({ ...entry, static: false, ageSeconds: 3 })
  }

  lease(network: string, lease: Lease): void {
    this.network(network).leases.push(lease)
  }

  connect(network: string, connection: ConnectionEntry): void {
    this.network(network).connections.push(connection)
  }

  count(network: string, port: string, packets: number, bytes: number): void {
    this.counters.set(`${network}/${port}`, { packets, bytes })
  }

  emit(event: FabricEvent): void {
    for (const listener of this.listeners) listener(event)
  }

  frame(port: string, bytes: Uint8Array, direction: 'in' | 'out' = 'in'): void {
    for (const onFrame of Array.from(this.captures))
      onFrame({ timeNanos: 1_700_000_000_123_456_789n, port, direction, bytes })
  }

  private network(name: string): FakeNetwork {
    const found = this.networks.get(name)
    if (found === undefined) throw new Failure('ERR_NETWORK_INACTIVE', `network ${name}: is not active`)
    return found
  }

  private did(call: string): void {
    if (this.refuseAfter-- === 0) throw new Failure('ERR_IO', `${call} is refused by order of the test`)
    if (this.refuse !== null && call.startsWith(this.refuse)) {
      this.refuse = null
      throw new Failure('ERR_IO', `${call} is refused by order of the test`)
    }
    this.calls.push(call)
  }
}
