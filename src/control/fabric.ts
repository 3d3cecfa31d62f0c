/**
 * The running side of the switch: active networks, their ports, and the shard that carries them.
 *
 * Numbers. The shard knows networks and ports by number; they are given out here, lowest free first, and a number's
 * counters start at 0. A change goes to the shard as the whole network's compiled configuration, so it takes effect
 * between two bursts and touches no other network. A port is made known to the shard before its device is opened: no
 * frame of it is ever judged by less than its full configuration.
 *
 * When the shard process has been replaced, everything is told again in the same order; the FDB lives in the arena and
 * is taken over.
 */
import {
  FDB_KEY_HIGH,
  FDB_MAC_LOW,
  FDB_NETWORK,
  FDB_PORT,
  FDB_SEEN,
  FDB_SHIFT,
  FDB_STATIC,
  HEADER_NOW,
  HEADER_PORTS,
} from '../dataplane/layout.js'
import { MOVE_STRIDE } from '../dataplane/fdb.js'
import { type CompiledNetwork, NETWORKS_MAX } from '../dataplane/port-table.js'
import { ActivePort, portOptions } from './active-port.js'
import { type ActiveRouter, isRouted } from './active-router.js'
import { Captures } from './captures.js'
import { Failure } from './failure.js'
import { macText, macWords, stableMac } from './mac.js'
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
import { Routing } from './routing.js'
import { Shard } from './shard.js'
import { compileNetwork } from './snapshot.js'
import { trace } from './trace.js'

const CHECK_MILLIS = 1000

interface ActiveNetwork {
  number: number
  definition: NetworkDefinition
  router: ActiveRouter | null
  ports: Map<string, ActivePort>
  /** what the shard was last told, to tell it nothing twice */
  told: string
  /** a change of a device is about to be told */
  changed: boolean
}

export interface FabricOptions {
  /** where leases are kept; null: they end with the daemon */
  stateFolder: string | null
  /** the shard cannot be kept alive */
  onGivenUp: (reason: string) => void
  /** something is wrong that nobody asked about */
  onProblem: (reason: string) => void
}

/** Makes a fabric with one shard, running. */
export async function createFabric(options: FabricOptions): Promise<Fabric> {
  const fabric = new ShardFabric(options)
  await fabric.ready()
  return fabric
}

class ShardFabric implements Fabric {
  private readonly shard: Shard
  private readonly captures: Captures
  private readonly networks = new Map<string, ActiveNetwork>()
  private readonly routing: Routing
  private readonly byNumber: (ActivePort | null)[]
  /** numbers of routers' own ports and of uplinks' devices, and of uplinks' hidden networks */
  private readonly hiddenPorts = new Set<number>()
  private readonly hiddenNetworks = new Set<number>()
  private readonly networkOf: (ActiveNetwork | null)[]
  private readonly listeners: ((event: FabricEvent) => void)[] = []
  private readonly checkTimer: NodeJS.Timeout

