/**
 * Capture files: pcapng written, pcapng and classic pcap read.
 *
 * Written is what Wireshark needs and no more: one section header, one interface description a port (its name,
 * nanosecond resolution), and one enhanced packet block a frame with its direction. Little endian, Ethernet, frames
 * never cut.
 *
 *   section header | interface 0 | interface 1 | packet | packet | interface 2 | packet …
 *
 * `CaptureReader` takes a file in chunks of any size and gives out whole frames in order. It knows pcapng sections of
 * either byte order (enhanced, simple and obsolete packet blocks; other blocks are passed over), and classic pcap of
 * either byte order with microseconds or nanoseconds. A file whose lengths contradict each other is an error that names
 * the byte where it stands; frames before it have been given out.
 *
 * Limits: a block has at most 1 MiB, a section 4096 interfaces. Only Ethernet is read (LINKTYPE_ETHERNET, 1).
 *
 * Standards: draft-ietf-opsawg-pcapng-02 (blocks in section 4), draft-ietf-opsawg-pcap-04 (classic).
 */

const SECTION_HEADER = 0x0a0d0d0a
const INTERFACE_DESCRIPTION = 1
const PACKET_OBSOLETE = 2
const SIMPLE_PACKET = 3
const ENHANCED_PACKET = 6
const BYTE_ORDER_MAGIC = 0x1a2b3c4d
const LINKTYPE_ETHERNET = 1

const OPTION_END = 0
const OPTION_USER_APPLICATION = 4 // of a section header
const OPTION_INTERFACE_NAME = 2 // of an interface description
const OPTION_RESOLUTION = 9
const OPTION_OFFSET = 14
const OPTION_FLAGS = 2 // of an enhanced packet: bits 0 and 1 are the direction
const INBOUND = 1
const OUTBOUND = 2

const CLASSIC_MICROSECONDS = 0xa1b2c3d4
const CLASSIC_NANOSECONDS = 0xa1b23c4d

const BLOCK_LIMIT = 1 << 20
const INTERFACE_LIMIT = 4096

export type Direction = 'in' | 'out'

/** A frame of a capture. `bytes` is valid until the next frame is asked for. */
export interface CaptureFrame {
  timeNanos: bigint // since 1970
  interface: string | null // its name, if the file tells it
  direction: Direction | null
  bytes: Uint8Array
  originalLength: number // bytes on the wire; more than `bytes` has if the capture cut it
}

/** The block that begins a file. */
export function sectionHeader(application = 'Weft'): Uint8Array {
  const options = option(OPTION_USER_APPLICATION, new TextEncoder().encode(application))
  const body = new Uint8Array(16 + options.length + 4)
  const view = new DataView(body.buffer)
  view.setUint32(0, BYTE_ORDER_MAGIC, true)
  view.setUint16(4, 1, true) // version 1.0
  view.setBigInt64(8, -1n, true) // length of the section: not known
  body.set(options, 16)
  return block(SECTION_HEADER, body)
}

/** The block that makes a port known; the first one has number 0. */
export function interfaceDescription(name: string): Uint8Array {
  const named = option(OPTION_INTERFACE_NAME, new TextEncoder().encode(name))
  const resolution = option(OPTION_RESOLUTION, Uint8Array.of(9)) // 10^-9 s
  const body = new Uint8Array(8 + named.length + resolution.length + 4)
  new DataView(body.buffer).setUint16(0, LINKTYPE_ETHERNET, true)
  body.set(named, 8)
  body.set(resolution, 8 + named.length)
  return block(INTERFACE_DESCRIPTION, body)
}

/** Bytes that `writePacket` takes for a frame of `length` bytes. */
export function packetBytes(length: number): number {
  return 44 + pad(length)
}

/** Writes the block of one frame at `at` in `target`; returns the position behind it. The frame is copied. */
export function writePacket(
  target: Uint8Array,
  at: number,
  frame: { interface: number; timeNanos: bigint; direction: Direction; bytes: Uint8Array },
): number {
  const { bytes } = frame
  const total = packetBytes(bytes.length)
  const view = new DataView(target.buffer, target.byteOffset + at, total)
  view.setUint32(0, ENHANCED_PACKET, true)
  view.setUint32(4, total, true)
  view.setUint32(8, frame.interface, true)
  view.setUint32(12, Number((frame.timeNanos >> 32n) & 0xffffffffn), true)
  view.setUint32(16, Number(frame.timeNanos & 0xffffffffn), true)
  view.setUint32(20, bytes.length, true)
  view.setUint32(24, bytes.length, true)
  target.set(bytes, at + 28)
  target.fill(0, at + 28 + bytes.length, at + 28 + pad(bytes.length))
  const options = 28 + pad(bytes.length)
  view.setUint16(options, OPTION_FLAGS, true)
  view.setUint16(options + 2, 4, true)
  view.setUint32(options + 4, frame.direction === 'in' ? INBOUND : OUTBOUND, true)
  view.setUint32(options + 8, OPTION_END, true)
  view.setUint32(options + 12, total, true)
  return at + total
}

