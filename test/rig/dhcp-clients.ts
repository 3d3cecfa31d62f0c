/**
 * DHCP clients that nobody here wrote, each in a host's namespace: ISC dhclient, busybox udhcpc, dhcpcd, and
 * systemd-networkd.
 *
 * The first three call a script of ours with what they got; it writes the environment to a file, a block an event, and
 * gives the interface its address, default route and MTU (dhcpcd does that itself). None of them may touch the
 * machine's /etc/resolv.conf or /var/lib: their files are in the lab's folder, and those that know no other place run
 * with empty file systems of their own over /run and /var/lib (`ip netns exec` has a mount namespace already).
 *
 * `Session.acquired` is the client's own view of the lease, in the words of one interface for all.
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Background, until } from './commands.js'
import type { Host } from './hosts.js'
import type { Lab } from './namespaces.js'

export interface Acquired {
  reason: string // the client's own word: BOUND, bound, RENEW, EXPIRE …
  address: string
  prefix: number
  router: string
  dns: string
  domain: string
  mtu: number
  leaseSeconds: number
  server: string
  all: Record<string, string> // the script's whole environment
}

export interface ClientOptions {
  hostname?: string
  family?: 4 | 6
}

const script = (file: string, configures: boolean): string => `#!/bin/sh
{ [ -n "$1" ] && echo "reason=$1"; env; echo '@@END'; } >>${file}
${configures ? '' : 'exit 0'}
name=\${reason:-$1}
case $name in
BOUND | RENEW | REBIND | REBOOT | bound | renew) ;;
PREINIT | deconfig) ip addr flush dev $interface scope global; ip link set $interface up; exit 0 ;;
PREINIT6) ip link set $interface up; sleep 2; exit 0 ;;
BOUND6 | RENEW6 | REBIND6) ip -6 addr replace $new_ip6_address/128 dev $interface nodad; exit 0 ;;
EXPIRE | RELEASE | STOP) ip addr flush dev $interface scope global; exit 0 ;;
*) exit 0 ;;
esac
ip addr replace \${new_ip_address:-$ip}/\${new_subnet_mask:-$mask} dev $interface
[ -n "\${new_interface_mtu:-$mtu}" ] && ip link set $interface mtu \${new_interface_mtu:-$mtu}
for via in \${new_routers:-$router}; do ip route replace default via $via dev $interface; done
exit 0
`

const countBits = (mask: string): number =>
  mask
    .split('.')
    .map((part) => Number(part).toString(2).replaceAll('0', '').length)
    .reduce((sum, bits) => sum + bits, 0)

function read(all: Record<string, string>): Acquired {
  const isUdhcpc = all.ip !== undefined || all.mask !== undefined
  return {
    reason: all.reason ?? '',
    address: all.ip ?? all.new_ip_address ?? all.new_ip6_address ?? '',
    prefix: Number(isUdhcpc ? all.mask : countBits(all.new_subnet_mask ?? '0')),
    router: all.router ?? all.new_routers ?? '',
    dns: all.dns ?? all.new_domain_name_servers ?? all.new_dhcp6_name_servers ?? '',
    domain: all.domain ?? all.new_domain_name ?? '',
    mtu: Number(all.mtu ?? all.new_interface_mtu ?? 0),
    leaseSeconds: Number(all.lease ?? all.new_dhcp_lease_time ?? 0),
    server: all.serverid ?? all.new_dhcp_server_identifier ?? '',
    all,
  }
}

const bound = new Set(['BOUND', 'REBOOT', 'RENEW', 'REBIND', 'bound', 'renew', 'BOUND6', 'REBOOT6', 'RENEW6'])

/** A client that runs. */
export class Session {
  readonly program: Background
  private readonly file: string
  private readonly releasing: (session: Session) => Promise<void>
  private readonly renewing: (session: Session) => Promise<void>
  private readonly ending: NodeJS.Signals

  constructor(program: Background, file: string, verbs: Verbs) {
    this.program = program
    this.file = file
    this.releasing = verbs.release
    this.renewing = verbs.renew
    this.ending = verbs.ending ?? 'SIGKILL'
  }

