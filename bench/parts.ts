/**
 * How a part of the bench runs: its candidates in interleaved rounds, and what they come to.
 *
 * A candidate is started afresh in every round and returns its figures by name; the order rotates from round to round,
 * as it does in the part that measures switching (run.ts says why). A figure is the median of its rounds, a ratio the
 * median of the ratios round by round.
 */
import { type Line, median } from './report.js'

/** By the name of the test. */
export type Figures = Map<string, number>

export interface PartPlan {
  readonly rounds: number
  readonly seconds: number
}

export interface Test {
  readonly name: string
  readonly label: string
  readonly unit: string
  readonly digits: number
  /** no ratios are made of it */
  readonly plain?: boolean
}

export interface Candidate {
  readonly name: string
  readonly description: string
  /** Why it cannot take part on this machine, or null. */
  missing(): string | null
  measure(plan: PartPlan): Promise<Figures>
}

export interface Part {
  readonly name: string
  /** one line over its table */
  readonly title: string
  readonly tests: Test[]
  /** candidates that the others are compared with */
  readonly bases: string[]
  readonly candidates: Candidate[]
}

export interface PartResult {
  readonly part: Part
  /** by candidate: a map a round */
  readonly rounds: Map<string, Figures[]>
  /** by candidate: why there are no figures, or no more of them */
  readonly skipped: Map<string, string>
  /** a candidate that should have been measured was not */
  readonly isBroken: boolean
}

export async function runPart(part: Part, plan: PartPlan, note: (text: string) => void): Promise<PartResult> {
  const rounds = new Map<string, Figures[]>()
  const skipped = new Map<string, string>()
  let isBroken = false
  for (const { name, missing } of part.candidates) {
    rounds.set(name, [])
    const reason = missing()
    if (reason === null) continue
    skipped.set(name, reason)
    note(`${part.name}: ${name}: skipped: ${reason}`)
  }
  for (let round = 0; round < plan.rounds; round++) {
    for (let i = 0; i < part.candidates.length; i++) {
      const candidate = part.candidates[(i + round) % part.candidates.length]
      if (candidate === undefined || skipped.has(candidate.name)) continue
      let said: string
      try {
        const figures = await candidate.measure(plan)
        rounds.get(candidate.name)?.push(figures)
        said = part.tests
          .filter(({ name }) => figures.has(name))
          .map(({ name, label, unit, digits }) => `${label} ${fixed(figures.get(name), digits)} ${unit}`)
          .join('; ')
      } catch (error) {
        said = `failed: ${error instanceof Error ? error.message.trim() : String(error)}`
        skipped.set(candidate.name, said)
        isBroken = true
      }
      note(`${part.name}: round ${round + 1} of ${plan.rounds}: ${candidate.name}: ${said}`)
    }
  }
  return { part, rounds, skipped, isBroken }
}

/** A table in Markdown: a row a candidate, each figure with its ratio to the bases. */
export function partTable({ part, rounds, skipped }: PartResult): string {
  const compared = (test: Test): string[] => (test.plain === true ? [] : part.bases)
  const header = [
    part.name,
    ...part.tests.flatMap((test) => [`${test.label}, ${test.unit}`, ...compared(test).map((base) => `of ${base}`)]),
  ]
  const valuesOf = (name: string, test: string): number[] =>
    (rounds.get(name) ?? []).map((figures) => figures.get(test) ?? Number.NaN)
  const rows = part.candidates.map(({ name }) => {
    const reason = skipped.get(name)
    if ((rounds.get(name) ?? []).length === 0)
      return [name, reason?.split('\n')[0] ?? 'not measured', ...header.slice(2).map(() => '')]
    const cells = part.tests.flatMap((test) => {
      const values = valuesOf(name, test.name)
      const ratios = compared(test).map((base) => {
        const others = valuesOf(base, test.name)
        const count = Math.min(values.length, others.length)
        return median(values.slice(0, count).map((value, i) => value / (others[i] ?? Number.NaN)))
      })
      return [fixed(median(values), test.digits), ...ratios.map((ratio) => fixed(ratio, 2))]
    })
    return [name, ...cells]
  })
  const rule = header.map((_, i) => (i === 0 ? '---' : '---:'))
  return [header, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

/** Every figure under a name of its own, such as `weft-nat.tcp.cubic`. */
export function partLines({ part, rounds }: PartResult): Line[] {
  return part.candidates.flatMap((candidate) =>
    part.tests.flatMap(({ name, unit }) => {
      const values = (rounds.get(candidate.name) ?? []).flatMap((figures) => figures.get(name) ?? [])
      return values.length === 0
        ? []
        : [{ name: `${candidate.name}.${name}`, value: median(values), unit, rounds: values }]
    }),
  )
}

function fixed(value: number | undefined, digits: number): string {
  return value !== undefined && Number.isFinite(value) ? value.toFixed(digits) : '-'
}
