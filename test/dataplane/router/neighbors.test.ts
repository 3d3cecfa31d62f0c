/**
 * The neighbor table alone: its states by the clock, the queues of packets that wait, limits and who gives way,
 * bindings, takeover by a new process, and random operations against a plain model. Every slot must come back to the
 * pool.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Pool } from '../../../src/dataplane/burst.js'
import { DROP_NAMES } from '../../../src/dataplane/drops.js'
import {
  type Arena,
  DROP_SHIFT,
  HEADER_NEIGHBORS_EVICTED,
  HEADER_NEIGHBORS_FAILED,
  HEADER_NEIGHBORS_USED,
  INGRESS,
  NEIGHBOR_SHIFT,
  RECORD_SHIFT,
} from '../../../src/dataplane/layout.js'
import {
  NEIGHBOR_MAC_HIGH,
  NEIGHBOR_MAC_LOW,
  NEIGHBOR_STATE,
  Neighbors,
  PORT_LIMIT,
  STATE_FAILED,
  STATE_INCOMPLETE,
  STATE_PROBE,
  STATE_REACHABLE,
  STATE_STALE,
} from '../../../src/dataplane/router/neighbors.js'
import { HELD_NEIGHBOR } from '../../../src/dataplane/router/waiting.js'
import { GEOMETRY, newArena, randomFrom } from '../rig.js'

const PORTS = 64
const ROUTER = 9
const NET = 0x0a000100

class Table {
  readonly arena: Arena
  readonly pool: Pool
  table: Neighbors
  now = 100
  /** packets told to be unreachable, by their number */
  readonly lost: number[] = []
  readonly start: number

  constructor(neighborCapacity = 256) {
    this.arena = newArena({ ...GEOMETRY, neighborCapacity })
    this.pool = new Pool(this.arena)
    this.pool.reset()
    this.start = this.pool.free()
    this.table = new Neighbors(this.arena, this.pool, PORTS)
  }

  packet(port: number): number {
    const packet = this.pool.take(60)
    assert.ok(packet >= 0, 'the pool is empty')
    this.pool.records[(packet << RECORD_SHIFT) + INGRESS] = port
    return packet
  }

  find(host: number, segment = 0): number {
    return this.table.find(segment, 4, NET + host, 0, 0, 0)
  }

  look(host: number, segment = 0, port = ROUTER): number {
    return this.table.look(segment, 4, NET + host, 0, 0, 0, port, this.now)
  }

  learn(host: number, port: number, mac = host, segment = 0): number {
    return this.table.learn(segment, 4, NET + host, 0, 0, 0, mac, 0x0202, port, this.now)
  }

  bind(host: number, port: number, mac = 0): boolean {
    return this.table.bind(0, 4, NET + host, 0, 0, 0, mac, mac === 0 ? 0 : 0x0202, port, this.now)
  }

  hold(entry: number, port = 1): number {
    const packet = this.packet(port)
    this.table.hold(entry, packet, this.now)
    return packet
  }

  /** The probes that the router would send now. */
  probes(): number[] {
    const { table } = this
    const list = [...table.probes.subarray(0, table.probeCount)]
    table.probeCount = 0
    return list
  }

  /** Frees what an answer has set free, and returns it. */
  released(): number[] {
    const { table } = this
    const list = [...table.released.subarray(0, table.releasedCount)]
    table.releasedCount = 0
    for (const packet of list) this.pool.release(packet)
    return list
  }

  sweep(): void {
    this.now++
    this.table.sweep(this.now, {
      unreachable: (packet) => {
        this.lost.push(packet)
        this.pool.release(packet)
      },
    })
  }

  state(entry: number): number {
    return this.table.entries[entry + NEIGHBOR_STATE]
  }

  drops(reason: string): number {
    let sum = 0
    this.arena.drops.forEach((count, i) => {
      if (count !== 0 && DROP_NAMES[i & ((1 << DROP_SHIFT) - 1)] === reason) sum += count
    })
    return sum
  }

  check(): void {
    assert.equal(this.pool.free(), this.start, 'slots leaked or freed twice')
    const slots = new Set([...this.arena.freeSmall, ...this.arena.freeLarge])
    assert.equal(slots.size, this.start)
  }

  get used(): number {
    return this.arena.header[HEADER_NEIGHBORS_USED]
  }
}

/** A test whose table is flushed at the end, and whose pool must then be whole. */
function neighbors(name: string, body: (t: Table) => void, capacity = 256): void {
  test(name, () => {
    const t = new Table(capacity)
    body(t)
    t.released()
    for (let segment = 0; segment < 8; segment++) t.table.flush(segment, -1)
    assert.equal(t.used, 0)
    t.check()
  })
}

