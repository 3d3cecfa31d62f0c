/** The DHCPv6 server: each message of RFC 8415, who gets what, what is refused, and tshark as the judge of answers. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatIp, ipFromBytes, parseIp } from '../../src/services/address.js'
import { readDatagram, writeDatagram } from '../../src/services/frame.js'
import type { LeaseJournal } from '../../src/services/lease-journal.js'
import { DEFAULT_LEASE_SETTINGS, Leases } from '../../src/services/leases.js'
import { Dhcp6Server } from '../../src/services/dhcp6-server.js'
import {
  CLIENT,
  ROUTER_MAC,
  Rig,
  SERVER_ID,
  SETTINGS,
  UUID,
  address,
  addressesOf,
  datagram,
  fqdn,
  ia,
  macBytes,
  message,
  option,
  pool,
  prefixes,
  readAnswer,
  requested,
  temporary,
} from './dhcp6-rig.js'
import { dissect, withoutTshark } from './dissect.js'

const SOLICIT = 1
const ADVERTISE = 2
const REQUEST = 3
const CONFIRM = 4
const RENEW = 5
const REBIND = 6
const REPLY = 7
const RELEASE = 8
const DECLINE = 9
const INFORMATION = 11
const rapid = option(14)

test('SOLICIT, ADVERTISE, REQUEST, REPLY', () => {
  const rig = new Rig()
  const offer = rig.ask(SOLICIT, [ia(1), requested(23, 24)])!
  assert.equal(offer.type, ADVERTISE)
  assert.deepEqual(offer.options.get(2), SERVER_ID)
  assert.deepEqual([...offer.options.get(1)!.subarray(0, 4)], [0, 3, 0, 1])
  assert.deepEqual([...offer.options.get(7)!], [255])
  const [offered] = addressesOf(offer)
  assert.match(offered, /^fd00:0:0:1::1[\da-f]{3}$/)
  assert.deepEqual(rig.leases.list(), [])
  const reply = rig.ask(REQUEST, [ia(1, address(offered)), requested(23, 24)])!
  assert.equal(reply.type, REPLY)
  assert.deepEqual(reply.associations, [`3 1: ${offered} 2700/3600`])
  assert.deepEqual(reply.times, [[1350, 2160]])
  assert.equal(formatIp(ipFromBytes(reply.options.get(23)!)), 'fd00:0:0:1::1')
  assert.equal(reply.options.get(24)!.toString('latin1'), '\x07example\x04test\0')
  assert.equal(reply.options.has(7), false)
  assert.deepEqual(rig.events, [`granted ${offered}`])
  const [lease] = rig.leases.list()
  assert.deepEqual([lease.mac, lease.port, lease.seconds], [CLIENT, 'p1', 3600])
})

test('answers go to the client at its port, from the router', () => {
  const rig = new Rig()
  const answer = rig.send(message(SOLICIT, [ia(1)]))!
  assert.deepEqual(answer.source, { mac: ROUTER_MAC, ip: answer.source.ip, port: 547 })
  assert.equal(formatIp(ipFromBytes(answer.source.ip)), 'fe80::5000:ff:fe00:1')
  assert.deepEqual(answer.destination, { ...datagram(new Uint8Array(0)).source, port: 546 })
  assert.deepEqual([...answer.payload.subarray(1, 4)], [0xab, 0xcd, 0xef])
})

test('rapid commit', () => {
  const rig = new Rig()
  const reply = rig.ask(SOLICIT, [ia(1), rapid])!
  assert.equal(reply.type, REPLY)
  assert.ok(reply.options.has(14))
  assert.deepEqual(rig.leases.list().length, 1)
  assert.deepEqual(addressesOf(reply), [rig.leases.list()[0].text])
})

test('a frame from scapy is answered, and tshark finds nothing wrong in any answer', { skip: withoutTshark }, () => {
  const rig = new Rig({
    ntpServers: [parseIp('fd00::123')!],
    bootFiles: { default: 'http://[fd00:0:0:1::1]/boot.efi' },
    solicitSeconds: 3600,
    informationSeconds: 3600,
  })
  const solicit = readDatagram(
    Buffer.from(
      '33330001000252540012345686dd6000000000571101fe80000000000000505400fffe123456ff02000000000000000000000001000202' +
        '2202230057c7600110a0b00001000e000100011c39cf885254001234560003000c00123456000000000000000000060008001700180' +
        '0270052002700130103776562076578616d706c65047465737400000800020000',
      'hex',
    ),
  )!
  const everything = requested(23, 24, 56, 59, 82, 83, 32)
  const one = rig.lease()
  const relay = [12, 0, ...new Uint8Array(15), 1, ...new Uint8Array(15), 2]
  const relayed = Uint8Array.from([...relay, ...option(18, 1, 2, 3), ...option(9, message(SOLICIT, [ia(5)]))])
  const answers = [
    rig.server.handle(solicit, { port: 'p1', nowSeconds: rig.now }),
    rig.send(message(SOLICIT, [ia(1), ia(2), prefixes(3), temporary(4), everything])),
    rig.send(message(SOLICIT, [ia(1), rapid, fqdn(0, 'web'), everything])),
    rig.send(message(RENEW, [ia(1, address(one), address('fd00::9')), prefixes(1), temporary(1)])),
    rig.send(message(CONFIRM, [ia(1, address('fd00:0:0:2::5'))])),
    rig.send(message(INFORMATION, [everything])),
    rig.send(message(RELEASE, [ia(1, address('fd00:0:0:1::9')), ia(2, address(one))])),
    rig.send(message(REQUEST, [ia(1)], { destination: 'fd00:0:0:1::1' }), { destination: 'fd00:0:0:1::1' }),
    rig.send(relayed),
  ]
  const { text, wrong } = dissect(answers.map((answer) => writeDatagram(answer!)))
  assert.equal(wrong, '')
  for (const pattern of [
    /Message type: Advertise \(2\)[\s\S]*Message type: Reply \(7\)[\s\S]*Message type: Relay-reply \(13\)/,
    /DUID Type: Universally Unique IDentifier \(UUID\) \(4\)/,
    /DNS server address: fd00:0:0:1::1/,
    /Domain name suffix search list[\s\S]*example\.test/,
    /NTP Server Address: fd00::123/,
    /Option: Boot File URL \(59\)/,
    /Fully Qualified Domain Name[\s\S]*web\.example\.test/,
    /Preferred lifetime: 2700/,
    /Valid lifetime: 3600/,
    /Status Code: NoPrefixAvail/,
    /Status Code: NoAddrs?Avail/,
    /Status Code: NoBinding/,
    /Status Code: NotOnLink/,
    /Status Code: UseMulticast/,
    /Interface-ID: 010203/,
    /Checksum Status: Good/,
  ])
    assert.match(text, pattern)
})

test('options: what is asked for, what is there', () => {
  const rig = new Rig({
    ntpServers: [parseIp('fd00::123')!],
    bootFiles: { default: 'tftp://a/default', '7': 'tftp://a/seven' },
    solicitSeconds: 4000,
    informationSeconds: 5000,
  })
  const codes = (...options: number[][]): number[] =>
    [...rig.ask(SOLICIT, [ia(1), ...options])!.options.keys()].filter((code) => code > 14).sort((a, b) => a - b)
  assert.deepEqual(codes(), [23, 24])
  assert.deepEqual(codes(requested()), [])
  assert.deepEqual(codes(requested(23)), [23])
  assert.deepEqual(codes(requested(56, 59, 82, 83, 999)), [56, 59, 82, 83])
  const info = rig.ask(INFORMATION, [requested(56, 59, 82, 83), option(61, 0, 7)], { hasNoClientId: true })!
  assert.equal(info.type, REPLY)
  assert.equal(info.options.has(1), false)
  assert.equal(info.options.get(32)!.readUInt32BE(0), 86400)
  assert.equal(info.options.get(59)!.toString(), 'tftp://a/seven')
  assert.equal(info.options.get(82)!.readUInt32BE(0), 4000)
  assert.equal(info.options.get(83)!.readUInt32BE(0), 5000)
  assert.equal(info.options.get(56)!.toString('hex'), '00010010fd000000000000000000000000000123')
  const other = rig.ask(INFORMATION, [requested(59), option(61, 0, 16)])!
  assert.equal(other.options.get(59)!.toString(), 'tftp://a/default')
  rig.server.configure({ ...SETTINGS, resolvers: [], domains: [] })
  assert.deepEqual(codes(requested(23, 24, 56, 59, 82)), [])
})

test('names: told back with the domain, kept by the leases', () => {
  const rig = new Rig()
  const flagsAndName = (options: Map<number, Buffer>): [number, string] => {
    const data = options.get(39)!
    return [data[0], data.subarray(1).toString('latin1')]
  }
  const reply = rig.ask(SOLICIT, [ia(1), rapid, fqdn(1, 'Web', 'elsewhere', 'test')])!
  assert.deepEqual(flagsAndName(reply.options), [1, '\x03web\x07example\x04test\0'])
  assert.equal(rig.leases.byName('web').length, 1)
  const overridden = rig.ask(RENEW, [ia(1, address(addressesOf(reply)[0])), fqdn(0, 'web')])!
  assert.equal(flagsAndName(overridden.options)[0], 3)
  const other = { mac: '52:54:00:00:00:02', port: 'p2' }
  const second = rig.ask(SOLICIT, [ia(1), rapid, fqdn(1, 'web')], other)!
  assert.equal(second.options.has(39), false, 'the name is taken')
  assert.equal(addressesOf(second).length, 1)
  const shy = { mac: '52:54:00:00:00:03', port: 'p3' }
  rig.ask(SOLICIT, [ia(1), rapid, fqdn(4, 'shy')], shy)
  assert.deepEqual(rig.leases.byName('shy'), [])
  const broken = rig.ask(SOLICIT, [ia(1), rapid, option(39, 1, 5, 97)], { mac: '52:54:00:00:00:04', port: 'p4' })!
  assert.equal(addressesOf(broken).length, 1)
})

// ---- who gets what ----

test('a guest keeps its address through systems, restarts and time', () => {
  const rig = new Rig()
  const first = rig.lease({ system: 1 }, 1)
  assert.equal(rig.lease({ system: 2 }, 77), first, 'the next system of the guest')
  assert.equal(rig.leases.list().length, 1)
  assert.equal(rig.lease({ system: 1 }, 1), first)
  rig.pass(4000)
  assert.deepEqual(rig.leases.list(), [])
  assert.equal(rig.lease({ system: 3 }, 9), first, 'after its lease was over')
})

test('clones with the same DUID, and one MAC at two ports', () => {
  const rig = new Rig()
  const leases = [
    rig.lease({ port: 'p1' }),
    rig.lease({ port: 'p2' }),
    rig.lease({ mac: '52:54:00:12:34:57', system: 1, port: 'p3' }),
  ]
  assert.equal(new Set(leases).size, 3)
})

test('associations of one client: each its own address, in one message and in several', () => {
  const rig = new Rig()
  const both = addressesOf(rig.ask(SOLICIT, [ia(1), ia(2), rapid])!)
  assert.equal(new Set(both).size, 2)
  const third = rig.lease({}, 3)
  assert.ok(!both.includes(third))
  assert.deepEqual([rig.lease({}, 2), rig.lease({}, 1), rig.lease({}, 3)], [both[1], both[0], third])
  const renewed = rig.ask(RENEW, [ia(2, address(both[1])), ia(1, address(both[0]))])!
  assert.deepEqual(addressesOf(renewed), [both[1], both[0]])
  const next = addressesOf(rig.ask(SOLICIT, [ia(8), ia(9), rapid], { system: 2 })!)
  assert.deepEqual(next, both, 'the next system takes the places over')
})

test('eight associations at a MAC, and the limit of a port', () => {
  const rig = new Rig()
  for (let iaid = 1; iaid <= 8; iaid++) assert.match(rig.lease({}, iaid), /^fd00/)
  assert.equal(rig.lease({}, 9), '3 9: status 2')
  const few = new Rig({}, { portLimit: 2 })
  assert.match(few.lease({}, 1), /^fd00/)
  assert.match(few.lease({ mac: '52:54:00:00:00:02' }, 1), /^fd00/)
  assert.equal(few.lease({ mac: '52:54:00:00:00:03' }, 1), '3 1: status 2')
  assert.match(few.lease({ mac: '52:54:00:00:00:03', port: 'p2' }, 1), /^fd00/)
})

test('reservations, also outside of the range and in another subnet', () => {
  const reserve = (text: string) => ({ reservations: [{ mac: CLIENT, address: parseIp(text)!, name: 'db' }] })
  const rig = new Rig({}, reserve('fd00:0:0:1::77'))
  assert.equal(rig.lease(), 'fd00:0:0:1::77')
  assert.match(rig.lease({}, 2), /::1[\da-f]{3}$/)
  const pools = [...SETTINGS.pools, pool('fd00:0:0:2::/64')]
  assert.equal(new Rig({ pools }, reserve('fd00:0:0:2::77')).lease(), 'fd00:0:0:2::77')
  assert.match(new Rig({ pools }).lease(), /^fd00:0:0:1:/)
})

test('an exhausted range, then the next one, then none', () => {
  const pools = [
    pool('fd00:0:0:1::/64', 'fd00:0:0:1::1', 'fd00:0:0:1::2'),
    pool('fd00:0:0:2::/64', 'fd00:0:0:2::1', 'fd00:0:0:2::1'),
  ]
  const rig = new Rig({ pools })
  const got = [1, 2, 3, 4].map((i) => rig.lease({ mac: `52:54:00:00:00:0${i}`, port: `p${i}` }))
  assert.deepEqual(got.slice(0, 3).sort(), ['fd00:0:0:1::1', 'fd00:0:0:1::2', 'fd00:0:0:2::1'])
  assert.equal(got[3], '3 1: status 2')
  assert.equal(new Rig({ pools: [] }).lease(), '3 1: status 2')
  const offer = rig.ask(SOLICIT, [ia(1)], { mac: '52:54:00:00:00:09', port: 'p9' })!
  assert.equal(offer.options.has(7), false, 'no preference for an empty offer')
})

test('an address that is asked for is given if it is free', () => {
  const rig = new Rig()
  const wanted = 'fd00:0:0:1::1abc'
  assert.deepEqual(addressesOf(rig.ask(SOLICIT, [ia(1, address(wanted))])!), [wanted])
  const other = { mac: '52:54:00:00:00:02', port: 'p2' }
  assert.notDeepEqual(addressesOf(rig.ask(SOLICIT, [ia(1, address(wanted))], other)!), [wanted])
  const outside = addressesOf(rig.ask(SOLICIT, [ia(1, address('fd00:0:0:1::1'))], { ...other, port: 'p3' })!)
  assert.match(outside[0], /::1[\da-f]{3}$/)
})

test('lifetimes that never end', () => {
  const rig = new Rig({ leaseSeconds: Number.POSITIVE_INFINITY })
  const reply = rig.ask(SOLICIT, [ia(1), rapid])!
  assert.match(reply.associations[0], / 4294967295\/4294967295$/)
  assert.deepEqual(reply.times, [[0xffffffff, 0xffffffff]])
})

// ---- the other messages ----

test('REQUEST for an address of another link', () => {
  const rig = new Rig()
  assert.deepEqual(rig.ask(REQUEST, [ia(1, address('fd00:0:0:9::1'))])!.associations, ['3 1: status 4'])
  assert.deepEqual(rig.leases.list(), [])
})

test('RENEW and REBIND extend, make anew what is not known, and end what cannot be', () => {
  const rig = new Rig()
  const one = rig.lease()
  rig.pass(3000)
  const renewed = rig.ask(RENEW, [ia(1, address(one))])!
  assert.deepEqual(renewed.associations, [`3 1: ${one} 2700/3600`])
  rig.pass(3000)
  assert.equal(rig.leases.list().length, 1)
  assert.deepEqual(addressesOf(rig.ask(REBIND, [ia(1, address(one))])!), [one])
  assert.deepEqual(rig.ask(RENEW, [ia(1, address(one), address('fd00:0:0:9::1'))])!.associations, [
    `3 1: ${one} 2700/3600, fd00:0:0:9::1 0/0`,
  ])
  const lost = new Rig() // another journal
  assert.deepEqual(addressesOf(lost.ask(RENEW, [ia(1, address(one))])!), [one])
  const taken = { mac: '52:54:00:00:00:02', port: 'p2' }
  const [other] = addressesOf(lost.ask(REBIND, [ia(1, address(one))], taken)!)
  assert.notEqual(other, one)
  assert.deepEqual(new Rig({ pools: [] }).ask(REBIND, [ia(1, address(one))])!.associations, [`3 1: ${one} 0/0`])
  assert.deepEqual(new Rig({ pools: [] }).ask(RENEW, [ia(1)])!.associations, ['3 1: status 2'])
})

test('kinds that are not leased: statuses', () => {
  const rig = new Rig()
  assert.deepEqual(rig.ask(SOLICIT, [prefixes(1), temporary(2)])!.associations, ['25 1: status 6', '4 2: status 2'])
  assert.deepEqual(rig.ask(REQUEST, [prefixes(1), temporary(2)])!.associations, ['25 1: status 6', '4 2: status 2'])
  for (const type of [RENEW, REBIND, RELEASE, DECLINE])
    assert.deepEqual(rig.ask(type, [prefixes(1), temporary(2)])!.associations, ['25 1: status 3', '4 2: status 3'])
})

test('CONFIRM says whether addresses are of this link', () => {
  const rig = new Rig()
  const status = (...addresses: string[]): number | undefined =>
    rig
      .ask(CONFIRM, [ia(1, ...addresses.map(address))])
      ?.options.get(13)
      ?.readUInt16BE(0)
  assert.equal(status('fd00:0:0:1::5'), 0)
  assert.equal(status('fd00:0:0:1::5', 'fd00:0:0:2::5'), 4)
  assert.equal(status(), undefined)
})

test('RELEASE and DECLINE: of its own alone', () => {
  const rig = new Rig()
  const one = rig.lease()
  const thief = { mac: '52:54:00:00:00:02', port: 'p2' }
  for (const type of [RELEASE, DECLINE]) {
    assert.deepEqual(rig.ask(type, [ia(1, address(one))], thief)!.associations, ['3 1: status 3'])
    assert.deepEqual(rig.ask(type, [ia(1, address(one))], { port: 'p2' })!.associations, ['3 1: status 3'])
    assert.deepEqual(rig.ask(type, [ia(2, address(one))])!.associations, ['3 2: status 3'])
    assert.deepEqual(rig.ask(type, [ia(1)])!.associations, ['3 1: status 3'])
  }
  assert.equal(rig.leases.list().length, 1)
  const released = rig.ask(RELEASE, [ia(1, address(one))])!
  assert.deepEqual([released.associations, released.options.get(13)!.readUInt16BE(0)], [[], 0])
  assert.deepEqual(rig.leases.list(), [])
  assert.equal(rig.lease(), one)
  assert.deepEqual(rig.ask(DECLINE, [ia(1, address(one))])!.associations, [])
  assert.notEqual(rig.lease(), one, 'in quarantine')
})

test('unicast: UseMulticast, or nothing', () => {
  const rig = new Rig()
  const one = rig.lease()
  for (const source of [undefined, one])
    for (const type of [REQUEST, RENEW, RELEASE, DECLINE]) {
      const from = { destination: 'fe80::5000:ff:fe00:1', ...(source && { source }) }
      const answer = rig.ask(type, [ia(1, address(one))], from)!
      assert.equal(answer.options.get(13)!.readUInt16BE(0), 5)
      assert.deepEqual(answer.associations, [])
    }
  assert.equal(rig.leases.list().length, 1)
  for (const type of [SOLICIT, CONFIRM, REBIND, INFORMATION])
    assert.equal(rig.ask(type, [], { destination: 'fe80::5000:ff:fe00:1' }), null)
})

test('what RFC 8415 section 16 discards', () => {
  const rig = new Rig()
  const one = rig.lease()
  const associations = [ia(1, address(one))]
  for (const type of [SOLICIT, CONFIRM, REBIND]) {
    assert.equal(rig.ask(type, associations, { hasNoClientId: true }), null)
    assert.equal(rig.ask(type, associations, { serverId: SERVER_ID }), null)
  }
  for (const type of [REQUEST, RENEW, RELEASE, DECLINE]) {
    assert.equal(rig.ask(type, associations, { hasNoClientId: true }), null)
    assert.equal(rig.ask(type, associations, { serverId: null }), null)
    assert.equal(rig.ask(type, associations, { serverId: SERVER_ID.subarray(0, 17) }), null)
    assert.equal(rig.ask(type, associations, { serverId: Uint8Array.from(SERVER_ID).with(17, 0) }), null)
  }
  assert.equal(rig.ask(INFORMATION, associations), null)
  assert.equal(rig.ask(INFORMATION, [], { serverId: Uint8Array.from(SERVER_ID).with(17, 0) }), null)
  assert.notEqual(rig.ask(INFORMATION, [], { serverId: SERVER_ID }), null)
  for (const type of [ADVERTISE, REPLY, 10, 13]) assert.equal(rig.ask(type, []), null)
  assert.equal(rig.ask(SOLICIT, [ia(1)], { source: 'fd00:0:0:1::5' }), null, 'not a link-local source')
  assert.equal(rig.ask(SOLICIT, [ia(1)], { source: '::' }), null)
  assert.equal(rig.ask(REQUEST, [ia(1)], { source: 'ff02::1', destination: 'fe80::1' }), null)
  const toClientPort = datagram(message(SOLICIT, [ia(1)]))
  toClientPort.destination.port = 546
  assert.equal(rig.server.handle(toClientPort, { port: 'p1', nowSeconds: rig.now }), null)
  assert.equal(rig.leases.list().length, 1)
})

// ---- relays ----

const relay = (link: string, peer: string, inner: Uint8Array | number[], ...more: number[][]): Uint8Array => {
  const ip = (text: string): number[] => parseIp(text)!.flatMap((word) => [word >>> 24, word >>> 16, word >>> 8, word])
  const head = [12, 0, ...ip(link), ...ip(peer)].map((byte) => byte & 255)
  return Uint8Array.from([...head, ...more.flat(), ...option(9, inner)])
}
const relayFrom = { source: 'fd00:0:0:1::99', destination: 'ff05::1:3', mac: '52:54:00:00:00:99', port: 'relay' }

/** The answer inside of a relay's reply. */
function unwrap(payload: Uint8Array): { interfaceId: string; inner: Uint8Array } {
  assert.equal(payload[0], 13)
  const bytes = Buffer.from(payload)
  const codes = new Map<number, Buffer>()
  for (let at = 34; at < bytes.length; at += 4 + bytes.readUInt16BE(at + 2))
    codes.set(bytes.readUInt16BE(at), bytes.subarray(at + 4, at + 4 + bytes.readUInt16BE(at + 2)))
  return { interfaceId: codes.get(18)?.toString() ?? '', inner: codes.get(9)! }
}

