/**
 * The walk of a frame, top to bottom.
 *
 *   receive (native) -> mirror -> ingress -> learn -> forward -> egress -> transmit (native)
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
import { PortTable } from './port-table.js'
import { Ring } from './ring.js'

// a module's own constants are folded into the machine code, imported ones are not: see layout.ts
const { HEADER_NOW, HEADER_PUNT, HEADER_PUNT_BYTES } = layout

export class Pipeline {
  readonly pool: Pool
  readonly ports: PortTable
  readonly fdb: Fdb
  readonly mirror: Mirror
  private readonly ingress: Ingress
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
    this.forward = new Forward(this.pool, this.ports, this.fdb, this.egress)
  }

  /** Takes the burst through all stages; every packet of it is sent or freed when this returns. */
  process(burst: Burst): void {
    if (this.mirror.active) this.mirror.received(burst)
    this.ingress.process(burst)
    this.learn.process(burst, this.header[HEADER_NOW])
    this.forward.process(burst)
    this.egress.transmit()
  }
}
