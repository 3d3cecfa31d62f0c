/**
 * Headers: what `parse` reads, what it refuses and why, every truncation, and that it reads nothing outside the frame.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as drops from '../../../src/dataplane/drops.js'
import { ETHERTYPE, LENGTH, OFFSET, RECORD_SHIFT } from '../../../src/dataplane/layout.js'
import * as router from '../../../src/dataplane/router/headers.js'
import { Bench, type Packet, build, extension, randomBelow, randomPacket } from './packet-builder.js'

const { FRAGMENT_FIRST, FRAGMENT_LATER, FRAGMENT_NONE, Headers } = router
const A4 = [0x0a000005]
const B4 = [0x5db8d822]
const A6 = [0xfd000001 | 0, 0, 0, 5]
const B6 = [0x20010db8, 0x70000, 0, 0x99]

const bench = new Bench()
const headers = new Headers()

const four = (more: Partial<Packet> = {}): Packet => ({ family: 4, source: A4, destination: B4, protocol: 17, ...more })
const six = (more: Partial<Packet> = {}): Packet => ({ family: 6, source: A6, destination: B6, protocol: 17, ...more })

/** The reason's name, '' for none. */
function judge(ip: Uint8Array, options: { padding?: number; family?: number } = {}): string {
  const packet = bench.put(ip, { atEnd: true, ...options })
  const reason = headers.parse(bench.pool, packet)
  bench.pool.release(packet)
  return reason === 0 ? '' : (drops.DROP_NAMES[reason] ?? `number ${reason}`)
}

/** Changes bytes of an IPv4 packet and mends its header checksum. */
function mended(ip: Uint8Array, changes: [at: number, value: number][]): Uint8Array {
  const bytes = ip.slice()
  for (const [at, value] of changes) bytes[at] = value
  bytes[10] = bytes[11] = 0
  let sum = 0
  for (let i = 0; i < (bytes[0] & 15) * 4; i += 2) sum += bytes[i] * 256 + bytes[i + 1]
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  bytes[10] = (0xffff - sum) >> 8
  bytes[11] = (0xffff - sum) & 255
  return bytes
}

test('an ordinary IPv4 packet, with padding behind it', () => {
  const ip = build(four({ protocol: 6, sourcePort: 43210, destinationPort: 443, dontFragment: true, id: 77 }))
  const packet = bench.put(ip, { padding: 6 })
  const frame = bench.pool.records[(packet << RECORD_SHIFT) + OFFSET]
  assert.equal(headers.parse(bench.pool, packet), 0)
  bench.pool.release(packet)
  const { family, protocol, source0, destination0, sourcePort, destinationPort, icmp, fragment } = headers
  assert.deepEqual(
    { family, protocol, source0, destination0, sourcePort, destinationPort, icmp, fragment },
    {
      family: 4,
      protocol: 6,
      source0: A4[0],
      destination0: B4[0],
      sourcePort: 43210,
      destinationPort: 443,
      icmp: -1,
      fragment: FRAGMENT_NONE,
    },
  )
  assert.deepEqual([headers.l3, headers.l4, headers.end], [frame + 14, frame + 34, frame + 14 + ip.length])
  assert.equal(headers.dontFragment, true)
  assert.equal(headers.fragmentId, 77)
  assert.equal(headers.hopLimit, 64)
  assert.equal(headers.packet, packet)
})

test('an IPv6 packet behind extension headers, and what an earlier packet left is gone', () => {
  judge(build(four({ protocol: 1, type: 8, identifier: 5 })))
  assert.deepEqual([headers.icmp, headers.sourcePort, headers.destinationPort], [0x0800, 5, 5])
  const chain: NonNullable<Packet['extensions']> = [
    [0, extension(8)],
    [43, [1, 4, 0, ...extension(16).slice(3)]],
    [51, [2, ...Array.from({ length: 14 }, () => 1)]],
    [60, extension(24)],
  ]
  assert.equal(judge(build(six({ extensions: chain, sourcePort: 1, destinationPort: 2, payload: [1, 2, 3] }))), '')
  assert.equal(headers.l4 - headers.l3, 40 + 8 + 16 + 16 + 24)
  assert.equal(headers.end - headers.l4, 11)
  assert.deepEqual([headers.protocol, headers.sourcePort, headers.destinationPort, headers.icmp], [17, 1, 2, -1])
  assert.deepEqual([headers.source0, headers.source1, headers.source2, headers.source3], A6)
  assert.deepEqual([headers.destination0, headers.destination1, headers.destination2, headers.destination3], B6)
  assert.equal(headers.dontFragment, true)
  judge(build(four({ sourcePort: 9 })))
  assert.deepEqual([headers.source1, headers.destination3, headers.icmp], [0, 0, -1])
})

