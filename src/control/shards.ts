/**
 * The shards of the fabric: which of them carries a network that starts, and bringing networks together that a change
 * has linked or pinned (`placement.ts` decides, `move.ts` moves).
 *
 * Each has an arena and a process of its own and is replaced by itself; networks of others do not notice. Numbers of
 * ports and networks mean the same in all, and each has rows for all.
 */
import type { ActiveNetwork } from './active-network.js'
import type { Captures } from './captures.js'
import type { FabricEvent, NetworkDefinition, ShardStatus } from './model.js'
import { moveNetworks } from './move.js'
import { type Placed, chooseShard, linkedWith } from './placement.js'
import { Shard, type ShardListener } from './shard.js'

export interface ShardsHost {
  readonly networks: ReadonlyMap<string, ActiveNetwork>
  /** what a shard's news are told to */
  listener(shard: () => Shard): ShardListener
  problem(reason: string): void
  tell(event: FabricEvent): void
}

export class Shards {
  readonly all: readonly Shard[]
  private readonly host: ShardsHost

  /** @param count at least 1 */
  constructor(count: number, host: ShardsHost) {
    this.host = host
    this.all = Array.from({ length: count }, (_, index): Shard => {
      const listener = host.listener(() => this.all[index])
      return new Shard(index, listener)
    })
  }

  /** Starts all; rejects if one does not come up. */
  async start(): Promise<void> {
    await Promise.all(this.all.map((shard) => shard.start()))
  }

  async close(): Promise<void> {
    await Promise.all(this.all.map((shard) => shard.close()))
  }

  status(): ShardStatus[] {
    return this.all.map((shard) => {
      const networks = this.on(shard)
      const ports = networks.reduce((sum, network) => sum + network.ports.size, 0)
      return { ...shard.status(), networks: networks.length, ports }
    })
  }

  /** The networks that a shard carries. */
  on(shard: Shard): ActiveNetwork[] {
    return [...this.host.networks.values()].filter(({ carrier }) => carrier.shard === shard)
  }

  /**
   * The shard for a network that starts or has this definition from now on. Those that it is linked with, and itself if
   * it runs, are there when this resolves.
   * @throws Failure if one of them cannot be moved
   */
  async gather(definition: NetworkDefinition, captures: Captures): Promise<Shard> {
    const { host, all } = this
    const placed = [...host.networks.values()].map(
      ({ definition: known, carrier }): Placed => ({
        definition: known.name === definition.name ? definition : known,
        shard: carrier.shard.index,
      }),
    )
    const to = all[chooseShard(definition, placed, all.length)]
    if (definition.shard !== null && definition.shard >= all.length)
      host.problem(`network ${definition.name} is pinned to shard ${definition.shard}, which does not run`)
    const group = new Set(
      linkedWith<Placed['definition']>(
        definition,
        placed.map((one) => one.definition),
      ).map(({ name }) => name),
    )
    for (const from of all) {
      const moving = this.on(from).filter((network) => group.has(network.definition.name))
      if (from !== to && moving.length > 0) await this.move(moving, to, captures)
    }
    return to
  }

  private async move(networks: readonly ActiveNetwork[], to: Shard, captures: Captures): Promise<void> {
    const from = networks[0].carrier.shard
    const refused = await moveNetworks(networks, to, captures)
    const names = networks.map(({ definition }) => definition.name)
    if (refused.length > 0)
      this.host.problem(`network ${names.join(', ')}: shard ${to.index} had no room for ${refused.join(', ')}`)
    for (const network of names) this.host.tell({ type: 'network.moved', network, from: from.index, to: to.index })
  }
}
