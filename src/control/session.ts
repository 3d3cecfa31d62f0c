/**
 * One client's connection: its calls, its subscriptions, its capture.
 *
 * Calls are answered one after another in the order they came; the next is taken up when the answer before it has gone
 * to the kernel, so a client that does not read is not served either, and holds at most one answer. Calls above 100 a
 * second (200 at once) wait: the connection is not read from meanwhile. A binary message is an error (1003). A client
 * that answers no ping for a minute is cut off. Above 32 MiB that wait to be sent, a capture included, the connection
 * is closed (1013). Slow subscriptions and captures end earlier, see there.
 */
import type { WebSocket } from 'ws'
import type { Party } from './admission.js'
import { CaptureStream } from './capture-stream.js'
import type { Fabric } from './model.js'
import type { Networks } from './networks.js'
import type { Dispatcher } from './rpc.js'
import { Subscriptions } from './subscriptions.js'

const CALLS_PER_SECOND = 100
const CALLS_AT_ONCE = 200
const WAITING_CALLS = 32
const CLOSE_BYTES = 32 << 20
const PINGS_MISSED = 2

export class Session {
  readonly subscriptions: Subscriptions
  readonly capture: CaptureStream
  /** who calls */
  readonly party: Party
  private readonly socket: WebSocket
  private readonly dispatcher: Dispatcher<Session>
  private readonly waiting: string[] = []
  private busy = false
  private open = true
  private allowance = CALLS_AT_ONCE
  private refilled = performance.now()
  private unsentMessages = 0
  private unanswered = 0

  constructor(socket: WebSocket, party: Party, networks: Networks, fabric: Fabric, dispatcher: Dispatcher<Session>) {
    this.socket = socket
    this.party = party
    this.dispatcher = dispatcher
    this.subscriptions = new Subscriptions(networks, {
      notify: (method, params) => this.notify(method, params),
      backlog: () => ({ messages: this.unsentMessages, bytes: socket.bufferedAmount }),
    })
    this.capture = new CaptureStream(networks, fabric, {
      send: (bytes) => void this.send(bytes),
      backlogBytes: () => socket.bufferedAmount,
      ended: (end) => this.notify('capture.ended', end),
    })
    socket.on('message', (data, binary) => {
      if (binary) socket.close(1003, 'text messages only')
      else this.receive((data as Buffer).toString())
    })
    socket.on('pong', () => {
      this.unanswered = 0
    })
    socket.on('error', () => socket.terminate())
    socket.on('close', () => this.end())
  }

  /** Called at an interval: asks whether the client is there. */
  ping(): void {
    if (this.unanswered >= PINGS_MISSED) {
      this.socket.terminate()
      return
    }
    this.unanswered++
    this.socket.ping()
  }

  /** Says good-bye. */
  close(): void {
    this.socket.close(1001, 'the daemon ends')
  }

  private receive(text: string): void {
    this.waiting.push(text)
    if (this.waiting.length >= WAITING_CALLS) this.socket.pause()
    if (!this.busy) void this.work()
  }

  private async work(): Promise<void> {
    this.busy = true
    while (this.open) {
      const text = this.waiting.shift()
      if (text === undefined) break
      const answer = await this.dispatcher.answer(text, this, () => this.allowance--)
      if (answer !== null) await this.send(answer)
      await this.allowed()
      if (this.waiting.length === 0 && this.open) this.socket.resume()
    }
    this.busy = false
  }

  /** Waits until the client may call again. */
  private async allowed(): Promise<void> {
    const now = performance.now()
    const earned = ((now - this.refilled) / 1000) * CALLS_PER_SECOND
    this.allowance = Math.min(CALLS_AT_ONCE, this.allowance + earned)
    this.refilled = now
    if (this.allowance > 0) return
    const millis = (1 - this.allowance) * (1000 / CALLS_PER_SECOND)
    await new Promise((resolve) => setTimeout(resolve, millis))
  }

  private notify(method: string, params: object): void {
    void this.send(JSON.stringify({ jsonrpc: '2.0', method, params }))
  }

  /** Resolves when the message has gone to the kernel, or never will. */
  private send(message: string | Uint8Array): Promise<void> {
    if (this.socket.bufferedAmount > CLOSE_BYTES) this.socket.close(1013, 'too much waits to be read')
    if (this.socket.readyState !== this.socket.OPEN) return Promise.resolve()
    this.unsentMessages++
    return new Promise((resolve) =>
      this.socket.send(message, () => {
        this.unsentMessages--
        resolve()
      }),
    )
  }

  private end(): void {
    this.open = false
    this.waiting.length = 0
    this.subscriptions.close()
    void this.capture.close().catch(() => {})
  }
}
