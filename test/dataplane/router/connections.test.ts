/**
 * The table of connections: every operation against a plain list in seeded random order, with the shard process
 * replaced in between; a process killed at each single write of each operation; and who gives way to whom.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Arena,
  HEADER_CONNECTIONS_EVICTED,
  HEADER_CONNECTIONS_EXPIRED,
  HEADER_CONNECTIONS_MADE,
  HEADER_CONNECTIONS_REFUSED,
  HEADER_CONNECTIONS_USED,
  HEADER_NOW,
} from '../../../src/dataplane/layout.js'
import {
  CLASS_SHIFT,
  CONN_END,
  CONN_GENERATION,
  CONN_MAPPING,
  CONN_NEIGHBOR,
  CONN_OWNER,
  CONN_EGRESS,
  CONN_SEEN,
  CONN_STATUS,
  CONN_WORDS,
  CONN_ZONES,
  Connections,
  LIST_MASK,
  STATUS_DNAT,
  STATUS_LIVE,
  STATUS_SNAT,
  TIMEOUTS,
  TIMEOUT_TCP_CLOSING,
  TIMEOUT_TCP_ESTABLISHED,
  TIMEOUT_TCP_SYN,
  WORTH_ENDING,
  WORTH_KEPT,
  WORTH_SHIFT,
  WORTH_UNPROVEN,
} from '../../../src/dataplane/router/connections.js'
import type { Flow } from '../../../src/dataplane/router/flow.js'
import { randomFrom } from '../rig.js'
import { PORTS, flow, reverse, tracking } from './conntrack-rig.js'

const CAPACITY = 256
const SECONDS = [16, 200, 12, 3, 8, 15, 4, 20, 45]
const grain = (kind: number): number => Math.max(1, SECONDS[kind] >> 6)

const arenaOf = (): Arena => tracking({ connectionCapacity: CAPACITY, smallSlots: 1 })

/** Distinct flows by number; every third is IPv6 with the same first words as an IPv4 one. */
function flowOf(number: number): Flow {
  const more = { sourcePort: 1000 + (number & ~3), protocol: (number & 1) === 0 ? 6 : 17 }
  return flow((number & 2) === 0 ? more : { ...more, family: 6, source3: 7, destination1: number })
}

const keyOf = (zone: number, of: Flow): string => [zone, ...Object.values(of)].join()

interface Known {
  entry: number
  number: number
  zone: number
  replyZone: number
  owner: number
  kind: number
  worth: number
  order: number
  seen: number
  keys: string[]
}

/** The same table as a list, without any cleverness. */
class Model {
  known: Known[] = []
  order = 0
  portLimit: number

  constructor(portLimit: number) {
    this.portLimit = portLimit
  }

  of(owner: number): Known[] {
    return this.known.filter((one) => one.owner === owner)
  }

  /** The one of an owner that gives way. */
  least(owner: number): Known | undefined {
    const loose = this.of(owner).filter((one) => one.worth !== WORTH_KEPT)
    return loose.sort((a, b) => a.worth - b.worth || a.order - b.order)[0]
  }

  fullest(): number {
    const counts = Array.from({ length: PORTS }, (_, i) => this.of(i).filter((one) => one.worth !== WORTH_KEPT).length)
    return counts.indexOf(Math.max(...counts))
  }

  remove(one: Known | undefined): boolean {
    if (one === undefined) return false
    this.known.splice(this.known.indexOf(one), 1)
    return true
  }

  makeRoom(owner: number): boolean {
    for (let i = 0; i < 2 && this.of(owner).length >= this.portLimit; i++)
      if (!this.remove(this.least(owner)) && i === 0) return false
    return this.known.length < CAPACITY || this.remove(this.least(this.fullest()))
  }

  clashes(zone: number, replyZone: number, of: Flow): boolean {
    const wanted = [keyOf(zone, of), keyOf(replyZone, reverse(of))]
    return this.known.some(({ keys }) => keys.some((key) => wanted.includes(key)))
  }

  takenOver(): void {
    this.known.sort((a, b) => a.seen - b.seen || a.entry - b.entry)
    for (const one of this.known) one.order = this.order++
  }
}

