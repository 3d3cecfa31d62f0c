/** Networks with a router in the registry: what is chosen for them, what stands against them, live changes. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { parseNetwork, writtenNetwork } from '../../src/control/definition.js'
import { Failure } from '../../src/control/failure.js'
import { Log } from '../../src/control/log.js'
import type { Lease } from '../../src/control/model.js'
import type { Event } from '../../src/control/network.js'
import { Networks } from '../../src/control/networks.js'
import { Routers } from '../../src/control/routers.js'
import { Store } from '../../src/control/store.js'
import { type Surroundings, hostSurroundings } from '../../src/control/surroundings.js'
import { overlaps, parsePrefix } from '../../src/services/address.js'
import { uniqueLocalPrefix } from '../../src/services/host-network.js'
import { FakeFabric } from './fake-fabric.js'

const MAC = '52:54:00:00:00:01'
let folder: string
let fabric: FakeFabric
let store: Store
let networks: Networks
let routers: Routers
let events: Event[]
/** what `bestUplink` says */
let best: string | null
/** on the host: 192.0.2.0/24, at eth0 */
const surroundings: Surroundings = {
  bestUplink: () => best,
  pickSubnets(uuid, taken) {
    const free = ['10.200.0.0/24', '10.201.0.0/24', '10.202.0.0/24', '10.203.0.0/24'].find(
      (cidr) => !taken.some((one) => overlaps(one, parsePrefix(cidr)!)),
    )
    return [...(free === undefined ? [] : [free]), uniqueLocalPrefix(uuid)]
  },
  usedBy: (prefix) => (overlaps(prefix, parsePrefix('192.0.2.0/24')!) ? 'interface eth0 has 192.0.2.7/24' : null),
}

async function open(): Promise<void> {
  fabric = new FakeFabric()
  store = new Store(folder)
  networks = new Networks(fabric, store, new Log('error', () => {}), surroundings)
  routers = new Routers(networks, fabric)
  events = []
  await networks.open(null)
  networks.onEvent((event) => events.push(event))
}

beforeEach(async () => {
  best = 'host'
  folder = mkdtempSync(join(tmpdir(), 'weft-routers-'))
  await open()
})
afterEach(() => rmSync(folder, { recursive: true }))

const refused = (code: string, sentence: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Failure, String(error))
  assert.equal(error.code, code, error.message)
  assert.match(error.message, sentence)
  return true
}
const heard = (): string[] => events.map((event) => event.type)
const lease = (address: string, mac: string): Lease => ({
  address,
  mac,
  hostname: 'guest',
  port: 'p',
  expiresAt: '2026-01-01T00:00:00.000Z',
  reserved: false,
})

test('an empty state begins with a NAT network on the best uplink, and it stays so', async () => {
  const before = networks.show('default')
  assert.deepEqual([before.mode, before.uplink, before.active, before.autostart], ['nat', 'host', true, true])
  assert.deepEqual(
    before.subnets.map((subnet) => subnet.cidr),
    ['10.200.0.0/24', uniqueLocalPrefix(before.uuid)],
  )
  assert.equal(before.uplinkStatus?.state, 'up')
  assert.equal(before.domain, 'default.internal')
  best = null
  store.close()
  await open()
  assert.deepEqual(networks.show('default'), before)
})

test('a host that allows no uplink still gets the network', async () => {
  best = null
  rmSync(join(folder, 'networks'), { recursive: true })
  store.close()
  await open()
  assert.deepEqual([networks.show('default').mode, networks.show('default').uplink], ['nat', null])

  best = 'netdev:gone0'
  rmSync(join(folder, 'networks'), { recursive: true })
  store.close()
  fabric = new FakeFabric()
  fabric.missing.add('gone0')
  store = new Store(folder)
  networks = new Networks(fabric, store, new Log('error', () => {}), surroundings)
  await networks.open(null)
  assert.deepEqual([networks.show('default').mode, networks.show('default').uplink], ['nat', null])
})

test('what a definition leaves open is chosen once', async () => {
  const made = await networks.create({ name: 'a', mode: 'route' }, false)
  assert.equal(made.subnets[0]?.cidr, '10.201.0.0/24', 'the next that no network has')
  assert.equal(made.uplink, 'host')
  assert.equal((await networks.define({ name: 'a', mode: 'route', mtu: 1400 })).subnets[0]?.cidr, '10.201.0.0/24')
  assert.equal(networks.show('a').mtu, 1400)
  const none = await networks.create({ name: 'b', mode: 'nat', uplink: 'none', subnets: ['10.7.0.0/24'] }, false)
  assert.deepEqual([none.uplink, none.subnets.length], [null, 1])
  assert.equal((await networks.set('b', { mtu: 1300 })).uplink, null, 'none stays none')
  assert.deepEqual((await networks.create({ name: 'c' }, false)).subnets, [])
})