neighbors('an address that is looked for is asked for three times, a second apart, and then fails', (t) => {
  const entry = t.look(1)
  assert.equal(t.state(entry), STATE_INCOMPLETE)
  assert.equal(t.table.isUsable(entry), false)
  assert.equal(t.table.hasFailed(entry, t.now), false)
  assert.deepEqual(t.probes(), [entry])
  const held = t.hold(entry)
  for (let i = 0; i < 2; i++) {
    t.sweep()
    assert.deepEqual(t.probes(), [entry])
    assert.deepEqual(t.lost, [])
  }
  t.sweep()
  assert.deepEqual(t.probes(), [])
  assert.deepEqual(t.lost, [held])
  assert.equal(t.state(entry), STATE_FAILED)
  assert.equal(t.table.hasFailed(entry, t.now), true)
  assert.equal(t.arena.header[HEADER_NEIGHBORS_FAILED], 1)
})

neighbors('a failed address is refused for three seconds, then asked for again', (t) => {
  const entry = t.look(1)
  for (let i = 0; i < 3; i++) t.sweep()
  t.probes()
  assert.equal(t.table.hasFailed(entry, t.now + 2), true)
  assert.equal(t.table.hasFailed(entry, t.now + 3), false)
  t.now += 3
  const held = t.hold(entry)
  assert.equal(t.state(entry), STATE_INCOMPLETE)
  assert.deepEqual(t.probes(), [entry])
  t.learn(1, 4)
  assert.deepEqual(t.released(), [held])
})

neighbors('a failed address that nobody wants is forgotten', (t) => {
  t.look(1)
  for (let i = 0; i < 3 + 4; i++) t.sweep()
  assert.equal(t.find(1), -1)
  assert.equal(t.used, 0)
})

neighbors('an answer sets free what waits, in its order', (t) => {
  const entry = t.look(1)
  const held = [t.hold(entry), t.hold(entry), t.hold(entry)]
  assert.equal(t.learn(1, 4, 77), entry)
  assert.deepEqual(t.released(), held)
  assert.equal(t.state(entry), STATE_REACHABLE)
  assert.equal(t.table.isUsable(entry), true)
  assert.equal(t.table.port(entry), 4)
  assert.equal(t.table.entries[entry + NEIGHBOR_MAC_LOW], 77)
  assert.equal(t.table.entries[entry + NEIGHBOR_MAC_HIGH], 0x0202)
  assert.deepEqual(t.probes(), [entry])
  t.sweep()
  assert.deepEqual(t.probes(), [], 'an answered entry is asked for no more')
})

neighbors('a fourth packet takes the place of the first', (t) => {
  const entry = t.look(1)
  const held = [t.hold(entry), t.hold(entry), t.hold(entry), t.hold(entry), t.hold(entry)]
  assert.equal(t.drops('neighbor-queue'), 2)
  t.learn(1, 4)
  assert.deepEqual(t.released(), held.slice(2))
})

neighbors('an entry in use that was not heard of for 30 seconds is probed, and goes when it does not answer', (t) => {
  const entry = t.learn(1, 4)
  t.now += 29
  t.table.use(entry, t.now)
  assert.equal(t.state(entry), STATE_REACHABLE)
  t.now += 1
  t.table.use(entry, t.now)
  assert.equal(t.state(entry), STATE_PROBE)
  assert.equal(t.table.isUsable(entry), true, 'it is used while it is probed')
  for (let i = 0; i < 3; i++) {
    t.sweep()
    assert.deepEqual(t.probes(), [entry])
  }
  const before = t.table.generation
  t.sweep()
  assert.equal(t.find(1), -1)
  assert.notEqual(t.table.generation, before, 'who remembered it must ask anew')
})

neighbors('a probe that is answered makes it reachable again', (t) => {
  const entry = t.learn(1, 4)
  t.now += 40
  t.table.use(entry, t.now)
  t.sweep()
  assert.deepEqual(t.probes(), [entry])
  assert.equal(t.learn(1, 4), entry)
  assert.equal(t.state(entry), STATE_REACHABLE)
  t.sweep()
  assert.deepEqual(t.probes(), [])
})

neighbors('an unused entry becomes stale after 30 seconds and is forgotten after 15 minutes', (t) => {
  const entry = t.learn(1, 4)
  t.now += 29
  t.sweep()
  assert.equal(t.state(entry), STATE_STALE)
  t.now = 100 + 899
  t.sweep()
  assert.equal(t.find(1), entry)
  t.sweep()
  assert.equal(t.find(1), -1)
})

