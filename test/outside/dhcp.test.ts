/**
 * Leases for clients that nobody here wrote: dhclient, udhcpc, dhcpcd, systemd-networkd; and messages made by scapy
 * for what no decent client sends.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, run, until } from '../rig/commands.js'
import { type Client, Networkd, type Session, dhclient, dhcpcd, udhcpc } from '../rig/dhcp-clients.js'
import { carries } from '../rig/frames.js'
import type { Host } from '../rig/hosts.js'
import { type LeaseEntry, Routed, routerNeeds, scapy } from '../rig/router.js'

/** In a script for scapy: `say` sends a DHCP message and returns the answers within two seconds. */
const speaker = (host: Host): string => `
import json, os, random
device = ${JSON.stringify(host.device)}
own = ${JSON.stringify(host.mac)}
def say(options, mac=own, wait=True, **fields):
    xid = random.getrandbits(32)
    packet = (Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67) / BOOTP(chaddr=mac2str(mac), xid=xid, flags=0x8000, **fields)
        / DHCP(options=options + ["end"]))
    if not wait:
        sendp(packet, iface=device)
        return []
    sniffer = AsyncSniffer(iface=device, filter="udp dst port 68", timeout=2,
        stop_filter=lambda p: BOOTP in p and p[BOOTP].xid == xid, started_callback=lambda: sendp(packet, iface=device))
    sniffer.start()
    sniffer.join()
    return [p for p in sniffer.results if BOOTP in p and p[BOOTP].xid == xid]
def kinds(answers):
    return [dict(o for o in p[DHCP].options if isinstance(o, tuple) and len(o) == 2) for p in answers]
def lease(mac=own, **fields):
    offers = say([("message-type", "discover")], mac, **fields)
    if not offers:
        return None
    said = kinds(offers)[0]
    answers = say([("message-type", "request"), ("server_id", said["server_id"]),
        ("requested_addr", offers[0][BOOTP].yiaddr)], mac)
    return offers[0][BOOTP].yiaddr if answers and kinds(answers)[0]["message-type"] == 5 else None
def tell(value):
    print(json.dumps(value, default=lambda v: v.decode("latin1") if isinstance(v, bytes) else str(v)))
`
const speak = async <T>(host: Host, script: string): Promise<T> =>
  JSON.parse(await scapy(host.space, speaker(host) + script, 120)) as T

const isWhole = (lease: LeaseEntry): void => {
  assert.deepEqual(Object.keys(lease).sort(), ['address', 'expiresAt', 'hostname', 'mac', 'port', 'reserved'])
  const end = Date.parse(lease.expiresAt ?? '')
  assert.ok(end > Date.now() && end <= Date.now() + 905_000, `${lease.expiresAt}`)
}

const wants = needs(...routerNeeds, ...dhclient.needs, ...udhcpc.needs, ...dhcpcd.needs, 'scapy')

