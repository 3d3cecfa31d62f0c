/**
 * Compiles definitions into what a shard works by: numbers and arrays, no names. Pure.
 */
import {
  type CompiledNetwork,
  type CompiledPort,
  PORT_ACCESS,
  PORT_GUARDED,
  PORT_ISOLATED,
  PORT_LINK,
  PORT_RING,
  PORT_ROUTES,
  PORT_SERVES_DHCP,
  PORT_VLAN_AWARE,
  VID_NONE,
} from '../dataplane/port-table.js'
import { macWords } from './mac.js'
import type { PortDefinition, VlanDefinition } from './model.js'

export interface NumberedPort {
  number: number
  definition: PortDefinition
  /** bytes, with the network's and the device's limits applied */
  mtu: number
  /** TAKES_* bits of its device */
  offloads: number
}

/** What a shard is told of a network that it is to forget. */
export function emptyNetwork(network: number): CompiledNetwork {
  return { network, agingSeconds: 300, ports: [] }
}

/** Consecutive VIDs as ranges. */
function ranges(vids: readonly number[]): [number, number][] {
  const result: [number, number][] = []
  for (const vid of vids) {
    const last = result.at(-1)
    if (last && last[1] === vid - 1) last[1] = vid
    else result.push([vid, vid])
  }
  return result
}

function membership(vlan: VlanDefinition): Pick<CompiledPort, 'pvid' | 'vids'> {
  if (vlan.mode === 'none') return { pvid: 0, vids: [] }
  if (vlan.mode === 'access') return { pvid: vlan.access!, vids: [[vlan.access!, vlan.access!]] }
  return { pvid: vlan.native ?? VID_NONE, vids: ranges(vlan.trunk) }
}

export function compilePort(port: NumberedPort): CompiledPort {
  const { definition } = port
  const { mode } = definition.vlan
  const { allow } = definition
  const isGuarded = !allow.includes('spoofing')
  const mac = isGuarded && definition.mac !== null ? macWords(definition.mac) : { low: 0, high: 0 }
  return {
    port: port.number,
    flags:
      (definition.link ? PORT_LINK : 0) |
      (definition.isolated ? PORT_ISOLATED : 0) |
      (mode === 'none' ? 0 : PORT_VLAN_AWARE) |
      (mode === 'access' ? PORT_ACCESS : 0) |
      (definition.kind === 'pcap' ? PORT_RING : 0) |
      (isGuarded ? PORT_GUARDED : 0) |
      (allow.includes('dhcp-server') ? PORT_SERVES_DHCP : 0) |
      (allow.includes('router') ? PORT_ROUTES : 0),
    mtu: port.mtu,
    ...membership(definition.vlan),
    offloads: port.offloads,
    macLimit: definition.macLimit,
    ownMacLow: mac.low,
    ownMacHigh: mac.high,
  }
}

/** @param gateway the router's own port, null: the network has no router */
export function compileNetwork(
  number: number,
  agingSeconds: number,
  ports: NumberedPort[],
  gateway: CompiledPort | null,
): CompiledNetwork {
  return { network: number, agingSeconds, ports: [...ports.map(compilePort), ...(gateway === null ? [] : [gateway])] }
}
