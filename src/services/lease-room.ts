/**
 * Room at a port that has all the leases it may have: the oldest of its own that nobody uses any more gives way.
 *
 * A port's limit keeps one guest from taking a network's addresses. It must not lock a port out for the rest of a lease
 * either: guests are made anew with other MACs, containers come and go behind one card. So when a client gets nothing
 * for the limit's sake, the hosts that hold the port's leases are asked whether they are there, the one that has not
 * renewed for longest first; of those that are silent the first one loses its lease. Other ports' leases, reservations
 * and offers never give way.
 *
 * What it costs is the port's own: the questions go to the holders' MACs, so to that port; one round at a time, and
 * after a round in which all answered none for `HOLD_SECONDS`. At most `ASKED` leases are looked at in a round.
 *
 * The operator is told by `onProblem` when a lease gives way, when none does, and when a network has no address left,
 * of each port at most once in `SAID_SECONDS`; `counts` has all of them.
 */
import type { Ip } from './address.js'
import type { Lease, LeasePool, Leases } from './leases.js'

const HOLD_SECONDS = 3
const ASKED = 64
const SAID_SECONDS = 60

export interface LeaseRoomHost {
  /** whether the holder of a lease is there */
  isThere(lease: Lease): Promise<boolean>
  onProblem(reason: string): void
}

/** What became of a port's leases. */
export interface LeaseCounts {
  /** that gave way to others of the port */
  gaveWay: number
  /** requests that got no address */
  refused: number
}

interface PortRoom extends LeaseCounts {
  isAsking: boolean
  heldUntil: number
  saidAt: number
}

export class LeaseRoom {
  private readonly leases: Leases
  private readonly host: LeaseRoomHost
  private readonly ports = new Map<string, PortRoom>()

  constructor(leases: Leases, host: LeaseRoomHost) {
    this.leases = leases
    this.host = host
  }

  counts(port: string): LeaseCounts {
    const { gaveWay, refused } = this.ports.get(port) ?? { gaveWay: 0, refused: 0 }
    return { gaveWay, refused }
  }

  /** A port is gone. */
  forget(port: string): void {
    this.ports.delete(port)
  }

  /**
   * A client at a port found no address in any of these pools. Resolves to true if there is room now: it may ask again.
   * Who comes while a round is on its way, or just after one in vain, is refused at once.
   */
  async make(port: string, pools: readonly LeasePool[], mac: string, nowSeconds: number): Promise<boolean> {
    const room = this.roomOf(port)
    const pool = pools.find((one) => one.range !== null)
    if (pool === undefined) return false // reservations only: nothing is short
    const like = pool.subnet.ip
    if (!this.leases.isFull(port, like)) {
      room.refused++
      this.say(room, nowSeconds, `no address is left for ${mac} at port ${port}`)
      return false
    }
    const isTooSoon = nowSeconds < room.heldUntil && nowSeconds >= room.heldUntil - HOLD_SECONDS
    const gone = room.isAsking || isTooSoon ? null : await this.oldestSilent(room, port, like)
    if (gone === null) {
      room.refused++
      if (!room.isAsking && !isTooSoon) room.heldUntil = nowSeconds + HOLD_SECONDS
      const limit = this.leases.limitOf(port)
      this.say(room, nowSeconds, `port ${port} has its ${limit} leases, all in use: ${mac} gets none`)
      return false
    }
    // it may have gone or been renewed while the hosts were asked
    const holds = this.leases.byAddress(gone.address) === gone
    if (holds) {
      room.gaveWay++
      this.leases.giveWay(gone, nowSeconds)
      this.say(room, nowSeconds, `port ${port} has its leases: ${gone.text} of ${gone.mac}, which is silent, gives way`)
    }
    return !this.leases.isFull(port, like)
  }

  private async oldestSilent(room: PortRoom, port: string, like: Ip): Promise<Lease | null> {
    room.isAsking = true
    try {
      const held = this.leases.ofPort(port, like).slice(0, ASKED)
      const renewed = held.map(({ expiresAt }) => expiresAt)
      const there = await Promise.all(held.map((lease) => this.host.isThere(lease).catch(() => true)))
      return held.find((lease, i) => !there[i] && lease.expiresAt === renewed[i]) ?? null
    } finally {
      room.isAsking = false
    }
  }

  private roomOf(port: string): PortRoom {
    const known = this.ports.get(port)
    if (known !== undefined) return known
    const room = { gaveWay: 0, refused: 0, isAsking: false, heldUntil: 0, saidAt: 0 }
    this.ports.set(port, room)
    return room
  }

  private say(room: PortRoom, nowSeconds: number, reason: string): void {
    if (nowSeconds >= room.saidAt && nowSeconds < room.saidAt + SAID_SECONDS) return
    room.saidAt = nowSeconds
    this.host.onProblem(reason)
  }
}
