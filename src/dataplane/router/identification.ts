/**
 * Identifications that packets have behind a translated source (RFC 6864 section 5.3.1): guests behind one address must
 * not have the same one at a time, or a receiver puts fragments of two datagrams together, which a guest could bring
 * about to spoil another's.
 *
 *   IPv4   counters by zone, destination and protocol, from a random start: a number comes again after 65,536 datagrams
 *          that may be fragments or become such. Atomic ones (DF, no fragment) keep theirs, which nobody reads
 *   IPv6   the guest's own 32 bits, changed by a secret of guest and destination: each guest's stay apart, and none
 *          foresees where another's lie
 *
 * The fragments of an IPv4 datagram have one number: it is taken with the first one, and `fragments.ts` remembers it.
 *
 * Capacity: COUNTERS, by hash; destinations that share one use it up faster. A new shard process starts elsewhere.
 */
import * as layout from '../layout.js'
import { KeyedHash } from './hash-index.js'
import type { Flow } from './flow.js'

const { HEADER_TIME_NANOS } = layout

const COUNTERS = 1024 // a power of two
const PURPOSE = 6

export class Identifications {
  private readonly keyed: KeyedHash
  private readonly counters = new Int32Array(COUNTERS)

  constructor(header: Int32Array) {
    this.keyed = new KeyedHash(header, PURPOSE)
    for (let i = 0; i < COUNTERS; i++) this.counters[i] = this.keyed.mix(i, header[HEADER_TIME_NANOS], 0, 0)
  }

  /**
   * The next 16 bits for IPv4.
   * @param count datagrams that it is the first of: those that a segmentation-offload frame becomes
   */
  next(zone: number, destination: number, protocol: number, count: number): number {
    const { counters } = this
    const place = this.keyed.mix(zone, destination, protocol, 0) & (COUNTERS - 1)
    const id = counters[place]
    counters[place] = (id + count) | 0
    return id & 0xffff
  }

  /** The 32 bits of IPv6 for a flow's own ones. */
  changed(flow: Flow, id: number): number {
    const { keyed } = this
    const source = keyed.mix(flow.source0, flow.source1, flow.source2, flow.source3)
    return id ^ keyed.mix(source ^ flow.destination0, flow.destination1, flow.destination2, flow.destination3)
  }
}