test('identifiers of queries stand in both ports, other ICMP has none', () => {
  for (const [family, type, isQuery] of [
    [4, 0, true],
    [4, 8, true],
    [4, 13, true],
    [4, 14, true],
    [4, 3, false],
    [4, 128, false],
    [6, 128, true],
    [6, 129, true],
    [6, 1, false],
    [6, 8, false],
  ] as const) {
    const packet = family === 4 ? four({ protocol: 1 }) : six({ protocol: 58 })
    assert.equal(judge(build({ ...packet, type, identifier: 321 })), '')
    assert.deepEqual([headers.sourcePort, headers.destinationPort], isQuery ? [321, 321] : [0, 0], `${family} ${type}`)
    assert.equal(headers.icmp, type << 8)
  }
})

test('IPv4 headers that contradict themselves or the frame', () => {
  const ip = build(four({ payload: [1, 2, 3, 4] }))
  assert.equal(judge(mended(ip, [[0, 0x55]])), 'bad-ip')
  assert.equal(judge(mended(ip, [[0, 0x44]])), 'bad-ip')
  assert.equal(judge(mended(ip, [[0, 0x4f]])), 'bad-ip')
  assert.equal(judge(mended(ip, [[3, 19]])), 'bad-ip')
  assert.equal(judge(mended(ip, [[3, 33]])), 'bad-ip')
  assert.equal(judge(mended(ip, [[3, 0]])), 'bad-ip')
  assert.equal(judge(ip, { family: 6 }), 'bad-ip')
  for (let bit = 0; bit < 160; bit++) {
    const broken = ip.slice()
    broken[bit >> 3] ^= 1 << (bit & 7)
    assert.ok(['bad-ip-checksum', 'bad-ip'].includes(judge(broken)), `bit ${bit}`)
  }
})

test('IPv4 options: source routes are refused, malformed ones too, the rest pass', () => {
  const withOptions = (...options: number[]): string => judge(build(four({ options })))
  assert.equal(withOptions(131, 7, 4, 1, 2, 3, 4, 0), 'ip-options')
  assert.equal(withOptions(1, 137, 7, 4, 1, 2, 3, 4), 'ip-options')
  assert.equal(withOptions(148, 4, 0, 0), '') // router alert
  assert.equal(withOptions(7, 7, 4, 1, 2, 3, 4, 1), '')
  assert.equal(withOptions(0, 131, 7, 4), '', 'behind the end nothing counts')
  assert.equal(withOptions(7, 1, 0, 0), 'bad-ip')
  assert.equal(withOptions(7, 0, 0, 0), 'bad-ip')
  assert.equal(withOptions(7, 5, 0, 0), 'bad-ip')
  assert.equal(withOptions(1, 1, 1, 7), 'bad-ip')
  assert.equal(withOptions(1, 1, 1, 1), '')
})

test('IPv4 fragments', () => {
  const payload = Array.from({ length: 100 }, (_, i) => i)
  const piece = (from: number, to: number, more: boolean, rest: Partial<Packet> = {}): string =>
    judge(build(four({ payload, fragment: { id: 0xbeef, from, to, more }, ...rest })))
  assert.equal(piece(0, 64, true), '')
  assert.deepEqual([headers.fragment, headers.fragmentId, headers.fragmentOffset], [FRAGMENT_FIRST, 0xbeef, 0])
  assert.equal(headers.moreFragments, true)
  assert.equal(piece(64, 108, false, { sourcePort: 5 }), '')
  assert.deepEqual([headers.fragment, headers.fragmentOffset, headers.sourcePort], [FRAGMENT_LATER, 64, 0])
  assert.equal(headers.end - headers.l4, 44)
  assert.equal(piece(0, 63, true), 'bad-ip', 'no multiple of 8')
  assert.equal(piece(8, 8, true), 'bad-ip', 'empty')
  assert.equal(piece(8, 8, false), 'bad-ip', 'empty')
  const last = (offset: number, length: number): string =>
    judge(
      mended(build(four({ payload: payload.slice(0, length - 8) })), [
        [6, offset >> 11],
        [7, (offset >> 3) & 255],
      ]),
    )
  assert.equal(last(65504, 11), '')
  assert.equal(last(65504, 12), 'bad-ip', 'past 65535')
  assert.equal(last(65528, 8), 'bad-ip')
})

