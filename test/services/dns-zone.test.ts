/**
 * A network's names, through the server, so that what is looked at is what a client gets: hosts that come and go, names
 * with and without the domain, the way back from addresses, aliases, services, and what never leaves the network.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ipBytes, parseIp, parsePrefix } from '../../src/services/address.js'
import { DnsForwarder } from '../../src/services/dns-forwarder.js'
import { DnsServer } from '../../src/services/dns-server.js'
import { reverseDomains, reverseName } from '../../src/services/dns-special.js'
import { DnsZone, NO_ZONE, type ZoneSettings } from '../../src/services/dns-zone.js'
import { type Seen, query, random, read } from './dns-messages.js'

const ip = (text: string): number[] => parseIp(text)!
const SETTINGS: ZoneSettings = {
  ...NO_ZONE,
  domain: 'lan',
  gateway: [ip('10.0.0.1'), ip('fd00::1')],
  subnets: [parsePrefix('10.0.0.0/24')!, parsePrefix('203.0.114.64/26')!, parsePrefix('2001:db8:1::/62')!],
  hosts: [
    { name: 'printer', addresses: [ip('10.0.0.9')] },
    { name: 'www.example.com', addresses: [ip('10.0.0.8')] },
  ],
  aliases: [
    { name: 'web', target: 'vm1' },
    { name: 'loop1', target: 'loop2' },
    { name: 'loop2', target: 'loop1' },
    { name: 'outside', target: 'www.elsewhere.net' },
    ...Array.from({ length: 12 }, (_, i) => ({ name: `c${i}`, target: i === 11 ? 'vm1' : `c${i + 1}` })),
  ],
  services: [{ name: '_http._tcp', target: 'vm1', port: 8080, priority: 1, weight: 2 }],
  texts: [{ name: 'note', text: ['one', 'two'] }],
  delegated: ['corp.test', 'home.arpa'],
}

function setUp(settings: ZoneSettings = SETTINGS): {
  zone: DnsZone
  server: DnsServer
  ask(name: string, type: string | number): Seen
} {
  const zone = new DnsZone(settings)
  const server = new DnsServer(zone, new DnsForwarder())
  const client = { port: 'vm1', ip: ipBytes(ip('10.0.0.5')), isTcp: false }
  const ask = (name: string, type: string | number): Seen => {
    let seen: Seen | null = null
    server.handle(query(name, type), client, (message) => {
      assert.equal(seen, null, 'answered twice')
      seen = read(message)
    })
    assert.ok(seen, 'not answered at once')
    return seen
  }
  return { zone, server, ask }
}

const AA = 0x0400
/** Without upstreams what is forwarded fails: SERVFAIL, not authoritative. */
const isForwarded = ({ rcode, flags }: Seen): boolean => rcode === 2 && (flags & AA) === 0

test('hosts of leases have names at once, and no longer than that', () => {
  const { zone, ask } = setUp()
  assert.equal(ask('vm1.lan', 'A').rcode, 3)
  assert.ok(zone.setHost('VM1', [ip('10.0.0.5')], 'mac1'))
  for (const name of ['vm1.lan', 'vm1', 'VM1.LAN', 'Vm1']) {
    const seen = ask(name, 'A')
    assert.deepEqual(seen.answers, [`${name} 1 10.0.0.5`])
    assert.equal(seen.flags, 0x8580)
  }
  assert.deepEqual(ask('5.0.0.10.in-addr.arpa', 'PTR').answers, ['5.0.0.10.in-addr.arpa 12 vm1.lan'])
  const none = ask('vm1.lan', 'AAAA')
  assert.deepEqual([none.rcode, none.counts], [0, [1, 0, 1, 0]])
  assert.deepEqual(none.authorities, ['lan 6 gateway.lan'])
  assert.ok(zone.setHost('vm1.lan.', [ip('2001:db8:1::5')], 'mac1'), 'the other family is added')
  assert.equal(ask('vm1', 'A').answers.length, 1)
  assert.equal(ask('vm1', 'AAAA').answers.length, 1)
  assert.equal(ask(reverseName(ip('2001:db8:1::5')), 'PTR').answers.length, 1)
  assert.ok(zone.setHost('vm1', [ip('10.0.0.6')], 'mac1'), 'the same family is replaced')
  assert.deepEqual(ask('vm1', 'A').answers, ['vm1 1 10.0.0.6'])
  assert.equal(ask('5.0.0.10.in-addr.arpa', 'PTR').rcode, 3)
  assert.ok(zone.removeHost('vm1', 'mac1', 4))
  assert.equal(ask('vm1', 'A').rcode, 0)
  assert.equal(ask('vm1', 'AAAA').answers.length, 1)
  assert.ok(zone.removeHost('vm1', 'mac1'))
  assert.equal(ask('vm1', 'A').rcode, 3)
  assert.equal(zone.size, 0)
})

