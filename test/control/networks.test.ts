/** The registry: changes happen whole or not at all, and what was defined outlives the daemon. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import * as fc from 'fast-check'
import { parseNetwork } from '../../src/control/definition.js'
import { Failure } from '../../src/control/failure.js'
import { Log } from '../../src/control/log.js'
import type { NetworkDefinition } from '../../src/control/model.js'
import { Networks } from '../../src/control/networks.js'
import { execute, plan } from '../../src/control/plan.js'
import { Store } from '../../src/control/store.js'
import type { Surroundings } from '../../src/control/surroundings.js'
import { FakeFabric } from './fake-fabric.js'

let folder: string
let fabric: FakeFabric
let store: Store
let networks: Networks
let lines: string[]
let events: string[]

const surroundings: Surroundings = {
  bestUplink: () => 'host',
  pickSubnets: () => ['10.200.0.0/24'],
  usedBy: () => null,
}

async function open(configuration: unknown[] | null = null): Promise<void> {
  fabric = new FakeFabric()
  store = new Store(folder)
  lines = []
  networks = new Networks(fabric, store, new Log('debug', (line) => lines.push(line)), surroundings)
  await networks.open(configuration)
  events = []
  networks.onEvent((event) => events.push(event.type))
}

/** As after kill -9: nothing is closed, only the lock is taken over. */
async function reopen(configuration: unknown[] | null = null): Promise<void> {
  store.close()
  await open(configuration)
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'weft-networks-'))
  await open()
})
afterEach(() => rmSync(folder, { recursive: true }))

const refused = (code: string, sentence: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Failure, String(error))
  assert.equal(error.code, code)
  assert.match(error.message, sentence)
  return true
}
const snapshot = () =>
  JSON.stringify([networks.list(true).map((one) => networks.definition(one.name)), [...fabric.networks]])

test('an empty state begins with the network default', () => {
  const [network] = networks.list(false)
  assert.equal(network?.name, 'default')
  assert.equal(network?.mode, 'nat')
  assert.deepEqual([network?.subnets[0]?.cidr, network?.uplink], ['10.200.0.0/24', 'host'])
  assert.equal(network?.persistent, true)
  assert.deepEqual(fabric.calls, ['start default'])
})

test('networks: create, stop, start, restart, delete, transient', async () => {
  await networks.create({ name: 'a' }, false)
  await assert.rejects(networks.create({ name: 'a' }, false), refused('ERR_NETWORK_EXISTS', /network a already/))
  await assert.rejects(networks.start('a'), refused('ERR_NETWORK_ACTIVE', /network a is active/))
  await networks.stop('a')
  await assert.rejects(networks.stop('a'), refused('ERR_NETWORK_INACTIVE', /network a is not active/))
  assert.equal(networks.show('a').active, false)
  await networks.start(networks.show('a').uuid)
  await networks.restart('a')
  await networks.delete('a')
  assert.throws(() => networks.show('a'), refused('ERR_NETWORK_NOT_FOUND', /no network a/))
  await networks.create({ name: 't' }, true)
  await networks.stop('t')
  assert.throws(() => networks.show('t'), refused('ERR_NETWORK_NOT_FOUND', /no network t/))
  assert.ok(!readdirSync(join(folder, 'networks')).includes('t.json'))
})

test('what runs, runs again after a crash; what was stopped stays so', async () => {
  await networks.create({ name: 'runs' }, false)
  await networks.create({ name: 'idle' }, false)
  await networks.create({ name: 'passing' }, true)
  await networks.stop('idle')
  await networks.define({ name: 'defined' })
  await networks.addPort('runs', { name: 'p', kind: 'tap', access: 10 })
  await networks.addEntry('runs', { mac: '52:54:00:00:00:01', port: 'p' })
  const before = networks.definition('runs')
  await reopen()
  const names = networks.list(true).map((one) => `${one.name} ${one.active}`)
  assert.deepEqual(names, ['default true', 'defined false', 'idle false', 'runs true'])
  assert.deepEqual(networks.definition('runs'), before)
  assert.deepEqual(before.fdb, [{ mac: '52:54:00:00:00:01', vid: 10, port: 'p' }])
})

