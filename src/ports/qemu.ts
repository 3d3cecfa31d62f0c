/**
 * Kind `qemu`: a guest by QEMU's `-netdev stream` (unix or TCP on loopback, Weft listening or connecting) or
 * `-netdev dgram` (unix).
 *
 * A stream has one peer at a time: while it is connected, another that connects is turned away at once. When it goes,
 * the port is down until the next one; as a client, Weft connects again. With each peer comes a memory for what is
 * received and not yet cut into frames, and for what waits to be sent: a shard process that follows a dead one goes
 * on in the middle of a frame, and the peer notices nothing.
 *
 * A dgram port binds its path and sends to whoever sent to it last, or, as a client, to the given path.
 */
import { unlinkSync } from 'node:fs'
import { KIND_DGRAM, KIND_STREAM, STREAM_BYTES } from '../dataplane/layout.js'
import { type Device, type Socket, explain } from './device.js'
import { SystemFailure, check, native } from './native.js'

export interface QemuOptions {
  /** a unix socket's path, or ADDRESS:PORT */
  path: string
  client: boolean
  dgram: boolean
}

/** Permissions of a listening path: the guest's QEMU may run as another user of the daemon's group. */
const SOCKET_MODE = 0o660

/** ADDRESS:PORT in its parts, null for a path. */
export function tcpEndpoint(path: string): { address: string; port: number } | null {
  const match = /^(?:\[([0-9a-f:]+)\]|(\d+\.\d+\.\d+\.\d+)):(\d+)$/i.exec(path)
  return match ? { address: match[1] ?? match[2], port: Number(match[3]) } : null
}

/** The path that a client of kind dgram binds itself, since its peer must know where to send. */
export const dgramClientPath = (path: string): string => `${path}.weft`

export class QemuDevice implements Device {
  readonly hasPeer: boolean
  readonly offloads = 0
  readonly mac = null
  readonly mtuLimit = 0
  readonly patientWith: readonly string[]
  private readonly options: QemuOptions
  private readonly socket: Socket
  private readonly bound: string
  private listening = -1
  private watch = -1
  private fds: number[] = []

  constructor(options: QemuOptions, socket: Socket) {
    this.options = options
    this.socket = socket
    this.hasPeer = !options.dgram
    this.patientWith = options.client ? ['ENOENT', 'ECONNREFUSED', 'EAGAIN'] : []
    this.bound = options.dgram && options.client ? dgramClientPath(options.path) : options.path
  }

  open(): void {
    const { path, client, dgram } = this.options
    if (dgram) this.openDgram()
    else if (client) this.plugIn(check(this.connect(), `qemu ${path}`))
    else if (this.listening < 0) this.listen()
  }

  failed(code: number): boolean {
    this.unplug()
    const { path, dgram, client } = this.options
    const end = code === 0 ? 'the peer closed the connection' : new SystemFailure(code, 'the connection ended').message
    this.socket.report('down', `qemu ${path}: ${code === EPROTO ? 'the peer sent a malformed length' : end}`)
    return client || dgram
  }

  check(): void {}

  setMtu(): void {}

  setLink(): void {}

  close(): void {
    this.unplug()
    if (this.listening >= 0) {
      native.unwatch(this.watch)
      native.close(this.listening)
      this.listening = -1
      removePath(this.bound)
    }
  }

  private listen(): void {
    const { path } = this.options
    const tcp = tcpEndpoint(path)
    this.listening = check(
      tcp ? native.listenTcp(tcp.address, tcp.port) : native.listenUnix(path, SOCKET_MODE),
      `qemu ${path}`,
    )
    this.watch = check(
      native.watch(this.listening, () => this.accept()),
      `qemu ${path}`,
    )
    this.socket.report('down', `qemu ${path}: nobody is connected`)
  }

  private accept(): void {
    const fd = native.accept(this.listening)
    if (fd < 0) return
    // one that comes again may be faster than the news that its last connection ended
    if (this.fds.length > 0 && native.peerGone(this.fds[0])) this.unplug()
    if (this.fds.length > 0) {
      native.close(fd)
      return
    }
    try {
      this.plugIn(fd)
    } catch (error) {
      this.socket.report('down', explain(error))
    }
  }

  private connect(): number {
    const tcp = tcpEndpoint(this.options.path)
    return tcp ? native.connectTcp(tcp.address, tcp.port) : native.connectUnix(this.options.path)
  }

  /** Takes a connection over; hangs up if there is no memory for it. */
  private plugIn(fd: number): void {
    const memory = native.createMemory(STREAM_BYTES)
    if (memory < 0) {
      native.close(fd)
      throw new SystemFailure(-memory, `qemu ${this.options.path}`)
    }
    this.fds = [fd, memory]
    this.socket.attach(KIND_STREAM, this.fds)
    this.socket.report('up', null)
  }

  private openDgram(): void {
    const { path, client } = this.options
    if (this.listening < 0) this.listening = check(native.bindDgram(this.bound, SOCKET_MODE), `qemu ${this.bound}`)
    const peer = client ? native.connectDgram(path) : -1
    if (client && peer < 0) {
      this.socket.report('down', `qemu ${path}: nobody is there`)
      throw new SystemFailure(-peer, `qemu ${path}`)
    }
    this.fds = client ? [peer] : []
    this.socket.attach(KIND_DGRAM, [this.listening, ...this.fds])
    this.socket.report('up', null)
  }

  private unplug(): void {
    if (this.fds.length === 0 && !this.options.dgram) return
    this.socket.detach()
    for (const fd of this.fds) native.close(fd)
    this.fds = []
  }
}

const EPROTO = 71

function removePath(path: string): void {
  if (tcpEndpoint(path)) return
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
