/**
 * A stream (port_stream.c) that outlives the process that serves it, by `outlive.c`, which is the peer: processes are
 * killed one after another on the same socket, hundreds of them at random moments under a flood both ways; and single
 * steps are taken through receiving, sending, draining the queue and taking over, with a look after each change of what
 * the next process goes by, and between, at what that makes of it. Every frame is whole and true, or missing.
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { attempt } from '../rig/commands.js'
import { cannotCompile } from './ask.js'
import { compile } from './compile.js'

const scenarios: Record<string, string> = {
  receive: 'receives, and moves most of a frame to the front of its buffer',
  'receive-longest': 'has most of the longest frame that there is',
  send: 'sends, in part, what then goes to the queue',
  drain: 'sends from the queue, and adds to it',
  'after-receive': 'takes over from one that was killed with bytes just received',
  'after-send': 'takes over from one that was killed with a frame sent in part',
  'after-drain': 'takes over from one that was killed with bytes just sent from the queue',
}

async function outlives(...args: string[]): Promise<string> {
  const program = await compile('outlive', ['test/native/outlive.c', 'native/fuzz/rig.c'], 'plain')
  const result = await attempt(program, args, { timeoutSeconds: 120 })
  assert.equal(result.stderr, '')
  assert.equal(result.status, 0)
  return result.stdout
}

suite('a stream whose process is killed goes on', { skip: cannotCompile }, () => {
  for (const [name, what] of Object.entries(scenarios)) {
    test(`at any instruction of one that ${what}`, async () => {
      const kills = /^(\d+) kills in \d+ instructions, in which (\d+) changes/.exec(await outlives('steps', name))
      assert.ok(kills && Number(kills[1]) > 50 && Number(kills[2]) >= 5)
    })
  }

  for (const seed of ['1', '2']) {
    test(`at 500 random moments under a flood both ways, seed ${seed}`, async (context) => {
      const text = await outlives('random', '500', seed)
      assert.match(text, /^500 kills/)
      context.diagnostic(text.trim())
    })
  }
})
