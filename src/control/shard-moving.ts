/**
 * In the shard process: the requests by which networks leave it for another shard and come from one.
 *
 * What is done is in `dataplane/transfer.ts`; here are the records' way into the memory that a request brings along,
 * and out of it. The memory is read and written by its descriptor and not mapped: this process never returns to the
 * event loop, in which Node would let a mapping go.
 */
import { readSync, writeSync } from 'node:fs'
import { type Arena, HEADER_FDB_CAPACITY } from '../dataplane/layout.js'
import type { Pipeline } from '../dataplane/pipeline.js'
import { DONE, PIECE_RECORDS, RECORD_WORDS, type TableName, Transfer } from '../dataplane/transfer.js'
import { native } from '../ports/native.js'
import type { Request } from './shard-channel.js'

type MovingRequest = Extract<Request, { do: 'halt' | 'copyOut' | 'takeIn' | 'discard' | 'count' | 'keep' }>

/** In which they are forgotten: mappings when no connection has them any more. */
export const DISCARD_ORDER: readonly TableName[] = ['connections', 'mappings', 'neighbors', 'fdb']

/** Words of the memory that records travel in: a piece of any table, or all of an FDB. */
export function transferWords({ header }: Arena): number {
  return Math.max(PIECE_RECORDS * RECORD_WORDS.connections, (header[HEADER_FDB_CAPACITY] >> 1) * RECORD_WORDS.fdb)
}

export class Moving {
  private readonly arena: Arena
  private readonly pipeline: Pipeline
  private readonly transfer: Transfer
  private records: Int32Array | null = null // made at the first use
  private readonly results = new Int32Array(PIECE_RECORDS)

  constructor(arena: Arena, pipeline: Pipeline) {
    this.arena = arena
    this.pipeline = pipeline
    this.transfer = new Transfer(arena, pipeline)
  }

  obey(request: MovingRequest, fds: readonly number[]): number | number[] {
    const { transfer } = this
    switch (request.do) {
      case 'halt':
        for (const port of request.ports) native.detachPort(port)
        transfer.choose(request.segments)
        transfer.halt(request.ports)
        return 0
      case 'copyOut':
        transfer.choose(request.segments)
        return this.copyOut(request.table, request.from, fds[0])
      case 'takeIn':
        return this.takeIn(request.table, request.count, fds[0])
      case 'discard':
        transfer.choose(request.segments)
        return transfer.discard(request.table, request.from)
      case 'count':
        this.count(request.zone, request.counters)
        return 0
      case 'keep':
        transfer.chooseAllBut(request.segments)
        for (const table of DISCARD_ORDER) for (let from = 0; from !== DONE; ) from = transfer.discard(table, from)
        return 0
    }
  }

  private count(zone: number, counters: readonly number[]): void {
    const own = this.pipeline.router.firewalls[zone].counters
    if (own.length === counters.length) own.set(counters)
  }

  private copyOut(table: TableName, from: number, memory: number): number[] {
    this.records ??= new Int32Array(transferWords(this.arena))
    const { records, transfer } = this
    try {
      const next = transfer.copyOut(table, from, records)
      writeSync(memory, bytesOf(records, transfer.count * RECORD_WORDS[table]), 0, null, 0)
      return [next, transfer.count]
    } finally {
      native.close(memory)
    }
  }

  private takeIn(table: TableName, count: number, memory: number): number[] {
    this.records ??= new Int32Array(transferWords(this.arena))
    const { records, results, transfer } = this
    try {
      readSync(memory, bytesOf(records, count * RECORD_WORDS[table]), 0, count * RECORD_WORDS[table] * 4, 0)
      transfer.takeIn(table, records, count, results)
      return [...results.subarray(0, count)]
    } finally {
      native.close(memory)
    }
  }
}

/** The first words of an array, as bytes. */
export function bytesOf(words: Int32Array, count: number): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, count * 4)
}
