/**
 * A network's DNS server: takes a query's bytes, gives an answer's bytes. What a name is here says the zone, what it is
 * elsewhere the forwarder.
 *
 * What is answered to what (RFC 8906, BCP 231):
 *
 *  less than 12 bytes, or an answer (QR)          | nothing
 *  an opcode other than QUERY                     | NOTIMP, header alone
 *  not one question; bytes that make no message   | FORMERR
 *  EDNS version other than 0                      | BADVERS
 *  AXFR, IXFR, TSIG and TKEY as types; class not IN | REFUSED
 *  ANY                                            | HINFO (RFC 8482), also of names elsewhere
 *  flags and EDNS options without a meaning here  | passed over, never echoed
 *  types nobody knows                             | as any type
 *
 * Over UDP an answer has at most what the client says it takes, 512 bytes without EDNS, 1232 in any case: a longer one
 * is the question alone with TC set, and the client asks again over TCP. AA is set for what is decided here. AD is
 * passed on to clients that set AD or DO themselves (RFC 6840 section 5.8).
 *
 * An alias of ours whose target is elsewhere: the target is asked for, and its records are written behind the alias.
 *
 * A query costs no table entry here; what waits for an upstream is bounded by the forwarder. Who may ask is decided
 * before: only frames of the network's guests come here.
 */
import * as codec from './dns-codec.js'
import {
  EDNS_BYTES,
  HEADER_BYTES,
  MessageScan,
  NOERROR,
  OPT_BYTES,
  Query,
  REFUSED,
  SERVFAIL,
  TYPE_ANY,
  TYPE_HINFO,
  TYPE_OPT,
  TYPE_SOA,
  setWord,
  word,
} from './dns-codec.js'
import type { Answer } from './dns-cache.js'
import { DnsForwarder } from './dns-forwarder.js'
import { NameKey, isSameName } from './dns-name.js'
import { MessageWriter } from './dns-writer.js'
import { DnsZone, FIXED_TTL, FOLLOW, LOCAL, REFUSES_ANY } from './dns-zone.js'

export interface DnsClient {
  /** name of the ingress port: whose share of the forwarder is used */
  port: string
  ip: Uint8Array
  isTcp: boolean
  /** what a datagram may hold on the way to it, if that is less than 1232 bytes */
  maxUdpBytes?: number
}

type Respond = (message: Uint8Array) => void

/** What of a query shapes its answer. */
interface Shape {
  flags: number
  questionEnd: number
  hasEdns: boolean
  isDnssecOk: boolean
}

/** What is kept of a query until its answer comes. */
interface Asked extends Shape {
  /** header and question, as the client wrote them */
  question: Uint8Array
  type: number
  /** bytes that the answer may have */
  limit: number
}

const { FLAG_AA, FLAG_AD, FLAG_CD, FLAG_QR, FLAG_RA, FLAG_RD, FLAG_TC, OPCODE_BITS } = codec

export class DnsServer {
  readonly zone: DnsZone
  readonly forwarder: DnsForwarder
  /** queries taken, answered from the zone, handed to the forwarder, refused as they were, left without an answer */
  queries = 0
  local = 0
  forwarded = 0
  rejected = 0
  ignored = 0
  truncated = 0
  private readonly query = new Query()
  private readonly writer = new MessageWriter()
  private readonly scan = new MessageScan()
  private readonly key = new NameKey()

  constructor(zone = new DnsZone(), forwarder = new DnsForwarder()) {
    this.zone = zone
    this.forwarder = forwarder
  }

  /**
   * Answers a query: within the call what is known here, else later; not at all what must not be answered.
   * @param message read during the call alone
   * @param respond called once at most; the answer is the receiver's
   */
  handle(message: Uint8Array, client: DnsClient, respond: Respond): void {
    this.queries++
    if (message.length < HEADER_BYTES || (word(message, 2) & FLAG_QR) !== 0) {
      this.ignored++
      return
    }
    const { query, writer } = this
    let rcode = query.parse(message)
    const most = Math.min(query.udpBytes, EDNS_BYTES, client.maxUdpBytes ?? EDNS_BYTES)
    const limit = client.isTcp ? codec.MESSAGE_BYTES : most
    if (rcode === NOERROR && (query.class !== codec.CLASS_IN || isRefused(query.type))) rcode = REFUSED
    writer.begin(message, query.questionEnd)
    if (rcode !== NOERROR) {
      this.rejected++
      respond(this.complete(query, rcode, false, limit))
      return
    }
    const outcome = this.zone.resolve(message, query.key, query.type, writer)
    if (outcome === LOCAL) {
      this.local++
      if (this.zone.rcode === SERVFAIL) writer.begin(message, query.questionEnd)
      respond(this.complete(query, this.zone.rcode, true, limit))
      return
    }
    if (query.type === TYPE_ANY && outcome !== FOLLOW) {
      this.local++
      const opened = writer.open(message, HEADER_BYTES, TYPE_HINFO, FIXED_TTL)
      writer.data(TYPE_HINFO, REFUSES_ANY, 0, REFUSES_ANY.length)
      writer.close(opened)
      writer.answers++
      respond(this.complete(query, NOERROR, false, limit))
      return
    }
    this.forwarded++
    this.forward(message, outcome === FOLLOW, client.port, limit, respond)
  }

