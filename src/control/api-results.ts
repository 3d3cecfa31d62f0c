/**
 * What the methods of the API return, as schemas: the types of `model.ts` word by word, and the reports of the daemon.
 */
import { type Static, Type } from 'typebox'

const nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) => Type.Union([schema, Type.Null()])

const Mode = Type.Union([
  Type.Literal('nat'),
  Type.Literal('route'),
  Type.Literal('open'),
  Type.Literal('isolated'),
  Type.Literal('bridge'),
])
const Subnet = Type.Object({
  cidr: Type.String(),
  gateway: Type.String(),
  dhcp: nullable(Type.Object({ from: Type.String(), to: Type.String() })),
})
const State = Type.Union([Type.Literal('up'), Type.Literal('down'), Type.Literal('error')])

const count = Type.Integer({ minimum: 0 })
const Traffic = Type.Object({ packets: count, bytes: count, dropped: count })
const Drops = Type.Record(Type.String(), count, { description: 'counts by reason' })
export const UplinkResult = Type.Object({
  kind: Type.Union([Type.Literal('host'), Type.Literal('netdev')]),
  dev: Type.String(),
  state: State,
  reason: nullable(Type.String()),
  mac: Type.String(),
  addresses: Type.Array(Type.String()),
  gateways: Type.Array(Type.String()),
  receive: Traffic,
  transmit: Traffic,
  drops: Drops,
})

export const NetworkResult = Type.Object({
  name: Type.String(),
  uuid: Type.String(),
  mode: Mode,
  active: Type.Boolean(),
  persistent: Type.Boolean(),
  autostart: Type.Boolean(),
  subnets: Type.Array(Subnet),
  uplink: nullable(Type.String()),
  uplinkStatus: nullable(UplinkResult),
  domain: nullable(Type.String()),
  mtu: Type.Integer(),
  fdbAgeSeconds: Type.Integer(),
  shard: nullable(Type.Integer()),
  runsOn: nullable(Type.Integer()),
  ports: count,
})

const Vlan = Type.Object({
  mode: Type.Union([Type.Literal('access'), Type.Literal('trunk'), Type.Literal('none')]),
  access: nullable(Type.Integer()),
  native: nullable(Type.Integer()),
  trunk: Type.Array(Type.Integer()),
})

const Options = Type.Union([
  Type.Object({
    kind: Type.Literal('tap'),
    dev: Type.String(),
    netns: nullable(Type.String()),
    queues: Type.Integer(),
    owner: nullable(Type.String()),
    offloads: Type.Boolean(),
  }),
  Type.Object({ kind: Type.Literal('netdev'), dev: Type.String(), netns: nullable(Type.String()) }),
  Type.Object({
    kind: Type.Literal('qemu'),
    path: Type.String(),
    client: Type.Boolean(),
    dgram: Type.Boolean(),
  }),
  Type.Object({
    kind: Type.Literal('vhost-user'),
    path: Type.String(),
    client: Type.Boolean(),
    queues: Type.Integer(),
    poll: Type.Boolean(),
    offloads: Type.Boolean(),
  }),
  Type.Object({ kind: Type.Literal('pcap'), read: nullable(Type.String()), write: nullable(Type.String()) }),
])

const Kind = Type.Union([
  Type.Literal('tap'),
  Type.Literal('netdev'),
  Type.Literal('vhost-user'),
  Type.Literal('qemu'),
  Type.Literal('pcap'),
])
const Waiver = Type.Union([Type.Literal('spoofing'), Type.Literal('dhcp-server'), Type.Literal('router')])
const Software = Type.Object({ segmented: count, checksums: count })

const PortLeases = Type.Object({ limit: count, ip4: count, ip6: count, gaveWay: count, refused: count })

export const PortResult = Type.Object({
  name: Type.String(),
  kind: Kind,
  state: State,
  reason: nullable(Type.String()),
  mac: nullable(Type.String()),
  mtu: Type.Integer(),
  vlan: Vlan,
  isolated: Type.Boolean(),
  link: Type.Boolean(),
  macLimit: Type.Integer(),
  leaseLimit: nullable(Type.Integer()),
  leases: nullable(PortLeases),
  addresses: Type.Array(Type.String()),
  allow: Type.Array(Waiver),
  offloads: Type.Array(Type.String()),
  receive: Traffic,
  transmit: Traffic,
  drops: Drops,
  software: Software,
  options: Options,
})

export const FdbEntryResult = Type.Object({
  vid: Type.Integer(),
  mac: Type.String(),
  port: Type.String(),
  static: Type.Boolean(),
  ageSeconds: Type.Number(),
})

export const StaticResult = Type.Object({ mac: Type.String(), vid: Type.Integer(), port: Type.String() })

export const LeaseResult = Type.Object({
  address: Type.String(),
  mac: nullable(Type.String()),
  hostname: nullable(Type.String()),
  port: nullable(Type.String()),
  expiresAt: nullable(Type.String()),
  reserved: Type.Boolean(),
})

