/**
 * The socket ports of native/ (port_stream.c, port_dgram.c) with the real engine: scenarios of `ports.c`, one process
 * each. After each, every slot is free again.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, test } from 'node:test'
import { attempt } from '../rig/commands.js'
import { cannotCompile } from './ask.js'
import { compile } from './compile.js'

const scenarios: Record<string, string> = {
  'stream-byte-by-byte': 'frames that come a byte at a time come out whole',
  'stream-many-in-one': 'two hundred frames in one write come in bursts, then the end is told',
  'stream-bad-length': 'a length of 0 or beyond the limit of QEMU ends the port with EPROTO, past the frames before',
  'stream-longest': 'the longest frame passes; one that fits no slot is skipped and counted',
  'stream-wire': 'what is on the wire, with and without a tag, byte for byte (QEMU net/stream.c: 32-bit length, frame)',
  'stream-never-reads':
    'a peer that stops reading costs nobody else a frame, and gets what was queued, whole, in order',
  'stream-last-words': 'what a peer sent before it left is received although sending to it has failed',
  'stream-reset': 'what a peer sent before it broke off is received before the error is told',
  'stream-bad-memory': 'a memory of a predecessor that makes no sense ends the port, and only that',
  'stream-moves': 'a port that is detached and attached again goes on within a frame, both ways',
  'dgram-lengths': 'datagrams of any length come in slots of the right size; empty and oversize ones are counted',
  'dgram-slow-peer': 'what the peer does not take at once follows, in order, tags and all',
  'dgram-no-peer': 'without a peer frames are dropped and counted, and receiving works',
  'dgram-remembers': 'a peer is known again to who takes its port over, and to no other socket',
  'dgram-peer-leaves': 'a peer that has left is told once',
}

suite('socket ports', { skip: cannotCompile }, () => {
  for (const [name, what] of Object.entries(scenarios)) {
    test(what, async (context) => {
      const program = await compile('ports', ['test/native/ports.c', 'native/fuzz/rig.c'])
      const folder = mkdtempSync(join(tmpdir(), 'weft-ports-'))
      context.after(() => rmSync(folder, { recursive: true }))
      const result = await attempt(program, [name, folder])
      assert.equal(result.stderr, '')
      assert.equal(result.stdout, 'as it should be\n')
      assert.equal(result.status, 0)
    })
  }
})
