/** What users write about a network's router: subnets, uplink, DHCP, DNS, routes, forwards, rules, limits. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { defaultDomain, parseNetwork, writtenNetwork } from '../../src/control/definition.js'
import { readDocument, writeDocument } from '../../src/control/document.js'
import { Failure } from '../../src/control/failure.js'
import { forwardClash, parseForward, writtenForward } from '../../src/control/forwarding.js'
import type { NetworkDefinition } from '../../src/control/model.js'
import { parseSubnets, writtenSubnet } from '../../src/control/subnet.js'
import { parseUplink, writtenUplink } from '../../src/control/uplink.js'
import {
  compareIp,
  contains,
  formatIp,
  formatPrefix,
  lastOf,
  networkOf,
  parseIp,
  parsePrefix,
} from '../../src/services/address.js'

const uuid = '6f0e8a52-3b1c-4f57-9c1e-0d2a4b6c8e10'
const nat = { name: 'lan', uuid, mode: 'nat', subnets: ['10.7.0.0/24', 'fd00:7::/64'], uplink: 'host' }
const parsed = (more: object = {}): NetworkDefinition => parseNetwork({ ...nat, ...more })

/** Each is refused at the path, with the sentence. */
function refuses(cases: readonly [settings: object, path: string, sentence: string, code?: string][]): void {
  for (const [settings, path, sentence, code = 'ERR_INVALID'] of cases) {
    const text = JSON.stringify(settings)
    try {
      parsed(settings)
    } catch (error) {
      assert.ok(error instanceof Failure, String((error as Error).stack))
      assert.deepEqual([error.code, error.path], [code, path], `${text}: ${error.message}`)
      assert.ok(error.message.startsWith(path) && error.message.includes(sentence), `${error.message}: ${sentence}`)
      continue
    }
    assert.fail(`${text} was not refused`)
  }
}

test('a network of mode nat gets every default', () => {
  assert.deepEqual(parsed(), {
    name: 'lan',
    uuid,
    mode: 'nat',
    uplink: 'host',
    domain: 'lan.internal',
    subnets: [
      { cidr: '10.7.0.0/24', gateway: '10.7.0.1', dhcp: { from: '10.7.0.2', to: '10.7.0.254' } },
      { cidr: 'fd00:7::/64', gateway: 'fd00:7::1', dhcp: null },
    ],
    dhcp: { leaseSeconds: 3600, portLimit: null, reservations: [], bootServer: null, bootFiles: {}, options: {} },
    dns: {
      enabled: true,
      upstreams: [],
      domains: [],
      hosts: [],
      aliases: [],
      services: [],
      texts: [],
      rebindProtection: true,
    },
    routes: [],
    forwards: [],
    rules: [],
    sets: { addresses: {}, ports: {} },
    nat: { filtering: 'address-and-port', firstPort: 1024, lastPort: 65535, ipv6: true },
    connections: { limit: 262_144, portLimit: 65_536, timeouts: {} },
    mtu: 1500,
    fdbAgeSeconds: 300,
    shard: null,
    autostart: false,
    ports: [],
    fdb: [],
  })
  assert.deepEqual(writtenNetwork(parsed()), {
    name: 'lan',
    uuid,
    mode: 'nat',
    uplink: 'host',
    subnets: [{ cidr: '10.7.0.0/24' }, { cidr: 'fd00:7::/64' }],
    ports: [],
  })
  assert.equal(parsed({ uplink: undefined }).uplink, null)
  assert.equal((writtenNetwork(parsed({ uplink: 'none' })) as { uplink: string }).uplink, 'none')
})

