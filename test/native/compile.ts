/**
 * Compiles C for the tests of native code: all of `native/` without the Node-API parts, and a program on top of it.
 *
 * The objects are made once a test process, in a temporary folder that goes with the process, with gcc's or clang's
 * address and undefined-behaviour sanitizers where the compiler has them: a test that reads one byte too far then
 * fails. A program that counts its instructions is compiled without them.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { root, run, which } from '../rig/commands.js'

const nativeFolder = join(root, 'native')
/** These need Node's headers. */
const binding = new Set(['binding.c', 'binding_device.c', 'binding_vhost_user.c', 'watch.c'])
const strict = '-std=c17 -D_GNU_SOURCE -O1 -g1 -fno-strict-overflow -Wall -Wextra -Werror'.split(' ')
const sanitizing = '-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'.split(' ')

const folder = mkdtempSync(join(tmpdir(), 'weft-native-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))

/** The C compiler, or null. */
export const compiler: string | null = ['cc', 'gcc', 'clang'].find((name) => which(name) !== null) ?? null

function trySanitizers(): boolean {
  if (compiler === null) return false
  const source = join(folder, 'empty.c')
  writeFileSync(source, 'int main(void) { return 0; }\n')
  return spawnSync(compiler, [...sanitizing, source, '-o', join(folder, 'empty')]).status === 0
}

/** Whether a program can be linked with the sanitizers. */
export const sanitizers: boolean = trySanitizers()

/** How a program is compiled: with the sanitizers, as far as there are any, or plain. */
export type Build = 'checked' | 'plain'

const flagsOf = (build: Build): string[] => (build === 'checked' && sanitizers ? [...strict, ...sanitizing] : strict)
const objects = new Map<Build, Promise<string[]>>()

async function compileNative(build: Build): Promise<string[]> {
  const names = readdirSync(nativeFolder).filter((name) => name.endsWith('.c') && !binding.has(name))
  const made: string[] = []
  for (const name of names) {
    const object = join(folder, `${basename(name, '.c')}.${build}.o`)
    await run(compiler as string, [...flagsOf(build), '-c', join(nativeFolder, name), '-o', object])
    made.push(object)
  }
  return made
}

async function link(name: string, sources: readonly string[], build: Build): Promise<string> {
  const made = objects.get(build) ?? compileNative(build)
  objects.set(build, made)
  const program = join(folder, name)
  const files = sources.map((source) => join(root, source))
  const include = ['-I', nativeFolder]
  await run(compiler as string, [...flagsOf(build), ...include, ...files, ...(await made), '-lpthread', '-o', program])
  return program
}

const programs = new Map<string, Promise<string>>()

/**
 * Compiles a program, once, and returns its path.
 * @param sources C files, seen from the root of the checkout
 */
export function compile(name: string, sources: readonly string[], build: Build = 'checked'): Promise<string> {
  const program = programs.get(name) ?? link(name, sources, build)
  programs.set(name, program)
  return program
}
