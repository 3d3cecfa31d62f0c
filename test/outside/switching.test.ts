/**
 * Hosts on TAP ports of one network: reachability, offloads on and off, and what the forwarding database does.
 *
 *   a ── tap ──┐
 *   b ── tap ──┤ lan
 *   c ── tap ──┘      c is also the third port that proves what is not flooded
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import { broadcast, carries, destinationOf, mac, marked, sourceOf } from '../rig/frames.js'
import { type Host, Wiring, iperf, tcp } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

describe(
  'switching between TAP ports',
  needs('root', 'tun', 'weft', 'ip', 'iperf3', 'tcpdump', 'ethtool', 'cc'),
  () => {
    let wiring: Wiring
    let probe: Probe
    let a: Host
    let b: Host
    let c: Host

    before(async () => {
      wiring = await Wiring.open()
      probe = await Probe.build(wiring.lab)
      a = await wiring.tap('a', { address: '10.77.0.1/24', ipv6: true })
      b = await wiring.tap('b', { address: '10.77.0.2/24', ipv6: true })
      c = await wiring.tap('c', { address: '10.77.0.3/24' })
      await a.space.ip(`addr add fd77::1/64 dev ${a.device} nodad`)
      await b.space.ip(`addr add fd77::2/64 dev ${b.device} nodad`)
    })
    after(() => wiring?.close())

    it('carries echo requests between every two hosts', async () => {
      for (const [from, to] of [
        [a, b],
        [b, c],
        [c, a],
      ] as const) {
        await from.reaches(to)
        assert.equal(await from.space.ping(to.ip), 3)
      }
    })

    it('carries full-sized echo requests that must not be fragmented', async () => {
      assert.equal(await a.space.ping(b.ip, { sizeBytes: 1472, fragment: false }), 3)
    })

    it('learns each host at its port', async () => {
      for (const host of [a, b, c]) {
        await wiring.learns(host.mac, host.name)
        const entry = (await wiring.fdb()).find((each) => each.mac === host.mac)
        assert.deepEqual({ vid: entry?.vid, static: entry?.static }, { vid: 0, static: false })
        assert.equal(typeof entry?.ageSeconds, 'number')
      }
    })

    for (const sender of [true, false]) {
      for (const receiver of [true, false]) {
        it(`carries TCP and UDP, offloads ${sender ? 'on' : 'off'} at a, ${receiver ? 'on' : 'off'} at b`, async () => {
          await a.space.offload(a.device, { tx: sender, tso: sender, gso: sender, gro: sender })
          await b.space.offload(b.device, { tx: receiver, tso: receiver, gso: receiver, gro: receiver })
          await tcp(a, b, { megabytes: 30 })
          await tcp(a, b, { megabytes: 30, reverse: true })
          await probe.stream(a.space, b.space, b.ip, 10)
          await probe.stream(b.space, a.space, a.ip, 10)
          const datagrams = await iperf(a, b, { megabytes: 3, udp: true })
          assert.ok(datagrams.receivedBytes > datagrams.sentBytes / 2, `${datagrams.receivedBytes} bytes arrived`)
        })
      }
    }

    it('carries TCP over IPv6, offloads on and off', async () => {
      for (const on of [true, false]) {
        await a.space.offload(a.device, { tx: on, tso: on, gso: on })
        await tcp(a, b, { megabytes: 30, address: 'fd77::2' })
        await probe.stream(a.space, b.space, 'fd77::2', 10)
        await probe.stream(b.space, a.space, 'fd77::1', 10)
      }
      await a.space.offload(a.device, { tx: true, tso: true, gso: true })
    })

    it('carries large UDP sends as the datagrams they stand for', async () => {
      const sink = await probe.sink(b.space, 7000)
      for (let n = 0; n < 5; n++) await probe.segments(a.space, b.ip, 7000, 1000, 40)
      await pause(500)
      const counts = await sink.counts()
      assert.deepEqual([...counts.keys()], [1000])
      assert.ok((counts.get(1000) as number) > 100, `${counts.get(1000)} of 200 datagrams`)
    })

    it('carries four TCP connections at once between three hosts', async () => {
      await Promise.all([
        tcp(a, b, { megabytes: 20, parallel: 2 }),
        tcp(b, c, { megabytes: 20 }),
        tcp(c, a, { megabytes: 20 }),
      ])
    })

    it('never shows known unicast at a third port', async () => {
      await a.reaches(b)
      const capture = await c.space.capture(c.device, { only: 'in' })
      await tcp(a, b, { megabytes: 30 })
      await probe.send(a.space, a.device, [marked(broadcast, a.mac, 'the end')])
      await capture.see('the closing broadcast', (frame) => carries(frame, 'the end'))
      const hosts = [a.mac, b.mac]
      const strays = (await capture.stop()).filter((frame) => hosts.includes(destinationOf(frame)))
      assert.equal(strays.length, 0, `${strays.length} unicast frames of a and b at c`)
    })

    it('floods unknown unicast and broadcast to every other port once, never back', async () => {
      const captures = await Promise.all([a, b, c].map((host) => host.space.capture(host.device, { only: 'in' })))
      const stranger = mac(0xbeef)
      await probe.send(a.space, a.device, [marked(stranger, a.mac, 'unknown'), marked(broadcast, a.mac, 'all of you')])
      for (const capture of captures.slice(1))
        await capture.see('the broadcast', (frame) => carries(frame, 'all of you'))
      await pause(200)
      const frames = await Promise.all(captures.map((capture) => capture.stop()))
      for (const text of ['unknown', 'all of you']) {
        assert.deepEqual(
          frames.map((list) => list.filter((frame) => carries(frame, text)).length),
          [0, 1, 1],
          text,
        )
      }
    })

    it('follows an address that moves to another port', async () => {
      const guest = mac(0x1001)
      await probe.send(a.space, a.device, [marked(broadcast, guest, 'here I am')])
      await wiring.learns(guest, 'a')
      await probe.send(b.space, b.device, [marked(broadcast, guest, 'moved')])
      await wiring.learns(guest, 'b')
      const captures = await Promise.all([a, b].map((host) => host.space.capture(host.device, { only: 'in' })))
      await probe.send(c.space, c.device, [marked(guest, c.mac, 'letter'), marked(broadcast, c.mac, 'last')])
      for (const capture of captures) await capture.see('the broadcast', (frame) => carries(frame, 'last'))
      const frames = await Promise.all(captures.map((capture) => capture.stop()))
      assert.deepEqual(
        frames.map((list) => list.filter((frame) => carries(frame, 'letter')).length),
        [0, 1],
      )
    })

    it('keeps a static entry where it was put, whoever claims the address', async () => {
      const pinned = mac(0x2002)
      await wiring.weft.do(['fdb', 'add', 'lan', pinned, 'b'])
      await probe.send(c.space, c.device, [marked(broadcast, pinned, 'mine now')])
      const captures = await Promise.all([b, c].map((host) => host.space.capture(host.device, { only: 'in' })))
      await probe.send(a.space, a.device, [marked(pinned, a.mac, 'for the pin'), marked(broadcast, a.mac, 'last')])
      for (const capture of captures) await capture.see('the broadcast', (frame) => carries(frame, 'last'))
      const frames = await Promise.all(captures.map((capture) => capture.stop()))
      assert.deepEqual(
        frames.map((list) => list.filter((frame) => carries(frame, 'for the pin')).length),
        [1, 0],
      )
      const entry = (await wiring.fdb()).find((each) => each.mac === pinned)
      assert.deepEqual({ port: entry?.port, static: entry?.static }, { port: 'b', static: true })
      await wiring.weft.do(['fdb', 'remove', 'lan', pinned])
      assert.equal(await wiring.learned(pinned), null)
    })

    it('forgets what was learned on flush and keeps static entries', async () => {
      const pinned = mac(0x2003)
      await wiring.weft.do(['fdb', 'add', 'lan', pinned, 'b'])
      await probe.send(a.space, a.device, [marked(broadcast, mac(0x3003), 'soon forgotten')])
      await wiring.learns(mac(0x3003), 'a')
      await wiring.weft.do(['fdb', 'flush', 'lan'])
      assert.equal(await wiring.learned(mac(0x3003)), null)
      assert.equal(await wiring.learned(pinned), 'b')
      await a.reaches(b)
      await wiring.weft.do(['fdb', 'remove', 'lan', pinned])
    })

    it("sends nothing with the daemon's own addresses", async () => {
      const capture = await c.space.capture(c.device, { only: 'in' })
      await probe.send(a.space, a.device, [marked(broadcast, a.mac, 'only this')])
      await capture.see('the broadcast', (frame) => carries(frame, 'only this'))
      const known = [a.mac, b.mac, c.mac]
      const others = (await capture.stop()).filter((frame) => !known.includes(sourceOf(frame)))
      assert.equal(others.length, 0, 'the switch itself sends no frames')
    })
  },
)

describe('ageing', needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'cc'), () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open('--fdb-age 2')
  })
  after(() => wiring?.close())

  it('forgets an address that is silent for longer than the age, and floods to it again', async () => {
    const probe = await Probe.build(wiring.lab)
    const [a, b, c] = [await wiring.tap('a'), await wiring.tap('b'), await wiring.tap('c')]
    const quiet = mac(0x4004)
    const pinned = mac(0x4005)
    await wiring.weft.do(['fdb', 'add', 'lan', pinned, 'b'])
    await probe.send(a.space, a.device, [marked(broadcast, quiet, 'and then silence')])
    await wiring.learns(quiet, 'a')
    await until('the address has aged', async () => (await wiring.learned(quiet)) === null, 30)
    assert.equal(await wiring.learned(pinned), 'b')
    const capture = await c.space.capture(c.device, { only: 'in' })
    await probe.send(b.space, b.device, [marked(quiet, mac(0x4006), 'who are you')])
    await capture.see('the flooded frame', (frame) => carries(frame, 'who are you'))
    await capture.stop()
  })
})
