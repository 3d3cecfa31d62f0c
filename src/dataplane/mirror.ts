/**
 * Mirror: copies of frames for captures, and the frames of ring ports, into the punt ring to the control process.
 *
 * A capture of one port takes what the port receives and what it sends; a capture of a whole network takes each frame
 * once, as received. What matches its filter is copied whole; a frame that finds the ring full is lost to the capture,
 * counted in the ring, and forwarded all the same. Capacity: CAPTURES_MAX captures a shard. Without one, a burst pays
 * one comparison.
 *
 * A captured frame shows what is sent: a checksum that its egress finishes is finished in the copy. Of a
 * segmentation-offload frame it shows the whole, with its checksum unfinished.
 */
import type { Burst, Pool } from './burst.js'
import { Filter } from './filter.js'
import * as layout from './layout.js'
import type { Arena } from './layout.js'
import type { PortTable } from './port-table.js'
import * as ringLayout from './ring.js'
import type { Ring } from './ring.js'
import { checksum } from './router/checksum.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  EGRESS_PACKET,
  EGRESS_PORT,
  EGRESS_PORT_MASK,
  EGRESS_STRIDE,
  EGRESS_TAGGED,
  HEADER_TIME_NANOS,
  HEADER_TIME_SECONDS,
  INGRESS,
  LENGTH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  OFFSET,
  RECORD_SHIFT,
  SEGMENT_BYTES,
  TAG,
  TAG_PRESENT,
  TCI,
} = layout
const {
  MESSAGE_CAPTURE,
  MESSAGE_FRAME,
  MESSAGE_SERVICE,
  RING_DIRECTION,
  RING_ID,
  RING_KIND,
  RING_NANOS,
  RING_PORT,
  RING_SECONDS,
  RING_TAG,
} = ringLayout

export const CAPTURES_MAX = 16
const RECEIVED = 0
const SENT = 1
const UDP_CHECKSUM = 6 // offset of the field, and no other's

export class Mirror {
  /** whether any capture runs */
  active = false
  /** something was put into the ring since the flag was last cleared */
  punted = false
  private readonly pool: Pool
  private readonly ports: PortTable
  private readonly header: Int32Array
  private readonly ring: Ring
  private readonly filter: Filter
  private readonly networks = new Int32Array(CAPTURES_MAX).fill(-1) // -1: no capture in this place
  private readonly captured = new Int32Array(CAPTURES_MAX) // port, -1: the whole network
  private readonly programs: Int32Array[] = []

  constructor(arena: Arena, pool: Pool, ports: PortTable, ring: Ring) {
    this.pool = pool
    this.ports = ports
    this.header = arena.header
    this.ring = ring
    this.filter = new Filter(arena.bytes, arena.records)
    for (let i = 0; i < CAPTURES_MAX; i++) this.programs.push(new Int32Array(0))
  }

  /** Starts the capture `id` (0 to CAPTURES_MAX-1) of a network, or of one port of it. */
  start(id: number, network: number, port: number, program: Int32Array): void {
    this.networks[id] = network
    this.captured[id] = port
    this.programs[id] = program
    this.active = true
  }

  stop(id: number): void {
    this.networks[id] = -1
    this.active = this.networks.some((network) => network >= 0)
  }

  /** Looks at a burst as received, before anything is decided about it. */
  received(burst: Burst): void {
    const { packets, count } = burst
    for (let i = 0; i < count; i++) {
      const record = packets[i] << RECORD_SHIFT
      const port = this.pool.records[record + INGRESS]
      const tag = this.pool.records[record + TAG]
      for (let id = 0; id < CAPTURES_MAX; id++) {
        const whole = this.captured[id] < 0
        const wanted = whole ? this.networks[id] === this.ports.network[port] : this.captured[id] === port
        if (this.networks[id] >= 0 && wanted && this.filter.matches(this.programs[id], packets[i], tag))
          this.copy(packets[i], MESSAGE_CAPTURE, id, port, RECEIVED, tag)
      }
    }
  }

  /** Looks at the first `count` pairs of the egress list, just before they are sent. */
  sent(pairs: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) {
      const packet = pairs[i * EGRESS_STRIDE + EGRESS_PACKET]
      const word = pairs[i * EGRESS_STRIDE + EGRESS_PORT]
      const port = word & EGRESS_PORT_MASK
      const tag = this.egressTag(packet, (word & EGRESS_TAGGED) !== 0)
      for (let id = 0; id < CAPTURES_MAX; id++)
        if (this.networks[id] >= 0 && this.captured[id] === port && this.filter.matches(this.programs[id], packet, tag))
          this.copy(packet, MESSAGE_CAPTURE, id, port, SENT, tag)
    }
  }

  /** Hands a frame that leaves by a ring port to the control process. Returns false if the ring is full. */
  punt(packet: number, port: number, tagged: boolean): boolean {
    return this.copy(packet, MESSAGE_FRAME, 0, port, SENT, this.egressTag(packet, tagged))
  }

  /** Hands a frame to the services of a segment. Returns false if the ring is full. The packet stays the caller's. */
  serve(packet: number, segment: number): boolean {
    const record = packet << RECORD_SHIFT
    const { records } = this.pool
    const isUnfinished = records[record + OFFLOAD] & OFFLOAD_CHECKSUM
    return this.copy(packet, MESSAGE_SERVICE, segment, records[record + INGRESS], isUnfinished, 0)
  }

  private egressTag(packet: number, tagged: boolean): number {
    return tagged ? TAG_PRESENT | this.pool.records[(packet << RECORD_SHIFT) + TCI] : 0
  }

  private copy(packet: number, kind: number, id: number, port: number, direction: number, tag: number): boolean {
    const record = packet << RECORD_SHIFT
    const frame = this.pool.records[record + OFFSET]
    const length = this.pool.records[record + LENGTH]
    const index = this.ring.reserve(length)
    if (index < 0) return false
    const header = this.ring.header()
    header[index + RING_KIND] = kind
    header[index + RING_ID] = id
    header[index + RING_PORT] = port
    header[index + RING_DIRECTION] = direction
    header[index + RING_TAG] = tag
    header[index + RING_SECONDS] = this.header[HEADER_TIME_SECONDS]
    header[index + RING_NANOS] = this.header[HEADER_TIME_NANOS]
    const place = this.ring.place(index)
    this.pool.bytes.copyWithin(place, frame, frame + length)
    if (kind !== MESSAGE_SERVICE) this.finish(record, place)
    this.ring.publish()
    this.punted = true
    return true
  }

  /** Finishes the checksum in the copy of a frame; its field holds the pseudo-header's sum and takes part as it is. */
  private finish(record: number, place: number): void {
    const { records, view } = this.pool
    if ((records[record + OFFLOAD] & OFFLOAD_CHECKSUM) === 0 || records[record + SEGMENT_BYTES] > 0) return
    const start = place + records[record + CHECKSUM_START]
    const field = records[record + CHECKSUM_OFFSET]
    const sum = checksum(view, start, place + records[record + LENGTH], 0)
    view.setUint16(start + field, sum === 0 && field === UDP_CHECKSUM ? 0xffff : sum) // 0 would say that there is none
  }
}
