/**
 * Moves running networks from one shard to another, live.
 *
 *   1  what they ask of their shard waits (`carrier.ts`), what their devices have to tell of themselves too; the other
 *      shard is told their configuration
 *   2  their shard lets go of the devices: frames wait in the devices' own queues
 *   3  tables are carried over (`table-transfer.ts`), the rows of counters copied, captures follow
 *   4  the other shard carries them: what waited goes there, the devices are attached
 *   5  the first shard forgets them
 *
 * Frames stand still from 2 to 4. Devices stay open all the time, so no guest, host or LAN sees a link change; leases
 * and services are the control process's and do not move. What was lost: packets that waited in the old shard for a
 * neighbor or a fragment, and what waited there for a guest that is slow to read (its port's queue); the first are
 * counted.
 *
 * A shard that is being replaced is waited for. If anything fails before 4, a shard that ends among it, the networks go
 * on where they were. A shard that has been replaced meanwhile is told by its `incarnation`; it forgets what it has of
 * networks that are not its own when it is restored (`fabric.ts`). Failures after 4 concern the old shard alone, and
 * are made good in the same way.
 */
import type { ActiveNetwork } from './active-network.js'
import type { ActivePort } from './active-port.js'
import type { Captures } from './captures.js'
import { Failure } from './failure.js'
import { clearRows, copyRows } from './port-rows.js'
import type { Shard } from './shard.js'
import { emptyNetwork } from './snapshot.js'
import { type Refused, carryTables, discardTables } from './table-transfer.js'

/** How long a shard that is being replaced is waited for. */
const PATIENCE_MILLIS = 10_000

/** What moves, by its numbers. */
interface Cargo {
  networks: readonly ActiveNetwork[]
  /** the networks' own, and the hidden ones of their uplinks */
  segments: number[]
  /** of those that have a router */
  zones: number[]
  /** rows of counters */
  ports: number[]
  devices: ActivePort[]
}

/**
 * Moves networks that one shard carries. Resolves when the other one does, with what it had no room for.
 * @throws Failure: they are where they were
 */
export async function moveNetworks(
  networks: readonly ActiveNetwork[],
  to: Shard,
  captures: Captures,
): Promise<Refused> {
  const carriers = networks.map(({ carrier }) => carrier)
  const from = carriers[0].shard
  const names = networks.map(({ definition }) => definition.name).join(', ')
  const refusal = (reason: string): Failure =>
    new Failure('ERR_IO', `network ${names}: stays on shard ${from.index}: ${reason}`)
  for (const shard of [from, to]) if (!(await isWhole(shard))) throw refusal(`shard ${shard.index}: is being restarted`)
  const began = [from.incarnation, to.incarnation]
  for (const carrier of carriers) carrier.hold()
  const cargo = cargoOf(networks)
  const { devices } = cargo
  for (const device of devices) device.suspend()
  let refused: Refused
  try {
    await prepare(to, cargo)
    await halt(from, cargo)
    refused = await carryTables(from, to, cargo.segments)
    for (const port of cargo.ports) copyRows(from.arena, to.arena, port)
    await copyRuleCounters(from, to, cargo)
    requireSame(from, began[0])
    await captures.follow(carriers, from, to)
    if (to.incarnation !== began[1]) await captures.follow(carriers, to, from).catch(none)
    requireSame(to, began[1])
  } catch (error) {
    await halt(from, cargo).catch(none) // they are attached anew, also if it had not come so far
    for (const carrier of carriers) carrier.letGo(from)
    for (const device of devices) device.resume()
    await clear(to, cargo).catch(none)
    throw refusal(error instanceof Error ? error.message : String(error))
  }
  for (const carrier of carriers) carrier.letGo(to)
  for (const device of devices) device.resume()
  for (const network of networks) await network.restore().catch(none)
  await clear(from, cargo).catch(none)
  return refused
}

/** Waits for a shard that is being replaced; false: in vain. */
async function isWhole(shard: Shard): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), PATIENCE_MILLIS)
  })
  try {
    return await Promise.race([shard.whole().then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}

function cargoOf(networks: readonly ActiveNetwork[]): Cargo {
  const ports = networks.flatMap((network) => [...network.ports.values()].map(({ number }) => number))
  return {
    networks,
    segments: networks.flatMap((network) => network.segments()),
    zones: networks.filter(({ router }) => router !== null).map(({ number }) => number),
    ports: [...ports, ...networks.flatMap(({ router }) => router?.ports() ?? [])],
    devices: networks.flatMap((network) => network.devices()),
  }
}

/** Tells a shard the configuration; of what it may have kept of the same numbers nothing is left. */
async function prepare(shard: Shard, { networks, segments }: Cargo): Promise<void> {
  await discardTables(shard, segments)
  for (const network of networks) {
    await shard.ask({ do: 'configure', network: network.compile() })
    const uplink = network.router?.uplinkNetwork()
    if (uplink) await shard.ask({ do: 'configure', network: uplink })
  }
  for (const { number, router } of networks)
    if (router !== null) await shard.ask({ do: 'router', zone: number, router: router.compile() })
}

async function halt(shard: Shard, { segments, ports }: Cargo): Promise<void> {
  await shard.ask({ do: 'halt', segments, ports })
}

async function clear(shard: Shard, { segments, zones, ports }: Cargo): Promise<void> {
  await discardTables(shard, segments)
  for (const zone of zones) await shard.ask({ do: 'router', zone, router: null })
  for (const segment of segments) await shard.ask({ do: 'configure', network: emptyNetwork(segment) })
  for (const port of ports) clearRows(shard.arena, port)
}

async function copyRuleCounters(from: Shard, to: Shard, { zones }: Cargo): Promise<void> {
  for (const zone of zones) {
    const counters = await from.askList({ do: 'rules', zone })
    if (typeof counters !== 'number') await to.ask({ do: 'count', zone, counters })
  }
}

function requireSame(shard: Shard, incarnation: number): void {
  if (shard.incarnation !== incarnation) throw new Failure('ERR_IO', `shard ${shard.index}: its process ended`)
}

const none = (): undefined => undefined