  /** All calls of the script so far. */
  events(): Acquired[] {
    if (!existsSync(this.file)) return []
    const blocks = readFileSync(this.file, 'utf8').split('@@END\n').slice(0, -1)
    return blocks.map((block) =>
      read(
        Object.fromEntries(
          block
            .split('\n')
            .filter((line) => line.includes('='))
            .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
        ),
      ),
    )
  }

  /** Waits until the client has a lease, the `count`th time, and returns what it says of it. */
  acquired(count = 1, seconds = 60): Promise<Acquired> {
    return until(
      `the client has a lease (${count})`,
      () => {
        if (!this.program.running) throw new Error(`the client ended: ${this.said}`)
        return this.events().filter(({ reason }) => bound.has(reason))[count - 1]
      },
      seconds,
    )
  }

  get said(): string {
    return this.program.stdout + this.program.stderr
  }

  /** Asks for the lease again, at once. */
  renew(): Promise<void> {
    return this.renewing(this)
  }

  /** Gives the lease back and ends. */
  release(): Promise<void> {
    return this.releasing(this)
  }

  /** Ends without a word to the server. dhcpcd has children, which go with it only if it is asked. */
  async kill(): Promise<void> {
    await this.program.stop(this.ending)
  }
}

interface Verbs {
  ending?: NodeJS.Signals // SIGKILL unless told
  renew(session: Session): Promise<void>
  release(session: Session): Promise<void>
}

export interface Client {
  readonly name: string
  readonly needs: readonly string[]
  start(lab: Lab, host: Host, options?: ClientOptions): Promise<Session>
}

let serial = 0

function folderOf(lab: Lab, host: Host, client: string): { folder: string; file: string } {
  serial++
  const folder = join(lab.folder, `${client}-${host.name}-${serial}`)
  mkdirSync(folder, { recursive: true })
  return { folder, file: join(folder, 'events') }
}

function writeScript(folder: string, file: string, configures: boolean): string {
  const path = join(folder, 'script')
  writeFileSync(path, script(file, configures))
  chmodSync(path, 0o755)
  return path
}

const signalled = (session: Session, signal: NodeJS.Signals): Promise<void> => {
  session.program.signal(signal)
  return Promise.resolve()
}

export const dhclient: Client = {
  name: 'dhclient',
  needs: ['dhclient'],
  start(lab, host, { hostname, family = 4 } = {}) {
    const { folder, file } = folderOf(lab, host, 'dhclient')
    const path = writeScript(folder, file, true)
    const configuration = join(folder, 'conf')
    const send = hostname === undefined ? '' : `send host-name "${hostname}";\nsend fqdn.fqdn "${hostname}.";\n`
    const four = 'request subnet-mask, broadcast-address, routers, domain-name, domain-search, '
    const rest = 'domain-name-servers, host-name, interface-mtu, rfc3442-classless-static-routes'
    const six = 'also request dhcp6.name-servers, dhcp6.domain-search;\n'
    writeFileSync(
      configuration,
      `option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\ntimeout 60;\nretry 2;\n${send}` +
        (family === 6 ? six : `${four}${rest};\n`),
    )
    const files = ['-cf', configuration, '-lf', join(folder, 'leases'), '-pf', join(folder, 'pid'), '-sf', path]
    const args = [`-${family}`, '-d', '-v', ...files, host.device]
    const program = host.space.spawn('dhclient', args)
    const session = new Session(program, file, {
      renew: () => Promise.reject(new Error('dhclient asks again when it is started again')),
      async release() {
        await program.stop('SIGKILL')
        rmSync(join(folder, 'pid'), { force: true })
        await host.space.run('dhclient', [`-${family}`, '-r', ...files, host.device])
      },
    })
    return Promise.resolve(session)
  },
}

export const udhcpc: Client = {
  name: 'udhcpc',
  needs: ['busybox'],
  start(lab, host, { hostname } = {}) {
    const { folder, file } = folderOf(lab, host, 'udhcpc')
    const path = writeScript(folder, file, true)
    const args = ['udhcpc', '-f', '-i', host.device, '-s', path, '-t', '3', '-T', '2', '-A', '2']
    const wishes = ['mtu', 'search'].flatMap((name) => ['-O', name])
    const name = hostname === undefined ? [] : ['-x', `hostname:${hostname}`]
    const program = host.space.spawn('busybox', [...args, ...wishes, ...name])
    const session = new Session(program, file, {
      renew: (one) => signalled(one, 'SIGUSR1'),
      async release(one) {
        await signalled(one, 'SIGUSR2')
        await until('udhcpc has released', () => one.events().at(-1)?.reason === 'deconfig')
        await program.stop('SIGKILL')
      },
    })
    return Promise.resolve(session)
  },
}

