/**
 * Weft itself, as a user runs it: `weft up` on an empty state folder, an isolated network, one `tap` port a host, all
 * by the command line. It runs from this checkout's build and takes nothing from the machine's own Weft.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../compile.js'
import type { Topology } from '../topology.js'
import type { Contender } from './contender.js'

const cli = join(root, 'dist/src/control/cli/main.js')
const NETWORK = 'bench'

export const weftMissing = (): string | null =>
  existsSync(cli) ? null : 'dist/src/control/cli/main.js is missing (npm run build)'

/** A daemon in a namespace (null: the bench's own), and its command line. */
export interface Daemon {
  readonly pid: number
  readonly folder: string
  command(...args: string[]): Promise<string>
}

/**
 * Starts a daemon on an empty state folder; its network `default` is gone when this returns.
 * @param prefix what it is started by: `taskset` and its arguments
 * @param options further ones of `weft up`
 */
export async function startWeft(
  topology: Topology,
  netns: string | null,
  { prefix = [], options = [] }: { prefix?: readonly string[]; options?: readonly string[] } = {},
): Promise<Daemon> {
  const folder = topology.folder()
  const socket = `${folder}/weft.sock`
  const up = [...prefix, process.execPath, cli, 'up', '--socket', socket, '--state', `${folder}/state`, ...options]
  const daemon = topology.start(netns, up)
  await daemon.ready('weft: ready', 20)
  const command = (...args: string[]): Promise<string> =>
    topology.run(netns, [process.execPath, cli, ...args, '--socket', socket])
  await command('network', 'delete', 'default')
  return { pid: daemon.pid, folder, command }
}

export const weft: Contender = {
  name: 'weft',
  description: 'Weft: one shard, one tap port a host',
  missing: weftMissing,
  start: async (topology, netns, hosts) => {
    const { pid, command } = await startWeft(topology, netns)
    await command('network', 'create', NETWORK, '--mode', 'isolated')
    for (const [i, host] of hosts.entries()) {
      await command('port', 'add', NETWORK, `p${i}`, '--kind', 'tap', '--dev', host.dev, '--netns', host.netns)
    }
    return [pid]
  },
}
