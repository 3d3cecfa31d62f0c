/**
 * The parts of the bench with guests' memory at both ends (`--vhost`): frames a second between two vhost-user ports,
 * switched (`vhost`) and through NAT and firewall (`vhost-nat`). Guests themselves are in vhost-guests.ts.
 *
 * The guests are two virtio-user ports of DPDK in one process on core 0: it fills both transmit queues as fast as it
 * can and takes what arrives at both; the switch has core 1 (contenders/vhost.ts). What counts is what arrived, both
 * directions together; the load runs a second to warm up first. There are two loads:
 *
 *   flowgen      testpmd's own (test/rig/dpdk.ts): datagrams to as many addresses as there are flows. It writes MAC
 *                addresses of its own, the same at both ports, whatever `--eth-peer` says (DPDK 22.11): to a switch the
 *                sender moves from port to port all the time and the receiver is not known, so it floods; and its
 *                frames are 4 bytes shorter than told (it counts the FCS)
 *   vhost-load   bench/vhost-load.c: each port's frames from its own MAC to the other's, which is what guests do; and
 *                for NAT the second port answers each frame, since it must answer to the translated address. There are
 *                64 flows; that each frame is of another one than the last is the worst for a router, which judges runs
 *
 * CPU is the switch's, in percent of one core, under the first load; idle is the same with the ports attached and
 * nothing sent. A poller has 100 always.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { compilerArguments, dpdkCommand, forwardedOf, testpmd, virtioUser } from '../test/rig/dpdk.js'
import { program } from './compile.js'
import {
  type Ends,
  type RoutedVhost,
  type VhostContender,
  natVhost,
  ovsDpdk,
  routedVhost,
  switchedVhost,
  testpmdForwarder,
  weftVhost,
} from './contenders/vhost.js'
import { cpuSeconds, mac } from './measure.js'
import type { Candidate, Figures, Part } from './parts.js'
import { type Child, type Topology, openTopology, processTree } from './topology.js'

const LOAD_CORE = 0
const WARM_UP_SECONDS = 1
const SETTLE_SECONDS = 1
/** For an answer of the load, which a busy machine keeps waiting. */
const PATIENCE_SECONDS = 60
/** Frames that rings and queues of both ports can hold. */
const ON_THE_WAY = 65_536
const FEW = 64
const MANY = 10_000

/** What vhost-load sends, to be answered: a flow's frames come so many at a time. */
interface Answered {
  readonly name: string
  readonly label: string
  readonly sizeBytes: number
  readonly run: number
}

const ANSWERED: Answered[] = [
  { name: 'answered', label: '64 bytes, each of another flow', sizeBytes: 64, run: 1 },
  { name: 'answered.runs', label: '64 bytes, runs of 8', sizeBytes: 64, run: 8 },
  { name: 'answered.1518', label: '1518 bytes, runs of 8', sizeBytes: 1518, run: 8 },
]

/** Guests of one network. */
const KNOWN: Ends = { to: [mac(1), mac(0)], ip: ['10.78.0.2', '10.78.0.3'] }

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
      { name: 'frames.known', label: '64 bytes, known MACs', unit: 'million/s', digits: 2 },
      { name: 'frames.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
      { name: 'idle.cpu', label: 'CPU idle', unit: '%', digits: 1, plain: true },
    ],
    bases: ['ovs-dpdk', 'testpmd-io'],
    candidates: [weftVhost(), ovsDpdk, testpmdForwarder(false)].map(candidate),
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
          figures.set(load.name, received / elapsed / 1e6)
          if (load === LOADS[0]) {
            figures.set('frames.cpu', (used / elapsed) * 100)
            figures.set('idle.cpu', await idle(pids, seconds))
          }
          await generator.ask('quit', 'Bye', PATIENCE_SECONDS)
          await generator.ended
        }
        const known = await startLoad(topology, sockets, contender.connects, KNOWN, {
          sizeBytes: 64,
          run: 1,
          isEcho: false,
        })
        figures.set('frames.known', await loaded(known, seconds))
        return figures
      } finally {
        await topology.close()
      }
    },
  }
}

