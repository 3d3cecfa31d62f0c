/**
 * What the pipeline knows of ports and networks: compiled configuration, in arrays indexed by the port's number.
 *
 * A port is an integer. The control process numbers ports and networks and sends a whole network's compiled
 * configuration; `configure` writes it into the arrays between two bursts, so a frame sees the old configuration or the
 * new one, never a mixture. Capacity: as many ports as the arena has rows, NETWORKS_MAX networks.
 *
 * VLANs. A network has two parts that never mix. Ports without VLAN options form its VLAN-unaware part: one broadcast
 * domain, VID 0 inside, in which a received tag is payload and comes out again as it was. Ports with `access` or
 * `trunk` form its VLAN-aware part (IEEE 802.1Q): every frame belongs to a VID of 1 to 4094.
 */
export const NETWORKS_MAX = 512

// What a port can take unfinished (bits of `offloads`).
export const TAKES_CHECKSUM = 1
export const TAKES_TSO4 = 2
export const TAKES_TSO6 = 4
export const TAKES_USO = 8

// Bits of `flags`.
export const PORT_PRESENT = 1
export const PORT_LINK = 2 // the link is up by order
export const PORT_ISOLATED = 4 // exchanges no frames with other isolated ports
export const PORT_VLAN_AWARE = 8
export const PORT_RING = 16 // its frames go to the control process, not to native code
export const PORT_ACCESS = 32 // takes no tagged frames
export const PORT_GATEWAY = 64 // the router's own end: gets what is for its address, and no floods
export const PORT_GUARDED = 128 // its hosts use their own addresses only, see `router/guard.ts`
export const PORT_SERVES_DHCP = 256 // a DHCP server may be behind it
export const PORT_ROUTES = 512 // a router may be behind it

/** No VID: a trunk without native VLAN. */
export const VID_NONE = -1

const VID_WORDS = 4096 / 32

export interface CompiledPort {
  port: number
  flags: number
  /** bytes of an IP packet */
  mtu: number
  /** VLAN of frames without tag: the access VID or the native VLAN; 0 in the VLAN-unaware part; VID_NONE: none */
  pvid: number
  /** VIDs the port is a member of, as ranges [first, last]; empty in the VLAN-unaware part */
  vids: [first: number, last: number][]
  offloads: number
  /** addresses that may be learned at the port */
  macLimit: number
  /** with PORT_GUARDED: the only source address it may use, in the FDB's words; both 0: any */
  ownMacLow?: number
  ownMacHigh?: number
}

export interface CompiledNetwork {
  network: number
  agingSeconds: number
  ports: CompiledPort[]
}

export class PortTable {
  readonly size: number
  readonly flags: Int32Array
  readonly network: Int32Array // number, -1: none
  readonly maxFrame: Int32Array // bytes without tag and FCS
  readonly pvid: Int32Array
  readonly offloads: Int32Array
  readonly macLimit: Int32Array
  readonly ownMacLow: Int32Array
  readonly ownMacHigh: Int32Array
  readonly agingSeconds: Int32Array // the port's network's
  /** a network's ports: a row of `members`, `memberCount` long, from network * size */
  readonly members: Int32Array[] = []
  readonly memberCount = new Int32Array(NETWORKS_MAX)
  /** ports of kind ring in use, anywhere: 0 spares a look at every pair */
  rings = 0
  private readonly vids: Int32Array // VID_WORDS words a port: bit set for each VID it is a member of

  constructor(size: number) {
    this.size = size
    this.flags = new Int32Array(size)
    this.network = new Int32Array(size).fill(-1)
    this.maxFrame = new Int32Array(size)
    this.pvid = new Int32Array(size)
    this.offloads = new Int32Array(size)
    this.macLimit = new Int32Array(size)
    this.ownMacLow = new Int32Array(size)
    this.ownMacHigh = new Int32Array(size)
    this.agingSeconds = new Int32Array(size)
    this.vids = new Int32Array(size * VID_WORDS)
    for (let i = 0; i < NETWORKS_MAX; i++) this.members.push(new Int32Array(0))
  }

  /** Whether frames of this VID (0 to 4095) may enter and leave by the port. */
  isMember(port: number, vid: number): boolean {
    return ((this.vids[port * VID_WORDS + (vid >> 5)] >>> (vid & 31)) & 1) !== 0
  }

  /** Whether the port takes untagged and priority-tagged frames only. */
  isAccess(port: number): boolean {
    return (this.flags[port] & PORT_ACCESS) !== 0
  }

  /**
   * Replaces a network's configuration whole. Ports that are not in it any more are forgotten.
   * @throws RangeError for numbers beyond the tables: a defect of the control process
   */
  configure(configuration: CompiledNetwork): void {
    const { network, ports } = configuration
    if (network < 0 || network >= NETWORKS_MAX) throw new RangeError(`network ${network}: not 0..${NETWORKS_MAX - 1}`)
    for (const port of ports)
      if (port.port < 0 || port.port >= this.size) throw new RangeError(`port ${port.port}: not 0..${this.size - 1}`)
    for (let port = 0; port < this.size; port++) if (this.network[port] === network) this.forget(port)
    const flooded = ports.filter((port) => (port.flags & PORT_GATEWAY) === 0)
    this.members[network] = Int32Array.from(flooded, (port) => port.port)
    this.memberCount[network] = flooded.length
    for (const port of ports) this.write(network, configuration.agingSeconds, port)
    this.rings = this.flags.reduce((sum, flags) => sum + ((flags & PORT_RING) !== 0 ? 1 : 0), 0)
  }

  private forget(port: number): void {
    this.flags[port] = 0
    this.network[port] = -1
    this.vids.fill(0, port * VID_WORDS, (port + 1) * VID_WORDS)
  }

  private write(network: number, agingSeconds: number, port: CompiledPort): void {
    const row = port.port
    this.forget(row) // it may come from another network
    this.flags[row] = port.flags | PORT_PRESENT
    this.network[row] = network
    this.maxFrame[row] = port.mtu + 14
    this.pvid[row] = port.pvid
    this.offloads[row] = port.offloads
    this.macLimit[row] = port.macLimit
    this.ownMacLow[row] = port.ownMacLow ?? 0
    this.ownMacHigh[row] = port.ownMacHigh ?? 0
    this.agingSeconds[row] = agingSeconds
    const base = row * VID_WORDS
    if ((port.flags & PORT_VLAN_AWARE) === 0) this.vids[base] |= 1
    for (const [first, last] of port.vids)
      for (let vid = first; vid <= last; vid++) this.vids[base + (vid >> 5)] |= 1 << (vid & 31)
  }
}
