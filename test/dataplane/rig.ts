/**
 * A switch over memory ports, for the tests of the dataplane: the loop as a shard runs it, and short words to hand
 * frames in, to take them out, and to read the counters by name.
 *
 * `switching(name, body)` is a test that gets a fresh switch and checks, when the body is done, that every slot has
 * come back to the pool and that nothing was left waiting. Ports are numbers; `access`, `trunk` and `plain` compile
 * them as `src/control/snapshot.ts` does.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DROP_NAMES } from '../../src/dataplane/drops.js'
import {
  type Arena,
  COUNTER_SHIFT,
  DROP_SHIFT,
  type Geometry,
  HEADER_NOW,
  HEADER_PUNT,
  HEADER_PUNT_BYTES,
  RECEIVED_PACKETS,
  TRANSMITTED_PACKETS,
  arenaBytes,
  formatArena,
  viewArena,
} from '../../src/dataplane/layout.js'
import { Loop } from '../../src/dataplane/loop.js'
import { type CompiledPort, PORT_ACCESS, PORT_LINK, PORT_VLAN_AWARE, VID_NONE } from '../../src/dataplane/port-table.js'
import { Ring } from '../../src/dataplane/ring.js'
import { MemoryDriver, type SentFrame } from '../../src/ports/memory.js'

export const GEOMETRY: Geometry = {
  smallSlots: 600,
  largeSlots: 16,
  ports: 64,
  fdbCapacity: 1024,
  neighborCapacity: 256,
  connectionCapacity: 1024,
  mappingCapacity: 1024,
  puntBytes: 1 << 18,
  injectBytes: 1 << 16,
}

/** mulberry32: a function that gives whole numbers below its argument. */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed | 0
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

export function newArena(geometry: Geometry = GEOMETRY): Arena {
  const buffer = new ArrayBuffer(arenaBytes(geometry))
  formatArena(buffer, geometry)
  return viewArena(buffer)
}

const base = (port: number): CompiledPort => ({
  port,
  flags: PORT_LINK,
  mtu: 1500,
  pvid: 0,
  vids: [],
  offloads: 0,
  macLimit: 1024,
})
export const plain = (port: number, more: Partial<CompiledPort> = {}): CompiledPort => ({ ...base(port), ...more })
export const access = (port: number, vid: number, more: Partial<CompiledPort> = {}): CompiledPort => ({
  ...base(port),
  flags: PORT_LINK | PORT_VLAN_AWARE | PORT_ACCESS,
  pvid: vid,
  vids: [[vid, vid]],
  ...more,
})
/** @param native null: none; it must be among the ranges, as the control process sees to */
export const trunk = (
  port: number,
  vids: [number, number][],
  native: number | null = null,
  more: Partial<CompiledPort> = {},
): CompiledPort => ({
  ...base(port),
  flags: PORT_LINK | PORT_VLAN_AWARE,
  pvid: native ?? VID_NONE,
  vids,
  ...more,
})

export const GROUP = 'ff:ff:ff:ff:ff:ff'
/** The address of a host: 02:00 and four octets of its number. */
export const mac = (host: number): string =>
  `02:00:${[host >>> 24, host >>> 16, host >>> 8, host].map((o) => (o & 255).toString(16).padStart(2, '0')).join(':')}`
const octets = (address: string): number[] => address.split(':').map((octet) => Number.parseInt(octet, 16))

export interface FrameOptions {
  /** TCI of each tag, the outer first */
  tags?: number[]
  type?: number
  /** of the whole frame, with tags */
  length?: number
}

/** A frame with a payload that counts up, so that a shifted byte shows. */
export function frame(to: string, from: string, options: FrameOptions = {}): Uint8Array {
  const tags = (options.tags ?? []).flatMap((tci) => [0x81, 0, tci >> 8, tci & 255])
  const type = options.type ?? 0x0800
  const head = [...octets(to), ...octets(from), ...tags, type >> 8, type & 255]
  const bytes = Uint8Array.from({ length: options.length ?? head.length + 46 }, (_, i) => i & 255)
  bytes.set(head.slice(0, bytes.length))
  return bytes
}

