/**
 * The methods of the API: name, sentence, parameters, result. One table from which come the checks of parameters, the
 * document of `rpc.discover` (OpenRPC) and the types of the client.
 *
 * Names are those of the command line: `object.verb`, or the bare word where the command has one. Parameters are named;
 * positions work too, in the order given here. Results are the types of `model.ts`.
 */
import { type Static, type TSchema, Type } from 'typebox'
import { AgeSeconds, NetworkInput, NetworkSettings, ShardNumber, TableVid } from './definition.js'
import { RuleText } from './router-settings.js'
import type {
  ConnectionEntry,
  FdbEntry,
  Forward,
  Lease,
  NeighborEntry,
  NetworkStatus,
  PortStatus,
  RouteEntry,
  RuleEntry,
  ShardStatus,
  StaticEntry,
  StaticRoute,
  TraceReport,
} from './model.js'
import { Interface, KindSettings, Mac, Mtu, Name, PortInput, PortSettings } from './port-definition.js'
import {
  CaptureEnd,
  ConnectionResult,
  DoctorReport,
  FdbEntryResult,
  ForwardResult,
  LeaseResult,
  NeighborResult,
  NetworkResult,
  PortResult,
  QemuAdvice,
  RecordResult,
  RecordType,
  RouteResult,
  RuleResult,
  Shard,
  StaticResult,
  StaticRouteResult,
  StatsEntry,
  StatusReport,
  TraceResult,
} from './api-results.js'

const closed = { additionalProperties: false }

/** A network, by name or uuid. */
const NetworkName = Type.String({ minLength: 1, maxLength: 64, description: 'the name or uuid of a network' })
const PortName = Type.String({ minLength: 1, maxLength: 64, description: 'the name of a port' })

const named = Type.Object({ name: NetworkName }, closed)
const onNetwork = Type.Object({ network: NetworkName }, closed)
const onPort = Type.Object({ network: NetworkName, name: PortName }, closed)
const inTable = Type.Object(
  { network: NetworkName, port: Type.Optional(PortName), vid: Type.Optional(TableVid) },
  closed,
)

/** A setting that null takes back to its default. */
function nullable<T extends TSchema>(schema: T) {
  const { minimum, maximum, description, type } = schema as {
    minimum?: number
    maximum?: number
    description?: string
    type?: string
  }
  const errorText = minimum !== undefined ? `${minimum}..${maximum ?? ''}` : (description ?? `a ${type}`)
  return Type.Optional(Type.Union([schema, Type.Null()], { errorText }))
}

const GuestMemory = Type.String({
  pattern: '^[1-9][0-9]{0,9}[MGT]?$',
  description: 'the size of the memory of a guest like 512M or 4G',
})

const { access, trunk, native, mac, mtu, isolated, link, macLimit, leaseLimit, addresses, allow } = PortSettings
const { netns, queues, owner, offloads } = KindSettings.tap
const { path, client, dgram } = KindSettings.qemu
const { poll } = KindSettings['vhost-user']
const { read, write } = KindSettings.pcap

// The ports of a network are checked one by one by `definition.ts`, which names the faulty one; see `Method.published`.
const networkParameters = {
  ...NetworkSettings,
  uuid: Type.Optional(Type.String()),
  subnets: Type.Optional(Type.Array(Type.Unknown())),
  dhcp: Type.Optional(Type.Unknown()),
  routes: Type.Optional(Type.Array(Type.Unknown())),
  forwards: Type.Optional(Type.Array(Type.Unknown())),
  ports: Type.Optional(Type.Array(Type.Unknown())),
  fdb: Type.Optional(Type.Array(Type.Unknown())),
}
const subnetList = Type.Optional(Type.Array(Type.Unknown()))
const Cidr = Type.String({ minLength: 1, maxLength: 64 })
const Address = Type.String({ minLength: 1, maxLength: 64 })
const ForwardSource = Type.String({
  minLength: 1,
  maxLength: 128,
  description: 'tcp|udp:[ADDRESS:]PORT[-PORT], an IPv6 address in brackets',
})

interface Method<P extends TSchema, R extends TSchema> {
  summary: string
  params: P
  result: R
  /** what `rpc.discover` shows in place of `params` */
  published?: TSchema
}

