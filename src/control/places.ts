/**
 * Where things lie if nobody says otherwise: the control socket and the state folder (XDG Base Directory
 * Specification).
 */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

const isRoot = (): boolean => process.getuid?.() === 0

/** WEFT_SOCKET, or `/run/weft/weft.sock` for root, else in XDG_RUNTIME_DIR, else in the state folder. */
export function defaultSocket(): string {
  if (process.env.WEFT_SOCKET) return process.env.WEFT_SOCKET
  if (isRoot()) return '/run/weft/weft.sock'
  const folder = process.env.XDG_RUNTIME_DIR
  return folder ? join(folder, 'weft', 'weft.sock') : join(defaultState(), 'weft.sock')
}

export function defaultState(): string {
  if (isRoot()) return '/var/lib/weft'
  return join(process.env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'weft')
}

/** The version in package.json, the nearest above this file. */
export function weftVersion(): string {
  for (const above of ['../../package.json', '../../../package.json']) {
    try {
      const found = JSON.parse(readFileSync(new URL(above, import.meta.url), 'utf8')) as {
        name: string
        version: string
      }
      if (found.name === 'weft-switch') return found.version
    } catch {
      // Not there: look further up.
    }
  }
  return '0.0.0'
}