export const NeighborResult = Type.Object({
  address: Type.String(),
  mac: nullable(Type.String()),
  port: nullable(Type.String()),
  state: Type.Union([
    Type.Literal('incomplete'),
    Type.Literal('reachable'),
    Type.Literal('stale'),
    Type.Literal('probe'),
    Type.Literal('failed'),
    Type.Literal('static'),
  ]),
  ageSeconds: Type.Number(),
})

export const RouteResult = Type.Object({
  destination: Type.String(),
  via: nullable(Type.String()),
  interface: Type.String(),
  origin: Type.Union([
    Type.Literal('connected'),
    Type.Literal('static'),
    Type.Literal('default'),
    Type.Literal('dhcp'),
  ]),
})
export const StaticRouteResult = Type.Object({ destination: Type.String(), via: Type.String() })

const Tuple = Type.Object({
  source: Type.String(),
  sourcePort: Type.Integer(),
  destination: Type.String(),
  destinationPort: Type.Integer(),
})
export const ConnectionResult = Type.Object({
  protocol: Type.String(),
  state: Type.String(),
  original: Tuple,
  reply: Tuple,
  nat: nullable(Type.Union([Type.Literal('snat'), Type.Literal('dnat')])),
  packets: count,
  bytes: count,
  timeoutSeconds: Type.Number(),
})

export const ForwardResult = Type.Object({
  protocol: Type.Union([Type.Literal('tcp'), Type.Literal('udp')]),
  address: nullable(Type.String()),
  firstPort: Type.Integer(),
  lastPort: Type.Integer(),
  to: Type.String(),
  toPort: Type.Integer(),
})

export const RuleResult = Type.Object({ number: Type.Integer(), rule: Type.String(), packets: count, bytes: count })

export const RecordType = Type.Union([
  Type.Literal('a'),
  Type.Literal('aaaa'),
  Type.Literal('cname'),
  Type.Literal('srv'),
  Type.Literal('txt'),
])
export const RecordResult = Type.Object({ name: Type.String(), type: RecordType, value: Type.Array(Type.String()) })

export const TraceResult = Type.Object({ steps: Type.Array(Type.String()), verdict: Type.String() })

export const StatsEntry = Type.Object({
  network: Type.String(),
  port: Type.String(),
  kind: Kind,
  state: State,
  receive: Traffic,
  transmit: Traffic,
  drops: Drops,
  software: Software,
})
export type StatsEntry = Static<typeof StatsEntry>

export const Shard = Type.Object({
  index: Type.Integer(),
  pid: Type.Integer(),
  restarts: count,
  cpuSeconds: Type.Number(),
  networks: count,
  ports: count,
  pool: Type.Object({ slots: count, free: count }),
  fdb: Type.Object({
    capacity: count,
    used: count,
    learned: count,
    expired: count,
    evicted: count,
    moved: count,
    refused: count,
  }),
  neighbors: Type.Object({ capacity: count, used: count, evicted: count, failed: count }),
  connections: Type.Object({
    capacity: count,
    used: count,
    made: count,
    expired: count,
    evicted: count,
    refused: count,
    invalid: count,
  }),
  mappings: Type.Object({ capacity: count, used: count, refused: count }),
  router: Type.Object({ packets: count, fragmentsHeld: count, icmpSent: count, icmpLimited: count }),
})

export const StatusReport = Type.Object({
  version: Type.String(),
  pid: Type.Integer(),
  uptimeSeconds: Type.Number(),
  socket: Type.String(),
  listen: nullable(Type.String()),
  state: Type.String({ description: 'the state folder' }),
  networks: Type.Object({ defined: count, active: count }),
  ports: Type.Object({ up: count, down: count, error: count }),
  clients: count,
  problems: Type.Array(Type.String(), { description: 'what is wrong now, in sentences' }),
  shards: Type.Array(Shard),
})
export type StatusReport = Static<typeof StatusReport>

export const DoctorReport = Type.Object({
  checks: Type.Array(
    Type.Object({
      name: Type.String(),
      result: Type.Union([Type.Literal('ok'), Type.Literal('lacks'), Type.Literal('wrong')]),
      found: Type.String(),
      advice: nullable(Type.String()),
    }),
  ),
  touched: Type.Array(Type.String(), { description: 'what Weft made or opened on this host' }),
})
export type DoctorReport = Static<typeof DoctorReport>

export const QemuAdvice = Type.Object({
  arguments: Type.Array(Type.String()),
  notes: Type.Array(Type.String()),
})
export type QemuAdvice = Static<typeof QemuAdvice>

export const CaptureEnd = Type.Object({ frames: count, lost: count })
export type CaptureEnd = Static<typeof CaptureEnd>

/** Rates of one port since the sample before, as the `rates` notification carries them. */
export interface PortRates {
  network: string
  port: string
  kind: string
  state: string
  receive: { packetsPerSecond: number; bytesPerSecond: number }
  transmit: { packetsPerSecond: number; bytesPerSecond: number }
  droppedPerSecond: number
}
