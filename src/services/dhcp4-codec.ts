/**
 * DHCPv4 and BOOTP messages between bytes and an object.
 *
 * Reading checks every length and copies: an option's value is a fresh array of just the bytes that were received, so
 * whoever echoes one cannot send more than came in. Options of the options field come first, then those of `file` and
 * `sname` if option 52 says that these hold some (52 inside them is not obeyed); what several instances of an option
 * say is one value, in that order (RFC 3396), so a duplicate makes the value longer. Length 0 is a value of no bytes;
 * whoever uses an option checks that its length is what it should be. Unknown options are kept. A field of options may
 * end without option 255, not in the middle of an option.
 *
 * A message without the magic cookie is BOOTP (RFC 951): it has no options. Refused (null): hardware other than
 * Ethernet with 6 bytes, a message shorter than the fixed fields or longer than 16,384 bytes, more than 16 hops, an
 * option whose length goes beyond its field, an impossible option 52.
 *
 * Writing puts the options in the order given. What does not fit the size that the client takes goes into `file` and
 * `sname` if they are empty (option 52), and is left out else; so the important ones stand first. A value of more than
 * 255 bytes is cut into instances that follow each other. Messages are padded to 300 bytes, as BOOTP's relays want it.
 * Standards: RFC 951, RFC 1542, RFC 2131 section 2 and 4.1, RFC 2132, RFC 3396.
 */
import { ipBytes, ipFromBytes } from './address.js'
import type { Ip } from './address.js'

export const BOOTREQUEST = 1
export const BOOTREPLY = 2

// Message types: option 53.
export const DISCOVER = 1
export const OFFER = 2
export const REQUEST = 3
export const DECLINE = 4
export const ACK = 5
export const NAK = 6
export const RELEASE = 7
export const INFORM = 8

const OPTION_PAD = 0
const OPTION_OVERLOAD = 52
export const OPTION_MESSAGE_TYPE = 53
const OPTION_RELAY = 82
const OPTION_END = 255

const SNAME = 44
const SNAME_BYTES = 64
const FILE = 108
const FILE_BYTES = 128
const COOKIE = 236
const COOKIE_VALUE = 0x63825363
const OPTIONS = 240
const LONGEST = 16384
const SHORTEST_SENT = 300
const HOPS = 16
const HARDWARE_ETHERNET = 1
const MAC_BYTES = 6
const BROADCAST_FLAG = 0x8000
const FILE_HAS_OPTIONS = 1
const SNAME_HAS_OPTIONS = 2

/** The fields by the names of RFC 2131; addresses that are 0 are not there: null. */
export interface Message4 {
  op: number
  hops: number
  xid: number
  secs: number
  isBroadcast: boolean
  ciaddr: Ip | null
  yiaddr: Ip | null
  siaddr: Ip | null
  giaddr: Ip | null
  /** 6 bytes */
  chaddr: Uint8Array
  /** text of the field; empty if it is, or holds options */
  sname: string
  file: string
  /** null: BOOTP, without the magic cookie */
  options: Map<number, Uint8Array> | null
}

/** The type of a DHCP message; 0: none, or BOOTP. */
export function messageType({ options }: Message4): number {
  const value = options?.get(OPTION_MESSAGE_TYPE)
  return value?.length === 1 ? value[0] : 0
}

/** Reads a message; null if it is none. */
export function decodeMessage(bytes: Uint8Array): Message4 | null {
  if (bytes.length < COOKIE || bytes.length > LONGEST) return null
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const op = bytes[0]
  if (op !== BOOTREQUEST && op !== BOOTREPLY) return null
  if (bytes[1] !== HARDWARE_ETHERNET || bytes[2] !== MAC_BYTES || bytes[3] > HOPS) return null
  const isDhcp = bytes.length >= OPTIONS && view.getUint32(COOKIE) === COOKIE_VALUE
  const fields = isDhcp ? readOptions(bytes) : { options: null, overload: 0 }
  if (fields === null) return null
  const address = (at: number): Ip | null => (view.getInt32(at) === 0 ? null : ipFromBytes(bytes, at, 4))
  return {
    op,
    hops: bytes[3],
    xid: view.getUint32(4),
    secs: view.getUint16(8),
    isBroadcast: (view.getUint16(10) & BROADCAST_FLAG) !== 0,
    ciaddr: address(12),
    yiaddr: address(16),
    siaddr: address(20),
    giaddr: address(24),
    chaddr: new Uint8Array(bytes.subarray(28, 28 + MAC_BYTES)),
    sname: (fields.overload & SNAME_HAS_OPTIONS) === 0 ? readText(bytes, SNAME, SNAME_BYTES) : '',
    file: (fields.overload & FILE_HAS_OPTIONS) === 0 ? readText(bytes, FILE, FILE_BYTES) : '',
    options: fields.options,
  }
}

