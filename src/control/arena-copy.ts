/**
 * A copy of a shard's tables, to try a packet on: everything that outlives a burst, and no packets.
 *
 * The shard fills it between two bursts. Only what is in use is copied, so it takes a few milliseconds; the indexes are
 * left out, whoever takes a table over makes them anew.
 */
import { readSync } from 'node:fs'
import {
  type Arena,
  CONNECTION_SHIFT,
  type Geometry,
  HEADER_CONNECTION_CAPACITY,
  HEADER_CONNECTIONS,
  HEADER_FDB,
  HEADER_FDB_CAPACITY,
  HEADER_INJECT_BYTES,
  HEADER_MAPPINGS,
  HEADER_MAPPING_CAPACITY,
  HEADER_NEIGHBORS,
  HEADER_NEIGHBOR_CAPACITY,
  HEADER_NOW,
  HEADER_PORTS,
  HEADER_PUNT_BYTES,
  HEADER_SECRET,
  HEADER_SIZE,
  HEADER_TIME_SECONDS,
  MAPPING_SHIFT,
} from '../dataplane/layout.js'
import { CONN_END } from '../dataplane/router/connection-entry.js'
import { MAP_END } from '../dataplane/router/mapping-entry.js'
import { writeAll } from '../services/durable-file.js'

/** What a copy of an arena is made with: the tables as they are, a small pool, small rings. */
export function copyGeometry({ header }: Arena): Geometry {
  return {
    smallSlots: 64,
    largeSlots: 4,
    ports: header[HEADER_PORTS],
    fdbCapacity: header[HEADER_FDB_CAPACITY],
    neighborCapacity: header[HEADER_NEIGHBOR_CAPACITY],
    connectionCapacity: header[HEADER_CONNECTION_CAPACITY],
    mappingCapacity: header[HEADER_MAPPING_CAPACITY],
    puntBytes: Math.min(header[HEADER_PUNT_BYTES], 1 << 18),
    injectBytes: Math.min(header[HEADER_INJECT_BYTES], 1 << 16),
  }
}

/**
 * Copies the tables of an arena into memory that has been formatted with `copyGeometry`. It is written by its
 * descriptor and not mapped: the shard never returns to the event loop, in which Node would let a mapping go.
 */
export function copyTables(from: Arena, memory: number): void {
  const header = new Int32Array(HEADER_SIZE / 4)
  readSync(memory, header, 0, HEADER_SIZE, 0)
  for (const word of [HEADER_NOW, HEADER_TIME_SECONDS]) header[word] = from.header[word]
  for (let i = 0; i < 4; i++) header[HEADER_SECRET + i] = from.header[HEADER_SECRET + i]
  const write = (place: number, words: Int32Array): void => {
    writeAll(memory, new Uint8Array(words.buffer, words.byteOffset, words.byteLength), place)
  }
  write(0, header)
  write(header[HEADER_FDB], from.fdb)
  write(header[HEADER_NEIGHBORS], from.neighbors)
  const connections = Math.max(1, from.connections[CONN_END]) << CONNECTION_SHIFT
  write(header[HEADER_CONNECTIONS], from.connections.subarray(0, connections))
  const mappings = Math.max(1, from.mappings[MAP_END]) << MAPPING_SHIFT
  write(header[HEADER_MAPPINGS], from.mappings.subarray(0, mappings))
}
