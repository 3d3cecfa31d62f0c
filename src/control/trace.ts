/**
 * `weft trace`: takes a described packet through the very stages that frames take, on a copy of the shard's tables, and
 * says what came of each.
 *
 * The stages themselves say nothing while they work. What they decided shows in what they left behind, on a copy where
 * nothing else happens: which drop was counted and where, which rule's counter went up, which connection was made and
 * what it translates, whom the router asked for, what left by which port. The live switch counts, learns and sends
 * nothing.
 */
import { DROP_NAMES } from '../dataplane/drops.js'
import {
  CONNECTION_SHIFT,
  DROP_SHIFT,
  HEADER_CONNECTIONS_MADE,
  HEADER_PORTS,
  HEADER_PUNT,
  HEADER_PUNT_BYTES,
  HEADER_SECRET,
  arenaBytes,
  formatArena,
  viewArena,
} from '../dataplane/layout.js'
import { Loop } from '../dataplane/loop.js'
import type { CompiledNetwork } from '../dataplane/port-table.js'
import { MESSAGE_SERVICE, RING_KIND, Ring } from '../dataplane/ring.js'
import * as connection from '../dataplane/router/connection-entry.js'
import { PATHS } from '../dataplane/router/firewall.js'
import { Headers } from '../dataplane/router/headers.js'
import type { CompiledRouter } from '../dataplane/router/router-table.js'
import { MemoryDriver, type SentFrame } from '../ports/memory.js'
import { check, native } from '../ports/native.js'
import { contains, formatIp, parseIp } from '../services/address.js'
import type { Ip } from '../services/address.js'
import { copyGeometry } from './arena-copy.js'
import { macBytes } from './mac.js'
import type { TraceReport } from './model.js'
import { listNeighbors, tupleOf } from './router-tables.js'
import type { Shard } from './shard.js'
import { type Described, frameOf, parseDescription } from './trace-packet.js'

const PATH_NAMES = [
  'out (guest to uplink)',
  'in (uplink to guest)',
  'local (guest to guest)',
  'to the gateway',
  'in to the gateway',
]
const POLICIES = ['drops', 'accepts', 'rejects']
const UNKNOWN_MAC = Uint8Array.of(0x52, 0, 0, 0, 0, 1)
const TYPE_ARP = 0x0806

export interface TraceRequest {
  shard: Shard
  /** every network and router that the shard knows */
  networks: CompiledNetwork[]
  routers: CompiledRouter[]
  network: number
  /** number and name of the port that the packet comes in by */
  port: number
  portName: string
  nameOf(port: number): string | null
  /** the network's rules, as written */
  rules: readonly string[]
  packet: string
}

export async function trace(request: TraceRequest): Promise<TraceReport> {
  const described = parseDescription(request.packet)
  const loop = await copyOf(request)
  return new Trial(request, described, loop).run()
}

interface Copied {
  loop: Loop
  driver: MemoryDriver
  arena: ReturnType<typeof viewArena>
}

/** The stages on a copy of the shard's tables, configured as the shard is. */
async function copyOf({ shard, networks, routers }: TraceRequest): Promise<Copied> {
  const geometry = copyGeometry(shard.arena)
  const bytes = arenaBytes(geometry)
  const memory = check(native.createMemory(bytes), 'trace')
  try {
    const buffer = check(native.mapMemory(memory, bytes), 'trace')
    formatArena(buffer, geometry)
    await shard.ask({ do: 'copy' }, [memory])
    const arena = viewArena(buffer)
    const driver = new MemoryDriver(arena)
    const secret = arena.header.slice(HEADER_SECRET, HEADER_SECRET + 4)
    const loop = new Loop(arena, driver, arena.header[HEADER_PORTS], secret)
    for (const network of networks) loop.pipeline.configureNetwork(network)
    for (const router of routers) loop.pipeline.configureRouter(router.zone, router)
    return { loop, driver, arena }
  } finally {
    native.close(memory)
  }
}

class Trial {
  private readonly request: TraceRequest
  private readonly packet: Described
  private readonly copied: Copied
  private readonly router: CompiledRouter | null
  private readonly steps: string[] = []

  constructor(request: TraceRequest, packet: Described, copied: Copied) {
    this.request = request
    this.packet = packet
    this.copied = copied
    this.router = request.routers.find((one) => one.zone === request.network) ?? null
  }

  run(): TraceReport {
    const { request, copied } = this
    const to = this.destinationMac()
    if (to === null) return { steps: this.steps, verdict: 'not sent: nobody answers for the destination' }
    const { arena, driver, loop } = copied
    const made = arena.header[HEADER_CONNECTIONS_MADE]
    const match = this.matchBefore()
    driver.give(request.port, frameOf(this.packet, this.sourceMac(), to))
    loop.turn(0)
    const { sent } = driver
    this.tellIngress()
    this.tellConnection(match, made)
    this.tellRules()
    if (to.every((octet, i) => octet === this.gatewayMac()?.[i])) this.tellRoute()
    return { steps: this.steps, verdict: this.verdict(sent) }
  }

