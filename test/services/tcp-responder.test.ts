/**
 * The passive TCP endpoint against a model peer in memory: handshakes, data through a link that loses, doubles and
 * reorders (seeded), the order of closing, limits, forged resets, mutated frames. Checksums are verified by the test's
 * own sum; time is the test's own.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpResponder, type TcpConnection, type Timers } from '../../src/services/tcp-responder.js'
import { type Segment, readSegment, writeSegment } from '../../src/services/tcp-segment.js'
import { random } from './dns-messages.js'

const FIN = 1
const SYN = 2
const RST = 4
const ACK = 16
const MAC = Uint8Array.of(2, 0, 0, 0, 0, 1)
const PEER_MAC = Uint8Array.of(2, 0, 0, 0, 0, 9)
const GATEWAY = Uint8Array.of(10, 0, 0, 1)
const GATEWAY6 = Uint8Array.of(0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)

/** Time that the test moves. */
class Clock implements Timers {
  time = 5_000_000
  private list: { at: number; callback: () => void }[] = []
  now(): number {
    return this.time
  }
  after(milliseconds: number, callback: () => void): () => void {
    const entry = { at: this.time + milliseconds, callback }
    this.list.push(entry)
    return () => (this.list = this.list.filter((other) => other !== entry))
  }
  advance(milliseconds: number): void {
    const end = this.time + milliseconds
    for (let steps = 0; ; steps++) {
      assert.ok(steps < 10_000, 'the timer runs wild')
      const due = this.list.filter(({ at }) => at <= end).sort((x, y) => x.at - y.at)[0]
      if (!due) break
      this.list = this.list.filter((other) => other !== due)
      this.time = Math.max(this.time, due.at)
      due.callback()
    }
    this.time = end
  }
  get waiting(): number {
    return this.list.length
  }
}

function sumsTo(bytes: Uint8Array, initial: number): number {
  let sum = initial
  for (let i = 0; i < bytes.length; i++) sum += i % 2 === 0 ? bytes[i] * 256 : bytes[i]
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000)
  return sum
}

/** Both checksums of a frame, by the test's own arithmetic. */
function assertChecksums(frame: Uint8Array): void {
  const is4 = frame[12] === 8
  if (is4) assert.equal(sumsTo(frame.subarray(14, 34), 0), 0xffff, 'IPv4 checksum')
  const segment = frame.subarray(is4 ? 34 : 54)
  const pseudo = frame.subarray(is4 ? 26 : 22, is4 ? 34 : 54)
  assert.equal(sumsTo(segment, sumsTo(pseudo, 0) + 6 + segment.length), 0xffff, 'TCP checksum')
}

class Rig {
  readonly clock = new Clock()
  readonly sent: Segment[] = []
  readonly opened: TcpConnection[] = []
  readonly responder: TcpResponder
  onSent: ((segment: Segment) => void) | null = null

  constructor(onConnection: (connection: TcpConnection) => void = () => {}, mtu = 1500) {
    this.responder = new TcpResponder({
      mac: MAC,
      listen: 53,
      mtu,
      timers: this.clock,
      onConnection: (connection) => {
        this.opened.push(connection)
        onConnection(connection)
      },
      send: (frame) => {
        assertChecksums(frame)
        assert.ok(frame.length <= mtu + 14)
        const segment = readSegment(frame, false)!
        assert.ok(segment)
        this.sent.push(segment)
        this.onSent?.(segment)
      },
    })
  }

  take(): Segment[] {
    return this.sent.splice(0)
  }
}

interface From {
  port?: number
  ip?: Uint8Array
  ingress?: string
}

/** Builds and sends a peer's segments. */
class Peer {
  readonly rig: Rig
  readonly ip: Uint8Array
  readonly port: number
  readonly ingress: string
  next = 1000
  expected = 0

  constructor(rig: Rig, { port = 40_000, ip = Uint8Array.of(10, 0, 0, 5), ingress = 'vm1' }: From = {}) {
    this.rig = rig
    this.ip = ip
    this.port = port
    this.ingress = ingress
  }

