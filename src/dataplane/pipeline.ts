/**
 * The walk of a frame, top to bottom.
 *
 *   receive (native) -> mirror -> ingress -> guard -> learn -> gateway -> forward -> egress -> transmit (native)
 *                                                              |              ^
 *                                                              +-> router ----+
 *
 * The router is a host on a port of its own: `gateway` takes out what is for it, and what it sends goes on at `forward`
 * behind the rest of the burst. Without a router anywhere, guard and gateway are left out.
 *
 * A burst of packets passes stage by stage; a stage leaves in it the packets that go on, and owns the others. Behind
 * `forward` the burst is empty and the egress list is full of pairs (packet, port). The stages are called by name: this
 * file is the order of things, and V8 sees each call site with one target.
 *
 * Nothing here allocates, throws, logs, waits or reads a clock.
 */
import { type Burst, Pool } from './burst.js'
import { Egress, type Transmitter } from './egress.js'
import { Fdb } from './fdb.js'
import { Forward } from './forward.js'
import { Ingress } from './ingress.js'
import * as layout from './layout.js'
import type { Arena } from './layout.js'
import { Learn } from './learn.js'
import { Mirror } from './mirror.js'
import * as portTable from './port-table.js'
import { type CompiledNetwork, PortTable } from './port-table.js'
import { Ring } from './ring.js'
import { Gateway } from './router/gateway.js'
import { Guard } from './router/guard.js'
import { LocalFilter } from './router/local-filter.js'
import * as neighborTable from './router/neighbors.js'
import { Neighbors } from './router/neighbors.js'
import { type CompiledRouter, RouterTable } from './router/router-table.js'
import { Router } from './router/router.js'
import { RouterState } from './router/state.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { OPEN_PORT_LIMIT, PORT_LIMIT } = neighborTable
const { PORT_GUARDED } = portTable
const { HEADER_NOW, HEADER_PUNT, HEADER_PUNT_BYTES } = layout

export class Pipeline {
  readonly pool: Pool
  readonly ports: PortTable
  readonly fdb: Fdb
  readonly mirror: Mirror
  readonly routers: RouterTable
  readonly neighbors: Neighbors
  readonly router: RouterState
  private readonly ingress: Ingress
  private readonly guard: Guard
  private readonly gateway: Gateway
  private readonly walk: Router
  private readonly learn: Learn
  private readonly forward: Forward
  private readonly egress: Egress
  private readonly header: Int32Array

  /**
   * @param arena formatted; its FDB is taken over as it stands
   * @param transmitter sends what the egress list holds
   * @param secret four random int32 for the tables' hashes
   */
  constructor(arena: Arena, transmitter: Transmitter, portRows: number, secret: Int32Array) {
    const punt = new Ring(arena.buffer, arena.header[HEADER_PUNT], arena.header[HEADER_PUNT_BYTES])
    this.header = arena.header
    this.pool = new Pool(arena)
    this.ports = new PortTable(portRows)
    this.fdb = new Fdb(arena, this.ports, secret)
    this.mirror = new Mirror(arena, this.pool, this.ports, punt)
    this.ingress = new Ingress(this.pool, this.ports)
    this.learn = new Learn(this.pool, this.ports, this.fdb)
    this.egress = new Egress(arena, this.pool, this.ports, this.mirror, transmitter)
    this.routers = new RouterTable()
    this.forward = new Forward(this.pool, this.ports, this.fdb, this.egress, this.routers.filtered)
    this.neighbors = new Neighbors(arena, this.pool, portRows)
    this.gateway = new Gateway(this.pool, this.ports, this.routers, this.neighbors, this.mirror, this.forward)
    this.guard = new Guard(this.pool, this.ports, this.fdb, this.routers, this.neighbors, this.gateway)
    this.router = new RouterState(arena, this.pool, this.ports, this.routers, this.neighbors, this.gateway)
    this.walk = new Router(this.router)
    this.gateway.attach(this.walk)
    this.forward.attach(new LocalFilter(this.router))
  }

  /** Replaces a network's configuration whole. */
  configureNetwork(network: CompiledNetwork): void {
    this.ports.configure(network)
    for (const { port, flags } of network.ports)
      this.neighbors.setLimit(port, (flags & PORT_GUARDED) !== 0 ? PORT_LIMIT : OPEN_PORT_LIMIT)
  }

  /** Replaces the router of a zone; null: there is none. */
  configureRouter(zone: number, router: CompiledRouter | null): void {
    this.routers.configure(zone, router)
    this.router.configure(zone, router)
  }

  /** A port leaves a segment (-1: all ports do): the router forgets its hosts. Returns how many. */
  leave(segment: number, port: number): number {
    if (port >= 0) {
      this.router.fragments.forget(port)
      this.router.connections.flushOwner(port)
    }
    return this.neighbors.flush(segment, port)
  }

  /** Tells all hosts of a segment where an IPv4 address of the router is. */
  announce(segment: number, ip: number): void {
    this.gateway.announce(segment, ip)
    this.forward.process(this.gateway.routed)
    this.egress.transmit()
  }

  /**
   * Once a second: what is too old is forgotten, and neighbors are asked again. Returns whether there is more to do.
   */
  sweep(seconds: number): boolean {
    // also without a router: one that has gone may have left packets that wait
    this.gateway.now = this.router.now = seconds
    this.neighbors.sweep(seconds, this.walk)
    this.gateway.sendProbes()
    const isFdbDone = !this.fdb.sweep(seconds)
    const isRouterDone = !this.router.sweep(seconds)
    this.forward.process(this.gateway.routed)
    this.egress.transmit()
    return !isFdbDone || !isRouterDone
  }

  /** Takes the burst through all stages; every packet of it is sent or freed when this returns. */
  process(burst: Burst): void {
    if (this.mirror.active) this.mirror.received(burst)
    this.ingress.process(burst)
    const now = this.header[HEADER_NOW]
    if (this.routers.active) {
      this.router.now = now
      this.guard.process(burst, now)
      this.learn.process(burst, now)
      this.gateway.process(burst, now)
      this.forward.process(burst)
      this.forward.process(this.gateway.routed)
    } else {
      this.learn.process(burst, now)
      this.forward.process(burst)
    }
    this.egress.transmit()
  }
}
