/**
 * Switches with vhost-user ports: the network cards of guests, whose memory they share.
 *
 * All run on one processor, the bench's second (CORE), pollers and the rest alike, unless told otherwise. What is
 * named here of them is as their own documents have it: Open vSwitch connects to sockets that the guests' end makes
 * (`dpdkvhostuserclient`, the kind it recommends), the others make the sockets. None uses huge pages.
 */
import { writeFileSync } from 'node:fs'
import { stableMac } from '../../src/control/mac.js'
import { driverArguments, hasTestpmd, runtimeFolder, testpmd, vhostPort } from '../../test/rig/dpdk.js'
import { type Found, find } from '../../test/rig/unpacked.js'
import { mac } from '../measure.js'
import type { Topology } from '../topology.js'
import { addPort, openVswitchMissing, startOpenVswitch } from './open-vswitch.js'
import { INSIDE_SUBNET, OUTSIDE_ROUTER } from './router.js'
import { type Daemon, startWeft, weftMissing } from './weft.js'

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

/** Weft, switching. @param prefix what it is started by; nothing: it runs where the kernel puts it */
export const weftVhost = (prefix: string[] = PIN): VhostContender => ({
  name: 'weft-vhost',
  description: 'Weft: one shard, vhost-user ports',
  connects: false,
  missing: weftMissing,
  start: async (topology, netns, sockets) => {
    const { pid, command } = await startWeft(topology, netns, { prefix })
    await command('network', 'create', NETWORK, '--mode', 'isolated')
    for (const [i, socket] of sockets.entries()) {
      await command('port', 'add', NETWORK, `p${i}`, '--kind', 'vhost-user', '--path', socket)
    }
    return [pid]
  },
})

/** Where the frames of each port go: to which MAC, from and to which address. */
export interface Ends {
  readonly to: readonly [string, string]
  readonly ip: readonly [string, string]
}

export interface RoutedVhost {
  readonly name: string
  readonly description: string
  missing(): string | null
  start(topology: Topology, netns: string, sockets: readonly string[]): Promise<{ pids: number[]; ends: Ends }>
}

/** The two hosts inside, and one of another network. */
const HOSTS = ['10.78.0.2', '10.78.0.3'] as const
const FAR_SUBNET = '10.79.0.0/24'
const FAR_HOST = '10.79.0.2'
/** To which the datagrams of bench/vhost-load.c go. */
const PORT = 7000
/** Beside the default policies, as with TAPs (weft-nat.ts). */
const RULES = ['drop out tcp dport 25', 'drop out to 192.0.2.0/24', 'accept in icmp']

/** Both ports in one network, each sends to the other. */
export const switchedVhost: RoutedVhost = {
  ...weftVhost(),
  start: async (topology, netns, sockets) => ({
    pids: await weftVhost().start(topology, netns, sockets),
    ends: { to: [mac(1), mac(0)], ip: HOSTS },
  }),
}

/**
 * Both ports in one network of mode nat; the first sends to the router's outside address, which a forward leads to the
 * second (hairpin). So the frames of both directions go through the router with both addresses translated.
 */
export const natVhost: RoutedVhost = {
  name: 'weft-vhost-nat',
  description: 'Weft: NAT and firewall between two vhost-user ports, by a forward',
  missing: weftMissing,
  start: async (topology, netns, sockets) => {
    const daemon = await startWeft(topology, netns, { prefix: PIN })
    const network = {
      name: NETWORK,
      mode: 'nat',
      subnets: [INSIDE_SUBNET],
      uplink: `host,address=${OUTSIDE_ROUTER}/24`,
      rules: RULES,
      forwards: [{ protocol: 'udp', firstPort: PORT, lastPort: PORT, to: HOSTS[1], toPort: PORT }],
      ports: sockets.map((path, i) => guestPort(path, i, HOSTS[i] ?? '')),
    }
    const gateway = await create(daemon, network)
    return { pids: [daemon.pid], ends: { to: [gateway, gateway], ip: [HOSTS[0], OUTSIDE_ROUTER] } }
  },
}

/** A port in each of two networks of mode route, with a route from each to the other; firewalls of both. */
export const routedVhost: RoutedVhost = {
  name: 'weft-vhost-route',
  description: 'Weft: routing and firewall between vhost-user ports of two networks',
  missing: weftMissing,
  start: async (topology, netns, sockets) => {
    const daemon = await startWeft(topology, netns, { prefix: PIN })
    const ip = [HOSTS[0], FAR_HOST] as const
    const networks = [INSIDE_SUBNET, FAR_SUBNET].map((subnet, i) => ({
      name: `${NETWORK}${i}`,
      mode: 'route',
      subnets: [subnet],
      uplink: 'none',
      rules: [...RULES, 'accept in'],
      ports: sockets.slice(i, i + 1).map((path) => guestPort(path, i, ip[i] ?? '')),
    }))
    const gateways: string[] = []
    for (const network of networks) gateways.push(await create(daemon, network))
    await daemon.command('route', 'add', `${NETWORK}0`, FAR_SUBNET, `${NETWORK}1`)
    await daemon.command('route', 'add', `${NETWORK}1`, INSIDE_SUBNET, `${NETWORK}0`)
    const [near = '', far = ''] = gateways
    return { pids: [daemon.pid], ends: { to: [near, far], ip } }
  },
}

function guestPort(path: string, index: number, address: string): object {
  return { name: `p${index}`, kind: 'vhost-user', path, mac: mac(index), addresses: [address] }
}

/** Creates a network from its definition; the MAC of its gateway. */
async function create({ folder, command }: Daemon, network: { name: string }): Promise<string> {
  const file = `${folder}/${network.name}.json`
  writeFileSync(file, JSON.stringify(network))
  await command('network', 'create', file)
  const shown = JSON.parse(await command('network', 'show', network.name, '--json')) as { uuid: string }
  return stableMac(shown.uuid, 'gateway')
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
    const running = await startOpenVswitch(topology, netns, {
      program: { ...program, env: { ...program.env, ...runtimeFolder(topology.folder()) } },
      prefix: PIN,
      settings: dpdkSettings(program),
    })
    for (const [i, socket] of sockets.entries()) {
      await addPort(running, `p${i}`, 'type=dpdkvhostuserclient', `options:vhost-server-path=${socket}`)
    }
    return [running.pid]
  },
}

function dpdkSettings(program: Found): string[] {
  const mask = `0x${(1 << CORE).toString(16)}`
  // with 1024 the buffers of the second port are not always to be had
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
