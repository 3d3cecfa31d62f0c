/**
 * What is measured of one running switch, and how.
 *
 *   tcp       iperf3, one stream, from host a to host b over IPv4, offloads as the contender leaves them: what the
 *             receiver got. The congestion control is named, for it decides much: BBR paces the sender, so its
 *             figure tells of latency and scheduling; with cubic the cost of a byte is what bounds.
 *   frames    64-byte frames from a's device, as fast as one core sends (bench/frame-generator.c), counted by
 *             rx_packets of b's device. What was sent and not delivered is lost; what a's device refused was not sent.
 *   connections  TCP connections that came to stand a second, each reset at once (bench/connector.c).
 *   cpu       user and system time of the switch's processes over the measured time, in percent of one core. Work that
 *             the kernel does in the hosts' own context counts as theirs.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { processSeconds } from '../src/control/process-time.js'
import { program } from './compile.js'
import type { Contender, Host } from './contenders/contender.js'
import { find } from '../test/rig/unpacked.js'
import { type Topology, openTopology, processTree } from './topology.js'

const IPERF_PORT = 5201

export interface Tcp {
  readonly gbitPerSecond: number
  readonly retransmits: number
  readonly cpuPercent: number
}

export interface Frames {
  readonly millionPerSecond: number
  readonly lostPercent: number
  readonly cpuPercent: number
}

/** One contender running with its hosts, addressed 10.77.0.1 and up, each reachable from the first. */
export interface Setup {
  readonly topology: Topology
  readonly hosts: Host[]
  readonly pids: number[]
}

/** The way that is measured, from one host to another: switched, or routed. */
export interface Path {
  readonly topology: Topology
  /** of the switch */
  readonly pids: number[]
  readonly from: Host
  readonly to: Host
  /** IPv4 addresses of both hosts */
  readonly source: string
  readonly target: string
  /** MAC addresses of the first host, and of whom it sends to: the other host, or its router */
  readonly sourceMac: string
  readonly nextMac: string
}

export const address = (host: number): string => `10.77.0.${host + 1}`
export const mac = (host: number): string => `02:77:00:00:00:${(host + 1).toString(16).padStart(2, '0')}`

/** Starts a contender with that many hosts and proves by ping that they reach each other; the caller closes it. */
export async function setUp(contender: Contender, count: number): Promise<Setup> {
  const topology = openTopology()
  try {
    const hosts: Host[] = []
    for (let i = 0; i < count; i++) hosts.push({ netns: await topology.namespace(`h${i}`), dev: `bench${i}` })
    const netns = await topology.namespace('sw')
    const roots = await contender.start(topology, netns, hosts)
    for (const [i, host] of hosts.entries()) {
      const link = ['ip', '-n', host.netns, 'link', 'set', host.dev]
      await topology.run(null, [...link, 'address', mac(i)])
      await topology.run(null, ['ip', '-n', host.netns, 'address', 'add', `${address(i)}/24`, 'dev', host.dev])
      await topology.run(null, [...link, 'up'])
    }
    for (let i = 1; i < count; i++) await reach(topology, hosts[0], address(i))
    return { topology, hosts, pids: roots.flatMap(processTree) }
  } catch (error) {
    await topology.close()
    throw error
  }
}

async function reach(topology: Topology, from: Host | undefined, to: string): Promise<void> {
  if (from !== undefined) await answersPing(topology, from.netns, to)
}

/** Throws unless an address answers ping from a namespace within a few seconds. */
export async function answersPing(topology: Topology, netns: string, to: string): Promise<void> {
  const ping = ['ping', '-n', '-q', '-c', '1', '-W', '1', to]
  for (let attempt = 1; ; attempt++) {
    try {
      await topology.run(netns, ping)
      return
    } catch (error) {
      if (attempt === 5) throw new Error(`${to} does not answer ping through the switch`, { cause: error })
    }
  }
}

/** From the first host of a switch to the second. */
export function pathOf(setup: Setup): Path {
  const [from, to] = setup.hosts
  if (from === undefined || to === undefined) throw new Error('two hosts are needed')
  const { topology, pids } = setup
  return { topology, pids, from, to, source: address(0), target: address(1), sourceMac: mac(0), nextMac: mac(1) }
}

/** TCP from one host to the other for that many seconds. */
export async function tcp(path: Path, seconds: number, congestion: string): Promise<Tcp> {
  const { topology, pids, from, to, target } = path
  const iperf = find('iperf3')
  if (iperf === null) throw new Error('iperf3 is not installed')
  const surroundings = { env: iperf.env, seconds: seconds + 15 }
  const server = topology.start(to.netns, [iperf.path, '-s', '-1', '--forceflush'], surroundings)
  await server.ready(`listening on ${IPERF_PORT}`, 5)
  const before = cpuSeconds(pids)
  const client = ['-c', target, '-t', String(seconds), '-C', congestion, '-J']
  const json = await topology.run(from.netns, [iperf.path, ...client], surroundings)
  const used = cpuSeconds(pids) - before
  await server.ended
  const result: unknown = JSON.parse(json)
  return {
    gbitPerSecond: figure(result, 'end', 'sum_received', 'bits_per_second') / 1e9,
    retransmits: figure(result, 'end', 'sum_sent', 'retransmits'),
    cpuPercent: (used / figure(result, 'end', 'sum_sent', 'seconds')) * 100,
  }
}

