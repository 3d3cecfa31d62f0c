/**
 * One question to one upstream: over UDP, and over TCP if the answer does not fit or the datagrams cannot be trusted.
 *
 * Against forged answers (RFC 5452): a fresh socket, so a fresh port of the kernel's random choice; connected, so that
 * the kernel drops what comes from elsewhere; a random identifier; letters in random case
 * (draft-vixie-dnsext-dns0x20), which the answer must repeat. What does not match is ignored; after 8 such datagrams
 * the question goes over TCP.
 *
 *  seen over UDP                         | then
 *  other identifier, other question      | ignored
 *  the question, its case changed        | asked again in lower case, once; the upstream is remembered for it
 *  FORMERR, NOTIMP without OPT           | asked again without EDNS, once; likewise
 *  TC                                    | asked over TCP
 *  unsound message                       | failed
 *  socket's error (unreachable, refused) | failed
 *  anything else                         | answered
 *
 * Over TCP the first message must be the answer, else it failed. An attempt has no time limit of its own: whoever began
 * it closes it. Options are not passed on: they are between neighbours (RFC 6891 section 6.2.6).
 */
import { randomFillSync } from 'node:crypto'
import { type Socket as UdpSocket, createSocket } from 'node:dgram'
import { type Socket as TcpSocket, connect, isIP } from 'node:net'
import * as codec from './dns-codec.js'
import { FORMERR, MessageScan, NOTIMP, setWord, word } from './dns-codec.js'
import { isSameName } from './dns-name.js'
import { DnsFrames, framed } from './dns-stream.js'

const BAD_DATAGRAMS = 8
const PORT = 53

export class Upstream {
  /** an address, with IPv6 link-local ones also `%` and the interface */
  readonly address: string
  readonly port: number
  /** it does not repeat the case of a question */
  ignoresCase = false
  /** it refuses EDNS */
  refusesEdns = false

  constructor(address: string, port: number) {
    this.address = address
    this.port = port
  }

  toString(): string {
    if (this.port === PORT) return this.address
    return this.address.includes(':') ? `[${this.address}]:${this.port}` : `${this.address}:${this.port}`
  }
}

/** `ADDRESS`, `IPV4:PORT`, `[IPV6]:PORT`; null if it is none of these. */
export function parseUpstream(text: string): Upstream | null {
  if (isIP(text) !== 0) return new Upstream(text, PORT)
  const parts = /^(?:\[([^\]]+)\]|([\d.]+)):(\d{1,5})$/.exec(text)
  if (!parts) return null
  const address = parts[1] ?? parts[2]
  const port = Number(parts[3])
  return isIP(address) === (parts[1] === undefined ? 4 : 6) && port > 0 && port <= 65535
    ? new Upstream(address, port)
    : null
}

/** What is asked. */
export interface Question {
  /** uncompressed, lower case */
  readonly name: Uint8Array
  readonly type: number
  /** RD and CD as in the header */
  readonly flags: number
  readonly isDnssecOk: boolean
}

const pool = new Uint8Array(4096)
let drawn = pool.length

function randomByte(): number {
  if (drawn === pool.length) {
    randomFillSync(pool)
    drawn = 0
  }
  return pool[drawn++]
}

/** The message that asks. */
export function writeQuestion(question: Question, isCaseRandom: boolean, hasEdns: boolean): Uint8Array {
  const { name } = question
  const message = new Uint8Array(codec.HEADER_BYTES + name.length + 4 + (hasEdns ? codec.OPT_BYTES : 0))
  message[0] = randomByte()
  message[1] = randomByte()
  setWord(message, 2, question.flags | codec.FLAG_AD) // AD: tell whether the data is authentic (RFC 6840 section 5.7)
  setWord(message, 4, 1)
  let at = codec.HEADER_BYTES
  for (let i = 0; i < name.length; i++, at++) {
    const byte = name[i]
    message[at] = isCaseRandom && byte >= 0x61 && byte <= 0x7a && (randomByte() & 1) === 1 ? byte & 0xdf : byte
  }
  setWord(message, at, question.type)
  setWord(message, at + 2, codec.CLASS_IN)
  if (!hasEdns) return message
  setWord(message, 10, 1)
  setWord(message, at + 5, codec.TYPE_OPT)
  setWord(message, at + 7, codec.EDNS_BYTES)
  setWord(message, at + 11, question.isDnssecOk ? codec.EDNS_DO : 0)
  return message
}

const MATCH = 0
const MATCH_CASELESS = 1
const NO_MATCH = 2

