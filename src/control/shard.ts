/**
 * A shard as the control process sees it: its arena, its process, its channel. Supervises: a shard process that dies is
 * replaced by another on the same arena, and whoever `onRestart` names attaches the same descriptors again, so guests
 * lose frames and nothing else. One that dies RESTARTS_MAX times within RESTART_WINDOW_MILLIS is given up: the daemon
 * ends.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import {
  type Arena,
  DEFAULT_GEOMETRY,
  HEADER_CONNECTIONS_EVICTED,
  HEADER_CONNECTIONS_EXPIRED,
  HEADER_CONNECTIONS_INVALID,
  HEADER_CONNECTIONS_MADE,
  HEADER_CONNECTIONS_REFUSED,
  HEADER_CONNECTIONS_USED,
  HEADER_CONNECTION_CAPACITY,
  HEADER_FDB_CAPACITY,
  HEADER_FDB_EVICTED,
  HEADER_FDB_EXPIRED,
  HEADER_FDB_LEARNED,
  HEADER_FDB_MOVED,
  HEADER_FDB_REFUSED,
  HEADER_FDB_USED,
  HEADER_FRAGMENTS_HELD,
  HEADER_FREE_LARGE_COUNT,
  HEADER_FREE_SMALL_COUNT,
  HEADER_ICMP_LIMITED,
  HEADER_ICMP_SENT,
  HEADER_INJECT,
  HEADER_INJECT_BYTES,
  HEADER_LARGE_SLOTS,
  HEADER_MAPPINGS_REFUSED,
  HEADER_MAPPINGS_USED,
  HEADER_MAPPING_CAPACITY,
  HEADER_NEIGHBORS_EVICTED,
  HEADER_NEIGHBORS_FAILED,
  HEADER_NEIGHBORS_USED,
  HEADER_NEIGHBOR_CAPACITY,
  HEADER_NOW,
  HEADER_PUNT,
  HEADER_PUNT_BYTES,
  HEADER_ROUTED_PACKETS,
  HEADER_SECRET,
  HEADER_SMALL_SLOTS,
  arenaBytes,
  formatArena,
  viewArena,
} from '../dataplane/layout.js'
import { Ring } from '../dataplane/ring.js'
import { check, native } from '../ports/native.js'
import { Failure } from './failure.js'
import type { ShardStatus } from './model.js'
import { processSeconds } from './process-time.js'
import { type Reply, type Request, type RequestBody, ShardChannel } from './shard-channel.js'

const RESTARTS_MAX = 5
const RESTART_WINDOW_MILLIS = 60_000
const FLUSH_AGAIN_MILLIS = 5
/** The second at which an arena begins: what comes from another shard may be older than this one, up to so much. */
const FIRST_SECOND = 1 << 20
/** Messages read in one go, so that a talkative shard leaves the control process time for others. */
const READ_LIMIT = 256

export interface ShardListener {
  /** a port's descriptor came to its end */
  onFailed(port: number, attachment: number, code: number): void
  onMoved(moves: number[]): void
  /** packets that a firewall logs */
  onLogged(zone: number, records: number[]): void
  /** frames wait in the punt ring */
  onPunt(): void
  /** a new process runs on the same arena: configure and attach everything again */
  onRestart(reason: string): void
  /** it cannot be kept alive */
  onGivenUp(reason: string): void
}

export class Shard {
  readonly index: number
  readonly arena: Arena
  readonly punt: Ring
  readonly inject: Ring
  restarts = 0
  /** processes so far: what was told to another than the last is lost */
  incarnation = 0
  private readonly listener: ShardListener
  private readonly memory: number
  private readonly wake: number
  private readonly punted: number
  private readonly puntWatch: number
  private child: ChildProcess | null = null
  private channel: ShardChannel<Request, Reply> | null = null
  private channelWatch = -1
  private flushTimer: NodeJS.Timeout | null = null
  private readonly waiting = new Map<
    number,
    { resolve: (result: number | number[]) => void; reject: (error: Error) => void }
  >()
  private nextId = 1
  /** while it is being replaced: who waits until all is as before */
  private replaced: { promise: Promise<void>; resolve: () => void } | null = null
  private ready: { resolve: () => void; reject: (error: Error) => void } | null = null
  private closing = false
  private isHolding = false
  private isCalled = false
  private deaths: number[] = []

