/**
 * What a guest behind NAT learns when its packets do not arrive: ICMP errors from outside and from the router itself,
 * translated back; the path's MTU, and links of different MTU.
 *
 *   a ── tap ── lan (10.91.0.0/24, mode nat) ── router ── up0 ═ w0 [world] m0 ═ f0 [far]
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { tshark } from '../rig/capture.js'
import { needs, until } from '../rig/commands.js'
import type { Host, Wiring } from '../rig/hosts.js'
import { OutsideWorld, far, finish, judge, uplink6, world } from '../rig/outside-world.js'
import { Server, tcpError, udpAsk } from '../rig/talker.js'

const names = ['root', 'tun', 'weft', 'ip', 'tcpdump', 'tshark', 'ethtool', 'cc']

describe('NAT: errors on the way', needs(...names, 'traceroute'), () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  before(async () => {
    outside = await OutsideWorld.open()
    lan = await outside.network('lan', `--mode nat --subnet 10.91.0.0/24 --subnet fd91::/64 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.91.0.10', { ip6: 'fd91::10' })
    await a.reaches(far.ip)
  })
  after(() => outside?.close())

  /** The hops that traceroute shows. */
  async function hops(method: string[], to: string): Promise<string[]> {
    const args = ['-n', '-q', '2', '-w', '3', '-N', '1', '-m', '6', ...method, to]
    const text = await a.space.run('traceroute', args, { timeoutSeconds: 120 })
    return [...text.matchAll(/^\s*\d+\s+(?:\* )*([\da-f.:]+)/gm)].map(([, hop]) => hop)
  }

  for (const [name, method] of [
    ['UDP', []],
    ['ICMP', ['-I']],
    ['TCP', ['-T', '-p', '8090']],
  ] as const) {
    it(`traceroute by ${name} shows Weft's router first, then the world's, then the end`, async () => {
      const server = await Server.start(outside.far, 'tcp', 8090)
      assert.deepEqual(await hops([...method], far.ip), ['10.91.0.1', world.ip, far.ip])
      assert.deepEqual(await hops(['-6', ...method], far.ip6), ['fd91::1', world.ip6, far.ip6])
      await server.stop()
    })
  }

  it('port unreachable from outside reaches the socket that asked', async () => {
    assert.deepEqual(await udpAsk(a.space, world.ip, 9), { error: 'ECONNREFUSED' })
    assert.deepEqual(await udpAsk(a.space, far.ip, 9), { error: 'ECONNREFUSED' })
    assert.deepEqual(await udpAsk(a.space, world.ip6, 9), { error: 'ECONNREFUSED' })
  })

  /** Whoever is asked for an address in vain takes some seconds to say so. */
  const unreachable = (address: string): Promise<true> =>
    until(`${address} is unreachable`, async () => {
      const error = await tcpError(a.space, address, 9)
      if (error === 'EHOSTUNREACH') return true
      throw new Error(error)
    })

  it('host unreachable from a router outside ends the attempt to connect', async () => {
    await unreachable('203.0.113.77')
  })

  it('an address that nobody has on the uplink is unreachable, told by the router', async () => {
    await unreachable('198.51.100.99')
    await unreachable('2001:db8:100::99')
  })

  it('the errors that a guest gets have right checksums, outside and within', async () => {
    await finish(a.space, a.device, true) // a quote is as the guest sent it
    const capture = await a.space.capture(a.device, { only: 'in', filter: 'icmp or icmp6' })
    await udpAsk(a.space, far.ip, 9)
    await udpAsk(a.space, world.ip6, 9)
    await hops([], far.ip)
    await capture.stop()
    assert.ok((await judge(capture.path)) >= 4)
    const quoted = await tshark(capture.path, ['ip.src', 'ip.dst'], 'icmp.type==3 || icmp.type==11')
    for (const [sources, destinations] of quoted) {
      assert.equal(sources?.split(',')[1], a.ip, 'the quote begins with the guest')
      assert.equal(destinations?.split(',')[0], a.ip)
    }
  })

  it('path-MTU discovery works through a link outside that takes less', async () => {
    await outside.world.ip('link set m0 mtu 1300')
    await outside.far.ip('link set f0 mtu 1300')
    for (const to of [far.ip, far.ip6]) {
      const tell = await a.space.attempt('ping', ['-n', '-c', '2', '-W', '2', '-M', 'do', '-s', '1400', to])
      assert.match(tell.stdout + tell.stderr, /mtu ?= ?1300/)
      await outside.probe.stream(a.space, outside.far, to, 5)
    }
    assert.match(await a.space.ip(`route get ${far.ip}`), /mtu 1300/)
  })
})

describe('NAT: links of different MTU', needs(...names), () => {
  let outside: OutsideWorld
  let lan: Wiring
  let a: Host
  before(async () => {
    outside = await OutsideWorld.open()
    const subnets = '--subnet 10.91.0.0/24 --subnet fd91::/64'
    lan = await outside.network('lan', `--mode nat ${subnets} --mtu 9000 --uplink ${uplink6}`)
    a = await outside.guest(lan, 'a', '10.91.0.10', { ip6: 'fd91::10', mtu: 9000 })
    await a.reaches(world.ip)
  })
  after(() => outside?.close())

  it('the segment size that TCP ends promise is that of the smaller link', async () => {
    const [inside, wire] = [await a.space.capture(a.device), await outside.world.capture('w0')]
    await outside.world.ip('link set w0 mtu 9000') // the world believes in 9000
    await outside.probe.stream(a.space, outside.world, world.ip, 5)
    await outside.probe.stream(a.space, outside.world, world.ip6, 5)
    for (const each of [inside, wire]) await each.stop()
    const sizes = async (path: string, filter: string): Promise<string[]> => [
      ...new Set((await tshark(path, ['tcp.options.mss_val'], filter)).map(([size]) => size)),
    ]
    const [first, second] = ['tcp.flags.syn==1 && tcp.flags.ack==0', 'tcp.flags.syn==1 && tcp.flags.ack==1']
    assert.deepEqual(await sizes(wire.path, `ip && ${first}`), ['1460'])
    assert.deepEqual(await sizes(wire.path, `ipv6 && ${first}`), ['1440'])
    assert.deepEqual(await sizes(inside.path, `ip && ${second}`), ['1460'])
    assert.deepEqual(await sizes(inside.path, `ipv6 && ${second}`), ['1440'])
    await outside.world.ip('link set w0 mtu 1500')
  })

  it('what is too large for the uplink is cut, or refused with the size that fits', async () => {
    const cut = await a.space.run('ping', ['-n', '-c', '3', '-i', '0.2', '-M', 'dont', '-s', '8000', world.ip])
    assert.match(cut, /3 received/)
    const tell = await a.space.attempt('ping', ['-n', '-c', '2', '-W', '2', '-M', 'do', '-s', '4000', world.ip])
    assert.match(tell.stdout + tell.stderr, /mtu ?= ?1500/)
    const answers = await a.space.ping(world.ip6, { sizeBytes: 4000 })
    assert.ok(answers >= 2, `${answers} of 3: cut by the guest, once told the size`)
  })
})
