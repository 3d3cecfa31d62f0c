/**
 * The state folder: what must outlive the daemon. One JSON file a network, the API token, a lock.
 *
 *   STATE/networks/NAME.json   { version, active, network }, written whole (`durable-file.ts`)
 *   STATE/token                the token of the TCP listener, mode 0600
 *   STATE/lock                 process id and start time of the daemon that uses the folder
 *
 * After a crash at any instant a file is the old one or the new one. A file that does not parse stays where it is,
 * under its name: it is reported, its network is not loaded, and no write goes over it. `version` is 1; a file of a
 * later version is refused the same way. `active` says whether the network ran, so that it comes back after a crash.
 *
 * Capacity: none of its own; a network of 1000 ports is a file of about 100 KiB.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { replaceFile, syncFolder } from '../services/durable-file.js'
import { parseNetwork, writtenNetwork } from './definition.js'
import { Failure } from './failure.js'
import type { NetworkDefinition } from './model.js'

const STORE_VERSION = 1

export interface StoredNetwork {
  network: NetworkDefinition
  active: boolean
}

/** A file that could not be read, and why. */
export interface BrokenFile {
  path: string
  name: string
  reason: string
}

export class Store {
  readonly folder: string
  private readonly networks: string
  private readonly broken = new Map<string, BrokenFile>()

  /** Makes the folder if need be and locks it. Throws ERR_PORT_BUSY while another daemon uses it. */
  constructor(folder: string) {
    this.folder = folder
    this.networks = join(folder, 'networks')
    try {
      mkdirSync(this.networks, { recursive: true, mode: 0o700 })
    } catch (error) {
      throw storeFailure(`the state folder ${folder} cannot be made`, error)
    }
    this.lock()
  }

  /** All networks that can be read; `problems` tells of the others. */
  load(): StoredNetwork[] {
    this.broken.clear()
    const loaded: StoredNetwork[] = []
    for (const file of readdirSync(this.networks).toSorted()) {
      if (!file.endsWith('.json') || file.startsWith('.')) continue
      const name = file.slice(0, -'.json'.length)
      const path = join(this.networks, file)
      try {
        loaded.push(readNetwork(readFileSync(path, 'utf8'), name))
      } catch (error) {
        this.broken.set(name, { path, name, reason: (error as Error).message })
      }
    }
    return loaded
  }

  problems(): BrokenFile[] {
    return [...this.broken.values()]
  }

  save(network: NetworkDefinition, active: boolean): void {
    this.refuseBroken(network.name)
    const content = { version: STORE_VERSION, active, network: writtenNetwork(network) }
    this.write(join(this.networks, `${network.name}.json`), `${JSON.stringify(content, null, 2)}\n`, 0o600)
  }

  remove(name: string): void {
    this.refuseBroken(name)
    try {
      rmSync(join(this.networks, `${name}.json`), { force: true })
      syncFolder(this.networks)
    } catch (error) {
      throw storeFailure(`network ${name} cannot be removed from ${this.networks}`, error)
    }
  }

  /** The token of the TCP listener, made at first use. */
  token(): string {
    const path = join(this.folder, 'token')
    try {
      const token = readFileSync(path, 'utf8').trim()
      if (token.length >= 32) return token
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw storeFailure(`${path} cannot be read`, error)
    }
    const token = randomBytes(32).toString('base64url')
    this.write(path, `${token}\n`, 0o600)
    return token
  }

  /** Gives the folder up. */
  close(): void {
    rmSync(join(this.folder, 'lock'), { force: true })
  }

  /** Throws if a file that cannot be read has the name: what is in it may be all there is of someone's network. */
  refuseBroken(name: string): void {
    const broken = this.broken.get(name)
    if (broken === undefined) return
    throw new Failure(
      'ERR_IO',
      `network ${name}: ${broken.path} cannot be read (${broken.reason}); mend it or move it away`,
    )
  }

  private write(path: string, text: string, mode: number): void {
    try {
      replaceFile(path, Buffer.from(text), mode)
    } catch (error) {
      throw storeFailure(`${path} cannot be written`, error)
    }
  }

  private lock(): void {
    const path = join(this.folder, 'lock')
    const mine = `${process.pid} ${startTime(process.pid) ?? 0}\n`
    for (let attempt = 0; attempt < 2; attempt++) {
      try {
        const fd = openSync(path, 'wx', 0o600)
        writeSync(fd, mine)
        closeSync(fd)
        return
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw storeFailure(`${path} cannot be made`, error)
      }
      const [pid, started] = readFileSync(path, 'utf8').trim().split(' ')
      if (pid !== undefined && started !== undefined && startTime(Number(pid)) === started) {
        throw new Failure('ERR_PORT_BUSY', `the state folder ${this.folder} is in use by process ${pid}`)
      }
      rmSync(path, { force: true })
    }
    throw new Failure('ERR_PORT_BUSY', `the state folder ${this.folder} is in use`)
  }
}

function readNetwork(text: string, name: string): StoredNetwork {
  const content = JSON.parse(text) as { version?: unknown; active?: unknown; network?: unknown } | null
  if (typeof content !== 'object' || content === null) throw new Error('it holds no object')
  if (content.version !== STORE_VERSION)
    throw new Error(`its version is ${String(content.version)}, not ${STORE_VERSION}`)
  const network = parseNetwork(content.network, 'network')
  if (network.name !== name) throw new Error(`it holds the network ${network.name}`)
  return { network, active: content.active === true }
}

/**
 * When a process began, in clock ticks since boot (proc(5), stat, field 22): with the id it names a process for good.
 */
function startTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

function storeFailure(sentence: string, error: unknown): Failure {
  const code = (error as NodeJS.ErrnoException).code ?? ''
  const permission = code === 'EACCES' || code === 'EPERM'
  return new Failure(permission ? 'ERR_PERMISSION' : 'ERR_IO', `${sentence}: ${(error as Error).message}`)
}