export class Switch {
  readonly arena: Arena
  readonly driver: MemoryDriver
  readonly loop: Loop
  readonly punt: Ring
  readonly startFree: number
  private readonly geometry: Geometry

  constructor(geometry: Geometry = GEOMETRY) {
    this.geometry = geometry
    this.arena = newArena(geometry)
    this.driver = new MemoryDriver(this.arena)
    this.loop = new Loop(this.arena, this.driver, geometry.ports, Int32Array.of(0x1234567, -77, 0x3779b9, 9))
    const { buffer, header } = this.arena
    this.punt = new Ring(buffer, header[HEADER_PUNT], header[HEADER_PUNT_BYTES])
    this.startFree = this.loop.pipeline.pool.free()
  }

  /** Configures network 0, or another. */
  ports(ports: CompiledPort[], network = 0, agingSeconds = 300): void {
    this.loop.pipeline.ports.configure({ network, agingSeconds, ports })
  }

  give(port: number, bytes: Uint8Array, fields: [field: number, value: number][] = []): void {
    this.driver.give(port, bytes, fields)
  }

  /** Turns until nothing is carried, and takes what was sent. */
  run(): SentFrame[] {
    while (this.loop.turn(0) > 0);
    return this.driver.sent.splice(0)
  }

  /** One frame through the switch. */
  pass(port: number, bytes: Uint8Array, fields: [field: number, value: number][] = []): SentFrame[] {
    this.give(port, bytes, fields)
    return this.run()
  }

  /** The ports that one frame leaves by, in order. */
  leaves(port: number, bytes: Uint8Array, fields: [field: number, value: number][] = []): number[] {
    return this.pass(port, bytes, fields)
      .map((sent) => sent.port)
      .sort((a, b) => a - b)
  }

  set seconds(seconds: number) {
    this.arena.header[HEADER_NOW] = seconds
  }

  /** All drops since the start: 'port reason' to count. */
  drops(): Record<string, number> {
    const result: Record<string, number> = {}
    for (let i = 0; i < this.geometry.ports << DROP_SHIFT; i++)
      if (this.arena.drops[i] !== 0) {
        const name = DROP_NAMES[i & ((1 << DROP_SHIFT) - 1)]
        assert.ok(name !== undefined, `a drop without a name: ${i & ((1 << DROP_SHIFT) - 1)}`)
        result[`${i >> DROP_SHIFT} ${name}`] = this.arena.drops[i]
      }
    return result
  }

  received(port: number): [packets: number, bytes: number] {
    const at = (port << COUNTER_SHIFT) + RECEIVED_PACKETS
    return [this.arena.counters[at], this.arena.counters[at + 1]]
  }

  transmitted(port: number): [packets: number, bytes: number] {
    const at = (port << COUNTER_SHIFT) + TRANSMITTED_PACKETS
    return [this.arena.counters[at], this.arena.counters[at + 1]]
  }

  /** Every slot is free, each once, and nothing waits. */
  checkPool(): void {
    assert.equal(this.loop.turn(0), 0, 'frames were left waiting')
    assert.equal(this.loop.pipeline.pool.free(), this.startFree, 'slots leaked or freed twice')
    const slots = new Set([...this.arena.freeSmall, ...this.arena.freeLarge])
    assert.equal(slots.size, this.startFree, 'a slot stands on the free stacks twice')
  }
}

/** A test of a fresh switch whose pool must be whole at its end. */
export function switching(name: string, body: (weft: Switch) => void, geometry: Geometry = GEOMETRY): void {
  test(name, () => {
    const weft = new Switch(geometry)
    body(weft)
    weft.checkPool()
  })
}
