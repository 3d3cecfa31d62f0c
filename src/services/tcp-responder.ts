/**
 * A passive TCP endpoint for the router's own services: frames in, frames out, connections in between. It listens on
 * one port of whatever addresses the router has; which frames are for the router is decided before.
 *
 * Its tables hold 20 connections, 4 of them of one client (an ingress port), half-open ones included. Who wants one
 * more takes the place of a half-open or lingering connection of his own, the oldest first. If all 20 are taken, the
 * client with most gives way: one that is not open, else its longest idle one, as long as it has more than the
 * newcomer. So a guest that opens and never speaks keeps out itself alone, and no SYN cookies are needed. Beyond that
 * RST.
 *
 * Initial sequence numbers are those of RFC 6528: a clock of 4 us and a keyed hash of the four addresses. A segment
 * that belongs to no connection is answered with RST (RFC 9293 section 3.10.7.1). RST and challenge ACKs (RFC 5961
 * section 7) are 100 a second each at most. One timer runs, and only while there are connections; it keeps no process
 * alive.
 *
 * Not done: connections of our own, window scaling, SACK, time stamps, urgent data, path MTU discovery (the segment
 * size is what fits into the network's MTU), IPv4 fragments.
 */
import { createHash, randomBytes } from 'node:crypto'
import { CLOSED, SYN_RECEIVED, TIME_WAIT, TcpConnection, type Wire } from './tcp-connection.js'
import { FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, type Segment, readSegment, writeSegment } from './tcp-segment.js'

export type { TcpConnection } from './tcp-connection.js'

const CONNECTIONS = 20
const CONNECTIONS_OF_PORT = 4
const CHALLENGES = 100

/** Time, replaceable in tests. */
export interface Timers {
  /** milliseconds, from a clock that never goes back */
  now(): number
  /** calls back once after some milliseconds; returns what undoes it */
  after(milliseconds: number, callback: () => void): () => void
}

const SYSTEM_TIMERS: Timers = {
  now: () => performance.now(),
  after: (milliseconds, callback) => {
    const timer = setTimeout(callback, milliseconds)
    timer.unref()
    return () => clearTimeout(timer)
  },
}

export interface ResponderOptions {
  /** the router's: 6 bytes */
  mac: Uint8Array
  /** the port that is listened on */
  listen: number
  onConnection: (connection: TcpConnection) => void
  /** takes a frame, which is its own, to be put out of the router's port; `port` is where the client is */
  send: (frame: Uint8Array, port: string) => void
  /** bytes of an IP packet */
  mtu?: number
  timers?: Timers
}

export class TcpResponder implements Wire {
  /** connections opened, refused for lack of room, and closed to make room */
  opens = 0
  refused = 0
  evicted = 0
  private readonly mac: Uint8Array
  private readonly listen: number
  private readonly onConnection: (connection: TcpConnection) => void
  private readonly out: (frame: Uint8Array, port: string) => void
  private mtu: number
  private readonly timers: Timers
  private readonly connections = new Map<string, TcpConnection>()
  private readonly secret = randomBytes(16)
  private stopTimer: (() => void) | null = null
  private timerAt = 0
  private second = 0
  private challenges = 0
  private resets = 0

  constructor({ mac, listen, onConnection, send, mtu = 1500, timers = SYSTEM_TIMERS }: ResponderOptions) {
    this.mac = mac
    this.listen = listen
    this.onConnection = onConnection
    this.out = send
    this.mtu = mtu
    this.timers = timers
  }

  /** connections, half-open and lingering ones included */
  get size(): number {
    return this.connections.size
  }

  /** For connections to come. */
  setMtu(mtu: number): void {
    this.mtu = mtu
  }

  /** Resets all connections. */
  close(): void {
    for (const connection of this.connections.values()) connection.abort()
    this.stopTimer?.()
    this.stopTimer = null
  }

