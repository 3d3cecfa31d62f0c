/**
 * services/lease-room.ts: a port that has all its leases gets room by the oldest that nobody uses, at its own cost and
 * no other's; by DHCP as a client sees it, and by a relay.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { formatIp } from '../../src/services/address.js'
import { Dhcp4Server } from '../../src/services/dhcp4-server.js'
import { LeaseRoom } from '../../src/services/lease-room.js'
import { DEFAULT_LEASE_SETTINGS, type Holder, type Lease, type LeasePool, Leases } from '../../src/services/leases.js'
import { ip, message, read, settings } from './dhcp4-rig.js'

const NOW = 1_800_000_000
const SECONDS = 3600
const pool: LeasePool = {
  subnet: { ip: ip('10.0.0.0'), prefix: 24 },
  range: { from: ip('10.0.0.10'), to: ip('10.0.0.250') },
}
const mac = (n: number): string => `52:54:00:00:00:${n.toString(16).padStart(2, '0')}`
const holder = (n: number, port = 'vm'): Holder => ({ mac: mac(n), port, client: '', association: '' })

interface Setting {
  leases: Leases
  room: LeaseRoom
  /** MACs of hosts that answer */
  present: Set<string>
  asked: string[]
  problems: string[]
  take(who: Holder, now?: number): Lease | null
}

function setting(changes: Partial<typeof DEFAULT_LEASE_SETTINGS> = {}): Setting {
  const leases = new Leases('net', null, NOW, () => undefined)
  leases.configure({ ...DEFAULT_LEASE_SETTINGS, portLimit: 3, ...changes })
  const present = new Set<string>()
  const asked: string[] = []
  const problems: string[] = []
  const room = new LeaseRoom(leases, {
    isThere: async (lease) => {
      asked.push(lease.mac)
      return present.has(lease.mac)
    },
    onProblem: (reason) => problems.push(reason),
  })
  const take: Setting['take'] = (who, now = NOW) => {
    const lease = leases.offer(who, pool, null, now)
    return lease && leases.grant(who, pool, lease.address, SECONDS, null, now)
  }
  return { leases, room, present, asked, problems, take }
}

const macsAt = (leases: Leases, port: string): string[] =>
  leases
    .list()
    .filter((lease) => lease.port === port)
    .map((lease) => lease.mac)
    .sort()

suite('room at a port', () => {
  test('the lease that was renewed longest ago of those whose hosts are silent gives way', async () => {
    const { leases, room, present, asked, problems, take } = setting()
    const first = take(holder(1), NOW)!
    for (const n of [2, 3]) take(holder(n), NOW + n)
    take(holder(8, 'other'))
    leases.grant(holder(1), pool, first.address, SECONDS, null, NOW + 10) // renewed: now the youngest
    present.add(mac(2))
    assert.equal(take(holder(4), NOW + 20), null)
    assert.equal(await room.make('vm', [pool], mac(4), NOW + 20), true)
    assert.ok(take(holder(4), NOW + 20))
    assert.deepEqual(macsAt(leases, 'vm'), [mac(1), mac(2), mac(4)])
    assert.deepEqual(macsAt(leases, 'other'), [mac(8)])
    assert.deepEqual(asked, [mac(2), mac(3), mac(1)])
    assert.deepEqual(room.counts('vm'), { gaveWay: 1, refused: 0 })
    assert.match(problems.join(), /port vm .*10\.0\.0\.\d+ of 52:54:00:00:00:03.* gives way/)
  })

  test('hosts that answer keep their leases; the port is told of, and not asked again at once', async () => {
    const { leases, room, present, asked, problems, take } = setting()
    for (const n of [1, 2, 3]) {
      take(holder(n))
      present.add(mac(n))
    }
    assert.equal(await room.make('vm', [pool], mac(4), NOW + 1), false)
    assert.equal(await room.make('vm', [pool], mac(4), NOW + 2), false)
    assert.equal(asked.length, 3)
    assert.equal(await room.make('vm', [pool], mac(4), NOW + 5), false)
    assert.equal(asked.length, 6)
    assert.deepEqual(macsAt(leases, 'vm'), [mac(1), mac(2), mac(3)])
    assert.deepEqual(room.counts('vm'), { gaveWay: 0, refused: 3 })
    assert.equal(problems.length, 1, 'once a minute')
    assert.match(problems[0], /port vm has its 3 leases, all in use: 52:54:00:00:00:04 gets none/)
  })

  test('one round at a time: who comes meanwhile is refused', async () => {
    const { room, take, leases } = setting()
    for (const n of [1, 2, 3]) take(holder(n))
    const both = [room.make('vm', [pool], mac(4), NOW), room.make('vm', [pool], mac(5), NOW)]
    assert.deepEqual(await Promise.all(both), [true, false])
    assert.equal(macsAt(leases, 'vm').length, 2)
  })

  test('reservations, and leases that are renewed while their hosts are asked, do not give way', async () => {
    const reservations = [{ mac: mac(9), address: ip('10.0.0.200'), name: null }]
    const { leases, room, take } = setting({ reservations, portLimit: 1 })
    take(holder(9))
    const own = take(holder(1), NOW + 1)!
    const made = room.make('vm', [pool], mac(4), NOW + 2)
    leases.grant(holder(1), pool, own.address, SECONDS, null, NOW + 2)
    assert.equal(await made, false)
    assert.deepEqual(macsAt(leases, 'vm'), [mac(1), mac(9)])
  })

  test('a network without a free address is told of, and nobody loses one for it', async () => {
    const { leases, room, asked, problems, take } = setting({ networkLimit: 2 })
    for (const n of [1, 2]) take(holder(n))
    assert.equal(await room.make('vm', [pool], mac(4), NOW), false)
    assert.equal(macsAt(leases, 'vm').length, 2)
    assert.equal(asked.length, 0)
    assert.deepEqual(problems, ['no address is left for 52:54:00:00:00:04 at port vm'])
  })
})

