/**
 * The part of the bench with real guests (`--vhost`): TCP and round-trip times between two QEMU guests, by vhost-user
 * and by TAP.
 *
 * The guests are the tests' own (test/rig/guest.ts): QEMU without KVM, a Linux kernel, busybox, iperf3, one network
 * card each. Emulated they are slow, and two of them and the switch share two cores: so what the switch takes of the
 * processor counts as much as what it does, and a poller costs the guests a core. Pollers are on core 1, all else,
 * Weft too, is where the kernel puts it.
 *
 *   tcp    iperf3 from the first guest to the second, what arrived; congestion control as the guest has it (cubic)
 *   rtt    echo requests, one at a time, after a few to warm up: median and 99th percentile
 *   cpu    processor time of the switch's processes a gigabit of that TCP
 *
 * By TAP: QEMU holds its TAP and the switch has the device, with the offloads of the guest: Weft by a port of kind
 * `netdev`, the kernel's bridge with the device in it. The bridge works in the guests' time and has no processes.
 */
import { Guest } from '../test/rig/guest.js'
import { Lab, Namespace } from '../test/rig/namespaces.js'
import { find } from '../test/rig/unpacked.js'
import { type VhostContender, ovsDpdk, testpmdForwarder, weftVhost } from './contenders/vhost.js'
import { startWeft, weftMissing } from './contenders/weft.js'
import { address, cpuSeconds, figure, mac } from './measure.js'
import type { Candidate, Figures, Part } from './parts.js'
import { type Topology, openTopology, processTree } from './topology.js'

const GUESTS = [0, 1] as const
/** As much as the rig's guests have; all of it is shared. */
const MEMORY = '128M'
const WARM_UP_PINGS = 10
const PINGS = 200
const PING_SECONDS = 0.02

/** What guests are attached to. */
interface Attachment {
  readonly name: string
  readonly description: string
  missing(): string | null
  /** Makes it ready for the guests: processes of the switch, arguments of QEMU for each guest. */
  start(topology: Topology, netns: string): Promise<{ pids: number[]; guests: string[][] }>
}

export function vhostGuestsPart(): Part {
  const attachments = [weftVhost([]), ovsDpdk, testpmdForwarder(true)].map(byVhost)
  return {
    name: 'vhost-guests',
    title: 'two QEMU guests without KVM: TCP and echo from one to the other',
    tests: [
      { name: 'tcp', label: 'TCP', unit: 'Gbit/s', digits: 2 },
      { name: 'tcp.retransmits', label: 'retransmits', unit: 'segments', digits: 0, plain: true },
      { name: 'tcp.cpu', label: 'CPU', unit: 'ms/Gbit', digits: 0, plain: true },
      { name: 'rtt', label: 'round trip, median', unit: 'ms', digits: 2, plain: true },
      { name: 'rtt.99', label: '99th percentile', unit: 'ms', digits: 2, plain: true },
    ],
    bases: ['ovs-dpdk', 'testpmd-tso', 'bridge-tap'],
    candidates: [...attachments, weftTap, bridgeTap].map(candidate),
  }
}

const byVhost = ({ start, connects, ...contender }: VhostContender): Attachment => ({
  ...contender,
  start: async (topology, netns) => {
    const folder = topology.folder()
    const sockets = GUESTS.map((i) => `${folder}/${i}`)
    const pids = await start(topology, netns, sockets)
    return { pids, guests: sockets.map((socket) => vhostArguments(socket, connects)) }
  },
})

const vhostArguments = (socket: string, isServer: boolean): string[] => [
  '-object',
  `memory-backend-memfd,id=mem0,size=${MEMORY},share=on`,
  '-machine',
  'memory-backend=mem0',
  '-chardev',
  `socket,id=vu0,path=${socket},${isServer ? 'server=on' : 'reconnect=1'}`,
  '-netdev',
  'vhost-user,id=n0,chardev=vu0',
]

const weftTap: Attachment = {
  name: 'weft-tap',
  description: "Weft: ports of kind netdev on the guests' TAPs",
  missing: weftMissing,
  start: async (topology, netns) => {
    const devices = await makeTaps(topology, netns)
    const { pid, command } = await startWeft(topology, netns)
    await command('network', 'create', 'bench', '--mode', 'isolated')
    for (const dev of devices) await command('port', 'add', 'bench', dev, '--kind', 'netdev', '--dev', dev)
    return { pids: [pid], guests: devices.map(tapArguments) }
  },
}

