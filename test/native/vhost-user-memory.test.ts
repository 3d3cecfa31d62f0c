/**
 * What a vhost-user guest shares with native code, and how it changes under way: memory, rings, dirty log; files that
 * shrink; what is refused, and that nothing is left behind, whatever happens.
 */
import assert from 'node:assert/strict'
import { openSync, readFileSync, readdirSync, truncateSync, writeFileSync } from 'node:fs'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, suite, test } from 'node:test'
import * as layout from '../../src/dataplane/layout.js'
import { check, native, RING_ENABLED, RING_LOGGED } from '../../src/ports/native.js'
import { Engine, frameOf, GUEST, Guest, GuestMemory, MRG_RXBUF, USER, VERSION_1 } from './vhost-driver.js'

const PORT = 3
const OTHER = 4
const [ENOENT, EFAULT, ENODEV, EINVAL] = [-2, -14, -19, -22]

const engine = new Engine()
const open: { close(): void }[] = []
const folder = mkdtempSync(join(tmpdir(), 'weft-vhost-'))
const descriptorsOpen = (): number => readdirSync('/proc/self/fd').length
const mappings = (): number =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => /memfd:|weft-vhost-/.test(line)).length
const before = descriptorsOpen()
const duplicate = (fd: number): number => check(native.duplicate(fd), 'descriptor')

function plug(options: ConstructorParameters<typeof Guest>[1] = {}, port = PORT): Guest {
  const guest = new Guest(port, options)
  open.push(guest)
  return guest.connect()
}

function assertAlive(guest: Guest, port = PORT): void {
  const frame = frameOf(4711)
  guest.send(frame)
  assert.deepEqual(
    engine.receiveAll().map((one) => [one.port, one.bytes]),
    [[port, frame]],
  )
  guest.give(1, 100)
  engine.transmit(port, [frame])
  assert.deepEqual(guest.takeFrames(), [frame])
}

afterEach(() => {
  for (const one of open.splice(0)) one.close()
  engine.receiveAll()
  assert.equal(engine.slotsInUse(), 0, 'slots')
  assert.equal(descriptorsOpen(), before, 'descriptors')
})
after(() => {
  engine.close()
  rmSync(folder, { recursive: true })
})

const regions = (...words: (bigint | number)[]): BigUint64Array => BigUint64Array.from(words.map(BigInt))

