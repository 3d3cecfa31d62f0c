/**
 * A fake QEMU: the guest's end of a `-netdev stream`, as polite or as rude as a test wants.
 *
 * The wire is a byte stream over a unix or TCP socket: each frame after its length, a 32-bit number in network order
 * (QEMU, net/stream.c). The peer connects to a port that listens (QEMU's server=off) or listens for one that connects
 * (server=on). It keeps the frames it receives, sends frames in one write or in as many as there are bytes, sends
 * bytes that are no frames, and can stop reading so that the socket's buffers fill.
 */
import { type Server, type Socket, connect, createServer } from 'node:net'
import { pause, until } from './commands.js'
import { concat } from './frames.js'

/** A frame with its length in front. */
export function framed(frame: Uint8Array, length = frame.length): Uint8Array {
  const head = new Uint8Array(4)
  new DataView(head.buffer).setUint32(0, length)
  return concat(head, frame)
}

export class StreamPeer {
  readonly received: Uint8Array[] = []
  closed = false
  private readonly socket: Socket
  private readonly server: Server | null
  private rest: Buffer = Buffer.alloc(0)

  private constructor(socket: Socket, server: Server | null) {
    this.socket = socket
    this.server = server
    socket.on('data', (data) => this.take(data))
    socket.on('error', () => {})
    socket.on('close', () => {
      this.closed = true
    })
  }

  /** Connects to the unix socket of a port; tries again until somebody listens there. */
  static connect(path: string, seconds = 20): Promise<StreamPeer> {
    return until(`somebody listens on ${path}`, async () => new StreamPeer(await StreamPeer.dial(path), null), seconds)
  }

  /** Listens on a unix socket and resolves with the peer when a port has connected. */
  static async listen(path: string, listening: () => void = () => {}): Promise<StreamPeer> {
    return new Promise((resolve, reject) => {
      const server = createServer()
      server.once('error', reject)
      server.once('connection', (socket) => resolve(new StreamPeer(socket, server)))
      server.listen(path, listening)
    })
  }

  private static dial(path: string): Promise<Socket> {
    return new Promise((resolve, reject) => {
      const socket = connect(path)
      socket.once('connect', () => resolve(socket))
      socket.once('error', reject)
    })
  }

  private take(data: Buffer): void {
    this.rest = this.rest.length === 0 ? data : Buffer.concat([this.rest, data])
    while (this.rest.length >= 4) {
      const length = this.rest.readUInt32BE(0)
      if (this.rest.length < 4 + length) break
      this.received.push(new Uint8Array(this.rest.subarray(4, 4 + length)))
      this.rest = this.rest.subarray(4 + length)
    }
  }

  /** Sends frames in one write. */
  send(...frames: Uint8Array[]): Promise<void> {
    return this.sendBytes(concat(...frames.map((frame) => framed(frame))))
  }

  /** Sends bytes as they are; resolves when the socket has taken them, or has broken. */
  sendBytes(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      if (this.closed) resolve()
      else this.socket.write(bytes, () => resolve())
    })
  }

  /** Sends frames cut into writes of `size` bytes, each in a turn of its own. */
  async sendInPieces(size: number, ...frames: Uint8Array[]): Promise<void> {
    this.socket.setNoDelay?.(true)
    const bytes = concat(...frames.map((frame) => framed(frame)))
    for (let at = 0; at < bytes.length; at += size) {
      await this.sendBytes(bytes.subarray(at, at + size))
      await pause(1)
    }
  }

  /** Stops reading: what the port sends fills the socket's buffers. */
  stopReading(): void {
    this.socket.pause()
  }

  resumeReading(): void {
    this.socket.resume()
  }

  /** Waits for a received frame for which `wanted` is true. */
  see(what: string, wanted: (frame: Uint8Array) => boolean, seconds = 20): Promise<Uint8Array> {
    return until(`the peer receives ${what}`, () => this.received.find(wanted), seconds)
  }

  /** Waits until the other side has closed the connection. */
  async seeClosed(seconds = 20): Promise<void> {
    await until('the connection is closed', () => this.closed, seconds)
  }

  close(): void {
    this.socket.destroy()
    this.server?.close()
  }
}
