/**
 * A vhost-user device under test: its socket only notes what it is told, its peers are scripted front-ends. `finish`
 * closes everything and fails if a descriptor is left.
 */
import assert from 'node:assert/strict'
import { existsSync, fstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import { type GuestChange, type Socket } from '../../src/ports/device.js'
import { native } from '../../src/ports/native.js'
import { VhostUserDevice, type VhostUserOptions } from '../../src/ports/vhost-user.js'
import * as wire from '../../src/ports/vhost-user-message.js'
import { FrontEnd, GUEST, MEMORY_BYTES, type TestRegion, USER } from '../rig/vhost-front-end.js'

/** Notes what a device tells it; answers as a test orders. */
export class NotingSocket implements Socket {
  readonly changes: GuestChange[] = []
  readonly injected: Uint8Array[] = []
  readonly reports: string[] = []
  attachments = 0
  attached = false
  laters = 0
  /** what `share` results in */
  result: (change: GuestChange) => number | Promise<number> = (change) => (change.set === 'stop' ? 7 : 0)

  attach(): void {
    assert.ok(!this.attached, 'attached twice')
    this.attached = true
    this.attachments++
  }

  detach(): void {
    assert.ok(this.attached, 'detached without being attached')
    this.attached = false
  }

  report(state: string, reason: string | null): void {
    const text = reason === null ? state : `${state}: ${reason.replace(/^vhost-user \S+: /, '')}`
    if (this.reports.at(-1) !== text) this.reports.push(text)
  }

  get state(): string {
    return this.reports.at(-1) ?? ''
  }

  async share(change: GuestChange, fds: number[]): Promise<number> {
    assert.ok(this.attached, 'shares what is not attached')
    for (const fd of fds) fstatSync(fd) // each is open
    if (change.set === 'memory') assert.equal(fds.length, change.regions.length)
    if (change.set === 'ring') assert.equal(fds.length, Number(change.kick) + Number(change.call))
    this.changes.push(change)
    return this.result(change)
  }

  inject(bytes: Uint8Array): boolean {
    this.injected.push(bytes)
    return true
  }

  openLater(): void {
    this.laters++
  }

  /** The last change of a ring, and what ring changes there were. */
  ring(index: number): Extract<GuestChange, { set: 'ring' }> | undefined {
    return this.rings(index).at(-1)
  }

  rings(index: number): Extract<GuestChange, { set: 'ring' }>[] {
    return this.changes.filter((change) => change.set === 'ring').filter((change) => change.ring === index)
  }
}

const descriptors = (): number => readdirSync('/proc/self/fd').length
export const whole: TestRegion = { guest: GUEST, bytes: BigInt(MEMORY_BYTES), user: USER }
export const state = wire.vringStatePayload
export const word = wire.wordPayload

export let path = ''
export let socket: NotingSocket
export let device: VhostUserDevice
export const peers: FrontEnd[] = []
let folder = ''
let open = 0

/** Once a test file. */
export function begin(): void {
  folder = mkdtempSync(join(tmpdir(), 'weft-vhost-'))
  path = join(folder, 'port.sock')
  const watch = native.watch(native.createEvent(), () => {}) // the watcher's own descriptors are there from now on
  native.unwatch(watch)
}

export function end(): void {
  rmSync(folder, { recursive: true })
}

/** A new device, which is opened unless it is a client. */
export function make(options: Partial<VhostUserOptions> = {}): void {
  open = descriptors()
  socket = new NotingSocket()
  device = new VhostUserDevice({ path, client: false, poll: false, offloads: true, ...options }, socket)
  if (options.client !== true) device.open()
}

/** Closes everything; no descriptor is left. */
export async function finish(): Promise<void> {
  for (const peer of peers) peer.close()
  peers.length = 0
  device.close()
  await turn()
  assert.equal(descriptors(), open, 'descriptors')
  assert.ok(!existsSync(path))
  assert.ok(!socket.attached)
}

export function connect(): FrontEnd {
  const peer = FrontEnd.connect(path)
  peers.push(peer)
  return peer
}

export async function greeted(): Promise<FrontEnd> {
  const peer = connect()
  await peer.greet()
  return peer
}

export async function started(): Promise<FrontEnd> {
  const peer = await greeted()
  await peer.start()
  return peer
}

export async function until(what: string, ask: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!ask()) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what} (${socket.reports.join(' | ')})`)
    await pause(1)
  }
}