test('ports: add, set, link, remove, and their refusals', async () => {
  await networks.addPort('default', { name: 'p', kind: 'tap', trunk: '10-12', native: 10 })
  await assert.rejects(
    networks.addPort('default', { name: 'p', kind: 'tap' }),
    refused('ERR_PORT_EXISTS', /port p already/),
  )
  const busy = networks.addPort('default', { name: 'q', kind: 'netdev', dev: 'p' })
  await assert.rejects(busy, refused('ERR_PORT_BUSY', /interface p is in use by port p of network default/))
  fabric.missing.add('gone0')
  const gone = networks.addPort('default', { name: 'q', kind: 'netdev', dev: 'gone0' })
  await assert.rejects(gone, refused('ERR_DEVICE_NOT_FOUND', /gone0/))
  assert.deepEqual(
    networks.ports('default').map((one) => one.name),
    ['p'],
  )

  assert.deepEqual((await networks.setPort('default', 'p', { access: 7 })).vlan, {
    mode: 'access',
    access: 7,
    native: null,
    trunk: [],
  })
  assert.equal((await networks.setPort('default', 'p', { trunk: '5' })).vlan.mode, 'trunk')
  assert.equal((await networks.setPort('default', 'p', { trunk: null })).vlan.mode, 'none')
  assert.equal((await networks.setPort('default', 'p', { mtu: 9000 })).mtu, 9000)
  assert.equal((await networks.setPort('default', 'p', { mtu: null })).mtu, 1500)
  assert.equal((await networks.setPort('default', 'p', { link: false })).state, 'down')
  await assert.rejects(networks.setPort('default', 'p', { kind: 'qemu' }), refused('ERR_INVALID', /stays tap/))
  await assert.rejects(
    networks.setPort('default', 'p', { access: 4095 }),
    refused('ERR_INVALID', /4095 is not 1..4094/),
  )
  await assert.rejects(networks.setPort('default', 'x', {}), refused('ERR_PORT_NOT_FOUND', /no port x/))

  await networks.addEntry('default', { mac: '52:54:00:00:00:01', port: 'p' })
  await networks.removePort('default', 'p')
  assert.deepEqual(networks.definition('default').fdb, [])
  await assert.rejects(networks.removePort('default', 'p'), refused('ERR_PORT_NOT_FOUND', /no port p/))
  assert.ok(events.includes('port.added') && events.includes('port.changed') && events.includes('port.removed'))
})

test('a change that does not concern a port does not touch it', async () => {
  await networks.addPort('default', { name: 'a', kind: 'tap' })
  await networks.addPort('default', { name: 'b', kind: 'tap' })
  fabric.calls.length = 0
  await networks.setPort('default', 'a', { access: 3 })
  await networks.set('default', { fdbAgeSeconds: 10 })
  assert.deepEqual(fabric.calls, ['setPort default a', 'change default'])
})

test('entries: static ones are kept, learned ones removed and flushed', async () => {
  await networks.addPort('default', { name: 'p', kind: 'tap', mac: '52:54:00:00:00:09' })
  await networks.addEntry('default', { mac: '52:54:00:00:00:01', port: 'p', vid: 3 })
  const twice = networks.addEntry('default', { mac: '52:54:00:00:00:01', port: 'p', vid: 3 })
  await assert.rejects(twice, refused('ERR_INVALID', /static in VLAN 3 already/))
  await assert.rejects(
    networks.addEntry('default', { mac: '52:54:00:00:00:01', port: 'x' }),
    refused('ERR_PORT_NOT_FOUND', /x/),
  )
  fabric.learn('default', { mac: '52:54:00:00:00:02', vid: 0, port: 'p' })
  assert.equal(networks.fdb('default', {}).length, 2)
  assert.equal(networks.fdb('default', { vid: 3 }).length, 1)
  assert.equal(await networks.removeEntry('default', '52:54:00:00:00:02', undefined), 1)
  assert.equal(await networks.removeEntry('default', '52:54:00:00:00:01', 3), 1)
  const absent = networks.removeEntry('default', '52:54:00:00:00:01', 3)
  await assert.rejects(absent, refused('ERR_NOT_FOUND', /no entry 52:54:00:00:00:01 in VLAN 3/))
  fabric.learn('default', { mac: '52:54:00:00:00:03', vid: 0, port: 'p' })
  assert.equal(await networks.flush('default', {}), 1)
})

test('a bridge network: its uplink must be there, and stays', async () => {
  fabric.missing.add('gone0')
  const dead = networks.create({ name: 'lan', mode: 'bridge', uplink: 'netdev:gone0' }, false)
  await assert.rejects(dead, refused('ERR_DEVICE_NOT_FOUND', /network lan: uplink netdev:gone0/))
  assert.equal(networks.list(true).length, 1)
  assert.equal(fabric.networks.has('lan'), false)
  await networks.create({ name: 'lan', mode: 'bridge', uplink: 'netdev:eth0' }, false)
  await assert.rejects(networks.removePort('lan', 'uplink'), refused('ERR_INVALID', /uplink of network lan/))
  await assert.rejects(networks.setPort('lan', 'uplink', { dev: 'eth1' }), refused('ERR_INVALID', /stays netdev:eth0/))
  await networks.setPort('lan', 'uplink', { trunk: '1-10' })
})

