/**
 * In the shard process: the requests by which networks leave it for another shard and come from one.
 *
 * What is done is in `dataplane/transfer.ts`; here is how much of it at a time: a request is answered after
 * BUDGET_MILLIS, with how far it came, so that the frames of other networks wait no longer. And here is the way of the
 * records into the memory that a request brings along, and out of it. That is read and written by its descriptor and
 * not mapped: this process never returns to the event loop, in which Node would let a mapping go.
 */
import { readSync } from 'node:fs'
import type { Arena } from '../dataplane/layout.js'
import type { Pipeline } from '../dataplane/pipeline.js'
import { DONE, PIECE_RECORDS, RECORD_WORDS, type TableName, Transfer } from '../dataplane/transfer.js'
import { native } from '../ports/native.js'
import { writeAll } from '../services/durable-file.js'
import type { Request } from './shard-channel.js'

type MovingRequest = Extract<Request, { do: 'halt' | 'copyOut' | 'takeIn' | 'discard' | 'count' | 'keep' }>

/** In which they are forgotten: mappings when no connection has them any more. */
export const DISCARD_ORDER: readonly TableName[] = ['connections', 'mappings', 'neighbors', 'fdb']

/** Records that a request carries at most. */
export const CARRIED_RECORDS = 1024
/** Words of the memory that they travel in. */
export const CARRIED_WORDS = (CARRIED_RECORDS + 2 * PIECE_RECORDS) * RECORD_WORDS.connections
const BUDGET_MILLIS = 1

export class Moving {
  private readonly pipeline: Pipeline
  private readonly transfer: Transfer
  private records: Int32Array | null = null // made at the first use
  private readonly results = new Int32Array(CARRIED_RECORDS)

  constructor(arena: Arena, pipeline: Pipeline) {
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
        return this.discard(request.table, request.from)
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

  private discard(table: TableName, from: number): number {
    const until = performance.now() + BUDGET_MILLIS
    let next = from
    do next = this.transfer.discard(table, next)
    while (next !== DONE && performance.now() < until)
    return next
  }

  private copyOut(table: TableName, from: number, memory: number): number[] {
    this.records ??= new Int32Array(CARRIED_WORDS)
    const { records, transfer } = this
    const until = performance.now() + BUDGET_MILLIS
    try {
      let next = from
      transfer.count = 0
      do next = transfer.copyOut(table, next, records)
      while (next !== DONE && transfer.count < CARRIED_RECORDS && performance.now() < until)
      writeAll(memory, bytesOf(records, transfer.count * RECORD_WORDS[table]), 0)
      return [next, transfer.count]
    } finally {
      native.close(memory)
    }
  }

  private takeIn(table: TableName, count: number, memory: number): number[] {
    this.records ??= new Int32Array(CARRIED_WORDS)
    const { records, results, transfer } = this
    try {
      readSync(memory, bytesOf(records, count * RECORD_WORDS[table]), 0, count * RECORD_WORDS[table] * 4, 0)
      const until = performance.now() + BUDGET_MILLIS
      let done = 0
      do {
        const end = Math.min(done + PIECE_RECORDS, count)
        transfer.takeIn(table, records, done, end, results)
        done = end
      } while (done < count && performance.now() < until)
      return [...results.subarray(0, done)]
    } finally {
      native.close(memory)
    }
  }
}

/** The first words of an array, as bytes. */
export function bytesOf(words: Int32Array, count: number): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, count * 4)
}
