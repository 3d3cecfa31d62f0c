/**
 * The vhost-user port's control side against a scripted front-end that keeps the rules: the states of rings in every
 * order of messages, answers at the right moment, a shard that ends under a message, connections that come and go.
 */
import assert from 'node:assert/strict'
import { existsSync, readSync } from 'node:fs'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6 } from '../../src/dataplane/port-table.js'
import { ShardEnded } from '../../src/ports/device.js'
import { RING_ENABLED, RING_LOGGED, RING_POLLED, native } from '../../src/ports/native.js'
import * as wire from '../../src/ports/vhost-user-message.js'
import { FEATURES, FrontEnd, GUEST, MEMORY_BYTES, type TestRegion, USER } from '../rig/vhost-front-end.js'
import { addressesPayload, message, oneRegionPayload, ringPlace, tablePayload } from '../rig/vhost-front-end.js'
import { begin, connect, device, end, finish, greeted, make, path, peers } from './vhost-user-fixture.js'
import { socket, started, state, until, whole, word } from './vhost-user-fixture.js'

before(begin)
after(end)

describe('a front-end that keeps the rules', () => {
  beforeEach(() => make())
  afterEach(finish)

  it('is offered a set that depends on the definition alone', async () => {
    const peer = connect()
    const all = await peer.askWord(wire.GET_FEATURES)
    assert.equal(all, wire.offeredFeatures(true))
    for (const bit of [wire.VERSION_1, wire.MRG_RXBUF, wire.EVENT_IDX, wire.GUEST_TSO4, wire.LOG_ALL, wire.MQ])
      assert.ok((all & bit) !== 0n)
    assert.equal(all & (1n << 24n), 0n, 'no NOTIFY_ON_EMPTY')
    assert.equal(await peer.askWord(wire.GET_PROTOCOL_FEATURES), wire.OFFERED_PROTOCOL_FEATURES)
    assert.equal(await peer.askWord(wire.GET_QUEUE_NUM), 16n)
    assert.equal(await peer.askWord(wire.GET_MAX_MEM_SLOTS), 32n)
    assert.equal(wire.offeredFeatures(true) & ~wire.offeredFeatures(false) & wire.VERSION_1, 0n)
    const kept = wire.offeredFeatures(false)
    for (const bit of [wire.CSUM, wire.GUEST_CSUM, wire.HOST_TSO4, wire.GUEST_TSO6, wire.HOST_USO, wire.GUEST_ECN])
      assert.equal(kept & bit, 0n)
  })

  it('starts two rings as QEMU does, and the port is up', async () => {
    assert.deepEqual(socket.reports, ['down: nobody is connected'])
    const peer = await greeted()
    await until('connected', () => socket.state === "down: the guest's driver has not started")
    await peer.start()
    assert.equal(socket.state, 'up')
    const [memory] = socket.changes
    assert.deepEqual(memory, {
      set: 'memory',
      regions: [{ guest: String(GUEST), bytes: String(MEMORY_BYTES), user: String(USER), offset: '0' }],
    })
    const place = ringPlace(1)
    assert.deepEqual(socket.rings(1)[0], {
      set: 'ring',
      ring: 1,
      settings: {
        features: String(FEATURES),
        descriptors: String(place.descriptors),
        available: String(place.available),
        used: String(place.used),
        log: String(GUEST + place.used - USER),
        size: 256,
        position: 0,
        flags: 0,
      },
      kick: true,
      call: true,
    })
    assert.deepEqual(socket.ring(1)?.settings.flags, RING_ENABLED)
    assert.equal(socket.ring(1)?.settings.position, -1, 'it went on where it was')
  })

  it('has its ring run whatever the order of the pieces', async () => {
    const pieces = ['features', 'memory', 'size', 'addresses', 'call', 'kick', 'enable'] as const
    const say = async (peer: FrontEnd, piece: (typeof pieces)[number]): Promise<void> => {
      if (piece === 'features') await peer.done(wire.SET_FEATURES, word(FEATURES))
      if (piece === 'memory') await peer.done(wire.SET_MEM_TABLE, tablePayload([whole]), [peer.memory()])
      if (piece === 'size') await peer.done(wire.SET_VRING_NUM, state(3, 1024))
      if (piece === 'addresses') await peer.done(wire.SET_VRING_ADDR, addressesPayload(3))
      if (piece === 'call') await peer.done(wire.SET_VRING_CALL, word(3n), [peer.event()])
      if (piece === 'kick') await peer.done(wire.SET_VRING_KICK, word(3n), [peer.event()])
      if (piece === 'enable') await peer.done(wire.SET_VRING_ENABLE, state(3, 1))
    }
    let random = 12345
    for (let round = 0; round < 60; round++) {
      const peer = await greeted()
      const order = pieces
        .map((piece) => {
          random = (Math.imul(random, 1103515245) + 12345) & 0x7fffffff
          return { piece, key: random >>> 8 }
        })
        .toSorted((a, b) => a.key - b.key)
      for (const { piece } of order) await say(peer, piece)
      const last = socket.ring(3)
      assert.ok(last, order.map(({ piece }) => piece).join())
      assert.deepEqual(
        [last.settings.flags, last.settings.size, last.kick, last.call],
        [RING_ENABLED, 1024, true, true],
      )
      const first = socket.rings(3)[0]
      assert.equal(first.settings.position, 0)
      assert.equal(socket.state, 'up')
      peer.close()
      peers.pop()
      socket.changes.length = 0
      await until('gone', () => socket.state === 'down: nobody is connected')
    }
  })

  it('has rings enabled at once without protocol features', async () => {
    const peer = connect()
    peer.send(wire.SET_FEATURES, word(wire.VERSION_1))
    peer.send(wire.SET_MEM_TABLE, tablePayload([whole]), [peer.memory()])
    peer.send(wire.SET_VRING_NUM, state(0, 2))
    peer.send(wire.SET_VRING_BASE, state(0, 65535))
    peer.send(wire.SET_VRING_ADDR, addressesPayload(0))
    peer.send(wire.SET_VRING_KICK, word(0n), [peer.event()])
    await until('up', () => socket.state === 'up')
    const { settings, call } = socket.ring(0)!
    assert.deepEqual([settings.flags, settings.position, call], [RING_ENABLED, 65535, false])
  })

  it('may be without events: such a ring is polled', async () => {
    const peer = await started()
    await peer.done(wire.SET_VRING_KICK, word(0x100n | 0n))
    await peer.done(wire.SET_VRING_CALL, word(0x100n | 0n))
    const { settings, kick, call } = socket.ring(0)!
    assert.deepEqual([settings.flags, kick, call, settings.position], [RING_ENABLED | RING_POLLED, false, false, -1])
  })

  it('changes the call of a ring that runs, which goes on', async () => {
    const peer = await started()
    const earlier = socket.changes.length
    await peer.done(wire.SET_VRING_CALL, word(1n), [peer.event()])
    assert.equal(socket.changes.length, earlier + 1)
    assert.equal(socket.ring(1)?.settings.position, -1)
  })

  it('stops a ring by asking for its position, and starts it again', async () => {
    const peer = await started()
    const { payload } = await peer.ask(wire.GET_VRING_BASE, state(1, 0))
    assert.deepEqual([payload.readUInt32LE(0), payload.readUInt32LE(4)], [1, 7])
    assert.deepEqual(socket.changes.at(-1), { set: 'stop', ring: 1 })
    assert.equal(socket.state, 'up', 'the other ring runs')
    await peer.ask(wire.GET_VRING_BASE, state(0, 0))
    assert.equal(socket.state, "down: the guest's driver has not started")
    assert.equal(device.offloads, 0)
    const again = await peer.ask(wire.GET_VRING_BASE, state(1, 0))
    assert.equal(again.payload.readUInt32LE(4), 7, 'a ring that is stopped has its position')
    await peer.done(wire.SET_VRING_KICK, word(1n), [peer.event()])
    assert.equal(socket.ring(1)?.settings.position, 7)
    assert.equal(socket.state, 'up', 'it is still enabled')
  })

  it('answers about rings that never ran', async () => {
    const peer = await greeted()
    const { payload } = await peer.ask(wire.GET_VRING_BASE, state(31, 0))
    assert.deepEqual([payload.readUInt32LE(0), payload.readUInt32LE(4)], [31, 0])
    assert.deepEqual(socket.changes, [])
  })

  it('runs sixteen pairs', async () => {
    const peer = await greeted()
    await peer.start()
    for (let ring = 2; ring < 32; ring++) await peer.startRing(ring, ring)
    assert.equal(socket.ring(31)?.settings.flags, RING_ENABLED)
  })

  it('disables a ring and enables it', async () => {
    const peer = await started()
    for (const ring of [0, 1]) await peer.done(wire.SET_VRING_ENABLE, state(ring, 0))
    assert.equal(socket.ring(0)?.settings.flags, 0)
    assert.equal(socket.state, "down: the guest's driver has not started")
    await peer.done(wire.SET_VRING_ENABLE, state(0, 1))
    assert.equal(socket.state, 'up')
  })

  it('takes what its features say, while it runs', async () => {
    const peer = await greeted()
    const wanted = FEATURES | wire.CSUM | wire.GUEST_CSUM | wire.GUEST_TSO4 | wire.GUEST_TSO6 | wire.GUEST_USO4
    await peer.start({ features: wanted })
    assert.equal(device.offloads, TAKES_CHECKSUM | TAKES_TSO4 | TAKES_TSO6)
    peer.close()
    peers.length = 0
    await until('gone', () => socket.state === 'down: nobody is connected')
    assert.equal(device.offloads, 0)
    const second = await greeted()
    await second.start({ features: FEATURES | wire.GUEST_TSO4 })
    assert.equal(device.offloads, 0, 'segmentation without checksums is none')
  })

  it('adds and removes memory while rings run', async () => {
    const peer = await started()
    const slot: TestRegion = { guest: 1n << 32n, bytes: 65536n, user: 1n << 40n, offset: 4096n }
    await peer.done(wire.ADD_MEM_REG, oneRegionPayload(slot), [peer.memory(65536 + 4096)])
    const added = socket.changes.at(-1)
    assert.ok(added?.set === 'memory' && added.regions.length === 2 && added.regions[1].offset === '4096')
    await peer.done(wire.REM_MEM_REG, oneRegionPayload({ ...slot, offset: 0n }), [peer.memory()])
    const removed = socket.changes.at(-1)
    assert.ok(removed?.set === 'memory' && removed.regions.length === 1)
    assert.equal(socket.state, 'up')
  })

  it('adds and removes a region once a queue pair, as QEMU 7.2 does', async () => {
    const peer = await started()
    const slot: TestRegion = { guest: 1n << 32n, bytes: 4096n, user: 1n << 40n }
    const memory = peer.memory()
    const count = (): number => {
      const last = socket.changes.findLast(({ set }) => set === 'memory')
      return last?.set === 'memory' ? last.regions.length : 0
    }
    for (let pair = 0; pair < 2; pair++) {
      assert.equal(await peer.done(wire.ADD_MEM_REG, oneRegionPayload(slot), [memory]), 0n)
      assert.equal(count(), 2)
    }
    for (let pair = 0; pair < 2; pair++) {
      assert.equal(await peer.done(wire.REM_MEM_REG, oneRegionPayload(slot)), 0n)
      assert.equal(count(), 1)
    }
  })

  it('takes up to 32 regions', async () => {
    const peer = await greeted()
    const slot = (i: number): TestRegion => ({ guest: BigInt(i) << 20n, bytes: 4096n, user: BigInt(i) << 24n })
    for (let i = 0; i < 32; i++)
      assert.equal(await peer.done(wire.ADD_MEM_REG, oneRegionPayload(slot(i)), [peer.memory()]), 0n)
    assert.equal(await peer.done(wire.ADD_MEM_REG, oneRegionPayload(slot(32)), [peer.memory()]), 1n)
    await peer.seeClosed()
  })

  it('has a dirty log while LOG_ALL is on', async () => {
    const peer = await started()
    const log = Buffer.concat([word(4096n), word(4096n)])
    const { payload } = await peer.ask(wire.SET_LOG_BASE, log, [peer.memory(8192)])
    assert.equal(payload.readBigUInt64LE(), 0n)
    assert.ok(!socket.changes.some(({ set }) => set === 'log'))
    await peer.done(wire.SET_FEATURES, word(FEATURES | wire.LOG_ALL))
    assert.deepEqual(
      socket.changes.find(({ set }) => set === 'log'),
      { set: 'log', bytes: '4096', offset: '4096' },
    )
    await peer.done(wire.SET_VRING_ADDR, addressesPayload(0, 1))
    assert.equal(socket.ring(0)?.settings.flags, RING_ENABLED | RING_LOGGED)
    await peer.done(wire.SET_LOG_FD, undefined, [peer.event()])
    await peer.done(wire.SET_FEATURES, word(FEATURES))
    assert.deepEqual(
      socket.changes.findLast(({ set }) => set === 'log'),
      { set: 'log', bytes: '0', offset: '0' },
    )
    assert.equal(socket.state, 'up')
  })

  it('gets in-flight memory of zeros and gives it back', async () => {
    const peer = await greeted()
    for (const bytes of [20, 24]) {
      const wanted = Buffer.alloc(bytes)
      wanted.writeUInt16LE(4, 16)
      wanted.writeUInt16LE(256, 18)
      const { payload, fds } = await peer.ask(wire.GET_INFLIGHT_FD, wanted)
      assert.equal(payload.length, bytes)
      const length = Number(payload.readBigUInt64LE(0))
      assert.equal(length, 4 * (16 + 256 * 16 + 48))
      assert.equal(fds.length, 1)
      const memory = Buffer.alloc(length, 1)
      assert.equal(readSync(fds[0], memory, 0, length, 0), length)
      assert.ok(memory.every((byte) => byte === 0))
      assert.equal(await peer.done(wire.SET_INFLIGHT_FD, payload, fds), 0n)
      native.close(fds[0])
    }
  })

  it('has its RARP sent into the network', async () => {
    const peer = await started()
    const mac = Buffer.from('525400aabbcc0000', 'hex')
    await peer.done(wire.SEND_RARP, mac)
    const hex = Buffer.from(socket.injected[0]).toString('hex')
    assert.equal(
      hex.slice(0, 84),
      'ffffffffffff525400aabbcc80350001080006040003525400aabbcc00000000525400aabbcc00000000',
    )
    assert.equal(hex.length, 120)
    assert.equal(await peer.done(wire.NET_SET_MTU, word(9000n)), 0n)
  })

  it('keeps a status; zero and RESET_DEVICE reset, and memory stays', async () => {
    for (const reset of ['status', 'device', 'owner']) {
      const peer = await started()
      await peer.done(wire.SET_STATUS, word(15n))
      assert.equal(await peer.askWord(wire.GET_STATUS), 15n)
      if (reset === 'status') await peer.done(wire.SET_STATUS, word(0n))
      else await peer.done(reset === 'device' ? wire.RESET_DEVICE : wire.RESET_OWNER)
      assert.equal(await peer.askWord(wire.GET_STATUS), 0n)
      assert.equal(socket.changes.filter(({ set }) => set === 'stop').length, 2)
      assert.equal(socket.state, "down: the guest's driver has not started")
      socket.changes.length = 0
      await peer.done(wire.SET_FEATURES, word(FEATURES))
      await peer.startRing(0)
      assert.equal(socket.ring(0)?.settings.flags, RING_ENABLED)
      assert.equal(socket.state, 'up')
      peer.close()
      peers.pop()
      socket.changes.length = 0
      await until('gone', () => socket.state === 'down: nobody is connected')
    }
  })

  it('has an answer only when the shard has applied it, and messages in order', async () => {
    const peer = await greeted()
    await peer.done(wire.SET_FEATURES, word(FEATURES))
    let apply: (result: number) => void = () => {}
    socket.result = () =>
      new Promise((resolve) => {
        apply = resolve
      })
    peer.send(wire.SET_MEM_TABLE, tablePayload([whole]), [peer.memory()], wire.VERSION | wire.FLAG_NEED_REPLY)
    peer.send(wire.GET_QUEUE_NUM)
    await until('asked', () => socket.changes.length === 1)
    await pause(20)
    assert.equal(native.receiveMessage(peer.fd, Buffer.alloc(12)), -11, 'no answer yet')
    apply(0)
    assert.equal((await peer.receive())?.request, wire.SET_MEM_TABLE)
    assert.equal((await peer.receive())?.request, wire.GET_QUEUE_NUM)
  })

  it('is asked for no answer if none was agreed on', async () => {
    const peer = connect()
    peer.send(wire.SET_OWNER, undefined, undefined, wire.VERSION | wire.FLAG_NEED_REPLY)
    assert.equal(await peer.askWord(wire.GET_QUEUE_NUM), 16n)
  })

  it('may cut its messages into bytes', async () => {
    const peer = connect()
    const bytes = Buffer.concat([
      message(wire.SET_PROTOCOL_FEATURES, word(wire.OFFERED_PROTOCOL_FEATURES)),
      message(wire.SET_FEATURES, word(FEATURES)),
      message(wire.SET_MEM_TABLE, tablePayload([whole]), wire.VERSION | wire.FLAG_NEED_REPLY),
    ])
    const table = bytes.length - 12 - 40
    for (let at = 0; at < bytes.length; at++) {
      peer.sendBytes(bytes.subarray(at, at + 1), at === table ? [peer.memory()] : [])
      if (at % 3 === 0) await turn()
    }
    assert.equal((await peer.receive())?.payload.readBigUInt64LE(), 0n)
    assert.equal(socket.changes.length, 1)
  })
})

