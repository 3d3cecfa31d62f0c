/**
 * Who may give commands.
 *
 * On the unix socket: root, the user of the daemon, and the members of a group if one was named; the kernel says who
 * the peer is. On TCP: who shows the token, in `Authorization: Bearer TOKEN` or, from a browser, as the WebSocket
 * subprotocol `weft.token.TOKEN`. Everywhere: a page of another origin is refused (RFC 6455 section 10.2), and so is a
 * Host header with a name that is neither localhost nor the TLS certificate's, by which a hostile page would reach a
 * loopback address (DNS rebinding).
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { Failure } from './failure.js'
import type { Peer } from './listener.js'

export const TOKEN_PROTOCOL = 'weft.token.'

export interface Group {
  gid: number
  members: readonly string[]
}

/** Looks a group up by name or number. Throws ERR_INVALID. */
export function findGroup(name: string): Group {
  for (const line of readFileSync('/etc/group', 'utf8').split('\n')) {
    const [group, , gid, members = ''] = line.split(':')
    if (group === name || gid === name) return { gid: Number(gid), members: members.split(',').filter(Boolean) }
  }
  throw new Failure('ERR_INVALID', `group: there is no group ${name}`, 'group')
}

export function admitsPeer(peer: Peer, uid: number, group: Group | null): boolean {
  if (peer.uid === 0 || peer.uid === uid) return true
  if (group === null) return false
  return peer.gid === group.gid || group.members.includes(userName(peer.uid) ?? '')
}

function userName(uid: number): string | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((one) => one.split(':')[2] === String(uid))
  return line?.split(':')[0]
}

/** Whether a name is this daemon's, as its certificate says. */
export type Names = (name: string) => boolean

/** Why a request's Host or Origin is refused; null if it is not. */
export function refusesOrigin({ headers }: IncomingMessage, names: Names): string | null {
  const host = hostOf(`http://${headers.host ?? 'localhost'}`)
  if (host === null) return 'the Host header is not valid'
  const name = host.hostname.replace(/^\[|\]$/g, '')
  if (name !== 'localhost' && isIP(name) === 0 && !names(name)) return `the host name ${name} is not this daemon's`
  if (headers.origin === undefined) return null
  const origin = hostOf(headers.origin)
  if (origin === null || origin.host !== host.host) return 'requests of another origin are refused'
  return null
}

/** Whether a request shows the token. */
export function showsToken({ headers }: IncomingMessage, token: string): boolean {
  const bearer = /^Bearer\s+(\S+)$/i.exec(headers.authorization ?? '')?.[1]
  const offered = (headers['sec-websocket-protocol'] ?? '')
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one.startsWith(TOKEN_PROTOCOL))
    .map((one) => one.slice(TOKEN_PROTOCOL.length))
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return [bearer, ...offered].some((one) => one !== undefined && timingSafeEqual(digest(one), digest(token)))
}

function hostOf(text: string): URL | null {
  try {
    return new URL(text)
  } catch {
    return null
  }
}
