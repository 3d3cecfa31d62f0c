/**
 * Networks spread over two shard processes: what they carry, moves from one to the other under traffic, the end of one.
 *
 *   a1, a2 ── tap ── one (10.91.0.0/24, mode nat) ── router 198.51.100.20 ──┐
 *                                                                           ├ up0 ═ w0 [world] m0 ═ f0 [far]
 *   b1, b2 ── tap ── two (10.92.0.0/24, mode nat) ── router 198.51.100.21 ──┘
 *
 * Guests have their addresses by DHCP. The same battery runs with one shard and with two and must have the same
 * results. No speed is asserted.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { Background, attempt, needs, run, until, weftMain } from '../rig/commands.js'
import type { PortState, Status } from '../rig/daemon.js'
import type { Host, Wiring } from '../rig/hosts.js'
import { type Connection, OutsideWorld, type Rule, far, world } from '../rig/outside-world.js'
import type { LeaseEntry } from '../rig/router.js'
import { Server, UdpSocket, tcpConnect, tcpError, tcpSeen } from '../rig/talker.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'busybox', 'cc', 'curl')
const uplinkOf = (last: number): string => `netdev:up0,address=198.51.100.${last}/24,gateway=${world.ip}`
const PINGS = 40

interface Shown {
  shard: number | null
  runsOn: number | null
}

/** Two networks with two guests each. */
class TwoNetworks {
  readonly outside: OutsideWorld
  readonly wirings: Record<string, Wiring> = {}
  readonly guests: Record<string, Host> = {}
  readonly addresses: Record<string, string> = {}

  private constructor(outside: OutsideWorld) {
    this.outside = outside
  }

  static async open(shards: number): Promise<TwoNetworks> {
    const outside = await OutsideWorld.open(['--shards', `${shards}`])
    const all = new TwoNetworks(outside)
    try {
      await outside.weft.do('network delete default')
      for (const [name, letter, net, last] of [
        ['one', 'a', '10.91.0.0/24', 20],
        ['two', 'b', '10.92.0.0/24', 21],
      ] as const) {
        const wiring = await outside.network(name, `--mode nat --subnet ${net} --uplink ${uplinkOf(last)}`)
        all.wirings[name] = wiring
        for (const guest of [`${letter}1`, `${letter}2`]) {
          const { host, ip } = await outside.leased(wiring, guest)
          all.guests[guest] = host
          all.addresses[guest] = ip
        }
      }
      await Server.start(outside.world, 'tcp', '80-81')
      await Server.start(outside.world, 'udp', '90-91')
      for (const host of Object.values(all.guests)) await host.reaches(world.ip)
      return all
    } catch (error) {
      await outside.close()
      throw error
    }
  }

  show(network: string): Promise<Shown> {
    return this.outside.weft.json<Shown>(['network', 'show', network])
  }

  async shards(): Promise<Status['shards']> {
    return (await this.outside.weft.json<Status>('status')).shards
  }

  leases(network: string): Promise<LeaseEntry[]> {
    return this.outside.weft.json<LeaseEntry[]>(['lease', 'list', network])
  }

  /** Moves a network, and waits until it runs there. */
  async move(network: string, shard: number): Promise<void> {
    await this.outside.weft.do(['network', 'set', network, '--shard', `${shard}`])
    assert.deepEqual(await this.where(network), { shard, runsOn: shard })
  }

  async where(network: string): Promise<Shown> {
    const { shard, runsOn } = await this.show(network)
    return { shard, runsOn }
  }

  /** Moves a network to and fro until something is done; how often. */
  async moveUntil(network: string, done: Promise<unknown>): Promise<number> {
    const work = { isDone: false }
    const end = (): void => {
      work.isDone = true
    }
    void done.then(end, end)
    let moves = 0
    for (; !work.isDone; moves++) await this.move(network, ((await this.show(network)).runsOn ?? 0) ^ 1)
    return moves
  }
}

/** Ten echo requests a second; how many were answered. */
async function pings(host: Host, to: string, count = PINGS): Promise<number> {
  const args = ['-n', '-q', '-i', '0.1', '-c', `${count}`, '-W', '1', to]
  const { stdout } = await host.space.attempt('ping', args, { timeoutSeconds: 60 })
  return Number(/(\d+) received/.exec(stdout)?.[1] ?? 0)
}

