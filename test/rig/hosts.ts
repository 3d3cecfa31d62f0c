/**
 * Hosts of a test network: a namespace with one interface that hangs on a port of the switch.
 *
 *   tap host     [ns: TAP that Weft made and moved here]                       ── port of kind tap
 *   veth host    [ns: veth end] ═══ [other end in the switch's namespace]      ── port of kind netdev
 *
 * A Wiring knows the lab, the daemon and the network, and makes hosts. Traffic helpers send a fixed amount, never for a
 * fixed time, and return what arrived; none of them asserts a speed.
 */
import { until, words } from './commands.js'
import { type FdbEntry, type PortState, Weft } from './daemon.js'
import { Lab, type Namespace } from './namespaces.js'

export interface HostOptions {
  address?: string // with prefix length, as ip takes it: 10.77.0.1/24
  port?: string // further options of `weft port add`: '--access 10'
  mtu?: number
  ipv6?: boolean
}

let serial = 0

export class Host {
  readonly name: string
  readonly space: Namespace
  readonly device: string // inside the host's namespace
  readonly switchDevice: string | null // a veth host's other end, in the switch's namespace
  mac = ''
  private readonly options: HostOptions

  constructor(name: string, space: Namespace, device: string, switchDevice: string | null, options: HostOptions) {
    this.name = name
    this.space = space
    this.device = device
    this.switchDevice = switchDevice
    this.options = options
  }

  /** The address without its prefix length. */
  get ip(): string {
    return (this.options.address ?? '').split('/')[0]
  }

  /** Gives the interface its address and takes it up: once at the start, again when the TAP was made anew. */
  async configure(): Promise<void> {
    const device = this.device
    const link = await until(`${device} appears in ${this.space.name}`, () => this.space.link(device))
    const lines = []
    if (this.options.mtu !== undefined) lines.push(`link set ${device} mtu ${this.options.mtu}`)
    lines.push(`link set ${device} up`)
    if (this.options.address !== undefined) lines.push(`addr replace ${this.options.address} dev ${device}`)
    await this.space.ipBatch(lines)
    this.mac = link.address
  }

  /** Waits until the other host answers an echo request. */
  async reaches(other: Host | string, seconds = 20): Promise<void> {
    const address = typeof other === 'string' ? other : other.ip
    await until(
      `${this.name} reaches ${address}`,
      async () => (await this.space.ping(address, { count: 1, waitSeconds: 1 })) > 0,
      seconds,
    )
  }

  /** Sends `count` echo requests and returns how many answers came; for hosts that must not reach each other. */
  answers(other: Host, count = 3): Promise<number> {
    return this.space.ping(other.ip, { count, waitSeconds: 1 })
  }
}

export interface Traffic {
  sentBytes: number
  receivedBytes: number
}

/** What a sender's buffer may hold (tcp_wmem), handed over by iperf3 and not sent yet. */
export const SENDER_BUFFER_BYTES = 4 << 20

/**
 * Passes an amount of TCP by iperf3; fails unless it was sent whole and arrived. iperf3's receiver stops counting when
 * the sender is done, with the last of it on its way, so half is enough here, and so is all but what the sender's
 * buffer holds; `Probe.stream` compares every byte.
 */
export async function tcp(from: Host, to: Host, options: IperfOptions & { megabytes: number }): Promise<void> {
  const { sentBytes, receivedBytes } = await iperf(from, to, options)
  const bytes = options.megabytes * 1_000_000
  if (sentBytes >= bytes && receivedBytes >= Math.min(bytes / 2, bytes - SENDER_BUFFER_BYTES)) return
  throw new Error(`TCP ${from.name} to ${to.name}: sent ${sentBytes}, arrived ${receivedBytes} of ${bytes}`)
}

interface IperfOptions {
  megabytes?: number
  udp?: boolean
  reverse?: boolean
  parallel?: number
  address?: string // of the server, if not the host's own
}