function compare(connections: Connections, arena: Arena, model: Model, text: string): void {
  assert.equal(arena.header[HEADER_CONNECTIONS_USED], model.known.length, text)
  for (const one of model.known) {
    const of = flowOf(one.number)
    assert.equal(connections.find(one.zone, of), one.entry << 1, text)
    assert.equal(connections.find(one.replyZone, reverse(of)), (one.entry << 1) | 1, text)
    assert.equal(connections.zone(one.entry), one.zone)
    const status = connections.words[one.entry * CONN_WORDS + CONN_STATUS]
    assert.equal((status >> CLASS_SHIFT) & LIST_MASK, one.kind | (one.worth << 4), text)
    assert.equal(connections.words[one.entry * CONN_WORDS + CONN_SEEN], one.seen, text)
  }
  for (let owner = 0; owner < PORTS; owner++) assert.equal(connections.heldBy(owner), model.of(owner).length, text)
  for (let zone = 0; zone < 3; zone++)
    assert.equal(connections.heldIn(zone), model.known.filter((one) => one.zone === zone).length, text)
}

test('random operations, and new processes in between', () => {
  const happened = [0, 0, 0]
  const counted = [HEADER_CONNECTIONS_EVICTED, HEADER_CONNECTIONS_EXPIRED, HEADER_CONNECTIONS_REFUSED]
  for (const [seed, portLimit, owners] of [
    [1, 30, 5],
    [2, 1000, 6],
    [3, 120, 3],
  ]) {
    const random = randomFrom(seed)
    const arena = arenaOf()
    const model = new Model(portLimit)
    const start = (): Connections => {
      const table = new Connections(arena, PORTS)
      for (let zone = 0; zone < 3; zone++) table.configure(zone, SECONDS, 1 << 20, portLimit)
      return table
    }
    let connections = start()
    let now = 0
    for (let step = 0; step < 4000; step++) {
      const text = `seed ${seed} step ${step}`
      const action = random(100)
      if (random(40) === 0) arena.header[HEADER_NOW] = now += random(3)
      if (action < 55) {
        const zone = random(3)
        const replyZone = random(4) === 0 ? (zone + 1) % 3 : zone
        const number = random(600)
        const owner = random(owners)
        const of = flowOf(number)
        const isClash = model.clashes(zone, replyZone, of)
        const expected = !isClash && model.makeRoom(owner)
        const entry = connections.create(zone, replyZone, of, reverse(of), owner, now)
        assert.equal(entry >= 0, expected, text)
        const kind = of.protocol === 6 ? 0 : 4
        const order = model.order++
        const keys = [keyOf(zone, of), keyOf(replyZone, reverse(of))]
        if (expected)
          model.known.push({ entry, number, zone, replyZone, owner, kind, worth: 0, order, seen: now, keys })
      } else if (action < 85 && model.known.length > 0) {
        const one = model.known[random(model.known.length)]
        const at = one.entry * CONN_WORDS + CONN_STATUS
        const kind = random(3) === 0 ? random(9) : one.kind
        const worth = random(3) === 0 ? random(3) : one.worth
        const list = (kind << CLASS_SHIFT) | (worth << WORTH_SHIFT)
        connections.see(one.entry, (connections.words[at] & ~(LIST_MASK << CLASS_SHIFT)) | list, now)
        if (kind !== one.kind || worth !== one.worth || now - one.seen >= grain(kind)) {
          one.order = model.order++
          one.seen = now
        }
        one.kind = kind
        one.worth = worth
      } else if (action < 92 && model.known.length > 0) {
        const one = model.known[random(model.known.length)]
        connections.remove(one.entry)
        connections.remove(one.entry) // nothing
        model.remove(one)
      } else if (action < 97) {
        while (connections.sweep(now));
        model.known = model.known.filter((one) => now - one.seen < SECONDS[one.kind] + grain(one.kind))
      } else if (action === 97) {
        const zone = random(3)
        const left = model.known.filter((one) => one.zone !== zone && one.replyZone !== zone)
        if (random(3) === 0) {
          assert.equal(connections.flush(zone), model.known.length - left.length, text)
          model.known = left
        }
      } else if (action === 98) {
        const owner = random(owners)
        if (random(3) === 0) {
          assert.equal(connections.flushOwner(owner), model.of(owner).length, text)
          model.known = model.known.filter((one) => one.owner !== owner)
        }
      } else {
        connections = start()
        model.takenOver()
      }
      if (step % 50 === 0) compare(connections, arena, model, text)
    }
    compare(connections, arena, model, `seed ${seed}`)
    for (const [i, word] of counted.entries()) happened[i] += arena.header[word]
  }
  for (const count of happened) assert.ok(count > 200, happened.join())
})

