/**
 * DNS messages as tests write and read them: plainly, without compression, from text. Deliberately shares nothing with
 * `src/services` but the wire format itself.
 */
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'

export const TYPES: Record<string, number> = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  HINFO: 13,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  DS: 43,
  DNSKEY: 48,
  HTTPS: 65,
  ANY: 255,
}

export function wire(name: string): number[] {
  const labels = name.split('.').filter((label) => label !== '')
  return [...labels.flatMap((label) => [label.length, ...Buffer.from(label, 'latin1')]), 0]
}

const be16 = (value: number): number[] => [(value >> 8) & 255, value & 255]
const be32 = (value: number): number[] => [...be16(value >>> 16), ...be16(value & 0xffff)]

export interface QueryOptions {
  id?: number
  flags?: number
  /** bytes that the client takes; null: no EDNS */
  edns?: number | null
  dnssec?: boolean
  version?: number
  qclass?: number
}

export function query(name: string, type: string | number, options: QueryOptions = {}): Uint8Array {
  const { id = 0x1234, flags = 0x0100, edns = null, dnssec = false, version = 0, qclass = 1 } = options
  const number = typeof type === 'number' ? type : TYPES[type]
  const opt = edns === null ? [] : [0, ...be16(41), ...be16(edns), 0, version, ...be16(dnssec ? 0x8000 : 0), 0, 0]
  const header = [...be16(id), ...be16(flags), 0, 1, 0, 0, 0, 0, 0, edns === null ? 0 : 1]
  return Uint8Array.from([...header, ...wire(name), ...be16(number), ...be16(qclass), ...opt])
}

export interface Rr {
  name: string
  type: number
  ttl: number
  data: number[]
}

export const a = (name: string, ip: string, ttl = 300): Rr => ({ name, type: 1, ttl, data: ip.split('.').map(Number) })
export const cname = (name: string, target: string, ttl = 300): Rr => ({ name, type: 5, ttl, data: wire(target) })
export const soa = (name: string, ttl: number, minimum: number): Rr => ({
  name,
  type: 6,
  ttl,
  data: [...wire(`ns.${name}`), ...wire(`mail.${name}`), ...[1, 2, 3, 4, minimum].flatMap(be32)],
})

export interface Sections {
  answers?: Rr[]
  authorities?: Rr[]
  additionals?: Rr[]
  rcode?: number
  /** further bits of the header's second word */
  flags?: number
  edns?: boolean
}

const rr = ({ name, type, ttl, data }: Rr): number[] => [
  ...wire(name),
  ...be16(type),
  0,
  1,
  ...be32(ttl),
  ...be16(data.length),
  ...data,
]

/** An answer to a query's question, written as it was asked. */
export function answer(asked: Uint8Array, sections: Sections): Uint8Array {
  const { answers = [], authorities = [], additionals = [], rcode = 0, flags = 0, edns = true } = sections
  let end = 12
  while (asked[end] !== 0) end += asked[end] + 1
  end += 5
  const opt = edns ? [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0] : []
  return Uint8Array.from([
    ...asked.subarray(0, 2),
    ...be16(0x8180 | flags | rcode),
    0,
    1,
    ...be16(answers.length),
    ...be16(authorities.length),
    ...be16(additionals.length + (edns ? 1 : 0)),
    ...asked.subarray(12, end),
    ...[...answers, ...authorities, ...additionals].flatMap(rr),
    ...opt,
  ])
}

export interface Seen {
  id: number
  flags: number
  rcode: number
  counts: number[]
  name: string
  type: number
  /** as `OWNER TYPE DATA`, data of names and addresses as text, else in hexadecimal */
  answers: string[]
  authorities: string[]
  additionals: string[]
  ttls: number[]
  hasOpt: boolean
}

