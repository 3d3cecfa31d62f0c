/**
 * Ingress: decides whether a frame may come in, and to which VLAN it belongs (IEEE 802.1Q clause 6.9, 8.6.2).
 *
 * In order, for each frame: counted as received; the port's link up; whole (runt, truncated, longer than the MTU, an
 * offload header that contradicts it); the outer tag popped into the record, so that every frame behind this stage is
 * untagged; no second tag; the type or length field plausible; a source address that can be one; not addressed to the
 * bridge group (01:80:C2:00:00:0X), which no switch forwards; classified to a VID that the port is a member of.
 *
 * A segmentation-offload frame is measured by its segments. A service tag (802.1ad) counts as a second tag: Weft
 * forwards neither, so a guest cannot smuggle one VLAN inside another.
 *
 * Leaves in the record: VID, TCI, ETHERTYPE and the addresses as words for the stages behind.
 */
import type { Burst, Pool } from './burst.js'
import * as drops from './drops.js'
import * as layout from './layout.js'
import * as portTable from './port-table.js'
import type { PortTable } from './port-table.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  DROP_BAD_LENGTH,
  DROP_BAD_OFFLOAD,
  DROP_BAD_SOURCE,
  DROP_DOUBLE_TAG,
  DROP_LINK_DOWN,
  DROP_LINK_LOCAL,
  DROP_OVERSIZE,
  DROP_RUNT,
  DROP_VLAN_NOT_ALLOWED,
  DROP_VLAN_RESERVED,
} = drops
const {
  CHECKSUM_START,
  DESTINATION_LOW,
  ETHERTYPE,
  HEADER_LENGTH,
  INGRESS,
  LENGTH,
  MAC_HIGH,
  OFFLOAD,
  OFFLOAD_BAD,
  OFFLOAD_CHECKSUM,
  OFFLOAD_TRUNCATED,
  OFFSET,
  RECEIVED_PACKETS,
  RECORD_SHIFT,
  SEGMENT_BYTES,
  SOURCE_LOW,
  TAG,
  TAG_PRESENT,
  TCI,
  VID,
} = layout
const { PORT_LINK, PORT_VLAN_AWARE, VID_NONE } = portTable

const ETHERNET_HEADER_BYTES = 14
const TAG_BYTES = 4
const TYPE_VLAN = 0x8100
const TYPE_SERVICE_VLAN = 0x88a8
const TYPE_OLD_SERVICE_VLAN = 0x9100
/** Below it, the field is the length of an IEEE 802.3 frame. */
const TYPE_LEAST = 0x0600
const VID_RESERVED = 4095
const ADMITTED = 0

/** Octets 1 and 2 of 01:80:C2:00:00:0X, and octets 3 to 6 without the last four bits, as loaded little-endian. */
const LINK_LOCAL_HIGH = 0x8001
const LINK_LOCAL_LOW = 0x000000c2
const LINK_LOCAL_MASK = 0xf0ffffff | 0
/** The first four octets of those, and of a source address the bit that makes it a group, in words so loaded. */
const LINK_LOCAL_FIRST = 0x00c28001
const SOURCE_GROUP_BIT = 0x10000

export class Ingress {
  private readonly pool: Pool
  private readonly ports: PortTable

  constructor(pool: Pool, ports: PortTable) {
    this.pool = pool
    this.ports = ports
  }

  /**
   * Most frames are plain: untagged, finished, of a length the port takes. What the port has to say of those is looked
   * up once for a run of frames from it, and the frame's header is judged here; every other frame is judged by `admit`.
   */
  process(burst: Burst): void {
    const { packets } = burst
    const { records, view } = this.pool
    const count = burst.count
    let kept = 0
    let port = -1
    let frames = 0
    let bytes = 0
    let vid = 0
    let longest = 0
    for (let i = 0; i < count; i++) {
      const packet = packets[i]
      const record = packet << RECORD_SHIFT
      if (records[record + INGRESS] !== port) {
        if (frames > 0) this.pool.count(port, RECEIVED_PACKETS, frames, bytes)
        port = records[record + INGRESS]
        frames = bytes = 0
        vid = this.plainVid(port)
        longest = vid === VID_NONE ? 0 : this.ports.maxFrame[port]
      }
      const length = records[record + LENGTH]
      frames++
      bytes += length
      if (
        (records[record + OFFLOAD] | records[record + TAG]) === 0 &&
        length >= ETHERNET_HEADER_BYTES &&
        length <= longest
      ) {
        const frame = records[record + OFFSET]
        const type = view.getUint16(frame + 12)
        const first = view.getInt32(frame, true)
        const middle = view.getInt32(frame + 4, true)
        const last = view.getInt32(frame + 8, true)
        if (
          type >= TYPE_LEAST &&
          type !== TYPE_VLAN &&
          type !== TYPE_SERVICE_VLAN &&
          type !== TYPE_OLD_SERVICE_VLAN &&
          (middle & SOURCE_GROUP_BIT) === 0 &&
          ((middle >>> 16) | last) !== 0 &&
          first !== LINK_LOCAL_FIRST
        ) {
          records[record + VID] = vid
          records[record + TCI] = vid
          records[record + ETHERTYPE] = type
          records[record + DESTINATION_LOW] = (first >>> 16) | (middle << 16)
          records[record + SOURCE_LOW] = last
          records[record + MAC_HIGH] = (first & 0xffff) | (middle & ~0xffff)
          packets[kept++] = packet
          continue
        }
      }
      const reason = this.admit(record, port)
      if (reason === ADMITTED) packets[kept++] = packet
      else this.pool.drop(packet, reason)
    }
    if (frames > 0) this.pool.count(port, RECEIVED_PACKETS, frames, bytes)
    burst.count = kept
  }

