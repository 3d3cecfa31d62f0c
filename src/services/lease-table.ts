/**
 * The tables behind `leases.ts`: the records of a network's leases by address and by holder, what is remembered of
 * expired ones, the clock they all go by, and their lines in the journal. No policy: who may have what is decided
 * there.
 *
 * A record is offered, bound or declined, and stands in `records`; once it is over it is expired and stands in
 * `remembered`, or is gone. A holder finds the one it has, else the one it had last. Offers are not written down, an
 * expiry needs no line either: the deadline says it. A line of the journal is the whole record, so that the last line
 * of an address is all that counts.
 *
 * Capacity: expired leases are remembered, 16 a port and 4096 altogether; the oldest are forgotten first. The rest is
 * limited by `leases.ts`.
 */
import { bitsOf, formatIp, parseIp } from './address.js'
import type { Ip } from './address.js'
import { LeaseNames, hostLabel } from './lease-names.js'
import type { LeaseJournal } from './lease-journal.js'

const REMEMBERED_A_PORT = 16
const REMEMBERED = 4096
const STEP_SECONDS = 60

export interface Holder {
  /** `52:54:00:12:34:56`, lower case */
  mac: string
  /** the port's name */
  port: string
  /** client identifier or DUID in hexadecimal; empty: none */
  client: string
  /** identity association of DHCPv6, as text; empty: IPv4 */
  association: string
}

export type LeaseState = 'offered' | 'bound' | 'declined' | 'expired'

export interface Lease extends Holder {
  readonly address: Ip
  /** canonical text of the address, the key of the table */
  readonly text: string
  hostname: string | null
  /** wall clock, seconds; Infinity: never */
  expiresAt: number
  /** what it was granted for; Infinity: never expires */
  seconds: number
  state: LeaseState
  reserved: boolean
}

export type LeaseEvent = 'granted' | 'renewed' | 'released' | 'expired'

export class LeaseTable {
  /** by address: offered, bound and declined ones */
  readonly records = new Map<string, Lease>()
  /** by address: expired ones, the oldest first */
  readonly remembered = new Map<string, Lease>()
  readonly names = new LeaseNames()
  /** the caller's time at its last call */
  now: number
  private readonly holders = new Map<string, Lease>() // of both
  private readonly live = new Map<string, number>() // leases and offers by family, and by family and port
  private readonly journal: LeaseJournal | null
  private readonly onEvent: (event: LeaseEvent, lease: Lease) => void

  constructor(journal: LeaseJournal | null, nowSeconds: number, onEvent: (event: LeaseEvent, lease: Lease) => void) {
    this.journal = journal
    this.onEvent = onEvent
    this.now = nowSeconds
    for (const line of journal?.take(() => this.lines()) ?? [])
      if (!this.load(line as LeaseLine)) journal?.refuse(`no lease: ${JSON.stringify(line)}`)
    this.settle()
  }

  /** What the holder has or had last, of the family of `like`. */
  ofHolder(holder: Holder, like: Ip): Lease | undefined {
    return this.holders.get(keyOf(holder, like))
  }

  /** Leases and offers of a family, at one port or altogether; reserved ones are not counted. */
  countOf(like: Ip, port: string | null): number {
    return this.live.get(countKey(like, port)) ?? 0
  }

  /** Says anew which leases are reserved. */
  reserve(isReserved: (lease: Lease) => boolean): void {
    this.live.clear()
    for (const lease of this.records.values()) {
      lease.reserved = isReserved(lease)
      this.count(lease, 1)
    }
  }

  /** A new record; what was remembered of the address and of the holder is forgotten. */
  place(holder: Holder, address: Ip, state: LeaseState, reserved: boolean): Lease {
    const text = formatIp(address)
    this.forget(this.remembered.get(text))
    const key = keyOf(holder, address)
    const own = this.holders.get(key)
    if (own?.state === 'expired') this.forget(own)
    const { mac, port, client, association } = holder
    const times = { expiresAt: 0, seconds: 0 }
    const lease: Lease = { mac, port, client, association, address, text, hostname: null, state, reserved, ...times }
    this.records.set(text, lease)
    if (state !== 'declined') this.holders.set(key, lease)
    this.count(lease, 1)
    return lease
  }

  /** Ends what else of the family the holder has: it takes another address now. */
  leaveOthers(holder: Holder, address: Ip): void {
    const text = formatIp(address)
    if (this.records.get(text)?.state === 'bound') return
    for (const other of this.records.values()) {
      if (other.text === text || other.state === 'declined' || !isHolder(other, holder)) continue
      if (other.address.length !== address.length) continue
      if (other.state === 'bound') this.end(other, 'released')
      else this.drop(other)
    }
  }

  /** A lease is over; the address and the holder are remembered together. */
  end(lease: Lease, event: 'released' | 'expired'): void {
    this.take(lease)
    this.names.take(lease)
    lease.state = 'expired'
    lease.expiresAt = this.now
    this.remember(lease)
    // an expiry needs no line: the deadline says it
    if (event === 'released') this.journal?.append(lineOf(lease))
    this.onEvent(event, lease)
  }

