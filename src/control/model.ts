/**
 * What the control process speaks of: networks and ports as they are defined, and as they are.
 *
 * A definition is what the user asked for, checked and with every default filled in; it is what the store keeps. A
 * status adds what runs. The JSON of the API is these types, word by word (INTERFACE: `network show`, `port show`, `fdb
 * list`). `definition.ts` parses untrusted input into definitions; `networks.ts` keeps them; `fabric.ts` makes them
 * run.
 */

export type NetworkMode = 'isolated' | 'bridge'

export type PortKind = 'tap' | 'netdev' | 'qemu' | 'pcap'

export interface VlanDefinition {
  mode: 'access' | 'trunk' | 'none'
  /** 1 to 4094 with mode access, else null */
  access: number | null
  /** 1 to 4094 with mode trunk: the VLAN of untagged frames; null: untagged frames are dropped */
  native: number | null
  /** VIDs carried with mode trunk, ascending, `native` among them if given; else empty */
  trunk: number[]
}

/** Options by kind; a kind has just its own. */
export type PortOptions =
  | {
      kind: 'tap'
      /** interface name, 1 to 15 characters */
      dev: string
      /** name under /run/netns or a process id; null: the daemon's namespace */
      netns: string | null
      queues: number
      /** user name or uid that may open the device; null: none */
      owner: string | null
      offloads: boolean
    }
  | { kind: 'netdev'; dev: string; netns: string | null }
  | {
      kind: 'qemu'
      /** a unix socket's path, or ADDRESS:PORT on loopback for a stream */
      path: string
      client: boolean
      dgram: boolean
    }
  | { kind: 'pcap'; read: string | null; write: string | null }

export type PortDefinition = PortOptions & {
  name: string
  vlan: VlanDefinition
  /** MAC of the host behind the port, as told by the user: installed as a static FDB entry; null: learned */
  mac: string | null
  /** bytes of an IP packet; null: the network's */
  mtu: number | null
  /** isolated ports exchange frames only with ports that are not */
  isolated: boolean
  /** link state by order: false is a pulled cable */
  link: boolean
  /** addresses that may be learned at this port */
  macLimit: number
}

export interface StaticEntry {
  mac: string
  vid: number
  port: string
}

export interface NetworkDefinition {
  name: string
  uuid: string
  mode: NetworkMode
  /** `netdev:IFNAME` with mode bridge, else null */
  uplink: string | null
  domain: string | null
  /** 576 to 65521 bytes of an IP packet */
  mtu: number
  /** seconds until an address that is not seen again is forgotten */
  fdbAgeSeconds: number
  autostart: boolean
  ports: PortDefinition[]
  fdb: StaticEntry[]
}

export interface NetworkStatus {
  name: string
  uuid: string
  mode: NetworkMode
  active: boolean
  persistent: boolean
  autostart: boolean
  subnets: never[]
  uplink: string | null
  domain: string | null
  mtu: number
  fdbAgeSeconds: number
  ports: number
}

export interface Traffic {
  packets: number
  bytes: number
  dropped: number
}

export interface PortStatus {
  name: string
  kind: PortKind
  /** error: broken, and retried; down: the link is down, by order, at the peer or because nobody is connected */
  state: 'up' | 'down' | 'error'
  /** why it is not up; null if it is */
  reason: string | null
  mac: string | null
  mtu: number
  vlan: VlanDefinition
  isolated: boolean
  link: boolean
  macLimit: number
  /** what the port carries unfinished: `checksum`, `tso4`, `tso6`, `uso` */
  offloads: string[]
  receive: Traffic
  transmit: Traffic
  /** counts by reason, see `src/dataplane/drops.ts`; only those above 0 */
  drops: Record<string, number>
  /** frames that were cut into segments, and checksums finished, in software */
  software: { segmented: number; checksums: number }
  /** the kind's options, as defined */
  options: PortOptions
}

export interface FdbEntry {
  vid: number
  mac: string
  port: string
  static: boolean
  ageSeconds: number
}

export interface ShardStatus {
  index: number
  pid: number
  restarts: number
  pool: { slots: number; free: number }
  fdb: {
    capacity: number
    used: number
    learned: number
    expired: number
    evicted: number
    moved: number
    refused: number
  }
}

/** A captured frame as it is handed to whoever asked for the capture. The bytes are valid during the call only. */
export interface CapturedFrame {
  /** nanoseconds since 1970 */
  timeNanos: bigint
  port: string
  direction: 'in' | 'out'
  /** the whole frame, its VLAN tag included */
  bytes: Uint8Array
}

export interface Capture {
  /** stops it; frames already taken are still delivered before the promise resolves */
  stop(): Promise<void>
  /** frames that were matched but lost because the reader was slow */
  lost(): number
}

export type FabricEvent =
  | { type: 'port.up' | 'port.down' | 'port.error'; network: string; port: string; reason: string | null }
  | { type: 'fdb.moved'; network: string; mac: string; vid: number; from: string; port: string }
  | { type: 'shard.restarted'; shard: number; reason: string }

/**
 * The running side: what `networks.ts` asks of it. All names have been checked; definitions are complete. Every method
 * either takes effect whole or rejects with a Failure (see `failure.ts`) and changes nothing.
 */
export interface Fabric {
  start(network: NetworkDefinition): Promise<void>
  stop(network: string): Promise<void>
  /** Network-wide settings that change live: mtu, fdbAgeSeconds. */
  change(network: NetworkDefinition): Promise<void>
  addPort(network: string, port: PortDefinition): Promise<void>
  /** VLAN, MTU, link, isolation, limits change in place; other options close and open the port again. */
  setPort(network: string, port: PortDefinition): Promise<void>
  removePort(network: string, port: string): Promise<void>
  /** the ports of an active network, in the order they were added */
  ports(network: string): PortStatus[]
  port(network: string, port: string): PortStatus
  fdb(network: string, filter: { port?: string; vid?: number }): FdbEntry[]
  addStatic(network: string, entry: StaticEntry): Promise<void>
  removeEntry(network: string, mac: string, vid: number): Promise<void>
  /** Forgets what was learned (never static entries). Returns how many. */
  flush(network: string, filter: { port?: string; vid?: number }): Promise<number>
  capture(
    network: string,
    port: string | null,
    /** compiled by `compileFilter`; null: everything */
    filter: Int32Array | null,
    onFrame: (frame: CapturedFrame) => void,
  ): Promise<Capture>
  shards(): ShardStatus[]
  onEvent(listener: (event: FabricEvent) => void): void
  close(): Promise<void>
}
