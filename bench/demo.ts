/**
 * `npm run demo`: three hosts on one switch, two of them in one VLAN, in under 30 seconds, cleaned up whatever happens.
 *
 *   a (VLAN 10) ---+
 *   b (VLAN 10) ---+--- weft
 *   c (VLAN 20) ---+
 *
 * As root the hosts are network namespaces on `tap` ports: a pings b and passes TCP to it, c reaches neither although
 * all three are in one subnet; then the rates and the forwarding database. Without root the hosts are programs on
 * `qemu` sockets that send Ethernet frames: the same separation, and frames a second; what is left out is said.
 *
 * Everything it claims it has just seen: a step that goes otherwise ends the demo with status 1.
 */
import { execFileSync } from 'node:child_process'
import { connect as connectSocket, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { join } from 'node:path'
import { root } from './compile.js'
import { find } from './packages.js'
import { type Child, type Topology, openTopology, removeLeftovers } from './topology.js'

const cli = join(root, 'dist/src/control/cli/main.js')
const NETWORK = 'demo'
const HOSTS = [
  { name: 'a', vlan: 10, address: '10.99.0.1' },
  { name: 'b', vlan: 10, address: '10.99.0.2' },
  { name: 'c', vlan: 20, address: '10.99.0.3' },
] as const
const FRAMES = 50_000

type Weft = (...args: string[]) => Promise<string>

const say = (text = ''): void => void process.stdout.write(`${text}\n`)

function claim(condition: boolean, sentence: string): void {
  if (!condition) throw new Error(`not so: ${sentence}`)
  say(`  ok  ${sentence}`)
}

async function start(topology: Topology): Promise<{ weft: Weft; folder: string; daemon: Child }> {
  const folder = topology.folder()
  const socket = `${folder}/weft.sock`
  const daemon = topology.start(null, [process.execPath, cli, 'up', '--socket', socket, '--state', `${folder}/state`])
  await daemon.ready('weft: ready', 20)
  const weft: Weft = (...args) => topology.run(null, [process.execPath, cli, ...args, '--socket', socket])
  await weft('network', 'create', NETWORK, '--mode', 'isolated')
  return { weft, folder, daemon }
}

// ---- hosts that are namespaces ----

async function demoWithNamespaces(topology: Topology): Promise<void> {
  const { weft } = await start(topology)
  say('three network namespaces, one tap port each')
  const spaces = new Map<string, string>()
  for (const { name, vlan, address } of HOSTS) {
    const netns = await topology.namespace(name)
    spaces.set(name, netns)
    await weft(
      'port',
      'add',
      NETWORK,
      name,
      '--kind',
      'tap',
      '--dev',
      'eth0',
      '--netns',
      netns,
      '--access',
      String(vlan),
    )
    await topology.run(null, ['ip', '-n', netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0'])
    say(`  ${name}: ${address} in VLAN ${vlan}`)
  }
  const inside = (name: string, ...command: string[]): Promise<string> =>
    topology.run(spaces.get(name) ?? '', command, { seconds: 15 })
  const pings = (from: string, to: string, ...options: string[]): Promise<boolean> =>
    inside(from, 'ping', '-n', '-q', ...options, to).then(
      () => true,
      () => false,
    )

  say('\nping')
  await pings('a', HOSTS[1].address, '-c', '1', '-W', '2') // both sides learn
  const answer = await inside('a', 'ping', '-n', '-q', '-c', '10', '-i', '0.05', HOSTS[1].address)
  claim(answer.includes(' 0% packet loss'), `a reaches b: ${answer.match(/rtt .*/)?.[0] ?? ''}`)
  claim(
    !(await pings('c', HOSTS[0].address, '-c', '2', '-i', '0.2', '-W', '1')),
    'c does not reach a: VLANs 10 and 20 are apart',
  )
  claim(!(await pings('a', HOSTS[2].address, '-c', '2', '-i', '0.2', '-W', '1')), 'a does not reach c')

  say('\nTCP from a to b for 3 seconds')
  const server = topology.start(spaces.get('b') ?? '', ['iperf3', '-s', '-1', '--forceflush'])
  await server.ready('listening', 5)
  const top = weft('top', '--count', '3', '--interval', '1')
  const { end } = JSON.parse(await inside('a', 'iperf3', '-c', HOSTS[1].address, '-t', '3', '-J')) as {
    end: { sum_received: { bits_per_second: number } }
  }
  const gigabits = end.sum_received.bits_per_second / 1e9
  claim(gigabits > 0, `${gigabits.toFixed(2)} Gbit/s, segmentation-offload frames passed whole`)
  say('\nthe rates meanwhile (weft top)')
  say((await top).trimEnd())
  await report(weft)
}

// ---- hosts that are programs on sockets ----

/** A guest as QEMU would be one: frames with a 32-bit length before each. */
class Guest {
  received = 0
  private readonly socket: Socket
  private readonly mac: number[]
  private pending = Buffer.alloc(0)

  constructor(path: string, mac: number[]) {
    this.mac = mac
    this.socket = connectSocket(path)
    this.socket.on('data', (chunk) => {
      this.pending = Buffer.concat([this.pending, chunk])
      for (let at = 0; ; ) {
        const end = this.pending.length - at < 4 ? Infinity : at + 4 + this.pending.readUInt32BE(at)
        if (end > this.pending.length) {
          this.pending = this.pending.subarray(at)
          return
        }
        this.received++
        at = end
      }
    })
  }

  async send(destination: number[], count: number): Promise<void> {
    const frame = Buffer.alloc(4 + 60)
    frame.writeUInt32BE(60)
    Buffer.from([...destination, ...this.mac, 0x88, 0xb5]).copy(frame, 4)
    const batch = Buffer.concat(new Array<Buffer>(Math.min(count, 500)).fill(frame))
    for (let sent = 0; sent < count; sent += batch.length / frame.length)
      if (!this.socket.write(batch)) await new Promise((resolve) => this.socket.once('drain', resolve))
  }

  close(): void {
    this.socket.destroy()
  }
}

async function demoWithSockets(topology: Topology): Promise<void> {
  const { weft, folder } = await start(topology)
  say('three programs on qemu sockets, since making interfaces needs root')
  say('left out: namespaces, tap ports, ping and TCP through a kernel (run the demo as root to see them)')
  const guests: Guest[] = []
  const macs = HOSTS.map((_, i) => [2, 0, 0, 0, 0, i + 1])
  for (const [i, { name, vlan }] of HOSTS.entries()) {
    const path = `${folder}/${name}.sock`
    await weft('port', 'add', NETWORK, name, '--kind', 'qemu', '--path', path, '--access', String(vlan))
    guests.push(new Guest(path, macs[i] ?? []))
    say(`  ${name}: ${path} in VLAN ${vlan}`)
  }
  const [a, b, c] = guests as [Guest, Guest, Guest]
  const settled = async (guest: Guest, count: number): Promise<void> => {
    for (let i = 0; i < 500 && guest.received < count; i++) await sleep(10)
  }
  say('\nframes')
  await sleep(200)
  await a.send([255, 255, 255, 255, 255, 255], 1)
  await settled(b, 1)
  claim(b.received === 1, 'a broadcast of a reaches b')
  await b.send(macs[0] ?? [], 1)
  await settled(a, 1)
  claim(a.received === 1, 'b answers a')
  const began = Date.now()
  await a.send(macs[1] ?? [], FRAMES)
  await settled(b, FRAMES + 1)
  const seconds = (Date.now() - began) / 1000
  claim(b.received > 1, `${Math.round((b.received - 1) / seconds)} frames of 60 bytes a second from a to b`)
  claim(c.received === 0, 'c saw none of it: VLANs 10 and 20 are apart')
  await report(weft)
  for (const guest of guests) guest.close()
}

async function report(weft: Weft): Promise<void> {
  say('\nthe forwarding database (weft fdb list)')
  say((await weft('fdb', 'list', NETWORK)).trimEnd())
  say('\nthe counters (weft stats)')
  say((await weft('stats', NETWORK)).trimEnd())
}

/** The three commands that the hosts run come from Debian packages; a machine without them gets them. */
function installMissing(): void {
  const needs = { ip: 'iproute2', ping: 'iputils-ping', iperf3: 'iperf3' }
  const missing = Object.entries(needs).flatMap(([command, name]) => (find(command) === null ? [name] : []))
  if (missing.length === 0) return
  say(`installing what the hosts run: ${missing.join(' ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  execFileSync('apt-get', ['-q', 'update'], { env, stdio: 'pipe' })
  execFileSync('apt-get', ['-q', '-y', 'install', '--no-install-recommends', ...missing], { env, stdio: 'pipe' })
}

async function run(): Promise<void> {
  removeLeftovers()
  const privileged = process.getuid?.() === 0
  if (privileged) installMissing()
  const topology = openTopology()
  try {
    await (privileged ? demoWithNamespaces(topology) : demoWithSockets(topology))
    say('\ncleaned up; nothing is left on the host')
  } finally {
    await topology.close()
  }
}

run().catch((error: Error) => {
  process.stderr.write(`demo: ${error.message}\n`)
  process.exitCode = 1
})
