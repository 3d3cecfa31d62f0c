/**
 * The running side of the switch: active networks, their ports, and the shards that carry them.
 *
 * A port is made known to the shard before its device is opened: no frame of it is ever judged by less than its full
 * configuration. Numbers are given out by `numbers.ts`; what the shard knows of a network is in `active-network.ts`, of
 * routers in `routing.ts`; which shard carries which network in `shards.ts`.
 *
 * When a shard process has been replaced, everything of its networks is told again in the same order; the tables live
 * in the arena and are taken over.
 */
import { MOVE_STRIDE } from '../dataplane/fdb.js'
import { HEADER_PORTS } from '../dataplane/layout.js'
import { ActiveNetwork } from './active-network.js'
import { ActivePort, portOptions } from './active-port.js'
import { isRouted } from './active-router.js'
import { Captures } from './captures.js'
import { Carrier } from './carrier.js'
import { Failure } from './failure.js'
import { listFdb } from './fdb-table.js'
import { macText, stableMac } from './mac.js'
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
} from './model.js'
import { Numbers } from './numbers.js'
import { Routing } from './routing.js'
import type { Shard } from './shard.js'
import { Shards } from './shards.js'
import { trace } from './trace.js'

const CHECK_MILLIS = 1000

export interface FabricOptions {
  /** shard processes, at least 1 */
  shards: number
  /** where leases are kept; null: they end with the daemon */
  stateFolder: string | null
  /** a shard cannot be kept alive */
  onGivenUp: (reason: string) => void
  /** something is wrong that nobody asked about */
  onProblem: (reason: string) => void
}

/** Makes a fabric whose shards run. */
export async function createFabric(options: FabricOptions): Promise<Fabric> {
  const fabric = new ShardFabric(options)
  await fabric.ready()
  return fabric
}

/** Takes every step, then rejects with the first that was refused: a number that is not given back is lost. */
async function everyStep(steps: readonly (() => Promise<void>)[]): Promise<void> {
  const refused: unknown[] = []
  for (const step of steps) await step().catch((error: unknown) => refused.push(error))
  if (refused.length > 0) throw refused[0]
}

class ShardFabric implements Fabric {
  private readonly fleet: Shards
  private readonly captures: Captures
  private readonly networks = new Map<string, ActiveNetwork>()
  private readonly routing: Routing
  private readonly numbers: Numbers
  private readonly listeners: ((event: FabricEvent) => void)[] = []
  private readonly checkTimer: NodeJS.Timeout

  constructor({ shards, stateFolder, onGivenUp, onProblem }: FabricOptions) {
    this.fleet = new Shards(shards, {
      networks: this.networks,
      listener: (shard) => ({
        onFailed: (port, attachment, code) => this.numbers.port(port)?.failed(attachment, code),
        onMoved: (moves) => this.tellMoves(moves),
        onLogged: (zone, records) => this.routing.logged(zone, records),
        onPunt: () => this.captures.drain(shard()),
        onRestart: (reason) => void this.restore(shard(), reason),
        onGivenUp,
      }),
      problem: onProblem,
      tell: (event) => this.tell(event),
    })
    const numbers = new Numbers(this.fleet.all[0].arena.header[HEADER_PORTS])
    this.numbers = numbers
    this.captures = new Captures(
      (port) => numbers.portName(port),
      (port, timeNanos, bytes) => numbers.port(port)?.device.sent?.(timeNanos, bytes),
      (segment, port, frame, isUnfinished) => this.routing.handle(segment, port, frame, isUnfinished),
    )
    this.routing = new Routing({
      stateFolder,
      numbers,
      portNumber: (network, port) => this.networks.get(network)?.ports.get(port)?.number ?? null,
      problem: onProblem,
      tell: (event) => this.tell(event),
    })
    this.checkTimer = setInterval(() => {
      for (const port of numbers.all()) port.check()
      void this.routing.readCounters()
    }, CHECK_MILLIS)
    this.checkTimer.unref()
  }

  ready(): Promise<void> {
    return this.fleet.start()
  }

