/**
 * The parts of the bench that go through a router: `--nat` (TCP and small frames) and `--connections` (new TCP
 * connections a second).
 *
 * The way is from a host inside to one outside (contenders/router.ts): Weft's NAT and firewall, the kernel's, and
 * Weft's plain switching, which shows what routing costs. Small frames are IPv4 datagrams of 64 flows, since frames of
 * no known protocol are not routed; the outside host drops them where they come in, so that its IP layer costs nothing.
 *
 * New connections come from SOURCES ports of one guest: a guest has at most 8,192 NAT mappings, and one that has just
 * been reset keeps its mapping for ten seconds. They go to PORTS ports, so that a tuple comes back after 65,536.
 */
import { kernelNat } from './contenders/kernel-nat.js'
import { INSIDE, type RouterContender } from './contenders/router.js'
import { weftNat } from './contenders/weft-nat.js'
import { weftSwitch } from './contenders/weft-switch.js'
import { type Path, answersPing, connections, frames, tcp } from './measure.js'
import { find } from '../test/rig/unpacked.js'
import type { Candidate, Figures, Part, PartPlan } from './parts.js'
import { openTopology, processTree } from './topology.js'

const CONTENDERS = [weftNat, kernelNat, weftSwitch]
const WARM_UP_SECONDS = 1
const FRAME_BYTES = 64
const SOURCES = 4096
const PORTS = 16
const PARALLEL = 64

export function natPart(congestions: string[]): Part {
  return {
    name: 'nat',
    title: 'routed: NAT and firewall, from a host inside to one outside',
    tests: [
      ...congestions.map((name) => ({ name: `tcp.${name}`, label: `TCP (${name})`, unit: 'Gbit/s', digits: 1 })),
      { name: 'frames', label: `${FRAME_BYTES}-byte frames`, unit: 'million/s', digits: 2 },
      { name: 'frames.lost', label: 'lost', unit: '%', digits: 1, plain: true },
      { name: 'tcp.cpu', label: 'CPU (TCP)', unit: '%', digits: 0, plain: true },
    ],
    bases: ['kernel-nat', 'weft-switch'],
    candidates: CONTENDERS.map((contender) =>
      candidate(contender, async (path, { seconds }) => {
        const figures: Figures = new Map()
        await tcp(path, WARM_UP_SECONDS, congestions[0] ?? 'cubic')
        for (const [i, congestion] of congestions.entries()) {
          const { gbitPerSecond, cpuPercent } = await tcp(path, seconds, congestion)
          figures.set(`tcp.${congestion}`, gbitPerSecond)
          if (i === 0 && path.pids.length > 0) figures.set('tcp.cpu', cpuPercent)
        }
        await discard(path)
        const load = { sizeBytes: FRAME_BYTES, sources: 1, udp: true }
        const { millionPerSecond, lostPercent } = await frames(path, seconds, load)
        figures.set('frames', millionPerSecond)
        figures.set('frames.lost', lostPercent)
        return figures
      }),
    ),
  }
}

export function connectionsPart(): Part {
  return {
    name: 'connections',
    title: 'new TCP connections through NAT and firewall, each reset at once',
    tests: [
      { name: 'connections', label: 'connections', unit: '/s', digits: 0 },
      { name: 'connections.failed', label: 'failed', unit: '%', digits: 2, plain: true },
      { name: 'connections.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
    ],
    bases: ['kernel-nat', 'weft-switch'],
    candidates: CONTENDERS.map((contender) =>
      candidate(contender, async (path, { seconds }) => {
        const attempts = { sources: SOURCES, ports: PORTS, parallel: PARALLEL }
        await connections(path, WARM_UP_SECONDS, attempts)
        const { perSecond, failedPercent, cpuPercent } = await connections(path, seconds, attempts)
        const figures: Figures = new Map([
          ['connections', perSecond],
          ['connections.failed', failedPercent],
        ])
        if (path.pids.length > 0) figures.set('connections.cpu', cpuPercent)
        return figures
      }),
    ),
  }
}

function candidate(contender: RouterContender, measure: (path: Path, plan: PartPlan) => Promise<Figures>): Candidate {
  const { name, description } = contender
  return {
    name,
    description,
    missing: () =>
      contender.missing() ?? (find('nft') === null ? 'nft is not installed (Debian package nftables)' : null),
    measure: async (plan) => {
      const topology = openTopology()
      try {
        const [inside, middle, outside] = [
          await topology.namespace('in'),
          await topology.namespace('mid'),
          await topology.namespace('out'),
        ]
        const routed = await contender.start(topology, inside, middle, outside)
        await answersPing(topology, inside, routed.target)
        const path: Path = {
          topology,
          pids: routed.pids.flatMap(processTree),
          from: routed.inside,
          to: routed.outside,
          source: INSIDE,
          target: routed.target,
          sourceMac: await macOf(topology.run, inside, routed.inside.dev),
          nextMac: await neighborOf(topology.run, inside, routed.nextHop),
        }
        return await measure(path, plan)
      } finally {
        await topology.close()
      }
    },
  }
}

type Run = (netns: string | null, command: string[]) => Promise<string>

async function macOf(run: Run, netns: string, dev: string): Promise<string> {
  const [link] = JSON.parse(await run(null, ['ip', '-n', netns, '-j', 'link', 'show', 'dev', dev])) as [
    { address: string },
  ]
  return link.address
}

/** From now on the outside host drops the datagrams of the frame generator as they come in, and answers none. */
async function discard({ topology, to }: Path): Promise<void> {
  const nft = find('nft')
  if (nft === null) throw new Error('nft is not installed (Debian package nftables)')
  const hook = `type filter hook ingress device "${to.dev}" priority 0; policy accept;`
  const table = `table netdev bench { chain arriving { ${hook} udp dport 9 drop; }; }`
  await topology.run(to.netns, [nft.path, table], { env: nft.env })
}

/** The MAC that a namespace's kernel knows of an address that has just answered. */
async function neighborOf(run: Run, netns: string, address: string): Promise<string> {
  const known = JSON.parse(await run(null, ['ip', '-n', netns, '-j', 'neigh', 'show', address])) as {
    lladdr?: string
  }[]
  const mac = known[0]?.lladdr
  if (mac === undefined) throw new Error(`${address} has no MAC in ${netns}`)
  return mac
}
