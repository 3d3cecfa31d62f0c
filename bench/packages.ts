/**
 * Finds the programs of the other contenders, and fetches those that are missing when asked to (`--install`).
 *
 * Fetched does not mean installed: the Debian packages, with those they depend on and the machine lacks, are downloaded
 * by apt-get and unpacked into a folder in the user's cache (`$XDG_CACHE_HOME/weft-bench`, by default
 * `~/.cache/weft-bench`). No script of a package runs, no service starts, nothing of the system changes; removing the
 * folder removes all. A program that the system has is preferred to an unpacked one.
 */
import { execFileSync } from 'node:child_process'
import { accessSync, constants, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

const WANTED = ['vde-switch', 'openvswitch-switch', 'ethtool', 'iperf3', 'nftables', 'dnsmasq-base', 'dnsperf']

/** A file found, and what its process needs in the environment to find its libraries. */
export interface Found {
  readonly path: string
  readonly env: Record<string, string>
}

const cache = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'weft-bench')
const FOLDERS = ['bin', 'sbin', 'lib/openvswitch-switch', 'share/openvswitch']

/** A program (or a schema file of Open vSwitch), on the system or unpacked; null when it is in neither. */
export function find(name: string): Found | null {
  const path = (process.env['PATH'] ?? '').split(':').filter((folder) => folder.startsWith('/'))
  for (const folder of [...path, ...FOLDERS.map((each) => join('/usr', each))]) {
    if (readable(join(folder, name))) return { path: join(folder, name), env: {} }
  }
  for (const folder of FOLDERS) {
    const file = join(cache, 'usr', folder, name)
    if (readable(file)) return { path: file, env: { LD_LIBRARY_PATH: libraries().join(':') } }
  }
  return null
}

/** Downloads and unpacks what is missing; returns the packages unpacked. Throws with apt-get's words. */
export function unpackMissing(): string[] {
  const plan = execFileSync('apt-get', ['-s', '-q', 'install', '--no-install-recommends', ...WANTED], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const packages = [...plan.matchAll(/^Inst (\S+)/gm)].flatMap((match) => match[1] ?? [])
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
