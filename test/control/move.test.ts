/**
 * Moves of networks between shards that fail at every step in turn: whatever is refused, and whichever shard ends, the
 * network is whole on one of them, devices are attached there, and what was asked meanwhile was asked there. The shards
 * are stubs that obey with real pipelines in this process.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ActiveNetwork } from '../../src/control/active-network.js'
import { ActivePort } from '../../src/control/active-port.js'
import type { ActiveRouter } from '../../src/control/active-router.js'
import { Captures } from '../../src/control/captures.js'
import { Carrier } from '../../src/control/carrier.js'
import { parseNetwork } from '../../src/control/definition.js'
import { Failure } from '../../src/control/failure.js'
import { moveNetworks } from '../../src/control/move.js'
import type { Shard } from '../../src/control/shard.js'
import type { Request, RequestBody } from '../../src/control/shard-channel.js'
import { Moving } from '../../src/control/shard-moving.js'
import {
  COUNTER_SHIFT,
  HEADER_INJECT,
  HEADER_INJECT_BYTES,
  KIND_TAP,
  RECEIVED_PACKETS,
} from '../../src/dataplane/layout.js'
import { Ring } from '../../src/dataplane/ring.js'
import { native } from '../../src/ports/native.js'
import { injectFrame } from '../../src/control/inject.js'
import { randomFrom } from '../dataplane/rig.js'
import { ACK, SYN, outbound, replyTo } from '../dataplane/router/router-exchange.js'
import { A, type Routed, ip, routerOf } from '../dataplane/router/router-rig.js'
import { SEGMENTS, assertWhole, knows, routed } from '../dataplane/table-rig.js'

type Trouble = 'refuses' | 'ends'

/** A shard whose process is a pipeline here. */
class StubShard {
  readonly index: number
  readonly weft: Routed
  readonly arena
  readonly punt: Ring
  readonly inject: Ring
  incarnation = 1
  /** what it was asked, in order */
  readonly asked: string[] = []
  readonly attached = new Set<number>()
  /** the request, counted from 0, at which there is trouble */
  troubleAt = -1
  trouble: Trouble = 'refuses'
  private readonly moving: Moving

  constructor(index: number, weft: Routed) {
    this.index = index
    this.weft = weft
    this.arena = weft.arena
    this.punt = weft.punt
    const { header, buffer } = weft.arena
    this.inject = new Ring(buffer, header[HEADER_INJECT], header[HEADER_INJECT_BYTES])
    this.moving = new Moving(weft.arena, weft.loop.pipeline)
  }

  async ask(request: RequestBody, fds: number[] = []): Promise<number> {
    const result = await this.askList(request, fds)
    return typeof result === 'number' ? result : result.length
  }

  async askList(request: RequestBody, fds: number[] = []): Promise<number | number[]> {
    this.asked.push(request.do)
    const copies = fds.map((fd) => native.duplicate(fd))
    await Promise.resolve()
    if (this.troubleAt >= 0 && this.asked.length > this.troubleAt) {
      this.troubleAt = -1
      for (const fd of copies) native.close(fd)
      if (this.trouble === 'ends') {
        this.incarnation++
        this.attached.clear()
      }
      throw new Failure('ERR_IO', `shard ${this.index}: ${this.trouble} by order of the test`)
    }
    return this.obey({ id: 0, ...request }, copies)
  }

  signal(): void {}
  together(work: () => void): void {
    work()
  }

  private obey(request: Request, fds: number[]): number | number[] {
    const { pipeline } = this.weft.loop
    switch (request.do) {
      case 'configure':
        pipeline.configureNetwork(request.network)
        return 0
      case 'router':
        pipeline.configureRouter(request.zone, request.router)
        return 0
      case 'rules':
        return [...pipeline.router.firewalls[request.zone].counters]
      case 'attach':
        assert.ok(!this.attached.has(request.port), `port ${request.port} is attached already`)
        this.attached.add(request.port)
        return 0
      case 'detach':
        return this.attached.delete(request.port) ? 0 : -2
      case 'halt':
        for (const port of request.ports) this.attached.delete(port)
        return this.moving.obey(request, fds)
      case 'copyOut':
      case 'takeIn':
      case 'discard':
      case 'count':
      case 'keep':
        return this.moving.obey(request, fds)
      default:
        return 0
    }
  }
}

