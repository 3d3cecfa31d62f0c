/**
 * services/dhcp4-client.ts against services/dhcp4-server.ts in memory, with a clock of the test's own: every state, a
 * server that is silent, refuses or lies, a link that goes and comes back.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { formatIp } from '../../src/services/address.js'
import { Dhcp4Client } from '../../src/services/dhcp4-client.js'
import type { ClientOptions, Configuration4, Timers } from '../../src/services/dhcp4-client.js'
import type { Dhcp4Settings } from '../../src/services/dhcp4-reply.js'
import { Dhcp4Server } from '../../src/services/dhcp4-server.js'
import { readDatagram, writeDatagram } from '../../src/services/frame.js'
import type { Datagram } from '../../src/services/frame.js'
import { DEFAULT_LEASE_SETTINGS, Leases } from '../../src/services/leases.js'
import { CLIENT, ip, macBytes, read, seeded, settings } from './dhcp4-rig.js'

const NOW = 1_800_000_000

class Clock implements Timers {
  milliseconds = 0
  private waiting: { at: number; run: () => void }[] = []

  now = (): number => this.milliseconds

  set = (run: () => void, milliseconds: number): unknown => {
    const timer = { at: this.milliseconds + milliseconds, run }
    this.waiting.push(timer)
    return timer
  }

  clear = (timer: unknown): void => {
    this.waiting = this.waiting.filter((one) => one !== timer)
  }

  pass(seconds: number): void {
    const end = this.milliseconds + seconds * 1000
    for (;;) {
      const [next] = this.waiting.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)
      if (next === undefined) break
      this.clear(next)
      this.milliseconds = next.at
      next.run()
    }
    this.milliseconds = end
  }

  get pending(): number {
    return this.waiting.length
  }
}

interface World {
  clock: Clock
  client: Dhcp4Client
  leases: Leases
  server: Dhcp4Server
  sent: Datagram[]
  bound: Configuration4[]
  events: string[]
  /** whether the server hears and is heard */
  link: { isUp: boolean; change: (answer: Datagram) => Datagram }
}

function make(changes: Partial<Dhcp4Settings> = {}, options: Partial<ClientOptions> = {}): World {
  const clock = new Clock()
  const leases = new Leases('lan', null, NOW, () => undefined)
  leases.configure({ ...DEFAULT_LEASE_SETTINGS, excluded: [ip('10.0.0.1')] })
  const server = new Dhcp4Server({ leases, settings: settings(changes), probe: null })
  const sent: Datagram[] = []
  const bound: Configuration4[] = []
  const events: string[] = []
  const link: World['link'] = { isUp: true, change: (answer) => answer }
  const client: Dhcp4Client = new Dhcp4Client({
    mac: macBytes(CLIENT),
    hostname: 'weft',
    timers: clock,
    send: (datagram) => {
      sent.push(datagram)
      if (!link.isUp) return
      const nowSeconds = NOW + clock.milliseconds / 1000
      leases.sweep(nowSeconds)
      const request = readDatagram(writeDatagram(datagram))!
      const answer = server.handle(request, { port: 'uplink', nowSeconds }) as Datagram | null
      if (answer !== null) client.handle(link.change(readDatagram(writeDatagram(answer))!))
    },
    onBound: (configuration) => {
      bound.push(configuration)
      events.push('bound')
    },
    onLost: () => events.push('lost'),
    ...options,
  })
  return { clock, client, leases, server, sent, bound, events, link }
}

const typeOf = (datagram: Datagram): number => read(datagram).options.get(53)![0]
const spoil = (answer: Datagram, at: number, value: number): Datagram => {
  const payload = answer.payload.slice()
  payload[at] = value
  return { ...answer, payload }
}

/** Puts other bytes where an option with these stands. */
function replace(answer: Datagram, from: number[], to: number[]): Datagram {
  const payload = Buffer.from(answer.payload)
  const at = payload.indexOf(Buffer.from(from))
  if (at >= 0) payload.set(to, at)
  return { ...answer, payload: Uint8Array.from(payload) }
}

