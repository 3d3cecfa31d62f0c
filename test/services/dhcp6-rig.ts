/**
 * For the tests of DHCPv6: a client's messages made byte by byte and a server's answers taken apart, without the codec
 * under test, and a server with leases in memory.
 */
import { formatIp, ipBytes, ipFromBytes, linkLocalOf, parseIp, parseNetwork } from '../../src/services/address.js'
import { Dhcp6Server, type Dhcp6Settings } from '../../src/services/dhcp6-server.js'
import type { Datagram } from '../../src/services/frame.js'
import { DEFAULT_LEASE_SETTINGS, type LeasePool, type LeaseSettings, Leases } from '../../src/services/leases.js'

export const UUID = 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'
export const SERVER_ID = Buffer.from(`0004${UUID.replaceAll('-', '')}`, 'hex')
export const ROUTER_MAC = macBytes('52:00:00:00:00:01')
export const CLIENT = '52:54:00:12:34:56'

export function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16))
}

const half = (value: number): number[] => [(value >> 8) & 255, value & 255]
const whole = (value: number): number[] => [...half(value >>> 16), ...half(value)]

export function option(code: number, ...data: (number | ArrayLike<number>)[]): number[] {
  const bytes = data.flatMap((part) => (typeof part === 'number' ? [part] : Array.from(part)))
  return [...half(code), ...half(bytes.length), ...bytes]
}

export const requested = (...codes: number[]): number[] => option(6, codes.flatMap(half))
export const fqdn = (flags: number, ...labels: string[]): number[] =>
  option(39, flags, ...labels.map((label) => [label.length, ...Buffer.from(label)]), 0)
export const address = (text: string): number[] => option(5, ipBytes(parseIp(text)!), whole(0), whole(0))
/** IA_NA */
export const ia = (iaid: number, ...inner: number[][]): number[] =>
  option(3, whole(iaid), whole(0), whole(0), inner.flat())
export const temporary = (iaid: number, ...inner: number[][]): number[] => option(4, whole(iaid), inner.flat())
export const prefixes = (iaid: number): number[] => option(25, whole(iaid), whole(0), whole(0))

export interface From {
  mac?: string
  /** last octet of the DUID: one system of the guest's */
  system?: number
  port?: string
  now?: number
  source?: string
  destination?: string
  hasNoClientId?: boolean
  serverId?: ArrayLike<number> | null
}

/** A message's octets: header, client identifier, server identifier where its type has one, the options. */
export function message(type: number, options: number[][], from: From = {}): Uint8Array {
  const { mac = CLIENT, system = 1, hasNoClientId = false } = from
  const withServer = [3, 5, 8, 9].includes(type) ? SERVER_ID : null
  const serverId = from.serverId === undefined ? withServer : from.serverId
  return Uint8Array.from([
    type,
    0xab,
    0xcd,
    0xef,
    ...(hasNoClientId ? [] : option(1, [0, 3, 0, 1], macBytes(mac).with(5, system))),
    ...(serverId === null ? [] : option(2, serverId)),
    ...options.flat(),
  ])
}

export function datagram(payload: Uint8Array, from: From = {}): Datagram {
  const mac = macBytes(from.mac ?? CLIENT)
  const source = from.source === undefined ? linkLocalOf(mac) : parseIp(from.source)!
  return {
    source: { mac, ip: ipBytes(source), port: 546 },
    destination: {
      mac: macBytes('33:33:00:01:00:02'),
      ip: ipBytes(parseIp(from.destination ?? 'ff02::1:2')!),
      port: 547,
    },
    payload,
  }
}

export interface Answer {
  type: number
  options: Map<number, Buffer>
  /** `3 1: fd00::5 2700/3600` or `3 1: status 2`, one an identity association, with T1 and T2 apart */
  associations: string[]
  times: [number, number][]
}

function list(bytes: Buffer, at: number): [number, Buffer][] {
  const options: [number, Buffer][] = []
  let from = at
  while (from < bytes.length) {
    const length = bytes.readUInt16BE(from + 2)
    options.push([bytes.readUInt16BE(from), bytes.subarray(from + 4, from + 4 + length)])
    from += 4 + length
  }
  if (from !== bytes.length) throw new Error('an option goes beyond the end')
  return options
}

