/**
 * What the parts of the router share: its tables, and the packet in hand.
 *
 * The router works on one packet at a time. `headers` holds what is known of it, `zone` and `segment` where it came in;
 * `router.ts` fills them, and `beginning.ts` and `answers.ts` read them. A table that is not in the arena starts empty
 * in a new shard process: fragments, rate limits.
 */
import type { Pool } from '../burst.js'
import type { Arena } from '../layout.js'
import type { PortTable } from '../port-table.js'
import { Connections } from './connections.js'
import { Conntrack } from './conntrack.js'
import { Firewall, PATHS, PATH_LOCAL } from './firewall.js'
import { Fragments } from './fragments.js'
import type { Gateway } from './gateway.js'
import { Headers } from './headers.js'
import { IcmpErrors } from './icmp-error.js'
import { Identifications } from './identification.js'
import { Mappings } from './mappings.js'
import type { Neighbors } from './neighbors.js'
import { Rewrite } from './rewrite.js'
import type { CompiledRouter, RouterTable } from './router-table.js'
import { Zone } from './zone.js'

export class RouterState {
  readonly arena: Arena
  readonly pool: Pool
  readonly ports: PortTable
  readonly table: RouterTable
  readonly neighbors: Neighbors
  readonly gateway: Gateway
  readonly connections: Connections
  readonly conntrack: Conntrack
  readonly mappings: Mappings
  readonly fragments: Fragments
  readonly identifications: Identifications
  readonly errors: IcmpErrors
  readonly rewrite: Rewrite
  /** by zone */
  readonly firewalls: Firewall[] = []
  /** by zone: 1 if the firewall judges packets of known connections too */
  readonly judgesAll: Int32Array
  /** of the packet in hand */
  headers = new Headers()
  packet = -1
  segment = -1
  zone: Zone
  now = 0
  /** a zone whose firewall has something to tell; -1: none. Looked for once a second, see `sweep` */
  logged = -1
  /** changes with the configuration */
  configured = 1

  constructor(arena: Arena, pool: Pool, ports: PortTable, table: RouterTable, neighbors: Neighbors, gateway: Gateway) {
    this.arena = arena
    this.pool = pool
    this.ports = ports
    this.table = table
    this.neighbors = neighbors
    this.gateway = gateway
    this.connections = new Connections(arena, ports.size)
    this.conntrack = new Conntrack(arena, pool, this.connections)
    this.mappings = new Mappings(arena, ports.size, this.connections)
    this.connections.mappings = this.mappings
    this.identifications = new Identifications(arena.header)
    this.fragments = new Fragments(arena, pool, ports.size, this.identifications)
    this.errors = new IcmpErrors(arena, pool, ports.size)
    this.rewrite = new Rewrite(pool)
    this.zone = new Zone(null, 0)
    this.judgesAll = new Int32Array(table.zones.length)
    for (let i = 0; i < table.zones.length; i++) this.firewalls.push(new Firewall(null))
  }

  /** Replaces the configuration of a zone; null: its router is gone, and what it remembers goes. */
  configure(zone: number, router: CompiledRouter | null): void {
    this.configured = (this.configured + 1) | 0
    const firewall = new Firewall(router?.firewall ?? null)
    firewall.adopt(this.firewalls[zone])
    this.firewalls[zone] = firewall
    this.judgesAll[zone] = 0
    for (let path = 0; path < PATHS; path++) if (firewall.needsEveryPacket(path)) this.judgesAll[zone] = 1
    const isLocalJudged = router !== null && (firewall.decides(PATH_LOCAL) || firewall.needsEveryPacket(PATH_LOCAL))
    this.table.filtered[zone] = isLocalJudged ? 1 : 0
    if (router === null) {
      this.connections.flush(zone)
      this.mappings.flush(zone)
      this.mappings.configure(zone, [], [])
      this.neighbors.flush(zone, -1)
      return
    }
    this.connections.configure(zone, router.timeouts, router.connectionLimit, router.portLimit)
    this.mappings.configure(zone, router.nat, router.forwards)
  }

  /** What a zone had to tell has been told. */
  told(zone: number): void {
    this.firewalls[zone].logCount = 0
    this.findLogged(zone + 1)
  }

  private findLogged(from: number): void {
    this.logged = -1
    for (let zone = from; zone < this.firewalls.length && this.logged < 0; zone++)
      if (this.firewalls[zone].logCount > 0) this.logged = zone
  }

  /** Forgets what is too old. Returns whether there is more to do. */
  sweep(now: number): boolean {
    if (this.logged < 0) this.findLogged(0)
    this.fragments.sweep(now)
    const areMappingsDone = !this.mappings.sweep(now)
    return this.connections.sweep(now) || !areMappingsDone
  }
}
