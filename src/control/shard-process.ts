/**
 * The shard process: the dataplane loop over native ports, and nothing else. Started by `shard.ts` with four
 * descriptors:
 *
 *   3 the channel to the control process   4 the arena   5 wakes this process   6 tells the control process of punted
 *   frames
 *
 * The loop never returns to Node's event loop: the channel is read between two turns, and its being readable ends the
 * wait of `receive`. When the control process is gone, so is this one.
 */
import { ignoreStraySignals } from './signals.js'
import { randomFillSync } from 'node:crypto'
import {
  EVENT_CODE,
  EVENT_PORT,
  EVENT_STRIDE,
  HEADER_BYTES,
  HEADER_CONTROL,
  HEADER_EVENT_COUNT,
  HEADER_NOW,
  HEADER_PORTS,
  HEADER_SIZE,
  viewArena,
} from '../dataplane/layout.js'
import { Loop } from '../dataplane/loop.js'
import { MOVE_STRIDE } from '../dataplane/fdb.js'
import { LOG_WORDS } from '../dataplane/router/firewall.js'
import { check, native } from '../ports/native.js'
import { share } from '../ports/share.js'
import { copyTables } from './arena-copy.js'
import { Moving } from './shard-moving.js'
import { type Reply, type Request, ShardChannel } from './shard-channel.js'

const CHANNEL = 3
const MEMORY = 4
const WAKE = 5
const PUNT = 6
/** Turns between two reports of moved addresses, so that a storm of moves is no storm of messages. */
const MOVES_EVERY_MILLIS = 100

function run(): never {
  const size = new Int32Array(check(native.mapMemory(MEMORY, HEADER_SIZE), 'arena'))[HEADER_BYTES]
  const arena = viewArena(check(native.mapMemory(MEMORY, size), 'arena'))
  check(native.attachArena(arena.bytes), 'arena')
  check(native.watchChannel(CHANNEL, WAKE), 'channel')
  const loop = new Loop(arena, native, arena.header[HEADER_PORTS], randomFillSync(new Int32Array(4)))
  const channel = new ShardChannel<Reply, Request>(CHANNEL)
  const attachments = new Int32Array(arena.header[HEADER_PORTS])
  const { fdb, mirror, neighbors, router } = loop.pipeline
  const moving = new Moving(arena, loop.pipeline)
  const seconds = (): number => arena.header[HEADER_NOW]
  let movesTold = 0
  const order = { isHold: false }

  channel.send({ event: 'ready' })
  for (;;) {
    loop.turn()
    if (mirror.punted) {
      mirror.punted = false
      native.signalEvent(PUNT)
    }
    if (arena.header[HEADER_EVENT_COUNT] > 0) tellEvents()
    if (arena.header[HEADER_CONTROL] !== 0) readChannel()
    while (order.isHold) readChannel()
    if (fdb.moveCount > 0) tellMoves()
    if (router.logged >= 0) tellLogged()
  }

  function tellEvents(): void {
    for (let i = 0; i < arena.header[HEADER_EVENT_COUNT]; i++) {
      const port = arena.events[i * EVENT_STRIDE + EVENT_PORT]
      const code = arena.events[i * EVENT_STRIDE + EVENT_CODE]
      channel.send({ event: 'failed', port, attachment: attachments[port], code })
    }
  }

  function tellMoves(): void {
    const now = Date.now()
    if (now - movesTold < MOVES_EVERY_MILLIS) return
    movesTold = now
    channel.send({ event: 'moved', moves: [...fdb.moves.subarray(0, fdb.moveCount * MOVE_STRIDE)] })
    fdb.moveCount = 0
  }

  function tellLogged(): void {
    for (let zone = router.logged; zone >= 0; zone = router.logged) {
      const { logs, logCount } = router.firewalls[zone]
      channel.send({ event: 'logged', zone, records: [...logs.subarray(0, logCount * LOG_WORDS)] })
      router.told(zone)
    }
  }

  function readChannel(): void {
    channel.flush()
    for (let next = channel.receive(); next !== null; next = channel.receive()) {
      if (next === 'closed') process.exit(0)
      const { id } = next.message
      try {
        channel.send({ id, result: obey(next.message, next.fds) })
      } catch (error) {
        channel.send({ id, error: error instanceof Error ? error.message : String(error) })
      }
    }
  }

  function obey(request: Request, fds: number[]): number | number[] {
    switch (request.do) {
      case 'configure':
        loop.pipeline.configureNetwork(request.network)
        return 0
      case 'attach':
        attachments[request.port] = request.attachment
        return check(native.attachPort(request.port, request.kind, fds[0] ?? -1, fds[1] ?? -1), `port ${request.port}`)
      case 'hold':
        order.isHold = true
        return 0
      case 'go':
        order.isHold = false
        return 0
      case 'detach':
        return native.detachPort(request.port)
      case 'share':
        return check(share(native, request.port, request.change, fds), `port ${request.port}`)
      case 'static':
        return fdb.addStatic(request.low, request.keyHigh, request.network, request.port) ? 1 : 0
      case 'forget':
        return fdb.remove(request.low, request.keyHigh, request.network) ? 1 : 0
      case 'flush':
        return fdb.flush(request.network, request.port, request.vid, request.statics)
      case 'capture':
        mirror.start(request.capture, request.network, request.port, Int32Array.from(request.program))
        return 0
      case 'release':
        mirror.stop(request.capture)
        return 0
      case 'router':
        loop.pipeline.configureRouter(request.zone, request.router)
        return 0
      case 'bind': {
        const { segment, macLow, macHigh, port } = request
        const [ip0, ip1 = 0, ip2 = 0, ip3 = 0] = request.ip
        const family = request.ip.length === 1 ? 4 : 6
        return neighbors.bind(segment, family, ip0, ip1, ip2, ip3, macLow, macHigh, port, seconds()) ? 1 : 0
      }
      case 'unbind': {
        const [ip0, ip1 = 0, ip2 = 0, ip3 = 0] = request.ip
        return neighbors.unbind(request.segment, request.ip.length === 1 ? 4 : 6, ip0, ip1, ip2, ip3) ? 1 : 0
      }
      case 'leave':
        return loop.pipeline.leave(request.segment, request.port)
      case 'announce':
        loop.pipeline.announce(request.segment, request.ip)
        return 0
      case 'flushConnections':
        return router.connections.flush(request.zone)
      case 'rules':
        return [...router.firewalls[request.zone].counters]
      case 'halt':
      case 'copyOut':
      case 'takeIn':
      case 'discard':
      case 'count':
      case 'keep':
        return moving.obey(request, fds)
      case 'copy':
        try {
          copyTables(arena, fds[0])
        } finally {
          native.close(fds[0])
        }
        return 0
    }
  }
}

ignoreStraySignals()
run()
