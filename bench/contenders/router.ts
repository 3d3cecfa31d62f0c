/**
 * What the bench asks of a router that takes part: a host inside, a host outside, and a way between them on which the
 * sources are translated and a firewall with state stands.
 *
 *     inside 10.78.0.2 --- 10.78.0.1 router 198.51.100.2 --- 198.51.100.1 outside
 *
 * The bench makes a namespace for each of the hosts and one for the router; the contender does the rest, addresses
 * included. They are started afresh in every round.
 */
import type { Topology } from '../topology.js'
import type { Host } from './contender.js'

export const INSIDE = '10.78.0.2'
export const INSIDE_GATEWAY = '10.78.0.1'
export const INSIDE_SUBNET = '10.78.0.0/24'
export const OUTSIDE = '198.51.100.1'
export const OUTSIDE_ROUTER = '198.51.100.2'

/** Both hosts, ready, and what the first one sends to. */
export interface Routed {
  readonly inside: Host
  readonly outside: Host
  /** IPv4 address of the host outside */
  readonly target: string
  /** to whose MAC the inside host sends */
  readonly nextHop: string
  /** processes of the router; none when it is the kernel */
  readonly pids: number[]
}

export interface RouterContender {
  readonly name: string
  readonly description: string
  missing(): string | null
  start(topology: Topology, inside: string, middle: string, outside: string): Promise<Routed>
}

/** Gives a host's interface its address, brings it up, and has it send by a gateway if one is given. */
export async function dress(topology: Topology, { netns, dev }: Host, cidr: string, gateway?: string): Promise<void> {
  const ip = (...args: string[]): Promise<string> => topology.run(null, ['ip', '-n', netns, ...args])
  await ip('address', 'add', cidr, 'dev', dev)
  await ip('link', 'set', dev, 'up')
  if (gateway !== undefined) await ip('route', 'add', 'default', 'via', gateway)
}
