/**
 * Packets of established connections, by the burst: the same decisions as `router.ts`, prepared for what nearly all
 * packets are. Whatever is not taken here goes the long way, `Router.route`, in its place in the burst's order.
 *
 *   prepare   headers of all packets; packets of one flow that follow each other are a run
 *   judge     by run: connection, neighbor; by packet: MTU, the connection's state; up to the next one for the long way
 *   send      by run: new addresses and what they change of sums; by packet: rewrite, Ethernet header
 *
 * Taken: IPv4, TCP and UDP, whole and without options, with a hop left, not longer than the MTU of where it goes on,
 * whose lengths and header checksum are right (all that `headers.ts` checks of such a packet), whose checksum is
 * finished or unfinished in its usual place; TCP without SYN, FIN and RST, so MSS is never clamped here; UDP whose both
 * ends have shown that they mean it, of which a packet changes no state; towards a neighbor that can be sent to.
 *
 * Why no other check is needed. What the long way decides by a packet's ends and by the segment it came from (martians,
 * routes, whose firewall) depends on the configuration and on the neighbors, and on nothing else. When it has let a
 * packet of a connection and direction pass, it notes the segment in the connection (PASSED_SHIFT), beside the
 * neighbor, for the generation in CONN_GENERATION. A packet with the same ends and from the same segment is judged as
 * that one was, as long as the generation is the same; each change of configuration and each neighbor that goes makes
 * another. Where a firewall judges packets of known connections too, nothing is noted, and all go the long way. What
 * differs from packet to packet is looked at here, or sends it the long way. The next shard process begins with
 * nothing noted: `Connections.takeOver` clears the words.
 *
 * Rewriting. The rules are those of `rewrite.ts`, the arithmetic is `checksum.ts`: both addresses and both ports are
 * written and all their differences applied at once, which gives the same bytes, since an end that is not translated
 * contributes a zero of one's complement. They are found once a run, the identification, where the source is translated
 * and the packet may be cut, for each packet. Calling `Rewrite` for each packet, measured, costs
 * a fifth more; UDP by `Conntrack.track` a tenth.
 *
 * IPv6 goes the long way: another key, no header checksum and four times the words would be a second file like this.
 *
 * State: the burst in hand. No table, no capacity beyond the burst's.
 */
import type { Pool } from '../burst.js'
import * as drops from '../drops.js'
import * as layout from '../layout.js'
import { advanced, changed16, changed32, corrected, fold, halves } from './checksum.js'
import * as entryLayout from './connection-entry.js'
import { keptNeighbor } from './connection-entry.js'
import type { Connections } from './connections.js'
import * as tracking from './conntrack.js'
import * as headerTypes from './headers.js'
import { Headers } from './headers.js'
import * as neighborTable from './neighbors.js'
import type { Neighbors } from './neighbors.js'
import type { RouterState } from './state.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { DROP_INVALID } = drops
const {
  BURST_CAPACITY,
  CHECKSUM_OFFSET,
  CHECKSUM_START,
  CONNECTION_SHIFT,
  ETHERTYPE,
  HEADER_CONNECTIONS_USED,
  HEADER_LENGTH,
  HEADER_ROUTED_PACKETS,
  INGRESS,
  LENGTH,
  OFFLOAD,
  OFFLOAD_CHECKSUM,
  OFFSET,
  RECORD_SHIFT,
  SEGMENT_BYTES,
} = layout
const {
  CONN_GENERATION,
  CONN_NEIGHBOR,
  CONN_REPLY_SOURCE,
  CONN_SOURCE,
  CONN_STATUS,
  PASSED_SHIFT,
  STATUS_ASSURED,
  STATUS_DNAT,
  STATUS_REPLIED,
  STATUS_SNAT,
} = entryLayout
const { NEIGHBOR_MAC_HIGH, NEIGHBOR_MAC_LOW } = neighborTable
const { PROTOCOL_TCP, PROTOCOL_UDP } = headerTypes
const { TRACK_OK } = tracking

