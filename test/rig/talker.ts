/**
 * Talkers: small programs that speak TCP and UDP through real sockets inside a namespace, and tell what they saw.
 *
 * This file is both the program (`node talker.js WORDS`, started in a namespace) and what starts it. A program prints
 * one JSON object a line; the first of a server is {"ready":true}.
 *
 *   tcp-server PORT[-PORT]        answers each connection with a line `FROM-ADDRESS FROM-PORT AT-PORT`, then echoes
 *   udp-server PORT[-PORT]        answers each datagram with the same line and the datagram. One that reads
 *                                 `from ADDRESS PORT` is answered from that address and port instead: as a STUN server
 *                                 with two addresses does (RFC 5780). Prints each datagram with its sender.
 *   tcp ADDRESS PORT [COUNT]      connects COUNT times at once; prints each connection's line or error
 *   udp PORT SECONDS              from local port PORT, sends each line of standard input, `ADDRESS PORT TEXT`, and
 *                                 prints each datagram that comes, until SECONDS have passed without one
 *   udp-ask ADDRESS PORT TEXT     one connected socket: prints the answer, or the error that ICMP brought
 */
import { type RemoteInfo, createSocket } from 'node:dgram'
import { type Socket, connect, createServer, isIPv6 } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type Background, until } from './commands.js'
import type { Namespace } from './namespaces.js'

const program = fileURLToPath(import.meta.url)

/** What a server told a client of it: the client as the server sees it. */
export interface Seen {
  address: string
  port: number
  at: number // the server's port
}

export interface Datagram {
  address: string
  port: number
  text: string
}

export type Outcome = Seen | { error: string }

/** A server in a namespace. */
export class Server {
  private readonly background: Background

  private constructor(background: Background) {
    this.background = background
  }

  static async start(space: Namespace, protocol: 'tcp' | 'udp', ports: string | number): Promise<Server> {
    const background = space.spawn(process.execPath, [program, `${protocol}-server`, `${ports}`])
    await until(`the ${protocol} server is ready`, () => {
      if (!background.running) throw new Error(background.stderr)
      return background.stdout.includes('"ready"')
    })
    return new Server(background)
  }

  /** UDP: the datagrams so far. */
  received(): Datagram[] {
    return parse<Datagram>(this.background.stdout).filter((one) => 'text' in one)
  }

  stop(): Promise<number | null> {
    return this.background.stop('SIGKILL')
  }
}

/** A UDP socket on a port of its own that stays for several servers and answers. */
export class UdpSocket {
  private readonly background: Background

  private constructor(background: Background) {
    this.background = background
  }

  static async open(space: Namespace, port: number, seconds = 600): Promise<UdpSocket> {
    const background = space.spawn(process.execPath, [program, 'udp', `${port}`, `${seconds}`])
    await until('the socket is open', () => {
      if (!background.running) throw new Error(background.stderr)
      return background.stdout.includes('"ready"')
    })
    return new UdpSocket(background)
  }

  send(address: string, port: number, text: string): void {
    this.background.write(`${address} ${port} ${text}\n`)
  }

  received(): Datagram[] {
    return parse<Datagram>(this.background.stdout).filter((one) => 'text' in one)
  }

  /** Sends until an answer holds `text` too; what the server saw. */
  async ask(address: string, port: number, text: string): Promise<Seen> {
    return until(`${address}:${port} answers ${text}`, () => {
      const found = this.received().find((one) => one.text.includes(` ${text}`))
      if (found === undefined) this.send(address, port, text)
      return found === undefined ? null : seenIn(found.text)
    })
  }

  stop(): Promise<number | null> {
    return this.background.stop('SIGKILL')
  }
}

/** Connects `count` times at once. */
export async function tcpConnect(space: Namespace, address: string, port: number, count = 1): Promise<Outcome[]> {
  const text = await space.run(process.execPath, [program, 'tcp', address, `${port}`, `${count}`])
  return parse<Outcome>(text)
}

/** One connection; fails unless it is answered. */
export async function tcpSeen(space: Namespace, address: string, port: number): Promise<Seen> {
  const [outcome] = await tcpConnect(space, address, port)
  if (outcome === undefined || 'error' in outcome) throw new Error(`${address}:${port}: ${JSON.stringify(outcome)}`)
  return outcome
}

/** One connection; the error it met: ECONNREFUSED, EHOSTUNREACH, `silence`; `none` if it was answered. */
export async function tcpError(space: Namespace, address: string, port: number): Promise<string> {
  const [outcome] = await tcpConnect(space, address, port)
  return outcome !== undefined && 'error' in outcome ? outcome.error : 'none'
}

