/**
 * Asks upstreams what is not answered here. One forwarder serves one network.
 *
 *     resolve -- cache -- known: answered at once
 *        |
 *        +-- the same question is on its way: wait with the others for its answer (one question outside, however many
 *        |   ask, so that nobody gains chances to forge an answer by asking often)
 *        |
 *        +-- attempts, one after another: at 0, 1, 2.5 and 5 s, or as soon as one has failed; after 10 s SERVFAIL
 *
 * Upstreams are those of the longest domain that has some of its own, else the network's. The first to be asked is the
 * one that answered last; each attempt goes to the next. Late answers of earlier attempts count. SERVFAIL, REFUSED and
 * NOTIMP are kept as a last resort while others are asked. Without upstreams a question fails at once, without a
 * socket; within a domain whose list of upstreams is empty no name exists.
 *
 * What goes into the cache and to the client is the upstream's message: byte by byte, but for the OPT record, which is
 * between neighbours, the flags, and the random case of the question in owners. If OPT is not the last record, those
 * behind it (signatures of the transaction) go with it. Private addresses: see `dns-rebinding.ts`; such an answer
 * becomes an empty one, as with dnsmasq. Domains with upstreams of their own may have them.
 *
 * Capacity: 150 questions on their way, 50 waiting clients a guest; REFUSED beyond. The cache has its own limits.
 * Standards: RFC 2308, 5452, 5625, 6891, 9520.
 */
import * as codec from './dns-codec.js'
import { MessageScan, NOERROR, NOTIMP, NXDOMAIN, REFUSED, SERVFAIL, setWord, word } from './dns-codec.js'
import { type Answer, DnsCache } from './dns-cache.js'
import { NameEntry, type NameKey, NameTable, isSameName, lower, nameFromText, nameLength } from './dns-name.js'
import { hasPrivateAddress } from './dns-rebinding.js'
import { Attempt, type Question, type Upstream } from './dns-upstream.js'

const OUTSTANDING = 150
const OUTSTANDING_OF_PORT = 50
/** Milliseconds after which the next attempt is made; the last one is the end. */
const ATTEMPTS = [1000, 1500, 2500, 5000]

export interface DomainUpstreams {
  domain: string
  upstreams: readonly Upstream[]
}

type OnResolved = (answer: Answer) => void

class Group extends NameEntry {
  readonly upstreams: readonly Upstream[]
  /** the one that answered last */
  preferred = 0

  constructor(name: Uint8Array, upstreams: readonly Upstream[]) {
    super(name)
    this.upstreams = upstreams
  }
}

interface Waiting {
  port: string
  onResolved: OnResolved
}

/** A question on its way. */
class Pending extends NameEntry implements Question {
  readonly type: number
  readonly flags: number
  readonly isDnssecOk: boolean
  readonly group: Group
  readonly waiting: Waiting[] = []
  readonly attempts: Attempt[] = []
  /** attempts without an end */
  open = 0
  timer: NodeJS.Timeout | null = null
  /** an answer that says that there is none */
  last: Answer | null = null

  constructor(name: Uint8Array, extra: number, type: number, flags: number, isDnssecOk: boolean, group: Group) {
    super(name, extra)
    this.type = type
    this.flags = flags
    this.isDnssecOk = isDnssecOk
    this.group = group
  }
}

export interface ForwarderOptions {
  cache?: DnsCache
  /** milliseconds, from a clock that never goes back */
  now?: () => number
  /** milliseconds between attempts, for tests */
  attempts?: readonly number[]
}

const ROOT = new Uint8Array(1)
const DO_BIT = 1 << 16
const CD_BIT = 1 << 17
const RD_BIT = 1 << 18

export class DnsForwarder {
  readonly cache: DnsCache
  /** private addresses in answers are taken for an attack */
  rebindProtection = true
  /** questions asked outside, attempts for them, and what became of them */
  asked = 0
  attempted = 0
  failed = 0
  refused = 0
  rebindings = 0
  private upstreams = new Group(ROOT, [])
  private domains = new NameTable<Group>()
  private readonly pending = new NameTable<Pending>()
  private readonly waitingOf = new Map<string, number>()
  private readonly scan = new MessageScan()
  private readonly now: () => number
  private readonly attempts: readonly number[]

