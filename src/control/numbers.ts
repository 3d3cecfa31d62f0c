/**
 * The numbers by which the shard knows ports and networks: given out here, the lowest free one first.
 *
 * A number may belong to a port that has a name, to the device of an uplink, or to a router's own port, which is no
 * device; and to a network, or to the hidden one of an uplink.
 */
import { NETWORKS_MAX } from '../dataplane/port-table.js'
import type { ActivePort } from './active-port.js'
import { Failure } from './failure.js'

export class Numbers {
  private readonly ports: (ActivePort | null)[]
  private readonly networks: (string | null)[] // of a port: the name of its network
  private readonly taken = new Set<number>()
  private readonly segments = new Set<number>()

  /** @param rows ports that the shard has room for */
  constructor(rows: number) {
    this.ports = new Array<ActivePort | null>(rows).fill(null)
    this.networks = new Array<string | null>(rows).fill(null)
  }

  /** Takes a number for a port; `setPort` tells which. @param name for the error */
  takePort(name: string): number {
    const number = this.ports.findIndex((_, at) => !this.taken.has(at))
    if (number < 0) throw new Failure('ERR_CAPACITY', `port ${name}: ${this.ports.length} ports are in use`)
    this.taken.add(number)
    return number
  }

  /** @param network null: hidden */
  setPort(number: number, port: ActivePort, network: string | null): void {
    this.ports[number] = port
    this.networks[number] = network
  }

  givePort(number: number): void {
    this.ports[number] = this.networks[number] = null
    this.taken.delete(number)
  }

  port(number: number): ActivePort | null {
    return this.ports[number] ?? null
  }

  portName(number: number): string | null {
    return this.port(number)?.definition.name ?? null
  }

  /** The network of a port, null: it is hidden, or there is none. */
  networkOf(number: number): string | null {
    return this.networks[number] ?? null
  }

  /** All ports, those of uplinks too. */
  *all(): Iterable<ActivePort> {
    for (const port of this.ports) if (port !== null) yield port
  }

  takeNetwork(): number {
    for (let number = 0; number < NETWORKS_MAX; number++) {
      if (this.segments.has(number)) continue
      this.segments.add(number)
      return number
    }
    throw new Failure('ERR_CAPACITY', `networks: ${NETWORKS_MAX} are active already`)
  }

  giveNetwork(number: number): void {
    this.segments.delete(number)
  }
}
