/**
 * `weft capture`: pcapng to a file and to standard output, with and without filter, read back by tshark.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { tshark } from '../rig/capture.js'
import { Background, attempt, needs, until, weftMain } from '../rig/commands.js'
import { broadcast, ethernet, mac, marked, tagged, udp } from '../rig/frames.js'
import { type Host, Wiring, tcp } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

describe('weft capture', needs('root', 'tun', 'weft', 'ip', 'iperf3', 'tshark', 'cc'), () => {
  let wiring: Wiring
  let probe: Probe
  let a: Host
  let b: Host
  let serial = 0

  before(async () => {
    wiring = await Wiring.open()
    probe = await Probe.build(wiring.lab)
    a = await wiring.tap('a', { address: '10.90.0.1/24' })
    b = await wiring.tap('b', { address: '10.90.0.2/24' })
    await wiring.tap('t1', { port: '--trunk 10,20' })
    await wiring.tap('t2', { port: '--trunk 10,20' })
    await a.reaches(b)
  })
  after(() => wiring?.close())

  /** Captures while `work` repeats until `count` frames are there; returns the file. */
  async function captured(words: string, count: number, work: () => Promise<unknown>, filter = ''): Promise<string> {
    serial++
    const path = join(wiring.lab.folder, `capture-${serial}.pcapng`)
    const args = ['capture', 'lan', ...words.split(' ').filter(Boolean), '-w', path, '--count', `${count}`]
    const socket = ['--socket', wiring.weft.socket]
    const program = new Background(process.execPath, [
      weftMain,
      ...args,
      ...socket,
      ...filter.split(' ').filter(Boolean),
    ])
    await until(
      'the capture has its frames',
      async () => {
        if (program.running) await work()
        return !program.running
      },
      30,
    )
    assert.equal(await program.exited, 0, program.stderr)
    return path
  }

  const ping = (): Promise<number> => a.space.ping(b.ip, { count: 1, waitSeconds: 1 })

  it('writes a file that tshark reads, with as many frames as asked for', async () => {
    const path = await captured('', 6, ping)
    const rows = await tshark(path, ['frame.number', 'frame.time_epoch', 'eth.src'])
    assert.equal(rows.length, 6)
    const now = Date.now() / 1000
    for (const row of rows) assert.ok(Math.abs(Number(row[1]) - now) < 120, `the time ${row[1]}`)
  })

  it('captures one port alone', async () => {
    const path = await captured('a', 4, async () => {
      await ping()
      const host = wiring.hosts[3]
      await probe.send(host.space, host.device, [tagged(marked(broadcast, mac(0xe003), 'elsewhere'), 20)])
    })
    const rows = await tshark(path, ['eth.src', 'eth.dst'])
    for (const row of rows) assert.ok(row.includes(a.mac), `a frame that is not of port a: ${row}`)
  })

  it('keeps only what the filter says: host, protocol, port', async () => {
    const mixed = async (): Promise<void> => {
      await ping()
      const packet = (port: number): Uint8Array => udp('10.90.0.1', 1000, '10.90.0.2', port, new Uint8Array(20))
      await probe.send(
        a.space,
        a.device,
        [7001, 7002].map((port) => ethernet(b.mac, a.mac, 0x0800, packet(port))),
      )
      await probe.send(b.space, b.device, [marked(broadcast, b.mac, 'neither')])
    }
    for (const [filter, check] of [
      ['icmp', 'icmp'],
      ['udp', 'udp'],
      ['port 7001', 'udp.port == 7001'],
      ['host 10.90.0.2', 'ip.addr == 10.90.0.2 or arp'],
    ] as const) {
      const path = await captured('', 4, mixed, filter)
      const all = await tshark(path, ['frame.number'])
      const matching = await tshark(path, ['frame.number'], check)
      assert.equal(all.length, 4, filter)
      assert.deepEqual(matching, all, filter)
    }
  })

  it('shows VLAN tags, and filters by them', async () => {
    const host = wiring.hosts[2]
    const frames = [10, 20].map((vid) => tagged(marked(broadcast, mac(0xe001), `vid ${vid}`), vid))
    const path = await captured('', 2, () => probe.send(host.space, host.device, frames), 'vlan 20')
    assert.deepEqual(await tshark(path, ['vlan.id']), [['20'], ['20']])
  })

  it('writes to standard output for a reader of a pipe', async () => {
    const path = join(wiring.lab.folder, 'pipe.pcapng')
    const script = 'exec "$0" "$1" capture lan -w - --count 4 --socket "$2" >"$3"'
    const args = ['-c', script, process.execPath, weftMain, wiring.weft.socket, path]
    let done = false
    const program = attempt('sh', args).finally(() => {
      done = true
    })
    await until('the capture ends', async () => {
      await ping()
      return done
    })
    const result = await program
    assert.equal(result.status, 0, result.stderr)
    assert.equal(readFileSync(path).readUInt32BE(0), 0x0a0d0d0a)
    assert.equal((await tshark(path, ['frame.number'])).length, 4)
  })

  it('a capture of heavy traffic disturbs nothing and ends on a signal with a whole file', async () => {
    const path = join(wiring.lab.folder, 'heavy.pcapng')
    const program = new Background(process.execPath, [
      weftMain,
      'capture',
      'lan',
      '-w',
      path,
      '--socket',
      wiring.weft.socket,
    ])
    await until('the capture has begun', () => existsSync(path))
    await tcp(a, b, { megabytes: 50 })
    await program.stop('SIGINT')
    assert.ok((await tshark(path, ['frame.number'], 'tcp')).length > 0)
    await wiring.weft.do('status')
  })
})
