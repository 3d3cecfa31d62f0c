/**
 * Frames from the control process into the shard: what a ring port receives, or the router sends.
 */
import { MESSAGE_FRAME, RING_DIRECTION, RING_KIND, RING_PORT, RING_TAG } from '../dataplane/ring.js'
import type { Carrier } from './carrier.js'

/**
 * Returns false, and drops the frame, if the ring is full. While the network is on its way to another shard, the frame
 * waits for its arrival.
 */
export function injectFrame(carrier: Carrier, port: number, bytes: Uint8Array): boolean {
  if (carrier.isHeld) return carrier.keep(port, bytes)
  const { shard } = carrier
  const ring = shard.inject
  if (!ring.hasRoom(bytes.length)) return false
  const index = ring.reserve(bytes.length)
  const header = ring.header()
  header[index + RING_KIND] = MESSAGE_FRAME
  header[index + RING_PORT] = port
  header[index + RING_DIRECTION] = 0
  header[index + RING_TAG] = 0
  ring.data().set(bytes, ring.place(index))
  ring.publish()
  shard.signal()
  return true
}