test('subnets in use are refused with who has them', async () => {
  const on = (name: string, more: object) =>
    networks.create({ name, mode: 'open', subnets: ['10.7.0.0/24'], uplink: 'host', ...more }, false)
  await on('a', {})
  await assert.rejects(
    on('b', { subnets: ['10.7.0.128/25'] }),
    refused('ERR_SUBNET_BUSY', /^subnets\[0\]: 10.7.0.128\/25 overlaps 10.7.0.0\/24 of network a/),
  )
  await on('c', { mode: 'nat' })
  await on('d', { uplink: 'netdev:eth9' })
  await networks.create({ name: 'e', subnets: ['10.7.0.0/24'] }, false)
  const host = on('f', { mode: 'nat', subnets: ['10.8.0.0/24', '192.0.2.128/25'] })
  await assert.rejects(
    host,
    refused(
      'ERR_SUBNET_BUSY',
      /^subnets\[1\]: 192.0.2.128\/25 is in use on this host: interface eth0 has 192.0.2.7\/24/,
    ),
  )
  await networks.create({ name: 'g', subnets: ['192.0.2.0/24'] }, false)
  // Two that were defined idle cannot both run.
  await networks.define({ name: 'h', mode: 'route', subnets: ['10.7.0.0/24'], uplink: 'host' })
  await assert.rejects(networks.start('h'), refused('ERR_SUBNET_BUSY', /of network a/))
  assert.equal(fabric.networks.has('h'), false)
  await networks.stop('a')
  await networks.start('h')
})

test('an uplink that is not there is a mistake when the network is made', async () => {
  fabric.missing.add('gone0')
  const dead = networks.create({ name: 'a', mode: 'nat', uplink: 'netdev:gone0' }, false)
  await assert.rejects(dead, refused('ERR_DEVICE_NOT_FOUND', /network a: uplink netdev:gone0: there is no interface/))
  assert.equal(fabric.networks.has('a'), false)
})

test('set: mode, subnets, uplink, domain, DHCP change live, or nothing does', async () => {
  await networks.create({ name: 'a', mode: 'nat', subnets: ['10.7.0.0/24'], forwards: ['tcp:80 10.7.0.5'] }, false)
  fabric.calls.length = 0
  const changed = await networks.set('a', {
    mode: 'open',
    addSubnets: ['10.8.0.1/16'],
    uplink: 'netdev:eth1',
    domain: 'x.org',
  })
  assert.deepEqual(
    [changed.mode, changed.uplink, changed.domain, changed.subnets.length],
    ['open', 'netdev:eth1', 'x.org', 2],
  )
  assert.equal((await networks.set('a', { dhcp: '10.7.0.10-10.7.0.20' })).subnets[0]?.dhcp?.from, '10.7.0.10')
  assert.equal((await networks.set('a', { dhcp: 'off' })).subnets[0]?.dhcp, null)
  assert.equal((await networks.set('a', { removeSubnets: ['10.8.0.7/16'] })).subnets.length, 1)
  assert.deepEqual(fabric.calls, ['change a', 'change a', 'change a', 'change a'])
  assert.deepEqual(fabric.networks.get('a')?.definition, networks.definition('a'))

  const before = networks.definition('a')
  const cases: [Parameters<Networks['set']>[1], string, RegExp][] = [
    [{ removeSubnets: ['10.9.0.0/24'] }, 'ERR_NOT_FOUND', /network a has no subnet 10.9.0.0\/24/],
    [{ removeSubnets: ['10.7.0.0/24'] }, 'ERR_INVALID', /a network of mode open needs one/],
    [{ subnets: ['10.9.0.0/24'] }, 'ERR_INVALID', /forwards\[0\].to: 10.7.0.5 is in no subnet/],
    [{ addSubnets: ['192.0.2.0/24'] }, 'ERR_SUBNET_BUSY', /interface eth0/],
    [{ mode: 'bridge' }, 'ERR_INVALID', /stays open/],
    [{ mode: 'isolated' }, 'ERR_INVALID', /forwards: an isolated network has none/],
    [{ uplink: 'sockets' }, 'ERR_UNSUPPORTED', /later version/],
    [{ domain: 'a..b' }, 'ERR_INVALID', /domain/],
  ]
  for (const [changes, code, sentence] of cases) {
    await assert.rejects(networks.set('a', changes), refused(code, sentence))
    assert.deepEqual(networks.definition('a'), before)
  }
  fabric.refuse = 'change'
  await assert.rejects(networks.set('a', { mode: 'nat' }), refused('ERR_IO', /by order of the test/))
  assert.deepEqual(networks.definition('a'), before)

  await routers.removeForward('a', 'tcp:80')
  const isolated = await networks.set('a', { mode: 'isolated' })
  assert.deepEqual([isolated.mode, isolated.uplink, isolated.subnets.length], ['isolated', null, 1])
  assert.equal((await networks.set('a', { mode: 'nat' })).uplink, 'host', 'chosen again')
})

