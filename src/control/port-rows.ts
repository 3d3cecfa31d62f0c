/**
 * A port's rows of counters in an arena, for when nobody counts there: before its device is attached, or after.
 */
import { type Arena, COUNTER_SHIFT, DROP_SHIFT } from '../dataplane/layout.js'

export function clearRows({ counters, drops }: Arena, port: number): void {
  counters.fill(0, port << COUNTER_SHIFT, (port + 1) << COUNTER_SHIFT)
  drops.fill(0, port << DROP_SHIFT, (port + 1) << DROP_SHIFT)
}

export function copyRows(from: Arena, to: Arena, port: number): void {
  to.counters.set(from.counters.subarray(port << COUNTER_SHIFT, (port + 1) << COUNTER_SHIFT), port << COUNTER_SHIFT)
  to.drops.set(from.drops.subarray(port << DROP_SHIFT, (port + 1) << DROP_SHIFT), port << DROP_SHIFT)
}