test('relayed: the link by its address, the interface echoed at each step', () => {
  const pools = [...SETTINGS.pools, pool('fd00:0:0:2::/64', 'fd00:0:0:2::1000', 'fd00:0:0:2::1fff')]
  const rig = new Rig({ pools })
  const interfaceId = (text: string): number[] => option(18, Buffer.from(text))
  const ask = (link: string, client: Uint8Array) => {
    const near = relay(link, 'fe80::1234', client, interfaceId('near'))
    const answer = rig.send(relay('::', 'fe80::2', near, interfaceId('far')), relayFrom)!
    assert.equal(answer.destination.port, 547)
    assert.equal(formatIp(ipFromBytes(answer.destination.ip)), relayFrom.source)
    const outer = unwrap(answer.payload)
    const inner = unwrap(outer.inner)
    assert.deepEqual([outer.interfaceId, inner.interfaceId], ['far', 'near'])
    return readAnswer(inner.inner)
  }
  assert.match(addressesOf(ask('fd00:0:0:2::1', message(SOLICIT, [ia(1), rapid])))[0], /^fd00:0:0:2::1/)
  assert.match(addressesOf(ask('fd00:0:0:1::1', message(SOLICIT, [ia(1), rapid], { system: 2 })))[0], /^fd00:0:0:1::1/)
  assert.deepEqual(ask('fd00:0:0:3::1', message(SOLICIT, [ia(1)], { system: 3 })).associations, ['3 1: status 2'])
  assert.equal(ask('fd00:0:0:2::1', message(CONFIRM, [ia(1, address('fd00:0:0:1::5'))])).options.get(13)![1], 4)
})

