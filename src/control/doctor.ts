/**
 * What this host lacks for Weft, what is misconfigured, and what Weft made or opened.
 *
 * `examineHost` looks at the process it runs in: within the daemon that is what counts, without one the command line
 * does it for itself. A result is `ok`, `lacks` (something works less well or not at all) or `wrong` (something set up
 * does not work), with a sentence of advice. Nothing is changed.
 */
import { accessSync, constants, readFileSync } from 'node:fs'
import type { DoctorReport } from './api-results.js'
import { ROUTED_MODES } from './definition.js'
import type { Networks } from './networks.js'
import type { Store } from './store.js'
import { CAP_NET_ADMIN, holdsCapability } from './surroundings.js'

type Check = DoctorReport['checks'][number]

const CAP_NET_RAW = 13
const CAP_SYS_ADMIN = 21
const FILES_WANTED = 4096
const MEMLOCK_WANTED = 8 << 20
const DATAGRAMS_WANTED = 512

export function examineHost(): Check[] {
  return [
    nodeVersion(),
    tunDevice(),
    capability('CAP_NET_ADMIN', CAP_NET_ADMIN, 'ports of kind tap and uplinks to the host cannot be made'),
    capability('CAP_NET_RAW', CAP_NET_RAW, 'ports of kind netdev and uplinks through an interface cannot be opened'),
    capability('CAP_SYS_ADMIN', CAP_SYS_ADMIN, 'interfaces in other network namespaces cannot be reached'),
    limit('open files', 'Max open files', FILES_WANTED, 'raise it with ulimit -n or LimitNOFILE='),
    limit('locked memory', 'Max locked memory', MEMLOCK_WANTED, 'raise it with ulimit -l or LimitMEMLOCK='),
    datagrams(),
  ]
}

/** What is wrong with the networks, and what they hold. */
export function examineNetworks(networks: Networks, store: Store, socket: string): DoctorReport {
  const checks: Check[] = store.problems().map(({ path, name, reason }) => ({
    name: `network ${name}`,
    result: 'wrong',
    found: `${path} cannot be read: ${reason}`,
    advice: 'mend the file or move it away, then restart Weft',
  }))
  const touched = [`socket ${socket}`, `folder ${store.folder}`]
  for (const { name, mode, active, uplink, uplinkStatus } of networks.list(true)) {
    if (!active) continue
    if (ROUTED_MODES.includes(mode) && uplink === null) {
      const advice = `weft network set ${name} --uplink host gives it one`
      checks.push({ name: `network ${name}`, result: 'lacks', found: 'no uplink: its guests stay inside', advice })
    }
    if (uplinkStatus !== null) {
      const { kind, dev, state, reason, addresses } = uplinkStatus
      const label = `uplink of network ${name}`
      const at = addresses.length === 0 ? '' : ` at ${addresses.join(', ')}`
      if (state === 'error') {
        checks.push({ name: label, result: 'wrong', found: reason ?? 'in error', advice: 'Weft tries again' })
      } else if (kind === 'host') touched.push(`TAP ${dev} with its addresses and routes, Weft${at} (${label})`)
      else touched.push(`interface ${dev}, promiscuous, Weft${at} (${label})`)
    }
    for (const port of networks.ports(name)) {
      const label = `port ${port.name} of network ${name}`
      if (port.state === 'error') {
        checks.push({ name: label, result: 'wrong', found: port.reason ?? 'in error', advice: 'Weft tries again' })
        continue
      }
      const { options } = port
      const place = 'netns' in options && options.netns !== null ? ` in namespace ${options.netns}` : ''
      if (options.kind === 'tap') touched.push(`TAP ${options.dev}${place} (${label})`)
      if (options.kind === 'netdev') touched.push(`interface ${options.dev}${place}, promiscuous (${label})`)
      if ((options.kind === 'qemu' || options.kind === 'vhost-user') && !options.client)
        touched.push(`socket ${options.path} (${label})`)
      if (options.kind === 'pcap' && options.write !== null) touched.push(`file ${options.write} (${label})`)
    }
  }
  return { checks, touched }
}

function nodeVersion(): Check {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const ok = major > 20 || (major === 20 && minor >= 19)
  return outcome('Node', ok, process.version, 'Weft needs Node 20.19 or later')
}

function tunDevice(): Check {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
    return outcome('/dev/net/tun', true, 'readable and writable', null)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const found = code === 'ENOENT' ? 'does not exist' : `may not be opened (${code})`
    return outcome('/dev/net/tun', false, found, 'ports of kind tap cannot be made: modprobe tun, or run Weft as root')
  }
}

function capability(name: string, bit: number, consequence: string): Check {
  const has = holdsCapability(bit)
  return outcome(name, has, has ? 'held' : 'missing', `${consequence}: run Weft as root or give it ${name}`)
}

function limit(name: string, row: string, wanted: number, advice: string): Check {
  const soft = new RegExp(`^${row}\\s+(\\S+)`, 'm').exec(read('/proc/self/limits'))?.[1] ?? 'not known'
  const ok = soft === 'unlimited' || Number(soft) >= wanted
  return outcome(name, ok, soft, `${wanted} are advised: ${advice}`)
}

function datagrams(): Check {
  const length = read('/proc/sys/net/unix/max_dgram_qlen').trim()
  const advice = `ports of kind qemu with --dgram lose bursts: sysctl net.unix.max_dgram_qlen=${DATAGRAMS_WANTED * 8}`
  return outcome('net.unix.max_dgram_qlen', Number(length) >= DATAGRAMS_WANTED, length || 'not known', advice)
}

function outcome(name: string, ok: boolean, found: string, advice: string | null): Check {
  return { name, result: ok ? 'ok' : 'lacks', found, advice: ok ? null : advice }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
