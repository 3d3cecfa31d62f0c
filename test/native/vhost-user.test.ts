/**
 * vhost-user in native code, from rings in shared memory to packets and back: a driver in this process (vhost-driver.ts)
 * and the addon's engine.
 */
import assert from 'node:assert/strict'
import { afterEach, suite, test } from 'node:test'
import { Engine, frameOf, Guest } from './vhost-driver.js'

const PORT = 3

suite('vhost-user rings', () => {
  const engine = new Engine()
  afterEach(() => assert.equal(engine.slotsInUse(), 0))

  test('frames of a guest come in, in order, and its descriptors go back', () => {
    const guest = new Guest(PORT).connect()
    const sent = Array.from({ length: 100 }, (_, i) => frameOf(i, 60 + i * 3))
    for (const frame of sent) guest.send(frame)
    assert.deepEqual(
      engine.receiveAll().map(({ bytes }) => bytes),
      sent,
    )
    assert.deepEqual(
      guest.transmitRings[0].takeUsed(),
      sent.map((_, head) => ({ head, length: 0 })),
    )
    guest.close()
  })

  test('frames to a guest fill its buffers', () => {
    const guest = new Guest(PORT).connect()
    guest.give(100, 2048)
    const sent = Array.from({ length: 100 }, (_, i) => frameOf(i, 60 + i * 3))
    engine.transmit(PORT, sent)
    assert.deepEqual(guest.takeFrames(), sent)
    guest.close()
  })
})
