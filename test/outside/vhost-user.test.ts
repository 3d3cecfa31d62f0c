/**
 * Real QEMU guests on vhost-user, each with a card on a NAT network and one on an isolated network of jumbo frames: g1
 * connects to Weft (server), g2, with two queues on `lan`, is connected to (client). All of what guests do and suffer:
 * traffic, reboots, a killed QEMU, a killed daemon, a killed shard, migration, a neighbour that breaks every rule. At
 * the end nothing is left of it.
 *
 *   g1 eth0, g2 eth0, box (TAP) ── lan ── router ── netdev:up0 ═══ out0 [outside: HTTP, 198.51.100.1]
 *   g1 eth1, g2 eth1 ── wide (MTU 9000)            peer (a program) ── wide
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { ftruncateSync, openSync, readFileSync, readdirSync, readlinkSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { native } from '../../src/ports/native.js'
import * as wire from '../../src/ports/vhost-user-message.js'
import { type Background, needs, pause, until, words } from '../rig/commands.js'
import type { PortState, Status } from '../rig/daemon.js'
import { Guest, sharingArguments } from '../rig/guest.js'
import type { Host } from '../rig/hosts.js'
import type { Namespace } from '../rig/namespaces.js'
import { Routed, routerNeeds, serveHttp } from '../rig/router.js'
import { FrontEnd, MEMORY_BYTES, type Started, addressesPayload, message } from '../rig/vhost-front-end.js'

const wants = needs(...routerNeeds, ...words('python3 iperf3 qemu-system-x86_64 apt-get dpkg-deb busybox cpio xz zstd'))
const payload = Buffer.alloc(3_000_000, 'a download that is checked as a whole; ')
const digest = createHash('sha256').update(payload).digest('hex')
const addresses = { box: '10.69.0.9', g1: '10.69.0.1', g2: '10.69.0.2' }
const wide = { g1: '10.70.0.1', g2: '10.70.0.2' }
type Name = 'g1' | 'g2'

interface Report {
  error?: string
  end: { sum_sent: { bytes: number; retransmits?: number }; sum_received: { bytes: number } }
}

describe('guests that share their memory', wants, () => {
  let routed: Routed
  let outside: Namespace
  let server: Background
  let box: Host
  let settled: Record<string, number> = {}
  const guests = new Map<Name, Guest>()
  const guest = (name: Name): Guest => guests.get(name)!
  const path = (name: string): string => join(routed.lab.folder, `${name}.sock`)

  async function boot(name: Name): Promise<void> {
    const args = await sharingArguments(routed.weft, ['lan', name], ['wide', `${name}w`])
    if (name === 'g2') args.push('-smp', '2') // a processor for each queue
    guests.set(name, await Guest.boot(routed.lab, { name, arguments: args, reboots: true }))
    await configure(name)
  }

  async function configure(name: Name): Promise<void> {
    await guest(name).configure(`${addresses[name]}/24`)
    await guest(name).configure(`${wide[name]}/24`, 'eth1')
    await guest(name).run('ip route add default via 10.69.0.254')
  }

  /** Waits until a guest has answers from an address. */
  const reaches = (from: Name, address: string): Promise<unknown> =>
    until(`${from} reaches ${address}`, async () => (await guest(from).exec(`ping -c 1 -W 1 ${address}`)).rc === 0, 60)

  async function serve(name: Name, port: number): Promise<void> {
    await guest(name).run(`iperf3 -s -1 -p ${port} >/tmp/iperf 2>&1 &`)
    await until(`${name} listens`, async () => (await guest(name).exec(`netstat -ltn | grep -q :${port}`)).rc === 0)
  }

  function judge(text: string, megabytes: number): void {
    const report = JSON.parse(text) as Report
    assert.equal(report.error, undefined)
    assert.ok(report.end.sum_sent.bytes >= megabytes * 1_000_000, text)
    assert.ok(report.end.sum_received.bytes >= megabytes * 500_000, text)
  }

  /** TCP between the guests, both ways. */
  async function tcp(address: string, megabytes: number): Promise<void> {
    for (const reverse of ['', '-R']) {
      await serve('g2', 5300)
      judge(await guest('g1').run(`iperf3 -c ${address} -p 5300 -J -n ${megabytes}M ${reverse}`, 120), megabytes)
    }
  }

  /** TCP between a TAP and a guest, both ways. */
  async function tcpWithBox(name: Name, megabytes: number): Promise<void> {
    for (const reverse of [[], ['-R']]) {
      await serve(name, 5301)
      const args = ['-c', addresses[name], '-p', '5301', '-J', '-n', `${megabytes}M`, ...reverse]
      judge((await box.space.attempt('iperf3', args, { timeoutSeconds: 120 })).stdout, megabytes)
    }
  }

  /** Waits until megabytes have gone to a port. */
  async function flows(network: string, port: string): Promise<void> {
    const sent = async (): Promise<number> => (await routed.weft.port(network, port)).transmit.bytes
    const start = await sent()
    await until('the load flows', async () => (await sent()) > start + 5_000_000)
  }

  async function shardPids(): Promise<number[]> {
    const { shards } = await routed.weft.json<Status>('status')
    return shards.map(({ pid }) => pid ?? 0)
  }

  /** Connected sockets of a process: one that connects again has others. */
  const sockets = (pid: number): string[] =>
    readdirSync(`/proc/${pid}/fd`)
      .map((fd) => link(`/proc/${pid}/fd/${fd}`))
      .filter((target) => target.startsWith('socket:'))
      .toSorted()

  function link(name: string): string {
    try {
      return readlinkSync(name)
    } catch {
      return '' // it was closed meanwhile
    }
  }

  /** What the daemon and its shard hold: descriptors by their kind, and mappings of shared memory. */
  async function held(): Promise<Record<string, number>> {
    const counts: Record<string, number> = {}
    const count = (what: string): void => {
      counts[what] = (counts[what] ?? 0) + 1
    }
    const processes = new Map([['daemon', routed.weft.pid]])
    for (const [index, pid] of (await shardPids()).entries()) processes.set(`shard ${index}`, pid)
    for (const [name, pid] of processes) {
      for (const fd of readdirSync(`/proc/${pid}/fd`))
        count(`${name} ${link(`/proc/${pid}/fd/${fd}`).replace(/[0-9]+/g, 'N')}`)
      for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n'))
        if (/memfd:|\/dev\/shm/.test(line)) count(`${name} maps`)
    }
    // made by a TAP's first flood
    return Object.fromEntries(Object.entries(counts).filter(([what]) => !what.includes('io_uring')))
  }

  /** Regions of guests' memory that shards have mapped. */
  async function guestMaps(): Promise<number> {
    const counts = Object.entries(await held()).filter(([what]) => /^shard \d maps$/.test(what))
    return counts.reduce((sum, [, count]) => sum + count, 0)
  }

  before(async () => {
    const { routed: network, outside: space } = await Routed.behind(
      {
        subnets: [{ cidr: '10.69.0.0/24', gateway: '10.69.0.254', dhcp: null }],
        uplink: 'netdev:up0,address=198.51.100.2/24,gateway=198.51.100.1',
        autostart: true,
      },
      ['198.51.100.1/24'],
      { resolvers: '# none\n', daemon: ['--shards', '2'] },
    )
    routed = network
    outside = space
    const { weft } = routed
    server = await serveHttp(routed.lab, outside, 8080, { file: payload })
    box = await routed.guest('box', { address: `${addresses.box}/24` })
    await weft.do('network create wide --mode isolated --mtu 9000')
    await weft.do(`port add lan g1 --kind vhost-user --path ${path('g1')}`)
    await weft.do(`port add wide g1w --kind vhost-user --path ${path('g1w')}`)
    await weft.do(`port add lan g2 --kind vhost-user --client --queues 2 --path ${path('g2')}`)
    await weft.do(`port add wide g2w --kind vhost-user --client --path ${path('g2w')}`)
    await weft.do(`port add wide peer --kind vhost-user --path ${path('peer')}`)
    assert.match((await weft.port('lan', 'g1')).reason ?? '', /nobody is connected/)
    assert.match((await weft.port('lan', 'g2')).reason ?? '', /does not exist|nobody/)
    await Promise.all([boot('g1'), boot('g2')])
  })
  after(async () => {
    for (const one of guests.values()) await one.kill()
    await server?.stop('SIGKILL')
    await routed?.close()
  })

  it('are up, answer and ask', async () => {
    for (const name of ['g1', 'g2']) {
      const port = await routed.weft.waitPort('lan', name, 'up')
      assert.deepEqual([port.reason, port.offloads], [null, ['checksum', 'tso4', 'tso6']])
    }
    await reaches('g1', addresses.g2)
    await guest('g2').run(`ping -c 3 -W 5 ${addresses.g1}`)
    await guest('g1').run(`ping -c 3 -W 5 ${addresses.box}`)
    await routed.learns(await guest('g2').mac(), 'g2')
  })

  it('pass TCP between them, in large frames', async () => {
    const earlier = await routed.port('g1')
    await tcp(addresses.g2, 40)
    const { receive, software } = (await routed.port('g1')) as PortState & { software: object }
    const bytes = receive.bytes - earlier.receive.bytes
    assert.ok(bytes / (receive.packets - earlier.receive.packets) > 3000, 'frames of segmentation offload, whole')
    assert.deepEqual(software, { segmented: 0, checksums: 0 })
  })

  it('use several queues', async () => {
    const queues = (await guest('g2').run('ls /sys/class/net/eth0/queues')).split('\n').filter(Boolean)
    assert.deepEqual(queues.toSorted(), ['rx-0', 'rx-1', 'tx-0', 'tx-1'])
    await serve('g2', 5303)
    judge(await guest('g1').run(`iperf3 -c ${addresses.g2} -p 5303 -P 4 -J -n 20M`, 120), 20)
    await serve('g2', 5303)
    judge(await guest('g1').run(`iperf3 -c ${addresses.g2} -p 5303 -P 4 -R -J -n 20M`, 120), 20)
  })

  it('pass TCP with a host on a TAP', () => tcpWithBox('g2', 30))

  it('pass jumbo frames', async () => {
    assert.match(await guest('g1').run('ip link show eth1'), /mtu 9000/)
    await reaches('g1', wide.g2)
    await guest('g1').run(`ping -c 3 -s 8900 -W 5 ${wide.g2}`)
    await tcp(wide.g2, 40)
    assert.equal((await routed.weft.port('wide', 'g2w')).drops.oversize ?? 0, 0)
  })

  it('are in the VLANs that their ports say', async () => {
    const { weft } = routed
    for (const name of ['g1w', 'g2w']) await weft.do(`port set wide ${name} --access 10`)
    await reaches('g1', wide.g2)
    await weft.do('port set wide g2w --access 20')
    assert.notEqual((await guest('g1').exec(`ping -c 2 -W 1 ${wide.g2}`)).rc, 0)
    for (const name of ['g1w', 'g2w']) await weft.do(`port set wide ${name} --access none`)
    await reaches('g1', wide.g2)
  })

  it('reach the outside by NAT', async () => {
    for (const name of ['g1', 'g2'] as const) {
      const text = await guest(name).run('wget -q -O - http://198.51.100.1:8080/file | sha256sum', 120)
      assert.equal(text.split(' ')[0].trim(), digest)
    }
  })

  it('see the cable pulled, and plugged in', async () => {
    const carrier = (value: string) => async () =>
      (await guest('g1').run('cat /sys/class/net/eth1/carrier 2>&1 || true')).trim() === value
    await routed.weft.do('port link wide g1w down')
    await until('the link is down', carrier('0'))
    await routed.weft.do('port link wide g1w up')
    await until('the link is up', carrier('1'))
    await reaches('g1', wide.g2)
  })

  it('go on, with their TCP connections, when the daemon is killed and started again', async () => {
    const uptime = async (name: Name): Promise<number> => Number.parseFloat(await guest(name).run('cat /proc/uptime'))
    const earlier = await Promise.all([uptime('g1'), uptime('g2')])
    await reaches('g1', wide.g2)
    await serve('g2', 5304)
    const load = guest('g1').run(`iperf3 -c ${wide.g2} -p 5304 -J -t 8`, 90)
    await flows('wide', 'g2w')
    await routed.weft.kill()
    await pause(300)
    await routed.weft.start()
    judge(await load, 10)
    await box.configure()
    for (const name of ['g1', 'g2'] as const) {
      await reaches(name, addresses.box)
      await routed.weft.waitPort('lan', name, 'up')
    }
    await reaches('g1', addresses.g2)
    await reaches('g2', wide.g1)
    const now = await Promise.all([uptime('g1'), uptime('g2')])
    assert.ok(now[0] > earlier[0] && now[1] > earlier[1], 'no guest has started again')
    await tcp(addresses.g2, 20)
  })

  it('lose some frames and nothing else when the shards are killed under load', async () => {
    const earlier = [sockets(guest('g1').pid), sockets(guest('g2').pid)]
    const receiver = outside.spawn('iperf3', ['-s', '-1', '-p', '5305'])
    await serve('g2', 5302)
    const load = guest('g1').run(`iperf3 -c ${addresses.g2} -p 5302 -J -t 8`, 90)
    const byNat = guest('g2').run('iperf3 -c 198.51.100.1 -p 5305 -J -t 8', 90)
    await flows('lan', 'g2')
    const pinging = box.space.spawn('ping', ['-q', '-i', '0.1', '-c', '60', addresses.g2])
    for (const index of [0, 1]) {
      await pause(1000)
      const pid = (await shardPids())[index]
      process.kill(pid, 'SIGKILL')
      await until('another shard works', async () => ![0, pid].includes((await shardPids())[index]))
    }
    judge(await load, 10)
    judge(await byNat, 10)
    await pinging.exited
    await receiver.stop('SIGKILL')
    const received = Number(/(\d+) received/.exec(pinging.stdout)?.[1] ?? 0)
    assert.ok(received >= 30, pinging.stdout)
    assert.deepEqual([sockets(guest('g1').pid), sockets(guest('g2').pid)], earlier, 'nobody connected again')
    for (const name of ['g1', 'g2']) assert.equal((await routed.weft.port('lan', name)).state, 'up')
  })

  it('move to another shard while frames flow', async () => {
    const { weft } = routed
    const earlier = [sockets(guest('g1').pid), sockets(guest('g2').pid)]
    const pinging = guest('g2').exec(`ping -i 0.1 -c 60 -W 2 ${wide.g1}`, 60)
    for (const shard of ['0', '1', '0', 'auto']) {
      await pause(700)
      await weft.do(`network set wide --shard ${shard}`)
    }
    const received = Number(/(\d+) packets received/.exec((await pinging).output)?.[1])
    assert.ok(received >= 55, `${received} of 60`)
    await serve('g2', 5306)
    const load = guest('g1').run(`iperf3 -c ${addresses.g2} -p 5306 -J -t 5`, 90)
    await flows('lan', 'g2')
    for (const shard of ['1', '0', 'auto']) {
      await weft.do(`network set lan --shard ${shard}`)
      await pause(500)
    }
    judge(await load, 10)
    assert.deepEqual([sockets(guest('g1').pid), sockets(guest('g2').pid)], earlier, 'nobody connected again')
  })

  it('carry on in the new processes', async () => {
    await tcp(addresses.g2, 10)
    await tcpWithBox('g2', 10)
    settled = await held()
  })

  it('do not notice a neighbour that breaks every rule', async () => {
    const pinging = guest('g1').exec(`ping -i 0.1 -c 100 -W 2 ${wide.g2}`, 60)
    await hostile()
    const { output } = await pinging
    assert.match(output, /100 packets transmitted, 100 packets received/)
  })

  it('restart their driver', async () => {
    const cards = 'cd /sys/bus/virtio/drivers/virtio_net; for d in virtio*; do echo $d; done'
    const names = (await guest('g1').run(cards)).split('\n').filter(Boolean)
    for (const verb of ['unbind', 'bind']) {
      for (const name of names) await guest('g1').run(`echo ${name} >/sys/bus/virtio/drivers/virtio_net/${verb}`)
      if (verb === 'bind') continue
      assert.match((await routed.weft.waitPort('lan', 'g1', 'down')).reason ?? '', /driver has not started/)
    }
    await configure('g1')
    await reaches('g1', addresses.g2)
    await reaches('g1', wide.g2)
  })

  it('reboot', async () => {
    await guest('g1').reboot()
    await configure('g1')
    await reaches('g1', addresses.g2)
    await tcp(wide.g2, 10)
  })

  it('get more memory while frames flow', async () => {
    const mapped = await guestMaps()
    const pinging = guest('g2').exec(`ping -i 0.1 -c 40 -W 2 ${addresses.g1}`, 60)
    await guest('g1').monitor('object_add memory-backend-memfd,id=more,size=64M,share=on')
    assert.equal((await guest('g1').monitor('device_add pc-dimm,id=dimm,memdev=more')).includes('Error'), false)
    assert.equal(await guestMaps(), mapped + 2, 'one region more for each card')
    assert.match((await pinging).output, /40 packets transmitted, 40 packets received/)
  })

  it('migrate to another QEMU while they download', async () => {
    const { weft } = routed
    await weft.do(`port add lan m1 --kind vhost-user --path ${path('m1')}`)
    await weft.do(`port add wide m1w --kind vhost-user --path ${path('m1w')}`)
    await guest('g1').kill()
    await boot('g1')
    const same = (await sharingArguments(weft, ['lan', 'g1'], ['wide', 'g1w'])).join(' ')
    const args = words(same.replaceAll(path('g1'), path('m1')).replaceAll(path('g1w'), path('m1w')))
    const other = await Guest.boot(routed.lab, { name: 'm1', arguments: args, reboots: true, incoming: true })
    try {
      await guest('g2').run('mkdir -p /www && dd if=/dev/urandom of=/www/file bs=1M count=4 && httpd -h /www')
      const sum = await guest('g2').run('sha256sum </www/file')
      const get = `wget -q -O - http://${wide.g2}/file | sha256sum`
      await guest('g1').run(`(while [ ! -e /tmp/enough ]; do ${get}; done; echo done) >/tmp/sums 2>&1 &`)
      await guest('g1').migrate(other)
      await guest('g1').kill()
      guests.set('g1', other)
      await weft.waitPort('lan', 'm1', 'up')
      await reaches('g1', wide.g2)
      await reaches('g1', addresses.g2) // where a router guards addresses, too
      await other.run('touch /tmp/enough')
      const sums = await until('the last download is done', async () => {
        const lines = (await other.run('cat /tmp/sums')).split('\n').filter(Boolean)
        return lines.at(-1) === 'done' && lines.slice(0, -1)
      })
      assert.ok(sums.length >= 2, `${sums.length} downloads`)
      for (const one of sums) assert.equal(one.trim(), sum.trim())
      const mac = await other.mac('eth1')
      assert.equal((await weft.fdb('wide')).find((entry) => entry.mac === mac)?.port, 'm1w')
    } finally {
      await other.kill()
      await weft.do('port remove lan m1')
      await weft.do('port remove wide m1w')
    }
  })

  it('are killed with QEMU and start again, one without offloads', async () => {
    const { weft } = routed
    await guest('g2').kill()
    for (const name of ['g1', 'g2']) await weft.waitPort('lan', name, 'down')
    await weft.do('port set lan g2 --no-offloads')
    await Promise.all([boot('g1'), boot('g2')])
    assert.deepEqual((await weft.waitPort('lan', 'g2', 'up')).offloads, [])
    await reaches('g1', addresses.g2)
    await reaches('g1', wide.g2)
    await tcp(addresses.g2, 20)
    const { software } = (await routed.port('g2')) as PortState & { software: { segmented: number } }
    assert.ok(software.segmented > 0, 'cut in software for the guest that takes no large frames')
    await tcpWithBox('g2', 10)
  })

  it('leave nothing behind', async () => {
    await until('all is given back', async () => {
      assert.deepEqual(await held(), settled)
      return true
    })
  })

  /** The neighbour: each case ends with the port in error or a counted drop, and the port taken again. */
  async function hostile(): Promise<void> {
    const { weft } = routed
    const dropped = async (reason: string): Promise<number> => (await weft.port('wide', 'peer')).drops[reason] ?? 0
    const cases: [what: string, says: RegExp, act: (peer: FrontEnd, started: Started) => unknown][] = [
      ['an index that jumps', /broke its ring/, (_, { memory, kick }) => available(memory, kick, 0, 5000)],
      ['a head that is none', /broke its ring/, (_, { memory, kick }) => available(memory, kick, 999, 1)],
      ['bytes that are no message', /the peer sent/, (peer) => peer.sendBytes(Buffer.alloc(64, 0x41))],
      [
        'too many descriptors',
        /more than 8/,
        (peer) =>
          peer.sendBytes(
            message(wire.SET_OWNER, Buffer.alloc(0)),
            Array.from({ length: 20 }, () => peer.event()),
          ),
      ],
      [
        'a ring that is nowhere',
        /refused|broke its ring/,
        (peer) =>
          peer.send(wire.SET_VRING_ADDR, addressesPayload(1, 0, { descriptors: 4096n, available: 0n, used: 0n })),
      ],
      [
        'memory that shrinks',
        /took memory away/,
        (_, { memory, kick }) => {
          ftruncateSync(memory, 0)
          native.signalEvent(kick)
        },
      ],
    ]
    for (const [what, says, act] of cases) {
      const { peer, started } = await attach()
      act(peer, started)
      await peer.seeClosed()
      const { reason } = await weft.waitPort('wide', 'peer', 'error')
      assert.match(reason ?? '', says, what)
      peer.close()
    }
    const { peer, started } = await attach()
    const earlier = await dropped('bad-descriptor')
    writeSync(started.memory, descriptorBytes(1n << 60n, 64, 0, 0), 0, 16, 16384) // an address in no region
    available(started.memory, started.kick, 0, 1)
    await until('it is counted', async () => (await dropped('bad-descriptor')) > earlier)
    writeSync(started.memory, descriptorBytes(0x10000000n, 64, 1, 0), 0, 16, 16384) // a chain without end
    available(started.memory, started.kick, 0, 2)
    await until('it is counted', async () => (await dropped('bad-descriptor')) > earlier + 1)
    assert.equal((await weft.port('wide', 'peer')).state, 'up')
    peer.close()
    for (let round = 0; round < 100; round++) {
      const hasty = FrontEnd.connect(path('peer'))
      await hasty.greet()
      await hasty.start()
      hasty.close()
    }
    await weft.waitPort('wide', 'peer', 'down')
  }

  async function attach(): Promise<{ peer: FrontEnd; started: Started }> {
    const peer = FrontEnd.connect(path('peer'))
    await peer.greet()
    const name = join('/dev/shm', `weft-test-${process.pid}`)
    const fd = peer.keep(openSync(name, 'w+'))
    rmSync(name)
    ftruncateSync(fd, MEMORY_BYTES)
    const started = await peer.start({ fd })
    await routed.weft.waitPort('wide', 'peer', 'up')
    return { peer, started }
  }
})

function descriptorBytes(address: bigint, length: number, flags: number, next: number): Buffer {
  const bytes = Buffer.alloc(16)
  bytes.writeBigUInt64LE(address)
  bytes.writeUInt32LE(length, 8)
  bytes.writeUInt16LE(flags, 12)
  bytes.writeUInt16LE(next, 14)
  return bytes
}

/** Writes the available ring of ring 1, all of it this head, and tells. */
function available(memory: number, kick: number, head: number, index: number): void {
  const ring = new Uint16Array(2 + 256).fill(head)
  ring[0] = 0
  ring[1] = index
  writeSync(memory, new Uint8Array(ring.buffer), 0, ring.byteLength, 16384 + 8192)
  native.signalEvent(kick)
}
