/**
 * Frames whose checksum is left to the switch, at places of their sender's choosing. What the checksum makes of them is
 * what the guard judges and what a capture shows: as it leaves, by whatever kind of port.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { Background, needs, until, weftMain } from '../rig/commands.js'
import { arpRequest, broadcast, carries, checksum, concat, ethernet, ipBytes } from '../rig/frames.js'
import { ipv4, macBytes, marked, sourceOf, udp } from '../rig/frames.js'
import { type Host, Wiring } from '../rig/hosts.js'
import { judge } from '../rig/outside-world.js'
import { Probe, type Unfinished } from '../rig/raw.js'
import { StreamPeer } from '../rig/stream-peer.js'

const GATEWAY = '10.98.0.1'
/** Nobody else's, one host's each. */
const OWN = { tap: '10.98.0.66', netdev: '10.98.0.67' }
const put = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >> 8
  bytes[at + 1] = value & 0xff
}
const get = (bytes: Uint8Array, at: number): number => (bytes[at] << 8) | bytes[at + 1]

/** A datagram as its sender leaves it, the pseudo-header's sum in its field, and as it is when finished. */
function datagram(source: string, address: string): { left: Unfinished; finished: Uint8Array } {
  const payload = new Uint8Array(40).fill(7)
  const finished = ethernet(broadcast, source, 0x0800, udp(address, 7, '10.98.0.255', 9, payload))
  const frame = finished.slice()
  put(frame, 40, ~checksum(concat(ipBytes(address), ipBytes('10.98.0.255'), [0, 17, 0, 48])) & 0xffff)
  return { left: { frame, start: 34, offset: 6 }, finished }
}

/** Makes the checksum from `start` on, stored at `offset`, come out as `wanted`: the word at `free` sees to that. */
function steered(given: Uint8Array, start: number, offset: number, wanted: number, free: number): Unfinished {
  const frame = given.slice()
  put(frame, free, 0)
  let missing = checksum(frame.subarray(start)) - wanted
  if (missing < 0) missing += 0xffff
  put(frame, free, missing)
  const finished = frame.slice()
  put(finished, start + offset, checksum(frame.subarray(start)))
  assert.equal(get(finished, start + offset), wanted)
  return { frame, start, offset }
}

/** An ARP answer: `sender` is at `source`. */
const arpAnswer = (source: string, sender: string): Uint8Array => {
  const frame = arpRequest(source, sender, sender)
  frame[21] = 2
  return frame
}

/** A neighbor solicitation that is a router advertisement but for its type. */
function almostAdvertisement(source: string): Uint8Array {
  const addresses = concat([0xfe, 0x80], new Uint8Array(12), [0x56, 0x78], [0xff, 2], new Uint8Array(13), [1])
  const message = concat([135, 0, 0, 0, 64, 0, 7, 8], new Uint8Array(8), [1, 1], macBytes(source))
  const packet = concat([0x60, 0, 0, 0, 0, message.length, 58, 255], addresses, message)
  return concat(ethernet('33:33:00:00:00:01', source, 0x86dd, packet), new Uint8Array(2))
}

/** A DHCP offer, but for the port that it goes to. */
const almostOffer = (source: string, address: string): Uint8Array => {
  const offer = concat([2, 1, 6, 0], new Uint8Array(296))
  return ethernet(broadcast, source, 0x0800, udp(address, 1067, '255.255.255.255', 1068, offer))
}

