/**
 * DNS messages (RFC 1035, EDNS by RFC 6891) as they are read: a client's query, and the places of all records in an
 * upstream's answer.
 *
 * Answers are not decoded into objects and encoded again. `MessageScan` checks a whole message and notes where its
 * records are; what is passed on is the message itself, so records of any type, known here or not, arrive byte by byte.
 * Only the types that RFC 3597 section 4 lets be compressed have their data looked into (`RDATA`), because their names
 * depend on the message around them.
 *
 * Refused (RFC 9267): records that reach past the end, RDLENGTH that contradicts the data of a known type, unsound
 * names (`dns-name.ts`), a second OPT record, one that is not the root's or stands elsewhere than among the additional
 * records, options that reach past it. Bytes behind the last record are refused in a query and left out of an answer.
 * A message has at most 5957 records, which is what fits into 65535 bytes.
 */
import { NameKey, NameReader } from './dns-name.js'

export const HEADER_BYTES = 12
export const MESSAGE_BYTES = 65535
/** What a datagram holds without EDNS, and what we let it hold with it (DNS flag day 2020: never fragmented). */
export const UDP_BYTES = 512
export const EDNS_BYTES = 1232
/** Bytes of an OPT record without options. */
export const OPT_BYTES = 11

export const TYPE_A = 1
export const TYPE_NS = 2
export const TYPE_CNAME = 5
export const TYPE_SOA = 6
export const TYPE_PTR = 12
export const TYPE_HINFO = 13
export const TYPE_MX = 15
export const TYPE_TXT = 16
export const TYPE_AAAA = 28
export const TYPE_SRV = 33
export const TYPE_OPT = 41
export const TYPE_SVCB = 64
export const TYPE_HTTPS = 65
export const TYPE_TKEY = 249
export const TYPE_TSIG = 250
export const TYPE_IXFR = 251
export const TYPE_AXFR = 252
export const TYPE_ANY = 255
export const CLASS_IN = 1

export const NOERROR = 0
export const FORMERR = 1
export const SERVFAIL = 2
export const NXDOMAIN = 3
export const NOTIMP = 4
export const REFUSED = 5
export const BADVERS = 16

/** Bits of the header's second word. */
export const FLAG_QR = 0x8000
export const FLAG_AA = 0x0400
export const FLAG_TC = 0x0200
export const FLAG_RD = 0x0100
export const FLAG_RA = 0x0080
export const FLAG_AD = 0x0020
export const FLAG_CD = 0x0010
export const OPCODE_BITS = 0x7800
/** In the flags of the OPT record. */
export const EDNS_DO = 0x8000

/** Parts of a record's data: a number of bytes, or one of these. */
export const PART_NAME = -1
export const PART_STRING = -2
/** one string or more, up to the end */
export const PART_STRINGS = -3
/** whatever there is, up to the end */
export const PART_REST = -4

/** Data of the types whose form is checked. Other types may hold anything (RFC 3597). */
export const RDATA: ReadonlyMap<number, readonly number[]> = new Map([
  [TYPE_A, [4]],
  [TYPE_NS, [PART_NAME]],
  [3, [PART_NAME]], // MD
  [4, [PART_NAME]], // MF
  [TYPE_CNAME, [PART_NAME]],
  [TYPE_SOA, [PART_NAME, PART_NAME, 20]],
  [7, [PART_NAME]], // MB
  [8, [PART_NAME]], // MG
  [9, [PART_NAME]], // MR
  [TYPE_PTR, [PART_NAME]],
  [TYPE_HINFO, [PART_STRING, PART_STRING]],
  [14, [PART_NAME, PART_NAME]], // MINFO
  [TYPE_MX, [2, PART_NAME]],
  [TYPE_TXT, [PART_STRINGS]],
  [17, [PART_NAME, PART_NAME]], // RP
  [18, [2, PART_NAME]], // AFSDB
  [21, [2, PART_NAME]], // RT
  [24, [18, PART_NAME, PART_REST]], // SIG
  [26, [2, PART_NAME, PART_NAME]], // PX
  [TYPE_AAAA, [16]],
  [30, [PART_NAME, PART_REST]], // NXT
  [TYPE_SRV, [6, PART_NAME]],
  [35, [4, PART_STRING, PART_STRING, PART_STRING, PART_NAME]], // NAPTR
  [36, [2, PART_NAME]], // KX
  [39, [PART_NAME]], // DNAME
])

export function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1]
}

export function setWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8
  bytes[at + 1] = value
}

/** Seconds; 0 where the highest bit is set (RFC 2181 section 8). */
export function ttlAt(bytes: Uint8Array, at: number): number {
  const value = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]
  return value < 0 ? 0 : value
}

export function setTtl(bytes: Uint8Array, at: number, seconds: number): void {
  setWord(bytes, at, seconds >>> 16)
  setWord(bytes, at + 2, seconds & 0xffff)
}

const reader = new NameReader()

/**
 * Where the part of a record's data that starts at `at` ends, -1 if it is not sound.
 * @param part of `RDATA`
 * @param end of the data
 */
export function partEnd(message: Uint8Array, part: number, at: number, end: number): number {
  if (part === PART_NAME) return reader.read(message, at, end)
  if (part === PART_REST) return end
  if (part === PART_STRING) return at < end && at + 1 + message[at] <= end ? at + 1 + message[at] : -1
  if (part === PART_STRINGS) {
    if (at === end) return -1
    while (at < end) at += 1 + message[at]
    return at === end ? end : -1
  }
  return at + part <= end ? at + part : -1
}

