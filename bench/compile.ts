/**
 * Compiles the small C programs of the benches when a bench needs them.
 *
 * The sources stand beside this file's source (`bench/NAME.c`); the program goes into a temporary folder of this
 * process and is gone with it. Each is one file of C17 with `program.h`, libc and kernel headers, one with DPDK's.
 * `CC` names another compiler than `cc`.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** The root of the checkout, seen from dist/bench/. */
export const root = fileURLToPath(new URL('../../', import.meta.url))

const programs = new Map<string, Promise<string>>()
let folder: string | undefined

/**
 * The path of the program made from `bench/NAME.c`; throws with the compiler's own words if it does not compile.
 * @param more arguments of the compiler behind the source: folders, libraries
 */
export function program(name: string, more: readonly string[] = []): Promise<string> {
  let path = programs.get(name)
  if (path === undefined) {
    path = compile(name, more)
    programs.set(name, path)
  }
  return path
}

async function compile(name: string, more: readonly string[]): Promise<string> {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), `weftb-${process.pid}-bin-`))
    process.on('exit', () => rmSync(made, { recursive: true, force: true }))
    folder = made
  }
  const path = join(folder, name)
  const source = join(root, 'bench', `${name}.c`)
  const flags = ['-O2', '-std=gnu17', '-Wall', '-Wextra', '-Werror']
  await promisify(execFile)(process.env['CC'] ?? 'cc', [...flags, '-o', path, source, ...more])
  return path
}
