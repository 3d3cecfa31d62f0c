/**
 * `npm run bench`: Weft beside other switches, measured in one run on one machine.
 *
 *   npm run bench -- [--rounds 3] [--seconds 3] [--only NAME,NAME] [--congestion NAME,NAME] [--size 64] [--sources 1]
 *                    [--udp] [--json FILE] [--install]
 *   npm run bench -- --nat | --connections | --services | --shards | --vhost | --all     other parts; --all: these and
 *                                          switching
 *   npm run bench -- micro [OPTIONS]       the cost of a decision alone (bench/decision.ts)
 *
 * A round starts each contender afresh, two hosts in namespaces on it, warms it up for a second, and measures TCP and
 * small frames (measure.ts says how). Rounds are interleaved and the order rotates from round to round, so that noise
 * of the machine and of neighbours falls on all alike; figures are medians and, better, ratios (report.ts). At the end
 * the idle CPU use of Weft with eight hosts is taken. A contender whose programs are missing is named and skipped
 * (`--install` fetches the Debian packages, packages.ts); one that fails is named with its error and the others go on.
 * The exit status is 0 if all that were not skipped were measured, else 1.
 *
 * The other parts run in the same manner: `--nat` routes TCP and small frames through NAT and firewall, `--connections`
 * opens TCP connections there (routing.ts), `--services` asks DHCP and DNS (services.ts), `--shards` passes TCP in two
 * networks on one shard and on two (shards.ts), `--vhost` has guests' memory at both ends (vhost.ts, vhost-guests.ts).
 * Each has tables of its own. `--only` goes for their candidates, too.
 *
 * It needs root, iproute2, iperf3, a C compiler; everything happens in network namespaces of its own (topology.ts).
 * By default each part is done in under five minutes, the three of `--vhost` in about fifteen together. Figures of
 * other load: `--size 1514`, `--sources 1000` (MAC addresses), `--udp` (IPv4 datagrams in place of frames of an
 * experimental Ethertype).
 */
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { program, root } from './compile.js'
import type { Contender } from './contenders/contender.js'
import { copyLoop } from './contenders/copy-loop.js'
import { kernelBridge } from './contenders/kernel-bridge.js'
import { openVswitch } from './contenders/open-vswitch.js'
import { vdeSwitch } from './contenders/vde-switch.js'
import { weft } from './contenders/weft.js'
import { type Load, availableCongestion, defaultCongestion, frames, idle, pathOf, setUp, tcp } from './measure.js'
import { find } from '../test/rig/unpacked.js'
import { unpackMissing } from './packages.js'
import { type Part, type PartResult, partLines, partTable, runPart } from './parts.js'
import { type Result, lines, table } from './report.js'
import { connectionsPart, natPart } from './routing.js'
import { dhcpPart, dnsPart } from './services.js'
import { shardsPart } from './shards.js'
import { removeLeftovers } from './topology.js'
import { vhostNatPart, vhostPart } from './vhost.js'
import { vhostGuestsPart } from './vhost-guests.js'

const CONTENDERS: Contender[] = [weft, copyLoop, kernelBridge, vdeSwitch, openVswitch]
const WARM_UP_SECONDS = 1
const IDLE_SECONDS = 5
const IDLE_PORTS = 8

interface Plan {
  readonly rounds: number
  readonly seconds: number
  readonly congestions: string[]
  readonly load: Load
  readonly contenders: Contender[]
  readonly json: string | undefined
  readonly parts: Part[]
  /** the part that measures switching, too */
  readonly isSwitched: boolean
}

class Usage extends Error {}

const [first, ...rest] = process.argv.slice(2)
process.exitCode = first === 'micro' ? micro(rest) : await main(process.argv.slice(2))

async function main(args: string[]): Promise<number> {
  let plan: Plan
  try {
    plan = parse(args)
  } catch (error) {
    console.error(`bench: ${message(error)}`)
    return error instanceof Usage ? 2 : 1
  }
  for (const name of removeLeftovers()) note(`removed ${name}, left by a bench that was killed`)
  const load = loadavg()[0] ?? 0
  if (load > 0.5) note(`the machine is not quiet (load ${load.toFixed(1)}): trust the ratios, not the figures`)
  const results = plan.isSwitched ? await measureSwitching(plan) : []
  const others: PartResult[] = []
  for (const part of plan.parts) others.push(await runPart(part, plan, note))
  report(plan, results, others)
  const isSwitchingWhole = results.every(({ name, skipped }) => skipped === null || skipped === missing(name))
  return isSwitchingWhole && others.every(({ isBroken }) => !isBroken) ? 0 : 1
}

