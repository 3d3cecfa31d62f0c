/**
 * A Weft daemon under test: started on folders of its own, in a namespace of the lab, driven by the real command line.
 *
 * The daemon runs inside a namespace (ip netns exec), so that what it makes and opens stays apart from the host; the
 * commands reach it over its unix socket, which knows no namespaces. `kill` is kill -9; `start` again comes up on the
 * same state. What the daemon wrote to stderr is in the message of every error of this file.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Background, type Result, attempt, until, weftMain, words } from './commands.js'
import type { Lab, Namespace } from './namespaces.js'

export interface PortState {
  name: string
  kind: string
  state: 'up' | 'down' | 'error'
  reason: string | null
  mac: string
  mtu: number
  vlan: { mode: 'access' | 'trunk' | 'none'; access: number | null; native: number | null; trunk: number[] }
  offloads: string[]
  receive: { packets: number; bytes: number; dropped: number }
  transmit: { packets: number; bytes: number; dropped: number }
  drops: Record<string, number>
}

export interface FdbEntry {
  vid: number
  mac: string
  port: string
  static: boolean
  ageSeconds: number
}

export interface Status {
  shards: {
    index: number
    pid: number
    restarts: number
    networks: number
    ports: number
    pool: { slots: number; free: number }
  }[]
}

export class Weft {
  readonly socket: string
  readonly state: string
  readonly namespace: Namespace | null
  private program: Background | null = null
  /** further options of `weft up`, for the next start */
  extra: readonly string[]

  private constructor(folder: string, namespace: Namespace | null, extra: readonly string[]) {
    this.socket = join(folder, 'weft.sock')
    this.state = join(folder, 'state')
    this.namespace = namespace
    this.extra = extra
  }

  /** Starts a daemon in a namespace and waits until it takes commands. `label` tells several of one lab apart. */
  static async start(lab: Lab, namespace: Namespace | null, label = 'weft', extra: string[] = []): Promise<Weft> {
    const folder = join(lab.folder, label)
    mkdirSync(folder, { recursive: true })
    const weft = new Weft(folder, namespace, extra)
    await weft.start()
    return weft
  }

  get pid(): number {
    return this.program?.pid ?? -1
  }

  /** What the daemon wrote to stderr so far. */
  get log(): string {
    return this.program?.stderr ?? ''
  }

  get running(): boolean {
    return this.program?.running ?? false
  }

  async start(): Promise<void> {
    const args = [weftMain, 'up', '--socket', this.socket, '--state', this.state, ...this.extra]
    const node = process.execPath
    const program = this.namespace === null ? new Background(node, args) : this.namespace.spawn(node, args)
    this.program = program
    await until(
      'the daemon is ready',
      () => {
        if (!program.running) throw new Error(`the daemon ended: ${program.stdout}\n${program.stderr}`)
        return program.stdout.includes(`weft: ready on ${this.socket}\n`)
      },
      30,
    )
  }

  /** Runs one command of the command line against this daemon. */
  cli(args: string | readonly string[], options: { input?: string; timeoutSeconds?: number } = {}): Promise<Result> {
    return attempt(process.execPath, [weftMain, ...words(args), '--socket', this.socket], options)
  }

  /** Runs a command that must succeed. */
  async do(args: string | readonly string[]): Promise<string> {
    const result = await this.cli(args)
    if (result.status !== 0) throw this.failure(`weft ${words(args).join(' ')}`, result)
    return result.stdout
  }

  /** Runs a command with --json and returns its result. */
  async json<T>(args: string | readonly string[]): Promise<T> {
    const text = await this.do([...words(args), '--json'])
    try {
      return JSON.parse(text) as T
    } catch {
      throw new Error(`weft ${words(args).join(' ')} --json: not JSON: ${text}`)
    }
  }

  port(network: string, name: string): Promise<PortState> {
    return this.json<PortState>(['port', 'show', network, name])
  }

  fdb(network: string): Promise<FdbEntry[]> {
    return this.json<FdbEntry[]>(['fdb', 'list', network])
  }

  /** Free slots of the packet pool of the first shard. */
  async poolFree(): Promise<number> {
    const status = await this.json<Status>('status')
    const free = status.shards[0]?.pool.free
    if (typeof free !== 'number') throw new Error(`no pool in the status: ${JSON.stringify(status)}`)
    return free
  }

  waitPort(network: string, name: string, state: PortState['state'], seconds = 20): Promise<PortState> {
    let last = ''
    return until(
      `port ${name} is ${state}`,
      async () => {
        const port = await this.port(network, name)
        last = `${port.state} (${port.reason})`
        if (port.state !== state) throw new Error(`it is ${last}`)
        return port
      },
      seconds,
    )
  }

  /** Ends the daemon as an administrator does; it must exit with 0. */
  async stop(): Promise<void> {
    const program = this.program
    if (program === null) return
    if (!program.running) throw new Error(`the daemon had ended before: ${program.stderr}`)
    const status = await program.stop('SIGTERM')
    this.program = null
    if (status !== 0) throw new Error(`the daemon ended with ${status} on SIGTERM: ${program.stderr}`)
  }

  /** kill -9; `start` brings it back on the same state. */
  async kill(): Promise<void> {
    await this.program?.stop('SIGKILL')
    this.program = null
  }

  /** kill -9 to a shard's process; resolves when another runs in its place. */
  async killShard(index = 0): Promise<void> {
    const before = (await this.json<Status>('status')).shards[index]
    if (!before?.pid) throw new Error(`there is no shard ${index}`)
    process.kill(before.pid, 'SIGKILL')
    await until('another process runs the shard', async () => {
      const now = (await this.json<Status>('status')).shards[index]
      return now?.restarts === (before.restarts ?? 0) + 1 && now.pid !== 0 && now.pid !== before.pid
    })
  }

  private failure(command: string, result: Result): Error {
    return new Error(`${command}: status ${result.status}\n${result.stdout}${result.stderr}--- daemon:\n${this.log}`)
  }
}
