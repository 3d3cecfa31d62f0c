/**
 * The yardstick: a bare C loop that copies frames between two TAPs (bench/copy-loop.c says exactly what it does). It
 * takes two hosts and no more.
 */
import { program } from '../compile.js'
import type { Contender } from './contender.js'

export const copyLoop: Contender = {
  name: 'copy-loop',
  description: 'a bare C loop: poll, read, write between two TAPs with the same offloads',
  missing: () => null,
  start: async (topology, netns, hosts) => {
    if (hosts.length !== 2) throw new Error(`copy-loop: joins 2 hosts, not ${hosts.length}`)
    const path = await program('copy-loop')
    const loop = topology.start(netns, [path, ...hosts.flatMap((host) => [host.netns, host.dev])])
    await loop.ready('copy-loop: ready', 5)
    return [loop.pid]
  },
}