test('keys: zones, families, protocols and directions are apart', () => {
  const connections = new Connections(arenaOf(), PORTS)
  const four = flow({ sourcePort: 1, destinationPort: 2 })
  const six = flow({ sourcePort: 1, destinationPort: 2, family: 6 })
  const udp = flow({ sourcePort: 1, destinationPort: 2, protocol: 17 })
  const entries = [four, six, udp].map((of) => connections.create(5, 5, of, reverse(of), 1, 0))
  for (const [i, of] of [four, six, udp].entries()) {
    assert.equal(connections.find(5, of), entries[i] << 1)
    assert.equal(connections.find(5, reverse(of)), (entries[i] << 1) | 1)
    assert.equal(connections.find(6, of), -1)
  }
  const words = ['source1', 'source2', 'source3', 'destination1', 'destination2', 'destination3'] as const
  for (const word of words) assert.equal(connections.find(5, flow(Object.assign({}, six, { [word]: 1 }))), -1, word)
  assert.equal(connections.create(5, 5, four, flow({ sourcePort: 9 }), 1, 0), -1, 'the original key is taken')
  assert.equal(connections.create(5, 5, flow({ sourcePort: 9 }), reverse(four), 1, 0), -1, 'that of the replies is')
  const loop = flow({ source0: 7, destination0: 7, sourcePort: 3, destinationPort: 3 })
  assert.equal(connections.create(5, 5, loop, reverse(loop), 1, 0), -1, 'its own reply')
  assert.equal(connections.create(511, 0, loop, reverse(loop), 1, 0) >= 0, true, 'but not in another zone')
  assert.ok(connections.find(511, loop) >= 0 && connections.find(0, loop) >= 0)
})

test('translated addresses: replies are found by what they show', () => {
  const connections = new Connections(arenaOf(), PORTS)
  const there = flow()
  const back = reverse(flow({ source0: 0xc0000201 | 0, sourcePort: 60000 }))
  const entry = connections.create(3, 3, there, back, 2, 0)
  connections.setTranslated(entry, true, false)
  assert.equal(connections.find(3, back), (entry << 1) | 1)
  assert.equal(connections.find(3, reverse(there)), -1)
  const status = connections.words[entry * CONN_WORDS + CONN_STATUS]
  assert.equal(status & (STATUS_SNAT | STATUS_DNAT), STATUS_SNAT)
  const head = 3 | (there.protocol << 24)
  const ports = (there.sourcePort << 16) | there.destinationPort
  const hash = connections.hash4(head, there.source0, there.destination0, ports)
  connections.touch(Int32Array.of(hash, 5), 2)
  assert.equal(connections.find4(hash, head, there.source0, there.destination0, ports), entry << 1)
})

test('a mapping is told what its connections are worth, and when one was seen after a while', () => {
  const arena = arenaOf()
  const connections = new Connections(arena, PORTS)
  const told: unknown[] = []
  connections.mappings = {
    release: () => {},
    weigh: (...values) => told.push(values),
    refresh: (mapping) => told.push(mapping),
  }
  const of = flow({})
  const entry = connections.create(0, 0, of, reverse(of), 1, 0)
  const at = entry * CONN_WORDS
  const status = connections.words[at + CONN_STATUS]
  connections.see(entry, status | (WORTH_KEPT << WORTH_SHIFT), 1)
  assert.deepEqual(told.splice(0), [], 'it has none')
  connections.words[at + CONN_MAPPING] = 8
  connections.see(entry, status | (WORTH_ENDING << WORTH_SHIFT), 2)
  assert.deepEqual(told.splice(0), [[7, WORTH_KEPT, WORTH_ENDING]])
  connections.see(entry, status | (WORTH_ENDING << WORTH_SHIFT), 2)
  connections.see(entry, status | (WORTH_ENDING << WORTH_SHIFT), 1000)
  assert.deepEqual(told, [7])
})

