/**
 * The forwarding database: every operation against a plain Map, in seeded random order, and each rule by itself.
 *
 * The model is a Map in the order in which addresses were last refreshed, so its first entry of a port is the port's
 * oldest; a port's row in `ports` is all the FDB asks of the configuration.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fdb, MOVES_REMEMBERED, MOVE_STRIDE } from '../../src/dataplane/fdb.js'
import {
  type Arena,
  FDB_KEY_HIGH,
  FDB_MAC_LOW,
  FDB_MOVES,
  FDB_NETWORK,
  FDB_PORT,
  FDB_SEEN,
  FDB_SHIFT,
  FDB_STATIC,
  HEADER_FDB_EVICTED,
  HEADER_FDB_EXPIRED,
  HEADER_FDB_LEARNED,
  HEADER_FDB_MOVED,
  HEADER_FDB_REFUSED,
  HEADER_FDB_USED,
} from '../../src/dataplane/layout.js'
import { PortTable } from '../../src/dataplane/port-table.js'
import { GEOMETRY, newArena, plain, randomFrom } from './rig.js'

const PORTS = 8
const LIMIT = 512 // half of the table
const SECRET = Int32Array.of(0x5851f42d, 0x14057b7e, 0x2545f491, -5)

interface Key {
  low: number
  vid: number
  network: number
}

class Table {
  readonly arena: Arena
  readonly ports = new PortTable(GEOMETRY.ports)
  fdb: Fdb

  constructor(limits: number[] = [], agingSeconds = 300, secret = SECRET) {
    this.arena = newArena({ ...GEOMETRY, fdbCapacity: LIMIT * 2, smallSlots: 1, largeSlots: 1 })
    for (const network of [0, 1]) {
      const ports = Array.from({ length: PORTS / 2 }, (_, i) => network * (PORTS / 2) + i)
      this.ports.configure({
        network,
        agingSeconds,
        ports: ports.map((port) => plain(port, { macLimit: limits[port] ?? 1 << 20 })),
      })
    }
    this.fdb = new Fdb(this.arena, this.ports, secret)
  }

  restart(secret = Int32Array.of(1, 2, 3, 4)): void {
    this.fdb = new Fdb(this.arena, this.ports, secret)
  }

  learn({ low, vid, network }: Key, port: number, seconds = 0): void {
    const keyHigh = 2 | (vid << 16)
    this.fdb.learn(this.fdb.place(low, keyHigh, network), low, keyHigh, network, port, seconds)
  }

  at({ low, vid, network }: Key): number {
    const keyHigh = 2 | (vid << 16)
    return this.fdb.lookup(this.fdb.place(low, keyHigh, network), low, keyHigh, network)
  }

  fix({ low, vid, network }: Key, port: number): boolean {
    return this.fdb.addStatic(low, 2 | (vid << 16), network, port)
  }

  remove({ low, vid, network }: Key): boolean {
    return this.fdb.remove(low, 2 | (vid << 16), network)
  }

  word(index: number): number {
    return this.arena.header[index]
  }

  /** The entries as the control process lists them. */
  rows(): Map<string, { port: number; seen: number; moves: number }> {
    const rows = new Map<string, { port: number; seen: number; moves: number }>()
    const { fdb } = this.arena
    for (let entry = 0; entry < fdb.length; entry += 1 << FDB_SHIFT) {
      if (fdb[entry + FDB_NETWORK] === 0) continue
      const high = fdb[entry + FDB_KEY_HIGH]
      const plainName = text({ low: fdb[entry + FDB_MAC_LOW], vid: high >>> 16, network: fdb[entry + FDB_NETWORK] - 1 })
      const name = (high & 0xffff) === 2 ? plainName : `${plainName}/${high & 0xffff}` // only garbage has other octets
      assert.ok(!rows.has(name), `${name} is there twice`)
      rows.set(name, { port: fdb[entry + FDB_PORT], seen: fdb[entry + FDB_SEEN], moves: fdb[entry + FDB_MOVES] })
    }
    assert.equal(this.word(HEADER_FDB_USED), rows.size)
    return rows
  }
}

const text = ({ low, vid, network }: Key): string => `${low}/${vid}/${network}`
const key = (low: number, vid = 0, network = 0): Key => ({ low, vid, network })

interface Entry extends Key {
  port: number
  seen: number
  moves: number
}

/** What the table ought to do, as a Map in the order of refreshment. */
class Model {
  readonly entries = new Map<string, Entry>()
  private readonly limits: number[]

  constructor(limits: number[]) {
    this.limits = limits
  }

  held(port: number): number {
    return [...this.entries.values()].filter((e) => e.port === port && e.seen !== FDB_STATIC).length
  }

