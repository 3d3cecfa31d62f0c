/**
 * The client: `import { connect } from 'weft-switch'`.
 *
 *   const weft = await connect()                                  // the daemon of this user, by its unix socket
 *   const weft = await connect({ url: 'ws://127.0.0.1:7070', token })
 *   const ports = await weft.call('port.list', { network: 'default' })
 *   await weft.subscribe(['port.*'], event => console.log(event.type))
 *   await weft.capture({ network: 'default', filter: 'icmp' }, bytes => file.write(bytes))
 *   weft.close()
 *
 * Methods and their types are those of `rpc.discover`. A refusal rejects with `CallError`, whose `code` is a word such
 * as ERR_NETWORK_EXISTS; no daemon at the address rejects with `ConnectError`. When the connection ends, calls under
 * way reject and `closed` resolves. A connection has one capture at a time; a second is refused and the first goes on.
 *
 * A daemon that stands still is not waited for for ever: connecting ends after 10 s, a call after 120 s, or as said by
 * `connectSeconds` and `callSeconds`; a call that ends so may have been done all the same.
 */
import { connect as connectSocket } from 'node:net'
import { WebSocket } from 'ws'
import type { MethodName, Methods } from './api.js'
import type { CaptureEnd, PortRates } from './api-results.js'
import type { Event } from './network.js'
import { defaultSocket } from './places.js'

export type { MethodName, Methods } from './api.js'
export type { CaptureEnd, DoctorReport, PortRates, QemuAdvice, StatsEntry, StatusReport } from './api-results.js'
export type {
  ConnectionEntry,
  FdbEntry,
  Forward,
  Lease,
  NeighborEntry,
  NetworkStatus,
  PortStatus,
  RouteEntry,
  RuleEntry,
  ShardStatus,
  StaticEntry,
  StaticRoute,
  Subnet,
  TraceReport,
  UplinkStatus,
} from './model.js'
export type { Event } from './network.js'
export type { NameRecord } from './router-edits.js'

const BUSY_ATTEMPTS = 100
const BUSY_MILLIS = 50
const CONNECT_SECONDS = 10
const CALL_SECONDS = 120

export type Address = ({ socket: string } | { url: string; token: string }) & Patience

/** How long is waited, in seconds. */
export interface Patience {
  connectSeconds?: number
  callSeconds?: number
}

/** What `rates` notifications carry. */
export interface Rates {
  seconds: number
  ports: PortRates[]
}

/** The daemon refused a call. */
export class CallError extends Error {
  /** such as ERR_NETWORK_EXISTS; empty for errors of JSON-RPC itself */
  readonly code: string
  readonly path: string | null
  /** JSON-RPC's number */
  readonly number: number

  constructor(error: { code: number; message: string; data?: { code: string; path?: string } }) {
    super(error.message)
    this.name = 'CallError'
    this.code = error.data?.code ?? ''
    this.path = error.data?.path ?? null
    this.number = error.code
  }
}

/** There is no daemon at the address, it does not let us in, or the connection broke. */
export class ConnectError extends Error {
  /** somebody is there, but does not let us in */
  readonly refused: boolean
  /** of the system call, if one failed */
  readonly code: string | undefined

  constructor(message: string, refused = false, code?: string) {
    super(message)
    this.name = 'ConnectError'
    this.refused = refused
    this.code = code
  }
}

export interface Subscription {
  end(): Promise<void>
}

export interface RunningCapture {
  /** resolves when `count` frames have come or the capture was stopped */
  ended: Promise<CaptureEnd>
  stop(): Promise<CaptureEnd>
}

interface Pending {
  resolve(result: unknown): void
  reject(error: Error): void
}

/** Connects to a daemon; without an address, to the one of this user. */
export async function connect(address: Address = { socket: defaultSocket() }): Promise<Client> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await connectOnce(address)
    } catch (error) {
      // EAGAIN: more clients connect at this moment than the socket's queue holds.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN' || attempt === BUSY_ATTEMPTS) throw error
      await new Promise((resolve) => setTimeout(resolve, BUSY_MILLIS))
    }
  }
}

async function connectOnce(address: Address): Promise<Client> {
  const { connectSeconds = CONNECT_SECONDS, callSeconds = CALL_SECONDS } = address
  const options = { perMessageDeflate: false, maxPayload: 1 << 30 }
  const socket =
    'socket' in address
      ? new WebSocket('ws://localhost/rpc', { ...options, createConnection: () => connectSocket(address.socket) })
      : new WebSocket(address.url, { ...options, headers: { authorization: `Bearer ${address.token}` } })
  const name = 'socket' in address ? address.socket : address.url
  const client = new Client(socket, name, callSeconds)
  let late: NodeJS.Timeout | undefined
  await new Promise<void>((resolve, reject) => {
    // Of our own: what ws has for it does not reach a socket that it is given.
    late = setTimeout(() => {
      reject(new ConnectError(`${name}: the daemon does not answer within ${connectSeconds} s`, true))
      socket.terminate()
    }, connectSeconds * 1000)
    socket.once('open', resolve)
    socket.once('unexpected-response', (_request, response) => {
      let text = ''
      response.on('data', (chunk) => {
        text += chunk
      })
      response.on('end', () => reject(new ConnectError(`${name}: ${text.trim() || response.statusMessage}`, true)))
    })
    socket.once('error', (error) => {
      const { code } = error as NodeJS.ErrnoException
      const missing = code === 'ENOENT' || code === 'ECONNREFUSED'
      const sentence = missing ? `no daemon at ${name}` : `${name}: ${error.message}`
      reject(new ConnectError(sentence, !missing, code))
    })
  }).finally(() => clearTimeout(late))
  return client
}

