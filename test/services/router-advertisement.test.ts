/**
 * Router advertisements: a vector made with scapy 2.7, tshark as the judge, solicitations good and bad, and rates by a
 * clock of the test's own.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatIp, ipFromBytes, linkLocalOf, parseIp, parseNetwork } from '../../src/services/address.js'
import { readDiscoveryOptions, readIcmp6, writeDiscoveryOption, writeIcmp6 } from '../../src/services/icmp6-frame.js'
import {
  type AdvertisedPrefix,
  type Clock,
  RouterAdvertiser,
  type RouterSettings,
} from '../../src/services/router-advertisement.js'
import { dissect, withoutTshark } from './dissect.js'

class FakeClock implements Clock {
  time = 0
  chance = 0.5
  private timers: { at: number; callback: () => void }[] = []

  now(): number {
    return this.time
  }

  after(delayMillis: number, callback: () => void): () => void {
    assert.ok(delayMillis >= 0)
    const timer = { at: this.time + delayMillis, callback }
    this.timers.push(timer)
    return () => {
      this.timers = this.timers.filter((other) => other !== timer)
    }
  }

  random(): number {
    return this.chance
  }

  get pending(): number {
    return this.timers.length
  }

  run(seconds: number): void {
    const end = this.time + seconds * 1000
    for (;;) {
      const next = this.timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (!next) break
      this.timers = this.timers.filter((other) => other !== next)
      this.time = next.at
      next.callback()
    }
    this.time = end
  }
}

const mac = Uint8Array.of(0x52, 0, 0, 0, 0, 1)
const guestMac = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56)
const guest = linkLocalOf(guestMac)
const prefix = (text: string, more: Partial<AdvertisedPrefix> = {}): AdvertisedPrefix => ({
  ...parseNetwork(text)!,
  onLink: true,
  autonomous: true,
  validSeconds: 86400,
  preferredSeconds: 14400,
  ...more,
})
const settings: RouterSettings = {
  mac,
  address: linkLocalOf(mac),
  routerLifetimeSeconds: 1800,
  preference: 'high',
  managed: true,
  other: true,
  mtu: 1500,
  hopLimit: 64,
  prefixes: [prefix('fd00:0:0:1::/64')],
  routes: [],
  resolvers: [parseIp('fd00:0:0:1::1')!],
  domains: ['example.test'],
  intervalSeconds: 600,
}

function rig(wanted: Partial<RouterSettings> = {}) {
  const clock = new FakeClock()
  const sent: { at: number; frame: Uint8Array }[] = []
  const advertiser = new RouterAdvertiser(
    { ...settings, ...wanted },
    (frame) => sent.push({ at: clock.time / 1000, frame }),
    clock,
  )
  return { clock, sent, advertiser }
}

function solicitation(source = guest, options: number[] = [1, 1, ...guestMac], destination = 'ff02::2'): Uint8Array {
  return writeIcmp6({
    sourceMac: guestMac,
    destinationMac: Uint8Array.of(0x33, 0x33, 0, 0, 0, 2),
    source,
    destination: parseIp(destination)!,
    hopLimit: 255,
    bytes: Uint8Array.of(133, 0, 0, 0, 0, 0, 0, 0, ...options),
  })
}

/** What an advertisement says, options by type. */
function read(frame: Uint8Array) {
  const message = readIcmp6(frame)!
  const { bytes } = message
  assert.equal(message.hopLimit, 255)
  assert.deepEqual([bytes[0], bytes[1]], [134, 0])
  const options = readDiscoveryOptions(bytes, 16)!
  const of = (type: number): Buffer[] => options.filter((one) => one.type === type).map((one) => Buffer.from(one.value))
  return {
    ...message,
    flags: bytes[5],
    lifetime: (bytes[6] << 8) | bytes[7],
    prefixes: of(3).map((value) => ({
      text: `${formatIp(ipFromBytes(value.subarray(14, 30)))}/${value[0]}`,
      flags: value[1],
      valid: value.readUInt32BE(2),
      preferred: value.readUInt32BE(6),
    })),
    resolvers: of(25).map((value) => ({
      seconds: value.readUInt32BE(2),
      ips: Array.from({ length: (value.length - 6) / 16 }, (_, i) => formatIp(ipFromBytes(value, 6 + i * 16, 16))),
    })),
    domains: of(31).map((value) => value.readUInt32BE(2)),
    routes: of(24).map((value) => ({ bits: value[0], seconds: value.readUInt32BE(2), bytes: value.length })),
    options,
  }
}

