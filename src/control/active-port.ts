/**
 * A port that runs: its number in the shard, its device, its state. Opens the device, tries again with back-off when it
 * breaks, and hands its descriptors to the shard. What it carries is counted in the arena.
 */
import { userInfo } from 'node:os'
import { readFileSync } from 'node:fs'
import {
  COMPLETED_CHECKSUMS,
  COUNTER_SHIFT,
  DROP_SHIFT,
  RECEIVED_BYTES,
  RECEIVED_PACKETS,
  SEGMENTED_PACKETS,
  TRANSMITTED_BYTES,
  TRANSMITTED_PACKETS,
} from '../dataplane/layout.js'
import { DROP_FIRST_TRANSMIT, DROP_NAMES, DROP_REASONS, DROP_RECEIVE_OVERFLOW } from '../dataplane/drops.js'
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } from '../dataplane/port-table.js'
import { type Device, type GuestChange, ShardEnded, type Socket, explain } from '../ports/device.js'
import { SystemFailure } from '../ports/native.js'
import { NetdevDevice } from '../ports/netdev.js'
import { PcapDevice } from '../ports/pcap.js'
import { QemuDevice } from '../ports/qemu.js'
import { TapDevice } from '../ports/tap.js'
import { VhostUserDevice } from '../ports/vhost-user.js'
import { Failure, type FailureCode } from './failure.js'
import { injectFrame } from './inject.js'
import type { Carrier } from './carrier.js'
import type { PortDefinition, PortStatus } from './model.js'
import { clearRows } from './port-rows.js'

const RETRY_FIRST_MILLIS = 200
const RETRY_MOST_MILLIS = 3000

/** Error codes of a device that is no more. */
const GONE = ['ENODEV', 'ENXIO', 'ENOENT', 'EBADFD']

type State = PortStatus['state']

export class ActivePort implements Socket {
  readonly number: number
  definition: PortDefinition
  state: State = 'down'
  reason: string | null = null
  /** the network's MTU, for a port that has none of its own */
  networkMtu: number
  readonly device: Device
  private readonly carrier: Carrier
  private readonly onChange: (port: ActivePort, isState: boolean) => void
  private attachment = 0
  private attached: { kind: number; fds: number[] } | null = null
  private attachedAt = '' // the seat of its carrier then
  private isSuspended = false
  private settled: Promise<unknown> = Promise.resolve()
  private retry: NodeJS.Timeout | null = null
  private retryMillis = RETRY_FIRST_MILLIS
  private closed = false

  constructor(
    number: number,
    definition: PortDefinition,
    networkMtu: number,
    mac: string,
    carrier: Carrier,
    /** `isState`: it went up, down or wrong; else only what the shard must know of it has changed */
    onChange: (port: ActivePort, isState: boolean) => void,
  ) {
    this.number = number
    this.definition = definition
    this.networkMtu = networkMtu
    this.carrier = carrier
    this.onChange = onChange
    this.device = createDevice(definition, mac, this.wantedMtu(), this)
    this.device.setLink(definition.link)
    clearRows(this.carrier.arena, this.number)
  }

  /** bytes of an IP packet */
  get mtu(): number {
    const wanted = this.wantedMtu()
    return this.device.mtuLimit > 0 ? Math.min(wanted, this.device.mtuLimit) : wanted
  }

  /**
   * Opens the device. Rejects with a Failure if it cannot be; `patient`: keeps trying instead.
   */
  async open(patient: boolean): Promise<void> {
    try {
      this.device.open()
      await this.settled
    } catch (error) {
      const waits = error instanceof SystemFailure && this.device.patientWith.includes(error.code)
      if (!patient && !waits) {
        this.closed = true
        this.device.close()
        throw asFailure(error, this.definition)
      }
      this.report(waits ? 'down' : 'error', explain(error))
      this.openLater()
    }
  }

  /** Closes the device; resolves when the shard has let go of it too. */
  async close(): Promise<void> {
    this.closed = true
    if (this.retry) clearTimeout(this.retry)
    this.device.close()
    this.detach()
    await this.settled
  }

  /** The shard tells that the descriptor it had came to its end. */
  failed(attachment: number, code: number): void {
    if (this.closed || attachment !== this.attachment || !this.attached) return
    if (this.device.failed(code)) this.openLater()
  }

