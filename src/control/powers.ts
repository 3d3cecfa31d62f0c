/**
 * What the members of the daemon's group (`weft up --group`) may not do: have the daemon, which may be root, open for
 * them what they may not open themselves.
 *
 * A member may see everything, capture, and change networks, rules, leases, routes, records and forwards. A member may
 * not name an interface, a namespace, a file or an owner: ports are those of kind `qemu` and `vhost-user` whose socket
 * Weft makes in the folder of the daemon's own socket, and new networks have the uplink `none`. Root and the daemon's
 * own user give the networks their uplinks and devices; so does a client on TCP, which has shown the daemon's token.
 */
import { dirname } from 'node:path'
import type { MethodName } from './api.js'
import { Failure } from './failure.js'
import { join, quote } from './schema.js'

const SOCKET_KINDS: readonly unknown[] = ['qemu', 'vhost-user']
/** Settings of a port by which the daemon opens something of the host. */
const REACHING = ['dev', 'netns', 'owner', 'read', 'write', 'client'] as const
const ROUTED: readonly unknown[] = ['nat', 'route', 'open']

/** Throws ERR_PERMISSION, with the path of the value, for a call that a member may not make. */
export function checkMember(method: MethodName, params: unknown, socket: string): void {
  const given = isObject(params) ? params : {}
  if (method === 'port.add') checkPort(given, '', dirname(socket))
  else if (method === 'port.set') checkPort({ kind: 'qemu', ...given }, '', dirname(socket))
  else if (method === 'network.create' || method === 'network.define') checkNetwork(given, dirname(socket))
  else if (method === 'network.set') checkOutside(given, 'uplink' in given || 'mode' in given)
}

function checkNetwork(network: Record<string, unknown>, folder: string): void {
  checkOutside(network, true)
  const { ports } = network
  if (!Array.isArray(ports)) return
  for (const [index, port] of ports.entries()) {
    if (isObject(port)) checkPort(port, join('ports', index), folder)
  }
}

/** Only an uplink that leads nowhere: without one, a router's network gets the host's. */
function checkOutside({ mode, uplink }: Record<string, unknown>, isAsked: boolean): void {
  if (!isAsked || uplink === 'none') return
  if (mode === 'bridge') throw refusal('mode', 'a member of the group may not share an interface of the host')
  if (uplink !== undefined && uplink !== null) {
    throw refusal('uplink', `a member of the group may not have the uplink ${quote(uplink)}, only none`)
  }
  if (ROUTED.includes(mode)) throw refusal('uplink', 'a member of the group gives a network the uplink none')
}

function checkPort(port: Record<string, unknown>, path: string, folder: string): void {
  const { kind, path: socket } = port
  if (!SOCKET_KINDS.includes(kind)) {
    throw refusal(join(path, 'kind'), `a member of the group may not have ports of kind ${quote(kind)}`)
  }
  for (const key of REACHING) {
    const value = port[key]
    if (value !== undefined && value !== null && value !== false) {
      throw refusal(join(path, key), `a member of the group may not give it (${quote(value)})`)
    }
  }
  if (socket === undefined) return
  if (typeof socket !== 'string' || dirname(socket) !== folder || /\/\.{0,2}$/.test(socket)) {
    throw refusal(join(path, 'path'), `a member of the group has sockets in ${folder}, not ${quote(socket)}`)
  }
}

function refusal(path: string, sentence: string): Failure {
  return new Failure('ERR_PERMISSION', `${path}: ${sentence}`, path)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