neighbors('segments, families and all words of an address tell entries apart', (t) => {
  const { table } = t
  const made = new Set<number>()
  for (const segment of [0, 1])
    for (const word of [0, 1, 2, 3]) {
      const ip = [0x20010db8, 0, 0, 1]
      ip[word] ^= 0x100
      made.add(table.learn(segment, 6, ip[0], ip[1], ip[2], ip[3], 5, 2, 1, t.now))
    }
  made.add(table.learn(0, 4, 0x20010db8, 0, 0, 0, 5, 2, 1, t.now))
  assert.equal(made.size, 9)
  const entry = table.find(1, 6, 0x20010db8, 0, 0, 1 ^ 0x100)
  assert.equal(table.segment(entry), 1)
  assert.equal(table.family(entry), 6)
  assert.equal(table.find(0, 6, 0x20010db8, 0, 0, 0), -1)
})

neighbors('a port that claims many addresses loses its own oldest', (t) => {
  t.learn(1, 1)
  for (let i = 0; i < PORT_LIMIT + 10; i++) {
    t.learn(20 + i, 2)
    t.now++
  }
  assert.notEqual(t.find(1), -1)
  for (let i = 0; i < PORT_LIMIT + 10; i++) assert.equal(t.find(20 + i) >= 0, i >= 10, `${i}`)
  assert.equal(t.used, PORT_LIMIT + 1)
  assert.equal(t.arena.header[HEADER_NEIGHBORS_EVICTED], 10)
})

neighbors('a port that answers for many addresses keeps no more than it may', (t) => {
  for (let i = 0; i < PORT_LIMIT + 20; i++) {
    t.look(i)
    t.probes()
    t.learn(i, 2)
  }
  assert.equal(t.used, PORT_LIMIT)
  assert.equal(t.find(19), -1)
  assert.notEqual(t.find(20), -1)
})

neighbors('a port may be allowed more, or fewer', (t) => {
  t.table.setLimit(3, 100)
  t.table.setLimit(2, 1)
  for (let i = 0; i < 100; i++) t.learn(i, 3)
  for (let i = 0; i < 5; i++) t.learn(200 + i, 2)
  assert.equal(t.used, 101)
  assert.notEqual(t.find(204), -1)
})

neighbors('what was heard of last gives way last', (t) => {
  for (let i = 0; i < PORT_LIMIT; i++) t.learn(i, 2)
  t.now++
  t.learn(0, 2)
  t.learn(PORT_LIMIT, 2)
  assert.notEqual(t.find(0), -1)
  assert.equal(t.find(1), -1)
})

neighbors('entries without an answer give way among themselves, and what waits for them is dropped', (t) => {
  t.learn(200, 1)
  for (let i = 0; i < 140; i++) {
    const entry = t.look(i)
    assert.ok(entry >= 0)
    if (i < 4) t.hold(entry)
    t.probes()
  }
  assert.equal(t.used, 128 + 1)
  assert.equal(t.find(0), -1)
  assert.notEqual(t.find(139), -1)
  assert.notEqual(t.find(200), -1)
  assert.equal(t.drops('no-neighbor'), 4)
})

neighbors('a scan of one segment keeps no other from asking', (t) => {
  for (let second = 0; second < 5; second++) {
    for (let i = 0; i < 6000; i++) {
      t.look(second * 6000 + i)
      t.probes()
    }
    const entry = t.look(7, 3, ROUTER + 1)
    assert.ok(entry >= 0, `second ${second}`)
    assert.deepEqual(t.probes(), [entry])
    t.learn(7, 5, 7, 3)
    t.table.flush(3, -1)
    t.sweep()
    assert.ok(t.probes().length <= 128)
  }
  for (let i = 0; i < 10; i++) {
    t.sweep()
    t.probes()
  }
  assert.equal(t.table.sweep(t.now, { unreachable: () => {} }), undefined)
})

neighbors('packets of one port that wait for silent addresses take no place from others', (t) => {
  for (let i = 0; i < 128; i++) {
    const entry = t.look(i)
    t.probes()
    t.hold(entry, 1)
    t.hold(entry, 1)
  }
  assert.equal(t.pool.free(), t.start - HELD_NEIGHBOR)
  const before = t.drops('neighbor-queue')
  const entry = t.look(1, 2, ROUTER + 1)
  const held = [t.hold(entry, 2), t.hold(entry, 2)]
  assert.equal(t.pool.free(), t.start - HELD_NEIGHBOR)
  assert.equal(t.drops('neighbor-queue'), before + 2)
  t.learn(1, 6, 1, 2)
  assert.deepEqual(t.released(), held)
})

