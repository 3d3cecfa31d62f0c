/**
 * What outlives the daemon: networks, ports, VLANs and static entries after kill -9 at any moment; a state file that is
 * damaged costs its own network only and is never overwritten.
 */
import assert from 'node:assert/strict'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import { mac } from '../rig/frames.js'
import { Wiring } from '../rig/hosts.js'

interface Network {
  name: string
  active: boolean
  mode: string
  mtu: number
  uuid: string
  ports: number
}

describe('persistence', needs('root', 'tun', 'weft', 'ip'), () => {
  let wiring: Wiring
  beforeEach(async () => {
    wiring = await Wiring.open('--mtu 1600')
  })
  afterEach(() => wiring?.close())

  const networks = async (): Promise<Network[]> => {
    const list = await wiring.weft.json<Network[]>('network list --all')
    return list
      .map(({ name, active, mode, mtu, uuid, ports }) => ({ name, active, mode, mtu, uuid, ports })) // no counters
      .toSorted((a, b) => a.name.localeCompare(b.name))
  }

  it('an empty state begins with a running network `default`', async () => {
    const first = (await networks()).find((network) => network.name === 'default')
    assert.equal(first?.active, true)
  })

  it('a killed daemon comes back with networks, ports, VLANs, links and static entries', async () => {
    const { weft } = wiring
    const a = await wiring.tap('a', { address: '10.88.0.1/24', port: '--access 10' })
    const b = await wiring.veth('b', { address: '10.88.0.2/24', port: '--trunk 20-22 --native 10' })
    await wiring.add('g', `--kind qemu --path ${join(wiring.lab.folder, 'g.sock')} --isolated`)
    await weft.do('port link lan g down')
    await weft.do(['fdb', 'add', 'lan', mac(1), 'b', '--vid', '20'])
    await weft.do(['fdb', 'add', 'lan', mac(2), 'a'])
    await weft.do('network create second --mode isolated')
    await a.reaches(b)
    const before = await networks()
    const shown = async (name: string): Promise<unknown> => {
      const { vlan, mtu, kind } = await wiring.port(name)
      return { vlan, mtu, kind }
    }
    const ports = await Promise.all(['a', 'b', 'g'].map(shown))

    await weft.kill()
    await weft.start()

    assert.deepEqual(await networks(), before)
    assert.deepEqual(await Promise.all(['a', 'b', 'g'].map(shown)), ports)
    assert.equal((await wiring.port('g')).state, 'down')
    const entries = (await wiring.fdb()).filter((entry) => entry.static)
    const known = entries.map(({ vid, mac: address, port }) => `${vid} ${address} ${port}`).toSorted()
    assert.deepEqual(known, [`10 ${mac(2)} a`, `20 ${mac(1)} b`])
    await a.configure()
    await weft.waitPort('lan', 'a', 'up')
    await a.reaches(b)
  })

  it('what was removed or transient is gone', async () => {
    const { weft } = wiring
    await weft.do('network create gone --mode isolated')
    await weft.do('network create idle --mode isolated')
    await weft.do('network create passing --mode isolated --transient')
    await weft.do('network stop idle')
    await weft.do('network stop gone')
    await weft.do('network delete gone')
    await wiring.tap('a')
    await weft.do('port remove lan a')
    await weft.kill()
    await weft.start()
    const names = (await networks()).map((network) => network.name)
    assert.deepEqual(names, ['default', 'idle', 'lan'])
    assert.deepEqual(await weft.json('port list lan'), [])
  })

  it('a kill in the middle of changes leaves each change done or not done', async () => {
    const { weft } = wiring
    for (let round = 0; round < 4; round++) {
      const names: string[] = []
      const changes = (async () => {
        for (let n = 0; n < 12; n++) {
          const name = `r${round}n${n}`
          const path = join(wiring.lab.folder, `${name}.sock`)
          if ((await weft.cli(['port', 'add', 'lan', name, '--kind', 'qemu', '--path', path])).status !== 0) return
          names.push(name)
        }
      })()
      await pause(400 + round * 150)
      await weft.kill()
      await changes
      await weft.start()
      const list = await weft.json<{ name: string }[]>('port list lan')
      const there = list.map((port) => port.name).filter((name) => name.startsWith(`r${round}`))
      for (const name of names) assert.ok(there.includes(name), `${name} was acknowledged and is lost`)
      assert.ok(there.length <= names.length + 1, `${there} after ${names} were acknowledged`)
    }
  })

  it('a damaged state file is reported and kept, the other networks run', async () => {
    const { weft } = wiring
    await weft.do('network create victim --mode isolated')
    await weft.stop()
    const files = readdirSync(weft.state, { recursive: true, encoding: 'utf8' })
    const file = files.find((name) => /victim/.test(name)) as string
    assert.ok(file, `no file of the network among ${files}`)
    const path = join(weft.state, file)
    const damaged = readFileSync(path, 'utf8').slice(0, 40)
    writeFileSync(path, damaged)
    await weft.start()
    await until('the log names the file', () => weft.log.includes(file.split('/').at(-1) as string))
    const names = (await networks()).map((network) => network.name)
    assert.ok(names.includes('lan') && !names.includes('victim'), String(names))
    assert.equal(readFileSync(path, 'utf8'), damaged)
    const again = await weft.cli('network create victim --mode isolated')
    assert.equal(again.status, 1, 'a new network must not take the place of one that could not be read')
    assert.equal(readFileSync(path, 'utf8'), damaged)
  })
})