test('an advertisement is what scapy makes of the same settings', () => {
  const { sent, advertiser, clock } = rig()
  advertiser.start()
  clock.run(0)
  assert.equal(
    Buffer.from(sent[0].frame.subarray(58)).toString('hex'), // the ICMPv6 message behind its checksum
    '40c8070800000000000000000101520000000001' +
      '05010000000005dc030440c0000151800000384000000000fd000000000000010000000000000000' +
      '1903000000000708fd0000000000000100000000000000011f03000000000708076578616d706c650474657374000000',
  )
  assert.equal(
    Buffer.from(sent[0].frame.subarray(0, 54)).toString('hex'),
    '33330000000152000000000186dd6000000000703afffe80000000000000500000fffe000001ff020000000000000000000000000001',
  )
})

test('tshark finds nothing wrong, and reads the same', { skip: withoutTshark }, () => {
  const { sent, advertiser, clock } = rig({
    routes: [
      { ...parseNetwork('fd00:0:2::/48')!, lifetimeSeconds: 900, preference: 'low' },
      { ...parseNetwork('fd00:0:2::1/128')!, lifetimeSeconds: 900, preference: 'high' },
      { ...parseNetwork('::/0')!, lifetimeSeconds: 900, preference: 'medium' },
    ],
    domains: ['example.test', 'a.b.example'],
  })
  advertiser.start()
  const unicast = advertiser.solicited(solicitation())!
  clock.run(0)
  advertiser.configure({ ...settings, prefixes: [], resolvers: [], domains: [], routes: [] })
  clock.run(4)
  advertiser.stop()
  const { text, wrong } = dissect([unicast, ...sent.map(({ frame }) => frame)])
  assert.equal(wrong, '')
  assert.equal(sent.length, 3)
  assert.match(text, /Router lifetime \(s\): 1800/)
  assert.match(text, /Recursive DNS Server fd00:0:0:1::1/)
  assert.match(text, /Domain Names: example.test[\s\S]*a.b.example/)
  assert.match(text, /Route Information : Low fd00:0:2::\/48/)
  assert.match(text, /Route Information : High fd00:0:2::1\/128/)
  assert.match(text, /Preferred Lifetime: 0/)
  assert.match(text, /Checksum Status: Good/)
})

test('no router, no preference: lifetime 0 without a way out', () => {
  const { sent, advertiser, clock } = rig({ routerLifetimeSeconds: 0, managed: false, other: false, mtu: null })
  advertiser.start()
  clock.run(0)
  const { flags, lifetime, options } = read(sent[0].frame)
  assert.deepEqual([flags, lifetime], [0, 0])
  assert.ok(options.every(({ type }) => type !== 5))
})

test('a prefix may be on link alone', () => {
  const { sent, advertiser, clock } = rig({
    prefixes: [prefix('fd00::/64', { autonomous: false, validSeconds: 100, preferredSeconds: 200 })],
  })
  advertiser.start()
  clock.run(0)
  assert.deepEqual(read(sent[0].frame).prefixes, [{ text: 'fd00::/64', flags: 0x80, valid: 100, preferred: 100 }])
})

// ---- rates ----

test('three soon, then between a third of the interval and all of it', () => {
  for (const chance of [0, 0.5, 0.999999]) {
    const { sent, advertiser, clock } = rig()
    clock.chance = chance
    advertiser.start()
    advertiser.start()
    clock.run(7200)
    const gaps = sent.slice(1).map(({ at }, i) => at - sent[i].at)
    assert.equal(sent[0].at, 0)
    assert.deepEqual(gaps.slice(0, 2), [16, 16])
    for (const gap of gaps.slice(2)) assert.ok(gap >= 200 && gap <= 600, `${gap}`)
    assert.equal(gaps.length > 8, true)
    assert.equal(clock.pending, 1)
  }
})

test('a short interval', () => {
  const { sent, advertiser, clock } = rig({ intervalSeconds: 4 })
  advertiser.start()
  clock.run(40)
  for (const [i, { at }] of sent.slice(1).entries()) assert.ok(at - sent[i].at >= 3 && at - sent[i].at <= 4)
  assert.deepEqual(read(sent[0].frame).resolvers[0].seconds, 12)
})

test('a solicitation is answered at once, to whom it came from', () => {
  const { sent, advertiser, clock } = rig()
  assert.equal(advertiser.solicited(solicitation()), null, 'not started')
  advertiser.start()
  clock.run(100)
  sent.length = 0
  // the option names another MAC: the frame's counts
  const answer = read(advertiser.solicited(solicitation(guest, [1, 1, 2, 2, 2, 2, 2, 2]))!)
  assert.deepEqual(answer.destinationMac, guestMac)
  assert.equal(formatIp(answer.destination), formatIp(guest))
  assert.equal(answer.prefixes.length, 1)
  clock.run(5)
  assert.equal(sent.length, 0)
})