test('networks are listed while one of them stops', async () => {
  await networks.create({ name: 'a', mode: 'nat' }, false)
  const { stop } = fabric
  let shown: unknown
  fabric.stop = async (name) => {
    await stop.call(fabric, name)
    shown = networks.list(true).map((one) => [one.name, one.uplinkStatus?.state ?? null])
  }
  await networks.stop('a')
  assert.deepEqual(shown, [
    ['default', 'up'],
    ['a', null],
  ])
  assert.equal((await networks.set('a', { mode: 'isolated' })).uplink, null)
  await networks.create({ name: 'bare' }, false)
  const routed = await networks.set('bare', { mode: 'nat' })
  assert.deepEqual([routed.uplink, routed.subnets.length, routed.domain], ['host', 2, 'bare.internal'])
})

test('leases: listed with reservations, reserved, released', async () => {
  fabric.lease('default', lease('10.200.0.30', MAC))
  fabric.lease('default', lease('10.200.0.4', '52:54:00:00:00:02'))
  await assert.rejects(
    routers.reserve('default', { mac: '52:54:00:00:00:03', address: '10.200.0.4' }),
    refused('ERR_INVALID', /^address: 10.200.0.4 is leased to 52:54:00:00:00:02; weft lease release default/),
  )
  const made = await routers.reserve('default', { mac: MAC.toUpperCase(), address: '10.200.0.9', name: 'Web1' })
  assert.deepEqual(made, {
    address: '10.200.0.9',
    mac: MAC,
    hostname: 'web1',
    port: null,
    expiresAt: null,
    reserved: true,
  })
  await routers.reserve('default', { mac: '52:54:00:00:00:02', address: '10.200.0.4' })
  assert.deepEqual(
    routers.leases('default').map((one) => `${one.address} ${one.reserved}`),
    ['10.200.0.4 true', '10.200.0.9 true', '10.200.0.30 false'],
  )
  await assert.rejects(
    routers.reserve('default', { mac: MAC, address: '10.200.0.10' }),
    refused('ERR_INVALID', /has 10.200.0.9 reserved already/),
  )
  fabric.calls.length = 0
  await routers.release('default', '10.200.0.4')
  assert.deepEqual(fabric.calls, ['change default', 'releaseLease default 10.200.0.4'])
  await routers.release('default', '10.200.0.9')
  await routers.release('default', '10.200.0.30')
  assert.deepEqual(routers.leases('default'), [])
  await assert.rejects(routers.release('default', '10.200.0.9'), refused('ERR_NOT_FOUND', /no lease of 10.200.0.9/))
  assert.deepEqual(
    heard().filter((type) => type.startsWith('reservation')),
    ['reservation.added', 'reservation.added', 'reservation.removed', 'reservation.removed'],
  )
  const bare = networks.create({ name: 'bare' }, false)
  await bare
  await assert.rejects(
    routers.reserve('bare', { mac: MAC, address: '10.0.0.1' }),
    refused('ERR_INVALID', /network bare has no router/),
  )
})

test('forwards: added, refused, removed by their first operand', async () => {
  assert.deepEqual(await routers.addForward('default', 'tcp:8080-8081', 'Web1:80'), {
    protocol: 'tcp',
    address: null,
    firstPort: 8080,
    lastPort: 8081,
    to: 'web1',
    toPort: 80,
  })
  await assert.rejects(
    routers.addForward('default', 'tcp:8081', '10.200.0.5'),
    refused('ERR_INVALID', /tcp port 8081 is forwarded already, by "tcp:8080-8081 web1:80"/),
  )
  await assert.rejects(routers.addForward('default', 'tcp:x', 'web1'), refused('ERR_INVALID', /^forward: tcp:x is not/))
  await routers.addForward(
    'default',
    'tcp:[2001:db8::1]:443',
    `[${networks.show('default').subnets[1]?.cidr.replace('/64', '5')}]`,
  )
  await assert.rejects(routers.removeForward('default', 'tcp:8080'), refused('ERR_NOT_FOUND', /no forward tcp:8080/))
  await routers.removeForward('default', 'tcp:8080-8081')
  assert.equal(routers.forwards('default').length, 1)
  const [added, , removed] = events.filter((event) => event.type.startsWith('forward'))
  assert.deepEqual([added?.type, removed?.type], ['forward.added', 'forward.removed'])
  assert.ok(added?.type === 'forward.added' && added.forward.firstPort === 8080)
})

