/**
 * What the control process speaks of: networks and ports as they are defined, and as they are.
 *
 * A definition is what the user asked for, checked and with every default filled in; it is what the store keeps. A
 * status adds what runs. The JSON of the API is these types, word by word (INTERFACE: `network show`, `port show`, `fdb
 * list`). `definition.ts` parses untrusted input into definitions; `networks.ts` keeps them; `fabric.ts` makes them
 * run.
 */

export type NetworkMode = 'nat' | 'route' | 'open' | 'isolated' | 'bridge'

export type PortKind = 'tap' | 'netdev' | 'vhost-user' | 'qemu' | 'pcap'

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
  | {
      kind: 'vhost-user'
      /** a unix socket's path */
      path: string
      /** QEMU listens, Weft connects */
      client: boolean
      /** queue pairs of the guest's card, as `weft qemu` prints it; any guest may use up to 16 */
      queues: number
      /** rings are asked without end */
      poll: boolean
      offloads: boolean
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
  /** leases of a family that the hosts behind the port may have; null: as many as the network gives a port */
  leaseLimit: number | null
  /** IP addresses that the host behind the port may use, beside those of its leases; canonical text */
  addresses: string[]
  /** what the guards let it do: `spoofing` (any source address), `dhcp-server`, `router` (router advertisements) */
  allow: PortWaiver[]
}

export type PortWaiver = 'spoofing' | 'dhcp-server' | 'router'

export interface StaticEntry {
  mac: string
  vid: number
  port: string
}

export interface NetworkDefinition {
  name: string
  uuid: string
  mode: NetworkMode
  /** with mode bridge `netdev:IFNAME`; with nat, route and open `host[,address=CIDR]`,
   * `netdev:IFNAME[,address=CIDR|dhcp][,gateway=ADDRESS]` or null; with isolated null */
  uplink: string | null
  /** DNS domain of the guests, lower case without final dot; null: none */
  domain: string | null
  subnets: Subnet[]
  dhcp: DhcpSettings
  dns: DnsSettings
  routes: StaticRoute[]
  forwards: Forward[]
  /** as written, in the order they are tried: INTERFACE's RULE */
  rules: string[]
  /** named sets for rules: `$name` stands for one */
  sets: { addresses: Record<string, string[]>; ports: Record<string, string[]> }
  nat: NatSettings
  connections: ConnectionSettings
  /** 576 to 65521 bytes of an IP packet */
  mtu: number
  /** seconds until an address that is not seen again is forgotten */
  fdbAgeSeconds: number
  /** the shard that it is pinned to, from 0 on; null: one is chosen when it starts */
  shard: number | null
  autostart: boolean
  ports: PortDefinition[]
  fdb: StaticEntry[]
}

export interface Subnet {
  /** canonical: host bits are 0 */
  cidr: string
  /** the router's address in it */
  gateway: string
  /** addresses that are leased; null: none (with IPv6, hosts make their own by router advertisements) */
  dhcp: { from: string; to: string } | null
}

export interface Reservation {
  mac: string
  /** IPv4 or IPv6 */
  address: string
  name: string | null
}

export interface DhcpSettings {
  leaseSeconds: number
  /** leases of a family that a port may have, reserved ones not counted; null: by the size of the ranges, 4 to 16 */
  portLimit: number | null
  reservations: Reservation[]
  /** address of the boot server (siaddr, option 66); null: none */
  bootServer: string | null
  /** boot file by client architecture of option 93 (RFC 4578), `default` for the others */
  bootFiles: Record<string, string>
  /** further options by number, each value as text: addresses, numbers or strings; see `services/dhcp4-options.ts` */
  options: Record<string, string>
}

export interface DnsSettings {
  enabled: boolean
  /** ADDRESS[:PORT]; empty: the host's resolvers */
  upstreams: string[]
  /** upstreams by domain; without any, the domain is never asked for */
  domains: { domain: string; upstreams: string[] }[]
  /** names without a dot and names under the network's domain belong to it */
  hosts: { name: string; addresses: string[] }[]
  aliases: { name: string; target: string }[]
  services: { name: string; target: string; port: number; priority: number; weight: number }[]
  texts: { name: string; text: string[] }[]
  /** drop answers from upstreams that point to private addresses */
  rebindProtection: boolean
}

export interface StaticRoute {
  /** CIDR */
  destination: string
  /** address of the next hop, or the name of another network that this one is routed to */
  via: string
}

export interface Forward {
  protocol: 'tcp' | 'udp'
  /** outside address; null: the router's own on its uplink */
  address: string | null
  firstPort: number
  lastPort: number
  /** address, or a lease's or reservation's name */
  to: string
  toPort: number
}

export interface NatSettings {
  /** RFC 4787 section 5 */
  filtering: 'address-and-port' | 'address' | 'none'
  firstPort: number
  lastPort: number
  /** translate IPv6 too (mode nat); else it is routed as it is */
  ipv6: boolean
}

export interface ConnectionSettings {
  limit: number
  portLimit: number
  /** seconds by name, see `services/timeouts.ts`; only those that differ from the defaults */
  timeouts: Record<string, number>
}