neighbors('when the table is full, the port that has most makes room', (t) => {
  t.table.setLimit(20, 100)
  for (let port = 0; port < 4; port++) for (let i = 0; i < 63; i++) t.learn(port * 64 + i, 20 + port)
  for (let i = 0; i < 4; i++) t.learn(256 + i, 20)
  assert.equal(t.used, 256)
  t.learn(500, 30)
  assert.equal(t.find(0), -1)
  assert.notEqual(t.find(500), -1)
  assert.notEqual(t.look(501), -1)
  assert.equal(t.find(1), -1)
  assert.equal(t.bind(502, 31, 5), true)
  assert.equal(t.find(2), -1)
  assert.equal(t.used, 256)
  t.probes()
})

neighbors('a table full of bound addresses refuses all others', (t) => {
  for (let i = 0; i < 256; i++) assert.equal(t.bind(i, 3, 5), true)
  assert.equal(t.bind(256, 3, 5), false)
  assert.equal(t.learn(257, 4), -1)
  assert.equal(t.look(258), -1)
  assert.deepEqual(t.probes(), [])
  for (let i = 0; i < 256; i++) assert.equal(t.learn(i, 4, 5), -1)
})

neighbors('a bound address is not to be had by another port or MAC', (t) => {
  assert.equal(t.bind(1, 3, 33), true)
  const entry = t.find(1)
  assert.equal(t.table.isBound(entry), true)
  assert.equal(t.table.isUsable(entry), true, 'its MAC is known by order')
  assert.equal(t.table.bound4[3], 1)
  assert.equal(t.learn(1, 4, 33), -1)
  assert.equal(t.learn(1, 3, 44), -1)
  assert.equal(t.learn(1, 3, 33), entry)
  assert.equal(t.state(entry), STATE_REACHABLE)
  assert.equal(t.table.unbind(0, 4, NET + 1, 0, 0, 0), true)
  assert.equal(t.find(1), -1)
  assert.equal(t.table.bound4[3], 0)
  assert.equal(t.table.unbind(0, 4, NET + 1, 0, 0, 0), false)
})

neighbors('an address bound without a MAC is any host of the port, and is asked for first', (t) => {
  t.bind(1, 3)
  const entry = t.find(1)
  assert.equal(t.table.isUsable(entry), false)
  const held = t.hold(entry)
  assert.deepEqual(t.probes(), [entry])
  assert.equal(t.learn(1, 4, 9), -1)
  assert.equal(t.learn(1, 3, 9), entry)
  assert.deepEqual(t.released(), [held])
  assert.equal(t.table.entries[entry + NEIGHBOR_MAC_LOW], 9)
  assert.equal(t.learn(1, 3, 10), entry)
})

neighbors('a bound address that does not answer fails and stays bound', (t) => {
  t.bind(1, 3, 33)
  const entry = t.find(1)
  t.table.use(entry, t.now)
  for (let i = 0; i < 4; i++) {
    t.sweep()
    t.probes()
  }
  assert.equal(t.state(entry), STATE_FAILED)
  assert.equal(t.table.isUsable(entry), false)
  t.now += 5
  t.sweep()
  assert.equal(t.find(1), entry)
  t.hold(entry)
  assert.deepEqual(t.probes(), [entry])
  t.learn(1, 3, 33)
  assert.equal(t.table.isUsable(entry), true)
})

neighbors('to bind again moves the binding, and drops what waited', (t) => {
  t.hold(t.look(1))
  t.bind(1, 3, 33)
  assert.equal(t.drops('no-neighbor'), 1)
  t.bind(1, 5, 55)
  assert.equal(t.table.bound4[3], 0)
  assert.equal(t.table.bound4[5], 1)
  assert.equal(t.table.port(t.find(1)), 5)
  t.table.bind(0, 6, 1, 2, 3, 4, 0, 0, 5, t.now)
  assert.equal(t.table.bound4[5], 1, 'IPv6 is not counted')
})

neighbors('a port that leaves loses its entries, bound ones too', (t) => {
  t.bind(1, 3, 33)
  t.learn(2, 3)
  t.learn(3, 4)
  t.learn(2, 3, 2, 1)
  const before = t.table.generation
  assert.equal(t.table.flush(0, 3), 2)
  assert.notEqual(t.table.generation, before)
  assert.equal(t.table.bound4[3], 0)
  assert.notEqual(t.find(3), -1)
  assert.notEqual(t.find(2, 1), -1)
})

