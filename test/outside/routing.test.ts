/**
 * Routing without NAT: modes route, open and isolated, static routes, networks routed to each other, and what is told
 * of packets that cannot go on. The host of an uplink `host` is the switch's own namespace.
 *
 *   a ── lan ── router ── TAP weft-lan ── [host]             uplink host
 *   a ── lan ── router ── up0 ═ w0 [world]                   uplink netdev, the world knows the way back
 *   a ── lan ── r ═ veth ═ inner 10.99.0.2                   a guest that is itself a router
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import type { Host, Wiring } from '../rig/hosts.js'
import type { Namespace } from '../rig/namespaces.js'
import { OutsideWorld, far, router, scapy, uplink, uplink6, world } from '../rig/outside-world.js'
import { Server, tcpError, tcpSeen } from '../rig/talker.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'traceroute', 'busybox', 'scapy', 'cc')

interface Route {
  destination: string
  via: string | null
  interface: string
  origin: string
}

describe('routing by the host', wants, () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  let host: string
  let own: string
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', '--mode route --subnet 10.94.0.0/24 --subnet fd94::/64 --uplink host')
    a = await outside.guest(lan, 'a', '10.94.0.10', { ip6: 'fd94::10' })
    const facts = await outside.waitUplink('lan', 'up')
    own = (facts.addresses.find((one) => one.endsWith('/30')) ?? '').replace('/30', '')
    host = facts.gateways.find((one) => one.includes('.')) ?? ''
    await Server.start(outside.space, 'tcp', '80-81')
    await Server.start(a.space, 'tcp', '80-81')
  })
  after(() => outside?.close())

  it("the uplink is a TAP of the host's, on a /30 whose first address the host has", async () => {
    const last = (ip: string): number => Number(ip.split('.')[3])
    assert.equal(last(host) % 4, 1)
    assert.equal(last(own), last(host) + 1)
    assert.match(await outside.space.ip('-4 -o address show weft-lan'), new RegExp(`inet ${host}/30`))
    assert.match(await outside.space.ip('route show'), new RegExp(`10\\.94\\.0\\.0/24 via ${own} dev weft-lan`))
    assert.match(await outside.space.ip('-6 route show'), /fd94::\/64 via \S+ dev weft-lan/)
  })

  it('guests reach the host, which sees their own addresses', async () => {
    await a.reaches(host)
    const seen = await tcpSeen(a.space, host, 80)
    assert.equal(seen.address, a.ip)
    assert.equal(await a.space.ping(host, { sizeBytes: 8000 }), 3)
    await outside.probe.stream(a.space, outside.space, host, 20)
  })

  it('the host reaches no guest, until a rule lets it in', async () => {
    assert.equal(await outside.space.ping(a.ip, { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await tcpError(outside.space, a.ip, 80), 'silence')
    await outside.weft.do('rule add lan accept in tcp dport 80')
    const seen = await tcpSeen(outside.space, a.ip, 80)
    assert.equal(seen.address, host)
    assert.equal(await tcpError(outside.space, a.ip, 81), 'silence')
    assert.equal(await tcpError(outside.space, 'fd94::10', 80), 'none')
    await outside.weft.do('rule remove lan 1')
  })

  it('mode open lets everybody in, and back to route shuts it again', async () => {
    await outside.weft.do('network set lan --mode open')
    assert.equal(await tcpError(outside.space, a.ip, 81), 'none')
    assert.equal(await outside.space.ping(a.ip), 3)
    assert.equal(await outside.space.ping('fd94::10'), 3)
    await outside.weft.do('network set lan --mode route')
    await outside.weft.do('connection flush lan')
    assert.equal(await tcpError(outside.space, a.ip, 81), 'silence')
  })

  it("a stranger's source address does not come back in by the uplink", async () => {
    await outside.weft.do('network set lan --mode open')
    const capture = await a.space.capture(a.device, { only: 'in', filter: 'udp port 9999' })
    const mac = (await outside.uplink('lan')).mac
    const sends = ['10.94.0.77', '127.0.0.1', '224.0.0.1', '240.0.0.1', '0.0.0.0', host].map(
      (source) => `sendp(Ether(dst="${mac}")/IP(src="${source}", dst="${a.ip}")/UDP(dport=9999), iface="weft-lan")`,
    )
    await scapy(outside.space, sends.join('\n'))
    await capture.see("the packet with the host's own address", () => true)
    assert.equal((await capture.stop()).length, 1)
    await outside.weft.do('network set lan --mode route')
  })

  it("a change of subnets changes the host's routes; the TAP goes with the network", async () => {
    await outside.weft.do('network set lan --add-subnet 10.95.0.0/24')
    await until('the route is there', async () => /10\.95\.0\.0\/24/.test(await outside.space.ip('route show')))
    await outside.weft.do('network set lan --remove-subnet 10.95.0.0/24')
    await until('the route is gone', async () => !/10\.95\.0\.0\/24/.test(await outside.space.ip('route show')))
    await outside.weft.do('network stop lan')
    assert.equal(await outside.space.link('weft-lan'), null)
    assert.ok(!/10\.94\.0\.0/.test(await outside.space.ip('route show')))
  })
})

describe('routing to the world', wants, () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  before(async () => {
    outside = await OutsideWorld.open()
    await outside.world.ip(`route add 10.94.0.0/24 via ${router.outside}`)
    await outside.world.ip(`route add 10.99.0.0/24 via ${router.outside}`)
    await outside.world.ip(`route add fd94::/64 via ${router.outside6}`)
    lan = await outside.network('lan', `--mode route --subnet 10.94.0.0/24 --subnet fd94::/64 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.94.0.10', { ip6: 'fd94::10' })
    await a.reaches(far.ip)
  })
  after(() => outside?.close())

  it("the world sees the guests' own addresses", async () => {
    const server = await Server.start(outside.world, 'tcp', 80)
    assert.equal((await tcpSeen(a.space, world.ip, 80)).address, a.ip)
    await a.space.ip(`route add ${world.ip6} via fd94::1 src fd94::10`)
    assert.equal((await tcpSeen(a.space, world.ip6, 80)).address, 'fd94::10')
    await outside.probe.stream(a.space, outside.far, far.ip, 10)
    await server.stop()
  })

  it('the hop limit runs out at the router, which says so', async () => {
    const told = await a.space.attempt('ping', ['-n', '-c', '1', '-W', '3', '-t', '1', world.ip])
    assert.match(told.stdout, /From 10\.94\.0\.1 .*Time to live exceeded/)
    const told6 = await a.space.attempt('ping', ['-n', '-c', '1', '-W', '3', '-t', '1', world.ip6])
    assert.match(told6.stdout, /From fd94::1 .*Time exceeded: Hop limit/)
    await lan.drops('a', 'hop-limit', 2)
    await outside.weft.do('network set lan --mode open')
    const text = await outside.far.run('traceroute', ['-n', '-q', '1', '-N', '1', '-w', '3', '-m', '5', a.ip])
    const hops = [...text.matchAll(/^ *\d+ +([\d.]+)/gm)].map(([, hop]) => hop)
    assert.deepEqual(hops, ['203.0.113.1', router.outside, a.ip])
    await outside.weft.do('network set lan --mode route')
  })

  it('static routes are listed with where they come from; bad ones are refused', async () => {
    await outside.weft.do('route add lan 192.0.2.0/24 via 198.51.100.2')
    const routes = await outside.weft.json<Route[]>('route list lan')
    const one = (destination: string) => routes.find((route) => route.destination === destination)
    assert.deepEqual(one('192.0.2.0/24'), {
      destination: '192.0.2.0/24',
      via: '198.51.100.2',
      interface: 'uplink',
      origin: 'static',
    })
    assert.deepEqual(one('10.94.0.0/24'), {
      destination: '10.94.0.0/24',
      via: null,
      interface: 'lan',
      origin: 'connected',
    })
    assert.deepEqual([one('0.0.0.0/0')?.via, one('::/0')?.via], [world.ip, world.ip6])
    for (const [args, pattern] of [
      ['192.0.2.0/24 via 198.51.100.1', /already/],
      ['10.94.0.128/25 via 198.51.100.1', /own link/],
      ['192.0.3.0/24 via 192.0.2.1', /no link/],
      ['192.0.3.0/24 via nowhere', /no network/],
      ['192.0.3.1/24 via 198.51.100.1', /192\.0\.3/],
      ['2001:db8:9::/48 via 198.51.100.1', /family/],
    ] as const) {
      const { status, stderr } = await outside.weft.cli(`route add lan ${args}`)
      assert.equal(status, 1, `${args}: ${stderr}`)
      assert.equal(stderr.trim().split('\n').length, 1, stderr)
      assert.match(stderr, pattern)
    }
    await outside.weft.do('route remove lan 192.0.2.0/24')
    assert.equal((await outside.weft.cli('route remove lan 192.0.2.0/24')).status, 1)
  })

  it('a subnet behind a guest that is a router is reached, and reaches out', async () => {
    const r = await outside.guest(lan, 'r', '10.94.0.30', { port: '--allow spoofing' })
    const inner: Namespace = await outside.lab.namespace('inner')
    await outside.lab.veth(r.space, 'in0', inner, 'in1')
    await r.space.ip('addr add 10.99.0.1/24 dev in0')
    await r.space.run('sysctl', ['-q', '-w', 'net.ipv4.ip_forward=1'])
    await inner.ip('addr add 10.99.0.2/24 dev in1')
    await inner.ip('route add default via 10.99.0.1')
    assert.equal(await inner.ping(world.ip, { count: 2, waitSeconds: 1 }), 0, 'the router knows no way back')
    await outside.weft.do('route add lan 10.99.0.0/24 via 10.94.0.30')
    await until('inner reaches the world', async () => (await inner.ping(world.ip, { count: 1 })) === 1)
    const server = await Server.start(outside.world, 'tcp', 82)
    assert.equal((await tcpSeen(inner, world.ip, 82)).address, '10.99.0.2')
    await server.stop()
    assert.equal(await a.space.ping('10.99.0.2'), 3, 'from its neighbor, by the gateway')
    assert.equal(await outside.world.ping('10.99.0.2', { count: 2, waitSeconds: 1 }), 0)
    await outside.weft.do('rule add lan accept in to 10.99.0.0/24')
    assert.equal(await outside.world.ping('10.99.0.2'), 3)
    await outside.weft.do('rule remove lan 1')
    await outside.weft.do('route remove lan 10.99.0.0/24')
    await outside.weft.do('connection flush lan')
    assert.equal(await inner.ping(world.ip, { count: 2, waitSeconds: 1 }), 0)
  })
})

describe('routing between networks', wants, () => {
  let outside: OutsideWorld
  before(async () => {
    outside = await OutsideWorld.open()
  })
  after(() => outside?.close())
  afterEach(async () => {
    for (const name of ['red', 'blue']) await outside.remove(name)
  })

  for (const mode of ['route', 'isolated', 'nat']) {
    it(`two networks of mode ${mode} are strangers until they have routes and rules`, async () => {
      const way = mode === 'nat' ? `--uplink ${uplink}` : mode === 'route' ? '--uplink none' : ''
      const red = await outside.network('red', `--mode ${mode} --subnet 10.96.0.0/24 ${way}`)
      const blue = await outside.network('blue', `--mode ${mode} --subnet 10.97.0.0/24 --subnet fd97::/64`)
      const [r, b] = [await outside.guest(red, 'r', '10.96.0.10'), await outside.guest(blue, 'b', '10.97.0.10')]
      await Server.start(r.space, 'tcp', 80)
      await Server.start(b.space, 'tcp', 80)
      for (const [one, other] of [
        [r, b],
        [b, r],
      ] as const) {
        assert.equal(await one.answers(other, 2), 0)
      }
      await outside.weft.do('route add red 10.97.0.0/24 via blue')
      await outside.weft.do('route add blue 10.96.0.0/24 via red')
      assert.equal(await tcpError(r.space, b.ip, 80), 'silence', "blue's firewall lets nothing in")
      await outside.weft.do('rule add blue accept in from 10.96.0.0/24 tcp dport 80')
      const seen = await tcpSeen(r.space, b.ip, 80)
      assert.equal(seen.address, r.ip, 'not translated')
      assert.equal(await tcpError(b.space, r.ip, 80), 'silence', 'the other way is shut')
      await outside.weft.do('rule add red accept in from 10.97.0.0/24')
      assert.equal((await tcpSeen(b.space, r.ip, 80)).address, b.ip)
      await outside.probe.stream(b.space, r.space, r.ip, 20)
      assert.equal(await b.space.ping(r.ip, { sizeBytes: 8000 }), 3)
      const path = await b.space.run('traceroute', ['-n', '-q', '1', '-N', '1', '-w', '3', '-m', '4', '-I', r.ip])
      assert.match(path, / 1 +10\.97\.0\.1 /)
      assert.ok(path.includes(r.ip))
      await outside.weft.do('route remove red 10.97.0.0/24')
      await outside.weft.do('route remove blue 10.96.0.0/24')
      assert.equal(await r.answers(b, 2), 0)
    })
  }

  it('a network that another is routed to may stop and start', async () => {
    const red = await outside.network('red', '--mode route --subnet 10.96.0.0/24 --uplink none')
    const r = await outside.guest(red, 'r', '10.96.0.10')
    const blue = await outside.network('blue', '--mode open --subnet 10.97.0.0/24 --uplink none')
    await outside.weft.do('route add red 10.97.0.0/24 via blue')
    await outside.weft.do('route add blue 10.96.0.0/24 via red')
    const b = await outside.guest(blue, 'b', '10.97.0.10')
    await r.reaches(b)
    await outside.weft.do('network stop blue')
    assert.equal(await r.answers(b, 2), 0)
    await outside.weft.do('network start blue')
    await b.configure()
    await b.space.ip('route replace default via 10.97.0.1')
    await r.reaches(b)
  })
})

describe('an isolated network', wants, () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  before(async () => {
    outside = await OutsideWorld.open()
    // the host has addresses worth reaching, and would forward
    await outside.space.ip('link add d0 type veth peer name d1')
    for (const device of ['d0', 'd1']) await outside.space.ip(`link set ${device} up`)
    await outside.space.ip('addr add 192.0.2.1/24 dev d0')
    await outside.space.run('sysctl', ['-q', '-w', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'])
    await outside.network('other', `--mode nat --subnet 10.92.0.0/24 --uplink ${uplink}`)
    lan = await outside.network('lan', '--mode isolated --subnet 10.98.0.0/24 --subnet fd98::/64')
    const space = await outside.leased(lan, 'a')
    a = space.host
  })
  after(() => outside?.close())

  it('gives addresses, and its gateway answers', async () => {
    assert.equal(await a.space.ping('10.98.0.1'), 3)
    const b = await outside.leased(lan, 'b')
    assert.equal(await a.space.ping(b.ip), 3)
  })

  it('reaches neither the host nor the outside nor another network: unreachable, says the gateway', async () => {
    assert.equal(await a.space.ip('route show default'), '', 'DHCP names no router where none leads out')
    await a.space.ip('route add default via 10.98.0.1')
    const hosts = await outside.space.ip('-4 -o address')
    const addresses = [...hosts.matchAll(/inet ([\d.]+)/g)].map(([, ip]) => ip).filter((ip) => ip !== '127.0.0.1')
    assert.ok(addresses.length >= 2, hosts)
    for (const ip of [...addresses, world.ip, router.outside, '10.92.0.1', '10.92.0.10', '8.8.8.8']) {
      const { stdout } = await a.space.attempt('ping', ['-n', '-c', '1', '-W', '3', ip])
      assert.match(stdout, /From 10\.98\.0\.1 .*Net(work)? Unreachable/i, ip)
      assert.match(stdout, / 0 received/)
    }
    assert.equal(await tcpError(a.space, world.ip, 9), 'ENETUNREACH')
    await lan.drops('a', 'no-route', 3)
  })

  it('finds nobody by IPv6 link-local addresses but guests and the gateway', async () => {
    const c = await lan.tap('c', { ipv6: true })
    await pause(3000) // duplicate address detection
    const { stdout } = await c.space.attempt('ping', ['-n', '-c', '3', '-W', '2', `ff02::1%${c.device}`])
    const answers = new Set([...stdout.matchAll(/from (fe80::[\da-f:]+)/g)].map(([, ip]) => ip))
    const hosts = await outside.space.ip('-6 -o address')
    const known = [...hosts.matchAll(/inet6 (fe80::[\da-f:]+)/g)].map(([, ip]) => ip)
    assert.deepEqual(
      [...answers].filter((ip) => known.includes(ip)),
      [],
    )
    for (const ip of known) {
      assert.equal(await c.space.ping(`${ip}%${c.device}`, { count: 1, waitSeconds: 1 }), 0, ip)
    }
    for (const ip of [world.ip6, router.outside6]) {
      const told = await c.space.attempt('ping', ['-n', '-c', '1', '-W', '2', ip])
      assert.notEqual(told.status, 0, ip)
    }
  })

  it('has no uplink to give it, and no forwards', async () => {
    assert.equal((await outside.weft.cli('network set lan --uplink host')).status, 1)
    assert.equal((await outside.weft.cli('forward add lan tcp:80 10.98.0.10')).status, 1)
    assert.equal((await outside.weft.cli('network create bad --mode isolated --uplink host')).status, 1)
  })
})

describe('a shard that dies under load', needs('root', 'tun', 'weft', 'ip', 'cc'), () => {
  it('connections through NAT go on', async () => {
    const outside = await OutsideWorld.open()
    try {
      const lan = await outside.network('lan', `--mode nat --subnet 10.94.0.0/24 --uplink ${uplink}`)
      const a = await outside.guest(lan, 'a', '10.94.0.10')
      await a.reaches(world.ip)
      const server = await Server.start(outside.world, 'tcp', 80)
      const earlier = await outside.connections('lan')
      const streams = [
        outside.probe.stream(a.space, outside.world, world.ip, 400),
        outside.probe.stream(a.space, outside.world, world.ip, 400),
      ]
      const failed = Promise.all(streams)
      failed.catch(() => {})
      for (let n = 0; n < 2; n++) {
        await until('the streams run', async () => {
          const list = await outside.connections('lan')
          return list.filter((one) => one.protocol === 'tcp' && one.bytes > 1_000_000).length >= 2
        })
        const { shards } = await outside.weft.json<{ shards: { pid: number; restarts: number }[] }>('status')
        process.kill(shards[0].pid, 'SIGKILL')
        await until('another shard runs', async () => {
          const now = await outside.weft.json<{ shards: { pid: number; restarts: number }[] }>('status')
          return now.shards[0]?.restarts === n + 1 && now.shards[0].pid !== shards[0]?.pid
        })
      }
      await failed
      assert.equal((await tcpSeen(a.space, world.ip, 80)).address, router.outside)
      assert.ok((await outside.connections('lan')).length >= earlier.length)
      await server.stop()
    } finally {
      await outside.close()
    }
  })
})