function readOptions(bytes: Uint8Array): { options: Map<number, Uint8Array>; overload: number } | null {
  const options = new Map<number, Uint8Array>()
  if (!readField(bytes, OPTIONS, bytes.length, options)) return null
  const value = options.get(OPTION_OVERLOAD)
  options.delete(OPTION_OVERLOAD)
  if (value === undefined) return { options, overload: 0 }
  const overload = value[0]
  if (value.length !== 1 || overload < 1 || overload > 3) return null
  const isSound =
    ((overload & FILE_HAS_OPTIONS) === 0 || readField(bytes, FILE, FILE + FILE_BYTES, options)) &&
    ((overload & SNAME_HAS_OPTIONS) === 0 || readField(bytes, SNAME, SNAME + SNAME_BYTES, options))
  options.delete(OPTION_OVERLOAD)
  return isSound ? { options, overload } : null
}

/** Adds the options between two places; false if the last one goes beyond the end. */
function readField(bytes: Uint8Array, from: number, end: number, options: Map<number, Uint8Array>): boolean {
  for (let at = from; at < end; ) {
    const code = bytes[at++]
    if (code === OPTION_PAD) continue
    if (code === OPTION_END) return true
    if (at >= end) return false
    const length = bytes[at++]
    if (length > end - at) return false
    const before = options.get(code)
    const value = new Uint8Array((before?.length ?? 0) + length)
    if (before !== undefined) value.set(before)
    value.set(bytes.subarray(at, at + length), before?.length ?? 0)
    options.set(code, value)
    at += length
  }
  return true
}

function readText(bytes: Uint8Array, at: number, length: number): string {
  let end = at
  while (end < at + length && bytes[end] !== 0) end++
  return String.fromCharCode(...bytes.subarray(at, end))
}

/**
 * Writes a message.
 * @param longest bytes that the receiver takes, at least 300
 */
export function encodeMessage(message: Message4, longest: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(longest, SHORTEST_SENT))
  const view = new DataView(bytes.buffer)
  bytes[0] = message.op
  bytes[1] = HARDWARE_ETHERNET
  bytes[2] = MAC_BYTES
  bytes[3] = message.hops
  view.setUint32(4, message.xid)
  view.setUint16(8, message.secs)
  view.setUint16(10, message.isBroadcast ? BROADCAST_FLAG : 0)
  for (const [i, ip] of [message.ciaddr, message.yiaddr, message.siaddr, message.giaddr].entries())
    if (ip !== null) bytes.set(ipBytes(ip), 12 + 4 * i)
  bytes.set(message.chaddr, 28)
  writeText(bytes, SNAME, SNAME_BYTES, message.sname)
  writeText(bytes, FILE, FILE_BYTES, message.file)
  if (message.options === null) return bytes.subarray(0, SHORTEST_SENT)
  view.setUint32(COOKIE, COOKIE_VALUE)
  const end = writeOptions(bytes, message, message.options)
  return bytes.subarray(0, Math.max(end, SHORTEST_SENT))
}

/** Where options can still be put. */
interface Field {
  at: number
  /** the END option has its place behind this */
  end: number
  overload: number
}

/** Returns the end of the options field. */
function writeOptions(bytes: Uint8Array, message: Message4, options: Map<number, Uint8Array>): number {
  const main: Field = { at: OPTIONS, end: bytes.length - 1, overload: 0 }
  const others: Field[] = []
  if (message.file === '') others.push({ at: FILE, end: FILE + FILE_BYTES - 1, overload: FILE_HAS_OPTIONS })
  if (message.sname === '') others.push({ at: SNAME, end: SNAME + SNAME_BYTES - 1, overload: SNAME_HAS_OPTIONS })
  let needed = 0
  for (const value of options.values()) needed += writtenBytes(value)
  if (needed > main.end - main.at) main.end -= 3 // option 52 itself
  const relay = options.get(OPTION_RELAY)
  if (relay !== undefined) main.end -= writtenBytes(relay)
  let overload = 0
  for (const [code, value] of options) {
    if (code === OPTION_RELAY) continue
    const field = [main, ...others].find(({ at, end }) => writtenBytes(value) <= end - at)
    if (field === undefined) continue
    writeOption(bytes, field, code, value)
    overload |= field.overload
  }
  for (const { at, overload: bit } of others) if ((overload & bit) !== 0) bytes[at] = OPTION_END
  if (overload !== 0) {
    main.end += 3
    writeOption(bytes, main, OPTION_OVERLOAD, Uint8Array.of(overload))
  }
  if (relay !== undefined) writeOption(bytes, main, OPTION_RELAY, relay)
  bytes[main.at] = OPTION_END
  return main.at + 1
}

function writtenBytes(value: Uint8Array): number {
  return value.length + 2 * Math.max(1, Math.ceil(value.length / 255))
}

function writeOption(bytes: Uint8Array, field: Field, code: number, value: Uint8Array): void {
  let from = 0
  do {
    const part = value.subarray(from, from + 255)
    bytes[field.at++] = code
    bytes[field.at++] = part.length
    bytes.set(part, field.at)
    field.at += part.length
    from += part.length
  } while (from < value.length)
}

/** Text that is too long for its field is left out: half a file name is none. */
function writeText(bytes: Uint8Array, at: number, length: number, text: string): void {
  if (text.length >= length) return
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i)
}
