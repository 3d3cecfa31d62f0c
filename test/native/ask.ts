/**
 * Asks native functions through `ask.c`: one process a list of questions, one line of answer each.
 */
import { run } from '../rig/commands.js'
import { compile, compiler } from './compile.js'

/** The `skip` option of node:test: a reason, or false. */
export const cannotCompile: string | false = compiler === null && 'no C compiler'

/** The answers to the questions that ask.c lists, in order. */
export async function ask(questions: readonly string[]): Promise<string[]> {
  const program = await compile('ask', ['test/native/ask.c'])
  const said = await run(program, [], { input: `${questions.join('\n')}\n` })
  return said
    .split('\n')
    .slice(0, questions.length)
    .map((line) => line.trim())
}

export async function askOne(question: string): Promise<string> {
  return (await ask([question]))[0]
}

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
export const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'))

/** A seeded sequence of numbers from 0 to below 2^32 (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
}
