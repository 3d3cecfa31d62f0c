/**
 * The vhost-user port's control side against a scripted front-end, with a socket that only notes what it is told: the
 * states of rings in every order of messages, answers at the right moment, a shard that ends under a message, and a peer
 * that breaks every rule.
 */
import assert from 'node:assert/strict'
import { existsSync, fstatSync, mkdtempSync, readSync, readdirSync, rmSync, writeFileSync, openSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6 } from '../../src/dataplane/port-table.js'
import { type GuestChange, ShardEnded, type Socket } from '../../src/ports/device.js'
import { RING_ENABLED, RING_LOGGED, RING_POLLED, native } from '../../src/ports/native.js'
import { VhostUserDevice } from '../../src/ports/vhost-user.js'
import * as wire from '../../src/ports/vhost-user-message.js'
import { FEATURES, FrontEnd, GUEST, MEMORY_BYTES, type TestRegion, USER } from '../rig/vhost-front-end.js'
import { addressesPayload, message, oneRegionPayload, ringPlace, tablePayload } from '../rig/vhost-front-end.js'

/** Notes what a device tells it; answers as a test orders. */
class NotingSocket implements Socket {
  readonly changes: GuestChange[] = []
  readonly injected: Uint8Array[] = []
  readonly reports: string[] = []
  attachments = 0
  attached = false
  laters = 0
  /** what `share` results in */
  result: (change: GuestChange) => number | Promise<number> = (change) => (change.set === 'stop' ? 7 : 0)

  attach(): void {
    assert.ok(!this.attached, 'attached twice')
    this.attached = true
    this.attachments++
  }

  detach(): void {
    assert.ok(this.attached, 'detached without being attached')
    this.attached = false
  }

  report(state: string, reason: string | null): void {
    const text = reason === null ? state : `${state}: ${reason.replace(/^vhost-user \S+: /, '')}`
    if (this.reports.at(-1) !== text) this.reports.push(text)
  }

  get state(): string {
    return this.reports.at(-1) ?? ''
  }

  async share(change: GuestChange, fds: number[]): Promise<number> {
    assert.ok(this.attached, 'shares what is not attached')
    for (const fd of fds) fstatSync(fd) // each is open
    if (change.set === 'memory') assert.equal(fds.length, change.regions.length)
    if (change.set === 'ring') assert.equal(fds.length, Number(change.kick) + Number(change.call))
    this.changes.push(change)
    return this.result(change)
  }

  inject(bytes: Uint8Array): boolean {
    this.injected.push(bytes)
    return true
  }

  openLater(): void {
    this.laters++
  }

  /** The last change of a ring, and what ring changes there were. */
  ring(index: number): Extract<GuestChange, { set: 'ring' }> | undefined {
    return this.rings(index).at(-1)
  }

  rings(index: number): Extract<GuestChange, { set: 'ring' }>[] {
    return this.changes.filter((change) => change.set === 'ring').filter((change) => change.ring === index)
  }
}

const descriptors = (): number => readdirSync('/proc/self/fd').length
const whole: TestRegion = { guest: GUEST, bytes: BigInt(MEMORY_BYTES), user: USER }
const state = wire.vringStatePayload
const word = wire.wordPayload

let folder = ''
let path = ''
let socket: NotingSocket
let device: VhostUserDevice
let peers: FrontEnd[] = []
let open = 0

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'weft-vhost-'))
  path = join(folder, 'port.sock')
  const watch = native.watch(native.createEvent(), () => {}) // the watcher's own descriptors are there from now on
  native.unwatch(watch)
})
after(() => rmSync(folder, { recursive: true }))

function make(options: Partial<ConstructorParameters<typeof VhostUserDevice>[0]> = {}): void {
  open = descriptors()
  socket = new NotingSocket()
  device = new VhostUserDevice({ path, client: false, poll: false, offloads: true, ...options }, socket)
  device.open()
}

/** Closes everything; no descriptor is left. */
async function finish(): Promise<void> {
  for (const peer of peers) peer.close()
  peers = []
  device.close()
  await turn()
  assert.equal(descriptors(), open, 'descriptors')
  assert.ok(!existsSync(path))
  assert.ok(!socket.attached)
}

function connect(): FrontEnd {
  const peer = FrontEnd.connect(path)
  peers.push(peer)
  return peer
}

