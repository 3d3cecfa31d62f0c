/**
 * A file that a network's leases outlive the daemon in: an append-only journal, one JSON object a line.
 *
 * `append` only remembers a line; `commit` writes what was remembered in one piece and waits for the disk (fdatasync).
 * No answer that promises a lease leaves before `commit` has returned (RFC 2131 section 3.1). Several requests handled
 * in one turn share one commit, so the disk sets how many turns there are in a second and not how many leases.
 *
 * After a crash at any instant the file holds every line that was committed, then perhaps a part of the next ones. A
 * last line without its end was never committed: it is ignored, and cut off before anything is appended. A line in the
 * middle that does not parse means that someone else wrote there, or that the disk is bad: it is reported in
 * `problems`, the others are used, and the file is kept as PATH.corrupt.
 *
 * Capacity: the file is written anew (`durable-file.ts`) once it is four times as long as after the last time and
 * longer than 64 KiB. A commit that fails (a full disk) throws; its lines stay remembered and go with the next one, the
 * part that did get written is cut off first. At most 64 KiB are remembered so; beyond, the next commit that works
 * writes the file anew instead.
 */
import { closeSync, fdatasyncSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { exchangeFile, syncFolder, writeAll } from './durable-file.js'

const COMPACT_BYTES = 65536
const COMPACT_RATIO = 4
/** A longer line is none of ours. */
const LINE_BYTES = 4096

export interface JournalProblem {
  /** from 1 on; 0: a line that parses, and is no lease */
  line: number
  reason: string
}

export class LeaseJournal {
  readonly path: string
  /** What was wrong with the file when it was loaded. */
  readonly problems: JournalProblem[] = []
  private fd = -1
  private bytes = 0 // committed
  private compactedBytes = 0
  private isTorn = false // there may be something behind `bytes`
  private isStale = false // lines were given up: only writing anew helps
  private pending: string[] = []
  private pendingBytes = 0
  private readonly loaded: object[]
  private snapshot: () => object[]

  /** Opens or makes the file, whose folder must exist, and reads it. Throws what the system says. */
  constructor(path: string) {
    this.path = path
    this.snapshot = () => this.loaded
    this.loaded = this.load()
    this.compactedBytes = this.bytes
  }

  /** What the file held, in order; taken once. @param snapshot gives all lines that the file should hold now */
  take(snapshot: () => object[]): object[] {
    this.snapshot = snapshot
    return this.loaded.splice(0)
  }

  /** Remembers a line for the next commit. */
  append(line: object): void {
    const text = `${JSON.stringify(line)}\n`
    this.pendingBytes += text.length
    if (this.pendingBytes > COMPACT_BYTES) {
      this.pending = []
      this.isStale = true
    }
    if (!this.isStale) this.pending.push(text)
  }

  /** A line that was taken is not what it should be: reported and kept as one that does not parse. */
  refuse(reason: string): void {
    this.problems.push({ line: 0, reason })
    if (this.problems.length === 1) this.keepAside()
  }

  /** Makes the next commit write the file anew: what it holds is out of date. */
  invalidate(): void {
    this.isStale = true
  }

  get isClean(): boolean {
    return this.pending.length === 0 && !this.isStale
  }

  /** Everything appended so far is on the disk when this returns. Throws if it is not. */
  commit(): void {
    if (this.isClean) return
    if (this.isStale || this.bytes > Math.max(COMPACT_BYTES, COMPACT_RATIO * this.compactedBytes)) {
      this.compact()
      return
    }
    if (this.isTorn) ftruncateSync(this.fd, this.bytes)
    this.isTorn = true
    const block = Buffer.from(this.pending.join(''))
    writeAll(this.fd, block, this.bytes)
    fdatasyncSync(this.fd)
    this.isTorn = false
    this.bytes += block.length
    this.forgetPending()
  }

  /** Writes the file anew with what `snapshot` gives, which includes all that was appended. */
  compact(): void {
    const lines = this.snapshot().map((line) => `${JSON.stringify(line)}\n`)
    const block = Buffer.from(lines.join(''))
    const fd = exchangeFile(this.path, block)
    this.close()
    this.fd = fd
    this.bytes = block.length
    this.compactedBytes = block.length
    this.isTorn = false
    this.forgetPending()
    syncFolder(dirname(this.path))
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd)
    this.fd = -1
  }

  private forgetPending(): void {
    this.pending = []
    this.pendingBytes = 0
    this.isStale = false
  }

  private keepAside(): void {
    writeFileSync(`${this.path}.corrupt`, readFileSync(this.path))
  }

  private load(): object[] {
    this.fd = openSync(this.path, 'a+', 0o600)
    closeSync(this.fd)
    this.fd = openSync(this.path, 'r+') // with 'a' the system ignores the position
    const content = readFileSync(this.path)
    const lines: object[] = []
    let start = 0
    for (let number = 1; ; number++) {
      const end = content.indexOf(10, start)
      if (end < 0) break
      const line = parseLine(content.subarray(start, end))
      if (typeof line === 'string') this.problems.push({ line: number, reason: line })
      else lines.push(line)
      start = end + 1
    }
    if (this.problems.length > 0) this.keepAside()
    this.bytes = start
    this.isTorn = start < content.length
    syncFolder(dirname(this.path))
    return lines
  }
}

/** The object of a line, or what is wrong with it. */
function parseLine(bytes: Buffer): object | string {
  if (bytes.length > LINE_BYTES) return `a line of ${bytes.length} bytes`
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'))
    return typeof value === 'object' && value !== null ? value : 'not an object'
  } catch (error) {
    return (error as Error).message
  }
}
