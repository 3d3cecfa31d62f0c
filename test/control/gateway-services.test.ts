/** The gateway's services as one: what a change of the network's definition does to each, and what it leaves alone. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { parseNetwork } from '../../src/control/definition.js'
import { GatewayServices } from '../../src/control/gateway-services.js'
import { macBytes } from '../../src/control/mac.js'
import type { NetworkDefinition } from '../../src/control/model.js'
import { type Clock, systemClock } from '../../src/services/router-advertisement.js'
import { type FakeUpstream, a, answer, fakeUpstream, query, read } from '../services/dns-messages.js'

const TYPE_ROUTER_ADVERTISEMENT = 134
const ICMP6_TYPE_AT = 54

/** The advertiser's clock, which only goes on when told to. */
function stopClock(t: TestContext): (seconds: number) => void {
  let now = 0
  let waiting: { due: number; callback: () => void }[] = []
  const clock: Clock = {
    now: () => now,
    after(delayMillis, callback) {
      const one = { due: now + delayMillis, callback }
      waiting.push(one)
      return () => {
        waiting = waiting.filter((other) => other !== one)
      }
    },
    random: () => 0.5,
  }
  for (const name of ['now', 'after', 'random'] as const) t.mock.method(systemClock, name, clock[name])
  return (seconds) => {
    const end = now + seconds * 1000
    for (;;) {
      const next = waiting.toSorted((one, other) => one.due - other.due)[0]
      if (next === undefined || next.due > end) break
      waiting = waiting.filter((one) => one !== next)
      now = next.due
      next.callback()
    }
    now = end
  }
}

interface Setting {
  services: GatewayServices
  network(more?: object): NetworkDefinition
  host: { resolvers: string[]; hasWayOut6: boolean }
  upstream: FakeUpstream
  /** asks for the address of a name; the response code */
  ask(name: string): Promise<number>
  /** router advertisements sent so far */
  advertised(): number
  pass(seconds: number): void
}

async function withServices(t: TestContext, run: (setting: Setting) => Promise<void>): Promise<void> {
  const pass = stopClock(t)
  const upstream = await fakeUpstream((asked) => [answer(asked, { answers: [a(read(asked).name, '192.0.2.1', 300)] })])
  const host = { resolvers: [`127.0.0.1:${upstream.port}`], hasWayOut6: true }
  const network = (more: object = {}): NetworkDefinition =>
    parseNetwork({
      name: 'n',
      uuid: '6b0f4b6e-0c3c-4d6e-9d0a-0d6a3c1d2e3f',
      mode: 'nat',
      subnets: [{ cidr: '10.9.0.0/24' }, { cidr: 'fd09::/64' }],
      domain: 'lan',
      ...more,
    })
  let sent = 0
  const services = new GatewayServices(network(), {
    mac: macBytes('52:54:00:00:00:01'),
    journal: null,
    send: (frame) => {
      if (frame[ICMP6_TYPE_AT] === TYPE_ROUTER_ADVERTISEMENT) sent++
    },
    probe: async () => false,
    isThere: async () => true,
    onLease: () => undefined,
    onProblem: (reason) => assert.fail(reason),
    resolvers: () => host.resolvers,
    taken: () => [],
    hasWayOut6: () => host.hasWayOut6,
  })
  services.start()
  const ask: Setting['ask'] = (name) =>
    new Promise((resolve) => {
      const client = { port: 'p', ip: Uint8Array.of(10, 9, 0, 5), isTcp: false }
      services.dns.handle(query(name, 'A'), client, (message) => resolve(read(message).rcode))
    })
  try {
    await run({ services, network, host, upstream, ask, advertised: () => sent, pass })
  } finally {
    services.close()
    await upstream.close()
  }
}

const port = { name: 'vm1', kind: 'tap', dev: 'tap1' }

test('a port that is added leaves the DNS cache, what is on its way, and the advertisements alone', async (t) => {
  await withServices(t, async ({ services, network, upstream, ask, advertised, pass }) => {
    pass(60)
    const first = advertised()
    assert.equal(first, 3, 'the quick ones of the start')
    assert.equal(await ask('www.example.com'), 0)
    assert.equal(services.dns.forwarder.cache.size, 1)
    const answered = ask('slow.example.com')
    assert.equal(services.dns.forwarder.outstanding, 1)

    services.configure(network({ ports: [port] }))
    services.retune()
    services.rerouted()
    assert.equal(services.dns.forwarder.cache.size, 1)
    assert.equal(services.dns.forwarder.outstanding, 1)
    assert.equal(await answered, 0, 'not SERVFAIL')
    pass(60)
    assert.equal(advertised(), first)
    assert.equal(await ask('www.example.com'), 0)
    assert.equal(upstream.asked.length, 2, 'the first answer is still in the cache')
  })
})

test('other resolvers, domains or another judgement of private addresses clear the cache', async (t) => {
  await withServices(t, async ({ services, network, host, ask }) => {
    const { cache } = services.dns.forwarder
    const changes: (() => void)[] = [
      () => services.configure(network({ dns: { rebindProtection: false } })),
      () => services.configure(network({ dns: { domains: [{ domain: 'corp', upstreams: host.resolvers }] } })),
      () => {
        host.resolvers = [...host.resolvers, '127.0.0.1:9']
        services.retune()
      },
    ]
    for (const [i, change] of changes.entries()) {
      await ask('www.example.com')
      assert.equal(cache.size, 1)
      change()
      assert.equal(cache.size, 0, `change ${i}`)
    }
    assert.equal(services.dns.forwarder.rebindProtection, true)
  })
})

test('what hosts must learn is advertised soon: another prefix, the way out gone', async (t) => {
  await withServices(t, async ({ services, network, host, advertised, pass }) => {
    pass(60)
    let before = advertised()
    services.configure(network({ subnets: [{ cidr: '10.9.0.0/24' }, { cidr: 'fd0a::/64' }] }))
    pass(60)
    assert.equal(advertised() - before, 3)
    before = advertised()
    host.hasWayOut6 = false
    services.rerouted()
    pass(60)
    assert.equal(advertised() - before, 3)
  })
})

test('leases a port may have: by the size of the range, by order of network or port; a relay many', async (t) => {
  await withServices(t, async ({ services, network }) => {
    const limits = (more: object): number[] => {
      services.configure(network({ ports: [port, { ...port, name: 'vm2', dev: 'tap2', leaseLimit: 40 }], ...more }))
      return ['vm1', 'vm2'].map((name) => services.portLeases(name).limit)
    }
    const range = (dhcp: string): object => ({ subnets: [{ cidr: '10.9.0.0/24', dhcp }] })
    assert.deepEqual(limits({}), [16, 40])
    assert.deepEqual(limits(range('10.9.0.10-10.9.0.29')), [4, 40])
    assert.deepEqual(limits(range('10.9.0.10-10.9.0.49')), [8, 40])
    assert.deepEqual(limits(range('10.9.0.10-10.9.0.12')), [4, 40])
    assert.deepEqual(limits({ dhcp: { portLimit: 2 } }), [2, 40])
    services.configure(network({ ports: [{ ...port, allow: ['router'] }] }))
    assert.equal(services.portLeases('vm1').limit, 1000)
  })
})
