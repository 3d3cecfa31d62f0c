/**
 * services/leases.ts and lease-names.ts: who gets which address, limits, quarantine, names, steps of the clock, and
 * random operations against a plain model.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { formatIp } from '../../src/services/address.js'
import type { Ip } from '../../src/services/address.js'
import { DEFAULT_LEASE_SETTINGS, Leases } from '../../src/services/leases.js'
import type { Holder, Lease, LeasePool } from '../../src/services/leases.js'
import { ip, seeded } from './dhcp4-rig.js'

const NOW = 1_800_000_000
const pool: LeasePool = {
  subnet: { ip: ip('10.0.0.0'), prefix: 24 },
  range: { from: ip('10.0.0.10'), to: ip('10.0.0.19') },
}
const six: LeasePool = {
  subnet: { ip: ip('fd00::'), prefix: 64 },
  range: { from: ip('fd00::1000'), to: ip('fd00::ffff:ffff:ffff') },
}
const holder = (n: number, port = `p${n}`, client = ''): Holder => ({
  mac: `52:54:00:00:00:${n.toString(16).padStart(2, '0')}`,
  port,
  client,
  association: '',
})

function make(changes: Partial<typeof DEFAULT_LEASE_SETTINGS> = {}): { leases: Leases; events: string[] } {
  const events: string[] = []
  const leases = new Leases('net', null, NOW, (event, lease) => events.push(`${event} ${lease.text}`))
  leases.configure({ ...DEFAULT_LEASE_SETTINGS, ...changes })
  return { leases, events }
}

function take(leases: Leases, who: Holder, now = NOW, name: string | null = null, seconds = 3600): Lease | null {
  const lease = leases.offer(who, pool, null, now)
  return lease === null ? null : leases.grant(who, pool, lease.address, seconds, name, now)
}

suite('leases', () => {
  test('granted, renewed, expired; the same guest gets the same address again', () => {
    const { leases, events } = make()
    const text = take(leases, holder(1))!.text
    assert.equal(leases.byAddress(ip(text))!.expiresAt, NOW + 3600)
    assert.equal(leases.grant(holder(1), pool, ip(text), 3600, null, NOW + 30)!.expiresAt, NOW + 3630)
    for (let now = NOW; now <= NOW + 3640; now += 10) leases.sweep(now)
    assert.equal(leases.byAddress(ip(text)), null)
    for (let n = 2; n <= 9; n++) take(leases, holder(n), NOW + 3640)
    assert.equal(take(leases, holder(1), NOW + 3640)!.text, text)
    assert.deepEqual(events.slice(0, 3), [`granted ${text}`, `renewed ${text}`, `expired ${text}`])
    // with nothing remembered, the hash says the same
    assert.equal(take(make().leases, holder(1))!.text, text)
  })

  test('clones: the same client identifier or MAC at another port gets another address', () => {
    const { leases } = make()
    const addresses = [holder(1, 'a', 'ff01'), holder(2, 'b', 'ff01'), holder(1, 'c', 'ff01')].map(
      (who) => take(leases, who)!.text,
    )
    assert.equal(new Set(addresses).size, 3)
    // a live lease is not handed over within a port either; an expired one is
    const other = take(leases, holder(3, 'a', 'ff01'))!.text
    assert.notEqual(other, addresses[0])
    assert.ok(leases.releaseBy(holder(1, 'a'), ip(addresses[0]), NOW))
    assert.equal(take(leases, holder(4, 'a', 'ff01'))!.text, addresses[0])
  })

  test('another client identifier of the same MAC keeps the address: firmware, then its system', () => {
    const { leases } = make()
    assert.equal(take(leases, holder(1, 'a', '00aa'))!.text, take(leases, holder(1, 'a', '01bb'))!.text)
    assert.equal(leases.list().length, 1)
  })

  test('never used addresses go first, then the one that expired longest ago', () => {
    const { leases } = make()
    const given = Array.from({ length: 10 }, (_, i) => take(leases, holder(i + 1), NOW + i)!.text)
    assert.equal(new Set(given).size, 10)
    assert.equal(take(leases, holder(20)), null)
    leases.release(ip(given[4]), NOW + 20)
    leases.release(ip(given[7]), NOW + 21)
    assert.equal(take(leases, holder(20), NOW + 22)!.text, given[4])
    assert.equal(take(leases, holder(8), NOW + 22)!.text, given[7])
  })

  test('a wish is granted if the address was never used by another', () => {
    const { leases } = make()
    assert.equal(leases.offer(holder(1), pool, ip('10.0.0.15'), NOW)!.text, '10.0.0.15')
    assert.notEqual(leases.offer(holder(2), pool, ip('10.0.0.15'), NOW)!.text, '10.0.0.15')
    assert.notEqual(leases.offer(holder(3), pool, ip('10.0.0.200'), NOW)!.text, '10.0.0.200')
    assert.notEqual(leases.offer(holder(4), pool, ip('10.1.0.15'), NOW)!.text, '10.1.0.15')
  })

  test('limits: a port, a network; offers count, reservations and other families do not', () => {
    const reservations = [{ mac: holder(9).mac, address: ip('10.0.0.200'), name: null }]
    const { leases } = make({ portLimit: 2, networkLimit: 3, reservations, portLimits: { trunk: 3 } })
    assert.ok(take(leases, holder(1, 'a')))
    assert.ok(leases.offer(holder(2, 'a'), pool, null, NOW))
    assert.equal(leases.offer(holder(3, 'a'), pool, null, NOW), null)
    assert.ok(leases.offer({ ...holder(1, 'a'), association: '1' }, six, null, NOW))
    assert.equal(take(leases, holder(9, 'a'))!.text, '10.0.0.200')
    assert.ok(take(leases, holder(1, 'a')))
    assert.ok(take(leases, holder(4, 'trunk')))
    assert.equal(leases.offer(holder(5, 'b'), pool, null, NOW), null)
    leases.sweep(NOW + 31) // the offer is over
    assert.ok(leases.offer(holder(5, 'b'), pool, null, NOW + 31))
  })

  test('starvation at one port leaves the others their addresses', () => {
    const { leases } = make({ portLimit: 4 })
    for (let n = 0; n < 250; n++) take(leases, holder(n, 'bad'), NOW + n)
    assert.equal(leases.list().length, 4)
    assert.ok(take(leases, holder(1, 'good'), NOW + 250))
    // one that gives back at once uses up nothing but what it is remembered for
    const wide = { ...pool, range: { from: ip('10.0.0.10'), to: ip('10.0.0.250') } }
    for (let n = 0; n < 250; n++) {
      const lease = leases.offer(holder(n, 'worse'), wide, null, NOW + 251)!
      leases.grant(holder(n, 'worse'), wide, lease.address, 60, null, NOW + 251)
      leases.release(lease.address, NOW + 251)
    }
    assert.ok(leases.offer(holder(2, 'good'), wide, null, NOW + 251))
  })

  test('reservations: for their MAC alone, outside the range too, live', () => {
    const reservations = [{ mac: holder(1).mac, address: ip('10.0.0.12'), name: 'web' }]
    const { leases } = make({ reservations })
    assert.equal(leases.offer(holder(2), pool, ip('10.0.0.12'), NOW)!.text === '10.0.0.12', false)
    assert.equal(leases.mayHave(holder(2), pool, ip('10.0.0.12'), NOW), false)
    const lease = take(leases, holder(1), NOW, 'other')!
    assert.deepEqual([lease.text, lease.hostname, lease.reserved], ['10.0.0.12', 'web', true])
    const clone = take(leases, holder(1, 'elsewhere'))!
    assert.notEqual(clone.text, '10.0.0.12')
    leases.configure(DEFAULT_LEASE_SETTINGS)
    assert.equal(leases.byAddress(ip('10.0.0.12'))!.reserved, false)
    const taken = [{ mac: holder(7).mac, address: ip('10.0.0.12'), name: null }]
    leases.configure({ ...DEFAULT_LEASE_SETTINGS, reservations: taken })
    assert.equal(leases.grant(holder(1), pool, ip('10.0.0.12'), 60, null, NOW), null)
    assert.equal(leases.byAddress(ip('10.0.0.12'))!.mac, holder(1).mac) // until it expires
  })

  test('excluded addresses, the network and its broadcast are never leased', () => {
    const tight: LeasePool = {
      subnet: { ip: ip('10.0.0.0'), prefix: 29 },
      range: { from: ip('10.0.0.0'), to: ip('10.0.0.7') },
    }
    const { leases } = make({ excluded: [ip('10.0.0.1')], portLimit: 20 })
    const given = Array.from({ length: 8 }, (_, n) => leases.offer(holder(n, 'a'), tight, null, NOW)?.text)
    assert.deepEqual(
      given.filter(Boolean).sort((a, b) => (a! < b! ? -1 : 1)),
      ['2', '3', '4', '5', '6'].map((last) => `10.0.0.${last}`),
    )
    const pair = { subnet: { ip: ip('10.9.0.0'), prefix: 31 }, range: { from: ip('10.9.0.0'), to: ip('10.9.0.1') } }
    assert.ok(leases.offer(holder(1), pair, null, NOW) && leases.offer(holder(2), pair, null, NOW))
  })

  test('only the owner releases and declines', () => {
    const { leases } = make()
    const { address } = take(leases, holder(1))!
    for (const who of [holder(2), holder(1, 'other'), { ...holder(1), association: '5' }]) {
      assert.equal(leases.releaseBy(who, address, NOW), false)
      assert.equal(leases.decline(who, address, NOW), false)
    }
    assert.ok(leases.byAddress(address))
    assert.ok(leases.releaseBy(holder(1), address, NOW))
    assert.equal(leases.releaseBy(holder(1), address, NOW), false)
  })

  test('declined addresses rest for 600 s, at most 16 of a port', () => {
    const wide = { ...pool, range: { from: ip('10.0.0.10'), to: ip('10.0.0.250') } }
    const { leases } = make()
    const declined = new Set<string>()
    for (let i = 0; i < 40; i++) {
      const { address, text } = leases.offer(holder(1), wide, null, NOW + i)!
      assert.equal(leases.decline(holder(1), address, NOW + i), true)
      declined.add(text)
    }
    assert.equal(declined.size, 17) // the last one comes again and again
    const [first] = declined
    assert.equal(leases.mayHave(holder(2), wide, ip(first), NOW + 599), false)
    for (let now = NOW + 40; now <= NOW + 660; now += 30) leases.sweep(now)
    assert.equal(leases.mayHave(holder(2), wide, ip(first), NOW + 660), true)
  })

  test('names: unique while the lease lives, shared by the families of one guest, never reserved ones', () => {
    const { leases } = make()
    assert.equal(take(leases, holder(1), NOW, 'Web.example.org')!.hostname, 'web')
    assert.equal(take(leases, holder(2), NOW, 'WEB')!.hostname, null)
    const who = { ...holder(1), association: '1' }
    const { address } = leases.offer(who, six, null, NOW)!
    assert.equal(leases.grant(who, six, address, 60, 'web', NOW)!.hostname, 'web')
    assert.equal(leases.byName('WEB').length, 2)
    assert.equal(take(leases, holder(2), NOW)!.hostname, null)
    leases.releasePort('p1', NOW)
    assert.deepEqual(leases.byName('web'), [])
    assert.equal(take(leases, holder(2), NOW, 'web')!.hostname, 'web')
    for (const name of ['wpad', 'gateway', '-a', 'a-', 'a_b', '', 'x'.repeat(64), 'a b', '../..', 'é', '\0'])
      assert.equal(take(leases, holder(3), NOW, name)!.hostname, null, name)
    assert.equal(take(leases, holder(3), NOW, 'x'.repeat(63))!.hostname, 'x'.repeat(63))
    assert.equal(take(leases, holder(3), NOW, 'web')!.hostname, 'x'.repeat(63)) // keeps what it has
    assert.equal(take(leases, holder(3), NOW, 'y')!.hostname, 'y')
    assert.deepEqual(leases.byName('x'.repeat(63)), [])
  })

  test('a step of the clock expires nothing, and moves the deadlines along', () => {
    for (const step of [-1e9, -3600, -2, 61, 1e6, 1e9]) {
      const { leases, events } = make()
      const lease = take(leases, holder(1))!
      leases.sweep(NOW + 50)
      leases.sweep(NOW + 50 + step)
      assert.equal(lease.expiresAt - (NOW + 50 + step), 3550, `${step}`)
      for (let now = 0; now <= 3550; now += 50) leases.sweep(NOW + 50 + step + now)
      assert.equal(events.at(-1), `expired ${lease.text}`)
    }
    const { leases } = make()
    const lease = take(leases, holder(1))!
    leases.sweep(NOW - 0.5)
    assert.equal(lease.expiresAt, NOW + 3600)
  })

  test('a holder that takes another address gives up the first one', () => {
    const { leases, events } = make()
    const first = take(leases, holder(1))!
    const moved = { ...pool, range: { from: ip('10.0.0.100'), to: ip('10.0.0.110') } }
    const { address } = leases.offer(holder(1), moved, null, NOW)!
    assert.ok(leases.byAddress(first.address))
    leases.grant(holder(1), moved, address, 60, null, NOW)
    assert.deepEqual(events.slice(1), [`released ${first.text}`, `granted ${formatIp(address)}`])
  })

  test('random operations: no address twice, limits kept, what is granted stays until its end', () => {
    const random = seeded(11)
    const { leases } = make({ portLimit: 3 })
    const model = new Map<string, { who: Holder; until: number }>()
    let now = NOW
    for (let i = 0; i < 20000; i++) {
      const who = holder(random() % 20, `p${random() % 6}`)
      const wanted: Ip | null = random() % 3 === 0 ? ip(`10.0.0.${random() % 24}`) : null
      const own = [...model].find(([, one]) => one.who.mac === who.mac && one.who.port === who.port)
      const action = random() % 8
      if (action < 4) {
        const offer = leases.offer(who, pool, wanted, now)
        const lease = offer && leases.grant(who, pool, offer.address, 100, 'name', now)
        if (own) assert.equal(lease?.text, own[0])
        if (lease) {
          const before = model.get(lease.text)
          assert.ok(before === undefined || (before.who.mac === who.mac && before.who.port === who.port))
          model.set(lease.text, { who, until: now + 100 })
        }
      } else if (action === 4 && own) {
        assert.ok(leases.releaseBy(who, ip(own[0]), now))
        model.delete(own[0])
      } else if (action === 5) {
        assert.equal(leases.releaseBy(who, ip(`10.0.0.${10 + (random() % 10)}`), now) && !own, false)
        if (own && leases.byAddress(ip(own[0])) === null) model.delete(own[0])
      } else if (action === 6) {
        now += random() % 20
        leases.sweep(now)
        for (const [text, { until }] of model) if (until <= now) model.delete(text)
      } else if (own && random() % 4 === 0) {
        leases.decline(who, ip(own[0]), now)
        model.delete(own[0])
      }
      const list = leases.list().map(({ text }) => text)
      assert.deepEqual(list.toSorted(), [...model.keys()].toSorted())
      assert.ok(leases.byName('name').length <= 1)
      if (i % 100 === 0)
        for (let port = 0; port < 6; port++)
          assert.ok(leases.list().filter((one) => one.port === `p${port}`).length <= 3)
    }
  })
})
