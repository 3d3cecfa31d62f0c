/**
 * `weft network …`: networks, defined and running.
 */
import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { Methods, NetworkStatus } from '../client.js'
import { type Session, UsageError, defined, integer, talking } from './command.js'
import { list, table } from './table.js'

export function addNetworkCommands(weft: Command): void {
  const network = weft.command('network').description('networks')

  talking(network, 'list', 'the active networks', async (session, _operands, { all }) => {
    const networks = await session.call('network.list', { all: all === true })
    session.print(networks, networkTable(networks))
  }).option('--all', 'those that are not active too')

  talking(network, 'create <name>', 'define a network and start it; from a FILE, a transient one', create)
    .option('--mode <mode>', 'isolated (the default) or bridge; nat, route and open come later')
    .option('--subnet <cidr>', 'subnet of the router (later)', (one: string, all: string[] = []) => [...all, one])
    .option('--uplink <uplink>', 'netdev:IFNAME, the interface that a bridge network shares')
    .option('--dhcp <range>', 'FROM-TO or off (later)')
    .option('--domain <name>', 'DNS domain (later)')
    .option('--mtu <bytes>', 'bytes of an IP packet', integer)
    .option('--fdb-age <seconds>', 'how long an address is remembered', integer)
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
    const { mtu, fdbAge: fdbAgeSeconds, autostart } = options
    const settings = defined({ mtu, fdbAgeSeconds, autostart })
    if (Object.keys(settings).length === 0) throw new UsageError('give at least one setting')
    const result = await session.call('network.set', { name, ...settings })
    session.print(result, `network ${result.name} is changed`)
  })
    .option('--mtu <bytes>', 'bytes of an IP packet', integer)
    .option('--fdb-age <seconds>', 'how long an address is remembered', integer)
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
    one.uplink ?? '-',
  ])
  const heading = ['NAME', 'MODE', 'STATE', 'PERSISTENT', 'AUTOSTART', 'MTU', 'PORTS', 'UPLINK']
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
    ['uplink', one.uplink ?? '-'],
    ['mtu', String(one.mtu)],
    ['fdb age', `${one.fdbAgeSeconds} s`],
    ['ports', String(one.ports)],
  ])
}
