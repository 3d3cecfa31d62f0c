/**
 * What the tables of a shard know of some networks, taken out and put into the tables of another shard.
 *
 *   shard that lets go   halt -> copyOut, table by table -> (when the other has it all) discard
 *   control process      carries the records over, sorts them, leads connections to their mappings' new places
 *   shard that takes on  takeIn, table by table
 *
 * A record is an entry without what is true in its own table alone. Times are ages (seconds ago), since each arena has
 * a time of its own. Links of lists, hashes and the router's remembered ways are left out: they are made anew, as for a
 * new shard process on an old arena. Numbers of ports, networks and zones mean the same in every shard.
 *
 *   table         record                                            comes in the order of
 *   fdb           FDB_RECORD words, see below                       age, oldest first
 *   neighbors     an entry; NEIGHBOR_CONFIRMED is an age            age
 *   mappings      an entry; MAP_IDLE_SINCE is an age, MAP_END       age
 *                 says which entry it was
 *   connections   an entry; CONN_SEEN and CONN_CREATED are ages,    age, then CONN_ORDER
 *                 CONN_MAPPING the entry of its mapping + 1
 *
 * Between `halt` and `discard` no packet of the networks passes, so what is copied does not change but for entries that
 * expire or give way to other networks' in between, which are then copied or not.
 *
 * Bounded work: a call looks at PIECE_SLOTS entries and copies or forgets PIECE_RECORDS at most, so that its caller can
 * stop in time, and the loop turns before it goes on. Entries of the FDB change their places when others go: always to
 * a place before theirs, but for those of a run that goes on at the table's start. So it is walked backwards, that
 * run's end first: what moves meanwhile is met twice and not missed.
 *
 * Capacity: where the other shard's table is full, entries make room as new ones do, or are refused and counted.
 * Not carried over: packets that wait for a neighbor or for a fragment (dropped by `halt`, counted), limits of rate,
 * and which router neighbors are being asked for.
 */
import * as layout from './layout.js'
import type { Arena } from './layout.js'
import type { Pipeline } from './pipeline.js'
import * as portTable from './port-table.js'
import * as entryLayout from './router/connection-entry.js'
import * as mappingEntry from './router/mapping-entry.js'
import * as neighborTable from './router/neighbors.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const {
  CONNECTION_SHIFT,
  FDB_KEY_HIGH,
  FDB_MAC_LOW,
  FDB_MOVES,
  FDB_NETWORK,
  FDB_PORT,
  FDB_SEEN,
  FDB_SHIFT,
  FDB_STATIC,
  HEADER_FDB_CAPACITY,
  HEADER_NOW,
  MAPPING_SHIFT,
  NEIGHBOR_SHIFT,
} = layout
const { NETWORKS_MAX } = portTable
const { CONN_CREATED, CONN_END, CONN_MAPPING, CONN_SEEN, CONN_STATUS, CONN_ZONES, STATUS_LIVE } = entryLayout
const { MAP_CONNECTIONS, MAP_END, MAP_IDLE_SINCE, MAP_KEY } = mappingEntry
const { FLAG_BOUND, FLAG_MAC, NEIGHBOR_CONFIRMED, NEIGHBOR_FLAGS, NEIGHBOR_KEY } = neighborTable

export type TableName = 'fdb' | 'neighbors' | 'mappings' | 'connections'

/** Words of a record. */
export const RECORD_WORDS: Readonly<Record<TableName, number>> = {
  fdb: 6,
  neighbors: 1 << NEIGHBOR_SHIFT,
  mappings: 1 << MAPPING_SHIFT,
  connections: 1 << CONNECTION_SHIFT,
}
// Of an FDB record.
export const RECORD_MAC_LOW = 0
export const RECORD_KEY_HIGH = 1
export const RECORD_NETWORK = 2
export const RECORD_PORT = 3
export const RECORD_AGE = 4 // FDB_STATIC: a static entry
export const RECORD_MOVES = 5
const FDB_RECORD = 6

/** Entries that a call looks at, and records that it copies or forgets. */
export const PIECE_SLOTS = 2048
export const PIECE_RECORDS = 64
/** In place of where to go on: the table is done. */
export const DONE = -1

export class Transfer {
  /** records that `copyOut` has written; the caller sets it back */
  count = 0
  private readonly arena: Arena
  private readonly header: Int32Array
  private readonly pipeline: Pipeline
  private readonly chosen = new Uint8Array(NETWORKS_MAX) // by network: 1 if it is meant

