/**
 * A capture in a namespace: tcpdump writes a file, the frames are read back from it here, or by tshark.
 *
 * tcpdump restores a VLAN tag that the kernel keeps beside the frame, so frames are as on the wire. To prove that a
 * frame was NOT seen, first let one that must be seen come last, wait for it with `see`, and then look at `frames`: all
 * that arrived earlier is in the file by then (tcpdump runs in immediate mode and writes each packet as it comes).
 *
 * Reads the classic pcap format in either byte order; the last record may be incomplete while tcpdump still writes.
 */
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Background, run, until } from './commands.js'
import type { Namespace } from './namespaces.js'

let serial = 0
const files: string[] = []

process.on('exit', () => {
  for (const path of files) rmSync(path, { force: true })
})

/** The frames of a pcap file, complete ones only. */
export function readPcap(path: string): Uint8Array[] {
  const file = readFileSync(path)
  if (file.length < 24) return []
  const little = file.readUInt32LE(0) === 0xa1b2c3d4 || file.readUInt32LE(0) === 0xa1b23c4d
  const frames: Uint8Array[] = []
  let at = 24
  while (at + 16 <= file.length) {
    const length = little ? file.readUInt32LE(at + 8) : file.readUInt32BE(at + 8)
    if (at + 16 + length > file.length) break
    frames.push(new Uint8Array(file.subarray(at + 16, at + 16 + length)))
    at += 16 + length
  }
  return frames
}

/** Reads a capture of any format with tshark: one row for each packet, one string for each field. */
export async function tshark(path: string, fields: readonly string[], filter = ''): Promise<string[][]> {
  const args = ['-n', '-r', path, '-T', 'fields', '-E', 'separator=/t', ...fields.flatMap((field) => ['-e', field])]
  if (filter !== '') args.push('-Y', filter)
  const text = await run('tshark', args, { timeoutSeconds: 120 })
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => line.split('\t'))
}

export class Capture {
  readonly path: string
  private readonly program: Background

  private constructor(path: string, program: Background) {
    this.path = path
    this.program = program
  }

  static async start(
    space: Namespace,
    device: string,
    options: { filter?: string; only?: 'in' | 'out' },
  ): Promise<Capture> {
    serial++
    const path = join(tmpdir(), `weftt-${process.pid}-capture-${serial}.pcap`)
    files.push(path)
    const args = ['-n', '-U', '--immediate-mode', '-Z', 'root', '-B', '16384', '-s', '65535', '-i', device, '-w', path]
    if (options.only !== undefined) args.push('-Q', options.only)
    if (options.filter !== undefined) args.push(options.filter)
    const program = space.spawn('tcpdump', args)
    await until(`tcpdump listens on ${device}`, () => {
      if (!program.running) throw new Error(program.stderr)
      return program.stderr.includes('listening on')
    })
    return new Capture(path, program)
  }

  /** What has been captured so far. */
  frames(): Uint8Array[] {
    return readPcap(this.path)
  }

  /** Waits until a frame for which `wanted` is true has been captured, and returns it. */
  see(what: string, wanted: (frame: Uint8Array) => boolean, seconds = 20): Promise<Uint8Array> {
    return until(`captured: ${what}`, () => this.frames().find(wanted), seconds)
  }

  /** Ends tcpdump and returns all frames. */
  async stop(): Promise<Uint8Array[]> {
    await this.program.stop('SIGINT')
    return this.frames()
  }
}