  constructor({ stateFolder, onGivenUp, onProblem }: FabricOptions) {
    this.shard = new Shard(0, {
      onFailed: (port, attachment, code) => this.byNumber[port]?.failed(attachment, code),
      onMoved: (moves) => this.tellMoves(moves),
      onLogged: (zone, records) => this.routing.logged(zone, records),
      onPunt: () => this.captures.drain(),
      onRestart: (reason) => void this.restore(reason),
      onGivenUp,
    })
    const rows = this.shard.arena.header[HEADER_PORTS]
    this.byNumber = new Array<ActivePort | null>(rows).fill(null)
    this.networkOf = new Array<ActiveNetwork | null>(rows).fill(null)
    this.captures = new Captures(
      this.shard,
      (port) => this.byNumber[port]?.definition.name ?? null,
      (port, timeNanos, bytes) => this.byNumber[port]?.device.sent?.(timeNanos, bytes),
      (segment, port, frame, isUnfinished) => this.routing.handle(segment, port, frame, isUnfinished),
    )
    this.routing = new Routing({
      shard: this.shard,
      stateFolder,
      takePort: () => this.takeHiddenPort(),
      setPort: (number, port) => {
        this.byNumber[number] = port
      },
      givePort: (number) => {
        this.byNumber[number] = null
        this.hiddenPorts.delete(number)
      },
      takeSegment: () => {
        const number = this.freeNetwork()
        this.hiddenNetworks.add(number)
        return number
      },
      giveSegment: (number) => void this.hiddenNetworks.delete(number),
      port: (number) => this.byNumber[number],
      portNumber: (network, port) => this.networks.get(network)?.ports.get(port)?.number ?? null,
      problem: onProblem,
      tell: (event) => this.tell(event),
    })
    this.checkTimer = setInterval(() => {
      for (const port of this.byNumber) port?.check()
      void this.routing.readCounters()
    }, CHECK_MILLIS)
    this.checkTimer.unref()
  }

  ready(): Promise<void> {
    return this.shard.start()
  }

  async start(definition: NetworkDefinition): Promise<void> {
    if (this.networks.has(definition.name))
      throw new Failure('ERR_NETWORK_ACTIVE', `network ${definition.name}: is active already`)
    const network: ActiveNetwork = {
      number: this.freeNetwork(),
      definition,
      router: null,
      ports: new Map(),
      told: '',
      changed: false,
    }
    this.networks.set(definition.name, network)
    for (const port of definition.ports) this.makePort(network, port)
    if (isRouted(definition)) network.router = this.routing.make(definition, network.number)
    await this.configure(network)
    await network.router?.start(true)
    await this.routing.refresh(definition.name)
    await Promise.all([...network.ports.values()].map((port) => port.open(true)))
    for (const entry of this.staticEntries(network)) await this.tellStatic(network, entry)
  }

  async stop(name: string): Promise<void> {
    const network = this.network(name)
    this.networks.delete(name)
    await this.dropRouter(network)
    await Promise.all([...network.ports.values()].map((port) => port.close()))
    for (const port of network.ports.values()) this.byNumber[port.number] = this.networkOf[port.number] = null
    await this.shard.ask({ do: 'flush', network: network.number, port: -1, vid: -1, statics: true })
    network.ports.clear()
    await this.configure(network)
  }

  async change(definition: NetworkDefinition): Promise<void> {
    const network = this.network(definition.name)
    const { router } = network
    network.definition = definition
    for (const port of network.ports.values()) port.change(port.definition, definition.mtu)
    this.routing.changed(definition)
    if (router && isRouted(definition)) {
      await router.change(definition)
    } else if (router) {
      await this.dropRouter(network)
    } else if (isRouted(definition)) {
      network.router = this.routing.make(definition, network.number)
      await this.configure(network)
      await network.router.start(true)
    }
    await this.configure(network)
    await this.routing.refresh(definition.name)
  }

  private async dropRouter(network: ActiveNetwork): Promise<void> {
    const { router } = network
    network.router = null
    if (!router) return
    this.routing.forget(network.definition.name)
    await router.close()
    await this.routing.refresh(network.definition.name)
  }

  async addPort(name: string, definition: PortDefinition): Promise<void> {
    const network = this.network(name)
    if (network.ports.has(definition.name))
      throw new Failure('ERR_PORT_EXISTS', `port ${definition.name}: network ${name} has a port of this name`)
    const port = this.makePort(network, definition)
    try {
      await this.configure(network)
      network.definition = withPort(network.definition, definition)
      await this.routerChanged(network)
      await port.open(false)
      await this.tellOwnAddress(network, definition)
      await network.router?.bindPort(definition.name)
    } catch (error) {
      await this.dropPort(network, port)
      throw error
    }
  }

