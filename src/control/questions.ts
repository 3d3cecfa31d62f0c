/**
 * What the router asks on its guests' segment, as frames: who has an IPv4 address (RFC 826), who an IPv6 address (RFC
 * 4861 section 4.3). To all, or to one host alone, whether it is still there (RFC 1122 section 2.3.2.1).
 */
import { groupMac, ipBytes, linkLocalOf, solicitedNodeOf } from '../services/address.js'
import type { Ip } from '../services/address.js'
import { DISCOVERY_HOP_LIMIT, writeDiscoveryOption, writeIcmp6 } from '../services/icmp6-frame.js'

const NEIGHBOR_SOLICITATION = 135
const OPTION_SOURCE_MAC = 1

/**
 * @param mac the router's
 * @param gateway the router's address in the subnet of `target`
 * @param to null: all hosts
 */
export function whoHas(mac: Uint8Array, gateway: Ip, target: Ip, to: Uint8Array | null): Uint8Array {
  return target.length === 1 ? arpQuestion(mac, gateway, target, to) : neighborQuestion(mac, target, to)
}

function arpQuestion(mac: Uint8Array, sender: Ip, target: Ip, to: Uint8Array | null): Uint8Array {
  const frame = new Uint8Array(42)
  if (to === null) frame.fill(255, 0, 6)
  else frame.set(to)
  frame.set(mac, 6)
  frame.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 1], 12)
  frame.set(mac, 22)
  frame.set(ipBytes(sender), 28)
  frame.set(ipBytes(target), 38)
  return frame
}

function neighborQuestion(mac: Uint8Array, target: Ip, to: Uint8Array | null): Uint8Array {
  const group = solicitedNodeOf(target)
  const option = writeDiscoveryOption({ type: OPTION_SOURCE_MAC, value: mac })
  const bytes = new Uint8Array(24 + option.length)
  bytes[0] = NEIGHBOR_SOLICITATION
  bytes.set(ipBytes(target), 8)
  bytes.set(option, 24)
  return writeIcmp6({
    sourceMac: mac,
    destinationMac: to ?? groupMac(group),
    source: linkLocalOf(mac),
    destination: to === null ? group : target,
    hopLimit: DISCOVERY_HOP_LIMIT,
    bytes,
  })
}