  // ---- who sends it to whom ----

  private sourceMac(): Uint8Array {
    const known = this.neighbor(this.packet.source)
    return known === null ? UNKNOWN_MAC : macBytes(known)
  }

  private neighbor(ip: Ip): string | null {
    const { arena } = this.copied
    const segment = this.segment()
    const text = formatIp(ip)
    return listNeighbors(arena, segment, () => null).find(({ address }) => address === text)?.mac ?? null
  }

  private segment(): number {
    return this.copied.loop.pipeline.ports.network[this.request.port]
  }

  /** Null if the sender would not know: its ARP request or solicitation has no answer. */
  private destinationMac(): Uint8Array | null {
    const { packet, router } = this
    const text = formatIp(packet.destination)
    const segment = this.segment()
    const side = router === null ? null : router.uplink?.segment === segment ? router.uplink : router.lan
    if (side === null) {
      this.steps.push('the network has no router: the packet is tried as a frame to everybody')
      return Uint8Array.of(255, 255, 255, 255, 255, 255)
    }
    const gateway = macOfWords(side.macLow, side.macHigh)
    const owned = [...side.addresses.map(({ ip }) => ip), ...side.proxied].some((ip) => formatIp(ip) === text)
    if (owned) {
      this.steps.push(`${text} is the router's own: it is sent to the gateway`)
      return gateway
    }
    const isOnLink = side.addresses.some((address) => contains(address, packet.destination))
    if (!isOnLink) {
      this.steps.push(`${text} is not on the link: it is sent to the gateway`)
      return gateway
    }
    const mac = this.neighbor(packet.destination)
    if (mac === null) {
      this.steps.push(`${text} is on the link, and no host there is known by this address: nobody answers for it`)
      return null
    }
    this.steps.push(`${text} is on the link: it is sent to ${mac}`)
    return macBytes(mac)
  }

  // ---- what came of it ----

  private tellIngress(): void {
    const { request } = this
    const drop = this.drop()
    const before = ['spoofed', 'dhcp-server', 'router-adv', 'link-down', 'vlan', 'bad-source', 'oversize']
    const isRefused =
      drop !== null && drop.port === request.port && before.some((start) => drop.reason.startsWith(start))
    if (!isRefused)
      this.steps.push(`port ${request.portName} takes it in: its link is up, and its addresses may come from there`)
  }

  /** The first drop that was counted on the copy: it began with none. */
  private drop(): { port: number; reason: string } | null {
    const { drops } = this.copied.arena
    const at = drops.findIndex((count) => count > 0)
    if (at < 0) return null
    return { port: at >> DROP_SHIFT, reason: DROP_NAMES[at & ((1 << DROP_SHIFT) - 1)] ?? 'unnamed' }
  }

  private matchBefore(): number {
    const { packet, request, copied } = this
    const flow = new Headers()
    flow.family = packet.source.length === 1 ? 4 : 6
    flow.protocol = packet.protocol
    ;[flow.source0, flow.source1 = 0, flow.source2 = 0, flow.source3 = 0] = packet.source as [number, ...number[]]
    ;[flow.destination0, flow.destination1 = 0, flow.destination2 = 0, flow.destination3 = 0] = packet.destination as [
      number,
      ...number[],
    ]
    const isQuery = packet.protocol === 1 || packet.protocol === 58
    flow.sourcePort = isQuery ? 1 : packet.sourcePort
    flow.destinationPort = isQuery ? 1 : packet.destinationPort
    return copied.loop.pipeline.router.connections.find(request.network, flow)
  }

