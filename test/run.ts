/**
 * `npm test`: installs what the tests need and the machine lacks, then runs every compiled test with Node's own runner.
 *
 *   node dist/test/run.js [FILTER…] [--test-…]
 *
 * FILTER is a part of a test file's path ('outside/vlan', 'dataplane'); options go to `node --test`. Unit tests run two
 * files at a time, then the tests from outside (dist/test/outside: daemons, namespaces, guests) one at a time, since
 * they share two cores with what they test. The output of both runs passes through; their closing counts are held back,
 * added up and printed once at the end in the runner's own form. The exit status is 0 only if both runs end with 0.
 *
 * As root on Debian the missing packages are installed first (`apt-get update` once, no recommended packages). Without
 * root or apt nothing is installed, and each test says itself what it skips for want of what.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { needs, root, weftMain, which } from './rig/commands.js'
import { sweep } from './rig/namespaces.js'

/** The Debian package of each program that the tests or the rig start. */
const packages: Record<string, string> = {
  ip: 'iproute2',
  ss: 'iproute2',
  ping: 'iputils-ping',
  sysctl: 'procps',
  ethtool: 'ethtool',
  iperf3: 'iperf3',
  tcpdump: 'tcpdump',
  tshark: 'tshark',
  nft: 'nftables',
  dig: 'bind9-dnsutils',
  dnsperf: 'dnsperf',
  dnsmasq: 'dnsmasq-base',
  dhclient: 'isc-dhcp-client',
  dhcpcd: 'dhcpcd5',
  traceroute: 'traceroute',
  nmap: 'nmap',
  curl: 'curl',
  scapy: 'python3-scapy',
  rdisc6: 'ndisc6',
  'qemu-system-x86_64': 'qemu-system-x86',
  busybox: 'busybox-static',
  cpio: 'cpio',
  xz: 'xz-utils',
  zstd: 'zstd',
  cc: 'gcc libc6-dev',
}

const testFolder = fileURLToPath(new URL('.', import.meta.url))

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}

function apt(...args: string[]): boolean {
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const result = spawnSync('apt-get', ['-q', ...args], { env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
  if (result.status !== 0) say(`apt-get ${args.join(' ')}: ${result.stderr || result.error}`)
  return result.status === 0
}

/** Installs the packages of missing programs; says what stays missing. */
function install(): void {
  const missing = Object.keys(packages).filter((program) => which(program) === null)
  const haveSeabios = existsSync('/usr/share/seabios/bios-256k.bin') || existsSync('/usr/share/qemu/bios-256k.bin')
  if (missing.length === 0 && haveSeabios) return
  const names = [...new Set(missing.flatMap((program) => packages[program].split(' ')))]
  if (!haveSeabios) names.push('seabios')
  const reason = needs('root', 'apt').skip
  if (reason !== false) {
    say(`missing: ${names.join(' ')} (not installed: ${reason}); tests that need them are skipped`)
    return
  }
  say(`installing ${names.join(' ')}`)
  const ask = ['install', '-y', '--no-install-recommends', ...names]
  const done = apt(...ask) || (apt('update') && apt(...ask))
  // One package that is not to be had must not keep the others away.
  if (!done) for (const name of names) apt('install', '-y', '--no-install-recommends', name)
  const still = missing.filter((program) => which(program) === null)
  if (still.length > 0) say(`still missing: ${still.join(' ')}; tests that need them are skipped`)
}

/** The guest's kernel package is looked up in apt's lists, which a fresh image does not have. */
function refreshLists(): void {
  if (needs('root', 'apt').skip !== false || which('apt-cache') === null) return
  const known = spawnSync('apt-cache', ['search', '--names-only', 'cloud-amd64$'], { encoding: 'utf8' })
  if (known.stdout === '') apt('update')
}

function testFiles(filters: readonly string[]): string[] {
  return readdirSync(testFolder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.js'))
    .filter((name) => filters.length === 0 || filters.some((filter) => name.includes(filter)))
    .toSorted()
    .map((name) => relative(root, join(testFolder, name)))
}

const totals = new Map<string, number>()

/** One run of Node's test runner; resolves with its exit status. */
function runner(files: readonly string[], concurrency: number, options: readonly string[]): Promise<number> {
  if (files.length === 0) return Promise.resolve(0)
  const args = ['--test', `--test-concurrency=${concurrency}`, '--test-reporter=spec', ...options, ...files]
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill(signal))
  let line = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (line + text).split('\n')
    line = lines.pop() as string
    for (const each of lines) {
      const closing = /^ℹ (tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ([\d.]+)$/.exec(each)
      if (closing === null) say(each)
      else totals.set(closing[1], (totals.get(closing[1]) ?? 0) + Number(closing[2]))
    }
  })
  return new Promise((resolve) => {
    child.once('close', (status) => {
      if (line !== '') say(line)
      resolve(status ?? 1)
    })
  })
}

const words = process.argv.slice(2)
const options = words.filter((word) => word.startsWith('--'))
const filters = words.filter((word) => !word.startsWith('--'))
const files = testFiles(filters)
if (files.length === 0) {
  say(`no test file matches ${filters.join(' ')}`)
  process.exit(1)
}
const outside = files.filter((file) => file.includes('/outside/'))
const inside = files.filter((file) => !outside.includes(file))
if (outside.length > 0 && !existsSync(weftMain)) {
  say('Weft is not built: npm run build')
  process.exit(1)
}
if (outside.length > 0) {
  install()
  refreshLists()
  sweep()
}
const first = await runner(inside, 2, options)
const second = await runner(outside, 1, ['--test-timeout=600000', ...options])
if (outside.length > 0) sweep()
for (const [name, count] of totals) say(`ℹ ${name} ${count}`)
process.exit(first || second)
