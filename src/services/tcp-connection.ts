/**
 * One TCP connection that the other end has opened (RFC 9293 section 3.10.7), for short dialogues of a few kilobytes.
 *
 *  state         | what came                    | then
 *  SYN_RECEIVED  | SYN again                    | SYN and ACK again
 *                | ACK of our SYN               | ESTABLISHED, the application is told
 *  ESTABLISHED   | FIN                          | CLOSE_WAIT, the application is told
 *                | (the application ends)       | FIN goes out behind the data: FIN_WAIT_1
 *  CLOSE_WAIT    | (the application ends)       | FIN goes out behind the data: LAST_ACK
 *  FIN_WAIT_1    | ACK of our FIN               | FIN_WAIT_2
 *                | FIN                          | CLOSING; with ACK of ours TIME_WAIT
 *  FIN_WAIT_2    | FIN                          | TIME_WAIT
 *  CLOSING       | ACK of our FIN               | TIME_WAIT
 *  LAST_ACK      | ACK of our FIN               | CLOSED
 *  TIME_WAIT     | FIN again                    | ACK again; CLOSED after 5 s
 *  any           | RST at the very next byte    | CLOSED
 *                | RST elsewhere in the window, | challenge ACK (RFC 5961)
 *                | SYN, ACK of what was not sent|
 *                | nothing new for 10 s         | RST, CLOSED
 *
 * Received bytes go to the application at once, so the window is always the same. What comes before its turn is dropped
 * and acknowledged again: the other end retransmits. Sent bytes are kept until acknowledged, 256 KiB at most, beyond
 * which the connection is reset; retransmission by RFC 6298 (0.2 s at least, as Linux has it), five times, after a loss
 * one segment at a time, else a window that starts at ten segments. A closed window is probed with one byte.
 */
import { FLAG_ACK, FLAG_FIN, FLAG_PSH, FLAG_RST, FLAG_SYN, type Segment } from './tcp-segment.js'

export const SYN_RECEIVED = 0
export const ESTABLISHED = 1
export const FIN_WAIT_1 = 2
export const FIN_WAIT_2 = 3
export const CLOSE_WAIT = 4
export const CLOSING = 5
export const LAST_ACK = 6
export const TIME_WAIT = 7
export const CLOSED = 8

const WINDOW = 16_384
const SEND_BYTES = 256 * 1024
const RETRIES = 5
const IDLE = 10_000
const LINGER = 5000
const RTO_FIRST = 1000
const RTO_LEAST = 200
const RTO_MOST = 8000
const INITIAL_SEGMENTS = 10
/** Acknowledgments older than the largest window are not believed (RFC 5961 section 5.2). */
const MOST_IN_FLIGHT = 65535
const NO_BYTES = new Uint8Array(0)

/** What a connection needs of its surroundings. */
export interface Wire {
  now(): number
  /** @param mss of the option, 0: none */
  send(to: TcpConnection, sequence: number, acknowledgment: number, flags: number, data: Uint8Array, mss: number): void
  /** an acknowledgment that anyone can provoke, so its rate is limited */
  challenge(to: TcpConnection): void
  opened(connection: TcpConnection): void
  closed(connection: TcpConnection): void
  /** its deadline has changed */
  scheduled(): void
}

export class TcpConnection {
  /** ingress port's name of whoever opened it */
  readonly port: string
  readonly opening: Segment
  readonly key: string
  state = SYN_RECEIVED
  /** milliseconds: when something new came last */
  active: number
  /** when `tick` has something to do */
  deadline = 0
  onData: (bytes: Uint8Array) => void = () => {}
  onEnd: () => void = () => {}
  onClose: () => void = () => {}

