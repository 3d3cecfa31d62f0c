/**
 * The cases of the micro-benchmark that go through the router: NAT and firewall, connections that are established.
 *
 *   guests, one a port --- segment 0 --- router --- segment 1 --- uplink port: the outside
 *
 * A guest's frame goes to the router's MAC there and leaves by the uplink with the source translated; the outside's
 * answers come back the same way. Connections are made by the pipeline itself before anything is measured: the first
 * packet, its answer and one more. So every frame that is measured takes the whole walk of a known connection: guard,
 * parsing, look-up, tracking, both checksums, neighbor, and switching on the segment where it leaves.
 *
 * The treadmill writes back what the router changes in a frame: MACs, hop limit, addresses, ports, checksums. Between
 * two seconds of its clock it confirms the neighbors, as their own frames would.
 *
 * Capacity: MAPPINGS mappings at most, so connections beyond go to further outside addresses; the arena is made for
 * them, up to about four million (an arena is smaller than 2 GiB).
 */
import {
  type Arena,
  BURST_CAPACITY,
  DEFAULT_GEOMETRY,
  HEADER_CONNECTIONS_USED,
  HEADER_NOW,
  HEADER_SECRET,
  INGRESS,
  LENGTH,
  OFFSET,
  RECORD_SHIFT,
  REFERENCES,
  TAG,
  arenaBytes,
  formatArena,
  viewArena,
} from '../src/dataplane/layout.js'
import { Pool } from '../src/dataplane/burst.js'
import { type Driver, Loop } from '../src/dataplane/loop.js'
import { type CompiledPort, PORT_GATEWAY, PORT_GUARDED, PORT_LINK } from '../src/dataplane/port-table.js'
import { TIMEOUTS } from '../src/dataplane/router/conntrack.js'
import { FILTER_ADDRESS_AND_PORT } from '../src/dataplane/router/router-table.js'
import { parseRules } from '../src/control/rule.js'
import { compileRules, defaultPolicies } from '../src/control/rule-compile.js'
import { FRAMES_A_SECOND, FRAME_BYTES, type Stand, randomFrom } from './treadmill.js'

export interface RoutedCase {
  readonly name: string
  readonly guests: number
  readonly flows: number
  readonly protocol: 'udp' | 'tcp'
  /** frames that go through before they begin again; a power of two */
  readonly sequence: number
  /** flow of the frame at a place of the sequence, and whether it is the outside's answer */
  frame(at: number, random: () => number): [flow: number, isAnswer: boolean]
}

const RULES = ['drop out tcp dport 25', 'drop out to 192.0.2.0/24', 'accept in icmp']
const MAPPINGS = 16384
const LAN = 0
const UPLINK = 1
const UPLINK_DEVICE = 1 // ports: the uplink's device, the router's two, then the guests
const UPLINK_GATEWAY = 2
const LAN_GATEWAY = 3
const FIRST_GUEST = 4
const MAC_HIGH_HALF = 0x5452
const LAN_MAC = 0x01000000
const UPLINK_MAC = 0x02000000
const OUTSIDE_MAC = 0x03000000
const LAN_IP = 0x0a000001
const UPLINK_IP = 0xc6336402 | 0 // 198.51.100.2
const OUTSIDE_IP = 0xc6336401 | 0
const SERVERS = 0xcb000000 | 0 // 203.0.0.0 and on, behind the outside
const SERVER_PORT = 80
const FIRST_PORT = 20000
const SEQUENCE_NUMBER = 0x01020304
const FLAG_SYN = 2
const FLAG_ACK = 16

// Words of a frame in the list of what the treadmill sends.
const WORDS = 8
const FROM = 0 // port
const SOURCE_MAC = 1
const SUM_WORD = 2 // hop limit, protocol, header checksum
const SOURCE = 3
const DESTINATION = 4
const PORTS = 5
const LAST = 6 // the word that holds the transport's checksum