  constructor({ cache = new DnsCache(), now = () => performance.now(), attempts = ATTEMPTS }: ForwarderOptions = {}) {
    this.cache = cache
    this.now = now
    this.attempts = attempts
  }

  /** questions on their way */
  get outstanding(): number {
    return this.pending.size
  }

  /**
   * Takes other upstreams from now on. What the former ones said is forgotten, and what is on its way to them fails.
   * @param domains upstreams by domain, checked names; an empty list: no name there is ever asked for
   */
  setUpstreams(upstreams: readonly Upstream[], domains: readonly DomainUpstreams[] = []): void {
    const table = new NameTable<Group>()
    for (const { domain, upstreams: own } of domains) {
      const name = nameFromText(domain)
      if (name === null) throw new RangeError(`${domain} is not a domain name`)
      if (!table.get(name)) table.add(new Group(name, own))
    }
    this.upstreams = new Group(ROOT, upstreams)
    this.domains = table
    this.abandon()
    this.cache.clear()
  }

  /** Ends what is on its way. The forwarder may be used again. */
  close(): void {
    this.abandon()
  }

  private abandon(): void {
    for (const pending of this.pending.list()) this.finish(pending, { rcode: SERVFAIL, message: null }, false)
  }

  /**
   * Answers a question of class IN: within the call if the answer is known, else later, once.
   * @param name uncompressed, in any case, at `at`; `key` is its
   * @param flags the query's: RD and CD are passed on
   * @param port the guest's ingress port, whose share this counts to
   * @param onResolved gets an answer whose message is its own, sound and without OPT; its identifier, question's case
   *   and flags are whatever they are, but for TC (never set), AD, and the response code
   */
  resolve(
    name: Uint8Array,
    at: number,
    key: NameKey,
    type: number,
    flags: number,
    isDnssecOk: boolean,
    port: string,
    onResolved: OnResolved,
  ): void {
    const isRecursive = (flags & codec.FLAG_RD) !== 0
    const isUnchecked = (flags & codec.FLAG_CD) !== 0
    const extra = type | (isDnssecOk ? DO_BIT : 0) | (isUnchecked ? CD_BIT : 0) | (isRecursive ? RD_BIT : 0)
    const known = this.cache.find(name, at, key, extra, Math.floor(this.now() / 1000))
    if (known) return onResolved(known)
    const group = this.domains.findDomain(name, key) ?? this.upstreams
    if (group.upstreams.length === 0)
      return onResolved({ rcode: group === this.upstreams ? SERVFAIL : NXDOMAIN, message: null })
    const waiting = this.waitingOf.get(port) ?? 0
    let pending = this.pending.find(name, at, key.hashes[0], extra)
    if (waiting >= OUTSTANDING_OF_PORT || (pending === null && this.pending.size >= OUTSTANDING)) {
      this.refused++
      return onResolved({ rcode: REFUSED, message: null })
    }
    this.waitingOf.set(port, waiting + 1)
    if (pending) {
      pending.waiting.push({ port, onResolved })
      return
    }
    const copy = Uint8Array.from(name.subarray(at, at + nameLength(name, at)), lower)
    const passed = flags & (codec.FLAG_RD | codec.FLAG_CD)
    pending = new Pending(copy, extra, type, passed, isDnssecOk, group)
    pending.waiting.push({ port, onResolved })
    this.pending.add(pending)
    this.asked++
    this.attempt(pending)
  }