  private readonly wire: Wire
  private readonly mss: number
  private readonly ownMss: number
  private unacknowledged: number // the oldest byte that is not acknowledged
  private next: number // the next one to send
  private highest: number // behind the last one ever sent
  private sendWindow: number
  private windowSequence: number
  private windowAcknowledgment: number
  private congestion: number
  private expected: number // the next byte to receive
  private buffer: Uint8Array = NO_BYTES // from `unacknowledged` on, once our SYN is acknowledged
  private isEnding = false // FIN goes out behind the buffer
  private mustAcknowledge = false
  private isReceiving = false
  private retries = 0
  private rto = RTO_FIRST
  private roundTrip = 0
  private variation = 0
  private timedSequence = 0
  private timedSince = -1
  private retransmitAt = 0 // 0: nothing is on its way

  /** @param mss of the path: what fits into the MTU */
  constructor(key: string, port: string, opening: Segment, initial: number, mss: number, wire: Wire) {
    this.key = key
    this.port = port
    this.opening = opening
    this.wire = wire
    this.ownMss = mss
    this.mss = Math.max(64, Math.min(mss, opening.mss === 0 ? 536 : opening.mss))
    this.unacknowledged = initial
    this.next = initial
    this.highest = (initial + 1) | 0
    this.expected = (opening.sequence + 1) | 0
    this.sendWindow = opening.window
    this.windowSequence = opening.sequence
    this.windowAcknowledgment = initial
    this.congestion = INITIAL_SEGMENTS * this.mss
    this.active = wire.now()
    this.greet()
  }

  /** bytes 4 or 16 */
  get clientIp(): Uint8Array {
    return this.opening.source.ip
  }

  get window(): number {
    return WINDOW
  }

  /** Sends bytes, which are copied. Nothing happens on a connection that is ending or closed. */
  write(bytes: Uint8Array): void {
    if (this.isEnding || this.state === CLOSED) return
    if (this.buffer.length + bytes.length > SEND_BYTES) return this.abort()
    const joined = new Uint8Array(this.buffer.length + bytes.length)
    joined.set(this.buffer)
    joined.set(bytes, this.buffer.length)
    this.buffer = joined
    if (!this.isReceiving) this.output()
  }

  /** Ends our side once everything is sent. */
  end(): void {
    if (this.isEnding || this.state === CLOSED) return
    this.isEnding = true
    if (!this.isReceiving) this.output()
  }

  /** Resets. */
  abort(): void {
    if (this.state === CLOSED) return
    if (this.state !== TIME_WAIT) this.wire.send(this, this.next, this.expected, FLAG_RST | FLAG_ACK, NO_BYTES, 0)
    this.close()
  }

  private close(): void {
    if (this.state === CLOSED) return
    const wasOpen = this.state !== SYN_RECEIVED
    this.state = CLOSED
    this.buffer = NO_BYTES
    this.wire.closed(this)
    if (wasOpen) this.onClose()
  }

  private greet(): void {
    const initial = this.unacknowledged
    this.wire.send(this, initial, this.expected, FLAG_SYN | FLAG_ACK, NO_BYTES, this.ownMss)
    this.next = (initial + 1) | 0
    this.arm()
  }

  private arm(): void {
    this.retransmitAt = this.wire.now() + this.rto
    this.schedule()
  }

  private schedule(): void {
    const last = this.active + (this.state === TIME_WAIT ? LINGER : IDLE)
    this.deadline = this.retransmitAt > 0 ? Math.min(last, this.retransmitAt) : last
    this.wire.scheduled()
  }

  /** Whether a SYN is of a later incarnation than this lingering connection. */
  isBehind(segment: Segment): boolean {
    return ((segment.sequence - this.expected) | 0) > 0
  }

  acknowledge(): void {
    this.wire.send(this, this.next, this.expected, FLAG_ACK, NO_BYTES, 0)
  }