/** UDP: both ends have shown that they mean it. */
const PROVEN = STATUS_REPLIED | STATUS_ASSURED
/** Either address is translated. */
const TRANSLATED = STATUS_SNAT | STATUS_DNAT
const TYPE_IP = 0x0800
const ETHERNET_BYTES = 14
const IPV4_BYTES = 20
/** First byte of an IPv4 header without options: version and length. */
const PLAIN = 0x45
/** More fragments, and the fragment's offset, in word 1. */
const FRAGMENT_BITS = 0x3fff
const DONT_FRAGMENT = 0x4000 // of its lower half
const TCP_BYTES = 20
const UDP_BYTES = 8
const TCP_CHECKSUM = 16
const UDP_CHECKSUM = 6
/** FIN, SYN, RST. */
const TURNING = 0x07
/** What one hop less adds to a sum: the TTL is a word's high byte. */
const HOP = 0xfeff
/** One hop in word 2: TTL, protocol, checksum. */
const ONE_HOP = 0x01000000
/** Connections from which on their table does not stay in the cache. */
const TOUCHED_FROM = 4096
/** Of a run's head. */
const ZONE_MASK = 0xfff
const NONE = -1
// In place of a run's number.
const NO_RUN = -1
const LONG = -2 // the packet takes the long way
const DROPPED = -3 // the packet is gone

/** Takes over what is not taken here. */
export interface LongWay {
  route(packet: number, segment: number): void
}

export class Established {
  private readonly state: RouterState
  private readonly longWay: LongWay
  private readonly pool: Pool
  private readonly neighbors: Neighbors
  private readonly connections: Connections
  private readonly words: Int32Array // of the connections
  private readonly header: Int32Array
  private readonly network: Int32Array // by port
  private readonly headers = new Headers() // of a TCP segment, for tracking
  private readonly runs = new Int32Array(BURST_CAPACITY) // by packet: number of its run, LONG
  private readonly heads = new Int32Array(BURST_CAPACITY) // by run: zone | protocol << 24
  private readonly hashes = new Int32Array(BURST_CAPACITY) // by run
  private readonly matches = new Int32Array(BURST_CAPACITY) // by run: its connection and direction
  private readonly ways = new Int32Array(BURST_CAPACITY) // by run: neighbor by which it goes on

  constructor(state: RouterState, longWay: LongWay) {
    this.state = state
    this.longWay = longWay
    this.pool = state.pool
    this.neighbors = state.neighbors
    this.connections = state.connections
    this.words = state.connections.words
    this.header = state.arena.header
    this.network = state.ports.network
    this.headers.protocol = PROTOCOL_TCP
  }

  /** Routes the packets of a burst, in their order. Takes them over. */
  process(packets: Int32Array, count: number): void {
    const { header, longWay, network, runs } = this
    const { records } = this.pool
    const runCount = this.prepare(packets, count)
    // a burst waits for memory once, not once a connection
    if (header[HEADER_CONNECTIONS_USED] > TOUCHED_FROM) this.connections.touch(this.hashes, runCount)
    for (let from = 0; from < count; ) {
      const to = runs[from] === LONG ? from : this.judge(packets, from, count)
      if (to > from) this.send(packets, from, to)
      header[HEADER_ROUTED_PACKETS] = (header[HEADER_ROUTED_PACKETS] + to - from) | 0
      if (to < count) longWay.route(packets[to], network[records[(packets[to] << RECORD_SHIFT) + INGRESS]])
      from = to + 1
    }
  }

