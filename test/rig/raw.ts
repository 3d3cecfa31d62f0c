/**
 * Raw input: frames as a hostile host sends them, into a device of a namespace, UDP segmentation
 * offload, and TCP streams whose content is compared.
 *
 * Works through probe.c beside this file, compiled once for each test process into the lab's folder.
 */
import { join } from 'node:path'
import { type Background, root, run, until } from './commands.js'
import { concat } from './frames.js'
import type { Lab, Namespace } from './namespaces.js'

let serial = 0

/** A frame whose checksum over the bytes from `start` on is to be stored `offset` behind there by whoever takes it. */
export interface Unfinished {
  frame: Uint8Array
  start: number
  offset: number
  /** gso_type of the virtio_net header, with payload bytes a segment */
  gso?: number
  segmentBytes?: number
}

export class Probe {
  private readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  /** Compiles the probe into the lab's folder. */
  static async build(lab: Lab): Promise<Probe> {
    const path = join(lab.folder, 'probe')
    await run('cc', ['-O1', '-Wall', '-o', path, join(root, 'test/rig/probe.c')])
    return new Probe(path)
  }

  /** Sends frames out of a device as they are; returns how many the kernel took and how many it refused. */
  async send(
    space: Namespace,
    device: string,
    frames: readonly Uint8Array[],
  ): Promise<{ sent: number; refused: number }> {
    return this.write('send', space, device, frames)
  }

  /** Sends frames with what a device may leave unfinished: each behind a virtio_net header. */
  async sendUnfinished(space: Namespace, device: string, frames: readonly Unfinished[]): Promise<{ sent: number }> {
    const parts = frames.map(({ frame, start, offset, gso = 0, segmentBytes = 0 }) => {
      const header = new Uint8Array(10)
      const view = new DataView(header.buffer)
      view.setUint8(0, 1) // VIRTIO_NET_HDR_F_NEEDS_CSUM
      view.setUint8(1, gso)
      view.setUint16(2, gso === 0 ? 0 : start + 20, true)
      view.setUint16(4, segmentBytes, true)
      view.setUint16(6, start, true)
      view.setUint16(8, offset, true)
      return concat(header, frame)
    })
    return this.write('send-unfinished', space, device, parts)
  }

  private async write(
    command: string,
    space: Namespace,
    device: string,
    frames: readonly Uint8Array[],
  ): Promise<{ sent: number; refused: number }> {
    const parts = frames.flatMap((frame) => {
      const length = new Uint8Array(4)
      new DataView(length.buffer).setUint32(0, frame.length)
      return [length, frame]
    })
    const text = await space.run(this.path, [command, device], { input: concat(...parts) })
    const found = /sent (\d+) refused (\d+)/.exec(text)
    if (found === null) throw new Error(`probe: ${text}`)
    return { sent: Number(found[1]), refused: Number(found[2]) }
  }

  /** Sends one large UDP write that is cut into `count` datagrams of `size` bytes on its way. */
  async segments(space: Namespace, address: string, port: number, size: number, count: number): Promise<void> {
    await space.run(this.path, ['segments', address, `${port}`, `${size}`, `${count}`])
  }

  /** Passes a patterned TCP stream from one namespace to another; fails unless every byte arrives as it was sent. */
  async stream(from: Namespace, to: Namespace, address: string, megabytes: number): Promise<void> {
    serial++
    const port = `${6000 + (serial % 1000)}`
    const bytes = megabytes * 1_000_000
    const reader = to.spawn(this.path, ['stream-in', port])
    try {
      await until('the reader listens', () => reader.stdout.includes('ready'))
      await from.run(this.path, ['stream-out', address, port, `${bytes}`], { timeoutSeconds: 120 })
      await until('the reader is done', () => !reader.running, 60)
      if (!reader.stdout.includes(`intact ${bytes}\n`)) throw new Error(`TCP: ${reader.stdout}${reader.stderr}`)
    } finally {
      await reader.stop('SIGKILL')
    }
  }

  /** Counts UDP datagrams by their size until `counts` is asked for. */
  async sink(space: Namespace, port: number): Promise<Sink> {
    const program = space.spawn(this.path, ['sink', `${port}`])
    await until('the UDP sink is ready', () => program.stdout.includes('ready'))
    return new Sink(program)
  }
}

export class Sink {
  private readonly program: Background

  constructor(program: Background) {
    this.program = program
  }

  /** Ends the sink; how many datagrams of each size (bytes) arrived. */
  async counts(): Promise<Map<number, number>> {
    this.program.end()
    await this.program.exited
    const lines = this.program.stdout.split('\n').filter((line) => /^\d+ \d+$/.test(line))
    return new Map(lines.map((line) => line.split(' ').map(Number) as [number, number]))
  }
}