  private attempt(pending: Pending): void {
    if (pending.timer) clearTimeout(pending.timer)
    const { group, attempts } = pending
    const number = attempts.length
    const index = (group.preferred + number) % group.upstreams.length
    this.attempted++
    pending.open++
    attempts.push(
      new Attempt(group.upstreams[index], pending, (message) => {
        pending.open--
        if (message === null) this.goOn(pending)
        else this.receive(pending, index, message)
      }),
    )
    pending.timer = setTimeout(() => {
      if (attempts.length < this.attempts.length) this.attempt(pending)
      else this.fail(pending)
    }, this.attempts[number])
  }

  /** After an attempt that brought nothing: asks each upstream once without waiting, again only when it is time. */
  private goOn(pending: Pending): void {
    const { attempts, group } = pending
    const isUntried = attempts.length < group.upstreams.length && attempts.length < this.attempts.length
    if (isUntried) this.attempt(pending)
    else if (pending.open === 0) this.fail(pending)
  }

  private fail(pending: Pending): void {
    this.failed++
    const answer = pending.last ?? { rcode: SERVFAIL, message: null }
    this.cache.putFailure(pending.name, pending.extra, answer.rcode, Math.floor(this.now() / 1000))
    this.finish(pending, answer, false)
  }

  private receive(pending: Pending, upstream: number, message: Uint8Array): void {
    const rcode = message[3] & 15
    const answer = { rcode, message: this.withoutOpt(message) }
    if (rcode === SERVFAIL || rcode === REFUSED || rcode === NOTIMP) {
      pending.last = answer
      return this.goOn(pending)
    }
    pending.group.preferred = upstream
    const { scan } = this
    scan.scan(answer.message)
    for (let i = 0; i < scan.count; i++) lowerOwner(answer.message, scan.word(i, codec.RECORD_OWNER), pending.name)
    if (this.rebindProtection && pending.group === this.upstreams && hasPrivateAddress(answer.message, scan)) {
      this.rebindings++
      answer.message = withoutRecords(answer.message, scan.questionEnd)
      answer.rcode = NOERROR
      this.finish(pending, answer, false)
      return
    }
    this.cache.put(pending.name, pending.extra, answer.message, scan, rcode, Math.floor(this.now() / 1000))
    this.finish(pending, answer, true)
  }

  private withoutOpt(message: Uint8Array): Uint8Array {
    const { scan } = this
    scan.scan(message)
    if (scan.opt < 0) return message.slice(0, scan.end)
    // the owner of OPT is the root, one byte; nothing before it can point behind it
    const kept = message.slice(0, scan.word(scan.opt, codec.RECORD_OWNER))
    setWord(kept, 10, scan.opt - scan.answers - scan.authorities)
    return kept
  }

  /** @param isCached the message is the cache's, too */
  private finish(pending: Pending, answer: Answer, isCached: boolean): void {
    this.pending.remove(pending)
    if (pending.timer) clearTimeout(pending.timer)
    for (const attempt of pending.attempts) attempt.close()
    for (const { port } of pending.waiting) {
      const left = (this.waitingOf.get(port) ?? 1) - 1
      if (left === 0) this.waitingOf.delete(port)
      else this.waitingOf.set(port, left)
    }
    for (const [i, { onResolved }] of pending.waiting.entries()) {
      const message = answer.message !== null && (isCached || i > 0) ? answer.message.slice() : answer.message
      onResolved({ rcode: answer.rcode, message })
    }
  }
}

/** An owner that repeats the question's letters, and not by a pointer, loses their random case. */
function lowerOwner(message: Uint8Array, owner: number, name: Uint8Array): void {
  if (message[owner] >= 0xc0 || !isSameName(name, 0, message, owner)) return
  for (let at = owner; message[at] > 0 && message[at] < 0xc0; ) {
    const end = at + 1 + message[at]
    for (at++; at < end; at++) message[at] = lower(message[at])
  }
}

/** The message with its question alone. */
function withoutRecords(message: Uint8Array, questionEnd: number): Uint8Array {
  const empty = message.slice(0, questionEnd)
  setWord(empty, 2, word(empty, 2) & ~(0xf | codec.FLAG_AD))
  empty.fill(0, 6, codec.HEADER_BYTES)
  return empty
}