/** One datagram by a connected socket: what the server saw, or the error that came back. */
export async function udpAsk(space: Namespace, address: string, port: number, text = 'hello'): Promise<Outcome> {
  const [outcome] = parse<Outcome>(await space.run(process.execPath, [program, 'udp-ask', address, `${port}`, text]))
  return outcome
}

function parse<T extends object>(text: string): T[] {
  const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
  return lines.filter(Boolean).map((line) => JSON.parse(line) as T)
}

/** The line of a server, at the head of its answer. */
function seenIn(text: string): Seen {
  const [address = '', port, at] = text.split(' ')
  return { address, port: Number(port), at: Number(at) }
}

// ---- the program ----

const SILENCE_SECONDS = 5 // a lost SYN is sent again after 1 and 3 seconds

const print = (value: object): void => {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

const plain = (address: string): string => address.replace(/^::ffff:/, '')

function portsOf(text: string): number[] {
  const [first = 0, last = first] = text.split('-').map(Number)
  return Array.from({ length: last - first + 1 }, (_, i) => first + i)
}

async function serveTcp(ports: number[]): Promise<void> {
  for (const port of ports) {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.write(`${plain(socket.remoteAddress ?? '')} ${socket.remotePort} ${port}\n`)
      socket.pipe(socket)
    })
    await new Promise<void>((resolve) => server.listen({ port, host: '::', backlog: 4096 }, resolve))
  }
  print({ ready: true })
}

async function serveUdp(ports: number[]): Promise<void> {
  for (const port of ports) {
    const socket = createSocket('udp6')
    socket.on('message', (data, from) => answer(socket, port, data.toString(), from))
    await new Promise<void>((resolve) => socket.bind(port, '::', resolve))
  }
  print({ ready: true })
}

function answer(socket: ReturnType<typeof createSocket>, port: number, text: string, from: RemoteInfo): void {
  const address = plain(from.address)
  print({ address, port: from.port, text })
  const reply = `${address} ${from.port} ${port} ${text}`
  const [, other, otherPort] = /^from (\S+) (\d+)/.exec(text) ?? []
  if (other === undefined) {
    socket.send(reply, from.port, from.address)
    return
  }
  const second = createSocket(isIPv6(other) ? 'udp6' : 'udp4')
  second.bind(Number(otherPort), other, () => second.send(reply, from.port, address, () => second.close()))
}

async function callTcp(address: string, port: number, count: number): Promise<void> {
  const one = (): Promise<Outcome> =>
    new Promise((resolve) => {
      const socket: Socket = connect({ host: address, port })
      const timer = setTimeout(() => end({ error: 'silence' }), SILENCE_SECONDS * 1000)
      let text = ''
      const end = (outcome: Outcome): void => {
        clearTimeout(timer)
        resolve(outcome)
      }
      socket.on('error', (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message }))
      socket.on('close', () => end({ error: 'closed' }))
      socket.on('data', (data) => {
        text += data.toString()
        if (text.includes('\n')) end(seenIn(text))
      })
    })
  const outcomes = await Promise.all(Array.from({ length: count }, one))
  const lines = outcomes.map((outcome) => `${JSON.stringify(outcome)}\n`)
  process.stdout.write(lines.join(''), () => process.exit(0))
}

function speakUdp(port: number, seconds: number): void {
  const socket = createSocket('udp4')
  setTimeout(() => process.exit(0), seconds * 1000)
  socket.on('error', () => {})
  socket.on('message', (data, { address, port: from }) => print({ address, port: from, text: data.toString() }))
  socket.bind(port, () => print({ ready: true }))
  createInterface({ input: process.stdin }).on('line', (line) => {
    const [address, to, ...text] = line.split(' ')
    socket.send(text.join(' '), Number(to), address)
  })
}

function askUdp(address: string, port: number, text: string): void {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4')
  const end = (outcome: Outcome): void => {
    process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit(0))
  }
  socket.on('error', (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message }))
  socket.on('message', (data) => end(seenIn(data.toString())))
  socket.connect(port, address, () => {
    socket.send(text)
    setInterval(() => socket.send(text), 1000)
  })
  setTimeout(() => end({ error: 'silence' }), SILENCE_SECONDS * 1000)
}

if (process.argv[1] === program) {
  const [, , verb, first = '', second = '', third = '1'] = process.argv
  if (verb === 'tcp-server') await serveTcp(portsOf(first))
  else if (verb === 'udp-server') await serveUdp(portsOf(first))
  else if (verb === 'tcp') await callTcp(first, Number(second), Number(third))
  else if (verb === 'udp') speakUdp(Number(first), Number(second))
  else if (verb === 'udp-ask') askUdp(first, Number(second), third)
}