test('a first fragment holds the transport header; a later one of TCP cannot overlay it', () => {
  const tcp = four({ protocol: 6, tcpOptions: [2, 4, 5, 180], payload: [1, 2, 3, 4, 5, 6, 7, 8] })
  const piece = (packet: Packet, from: number, to: number): string =>
    judge(build({ ...packet, fragment: { id: 1, from, to, more: true } }))
  assert.equal(piece(tcp, 0, 8), 'bad-transport')
  assert.equal(piece(tcp, 0, 16), 'bad-transport')
  assert.equal(piece(tcp, 0, 24), '')
  assert.equal(piece({ ...tcp, tcpOptions: [1, 1, 1, 1, 1, 1, 1, 1] }, 0, 24), 'bad-transport')
  assert.equal(piece(tcp, 8, 16), 'bad-transport')
  assert.equal(piece(tcp, 16, 24), 'bad-transport')
  assert.equal(piece(tcp, 24, 32), '')
  assert.equal(piece(four({ payload: Array.from({ length: 32 }, () => 0) }), 8, 16), '')
  const tcp6: Packet = { ...tcp, ...six({ protocol: 6 }) }
  assert.equal(piece(tcp6, 0, 16), 'bad-transport')
  assert.equal(piece(tcp6, 0, 24), '')
  assert.equal(piece(tcp6, 16, 24), 'bad-transport')
})

test('IPv6 fragments: first, later, lone, and a chain that does not fit the first', () => {
  const payload = Array.from({ length: 100 }, (_, i) => i)
  const piece = (from: number, to: number, more: boolean): string =>
    judge(build(six({ payload, sourcePort: 7, fragment: { id: 0xcafef00d | 0, from, to, more } })))
  assert.equal(piece(0, 64, true), '')
  assert.deepEqual([headers.fragment, headers.fragmentId, headers.sourcePort], [FRAGMENT_FIRST, 0xcafef00d | 0, 7])
  assert.equal(headers.fragmentHeader, headers.l3 + 40)
  assert.equal(piece(64, 108, false), '')
  assert.deepEqual([headers.fragment, headers.fragmentOffset, headers.sourcePort], [FRAGMENT_LATER, 64, 0])
  assert.equal(headers.l4, headers.l3 + 48)
  assert.equal(piece(0, 108, false), '', 'lone: a whole packet')
  assert.deepEqual([headers.fragment, headers.fragmentHeader, headers.sourcePort], [FRAGMENT_NONE, headers.l3 + 40, 7])
  assert.equal(piece(0, 60, true), 'bad-ip', 'no multiple of 8')
  assert.equal(piece(8, 8, true), 'bad-ip', 'empty')
  const late = build(six({ payload, fragment: { id: 1, from: 64, to: 108, more: false } }))
  late[42] = 0xff
  late[43] = 0xf8
  assert.equal(judge(late), 'bad-ip', 'past 65535')
  // the chain goes on behind the fragment header, and is cut off in the first fragment
  const behind = six({ protocol: 60, payload: [17, 3, ...Array.from({ length: 30 }, () => 0)] })
  assert.equal(judge(build({ ...behind, fragment: { id: 1, from: 0, to: 16, more: true } })), 'bad-transport')
  assert.equal(judge(build({ ...behind, fragment: { id: 1, from: 0, to: 32, more: true } })), 'bad-transport')
  assert.equal(judge(build({ ...behind, fragment: { id: 1, from: 0, to: 16, more: false } })), 'bad-ip')
  const twice = six({ extensions: [[44, [0, 0, 1, 0, 0, 0, 1]]], fragment: { id: 1, from: 0, to: 8, more: true } })
  assert.equal(judge(build(twice)), 'bad-ip', 'two fragment headers')
})

