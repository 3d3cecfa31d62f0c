/**
 * The demo as root: a network of mode nat, with everything around it in namespaces.
 *
 *   alice ---+                    +--- wan0 === eth0 --- world
 *   bob   ---+--- weft: router ---+    203.0.113.2      203.0.113.1
 *   carol ---+    10.99.0.1
 *
 * Weft runs in a namespace whose one interface, wan0, is its uplink (`netdev`: a raw socket, with an address of the
 * router's own; the interface itself has none). The guests' interfaces come up as a guest's would: a DHCP client of
 * Debian's (busybox udhcpc, or dhclient) sets address, route and resolver, the kernel makes IPv6 addresses from router
 * advertisements. A second network shows VLANs.
 */
import { chmodSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Demo, claim, say } from './demo-report.js'
import { find } from '../test/rig/unpacked.js'
import type { Topology } from './topology.js'

const NETWORK = 'demo'
const SUBNET = '10.99.0.0/24'
const SUBNET6 = 'fd99:0:0:1::/64'
const WORLD = '203.0.113.1'
const ROUTER = '203.0.113.2'
const GUESTS = [
  { name: 'alice', vlan: 10 },
  { name: 'bob', vlan: 10 },
  { name: 'carol', vlan: 20 },
] as const
const TCP_SECONDS = 2

/** The namespaces, by the names above. */
type Spaces = ReadonlyMap<string, string>

/** What udhcpc runs: it hands over what it was given in variables. */
const UDHCPC_SCRIPT = `#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
ip route replace default via $router
{ echo "search $domain"; for server in $dns; do echo "nameserver $server"; done; } > /etc/resolv.conf
`
/** The same for dhclient. */
const DHCLIENT_SCRIPT = `#!/bin/sh
case "$reason" in BOUND|RENEW|REBIND|REBOOT) ;; *) exit 0 ;; esac
ip address replace "$new_ip_address/$new_subnet_mask" dev "$interface"
ip route replace default via $new_routers
{ echo "search $new_domain_name"; for server in $new_domain_name_servers; do echo "nameserver $server"; done; } \
  > /etc/resolv.conf
`

export const showRouter = { prepare, show }

async function prepare(topology: Topology, weft: string): Promise<Spaces> {
  const spaces = new Map([['weft', weft]])
  for (const name of ['world', ...GUESTS.map((guest) => guest.name)]) {
    spaces.set(name, await topology.namespace(name, { ipv6: true }))
  }
  const world = spaces.get('world') ?? ''
  const ip = (netns: string, ...args: string[]): Promise<string> => topology.run(null, ['ip', '-n', netns, ...args])
  await ip(weft, 'link', 'add', 'wan0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', world)
  await ip(weft, 'link', 'set', 'wan0', 'up')
  await ip(world, 'address', 'add', `${WORLD}/24`, 'dev', 'eth0')
  await ip(world, 'link', 'set', 'eth0', 'up')
  return spaces
}

async function show(demo: Demo, spaces: Spaces): Promise<void> {
  const { topology, weft } = demo
  const inside = (name: string, ...command: string[]): Promise<string> =>
    topology.run(spaces.get(name) ?? '', command, { seconds: 15 })
  await weft('network', 'delete', 'default')
  say(`network ${NETWORK}: mode nat, ${SUBNET} and ${SUBNET6}, uplink netdev:wan0 at ${ROUTER}`)
  const uplink = `netdev:wan0,address=${ROUTER}/24,gateway=${WORLD}`
  const subnets = ['--subnet', SUBNET, '--subnet', SUBNET6]
  await weft('network', 'create', NETWORK, '--mode', 'nat', ...subnets, '--uplink', uplink)
  for (const { name } of GUESTS) {
    const netns = spaces.get(name) ?? ''
    topology.resolver(netns)
    await weft('port', 'add', NETWORK, name, '--kind', 'tap', '--dev', 'eth0', '--netns', netns)
  }

  const addresses = await lease(demo, spaces)
  await ping(inside)
  await ping6(inside)
  await tcp(demo, spaces, addresses)
  await forward(demo, spaces, addresses)
  await rule(demo, spaces)
  await seen(demo, addresses)
  await vlans(demo, spaces)
}

type Inside = (name: string, ...command: string[]) => Promise<string>

/** All guests ask at once. Returns their addresses. */
async function lease({ topology, weft, folder }: Demo, spaces: Spaces): Promise<Map<string, string>> {
  const client = dhcpClient(folder)
  say(`\naddresses by DHCP (${client.name})`)
  await Promise.all(
    GUESTS.map(async ({ name }) => {
      const netns = spaces.get(name) ?? ''
      await topology.run(null, ['ip', '-n', netns, 'link', 'set', 'eth0', 'up'])
      const began = performance.now()
      await topology.run(netns, client.command(name), { seconds: 20 })
      const millis = performance.now() - began
      const address = await addressOf(topology, netns)
      claim(address.startsWith('10.99.0.'), `${name} has ${address} after ${millis.toFixed(0)} ms`)
    }),
  )
  const leases = JSON.parse(await weft('lease', 'list', NETWORK, '--json')) as { hostname: string; address: string }[]
  return new Map(leases.map(({ hostname, address }) => [hostname, address]))
}