test('rules: added at a place, counted while they run, removed by number', async () => {
  await routers.addRule('default', 'accept in tcp dport 22', undefined)
  assert.equal((await routers.addRule('default', 'drop in from 203.0.113.0/24', 1)).number, 1)
  assert.equal((await routers.addRule('default', 'reject out udp', undefined)).number, 3)
  await assert.rejects(routers.addRule('default', 'drop in', 5), refused('ERR_INVALID', /^at: 5 is not 1..4/))
  await assert.rejects(routers.addRule('default', 'permit in', undefined), refused('ERR_INVALID', /^rule: /))
  await assert.rejects(routers.addRule('default', 'drop in from $no', undefined), refused('ERR_INVALID', /no/))
  assert.deepEqual(
    routers.rules('default').map((one) => one.packets),
    [7, 7, 7],
  )
  assert.match((await routers.removeRule('default', 1)).rule, /^drop in from 203/)
  await assert.rejects(routers.removeRule('default', 3), refused('ERR_NOT_FOUND', /no rule 3/))
  await networks.stop('default')
  assert.deepEqual(
    routers.rules('default').map((one) => [one.number, one.packets]),
    [
      [1, 0],
      [2, 0],
    ],
  )
  assert.equal(heard().filter((type) => type === 'rule.added').length, 3)
})

test('routes: via hosts and other networks, without loops', async () => {
  for (const name of ['a', 'b', 'c']) await networks.create({ name, mode: 'nat', uplink: 'none' }, false)
  await routers.addRoute('a', { destination: '10.9.0.0/16', via: 'b' })
  await routers.addRoute('b', { destination: '10.0.0.0/8', via: networks.show('c').uuid })
  assert.equal(networks.definition('b').routes[0]?.via, 'c')
  await assert.rejects(
    routers.addRoute('c', { destination: '10.9.1.0/24', via: 'a' }),
    refused('ERR_INVALID', /^routes\[0\].via: 10.9.1.0\/24 goes round: c -> a -> b -> c/),
  )
  await routers.addRoute('c', { destination: networks.show('a').subnets[0]?.cidr ?? '', via: 'a' })
  await assert.rejects(
    routers.addRoute('a', { destination: '10.9.0.0/16', via: 'c' }),
    refused('ERR_INVALID', /has a route already, via b/),
  )
  await assert.rejects(
    routers.addRoute('a', { destination: '10.99.0.0/16', via: 'nowhere' }),
    refused('ERR_NETWORK_NOT_FOUND', /no network nowhere/),
  )
  const both = { name: 'd', mode: 'nat', uplink: 'none', subnets: ['10.201.0.0/24'] }
  const clash = networks.create({ ...both, routes: [{ destination: '10.77.0.0/16', via: 'a' }] }, false)
  await assert.rejects(clash, refused('ERR_SUBNET_BUSY', /of network a/))
  await routers.removeRoute('a', '10.9.0.0/16')
  await assert.rejects(routers.removeRoute('a', '10.9.0.0/16'), refused('ERR_NOT_FOUND', /no route to 10.9.0.0\/16/))
  assert.equal(routers.routes('a')[0]?.origin, 'connected')
  await networks.stop('b')
  assert.deepEqual(routers.routes('b').at(-1), {
    destination: '10.0.0.0/8',
    via: null,
    interface: 'c',
    origin: 'static',
  })
})