describe('leases for real clients', wants, () => {
  let routed: Routed
  const hosts = new Map<string, Host>()
  const sessions = new Map<string, Session>()
  const addresses = new Map<string, string>()

  const begin = async (client: Client, host: Host, hostname = host.name): Promise<string> => {
    await sessions.get(host.name)?.kill()
    const session = await client.start(routed.lab, host, { hostname })
    sessions.set(host.name, session)
    return (await session.acquired()).address
  }
  const hostOf = (name: string): Host => hosts.get(name)!

  before(async () => {
    routed = await Routed.route({
      subnets: [{ cidr: '10.61.0.0/24', dhcp: '10.61.0.100-10.61.0.150' }],
      uplink: 'none',
      domain: 'lab.example',
      mtu: 1400,
      dhcp: {
        leaseSeconds: 900,
        options: { 42: '10.61.0.9' },
        bootServer: '10.61.0.5',
        bootFiles: { default: 'pxelinux.0', 7: 'grubx64.efi' },
      },
    })
  })
  after(async () => {
    for (const session of sessions.values()) await session.kill()
    await routed?.close()
  })

  for (const client of [dhclient, udhcpc, dhcpcd]) {
    it(`${client.name} gets a lease with all options`, async () => {
      const host = await routed.guest(client.name)
      hosts.set(client.name, host)
      const session = await client.start(routed.lab, host, { hostname: `my-${client.name}` })
      sessions.set(client.name, session)
      const { address, prefix, router, dns, domain, mtu, leaseSeconds, server } = await session.acquired()
      addresses.set(client.name, address)
      const place = Number(address.split('.')[3])
      assert.ok(address.startsWith('10.61.0.') && place >= 100 && place <= 150, address)
      assert.deepEqual(
        { prefix, router, dns, domain, mtu, leaseSeconds, server },
        {
          prefix: 24,
          router: '10.61.0.1',
          dns: '10.61.0.1',
          domain: 'lab.example',
          mtu: 1400,
          leaseSeconds: 900,
          server: '10.61.0.1',
        },
      )
      await host.reaches('10.61.0.1')
    })

    it(`the lease of ${client.name} is listed in the words of the interface`, async () => {
      const lease = await routed.lease(addresses.get(client.name)!)
      assert.ok(lease !== undefined)
      isWhole(lease)
      const { address, mac, hostname, port, reserved } = lease
      assert.deepEqual(
        { address, mac, hostname, port, reserved },
        {
          address: addresses.get(client.name),
          mac: hostOf(client.name).mac,
          hostname: `my-${client.name}`,
          port: client.name,
          reserved: false,
        },
      )
    })
  }

  it('systemd-networkd gets a lease with all options', needs(...Networkd.needs), async () => {
    const host = await routed.guest('networkd')
    const networkd = Networkd.start(routed.lab, host)
    const said = await networkd.acquired()
    addresses.set('networkd', said.ADDRESS)
    const wanted = {
      NETMASK: '255.255.255.0',
      ROUTER: '10.61.0.1',
      SERVER_ADDRESS: '10.61.0.1',
      MTU: '1400',
      LIFETIME: '900',
      DNS: '10.61.0.1',
      NTP: '10.61.0.9',
      DOMAINNAME: 'lab.example',
    }
    assert.deepEqual(Object.fromEntries(Object.keys(wanted).map((key) => [key, said[key]])), wanted)
    await host.reaches('10.61.0.1')
    await networkd.kill()
  })

  it('all have addresses of their own and reach each other', async () => {
    assert.equal(new Set(addresses.values()).size, addresses.size)
    await hostOf('dhclient').reaches(addresses.get('udhcpc')!)
    await hostOf('udhcpc').reaches(addresses.get('dhcpcd')!)
  })

  it('an option that the definition adds arrives', () => {
    const { all } = sessions.get('dhclient')!.events().at(-1)!
    assert.equal(all.new_ntp_servers, '10.61.0.9')
  })

  it('every answer has a right UDP checksum, says tshark', needs('tcpdump', 'tshark'), async () => {
    const host = hostOf('dhclient')
    const capture = await host.space.capture(host.device, { only: 'in', filter: 'udp port 68' })
    await begin(dhclient, host)
    await until('answers are captured', () => capture.frames().length > 0)
    await capture.stop()
    const checks = ['udp.check_checksum:TRUE', 'ip.check_checksum:TRUE'].flatMap((one) => ['-o', one])
    const fields = ['udp.checksum.status', 'ip.checksum.status', 'udp.checksum'].flatMap((one) => ['-e', one])
    const text = await run('tshark', ['-n', '-r', capture.path, ...checks, '-T', 'fields', ...fields])
    for (const line of text.trim().split('\n')) assert.match(line, /^(1|Good)\t(1|Good)\t0x(?!0000)/)
  })

  it('who asks again gets the same address', async () => {
    for (const client of [dhclient, udhcpc, dhcpcd]) {
      assert.equal(await begin(client, hostOf(client.name)), addresses.get(client.name), client.name)
    }
  })

  it('who renews keeps the address', async () => {
    const session = sessions.get('udhcpc')!
    await session.renew()
    const again = await session.acquired(2)
    assert.equal(again.address, addresses.get('udhcpc'))
  })

  it('leases outlive kill -9 and a new start', async () => {
    const known = await routed.leases()
    assert.ok(known.length >= 3)
    await routed.weft.kill()
    await routed.weft.start()
    const kept = await routed.leases()
    const part = ({ address, mac, port, hostname }: LeaseEntry) => ({ address, mac, port, hostname })
    assert.deepEqual(kept.map(part), known.map(part))
    for (const client of [dhclient, udhcpc, dhcpcd]) {
      const host = hostOf(client.name)
      await sessions.get(client.name)?.kill()
      await routed.weft.waitPort('lan', client.name, 'up')
      await host.configure()
      assert.equal(await begin(client, host), addresses.get(client.name), client.name)
      await host.reaches('10.61.0.1')
    }
  })

  it('a port that is removed and added again leads to the same address', async () => {
    const host = hostOf('udhcpc')
    await sessions.get('udhcpc')?.kill()
    await routed.weft.do('port remove lan udhcpc')
    assert.equal(await routed.lease(addresses.get('udhcpc')!), undefined)
    await routed.add('udhcpc', `--kind tap --dev ${host.device} --netns ${host.space.name}`)
    await host.configure()
    assert.equal(await begin(udhcpc, host), addresses.get('udhcpc'))
  })

  it('a reservation outside the range is honoured, with its name', async () => {
    const host = await routed.guest('reserved')
    await routed.weft.do(['lease', 'reserve', 'lan', host.mac, '10.61.0.200', '--name', 'db'])
    const listed = await routed.lease('10.61.0.200')
    assert.deepEqual(listed, {
      address: '10.61.0.200',
      mac: host.mac,
      hostname: 'db',
      port: null,
      expiresAt: null,
      reserved: true,
    })
    assert.equal(await begin(udhcpc, host, 'whatever'), '10.61.0.200')
    const lease = await routed.lease('10.61.0.200')
    isWhole(lease!)
    assert.deepEqual([lease?.hostname, lease?.port, lease?.reserved], ['db', 'reserved', true])
    assert.equal((await routed.leases()).filter(({ address }) => address === '10.61.0.200').length, 1)
  })

  it('what a client releases is free, and its own again when it comes back', async () => {
    for (const [client, name] of [
      [dhclient, 'dhclient'],
      [udhcpc, 'udhcpc'],
    ] as const) {
      await sessions.get(name)?.release()
      await until(`${name} has no lease`, async () => (await routed.lease(addresses.get(name)!)) === undefined)
      assert.equal(await begin(client, hostOf(name)), addresses.get(name))
    }
  })

  it('a lease is taken back by order', async () => {
    const address = addresses.get('dhcpcd')!
    await routed.weft.do(['lease', 'release', 'lan', address])
    assert.equal(await routed.lease(address), undefined)
    const again = await routed.weft.cli(['lease', 'release', 'lan', address])
    assert.equal(again.status, 1)
    assert.match(again.stderr, new RegExp(address.replaceAll('.', '\\.')))
  })

  it('a request for an address of another subnet gets a NAK', async () => {
    const host = await routed.guest('lost')
    const answers = await speak<Record<string, unknown>[]>(
      host,
      `tell(kinds(say([("message-type", "request"), ("requested_addr", "192.0.2.9")])))`,
    )
    assert.equal(answers[0]?.['message-type'], 6)
    assert.equal(answers[0]?.server_id, '10.61.0.1')
    const taken = addresses.get('udhcpc')!
    const [other] = await speak<Record<string, unknown>[]>(
      host,
      `tell(kinds(say([("message-type", "request"), ("requested_addr", "${taken}")])))`,
    )
    assert.equal(other?.['message-type'], 6, 'nor may it have the address of another')
  })

  it('an address that a client declines is not offered again', async () => {
    const [first, second] = await speak<(string | null)[]>(
      await routed.guest('picky'),
      `first = lease()
say([("message-type", "decline"), ("requested_addr", first), ("server_id", "10.61.0.1")], wait=False)
tell([first, lease()])`,
    )
    assert.ok(first !== null && second !== null)
    assert.notEqual(first, second)
  })

  it('network boot is told by architecture', async () => {
    const host = await routed.guest('pxe')
    const asked = (architecture: number) => `
offers = say([("message-type", "discover"), ("vendor_class_id", "PXEClient:Arch:${architecture}"),
    ("param_req_list", [1, 3, 66, 67]), (93, bytes([0, ${architecture}]))])
out.append([offers[0][BOOTP].file.rstrip(bytes(1)), offers[0][BOOTP].siaddr, kinds(offers)[0].get("boot-file-name")])`
    const said = await speak<string[][]>(host, `out = []${asked(0)}${asked(7)}\ntell(out)`)
    assert.deepEqual(said, [
      ['pxelinux.0', '10.61.0.5', 'pxelinux.0'],
      ['grubx64.efi', '10.61.0.5', 'grubx64.efi'],
    ])
  })

  it('malformed messages harm nobody', async () => {
    const host = await routed.guest('rude')
    await scapy(
      host.space,
      `${speaker(host)}
random.seed(1)
good = bytes(BOOTP(chaddr=mac2str(own), xid=7) / DHCP(options=[("message-type", "discover"), "end"]))
packets = []
for n in range(300):
    data = bytearray(good[:random.randrange(len(good) + 1)])
    for i in range(random.randrange(4)):
        if data: data[random.randrange(len(data))] = random.getrandbits(8)
    data += bytes(random.getrandbits(8) for i in range(random.choice([0, 0, 1, 40, 600])))
    packets.append(Ether(src=own, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67) / Raw(bytes(data)))
sendp(packets, iface=device)`,
    )
    assert.equal(await begin(udhcpc, hostOf('udhcpc')), addresses.get('udhcpc'))
    assert.ok(routed.weft.running)
  })
})

