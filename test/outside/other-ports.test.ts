/**
 * What the other files leave out: capture files as ports, a bridge network on an interface, TAPs with an owner, several
 * queues or a namespace told by process id, and frames that one port kind hands to another.
 */
import assert from 'node:assert/strict'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { tshark } from '../rig/capture.js'
import { needs, run, until } from '../rig/commands.js'
import { broadcast, carries, concat, mac, marked } from '../rig/frames.js'
import { Host, Wiring, tcp } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'iperf3', 'tcpdump', 'tshark', 'cc')

/** A classic little-endian pcap file of these frames. */
function pcap(frames: readonly Uint8Array[]): Uint8Array {
  const head = new DataView(new ArrayBuffer(24))
  const words = [0xa1b2c3d4, 0x00040002, 0, 0, 65535, 1]
  for (const [index, word] of words.entries()) head.setUint32(index * 4, word, true)
  const records = frames.map((frame, index) => {
    const record = new DataView(new ArrayBuffer(16))
    record.setUint32(0, 1_700_000_000 + index, true)
    record.setUint32(8, frame.length, true)
    record.setUint32(12, frame.length, true)
    return concat(new Uint8Array(record.buffer), frame)
  })
  return concat(new Uint8Array(head.buffer), ...records)
}

describe('pcap ports', wants, () => {
  let wiring: Wiring
  let folder: string
  beforeEach(async () => {
    wiring = await Wiring.open()
    folder = join(wiring.lab.folder, 'files')
    mkdirSync(folder)
    chmodSync(wiring.lab.folder, 0o755)
    chmodSync(folder, 0o777)
  })
  afterEach(() => wiring?.close())

  it('one that reads plays its frames into the network, once', async () => {
    const path = join(folder, 'in.pcap')
    writeFileSync(path, pcap(Array.from({ length: 50 }, (_, n) => marked(broadcast, mac(1), `played ${n}.`))))
    const a = await wiring.tap('a')
    const capture = await a.space.capture(a.device, { only: 'in' })
    await wiring.add('file', `--kind pcap --read ${path}`)
    await capture.see('the last frame of the file', (frame) => carries(frame, 'played 49.'))
    const played = (await capture.stop()).filter((frame) => carries(frame, 'played '))
    assert.equal(played.length, 50)
    await wiring.learns(mac(1), 'file')
  })

  it('one that writes keeps what a port there would get', async () => {
    const path = join(folder, 'out.pcapng')
    const probe = await Probe.build(wiring.lab)
    const [a, b] = [await wiring.tap('a'), await wiring.tap('b')]
    await wiring.add('file', `--kind pcap --write ${path}`)
    await probe.send(b.space, b.device, [marked(broadcast, b.mac, 'b is here')])
    await wiring.learns(b.mac, 'b')
    await probe.send(a.space, a.device, [marked(b.mac, a.mac, 'to b'), marked(broadcast, a.mac, 'to all')])
    await until('the frames are written', async () => (await wiring.port('file')).transmit.packets >= 2)
    await wiring.weft.do('port remove lan file')
    const rows = await tshark(path, ['eth.src', 'eth.dst'])
    assert.deepEqual(
      rows,
      [b.mac, a.mac].map((source) => [source, broadcast]),
    )
  })

  it('what --write names is spared if it is no capture of our own', async () => {
    const precious = join(folder, 'precious')
    const foreign = join(folder, 'foreign.pcapng')
    const link = join(folder, 'link.pcapng')
    writeFileSync(precious, 'precious')
    writeFileSync(foreign, Buffer.from([0x0a, 0x0d, 0x0d, 0x0a, 1, 2, 3, 4]))
    chownSync(foreign, 65534, 65534)
    symlinkSync(join(folder, 'led-to'), link)
    for (const [name, path] of Object.entries({ precious, foreign, link })) {
      const result = await wiring.weft.cli(['port', 'add', 'lan', name, '--kind', 'pcap', '--write', path])
      if (result.status === 0) {
        assert.ok((await wiring.weft.waitPort('lan', name, 'error')).reason?.includes(path))
      } else assert.ok(result.stderr.includes(path), result.stderr)
    }
    assert.equal(readFileSync(precious, 'utf8'), 'precious')
    assert.equal(readFileSync(foreign).length, 8)
    assert.equal(existsSync(join(folder, 'led-to')), false)
    const own = join(folder, 'own.pcapng')
    for (const name of ['first', 'again']) {
      await wiring.add(name, `--kind pcap --write ${own}`)
      await wiring.weft.do(['port', 'remove', 'lan', name])
    }
  })

  it('a file that is no capture, or half of one, does no harm and is named', async () => {
    const path = join(folder, 'junk.pcap')
    writeFileSync(path, 'this is not a capture file, whatever its name says')
    const result = await wiring.weft.cli(['port', 'add', 'lan', 'junk', '--kind', 'pcap', '--read', path])
    if (result.status === 0)
      assert.match((await wiring.weft.waitPort('lan', 'junk', 'error')).reason ?? '', /junk\.pcap/)
    else assert.match(result.stderr, /junk\.pcap/)
    const cut = join(folder, 'cut.pcap')
    const whole = pcap([marked(broadcast, mac(2), 'whole'), marked(broadcast, mac(2), 'cut off')])
    writeFileSync(cut, whole.subarray(0, whole.length - 5))
    await wiring.weft.cli(['port', 'add', 'lan', 'cut', '--kind', 'pcap', '--read', cut])
    await wiring.weft.do('status')
  })
})