  async start(definition: NetworkDefinition): Promise<void> {
    const { name } = definition
    if (this.networks.has(name)) throw new Failure('ERR_NETWORK_ACTIVE', `network ${name}: is active already`)
    this.fleet.noteMissing(definition)
    const shard = await this.fleet.gather(definition, this.captures)
    const network = new ActiveNetwork(this.numbers.takeNetwork(), definition, new Carrier(shard))
    this.networks.set(name, network)
    try {
      for (const port of definition.ports) this.makePort(network, port)
      await this.startRouter(network)
      await network.configure()
      await this.routing.refresh(name)
      await Promise.all([...network.ports.values()].map((port) => port.open(true)))
      for (const entry of network.staticEntries()) await network.tellStatic(entry)
    } catch (error) {
      // nothing of it stays: neither its name nor its numbers, nor a device
      await this.stop(name).catch(() => undefined)
      throw error
    }
  }

  /** Every step is taken, also where the shard refuses one before it: what stops must not stay half. */
  async stop(name: string): Promise<void> {
    const network = this.network(name)
    this.networks.delete(name)
    const ports = [...network.ports.values()]
    await everyStep([
      () => this.stopRouter(network),
      ...ports.map((port) => () => port.close()),
      async () => ports.forEach((port) => this.numbers.givePort(port.number)),
      () => network.close(),
      async () => this.numbers.giveNetwork(network.number),
    ])
  }

  async change(definition: NetworkDefinition): Promise<void> {
    const network = this.network(definition.name)
    const before = network.definition
    await this.fleet.gather(definition, this.captures)
    try {
      await this.changeSettings(network, definition)
    } catch (error) {
      await this.changeSettings(network, before).catch(() => undefined)
      // back to where it was pinned; where it cannot go back, it runs as well here
      await this.fleet.gather(before, this.captures).catch(() => undefined)
      throw error
    }
  }

  private async changeSettings(network: ActiveNetwork, definition: NetworkDefinition): Promise<void> {
    network.definition = definition
    for (const port of network.ports.values()) port.change(port.definition, definition.mtu)
    if (network.router !== null && isRouted(definition)) {
      this.routing.changed(definition)
      await network.router.change(definition)
    } else {
      await this.stopRouter(network)
      await this.startRouter(network)
    }
    await network.configure()
    await this.routing.refresh(definition.name)
  }

  private async startRouter(network: ActiveNetwork): Promise<void> {
    if (!isRouted(network.definition)) return
    network.router = this.routing.make(network.definition, network.number, network.carrier)
    await network.configure()
    await network.router.start(true)
  }

  private async stopRouter(network: ActiveNetwork): Promise<void> {
    const { router } = network
    network.router = null
    if (router === null) return
    this.routing.forget(network.definition.name)
    await everyStep([() => router.close(), () => this.routing.refresh(network.definition.name)])
  }

  async addPort(name: string, definition: PortDefinition, isPatient = false): Promise<void> {
    const network = this.network(name)
    if (network.ports.has(definition.name))
      throw new Failure('ERR_PORT_EXISTS', `port ${definition.name}: network ${name} has a port of this name`)
    const port = this.makePort(network, definition)
    try {
      network.define(definition)
      await network.configure()
      await this.routerChanged(network)
      await port.open(isPatient)
      await network.tellOwnAddress(definition)
      await network.router?.bindPort(definition.name)
    } catch (error) {
      await this.dropPort(network, port).catch(() => undefined)
      throw error
    }
  }

  async setPort(name: string, definition: PortDefinition): Promise<void> {
    const network = this.network(name)
    const port = network.port(definition.name)
    const before = port.definition
    const differs = (...keys: (keyof PortDefinition)[]): boolean =>
      keys.some((key) => JSON.stringify(before[key]) !== JSON.stringify(definition[key]))
    if (JSON.stringify(portOptions(before)) !== JSON.stringify(portOptions(definition)))
      return this.replacePort(network, port, definition)
    const settle = async (from: PortDefinition, to: PortDefinition): Promise<void> => {
      port.change(to, network.definition.mtu)
      network.define(to)
      await network.configure()
      await this.routerChanged(network)
      if (differs('addresses', 'mac')) {
        await network.router?.leavePort(port.number)
        await network.router?.bindPort(to.name)
      }
      if (differs('vlan') || (from.link && !to.link)) await network.flush(port.number, -1, false)
      if (differs('vlan', 'mac')) await network.moveOwnAddress(from, to)
    }
    try {
      await settle(before, definition)
    } catch (error) {
      await settle(definition, before).catch(() => undefined)
      throw error
    }
  }

