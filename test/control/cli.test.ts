/** The command line against a daemon: what it prints, and its exit status. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { duration, list, short, table } from '../../src/control/cli/table.js'
import { stableMac } from '../../src/control/mac.js'
import { qemuAdvice, shellLine } from '../../src/control/qemu.js'
import { parseNetwork } from '../../src/control/definition.js'
import { CaptureReader } from '../../src/ports/pcapng.js'
import { type CommandResult, Fixture, until } from './daemon-fixture.js'

const fixture = new Fixture()
before(() => fixture.start())
after(() => fixture.close())

async function done(...args: string[]): Promise<string> {
  const result = await fixture.run(...args)
  assert.deepEqual([result.status, result.stderr], [0, ''], args.join(' '))
  return result.stdout
}

function refused(result: CommandResult, sentence: RegExp): void {
  assert.equal(result.status, 1, result.stderr)
  assert.equal(result.stdout, '')
  assert.match(result.stderr, sentence)
  assert.equal(result.stderr.trim().split('\n').length, 1, result.stderr)
}

test('a network and its ports, in text and in JSON', async () => {
  await done('network', 'create', 'lan', '--mtu', '9000', '--fdb-age', '10')
  assert.match(await done('network', 'list'), /^NAME +MODE +STATE .*\ndefault +nat +active .*\nlan +isolated +active /)
  const added = JSON.parse(
    await done('port', 'add', 'lan', 'vm1', '--kind', 'tap', '--trunk', '10,20-22', '--native', '5', '--json'),
  )
  assert.deepEqual(added.vlan, { mode: 'trunk', access: null, native: 5, trunk: [5, 10, 20, 21, 22] })
  assert.equal(added.mtu, 9000)
  assert.match(await done('port', 'list', 'lan'), /vm1 +tap +up +trunk 5,10,20-22 native 5 +9000/)
  await done('port', 'set', 'lan', 'vm1', '--access', '7')
  await done('port', 'set', 'lan', 'vm1', '--isolated')
  assert.match(await done('port', 'show', 'lan', 'vm1'), /\nvlan +7\n[^]*\nisolated +yes\n/)
  await done('port', 'set', 'lan', 'vm1', '--access', 'none', '--no-isolated')
  assert.match(await done('port', 'show', 'lan', 'vm1'), /\nvlan +-\n[^]*\nisolated +no\n/)
  await done('port', 'link', 'lan', 'vm1', 'down')
  assert.equal(JSON.parse(await done('port', 'show', 'lan', 'vm1', '--json')).state, 'down')
  await done('fdb', 'add', 'lan', '52:54:00:00:00:01', 'vm1', '--vid', '7')
  assert.match(await done('fdb', 'list', 'lan'), /^VLAN +MAC +PORT +AGE\n +7 +52:54:00:00:00:01 +vm1 +static\n$/)
  assert.deepEqual(JSON.parse(await done('fdb', 'list', 'lan', '--vid', '8', '--json')), [])
  await done('fdb', 'remove', 'lan', '52:54:00:00:00:01', '--vid', '7')
  await done('fdb', 'flush', 'lan')
  await done('network', 'set', 'lan', '--autostart')
  for (const verb of ['restart', 'stop', 'start']) await done('network', verb, 'lan')
  assert.match(await done('stats', 'lan'), /lan +vm1 +down +0 +0 +1 +0 +0 +0 +runt 1/)
  await done('port', 'remove', 'lan', 'vm1')
  await done('network', 'delete', 'lan')
  assert.match(await done('status'), /^weft +\d+\.\d+\.\d+, process \d+[^]*\nnetworks +1 active of 1\n/)
})

test('definitions: export, define, create from a file', async () => {
  const file = join(fixture.folder, 'net.yaml')
  writeFileSync(file, 'name: filed\nports:\n  - { name: a, kind: tap, access: 10 }\n')
  await done('network', 'define', file)
  assert.match(await done('network', 'list', '--all'), /filed +isolated +inactive/)
  const exported = await done('network', 'export', 'filed')
  await done('network', 'delete', 'filed')
  writeFileSync(file, exported)
  await done('network', 'create', file)
  const shown = JSON.parse(await done('network', 'show', 'filed', '--json'))
  assert.deepEqual([shown.active, shown.persistent, shown.ports], [true, false, 1])
  assert.equal(await done('network', 'export', 'filed'), exported)
  await done('network', 'stop', 'filed')
  refused(await fixture.run('network', 'show', 'filed'), /no network filed/)
  writeFileSync(file, '<network/>')
  refused(await fixture.run('network', 'define', file), /XML comes in a later version/)
  refused(await fixture.run('network', 'define', join(fixture.folder, 'absent')), /absent cannot be read/)
})

test('a router: what is given and what it knows, in text and in JSON', async () => {
  const create = ['--mode', 'nat', '--subnet', '10.7.0.0/24', '--subnet', 'fd00:7::/64', '--uplink', 'netdev:eth0']
  await done('network', 'create', 'r', ...create, '--dhcp', '10.7.0.10-10.7.0.99', '--domain', 'r.example')
  const shown = JSON.parse(await done('network', 'show', 'r', '--json'))
  assert.deepEqual(shown.subnets, [
    { cidr: '10.7.0.0/24', gateway: '10.7.0.1', dhcp: { from: '10.7.0.10', to: '10.7.0.99' } },
    { cidr: 'fd00:7::/64', gateway: 'fd00:7::1', dhcp: null },
  ])
  assert.deepEqual([shown.uplink, shown.uplinkStatus.state, shown.domain], ['netdev:eth0', 'up', 'r.example'])
  assert.match(
    await done('network', 'show', 'r'),
    /\nsubnet +10.7.0.0\/24, gateway 10.7.0.1, leases 10.7.0.10 to 10.7.0.99\n[^]*\nuplink state +up\n/,
  )
  await done('network', 'set', 'r', '--add-subnet', '10.8.0.0/24', '--dhcp', 'off', '--domain', 'none')
  const set = JSON.parse(await done('network', 'show', 'r', '--json'))
  assert.deepEqual([set.subnets.length, set.subnets[0].dhcp, set.domain], [3, null, null])

  await done('lease', 'reserve', 'r', '52:54:00:00:00:01', '10.7.0.5', '--name', 'web1')
  assert.deepEqual(JSON.parse(await done('lease', 'list', 'r', '--json')), [
    { address: '10.7.0.5', mac: '52:54:00:00:00:01', hostname: 'web1', port: null, expiresAt: null, reserved: true },
  ])
  assert.match(await done('lease', 'list', 'r'), /^ADDRESS .*\n10.7.0.5 +52:54:00:00:00:01 +web1 +- +- +yes\n$/)
  await done('lease', 'release', 'r', '10.7.0.5')

  assert.equal(await done('forward', 'add', 'r', 'tcp:8080', 'web1:80'), 'tcp:8080 goes to web1:80\n')
  await done('forward', 'add', 'r', 'udp:[2001:db8::1]:53-54', 'fd00:7::5')
  assert.match(await done('forward', 'list', 'r'), /udp:\[2001:db8::1\]:53-54 +\[fd00:7::5\]:53-54\n/)
  assert.deepEqual(JSON.parse(await done('forward', 'list', 'r', '--json'))[0], {
    protocol: 'tcp',
    address: null,
    firstPort: 8080,
    lastPort: 8080,
    to: 'web1',
    toPort: 80,
  })
  await done('forward', 'remove', 'r', 'tcp:8080')

  await done('rule', 'add', 'r', 'accept in tcp dport 22')
  assert.match(
    await done('rule', 'add', 'r', 'drop', 'in', 'from', '203.0.113.0/24', '--at', '1'),
    /^rule 1: drop in from/,
  )
  assert.match(await done('rule', 'list', 'r'), /^NUMBER +PACKETS +BYTES +RULE\n +1 +7 +700 +drop in from .*\n +2 /)
  await done('rule', 'remove', 'r', '1')
  assert.equal(JSON.parse(await done('rule', 'list', 'r', '--json')).length, 1)

  await done('route', 'add', 'r', '10.9.0.0/16', 'via', '10.7.0.3')
  await done('route', 'add', 'r', '10.10.0.0/16', 'default')
  await done('route', 'remove', 'r', '10.9.0.0/16')
  assert.match(
    await done('route', 'list', 'r'),
    /^DESTINATION +VIA +INTERFACE +ORIGIN\n10.7.0.0\/24 +- +r +connected\n/,
  )
  await done('record', 'add', 'r', 'db', 'a', '10.7.0.9', '10.7.0.10')
  assert.match(await done('record', 'list', 'r'), /\ndb +A +10.7.0.9 10.7.0.10\n$/)
  await done('record', 'remove', 'r', 'db')

  await done(
    'port',
    'add',
    'r',
    'vm1',
    '--kind',
    'tap',
    '--address',
    '10.7.0.9',
    '--address',
    'FD00:7::9',
    '--allow',
    'router',
  )
  assert.match(await done('port', 'show', 'r', 'vm1'), /\naddresses +10.7.0.9 fd00:7::9\nallow +router\n/)
  await done('port', 'set', 'r', 'vm1', '--address', 'none', '--allow', 'spoofing', '--allow', 'dhcp-server')
  const port = JSON.parse(await done('port', 'show', 'r', 'vm1', '--json'))
  assert.deepEqual([port.addresses, port.allow], [[], ['spoofing', 'dhcp-server']])
  assert.match(await done('neighbor', 'list', 'r'), /^ADDRESS +MAC +PORT +STATE +AGE\n.* vm1 +reachable +3 s\n$/)
  assert.match(await done('connection', 'list', 'r', '--limit', '5'), /^PROTOCOL +STATE +ORIGINAL/)
  assert.equal(await done('connection', 'flush', 'r'), '0 forgotten\n')
  assert.equal(
    await done('trace', 'r', '--from', 'vm1', 'tcp 10.7.0.5:1 > 192.0.2.1:2'),
    'port vm1 receives tcp 10.7.0.5:1 > 192.0.2.1:2\ndropped: policy\n',
  )
  await done('network', 'create', 'alone', '--mode', 'open', '--uplink', 'none')
  assert.match(await done('doctor'), /lacks +network alone +no uplink: its guests stay inside/)
  await done('network', 'delete', 'alone')
  assert.match(await done('doctor'), /interface eth0, promiscuous, Weft at 192.0.2.2\/24 \(uplink of network r\)/)
  await done('network', 'delete', 'r')
})

test('status 1: refused, one line that names the object and the value', async () => {
  refused(await fixture.run('network', 'show', 'x'), /^weft: there is no network x\n$/)
  refused(
    await fixture.run('port', 'add', 'default', 'p', '--kind', 'tap', '--access', '4095'),
    /access: 4095 is not 1..4094/,
  )
  refused(
    await fixture.run('port', 'add', 'default', 'p', '--kind', 'vde'),
    /ports of kind vde come in a later version/,
  )
  refused(
    await fixture.run('network', 'create', 'n', '--mode', 'star'),
    /star is not one of nat, route, open, isolated/,
  )
  refused(await fixture.run('network', 'create', 'n', '--mode', 'nat', '--uplink', 'sockets'), /in a later version/)
  refused(await fixture.run('network', 'create', 'n', '--subnet', '10.0.0.0/31'), /subnets\[0\].cidr: .* 8..30, not 31/)
  refused(await fixture.run('forward', 'add', 'default', 'tcp:0', 'web'), /firstPort: 0 is not 1..65535/)
  refused(await fixture.run('rule', 'add', 'default', 'permit', 'in'), /^weft: rule: .*permit/)
  refused(await fixture.run('lease', 'release', 'default', '10.0.0.9'), /network default has no lease of 10.0.0.9/)
  refused(await fixture.run('qemu', 'default', 'p'), /network default has no port p/)
})

test('a word that is nearly right: one line says what was meant, one where help is', async () => {
  for (const [words, meant] of [
    [['port', 'ad', 'default'], 'add'],
    [['netwrk', 'list'], 'network'],
  ] as const) {
    const { status, stderr } = await fixture.run(...words)
    assert.equal(status, 2)
    const lines = stderr.trimEnd().split('\n')
    assert.equal(lines.length, 2, stderr)
    assert.ok(lines[0].includes(`(Did you mean ${meant}?)`), stderr)
  }
})

test('status 2: wrong usage, with the usage', async () => {
  for (const words of [
    '',
    'frobnicate',
    'network',
    'network frobnicate',
    'port add default',
    'port add default p',
    'port link default p sideways',
    'port set default p',
    'lease',
    'lease reserve default 52:54:00:00:00:01',
    'route add default 10.0.0.0/8',
    'route add default 10.0.0.0/8 via',
    'rule remove default x',
    'trace default x',
    'network list --frobnicate',
    'port add default p --kind tap --mtu many',
    'up --log-level loud',
  ]) {
    const { status, stdout, stderr } = await fixture.run(...words.split(' ').filter(Boolean))
    assert.deepEqual([status, stdout], [2, ''], words)
    assert.match(stderr, /usage/i, words)
    const isTypo = words.split(' ').length > 2 || words.includes('frobnicate')
    if (isTypo) assert.equal(stderr.trim().split('\n').length, 2, stderr)
  }
})

test('status 3: no daemon', async () => {
  const other = new Fixture()
  const result = await other.run('status')
  assert.equal(result.status, 3)
  assert.match(result.stderr, /^weft: no daemon at .*weft\.sock \(weft up starts one\)\n$/)
  const doctor = await other.run('doctor')
  assert.equal(doctor.status, 0)
  assert.match(doctor.stdout, /daemon +no daemon at/)
  await other.close()
})

test('help and version', async () => {
  assert.match(await done('--version'), /^\d+\.\d+\.\d+\n$/)
  assert.match(await done('port', 'add', '--help'), /--trunk <vids>/)
  for (const words of [['help'], ['help', 'port'], ['port', 'help']]) {
    assert.match(await done(...words), /^Usage: weft/, words.join(' '))
  }
})

test('with --json a refusal is JSON, with its code', async () => {
  const absent = await fixture.run('network', 'show', 'x', '--json')
  assert.equal(absent.status, 1)
  assert.deepEqual(JSON.parse(absent.stdout), {
    error: { message: 'there is no network x', data: { code: 'ERR_NETWORK_NOT_FOUND' } },
  })
  const wrong = await fixture.run('port', 'add', 'default', 'p', '--kind', 'tap', '--access', '4095', '--json')
  assert.deepEqual(JSON.parse(wrong.stdout).error.data, { code: 'ERR_INVALID', path: 'access' })
  assert.equal(wrong.stderr.trim().split('\n').length, 1)
})

test('what cannot be written or read is told in a line', async () => {
  const loop = join(fixture.folder, 'loop.yaml')
  writeFileSync(loop, 'name: &x [*x]\n')
  refused(await fixture.run('network', 'define', loop), /circular|not YAML/i)
  // the file's own header comes before any frame, and is refused already
  const { status, stderr } = await fixture.run('capture', 'default', '-w', '/dev/full')
  assert.equal(status, 1, stderr)
  assert.match(stderr, /file \/dev\/full: ENOSPC/)
  assert.doesNotMatch(stderr, /\n +at /)
})

test('top prints a table a sample, or a line of JSON', async () => {
  await done('port', 'add', 'default', 'vm1', '--kind', 'tap')
  const text = await done('top', '--interval', '0.1', '--count', '2')
  assert.equal(text.match(/NETWORK +PORT/g)?.length, 2)
  const [line = ''] = (await done('top', 'default', '--interval', '0.1', '--count', '1', '--json')).split('\n')
  assert.equal(JSON.parse(line).ports[0].port, 'vm1')
  await done('port', 'remove', 'default', 'vm1')
})

test('capture: to stdout and to a file, until its count', async () => {
  await done('port', 'add', 'default', 'vm1', '--kind', 'tap')
  const path = join(fixture.folder, 'capture.pcapng')
  for (const words of [
    ['-w', '-'],
    ['vm1', '-w', path, '--json', 'icmp'],
  ]) {
    const running = fixture.run('capture', 'default', ...words, '--count', '2')
    await until('the capture runs', () => fixture.fabric.captures.length === 1)
    for (let n = 0; n < 2; n++) fixture.fabric.frame('vm1', new Uint8Array(60))
    const { status, stdout, stderr } = await running
    assert.equal(status, 0, stderr)
    assert.match(stderr, /capturing on/)
    const file = words[1] === '-' ? Buffer.from(stdout, 'latin1') : readFileSync(path)
    assert.equal([...new CaptureReader().read(file)].length, 2)
    if (words[1] !== '-') assert.deepEqual(JSON.parse(stdout), { frames: 2, lost: 0 })
  }
  refused(await fixture.run('capture', 'default', 'frobnicate'), /frobnicate/)
  await done('port', 'remove', 'default', 'vm1')
})

test('QEMU arguments', async () => {
  const uuid = '6f0e8a52-3b1c-4f57-9c1e-0d2a4b6c8e10'
  const advice = (port: object) => {
    const network = parseNetwork({ name: 'n', uuid, ports: [{ name: 'p', ...port }] })
    return shellLine(qemuAdvice(network, network.ports[0]).arguments)
  }
  const device = `-device virtio-net-pci,netdev=p,mac=${stableMac(uuid, 'p')}`
  const expected: [object, string][] = [
    [{ kind: 'qemu', path: '/a b,c' }, `-netdev 'stream,id=p,server=off,addr.type=unix,addr.path=/a b,,c' ${device}`],
    [
      { kind: 'qemu', path: '127.0.0.1:99', client: true },
      `-netdev stream,id=p,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=99 ${device}`,
    ],
    [
      { kind: 'qemu', path: '/s', dgram: true },
      `-netdev dgram,id=p,local.type=unix,local.path=/s.guest,remote.type=unix,remote.path=/s ${device}`,
    ],
    [
      { kind: 'netdev', dev: 'tap0', mac: '52:54:00:00:00:07', mtu: 9000 },
      '-netdev tap,id=p,ifname=tap0,script=no,downscript=no ' +
        '-device virtio-net-pci,netdev=p,mac=52:54:00:00:00:07,host_mtu=9000',
    ],
  ]
  for (const [port, line] of expected) assert.equal(advice(port), line)
  assert.throws(() => advice({ kind: 'tap' }), /holds the TAP p itself/)
  const shared = '-object memory-backend-memfd,id=weft-memory,size=1G,share=on -machine memory-backend=weft-memory'
  assert.equal(
    advice({ kind: 'vhost-user', path: '/a,b' }),
    `${shared} -chardev socket,id=p-socket,path=/a,,b,reconnect=1 -netdev vhost-user,id=p,chardev=p-socket ${device}`,
  )
  assert.equal(
    advice({ kind: 'vhost-user', path: '/s', client: true, queues: 4, mtu: 9000 }),
    `${shared} -chardev socket,id=p-socket,path=/s,server=on -netdev vhost-user,id=p,chardev=p-socket,queues=4 ` +
      `${device},mq=on,vectors=10,host_mtu=9000`,
  )
  const one = parseNetwork({ name: 'n', uuid, ports: [{ name: '1', kind: 'vhost-user', path: '/s' }] })
  const words = qemuAdvice(one, one.ports[0], '4G').arguments
  assert.match(words.join(' '), /size=4G,share=on .* -netdev vhost-user,id=port-1,chardev=port-1-socket/)
  const other = parseNetwork({ name: 'n', uuid, ports: [{ name: 'q', kind: 'qemu', path: '/s' }] })
  assert.throws(
    () => qemuAdvice(other, other.ports[0], '4G'),
    /memory: 4G is for ports of kind vhost-user, q is a qemu/,
  )
  assert.match(stableMac(uuid, 'p'), /^52(:[0-9a-f]{2}){5}$/)
  assert.notEqual(stableMac(uuid, 'p'), stableMac(uuid, 'q'))
})

test('tables and numbers', () => {
  assert.equal(
    table(
      ['A', 'LONG'],
      [
        ['xyz', '1'],
        ['x', '22'],
      ],
      ['LONG'],
    ),
    'A    LONG\nxyz     1\nx      22',
  )
  assert.equal(
    list([
      ['a', '1'],
      ['long', '2'],
    ]),
    'a     1\nlong  2',
  )
  const numbers: [number, string][] = [
    [0, '0'],
    [999, '999'],
    [1000, '1.0k'],
    [99_499, '99.5k'],
    [123_456, '123k'],
    [1e9, '1.0G'],
  ]
  for (const [value, text] of numbers) assert.equal(short(value), text)
  assert.deepEqual([5, 65, 3700, 90_000].map(duration), ['5 s', '1 min 5 s', '1 h 1 min', '1 d 1 h'])
})
