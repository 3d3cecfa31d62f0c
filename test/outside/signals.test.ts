/**
 * Signals to the daemon and its shards: those that end it leave devices as found and no sockets; those that people send
 * to other daemons open no debugger, which any local user could use.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { needs, pause, until } from '../rig/commands.js'
import type { Status } from '../rig/daemon.js'
import { Wiring } from '../rig/hosts.js'

describe('signals', needs('root', 'tun', 'weft', 'ip'), () => {
  let wiring: Wiring
  beforeEach(async () => {
    wiring = await Wiring.open()
  })
  afterEach(() => wiring?.close())

  for (const signal of ['SIGHUP', 'SIGQUIT', 'SIGINT'] as const) {
    it(`${signal} ends it in order`, async () => {
      const { weft } = wiring
      const space = weft.namespace
      assert.ok(space)
      await space.ip('tuntap add dev found0 mode tap')
      await space.ip('link set found0 mtu 1280')
      await wiring.add('found', '--kind tap --dev found0')
      assert.notEqual((await space.link('found0'))?.mtu, 1280)
      const socket = join(wiring.lab.folder, 'q.sock')
      await wiring.add('q', `--kind qemu --path ${socket}`)
      process.kill(weft.pid, signal)
      await until('it has ended', async () => !weft.running)
      assert.equal((await space.link('found0'))?.mtu, 1280)
      assert.deepEqual([existsSync(socket), existsSync(weft.socket)], [false, false])
      await weft.kill()
      await weft.start()
    })
  }

  it('SIGUSR1 and SIGUSR2 open no debugger and end nothing, in the daemon and in its shards', async () => {
    const { weft } = wiring
    const space = weft.namespace
    assert.ok(space)
    const shards = async () =>
      (await weft.json<Status>('status')).shards.map(({ pid, restarts }) => ({ pid, restarts }))
    const before = await shards()
    for (const pid of [weft.pid, ...before.map((shard) => shard.pid)]) {
      for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) process.kill(pid, signal)
    }
    await pause(1500)
    const ask =
      "require('net').connect(9229,'127.0.0.1').on('connect',()=>console.log('open'))" +
      ".on('error',(e)=>console.log(e.code))"
    const asked = ['--reuid', '65534', '--clear-groups', process.execPath, '-e', ask]
    const result = await space.attempt('setpriv', asked)
    assert.equal(result.stdout.trim(), 'ECONNREFUSED', result.stderr)
    assert.deepEqual(await shards(), before)
  })
})