test('IPv6 headers: lengths, the order and the limits of extension headers', () => {
  const options = (count: number, bytes = 8): NonNullable<Packet['extensions']> =>
    Array.from({ length: count }, () => [60, extension(bytes)])
  assert.equal(judge(build(six({ extensions: options(8) }))), '')
  assert.equal(judge(build(six({ extensions: options(9) }))), 'ip-options')
  assert.equal(judge(build(six({ extensions: options(1, 256) }))), '')
  assert.equal(judge(build(six({ extensions: options(1, 264) }))), 'ip-options')
  assert.equal(judge(build(six({ extensions: options(2, 136) }))), 'ip-options')
  const late: NonNullable<Packet['extensions']> = [
    [60, extension(8)],
    [0, extension(8)],
  ]
  assert.equal(judge(build(six({ extensions: late }))), 'bad-ip')
  assert.equal(judge(build(six({ extensions: [[43, [2, 0, 1, ...extension(24).slice(3)]]] }))), 'ip-options')
  for (const surroundings of [0x00, 0x2b, 0xff])
    for (const type of [0, 43, 44, 51, 60])
      for (let length = 0; length < 8; length++) {
        const cutOff = build(six({ protocol: 253, payload: Array.from({ length }, () => 2) }))
        cutOff[6] = type
        bench.fill(surroundings)
        assert.equal(judge(cutOff), 'bad-ip', `${type} ${length}`)
      }
  assert.equal(judge(build(six({ protocol: 59 }))), '')
  assert.deepEqual([headers.protocol, headers.end - headers.l4], [59, 0])
  assert.equal(judge(build(six({ protocol: 50, payload: [1] }))), '')
  assert.equal(headers.protocol, 50)
  const long = build(six({ payload: [1] }))
  long[5]++
  assert.equal(judge(long), 'bad-ip')
  assert.equal(judge(long, { padding: 1 }), '', 'UDP may be shorter than what holds it')
  const jumbo = build(six({ extensions: [[0, [0, 0xc2, 4, 0, 1, 0, 0]]] }))
  jumbo[4] = jumbo[5] = 0
  assert.equal(judge(jumbo), 'bad-ip')
})

test('transport headers', () => {
  for (const packet of [four(), six()]) {
    const at = packet.family === 4 ? 20 : 40
    const tcp = build({ ...packet, protocol: 6 })
    for (const [offset, reason] of [
      [4, 'bad-transport'],
      [6, 'bad-transport'],
      [0, 'bad-transport'],
      [5, ''],
    ] as const) {
      tcp[at + 12] = offset << 4
      assert.equal(judge(tcp), reason)
    }
    const udp = build({ ...packet, payload: [1, 2, 3] })
    for (const [length, reason] of [
      [0, 'bad-transport'],
      [7, 'bad-transport'],
      [8, ''],
      [11, ''],
      [12, 'bad-transport'],
    ] as const) {
      udp[at + 5] = length
      assert.equal(judge(udp), reason, `UDP ${length}`)
    }
    const icmp = packet.family === 4 ? 1 : 58
    for (const [protocol, least] of [
      [6, 20],
      [17, 8],
      [icmp, 8],
      [33, 12],
      [132, 12],
      [136, 8],
      [47, 0],
    ]) {
      for (let length = 0; length <= least; length++) {
        const bytes = Array.from({ length }, (_, i) => (i === 12 ? 0x50 : i === 5 ? 8 : 0))
        // an unknown protocol's payload is written as it is
        const ip = build({ ...packet, protocol: 253, payload: bytes })
        ip[packet.family === 4 ? 9 : 6] = protocol
        const whole = packet.family === 4 ? mended(ip, []) : ip
        assert.equal(judge(whole), length < least ? 'bad-transport' : '', `${protocol} ${length}`)
      }
    }
  }
})