test('one from :: is answered by multicast, at most every 3 s', () => {
  const { sent, advertiser, clock } = rig({ intervalSeconds: 1800 })
  advertiser.start()
  clock.run(100)
  sent.length = 0
  const unspecified = solicitation(parseIp('::')!, [])
  for (let i = 0; i < 1000; i++) {
    assert.equal(advertiser.solicited(unspecified), null)
    clock.run(0.02)
  }
  clock.run(3)
  assert.ok(sent.length >= 6 && sent.length <= 8, `${sent.length} in 23 s`)
  assert.ok(sent[0].at <= 100.5)
  for (const [i, { at }] of sent.slice(1).entries()) assert.ok(at - sent[i].at >= 3)
  assert.equal(formatIp(read(sent[0].frame).destination), 'ff02::1')
  assert.equal(clock.pending, 1)
})

test('ten unicast answers a second; those beyond share a multicast one', () => {
  const { sent, advertiser, clock } = rig({ intervalSeconds: 1800 })
  advertiser.start()
  clock.run(100)
  sent.length = 0
  let answers = 0
  for (let i = 0; i < 10000; i++) {
    if (advertiser.solicited(solicitation()) !== null) answers++
    clock.run(0.001)
  }
  assert.ok(answers >= 100 && answers <= 111, `${answers}`)
  assert.ok(sent.length >= 3 && sent.length <= 4, `${sent.length}`)
  assert.equal(advertiser.counts.limited, 10000 - answers)
})

test('stop says that the router goes, and then nothing more', () => {
  const { sent, advertiser, clock } = rig({
    routes: [{ ...parseNetwork('fd01::/48')!, lifetimeSeconds: 9, preference: 'low' }],
  })
  advertiser.stop()
  assert.equal(sent.length, 0)
  advertiser.start()
  clock.run(0)
  advertiser.stop()
  advertiser.stop()
  assert.equal(sent.length, 2)
  const last = read(sent[1].frame)
  assert.equal(last.lifetime, 0)
  assert.equal(last.flags & 0x18, 0)
  assert.equal(last.resolvers[0].seconds, 0)
  assert.deepEqual(last.domains, [0])
  assert.deepEqual(last.routes, [{ bits: 48, seconds: 0, bytes: 14 }])
  assert.equal(last.prefixes[0].valid, 86400)
  clock.run(10000)
  assert.equal(sent.length, 2)
  assert.equal(clock.pending, 0)
  assert.equal(advertiser.solicited(solicitation()), null)
})

// ---- changes ----

test('what is taken away is withdrawn, and comes back', () => {
  const { sent, advertiser, clock } = rig()
  advertiser.start()
  clock.run(100)
  sent.length = 0
  const after = { ...settings, prefixes: [prefix('fd00:0:0:2::/64')], resolvers: [], domains: [] }
  advertiser.configure(after)
  clock.run(0)
  const first = read(sent[0].frame)
  assert.deepEqual(first.prefixes, [
    { text: 'fd00:0:0:2::/64', flags: 0xc0, valid: 86400, preferred: 14400 },
    { text: 'fd00:0:0:1::/64', flags: 0xc0, valid: 7200, preferred: 0 },
  ])
  assert.deepEqual(first.resolvers, [{ seconds: 0, ips: ['fd00:0:0:1::1'] }])
  assert.deepEqual(first.domains, [0])
  clock.run(1850) // resolvers' lifetime is over
  const later = read(advertiser.solicited(solicitation())!)
  assert.equal(later.prefixes[1].valid, 7200 - 1850)
  assert.deepEqual([later.resolvers, later.domains], [[], []])
  advertiser.configure(settings)
  const back = read(advertiser.solicited(solicitation())!)
  assert.deepEqual(
    back.prefixes.map(({ text, preferred }) => [text, preferred]),
    [
      ['fd00:0:0:1::/64', 14400],
      ['fd00:0:0:2::/64', 0],
    ],
  )
  clock.run(7201)
  assert.equal(read(advertiser.solicited(solicitation())!).prefixes.length, 1)
})

test('a change before the start withdraws nothing', () => {
  const { sent, advertiser, clock } = rig()
  advertiser.configure({ ...settings, prefixes: [] })
  advertiser.start()
  clock.run(0)
  assert.deepEqual(read(sent[0].frame).prefixes, [])
})

