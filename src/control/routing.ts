/**
 * The routers of all running networks, for the fabric: what they share, and their tables as they are listed.
 *
 * Ports of routers and devices of uplinks have numbers among the others', the hidden networks of uplinks among the
 * networks'. A frame for a service is handed to the router whose segment it came from.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parsePrefix } from '../services/address.js'
import type { Prefix } from '../services/address.js'
import { PATHS } from '../dataplane/router/firewall.js'
import { LOG_WORDS } from '../dataplane/router/firewall.js'
import { TIMEOUTS } from '../dataplane/router/conntrack.js'
import type { CompiledNetwork } from '../dataplane/port-table.js'
import type { CompiledRouter } from '../dataplane/router/router-table.js'
import { ActiveRouter, type RouterHost } from './active-router.js'
import { injectFrame } from './inject.js'
import type { ConnectionEntry, FabricEvent, NeighborEntry, NetworkDefinition, RuleEntry } from './model.js'
import type { Numbers } from './numbers.js'
import { isAddressUsed, listConnections, listNeighbors } from './router-tables.js'
import { formatLogged } from './rule-compile.js'
import type { Shard } from './shard.js'
import type { Carrier } from './carrier.js'

/** What the fabric does for its routers. */
export interface RoutingHost {
  /** the folder of the daemon's state; null: nothing is kept */
  readonly stateFolder: string | null
  readonly numbers: Numbers
  /** the port of this name of a network */
  portNumber(network: string, port: string): number | null
  problem(reason: string): void
  tell(event: FabricEvent): void
}

interface Known {
  router: ActiveRouter
  zone: number
  definition: NetworkDefinition
  carrier: Carrier
}

export class Routing {
  private readonly host: RoutingHost
  private readonly routers = new Map<string, Known>()

  constructor(host: RoutingHost) {
    this.host = host
  }

  /** A router for a network, known from here on; its number is its zone. */
  make(definition: NetworkDefinition, zone: number, carrier: Carrier): ActiveRouter {
    const router = new ActiveRouter(definition, zone, this.hostFor(definition.name, carrier))
    this.routers.set(definition.name, { router, zone, definition, carrier })
    return router
  }

  /** The definition that a network has now. */
  changed(definition: NetworkDefinition): void {
    const known = this.routers.get(definition.name)
    if (known) known.definition = definition
  }

  /** Networks have come or gone: routes to them are compiled again. */
  async refresh(except: string): Promise<void> {
    for (const [name, { router }] of this.routers) if (name !== except) await router.configure()
  }

  forget(name: string): void {
    this.routers.delete(name)
  }

  /** A frame for a service on a segment. */
  handle(segment: number, port: number, frame: Uint8Array, isUnfinished: boolean): void {
    for (const { router } of this.routers.values()) {
      if (!router.owns(segment)) continue
      router.handle(segment, frame, port, isUnfinished)
      return
    }
  }

  /** Packets that a network's rules log. */
  logged(zone: number, records: readonly number[]): void {
    for (const [name, known] of this.routers) {
      if (known.zone !== zone) continue
      for (let at = 0; at < records.length; at += LOG_WORDS) {
        const record = Int32Array.from(records.slice(at, at + LOG_WORDS))
        const { rule, packet } = formatLogged(record, (port) => this.portName(port))
        this.host.tell({ type: 'rule.logged', network: name, rule, packet })
      }
    }
  }

  /** What a shard knows of routers and of the hidden networks of uplinks. */
  compiled(shard: Shard): CompiledRouter[] {
    return this.on(shard).map(({ router }) => router.compile())
  }

  uplinkNetworks(shard: Shard): CompiledNetwork[] {
    return this.on(shard).flatMap(({ router }) => router.uplinkNetwork() ?? [])
  }

  private on(shard: Shard): Known[] {
    return [...this.routers.values()].filter(({ carrier }) => carrier.shard === shard)
  }

  neighbors(name: string): NeighborEntry[] {
    const known = this.routers.get(name)
    if (!known) return []
    const { arena } = known.carrier
    const uplink = known.router.uplinkSegment()
    return [
      ...listNeighbors(arena, known.zone, (port) => this.portName(port)),
      ...(uplink < 0 ? [] : listNeighbors(arena, uplink, () => 'uplink')),
    ]
  }

  connections(name: string, limit: number): ConnectionEntry[] {
    const known = this.routers.get(name)
    if (!known) return []
    const { timeouts } = known.definition.connections
    const seconds = TIMEOUTS.map((one) => timeouts[one.name] ?? one.seconds)
    return listConnections(known.carrier.arena, known.zone, seconds, limit)
  }

  async flushConnections(name: string): Promise<number> {
    const known = this.routers.get(name)
    return known ? known.carrier.ask({ do: 'flushConnections', zone: known.zone }) : 0
  }

  /** Rules with their counters, as far as they have been read. */
  rules(name: string, texts: readonly string[]): RuleEntry[] {
    const counters = this.counters.get(name) ?? []
    return texts.map((rule, i) => ({
      number: i + 1,
      rule,
      packets: counters[2 * (PATHS + i)] ?? 0,
      bytes: counters[2 * (PATHS + i) + 1] ?? 0,
    }))
  }

  private readonly counters = new Map<string, number[]>()

  /** Reads the counters of all rules; a network without rules is not asked for. */
  async readCounters(): Promise<void> {
    for (const [name, { zone, carrier, definition }] of this.routers) {
      if (definition.rules.length === 0) {
        this.counters.delete(name)
        continue
      }
      const counters = await carrier.askList({ do: 'rules', zone }).catch(() => null)
      if (Array.isArray(counters)) this.counters.set(name, counters)
    }
  }

  private portName(number: number): string | null {
    return this.host.numbers.portName(number)
  }

  private hostFor(name: string, carrier: Carrier): RouterHost {
    const { host } = this
    return {
      shard: carrier,
      leaseFile: (uuid) => {
        if (host.stateFolder === null) return null
        const folder = join(host.stateFolder, 'leases')
        mkdirSync(folder, { recursive: true, mode: 0o700 })
        return join(folder, `${uuid}.journal`)
      },
      takePort: () => host.numbers.takePort('of the router'),
      setPort: (number, port) => host.numbers.setPort(number, port, null),
      givePort: (number) => host.numbers.givePort(number),
      takeSegment: () => host.numbers.takeNetwork(),
      giveSegment: (number) => host.numbers.giveNetwork(number),
      portName: (number) => this.portName(number),
      portNumber: (port) => host.portNumber(name, port),
      segmentOf: (network) => this.routers.get(network)?.zone ?? null,
      prefixes: () => this.prefixes(),
      inject: (port, frame) => void injectFrame(carrier, port, frame),
      isUsed: (segment, address, mac) => isAddressUsed(carrier.arena, segment, address, mac),
      uplinkChanged: (status) => host.tell({ type: `uplink.${status.state}`, network: name, uplink: status }),
      problem: (reason) => host.problem(`network ${name}: ${reason}`),
      tell: (event) => host.tell(event),
    }
  }

  private prefixes(): Prefix[] {
    return [...this.routers.values()].flatMap(({ router, definition }) => [
      ...router.prefixes(),
      ...definition.subnets.flatMap(({ cidr }) => parsePrefix(cidr) ?? []),
    ])
  }
}