test('subnets: gateways and ranges', () => {
  const one = (value: unknown, dhcp?: string) => parseSubnets([value], dhcp, '')[0]
  const cases: [unknown, string | undefined, string, string, string | null][] = [
    ['10.0.0.0/8', undefined, '10.0.0.0/8', '10.0.0.1', '10.0.0.2-10.255.255.254'],
    ['10.0.0.0/30', undefined, '10.0.0.0/30', '10.0.0.1', '10.0.0.2-10.0.0.2'],
    ['10.0.0.254/24', undefined, '10.0.0.0/24', '10.0.0.254', '10.0.0.1-10.0.0.253'],
    ['10.0.0.7/24', undefined, '10.0.0.0/24', '10.0.0.7', '10.0.0.1-10.0.0.254'],
    ['10.0.0.0/24', 'off', '10.0.0.0/24', '10.0.0.1', null],
    ['10.0.0.0/24', '10.0.0.50-10.0.0.60', '10.0.0.0/24', '10.0.0.1', '10.0.0.50-10.0.0.60'],
    [{ cidr: '10.0.0.0/24', gateway: '10.0.0.9' }, undefined, '10.0.0.0/24', '10.0.0.9', '10.0.0.1-10.0.0.254'],
    [
      { cidr: '10.0.0.0/24', dhcp: { from: '10.0.0.5', to: '10.0.0.6' } },
      undefined,
      '10.0.0.0/24',
      '10.0.0.1',
      '10.0.0.5-10.0.0.6',
    ],
    ['FD00:7::9/64', undefined, 'fd00:7::/64', 'fd00:7::9', null],
    [
      { cidr: 'fd00:7::/120', dhcp: 'fd00:7::10-fd00:7::ff' },
      undefined,
      'fd00:7::/120',
      'fd00:7::1',
      'fd00:7::10-fd00:7::ff',
    ],
    [{ cidr: 'fd00:7::/120', dhcp: 'off' }, undefined, 'fd00:7::/120', 'fd00:7::1', null],
    [
      { cidr: 'fd00:7::/64', dhcp: 'fd00:7::10-fd00:7::ffff' },
      undefined,
      'fd00:7::/64',
      'fd00:7::1',
      'fd00:7::10-fd00:7::ffff',
    ],
  ]
  for (const [value, dhcp, cidr, gateway, range] of cases) {
    const subnet = one(value, dhcp)
    const text = subnet?.dhcp ? `${subnet.dhcp.from}-${subnet.dhcp.to}` : null
    assert.deepEqual([subnet?.cidr, subnet?.gateway, text], [cidr, gateway, range], JSON.stringify(value))
    assert.deepEqual(one(writtenSubnet(subnet)), subnet)
  }
  const { subnets } = parsed({ subnets: ['10.1.0.0/24', '10.2.0.0/24'], dhcp: '10.2.0.5-10.2.0.9' })
  assert.deepEqual(
    subnets.map((subnet) => subnet.dhcp?.from),
    ['10.1.0.2', '10.2.0.5'],
    'a range is for the subnet that it is in',
  )
})

