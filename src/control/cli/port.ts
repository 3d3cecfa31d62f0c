/**
 * `weft port …`: the ports of a network.
 */
import type { Command } from 'commander'
import type { Methods, PortStatus } from '../client.js'
import { UsageError, defined, filePath, integer, integerOrNone, talking } from './command.js'
import { list, short, table } from './table.js'

export function addPortCommands(weft: Command): void {
  const port = weft.command('port').description('ports of a network')

  const adding = talking(port, 'add <network> <name>', 'add a port', async (session, [network, name], options) => {
    const params = { network, name, ...portOptions(options) } as Methods['port.add']['params']
    const result = await session.call('port.add', params)
    const reason = result.reason === null ? '' : ` (${result.reason})`
    session.print(result, `port ${result.name} of network ${network} is ${result.state}${reason}`)
  })
  adding
    .requiredOption('--kind <kind>', 'tap, netdev, vhost-user, qemu or pcap')
    .option('--access <vid>', 'carry one VLAN, untagged', integer)
    .option('--trunk <vids>', 'carry VLANs tagged: 10,20-29')
    .option('--native <vid>', 'VLAN of the untagged frames of a trunk', integer)
    .option('--mac <address>', 'address of the host behind the port')
    .option('--mtu <bytes>', 'bytes of an IP packet', integer)
    .option('--mac-limit <n>', 'addresses that may be learned', integer)
    .option('--lease-limit <n>', 'leases of the hosts behind it', integer)
    .option('--isolated', 'exchange frames only with ports that are not isolated')
    .option('--address <ip>', 'address that the host may use beside its leases; again for another', several)
    .option('--allow <what>', 'spoofing, dhcp-server or router; again for another', several)
    .option('--netns <name>', 'tap, netdev: network namespace, by name or process id')
    .option('--queues <n>', 'tap: queues; vhost-user: queue pairs of the guest', integer)
    .option('--owner <user>', 'tap: user that may open the device')
  kindOptions(adding)

  talking(port, 'list <network>', 'the ports of a network', async (session, [network = '']) => {
    const ports = await session.call('port.list', { network })
    session.print(ports, portTable(ports))
  })

  talking(port, 'show <network> <name>', 'one port', async (session, [network = '', name = '']) => {
    const result = await session.call('port.show', { network, name })
    session.print(result, portList(result))
  })

  const setting = talking(port, 'set <network> <name>', 'change a port', async (session, [network, name], options) => {
    const settings = withNulls(portOptions(options))
    if (Object.keys(settings).length === 0) throw new UsageError('give at least one setting')
    const result = await session.call('port.set', { network, name, ...settings })
    session.print(result, `port ${result.name} of network ${network} is changed`)
  })
  setting
    .option('--access <vid|none>', 'carry one VLAN, untagged', integerOrNone)
    .option('--trunk <vids|none>', 'carry VLANs tagged: 10,20-29')
    .option('--native <vid|none>', 'VLAN of the untagged frames of a trunk', integerOrNone)
    .option('--mac <address|none>', 'address of the host behind the port')
    .option('--mtu <bytes|none>', 'bytes of an IP packet', integerOrNone)
    .option('--mac-limit <n|none>', 'addresses that may be learned', integerOrNone)
    .option('--lease-limit <n|none>', 'leases of the hosts behind it', integerOrNone)
    .option('--isolated', 'exchange frames only with ports that are not isolated')
    .option('--no-isolated', 'exchange frames with all')
    .option('--address <ip|none>', 'addresses that the host may use beside its leases, all of them', several)
    .option('--allow <what|none>', 'spoofing, dhcp-server or router, all of them', several)
    .option('--netns <name|none>', 'tap, netdev: network namespace, by name or process id')
    .option('--queues <n>', 'tap: queues; vhost-user: queue pairs of the guest', integer)
    .option('--owner <user|none>', 'tap: user that may open the device')
  kindOptions(setting)
  setting.option('--no-poll', 'vhost-user: ask the rings only while frames come')

  talking(port, 'remove <network> <name>', 'remove a port', async (session, [network = '', name = '']) => {
    const result = await session.call('port.remove', { network, name })
    session.print(result, `port ${name} of network ${network} is removed`)
  })

  const pull = 'plug the cable in, or pull it: up or down'
  talking(port, 'link <network> <name> <state>', pull, async (session, [network = '', name = '', state]) => {
    if (state !== 'up' && state !== 'down') throw new UsageError(`the state ${state} is neither up nor down`)
    const result = await session.call('port.link', { network, name, state })
    session.print(result, `the link of port ${name} of network ${network} is ordered ${state}`)
  })
}

