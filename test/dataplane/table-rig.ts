/**
 * Tables of a switch as tests look at them: what they know of some networks, in words that mean the same in every
 * shard, and whether what their entries say of each other is whole. The switch has zone a of `router-rig.ts`.
 */
import assert from 'node:assert/strict'
import {
  CONNECTION_SHIFT,
  HEADER_CONNECTIONS_USED,
  HEADER_MAPPINGS_USED,
  HEADER_NOW,
  HEADER_SECRET,
  MAPPING_SHIFT,
  NEIGHBOR_SHIFT,
} from '../../src/dataplane/layout.js'
import * as conn from '../../src/dataplane/router/connection-entry.js'
import * as map from '../../src/dataplane/router/mapping-entry.js'
import * as neighbor from '../../src/dataplane/router/neighbors.js'
import { DONE, RECORD_WORDS, type TableName, Transfer } from '../../src/dataplane/transfer.js'
import { GEOMETRY } from './rig.js'
import { A, Routed } from './router/router-rig.js'

export const SEGMENTS = [A.lan, A.uplink]
export const PORTS = [...A.guests.map(({ port }) => port), A.isp.port, A.gatewayPort, A.uplinkGatewayPort]
const BUFFER = 1 << 18

/** A switch with a secret of its own, whose arena has run for so long. */
export function routed(
  seed: number,
  seconds: number,
  geometry = { ...GEOMETRY, connectionCapacity: 4096, mappingCapacity: 4096 },
) {
  const weft = new Routed(geometry)
  for (let i = 0; i < 4; i++) weft.arena.header[HEADER_SECRET + i] = Math.imul(seed + i, 0x85ebca6b)
  const fresh = new Routed(geometry)
  fresh.arena.header.set(weft.arena.header.subarray(HEADER_SECRET, HEADER_SECRET + 4), HEADER_SECRET)
  fresh.restart()
  fresh.seconds = seconds
  return fresh
}

export const transferOf = (weft: Routed): Transfer => new Transfer(weft.arena, weft.loop.pipeline)

export function records(weft: Routed, table: TableName, segments: number[]): Int32Array[] {
  const transfer = transferOf(weft)
  transfer.choose(segments)
  const into = new Int32Array(BUFFER)
  const words = RECORD_WORDS[table]
  const found: Int32Array[] = []
  for (let from = 0; from !== DONE; ) {
    transfer.count = 0
    from = transfer.copyOut(table, from, into)
    for (let i = 0; i < transfer.count; i++) found.push(into.slice(i * words, (i + 1) * words))
  }
  return found
}

// ---- what the tables hold, in words that mean the same everywhere ----

const OWN_TO_A_TABLE = new Set([
  conn.CONN_OLDER,
  conn.CONN_NEWER,
  conn.CONN_ORDER,
  conn.CONN_NEIGHBOR,
  conn.CONN_REPLY_NEIGHBOR,
  conn.CONN_GENERATION,
  conn.CONN_MAP_NEXT,
  conn.CONN_MAP_PREVIOUS,
  conn.CONN_MAPPING,
  conn.CONN_END,
])

function mappingName(words: Int32Array, entry: number): string {
  if (entry < 0) return 'none'
  const at = entry << MAPPING_SHIFT
  return [...words.subarray(at, at + map.MAP_CONNECTIONS)].join()
}

