/**
 * A change happens whole or not at all: each command fails at each of its steps in turn (a call of the fabric, the
 * writing of the definition), and what is defined, what runs and what is on the disk are as they were before.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Failure } from '../../src/control/failure.js'
import { Log } from '../../src/control/log.js'
import { Networks } from '../../src/control/networks.js'
import { Routers } from '../../src/control/routers.js'
import { Store } from '../../src/control/store.js'
import { FakeFabric } from './fake-fabric.js'

interface Daemon {
  folder: string
  fabric: FakeFabric
  store: Store
  networks: Networks
  routers: Routers
}

async function begin(): Promise<Daemon> {
  const folder = mkdtempSync(join(tmpdir(), 'weft-whole-'))
  const fabric = new FakeFabric()
  const store = new Store(folder)
  const surroundings = { bestUplink: () => 'host', pickSubnets: () => ['10.200.0.0/24'], usedBy: () => null }
  const networks = new Networks(fabric, store, new Log('error', () => undefined), surroundings)
  await networks.open(null)
  const subnets = ['10.1.0.0/24']
  const ports = [
    { name: 'p', kind: 'tap' },
    { name: 'q', kind: 'tap', mac: '52:54:00:00:00:07' },
  ]
  await networks.create({ name: 'lan', mode: 'nat', uplink: 'host', subnets, ports }, false)
  await networks.addEntry('lan', { mac: '52:54:00:00:00:01', port: 'p' })
  await networks.define({ name: 'idle', ports: [{ name: 'i', kind: 'tap' }] })
  const routers = new Routers(networks, fabric)
  await routers.addForward('lan', 'tcp:8080', '10.1.0.9:80')
  await routers.addRule('lan', 'drop to 192.0.2.0/24', undefined)
  await routers.addRoute('lan', { destination: '10.99.0.0/16', via: '10.1.0.7' })
  await routers.addRecord('lan', { name: 'web', type: 'a', value: ['10.1.0.9'] })
  await routers.reserve('lan', { mac: '52:54:00:00:00:02', address: '10.1.0.20' })
  return { folder, fabric, store, networks, routers }
}

/** Everything that may be seen of it: API, fabric, files. In what order ports were added is no matter. */
function state({ folder, fabric, networks }: Daemon): unknown {
  const defined = networks.list(true).map((one) => ({ active: one.active, ...networks.definition(one.name) }))
  const running = [...fabric.networks].map(([name, one]) => ({
    name,
    definition: { ...one.definition, ports: [] },
    ports: [...one.ports].toSorted(([a], [b]) => (a < b ? -1 : 1)),
    statics: one.statics.toSorted((a, b) => (a.mac < b.mac ? -1 : 1)),
  }))
  const files = readdirSync(join(folder, 'networks')).map((file) => [
    file,
    readFileSync(join(folder, 'networks', file), 'utf8'),
  ])
  return { defined, running: running.toSorted((a, b) => (a.name < b.name ? -1 : 1)), files }
}

const wanted = { name: 'lan', mode: 'nat', uplink: 'netdev:eth7,address=dhcp', subnets: ['10.1.0.0/24'], mtu: 1400 }
const commands: Record<string, (daemon: Daemon) => Promise<unknown>> = {
  'network create': ({ networks }) => networks.create({ name: 'new', ports: [{ name: 'n', kind: 'tap' }] }, false),
  'network define': ({ networks }) => networks.define({ name: 'new' }),
  'network define of a running one': ({ networks }) =>
    networks.define({
      ...wanted,
      ports: [
        { name: 'q', kind: 'qemu', path: '/run/q' },
        { name: 'r', kind: 'tap' },
      ],
    }),
  'network start': ({ networks }) => networks.start('idle'),
  'network stop': ({ networks }) => networks.stop('lan'),
  'network restart': ({ networks }) => networks.restart('lan'),
  'network delete': ({ networks }) => networks.delete('lan'),
  'network set mtu': ({ networks }) => networks.set('lan', { mtu: 1400 }),
  'network set uplink': ({ networks }) => networks.set('lan', { uplink: 'netdev:eth7' }),
  'network set subnets': ({ networks }) => networks.set('lan', { addSubnets: ['10.2.0.0/24'] }),
  'network set domain': ({ networks }) => networks.set('lan', { domain: 'example.org' }),
  'network set dhcp': ({ networks }) => networks.set('lan', { dhcp: 'off' }),
  'network set aging': ({ networks }) => networks.set('lan', { fdbAgeSeconds: 60 }),
  'network set autostart': ({ networks }) => networks.set('lan', { autostart: true }),
  'port add': ({ networks }) => networks.addPort('lan', { name: 'r', kind: 'tap' }),
  'port set': ({ networks }) => networks.setPort('lan', 'q', { mtu: 1300 }),
  'port set of its device': ({ networks }) => networks.setPort('lan', 'q', { dev: 'other' }),
  'port link': ({ networks }) => networks.setPort('lan', 'q', { link: false }),
  'port remove': ({ networks }) => networks.removePort('lan', 'p'),
  'fdb add': ({ networks }) => networks.addEntry('lan', { mac: '52:54:00:00:00:03', port: 'p' }),
  'fdb remove': ({ networks }) => networks.removeEntry('lan', '52:54:00:00:00:01', undefined),
  'forward add': ({ routers }) => routers.addForward('lan', 'udp:53', '10.1.0.9:53'),
  'forward remove': ({ routers }) => routers.removeForward('lan', 'tcp:8080'),
  'rule add': ({ routers }) => routers.addRule('lan', 'accept from 192.0.2.0/24', 1),
  'rule remove': ({ routers }) => routers.removeRule('lan', 1),
  'route add': ({ routers }) => routers.addRoute('lan', { destination: '10.98.0.0/16', via: '10.1.0.8' }),
  'route remove': ({ routers }) => routers.removeRoute('lan', '10.99.0.0/16'),
  'record remove': ({ routers }) => routers.removeRecords('lan', 'web', undefined),
  'lease reserve': ({ routers }) => routers.reserve('lan', { mac: '52:54:00:00:00:04', address: '10.1.0.21' }),
  'lease release': ({ routers }) => routers.release('lan', '10.1.0.20'),
}

