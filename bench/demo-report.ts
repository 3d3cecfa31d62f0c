/**
 * What both demos share: the daemon's command line, and what they say. A claim that is not so ends the demo.
 */
import type { Topology } from './topology.js'

export type Weft = (...args: string[]) => Promise<string>

export interface Demo {
  readonly topology: Topology
  readonly weft: Weft
  readonly folder: string
}

export const say = (text = ''): void => void process.stdout.write(`${text}\n`)

export function claim(condition: boolean, sentence: string): void {
  if (!condition) throw new Error(`not so: ${sentence}`)
  say(`  ok  ${sentence}`)
}

/** What the switch itself knows and has counted. */
export async function tables(weft: Weft, network: string): Promise<void> {
  say('\nthe forwarding database (weft fdb list)')
  say((await weft('fdb', 'list', network)).trimEnd())
  say('\nthe counters (weft stats)')
  say((await weft('stats', network)).trimEnd())
}
