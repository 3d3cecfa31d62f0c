/**
 * 64 hosts on one network, half on TAPs, half on veth through `netdev` ports: each reaches its neighbours, each is
 * learned at its own port, one broadcast reaches all, and the pool is whole again afterwards.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, until } from '../rig/commands.js'
import { broadcast, marked } from '../rig/frames.js'
import { type Host, Wiring } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

const count = 64

/** Runs the work for each item, a few at a time. */
async function each<T>(
  items: readonly T[],
  work: (item: T, index: number) => Promise<void>,
  atOnce = 4,
): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    for (let index = next++; index < items.length; index = next++) await work(items[index], index)
  }
  await Promise.all(Array.from({ length: atOnce }, lane))
}

describe('64 hosts', needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'cc'), () => {
  let wiring: Wiring
  const hosts: Host[] = []

  before(async () => {
    wiring = await Wiring.open()
    const numbers = Array.from({ length: count }, (_, index) => index)
    await each(numbers, async (number) => {
      const options = { address: `10.78.0.${number + 1}/24` }
      hosts[number] = await (number % 2 === 0 ? wiring.tap(`h${number}`, options) : wiring.veth(`h${number}`, options))
    })
  })
  after(() => wiring?.close())

  it('lets each host reach the next two', async () => {
    await each(hosts, async (host, index) => {
      await host.reaches(hosts[(index + 1) % count])
      await host.reaches(hosts[(index + 2) % count])
    })
  })

  it('knows each address at its own port', async () => {
    const entries = new Map((await wiring.fdb()).map((entry) => [entry.mac, entry.port]))
    for (const host of hosts) assert.equal(entries.get(host.mac), host.name)
  })

  it('lists all ports as up', async () => {
    const ports = await wiring.weft.json<{ name: string; state: string }[]>('port list lan')
    assert.equal(ports.length, count)
    assert.deepEqual(
      ports.filter((port) => port.state !== 'up'),
      [],
    )
  })

  it('brings broadcasts to all other hosts', async () => {
    const probe = await Probe.build(wiring.lab)
    const received = async (host: Host): Promise<number> =>
      (await host.space.link(host.device))?.stats64.rx.packets ?? 0
    const atFirst = await Promise.all(hosts.map(received))
    const [first] = hosts as [Host]
    const shouts = Array.from({ length: 20 }, (_, n) => marked(broadcast, first.mac, `shout ${n}`))
    await probe.send(first.space, first.device, shouts)
    await each(hosts.slice(1), async (host, index) => {
      await until(`${host.name} has the broadcasts`, async () => {
        return (await received(host)) - atFirst[index + 1] >= shouts.length
      })
    })
  })

  it('has its pool whole and few drops', async () => {
    const status = await wiring.weft.json<{ shards: { pool: { slots: number; free: number } }[] }>('status')
    const pool = status.shards[0]?.pool
    assert.ok(pool !== undefined && pool.free > pool.slots / 2, JSON.stringify(pool))
  })
})