for (const [name, command] of Object.entries(commands)) {
  test(`${name}: whole, or not at all`, async () => {
    const daemon = await begin()
    const { fabric, store } = daemon
    const before = state(daemon)
    try {
      const save = store.save.bind(store)
      const remove = store.remove.bind(store)
      store.save = store.remove = () => {
        throw new Failure('ERR_IO', 'no space left by order of the test')
      }
      // a restart changes nothing that is written
      if (name !== 'network restart') await assert.rejects(command(daemon), Failure)
      assert.deepEqual(state(daemon), before, 'the disk refused')
      Object.assign(store, { save, remove })
      for (let step = 0; ; step++) {
        assert.ok(step < 20)
        fabric.refuseAfter = step
        const refusal = await command(daemon).then(
          () => null,
          (error: unknown) => error,
        )
        if (refusal === null) break
        assert.ok(refusal instanceof Failure, String(refusal))
        assert.match(refusal.message, /by order of the test/)
        assert.deepEqual(state(daemon), before, `step ${step} was refused`)
      }
      if (name !== 'network restart') assert.notDeepEqual(state(daemon), before, 'the command does something')
    } finally {
      store.close()
      rmSync(daemon.folder, { recursive: true })
    }
  })
}

test('one device is never in two running networks, however they came to run', async () => {
  const daemon = await begin()
  const { networks, store, folder } = daemon
  await networks.define({ name: 'other', ports: [{ name: 'x', kind: 'netdev', dev: 'p' }] })
  await assert.rejects(networks.start('other'), /interface p is in use by port p of network lan/)
  assert.equal(networks.show('other').active, false)
  await networks.stop('lan')
  await networks.start('other')
  await assert.rejects(networks.start('lan'), /interface p is in use by port x of network other/)
  store.close()
  rmSync(folder, { recursive: true })
})

test('a route by way of a network ends with the network', async () => {
  const { networks, routers, store, folder } = await begin()
  await networks.create({ name: 'far', mode: 'isolated', subnets: ['10.7.0.0/24'] }, false)
  await routers.addRoute('lan', { destination: '10.7.0.0/24', via: 'far' })
  await networks.delete('far')
  assert.deepEqual(
    networks.definition('lan').routes.map(({ via }) => via),
    ['10.1.0.7'],
  )
  assert.doesNotMatch(readFileSync(join(folder, 'networks', 'lan.json'), 'utf8'), /"far"/)
  store.close()
  rmSync(folder, { recursive: true })
})

test('a port comes back when its neighbour is refused, also where its device has gone', async () => {
  const daemon = await begin()
  const { networks, fabric, store, folder } = daemon
  const before = state(daemon)
  fabric.missing.add('p')
  fabric.refuse = 'addPort lan r'
  await assert.rejects(networks.define({ ...wanted, ports: [{ name: 'r', kind: 'tap' }] }), Failure)
  assert.deepEqual(state(daemon), before)
  store.close()
  rmSync(folder, { recursive: true })
})