test('connections, neighbors, trace: of what runs', async () => {
  const tuple = { source: '10.200.0.5', sourcePort: 1, destination: '192.0.2.1', destinationPort: 80 }
  const counts = { packets: 1, bytes: 60, timeoutSeconds: 5 }
  for (let n = 0; n < 3; n++) {
    fabric.connect('default', {
      protocol: 'tcp',
      state: 'established',
      original: tuple,
      reply: tuple,
      nat: 'snat',
      ...counts,
    })
  }
  assert.equal(routers.connections('default', 2).length, 2)
  assert.equal(await routers.flushConnections('default'), 3)
  assert.ok(heard().includes('connection.flushed'))
  await networks.addPort('default', { name: 'p', kind: 'tap' })
  assert.equal(routers.neighbors('default')[0]?.port, 'p')
  assert.equal((await routers.trace('default', 'p', 'udp 10.0.0.1:1 > 10.0.0.2:2')).verdict, 'dropped: policy')
  assert.throws(() => routers.trace('default', 'q', 'x'), refused('ERR_PORT_NOT_FOUND', /no port q/))
  await networks.stop('default')
  assert.deepEqual([routers.neighbors('default'), routers.connections('default', 9)], [[], []])
  await assert.rejects(routers.flushConnections('default'), refused('ERR_NETWORK_INACTIVE', /default/))
  assert.throws(() => routers.trace('default', 'p', 'x'), refused('ERR_NETWORK_INACTIVE', /default/))
})

test('records: of each type, joined, removed', async () => {
  await routers.addRecord('default', { name: 'DB.', type: 'a', value: ['10.200.0.9'] })
  assert.deepEqual(await routers.addRecord('default', { name: 'db', type: 'a', value: ['10.200.0.10'] }), [
    { name: 'db', type: 'a', value: ['10.200.0.9', '10.200.0.10'] },
  ])
  await routers.addRecord('default', { name: 'db', type: 'aaaa', value: ['FD00::9'] })
  await routers.addRecord('default', { name: 'www', type: 'cname', value: ['db'] })
  await routers.addRecord('default', { name: '_http._tcp', type: 'srv', value: ['0', '5', '80', 'db'] })
  await routers.addRecord('default', { name: 'db', type: 'txt', value: ['v=1', 'x'] })
  assert.deepEqual(
    routers.records('default').map((one) => `${one.name} ${one.type} ${one.value.join(' ')}`),
    ['_http._tcp srv 0 5 80 db', 'db a 10.200.0.9 10.200.0.10', 'db aaaa fd00::9', 'db txt v=1 x', 'www cname db'],
  )
  const wrong: [Parameters<Routers['addRecord']>[1], RegExp][] = [
    [{ name: 'db', type: 'a', value: ['fd00::1'] }, /^value: fd00::1 is not an IPv4 address/],
    [{ name: 'db', type: 'cname', value: ['x'] }, /db has other records/],
    [{ name: 'db2', type: 'cname', value: ['db2'] }, /db2 leads back to db2/],
    [{ name: 'x', type: 'cname', value: ['a', 'b'] }, /has one value, not 2/],
    [{ name: 'x', type: 'srv', value: ['1', '2', 'db'] }, /is not PRIORITY WEIGHT PORT TARGET/],
    [{ name: 'a b', type: 'txt', value: ['x'] }, /^name: "a b" is not a DNS name/],
  ]
  for (const [record, sentence] of wrong) {
    await assert.rejects(routers.addRecord('default', record), refused('ERR_INVALID', sentence))
  }
  assert.equal(await routers.removeRecords('default', 'db', 'aaaa'), 1)
  assert.equal(await routers.removeRecords('default', 'db', undefined), 2)
  await assert.rejects(routers.removeRecords('default', 'db', undefined), refused('ERR_NOT_FOUND', /no record db/))
  assert.ok(heard().includes('record.changed'))
})

test('limits of a network hold for one at a time too', async () => {
  const rules = Array.from({ length: 512 }, () => 'drop in')
  await networks.create({ name: 'full', mode: 'nat', uplink: 'none', rules }, false)
  await assert.rejects(routers.addRule('full', 'drop in', undefined), refused('ERR_CAPACITY', /512 rules/))
  const forwards = Array.from({ length: 256 }, (_, n) => `tcp:${n + 1} web`)
  await networks.create({ name: 'more', mode: 'nat', uplink: 'none', forwards }, false)
  await assert.rejects(routers.addForward('more', 'tcp:9999', 'web'), refused('ERR_CAPACITY', /at most 256 forwards/))
})

test('the host itself: what it has is found, what is picked is free', () => {
  const picked = hostSurroundings.pickSubnets('6f0e8a52-3b1c-4f57-9c1e-0d2a4b6c8e10', [])
  assert.ok(picked.length > 0)
  for (const cidr of picked) assert.equal(hostSurroundings.usedBy(parsePrefix(cidr)!), null, cidr)
  assert.match(hostSurroundings.usedBy(parsePrefix('127.0.0.0/24')!) ?? '', /^interface lo has 127\.0\.0\.1\/8$/)
  const network = parseNetwork({ name: 'n', mode: 'nat', subnets: picked })
  assert.deepEqual(parseNetwork(writtenNetwork(network)), network)
})