  check(): void {
    if (this.closed) return
    const before = this.device.mtuLimit
    try {
      this.device.check()
    } catch (error) {
      this.report('error', explain(error))
      this.openLater()
    }
    if (this.device.mtuLimit !== before) this.onChange(this, false)
  }

  /** Its network moves: the shard will let go of it without being asked here, and is told nothing more of it. */
  suspend(): void {
    this.isSuspended = true
    this.attachedAt = ''
  }

  /** The network is where it is to be: what has become of the device meanwhile goes there. */
  resume(): void {
    this.isSuspended = false
    this.reattach()
  }

  /** Gives another shard or a new process of it the descriptors, if it has not got them. */
  reattach(): void {
    if (!this.attached || this.isSuspended || this.attachedAt === this.carrier.seat) return
    this.attach(this.attached.kind, this.attached.fds)
    this.device.restore?.()
  }

  change(definition: PortDefinition, networkMtu: number): void {
    const before = this.wantedMtu()
    this.definition = definition
    this.networkMtu = networkMtu
    try {
      if (this.wantedMtu() !== before) this.device.setMtu(this.wantedMtu())
      this.device.setLink(definition.link)
    } catch (error) {
      // a device that has gone is no reason to refuse settings: they hold when it is back
      if (!(error instanceof SystemFailure && GONE.includes(error.code))) throw error
      this.check()
    }
    this.onChange(this, false)
  }

  // Socket, for the device.

  attach(kind: number, fds: number[]): void {
    this.attached = { kind, fds: [...fds] }
    this.attachment++
    this.retryMillis = RETRY_FIRST_MILLIS
    if (this.isSuspended) return
    this.attachedAt = this.carrier.seat
    const asked = this.carrier.ask(
      { do: 'attach', port: this.number, kind, attachment: this.attachment },
      this.attached.fds,
    )
    this.settle(asked)
    asked.catch((error: Error) => this.report('error', error.message))
  }

  detach(): void {
    if (!this.attached) return
    this.attached = null
    if (!this.isSuspended) this.settle(this.carrier.ask({ do: 'detach', port: this.number }))
  }

  async share(change: GuestChange, fds: number[]): Promise<number> {
    // another process is asked nothing before it has the port
    if (this.carrier.seat !== this.attachedAt) throw new ShardEnded()
    const asked = this.carrier.ask({ do: 'share', port: this.number, change }, fds)
    this.settle(asked)
    try {
      return await asked
    } catch (error) {
      const isCut = error instanceof SystemFailure && (error.code === 'EPIPE' || error.code === 'ECONNRESET')
      throw isCut || this.carrier.seat !== this.attachedAt ? new ShardEnded() : error
    }
  }

  openLater(): void {
    if (this.closed || this.retry) return
    this.retry = setTimeout(() => {
      this.retry = null
      if (!this.closed) void this.open(true)
    }, this.retryMillis)
    this.retry.unref()
    this.retryMillis = Math.min(this.retryMillis * 2, RETRY_MOST_MILLIS)
  }

  report(state: State, reason: string | null): void {
    if (this.closed || (state === this.state && reason === this.reason)) return
    this.state = state
    this.reason = reason
    this.onChange(this, true)
  }

  inject(bytes: Uint8Array): boolean {
    return injectFrame(this.carrier, this.number, bytes)
  }

  /** What its device and the shard know of it. */
  status(): Omit<PortStatus, 'leases'> {
    const { arena } = this.carrier
    const counter = (which: number): number => arena.counters[(this.number << COUNTER_SHIFT) + which]
    const drops: Record<string, number> = {}
    let receiveDropped = 0
    let transmitDropped = 0
    for (let reason = 0; reason < DROP_REASONS; reason++) {
      const lost = reason === DROP_RECEIVE_OVERFLOW ? (this.device.losses?.() ?? 0) : 0
      const count = arena.drops[(this.number << DROP_SHIFT) + reason] + lost
      const name = DROP_NAMES[reason]
      if (count === 0 || name === undefined) continue
      drops[name] = count
      if (reason >= DROP_FIRST_TRANSMIT) transmitDropped += count
      else receiveDropped += count
    }
    const { definition } = this
    const linkDown = !definition.link
    return {
      name: definition.name,
      kind: definition.kind,
      state: linkDown && this.state !== 'error' ? 'down' : this.state,
      reason: linkDown && this.state !== 'error' ? 'the link is down by order' : this.reason,
      mac: this.definition.mac ?? this.device.mac,
      mtu: this.mtu,
      vlan: definition.vlan,
      isolated: definition.isolated,
      link: definition.link,
      macLimit: definition.macLimit,
      leaseLimit: definition.leaseLimit,
      addresses: definition.addresses,
      allow: definition.allow,
      offloads: offloadNames(this.device.offloads),
      receive: {
        packets: counter(RECEIVED_PACKETS),
        bytes: counter(RECEIVED_BYTES),
        dropped: receiveDropped,
      },
      transmit: {
        packets: counter(TRANSMITTED_PACKETS),
        bytes: counter(TRANSMITTED_BYTES),
        dropped: transmitDropped,
      },
      drops,
      software: { segmented: counter(SEGMENTED_PACKETS), checksums: counter(COMPLETED_CHECKSUMS) },
      options: portOptions(definition),
    }
  }

