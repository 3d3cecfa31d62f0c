/** The daemon's server, from a client's side: who is let in, what is bounded, what is heard. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { execFileSync } from 'node:child_process'
import { request as requestTls } from 'node:https'
import { type Socket, connect as connectSocket, createServer } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { type ClientOptions, WebSocket, WebSocketServer } from 'ws'
import { admitsPeer } from '../../src/control/access.js'
import { CallError, ConnectError, type Event, connect } from '../../src/control/client.js'
import { Failure } from '../../src/control/failure.js'
import { parseListen } from '../../src/control/server.js'
import { CaptureReader } from '../../src/ports/pcapng.js'
import { Fixture, until } from './daemon-fixture.js'

let fixture: Fixture
beforeEach(async () => {
  fixture = new Fixture()
})
afterEach(() => fixture.close())

function get(path: string, headers: Record<string, string> = {}): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const ask = request({ socketPath: fixture.socket, path, headers }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
    })
    ask.on('error', reject).end()
  })
}

/** The status of a refused handshake, or 101. */
function handshake(url: string, options: ClientOptions = {}, protocols: string[] = []): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols, options)
    socket.on('unexpected-response', (_request, response) => resolve(response.statusCode ?? 0))
    socket.on('open', () => {
      socket.close()
      resolve(101)
    })
    socket.on('error', reject)
  })
}

const raw = (): WebSocket =>
  new WebSocket('ws://localhost/', { createConnection: () => connectSocket(fixture.socket), perMessageDeflate: false })

test('calls, refusals, and the socket is for its user alone', async () => {
  await fixture.start()
  assert.equal(statSync(fixture.socket).mode & 0o777, 0o600)
  const client = await fixture.client()
  const port = await client.call('port.add', { network: 'default', name: 'vm1', kind: 'tap', access: 10 })
  assert.equal(port.state, 'up')
  await assert.rejects(client.call('network.show', { name: 'x' }), (error: CallError) => {
    assert.ok(error instanceof CallError)
    return error.code === 'ERR_NETWORK_NOT_FOUND' && error.message === 'there is no network x'
  })
  const status = await client.call('status', {})
  assert.deepEqual(status.ports, { up: 1, down: 0, error: 0 })
  assert.equal(status.clients, 1)
  assert.equal((await client.call('network.export', { name: 'default', format: 'json' })).format, 'json')
  await assert.rejects(client.call('network.export', { name: 'default', format: 'xml' }), { code: 'ERR_UNSUPPORTED' })
})

test('health and metrics', async () => {
  await fixture.start()
  const client = await fixture.client()
  await client.call('port.add', { network: 'default', name: 'vm1', kind: 'tap' })
  fixture.fabric.count('default', 'vm1', 7, 700)
  assert.deepEqual(await get('/healthz'), { status: 200, text: 'ok\n' })
  for (let scrape = 0; scrape < 2; scrape++) {
    const { status, text } = await get('/metrics')
    assert.equal(status, 200)
    assert.match(text, /^weft_port_receive_packets_total\{network="default",port="vm1"\} 7$/m)
    assert.match(text, /^weft_port_drops_total\{network="default",port="vm1",reason="runt"\} 1$/m)
    assert.match(text, /^weft_networks\{state="active"\} 1$/m)
    assert.match(text, /^weft_pool_free\{shard="0"\} 99$/m)
    assert.match(text, /^weft_connection_entries\{shard="0"\} 5$/m)
    assert.match(text, /^weft_neighbor_failed_total\{shard="0"\} 1$/m)
    assert.match(text, /^weft_mapping_entries\{shard="0"\} 2$/m)
    assert.match(text, /^weft_router_packets_total\{shard="0"\} 1234$/m)
    assert.match(text, /^weft_leases\{network="default"\} 0$/m)
    assert.match(text, /^weft_rules\{network="default"\} 0$/m)
  }
  await client.call('port.remove', { network: 'default', name: 'vm1' })
  assert.doesNotMatch((await get('/metrics')).text, /vm1/)
  assert.equal((await get('/nowhere')).status, 404)
  assert.equal((await get('/metrics', { host: 'evil.example' })).status, 403)
})

