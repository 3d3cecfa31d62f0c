#!/usr/bin/env node
/**
 * The command line: `weft OBJECT VERB …`. See `command.ts` for what all commands share.
 */
import { Command, CommanderError } from 'commander'
import { weftVersion } from '../places.js'
import { ignoreStraySignals } from '../signals.js'
import { addCaptureCommand } from './capture.js'
import { say } from './command.js'
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

function program(): Command {
  const weft = new Command('weft')
    .description('A software switch in user space for virtual machines and namespaces')
    .version(weftVersion(), '--version', 'print the version')
    .option('--socket <path>', 'socket of the daemon')
    .option('--json', 'print the result of the API as JSON')
    .showHelpAfterError()
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

/** Runs a command line; returns the exit status. */
async function main(args: readonly string[]): Promise<number> {
  try {
    await program().parseAsync(args, { from: 'user' })
    return DONE
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.code === 'commander.helpDisplayed' || error.code === 'commander.version' ? DONE : WRONG_USAGE
    }
    if (!(error instanceof Error)) throw error
    const refused = error.name === 'CallError' || error.name === 'Failure' || 'refused' in error
    if (!refused && !('syscall' in error)) throw error
    const absent = error.name === 'ConnectError' && 'refused' in error && error.refused === false
    say(`weft: ${error.message.replaceAll('\n', ' ')}${absent ? ' (weft up starts one)' : ''}`)
    return absent ? NO_DAEMON : REFUSED
  }
}

ignoreStraySignals()
process.stdout.on('error', (error) => {
  // Whoever read our output has seen enough.
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(DONE)
  throw error
})
process.exitCode = await main(process.argv.slice(2))
