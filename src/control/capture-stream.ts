/**
 * A capture that a client reads: frames from the fabric, packed into pcapng, sent as binary messages.
 *
 * All binary messages of a connection, one after another, make one pcapng file: so a connection has one capture at a
 * time. Blocks are gathered and sent when the event loop is free or 64 KiB have come together. While 16 MiB wait to be
 * sent, frames are dropped and counted as lost: a slow reader costs itself frames and the switch nothing.
 */
import { compileFilter } from '../dataplane/filter-compile.js'
import { interfaceDescription, packetBytes, sectionHeader, writePacket } from '../ports/pcapng.js'
import type { Methods } from './api.js'
import type { CaptureEnd } from './api-results.js'
import { Failure } from './failure.js'
import type { Capture, CapturedFrame, Fabric } from './model.js'
import type { Networks } from './networks.js'
import { invalid } from './schema.js'

const BACKLOG_BYTES = 16 << 20
const MESSAGE_BYTES = 64 << 10

/** Where the file goes: a client's connection. */
export interface CaptureSink {
  send(bytes: Uint8Array): void
  backlogBytes(): number
  /** the wanted number of frames is reached */
  ended(end: CaptureEnd): void
}

/** The capture of one client, if it has one. */
export class CaptureStream {
  private readonly networks: Networks
  private readonly fabric: Fabric
  private readonly sink: CaptureSink
  private current: Recording | null = null
  private starting = false
  private closed = false

  constructor(networks: Networks, fabric: Fabric, sink: CaptureSink) {
    this.networks = networks
    this.fabric = fabric
    this.sink = sink
  }

  async start({ network, port, filter, count }: Methods['capture.start']['params']): Promise<void> {
    if (this.current !== null || this.starting) {
      throw new Failure('ERR_CAPACITY', 'a connection has one capture at a time; open another for a second')
    }
    this.networks.requireActive(network)
    if (port !== undefined) this.networks.port(network, port)
    const { name } = this.networks.definition(network)
    const program = compiled(filter ?? '')
    const names = port === undefined ? this.networks.ports(network).map((one) => one.name) : [port]
    const recording = new Recording(this.sink, names, count ?? Number.POSITIVE_INFINITY, () => this.finish())
    this.starting = true
    try {
      recording.capture = await this.fabric.capture(name, port ?? null, program, (frame) => recording.take(frame))
    } finally {
      this.starting = false
    }
    this.current = recording
    if (this.closed) await this.close()
    else if (recording.full) this.finish()
  }

  async stop(): Promise<CaptureEnd> {
    const recording = this.current
    if (recording === null) throw new Failure('ERR_NOT_FOUND', 'this connection has no capture')
    this.current = null
    return recording.stop()
  }

  /** The connection is gone. */
  async close(): Promise<void> {
    this.closed = true
    const recording = this.current
    this.current = null
    if (recording !== null) await recording.stop()
  }

  private finish(): void {
    const recording = this.current
    if (recording === null) return
    this.current = null
    recording.stop().then(
      (end) => this.sink.ended(end),
      () => this.sink.ended({ frames: recording.frames, lost: recording.lost }),
    )
  }
}

class Recording {
  capture: Capture | null = null
  frames = 0
  lost = 0
  private readonly sink: CaptureSink
  private readonly limit: number
  private readonly onFull: () => void
  private readonly interfaces = new Map<string, number>()
  private gathered = new Uint8Array(MESSAGE_BYTES)
  private used = 0
  private flushing: NodeJS.Immediate | null = null
  private stopped = false

  constructor(sink: CaptureSink, ports: readonly string[], limit: number, onFull: () => void) {
    this.sink = sink
    this.limit = limit
    this.onFull = onFull
    this.append(sectionHeader())
    for (const port of ports) this.interfaceOf(port)
  }

  get full(): boolean {
    return this.frames >= this.limit
  }

  take(frame: CapturedFrame): void {
    if (this.stopped || this.full) return
    if (this.sink.backlogBytes() > BACKLOG_BYTES) {
      this.lost++
      return
    }
    const number = this.interfaceOf(frame.port)
    this.reserve(packetBytes(frame.bytes.length))
    this.used = writePacket(this.gathered, this.used, { ...frame, interface: number })
    this.frames++
    if (this.full) this.onFull()
  }

  async stop(): Promise<CaptureEnd> {
    await this.capture?.stop()
    this.stopped = true
    this.flush()
    return { frames: this.frames, lost: this.lost + (this.capture?.lost() ?? 0) }
  }

  /** The number of a port's interface in the file, described there when it is first seen. */
  private interfaceOf(port: string): number {
    const known = this.interfaces.get(port)
    if (known !== undefined) return known
    const number = this.interfaces.size
    this.interfaces.set(port, number)
    this.append(interfaceDescription(port))
    return number
  }

  private append(bytes: Uint8Array): void {
    this.reserve(bytes.length)
    this.gathered.set(bytes, this.used)
    this.used += bytes.length
  }

  private reserve(bytes: number): void {
    if (this.used + bytes > this.gathered.length) {
      this.flush()
      if (bytes > this.gathered.length) this.gathered = new Uint8Array(bytes)
    }
    this.flushing ??= setImmediate(() => this.flush())
  }

  private flush(): void {
    if (this.flushing !== null) clearImmediate(this.flushing)
    this.flushing = null
    if (this.used === 0) return
    this.sink.send(this.gathered.slice(0, this.used))
    this.used = 0
  }
}

function compiled(filter: string): Int32Array | null {
  if (filter.trim() === '') return null
  try {
    return compileFilter(filter)
  } catch (error) {
    throw invalid('filter', (error as Error).message.replace(/^filter: /, ''))
  }
}
