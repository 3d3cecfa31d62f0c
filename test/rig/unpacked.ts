/**
 * Programs of Debian packages that are unpacked into a folder of their own, not installed.
 *
 * The packages, with those they depend on and the machine lacks, are downloaded by apt-get and unpacked into a folder
 * in the user's cache (`$XDG_CACHE_HOME/weft-bench`, by default `~/.cache/weft-bench`). No script of a package runs, no
 * service starts, nothing of the system changes: a package that the machine has in another version is left as it is,
 * and of those named `alone` the dependencies are not fetched. Removing the folder removes all. A program that the
 * system has is preferred to an unpacked one.
 *
 * The folder must not stand below one that everybody may write to: DPDK refuses plug-ins from there.
 */
import { execFileSync } from 'node:child_process'
import { accessSync, constants, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** A file found, and what its process needs in the environment to find its libraries. */
export interface Found {
  readonly path: string
  readonly env: Record<string, string>
  /** it is in the cache, not on the system */
  readonly isUnpacked: boolean
}

const cache = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'weft-bench')
const FOLDERS = ['bin', 'sbin', 'lib/openvswitch-switch', 'lib/openvswitch-switch-dpdk', 'share/openvswitch']

/** A program (or a schema file of Open vSwitch), on the system or unpacked; null when it is in neither. */
export function find(name: string): Found | null {
  const path = (process.env['PATH'] ?? '').split(':').filter((folder) => folder.startsWith('/'))
  for (const folder of [...path, ...FOLDERS.map((each) => join('/usr', each))]) {
    if (readable(join(folder, name))) return { path: join(folder, name), env: {}, isUnpacked: false }
  }
  for (const folder of FOLDERS) {
    const file = join(cache, 'usr', folder, name)
    const env = { LD_LIBRARY_PATH: [...libraries(), ...plugIns()].join(':') }
    if (readable(file)) return { path: file, env, isUnpacked: true }
  }
  return null
}

/** Unpacked drivers of DPDK: programs are linked with some of them, and load others. */
export function plugIns(): string[] {
  return libraries().flatMap((folder) => {
    const dpdk = join(folder, 'dpdk')
    return readable(dpdk) ? readdirSync(dpdk).map((each) => join(dpdk, each)) : []
  })
}

/**
 * Downloads and unpacks what the system lacks; returns the packages unpacked. Throws with apt-get's words.
 * @param alone packages that are taken without what they depend on
 */
export function unpack(wanted: readonly string[], alone: readonly string[] = []): string[] {
  const plan = execFileSync('apt-get', ['-s', '-q', 'install', '--no-install-recommends', ...wanted], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  // `Inst NAME [VERSION] (…` is one that the system has in another version
  const packages = [...[...plan.matchAll(/^Inst (\S+) \(/gm)].flatMap((match) => match[1] ?? []), ...alone]
  if (packages.length === 0) return []
  mkdirSync(cache, { recursive: true, mode: 0o755 })
  const downloads = mkdtempSync(join(cache, 'download-'))
  try {
    const options = process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : []
    execFileSync('apt-get', [...options, '-q', 'download', ...packages], { cwd: downloads, stdio: 'pipe' })
    for (const file of readdirSync(downloads)) {
      if (file.endsWith('.deb')) execFileSync('dpkg-deb', ['-x', join(downloads, file), cache], { stdio: 'pipe' })
    }
  } finally {
    rmSync(downloads, { recursive: true, force: true })
  }
  return packages
}

/** What a package depends on, by name. */
export function dependencies(name: string): string[] {
  const text = execFileSync('apt-cache', ['depends', name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  return [...text.matchAll(/^ +Depends: ([\w.+-]+)$/gm)].flatMap((match) => match[1] ?? [])
}

function readable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK)
    return true
  } catch {
    return false
  }
}

function libraries(): string[] {
  return ['usr/lib', 'lib'].flatMap((folder) => {
    const path = join(cache, folder)
    if (!readable(path)) return []
    return readdirSync(path)
      .filter((each) => each.endsWith('-linux-gnu'))
      .map((each) => join(path, each))
  })
}