  private wantedMtu(): number {
    return this.definition.mtu ?? this.networkMtu
  }

  private settle(asked: Promise<unknown>): void {
    const before = this.settled
    this.settled = before.then(() => asked).catch(() => undefined)
  }
}

function createDevice(port: PortDefinition, mac: string, mtu: number, socket: Socket): Device {
  switch (port.kind) {
    case 'tap':
      return new TapDevice({ ...port, mac, owner: ownerOf(port.owner) }, mtu, socket)
    case 'netdev':
      return new NetdevDevice(port, socket)
    case 'qemu':
      return new QemuDevice(port, socket)
    case 'vhost-user':
      return new VhostUserDevice(port, socket)
    case 'pcap':
      return new PcapDevice(port, port.name, socket)
  }
}

/** The options that only a port's kind has: what its device depends on. */
export function portOptions(port: PortDefinition): PortStatus['options'] {
  switch (port.kind) {
    case 'tap': {
      const { kind, dev, netns, queues, owner, offloads } = port
      return { kind, dev, netns, queues, owner, offloads }
    }
    case 'netdev':
      return { kind: port.kind, dev: port.dev, netns: port.netns }
    case 'qemu':
      return { kind: port.kind, path: port.path, client: port.client, dgram: port.dgram }
    case 'vhost-user': {
      const { kind, path, client, queues, poll, offloads } = port
      return { kind, path, client, queues, poll, offloads }
    }
    case 'pcap':
      return { kind: port.kind, read: port.read, write: port.write }
  }
}

/** Looked up when the device is opened: a user who is not there is that port's fault, and may come. */
function ownerOf(owner: string | null): () => number | null {
  return () => (owner === null ? null : userId(owner))
}

function offloadNames(offloads: number): string[] {
  const names: [bit: number, name: string][] = [
    [TAKES_CHECKSUM, 'checksum'],
    [TAKES_TSO4, 'tso4'],
    [TAKES_TSO6, 'tso6'],
    [TAKES_USO, 'uso'],
  ]
  return names.filter(([bit]) => (offloads & bit) !== 0).map(([, name]) => name)
}

function userId(user: string): number {
  if (/^\d+$/.test(user)) return Number(user)
  const me = userInfo()
  if (me.username === user) return me.uid
  for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const [name, , uid] = line.split(':')
    if (name === user) return Number(uid)
  }
  throw new Failure('ERR_NOT_FOUND', `owner ${user}: no such user`)
}

function asFailure(error: unknown, port: PortDefinition): Failure {
  if (error instanceof Failure) return error
  const codes: Record<string, FailureCode> = {
    ENODEV: 'ERR_DEVICE_NOT_FOUND',
    ENXIO: 'ERR_DEVICE_NOT_FOUND',
    ENOENT: 'ERR_DEVICE_NOT_FOUND',
    EPERM: 'ERR_PERMISSION',
    EACCES: 'ERR_PERMISSION',
    EBUSY: 'ERR_PORT_BUSY',
    EADDRINUSE: 'ERR_PORT_BUSY',
    ENAMETOOLONG: 'ERR_INVALID',
    EINVAL: 'ERR_INVALID',
  }
  const code = (error as NodeJS.ErrnoException).code ?? ''
  return new Failure(codes[code] ?? 'ERR_IO', `port ${port.name}: ${explain(error)}`)
}