suite('dhcp4-client', () => {
  test('bound in one exchange, with all that the server says', () => {
    const routes = [{ destination: { ip: ip('192.168.40.0'), prefix: 22 }, via: ip('10.0.0.2') }]
    const { client, bound, sent } = make({ mtu: 1400, routes, ntp: [ip('10.0.0.7')] })
    client.start()
    assert.deepEqual([client.state, sent.map(typeOf)], ['bound', [1, 3]])
    const [{ address, router, dns, domain, mtu, leaseSeconds, ntp, server, routes: taken }] = bound
    assert.equal(address.prefix, 24)
    assert.deepEqual([router, dns, ntp, server], [ip('10.0.0.1'), [ip('10.0.0.1')], [ip('10.0.0.7')], ip('10.0.0.1')])
    assert.deepEqual([domain, mtu, leaseSeconds, taken], ['weft.test', 1400, 3600, routes])
  })

  test('renews at T1 by unicast, without telling anyone what has not changed', () => {
    const { client, clock, sent, events, leases } = make()
    client.start()
    clock.pass(1799)
    assert.equal(sent.length, 2)
    clock.pass(2)
    const [, , renewal] = sent
    assert.deepEqual([client.state, sent.length], ['bound', 3])
    assert.equal(formatIp(read(renewal).ciaddr!), leases.list()[0].text)
    assert.deepEqual([...renewal.destination.ip], [10, 0, 0, 1])
    assert.deepEqual([...renewal.destination.mac], [...macBytes('02:00:00:00:00:01')])
    assert.deepEqual([read(renewal).options.has(50), read(renewal).options.has(54)], [false, false])
    clock.pass(7 * 86400)
    assert.deepEqual([client.state, events], ['bound', ['bound']])
  })

  test('a silent server: renewing, rebinding by broadcast, lost at the end, found again', () => {
    const { client, clock, sent, events, link } = make()
    client.start()
    link.isUp = false
    clock.pass(1801)
    assert.equal(client.state, 'renewing')
    clock.pass(1350)
    assert.equal(client.state, 'rebinding')
    assert.deepEqual([...sent.at(-1)!.destination.ip], [255, 255, 255, 255])
    assert.ok(sent.length < 25, `${sent.length}`)
    clock.pass(440)
    assert.deepEqual(events, ['bound'])
    clock.pass(20)
    assert.deepEqual([client.state, events], ['selecting', ['bound', 'lost']])
    link.isUp = true
    clock.pass(70)
    assert.deepEqual([client.state, events], ['bound', ['bound', 'lost', 'bound']])
  })

  test('back-off while selecting: 4, 8, 16, 32, 64, 64 s, each within a second', () => {
    const { client, clock, sent, link } = make()
    link.isUp = false
    const times: number[] = []
    client.start()
    for (let i = 0; i < 2600; i++) {
      const before = sent.length
      clock.pass(0.1)
      if (sent.length > before) times.push(clock.milliseconds / 1000)
    }
    const waits = times.map((time, i) => time - (times[i - 1] ?? 0))
    for (const [i, wait] of [4, 8, 16, 32, 64, 64].entries()) assert.ok(Math.abs(waits[i] - wait) <= 1.2, `${waits}`)
    assert.equal(new Set(sent.map((one) => read(one).xid)).size, 1)
  })

  test('an offer whose request is not answered is given up after four tries', () => {
    const { client, clock, sent, link } = make()
    link.change = (answer) => (typeOf(answer) === 2 ? answer : spoil(answer, 4, answer.payload[4] ^ 1))
    client.start()
    assert.equal(client.state, 'requesting')
    clock.pass(70)
    assert.deepEqual(sent.slice(0, 6).map(typeOf), [1, 3, 3, 3, 3, 1])
  })

  test('refused while renewing: lost, and a new address', () => {
    const { client, clock, events, bound, server } = make()
    client.start()
    const subnet = { ip: ip('10.7.0.0'), prefix: 24 }
    const range = { from: ip('10.7.0.10'), to: ip('10.7.0.20') }
    server.configure(settings({ subnets: [{ subnet, range, server: ip('10.7.0.1'), router: null, isOnLink: true }] }))
    clock.pass(1810)
    // the renewal names the old server's address: the answer's own identifier is another, so only rebinding believes it
    clock.pass(1400)
    assert.deepEqual(events, ['bound', 'lost', 'bound'])
    assert.equal(formatIp(bound[1].server), '10.7.0.1')
  })

  test('a changed configuration is told, without a loss', () => {
    const { client, clock, events, bound, server } = make()
    client.start()
    server.configure(settings({ dns: [ip('9.9.9.9')] }))
    clock.pass(1810)
    assert.deepEqual([events, bound[1].dns], [['bound', 'bound'], [ip('9.9.9.9')]])
  })

  test('restart: the same address asked for again; refused elsewhere; given up without an answer', () => {
    const { client, clock, events, sent, link, server } = make()
    client.start()
    client.restart()
    assert.deepEqual([client.state, events], ['bound', ['bound']])
    const reboot = read(sent[2])
    assert.deepEqual([reboot.ciaddr, reboot.options.has(50), reboot.options.has(54)], [null, true, false])
    link.isUp = false
    client.restart()
    assert.equal(client.state, 'rebooting')
    assert.ok(client.configuration)
    clock.pass(70)
    assert.deepEqual([client.state, events], ['selecting', ['bound', 'lost']])
    link.isUp = true
    clock.pass(64)
    const subnet = { ip: ip('10.7.0.0'), prefix: 24 }
    const range = { from: ip('10.7.0.10'), to: ip('10.7.0.20') }
    server.configure(settings({ subnets: [{ subnet, range, server: ip('10.7.0.1'), router: null, isOnLink: true }] }))
    client.restart()
    assert.deepEqual(events, ['bound', 'lost', 'bound', 'lost', 'bound'])
    assert.match(formatIp(client.configuration.address.ip), /^10\.7/)
    new Dhcp4Client({ mac: macBytes(CLIENT), hostname: null, send: () => undefined, onBound() {}, onLost() {} }).stop()
  })

  test('an address in use is declined, and another asked for 10 s later', async () => {
    const used: string[] = []
    const { client, clock, sent, leases, events } = make(
      {},
      { probe: (address) => Promise.resolve(used.push(formatIp(address)) === 1) },
    )
    client.start()
    assert.equal(client.state, 'checking')
    for (let i = 0; i < 5; i++) await Promise.resolve()
    assert.deepEqual([sent.map(typeOf), leases.list().length], [[1, 3, 4], 0])
    clock.pass(9)
    assert.equal(sent.length, 3)
    clock.pass(2)
    for (let i = 0; i < 5; i++) await Promise.resolve()
    assert.deepEqual([client.state, events], ['bound', ['bound']])
    assert.notEqual(formatIp(client.configuration!.address.ip), used[0])
  })

  test('stop gives the lease back, and nothing happens any more', () => {
    const { client, clock, sent, leases, events } = make()
    client.start()
    client.stop()
    assert.deepEqual([typeOf(sent.at(-1)!), leases.list().length, clock.pending, client.state], [7, 0, 0, 'stopped'])
    clock.pass(1e6)
    assert.deepEqual(events, ['bound'])
    client.restart()
    assert.equal(client.state, 'bound')
  })

  test('infinite leases have no timers; long ones do not overflow', () => {
    const forever = make({ leaseSeconds: Number.POSITIVE_INFINITY })
    forever.client.start()
    assert.deepEqual([forever.client.state, forever.clock.pending], ['bound', 0])
    const long = make({ leaseSeconds: 0xfffffffe })
    long.client.start()
    long.clock.pass(0x7ffffff0)
    assert.equal(long.sent.length, 2)
    long.clock.pass(0x20)
    assert.equal(long.sent.length, 3)
  })

  test('answers that are not for it, or make no sense, change nothing', () => {
    const wrong: Record<string, (answer: Datagram) => Datagram> = {
      'another transaction': (answer) => spoil(answer, 7, answer.payload[7] ^ 1),
      'another client': (answer) => spoil(answer, 33, 1),
      'a request': (answer) => spoil(answer, 0, 1),
      'another port': (answer) => ({ ...answer, destination: { ...answer.destination, port: 67 } }),
      'no address': (answer) => spoil(spoil(spoil(spoil(answer, 16, 0), 17, 0), 18, 0), 19, 0),
      'a group address': (answer) => spoil(answer, 16, 224),
      'cut short': (answer) => ({ ...answer, payload: answer.payload.slice(0, 250) }),
      'no server identifier': (answer) => replace(answer, [54, 4, 10, 0, 0, 1], [224, 4, 10, 0, 0, 1]),
      'a server of 127.0.0.1': (answer) => replace(answer, [54, 4, 10, 0, 0, 1], [54, 4, 127, 0, 0, 1]),
    }
    const ackOnly: typeof wrong = {
      'another address': (answer) => spoil(answer, 19, answer.payload[19] ^ 1),
      'another server': (answer) => replace(answer, [54, 4, 10, 0, 0, 1], [54, 4, 10, 0, 0, 9]),
      'no mask': (answer) => replace(answer, [1, 4, 255, 255, 255, 0], [1, 4, 255, 0, 255, 0]),
      'no time': (answer) => replace(answer, [51, 4, 0, 0, 14, 16], [51, 4, 0, 0, 0, 0]),
    }
    for (const [what, change] of Object.entries({ ...wrong, ...ackOnly })) {
      const { client, link, events } = make()
      link.change = (answer) => (what in ackOnly && typeOf(answer) === 2 ? answer : change(answer))
      client.start()
      assert.notEqual(client.state, 'bound', what)
      assert.deepEqual(events, [], what)
    }
  })

  test('bytes at random in every answer: it never fails, and never believes an address no host can have', () => {
    const random = seeded(68)
    for (let i = 0; i < 300; i++) {
      const { client, clock, link, bound } = make()
      link.change = (answer) => {
        const payload = answer.payload.slice()
        for (let n = 0; n < 4; n++) payload[random() % 2 ? 236 + (random() % 60) : random()] = random()
        return { ...answer, payload }
      }
      client.start()
      clock.pass(20000)
      for (const { address, mtu, leaseSeconds } of bound) {
        assert.ok(address.prefix > 0 && address.ip[0] >>> 24 < 224)
        assert.ok((mtu === null || mtu >= 576) && leaseSeconds >= 10)
      }
    }
  })
})
