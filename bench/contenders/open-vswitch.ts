/**
 * Open vSwitch with its datapath in user space (`datapath_type=netdev`), without DPDK: what one gets from the Debian
 * package where the kernel module cannot be used. Each host is on a veth pair; Open vSwitch opens the other end with
 * AF_PACKET. Its raw sockets pass no checksum state, so the hosts' transmit checksum offload is turned off (without
 * that TCP fails), which also turns segmentation offload off.
 *
 * It runs privately: its own database, log and sockets in a temporary folder, its own network namespace, and
 * no service of the system is touched.
 */
import { type Found, find } from '../../test/rig/unpacked.js'
import type { Topology } from '../topology.js'
import type { Contender } from './contender.js'

const BRIDGE = 'bridge'
const TOOLS = ['ovsdb-tool', 'ovsdb-server', 'ovs-vsctl'] as const
const PROGRAMS = [...TOOLS, 'ovs-vswitchd', 'ethtool'] as const

/** Names the programs that are not there, or null. */
export function openVswitchMissing(programs: readonly string[], packages: string): string | null {
  const lacking = programs.filter((name) => find(name) === null)
  if (lacking.length === 0 && find('vswitch.ovsschema') !== null) return null
  return `${lacking.join(', ')} not installed (Debian packages ${packages})`
}

/** Open vSwitch with one bridge in user space. */
export interface OpenVswitch {
  readonly pid: number
  /** `ovs-vsctl` */
  ctl(...args: string[]): Promise<string>
}

export interface OpenVswitchOptions {
  readonly program: Found
  /** what the program is started by: `taskset` and its arguments */
  readonly prefix?: readonly string[]
  /** of the database, set before the switch starts: `other_config:dpdk-init=true` */
  readonly settings?: readonly string[]
}

/** Starts it with a database, log and sockets of its own. */
export async function startOpenVswitch(
  topology: Topology,
  netns: string,
  { program, prefix = [], settings = [] }: OpenVswitchOptions,
): Promise<OpenVswitch> {
  const folder = topology.folder()
  const schema = find('vswitch.ovsschema')
  const [tool, server, vsctl] = TOOLS.map((name) => find(name))
  if (!tool || !server || !vsctl || !schema) throw new Error('open-vswitch: not installed')
  const env = {
    ...program.env,
    OVS_RUNDIR: folder,
    OVS_LOGDIR: folder,
    OVS_DBDIR: folder,
    OVS_SYSCONFDIR: folder,
    OVS_PKGDATADIR: schema.path.replace(/\/[^/]*$/, ''),
  }
  const database = `unix:${folder}/db.sock`
  const quiet = ['-vconsole:emer', '-vsyslog:off', '-vfile:off']
  await topology.run(netns, [tool.path, 'create', `${folder}/conf.db`, schema.path], { env })
  const store = topology.start(netns, [server.path, `${folder}/conf.db`, `--remote=p${database}`, ...quiet], { env })
  await store.appears(`${folder}/db.sock`, 5)
  const ctl = (...args: string[]): Promise<string> =>
    topology.run(netns, [vsctl.path, `--db=${database}`, '--timeout=20', ...args], { env })
  await ctl('--no-wait', 'init')
  if (settings.length > 0) await ctl('--no-wait', 'set', 'Open_vSwitch', '.', ...settings)
  const daemon = topology.start(netns, [...prefix, program.path, database, '--no-chdir', ...quiet], { env })
  await ctl('add-br', BRIDGE, '--', 'set', 'bridge', BRIDGE, 'datapath_type=netdev')
  return { pid: daemon.pid, ctl: (...args) => ctl(...args) }
}

/** Adds a port; `settings` are its interface's. */
export async function addPort({ ctl }: OpenVswitch, name: string, ...settings: string[]): Promise<void> {
  const more = settings.length === 0 ? [] : ['--', 'set', 'interface', name, ...settings]
  await ctl('add-port', BRIDGE, name, ...more)
}

export const openVswitch: Contender = {
  name: 'open-vswitch',
  description: 'Open vSwitch in user space (Debian openvswitch-switch), AF_PACKET on veth pairs',
  missing: () => openVswitchMissing(PROGRAMS, 'openvswitch-switch, ethtool'),
  start: async (topology, netns, hosts) => {
    const [program, ethtool] = [find('ovs-vswitchd'), find('ethtool')]
    if (!program || !ethtool) throw new Error('open-vswitch: not installed')
    const running = await startOpenVswitch(topology, netns, { program })
    for (const [i, host] of hosts.entries()) {
      const dev = `p${i}`
      const pair = ['type', 'veth', 'peer', 'name', host.dev, 'netns', host.netns]
      await topology.run(null, ['ip', '-n', netns, 'link', 'add', dev, ...pair])
      await topology.run(null, ['ip', '-n', netns, 'link', 'set', dev, 'up'])
      await topology.run(host.netns, [ethtool.path, '-K', host.dev, 'tx', 'off'])
      await addPort(running, dev)
    }
    return [running.pid]
  },
}
