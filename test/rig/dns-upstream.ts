/**
 * A DNS server outside, as good or as bad as a test wants: runs in a namespace as a process of its own and answers
 * over UDP and TCP from records that the test gives it. It writes down every query it gets.
 *
 * An answer that is longer than the client takes (512 bytes without EDNS) is empty with TC set, over UDP. Names that
 * are not given do not exist (NXDOMAIN with a SOA record). `behave` turns it silent, or to one response code for all.
 *
 * This file is the program, too: `node dist/test/rig/dns-upstream.js ADDRESS PORT`. A line of JSON on its standard
 * input is its new state, a line on its standard output is a query. Standards: RFC 1035, 6891.
 */
import { createSocket } from 'node:dgram'
import { type Socket, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type Background, until } from './commands.js'
import type { Namespace } from './namespaces.js'

export interface RecordGiven {
  type: 'A' | 'AAAA' | 'TXT' | 'CNAME'
  data: string // TXT: repeated records are separate texts
  ttl?: number // 60 unless told
}

export interface Asked {
  name: string // as it stood in the query, case kept
  type: number
  tcp: boolean
  id: number
  port: number // the asker's
  udpBytes: number // by EDNS; 0 without
}

interface State {
  records: Record<string, RecordGiven[]>
  behaviour: 'answer' | 'silent' | 'servfail' | 'refused'
}

const TYPES = { A: 1, CNAME: 5, SOA: 6, TXT: 16, AAAA: 28 }

export class DnsUpstream {
  private readonly program: Background
  private readonly state: State
  private seen = 0

  private constructor(program: Background, state: State) {
    this.program = program
    this.state = state
  }

  static async start(
    space: Namespace,
    address: string,
    records: Record<string, RecordGiven[]>,
    port = 53,
  ): Promise<DnsUpstream> {
    const program = space.spawn(process.execPath, [fileURLToPath(import.meta.url), address, `${port}`])
    const upstream = new DnsUpstream(program, { records, behaviour: 'answer' })
    await until(`a DNS server listens on ${address}`, () => {
      if (!program.running) throw new Error(program.stderr)
      return program.stdout.includes('"ready"')
    })
    await upstream.tell()
    return upstream
  }

  /** All queries since the start, or since the last `forget`. */
  asked(): Asked[] {
    const lines = this.program.stdout.split('\n').slice(0, -1)
    return lines.slice(this.seen).flatMap((line) => {
      const value = JSON.parse(line) as Asked | string
      return typeof value === 'string' ? [] : [value]
    })
  }

  /** The names asked for, in lower case. */
  names(): string[] {
    return this.asked().map(({ name }) => name.toLowerCase())
  }

  forget(): void {
    this.seen = this.program.stdout.split('\n').length - 1
  }

  async behave(behaviour: State['behaviour']): Promise<void> {
    this.state.behaviour = behaviour
    await this.tell()
  }

  /** Adds names, or gives them other records. */
  async give(records: Record<string, RecordGiven[]>): Promise<void> {
    Object.assign(this.state.records, records)
    await this.tell()
  }

  async stop(): Promise<void> {
    await this.program.stop('SIGKILL')
  }

  private async tell(): Promise<void> {
    const before = this.program.stdout.split('"told"').length
    this.program.write(`${JSON.stringify(this.state)}\n`)
    await until('the DNS server has its records', () => this.program.stdout.split('"told"').length > before)
  }
}

// ---- the program ----

function nameBytes(name: string): Buffer {
  const labels = name.split('.').filter((label) => label !== '')
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label, 'latin1')])),
    Buffer.from([0]),
  ])
}

function dataBytes({ type, data }: RecordGiven): Buffer {
  if (type === 'A') return Buffer.from(data.split('.').map(Number))
  if (type === 'CNAME') return nameBytes(data)
  if (type === 'TXT') return Buffer.concat([Buffer.from([data.length]), Buffer.from(data, 'latin1')])
  const [head = '', tail] = data.split('::')
  const words = (text: string): string[] => text.split(':').filter((word) => word !== '')
  const behind = tail === undefined ? [] : words(tail)
  const front = words(head)
  const all = [...front, ...new Array<string>(8 - front.length - behind.length).fill('0'), ...behind]
  return Buffer.from(all.map((word) => word.padStart(4, '0')).join(''), 'hex')
}

function resource(name: Buffer, type: number, ttl: number, data: Buffer): Buffer {
  const fixed = Buffer.alloc(10)
  fixed.writeUInt16BE(type, 0)
  fixed.writeUInt16BE(1, 2)
  fixed.writeUInt32BE(ttl, 4)
  fixed.writeUInt16BE(data.length, 8)
  return Buffer.concat([name, fixed, data])
}