function method<P extends TSchema, R extends TSchema>(
  summary: string,
  params: P,
  result: R,
  published?: TSchema,
): Method<P, R> {
  return published === undefined ? { summary, params, result } : { summary, params, result, published }
}

const count = Type.Integer({ minimum: 0 })
const nothing = Type.Object({}, closed)
const done = Type.Object({}, { ...closed, description: 'nothing to tell' })

export const api = {
  status: method('What the daemon is and does', nothing, StatusReport),
  stats: method(
    'Counters of all ports, of one network or of all that are active',
    Type.Object({ network: Type.Optional(NetworkName) }, closed),
    Type.Array(StatsEntry),
  ),
  doctor: method('What the host lacks, what is misconfigured, what Weft touched', nothing, DoctorReport),
  qemu: method(
    'The QEMU arguments that attach a guest to a port',
    Type.Object({ ...onPort.properties, memory: Type.Optional(GuestMemory) }, closed),
    QemuAdvice,
  ),

  'network.list': method(
    'The active networks, or all',
    Type.Object({ all: Type.Optional(Type.Boolean()) }, closed),
    Type.Array(NetworkResult),
  ),
  'network.show': method('One network', named, NetworkResult),
  'network.create': method(
    'Defines a network and starts it; a transient one is gone when it stops',
    Type.Object({ ...networkParameters, transient: Type.Optional(Type.Boolean()) }, closed),
    NetworkResult,
    Type.Object({ ...NetworkInput.properties, transient: Type.Optional(Type.Boolean()) }, closed),
  ),
  'network.define': method(
    'Defines a network without starting it, or changes one',
    Type.Object(networkParameters, closed),
    NetworkResult,
    NetworkInput,
  ),
  'network.set': method(
    'Changes settings of a network while it runs',
    Type.Object(
      {
        name: NetworkName,
        mode: NetworkSettings.mode,
        uplink: NetworkSettings.uplink,
        domain: NetworkSettings.domain,
        dhcp: Type.Optional(Type.Unknown({ description: 'off, a range FROM-TO, or settings' })),
        subnets: subnetList,
        addSubnets: subnetList,
        removeSubnets: Type.Optional(Type.Array(Cidr)),
        mtu: Type.Optional(Mtu),
        fdbAgeSeconds: Type.Optional(AgeSeconds),
        shard: Type.Optional(ShardNumber),
        autostart: Type.Optional(Type.Boolean()),
      },
      closed,
    ),
    NetworkResult,
  ),
  'network.start': method('Starts a network', named, NetworkResult),
  'network.stop': method('Stops a network', named, NetworkResult),
  'network.restart': method('Stops a network and starts it', named, NetworkResult),
  'network.delete': method('Stops a network and forgets it', named, done),
  'network.export': method(
    'The definition of a network as a document that network.define takes',
    Type.Object(
      {
        name: NetworkName,
        format: Type.Optional(Type.Union([Type.Literal('yaml'), Type.Literal('json'), Type.Literal('xml')])),
      },
      closed,
    ),
    Type.Object({ format: Type.String(), text: Type.String() }),
  ),

  'port.add': method(
    'Adds a port to a network',
    Type.Object(
      {
        network: NetworkName,
        name: Name,
        kind: Type.String({ description: 'one of tap, netdev, vhost-user, qemu, pcap' }),
        dev: Type.Optional(Interface),
        path: Type.Optional(path),
        netns,
        queues,
        owner,
        offloads,
        client,
        dgram,
        poll,
        read,
        write,
        ...PortSettings,
      },
      closed,
    ),
    PortResult,
    Type.Intersect([Type.Object({ network: NetworkName }), PortInput]),
  ),
  'port.list': method('The ports of a network', onNetwork, Type.Array(PortResult)),
  'port.show': method('One port', onPort, PortResult),
  'port.set': method(
    'Changes settings of a port; null takes one back to its default',
    Type.Object(
      {
        network: NetworkName,
        name: PortName,
        kind: Type.Optional(Type.String()),
        dev: nullable(Interface),
        netns: nullable(netns),
        queues: nullable(queues),
        owner: nullable(owner),
        offloads: nullable(offloads),
        path: Type.Optional(path),
        client: nullable(client),
        dgram: nullable(dgram),
        poll: nullable(poll),
        read: nullable(read),
        write: nullable(write),
        access: nullable(access),
        trunk: nullable(trunk),
        native: nullable(native),
        mac: nullable(mac),
        mtu: nullable(mtu),
        isolated: nullable(isolated),
        link: nullable(link),
        macLimit: nullable(macLimit),
        leaseLimit: nullable(leaseLimit),
        addresses: nullable(addresses),
        allow: nullable(allow),
      },
      closed,
    ),
    PortResult,
  ),
  'port.remove': method('Removes a port', onPort, done),
  'port.link': method(
    'Pulls the cable of a port or plugs it in',
    Type.Object(
      { network: NetworkName, name: PortName, state: Type.Union([Type.Literal('up'), Type.Literal('down')]) },
      closed,
    ),
    PortResult,
  ),

  'fdb.list': method('The forwarding table of a network', inTable, Type.Array(FdbEntryResult)),
  'fdb.add': method(
    'Adds a static entry; without vid, in the VLAN of the untagged frames of the port',
    Type.Object({ network: NetworkName, mac: Mac, port: PortName, vid: Type.Optional(TableVid) }, closed),
    StaticResult,
  ),
  'fdb.remove': method(
    'Removes an address from the table, from one VLAN or from all',
    Type.Object({ network: NetworkName, mac: Mac, vid: Type.Optional(TableVid) }, closed),
    Type.Object({ removed: Type.Integer() }),
  ),
  'fdb.flush': method('Forgets learned addresses', inTable, Type.Object({ flushed: Type.Integer() })),

  'lease.list': method('The leases and reservations of a network', onNetwork, Type.Array(LeaseResult)),
  'lease.reserve': method(
    'Keeps an address for a MAC',
    Type.Object(
      { network: NetworkName, mac: Mac, address: Address, name: Type.Optional(Type.String({ maxLength: 64 })) },
      closed,
    ),
    LeaseResult,
  ),
  'lease.release': method(
    'Takes a lease, a reservation or both back',
    Type.Object({ network: NetworkName, address: Address }, closed),
    done,
  ),
  'neighbor.list': method('The neighbors of the router of a network', onNetwork, Type.Array(NeighborResult)),
  'route.list': method('The routes of a network', onNetwork, Type.Array(RouteResult)),
  'route.add': method(
    'Adds a route, via an address or another network',
    Type.Object({ network: NetworkName, destination: Cidr, via: NetworkName }, closed),
    StaticRouteResult,
  ),
  'route.remove': method('Removes a route', Type.Object({ network: NetworkName, destination: Cidr }, closed), done),
  'connection.list': method(
    'Connections of a network, the latest first',
    Type.Object(
      { network: NetworkName, limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })) },
      closed,
    ),
    Type.Array(ConnectionResult),
  ),
  'connection.flush': method('Forgets the connections of a network', onNetwork, Type.Object({ flushed: count })),
  'forward.list': method('The forwards of a network', onNetwork, Type.Array(ForwardResult)),
  'forward.add': method(
    'Sends what comes to ports of the uplink to a guest: GUEST[:PORT], an address or the name of a lease',
    Type.Object(
      { network: NetworkName, forward: ForwardSource, to: Type.String({ minLength: 1, maxLength: 128 }) },
      closed,
    ),
    ForwardResult,
  ),
  'forward.remove': method(
    'Removes a forward',
    Type.Object({ network: NetworkName, forward: ForwardSource }, closed),
    ForwardResult,
  ),
  'rule.list': method(
    'The firewall rules of a network, in the order they are tried',
    onNetwork,
    Type.Array(RuleResult),
  ),
  'rule.add': method(
    'Adds a rule, as the last or at a place',
    Type.Object({ network: NetworkName, rule: RuleText, at: Type.Optional(Type.Integer({ minimum: 1 })) }, closed),
    RuleResult,
  ),
  'rule.remove': method(
    'Removes a rule by its number',
    Type.Object({ network: NetworkName, number: Type.Integer({ minimum: 1 }) }, closed),
    RuleResult,
  ),
  'record.list': method('The names that the DNS of a network has beside leases', onNetwork, Type.Array(RecordResult)),
  'record.add': method(
    'Adds a name: addresses, a target, PRIORITY WEIGHT PORT TARGET, or texts',
    Type.Object(
      {
        network: NetworkName,
        name: Type.String({ minLength: 1, maxLength: 254 }),
        type: RecordType,
        value: Type.Array(Type.String({ maxLength: 255 }), { minItems: 1, maxItems: 64 }),
      },
      closed,
    ),
    Type.Array(RecordResult),
  ),
  'record.remove': method(
    'Removes a name, or its records of one type',
    Type.Object(
      { network: NetworkName, name: Type.String({ minLength: 1, maxLength: 254 }), type: Type.Optional(RecordType) },
      closed,
    ),
    Type.Object({ removed: count }),
  ),
  trace: method(
    'What would become of a packet, and why: `tcp 10.0.0.5:1234 > 93.184.216.34:443`',
    Type.Object(
      { network: NetworkName, from: PortName, packet: Type.String({ minLength: 1, maxLength: 512 }) },
      closed,
    ),
    TraceResult,
  ),

  subscribe: method(
    'Sends `event` notifications for topics such as port.added, port.*, *; and `rates` for the topic rates',
    Type.Object(
      {
        topics: Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { minItems: 1, maxItems: 32 }),
        network: Type.Optional(NetworkName),
        intervalSeconds: Type.Optional(Type.Number({ minimum: 0.1, maximum: 3600 })),
      },
      closed,
    ),
    Type.Object({ subscription: Type.Integer() }),
  ),
  unsubscribe: method('Ends a subscription', Type.Object({ subscription: Type.Integer() }, closed), done),
  'capture.start': method(
    'Sends frames as binary messages that make a pcapng file; `capture.ended` follows when count is reached',
    Type.Object(
      {
        network: NetworkName,
        port: Type.Optional(PortName),
        filter: Type.Optional(Type.String({ maxLength: 4096 })),
        count: Type.Optional(Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER })),
      },
      closed,
    ),
    done,
  ),
  'capture.stop': method('Ends the capture of this connection', nothing, CaptureEnd),
}