test('unfinished checksums: of the transport itself, or of something inside; never of what is judged', () => {
  const unfinished = (packet: Packet, start: number, offset: number): string => {
    const put = bench.put(build(packet))
    headers.parse(bench.pool, put)
    bench.leaveUnfinished(put, headers.l4 + start, offset)
    const reason = headers.parse(bench.pool, put)
    bench.pool.release(put)
    return reason === 0 ? '' : (drops.DROP_NAMES[reason] ?? '')
  }
  const payload = Array.from({ length: 64 }, () => 0)
  for (const base of [four({ payload }), six({ payload })]) {
    const icmp = base.family === 4 ? 1 : 58
    assert.equal(unfinished(base, 0, 6), '')
    assert.equal(unfinished(base, 8, 16), '', 'inside UDP')
    for (const [start, offset] of [
      [0, 16],
      [-20, 16],
      [-20, 28],
      [2, 0],
      [7, 6],
      [8, 63],
    ])
      assert.equal(unfinished(base, start, offset), 'bad-offload', `UDP ${start} ${offset}`)
    assert.equal(unfinished({ ...base, protocol: 6 }, 0, 16), '')
    assert.equal(unfinished({ ...base, protocol: 6 }, 0, 6), 'bad-offload')
    assert.equal(unfinished({ ...base, protocol: 6 }, 20, 16), 'bad-offload')
    assert.equal(unfinished({ ...base, protocol: icmp, type: 1 }, 0, 2), '')
    assert.equal(unfinished({ ...base, protocol: icmp, type: 1 }, 8, 2), 'bad-offload')
    assert.equal(unfinished({ ...base, protocol: 47 }, 0, 6), 'bad-offload')
    assert.equal(unfinished({ ...base, protocol: 47 }, 8, 6), '')
    const fragment = { id: 1, from: 0, to: 64, more: true }
    assert.equal(unfinished({ ...base, fragment }, 0, 6), 'bad-offload', 'a fragment')
  }
})

test('every truncation of every kind of packet is refused', () => {
  const random = randomBelow(0x51ab)
  for (let i = 0; i < 60; i++) {
    const ip = build(randomPacket(random))
    assert.equal(judge(ip), '')
    for (let length = 0; length < ip.length; length++)
      assert.notEqual(judge(ip.slice(0, length), { family: ip[0] >> 4 }), '', `${length} of ${ip.length}`)
  }
})

test('nothing outside the frame is read: mutated packets give the same whatever surrounds them', () => {
  const random = randomBelow(0xf00d)
  const other = new Headers()
  let passed = 0
  for (let i = 0; i < 6000; i++) {
    const ip = build(randomPacket(random))
    const family = ip[0] >> 4
    for (let n = random(4); n > 0; n--) ip[random(Math.min(ip.length, 80))] = random(256)
    let mutated = random(2) === 0 ? ip : ip.slice(0, random(ip.length + 1))
    if (family === 4 && mutated.length >= (mutated[0] & 15) * 4 && random(4) !== 0) mutated = mended(mutated, [])
    const seen: unknown[] = []
    for (const value of [0x00, 0xff, 0x2c]) {
      const packet = bench.put(mutated, { atEnd: true, family })
      const record = packet << RECORD_SHIFT
      const frame = bench.pool.records[record + OFFSET]
      const end = frame + bench.pool.records[record + LENGTH]
      bench.pool.bytes.fill(value, frame - 64, frame)
      bench.pool.bytes.fill(value, end, end + 1024)
      const reason = other.parse(bench.pool, packet)
      if (reason === 0) {
        passed++
        assert.ok(other.l3 < other.l4 && other.l4 <= other.end && other.end <= end, 'bounds')
      }
      seen.push(reason === 0 ? Object.assign(new Headers(), other) : reason)
      bench.pool.release(packet)
    }
    assert.deepEqual(seen[1], seen[0])
    assert.deepEqual(seen[2], seen[0])
  }
  assert.ok(passed > 1000, `${passed}`)
})

test('another EtherType is refused', () => {
  const packet = bench.put(build(four()))
  bench.pool.records[(packet << RECORD_SHIFT) + ETHERTYPE] = 0x0806
  assert.equal(headers.parse(bench.pool, packet), drops.DROP_BAD_IP)
  bench.pool.release(packet)
})