  /** @param arena the pipeline's */
  constructor(arena: Arena, pipeline: Pipeline) {
    this.arena = arena
    this.header = arena.header
    this.pipeline = pipeline
  }

  /** Says which networks (hidden ones of uplinks among them) the calls below mean. */
  choose(segments: readonly number[]): void {
    this.chosen.fill(0)
    for (let i = 0; i < segments.length; i++) this.chosen[segments[i]] = 1
  }

  /** Says that all networks but these are meant. */
  chooseAllBut(segments: readonly number[]): void {
    this.chosen.fill(1)
    for (let i = 0; i < segments.length; i++) this.chosen[segments[i]] = 0
  }

  /** Drops what is kept of the networks' packets, and of those of their ports. */
  halt(ports: readonly number[]): void {
    this.pipeline.neighbors.dropWaiting(this.chosen)
    for (let i = 0; i < ports.length; i++) this.pipeline.router.fragments.forget(ports[i])
  }

  /**
   * Writes records of a table behind those that `into` has, `count` of them: twice PIECE_RECORDS at most.
   * @param from 0, then what the call before returned
   * @returns where to go on; DONE
   */
  copyOut(table: TableName, from: number, into: Int32Array): number {
    switch (table) {
      case 'fdb':
        return this.copyFdb(from, into)
      case 'neighbors':
        return this.copyNeighbors(from, into)
      case 'mappings':
        return this.copyMappings(from, into)
      case 'connections':
        return this.copyConnections(from, into)
    }
  }

  /**
   * Puts the records from the `first` to before the `end`th into a table.
   * @param results for each record 1, or for a mapping its entry + 1; 0: it was refused
   */
  takeIn(table: TableName, records: Int32Array, first: number, end: number, results: Int32Array): void {
    const now = this.header[HEADER_NOW]
    const words = RECORD_WORDS[table]
    for (let i = first; i < end; i++) results[i] = this.takeInOne(table, records, i * words, now)
  }

  /**
   * Forgets what a table knows of the networks, a piece at a time. Connections go before mappings.
   * @param from 0, then what the call before returned
   * @returns where to go on; DONE
   */
  discard(table: TableName, from: number): number {
    const { fdb, neighbors, router } = this.pipeline
    const { chosen } = this
    if (table === 'connections') return router.connections.discard(chosen, from, PIECE_SLOTS, PIECE_RECORDS)
    if (table === 'mappings') return router.mappings.discard(chosen, from, PIECE_SLOTS, PIECE_RECORDS)
    if (table === 'fdb') return fdb.discard(chosen, from, PIECE_SLOTS, PIECE_RECORDS)
    for (let segment = from; segment < NETWORKS_MAX; segment++) {
      if (chosen[segment] === 0) continue
      neighbors.flush(segment, -1)
      return segment + 1
    }
    return DONE
  }

  // ---- out ----

  /** `from` counts the entries that were looked at, from the table's end on. */
  private copyFdb(from: number, into: Int32Array): number {
    const entries = this.header[HEADER_FDB_CAPACITY]
    if (from === 0) {
      // what stands here may go to the table's end, which is looked at first
      const few = this.count + PIECE_RECORDS
      for (let entry = 0; this.arena.fdb[(entry << FDB_SHIFT) + FDB_NETWORK] !== 0 && this.count < few; entry++)
        this.copyAddress(entry << FDB_SHIFT, into)
    }
    const limit = this.count + PIECE_RECORDS
    let looked = from
    for (; looked < entries && looked < from + PIECE_SLOTS && this.count < limit; looked++)
      this.copyAddress((entries - 1 - looked) << FDB_SHIFT, into)
    return looked < entries ? looked : DONE
  }

  private copyAddress(entry: number, into: Int32Array): void {
    const { fdb } = this.arena
    const network = fdb[entry + FDB_NETWORK] - 1
    if (network < 0 || this.chosen[network] === 0) return
    const seen = fdb[entry + FDB_SEEN]
    const to = this.count++ * FDB_RECORD
    into[to + RECORD_MAC_LOW] = fdb[entry + FDB_MAC_LOW]
    into[to + RECORD_KEY_HIGH] = fdb[entry + FDB_KEY_HIGH]
    into[to + RECORD_NETWORK] = network
    into[to + RECORD_PORT] = fdb[entry + FDB_PORT]
    into[to + RECORD_AGE] = seen === FDB_STATIC ? FDB_STATIC : Math.max(0, this.header[HEADER_NOW] - seen)
    into[to + RECORD_MOVES] = fdb[entry + FDB_MOVES]
  }

