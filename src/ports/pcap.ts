/**
 * Kind `pcap`: a capture file as a port. Reading, its frames are received by the port, once, in order and as fast as
 * the switch takes them; writing, what the port sends goes to a pcapng file. Runs in the control process, over the
 * shard's inject and punt rings: no guest's frame waits for a disk.
 *
 * What is written to is made new, or is a file of the daemon's user that is empty or a pcapng file already: a slip, or
 * a link that somebody else has laid there, costs nobody a file. Links, FIFOs and devices are refused.
 *
 * A frame of a capture that was cut when it was taken is received as it is. A file that ends within a record, or is
 * none, ends the port with the place where; the frames before have been received.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { TAKES_CHECKSUM, TAKES_TSO4, TAKES_TSO6, TAKES_USO } from '../dataplane/port-table.js'
import type { Device, Socket } from './device.js'
import { CaptureReader, interfaceDescription, packetBytes, sectionHeader, writePacket } from './pcapng.js'

export interface PcapOptions {
  read: string | null
  write: string | null
}

const CHUNK_BYTES = 65536
/** Frames handed in before other work of the control process gets its turn. */
const FRAMES_A_TURN = 512
const AGAIN_MILLIS = 1
/** Type of the block that a pcapng file begins with, the same in both byte orders. */
const SECTION_HEADER = 0x0a0d0d0a

export class PcapDevice implements Device {
  readonly hasPeer = false
  readonly offloads = TAKES_CHECKSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_USO // recorded as they pass
  readonly mac = null
  readonly mtuLimit = 0
  readonly patientWith = []
  private readonly options: PcapOptions
  private readonly name: string
  private readonly socket: Socket
  private reading = -1
  private writing = -1
  private timer: NodeJS.Timeout | null = null

  constructor(options: PcapOptions, name: string, socket: Socket) {
    this.options = options
    this.name = name
    this.socket = socket
  }

  open(): void {
    const { read, write } = this.options
    if (read !== null && this.reading < 0) this.reading = openSync(read, 'r')
    if (write !== null && this.writing < 0) {
      this.writing = openRecord(write)
      writeSync(this.writing, sectionHeader())
      writeSync(this.writing, interfaceDescription(this.name))
    }
    this.socket.report('up', null)
    if (this.reading >= 0) this.play(this.frames(this.reading))
  }

  failed(): boolean {
    return false
  }

  check(): void {}

  setMtu(): void {}

  setLink(): void {}

  sent(timeNanos: bigint, bytes: Uint8Array): void {
    if (this.writing < 0) return
    const block = new Uint8Array(packetBytes(bytes.length))
    writePacket(block, 0, { interface: 0, timeNanos, direction: 'out', bytes })
    try {
      writeSync(this.writing, block)
    } catch (error) {
      closeSync(this.writing)
      this.writing = -1
      this.socket.report('error', `${this.options.write}: ${(error as Error).message}`)
    }
  }

  close(): void {
    if (this.timer) clearTimeout(this.timer)
    for (const fd of [this.reading, this.writing]) if (fd >= 0) closeSync(fd)
    this.reading = this.writing = -1
  }

  private *frames(fd: number): Generator<Uint8Array> {
    const reader = new CaptureReader()
    const chunk = Buffer.alloc(CHUNK_BYTES)
    for (let got = readSync(fd, chunk); got > 0; got = readSync(fd, chunk))
      for (const frame of reader.read(chunk.subarray(0, got))) yield frame.bytes
    reader.end()
  }

  /** Hands in frames until the ring is full or others should have a turn, then goes on a little later. */
  private play(frames: Generator<Uint8Array>, waiting: Uint8Array | null = null): void {
    try {
      let frame = waiting
      for (let i = 0; i < FRAMES_A_TURN; i++) {
        if (frame === null) {
          const next = frames.next()
          if (next.done) {
            this.socket.report('up', 'the whole file was read')
            return
          }
          frame = next.value
        }
        if (!this.socket.inject(frame)) break
        frame = null
      }
      this.timer = setTimeout(() => this.play(frames, frame), AGAIN_MILLIS)
    } catch (error) {
      this.socket.report('error', `${this.options.read}: ${(error as Error).message}`)
    }
  }
}

/** Opens a file to write a capture into from its start. Throws, and changes nothing, if it is not ours to write. */
function openRecord(path: string): number {
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants
  const fd = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600)
  try {
    const status = fstatSync(fd)
    const { size, uid, nlink } = status
    if (!status.isFile()) throw new Error('it is no regular file')
    if (uid !== process.geteuid?.()) throw new Error(`it belongs to user ${uid}`)
    if (nlink > 1) throw new Error('it has other names (hard links)')
    if (size > 0 && !isCapture(fd)) throw new Error('it exists and is no pcapng file')
    ftruncateSync(fd)
    return fd
  } catch (error) {
    closeSync(fd)
    throw new Error(`${path}: ${(error as Error).message}`, { cause: error })
  }
}

function isCapture(fd: number): boolean {
  const start = Buffer.alloc(4)
  return readSync(fd, start, 0, 4, 0) === 4 && start.readUInt32LE() === SECTION_HEADER
}