test('subnets are refused with path and value', () => {
  const of = (...subnets: unknown[]) => ({ subnets })
  refuses([
    [of('10.0.0.0'), 'subnets[0].cidr', '10.0.0.0 is not a subnet like 10.0.0.0/24'],
    [of('10.0.0.0/33'), 'subnets[0].cidr', 'is not a subnet'],
    [of('10.0.0.0/31'), 'subnets[0].cidr', 'the prefix length of an IPv4 subnet is 8..30, not 31'],
    [of('10.0.0.0/7'), 'subnets[0].cidr', '8..30, not 7'],
    [of('fd00::/32'), 'subnets[0].cidr', 'the prefix length of an IPv6 subnet is 48..126, not 32'],
    [of('fd00::/127'), 'subnets[0].cidr', 'not 127'],
    [of('fd00::/80'), 'subnets[0].dhcp', 'hosts make their own address in a /64 only, a /80 needs FROM-TO or off'],
    [of('127.0.0.0/8'), 'subnets[0].cidr', 'no network of guests can have'],
    [of('224.0.0.0/8'), 'subnets[0].cidr', 'no network of guests can have'],
    [of('169.254.0.0/16'), 'subnets[0].cidr', 'no network of guests can have'],
    [of('fe80::/64'), 'subnets[0].cidr', 'no network of guests can have'],
    [of('10.0.0.255/24'), 'subnets[0].cidr', '10.0.0.255 is the broadcast address of 10.0.0.0/24'],
    [of({ cidr: '10.0.0.0/24', gateway: '10.0.0.0' }), 'subnets[0].gateway', "the network's own address"],
    [of({ cidr: '10.0.0.0/24', gateway: '10.0.1.1' }), 'subnets[0].gateway', '10.0.1.1 is not in 10.0.0.0/24'],
    [
      of({ cidr: '10.0.0.2/24', gateway: '10.0.0.3' }),
      'subnets[0].gateway',
      '10.0.0.3 is not the address in 10.0.0.2/24',
    ],
    [of({ cidr: '10.0.0.0/24', gate: 'x' }), 'subnets[0].gate', 'unknown key (known are cidr, gateway, dhcp)'],
    [of({ cidr: '10.0.0.0/24', dhcp: '10.0.0.9' }), 'subnets[0].dhcp', 'is not off or a range FROM-TO'],
    [of({ cidr: '10.0.0.0/24', dhcp: '10.0.0.9-10.0.0.5' }), 'subnets[0].dhcp', '10.0.0.9-10.0.0.5 runs backwards'],
    [of({ cidr: '10.0.0.0/24', dhcp: '10.0.0.9-10.0.1.5' }), 'subnets[0].dhcp', '10.0.1.5 is not in 10.0.0.0/24'],
    [of({ cidr: '10.0.0.0/24', dhcp: '10.0.0.9-10.0.0.255' }), 'subnets[0].dhcp', 'the broadcast address'],
    [of({ cidr: '10.0.0.0/24', dhcp: '10.0.0.1-10.0.0.1' }), 'subnets[0].dhcp', "the gateway's address"],
    [of({ cidr: '10.0.0.0/24', dhcp: '10.0.0.1-fd00::1' }), 'subnets[0].dhcp', 'is not off or a range'],
    [of('10.0.0.0/16', '10.0.7.0/24'), 'subnets[1]', '10.0.7.0/24 overlaps 10.0.0.0/16'],
    [of(7), 'subnets[0]', 'is not an object'],
    [of(), 'subnets', 'a network of mode nat needs one'],
    [{ dhcp: '10.9.0.1-10.9.0.9' }, 'dhcp', '10.9.0.1 is in no subnet of the network'],
    [{ dhcp: 'on' }, 'dhcp', 'on is not off or a range FROM-TO'],
    [of(...Array.from({ length: 17 }, (_, n) => `10.${n}.0.0/24`)), 'subnets', 'at most 16 subnets', 'ERR_CAPACITY'],
  ])
})

test('uplinks: read, and written in one way', () => {
  const cases: [string, string | null][] = [
    ['host', 'host'],
    ['host,address=172.31.0.2/30', 'host,address=172.31.0.2/30'],
    ['netdev:eth0', 'netdev:eth0'],
    ['netdev:eth0,address=dhcp', 'netdev:eth0'],
    ['netdev:eth0,gateway=192.0.2.1,address=192.0.2.7/24', 'netdev:eth0,address=192.0.2.7/24,gateway=192.0.2.1'],
    ['netdev:eth0,address=dhcp,address=2001:DB8::7/64', 'netdev:eth0,address=dhcp,address=2001:db8::7/64'],
    [
      'netdev:e0.5,address=2001:db8::7/64,gateway=fe80::1,address=192.0.2.7/31',
      'netdev:e0.5,address=2001:db8::7/64,address=192.0.2.7/31,gateway=fe80::1',
    ],
    ['none', null],
  ]
  for (const [text, written] of cases) {
    assert.equal(writtenUplink(parseUplink(text, 'uplink')), written)
    assert.equal(writtenUplink(parseUplink(written, 'uplink')), written)
  }
  const to = (uplink: string) => ({ uplink })
  refuses([
    [to('eth0'), 'uplink', 'eth0 is not host, netdev:IFNAME or none'],
    [to('hosts'), 'uplink', 'is not host, netdev:IFNAME or none'],
    [to('host:eth0'), 'uplink', 'is not host, netdev:IFNAME or none'],
    [to('netdev:'), 'uplink', 'is not an interface name'],
    [to('netdev:a/b'), 'uplink', 'is not an interface name'],
    [to('sockets'), 'uplink', 'sockets comes in a later version', 'ERR_UNSUPPORTED'],
    [to('host,address=dhcp'), 'uplink', 'takes no address=dhcp'],
    [to('host,gateway=10.0.0.1'), 'uplink', 'takes no gateway'],
    [to('netdev:e0,mtu=9'), 'uplink', 'mtu=9 is not address=CIDR, address=dhcp or gateway=ADDRESS'],
    [to('netdev:e0,address=192.0.2.7'), 'uplink', 'is not an address with its prefix like 192.0.2.2/24'],
    [to('netdev:e0,address=192.0.2.0/24'), 'uplink', "the network's own address"],
    [to('netdev:e0,address=192.0.2.255/24'), 'uplink', 'the broadcast address'],
    [to('netdev:e0,address=224.0.0.1/24'), 'uplink', 'is no address of a host'],
    [to('netdev:e0,address=dhcp,address=192.0.2.7/24'), 'uplink', 'exclude each other'],
    [to('netdev:e0,gateway=192.0.2.1'), 'uplink', 'gateway=192.0.2.1 needs an address of its family'],
    [to('netdev:e0,address=192.0.2.7/24,gateway=198.51.100.1'), 'uplink', 'is on the link of no address'],
    [to('netdev:e0,address=192.0.2.7/24,gateway=192.0.2.7'), 'uplink', "is the router's own address"],
    [to('netdev:e0,address=192.0.2.7/24,gateway=192.0.2.1,gateway=192.0.2.2'), 'uplink', 'a second gateway of IPv4'],
    [to('netdev:e0,address=192.0.2.7/24,address=192.0.2.7/25'), 'uplink', 'stands twice'],
    [{ mode: 'isolated' }, 'uplink', 'an isolated network has none, host needs another mode'],
  ])
})

