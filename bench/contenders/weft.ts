/**
 * Weft itself, as a user runs it: `weft up` on an empty state folder, an isolated network, one `tap` port a host, all
 * by the command line. It runs from this checkout's build and takes nothing from the machine's own Weft.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../compile.js'
import type { Contender } from './contender.js'

const cli = join(root, 'dist/src/control/cli/main.js')
const NETWORK = 'bench'

export const weft: Contender = {
  name: 'weft',
  description: 'Weft: one shard, one tap port a host',
  missing: () => (existsSync(cli) ? null : 'dist/src/control/cli/main.js is missing (npm run build)'),
  start: async (topology, netns, hosts) => {
    const folder = topology.folder()
    const socket = `${folder}/weft.sock`
    const up = [process.execPath, cli, 'up', '--socket', socket, '--state', `${folder}/state`]
    const daemon = topology.start(netns, up)
    await daemon.ready('weft: ready', 20)
    const command = (...args: string[]): Promise<string> =>
      topology.run(netns, [process.execPath, cli, ...args, '--socket', socket])
    await command('network', 'create', NETWORK, '--mode', 'isolated')
    for (const [i, host] of hosts.entries()) {
      await command('port', 'add', NETWORK, `p${i}`, '--kind', 'tap', '--dev', host.dev, '--netns', host.netns)
    }
    return [daemon.pid]
  },
}
