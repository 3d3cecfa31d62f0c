/** The host's network, from files as the kernel and resolvconf write them; choices against a plain search. */
import assert from 'node:assert/strict'
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { type NetworkInterfaceInfo, endianness, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { contains, formatPrefix, overlaps, parseIp, parsePrefix } from '../../src/services/address.js'
import {
  HOST_FILES,
  type HostFiles,
  type Resolvers,
  defaultRoute,
  hostAddresses,
  hostRoutes,
  pickSubnet,
  pickTransferSubnet,
  prefixesInUse,
  readResolvers,
  uniqueLocalPrefix,
  watchResolvers,
} from '../../src/services/host-network.js'

const folder = mkdtempSync(join(tmpdir(), 'weft-host-'))
after(() => rmSync(folder, { recursive: true }))
let serial = 0
const file = (text: string): string => {
  const path = join(folder, `${serial++}`)
  writeFileSync(path, text)
  return path
}

/** An address as the kernel prints it: a number of this machine's order. */
const word = (address: string): string => {
  const hex = address.split('.').map((part) => Number(part).toString(16).padStart(2, '0'))
  return (endianness() === 'LE' ? hex.reverse() : hex).join('').toUpperCase()
}
const row4 = (dev: string, to: string, via: string, flags: string, metric: number, mask: string): string =>
  [dev, word(to), word(via), flags, '0', '0', metric, word(mask), '0', '0', '0'].join('\t')
const route4 = [
  'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT',
  row4('wlan0', '0.0.0.0', '192.168.178.1', '0003', 600, '0.0.0.0'),
  row4('eth0', '0.0.0.0', '192.0.2.1', '0003', 100, '0.0.0.0'),
  row4('tun0', '0.0.0.0', '10.8.0.1', '0003', 0, '128.0.0.0'), // half a way out
  row4('eth0', '192.0.2.0', '0.0.0.0', '0001', 100, '255.255.255.0'),
  row4('tun0', '172.16.0.0', '10.8.0.1', '0003', 0, '255.240.0.0'),
  row4('*', '10.0.0.0', '0.0.0.0', '0201', 0, '255.0.0.0'), // rejected
  row4('eth9', '10.99.0.0', '0.0.0.0', '0000', 0, '255.255.0.0'), // not up
  'eth0\tbroken',
  '',
].join('\n')
const six = (hex: string): string => hex.padEnd(32, '0')
const row6 = (to: string, bits: string, via: string, metric: string, flags: string, dev: string): string =>
  `${six(to)} ${bits} ${six('')} 00 ${six(via)} ${metric} 00000001 00000000 ${flags} ${dev.padStart(8)}`
const route6 = [
  row6('20010db80001', '40', '', '00000100', '00000001', 'eth0'),
  row6('fe80', '40', '', '00000100', '00000001', 'eth0'),
  row6('', '00', 'fe80000000000000000000000000aaaa', '00000400', '00000003', 'eth0'),
  row6('', '00', '', 'ffffffff', '00200200', 'lo'),
  row6('20010db8000100000000000000000002', '80', '', '00000000', '80200001', 'eth0'),
  row6('ff00', '08', '', '00000100', '00000001', 'eth0'),
  row6('fd12', '10', 'fd000000000000000000000000000001', '00000400', '00000003', 'wg0'),
  'nonsense',
].join('\n')
const files = (resolvers = ''): HostFiles => ({ route: file(route4), route6: file(route6), resolvers: file(resolvers) })
const info = (cidr: string): NetworkInterfaceInfo => ({ cidr }) as NetworkInterfaceInfo

test('routes are read, of both families', () => {
  const text = hostRoutes(files()).map(
    ({ destination, gateway, dev, metric }) => `${formatPrefix(destination)} ${gateway ?? '-'} ${dev} ${metric}`,
  )
  assert.deepEqual(text, [
    `0.0.0.0/0 ${parseIp('192.168.178.1')} wlan0 600`,
    `0.0.0.0/0 ${parseIp('192.0.2.1')} eth0 100`,
    `0.0.0.0/1 ${parseIp('10.8.0.1')} tun0 0`,
    '192.0.2.0/24 - eth0 100',
    `172.16.0.0/12 ${parseIp('10.8.0.1')} tun0 0`,
    '2001:db8:1::/64 - eth0 256',
    `::/0 ${parseIp('fe80::aaaa')} eth0 1024`,
    `fd12::/16 ${parseIp('fd00::1')} wg0 1024`,
  ])
})

test('the default route is the one of the least metric', () => {
  const host = files()
  assert.deepEqual(defaultRoute(4, host)!.dev, 'eth0')
  assert.deepEqual(defaultRoute(4, host)!.gateway, parseIp('192.0.2.1'))
  assert.deepEqual(defaultRoute(6, host)!.gateway, parseIp('fe80::aaaa'))
  const none = { route: '/nowhere', route6: '/nowhere', resolvers: '/nowhere' }
  assert.equal(defaultRoute(4, none), null)
  assert.deepEqual(hostRoutes(none), [])
})

test('what is in use: links, routes that are no way out, gateways, resolvers', () => {
  const interfaces = {
    eth0: [info('192.0.2.7/24'), info('2001:db8:1::2/64')],
    docker0: [info('172.17.0.1/16')],
    odd: undefined,
    none: [{ cidr: null } as NetworkInterfaceInfo],
  }
  const used = new Set(prefixesInUse(files('nameserver 10.255.255.53\n'), interfaces).map(formatPrefix))
  for (const text of ['192.0.2.0/24', '172.17.0.0/16', '172.16.0.0/12', '10.8.0.1/32', '10.255.255.53/32'])
    assert.ok(used.has(text), text)
  for (const text of ['0.0.0.0/0', '0.0.0.0/1', '::/0', '10.0.0.0/8', '10.99.0.0/16']) assert.ok(!used.has(text), text)
  assert.ok(used.has('fd12::/16') && used.has('2001:db8:1::/64'))
  assert.deepEqual(
    hostAddresses(interfaces).map(({ dev, address }) => `${dev} ${formatPrefix(address)}`),
    ['eth0 192.0.2.7/24', 'eth0 2001:db8:1::2/64', 'docker0 172.17.0.1/16'],
  )
})

test('this host is read without complaint', () => {
  assert.ok(prefixesInUse(HOST_FILES).length > 0)
  hostRoutes()
  readResolvers()
})

// ---- subnets ----

const prefixes = (...texts: string[]) => texts.map((text) => parsePrefix(text)!)

test('a free host gets 192.168.x.0/24 by its seed, always the same', () => {
  const seen = new Set<string>()
  for (let i = 0; i < 300; i++) {
    const subnet = pickSubnet([], `seed ${i}`)!
    assert.equal(subnet, pickSubnet([], `seed ${i}`))
    const third = Number(/^192\.168\.(\d+)\.0\/24$/.exec(subnet)![1])
    assert.ok(third >= 100 && third <= 250)
    seen.add(subnet)
  }
  assert.ok(seen.size > 100)
})

test('what is taken is avoided, down to the last place', () => {
  const seed = 'a network'
  const rest = ['192.168.32.0/19', '192.168.64.0/18', '192.168.128.0/17', '172.16.0.0/12', '10.0.0.0/8']
  for (const [taken, inside] of [
    [['192.168.100.0/22', '192.168.128.0/17'], '192.168.0.0/16'],
    [['192.168.64.0/18', '192.168.128.0/17'], '192.168.0.0/18'],
    [['192.168.0.0/16'], '172.16.0.0/12'],
    [['192.168.0.0/16', '172.16.0.0/13', '172.24.0.9/32'], '172.24.0.0/13'],
    [['192.168.0.0/16', '172.0.0.0/8'], '10.0.0.0/8'],
    [['192.168.0.0/16', '172.0.0.0/8', '10.0.0.0/9', '10.192.0.0/10', '10.128.0.0/11'], '10.160.0.0/11'],
    [['192.168.2.0/23', '192.168.4.0/22', '192.168.8.0/21', '192.168.16.0/20', ...rest], '192.168.0.0/23'],
  ] as [string[], string][]) {
    const list = prefixes(...taken)
    const subnet = parsePrefix(pickSubnet(list, seed)!)!
    assert.ok(contains(parsePrefix(inside)!, subnet.ip), `${taken}: ${formatPrefix(subnet)}`)
    assert.ok(list.every((one) => !overlaps(one, subnet)))
  }
  assert.equal(pickSubnet(prefixes('192.168.0.0/16', '172.16.0.0/12', '10.0.0.0/8'), seed), null)
  assert.equal(pickSubnet(prefixes('0.0.0.0/0'), seed), null)
  assert.notEqual(pickSubnet(prefixes('::/0'), seed), null)
})

test('one network after the other, none overlaps', () => {
  const taken = prefixes('192.168.178.0/24', '10.0.0.0/8', '172.17.0.0/16', '192.168.122.1/32')
  for (let i = 0; i < 400; i++) {
    const picked = parsePrefix((i % 2 ? pickSubnet : pickTransferSubnet)(taken, `network ${i % 7}`)!)!
    assert.equal(picked.prefix, i % 2 ? 24 : 30)
    assert.ok(taken.every((one) => !overlaps(one, picked)))
    taken.push(picked)
  }
})

test('a host with many routes', () => {
  const taken = Array.from({ length: 65536 }, (_, i) => ({
    ip: [(10 << 24) | (i << 8)],
    prefix: i === 40000 ? 25 : 24,
  }))
  taken.push(...prefixes('192.168.0.0/16', '172.16.0.0/12'))
  assert.equal(pickSubnet(taken, 'x'), null)
  const left = parsePrefix(pickTransferSubnet(taken, 'x')!)!
  assert.ok(contains(parsePrefix('10.156.64.128/25')!, left.ip), formatPrefix(left))
})

test('a unique local prefix comes of the UUID', () => {
  const one = uniqueLocalPrefix('f81d4fae-7dec-11d0-a765-00a0c91e6bf6')
  assert.match(one, /^fd[\da-f]{2}:[\da-f]{1,4}:[\da-f]{1,4}::\/64$/)
  assert.equal(one, uniqueLocalPrefix('F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6'))
  assert.notEqual(one, uniqueLocalPrefix('f81d4fae-7dec-11d0-a765-00a0c91e6bf7'))
  for (let i = 0; i < 500; i++) {
    const { ip, prefix } = parsePrefix(uniqueLocalPrefix(`${i}`))!
    assert.ok(prefix === 64 && ip[0] >>> 24 === 0xfd && (ip[1] & 0xffff) === 0 && ip[2] === 0 && ip[3] === 0)
  }
})

// ---- resolvers ----

test('resolv.conf as it is written', () => {
  const text = [
    '# made by hand',
    '; a comment, too',
    'domain old.example',
    'nameserver 127.0.0.53',
    '  nameserver\t2001:DB8::1  # the second',
    'nameserver fe80::1%eth0',
    'nameserver 127.0.0.53',
    'nameserver',
    'nameserver 300.1.1.1',
    'nameserver ff02::fb',
    'nameserver 10.0.0.1%eth0',
    'nameserver fe80::1%a/b',
    'options edns0 ndots:5',
    'search Example.test corp.example. bad..name -x',
  ].join('\r\n')
  assert.deepEqual(readResolvers(file(text)), {
    servers: ['127.0.0.53', '2001:db8::1', 'fe80::1%eth0'],
    search: ['example.test', 'corp.example'],
  })
  assert.deepEqual(readResolvers('/nowhere'), { servers: [], search: [] })
  assert.deepEqual(readResolvers(folder), { servers: [], search: [] })
})

test('a huge resolv.conf is not read to its end', () => {
  const lines = Array.from({ length: 20000 }, (_, i) => `nameserver 10.0.${(i >> 8) & 255}.${i & 255}`)
  assert.equal(readResolvers(file(lines.join('\n'))).servers.length, 16)
  assert.deepEqual(readResolvers(file(`${'#'.repeat(70000)}\nnameserver 10.0.0.1`)).servers, [])
})

test('a change is told, once, also when the file is replaced or goes', async () => {
  const path = file('nameserver 10.0.0.1\n')
  const seen: Resolvers[] = []
  let wake = (): void => {}
  const stop = watchResolvers(
    (resolvers) => {
      seen.push(resolvers)
      wake()
    },
    path,
    20,
  )
  const alive = setTimeout(() => {}, 60000)
  const change = async (act: () => void): Promise<string[]> => {
    const told = new Promise<void>((resolve) => {
      wake = resolve
    })
    act()
    await told
    return seen.at(-1)!.servers
  }
  assert.deepEqual(await change(() => writeFileSync(path, 'nameserver 10.0.0.2\n')), ['10.0.0.2'])
  assert.deepEqual(await change(() => renameSync(file('nameserver ::1\n'), path)), ['::1'])
  assert.deepEqual(await change(() => rmSync(path)), [])
  assert.deepEqual(await change(() => writeFileSync(path, 'nameserver 10.0.0.3\n')), ['10.0.0.3'])
  writeFileSync(path, '# nothing of interest\nnameserver 10.0.0.3\n')
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.equal(seen.length, 4)
  stop()
  writeFileSync(path, 'nameserver 10.0.0.4\n')
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.equal(seen.length, 4)
  clearTimeout(alive)
})
