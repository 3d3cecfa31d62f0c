/**
 * IPv6 for guests: addresses of their own by router advertisements, leases by DHCPv6, neighbor discovery, the guard
 * against other routers, and the way out, translated or not. The kernel, rdisc6, ndisc6, dhclient and dhcpcd ask.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, until } from '../rig/commands.js'
import { type Session, dhclient, dhcpcd } from '../rig/dhcp-clients.js'
import { carries } from '../rig/frames.js'
import type { Host } from '../rig/hosts.js'
import type { Namespace } from '../rig/namespaces.js'
import { Routed, routerNeeds, scapy, serveHttp } from '../rig/router.js'

interface Address {
  local: string
  prefixlen: number
  scope: string
  tentative?: boolean
  dynamic?: boolean
}

async function addresses(space: Namespace, device: string, scope = 'global'): Promise<Address[]> {
  const [link] = JSON.parse(await space.run('ip', ['-json', '-6', 'addr', 'show', 'dev', device])) as {
    addr_info: Address[]
  }[]
  return (link?.addr_info ?? []).filter((one) => one.scope === scope && one.tentative !== true)
}

/** The address that a host has made itself within a prefix. */
const made = (host: Host, prefix: string): Promise<string> =>
  until(`${host.name} has an address in ${prefix}`, async () =>
    (await addresses(host.space, host.device)).map(({ local }) => local).find((one) => one.startsWith(prefix)),
  )