interface Interface {
  name: string | null
  ethernet: boolean
  /** units of a time stamp in one second */
  unitsPerSecond: bigint
  offsetSeconds: bigint
}

/**
 * Reads a capture of either format from chunks. `read` gives the frames that are whole; `end` checks that none is open.
 */
export class CaptureReader {
  private pending = new Uint8Array(0)
  private position = 0 // bytes of the file before `pending`
  private format: 'unknown' | 'pcapng' | 'classic' = 'unknown'
  private little = true
  private classicUnits = 1_000_000n
  private interfaces: Interface[] = []

  /** Throws if the file ended within a block or before its header. */
  end(): void {
    if (this.pending.length > 0) throw this.fault('the file ends within a record')
    if (this.format === 'unknown') throw this.fault('the file is empty')
  }

  *read(chunk: Uint8Array): Generator<CaptureFrame> {
    const data = new Uint8Array(this.pending.length + chunk.length)
    data.set(this.pending)
    data.set(chunk, this.pending.length)
    const start = this.position
    let at = 0
    try {
      for (;;) {
        this.position = start + at
        const view = new DataView(data.buffer, at)
        const size = this.unitBytes(view)
        if (size === 0) break
        const frame = this.unit(view, size)
        at += size
        if (frame !== null) yield frame
      }
    } finally {
      this.position = start + at
      this.pending = data.slice(at)
    }
  }

  /** Length of the header, block or record at the start of `view`; 0 if it is not all there. */
  private unitBytes(view: DataView): number {
    const length = view.byteLength
    if (this.format === 'unknown') {
      if (length < 4) return 0
      const format = this.recognise(view)
      if (format === 'classic' && length < 24) return 0
      this.format = format
      if (format === 'classic') return 24
    }
    if (this.format === 'classic') {
      if (length < 16) return 0
      const size = view.getUint32(8, this.little)
      if (size > BLOCK_LIMIT) throw this.fault(`a record claims ${size} bytes`)
      return length < 16 + size ? 0 : 16 + size
    }
    if (length < 12) return 0
    if (view.getUint32(0, true) === SECTION_HEADER) {
      const magic = view.getUint32(8, true)
      if (magic !== BYTE_ORDER_MAGIC && magic !== 0x4d3c2b1a) throw this.fault('a section header without byte order')
      this.little = magic === BYTE_ORDER_MAGIC
    }
    const size = view.getUint32(4, this.little)
    if (size < 12 || size % 4 !== 0 || size > BLOCK_LIMIT) throw this.fault(`a block claims ${size} bytes`)
    if (length < size) return 0
    if (view.getUint32(size - 4, this.little) !== size) throw this.fault('the two lengths of a block differ')
    return size
  }

  private recognise(view: DataView): 'pcapng' | 'classic' {
    for (const little of [true, false]) {
      const magic = view.getUint32(0, little)
      if (magic !== CLASSIC_MICROSECONDS && magic !== CLASSIC_NANOSECONDS) continue
      this.little = little
      this.classicUnits = magic === CLASSIC_NANOSECONDS ? 1_000_000_000n : 1_000_000n
      return 'classic'
    }
    if (view.getUint32(0, true) !== SECTION_HEADER) throw this.fault('the file is neither pcap nor pcapng')
    return 'pcapng'
  }

  private unit(view: DataView, size: number): CaptureFrame | null {
    if (this.format === 'classic') return this.classicUnit(view, size)
    const body = new DataView(view.buffer, view.byteOffset + 8, size - 12)
    switch (view.getUint32(0, this.little)) {
      case SECTION_HEADER:
        this.interfaces = []
        return null
      case INTERFACE_DESCRIPTION:
        this.addInterface(body)
        return null
      case ENHANCED_PACKET:
        return this.enhanced(body, body.byteLength < 20 ? -1 : body.getUint32(0, this.little))
      case PACKET_OBSOLETE: // the same fields, but 16 bits of interface and 16 of drops
        return this.enhanced(body, body.byteLength < 20 ? -1 : body.getUint16(0, this.little))
      case SIMPLE_PACKET: {
        if (body.byteLength < 4) throw this.fault('a simple packet block is too short')
        const originalLength = body.getUint32(0, this.little)
        const length = Math.min(originalLength, body.byteLength - 4)
        return this.frame(body, 4, length, originalLength, this.interfaceAt(0), 0n, null)
      }
      default:
        return null
    }
  }

