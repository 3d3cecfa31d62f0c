/**
 * `weft lease …`, `weft neighbor …`, `weft connection …`, `weft trace`: what a network's router knows and does.
 */
import type { Command } from 'commander'
import type { ConnectionEntry, Lease, Methods, NeighborEntry } from '../client.js'
import { defined, integer, talking } from './command.js'
import { duration, table } from './table.js'

export function addTableCommands(weft: Command): void {
  addLeaseCommands(weft)
  const neighbor = weft.command('neighbor').description('neighbors of a router (ARP, ND)')
  talking(neighbor, 'list <network>', 'the neighbors of a network', async (session, [network = '']) => {
    const neighbors = await session.call('neighbor.list', { network })
    session.print(neighbors, neighborTable(neighbors))
  })
  addConnectionCommands(weft)

  const tell = "what would become of a packet, and why: 'tcp 10.0.0.5:1234 > 93.184.216.34:443'"
  talking(weft, 'trace <network> <packet>', tell, async (session, [network = '', packet = ''], { from }) => {
    const report = await session.call('trace', { network, from: from as string, packet })
    session.print(report, [...report.steps, report.verdict].join('\n'))
  }).requiredOption('--from <port>', 'the port at which it comes in')
}

function addLeaseCommands(weft: Command): void {
  const lease = weft.command('lease').description('addresses of guests, leased or reserved')

  talking(lease, 'list <network>', 'the leases and reservations of a network', async (session, [network = '']) => {
    const leases = await session.call('lease.list', { network })
    session.print(leases, leaseTable(leases))
  })

  const keep = 'keep an address for a MAC'
  talking(lease, 'reserve <network> <mac> <address>', keep, async (session, [network, mac, address], { name }) => {
    const params = { network, mac, address, ...defined({ name }) } as Methods['lease.reserve']['params']
    const result = await session.call('lease.reserve', params)
    session.print(result, `${result.address} is reserved for ${result.mac}`)
  }).option('--name <host>', 'its name in DNS')

  const back = 'take a lease, a reservation or both back'
  talking(lease, 'release <network> <address>', back, async (session, [network = '', address = '']) => {
    const result = await session.call('lease.release', { network, address })
    session.print(result, `${address} is released`)
  })
}

function addConnectionCommands(weft: Command): void {
  const connection = weft.command('connection').description('connections through a router')

  talking(connection, 'list <network>', 'the connections of a network', async (session, [network], { limit }) => {
    const params = { network, ...defined({ limit }) } as Methods['connection.list']['params']
    const connections = await session.call('connection.list', params)
    session.print(connections, connectionTable(connections))
  }).option('--limit <n>', 'at most so many (default 1000)', integer)

  talking(connection, 'flush <network>', 'forget the connections of a network', async (session, [network = '']) => {
    const result = await session.call('connection.flush', { network })
    session.print(result, `${result.flushed} forgotten`)
  })
}

function leaseTable(leases: readonly Lease[]): string {
  const rows = leases.map((one) => [
    one.address,
    one.mac ?? '-',
    one.hostname ?? '-',
    one.port ?? '-',
    one.expiresAt ?? '-',
    one.reserved ? 'yes' : 'no',
  ])
  return table(['ADDRESS', 'MAC', 'HOSTNAME', 'PORT', 'EXPIRES', 'RESERVED'], rows)
}

function neighborTable(neighbors: readonly NeighborEntry[]): string {
  const rows = neighbors.map((one) => [
    one.address,
    one.mac ?? '-',
    one.port ?? '-',
    one.state,
    `${Math.round(one.ageSeconds)} s`,
  ])
  return table(['ADDRESS', 'MAC', 'PORT', 'STATE', 'AGE'], rows, ['AGE'])
}

function connectionTable(connections: readonly ConnectionEntry[]): string {
  const end = (address: string, port: number) => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`)
  const way = ({ source, sourcePort, destination, destinationPort }: ConnectionEntry['original']) =>
    `${end(source, sourcePort)} > ${end(destination, destinationPort)}`
  const rows = connections.map((one) => [
    one.protocol,
    one.state,
    way(one.original),
    way(one.reply),
    one.nat ?? '-',
    String(one.packets),
    String(one.bytes),
    duration(one.timeoutSeconds),
  ])
  const heading = ['PROTOCOL', 'STATE', 'ORIGINAL', 'REPLY', 'NAT', 'PACKETS', 'BYTES', 'TIMEOUT']
  return table(heading, rows, ['PACKETS', 'BYTES', 'TIMEOUT'])
}
