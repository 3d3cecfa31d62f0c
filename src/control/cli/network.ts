/**
 * `weft network …`: networks, defined and running.
 */
import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { Methods, NetworkStatus, Subnet, UplinkStatus } from '../client.js'
import { type Session, UsageError, defined, integer, integerOrAuto, talking } from './command.js'
import { list, table } from './table.js'

export function addNetworkCommands(weft: Command): void {
  const network = weft.command('network').description('networks')

  talking(network, 'list', 'the active networks', async (session, _operands, { all }) => {
    const networks = await session.call('network.list', { all: all === true })
    session.print(networks, networkTable(networks))
  }).option('--all', 'those that are not active too')

  talking(network, 'create <name>', 'define a network and start it; from a FILE, a transient one', create)
    .option('--mode <mode>', 'nat, route, open, isolated (the default) or bridge')
    .option('--subnet <cidr>', 'subnet of the router; again for another (default: free ones)', several)
    .option(
      '--uplink <uplink>',
      'host, netdev:IFNAME[,address=CIDR|dhcp][,gateway=ADDRESS] or none (default: the best)',
    )
    .option('--dhcp <range>', 'FROM-TO, the addresses that are leased, or off')
    .option('--domain <name>', 'DNS domain of the guests (default: NAME.internal)')
    .option('--mtu <bytes>', 'bytes of an IP packet', integer)
    .option('--fdb-age <seconds>', 'how long an address is remembered', integer)
    .option('--shard <n|auto>', 'the shard that carries it, from 0 on (default: the least used)', integerOrAuto)
    .option('--autostart', 'start it with the daemon even if it was stopped')
    .option('--transient', 'forget it when it stops')

  talking(
    network,
    'define <file>',
    'define a network from YAML or JSON, or change one',
    async (session, [file = '']) => {
      const document = (await readNetwork(file)) as Methods['network.define']['params']
      const result = await session.call('network.define', document)
      session.print(result, `network ${result.name} is defined`)
    },
  )

  talking(network, 'show <name>', 'one network', async (session, [name = '']) => {
    const result = await session.call('network.show', { name })
    session.print(result, networkList(result))
  })

  talking(network, 'set <name>', 'change settings while it runs', async (session, [name = ''], options) => {
    const settings = changes(options)
    if (Object.keys(settings).length === 0) throw new UsageError('give at least one setting')
    const result = await session.call('network.set', { name, ...settings })
    session.print(result, `network ${result.name} is changed`)
  })
    .option('--mode <mode>', 'nat, route, open or isolated')
    .option('--subnet <cidr>', 'have this subnet alone; again for another', several)
    .option('--add-subnet <cidr>', 'have this one too', several)
    .option('--remove-subnet <cidr>', 'have this one no longer', several)
    .option('--uplink <uplink>', 'host, netdev:IFNAME… or none')
    .option('--dhcp <range>', 'FROM-TO, the addresses that are leased, or off')
    .option('--domain <name|none>', 'DNS domain of the guests')
    .option('--mtu <bytes>', 'bytes of an IP packet', integer)
    .option('--fdb-age <seconds>', 'how long an address is remembered', integer)
    .option('--shard <n|auto>', 'pin it to a shard, and move it there; auto: no longer', integerOrAuto)
    .option('--autostart', 'start it with the daemon')
    .option('--no-autostart', 'do not')

  for (const [verb, done] of [
    ['start', 'is active'],
    ['stop', 'is stopped'],
    ['restart', 'is active again'],
  ] as const) {
    talking(network, `${verb} <name>`, `${verb} a network`, async (session, [name = '']) => {
      const result = await session.call(`network.${verb}`, { name })
      session.print(result, `network ${result.name} ${done}`)
    })
  }

  talking(network, 'delete <name>', 'stop a network and forget it', async (session, [name = '']) => {
    session.print(await session.call('network.delete', { name }), `network ${name} is deleted`)
  })

  const exporting = talking(network, 'export <name>', 'print its definition', async (session, [name = ''], options) => {
    const { format } = options as Methods['network.export']['params']
    const result = await session.call('network.export', { name, ...(format === undefined ? {} : { format }) })
    session.print(result, result.text)
  })
  exporting.addOption(exporting.createOption('--format <format>', 'of the text').choices(['yaml', 'json', 'xml']))
}

const several = (one: string, all: string[] = []): string[] => [...all, one]