export function readAnswer(payload: Uint8Array): Answer {
  const bytes = Buffer.from(payload)
  const options = list(bytes, 4)
  const answer: Answer = { type: bytes[0], options: new Map(options), associations: [], times: [] }
  for (const [code, data] of options) {
    if (code !== 3 && code !== 4 && code !== 25) continue
    const inner = list(data, code === 4 ? 4 : 12).map(([kind, value]) =>
      kind === 13
        ? `status ${value.readUInt16BE(0)}`
        : `${formatIp(ipFromBytes(value, 0, 16))} ${value.readUInt32BE(16)}/${value.readUInt32BE(20)}`,
    )
    answer.associations.push(`${code} ${data.readUInt32BE(0)}: ${inner.join(', ')}`)
    if (code !== 4) answer.times.push([data.readUInt32BE(4), data.readUInt32BE(8)])
  }
  return answer
}

/** The addresses in an answer that are to be used. */
export const addressesOf = ({ associations }: Answer): string[] =>
  associations.flatMap((text) => [...text.matchAll(/([\da-f:]*::?[\da-f:]+) [1-9]\d*\//g)].map((found) => found[1]))

export const pool = (subnet: string, from?: string, to?: string): LeasePool => ({
  subnet: parseNetwork(subnet)!,
  range: from && to ? { from: parseIp(from)!, to: parseIp(to)! } : null,
})

export const SETTINGS: Dhcp6Settings = {
  uuid: UUID,
  mac: ROUTER_MAC,
  address: linkLocalOf(ROUTER_MAC),
  pools: [pool('fd00:0:0:1::/64', 'fd00:0:0:1::1000', 'fd00:0:0:1::1fff')],
  leaseSeconds: 3600,
  resolvers: [parseIp('fd00:0:0:1::1')!],
  domains: ['example.test'],
  domain: 'example.test',
  ntpServers: [],
  bootFiles: {},
  refreshSeconds: 86400,
  solicitSeconds: null,
  informationSeconds: null,
  trustedRelays: [],
}

export class Rig {
  readonly leases: Leases
  readonly server: Dhcp6Server
  readonly events: string[] = []
  readonly problems: string[] = []
  now = 1000000

  constructor(settings: Partial<Dhcp6Settings> = {}, leaseSettings: Partial<LeaseSettings> = {}) {
    this.leases = new Leases(UUID, null, this.now, (event, { text }) => this.events.push(`${event} ${text}`))
    this.leases.configure({ ...DEFAULT_LEASE_SETTINGS, portLimit: 8, ...leaseSettings })
    this.server = new Dhcp6Server({
      leases: this.leases,
      settings: { ...SETTINGS, ...settings },
      onProblem: (reason) => this.problems.push(reason),
    })
  }

  /** A second passes, so that rates do not matter here. */
  pass(seconds: number): void {
    for (let i = 0; i < seconds; i += 30) {
      this.now += Math.min(30, seconds - i)
      this.leases.sweep(this.now)
    }
  }

  send(payload: Uint8Array, from: From = {}): Datagram | null {
    this.now += 0.2
    return this.server.handle(datagram(payload, from), { port: from.port ?? 'p1', nowSeconds: this.now })
  }

  /** The answer to a message; null: none. */
  ask(type: number, options: number[][], from: From = {}): Answer | null {
    const answer = this.send(message(type, options, from), from)
    return answer && readAnswer(answer.payload)
  }

  /** SOLICIT, REQUEST; returns the address. */
  lease(from: From = {}, iaid = 1, ...more: number[][]): string {
    const offer = this.ask(1, [ia(iaid), ...more], from)!
    const [offered] = addressesOf(offer)
    if (offered === undefined) return offer.associations.join()
    const reply = this.ask(3, [ia(iaid, address(offered)), ...more], from)!
    return addressesOf(reply)[0] ?? reply.associations.join()
  }
}