describe('unfinished checksums', needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'tshark', 'cc'), () => {
  let wiring: Wiring
  let probe: Probe
  let plain: Host
  let veth: Host
  let bad: Host
  let worse: Host
  let peer: StreamPeer

  before(async () => {
    wiring = await Wiring.open('--subnet 10.98.0.0/24')
    probe = await Probe.build(wiring.lab)
    plain = await wiring.tap('plain', { address: '10.98.0.11/24', port: '--no-offloads' })
    veth = await wiring.veth('veth', { address: '10.98.0.12/24' })
    bad = await wiring.tap('bad')
    worse = await wiring.veth('worse')
    const path = join(wiring.lab.folder, 'peer.sock')
    await wiring.add('peer', `--kind qemu --path ${path}`)
    peer = await StreamPeer.connect(path)
    await wiring.weft.waitPort('lan', 'peer', 'up')
  })
  after(async () => {
    peer?.close()
    await wiring?.close()
  })

  /** Sends from a host, then a frame that everybody gets; returns what came to the three other ports until then. */
  async function arrived(from: Host, frames: readonly Unfinished[], end: string): Promise<Uint8Array[][]> {
    const known = peer.received.length
    const hosts = [plain, veth]
    const captures = await Promise.all(hosts.map((host) => host.space.capture(host.device, { only: 'in' })))
    assert.equal((await probe.sendUnfinished(from.space, from.device, frames)).sent, frames.length)
    await probe.send(from.space, from.device, [marked(broadcast, from.mac, end)])
    await peer.see('the last frame', (frame) => carries(frame, end))
    for (const capture of captures) await capture.see('the last frame', (frame) => carries(frame, end))
    const seen = await Promise.all(captures.map((capture) => capture.stop()))
    return [peer.received.slice(known), ...seen].map((all) => all.filter((frame) => sourceOf(frame) === from.mac))
  }

  for (const name of ['tap', 'netdev'] as const) {
    const own = OWN[name]
    const host = (): Host => (name === 'tap' ? bad : worse)
    const port = name === 'tap' ? 'bad' : 'worse'

    it(`${name}: the gateway's address in ARP, a router advertisement, a DHCP answer reach nobody`, async () => {
      const { mac: source } = host()
      const arp = arpAnswer(source, own)
      const frames = [
        steered(arp, 20, 10, get(Uint8Array.from(ipBytes(GATEWAY)), 2), 58), // the sender's address
        steered(almostAdvertisement(source), 34, 20, 0x8600, 78), // the type
        steered(almostOffer(source, own), 36, 0, 68, 50), // the destination port
      ]
      for (const received of await arrived(host(), frames, `end of ${name}`)) {
        const strays = received.filter((frame) => !carries(frame, `end of ${name}`))
        assert.deepEqual(
          strays.map((frame) => Buffer.from(frame).toString('hex')),
          [],
        )
      }
      await wiring.drops(port, 'spoofed-address')
      await wiring.drops(port, 'router-advertisement')
      await wiring.drops(port, 'dhcp-server')
    })

    it(`${name}: what is allowed arrives finished, the same everywhere`, async () => {
      const { mac: source } = host()
      const arp = steered(arpAnswer(source, '10.98.0.1'), 20, 10, get(Uint8Array.from(ipBytes(own)), 2), 58)
      const { left, finished } = datagram(source, own)
      const [qemu, tap, netdev] = await arrived(host(), [arp, left], `all is well at ${name}`)
      for (const received of [qemu, tap, netdev]) assert.deepEqual([...received[0].subarray(28, 32)], ipBytes(own))
      for (const received of [qemu, tap]) assert.deepEqual(received[1], finished)
    })
  }

  it("SCTP's CRC32c is right at every port", async () => {
    const chunk = concat([0x13, 0x89, 0x13, 0x8a, 0, 0, 0, 1, 0, 0, 0, 0, 14, 0, 0, 4])
    const frame = ethernet(broadcast, worse.mac, 0x0800, ipv4(OWN.netdev, '10.98.0.255', 132, chunk))
    const expected = [0x48, 0xef, 0x85, 0x6d] // computed by another program over the 16 bytes above
    for (const received of await arrived(worse, [{ frame, start: 34, offset: 8 }], 'end of SCTP'))
      assert.deepEqual([...received[0].subarray(42, 46)], expected)
  })

  it('a capture shows what leaves', async () => {
    const path = join(wiring.lab.folder, 'sent.pcapng')
    const args = ['capture', 'lan', 'peer', '-w', path, '--count', '3', '--socket', wiring.weft.socket]
    const program = new Background(process.execPath, [weftMain, ...args, 'udp'])
    const { left } = datagram(bad.mac, OWN.tap)
    await until('the capture has its frames', async () => {
      if (program.running) await probe.sendUnfinished(bad.space, bad.device, [left])
      return !program.running
    })
    assert.equal(await judge(path), 3)
  })
})