test('domains', () => {
  assert.equal(defaultDomain('My_Lab.2'), 'my-lab-2.internal')
  assert.equal(defaultDomain('_'), 'network.internal')
  assert.equal(defaultDomain(`${'x'.repeat(62)}_y`), `${'x'.repeat(62)}.internal`)
  assert.equal(parsed({ domain: 'Lab.Example.' }).domain, 'lab.example')
  assert.equal(parsed({ domain: null }).domain, null)
  assert.equal(parseNetwork(writtenNetwork(parsed({ domain: null }))).domain, null)
  refuses([
    [{ domain: 'a..b' }, 'domain', 'a..b is not a DNS name'],
    [{ domain: `${'x'.repeat(64)}.org` }, 'domain', 'is not a DNS name'],
    [{ domain: '' }, 'domain', 'is not a DNS name'],
  ])
})

test('DHCP: reservations and options', () => {
  const mac = '52:54:00:00:00:01'
  const { dhcp } = parsed({
    dhcp: {
      range: '10.7.0.100-10.7.0.200',
      leaseSeconds: 600,
      reservations: [
        { mac: '52:54:00:AA:00:01', address: '10.7.0.5', name: 'Web1' },
        { mac: '52:54:00:aa:00:01', address: 'fd00:7::5', name: 'web1' },
      ],
      bootServer: '10.7.0.9',
      bootFiles: { default: 'pxelinux.0', '7': 'grub.efi' },
      options: { '42': '10.7.0.1' },
    },
  })
  assert.deepEqual(dhcp.reservations, [
    { mac: '52:54:00:aa:00:01', address: '10.7.0.5', name: 'web1' },
    { mac: '52:54:00:aa:00:01', address: 'fd00:7::5', name: 'web1' },
  ])
  const of = (...reservations: unknown[]) => ({ dhcp: { reservations } })
  const one = { mac, address: '10.7.0.5' }
  refuses([
    [of({ mac, address: '10.8.0.5' }), 'dhcp.reservations[0].address', '10.8.0.5 is in no subnet of the network'],
    [of({ mac, address: '10.7.0.1' }), 'dhcp.reservations[0].address', "10.7.0.1 is the gateway's address"],
    [of({ mac, address: '10.7.0.0' }), 'dhcp.reservations[0].address', "the network's own address"],
    [of({ mac, address: '10.7.0.255' }), 'dhcp.reservations[0].address', 'the broadcast address'],
    [of({ mac: '01:00:5e:00:00:01', address: '10.7.0.5' }), 'dhcp.reservations[0].mac', 'is a group address'],
    [of({ ...one, name: 'a.b' }), 'dhcp.reservations[0].name', 'a.b is not a host name'],
    [
      of(one, { mac: '52:54:00:00:00:02', address: '10.7.0.5' }),
      'dhcp.reservations[1].address',
      `is reserved already, for ${mac}`,
    ],
    [of(one, { mac, address: '10.7.0.6' }), 'dhcp.reservations[1].mac', `${mac} has 10.7.0.5 reserved already`],
    [
      of({ ...one, name: 'a' }, { mac: '52:54:00:00:00:02', address: '10.7.0.6', name: 'A' }),
      'dhcp.reservations[1].name',
      `a is the name of ${mac} already`,
    ],
    [{ dhcp: { leaseSeconds: 5 } }, 'dhcp.leaseSeconds', '5 is not 60..31536000'],
    [{ dhcp: { lease: 5 } }, 'dhcp.lease', 'unknown key'],
    [{ dhcp: { options: { '53': '1' } } }, 'dhcp.options.53', "is the server's own to set"],
    [{ dhcp: { options: { x: '1' } } }, 'dhcp.options.x', 'is not the number of an option, 1..254'],
    [{ dhcp: { bootFiles: { bios: 'x' } } }, 'dhcp.bootFiles.bios', 'neither default nor a client architecture'],
    [
      of(...Array.from({ length: 1025 }, () => one)),
      'dhcp.reservations',
      'a network has at most 1024 reservations',
      'ERR_CAPACITY',
    ],
  ])
})

