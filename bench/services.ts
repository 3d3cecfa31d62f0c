/**
 * The part of the bench that asks the gateway's services (`--services`): DHCP exchanges a second and DNS queries a
 * second, Weft's beside dnsmasq's.
 *
 *   dhcp   DISCOVER, OFFER, REQUEST, ACK of guests that come back (bench/dhcp-load.c). Weft takes ten messages a second
 *          from a port, so its guests have a port each and are asked for PORT_RATE exchanges a second: PORTS times
 *          PORT_RATE is the most there can be, which its limits set and not its speed. dnsmasq has all guests on one
 *          veth pair and no such limit.
 *   dns    dnsperf from one guest, queries for NAMES local names, A records.
 *
 * Both servers keep their leases in a file, as they do by default, in a temporary folder. dnsmasq is told not to ping
 * addresses before it offers them; Weft asks by ARP before it offers one for the first time. dnsmasq then offers the
 * same address to guests who ask at the same time, so its guests get their first ones one after another.
 */
import { writeFileSync } from 'node:fs'
import { startWeft, weftMissing } from './contenders/weft.js'
import { program } from './compile.js'
import { answersPing, cpuSeconds } from './measure.js'
import { find } from '../test/rig/unpacked.js'
import type { Candidate, Figures, Part, PartPlan } from './parts.js'
import { type Topology, openTopology, processTree } from './topology.js'

const PORTS = 960
/** Two messages an exchange, ten a second (`dhcp4-server.ts`). */
const PORT_RATE = 5
const PARALLEL = 64
const NAMES = 1000
const DOMAIN = 'bench.internal'
const GATEWAY = '10.79.0.1'
const SUBNET = '10.79.0.0/20'
const CLIENT = '10.79.15.250/20'
const RANGE = ['10.79.1.0', '10.79.8.255'] as const
/** For all guests to get their first address. */
const FIRST_SECONDS = 4
const WARM_UP_SECONDS = 1

const nameOf = (i: number): string => `host${String(i).padStart(4, '0')}`
const addressOf = (i: number): string => `10.79.10.${(i % 254) + 1}`

/** A server that runs, and where its clients are. */
interface Served {
  readonly topology: Topology
  /** of the clients: interfaces `bench0` and so on */
  readonly netns: string
  readonly devices: number
  /** guests that ask for their first address at once */
  readonly newcomers: number
  readonly pids: number[]
}

type Start = (topology: Topology, ports: number) => Promise<Served>

