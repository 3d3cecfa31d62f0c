/**
 * Egress: the list of pairs (packet, port) of a burst, and what each pair needs: a VLAN tag, a finished checksum,
 * cutting into segments. Native code does the work when it transmits; which port needs what is decided here.
 *
 * A frame longer than the port's MTU is dropped and counted there; a segmentation-offload frame is measured by its
 * segments. Frames for ring ports, whose other end is the control process, are copied into the punt ring here.
 *
 * Every pair holds one reference, which `transmit` of the driver gives up.
 */
import type { Pool } from './burst.js'
import * as drops from './drops.js'
import * as layout from './layout.js'
import type { Arena } from './layout.js'
import type { Mirror } from './mirror.js'
import * as portTable from './port-table.js'
import type { PortTable } from './port-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_EGRESS_MTU, DROP_QUEUE_FULL } = drops
const {
  EGRESS_CAPACITY,
  EGRESS_CHECKSUM,
  EGRESS_PACKET,
  EGRESS_PORT,
  EGRESS_PORT_MASK,
  EGRESS_SEGMENT,
  EGRESS_STRIDE,
  EGRESS_TAGGED,
  GSO_SHIFT,
  GSO_TCP4,
  GSO_TCP6,
  GSO_UDP,
  HEADER_LENGTH,
  LENGTH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  RECORD_SHIFT,
  SEGMENT_BYTES,
  TAG,
  TRANSMITTED_PACKETS,
  VID,
} = layout
const { PORT_RING, PORT_VLAN_AWARE, TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } = portTable

/** What sends the listed pairs: native code, or a test's own ports. */
export interface Transmitter {
  transmit(pairs: number): void
}

export class Egress {
  private readonly pool: Pool
  private readonly ports: PortTable
  private readonly mirror: Mirror
  private readonly transmitter: Transmitter
  private readonly pairs: Int32Array
  private count = 0

  constructor(arena: Arena, pool: Pool, ports: PortTable, mirror: Mirror, transmitter: Transmitter) {
    this.pool = pool
    this.ports = ports
    this.mirror = mirror
    this.transmitter = transmitter
    this.pairs = arena.egress
  }

  /** Makes room for `pairs` more pairs, at most EGRESS_CAPACITY. */
  reserve(pairs: number): void {
    if (this.count + pairs > EGRESS_CAPACITY) this.transmit()
  }

  list(packet: number, port: number): void {
    const at = this.count++ * EGRESS_STRIDE
    this.pairs[at + EGRESS_PACKET] = packet
    this.pairs[at + EGRESS_PORT] = port
  }

  /** Prepares and sends what is listed. */
  transmit(): void {
    const listed = this.count
    if (listed === 0) return
    this.count = 0
    const kept = this.prepare(listed)
    if (this.mirror.active) this.mirror.sent(this.pairs, kept)
    const left = this.ports.rings > 0 ? this.deliverToRings(kept) : kept
    if (left > 0) this.transmitter.transmit(left)
  }

  /**
   * Compacts the list to the pairs that can be sent, and writes down what each needs. What the port has to say is
   * looked up once for a run of pairs with it.
   */
  private prepare(listed: number): number {
    const { pairs } = this
    const { records } = this.pool
    let kept = 0
    let port = -1
    let longest = 0
    let untagged = 0
    let isVlanAware = false
    for (let i = 0; i < listed; i++) {
      const packet = pairs[i * EGRESS_STRIDE + EGRESS_PACKET]
      if (pairs[i * EGRESS_STRIDE + EGRESS_PORT] !== port) {
        port = pairs[i * EGRESS_STRIDE + EGRESS_PORT]
        longest = this.ports.maxFrame[port]
        untagged = this.ports.pvid[port]
        isVlanAware = (this.ports.flags[port] & PORT_VLAN_AWARE) !== 0
      }
      const record = packet << RECORD_SHIFT
      const segment = records[record + SEGMENT_BYTES]
      const wire = segment === 0 ? records[record + LENGTH] : records[record + HEADER_LENGTH] + segment
      if (wire > longest) {
        this.pool.countDrop(port, DROP_EGRESS_MTU)
        this.pool.release(packet)
        continue
      }
      // in the VLAN-unaware part a tag is payload: it goes out as it came
      const tagged = isVlanAware ? records[record + VID] !== untagged : records[record + TAG] !== 0
      const finishing = records[record + OFFLOAD] === 0 ? 0 : this.finishing(record, port)
      const at = kept++ * EGRESS_STRIDE
      pairs[at + EGRESS_PACKET] = packet
      pairs[at + EGRESS_PORT] = port | (tagged ? EGRESS_TAGGED : 0) | finishing
    }
    return kept
  }

  private finishing(record: number, port: number): number {
    const { records } = this.pool
    const offload = records[record + OFFLOAD]
    const takes = this.ports.offloads[port]
    const type = (offload >> GSO_SHIFT) & 0x7f
    const needs =
      type === GSO_TCP4 ? TAKES_TSO4 : type === GSO_TCP6 ? TAKES_TSO6 : type === GSO_UDP ? TAKES_USO : TAKES_CHECKSUM
    if (needs !== TAKES_CHECKSUM && (takes & needs) === 0) return EGRESS_SEGMENT
    return (offload & OFFLOAD_CHECKSUM) !== 0 && (takes & TAKES_CHECKSUM) === 0 ? EGRESS_CHECKSUM : 0
  }

  /** Copies the frames for ring ports to the punt ring; compacts the list to the others. */
  private deliverToRings(listed: number): number {
    const { pairs } = this
    let kept = 0
    for (let i = 0; i < listed; i++) {
      const packet = pairs[i * EGRESS_STRIDE + EGRESS_PACKET]
      const word = pairs[i * EGRESS_STRIDE + EGRESS_PORT]
      const port = word & EGRESS_PORT_MASK
      if ((this.ports.flags[port] & PORT_RING) === 0) {
        pairs[kept * EGRESS_STRIDE + EGRESS_PACKET] = packet
        pairs[kept++ * EGRESS_STRIDE + EGRESS_PORT] = word
        continue
      }
      const length = this.pool.records[(packet << RECORD_SHIFT) + LENGTH]
      if (this.mirror.punt(packet, port, (word & EGRESS_TAGGED) !== 0))
        this.pool.count(port, TRANSMITTED_PACKETS, 1, length)
      else this.pool.countDrop(port, DROP_QUEUE_FULL)
      this.pool.release(packet)
    }
    return kept
  }
}