  frame(flags: number, fields: Partial<Segment> = {}): Uint8Array {
    return writeSegment({
      source: { mac: PEER_MAC, ip: this.ip, port: this.port },
      destination: { mac: MAC, ip: this.ip.length === 4 ? GATEWAY : GATEWAY6, port: 53 },
      sequence: this.next,
      acknowledgment: (flags & ACK) === 0 ? 0 : this.expected,
      flags,
      window: 65535,
      mss: (flags & SYN) === 0 ? 0 : 1460,
      payload: new Uint8Array(0),
      ...fields,
    })
  }

  /** Sends, and returns what came back. */
  send(flags: number, fields: Partial<Segment> = {}): Segment[] {
    this.rig.take()
    this.rig.responder.receive(this.frame(flags, fields), this.ingress)
    return this.rig.take()
  }

  connect(window = 65535): Segment {
    // a connection that gives way for this one gets its RST first
    const answer = this.send(SYN, { window }).find(({ flags }) => flags === (SYN | ACK))
    assert.ok(answer)
    this.next = (this.next + 1) | 0
    assert.equal(answer.acknowledgment, this.next)
    this.expected = (answer.sequence + 1) | 0
    this.send(ACK, { window })
    return answer
  }

  data(bytes: number[], flags = ACK, fields: Partial<Segment> = {}): Segment[] {
    const got = this.send(flags, { payload: Uint8Array.from(bytes), ...fields })
    this.next = (this.next + bytes.length + (flags & FIN)) | 0
    return got
  }
}

const echo = (connection: TcpConnection): void => {
  connection.onData = (bytes) => connection.write(bytes)
  connection.onEnd = () => connection.end()
}

test('a dialogue over IPv4 and IPv6: open, data with its acknowledgment, both ways of closing', () => {
  for (const ip of [Uint8Array.of(10, 0, 0, 5), Uint8Array.from([0xfd, ...new Array<number>(14).fill(0), 5])]) {
    const rig = new Rig(echo)
    const peer = new Peer(rig, { ip })
    const synAck = peer.connect()
    assert.equal(synAck.mss, ip.length === 4 ? 1460 : 1440)
    assert.deepEqual([rig.opened[0].port, rig.opened[0].clientIp], ['vm1', ip])
    const [data, ...more] = peer.data([1, 2, 3])
    assert.equal(more.length, 0, 'data carries the acknowledgment')
    assert.deepEqual([[...data.payload], data.acknowledgment, data.sequence], [[1, 2, 3], peer.next, peer.expected])
    peer.expected += 3
    assert.equal(peer.send(ACK).length, 0)
    const [fin] = peer.data([], ACK | FIN)
    assert.equal(fin.flags & FIN, FIN)
    peer.expected++
    peer.send(ACK)
    assert.equal(rig.responder.size, 0)

    const other = new Peer(rig, { ip, port: 40_001 })
    other.connect()
    rig.opened[1].end()
    const [ours] = rig.take()
    assert.equal(ours.flags & FIN, FIN)
    other.expected++
    other.send(ACK)
    const [last] = other.data([], ACK | FIN)
    assert.deepEqual([last.flags, last.acknowledgment], [ACK, other.next])
    assert.equal(rig.responder.size, 1, 'lingers')
    rig.clock.advance(5001)
    assert.equal(rig.responder.size, 0)
    assert.equal(rig.clock.waiting, 0, 'no timer without connections')
  }
})

test('both ends close at once', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  peer.connect()
  rig.opened[0].end()
  const [ack] = peer.data([], ACK | FIN)
  assert.equal(ack.acknowledgment, peer.next)
  peer.expected++
  peer.send(ACK)
  rig.clock.advance(5001)
  assert.equal(rig.responder.size, 0)
})