test('a relay that is not trusted has clients of its own, and those of nobody else', () => {
  const reservation = { mac: CLIENT, address: parseIp('fd00:0:0:1::77')!, name: null }
  const settings = { reservations: [reservation] }
  const linkLayer = option(79, 0, 1, macBytes(CLIENT))
  const ask = (rig: Rig, client: Uint8Array): string => {
    const answer = rig.send(relay('::', 'fe80::1', client, linkLayer), relayFrom)!
    const { associations } = readAnswer(unwrap(answer.payload).inner)
    return associations
      .join()
      .replace(/^3 \d+: /, '')
      .replace(/ .*/, '')
  }
  const rig = new Rig({}, settings)
  const first = ask(rig, message(SOLICIT, [ia(1), rapid]))
  assert.notEqual(first, 'fd00:0:0:1::77')
  assert.equal(rig.leases.list()[0].mac, relayFrom.mac)
  assert.notEqual(ask(rig, message(SOLICIT, [ia(2), rapid])), first)
  assert.notEqual(ask(rig, message(SOLICIT, [ia(1), rapid], { system: 2 })), first)
  assert.equal(ask(rig, message(SOLICIT, [ia(1), rapid])), first)
  const own = rig.lease()
  assert.equal(own, 'fd00:0:0:1::77')
  const steal = relay('::', 'fe80::1', message(RELEASE, [ia(1, address(own))]), linkLayer)
  assert.deepEqual(readAnswer(unwrap(rig.send(steal, relayFrom)!.payload).inner).associations, ['3 1: status 3'])
  const trusting = new Rig({ trustedRelays: ['relay'] }, settings)
  assert.equal(ask(trusting, message(SOLICIT, [ia(1), rapid])), 'fd00:0:0:1::77')
  assert.equal(trusting.leases.list()[0].mac, CLIENT)
})