  constructor(index: number, listener: ShardListener) {
    this.index = index
    this.listener = listener
    const bytes = arenaBytes(DEFAULT_GEOMETRY)
    this.memory = check(native.createMemory(bytes), 'arena')
    const buffer = check(native.mapMemory(this.memory, bytes), 'arena')
    formatArena(buffer, DEFAULT_GEOMETRY)
    this.arena = viewArena(buffer)
    randomFillSync(this.arena.header, HEADER_SECRET, 4)
    this.arena.header[HEADER_NOW] = FIRST_SECOND
    const { header } = this.arena
    this.punt = new Ring(buffer, header[HEADER_PUNT], header[HEADER_PUNT_BYTES])
    this.inject = new Ring(buffer, header[HEADER_INJECT], header[HEADER_INJECT_BYTES])
    this.wake = check(native.createEvent(), 'wake-up counter')
    this.punted = check(native.createEvent(), 'punt counter')
    this.puntWatch = check(
      native.watch(this.punted, () => {
        native.drainEvent(this.punted)
        listener.onPunt()
      }),
      'punt counter',
    )
  }

  /** Starts the process; resolves when its loop runs. */
  start(): Promise<void> {
    const [mine, theirs] = check(native.createChannel(), 'shard channel')
    const program = fileURLToPath(new URL('./shard-process.js', import.meta.url))
    // a process group of its own: Ctrl-C in the terminal is for the control process, which then ends the shard in order
    const child = spawn(process.execPath, ['--no-warnings', program], {
      stdio: ['ignore', 'inherit', 'inherit', theirs, this.memory, this.wake, this.punted],
      detached: true,
    })
    native.close(theirs)
    this.child = child
    this.incarnation++
    const channel = new ShardChannel<Request, Reply>(mine)
    this.channel = channel
    this.channelWatch = check(
      native.watch(mine, () => this.read(channel)),
      'shard channel',
    )
    child.once('error', (error) => this.ended(child, error.message))
    child.once('exit', (code, signal) => this.ended(child, signal ?? `exit status ${code}`))
    return new Promise((resolve, reject) => {
      this.ready = { resolve, reject }
    })
  }

  /** Asks the shard; rejects if it refuses or ends first. */
  async ask(request: RequestBody, fds: number[] = []): Promise<number> {
    const result = await this.askList(request, fds)
    return typeof result === 'number' ? result : result.length
  }