/** All that a switch knows of some segments; the connections of each owner by age. */
export function knows(weft: Routed, segments = SEGMENTS) {
  const { arena } = weft
  const now = arena.header[HEADER_NOW]
  const fdb = records(weft, 'fdb', segments)
    .map((record) => [...record].join())
    .toSorted()
  const neighbors: string[] = []
  for (let at = 0; at < arena.neighbors.length; at += 1 << NEIGHBOR_SHIFT) {
    const words = arena.neighbors.subarray(at, at + neighbor.NEIGHBOR_PORT + 1)
    const state = arena.neighbors[at + neighbor.NEIGHBOR_STATE]
    const flags = arena.neighbors[at + neighbor.NEIGHBOR_FLAGS]
    const isKept = words[0] !== 0 && flags !== 0 && segments.includes((words[0] & 0xffff) - 1)
    const shown = state === neighbor.STATE_REACHABLE ? 'reachable' : 'stale'
    if (isKept) neighbors.push([...words, flags, shown, now - arena.neighbors[at + neighbor.NEIGHBOR_CONFIRMED]].join())
  }
  const mappings: string[] = []
  for (let entry = 0; entry < arena.mappings[map.MAP_END]; entry++) {
    const at = entry << MAPPING_SHIFT
    const key = arena.mappings[at]
    if (key === 0 || !segments.includes(key & 0xfff)) continue
    const first = arena.mappings[at + map.MAP_CONNECTIONS]
    const idle = first === 0 ? `idle ${now - arena.mappings[at + map.MAP_IDLE_SINCE]}` : 'in use'
    mappings.push(`${mappingName(arena.mappings, entry)} ${idle}`)
  }
  const connections: { order: number; text: string }[] = []
  const { connections: words } = arena
  for (let entry = 0; entry < words[conn.CONN_END]; entry++) {
    const at = entry << CONNECTION_SHIFT
    const zones = words[at + conn.CONN_ZONES]
    if ((words[at + conn.CONN_STATUS] & conn.STATUS_LIVE) === 0 || !segments.includes(zones & 0xfff)) continue
    const own = Array.from({ length: conn.CONN_WORDS }, (_, word) => {
      if (OWN_TO_A_TABLE.has(word)) return ''
      const isTime = word === conn.CONN_SEEN || word === conn.CONN_CREATED
      return isTime ? now - words[at + word] : words[at + word]
    })
    const text = `${own.join()} by ${mappingName(arena.mappings, words[at + conn.CONN_MAPPING] - 1)}`
    connections.push({ order: words[at + conn.CONN_ORDER], text: `${words[at + conn.CONN_OWNER]}: ${text}` })
  }
  connections.sort((a, b) => a.order - b.order)
  const byOwner = connections
    .map(({ text }) => text)
    .toSorted((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
  return { fdb, neighbors: neighbors.toSorted(), mappings: mappings.toSorted(), connections: byOwner }
}

/** The links between a switch's entries are whole: lists of mappings, indexes, counts. */
export function assertWhole(weft: Routed): void {
  const { connections, mappings, header } = weft.arena
  let live = 0
  const attached = new Map<number, number>()
  for (let entry = 0; entry < connections[conn.CONN_END]; entry++) {
    const at = entry << CONNECTION_SHIFT
    if ((connections[at + conn.CONN_STATUS] & conn.STATUS_LIVE) === 0) continue
    live++
    const mapping = connections[at + conn.CONN_MAPPING] - 1
    if (mapping >= 0) attached.set(mapping, (attached.get(mapping) ?? 0) + 1)
    const is6 = (connections[at + conn.CONN_STATUS] & conn.STATUS_IP6) !== 0
    if (is6) continue
    const head = (connections[at] & 0xfff) | (connections[at] & 0xff000000)
    const key = [head, connections[at + 1], connections[at + 2], connections[at + 3]] as const
    const table = weft.loop.pipeline.router.connections
    assert.equal(table.find4(table.hash4(...key), ...key) >> 1, entry, 'found by its key')
  }
  assert.equal(header[HEADER_CONNECTIONS_USED], live)
  let used = 0
  for (let mapping = 0; mapping < mappings[map.MAP_END]; mapping++) {
    const at = mapping << MAPPING_SHIFT
    if (mappings[at] === 0) continue
    used++
    let previous = 0
    let count = 0
    for (let next = mappings[at + map.MAP_CONNECTIONS]; next !== 0; count++) {
      const entry = (next - 1) << CONNECTION_SHIFT
      assert.equal(connections[entry + conn.CONN_MAPPING], mapping + 1)
      assert.equal(connections[entry + conn.CONN_MAP_PREVIOUS], previous)
      previous = next
      next = connections[entry + conn.CONN_MAP_NEXT]
    }
    assert.equal(count, attached.get(mapping) ?? 0)
  }
  assert.equal(header[HEADER_MAPPINGS_USED], used)
}
