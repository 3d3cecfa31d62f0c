/**
 * The API's server: HTTP and WebSocket on the unix socket and, if asked for, on TCP.
 *
 *   GET /metrics, /healthz      on both, without a token
 *   WebSocket at / or /rpc      unix socket: the peer's credentials decide; TCP: the token (see `access.ts`)
 *
 * Limits: places and times as in `admission.ts` (503 above), messages of 1 MiB (1009 above) in at most 256 fragments,
 * no compression (its memory is the client's to spend), a ping every 30 s. TCP listens on loopback addresses unless
 * told otherwise; TLS if a certificate is given, whose names are the daemon's then.
 */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { type IncomingMessage, type Server as HttpServer, type ServerResponse, createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, type Socket, isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { type Group, type Names, TOKEN_PROTOCOL, admitsPeer, refusesOrigin, showsToken } from './access.js'
import { Admission, type Party, type Place } from './admission.js'
import { Failure } from './failure.js'
import { type Listener, type UnixSockets, listenUnix } from './listener.js'
import type { Log } from './log.js'
import { invalid, quote } from './schema.js'
import { Session } from './session.js'

const MESSAGE_BYTES = 1 << 20
const FRAGMENT_LIMIT = 256
const HEAD_MILLIS = 5_000
const NO_NAMES: Names = () => false
const PING_MILLIS = 30_000

export interface TcpOptions {
  address: string
  port: number
  anywhere: boolean
  certificate: string | null
  key: string | null
  token: string
}

export interface ServerParts {
  log: Log
  /** a session for a client that was let in */
  session: (socket: WebSocket, party: Party) => Session
  metrics: () => Promise<{ contentType: string; text: string }>
}

export class Server {
  private readonly parts: ServerParts
  private readonly sessions = new Set<Session>()
  private readonly admission = new Admission()
  private readonly places = new Map<Duplex | string, Place>()
  private readonly connections = new Set<Duplex>()
  private readonly upgrades = new WebSocketServer({
    noServer: true,
    maxPayload: MESSAGE_BYTES,
    maxFragments: FRAGMENT_LIMIT,
    perMessageDeflate: false,
    handleProtocols: (offered) => chosenProtocol(offered),
  })
  private readonly pings: NodeJS.Timeout
  private readonly closers: (() => void)[] = []

  constructor(parts: ServerParts) {
    this.parts = parts
    this.pings = setInterval(() => {
      for (const session of this.sessions) session.ping()
    }, PING_MILLIS)
  }

  get clients(): number {
    return this.sessions.size
  }

  async listenUnix(native: UnixSockets | null, path: string, group: Group | null): Promise<void> {
    const parties = new WeakMap<Duplex, Party>()
    const http = this.http(createServer(), null, NO_NAMES, (socket) => parties.get(socket) ?? 'owner')
    const uid = process.getuid?.() ?? 0
    const listener: Listener = await listenUnix(native, path, group?.gid ?? null, this.parts.log, (socket, peer) => {
      if (peer !== null && !admitsPeer(peer, uid, group)) {
        this.parts.log.warn(`user ${peer.uid} (process ${peer.pid}) was refused on ${path}`)
        refuse(socket, 403, `user ${peer.uid} may not command this daemon`)
      } else {
        if (peer !== null && peer.uid !== 0 && peer.uid !== uid) parties.set(socket, { uid: peer.uid })
        http.emit('connection', socket)
      }
    })
    this.closers.push(() => listener.close())
  }

  /** Returns the address that is listened on, `ADDRESS:PORT`. */
  async listenTcp(options: TcpOptions): Promise<string> {
    const { address, port, anywhere, certificate, key, token } = options
    if (!anywhere && !isLoopback(address)) {
      throw invalid('listen', `${address} is not a loopback address; --listen-anywhere allows it`)
    }
    const tls = certificate !== null && key !== null
    const pair = tls ? readPair(certificate, key) : null
    const bare = pair === null ? createServer() : createTls(pair)
    const http = this.http(bare, token, pair?.names ?? NO_NAMES, () => 'tcp')
    if (!tls && !isLoopback(address)) this.parts.log.warn(`commands come in the clear on ${address}: give --tls-cert`)
    await new Promise<void>((resolve, reject) => {
      http.once('error', (error) =>
        reject(new Failure('ERR_IO', `listen: ${address}:${port}: ${error.message}`, 'listen')),
      )
      http.listen(port, address, resolve)
    })
    this.closers.push(() => http.close())
    const bound = http.address() as AddressInfo
    return isIP(bound.address) === 6 ? `[${bound.address}]:${bound.port}` : `${bound.address}:${bound.port}`
  }

  /** Stops listening and says good-bye to the clients. */
  close(): void {
    clearInterval(this.pings)
    for (const close of this.closers) close()
    for (const session of this.sessions) session.close()
    for (const connection of this.connections) setTimeout(() => connection.destroy(), 200)
  }

  private http(http: HttpServer, token: string | null, names: Names, partyOf: (socket: Socket) => Party): HttpServer {
    http.headersTimeout = HEAD_MILLIS
    http.requestTimeout = HEAD_MILLIS
    http.keepAliveTimeout = HEAD_MILLIS
    http.maxHeadersCount = 64
    http.on('connection', (socket: Socket) => {
      socket.on('error', () => socket.destroy())
      const place = this.admission.admit(socket, partyOf(socket))
      if (typeof place === 'string') {
        refuse(socket, 503, place)
        return
      }
      const key = placeKey(socket)
      this.places.set(key, place)
      this.connections.add(socket)
      socket.on('close', () => {
        this.places.delete(key)
        this.connections.delete(socket)
      })
    })
    http.on('clientError', (_error, socket) => refuse(socket, 400, 'not HTTP'))
    http.on('request', (request, response) => {
      const place = this.places.get(placeKey(request.socket))
      place?.asked()
      response.once('close', () => place?.answered())
      void this.respond(request, response, names)
    })
    http.on('upgrade', (request, socket, head) => this.upgrade(request, socket, head, token, names))
    return http
  }

  private upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, token: string | null, names: Names): void {
    const path = (request.url ?? '/').split('?')[0]
    const foreign = refusesOrigin(request, names)
    if (path !== '/' && path !== '/rpc') return refuse(socket, 404, 'the API is at /rpc')
    if (foreign !== null) return refuse(socket, 403, foreign)
    if (token !== null && !showsToken(request, token)) return refuse(socket, 401, 'the token is missing or wrong')
    const place = this.places.get(placeKey(request.socket))
    if (place === undefined) return refuse(socket, 503, 'the connection has no place')
    const full = this.admission.refusesClient(place)
    if (full !== null) return refuse(socket, 503, full)
    this.upgrades.handleUpgrade(request, socket, head, (client) => {
      place.become()
      const session = this.parts.session(client, place.party)
      this.sessions.add(session)
      client.on('close', () => this.sessions.delete(session))
    })
  }

  private async respond(request: IncomingMessage, response: ServerResponse, names: Names): Promise<void> {
    const path = (request.url ?? '/').split('?')[0]
    const foreign = refusesOrigin(request, names)
    if (foreign !== null) return plain(response, 403, foreign)
    if (request.method !== 'GET' && request.method !== 'HEAD') return plain(response, 405, 'GET only')
    if (path === '/healthz') return plain(response, 200, 'ok')
    if (path === '/') return plain(response, 200, 'Weft: JSON-RPC 2.0 over WebSocket at /rpc; GET /metrics, /healthz')
    if (path !== '/metrics') return plain(response, 404, 'not found')
    try {
      const { contentType, text } = await this.parts.metrics()
      response.writeHead(200, { 'content-type': contentType }).end(text)
    } catch (error) {
      this.parts.log.error(`metrics: ${(error as Error).stack ?? String(error)}`)
      plain(response, 500, 'internal error')
    }
  }
}

