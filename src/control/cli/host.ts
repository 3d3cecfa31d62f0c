/**
 * `weft status`, `weft doctor`, `weft qemu`: the daemon, the host, and how a guest attaches.
 */
import type { Command } from 'commander'
import type { DoctorReport, StatusReport } from '../client.js'
import { type Session, say, talking } from './command.js'
import { duration, list, table } from './table.js'

export function addHostCommands(weft: Command): void {
  talking(weft, 'status', 'what the daemon is and does', async (session) => {
    const report = await session.call('status', {})
    session.print(report, statusList(report))
  })

  talking(weft, 'doctor', 'what this host lacks, what is misconfigured, what Weft touched', async (session) => {
    const report = await examine(session)
    session.print(report, doctorText(report))
  })

  const attach = 'the QEMU arguments that attach a guest to a port'
  talking(weft, 'qemu <network> <name>', attach, async (session, [network = '', name = ''], options) => {
    const { shellLine } = await import('../qemu.js')
    const memory = options.memory as string | undefined
    const advice = await session.call('qemu', memory === undefined ? { network, name } : { network, name, memory })
    session.print(advice, shellLine(advice.arguments))
    if (!session.json) for (const note of advice.notes) say(`# ${note}`)
  }).option('--memory <size>', 'vhost-user: memory of the guest, as -m takes it (default 1G)')
}

/** Asks the daemon; without one, looks at the host from here. */
async function examine(session: Session): Promise<DoctorReport> {
  try {
    return await session.call('doctor', {})
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'ConnectError') throw error
    const { examineHost } = await import('../doctor.js')
    const daemon = { name: 'daemon', result: 'lacks', found: error.message, advice: 'weft up starts one' } as const
    return { checks: [daemon, ...examineHost()], touched: [] }
  }
}

function statusList(report: StatusReport): string {
  const { networks, ports } = report
  return list([
    ['weft', `${report.version}, process ${report.pid}, up ${duration(report.uptimeSeconds)}`],
    ['socket', report.socket],
    ['listen', report.listen ?? '-'],
    ['state', report.state],
    ['networks', `${networks.active} active of ${networks.defined}`],
    ['ports', `${ports.up} up, ${ports.down} down, ${ports.error} in error`],
    ...report.shards.map(
      ({ index, pid, restarts, networks: carried, ports: theirs, pool, fdb, neighbors, connections }) =>
        [
          `shard ${index}`,
          [
            `process ${pid}`,
            `${restarts} restarts`,
            `${carried} networks`,
            `${theirs} ports`,
            `${pool.free} of ${pool.slots} slots free`,
            `${fdb.used} of ${fdb.capacity} addresses`,
            `${neighbors.used} of ${neighbors.capacity} neighbors`,
            `${connections.used} of ${connections.capacity} connections`,
          ].join(', '),
        ] as const,
    ),
    ...report.problems.map((problem) => ['problem', problem] as const),
  ])
}

function doctorText({ checks, touched }: DoctorReport): string {
  const rows = checks.map(({ name, result, found }) => [result === 'wrong' ? 'WRONG' : result, name, found])
  const advice = checks.flatMap(({ name, advice: text }) => (text === null ? [] : [`${name}: ${text}`]))
  const parts = [table(['RESULT', 'WHAT', 'FOUND'], rows)]
  if (advice.length > 0) parts.push(`\nAdvice:\n${advice.map((line) => `  ${line}`).join('\n')}`)
  if (touched.length > 0) parts.push(`\nWeft holds:\n${touched.map((line) => `  ${line}`).join('\n')}`)
  return parts.join('\n')
}