  /** An offer or a quarantine is over; nothing is left of it. */
  drop(lease: Lease): void {
    this.take(lease)
    const key = keyOf(lease, lease.address)
    if (this.holders.get(key) === lease) this.holders.delete(key)
  }

  private take(lease: Lease): void {
    this.records.delete(lease.text)
    this.count(lease, -1)
  }

  private count(lease: Lease, by: 1 | -1): void {
    if (lease.state === 'declined' || lease.reserved) return
    for (const key of [countKey(lease.address, null), countKey(lease.address, lease.port)]) {
      const count = (this.live.get(key) ?? 0) + by
      if (count === 0) this.live.delete(key)
      else this.live.set(key, count)
    }
  }

  private remember(lease: Lease): void {
    this.remembered.set(lease.text, lease)
    const ofPort = [...this.remembered.values()].filter(({ port }) => port === lease.port)
    if (ofPort.length > REMEMBERED_A_PORT) this.forget(ofPort[0])
    if (this.remembered.size > REMEMBERED) this.forget(this.remembered.values().next().value)
  }

  private forget(lease: Lease | undefined): void {
    if (lease === undefined) return
    this.remembered.delete(lease.text)
    const key = keyOf(lease, lease.address)
    if (this.holders.get(key) === lease) this.holders.delete(key)
  }

  /** Takes the caller's time; a step of the clock moves the deadlines along. */
  advance(nowSeconds: number): void {
    const step = nowSeconds - this.now
    if (step < 0 && step > -1) return // a clock that is slewed
    this.now = nowSeconds
    if (step >= 0 && step <= STEP_SECONDS) return
    for (const lease of this.records.values()) lease.expiresAt += step
    this.journal?.invalidate()
  }

  // ---- the journal ----

  /** Everything that the journal should hold, the oldest expired first. */
  private lines(): LeaseLine[] {
    const held = [...this.records.values()].filter(({ state }) => state !== 'offered')
    return [...this.remembered.values(), ...held].map(lineOf)
  }

  /** Takes a line of the journal; false if it is no lease. A later line of an address replaces the earlier one. */
  private load({ a, m, p, c, i, h, e, s, t }: LeaseLine): boolean {
    const address = typeof a === 'string' ? parseIp(a) : null
    const state = STATES.get(t)
    const isSound = [m, p, c, i].every((text) => typeof text === 'string') && [e, s].every(isSeconds)
    if (address === null || state === undefined || !isSound) return false
    const who = { mac: m, port: p, client: c, association: i }
    const seconds = s ?? Number.POSITIVE_INFINITY
    const expiresAt = Math.min(e ?? Number.POSITIVE_INFINITY, this.now + seconds)
    const hostname = typeof h === 'string' ? hostLabel(h) : null
    const text = formatIp(address)
    this.records.delete(text) // and at the end again: the order is that of the file
    this.records.set(text, { ...who, address, text, hostname, expiresAt, seconds, state, reserved: false })
    return true
  }

  /** Sorts what was loaded into leases in force and remembered ones. */
  private settle(): void {
    const all = [...this.records.values()]
    this.records.clear()
    for (const lease of all.sort((one, other) => one.expiresAt - other.expiresAt)) {
      const isOver = lease.state === 'expired' || lease.expiresAt <= this.now
      if (isOver && lease.state === 'declined') continue
      if (lease.state !== 'declined') this.holders.set(keyOf(lease, lease.address), lease)
      if (isOver) {
        lease.state = 'expired'
        this.remember(lease)
        continue
      }
      this.records.set(lease.text, lease)
      this.count(lease, 1)
      if (lease.state === 'bound') this.names.give(lease, null, null)
    }
  }
}

/** A line of the journal: address, MAC, port, client, association, hostname, end, seconds granted, state's letter. */
interface LeaseLine {
  a: string
  m: string
  p: string
  c: string
  i: string
  h: string | null
  /** null: never */
  e: number | null
  s: number | null
  t: string
}

const STATES = new Map<string, LeaseState>([
  ['b', 'bound'],
  ['d', 'declined'],
  ['x', 'expired'],
])

export function lineOf(lease: Lease): LeaseLine {
  const { text, mac, port, client, association, hostname, expiresAt, seconds, state } = lease
  const who = { a: text, m: mac, p: port, c: client, i: association, h: hostname }
  const time = (value: number): number | null => (Number.isFinite(value) ? Math.ceil(value) : null)
  const t = state === 'declined' ? 'd' : state === 'bound' ? 'b' : 'x'
  return { ...who, e: time(expiresAt), s: time(seconds), t }
}

function isSeconds(value: unknown): boolean {
  return value === null || (typeof value === 'number' && Number.isFinite(value) && value >= 0)
}

function countKey(like: Ip, port: string | null): string {
  return port === null ? `${bitsOf(like)}` : `${bitsOf(like)} ${port}`
}

function keyOf({ mac, port, association }: Holder, like: Ip): string {
  return `${like.length} ${port} ${mac} ${association}`
}

export function isHolder(lease: Lease, { mac, port, association }: Holder): boolean {
  return lease.mac === mac && lease.port === port && lease.association === association
}
