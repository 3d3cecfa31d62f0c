/**
 * The leases of a network, IPv4 and IPv6 in one table: who has which address, until when, and under which name.
 *
 * Who. A holder is a MAC at a port, and for DHCPv6 an identity association of it. The client identifier is second to
 * that: cloned guests have the same one, and must not get the same address; guests change it between their firmware's
 * client and their own, and should keep their address. It only decides who gets a remembered address again when the
 * MAC at the port is new.
 *
 * Which. In this order: the MAC's reservation; what the holder has; what it had last; what it asks for, if that was
 * never another's; what its client identifier had last at this port; a place in the range by a hash of network and
 * MAC, or the next one there that was never used; at last the address that expired longest ago. So a guest gets the
 * same address again as long as there is room, also after a loss of the journal.
 *
 * How long. Times are the caller's wall clock, in seconds, in each call. A clock that steps (more than a minute
 * between two calls, or backwards) takes all deadlines along, so that a lease keeps the time it had left and none
 * expires at once; the caller calls `sweep` every second or so. A daemon that was stopped for long takes that for a
 * step too: leases then last longer than promised, which harms nobody. After a restart no lease has more left than it
 * was granted for.
 *
 * Capacity: `networkLimit` leases a family (1000), `portLimit` of them at a port (16), offers included, reservations
 * not: beyond that there is no offer, until `lease-room.ts` has made the port's oldest unused lease give way. Expired
 * leases are remembered, 16 a port and 4096 altogether, the oldest are forgotten first. Addresses that were declined
 * are in quarantine for 600 s, at most 16 by a port; further ones are just released.
 *
 * Every lease granted, renewed, released or declined is a line of the journal (`lease-journal.ts`); the caller calls
 * `commit` before it answers. Offers are not written. Events are told as they happen, before that.
 */
import { addToIp, compareIp, contains, formatIp, lastOf, maskIp, stepsBetween } from './address.js'
import type { Ip, Prefix } from './address.js'
import type { LeaseJournal } from './lease-journal.js'
import { hostLabel } from './lease-names.js'
import { LeaseTable, isHolder, lineOf } from './lease-table.js'
import type { Holder, Lease, LeaseEvent, LeaseState } from './lease-table.js'

export type { Holder, Lease, LeaseEvent, LeaseState } from './lease-table.js'

const OFFER_SECONDS = 30
const QUARANTINE_SECONDS = 600
const DECLINES_A_PORT = 16
/** Addresses in quarantine because a probe found them in use. */
const PROBED = 256
/** Places of a range that the hash chooses among. */
const HASHED_PLACES = 2 ** 32

/** Where addresses are taken from. */
export interface LeasePool {
  subnet: Prefix
  /** null: reservations only */
  range: { from: Ip; to: Ip } | null
}

export interface LeaseReservation {
  mac: string
  address: Ip
  name: string | null
}

export interface LeaseSettings {
  reservations: LeaseReservation[]
  /** addresses that are never leased: the gateway's, those given to ports by hand */
  excluded: Ip[]
  portLimit: number
  networkLimit: number
  /** for ports that may have more or fewer leases than `portLimit`: relays, trunks */
  portLimits?: Record<string, number>
  /** names that no guest may take */
  reservedNames: string[]
}

export const DEFAULT_LEASE_SETTINGS: LeaseSettings = {
  reservations: [],
  excluded: [],
  portLimit: 16,
  networkLimit: 1000,
  reservedNames: ['localhost', 'gateway', 'host', 'wpad', 'isatap'],
}

export class Leases {
  private readonly network: string
  private readonly journal: LeaseJournal | null
  private readonly onEvent: (event: LeaseEvent, lease: Lease) => void
  private readonly table: LeaseTable
  private settings = DEFAULT_LEASE_SETTINGS
  private readonly reserved = new Map<string, LeaseReservation>() // by address
  private readonly reservations = new Map<string, LeaseReservation[]>() // by MAC
  private excluded = new Set<string>()

  /**
   * @param network its UUID: it makes the same guest's addresses differ between networks
   * @param journal owned by the caller, who closes it; null: leases end with the process
   */
  constructor(
    network: string,
    journal: LeaseJournal | null,
    nowSeconds: number,
    onEvent: (event: LeaseEvent, lease: Lease) => void,
  ) {
    this.network = network
    this.journal = journal
    this.onEvent = onEvent
    this.table = new LeaseTable(journal, nowSeconds, onEvent)
    this.configure(DEFAULT_LEASE_SETTINGS)
  }

