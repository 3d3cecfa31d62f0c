/**
 * `weft fdb …`: the forwarding table of a network.
 */
import type { Command } from 'commander'
import type { FdbEntry, Methods } from '../client.js'
import { defined, integer, talking } from './command.js'
import { table } from './table.js'

export function addFdbCommands(weft: Command): void {
  const fdb = weft.command('fdb').description('forwarding tables')

  talking(fdb, 'list <network>', 'the addresses of a network', async (session, [network], { port, vid }) => {
    const params = { network, ...defined({ port, vid }) } as Methods['fdb.list']['params']
    const entries = await session.call('fdb.list', params)
    session.print(entries, fdbTable(entries))
  })
    .option('--port <name>', 'those at this port')
    .option('--vid <vid>', 'those in this VLAN (0: none)', integer)

  talking(fdb, 'add <network> <mac> <port>', 'add a static entry', async (session, [network, mac, port], { vid }) => {
    const params = { network, mac, port, ...defined({ vid }) } as Methods['fdb.add']['params']
    const entry = await session.call('fdb.add', params)
    session.print(entry, `${entry.mac} in VLAN ${entry.vid} is at port ${entry.port}`)
  }).option('--vid <vid>', 'VLAN (default: that of the untagged frames of the port)', integer)

  talking(fdb, 'remove <network> <mac>', 'remove an address', async (session, [network, mac], { vid }) => {
    const params = { network, mac, ...defined({ vid }) } as Methods['fdb.remove']['params']
    const result = await session.call('fdb.remove', params)
    session.print(result, `${mac}: ${result.removed} removed`)
  }).option('--vid <vid>', 'from this VLAN only', integer)

  talking(fdb, 'flush <network>', 'forget learned addresses', async (session, [network], { port, vid }) => {
    const params = { network, ...defined({ port, vid }) } as Methods['fdb.flush']['params']
    const result = await session.call('fdb.flush', params)
    session.print(result, `${result.flushed} forgotten`)
  })
    .option('--port <name>', 'those at this port')
    .option('--vid <vid>', 'those in this VLAN (0: none)', integer)
}

function fdbTable(entries: readonly FdbEntry[]): string {
  const rows = entries.map(({ vid, mac, port, static: fixed, ageSeconds }) => [
    vid === 0 ? '-' : String(vid),
    mac,
    port,
    fixed ? 'static' : `${Math.round(ageSeconds)} s`,
  ])
  return table(['VLAN', 'MAC', 'PORT', 'AGE'], rows, ['VLAN', 'AGE'])
}
