/**
 * `npm run demo`: what Weft does, in under 60 seconds, cleaned up whatever happens.
 *
 * As root (demo-router.ts) guests are network namespaces on `tap` ports of a network of mode nat; they lease addresses,
 * ping each other by name, pass TCP to each other and to the outside, and are reached by a forward and not otherwise.
 * As a plain user (demo-sockets.ts) they are programs on `qemu` sockets.
 *
 * Everything it claims it has just seen: a step that goes otherwise ends the demo with status 1. After LIMIT_SECONDS it
 * is ended, and cleaned up as after a signal.
 */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { root } from './compile.js'
import { type Weft, say } from './demo-report.js'
import { showRouter } from './demo-router.js'
import { showSockets } from './demo-sockets.js'
import { find } from '../test/rig/unpacked.js'
import { openTopology, removeLeftovers } from './topology.js'

const cli = join(root, 'dist/src/control/cli/main.js')
const LIMIT_SECONDS = 120

/** The commands that the guests run come from Debian packages; a machine without them gets them. */
function installMissing(): void {
  const needs = { ip: 'iproute2', ping: 'iputils-ping', iperf3: 'iperf3' }
  const missing = Object.entries(needs).flatMap(([command, name]) => (find(command) === null ? [name] : []))
  if (find('busybox') === null && find('dhclient') === null) missing.push('busybox')
  if (missing.length === 0) return
  say(`installing what the guests run: ${missing.join(' ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  execFileSync('apt-get', ['-q', 'update'], { env, stdio: 'pipe' })
  execFileSync('apt-get', ['-q', '-y', 'install', '--no-install-recommends', ...missing], { env, stdio: 'pipe' })
}

async function run(): Promise<void> {
  const began = performance.now()
  const limit = setTimeout(() => {
    process.stderr.write(`demo: not done in ${LIMIT_SECONDS} s\n`)
    process.exit(1)
  }, LIMIT_SECONDS * 1000)
  removeLeftovers()
  const privileged = process.getuid?.() === 0
  if (privileged) installMissing()
  const topology = openTopology()
  try {
    const folder = topology.folder()
    const socket = `${folder}/weft.sock`
    const up = [process.execPath, cli, 'up', '--socket', socket, '--state', `${folder}/state`, '--log-level', 'warn']
    const netns = privileged ? await topology.namespace('weft', { ipv6: true }) : null
    const prepared = netns === null ? null : await showRouter.prepare(topology, netns)
    const daemon = topology.start(netns, up)
    await daemon.ready('weft: ready', 20)
    const weft: Weft = (...args) => topology.run(null, [process.execPath, cli, ...args, '--socket', socket])
    const demo = { topology, weft, folder }
    await (prepared === null ? showSockets(demo) : showRouter.show(demo, prepared))
  } finally {
    await topology.close()
    clearTimeout(limit)
  }
  say(`\ncleaned up after ${((performance.now() - began) / 1000).toFixed(0)} seconds; nothing is left on the host`)
}

run().catch((error: Error) => {
  process.stderr.write(`demo: ${error.message}\n`)
  process.exitCode = 1
})
