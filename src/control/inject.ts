/**
 * Frames from the control process into the shard: what a ring port receives, or the router sends.
 */
import { MESSAGE_FRAME, RING_DIRECTION, RING_KIND, RING_PORT, RING_TAG } from '../dataplane/ring.js'
import type { Shard } from './shard.js'

/** Returns false, and drops the frame, if the ring is full. */
export function injectFrame(shard: Shard, port: number, bytes: Uint8Array): boolean {
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