  private renew(entry: Entry): void {
    this.entries.delete(text(entry))
    this.entries.set(text(entry), entry)
  }

  private evict(): boolean {
    const held = Array.from({ length: PORTS }, (_, port) => this.held(port))
    const fullest = held.indexOf(Math.max(...held))
    for (const [name, entry] of this.entries)
      if (entry.port === fullest && entry.seen !== FDB_STATIC) return this.entries.delete(name)
    return false
  }

  learn(one: Key, port: number, seconds: number): void {
    const entry = this.entries.get(text(one))
    if (entry === undefined) {
      if (this.held(port) >= this.limits[port]) return
      if (this.entries.size >= LIMIT && !this.evict()) return
      this.entries.set(text(one), { ...one, port, seen: seconds, moves: 0 })
    } else if (entry.seen !== FDB_STATIC) {
      if (entry.port === port && entry.seen === seconds) return
      if (entry.port !== port && this.held(port) >= this.limits[port]) return
      this.renew({ ...entry, port, seen: seconds, moves: entry.moves + (entry.port === port ? 0 : 1) })
    }
  }

  fix(one: Key, port: number): boolean {
    const entry = this.entries.get(text(one))
    if (entry === undefined && this.entries.size >= LIMIT && !this.evict()) return false
    this.entries.set(text(one), { ...one, port, seen: FDB_STATIC, moves: entry?.moves ?? 0 })
    return true
  }

  flush(network: number, port: number, vid: number, statics: boolean): number {
    let removed = 0
    for (const [name, e] of this.entries)
      if (e.network === network && (port < 0 || e.port === port) && (vid < 0 || e.vid === vid))
        if (statics || e.seen !== FDB_STATIC) removed += this.entries.delete(name) ? 1 : 0
    return removed
  }

  sweep(seconds: number, aging: number): void {
    for (const [name, e] of this.entries)
      if (e.seen !== FDB_STATIC && seconds - e.seen >= aging) this.entries.delete(name)
  }
}

function compare(table: Table, model: Model, when: string): void {
  const rows = table.rows()
  assert.equal(rows.size, model.entries.size, when)
  for (const [name, entry] of model.entries) {
    const { port, seen, moves } = entry
    assert.deepEqual(rows.get(name), { port, seen, moves }, `${when}: ${name}`)
    assert.equal(table.at(entry), port, `${when}: ${name} is not found`)
  }
  for (let port = 0; port < PORTS; port++) assert.equal(table.fdb.learnedAt(port), model.held(port), `${when}: ${port}`)
}

/** Random operations on table and model alike; few addresses collide often, many fill the table. */
function play(seed: number, addresses: number, steps: number): void {
  const random = randomFrom(seed)
  const limits = Array.from({ length: PORTS }, (_, port) => (port === 3 ? 20 : 1 << 20))
  const table = new Table(limits, 50, Int32Array.of(random(1 << 30), random(1 << 30), random(1 << 30), random(1 << 30)))
  const model = new Model(limits)
  let seconds = 1
  for (let step = 0; step < steps; step++) {
    const network = random(2)
    const one = { low: random(addresses) - (addresses >> 1), vid: random(3), network }
    const port = network * 4 + (random(4) === 0 ? random(4) : 0)
    const what = random(1000)
    const when = `seed ${seed}, step ${step}`
    if (what < 880) {
      table.learn(one, port, seconds)
      model.learn(one, port, seconds)
    } else if (what < 900) {
      assert.equal(table.fix(one, port), model.fix(one, port), when)
    } else if (what < 960) {
      assert.equal(table.remove(one), model.entries.delete(text(one)), when)
    } else if (what < 962) {
      const [flushPort, vid, statics] = [random(2) ? port : -1, random(3) - 1, random(2) === 0]
      const flushed = table.fdb.flush(network, flushPort, vid, statics)
      assert.equal(flushed, model.flush(network, flushPort, vid, statics), when)
    } else {
      seconds += random(8)
      assert.equal(table.fdb.sweep(seconds), false)
      model.sweep(seconds, 50)
    }
    if (step % 97 === 0) compare(table, model, when)
  }
  compare(table, model, `seed ${seed}, at the end`)
}

test('it agrees with a Map while few addresses come and go', () => play(1, 40, 20_000))
test('it agrees with a Map at half its capacity', () => play(2, 300, 20_000))
test('it agrees with a Map when it is always full', () => play(3, 4000, 12_000))
test('it agrees with a Map for any seed', () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 2, max: 2000 }), (seed, addresses) => play(seed, addresses, 1500)),
    { numRuns: 12, seed: 5 },
  )
})