test('a new link-local address: the old router goes, the new one comes at once', () => {
  const { sent, advertiser, clock } = rig()
  advertiser.start()
  clock.run(50)
  sent.length = 0
  advertiser.configure({ ...settings, address: parseIp('fe80::1')! })
  clock.run(0)
  assert.deepEqual(
    sent.map(({ frame }) => [formatIp(read(frame).source), read(frame).lifetime]),
    [
      [formatIp(settings.address), 0],
      ['fe80::1', 1800],
    ],
  )
})

test('changes in a row are told three seconds apart, and memory has a limit', () => {
  const { sent, advertiser, clock } = rig()
  advertiser.start()
  clock.run(0)
  for (let i = 0; i < 200; i++) {
    advertiser.configure({ ...settings, prefixes: [prefix(`fd00:0:0:${i.toString(16)}::/64`)] })
    clock.run(0.1)
  }
  for (const [i, { at }] of sent.slice(1).entries()) assert.ok(at - sent[i].at >= 3)
  const { prefixes } = read(advertiser.solicited(solicitation())!)
  assert.ok(prefixes.length > 10 && prefixes.length <= 33, `${prefixes.length}`)
})

test('what does not fit is left out, the first things first', () => {
  const many = Array.from({ length: 60 }, (_, i) => prefix(`fd00:0:0:${(i + 1).toString(16)}::/64`))
  const { sent, advertiser, clock } = rig({ prefixes: many, resolvers: new Array(300).fill(parseIp('fd00::1')!) })
  advertiser.start()
  clock.run(0)
  const { prefixes, resolvers } = read(sent[0].frame)
  assert.ok(sent[0].frame.length <= 1280 + 14)
  assert.equal(prefixes.length, 37)
  assert.equal(resolvers.length, 0)
  assert.equal(advertiser.counts.optionsLeftOut, 60 - 37 + 1) // the resolvers, too; the domains fit
})

// ---- bad solicitations ----

test('solicitations that RFC 4861 section 6.1.1 refuses', () => {
  const { advertiser, clock, sent } = rig()
  advertiser.start()
  clock.run(100)
  sent.length = 0
  const good = solicitation()
  const message = readIcmp6(good)!
  const bytes = (...values: number[]): Uint8Array => writeIcmp6({ ...message, bytes: Uint8Array.from(values) })
  const bad: [string, Uint8Array][] = [
    ['hop limit', writeIcmp6({ ...message, hopLimit: 254 })],
    ['checksum', good.with(57, good[57] ^ 1)],
    ['code', bytes(133, 1, 0, 0, 0, 0, 0, 0)],
    ['type', bytes(134, 0, 0, 0, 0, 0, 0, 0)],
    ['length', bytes(133, 0, 0, 0, 0, 0, 0)],
    ['option of length 0', bytes(133, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1)],
    ['option beyond the end', bytes(133, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 1, 1, 1, 1, 1)],
    ['half an option', bytes(133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1)],
    ['link-layer address from ::', solicitation(parseIp('::')!)],
    ['to another', solicitation(guest, [], 'ff02::1')],
    ['to another host', solicitation(guest, [], 'fe80::77')],
    ['from the router itself', solicitation(settings.address)],
    ['from a group', solicitation(parseIp('ff02::5')!)],
  ]
  for (const [what, frame] of bad) assert.equal(advertiser.solicited(frame), null, what)
  for (let length = 0; length < good.length; length++) advertiser.solicited(good.subarray(0, length))
  assert.equal(advertiser.counts.solicited, 0)
  assert.equal(advertiser.counts.refused, bad.length + good.length)
  clock.run(10)
  assert.equal(sent.length, 0, 'none is answered by multicast')
  assert.notEqual(advertiser.solicited(good), null)
  assert.notEqual(advertiser.solicited(solicitation(guest, [], formatIp(settings.address))), null)
})

test('seeded noise in solicitations neither throws nor is answered wrongly', () => {
  const { advertiser, clock } = rig()
  advertiser.start()
  const good = solicitation(guest, [...writeDiscoveryOption({ type: 1, value: guestMac }), 14, 1, 1, 2, 3, 4, 5, 6])
  let state = 12345
  const random = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return (state >>> 8) % limit
  }
  for (let i = 0; i < 20000; i++) {
    const frame = good.slice(0, random(10) === 0 ? random(good.length + 1) : good.length)
    for (let change = random(4); change >= 0 && frame.length > 0; change--) frame[random(frame.length)] = random(256)
    const answer = advertiser.solicited(frame)
    if (answer) assert.deepEqual(answer.subarray(0, 6), frame.subarray(6, 12))
    clock.run(0.2)
  }
  assert.ok(advertiser.counts.refused > 10000)
})