  /** Takes new settings. Leases that they would not allow last until they are renewed. */
  configure(settings: LeaseSettings): void {
    this.settings = settings
    this.excluded = new Set(settings.excluded.map(formatIp))
    this.reserved.clear()
    this.reservations.clear()
    for (const reservation of settings.reservations) {
      this.reserved.set(formatIp(reservation.address), reservation)
      const others = this.reservations.get(reservation.mac)
      if (others === undefined) this.reservations.set(reservation.mac, [reservation])
      else others.push(reservation)
    }
    this.table.names.configure(settings)
    this.table.reserve(({ text, mac }) => this.isReservedFor(text, mac))
  }

  // ---- what servers ask ----

  /**
   * Holds an address for the holder for half a minute, or gives the lease that it has. Null: none can be had.
   * @param wanted what it asks for; taken if it may have it
   */
  offer(holder: Holder, pool: LeasePool, wanted: Ip | null, nowSeconds: number): Lease | null {
    this.table.advance(nowSeconds)
    const own = this.table.ofHolder(holder, pool.subnet.ip)
    const address = this.choose(holder, own, pool, wanted)
    if (address === null) return null
    if (own !== undefined && own.text === formatIp(address) && own.state !== 'expired') {
      if (own.state === 'offered') own.expiresAt = this.table.now + OFFER_SECONDS
      own.client = holder.client
      return own
    }
    if (own?.state === 'offered') this.table.drop(own)
    // a lease in force stays until the holder takes the new address
    const lease = this.place(holder, address, 'offered')
    lease.expiresAt = this.table.now + OFFER_SECONDS
    lease.seconds = OFFER_SECONDS
    return lease
  }

  /** Whether the holder may have this very address now. */
  mayHave(holder: Holder, pool: LeasePool, address: Ip, nowSeconds: number): boolean {
    this.table.advance(nowSeconds)
    const own = this.table.ofHolder(holder, address)
    return this.isFor(holder, pool, address) && this.isWithinLimits(holder, own, address)
  }

  /**
   * Grants or renews a lease; null if the holder may not have the address. The caller answers after `commit`.
   * @param name what the guest calls itself, unchecked; null: it does not say
   */
  grant(
    holder: Holder,
    pool: LeasePool,
    address: Ip,
    seconds: number,
    name: string | null,
    nowSeconds: number,
  ): Lease | null {
    if (!this.mayHave(holder, pool, address, nowSeconds)) return null
    const text = formatIp(address)
    this.table.leaveOthers(holder, address)
    const known = this.table.records.get(text)
    const isRenewal = known?.state === 'bound'
    const lease = known ?? this.place(holder, address, 'bound')
    lease.client = holder.client
    lease.state = 'bound'
    lease.seconds = seconds
    lease.expiresAt = this.table.now + seconds
    this.table.names.give(lease, hostLabel(name), this.reserved.get(text)?.name ?? null)
    this.journal?.append(lineOf(lease))
    this.onEvent(isRenewal ? 'renewed' : 'granted', lease)
    return lease
  }

  /** What a guest gives back: its own, at its own port. Returns whether it was. */
  releaseBy(holder: Holder, address: Ip, nowSeconds: number): boolean {
    this.table.advance(nowSeconds)
    const lease = this.table.records.get(formatIp(address))
    if (lease === undefined || lease.state === 'declined' || !isHolder(lease, holder)) return false
    if (lease.state === 'offered') this.table.drop(lease)
    else this.table.end(lease, 'released')
    return true
  }

  /** A guest found its own address in use: quarantine, beyond the port's limit just a release. */
  decline(holder: Holder, address: Ip, nowSeconds: number): boolean {
    this.table.advance(nowSeconds)
    const lease = this.table.records.get(formatIp(address))
    if (lease === undefined || lease.state === 'declined' || !isHolder(lease, holder)) return false
    if (lease.state === 'bound') this.table.end(lease, 'released')
    else this.table.drop(lease)
    this.quarantine(address, holder.port)
    return true
  }

