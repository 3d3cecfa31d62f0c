/**
 * A network with a router under test, and what the world outside of it needs.
 *
 *   guests ── tap ──┐
 *                   ├ lan ── router ── uplink host:    TAP weft-lan in the switch's namespace, the "host"
 *   guests ── tap ──┘                  uplink netdev:  up0 [sw] ═══ out0 [outside]
 *
 * The network is given as its definition, written as JSON, and changed by its own export with settings laid over it:
 * nothing here speaks to the daemon but by the command line. The daemon's default network goes first, so that nothing
 * of it is seen in the switch's namespace. Hosts begin without an address; `dhcp-clients.ts` gets them one.
 *
 * `scapy` runs a Python script with scapy in a namespace. `serveHttp` serves files there by busybox.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Background, until } from './commands.js'
import { Weft } from './daemon.js'
import { type Host, type HostOptions, Wiring } from './hosts.js'
import { Lab, type Namespace } from './namespaces.js'

export interface LeaseEntry {
  address: string
  mac: string | null
  hostname: string | null
  port: string | null
  expiresAt: string | null
  reserved: boolean
}

export interface NetworkShown {
  name: string
  mode: string
  subnets: { cidr: string; gateway: string; dhcp: { from: string; to: string } | null }[]
  uplink: string | null
  uplinkStatus: {
    kind: string
    dev: string
    state: string
    mac: string
    addresses: string[]
    gateways: string[]
  } | null
  domain: string | null
}

export type Definition = Record<string, unknown>

export interface RouteOptions {
  resolvers?: string // what the daemon finds in /etc/resolv.conf; else the machine's
  daemon?: string[] // further options of `weft up`
}

/** What has root, TAPs and the compiled daemon; tests add the programs they use. */
export const routerNeeds = ['root', 'tun', 'weft', 'ip', 'sysctl'] as const

export class Routed extends Wiring {
  private serial = 0

  /** A daemon in a namespace of its own and the network `lan` of this definition, running. */
  static async route(definition: Definition, options: RouteOptions = {}): Promise<Routed> {
    return (await Routed.begin(definition, options)).routed
  }

  /** As `route`, with `up0`, whose other end `out0` is in a namespace outside that has these addresses. */
  static async behind(
    definition: Definition,
    addresses: readonly string[],
    options: RouteOptions = {},
  ): Promise<{ routed: Routed; outside: Namespace }> {
    const { routed, outside } = await Routed.begin(definition, { ...options, addresses })
    return { routed, outside: outside! }
  }

  private static async begin(
    definition: Definition,
    { resolvers, daemon, addresses }: RouteOptions & { addresses?: readonly string[] },
  ): Promise<{ routed: Routed; outside: Namespace | null }> {
    const lab = await Lab.open()
    try {
      const space = await lab.namespace('sw', { ipv6: true })
      if (resolvers !== undefined) writeResolvers(space, resolvers)
      const outside = addresses === undefined ? null : await outsideOf(lab, space, addresses)
      const weft = await Weft.start(lab, space, 'weft', daemon)
      const routed = new Routed(lab, weft, 'lan')
      await weft.do('network delete default')
      await routed.define({ name: 'lan', mode: 'nat', ...definition })
      await weft.do('network start lan')
      return { routed, outside }
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  override async close(): Promise<void> {
    removeResolvers(this.switchSpace())
    await super.close()
  }

  /** Hands a whole definition to the daemon. */
  async define(definition: Definition): Promise<void> {
    this.serial++
    const path = join(this.lab.folder, `lan-${this.serial}.json`)
    writeFileSync(path, JSON.stringify(definition))
    await this.weft.do(['network', 'define', path])
  }

  /** Changes settings of the running network, ports and all else kept. */
  async change(settings: Definition): Promise<void> {
    const { text } = await this.weft.json<{ text: string }>('network export lan --format json')
    await this.define({ ...(JSON.parse(text) as Definition), ...settings })
  }

  show(): Promise<NetworkShown> {
    return this.weft.json<NetworkShown>('network show lan')
  }

  leases(): Promise<LeaseEntry[]> {
    return this.weft.json<LeaseEntry[]>('lease list lan')
  }

  /** The lease of an address or of a MAC, or undefined. */
  async lease(key: string): Promise<LeaseEntry | undefined> {
    return (await this.leases()).find(({ address, mac }) => address === key || mac === key)
  }

  /** A host on a TAP port, its link up, without an address. */
  guest(name: string, options: HostOptions = {}): Promise<Host> {
    return this.tap(name, options)
  }
}

/** A veth pair from the switch's namespace to a new one outside. */
async function outsideOf(lab: Lab, sw: Namespace, addresses: readonly string[]): Promise<Namespace> {
  const space = await lab.namespace('out', { ipv6: true })
  await lab.veth(sw, 'up0', space, 'out0')
  for (const one of addresses) await space.ip(`addr add ${one} dev out0${one.includes(':') ? ' nodad' : ''}`)
  return space
}

const resolverFolders = new Set<string>()

process.on('exit', () => {
  for (const folder of resolverFolders) rmSync(folder, { recursive: true, force: true })
})

/** Sets the resolvers of a namespace: programs that `ip netns exec` starts there see this file as /etc/resolv.conf. */
export function writeResolvers(space: Namespace, text: string): void {
  const folder = join('/etc/netns', space.name)
  resolverFolders.add(folder)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'resolv.conf'), text)
}

function removeResolvers(space: Namespace): void {
  const folder = join('/etc/netns', space.name)
  resolverFolders.delete(folder)
  rmSync(folder, { recursive: true, force: true })
}

/** Runs a Python script with scapy in a namespace and returns what it printed. */
export function scapy(space: Namespace, script: string, timeoutSeconds = 60): Promise<string> {
  const head = 'import logging\nlogging.getLogger("scapy").setLevel(logging.ERROR)\nfrom scapy.all import *\n'
  return space.run('/usr/bin/python3', ['-c', `${head}conf.verb = 0\n${script}`], { timeoutSeconds })
}

/** Serves files by HTTP in a namespace, at all its addresses. */
export async function serveHttp(
  lab: Lab,
  space: Namespace,
  port: number,
  files: Record<string, string | Uint8Array>,
): Promise<Background> {
  const folder = join(lab.folder, `www-${space.name}-${port}`)
  mkdirSync(folder, { recursive: true })
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  const script = join(folder, '..', `http-${space.name}-${port}.py`)
  writeFileSync(
    script,
    [
      'import functools, http.server, socket',
      'class Server(http.server.ThreadingHTTPServer):',
      '    address_family = socket.AF_INET6',
      `handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=${JSON.stringify(folder)})`,
      `server = Server(("::", ${port}), handler)`,
      'print("ready", flush=True)',
      'server.serve_forever()',
    ].join('\n'),
  )
  const server = space.spawn('/usr/bin/python3', [script])
  await until(`HTTP is served at port ${port}`, () => {
    if (!server.running) throw new Error(server.stderr)
    return server.stdout.includes('ready')
  })
  return server
}
