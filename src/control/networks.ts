/**
 * The networks of this daemon: what is defined, what of it runs, and every change to either.
 *
 * A network is persistent (in the store) or transient (gone when stopped), active or not. Each change goes the same
 * way: a new definition is made from the old one, `plan` says what that means for the running network, `execute` does
 * it in the fabric, and the store is written as its last step. If any step is refused, the earlier ones are taken back
 * and the definition is as before. Changes are serialised: one at a time over all networks, in the order they were
 * asked for. What a definition leaves open is chosen when it is made (`surroundings.ts`) and kept.
 *
 * A network that ran when the daemon died runs again when it comes back, and so does one with `autostart`. On an empty
 * state there is one network, `default`, of mode nat with the best uplink. A port whose device is missing does not keep
 * its network down: the fabric shows the port in state `error` and tries again.
 */
import { isDeepStrictEqual } from 'node:util'
import { parseNetwork, parseStatic, sharedDevice, writtenNetwork } from './definition.js'
import { unsupportedXml, writeDocument } from './document.js'
import { Failure } from './failure.js'
import type { Log } from './log.js'
import type { Fabric, FdbEntry, NetworkDefinition, NetworkStatus, PortStatus, StaticEntry } from './model.js'
import {
  type Event,
  type Network,
  announced,
  idle,
  isUplink,
  merged,
  portOf,
  refuseBusy,
  refuseDeadUplink,
  status,
} from './network.js'
import { parseIp } from '../services/address.js'
import { refuseMissingShard, refuseTorn } from './placement.js'
import { type Action, execute, plan } from './plan.js'
import { parseMac, parsePort, writtenPort } from './port-definition.js'
import { changedSettings, type NetworkChanges } from './router-edits.js'
import { invalid, join } from './schema.js'
import type { Store } from './store.js'
import {
  type Surroundings,
  completed,
  hostSurroundings,
  refuseBusySubnets,
  refuseHostSubnets,
  refuseRouteLoops,
} from './surroundings.js'

export class Networks {
  private readonly fabric: Fabric
  private readonly store: Store
  private readonly log: Log
  private readonly surroundings: Surroundings
  private readonly networks = new Map<string, Network>()
  private readonly listeners = new Set<(event: Event) => void>()
  private tail: Promise<unknown> = Promise.resolve()
  private closing = false

  constructor(fabric: Fabric, store: Store, log: Log, surroundings: Surroundings = hostSurroundings) {
    this.fabric = fabric
    this.store = store
    this.log = log
    this.surroundings = surroundings
    fabric.onEvent((event) => this.emit(event))
  }

  /** Loads the store and starts what must run, then applies the networks of a configuration file, if any. */
  async open(configuration: readonly unknown[] | null): Promise<void> {
    const stored = this.store.load()
    for (const { network } of stored) {
      this.networks.set(network.name, { definition: network, persistent: true, active: false })
    }
    const wanted = (configuration ?? []).map((value, index) => this.complete(value, join('networks', index)))
    for (const { network, active } of stored) if (active || network.autostart) await this.startLoaded(network.name)
    for (const { path, reason } of this.store.problems()) {
      this.log.error(`${path} cannot be read and is left as it is: ${reason}`)
    }
    for (const network of wanted) await this.configure(network)
    if (this.networks.size === 0 && this.store.problems().length === 0) {
      await this.createDefault()
    }
  }