test('deleting from a run closes the gap, also around the end of the table', () => {
  const table = new Table()
  const last = LIMIT * 2 - 3 // the run starts three places before the end
  const run: Key[] = []
  for (let low = 1; run.length < 12; low++) if (table.fdb.place(low, 2, 0) >> FDB_SHIFT >= last) run.push(key(low))
  for (let first = 0; first < run.length; first++) {
    for (const [i, each] of run.entries()) table.learn(each, i % 4)
    const order = [...run.slice(first), ...run.slice(0, first)]
    for (let gone = 0; gone < order.length; gone++) {
      assert.ok(table.remove(order[gone]))
      for (const [i, each] of order.entries()) assert.equal(table.at(each), i <= gone ? -1 : run.indexOf(each) % 4)
    }
  }
  assert.equal(table.rows().size, 0)
})

test('the fullest port gives way, with its oldest entry first', () => {
  const table = new Table()
  for (let i = 0; i < 10; i++) table.learn(key(i), 1, 1)
  for (let i = 0; i < LIMIT - 10; i++) table.learn(key(1000 + i), 0, 2)
  table.learn(key(1000), 0, 3) // the oldest is seen again, and now the youngest
  table.learn(key(-1), 2, 4)
  assert.equal(table.at(key(-1)), 2)
  assert.equal(table.at(key(1001)), -1)
  assert.equal(table.at(key(1000)), 0)
  for (let i = 0; i < 3000; i++) table.learn(key(100_000 + i), 0, 5)
  for (let i = 0; i < 10; i++) assert.equal(table.at(key(i)), 1, 'a quiet port lost an address to a flood')
  assert.equal(table.at(key(-1)), 2)
  assert.deepEqual([table.word(HEADER_FDB_EVICTED), table.rows().size], [3001, LIMIT])
})

test('a port at its limit learns nothing more, and keeps what it has', () => {
  const table = new Table([3, 3])
  for (let i = 0; i < 5; i++) table.learn(key(i), 0, 1)
  assert.deepEqual(
    [0, 1, 2, 3, 4].map((i) => table.at(key(i))),
    [0, 0, 0, -1, -1],
  )
  assert.equal(table.word(HEADER_FDB_REFUSED), 2)
  table.learn(key(10), 1, 1)
  table.learn(key(10), 0, 1) // a move to a full port
  assert.equal(table.at(key(10)), 1)
  assert.equal(table.word(HEADER_FDB_REFUSED), 3)
  table.fix(key(99), 0) // a static entry counts for no limit
  assert.equal(table.fdb.learnedAt(0), 3)
  assert.equal(table.word(HEADER_FDB_LEARNED), 4)
})

test('a static entry neither moves nor ages nor gives way, and is replaced only by order', () => {
  const table = new Table([], 10)
  assert.ok(table.fix(key(1), 0))
  table.learn(key(1), 1, 5)
  assert.deepEqual([table.at(key(1)), table.word(HEADER_FDB_MOVED)], [0, 0])
  table.fdb.sweep(100_000)
  assert.deepEqual([table.at(key(1)), table.fdb.flush(0, -1, -1, false)], [0, 0])
  for (let i = 0; i < 2000; i++) table.learn(key(1000 + i), 2, 100_001)
  assert.equal(table.at(key(1)), 0)
  table.learn(key(2), 1, 100_002)
  assert.ok(table.fix(key(2), 3)) // from learned to static
  assert.equal(table.at(key(2)), 3)
  assert.equal(table.fdb.learnedAt(1), 0)
  assert.ok(table.fix(key(1), 1))
  assert.equal(table.at(key(1)), 1)
  assert.equal(table.fdb.flush(0, 1, -1, true), 1)
  assert.equal(table.at(key(1)), -1)
})

test('a table full of static entries refuses more, of either kind', () => {
  const table = new Table()
  for (let i = 0; i < LIMIT; i++) assert.ok(table.fix(key(i), 0))
  assert.equal(table.fix(key(-1), 0), false)
  assert.ok(table.fix(key(0), 1), 'replacing needs no room')
  table.learn(key(-2), 1, 1)
  assert.equal(table.at(key(-2)), -1)
  assert.equal(table.word(HEADER_FDB_REFUSED), 1)
  assert.equal(table.rows().size, LIMIT)
})

test('networks and VIDs are apart', () => {
  const table = new Table()
  table.learn(key(7, 10, 0), 0)
  table.learn(key(7, 20, 0), 1)
  table.learn(key(7, 10, 1), 4)
  assert.deepEqual(
    [key(7, 10, 0), key(7, 20, 0), key(7, 10, 1), key(7, 20, 1)].map((k) => table.at(k)),
    [0, 1, 4, -1],
  )
  assert.equal(table.fdb.flush(0, -1, 10, true), 1)
  assert.deepEqual(
    [key(7, 10, 0), key(7, 20, 0), key(7, 10, 1)].map((k) => table.at(k)),
    [-1, 1, 4],
  )
})

