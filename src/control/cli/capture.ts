/**
 * `weft capture`: the frames of a network or a port as pcapng, into a file or to stdout for Wireshark:
 *
 *   weft capture default vm1 -w - icmp | wireshark -k -i -
 *
 * The output is written with blocking calls: a reader that is slow, or a full pipe, slows this process, the daemon then
 * drops frames for it and counts them. The counts are told on stderr at the end.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import type { Command } from 'commander'
import { Failure } from '../failure.js'
import { type Session, UsageError, integer, say, talking } from './command.js'

export function addCaptureCommand(weft: Command): void {
  talking(weft, 'capture <network> [words...]', 'frames as pcapng: [PORT] [FILTER…]', capture)
    .usage('[options] <network> [port] [filter...]')
    .option('-w <file>', 'write to this file; - is stdout, the default')
    .option('--count <n>', 'end after so many frames', integer)
    .addHelpText('after', '\nFilter: host, net, port, proto, vlan, ether … with and, or, not, as tcpdump has them.')
}

async function capture(session: Session, operands: string[], options: Record<string, unknown>): Promise<void> {
  const { w = '-', count } = options as { w?: string; count?: number }
  const [network = '', ...words] = operands
  if (w === '-' && process.stdout.isTTY) throw new UsageError('pcapng is not for a terminal: use -w FILE or a pipe')
  if (w === '-' && session.json) throw new UsageError('--json needs -w FILE')

  let end = () => {}
  let fault: Error | null = null
  const interrupted = new Promise<void>((resolve) => {
    end = resolve
    process.once('SIGINT', resolve)
    process.once('SIGTERM', resolve)
  })
  const ports = words.length === 0 ? [] : await session.call('port.list', { network })
  const port = ports.some((one) => one.name === words[0]) ? words.shift() : undefined
  const filter = words.join(' ')
  // Nothing of an older file is lost until the capture has begun.
  const fd = w === '-' ? 1 : openSync(w, 'a', 0o600)
  const client = await session.connect()
  try {
    let begun = fd === 1
    let readable = true
    const running = await client.capture(
      {
        network,
        ...(port === undefined ? {} : { port }),
        ...(filter === '' ? {} : { filter }),
        ...(count === undefined ? {} : { count }),
      },
      (bytes) => {
        if (!readable) return
        try {
          if (!begun) empty(fd)
          begun = true
          readable = writeAll(fd, bytes)
        } catch (error) {
          readable = false
          fault = new Failure('ERR_IO', `${w === '-' ? 'stdout' : `file ${w}`}: ${(error as Error).message}`)
        }
        if (!readable) end()
      },
    )
    say(`weft: capturing on ${port === undefined ? `network ${network}` : `port ${port} of network ${network}`}`)
    const { frames, lost } = await Promise.race([running.ended, interrupted.then(() => running.stop())])
    if (fault !== null) throw fault
    if (session.json) session.print({ frames, lost }, '')
    else say(`weft: ${frames} frames captured, ${lost} lost`)
  } finally {
    if (fd !== 1) closeSync(fd)
  }
}

/** Takes out what was in a file; a pipe has nothing to take out. */
function empty(fd: number): void {
  if (fstatSync(fd).isFile()) ftruncateSync(fd)
}

/** Writes all of it; false if nobody reads any more. */
function writeAll(fd: number, bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(fd, bytes, at)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EPIPE') return false
      if (code !== 'EAGAIN') throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
    }
  }
  return true
}
