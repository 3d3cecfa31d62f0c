/**
 * The kernel as a router: forwarding between two veth pairs in a namespace of its own, with nftables: masquerade on the
 * way out, and a forward chain that drops what is neither established nor begun inside, with three rules as Weft has.
 * Offloads stay on, so segmentation-offload frames cross whole and no byte is copied. Its work is done in the sender's
 * context, so it shows no process of its own and no CPU figure.
 */
import { find } from '../../test/rig/unpacked.js'
import { INSIDE, INSIDE_GATEWAY, OUTSIDE, OUTSIDE_ROUTER, type RouterContender, dress } from './router.js'

const RULES = `
table inet bench {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname "p0" tcp dport 25 drop
    iifname "p0" ip daddr 192.0.2.0/24 drop
    iifname "p1" meta l4proto icmp accept
    iifname "p0" accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "p1" masquerade
  }
}`

export const kernelNat: RouterContender = {
  name: 'kernel-nat',
  description: "the kernel's forwarding with nftables masquerade and filter over veth pairs, offloads on",
  missing: () => (find('nft') === null ? 'nft is not installed (Debian package nftables)' : null),
  start: async (topology, inside, middle, outside) => {
    const nft = find('nft')
    if (nft === null) throw new Error('nft is not installed')
    const ends = [
      { host: { netns: inside, dev: 'bench0' }, router: `${INSIDE_GATEWAY}/24`, own: `${INSIDE}/24` },
      { host: { netns: outside, dev: 'bench1' }, router: `${OUTSIDE_ROUTER}/24`, own: `${OUTSIDE}/24` },
    ] as const
    for (const [i, { host, router, own }] of ends.entries()) {
      const pair = ['type', 'veth', 'peer', 'name', host.dev, 'netns', host.netns]
      await topology.run(null, ['ip', '-n', middle, 'link', 'add', `p${i}`, ...pair])
      await dress(topology, { netns: middle, dev: `p${i}` }, router)
      await dress(topology, host, own, i === 0 ? INSIDE_GATEWAY : undefined)
    }
    await topology.run(middle, ['sysctl', '-qw', 'net.ipv4.ip_forward=1'])
    await topology.run(middle, [nft.path, RULES], { env: nft.env })
    return { inside: ends[0].host, outside: ends[1].host, target: OUTSIDE, nextHop: INSIDE_GATEWAY, pids: [] }
  },
}