neighbors('a new process takes over what is whole', (t) => {
  t.bind(1, 3, 33)
  t.bind(2, 3)
  t.learn(3, 4, 44)
  const waiting = t.look(5)
  const held = t.hold(waiting)
  const asked = t.hold(t.find(2))
  t.pool.release(held)
  t.pool.release(asked)
  t.table = new Neighbors(t.arena, t.pool, PORTS)
  assert.equal(t.used, 3)
  assert.equal(t.find(5), -1)
  assert.equal(t.table.bound4[3], 2)
  const learned = t.find(3)
  assert.equal(t.table.isUsable(learned), true)
  assert.equal(t.table.entries[learned + NEIGHBOR_MAC_LOW], 44)
  assert.equal(t.learn(1, 4, 33), -1)
  const bound = t.find(2)
  const packet = t.hold(bound)
  assert.deepEqual(t.probes(), [bound], 'who has no MAC is asked')
  t.learn(2, 3, 22)
  assert.deepEqual(t.released(), [packet])
  t.table.use(learned, t.now)
  for (let i = 0; i < PORT_LIMIT; i++) t.learn(100 + i, 4)
  assert.equal(t.find(3), -1, 'the lists by age are there again')
})

neighbors('a new process with fewer ports forgets those that are gone', (t) => {
  t.learn(1, 3)
  t.learn(2, 40)
  t.table = new Neighbors(t.arena, t.pool, 16)
  assert.notEqual(t.find(1), -1)
  assert.equal(t.find(2), -1)
  t.table = new Neighbors(t.arena, t.pool, PORTS)
})

for (const seed of [1, 2, 3, 4])
  neighbors(`random operations keep to a plain model, seed ${seed}`, (t) => {
    const random = randomFrom(seed)
    const bound = new Map<number, { port: number; mac: number }>()
    const waiting = new Set<number>()
    const noteFree = (): void => {
      for (const packet of t.released()) assert.ok(waiting.delete(packet), 'released what did not wait')
    }
    for (let step = 0; step < 6000; step++) {
      const host = random(90)
      const port = 1 + random(5)
      const entry = t.find(host)
      switch (random(9)) {
        case 0:
        case 1: {
          const mac = 1 + random(3)
          const to = bound.get(host)
          const may = to === undefined || (to.port === port && (to.mac === 0 || to.mac === mac))
          const learned = t.learn(host, port, mac)
          assert.equal(learned >= 0, may, `learn ${host}`)
          if (may) {
            assert.equal(t.find(host), learned)
            assert.equal(t.table.port(learned), port)
            assert.equal(t.table.entries[learned + NEIGHBOR_MAC_LOW], mac)
          }
          noteFree()
          break
        }
        case 2:
          if (entry < 0) assert.ok(t.look(host) >= 0)
          break
        case 3:
        case 4:
          if (entry >= 0 && t.table.isUsable(entry)) t.table.use(entry, t.now)
          else if (entry >= 0 && !t.table.hasFailed(entry, t.now)) waiting.add(t.hold(entry, 1 + random(6)))
          break
        case 5: {
          const mac = random(2) * 7
          if (random(3) === 0) {
            assert.equal(t.bind(host, port, mac), true)
            bound.set(host, { port, mac })
          } else assert.equal(t.table.unbind(0, 4, NET + host, 0, 0, 0), bound.delete(host))
          break
        }
        case 6:
          if (random(40) === 0) {
            t.table.flush(0, port)
            for (const [one, to] of bound) if (to.port === port) bound.delete(one)
          }
          break
        case 7:
          if (random(4) === 0) t.sweep()
          break
        default:
          t.probes()
      }
      for (const [one, to] of bound) {
        assert.equal(t.table.port(t.find(one)), to.port, `${one} is bound`)
      }
    }
    const counts = new Int32Array(PORTS)
    for (const { port } of bound.values()) counts[port]++
    assert.deepEqual(t.table.bound4.slice(0, PORTS), counts)
    let used = 0
    for (let i = 0; i < t.table.entries.length; i += 1 << NEIGHBOR_SHIFT) if (t.table.entries[i] !== 0) used++
    assert.equal(t.used, used)
    bound.clear()
    t.table.flush(0, -1)
    for (let i = 0; i < 1200; i++) t.sweep()
    assert.equal(t.pool.free(), t.start)
  })