test('who lets go of a mapping is told once, whatever the reason', () => {
  const arena = arenaOf()
  const connections = new Connections(arena, PORTS)
  connections.configure(0, SECONDS, 1000, 2)
  const told: number[][] = []
  connections.mappings = { release: (...values) => told.push(values), weigh: () => {}, refresh: () => {} }
  const make = (number: number): number => {
    const of = flow({ sourcePort: number })
    const entry = connections.create(0, 0, of, reverse(of), 1, arena.header[HEADER_NOW])
    connections.words[entry * CONN_WORDS + CONN_MAPPING] = number + 1
    return entry
  }
  const first = make(1)
  const second = make(2)
  arena.header[HEADER_NOW] = 4
  const third = make(3)
  assert.deepEqual(told.splice(0), [[1, first, 4]])
  connections.remove(second)
  connections.remove(second)
  assert.deepEqual(told.splice(0), [[2, second, 4]])
  arena.header[HEADER_NOW] = 40
  connections.sweep(40)
  assert.deepEqual(told.splice(0), [[3, third, 40]])
  const last = make(4)
  connections.flush(0)
  assert.deepEqual(told, [[4, last, 40]])
})

// ---- a process that is killed ----

class Killed extends Error {}

/** A section that ends the process when a number of writes, of all sections together, has been done. */
function mortal(section: Int32Array, life: { left: number }): Int32Array {
  return new Proxy(section, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
    set(target, property, value) {
      if (life.left-- <= 0) throw new Killed()
      return Reflect.set(target, property, value, target)
    },
  })
}

test('killed at any write of any operation: the next process has all that was whole', () => {
  const arena = arenaOf()
  const random = randomFrom(9)
  const list = (kind: number, worth: number): number => STATUS_LIVE | (kind << CLASS_SHIFT) | (worth << WORTH_SHIFT)
  /** One of the connections of zone 0. */
  const nth = (table: Connections, count: number): number => {
    const matches = Array.from({ length: 60 }, (_, i) => table.find(0, flowOf(i * 2))).filter((match) => match >= 0)
    return matches[count] >> 1
  }
  const operations: [name: string, run: (table: Connections) => void][] = [
    ['create', (table) => table.create(0, 1, flowOf(900), reverse(flowOf(900)), 3, 50)],
    ['create IPv6', (table) => table.create(0, 1, flowOf(902), reverse(flowOf(902)), 3, 50)],
    ['create by eviction', (table) => table.create(2, 2, flowOf(904), reverse(flowOf(904)), 1, 50)],
    ['see, in another list', (table) => table.see(nth(table, 3), list(1, WORTH_KEPT), 60)],
    ['see, later', (table) => table.see(nth(table, 5), list(0, WORTH_UNPROVEN), 60)],
    ['remove', (table) => table.remove(nth(table, 7))],
    ['sweep', (table) => table.sweep(1000)],
    ['flush', (table) => table.flush(1)],
    ['take over', () => undefined],
  ]
  const table = new Connections(arena, PORTS)
  table.configure(2, SECONDS, 1000, 4)
  for (let i = 0; i < 60; i++) {
    const zone = i % 3
    const of = flowOf(i * 2)
    const entry = table.create(zone, zone, of, reverse(of), zone === 2 ? 1 : 2 + random(5), i >> 1)
    if (entry >= 0) table.words[entry * CONN_WORDS + CONN_EGRESS] = 1000 + i
    if (i % 7 === 3) table.remove(random(10))
  }
  arena.header[HEADER_NOW] = 50
  const words = arena.connections.slice()
  const index = arena.connectionIndex.slice()
  const wholeBefore = entriesOf(words)
  assert.ok(wholeBefore.length > 30)
  let kills = 0
  for (const [name, run] of operations)
    for (let writes = 0; ; writes++) {
      arena.connections.set(words)
      arena.connectionIndex.set(index)
      arena.header[HEADER_NOW] = 50
      const life = { left: name === 'take over' ? writes : Number.MAX_SAFE_INTEGER }
      let isDone = true
      try {
        const sections = {
          connections: mortal(arena.connections, life),
          connectionIndex: mortal(arena.connectionIndex, life),
        }
        const dying = new Connections({ ...arena, ...sections }, PORTS)
        dying.configure(2, SECONDS, 1000, 4)
        life.left = writes
        run(dying)
      } catch (error) {
        if (!(error instanceof Killed)) throw error
        isDone = false
        kills++
      }
      const text = `${name}, killed after ${writes} writes`
      const after = new Connections(arena, PORTS)
      const whole = entriesOf(arena.connections)
      assert.equal(arena.header[HEADER_CONNECTIONS_USED], whole.length, text)
      // its number says whose an entry is: 0 of the one that was being made
      const isKept = (entry: number): boolean =>
        whole.includes(entry) &&
        arena.connections[entry * CONN_WORDS + CONN_EGRESS] === words[entry * CONN_WORDS + CONN_EGRESS]
      const lost = wholeBefore.filter((entry) => !isKept(entry)).length
      const most = /sweep|flush/.test(name) ? wholeBefore.length : /remove|evict/.test(name) ? 1 : 0
      assert.ok(lost <= most, text)
      if (isDone) assert.equal(lost > 0, most > 0, text)
      usable(after, arena, whole.length, text)
      if (isDone) break
    }
  assert.ok(kills > 200, `${kills} kills`)
})