test('what is for other ports or addresses, damaged, or from nowhere is not taken', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  const good = peer.frame(SYN)
  const at = (change: (frame: Uint8Array) => void): boolean => {
    const frame = good.slice()
    change(frame)
    return rig.responder.receive(frame, 'vm1')
  }
  assert.equal(
    at((frame) => (frame[5] = 7)),
    false,
    'MAC',
  )
  assert.equal(
    at((frame) => (frame[37] = 54)),
    false,
    'port, and the checksum with it',
  )
  assert.equal(
    at((frame) => (frame[40] ^= 1)),
    false,
    'TCP checksum',
  )
  assert.equal(
    at((frame) => (frame[24] ^= 1)),
    false,
    'IPv4 checksum',
  )
  assert.equal(rig.responder.receive(good.slice(0, -1), 'vm1'), false, 'cut short')
  for (const ip of [
    [0, 0, 0, 0],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
  ])
    assert.equal(rig.responder.receive(new Peer(rig, { ip: Uint8Array.from(ip) }).frame(SYN), 'vm1'), false)
  assert.equal(rig.take().length, 0)
  const unfinished = good.slice()
  unfinished[50] ^= 0xff
  assert.equal(rig.responder.receive(unfinished, 'vm1', true), true, 'a checksum left to the card')
  assert.equal(rig.take().length, 1)
  const padded = Uint8Array.from([...new Peer(rig, { port: 7 }).frame(SYN), 0, 0])
  assert.equal(rig.responder.receive(padded, 'vm1'), true)
})

test('segments of no connection get RST, as RFC 9293 says, at a limited rate', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  peer.expected = 777
  const [reset] = peer.send(ACK)
  assert.deepEqual([reset.flags, reset.sequence], [RST, 777])
  const [other] = peer.send(FIN, { payload: Uint8Array.of(1) })
  assert.deepEqual([other.flags, other.sequence, other.acknowledgment], [RST | ACK, 0, 1002])
  assert.equal(peer.send(RST).length, 0)
  let count = 0
  for (let i = 0; i < 500; i++) count += peer.send(ACK).length
  assert.equal(count, 98)
  rig.clock.advance(1000)
  assert.equal(peer.send(ACK).length, 1)
})

test('RFC 5961: resets and SYNs that only guess are challenged', () => {
  const rig = new Rig(echo)
  const peer = new Peer(rig)
  peer.connect()
  assert.equal(peer.send(RST, { sequence: peer.next - 1 }).length, 0)
  assert.equal(peer.send(RST, { sequence: peer.next + 20_000 }).length, 0)
  const [challenge] = peer.send(RST, { sequence: peer.next + 1 })
  assert.deepEqual([challenge.flags, challenge.acknowledgment], [ACK, peer.next])
  assert.equal(peer.send(SYN, { sequence: 5 })[0].flags, ACK)
  assert.equal(peer.send(SYN | ACK)[0].flags, ACK)
  assert.equal(peer.send(ACK, { acknowledgment: peer.expected + 1 })[0].flags, ACK, 'of what was not sent')
  assert.equal(peer.send(ACK, { acknowledgment: peer.expected - 100_000 })[0].flags, ACK, 'too old')
  const [beyond] = peer.data([1], ACK, { sequence: peer.next + 20_000 })
  assert.equal(beyond.acknowledgment, peer.next - 1, 'out of the window')
  peer.next--
  assert.equal(peer.data([9])[0].payload[0], 9, 'and all is well')
  let closed = 0
  rig.opened[0].onClose = () => closed++
  assert.equal(peer.send(RST).length, 0)
  assert.deepEqual([rig.responder.size, closed], [0, 1])
})

test('an acknowledgment of another SYN than ours gets RST', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  const [synAck] = peer.send(SYN)
  peer.next++
  const [reset] = peer.send(ACK, { acknowledgment: synAck.sequence + 2 })
  assert.deepEqual([reset.flags, reset.sequence], [RST, synAck.sequence + 2])
  assert.equal(rig.opened.length, 0)
})

