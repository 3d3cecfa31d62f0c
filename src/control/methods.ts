/**
 * What each method of the API does: the table of `api.ts` filled with calls of the registry.
 */
import type { StatsEntry, StatusReport } from './api-results.js'
import { examineHost, examineNetworks } from './doctor.js'
import { Failure } from './failure.js'
import type { Fabric } from './model.js'
import type { Networks } from './networks.js'
import { qemuAdvice } from './qemu.js'
import type { Handlers } from './rpc.js'
import { Routers } from './routers.js'
import type { Session } from './session.js'
import type { Store } from './store.js'

/** Connections that a list shows unless told. */
const CONNECTIONS_SHOWN = 1000

export interface DaemonFacts {
  version: string
  socket: string
  listen: () => string | null
  clients: () => number
}

export function createHandlers(
  networks: Networks,
  fabric: Fabric,
  store: Store,
  facts: DaemonFacts,
): Handlers<Session> {
  const routers = new Routers(networks, fabric)
  return {
    status: () => status(networks, fabric, store, facts),
    stats: ({ network }) => stats(networks, network),
    doctor: () => {
      const report = examineNetworks(networks, store, facts.socket)
      return { checks: [...examineHost(), ...report.checks], touched: report.touched }
    },
    qemu: ({ network, name, memory }) => {
      const definition = networks.definition(network)
      const port = definition.ports.find((one) => one.name === name)
      if (port === undefined) throw new Failure('ERR_PORT_NOT_FOUND', `network ${definition.name} has no port ${name}`)
      return qemuAdvice(definition, port, memory)
    },

    'network.list': ({ all }) => networks.list(all ?? false),
    'network.show': ({ name }) => networks.show(name),
    'network.create': ({ transient, ...network }) => networks.create(network, transient ?? false),
    'network.define': (network) => networks.define(network),
    'network.set': ({ name, ...changes }) => networks.set(name, changes),
    'network.start': ({ name }) => networks.start(name),
    'network.stop': ({ name }) => networks.stop(name),
    'network.restart': ({ name }) => networks.restart(name),
    'network.delete': async ({ name }) => {
      await networks.delete(name)
      return {}
    },
    'network.export': ({ name, format = 'yaml' }) => ({ format, text: networks.export(name, format) }),

    'port.add': ({ network, ...port }) => networks.addPort(network, port),
    'port.list': ({ network }) => networks.ports(network),
    'port.show': ({ network, name }) => networks.port(network, name),
    'port.set': ({ network, name, ...settings }) => networks.setPort(network, name, settings),
    'port.remove': async ({ network, name }) => {
      await networks.removePort(network, name)
      return {}
    },
    'port.link': ({ network, name, state }) => networks.setPort(network, name, { link: state === 'up' }),

    'fdb.list': ({ network, ...filter }) => networks.fdb(network, filter),
    'fdb.add': ({ network, ...entry }) => networks.addEntry(network, entry),
    'fdb.remove': async ({ network, mac, vid }) => ({ removed: await networks.removeEntry(network, mac, vid) }),
    'fdb.flush': async ({ network, ...filter }) => ({ flushed: await networks.flush(network, filter) }),

    'lease.list': ({ network }) => routers.leases(network),
    'lease.reserve': ({ network, ...reservation }) => routers.reserve(network, reservation),
    'lease.release': async ({ network, address }) => {
      await routers.release(network, address)
      return {}
    },
    'neighbor.list': ({ network }) => routers.neighbors(network),
    'route.list': ({ network }) => routers.routes(network),
    'route.add': ({ network, ...route }) => routers.addRoute(network, route),
    'route.remove': async ({ network, destination }) => {
      await routers.removeRoute(network, destination)
      return {}
    },
    'connection.list': ({ network, limit = CONNECTIONS_SHOWN }) => routers.connections(network, limit),
    'connection.flush': async ({ network }) => ({ flushed: await routers.flushConnections(network) }),
    'forward.list': ({ network }) => routers.forwards(network),
    'forward.add': ({ network, forward, to }) => routers.addForward(network, forward, to),
    'forward.remove': ({ network, forward }) => routers.removeForward(network, forward),
    'rule.list': ({ network }) => routers.rules(network),
    'rule.add': ({ network, rule, at }) => routers.addRule(network, rule, at),
    'rule.remove': ({ network, number }) => routers.removeRule(network, number),
    'record.list': ({ network }) => routers.records(network),
    'record.add': ({ network, ...record }) => routers.addRecord(network, record),
    'record.remove': async ({ network, name, type }) => ({ removed: await routers.removeRecords(network, name, type) }),
    trace: ({ network, from, packet }) => routers.trace(network, from, packet),

    subscribe: (params, session) => ({ subscription: session.subscriptions.add(params) }),
    unsubscribe: ({ subscription }, session) => {
      session.subscriptions.remove(subscription)
      return {}
    },
    'capture.start': async (params, session) => {
      await session.capture.start(params)
      return {}
    },
    'capture.stop': (_params, session) => session.capture.stop(),
  }
}

function status(networks: Networks, fabric: Fabric, store: Store, facts: DaemonFacts): StatusReport {
  const problems = store.problems().map(({ path, reason }) => `${path} cannot be read: ${reason}`)
  const ports = { up: 0, down: 0, error: 0 }
  const all = networks.list(true)
  for (const { name, active, autostart, uplink, uplinkStatus } of all) {
    if (!active && autostart) problems.push(`network ${name} is not active`)
    if (!active) continue
    if (uplinkStatus?.state === 'error') problems.push(`uplink ${uplink} of network ${name}: ${uplinkStatus.reason}`)
    for (const port of networks.ports(name)) {
      ports[port.state]++
      if (port.state === 'error') problems.push(`port ${port.name} of network ${name}: ${port.reason}`)
    }
  }
  return {
    version: facts.version,
    pid: process.pid,
    uptimeSeconds: Math.round(process.uptime()),
    socket: facts.socket,
    listen: facts.listen(),
    state: store.folder,
    networks: { defined: all.length, active: all.filter((one) => one.active).length },
    ports,
    clients: facts.clients(),
    problems,
    shards: fabric.shards(),
  }
}

function stats(networks: Networks, network: string | undefined): StatsEntry[] {
  const names = network === undefined ? networks.list(false).map((one) => one.name) : [networks.show(network).name]
  return names.flatMap((name) =>
    networks.ports(name).map(({ name: port, kind, state, receive, transmit, drops, software }) => ({
      network: name,
      port,
      kind,
      state,
      receive,
      transmit,
      drops,
      software,
    })),
  )
}
