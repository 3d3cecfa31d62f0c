/**
 * Domain names as they stand in messages (RFC 1035 section 3.1): length bytes and labels, ending in the empty label of
 * the root. Within Weft a name is kept uncompressed and in lower case; what a client wrote is never changed.
 *
 * Names are read from others' messages by `NameReader` alone, which refuses what RFC 9267 lists: a pointer that does
 * not lead strictly backwards (so there are no loops), one into the header, a chain of more pointers than a name has
 * labels, a label of more than 63 bytes, a name of more than 255, the reserved label types, anything past the end.
 * Labels are bytes: NUL and dots in them are just that, and text writes them as `\DDD`.
 *
 * `NameTable` maps names to entries without making a string or any other garbage for a look-up. The hash is computed
 * from the root's side, so that one pass gives the hashes of a name and of all domains it is in. Guests choose the
 * names: the hash starts from a secret. A table has no limit of its own; whoever adds entries has one.
 */
import { randomBytes } from 'node:crypto'

export const NAME_BYTES = 255
export const LABEL_BYTES = 63
/** A name of 255 bytes has at most 127 labels beside the root. */
export const LABELS = 127
const HEADER_BYTES = 12
const POINTER = 0xc0

const secret = new Int32Array(new Uint8Array(randomBytes(8)).buffer)
const SEED = secret[0]
const MULTIPLIER = secret[1] | 1

/** A to Z in lower case; length bytes are below them, so a whole name may be run through this. */
export function lower(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
}

/** Whether two uncompressed names are the same but for the case of letters. */
export function isSameName(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): boolean {
  for (;;) {
    const size = a[aAt]
    if (size !== b[bAt]) return false
    if (size === 0) return true
    for (let i = 1; i <= size; i++) if (lower(a[aAt + i]) !== lower(b[bAt + i])) return false
    aAt += size + 1
    bAt += size + 1
  }
}

/**
 * A name from text, in lower case; null if it is none. A final dot may be there or not; `\.` and `\DDD` stand for bytes
 * that text cannot hold.
 */
export function nameFromText(text: string): Uint8Array | null {
  if (text === '.') return new Uint8Array(1)
  const bytes: number[] = []
  let start = 0
  bytes.push(0)
  for (let i = 0; i < text.length; i++) {
    let byte = text.charCodeAt(i)
    if (byte === 0x2e) {
      if (bytes.length - start === 1) return null
      if (i === text.length - 1) break
      start = bytes.length
      bytes.push(0)
      continue
    }
    if (byte === 0x5c) {
      const digits = /^\d{3}/.exec(text.slice(i + 1))
      byte = digits ? Number(digits[0]) : text.charCodeAt(i + 1)
      i += digits ? 3 : 1
    }
    if (!(byte <= 0xff)) return null // NaN past the end, too
    bytes.push(lower(byte))
    if (++bytes[start] > LABEL_BYTES) return null
  }
  if (bytes[start] === 0) return null
  bytes.push(0)
  return bytes.length > NAME_BYTES ? null : Uint8Array.from(bytes)
}