const alternate = (at: number): [number, boolean] => [0, ((at >> 5) & 1) !== 0]
const each =
  (flows: number) =>
  (_: number, random: () => number): [number, boolean] => {
    const draw = random()
    return [(draw >>> 1) % flows, (draw & 1) !== 0]
  }

export const routedCases: RoutedCase[] = [
  { name: 'nat', guests: 1, flows: 1, protocol: 'udp', sequence: 1 << 17, frame: alternate },
  { name: 'nat-tcp', guests: 1, flows: 1, protocol: 'tcp', sequence: 1 << 17, frame: alternate },
  {
    name: 'nat-64',
    guests: 8,
    flows: 64,
    protocol: 'udp',
    sequence: 1 << 17,
    frame: (at) => [(at >> 3) & 63, ((at >> 9) & 1) !== 0],
  },
  {
    name: 'nat-each',
    guests: 8,
    flows: 64,
    protocol: 'udp',
    sequence: 1 << 17,
    frame: (at) => [at & 63, ((at >> 6) & 1) !== 0],
  },
  { name: 'nat-1k', guests: 64, flows: 1000, protocol: 'udp', sequence: 1 << 20, frame: each(1000) },
  { name: 'nat-1m', guests: 64, flows: 1_000_000, protocol: 'udp', sequence: 1 << 20, frame: each(1_000_000) },
]

/** A 32-bit word in the order in which this machine stores it. */
const swap = (word: number): number => (word << 24) | ((word << 8) & 0xff0000) | ((word >>> 8) & 0xff00) | (word >>> 24)

const fold = (sum: number): number => {
  const once = (sum & 0xffff) + Math.floor(sum / 65536)
  return (once & 0xffff) + (once >>> 16)
}
const halvesOf = (word: number): number => (word >>> 16) + (word & 0xffff)

const bytesOf = (word: number): number[] => [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]
// both ends begin with the same number and send nothing
const sequenceOf = (flags: number): number => SEQUENCE_NUMBER - ((flags & FLAG_SYN) === 0 ? 0 : 1)
const acknowledgementOf = (flags: number): number => (flags === FLAG_SYN ? 0 : SEQUENCE_NUMBER)

/** One frame as numbers, most significant byte first, and how it becomes words of the treadmill's list. */
class Shape {
  readonly protocol: number
  private readonly transport: number // bytes
  private readonly isTcp: boolean

  constructor(protocol: 'udp' | 'tcp') {
    this.isTcp = protocol === 'tcp'
    this.protocol = this.isTcp ? 6 : 17
    this.transport = this.isTcp ? 20 : 8
  }

  /** What is the same in all frames: everything but what `write` writes. */
  head(flags: number): number[] {
    const total = 20 + this.transport
    const ip = [0x45, 0, total >> 8, total & 255, 0, 0, 0x40, 0, 64, this.protocol, 0, 0]
    const sequence = bytesOf(sequenceOf(flags))
    const tcp = [...sequence, ...bytesOf(acknowledgementOf(flags)), 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]
    return [...new Array<number>(12).fill(0), 8, 0, ...ip, ...new Array<number>(12).fill(0), ...(this.isTcp ? tcp : [])]
  }

  /** The place of the LAST word, in words from the IP header. */
  get last(): number {
    return this.isTcp ? 9 : 6
  }

  write(
    list: Int32Array,
    at: number,
    from: number,
    mac: number,
    source: number,
    destination: number,
    ports: number,
    flags: number,
  ): void {
    const total = 20 + this.transport
    const second = (64 << 24) | (this.protocol << 16)
    const header = 0x4500 + total + 0x4000 + halvesOf(second) + halvesOf(source) + halvesOf(destination)
    let sum = halvesOf(source) + halvesOf(destination) + this.protocol + this.transport + halvesOf(ports)
    const numbers = halvesOf(sequenceOf(flags)) + halvesOf(acknowledgementOf(flags))
    sum += this.isTcp ? numbers + (0x5000 | flags) + 0xffff : this.transport
    const check = ~fold(sum) & 0xffff
    list[at + FROM] = from
    list[at + SOURCE_MAC] = mac
    list[at + SUM_WORD] = swap(second | (~fold(header) & 0xffff))
    list[at + SOURCE] = swap(source)
    list[at + DESTINATION] = swap(destination)
    list[at + PORTS] = swap(ports)
    list[at + LAST] = swap(this.isTcp ? check << 16 : (this.transport << 16) | check)
  }
}