  /**
   * Nobody gets this address for 600 s. Nothing happens to one that is leased, nor beyond the limits.
   * @param port who said so; empty: found by a probe
   */
  quarantine(address: Ip, port = ''): void {
    const text = formatIp(address)
    const lease = this.table.records.get(text)
    if (lease !== undefined && lease.state !== 'offered') return
    let held = 0
    for (const other of this.table.records.values()) if (other.state === 'declined' && other.port === port) held++
    if (held >= (port === '' ? PROBED : DECLINES_A_PORT)) return
    if (lease !== undefined) this.table.drop(lease)
    const declined = this.place({ mac: '', port, client: '', association: '' }, address, 'declined')
    declined.seconds = QUARANTINE_SECONDS
    declined.expiresAt = this.table.now + QUARANTINE_SECONDS
    this.journal?.append(lineOf(declined))
  }

  /** What the holder has or, not in force any more, had last, of the family of `like`. */
  find(holder: Holder, like: Ip): Lease | null {
    return this.table.ofHolder(holder, like) ?? null
  }

  /** All before this is on the disk. Throws if it is not: then no lease may be confirmed. */
  commit(): void {
    this.journal?.commit()
  }

  // ---- room at a port, for `lease-room.ts` ----

  /** Leases of a family that a port may have, reserved ones not counted. */
  limitOf(port: string): number {
    return this.settings.portLimits?.[port] ?? this.settings.portLimit
  }

  /** Whether a port has as many leases and offers of the family of `like` as it may. */
  isFull(port: string, like: Ip): boolean {
    return this.table.countOf(like, port) >= this.limitOf(port)
  }

  /** The leases in force of a port that are not reserved, the one that was renewed longest ago first. */
  ofPort(port: string, like: Ip): Lease[] {
    const renewedAt = ({ expiresAt, seconds }: Lease): number => expiresAt - seconds
    return [...this.table.records.values()]
      .filter((lease) => lease.port === port && lease.state === 'bound' && !lease.reserved)
      .filter(({ address, seconds }) => address.length === like.length && Number.isFinite(seconds))
      .sort((a, b) => renewedAt(a) - renewedAt(b))
  }

  /** Leases and offers of a port by family, reserved ones not counted. */
  countsOf(port: string): { ip4: number; ip6: number } {
    return { ip4: this.table.countOf([0], port), ip6: this.table.countOf([0, 0, 0, 0], port) }
  }

  /** Ends a lease in force for the sake of another at its port. The line in the journal goes with the next commit. */
  giveWay(lease: Lease, nowSeconds: number): void {
    this.table.advance(nowSeconds)
    if (lease.state === 'bound') this.table.end(lease, 'released')
  }

  // ---- what everyone else asks ----

  /** The lease in force of an address. */
  byAddress(address: Ip): Lease | null {
    const lease = this.table.records.get(formatIp(address))
    return lease?.state === 'bound' ? lease : null
  }

  /** The leases in force of a name, of both families; a reservation's name counts for its leases. */
  byName(name: string): Lease[] {
    return this.table.names.leasesOf(name)
  }

  /** The reservation of a name, leased or not. */
  reservationsByName(name: string): LeaseReservation[] {
    return this.settings.reservations.filter((one) => hostLabel(one.name) === name.toLowerCase())
  }

  /** Leases in force, by address. Reservations that are not leased are not among them. */
  list(): Lease[] {
    return [...this.table.records.values()]
      .filter(({ state }) => state === 'bound')
      .sort((a, b) => compareIp(a.address, b.address))
  }

  /** Ends a lease, by order. Returns whether there was one. */
  release(address: Ip, nowSeconds: number): boolean {
    this.table.advance(nowSeconds)
    const lease = this.byAddress(address)
    if (lease !== null) this.table.end(lease, 'released')
    this.commit()
    return lease !== null
  }

  /** Ends all leases of a port that is gone; its guest is remembered. */
  releasePort(port: string, nowSeconds: number): void {
    this.table.advance(nowSeconds)
    for (const lease of [...this.table.records.values()].filter((one) => one.port === port)) {
      if (lease.state === 'bound') this.table.end(lease, 'released')
      else this.table.drop(lease)
    }
    this.commit()
  }

  /** Expires what is over. Call it about once a second. */
  sweep(nowSeconds: number): void {
    this.table.advance(nowSeconds)
    for (const lease of this.table.records.values()) {
      if (lease.expiresAt > this.table.now) continue
      if (lease.state === 'bound') this.table.end(lease, 'expired')
      else this.table.drop(lease)
    }
    try {
      this.commit()
    } catch {
      // nobody waits for these lines: they go with the next commit, whose caller is told
    }
  }

