/**
 * Listening on a unix socket, with the credentials of who connects.
 *
 * Node tells nobody's credentials, so the native code listens and accepts; each connection is given out as a
 * `net.Socket` with the process, user and group of its peer as the kernel saw them when it connected (SO_PEERCRED,
 * unix(7)). A path that a dead daemon left is replaced, one that a live daemon serves is an error, and what is no
 * socket is left alone.
 *
 * Without native code (tests) Node itself listens, and the peer is null: then the mode of the file alone decides.
 */
import { chmodSync, chownSync, lstatSync, mkdirSync, rmSync } from 'node:fs'
import { type Socket, connect, createServer } from 'node:net'
import { dirname } from 'node:path'
import { Socket as NetSocket } from 'node:net'
import { Failure } from './failure.js'
import type { Log } from './log.js'
import { checkSocketPath } from './port-definition.js'

export interface Peer {
  pid: number
  uid: number
  gid: number
}

/** What this file needs of `native`; a negative number is an errno. */
export interface UnixSockets {
  listenUnix(path: string, mode: number): number
  accept(fd: number): number
  peerCredentials(fd: number): Peer | number
  watch(fd: number, callback: () => void): number
  unwatch(watch: number): void
  close(fd: number): number
}

export interface Listener {
  /** Stops listening and removes the path. Connections live on. */
  close(): void
}

const ACCEPT_AGAIN_MILLIS = 100
const EAGAIN = 11

/** @param gid group that may connect too (mode 0660), null: the owner alone (0600) */
export async function listenUnix(
  native: UnixSockets | null,
  path: string,
  gid: number | null,
  log: Log,
  onConnection: (socket: Socket, peer: Peer | null) => void,
): Promise<Listener> {
  checkSocketPath(path, 'socket')
  await clear(path)
  const mode = gid === null ? 0o600 : 0o660
  const close =
    native === null ? await listenPlain(path, onConnection) : listenNative(native, path, mode, log, onConnection)
  chmodSync(path, mode)
  if (gid !== null) chownSync(path, -1, gid)
  const { ino } = lstatSync(path)
  return {
    close() {
      // Only what this daemon made: another may have taken the path since.
      if (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) rmSync(path, { force: true })
      close()
    },
  }
}

function listenNative(
  native: UnixSockets,
  path: string,
  mode: number,
  log: Log,
  onConnection: (socket: Socket, peer: Peer | null) => void,
): () => void {
  const fd = native.listenUnix(path, mode)
  if (fd < 0) throw new Failure('ERR_IO', `socket ${path} cannot be made (errno ${-fd})`)
  let open = true
  let watch = 0
  const listen = () => {
    if (open) watch = native.watch(fd, accept)
  }
  const accept = () => {
    for (;;) {
      const connection = native.accept(fd)
      if (connection === -EAGAIN) return
      if (connection < 0) {
        // Out of descriptors: the connection stays readable, so look again later instead of at once and for ever.
        log.warn(`socket ${path}: a connection cannot be accepted (errno ${-connection})`)
        native.unwatch(watch)
        setTimeout(listen, ACCEPT_AGAIN_MILLIS).unref()
        return
      }
      const peer = native.peerCredentials(connection)
      if (typeof peer === 'number') {
        native.close(connection)
        continue
      }
      onConnection(new NetSocket({ fd: connection, readable: true, writable: true }), peer)
    }
  }
  listen()
  return () => {
    open = false
    native.unwatch(watch)
    native.close(fd)
  }
}

async function listenPlain(path: string, onConnection: (socket: Socket, peer: null) => void): Promise<() => void> {
  const server = createServer((socket) => onConnection(socket, null))
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  return () => server.close()
}

/** Makes the folder, removes a dead socket, refuses everything else that has the path. */
async function clear(path: string): Promise<void> {
  const root = process.getuid?.() === 0
  try {
    mkdirSync(dirname(path), { recursive: true, mode: root ? 0o755 : 0o700 })
  } catch (error) {
    throw new Failure('ERR_IO', `the folder of socket ${path} cannot be made: ${(error as Error).message}`)
  }
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isSocket()) throw new Failure('ERR_PORT_BUSY', `${path} exists and is not a socket`)
  if (await isServed(path)) throw new Failure('ERR_PORT_BUSY', `a daemon is running on ${path} already`)
  rmSync(path, { force: true })
}

/** Whether somebody accepts connections at a unix socket's path. */
export function isServed(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', (error) => {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ECONNREFUSED' || code === 'ENOENT') resolve(false)
      else if (code === 'EAGAIN') resolve(true)
      else reject(new Failure('ERR_PERMISSION', `socket ${path} is in use: ${error.message}`))
    })
  })
}