test('a refusal in the middle takes back what was done', async () => {
  await networks.addPort('default', { name: 'a', kind: 'tap' })
  await networks.addPort('default', { name: 'b', kind: 'tap' })
  await networks.addEntry('default', { mac: '52:54:00:00:00:01', port: 'a' })
  const wanted = {
    name: 'default',
    mode: 'nat',
    mtu: 9000,
    ports: [
      { name: 'b', kind: 'tap', access: 4 },
      { name: 'c', kind: 'tap' },
    ],
  }
  const before = snapshot()
  for (const call of ['removePort', 'change', 'setPort', 'addPort']) {
    fabric.refuse = call
    await assert.rejects(networks.define(wanted), refused('ERR_IO', /by order of the test/))
    const shown = JSON.parse(snapshot())
    assert.deepEqual(shown[0], JSON.parse(before)[0], call)
    assert.deepEqual(new Set(fabric.networks.get('default')?.ports.keys()), new Set(['a', 'b']), call)
  }
  await networks.define(wanted)
  assert.deepEqual(
    networks.ports('default').map((one) => one.name),
    ['b', 'c'],
  )
})

test('a store that cannot be written takes the change back', async () => {
  const fault = new Failure('ERR_IO', 'disk full')
  const { save } = store
  store.save = () => {
    throw fault
  }
  await assert.rejects(networks.addPort('default', { name: 'p', kind: 'tap' }), fault)
  store.save = save
  assert.deepEqual(networks.ports('default'), [])
  await networks.addPort('default', { name: 'p', kind: 'tap' })
})

test('changes that are asked for at once happen one after another', async () => {
  const all = Array.from({ length: 20 }, (_, n) => networks.addPort('default', { name: `p${n}`, kind: 'tap' }))
  await Promise.all(all)
  assert.deepEqual(
    networks.ports('default').map((one) => one.name),
    Array.from({ length: 20 }, (_, n) => `p${n}`),
  )
})

test('a broken file is kept, named, and never written over', async () => {
  await networks.create({ name: 'victim' }, false)
  const path = join(folder, 'networks', 'victim.json')
  const damaged = readFileSync(path, 'utf8').slice(0, 40)
  writeFileSync(path, damaged)
  await reopen()
  assert.ok(
    lines.some((line) => line.includes('victim.json')),
    lines.join(''),
  )
  assert.throws(() => networks.show('victim'), refused('ERR_IO', /victim.json cannot be read/))
  await assert.rejects(networks.create({ name: 'victim' }, false), refused('ERR_IO', /mend it or move it away/))
  await assert.rejects(networks.define({ name: 'victim' }), refused('ERR_IO', /victim/))
  assert.equal(readFileSync(path, 'utf8'), damaged)
  for (const content of [
    '',
    'null',
    '{"version":2,"network":{"name":"victim"}}',
    '{"version":1,"network":{"name":"x"}}',
  ]) {
    writeFileSync(path, content)
    await reopen()
    assert.equal(store.problems().length, 1, content)
    assert.equal(readFileSync(path, 'utf8'), content)
  }
})

test('one state folder has one daemon', () => {
  assert.throws(() => new Store(folder), refused('ERR_PORT_BUSY', /in use by process/))
  writeFileSync(join(folder, 'lock'), '999999999 1\n')
  new Store(folder).close()
})

test('a configuration file: all of it is checked before any of it is done', async () => {
  await reopen([{ name: 'c', ports: [{ name: 'p', kind: 'tap' }] }])
  assert.equal(networks.show('c').active, true)
  await reopen([{ name: 'c', ports: [{ name: 'q', kind: 'tap' }] }])
  assert.deepEqual(
    networks.ports('c').map((one) => one.name),
    ['q'],
  )
  store.close()
  await assert.rejects(open([{ name: 'd' }, { name: 'e', colour: 1 }]), refused('ERR_INVALID', /networks\[1\].colour/))
  assert.equal(fabric.calls.length, 0)
})