test('a trusted relay without RFC 6939: the MAC in the DUID', () => {
  const rig = new Rig({ trustedRelays: ['relay'] })
  rig.send(relay('::', 'fe80::1', message(SOLICIT, [ia(1), rapid], { system: 7 })), relayFrom)
  assert.equal(rig.leases.list()[0].mac, '52:54:00:12:34:07')
})

// ---- limits and faults ----

test('ten messages a second at a port, twenty at once; another port does not notice', () => {
  const rig = new Rig()
  const ask = (port: string, at: number) =>
    rig.server.handle(datagram(message(SOLICIT, [ia(1)])), { port, nowSeconds: at })
  let answered = 0
  for (let i = 0; i < 1000; i++) if (ask('p1', rig.now + i / 1000)) answered++
  assert.ok(answered >= 29 && answered <= 30, `${answered}`)
  assert.equal(rig.server.counts.limited, 1000 - answered)
  assert.notEqual(ask('p2', rig.now + 1), null)
  assert.equal(ask('p1', rig.now - 5000), null, 'a clock that goes back gives nothing')
  assert.notEqual(ask('p1', rig.now), null)
})

test('a starved pool: one port cannot take all, and what is offered comes back', () => {
  const pools = [pool('fd00::/64', 'fd00::1', 'fd00::10')]
  const rig = new Rig({ pools }, { portLimit: 4 })
  for (let i = 0; i < 100; i++) rig.lease({ mac: `52:54:00:00:01:${(16 + i).toString(16)}`, port: 'bad' })
  assert.equal(rig.leases.list().length, 4)
  for (let i = 0; i < 200; i++) rig.ask(SOLICIT, [ia(i)], { mac: '52:54:00:00:02:01', system: i, port: 'worse' })
  assert.match(rig.lease({ port: 'good' }), /^fd00::/)
  rig.pass(60)
  assert.equal(rig.leases.list().length, 5)
})

