/**
 * TCP as a router in the middle sees it: which state a connection is in, and which segments belong to it.
 *
 * Two things are judged of each segment. Its flags, by the table in `tcp-states.ts`. And its numbers, by windows:
 * of each end the router remembers (as Guido van Rooij's "Real Stateful TCP Packet Filtering" has it, and RFC 9293
 * section 3.4 for the ends themselves)
 *
 *   END     the number behind the highest byte it has sent
 *   LIMIT   the highest number that the other end has allowed it: acknowledgement + window, at most so far
 *   ACK     the highest number that it has acknowledged
 *   WINDOW  the largest window that it has offered, scaled (RFC 7323), in units of 256 bytes
 *
 * and a segment of length n with sequence number s and acknowledgement a, from one end to the other, is valid if
 *
 *   s <= LIMIT                             it is not beyond what the other end takes
 *   s + n >= END - WINDOW of the other     it is not older than what can still be missing
 *   a <= END of the other                  it acknowledges nothing that was not sent
 *   a >= ACK - WINDOW                      nor something much older than what it has before (RFC 5961 section 5)
 *
 * All comparisons are modulo 2^32. SACK needs no reading: its blocks lie between ACK and END, and the plain
 * acknowledgement beside them is judged by itself. A segmentation-offload frame is one long segment. Of a first
 * fragment the length is not known: it is taken to be as long as the limit allows. Later fragments are not judged. What
 * is much older than a window is a copy that the network has held back; to drop it harms nobody.
 *
 * RST (RFC 5961 section 3). One that has exactly the expected number ends the connection. One elsewhere in the window
 * passes, for the receiver to challenge, and changes nothing here. Any other is invalid. An answer to a SYN must
 * acknowledge it.
 *
 * A SYN within a connection (RFC 5961 section 4). From the end that began it: its host may have lost its memory, so it
 * passes, and is remembered. If the other end has forgotten too, its SYN-ACK for that number begins the connection
 * anew; if not, it challenges, the first answers with an exact RST, and its next SYN finds the connection reset. From
 * the other end it is invalid. Where the connection is over (time-wait, reset), a SYN from either end is no part of it.
 *
 * Half-closed connections keep the established timeout, as RFC 6146 section 3.5.2 has it: one end may long be silent
 * while the other works. They may give way, though, as may all that are closing.
 *
 * Not done: picking up connections in the middle; timestamps (PAWS); urgent data; the payload.
 */
import type { Pool } from '../burst.js'
import * as entryLayout from './connection-entry.js'
import type { Connections } from './connections.js'
import * as headerTypes from './headers.js'
import type { Headers } from './headers.js'
import * as tcpStates from './tcp-states.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { CONN_REOPEN, CONN_TCP, CONN_WORDS, STATE_SHIFT } = entryLayout
const { FRAGMENT_FIRST, FRAGMENT_LATER } = headerTypes
const { ANSWER, BOTH, DONE, EVENTS, HALF, KINDS, NEXT, OK, OPEN, OV, REOPENED, RST, SYN, SYN_ACK, XX } = tcpStates
const { CLOSING, NONE, PLACES, PLACE_MASK, STATES, SYN_CROSSED, SYN_RECEIVED, SYN_SENT } = tcpStates

/** What `track` returns beside a status, which is never negative. */
export const JUDGED_INVALID = -1
/** The segment passes, and is no sign of life. */
export const JUDGED_PASSES = -2
/** The connection is over: the segment may begin another. */
export const JUDGED_OVER = -3

// Words of an end, from CONN_TCP on.
const END = 0
const LIMIT = 1
const ACK = 2 // before HAS_ACKED: the least that it may acknowledge
const WINDOW = 3 // window, HAS_* and the shift of its window scale
const END_WORDS = 4
const WINDOW_MASK = ~0xff
const HAS_SCALE = 0x10 // its SYN had the option; scaling is in force if both have it
const HAS_ACKED = 0x20 // it has acknowledged the other's SYN
const HAS_FIN = 0x40 // it has sent FIN
const SCALE_MASK = 0x0f
const SCALE_MAX = 14

// Words from CONN_REOPEN on: a SYN within the connection, from the end that began it.
const REOPEN_NEXT = 0 // number behind the SYN
const REOPEN_WINDOW = 1 // as WINDOW; 0: none seen

/** Acknowledgements may at least be so old, however small the window. */
const ACK_SLACK = 66000
const SEGMENT_MAX = 65535