export const dhcpcd: Client = {
  name: 'dhcpcd',
  needs: ['dhcpcd', 'mount'],
  start(lab, host, { hostname, family = 4 } = {}) {
    const { folder, file } = folderOf(lab, host, 'dhcpcd')
    const path = writeScript(folder, file, false)
    const configuration = join(folder, 'conf')
    writeFileSync(
      configuration,
      [
        ...(hostname === undefined ? [] : [`hostname ${hostname}`]),
        'option domain_name_servers, domain_name, domain_search, interface_mtu, classless_static_routes',
        'require dhcp_server_identifier',
        'duid',
        'persistent',
        'noipv4ll',
        ...(family === 6 ? ['noipv6rs', 'ia_na 1'] : []),
        `script ${path}`,
        '',
      ].join('\n'),
    )
    const mounts = ['/var/lib/dhcpcd', '/run'].map((place) => `mount -t tmpfs tmpfs ${place}`).join(' && ')
    const command = `${mounts} && exec dhcpcd -B -d --nodev -${family} -f ${configuration} ${host.device}`
    const program = host.space.spawn('sh', ['-c', command])
    const session = new Session(program, file, {
      ending: 'SIGTERM',
      renew: () => Promise.reject(new Error('dhcpcd asks again when it is started again')),
      async release() {
        await program.stop('SIGALRM') // its signal to release
      },
    })
    return Promise.resolve(session)
  },
}

const networkd = '/lib/systemd/systemd-networkd'

/** systemd-networkd calls no script: what it got is in its lease file and on the interface. */
export class Networkd {
  static readonly needs: readonly string[] = ['networkctl', 'mount'] // of its package
  readonly program: Background
  private readonly folder: string

  private constructor(program: Background, folder: string) {
    this.program = program
    this.folder = folder
  }

  static start(lab: Lab, host: Host): Networkd {
    const { folder } = folderOf(lab, host, 'networkd')
    mkdirSync(join(folder, 'network'))
    const settings = [
      `[Match]\nName=${host.device}`,
      '[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\nLinkLocalAddressing=no',
      '[DHCPv4]\nUseMTU=yes\nUseDomains=yes\nClientIdentifier=mac',
    ]
    writeFileSync(join(folder, 'network', '10-lan.network'), `${settings.join('\n')}\n`)
    const run = join(folder, 'run')
    mkdirSync(join(run, 'systemd/netif/leases'), { recursive: true })
    mkdirSync(join(run, 'systemd/netif/links'), { recursive: true })
    // the folder of the lab stands in for /run, so that the lease file can be read from outside
    const steps = [
      `chmod 755 ${lab.folder}`,
      `chown -R systemd-network ${run}/systemd/netif`,
      'mount -o remount,bind,ro /sys',
      `mount --bind ${run} /run`,
      'mount -t tmpfs tmpfs /etc/systemd/network',
      `cp ${folder}/network/* /etc/systemd/network/`,
      `exec ${networkd}`,
    ]
    const program = host.space.spawn('sh', ['-c', steps.join(' && ')], {
      environment: { SYSTEMD_LOG_LEVEL: 'debug', SYSTEMD_LOG_TARGET: 'console' },
    })
    return new Networkd(program, folder)
  }

  /** Waits for a lease: its file, as names and values. */
  async acquired(seconds = 60): Promise<Record<string, string>> {
    const leases = join(this.folder, 'run/systemd/netif/leases')
    const text = await until(
      'systemd-networkd has a lease',
      () => {
        if (!this.program.running) throw new Error(this.program.stderr.slice(-4000))
        const [name] = readdirSync(leases)
        return name !== undefined && readFileSync(join(leases, name), 'utf8')
      },
      seconds,
    )
    return Object.fromEntries(
      text
        .split('\n')
        .filter((line) => line.includes('='))
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    )
  }

  async kill(): Promise<void> {
    await this.program.stop('SIGKILL')
  }
}
