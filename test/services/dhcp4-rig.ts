/**
 * For the tests of DHCPv4: frames made by scapy 2.7.0 as vectors, and a client's messages made byte by byte, without
 * the codec under test.
 */
import { parseIp } from '../../src/services/address.js'
import type { Ip } from '../../src/services/address.js'
import { decodeMessage } from '../../src/services/dhcp4-codec.js'
import type { Message4 } from '../../src/services/dhcp4-codec.js'
import type { Dhcp4Settings } from '../../src/services/dhcp4-reply.js'
import type { Datagram } from '../../src/services/frame.js'

/** Hexadecimal; `[n]` stands for n zero bytes. */
function expand(text: string): Uint8Array {
  const hex = text.replace(/\[(\d+)\]/g, (_, count: string) => '00'.repeat(Number(count)))
  return Uint8Array.from(Buffer.from(hex, 'hex'))
}

/** Ethernet frames; made with scapy: Ether()/IP()/UDP()/BOOTP(xid=0x3903f326)/DHCP(). */
export const frames = {
  discover: expand(
    'ffffffffffff52540012345608004500013300000000401179bb00000000ffffffff00440043011f4dde010106003903f326' +
      '00038[17]0525400123456[202]638253633501013d070152540012345632040a00004d390205dc0c03766d3137090179030' +
      '60f1a1c2a77ff',
  ),
  request: expand(
    'ffffffffffff52540012345608004500011900000000401179d500000000ffffffff004400430105bd46010106003903f326' +
      '000000000a00004d[12]525400123456[202]638253633501033d0701525400123456ff',
  ),
  ack: expand(
    '525400123456020000000001080045000162000040004011253e0a0000010a00004d00430044014ead24020106003903f326' +
      '[8]0a00004d0a00000100000000525400123456[74]626f6f742e656669[120]6382536335010536040a000001330400000e' +
      '103a04000007083b0400000c4e0104ffffff0003040a00000106080a000001090909090f09776566742e746573741a020578' +
      '1c040a0000ff790d000a00000116c0a8280a000002ff',
  ),
}

export const ip = (text: string): Ip => parseIp(text)!

export const macBytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(':', ''), 'hex'))

export const bytesOf = (hex: string): number[] => [...Buffer.from(hex, 'hex')]

export type RawOptions = Record<number, number[] | Uint8Array | string>

export interface RawFields {
  mac?: string
  ciaddr?: string
  giaddr?: string
  isBroadcast?: boolean
  xid?: number
  options?: RawOptions
  /** the frame's source, if it is not the client */
  from?: string
}

export const CLIENT = '52:54:00:12:34:56'
export const SERVER_MAC = '02:00:00:00:00:01'

/** A client's message of a type; 0: BOOTP. */
export function message(type: number, fields: RawFields = {}): Datagram {
  const { mac = CLIENT, ciaddr, giaddr, isBroadcast = false, xid = 0x1234, options = {}, from = mac } = fields
  const bytes = new Uint8Array(300)
  bytes.set([1, 1, 6, 0, xid >>> 24, xid >>> 16, xid >>> 8, xid, 0, 0, isBroadcast ? 0x80 : 0])
  const quad = (text: string): number[] => text.split('.').map(Number)
  if (ciaddr) bytes.set(quad(ciaddr), 12)
  if (giaddr) bytes.set(quad(giaddr), 24)
  bytes.set(macBytes(mac), 28)
  const tail: number[] = type === 0 ? [] : [0x63, 0x82, 0x53, 0x63, 53, 1, type]
  for (const [code, value] of Object.entries(options)) {
    const content = typeof value === 'string' ? [...Buffer.from(value, 'latin1')] : [...value]
    tail.push(Number(code), content.length, ...content)
  }
  if (type !== 0) tail.push(255)
  const payload = new Uint8Array(Math.max(300, 236 + tail.length))
  payload.set(bytes)
  payload.set(tail, 236)
  return {
    source: { mac: macBytes(from), ip: Uint8Array.from(quad(giaddr ?? ciaddr ?? '0.0.0.0')), port: giaddr ? 67 : 68 },
    destination: { mac: new Uint8Array(6).fill(255), ip: new Uint8Array(4).fill(255), port: 67 },
    payload,
  }
}

/** What an answer says. */
export function read(answer: Datagram): Message4 & { options: Map<number, Uint8Array> } {
  const found = decodeMessage(answer.payload)!
  return { ...found, options: found.options ?? new Map() }
}

export function settings(changes: Partial<Dhcp4Settings> = {}): Dhcp4Settings {
  return {
    mac: macBytes(SERVER_MAC),
    subnets: [
      {
        subnet: { ip: ip('10.0.0.0'), prefix: 24 },
        server: ip('10.0.0.1'),
        router: ip('10.0.0.1'),
        range: { from: ip('10.0.0.10'), to: ip('10.0.0.250') },
        isOnLink: true,
      },
    ],
    leaseSeconds: 3600,
    dns: [ip('10.0.0.1')],
    ntp: [],
    domain: 'weft.test',
    search: [],
    mtu: 1500,
    routes: [],
    bootServer: null,
    bootFiles: {},
    options: new Map(),
    ...changes,
  }
}

/** Numbers from 0 to 255, the same each time. */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return state >>> 24
  }
}
