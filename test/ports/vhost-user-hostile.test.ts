/**
 * The vhost-user port's control side against a front-end that breaks every rule, and one that says anything: it is hung
 * up on with a reason, nothing is left of it, and the next one is served.
 */
import assert from 'node:assert/strict'
import { openSync } from 'node:fs'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { native } from '../../src/ports/native.js'
import * as wire from '../../src/ports/vhost-user-message.js'
import { FEATURES, type FrontEnd, MEMORY_BYTES, type TestRegion } from '../rig/vhost-front-end.js'
import { addressesPayload, message, oneRegionPayload, tablePayload } from '../rig/vhost-front-end.js'
import { begin, connect, device, end, finish, greeted, make, peers } from './vhost-user-fixture.js'
import { socket, started, state, until, whole, word } from './vhost-user-fixture.js'

before(begin)
after(end)

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
      'another file in place of a region',
      /overlaps/,
      (peer) => {
        peer.send(wire.ADD_MEM_REG, oneRegionPayload(whole), [peer.memory()])
        peer.send(wire.ADD_MEM_REG, oneRegionPayload(whole), [peer.memory()])
      },
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
