/**
 * Answers of upstreams, kept for as long as their TTLs say. What is kept is a whole message, for the very question
 * that it answered (name, type, and the bits that change an answer: RD, CD, DO): nothing is taken out of it to answer
 * another question, so whatever an upstream adds to an answer can mislead about nothing else.
 *
 * - A message is kept for its lowest TTL, a day at most. It is served with the TTLs less its age.
 * - "No such name" and "no such data" are kept if a SOA record says for how long, the lower of its TTL and its last
 *   field, three hours at most (RFC 2308 section 5).
 * - Failures are kept for 5 s (RFC 9520).
 *
 * Capacity: entries, and bytes with what the entry itself costs; the longest unused make room. A message of more than a
 * sixteenth of the bytes is not kept.
 */
import {
  type MessageScan,
  NOERROR,
  NXDOMAIN,
  RECORD_DATA,
  RECORD_LENGTH,
  RECORD_TYPE,
  SERVFAIL,
  TYPE_SOA,
  setTtl,
  ttlAt,
} from './dns-codec.js'
import { NameEntry, type NameKey, NameTable } from './dns-name.js'

const ENTRIES = 10_000
const BYTES = 16 * 1024 * 1024
const ENTRY_BYTES = 256
const LONGEST = 86_400
const LONGEST_NEGATIVE = 10_800
const FAILURE = 5

/** An answer as `DnsForwarder` gives it. */
export interface Answer {
  rcode: number
  /** without OPT; null: there is the code alone */
  message: Uint8Array | null
}

class Entry extends NameEntry {
  readonly rcode: number
  readonly message: Uint8Array | null
  /** where TTLs stand */
  readonly ttls: Int32Array
  readonly since: number
  readonly until: number
  older: Entry | null = null
  newer: Entry | null = null

  constructor(name: Uint8Array, extra: number, answer: Answer, ttls: Int32Array, since: number, until: number) {
    super(name, extra)
    this.rcode = answer.rcode
    this.message = answer.message
    this.ttls = ttls
    this.since = since
    this.until = until
  }

  get bytes(): number {
    return ENTRY_BYTES + this.name.length + this.ttls.byteLength + (this.message?.length ?? 0)
  }
}

export class DnsCache {
  hits = 0
  misses = 0
  evicted = 0
  bytes = 0
  private readonly table = new NameTable<Entry>()
  private oldest: Entry | null = null
  private newest: Entry | null = null
  private readonly entryLimit: number
  private readonly byteLimit: number

  constructor(entryLimit = ENTRIES, byteLimit = BYTES) {
    this.entryLimit = entryLimit
    this.byteLimit = byteLimit
  }

  get size(): number {
    return this.table.size
  }

  /**
   * What is known about a question, with TTLs as of now; null: nothing. The message is the caller's.
   * @param extra type and bits of the question, as given to `put`
   * @param now seconds, from a clock that never goes back
   */
  find(name: Uint8Array, start: number, key: NameKey, extra: number, now: number): Answer | null {
    const entry = this.table.find(name, start, key.hashes[0], extra)
    if (entry === null || now >= entry.until) {
      if (entry !== null) this.remove(entry)
      this.misses++
      return null
    }
    this.hits++
    if (entry !== this.newest) {
      this.unlink(entry)
      this.link(entry)
    }
    if (entry.message === null) return { rcode: entry.rcode, message: null }
    const message = entry.message.slice()
    const age = now - entry.since
    for (let i = 0; i < entry.ttls.length; i++) {
      const at = entry.ttls[i]
      setTtl(message, at, Math.min(ttlAt(message, at), LONGEST) - age)
    }
    return { rcode: entry.rcode, message }
  }

  /**
   * Keeps an answer if it may be kept.
   * @param name lower case; kept
   * @param message without OPT, sound, kept; `scan` has looked through it
   */
  put(name: Uint8Array, extra: number, message: Uint8Array, scan: MessageScan, rcode: number, now: number): void {
    const lifetime = lifetimeOf(message, scan, rcode, extra & 0xffff)
    if (lifetime <= 0) return
    const ttls = new Int32Array(scan.count)
    for (let i = 0; i < scan.count; i++) ttls[i] = scan.word(i, RECORD_DATA) - 6
    this.insert(new Entry(name, extra, { rcode, message }, ttls, now, now + lifetime))
  }

  /** Keeps for a moment that a question cannot be answered. */
  putFailure(name: Uint8Array, extra: number, rcode: number, now: number): void {
    this.insert(new Entry(name, extra, { rcode, message: null }, new Int32Array(0), now, now + FAILURE))
  }

  clear(): void {
    this.table.clear()
    this.oldest = null
    this.newest = null
    this.bytes = 0
  }

  private insert(entry: Entry): void {
    const former = this.table.find(entry.name, 0, entry.hash, entry.extra)
    if (former) this.remove(former)
    if (entry.bytes > this.byteLimit >> 4) return
    this.table.add(entry)
    this.link(entry)
    this.bytes += entry.bytes
    while (this.oldest && (this.size > this.entryLimit || this.bytes > this.byteLimit)) {
      this.remove(this.oldest)
      this.evicted++
    }
  }

  private remove(entry: Entry): void {
    this.table.remove(entry)
    this.unlink(entry)
    this.bytes -= entry.bytes
  }

  private link(entry: Entry): void {
    entry.older = this.newest
    entry.newer = null
    if (this.newest) this.newest.newer = entry
    else this.oldest = entry
    this.newest = entry
  }

  private unlink(entry: Entry): void {
    if (entry.older) entry.older.newer = entry.newer
    else this.oldest = entry.newer
    if (entry.newer) entry.newer.older = entry.older
    else this.newest = entry.older
  }
}

/** Seconds that an answer may be kept; 0: not at all. */
export function lifetimeOf(message: Uint8Array, scan: MessageScan, rcode: number, type: number): number {
  if (rcode === SERVFAIL) return FAILURE
  if (rcode !== NOERROR && rcode !== NXDOMAIN) return 0
  let lowest = LONGEST
  for (let i = 0; i < scan.count; i++) lowest = Math.min(lowest, ttlAt(message, scan.word(i, RECORD_DATA) - 6))
  let isPositive = false
  for (let i = 0; i < scan.answers; i++) if (scan.word(i, RECORD_TYPE) === type) isPositive = true
  if (isPositive && rcode === NOERROR) return lowest
  for (let i = scan.answers; i < scan.answers + scan.authorities; i++) {
    if (scan.word(i, RECORD_TYPE) !== TYPE_SOA) continue
    const minimum = ttlAt(message, scan.word(i, RECORD_DATA) + scan.word(i, RECORD_LENGTH) - 4)
    return Math.min(lowest, minimum, LONGEST_NEGATIVE)
  }
  return 0
}
