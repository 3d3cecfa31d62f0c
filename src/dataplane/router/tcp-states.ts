/**
 * The states of a TCP connection as a router in the middle sees them, and how segments change them: one table.
 * `conntrack-tcp.ts` decides by the numbers which event a segment is, and looks here what follows.
 *
 *   SYN_SENT -> SYN_RECEIVED -> ESTABLISHED -> HALF_CLOSED -> CLOSING -> TIME_WAIT
 *        \-> SYN_CROSSED ---------^                    any -> RESET
 *
 * The states are those of both ends together (RFC 9293 section 3.3.2 has those of one). Which end has sent FIN, and
 * what is acknowledged, stands with the windows; so a row holds for both directions but for what only one end may do.
 */
import * as entryLayout from './connection-entry.js'

const {
  CLASS_SHIFT,
  LIST_MASK,
  STATE_SHIFT,
  STATUS_ASSURED,
  TIMEOUT_TCP_CLOSING,
  TIMEOUT_TCP_ESTABLISHED,
  TIMEOUT_TCP_RESET,
  TIMEOUT_TCP_SYN,
  WORTH_ENDING,
  WORTH_KEPT,
  WORTH_SHIFT,
  WORTH_UNPROVEN,
} = entryLayout

// States.
export const NONE = 0 // made, but its SYN was not seen: the process died between the two
export const SYN_SENT = 1
export const SYN_CROSSED = 2 // simultaneous open: both have sent a SYN
export const SYN_RECEIVED = 3 // the SYN was answered
const ESTABLISHED = 4
const HALF_CLOSED = 5 // one end has sent FIN
export const CLOSING = 6 // both have
const TIME_WAIT = 7 // both are acknowledged
const RESET = 8
/** Outside the table: it did not begin with a SYN, so nothing is known of its numbers. */
export const UNFOLLOWED = 9

export const TCP_STATES: readonly string[] = [
  'none',
  'syn-sent',
  'syn-crossed',
  'syn-received',
  'established',
  'half-closed',
  'closing',
  'time-wait',
  'reset',
  'unfollowed',
]

/** By state: what CONN_STATUS says of it. */
export const PLACES = Int32Array.of(
  place(NONE, TIMEOUT_TCP_SYN, WORTH_UNPROVEN),
  place(SYN_SENT, TIMEOUT_TCP_SYN, WORTH_UNPROVEN),
  place(SYN_CROSSED, TIMEOUT_TCP_SYN, WORTH_UNPROVEN),
  place(SYN_RECEIVED, TIMEOUT_TCP_SYN, WORTH_UNPROVEN),
  place(ESTABLISHED, TIMEOUT_TCP_ESTABLISHED, WORTH_KEPT) | STATUS_ASSURED,
  place(HALF_CLOSED, TIMEOUT_TCP_ESTABLISHED, WORTH_ENDING) | STATUS_ASSURED,
  place(CLOSING, TIMEOUT_TCP_CLOSING, WORTH_ENDING) | STATUS_ASSURED,
  place(TIME_WAIT, TIMEOUT_TCP_CLOSING, WORTH_ENDING) | STATUS_ASSURED,
  place(RESET, TIMEOUT_TCP_RESET, WORTH_ENDING),
)
export const PLACE_MASK = (0xf << STATE_SHIFT) | (LIST_MASK << CLASS_SHIFT) | STATUS_ASSURED

function place(state: number, timeout: number, worth: number): number {
  return (state << STATE_SHIFT) | (timeout << CLASS_SHIFT) | (worth << WORTH_SHIFT)
}

// Events: a segment that is valid by its numbers, and what is known of both ends when they are written down.
export const SYN = 0
export const SYN_ACK = 1
export const ANSWER = 2 // any with ACK while one end has not acknowledged the other's SYN
export const OPEN = 3 // any with ACK, as those below: both have
export const HALF = 4 // and one end has sent FIN
export const BOTH = 5 // and both have
export const DONE = 6 // and both have acknowledged the other's
export const RST = 7 // with exactly the expected number
export const EVENTS = 8
export const STATES = 9
/** An event without a row: a SYN-ACK that answers a SYN within the connection. */
export const REOPENED = 12

// Verdicts beside the states.
export const XX = 15 // invalid
export const OK = 14 // passes, changes nothing
export const OV = 13 // over: no part of this connection

const SS = SYN_SENT
const SX = SYN_CROSSED
const SR = SYN_RECEIVED
const ES = ESTABLISHED
const HC = HALF_CLOSED
const CL = CLOSING
const TW = TIME_WAIT
const RS = RESET

/** The next state, by direction, event and state. */
// biome-ignore format: a table
export const NEXT = Uint8Array.of(
  // From the end that began.
  // none SS  SX  SR  ES  HC  CL  TW  RS
     OV,  SS, OK, OK, OK, OK, OK, OV, OV, // SYN: repeated; within a connection: remembered; after it: a new one
     XX,  XX, SX, XX, XX, XX, XX, XX, XX, // SYN_ACK: only if both began
     XX,  XX, SX, SR, XX, XX, XX, XX, RS, // ANSWER
     XX,  XX, ES, ES, ES, ES, ES, TW, RS, // OPEN: the third segment of the handshake, and all data
     XX,  XX, HC, HC, HC, HC, HC, TW, RS, // HALF
     XX,  XX, CL, CL, CL, CL, CL, TW, RS, // BOTH
     XX,  XX, TW, TW, TW, TW, TW, TW, RS, // DONE
     XX,  RS, RS, RS, RS, RS, RS, TW, RS, // RST: no reason to forget time-wait earlier (RFC 1337)
  // From the other end.
  // none SS  SX  SR  ES  HC  CL  TW  RS
     OV,  SX, OK, XX, XX, XX, XX, OV, OV, // SYN: simultaneous open (RFC 5382 REQ-2); after it: a new one, to be judged
     XX,  SR, SX, SR, OK, OK, OK, XX, XX, // SYN_ACK: the second segment; repeated, as the third was lost
     XX,  OK, SX, SR, XX, XX, XX, XX, RS, // ANSWER: before any SYN of its own, a challenge; early data of a server
     XX,  XX, ES, ES, ES, ES, ES, TW, RS, // OPEN
     XX,  XX, HC, HC, HC, HC, HC, TW, RS, // HALF
     XX,  XX, CL, CL, CL, CL, CL, TW, RS, // BOTH
     XX,  XX, TW, TW, TW, TW, TW, TW, RS, // DONE
     XX,  RS, RS, RS, RS, RS, RS, TW, RS, // RST: to a SYN, the port is closed
)

/** What a segment is, by its bits FIN, SYN, RST and ACK; all other combinations are nobody's (XX). */
export const KINDS = new Uint8Array(16).fill(XX)
KINDS[0b0010] = SYN
KINDS[0b1010] = SYN_ACK
KINDS[0b1000] = KINDS[0b1001] = ANSWER // ACK, FIN ACK
KINDS[0b0100] = KINDS[0b1100] = RST
