/**
 * What the bench asks of a switch that takes part.
 *
 * Each contender is one file here. The bench makes a topology with a namespace for the switch and one for each host;
 * the contender starts its switch in the former and leaves in each of the latter the named device, attached to the
 * switch. The bench then gives the devices MAC addresses and IPv4 addresses, brings them up and measures. Contenders
 * are started afresh in every round, so nothing that one of them left warm or full favours the next.
 */
import type { Topology } from '../topology.js'

/** A host of the bench: its namespace and the device in it that the contender makes. */
export interface Host {
  readonly netns: string
  readonly dev: string
}

export interface Contender {
  /** The word for it in options, in the lines of results and in the table. */
  readonly name: string
  /** One line: what it is and how its hosts are attached. */
  readonly description: string
  /** Why it cannot take part on this machine, or null. */
  missing(): string | null
  /** Starts the switch; returns the processes it runs in (none when it is the kernel), which the bench ends. */
  start(topology: Topology, netns: string, hosts: Host[]): Promise<number[]>
}