/** The options of `network set` as the API names them. */
function changes(options: Record<string, unknown>): Record<string, unknown> {
  const { mode, subnet, addSubnet, removeSubnet, uplink, dhcp, domain, mtu, fdbAge, shard, autostart } = options
  return defined({
    mode,
    subnets: subnet,
    addSubnets: addSubnet,
    removeSubnets: removeSubnet,
    uplink,
    dhcp,
    domain: domain === 'none' ? null : domain,
    mtu,
    fdbAgeSeconds: fdbAge,
    shard: shard === 'auto' ? null : shard,
    autostart,
  })
}

async function create(session: Session, [name = '']: string[], options: Record<string, unknown>): Promise<void> {
  const { subnet, fdbAge, transient, ...others } = options
  delete others.socket
  delete others.json
  const fromFile = name.includes('/') || /\.(ya?ml|json|xml)$/.test(name)
  const settings = defined({
    ...others,
    subnets: subnet,
    fdbAgeSeconds: fdbAge,
    transient: transient === true || fromFile ? true : undefined,
  })
  const document = fromFile ? ((await readNetwork(name)) as object) : { name }
  if (settings.domain === 'none') settings.domain = null
  if (settings.shard === 'auto') settings.shard = null
  const params = { ...document, ...settings } as Methods['network.create']['params']
  const result = await session.call('network.create', params)
  session.print(result, `network ${result.name} is active`)
}

async function readNetwork(file: string): Promise<unknown> {
  const { readDocument } = await import('../document.js')
  const { Failure } = await import('../failure.js')
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new Failure('ERR_IO', `file ${file} cannot be read: ${(error as Error).message}`)
  }
  const value = readDocument(text)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Failure('ERR_INVALID', `file ${file} does not hold a network`)
  }
  return value
}

function networkTable(networks: readonly NetworkStatus[]): string {
  const rows = networks.map((one) => [
    one.name,
    one.mode,
    one.active ? 'active' : 'inactive',
    one.persistent ? 'yes' : 'no',
    one.autostart ? 'yes' : 'no',
    String(one.mtu),
    String(one.ports),
    one.subnets.map(({ cidr }) => cidr).join(' ') || '-',
    one.uplink ?? '-',
  ])
  const heading = ['NAME', 'MODE', 'STATE', 'PERSISTENT', 'AUTOSTART', 'MTU', 'PORTS', 'SUBNETS', 'UPLINK']
  return table(heading, rows, ['MTU', 'PORTS'])
}

function networkList(one: NetworkStatus): string {
  return list([
    ['name', one.name],
    ['uuid', one.uuid],
    ['mode', one.mode],
    ['state', one.active ? 'active' : 'inactive'],
    ['persistent', one.persistent ? 'yes' : 'no'],
    ['autostart', one.autostart ? 'yes' : 'no'],
    ...one.subnets.map((subnet) => ['subnet', subnetLine(subnet)] as const),
    ['domain', one.domain ?? '-'],
    ['uplink', one.uplink ?? '-'],
    ...(one.uplinkStatus === null ? [] : uplinkLines(one.uplinkStatus)),
    ['mtu', String(one.mtu)],
    ['fdb age', `${one.fdbAgeSeconds} s`],
    ['shard', shardText(one)],
    ['ports', String(one.ports)],
  ])
}

/** Where it shall run, and where it does, which differs if it is pinned to a shard that this daemon does not have. */
function shardText({ shard, runsOn }: NetworkStatus): string {
  const wish = shard === null ? 'automatic' : `pinned to ${shard}`
  return runsOn === null ? wish : `${runsOn} (${wish})`
}

function subnetLine({ cidr, gateway, dhcp }: Subnet): string {
  const leases = dhcp === null ? 'no leases' : `leases ${dhcp.from} to ${dhcp.to}`
  return `${cidr}, gateway ${gateway}, ${leases}`
}

function uplinkLines(uplink: UplinkStatus): [string, string][] {
  const { dev, state, reason, mac, addresses, gateways, receive, transmit, drops } = uplink
  const dropped = Object.entries(drops).map(([name, count]) => `${name} ${count}`)
  return [
    ['uplink state', `${state}${reason === null ? '' : `: ${reason}`}`],
    ['uplink device', `${dev}, MAC ${mac}`],
    ['uplink addresses', addresses.join(' ') || '-'],
    ['uplink gateways', gateways.join(' ') || '-'],
    ['uplink receive', `${receive.packets} packets, ${receive.bytes} bytes`],
    ['uplink transmit', `${transmit.packets} packets, ${transmit.bytes} bytes`],
    ['uplink drops', dropped.join(', ') || '-'],
  ]
}