  // ---- choice ----

  private choose(holder: Holder, own: Lease | undefined, pool: LeasePool, wanted: Ip | null): Ip | null {
    const may = (address: Ip): boolean => this.isFor(holder, pool, address)
    for (const { address } of this.reservations.get(holder.mac) ?? []) if (may(address)) return address
    if (own !== undefined && own.state !== 'expired' && may(own.address)) return own.address
    if (pool.range === null || !this.isWithinLimits(holder, own, pool.subnet.ip)) return null
    if (own !== undefined && may(own.address)) return own.address
    if (wanted !== null && may(wanted) && !this.table.remembered.has(formatIp(wanted))) return wanted
    const before = holder.client === '' ? null : this.ofClient(holder, pool)
    return before ?? this.free(holder, pool) ?? this.oldest(pool)
  }

  /** Whether this address can be the holder's: in the range or reserved for it, and nobody's in force. */
  private isFor(holder: Holder, pool: LeasePool, address: Ip): boolean {
    const text = formatIp(address)
    if (!contains(pool.subnet, address) || this.excluded.has(text)) return false
    const reservation = this.reserved.get(text)
    if (reservation === undefined ? !isInRange(pool, address) : reservation.mac !== holder.mac) return false
    const lease = this.table.records.get(text)
    return lease === undefined || (lease.state !== 'declined' && isHolder(lease, holder))
  }

  /** What the holder has already does not count against it. */
  private isWithinLimits(holder: Holder, own: Lease | undefined, address: Ip): boolean {
    const text = formatIp(address)
    if (this.isReservedFor(text, holder.mac) || (own?.text === text && own.state === 'bound')) return true
    const has = own !== undefined && own.state !== 'expired' && !own.reserved ? 1 : 0
    if (this.table.countOf(address, holder.port) - has >= this.limitOf(holder.port)) return false
    return this.table.countOf(address, null) - has < this.settings.networkLimit
  }

  private place(holder: Holder, address: Ip, state: LeaseState): Lease {
    return this.table.place(holder, address, state, this.isReservedFor(formatIp(address), holder.mac))
  }

  private isReservedFor(text: string, mac: string): boolean {
    return this.reserved.get(text)?.mac === mac
  }

  /** What the same client had last, at this port, under another MAC. */
  private ofClient({ client, port, association }: Holder, pool: LeasePool): Ip | null {
    for (const lease of this.table.remembered.values()) {
      if (lease.client !== client || lease.port !== port || lease.association !== association) continue
      if (this.isFree(pool, lease.address)) return lease.address
    }
    return null
  }

  private free(holder: Holder, pool: LeasePool): Ip | null {
    const { from, to } = pool.range!
    const size = Math.min(stepsBetween(from, to) + 1, HASHED_PLACES)
    const { records, remembered } = this.table
    // so many addresses at most are not free, with the subnet's first and last
    const taken = records.size + remembered.size + this.reserved.size + this.excluded.size + 2
    const tries = Math.min(size, taken + 1)
    let place = hash(`${this.network} ${holder.mac}${holder.association}`) % size
    for (let i = 0; i < tries; i++) {
      const address = addToIp(from, place)
      if (this.isFree(pool, address) && !remembered.has(formatIp(address))) return address
      place = place + 1 < size ? place + 1 : 0
    }
    return null
  }

  private oldest(pool: LeasePool): Ip | null {
    for (const lease of this.table.remembered.values()) if (this.isFree(pool, lease.address)) return lease.address
    return null
  }

  private isFree(pool: LeasePool, address: Ip): boolean {
    const text = formatIp(address)
    if (this.table.records.has(text) || this.reserved.has(text) || this.excluded.has(text)) return false
    return isInRange(pool, address)
  }
}

function isInRange({ subnet, range }: LeasePool, address: Ip): boolean {
  if (range === null || address.length !== range.from.length) return false
  if (compareIp(address, range.from) < 0 || compareIp(address, range.to) > 0 || !contains(subnet, address)) return false
  // neither the network's own address nor its broadcast (RFC 3021 has neither in a /31)
  if (address.length > 1 || subnet.prefix > 30) return true
  return compareIp(address, maskIp(address, subnet.prefix)) !== 0 && compareIp(address, lastOf(subnet)) !== 0
}

/** FNV-1a, finished as MurmurHash3 does: 0 to 2^32 - 1. */
function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}
