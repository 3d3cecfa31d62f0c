/**
 * The shard that carries a network, whichever it is: ports, router and uplink ask their shard by way of this, and need
 * not know that it has become another.
 *
 * While the network moves, its carrier is held: what is asked and injected meanwhile waits, in order, and goes to
 * where the network is in the end. Requests are few then; of frames KEPT_FRAMES wait, further ones are refused as by a
 * full ring.
 */
import type { Ring } from '../dataplane/ring.js'
import type { Arena } from '../dataplane/layout.js'
import { check, native } from '../ports/native.js'
import { injectFrame } from './inject.js'
import type { Shard } from './shard.js'
import type { RequestBody } from './shard-channel.js'

/** Frames from the control process that wait while a network moves. */
const KEPT_FRAMES = 64

export class Carrier {
  private current: Shard
  /** what waits while it is held; null: it is not */
  private waiting: (() => void)[] | null = null
  private kept: { port: number; bytes: Uint8Array }[] = []

  constructor(shard: Shard) {
    this.current = shard
  }

  get shard(): Shard {
    return this.current
  }

  get arena(): Arena {
    return this.current.arena
  }

  get punt(): Ring {
    return this.current.punt
  }

  /** Names the shard's process: what another one was told is lost. */
  get seat(): string {
    return `${this.current.index}.${this.current.incarnation}`
  }

  get isHeld(): boolean {
    return this.waiting !== null
  }

  async ask(request: RequestBody, fds: number[] = []): Promise<number> {
    const result = await this.askList(request, fds)
    return typeof result === 'number' ? result : result.length
  }

  /** See `Shard.askList`. */
  askList(request: RequestBody, fds: number[] = []): Promise<number | number[]> {
    const { waiting } = this
    if (waiting === null) return this.current.askList(request, fds)
    // the caller may close his descriptors when this returns
    const copies = fds.map((fd) => check(native.duplicate(fd), 'descriptor'))
    return new Promise((resolve, reject) => {
      waiting.push(() => {
        this.current.askList(request, copies).then(resolve, reject)
        for (const fd of copies) native.close(fd)
      })
    })
  }

  /** Keeps a frame until the carrier is let go; false: too many wait. */
  keep(port: number, bytes: Uint8Array): boolean {
    if (this.kept.length >= KEPT_FRAMES) return false
    this.kept.push({ port, bytes: bytes.slice() })
    return true
  }

  hold(): void {
    this.waiting ??= []
  }

  /** From now on this shard carries the network; what waited goes to it. */
  letGo(shard: Shard): void {
    this.current = shard
    const waiting = this.waiting ?? []
    this.waiting = null
    for (const send of waiting) send()
    for (const { port, bytes } of this.kept.splice(0)) injectFrame(this, port, bytes)
  }
}