test('events reach those who asked for them', async () => {
  await fixture.start()
  const client = await fixture.client()
  const heard: string[] = []
  const note = (event: Event) => heard.push(event.type)
  const ports = await client.subscribe(['port.*'], note)
  await client.subscribe(['fdb.moved'], note)
  await client.call('port.add', { network: 'default', name: 'vm1', kind: 'tap' })
  fixture.fabric.emit({ type: 'fdb.moved', network: 'default', mac: 'x', vid: 1, from: 'a', port: 'b' })
  fixture.fabric.emit({ type: 'port.error', network: 'default', port: 'vm1', reason: 'gone' })
  await until('three events', () => heard.length === 3)
  assert.deepEqual(heard, ['port.added', 'fdb.moved', 'port.error'])
  await ports.end()
  await client.call('port.remove', { network: 'default', name: 'vm1' })
  assert.equal(heard.length, 3)
  await assert.rejects(client.call('subscribe', { topics: ['Port'] }), { code: 'ERR_INVALID' })
  await assert.rejects(client.call('unsubscribe', { subscription: 99 }), { code: 'ERR_NOT_FOUND' })
})

test('rates come at an interval', async () => {
  await fixture.start()
  const client = await fixture.client()
  await client.call('port.add', { network: 'default', name: 'vm1', kind: 'tap' })
  const samples: number[] = []
  await client.rates({ intervalSeconds: 0.1 }, ({ ports }) => samples.push(ports[0]?.receive.packetsPerSecond ?? -1))
  fixture.fabric.count('default', 'vm1', 1_000_000, 1)
  await until('a rate', () => samples.some((rate) => rate > 0))
  await until('it falls', () => samples.at(-1) === 0)
})

test('a capture is a pcapng file, and ends at its count', async () => {
  await fixture.start()
  const client = await fixture.client()
  await client.call('port.add', { network: 'default', name: 'vm1', kind: 'tap' })
  const chunks: Uint8Array[] = []
  const capture = await client.capture({ network: 'default', count: 2 }, (bytes) => chunks.push(bytes))
  await assert.rejects(client.call('capture.start', { network: 'default' }), { code: 'ERR_CAPACITY' })
  for (let n = 0; n < 3; n++) fixture.fabric.frame('vm1', new Uint8Array(60).fill(n), 'out')
  assert.deepEqual(await capture.ended, { frames: 2, lost: 0 })
  assert.deepEqual(await capture.stop(), { frames: 2, lost: 0 })
  const frames = [...new CaptureReader().read(Buffer.concat(chunks))]
  assert.deepEqual(
    frames.map((one) => [one.interface, one.direction, one.bytes[0]]),
    [
      ['vm1', 'out', 0],
      ['vm1', 'out', 1],
    ],
  )
  assert.equal(fixture.fabric.captures.length, 0)

  const again = await client.capture({ network: 'default', port: 'vm1', filter: 'icmp' }, () => {})
  assert.equal(fixture.fabric.captures.length, 1)
  client.close()
  await client.closed
  await assert.rejects(again.ended, ConnectError)
  await until('the capture of a client that went is over', () => fixture.fabric.captures.length === 0)
  const other = await fixture.client()
  await assert.rejects(other.call('capture.start', { network: 'default', filter: 'frobnicate' }), {
    code: 'ERR_INVALID',
  })
  await assert.rejects(other.call('capture.start', { network: 'default', port: 'x' }), { code: 'ERR_PORT_NOT_FOUND' })
})

test('a client that does not read loses its subscription, nobody else does', async () => {
  await fixture.start()
  const good = await fixture.client()
  let heard = 0
  await good.subscribe(['fdb.*'], () => heard++)
  const slow = raw()
  await new Promise((resolve) => slow.once('open', resolve))
  const subscribed = new Promise((resolve) => slow.once('message', resolve))
  slow.send('{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"topics":["*"]}}')
  await subscribed
  slow.pause()
  const event = { type: 'fdb.moved', network: 'default', mac: 'x'.repeat(2000), vid: 1, from: 'a', port: 'b' } as const
  let sent = 0
  while (sent < 20_000) {
    for (let n = 0; n < 500; n++, sent++) fixture.fabric.emit(event)
    await until('the good client keeps up', () => heard === sent)
  }
  const told: string[] = []
  slow.on('message', (data) => told.push(JSON.parse(String(data)).method))
  slow.resume()
  await until('it is told', () => told.at(-1) === 'subscription.dropped')
  assert.ok(told.length < sent)
  slow.close()
})

test('junk, giants, binary and floods end or are answered; the daemon lives', async () => {
  await fixture.start()
  const plain = connectSocket(fixture.socket)
  plain.on('error', () => {})
  const closed = new Promise((resolve) => plain.once('close', resolve))
  plain.resume()
  plain.write('\x00\x01 what\r\n\r\n')
  await closed
  for (const [message, code] of [
    ['x'.repeat((1 << 20) + 1), 1009],
    [Buffer.alloc(9), 1003],
  ] as const) {
    const socket = raw()
    await new Promise((resolve) => socket.once('open', resolve))
    const ended = new Promise((resolve) => socket.once('close', resolve))
    socket.send(message)
    assert.equal(await ended, code)
  }
  const flood = raw()
  await new Promise((resolve) => flood.once('open', resolve))
  let answers = 0
  flood.on('message', () => answers++)
  for (let n = 0; n < 250; n++) flood.send('{"jsonrpc":"2.0","id":1,"method":"status"}')
  const client = await fixture.client()
  await client.call('status', {})
  await until('all are answered in the end', () => answers === 250)
  flood.close()
})

