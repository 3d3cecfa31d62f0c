#!/usr/bin/env node
/**
 * The command line: `weft OBJECT VERB …`. See `command.ts` for what all commands share.
 */
import { Command, CommanderError } from 'commander'
import { weftVersion } from '../places.js'
import { ignoreStraySignals } from '../signals.js'
import { addCaptureCommand } from './capture.js'
import { print, say } from './command.js'
import { addFdbCommands } from './fdb.js'
import { addHostCommands } from './host.js'
import { addNetworkCommands } from './network.js'
import { addPortCommands } from './port.js'
import { addRateCommands } from './rates.js'
import { addRouterCommands } from './router.js'
import { addTableCommands } from './tables.js'
import { addUpCommand } from './up.js'

const DONE = 0
const REFUSED = 1
const WRONG_USAGE = 2
const NO_DAEMON = 3
const HELPING = ['commander.helpDisplayed', 'commander.help', 'commander.version']

function program(): Command {
  const weft = new Command('weft')
    .description('A software switch in user space for virtual machines and namespaces')
    .version(weftVersion(), '--version', 'print the version')
    .option('--socket <path>', 'socket of the daemon')
    .option('--json', 'print the result of the API as JSON')
    .showHelpAfterError('(--help behind a command prints its usage, weft help all commands)')
    // what might have been meant stands behind what is wrong, in one line
    .configureOutput({ outputError: (text, write) => write(text.replace('\n(Did', ' (Did')) })
    .exitOverride()
  addUpCommand(weft)
  addNetworkCommands(weft)
  addPortCommands(weft)
  addFdbCommands(weft)
  addTableCommands(weft)
  addRouterCommands(weft)
  addRateCommands(weft)
  addCaptureCommand(weft)
  addHostCommands(weft)
  return weft
}

/** The code and the path of a refusal, as far as it has them. */
function wordsOf(error: Error): { data?: { code: string; path?: string } } {
  const { code, path } = error as { code?: unknown; path?: unknown }
  if (typeof code !== 'string' || code === '') return {}
  return { data: typeof path === 'string' ? { code, path } : { code } }
}

/** Whether help is what was asked for: `weft` alone and `weft port` print it because something is missing. */
function asked(args: readonly string[]): boolean {
  return args.some((word) => word === 'help' || word === '--help' || word === '-h' || word === '--version')
}

/** Runs a command line; returns the exit status. */
async function main(args: readonly string[]): Promise<number> {
  try {
    await program().parseAsync(args, { from: 'user' })
    return DONE
  } catch (error) {
    if (error instanceof CommanderError) return HELPING.includes(error.code) && asked(args) ? DONE : WRONG_USAGE
    if (!(error instanceof Error)) throw error
    const absent = error.name === 'ConnectError' && 'refused' in error && error.refused === false
    const message = `${error.message.replaceAll('\n', ' ')}${absent ? ' (weft up starts one)' : ''}`
    // With --json a program reads stdout: there the refusal stands, too, as the API words it.
    if (args.includes('--json')) print(JSON.stringify({ error: { message, ...wordsOf(error) } }, null, 2))
    say(`weft: ${message}`)
    return absent ? NO_DAEMON : REFUSED
  }
}

ignoreStraySignals()
process.stdout.on('error', (error) => {
  // Whoever read our output has seen enough.
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(DONE)
  say(`weft: stdout: ${error.message}`)
  process.exit(REFUSED)
})
process.exitCode = await main(process.argv.slice(2))