/** Passes an amount by iperf3 from one host to another, TCP or UDP, and returns what arrived. */
export async function iperf(from: Host, to: Host, options: IperfOptions = {}): Promise<Traffic> {
  serial++
  const port = `${5200 + (serial % 1000)}`
  const server = to.space.spawn('iperf3', ['-s', '-1', '-p', port, '--forceflush'])
  try {
    await until('the iperf3 server listens', () => {
      if (!server.running) throw new Error(server.stderr + server.stdout)
      return server.stdout.includes('Server listening')
    })
    const args = ['-c', options.address ?? to.ip, '-p', port, '-J', '-n', `${options.megabytes ?? 50}M`]
    if (options.udp === true) args.push('-u', '-b', '100M', '-l', '1400')
    if (options.reverse === true) args.push('-R')
    if (options.parallel !== undefined) args.push('-P', `${options.parallel}`)
    const result = await from.space.attempt('iperf3', args, { timeoutSeconds: 120 })
    const report = JSON.parse(result.stdout) as IperfReport
    if (report.error !== undefined) throw new Error(`iperf3 ${args.join(' ')}: ${report.error}`)
    if (options.udp === true) {
      const { bytes, packets, lost_packets: lost } = report.end.sum as { bytes: number } & Record<string, number>
      const sentPackets = packets
      return { sentBytes: bytes, receivedBytes: Math.round((bytes * (sentPackets - lost)) / sentPackets) }
    }
    const end = report.end as { sum_sent: { bytes: number }; sum_received: { bytes: number } }
    return { sentBytes: end.sum_sent.bytes, receivedBytes: end.sum_received.bytes }
  } finally {
    await server.stop('SIGKILL')
  }
}

interface IperfReport {
  error?: string
  end: Record<string, unknown>
}

export class Wiring {
  readonly lab: Lab
  readonly weft: Weft
  readonly network: string
  readonly hosts: Host[] = []

  constructor(lab: Lab, weft: Weft, network: string) {
    this.lab = lab
    this.weft = weft
    this.network = network
  }

  /**
   * A lab with one daemon in a namespace of its own and one isolated network `lan`, made with these options. Without
   * root the daemon runs where the test runs: enough for ports on unix sockets.
   */
  static async open(options = ''): Promise<Wiring> {
    const lab = await Lab.open()
    try {
      const space = process.getuid?.() === 0 ? await lab.namespace('sw') : null
      const weft = await Weft.start(lab, space)
      const wiring = new Wiring(lab, weft, 'lan')
      await weft.do(['network', 'create', 'lan', '--mode', 'isolated', ...words(options)])
      return wiring
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  /** Ends the daemon, which must exit with 0, and removes everything. */
  async close(): Promise<void> {
    try {
      await this.weft.stop()
    } finally {
      await this.lab.close()
    }
  }

  /** Adds a port: `add('g1', '--kind qemu --path …')`. */
  async add(name: string, options: string): Promise<void> {
    await this.weft.do(['port', 'add', this.network, name, ...words(options)])
  }

  port(name: string): Promise<PortState> {
    return this.weft.port(this.network, name)
  }

  fdb(): Promise<FdbEntry[]> {
    return this.weft.fdb(this.network)
  }

  /** The port an address was learned at, or null. */
  async learned(mac: string, vid = 0): Promise<string | null> {
    return (await this.fdb()).find((entry) => entry.mac === mac && entry.vid === vid)?.port ?? null
  }

  /** Waits until an address is known at a port. */
  async learns(mac: string, port: string, vid = 0): Promise<void> {
    await until(`${mac} is known at ${port}`, async () => (await this.learned(mac, vid)) === port)
  }

  /** Waits until a port has counted at least `count` drops of a reason. */
  async drops(name: string, reason: string, count = 1): Promise<void> {
    await until(`port ${name} counts ${count} drops: ${reason}`, async () => {
      const { drops } = await this.port(name)
      if ((drops[reason] ?? 0) >= count) return true
      throw new Error(`drops: ${JSON.stringify(drops)}`)
    })
  }

  /** A host on a TAP of Weft's, moved into the host's namespace. */
  async tap(name: string, options: HostOptions = {}): Promise<Host> {
    const space = await this.lab.namespace(name, { ipv6: options.ipv6 === true })
    const device = deviceName('t')
    await this.add(name, `--kind tap --dev ${device} --netns ${space.name} ${options.port ?? ''}`)
    return this.finish(new Host(name, space, device, null, options))
  }

  /** A host on a veth whose other end is a `netdev` port. */
  async veth(name: string, options: HostOptions = {}): Promise<Host> {
    const space = await this.lab.namespace(name, { ipv6: options.ipv6 === true })
    const device = deviceName('v')
    const switchDevice = deviceName('w')
    await this.lab.veth(space, device, this.switchSpace(), switchDevice, options.mtu ?? 1500)
    await this.add(name, `--kind netdev --dev ${switchDevice} ${options.port ?? ''}`)
    return this.finish(new Host(name, space, device, switchDevice, options))
  }

  switchSpace(): Namespace {
    if (this.weft.namespace === null) throw new Error('the daemon runs in no namespace of the lab')
    return this.weft.namespace
  }

  private async finish(host: Host): Promise<Host> {
    await host.configure()
    await this.weft.waitPort(this.network, host.name, 'up')
    this.hosts.push(host)
    return host
  }
}

function deviceName(letter: string): string {
  serial++
  return `${letter}${process.pid.toString(36)}x${serial.toString(36)}`
}