async function measureSwitching(plan: Plan): Promise<Result[]> {
  await Promise.all([program('copy-loop'), program('frame-generator')])
  const results = plan.contenders.map(begin)
  for (let round = 0; round < plan.rounds; round++) {
    for (let i = 0; i < results.length; i++) {
      const turn = (i + round) % results.length
      const [contender, result] = [plan.contenders[turn], results[turn]]
      if (contender !== undefined && result?.skipped === null) await measure(plan, contender, result, round)
    }
  }
  await measureIdle(results)
  return results
}

function parse(args: string[]): Plan {
  const string = { type: 'string' } as const
  const options = {
    rounds: string,
    seconds: string,
    only: string,
    congestion: string,
    size: string,
    sources: string,
    udp: { type: 'boolean' },
    json: string,
    install: { type: 'boolean' },
    nat: { type: 'boolean' },
    connections: { type: 'boolean' },
    services: { type: 'boolean' },
    shards: { type: 'boolean' },
    vhost: { type: 'boolean' },
    all: { type: 'boolean' },
  } as const
  const values = ((): ReturnType<typeof parseArgs<{ options: typeof options }>>['values'] => {
    try {
      return parseArgs({ args, options }).values
    } catch (error) {
      throw new Usage(message(error), { cause: error })
    }
  })()
  const natural = (name: 'rounds' | 'seconds' | 'size' | 'sources', otherwise: number, most: number): number => {
    const value = Number(values[name] ?? otherwise)
    if (!Number.isInteger(value) || value < 1 || value > most) {
      throw new Usage(`--${name}: ${values[name]} is not 1..${most}`)
    }
    return value
  }
  const congestions = values.congestion?.split(',') ?? [...new Set(['cubic', defaultCongestion()])]
  const available = availableCongestion()
  const unknown = congestions.find((name) => !available.includes(name))
  if (unknown !== undefined) throw new Usage(`--congestion: ${unknown} is not one of ${available.join(', ')}`)
  const parts = partsOf(values, congestions)
  const isPart = values.nat || values.connections || values.services || values.shards || values.vhost
  const isSwitched = values.all === true || !isPart
  const chosen = choose(values.only?.split(','), isSwitched ? CONTENDERS : [], parts)
  const plan = {
    rounds: natural('rounds', 3, 100),
    seconds: natural('seconds', 3, 3600),
    congestions,
    load: { sizeBytes: natural('size', 64, 9000), sources: natural('sources', 1, 65536), udp: values.udp === true },
    json: values.json,
    isSwitched,
    ...chosen,
  }
  if (process.getuid?.() !== 0) throw new Error('needs root: it makes network namespaces and TAP devices')
  if (values.install === true) {
    const unpacked = unpackMissing()
    note(unpacked.length === 0 ? 'nothing to fetch' : `fetched and unpacked: ${unpacked.join(' ')}`)
  }
  for (const needed of ['ip', 'ps', 'ping', 'iperf3']) {
    if (find(needed) === null) throw new Error(`${needed} is missing`)
  }
  return plan
}

type PartName = 'nat' | 'connections' | 'services' | 'shards' | 'vhost'
type Chosen = Partial<Record<'all' | PartName, boolean>>

function partsOf({ all, nat, connections, services, shards, vhost }: Chosen, congestions: string[]): Part[] {
  return [
    ...(all || nat ? [natPart(congestions)] : []),
    ...(all || connections ? [connectionsPart()] : []),
    ...(all || services ? [dhcpPart(), dnsPart()] : []),
    ...(all || shards ? [shardsPart(congestions)] : []),
    ...(all || vhost ? [vhostPart(), vhostNatPart(), vhostGuestsPart()] : []),
  ]
}

/** Those of the names alone; a part of which none is left is not run. */
function choose(
  named: string[] | undefined,
  contenders: Contender[],
  parts: Part[],
): { contenders: Contender[]; parts: Part[] } {
  if (named === undefined) return { contenders, parts }
  const known = [...contenders, ...parts.flatMap(({ candidates }) => candidates)].map(({ name }) => name)
  const stranger = named.find((name) => !known.includes(name))
  if (stranger !== undefined) throw new Usage(`--only: ${stranger} is not one of ${[...new Set(known)].join(', ')}`)
  const isNamed = ({ name }: { name: string }): boolean => named.includes(name)
  return {
    contenders: contenders.filter(isNamed),
    parts: parts
      .map((part) => ({ ...part, candidates: part.candidates.filter(isNamed) }))
      .filter(({ candidates }) => candidates.length > 0),
  }
}

