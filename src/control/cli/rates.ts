/**
 * `weft stats` and `weft top`: counters, and live rates a port.
 */
import type { Command } from 'commander'
import type { Rates, StatsEntry } from '../client.js'
import { integer, number, print, talking } from './command.js'
import { short, table } from './table.js'

const CLEAR_SCREEN = '\u001b[H\u001b[2J'

export function addRateCommands(weft: Command): void {
  talking(weft, 'stats [network]', 'counters of the ports', async (session, [network]) => {
    const entries = await session.call('stats', network === undefined ? {} : { network })
    session.print(entries, statsTable(entries))
  })

  talking(weft, 'top [network]', 'live rates of the ports', async (session, [network], options) => {
    const client = await session.connect()
    const { interval = 1, count = Number.POSITIVE_INFINITY } = options as { interval?: number; count?: number }
    const asked = { intervalSeconds: interval, ...(network === undefined ? {} : { network }) }
    let shown = 0
    await new Promise<void>((resolve, reject) => {
      const show = (rates: Rates) => {
        if (session.json) print(JSON.stringify(rates))
        else print(`${process.stdout.isTTY ? CLEAR_SCREEN : ''}${ratesTable(rates)}`)
        if (++shown >= count) resolve()
      }
      process.once('SIGINT', resolve)
      process.once('SIGTERM', resolve)
      client.rates(asked, show).catch(reject)
      void client.closed.then(() => reject(client.lost()))
    })
  })
    .option('--interval <seconds>', 'time between two samples', number)
    .option('--count <n>', 'end after so many', integer)
}

function statsTable(entries: readonly StatsEntry[]): string {
  const rows = entries.map((one) => [
    one.network,
    one.port,
    one.state,
    String(one.receive.packets),
    String(one.receive.bytes),
    String(one.receive.dropped),
    String(one.transmit.packets),
    String(one.transmit.bytes),
    String(one.transmit.dropped),
    Object.entries(one.drops)
      .map(([reason, count]) => `${reason} ${count}`)
      .join(', '),
  ])
  const numbers = ['RX-PACKETS', 'RX-BYTES', 'RX-DROPPED', 'TX-PACKETS', 'TX-BYTES', 'TX-DROPPED']
  return table(['NETWORK', 'PORT', 'STATE', ...numbers, 'DROPS'], rows, numbers)
}

function ratesTable({ ports }: Rates): string {
  const rows = ports.map((one) => [
    one.network,
    one.port,
    one.state,
    short(one.receive.packetsPerSecond),
    short(one.receive.bytesPerSecond * 8),
    short(one.transmit.packetsPerSecond),
    short(one.transmit.bytesPerSecond * 8),
    short(one.droppedPerSecond),
  ])
  const numbers = ['RX-PPS', 'RX-BIT/S', 'TX-PPS', 'TX-BIT/S', 'DROPS/S']
  return table(['NETWORK', 'PORT', 'STATE', ...numbers], rows, numbers)
}