function isSound(message: Uint8Array, type: number, at: number, end: number): boolean {
  const parts = RDATA.get(type)
  if (parts === undefined) return true
  for (let i = 0; i < parts.length; i++) {
    at = partEnd(message, parts[i], at, end)
    if (at < 0) return false
  }
  return at === end
}

/** Words of a record in `MessageScan.records`. */
export const RECORD_OWNER = 0 // where its owner's name starts
export const RECORD_TYPE = 1
export const RECORD_CLASS = 2
export const RECORD_DATA = 3 // where its data starts; the TTL is 6 bytes before
export const RECORD_LENGTH = 4 // bytes of data
export const RECORD_WORDS = 5
const RECORDS = Math.ceil((MESSAGE_BYTES - HEADER_BYTES) / 11)

/** Where things are in a message. One object serves any number of messages, one after another. */
export class MessageScan {
  readonly records = new Int32Array(RECORDS * RECORD_WORDS)
  /** records of the answer, authority and additional sections, and of all */
  answers = 0
  authorities = 0
  additionals = 0
  count = 0
  /** where the question's name ends, and the question; 12 if there is none */
  nameEnd = 0
  questionEnd = 0
  /** where the last record ends */
  end = 0
  /** the OPT record's number, -1: none */
  opt = -1

  /** Looks through a message with one question. False: it is not sound. */
  scan(message: Uint8Array): boolean {
    const end = message.length
    this.opt = -1
    this.count = 0
    if (end < HEADER_BYTES || end > MESSAGE_BYTES || word(message, 4) !== 1) return false
    this.answers = word(message, 6)
    this.authorities = word(message, 8)
    this.additionals = word(message, 10)
    this.nameEnd = reader.read(message, HEADER_BYTES, end)
    this.questionEnd = this.nameEnd + 4
    // the first name of a message has nothing to point at
    if (this.nameEnd < 0 || this.questionEnd > end || this.nameEnd !== HEADER_BYTES + reader.length) return false
    let at = this.questionEnd
    const count = this.answers + this.authorities + this.additionals
    if (count > RECORDS) return false
    for (let i = 0; i < count; i++) {
      at = this.record(message, at, i)
      if (at < 0) return false
    }
    this.count = count
    this.end = at
    return true
  }

  private record(message: Uint8Array, owner: number, i: number): number {
    const { records } = this
    const at = reader.read(message, owner, message.length)
    if (at < 0 || at + 10 > message.length) return -1
    const type = word(message, at)
    const length = word(message, at + 8)
    const data = at + 10
    if (data + length > message.length) return -1
    const entry = i * RECORD_WORDS
    records[entry + RECORD_OWNER] = owner
    records[entry + RECORD_TYPE] = type
    records[entry + RECORD_CLASS] = word(message, at + 2)
    records[entry + RECORD_DATA] = data
    records[entry + RECORD_LENGTH] = length
    if (type === TYPE_OPT) {
      if (this.opt >= 0 || reader.length !== 1 || i < this.answers + this.authorities) return -1
      if (!hasSoundOptions(message, data, data + length)) return -1
      this.opt = i
    } else if (records[entry + RECORD_CLASS] === CLASS_IN && !isSound(message, type, data, data + length)) return -1
    return data + length
  }

  word(record: number, field: number): number {
    return this.records[record * RECORD_WORDS + field]
  }
}

function hasSoundOptions(message: Uint8Array, at: number, end: number): boolean {
  while (at + 4 <= end) at += 4 + word(message, at + 2)
  return at === end
}

/** What a client asks. One object serves any number of queries, one after another. */
export class Query {
  id = 0
  flags = 0
  type = 0
  class = 0
  /** where the question ends; 12: there is none to be repeated in an answer */
  questionEnd = HEADER_BYTES
  readonly key = new NameKey()
  hasEdns = false
  isDnssecOk = false
  /** what the client says it takes by UDP; 512 without EDNS */
  udpBytes = UDP_BYTES
  private readonly scan = new MessageScan()

  /**
   * Takes a message of at least 12 bytes that is no answer. Returns NOERROR if it is a query for us, else the code to
   * answer with; then the fields are as far as they could be read.
   */
  parse(message: Uint8Array): number {
    this.id = word(message, 0)
    this.flags = word(message, 2)
    this.questionEnd = HEADER_BYTES
    this.hasEdns = false
    this.isDnssecOk = false
    this.udpBytes = UDP_BYTES
    if ((this.flags & OPCODE_BITS) !== 0) return NOTIMP
    const { scan } = this
    if (!scan.scan(message) || scan.end !== message.length) return FORMERR
    this.questionEnd = scan.questionEnd
    this.type = word(message, scan.nameEnd)
    this.class = word(message, scan.nameEnd + 2)
    this.key.compute(message, HEADER_BYTES)
    if (scan.opt >= 0) {
      const data = scan.word(scan.opt, RECORD_DATA)
      this.hasEdns = true
      this.isDnssecOk = (word(message, data - 4) & EDNS_DO) !== 0
      this.udpBytes = Math.max(UDP_BYTES, scan.word(scan.opt, RECORD_CLASS))
      if (message[data - 5] !== 0) return BADVERS
    }
    return this.type === TYPE_OPT ? FORMERR : NOERROR
  }
}
