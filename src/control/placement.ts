/**
 * Which shard carries which network. Pure.
 *
 * A network lives whole in one shard, its router and uplink with it, and so do networks that routes by way of one
 * another link (`weft route add … via NETWORK`): a routed packet goes from one to the other in one walk. Such a group
 * moves as one.
 *
 * The shard is chosen when a network starts: the one that it is pinned to; else that of a network it is linked with, a
 * pinned one's first, then that with most ports; else the shard with the fewest ports, then the fewest networks, then
 * the lowest number. Afterwards it stays, whatever comes and goes, until it is pinned elsewhere or linked.
 */
import { cpus } from 'node:os'
import { parseIp } from '../services/address.js'
import type { NetworkDefinition } from './model.js'
import { invalid, quote } from './schema.js'

/** What decides of a network. */
export type Placeable = Pick<NetworkDefinition, 'name' | 'shard' | 'routes' | 'ports'>

/** A network that runs. */
export interface Placed {
  definition: Placeable
  shard: number
}

/** The number that `weft up --shards` gives. Throws ERR_INVALID unless it is 1 to as many as the machine has cores. */
export function parseShards(text: string, cores = cpus().length): number {
  const count = /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN
  if (count >= 1 && count <= cores) return count
  const has = cores === 1 ? 'the machine has one core' : `the machine has ${cores} cores`
  throw invalid('shards', `${quote(text)} is not 1..${cores} (${has})`)
}

/** The networks that routes link with one, itself the first. */
export function linkedWith<N extends Placeable>(network: N, others: Iterable<N>): N[] {
  const rest = new Set([...others].filter(({ name }) => name !== network.name))
  const group = [network]
  for (const one of group) {
    for (const other of rest) {
      if (!leadsTo(one, other) && !leadsTo(other, one)) continue
      group.push(other)
      rest.delete(other)
    }
  }
  return group
}

function leadsTo(from: Placeable, to: Placeable): boolean {
  return from.routes.some(({ via }) => via === to.name && parseIp(via) === null)
}

/**
 * The shard for a network that starts or has changed.
 * @param running the networks that run, this one among them if it does
 * @param count shards
 */
export function chooseShard(network: Placeable, running: readonly Placed[], count: number): number {
  const isThere = (shard: number | null): shard is number => shard !== null && shard < count
  if (isThere(network.shard)) return network.shard
  const group = new Set(
    linkedWith(
      network,
      running.map(({ definition }) => definition),
    ).map(({ name }) => name),
  )
  const mates = running.filter(({ definition }) => group.has(definition.name))
  const pin = mates.find(({ definition }) => definition.name !== network.name && isThere(definition.shard))
  if (pin !== undefined) return pin.definition.shard as number
  const shards = Array.from({ length: count }, (_, shard) => shard)
  const ports = (of: readonly Placed[], shard: number): number =>
    of.reduce((sum, one) => sum + (one.shard === shard ? one.definition.ports.length : 0), 0)
  const networks = (of: readonly Placed[], shard: number): number => of.filter((one) => one.shard === shard).length
  if (mates.length > 0)
    return shards.toSorted((a, b) => ports(mates, b) - ports(mates, a) || networks(mates, b) - networks(mates, a))[0]
  return shards.toSorted(
    (a, b) => ports(running, a) - ports(running, b) || networks(running, a) - networks(running, b),
  )[0]
}

/** Throws ERR_INVALID if a network is pinned to a shard that does not run. */
export function refuseMissingShard({ shard }: Placeable, count: number): void {
  if (shard === null || shard < count) return
  const runs = count === 1 ? 'one shard runs' : `${count} shards run`
  throw invalid('shard', `${shard} is not 0..${count - 1}: ${runs} (weft up --shards)`)
}

/** Throws ERR_INVALID if a network is pinned elsewhere than one that routes link it with, or links two such. */
export function refuseTorn(network: Placeable, others: Iterable<Placeable>): void {
  const pinned = linkedWith(network, others).filter(({ shard }) => shard !== null)
  const other = pinned.find(({ shard }) => shard !== pinned[0].shard)
  if (other === undefined) return
  const [one] = pinned
  const sentence = `networks ${one.name} and ${other.name} are linked by routes and run on one shard`
  throw invalid('shard', `${sentence}, not on ${one.shard} and ${other.shard}`)
}
