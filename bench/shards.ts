/**
 * The part of the bench that spreads networks over shards: `--shards`.
 *
 *     h0 -- tap -- left -- tap -- h1      h2 -- tap -- right -- tap -- h3
 *
 * One daemon carries two networks of two `tap` ports each, with one shard or with two (pinned, one network each), and
 * both pass TCP at once. The figures are of both networks together, beside those of one alone; CPU is that of all the
 * daemon's processes, and of the busiest. What can be gained is bounded by the cores: four hosts' ends of TCP need
 * theirs too.
 */
import { cpus } from 'node:os'
import { startWeft, weftMissing } from './contenders/weft.js'
import type { Host } from './contenders/contender.js'
import { type Path, answersPing, cpuSeconds, tcp } from './measure.js'
import type { Candidate, Figures, Part, PartPlan } from './parts.js'
import { type Topology, openTopology, processTree } from './topology.js'

const WARM_UP_SECONDS = 1
const NETWORKS = ['left', 'right']

export function shardsPart(congestions: string[]): Part {
  const [first = 'cubic'] = congestions
  return {
    name: 'shards',
    title: 'two networks of two tap ports, TCP in both at once',
    tests: [
      ...congestions.map((name) => ({ name: `tcp.${name}`, label: `TCP (${name}), both`, unit: 'Gbit/s', digits: 1 })),
      { name: 'tcp.alone', label: `TCP (${first}), one alone`, unit: 'Gbit/s', digits: 1 },
      { name: 'tcp.slower', label: 'the slower of both', unit: '%', digits: 0, plain: true },
      { name: 'tcp.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
      { name: 'tcp.cpu.busiest', label: 'its busiest process', unit: '%', digits: 0, plain: true },
      { name: 'tcp.cpu.gigabit', label: 'CPU a gigabit', unit: 'ms', digits: 1 },
    ],
    bases: ['one-shard'],
    candidates: [candidate('one-shard', 1, congestions), candidate('two-shards', 2, congestions)],
  }
}

function candidate(name: string, shards: number, congestions: string[]): Candidate {
  return {
    name,
    description: `Weft: two networks on ${shards === 1 ? 'one shard' : `${shards} shards`}, tap ports`,
    missing: () => weftMissing() ?? (cpus().length < shards ? `the machine has ${cpus().length} core` : null),
    measure: (plan) => measure(shards, congestions, plan),
  }
}

async function measure(shards: number, congestions: string[], { seconds }: PartPlan): Promise<Figures> {
  const topology = openTopology()
  try {
    const paths = await start(topology, shards)
    const figures: Figures = new Map()
    const [first = 'cubic'] = congestions
    await Promise.all(paths.map((path) => tcp(path, WARM_UP_SECONDS, first)))
    for (const congestion of congestions) {
      const pids = paths[0]?.pids ?? []
      const before = pids.map((pid) => cpuSeconds([pid]))
      const both = await Promise.all(paths.map((path) => tcp(path, seconds, congestion)))
      const rates = both.map(({ gbitPerSecond }) => gbitPerSecond)
      const total = rates.reduce((sum, rate) => sum + rate, 0)
      figures.set(`tcp.${congestion}`, total)
      if (congestion !== first) continue
      const used = pids.map((pid, i) => cpuSeconds([pid]) - (before[i] ?? 0))
      const all = used.reduce((sum, one) => sum + one, 0)
      figures.set('tcp.slower', (Math.min(...rates) / Math.max(...rates)) * 100)
      figures.set('tcp.cpu', (all / seconds) * 100)
      figures.set('tcp.cpu.busiest', (Math.max(...used) / seconds) * 100)
      figures.set('tcp.cpu.gigabit', (all * 1000) / (total * seconds))
    }
    const [alone] = paths
    if (alone !== undefined) figures.set('tcp.alone', (await tcp(alone, seconds, first)).gbitPerSecond)
    return figures
  } finally {
    await topology.close()
  }
}

/** A daemon with both networks; the way through each. */
async function start(topology: Topology, shards: number): Promise<Path[]> {
  const netns = await topology.namespace('sw')
  const daemon = await startWeft(topology, netns, { options: ['--shards', String(shards)] })
  const paths: Path[] = []
  for (const [i, network] of NETWORKS.entries()) {
    await daemon.command('network', 'create', network, '--mode', 'isolated', '--shard', String(i % shards))
    const hosts: Host[] = []
    for (const end of [0, 1]) {
      const host = { netns: await topology.namespace(`h${i * 2 + end}`), dev: 'bench0' }
      await daemon.command('port', 'add', network, `p${end}`, '--kind', 'tap', '--dev', host.dev, '--netns', host.netns)
      const ip = ['ip', '-n', host.netns]
      await topology.run(null, [...ip, 'address', 'add', `${addressOf(i, end)}/24`, 'dev', host.dev])
      await topology.run(null, [...ip, 'link', 'set', host.dev, 'up'])
      hosts.push(host)
    }
    const [from, to] = hosts
    if (from === undefined || to === undefined) throw new Error('two hosts are needed')
    const [source, target] = [addressOf(i, 0), addressOf(i, 1)]
    await answersPing(topology, from.netns, target)
    paths.push({ topology, pids: processTree(daemon.pid), from, to, source, target, sourceMac: '', nextMac: '' })
  }
  return paths
}

const addressOf = (network: number, end: number): string => `10.${80 + network}.0.${end + 1}`
