/**
 * NAT between guests and the outside: what passes, what is seen outside, what never comes in.
 *
 *   a, b ── tap ── lan (10.91.0.0/24, mode nat) ── router ── up0 ═ w0 [world] m0 ═ f0 [far]
 *
 * tshark judges every checksum on the outside wire. The rig's `outside-world.ts` has the addresses.
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { tshark } from '../rig/capture.js'
import { needs, pause, until } from '../rig/commands.js'
import { type Host, type Wiring, iperf } from '../rig/hosts.js'
import {
  type Connection,
  OutsideWorld,
  far,
  finish,
  judge,
  openPorts,
  router,
  scapy,
  uplink,
  uplink6,
  world,
} from '../rig/outside-world.js'
import { type Seen, Server, UdpSocket, tcpConnect, tcpSeen, udpAsk } from '../rig/talker.js'

const names = ['root', 'tun', 'weft', 'ip', 'iperf3', 'tcpdump', 'tshark', 'ethtool', 'cc', 'scapy', 'busybox']
const wants = needs(...names)

describe('NAT', wants, () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  let b: Host
  let free = 0
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', `--mode nat --subnet 10.91.0.0/24 --subnet fd91::/64 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.91.0.10', { ip6: 'fd91::10' })
    b = await outside.guest(lan, 'b', '10.91.0.11', { ip6: 'fd91::11' })
    await a.reaches(world.ip)
    await b.reaches(world.ip)
    free = await outside.weft.poolFree()
  })
  after(() => outside?.close())

  it('echo requests pass in all sizes, fragments too, and DF where it fits', async () => {
    for (const sizeBytes of [0, 1, 56, 1472])
      assert.equal(await a.space.ping(world.ip, { sizeBytes }), 3, `${sizeBytes}`)
    for (const sizeBytes of [1473, 3000, 8000, 20_000]) {
      assert.equal(await a.space.ping(world.ip, { sizeBytes, fragment: true }), 3, `${sizeBytes} in fragments`)
    }
    assert.equal(await a.space.ping(world.ip, { sizeBytes: 1472, fragment: false }), 3)
    assert.equal(await a.space.ping(far.ip, { sizeBytes: 8000 }), 3, 'through a second router')
    assert.equal(await a.space.ping(world.ip6, { sizeBytes: 4000 }), 3, 'IPv6')
  })

  it('two guests with the same identifier keep their own answers', async () => {
    const script = (ip: string): string =>
      `answers = [sr1(IP(dst="${world.ip}")/ICMP(id=77, seq=n)/b"${ip}", timeout=5) for n in range(5)]
print(sum(1 for one in answers if one is not None and one[ICMP].id == 77 and b"${ip}" in bytes(one)))`
    const counts = await Promise.all([a, b].map((host) => scapy(host.space, script(host.ip))))
    assert.deepEqual(
      counts.map((text) => text.trim()),
      ['5', '5'],
    )
  })

  for (const on of [true, false]) {
    it(`TCP and UDP pass both ways, every checksum outside right, offloads ${on ? 'on' : 'off'}`, async () => {
      await finish(a.space, a.device, !on)
      await finish(outside.space, 'up0', true)
      await finish(outside.world, 'w0', true)
      const capture = await outside.world.capture('w0', { only: 'in' })
      const inner = await a.space.capture(a.device, { only: 'in' })
      await outside.probe.stream(a.space, outside.world, world.ip, 5)
      await outside.probe.stream(a.space, outside.world, world.ip6, 2)
      await asWorld(a, { megabytes: 5 })
      await asWorld(a, { megabytes: 5, reverse: true })
      const datagrams = await asWorld(a, { megabytes: 2, udp: true })
      assert.ok(datagrams.receivedBytes > datagrams.sentBytes / 2, `${datagrams.receivedBytes} bytes arrived`)
      await a.space.ping(world.ip, { sizeBytes: 4000 })
      await capture.stop()
      await inner.stop()
      assert.ok((await judge(capture.path)) > 3000)
      assert.ok((await judge(inner.path)) > 1000)
      const sources = await tshark(capture.path, ['ip.src'], 'ip && !icmp.type==3')
      assert.deepEqual([...new Set(sources.map(([source]) => source))], [router.outside])
      const sources6 = await tshark(capture.path, ['ipv6.src'], 'tcp && ipv6')
      assert.deepEqual([...new Set(sources6.map(([source]) => source))], [router.outside6])
    })
  }

  it('TCP content is intact with all offloads on, unfinished frames on the outside wire', async () => {
    for (const [space, device] of [
      [a.space, a.device],
      [outside.space, 'up0'],
      [outside.world, 'w0'],
    ] as const) {
      await space.offload(device, { tx: true, tso: true, gso: true, gro: true })
    }
    await outside.probe.stream(a.space, outside.world, world.ip, 50)
    await outside.probe.stream(a.space, outside.far, far.ip, 20)
    await outside.probe.stream(a.space, outside.world, world.ip6, 20)
    await asWorld(a, { megabytes: 50, reverse: true })
    const sink = await outside.probe.sink(outside.world, 7000)
    for (let n = 0; n < 5; n++) await outside.probe.segments(a.space, world.ip, 7000, 1000, 40)
    await pause(500)
    const counts = await sink.counts()
    assert.deepEqual([...counts.keys()], [1000], 'large UDP sends arrive as the datagrams they stand for')
    assert.ok((counts.get(1000) as number) > 100, `${counts.get(1000)} of 200 datagrams`)
  })

  /** iperf3 from a guest to the world, whose address no Host has. */
  function asWorld(from: Host, options: { megabytes: number; udp?: boolean; reverse?: boolean }) {
    const to = { name: 'world', space: outside.world, ip: world.ip } as unknown as Host
    return iperf(from, to, options)
  }

  it('the server sees the router, and the guest the server', async () => {
    const server = await Server.start(outside.world, 'tcp', 8080)
    const seen = await tcpSeen(a.space, world.ip, 8080)
    assert.equal(seen.address, router.outside)
    const seen6 = await tcpSeen(a.space, world.ip6, 8080)
    assert.equal(seen6.address, router.outside6)
    await server.stop()
  })

  it('many connections at once, each with a port of its own outside', async () => {
    const server = await Server.start(outside.world, 'tcp', 8081)
    const outcomes = (
      await Promise.all([tcpConnect(a.space, world.ip, 8081, 700), tcpConnect(b.space, world.ip, 8081, 700)])
    ).flat()
    const seen = outcomes.filter((one): one is Seen => 'address' in one)
    assert.equal(seen.length, 1400, JSON.stringify(outcomes.filter((one) => 'error' in one).slice(0, 5)))
    assert.equal(new Set(seen.map(({ port }) => port)).size, 1400)
    await server.stop()
  })

  it('connections are listed word by word, and forgotten on flush', async () => {
    await outside.weft.do('connection flush lan')
    const server = await Server.start(outside.world, 'udp', 5353)
    const seen = (await udpAsk(a.space, world.ip, 5353)) as Seen
    assert.equal(seen.address, router.outside)
    await a.space.ping(world.ip, { count: 1 })
    const list = await outside.connections('lan')
    const udp = list.find((one) => one.protocol === 'udp' && one.original.destinationPort === 5353) as Connection
    assert.deepEqual(Object.keys(udp), [
      'protocol',
      'state',
      'original',
      'reply',
      'nat',
      'packets',
      'bytes',
      'timeoutSeconds',
    ])
    const { original, reply } = udp
    assert.deepEqual(
      { ...original, sourcePort: 0 },
      {
        source: a.ip,
        sourcePort: 0,
        destination: world.ip,
        destinationPort: 5353,
      },
    )
    assert.deepEqual(reply, {
      source: world.ip,
      sourcePort: 5353,
      destination: router.outside,
      destinationPort: seen.port,
    })
    assert.equal(udp.nat, 'snat')
    assert.ok(udp.packets >= 2 && udp.bytes >= 2 * 33 && udp.timeoutSeconds > 0, JSON.stringify(udp))
    const echo = list.find((one) => one.protocol === 'icmp') as Connection
    assert.deepEqual(
      [echo.original.source, echo.reply.destination, echo.nat, echo.packets],
      [a.ip, router.outside, 'snat', 2],
    )
    const { flushed } = await outside.weft.json<{ flushed: number }>('connection flush lan')
    assert.ok(flushed >= 2)
    assert.deepEqual(await outside.connections('lan'), [])
    await server.stop()
  })

  it('a TCP connection is listed by the states it goes through', async () => {
    const server = await Server.start(outside.world, 'tcp', 8082)
    const states = async (): Promise<string[]> =>
      (await outside.connections('lan'))
        .filter((one) => one.original.destinationPort === 8082)
        .map(({ state }) => state)
    const client = a.space.spawn('busybox', ['nc', world.ip, '8082'])
    await until('established', async () => (await states())[0] === 'established' || (await states()).join())
    await client.stop('SIGKILL')
    await until('no longer established', async () => (await states())[0] !== 'established')
    await server.stop()
  })

  it('a flushed TCP connection is gone; the guest begins another', async () => {
    const server = await Server.start(outside.world, 'tcp', 8083)
    await tcpSeen(a.space, world.ip, 8083)
    await outside.weft.do('connection flush lan')
    await tcpSeen(a.space, world.ip, 8083)
    await server.stop()
  })

  it('no slot of the pool is lost by all this', async () => {
    await until('all slots are free again', async () => (await outside.weft.poolFree()) >= free, 60)
  })
})

