/**
 * What the rounds of a bench come to: medians, ratios, a table in Markdown, lines of `name value unit`, JSON.
 *
 * A figure is the median of its rounds; the rounds stand in the JSON. A ratio is the median of the ratios round by
 * round, since the contenders of one round ran shortly after each other and shared the machine's weather. A contender
 * that was skipped or failed is named with the reason.
 */
import type { Frames, Tcp } from './measure.js'

/** All that was measured of one contender: one entry a round. */
export interface Result {
  readonly name: string
  readonly description: string
  /** Why there are no figures, or no more of them. */
  skipped: string | null
  /** By congestion control. */
  readonly tcp: Map<string, Tcp[]>
  readonly frames: Frames[]
  idlePercent: number | null
}

export interface Line {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly rounds: number[]
}

const BASES = ['copy-loop', 'kernel-bridge'] as const

/** The middle value (the mean of the two middle ones); NaN of nothing. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const half = sorted.length >> 1
  const upper = sorted[half] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? Number.NaN) + upper) / 2
}

/** Every figure of a run under a name of its own, such as `weft.frames`. */
export function lines(results: Result[]): Line[] {
  return results.flatMap((result) => {
    const figures: Line[] = []
    const add = <T>(name: string, unit: string, measured: T[], figure: (each: T) => number): void => {
      const rounds = measured.map(figure)
      if (rounds.length > 0) figures.push({ name: `${result.name}.${name}`, value: median(rounds), unit, rounds })
    }
    for (const [congestion, rounds] of result.tcp) {
      add(`tcp.${congestion}`, 'Gbit/s', rounds, (each) => each.gbitPerSecond)
      add(`tcp.${congestion}.cpu`, '%', rounds, (each) => each.cpuPercent)
      add(`tcp.${congestion}.retransmits`, 'segments', rounds, (each) => each.retransmits)
    }
    add('frames', 'million/s', result.frames, (each) => each.millionPerSecond)
    add('frames.lost', '%', result.frames, (each) => each.lostPercent)
    add('frames.cpu', '%', result.frames, (each) => each.cpuPercent)
    if (result.idlePercent !== null) add('idle.cpu', '%', [result.idlePercent], (each) => each)
    return figures
  })
}

/** The table that README shows: a row a contender, each figure with its ratio to the copy loop and to the bridge. */
export function table(results: Result[], congestions: string[]): string {
  const figures = new Map(lines(results).map((line) => [line.name, line]))
  const rounds = (name: string, test: string): number[] => figures.get(`${name}.${test}`)?.rounds ?? []
  const tests = [...congestions.map((each) => ({ name: `tcp.${each}`, digits: 1 })), { name: 'frames', digits: 2 }]
  const header = [
    'switch',
    ...congestions.flatMap((each) => [`TCP ${each}, Gbit/s`, 'of copy loop', 'of bridge']),
    'frames, million/s',
    'of copy loop',
    'of bridge',
    'lost %',
    'CPU % (TCP, frames)',
  ]
  const rows = results.map((result) => {
    if (result.frames.length === 0 && result.tcp.size === 0) {
      return [result.name, `skipped: ${result.skipped ?? 'not measured'}`, ...header.slice(2).map(() => '')]
    }
    const value = (test: string): number => figures.get(`${result.name}.${test}`)?.value ?? Number.NaN
    const cells = tests.flatMap(({ name, digits }) => [
      fixed(value(name), digits),
      ...BASES.map((base) => fixed(ratio(rounds(result.name, name), rounds(base, name)), 2)),
    ])
    const cpu = [`tcp.${congestions[0] ?? ''}.cpu`, 'frames.cpu'].map((name) => fixed(value(name), 0)).join(', ')
    return [result.name, ...cells, fixed(value('frames.lost'), 1), cpu]
  })
  const rule = header.map((_, i) => (i === 0 ? '---' : '---:'))
  return [header, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

/** The median of the ratios of rounds; of a contender that lacks rounds, those it has. */
function ratio(values: number[], bases: number[]): number {
  const count = Math.min(values.length, bases.length)
  return median(values.slice(0, count).map((value, i) => value / (bases[i] ?? Number.NaN)))
}

function fixed(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : '-'
}
