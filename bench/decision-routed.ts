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
 * Between two seconds of the treadmill's clock (routed-treadmill.ts) the neighbors are confirmed, as their own frames
 * would.
 *
 * Capacity: MAPPINGS mappings at most, so connections beyond go to further servers; the arena is made for them, up to
 * about four million (an arena is smaller than 2 GiB).
 */
import {
  type Arena,
  DEFAULT_GEOMETRY,
  HEADER_CONNECTIONS_USED,
  HEADER_NOW,
  HEADER_SECRET,
  OFFSET,
  RECORD_SHIFT,
  arenaBytes,
  formatArena,
  viewArena,
} from '../src/dataplane/layout.js'
import { Pool } from '../src/dataplane/burst.js'
import { Loop } from '../src/dataplane/loop.js'
import { type CompiledPort, PORT_GATEWAY, PORT_GUARDED, PORT_LINK } from '../src/dataplane/port-table.js'
import { TIMEOUTS } from '../src/dataplane/router/conntrack.js'
import { FILTER_ADDRESS_AND_PORT } from '../src/dataplane/router/router-table.js'
import { parseRules } from '../src/control/rule.js'
import { compileRules, defaultPolicies } from '../src/control/rule-compile.js'
import {
  FLAG_ACK,
  FLAG_SYN,
  LAN_MAC,
  MAC_HIGH_HALF,
  RoutedTreadmill,
  Shape,
  UPLINK_DEVICE,
  UPLINK_MAC,
  WORDS,
} from './routed-treadmill.js'
import { type Stand, randomFrom } from './treadmill.js'

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
const UPLINK_GATEWAY = 2 // ports: the uplink's device, the router's two, then the guests
const LAN_GATEWAY = 3
const FIRST_GUEST = 4
const OUTSIDE_MAC = 0x03000000
const LAN_IP = 0x0a000001
const UPLINK_IP = 0xc6336402 | 0 // 198.51.100.2
const OUTSIDE_IP = 0xc6336401 | 0
const SERVERS = 0xcb000000 | 0 // 203.0.0.0 and on, behind the outside
const SERVER_PORT = 80
const FIRST_PORT = 20000

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