test('options that do not fit are left out', () => {
  const rig = new Rig({ resolvers: new Array(100).fill(parseIp('fd00::1')!), domains: ['example.test'] })
  const answer = rig.send(message(SOLICIT, [ia(1)]))!
  assert.ok(answer.payload.length <= 1232)
  const { options } = readAnswer(answer.payload)
  assert.ok(!options.has(23) && options.has(24))
  assert.equal(rig.server.counts.optionsLeftOut, 1)
})

test('eight refused associations and a long DUID still fit', () => {
  const rig = new Rig({ pools: [] })
  const bytes = Uint8Array.from([
    SOLICIT,
    0,
    0,
    1,
    ...option(1, new Uint8Array(130).fill(9)),
    ...[1, 2, 3, 4, 5, 6, 7, 8].flatMap((iaid) => ia(iaid)),
  ])
  const answer = rig.send(bytes)!
  assert.ok(answer.payload.length < 700, `${answer.payload.length}`)
  assert.equal(readAnswer(answer.payload).options.get(1)!.length, 130)
})

test('a journal that cannot be written: no answer, and it is said', () => {
  const problems: string[] = []
  let isFull = true
  const journal = {
    take: () => [],
    append() {},
    refuse() {},
    commit() {
      if (isFull) throw new Error('ENOSPC')
    },
  } as unknown as LeaseJournal
  const leases = new Leases(UUID, journal, 0, () => {})
  leases.configure({ ...DEFAULT_LEASE_SETTINGS })
  const server = new Dhcp6Server({ leases, settings: SETTINGS, onProblem: (reason) => problems.push(reason) })
  const request = datagram(message(SOLICIT, [ia(1), rapid]))
  assert.equal(server.handle(request, { port: 'p1', nowSeconds: 0 }), null)
  assert.deepEqual(problems, ['leases cannot be written: ENOSPC'])
  isFull = false
  assert.notEqual(server.handle(request, { port: 'p1', nowSeconds: 1 }), null)
})

