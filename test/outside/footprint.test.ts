/**
 * What Weft leaves behind: nothing. Links, firewall rules, kernel settings, sockets and processes of a namespace are
 * the same before and after a daemon that had ports of every kind; a TAP that was there before is left as it was found.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { needs, run, until } from '../rig/commands.js'
import { Weft } from '../rig/daemon.js'
import { Wiring } from '../rig/hosts.js'
import { Lab, type Namespace } from '../rig/namespaces.js'

describe('footprint', needs('root', 'tun', 'weft', 'ip', 'sysctl', 'nft'), () => {
  let lab: Lab
  let space: Namespace
  before(async () => {
    lab = await Lab.open()
    space = await lab.namespace('sw')
    await space.ip('link add d0 type veth peer name d1')
    await space.ip('link set d0 up')
    await space.ip('link set d1 up')
    await space.ip('tuntap add keep0 mode tap vnet_hdr user 65534')
    await space.ip('link set keep0 mtu 1450 up') // up once, for the queue it then keeps
    await space.ip('tuntap add keep1 mode tap vnet_hdr multi_queue')
    await space.ip('link set keep1 up')
    await space.ip('link set keep0 down')
    await space.ip('link set keep1 down')
  })
  after(() => lab?.close())

  /** Everything of the namespace that a switch might touch, a line each. */
  async function inventory(): Promise<string[]> {
    const found: string[] = []
    const links = JSON.parse(await run('ip', ['-n', space.name, '-json', '-details', 'link'])) as Record<
      string,
      unknown
    >[]
    const kept = ['mtu', 'flags', 'qdisc', 'group', 'txqlen', 'address', 'promiscuity', 'linkinfo', 'altnames']
    for (const link of links) {
      for (const key of kept) found.push(`link ${link.ifname} ${key} ${JSON.stringify(link[key])}`)
    }
    const texts = {
      address: await run('ip', ['-n', space.name, '-o', 'address']),
      route: await run('ip', ['-n', space.name, 'route', 'show', 'table', 'all']),
      rule: await run('ip', ['-n', space.name, 'rule']),
      firewall: await space.run('nft', ['list', 'ruleset']),
      setting: (await space.attempt('sysctl', ['-a', '-r', '^net\\.'])).stdout,
    }
    for (const [what, text] of Object.entries(texts)) {
      for (const line of text.split('\n').filter(Boolean)) found.push(`${what} ${line}`)
    }
    return found
  }

  /** Fails with the lines that are new or gone. */
  async function unchanged(atFirst: readonly string[]): Promise<void> {
    const now = await inventory()
    const added = now.filter((line) => !atFirst.includes(line))
    const gone = atFirst.filter((line) => !now.includes(line))
    assert.deepEqual({ added, gone }, { added: [], gone: [] })
  }

  /** Only the processes of the daemon run in its namespace. */
  const processes = async (): Promise<string> => (await run('ip', ['netns', 'pids', space.name])).trim()

  async function use(weft: Weft, adopt = true): Promise<string> {
    const wiring = new Wiring(lab, weft, 'lan')
    const path = join(lab.folder, 'g.sock')
    await weft.do('network create lan --mode isolated')
    await wiring.add('n', '--kind netdev --dev d0 --trunk 10 --native 20')
    if (adopt) await wiring.add('keep', '--kind tap --dev keep0')
    if (adopt) await wiring.add('queues', '--kind tap --dev keep1') // made with several queues
    await wiring.add('t', '--kind tap --dev made0')
    await wiring.add('g', `--kind qemu --path ${path}`)
    await weft.waitPort('lan', 'n', 'up')
    assert.notEqual(await space.link('made0'), null)
    assert.ok(existsSync(path))
    return path
  }

  it('nothing is left after the daemon was stopped', async () => {
    const atFirst = await inventory()
    const weft = await Weft.start(lab, space, 'first')
    const path = await use(weft)
    await weft.stop()
    await until('no process of it is left', async () => (await processes()) === '')
    await unchanged(atFirst)
    assert.ok(!existsSync(path), "the port's socket is gone")
    assert.ok(!existsSync(weft.socket), 'the control socket is gone')
  })

  it('nothing but sockets is left after kill -9', async () => {
    const atFirst = await inventory()
    const weft = await Weft.start(lab, space, 'second')
    await use(weft, false) // nobody can put back what the adopted TAP was
    await weft.kill()
    await until('no process of it is left', async () => (await processes()) === '')
    await unchanged(atFirst)
    const again = await Weft.start(lab, space, 'second')
    await again.waitPort('lan', 'g', 'down') // it made its socket again over the old one
    await again.stop()
    await unchanged(atFirst)
  })

  it('removing a port gives back what it took, and so does deleting a network with its uplink', async () => {
    const atFirst = await inventory()
    const weft = await Weft.start(lab, space, 'third')
    assert.notEqual(await space.link('weft-default'), null, 'the uplink of the network default')
    await weft.do('network delete default')
    await use(weft)
    for (const name of ['n', 'keep', 'queues', 't', 'g']) await weft.do(`port remove lan ${name}`)
    await unchanged(atFirst)
    await weft.stop()
  })

  it('a daemon that only starts and stops changes nothing', async () => {
    const atFirst = await inventory()
    const weft = await Weft.start(lab, space, 'fourth')
    await weft.stop()
    await unchanged(atFirst)
  })
})