  async removePort(name: string, portName: string): Promise<void> {
    const network = this.network(name)
    await this.dropPort(network, network.port(portName))
    network.router?.releasePort(portName)
  }

  ports(name: string): PortStatus[] {
    return [...this.network(name).ports.keys()].map((port) => this.port(name, port))
  }

  port(name: string, port: string): PortStatus {
    const network = this.network(name)
    return { ...network.port(port).status(), leases: network.router?.portLeases(port) ?? null }
  }

  fdb(name: string, { port, vid }: { port?: string; vid?: number }): FdbEntry[] {
    const network = this.network(name)
    const number = port === undefined ? null : network.port(port).number
    return listFdb(network.carrier.arena, network.number, number, vid ?? null, (at) => this.numbers.portName(at))
  }

  async addStatic(name: string, entry: StaticEntry): Promise<void> {
    const network = this.network(name)
    network.port(entry.port)
    if (!(await network.tellStatic(entry)))
      throw new Failure('ERR_CAPACITY', `fdb ${name}: no room for another static entry`)
  }

  async removeEntry(name: string, mac: string, vid: number): Promise<void> {
    if (!(await this.network(name).forget(mac, vid)))
      throw new Failure('ERR_NOT_FOUND', `fdb ${name}: no entry ${mac} in VLAN ${vid}`)
  }

  async flush(name: string, { port, vid }: { port?: string; vid?: number }): Promise<number> {
    const network = this.network(name)
    return network.flush(port === undefined ? -1 : network.port(port).number, vid ?? -1, false)
  }

  async capture(
    name: string,
    port: string | null,
    filter: Int32Array | null,
    onFrame: (frame: CapturedFrame) => void,
  ): Promise<Capture> {
    const network = this.network(name)
    const number = port === null ? -1 : network.port(port).number
    const program = [...(filter ?? [])]
    return this.captures.start({ carrier: network.carrier, network: network.number, port: number, program, onFrame })
  }

  // ---- what routers know ----

  leases(name: string): Lease[] {
    return this.network(name).router?.leases() ?? []
  }

  async releaseLease(name: string, address: string): Promise<void> {
    await this.network(name).router?.releaseLease(address)
  }

  neighbors(name: string): NeighborEntry[] {
    return this.routing.neighbors(this.network(name).definition.name)
  }

  routes(name: string): RouteEntry[] {
    return this.network(name).router?.routes() ?? []
  }

  connections(name: string, limit: number): ConnectionEntry[] {
    return this.routing.connections(this.network(name).definition.name, limit)
  }

  async flushConnections(name: string): Promise<number> {
    return this.routing.flushConnections(this.network(name).definition.name)
  }

  rules(name: string): RuleEntry[] {
    const { definition } = this.network(name)
    return this.routing.rules(definition.name, definition.rules)
  }

  uplink(name: string): UplinkStatus | null {
    return this.network(name).router?.uplinkStatus() ?? null
  }

  async trace(name: string, portName: string, packet: string): Promise<TraceReport> {
    const network = this.network(name)
    const uplink = portName === 'uplink' ? network.router?.uplinkPort() : undefined
    const { shard } = network.carrier
    return trace({
      shard,
      networks: [...this.fleet.on(shard).map((one) => one.compile()), ...this.routing.uplinkNetworks(shard)],
      routers: this.routing.compiled(shard),
      network: network.number,
      port: uplink ?? network.port(portName).number,
      portName,
      nameOf: (number) => this.numbers.portName(number),
      rules: network.definition.rules,
      packet,
    })
  }

  shardOf(name: string): number {
    return this.network(name).carrier.shard.index
  }

  shards(): ShardStatus[] {
    return this.fleet.status()
  }