class RoutedTreadmill implements Driver {
  sent = 0
  /** once a second of the clock */
  onSecond: () => void = () => {}
  private readonly arena: Arena
  private readonly halves: Uint16Array
  private readonly words: Int32Array
  private readonly packets = new Int32Array(BURST_CAPACITY)
  private readonly frames = new Int32Array(BURST_CAPACITY)
  private readonly last: number
  private list: Int32Array = new Int32Array(0)
  private mask = 0
  private burst = 0
  private next = 0
  private untilSecond = FRAMES_A_SECOND

  constructor(arena: Arena, pool: Pool, shape: Shape) {
    this.arena = arena
    this.halves = new Uint16Array(arena.buffer)
    this.words = new Int32Array(arena.buffer)
    this.last = shape.last
    for (let i = 0; i < BURST_CAPACITY; i++) {
      const packet = pool.take(FRAME_BYTES)
      this.packets[i] = packet
      this.frames[i] = arena.records[(packet << RECORD_SHIFT) + OFFSET]
    }
  }

  /** What it goes through from now on, `burst` frames at a time. */
  load(list: Int32Array, burst: number, head: number[]): void {
    this.list = list
    this.mask = list.length / WORDS - 1
    this.burst = burst
    this.next = 0
    for (let i = 0; i < BURST_CAPACITY; i++) this.arena.bytes.set(head, this.frames[i])
  }

  receive(): number {
    const { halves, words, burst, list, packets, frames, last, mask } = this
    const { records } = this.arena
    const listed = this.arena.burst
    for (let i = 0; i < burst; i++) {
      const at = ((this.next + i) & mask) * WORDS
      const packet = packets[i]
      const frame = frames[i]
      const record = packet << RECORD_SHIFT
      const half = frame >> 1
      const ip = (frame + 14) >> 2
      const from = list[at + FROM]
      const mac = list[at + SOURCE_MAC]
      halves[half] = MAC_HIGH_HALF
      halves[half + 1] = 0
      halves[half + 2] = (from === UPLINK_DEVICE ? UPLINK_MAC : LAN_MAC) >>> 16
      halves[half + 3] = MAC_HIGH_HALF
      halves[half + 4] = mac
      halves[half + 5] = mac >>> 16
      words[ip + 2] = list[at + SUM_WORD]
      words[ip + 3] = list[at + SOURCE]
      words[ip + 4] = list[at + DESTINATION]
      words[ip + 5] = list[at + PORTS]
      words[ip + last] = list[at + LAST]
      records[record + OFFSET] = frame
      records[record + LENGTH] = FRAME_BYTES
      records[record + INGRESS] = from
      records[record + TAG] = 0
      records[record + REFERENCES] = 1
      listed[i] = packet
    }
    this.next = (this.next + burst) & mask
    this.untilSecond -= burst
    if (this.untilSecond <= 0) {
      this.untilSecond += FRAMES_A_SECOND
      this.arena.header[HEADER_NOW] += 1
      this.onSecond()
    }
    return burst
  }

  transmit(pairs: number): void {
    this.sent += pairs
  }

  /** Of the packet that is the i-th of a burst, its number. */
  packet(i: number): number {
    return this.packets[i]
  }
}

interface Flows {
  readonly guest: (flow: number) => number
  readonly address: (flow: number) => number
  readonly port: (flow: number) => number
  readonly server: (flow: number) => number
}