export function dhcpPart(): Part {
  return {
    name: 'dhcp',
    title:
      `DHCP: exchanges of ${PORTS} guests that come back; ` +
      `Weft's most is ${PORTS * PORT_RATE} a second, by its limit a port`,
    tests: [
      { name: 'exchanges', label: 'exchanges', unit: '/s', digits: 0 },
      { name: 'exchanges.lost', label: 'lost', unit: '%', digits: 1, plain: true },
      { name: 'exchanges.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
    ],
    bases: ['dnsmasq'],
    candidates: candidates(PORTS, async (served, { seconds }) => {
      const load = await program('dhcp-load')
      const isOne = served.devices === 1
      const options = {
        dev: 'bench',
        devices: served.devices,
        macs: PORTS / served.devices,
        rate: isOne ? 0 : PORT_RATE,
      }
      const run = async (parallel: number, warm: number, measured: number): Promise<number[]> => {
        const all = { ...options, parallel, warm, seconds: measured }
        const words = Object.entries(all).flatMap(([name, value]) => [`--${name}`, String(value)])
        const said = await served.topology.run(served.netns, [load, ...words], { seconds: warm + measured + 10 })
        const match = /^exchanges (\d+) naks (\d+) lost (\d+) seconds ([\d.]+)/.exec(said)
        if (match === null) throw new Error(`dhcp-load said: ${said}`)
        return match.slice(1).map(Number)
      }
      await run(served.newcomers, 0, FIRST_SECONDS)
      const before = cpuSeconds(served.pids)
      const [exchanges = 0, naks = 0, lost = 0, time = 1] = await run(PARALLEL, WARM_UP_SECONDS, seconds)
      const used = cpuSeconds(served.pids) - before
      if (exchanges === 0 || naks > 0) throw new Error(`${exchanges} exchanges, ${naks} refused`)
      return new Map([
        ['exchanges', exchanges / time],
        ['exchanges.lost', (lost / (exchanges + lost)) * 100],
        ['exchanges.cpu', (used / (time + WARM_UP_SECONDS)) * 100],
      ])
    }),
  }
}

export function dnsPart(): Part {
  return {
    name: 'dns',
    title: `DNS: queries of one guest for ${NAMES} local names`,
    tests: [
      { name: 'queries', label: 'queries', unit: '/s', digits: 0 },
      { name: 'queries.lost', label: 'lost', unit: '%', digits: 2, plain: true },
      { name: 'queries.latency', label: 'latency', unit: 'ms', digits: 2, plain: true },
      { name: 'queries.cpu', label: 'CPU', unit: '%', digits: 0, plain: true },
    ],
    bases: ['dnsmasq'],
    candidates: candidates(1, async ({ topology, netns, pids }, { seconds }) => {
      const dnsperf = find('dnsperf')
      if (dnsperf === null) throw new Error('dnsperf is not installed')
      await topology.run(null, ['ip', '-n', netns, 'address', 'add', CLIENT, 'dev', 'bench0'])
      await answersPing(topology, netns, GATEWAY)
      const file = `${topology.folder()}/queries`
      writeFileSync(file, Array.from({ length: NAMES }, (_, i) => `${nameOf(i)}.${DOMAIN} A\n`).join(''))
      const command = [dnsperf.path, '-s', GATEWAY, '-d', file, '-q', '100', '-c', '4', '-l']
      const surroundings = { env: dnsperf.env, seconds: seconds + 20 }
      await topology.run(netns, [...command, '1'], surroundings)
      const before = cpuSeconds(pids)
      const said = await topology.run(netns, [...command, String(seconds)], surroundings)
      const used = cpuSeconds(pids) - before
      const number = (name: string): number => {
        const match = new RegExp(`${name}:\\s+([\\d.]+)`).exec(said)
        if (match === null) throw new Error(`dnsperf said nothing of ${name}: ${said}`)
        return Number(match[1])
      }
      if (!said.includes('NOERROR') || /SERVFAIL|REFUSED|NXDOMAIN/.test(said)) throw new Error(`dnsperf: ${said}`)
      return new Map([
        ['queries', number('Queries per second')],
        ['queries.lost', (number('Queries lost') / number('Queries sent')) * 100],
        ['queries.latency', number('Average Latency \\(s\\)') * 1000],
        ['queries.cpu', (used / number('Run time \\(s\\)')) * 100],
      ])
    }),
  }
}

function candidates(ports: number, measure: (served: Served, plan: PartPlan) => Promise<Figures>): Candidate[] {
  const one = (name: string, description: string, start: Start, missing: () => string | null): Candidate => ({
    name,
    description,
    missing,
    measure: async (plan) => {
      const topology = openTopology()
      try {
        return await measure(await start(topology, ports), plan)
      } finally {
        await topology.close()
      }
    },
  })
  const lacking = (): string | null =>
    find('dnsmasq') === null ? 'dnsmasq is not installed (Debian package dnsmasq-base)' : null
  return [
    one('weft', "Weft's DHCP and DNS, tap ports", serveWithWeft, weftMissing),
    one('dnsmasq', 'dnsmasq on a veth pair', serveWithDnsmasq, lacking),
  ]
}

const serveWithWeft: Start = async (topology, ports) => {
  const netns = await topology.namespace('guests')
  const own = await topology.namespace('sw')
  const { pid, folder, command } = await startWeft(topology, own)
  const network = {
    name: 'bench',
    mode: 'nat',
    uplink: 'none',
    subnets: [{ cidr: SUBNET, dhcp: { from: RANGE[0], to: RANGE[1] } }],
    domain: DOMAIN,
    dns: { hosts: Array.from({ length: NAMES }, (_, i) => ({ name: nameOf(i), addresses: [addressOf(i)] })) },
    ports: Array.from({ length: ports }, (_, i) => ({ name: `p${i}`, kind: 'tap', dev: `bench${i}`, netns })),
  }
  const file = `${folder}/bench.json`
  writeFileSync(file, JSON.stringify(network))
  await command('network', 'create', file)
  const up = Array.from({ length: ports }, (_, i) => `link set bench${i} up\n`).join('')
  writeFileSync(`${folder}/up`, up)
  await topology.run(null, ['ip', '-n', netns, '-batch', `${folder}/up`])
  return { topology, netns, devices: ports, newcomers: PARALLEL, pids: processTree(pid) }
}

const serveWithDnsmasq: Start = async (topology) => {
  const dnsmasq = find('dnsmasq')
  if (dnsmasq === null) throw new Error('dnsmasq is not installed')
  const netns = await topology.namespace('guests')
  const own = await topology.namespace('sw')
  const folder = topology.folder()
  const ip = (...args: string[]): Promise<string> => topology.run(null, ['ip', '-n', own, ...args])
  await ip('link', 'add', 'p0', 'type', 'veth', 'peer', 'name', 'bench0', 'netns', netns)
  await ip('address', 'add', `${GATEWAY}/20`, 'dev', 'p0')
  await ip('link', 'set', 'p0', 'up')
  await topology.run(null, ['ip', '-n', netns, 'link', 'set', 'bench0', 'up'])
  writeFileSync(`${folder}/hosts`, Array.from({ length: NAMES }, (_, i) => `${addressOf(i)} ${nameOf(i)}\n`).join(''))
  const options = [
    '--conf-file=/dev/null',
    '--interface=p0',
    '--bind-interfaces',
    '--no-resolv',
    '--no-hosts',
    '--no-ping',
    '--dhcp-authoritative',
    '--expand-hosts',
    '--user=root',
    '--pid-file=',
    '--quiet-dhcp',
    `--log-facility=${folder}/log`,
    `--domain=${DOMAIN}`,
    `--local=/${DOMAIN}/`,
    `--addn-hosts=${folder}/hosts`,
    `--dhcp-range=${RANGE.join(',')},1h`,
    `--dhcp-lease-max=${2 * PORTS}`,
    `--dhcp-leasefile=${folder}/leases`,
  ]
  const server = topology.start(own, [dnsmasq.path, '--keep-in-foreground', ...options], { env: dnsmasq.env })
  await server.appears(`${folder}/log`, 5)
  return { topology, netns, devices: 1, newcomers: 1, pids: processTree(server.pid) }
}