function begin(contender: Contender): Result {
  const skipped = contender.missing()
  if (skipped !== null) note(`${contender.name}: skipped: ${skipped}`)
  const { name, description } = contender
  return { name, description, skipped, tcp: new Map(), frames: [], idlePercent: null }
}

async function measure(plan: Plan, contender: Contender, result: Result, round: number): Promise<void> {
  const said: string[] = []
  try {
    const setup = await setUp(contender, 2)
    try {
      const path = pathOf(setup)
      await tcp(path, WARM_UP_SECONDS, plan.congestions[0] ?? 'cubic')
      for (const congestion of plan.congestions) {
        const figure = await tcp(path, plan.seconds, congestion)
        result.tcp.set(congestion, [...(result.tcp.get(congestion) ?? []), figure])
        said.push(`tcp ${congestion} ${figure.gbitPerSecond.toFixed(2)} Gbit/s`)
      }
      const figure = await frames(path, plan.seconds, plan.load)
      result.frames.push(figure)
      said.push(`frames ${figure.millionPerSecond.toFixed(3)} million/s, lost ${figure.lostPercent.toFixed(1)} %`)
    } finally {
      await setup.topology.close()
    }
  } catch (error) {
    result.skipped = `failed: ${message(error)}`
    said.push(result.skipped)
  }
  note(`round ${round + 1} of ${plan.rounds}: ${contender.name}: ${said.join('; ')}`)
}

async function measureIdle(results: Result[]): Promise<void> {
  const result = results.find((each) => each.name === weft.name)
  if (result?.skipped !== null) return
  try {
    const setup = await setUp(weft, IDLE_PORTS)
    try {
      result.idlePercent = await idle(setup, IDLE_SECONDS)
    } finally {
      await setup.topology.close()
    }
  } catch (error) {
    result.skipped = `idle with ${IDLE_PORTS} ports failed: ${message(error)}`
    note(`${result.name}: ${result.skipped}`)
  }
}

function report(plan: Plan, results: Result[], others: PartResult[]): void {
  const model = cpus()[0]?.model.trim() ?? 'unknown CPU'
  const machine = `${cpus().length} x ${model}, Linux ${release()}, Node ${process.version}`
  const { sizeBytes, sources, udp } = plan.load
  const load = `${udp ? 'UDP' : 'plain'} frames of ${sizeBytes} bytes from ${sources} address${sources > 1 ? 'es' : ''}`
  const conditions = `${plan.rounds} rounds of ${plan.seconds} s, medians${results.length > 0 ? `, ${load}` : ''}`
  console.log(`\n${machine}; ${conditions}\n`)
  if (results.length > 0) console.log(`${table(results, plan.congestions)}\n`)
  for (const { name, skipped } of results) if (skipped !== null) console.log(`${name}: ${skipped}`)
  for (const other of others) {
    console.log(`${other.part.title}\n\n${partTable(other)}\n`)
    for (const [name, reason] of other.skipped) console.log(`${name}: ${reason}`)
  }
  const figures = [...lines(results), ...others.flatMap(partLines)]
  for (const { name, value, unit } of figures) console.log(`${name} ${Number(value.toPrecision(4))} ${unit}`)
  if (plan.json === undefined) return
  const contenders = [
    ...results.map(({ name, description, skipped }) => ({ name, description, skipped })),
    ...others.flatMap(({ part, skipped }) =>
      part.candidates.map(({ name, description }) => ({ name, description, skipped: skipped.get(name) ?? null })),
    ),
  ]
  const document = { date: new Date().toISOString(), machine, conditions, contenders, figures }
  writeFileSync(plan.json, `${JSON.stringify(document, null, 2)}\n`)
}

function micro(args: string[]): number {
  const script = join(root, 'dist/bench/decision.js')
  if (!existsSync(script)) {
    console.error('bench: dist/bench/decision.js is missing (npm run build)')
    return 1
  }
  return spawnSync(process.execPath, [...process.execArgv, script, ...args], { stdio: 'inherit' }).status ?? 1
}

function missing(name: string): string | null {
  return CONTENDERS.find((contender) => contender.name === name)?.missing() ?? null
}

function note(text: string): void {
  console.error(`bench: ${text}`)
}

function message(error: unknown): string {
  return error instanceof Error ? error.message.trim() : String(error)
}
