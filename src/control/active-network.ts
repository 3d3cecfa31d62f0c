/**
 * A network that runs: its number, its ports and router, and what the shard knows of it.
 *
 * A change goes to the shard as the whole network's compiled configuration, so it takes effect between two bursts and
 * touches no other network. What was told last is remembered: nothing is told twice.
 */
import type { CompiledNetwork } from '../dataplane/port-table.js'
import type { ActivePort } from './active-port.js'
import type { ActiveRouter } from './active-router.js'
import type { Carrier } from './carrier.js'
import { Failure } from './failure.js'
import { macWords } from './mac.js'
import type { NetworkDefinition, PortDefinition, StaticEntry } from './model.js'
import { compileNetwork } from './snapshot.js'

export class ActiveNetwork {
  readonly number: number
  definition: NetworkDefinition
  router: ActiveRouter | null = null
  readonly ports = new Map<string, ActivePort>()
  /** the shard that it runs on */
  readonly carrier: Carrier
  private told = ''
  private isChanging = false
  private isClosed = false

  constructor(number: number, definition: NetworkDefinition, carrier: Carrier) {
    this.number = number
    this.definition = definition
    this.carrier = carrier
  }

  port(name: string): ActivePort {
    const port = this.ports.get(name)
    if (port) return port
    throw new Failure('ERR_PORT_NOT_FOUND', `port ${name}: network ${this.definition.name} has no such port`)
  }

  /** The numbers of the networks that it is for the shard: its own, and the hidden one of its uplink. */
  segments(): number[] {
    const uplink = this.router?.uplinkSegment() ?? -1
    return uplink < 0 ? [this.number] : [this.number, uplink]
  }

  /** Its ports, and the device of its uplink. */
  devices(): ActivePort[] {
    const uplink = this.router?.uplinkDevice()
    return [...this.ports.values(), ...(uplink ? [uplink] : [])]
  }

  /** Notes a port in the definition, in place of the one of its name. */
  define(port: PortDefinition): void {
    const others = this.definition.ports.filter(({ name }) => name !== port.name)
    this.definition = { ...this.definition, ports: [...others, port] }
  }

  undefine(name: string): void {
    this.definition = { ...this.definition, ports: this.definition.ports.filter((one) => one.name !== name) }
  }

  // ---- what the shard is told ----

  compile(): CompiledNetwork {
    const { definition, router } = this
    const ports = [...this.ports.values()].map((port) => ({
      number: port.number,
      definition: port.definition,
      mtu: port.mtu,
      offloads: port.device.offloads,
    }))
    const gateway = router?.compiledPort(definition.mtu) ?? null
    return compileNetwork(this.number, definition.fdbAgeSeconds, ports, gateway)
  }

  async configure(): Promise<void> {
    const network = this.compile()
    const text = JSON.stringify(network)
    if (text === this.told) return
    this.told = text
    try {
      await this.carrier.ask({ do: 'configure', network })
    } catch (error) {
      this.told = ''
      throw error
    }
  }

  /** Many ports may change at once: they are told together. */
  configureSoon(): void {
    if (this.isChanging) return
    this.isChanging = true
    setImmediate(() => {
      this.isChanging = false
      if (!this.isClosed) this.configure().catch(() => undefined)
    })
  }

  /** Another shard, or a new process of it: all of it is told again. */
  async restore(): Promise<void> {
    this.told = ''
    await this.configure()
    await this.router?.restore()
  }

  /** Its ports have been closed: the shard forgets it. */
  async close(): Promise<void> {
    this.isClosed = true
    this.ports.clear()
    await this.flush(-1, -1, true)
    await this.configure()
  }

  // ---- the forwarding table ----

  /** Forgets addresses of a port and a VLAN (-1: all), static ones too if asked. Returns how many. */
  flush(port: number, vid: number, statics: boolean): Promise<number> {
    return this.carrier.ask({ do: 'flush', network: this.number, port, vid, statics })
  }

  /** The network's static entries, and those that ports have by their `mac`. */
  staticEntries(): StaticEntry[] {
    const own = this.definition.ports.flatMap((port) => ownEntry(port) ?? [])
    return [...own, ...this.definition.fdb]
  }

  async tellOwnAddress(port: PortDefinition): Promise<void> {
    const entry = ownEntry(port)
    if (entry) await this.tellStatic(entry)
  }

  /** False: there is no such port, or no room. */
  async tellStatic(entry: StaticEntry): Promise<boolean> {
    const port = this.ports.get(entry.port)
    if (!port) return false
    const { low, high } = macWords(entry.mac)
    const keyHigh = high | (entry.vid << 16)
    return (await this.carrier.ask({ do: 'static', low, keyHigh, network: this.number, port: port.number })) === 1
  }

  async forget(mac: string, vid: number): Promise<boolean> {
    const { low, high } = macWords(mac)
    return (await this.carrier.ask({ do: 'forget', low, keyHigh: high | (vid << 16), network: this.number })) === 1
  }

  /** A port's own address has changed, or its VLAN. */
  async moveOwnAddress(before: PortDefinition, after: PortDefinition): Promise<void> {
    if (before.mac !== null) await this.forget(before.mac, ownVid(before))
    await this.tellOwnAddress(after)
  }
}

/** The VLAN in which a port's own host is. */
function ownVid(port: PortDefinition): number {
  return port.vlan.access ?? port.vlan.native ?? 0
}

function ownEntry(port: PortDefinition): StaticEntry | null {
  return port.mac === null ? null : { mac: port.mac, vid: ownVid(port), port: port.name }
}