/** Reads a message that must be sound; throws where it is not. */
export function read(bytes: Uint8Array): Seen {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const nameAt = (at: number): [string, number] => {
    const labels: string[] = []
    let after = -1
    for (let steps = 0; ; steps++) {
      if (steps > 300) throw new Error('a loop')
      const size = view.getUint8(at)
      if (size >= 192) {
        if (after < 0) after = at + 2
        at = view.getUint16(at) & 0x3fff
      } else {
        at++
        if (size === 0) return [labels.join('.'), after < 0 ? at : after]
        labels.push(Buffer.from(bytes.subarray(at, at + size)).toString('latin1'))
        at += size
      }
    }
  }
  const counts = [4, 6, 8, 10].map((at) => view.getUint16(at))
  let [name, at] = counts[0] > 0 ? nameAt(12) : ['', 12]
  const type = counts[0] > 0 ? view.getUint16(at) : 0
  if (counts[0] > 0) at += 4
  const ttls: number[] = []
  let hasOpt = false
  const section = (count: number): string[] => {
    const list: string[] = []
    for (let i = 0; i < count; i++) {
      const [owner, next] = nameAt(at)
      const kind = view.getUint16(next)
      const length = view.getUint16(next + 8)
      const data = next + 10
      at = data + length
      const raw = Buffer.from(bytes.subarray(data, at))
      if (raw.length !== length) throw new Error('cut short')
      if (kind === 41) {
        hasOpt = true
        continue
      }
      ttls.push(view.getUint32(next + 4))
      let text = raw.toString('hex')
      if (view.getUint16(next + 2) !== 1) {
        list.push(`${owner} ${kind} ${text}`)
        continue
      }
      if (kind === 1) text = [...raw].join('.')
      if (kind === 2 || kind === 5 || kind === 12) text = nameAt(data)[0]
      if (kind === 33) text = [0, 2, 4].map((o) => view.getUint16(data + o)).join(' ') + ` ${nameAt(data + 6)[0]}`
      if (kind === 6) text = nameAt(data)[0]
      list.push(`${owner} ${kind} ${text}`)
    }
    return list
  }
  const answers = section(counts[1])
  const authorities = section(counts[2])
  const additionals = section(counts[3])
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes too many`)
  const flags = view.getUint16(2)
  const id = view.getUint16(0)
  return { id, flags, rcode: flags & 15, counts, name, type, answers, authorities, additionals, ttls, hasOpt }
}

/** What a fake upstream does with a query: messages to send back, none at all, or a wait in between. */
export type Behaviour = (asked: Uint8Array, isTcp: boolean, from: number) => Uint8Array[] | Promise<Uint8Array[]>

export interface FakeUpstream {
  port: number
  /** queries seen, in order */
  asked: Uint8Array[]
  ports: number[]
  tcp: number
  close(): Promise<void>
}

/** A server on 127.0.0.1, UDP and TCP on one port, whose behaviour the test gives. */
export async function fakeUpstream(behave: Behaviour): Promise<FakeUpstream> {
  const udp = createSocket('udp4')
  await new Promise<void>((resolve) => udp.bind(0, '127.0.0.1', resolve))
  const { port } = udp.address()
  const fake: FakeUpstream = { port, asked: [], ports: [], tcp: 0, close: async () => {} }
  let isClosed = false
  udp.on('message', (bytes, from) => {
    const asked = new Uint8Array(bytes)
    fake.asked.push(asked)
    fake.ports.push(from.port)
    void Promise.resolve(behave(asked, false, from.port)).then((messages) => {
      if (!isClosed) for (const message of messages) udp.send(message, from.port, from.address)
    })
  })
  const tcp = createServer((socket) => {
    let held: Buffer = Buffer.alloc(0)
    socket.on('error', () => socket.destroy())
    socket.on('data', (bytes) => {
      held = Buffer.concat([held, bytes])
      if (held.length < 2 || held.length < 2 + held.readUInt16BE(0)) return
      const asked = new Uint8Array(held.subarray(2))
      fake.tcp++
      fake.asked.push(asked)
      void Promise.resolve(behave(asked, true, socket.remotePort ?? 0)).then((messages) => {
        for (const message of messages) {
          // in pieces: a length byte alone, then the rest
          const framed = Buffer.concat([Buffer.from(be16(message.length)), message])
          socket.write(framed.subarray(0, 1))
          setTimeout(() => socket.write(framed.subarray(1)), 5)
        }
        if (messages.length === 0) socket.end()
      })
    })
  })
  await new Promise<void>((resolve) => tcp.listen(port, '127.0.0.1', resolve))
  fake.close = async () => {
    isClosed = true
    udp.close()
    await new Promise<void>((resolve) => tcp.close(() => resolve()))
  }
  return fake
}

export function portOf(address: AddressInfo | string | null): number {
  return typeof address === 'object' && address !== null ? address.port : 0
}

/** A small seeded generator (xorshift): numbers below `limit`. */
export function random(seed: number): (limit: number) => number {
  let state = seed | 1
  return (limit) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % limit
  }
}