suite('vhost-user: rings set, stopped, set anew', () => {
  test('a stopped ring tells where it stood, and goes on from there or from where it is told', () => {
    const guest = plug({ index: 65535 })
    const [ring] = guest.transmitRings
    guest.send(frameOf(1))
    engine.receive()
    assert.equal(ring.stop(), 0)
    assert.equal(ring.stop(), ENOENT)
    guest.send(frameOf(2))
    guest.send(frameOf(3))
    assert.deepEqual(engine.receiveAll(), [])
    assert.equal(ring.set(0), 0)
    assert.deepEqual(
      engine.receiveAll().map(({ bytes }) => bytes),
      [frameOf(2), frameOf(3)],
    )
  })

  test('a fresh one goes on where the used ring ends, as after the death of a shard', () => {
    const guest = plug()
    for (let i = 0; i < 10; i++) guest.send(frameOf(i))
    engine.receiveAll()
    guest.send(frameOf(10))
    native.detachPort(PORT)
    check(native.attachPort(PORT, layout.KIND_VHOST_USER, -1, -1), 'port')
    guest.connect()
    assert.deepEqual(
      engine.receiveAll().map(({ bytes }) => bytes),
      [frameOf(10)],
    )
    guest.transmitRings[0].takeUsed()
    assertAlive(guest)
  })

  test('one that is set keeps its place with position -1, and calls the new descriptor at once', () => {
    const guest = plug()
    const [ring] = guest.transmitRings
    for (let i = 0; i < 10; i++) guest.send(frameOf(i))
    assert.equal(engine.receiveAll().length, 10)
    // a driver that lies about `used` is not asked
    guest.memory.bytes.writeUInt16LE(3, ring.used + 2)
    ring.wasCalled()
    assert.equal(ring.set(), 0)
    assert.equal(ring.wasCalled(), true)
    guest.send(frameOf(10))
    assert.deepEqual(
      engine.receiveAll().map(({ bytes }) => bytes),
      [frameOf(10)],
    )
    assert.equal(guest.memory.bytes.readUInt16LE(ring.used + 2), 11)
  })

  test('a driver that starts anew, with a ring in another place', () => {
    const guest = plug()
    assertAlive(guest)
    for (const ring of guest.rings) assert.ok(ring.stop() >= 0)
    const again = new Guest(OTHER)
    open.push(again)
    check(again.memory.share(PORT), 'memory')
    for (const ring of again.rings) {
      ring.settings.port = PORT
      assert.equal(ring.set(0), 0)
    }
    assertAlive(again)
  })

  test('what is refused', () => {
    const guest = plug()
    const [ring] = guest.transmitRings
    const event = (): number => check(native.createEvent(), 'event')
    const { size, features } = ring.settings
    const places = [ring.descriptors, ring.available, ring.used].map((place) => USER + BigInt(place))
    const set = (
      change: Partial<Record<'port' | 'ring' | 'size' | 'position' | 'kick' | 'call', number>>,
      words = [features, ...places, 0n],
    ): number =>
      native.setRing(
        change.port ?? PORT,
        change.ring ?? 1,
        BigUint64Array.from(words),
        change.size ?? size,
        change.position ?? -1,
        RING_ENABLED,
        change.kick ?? event(),
        change.call ?? event(),
      )
    assert.equal(set({}), 0)
    for (const port of [-1, 5, 2048, 1 << 30]) assert.equal(set({ port }), ENODEV, `port ${port}`)
    for (const number of [-1, 32, 1 << 30]) assert.equal(set({ ring: number }), EINVAL)
    for (const number of [0, -1, 3, 100, 2048, 65536]) assert.equal(set({ size: number }), EINVAL, `size ${number}`)
    for (const position of [-2, 65536]) assert.equal(set({ position }), EINVAL)
    for (const fd of [openSync('/dev/null', 'w'), check(native.createMemory(4096), 'memory')]) {
      assert.equal(set({ kick: duplicate(fd) }), EINVAL)
      assert.equal(set({ call: fd }), EINVAL)
    }
    for (let i = 0; i < 3; i++) {
      const words = [features, ...places, 0n]
      words[i + 1] += 1n
      assert.equal(set({}, words), EINVAL, `odd place ${i}`)
    }
    for (const words of [[], places, [features, ...places], [features, ...places, 0n, 0n]])
      assert.equal(set({}, words), EINVAL)
    // none of these has changed anything
    assertAlive(guest)
    for (let i = 0; i < 3; i++)
      for (const place of [0n, USER - 16n, USER + (1n << 22n), (1n << 64n) - 16n]) {
        const words = [features, ...places, 0n]
        words[i + 1] = place
        assert.equal(set({}, words), EFAULT, `place ${i} ${place}`)
      }
    guest.send(frameOf(1))
    assert.deepEqual(engine.receiveAll(), [])
    assert.equal(set({}), 0)
    assert.equal(engine.receiveAll().length, 1)
    assert.equal(native.stopRing(PORT, 32), EINVAL)
    assert.equal(native.stopRing(PORT, 17), ENOENT)
    assert.equal(native.stopRing(5, 1), ENODEV)
  })
})

