/**
 * vde_switch of VDE 2, with a TAP port for each host (`-t`): one process reads and writes all of them, which is its
 * fastest way of attaching hosts (a plug process for each adds two more copies through a socket). It knows no
 * virtio_net header, so every frame is at most the MTU and its checksum is made by the sending host. It makes its TAPs
 * in its own namespace; they are then moved to the hosts.
 */
import { find } from '../../test/rig/unpacked.js'
import type { Contender } from './contender.js'

export const vdeSwitch: Contender = {
  name: 'vde_switch',
  description: 'vde_switch (Debian vde-switch), one TAP a host',
  missing: () => (find('vde_switch') === null ? 'vde_switch is not installed (Debian package vde-switch)' : null),
  start: async (topology, netns, hosts) => {
    const found = find('vde_switch')
    if (found === null) throw new Error('vde_switch: not installed')
    const folder = topology.folder()
    const taps = hosts.flatMap((host) => ['-t', host.dev])
    const command = [found.path, '-s', `${folder}/ctl`, '-n', String(hosts.length + 8), ...taps]
    const process = topology.start(netns, command, { env: found.env })
    // It says nothing when it is ready; the last thing it makes is its socket, after the TAPs.
    await process.appears(`${folder}/ctl/ctl`, 5)
    for (const host of hosts) {
      await topology.run(null, ['ip', '-n', netns, 'link', 'set', host.dev, 'netns', host.netns])
    }
    return [process.pid]
  },
}
