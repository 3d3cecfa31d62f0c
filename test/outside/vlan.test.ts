/**
 * VLANs: every kind of port sends every kind of tag, and a model of IEEE 802.1Q written down here says where it must
 * arrive and in which form. Captures at all ports show where it did.
 *
 *   access 10 (two), access 20, access 30, trunk 10,20, trunk 10,20 native 30, and two ports without VLANs
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { Capture } from '../rig/capture.js'
import { needs, pause, until } from '../rig/commands.js'
import { broadcast, carries, mac, marked, tagged, vidOf } from '../rig/frames.js'
import { type Host, Wiring } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

interface PortModel {
  name: string
  options: string
  access?: number
  trunk?: number[] // carried tagged
  native?: number // carried untagged
}

const ports: PortModel[] = [
  { name: 'a10', options: '--access 10', access: 10 },
  { name: 'b10', options: '--access 10', access: 10 },
  { name: 'a20', options: '--access 20', access: 20 },
  { name: 'a30', options: '--access 30', access: 30 },
  { name: 'trunk', options: '--trunk 10,20', trunk: [10, 20] },
  { name: 'native', options: '--trunk 10,20 --native 30', trunk: [10, 20], native: 30 },
  { name: 'plain1', options: '' },
  { name: 'plain2', options: '' },
]

const isPlain = (port: PortModel): boolean => port.access === undefined && port.trunk === undefined

/** The VLAN a frame is in when it comes in by a port with this tag (null: untagged); undefined when it is dropped. */
function classify(port: PortModel, tag: number | null): number | undefined {
  if (tag === 4095) return undefined
  const untagged = tag === null || tag === 0
  if (port.access !== undefined) return untagged ? port.access : undefined
  if (untagged) return port.native
  return port.trunk?.includes(tag) === true ? tag : undefined
}

/** How a frame of a VLAN leaves by a port: its tag, 'untagged', or undefined when it does not. */
function egress(port: PortModel, vid: number): number | 'untagged' | undefined {
  if (port.access === vid || port.native === vid) return 'untagged'
  return port.trunk?.includes(vid) === true ? vid : undefined
}

/** In which form a broadcast sent at one port with this tag arrives at another. */
function expected(from: PortModel, tag: number | null, to: PortModel): number | 'untagged' | undefined {
  if (from === to) return undefined
  if (isPlain(from)) return isPlain(to) ? (tag ?? 'untagged') : undefined
  if (isPlain(to)) return undefined
  const vid = classify(from, tag)
  return vid === undefined ? undefined : egress(to, vid)
}