describe('shards change no result', wants, () => {
  /** What a user sees of two networks, without what differs from run to run. */
  async function battery(shards: number): Promise<object> {
    const all = await TwoNetworks.open(shards)
    const { outside, guests, addresses } = all
    try {
      const { probe, weft } = outside
      const seen: Record<string, unknown> = {}
      for (const [name, host] of Object.entries(guests)) {
        const tcp = await tcpSeen(host.space, world.ip, 80)
        seen[name] = {
          outside: tcp.address,
          answers: await host.space.ping(far.ip, { sizeBytes: 4000 }),
          closed: await tcpError(host.space, world.ip, 82),
        }
      }
      // both at once, a port of the same number in each network
      await Promise.all([
        probe.stream(guests.a1.space, outside.world, world.ip, 30),
        probe.stream(guests.b1.space, outside.world, world.ip, 30),
        probe.stream(guests.a1.space, guests.a2.space, addresses.a2, 20),
        probe.stream(guests.b1.space, guests.b2.space, addresses.b2, 20),
      ])
      const strangers = await guests.a1.space.ping(addresses.b1, { count: 2, waitSeconds: 1 })
      await weft.do('rule add two drop out tcp dport 81')
      const filtered = await tcpError(guests.b1.space, world.ip, 81)
      const unfiltered = await tcpError(guests.a1.space, world.ip, 81)
      const rules = (await outside.rules('two')).length
      const tables: Record<string, unknown> = {}
      for (const [network, letter] of [
        ['one', 'a'],
        ['two', 'b'],
      ] as const) {
        const fdb = await weft.fdb(network)
        // addresses are chosen anew for each network that is made
        const named = (address: string): string =>
          Object.entries(addresses).find(([, ip]) => ip === address)?.[0] ?? address
        const neighbors = await weft.json<{ port: string; address: string }[]>(['neighbor', 'list', network])
        const traced = await weft.json<{ verdict: string }>([
          'trace',
          network,
          '--from',
          `${letter}1`,
          `tcp ${addresses[`${letter}1`]}:1234 > ${world.ip}:80`,
        ])
        tables[network] = {
          fdb: fdb.map(({ port }) => port).toSorted(),
          leases: (await all.leases(network)).map(({ address, port }) => `${named(address)} ${port}`).toSorted(),
          neighbors: neighbors.map(({ address, port }) => `${named(address)} ${port}`).toSorted(),
          connections: (await outside.connections(network)).some(({ nat }) => nat === 'snat'),
          traced: traced.verdict,
          drops: Object.keys((await weft.port(network, `${letter}1`)).drops),
        }
      }
      return { seen, strangers, filtered, unfiltered, rules, tables }
    } finally {
      await outside.close()
    }
  }

  it('leases, NAT, ping, TCP, filters and tables are the same with one and with two', async () => {
    assert.deepEqual(await battery(2), await battery(1))
  })
})