suite('vhost-user: memory', () => {
  test('the same table again changes nothing, also under traffic; regions come and go', () => {
    const guest = plug()
    const extra = new GuestMemory(1 << 20)
    open.push(extra)
    const mapped = mappings()
    const whole = [GUEST, BigInt(guest.memory.bytes.length), USER, 0n]
    const further = [GUEST + (1n << 32n), 1n << 20n, USER + (1n << 32n), 0n]
    for (let i = 0; i < 20; i++) {
      assertAlive(guest)
      const both = [duplicate(guest.memory.fd), duplicate(extra.fd)]
      assert.equal(native.setGuestMemory(PORT, BigUint64Array.from([...whole, ...further]), both), 0)
      assertAlive(guest)
      // a frame that lies in the region that was added
      frameOf(77).copy(extra.bytes, 12)
      const [ring] = guest.transmitRings
      ring.descriptor(200, GUEST + (1n << 32n), 76, 0)
      ring.offer(200)
      ring.tell()
      assert.deepEqual(
        engine.receiveAll().map(({ bytes }) => bytes),
        [frameOf(77)],
      )
      assert.equal(mappings(), mapped + 1)
      assert.equal(guest.memory.share(PORT), 0)
      assert.equal(mappings(), mapped)
    }
  })

  test('without its memory a ring rests, and goes on when it is back', () => {
    const guest = plug()
    assertAlive(guest)
    assert.equal(native.setGuestMemory(PORT, regions(), []), 0)
    guest.send(frameOf(1))
    assert.deepEqual(engine.receiveAll(), [])
    assert.equal(guest.memory.share(PORT), 0)
    assert.deepEqual(
      engine.receiveAll().map(({ bytes }) => bytes),
      [frameOf(1)],
    )
    assert.deepEqual(engine.events(), [])
  })

  test('a ring may be set before its memory comes', () => {
    const guest = new Guest(PORT, { index: 500 })
    open.push(guest)
    for (const ring of guest.rings) assert.equal(ring.set(), EFAULT)
    assert.equal(guest.transmitRings[0].stop(), 0)
    assert.equal(guest.transmitRings[0].set(500), EFAULT)
    assert.equal(guest.memory.share(PORT), 0)
    assertAlive(guest)
  })

  test('addresses, sizes and files that are refused, and nothing is changed by them', () => {
    const guest = plug()
    const size = 1 << 22
    const share = (words: BigUint64Array, count = words.length / 4): number =>
      native.setGuestMemory(
        PORT,
        words,
        Array.from({ length: count }, () => duplicate(guest.memory.fd)),
      )
    const mapped = mappings()
    const end = 1n << 64n
    const refused: Record<string, BigUint64Array> = {
      'a region without bytes': regions(GUEST, 0, USER, 0),
      'one longer than its file': regions(GUEST, size + 1, USER, 0),
      'one that begins behind its file': regions(GUEST, 4096, USER, size),
      'an offset that wraps': regions(GUEST, 4096, USER, end - 4096n),
      'a guest address that wraps': regions(end - 4095n, 4096, USER, 0),
      'a front-end address that wraps': regions(GUEST, 4096, end - 4095n, 0),
      'two that overlap in the guest': regions(GUEST, 8192, USER, 0, GUEST + 8191n, 4096, USER + 8192n, 8192),
      'two that overlap in the front-end': regions(GUEST, 8192, USER, 0, GUEST + 8192n, 4096, USER + 8191n, 8192),
      'one in another': regions(GUEST, 8192, USER, 0, GUEST + 1n, 1, USER + 8192n, 8192),
    }
    for (const [what, words] of Object.entries(refused)) assert.equal(share(words), EINVAL, what)
    assert.equal(share(regions(GUEST, size, USER, 0), 0), EINVAL)
    assert.equal(share(regions(GUEST, size, USER, 0), 2), EINVAL)
    assert.equal(share(regions(GUEST, size, USER), 1), EINVAL)
    const many = Array.from({ length: 33 }, (_, i) => [BigInt(i) << 20n, 4096n, BigInt(i) << 20n, 0n]).flat()
    assert.equal(share(BigUint64Array.from(many)), EINVAL)
    for (const fd of [
      openSync('/dev/zero', 'r+'),
      check(native.createEvent(), 'event'),
      openSync('/proc/self/maps', 'r'),
    ])
      assert.ok(native.setGuestMemory(PORT, regions(GUEST, 4096, USER, 0), [fd]) < 0)
    assert.equal(native.setGuestMemory(5, regions(GUEST, 4096, USER, 0), [duplicate(guest.memory.fd)]), ENODEV)
    assert.equal(mappings(), mapped)
    assertAlive(guest)
    assert.equal(share(BigUint64Array.from(many.slice(0, 128))), 0)
    assert.equal(guest.memory.share(PORT), 0)
    assertAlive(guest)
  })

  test('an offset that is no page, a region of a byte', () => {
    const guest = plug()
    const words = regions(GUEST, 1 << 22, USER, 0, 5, 1, 7, 4097, 100, 100, 100, 3 * 4096 - 50)
    const fds = [0, 0, 0].map(() => duplicate(guest.memory.fd))
    assert.equal(native.setGuestMemory(PORT, words, fds), 0)
    const [ring] = guest.transmitRings
    frameOf(5).copy(guest.memory.bytes, 3 * 4096 - 50 + 12)
    guest.memory.bytes.fill(0, 3 * 4096 - 50, 3 * 4096 - 50 + 12)
    ring.descriptor(200, 100n, 76, 0)
    ring.offer(200)
    ring.descriptor(201, 100n, 101, 0)
    ring.offer(201)
    ring.tell()
    assert.deepEqual(
      engine.receiveAll().map(({ bytes }) => bytes),
      [frameOf(5)],
    )
  })

  const SIZE = 1 << 22
  /** The last page that is left, and what makes the engine touch what went. */
  const shrinks: Record<string, [left: number, work: (guest: Guest) => void]> = {
    'a frame that it sends': [16384, (guest) => guest.send(frameOf(1))],
    'its buffers': [16384, (guest) => guest.give(1, 100)],
    'its rings': [0, () => undefined],
  }
  for (const [what, [left, work]] of Object.entries(shrinks)) {
    test(`a file is cut short under ${what}: the port ends with EFAULT, the process and others go on`, () => {
      const path = join(folder, 'memory')
      writeFileSync(path, '')
      truncateSync(path, SIZE)
      const guest = plug({ bytes: SIZE, file: openSync(path, 'r+') })
      const other = plug({}, OTHER)
      assertAlive(guest)
      guest.memory.allocate(65536)
      engine.receive(1)
      work(guest)
      truncateSync(path, left)
      guest.transmitRings[0].tell()
      engine.receive()
      if (engine.events().length === 0) engine.transmit(PORT, [frameOf(1)])
      if (engine.events().length === 0) engine.receive()
      assert.deepEqual(engine.events(), [[PORT, -EFAULT]])
      engine.transmit(PORT, [frameOf(2)])
      assert.deepEqual(engine.receiveAll(), [])
      assertAlive(other, OTHER)
      assert.equal(native.setGuestMemory(PORT, regions(GUEST, SIZE, USER, 0), [duplicate(guest.memory.fd)]), EINVAL)
    })
  }

  test('hundreds of guests come and go: nothing is left', () => {
    const mapped = mappings()
    for (let i = 0; i < 200; i++) {
      const guest = new Guest(PORT, { queues: 1 + (i % 3), bytes: 1 << 20 }).connect()
      guest.send(frameOf(i))
      engine.transmit(PORT, [frameOf(i), frameOf(i)])
      if (i % 2 === 0) engine.receive()
      guest.close()
      engine.receiveAll()
    }
    // the test's own mappings go when their buffers are collected, so at most one each
    assert.ok(mappings() <= mapped + 200, `${mappings()}`)
    assert.equal(descriptorsOpen(), before)
  })
})