  /** The VLAN of a port's untagged frames; VID_NONE if it takes none, or none at all. */
  private plainVid(port: number): number {
    const flags = this.ports.flags[port]
    if ((flags & PORT_LINK) === 0) return VID_NONE
    if ((flags & PORT_VLAN_AWARE) === 0) return 0
    const pvid = this.ports.pvid[port]
    return pvid !== VID_NONE && this.ports.isMember(port, pvid) ? pvid : VID_NONE
  }

  private admit(record: number, port: number): number {
    const { view, records } = this.pool
    if ((this.ports.flags[port] & PORT_LINK) === 0) return DROP_LINK_DOWN
    if (records[record + LENGTH] < ETHERNET_HEADER_BYTES) return DROP_RUNT
    const offload = records[record + OFFLOAD]
    if ((offload & (OFFLOAD_BAD | OFFLOAD_TRUNCATED)) !== 0)
      return (offload & OFFLOAD_TRUNCATED) !== 0 ? DROP_OVERSIZE : DROP_BAD_OFFLOAD

    let frame = records[record + OFFSET]
    let type = view.getUint16(frame + 12)
    if (type === TYPE_VLAN) {
      if (records[record + TAG] !== 0) return DROP_DOUBLE_TAG // the device has already taken one
      if (records[record + LENGTH] < ETHERNET_HEADER_BYTES + TAG_BYTES) return DROP_RUNT
      this.popTag(record, frame)
      frame += TAG_BYTES
      type = view.getUint16(frame + 12)
    }
    if (type === TYPE_VLAN || type === TYPE_SERVICE_VLAN || type === TYPE_OLD_SERVICE_VLAN) return DROP_DOUBLE_TAG

    const length = records[record + LENGTH]
    const segment = records[record + SEGMENT_BYTES]
    if ((segment === 0 ? length : records[record + HEADER_LENGTH] + segment) > this.ports.maxFrame[port])
      return DROP_OVERSIZE
    if (type < TYPE_LEAST && type > length - ETHERNET_HEADER_BYTES) return DROP_BAD_LENGTH
    records[record + ETHERTYPE] = type

    const low = view.getInt32(frame + 2, true)
    const high = view.getUint16(frame, true)
    const sourceLow = view.getInt32(frame + 8, true)
    const sourceHigh = view.getUint16(frame + 6, true)
    if ((sourceHigh & 1) !== 0 || (sourceHigh | sourceLow) === 0) return DROP_BAD_SOURCE
    if (high === LINK_LOCAL_HIGH && (low & LINK_LOCAL_MASK) === LINK_LOCAL_LOW) return DROP_LINK_LOCAL
    records[record + DESTINATION_LOW] = low
    records[record + SOURCE_LOW] = sourceLow
    records[record + MAC_HIGH] = high | (sourceHigh << 16)
    return this.classify(record, port)
  }

  /** Moves the addresses over the tag; the payload stays where it is. */
  private popTag(record: number, frame: number): void {
    const { bytes, records } = this.pool
    records[record + TAG] = TAG_PRESENT | (bytes[frame + 14] << 8) | bytes[frame + 15]
    bytes.copyWithin(frame + TAG_BYTES, frame, frame + 12)
    records[record + OFFSET] = frame + TAG_BYTES
    records[record + LENGTH] -= TAG_BYTES
    if ((records[record + OFFLOAD] & OFFLOAD_CHECKSUM) !== 0) records[record + CHECKSUM_START] -= TAG_BYTES
    if (records[record + HEADER_LENGTH] !== 0) records[record + HEADER_LENGTH] -= TAG_BYTES
  }

  /**
   * The frame's VLAN by its tag and the port. Priority-tagged frames (VID 0) count as untagged but keep their priority.
   */
  private classify(record: number, port: number): number {
    const { records } = this.pool
    const tag = records[record + TAG]
    const tagged = tag & 0xfff
    if (tagged === VID_RESERVED) return DROP_VLAN_RESERVED
    const flags = this.ports.flags[port]
    const pvid = this.ports.pvid[port]
    if ((flags & PORT_VLAN_AWARE) === 0) {
      records[record + VID] = 0
      records[record + TCI] = tag & 0xffff
      return ADMITTED
    }
    const vid = tagged === 0 ? pvid : tagged
    if (vid === VID_NONE || !this.ports.isMember(port, vid)) return DROP_VLAN_NOT_ALLOWED
    if (tagged !== 0 && this.ports.isAccess(port)) return DROP_VLAN_NOT_ALLOWED
    records[record + VID] = vid
    records[record + TCI] = (tag & 0xf000) | vid
    return ADMITTED
  }
}