/** `ADDRESS:PORT` or `[ADDRESS]:PORT`; an empty address is 127.0.0.1. */
export function parseListen(text: string): { address: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text)
  const address = match?.[1] ?? (match?.[2] === '' || match?.[2] === 'localhost' ? '127.0.0.1' : match?.[2])
  const port = Number(match?.[3])
  if (address === undefined || isIP(address) === 0 || port > 65535) {
    throw invalid('listen', `${quote(text)} is not ADDRESS:PORT`)
  }
  return { address, port }
}

function isLoopback(address: string): boolean {
  return address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}

interface Pair {
  cert: Buffer
  key: Buffer
  names: Names
}

function readPair(certificate: string, key: string): Pair {
  try {
    const cert = readFileSync(certificate)
    const read = new X509Certificate(cert)
    return { cert, key: readFileSync(key), names: (name) => read.checkHost(name) !== undefined }
  } catch (error) {
    throw invalid('tls', `certificate ${certificate} and key ${key}: ${(error as Error).message}`)
  }
}

function createTls({ cert, key }: Pair): HttpServer {
  try {
    return createTlsServer({ cert, key })
  } catch (error) {
    throw invalid('tls', `the certificate and its key cannot be used: ${(error as Error).message}`)
  }
}

/** TLS has two sockets a connection, which have the far end's address and port in common. */
function placeKey(socket: Socket): Duplex | string {
  return socket.remotePort === undefined ? socket : `${socket.remoteAddress} ${socket.remotePort}`
}

/** A browser wants one of the protocols it offered. */
function chosenProtocol(offered: Set<string>): string | false {
  if (offered.has('weft')) return 'weft'
  for (const one of offered) if (one.startsWith(TOKEN_PROTOCOL)) return one
  return false
}

const REASONS: Record<number, string> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  503: 'Service Unavailable',
}

function refuse(socket: Duplex, status: number, sentence: string): void {
  socket.on('error', () => socket.destroy())
  const head = `HTTP/1.1 ${status} ${REASONS[status]}\r\ncontent-type: text/plain\r\nconnection: close\r\n`
  socket.end(`${head}content-length: ${Buffer.byteLength(sentence) + 1}\r\n\r\n${sentence}\n`)
  socket.once('finish', () => socket.destroy())
}

function plain(response: ServerResponse, status: number, sentence: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(`${sentence}\n`)
}