interface Question {
  name: string
  type: number
  end: number
  udpBytes: number
}

function parse(query: Buffer): Question | null {
  const labels: string[] = []
  let at = 12
  while (at < query.length && query[at] !== 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]))
    at += 1 + query[at]
  }
  const end = at + 5
  if (end > query.length || query.readUInt16BE(4) !== 1) return null
  const hasOpt = query.readUInt16BE(10) > 0 && end + 5 <= query.length && query.readUInt16BE(end + 1) === 41
  return {
    name: labels.join('.'),
    type: query.readUInt16BE(at + 1),
    end,
    udpBytes: hasOpt ? query.readUInt16BE(end + 3) : 0,
  }
}

function answer(query: Buffer, { name, type, end, udpBytes }: Question, state: State, isTcp: boolean): Buffer {
  const header = Buffer.from(query.subarray(0, 12))
  const found: Buffer[] = []
  let at = name.toLowerCase()
  let known = state.records[at]
  for (let links = 0; known !== undefined && links < 8; links++) {
    const owner = nameBytes(links === 0 ? name : at)
    const alias = known.find((one) => one.type === 'CNAME')
    const wanted = known.filter((one) => TYPES[one.type] === type || one === alias)
    for (const one of wanted) found.push(resource(owner, TYPES[one.type], one.ttl ?? 60, dataBytes(one)))
    if (alias === undefined || type === TYPES.CNAME) break
    at = alias.data.toLowerCase()
    known = state.records[at]
  }
  let code = known === undefined ? 3 : 0
  if (state.behaviour === 'servfail') code = 2
  if (state.behaviour === 'refused') code = 5
  const isEmpty = code === 2 || code === 5
  const zone = nameBytes('example')
  const numbers = Buffer.alloc(20)
  for (const place of [0, 4, 8, 12, 16]) numbers.writeUInt32BE(30, place)
  const authority = resource(zone, TYPES.SOA, 30, Buffer.concat([zone, zone, numbers]))
  const negative = !isEmpty && found.length === 0
  const opt = udpBytes === 0 ? Buffer.alloc(0) : Buffer.from([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0])
  const records = [...(isEmpty ? [] : found), ...(negative ? [authority] : [])]
  const whole = Buffer.concat([header, query.subarray(12, end), ...records, opt])
  const isTooLong = !isTcp && whole.length > Math.max(512, udpBytes)
  const out = isTooLong ? Buffer.concat([header, query.subarray(12, end), opt]) : whole
  out.writeUInt16BE(0x8080 | (query.readUInt16BE(2) & 0x0100) | (isTooLong ? 0x0200 : 0) | code, 2)
  out.writeUInt16BE(1, 4)
  out.writeUInt16BE(isTooLong || isEmpty ? 0 : found.length, 6)
  out.writeUInt16BE(negative && !isTooLong ? 1 : 0, 8)
  out.writeUInt16BE(udpBytes === 0 ? 0 : 1, 10)
  return out
}

function serve(address: string, port: number): void {
  let state: State = { records: {}, behaviour: 'answer' }
  const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`)
  const handle = (query: Buffer, isTcp: boolean, from: number): Buffer | null => {
    const question = parse(query)
    if (question === null) return null
    const { name, type, udpBytes } = question
    say({ name, type, tcp: isTcp, id: query.readUInt16BE(0), port: from, udpBytes } satisfies Asked)
    return state.behaviour === 'silent' ? null : answer(query, question, state, isTcp)
  }
  createInterface({ input: process.stdin }).on('line', (line) => {
    state = JSON.parse(line) as State
    say('told')
  })
  const udp = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  udp.on('message', (query, from) => {
    const out = handle(query, false, from.port)
    if (out !== null) udp.send(out, from.port, from.address)
  })
  const tcp = createServer((socket: Socket) => {
    let rest = Buffer.alloc(0)
    socket.on('error', () => socket.destroy())
    socket.on('data', (data) => {
      rest = Buffer.concat([rest, data])
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const size = rest.readUInt16BE(0)
        const out = handle(rest.subarray(2, 2 + size), true, socket.remotePort ?? 0)
        rest = rest.subarray(2 + size)
        if (out === null) continue
        const length = Buffer.alloc(2)
        length.writeUInt16BE(out.length)
        socket.write(Buffer.concat([length, out]))
      }
    })
  })
  udp.bind(port, address, () => tcp.listen(port, address, () => say('ready')))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) serve(process.argv[2], Number(process.argv[3]))
