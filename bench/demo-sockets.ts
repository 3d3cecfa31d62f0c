/**
 * The demo for a plain user: three programs on `qemu` sockets, two of them in one VLAN.
 *
 *   a (VLAN 10) ---+
 *   b (VLAN 10) ---+--- weft
 *   c (VLAN 20) ---+
 *
 * They send Ethernet frames as QEMU would: a and b exchange them, c sees none. What is left out is said.
 */
import { type Socket, connect as connectSocket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Demo, claim, say, tables } from './demo-report.js'

const NETWORK = 'demo'
const HOSTS = [
  { name: 'a', vlan: 10 },
  { name: 'b', vlan: 10 },
  { name: 'c', vlan: 20 },
] as const
const FRAMES = 50_000

/** A guest as QEMU would be one: frames with a 32-bit length before each. */
class Guest {
  received = 0
  private readonly socket: Socket
  private readonly mac: number[]
  private pending = Buffer.alloc(0)

  constructor(path: string, mac: number[]) {
    this.mac = mac
    this.socket = connectSocket(path)
    this.socket.on('data', (chunk) => {
      this.pending = Buffer.concat([this.pending, chunk])
      for (let at = 0; ; ) {
        const end = this.pending.length - at < 4 ? Infinity : at + 4 + this.pending.readUInt32BE(at)
        if (end > this.pending.length) {
          this.pending = this.pending.subarray(at)
          return
        }
        this.received++
        at = end
      }
    })
  }

  async send(destination: number[], count: number): Promise<void> {
    const frame = Buffer.alloc(4 + 60)
    frame.writeUInt32BE(60)
    Buffer.from([...destination, ...this.mac, 0x88, 0xb5]).copy(frame, 4)
    const batch = Buffer.concat(new Array<Buffer>(Math.min(count, 500)).fill(frame))
    for (let sent = 0; sent < count; sent += batch.length / frame.length)
      if (!this.socket.write(batch)) await new Promise((resolve) => this.socket.once('drain', resolve))
  }

  close(): void {
    this.socket.destroy()
  }
}

export async function showSockets({ weft, folder }: Demo): Promise<void> {
  await weft('network', 'create', NETWORK, '--mode', 'isolated')
  say('three programs on qemu sockets, since making interfaces needs root')
  say('left out: namespaces, tap ports, the router and all it does (run the demo as root to see them)')
  const guests: Guest[] = []
  const macs = HOSTS.map((_, i) => [2, 0, 0, 0, 0, i + 1])
  for (const [i, { name, vlan }] of HOSTS.entries()) {
    const path = `${folder}/${name}.sock`
    await weft('port', 'add', NETWORK, name, '--kind', 'qemu', '--path', path, '--access', String(vlan))
    guests.push(new Guest(path, macs[i] ?? []))
    say(`  ${name}: ${path} in VLAN ${vlan}`)
  }
  const [a, b, c] = guests as [Guest, Guest, Guest]
  const settled = async (guest: Guest, count: number): Promise<void> => {
    for (let i = 0; i < 500 && guest.received < count; i++) await sleep(10)
  }
  say('\nframes')
  await sleep(200)
  await a.send([255, 255, 255, 255, 255, 255], 1)
  await settled(b, 1)
  claim(b.received === 1, 'a broadcast of a reaches b')
  await b.send(macs[0] ?? [], 1)
  await settled(a, 1)
  claim(a.received === 1, 'b answers a')
  const began = Date.now()
  await a.send(macs[1] ?? [], FRAMES)
  await settled(b, FRAMES + 1)
  const seconds = (Date.now() - began) / 1000
  claim(b.received > 1, `${Math.round((b.received - 1) / seconds)} frames of 60 bytes a second from a to b`)
  claim(c.received === 0, 'c saw none of it: VLANs 10 and 20 are apart')
  await tables(weft, NETWORK)
  for (const guest of guests) guest.close()
}
