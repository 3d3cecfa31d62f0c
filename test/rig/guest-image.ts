/**
 * The guest's kernel and file system, built once from the distribution's own packages and kept outside the checkout.
 *
 *   linux-image-6.12…-cloud-amd64 (downloaded and unpacked, not installed)
 *     -> vmlinux    the ELF inside vmlinuz: QEMU enters it directly (PVH), with no decompression under emulation
 *     -> modules    what virtio_net needs and the kernel does not have built in
 *   busybox-static, iperf3 with its libraries, an init script -> initramfs (cpio, newc)
 *
 * The folder is os.tmpdir()/weft-guest-VERSION; a build goes to a folder of its own first and is renamed, so that two
 * builders or a killed one leave no half image.
 *
 * bzImage layout: Linux Documentation/arch/x86/boot.rst (setup_sects at 0x1f1, payload_offset at 0x248). The payload is
 * the compressed ELF followed by its length in four bytes.
 */
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { chmodSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { run, which, words } from './commands.js'

export interface GuestImage {
  kernel: string
  initrd: string
}

/** What a virtio network card may need as modules, each after those it depends on. */
const loadOrder = words(
  'virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci ' +
    'failover net_failover virtio_net virtio_console af_packet',
)

/** The first process of the guest: mounts, loads modules, then takes commands from the virtio-serial port `ctl`. */
const init = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var/run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order 2>/dev/null); do insmod /modules/$module; done
ip link set lo up
n=0
while [ $n -lt 200 ]; do
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name 2>/dev/null)" = ctl ] && control=/dev/$(basename $port)
  done
  [ -n "$control" ] && [ -c "$control" ] && break
  n=$((n + 1))
  usleep 20000
done
exec 3<>$control
echo "@@READY $(cat /proc/uptime)" >&3
while read -r id command <&3; do
  sh -c "$command" </dev/null >&3 2>&1
  printf '\\n@@RC %s %s\\n' "$id" "$?" >&3
done
poweroff -f
`

/** What udhcpc calls with a lease. */
const lease = `#!/bin/sh
[ "$1" = deconfig ] && ip addr flush dev $interface && ip link set $interface up
if [ "$1" = bound ] || [ "$1" = renew ]; then
  ip addr replace $ip/$mask dev $interface
  [ -n "$mtu" ] && ip link set $interface mtu $mtu
  for gateway in $router; do ip route replace default via $gateway dev $interface; done
  for server in $dns; do echo nameserver $server; done >/etc/resolv.conf
  env >/run/lease
