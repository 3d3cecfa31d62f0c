/**
 * Uplinks that come and go: static and by DHCP, a device that vanishes and returns, a server that does not answer; and
 * what an uplink leaves on the host, which is nothing.
 *
 *   a, b ── tap ── lan ── router ── up0 ═ w0 [world: dnsmasq]
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, afterEach, before, describe, it } from 'node:test'
import { connect } from '../../src/control/client.js'
import { type Background, needs, run, until } from '../rig/commands.js'
import { Weft } from '../rig/daemon.js'
import { type Host, Wiring } from '../rig/hosts.js'
import { Lab, type Namespace } from '../rig/namespaces.js'
import { OutsideWorld, router, uplink, uplink6, world } from '../rig/outside-world.js'
import { Server, tcpError, tcpSeen } from '../rig/talker.js'

const names = ['root', 'tun', 'weft', 'ip', 'cc', 'busybox']

describe('an uplink with addresses of its own', needs(...names), () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  let b: Host
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', `--mode nat --subnet 10.95.0.0/24 --subnet fd95::/64 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.95.0.10', { ip6: 'fd95::10' })
    b = await outside.guest(lan, 'b', '10.95.0.11')
    await a.reaches(world.ip)
  })
  after(() => outside?.close())

  it('is shown with its device, state, MAC, addresses and gateways', async () => {
    const facts = await outside.waitUplink('lan', 'up')
    const { kind, dev, reason, mac, addresses, gateways } = facts
    assert.deepEqual({ kind, dev, reason }, { kind: 'netdev', dev: 'up0', reason: null })
    assert.deepEqual(addresses, [`${router.outside}/24`, `${router.outside6}/64`])
    assert.deepEqual(gateways, [world.ip, world.ip6])
    assert.match(await outside.world.ip(`neigh show ${router.outside}`), new RegExp(`lladdr ${mac}`))
    const link = await outside.space.link('up0')
    assert.notEqual(link?.address, mac, 'a MAC of its own')
  })

  for (const round of [1, 2]) {
    it(`vanishes and returns, round ${round}: guests among themselves unharmed, then all goes on`, async () => {
      const client = await connect({ socket: outside.weft.socket })
      const events: string[] = []
      await client.subscribe(['uplink.*'], ({ type }) => events.push(type))
      await outside.space.ip('link delete up0')
      const gone = await outside.waitUplink('lan', 'error')
      assert.match(gone.reason ?? '', /up0|device|interface/i)
      assert.equal(await a.space.ping(b.ip), 3)
      assert.equal(await a.space.ping('10.95.0.1'), 3)
      await outside.probe.stream(a.space, b.space, b.ip, 10)
      assert.equal(await a.space.ping(world.ip, { count: 2, waitSeconds: 1 }), 0)
      await outside.reconnect()
      await outside.waitUplink('lan', 'up')
      await a.reaches(world.ip)
      await until('IPv6 too', async () => (await a.space.ping(world.ip6, { count: 1, waitSeconds: 1 })) === 1)
      await outside.probe.stream(a.space, outside.world, world.ip, 10)
      await until('both events came', () => events.includes('uplink.error') && events.includes('uplink.up'))
      client.close()
    })
  }

  it('loses its carrier and finds it again; a connection waits and goes on', async () => {
    await Server.start(outside.world, 'tcp', 80)
    const talk = a.space.spawn('busybox', ['nc', world.ip, '80'])
    await until('the server speaks', () => talk.stdout.includes(router.outside))
    await outside.world.ip('link set w0 down')
    const gone = await until('the uplink is not up', async () => {
      const facts = await outside.uplink('lan')
      return facts.state === 'up' ? null : facts
    })
    assert.notEqual(gone.reason, null)
    assert.equal(await a.space.ping(b.ip), 3)
    talk.write('after the gap\n')
    await outside.world.ip('link set w0 up')
    await outside.world.ip(`addr replace ${world.ip6}/64 dev w0 nodad`)
    await outside.waitUplink('lan', 'up')
    await until('the connection goes on', () => talk.stdout.includes('after the gap'), 60)
    await talk.stop('SIGKILL')
  })

  it('a next hop that moves to another MAC is found again', async () => {
    await outside.world.ip('link set w0 address 02:00:00:00:77:77')
    await outside.world.ip(`addr replace ${world.ip6}/64 dev w0 nodad`)
    await a.reaches(world.ip, 120)
  })

  it('changes live: other address, none, and back', async () => {
    await outside.weft.do(`network set lan --uplink netdev:up0,address=198.51.100.33/24,gateway=${world.ip}`)
    const server = await Server.start(outside.world, 'tcp', 81)
    await a.reaches(world.ip)
    assert.equal((await tcpSeen(a.space, world.ip, 81)).address, '198.51.100.33')
    await outside.weft.do('network set lan --uplink none')
    assert.equal(await a.space.ping(world.ip, { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await a.space.ping(b.ip), 3)
    await outside.weft.do(`network set lan --uplink ${uplink}`)
    await a.reaches(world.ip)
    assert.equal((await tcpSeen(a.space, world.ip, 81)).address, router.outside)
    await server.stop()
  })

  it('one that makes no sense is refused in one line, and the old one stays', async () => {
    for (const bad of [
      'netdev:up0,address=198.51.100.33/24,gateway=192.0.2.1',
      'netdev:up0,address=198.51.100.33',
      'netdev:up0,gateway=198.51.100.1',
      'netdev:up0,address=dhcp,address=198.51.100.33/24',
      'netdev:',
      'netdev:nosuchdevice0,address=198.51.100.33/24',
      'pigeon',
      'sockets',
    ]) {
      const { status, stderr } = await outside.weft.cli(['network', 'set', 'lan', '--uplink', bad])
      assert.equal(status, 1, `${bad}: ${stderr}`)
      assert.equal(stderr.trim().split('\n').length, 1, stderr)
    }
    assert.equal(await tcpError(a.space, world.ip, 80), 'none')
  })

  it('comes back after kill -9 of the daemon, with the same MAC', async () => {
    const { mac } = await outside.uplink('lan')
    await outside.weft.kill()
    await outside.weft.start()
    assert.equal((await outside.waitUplink('lan', 'up')).mac, mac)
    await a.configure()
    await a.space.ip('route replace default via 10.95.0.1')
    await a.reaches(world.ip)
  })
})

describe('an uplink by DHCP', needs(...names, 'dnsmasq'), () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  let b: Host
  let server: Background | null = null
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', '--mode nat --subnet 10.95.0.0/24 --uplink netdev:up0')
    a = await outside.guest(lan, 'a', '10.95.0.10')
    b = await outside.guest(lan, 'b', '10.95.0.11')
  })
  afterEach(async () => {
    await server?.stop('SIGKILL')
    server = null
  })
  after(() => outside?.close())

  /** A DHCP server of the world, with ten addresses from .N0 on. */
  async function serve(tens: number, ...options: string[]): Promise<Background> {
    const range = `198.51.100.${tens}0,198.51.100.${tens}9,255.255.255.0,2m`
    const file = join(outside.lab.folder, `leases-${tens}`)
    const args = ['--keep-in-foreground', '--conf-file=/dev/null', '--port=0', '--interface=w0', '--bind-interfaces']
    args.push(`--dhcp-range=${range}`, `--dhcp-leasefile=${file}`, '--pid-file=', '--user=root', '--no-ping')
    args.push('--log-facility=-', '--log-dhcp', '--dhcp-authoritative', ...options)
    const program = outside.world.spawn('dnsmasq', args)
    await until('dnsmasq serves', () => {
      if (!program.running) throw new Error(program.stderr)
      return /DHCP, .*IP range/.test(program.stderr)
    })
    server = program
    return program
  }

  it('without a server: down, and says why; guests reach each other', async () => {
    const facts = await outside.waitUplink('lan', 'down')
    assert.match(facts.reason ?? '', /DHCP/)
    assert.deepEqual([facts.addresses, facts.gateways], [[], []])
    assert.equal(await a.space.ping(b.ip), 3)
    assert.equal(await a.space.ping(world.ip, { count: 2, waitSeconds: 1 }), 0)
  })

  it('a server that comes is found: address, router, and traffic', async () => {
    const { stderr } = await serve(5)
    assert.ok(stderr)
    const facts = await until(
      'the uplink is up',
      async () => {
        const now = await outside.uplink('lan')
        return now.state === 'up' ? now : null
      },
      90,
    )
    assert.match(facts.addresses[0] ?? '', /^198\.51\.100\.5\d\/24$/)
    assert.deepEqual(facts.gateways, [world.ip])
    assert.match(server?.stderr ?? '', new RegExp(`DHCPACK.*${facts.mac}`))
    await a.reaches(world.ip)
    const echo = await Server.start(outside.world, 'tcp', 80)
    assert.equal((await tcpSeen(a.space, world.ip, 80)).address, (facts.addresses[0] ?? '').replace('/24', ''))
    await echo.stop()
  })

  it("routes of option 121 are the router's", async () => {
    await outside.weft.do('network stop lan')
    await serve(5, '--dhcp-option=121,203.0.113.0/24,198.51.100.1,0.0.0.0/0,198.51.100.2')
    await outside.weft.do('network start lan')
    const facts = await until(
      'the uplink is up',
      async () => {
        const now = await outside.uplink('lan')
        return now.state === 'up' && now.addresses.length > 0 ? now : null
      },
      90,
    )
    const routes = await outside.weft.json<{ destination: string; via: string | null }[]>('route list lan')
    const via = (to: string) => routes.find(({ destination }) => destination === to)?.via
    assert.deepEqual([via('203.0.113.0/24'), via('0.0.0.0/0')], [world.ip, world.second], JSON.stringify(facts))
    for (const host of [a, b]) {
      await host.configure()
      await host.space.ip('route replace default via 10.95.0.1')
    }
  })

  it('the device returns on another network: a new address is asked for', async () => {
    await serve(6)
    await outside.space.ip('link delete up0')
    await outside.waitUplink('lan', 'error')
    assert.equal(await a.space.ping(b.ip), 3)
    await server?.stop('SIGKILL')
    await outside.reconnect()
    await serve(7)
    const facts = await until(
      'a lease of the new server',
      async () => {
        const now = await outside.uplink('lan')
        return (now.addresses[0] ?? '').startsWith('198.51.100.7') && now.state === 'up' ? now : null
      },
      90,
    )
    assert.equal(facts.addresses.length, 1)
    await a.reaches(world.ip)
  })
})

