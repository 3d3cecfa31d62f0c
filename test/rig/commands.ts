/**
 * Commands of the test rig: run a program to its end, keep one in the background, wait for a condition, say what lacks.
 *
 * Each program is started without a shell. One that runs to its end has a time limit and is killed past it; one in the
 * background is known by its pid and killed when the test process ends, however it ends, short of SIGKILL. Nothing here
 * asserts a time: `until` asks again and again and fails only past a generous deadline.
 *
 * `needs` answers which of the things a test wants this machine lacks, as the `skip` option of node:test, so that a
 * suite without root, or without a package, says what it left out and why.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface Result {
  status: number // exit status; 128 + signal number is not reproduced: a killed program has -1
  stdout: string
  stderr: string
}

export interface RunOptions {
  timeoutSeconds?: number // then SIGKILL; 60 unless told
  input?: string | Uint8Array
  environment?: Record<string, string>
  directory?: string // to run in
}

/** The root of the checkout, seen from the compiled file in dist/test/rig. */
export const root = fileURLToPath(new URL('../../../', import.meta.url))

/** The compiled command line of Weft. */
export const weftMain = join(root, 'dist/src/control/cli/main.js')

const searchPath = [...new Set([...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'])].join(delimiter)
const children = new Set<ChildProcess>()

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})

/** Ends through process.exit on a signal, so that every `exit` hook of the rig cleans up. */
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(1))

function start(command: string, args: readonly string[], options: RunOptions): ChildProcess {
  const env: NodeJS.ProcessEnv = { ...process.env, PATH: searchPath, LC_ALL: 'C', ...options.environment }
  delete env.NODE_TEST_CONTEXT // a Node child would report to this test runner
  const child = spawn(command, args, { env, cwd: options.directory, stdio: 'pipe' })
  children.add(child)
  child.once('close', () => children.delete(child))
  child.once('error', () => children.delete(child))
  child.stdin?.on('error', () => {}) // a program may end without reading its input
  return child
}

/** Runs a program to its end and returns its status and output; rejects only if it cannot start or exceeds its time. */
export function attempt(command: string, args: readonly string[], options: RunOptions = {}): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = start(command, args, options)
    const said: Buffer[] = []
    const complained: Buffer[] = []
    const seconds = options.timeoutSeconds ?? 60
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, seconds * 1000)
    child.stdout?.on('data', (data: Buffer) => said.push(data))
    child.stderr?.on('data', (data: Buffer) => complained.push(data))
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.once('close', (status) => {
      clearTimeout(timer)
      const result = {
        status: status ?? -1,
        stdout: Buffer.concat(said).toString(),
        stderr: Buffer.concat(complained).toString(),
      }
      const line = [command, ...args].join(' ')
      if (late) reject(new Error(`${line}: not done in ${seconds} s\n${result.stdout}\n${result.stderr}`))
      else resolve(result)
    })
    child.stdin?.end(options.input ?? '')
  })
}

/** Runs a program that must succeed and returns its standard output. */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await attempt(command, args, options)
  if (result.status === 0) return result.stdout
  throw new Error(`${[command, ...args].join(' ')}: status ${result.status}\n${result.stdout}\n${result.stderr}`)
}

/** A program in the background. Its output is collected; `exited` resolves with its status (null when killed). */
export class Background {
  readonly pid: number
  readonly exited: Promise<number | null>
  stdout = ''
  stderr = ''
  running = true
  private readonly child: ChildProcess

  constructor(command: string, args: readonly string[], options: Pick<RunOptions, 'environment'> = {}) {
    this.child = start(command, args, options)
    this.pid = this.child.pid ?? -1
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
    this.exited = new Promise((resolve) => {
      this.child.once('error', (error) => {
        this.stderr += String(error)
        this.running = false
        resolve(null)
      })
      this.child.once('close', (status) => {
        this.running = false
        resolve(status)
      })
    })
  }

  write(data: string | Uint8Array): void {
    this.child.stdin?.write(data)
  }

  /** Ends the program's standard input. */
  end(): void {
    this.child.stdin?.end()
  }

  /** The kernel's signal to stop or go on, without waiting. */
  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  /** Sends a signal and waits for the end; SIGKILL follows when the program does not end. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', seconds = 20): Promise<number | null> {
    if (!this.running) return this.exited
    this.child.kill(signal)
    const timer = setTimeout(() => this.child.kill('SIGKILL'), seconds * 1000)
    const status = await this.exited
    clearTimeout(timer)
    return status
  }
}

/** The words of a line, or the list as it is. */
export const words = (line: string | readonly string[]): string[] =>
  typeof line === 'string' ? line.split(' ').filter(Boolean) : [...line]

export const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Asks until the answer is neither false, null nor undefined, and returns it; past the deadline fails with `what`. */
export async function until<T>(
  what: string,
  ask: () => T | Promise<T>,
  seconds = 20,
): Promise<Exclude<T, false | null | undefined>> {
  const deadline = performance.now() + seconds * 1000
  let problem = ''
  for (;;) {
    try {
      const answer = await ask()
      if (answer !== false && answer !== null && answer !== undefined) {
        return answer as Exclude<T, false | null | undefined>
      }
      problem = ''
    } catch (error) {
      problem = `: ${String(error)}`
    }
    if (performance.now() > deadline) throw new Error(`waited ${seconds} s in vain: ${what}${problem}`)
    await pause(100)
  }
}

/** Where a program is, or null. */
export function which(command: string): string | null {
  for (const folder of searchPath.split(delimiter)) {
    const path = join(folder, command)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {}
  }
  return null
}

function lacking(thing: string): string | null {
  if (thing === 'root') return process.getuid?.() === 0 ? null : 'not root'
  if (thing === 'tun') {
    try {
      accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
      return null
    } catch {
      return 'no access to /dev/net/tun'
    }
  }
  if (thing === 'weft') return existsSync(weftMain) ? null : 'Weft is not built'
  if (thing === 'apt') return which('apt-get') === null ? 'no apt-get' : null
  return which(thing) === null ? `no ${thing}` : null
}

/** The `skip` option for a test that wants these things: `root`, `tun`, `weft`, `apt`, or programs by name. */
export function needs(...things: string[]): { skip: string | false } {
  const reasons = things.map(lacking).filter((reason) => reason !== null)
  return { skip: reasons.length > 0 ? reasons.join(', ') : false }
}

/** True while a process of this number exists and is not a zombie. */
export function alive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}