describe('a shard that ends', () => {
  beforeEach(() => make())
  afterEach(finish)

  it('is followed by one that is told everything', async () => {
    const peer = await started()
    await peer.ask(wire.SET_LOG_BASE, Buffer.concat([word(4096n), word(0n)]), [peer.memory(4096)])
    await peer.done(wire.SET_FEATURES, word(FEATURES | wire.LOG_ALL))
    socket.changes.length = 0
    device.restore()
    await turn()
    assert.deepEqual(
      socket.changes.map((change) => (change.set === 'ring' ? change.ring : change.set)),
      ['memory', 'log', 0, 1],
    )
    for (const ring of [0, 1]) assert.equal(socket.ring(ring)?.settings.position, -1)
    assert.equal(await peer.askWord(wire.GET_QUEUE_NUM), 16n)
  })

  it('does not lose the message that it was told of', async () => {
    const peer = await started()
    socket.result = () => {
      throw new ShardEnded()
    }
    const slot: TestRegion = { guest: 1n << 32n, bytes: 4096n, user: 1n << 40n }
    const done = peer.done(wire.ADD_MEM_REG, oneRegionPayload(slot), [peer.memory()])
    const count = socket.changes.length
    await until('shared in vain', () => socket.changes.length > count)
    device.restore() // the next one ends as well
    await pause(5)
    socket.result = () => 0
    socket.changes.length = 0
    device.restore()
    assert.equal(await done, 0n)
    const [memory] = socket.changes
    assert.ok(memory?.set === 'memory' && memory.regions.length === 2)
  })

  it('is asked again for a position', async () => {
    const peer = await started()
    socket.result = () => {
      throw new ShardEnded()
    }
    const count = socket.changes.length
    const answer = peer.ask(wire.GET_VRING_BASE, state(1, 0))
    await until('asked in vain', () => socket.changes.length > count)
    socket.result = (change) => (change.set === 'stop' ? 99 : 0)
    device.restore()
    assert.equal((await answer).payload.readUInt32LE(4), 99)
  })

  it('lets a connection end while it is away', async () => {
    const peer = await started()
    socket.result = () => {
      throw new ShardEnded()
    }
    const count = socket.changes.length
    peer.send(wire.GET_VRING_BASE, state(1, 0))
    await until('asked in vain', () => socket.changes.length > count)
    device.setLink(false)
    await peer.seeClosed()
    assert.ok(!socket.attached)
  })

  it('may refuse: the peer hears it, and is gone', async () => {
    const peer = await greeted()
    await peer.done(wire.SET_FEATURES, word(FEATURES))
    socket.result = () => {
      throw new Error('EINVAL')
    }
    assert.equal(await peer.done(wire.SET_MEM_TABLE, tablePayload([whole]), [peer.memory()]), 1n)
    await peer.seeClosed()
    assert.equal(socket.state, 'error: the memory is refused: EINVAL')
    socket.result = () => 0
    await started()
    assert.equal(socket.state, 'up')
  })

  it('may find the guest at fault', async () => {
    const peer = await started()
    assert.equal(device.failed(71), false)
    assert.equal(socket.state, 'error: the guest broke its ring')
    await peer.seeClosed()
    await started()
    assert.equal(socket.state, 'up')
    device.failed(14)
    assert.match(socket.state, /^error: the guest took memory away/)
  })
})