/** Whether a message claims to answer `asked`. */
function compare(message: Uint8Array, asked: Uint8Array, nameBytes: number): number {
  const end = codec.HEADER_BYTES + nameBytes
  if (message.length < codec.HEADER_BYTES || word(message, 0) !== word(asked, 0)) return NO_MATCH
  if ((word(message, 2) & (codec.FLAG_QR | codec.OPCODE_BITS)) !== codec.FLAG_QR) return NO_MATCH
  // some servers leave the question out of FORMERR and NOTIMP
  const rcode = message[3] & 15
  if (word(message, 4) === 0 && (rcode === FORMERR || rcode === NOTIMP)) return MATCH
  if (message.length < end + 4 || word(message, 4) !== 1) return NO_MATCH
  for (let i = end; i < end + 4; i++) if (message[i] !== asked[i]) return NO_MATCH
  let isSame = true
  for (let i = codec.HEADER_BYTES; i < end && isSame; i++) isSame = message[i] === asked[i]
  if (isSame) return MATCH
  return isSameName(asked, codec.HEADER_BYTES, message, codec.HEADER_BYTES) ? MATCH_CASELESS : NO_MATCH
}

const scan = new MessageScan()

/** Called once: the answer, sound and matching; or null: there is none to be had. */
export type OnAnswered = (message: Uint8Array | null) => void

export class Attempt {
  readonly upstream: Upstream
  private readonly question: Question
  private readonly onAnswered: OnAnswered
  private asked: Uint8Array = new Uint8Array(0)
  private hasEdns = false
  private isCaseRandom = false
  private bad = 0
  private udp: UdpSocket | null = null
  private tcp: TcpSocket | null = null
  private isDone = false

  constructor(upstream: Upstream, question: Question, onAnswered: OnAnswered) {
    this.upstream = upstream
    this.question = question
    this.onAnswered = onAnswered
    this.ask()
  }

  /** Gives up: nothing is called any more. */
  close(): void {
    this.isDone = true
    this.closeSockets()
  }

  private closeSockets(): void {
    const { udp, tcp } = this
    this.udp = null
    this.tcp = null
    if (udp) {
      udp.removeAllListeners('message')
      udp.close()
    }
    tcp?.destroy()
  }

  private finish(message: Uint8Array | null): void {
    if (this.isDone) return
    this.close()
    this.onAnswered(message)
  }

  private write(): Uint8Array {
    this.hasEdns = !this.upstream.refusesEdns
    this.isCaseRandom = !this.upstream.ignoresCase
    this.asked = writeQuestion(this.question, this.isCaseRandom, this.hasEdns)
    return this.asked
  }

  private ask(): void {
    this.closeSockets()
    const { address, port } = this.upstream
    const message = this.write()
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
    this.udp = socket
    const isOurs = (): boolean => this.udp === socket && !this.isDone
    socket.on('error', () => {
      if (isOurs()) this.finish(null)
    })
    socket.on('message', (bytes, from) => {
      // between the socket's birth and its connection anyone could send to it
      if (isOurs()) this.receive(bytes, from.port === port)
    })
    socket.connect(port, address, (error?: unknown) => {
      if (!isOurs()) return
      if (error) this.finish(null)
      else socket.send(message)
    })
  }

  private receive(message: Uint8Array, isFromUpstream: boolean): void {
    const match = isFromUpstream ? compare(message, this.asked, this.question.name.length) : NO_MATCH
    if (match === NO_MATCH) {
      if (++this.bad === BAD_DATAGRAMS) this.askByTcp()
      return
    }
    if (match === MATCH_CASELESS && this.isCaseRandom) {
      this.upstream.ignoresCase = true
      return this.ask()
    }
    if ((word(message, 2) & codec.FLAG_TC) !== 0) return this.askByTcp()
    const answer = this.checked(message)
    if (answer === null && this.hasEdns && this.upstream.refusesEdns) return this.ask()
    this.finish(answer)
  }

  /** A copy of the message, which is never a Buffer with its other `slice`, if it is sound. */
  private checked(message: Uint8Array): Uint8Array | null {
    const rcode = message[3] & 15
    const isSound = scan.scan(message)
    if ((rcode === FORMERR || rcode === NOTIMP) && this.hasEdns && (!isSound || scan.opt < 0)) {
      this.upstream.refusesEdns = true
      return null
    }
    if (!isSound) return null
    // an upper part of the code speaks of EDNS itself (BADVERS, BADCOOKIE): no answer to the question
    const isExtended = scan.opt >= 0 && message[scan.word(scan.opt, codec.RECORD_DATA) - 6] !== 0
    return isExtended ? null : new Uint8Array(message)
  }

  private askByTcp(): void {
    this.closeSockets()
    const { address, port } = this.upstream
    const message = this.write()
    const socket = connect({ host: address, port, noDelay: true })
    this.tcp = socket
    const isOurs = (): boolean => this.tcp === socket && !this.isDone
    const fail = (): void => {
      if (isOurs()) this.finish(null)
    }
    const frames = new DnsFrames((answer) => {
      frames.stop()
      if (!isOurs()) return
      const isMatch = compare(answer, this.asked, this.question.name.length) !== NO_MATCH
      this.finish(isMatch && (word(answer, 2) & codec.FLAG_TC) === 0 ? this.checked(answer) : null)
    })
    socket.on('error', fail)
    socket.on('close', fail)
    socket.on('end', fail)
    socket.on('data', (bytes) => frames.push(bytes))
    socket.on('connect', () => socket.write(framed(message)))
  }
}
