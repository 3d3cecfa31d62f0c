/**
 * The router's tables as they are listed: neighbors and connections, read from the arena while the shard writes it.
 *
 * An entry that changes while it is read may show one field from before and one from after; it is never followed to
 * another, so nothing here can loop or reach beyond the table.
 */
import { formatIp } from '../services/address.js'
import type { Ip } from '../services/address.js'
import {
  type Arena,
  CONNECTION_SHIFT,
  HEADER_CONNECTION_CAPACITY,
  HEADER_NEIGHBOR_CAPACITY,
  HEADER_NOW,
  NEIGHBOR_SHIFT,
} from '../dataplane/layout.js'
import * as connection from '../dataplane/router/connection-entry.js'
import { stateName } from '../dataplane/router/conntrack.js'
import * as neighbor from '../dataplane/router/neighbors.js'
import { macText, macWords } from './mac.js'
import type { ConnectionEntry, ConnectionTuple, NeighborEntry } from './model.js'
import { protocolName } from './rule.js'

const STATES: Record<number, NeighborEntry['state']> = {
  [neighbor.STATE_INCOMPLETE]: 'incomplete',
  [neighbor.STATE_REACHABLE]: 'reachable',
  [neighbor.STATE_STALE]: 'stale',
  [neighbor.STATE_PROBE]: 'probe',
  [neighbor.STATE_FAILED]: 'failed',
}

/** Seconds within which a host that has been heard of is taken to be there. */
const PRESENT_SECONDS = 3

interface NeighborRow {
  ip: Ip
  mac: string | null
  port: number
  state: NeighborEntry['state']
  ageSeconds: number
}

function neighborRows(arena: Arena, segment: number): NeighborRow[] {
  const { neighbors, header } = arena
  const rows: NeighborRow[] = []
  for (let i = 0; i < header[HEADER_NEIGHBOR_CAPACITY]; i++) {
    const at = i << NEIGHBOR_SHIFT
    const key = neighbors[at + neighbor.NEIGHBOR_KEY]
    if (key === 0 || (key & 0xffff) !== segment + 1) continue
    const words = key >>> 16 === 4 ? 1 : 4
    const low = neighbors[at + neighbor.NEIGHBOR_MAC_LOW]
    const high = neighbors[at + neighbor.NEIGHBOR_MAC_HIGH]
    rows.push({
      ip: [...neighbors.subarray(at + neighbor.NEIGHBOR_IP, at + neighbor.NEIGHBOR_IP + words)],
      mac: (low | high) === 0 ? null : macText(low, high),
      port: neighbors[at + neighbor.NEIGHBOR_PORT],
      state: STATES[neighbors[at + neighbor.NEIGHBOR_STATE]] ?? 'incomplete',
      ageSeconds: Math.max(0, header[HEADER_NOW] - neighbors[at + neighbor.NEIGHBOR_CONFIRMED]),
    })
  }
  return rows
}

/** @param portName null for a port that has no name: the router's own */
export function listNeighbors(
  arena: Arena,
  segment: number,
  portName: (port: number) => string | null,
): NeighborEntry[] {
  return neighborRows(arena, segment)
    .map(({ ip, mac, port, state, ageSeconds }) => ({
      address: formatIp(ip),
      mac,
      port: portName(port),
      state,
      ageSeconds,
    }))
    .toSorted((a, b) => a.address.localeCompare(b.address, 'en', { numeric: true }))
}

/** Whether another than `mac` has just been heard of with an address. */
export function isAddressUsed(arena: Arena, segment: number, address: Ip, mac: string): boolean {
  const { low, high } = macWords(mac)
  const text = formatIp(address)
  const other = macText(low, high)
  return neighborRows(arena, segment).some(
    (row) =>
      row.mac !== null &&
      row.mac !== other &&
      row.state === 'reachable' &&
      row.ageSeconds <= PRESENT_SECONDS &&
      formatIp(row.ip) === text,
  )
}

/** The connections that began in a zone, the newest first, at most `limit`. */
export function listConnections(arena: Arena, zone: number, timeouts: readonly number[], limit: number) {
  const { connections, header } = arena
  const found: { created: number; entry: ConnectionEntry }[] = []
  const used = connections[connection.CONN_END]
  const end = Math.min(used, header[HEADER_CONNECTION_CAPACITY])
  const counters = new Float64Array(connections.buffer, connections.byteOffset, connections.length >> 1)
  for (let i = 0; i < end; i++) {
    const at = i << CONNECTION_SHIFT
    const status = connections[at + connection.CONN_STATUS]
    const zones = connections[at + connection.CONN_ZONES]
    if ((status & connection.STATUS_LIVE) === 0 || (zones & 0xfff) !== zone) continue
    const protocol = zones >>> 24
    const timeout = timeouts[(status >> connection.CLASS_SHIFT) & connection.CLASS_MASK] ?? 0
    const age = header[HEADER_NOW] - connections[at + connection.CONN_SEEN]
    const totals = (at + connection.CONN_COUNTERS) >> 1
    found.push({
      created: connections[at + connection.CONN_CREATED],
      entry: {
        protocol: protocolName(protocol),
        state: stateName(connections, i),
        original: tupleOf(connections, at, status, false),
        reply: tupleOf(connections, at, status, true),
        nat: (status & connection.STATUS_SNAT) !== 0 ? 'snat' : (status & connection.STATUS_DNAT) !== 0 ? 'dnat' : null,
        packets: counters[totals] + counters[totals + 2],
        bytes: counters[totals + 1] + counters[totals + 3],
        timeoutSeconds: Math.max(0, timeout - age),
      },
    })
  }
  return found
    .toSorted((a, b) => b.created - a.created)
    .slice(0, limit)
    .map(({ entry }): ConnectionEntry => entry)
}

/** The ends of one direction of a connection whose entry starts at word `at`. */
export function tupleOf(words: Int32Array, at: number, status: number, isReply: boolean): ConnectionTuple {
  const isIp6 = (status & connection.STATUS_IP6) !== 0
  const further = at + connection.CONN_IP6
  const ip = (first: number, rest: number): string =>
    formatIp(isIp6 ? [words[at + first], ...words.subarray(further + rest, further + rest + 3)] : [words[at + first]])
  const ports = words[at + (isReply ? connection.CONN_REPLY_PORTS : connection.CONN_PORTS)]
  return {
    source: isReply
      ? ip(connection.CONN_REPLY_SOURCE, connection.IP6_REPLY_SOURCE)
      : ip(connection.CONN_SOURCE, connection.IP6_SOURCE),
    sourcePort: ports >>> 16,
    destination: isReply
      ? ip(connection.CONN_REPLY_DESTINATION, connection.IP6_REPLY_DESTINATION)
      : ip(connection.CONN_DESTINATION, connection.IP6_DESTINATION),
    destinationPort: ports & 0xffff,
  }
}