// Bytes of the TCP header.
const SEQUENCE = 4
const ACKNOWLEDGEMENT = 8
const HEADER_WORDS = 12
const FLAGS = 13
const OFFERED = 14
const OPTIONS = 20
const OPTION_SCALE = 3
const FIN_BIT = 0x01
const SYN_BIT = 0x02
const ACK_BIT = 0x10

export class ConntrackTcp {
  private readonly view: DataView
  private readonly words: Int32Array
  // the segment in hand
  private sequence = 0
  private behind = 0 // the number behind its last byte
  private acknowledgement = 0
  private window = 0 // as offered: not scaled

  constructor(pool: Pool, connections: Connections) {
    this.view = pool.view
    this.words = connections.words
  }

  /** Whether a segment may begin a connection: SYN alone. */
  mayBegin(h: Headers): boolean {
    return h.fragment !== FRAGMENT_LATER && this.kindOf(h) === SYN
  }

  /** Begins a connection with a SYN. Returns its status. */
  begin(entry: number, h: Headers, status: number): number {
    this.read(h)
    const at = entry * CONN_WORDS
    this.open(at + CONN_TCP, h)
    this.words[at + CONN_TCP + END_WORDS + ACK] = (this.sequence + 1) | 0
    this.words[at + CONN_REOPEN + REOPEN_WINDOW] = 0
    return (status & ~PLACE_MASK) | PLACES[SYN_SENT]
  }

  /** Judges a segment and takes it in. Returns the connection's status from now on, or JUDGED_*. */
  track(match: number, h: Headers, status: number): number {
    if (h.fragment === FRAGMENT_LATER) return status
    const kind = this.kindOf(h)
    if (kind === XX) return JUDGED_INVALID
    this.read(h)
    const direction = match & 1
    const state = (status >> STATE_SHIFT) & 0xf
    const at = (match >> 1) * CONN_WORDS
    const sender = at + CONN_TCP + direction * END_WORDS
    const receiver = at + CONN_TCP + (direction ^ 1) * END_WORDS
    let event = kind
    if (kind === ANSWER) {
      if (state > SYN_SENT) {
        if (!this.isInWindow(sender, receiver, h)) return JUDGED_INVALID
        this.advance(sender, receiver, this.scaled(sender, receiver))
        if ((this.view.getUint8(h.l4 + FLAGS) & FIN_BIT) !== 0) this.words[sender + WINDOW] |= HAS_FIN
        event = this.phase(at)
      }
    } else if (kind === RST) {
      const verdict = this.judgeReset(sender, receiver, state, direction, h)
      if (verdict !== RST) return verdict
    } else if (kind === SYN) {
      this.takeSyn(sender, receiver, state, direction, h)
    } else {
      event = this.takeSynAck(at, state, direction, h)
      if (event === REOPENED) return (status & ~PLACE_MASK) | PLACES[SYN_RECEIVED]
      if (event === XX) return JUDGED_INVALID
    }
    const next = NEXT[(direction * EVENTS + event) * STATES + state]
    if (next < STATES) return next === state ? status : (status & ~PLACE_MASK) | PLACES[next]
    return next === OK ? JUDGED_PASSES : next === OV ? JUDGED_OVER : JUDGED_INVALID
  }

  private kindOf(h: Headers): number {
    const flags = this.view.getUint8(h.l4 + FLAGS)
    return KINDS[(flags & 7) | ((flags & ACK_BIT) >> 1)]
  }

  private read(h: Headers): void {
    const { view } = this
    const { l4 } = h
    const flags = view.getUint8(l4 + FLAGS)
    const payload = h.end - l4 - ((view.getUint8(l4 + HEADER_WORDS) >> 4) << 2)
    this.sequence = view.getInt32(l4 + SEQUENCE)
    // SYN and FIN have a number each
    this.behind = (this.sequence + payload + ((flags & SYN_BIT) >> 1) + (flags & FIN_BIT)) | 0
    this.acknowledgement = view.getInt32(l4 + ACKNOWLEDGEMENT)
    this.window = view.getUint16(l4 + OFFERED)
  }

  private isInWindow(sender: number, receiver: number, h: Headers): boolean {
    const { words, sequence, acknowledgement } = this
    if (h.fragment === FRAGMENT_FIRST) this.stretch(sender)
    if (((sequence - words[sender + LIMIT]) | 0) > 0) return false
    const oldest = (words[sender + END] - (words[receiver + WINDOW] & WINDOW_MASK)) | 0
    if (((this.behind - oldest) | 0) < 0) return false
    if (((acknowledgement - words[receiver + END]) | 0) > 0) return false
    const window = words[sender + WINDOW]
    const age = (words[sender + ACK] - acknowledgement) | 0
    if ((window & HAS_ACKED) === 0) return age <= 0
    return age <= (window & WINDOW_MASK) || age <= ACK_SLACK
  }