test("an entry ages at exactly the network's time, unless seen again", () => {
  const table = new Table([], 300)
  table.learn(key(1), 0, 100)
  table.learn(key(2), 0, 100)
  table.learn(key(1), 0, 101)
  table.fdb.sweep(399)
  assert.deepEqual([table.at(key(1)), table.at(key(2))], [0, 0])
  table.fdb.sweep(400)
  assert.deepEqual([table.at(key(1)), table.at(key(2))], [0, -1])
  assert.equal(table.word(HEADER_FDB_EXPIRED), 1)
})

test('a sweep forgets at most 4096 at once and says that more is left', () => {
  const arena = newArena({ ...GEOMETRY, fdbCapacity: 16384, smallSlots: 1, largeSlots: 1 })
  const ports = new PortTable(GEOMETRY.ports)
  ports.configure({ network: 0, agingSeconds: 10, ports: [plain(0, { macLimit: 1 << 20 })] })
  const fdb = new Fdb(arena, ports, SECRET)
  for (let low = 0; low < 5000; low++) fdb.learn(fdb.place(low, 2, 0), low, 2, 0, 0, 1)
  assert.equal(fdb.sweep(50), true)
  assert.equal(fdb.learnedAt(0), 904)
  assert.equal(fdb.sweep(50), false)
  assert.equal(fdb.learnedAt(0), 0)
})

test('moves are remembered up to a number, and counted beyond', () => {
  const table = new Table()
  for (const port of [0, 1]) for (let i = 0; i < MOVES_REMEMBERED + 5; i++) table.learn(key(i, 3), port, port)
  assert.deepEqual([table.fdb.moveCount, table.word(HEADER_FDB_MOVED)], [MOVES_REMEMBERED, MOVES_REMEMBERED + 5])
  assert.deepEqual(Array.from(table.fdb.moves.slice(MOVE_STRIDE, 2 * MOVE_STRIDE)), [1, 2 | (3 << 16), 0, 0, 1])
})

test('the next shard takes the table over, whatever its secret', () => {
  const table = new Table([], 300)
  for (let i = 0; i < 400; i++) table.learn(key(i, i % 5, i % 2), (i % 2) * 4 + (i % 3), i)
  table.fix(key(9999), 2)
  const before = table.rows()
  table.restart()
  const after = table.rows()
  assert.equal(after.size, before.size)
  for (const [name, { port, seen }] of before)
    assert.deepEqual(after.get(name), { port, seen: seen === FDB_STATIC ? FDB_STATIC : 0, moves: 0 })
  for (let i = 0; i < 400; i++) assert.equal(table.at(key(i, i % 5, i % 2)), (i % 2) * 4 + (i % 3))
  assert.equal(table.fdb.sweep(299), false)
  assert.equal(table.rows().size, 401)
  table.fdb.sweep(300)
  assert.deepEqual([...table.rows().values()], [{ port: 2, seen: FDB_STATIC, moves: 0 }])
})

test('a torn table is taken over as far as it makes sense', () => {
  const random = randomFrom(9)
  for (let round = 0; round < 40; round++) {
    const table = new Table()
    for (let i = 0; i < 300; i++) table.learn(key(i), i % 4, i)
    const { fdb } = table.arena
    for (let i = 0; i < 60; i++) {
      const entry = random(LIMIT * 2) << FDB_SHIFT
      const other = random(LIMIT * 2) << FDB_SHIFT
      if (random(3) === 0)
        fdb.copyWithin(entry, other, other + (1 << FDB_SHIFT)) // moved, and not yet deleted
      else fdb[entry + random(1 << FDB_SHIFT)] = random(2) ? random(10) - 5 : random(1 << 30) * 4
    }
    table.arena.header[HEADER_FDB_USED] = random(1000)
    table.restart()
    const rows = table.rows()
    assert.ok(rows.size > 200 && rows.size <= LIMIT)
    for (const { port } of rows.values()) assert.ok(port >= 0 && port < GEOMETRY.ports)
    for (let i = 0; i < 2000; i++) table.learn(key(-1 - i), i % 4, 1)
    assert.equal(table.rows().size, LIMIT)
    while (table.fdb.flush(0, -1, -1, true) > 0);
    table.fdb.flush(1, -1, -1, true)
  }
})

test('a table full of garbage does not hold up the next shard', () => {
  const table = new Table()
  const random = randomFrom(4)
  for (let i = 0; i < table.arena.fdb.length; i++) table.arena.fdb[i] = 1 + random(40)
  table.restart()
  assert.equal(table.rows().size, LIMIT)
  assert.equal(table.at(key(123456)), -1)
})
