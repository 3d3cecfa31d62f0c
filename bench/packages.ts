/**
 * The Debian packages of the other contenders and of the loads, fetched when asked to (`--install`): unpacked, not
 * installed (test/rig/unpacked.ts).
 */
import { dpdkPackages } from '../test/rig/dpdk.js'
import { unpack } from '../test/rig/unpacked.js'

const WANTED = [
  'vde-switch',
  'openvswitch-switch',
  'openvswitch-switch-dpdk',
  'ethtool',
  'iperf3',
  'nftables',
  'dnsmasq-base',
  'dnsperf',
]

/** Downloads and unpacks what is missing; returns the packages unpacked. */
export function unpackMissing(): string[] {
  const [wanted, alone] = dpdkPackages()
  return unpack([...WANTED, ...wanted], alone)
}
