/**
 * DPDK's testpmd, a driver of virtio and a forwarder over vhost-user that nobody here wrote.
 *
 *   as guests       `virtio-user` ports: each is a guest's network card in a process, its memory shared over the socket
 *                   as QEMU shares a guest's. It connects to the socket, or makes it and waits for the switch
 *   as a switch     `net_vhost` ports: what comes in by one goes out by the other, without any look-up
 *
 * This file makes the command; who runs it (the bench's topology, the tests' rig) has its own way with processes. It
 * runs with `-i`, so `start`, `stop` and `quit` go to its standard input; `stop` prints what was counted since
 * `start`, which `forwardedOf` reads (by `stdbuf`, or it would all come at the end). Memory is a memfd without huge
 * pages, no PCI device is touched.
 *
 * Debian's dpdk-dev, which has the program, would bring 200 packages of development files and newer versions of the
 * system's own; so it is unpacked alone, with the libraries that it depends on (`unpacked.ts`).
 */
import { join } from 'node:path'
import { type Found, dependencies, find, plugIns } from './unpacked.js'

const PROGRAM = 'dpdk-testpmd'
/** Drivers that are loaded at run time, by the names of their libraries. */
const DRIVERS = ['librte_net_virtio.so', 'librte_net_vhost.so', 'librte_mempool_ring.so']
const BUFFERS = 16_384

export interface Command {
  readonly file: string
  readonly args: string[]
  readonly env: Record<string, string>
}

/** A guest's network card. */
export interface VirtioUser {
  readonly socket: string
  readonly mac: string
  /** it makes the socket, and the switch connects to it */
  readonly isServer?: boolean
  /** further arguments of the device: `packed_vq=1`, `mrg_rxbuf=0`, `queues=2` */
  readonly more?: readonly string[]
}

export interface TestpmdOptions {
  /** `--vdev` of each port: `virtioUser`, `vhostPort` */
  readonly devices: readonly string[]
  /** processor that forwards; what reads commands is there too, and sleeps */
  readonly core: number
  /** for its files: a folder of the caller's */
  readonly folder: string
  readonly megabytes?: number
  /** options of testpmd itself: `--forward-mode=io` */
  readonly options: readonly string[]
}

export interface Forwarded {
  readonly received: number
  readonly sent: number
  /** what the ports did not take */
  readonly dropped: number
}

/** The program is there. */
export const hasTestpmd = (): boolean => find(PROGRAM) !== null

/** The packages that it needs, for `unpack`: with those that they depend on, and alone. */
export function dpdkPackages(): [wanted: string[], alone: string[]] {
  const needed = dependencies('dpdk-dev').filter((name) => !/-dev$|^python/.test(name))
  // Debian's names end in the version of the interface: librte-eal23
  const version = needed.map((name) => /^librte-eal(\d+)$/.exec(name)?.[1]).find((found) => found !== undefined)
  if (version === undefined) throw new Error('dpdk-dev depends on no librte-eal')
  const drivers = ['net-virtio', 'net-vhost', 'mempool-ring'].map((name) => `librte-${name}${version}`)
  return [
    [...needed, ...drivers],
    ['dpdk-dev', 'libdpdk-dev', 'libbsd-dev'],
  ]
}

export const virtioUser = (index: number, { socket, mac, isServer = false, more = [] }: VirtioUser): string =>
  [`net_virtio_user${index}`, `path=${socket}`, `mac=${mac}`, ...(isServer ? ['server=1'] : []), ...more].join(',')

/** A port of the forwarder, which makes the socket. */
export const vhostPort = (index: number, socket: string, more: readonly string[] = []): string =>
  [`net_vhost${index}`, `iface=${socket}`, ...more].join(',')

/** Arguments by which a program of DPDK finds the unpacked drivers. */
export function driverArguments(names: readonly string[] = DRIVERS): string[] {
  const [folder] = plugIns()
  if (folder === undefined || find(PROGRAM)?.isUnpacked !== true) return []
  const version = /-(\d+)/.exec(folder)?.[1] ?? ''
  return names.flatMap((name) => ['-d', join(folder, `${name}.${version}`)])
}

export function testpmd(given: TestpmdOptions): Command {
  const { path } = program()
  const options = ['-i', `--total-num-mbufs=${BUFFERS}`, ...given.options]
  const { file, args, env } = dpdkCommand(path, { ...given, lcores: 2, options })
  return { file: 'stdbuf', args: ['-oL', file, ...args], env }
}

/** The command of any program of DPDK's. @param lcores its threads, all on that core */
export function dpdkCommand(
  file: string,
  { devices, core, folder, megabytes = 512, options, lcores = 1 }: TestpmdOptions & { lcores?: number },
): Command {
  const cores = ['--lcores', Array.from({ length: lcores }, (_, i) => `${i}@${core}`).join(',')]
  const memory = ['--no-huge', '-m', String(megabytes), '--no-pci', '--no-shconf', '--no-telemetry']
  const ports = devices.flatMap((device) => ['--vdev', device])
  return {
    file,
    args: [...cores, ...memory, ...driverArguments(), ...ports, '--', ...options],
    env: { ...program().env, ...runtimeFolder(folder) },
  }
}

/** The environment by which DPDK keeps its files in a folder of the caller's. */
export const runtimeFolder = (folder: string): Record<string, string> => ({
  RUNTIME_DIRECTORY: folder,
  XDG_RUNTIME_DIR: folder,
})

/** Arguments of a C compiler for a program that uses DPDK; those of the linker stand last. */
export function compilerArguments(): string[] {
  const { isUnpacked, path } = program()
  const usr = isUnpacked ? join(path, '../..') : '/usr'
  const machine = process.arch === 'x64' ? 'x86_64-linux-gnu' : 'aarch64-linux-gnu'
  const headers = ['include/dpdk', `include/${machine}/dpdk`, ...(isUnpacked ? ['include'] : [])]
  const libraries = ['ethdev', 'eal', 'mbuf', 'mempool', 'ring', 'net'].map((name) => `-lrte_${name}`)
  const folders = headers.flatMap((folder) => ['-isystem', join(usr, folder)])
  const code = process.arch === 'x64' ? ['-march=corei7'] : []
  const linked = ['-L', join(usr, 'lib', machine), '-Wl,--allow-shlib-undefined', ...libraries]
  return [...code, ...folders, '-include', 'rte_config.h', ...linked]
}

function program(): Found {
  const found = find(PROGRAM)
  if (found === null) throw new Error(`${PROGRAM} is not installed (Debian package dpdk-dev)`)
  return found
}

/** What `stop` printed for all ports together. */
export function forwardedOf(output: string): Forwarded {
  const at = output.lastIndexOf('Accumulated forward statistics for all ports')
  const counts = /RX-packets: (\d+)[\s\S]*?TX-packets: (\d+) +TX-dropped: (\d+)/.exec(at < 0 ? '' : output.slice(at))
  if (counts === null) throw new Error(`testpmd printed no totals: ${output}`)
  return { received: Number(counts[1]), sent: Number(counts[2]), dropped: Number(counts[3]) }
}
