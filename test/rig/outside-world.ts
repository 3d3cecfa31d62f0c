/**
 * A world outside: what a network of Weft's reaches by a `netdev:` uplink, and who tries to come in by it.
 *
 *   guests ── lan ── router ── netdev:up0 ═ veth ═ w0 [world] m0 ═ veth ═ f0 [far]
 *                    (all of it in the switch's namespace)
 *
 *   world   198.51.100.1/24 and .2, 2001:db8:100::1/64; forwards to far. The router is 198.51.100.20 and ::20.
 *   far     203.0.113.10/24 and 2001:db8:200::10/64, behind a link whose MTU a test may lower
 *
 * The switch's namespace has no address in the world: what reaches it there was let through by a fault. Guests are TAPs
 * with static addresses, or with `lease`, with what busybox udhcpc is given. `judge` has tshark verify every checksum
 * of a capture; for that the wire's ends must carry finished frames: `finish` switches the offloads of a veth off.
 */
import assert from 'node:assert/strict'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run, until, words } from './commands.js'
import { Weft } from './daemon.js'
import { Host, Wiring } from './hosts.js'
import { Lab, type Namespace } from './namespaces.js'
import { Probe } from './raw.js'

export const world = { ip: '198.51.100.1', second: '198.51.100.2', ip6: '2001:db8:100::1' } as const
export const far = { ip: '203.0.113.10', ip6: '2001:db8:200::10' } as const
export const router = { outside: '198.51.100.20', outside6: '2001:db8:100::20' } as const
export const uplink = `netdev:up0,address=${router.outside}/24,gateway=${world.ip}`
export const uplink6 =
  `netdev:up0,address=${router.outside}/24,address=${router.outside6}/64` + `,gateway=${world.ip},gateway=${world.ip6}`

export interface UplinkFacts {
  kind: string
  dev: string
  state: string
  reason: string | null
  mac: string
  addresses: string[]
  gateways: string[]
  drops?: Record<string, number>
}

export interface Connection {
  protocol: string
  state: string
  original: { source: string; sourcePort: number; destination: string; destinationPort: number }
  reply: { source: string; sourcePort: number; destination: string; destinationPort: number }
  nat: string | null
  packets: number
  bytes: number
  timeoutSeconds: number
}

export interface Rule {
  number: number
  rule: string
  packets: number
  bytes: number
}

/** What udhcpc does with a lease. */
const LEASE_SCRIPT = `#!/bin/sh
case $1 in
bound|renew)
  ip address replace $ip/$mask dev $interface
  for one in $router; do ip route replace default via $one; break; done ;;
esac
`

export class OutsideWorld {
  readonly lab: Lab
  readonly weft: Weft
  readonly space: Namespace // the switch's own
  readonly world: Namespace
  readonly far: Namespace
  readonly probe: Probe
  private readonly wirings = new Map<string, Wiring>()

  private constructor(lab: Lab, weft: Weft, space: Namespace, outside: Namespace, behind: Namespace, probe: Probe) {
    this.lab = lab
    this.weft = weft
    this.space = space
    this.world = outside
    this.far = behind
    this.probe = probe
  }

