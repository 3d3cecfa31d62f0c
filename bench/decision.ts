/**
 * What Weft decides a frame costs: nanoseconds of the whole pipeline for L2, without any device.
 *
 *   node dist/bench/decision.js                                   `name value unit` lines, all cases
 *   node dist/bench/decision.js many                              the cases whose name contains a word
 *   node dist/bench/decision.js --gc-check                        10 s of load; exit 1 if a garbage collection is seen
 *   node --trace-deopt dist/bench/decision.js --gc-check          the same; a line between "load" and "end" is a
 *                                                                 deoptimization after warm-up and must not be there
 *   node --cpu-prof --cpu-prof-dir=/tmp dist/bench/decision.js many    where the time goes
 *
 * The loop of a shard (`Loop.turn`) runs over a driver that costs next to nothing: its frames lie ready in the pool, a
 * receive call writes their addresses, resets their records and lists them, a transmit call throws the pairs away. That
 * cost is measured by itself, with the same frames, and subtracted: "decision" is the turn, less "driver". No frame is
 * dropped (checked), so the pool stays as it is.
 *
 * Cases: `few` is 2 ports with one address each, in runs of 32 frames; `alternating` the same, each frame from the
 * other port, as no device gives them. `many` is 1,000 ports and 100,000 addresses, each frame between two of them at
 * random, so that nearly every frame comes by another port and no entry is warm: the worst there is. `hot` has the same
 * table, and 64 conversations that come in runs of 8 frames, as traffic does. `tagged` is `few` between trunks, each
 * frame with a tag to be popped. `flood` is a group address to 8 other ports. `attack` is a full table with a new
 * source address in each frame, so that each learns and evicts; it is no case of the 30 ns, but must stay bounded.
 *
 * Seeded; timed by package `benchmark`, see `nanoseconds`. The clock of the
 * FDB advances a second every FRAMES_A_SECOND frames, so that refreshing entries is part of the cost.
 */
import { PerformanceObserver } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import Benchmark from 'benchmark'
import {
  type Arena,
  BURST_CAPACITY,
  DEFAULT_GEOMETRY,
  HEADER_FDB_USED,
  HEADER_NOW,
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
import { type CompiledPort, PORT_LINK, PORT_VLAN_AWARE } from '../src/dataplane/port-table.js'

const BURSTS = [1, 8, 32, 64, 256]
/** Shorter than the scheduler's slice, so that on a shared machine some samples are undisturbed. */
const SAMPLE_SECONDS = 0.002
const CASE_SECONDS = 0.4
const MANY_PORTS = 1000
const MANY_ADDRESSES = 100_000
const FRAME_BYTES = 60
/** Frames that the driver goes through before it begins again; a power of two. */
const SEQUENCE = 1 << 17
/** Frames between two seconds of the FDB's clock: few, so that warm-up sees many seconds. */
const FRAMES_A_SECOND = 500_000
/** Bytes before a frame where the driver keeps the frame's first 16 bytes as they were. */
const TEMPLATE = 32
const GC_SECONDS = 10
const WARM_SECONDS = 8

/** mulberry32: 32 random bits a call. */
function randomFrom(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (t ^ (t >>> 14)) >>> 0
  }
}

/** The frames of a case: by which port each comes, and the lower halves of its two addresses. */
interface Sequence {
  ingress: Int32Array
  source: Int32Array
  destination: Int32Array
}

/** Lists frames that lie ready, and forgets what it is to send. */
class Treadmill implements Driver {
  sent = 0
  private readonly arena: Arena
  private readonly halves: Uint16Array
  private readonly packets = new Int32Array(BURST_CAPACITY)
  private readonly frames = new Int32Array(BURST_CAPACITY)
  private readonly burst: number
  private readonly sequence: Sequence
  private readonly tagged: boolean
  private next = 0
  private untilSecond = FRAMES_A_SECOND

  constructor(arena: Arena, pool: Pool, burst: number, sequence: Sequence, head: number[]) {
    this.arena = arena
    this.halves = new Uint16Array(arena.buffer)
    this.burst = burst
    this.sequence = sequence
    this.tagged = head[12] === 0x81
    for (let i = 0; i < BURST_CAPACITY; i++) {
      const packet = pool.take(FRAME_BYTES)
      const frame = arena.records[(packet << RECORD_SHIFT) + OFFSET]
      this.packets[i] = packet
      this.frames[i] = frame
      arena.bytes.set(head, frame)
      arena.bytes.set(head, frame - TEMPLATE)
    }
  }

