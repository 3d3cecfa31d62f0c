/**
 * Carries what one shard knows of some networks over to another, in the control process: asks the one for records piece
 * by piece (`dataplane/transfer.ts`), sorts them, leads connections to the new places of their mappings, and hands them
 * to the other piece by piece. Between two pieces both shards carry their other networks' frames.
 *
 * The whole of it is in this process's memory for that time: 256 bytes a connection, 64 a mapping or neighbor.
 */
import { readSync } from 'node:fs'
import { CONN_MAPPING, CONN_ORDER, CONN_SEEN } from '../dataplane/router/connection-entry.js'
import { MAP_END, MAP_IDLE_SINCE } from '../dataplane/router/mapping-entry.js'
import { NEIGHBOR_CONFIRMED } from '../dataplane/router/neighbors.js'
import { DONE, RECORD_AGE, RECORD_WORDS, type TableName } from '../dataplane/transfer.js'
import { check, native } from '../ports/native.js'
import { writeAll } from '../services/durable-file.js'
import type { Shard } from './shard.js'
import { CARRIED_RECORDS, CARRIED_WORDS, DISCARD_ORDER, bytesOf } from './shard-moving.js'

/** How a table is named when entries of it were refused. */
const SHOWN: Record<TableName, string> = {
  fdb: 'addresses',
  neighbors: 'neighbors',
  mappings: 'mappings',
  connections: 'connections',
}

/** What the other shard had no room for, by table: `3 connections`. */
export type Refused = string[]

/**
 * Copies the tables' entries of segments from one shard to another, which must be configured for them and have none.
 * Rejects if a shard refuses or ends; what the other shard has by then stays there.
 */
export async function carryTables(from: Shard, to: Shard, segments: readonly number[]): Promise<Refused> {
  const memory = check(native.createMemory(CARRIED_WORDS * 4), 'memory of the move')
  const buffer = new Int32Array(CARRIED_WORDS)
  const take = (table: TableName): Promise<Int32Array[]> => copyOut(from, table, segments, memory, buffer)
  const give = (table: TableName, records: readonly Int32Array[]): Promise<number[]> =>
    handIn(to, table, records, memory, buffer)
  const refused: Refused = []
  const note = (table: TableName, results: readonly number[]): void => {
    const count = results.filter((result) => result === 0).length
    if (count > 0) refused.push(`${count} ${SHOWN[table]}`)
  }
  try {
    note('fdb', await give('fdb', byAge(await take('fdb'), RECORD_AGE)))
    note('neighbors', await give('neighbors', byAge(await take('neighbors'), NEIGHBOR_CONFIRMED)))
    const mappings = byAge(await take('mappings'), MAP_IDLE_SINCE)
    const places = await give('mappings', mappings)
    note('mappings', places)
    const connections = byAge(await take('connections'), CONN_SEEN, CONN_ORDER)
    lead(connections, mappings, places)
    note('connections', await give('connections', connections))
    return refused
  } finally {
    native.close(memory)
  }
}

/** Has a shard forget what it knows of segments. Rejects if it ends. */
export async function discardTables(shard: Shard, segments: readonly number[]): Promise<void> {
  for (const table of DISCARD_ORDER) {
    for (let from = 0; from !== DONE; ) {
      from = await shard.ask({ do: 'discard', table, segments: [...segments], from })
    }
  }
}

/** Puts in each connection's record where its mapping is now, 0: it has none. */
export function lead(connections: readonly Int32Array[], mappings: readonly Int32Array[], places: number[]): void {
  const now = new Map(mappings.map((record, i) => [record[MAP_END] + 1, places[i]]))
  for (const record of connections) record[CONN_MAPPING] = now.get(record[CONN_MAPPING]) ?? 0
}

/** Oldest first; of the same age, by a number that counts on and wraps. Static FDB entries, which have none, last. */
export function byAge(records: readonly Int32Array[], age: number, order?: number): Int32Array[] {
  return records.toSorted((a, b) => b[age] - a[age] || (order === undefined ? 0 : (a[order] - b[order]) | 0))
}

async function copyOut(
  shard: Shard,
  table: TableName,
  segments: readonly number[],
  memory: number,
  buffer: Int32Array,
): Promise<Int32Array[]> {
  const words = RECORD_WORDS[table]
  const records: Int32Array[] = []
  for (let from = 0; from !== DONE; ) {
    const answer = await shard.askList({ do: 'copyOut', table, segments: [...segments], from }, [memory])
    const [next, count] = answer as [number, number]
    readSync(memory, bytesOf(buffer, count * words), 0, count * words * 4, 0)
    const piece = buffer.slice(0, count * words)
    for (let i = 0; i < count; i++) records.push(piece.subarray(i * words, (i + 1) * words))
    from = next
  }
  return records
}

/** The answers, one a record. */
async function handIn(
  shard: Shard,
  table: TableName,
  records: readonly Int32Array[],
  memory: number,
  buffer: Int32Array,
): Promise<number[]> {
  const words = RECORD_WORDS[table]
  const results: number[] = []
  while (results.length < records.length) {
    const piece = records.slice(results.length, results.length + CARRIED_RECORDS)
    for (const [i, record] of piece.entries()) buffer.set(record, i * words)
    writeAll(memory, bytesOf(buffer, piece.length * words), 0)
    results.push(...((await shard.askList({ do: 'takeIn', table, count: piece.length }, [memory])) as number[]))
  }
  return results
}
