/**
 * The processor time of a process, by proc(5).
 */
import { readFileSync } from 'node:fs'

/** Ticks of /proc a second: 100 wherever Node runs (stat, fields 14 and 15). */
const TICKS = 100

/** User and system time in seconds; null if the process has gone. */
export function processSeconds(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / TICKS
  } catch {
    return null
  }
}
