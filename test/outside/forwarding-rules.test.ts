/**
 * What is not forwarded, and what a change of one port does to the others: isolated ports, reserved group addresses,
 * links by order, jumbo frames.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import { broadcast, carries, experiment, ethernet, mac, marked } from '../rig/frames.js'
import { type Host, Wiring, tcp } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'iperf3', 'ethtool', 'cc')

describe('isolated ports', wants, () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('exchange frames with ordinary ports and not with each other', async () => {
    const one = await wiring.tap('one', { address: '10.79.0.1/24', port: '--isolated' })
    const two = await wiring.tap('two', { address: '10.79.0.2/24', port: '--isolated' })
    const server = await wiring.tap('server', { address: '10.79.0.3/24' })
    await one.reaches(server)
    await two.reaches(server)
    const capture = await two.space.capture(two.device, { only: 'in' })
    assert.equal(await one.answers(two), 0)
    const probe = await Probe.build(wiring.lab)
    await probe.send(one.space, one.device, [
      marked(broadcast, one.mac, 'not for two'),
      marked(two.mac, one.mac, 'nor this'),
    ])
    await probe.send(server.space, server.device, [marked(broadcast, server.mac, 'for both')])
    await capture.see("the server's broadcast", (frame) => carries(frame, 'for both'))
    const strays = (await capture.stop()).filter((frame) => carries(frame, 'not for two') || carries(frame, 'nor this'))
    assert.equal(strays.length, 0)
  })
})

describe('reserved group addresses', wants, () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('01:80:C2:00:00:00 to 0F stay on their link, the next one is forwarded', async () => {
    const probe = await Probe.build(wiring.lab)
    const [a, b] = [await wiring.tap('a'), await wiring.tap('b')]
    const capture = await b.space.capture(b.device, { only: 'in' })
    const group = (n: number): string => `01:80:c2:00:00:${n.toString(16).padStart(2, '0')}`
    const frames = Array.from({ length: 17 }, (_, n) => marked(group(n), mac(0x9001), `group ${n}.`))
    await probe.send(a.space, a.device, frames)
    await capture.see('a group address beyond the reserved ones', (frame) => carries(frame, 'group 16.'))
    assert.equal((await capture.stop()).filter((frame) => carries(frame, 'group ')).length, 1)
    await wiring.drops('a', 'link-local', 16)
  })
})

describe('a link by order', wants, () => {
  let wiring: Wiring
  let a: Host
  let b: Host
  let c: Host
  before(async () => {
    wiring = await Wiring.open()
    a = await wiring.tap('a', { address: '10.80.0.1/24' })
    b = await wiring.tap('b', { address: '10.80.0.2/24' })
    c = await wiring.tap('c', { address: '10.80.0.3/24' })
    await a.reaches(b)
    await a.reaches(c)
  })
  after(() => wiring?.close())

  it('down: the host sees no carrier and no frame passes; up: all is as before', async () => {
    await wiring.weft.do('port link lan b down')
    await wiring.weft.waitPort('lan', 'b', 'down')
    await until('the host sees no carrier', async () => (await b.space.link(b.device))?.flags.includes('NO-CARRIER'))
    assert.equal(await a.answers(b), 0)
    await wiring.weft.do('port link lan b up')
    await wiring.weft.waitPort('lan', 'b', 'up')
    await until('the host sees the carrier', async () => !(await b.space.link(b.device))?.flags.includes('NO-CARRIER'))
    await a.reaches(b)
  })

  it('changes of VLAN, link and MTU of one port lose no frame between others', async () => {
    const pinging = a.space.run('ping', ['-n', '-q', '-c', '300', '-i', '0.02', '-W', '5', c.ip])
    for (let round = 0; round < 2; round++) {
      await wiring.weft.do('port set lan b --access 10')
      await wiring.weft.do('port link lan b down')
      await wiring.weft.do('port link lan b up')
      await wiring.weft.do('port set lan b --mtu 1400')
      await wiring.weft.do('port set lan b --mtu 1500')
    }
    assert.match(await pinging, /300 packets transmitted, 300 received/)
  })

  it('keeps an idle connection of the other ports through a change', async () => {
    await Promise.all([
      tcp(a, c, { megabytes: 60 }),
      (async () => {
        for (let round = 0; round < 3; round++) {
          await wiring.weft.do('port link lan b down')
          await wiring.weft.do('port link lan b up')
        }
      })(),
    ])
  })
})

describe('jumbo frames', wants, () => {
  let wiring: Wiring
  let probe: Probe
  let a: Host
  let b: Host
  before(async () => {
    wiring = await Wiring.open('--mtu 9000')
    a = await wiring.tap('a', { address: '10.81.0.1/24' })
    b = await wiring.veth('b', { address: '10.81.0.2/24', mtu: 9000 })
    probe = await Probe.build(wiring.lab)
  })
  after(() => wiring?.close())

  it('an MTU of 9000 is set on the TAP and carried whole', async () => {
    assert.equal((await a.space.link(a.device))?.mtu, 9000)
    assert.equal((await wiring.port('a')).mtu, 9000)
    await a.reaches(b)
    assert.equal(await a.space.ping(b.ip, { sizeBytes: 8972, fragment: false }), 3)
    assert.equal(await b.space.ping(a.ip, { sizeBytes: 8972, fragment: false }), 3)
  })

  it('TCP passes both ways with offloads and without', async () => {
    for (const on of [true, false]) {
      await a.space.offload(a.device, { tx: on, tso: on, gso: on })
      await b.space.offload(b.device, { tx: on, tso: on, gso: on })
      await probe.stream(a.space, b.space, b.ip, 10)
      await probe.stream(b.space, a.space, a.ip, 10)
      for (const reverse of [false, true]) {
        await tcp(a, b, { megabytes: 30, reverse })
      }
    }
  })

  it("a frame longer than the port's MTU is dropped by name", async () => {
    const c = await wiring.tap('c')
    await wiring.weft.do('port set lan c --mtu 1500')
    const capture = await c.space.capture(c.device, { only: 'in' })
    const long = ethernet(broadcast, mac(0xa001), experiment, new Uint8Array(4000).fill(0x61))
    await probe.send(a.space, a.device, [long, marked(broadcast, mac(0xa001), 'short one')])
    await capture.see('the short frame', (frame) => carries(frame, 'short one'))
    await pause(100)
    assert.equal((await capture.stop()).filter((frame) => frame.length > 1600).length, 0)
    await wiring.drops('c', 'egress-mtu', 1)
  })
})
