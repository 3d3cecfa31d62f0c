/**
 * A minute of mixed load: TCP both ways between TAPs and a veth, datagrams, broadcasts, a stream peer that reads and
 * one that does not, a port whose VLAN changes, a command line that asks. Afterwards every slot is free again.
 *
 * WEFT_SOAK_SECONDS makes it longer.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import { broadcast, mac, marked } from '../rig/frames.js'
import { type Host, Wiring, iperf } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'
import { StreamPeer } from '../rig/stream-peer.js'

const seconds = Math.max(60, Number(process.env.WEFT_SOAK_SECONDS ?? 60))

describe('soak', needs('root', 'tun', 'weft', 'ip', 'iperf3', 'cc'), () => {
  let wiring: Wiring
  let a: Host
  let b: Host
  let v: Host
  let w: Host
  let peers: StreamPeer[] = []

  before(async () => {
    wiring = await Wiring.open()
    a = await wiring.tap('a', { address: '10.91.0.1/24' })
    b = await wiring.tap('b', { address: '10.91.0.2/24' })
    v = await wiring.veth('v', { address: '10.91.0.3/24' })
    w = await wiring.tap('w', { address: '10.91.0.4/24' })
    const paths = ['reads', 'deaf'].map((name) => join(wiring.lab.folder, `${name}.sock`))
    await wiring.add('reads', `--kind qemu --path ${paths[0]}`)
    await wiring.add('deaf', `--kind qemu --path ${paths[1]}`)
    peers = await Promise.all(paths.map((path) => StreamPeer.connect(path)))
    peers[1]?.stopReading()
  })
  after(async () => {
    for (const peer of peers) peer.close()
    await wiring?.close()
  })

  it(`${seconds} s of load end with the pool as it began`, async () => {
    const { weft } = wiring
    const probe = await Probe.build(wiring.lab)
    for (const host of [b, v, w]) await a.reaches(host)
    await pause(500)
    const slots = await weft.poolFree()
    const end = performance.now() + seconds * 1000
    const during = async (work: (round: number) => Promise<unknown>): Promise<number> => {
      let round = 0
      while (performance.now() < end) await work(round++)
      return round
    }
    const rounds = await Promise.all([
      during(() => iperf(a, b, { megabytes: 200 })),
      during(() => iperf(b, v, { megabytes: 100, parallel: 2 })),
      during(() => iperf(v, a, { megabytes: 100 })),
      during(() => iperf(w, v, { megabytes: 5, udp: true })),
      during(async (round) => {
        const shouts = Array.from({ length: 200 }, (_, n) => marked(broadcast, w.mac, `shout ${round} ${n}`))
        await probe.send(w.space, w.device, shouts)
        await peers[0]?.send(...Array.from({ length: 50 }, (_, n) => marked(a.mac, mac(n), 'from a guest')))
        if (peers[0] !== undefined) peers[0].received.length = 0
        await pause(20)
      }),
      during(async (round) => {
        await weft.do(`port set lan deaf --access ${10 + (round % 50)}`)
        await weft.json('status')
        await pause(1000)
      }),
    ])
    for (const count of rounds) assert.ok(count > 0)
    for (const host of [b, v, w]) await a.reaches(host)
    await until(
      'every slot is free again',
      async () => {
        const free = await weft.poolFree()
        if (free !== slots) throw new Error(`${free} of ${slots} slots are free`)
        return true
      },
      30,
    )
    const { shards } = await weft.json<{ shards: { pid?: number; restarts?: number }[] }>('status')
    for (const shard of shards) {
      assert.equal(shard.restarts ?? 0, 0)
      if (shard.pid === undefined) continue
      const status = readFileSync(`/proc/${shard.pid}/status`, 'utf8')
      const kilobytes = Number(/RssAnon:\s+(\d+)/.exec(status)?.[1])
      assert.ok(kilobytes < 500_000, `the shard holds ${kilobytes} KiB of its own`)
    }
  })
})
