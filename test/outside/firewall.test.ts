/**
 * The firewall: rules as users write them, judged by what hosts that know nothing of them see. And the guard: a guest
 * is who it is, whatever it sends.
 *
 *   a, b ── tap ── lan (10.93.0.0/24, mode nat) ── router ── up0 ═ w0 [world]
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { type Client, connect } from '../../src/control/client.js'
import { needs, pause, until } from '../rig/commands.js'
import { broadcast, destinationOf } from '../rig/frames.js'
import type { Host, Wiring } from '../rig/hosts.js'
import { OutsideWorld, openPorts, router, scapy, uplink6, world } from '../rig/outside-world.js'
import { Server, UdpSocket, tcpError, tcpSeen, udpAsk } from '../rig/talker.js'

const names = ['root', 'tun', 'weft', 'ip', 'tcpdump', 'nmap', 'curl', 'busybox', 'scapy', 'cc']
const wants = needs(...names)

describe('firewall', wants, () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  let b: Host
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', `--mode nat --subnet 10.93.0.0/24 --subnet fd93::/64 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.93.0.10', { ip6: 'fd93::10' })
    b = await outside.guest(lan, 'b', '10.93.0.11', { ip6: 'fd93::11' })
    for (const host of [a, b]) await host.reaches(world.ip)
    await Server.start(outside.world, 'tcp', '80-90')
    await Server.start(outside.world, 'udp', '80-90')
    for (const host of [a, b]) {
      await Server.start(host.space, 'tcp', '80-90')
      await Server.start(host.space, 'udp', '80-90')
    }
  })
  after(() => outside?.close())
  afterEach(async () => {
    for (let n = (await outside.rules('lan')).length; n > 0; n--) await outside.weft.do(`rule remove lan ${n}`)
    await outside.weft.do('connection flush lan')
  })

  const rule = (text: string, at?: number) =>
    outside.weft.do(['rule', 'add', 'lan', ...text.split(' '), ...(at === undefined ? [] : ['--at', `${at}`])])

  const tcp = (from: Host, port: number, to: string = world.ip) => tcpError(from.space, to, port)
  const udp = async (from: Host, port: number, to: string = world.ip): Promise<string> => {
    const outcome = await udpAsk(from.space, to, port)
    return 'error' in outcome ? outcome.error : 'none'
  }

  it('out: drop is silent, reject answers with a reset or port unreachable', async () => {
    await rule('drop out tcp dport 81')
    await rule('reject out tcp dport 82')
    await rule('drop out udp dport 81')
    await rule('reject out udp dport 82')
    const outcomes = await Promise.all([80, 81, 82].flatMap((port) => [tcp(a, port), udp(a, port)]))
    assert.deepEqual(outcomes, ['none', 'none', 'silence', 'silence', 'ECONNREFUSED', 'ECONNREFUSED'])
    const curl = await a.space.attempt('curl', ['-s', '-m', '10', `http://${world.ip}:82/`])
    assert.equal(curl.status, 7, 'curl: failed to connect')
    assert.deepEqual([await tcp(a, 82, world.ip6), await udp(a, 82, world.ip6)], ['ECONNREFUSED', 'ECONNREFUSED'])
  })

  it('the first rule that fits decides; --at puts one before others, remove takes it out again', async () => {
    await rule('drop out tcp dport 80-89')
    assert.equal(await tcp(a, 83), 'silence')
    await rule('accept out tcp dport 83', 1)
    assert.equal(await tcp(a, 83), 'none')
    await rule('reject out', 2)
    assert.equal(await tcp(a, 84), 'ECONNREFUSED')
    assert.deepEqual(
      (await outside.rules('lan')).map(({ number, rule: text }) => `${number} ${text}`),
      ['1 accept out tcp dport 83', '2 reject out', '3 drop out tcp dport 80-89'],
    )
    await outside.weft.do('rule remove lan 2')
    await outside.weft.do('rule remove lan 2')
    assert.equal(await tcp(a, 84), 'none')
  })

  it('from and to: addresses, prefixes, ports by name; lists of ports; sport; icmp types', async () => {
    await rule('reject out from 10.93.0.10 tcp dport 80')
    await rule(`reject out to ${world.second} tcp dport 81`)
    await rule('reject out to 198.51.100.0/30 tcp dport 82,84-85')
    await rule('reject out from b tcp dport 86')
    await rule('reject out from fd93::/64 to 2001:db8::/32 tcp dport 87')
    await rule('reject out udp sport 40100-40109')
    await rule('drop out icmp type 8')
    assert.deepEqual([await tcp(a, 80), await tcp(b, 80)], ['ECONNREFUSED', 'none'])
    assert.deepEqual([await tcp(a, 81), await tcp(a, 81, world.second)], ['none', 'ECONNREFUSED'])
    assert.deepEqual(await Promise.all([82, 83, 84, 85].map((port) => tcp(a, port))), [
      'ECONNREFUSED',
      'none',
      'ECONNREFUSED',
      'ECONNREFUSED',
    ])
    assert.deepEqual([await tcp(a, 86), await tcp(b, 86)], ['none', 'ECONNREFUSED'])
    assert.deepEqual([await tcp(a, 87), await tcp(a, 87, world.ip6)], ['none', 'ECONNREFUSED'])
    const socket = await UdpSocket.open(a.space, 40_105)
    const free = await UdpSocket.open(a.space, 40_110)
    socket.send(world.ip, 80, 'from a port that may not')
    await free.ask(world.ip, 80, 'from one that may')
    assert.deepEqual(socket.received(), [])
    assert.equal(await a.space.ping(world.ip, { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await a.space.ping(world.ip6, { count: 2 }), 2)
  })

  it('in: nothing unless a rule or a forward lets it in', async () => {
    await outside.world.ip(`route add 10.93.0.0/24 via ${router.outside}`)
    assert.equal(await tcpError(outside.world, a.ip, 80), 'silence')
    await rule(`accept in from ${world.ip} to a tcp dport 80`)
    const seen = await tcpSeen(outside.world, a.ip, 80)
    assert.equal(seen.address, world.ip)
    assert.deepEqual(
      [await tcpError(outside.world, a.ip, 81), await tcpError(outside.world, b.ip, 80)],
      ['silence', 'silence'],
    )
    await rule('reject in tcp dport 81')
    assert.equal(await tcpError(outside.world, a.ip, 81), 'ECONNREFUSED')
    await outside.world.ip('route del 10.93.0.0/24')
  })

  it('a rule shuts a forward too, by the ports inside', async () => {
    await outside.weft.do(['forward', 'add', 'lan', 'tcp:8080', `${a.ip}:80`])
    assert.equal(await tcpError(outside.world, router.outside, 8080), 'none')
    await rule('drop in tcp dport 80')
    assert.equal(await tcpError(outside.world, router.outside, 8080), 'silence')
    await outside.weft.do(['forward', 'remove', 'lan', 'tcp:8080'])
  })

  it('local: between guests, by address and by port name', async () => {
    assert.equal(await tcp(a, 80, b.ip), 'none')
    await rule('drop local from a to b tcp dport 80')
    await rule('reject local from a to b tcp dport 81')
    await rule('reject local to 10.93.0.11 udp dport 81')
    assert.equal(await tcp(a, 80, b.ip), 'silence')
    assert.equal(await tcp(a, 81, b.ip), 'ECONNREFUSED')
    assert.equal(await udp(a, 81, b.ip), 'ECONNREFUSED')
    assert.deepEqual([await tcp(a, 82, b.ip), await tcp(b, 80, a.ip)], ['none', 'none'])
    assert.equal(await tcp(a, 80, 'fd93::11'), 'silence', 'IPv6 too: no address is named')
    assert.equal(await tcp(a, 80), 'none', 'outside is not local')
  })

  it('local: all dropped but one service; guests still find the gateway and the outside', async () => {
    await rule('accept local tcp dport 80')
    await rule('drop local')
    assert.equal(await tcp(a, 80, b.ip), 'none')
    assert.equal(await tcp(a, 81, b.ip), 'silence')
    assert.equal(await a.space.ping(b.ip, { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await a.space.ping('fd93::11', { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await a.space.ping(world.ip), 3)
    assert.equal(await a.space.ping('10.93.0.1'), 3)
  })

  it('to gateway: what guests, and the outside, may ask of the router itself', async () => {
    assert.deepEqual(await openPorts(a.space, '-sS', '1-1000', '10.93.0.1'), ['tcp/53'])
    assert.equal(await a.space.ping('10.93.0.1', { count: 2 }), 2)
    await rule('reject to gateway tcp dport 53')
    await rule('drop from a to gateway icmp')
    assert.equal(await tcp(a, 53, '10.93.0.1'), 'ECONNREFUSED')
    assert.equal(await a.space.ping('10.93.0.1', { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await b.space.ping('10.93.0.1', { count: 2 }), 2)
    assert.equal(await outside.world.ping(router.outside, { count: 2, waitSeconds: 1 }), 0)
    await rule('accept in to gateway icmp type 8')
    assert.equal(await outside.world.ping(router.outside, { count: 2 }), 2)
    assert.equal(await tcpError(outside.world, router.outside, 53), 'silence')
  })

  it('states: established goes on under new rules; a rule that names it stops it; invalid never passes', async () => {
    const client = a.space.spawn('busybox', ['nc', world.ip, '88'])
    await until('the server speaks', () => client.stdout.includes(router.outside))
    await rule('drop out state new')
    client.write('one\n')
    await until('the server echoes', () => client.stdout.includes('one'))
    assert.equal(await tcp(a, 80), 'silence')
    await rule('drop out tcp dport 88 state established')
    client.write('two\n')
    await pause(1500)
    assert.ok(!client.stdout.includes('two'))
    await outside.weft.do('rule remove lan 2')
    await until('the connection goes on', () => client.stdout.includes('two'), 30)
    await client.stop('SIGKILL')
    const capture = await outside.world.capture('w0', { only: 'in', filter: 'tcp' })
    await scapy(a.space, `send(IP(dst="${world.ip}")/TCP(sport=1234, dport=80, flags="A", seq=7, ack=7))`)
    await scapy(a.space, `send(IP(dst="${world.ip}")/TCP(sport=1235, dport=80, flags="SF", seq=7))`)
    await lan.drops('a', 'invalid', 1)
    assert.deepEqual(await capture.stop(), [])
  })

  it('related: errors about a connection pass with a silent in, and stop where a rule says so', async () => {
    assert.equal(await udp(a, 9), 'ECONNREFUSED')
    await rule('drop in state related')
    assert.equal(await udp(a, 9), 'silence')
  })

  it('counters count what a rule fitted, first packets of connections', async () => {
    await rule('accept out tcp dport 80')
    await rule('drop out udp dport 80')
    for (let n = 0; n < 3; n++) await tcp(a, 80)
    await scapy(a.space, `send([IP(dst="${world.ip}")/UDP(sport=3000, dport=80)/(b"x" * 100)] * 5)`)
    const counts = await until('the rules have counted', async () => {
      const rules = await outside.rules('lan')
      return rules[0]?.packets === 3 && rules[1]?.packets === 5 ? rules : JSON.parse('null')
    })
    assert.equal(counts[1].bytes, 5 * 128)
    assert.ok(counts[0].bytes >= 3 * 40)
  })

  it('log: clients that subscribed are told of each packet, and no more than the rate', async () => {
    const client: Client = await connect({ socket: outside.weft.socket })
    const told: { rule: number; packet: string; network: string }[] = []
    await client.subscribe(['rule.logged'], (event) => told.push(event as never))
    await rule('accept out tcp dport 81')
    await rule('drop out udp dport 82 log')
    await rule('reject out tcp dport 82 log')
    await tcp(a, 81)
    await tcp(a, 82)
    await until('the rejected packet is told', () => told.length > 0)
    assert.deepEqual([told[0]?.rule, told[0]?.network], [3, 'lan'])
    assert.match(told[0]?.packet ?? '', /^rejected tcp 10\.93\.0\.10:\d+ > 198\.51\.100\.1:82 \(out, new, from port a/)
    await scapy(a.space, `send([IP(dst="${world.ip}")/UDP(sport=3000, dport=82)] * 2000, inter=0)`)
    await until('the rule has counted all', async () => (await outside.rules('lan'))[1]?.packets === 2000)
    await pause(1500)
    const dropped = told.filter((one) => one.rule === 2)
    assert.ok(dropped.length > 0 && dropped.length < 1000, `${dropped.length} of 2000 told`)
    client.close()
  })

  it('rules that make no sense are refused in one line that names the word', async () => {
    for (const [text, pattern] of [
      ['allow out', /allow/],
      ['accept sideways', /sideways/],
      ['accept out tcp dport 70000', /70000/],
      ['accept out tcp dport 90-80', /90-80/],
      ['accept out icmp dport 80', /icmp|dport/],
      ['accept out from 10.93.0.300', /10\.93\.0\.300/],
      ['accept out from 10.93.0.1/24', /10\.93\.0\.0\/24/],
      ['accept out from 10.0.0.1 to fd93::1', /IPv4.*IPv6/],
      ['accept out to b', /uplink/],
      ['accept in from b', /uplink|port/],
      ['drop out from', /from/],
      ['drop out state asleep', /asleep/],
      ['drop out from $nobody', /nobody/],
      ['drop drop', /drop/],
    ] as const) {
      const { status, stderr } = await outside.weft.cli(['rule', 'add', 'lan', ...text.split(' ')])
      assert.equal(status, 1, `${text}: ${stderr}`)
      assert.equal(stderr.trim().split('\n').length, 1, stderr)
      assert.match(stderr, pattern)
    }
    assert.deepEqual(await outside.rules('lan'), [])
    for (const args of ['rule remove lan 1', 'rule add lan --at 5 drop out']) {
      assert.equal((await outside.weft.cli(args)).status, 1, args)
    }
  })
})

describe('firewall: sets', wants, () => {
  let outside: OutsideWorld
  before(async () => {
    outside = await OutsideWorld.open()
  })
  after(() => outside?.close())

  it('named sets of addresses and ports stand in rules', async () => {
    const lan = await outside.define({
      name: 'lan',
      mode: 'nat',
      subnets: ['10.93.0.0/24'],
      uplink: `netdev:up0,address=${router.outside}/24,gateway=${world.ip}`,
      sets: {
        addresses: { friends: ['10.93.0.10', '10.93.0.64/26'], servers: [world.second] },
        ports: { web: ['80', '83-84'] },
      },
      rules: ['accept out from $friends to $servers tcp dport $web', 'reject out tcp'],
    })
    const a = await outside.guest(lan, 'a', '10.93.0.10')
    const b = await outside.guest(lan, 'b', '10.93.0.11')
    const c = await outside.guest(lan, 'c', '10.93.0.70')
    await Server.start(outside.world, 'tcp', '80-90')
    const ends = async (host: Host, to: string): Promise<string[]> =>
      Promise.all([80, 82, 84].map((port) => tcpError(host.space, to, port)))
    for (const friend of [a, c]) {
      assert.deepEqual(await ends(friend, world.second), ['none', 'ECONNREFUSED', 'none'])
    }
    assert.deepEqual(await ends(b, world.second), ['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED'])
    assert.deepEqual(await ends(a, world.ip), ['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED'])
  })
})

describe('guard', wants, () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  let b: Host
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', `--mode nat --subnet 10.93.0.0/24 --subnet fd93::/64 --uplink ${uplink6}`)
    a = (await outside.leased(lan, 'a')).host
    b = (await outside.leased(lan, 'b')).host
    for (const host of [a, b]) assert.equal(await host.space.ping(world.ip), 3)
  })
  after(() => outside?.close())

  const address = async (host: Host): Promise<string> =>
    /inet ([\d.]+)/.exec(await host.space.ip(`-4 -o address show ${host.device}`))?.[1] as string

  /** Frames that scapy sends out of a guest, each of which must be dropped for this reason. */
  async function dropped(host: Host, reason: string, frames: string[]): Promise<void> {
    const counted = (await lan.port(host.name)).drops[reason] ?? 0
    await scapy(host.space, frames.map((frame) => `sendp(${frame}, iface="${host.device}")`).join('\n'))
    await lan.drops(host.name, reason, counted + frames.length)
  }

  const gatewayMac = async (host: Host): Promise<string> =>
    /lladdr ([\da-f:]+)/.exec(await host.space.ip('neigh show 10.93.0.1'))?.[1] as string

  it('no other source address, in whatever packet', async () => {
    const victim = await address(b)
    const gateway = await gatewayMac(a)
    const capture = await outside.world.capture('w0', { only: 'in', filter: 'udp port 9999' })
    const sources = [victim, '10.93.0.200', '10.93.0.1', '10.93.0.255', '10.93.0.0']
    const to = (mac: string): string => `Ether(src="${a.mac}", dst="${mac}")`
    const udp = (source: string): string => `IP(src="${source}", dst="${world.ip}")/UDP(dport=9999)`
    await dropped(
      a,
      'spoofed-address',
      sources.map((source) => `${to(gateway)}/${udp(source)}`),
    )
    await dropped(a, 'spoofed-address', [
      `${to(b.mac)}/IP(src="10.93.0.200", dst="${victim}")/UDP(dport=9999)`,
      `${to(broadcast)}/IP(src="10.93.0.200", dst="10.93.0.255")/UDP(dport=9999)`,
    ])
    // not of this network at all: neither the router gets it nor a neighbor
    const foreign = ['192.0.2.1', '127.0.0.1', '1.1.1.1']
    await dropped(
      a,
      'spoofed-address',
      foreign.flatMap((source) => [
        `${to(gateway)}/${udp(source)}`,
        `${to(b.mac)}/IP(src="${source}", dst="${victim}")/UDP(dport=9999)`,
      ]),
    )
    assert.deepEqual(await capture.stop(), [])
  })

  it("no other MAC: neither the gateway's nor another guest's", async () => {
    const gateway = await gatewayMac(a)
    await dropped(a, 'spoofed-mac', [
      `Ether(src="${gateway}", dst="${b.mac}")/IP(src="10.93.0.1", dst="${await address(b)}")/ICMP()`,
      `Ether(src="${b.mac}", dst="${gateway}")/IP(src="${await address(b)}", dst="${world.ip}")/ICMP()`,
      `Ether(src="${b.mac}", dst="${broadcast}")/ARP(op=1, hwsrc="${b.mac}", psrc="10.93.0.9", pdst="10.93.0.8")`,
    ])
    assert.equal(await b.space.ping(world.ip), 3)
  })

  it('ARP that claims the gateway or another guest has no effect', async () => {
    const [own, victim] = [await address(a), await address(b)]
    await b.reaches(own)
    const atFirst = await b.space.ip('neigh show')
    const claim = (ip: string, op: number, to: string): string =>
      `Ether(src="${a.mac}", dst="${to}")/` +
      `ARP(op=${op}, hwsrc="${a.mac}", psrc="${ip}", pdst="${victim}", hwdst="${b.mac}")`
    const claims = ['10.93.0.1', victim].flatMap((ip) =>
      [1, 2].flatMap((op) => [b.mac, broadcast].map((to) => claim(ip, op, to))),
    )
    await dropped(a, 'spoofed-address', claims)
    const lie = `ARP(op=2, hwsrc="${b.mac}", psrc="${own}", pdst="${victim}")`
    await dropped(a, 'bad-arp', [`Ether(src="${a.mac}", dst="${broadcast}")/${lie}`])
    const macs = (text: string): string[] =>
      [...text.matchAll(/^(\S+) .*lladdr (\S+)/gm)].map(([, ip, mac]) => `${ip} ${mac}`)
    assert.deepEqual(macs(await b.space.ip('neigh show')).toSorted(), macs(atFirst).toSorted())
    const neighbors = await outside.weft.json<{ address: string; mac: string }[]>('neighbor list lan')
    assert.equal(neighbors.find((one) => one.address === victim)?.mac, b.mac)
    assert.equal(await b.space.ping(world.ip), 3)
  })

  it('no neighbor advertisement, router advertisement or redirect that is not its own', async () => {
    const own = 'fe80::bad'
    const head = `Ether(src="${a.mac}", dst="33:33:00:00:00:01")/IPv6(src="${own}", dst="ff02::1")`
    const hidden = `${head}/IPv6ExtHdrHopByHop()/ICMPv6ND_RA()`
    await dropped(a, 'router-advertisement', [
      `${head}/ICMPv6ND_RA()/ICMPv6NDOptPrefixInfo(prefix="fd66::", prefixlen=64)`,
      `${head}/ICMPv6ND_Redirect(tgt="${own}", dst="2001:db8::1")`,
      hidden,
    ])
    await dropped(a, 'spoofed-address', [
      `${head}/ICMPv6ND_NA(tgt="fd93::1", R=1, O=1)/ICMPv6NDOptDstLLAddr(lladdr="${a.mac}")`,
    ])
  })

  it('no DHCP server', async () => {
    const head = `Ether(src="${a.mac}", dst="${broadcast}")/IP(src="${await address(a)}", dst="255.255.255.255")`
    const offer = 'BOOTP(op=2, yiaddr="10.93.0.66")/DHCP(options=[("message-type", "offer"), "end"])'
    await dropped(a, 'dhcp-server', [`${head}/UDP(sport=67, dport=68)/${offer}`])
  })

  it('with --address a guest may use just that, without a lease; --allow spoofing lifts it', async () => {
    const c = await lan.tap('c', { address: '10.93.0.240/24', port: '--address 10.93.0.240' })
    await c.space.ip('route add default via 10.93.0.1')
    await c.reaches(world.ip)
    const gateway = await gatewayMac(c)
    const frame = `Ether(src="${c.mac}", dst="${gateway}")/IP(src="10.93.0.241", dst="${world.ip}")/UDP(dport=9999)`
    await dropped(c, 'spoofed-address', [frame])
    await outside.weft.do('port set lan c --allow spoofing')
    const capture = await outside.world.capture('w0', { only: 'in', filter: 'udp port 9999' })
    await scapy(c.space, `sendp(${frame}, iface="${c.device}")`)
    await capture.see('the packet from the other address', () => true)
    await capture.stop()
    await outside.weft.do('port set lan c --allow none')
    await dropped(c, 'spoofed-address', [frame])
    // what belongs to another by order is not to be had, either
    const taken = `Ether(src="${a.mac}", dst="${gateway}")/IP(src="10.93.0.240", dst="${world.ip}")/UDP(dport=9999)`
    await dropped(a, 'spoofed-address', [taken])
  })

  it('a port with --mac takes frames of that MAC alone', async () => {
    const d = await lan.tap('d', { address: '10.93.0.242/24' })
    await outside.weft.do(['port', 'set', 'lan', 'd', '--mac', d.mac])
    await d.reaches('10.93.0.1')
    await dropped(d, 'spoofed-mac', [`Ether(src="02:00:00:00:00:99", dst="${broadcast}")/Raw(b"x" * 50)`])
    const capture = await b.space.capture(b.device, { only: 'in' })
    await dropped(d, 'spoofed-mac', [`Ether(src="02:00:00:00:00:98", dst="${broadcast}")/Raw(b"y" * 50)`])
    assert.deepEqual(
      (await capture.stop()).filter((frame) => destinationOf(frame) === broadcast && frame[20] === 0x79),
      [],
    )
  })
})
