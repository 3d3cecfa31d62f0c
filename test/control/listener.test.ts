/**
 * The unix socket by native code: who connects is known, many come and go. Skipped while the native code is not built.
 */
import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import type { CallError } from '../../src/control/client.js'
import type { Peer, UnixSockets } from '../../src/control/listener.js'
import { Fixture, until } from './daemon-fixture.js'

const native: UnixSockets | null = await import('../../src/ports/native.js').then(
  (module) => module.native,
  () => null,
)
const built = { skip: native === null ? 'the native code is not built' : false }

let fixture: Fixture
beforeEach(() => {
  fixture = new Fixture()
})
afterEach(() => fixture.close())

/** The native sockets, to whom every peer is this one. */
function seenAs(peer: Peer): UnixSockets {
  const stranger: UnixSockets = {
    ...(native as UnixSockets),
    peerCredentials: () => peer,
  }
  // Methods of a native object do not all survive a spread.
  for (const name of ['listenUnix', 'accept', 'watch', 'unwatch', 'close'] as const) {
    stranger[name] = (...args: never[]) =>
      (native as never as Record<string, (...args: never[]) => never>)[name]?.(...args)
  }
  return stranger
}

test('clients are served, one after another and at once', built, async () => {
  await fixture.start({}, native)
  assert.equal(statSync(fixture.socket).mode & 0o777, 0o600)
  const clients = await Promise.all(Array.from({ length: 20 }, () => fixture.client()))
  const answers = await Promise.all(clients.map((client) => client.call('status', {})))
  assert.equal(answers.length, 20)
  for (const client of clients) client.close()
  await Promise.all(clients.map((client) => client.closed))
  const last = await fixture.client()
  await until('the daemon sees that they went', () => fixture.lines.length >= 0)
  assert.equal((await last.call('network.list', {})).length, 1)
})

test('a user who is not admitted is told so', built, async () => {
  const stranger = seenAs({ pid: 7, uid: 12345, gid: 12345 })
  await fixture.start({}, stranger)
  await assert.rejects(fixture.client(), /user 12345 may not command this daemon/)
  assert.ok(fixture.lines.some((line) => line.includes('user 12345 (process 7) was refused')))
})

test('connections that come and go at once do no harm', built, async () => {
  await fixture.start({}, native)
  for (let n = 0; n < 50; n++)
    connectSocket(fixture.socket)
      .on('error', () => {})
      .destroy()
  await (await fixture.client()).call('status', {})
})

test('a member of the group commands networks, and has nothing of the host opened', built, async () => {
  await fixture.start({ group: '0' }, seenAs({ pid: 7, uid: 12345, gid: 0 }))
  const client = await fixture.client()
  const refused = (call: Promise<unknown>, sentence: RegExp) =>
    assert.rejects(call, (error: CallError) => error.code === 'ERR_PERMISSION' && sentence.test(error.message))
  await client.call('network.create', { name: 'mine', mode: 'isolated' })
  const port = { network: 'mine', name: 'p' }
  const path = join(fixture.folder, 'p.sock')
  await refused(client.call('port.add', { ...port, kind: 'tap' }), /kind: .* may not have ports of kind tap/)
  await refused(client.call('port.add', { ...port, kind: 'netdev', dev: 'eth0' }), /kind netdev/)
  await refused(client.call('port.add', { ...port, kind: 'pcap', write: '/etc/passwd' }), /kind pcap/)
  for (const other of ['/etc/p.sock', '127.0.0.1:99', `${fixture.folder}/x/../../p`, `${fixture.folder}/..`]) {
    await refused(client.call('port.add', { ...port, kind: 'qemu', path: other }), /^path: /)
  }
  await refused(client.call('port.add', { ...port, kind: 'qemu', path, client: true }), /^client: /)
  await client.call('port.add', { ...port, kind: 'qemu', path })
  await client.call('port.set', { ...port, isolated: true })
  await refused(client.call('port.set', { ...port, path: '/etc/p.sock' }), /^path: /)
  await refused(client.call('port.set', { ...port, netns: '1' }), /^netns: /)
  const network = (settings: object) => client.call('network.define', { name: 'other', ...settings })
  await refused(network({ mode: 'bridge', uplink: 'netdev:eth0' }), /^mode: /)
  await refused(network({ mode: 'nat', uplink: 'host' }), /^uplink: .* uplink host/)
  await refused(network({ mode: 'nat' }), /^uplink: /)
  await refused(network({ ports: [{ name: 'p', kind: 'tap' }] }), /^ports\[0\].kind: /)
  await refused(client.call('network.set', { name: 'mine', uplink: 'netdev:eth0' }), /^uplink: /)
  await refused(client.call('network.set', { name: 'mine', mode: 'nat' }), /^uplink: /)
  await network({ mode: 'nat', uplink: 'none' })
})

test('a member of the group has a share of the places', built, async () => {
  await fixture.start({ group: '0' }, seenAs({ pid: 7, uid: 12345, gid: 0 }))
  for (let n = 0; n < 8; n++) await fixture.client()
  await assert.rejects(fixture.client(), /8 clients of user 12345 are connected/)
})