describe('a range that is too small', wants, () => {
  let routed: Routed
  const sessions: Session[] = []
  const start = async (client: Client, host: Host): Promise<Session> => {
    const session = await client.start(routed.lab, host)
    sessions.push(session)
    return session
  }

  before(async () => {
    routed = await Routed.route({
      subnets: [{ cidr: '10.62.0.0/24', dhcp: '10.62.0.10-10.62.0.12' }],
      uplink: 'none',
    })
  })
  after(async () => {
    for (const session of sessions) await session.kill()
    await routed?.close()
  })

  it('refuses the one too many, the others keep theirs, and what is given back is leased again', async () => {
    // one address of the three is in use by somebody who never asked
    const fixed = await routed.tap('fixed', { address: '10.62.0.11/24' })
    await fixed.reaches('10.62.0.1')
    const hosts = [await routed.guest('one'), await routed.guest('two'), await routed.guest('three')]
    const first = await start(udhcpc, hosts[0])
    const second = await start(udhcpc, hosts[1])
    const had = [(await first.acquired()).address, (await second.acquired()).address]
    assert.deepEqual(had.toSorted(), ['10.62.0.10', '10.62.0.12'], 'the address in use is leased to nobody')
    const third = await start(udhcpc, hosts[2])
    await until('the third has asked for a while', () => third.said.split('broadcasting discover').length > 4, 60)
    assert.equal(third.events().filter(({ reason }) => reason === 'bound').length, 0)
    await first.renew()
    assert.equal((await first.acquired(2)).address, had[0])
    await hosts[0].reaches('10.62.0.1')
    await second.release()
    assert.equal((await third.acquired(1, 90)).address, had[1])
  })
})

