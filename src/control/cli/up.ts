/**
 * `weft up`: runs the daemon in the foreground until SIGTERM, SIGINT, SIGHUP or SIGQUIT.
 */
import type { Command } from 'commander'
import { LOG_LEVELS, Log, type LogLevel } from '../log.js'
import type { NetworkStatus } from '../model.js'
import { defaultSocket, defaultState } from '../places.js'
import { filePath, print, say } from './command.js'

interface UpOptions {
  socket?: string
  state: string
  listen?: string
  listenAnywhere?: boolean
  tlsCert?: string
  tlsKey?: string
  group?: string
  config?: string
  shards: string
  logLevel: LogLevel
}

export function addUpCommand(weft: Command): void {
  const command = weft.command('up').description('run the daemon in the foreground')
  command
    .option('--socket <path>', 'take commands at this socket', filePath)
    .option('--state <folder>', 'keep networks and ports in this folder', filePath, defaultState())
    .option('--listen <address:port>', 'take commands on TCP too, with a token')
    .option('--listen-anywhere', 'allow --listen an address that is not loopback')
    .option('--tls-cert <file>', 'certificate for --listen', filePath)
    .option('--tls-key <file>', 'its key', filePath)
    .option('--group <name>', 'members of this group may give commands too')
    .option('--config <file>', 'networks that must be as this YAML or JSON file says', filePath)
    .option('--shards <n>', 'processes that networks are spread over, up to one a core', '1')
    .addOption(command.createOption('--log-level <level>', 'what to log').choices(LOG_LEVELS).default('info'))
    .action(async () => {
      const options = command.opts<UpOptions>()
      const global = command.optsWithGlobals<UpOptions>()
      await up({ ...options, socket: options.socket ?? filePath(global.socket ?? defaultSocket()) })
    })
}

async function up(options: UpOptions & { socket: string }): Promise<void> {
  const { parseShards } = await import('../placement.js')
  const shards = parseShards(options.shards)
  const log = new Log(options.logLevel)
  let end: (reason: string, status: number) => void = () => {}
  const ending = new Promise<{ reason: string; status: number }>((resolve) => {
    end = (reason, status) => resolve({ reason, status })
  })
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.once(signal, () => end(signal, 0))
  const [{ startDaemon }, { createFabric }, { native }] = await Promise.all([
    import('../daemon.js'),
    import('../fabric.js'),
    import('../../ports/native.js'),
  ])
  // A defect in one call is not the end of the switch.
  process.on('unhandledRejection', (error) =>
    log.error(`defect: ${error instanceof Error ? error.stack : String(error)}`),
  )
  const daemon = await startDaemon(
    {
      socket: options.socket,
      state: options.state,
      listen: options.listen ?? null,
      listenAnywhere: options.listenAnywhere ?? false,
      certificate: options.tlsCert ?? null,
      key: options.tlsKey ?? null,
      group: options.group ?? null,
      configuration: options.config ?? null,
    },
    {
      log,
      native,
      fabric: () =>
        createFabric({
          shards,
          stateFolder: options.state,
          onGivenUp: (reason) => end(reason, 1),
          onProblem: (reason) => log.warn(reason),
        }),
    },
  )
  print(`weft: ready on ${options.socket}`)
  greet(options.socket, daemon.networks.list(false))
  const { reason, status } = await ending
  if (status === 0) log.info(`${reason}: closing`)
  else log.error(`${reason}: giving up`)
  await daemon.close()
  // What a library left open must not keep the process.
  process.exit(status)
}

/** What a network's uplink leads to, for who has not chosen it. */
function wayOut({ mode, uplink, uplinkStatus }: NetworkStatus): string {
  if (mode === 'isolated' || mode === 'bridge') return ''
  if (uplink === null) return '; it has no way out: this user may open none (uplink sockets comes in a later version)'
  if (uplink.startsWith('host'))
    return `; guests reach this host by its interface ${uplinkStatus?.dev ?? 'weft'}, and what the host forwards to`
  return ''
}

/** How to go on from here, in words to copy. */
function greet(socket: string, networks: readonly NetworkStatus[]): void {
  const to = socket === defaultSocket() ? '' : ` --socket ${socket}`
  const [network] = networks
  if (network === undefined) return
  const { name, mode, subnets, uplink } = network
  const path = socket.replace(/[^/]*$/, 'vm1.sock')
  const parts = [mode, ...subnets.map((subnet) => subnet.cidr), ...(uplink === null ? [] : [`uplink ${uplink}`])]
  say(`weft: network ${name} is active (${parts.join(', ')})${wayOut(network)}.`)
  say('weft: To attach a guest, in another terminal:')
  say(`weft:   npx weft port add ${name} vm1 --kind qemu --path ${path}${to}`)
  say(`weft:   qemu-system-x86_64 … $(npx weft qemu ${name} vm1${to})`)
}
