/**
 * What is measured of one running switch, and how.
 *
 *   tcp       iperf3, one stream, from host a to host b over IPv4, offloads as the contender leaves them: what the
 *             receiver got. The congestion control is named, for it decides much: BBR paces the sender, so its
 *             figure tells of latency and scheduling; with cubic the cost of a byte is what bounds.
 *   frames    64-byte frames from a's device, as fast as one core sends (bench/frame-generator.c), counted by
 *             rx_packets of b's device. What was sent and not delivered is lost; what a's device refused was not sent.
 *   cpu       user and system time of the switch's processes over the measured time, in percent of one core. Work that
 *             the kernel does in the hosts' own context counts as theirs.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { program } from './compile.js'
import type { Contender, Host } from './contenders/contender.js'
import { find } from './packages.js'
import { type Topology, openTopology, processTree } from './topology.js'

/** Kernel clock ticks a second in /proc (USER_HZ: 100 on every architecture that Node runs on). */
const TICKS = 100
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
  if (from === undefined) return
  const ping = ['ping', '-n', '-q', '-c', '1', '-W', '1', to]
  for (let attempt = 1; ; attempt++) {
    try {
      await topology.run(from.netns, ping)
      return
    } catch (error) {
      if (attempt === 5) throw new Error(`${to} does not answer ping through the switch`, { cause: error })
    }
  }
}

/** TCP from the first host to the second for that many seconds. */
export async function tcp(setup: Setup, seconds: number, congestion: string): Promise<Tcp> {
  const [a, b] = pair(setup)
  const iperf = find('iperf3')
  if (iperf === null) throw new Error('iperf3 is not installed')
  const surroundings = { env: iperf.env, seconds: seconds + 15 }
  const server = setup.topology.start(b.netns, [iperf.path, '-s', '-1', '--forceflush'], surroundings)
  await server.ready(`listening on ${IPERF_PORT}`, 5)
  const before = cpuSeconds(setup.pids)
  const client = ['-c', address(1), '-t', String(seconds), '-C', congestion, '-J']
  const json = await setup.topology.run(a.netns, [iperf.path, ...client], surroundings)
  const used = cpuSeconds(setup.pids) - before
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

/** Frames of a size from the first host to the second for that many seconds. */
export async function frames(setup: Setup, seconds: number, load: Load): Promise<Frames> {
  const [a, b] = pair(setup)
  const path = await program('frame-generator')
  // The switch learns where b is from the ping; a short pause lets the pings' leftovers arrive before the count.
  await sleep(50)
  const [before, cpuBefore] = [await received(setup.topology, b), cpuSeconds(setup.pids)]
  const udp = load.udp ? { udp: `${address(0)},${address(1)}` } : {}
  const { sizeBytes: size, sources } = load
  const options = { dev: a.dev, src: mac(0), dst: mac(1), size, seconds, sources, ...udp }
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const said = await setup.topology.run(a.netns, [path, ...words], { seconds: seconds + 10 })
  const used = cpuSeconds(setup.pids) - cpuBefore
  await sleep(50)
  const delivered = (await received(setup.topology, b)) - before
  const match = /^sent (\d+) refused \d+ seconds ([\d.]+)/.exec(said)
  if (match === null) throw new Error(`frame-generator said: ${said}`)
  const [sent, time] = [Number(match[1]), Number(match[2])]
  return {
    millionPerSecond: delivered / time / 1e6,
    lostPercent: sent === 0 ? 0 : Math.max(0, (1 - delivered / sent) * 100),
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

function pair(setup: Setup): [Host, Host] {
  const [a, b] = setup.hosts
  if (a === undefined || b === undefined) throw new Error('two hosts are needed')
  return [a, b]
}

async function received(topology: Topology, host: Host): Promise<number> {
  const json = await topology.run(null, ['ip', '-n', host.netns, '-j', '-s', 'link', 'show', 'dev', host.dev])
  return figure(JSON.parse(json), '0', 'stats64', 'rx', 'packets')
}

/** The number at that path of a tool's JSON; throws naming the path if there is none. */
function figure(document: unknown, ...path: string[]): number {
  let value = document
  for (const key of path) {
    value = typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined
  }
  if (typeof value !== 'number') throw new Error(`no number at ${path.join('.')} of the JSON`)
  return value
}

/** User and system time so far; the kernel scales both to the nanoseconds run, so their sum is exact to a tick. */
function cpuSeconds(pids: number[]): number {
  let ticks = 0
  for (const pid of pids) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      ticks += Number(fields[11]) + Number(fields[12])
    } catch (cause) {
      throw new Error(`process ${pid} of the switch is gone`, { cause })
    }
  }
  return ticks / TICKS
}