test('DNS: names and upstreams', () => {
  const { dns } = parsed({
    dns: {
      upstreams: ['192.0.2.53', '192.0.2.54:5353', '[2001:DB8::53]:53', '2001:db8::54', '127.0.0.53', '[::1]:5300'],
      domains: [{ domain: 'Corp.Example.', upstreams: ['10.1.0.53'] }],
      hosts: [{ name: 'DB', addresses: ['10.7.0.9', 'FD00:7::9'] }],
      aliases: [{ name: 'www', target: 'db' }],
      services: [{ name: '_http._tcp', target: 'db', port: 80 }],
      texts: [{ name: 'db', text: ['v=1'] }],
    },
  })
  assert.deepEqual(dns.upstreams, [
    '192.0.2.53',
    '192.0.2.54:5353',
    '2001:db8::53',
    '2001:db8::54',
    '127.0.0.53',
    '[::1]:5300',
  ])
  assert.deepEqual(dns.hosts, [{ name: 'db', addresses: ['10.7.0.9', 'fd00:7::9'] }])
  assert.deepEqual(dns.services, [{ name: '_http._tcp', target: 'db', port: 80, priority: 0, weight: 0 }])
  assert.equal(dns.domains[0]?.domain, 'corp.example')
  const of = (settings: object) => ({ dns: settings })
  refuses([
    [of({ upstream: [] }), 'dns.upstream', 'unknown key'],
    [of({ upstreams: ['dns.example'] }), 'dns.upstreams[0]', 'dns.example is not an IP address'],
    [of({ upstreams: ['192.0.2.1:0'] }), 'dns.upstreams[0]', '0 is not 1..65535'],
    [of({ upstreams: ['224.0.0.251'] }), 'dns.upstreams[0]', 'is no address of a host'],
    [of({ hosts: [{ name: 'a b', addresses: ['10.7.0.9'] }] }), 'dns.hosts[0].name', '"a b" is not a DNS name'],
    [of({ hosts: [{ name: 'a', addresses: ['x'] }] }), 'dns.hosts[0].addresses[0]', 'x is not an IP address'],
    [
      of({ hosts: ['a', 'A'].map((name) => ({ name, addresses: ['10.7.0.9'] })) }),
      'dns.hosts[1].name',
      'a stands twice',
    ],
    [
      of({ hosts: [{ name: 'a', addresses: ['10.7.0.9'] }], aliases: [{ name: 'a', target: 'b' }] }),
      'dns.aliases[0].name',
      'a has other records, an alias stands alone',
    ],
    [
      of({
        aliases: [
          { name: 'a', target: 'b' },
          { name: 'b', target: 'a' },
        ],
      }),
      'dns.aliases[0].target',
      'a leads back to a',
    ],
    [of({ texts: [{ name: 'a', text: ['x'.repeat(256)] }] }), 'dns.texts[0].text[0]', 'is 256 bytes long'],
    [
      of({ texts: Array.from({ length: 4097 }, (_, n) => ({ name: `n${n}`, text: ['x'] })) }),
      'dns',
      'at most 4096 records',
      'ERR_CAPACITY',
    ],
  ])
})

