/**
 * Open vSwitch with its datapath in user space (`datapath_type=netdev`), without DPDK: what one gets from the Debian
 * package where the kernel module cannot be used. Each host is on a veth pair; Open vSwitch opens the other end with
 * AF_PACKET. Its raw sockets pass no checksum state, so the hosts' transmit checksum offload is turned off (without
 * that TCP fails), which also turns segmentation offload off.
 *
 * It runs privately: its own database, log and sockets in a temporary folder, its own network namespace, and
 * no service of the system is touched.
 */
import { find } from '../packages.js'
import type { Contender } from './contender.js'

const BRIDGE = 'bridge'
const PROGRAMS = ['ovsdb-tool', 'ovsdb-server', 'ovs-vswitchd', 'ovs-vsctl', 'ethtool'] as const

export const openVswitch: Contender = {
  name: 'open-vswitch',
  description: 'Open vSwitch in user space (Debian openvswitch-switch), AF_PACKET on veth pairs',
  missing: () => {
    const lacking = PROGRAMS.filter((name) => find(name) === null)
    if (lacking.length === 0 && find('vswitch.ovsschema') !== null) return null
    return `${lacking.join(', ')} not installed (Debian packages openvswitch-switch, ethtool)`
  },
  start: async (topology, netns, hosts) => {
    const folder = topology.folder()
    const schema = find('vswitch.ovsschema')
    const [tool, server, vswitchd, vsctl, ethtool] = PROGRAMS.map((name) => find(name))
    if (!tool || !server || !vswitchd || !vsctl || !ethtool || !schema) throw new Error('open-vswitch: not installed')
    const env = {
      ...vswitchd.env,
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
      topology.run(netns, [vsctl.path, `--db=${database}`, '--timeout=10', ...args], { env })
    await ctl('--no-wait', 'init')
    const daemon = topology.start(netns, [vswitchd.path, database, '--no-chdir', ...quiet], { env })
    await ctl('add-br', BRIDGE, '--', 'set', 'bridge', BRIDGE, 'datapath_type=netdev')
    for (const [i, host] of hosts.entries()) {
      const dev = `p${i}`
      const pair = ['type', 'veth', 'peer', 'name', host.dev, 'netns', host.netns]
      await topology.run(null, ['ip', '-n', netns, 'link', 'add', dev, ...pair])
      await topology.run(null, ['ip', '-n', netns, 'link', 'set', dev, 'up'])
      await topology.run(host.netns, [ethtool.path, '-K', host.dev, 'tx', 'off'])
      await ctl('add-port', BRIDGE, dev)
    }
    return [daemon.pid]
  },
}