test('a guest takes no name that is not its own', () => {
  const { zone, ask } = setUp()
  const its = [ip('10.0.0.66')]
  const taken = ['gateway', 'printer', 'localhost', 'wpad', 'isatap', 'host', 'web', 'www.example.com']
  for (const name of [...taken, 'a b', '-x', '', 'a.b', 'lan.', '*', 'x'.repeat(64)])
    assert.equal(zone.setHost(name, its, 'evil'), name === 'lan.', name)
  assert.ok(zone.setHost('vm1', [ip('10.0.0.5')], 'good'))
  assert.equal(zone.setHost('vm1', its, 'evil'), false)
  assert.equal(zone.removeHost('vm1', 'evil'), false)
  assert.deepEqual(ask('vm1', 'A').answers, ['vm1 1 10.0.0.5'])
  assert.deepEqual(ask('gateway', 'A').answers, ['gateway 1 10.0.0.1'])
})

test('gateway, static hosts, services, texts, the domain itself', () => {
  const { zone, ask } = setUp()
  zone.setHost('vm1', [ip('10.0.0.5')])
  assert.deepEqual(ask('1.0.0.10.in-addr.arpa', 'PTR').answers, ['1.0.0.10.in-addr.arpa 12 gateway.lan'])
  assert.equal(ask(reverseName(ip('fd00::1')), 'PTR').answers.length, 1)
  assert.deepEqual(ask('www.example.com', 'A').answers, ['www.example.com 1 10.0.0.8'])
  assert.equal(ask('www.example.com', 'AAAA').rcode, 0)
  assert.ok(isForwarded(ask('example.com', 'A')), 'a name on the way to ours is not ours')
  assert.ok(isForwarded(ask('x.www.example.com', 'A')))
  const service = ask('_http._tcp.lan', 'SRV')
  assert.deepEqual(service.answers, ['_http._tcp.lan 33 1 2 8080 vm1.lan'])
  assert.deepEqual(service.additionals, ['vm1.lan 1 10.0.0.5'])
  assert.deepEqual([ask('_tcp.lan', 'SRV').rcode, ask('_udp.lan', 'SRV').rcode], [0, 3])
  assert.deepEqual(ask('note.lan', 'TXT').answers, ['note.lan 16 036f6e650374776f'])
  assert.deepEqual(ask('lan', 'SOA').answers, ['lan 6 gateway.lan'])
  assert.deepEqual(ask('lan', 'NS').answers, ['lan 2 gateway.lan'])
  assert.deepEqual(ask('vm1.lan', 'ANY').answers, ['vm1.lan 13 075246433834383200'])
  assert.deepEqual(ask('vm1.lan', 1000).counts, [1, 0, 1, 0])
})

test('aliases', () => {
  const { zone, ask } = setUp()
  zone.setHost('vm1', [ip('10.0.0.5')])
  assert.deepEqual(ask('web', 'A').answers, ['web 5 vm1.lan', 'vm1.lan 1 10.0.0.5'])
  assert.deepEqual(ask('web.lan', 'CNAME').answers, ['web.lan 5 vm1.lan'])
  assert.equal(ask('web.lan', 'AAAA').counts[2], 1)
  assert.deepEqual([ask('loop1', 'A').rcode, ask('loop1', 'A').counts[1]], [2, 0])
  assert.equal(ask('c2', 'A').answers.length, 11, 'ten links are followed')
  assert.equal(ask('c1', 'A').rcode, 2, 'eleven are not')
  zone.removeHost('vm1')
  assert.deepEqual([ask('web', 'A').rcode, ask('web', 'A').counts[1]], [3, 1])
  assert.ok(isForwarded(ask('outside', 'A')))
})