test('several at hand: one wait for the disk', () => {
  const rig = new Rig()
  let commits = 0
  rig.leases.commit = () => {
    commits++
  }
  const guests = Array.from({ length: 10 }, (_, i) => ({ mac: `52:54:00:00:00:1${i}`, port: `p${i}` }))
  const answers = rig.server.handleAll(
    guests.map((from) => [
      datagram(message(SOLICIT, [ia(1), rapid], from), from),
      { port: from.port, nowSeconds: rig.now },
    ]),
  )
  assert.equal(new Set(answers.flatMap((answer) => addressesOf(readAnswer(answer!.payload)))).size, 10)
  assert.equal(commits, 1)
})

test('hostile octets: no throw, no octet in an answer that was not sent or ours', () => {
  const rig = new Rig()
  const one = rig.lease()
  const samples = [
    message(SOLICIT, [ia(1), requested(23, 24, 39), fqdn(1, 'web')]),
    message(REQUEST, [ia(1, address(one)), prefixes(2)]),
    message(RENEW, [ia(1, address(one))]),
    relay('::', 'fe80::1', message(SOLICIT, [ia(1), rapid]), option(18, 1, 2, 3, 4)),
  ]
  let state = 99
  const random = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return (state >>> 8) % limit
  }
  for (let i = 0; i < 20000; i++) {
    const bytes = samples[random(samples.length)].slice()
    for (let change = random(3); change >= 0; change--) bytes[random(bytes.length)] = random(256)
    const secret = new Uint8Array(bytes.length + 4000).fill(0xee)
    secret.set(bytes)
    const payload = secret.subarray(0, random(8) === 0 ? random(bytes.length) : bytes.length)
    const port = `p${i}` // a new one each time: no rate
    const answer = rig.server.handle(datagram(payload), { port, nowSeconds: rig.now })
    if (answer !== null) assert.ok(!Buffer.from(answer.payload).includes('eeeeeeee', 0, 'hex'), `${i}`)
  }
  assert.ok(rig.server.counts.malformed > 1000 && rig.server.counts.answered > 1000)
})