  receive(segment: Segment): void {
    const { flags, sequence } = segment
    const length = segment.payload.length + ((flags & FLAG_FIN) !== 0 ? 1 : 0)
    const offset = (sequence - this.expected) | 0
    if (this.state === SYN_RECEIVED && (flags & (FLAG_SYN | FLAG_ACK | FLAG_RST)) === FLAG_SYN && offset === -1)
      return this.greet()
    const isInWindow = offset >= 0 ? offset < WINDOW : offset + length > 0
    if ((flags & FLAG_RST) !== 0) {
      if (offset === 0) this.close()
      else if (offset > 0 && offset < WINDOW) this.wire.challenge(this)
      return
    }
    if ((flags & FLAG_SYN) !== 0) return this.wire.challenge(this)
    if (!isInWindow) return this.acknowledge()
    if ((flags & FLAG_ACK) === 0 || !this.acceptAcknowledgment(segment)) return
    if (this.isClosed() || length === 0) return this.output()
    this.take(segment, offset)
  }

  /** An application's callback may have closed it meanwhile. */
  private isClosed(): boolean {
    return this.state === CLOSED
  }

  /** False: the segment is not to be looked at further. */
  private acceptAcknowledgment(segment: Segment): boolean {
    const { acknowledgment } = segment
    const news = (acknowledgment - this.unacknowledged) | 0
    if (this.state === SYN_RECEIVED) {
      if (news !== 1) {
        this.wire.send(this, acknowledgment, 0, FLAG_RST, NO_BYTES, 0)
        return false
      }
      this.state = ESTABLISHED
      this.advance(acknowledgment, 0)
      this.updateWindow(segment)
      this.wire.opened(this)
      return !this.isClosed()
    }
    if (((acknowledgment - this.highest) | 0) > 0 || news < -MOST_IN_FLIGHT) {
      this.wire.challenge(this)
      return false
    }
    if (news > 0) {
      const bytes = Math.min(news, this.buffer.length)
      const isFinAcknowledged = news > this.buffer.length // our FIN counts as one
      this.buffer = this.buffer.subarray(bytes)
      this.advance(acknowledgment, bytes)
      if (isFinAcknowledged) this.finAcknowledged()
    }
    if (news >= 0) this.updateWindow(segment)
    return !this.isClosed()
  }

  private updateWindow(segment: Segment): void {
    const later = (segment.sequence - this.windowSequence) | 0
    if (later < 0 || (later === 0 && ((segment.acknowledgment - this.windowAcknowledgment) | 0) < 0)) return
    this.sendWindow = segment.window
    this.windowSequence = segment.sequence
    this.windowAcknowledgment = segment.acknowledgment
  }

  private advance(acknowledgment: number, bytes: number): void {
    const now = this.wire.now()
    if (this.timedSince >= 0 && ((acknowledgment - this.timedSequence) | 0) >= 0) {
      this.measure(now - this.timedSince)
      this.timedSince = -1
    }
    // what is new ends the back-off, even if it could not be timed (as Linux does)
    const estimate = this.roundTrip === 0 ? RTO_FIRST : this.roundTrip + 4 * this.variation
    this.rto = Math.min(RTO_MOST, Math.max(RTO_LEAST, estimate))
    this.unacknowledged = acknowledgment
    if (((this.next - acknowledgment) | 0) < 0) this.next = acknowledgment // they had what we began to send again
    this.congestion = Math.min(this.congestion + bytes, 65535)
    this.retries = 0
    this.active = now
    this.retransmitAt = this.next === acknowledgment ? 0 : now + this.rto
    this.schedule()
  }

  /** RFC 6298 section 2. */
  private measure(sample: number): void {
    if (this.roundTrip === 0) {
      this.roundTrip = Math.max(sample, 1)
      this.variation = sample / 2
    } else {
      this.variation = 0.75 * this.variation + 0.25 * Math.abs(this.roundTrip - sample)
      this.roundTrip = 0.875 * this.roundTrip + 0.125 * sample
    }
  }

  private finAcknowledged(): void {
    if (this.state === FIN_WAIT_1) this.state = FIN_WAIT_2
    else if (this.state === CLOSING) this.linger()
    else if (this.state === LAST_ACK) this.close()
  }