fi
exit 0
`

/** Builds the image in some seconds, or finds it. Needs apt-get, dpkg-deb, busybox, cpio, xz, zstd, iperf3. */
export async function guestImage(): Promise<GuestImage> {
  const version = await newestKernel()
  const recipe = createHash('sha256').update(init).update(lease).digest('hex').slice(0, 8)
  const folder = join(tmpdir(), `weft-guest-${version}-${recipe}`)
  const image = { kernel: join(folder, 'vmlinux'), initrd: join(folder, 'initrd') }
  if (existsSync(image.kernel) && existsSync(image.initrd)) return image
  const work = `${folder}.${process.pid}`
  mkdirSync(work, { recursive: true })
  try {
    await run('apt-get', ['-o', 'APT::Sandbox::User=root', 'download', `linux-image-${version}`], { directory: work })
    const [archive] = readdirSync(work).filter((name) => name.endsWith('.deb'))
    await run('dpkg-deb', ['-x', join(work, archive), join(work, 'package')])
    await unpackKernel(join(work, 'package/boot', `vmlinuz-${version}`), join(work, 'vmlinux'))
    await buildFileSystem(work, version)
    for (const name of readdirSync(work)) {
      if (name !== 'vmlinux' && name !== 'initrd') rmSync(join(work, name), { recursive: true })
    }
    if (existsSync(folder)) rmSync(folder, { recursive: true })
    renameSync(work, folder)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return image
}

/** The version of the newest 6.12 (else any) cloud kernel that apt knows. */
async function newestKernel(): Promise<string> {
  const known = await run('apt-cache', ['search', '--names-only', '^linux-image-[0-9.]+.*cloud-amd64$'])
  const versions = known.split('\n').map((line) => /^linux-image-(\d\S+cloud-amd64) /.exec(line)?.[1])
  const numeric = new Intl.Collator('en', { numeric: true })
  const sorted = versions.filter((version) => version !== undefined).toSorted(numeric.compare)
  const version = sorted.findLast((candidate) => candidate.startsWith('6.12.')) ?? sorted.at(-1)
  if (version === undefined) throw new Error('apt knows no cloud kernel: apt-get update?')
  return version
}

/** Cuts the compressed ELF out of a bzImage and unpacks it. */
async function unpackKernel(bzImage: string, vmlinux: string): Promise<void> {
  const file = readFileSync(bzImage)
  const start = (file[0x1f1] + 1) * 512 + file.readUInt32LE(0x248)
  const payload = file.subarray(start, start + file.readUInt32LE(0x24c) - 4)
  const packed = `${vmlinux}.packed`
  writeFileSync(packed, payload)
  const magic = payload.readUInt32BE(0)
  if (magic >>> 16 === 0x1f8b) writeFileSync(vmlinux, gunzipSync(payload))
  else if (magic === 0x28b52ffd) await run('zstd', ['-q', '-d', '-f', '-o', vmlinux, packed])
  else
    await run('sh', ['-c', 'xz --single-stream --stdout --decompress --format=xz <"$1" >"$2"', 'sh', packed, vmlinux])
  if (readFileSync(vmlinux).readUInt32BE(0) !== 0x7f454c46) throw new Error(`${bzImage}: no ELF inside`)
}

async function buildFileSystem(work: string, version: string): Promise<void> {
  const tree = join(work, 'tree')
  for (const name of ['bin', 'modules', 'etc', 'usr/share/udhcpc']) mkdirSync(join(tree, name), { recursive: true })
  copyFileSync(which('busybox') ?? '', join(tree, 'bin/busybox'))
  symlinkSync('busybox', join(tree, 'bin/sh'))
  writeExecutable(join(tree, 'init'), init)
  writeExecutable(join(tree, 'usr/share/udhcpc/default.script'), lease)
  const iperf = which('iperf3') ?? ''
  copyFileSync(iperf, join(tree, 'bin/iperf3'))
  for (const library of (await run('ldd', [iperf])).matchAll(/(\/\S+) \(0x/g)) {
    const path = library[1]
    mkdirSync(join(tree, dirname(path)), { recursive: true })
    copyFileSync(path, join(tree, path))
  }
  const modules = join(work, 'package/lib/modules', version)
  const files = readdirSync(modules, { recursive: true, encoding: 'utf8' })
  const order: string[] = []
  for (const wanted of loadOrder) {
    const file = files.find((path) => basename(path).startsWith(`${wanted}.ko`))
    if (file === undefined) continue // built into this kernel
    const name = basename(file).replace(/\.ko.*$/, '.ko')
    const target = join(tree, 'modules', name)
    if (file.endsWith('.xz')) await run('sh', ['-c', 'xz -dc <"$1" >"$2"', 'sh', join(modules, file), target])
    else if (file.endsWith('.zst')) await run('zstd', ['-q', '-d', '-o', target, join(modules, file)])
    else copyFileSync(join(modules, file), target)
    order.push(name)
  }
  writeFileSync(join(tree, 'modules/order'), `${order.join('\n')}\n`)
  const pack = 'cd "$1" && find . | cpio --quiet --create --format=newc --owner=0:0 >"$2"'
  await run('sh', ['-c', pack, 'sh', tree, join(work, 'initrd')])
}

function writeExecutable(path: string, text: string): void {
  writeFileSync(path, text)
  chmodSync(path, 0o755)
}
