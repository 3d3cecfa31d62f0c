/**
 * The fuzz targets of native/fuzz, each for a fixed number of seeded inputs under the sanitizers.
 *
 * What they check stands at the head of each. A failing iteration is named in the output and can be run alone; longer
 * runs and coverage guidance are for clang's libFuzzer (native/fuzz/rig.h says how).
 */
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { attempt } from '../rig/commands.js'
import { compile, compiler, sanitizers } from './compile.js'

/** Inputs: about two seconds each, of vhost-user twenty. */
const targets: Record<string, number> = {
  stream_fuzz: 2500,
  dgram_fuzz: 1500,
  segment_fuzz: 15000,
  transmit_fuzz: 250,
  vhost_user_fuzz: 2500,
}

const skip = compiler === null ? 'no C compiler' : !sanitizers && `${compiler} lacks the sanitizers`

suite('native code under random input', { skip }, () => {
  for (const [target, iterations] of Object.entries(targets)) {
    test(`${target}: ${iterations} inputs`, async () => {
      const sources = [target, 'rig', 'driver'].map((name) => `native/fuzz/${name}.c`)
      const result = await attempt(await compile(target, sources), [String(iterations)], { timeoutSeconds: 300 })
      assert.equal(result.status, 0, result.stderr)
      assert.equal(result.stdout, `${iterations} inputs\n`)
    })
  }
})