  async setPort(name: string, definition: PortDefinition): Promise<void> {
    const network = this.network(name)
    const port = this.activePort(name, definition.name)
    const before = port.definition
    if (JSON.stringify(portOptions(before)) !== JSON.stringify(portOptions(definition)))
      return this.replacePort(network, port, definition)
    port.change(definition, network.definition.mtu)
    network.definition = withPort(network.definition, definition)
    await this.configure(network)
    await this.routerChanged(network)
    if (JSON.stringify([before.addresses, before.mac]) !== JSON.stringify([definition.addresses, definition.mac])) {
      await network.router?.leavePort(port.number)
      await network.router?.bindPort(definition.name)
    }
    if (JSON.stringify(before.vlan) !== JSON.stringify(definition.vlan) || (before.link && !definition.link))
      await this.shard.ask({ do: 'flush', network: network.number, port: port.number, vid: -1, statics: false })
    if (before.mac !== definition.mac || JSON.stringify(before.vlan) !== JSON.stringify(definition.vlan)) {
      if (before.mac !== null) await this.forget(network, before.mac, ownVid(before))
      await this.tellOwnAddress(network, definition)
    }
  }

  async removePort(name: string, portName: string): Promise<void> {
    const network = this.network(name)
    await this.dropPort(network, this.activePort(name, portName))
    network.router?.releasePort(portName)
  }

  ports(name: string): PortStatus[] {
    return [...this.network(name).ports.values()].map((port) => port.status())
  }

  port(name: string, port: string): PortStatus {
    return this.activePort(name, port).status()
  }

  fdb(name: string, filter: { port?: string; vid?: number }): FdbEntry[] {
    const network = this.network(name)
    const wanted = filter.port === undefined ? -1 : this.activePort(name, filter.port).number
    const { fdb, header } = this.shard.arena
    const seconds = header[HEADER_NOW]
    const found: FdbEntry[] = []
    for (let i = 0; i < this.shard.fdbRows(); i++) {
      const entry = i << FDB_SHIFT
      if (fdb[entry + FDB_NETWORK] !== network.number + 1) continue
      const port = this.byNumber[fdb[entry + FDB_PORT]]
      const vid = fdb[entry + FDB_KEY_HIGH] >>> 16
      if (!port || (wanted >= 0 && port.number !== wanted) || (filter.vid !== undefined && vid !== filter.vid)) continue
      const seen = fdb[entry + FDB_SEEN]
      found.push({
        vid,
        mac: macText(fdb[entry + FDB_MAC_LOW], fdb[entry + FDB_KEY_HIGH] & 0xffff),
        port: port.definition.name,
        static: seen === FDB_STATIC,
        ageSeconds: seen === FDB_STATIC ? 0 : Math.max(0, seconds - seen),
      })
    }
    return found.sort((a, b) => a.vid - b.vid || (a.mac < b.mac ? -1 : 1))
  }

  async addStatic(name: string, entry: StaticEntry): Promise<void> {
    const network = this.network(name)
    this.activePort(name, entry.port)
    if (!(await this.tellStatic(network, entry)))
      throw new Failure('ERR_CAPACITY', `fdb ${name}: no room for another static entry`)
  }

  async removeEntry(name: string, mac: string, vid: number): Promise<void> {
    if (!(await this.forget(this.network(name), mac, vid)))
      throw new Failure('ERR_NOT_FOUND', `fdb ${name}: no entry ${mac} in VLAN ${vid}`)
  }

  flush(name: string, filter: { port?: string; vid?: number }): Promise<number> {
    const network = this.network(name)
    const port = filter.port === undefined ? -1 : this.activePort(name, filter.port).number
    return this.shard.ask({ do: 'flush', network: network.number, port, vid: filter.vid ?? -1, statics: false })
  }

