/**
 * Weft as a router: a network of mode nat, the inside host on a `tap` port, the uplink `host`: a TAP into the stack of
 * the namespace that the daemon runs in, which is the outside host's. So both hosts are on TAPs, as with plain
 * switching. Beside the default policies there are three rules; connections may be as many as the arena has.
 */
import { writeFileSync } from 'node:fs'
import {
  INSIDE,
  INSIDE_GATEWAY,
  INSIDE_SUBNET,
  OUTSIDE,
  OUTSIDE_ROUTER,
  type RouterContender,
  dress,
} from './router.js'
import { startWeft, weftMissing } from './weft.js'

export const weftNat: RouterContender = {
  name: 'weft-nat',
  description: 'Weft: NAT and firewall between a tap port and a host uplink',
  missing: weftMissing,
  start: async (topology, inside, _middle, outside) => {
    const { pid, folder, command } = await startWeft(topology, outside)
    const dev = 'bench0'
    const file = `${folder}/bench.json`
    const network = {
      name: 'bench',
      mode: 'nat',
      subnets: [INSIDE_SUBNET],
      uplink: `host,address=${OUTSIDE_ROUTER}/24`,
      rules: ['drop out tcp dport 25', 'drop out to 192.0.2.0/24', 'accept in icmp'],
      ports: [{ name: 'inside', kind: 'tap', dev, netns: inside }],
    }
    writeFileSync(file, JSON.stringify(network))
    await command('network', 'create', file)
    await dress(topology, { netns: inside, dev }, `${INSIDE}/24`, INSIDE_GATEWAY)
    const shown: unknown = JSON.parse(await command('network', 'show', 'bench', '--json'))
    const { uplinkStatus } = shown as { uplinkStatus: { dev: string } }
    const pids = [pid]
    return {
      inside: { netns: inside, dev },
      outside: { netns: outside, dev: uplinkStatus.dev },
      target: OUTSIDE,
      nextHop: INSIDE_GATEWAY,
      pids,
    }
  },
}