  /** Finishes the answer in the writer. */
  private complete(asked: Shape, rcode: number, isAuthoritative: boolean, limit: number): Uint8Array {
    const { writer } = this
    let flags = FLAG_QR | FLAG_RA | (asked.flags & (OPCODE_BITS | FLAG_RD | FLAG_CD)) | (rcode & 15)
    if (isAuthoritative) flags |= FLAG_AA
    if (writer.isFull || writer.at + (asked.hasEdns ? OPT_BYTES : 0) > limit) {
      this.truncated++
      flags |= FLAG_TC
      writer.begin(writer.bytes, asked.questionEnd) // the question still stands at its place
    }
    if (asked.hasEdns) writer.edns(rcode, asked.isDnssecOk)
    return writer.finish(flags)
  }

  private forward(message: Uint8Array, isFollowing: boolean, port: string, limit: number, respond: Respond): void {
    const { query, zone } = this
    const asked: Asked = {
      question: Uint8Array.from(message.subarray(0, query.questionEnd)),
      questionEnd: query.questionEnd,
      flags: query.flags,
      type: query.type,
      hasEdns: query.hasEdns,
      isDnssecOk: query.isDnssecOk,
      limit,
    }
    const name = isFollowing ? zone.target : message
    const key = isFollowing ? zone.targetKey : query.key
    const at = isFollowing ? 0 : HEADER_BYTES
    this.forwarder.resolve(name, at, key, query.type, query.flags, query.isDnssecOk, port, (answer) => {
      respond(isFollowing ? this.behindAlias(asked, answer) : this.relayed(asked, answer))
    })
  }

  /** An upstream's answer, as this client is to see it. */
  private relayed(asked: Asked, { rcode, message }: Answer): Uint8Array {
    const { question, hasEdns, limit } = asked
    const ednsBytes = hasEdns ? OPT_BYTES : 0
    if (message === null || message.length + ednsBytes > limit) {
      const { writer } = this
      writer.begin(question, question.length)
      if (message !== null) writer.isFull = true // truncated
      return this.complete(asked, rcode, false, limit)
    }
    let out = message
    if (hasEdns) {
      out = new Uint8Array(message.length + OPT_BYTES)
      out.set(message)
      writeOpt(out, message.length, asked.isDnssecOk)
      setWord(out, 10, word(out, 10) + 1)
    }
    const asksForAd = asked.isDnssecOk || (asked.flags & FLAG_AD) !== 0
    const ad = asksForAd ? word(message, 2) & FLAG_AD : 0
    out.set(question.subarray(HEADER_BYTES), HEADER_BYTES) // the client's spelling
    setWord(out, 0, word(question, 0))
    setWord(out, 2, FLAG_QR | FLAG_RA | ad | (asked.flags & (FLAG_RD | FLAG_CD)) | (rcode & 15))
    return out
  }

  /** Our aliases, and behind them what an upstream says of the last one's target. */
  private behindAlias(asked: Asked, { rcode, message }: Answer): Uint8Array {
    const { writer, scan, zone } = this
    const { question } = asked
    const key = this.key.compute(question, HEADER_BYTES)
    writer.begin(question, question.length)
    const outcome = zone.resolve(question, key, asked.type, writer)
    // the zone may have changed meanwhile, then this is its answer as of now
    if (outcome === LOCAL) return this.complete(asked, zone.rcode, true, asked.limit)
    const isForTarget =
      outcome === FOLLOW && message !== null && scan.scan(message) && isSameName(zone.target, 0, message, HEADER_BYTES)
    if (!isForTarget) {
      writer.begin(question, question.length)
      return this.complete(asked, message === null ? rcode : SERVFAIL, false, asked.limit)
    }
    for (let i = 0; i < scan.answers; i++) writer.record(message, scan, i)
    writer.answers += scan.answers
    for (let i = scan.answers; i < scan.answers + scan.authorities; i++) {
      if (scan.word(i, codec.RECORD_TYPE) !== TYPE_SOA) continue
      writer.record(message, scan, i)
      writer.authorities++
    }
    return this.complete(asked, rcode, false, asked.limit)
  }
}

function isRefused(type: number): boolean {
  return type >= codec.TYPE_TKEY && type <= codec.TYPE_AXFR
}

function writeOpt(bytes: Uint8Array, at: number, isDnssecOk: boolean): void {
  setWord(bytes, at + 1, TYPE_OPT)
  setWord(bytes, at + 3, EDNS_BYTES)
  setWord(bytes, at + 7, isDnssecOk ? codec.EDNS_DO : 0)
}
