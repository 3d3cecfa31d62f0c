/**
 * Existing interfaces as ports: a veth whose other end is a host with its offloads on, and what happens when the
 * interface is absent, goes, comes back, or loses its link.
 *
 *   t ── tap ── lan ── netdev ── [w ═ veth ═ v] host
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import { broadcast, carries, mac, marked, tagged, vidOf } from '../rig/frames.js'
import { type Host, Wiring, iperf, tcp } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'iperf3', 'ethtool', 'cc')

describe('netdev: traffic', wants, () => {
  let wiring: Wiring
  let probe: Probe
  let t: Host
  let v: Host
  let u: Host
  before(async () => {
    wiring = await Wiring.open()
    probe = await Probe.build(wiring.lab)
    t = await wiring.tap('t', { address: '10.82.0.1/24' })
    v = await wiring.veth('v', { address: '10.82.0.2/24' })
    u = await wiring.veth('u', { address: '10.82.0.3/24' })
  })
  after(() => wiring?.close())

  it('echo requests pass between a TAP and veths, and between veths', async () => {
    for (const [from, to] of [
      [t, v],
      [v, u],
      [u, t],
    ] as const) {
      await from.reaches(to)
      assert.equal(await from.space.ping(to.ip), 3)
    }
  })

  for (const on of [true, false]) {
    it(`TCP passes both ways with the veth's offloads ${on ? 'on' : 'off'}`, async () => {
      for (const host of [v, u]) await host.space.offload(host.device, { tx: on, tso: on, gso: on, gro: on })
      for (const [from, to] of [
        [t, v],
        [v, t],
        [v, u],
      ] as const) {
        await tcp(from, to, { megabytes: 30 })
        await probe.stream(from.space, to.space, to.ip, 10)
      }
    })
  }

  it('UDP passes both ways, large sends as the datagrams they stand for', async () => {
    for (const [from, to] of [
      [t, v],
      [v, t],
    ] as const) {
      const { sentBytes, receivedBytes } = await iperf(from, to, { megabytes: 3, udp: true })
      assert.ok(receivedBytes > sentBytes / 2, `${from.name} to ${to.name}: ${receivedBytes} of ${sentBytes}`)
      const sink = await probe.sink(to.space, 7100)
      for (let n = 0; n < 5; n++) await probe.segments(from.space, to.ip, 7100, 1000, 40)
      await pause(500)
      const counts = await sink.counts()
      assert.deepEqual([...counts.keys()], [1000], `${from.name} to ${to.name}`)
    }
  })

  it('a frame appears once at each other host and never comes back', async () => {
    const captures = await Promise.all([t, v, u].map((host) => host.space.capture(host.device, { only: 'in' })))
    await probe.send(v.space, v.device, [marked(broadcast, v.mac, 'once'), marked(broadcast, v.mac, 'last')])
    for (const capture of [captures[0], captures[2]])
      await capture?.see('the broadcast', (frame) => carries(frame, 'last'))
    await pause(200)
    const frames = await Promise.all(captures.map((capture) => capture.stop()))
    assert.deepEqual(
      frames.map((list) => list.filter((frame) => carries(frame, 'once')).length),
      [1, 0, 1],
    )
  })

  it('what the kernel had to drop, because Weft did not take it in time, is counted', async () => {
    const [{ pid }] = (await wiring.weft.json<{ shards: { pid: number }[] }>('status')).shards
    process.kill(pid, 'SIGSTOP')
    try {
      for (let n = 0; n < 200; n++) await probe.segments(v.space, t.ip, 7100, 1000, 60)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    const port = await wiring.port('v')
    assert.ok((port.drops['receive-overflow'] ?? 0) > 0, JSON.stringify(port.drops))
    assert.ok(port.receive.dropped >= port.drops['receive-overflow'])
    await v.reaches(t)
  })

  it('is promiscuous only while it is a port', async () => {
    const device = v.switchDevice as string
    const promiscuity = async (): Promise<number> => (await wiring.switchSpace().link(device))?.promiscuity ?? -1
    assert.ok((await promiscuity()) > 0)
    await wiring.weft.do('port remove lan v')
    assert.equal(await promiscuity(), 0)
    await wiring.add('v', `--kind netdev --dev ${device}`)
    await v.reaches(t)
  })
})

describe('netdev: VLAN tags', wants, () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('a tag that the kernel keeps beside the frame is restored, one to send is put in', async () => {
    const probe = await Probe.build(wiring.lab)
    const trunk = await wiring.veth('trunk', { port: '--trunk 10,20' })
    const other = await wiring.veth('other', { port: '--trunk 10' })
    const access = await wiring.tap('access', { port: '--access 10' })
    const captures = await Promise.all([other, access].map((host) => host.space.capture(host.device, { only: 'in' })))
    await probe.send(trunk.space, trunk.device, [
      tagged(marked(broadcast, mac(0xb001), 'in twenty'), 20),
      tagged(marked(broadcast, mac(0xb001), 'in ten'), 10, 5),
    ])
    const [atOther, atAccess] = captures
    const passed = await atOther?.see('the tagged frame', (frame) => carries(frame, 'in ten'))
    assert.equal(vidOf(passed), 10)
    const untagged = await atAccess?.see('the untagged frame', (frame) => carries(frame, 'in ten'))
    assert.equal(vidOf(untagged), null)
    for (const capture of captures) {
      assert.equal((await capture.stop()).filter((frame) => carries(frame, 'in twenty')).length, 0)
    }
    const back = await trunk.space.capture(trunk.device, { only: 'in' })
    await probe.send(access.space, access.device, [marked(broadcast, mac(0xb002), 'from access')])
    const frame = await back.see('the frame from the access port', (each) => carries(each, 'from access'))
    assert.equal(vidOf(frame), 10)
    await back.stop()
  })
})

describe('netdev: the interface comes and goes', wants, () => {
  let wiring: Wiring
  let t: Host
  let s: Host
  let v: Host
  before(async () => {
    wiring = await Wiring.open()
    t = await wiring.tap('t', { address: '10.83.0.1/24' })
    s = await wiring.tap('s', { address: '10.83.0.3/24' })
    v = await wiring.veth('v', { address: '10.83.0.2/24' })
    await v.reaches(t)
  })
  after(() => wiring?.close())

  it('one that does not exist is refused by name, and nothing is left of the port', async () => {
    const result = await wiring.weft.cli('port add lan ghost --kind netdev --dev nosuch0')
    assert.equal(result.status, 1, result.stderr)
    assert.match(result.stderr, /nosuch0/)
    assert.equal((await wiring.weft.cli('port show lan ghost')).status, 1)
  })

  it('its link goes down and up again with the port', async () => {
    await v.space.ip(`link set ${v.device} down`)
    const port = await wiring.weft.waitPort('lan', 'v', 'down')
    assert.ok(port.reason, 'a port that is down says why')
    await v.space.ip(`link set ${v.device} up`)
    await wiring.weft.waitPort('lan', 'v', 'up')
    await v.reaches(t)
  })

  it('one that vanishes takes down its own port only, and is taken up again when it comes back', async () => {
    const device = v.switchDevice as string
    await wiring.switchSpace().ip(`link delete ${device}`)
    const port = await until('the port is broken', async () => {
      const state = await wiring.port('v')
      return state.state !== 'up' && state
    })
    assert.ok(port.reason, 'a broken port says why')
    await t.reaches(s)
    await wiring.lab.veth(v.space, v.device, wiring.switchSpace(), device)
    await v.configure()
    await wiring.weft.waitPort('lan', 'v', 'up', 60)
    await v.reaches(t)
  })

  it('vanishes under load without harm', async () => {
    const device = v.switchDevice as string
    const load = v.space.spawn('ping', ['-f', '-q', '-s', '1400', t.ip])
    await pause(500)
    await wiring.switchSpace().ip(`link delete ${device}`)
    await load.stop('SIGINT')
    await t.reaches(s)
    await wiring.weft.do('port remove lan v')
    assert.equal((await wiring.weft.cli('port show lan v')).status, 1)
    assert.ok(wiring.weft.running)
  })
})