describe('a bridge network', wants, () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('puts hosts on the wire of its uplink', async () => {
    const outside = await wiring.lab.namespace('out')
    await wiring.lab.veth(outside, 'eth0', wiring.switchSpace(), 'up0')
    await wiring.weft.do('network create wire --mode bridge --uplink netdev:up0')
    const bridge = new Wiring(wiring.lab, wiring.weft, 'wire')
    const host = await bridge.tap('host', { address: '10.93.0.1/24' })
    const server = new Host('server', outside, 'eth0', null, { address: '10.93.0.2/24' })
    await server.configure()
    await host.reaches(server)
    await tcp(host, server, { megabytes: 20 })
    await tcp(server, host, { megabytes: 20 })
    const network = await wiring.weft.json<{ mode: string; uplink: string }>('network show wire')
    assert.deepEqual([network.mode, network.uplink], ['bridge', 'netdev:up0'])
    await wiring.weft.do('network stop wire')
    assert.equal((await wiring.switchSpace().link('up0'))?.promiscuity, 0)
  })
})

describe('TAP options', wants, () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('an owner is set on the device', async () => {
    await wiring.add('owned', '--kind tap --dev owned0 --owner nobody')
    const text = await run('ip', ['-n', wiring.switchSpace().name, '-details', 'link', 'show', 'dev', 'owned0'])
    assert.match(text, /user (nobody|65534)/)
  })

  it('a namespace can be told by the id of a process in it', async () => {
    const space = await wiring.lab.namespace('pid')
    const sleeper = space.spawn('sleep', ['600'])
    await until('the process is in its namespace', async () => {
      return (await run('ip', ['netns', 'pids', space.name])).includes(`${sleeper.pid}`)
    })
    await wiring.add('moved', `--kind tap --dev moved0 --netns ${sleeper.pid}`)
    assert.notEqual(await space.link('moved0'), null)
    assert.equal(await wiring.switchSpace().link('moved0'), null)
    await wiring.weft.do('port remove lan moved')
    assert.equal(await space.link('moved0'), null)
    await sleeper.stop('SIGKILL')
  })

  it('several queues carry TCP as one does', async () => {
    const a = await wiring.tap('many', { address: '10.94.0.1/24', port: '--queues 2' })
    const b = await wiring.tap('single', { address: '10.94.0.2/24' })
    await a.reaches(b)
    await tcp(a, b, { megabytes: 20, parallel: 4 })
    await tcp(b, a, { megabytes: 20, parallel: 4 })
  })

  it("a host's TAP that is taken down and up again goes on", async () => {
    const a = await wiring.tap('a', { address: '10.94.1.1/24' })
    const b = await wiring.tap('b', { address: '10.94.1.2/24' })
    await a.reaches(b)
    await b.space.ip(`link set ${b.device} down`)
    assert.equal(await a.answers(b), 0)
    await b.configure()
    await a.reaches(b)
  })

  it('a TAP deleted under the daemon breaks its own port only, which is made again', async () => {
    const a = await wiring.tap('c', { address: '10.94.2.1/24' })
    const b = await wiring.tap('d', { address: '10.94.2.2/24' })
    const doomed = await wiring.tap('doomed', { address: '10.94.2.3/24' })
    await a.reaches(doomed)
    await doomed.space.ip(`link delete ${doomed.device}`)
    await a.reaches(b)
    await until('the TAP is back', () => doomed.space.link(doomed.device), 60)
    await doomed.configure()
    await doomed.reaches(a, 60) // in this direction: its address may be new, and a remembers the old one for long
  })
})
