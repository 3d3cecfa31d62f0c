/**
 * Weft's plain switching between two TAPs, measured beside its router: what there is to lose. Both hosts are in one
 * subnet, the "outside" one too.
 */
import { INSIDE, type RouterContender, dress } from './router.js'
import { weft } from './weft.js'

const OTHER = '10.78.0.3'

export const weftSwitch: RouterContender = {
  name: 'weft-switch',
  description: 'Weft: plain switching between two tap ports',
  missing: weft.missing,
  start: async (topology, inside, middle, outside) => {
    const hosts = [
      { netns: inside, dev: 'bench0' },
      { netns: outside, dev: 'bench1' },
    ] as const
    const pids = await weft.start(topology, middle, [...hosts])
    await dress(topology, hosts[0], `${INSIDE}/24`)
    await dress(topology, hosts[1], `${OTHER}/24`)
    return { inside: hosts[0], outside: hosts[1], target: OTHER, nextHop: OTHER, pids }
  },
}
