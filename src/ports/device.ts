/**
 * A port's device in the control process: opened, watched over, closed. One file a kind implements it.
 *
 * A device holds its descriptors for as long as it is attached, so that a shard that died can be given them again. It
 * tells its `Socket` (the place in the switch it is plugged into) what to attach and what state it is in; it never
 * sees a frame.
 */
import { existsSync } from 'node:fs'
import { SystemFailure } from './native.js'

/** Part of a guest's memory, as vhost-user describes it. 64-bit numbers are in decimal, JSON has none. */
export interface GuestRegion {
  /** guest physical address */
  guest: string
  bytes: string
  /** the front-end's own virtual address, in which it gives the places of rings */
  user: string
  /** in the file */
  offset: string
}

/** A virtqueue, as `Native.setRing` takes it. */
export interface RingSettings {
  features: string
  descriptors: string
  available: string
  used: string
  /** guest address of the used ring */
  log: string
  size: number
  position: number
  flags: number
}

/** What a guest on vhost-user shares, and how it changes; see `Native` for each. */
export type GuestChange =
  /** descriptors: one a region */
  | { set: 'memory'; regions: GuestRegion[] }
  /** descriptors: kick and call, as far as there are such */
  | { set: 'ring'; ring: number; settings: RingSettings; kick: boolean; call: boolean }
  | { set: 'stop'; ring: number }
  /** descriptor: the log; none: no log any more */
  | { set: 'log'; bytes: string; offset: string }

/** The shard process that was asked has ended. */
export class ShardEnded extends Error {
  constructor() {
    super('the shard ended')
    this.name = 'ShardEnded'
  }
}

/** The place in the switch that a device is plugged into. */
export interface Socket {
  /** Frames go through these descriptors from now on. They stay the device's, open until `detach`. */
  attach(kind: number, fds: number[]): void
  /** No frame goes through the last attached descriptors any more; they may be closed. */
  detach(): void
  report(state: 'up' | 'down' | 'error', reason: string | null): void
  /**
   * Tells the shard of what a vhost-user guest shares. In order with `attach` and `detach`; the descriptors stay the
   * device's. Resolves with the native call's result; rejects if the shard refuses, with ShardEnded if it is no more:
   * then `restore` follows, and until then every call is rejected so.
   */
  share(change: GuestChange, fds: number[]): Promise<number>
  /** Opens the device again a little later, with back-off: it lost its peer by itself. */
  openLater(): void
  /** Ring ports only: hands in a frame as received by the port. Returns false if there is no room now. */
  inject(bytes: Uint8Array): boolean
}

export interface Device {
  /** What the device takes unfinished: TAKES_* bits. */
  readonly offloads: number
  /** Up says that somebody is connected: behind a port of this kind that is not up there are no hosts. */
  readonly hasPeer: boolean
  /** MAC of the host's side, where the device has one. */
  readonly mac: string | null
  /** bytes; what the device itself limits the MTU to, 0: nothing */
  readonly mtuLimit: number
  /** Error codes of `open` that are no reason to refuse the port: it waits until they pass. */
  readonly patientWith: readonly string[]
  /** Opens it. Throws SystemFailure or Failure and leaves nothing behind; may be called again after that. */
  open(): void
  /**
   * Its descriptor came to its end. `code`: 0 the peer closed, else errno. Returns true if it shall be opened again.
   */
  failed(code: number): boolean
  /** Looks whether the device is still as it was; called about once a second. */
  check(): void
  /** Frames that the kernel dropped before Weft could take them, since the port was made; a kind that knows it. */
  losses?(): number
  /** A new MTU for the link. */
  setMtu(mtu: number): void
  /** The link by order: pulls the cable at the guest's end, where the kind can show it. */
  setLink(up: boolean): void
  /** A new shard process has attached the port anew: shares again with it what is not in `attach`. */
  restore?(): void
  /** Ring ports only: a frame that the port sends. The bytes are valid during the call. */
  sent?(timeNanos: bigint, bytes: Uint8Array): void
  close(): void
}

/** The place of a network namespace given by name or process id; '' for null, this process's own. */
export function namespacePath(netns: string | null): string {
  if (netns === null) return ''
  return /^\d+$/.test(netns) ? `/proc/${netns}/ns/net` : `/run/netns/${netns}`
}

/** Refuses a namespace that does not exist, so that the error is about it and not about the device. */
export function requireNamespace(netns: string | null): void {
  if (netns !== null && !existsSync(namespacePath(netns))) throw new SystemFailure(ENOENT, `network namespace ${netns}`)
}

/** A sentence for what went wrong: the object and the reason. */
export function explain(error: unknown): string {
  if (!(error instanceof SystemFailure)) return error instanceof Error ? error.message : String(error)
  const name = error.what
  const known: Record<string, string> = {
    ENODEV: `${name}: no such device`,
    ENXIO: `${name}: no such device`,
    ENETDOWN: `${name}: the interface is down`,
    EPERM: `${name}: permission denied (CAP_NET_ADMIN or CAP_NET_RAW is needed)`,
    EACCES: `${name}: permission denied`,
    EBUSY: `${name}: the device is in use`,
    EADDRINUSE: `${name}: the path is in use`,
    ENOENT: `${name}: does not exist`,
    ECONNREFUSED: `${name}: nobody listens there`,
    ENAMETOOLONG: `${name}: longer than the 107 bytes of a socket path`,
    EINVAL: `${name}: not a device of this kind`,
    EPROTOTYPE: `${name}: not an Ethernet interface`,
    EBADFD: `${name}: the device was deleted`,
  }
  return known[error.code] ?? `${name}: ${error.code}`
}

const ENOENT = 2
