/**
 * What all commands share: `--socket` and `--json`, the connection, the exit status.
 *
 *   0 done   1 refused: one line on stderr   2 wrong usage: the usage on stderr   3 no daemon at the socket
 *
 * With `--json` a command prints the result of the API and nothing else. The client is loaded when a command needs it.
 */
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import type { Client, MethodName, Methods } from '../client.js'
import { defaultSocket } from '../places.js'

export interface CommonOptions {
  socket: string
  json?: boolean
}

/** Wrong usage that only the command itself can see. */
export class UsageError extends Error {}

/** A connection for the time of one command. */
export class Session {
  readonly json: boolean
  readonly socket: string
  private client: Client | null = null

  constructor({ socket, json }: CommonOptions) {
    this.socket = socket
    this.json = json ?? false
  }

  async connect(): Promise<Client> {
    const { connect } = await import('../client.js')
    this.client ??= await connect({ socket: this.socket })
    return this.client
  }

  async call<M extends MethodName>(method: M, params: Methods[M]['params']): Promise<Methods[M]['result']> {
    const client = await this.connect()
    return client.call(method, params)
  }

  /** Prints a result: as JSON, or as text. */
  print(result: unknown, text: string): void {
    print(this.json ? JSON.stringify(result, null, 2) : text)
  }

  close(): void {
    this.client?.close()
  }
}

/** Adds a subcommand that talks to the daemon. `run` gets the operands, then the options. */
export function talking(
  parent: Command,
  usage: string,
  summary: string,
  run: (session: Session, operands: string[], options: Record<string, unknown>) => Promise<void>,
): Command {
  const command = parent.command(usage).description(summary)
  common(command)
  command.action(async () => {
    const options = command.optsWithGlobals()
    const session = new Session({ socket: options.socket ?? defaultSocket(), json: options.json })
    try {
      await run(session, command.args, command.opts())
    } catch (error) {
      if (error instanceof UsageError) command.error(`error: ${error.message}`, { exitCode: 2 })
      throw error
    } finally {
      session.close()
    }
  })
  return command
}

export function common(command: Command): Command {
  return command
    .option('--socket <path>', 'socket of the daemon (default: WEFT_SOCKET, or the one of this user)', filePath)
    .option('--json', 'print the result of the API as JSON')
}

/** Parses an option's value; a text that is no whole number is wrong usage. */
export function integer(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('It is not a whole number.')
  return Number(text)
}

export function number(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text)) throw new InvalidArgumentError('It is not a number.')
  return Number(text)
}

/** The same for an option that the word `none` takes back. */
export function integerOrNone(text: string): number | 'none' {
  return text === 'none' ? 'none' : integer(text)
}

/** The same for an option that the word `auto` leaves to the daemon. */
export function integerOrAuto(text: string): number | 'auto' {
  return text === 'auto' ? text : integer(text)
}

/** Paths are the user's, the daemon has another working folder. */
export function filePath(text: string): string {
  return resolve(text)
}

export function print(text: string): void {
  process.stdout.write(text.endsWith('\n') || text === '' ? text : `${text}\n`)
}

export function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** Only what is set: the API takes a key that is given as given. */
export function defined(options: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}