  receive(): number {
    const { halves, burst, sequence, packets, frames } = this
    const { records, bytes } = this.arena
    const { ingress, source, destination } = sequence
    const listed = this.arena.burst
    for (let i = 0; i < burst; i++) {
      const at = (this.next + i) & (SEQUENCE - 1)
      const packet = packets[i]
      const frame = frames[i]
      const record = packet << RECORD_SHIFT
      if (this.tagged) bytes.copyWithin(frame, frame - TEMPLATE, frame - TEMPLATE + 16)
      const half = frame >> 1
      halves[half + 1] = destination[at]
      halves[half + 2] = destination[at] >>> 16
      halves[half + 4] = source[at]
      halves[half + 5] = source[at] >>> 16
      records[record + OFFSET] = frame
      records[record + LENGTH] = FRAME_BYTES
      records[record + INGRESS] = ingress[at]
      records[record + TAG] = 0
      records[record + REFERENCES] = 1
      listed[i] = packet
    }
    this.next = (this.next + burst) & (SEQUENCE - 1)
    this.untilSecond -= burst
    if (this.untilSecond <= 0) {
      this.untilSecond += FRAMES_A_SECOND
      this.arena.header[HEADER_NOW] += 1
    }
    return burst
  }

  transmit(pairs: number): void {
    this.sent += pairs
  }
}

interface Case {
  name: string
  ports: number
  addresses: number
  /** ends of the frame at a place of the sequence, as numbers of addresses; destination -1: a group */
  ends(at: number, random: () => number): [source: number, destination: number]
  tagged?: boolean
  attack?: boolean
}

/** Runs of 32 frames, as a receive call takes them from a port that is busy. */
const runs = (at: number): [number, number] => ((at >> 5) & 1 ? [1, 0] : [0, 1])
const alternating = (at: number): [number, number] => [at & 1, (at & 1) ^ 1]
const hotFrom = (random: () => number): [number, number][] =>
  Array.from({ length: 64 }, () => {
    const one = random() % MANY_ADDRESSES
    return [one, (one + 1 + (random() % (MANY_PORTS - 1))) % MANY_ADDRESSES] // never at the same port
  })
const hotPairs = hotFrom(randomFrom(7))

const cases: Case[] = [
  { name: 'few', ports: 2, addresses: 2, ends: runs },
  { name: 'alternating', ports: 2, addresses: 2, ends: alternating },
  {
    name: 'many',
    ports: MANY_PORTS,
    addresses: MANY_ADDRESSES,
    ends(_, random) {
      const one = random() % MANY_ADDRESSES
      return [one, (one + 1 + (random() % (MANY_PORTS - 1))) % MANY_ADDRESSES]
    },
  },
  { name: 'hot', ports: MANY_PORTS, addresses: MANY_ADDRESSES, ends: (at) => hotPairs[(at >> 3) & 63] },
  { name: 'tagged', ports: 2, addresses: 2, ends: runs, tagged: true },
  { name: 'flood', ports: 9, addresses: 9, ends: () => [0, -1] },
  {
    name: 'attack',
    ports: MANY_PORTS,
    addresses: MANY_ADDRESSES,
    ends: (_, random) => [MANY_ADDRESSES * 2 + (random() % 4_000_000) * MANY_PORTS, random() % 1000],
    attack: true,
  },
]

/** Low half of an address, multiplied so that addresses look like those of many makers. */
const low = (address: number): number => Math.imul(address + 1, 0x9e3779b1)
const HIGH_OCTETS = [0x52, 0x54]
const VID = 10

interface Stand {
  loop: Loop
  driver: Treadmill
  arena: Arena
  drops(): number
}

function build(kase: Case, burst: number): Stand {
  const random = randomFrom(kase.ports + burst)
  const buffer = new ArrayBuffer(arenaBytes(DEFAULT_GEOMETRY))
  formatArena(buffer, DEFAULT_GEOMETRY)
  const arena = viewArena(buffer)
  const pool = new Pool(arena)
  pool.reset()

  const portOf = (address: number): number => address % kase.ports
  const sequence: Sequence = {
    ingress: new Int32Array(SEQUENCE),
    source: new Int32Array(SEQUENCE),
    destination: new Int32Array(SEQUENCE),
  }
  const group = kase.name === 'flood'
  for (let at = 0; at < SEQUENCE; at++) {
    const [source, destination] = kase.ends(at, random)
    sequence.ingress[at] = kase.attack ? 1 : portOf(source)
    sequence.source[at] = low(source)
    sequence.destination[at] = group ? 0x01020304 : low(destination === 1 && kase.attack ? 2 : destination)
  }
  const type = kase.tagged ? [0x81, 0, 0x60, VID, 8, 0] : [8, 0]
  const head = [group ? 0x33 : HIGH_OCTETS[0], group ? 0x33 : HIGH_OCTETS[1], 0, 0, 0, 0, ...HIGH_OCTETS, 0, 0, 0, 0]
  const driver = new Treadmill(arena, pool, burst, sequence, [...head, ...type])

  const loop = new Loop(arena, driver, DEFAULT_GEOMETRY.ports, Int32Array.of(11, 0x5851f42d, 0x14057b7e, 0x2545f491))
  const ports = Array.from(
    { length: kase.ports },
    (_, port): CompiledPort => ({
      port,
      flags: PORT_LINK | (kase.tagged ? PORT_VLAN_AWARE : 0),
      mtu: 1500,
      pvid: kase.tagged ? 1 : 0,
      vids: kase.tagged ? [[1, VID]] : [],
      offloads: 0,
      macLimit: 1 << 20,
    }),
  )
  loop.pipeline.ports.configure({ network: 0, agingSeconds: 300, ports })
  const keyHigh = HIGH_OCTETS[0] | (HIGH_OCTETS[1] << 8) | ((kase.tagged ? VID : 0) << 16)
  const { fdb } = loop.pipeline
  const learn = (address: number): void =>
    fdb.learn(fdb.place(low(address), keyHigh, 0), low(address), keyHigh, 0, portOf(address), 0)
  for (let address = 0; address < kase.addresses; address++) learn(address)
  if (kase.attack)
    for (let i = 0; arena.header[HEADER_FDB_USED] < DEFAULT_GEOMETRY.fdbCapacity >> 1; i++) learn(i * MANY_PORTS + 1)
  return { loop, driver, arena, drops: () => arena.drops.reduce((sum, drops) => sum + drops, 0) }
}