test('forwards: read, written, clashes', () => {
  const links = { subnets: parsed().subnets, routes: [{ destination: '10.9.0.0/16', via: '10.7.0.3' }], uplink: null }
  const cases: [string, string, object][] = [
    ['tcp:8080 10.7.0.5', 'tcp:8080 10.7.0.5', { address: null, firstPort: 8080, lastPort: 8080, toPort: 8080 }],
    ['tcp:8080 web1:80', 'tcp:8080 web1:80', { to: 'web1', toPort: 80 }],
    ['udp:5000-5009 10.7.0.5:6000', 'udp:5000-5009 10.7.0.5:6000', { protocol: 'udp', lastPort: 5009, toPort: 6000 }],
    ['tcp:192.0.2.1:22-22  Web1', 'tcp:192.0.2.1:22 web1', { address: '192.0.2.1', lastPort: 22, toPort: 22 }],
    ['tcp:[2001:DB8::1]:443 [fd00:7::5]:8443', 'tcp:[2001:db8::1]:443 [fd00:7::5]:8443', { to: 'fd00:7::5' }],
    ['tcp:443 fd00:7::5', 'tcp:443 fd00:7::5', { to: 'fd00:7::5', toPort: 443 }],
    ['tcp:80 10.9.1.1', 'tcp:80 10.9.1.1', { to: '10.9.1.1' }],
  ]
  for (const [text, written, some] of cases) {
    const forward = parseForward(text, links, 'f')
    assert.equal(writtenForward(forward), written)
    assert.deepEqual({ ...forward, ...some }, forward)
    assert.deepEqual(parseForward(written, links, 'f'), forward)
    assert.deepEqual(parseForward({ ...forward }, links, 'f'), forward)
  }
  const clash = (one: string, other: string) =>
    forwardClash(parseForward(one, links, 'a'), parseForward(other, links, 'b'))
  assert.equal(clash('tcp:80 10.7.0.5', 'tcp:80 10.7.0.6'), 'tcp port 80')
  assert.equal(clash('tcp:80-90 10.7.0.5', 'tcp:85-95 10.7.0.6'), 'tcp port 85-90')
  assert.equal(clash('tcp:80 10.7.0.5', 'udp:80 10.7.0.6'), null)
  assert.equal(clash('tcp:80 10.7.0.5', 'tcp:192.0.2.1:80 10.7.0.6'), null, 'the one with an address goes before')
  assert.equal(clash('tcp:80 10.7.0.5', 'tcp:80 fd00:7::5'), null, 'they are of two families')
  assert.equal(clash('tcp:80 web1', 'tcp:80 fd00:7::5'), 'tcp port 80', 'a name may be of both')

  const of = (...forwards: unknown[]) => ({ forwards })
  refuses([
    [of('tcp:80'), 'forwards[0]', 'is not tcp|udp:[ADDRESS:]PORT[-PORT] GUEST[:PORT]'],
    [of('sctp:80 10.7.0.5'), 'forwards[0]', 'sctp:80 is not tcp|udp:[ADDRESS:]PORT[-PORT]'],
    [of('tcp:0 10.7.0.5'), 'forwards[0].firstPort', '0 is not 1..65535'],
    [of('tcp:80-79 10.7.0.5'), 'forwards[0].lastPort', '80-79 runs backwards'],
    [of('tcp:80-90 10.7.0.5:65530'), 'forwards[0].toPort', '65530-65540 end beyond 65535'],
    [of('tcp:80 10.7.0.5:99999'), 'forwards[0].toPort', '99999 is not 1..65535'],
    [of('tcp:80 10.8.0.5'), 'forwards[0].to', 'is in no subnet of the network, and no route leads to it'],
    [of('tcp:80 10.7.0.1'), 'forwards[0].to', "10.7.0.1 is the gateway's address"],
    [of('tcp:80 we_b'), 'forwards[0].to', 'neither an address nor the name of a guest'],
    [of('tcp:x:80 web'), 'forwards[0].address', 'x is not an IP address'],
    [of('tcp:192.0.2.1:80 fd00:7::5'), 'forwards[0].to', 'is not of the family of 192.0.2.1'],
    [of({ protocol: 'tcp', to: 'web' }), 'forwards[0].firstPort', 'is missing'],
    [of('tcp:80 10.7.0.5', 'tcp:70-90 web'), 'forwards[1]', 'tcp port 80 is forwarded already, by "tcp:80 10.7.0.5"'],
    [
      of(...Array.from({ length: 257 }, (_, n) => `tcp:${n + 1} a`)),
      'forwards',
      'at most 256 forwards',
      'ERR_CAPACITY',
    ],
  ])
})

