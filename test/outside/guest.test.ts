/**
 * Real QEMU guests: on a `qemu` stream in both directions of connecting, on datagrams, and on a TAP of QEMU's own that
 * is reached through `netdev`. Each answers ping and passes TCP both ways; those on sockets survive a killed daemon,
 * and all of them a killed shard, without noticing more than a few lost frames.
 */
import assert from 'node:assert/strict'
import { readdirSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { needs, pause, until, words } from '../rig/commands.js'
import { Guest } from '../rig/guest.js'
import { type Host, SENDER_BUFFER_BYTES, Wiring } from '../rig/hosts.js'

const wants = needs(...words('root tun weft ip iperf3 qemu-system-x86_64 apt-get dpkg-deb busybox cpio xz zstd'))
const card = (mac: string): string[] => ['-device', `virtio-net-pci,netdev=n0,mac=${mac},romfile=`]

/** What `weft qemu` prints for a port, as arguments. */
async function printed(wiring: Wiring, port: string): Promise<string[]> {
  const text = await wiring.weft.do(['qemu', 'lan', port])
  return text
    .replaceAll('\\\n', ' ')
    .split(/\s+/)
    .filter(Boolean)
    .map((word) => word.replace(/^'(.*)'$/, '$1'))
}

/** Passes TCP from a host to a guest and back. */
async function tcp(host: Host, guest: Guest, address: string, megabytes = 10): Promise<void> {
  for (const reverse of [[], ['-R']]) {
    await guest.run('iperf3 -s -1 -p 5300 >/tmp/iperf 2>&1 &')
    await until('the guest listens', async () => (await guest.exec('netstat -ltn | grep -q :5300')).rc === 0)
    const args = ['-c', address, '-p', '5300', '-J', '-n', `${megabytes}M`, ...reverse]
    const text = (await host.space.attempt('iperf3', args, { timeoutSeconds: 180 })).stdout
    const report = JSON.parse(text) as { error?: string; end: { sum_sent?: { bytes: number } } }
    const bytes = report.end.sum_sent?.bytes ?? 0
    assert.ok(bytes >= megabytes * 1_000_000, `${bytes} bytes ${reverse.join('')}: ${report.error}`)
  }
}

async function answersBothWays(host: Host, guest: Guest, address: string): Promise<void> {
  await host.reaches(address, 60)
  assert.ok((await host.space.ping(address, { count: 5 })) >= 4)
  await guest.run(`ping -c 3 -W 5 ${host.ip}`)
}

describe('guests on a stream and on a TAP of their own', wants, () => {
  let wiring: Wiring
  let host: Host
  let onStream: Guest
  let onTap: Guest

  before(async () => {
    wiring = await Wiring.open()
    host = await wiring.tap('host', { address: '10.86.0.1/24' })
    await wiring.add('g1', `--kind qemu --path ${join(wiring.lab.folder, 'g1.sock')}`)
    onStream = await Guest.boot(wiring.lab, { name: 'g1', arguments: await printed(wiring, 'g1') })
    await onStream.configure('10.86.0.2/24')
    onTap = await bootOnTap(wiring, 'g2', '52:54:00:00:00:02')
    await onTap.configure('10.86.0.3/24')
    await wiring.add('g2', '--kind netdev --dev q0')
  })
  after(async () => {
    await onStream?.kill()
    await onTap?.kill()
    await wiring?.close()
  })

  it('the guest on the stream answers and asks', () => answersBothWays(host, onStream, '10.86.0.2'))
  it('the guest on its own TAP answers and asks', () => answersBothWays(host, onTap, '10.86.0.3'))
  it('TCP passes both ways with the guest on the stream', () => tcp(host, onStream, '10.86.0.2'))
  it('TCP passes both ways with the guest on its own TAP, offloads negotiated', () => tcp(host, onTap, '10.86.0.3', 50))

  it('the two guests pass TCP between them', async () => {
    await onStream.run('iperf3 -s -1 -p 5301 >/tmp/iperf 2>&1 &')
    await until('the guest listens', async () => (await onStream.exec('netstat -ltn | grep -q :5301')).rc === 0)
    const report = JSON.parse(await onTap.run('iperf3 -c 10.86.0.2 -p 5301 -J -n 10M', 180))
    assert.ok(report.end.sum_sent.bytes >= 10_000_000)
    const least = 10_000_000 - SENDER_BUFFER_BYTES // which the receiver need not have counted: see `tcp`
    assert.ok(report.end.sum_received.bytes >= least, JSON.stringify(report.end.sum_received))
  })

  it('their addresses are known at their ports', async () => {
    await wiring.learns(await onStream.mac(), 'g1')
    await wiring.learns(await onTap.mac(), 'g2')
  })

  it('a frozen guest loses its own frames only', async () => {
    onStream.freeze()
    const flood = host.space.spawn('ping', ['-f', '-q', '-b', '-s', '1400', '10.86.0.255'])
    assert.ok((await host.space.ping('10.86.0.3', { count: 10 })) >= 9)
    await flood.stop('SIGINT')
    onStream.resume()
    await host.reaches('10.86.0.2', 60)
  })

  it('the guest sees its cable pulled on its port by order', async () => {
    await wiring.weft.do('port link lan g1 down')
    assert.equal(await host.space.ping('10.86.0.2', { count: 2, waitSeconds: 1 }), 0)
    await wiring.weft.do('port link lan g1 up')
    await host.reaches('10.86.0.2', 60)
  })
})

describe('guests whose daemon is killed', wants, () => {
  let wiring: Wiring
  let host: Host
  let served: Guest
  let datagrams: Guest

  before(async () => {
    wiring = await Wiring.open()
    host = await wiring.tap('host', { address: '10.87.0.1/24' })
    await wiring.add('g1', `--kind qemu --path ${join(wiring.lab.folder, 'g1.sock')} --client`)
    await wiring.add('g2', `--kind qemu --path ${join(wiring.lab.folder, 'g2.sock')} --dgram`)
    served = await Guest.boot(wiring.lab, { name: 'g1', arguments: await printed(wiring, 'g1') })
    await served.configure('10.87.0.2/24')
    datagrams = await Guest.boot(wiring.lab, { name: 'g2', arguments: await printed(wiring, 'g2') })
    await datagrams.configure('10.87.0.3/24')
  })
  after(async () => {
    await served?.kill()
    await datagrams?.kill()
    await wiring?.close()
  })

  it('the guest that listens answers and asks, and passes TCP', async () => {
    await answersBothWays(host, served, '10.87.0.2')
    await tcp(host, served, '10.87.0.2')
  })

  it('the guest on datagrams answers and asks, and passes TCP', async () => {
    await answersBothWays(host, datagrams, '10.87.0.3')
    await tcp(host, datagrams, '10.87.0.3', 2)
  })

  it('both are reached again after kill -9 and a new start', async () => {
    await wiring.weft.kill()
    await wiring.weft.start()
    await host.configure()
    await host.reaches('10.87.0.2', 60)
    await host.reaches('10.87.0.3', 60)
  })
})

/** The sockets that a process has open, by number. */
function socketsOf(pid: number): string[] {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`)
    } catch {
      return ''
    }
  })
  return links.filter((link) => link.startsWith('socket:')).sort()
}

/** Boots a guest on a TAP of QEMU's own, `q0`, in the switch's namespace. */
async function bootOnTap(wiring: Wiring, name: string, mac: string): Promise<Guest> {
  const space = wiring.switchSpace()
  await space.ip('tuntap add q0 mode tap vnet_hdr')
  await space.ip('link set q0 up')
  return Guest.boot(wiring.lab, {
    name,
    namespace: space,
    arguments: ['-netdev', 'tap,id=n0,ifname=q0,script=no,downscript=no,vhost=off', ...card(mac)],
  })
}

describe('guests whose shard is killed', wants, () => {
  const pingMillis = 20
  let wiring: Wiring
  let host: Host
  let onStream: Guest
  let onDatagrams: Guest
  let onTap: Guest

  before(async () => {
    wiring = await Wiring.open()
    host = await wiring.tap('host', { address: '10.88.0.1/24' })
    await wiring.add('g1', `--kind qemu --path ${join(wiring.lab.folder, 'g1.sock')}`)
    await wiring.add('g2', `--kind qemu --path ${join(wiring.lab.folder, 'g2.sock')} --dgram`)
    onStream = await Guest.boot(wiring.lab, { name: 'g1', arguments: await printed(wiring, 'g1') })
    await onStream.configure('10.88.0.2/24')
    onDatagrams = await Guest.boot(wiring.lab, { name: 'g2', arguments: await printed(wiring, 'g2') })
    await onDatagrams.configure('10.88.0.3/24')
    onTap = await bootOnTap(wiring, 'g3', '52:54:00:00:00:03')
    await onTap.configure('10.88.0.4/24')
    await wiring.add('g3', '--kind netdev --dev q0')
    for (const address of ['10.88.0.2', '10.88.0.3', '10.88.0.4']) await host.reaches(address, 60)
  })
  after(async () => {
    await onStream?.kill()
    await onDatagrams?.kill()
    await onTap?.kill()
    await wiring?.close()
  })

  /** Longest time without an answer, in milliseconds, of a ping that has ended. */
  function longestGap(output: string): number {
    let last = 0
    let gap = 0
    for (const [, number] of output.matchAll(/icmp_seq=(\d+)/g)) {
      gap = Math.max(gap, Number(number) - last)
      last = Number(number)
    }
    return gap * pingMillis
  }

  it('stay connected, lose well under a second of frames, and their TCP goes on', async (context) => {
    const sockets = socketsOf(onStream.pid)
    await onStream.run('iperf3 -s -1 -p 5300 >/tmp/iperf 2>&1 &')
    await until('the guest listens', async () => (await onStream.exec('netstat -ltn | grep -q :5300')).rc === 0)
    const stream = host.space.attempt('iperf3', words('-c 10.88.0.2 -p 5300 -J -t 10'), { timeoutSeconds: 120 })
    const addresses = ['10.88.0.2', '10.88.0.3', '10.88.0.4']
    const pings = addresses.map((address) => {
      const args = words(`-n -i ${pingMillis / 1000} -c 450 -W 5 ${address}`)
      return host.space.attempt('ping', args, { timeoutSeconds: 60 })
    })
    for (let n = 0; n < 3; n++) {
      await pause(1500)
      await wiring.weft.killShard()
    }
    for (const [n, ping] of (await Promise.all(pings)).entries()) {
      const gap = longestGap(ping.stdout)
      context.diagnostic(`${addresses[n]}: ${gap} ms without an answer, at most`)
      assert.ok(gap < 1000, `${addresses[n]}: ${gap} ms without an answer`)
    }
    const report = JSON.parse((await stream).stdout) as { error?: string; end: { sum_received?: { bytes: number } } }
    assert.equal(report.error, undefined)
    assert.ok((report.end.sum_received?.bytes ?? 0) > 1_000_000)
    assert.deepEqual(socketsOf(onStream.pid), sockets, 'QEMU has the connection that it had')
    for (const name of ['g1', 'g2', 'g3', 'host']) assert.equal((await wiring.port(name)).state, 'up')
    for (const guest of [onStream, onDatagrams, onTap]) await guest.run(`ping -c 2 -W 5 ${host.ip}`)
  })
})