  private classicUnit(view: DataView, size: number): CaptureFrame | null {
    if (this.interfaces.length === 0) {
      const ethernet = (view.getUint32(20, this.little) & 0x0fffffff) === LINKTYPE_ETHERNET
      if (!ethernet) throw this.fault('the frames of the file are not Ethernet')
      this.interfaces.push({ name: null, ethernet, unitsPerSecond: this.classicUnits, offsetSeconds: 0n })
      return null
    }
    const seconds = BigInt(view.getUint32(0, this.little))
    const parts = BigInt(view.getUint32(4, this.little))
    const stamp = seconds * this.classicUnits + parts
    return this.frame(view, 16, size - 16, view.getUint32(12, this.little), this.interfaceAt(0), stamp, null)
  }

  private enhanced(body: DataView, index: number): CaptureFrame {
    if (index < 0) throw this.fault('a packet block is too short')
    const length = body.getUint32(12, this.little)
    if (20 + length > body.byteLength) throw this.fault(`a packet block holds less than the ${length} bytes it claims`)
    const stamp = (BigInt(body.getUint32(4, this.little)) << 32n) | BigInt(body.getUint32(8, this.little))
    let direction: Direction | null = null
    this.options(body, 20 + pad(length), (code, value) => {
      if (code !== OPTION_FLAGS || value.byteLength !== 4) return
      const flags = value.getUint32(0, this.little) & 3
      direction = flags === INBOUND ? 'in' : flags === OUTBOUND ? 'out' : null
    })
    return this.frame(body, 20, length, body.getUint32(16, this.little), this.interfaceAt(index), stamp, direction)
  }

  private frame(
    view: DataView,
    at: number,
    length: number,
    originalLength: number,
    from: Interface,
    stamp: bigint,
    direction: Direction | null,
  ): CaptureFrame {
    if (!from.ethernet) throw this.fault('the frames of the file are not Ethernet')
    return {
      timeNanos: (stamp * 1_000_000_000n) / from.unitsPerSecond + from.offsetSeconds * 1_000_000_000n,
      interface: from.name,
      direction,
      bytes: new Uint8Array(view.buffer, view.byteOffset + at, length),
      originalLength,
    }
  }

  private addInterface(body: DataView): void {
    if (body.byteLength < 8) throw this.fault('an interface description is too short')
    if (this.interfaces.length === INTERFACE_LIMIT)
      throw this.fault(`there are more than ${INTERFACE_LIMIT} interfaces`)
    const entry: Interface = {
      name: null,
      ethernet: body.getUint16(0, this.little) === LINKTYPE_ETHERNET,
      unitsPerSecond: 1_000_000n,
      offsetSeconds: 0n,
    }
    this.options(body, 8, (code, value) => {
      if (code === OPTION_INTERFACE_NAME) {
        entry.name = new TextDecoder().decode(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
      } else if (code === OPTION_RESOLUTION && value.byteLength === 1) {
        const resolution = value.getUint8(0)
        entry.unitsPerSecond = (resolution & 0x80 ? 2n : 10n) ** BigInt(resolution & 0x7f)
      } else if (code === OPTION_OFFSET && value.byteLength === 8) {
        entry.offsetSeconds = value.getBigInt64(0, this.little)
      }
    })
    this.interfaces.push(entry)
  }

  private interfaceAt(index: number): Interface {
    const found = this.interfaces[index]
    if (found === undefined) throw this.fault(`a packet came by interface ${index}, which the file does not describe`)
    return found
  }

  private options(body: DataView, from: number, each: (code: number, value: DataView) => void): void {
    for (let at = from; at + 4 <= body.byteLength; ) {
      const code = body.getUint16(at, this.little)
      const length = body.getUint16(at + 2, this.little)
      if (code === OPTION_END) return
      if (at + 4 + length > body.byteLength) throw this.fault(`an option claims ${length} bytes`)
      each(code, new DataView(body.buffer, body.byteOffset + at + 4, length))
      at += 4 + pad(length)
    }
  }

  private fault(sentence: string): Error {
    return new Error(`${sentence} (at byte ${this.position})`)
  }
}

const pad = (length: number): number => (length + 3) & ~3

function block(type: number, body: Uint8Array): Uint8Array {
  const total = 12 + body.length
  const bytes = new Uint8Array(total)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, type, true)
  view.setUint32(4, total, true)
  bytes.set(body, 8)
  view.setUint32(total - 4, total, true)
  return bytes
}

function option(code: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + pad(value.length))
  const view = new DataView(bytes.buffer)
  view.setUint16(0, code, true)
  view.setUint16(2, value.length, true)
  bytes.set(value, 4)
  return bytes
}