/** The text of an uncompressed name, without final dot; the root is `.`. */
export function nameToText(name: Uint8Array, at = 0): string {
  let text = ''
  for (; name[at] !== 0; at += name[at] + 1) {
    if (text !== '') text += '.'
    for (let i = 1; i <= name[at]; i++) {
      const byte = name[at + i]
      if (byte === 0x2e || byte === 0x5c) text += `\\${String.fromCharCode(byte)}`
      else text += byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\${String(byte).padStart(3, '0')}`
    }
  }
  return text === '' ? '.' : text
}

/** Bytes of an uncompressed name, its final 0 included. */
export function nameLength(name: Uint8Array, at: number): number {
  const start = at
  while (name[at] !== 0) at += name[at] + 1
  return at + 1 - start
}

/** Reads names that may be compressed. */
export class NameReader {
  /** the name as last read, uncompressed, its case as it came */
  readonly bytes = new Uint8Array(NAME_BYTES)
  length = 0

  /** Reads the name at `at` of a message, in place before `end`. Returns where it ends there; -1: it is not sound. */
  read(message: Uint8Array, at: number, end: number): number {
    const into = this.bytes
    let length = 0
    let after = -1
    let limit = at // pointers must lead to before the piece they stand in
    let hops = 0
    for (;;) {
      if (at >= end) return -1
      const size = message[at]
      if (size >= POINTER) {
        if (at + 1 >= end) return -1
        const target = ((size & 0x3f) << 8) | message[at + 1]
        if (after < 0) after = at + 2
        if (target >= limit || target < HEADER_BYTES || ++hops > LABELS) return -1
        at = target
        limit = target
        continue
      }
      if (size > LABEL_BYTES || at + 1 + size > end || length + 1 + size > NAME_BYTES) return -1
      for (let i = 0; i <= size; i++) into[length + i] = message[at + i]
      length += size + 1
      at += size + 1
      if (size === 0) {
        this.length = length
        return after < 0 ? at : after
      }
    }
  }
}

/** Hashes of a name and of all the domains it is in. */
export class NameKey {
  /** labels beside the root */
  count = 0
  /** where each label starts in the bytes that were given; [count] is the root's */
  readonly starts = new Int32Array(LABELS + 1)
  /** hash of the name from that label on */
  readonly hashes = new Int32Array(LABELS + 1)

  /** Takes a sound uncompressed name. Returns this. */
  compute(name: Uint8Array, at: number): this {
    const { starts, hashes } = this
    let count = 0
    while (name[at] !== 0) {
      starts[count++] = at
      at += name[at] + 1
    }
    starts[count] = at
    this.count = count
    let hash = SEED
    hashes[count] = hash & 0x3fffffff
    for (let label = count - 1; label >= 0; label--) {
      const end = starts[label + 1]
      for (let i = starts[label]; i < end; i++) {
        hash = Math.imul(hash ^ lower(name[i]), MULTIPLIER)
        hash ^= hash >>> 15
      }
      hashes[label] = hash & 0x3fffffff // a small integer: a Map's key without allocation
    }
    return this
  }
}

const scratch = new NameKey()

export class NameEntry {
  readonly name: Uint8Array
  readonly hash: number
  /** what tells entries of one name apart, 0 if there is one alone */
  readonly extra: number
  /** the table's own */
  next: NameEntry | null = null

  /** @param name sound, uncompressed, lower case; kept */
  constructor(name: Uint8Array, extra = 0) {
    this.name = name
    this.hash = scratch.compute(name, 0).hashes[0]
    this.extra = extra
  }
}

export class NameTable<T extends NameEntry> {
  size = 0
  private readonly heads = new Map<number, T>()

  /** The entry of the name at `at`, whose hash is known. */
  find(name: Uint8Array, at: number, hash: number, extra = 0): T | null {
    let entry = this.heads.get(hash) as NameEntry | null | undefined
    while (entry) {
      if (entry.extra === extra && isSameName(entry.name, 0, name, at)) return entry as T
      entry = entry.next
    }
    return null
  }

  /** The entry of a name of our own. */
  get(name: Uint8Array, extra = 0): T | null {
    return this.find(name, 0, scratch.compute(name, 0).hashes[0], extra)
  }

  /** The entry of the longest domain that the name is in, itself included. */
  findDomain(name: Uint8Array, key: NameKey): T | null {
    for (let label = 0; label <= key.count; label++) {
      const entry = this.find(name, key.starts[label], key.hashes[label])
      if (entry) return entry
    }
    return null
  }

  /** Adds an entry that is not there yet. */
  add(entry: T): void {
    entry.next = this.heads.get(entry.hash) ?? null
    this.heads.set(entry.hash, entry)
    this.size++
  }

  remove(entry: T): void {
    let before: NameEntry | undefined = this.heads.get(entry.hash)
    if (before === entry) {
      if (entry.next) this.heads.set(entry.hash, entry.next as T)
      else this.heads.delete(entry.hash)
    } else {
      while (before && before.next !== entry) before = before.next ?? undefined
      if (!before) return
      before.next = entry.next
    }
    entry.next = null
    this.size--
  }

  /** All entries, in no order. */
  list(): T[] {
    const all: T[] = []
    for (let entry of this.heads.values() as Iterable<NameEntry | null>)
      for (; entry; entry = entry.next) all.push(entry as T)
    return all
  }

  clear(): void {
    this.heads.clear()
    this.size = 0
  }
}
