/**
 * The names of a network's leases: one label each, unique among guests.
 *
 * A guest's name is what its reservation says, else what it calls itself (DHCP options 12, 81 and 39 of DHCPv6), cut to
 * its first label. Who has a name keeps it while its lease lives: a second guest that calls itself the same gets its
 * address, but not the name. One guest's IPv4 and IPv6 leases share their name. Names of reservations belong to their
 * MAC, leased or not, and those in `reservedNames` to nobody (a guest named `wpad` would configure browsers).
 *
 * Capacity: a name a lease. Standards: RFC 952 and 1123 section 2.1 for what a label is.
 */
import type { Lease, LeaseSettings } from './leases.js'

export class LeaseNames {
  private readonly leases = new Map<string, Lease[]>()
  private readonly owners = new Map<string, string>() // name of a reservation: its MAC
  private refused = new Set<string>()

  configure({ reservations, reservedNames }: Pick<LeaseSettings, 'reservations' | 'reservedNames'>): void {
    this.refused = new Set(reservedNames.map((name) => name.toLowerCase()))
    this.owners.clear()
    for (const { name, mac } of reservations) {
      const label = hostLabel(name)
      if (label !== null) this.owners.set(label, mac)
    }
  }

  /** Names a lease, as far as it may have the name; without a wish it keeps what it has. */
  give(lease: Lease, wished: string | null, reservationName: string | null): void {
    const name = hostLabel(reservationName) ?? wished ?? lease.hostname
    if (name === lease.hostname && this.leases.get(name ?? '')?.includes(lease)) return
    const isFree = name !== null && this.mayHave(lease, name)
    if (!isFree && lease.hostname !== null && this.leases.get(lease.hostname)?.includes(lease)) return
    this.take(lease)
    lease.hostname = isFree ? name : null
    if (!isFree) return
    const others = this.leases.get(name)
    if (others === undefined) this.leases.set(name, [lease])
    else others.push(lease)
  }

  /** Takes the lease out; it remembers how it was called. */
  take(lease: Lease): void {
    const name = lease.hostname
    const left = name === null ? [] : (this.leases.get(name) ?? []).filter((other) => other !== lease)
    if (name === null) return
    if (left.length === 0) this.leases.delete(name)
    else this.leases.set(name, left)
  }

  leasesOf(name: string): Lease[] {
    return this.leases.get(name.toLowerCase())?.slice() ?? []
  }

  private mayHave({ mac, port }: Lease, name: string): boolean {
    if (this.refused.has(name)) return false
    const owner = this.owners.get(name)
    if (owner !== undefined && owner !== mac) return false
    const holders = this.leases.get(name)
    return holders === undefined || holders.every((other) => other.mac === mac && other.port === port)
  }
}

/** The first label of a name, lower case; null if it is none that a host may have. */
export function hostLabel(name: string | null): string | null {
  const label = name?.split('.', 1)[0].toLowerCase() ?? ''
  return /^[a-z\d]([a-z\d-]{0,61}[a-z\d])?$/.test(label) ? label : null
}
