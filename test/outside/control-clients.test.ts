/**
 * Control clients that misbehave on the daemon's unix socket: junk, floods, giant and deep messages, clients that never
 * read, many at once. After each the command line is served as before.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { after, afterEach, before, describe, it } from 'node:test'
import { WebSocket } from 'ws'
import { needs, pause, until } from '../rig/commands.js'
import { Wiring } from '../rig/hosts.js'

interface Answer {
  id?: number | null
  result?: unknown
  error?: { code: number; message: string }
}

describe('control clients', needs('weft'), () => {
  let wiring: Wiring
  const open: { destroy(): void }[] = []
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())
  afterEach(async () => {
    for (const each of open.splice(0)) each.destroy()
    const networks = await wiring.weft.json<{ name: string }[]>('network list')
    assert.ok(
      networks.some((network) => network.name === 'lan'),
      'the command line is served',
    )
  })

  function raw(): Promise<Socket> {
    return new Promise((resolve, reject) => {
      const socket = connect(wiring.weft.socket)
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.on('error', () => {})
        open.push(socket)
        resolve(socket)
      })
    })
  }

  function client(): Promise<WebSocket> {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws+unix:${wiring.weft.socket}:/`, { perMessageDeflate: false })
      socket.once('error', reject)
      socket.once('open', () => {
        socket.on('error', () => {})
        open.push({ destroy: () => socket.terminate() })
        resolve(socket)
      })
    })
  }

  const answer = (socket: WebSocket, message: string | Uint8Array): Promise<Answer | 'closed'> =>
    new Promise((resolve) => {
      socket.once('message', (data) => resolve(JSON.parse((data as Buffer).toString()) as Answer))
      socket.once('close', () => resolve('closed'))
      socket.send(message)
    })

  const residentKilobytes = (): number =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${wiring.weft.pid}/status`, 'utf8'))?.[1])

  it('bytes that are no HTTP end the connection', async () => {
    for (const junk of [randomBytes(4096), Buffer.from('GET\r\n\r\n'), Buffer.alloc(100_000, 0x41)]) {
      const socket = await raw()
      const closed = new Promise((resolve) => socket.once('close', resolve))
      socket.resume()
      socket.write(junk)
      socket.end()
      await Promise.race([closed, pause(20_000).then(() => assert.fail('the connection stays open'))])
    }
  })

  it('messages that are no JSON-RPC get the standard errors', async () => {
    const socket = await client()
    const code = async (message: string): Promise<number | undefined> => {
      const got = await answer(socket, message)
      return got === 'closed' ? undefined : got.error?.code
    }
    assert.equal(await code('{'), -32700)
    assert.equal(await code('5'), -32600)
    assert.equal(await code('{"jsonrpc":"2.0","id":1}'), -32600)
    assert.equal(await code('{"jsonrpc":"2.0","id":2,"method":"no.such"}'), -32601)
    assert.equal(await code('{"jsonrpc":"2.0","id":3,"method":"__proto__"}'), -32601)
    const unknown = {
      jsonrpc: '2.0',
      id: 4,
      method: 'network.create',
      params: { name: 'x', mode: 'isolated', colour: 1 },
    }
    const refusal = await answer(socket, JSON.stringify(unknown))
    assert.ok(refusal !== 'closed' && /colour/.test(refusal.error?.message ?? ''), JSON.stringify(refusal))
    const good = await answer(socket, '{"jsonrpc":"2.0","id":5,"method":"network.list","params":{}}')
    assert.ok(good !== 'closed' && Array.isArray(good.result), JSON.stringify(good))
  })

  it('giant, deep and binary messages are refused or end the connection', async () => {
    const deep = `{"jsonrpc":"2.0","id":1,"method":"status","params":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
    for (const message of [deep, 'x'.repeat(32 << 20), randomBytes(1000)]) {
      const socket = await client()
      const got = await answer(socket, message)
      assert.ok(got === 'closed' || got.error !== undefined, JSON.stringify(got).slice(0, 200))
    }
  })

  it('a client that floods and never reads is bounded and delays nobody else for ever', async () => {
    const socket = await client()
    socket.pause()
    const atFirst = residentKilobytes()
    const request = '{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}'
    for (let n = 0; n < 20_000 && socket.readyState === WebSocket.OPEN; n++) {
      socket.send(request)
      if (n % 500 === 0) await pause(1)
    }
    await wiring.weft.do('status')
    await pause(1000)
    await wiring.weft.do('status')
    const grown = residentKilobytes() - atFirst
    assert.ok(grown < 500_000, `the daemon grew by ${grown} KiB`)
  })

  it('a hundred connections that say nothing leave room for the command line after they go', async () => {
    for (let n = 0; n < 100; n++) await raw().catch(() => null)
    for (const each of open.splice(0)) each.destroy()
    await until('the command line is served', async () => (await wiring.weft.cli('status')).status === 0)
  })

  it('a request cut in the middle holds nobody up', async () => {
    const socket = await raw()
    socket.write('GET / HTTP/1.1\r\nHost: weft\r\nUpgrade: webs')
    await wiring.weft.do('status')
  })
})