describe('guests that want everything for themselves', wants, () => {
  let routed: Routed
  let good: Host
  let evil: Host
  const sessions: Session[] = []

  before(async () => {
    routed = await Routed.route({
      subnets: [{ cidr: '10.63.0.0/24', dhcp: '10.63.0.10-10.63.0.29' }],
      uplink: 'none',
    })
    good = await routed.guest('good')
    evil = await routed.guest('evil')
  })
  after(async () => {
    for (const session of sessions) await session.kill()
    await routed?.close()
  })

  it('a port with many addresses cannot take the leases of the other ports', async () => {
    const got = await speak<(string | null)[]>(
      evil,
      `
def mac(n): return "02:66:00:00:%02x:%02x" % (n >> 8, n & 255)
sendp([Ether(src=mac(n), dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    / BOOTP(chaddr=mac2str(mac(n)), xid=n) / DHCP(options=[("message-type", "discover"), "end"]) for n in range(400)],
    iface=device)
time.sleep(3)
tell([lease(mac(1000 + n)) for n in range(8)])`,
    )
    assert.ok(got.filter((address) => address !== null).length <= 4, `${got}`)
    const session = await dhclient.start(routed.lab, good, {})
    sessions.push(session)
    const { address } = await session.acquired()
    const leases = await routed.leases()
    assert.ok(leases.filter(({ port }) => port === 'evil').length <= 4)
    assert.equal(leases.find((lease) => lease.address === address)?.port, 'good')
  })

  it('guests made anew behind one port, each with another MAC, all get a lease', async () => {
    const host = await routed.guest('runner')
    const got = await speak<(string | null)[]>(
      host,
      `tell([lease("02:66:01:00:00:%02x" % n) or lease("02:66:01:00:00:%02x" % n) for n in range(7)])`,
    )
    assert.equal(got.filter((address) => address !== null).length, 7, `${got}`)
    const leases = await routed.leases()
    assert.equal(leases.filter(({ port }) => port === 'runner').length, 4)
    const shown = await routed.weft.json<{ leases: Record<string, number> }>('port show lan runner')
    assert.deepEqual({ ...shown.leases, refused: 0 }, { limit: 4, ip4: 4, ip6: 0, gaveWay: 3, refused: 0 })
  })

  it('nobody can release or decline what is not his', async () => {
    const [{ address }] = (await routed.leases()).filter(({ port }) => port === 'good')
    await speak(
      evil,
      `
for kind in ["release", "decline"]:
    for mac in [own, "${good.mac}"]:
        packet = (Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="${address}", dst="10.63.0.1")
            / UDP(sport=68, dport=67) / BOOTP(chaddr=mac2str("${good.mac}"), ciaddr="${address}")
            / DHCP(options=[("message-type", kind), ("server_id", "10.63.0.1"),
                ("requested_addr", "${address}"), "end"]))
        sendp(packet, iface=device)
time.sleep(1)
tell(None)`,
    )
    assert.equal((await routed.lease(address))?.port, 'good')
  })

  it('forged answers of a DHCP server do not reach other guests', needs('tcpdump'), async () => {
    const capture = await good.space.capture(good.device, { only: 'in' })
    await speak(
      evil,
      `
for mac in ["ff:ff:ff:ff:ff:ff", "${good.mac}"]:
    for tail in [b"", b"tail" * 100]:
        sendp(Ether(src=own, dst=mac) / IP(src="10.63.0.66", dst="255.255.255.255") / UDP(sport=67, dport=68)
            / BOOTP(op=2, yiaddr="10.63.0.77", chaddr=mac2str("${good.mac}"))
            / DHCP(options=[("message-type", "ack"), ("server_id", "10.63.0.66"), ("router", "10.63.0.66"), "end"])
            / Raw(tail), iface=device)
sendp(Ether(src=own, dst="ff:ff:ff:ff:ff:ff", type=0x88b5) / Raw(b"the end"), iface=device)
tell(None)`,
    )
    await capture.see('the closing broadcast', (frame) => carries(frame, 'the end'))
    const answers = (await capture.stop()).filter((frame) => frame[23] === 17 && frame[34] === 0 && frame[35] === 67)
    assert.equal(answers.length, 0)
    await routed.drops('evil', 'dhcp-server', 4)
  })

  it('a DHCP server behind a port serves only if the port may', needs('dnsmasq'), async () => {
    await routed.change({ subnets: [{ cidr: '10.63.0.0/24', dhcp: 'off' }] })
    const rogue = await routed.tap('rogue', { address: '10.63.0.66/24' })
    const args = ['-k', '--port=0', `--interface=${rogue.device}`, '--bind-interfaces', '--conf-file=/dev/null']
    const files = [`--dhcp-leasefile=${routed.lab.folder}/rogue`, '--pid-file=', '--user=root', '--log-dhcp']
    const range = ['--dhcp-range=10.63.0.200,10.63.0.210,2m', '--dhcp-authoritative', '--no-ping', '--log-facility=-']
    const server = rogue.space.spawn('dnsmasq', [...args, ...files, ...range])
    try {
      await until('dnsmasq is up', () => {
        if (!server.running) throw new Error(server.stderr)
        return server.stderr.includes('IP range')
      })
      const guest = await routed.guest('late')
      const session = await udhcpc.start(routed.lab, guest)
      sessions.push(session)
      await until('dnsmasq has answered', () => server.stderr.includes('DHCPOFFER'))
      await routed.drops('rogue', 'dhcp-server')
      assert.equal(session.events().filter(({ reason }) => reason === 'bound').length, 0)
      await routed.weft.do('port set lan rogue --allow dhcp-server')
      assert.equal((await session.acquired()).server, '10.63.0.66')
      await guest.reaches('10.63.0.66')
    } finally {
      await server.stop('SIGKILL')
    }
  })
})