const bridgeTap: Attachment = {
  name: 'bridge-tap',
  description: "the kernel's bridge with the guests' TAPs in it",
  missing: () => null,
  start: async (topology, netns) => {
    const ip = (...args: string[]): Promise<string> => topology.run(null, ['ip', '-n', netns, ...args])
    await ip('link', 'add', 'bridge', 'type', 'bridge')
    await ip('link', 'set', 'bridge', 'up')
    const devices = await makeTaps(topology, netns)
    for (const dev of devices) await ip('link', 'set', dev, 'master', 'bridge')
    return { pids: [], guests: devices.map(tapArguments) }
  },
}

async function makeTaps(topology: Topology, netns: string): Promise<string[]> {
  const devices = GUESTS.map((i) => `guest${i}`)
  for (const dev of devices) {
    await topology.run(null, ['ip', '-n', netns, 'tuntap', 'add', dev, 'mode', 'tap', 'vnet_hdr'])
    await topology.run(null, ['ip', '-n', netns, 'link', 'set', dev, 'up'])
  }
  return devices
}

const tapArguments = (dev: string): string[] => ['-netdev', `tap,id=n0,ifname=${dev},script=no,downscript=no,vhost=off`]

function candidate({ name, description, missing, start }: Attachment): Candidate {
  return {
    name,
    description,
    missing: () => missing() ?? guestsMissing(),
    measure: async ({ seconds }) => {
      const topology = openTopology()
      const lab = await Lab.open()
      const running: Guest[] = []
      try {
        const netns = await topology.namespace('sw')
        const { pids: roots, guests } = await start(topology, netns)
        const pids = roots.flatMap(processTree)
        const namespace = new Namespace(netns)
        // vectors=0: QEMU 7.2 without KVM fails with MSI-X and vhost-user
        const boots = guests.map(async (args, i) => {
          const card = ['-device', `virtio-net-pci,netdev=n0,mac=${mac(i)},vectors=0,romfile=`]
          const guest = await Guest.boot(lab, { name: `g${i}`, namespace, arguments: [...args, ...card] })
          running.push(guest)
          await guest.configure(`${address(i)}/24`)
          return guest
        })
        const booted = await Promise.allSettled(boots)
        for (const one of booted) if (one.status === 'rejected') throw one.reason
        const [from, to] = await Promise.all(boots)
        if (from === undefined || to === undefined) throw new Error('two guests are needed')
        return await measure(from, to, pids, seconds)
      } finally {
        for (const guest of running) await guest.kill()
        await topology.close()
        await lab.close()
      }
    },
  }
}

function guestsMissing(): string | null {
  const lacking = ['qemu-system-x86_64', 'busybox', 'cpio', 'xz', 'zstd', 'apt-get'].filter((name) => !find(name))
  return lacking.length === 0 ? null : `${lacking.join(', ')} not installed (npm test installs what guests need)`
}

async function measure(from: Guest, to: Guest, pids: number[], seconds: number): Promise<Figures> {
  await from.run(`ping -c ${WARM_UP_PINGS} -i 0.2 -W 5 ${address(1)}`)
  const times = timesOf(await from.run(`ping -c ${PINGS} -i ${PING_SECONDS} -W 5 ${address(1)}`, 120))
  await to.run('iperf3 -s -D >/dev/null 2>&1')
  await from.run(`iperf3 -c ${address(1)} -t 1`, 30)
  const before = cpuSeconds(pids)
  const json = await from.run(`iperf3 -c ${address(1)} -t ${seconds} -J`, seconds + 60)
  const used = cpuSeconds(pids) - before
  const result: unknown = JSON.parse(json)
  const figures: Figures = new Map([
    ['tcp', figure(result, 'end', 'sum_received', 'bits_per_second') / 1e9],
    ['tcp.retransmits', figure(result, 'end', 'sum_sent', 'retransmits')],
    ['rtt', quantile(times, 0.5)],
    ['rtt.99', quantile(times, 0.99)],
  ])
  const gigabits = (figure(result, 'end', 'sum_received', 'bytes') * 8) / 1e9
  if (pids.length > 0) figures.set('tcp.cpu', (used * 1000) / gigabits)
  return figures
}

/** Milliseconds of the answers that busybox's ping tells of. */
function timesOf(text: string): number[] {
  const times = [...text.matchAll(/time=([\d.]+) ms/g)].map((match) => Number(match[1]))
  if (times.length < PINGS / 2) throw new Error(`${times.length} of ${PINGS} echo requests were answered`)
  return times
}

function quantile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN
}
