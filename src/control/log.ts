/**
 * What the daemon has to say: lines to stderr, by level.
 *
 * A line is `weft: LEVEL: sentence`, without a time: under systemd the journal adds it. Written at once, so that the
 * last words of a dying process are not lost. Control characters do not reach the terminal.
 */
import { writeSync } from 'node:fs'

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

export class Log {
  private readonly limit: number
  private readonly write: (line: string) => void

  constructor(level: LogLevel, write: (line: string) => void = writeStderr) {
    this.limit = LOG_LEVELS.indexOf(level)
    this.write = write
  }

  error(sentence: string): void {
    this.line(0, sentence)
  }

  warn(sentence: string): void {
    this.line(1, sentence)
  }

  info(sentence: string): void {
    this.line(2, sentence)
  }

  debug(sentence: string): void {
    this.line(3, sentence)
  }

  private line(level: number, sentence: string): void {
    if (level > this.limit) return
    const plain = sentence.replace(/\p{Cc}/gu, ' ')
    this.write(`weft: ${level === 2 ? '' : `${LOG_LEVELS[level]}: `}${plain}\n`)
  }
}

function writeStderr(line: string): void {
  try {
    writeSync(2, line)
  } catch {
    // A closed or full stderr must not end the daemon.
  }
}
