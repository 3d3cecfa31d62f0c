/**
 * An independent driver: two network cards of DPDK's testpmd (virtio-user) on vhost-user ports of one network, which
 * flood each other with datagrams, in each form of ring that the driver has and Weft takes. What testpmd and Weft have
 * counted must agree: every frame that went in has been received or is named as dropped, none has come out twice.
 *
 * testpmd writes MAC addresses of its own (see bench/vhost.ts), so these frames are flooded. It is unpacked, not
 * installed (test/rig/dpdk.ts), at the first run.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { Background, needs, pause, until } from '../rig/commands.js'
import { Weft } from '../rig/daemon.js'
import { type Forwarded, dpdkPackages, forwardedOf, hasTestpmd, testpmd, virtioUser } from '../rig/dpdk.js'
import { Lab } from '../rig/namespaces.js'
import { unpack } from '../rig/unpacked.js'

const wants = hasTestpmd() ? needs('root') : needs('root', 'apt-get', 'apt-cache', 'dpkg-deb')
const SECONDS = 1.5
/** Frames that rings and queues can hold when the sender stops. */
const ON_THE_WAY = 40_000

interface Form {
  readonly name: string
  readonly more?: readonly string[]
  readonly isServer?: boolean
}

const FORMS: Form[] = [
  { name: 'as it comes' },
  { name: 'with rings of 1024', more: ['queue_size=1024'] },
  { name: 'without mergeable buffers', more: ['mrg_rxbuf=0'] },
  { name: 'with chains out of order', more: ['in_order=0'] },
  { name: 'without mergeable buffers, out of order', more: ['mrg_rxbuf=0', 'in_order=0'] },
  { name: 'that listens, and Weft connects', isServer: true },
]

describe("DPDK's driver", wants, () => {
  let lab: Lab
  let weft: Weft
  let absent = ''
  before(async () => {
    try {
      if (!hasTestpmd()) unpack(...dpdkPackages())
    } catch (error) {
      absent = `testpmd is not to be had: ${error instanceof Error ? error.message : error}`
      return
    }
    lab = await Lab.open()
    weft = await Weft.start(lab, await lab.namespace('sw'))
    await weft.do('network create lan --mode isolated')
  })
  after(() => lab?.close())

  for (const [n, form] of FORMS.entries()) {
    it(`passes frames ${form.name}`, async (test) => {
      if (absent !== '') return test.skip(absent)
      const names = [`a${n}`, `b${n}`]
      const sockets = names.map((name) => join(lab.folder, `${name}.sock`))
      const client = form.isServer === true ? ' --client' : ''
      for (const [i, name] of names.entries())
        await weft.do(`port add lan ${name} --kind vhost-user --path ${sockets[i]}${client}`)
      const driver = start(sockets, form)
      try {
        await says(driver, 'testpmd>', 0)
        const first = await flood(driver)
        await compare(names, [first])
        // its rings are stopped and begun anew
        const from = driver.stdout.length
        driver.write('port stop all\nport start all\n')
        await until('the ports are started again', () => driver.stdout.slice(from).split('Done').length > 2, 60)
        await compare(names, [first, await flood(driver)])
      } finally {
        driver.write('quit\n')
        await driver.stop('SIGTERM')
        for (const name of names) await weft.do(`port remove lan ${name}`)
      }
    })
  }

  function start(sockets: readonly string[], { more = [], isServer = false }: Form): Background {
    const { file, args, env } = testpmd({
      devices: sockets.map((socket, i) => virtioUser(i, { socket, mac: `52:54:00:00:d0:0${i}`, isServer, more })),
      core: 0,
      folder: lab.folder,
      options: ['--forward-mode=flowgen', '--txpkts=64'],
    })
    return new Background(file, args, { environment: env })
  }

  /** Waits for words in what the program says from a place on. */
  const says = (driver: Background, text: string, from: number): Promise<true> =>
    until(
      `testpmd says ${text}`,
      () => {
        if (!driver.running) throw new Error(driver.stderr + driver.stdout)
        return driver.stdout.includes(text, from)
      },
      60,
    )

  async function flood(driver: Background): Promise<Forwarded> {
    const from = driver.stdout.length
    driver.write('start\n')
    await says(driver, 'packet forwarding', from)
    await pause(SECONDS * 1000)
    driver.write('stop\n')
    await says(driver, 'Done.', from)
    return forwardedOf(driver.stdout.slice(from))
  }

  /** What Weft has counted at a port. */
  async function counted(name: string): Promise<{ received: number; transmitted: number }> {
    const { state, reason, receive, transmit, drops } = await weft.port('lan', name)
    assert.equal(state, 'up', reason ?? '')
    const others = Object.keys(drops).filter((drop) => drop !== 'queue-full')
    assert.deepEqual(others, [], 'dropped for want of room only')
    return { received: receive.packets, transmitted: transmit.packets }
  }

  /** @param runs what testpmd has counted since the ports were made */
  async function compare(names: readonly string[], runs: readonly Forwarded[]): Promise<void> {
    const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0)
    const sent = sum(runs.map((run) => run.sent))
    const received = sum(runs.map((run) => run.received))
    assert.ok(runs.every((run) => run.sent > 10_000))
    const transmitted = await until('Weft has taken all that was sent', async () => {
      const each = await Promise.all(names.map(counted))
      const taken = sum(each.map((one) => one.received))
      if (taken !== sent) throw new Error(`${taken} of ${sent}`)
      return sum(each.map((one) => one.transmitted))
    })
    assert.ok(received <= transmitted, `${received} frames arrived, ${transmitted} were transmitted`)
    const least = transmitted - runs.length * ON_THE_WAY
    assert.ok(received >= least, `${received} of ${transmitted} frames arrived`)
  }
})