  /** A first fragment: as long as it may be. */
  private stretch(sender: number): void {
    const limit = this.words[sender + LIMIT]
    let behind = (this.sequence + SEGMENT_MAX) | 0
    if (((behind - limit) | 0) > 0) behind = limit
    if (((behind - this.behind) | 0) > 0) this.behind = behind
  }

  /** The window that the segment offers, when the handshake is done. */
  private scaled(sender: number, receiver: number): number {
    const window = this.words[sender + WINDOW]
    const isScaled = (window & this.words[receiver + WINDOW] & HAS_SCALE) !== 0
    return isScaled ? this.window << (window & SCALE_MASK) : this.window
  }

  /** Writes down what a valid segment, which offers so large a window, says of both ends. */
  private advance(sender: number, receiver: number, offered: number): void {
    const { words, acknowledgement } = this
    const window = words[sender + WINDOW]
    const isFirst = (window & HAS_ACKED) === 0
    if (((this.behind - words[sender + END]) | 0) > 0) words[sender + END] = this.behind
    if (isFirst || ((acknowledgement - words[sender + ACK]) | 0) > 0) words[sender + ACK] = acknowledgement
    if (isFirst || offered > (window & WINDOW_MASK)) words[sender + WINDOW] = largerWindow(window, offered) | HAS_ACKED
    // a closed window may be probed with one byte
    const limit = (acknowledgement + (offered === 0 ? 1 : offered)) | 0
    if (((limit - words[receiver + LIMIT]) | 0) > 0) words[receiver + LIMIT] = limit
  }

  /** The event of a segment with ACK, from what is written down. */
  private phase(at: number): number {
    const { words } = this
    const original = at + CONN_TCP
    const other = original + END_WORDS
    const both = words[original + WINDOW] & words[other + WINDOW]
    const either = words[original + WINDOW] | words[other + WINDOW]
    if ((both & HAS_ACKED) === 0) return ANSWER
    if ((either & HAS_FIN) === 0) return OPEN
    if ((both & HAS_FIN) === 0) return HALF
    return words[original + END] === words[other + ACK] && words[other + END] === words[original + ACK] ? DONE : BOTH
  }

  /** RST if it counts as one, else what to return of it. */
  private judgeReset(sender: number, receiver: number, state: number, direction: number, h: Headers): number {
    const { words, sequence } = this
    if (state === NONE) return JUDGED_INVALID
    if (state === SYN_SENT) {
      if (direction === 0) return sequence === words[sender + END] ? RST : JUDGED_PASSES
      const hasAck = (this.view.getUint8(h.l4 + FLAGS) & ACK_BIT) !== 0
      return hasAck && this.answersSyn(sender, receiver) ? RST : JUDGED_INVALID
    }
    const isExpected = (words[receiver + WINDOW] & HAS_ACKED) !== 0 && sequence === words[receiver + ACK]
    if (isExpected || sequence === words[sender + END]) return RST
    const oldest = (words[sender + END] - (words[receiver + WINDOW] & WINDOW_MASK)) | 0
    const isInside = ((sequence - oldest) | 0) >= 0 && ((sequence - words[sender + LIMIT]) | 0) <= 0
    return isInside ? JUDGED_PASSES : JUDGED_INVALID
  }

  private takeSyn(sender: number, receiver: number, state: number, direction: number, h: Headers): void {
    const { words } = this
    const next = (this.sequence + 1) | 0
    if (state === SYN_SENT) {
      // repeated, or another attempt with another number; or the other end's
      this.open(sender, h)
      words[receiver + ACK] = next
      if (direction === 1) this.allow(sender, receiver, words[receiver + END])
    } else if (direction === 0 && state >= SYN_RECEIVED) {
      const age = (words[sender + END] - next) | 0
      if (age >= 0 && age <= (words[receiver + WINDOW] & WINDOW_MASK)) return // a copy of the one that began
      const reopen = sender - CONN_TCP + CONN_REOPEN
      words[reopen + REOPEN_NEXT] = next
      words[reopen + REOPEN_WINDOW] = largerWindow(this.scaleOption(h), this.window)
    }
  }

