/**
 * The channel between the control process and a shard: JSON messages and descriptors over a SOCK_SEQPACKET pair.
 *
 * A message that is too long for the socket travels as a sealed memory file whose descriptor comes along. A message
 * that finds the socket full waits in order here and goes with the next `flush`; the sender never blocks.
 */
import { readSync } from 'node:fs'
import type { CompiledNetwork } from '../dataplane/port-table.js'
import type { CompiledRouter } from '../dataplane/router/router-table.js'
import type { TableName } from '../dataplane/transfer.js'
import type { GuestChange } from '../ports/device.js'
import { check, native } from '../ports/native.js'
import { writeAll } from '../services/durable-file.js'

/** What the control process asks. Each is answered with `{ id, result }` or `{ id, error }`. */
export type Request = { id: number } & (
  | { do: 'configure'; network: CompiledNetwork }
  /** descriptors: the port's fd, and fdOut (of a stream: memory) if it has one; `attachment` comes with its events */
  | { do: 'attach'; port: number; kind: number; attachment: number }
  | { do: 'detach'; port: number }
  /** frames wait until `go`: what comes in between is done at once */
  | { do: 'hold' }
  | { do: 'go' }
  | { do: 'share'; port: number; change: GuestChange }
  | { do: 'static'; low: number; keyHigh: number; network: number; port: number }
  | { do: 'forget'; low: number; keyHigh: number; network: number }
  | { do: 'flush'; network: number; port: number; vid: number; statics: boolean }
  | { do: 'capture'; capture: number; network: number; port: number; program: number[] }
  | { do: 'release'; capture: number }
  /** null: the zone has no router any more */
  | { do: 'router'; zone: number; router: CompiledRouter | null }
  /** an IP address belongs to a port, and to a MAC unless both its words are 0 */
  | { do: 'bind'; segment: number; ip: number[]; macLow: number; macHigh: number; port: number }
  | { do: 'unbind'; segment: number; ip: number[] }
  /** a port leaves a segment, -1: all do; what the router knows of its hosts goes */
  | { do: 'leave'; segment: number; port: number }
  /** tells the hosts of a segment the MAC of the router's IPv4 address */
  | { do: 'announce'; segment: number; ip: number }
  | { do: 'flushConnections'; zone: number }
  /** answered by packets and bytes of each rule, see `Firewall.counters` */
  | { do: 'rules'; zone: number }
  /** copies the arena, as it is between two bursts, into the memory whose descriptor comes along */
  | { do: 'copy' }
  // Networks move to another shard, see `dataplane/transfer.ts`. Records travel in the memory that comes along.
  /** lets go of the devices of ports, and drops what waits of the packets of segments */
  | { do: 'halt'; segments: number[]; ports: number[] }
  /** answered by where to go on (-1: the table is done) and how many records were written */
  | { do: 'copyOut'; table: TableName; segments: number[]; from: number }
  /** answered by a number for each record, as far as it came: 0 refused, 1, of a mapping its entry + 1 */
  | { do: 'takeIn'; table: TableName; count: number }
  /** answered by where to go on; -1: the table is done */
  | { do: 'discard'; table: TableName; segments: number[]; from: number }
  /** what rules have counted, as `rules` answers it */
  | { do: 'count'; zone: number; counters: number[] }
  /** after a restart: forgets what the arena knows of other segments, which have moved away */
  | { do: 'keep'; segments: number[] }
)

/** A request as its sender writes it: the number is given by the sender's side of the channel. */
export type RequestBody = Request extends infer R ? (R extends { id: number } ? Omit<R, 'id'> : never) : never

export type Reply =
  | { id: number; result: number | number[] }
  | { id: number; error: string }
  /** the shard runs */
  | { event: 'ready' }
  /** a port's descriptor came to its end: code 0 closed by the peer, else errno */
  | { event: 'failed'; port: number; attachment: number; code: number }
  /** addresses that changed their port: MAC_LOW, KEY_HIGH, network, from, to each */
  | { event: 'moved'; moves: number[] }
  /** packets that rules log: LOG_WORDS each, see `router/firewall.ts` */
  | { event: 'logged'; zone: number; records: number[] }

/** Longest message in the socket itself. */
const INLINE_BYTES = 32768
const IN_MEMORY = Buffer.from('memory:')

export class ShardChannel<Sent, Received> {
  readonly fd: number
  private readonly inbox = Buffer.alloc(INLINE_BYTES + 64)
  /** `owned`: descriptors to close when the message is sent */
  private readonly waiting: { bytes: Buffer; fds: number[]; owned: number[] }[] = []

  constructor(fd: number) {
    this.fd = fd
  }

  /** Sends a message; the descriptors stay the caller's, who may close them at once. */
  send(message: Sent, fds: number[] = []): void {
    const text = Buffer.from(JSON.stringify(message))
    if (text.length <= INLINE_BYTES) {
      this.waiting.push({ bytes: text, fds: [...fds], owned: [] })
    } else {
      const memory = check(native.createMemory(text.length), 'message memory')
      writeAll(memory, text, 0)
      this.waiting.push({ bytes: Buffer.from(`memory:${text.length}`), fds: [memory, ...fds], owned: [memory] })
    }
    const last = this.waiting.at(-1)
    if (this.flush() || !last) return
    const copies = fds.map((fd) => check(native.duplicate(fd), 'descriptor'))
    last.fds.splice(last.fds.length - copies.length, copies.length, ...copies)
    last.owned.push(...copies)
  }

  /** Sends what waited. Returns whether all is sent. */
  flush(): boolean {
    for (let next = this.waiting[0]; next !== undefined; next = this.waiting[0]) {
      const result = native.sendMessage(this.fd, next.bytes, next.fds)
      if (result < 0 && (result === -EAGAIN || result === -ENOBUFS)) return false
      for (const fd of next.owned) native.close(fd)
      this.waiting.shift()
      check(result, 'shard channel')
    }
    return true
  }

  /**
   * The next message and its descriptors, which become the caller's; null: none now; 'closed': the other side is gone.
   */
  receive(): { message: Received; fds: number[] } | null | 'closed' {
    const got = native.receiveMessage(this.fd, this.inbox)
    const length = typeof got === 'number' ? got : got[0]
    if (length === -EAGAIN) return null
    if (length === 0 || length === -ECONNRESET) return 'closed'
    check(length, 'shard channel')
    const fds = typeof got === 'number' ? [] : got.slice(1)
    const bytes = this.inbox.subarray(0, length)
    if (!bytes.subarray(0, IN_MEMORY.length).equals(IN_MEMORY)) return { message: JSON.parse(bytes.toString()), fds }
    const memory = fds.shift()
    if (memory === undefined) throw new Error('shard channel: a message in memory came without its memory')
    const text = Buffer.alloc(Number(bytes.subarray(IN_MEMORY.length)))
    readSync(memory, text, 0, text.length, 0)
    native.close(memory)
    return { message: JSON.parse(text.toString()), fds }
  }
}

const EAGAIN = 11
const ECONNRESET = 104
const ENOBUFS = 105