  /** Those that a new shard process would take over too: a MAC is known, or they are bound. */
  private copyNeighbors(from: number, into: Int32Array): number {
    const { neighbors } = this.arena
    const end = neighbors.length >> NEIGHBOR_SHIFT
    const limit = this.count + PIECE_RECORDS
    let place = from
    for (; place < end && place < from + PIECE_SLOTS && this.count < limit; place++) {
      const entry = place << NEIGHBOR_SHIFT
      const key = neighbors[entry + NEIGHBOR_KEY]
      if (key === 0 || this.chosen[(key & 0xffff) - 1] !== 1) continue
      if ((neighbors[entry + NEIGHBOR_FLAGS] & (FLAG_MAC | FLAG_BOUND)) === 0) continue
      this.copy(neighbors, entry, into, NEIGHBOR_SHIFT, NEIGHBOR_CONFIRMED)
    }
    return place < end ? place : DONE
  }

  private copyMappings(from: number, into: Int32Array): number {
    const { mappings } = this.arena
    const end = mappings[MAP_END]
    const limit = this.count + PIECE_RECORDS
    let entry = from
    for (; entry < end && entry < from + PIECE_SLOTS && this.count < limit; entry++) {
      const at = entry << MAPPING_SHIFT
      const key = mappings[at + MAP_KEY]
      if (key === 0 || this.chosen[key & 0xfff] === 0) continue
      const to = this.copy(mappings, at, into, MAPPING_SHIFT, MAP_IDLE_SINCE)
      if (mappings[at + MAP_CONNECTIONS] !== 0) into[to + MAP_IDLE_SINCE] = 0
      into[to + MAP_END] = entry
    }
    return entry < end ? entry : DONE
  }

  private copyConnections(from: number, into: Int32Array): number {
    const { connections } = this.arena
    const end = connections[CONN_END]
    const limit = this.count + PIECE_RECORDS
    const now = this.header[HEADER_NOW]
    let entry = from
    for (; entry < end && entry < from + PIECE_SLOTS && this.count < limit; entry++) {
      const at = entry << CONNECTION_SHIFT
      const zones = connections[at + CONN_ZONES]
      if ((connections[at + CONN_STATUS] & STATUS_LIVE) === 0) continue
      // one that leads to a network which stays is left behind
      if ((this.chosen[zones & 0xfff] & this.chosen[(zones >> 12) & 0xfff]) === 0) continue
      const to = this.copy(connections, at, into, CONNECTION_SHIFT, CONN_SEEN)
      into[to + CONN_CREATED] = Math.max(0, now - connections[at + CONN_CREATED])
    }
    return entry < end ? entry : DONE
  }

  /** Copies an entry as the next record, one of its words, a time, as an age; the record's first word. */
  private copy(entries: Int32Array, at: number, into: Int32Array, shift: number, time: number): number {
    const to = this.count++ << shift
    for (let word = 0; word < 1 << shift; word++) into[to + word] = entries[at + word]
    into[to + time] = Math.max(0, this.header[HEADER_NOW] - entries[at + time])
    return to
  }

  // ---- in ----

  private takeInOne(table: TableName, records: Int32Array, at: number, now: number): number {
    const { fdb, neighbors, router } = this.pipeline
    if (table === 'neighbors') return neighbors.takeIn(records, at, now) ? 1 : 0
    if (table === 'mappings') return router.mappings.takeIn(records, at, now) + 1
    if (table === 'connections') return this.takeInConnection(records, at, now)
    const age = records[at + RECORD_AGE]
    const seen = age === FDB_STATIC ? FDB_STATIC : Math.max(0, now - age)
    const low = records[at + RECORD_MAC_LOW]
    const keyHigh = records[at + RECORD_KEY_HIGH]
    const network = records[at + RECORD_NETWORK]
    return fdb.takeIn(low, keyHigh, network, records[at + RECORD_PORT], seen, records[at + RECORD_MOVES]) ? 1 : 0
  }

  private takeInConnection(records: Int32Array, at: number, now: number): number {
    const { connections, mappings } = this.pipeline.router
    const mapping = records[at + CONN_MAPPING] - 1
    const entry = connections.takeIn(records, at, now)
    // a mapping may have given way since it was taken in
    if (entry >= 0 && mappings.isOf(mapping, records[at + CONN_ZONES])) mappings.attach(mapping, entry)
    return entry < 0 ? 0 : 1
  }
}