test('random operations: nobody has two addresses, no address has two holders', () => {
  const rig = new Rig({ pools: [pool('fd00::/64', 'fd00::1', 'fd00::20')] }, { portLimit: 3 })
  const holders = new Map<string, string>() // as the clients see it
  let state = 7
  const random = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return (state >>> 8) % limit
  }
  for (let i = 0; i < 3000; i++) {
    const guest = random(20)
    const iaid = random(3)
    const from = { mac: `52:54:00:00:01:${(16 + guest).toString(16)}`, port: `p${guest}` }
    const key = `${guest} ${iaid}`
    const has = holders.get(key)
    switch (random(4)) {
      case 0: {
        const answer = rig.ask(SOLICIT, [ia(iaid), rapid], from)!
        const [got] = addressesOf(answer)
        if (got === undefined) break
        if (has !== undefined) assert.equal(got, has)
        for (const [other, theirs] of holders) assert.ok(other === key || theirs !== got, got)
        holders.set(key, got)
        break
      }
      case 1:
        if (has !== undefined) assert.deepEqual(addressesOf(rig.ask(RENEW, [ia(iaid, address(has))], from)!), [has])
        break
      case 2:
        if (has !== undefined) assert.deepEqual(rig.ask(RELEASE, [ia(iaid, address(has))], from)!.associations, [])
        holders.delete(key)
        break
      default: {
        const victim = [...holders.values()][random(holders.size || 1)]
        if (victim !== undefined && victim !== has) rig.ask(RELEASE, [ia(iaid, address(victim))], from)
      }
    }
    assert.deepEqual(new Set(rig.leases.list().map(({ text }) => text)), new Set(holders.values()))
  }
})
