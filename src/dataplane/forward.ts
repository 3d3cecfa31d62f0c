/**
 * Forward: decides by which ports a frame leaves (IEEE 802.1Q clause 8.6), and lists the pairs of packet and port.
 *
 * A frame to a known address leaves by that port alone; one to an unknown address or a group leaves by every port of
 * its VLAN but the one it came by. Flooding takes a reference a port, never a copy. `admits` holds every condition on a
 * pair.
 *
 * Where a network's rules judge frames between guests, each pair is also asked for at the filter.
 *
 * The list has EGRESS_CAPACITY pairs. When a flood might not fit, what is listed is sent first, so the order is kept.
 */
import type { Burst, Pool } from './burst.js'
import * as drops from './drops.js'
import type { Egress } from './egress.js'
import type { Fdb } from './fdb.js'
import * as layout from './layout.js'
import * as portTable from './port-table.js'
import type { PortTable } from './port-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_EGRESS_DOWN, DROP_NO_RECIPIENT, DROP_SAME_PORT } = drops
const { BURST_CAPACITY, DESTINATION_LOW, INGRESS, MAC_HIGH, RECORD_SHIFT, REFERENCES, VID } = layout
const { PORT_ISOLATED, PORT_LINK } = portTable

/** Judges frames from one guest to another, see `router/local-filter.ts`. */
export interface Filters {
  readonly reason: number
  admits(packet: number, network: number, ingress: number, egress: number, isFlooded: boolean): boolean
}

export class Forward {
  private readonly pool: Pool
  private readonly ports: PortTable
  private readonly fdb: Fdb
  private readonly egress: Egress
  /** a burst is being worked on: nothing else may be forwarded meanwhile */
  busy = false
  private readonly filtered: Int32Array // 1: the network's frames are filtered
  private filter: Filters | null = null
  private readonly starts = new Int32Array(BURST_CAPACITY + 1) // where in the burst each run begins
  private readonly places = new Int32Array(BURST_CAPACITY) // of the runs' destinations in the FDB

  constructor(pool: Pool, ports: PortTable, fdb: Fdb, egress: Egress, filtered: Int32Array) {
    this.filtered = filtered
    this.pool = pool
    this.ports = ports
    this.fdb = fdb
    this.egress = egress
  }

  /** Tells who filters: the filter answers by way of the router, which needs this stage, so it comes second. */
  attach(filter: Filters): void {
    this.filter = filter
  }

  /** Takes every packet of the burst: each is listed for egress or dropped. */
  process(burst: Burst): void {
    this.busy = true
    const { packets } = burst
    const { starts, places, fdb } = this
    const { records } = this.pool
    const runs = this.findRuns(burst)
    fdb.touch(places, runs)
    for (let run = 0; run < runs; run++) {
      const record = packets[starts[run]] << RECORD_SHIFT
      const ingress = records[record + INGRESS]
      const high = records[record + MAC_HIGH] & 0xffff
      const vid = records[record + VID]
      const network = this.ports.network[ingress]
      const low = records[record + DESTINATION_LOW]
      const port = (high & 1) !== 0 ? -1 : fdb.lookup(places[run], low, high | (vid << 16), network)
      const end = starts[run + 1]
      if (port < 0) for (let i = starts[run]; i < end; i++) this.flood(packets[i], ingress, vid, network)
      else this.unicast(packets, starts[run], end, ingress, vid, port)
    }
    burst.count = 0
    this.busy = false
  }

  /**
   * Finds the runs of frames from one port to one address in one VLAN, which are judged once: their starts, with the
   * burst's end behind the last. Returns how many there are.
   */
  private findRuns(burst: Burst): number {
    const { packets, count } = burst
    const { starts, places, fdb } = this
    const { records } = this.pool
    const { network } = this.ports
    let runs = 0
    let lastLow = 0
    let lastKey = -1
    let lastPort = -1
    for (let i = 0; i < count; i++) {
      const record = packets[i] << RECORD_SHIFT
      const port = records[record + INGRESS]
      const low = records[record + DESTINATION_LOW]
      const key = (records[record + MAC_HIGH] & 0xffff) | (records[record + VID] << 16)
      if (low === lastLow && key === lastKey && port === lastPort) continue
      starts[runs] = i
      places[runs++] = fdb.place(low, key, network[port])
      lastLow = low
      lastKey = key
      lastPort = port
    }
    starts[runs] = count
    return runs
  }

  /** Lists or drops the packets from `start` to before `end`, which all go to one port. */
  private unicast(packets: Int32Array, start: number, end: number, ingress: number, vid: number, port: number): void {
    if (port === ingress || !this.admits(ingress, port, vid)) {
      const reason = port === ingress ? DROP_SAME_PORT : DROP_NO_RECIPIENT
      for (let i = start; i < end; i++) this.pool.drop(packets[i], reason)
    } else if ((this.ports.flags[port] & PORT_LINK) === 0) {
      for (let i = start; i < end; i++) {
        this.pool.countDrop(port, DROP_EGRESS_DOWN)
        this.pool.release(packets[i])
      }
    } else {
      this.egress.reserve(end - start)
      if (this.filtered[this.ports.network[ingress]] !== 0) this.filterUnicast(packets, start, end, ingress, port)
      else for (let i = start; i < end; i++) this.egress.list(packets[i], port)
    }
  }

  private filterUnicast(packets: Int32Array, start: number, end: number, ingress: number, port: number): void {
    const filter = this.filter!
    const network = this.ports.network[ingress]
    for (let i = start; i < end; i++) {
      if (filter.admits(packets[i], network, ingress, port, false)) this.egress.list(packets[i], port)
      else this.pool.drop(packets[i], filter.reason)
    }
  }

  private flood(packet: number, ingress: number, vid: number, network: number): void {
    const members = this.ports.members[network]
    const count = this.ports.memberCount[network]
    this.egress.reserve(count)
    const isFiltered = this.filtered[network] !== 0
    let recipients = 0
    for (let i = 0; i < count; i++) {
      const port = members[i]
      if (port === ingress || (this.ports.flags[port] & PORT_LINK) === 0 || !this.admits(ingress, port, vid)) continue
      if (isFiltered && !this.filter!.admits(packet, network, ingress, port, true)) continue
      this.egress.list(packet, port)
      recipients++
    }
    if (recipients === 0) this.pool.drop(packet, DROP_NO_RECIPIENT)
    else this.pool.records[(packet << RECORD_SHIFT) + REFERENCES] = recipients
  }

  /** Whether frames of this VID may pass from one port to the other, links apart. */
  private admits(ingress: number, egress: number, vid: number): boolean {
    return (
      this.ports.network[egress] === this.ports.network[ingress] && // an entry may be older than a port's move
      this.ports.isMember(egress, vid) &&
      (this.ports.flags[ingress] & this.ports.flags[egress] & PORT_ISOLATED) === 0
    )
  }
}
