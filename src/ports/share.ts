/**
 * In the shard process: what a vhost-user guest shares, from the words of a message to the native call.
 */
import type { GuestChange } from './device.js'
import type { Native } from './native.js'

/** Applies a change; takes the descriptors over. Returns what the native call does: negative if it refuses. */
export function share(native: Native, port: number, change: GuestChange, fds: number[]): number {
  switch (change.set) {
    case 'memory': {
      const words = change.regions.flatMap(({ guest, bytes, user, offset }) => [guest, bytes, user, offset])
      return native.setGuestMemory(port, BigUint64Array.from(words, BigInt), fds)
    }
    case 'ring': {
      const { ring, settings, kick, call } = change
      const { features, descriptors, available, used, log, size, position, flags } = settings
      const addresses = BigUint64Array.from([features, descriptors, available, used, log], BigInt)
      const kickFd = kick ? fds[0] : -1
      const callFd = call ? fds[kick ? 1 : 0] : -1
      return native.setRing(port, ring, addresses, size, position, flags, kickFd, callFd)
    }
    case 'stop':
      return native.stopRing(port, change.ring)
    case 'log':
      return native.setDirtyLog(port, fds[0] ?? -1, BigUint64Array.from([change.bytes, change.offset], BigInt))
  }
}