const shardOf = (stub: StubShard): Shard => stub as unknown as Shard

/** Zone a on the first of two shards, with traffic behind it. */
function world() {
  const [from, to] = [0, 1].map((index) => new StubShard(index, routed(40 + index, 5000 + 90_000 * index)))
  from.weft.site(A)
  from.weft.teach(A)
  const random = randomFrom(3)
  for (let i = 0; i < 60; i++) {
    const guest = A.guests[random(4)]
    const family = random(3) === 0 ? 6 : 4
    const source = ip(family === 4 ? guest.ip4 : guest.ip6)
    const outer = ip(family === 4 ? A.outside4 : A.outside6)
    const packet = outbound(family, {
      protocol: 6,
      source,
      sourcePort: 20000 + i,
      sequence: 1,
      flags: SYN,
      payload: [],
    })
    from.weft.from(A, guest, packet)
    const answer = replyTo({ ...packet, source: outer }, { flags: SYN | ACK, sequence: 9, acknowledgment: 2 })
    from.weft.from(A, A.isp, answer)
    if (random(5) === 0) from.weft.wait(3)
  }
  const ports = A.guests.map((_, i) => ({ name: `g${i}`, kind: 'tap', allow: ['spoofing'] }))
  const definition = parseNetwork({ name: 'a', mode: 'isolated', subnets: ['10.0.1.0/24'], ports })
  const carrier = new Carrier(shardOf(from))
  const network = new ActiveNetwork(A.lan, definition, carrier)
  const devices: ActivePort[] = []
  for (const [i, port] of definition.ports.entries()) {
    const active = new ActivePort(A.guests[i].port, port, 1500, '02:00:00:00:00:01', carrier, () => {})
    network.ports.set(port.name, active)
    devices.push(active)
  }
  const [, second] = definition.ports
  const uplink = new ActivePort(A.isp.port, second, 1500, '02:00:00:00:00:02', carrier, () => {})
  devices.push(uplink)
  network.router = stubRouter(uplink, carrier)
  for (const device of devices) {
    device.attach(KIND_TAP, [])
    from.arena.counters[(device.number << COUNTER_SHIFT) + RECEIVED_PACKETS] = 1000 + device.number
  }
  const captures = new Captures(
    () => null,
    () => {},
    () => {},
  )
  return { from, to, carrier, network, devices, captures }
}

/** The router of zone a, as far as a move asks it. */
function stubRouter(uplink: ActivePort, carrier: Carrier): ActiveRouter {
  const gateway = { flags: 66, mtu: 9000, pvid: 0, vids: [], offloads: 15, macLimit: 1 }
  const device = { ...gateway, port: A.isp.port, flags: 2, macLimit: 1024 }
  const router = {
    gatewayPort: A.gatewayPort,
    uplinkSegment: () => A.uplink,
    uplinkDevice: () => uplink,
    uplinkNetwork: () => ({
      network: A.uplink,
      agingSeconds: 300,
      ports: [device, { ...gateway, port: A.uplinkGatewayPort }],
    }),
    ports: () => [A.gatewayPort, A.isp.port, A.uplinkGatewayPort],
    compiledPort: () => ({ ...gateway, port: A.gatewayPort }),
    compile: () => routerOf(A),
    restore: () => carrier.ask({ do: 'router', zone: A.lan, router: routerOf(A) }),
  }
  return router as unknown as ActiveRouter
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20))