test('limits: four of a client, twenty in all, half-open ones give way', () => {
  const rig = new Rig()
  const peers = Array.from({ length: 4 }, (_, i) => new Peer(rig, { port: 1000 + i }))
  for (const peer of peers) peer.connect()
  assert.equal(new Peer(rig, { port: 2000 }).send(SYN)[0].flags, RST | ACK, 'all four are open')
  rig.opened[0].abort()
  for (let i = 0; i < 100; i++) new Peer(rig, { port: 3000 + i }).send(SYN)
  assert.equal(rig.responder.size, 4, 'a flood of SYNs displaces itself')
  for (let vm = 2; vm <= 5; vm++)
    for (let i = 0; i < 4; i++) new Peer(rig, { ingress: `vm${vm}`, port: 1000 + i }).connect()
  assert.equal(rig.responder.size, 20)
  const late = new Peer(rig, { ingress: 'vm6' })
  late.connect()
  assert.equal(rig.responder.size, 20)
  const more = new Peer(rig, { ingress: 'vm6', port: 5 })
  more.connect()
  assert.equal(rig.responder.size, 20, 'who has most gives way')
})

test('nothing new for 10 s ends it, half-open or open; a lost answer is sent again, six times in all', () => {
  const rig = new Rig(echo)
  const peer = new Peer(rig)
  peer.send(SYN)
  assert.equal(peer.send(SYN)[0].flags, SYN | ACK, 'a SYN again')
  rig.clock.advance(10_001)
  const again = rig.take()
  assert.ok(again.length >= 3 && again.slice(0, -1).every(({ flags }) => flags === (SYN | ACK)))
  assert.equal(again.at(-1)!.flags, RST | ACK)
  assert.equal(rig.responder.size, 0)

  const other = new Peer(rig, { port: 7 })
  other.connect()
  rig.clock.advance(9000)
  assert.equal(rig.responder.size, 1)
  other.data([1])
  rig.clock.advance(9000)
  const copies = rig.take()
  assert.ok(copies.length >= 2 && copies.length <= 6)
  assert.ok(copies.filter(({ flags }) => (flags & RST) === 0).every(({ payload }) => payload[0] === 1))
  rig.clock.advance(10_000)
  assert.equal(rig.responder.size, 0)
})

test('a closed window is probed, and data flows when it opens', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  peer.connect(0)
  rig.opened[0].write(Uint8Array.of(1, 2, 3, 4))
  assert.equal(rig.take().length, 0)
  rig.clock.advance(1500)
  const probes = rig.take()
  assert.ok(probes.length >= 1 && probes.every(({ payload }) => payload.length === 1))
  const rest = peer.send(ACK, { window: 100 })
  assert.deepEqual(rest.flatMap(({ payload }) => [...payload]).slice(-3), [2, 3, 4])
})

test('a peer that takes nothing cannot make us keep more than 256 KiB', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  peer.connect(0)
  let closed = false
  rig.opened[0].onClose = () => (closed = true)
  const isClosed = (): boolean => closed
  for (let i = 0; i < 20 && !isClosed(); i++) rig.opened[0].write(new Uint8Array(30_000))
  assert.ok(closed)
  assert.equal(rig.take().at(-1)!.flags & RST, RST)
})

test('a new connection of the same ports right after the old one', () => {
  const rig = new Rig()
  const peer = new Peer(rig)
  peer.connect()
  rig.opened[0].end()
  rig.take()
  peer.expected++
  peer.data([], ACK | FIN)
  peer.next += 10
  peer.connect()
  assert.deepEqual([rig.responder.size, rig.opened.length], [1, 2])
})