/** Who talks with whom: guests by turns; as many mappings as there may be, each with as many servers as it takes. */
function flowsOf({ guests, flows }: RoutedCase): Flows {
  const mappings = Math.min(flows, MAPPINGS)
  const guest = (flow: number): number => (flow % mappings) % guests
  return {
    guest,
    address: (flow) => LAN_IP + 1 + guest(flow),
    port: (flow) => FIRST_PORT + Math.floor((flow % mappings) / guests),
    server: (flow) => SERVERS + Math.floor(flow / mappings),
  }
}

const powerFor = (count: number): number => 2 ** Math.ceil(Math.log2(Math.max(count, 2) * 1.01))

export function buildRouted(kase: RoutedCase, burst: number): Stand {
  const geometry = {
    ...DEFAULT_GEOMETRY,
    connectionCapacity: Math.max(DEFAULT_GEOMETRY.connectionCapacity, powerFor(kase.flows)),
  }
  const buffer = new ArrayBuffer(arenaBytes(geometry))
  formatArena(buffer, geometry)
  const arena = viewArena(buffer)
  const random = randomFrom(kase.flows + burst)
  for (let i = 0; i < 4; i++) arena.header[HEADER_SECRET + i] = random()
  const pool = new Pool(arena)
  pool.reset()
  const shape = new Shape(kase.protocol)
  const driver = new RoutedTreadmill(arena, pool, shape)
  const loop = new Loop(arena, driver, geometry.ports, Int32Array.of(11, 0x5851f42d, 0x14057b7e, 0x2545f491))
  configure(kase, loop)
  const flows = flowsOf(kase)
  const { neighbors } = loop.pipeline
  driver.onSecond = () => {
    const now = arena.header[HEADER_NOW]
    neighbors.confirm(neighbors.find(UPLINK, 4, OUTSIDE_IP, 0, 0, 0), now)
    for (let guest = 0; guest < kase.guests; guest++) {
      const entry = neighbors.find(LAN, 4, LAN_IP + 1 + guest, 0, 0, 0)
      if (entry >= 0) neighbors.confirm(entry, now)
    }
  }
  neighbors.learn(UPLINK, 4, OUTSIDE_IP, 0, 0, 0, OUTSIDE_MAC, MAC_HIGH_HALF, UPLINK_DEVICE, 0)
  const stand = { loop, driver, drops: () => arena.drops.reduce((sum, drops) => sum + drops, 0) }
  const outside = connect(kase, stand, driver, arena, shape, flows)
  if (arena.header[HEADER_CONNECTIONS_USED] !== kase.flows)
    throw new Error(`${kase.name}: ${arena.header[HEADER_CONNECTIONS_USED]} connections, not ${kase.flows}`)
  const list = new Int32Array(kase.sequence * WORDS)
  for (let at = 0; at < kase.sequence; at++) {
    const [flow, isAnswer] = kase.frame(at, random)
    writeFrame(list, at * WORDS, shape, flows, flow, isAnswer ? outside[flow] : 0, FLAG_ACK)
  }
  driver.load(list, burst, shape.head(FLAG_ACK))
  driver.sent = 0
  return stand
}

/** @param outside port of the flow's mapping for a frame of the outside; 0: a guest's frame */
function writeFrame(
  list: Int32Array,
  at: number,
  shape: Shape,
  flows: Flows,
  flow: number,
  outside: number,
  flags: number,
): void {
  const server = flows.server(flow)
  const ports = (SERVER_PORT << 16) | outside
  if (outside !== 0) return shape.write(list, at, UPLINK_DEVICE, OUTSIDE_MAC, server, UPLINK_IP, ports, flags)
  const guest = flows.guest(flow)
  const from = (flows.port(flow) << 16) | SERVER_PORT
  const mac = ((guest + 1) << 16) | 0x04000000
  shape.write(list, at, FIRST_GUEST + guest, mac, flows.address(flow), server, from, flags)
}

