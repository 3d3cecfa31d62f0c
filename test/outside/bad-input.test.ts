/**
 * Wrong words, wrong values, things that are taken or absent: each refused with the right exit status and one line that
 * names the object, nothing half done, the daemon alive.
 *
 * Status 1: refused, one line on stderr. 2: wrong usage, with the usage. 3: no daemon there.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { attempt, needs, weftMain } from '../rig/commands.js'
import { mac } from '../rig/frames.js'
import { Wiring } from '../rig/hosts.js'

describe('bad input', needs('root', 'tun', 'weft', 'ip'), () => {
  let wiring: Wiring
  let folder: string
  let known: string[] // what is defined, and must still be after each refusal
  before(async () => {
    wiring = await Wiring.open()
    folder = wiring.lab.folder
    await wiring.add('p1', `--kind qemu --path ${join(folder, 'p1.sock')}`)
    await wiring.switchSpace().ip('link add d0 type veth peer name d1')
    await wiring.switchSpace().ip('tuntap add dev tun0 mode tun') // what a VPN's layer-3 device is like
    await wiring.switchSpace().ip('link set tun0 up')
    known = await defined()
  })
  after(() => wiring?.close())

  /** All networks and the ports of `lan`, by name. */
  async function defined(): Promise<string[]> {
    const names: string[] = []
    for (const list of ['network list --all', 'port list lan']) {
      for (const { name } of await wiring.weft.json<{ name: string }[]>(list)) names.push(`${list}: ${name}`)
    }
    return names
  }

  /** The command is refused with status 1 (or wrong usage, where both can be argued) and a line that says why. */
  async function refused(command: string, reason: RegExp, statuses: readonly number[] = [1]): Promise<void> {
    const result = await wiring.weft.cli(command)
    assert.ok(statuses.includes(result.status), `${command}: status ${result.status}: ${result.stderr}`)
    assert.match(result.stderr, reason, command)
    assert.doesNotMatch(result.stderr, /^\s+at .*:\d+/m, `${command}: a stack trace`)
    if (result.status === 1) {
      assert.equal(result.stderr.trim().split('\n').length, 1, `${command}: more than one line: ${result.stderr}`)
      assert.equal(result.stdout, '')
    }
    assert.deepEqual(await defined(), known, `${command} left something`)
  }

  const either = [1, 2]
  const cases: [command: string, reason: RegExp, statuses?: number[]][] = [
    ['network create lan --mode isolated', /lan/],
    ['network create x --mode sideways', /sideways/, either],
    ['network create x --mode isolated --mtu 5', /\b5\b/, either],
    ['network create x --mode isolated --mtu much', /much/, either],
    ['network create ../../x --mode isolated', /\.\.\/\.\.\/x/],
    ['network create x --mode bridge', /uplink/],
    ['network create x --mode bridge --uplink netdev:nosuch0', /nosuch0/],
    ['network delete nosuch', /nosuch/],
    ['network show nosuch', /nosuch/],
    ['port list nosuch', /nosuch/],
    ['port add nosuch p --kind tap', /nosuch/],
    ['port show lan nosuch', /nosuch/],
    ['port remove lan nosuch', /nosuch/],
    ['port add lan p1 --kind tap --dev wtother', /p1/],
    ['port add lan p --kind teleport', /teleport/, either],
    ['port add lan p --kind vde --path /tmp/x', /vde/, either],
    ['port add lan p --kind vhost-user', /path/, either],
    ['port add lan p --kind vhost-user --path 127.0.0.1:4000', /127\.0\.0\.1:4000/, either],
    ['port add lan p --kind vhost-user --path /nosuchfolder/p.sock', /nosuchfolder/],
    [`port add lan p --kind vhost-user --path /tmp/${'x'.repeat(120)}`, /107|108|too long/, either],
    ['port add lan p --kind vhost-user --path /tmp/x.sock --queues 17', /17/, either],
    ['port add lan p --kind vhost-user --path /tmp/x.sock --dgram', /dgram/, either],
    ['port add lan p --kind vhost-user --path /tmp/x.sock --dev eth0', /dev/, either],
    ['port set lan p1 --poll', /poll/, either],
    ['qemu lan p1 --memory 4G', /4G/],
    ['qemu lan p1 --memory lots', /lots/, either],
    ['port add lan p --kind netdev', /dev/, either],
    ['port add lan p --kind netdev --dev lo', /netdev lo: not an Ethernet interface/],
    ['port add lan p --kind netdev --dev tun0', /netdev tun0: not an Ethernet interface/],
    ['network create x --mode bridge --uplink netdev:tun0', /netdev tun0: not an Ethernet interface/],
    ['port add lan p --kind tap --dev tun0', /tap tun0: not a device of this kind/],
    ['port add lan p --kind netdev --dev nosuch0', /nosuch0/],
    ['port add lan p --kind tap --dev abcdefghijklmnop', /abcdefghijklmnop/, either],
    ['port add lan p --kind tap --dev d0', /d0/],
    ['port add lan p --kind tap --dev wtghost --netns nosuchns', /nosuchns/],
    ['port add lan p --kind tap --dev wtghost --owner nosuchuser', /nosuchuser/],
    ['port add lan p --kind tap --dev wtghost --access 4095', /4095/, either],
    ['port add lan p --kind tap --dev wtghost --access 0', /\b0\b/, either],
    ['port add lan p --kind tap --dev wtghost --access ten', /ten/, either],
    ['port add lan p --kind tap --dev wtghost --trunk 10,4095', /4095/, either],
    ['port add lan p --kind tap --dev wtghost --trunk 20-10', /20-10/, either],
    ['port add lan p --kind tap --dev wtghost --access 10 --trunk 20', /access|trunk/, either],
    ['port add lan p --kind tap --dev wtghost --native 20', /native|trunk/, either],
    ['port add lan p --kind tap --dev wtghost --mac 01:00:5e:00:00:01', /01:00:5e:00:00:01/, either],
    ['port add lan p --kind tap --dev wtghost --mac 02:00', /02:00/, either],
    ['port add lan p --kind qemu --path /nosuchfolder/p.sock', /nosuchfolder/],
    [`port add lan p --kind qemu --path /tmp/${'x'.repeat(120)}`, /107|108|too long/, either],
    ['port add lan p --kind qemu --path 192.0.2.1:4000', /192\.0\.2\.1/, either],
    ['port add lan p --kind pcap --read /nosuchfile.pcap', /nosuchfile/],
    ['port set lan p1 --access 4095', /4095/, either],
    ['port link lan p1 sideways', /sideways/, either],
    ['port link lan nosuch down', /nosuch/],
    ['fdb list nosuch', /nosuch/],
    [`fdb add lan ${mac(1)} nosuch`, /nosuch/],
    ['fdb add lan 01:00:5e:00:00:01 p1', /01:00:5e:00:00:01/, either],
    ['fdb add lan ff:ff:ff:ff:ff:ff p1', /ff:ff:ff:ff:ff:ff/, either],
    ['fdb add lan nonsense p1', /nonsense/, either],
    [`fdb add lan ${mac(1)} p1 --vid 4095`, /4095/, either],
    [`fdb remove lan ${mac(0xfff)}`, new RegExp(mac(0xfff))],
    ['capture lan nosuch --count 1', /nosuch/],
    ['capture nosuch --count 1', /nosuch/],
    ['capture lan --count 1 frobnicate', /frobnicate/, either],
  ]
  for (const [command, reason, statuses] of cases) {
    it(`weft ${command.replace(/x{20,}/, 'xxx…')}`, () => refused(command, reason, statuses))
  }

  it('wrong usage is status 2 and shows the usage', async () => {
    const wrong = ['frobnicate', 'network frobnicate', 'port add', 'network list --frobnicate', 'port link lan p1']
    for (const command of wrong) {
      const result = await wiring.weft.cli(command)
      assert.equal(result.status, 2, `${command}: ${result.stdout}${result.stderr}`)
      assert.match(result.stderr, /usage/i, command)
    }
  })

  it('no daemon is status 3', async () => {
    const args = [weftMain, 'status', '--socket', join(folder, 'nobody.sock')]
    const result = await attempt(process.execPath, args)
    assert.equal(result.status, 3, result.stderr)
    assert.equal(result.stderr.trim().split('\n').length, 1)
    assert.match(result.stderr, /nobody\.sock/)
  })

  it('refuses the same device, interface or socket twice', async () => {
    await wiring.add('n1', '--kind netdev --dev d0')
    known = await defined()
    await refused('port add lan n2 --kind netdev --dev d0', /d0/)
    for (const kind of ['qemu', 'vhost-user'])
      await refused(`port add lan n2 --kind ${kind} --path ${join(folder, 'p1.sock')}`, /p1\.sock/)
    await wiring.weft.do('port remove lan n1')
    known = await defined()
  })

  it('does not touch a file that is where its socket should be', async () => {
    const path = join(folder, 'precious')
    writeFileSync(path, 'do not lose this')
    for (const kind of ['qemu', 'vhost-user'])
      await refused(`port add lan n3 --kind ${kind} --path ${path}`, /precious/)
    assert.equal(readFileSync(path, 'utf8'), 'do not lose this')
  })

  it('does not take a socket on which another program listens', async () => {
    const path = join(folder, 'taken.sock')
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(path, resolve))
    for (const kind of ['qemu', 'vhost-user'])
      await refused(`port add lan n4 --kind ${kind} --path ${path}`, /taken\.sock/)
    server.close()
  })

  it('a second daemon on the same socket, or on the same state, is refused in one line', async () => {
    const { socket, state } = wiring.weft
    for (const args of [
      ['--socket', socket, '--state', join(folder, 'other')],
      ['--socket', join(folder, 'other.sock'), '--state', state],
    ]) {
      const result = await wiring
        .switchSpace()
        .attempt(process.execPath, [weftMain, 'up', ...args], { timeoutSeconds: 20 })
      assert.notEqual(result.status, 0)
      assert.doesNotMatch(result.stderr, /^\s+at .*:\d+/m)
      assert.doesNotMatch(result.stdout, /ready/)
    }
    await wiring.weft.do('status')
  })

  it('a definition with unknown keys or wrong values names their path', async () => {
    const path = join(folder, 'network.json')
    const port = { name: 'q', kind: 'qemu', path: join(folder, 'q.sock') }
    for (const [document, reason] of [
      [{ name: 'def', mode: 'isolated', colour: 'blue' }, /colour/],
      [
        { name: 'def', mode: 'isolated', ports: [port, { ...port, name: 'r', path: '/tmp/r', access: 4095 }] },
        /ports\[1\]\.access.*4095/,
      ],
      [{ name: 'def', mode: 'isolated', ports: [port, port] }, /ports\[1\].*q/],
      [{ mode: 'isolated' }, /name/],
    ] as const) {
      writeFileSync(path, JSON.stringify(document))
      await refused(`network define ${path}`, reason)
    }
    writeFileSync(path, '{ "name": "def", ')
    await refused(`network define ${path}`, /YAML|JSON/)
    await refused(`network define ${join(folder, 'nosuchfile')}`, /nosuchfile/)
  })

  it('is as alive as at the beginning', async () => {
    assert.ok(wiring.weft.running)
    assert.deepEqual(
      (await wiring.weft.json<{ name: string }[]>('port list lan')).map((port) => port.name),
      ['p1'],
    )
  })
})
