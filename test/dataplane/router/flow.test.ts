/** Flows: every field goes where `copy`, `copyDestination` and `reverse` say, and none is left behind. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Flow } from '../../../src/dataplane/router/flow.js'

/** Each field of its own value. */
const some = (): Flow => {
  const fields = Object.keys(new Flow()).map((name, i) => [name, i + 100])
  return Object.assign(new Flow(), Object.fromEntries(fields))
}

test('a copy is the same and stays so when the other goes on', () => {
  const from = some()
  const to = new Flow()
  to.copy(from)
  assert.deepEqual(to, from)
  from.source0 = 7
  assert.deepEqual(to, some())
})

test('a copied destination leaves the rest', () => {
  const to = new Flow()
  to.copyDestination(some())
  const { destination0, destination1, destination2, destination3, destinationPort } = some()
  const wanted = { destination0, destination1, destination2, destination3, destinationPort }
  assert.deepEqual(to, Object.assign(new Flow(), wanted))
})

test('the reverse exchanges the ends; twice, it is the first again', () => {
  const from = some()
  const back = new Flow()
  back.reverse(from)
  assert.deepEqual([back.family, back.protocol], [from.family, from.protocol])
  for (const word of ['0', '1', '2', '3', 'Port'] as const) {
    assert.equal(back[`source${word}`], from[`destination${word}`], word)
    assert.equal(back[`destination${word}`], from[`source${word}`], word)
  }
  const again = new Flow()
  again.reverse(back)
  assert.deepEqual(again, from)
})
