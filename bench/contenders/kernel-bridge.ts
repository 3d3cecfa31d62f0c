/**
 * The kernel's own bridge: each host on a veth pair whose other end is a port of a bridge in the switch's namespace.
 * Offloads stay on, so segmentation-offload frames of 64 KiB cross whole and no byte is copied. Its work is done in the
 * sender's context, so it shows no process of its own and no CPU figure.
 */
import type { Contender } from './contender.js'

export const kernelBridge: Contender = {
  name: 'kernel-bridge',
  description: "the kernel's bridge over veth pairs, offloads on",
  missing: () => null,
  start: async (topology, netns, hosts) => {
    const ip = (...args: string[]): Promise<string> => topology.run(null, ['ip', '-n', netns, ...args])
    await ip('link', 'add', 'bridge', 'type', 'bridge', 'stp_state', '0')
    await ip('link', 'set', 'bridge', 'up')
    for (const [i, host] of hosts.entries()) {
      await ip('link', 'add', `p${i}`, 'type', 'veth', 'peer', 'name', host.dev, 'netns', host.netns)
      await ip('link', 'set', `p${i}`, 'master', 'bridge', 'up')
    }
    return []
  },
}
