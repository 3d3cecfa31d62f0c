/**
 * The native addon, declared: what C does for Weft. `native/binding.c` is the other side.
 *
 * Conventions: descriptors and counts are integers; a call that can fail returns a negative errno instead, and nothing
 * is left behind. `check()` turns that into an error with a sentence. `netns` is the path of a namespace's file, '' for
 * this process's own.
 */
import { createRequire } from 'node:module'
import { getSystemErrorName } from 'node:util'

/** An interface as the kernel describes it. */
export interface Link {
  index: number
  /** bytes */
  mtu: number
  /** IFF_* of netdevice(7) */
  flags: number
  mac: string
}

export interface OpenedTap extends Link {
  fd: number
  /** the device was there before; the link's fields say how it was found */
  existed: boolean
}

export interface OpenedPacket extends Link {
  fd: number
  fdOut: number
}

export interface Credentials {
  pid: number
  uid: number
  gid: number
}

export const IFF_UP = 0x1
export const IFF_RUNNING = 0x40

/** Flags of `setRing`. */
export const RING_ENABLED = 1
/** the used ring's writes go to the dirty log too */
export const RING_LOGGED = 2
/** asked without end, and its driver is never asked to tell */
export const RING_POLLED = 4

export interface Native {
  // The burst, in the shard process. One engine a process.
  /** Takes a formatted arena into use and empties its pool. */
  attachArena(arena: Uint8Array): number
  /** Closes every port and lets the arena go. */
  detachArena(): number
  /** Ends the wait of `receive` when the channel or the wake-up counter is readable. -1: none. */
  watchChannel(channel: number, wake: number): number
  /** Takes over the descriptors, also on failure. `fdOut`: -1 if the kind needs none; of a stream its memory. */
  attachPort(port: number, kind: number, fd: number, fdOut: number): number
  detachPort(port: number): number
  /**
   * Waits up to `waitMillis` (-1: at most a second), then returns the packets now in the arena's burst. Writes
   * HEADER_NOW, events, control.
   */
  receive(waitMillis: number): number
  // Of a port of kind vhost-user: what its guest shares. Descriptors are taken over, also on failure.
  /** Replaces the guest's memory. `regions`: guest address, bytes, front-end address, offset in the file, of each. */
  setGuestMemory(port: number, regions: BigUint64Array, fds: number[]): number
  /**
   * Sets a virtqueue up, or anew. `addresses`: negotiated features; front-end addresses of descriptor table, available
   * and used ring; guest address of the used ring for the dirty log. `position`: next available index, -1: where the
   * used ring ends. `flags`: RING_*. `kick`, `call`: -1 for none.
   */
  setRing(
    port: number,
    ring: number,
    addresses: BigUint64Array,
    size: number,
    position: number,
    flags: number,
    kick: number,
    call: number,
  ): number
  /** Stops a virtqueue; its next available index, or a negative errno. */
  stopRing(port: number, ring: number): number
  /** Marks written pages from now on; `place`: bytes of the log, offset in its file. `fd` -1: no longer. */
  setDirtyLog(port: number, fd: number, place: BigUint64Array): number
  /** Sends the first `pairs` of the egress list, each of which gives up a reference. */
  transmit(pairs: number): void
  /** The constants of layout.h by name, for the test that compares them. */
  layout(): Record<string, number>

  // Memory, wake-up counters, the channel with descriptors.
  createMemory(bytes: number): number
  mapMemory(fd: number, bytes: number): ArrayBuffer | number
  createEvent(): number
  signalEvent(fd: number): number
  drainEvent(fd: number): number
  createChannel(): [number, number] | number
  sendMessage(channel: number, bytes: Buffer, fds: number[]): number
  /** The length of the message; with descriptors an array of the length and them; 0: the other side is gone. */
  receiveMessage(channel: number, into: Buffer): number | number[]

  // Devices and sockets, in the control process.
  openTap(
    name: string,
    netns: string,
    mtu: number,
    owner: number,
    offloads: boolean,
    multiQueue: boolean,
    /** of a device that is made */
    mac: string,
  ): OpenedTap | number
  /** Gives an adopted device its MTU and flags back. */
  restoreTap(fd: number, name: string, netns: string, mtu: number, flags: number): number
  /** Pulls the cable of a TAP's host side, or plugs it in again. */
  setCarrier(fd: number, on: boolean): number
  openPacket(name: string, netns: string): OpenedPacket | number
  /** Frames that the kernel dropped since the last call, because the receiving socket's buffer was full. */
  packetLosses(fd: number): number
  getLink(name: string, netns: string): Link | number
  setLinkMtu(name: string, netns: string, mtu: number): number
  /** `ip`: 4 or 16 bytes. One that is there already: -EEXIST. What is added goes with the interface. */
  addAddress(name: string, netns: string, ip: Uint8Array, prefix: number): number
  removeAddress(name: string, netns: string, ip: Uint8Array, prefix: number): number
  /** `gateway` null: the destination, whose bits beyond the prefix are 0, is on the link. */
  addRoute(name: string, netns: string, destination: Uint8Array, prefix: number, gateway: Uint8Array | null): number
  removeRoute(name: string, netns: string, destination: Uint8Array, prefix: number, gateway: Uint8Array | null): number
  /** Non-blocking, permissions `mode`; a path that nobody serves any more is replaced. */
  listenUnix(path: string, mode: number): number
  connectUnix(path: string): number
  bindDgram(path: string, mode: number): number
  connectDgram(path: string): number
  listenTcp(address: string, port: number): number
  /** May still be connecting when it returns. */
  connectTcp(address: string, port: number): number
  accept(fd: number): number
  /** Whether the peer of a connected socket has closed it. */
  peerGone(fd: number): boolean
  peerCredentials(fd: number): Credentials | number
  duplicate(fd: number): number
  setNonBlocking(fd: number): number
  close(fd: number): number
  /** Calls back whenever the descriptor is readable, until `unwatch`. Does not keep the process alive. */
  watch(fd: number, callback: () => void): number
  unwatch(watch: number): void
}

export const native: Native = createRequire(import.meta.url)('../../native/weft.node') as Native

/** A system call's failure: `errno` is positive, `code` its name, `what` the object it was about. */
export class SystemFailure extends Error {
  readonly errno: number
  readonly code: string
  readonly what: string

  constructor(errno: number, what: string) {
    const code = getSystemErrorName(-errno)
    super(`${what}: ${code}`)
    this.name = 'SystemFailure'
    this.errno = errno
    this.what = what
    this.code = code
  }
}

/**
 * The result of a native call, or the error it stands for.
 * @param what names the object and the action, for the error's sentence
 */
export function check<T>(result: T | number, what: string): T {
  if (typeof result === 'number' && result < 0) throw new SystemFailure(-result, what)
  return result as T
}
