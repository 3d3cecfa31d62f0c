/**
 * Writes DNS messages, with names compressed (RFC 1035 section 4.1.4). One writer serves any number of messages, one
 * after another, in a buffer of its own; `finish` hands out a copy of the right size.
 *
 * A name is compared with those written before, without regard to case: the question comes first, so what stands in the
 * client's own spelling there is pointed to. The places of 128 labels are remembered; names behind those, or beyond the
 * 16 KiB that a pointer reaches, are written out. What does not fit into 65535 bytes sets `isFull`, and nothing more is
 * written: whoever writes asks for that at the end.
 */
import {
  CLASS_IN,
  EDNS_BYTES,
  EDNS_DO,
  HEADER_BYTES,
  MESSAGE_BYTES,
  type MessageScan,
  PART_NAME,
  RDATA,
  RECORD_CLASS,
  RECORD_DATA,
  RECORD_LENGTH,
  RECORD_OWNER,
  RECORD_TYPE,
  TYPE_OPT,
  partEnd,
  setWord,
  ttlAt,
} from './dns-codec.js'
import { NameReader, lower } from './dns-name.js'

const KNOWN = 128
const REACH = 0x4000

export class MessageWriter {
  readonly bytes = new Uint8Array(MESSAGE_BYTES)
  at = 0
  isFull = false
  answers = 0
  authorities = 0
  additionals = 0
  private readonly known = new Int32Array(KNOWN) // where labels start
  private knownCount = 0
  private readonly reader = new NameReader()

  /** Begins an answer with a query's identifier and question; `questionEnd` 12: without one. */
  begin(query: Uint8Array, questionEnd: number): void {
    for (let i = 0; i < questionEnd; i++) this.bytes[i] = query[i]
    setWord(this.bytes, 4, questionEnd > HEADER_BYTES ? 1 : 0)
    this.at = questionEnd
    this.isFull = false
    this.answers = 0
    this.authorities = 0
    this.additionals = 0
    this.knownCount = 0
    if (questionEnd > HEADER_BYTES) this.remember(HEADER_BYTES)
  }

  word(value: number): void {
    if (this.at + 2 > MESSAGE_BYTES) this.isFull = true
    else setWord(this.bytes, this.at, value)
    this.at += 2
  }

  long(value: number): void {
    this.word(value >>> 16)
    this.word(value & 0xffff)
  }

  /** Writes bytes `from` to `end` (excluded) of `source`. */
  copy(source: Uint8Array, from: number, end: number): void {
    const { bytes, at } = this
    if (at + end - from > MESSAGE_BYTES) this.isFull = true
    else for (let i = from; i < end; i++) bytes[at + i - from] = source[i]
    this.at += end - from
  }

  /** Writes an uncompressed name, compressed. */
  name(source: Uint8Array, from: number): void {
    const start = this.at
    while (source[from] !== 0) {
      const found = this.find(source, from)
      if (found > 0) {
        this.word(0xc000 | found)
        this.remember(start)
        return
      }
      this.copy(source, from, from + source[from] + 1)
      from += source[from] + 1
    }
    this.copy(source, from, from + 1)
    this.remember(start)
  }

  /** Remembers the labels of a name that is whole. */
  private remember(at: number): void {
    const { bytes, known } = this
    while (!this.isFull && this.knownCount < KNOWN && at < REACH && bytes[at] !== 0 && bytes[at] < 0xc0) {
      known[this.knownCount++] = at
      at += bytes[at] + 1
    }
  }

  private find(source: Uint8Array, from: number): number {
    for (let i = 0; i < this.knownCount; i++) if (this.isAt(this.known[i], source, from)) return this.known[i]
    return 0
  }

  private isAt(at: number, source: Uint8Array, from: number): boolean {
    const { bytes } = this
    for (;;) {
      const size = bytes[at]
      if (size >= 0xc0) {
        at = ((size & 0x3f) << 8) | bytes[at + 1]
        continue
      }
      if (size !== source[from]) return false
      if (size === 0) return true
      for (let i = 1; i <= size; i++) if (lower(bytes[at + i]) !== lower(source[from + i])) return false
      at += size + 1
      from += size + 1
    }
  }

  /** Begins a record of class IN. Returns what `close` needs; its data is written in between. */
  open(owner: Uint8Array, ownerAt: number, type: number, ttl: number, recordClass = CLASS_IN): number {
    this.name(owner, ownerAt)
    this.word(type)
    this.word(recordClass)
    this.long(ttl)
    this.word(0)
    return this.at
  }

  close(opened: number): void {
    if (!this.isFull) setWord(this.bytes, opened - 2, this.at - opened)
  }

  /**
   * Writes data of a type as another message has it, or as we keep it: names in it are uncompressed and compressed
   * anew, unless they must not be (RFC 3597, RFC 2782: SRV).
   */
  data(type: number, message: Uint8Array, at: number, end: number): void {
    const parts = RDATA.get(type)
    if (parts === undefined) return this.copy(message, at, end)
    for (let i = 0; i < parts.length; i++) {
      const after = partEnd(message, parts[i], at, end)
      if (parts[i] !== PART_NAME) this.copy(message, at, after)
      else {
        this.reader.read(message, at, end)
        if (type < TYPE_COMPRESSED_END) this.name(this.reader.bytes, 0)
        else this.copy(this.reader.bytes, 0, this.reader.length)
      }
      at = after
    }
  }

  /** Writes a record as it stands in another message, which `scan` has found sound. */
  record(message: Uint8Array, scan: MessageScan, i: number): void {
    const data = scan.word(i, RECORD_DATA)
    const type = scan.word(i, RECORD_TYPE)
    const recordClass = scan.word(i, RECORD_CLASS)
    this.reader.read(message, scan.word(i, RECORD_OWNER), message.length)
    const opened = this.open(this.reader.bytes, 0, type, ttlAt(message, data - 6), recordClass)
    const end = data + scan.word(i, RECORD_LENGTH)
    if (recordClass === CLASS_IN) this.data(type, message, data, end)
    else this.copy(message, data, end)
    this.close(opened)
  }

  /** Writes our OPT record. */
  edns(rcode: number, isDnssecOk: boolean): void {
    this.copy(ROOT, 0, 1)
    this.word(TYPE_OPT)
    this.word(EDNS_BYTES)
    this.word((rcode >> 4) << 8) // the code's upper part, version 0
    this.word(isDnssecOk ? EDNS_DO : 0)
    this.word(0)
    this.additionals++
  }

  /** Completes the header. Returns the message, which is the caller's. */
  finish(flags: number): Uint8Array {
    const { bytes } = this
    setWord(bytes, 2, flags)
    setWord(bytes, 6, this.answers)
    setWord(bytes, 8, this.authorities)
    setWord(bytes, 10, this.additionals)
    return bytes.slice(0, this.at)
  }
}

const ROOT = new Uint8Array(1)
/** Types of RFC 1035 end here; names in the data of later ones are never compressed. */
const TYPE_COMPRESSED_END = 17