  onEvent(listener: (event: Event) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Takes no more changes, and waits until those that were asked for are done. */
  async close(): Promise<void> {
    this.closing = true
    await this.tail
  }

  list(all: boolean): NetworkStatus[] {
    return [...this.networks.values()].filter((one) => all || one.active).map((one) => status(one, this.fabric))
  }

  show(name: string): NetworkStatus {
    return status(this.find(name), this.fabric)
  }

  definition(name: string): NetworkDefinition {
    return this.find(name).definition
  }

  /** Throws ERR_NETWORK_INACTIVE if the network does not run. */
  requireActive(name: string): void {
    const { definition, active } = this.find(name)
    if (!active) throw new Failure('ERR_NETWORK_INACTIVE', `network ${definition.name} is not active`)
  }

  /** Defines a network and starts it. */
  create(value: unknown, transient: boolean): Promise<NetworkStatus> {
    return this.serial(async () => {
      const parsed = this.complete(value)
      const definition = { ...parsed, autostart: parsed.autostart && !transient }
      this.refuseTaken(definition)
      refuseHostSubnets((value as { subnets?: unknown }).subnets, definition, null, this.surroundings)
      refuseRouteLoops(definition, this.definitions())
      this.refuseShard(definition, null)
      refuseBusySubnets(definition, this.active())
      refuseBusy(this.networks.values(), definition, definition.ports)
      const network: Network = { definition, persistent: !transient, active: true }
      await this.run(definition, plan(null, definition), () => {
        refuseDeadUplink(this.fabric, definition)
        this.save(network)
      })
      this.networks.set(definition.name, network)
      this.emit({ type: 'network.added', network: definition.name })
      this.emit({ type: 'network.started', network: definition.name })
      return status(network, this.fabric)
    })
  }

  /** Makes a persistent, inactive network, or changes the one of that name, at once where it runs. */
  define(value: unknown): Promise<NetworkStatus> {
    const { name } = this.complete(value)
    const { uuid, autostart, subnets } = value as { uuid?: string; autostart?: boolean; subnets?: unknown }
    if (!this.networks.has(name)) {
      return this.serial(async () => {
        const definition = this.complete(value)
        this.refuseTaken(definition)
        refuseHostSubnets(subnets, definition, null, this.surroundings)
        refuseRouteLoops(definition, this.definitions())
        this.refuseShard(definition, null)
        const network: Network = { definition, persistent: true, active: false }
        this.save(network)
        this.networks.set(name, network)
        this.emit({ type: 'network.added', network: name })
        return status(network, this.fabric)
      })
    }
    return this.change(name, (before, network) => {
      const parsed = this.complete(value)
      if (uuid !== undefined && parsed.uuid !== before.uuid) {
        throw invalid('uuid', `network ${name} has ${before.uuid}, not ${parsed.uuid}`)
      }
      refuseHostSubnets(subnets, parsed, before, this.surroundings)
      network.persistent = true
      return { ...parsed, uuid: before.uuid, autostart: autostart ?? before.autostart }
    })
  }

  start(name: string): Promise<NetworkStatus> {
    return this.serial(async () => {
      const network = this.find(name)
      const { definition } = network
      if (network.active) throw new Failure('ERR_NETWORK_ACTIVE', `network ${definition.name} is active already`)
      refuseBusySubnets(definition, this.active())
      refuseBusy(this.networks.values(), definition, definition.ports)
      await this.run(definition, plan(null, definition), () => this.save({ ...network, active: true }))
      network.active = true
      this.emit({ type: 'network.started', network: definition.name })
      return status(network, this.fabric)
    })
  }

  /** Stops a network; a transient one is gone then. */
  stop(name: string): Promise<NetworkStatus> {
    return this.serial(async () => {
      this.requireActive(name)
      const network = this.find(name)
      const { definition } = network
      await this.run(definition, plan(definition, null), () => this.save({ ...network, active: false }))
      network.active = false
      this.emit({ type: 'network.stopped', network: definition.name })
      if (!network.persistent) {
        this.forget(definition.name)
        await this.endRoutes()
      }
      return status(network, this.fabric)
    })
  }

  restart(name: string): Promise<NetworkStatus> {
    return this.serial(async () => {
      this.requireActive(name)
      const network = this.find(name)
      const { definition } = network
      await this.run(definition, [...plan(definition, null), ...plan(null, definition)], () => {})
      this.emit({ type: 'network.stopped', network: definition.name })
      this.emit({ type: 'network.started', network: definition.name })
      return status(network, this.fabric)
    })
  }

  /** Stops a network if it runs, and forgets it. */
  delete(name: string): Promise<void> {
    return this.serial(async () => {
      const { definition, active, persistent } = this.find(name)
      await this.run(definition, active ? plan(definition, null) : [], () => {
        if (persistent) this.store.remove(definition.name)
      })
      if (active) this.emit({ type: 'network.stopped', network: definition.name })
      this.forget(definition.name)
      await this.endRoutes()
    })
  }

  /** Routes by way of networks that are no more end. */
  private async endRoutes(): Promise<void> {
    for (const network of this.networks.values()) {
      const before = network.definition
      const routes = before.routes.filter(({ via }) => parseIp(via) !== null || this.networks.has(via))
      if (routes.length === before.routes.length) continue
      const changed: Network = { ...network, definition: { ...before, routes } }
      const actions = plan(before, changed.definition)
      try {
        await this.run(before, network.active ? actions : [], () => this.save(changed))
      } catch (error) {
        this.log.error(`network ${before.name}: a route to a deleted network stays: ${(error as Error).message}`)
        continue
      }
      Object.assign(network, changed)
      for (const event of announced(before.name, actions)) this.emit(event)
      this.emit({ type: 'network.changed', network: before.name })
    }
  }

  set(name: string, changes: NetworkChanges): Promise<NetworkStatus> {
    return this.change(name, (before) => {
      const after = this.complete(changedSettings(before, changes))
      refuseHostSubnets(changes.subnets ?? changes.addSubnets, after, before, this.surroundings)
      return after
    })
  }

  export(name: string, format: 'yaml' | 'json' | 'xml'): string {
    if (format === 'xml') throw unsupportedXml()
    return writeDocument(writtenNetwork(this.definition(name)), format)
  }

  // Ports.

  ports(name: string): PortStatus[] {
    const { definition, active } = this.find(name)
    if (active) return this.fabric.ports(definition.name)
    return definition.ports.map((port) => idle(port, definition))
  }

  port(name: string, port: string): PortStatus {
    const { definition, active } = this.find(name)
    const found = portOf(definition, port)
    return active ? this.fabric.port(definition.name, port) : idle(found, definition)
  }

  async addPort(name: string, value: unknown): Promise<PortStatus> {
    const port = parsePort(value)
    await this.change(name, (before) => {
      if (before.ports.some((one) => one.name === port.name)) {
        throw new Failure('ERR_PORT_EXISTS', `network ${before.name} has a port ${port.name} already`)
      }
      return { ...before, ports: [...before.ports, port] }
    })
    return this.port(name, port.name)
  }

  /** Changes what `settings` names; null takes a setting back to its default. The kind of a port stays. */
  async setPort(name: string, port: string, settings: Record<string, unknown>): Promise<PortStatus> {
    await this.change(name, (before) => {
      const from = portOf(before, port)
      const to = parsePort(merged(writtenPort(from), settings), '', isUplink(before, port))
      if (isUplink(before, port) && sharedDevice(from, to) === null) {
        throw invalid('dev', `port ${port} is the uplink of network ${before.name}, it stays ${before.uplink}`)
      }
      return { ...before, ports: before.ports.map((one) => (one.name === port ? to : one)) }
    })
    return this.port(name, port)
  }

  async removePort(name: string, port: string): Promise<void> {
    await this.change(name, (before) => {
      portOf(before, port)
      if (isUplink(before, port)) {
        throw invalid('name', `port ${port} is the uplink of network ${before.name}; delete the network instead`)
      }
      return {
        ...before,
        ports: before.ports.filter((one) => one.name !== port),
        fdb: before.fdb.filter((entry) => entry.port !== port),
      }
    })
  }

  // Forwarding entries.

  fdb(name: string, filter: { port?: string; vid?: number }): FdbEntry[] {
    const { definition, active } = this.find(name)
    if (filter.port !== undefined) portOf(definition, filter.port)
    if (active) return this.fabric.fdb(definition.name, filter)
    return definition.fdb
      .filter(({ port, vid }) => (filter.port ?? port) === port && (filter.vid ?? vid) === vid)
      .map(({ vid, mac, port }) => ({ vid, mac, port, static: true, ageSeconds: 0 }))
  }

  async addEntry(name: string, value: { mac: string; port: string; vid?: number }): Promise<StaticEntry> {
    portOf(this.definition(name), value.port)
    let added: StaticEntry | undefined
    await this.change(name, (before) => {
      const entry = parseStatic(value, before.ports)
      const other = before.fdb.find((one) => one.mac === entry.mac && one.vid === entry.vid)
      if (other !== undefined) {
        throw invalid('mac', `${entry.mac} is static in VLAN ${entry.vid} already, at port ${other.port}`)
      }
      added = entry
      return { ...before, fdb: [...before.fdb, entry] }
    })
    return added as StaticEntry
  }

  /** Removes an address, static or learned, from one VLAN or from all. Returns how many entries went. */
  async removeEntry(name: string, text: string, vid: number | undefined): Promise<number> {
    const mac = parseMac(text, 'mac')
    const found = this.fdb(name, vid === undefined ? {} : { vid }).filter((entry) => entry.mac === mac)
    if (found.length === 0) {
      const where = vid === undefined ? '' : ` in VLAN ${vid}`
      throw new Failure('ERR_NOT_FOUND', `network ${this.definition(name).name} has no entry ${mac}${where}`)
    }
    const owner = this.definition(name).ports.find((port) => port.mac === mac)
    if (owner !== undefined && found.some((entry) => entry.static && entry.port === owner.name)) {
      throw invalid(
        'mac',
        `${mac} is the address of port ${owner.name}; weft port set ${name} ${owner.name} changes it`,
      )
    }
    const chosen = (entry: { mac: string; vid: number }) =>
      found.some((one) => one.mac === entry.mac && one.vid === entry.vid)
    await this.change(name, (before) => ({ ...before, fdb: before.fdb.filter((entry) => !chosen(entry)) }))
    await this.serial(async () => {
      if (!this.find(name).active) return
      const { definition } = this.find(name)
      for (const entry of found) {
        if (!entry.static) await this.fabric.removeEntry(definition.name, entry.mac, entry.vid)
      }
    })
    return found.length
  }

  /** Forgets learned addresses. Returns how many. */
  flush(name: string, filter: { port?: string; vid?: number }): Promise<number> {
    return this.serial(async () => {
      const { definition } = this.find(name)
      this.requireActive(name)
      if (filter.port !== undefined) portOf(definition, filter.port)
      return this.fabric.flush(definition.name, filter)
    })
  }

  // The one way to change a definition.

  change(
    name: string,
    edit: (before: NetworkDefinition, network: Network) => NetworkDefinition,
  ): Promise<NetworkStatus> {
    return this.serial(async () => {
      const network = this.find(name)
      const before = network.definition
      const changed: Network = { ...network }
      changed.definition = edit(before, changed)
      const actions = plan(before, changed.definition)
      refuseRouteLoops(changed.definition, this.definitions())
      this.refuseShard(changed.definition, before)
      if (network.active) {
        refuseBusySubnets(changed.definition, this.active())
        const added = actions.flatMap((action) =>
          action.do === 'port.add' ? [action.port] : action.do === 'port.set' ? [action.to] : [],
        )
        refuseBusy(this.networks.values(), changed.definition, added)
      }
      await this.run(before, network.active ? actions : [], () => this.save(changed))
      Object.assign(network, changed)
      for (const event of announced(before.name, actions)) this.emit(event)
      this.emit({ type: 'network.changed', network: before.name })
      return status(network, this.fabric)
    })
  }

  private run(definition: NetworkDefinition, actions: readonly Action[], commit: () => void): Promise<void> {
    return execute(this.fabric, definition.name, actions, commit, (action, error) =>
      this.log.error(`network ${definition.name}: ${action.do} could not be taken back: ${(error as Error).message}`),
    )
  }

  /** Parses a network after choosing what it leaves open. */
  private complete(value: unknown, path = ''): NetworkDefinition {
    const { name } = (value ?? {}) as { name?: unknown }
    const current = typeof name === 'string' ? this.networks.get(name) : undefined
    const others = this.definitions().filter((one) => one.name !== name)
    return parseNetwork(completed(value, this.surroundings, current?.definition ?? null, others), path)
  }

  /** On an empty state. A host that refuses the uplink still gets a network whose guests reach each other. */
  private async createDefault(): Promise<void> {
    const wanted = { name: 'default', mode: 'nat', autostart: true }
    try {
      await this.create(wanted, false)
    } catch (error) {
      if (!(error instanceof Failure) || this.surroundings.bestUplink() === null) throw error
      this.log.warn(`network default gets no uplink: ${error.message}`)
      await this.create({ ...wanted, uplink: 'none' }, false)
    }
  }

  private definitions(): NetworkDefinition[] {
    return [...this.networks.values()].map((network) => network.definition)
  }

  private active(): NetworkDefinition[] {
    return [...this.networks.values()].filter((network) => network.active).map((network) => network.definition)
  }

  private async configure(wanted: NetworkDefinition): Promise<void> {
    const written = writtenNetwork(wanted)
    const current = this.networks.get(wanted.name)
    if (current === undefined) {
      await this.create(written, false)
      return
    }
    await this.define({ ...written, uuid: current.definition.uuid })
    if (!current.active) await this.start(wanted.name)
  }

  private async startLoaded(name: string): Promise<void> {
    const network = this.find(name)
    try {
      refuseBusySubnets(network.definition, this.active())
      refuseBusy(this.networks.values(), network.definition, network.definition.ports)
      await this.fabric.start(network.definition)
      network.active = true
    } catch (error) {
      this.log.error(`network ${name} does not start: ${(error as Error).message}`)
    }
  }

  private find(name: string): Network {
    const named = this.networks.get(name)
    if (named !== undefined) return named
    for (const network of this.networks.values()) if (network.definition.uuid === name.toLowerCase()) return network
    this.store.refuseBroken(name)
    throw new Failure('ERR_NETWORK_NOT_FOUND', `there is no network ${name}`)
  }

  private refuseTaken({ name, uuid }: NetworkDefinition): void {
    this.store.refuseBroken(name)
    if (this.networks.has(name)) throw new Failure('ERR_NETWORK_EXISTS', `there is a network ${name} already`)
    for (const { definition } of this.networks.values()) {
      if (definition.uuid !== uuid) continue
      throw new Failure(
        'ERR_NETWORK_EXISTS',
        `network ${definition.name} has the uuid ${uuid} already; a copy goes without it`,
        'uuid',
      )
    }
  }

  /** Refuses a shard that cannot be. A pin that was there before stays, also where this daemon runs fewer shards. */
  private refuseShard(network: NetworkDefinition, before: NetworkDefinition | null): void {
    const isPinned = before?.shard !== network.shard
    if (isPinned) refuseMissingShard(network, this.fabric.shards().length)
    if (isPinned || !isDeepStrictEqual(before?.routes, network.routes)) refuseTorn(network, this.definitions())
  }

  private save({ definition, active, persistent }: Network): void {
    if (persistent) this.store.save(definition, active)
  }

  private forget(name: string): void {
    this.networks.delete(name)
    this.emit({ type: 'network.removed', network: name })
  }

  /** Runs `work` when all changes that were asked for before are done. */
  async serial<T>(work: () => Promise<T>): Promise<T> {
    if (this.closing) throw new Failure('ERR_IO', 'the daemon is closing')
    const result = this.tail.then(work)
    this.tail = result.catch(() => {})
    return result
  }

  emit(event: Event): void {
    for (const listener of this.listeners) listener(event)
  }
}