/** What the generator sends: `udp` makes the frames IPv4 datagrams, which cost the receiving host its IP layer too. */
export interface Load {
  readonly sizeBytes: number
  readonly sources: number
  readonly udp: boolean
}

/** Frames of a size from one host to the other for that many seconds. */
export async function frames(path: Path, seconds: number, load: Load): Promise<Frames> {
  const { topology, pids, from, to } = path
  const generator = await program('frame-generator')
  // The switch learns where the other is from the ping; a short pause lets the pings' leftovers arrive before the
  // count.
  await sleep(50)
  const [before, cpuBefore] = [await received(topology, to), cpuSeconds(pids)]
  const udp = load.udp ? { udp: `${path.source},${path.target}` } : {}
  const { sizeBytes: size, sources } = load
  const options = { dev: from.dev, src: path.sourceMac, dst: path.nextMac, size, seconds, sources, ...udp }
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const said = await topology.run(from.netns, [generator, ...words], { seconds: seconds + 10 })
  const used = cpuSeconds(pids) - cpuBefore
  await sleep(50)
  const delivered = (await received(topology, to)) - before
  const match = /^sent (\d+) refused \d+ seconds ([\d.]+)/.exec(said)
  if (match === null) throw new Error(`frame-generator said: ${said}`)
  const [sent, time] = [Number(match[1]), Number(match[2])]
  return {
    millionPerSecond: delivered / time / 1e6,
    lostPercent: sent === 0 ? 0 : Math.max(0, (1 - delivered / sent) * 100),
    cpuPercent: (used / time) * 100,
  }
}

export interface Connections {
  readonly perSecond: number
  readonly failedPercent: number
  readonly cpuPercent: number
}

/** What the connector does: from so many source ports to so many destination ports, so many attempts at once. */
export interface Attempts {
  readonly sources: number
  readonly ports: number
  readonly parallel: number
}

/** New connections from one host to the other for that many seconds. */
export async function connections(path: Path, seconds: number, attempts: Attempts): Promise<Connections> {
  const { topology, pids, from, to, source, target } = path
  const connector = await program('connector')
  const ports = ['--port', '8000', '--ports', String(attempts.ports)]
  const server = topology.start(to.netns, [connector, 'serve', '--address', target, ...ports])
  await server.ready('connector: ready', 5)
  const { sources, parallel } = attempts
  const options = { from: source, to: target, sources, parallel, seconds }
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const before = cpuSeconds(pids)
  const said = await topology.run(from.netns, [connector, 'connect', ...ports, ...words], { seconds: seconds + 10 })
  const used = cpuSeconds(pids) - before
  server.stop()
  await server.ended
  const match = /^connected (\d+) failed (\d+) seconds ([\d.]+)/.exec(said)
  if (match === null) throw new Error(`connector said: ${said}`)
  const [connected, failed, time] = [Number(match[1]), Number(match[2]), Number(match[3])]
  return {
    perSecond: connected / time,
    failedPercent: connected + failed === 0 ? 100 : (failed / (connected + failed)) * 100,
    cpuPercent: (used / time) * 100,
  }
}

/** CPU use, in percent of one core, of a switch whose hosts are silent. */
export async function idle(setup: Setup, seconds: number): Promise<number> {
  await sleep(1000)
  const [before, start] = [cpuSeconds(setup.pids), performance.now()]
  await sleep(seconds * 1000)
  return ((cpuSeconds(setup.pids) - before) / ((performance.now() - start) / 1000)) * 100
}

/** The congestion control that a process gets here unless it asks for another. */
export function defaultCongestion(): string {
  return readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim()
}

/** The congestion controls that a process may ask for here. */
export function availableCongestion(): string[] {
  return readFileSync('/proc/sys/net/ipv4/tcp_available_congestion_control', 'utf8').trim().split(' ')
}

async function received(topology: Topology, host: Host): Promise<number> {
  const json = await topology.run(null, ['ip', '-n', host.netns, '-j', '-s', 'link', 'show', 'dev', host.dev])
  return figure(JSON.parse(json), '0', 'stats64', 'rx', 'packets')
}

/** The number at that path of a tool's JSON; throws naming the path if there is none. */
export function figure(document: unknown, ...path: string[]): number {
  let value = document
  for (const key of path) {
    value = typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined
  }
  if (typeof value !== 'number') throw new Error(`no number at ${path.join('.')} of the JSON`)
  return value
}

/** User and system time so far; the kernel scales both to the nanoseconds run, so their sum is exact to a tick. */
export function cpuSeconds(pids: number[]): number {
  let seconds = 0
  for (const pid of pids) {
    const used = processSeconds(pid)
    if (used === null) throw new Error(`process ${pid} of the switch is gone`)
    seconds += used
  }
  return seconds
}
