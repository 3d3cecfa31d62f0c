/** JSON-RPC 2.0 as its specification says, and the parameters of the methods. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { discover } from '../../src/control/api.js'
import { Failure } from '../../src/control/failure.js'
import { Log } from '../../src/control/log.js'
import { Dispatcher, type Handlers, nesting } from '../../src/control/rpc.js'

const lines: string[] = []
const log = new Log('debug', (line) => lines.push(line))
const handlers = {
  'network.list': ({ all }: { all?: boolean }) => [String(all)],
  'network.show': ({ name }: { name: string }) => {
    if (name === 'defect') throw new TypeError('secret detail')
    throw new Failure('ERR_NETWORK_NOT_FOUND', `there is no network ${name}`)
  },
  'port.add': (params: object) => {
    throw new Failure('ERR_INVALID', `access: 4095 is not 1..4094 ${JSON.stringify(params).length > 0}`, 'access')
  },
} as unknown as Handlers<null>
const dispatcher = new Dispatcher<null>(handlers, discover('1.2.3'), log)
const ask = async (message: unknown) => {
  const text = await dispatcher.answer(typeof message === 'string' ? message : JSON.stringify(message), null)
  return text === null ? null : JSON.parse(text)
}
const request = (method: string, params?: unknown, id: unknown = 1) => ({ jsonrpc: '2.0', id, method, params })

test('requests, by name and by position, and notifications', async () => {
  assert.deepEqual(await ask(request('network.list', { all: true })), { jsonrpc: '2.0', id: 1, result: ['true'] })
  assert.deepEqual(await ask(request('network.list', [true], 'x')), { jsonrpc: '2.0', id: 'x', result: ['true'] })
  assert.deepEqual(await ask(request('network.list', undefined, null)), {
    jsonrpc: '2.0',
    id: null,
    result: ['undefined'],
  })
  assert.equal(await ask({ jsonrpc: '2.0', method: 'network.list' }), null)
  assert.equal(await ask({ jsonrpc: '2.0', method: 'no.such' }), null)
})

test('the errors of the specification', async () => {
  const code = async (message: unknown) => (await ask(message)).error.code
  assert.equal(await code('{'), -32700)
  assert.equal(await code(''), -32700)
  assert.equal(await code('['.repeat(65) + ']'.repeat(65)), -32700)
  for (const message of [
    1,
    null,
    'null',
    {},
    { jsonrpc: '1.0', id: 1, method: 'network.list' },
    request('x', 'text'),
  ]) {
    assert.equal(await code(message), -32600, JSON.stringify(message))
  }
  assert.equal(await code({ jsonrpc: '2.0', id: 1, method: 7 }), -32600)
  assert.equal(await code({ jsonrpc: '2.0', id: {}, method: 'network.list' }), -32600)
  for (const method of ['no.such', '__proto__', 'constructor']) assert.equal(await code(request(method)), -32601)
  assert.equal(await code(request('network.list', [true, 1])), -32602)
  assert.equal(await code([]), -32600)
  assert.equal(await code(Array(257).fill(request('network.list'))), -32600)
})

test('batches: each in its order, nothing for notifications', async () => {
  const answers = await ask([
    request('network.list', {}, 1),
    { jsonrpc: '2.0', method: 'network.list' },
    5,
    request('no', {}, 2),
  ])
  assert.deepEqual(
    answers.map((one: { id: unknown }) => one.id),
    [1, null, 2],
  )
  assert.equal(await ask([{ jsonrpc: '2.0', method: 'network.list' }]), null)
  assert.ok(Array.isArray(await ask([request('network.list')])))
})

test('refusals carry code and path, defects nothing of the inside', async () => {
  const { error } = await ask(request('network.show', { name: 'x' }))
  assert.deepEqual(error, { code: -32000, message: 'there is no network x', data: { code: 'ERR_NETWORK_NOT_FOUND' } })
  const unknown = await ask(request('network.create', { name: 'x', colour: 1 }))
  assert.equal(unknown.error.code, -32602)
  assert.deepEqual(unknown.error.data, { code: 'ERR_INVALID', path: 'colour' })
  const bad = await ask(request('port.set', { network: 'n', name: 'p', access: 4095 }))
  assert.equal(bad.error.message, 'access: 4095 is not 1..4094')
  const mode = await ask(request('port.link', { network: 'n', name: 'p', state: 'sideways' }))
  assert.equal(mode.error.message, 'state: sideways is not one of up, down')
  const defect = await ask(request('network.show', { name: 'defect' }))
  assert.equal(defect.error.code, -32603)
  assert.doesNotMatch(JSON.stringify(defect), /secret/)
  assert.ok(lines.some((line) => line.includes('secret detail')))
})

test('nesting counts brackets outside strings', () => {
  assert.equal(nesting('{"a":[{"b":"[[[[\\"[["}]}'), 3)
  assert.equal(nesting('1'), 0)
})

test('rpc.discover is an OpenRPC document of all methods', async () => {
  const { result } = await ask(request('rpc.discover'))
  assert.equal(result.openrpc, '1.3.2')
  assert.equal(result.info.version, '1.2.3')
  const add = result.methods.find((one: { name: string }) => one.name === 'fdb.add')
  assert.deepEqual(
    add.params.map((one: { name: string; required: boolean }) => [one.name, one.required]),
    [
      ['network', true],
      ['mac', true],
      ['port', true],
      ['vid', false],
    ],
  )
  assert.ok(result.methods.every((one: { summary: string; result: object }) => one.summary && one.result))
})
