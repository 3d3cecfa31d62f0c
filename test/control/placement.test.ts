/** Which shard carries which network: pins, links by routes, loads; and what of it is refused. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { Failure } from '../../src/control/failure.js'
import type { PortDefinition } from '../../src/control/model.js'
import {
  type Placeable,
  type Placed,
  chooseShard,
  linkedWith,
  parseShards,
  refuseMissingShard,
  refuseTorn,
} from '../../src/control/placement.js'

interface Options {
  shard?: number | null
  via?: string[]
  ports?: number
}

const network = (name: string, { shard = null, via = [], ports = 0 }: Options = {}): Placeable => ({
  name,
  shard,
  routes: via.map((one, i) => ({ destination: `10.${i}.0.0/16`, via: one })),
  ports: new Array<PortDefinition>(ports),
})
const placed = (shard: number, name: string, options: Options = {}): Placed => ({
  definition: network(name, options),
  shard,
})
const names = (group: Placeable[]): string[] => group.map(({ name }) => name).toSorted()
const refused = (sentence: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Failure && error.code === 'ERR_INVALID', String(error))
  assert.match(error.message, sentence)
  return true
}

test('the number of shards is 1 to as many as there are cores', () => {
  assert.deepEqual(
    ['1', '2', '8'].map((text) => parseShards(text, 8)),
    [1, 2, 8],
  )
  for (const text of ['0', '9', '-1', '', 'two', '1.5', '1e0', ' 1', '99999999999999999999'])
    assert.throws(() => parseShards(text, 8), refused(/^shards: .* is not 1\.\.8 \(the machine has 8 cores\)$/))
  assert.throws(() => parseShards('2', 1), refused(/^shards: 2 is not 1\.\.1 \(the machine has one core\)$/))
})

test('the least used shard: ports, then networks, then the lowest number', () => {
  assert.equal(chooseShard(network('n'), [], 3), 0)
  assert.equal(chooseShard(network('n'), [placed(0, 'a', { ports: 1 })], 3), 1)
  assert.equal(chooseShard(network('n'), [placed(0, 'a', { ports: 2 }), placed(1, 'b', { ports: 1 })], 2), 1)
  assert.equal(chooseShard(network('n'), [placed(0, 'a'), placed(1, 'b'), placed(1, 'c')], 2), 0)
  assert.equal(chooseShard(network('n'), [placed(0, 'a', { ports: 9 })], 1), 0)
})

test('a pin decides; one to a shard that does not run is as none', () => {
  const running = [placed(1, 'a', { ports: 5 })]
  assert.equal(chooseShard(network('n', { shard: 1 }), running, 2), 1)
  assert.equal(chooseShard(network('n', { shard: 7 }), running, 2), 0)
})

test('a network that runs stays, whatever the loads are', () => {
  const running = [placed(1, 'n', { ports: 3 }), placed(1, 'a', { ports: 50 }), placed(0, 'b')]
  assert.equal(chooseShard(network('n', { ports: 4 }), running, 2), 1)
})

test('linked networks are together: with a pinned one, else where most ports are', () => {
  const via = network('n', { via: ['a'] })
  assert.equal(chooseShard(via, [placed(1, 'a'), placed(0, 'b')], 2), 1)
  assert.equal(chooseShard(network('n'), [placed(1, 'a', { via: ['n'] })], 2), 1, 'a route to it links too')
  const far = [placed(0, 'a', { via: ['b'] }), placed(1, 'b', { ports: 3, via: ['c'] }), placed(0, 'c', { ports: 1 })]
  assert.equal(chooseShard(via, far, 2), 1)
  assert.equal(chooseShard(via, [placed(0, 'a', { shard: 1, ports: 0 }), placed(0, 'b', { ports: 9 })], 2), 1)
})

test('an address is no link, though a network may have such a name', () => {
  assert.deepEqual(names(linkedWith(network('n', { via: ['10.0.0.1'] }), [network('10.0.0.1')])), ['n'])
})

test('links: symmetric, and all that are reached', () => {
  const vertex = fc.integer({ min: 0, max: 7 })
  fc.assert(
    fc.property(fc.array(fc.tuple(vertex, vertex), { maxLength: 12 }), (edges) => {
      const all = Array.from({ length: 8 }, (_, i) =>
        network(`n${i}`, { via: edges.filter(([from]) => from === i).map(([, to]) => `n${to}`) }),
      )
      const color = all.map((_, i) => i)
      for (let round = 0; round < 8; round++)
        for (const [a, b] of edges) color[a] = color[b] = Math.min(color[a], color[b])
      for (const [i, one] of all.entries()) {
        const expected = all.filter((_, j) => color[j] === color[i])
        assert.deepEqual(names(linkedWith(one, all)), names(expected))
      }
    }),
  )
})

test('wherever networks run, a choice leaves linked ones on one shard, and on the pin', () => {
  const options = fc.record({ shard: fc.option(fc.nat(3)), ports: fc.nat(3), at: fc.nat(2), to: fc.nat(5) })
  fc.assert(
    fc.property(fc.array(options, { minLength: 1, maxLength: 6 }), (list) => {
      const running = list.map(({ ports, at, to }, i) => placed(at, `n${i}`, { ports, via: to < i ? [`n${to}`] : [] }))
      const [{ definition }] = running
      const pinned: Placeable = { ...definition, shard: list[0].shard }
      const to = chooseShard(pinned, running, 3)
      assert.ok(to >= 0 && to < 3)
      if (pinned.shard !== null && pinned.shard < 3) assert.equal(to, pinned.shard)
      const mates = linkedWith(
        pinned,
        running.map((one) => one.definition),
      )
      for (const one of running) if (names(mates).includes(one.definition.name)) one.shard = to
      for (const mate of mates) assert.equal(chooseShard({ ...mate, shard: null }, running, 3), to, 'and it stays so')
    }),
  )
})

test('pins that cannot be are refused', () => {
  refuseMissingShard(network('n', { shard: 1 }), 2)
  refuseMissingShard(network('n'), 1)
  assert.throws(
    () => refuseMissingShard(network('n', { shard: 2 }), 2),
    refused(/^shard: 2 is not 0\.\.1: 2 shards run/),
  )
  assert.throws(
    () => refuseMissingShard(network('n', { shard: 1 }), 1),
    refused(/^shard: 1 is not 0\.\.0: one shard runs/),
  )
  refuseTorn(network('n', { shard: 1, via: ['a'] }), [network('a')])
  refuseTorn(network('n', { shard: 1 }), [network('a', { shard: 0 })])
  const torn = refused(/^shard: networks (n and b|b and n) are linked by routes and run on one shard, not on/)
  const others = [network('a', { via: ['b'] }), network('b', { shard: 0 })]
  assert.throws(() => refuseTorn(network('n', { shard: 1, via: ['a'] }), others), torn)
})