const entriesOf = (words: Int32Array): number[] =>
  Array.from({ length: words[CONN_END] }, (_, i) => i).filter(
    (entry) => (words[entry * CONN_WORDS + CONN_STATUS] & STATUS_LIVE) !== 0,
  )

/** A table in which every entry can be found, made, and expires. */
function usable(table: Connections, arena: Arena, used: number, text: string): void {
  const { header, connections: words } = arena
  for (const entry of entriesOf(words)) {
    let isFound = false
    for (let number = 0; number < 1000 && !isFound; number += 2)
      isFound = table.find(words[entry * CONN_WORDS + CONN_ZONES] & 0xfff, flowOf(number)) === entry << 1
    assert.ok(isFound, `${text}: entry ${entry}`)
  }
  for (let i = used; i < CAPACITY; i++) {
    const of = flow({ source0: 5000, sourcePort: i })
    assert.ok(table.create(7, 7, of, reverse(of), 9, 50) >= 0, text)
  }
  assert.equal(header[HEADER_CONNECTIONS_USED], CAPACITY, text)
  while (table.sweep(100000));
  assert.equal(header[HEADER_CONNECTIONS_USED], 0, text)
  for (let owner = 0; owner < PORTS; owner++) assert.equal(table.heldBy(owner), 0, text)
}

test('what cannot be right is not taken over, and caches of the router are not', () => {
  const arena = arenaOf()
  const table = new Connections(arena, PORTS)
  for (let i = 0; i < 6; i++) table.create(0, 0, flowOf(i * 4), reverse(flowOf(i * 4)), 1, 10)
  const { connections: words } = arena
  words[CONN_OWNER] = PORTS
  words[1 * CONN_WORDS + CONN_OWNER] = -1
  words[2 * CONN_WORDS + CONN_ZONES] = 0xfff
  words[3 * CONN_WORDS + CONN_STATUS] |= 3 << WORTH_SHIFT
  words[4 * CONN_WORDS + CONN_SEEN] = 99999
  words[4 * CONN_WORDS + CONN_NEIGHBOR] = words[4 * CONN_WORDS + CONN_GENERATION] = 5
  arena.header[HEADER_NOW] = 20
  const next = new Connections(arena, PORTS)
  assert.deepEqual(entriesOf(words), [4, 5])
  assert.equal(words[4 * CONN_WORDS + CONN_SEEN], 20)
  assert.equal(words[4 * CONN_WORDS + CONN_NEIGHBOR] | words[4 * CONN_WORDS + CONN_GENERATION], 0)
  assert.equal(next.find(0, flowOf(16)), 8)
  words[CONN_END] = 1 << 30
  assert.doesNotThrow(() => new Connections(arena, PORTS))
  words[CONN_END] = -1
  assert.doesNotThrow(() => new Connections(arena, PORTS))
})

test('a table that was never used is not written to', () => {
  const arena = arenaOf()
  const table = new Connections(arena, PORTS)
  table.sweep(10)
  table.flush(0)
  assert.ok(arena.connections.every((word) => word === 0) && arena.connectionIndex.every((word) => word === 0))
})

// ---- who gives way ----

class Crowd {
  readonly arena = arenaOf()
  readonly table = new Connections(this.arena, PORTS)
  private next = 0