function dhcpClient(folder: string): { name: string; command(hostname: string): string[] } {
  const script = `${folder}/lease.sh`
  const busybox = find('busybox')
  writeFileSync(script, busybox === null ? DHCLIENT_SCRIPT : UDHCPC_SCRIPT)
  chmodSync(script, 0o755)
  if (busybox !== null) {
    const options = ['-i', 'eth0', '-f', '-q', '-n', '-t', '5', '-T', '1', '-s', script]
    return {
      name: 'busybox udhcpc',
      command: (name) => [busybox.path, 'udhcpc', ...options, '-x', `hostname:${name}`],
    }
  }
  return {
    name: 'dhclient',
    command: (name) => {
      const file = `${folder}/${name}`
      writeFileSync(`${file}.conf`, `send host-name "${name}";\n`)
      const options = ['-1', '-4', '-sf', script, '-cf', `${file}.conf`, '-lf', `${file}.leases`, '-pf', `${file}.pid`]
      return ['dhclient', ...options, 'eth0']
    },
  }
}

async function addressOf(topology: Topology, netns: string, family = '-4'): Promise<string> {
  const json = await topology.run(null, [
    'ip',
    '-n',
    netns,
    family,
    '-j',
    'address',
    'show',
    'dev',
    'eth0',
    'scope',
    'global',
  ])
  const links = JSON.parse(json) as { addr_info?: { local: string; tentative?: boolean }[] }[]
  return links.flatMap(({ addr_info = [] }) => addr_info).find(({ tentative }) => tentative !== true)?.local ?? ''
}

async function ping(inside: Inside): Promise<void> {
  say('\nping by name (the gateway answers DNS)')
  for (const [from, to] of [
    ['alice', 'bob'],
    ['bob', 'carol'],
    ['carol', 'alice'],
  ] as const) {
    await inside(from, 'ping', '-4', '-q', '-c', '1', '-W', '2', to)
    const answer = await inside(from, 'ping', '-4', '-q', '-c', '10', '-i', '0.05', '-W', '2', to)
    claim(answer.includes(' 0% packet loss'), `${from} reaches ${to}: ${roundTrip(answer)}`)
  }
  const out = await inside('alice', 'ping', '-n', '-q', '-c', '5', '-i', '0.05', '-W', '2', WORLD)
  claim(out.includes(' 0% packet loss'), `alice reaches the outside, ${WORLD}: ${roundTrip(out)}`)
}

const roundTrip = (answer: string): string => `round trip ${/rtt .* = [\d.]+\/([\d.]+)/.exec(answer)?.[1] ?? '?'} ms`

async function ping6(inside: Inside): Promise<void> {
  say('\nIPv6 by router advertisements')
  const own = async (name: string): Promise<string> => {
    for (let i = 0; i < 50; i++) {
      const text = await inside(
        name,
        'ip',
        '-6',
        '-o',
        'address',
        'show',
        'dev',
        'eth0',
        'scope',
        'global',
        '-tentative',
      )
      const address = /inet6 (fd99:[0-9a-f:]+)/.exec(text)?.[1]
      if (address !== undefined) return address
      await sleep(100)
    }
    return ''
  }
  const [alice, bob] = [await own('alice'), await own('bob')]
  claim(alice !== '' && bob !== '', `alice is ${alice}, bob ${bob}`)
  await inside('alice', 'ping', '-n', '-q', '-c', '1', '-W', '2', bob)
  const answer = await inside('alice', 'ping', '-n', '-q', '-c', '5', '-i', '0.05', '-W', '2', bob)
  claim(answer.includes(' 0% packet loss'), `alice reaches bob there: ${roundTrip(answer)}`)
}

async function tcp({ topology }: Demo, spaces: Spaces, addresses: Map<string, string>): Promise<void> {
  say(`\nTCP, ${TCP_SECONDS} seconds each (iperf3)`)
  const measure = async (from: string, to: string, address: string, sentence: string): Promise<void> => {
    const server = topology.start(spaces.get(to) ?? '', ['iperf3', '-s', '-1', '--forceflush'])
    await server.ready('listening', 5)
    const client = ['iperf3', '-c', address, '-t', String(TCP_SECONDS), '-J']
    const json = await topology.run(spaces.get(from) ?? '', client, { seconds: TCP_SECONDS + 15 })
    const { end } = JSON.parse(json) as { end: { sum_received: { bits_per_second: number } } }
    const gigabits = end.sum_received.bits_per_second / 1e9
    claim(gigabits > 0, `${sentence}: ${gigabits.toFixed(2)} Gbit/s`)
    await server.ended
  }
  await measure('alice', 'bob', addresses.get('bob') ?? '', 'alice to bob, switched')
  await measure('alice', 'world', WORLD, 'alice to the outside, through NAT and firewall')
}

/** A little web server, and whether it is reached. Node is there in any case. */
const serving = (text: string, port: number): string =>
  `require('http').createServer((q, r) => r.end('${text} ' + q.socket.remoteAddress))` +
  `.listen(${port}, '0.0.0.0', () => console.log('ready'))`