export interface NetworkStatus {
  name: string
  uuid: string
  mode: NetworkMode
  active: boolean
  persistent: boolean
  autostart: boolean
  subnets: Subnet[]
  uplink: string | null
  /** how the uplink is; null: the network has none, or does not run */
  uplinkStatus: UplinkStatus | null
  domain: string | null
  mtu: number
  fdbAgeSeconds: number
  /** the shard that it is pinned to; null: automatic */
  shard: number | null
  /** the shard that carries it; null: it does not run */
  runsOn: number | null
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
  leaseLimit: number | null
  /** leases of the hosts behind the port; null: the network has no router, or does not run */
  leases: PortLeases | null
  addresses: string[]
  allow: PortWaiver[]
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

export interface PortLeases {
  /** of a family */
  limit: number
  /** leases and offers, reserved ones not counted */
  ip4: number
  ip6: number
  /** that gave way to others of the port, since nobody used them */
  gaveWay: number
  /** requests that got no address */
  refused: number
}

export interface FdbEntry {
  vid: number
  mac: string
  port: string
  static: boolean
  ageSeconds: number
}

export interface Lease {
  address: string
  mac: string | null
  hostname: string | null
  /** port it was granted at; null: none, a reservation */
  port: string | null
  /** ISO 8601; null: never (a reservation that is not leased) */
  expiresAt: string | null
  reserved: boolean
}

export interface NeighborEntry {
  address: string
  mac: string | null
  /** where it is: the port's name, or `uplink` */
  port: string | null
  state: 'incomplete' | 'reachable' | 'stale' | 'probe' | 'failed' | 'static'
  ageSeconds: number
}

export interface RouteEntry {
  destination: string
  /** next hop; null: on the link */
  via: string | null
  /** the network, or `uplink` */
  interface: string
  origin: 'connected' | 'static' | 'default' | 'dhcp'
}

export interface ConnectionTuple {
  source: string
  /** ICMP: the identifier; 0 for protocols without ports */
  sourcePort: number
  destination: string
  destinationPort: number
}

export interface ConnectionEntry {
  /** `tcp`, `udp`, `icmp`, `icmp6`, or the protocol's number */
  protocol: string
  state: string
  original: ConnectionTuple
  reply: ConnectionTuple
  nat: 'snat' | 'dnat' | null
  packets: number
  bytes: number
  timeoutSeconds: number
}

export interface RuleEntry {
  /** place, from 1 on */
  number: number
  rule: string
  packets: number
  bytes: number
}

export interface UplinkStatus {
  kind: 'host' | 'netdev'
  dev: string
  state: 'up' | 'down' | 'error'
  reason: string | null
  mac: string
  addresses: string[]
  gateways: string[]
  receive: Traffic
  transmit: Traffic
  /** counts by reason, as of a port */
  drops: Record<string, number>
}

export interface TraceReport {
  /** a sentence for each decision, in order */
  steps: string[]
  /** the last word: `forwarded to port vm2`, `dropped: policy` */
  verdict: string
}

export interface TableStatus {
  capacity: number
  used: number
}

export interface ShardStatus {
  index: number
  pid: number
  restarts: number
  /** processor time of its process */
  cpuSeconds: number
  /** that it carries, and their ports */
  networks: number
  ports: number
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
  neighbors: TableStatus & { evicted: number; failed: number }
  connections: TableStatus & { made: number; expired: number; evicted: number; refused: number; invalid: number }
  mappings: TableStatus & { refused: number }
  router: { packets: number; fragmentsHeld: number; icmpSent: number; icmpLimited: number }
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
  | { type: 'network.moved'; network: string; from: number; to: number }
  | { type: 'shard.restarted'; shard: number; reason: string }
  | { type: 'lease.granted' | 'lease.renewed' | 'lease.released' | 'lease.expired'; network: string; lease: Lease }
  | { type: 'uplink.up' | 'uplink.down' | 'uplink.error'; network: string; uplink: UplinkStatus }
  | { type: 'rule.logged'; network: string; rule: number; packet: string }

/**
 * The running side: what `networks.ts` asks of it. All names have been checked; definitions are complete. Every method
 * either takes effect whole or rejects with a Failure (see `failure.ts`) and changes nothing.
 */
export interface Fabric {
  start(network: NetworkDefinition): Promise<void>
  stop(network: string): Promise<void>
  /** Everything of a network that is no port and no static entry, uplink and shard included, changes live. */
  change(network: NetworkDefinition): Promise<void>
  addPort(network: string, port: PortDefinition, isPatient?: boolean): Promise<void>
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
  /** the router of an active network; a network without one has empty lists */
  leases(network: string): Lease[]
  releaseLease(network: string, address: string): Promise<void>
  neighbors(network: string): NeighborEntry[]
  routes(network: string): RouteEntry[]
  connections(network: string, limit: number): ConnectionEntry[]
  /** Forgets the network's connections. Returns how many. */
  flushConnections(network: string): Promise<number>
  rules(network: string): RuleEntry[]
  uplink(network: string): UplinkStatus | null
  trace(network: string, port: string, packet: string): Promise<TraceReport>
  shards(): ShardStatus[]
  /** the shard that carries an active network */
  shardOf(network: string): number
  onEvent(listener: (event: FabricEvent) => void): void
  close(): Promise<void>
}