  /** @param daemon further options of `weft up` */
  static async open(daemon: string[] = []): Promise<OutsideWorld> {
    const lab = await Lab.open()
    try {
      const space = await lab.namespace('sw', { ipv6: true })
      const outside = await lab.namespace('world', { ipv6: true })
      const behind = await lab.namespace('far', { ipv6: true })
      await OutsideWorld.connect(lab, space, outside)
      await lab.veth(outside, 'm0', behind, 'f0')
      await outside.ipBatch(['addr add 203.0.113.1/24 dev m0', 'addr add 2001:db8:200::1/64 dev m0 nodad'])
      await behind.ipBatch([
        `addr add ${far.ip}/24 dev f0`,
        `addr add ${far.ip6}/64 dev f0 nodad`,
        'route add default via 203.0.113.1',
        'route add default via 2001:db8:200::1',
      ])
      await outside.run('sysctl', ['-q', '-w', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1'])
      // what a test provokes must not be silenced by the kernel's own limits
      for (const one of [outside, behind]) await one.run('sysctl', ['-q', '-w', 'net.ipv4.icmp_ratelimit=0'])
      const weft = await Weft.start(lab, space, 'weft', daemon)
      return new OutsideWorld(lab, weft, space, outside, behind, await Probe.build(lab))
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  /** The cable between up0 and w0, with the world's addresses on it. */
  private static async connect(lab: Lab, space: Namespace, outside: Namespace): Promise<void> {
    await space.attempt('sysctl', ['-q', '-w', 'net.ipv6.conf.default.disable_ipv6=1'])
    await lab.veth(space, 'up0', outside, 'w0')
    await space.attempt('sysctl', ['-q', '-w', 'net.ipv6.conf.default.disable_ipv6=0'])
    await outside.ipBatch([
      `addr add ${world.ip}/24 dev w0`,
      `addr add ${world.second}/24 dev w0`,
      `addr add ${world.ip6}/64 dev w0 nodad`,
    ])
  }

  /** Makes the cable anew, after it was deleted. */
  reconnect(): Promise<void> {
    return OutsideWorld.connect(this.lab, this.space, this.world)
  }

  /** Makes a network and returns what puts guests on it. */
  async network(name: string, options: string): Promise<Wiring> {
    await this.weft.do(['network', 'create', name, ...words(options)])
    return this.wiring(name)
  }

  /** Starts a network, transient, from a definition in JSON. */
  async define(definition: { name: string } & Record<string, unknown>): Promise<Wiring> {
    const path = join(this.lab.folder, `${definition.name}.json`)
    writeFileSync(path, JSON.stringify(definition))
    await this.weft.do(['network', 'create', path])
    return this.wiring(definition.name)
  }

  private wiring(name: string): Wiring {
    const wiring = new Wiring(this.lab, this.weft, name)
    this.wirings.set(name, wiring)
    return wiring
  }

  async remove(name: string): Promise<void> {
    await this.weft.cli(['network', 'stop', name])
    await this.weft.cli(['network', 'delete', name])
  }

  /** A guest with static addresses and default routes by the gateway. */
  async guest(wiring: Wiring, name: string, ip: string, options: GuestOptions = {}): Promise<Host> {
    const { ip6, gateway = firstOf(ip), port = '', mtu } = options
    const host = await wiring.tap(name, {
      address: `${ip}/24`,
      port,
      ipv6: ip6 !== undefined,
      ...(mtu === undefined ? {} : { mtu }),
    })
    await host.space.ip(`route add default via ${gateway}`)
    if (ip6 !== undefined) {
      await host.space.ip(`addr add ${ip6}/64 dev ${host.device} nodad`)
      await host.space.ip(`route add default via ${ip6.replace(/::.*/, '::1')}`)
    }
    return host
  }

  /** A guest that asks for its address by DHCP. */
  async leased(wiring: Wiring, name: string, port = ''): Promise<{ host: Host; ip: string }> {
    const host = await wiring.tap(name, { port })
    return { host, ip: await this.lease(host) }
  }

  /** Runs a DHCP client on a guest until it has a lease; the address. */
  async lease(host: Host): Promise<string> {
    const script = join(this.lab.folder, 'udhcpc.sh')
    writeFileSync(script, LEASE_SCRIPT)
    chmodSync(script, 0o755)
    const args = ['udhcpc', '-f', '-q', '-n', '-t', '10', '-T', '2', '-i', host.device, '-s', script]
    await host.space.run('busybox', [...args, '-x', `hostname:${host.name}`])
    const addresses = JSON.parse(
      await run('ip', ['-n', host.space.name, '-4', '-json', 'address', 'show', host.device]),
    )
    return addresses[0].addr_info[0].local as string
  }

  connections(network: string): Promise<Connection[]> {
    return this.weft.json<Connection[]>(['connection', 'list', network, '--limit', '100000'])
  }

  rules(network: string): Promise<Rule[]> {
    return this.weft.json<Rule[]>(['rule', 'list', network])
  }

  async uplink(network: string): Promise<UplinkFacts> {
    const { uplinkStatus } = await this.weft.json<{ uplinkStatus: UplinkFacts }>(['network', 'show', network])
    assert.ok(uplinkStatus, `network ${network} shows no uplink`)
    return uplinkStatus
  }

  async waitUplink(network: string, state: string): Promise<UplinkFacts> {
    return until(`the uplink of ${network} is ${state}`, async () => {
      const facts = await this.uplink(network)
      if (facts.state !== state) throw new Error(JSON.stringify(facts))
      return facts
    })
  }

  /** Waits until the uplink has counted drops of a reason beyond `before`. */
  async uplinkDrops(network: string, reason: string, before: Record<string, number> = {}): Promise<void> {
    await until(`the uplink of ${network} counts drops: ${reason}`, async () => {
      const { drops } = await this.uplink(network)
      if ((drops?.[reason] ?? 0) > (before[reason] ?? 0)) return true
      throw new Error(JSON.stringify(drops))
    })
  }

  async close(): Promise<void> {
    try {
      await this.weft.stop()
    } finally {
      await this.lab.close()
    }
  }
}

export interface GuestOptions {
  ip6?: string // a /64's
  gateway?: string
  port?: string // further options of `weft port add`
  mtu?: number
}

const firstOf = (ip: string): string => ip.replace(/\d+$/, '1')

/** Has a device's kernel send finished frames only, or lets it leave work to others. */
export async function finish(space: Namespace, device: string, isFinished: boolean): Promise<void> {
  await space.offload(device, { tx: !isFinished, tso: !isFinished, gso: !isFinished, gro: false })
}

/** Runs a script for scapy (`from scapy.all import *` stands before it) in a namespace; what it printed. */
export function scapy(space: Namespace, script: string): Promise<string> {
  const head = 'import logging; logging.getLogger("scapy").setLevel(logging.ERROR)\nfrom scapy.all import *\n'
  return space.run('/usr/bin/python3', ['-c', `${head}conf.verb = 0\n${script}`], { timeoutSeconds: 120 })
}

const VERIFY = ['ip', 'tcp', 'udp'].flatMap((one) => ['-o', `${one}.check_checksum:TRUE`])
/**
 * 0: wrong. tshark verifies ICMP unasked. Not wrong, though tshark says so: TCP's 0xffff where 0x0000 is the sum. Linux
 * writes it (`skb_checksum_help`: `csum_fold(...) ?: CSUM_MANGLED_0`, which is UDP's rule, for all protocols) when it
 * finishes a packet for a device that cannot; both are zero in ones' complement, and receivers, who add everything up,
 * see no difference. About one segment in 65536.
 */
const TCP_ZERO = 'tcp.checksum==0xffff && tcp.checksum_calculated==0x0000'
const WRONG = [
  ...['ip', 'udp', 'icmp', 'icmpv6'].map((one) => `${one}.checksum.status==0`),
  `(tcp.checksum.status==0 && !(${TCP_ZERO}))`,
].join(' || ')

/** Fails if a checksum in a capture is wrong; returns how many packets tshark looked at. */
export async function judge(path: string): Promise<number> {
  const options = { timeoutSeconds: 300 }
  const wrong = await run('tshark', ['-n', '-r', path, ...VERIFY, '-Y', WRONG], options)
  assert.equal(wrong.split('\n').slice(0, 5).join('\n'), '', 'packets with a wrong checksum')
  const all = await run('tshark', ['-n', '-r', path, '-T', 'fields', '-e', 'frame.number', '-Y', 'ip || ipv6'], options)
  return all.split('\n').filter(Boolean).length
}

/** The ports that nmap calls open: `tcp/80`. `scan`: -sS or -sU. */
export async function openPorts(
  space: Namespace,
  scan: '-sS' | '-sU',
  ports: string,
  address: string,
): Promise<string[]> {
  const family = address.includes(':') ? ['-6'] : []
  const pace = ['-T4', '--min-rate', '1000', '--max-retries', scan === '-sU' ? '1' : '2']
  const args = ['-n', '-Pn', ...family, scan, ...pace, '-p', ports, '-oG', '-', address]
  const text = await space.run('nmap', args, { timeoutSeconds: 300 })
  return [...text.matchAll(/(\d+)\/open\/(\w+)/g)].map(([, port, protocol]) => `${protocol}/${port}`).toSorted()
}