test('no more than 64 clients', async () => {
  await fixture.start()
  for (let n = 0; n < 64; n++) await fixture.client()
  await assert.rejects(fixture.client(), (error: ConnectError) => error.refused && /64 clients/.test(error.message))
})

test('TCP: the token, the origin, the host', async () => {
  const { listen } = await fixture.start({ listen: '127.0.0.1:0' })
  const url = `ws://${listen}/`
  const tokenFile = join(fixture.state, 'token')
  assert.equal(statSync(tokenFile).mode & 0o777, 0o600)
  const token = readFileSync(tokenFile, 'utf8').trim()
  const authorization = `Bearer ${token}`
  assert.equal(await handshake(url), 401)
  assert.equal(await handshake(url, { headers: { authorization: 'Bearer wrong' } }), 401)
  assert.equal(await handshake(url, { headers: { authorization } }), 101)
  assert.equal(await handshake(url, {}, ['weft', `weft.token.${token}`]), 101)
  assert.equal(await handshake(url, {}, [`weft.token.${token}`]), 101)
  assert.equal(await handshake(url, { headers: { authorization }, origin: 'http://evil.example' }), 403)
  assert.equal(await handshake(url, { headers: { authorization }, origin: `http://${listen}` }), 101)
  assert.equal(await handshake(url, { headers: { authorization, host: 'rebound.example' } }), 403)
  assert.equal(await handshake(`${url}elsewhere`, { headers: { authorization } }), 404)
  assert.equal((await fetch(`http://${listen}/healthz`)).status, 200)
  const client = await connect({ url, token })
  assert.equal((await client.call('status', {})).listen, listen)
  client.close()
  await assert.rejects(connect({ url, token: 'wrong' }), /the token is missing or wrong/)
})

test('addresses to listen on', async () => {
  assert.deepEqual(parseListen('[::1]:80'), { address: '::1', port: 80 })
  assert.deepEqual(parseListen(':80'), { address: '127.0.0.1', port: 80 })
  for (const text of ['80', 'host:80', '1.2.3.4', '127.0.0.1:70000']) assert.throws(() => parseListen(text), Failure)
  await assert.rejects(fixture.start({ listen: '0.0.0.0:0' }), /0.0.0.0 is not a loopback address/)
  assert.equal(existsSync(join(fixture.state, 'lock')), false, 'nothing is left open')
  await assert.rejects(fixture.start({ listen: '127.0.0.1:0', certificate: '/x' }), /a certificate and a key/)
})

test('the socket: a dead one is replaced, a live one and a file are not', async () => {
  writeFileSync(fixture.socket, 'precious')
  await assert.rejects(fixture.start(), /weft.sock/)
  assert.equal(readFileSync(fixture.socket, 'utf8'), 'precious')
})

test('a second daemon is refused, and the first one lives', async () => {
  const first = await fixture.start()
  const fabric = fixture.fabric
  await assert.rejects(fixture.start({ state: join(fixture.folder, 'other') }), /a daemon is running on .*weft.sock/)
  await assert.rejects(fixture.start({ socket: join(fixture.folder, 'other') }), /in use by process/)
  fixture.daemon = first
  await (await fixture.client()).call('status', {})
  await first.close()
  assert.equal(fabric.closed, true)
  assert.equal(existsSync(fixture.socket), false)
  assert.equal(existsSync(join(fixture.state, 'lock')), false)
})

test('a dead socket path is replaced', async () => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(fixture.socket, resolve))
  await assert.rejects(fixture.start(), /a daemon is running/)
  await new Promise((resolve) => server.close(resolve))
  await fixture.start()
  await (await fixture.client()).call('status', {})
})

test('who may connect by the unix socket', () => {
  const group = { gid: 50, members: ['root'] }
  const peer = (uid: number, gid: number) => ({ pid: 1, uid, gid })
  assert.equal(admitsPeer(peer(0, 0), 1000, null), true)
  assert.equal(admitsPeer(peer(1000, 1), 1000, null), true)
  assert.equal(admitsPeer(peer(1001, 50), 1000, null), false)
  assert.equal(admitsPeer(peer(1001, 50), 1000, group), true)
  assert.equal(admitsPeer(peer(1001, 51), 1000, group), false)
})