export type MethodName = keyof typeof api
export type Methods = {
  [M in MethodName]: { params: Static<(typeof api)[M]['params']>; result: Static<(typeof api)[M]['result']> }
}

// The published schemas say what the model's types say: the compiler compares them here.
type Same<A, B> = A extends B ? (B extends A ? true : never) : never
export const sameNetwork: Same<NetworkStatus, Static<typeof NetworkResult>> = true
export const samePort: Same<PortStatus, Static<typeof PortResult>> = true
export const sameEntry: Same<FdbEntry, Static<typeof FdbEntryResult>> = true
export const sameStatic: Same<StaticEntry, Static<typeof StaticResult>> = true
export const sameLease: Same<Lease, Static<typeof LeaseResult>> = true
export const sameNeighbor: Same<NeighborEntry, Static<typeof NeighborResult>> = true
export const sameRoute: Same<RouteEntry, Static<typeof RouteResult>> = true
export const sameStaticRoute: Same<StaticRoute, Static<typeof StaticRouteResult>> = true
export const sameConnection: Same<ConnectionEntry, Static<typeof ConnectionResult>> = true
export const sameForward: Same<Forward, Static<typeof ForwardResult>> = true
export const sameRule: Same<RuleEntry, Static<typeof RuleResult>> = true
export const sameTrace: Same<TraceReport, Static<typeof TraceResult>> = true
export const sameShard: Same<ShardStatus, Static<typeof Shard>> = true

/** The OpenRPC document. */
export function discover(version: string): object {
  return {
    openrpc: '1.3.2',
    info: { title: 'Weft', version, description: 'JSON-RPC 2.0 over WebSocket' },
    methods: Object.entries(api).map(([name, entry]) => ({
      name,
      summary: entry.summary,
      paramStructure: 'by-name',
      params: parameters(('published' in entry && entry.published) || entry.params),
      result: { name: 'result', schema: entry.result },
      errors: [{ code: -32000, message: 'refused; data.code tells why, data.path what' }],
    })),
  }
}

function parameters(schema: TSchema): object[] {
  const {
    properties,
    required = [],
    allOf,
  } = schema as unknown as {
    properties?: Record<string, TSchema>
    required?: string[]
    allOf?: TSchema[]
  }
  if (properties === undefined) return [{ name: 'port', required: true, schema: { allOf } }]
  return Object.entries(properties).map(([name, one]) => ({ name, required: required.includes(name), schema: one }))
}