export class Client {
  /** resolves when the connection has ended */
  readonly closed: Promise<void>
  private readonly socket: WebSocket
  private readonly name: string
  private readonly callSeconds: number
  private readonly pending = new Map<number, Pending>()
  private readonly subscribers = new Map<number, (method: string, params: never) => void>()
  /** notifications of subscriptions whose number is not known yet */
  private readonly early: { method: string; params: { subscription?: number } }[] = []
  private onBytes: ((bytes: Uint8Array) => void) | null = null
  private onEnded: ((end: CaptureEnd) => void) | null = null
  private onBroken: ((error: Error) => void) | null = null
  private last = 0

  constructor(socket: WebSocket, name: string, callSeconds: number) {
    this.socket = socket
    this.name = name
    this.callSeconds = callSeconds
    socket.on('message', (data, binary) => {
      if (binary) this.onBytes?.(data as Buffer)
      else this.receive((data as Buffer).toString())
    })
    socket.on('error', () => {})
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        this.broken()
        resolve()
      }),
    )
  }

  call<M extends MethodName>(method: M, params: Methods[M]['params']): Promise<Methods[M]['result']> {
    const id = ++this.last
    return new Promise((resolve, reject) => {
      if (this.socket.readyState !== WebSocket.OPEN) {
        reject(new ConnectError(`the connection to ${this.name} is closed`))
        return
      }
      const late = setTimeout(() => {
        this.pending.delete(id)
        reject(new ConnectError(`${this.name}: ${method} is not answered within ${this.callSeconds} s`, true))
      }, this.callSeconds * 1000)
      this.pending.set(id, {
        resolve: (result) => {
          clearTimeout(late)
          resolve(result as Methods[M]['result'])
        },
        reject: (error) => {
          clearTimeout(late)
          reject(error)
        },
      })
      this.socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    })
  }

  /** Hears of events: topics like `port.added`, `port.*`, `*`. `onDropped` tells that the daemon gave up on us. */
  subscribe(
    topics: string[],
    onEvent: (event: Event) => void,
    onDropped: (reason: string) => void = () => {},
  ): Promise<Subscription> {
    return this.follow({ topics }, (method, params) => {
      if (method === 'event') onEvent(params)
      else if (method === 'subscription.dropped') onDropped((params as { reason: string }).reason)
    })
  }

  /** Hears the rates of all active ports, or of one network's, at an interval. */
  rates(
    options: { network?: string; intervalSeconds?: number },
    onRates: (rates: Rates) => void,
  ): Promise<Subscription> {
    return this.follow({ ...options, topics: ['rates'] }, (method, params) => {
      if (method === 'rates') onRates(params)
    })
  }

  /** Receives captured frames as the bytes of one pcapng file. */
  async capture(
    params: Methods['capture.start']['params'],
    onBytes: (bytes: Uint8Array) => void,
  ): Promise<RunningCapture> {
    if (this.onBytes !== null) {
      const message = 'a connection has one capture at a time; open another for a second'
      throw new CallError({ code: -32000, message, data: { code: 'ERR_CAPACITY' } })
    }
    const over = () => {
      this.onBytes = this.onEnded = this.onBroken = null
    }
    const ended = new Promise<CaptureEnd>((resolve, reject) => {
      this.onEnded = (end) => {
        over()
        resolve(end)
      }
      this.onBroken = reject
    })
    ended.catch(() => {})
    this.onBytes = onBytes
    try {
      await this.call('capture.start', params)
    } catch (error) {
      over()
      throw error
    }
    return {
      ended,
      stop: async () => {
        try {
          const end = await this.call('capture.stop', {})
          this.onEnded?.(end)
        } catch (error) {
          // It has just ended by itself.
          if (!(error instanceof CallError) || error.code !== 'ERR_NOT_FOUND') throw error
        }
        return ended
      },
    }
  }

  /** Ends the connection, and with it subscriptions and the capture. */
  close(): void {
    this.socket.close()
  }

  private async follow(
    params: Methods['subscribe']['params'],
    hear: (method: string, params: never) => void,
  ): Promise<Subscription> {
    const { subscription } = await this.call('subscribe', params)
    this.subscribers.set(subscription, hear)
    for (const { method, params: told } of this.early.splice(0)) {
      if (told.subscription === subscription) hear(method, told as never)
    }
    return {
      end: async () => {
        this.subscribers.delete(subscription)
        await this.call('unsubscribe', { subscription })
      },
    }
  }

  private receive(text: string): void {
    const message = JSON.parse(text)
    if (message.method === undefined) {
      const call = this.pending.get(message.id)
      this.pending.delete(message.id)
      if (message.error === undefined) call?.resolve(message.result)
      else call?.reject(new CallError(message.error))
    } else if (message.method === 'capture.ended') {
      this.onEnded?.(message.params)
    } else {
      const hear = this.subscribers.get(message.params.subscription)
      if (hear !== undefined) hear(message.method, message.params as never)
      else if (this.early.length < 1000) this.early.push(message)
    }
  }

  /** The error that tells that the connection ended. */
  lost(): ConnectError {
    return new ConnectError(`the connection to ${this.name} ended`)
  }

  private broken(): void {
    const error = this.lost()
    for (const { reject } of this.pending.values()) reject(error)
    this.pending.clear()
    this.onBroken?.(error)
  }
}