  private tellConnection(match: number, made: number): void {
    const { arena } = this.copied
    const isNew = arena.header[HEADER_CONNECTIONS_MADE] !== made
    if (match < 0 && !isNew) return
    const entry = match >= 0 ? match >> 1 : this.newest()
    if (entry < 0) return
    const words = arena.connections
    const at = entry << CONNECTION_SHIFT
    const status = words[at + connection.CONN_STATUS]
    const original = tupleOf(words, at, status, false)
    const reply = tupleOf(words, at, status, true)
    const end = (ip: string, port: number): string =>
      port === 0 ? ip : ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`
    if (match >= 0) {
      const way = (match & 1) === 0 ? 'its original direction' : 'the direction of replies'
      this.steps.push(
        `it belongs to a known connection, in ${way}: ` +
          `${end(original.source, original.sourcePort)} to ${end(original.destination, original.destinationPort)}`,
      )
    } else {
      this.steps.push('it begins a connection')
    }
    if ((status & connection.STATUS_DNAT) !== 0)
      this.steps.push(
        `a forward or mapping leads from ${end(original.destination, original.destinationPort)} ` +
          `to ${end(reply.source, reply.sourcePort)} (DNAT)`,
      )
    if ((status & connection.STATUS_SNAT) !== 0)
      this.steps.push(
        `its source ${end(original.source, original.sourcePort)} ` +
          `becomes ${end(reply.destination, reply.destinationPort)} (SNAT)`,
      )
  }

  /** The connection that the trial made. */
  private newest(): number {
    const { connections } = this.copied.arena
    const end = connections[connection.CONN_END]
    let found = -1
    for (let i = 0; i < end; i++) {
      const at = i << CONNECTION_SHIFT
      if ((connections[at + connection.CONN_STATUS] & connection.STATUS_LIVE) === 0) continue
      if (
        found < 0 ||
        connections[at + connection.CONN_ORDER] > connections[(found << CONNECTION_SHIFT) + connection.CONN_ORDER]
      )
        found = i
    }
    return found
  }

  private tellRules(): void {
    const { request, copied } = this
    const { counters } = copied.loop.pipeline.router.firewalls[request.network]
    for (let path = 0; path < PATHS; path++)
      if (counters[2 * path] > 0)
        this.steps.push(`no rule fits on the path ${PATH_NAMES[path]}: the policy there ${this.policy(path)}`)
    if (counters.every((count) => count === 0) && this.drop() === null && this.router !== null)
      this.steps.push('no rule of the firewall concerns it')
    request.rules.forEach((rule, i) => {
      if (counters[2 * (PATHS + i)] > 0) this.steps.push(`rule ${i + 1} fits: ${rule}`)
    })
  }

  private gatewayMac(): Uint8Array | null {
    const { router } = this
    if (router === null) return null
    const side = router.uplink?.segment === this.segment() ? router.uplink : router.lan
    return macOfWords(side.macLow, side.macHigh)
  }

  /** The route of the destination, behind translation. */
  private tellRoute(): void {
    const { router, packet, copied } = this
    const match = this.matchBefore()
    const { connections } = copied.arena
    const at = (match >> 1) << CONNECTION_SHIFT
    const status = match < 0 ? 0 : connections[at + connection.CONN_STATUS]
    const behind = match < 0 ? null : tupleOf(connections, at, status, (match & 1) === 0).source
    const ip = (behind === null ? null : parseIp(behind)) ?? packet.destination
    const route = router?.routes.find((one) => one.ip.length === ip.length && contains(one, ip))
    if (router === null || route === undefined) return
    const where = route.segment === router.uplink?.segment ? 'the uplink' : 'its network'
    const hop = route.gateway === null ? 'on the link' : `via ${formatIp(route.gateway)}`
    this.steps.push(`the route to ${formatIp(ip)} is ${formatIp(route.ip)}/${route.prefix}, ${hop}, by ${where}`)
  }

  private policy(path: number): string {
    return POLICIES[this.router?.firewall.policies[path] ?? 0] ?? 'drops'
  }

  private verdict(sent: readonly SentFrame[]): string {
    const { copied, request } = this
    const drop = this.drop()
    const service = this.isServed()
    if (service) return 'handed to a service of the gateway'
    const name = (port: number): string => request.nameOf(port) ?? 'of the router'
    const asked = sent.filter(({ bytes }) => ((bytes[12] << 8) | bytes[13]) === TYPE_ARP || isSolicitation(bytes))
    const others = sent.filter((frame) => !asked.includes(frame))
    if (drop !== null) {
      const answered = others.length > 0 ? ', and its sender is told' : ''
      return `dropped at port ${name(drop.port)}: ${drop.reason}${answered}`
    }
    if (others.length === 0 && asked.length > 0) {
      return `waits: the next hop's address is asked for at port ${asked.map(({ port }) => name(port)).join(', ')}`
    }
    if (others.length === 0)
      return copied.driver.sent.length === 0 ? 'kept: it waits for its next hop or its first fragment' : 'taken'
    const ports = [...new Set(others.map(({ port }) => name(port)))]
    if (ports.length > 1) return `flooded to ports ${ports.join(', ')}`
    if (others[0].port === request.port) return `answered by the gateway to port ${ports[0]}`
    return `forwarded to port ${ports[0]}`
  }

  private isServed(): boolean {
    const { arena } = this.copied
    const ring = new Ring(arena.buffer, arena.header[HEADER_PUNT], arena.header[HEADER_PUNT_BYTES])
    const index = ring.peek()
    return index >= 0 && ring.header()[index + RING_KIND] === MESSAGE_SERVICE
  }
}

function isSolicitation(frame: Uint8Array): boolean {
  return frame[12] === 0x86 && frame[13] === 0xdd && frame[20] === 58 && frame[54] === 135
}

function macOfWords(low: number, high: number): Uint8Array {
  return Uint8Array.of(high, high >> 8, low, low >> 8, low >> 16, low >> 24)
}