describe('two shards', wants, () => {
  let all: TwoNetworks
  let outside: OutsideWorld
  let a1: Host
  let b1: Host
  before(async () => {
    all = await TwoNetworks.open(2)
    outside = all.outside
    a1 = all.guests.a1
    b1 = all.guests.b1
  })
  after(() => outside?.close())

  it('networks are spread by themselves, and it shows', async () => {
    assert.deepEqual(await all.where('one'), { shard: null, runsOn: 0 })
    assert.deepEqual(await all.where('two'), { shard: null, runsOn: 1 })
    const shards = await all.shards()
    assert.deepEqual(
      shards.map(({ index, networks, ports }) => [index, networks, ports]),
      [
        [0, 1, 2],
        [1, 1, 2],
      ],
    )
    assert.notEqual(shards[0].pid, shards[1].pid)
    const metrics = await run('curl', ['-s', '--unix-socket', outside.weft.socket, 'http://localhost/metrics'])
    assert.match(metrics, /weft_network_shard\{network="two",shard="1"\} 1/)
    assert.match(metrics, /weft_shard_networks\{shard="0"\} 1/)
    assert.match(metrics, /weft_pool_slots\{shard="1"\} \d+/)
  })

  it('a live move: TCP through NAT arrives whole, and its connection is the same', async () => {
    const stream = outside.probe.stream(a1.space, outside.world, world.ip, 1500)
    const find = async (): Promise<Connection | undefined> =>
      (await outside.connections('one')).find(
        (one) => one.protocol === 'tcp' && one.original.destinationPort >= 6000 && one.bytes > 1_000_000,
      )
    const first = await until('the stream has begun', find)
    assert.equal(first.state, 'established')
    await all.move('one', 1)
    const second = await find()
    assert.ok(second, 'the connection is listed still')
    assert.deepEqual([second.original, second.reply, second.nat], [first.original, first.reply, 'snat'])
    assert.ok(second.packets >= first.packets && second.bytes >= first.bytes, 'with what it had counted')
    const moves = await all.moveUntil('one', stream)
    await stream
    assert.ok(moves >= 1, 'it moved again meanwhile')
  })

  it('a live move: TCP between guests arrives whole', async () => {
    const stream = outside.probe.stream(a1.space, all.guests.a2.space, all.addresses.a2, 1500)
    assert.ok((await all.moveUntil('one', stream)) >= 2)
    await stream
  })

  it('a live move: leases, static entries, bindings, mappings and counters are kept', async () => {
    const { weft } = outside
    const socket = await UdpSocket.open(a1.space, 4000)
    const seen = await socket.ask(world.ip, 90, 'first')
    const leases = await all.leases('one')
    await weft.do('fdb add one 52:54:00:aa:bb:cc a2')
    await weft.do('rule add one accept out udp dport 91')
    await socket.ask(world.ip, 91, 'counted')
    const counted = await until('the rule has counted', async () => {
      const [rule] = await outside.rules('one')
      return rule.packets > 0 ? rule : null
    })
    const port = await weft.port('one', 'a1')
    const fdb = (await weft.fdb('one')).map(({ mac, port: at, static: is }) => `${mac} ${at} ${is}`)
    for (const shard of [0, 1, 0]) await all.move('one', shard)
    assert.deepEqual(await all.leases('one'), leases)
    assert.deepEqual(
      (await weft.fdb('one')).map(({ mac, port: at, static: is }) => `${mac} ${at} ${is}`),
      fdb,
    )
    assert.ok(fdb.includes('52:54:00:aa:bb:cc a2 true'))
    const later = await weft.json<PortState>('port show one a1')
    for (const way of ['receive', 'transmit'] as const) {
      assert.ok(later[way].packets >= port[way].packets, way)
      assert.ok(later[way].bytes >= port[way].bytes, way)
    }
    const [rule]: Rule[] = await outside.rules('one')
    assert.deepEqual([rule.rule, rule.packets >= counted.packets], [counted.rule, true])
    assert.equal((await socket.ask(world.ip, 90, 'second')).port, seen.port, 'the same outside port')
    // the binding still binds: another guest cannot use the address
    const thief = all.guests.a2
    await thief.space.ip(`addr add ${all.addresses.a1}/24 dev ${thief.device}`)
    await thief.space.attempt('ping', ['-n', '-c', '2', '-W', '1', '-I', all.addresses.a1, world.ip])
    const { drops } = await weft.port('one', 'a2')
    assert.ok(
      Object.keys(drops).some((reason) => reason.startsWith('spoofed')),
      JSON.stringify(drops),
    )
    await thief.space.ip(`addr del ${all.addresses.a1}/24 dev ${thief.device}`)
    await socket.stop()
    await weft.do('rule remove one 1')
  })

  it('live moves: echo requests at ten a second are lost a few at most, the other network loses none', async () => {
    const answered = Promise.all([pings(a1, world.ip), pings(b1, world.ip)])
    const moves = await all.moveUntil('one', answered)
    const [moved, stayed] = await answered
    assert.ok(moves >= 3, `${moves} moves`)
    assert.ok(moved >= PINGS - 3, `${moved} of ${PINGS} answers in ${moves} moves`)
    assert.equal(stayed, PINGS)
  })

  it('a capture goes on over moves', async () => {
    const path = join(outside.lab.folder, 'moved.pcapng')
    const { socket } = outside.weft
    const args = [weftMain, 'capture', 'one', 'a1', '-w', path, '--count', '60', 'icmp', '--socket', socket]
    const capture = new Background(process.execPath, args)
    try {
      await until('the capture begins', () => readFileSync(path).length > 0)
      const answered = pings(a1, world.ip)
      assert.ok((await all.moveUntil('one', answered)) >= 3)
      await until('the capture has its 60 frames', () => !capture.running)
      assert.equal(await capture.exited, 0, capture.stderr)
    } finally {
      await capture.stop('SIGKILL')
    }
  })

  it('new connections, DHCP and trace work where the network is now', async () => {
    for (const shard of [1, 0]) {
      await all.move('two', shard)
      assert.equal((await tcpSeen(b1.space, world.ip, 80)).address, '198.51.100.21')
      const outcomes = await tcpConnect(b1.space, world.ip, 80, 50)
      assert.equal(outcomes.filter((one) => 'error' in one).length, 0)
      assert.equal(await outside.lease(b1), all.addresses.b1)
      const { verdict } = await outside.weft.json<{ verdict: string }>([
        'trace',
        'two',
        '--from',
        'b1',
        `tcp ${all.addresses.b1}:1234 > ${world.ip}:80`,
      ])
      assert.equal(verdict, 'forwarded to port uplink')
    }
    await all.move('two', 1)
  })

  it('networks that routes link run on one shard, and move together', async () => {
    const { weft } = outside
    await weft.do('network set one --shard auto')
    await weft.do('network set two --shard auto')
    await weft.do('route add one 10.92.0.0/24 via two')
    await weft.do('route add two 10.91.0.0/24 via one')
    await weft.do('rule add two accept in from 10.91.0.0/24')
    const [one, two] = [await all.show('one'), await all.show('two')]
    assert.equal(one.runsOn, two.runsOn)
    await a1.reaches(all.addresses.b1)
    const other = (one.runsOn ?? 0) ^ 1
    const answered = pings(a1, all.addresses.b1, 20)
    const stream = outside.probe.stream(a1.space, b1.space, all.addresses.b1, 400)
    await weft.do(['network', 'set', 'two', '--shard', `${other}`])
    assert.deepEqual([(await all.show('one')).runsOn, (await all.show('two')).runsOn], [other, other])
    assert.ok((await answered) >= 18)
    await stream
    const torn = await weft.cli(['network', 'set', 'one', '--shard', `${other ^ 1}`])
    assert.equal(torn.status, 1)
    assert.match(
      torn.stderr,
      /^weft: shard: networks one and two are linked by routes and run on one shard, not on .*\n$/,
    )
    await weft.do('route remove one 10.92.0.0/24')
    await weft.do('route remove two 10.91.0.0/24')
    await weft.do('rule remove two 1')
    await weft.do('network set two --shard auto')
    await all.move('one', 0)
    await all.move('two', 1)
  })

  it('kill -9 of one shard: it is replaced, and the other network loses nothing', async () => {
    const first = await all.shards()
    const stream = outside.probe.stream(a1.space, outside.world, world.ip, 300)
    const answered = pings(b1, world.ip)
    await until('the stream has begun', async () =>
      (await outside.connections('one')).some((one) => one.original.destinationPort >= 6000 && one.bytes > 1_000_000),
    )
    process.kill(first[0].pid, 'SIGKILL')
    await stream
    assert.equal(await answered, PINGS)
    const now = await all.shards()
    assert.deepEqual(
      now.map(({ restarts }) => restarts),
      [first[0].restarts + 1, first[1].restarts],
    )
    assert.equal(now[1].pid, first[1].pid)
    assert.notEqual(now[0].pid, first[0].pid)
    await a1.reaches(world.ip)
  })

  it('a move to a shard that has just been killed works or is refused, and loses no connection', async () => {
    const stream = outside.probe.stream(a1.space, outside.world, world.ip, 600)
    let refused = 0
    for (let i = 0; i < 3; i++) {
      const { runsOn } = await all.show('one')
      const shards = await all.shards()
      const to = (runsOn ?? 0) ^ 1
      const moving = outside.weft.cli(['network', 'set', 'one', '--shard', `${to}`])
      // the command takes a while to start: somewhere around the move
      await new Promise((resolve) => setTimeout(resolve, 150 + 60 * i))
      process.kill(shards[i % 2 === 0 ? to : to ^ 1].pid, 'SIGKILL')
      const { status, stderr } = await moving
      if (status !== 0) {
        refused++
        assert.match(stderr, /^weft: network one: stays on shard \d: shard \d: .*\n$/)
        assert.equal((await all.show('one')).runsOn, runsOn)
      }
      await a1.reaches(world.ip)
      await b1.reaches(world.ip)
    }
    await stream
    assert.ok(refused <= 3)
    await all.move('one', 0)
  })

  it('pins outlive the daemon; one to a shard that does not run is kept, and the network runs', async () => {
    const { weft } = outside
    await all.move('one', 1)
    await all.move('two', 0)
    await weft.stop()
    await weft.start()
    assert.deepEqual(await all.where('one'), { shard: 1, runsOn: 1 })
    assert.deepEqual(await all.where('two'), { shard: 0, runsOn: 0 })
    await weft.stop()
    weft.extra = ['--shards', '1']
    await weft.start()
    assert.deepEqual(await all.where('one'), { shard: 1, runsOn: 0 })
    assert.match(weft.log, /network one is pinned to shard 1, which does not run/)
    await weft.do('network set one --mtu 1400')
    assert.deepEqual(await all.where('one'), { shard: 1, runsOn: 0 })
    const result = await weft.cli('network set two --shard 1')
    assert.equal(result.status, 1)
    assert.equal(result.stderr, 'weft: shard: 1 is not 0..0: one shard runs (weft up --shards)\n')
  })
})

describe('words for shards that are refused', needs('weft'), () => {
  for (const text of ['0', '-1', '1000', 'two', '1.5', '']) {
    it(`weft up --shards ${JSON.stringify(text)}`, async () => {
      const result = await attempt(process.execPath, [weftMain, 'up', `--shards=${text}`, '--socket', '/nonexistent/s'])
      assert.equal(result.status, 1)
      assert.match(result.stderr, /^weft: shards: \S+ is not 1\.\.\d+ \(the machine has .* cores?\)\n$/)
    })
  }
})
