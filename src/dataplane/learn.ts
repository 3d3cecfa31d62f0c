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
  private readonly sources = new Int32Array(BURST_CAPACITY) // records of frames whose source differs from the last's
  private readonly places = new Int32Array(BURST_CAPACITY) // of those sources in the FDB

  constructor(pool: Pool, ports: PortTable, fdb: Fdb) {
    this.pool = pool
    this.ports = ports
    this.fdb = fdb
  }

  /** @param seconds now, in the FDB's seconds */
  process(burst: Burst, seconds: number): void {
    const count = this.findSources(burst)
    const { sources, places, fdb } = this
    const { records } = this.pool
    const { network } = this.ports
    fdb.touch(places, count)
    for (let i = 0; i < count; i++) {
      const record = sources[i]
      const port = records[record + INGRESS]
      const key = (records[record + MAC_HIGH] >>> 16) | (records[record + VID] << 16)
      fdb.learn(places[i], records[record + SOURCE_LOW], key, network[port], port, seconds)
    }
  }

  /** A burst comes in runs from one source: one frame of each run is enough. Returns how many runs there are. */
  private findSources(burst: Burst): number {
    const { packets, count } = burst
    const { sources, places, fdb } = this
    const { records } = this.pool
    const { network } = this.ports
    let found = 0
    let lastLow = 0
    let lastKey = -1
    let lastPort = -1
    for (let i = 0; i < count; i++) {
      const record = packets[i] << RECORD_SHIFT
      const port = records[record + INGRESS]
      const low = records[record + SOURCE_LOW]
      const key = (records[record + MAC_HIGH] >>> 16) | (records[record + VID] << 16)
      if (low === lastLow && key === lastKey && port === lastPort) continue
      sources[found] = record
      places[found++] = fdb.place(low, key, network[port])
      lastLow = low
      lastKey = key
      lastPort = port
    }
    return found
  }
}