describe('NAT: mapping and filtering (RFC 4787)', wants, () => {
  let outside: OutsideWorld
  before(async () => {
    outside = await OutsideWorld.open()
  })
  after(() => outside?.close())
  afterEach(() => outside.remove('lan'))

  const start = async (filtering: string): Promise<{ lan: Wiring; a: Host }> => {
    const lan = await outside.define({
      name: 'lan',
      mode: 'nat',
      subnets: ['10.91.0.0/24'],
      uplink,
      nat: { filtering },
    })
    const a = await outside.guest(lan, `a-${filtering}`, '10.91.0.10')
    await a.reaches(world.ip)
    return { lan, a }
  }

  /** Which of three answers comes: from the same end, another port of it, another address. */
  async function answers(filtering: string): Promise<string[]> {
    const { a } = await start(filtering)
    const server = await Server.start(outside.world, 'udp', 3478)
    const socket = await UdpSocket.open(a.space, 40_000)
    await socket.ask(world.ip, 3478, 'plain')
    socket.send(world.ip, 3478, `from ${world.ip} 3999 other-port`)
    socket.send(world.ip, 3478, `from ${world.second} 3998 other-address`)
    await until('the server was asked', () => server.received().length >= 3)
    await pause(1000)
    await socket.ask(world.ip, 3478, 'last')
    const heard = socket.received().map(({ text }) => text)
    await socket.stop()
    await server.stop()
    return ['plain', 'other-port', 'other-address'].filter((word) => heard.some((text) => text.includes(word)))
  }

  it('address-and-port lets in the very end that was spoken to', async () => {
    assert.deepEqual(await answers('address-and-port'), ['plain'])
  })

  it('address lets in other ports of the address', async () => {
    assert.deepEqual(await answers('address'), ['plain', 'other-port'])
  })

  it('none lets in whoever knows the outside port', async () => {
    assert.deepEqual(await answers('none'), ['plain', 'other-port', 'other-address'])
  })

  it('one inside port has one outside port, whoever is spoken to', async () => {
    const { a } = await start('address-and-port')
    const servers = [
      await Server.start(outside.world, 'udp', '3478-3479'),
      await Server.start(outside.far, 'udp', 3478),
    ]
    const socket = await UdpSocket.open(a.space, 40_002)
    const seen = [
      await socket.ask(world.ip, 3478, 'one'),
      await socket.ask(world.ip, 3479, 'two'),
      await socket.ask(world.second, 3478, 'three'),
      await socket.ask(far.ip, 3478, 'four'),
    ]
    assert.deepEqual([...new Set(seen.map(({ address, port }) => `${address} ${port % 2}`))], [`${router.outside} 0`])
    assert.equal(new Set(seen.map(({ port }) => port)).size, 1, JSON.stringify(seen))
    await socket.stop()
    for (const server of servers) await server.stop()
  })

  it('two guests meet at their outside addresses (hairpin), seen as the outside', async () => {
    const { lan, a } = await start('address-and-port')
    const b = await outside.guest(lan, 'b', '10.91.0.11')
    await b.reaches(world.ip)
    const server = await Server.start(outside.world, 'udp', 3478)
    const [one, two] = [await UdpSocket.open(a.space, 40_004), await UdpSocket.open(b.space, 40_006)]
    const [ofOne, ofTwo] = [await one.ask(world.ip, 3478, 'who'), await two.ask(world.ip, 3478, 'who')]
    await until('b hears a', () => {
      one.send(router.outside, ofTwo.port, 'from a')
      return two.received().find(({ text }) => text === 'from a')
    })
    const heard = two.received().find(({ text }) => text === 'from a')
    assert.deepEqual([heard?.address, heard?.port], [router.outside, ofOne.port])
    await until('a hears the answer', () => {
      two.send(router.outside, ofOne.port, 'from b')
      return one.received().find(({ text, address, port }) => {
        return text === 'from b' && address === router.outside && port === ofTwo.port
      })
    })
    for (const each of [one, two, server]) await each.stop()
  })
})