/** Nanoseconds a call: that of the quickest tenth of many short samples, the others having been interrupted. */
function nanoseconds(work: () => void): number {
  const bench = new Benchmark(work, { minTime: SAMPLE_SECONDS, maxTime: CASE_SECONDS, minSamples: 50 }).run()
  const sample = bench.stats.sample.toSorted((a, b) => a - b)
  return sample[Math.floor(sample.length / 10)] * 1e9
}

function say(name: string, value: number, unit: string): void {
  process.stdout.write(`${name} ${value.toFixed(1)} ${unit}\n`)
}

function measure(kase: Case, burst: number): number {
  const { loop, driver, drops } = build(kase, burst)
  const turn = (): void => void loop.turn(0)
  const bare = (): void => void driver.receive()
  for (let frames = 0; frames < 1 << 19; frames += burst) turn()
  const whole = nanoseconds(turn) / burst
  const alone = nanoseconds(bare) / burst
  if (driver.sent === 0 || drops() > 0) throw new Error(`${kase.name}: ${driver.sent} sent, ${drops()} dropped`)
  const decision = whole - alone
  say(`decision/${kase.name}/burst-${burst}`, decision, 'ns/frame')
  say(`driver/${kase.name}/burst-${burst}`, alone, 'ns/frame')
  return decision
}

function compare(wanted: readonly string[]): void {
  const results = new Map<string, number>()
  const chosen = cases.filter(({ name }) => wanted.length === 0 || wanted.some((word) => name.includes(word)))
  for (const burst of BURSTS) {
    for (const kase of chosen) results.set(kase.name, measure(kase, burst))
    // alike in their order, unlike in their tables
    for (const [name, other] of [
      ['many', 'alternating'],
      ['hot', 'few'],
    ] as const) {
      const [one, two] = [results.get(name), results.get(other)]
      if (one !== undefined && two !== undefined) say(`ratio/${name}-to-${other}/burst-${burst}`, one / two, 'times')
    }
  }
}

function turnsFor(seconds: number, stands: readonly Stand[]): number {
  let turns = 0
  for (const end = performance.now() + seconds * 1000; performance.now() < end; )
    for (let i = 0; i < stands.length; i++) for (let j = 0; j < 1000; j++) turns += stands[i].loop.turn(0) > 0 ? 1 : 0
  return turns
}

/** Runs all cases in turns; true if no garbage was collected after warm-up. */
async function isFreeOfGarbage(): Promise<boolean> {
  const seen: string[] = []
  const note = (list: { getEntries(): { startTime: number; duration: number }[] }): void => {
    for (const { startTime, duration } of list.getEntries())
      seen.push(`${startTime.toFixed(0)} ms: ${duration.toFixed(2)} ms`)
  }
  const stands = cases.map((kase) => build(kase, 64))
  turnsFor(WARM_SECONDS, stands)
  await sleep(100) // what the set-up left behind is told now, before the observer listens
  const observer = new PerformanceObserver(note)
  observer.observe({ entryTypes: ['gc'] })
  process.stdout.write('load\n')
  const turns = turnsFor(GC_SECONDS, stands)
  process.stdout.write('end\n')
  await sleep(100)
  observer.disconnect()
  say('turns', turns, 'turns')
  say('collections', seen.length, 'collections')
  for (const each of seen) process.stdout.write(`collected at ${each}\n`)
  return seen.length === 0
}

const words = process.argv.slice(2)
if (words.includes('--gc-check')) process.exitCode = (await isFreeOfGarbage()) ? 0 : 1
else compare(words)