  capture(
    name: string,
    port: string | null,
    filter: Int32Array | null,
    onFrame: (frame: CapturedFrame) => void,
  ): Promise<Capture> {
    const network = this.network(name)
    const number = port === null ? -1 : this.activePort(name, port).number
    return this.captures.start({ network: network.number, port: number, program: [...(filter ?? [])], onFrame })
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

  flushConnections(name: string): Promise<number> {
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
    const isUplink = portName === 'uplink' && network.router?.uplinkPort() !== undefined
    const port = isUplink ? network.router!.uplinkPort()! : this.activePort(name, portName).number
    return trace({
      shard: this.shard,
      networks: [...[...this.networks.values()].map((one) => this.compile(one)), ...this.routing.uplinkNetworks()],
      routers: this.routing.compiled(),
      network: network.number,
      port,
      portName,
      nameOf: (number) => this.byNumber[number]?.definition.name ?? null,
      rules: network.definition.rules,
      packet,
    })
  }

  shards(): ShardStatus[] {
    return [this.shard.status()]
  }

  onEvent(listener: (event: FabricEvent) => void): void {
    this.listeners.push(listener)
  }

  async close(): Promise<void> {
    clearInterval(this.checkTimer)
    for (const name of this.networks.keys()) await this.stop(name).catch(() => undefined)
    await this.shard.close()
  }

  // ---- ports ----

  private makePort(network: ActiveNetwork, definition: PortDefinition): ActivePort {
    const number = this.freePort(definition.name)
    const mac = definition.mac ?? stableMac(network.definition.uuid, definition.name)
    const port = new ActivePort(number, definition, network.definition.mtu, mac, this.shard, (changed, isState) => {
      if (this.byNumber[number] !== changed) return
      if (isState) this.emit(network, changed)
      // what the device found out may change what the shard must know
      this.configureSoon(network)
    })
    this.byNumber[number] = port
    this.networkOf[number] = network
    network.ports.set(definition.name, port)
    return port
  }

  private freePort(name: string): number {
    const number = this.byNumber.findIndex((port, at) => port === null && !this.hiddenPorts.has(at))
    if (number >= 0) return number
    throw new Failure('ERR_CAPACITY', `port ${name}: ${this.byNumber.length} ports are in use`)
  }

  private takeHiddenPort(): number {
    const number = this.freePort('of the router')
    this.hiddenPorts.add(number)
    return number
  }

  private async dropPort(network: ActiveNetwork, port: ActivePort): Promise<void> {
    const { name } = port.definition
    network.ports.delete(name)
    network.definition = { ...network.definition, ports: network.definition.ports.filter((one) => one.name !== name) }
    this.byNumber[port.number] = this.networkOf[port.number] = null
    await port.close()
    await network.router?.leavePort(port.number)
    await this.routerChanged(network)
    await this.shard.ask({ do: 'flush', network: network.number, port: port.number, vid: -1, statics: true })
    await this.configure(network)
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
      await this.configure(network)
      await again.open(true)
      await this.tellOwnAddress(network, before)
      throw error
    }
  }

  /** Many ports may change at once: they are told together. */
  private configureSoon(network: ActiveNetwork): void {
    if (network.changed) return
    network.changed = true
    setImmediate(() => {
      network.changed = false
      if (this.networks.get(network.definition.name) === network) this.configure(network).catch(() => undefined)
    })
  }

  private compile(network: ActiveNetwork): CompiledNetwork {
    const ports = [...network.ports.values()].map((port) => ({
      number: port.number,
      definition: port.definition,
      mtu: port.mtu,
      offloads: port.device.offloads,
    }))
    const { definition, router } = network
    const gateway = router?.compiledPort(definition.mtu) ?? null
    return compileNetwork(network.number, definition.fdbAgeSeconds, ports, gateway)
  }

  private async configure(network: ActiveNetwork): Promise<void> {
    const compiled = this.compile(network)
    const text = JSON.stringify(compiled)
    if (text === network.told) return
    network.told = text
    try {
      await this.shard.ask({ do: 'configure', network: compiled })
    } catch (error) {
      network.told = ''
      throw error
    }
  }