describe('connections', () => {
  afterEach(finish)

  it('one at a time, and the next when the first has gone', async () => {
    make()
    const first = await started()
    const second = connect()
    await second.seeClosed()
    assert.equal(await first.askWord(wire.GET_QUEUE_NUM), 16n)
    for (let round = 0; round < 20; round++) {
      peers.splice(0).forEach((peer) => {
        peer.close()
      })
      await started()
    }
    assert.equal(socket.state, 'up')
  })

  it('one that leaves with nothing agreed on is told of', async () => {
    make()
    const peer = await greeted()
    peer.close()
    peers.pop()
    await until('gone', () => socket.state.startsWith('down: nobody'))
    assert.equal(socket.state, 'down: nobody is connected; the last peer left without agreeing on features')
  })

  it('one whose driver starts without memory is told of', async () => {
    make()
    const peer = await greeted()
    device.check()
    assert.equal(socket.state, "down: the guest's driver has not started")
    await peer.done(wire.SET_FEATURES, word(FEATURES))
    device.check()
    assert.match(socket.state, /^down: QEMU shares no memory/)
    await peer.start()
    device.check()
    assert.equal(socket.state, 'up')
  })

  it('the client connects, and again after its peer has gone', async () => {
    make({ client: true, poll: true, offloads: false })
    assert.throws(() => device.open(), { code: 'ENOENT' })
    assert.deepEqual(device.patientWith, ['ENOENT', 'ECONNREFUSED', 'EAGAIN'])
    for (let round = 1; round <= 3; round++) {
      const listening = FrontEnd.listen(path)
      device.open()
      const peer = await listening
      assert.equal(await peer.askWord(wire.GET_FEATURES), wire.offeredFeatures(false))
      await peer.greet()
      await peer.start()
      assert.equal(socket.ring(0)?.settings.flags, RING_ENABLED | RING_POLLED)
      peer.close()
      await until('gone', () => socket.state === 'down: nobody is connected')
      assert.equal(socket.laters, round)
    }
  })

  it('a pulled cable closes the connection and the path, and comes back', async () => {
    make()
    const peer = await started()
    device.setLink(false)
    await peer.seeClosed()
    assert.ok(!existsSync(path))
    assert.ok(!socket.attached)
    device.open()
    assert.ok(!existsSync(path), 'no earlier than the link is up')
    device.setLink(true)
    assert.equal(socket.laters, 1)
    device.open()
    await started()
    assert.equal(socket.state, 'up')
  })
})