async function moved(trouble: { shard: 'from' | 'to'; at: number; kind: Trouble } | null) {
  const all = world()
  const { from, to, carrier, network, devices, captures } = all
  await settled()
  const told = knows(from.weft)
  const capture = await captures.start({ carrier, network: A.lan, port: -1, program: [], onFrame: () => {} })
  for (const shard of [from, to]) shard.asked.length = 0
  if (trouble !== null) {
    all[trouble.shard].troubleAt = trouble.at
    all[trouble.shard].trouble = trouble.kind
  }
  const moving = moveNetworks([network], shardOf(to), captures)
  const meanwhile = carrier.ask({ do: 'announce', segment: A.lan, ip: 1 }).catch(() => -1)
  const isTaken = injectFrame(carrier, A.gatewayPort, new Uint8Array(60))
  const outcome = await moving.then(
    () => 'moved',
    (error: unknown) => error,
  )
  await settled()
  const home = outcome === 'moved' ? to : from
  const other = outcome === 'moved' ? from : to
  const text = `${JSON.stringify(trouble)}: ${String(outcome)}`
  assert.equal(carrier.shard, shardOf(home), text)
  assert.equal(carrier.isHeld, false)
  assert.equal(isTaken, true)
  // what was asked meanwhile: once, where the network is; it may be the one that is refused
  await meanwhile
  assert.equal(home.asked.filter((one) => one === 'announce').length, 1, text)
  assert.equal(other.asked.filter((one) => one === 'announce').length, 0, text)
  assert.notEqual(home.inject.peek(), -1, 'the frame came after')
  assert.equal(other.inject.peek(), -1)
  return { ...all, home, other, outcome, told, text, capture, devices }
}

test('a move: tables, counters, devices, captures are on the other shard, and nothing is left', async () => {
  const { from, to, told, devices, outcome, capture } = await moved(null)
  assert.equal(outcome, 'moved')
  assert.deepEqual(knows(to.weft), told)
  assertWhole(to.weft)
  assert.deepEqual(knows(from.weft), { fdb: [], neighbors: [], mappings: [], connections: [] })
  assertWhole(from.weft)
  assert.equal(from.attached.size, 0)
  assert.deepEqual(to.attached, new Set(devices.map(({ number }) => number)))
  for (const { number } of devices) {
    const at = (number << COUNTER_SHIFT) + RECEIVED_PACKETS
    assert.deepEqual([from.arena.counters[at], to.arena.counters[at]], [0, 1000 + number])
  }
  assert.equal(to.asked.filter((one) => one === 'capture').length, 1)
  assert.equal(from.asked.filter((one) => one === 'release').length, 1)
  await capture.stop()
  assert.equal(to.asked.filter((one) => one === 'release').length, 1)
  assert.deepEqual(from.weft.loop.pipeline.ports.memberCount[A.lan], 0)
})

for (const kind of ['refuses', 'ends'] as const) {
  for (const shard of ['from', 'to'] as const) {
    test(`shard ${shard} ${kind} at every step in turn: the network is whole where it is`, async () => {
      let stayed = 0
      let went = 0
      for (let at = 0; ; at++) {
        const result = await moved({ shard, at, kind })
        const { home, other, told, outcome, text, devices } = result
        if (result[shard].troubleAt >= 0) break // there were not so many steps
        assert.deepEqual(knows(home.weft), told, text)
        assertWhole(home.weft)
        if (outcome === 'moved') went++
        else {
          stayed++
          assert.ok(outcome instanceof Failure, text)
          assert.match(outcome.message, /^network a: stays on shard 0: shard \d: /)
          assert.equal(other.attached.size, 0, text)
        }
        // one that ended has been attached nothing again: that is its restoration's work
        const isRestored = home.incarnation === 1
        const expected = isRestored ? devices.map(({ number }) => number) : [...home.attached]
        const refused = outcome === 'moved' && shard === 'to' && home.attached.size === expected.length - 1
        assert.ok(refused || home.attached.size === expected.length, text)
        // what the other one has of the network is forgotten, unless it was in trouble itself: then when it is restored
        if (other.incarnation > 1 || result[shard] === other)
          await other.ask({ do: 'keep', segments: [] }).catch(() => undefined)
        assert.deepEqual(knows(other.weft), { fdb: [], neighbors: [], mappings: [], connections: [] }, text)
        for (const device of devices) device.reattach()
        await settled()
        assert.equal(home.attached.size >= expected.length, true)
      }
      assert.ok(stayed >= 3, `${stayed} times it stayed`)
      assert.ok(went >= 1, `${went} times it was too late`)
      assert.deepEqual(SEGMENTS, [A.lan, A.uplink])
    })
  }
}