const fetching = (url: string): string =>
  `fetch('${url}', { signal: AbortSignal.timeout(1500) }).then((r) => r.text())` +
  '.then(console.log, () => process.exit(1))'

function web({ topology }: Demo, spaces: Spaces) {
  return {
    serve: async (name: string, text: string, port: number): Promise<void> => {
      const server = topology.start(spaces.get(name) ?? '', [process.execPath, '-e', serving(text, port)])
      await server.ready('ready', 10)
    },
    /** What comes back; null: nothing does. */
    fetch: (name: string, url: string): Promise<string | null> =>
      topology.run(spaces.get(name) ?? '', [process.execPath, '-e', fetching(url)]).then(
        (text) => text.trim(),
        () => null,
      ),
  }
}

async function forward(demo: Demo, spaces: Spaces, addresses: Map<string, string>): Promise<void> {
  say('\nfrom the outside')
  const { weft, topology } = demo
  const { serve, fetch } = web(demo, spaces)
  const bob = addresses.get('bob') ?? ''
  await serve('bob', 'bob says hello to', 80)
  const before = await fetch('world', `http://${ROUTER}:8080/`)
  claim(before === null, `${ROUTER}:8080 answers nobody`)
  await weft('forward', 'add', NETWORK, 'tcp:8080', 'bob:80')
  const answer = await fetch('world', `http://${ROUTER}:8080/`)
  claim(answer === `bob says hello to ${WORLD}`, `with "forward add tcp:8080 bob:80": "${answer}"`)
  await topology.run(null, ['ip', '-n', spaces.get('world') ?? '', 'route', 'add', SUBNET, 'via', ROUTER])
  const direct = await fetch('world', `http://${bob}/`)
  claim(direct === null, `who routes ${SUBNET} to ${ROUTER} does not reach ${bob}:80 all the same`)
}

async function rule(demo: Demo, spaces: Spaces): Promise<void> {
  say('\na firewall rule')
  const { weft } = demo
  const { serve, fetch } = web(demo, spaces)
  await serve('world', 'the world sees', 9000)
  const url = `http://${WORLD}:9000/`
  const before = await fetch('alice', url)
  claim(before === `the world sees ${ROUTER}`, `alice: "${before}", the router's address`)
  await weft('rule', 'add', NETWORK, 'drop', 'out', 'from', 'alice', 'tcp', 'dport', '9000')
  const [alice, carol] = await Promise.all([fetch('alice', url), fetch('carol', url)])
  claim(alice === null, 'with "drop out from alice tcp dport 9000" alice gets no answer')
  claim(carol !== null, `carol does: "${carol}"`)
  const rules = JSON.parse(await weft('rule', 'list', NETWORK, '--json')) as { packets: number }[]
  claim((rules[0]?.packets ?? 0) > 0, `the rule has dropped ${rules[0]?.packets} packets`)
}

async function seen({ weft }: Demo, addresses: Map<string, string>): Promise<void> {
  say('\nwhat the router knows')
  say((await weft('lease', 'list', NETWORK)).trimEnd())
  const connections = (await weft('connection', 'list', NETWORK)).trimEnd().split('\n')
  claim(connections.length > 1, `${connections.length - 1} connections, the first of them (weft connection list):`)
  for (const line of connections.slice(0, 5)) say(line)
  say('\nand would do (weft trace)')
  const packet = `tcp ${addresses.get('alice')}:40000 > ${WORLD}:443`
  say((await weft('trace', NETWORK, '--from', 'alice', packet)).trimEnd())
}

/** Three hosts of one subnet on a switch, two of them in one VLAN. */
async function vlans({ topology, weft }: Demo, spaces: Spaces): Promise<void> {
  say('\nVLANs: a second network, mode isolated, one subnet')
  await weft('network', 'create', 'lab', '--mode', 'isolated')
  for (const [i, { name, vlan }] of GUESTS.entries()) {
    const netns = spaces.get(name) ?? ''
    const options = ['--kind', 'tap', '--dev', 'eth1', '--netns', netns, '--access', String(vlan)]
    await weft('port', 'add', 'lab', name, ...options)
    await topology.run(null, ['ip', '-n', netns, 'address', 'add', `10.98.0.${i + 1}/24`, 'dev', 'eth1'])
    await topology.run(null, ['ip', '-n', netns, 'link', 'set', 'eth1', 'up'])
  }
  const reaches = (from: string, to: string, count: string): Promise<boolean> =>
    topology.run(spaces.get(from) ?? '', ['ping', '-n', '-q', '-c', count, '-i', '0.2', '-W', '1', to]).then(
      () => true,
      () => false,
    )
  claim(await reaches('alice', '10.98.0.2', '1'), 'alice and bob, both in VLAN 10, reach each other')
  const apart = await Promise.all([reaches('alice', '10.98.0.3', '2'), reaches('carol', '10.98.0.2', '2')])
  claim(
    apart.every((one) => !one),
    'carol, in VLAN 20, reaches neither, and neither her',
  )
}