  onEvent(listener: (event: FabricEvent) => void): void {
    this.listeners.push(listener)
  }

  async close(): Promise<void> {
    clearInterval(this.checkTimer)
    for (const name of this.networks.keys()) await this.stop(name).catch(() => undefined)
    await this.fleet.close()
  }

  // ---- ports ----

  private makePort(network: ActiveNetwork, definition: PortDefinition): ActivePort {
    const number = this.numbers.takePort(definition.name)
    const { uuid, name, mtu } = network.definition
    const mac = definition.mac ?? stableMac(uuid, definition.name)
    const changed = (port: ActivePort, isState: boolean): void => {
      if (this.numbers.port(number) !== port) return
      if (isState) {
        this.emit(network, port)
        if (port.device.hasPeer) network.router?.portChanged(definition.name, port.state === 'up')
      }
      // what the device found out may change what the shard must know
      network.configureSoon()
    }
    try {
      const port = new ActivePort(number, definition, mtu, mac, network.carrier, changed)
      this.numbers.setPort(number, port, name)
      network.ports.set(definition.name, port)
      return port
    } catch (error) {
      this.numbers.givePort(number)
      throw error
    }
  }

  private async dropPort(network: ActiveNetwork, port: ActivePort): Promise<void> {
    const { name } = port.definition
    network.ports.delete(name)
    network.undefine(name)
    await everyStep([
      () => port.close(),
      async () => network.router?.leavePort(port.number),
      () => this.routerChanged(network),
      async () => void (await network.flush(port.number, -1, true)),
      () => network.configure(),
      async () => this.numbers.givePort(port.number),
    ])
  }

  /** Rules and bindings name ports: the router hears of those that come and go. */
  private async routerChanged(network: ActiveNetwork): Promise<void> {
    this.routing.changed(network.definition)
    await network.router?.change(network.definition)
  }

  /** Another device for the same port: the old one is closed first, and put back if the new one cannot be opened. */
  private async replacePort(network: ActiveNetwork, port: ActivePort, definition: PortDefinition): Promise<void> {
    const before = port.definition
    await this.dropPort(network, port)
    try {
      await this.addPort(network.definition.name, definition)
    } catch (error) {
      const again = this.makePort(network, before)
      network.define(before)
      await network.configure()
      await this.routerChanged(network)
      await again.open(true)
      await network.tellOwnAddress(before)
      await network.router?.bindPort(before.name)
      throw error
    }
  }

  // ---- the shard's news ----

  private async restore(shard: Shard, reason: string): Promise<void> {
    try {
      const networks = this.fleet.on(shard)
      await shard.ask({ do: 'keep', segments: networks.flatMap((network) => network.segments()) })
      for (const network of networks) await network.restore()
      // a frame that comes by one port must find the others
      shard.atOnce(() => {
        for (const network of networks) for (const port of network.devices()) port.reattach()
      })
      this.captures.restart(shard)
      shard.restored()
      this.tell({ type: 'shard.restarted', shard: shard.index, reason })
    } catch {
      // it ended again; its next start restores
    }
  }

  private tellMoves(moves: number[]): void {
    for (let i = 0; i < moves.length; i += MOVE_STRIDE) {
      const [low, keyHigh, , from, to] = moves.slice(i, i + MOVE_STRIDE)
      const network = this.numbers.networkOf(to)
      const port = this.numbers.portName(to)
      if (network === null || port === null) continue
      const mac = macText(low, keyHigh & 0xffff)
      this.tell({ type: 'fdb.moved', network, mac, vid: keyHigh >>> 16, from: this.numbers.portName(from) ?? '', port })
    }
  }

  private emit(network: ActiveNetwork, port: ActivePort): void {
    const { state, reason, name } = port.status()
    this.tell({ type: `port.${state}`, network: network.definition.name, port: name, reason })
  }

  private tell(event: FabricEvent): void {
    for (const listener of this.listeners) listener(event)
  }

  private network(name: string): ActiveNetwork {
    const network = this.networks.get(name)
    if (!network) throw new Failure('ERR_NETWORK_INACTIVE', `network ${name}: is not active`)
    return network
  }
}