  /** Takes a SYN-ACK in. Returns the event, XX: invalid. */
  private takeSynAck(at: number, state: number, direction: number, h: Headers): number {
    const { words } = this
    const sender = at + CONN_TCP + direction * END_WORDS
    const receiver = at + CONN_TCP + (direction ^ 1) * END_WORDS
    if (state === SYN_CROSSED) {
      // it repeats the sender's SYN, and so its number
      if (!this.isInWindow(sender, receiver, h) || !this.answersSyn(sender, receiver)) return XX
      this.advance(sender, receiver, this.window)
      const event = this.phase(at)
      return event === ANSWER ? SYN_ACK : event
    }
    if (direction === 0 || state === NONE) return XX
    if (state === SYN_SENT || state === SYN_RECEIVED) {
      if (this.answersSyn(sender, receiver)) {
        const next = (this.sequence + 1) | 0
        // repeated; with another number by servers that keep nothing of a SYN
        if (state === SYN_SENT || next !== words[receiver + ACK]) this.answer(sender, receiver, next, h)
        return SYN_ACK
      }
      return this.reopens(at, h) ? REOPENED : XX
    }
    if (state > CLOSING) return SYN_ACK
    if (this.reopens(at, h)) return REOPENED
    return this.isInWindow(sender, receiver, h) ? SYN_ACK : XX
  }

  /** Writes down a SYN-ACK that answers the receiver's SYN. */
  private answer(sender: number, receiver: number, next: number, h: Headers): void {
    const { words } = this
    this.open(sender, h)
    words[sender + ACK] = this.acknowledgement
    words[sender + WINDOW] |= HAS_ACKED
    words[receiver + ACK] = next
    this.allow(sender, receiver, this.acknowledgement)
  }

  /** Whether the segment acknowledges the receiver's SYN, and nothing that was not sent. */
  private answersSyn(sender: number, receiver: number): boolean {
    const { words, acknowledgement } = this
    const least = words[sender + ACK]
    return ((acknowledgement - least) | 0) >= 0 && ((acknowledgement - words[receiver + END]) | 0) <= 0
  }

  /** Whether a SYN-ACK answers a SYN that was seen within the connection; it then begins anew. */
  private reopens(at: number, h: Headers): boolean {
    const { words } = this
    const original = at + CONN_TCP
    const next = words[at + CONN_REOPEN + REOPEN_NEXT]
    const window = words[at + CONN_REOPEN + REOPEN_WINDOW]
    if (window === 0 || this.acknowledgement !== next) return false
    words[original + END] = next
    words[original + WINDOW] = window
    words[at + CONN_REOPEN + REOPEN_WINDOW] = 0
    this.answer(original + END_WORDS, original, (this.sequence + 1) | 0, h)
    return true
  }

  /** Writes down what an end's SYN says of it. */
  private open(end: number, h: Headers): void {
    const { words } = this
    words[end + END] = this.behind
    words[end + LIMIT] = this.behind
    words[end + WINDOW] = largerWindow(this.scaleOption(h), this.window)
  }

  /**
   * How far both ends may send when both SYNs were seen: the receiver from `from` on. Windows of a SYN are not scaled.
   */
  private allow(sender: number, receiver: number, from: number): void {
    const { words } = this
    words[sender + LIMIT] = (words[sender + END] + (words[receiver + WINDOW] & WINDOW_MASK)) | 0
    words[receiver + LIMIT] = (from + this.window) | 0
  }

  /** The window scale option of a SYN, as it stands in WINDOW. */
  private scaleOption(h: Headers): number {
    const { view } = this
    const end = h.l4 + ((view.getUint8(h.l4 + HEADER_WORDS) >> 4) << 2)
    for (let at = h.l4 + OPTIONS; at < end; ) {
      const option = view.getUint8(at)
      if (option === 0) return 0
      if (option === 1) {
        at++
        continue
      }
      const length = at + 1 < end ? view.getUint8(at + 1) : 0
      if (length < 2 || at + length > end) return 0
      if (option === OPTION_SCALE && length === 3) return HAS_SCALE | Math.min(view.getUint8(at + 2), SCALE_MAX)
      at += length
    }
    return 0
  }
}

/** WINDOW with a larger window in it, of 256 bytes at least. */
function largerWindow(word: number, offered: number): number {
  const window = Math.max(word & WINDOW_MASK, ((offered === 0 ? 1 : offered) + 0xff) & WINDOW_MASK)
  return (word & ~WINDOW_MASK) | window
}