  // ---- static entries ----

  /** The network's static entries, and those that ports have by their `mac`. */
  private staticEntries(network: ActiveNetwork): StaticEntry[] {
    const own = network.definition.ports.flatMap((port) => ownEntry(port) ?? [])
    return [...own, ...network.definition.fdb]
  }

  private async tellOwnAddress(network: ActiveNetwork, port: PortDefinition): Promise<void> {
    const entry = ownEntry(port)
    if (entry) await this.tellStatic(network, entry)
  }

  private async tellStatic(network: ActiveNetwork, entry: StaticEntry): Promise<boolean> {
    const port = network.ports.get(entry.port)
    if (!port) return false
    const { low, high } = macWords(entry.mac)
    const keyHigh = high | (entry.vid << 16)
    return (await this.shard.ask({ do: 'static', low, keyHigh, network: network.number, port: port.number })) === 1
  }

  private async forget(network: ActiveNetwork, mac: string, vid: number): Promise<boolean> {
    const { low, high } = macWords(mac)
    return (await this.shard.ask({ do: 'forget', low, keyHigh: high | (vid << 16), network: network.number })) === 1
  }

  // ---- the shard's news ----

  private async restore(reason: string): Promise<void> {
    try {
      for (const network of this.networks.values()) {
        network.told = ''
        await this.configure(network)
        await network.router?.restore()
      }
      for (const port of this.byNumber) port?.reattach()
      this.captures.restart()
      this.tell({ type: 'shard.restarted', shard: this.shard.index, reason })
    } catch {
      // it ended again; its next start restores
    }
  }

  private tellMoves(moves: number[]): void {
    for (let i = 0; i < moves.length; i += MOVE_STRIDE) {
      const [low, keyHigh, , from, to] = moves.slice(i, i + MOVE_STRIDE)
      const port = this.byNumber[to]
      const network = this.networkOf[to]
      if (!port || !network) continue
      this.tell({
        type: 'fdb.moved',
        network: network.definition.name,
        mac: macText(low, keyHigh & 0xffff),
        vid: keyHigh >>> 16,
        from: this.byNumber[from]?.definition.name ?? '',
        port: port.definition.name,
      })
    }
  }

  private emit(network: ActiveNetwork, port: ActivePort): void {
    const { state, reason, name } = port.status()
    this.tell({ type: `port.${state}`, network: network.definition.name, port: name, reason })
  }

  private tell(event: FabricEvent): void {
    for (const listener of this.listeners) listener(event)
  }

  // ---- look-ups ----

  private network(name: string): ActiveNetwork {
    const network = this.networks.get(name)
    if (!network) throw new Failure('ERR_NETWORK_INACTIVE', `network ${name}: is not active`)
    return network
  }

  private activePort(name: string, portName: string): ActivePort {
    const port = this.network(name).ports.get(portName)
    if (!port) throw new Failure('ERR_PORT_NOT_FOUND', `port ${portName}: network ${name} has no such port`)
    return port
  }

  private freeNetwork(): number {
    const used = new Set([...this.hiddenNetworks, ...[...this.networks.values()].map((network) => network.number)])
    for (let number = 0; number < NETWORKS_MAX; number++) if (!used.has(number)) return number
    throw new Failure('ERR_CAPACITY', `networks: ${NETWORKS_MAX} are active already`)
  }
}

function withPort(network: NetworkDefinition, port: PortDefinition): NetworkDefinition {
  const others = network.ports.filter((one) => one.name !== port.name)
  return { ...network, ports: [...others, port] }
}

/** The VLAN in which a port's own host is. */
function ownVid(port: PortDefinition): number {
  return port.vlan.access ?? port.vlan.native ?? 0
}

function ownEntry(port: PortDefinition): StaticEntry | null {
  return port.mac === null ? null : { mac: port.mac, vid: ownVid(port), port: port.name }
}