suite('vhost-user: the dirty log', () => {
  const PAGE = 4096

  function withLog(features = VERSION_1 | MRG_RXBUF): { guest: Guest; log: GuestMemory; marked: () => number[] } {
    const guest = plug({ features })
    const log = new GuestMemory(1 << 20)
    open.push(log)
    const marked = (): number[] => {
      const pages: number[] = []
      for (const [i, byte] of log.bytes.entries())
        for (let bit = 0; bit < 8; bit++) if (((byte >> bit) & 1) === 1) pages.push(i * 8 + bit)
      log.bytes.fill(0)
      return pages
    }
    return { guest, log, marked }
  }

  /** The log's page of a place. */
  const pageOf = (place: number): number => Number(GUEST / BigInt(PAGE)) + Math.floor(place / PAGE)

  test('every page of a buffer that was written, and of the used ring if that is asked for', () => {
    const { guest, log, marked } = withLog()
    const [ring] = guest.receiveRings
    const [transmit] = guest.transmitRings
    assert.equal(native.setDirtyLog(PORT, duplicate(log.fd), regions(1 << 20, 0)), 0)
    const place = guest.memory.allocate(5 * PAGE, PAGE)
    const head = ring.chain([{ place: place + PAGE - 12, length: PAGE * 3 }], true)
    ring.offer(head)
    engine.transmit(PORT, [frameOf(1, PAGE + 1)])
    assert.deepEqual(
      marked(),
      [0, 1, 2].map((i) => pageOf(place + i * PAGE)),
    )
    guest.send(frameOf(1))
    engine.receive()
    assert.deepEqual(marked(), [])
    const logAt = GUEST + (1n << 21n) + 100n
    assert.equal(transmit.set(-1, RING_ENABLED | RING_LOGGED, { log: logAt }), 0)
    marked()
    guest.send(frameOf(1))
    engine.receive()
    assert.deepEqual(marked(), [pageOf((1 << 21) + 100)])
    assert.equal(native.setDirtyLog(PORT, -1, regions(0, 0)), 0)
    engine.transmit(PORT, [frameOf(1)])
    guest.give(1, 100)
    engine.receive()
    assert.deepEqual(marked(), [])
  })

  test('a log too short: what it has room for is marked, no byte beyond; one that shrinks ends the port', () => {
    const { guest, log, marked } = withLog()
    const end = pageOf(0) / 8 + 16
    assert.equal(native.setDirtyLog(PORT, duplicate(log.fd), regions(end, 0)), 0)
    const [ring] = guest.receiveRings
    const place = 127 * PAGE
    ring.offer(ring.chain([{ place: place + 100, length: PAGE * 2 }], true))
    engine.transmit(PORT, [frameOf(1, PAGE)])
    assert.deepEqual(marked(), [pageOf(place)])
    for (const words of [regions(0, 0), regions((1 << 20) + 1, 0), regions(1 << 20, 1), regions(1, -1n)])
      assert.equal(native.setDirtyLog(PORT, duplicate(log.fd), words), EINVAL)
    assert.equal(native.setDirtyLog(PORT, duplicate(log.fd), regions(1)), EINVAL)
    assert.equal(native.setDirtyLog(5, duplicate(log.fd), regions(1, 0)), ENODEV)
    const path = join(folder, 'log')
    writeFileSync(path, Buffer.alloc(1 << 20))
    assert.equal(native.setDirtyLog(PORT, openSync(path, 'r+'), regions(1 << 20, 0)), 0)
    truncateSync(path, 0)
    guest.give(1, 100)
    engine.transmit(PORT, [frameOf(1)])
    engine.receive()
    assert.deepEqual(engine.events(), [[PORT, -EFAULT]])
  })
})