test('routes: next hops and other networks', () => {
  const { routes } = parsed({
    uplink: 'netdev:e0,address=192.0.2.7/24,gateway=192.0.2.1',
    routes: [
      { destination: '10.9.0.0/16', via: '10.7.0.3' },
      { destination: '10.10.0.0/16', via: 'office' },
      { destination: '10.11.0.1', via: '192.0.2.9' },
      { destination: 'FD01::/48', via: 'FD00:7::3' },
    ],
  })
  assert.deepEqual(
    routes.map(({ destination, via }) => `${destination} ${via}`),
    ['10.9.0.0/16 10.7.0.3', '10.10.0.0/16 office', '10.11.0.1/32 192.0.2.9', 'fd01::/48 fd00:7::3'],
  )
  const of = (...list: [string, string][]) => ({
    uplink: 'netdev:e0,address=192.0.2.7/24',
    routes: list.map(([destination, via]) => ({ destination, via })),
  })
  refuses([
    [of(['10.9.0.1/16', '10.7.0.3']), 'routes[0].destination', '10.9.0.1/16 is not a destination like 10.9.0.0/16'],
    [of(['10.7.0.0/25', '10.7.0.3']), 'routes[0].destination', "is on the network's own link, in 10.7.0.0/24"],
    [of(['10.9.0.0/16', '10.8.0.3']), 'routes[0].via', '10.8.0.3 is on no link of the network'],
    [of(['10.9.0.0/16', '192.0.2.7']), 'routes[0].via', 'is on no link of the network'],
    [of(['10.9.0.0/16', '10.7.0.1']), 'routes[0].via', "is the gateway's address"],
    [of(['10.9.0.0/16', 'fd00:7::3']), 'routes[0].via', 'is not of the family of 10.9.0.0/16'],
    [of(['10.9.0.0/16', 'lan']), 'routes[0].via', 'lan is the network itself'],
    [of(['10.9.0.0/16', '-x']), 'routes[0].via', 'neither an address nor the name of a network'],
    [of(['10.9.0.0/16', '10.7.0.3'], ['10.9.0.0/16', 'b']), 'routes[1]', 'has a route already, via 10.7.0.3'],
    [
      of(...Array.from({ length: 65 }, (): [string, string] => ['10.9.0.0/16', 'b'])),
      'routes',
      'at most 64',
      'ERR_CAPACITY',
    ],
  ])
})

test('rules, sets, NAT, connections', () => {
  const network = parsed({
    rules: ['accept  in to 10.7.0.5 tcp dport 80,443', 'drop out from $bad'],
    sets: { addresses: { bad: ['203.0.113.0/24'] }, ports: { web: [80, '8000-8010'] } },
    nat: { filtering: 'none', firstPort: 20000, lastPort: 29999, ipv6: false },
    connections: { limit: 1000, timeouts: { udp: 30, icmp: 60 } },
  })
  assert.equal(network.rules.length, 2)
  assert.match(network.rules[0] ?? '', /^accept in to 10\.7\.0\.5(\/32)? tcp dport 80,443$/)
  assert.deepEqual(network.connections, { limit: 1000, portLimit: 1000, timeouts: { udp: 30 } })
  assert.deepEqual(parseNetwork(writtenNetwork(network)), network)
  refuses([
    [{ rules: ['permit in'] }, 'rules[0]', 'permit'],
    [{ rules: ['drop in from $no'] }, 'rules[0]', 'no'],
    [{ rules: Array.from({ length: 513 }, () => 'drop in') }, 'rules', 'at most 512 rules', 'ERR_CAPACITY'],
    [{ nat: { firstPort: 9, lastPort: 8 } }, 'nat.lastPort', '9-8 runs backwards'],
    [{ nat: { filtering: 'all' } }, 'nat.filtering', 'all is not one of address-and-port, address, none'],
    [{ connections: { limit: 5, portLimit: 6 } }, 'connections.portLimit', "6 is above the network's limit, 5"],
    [{ connections: { timeouts: { tcp: 5 } } }, 'connections.timeouts.tcp', 'unknown key (known are tcp-syn'],
    [{ connections: { timeouts: { udp: 0 } } }, 'connections.timeouts.udp', '0 is not 1..1000000'],
  ])
})

