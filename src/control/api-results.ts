/**
 * What the methods of the API return, as schemas: the types of `model.ts` word by word, and the reports of the daemon.
 */
import { type Static, Type } from 'typebox'

const nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) => Type.Union([schema, Type.Null()])
const count = Type.Integer({ minimum: 0 })

export const NetworkResult = Type.Object({
  name: Type.String(),
  uuid: Type.String(),
  mode: Type.Union([Type.Literal('isolated'), Type.Literal('bridge')]),
  active: Type.Boolean(),
  persistent: Type.Boolean(),
  autostart: Type.Boolean(),
  subnets: Type.Array(Type.Never()),
  uplink: nullable(Type.String()),
  domain: nullable(Type.String()),
  mtu: Type.Integer(),
  fdbAgeSeconds: Type.Integer(),
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
  Type.Object({ kind: Type.Literal('pcap'), read: nullable(Type.String()), write: nullable(Type.String()) }),
])

const Traffic = Type.Object({ packets: count, bytes: count, dropped: count })
const Kind = Type.Union([Type.Literal('tap'), Type.Literal('netdev'), Type.Literal('qemu'), Type.Literal('pcap')])
const State = Type.Union([Type.Literal('up'), Type.Literal('down'), Type.Literal('error')])
const Drops = Type.Record(Type.String(), count, { description: 'counts by reason' })
const Software = Type.Object({ segmented: count, checksums: count })

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

const Shard = Type.Object({
  index: Type.Integer(),
  pid: Type.Integer(),
  restarts: count,
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
