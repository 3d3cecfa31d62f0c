/**
 * Switches with vhost-user ports: the network cards of guests, whose memory they share.
 *
 * All run on one processor, the bench's second (CORE), pollers and the rest alike. What is named here of them is as
 * their own documents have it: Open vSwitch connects to sockets that the guests' end makes (`dpdkvhostuserclient`, the
 * kind it recommends), the others make the sockets. None uses huge pages.
 */
import { type Found, find } from '../../test/rig/unpacked.js'
import { driverArguments, hasTestpmd, testpmd, vhostPort } from '../../test/rig/dpdk.js'
import type { Topology } from '../topology.js'
import { addPort, openVswitchMissing, startOpenVswitch } from './open-vswitch.js'
import { startWeft, weftMissing } from './weft.js'

/** The switch's processor; the load has the other one. */
export const CORE = 1
const PIN = ['taskset', '-c', String(CORE)]
const NETWORK = 'bench'

export interface VhostContender {
  readonly name: string
  readonly description: string
  /** the guests' end makes the sockets, and the switch connects */
  readonly connects: boolean
  missing(): string | null
  /** Starts it with a port at each socket; resolves when the sockets are there, or are tried. The processes it is. */
  start(topology: Topology, netns: string, sockets: readonly string[]): Promise<number[]>
}

/** Weft, switching. */
export const weftVhost: VhostContender = {
  name: 'weft-vhost',
  description: 'Weft: one shard, vhost-user ports',
  connects: false,
  missing: weftMissing,
  start: async (topology, netns, sockets) => {
    const { pid, command } = await startWeft(topology, netns, PIN)
    await command('network', 'create', NETWORK, '--mode', 'isolated')
    for (const [i, socket] of sockets.entries()) {
      await command('port', 'add', NETWORK, `p${i}`, '--kind', 'vhost-user', '--path', socket)
    }
    return [pid]
  },
}

export const ovsDpdk: VhostContender = {
  name: 'ovs-dpdk',
  description: 'Open vSwitch with DPDK (Debian openvswitch-switch-dpdk), one poller',
  connects: true,
  missing: () =>
    openVswitchMissing(
      ['ovsdb-tool', 'ovsdb-server', 'ovs-vsctl', 'ovs-vswitchd-dpdk', 'dpdk-testpmd'],
      'openvswitch-switch-dpdk, dpdk-dev',
    ),
  start: async (topology, netns, sockets) => {
    const program = find('ovs-vswitchd-dpdk')
    if (program === null) throw new Error('ovs-dpdk: not installed')
    const running = await startOpenVswitch(topology, netns, { program, prefix: PIN, settings: dpdkSettings(program) })
    for (const [i, socket] of sockets.entries()) {
      await addPort(running, `p${i}`, 'type=dpdkvhostuserclient', `options:vhost-server-path=${socket}`)
    }
    return [running.pid]
  },
}

function dpdkSettings(program: Found): string[] {
  const mask = `0x${(1 << CORE).toString(16)}`
  const memory = '--no-huge --legacy-mem -m 2048 --no-pci --no-telemetry'
  const drivers = program.isUnpacked ? driverArguments(['librte_mempool_ring.so']).join(' ') : ''
  return [
    'other_config:dpdk-init=true',
    `other_config:dpdk-extra="${`${memory} ${drivers}`.trim()}"`,
    `other_config:dpdk-lcore-mask=${mask}`,
    `other_config:pmd-cpu-mask=${mask}`,
  ]
}

/** DPDK's bare forwarder: what comes in by one port goes out by the other. @param tso guests may send large frames */
export const testpmdForwarder = (tso: boolean): VhostContender => ({
  name: tso ? 'testpmd-tso' : 'testpmd-io',
  description: `DPDK's testpmd, net_vhost, io mode${tso ? ', tso=1' : ''}: no look-up at all`,
  connects: false,
  missing: () => (hasTestpmd() ? null : 'dpdk-testpmd is not installed (Debian package dpdk-dev)'),
  start: async (topology, netns, sockets) => {
    const devices = sockets.map((socket, i) => vhostPort(i, socket, tso ? ['tso=1'] : []))
    const options = ['--forward-mode=io', '--auto-start', '--no-flush-rx']
    const { file, args, env } = testpmd({ devices, core: CORE, folder: topology.folder(), options })
    const child = topology.start(netns, [file, ...args], { env })
    for (const socket of sockets) await child.appears(socket, 20)
    await child.ready('testpmd>', 20)
    return [child.pid]
  },
})