test('what is never asked for outside, and what is', () => {
  const { ask } = setUp()
  const empty = ['x.invalid', 'test', 'a.b.test', 'x.onion', 'printer.local', 'x.alt', 'lan.lan']
  empty.push('5.4.3.10.in-addr.arpa', '2.0.0.10.in-addr.arpa', '70.114.0.203.in-addr.arpa')
  empty.push('1.1.168.192.in-addr.arpa', '1.20.172.in-addr.arpa')
  empty.push(reverseName(ip('2001:db8:1:3::7')), reverseName(ip('fe80::1')), reverseName(ip('fd12::1')))
  for (const name of empty) {
    const seen = ask(name, name.endsWith('arpa') ? 'PTR' : 'A')
    assert.equal(seen.flags & AA, AA, name)
    // a domain's own name is there; in a prefix that ends within an octet each address is a domain
    assert.equal(seen.rcode, name === 'test' || name.startsWith('70.114') ? 0 : 3, name)
    assert.equal(seen.counts[2], 1, name)
  }
  for (const type of ['A', 'AAAA', 'MX', 'TXT', 'HTTPS']) assert.equal(ask('unknown', type).rcode, 3, type)
  for (const type of ['NS', 'SOA', 'DS', 'DNSKEY']) assert.ok(isForwarded(ask('com', type)), type)
  for (const name of ['example.org', 'x.corp.test', 'x.home.arpa', '1.114.0.203.in-addr.arpa', '1.33.172.in-addr.arpa'])
    assert.ok(isForwarded(ask(name, 'A')), name)
  assert.ok(isForwarded(ask('.', 'NS')))
  assert.deepEqual(ask('localhost', 'A').answers, ['localhost 1 127.0.0.1'])
  assert.equal(ask('x.localhost', 'AAAA').answers.length, 1)
  assert.equal(ask('localhost', 'MX').rcode, 0)
  assert.deepEqual(ask('1.0.0.127.in-addr.arpa', 'PTR').answers, ['1.0.0.127.in-addr.arpa 12 localhost'])
})

test('reverse domains of prefixes of any length', () => {
  assert.deepEqual(reverseDomains(parsePrefix('10.1.0.0/16')!), ['1.10.in-addr.arpa'])
  assert.equal(reverseDomains(parsePrefix('203.0.114.64/26')!).length, 64)
  assert.deepEqual(reverseDomains(parsePrefix('192.168.4.0/23')!), ['4.168.192.in-addr.arpa', '5.168.192.in-addr.arpa'])
  assert.deepEqual(
    reverseDomains(parsePrefix('2001:db8:1::/63')!).map((name) => name.split('.')[0]),
    ['0', '1'],
  )
  assert.deepEqual(reverseDomains(parsePrefix('0.0.0.0/0')!), ['in-addr.arpa'])
})

test('another definition takes effect, hosts of leases stay under the new domain', () => {
  const { zone, ask } = setUp()
  zone.setHost('vm1', [ip('10.0.0.5')])
  zone.configure({ ...SETTINGS, domain: 'net.example', hosts: [], aliases: [], services: [], texts: [] })
  assert.deepEqual(ask('vm1.net.example', 'A').answers, ['vm1.net.example 1 10.0.0.5'])
  assert.deepEqual(ask('vm1', 'A').answers, ['vm1 1 10.0.0.5'])
  assert.ok(isForwarded(ask('vm1.lan', 'A')))
  assert.deepEqual(ask('5.0.0.10.in-addr.arpa', 'PTR').answers, ['5.0.0.10.in-addr.arpa 12 vm1.net.example'])
  zone.configure({ ...SETTINGS, domain: null, hosts: [], aliases: [], services: [], texts: [] })
  assert.deepEqual(ask('vm1', 'A').answers, ['vm1 1 10.0.0.5'])
  const wrong = { ...SETTINGS, hosts: [{ name: 'a..b', addresses: [] }] }
  assert.throws(() => zone.configure(wrong), /a\.\.b is not a domain name/)
  assert.deepEqual(ask('vm1', 'A').answers, ['vm1 1 10.0.0.5'], 'the former settings stay')
})

test('hosts against a plain map', () => {
  const next = random(5)
  const { zone, ask } = setUp()
  const model = new Map<string, string>()
  for (let i = 0; i < 4000; i++) {
    const name = `h${next(40)}`
    const address = `10.0.0.${100 + Number(name.slice(1))}`
    if (next(2) === 0) {
      zone.setHost(name, [ip(address)])
      model.set(name, address)
    } else assert.equal(zone.removeHost(name), model.delete(name))
    const other = `h${next(40)}`
    const expected = model.get(other)
    assert.deepEqual(ask(other, 'A').answers, expected ? [`${other} 1 ${expected}`] : [])
    const back = `${100 + Number(other.slice(1))}.0.0.10.in-addr.arpa`
    assert.deepEqual(ask(back, 'PTR').answers, expected ? [`${back} 12 ${other}.lan`] : [])
  }
})