  /**
   * Takes a frame to the router's address. False: it is no sound TCP segment to our port, and nothing came of it.
   * @param frame untagged; read during the call alone
   * @param port name of the ingress port
   * @param isUnfinished the TCP checksum is not to be verified: it is left to whoever sends the frame on
   */
  receive(frame: Uint8Array, port: string, isUnfinished = false): boolean {
    const segment = readSegment(frame, isUnfinished)
    if (segment === null || segment.destination.port !== this.listen) return false
    if (!segment.destination.mac.every((byte, i) => byte === this.mac[i])) return false
    const { source, destination } = segment
    const key = `${port} ${source.ip.join('.')} ${source.port} ${destination.ip.join('.')}`
    let connection = this.connections.get(key)
    const isOpening = (segment.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST)) === FLAG_SYN
    if (connection?.state === TIME_WAIT && isOpening && connection.isBehind(segment)) {
      this.closed(connection) // RFC 9293 section 3.10.7.4: a new incarnation
      connection = undefined
    }
    if (connection) connection.receive(segment)
    else if (isOpening) this.open(key, port, segment)
    else if ((segment.flags & FLAG_RST) === 0) this.reset(segment, port)
    this.arm()
    return true
  }

  private open(key: string, port: string, segment: Segment): void {
    if (!this.makeRoom(port)) {
      this.refused++
      return this.reset(segment, port)
    }
    this.opens++
    const mss = this.mtu - (segment.source.ip.length === 4 ? 40 : 60)
    const connection = new TcpConnection(key, port, segment, this.initialSequence(key), mss, this)
    this.connections.set(key, connection)
  }

  private makeRoom(port: string): boolean {
    const counts = new Map<string, number>()
    for (const { port: other } of this.connections.values()) counts.set(other, (counts.get(other) ?? 0) + 1)
    const own = counts.get(port) ?? 0
    if (own >= CONNECTIONS_OF_PORT) return this.evict(port, false)
    if (this.connections.size < CONNECTIONS) return true
    let most = own
    let victim = port
    for (const [other, count] of counts)
      if (count > most) {
        most = count
        victim = other
      }
    // whoever has two more than the newcomer gives way even with open ones; taking turns with equals helps nobody
    return this.evict(victim, most > own + 1)
  }

  /** Closes a client's connection that is not open, or with `isForced` its longest idle one. */
  private evict(port: string, isForced: boolean): boolean {
    let victim: TcpConnection | null = null
    let rank = -1
    for (const connection of this.connections.values()) {
      if (connection.port !== port) continue
      const isUseless = connection.state === SYN_RECEIVED || connection.state === TIME_WAIT
      if (!isUseless && !isForced) continue
      const idle = this.now() - connection.active + (isUseless ? 1e9 : 0)
      if (idle <= rank) continue
      rank = idle
      victim = connection
    }
    if (victim === null) return false
    this.evicted++
    victim.abort()
    return true
  }

  private initialSequence(key: string): number {
    const hash = createHash('sha256').update(this.secret).update(key).digest()
    return (hash.readInt32BE(0) + Math.floor((this.now() * 250) % 0x100000000)) | 0
  }

  /** Answers a segment that belongs to no connection. */
  private reset(segment: Segment, port: string): void {
    this.countSecond()
    if (++this.resets > CHALLENGES) return
    const { flags, sequence, acknowledgment, payload } = segment
    const hasAck = (flags & FLAG_ACK) !== 0
    const length = payload.length + ((flags & FLAG_SYN) !== 0 ? 1 : 0) + ((flags & FLAG_FIN) !== 0 ? 1 : 0)
    const frame = writeSegment({
      source: { ...segment.destination, mac: this.mac },
      destination: segment.source,
      sequence: hasAck ? acknowledgment : 0,
      acknowledgment: hasAck ? 0 : (sequence + length) | 0,
      flags: hasAck ? FLAG_RST : FLAG_RST | FLAG_ACK,
      window: 0,
      mss: 0,
      payload: new Uint8Array(0),
    })
    this.out(frame, port)
  }

  private countSecond(): void {
    const second = Math.floor(this.now() / 1000)
    if (second === this.second) return
    this.second = second
    this.challenges = 0
    this.resets = 0
  }

  // ---- what connections call ----

  now(): number {
    return this.timers.now()
  }

  send(
    to: TcpConnection,
    sequence: number,
    acknowledgment: number,
    flags: number,
    payload: Uint8Array,
    mss: number,
  ): void {
    const { source, destination } = to.opening
    this.out(
      writeSegment({
        source: { ...destination, mac: this.mac },
        destination: source,
        sequence,
        acknowledgment,
        flags,
        window: (flags & FLAG_RST) !== 0 ? 0 : to.window,
        mss,
        payload,
      }),
      to.port,
    )
  }

  challenge(to: TcpConnection): void {
    this.countSecond()
    if (++this.challenges <= CHALLENGES) to.acknowledge()
  }

  opened(connection: TcpConnection): void {
    this.onConnection(connection)
  }

  closed(connection: TcpConnection): void {
    if (this.connections.get(connection.key) === connection) this.connections.delete(connection.key)
  }

  /** A connection has something to do at another time. */
  scheduled(): void {
    this.arm()
  }

  private arm(): void {
    let next = Number.POSITIVE_INFINITY
    for (const { deadline } of this.connections.values()) next = Math.min(next, deadline)
    if (this.stopTimer !== null && this.timerAt <= next) return // it arms again for what is later
    this.stopTimer?.()
    this.stopTimer = null
    if (next === Number.POSITIVE_INFINITY) return
    this.timerAt = next
    this.stopTimer = this.timers.after(Math.max(1, Math.ceil(next - this.now())), () => this.tick())
  }

  private tick(): void {
    this.stopTimer = null
    const now = this.now()
    for (const connection of this.connections.values())
      if (connection.state !== CLOSED && connection.deadline <= now) connection.tick(now)
    this.arm()
  }
}
