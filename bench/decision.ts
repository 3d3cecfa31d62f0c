/**
 * What Weft's decision on a frame costs: nanoseconds of the whole pipeline, switching and routing, without any device.
 *
 *   node dist/bench/decision.js                                   `name value unit` lines, all cases
 *   node dist/bench/decision.js many                              the cases whose name begins with a word
 *   node dist/bench/decision.js nat --brief                       the same, in bursts of 64 only
 *   node dist/bench/decision.js --gc-check                        10 s of load; exit 1 if a garbage collection is seen
 *   node --trace-deopt dist/bench/decision.js --gc-check          the same; a line between "load" and "end" is a
 *                                                                 deoptimization after warm-up and must not be there
 *   node --cpu-prof --cpu-prof-dir=/tmp dist/bench/decision.js many    where the time goes
 *
 * The loop of a shard (`Loop.turn`) runs over a driver that costs next to nothing (treadmill.ts). That cost is measured
 * by itself, with the same frames, and subtracted: "decision" is the turn, less "driver". No frame is dropped
 * (checked), so the pool stays as it is.
 *
 * Cases: `few` is 2 ports with one address each, in runs of 32 frames; `alternating` the same, each frame from the
 * other port, as no device gives them. `many` is 1,000 ports and 100,000 addresses, each frame between two of them at
 * random, so that nearly every frame comes by another port and no entry is warm: the worst there is. `hot` has the same
 * table, and 64 conversations that come in runs of 8 frames, as traffic does. `tagged` is `few` between trunks, each
 * frame with a tag to be popped. `flood` is a group address to 8 other ports. `attack` is a full table with a new
 * source address in each frame, so that each learns and evicts; it is no case of the 30 ns, but must stay bounded.
 *
 * Through NAT and firewall (decision-routed.ts), frames of established connections, half of them answers: `nat` and
 * `nat-tcp` are one connection in runs of 32 frames, as `few`; `nat-64` 64 of 8 guests in runs of 8, as `hot`;
 * `nat-each` the same, each frame of another connection than the last; `nat-1k` and `nat-1m` 1,000 and 1,000,000
 * connections of 64 guests, each frame of one at random. "more" is what they cost beyond switching.
 *
 * Seeded; timed by package `benchmark`, see `nanoseconds`.
 */
import { PerformanceObserver } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import Benchmark from 'benchmark'
import { Pool } from '../src/dataplane/burst.js'
import { DEFAULT_GEOMETRY, HEADER_FDB_USED, arenaBytes, formatArena, viewArena } from '../src/dataplane/layout.js'
import { Loop } from '../src/dataplane/loop.js'
import { type CompiledPort, PORT_LINK, PORT_VLAN_AWARE } from '../src/dataplane/port-table.js'
import { type RoutedCase, buildRouted, routedCases } from './decision-routed.js'
import { SEQUENCE, type Sequence, type Stand, Treadmill, randomFrom } from './treadmill.js'

const BURSTS = [1, 8, 32, 64, 256]
/** Shorter than the scheduler's slice, so that on a shared machine some samples are undisturbed. */
const SAMPLE_SECONDS = 0.002
const CASE_SECONDS = 0.4
const MANY_PORTS = 1000
const MANY_ADDRESSES = 100_000
const GC_SECONDS = 10
const WARM_SECONDS = 8

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
  return { loop, driver, drops: () => arena.drops.reduce((sum, drops) => sum + drops, 0) }
}

function stand(kase: Case | RoutedCase, burst: number): Stand {
  return 'flows' in kase ? buildRouted(kase, burst) : build(kase, burst)
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

function measure(kase: Case | RoutedCase, burst: number): number {
  const { loop, driver, drops } = stand(kase, burst)
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
  const words = wanted.filter((word) => !word.startsWith('--'))
  const bursts = wanted.includes('--brief') ? [64] : BURSTS
  const chosen = [...cases, ...routedCases].filter(
    ({ name }) => words.length === 0 || words.some((word) => name.startsWith(word)),
  )
  for (const burst of bursts) {
    for (const kase of chosen) results.set(kase.name, measure(kase, burst))
    // alike in their order, unlike in their tables
    for (const [name, other] of [
      ['many', 'alternating'],
      ['hot', 'few'],
      ['nat-1m', 'nat-1k'],
    ] as const) {
      const [one, two] = [results.get(name), results.get(other)]
      if (one !== undefined && two !== undefined) say(`ratio/${name}-to-${other}/burst-${burst}`, one / two, 'times')
    }
    // alike in their order: what the router adds
    for (const [name, other] of [
      ['nat', 'few'],
      ['nat-tcp', 'few'],
      ['nat-64', 'hot'],
    ] as const) {
      const [one, two] = [results.get(name), results.get(other)]
      if (one !== undefined && two !== undefined)
        say(`more/${name}-than-${other}/burst-${burst}`, one - two, 'ns/frame')
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
  const stands = [...cases, ...routedCases].map((kase) => stand(kase, 64))
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