/** A peer that sends a text and wants it back, over a link that loses, doubles and reorders. */
function runLossy(seed: number, bytes: number, loss: number, start: number, mtu: number): void {
  const next = random(seed)
  const rig = new Rig(echo, mtu)
  const text = Uint8Array.from({ length: bytes }, () => next(256))
  const received = new Uint8Array(bytes)
  const peer = new Peer(rig)
  peer.next = start
  let queue: (() => void)[] = []
  const cross = (deliver: () => void): void => {
    if (next(100) < loss) return
    queue.push(deliver)
    if (next(100) < loss) queue.push(deliver)
  }
  const base = (start + 1) | 0
  let expected = 0 // sequence of ours, absolute
  let have = 0
  let acknowledged = 0
  let isOpen = false
  let isFinSeen = false
  rig.onSent = (segment) => {
    assert.ok(segment.payload.length <= mtu - 40)
    cross(() => {
      if ((segment.flags & RST) !== 0) {
        assert.ok(isFinSeen, `seed ${seed}: reset`) // late copies come to a connection that is no more
        return
      }
      if ((segment.flags & SYN) !== 0) {
        if (!isOpen) expected = (segment.sequence + 1) | 0
        isOpen = true
      } else {
        acknowledged = Math.max(acknowledged, (segment.acknowledgment - base) | 0)
        if (segment.sequence === expected) {
          received.set(segment.payload, have)
          have += segment.payload.length
          expected = (expected + segment.payload.length) | 0
          if ((segment.flags & FIN) !== 0) {
            isFinSeen = true
            expected = (expected + 1) | 0
          }
        }
      }
      if (isOpen) put(ACK, (base + acknowledged) | 0, 0, 0)
    })
  }
  const put = (flags: number, sequence: number, from: number, end: number): void => {
    const frame = peer.frame(flags, { sequence, acknowledgment: expected, payload: text.slice(from, end) })
    cross(() => rig.responder.receive(frame, 'vm1'))
  }
  const isDone = (): boolean => isFinSeen && have === bytes
  for (let round = 0; round < 4000 && !isDone(); round++) {
    if (!isOpen) put(SYN, start, 0, 0)
    else
      for (let from = acknowledged; from < Math.min(bytes, acknowledged + 4000); from += 1000) {
        const end = Math.min(bytes, from + 1000)
        put(end === bytes ? ACK | FIN : ACK, (base + from) | 0, from, end)
      }
    if (isOpen && acknowledged >= bytes) put(ACK | FIN, (base + bytes) | 0, bytes, bytes)
    for (let steps = 0; queue.length > 0 && steps < 2000; steps++) {
      const at = next(Math.min(queue.length, 4))
      queue.splice(at, 1)[0]()
    }
    queue = []
    rig.clock.advance(100)
  }
  assert.ok(isFinSeen && have === bytes, `seed ${seed}: ${have} of ${bytes}`)
  assert.deepEqual(received, text, `seed ${seed}`)
}

test('through loss, doubles and reordering all bytes arrive in order, sequence numbers wrapping', () => {
  for (let seed = 1; seed <= 40; seed++)
    runLossy(seed, 1 + ((seed * 997) % 20_000), seed % 4 === 0 ? 0 : 15, 0x7fffff00 + seed, 1500)
  for (let seed = 41; seed <= 50; seed++) runLossy(seed, 5000, 20, -50, 576)
})

test('mutated and random segments: nothing throws, tables stay bounded, all ends in time', () => {
  const next = random(77)
  const rig = new Rig(echo)
  const peers = Array.from({ length: 12 }, (_, i) => new Peer(rig, { port: 100 + i, ingress: `vm${i % 3}` }))
  for (let i = 0; i < 20_000; i++) {
    const peer = peers[next(peers.length)]
    const last = rig.sent.filter(({ destination }) => destination.port === peer.port).at(-1)
    if (last) peer.expected = (last.sequence + last.payload.length + ((last.flags & 3) === 0 ? 0 : 1)) | 0
    const frame = peer.frame(next(4) === 0 ? next(64) : [SYN, ACK, ACK, ACK | FIN][next(4)], {
      sequence: (peer.next + next(3) + (next(10) === 0 ? next(100_000) - 50_000 : 0)) | 0,
      window: next(3) * next(65536),
      payload: new Uint8Array(next(3) === 0 ? next(1400) : 0),
    })
    if (next(6) === 0) frame[next(frame.length)] = next(256)
    rig.responder.receive(next(20) === 0 ? frame.slice(0, next(frame.length)) : frame, peer.ingress, next(2) === 0)
    if (rig.sent.length > 200) rig.sent.splice(0, 150)
    if (next(3) === 0) rig.clock.advance(next(300))
    assert.ok(rig.responder.size <= 12)
  }
  rig.clock.advance(60_000)
  assert.deepEqual([rig.responder.size, rig.clock.waiting], [0, 0])
})