suite('DHCP at a port with all its leases', () => {
  const [DISCOVER, OFFER, REQUEST, ACK] = [1, 2, 3, 5]

  async function exchange(server: Dhcp4Server, who: string, at: number, giaddr?: string): Promise<string | null> {
    const ask = async (type: number, options: Record<number, number[]>) => {
      const request = message(type, { mac: who, options, ...(giaddr === undefined ? {} : { giaddr, from: mac(99) }) })
      const answer = await server.handle(request, { port: 'vm', nowSeconds: at })
      return answer === null ? null : read(answer)
    }
    const offer = await ask(DISCOVER, {})
    if (offer === null) return null
    assert.equal(offer.options.get(53)![0], OFFER)
    const address = formatIp(offer.yiaddr!)
    const ack = await ask(REQUEST, { 50: address.split('.').map(Number), 54: [10, 0, 0, 1] })
    return ack?.options.get(53)![0] === ACK ? address : null
  }

  test('guests made anew with other MACs all get a lease at their first try', async () => {
    const { leases, room } = setting()
    const server = new Dhcp4Server({ leases, room, settings: settings(), probe: async () => false })
    for (let n = 1; n <= 10; n++) assert.ok(await exchange(server, mac(n), NOW + n), `guest ${n}`)
    assert.equal(leases.list().length, 3)
    assert.equal(server.counts.exhausted, 0)
    assert.equal(room.counts('vm').gaveWay, 7)
  })

  test('hosts that are all there: no more than the limit, and counted', async () => {
    const { leases, room, present } = setting()
    for (let n = 1; n <= 4; n++) present.add(mac(n))
    const server = new Dhcp4Server({ leases, room, settings: settings(), probe: null })
    const got = []
    for (let n = 1; n <= 4; n++) got.push(await exchange(server, mac(n), NOW + n))
    assert.deepEqual(
      got.map((one) => one !== null),
      [true, true, true, false],
    )
    assert.equal(server.counts.exhausted, 1)
  })

  test('a relay speaks for many: all of 60 clients at once get their leases', async () => {
    const { leases, room } = setting({ portLimits: { vm: 1000 } })
    const server = new Dhcp4Server({ leases, room, settings: settings(), probe: null })
    for (let n = 1; n <= 60; n++) assert.ok(await exchange(server, mac(n), NOW, '10.0.0.2'), `client ${n}`)
    assert.equal(leases.list().length, 60)
    assert.ok(await exchange(server, mac(61), NOW), 'what the port sends of its own is not charged for them')
  })
})
