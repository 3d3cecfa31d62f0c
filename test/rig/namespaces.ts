/**
 * Network namespaces of a test: a Lab makes them, runs commands in them, and removes all of it.
 *
 *   Lab ── namespace('sw') ── weftt-PID-1-sw     the switch's own namespace: the daemon runs here, not the host
 *      └── namespace('a')  ── weftt-PID-2-a      a host: one interface, one address
 *
 * Names carry the pid of the test process, so a later run can tell the leftovers of a dead process from the namespaces
 * of a live one and removes the former when a Lab opens. A Lab also cleans up on `close` and when the process ends by a
 * signal or an error (a synchronous pass from the `exit` hook). Before a namespace goes, what still runs in it is
 * killed by pid: only the test's own programs live there. Deleting a namespace destroys the veths and TAPs in it.
 *
 * IPv6 is off in a namespace unless asked for: router solicitations and multicast reports would blur captures.
 */
import { execFileSync } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Capture } from './capture.js'
import { Background, type Result, type RunOptions, alive, attempt, run, until, words } from './commands.js'

const prefix = 'weftt-'
let serial = 0

export interface PingOptions {
  count?: number
  sizeBytes?: number // of the ICMP payload
  fragment?: boolean // false sets the don't-fragment bit
  waitSeconds?: number // for each answer
}

export class Namespace {
  readonly name: string

  constructor(name: string) {
    this.name = name
  }

  attempt(command: string, args: readonly string[], options: RunOptions = {}): Promise<Result> {
    return attempt('ip', ['netns', 'exec', this.name, command, ...args], options)
  }

  run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
    return run('ip', ['netns', 'exec', this.name, command, ...args], options)
  }

  spawn(command: string, args: readonly string[], options: Pick<RunOptions, 'environment'> = {}): Background {
    return new Background('ip', ['netns', 'exec', this.name, command, ...args], options)
  }

  /** One `ip` command inside the namespace: `ip('link set eth0 up')`. */
  ip(text: string): Promise<string> {
    return run('ip', ['-n', this.name, ...words(text)])
  }

  /** Several `ip` commands in one process. */
  async ipBatch(lines: readonly string[]): Promise<void> {
    await run('ip', ['-n', this.name, '-batch', '-'], { input: `${lines.join('\n')}\n` })
  }

  /** The link as iproute2 describes it, or null when there is none of that name. */
  async link(device: string): Promise<Link | null> {
    const result = await attempt('ip', ['-n', this.name, '-json', '-details', '-stats', 'link', 'show', 'dev', device])
    return result.status === 0 ? (JSON.parse(result.stdout)[0] as Link) : null
  }

  /** Sends echo requests and returns how many were answered. */
  async ping(address: string, options: PingOptions = {}): Promise<number> {
    const { count = 3, sizeBytes = 56, fragment = true, waitSeconds = 2 } = options
    const args = ['-n', '-c', `${count}`, '-i', '0.2', '-W', `${waitSeconds}`, '-s', `${sizeBytes}`]
    if (!fragment) args.push('-M', 'do')
    const result = await this.attempt('ping', [...args, address], { timeoutSeconds: 30 + count * (waitSeconds + 1) })
    return Number(/(\d+) received/.exec(result.stdout)?.[1] ?? 0)
  }

  /** Switches offloads of a device with ethtool: `offload('eth0', { tso: false })`. */
  async offload(device: string, features: Record<string, boolean>): Promise<void> {
    const settings = Object.entries(features).flatMap(([name, on]) => [name, on ? 'on' : 'off'])
    await this.run('ethtool', ['-K', device, ...settings])
  }

  /** Starts tcpdump on a device; resolves when it listens. `only` 'in' leaves out what the namespace itself sends. */
  capture(device: string, options: { filter?: string; only?: 'in' | 'out' } = {}): Promise<Capture> {
    return Capture.start(this, device, options)
  }
}

export interface Link {
  ifname: string
  mtu: number
  address: string
  operstate: string
  flags: string[]
  promiscuity: number
  linkinfo?: { info_kind: string }
  stats64: { rx: { packets: number; bytes: number }; tx: { packets: number; bytes: number } }
}

export class Lab {
  /** A folder of the lab's own under the system's temporary one; removed with the lab. */
  readonly folder: string
  private readonly names = new Set<string>()
  private readonly release = (): void => this.removeNow()

  private constructor(folder: string) {
    this.folder = folder
    process.on('exit', this.release)
  }

  /** Opens a lab, after removing what dead test processes left behind. */
  static async open(): Promise<Lab> {
    sweep()
    process.setMaxListeners(64)
    return new Lab(await mkdtemp(join(tmpdir(), `weftt-${process.pid}-`)))
  }

  /** Makes a namespace with loopback up. */
  async namespace(label: string, options: { ipv6?: boolean } = {}): Promise<Namespace> {
    serial++
    const name = `${prefix}${process.pid}-${serial}-${label}`
    this.names.add(name)
    await run('ip', ['netns', 'add', name])
    const space = new Namespace(name)
    if (options.ipv6 !== true) {
      const keys = ['all', 'default'].map((which) => `net.ipv6.conf.${which}.disable_ipv6=1`)
      await space.attempt('sysctl', ['-q', '-w', ...keys])
    }
    await space.ip('link set lo up')
    return space
  }

  /** Makes a veth pair with one end in each namespace (which may be the same), both up. */
  async veth(a: Namespace, deviceA: string, b: Namespace, deviceB: string, mtu = 1500): Promise<void> {
    const ends = [`${deviceA} netns ${a.name}`, `${deviceB} netns ${b.name}`]
    await run('ip', words(`link add ${ends[0]} mtu ${mtu} type veth peer name ${ends[1]} mtu ${mtu}`))
    await a.ip(`link set ${deviceA} up`)
    await b.ip(`link set ${deviceB} up`)
  }

  /** Removes all namespaces and the folder. */
  async close(): Promise<void> {
    for (const name of Array.from(this.names)) {
      await until(`programs in ${name} end`, () => emptyNamespace(name), 20)
      await attempt('ip', ['netns', 'delete', name])
      this.names.delete(name)
    }
    process.off('exit', this.release)
    rmSync(this.folder, { recursive: true, force: true })
  }

  private removeNow(): void {
    for (const name of this.names) removeNamespace(name)
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function synchronously(...args: string[]): string {
  try {
    return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    return ''
  }
}

/** Kills what runs in a namespace of ours; true when nothing is left. */
function emptyNamespace(name: string): boolean {
  const pids = synchronously('netns', 'pids', name).split('\n').filter(Boolean).map(Number).filter(alive)
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {}
  }
  return pids.length === 0
}

function removeNamespace(name: string): void {
  emptyNamespace(name)
  synchronously('netns', 'delete', name)
}

function leftovers(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => {
      const owner = /^weftt-(\d+)-/.exec(name)?.[1]
      return owner !== undefined && !alive(Number(owner))
    })
  } catch {
    return []
  }
}

/** Removes namespaces, folders and captures that test processes left which no longer run. */
export function sweep(): void {
  for (const name of leftovers('/run/netns')) removeNamespace(name)
  for (const name of leftovers(tmpdir())) rmSync(join(tmpdir(), name), { recursive: true, force: true })
}
