/**
 * The QEMU stream port against peers that are no QEMU: framing in every cut, peers that do not read, lengths that lie,
 * connections that end and begin again, and those that go on although the process behind them was killed.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { type Background, needs, pause, until } from '../rig/commands.js'
import { arpRequest, broadcast, carries, checksum, concat, destinationOf, echoRequest } from '../rig/frames.js'
import { ethernet, experiment, mac, marked, sourceOf, typeOf } from '../rig/frames.js'
import { type Host, Wiring } from '../rig/hosts.js'
import { Probe } from '../rig/raw.js'
import { StreamPeer, framed } from '../rig/stream-peer.js'

const wants = needs('root', 'tun', 'weft', 'ip', 'cc')
const one = mac(0xc001)
const two = mac(0xc002)

describe('qemu stream port', needs('weft'), () => {
  let wiring: Wiring
  let path: (name: string) => string
  let first: StreamPeer
  let second: StreamPeer

  before(async () => {
    wiring = await Wiring.open()
    path = (name) => join(wiring.lab.folder, `${name}.sock`)
    for (const name of ['g1', 'g2']) await wiring.add(name, `--kind qemu --path ${path(name)}`)
    first = await StreamPeer.connect(path('g1'))
    second = await StreamPeer.connect(path('g2'))
    await wiring.weft.waitPort('lan', 'g1', 'up')
    await wiring.weft.waitPort('lan', 'g2', 'up')
    await first.send(marked(broadcast, one, 'g1 is one'))
    await second.see('the first broadcast', (frame) => carries(frame, 'g1 is one'))
    await second.send(marked(broadcast, two, 'g2 is two'))
    await first.see('the second broadcast', (frame) => carries(frame, 'g2 is two'))
  })
  after(async () => {
    first?.close()
    second?.close()
    await wiring?.close()
  })

  it('takes many frames from one read, all of them and in order', async () => {
    const frames = Array.from({ length: 400 }, (_, n) => marked(two, one, `many ${n}.`))
    await first.send(...frames)
    await second.see('the last of many', (frame) => carries(frame, 'many 399.'))
    const texts = second.received.map((frame) => /many (\d+)\./.exec(Buffer.from(frame).toString('latin1'))?.[1])
    const got = texts.filter((text) => text !== undefined).map(Number)
    assert.deepEqual(
      got,
      Array.from({ length: 400 }, (_, n) => n),
    )
  })

  it('takes a frame byte by byte', async () => {
    await first.sendInPieces(1, marked(two, one, 'in pieces'))
    await second.see('the frame in pieces', (frame) => carries(frame, 'in pieces'))
  })

  it('takes frames cut at every place', async () => {
    for (let size = 2; size < 80; size += 7) {
      await first.sendInPieces(size, marked(two, one, `cut ${size}.`), marked(two, one, `and ${size}.`))
      await second.see('both frames', (frame) => carries(frame, `and ${size}.`))
      assert.ok(second.received.some((frame) => carries(frame, `cut ${size}.`)))
    }
  })

  it('carries a frame as it is: unpadded short ones and the longest of the MTU', async () => {
    const short = ethernet(two, one, experiment, new TextEncoder().encode('short'), false)
    await first.send(short)
    const got = await second.see('the short frame', (frame) => carries(frame, 'short'))
    assert.ok(got.length === short.length || got.length === 60, `${got.length} bytes`)
    const long = ethernet(two, one, experiment, concat(new TextEncoder().encode('long'), new Uint8Array(1496)))
    await first.send(long)
    assert.deepEqual(await second.see('the long frame', (frame) => carries(frame, 'long')), long)
  })

  it('drops runts and over-long frames by name and goes on', async () => {
    await first.send(new Uint8Array(6), new Uint8Array(13), ethernet(two, one, experiment, new Uint8Array(4000)))
    await first.send(marked(two, one, 'after the bad ones'))
    await second.see('a good frame', (frame) => carries(frame, 'after the bad ones'))
    await wiring.drops('g1', 'runt', 2)
    await wiring.drops('g1', 'oversize', 1)
    assert.ok(!first.closed, 'a frame that is merely too long for the MTU is no reason to hang up')
  })

  for (const [what, length] of [
    ['4 GiB', 0xffffffff],
    ['2 GiB', 0x80000000],
    ['1 MiB', 1 << 20],
    ['zero', 0],
  ] as const) {
    it(`survives a length of ${what}: a closed connection or a counted drop, and the next peer is served`, async () => {
      const dropsBefore = JSON.stringify((await wiring.port('g1')).drops)
      await first.sendBytes(framed(new Uint8Array(100), length))
      await until('the bad length has an effect', async () => {
        return first.closed || JSON.stringify((await wiring.port('g1')).drops) !== dropsBefore
      })
      first.close()
      await wiring.weft.waitPort('lan', 'g1', 'down')
      first = await StreamPeer.connect(path('g1'))
      await until('the new connection carries frames', async () => {
        await first.send(marked(two, one, `after ${what}.`))
        return second.received.some((frame) => carries(frame, `after ${what}.`))
      })
    })
  }

  it('forgets half a frame with the connection it came by', async () => {
    const half = framed(marked(two, one, 'never finished'))
    await first.sendBytes(half.subarray(0, half.length - 10))
    await pause(100)
    first.close()
    await wiring.weft.waitPort('lan', 'g1', 'down')
    first = await StreamPeer.connect(path('g1'))
    await until('the new connection carries frames', async () => {
      await first.send(marked(two, one, 'a fresh start'))
      return second.received.some((frame) => carries(frame, 'a fresh start'))
    })
    assert.ok(!second.received.some((frame) => carries(frame, 'never finished')))
  })

  it('shows the port as down while nobody is connected, and counts what nobody takes', async () => {
    first.close()
    const port = await wiring.weft.waitPort('lan', 'g1', 'down')
    assert.ok(port.reason)
    await second.send(marked(broadcast, two, 'is anybody there'))
    first = await StreamPeer.connect(path('g1'))
    await wiring.weft.waitPort('lan', 'g1', 'up')
  })

  it('takes a peer that comes back the moment its old connection has ended', async () => {
    for (let round = 0; round < 10; round++) {
      first.close()
      first = await StreamPeer.connect(path('g1'))
      await until(
        'the new connection carries frames',
        async () => {
          assert.ok(!first.closed, 'the port has hung up on it')
          await first.send(marked(two, one, `back ${round}.`))
          return second.received.some((frame) => carries(frame, `back ${round}.`))
        },
        5,
      )
    }
  })

  it('removes its socket with the port', async () => {
    await wiring.add('g3', `--kind qemu --path ${path('g3')}`)
    await until('the socket is there', () => existsSync(path('g3')))
    await wiring.weft.do('port remove lan g3')
    assert.ok(!existsSync(path('g3')))
  })
})

describe('a peer that stops reading', wants, () => {
  let wiring: Wiring
  let slow: StreamPeer
  let quick: StreamPeer
  before(async () => {
    wiring = await Wiring.open()
  })
  after(async () => {
    slow?.close()
    quick?.close()
    await wiring?.close()
  })

  it('loses its own frames, counted; the others lose none, and it goes on in step when it reads again', async () => {
    const probe = await Probe.build(wiring.lab)
    const a: Host = await wiring.tap('a', { address: '10.85.0.1/24' })
    const b: Host = await wiring.tap('b', { address: '10.85.0.2/24' })
    const path = (name: string): string => join(wiring.lab.folder, `${name}.sock`)
    for (const name of ['slow', 'quick']) await wiring.add(name, `--kind qemu --path ${path(name)}`)
    slow = await StreamPeer.connect(path('slow'))
    quick = await StreamPeer.connect(path('quick'))
    await wiring.weft.waitPort('lan', 'slow', 'up')
    await wiring.weft.waitPort('lan', 'quick', 'up')
    await a.reaches(b)
    slow.stopReading()
    const filler = '#'.repeat(1400)
    for (let round = 0; round < 80; round++) {
      const frames = Array.from({ length: 40 }, (_, n) =>
        marked(broadcast, a.mac, `round ${round} frame ${n}. ${filler}`),
      )
      await probe.send(a.space, a.device, frames)
      await quick.see('the round', (frame) => carries(frame, `round ${round} frame 39.`))
    }
    await wiring.drops('slow', 'queue-full', 1)
    const numbered = quick.received.filter((frame) => carries(frame, 'round '))
    assert.equal(numbered.length, 3200, 'the peer that reads has every frame')
    assert.equal((await wiring.port('quick')).drops['queue-full'] ?? 0, 0)
    assert.equal(await a.space.ping(b.ip), 3)
    slow.resumeReading()
    await until('the slow peer gets a new frame, whole', async () => {
      await quick.send(marked(broadcast, mac(0xd001), 'are you back?'))
      return slow.received.some((frame) => carries(frame, 'are you back?'))
    })
    const broken = slow.received.filter((frame) => ![0x0800, 0x0806, experiment].includes(typeOf(frame)))
    assert.equal(broken.length, 0, 'the framing is intact where frames were dropped')
  })
})

describe('a guest made by hand', wants, () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('is answered by a host of the network: ARP, then echo', async () => {
    const a = await wiring.tap('a', { address: '10.92.0.1/24' })
    const path = join(wiring.lab.folder, 'hand.sock')
    await wiring.add('hand', `--kind qemu --path ${path}`)
    const guest = await StreamPeer.connect(path)
    await wiring.weft.waitPort('lan', 'hand', 'up')
    await guest.send(arpRequest(one, '10.92.0.9', a.ip))
    const reply = await guest.see('an ARP reply', (frame) => typeOf(frame) === 0x0806 && frame[21] === 2)
    assert.deepEqual([destinationOf(reply), sourceOf(reply)], [one, a.mac])
    await guest.send(ethernet(a.mac, one, 0x0800, echoRequest('10.92.0.9', a.ip, 77, 1)))
    const isEcho = (frame: Uint8Array): boolean => typeOf(frame) === 0x0800 && frame[23] === 1 && frame[34] === 0
    const echo = await guest.see('an echo reply', isEcho)
    assert.equal(checksum(echo.subarray(34, 34 + 40)), 0, 'its ICMP checksum is right')
    guest.close()
  })
})

describe('connections that end and begin again', needs('weft'), () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('a peer connects again after the daemon was killed and started', async () => {
    const paths = ['g1', 'g2'].map((name) => join(wiring.lab.folder, `${name}.sock`)) as [string, string]
    await wiring.add('g1', `--kind qemu --path ${paths[0]}`)
    await wiring.add('g2', `--kind qemu --path ${paths[1]}`)
    for (let round = 0; round < 3; round++) {
      const peers = await Promise.all(paths.map((path) => StreamPeer.connect(path)))
      const [first, second] = peers as [StreamPeer, StreamPeer]
      await until('frames pass', async () => {
        await first.send(marked(broadcast, one, `round ${round}.`))
        return second.received.some((frame) => carries(frame, `round ${round}.`))
      })
      await wiring.weft.kill()
      await first.seeClosed()
      await second.seeClosed()
      await wiring.weft.start()
    }
  })

  it('a port that connects does so again when the peer comes back', async () => {
    const path = join(wiring.lab.folder, 'server.sock')
    const server = join(wiring.lab.folder, 'g4.sock')
    await wiring.add('g3', `--kind qemu --path ${path} --client`)
    await wiring.add('g4', `--kind qemu --path ${server}`)
    const other = await StreamPeer.connect(server)
    for (let round = 0; round < 2; round++) {
      const peer = await StreamPeer.listen(path)
      await until('frames pass', async () => {
        await peer.send(marked(broadcast, one, `call ${round}.`))
        return other.received.some((frame) => carries(frame, `call ${round}.`))
      })
      peer.close()
      await until('the port is down', async () => (await wiring.port('g3')).state !== 'up')
    }
    other.close()
  })
})

describe('streams whose shard is killed', needs('weft'), () => {
  let wiring: Wiring
  before(async () => {
    wiring = await Wiring.open()
  })
  after(() => wiring?.close())

  it('go on within a frame, on the same connections, every frame whole, few lost', async (context) => {
    const kills = 4
    const paths = ['g1', 'g2'].map((name) => join(wiring.lab.folder, `${name}.sock`)) as [string, string]
    for (const [n, path] of paths.entries()) await wiring.add(`g${n + 1}`, `--kind qemu --path ${path}`)
    const first = await StreamPeer.connect(paths[0])
    const second = await StreamPeer.connect(paths[1])
    await wiring.weft.waitPort('lan', 'g2', 'up')
    await second.send(marked(broadcast, two, 'g2 is two'))
    await first.see('the first broadcast', (frame) => carries(frame, 'g2 is two'))
    const filler = '#'.repeat(1200)
    let sent = 0
    const flood = { isOver: false }
    const run = async (): Promise<void> => {
      while (!flood.isOver) {
        const frames = Array.from({ length: 50 }, () => marked(two, one, `no ${sent++}. ${filler}`))
        await first.sendBytes(concat(...frames.map((frame) => framed(frame))))
        await pause(1)
      }
    }
    const flooding = run()
    for (let n = 0; n < kills; n++) {
      await pause(300)
      await wiring.weft.killShard()
      const seen = `no ${sent}.`
      await second.see('frames after the kill', (frame) => carries(frame, seen))
    }
    flood.isOver = true
    await flooding
    await second.see('the last frame', (frame) => carries(frame, `no ${sent - 1}.`))
    const numbers: number[] = []
    for (const frame of second.received) {
      assert.equal(typeOf(frame), experiment)
      const text = Buffer.from(frame.subarray(14)).toString('latin1')
      const match = /^no (\d+)\. (#+)/.exec(text)
      if (match) numbers.push(Number(match[1]))
      if (match) assert.equal(match[2]?.length, filler.length)
    }
    for (let n = 1; n < numbers.length; n++) assert.ok(numbers[n] > numbers[n - 1], 'in order, none twice')
    const drops = (await wiring.port('g1')).drops
    const refused = (await wiring.port('g2')).transmit.dropped // by a full queue
    const lost = sent - numbers.length - refused
    context.diagnostic(`${lost} of ${sent} lost in work, ${drops['shard-ended'] ?? 0} counted; ${refused} refused`)
    assert.ok(lost <= kills * 256, `${lost} of ${sent} are lost, ${JSON.stringify(drops)}`)
    await wiring.weft.killShard()
    assert.deepEqual((await wiring.port('g1')).drops, drops, 'one that is idle has nothing to lose')
    assert.ok(!first.closed && !second.closed, 'nobody was hung up on')
    for (const name of ['g1', 'g2']) assert.equal((await wiring.port(name)).state, 'up')
    first.close()
    second.close()
  })
})

describe('qemu stream port on loopback TCP', needs('root', 'tun', 'weft', 'ip', 'socat'), () => {
  let wiring: Wiring
  let relay: Background | null = null
  before(async () => {
    wiring = await Wiring.open()
  })
  after(async () => {
    await relay?.stop('SIGKILL')
    await wiring?.close()
  })

  it('carries frames', async () => {
    await wiring.add('g1', '--kind qemu --path 127.0.0.1:4711')
    await wiring.add('g2', `--kind qemu --path ${join(wiring.lab.folder, 'g2.sock')}`)
    const bridge = join(wiring.lab.folder, 'relay.sock')
    relay = wiring.switchSpace().spawn('socat', [`UNIX-LISTEN:${bridge}`, 'TCP:127.0.0.1:4711'])
    const first = await StreamPeer.connect(bridge)
    const second = await StreamPeer.connect(join(wiring.lab.folder, 'g2.sock'))
    await until('frames pass', async () => {
      await first.send(marked(broadcast, one, 'by TCP'))
      return second.received.some((frame) => carries(frame, 'by TCP'))
    })
    first.close()
    second.close()
  })
})