/** Who a server by `serveHttp` has served: the addresses in its log. */
const served = (log: string): string[] => [...log.matchAll(/^(\S+) - - \[/gm)].map(([, address]) => address)

const fetch = (space: Namespace, url: string): Promise<string> =>
  space.run('curl', ['-sS', '-g', '--max-time', '30', url], { timeoutSeconds: 60 })

const wants = needs(...routerNeeds, 'rdisc6', 'ndisc6', 'curl', 'dig', 'tcpdump', 'scapy', 'python3')

describe('addresses by router advertisements', wants, () => {
  let routed: Routed
  let a: Host
  let b: Host
  const own: Record<string, string> = {}
  let gatewayMac = ''

  before(async () => {
    routed = await Routed.route({
      subnets: ['10.65.0.0/24', 'fd65:1:2:1::/64'],
      uplink: 'host',
      domain: 'six.internal',
      mtu: 1480,
    })
    a = await routed.guest('a', { ipv6: true })
    b = await routed.guest('b', { ipv6: true })
  })
  after(() => routed?.close())

  it('hosts make themselves an address and find the way out', async () => {
    for (const host of [a, b]) {
      own[host.name] = await made(host, 'fd65:1:2:1:')
      const routes = await host.space.ip('-6 route show default')
      assert.match(routes, /default via fe80::\S+ dev \S+ proto ra/)
    }
    assert.notEqual(own.a, own.b)
    assert.equal((await a.space.run('sysctl', ['-n', `net.ipv6.conf.${a.device}.mtu`])).trim(), '1480')
  })

  it('rdisc6 sees prefix, MTU, resolver and domain', async () => {
    const text = await a.space.run('rdisc6', ['-1', a.device])
    assert.match(text, /Stateful address conf\. *: +No/)
    assert.match(text, /Stateful other conf\. *: +Yes/)
    assert.match(text, /Prefix +: fd65:1:2:1::\/64/)
    assert.match(text, /Recursive DNS server +: fd65:1:2:1::1/)
    assert.match(text, /DNS search list +: six\.internal/)
    assert.match(text, /MTU +: +1480 bytes/)
    assert.match(text, /Hop limit +: +64/)
    gatewayMac = /Source link-layer address: ([\dA-F:]{17})/i.exec(text)?.[1].toLowerCase() ?? ''
    assert.match(text, /from fe80::/)
  })

  it('the gateway answers neighbor solicitations, by its addresses alone', async () => {
    const text = await a.space.run('ndisc6', ['-1', 'fd65:1:2:1::1', a.device])
    assert.match(text.toLowerCase(), new RegExp(gatewayMac))
    const other = await a.space.attempt('ndisc6', ['-1', '-r', '2', 'fd65:1:2:1::99', a.device])
    assert.notEqual(other.status, 0)
  })

  it('gateway and neighbor answer ping, also by link-local address', async () => {
    const [route] = (await a.space.ip('-6 route show default')).match(/fe80::\S+/) ?? []
    assert.ok((await a.space.ping('fd65:1:2:1::1', { count: 3 })) >= 2)
    assert.equal(await a.space.ping(`${route}%${a.device}`), 3)
    assert.ok((await a.space.ping(own.b, { count: 3 })) >= 2)
    assert.equal(await a.space.ping(own.b, { sizeBytes: 1432, fragment: false }), 3)
  })

  it('DNS answers over IPv6', async () => {
    const text = await a.space.run('dig', ['@fd65:1:2:1::1', '+short', '+tries=1', '+time=15', 'gateway', 'AAAA'])
    assert.equal(text.trim(), 'fd65:1:2:1::1')
    const tcp = await a.space.run('dig', ['@fd65:1:2:1::1', '+short', '+tcp', '+tries=1', '+time=15', 'gateway', 'A'])
    assert.equal(tcp.trim(), '10.65.0.1')
  })

  it('advertisements and redirects of a guest reach nobody', async () => {
    const capture = await a.space.capture(a.device, { only: 'in' })
    const former = await a.space.ip('-6 route show')
    await scapy(
      b.space,
      `
device, mac = "${b.device}", "${b.mac}"
source = [x[0] for x in in6_getifaddr() if x[2] == device and x[0].startswith("fe80")][0]
rogue = (ICMPv6ND_RA(routerlifetime=9000) / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
    / ICMPv6NDOptSrcLLAddr(lladdr=mac))
head = Ether(src=mac, dst="33:33:00:00:00:01") / IPv6(src=source, dst="ff02::1", hlim=255)
packets = [head / rogue,
    head / IPv6ExtHdrHopByHop() / rogue,
    head / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / rogue,
    Ether(src=mac, dst="${a.mac}") / IPv6(src=source, dst="${own.a}", hlim=255) / rogue,
    Ether(src=mac, dst="${a.mac}") / IPv6(src=source, dst="${own.a}", hlim=255)
        / ICMPv6ND_Redirect(tgt=source, dst="2001:db8::1")]
packets += fragment6(head / IPv6ExtHdrFragment(id=7) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"x" * 200)] * 8)
    / rogue, 600)
packets.append(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff", type=0x88b5) / Raw(b"the end"))
sendp(packets, iface=device)`,
    )
    await capture.see('the closing broadcast', (frame) => carries(frame, 'the end'))
    const bad = Buffer.from('20010db80bad', 'hex')
    // later fragments may come: without the first one nobody can make anything of them
    const isLater = (frame: Uint8Array): boolean => frame[20] === 44 && ((frame[56] << 8) | (frame[57] & 0xf8)) !== 0
    const isRedirect = (frame: Uint8Array): boolean => frame[12] === 0x86 && frame[20] === 58 && frame[54] === 137
    const frames = (await capture.stop()).filter(
      (frame) => (Buffer.from(frame).includes(bad) && !isLater(frame)) || isRedirect(frame),
    )
    assert.equal(frames.length, 0)
    assert.equal((await addresses(a.space, a.device)).filter(({ local }) => local.startsWith('2001:')).length, 0)
    const routes = (text: string): string[] => text.match(/^\S+( via \S+)?/gm) ?? []
    assert.deepEqual(routes(await a.space.ip('-6 route show')), routes(former))
    await routed.drops('b', 'router-advertisement', 4)
  })

  it('a port that may be a router is one', async () => {
    await routed.weft.do('port set lan b --allow router')
    await scapy(
      b.space,
      `
source = [x[0] for x in in6_getifaddr() if x[2] == "${b.device}" and x[0].startswith("fe80")][0]
sendp(Ether(src="${b.mac}", dst="33:33:00:00:00:01") / IPv6(src=source, dst="ff02::1", hlim=255)
    / ICMPv6ND_RA(routerlifetime=0) / ICMPv6NDOptPrefixInfo(prefix="2001:db8:7:2::", prefixlen=64,
    validlifetime=600, preferredlifetime=600), iface="${b.device}")`,
    )
    await made(a, '2001:db8:7:2:')
    await routed.weft.do('port set lan b --allow none')
  })

  it('nobody takes the address of another, or the gateway’s', async () => {
    await a.space.ping(own.b, { count: 1 })
    const capture = await a.space.capture(a.device, { only: 'in' })
    const thief = await routed.guest('thief', { ipv6: true })
    await made(thief, 'fd65:1:2:1:')
    await scapy(
      thief.space,
      `
for stolen in ["${own.b}", "fd65:1:2:1::1"]:
    sendp(Ether(src="${thief.mac}", dst="33:33:00:00:00:01") / IPv6(src=stolen, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(R=0, S=0, O=1, tgt=stolen) / ICMPv6NDOptDstLLAddr(lladdr="${thief.mac}"), iface="${thief.device}")
sendp(Ether(src="${thief.mac}", dst="ff:ff:ff:ff:ff:ff", type=0x88b5) / Raw(b"the end"), iface="${thief.device}")`,
    )
    await capture.see('the closing broadcast', (frame) => carries(frame, 'the end'))
    const claims = (await capture.stop()).filter(
      (frame) => frame[12] === 0x86 && frame[20] === 58 && frame[54] === 136 && (frame[58] & 0x20) !== 0,
    )
    const thieves = claims.filter((frame) => Buffer.from(frame.subarray(6, 12)).toString('hex') === hex(thief.mac))
    const stolen = thieves.filter((frame) => carriesAddress(frame.subarray(62, 78), [own.b, 'fd65:1:2:1::1']))
    assert.equal(stolen.length, 0)
    await routed.drops('thief', 'spoofed-address', 2)
    assert.ok((await a.space.ping(own.b, { count: 3 })) >= 2)
  })

  it('with NAT66 the host sees the router, without it the guest', async () => {
    const sw = routed.switchSpace()
    const { uplinkStatus } = await routed.show()
    const [router] = uplinkStatus?.addresses.filter((one) => one.includes(':')) ?? []
    const [gateway] = uplinkStatus?.gateways.filter((one) => one.includes(':')) ?? []
    assert.ok(router !== undefined && gateway !== undefined)
    const server = await serveHttp(routed.lab, sw, 8080, { page: 'hello from the host' })
    try {
      assert.ok((await a.space.ping(gateway, { count: 3 })) >= 2)
      assert.equal(await fetch(a.space, `http://[${gateway}]:8080/page`), 'hello from the host')
      assert.deepEqual(served(server.stderr), [router.split('/')[0]])
      await routed.change({ nat: { ipv6: false } })
      assert.equal(await fetch(a.space, `http://[${gateway}]:8080/page`), 'hello from the host')
      const guests = (await addresses(a.space, a.device)).map(({ local }) => local)
      const last = served(server.stderr).at(-1) ?? ''
      assert.ok(guests.includes(last), last)
      await routed.change({ nat: { ipv6: true } })
      assert.equal(await fetch(a.space, `http://[${gateway}]:8080/page`), 'hello from the host')
      assert.equal(served(server.stderr).at(-1), router.split('/')[0])
    } finally {
      await server.stop('SIGKILL')
    }
  })

  it('a flood of solicitations and advertisements harms nobody', async () => {
    await scapy(
      b.space,
      `
import random
random.seed(3)
packets = []
for n in range(1500):
    source = "fd65:1:2:1::%x:%x" % (random.getrandbits(16), n + 1)
    target = "fd65:1:2:1:%x::%x" % (random.getrandbits(16), n + 1)
    kind = random.choice([ICMPv6ND_NS(tgt=target), ICMPv6ND_NA(tgt=source), ICMPv6ND_RS(), ICMPv6EchoRequest()])
    data = bytearray(bytes(Ether(src="${b.mac}", dst="33:33:ff:00:00:01")
        / IPv6(src=source, dst="ff02::1:ff00:1", hlim=255) / kind))
    for i in range(random.randrange(4)):
        data[random.randrange(14, len(data))] = random.getrandbits(8)
    packets.append(Raw(bytes(data[:random.randrange(14, len(data) + 1)] if n % 3 == 0 else data)))
sendp(packets, iface="${b.device}")`,
      120,
    )
    assert.ok((await a.space.ping('fd65:1:2:1::1', { count: 4 })) >= 3)
    assert.match(await a.space.run('rdisc6', ['-1', '-w', '5000', a.device]), /fd65:1:2:1::\/64/)
    assert.ok(routed.weft.running)
  })

  it('a prefix that is taken away is advertised no longer as preferred', async () => {
    await routed.weft.do('network set lan --add-subnet fd65:1:2:9::/64')
    await made(a, 'fd65:1:2:9:')
    await routed.weft.do('network set lan --remove-subnet fd65:1:2:9::/64')
    await until(
      'it is deprecated',
      async () => /fd65:1:2:9:\S+ .*deprecated/.test(await a.space.ip('-6 addr show')),
      30,
    )
  })
})

describe('leases by DHCPv6', needs(...routerNeeds, 'dhclient', 'dhcpcd', 'rdisc6'), () => {
  let routed: Routed
  const sessions: Session[] = []
  const leased: Record<string, string> = {}

  before(async () => {
    routed = await Routed.route({
      subnets: ['10.67.0.0/24', { cidr: 'fd67::/64', dhcp: 'fd67::1000-fd67::1fff' }],
      uplink: 'none',
      domain: 'six.internal',
      dhcp: { leaseSeconds: 1200 },
    })
  })
  after(async () => {
    for (const session of sessions) await session.kill()
    await routed?.close()
  })

  for (const client of [dhclient, dhcpcd]) {
    it(`${client.name} gets an address of the range and the resolver`, async () => {
      const host = await routed.guest(client.name, { ipv6: true })
      await until(
        'it has a link-local address',
        async () => (await addresses(host.space, host.device, 'link')).length > 0,
      )
      assert.match(await host.space.run('rdisc6', ['-1', host.device]), /Stateful address conf\. *: +Yes/)
      const session = await client.start(routed.lab, host, { family: 6, hostname: `v6-${client.name}` })
      sessions.push(session)
      const { all } = await session.acquired()
      const address = all.new_ip6_address ?? all.new_dhcp6_ia_na1_ia_addr1 ?? ''
      assert.match(address, /^fd67::1[\da-f]{3}$/)
      leased[client.name] = address
      assert.equal(all.new_dhcp6_name_servers, 'fd67::1')
      assert.match(all.new_dhcp6_domain_search, /^six\.internal\.?$/)
      const lease = await routed.lease(address)
      assert.deepEqual([lease?.mac, lease?.port, lease?.reserved], [host.mac, client.name, false])
      await until('the lease is on the interface', async () =>
        (await addresses(host.space, host.device)).some(({ local }) => local === address),
      )
      assert.ok((await host.space.ping('fd67::1', { count: 3 })) >= 2)
    })
  }

  it('leases outlive kill -9, and who asks again gets the same', async () => {
    assert.notEqual(leased.dhclient, leased.dhcpcd)
    await sessions[0].kill()
    await routed.weft.kill()
    await routed.weft.start()
    assert.equal((await routed.lease(leased.dhclient))?.port, 'dhclient')
    const host = routed.hosts.find(({ name }) => name === 'dhclient')!
    await routed.weft.waitPort('lan', 'dhclient', 'up')
    await host.configure()
    await until(
      'it has a link-local address',
      async () => (await addresses(host.space, host.device, 'link')).length > 0,
    )
    const session = await dhclient.start(routed.lab, host, { family: 6 })
    sessions.push(session)
    assert.equal((await session.acquired()).all.new_ip6_address, leased.dhclient)
    await session.release()
    await until('it is free', async () => (await routed.lease(leased.dhclient)) === undefined)
  })

  it('a reservation is honoured', async () => {
    const host = await routed.guest('kept', { ipv6: true })
    await routed.weft.do(['lease', 'reserve', 'lan', host.mac, 'fd67::77', '--name', 'kept'])
    await until(
      'it has a link-local address',
      async () => (await addresses(host.space, host.device, 'link')).length > 0,
    )
    const session = await dhclient.start(routed.lab, host, { family: 6 })
    sessions.push(session)
    assert.equal((await session.acquired()).all.new_ip6_address, 'fd67::77')
    assert.equal((await routed.lease('fd67::77'))?.hostname, 'kept')
  })
})

describe('routed IPv6', needs(...routerNeeds, 'curl', 'python3'), () => {
  let routed: Routed
  let outside: Namespace
  let guest: Host
  let own = ''

  before(async () => {
    const { routed: made6, outside: space } = await Routed.behind(
      {
        mode: 'route',
        subnets: ['10.66.0.0/24', 'fd66:1:2:1::/64'],
        uplink: 'netdev:up0,address=2001:db8:100::2/64,gateway=2001:db8:100::1,address=198.51.100.2/24',
      },
      ['2001:db8:100::1/64', '198.51.100.1/24'],
    )
    routed = made6
    outside = space
    await outside.ip('-6 route add fd66:1:2:1::/64 via 2001:db8:100::2')
    guest = await routed.guest('guest', { ipv6: true })
    own = await made(guest, 'fd66:1:2:1:')
  })
  after(() => routed?.close())

  it('ping and TCP go out with the guest’s own address', async () => {
    const server = await serveHttp(routed.lab, outside, 8080, { page: 'x'.repeat(500_000) })
    try {
      await until('the outside answers', async () => (await guest.space.ping('2001:db8:100::1', { count: 1 })) > 0)
      assert.equal((await fetch(guest.space, 'http://[2001:db8:100::1]:8080/page')).length, 500_000)
      assert.deepEqual(served(server.stderr), [own])
    } finally {
      await server.stop('SIGKILL')
    }
  })

  it('with mode open the outside reaches the guest, too', async () => {
    const server = await serveHttp(routed.lab, guest.space, 8080, { page: 'from the guest' })
    try {
      await routed.weft.do('network set lan --mode open')
      await until('the guest answers', async () => (await outside.ping(own, { count: 1 })) > 0)
      assert.equal(await fetch(outside, `http://[${own}]:8080/page`), 'from the guest')
      assert.match(served(server.stderr)[0], /^2001:db8:100::1$/)
      await routed.weft.do('network set lan --mode nat')
      assert.equal(await outside.ping(own, { count: 2, waitSeconds: 1 }), 0)
    } finally {
      await server.stop('SIGKILL')
    }
  })
})

const hex = (mac: string): string => mac.replaceAll(':', '')

/** Whether 16 bytes are one of these addresses, each of the form `fd65:1:2:1:…`. */
function carriesAddress(bytes: Uint8Array, list: readonly string[]): boolean {
  const text = Buffer.from(bytes).toString('hex')
  return list.some((address) => {
    const [head, tail = ''] = address.split('::')
    const front = head.split(':').filter(Boolean)
    const behind = tail.split(':').filter(Boolean)
    const gap = new Array<string>(8 - front.length - behind.length).fill('0')
    return [...front, ...gap, ...behind].map((word) => word.padStart(4, '0')).join('') === text
  })
}