describe('NAT: what comes from outside', needs(...names, 'nmap'), () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', `--mode nat --subnet 10.91.0.0/24 --subnet fd91::/64 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.91.0.10', { ip6: 'fd91::10' })
    await a.reaches(world.ip)
    // a knows no better than the router: what comes in would be answered
    await outside.world.ip(`route add 10.91.0.0/24 via ${router.outside}`)
    await outside.world.ip(`route add fd91::/64 via ${router.outside6}`)
  })
  after(() => outside?.close())

  it('nmap finds no open port at the router, and nothing answers', async () => {
    const server = await Server.start(a.space, 'tcp', '80-90')
    assert.deepEqual(await openPorts(outside.world, '-sS', '1-2000', router.outside), [])
    assert.deepEqual(await openPorts(outside.world, '-sU', '53,67,68,69,123,161,500,546,547,5353', router.outside), [])
    assert.deepEqual(await openPorts(outside.world, '-sS', '1-200', router.outside6), [])
    assert.equal(await outside.world.ping(router.outside, { count: 2, waitSeconds: 1 }), 0)
    await server.stop()
  })

  it('a guest cannot be reached at its own address', async () => {
    const server = await Server.start(a.space, 'tcp', '80-90')
    const capture = await a.space.capture(a.device, { only: 'in', filter: 'tcp or udp or icmp or icmp6' })
    assert.deepEqual(await openPorts(outside.world, '-sS', '80-90', a.ip), [])
    assert.deepEqual(await openPorts(outside.world, '-sS', '80-90', 'fd91::10'), [])
    assert.equal(await outside.world.ping(a.ip, { count: 2, waitSeconds: 1 }), 0)
    assert.equal(await outside.world.ping('fd91::10', { count: 2, waitSeconds: 1 }), 0)
    await a.space.ping(world.ip, { count: 1 })
    await capture.stop()
    const rows = await tshark(capture.path, ['ip.src', 'tcp.dstport'], `ip.src==${world.ip} && !icmp.type==0 || tcp`)
    assert.deepEqual(rows, [])
    await server.stop()
  })

  it('unsolicited packets are dropped with a named reason', async () => {
    const { drops: earlier = {} } = await outside.uplink('lan')
    await tcpConnect(outside.world, router.outside, 81)
    await outside.uplinkDrops('lan', 'policy', earlier)
    const ack = `send(IP(dst="${router.outside}")/TCP(sport=5000, dport=40000, flags="A", seq=1, ack=1))`
    const forged = `send(IP(dst="${a.ip}")/TCP(sport=5000, dport=80, flags="A", seq=1, ack=1))`
    const quote = `IP(src="${router.outside}", dst="${world.ip}")/UDP()`
    const error = `send(IP(dst="${router.outside}")/ICMP(type=3, code=3)/${quote})`
    const inside = `send(IP(src="10.91.0.99", dst="${a.ip}")/UDP())`
    await scapy(outside.world, [ack, forged, error, inside].join('\n'))
    await outside.uplinkDrops('lan', 'invalid', earlier)
    await outside.uplinkDrops('lan', 'martian', earlier)
  })

  it('errors about nothing known, or with a forged quote, reach no guest', async () => {
    const server = await Server.start(outside.world, 'udp', 3478)
    const socket = await UdpSocket.open(a.space, 40_010)
    const seen = await socket.ask(world.ip, 3478, 'who')
    const capture = await a.space.capture(a.device, { only: 'in', filter: 'icmp' })
    const quotes = [
      `IP(src="${router.outside}", dst="${world.ip}")/UDP(sport=${seen.port + 1}, dport=3478)`,
      `IP(src="${router.outside}", dst="${world.second}")/UDP(sport=${seen.port}, dport=3478)`,
      `IP(src="${a.ip}", dst="${world.ip}")/UDP(sport=40010, dport=3478)`,
      `IP(src="${router.outside}", dst="${world.ip}")/TCP(sport=${seen.port}, dport=3478)`,
    ]
    const sends = quotes.map((quote) => `send(IP(dst="${router.outside}")/ICMP(type=3, code=1)/${quote})`)
    const right = `IP(src="${router.outside}", dst="${world.ip}")/UDP(sport=${seen.port}, dport=3478)`
    sends.push(`send(IP(dst="${router.outside}")/ICMP(type=3, code=2)/${right})`)
    await scapy(outside.world, sends.join('\n'))
    await capture.see('the error with the right quote', (frame) => frame[34] === 3 && frame[35] === 2)
    const codes = (await capture.stop()).map((frame) => frame[35])
    assert.deepEqual(codes, [2])
    // an error never ends a mapping (RFC 5508 REQ-10)
    assert.equal((await socket.ask(world.ip, 3478, 'again')).port, seen.port)
    await socket.stop()
    await server.stop()
  })
})
