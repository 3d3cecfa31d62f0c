/**
 * Namespaces and processes of one bench run, and their certain end.
 *
 * A topology is a set of network namespaces named `weftb-PID-N-LABEL` (PID: the bench's own, N: its how-manieth
 * topology) and of the child processes started in them. Everything a bench makes is inside such a namespace, the
 * switch under test too, so that nothing of it shows on the machine and removing the namespaces removes it all:
 *
 *     weftb-PID-N-a  [dev a]--+                     +--[dev b]  weftb-PID-N-b
 *                             |                     |
 *                       weftb-PID-N-sw: the switch under test
 *
 * The end comes in three ways. `close()` asks the children to stop (SIGTERM, two seconds, SIGKILL) and removes the
 * namespaces. A SIGINT, SIGTERM, SIGHUP or an exception does the same without waiting, from the exit handler. After a
 * kill -9 nothing runs here any more: the next bench calls `removeLeftovers`, which finds namespaces whose PID is
 * dead, kills the processes inside and removes them. Only processes in namespaces of that name are ever killed.
 *
 * A namespace's own resolv.conf is in /etc/netns, under the namespace's name; it goes with the rest.
 *
 * It needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const execute = promisify(execFile)
/** Where iproute2 looks for files that a namespace has of its own. */
const RESOLVERS = '/etc/netns'
const OUTPUT_KEPT = 8192 // characters of a child's output kept for an error message

/** A process that stays: a switch, a server. */
export interface Child {
  readonly pid: number
  /** Resolves when the output so far contains the text; throws when the child ends first or the time is over. */
  ready(text: string, seconds: number): Promise<void>
  /** Resolves when the file is there; throws as `ready` does. */
  appears(path: string, seconds: number): Promise<void>
  /** Resolves with the exit code (-1 after a signal) when it has ended. */
  readonly ended: Promise<number>
  readonly output: () => string
  /** Writes a line to it and resolves with what it says from then on, once that contains the text. */
  ask(line: string, text: string, seconds: number): Promise<string>
  /** Asks it to stop. */
  stop(): void
}

/** How a process is started: its environment beside the bench's own, its folder. */
export interface Surroundings {
  env?: Record<string, string>
  seconds?: number
}

export interface Topology {
  /**
   * Makes a namespace with loopback up and, unless wanted, IPv6 off (no chatter in the counts); returns its full name.
   */
  namespace(label: string, wanted?: { ipv6: boolean }): Promise<string>
  /** Gives a namespace a resolv.conf of its own, empty, which `run` and `start` show to commands; returns its path. */
  resolver(netns: string): string
  /** Runs a command to its end, in a namespace or (null) outside; returns its stdout, throws with its stderr. */
  run(netns: string | null, command: string[], surroundings?: Surroundings): Promise<string>
  /** Starts a command that stays until `close`; its stdin is a pipe left open. */
  start(netns: string | null, command: string[], surroundings?: Surroundings): Child
  /** Makes a temporary folder, gone after `close`; short enough for a unix socket's path. */
  folder(): string
  close(): Promise<void>
}

interface Holding {
  readonly namespaces: string[]
  readonly folders: string[]
  readonly children: ChildProcess[]
}

const held = new Set<Holding>()
let made = 0
let guarded = false
let madeResolvers = false // the folder was not there

