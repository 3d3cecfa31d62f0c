/**
 * DNS over TCP (RFC 1035 section 4.2.2, RFC 7766): messages behind their length in two bytes. Both ends use it: the
 * server for its clients, the forwarder for its upstreams. Bytes come in pieces of any size; a piece may hold several
 * messages.
 *
 * A connection of a client's gets 100 answers, then it is closed; queries are answered in the order in which answers
 * are found. A message is held until it is whole: at most 64 KiB a connection.
 */
import { MESSAGE_BYTES, setWord, word } from './dns-codec.js'

const QUERIES = 100

export class DnsFrames {
  private readonly onMessage: (message: Uint8Array) => void
  private held = new Uint8Array(0)
  private filled = 0
  private isStopped = false

  /** @param onMessage gets each message, which it may keep */
  constructor(onMessage: (message: Uint8Array) => void) {
    this.onMessage = onMessage
  }

  push(bytes: Uint8Array): void {
    let at = 0
    while (!this.isStopped && at < bytes.length) {
      const wanted = this.filled < 2 ? 2 : 2 + word(this.held, 0)
      const count = Math.min(wanted - this.filled, bytes.length - at)
      if (this.held.length < this.filled + count) this.grow(this.filled + count, wanted)
      this.held.set(bytes.subarray(at, at + count), this.filled)
      this.filled += count
      at += count
      if (this.filled < 2 || this.filled < 2 + word(this.held, 0)) continue
      const message = this.held.slice(2, this.filled)
      this.filled = 0
      this.onMessage(message)
    }
  }

  /** Memory is taken as bytes come, not as a length promises. */
  private grow(needed: number, wanted: number): void {
    const larger = new Uint8Array(Math.min(Math.max(needed, 2 * this.held.length, 64), Math.max(wanted, needed)))
    larger.set(this.held.subarray(0, this.filled))
    this.held = larger
  }

  /** No message is given any more, also while one is. */
  stop(): void {
    this.isStopped = true
    this.held = new Uint8Array(0)
    this.filled = 0
  }
}

/** A message as it goes over TCP. */
export function framed(message: Uint8Array): Uint8Array {
  if (message.length > MESSAGE_BYTES) throw new RangeError(`a DNS message of ${message.length} bytes`)
  const bytes = new Uint8Array(2 + message.length)
  setWord(bytes, 0, message.length)
  bytes.set(message, 2)
  return bytes
}

/** What is needed of a connection: `TcpConnection` is one. */
export interface ByteStream {
  onData: (bytes: Uint8Array) => void
  /** the other end sends nothing more */
  onEnd: () => void
  onClose: () => void
  write(bytes: Uint8Array): void
  end(): void
}

/**
 * Serves a client's connection.
 * @param handle gets a query and where its answer goes; it may answer later, or never
 */
export function serveStream(
  stream: ByteStream,
  handle: (query: Uint8Array, respond: (message: Uint8Array) => void) => void,
): void {
  let asked = 0
  let open = 0 // queries without an answer
  let isEnding = false
  let isClosed = false
  const endIfDone = (): void => {
    if (isEnding && open === 0 && !isClosed) {
      isClosed = true
      stream.end()
    }
  }
  const frames = new DnsFrames((query) => {
    if (++asked === QUERIES) {
      isEnding = true
      frames.stop()
    }
    open++
    let isAnswered = false
    handle(query, (message) => {
      if (isAnswered || isClosed) return
      isAnswered = true
      open--
      stream.write(framed(message))
      endIfDone()
    })
  })
  stream.onData = (bytes) => frames.push(bytes)
  stream.onEnd = () => {
    isEnding = true
    endIfDone()
  }
  stream.onClose = () => {
    isClosed = true
    frames.stop()
  }
}