describe('VLANs', needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'cc'), () => {
  let wiring: Wiring
  let probe: Probe
  const hosts = new Map<string, Host>()
  const host = (name: string): Host => hosts.get(name) as Host

  before(async () => {
    wiring = await Wiring.open()
    probe = await Probe.build(wiring.lab)
    for (const port of ports) hosts.set(port.name, await wiring.tap(port.name, { port: port.options }))
  })
  after(() => wiring?.close())

  async function captures(): Promise<Map<string, Capture>> {
    const entries = ports.map(async ({ name }): Promise<[string, Capture]> => {
      return [
        name,
        await host(name).space.capture(host(name).device, { only: 'in', filter: 'ether proto 0x88b5 or vlan' }),
      ]
    })
    return new Map(await Promise.all(entries))
  }

  it("shows each port's VLANs as they were given", async () => {
    const vlan = async (name: string): Promise<unknown> => (await wiring.port(name)).vlan
    assert.deepEqual(await vlan('a10'), { mode: 'access', access: 10, native: null, trunk: [] })
    assert.deepEqual(await vlan('trunk'), { mode: 'trunk', access: null, native: null, trunk: [10, 20] })
    assert.equal(((await vlan('native')) as { native: number }).native, 30)
    assert.deepEqual(await vlan('plain1'), { mode: 'none', access: null, native: null, trunk: [] })
  })

  it('delivers every tag from every port to exactly the ports and in the form that 802.1Q says', async () => {
    const tags = [null, 0, 10, 20, 30, 40, 4095]
    const running = await captures()
    const wanted: string[] = []
    for (const [index, from] of ports.entries()) {
      const frames: Uint8Array[] = []
      for (const tag of tags) {
        if (isPlain(from) && tag === 4095) continue // refused or passed: a port without VLANs knows no reserved VID
        if (from.native !== undefined && tag === from.native) continue // either is found in the field
        const text = `from ${from.name} tag ${tag}.`
        const frame = marked(broadcast, mac(0x5000 + index), text)
        frames.push(tag === null ? frame : tagged(frame, tag))
        for (const to of ports) {
          const form = expected(from, tag, to)
          if (form !== undefined) wanted.push(`${text} at ${to.name}: ${form}`)
        }
      }
      await probe.send(host(from.name).space, host(from.name).device, frames)
    }
    const seen = (): string[] =>
      [...running].flatMap(([name, capture]) =>
        capture.frames().map((frame) => {
          const text = /from \S+ tag \S+\./.exec(Buffer.from(frame).toString('latin1'))?.[0]
          return `${text} at ${name}: ${vidOf(frame) ?? 'untagged'}`
        }),
      )
    await until('all expected frames arrive', () => seen().length >= wanted.length, 10).catch(() => {})
    await pause(500)
    const got = seen()
    for (const capture of running.values()) await capture.stop()
    assert.deepEqual(got.filter((line) => !wanted.includes(line)).toSorted(), [], 'arrived where they must not')
    assert.deepEqual(wanted.filter((line) => !got.includes(line)).toSorted(), [], 'did not arrive')
    assert.equal(got.length, wanted.length, 'some arrived twice')
  })

  it('counts by name what it refuses', async () => {
    await wiring.drops('a10', 'vlan-not-allowed', 3)
    await wiring.drops('trunk', 'vlan-not-allowed', 2)
    await wiring.drops('trunk', 'vlan-reserved', 1)
  })

  it('drops double tags everywhere, by name', async () => {
    const running = await captures()
    const ends: string[] = []
    for (const [index, { name }] of ports.entries()) {
      const inner = tagged(marked(broadcast, mac(0x6000 + index), 'two tags'), 20)
      const nested = [tagged(inner, 10), tagged(inner, 10, 0, 0x88a8), tagged(inner, 0)]
      await probe.send(host(name).space, host(name).device, [...nested])
      await wiring.drops(name, 'double-tag', 3)
      ends.push(name)
    }
    await pause(200)
    for (const [name, capture] of running) {
      const strays = (await capture.stop()).filter((frame) => carries(frame, 'two tags'))
      assert.equal(strays.length, 0, `at ${name}`)
    }
    assert.equal(ends.length, ports.length)
  })

  it('learns an address for each VLAN apart', async () => {
    const twin = mac(0x7007)
    await probe.send(host('a10').space, host('a10').device, [marked(broadcast, twin, 'ten')])
    await probe.send(host('a20').space, host('a20').device, [marked(broadcast, twin, 'twenty')])
    await wiring.learns(twin, 'a10', 10)
    await wiring.learns(twin, 'a20', 20)
    const running = await captures()
    const letters = [
      tagged(marked(twin, mac(0x7008), 'to ten'), 10),
      tagged(marked(twin, mac(0x7008), 'to twenty'), 20),
    ]
    await probe.send(host('trunk').space, host('trunk').device, letters)
    await (running.get('a10') as Capture).see('the letter to VLAN 10', (frame) => carries(frame, 'to ten'))
    await (running.get('a20') as Capture).see('the letter to VLAN 20', (frame) => carries(frame, 'to twenty'))
    await pause(200)
    for (const [name, capture] of running) {
      const got = (await capture.stop()).filter((frame) => carries(frame, 'to t')).length
      assert.equal(got, name === 'a10' || name === 'a20' ? 1 : 0, `letters at ${name}`)
    }
  })

  it('puts a port into another VLAN while it runs', async () => {
    await wiring.weft.do('port set lan b10 --access 20')
    assert.equal((await wiring.port('b10')).vlan.access, 20)
    const capture = await host('b10').space.capture(host('b10').device, { only: 'in' })
    await probe.send(host('a10').space, host('a10').device, [marked(broadcast, mac(0x8001), 'VLAN ten')])
    await probe.send(host('a20').space, host('a20').device, [marked(broadcast, mac(0x8002), 'VLAN twenty')])
    await capture.see('the frame of VLAN 20', (frame) => carries(frame, 'VLAN twenty'))
    assert.equal((await capture.stop()).filter((frame) => carries(frame, 'VLAN ten')).length, 0)
    await wiring.weft.do('port set lan b10 --access 10')
  })
})
