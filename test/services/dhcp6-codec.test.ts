/** DHCPv6 messages: vectors made with scapy 2.7; each read, cut short at every octet, its lengths inflated. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatIp, parseIp } from '../../src/services/address.js'
import * as codec from '../../src/services/dhcp6-codec.js'
import { readDatagram } from '../../src/services/frame.js'

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'))
const uuid = 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'
const clientId = '000100011c39cf88525400123456'
const solicitFrame = hex(
  '33330001000252540012345686dd6000000000571101fe80000000000000505400fffe123456ff0200000000000000000000000100020222' +
    '02230057c7600110a0b00001000e000100011c39cf885254001234560003000c0012345600000000000000000006000800170018002700' +
    '52002700130103776562076578616d706c65047465737400000800020000',
)
const rapid = hex(
  '0110a0b10001000e000100011c39cf885254001234560003000c001234560000000000000000000600080017001800270052000e0000',
)
const renew = hex(
  '0510a0b30001000e000100011c39cf88525400123456000200120004f81d4fae7dec11d0a76500a0c91e6bf6000300280012345600000000' +
    '0000000000050018fd000000000000010000000000001234000000000000000000190029000000070000000000000000001a0019000000' +
    '00000000003820010db80001000000000000000000000004000400000009',
)
const relayed = hex(
  '0c0100000000000000000000000000000000fe8000000000000000000000000000020012000675706c696e6b000900570c00fd0000000000' +
    '00010000000000000001fe80000000000000505400fffe12345600120007657468302e3130000900260110a0b40001000e000100011c39' +
    'cf885254001234560003000c001234560000000000000000',
)
const information = hex('0b10a0b5000600080017001800270052')
const all = { solicit: solicitFrame.subarray(62), rapid, renew, relayed, information }

const join = (...parts: Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts))
const option = (code: number, data: Uint8Array): Uint8Array =>
  Uint8Array.of(code >> 8, code, data.length >> 8, data.length, ...data)
const client = option(codec.OPTION_CLIENT_ID, hex(clientId))
const solicit = (...options: Uint8Array[]): Uint8Array => join(Uint8Array.of(1, 0, 0, 1), client, ...options)

test('a SOLICIT is read', () => {
  const { relays, message } = codec.readRequest(readDatagram(solicitFrame)!.payload)!
  assert.deepEqual(relays, [])
  assert.deepEqual(message, {
    type: codec.SOLICIT,
    transaction: 0x10a0b0,
    clientId: hex(clientId),
    serverId: null,
    associations: [{ kind: codec.OPTION_IA_NA, iaid: 0x123456, addresses: [] }],
    requested: [23, 24, 39, 82],
    hasRapidCommit: false,
    fqdn: hex('0103776562076578616d706c65047465737400'),
    architecture: null,
  })
  assert.equal(codec.readRequest(rapid)!.message.hasRapidCommit, true)
})

test('a RENEW with all kinds of associations', () => {
  const { message } = codec.readRequest(renew)!
  assert.deepEqual(message.serverId, codec.duidOf(uuid))
  assert.deepEqual(
    message.associations.map(({ kind, iaid, addresses }) => [kind, iaid, addresses.map(formatIp)]),
    [
      [codec.OPTION_IA_NA, 0x123456, ['fd00:0:0:1::1234']],
      [codec.OPTION_IA_PD, 7, []],
      [codec.OPTION_IA_TA, 9, []],
    ],
  )
})

test('through relays, and back the same way', () => {
  const { relays, message } = codec.readRequest(relayed)!
  assert.equal(message.transaction, 0x10a0b4)
  assert.deepEqual(
    relays.map(({ hopCount, link, peer, interfaceId }) => [
      hopCount,
      formatIp(link),
      formatIp(peer),
      Buffer.from(interfaceId!).toString(),
    ]),
    [
      [1, '::', 'fe80::2', 'uplink'],
      [0, 'fd00:0:0:1::1', 'fe80::5054:ff:fe12:3456', 'eth0.10'],
    ],
  )
  const back = codec.writeRelayReply(relays, relayed.subarray(-38))
  // the same octets, but for the two types
  assert.equal(back.length, relayed.length)
  assert.deepEqual(
    [...back.entries()].filter(([i, byte]) => byte !== relayed[i]),
    [
      [0, codec.RELAY_REPLY],
      [48, codec.RELAY_REPLY],
    ],
  )
})

test('eight relays are read, nine are refused', () => {
  for (let depth = 1; depth <= 12; depth++) {
    let bytes = solicit()
    for (let hop = 0; hop < depth; hop++) {
      const header = join(Uint8Array.of(codec.RELAY_FORWARD, hop), new Uint8Array(32))
      bytes = join(header, option(codec.OPTION_INTERFACE_ID, Uint8Array.of(hop)), option(9, bytes))
    }
    const received = codec.readRequest(bytes)
    assert.equal(received !== null, depth <= codec.MOST_RELAYS, `${depth}`)
    if (received === null) continue
    assert.deepEqual(
      received.relays.map(({ interfaceId }) => interfaceId![0]),
      Array.from({ length: depth }, (_, i) => depth - 1 - i),
    )
    let reply = codec.writeRelayReply(received.relays, Uint8Array.of(7, 0, 0, 1))
    for (let hop = depth - 1; hop >= 0; hop--) {
      assert.deepEqual([reply[0], reply[1]], [codec.RELAY_REPLY, hop])
      const options = codec.readOptions(reply, 34)!
      assert.deepEqual([...options[0].data], [hop])
      reply = options[1].data
    }
    assert.deepEqual([...reply], [7, 0, 0, 1])
  }
})

test('a relay that tells no interface gets none back; RFC 6939', () => {
  const relay = join(Uint8Array.of(12, 3), new Uint8Array(32))
  const inner = option(9, solicit())
  assert.equal(codec.readRequest(join(relay, inner))!.relays[0].interfaceId, null)
  const withMac = (data: number[]) => codec.readRequest(join(relay, option(79, Uint8Array.from(data)), inner))
  assert.deepEqual(withMac([0, 1, 2, 3, 4, 5, 6, 7])!.relays[0].clientMac, Uint8Array.of(2, 3, 4, 5, 6, 7))
  assert.equal(withMac([0, 6, 2, 3, 4, 5, 6, 7])!.relays[0].clientMac, null)
  assert.equal(withMac([0, 1, 2, 3])!.relays[0].clientMac, null)
  assert.equal(withMac([0]), null)
  assert.equal(codec.readRequest(relay), null, 'no message in it')
  assert.equal(codec.readRequest(join(relay, inner, inner)), null, 'two messages')
  assert.equal(codec.readRequest(join(relay, option(9, join(Uint8Array.of(13, 0), new Uint8Array(32))))), null)
  assert.equal(codec.readRequest(join(Uint8Array.of(12, 9), new Uint8Array(32), inner)), null, 'hop count')
})

test('every truncation is refused, or is a whole message of fewer options', () => {
  for (const [name, bytes] of Object.entries(all))
    for (let length = 0; length < bytes.length; length++) {
      const cut = bytes.subarray(0, length)
      const received = codec.readRequest(cut)
      if (received === null) continue
      assert.equal(received.relays.length, 0, `${name} ${length}`)
      assert.notEqual(codec.readOptions(cut, 4), null)
    }
})

test('what is cut out of a larger buffer is read within its bounds', () => {
  for (const bytes of Object.values(all))
    for (let length = 0; length < bytes.length; length++) {
      const rest = join(bytes.subarray(0, length), new Uint8Array(2000).fill(0xee))
      const view = rest.subarray(0, length)
      assert.deepEqual(codec.readRequest(view), codec.readRequest(bytes.slice(0, length)))
    }
})

test('every length, inflated, is refused or yields no octet beyond the message', () => {
  for (const [name, bytes] of Object.entries(all))
    for (let at = 4; at + 1 < bytes.length; at++)
      for (const more of [1, 7, 0x100, 0x7fff, 0xffff]) {
        const changed = bytes.slice()
        const length = (changed[at] << 8) + changed[at + 1] + more
        changed[at] = length >> 8
        changed[at + 1] = length
        const larger = join(changed, new Uint8Array(70000).fill(0xee))
        const received = codec.readRequest(larger.subarray(0, changed.length))
        if (received === null) continue
        const pieces = [received.message.clientId, received.message.serverId, received.message.fqdn]
        pieces.push(...received.relays.map(({ interfaceId }) => interfaceId))
        for (const piece of pieces)
          assert.ok(piece === null || Buffer.from(changed).includes(Buffer.from(piece)), `${name} ${at} +${more}`)
        assert.ok(!JSON.stringify(received.message.associations).includes('eeee'))
      }
})

test('copies: what is read does not change with the buffer', () => {
  const bytes = relayed.slice()
  const received = codec.readRequest(bytes)!
  const before = JSON.stringify(received)
  bytes.fill(0xff)
  assert.equal(JSON.stringify(received), before)
})

test('what servers do not receive is refused', () => {
  for (let type = 0; type < 256; type++) {
    const isRead = codec.readRequest(join(Uint8Array.of(type, 0, 0, 1), client)) !== null
    assert.equal(isRead, [1, 3, 4, 5, 6, 8, 9, 11].includes(type), `${type}`)
  }
})

test('options that stand once, and limits', () => {
  const association = (iaid: number, ...inner: Uint8Array[]): Uint8Array =>
    option(3, join(Uint8Array.of(0, 0, 0, iaid), new Uint8Array(8), ...inner))
  const address = option(5, new Uint8Array(24))
  const ok = (...options: Uint8Array[]): boolean => codec.readRequest(solicit(...options)) !== null
  assert.ok(ok())
  assert.ok(!ok(client), 'two client identifiers')
  assert.ok(ok(association(1), association(2)))
  assert.ok(!ok(association(1), association(1)), 'one IAID twice')
  const many = (count: number): Uint8Array[] => Array.from({ length: count }, (_, i) => association(i))
  assert.ok(ok(...many(codec.MOST_ASSOCIATIONS)))
  assert.ok(!ok(...many(codec.MOST_ASSOCIATIONS + 1)))
  assert.ok(ok(association(1, ...new Array(16).fill(address))))
  assert.ok(!ok(association(1, ...new Array(17).fill(address))))
  assert.ok(ok(...new Array(60).fill(option(16, new Uint8Array(0)))))
  assert.ok(!ok(...new Array(70).fill(option(16, new Uint8Array(0)))))
  assert.ok(!ok(option(200, new Uint8Array(1500))))
  assert.ok(!ok(option(3, new Uint8Array(11))), 'IA_NA cut short')
  assert.ok(!ok(option(4, new Uint8Array(3))), 'IA_TA cut short')
  assert.ok(!ok(association(1, option(5, new Uint8Array(23)))), 'address cut short')
  assert.ok(!ok(association(1, option(5, join(new Uint8Array(24), Uint8Array.of(0, 13, 0, 9))))), 'status beyond it')
  assert.ok(!ok(option(6, Uint8Array.of(0))), 'half a code')
  assert.ok(!ok(option(39, new Uint8Array(0))))
  assert.ok(!ok(option(61, new Uint8Array(0))))
  assert.ok(!ok(option(61, new Uint8Array(3))))
  for (const [length, isRead] of [
    [0, false],
    [2, false],
    [3, true],
    [130, true],
    [131, false],
  ] as const)
    assert.equal(codec.readRequest(join(Uint8Array.of(1, 0, 0, 1), option(1, new Uint8Array(length)))) !== null, isRead)
})

test('what is written is read by the same reader', () => {
  const association = { kind: codec.OPTION_IA_NA, iaid: 0xfedcba98, addresses: [] } as const
  const lease = codec.addressOption(parseIp('fd00::5')!, 100, codec.INFINITY)
  const bytes = codec.writeMessage(codec.REPLY, 0xabcdef, [
    { code: codec.OPTION_SERVER_ID, data: codec.duidOf(uuid) },
    codec.associationOption({ ...association, addresses: [] }, 50, 80, [lease]),
    codec.statusOption(codec.STATUS_NO_PREFIX, 'no'),
    codec.secondsOption(codec.OPTION_SOL_MAX_RT, 3600),
  ])
  assert.equal(
    Buffer.from(bytes).toString('hex'),
    '07abcdef000200120004f81d4fae7dec11d0a76500a0c91e6bf6' +
      '00030028fedcba98000000320000005000050018fd000000000000000000000000000005' +
      '00000064ffffffff000d000400066e6f0052000400000e10',
  )
  assert.deepEqual(
    codec.readOptions(bytes, 4)!.map(({ code }) => code),
    [2, 3, 13, 82],
  )
})

test('a DUID of a UUID (RFC 6355)', () => {
  assert.equal(Buffer.from(codec.duidOf(uuid)).toString('hex'), '0004f81d4fae7dec11d0a76500a0c91e6bf6')
  assert.throws(() => codec.duidOf('not a uuid'), RangeError)
})

test('seeded noise does not throw', () => {
  let state = 4711
  const random = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return (state >>> 8) % limit
  }
  let read = 0
  for (let i = 0; i < 30000; i++) {
    const bytes = Object.values(all)[random(5)].slice()
    for (let change = random(4); change >= 0; change--) bytes[random(bytes.length)] = random(256)
    if (codec.readRequest(bytes) !== null) read++
  }
  assert.ok(read > 1000 && read < 29000, `${read}`)
})