  /** Reads all headers: sets `runs`, and of each run its head and hash. Returns how many runs there are. */
  private prepare(packets: Int32Array, count: number): number {
    const { view, records } = this.pool
    const { heads, hashes, network, runs, connections } = this
    const { table } = this.state
    let runCount = 0
    let lastSource = 0
    let lastDestination = 0
    let lastPorts = 0
    let lastProtocol = 0
    let lastSegment = NONE
    for (let i = 0; i < count; i++) {
      const record = packets[i] << RECORD_SHIFT
      const ip = records[record + OFFSET] + ETHERNET_BYTES
      const room = records[record + LENGTH] - ETHERNET_BYTES
      runs[i] = LONG
      if (records[record + ETHERTYPE] !== TYPE_IP || room < IPV4_BYTES + UDP_BYTES) continue
      const word0 = view.getInt32(ip)
      const word1 = view.getInt32(ip + 4)
      const word2 = view.getInt32(ip + 8)
      if (word0 >>> 24 !== PLAIN || (word1 & FRAGMENT_BITS) !== 0 || word2 >>> 24 <= 1) continue
      const protocol = (word2 >>> 16) & 0xff
      if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) continue
      const source = view.getInt32(ip + 12)
      const destination = view.getInt32(ip + 16)
      const sum = halves(word0) + halves(word1) + halves(word2) + halves(source) + halves(destination)
      const total = word0 & 0xffff
      if (fold(sum) !== 0xffff || total > room || !this.isPlain(record, ip, total, protocol)) continue
      const ports = view.getInt32(ip + IPV4_BYTES)
      const segment = network[records[record + INGRESS]]
      if (
        source !== lastSource ||
        destination !== lastDestination ||
        ports !== lastPorts ||
        protocol !== lastProtocol ||
        segment !== lastSegment
      ) {
        lastSource = source
        lastDestination = destination
        lastPorts = ports
        lastProtocol = protocol
        lastSegment = segment
        const head = table.zone[segment] | (protocol << 24)
        heads[runCount] = head
        hashes[runCount++] = connections.hash4(head, source, destination, ports)
      }
      runs[i] = runCount - 1
    }
    return runCount
  }

  /** Whether the transport header is right, and the record asks for nothing unusual. */
  private isPlain(record: number, ip: number, total: number, protocol: number): boolean {
    const { view, records } = this.pool
    const isTcp = protocol === PROTOCOL_TCP
    if ((records[record + OFFLOAD] & OFFLOAD_CHECKSUM) !== 0) {
      if (records[record + CHECKSUM_START] !== ETHERNET_BYTES + IPV4_BYTES) return false
      if (records[record + CHECKSUM_OFFSET] !== (isTcp ? TCP_CHECKSUM : UDP_CHECKSUM)) return false
    }
    const l4 = ip + IPV4_BYTES
    const left = total - IPV4_BYTES
    if (isTcp) {
      if (left < TCP_BYTES) return false
      const bits = view.getUint16(l4 + 12)
      const bytes = (bits >>> 12) << 2
      return bytes >= TCP_BYTES && bytes <= left && (bits & TURNING) === 0
    }
    const length = view.getUint16(l4 + 4)
    return length >= UDP_BYTES && length <= left
  }

  /**
   * Takes packets into their connections, from one of the burst on. Nothing is sent yet, and nothing that is found for
   * a run can change until another packet goes the long way.
   * @returns the first packet that must go the long way; `count`: none
   */
  private judge(packets: Int32Array, from: number, count: number): number {
    const { connections, headers, heads, matches, pool, runs, state, ways } = this
    const { records, view } = pool
    const { conntrack, neighbors, now, table } = state
    let run = NO_RUN
    let match = NONE
    let mtu = 0
    let isTcp = false
    for (let i = from; i < count; i++) {
      const packet = packets[i]
      const record = packet << RECORD_SHIFT
      if (runs[i] !== run) {
        run = runs[i]
        if (run === LONG || !this.begin(packet, run)) return i
        match = matches[run]
        mtu = table.mtu[neighbors.segment(ways[run])]
        isTcp = heads[run] >>> 24 === PROTOCOL_TCP
      }
      const ip = records[record + OFFSET] + ETHERNET_BYTES
      const total = view.getUint16(ip + 2)
      const cut = records[record + SEGMENT_BYTES]
      if ((cut === 0 ? total : records[record + HEADER_LENGTH] - ETHERNET_BYTES + cut) > mtu) return i
      if (isTcp) {
        headers.l3 = ip
        headers.l4 = ip + IPV4_BYTES
        headers.end = ip + total
        if (conntrack.track(match, headers, now) === TRACK_OK) continue
        if (table.zones[heads[run] & ZONE_MASK].isOpen) continue
        pool.drop(packet, DROP_INVALID)
        runs[i] = DROPPED
      } else {
        connections.seeAgain(match, total, now)
      }
    }
    return count
  }

  /** Finds out by the first packet of a run where all of it goes; false: the long way. */
  private begin(packet: number, run: number): boolean {
    const { connections, heads, neighbors, state, words } = this
    const { view, records } = this.pool
    const record = packet << RECORD_SHIFT
    const ip = records[record + OFFSET] + ETHERNET_BYTES
    const source = view.getInt32(ip + 12)
    const destination = view.getInt32(ip + 16)
    const ports = view.getInt32(ip + IPV4_BYTES)
    const match = connections.find4(this.hashes[run], heads[run], source, destination, ports)
    if (match < 0) return false
    const at = (match >> 1) << CONNECTION_SHIFT
    if (words[at + CONN_GENERATION] !== ((neighbors.generation + state.configured) | 0)) return false
    const way = words[at + CONN_NEIGHBOR + (match & 1)]
    const neighbor = keptNeighbor(way)
    const segment = this.network[records[record + INGRESS]]
    if (way >>> PASSED_SHIFT !== segment + 1 || neighbor < 0 || !neighbors.isUsable(neighbor)) return false
    if (heads[run] >>> 24 === PROTOCOL_UDP && (words[at + CONN_STATUS] & PROVEN) !== PROVEN) return false
    neighbors.use(neighbor, state.now)
    this.matches[run] = match
    this.ways[run] = neighbor
    return true
  }

  /** Rewrites and sends packets that have been judged. */
  private send(packets: Int32Array, from: number, to: number): void {
    const { matches, neighbors, runs, ways, words } = this
    const { records, view } = this.pool
    const { gateway, identifications } = this.state
    const { entries } = neighbors
    let run = NO_RUN
    let isTcp = false
    let isTranslated = false
    let isRenumbered = false
    let source = 0
    let destination = 0
    let ports = 0
    let addressChange = 0
    let change = 0
    let out = 0
    let macLow = 0
    let macHigh = 0
    for (let i = from; i < to; i++) {
      if (runs[i] === DROPPED) continue
      const packet = packets[i]
      const record = packet << RECORD_SHIFT
      const ip = records[record + OFFSET] + ETHERNET_BYTES
      const l4 = ip + IPV4_BYTES
      if (runs[i] !== run) {
        run = runs[i]
        const at = (matches[run] >> 1) << CONNECTION_SHIFT
        const neighbor = ways[run]
        isTcp = this.heads[run] >>> 24 === PROTOCOL_TCP
        isTranslated = (words[at + CONN_STATUS] & TRANSLATED) !== 0
        isRenumbered = (words[at + CONN_STATUS] & ((matches[run] & 1) === 0 ? STATUS_SNAT : STATUS_DNAT)) !== 0
        out = neighbors.segment(neighbor)
        macLow = entries[neighbor + NEIGHBOR_MAC_LOW]
        macHigh = entries[neighbor + NEIGHBOR_MAC_HIGH]
        addressChange = 0
        if (isTranslated) {
          // behind the router it is the reverse of what comes from there
          const key = at + ((matches[run] & 1) === 0 ? CONN_REPLY_SOURCE : CONN_SOURCE)
          source = words[key + 1]
          destination = words[key]
          ports = (words[key + 2] << 16) | (words[key + 2] >>> 16)
          addressChange = changed32(view.getInt32(ip + 12), source) + changed32(view.getInt32(ip + 16), destination)
          change = addressChange + changed32(view.getInt32(l4), ports)
        }
      }
      const word = view.getInt32(ip + 8)
      let headerChange = addressChange + HOP
      if (isRenumbered && (view.getUint16(ip + 6) & DONT_FRAGMENT) === 0) {
        const cut = records[record + SEGMENT_BYTES]
        const payload = ETHERNET_BYTES + view.getUint16(ip + 2) - records[record + HEADER_LENGTH]
        const id = identifications.next(
          this.heads[run] & ZONE_MASK,
          view.getInt32(ip + 16),
          (word >>> 16) & 0xff,
          cut === 0 ? 1 : Math.ceil(payload / cut),
        )
        headerChange += changed16(view.getUint16(ip + 4), id)
        view.setUint16(ip + 4, id)
      }
      const sum = corrected(word & 0xffff, headerChange)
      view.setInt32(ip + 8, ((word & 0xffff0000) - ONE_HOP) | sum)
      if (isTranslated) {
        view.setInt32(ip + 12, source)
        view.setInt32(ip + 16, destination)
        view.setInt32(l4, ports)
        const place = l4 + (isTcp ? TCP_CHECKSUM : UDP_CHECKSUM)
        const field = view.getUint16(place)
        if ((records[record + OFFLOAD] & OFFLOAD_CHECKSUM) !== 0) view.setUint16(place, advanced(field, addressChange))
        else if (isTcp) view.setUint16(place, corrected(field, change))
        else if (field !== 0) view.setUint16(place, corrected(field, change) || 0xffff)
      }
      records[record + LENGTH] = ETHERNET_BYTES + view.getUint16(ip + 2) // without padding
      gateway.send(packet, out, TYPE_IP, macLow, macHigh)
    }
  }
}
