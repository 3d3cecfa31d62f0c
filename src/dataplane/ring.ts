/**
 * A ring of messages between a shard and the control process, in the arena: one writer, one reader, no locks.
 *
 *   0: write cursor   128: read cursor   256: messages lost   4096: data, a power of two long
 *
 * Cursors count bytes for ever (int32, wrapping) and are published once a message is whole, with Atomics. A message is
 * a header of RING_MESSAGE_WORDS int32 and its bytes, rounded up to 32; one that would cross the end of the data is
 * preceded by a filler. Full: the message is lost and counted, nothing waits.
 */
import { RING_HEADER_BYTES } from './layout.js'

const WRITE = 0
const READ = 32
const LOST = 64

/** Words before a message's bytes: RING_LENGTH to RING_NANOS. */
export const RING_MESSAGE_WORDS = 8
export const RING_LENGTH = 0 // bytes behind the header
export const RING_KIND = 1
export const RING_ID = 2
export const RING_PORT = 3
export const RING_DIRECTION = 4 // 0: received by the port, 1: sent by it
export const RING_TAG = 5 // TAG_PRESENT | TCI of a tag that stands in front of the payload, else 0
export const RING_SECONDS = 6 // since 1970
export const RING_NANOS = 7

// Kinds of message.
const FILLER = 0
/** A matched frame, for the capture RING_ID. */
export const MESSAGE_CAPTURE = 1
/** A frame that a ring port sends, or is to receive. */
export const MESSAGE_FRAME = 2
/** A frame for a service of the gateway on the segment RING_ID; RING_DIRECTION 1: its checksum is unfinished. */
export const MESSAGE_SERVICE = 3

const ALIGN = 32
const padded = (length: number): number => (RING_MESSAGE_WORDS * 4 + length + ALIGN - 1) & ~(ALIGN - 1)

export class Ring {
  private readonly cursors: Int32Array
  private readonly words: Int32Array
  private readonly bytes: Uint8Array
  private readonly size: number
  /** Byte in the ring's buffer where its data starts: what `reserve` and `peek` return is relative to `base`. */
  private readonly base: number
  private reserved = 0

  /** @param offset of the ring's section in the buffer, @param size of its data, bytes */
  constructor(buffer: ArrayBufferLike, offset: number, size: number) {
    this.cursors = new Int32Array(buffer, offset, 96)
    this.base = offset + RING_HEADER_BYTES
    this.size = size
    this.words = new Int32Array(buffer, this.base, size >> 2)
    this.bytes = new Uint8Array(buffer, 0, this.base + size)
  }

  /** Whether nothing waits to be read. */
  isEmpty(): boolean {
    return Atomics.load(this.cursors, WRITE) === Atomics.load(this.cursors, READ)
  }

  /** Messages that found no room, since the arena was made. */
  lost(): number {
    return Atomics.load(this.cursors, LOST)
  }

  // Writer.

  /**
   * Room for a message of `length` bytes: the index in `header()`'s words of its header, which the caller fills from
   * RING_KIND on; its bytes belong at `place(index)`. Then `publish`. Returns -1 (counted as lost) if the ring is full.
   */
  reserve(length: number): number {
    const need = padded(length)
    const write = this.cursors[WRITE]
    const used = (write - Atomics.load(this.cursors, READ)) | 0
    const at = write & (this.size - 1)
    const filler = at + need > this.size ? this.size - at : 0
    if (used + filler + need > this.size) {
      Atomics.add(this.cursors, LOST, 1)
      return -1
    }
    if (filler > 0) {
      this.words[(at >> 2) + RING_LENGTH] = filler - RING_MESSAGE_WORDS * 4
      this.words[(at >> 2) + RING_KIND] = FILLER
    }
    this.reserved = (write + filler + need) | 0
    const index = ((at + filler) & (this.size - 1)) >> 2
    this.words[index + RING_LENGTH] = length
    return index
  }

  /** Whether `reserve` of this length would find room. */
  hasRoom(length: number): boolean {
    const write = this.cursors[WRITE]
    const at = write & (this.size - 1)
    const need = padded(length)
    const filler = at + need > this.size ? this.size - at : 0
    return ((write - Atomics.load(this.cursors, READ)) | 0) + filler + need <= this.size
  }

  publish(): void {
    Atomics.store(this.cursors, WRITE, this.reserved)
  }

  // Reader.

  /** The header's index of the next message, -1 if there is none. It stays valid until `consume`. */
  peek(): number {
    for (;;) {
      const read = this.cursors[READ]
      if (Atomics.load(this.cursors, WRITE) === read) return -1
      const index = (read & (this.size - 1)) >> 2
      if (this.words[index + RING_KIND] !== FILLER) return index
      this.consume(index)
    }
  }

  /** Gives the room of the message at `index` back to the writer. */
  consume(index: number): void {
    const read = this.cursors[READ]
    Atomics.store(this.cursors, READ, (read + padded(this.words[index + RING_LENGTH])) | 0)
  }

  /** The words in which headers stand. */
  header(): Int32Array {
    return this.words
  }

  /** The buffer's bytes; a message's start at `place(index)`. */
  data(): Uint8Array {
    return this.bytes
  }

  place(index: number): number {
    return this.base + ((index + RING_MESSAGE_WORDS) << 2)
  }
}