export function vhostNatPart(): Part {
  return {
    name: 'vhost-nat',
    title: 'vhost-user, routed: two guests through NAT and firewall, each frame answered (vhost-load on core 0)',
    tests: [
      ...ANSWERED.map(({ name, label }) => ({ name, label, unit: 'million/s', digits: 2 })),
      { name: 'answered.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
    ],
    bases: [switchedVhost.name],
    candidates: [natVhost, routedVhost, switchedVhost].map(routedCandidate),
  }
}

function routedCandidate({ name, description, missing, start }: RoutedVhost): Candidate {
  return {
    name,
    description,
    missing: () => missing() ?? testpmdForwarder(false).missing(),
    measure: async ({ seconds }) => {
      const topology = openTopology()
      try {
        const netns = await topology.namespace('sw')
        const folder = topology.folder()
        const sockets = [`${folder}/0`, `${folder}/1`]
        const { pids: roots, ends } = await start(topology, netns, sockets)
        const pids = roots.flatMap(processTree)
        const figures: Figures = new Map()
        for (const answered of ANSWERED) {
          const load = await startLoad(topology, sockets, false, ends, answered)
          const before = cpuSeconds(pids)
          const begun = performance.now()
          figures.set(answered.name, await loaded(load, seconds))
          const elapsed = (performance.now() - begun) / 1000
          if (answered === ANSWERED[0]) figures.set('answered.cpu', ((cpuSeconds(pids) - before) / elapsed) * 100)
          load.stop()
          await load.ended
        }
        return figures
      } finally {
        await topology.close()
      }
    },
  }
}

/** Two network cards of bench/vhost-load.c, connected, not sending yet. */
async function startLoad(
  topology: Topology,
  sockets: readonly string[],
  isServer: boolean,
  { to, ip }: Ends,
  { sizeBytes, run, isEcho }: Pick<Answered, 'sizeBytes' | 'run'> & { isEcho?: boolean },
): Promise<Child> {
  const { file, args, env } = dpdkCommand(await program('vhost-load', compilerArguments()), {
    devices: sockets.map((socket, i) => virtioUser(i, { socket, mac: mac(i), isServer })),
    core: LOAD_CORE,
    folder: topology.folder(),
    options: [
      ...Object.entries({ to, ip, size: sizeBytes, flows: FEW, run }).flatMap(([name, value]) => [
        `--${name}`,
        String(value),
      ]),
      ...(isEcho === false ? [] : ['--echo']),
    ],
  })
  const child = topology.start(null, [file, ...args], { env })
  await child.ready('vhost-load: ready', PATIENCE_SECONDS)
  return child
}

/** Million frames a second that arrived, after a second to warm up, in which each is looked at. */
async function loaded(load: Child, seconds: number): Promise<number> {
  const first = await load.ask(`verify ${WARM_UP_SECONDS}`, 'seconds', WARM_UP_SECONDS + PATIENCE_SECONDS)
  if (!/received [1-9]\d* sent \d+ wrong 0 /.test(first)) throw new Error(`frames were lost or spoilt: ${first.trim()}`)
  const said = await load.ask(String(seconds), 'seconds', seconds + PATIENCE_SECONDS)
  const match = /received (\d+) sent (\d+) wrong \d+ seconds ([\d.]+)/.exec(said)
  if (match === null) throw new Error(`vhost-load said: ${said}`)
  const [received, sent, elapsed] = match.slice(1).map(Number)
  verify(received ?? 0, sent ?? 0)
  return (received ?? 0) / (elapsed ?? 0) / 1e6
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
  await child.ready('testpmd>', PATIENCE_SECONDS)
  return child
}

/** What arrived while the generator ran for so many seconds. */
async function counted(generator: Child, seconds: number): Promise<{ received: number; elapsed: number }> {
  const start = performance.now()
  const running = generator.ask('start', 'packet forwarding', PATIENCE_SECONDS)
  await sleep(seconds * 1000)
  await running
  const elapsed = (performance.now() - start) / 1000
  const said = await generator.ask('stop', 'Done.', PATIENCE_SECONDS)
  const { received, sent } = forwardedOf(said)
  verify(received, sent)
  return { received, elapsed }
}

/** What arrives has been sent, but for what was on its way before: else a switch, or the bench, counts wrongly. */
function verify(received: number, sent: number): void {
  if (received === 0) throw new Error(`none of ${sent} frames arrived`)
  if (received > sent + ON_THE_WAY) throw new Error(`${received} frames arrived, ${sent} were sent`)
}

async function idle(pids: number[], seconds: number): Promise<number> {
  await sleep(SETTLE_SECONDS * 1000)
  const [before, start] = [cpuSeconds(pids), performance.now()]
  await sleep(seconds * 1000)
  return ((cpuSeconds(pids) - before) / ((performance.now() - start) / 1000)) * 100
}