function kindOptions(command: Command): void {
  command
    .option('--dev <ifname>', 'tap, netdev: the interface (tap: default NAME)')
    .option('--no-offloads', 'tap, vhost-user: no unfinished checksums and no large frames')
    .option('--path <socket>', 'vhost-user, qemu: path of a unix socket; qemu: or ADDRESS:PORT on loopback', socketPath)
    .option('--client', 'vhost-user, qemu: connect to the socket instead of making it')
    .option('--dgram', 'qemu: datagrams instead of a stream')
    .option('--poll', 'vhost-user: ask the rings without end, which takes a core')
    .option('--read <file>', 'pcap: frames that come in', filePath)
    .option('--write <file>', 'pcap: frames that go out', filePath)
}

/** The options as the API names them. An option that is on by default is told only when it is off. */
function portOptions(options: Record<string, unknown>): Record<string, unknown> {
  const { offloads, address, ...others } = options
  delete others.socket
  delete others.json
  return defined({ ...others, addresses: address, offloads: offloads === false ? false : undefined })
}

const several = (one: string, all: string[] = []): string[] => [...all, one]

/** `none` takes a setting back to its default. */
function withNulls(settings: Record<string, unknown>): Record<string, unknown> {
  const isNone = (value: unknown): boolean =>
    value === 'none' || (Array.isArray(value) && value.length === 1 && isNone(value[0]))
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, isNone(value) ? null : value]))
}

function vlan({ vlan: { mode, access, native, trunk } }: PortStatus): string {
  if (mode === 'none') return '-'
  if (mode === 'access') return String(access)
  const ranges: string[] = []
  for (let at = 0; at < trunk.length; ) {
    let end = at
    while (end + 1 < trunk.length && trunk[end + 1] === (trunk[end] ?? 0) + 1) end++
    ranges.push(end === at ? `${trunk[at]}` : `${trunk[at]}-${trunk[end]}`)
    at = end + 1
  }
  return `trunk ${ranges.join(',')}${native === null ? '' : ` native ${native}`}`
}

function portTable(ports: readonly PortStatus[]): string {
  const rows = ports.map((one) => [
    one.name,
    one.kind,
    one.state,
    vlan(one),
    String(one.mtu),
    short(one.receive.packets),
    short(one.transmit.packets),
    short(one.receive.dropped + one.transmit.dropped),
    one.reason ?? '',
  ])
  const heading = ['NAME', 'KIND', 'STATE', 'VLAN', 'MTU', 'RECEIVED', 'SENT', 'DROPPED', 'REASON']
  return table(heading, rows, ['MTU', 'RECEIVED', 'SENT', 'DROPPED'])
}

function portList(one: PortStatus): string {
  const { kind, ...options } = one.options
  const traffic = ({ packets, bytes, dropped }: PortStatus['receive']) =>
    `${packets} packets, ${bytes} bytes, ${dropped} dropped`
  const set = Object.entries(options).filter(([, value]) => value !== null && value !== false)
  const drops = Object.entries(one.drops)
  return list([
    ['name', one.name],
    ['kind', kind],
    ['state', one.reason === null ? one.state : `${one.state}: ${one.reason}`],
    ...set.map(([name, value]) => [name, String(value)] as const),
    ['vlan', vlan(one)],
    ['mac', one.mac ?? 'learned'],
    ['mac limit', String(one.macLimit)],
    ['leases', leases(one)],
    ['mtu', String(one.mtu)],
    ['link', one.link ? 'up' : 'down'],
    ['isolated', one.isolated ? 'yes' : 'no'],
    ['addresses', one.addresses.join(' ') || '-'],
    ['allow', one.allow.join(' ') || '-'],
    ['offloads', one.offloads.join(' ') || '-'],
    ['receive', traffic(one.receive)],
    ['transmit', traffic(one.transmit)],
    ['drops', drops.map(([reason, count]) => `${reason} ${count}`).join(', ') || '-'],
    ['in software', `${one.software.segmented} segmented, ${one.software.checksums} checksums`],
  ])
}

function leases({ leases: of, leaseLimit }: PortStatus): string {
  if (of === null) return leaseLimit === null ? '-' : `at most ${leaseLimit}`
  const held = `${of.ip4} of ${of.limit}${of.ip6 === 0 ? '' : `, IPv6 ${of.ip6} of ${of.limit}`}`
  const gaveWay = of.gaveWay === 0 ? '' : `, ${of.gaveWay} gave way`
  return `${held}${gaveWay}${of.refused === 0 ? '' : `, ${of.refused} refused`}`
}

/** A path is relative to the user's folder, not the daemon's; ADDRESS:PORT is none. */
function socketPath(text: string): string {
  return /^[^/]*:\d+$/.test(text) ? text : filePath(text)
}