async function greeted(): Promise<FrontEnd> {
  const peer = connect()
  await peer.greet()
  return peer
}

async function started(): Promise<FrontEnd> {
  const peer = await greeted()
  await peer.start()
  return peer
}

async function until(what: string, ask: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!ask()) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what} (${socket.reports.join(' | ')})`)
    await pause(1)
  }
}

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
    const before = socket.changes.length
    await peer.done(wire.SET_VRING_CALL, word(1n), [peer.event()])
    assert.equal(socket.changes.length, before + 1)
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
    peers = []
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

  it('the client connects, and again after its peer has gone', async () => {
    open = descriptors()
    socket = new NotingSocket()
    device = new VhostUserDevice({ path, client: true, poll: true, offloads: false }, socket)
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

describe('a front-end that breaks the rules', () => {
  beforeEach(() => make())
  afterEach(finish)

  const table = (...regions: TestRegion[]): Buffer => tablePayload(regions)
  const cases: [what: string, says: RegExp, act: (peer: FrontEnd) => void][] = [
    ['a short payload', /SET_FEATURES with 7 bytes, not 8/, (peer) => peer.send(wire.SET_FEATURES, Buffer.alloc(7))],
    [
      'a long payload',
      /SET_VRING_ADDR with 48 bytes, not 40/,
      (peer) => peer.send(wire.SET_VRING_ADDR, Buffer.alloc(48)),
    ],
    ['a payload of nothing', /GET_VRING_BASE with 0 bytes/, (peer) => peer.send(wire.GET_VRING_BASE)],
    ['one that has none', /GET_FEATURES with 8 bytes/, (peer) => peer.send(wire.GET_FEATURES, Buffer.alloc(8))],
    ['a huge payload', /more than 4096/, (peer) => peer.sendBytes(message(wire.SET_OWNER, Buffer.alloc(0), 1, 4097))],
    ['4 GiB', /4294967295 bytes/, (peer) => peer.sendBytes(message(wire.SET_OWNER, Buffer.alloc(0), 1, -1))],
    ['an unknown request', /request 41, which is not served/, (peer) => peer.send(41)],
    ['request 0', /request 0,/, (peer) => peer.send(0)],
    ['a request of another device', /request 24,/, (peer) => peer.send(24, Buffer.alloc(12))],
    ['BACKEND_REQ_FD', /request 21,/, (peer) => peer.send(21, undefined, [peer.event()])],
    ['another version', /of version 2, not 1/, (peer) => peer.send(wire.SET_OWNER, undefined, [], 2)],
    ['an answer', /as an answer to nothing/, (peer) => peer.send(wire.SET_OWNER, undefined, [], 5)],
    [
      'features that are not offered',
      /took features 0x400000000,/,
      (peer) => peer.send(wire.SET_FEATURES, word(1n << 34n)),
    ],
    [
      'such protocol features',
      /protocol features 0x20,/,
      (peer) => peer.send(wire.SET_PROTOCOL_FEATURES, word(1n << 5n)),
    ],
    [
      'a surplus descriptor',
      /SET_OWNER with 1 descriptors/,
      (peer) => peer.send(wire.SET_OWNER, undefined, [peer.event()]),
    ],
    [
      'nine descriptors',
      /9 descriptors, more than 8/,
      (peer) =>
        peer.send(
          wire.SET_MEM_TABLE,
          table(whole),
          Array.from({ length: 9 }, () => peer.memory()),
        ),
    ],
    [
      'thirty descriptors',
      /30 descriptors, more than 8/,
      (peer) =>
        peer.send(
          wire.GET_FEATURES,
          undefined,
          Array.from({ length: 30 }, () => peer.event()),
        ),
    ],
    [
      'no descriptor of memory',
      /SET_MEM_TABLE with 0 descriptors/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table(whole)),
    ],
    [
      'two descriptors for one region',
      /2 descriptors for 1 memory regions/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table(whole), [peer.memory(), peer.memory()]),
    ],
    [
      'a lying count of regions',
      /SET_MEM_TABLE of 7 regions/,
      (peer) => peer.send(wire.SET_MEM_TABLE, tablePayload([whole], 7), [peer.memory()]),
    ],
    [
      'an empty region',
      /is empty/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table({ ...whole, bytes: 0n }), [peer.memory()]),
    ],
    [
      'a region that wraps',
      /beyond the last address/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table({ ...whole, guest: (1n << 64n) - 4096n }), [peer.memory()]),
    ],
    [
      'an offset that wraps',
      /beyond the last address/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table({ ...whole, offset: (1n << 64n) - 1n }), [peer.memory()]),
    ],
    [
      'overlapping regions',
      /region 1 .* overlaps/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table(whole, { ...whole, user: 0n }), [peer.memory(), peer.memory()]),
    ],
    [
      'regions that overlap at the front-end',
      /overlaps/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table(whole, { ...whole, guest: 0n }), [peer.memory(), peer.memory()]),
    ],
    [
      'a file that is too short',
      /file of 4096 bytes, not of 1048576/,
      (peer) => peer.send(wire.SET_MEM_TABLE, table(whole), [peer.memory(4096)]),
    ],
    ['an event as memory', /not shared memory/, (peer) => peer.send(wire.SET_MEM_TABLE, table(whole), [peer.event()])],
    [
      'its connection as memory',
      /not shared memory/,
      (peer) => peer.send(wire.ADD_MEM_REG, oneRegionPayload(whole), [peer.fd]),
    ],
    [
      'a region removed that is not there',
      /that it had not shared/,
      (peer) => peer.send(wire.REM_MEM_REG, oneRegionPayload(whole)),
    ],
    ['ring 32', /ring 32, there are 32/, (peer) => peer.send(wire.SET_VRING_NUM, state(32, 256))],
    ['ring 2^31', /ring 2147483648/, (peer) => peer.send(wire.GET_VRING_BASE, state(0x80000000, 0))],
    ['the kick of ring 200', /ring 200/, (peer) => peer.send(wire.SET_VRING_KICK, word(200n), [peer.event()])],
    ['a size of 0', /ring 0 of 0 entries/, (peer) => peer.send(wire.SET_VRING_NUM, state(0, 0))],
    ['a size of 100', /ring 0 of 100 entries/, (peer) => peer.send(wire.SET_VRING_NUM, state(0, 100))],
    ['a size of 2048', /ring 0 of 2048 entries/, (peer) => peer.send(wire.SET_VRING_NUM, state(0, 2048))],
    ['a size of 2^31', /ring 0 of 2147483648/, (peer) => peer.send(wire.SET_VRING_NUM, state(0, 0x80000000))],
    ['a position of 65536', /position 65536/, (peer) => peer.send(wire.SET_VRING_BASE, state(0, 65536))],
    ['an enable of 2', /by 2/, (peer) => peer.send(wire.SET_VRING_ENABLE, state(0, 2))],
    ['no descriptor of a kick', /without a descriptor/, (peer) => peer.send(wire.SET_VRING_KICK, word(0n))],
    [
      'a descriptor that is said not to be',
      /with a descriptor/,
      (peer) => peer.send(wire.SET_VRING_CALL, word(0x100n), [peer.event()]),
    ],
    [
      'two descriptors of a kick',
      /SET_VRING_KICK with 2 descriptors/,
      (peer) => peer.send(wire.SET_VRING_KICK, word(0n), [peer.event(), peer.event()]),
    ],
    ['memory as a kick', /no eventfd/, (peer) => peer.send(wire.SET_VRING_KICK, word(0n), [peer.memory()])],
    ['its connection as a call', /no eventfd/, (peer) => peer.send(wire.SET_VRING_CALL, word(0n), [peer.fd])],
    [
      'a log without memory',
      /SET_LOG_BASE with 0 descriptors/,
      (peer) => peer.send(wire.SET_LOG_BASE, Buffer.alloc(16)),
    ],
    ['an endless log', /dirty log of/, (peer) => peer.send(wire.SET_LOG_BASE, Buffer.alloc(16, 0xff), [peer.memory()])],
    [
      'in-flight memory of too many rings',
      /in-flight memory of 65535 rings/,
      (peer) => peer.send(wire.GET_INFLIGHT_FD, Buffer.alloc(20, 0xff)),
    ],
    ['a status of 2^40', /device status/, (peer) => peer.send(wire.SET_STATUS, word(1n << 40n))],
    ['an MTU of 2^40', /MTU of/, (peer) => peer.send(wire.NET_SET_MTU, word(1n << 40n))],
  ]
  for (const [what, says, act] of cases) {
    it(`is hung up on: ${what}`, async () => {
      const peer = await greeted()
      act(peer)
      await peer.seeClosed()
      assert.match(socket.state, /^error: /)
      assert.match(socket.state, says)
      await started()
      assert.equal(socket.state, 'up')
    })
  }

  it('hears of its failure first, if it asked', async () => {
    const peer = await greeted()
    assert.equal(await peer.done(41), 1n)
    await peer.seeClosed()
    const second = await greeted()
    assert.equal(await second.done(wire.SET_VRING_NUM, state(0, 3)), 1n)
    await second.seeClosed()
  })

  it('changes nothing while rings run', async () => {
    const acts: [RegExp, (peer: FrontEnd) => void][] = [
      [/changed features while rings run/, (peer) => peer.send(wire.SET_FEATURES, word(FEATURES | wire.CSUM))],
      [/changed ring 0 while it runs/, (peer) => peer.send(wire.SET_VRING_NUM, state(0, 128))],
      [/moved ring 1 while it runs/, (peer) => peer.send(wire.SET_VRING_BASE, state(1, 5))],
    ]
    for (const [says, act] of acts) {
      const peer = await started()
      act(peer)
      await peer.seeClosed()
      assert.match(socket.state, says)
      peer.close()
      peers.splice(0)
    }
  })

  it('ends within a message, at every byte', async () => {
    const bytes = message(wire.SET_MEM_TABLE, table(whole))
    for (let at = 1; at < bytes.length; at++) {
      const peer = connect()
      peer.sendBytes(bytes.subarray(0, at), [peer.memory()])
      const count = socket.attachments
      await until('attached', () => socket.attachments >= count && socket.attached)
      await turn()
      peer.close()
      peers.pop()
      await until('over', () => !socket.attached)
      assert.match(socket.state, /the connection ended within a message/)
    }
  })

  it('does not read its answers', async () => {
    const peer = connect()
    for (let i = 0; i < 100_000 && socket.state !== 'error: the peer does not read its answers'; i++) {
      if (!peer.send(wire.GET_FEATURES)) await turn()
    }
    assert.equal(socket.state, 'error: the peer does not read its answers')
  })

  it('gives a file of a disk as memory', async () => {
    const file = '/etc/hostname'
    const peer = await greeted()
    peer.send(wire.SET_MEM_TABLE, table({ ...whole, bytes: 1n }), [peer.keep(openSync(file, 'r'))])
    await peer.seeClosed()
    assert.match(socket.state, /not shared memory|no file/)
  })
})

describe('a front-end that says anything', () => {
  it('never throws, leaks no descriptor, and makes room for the next', async () => {
    writeFileSync(join(folder, 'plain'), 'x')
    make()
    socket.result = (change) => (change.set === 'stop' ? 3 : 0)
    let seed = 20261121
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) | 0
      return Math.floor(((seed >>> 0) / 2 ** 32) * below)
    }
    // what takes a session back is said less often
    const requests = [1, 2, 3, 5, 6, 7, 11, 15, 16, 17, 19, 20, 31, 32, 36, 37, 38, 40]
    for (let i = 0; i < 6; i++) requests.push(8, 9, 10, 12, 13, 14, 18)
    const pick = <T>(list: readonly T[]): T => list[random(list.length)]
    const isWrong = (): boolean => random(600) === 0
    const slots: TestRegion[] = []
    const slotOf = (request: number): TestRegion => {
      const place = BigInt(random(8) + 8)
      const region = { guest: place << 32n, bytes: 4096n, user: place << 40n }
      const known = slots.findIndex(({ guest }) => guest === region.guest)
      if (isWrong()) return region
      if (request === wire.REM_MEM_REG) return slots.splice(random(slots.length), 1)[0] ?? region
      if (known < 0) slots.push(region)
      return known < 0 ? region : { ...region, guest: region.guest + 4096n, user: region.user + 4096n, bytes: 1n }
    }
    const payloadOf = (request: number): Buffer => {
      if (isWrong()) return Buffer.alloc(random(64), random(256))
      const ring = isWrong() ? random(300) : random(6)
      switch (request) {
        case wire.SET_FEATURES:
          return word(isWrong() ? BigInt(random(2 ** 32)) : FEATURES | (random(2) === 0 ? wire.LOG_ALL : 0n))
        case wire.SET_PROTOCOL_FEATURES:
          return word(wire.OFFERED_PROTOCOL_FEATURES & (BigInt(random(2 ** 17)) | wire.PROTOCOL_REPLY_ACK))
        case wire.SET_MEM_TABLE:
          slots.length = 0
          return table({ ...whole, guest: BigInt(random(3)) << 30n })
        case wire.ADD_MEM_REG:
        case wire.REM_MEM_REG:
          return oneRegionPayload(slotOf(request))
        case wire.SET_VRING_NUM:
          return state(ring, isWrong() ? random(5000) : 256)
        case wire.SET_VRING_ENABLE:
        case wire.GET_VRING_BASE:
          return state(ring, random(2))
        case wire.SET_VRING_BASE:
          return state(isWrong() ? ring : ring + 6, random(2))
        case wire.SET_VRING_ADDR:
          return addressesPayload(ring, random(2))
        case wire.SET_VRING_KICK:
        case wire.SET_VRING_CALL:
        case wire.SET_VRING_ERR:
          return word(BigInt(ring % 256))
        case wire.SET_LOG_BASE:
          return Buffer.concat([word(4096n), word(BigInt(random(2)))])
        case wire.GET_INFLIGHT_FD:
        case wire.SET_INFLIGHT_FD: {
          const asked = Buffer.alloc(pick([20, 24]))
          asked.writeUInt16LE(isWrong() ? random(65536) : random(32) + 1, 16)
          asked.writeUInt16LE(isWrong() ? random(65536) : random(1024) + 1, 18)
          return asked
        }
        case wire.SEND_RARP:
        case wire.NET_SET_MTU:
        case wire.SET_STATUS:
          return word(BigInt(random(70)))
        default:
          return Buffer.alloc(0)
      }
    }
    const table = (...regions: TestRegion[]): Buffer => tablePayload(regions)
    const memory = native.createMemory(MEMORY_BYTES)
    const event = native.createEvent()
    const wanted = new Set<number>([wire.SET_MEM_TABLE, wire.ADD_MEM_REG, wire.SET_LOG_BASE, wire.SET_INFLIGHT_FD])
    const events = new Set<number>([wire.SET_VRING_KICK, wire.SET_VRING_CALL, wire.SET_VRING_ERR])
    const fdsOf = (request: number): number[] => {
      if (isWrong()) return Array.from({ length: random(12) }, () => pick([memory, event]))
      if (wanted.has(request)) return [memory]
      return events.has(request) ? [event] : []
    }
    const into = Buffer.alloc(65536)
    let peer = connect()
    let sent = 0
    let connections = 1
    while (sent < 100_000) {
      for (let i = 0; i < 16; i++) {
        const chosen = isWrong() ? random(64) : pick(requests)
        const request = chosen === wire.REM_MEM_REG && slots.length === 0 ? wire.ADD_MEM_REG : chosen
        const bytes = message(request, payloadOf(request), isWrong() ? random(16) : pick([1, 9]))
        const length = random(2000) === 0 ? random(bytes.length) + 1 : bytes.length
        sent++
        if (!peer.sendBytes(bytes.subarray(0, length), fdsOf(request))) break
      }
      if (random(40) === 0) device.restore()
      for (let got = native.receiveMessage(peer.fd, into); got !== -11; got = native.receiveMessage(peer.fd, into)) {
        if (typeof got !== 'number') for (const fd of got.slice(1)) native.close(fd)
        if (typeof got === 'number' ? got > 0 : got[0] > 0) continue
        peer.close()
        peers.pop()
        peer = connect()
        slots.length = 0
        connections++
        break
      }
      await turn()
    }
    peer.close()
    peers.pop()
    await until('over', () => !socket.attached)
    assert.ok(connections > 100, `${connections} connections`)
    assert.ok(socket.changes.filter(({ set }) => set === 'ring').length > 1000, 'rings ran')
    await started()
    assert.equal(socket.state, 'up')
    native.close(memory)
    native.close(event)
    await finish()
  })
})