/** Starts an empty topology; from now on the process cleans up however it ends. */
export function openTopology(): Topology {
  guard()
  const holding: Holding = { namespaces: [], folders: [], children: [] }
  const prefix = `weftb-${process.pid}-${++made}`
  held.add(holding)
  return {
    namespace: async (label, wanted = { ipv6: false }) => {
      const name = `${prefix}-${label}`
      holding.namespaces.push(name)
      await execute('ip', ['netns', 'add', name])
      await execute('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
      if (wanted.ipv6) return name
      const off = ['net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1']
      await execute('ip', ['netns', 'exec', name, 'sysctl', '-qw', ...off]).catch(() => undefined)
      return name
    },
    resolver: (netns) => {
      const path = join(RESOLVERS, netns)
      if (!existsSync(RESOLVERS)) madeResolvers = true
      holding.folders.push(path)
      mkdirSync(path, { recursive: true })
      writeFileSync(join(path, 'resolv.conf'), '')
      return join(path, 'resolv.conf')
    },
    run: async (netns, command, surroundings = {}) => {
      const [file, ...args] = within(netns, command)
      const env = { ...process.env, ...surroundings.env }
      const timeout = (surroundings.seconds ?? 20) * 1000
      const { stdout } = await execute(file, args, { env, timeout, maxBuffer: 64 * 1024 * 1024 })
      return stdout
    },
    start: (netns, command, surroundings = {}) => {
      const [file, ...args] = within(netns, command)
      const env = { ...process.env, ...surroundings.env }
      const child = spawn(file, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
      holding.children.push(child)
      return watch(child, command.join(' '))
    },
    folder: () => {
      const path = mkdtempSync(join(tmpdir(), `${prefix}-`))
      holding.folders.push(path)
      return path
    },
    close: async () => {
      for (const child of holding.children) child.kill('SIGTERM')
      for (let i = 0; i < 100 && holding.children.some(running); i++) await sleep(20)
      end(holding)
      held.delete(holding)
    },
  }
}

/** Removes what a bench that was killed left behind; returns the namespaces removed. */
export function removeLeftovers(): string[] {
  const list = spawnSync('ip', ['netns', 'list'], { encoding: 'utf8' }).stdout ?? ''
  const names = list.split('\n').map((line) => line.split(' ')[0] ?? '')
  const dead = names.filter(orphaned)
  for (const name of dead) removeNamespace(name)
  removeOrphans(tmpdir())
  if (dead.length > 0 && existsSync(RESOLVERS)) {
    removeOrphans(RESOLVERS)
    removeResolvers()
  }
  return dead
}

/** A process and all it started, itself first. */
export function processTree(pid: number): number[] {
  const list = spawnSync('ps', ['-o', 'pid=', '--ppid', String(pid)], { encoding: 'utf8' }).stdout ?? ''
  return [
    pid,
    ...list
      .split('\n')
      .filter((line) => line.trim() !== '')
      .flatMap((line) => processTree(Number(line))),
  ]
}

function orphaned(name: string): boolean {
  const pid = /^weftb-(\d+)-/.exec(name)?.[1]
  return pid !== undefined && !existsSync(`/proc/${pid}`)
}

function within(netns: string | null, command: string[]): [string, ...string[]] {
  const [file, ...args] = command
  if (file === undefined) throw new Error('an empty command')
  return netns === null ? [file, ...args] : ['ip', 'netns', 'exec', netns, file, ...args]
}

function watch(child: ChildProcess, name: string): Child {
  let output = ''
  let total = 0 // characters so far
  const keep = (chunk: Buffer): void => {
    const text = chunk.toString()
    total += text.length
    output = (output + text).slice(-OUTPUT_KEPT)
  }
  child.stdout?.on('data', keep)
  child.stderr?.on('data', keep)
  child.stdin?.on('error', () => undefined)
  const ended = new Promise<number>((resolve) => {
    child.on('error', (error) => {
      output += error.message
      resolve(-1)
    })
    child.on('close', (code) => resolve(code ?? -1))
  })
  let over = false
  void ended.then(() => {
    over = true
  })
  const until = async (done: () => boolean, deed: string, seconds: number): Promise<void> => {
    const deadline = Date.now() + seconds * 1000
    for (; !done(); await sleep(10)) {
      if (over) throw new Error(`${name}: ended and did not ${deed}: ${output.trim()}`)
      if (Date.now() > deadline) throw new Error(`${name}: did not ${deed} in ${seconds} s: ${output.trim()}`)
    }
  }
  return {
    pid: child.pid ?? 0,
    ended,
    output: () => output,
    stop: () => void child.kill('SIGTERM'),
    ask: async (line, text, seconds) => {
      const before = total
      const since = (): string => output.slice(-Math.min(total - before, output.length) || output.length)
      child.stdin?.write(`${line}\n`)
      await until(() => total > before && since().includes(text), `say "${text}" to "${line}"`, seconds)
      return since()
    },
    ready: (text, seconds) => until(() => output.includes(text), `say "${text}"`, seconds),
    appears: (path, seconds) => until(() => existsSync(path), `make ${path}`, seconds),
  }
}

const running = (child: ChildProcess): boolean => child.exitCode === null && child.signalCode === null

function end(holding: Holding): void {
  for (const child of holding.children) if (running(child)) child.kill('SIGKILL')
  for (const name of holding.namespaces) removeNamespace(name)
  for (const path of holding.folders) rmSync(path, { recursive: true, force: true })
  if (madeResolvers) removeResolvers()
  holding.folders.length = 0
  holding.children.length = 0
  holding.namespaces.length = 0
}

function removeOrphans(folder: string): void {
  for (const name of readdirSync(folder).filter(orphaned)) rmSync(join(folder, name), { recursive: true, force: true })
}

/** The folder itself goes with the last that was in it. */
function removeResolvers(): void {
  try {
    rmdirSync(RESOLVERS)
  } catch {
    // It was never there, or others use it.
  }
}

function removeNamespace(name: string): void {
  const pids = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' }).stdout ?? ''
  for (const line of pids.split('\n')) {
    const pid = Number(line)
    if (pid > 1) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It ended by itself in between.
      }
    }
  }
  spawnSync('ip', ['netns', 'del', name])
}

function guard(): void {
  if (guarded) return
  guarded = true
  process.on('exit', () => {
    for (const holding of held) end(holding)
  })
  for (const [signal, code] of [
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    process.on(signal, () => process.exit(code))
  }
}