  private linger(): void {
    this.state = TIME_WAIT
    this.retransmitAt = 0
    this.active = this.wire.now()
    this.schedule()
  }

  /** Takes what the segment has that is next in turn. */
  private take(segment: Segment, offset: number): void {
    this.mustAcknowledge = true
    const { payload, flags } = segment
    const isOpen = this.state === ESTABLISHED || this.state === FIN_WAIT_1 || this.state === FIN_WAIT_2
    if (offset <= 0 && isOpen) {
      const bytes = payload.subarray(-offset, -offset + WINDOW)
      const isWhole = -offset + bytes.length === payload.length
      this.expected = (this.expected + bytes.length) | 0
      this.active = this.wire.now()
      this.isReceiving = true
      if (bytes.length > 0) this.onData(bytes)
      if (!this.isClosed() && (flags & FLAG_FIN) !== 0 && isWhole) this.takeFin()
      this.isReceiving = false
      if (this.isClosed()) return
      this.schedule()
    }
    this.output()
  }

  private takeFin(): void {
    this.expected = (this.expected + 1) | 0
    if (this.state === ESTABLISHED) {
      this.state = CLOSE_WAIT
      this.onEnd()
    } else if (this.state === FIN_WAIT_1) this.state = CLOSING
    else this.linger()
  }

  /** Sends what may be sent, and the acknowledgment that is due, with data if there is some. */
  private output(): void {
    if (this.state === SYN_RECEIVED || this.isClosed()) return
    for (;;) {
      const sent = (this.next - this.unacknowledged) | 0
      const left = this.buffer.length - sent
      const room = Math.min(this.sendWindow, this.congestion) - sent
      const count = Math.min(left, this.mss, room)
      const isFin = this.isEnding && count === left && left >= 0 && !(sent > this.buffer.length)
      if (count <= 0 && !(isFin && left === 0)) break
      this.transmit(sent, Math.max(count, 0), isFin)
    }
    if (this.mustAcknowledge) this.acknowledge()
    this.mustAcknowledge = false
    if (this.retransmitAt === 0 && (this.buffer.length > 0 || this.next !== this.unacknowledged)) this.arm()
  }

  private transmit(from: number, count: number, isFin: boolean): void {
    const data = this.buffer.subarray(from, from + count)
    const flags = FLAG_ACK | (isFin ? FLAG_FIN : 0) | (count > 0 ? FLAG_PSH : 0)
    this.wire.send(this, this.next, this.expected, flags, data, 0)
    this.mustAcknowledge = false
    this.next = (this.next + count + (isFin ? 1 : 0)) | 0
    if (((this.next - this.highest) | 0) > 0) {
      this.highest = this.next
      if (this.timedSince < 0) {
        this.timedSequence = this.next
        this.timedSince = this.wire.now()
      }
    }
    if (isFin && this.state === ESTABLISHED) this.state = FIN_WAIT_1
    else if (isFin && this.state === CLOSE_WAIT) this.state = LAST_ACK
    if (this.retransmitAt === 0) this.arm()
  }

  /** What is due at the deadline. */
  tick(now: number): void {
    if (this.state === TIME_WAIT) {
      if (now >= this.active + LINGER) this.close()
      return
    }
    if (now >= this.active + IDLE) return this.abort()
    if (this.retransmitAt === 0 || now < this.retransmitAt) return
    const isProbe = this.sendWindow === 0 && this.buffer.length > 0
    if (!isProbe && ++this.retries > RETRIES) return this.abort()
    this.rto = Math.min(2 * this.rto, RTO_MOST)
    this.timedSince = -1 // Karn: what is sent twice is not timed
    if (this.state === SYN_RECEIVED) return this.greet()
    this.congestion = this.mss
    this.next = this.unacknowledged
    this.retransmitAt = 0
    if (isProbe) this.transmit(0, 1, false)
    else this.output()
    this.arm()
  }
}
