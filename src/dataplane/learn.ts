/**
 * Learn: remembers at which port each source address is (IEEE 802.1Q clause 8.7).
 *
 * The whole burst is learned before any of it is looked up. So an answer that comes in the same burst as the question
 * is already sent to one port; of an address that moves within one burst, the last place counts.
 */
import type { Burst, Pool } from './burst.js'
import type { Fdb } from './fdb.js'
import * as layout from './layout.js'
import type { PortTable } from './port-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { BURST_CAPACITY, INGRESS, MAC_HIGH, RECORD_SHIFT, SOURCE_LOW, VID } = layout

export class Learn {
  private readonly pool: Pool
  private readonly ports: PortTable
  private readonly fdb: Fdb
  private readonly places = new Int32Array(BURST_CAPACITY) // of the burst's sources in the FDB

  constructor(pool: Pool, ports: PortTable, fdb: Fdb) {
    this.pool = pool
    this.ports = ports
    this.fdb = fdb
  }

  /** @param seconds now, in the FDB's seconds */
  process(burst: Burst, seconds: number): void {
    this.findPlaces(burst)
    const { packets, count } = burst
    const { places, fdb } = this
    const { records } = this.pool
    const { network } = this.ports
    let lastLow = 0
    let lastKey = 0
    let lastPort = -1
    for (let i = 0; i < count; i++) {
      const record = packets[i] << RECORD_SHIFT
      const port = records[record + INGRESS]
      const low = records[record + SOURCE_LOW]
      const key = (records[record + MAC_HIGH] >>> 16) | (records[record + VID] << 16)
      if (low === lastLow && key === lastKey && port === lastPort) continue // the frame before was from there too
      fdb.learn(places[i], low, key, network[port], port, seconds)
      lastLow = low
      lastKey = key
      lastPort = port
    }
  }

  private findPlaces(burst: Burst): void {
    const { packets, count } = burst
    const { places, fdb } = this
    const { records } = this.pool
    const { network } = this.ports
    for (let i = 0; i < count; i++) {
      const record = packets[i] << RECORD_SHIFT
      const key = (records[record + MAC_HIGH] >>> 16) | (records[record + VID] << 16)
      places[i] = fdb.place(records[record + SOURCE_LOW], key, network[records[record + INGRESS]])
    }
    fdb.touch(places, count)
  }
}