test('property: a plan leads from any network to any other, and back', async () => {
  const port = fc.record({
    name: fc.constantFrom('a', 'b', 'c', 'd'),
    kind: fc.constantFrom('tap', 'netdev'),
    dev: fc.constantFrom('e0', 'e1', 'e2', 'e3', 'e4', 'e5'),
    access: fc.integer({ min: 1, max: 3 }),
  })
  const network = fc.record({
    mtu: fc.constantFrom(1500, 9000),
    subnets: fc.constant(['10.0.0.0/24']),
    rules: fc.subarray(['drop in', 'accept out', 'reject local']),
    ports: fc.uniqueArray(port, { selector: (one) => one.name }),
  })
  const parsed = network
    .filter((one) => new Set(one.ports.map((p) => p.dev)).size === one.ports.length)
    .map((one) => {
      const fdb = one.ports.map((p, n) => ({ mac: `52:54:00:00:00:0${n}`, port: p.name }))
      return parseNetwork({ name: 'n', uuid: '6f0e8a52-3b1c-4f57-9c1e-0d2a4b6c8e10', ...one, fdb })
    })
  type Content = { ports: Iterable<object>; fdb: object[]; mtu: number; rules: string[] }
  const content = ({ ports, fdb, mtu, rules }: Content) =>
    [[...ports], fdb].map((list) => [...list].map((one) => JSON.stringify(one)).sort()).concat([[`${mtu}`], rules])
  const live = (fake: FakeFabric) => {
    const { definition, ports, statics } = fake.networks.get('n') as never as {
      definition: NetworkDefinition
      ports: Map<string, object>
      statics: object[]
    }
    return content({ ports: ports.values(), fdb: statics, mtu: definition.mtu, rules: definition.rules })
  }
  await fc.assert(
    fc.asyncProperty(parsed, parsed, async (from, to) => {
      const fake = new FakeFabric()
      await fake.start(from)
      const stuck: unknown[] = []
      const commit = () => {
        throw new Error('no')
      }
      await assert.rejects(execute(fake, 'n', plan(from, to), commit, (action) => stuck.push(action)))
      assert.deepEqual(live(fake), content(from))
      assert.deepEqual(stuck, [])
      await execute(
        fake,
        'n',
        plan(from, to),
        () => {},
        () => {},
      )
      assert.deepEqual(live(fake), content(to))
      assert.deepEqual(plan(to, to), [])
    }),
    { seed: 1 },
  )
})

test('shards: a pin moves and is kept; what does not run is refused, what is linked is not torn', async () => {
  fabric.shardCount = 2
  const created = await networks.create({ name: 'a', shard: 1 }, false)
  assert.deepEqual([created.shard, created.runsOn], [1, 1])
  assert.deepEqual((await networks.set('a', { shard: 0 })).shard, 0)
  assert.ok(fabric.calls.includes('change a'))
  assert.deepEqual((await networks.set('a', { shard: null })).shard, null)
  const missing = refused('ERR_INVALID', /^shard: 2 is not 0\.\.1: 2 shards run/)
  await assert.rejects(networks.set('a', { shard: 2 }), missing)
  await assert.rejects(networks.create({ name: 'b', shard: 2 }, false), missing)
  await assert.rejects(networks.define({ name: 'b', shard: 2 }), missing)
  for (const shard of [-1, 1.5, 'x']) {
    const value = networks.create({ name: 'b', shard }, false)
    await assert.rejects(value, refused('ERR_INVALID', /^shard: .* is not the number of a shard/))
  }
  const subnet = (third: number) => [`10.1.${third}.0/24`]
  await networks.create({ name: 'r1', mode: 'route', subnets: subnet(1), uplink: null, shard: 0 }, false)
  await networks.create({ name: 'r2', mode: 'route', subnets: subnet(2), uplink: null, shard: 1 }, false)
  const torn = refused(
    'ERR_INVALID',
    /^shard: networks r1 and r2 are linked by routes and run on one shard, not on 0 and 1/,
  )
  const link = { routes: [{ destination: '10.1.2.0/24', via: 'r2' }] }
  await assert.rejects(
    networks.change('r1', (before) => ({ ...before, ...link })),
    torn,
  )
  await networks.set('r2', { shard: null })
  await networks.change('r1', (before) => ({ ...before, ...link }))
  await assert.rejects(networks.set('r2', { shard: 1 }), refused('ERR_INVALID', /linked by routes/))
  const before = networks.definition('r1')
  await networks.create({ name: 'last', shard: 1 }, false)
  await reopen() // with one shard
  assert.deepEqual(networks.definition('r1'), before)
  assert.equal(networks.show('last').shard, 1, 'the pin is kept')
  await networks.set('last', { mtu: 1400 })
  await assert.rejects(
    networks.set('r1', { shard: 1 }),
    refused('ERR_INVALID', /^shard: 1 is not 0\.\.0: one shard runs/),
  )
})