  /** Makes some connections; returns how many were refused. */
  make(owner: number, zone: number, count: number, kind = TIMEOUT_TCP_SYN, worth = WORTH_UNPROVEN): number {
    let refused = 0
    for (let i = 0; i < count; i++) {
      const of = flow({ source0: owner, destination0: this.next++ })
      const entry = this.table.create(zone, zone, of, reverse(of), owner, 0)
      if (entry < 0) refused++
      else if (worth !== WORTH_UNPROVEN)
        this.table.see(entry, STATUS_LIVE | (kind << CLASS_SHIFT) | (worth << WORTH_SHIFT), 0)
    }
    return refused
  }

  establish(owner: number, zone: number, count: number): number {
    return this.make(owner, zone, count, TIMEOUT_TCP_ESTABLISHED, WORTH_KEPT)
  }

  limit(zone: number, connections: number, ports: number): void {
    this.table.configure(
      zone,
      TIMEOUTS.map(({ seconds }) => seconds),
      connections,
      ports,
    )
  }

  /** Connections of an owner of this worth. */
  count(owner: number, worth: number): number {
    const { words } = this.table
    return entriesOf(words).filter(
      (entry) =>
        words[entry * CONN_WORDS + CONN_OWNER] === owner &&
        ((words[entry * CONN_WORDS + CONN_STATUS] >> WORTH_SHIFT) & 3) === worth,
    ).length
  }
}

test("at a port's limit its own go: unproven, then closing, and established ones never", () => {
  const crowd = new Crowd()
  crowd.limit(0, 1000, 50)
  crowd.establish(2, 0, 10)
  crowd.make(2, 0, 5)
  crowd.establish(1, 0, 20)
  crowd.make(1, 0, 10, TIMEOUT_TCP_CLOSING, WORTH_ENDING)
  assert.equal(crowd.make(1, 0, 5000), 0)
  assert.deepEqual(
    [WORTH_UNPROVEN, WORTH_ENDING, WORTH_KEPT].map((worth) => crowd.count(1, worth)),
    [20, 10, 20],
  )
  assert.equal(crowd.establish(1, 0, 20), 0)
  assert.deepEqual(
    [WORTH_UNPROVEN, WORTH_ENDING, WORTH_KEPT].map((worth) => crowd.count(1, worth)),
    [0, 10, 40],
  )
  assert.equal(crowd.establish(1, 0, 10), 0)
  assert.deepEqual(
    [WORTH_UNPROVEN, WORTH_ENDING, WORTH_KEPT].map((worth) => crowd.count(1, worth)),
    [0, 0, 50],
  )
  assert.equal(crowd.make(1, 0, 7), 7)
  assert.equal(crowd.arena.header[HEADER_CONNECTIONS_REFUSED], 7)
  assert.deepEqual([crowd.count(2, WORTH_KEPT), crowd.count(2, WORTH_UNPROVEN)], [10, 5], 'its neighbour lost none')
})

test("at a zone's limit the flooding ports pay, not who has many established connections or is new", () => {
  const crowd = new Crowd()
  crowd.limit(0, 200, 120)
  crowd.establish(5, 0, 60)
  crowd.make(1, 0, 3000)
  crowd.make(2, 0, 3000)
  assert.equal(crowd.table.heldIn(0), 200)
  assert.equal(crowd.make(3, 0, 20), 0)
  assert.equal(crowd.make(1, 0, 3000), 0)
  assert.equal(crowd.count(3, WORTH_UNPROVEN), 20)
  assert.equal(crowd.count(5, WORTH_KEPT), 60)
  assert.equal(crowd.table.heldIn(0), 200)
  assert.equal(crowd.make(4, 1, 20), 0, 'another zone')
})

test('when the table is full the port with most of little worth pays, in whatever zone', () => {
  const crowd = new Crowd()
  crowd.establish(5, 0, 100)
  crowd.make(1, 0, 1000)
  assert.equal(crowd.arena.header[HEADER_CONNECTIONS_USED], CAPACITY)
  assert.equal(crowd.make(2, 1, 50), 0)
  assert.equal(crowd.establish(3, 2, 20), 0)
  assert.equal(crowd.make(1, 0, 1000), 0)
  assert.equal(crowd.count(5, WORTH_KEPT), 100)
  assert.equal(crowd.count(2, WORTH_UNPROVEN), 50)
  assert.equal(crowd.count(3, WORTH_KEPT), 20)
  assert.equal(crowd.arena.header[HEADER_CONNECTIONS_USED], CAPACITY)
  assert.equal(crowd.establish(4, 2, 136), 0)
  assert.equal(crowd.make(4, 2, 1), 1, 'none is left that may give way to who has most himself')
  assert.equal(crowd.count(5, WORTH_KEPT), 100)
})