describe('footprint of uplinks', needs('root', 'tun', 'weft', 'ip', 'sysctl', 'nft'), () => {
  let lab: Lab
  let space: Namespace
  before(async () => {
    lab = await Lab.open()
    space = await lab.namespace('sw', { ipv6: true })
    const outside = await lab.namespace('world')
    await lab.veth(space, 'up0', outside, 'w0')
    await space.ip('addr add 192.0.2.1/24 dev lo')
    await until('duplicate address detection is over', async () => !/tentative/.test(await space.ip('address')))
  })
  after(() => lab?.close())

  /** Addresses, routes, rules, firewall, settings and links of the host, a line each. */
  async function inventory(): Promise<string[]> {
    const texts = {
      link: await run('ip', ['-n', space.name, '-o', 'link']),
      address: await run('ip', ['-n', space.name, '-o', 'address']),
      route: await run('ip', ['-n', space.name, 'route', 'show', 'table', 'all']),
      route6: await run('ip', ['-n', space.name, '-6', 'route', 'show', 'table', 'all']),
      rule: await run('ip', ['-n', space.name, 'rule']),
      firewall: await space.run('nft', ['list', 'ruleset']),
      setting: (await space.attempt('sysctl', ['-a', '-r', '^net\\.'])).stdout,
    }
    return Object.entries(texts).flatMap(([what, text]) =>
      text
        .split('\n')
        .filter(Boolean)
        .map((line) => `${what} ${line.replace(/ (valid_lft|preferred_lft|expires) \S+/g, '')}`),
    )
  }

  for (const way of ['stopped', 'killed']) {
    it(`but for the named TAP nothing changes, and nothing is left when the daemon was ${way}`, async () => {
      const atFirst = await inventory()
      const weft = await Weft.start(lab, space, way)
      await weft.do('network delete default').catch(async () => {
        await weft.do('network stop default')
        await weft.do('network delete default')
      })
      const mode = way === 'stopped' ? 'nat' : 'route'
      await weft.do(`network create lan --mode ${mode} --subnet 10.95.0.0/24 --subnet fd95::/64 --uplink host`)
      const other = 'netdev:up0,address=198.51.100.20/24,gateway=198.51.100.1'
      await weft.do(`network create two --mode nat --subnet 10.96.0.0/24 --uplink ${other}`)
      await weft.do('forward add two tcp:80 10.96.0.10')
      await weft.do('rule add two accept in icmp')
      const wiring = new Wiring(lab, weft, 'lan')
      const a = await wiring.tap('a', { address: '10.95.0.10/24' })
      await a.space.ip('route add default via 10.95.0.1')
      await a.reaches('10.95.0.1')
      await a.reaches('192.0.2.1')
      const during = await inventory()
      const strange = during.filter((line) => !atFirst.includes(line) && !/\bweft-lan\b/.test(line))
      assert.deepEqual(strange, [], 'only the TAP weft-lan is new')
      assert.deepEqual(
        atFirst.filter((line) => !during.includes(line)),
        [],
      )
      if (way === 'stopped') await weft.stop()
      else await weft.kill()
      await until(
        'no process of it is left',
        async () => (await run('ip', ['netns', 'pids', space.name])).trim() === '',
      )
      const now = await inventory()
      assert.deepEqual(
        { added: now.filter((line) => !atFirst.includes(line)), gone: atFirst.filter((line) => !now.includes(line)) },
        { added: [], gone: [] },
      )
    })
  }
})
