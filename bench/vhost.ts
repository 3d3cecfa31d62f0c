/**
 * The part of the bench with guests' memory at both ends (`--vhost`): frames a second between two vhost-user ports.
 *
 * The guests are two virtio-user ports of DPDK's testpmd (test/rig/dpdk.ts) in one process on core 0: it fills both
 * transmit queues as fast as it can (`flowgen`) and takes what arrives at both; the switch has core 1 (contenders/
 * vhost.ts). What counts is what arrived, both directions together. Each port's frames go to the other's MAC, as IPv4
 * datagrams to as many addresses as there are flows. testpmd says what it counted when it stops; it runs a second to
 * warm up first.
 *
 * CPU is the switch's, in percent of one core, under the 64-byte load; idle is the same with the ports attached and
 * nothing sent. A poller has 100 always.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { forwardedOf, testpmd, virtioUser } from '../test/rig/dpdk.js'
import { type VhostContender, ovsDpdk, testpmdForwarder, weftVhost } from './contenders/vhost.js'
import { cpuSeconds, mac } from './measure.js'
import type { Candidate, Figures, Part } from './parts.js'
import { type Child, type Topology, openTopology, processTree } from './topology.js'

const LOAD_CORE = 0
const WARM_UP_SECONDS = 1
const SETTLE_SECONDS = 1
const FEW = 64
const MANY = 10_000

interface Load {
  readonly name: string
  readonly label: string
  readonly sizeBytes: number
  readonly flows: number
}

const LOADS: Load[] = [
  { name: 'frames.64', label: '64 bytes, 64 flows', sizeBytes: 64, flows: FEW },
  { name: 'frames.many', label: '64 bytes, 10,000 flows', sizeBytes: 64, flows: MANY },
  { name: 'frames.1518', label: '1518 bytes', sizeBytes: 1518, flows: FEW },
]

export function vhostPart(): Part {
  return {
    name: 'vhost',
    title: 'vhost-user: frames between two guests (virtio-user ports of testpmd on core 0, the switch on core 1)',
    tests: [
      ...LOADS.map(({ name, label }) => ({ name, label, unit: 'million/s', digits: 2 })),
      { name: 'frames.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
      { name: 'idle.cpu', label: 'CPU idle', unit: '%', digits: 1, plain: true },
    ],
    bases: ['ovs-dpdk', 'testpmd-io'],
    candidates: [weftVhost, ovsDpdk, testpmdForwarder(false)].map(candidate),
  }
}

function candidate(contender: VhostContender): Candidate {
  const { name, description } = contender
  return {
    name,
    description,
    missing: () => contender.missing() ?? testpmdForwarder(false).missing(),
    measure: async ({ seconds }) => {
      const topology = openTopology()
      try {
        const netns = await topology.namespace('sw')
        const folder = topology.folder()
        const sockets = [`${folder}/0`, `${folder}/1`]
        const pids = (await contender.start(topology, netns, sockets)).flatMap(processTree)
        const figures: Figures = new Map()
        for (const load of LOADS) {
          const generator = await startGenerator(topology, sockets, contender.connects, load)
          await counted(generator, WARM_UP_SECONDS)
          const before = cpuSeconds(pids)
          const { received, elapsed } = await counted(generator, seconds)
          const used = cpuSeconds(pids) - before
          if (received === 0) throw new Error(`no frame arrived: ${generator.output().slice(-500)}`)
          figures.set(load.name, received / elapsed / 1e6)
          if (load === LOADS[0]) {
            figures.set('frames.cpu', (used / elapsed) * 100)
            figures.set('idle.cpu', await idle(pids, seconds))
          }
          await generator.ask('quit', 'Bye', 10)
          await generator.ended
        }
        return figures
      } finally {
        await topology.close()
      }
    },
  }
}

/** testpmd with a network card at each socket, connected, not sending yet. */
async function startGenerator(
  topology: Topology,
  sockets: readonly string[],
  isServer: boolean,
  { sizeBytes, flows }: Load,
): Promise<Child> {
  const { file, args, env } = testpmd({
    devices: sockets.map((socket, i) => virtioUser(i, { socket, mac: mac(i), isServer })),
    core: LOAD_CORE,
    folder: topology.folder(),
    options: [
      '--forward-mode=flowgen',
      `--flowgen-flows=${flows}`,
      `--txpkts=${sizeBytes}`,
      ...sockets.map((_, i) => `--eth-peer=${i},${mac(1 - i)}`),
    ],
  })
  const child = topology.start(null, [file, ...args], { env })
  await child.ready('testpmd>', 30)
  return child
}

/** What arrived while the generator ran for so many seconds. */
async function counted(generator: Child, seconds: number): Promise<{ received: number; elapsed: number }> {
  const start = performance.now()
  const running = generator.ask('start', 'packet forwarding', 10)
  await sleep(seconds * 1000)
  await running
  const elapsed = (performance.now() - start) / 1000
  const said = await generator.ask('stop', 'Done.', 10)
  return { received: forwardedOf(said).received, elapsed }
}

async function idle(pids: number[], seconds: number): Promise<number> {
  await sleep(SETTLE_SECONDS * 1000)
  const [before, start] = [cpuSeconds(pids), performance.now()]
  await sleep(seconds * 1000)
  return ((cpuSeconds(pids) - before) / ((performance.now() - start) / 1000)) * 100
}
