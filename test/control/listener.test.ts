/**
 * The unix socket by native code: who connects is known, many come and go. Skipped while the native code is not built.
 */
import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import { afterEach, beforeEach, test } from 'node:test'
import type { UnixSockets } from '../../src/control/listener.js'
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
  const stranger: UnixSockets = {
    ...(native as UnixSockets),
    peerCredentials: () => ({ pid: 7, uid: 12345, gid: 12345 }),
  }
  // Methods of a native object do not all survive a spread.
  for (const name of ['listenUnix', 'accept', 'watch', 'unwatch', 'close'] as const) {
    stranger[name] = (...args: never[]) =>
      (native as never as Record<string, (...args: never[]) => never>)[name]?.(...args)
  }
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