test('silent TCP connections take nobody his place on the unix socket, and end by themselves', async () => {
  const { listen } = await fixture.start({ listen: '127.0.0.1:0' })
  const port = Number(listen?.split(':').at(-1))
  const silent: Socket[] = []
  let ended = 0
  let refused = ''
  for (let n = 0; n < 140; n++) {
    const socket = connectSocket(port, '127.0.0.1')
    socket.on('error', () => {})
    socket.on('data', (data) => {
      refused = String(data)
    })
    socket.on('close', () => ended++)
    silent.push(socket)
  }
  await until('those above the share are refused', () => ended === 140 - 16)
  assert.match(refused, /503[^]*16 connections by TCP are open/)
  await (await fixture.client()).call('status', {})
  assert.equal((await get('/healthz')).status, 200)
  await until('the others are ended', () => ended === 140)
  assert.equal((await fetch(`http://${listen}/healthz`)).status, 200)
})

test('clients on TCP leave the places that are kept', async () => {
  const { listen } = await fixture.start({ listen: '127.0.0.1:0' })
  const token = readFileSync(join(fixture.state, 'token'), 'utf8').trim()
  const address = { url: `ws://${listen}/`, token }
  const clients = await Promise.all(Array.from({ length: 14 }, () => connect(address)))
  while (clients.length < 32) clients.push(await connect(address))
  await assert.rejects(connect(address), /32 clients by TCP are connected/)
  await (await fixture.client()).call('status', {})
  for (const client of clients) client.close()
})

test('a name in the TLS certificate is a name of the daemon; no other is', async () => {
  const [certificate, key] = ['cert.pem', 'key.pem'].map((name) => join(fixture.folder, name)) as [string, string]
  const names = ['-subj', '/CN=switch', '-addext', 'subjectAltName=DNS:switch.example']
  const making = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', key, '-out', certificate]
  execFileSync('openssl', [...making, ...names], { stdio: 'ignore' })
  const { listen } = await fixture.start({ listen: '127.0.0.1:0', certificate, key })
  const ask = (host: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const [hostname, port] = (listen ?? '').split(':')
      const options = { hostname, port, path: '/healthz', headers: { host }, rejectUnauthorized: false }
      requestTls(options, (response) => resolve(response.resume().statusCode ?? 0))
        .on('error', reject)
        .end()
    })
  assert.equal(await ask('switch.example'), 200)
  assert.equal(await ask('other.example'), 403)
  await fixture.daemon?.close()
  writeFileSync(certificate, 'no certificate')
  await assert.rejects(fixture.start({ listen: '127.0.0.1:0', certificate, key }), (error: Failure) => {
    return error instanceof Failure && error.message.includes(certificate)
  })
})

test('a second capture is refused, and the first goes on', async () => {
  await fixture.start()
  const client = await fixture.client()
  await client.call('port.add', { network: 'default', name: 'vm1', kind: 'tap' })
  let bytes = 0
  const first = await client.capture({ network: 'default', count: 1 }, (chunk) => {
    bytes += chunk.length
  })
  await assert.rejects(
    client.capture({ network: 'default' }, () => assert.fail('the second hears nothing')),
    { code: 'ERR_CAPACITY' },
  )
  fixture.fabric.frame('vm1', new Uint8Array(60))
  assert.deepEqual(await first.ended, { frames: 1, lost: 0 })
  assert.ok(bytes > 60)
  await assert.rejects(
    client.capture({ network: 'x' }, () => {}),
    { code: 'ERR_NETWORK_NOT_FOUND' },
  )
  const again = await client.capture({ network: 'default' }, () => {})
  assert.deepEqual(await again.stop(), { frames: 0, lost: 0 })
})

test('a daemon that stands still is not waited for for ever', async () => {
  const silent = createServer((socket) => void socket.resume())
  await new Promise<void>((resolve) => silent.listen(fixture.socket, resolve))
  await assert.rejects(connect({ socket: fixture.socket, connectSeconds: 0.2 }), (error: ConnectError) => {
    return error.refused && /the daemon does not answer within 0.2 s/.test(error.message)
  })
  const deaf = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await new Promise((resolve) => deaf.once('listening', resolve))
  const { port } = deaf.address() as { port: number }
  const client = await connect({ url: `ws://127.0.0.1:${port}/`, token: 'x', callSeconds: 0.2 })
  await assert.rejects(client.call('status', {}), /status is not answered within 0.2 s/)
  client.close()
  deaf.close()
  silent.close()
})