test('documents: a whole router goes to YAML and JSON and comes back', () => {
  const network = parsed({
    domain: 'lab.example',
    subnets: [{ cidr: '10.7.0.0/24', gateway: '10.7.0.254', dhcp: '10.7.0.10-10.7.0.99' }, 'fd00:7::/64'],
    dhcp: {
      reservations: [{ mac: '52:54:00:00:00:01', address: '10.7.0.5', name: 'web1' }],
      options: { '42': '10.7.0.254' },
    },
    dns: { hosts: [{ name: 'db', addresses: ['10.7.0.9'] }], rebindProtection: false },
    routes: [{ destination: '10.9.0.0/16', via: '10.7.0.3' }],
    forwards: ['tcp:8080 web1:80', 'tcp:8081 10.9.0.5'],
    rules: ['accept in to 10.7.0.5 tcp dport 22'],
    ports: [{ name: 'vm1', kind: 'tap', addresses: ['10.7.0.9'], allow: ['router'] }],
  })
  for (const format of ['yaml', 'json'] as const) {
    assert.deepEqual(parseNetwork(readDocument(writeDocument(writtenNetwork(network), format))), network)
  }
})

test('property: any subnet has a gateway and a range inside, and is written as it is read', () => {
  const four = fc.tuple(
    fc.integer({ min: 1, max: 126 }),
    fc.nat(255),
    fc.nat(255),
    fc.nat(255),
    fc.integer({ min: 8, max: 30 }),
  )
  fc.assert(
    fc.property(four, ([a, b, c, d, length]) => {
      const given = `${a}.${b}.${c}.${d}/${length}`
      const prefix = parsePrefix(given)
      assert.ok(prefix !== null)
      try {
        const [subnet] = parseSubnets([given], undefined, '')
        assert.ok(subnet?.dhcp)
        const network = networkOf(prefix)
        assert.equal(subnet.cidr, formatPrefix(network))
        const ends = [subnet.dhcp.from, subnet.dhcp.to].map((text) => parseIp(text) ?? [])
        for (const ip of ends) {
          assert.ok(contains(network, ip) && ![formatIp(network.ip), formatIp(lastOf(network))].includes(formatIp(ip)))
          assert.notEqual(formatIp(ip), length === 30 ? '' : subnet.gateway)
        }
        assert.ok(compareIp(ends[0] ?? [], ends[1] ?? []) <= 0)
        assert.deepEqual(parseSubnets([writtenSubnet(subnet)], undefined, ''), [subnet])
      } catch (error) {
        assert.ok(error instanceof Failure && /broadcast/.test(error.message), String(error))
        assert.equal(formatIp(prefix.ip), formatIp(lastOf(prefix)))
      }
    }),
    { seed: 1 },
  )
})

test('property: whatever is given, a router is parsed or refused as a Failure', () => {
  const keys = fc.constantFrom(
    'subnets',
    'dhcp',
    'dns',
    'routes',
    'forwards',
    'rules',
    'sets',
    'nat',
    'connections',
    'uplink',
    'domain',
    '__proto__',
  )
  const words = fc.constantFrom(
    '10.7.0.5',
    'tcp:80 10.7.0.5',
    'off',
    'drop in',
    '10.0.0.0/8',
    'host',
    'netdev:e0,address=',
  )
  const inner = fc.dictionary(
    fc.constantFrom('cidr', 'dhcp', 'hosts', 'name', 'addresses', 'reservations', 'mac', 'to'),
    fc.oneof(fc.anything(), words),
  )
  const value = fc.oneof(fc.anything(), words, fc.array(fc.oneof(words, inner)), inner)
  fc.assert(
    fc.property(fc.dictionary(keys, value), (given) => {
      try {
        const network = parseNetwork({ ...nat, ...given })
        assert.deepEqual(parseNetwork(writtenNetwork(network)), network)
      } catch (error) {
        assert.ok(error instanceof Failure, `${(error as Error).stack}`)
      }
    }),
    { seed: 1, numRuns: 1000 },
  )
})
