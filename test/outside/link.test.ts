/**
 * Two Weft daemons as one network: linked by a QEMU stream (one listens, one connects) and by a veth, with two VLANs on
 * the link.
 *
 *   a1 (10) ─┐                    ┌─ b1 (10)
 *            ├ sw1 ═══ trunk ═══ sw2 ┤
 *   a2 (20) ─┘                    └─ b2 (20)
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { needs } from '../rig/commands.js'
import { Weft } from '../rig/daemon.js'
import { type Host, Wiring, tcp } from '../rig/hosts.js'
import { Lab } from '../rig/namespaces.js'
import { Probe } from '../rig/raw.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'iperf3', 'ethtool', 'cc')

async function wire(lab: Lab, label: string): Promise<Wiring> {
  const weft = await Weft.start(lab, await lab.namespace(label), label)
  await weft.do('network create lan --mode isolated')
  return new Wiring(lab, weft, 'lan')
}

for (const kind of ['stream', 'veth'] as const) {
  describe(`two switches linked by a ${kind}`, wants, () => {
    let lab: Lab
    let probe: Probe
    let left: Wiring
    let right: Wiring
    let hosts: { a1: Host; a2: Host; b1: Host; b2: Host }

    before(async () => {
      lab = await Lab.open()
      probe = await Probe.build(lab)
      left = await wire(lab, 'sw1')
      right = await wire(lab, 'sw2')
      if (kind === 'stream') {
        const path = join(lab.folder, 'trunk.sock')
        await left.add('trunk', `--kind qemu --path ${path} --trunk 10,20`)
        await right.add('trunk', `--kind qemu --path ${path} --client --trunk 10,20`)
      } else {
        await lab.veth(left.switchSpace(), 'up1', right.switchSpace(), 'up2')
        await left.add('trunk', '--kind netdev --dev up1 --trunk 10,20')
        await right.add('trunk', '--kind netdev --dev up2 --trunk 10,20')
      }
      hosts = {
        a1: await left.tap('a1', { address: '10.84.0.1/24', port: '--access 10' }),
        a2: await left.tap('a2', { address: '10.84.0.2/24', port: '--access 20' }),
        b1: await right.tap('b1', { address: '10.84.0.11/24', port: '--access 10' }),
        b2: await right.tap('b2', { address: '10.84.0.12/24', port: '--access 20' }),
      }
    })
    after(async () => {
      await left?.weft.stop()
      await right?.weft.stop()
      await lab?.close()
    })

    it('both ends are up', async () => {
      await left.weft.waitPort('lan', 'trunk', 'up')
      await right.weft.waitPort('lan', 'trunk', 'up')
    })

    it('hosts of one VLAN reach each other across the link', async () => {
      await hosts.a1.reaches(hosts.b1)
      await hosts.b2.reaches(hosts.a2)
    })

    it('hosts of different VLANs do not', async () => {
      assert.equal(await hosts.a1.answers(hosts.b2), 0)
      assert.equal(await hosts.a2.answers(hosts.b1), 0)
      assert.equal(await hosts.a1.answers(hosts.a2), 0)
    })

    it('addresses beyond the link are learned at it', async () => {
      await left.learns(hosts.b1.mac, 'trunk', 10)
      await right.learns(hosts.a2.mac, 'trunk', 20)
    })

    for (const on of [true, false]) {
      it(`TCP passes both ways, offloads ${on ? 'on' : 'off'} at the hosts`, async () => {
        for (const host of [hosts.a1, hosts.b1]) {
          await host.space.offload(host.device, { tx: on, tso: on, gso: on })
        }
        await probe.stream(hosts.a1.space, hosts.b1.space, hosts.b1.ip, 10)
        await probe.stream(hosts.b1.space, hosts.a1.space, hosts.a1.ip, 10)
        for (const reverse of [false, true]) {
          await tcp(hosts.a1, hosts.b1, { megabytes: 20, reverse })
        }
      })
    }

    it('comes back when one of the two is killed and started again', async () => {
      await left.weft.kill()
      await left.weft.start()
      await hosts.a1.configure()
      await left.weft.waitPort('lan', 'trunk', 'up', 60)
      await right.weft.waitPort('lan', 'trunk', 'up', 60)
      await hosts.a1.reaches(hosts.b1, 60)
    })
  })
}