  /** The same for a request that is answered by a list. */
  askList(request: RequestBody, fds: number[] = []): Promise<number | number[]> {
    const { channel } = this
    if (!channel) return Promise.reject(new Failure('ERR_IO', `shard ${this.index}: is being restarted`))
    const id = this.nextId++
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      channel.send({ id, ...request }, fds)
      this.flushLater(channel)
    })
  }

  /** Resolves when no process of it is being replaced: all that it carries has been told again. */
  whole(): Promise<void> {
    return this.replaced?.promise ?? Promise.resolve()
  }

  /** Whoever `onRestart` called has told everything again. */
  restored(): void {
    this.replaced?.resolve()
    this.replaced = null
  }

  /** Wakes the shard: something was put into the inject ring. */
  signal(): void {
    if (this.isHolding) this.isCalled = true
    else native.signalEvent(this.wake)
  }

  /** Runs what may inject many frames: the shard is woken once, when all are there. */
  together(work: () => void): void {
    this.isHolding = true
    try {
      work()
    } finally {
      this.isHolding = false
      if (this.isCalled) this.signal()
      this.isCalled = false
    }
  }

  /** Runs what asks for much: the shard carries no frame before it has done all of it. */
  atOnce(work: () => void): void {
    this.ask({ do: 'hold' }).catch(() => undefined)
    try {
      work()
    } finally {
      this.ask({ do: 'go' }).catch(() => undefined)
    }
  }

  /** All but what runs on it, which the fabric knows. */
  status(): Omit<ShardStatus, 'networks' | 'ports'> {
    const { header } = this.arena
    return {
      index: this.index,
      pid: this.child?.pid ?? 0,
      restarts: this.restarts,
      cpuSeconds: this.child?.pid === undefined ? 0 : (processSeconds(this.child.pid) ?? 0),
      pool: {
        slots: header[HEADER_SMALL_SLOTS] + header[HEADER_LARGE_SLOTS],
        free: header[HEADER_FREE_SMALL_COUNT] + header[HEADER_FREE_LARGE_COUNT],
      },
      fdb: {
        capacity: header[HEADER_FDB_CAPACITY] >> 1,
        used: header[HEADER_FDB_USED],
        learned: header[HEADER_FDB_LEARNED] >>> 0,
        expired: header[HEADER_FDB_EXPIRED] >>> 0,
        evicted: header[HEADER_FDB_EVICTED] >>> 0,
        moved: header[HEADER_FDB_MOVED] >>> 0,
        refused: header[HEADER_FDB_REFUSED] >>> 0,
      },
      neighbors: {
        capacity: header[HEADER_NEIGHBOR_CAPACITY],
        used: header[HEADER_NEIGHBORS_USED],
        evicted: header[HEADER_NEIGHBORS_EVICTED] >>> 0,
        failed: header[HEADER_NEIGHBORS_FAILED] >>> 0,
      },
      connections: {
        capacity: header[HEADER_CONNECTION_CAPACITY],
        used: header[HEADER_CONNECTIONS_USED],
        made: header[HEADER_CONNECTIONS_MADE] >>> 0,
        expired: header[HEADER_CONNECTIONS_EXPIRED] >>> 0,
        evicted: header[HEADER_CONNECTIONS_EVICTED] >>> 0,
        refused: header[HEADER_CONNECTIONS_REFUSED] >>> 0,
        invalid: header[HEADER_CONNECTIONS_INVALID] >>> 0,
      },
      mappings: {
        capacity: header[HEADER_MAPPING_CAPACITY],
        used: header[HEADER_MAPPINGS_USED],
        refused: header[HEADER_MAPPINGS_REFUSED] >>> 0,
      },
      router: {
        packets: header[HEADER_ROUTED_PACKETS] >>> 0,
        fragmentsHeld: header[HEADER_FRAGMENTS_HELD],
        icmpSent: header[HEADER_ICMP_SENT] >>> 0,
        icmpLimited: header[HEADER_ICMP_LIMITED] >>> 0,
      },
    }
  }

  /** Ends the process and gives everything back. */
  async close(): Promise<void> {
    this.closing = true
    const { child } = this
    const gone = new Promise<void>((resolve) => {
      if (!child || child.exitCode !== null || child.signalCode !== null) resolve()
      else child.once('exit', () => resolve())
    })
    this.dropChannel('the shard is closed')
    child?.kill('SIGTERM')
    await gone
    native.unwatch(this.puntWatch)
    for (const fd of [this.memory, this.wake, this.punted]) native.close(fd)
  }

  private flushLater(channel: ShardChannel<Request, Reply>): void {
    if (this.flushTimer || channel.flush()) return
    this.flushTimer = setTimeout(() => {
      this.flushTimer = null
      if (this.channel === channel) this.flushLater(channel)
    }, FLUSH_AGAIN_MILLIS)
  }

  private read(channel: ShardChannel<Request, Reply>): void {
    for (let i = 0; i < READ_LIMIT && this.channel === channel; i++) {
      const next = channel.receive()
      if (next === null || next === 'closed') return // its end is told by the process's exit
      this.hear(next.message)
    }
  }

  private hear(reply: Reply): void {
    if ('id' in reply) {
      const waiting = this.waiting.get(reply.id)
      this.waiting.delete(reply.id)
      if ('error' in reply) waiting?.reject(new Failure('ERR_IO', reply.error))
      else waiting?.resolve(reply.result)
    } else if (reply.event === 'failed') {
      this.listener.onFailed(reply.port, reply.attachment, reply.code)
    } else if (reply.event === 'moved') {
      this.listener.onMoved(reply.moves)
    } else if (reply.event === 'logged') {
      this.listener.onLogged(reply.zone, reply.records)
    } else {
      this.ready?.resolve()
      this.ready = null
    }
  }

  private dropChannel(reason: string): void {
    const { channel } = this
    this.channel = null
    if (!channel) return
    native.unwatch(this.channelWatch)
    native.close(channel.fd)
    for (const { reject } of this.waiting.values()) reject(new Failure('ERR_IO', `shard ${this.index}: ${reason}`))
    this.waiting.clear()
  }

  private ended(child: ChildProcess, reason: string): void {
    if (this.child !== child || this.closing) return
    this.child = null
    this.replaced ??= deferred()
    this.dropChannel(`its process ended (${reason})`)
    this.ready?.reject(new Failure('ERR_IO', `shard ${this.index}: its process ended (${reason})`))
    this.ready = null
    const now = Date.now()
    this.deaths = [...this.deaths.filter((time) => now - time < RESTART_WINDOW_MILLIS), now]
    if (this.deaths.length > RESTARTS_MAX) {
      this.listener.onGivenUp(`shard ${this.index} ended ${this.deaths.length} times in a minute (${reason})`)
      return
    }
    this.restarts++
    this.start().then(
      () => this.listener.onRestart(reason),
      () => undefined, // its end has been handled above
    )
  }
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
