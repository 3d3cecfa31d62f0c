/** A daemon in this process on a fake fabric and folders of its own, for the tests of the API and the command line. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Client, connect } from '../../src/control/client.js'
import { type Daemon, type DaemonOptions, startDaemon } from '../../src/control/daemon.js'
import type { UnixSockets } from '../../src/control/listener.js'
import { Log } from '../../src/control/log.js'
import { FakeFabric } from './fake-fabric.js'

const main = fileURLToPath(new URL('../../src/control/cli/main.js', import.meta.url))

export interface CommandResult {
  status: number | null
  stdout: string
  stderr: string
}

export class Fixture {
  readonly folder = mkdtempSync(join(tmpdir(), 'weft-daemon-'))
  readonly socket = join(this.folder, 'weft.sock')
  readonly state = join(this.folder, 'state')
  readonly lines: string[] = []
  fabric = new FakeFabric()
  daemon: Daemon | null = null
  private readonly clients: Client[] = []

  async start(options: Partial<DaemonOptions> = {}, native: UnixSockets | null = null): Promise<Daemon> {
    this.fabric = new FakeFabric()
    const given: DaemonOptions = {
      socket: this.socket,
      state: this.state,
      listen: null,
      listenAnywhere: false,
      certificate: null,
      key: null,
      group: null,
      configuration: null,
      ...options,
    }
    const log = new Log('debug', (line) => this.lines.push(line))
    this.daemon = await startDaemon(given, { log, native, fabric: async () => this.fabric })
    return this.daemon
  }

  async client(): Promise<Client> {
    const client = await connect({ socket: this.socket })
    this.clients.push(client)
    return client
  }

  /** Runs the command line as a process of its own. */
  run(...args: string[]): Promise<CommandResult> {
    return new Promise((resolve) => {
      const child = spawn(process.execPath, [main, ...args, '--socket', this.socket], {
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const result: CommandResult = { status: null, stdout: '', stderr: '' }
      child.stdout.setEncoding('latin1').on('data', (chunk) => {
        result.stdout += chunk
      })
      child.stderr.setEncoding('utf8').on('data', (chunk) => {
        result.stderr += chunk
      })
      child.on('close', (status) => resolve({ ...result, status }))
    })
  }

  async close(): Promise<void> {
    for (const client of this.clients.splice(0)) client.close()
    await this.daemon?.close()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Waits until something is so; the time it may take is only there to end a test that hangs. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  const end = performance.now() + 20_000
  while (!holds()) {
    if (performance.now() > end) throw new Error(`it did not happen: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
