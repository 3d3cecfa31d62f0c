/**
 * `weft up`: the daemon, assembled top to bottom.
 *
 *   store (state folder, locked) -> fabric (shards) -> networks (start what must run) -> server (socket, TCP) -> ready
 *
 * The socket is opened last: whoever can connect finds the networks as they will be. On close in reverse: no more
 * clients, changes under way are finished, ports are closed, the socket and the lock are removed. Networks stay
 * recorded as active, so they come back with the next daemon.
 */
import { readFileSync } from 'node:fs'
import { findGroup } from './access.js'
import { discover } from './api.js'
import { readDocument } from './document.js'
import type { UnixSockets } from './listener.js'
import { isServed } from './listener.js'
import type { Log } from './log.js'
import { createHandlers } from './methods.js'
import { createMetrics } from './metrics.js'
import type { Fabric } from './model.js'
import type { Event } from './network.js'
import { Networks } from './networks.js'
import { weftVersion } from './places.js'
import { checkMember } from './powers.js'
import { Dispatcher } from './rpc.js'
import { invalid } from './schema.js'
import { Failure } from './failure.js'
import { Server, parseListen } from './server.js'
import { Session } from './session.js'
import { Store } from './store.js'

export interface DaemonOptions {
  socket: string
  state: string
  /** ADDRESS:PORT, null: no TCP */
  listen: string | null
  listenAnywhere: boolean
  certificate: string | null
  key: string | null
  /** members may give commands too */
  group: string | null
  /** a file of networks that must be as it says */
  configuration: string | null
}

export interface DaemonParts {
  log: Log
  /** null: Node's own sockets, without the credentials of peers */
  native: UnixSockets | null
  /** makes the fabric, once the state folder is locked */
  fabric: () => Promise<Fabric>
}

export interface Daemon {
  networks: Networks
  /** the TCP address that is listened on */
  listen: string | null
  close(): Promise<void>
}

/** Rejects with a Failure, and leaves nothing open, if the daemon cannot start. */
export async function startDaemon(options: DaemonOptions, { log, native, fabric: open }: DaemonParts): Promise<Daemon> {
  const version = weftVersion()
  const tcp = options.listen === null ? null : parseListen(options.listen)
  if ((options.certificate === null) !== (options.key === null)) throw invalid('tls', 'takes a certificate and a key')
  const group = options.group === null ? null : findGroup(options.group)
  const configuration = options.configuration === null ? null : readConfiguration(options.configuration)
  if (await isServed(options.socket)) {
    throw new Failure('ERR_PORT_BUSY', `a daemon is running on ${options.socket} already`)
  }

  const closers: (() => void | Promise<void>)[] = []
  const close = async () => {
    for (const step of closers.splice(0).toReversed()) await step()
  }
  try {
    const store = new Store(options.state)
    closers.push(() => store.close())
    const fabric = await open()
    closers.push(() => fabric.close())
    const networks = new Networks(fabric, store, log)
    networks.onEvent((event) => note(log, event))
    closers.push(() => networks.close())
    await networks.open(configuration)

    let listen: string | null = null
    const clients = () => server.clients
    const facts = { version, socket: options.socket, listen: () => listen, clients }
    const handlers = createHandlers(networks, fabric, store, facts)
    const dispatcher = new Dispatcher<Session>(handlers, discover(version), log, (method, params, { party }) => {
      if (typeof party === 'object') checkMember(method, params, options.socket)
    })
    const metrics = createMetrics({ networks, fabric, version, clients })
    const server: Server = new Server({
      log,
      session: (socket, party) => new Session(socket, party, networks, fabric, dispatcher),
      metrics: async () => ({ contentType: metrics.contentType, text: await metrics.metrics() }),
    })
    closers.push(() => server.close())
    if (tcp !== null) {
      const { listenAnywhere: anywhere, certificate, key } = options
      listen = await server.listenTcp({ ...tcp, anywhere, certificate, key, token: store.token() })
      log.info(`commands with the token in ${options.state}/token on ${listen}`)
    }
    await server.listenUnix(native, options.socket, group)
    return { networks, listen, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** What an operator should find in the log without having asked. */
function note(log: Log, event: Event): void {
  if (event.type === 'shard.restarted') {
    log.error(`shard ${event.shard} ended (${event.reason}); another has taken over`)
  } else if (event.type === 'network.moved') {
    log.info(`network ${event.network} has moved from shard ${event.from} to ${event.to}`)
  } else if (event.type === 'port.error') {
    log.warn(`port ${event.port} of network ${event.network}: ${event.reason ?? 'broken'}`)
  } else if (event.type === 'uplink.error' || event.type === 'uplink.down' || event.type === 'uplink.up') {
    const { state, reason, addresses } = event.uplink
    const more = reason ?? addresses.join(' ')
    const text = `the uplink of network ${event.network} is ${state}${more === '' ? '' : `: ${more}`}`
    if (state === 'error') log.warn(text)
    else log.info(text)
  } else if (event.type === 'rule.logged') {
    log.info(`rule ${event.rule} of network ${event.network}: ${event.packet}`)
  } else if (event.type === 'port.up' || event.type === 'port.down') {
    const reason = event.reason === null ? '' : `: ${event.reason}`
    log.debug(`port ${event.port} of network ${event.network} is ${event.type.slice(5)}${reason}`)
  }
}

/** The networks of a file: `networks: [...]`, or one network. */
function readConfiguration(path: string): unknown[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new Failure('ERR_IO', `configuration ${path}: ${(error as Error).message}`)
  }
  const value = readDocument(text)
  if (typeof value !== 'object' || value === null) throw invalid('', `configuration ${path} holds no networks`)
  if (!('networks' in value)) return Array.isArray(value) ? value : [value]
  const { networks, ...others } = value
  const unknown = Object.keys(others)[0]
  if (unknown !== undefined) throw invalid(unknown, 'unknown key (known is networks)')
  if (!Array.isArray(networks)) throw invalid('networks', 'is not a list')
  return networks
}