test('few ports that hold the whole table share it with those that come later, zones first', () => {
  const crowd = new Crowd()
  for (const owner of [1, 2, 3, 4]) assert.equal(crowd.establish(owner, 0, 64), 0)
  assert.equal(crowd.establish(5, 1, 20), 0)
  assert.equal(crowd.count(5, WORTH_KEPT), 20)
  for (const owner of [1, 2, 3, 4]) assert.equal(crowd.count(owner, WORTH_KEPT), 59, `port ${owner}`)
  // who has most is known but for a 64th
  const isNear = (count: number, expected: number): void => assert.ok(Math.abs(count - expected) <= 3, `${count}`)
  assert.ok(crowd.establish(5, 1, 200) > 0)
  isNear(crowd.table.heldIn(1), CAPACITY / 2)
  assert.ok(crowd.establish(6, 1, 100) > 0)
  isNear(crowd.table.heldIn(1), CAPACITY / 2)
  isNear(crowd.count(5, WORTH_KEPT), CAPACITY / 4)
  isNear(crowd.count(6, WORTH_KEPT), CAPACITY / 4)
  assert.equal(crowd.make(6, 1, 1000), 1000, 'a flood gets no more by being one')
  const before = crowd.arena.header[HEADER_CONNECTIONS_USED] - crowd.count(7, WORTH_UNPROVEN)
  assert.equal(crowd.make(7, 1, 1000), 0)
  assert.equal(crowd.count(7, WORTH_UNPROVEN), 1, 'and costs one place')
  assert.equal(crowd.arena.header[HEADER_CONNECTIONS_USED] - 1, before - 1)
  assert.equal(crowd.arena.header[HEADER_CONNECTIONS_USED], CAPACITY)
})

test("a zone's limit is shared by its ports; the least lately seen goes first", () => {
  const crowd = new Crowd()
  crowd.limit(0, 60, 60)
  crowd.establish(1, 0, 60)
  const { words } = crowd.table
  const lively = entriesOf(words)[0]
  crowd.table.seeAgain(lively << 1, 100, 1000)
  assert.equal(crowd.establish(2, 0, 40), 10)
  assert.deepEqual([crowd.count(1, WORTH_KEPT), crowd.count(2, WORTH_KEPT)], [30, 30])
  assert.equal(words[lively * CONN_WORDS + CONN_OWNER], 1)
  assert.notEqual(words[lively * CONN_WORDS + CONN_STATUS] & STATUS_LIVE, 0)
  assert.equal(crowd.establish(3, 1, 100), 0, 'another zone has its own')
})

test('limits that are lowered are reached, and a limit of none refuses all', () => {
  const crowd = new Crowd()
  crowd.make(1, 0, 100)
  crowd.limit(0, 1000, 10)
  assert.equal(crowd.make(1, 0, 100), 0)
  assert.equal(crowd.table.heldBy(1), 10)
  crowd.make(2, 0, 10)
  crowd.limit(0, 6, 10)
  crowd.make(2, 0, 30)
  assert.equal(crowd.table.heldIn(0), 6)
  crowd.table.flush(0)
  crowd.limit(0, 0, 10)
  assert.equal(crowd.make(3, 0, 1), 1)
  crowd.limit(0, 1000, 0)
  assert.equal(crowd.make(3, 0, 1), 1)
})

test('a sweep does a bounded piece of work', () => {
  const arena = tracking({ connectionCapacity: 4096, smallSlots: 1 })
  const table = new Connections(arena, PORTS)
  for (let i = 0; i < 3000; i++) table.create(0, 0, flow({ source0: i }), reverse(flow({ source0: i })), i % 5, 0)
  let calls = 1
  while (table.sweep(1000)) calls++
  assert.equal(calls, 6)
  assert.equal(arena.header[HEADER_CONNECTIONS_USED], 0)
  assert.equal(arena.header[HEADER_CONNECTIONS_MADE], 3000)
})