/** Makes all connections: first packet, answer, one more. Returns the outside port of each flow. */
function connect(
  kase: RoutedCase,
  stand: Stand,
  driver: RoutedTreadmill,
  arena: Arena,
  shape: Shape,
  flows: Flows,
): Uint16Array {
  const outside = new Uint16Array(kase.flows)
  const view = new DataView(arena.buffer)
  const list = new Int32Array(64 * WORDS)
  for (let first = 0; first < kase.flows; first += 64) {
    const count = Math.min(64, kase.flows - first)
    for (const step of [0, 1, 2]) {
      const flags = step === 0 ? FLAG_SYN : step === 1 ? FLAG_SYN | FLAG_ACK : FLAG_ACK
      for (let i = 0; i < count; i++)
        writeFrame(list, i * WORDS, shape, flows, first + i, step === 1 ? outside[first + i] : 0, flags)
      driver.load(list, count, shape.head(flags))
      const before = driver.sent
      stand.loop.turn(0)
      if (driver.sent - before !== count)
        throw new Error(`${kase.name}: connection ${first} is refused at step ${step}`)
      if (step !== 0) continue
      for (let i = 0; i < count; i++) {
        const frame = arena.records[(driver.packet(i) << RECORD_SHIFT) + OFFSET]
        outside[first + i] = view.getUint16(frame + 34)
      }
    }
  }
  return outside
}

function configure(kase: RoutedCase, loop: Loop): void {
  const { pipeline } = loop
  const port = (number: number, flags: number): CompiledPort => ({
    port: number,
    flags: PORT_LINK | flags,
    mtu: 1500,
    pvid: 0,
    vids: [],
    offloads: 15,
    macLimit: 1024,
  })
  const guests = Array.from({ length: kase.guests }, (_, guest) => port(FIRST_GUEST + guest, PORT_GUARDED))
  pipeline.ports.configure({ network: LAN, agingSeconds: 300, ports: [...guests, port(LAN_GATEWAY, PORT_GATEWAY)] })
  const outside = [port(UPLINK_DEVICE, 0), port(UPLINK_GATEWAY, PORT_GATEWAY)]
  pipeline.ports.configure({ network: UPLINK, agingSeconds: 300, ports: outside })
  pipeline.fdb.addStatic(LAN_MAC, MAC_HIGH_HALF, LAN, LAN_GATEWAY)
  pipeline.fdb.addStatic(UPLINK_MAC, MAC_HIGH_HALF, UPLINK, UPLINK_GATEWAY)
  // the outside and the guests are known to the switch
  pipeline.fdb.addStatic(OUTSIDE_MAC, MAC_HIGH_HALF, UPLINK, UPLINK_DEVICE)
  const segment = (number: number, gatewayPort: number, macLow: number, ip: number, prefix: number) => ({
    segment: number,
    gatewayPort,
    macLow,
    macHigh: MAC_HIGH_HALF,
    vid: 0,
    mtu: 1500,
    addresses: [{ ip: [ip], prefix }],
    proxied: [],
    services: 0,
  })
  pipeline.configureRouter(LAN, {
    zone: LAN,
    lan: segment(LAN, LAN_GATEWAY, LAN_MAC, LAN_IP, 16),
    uplink: segment(UPLINK, UPLINK_GATEWAY, UPLINK_MAC, UPLINK_IP, 24),
    routes: [
      { ip: [OUTSIDE_IP & ~0xff], prefix: 24, segment: UPLINK, gateway: null },
      { ip: [LAN_IP & ~0xffff], prefix: 16, segment: LAN, gateway: null },
      { ip: [0], prefix: 0, segment: UPLINK, gateway: [OUTSIDE_IP] },
    ],
    nat: [{ ip: [UPLINK_IP], firstPort: 1024, lastPort: 65535 }],
    filtering: FILTER_ADDRESS_AND_PORT,
    forwards: [],
    isOpen: false,
    firewall: compileRules(
      parseRules(RULES, { addresses: {}, ports: {} }),
      { addresses: {}, ports: {} },
      {
        policies: defaultPolicies('nat'),
        portNumber: () => null,
      },
    ),
    timeouts: TIMEOUTS.map(({ seconds }) => seconds),
    connectionLimit: 1 << 23,
    portLimit: 1 << 23,
  })
}
