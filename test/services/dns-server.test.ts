/**
 * The server object as others see it: RFC 8906's list of what a server must answer, messages made to hurt, DNS over TCP
 * in pieces, and dig (where it is installed) as a client that nobody here wrote.
 */
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { parsePrefix } from '../../src/services/address.js'
import { DnsForwarder } from '../../src/services/dns-forwarder.js'
import { DnsServer } from '../../src/services/dns-server.js'
import { type ByteStream, DnsFrames, framed, serveStream } from '../../src/services/dns-stream.js'
import { Upstream } from '../../src/services/dns-upstream.js'
import { DnsZone, NO_ZONE } from '../../src/services/dns-zone.js'
import { a, answer, fakeUpstream, portOf, query, random, read } from './dns-messages.js'

const CLIENT = { port: 'vm1', ip: Uint8Array.of(10, 0, 0, 5), isTcp: false }

function makeServer(): DnsServer {
  const zone = new DnsZone({
    ...NO_ZONE,
    domain: 'lan',
    gateway: [[0x0a000001]],
    subnets: [parsePrefix('10.0.0.0/24')!],
    aliases: [{ name: 'www', target: 'vm1' }],
    texts: [{ name: 'long', text: Array.from({ length: 8 }, (_, i) => `${i}`.repeat(255)) }],
  })
  zone.setHost('vm1', [[0x0a000005], [0x20010db8, 0, 0, 5]])
  return new DnsServer(zone, new DnsForwarder())
}

function askOf(server: DnsServer): (message: Uint8Array, isTcp?: boolean) => Uint8Array | null {
  return (message, isTcp = false) => {
    let got: Uint8Array | null = null
    server.handle(message, { ...CLIENT, isTcp }, (response) => (got = response))
    return got
  }
}

test('RFC 8906: every kind of query gets its answer', () => {
  const ask = askOf(makeServer())
  const seen = (message: Uint8Array) => read(ask(message)!)
  const AA = 0x8480
  assert.equal(seen(query('lan', 'SOA', { flags: 0 })).flags, AA)
  const unknown = seen(query('lan', 1000, { flags: 0 }))
  assert.deepEqual([unknown.rcode, unknown.flags], [0, AA])
  for (const flags of [0x0400, 0x0040, 0x0020, 0x0010, 0x0100, 0x0080, 0x0200]) {
    const got = seen(query('lan', 'SOA', { flags }))
    assert.deepEqual([got.flags, got.answers.length], [AA | (flags & 0x0110), 1], `flags ${flags.toString(16)}`)
  }
  for (const opcode of [1, 2, 4, 5, 6, 15]) {
    const got = seen(query('lan', 'SOA', { flags: opcode << 11 }))
    assert.deepEqual([got.rcode, (got.flags >> 11) & 15, got.counts], [4, opcode, [0, 0, 0, 0]], `opcode ${opcode}`)
  }
  const edns = seen(query('lan', 'SOA', { edns: 4096, flags: 0 }))
  assert.deepEqual([edns.hasOpt, edns.rcode, edns.answers.length], [true, 0, 1])
  const future = ask(query('lan', 'SOA', { edns: 4096, version: 100 }))!
  assert.deepEqual([read(future).rcode, read(future).counts[1]], [0, 0])
  assert.deepEqual(Array.from(future.slice(-6, -4)), [1, 0], 'BADVERS, version 0')
  const withOption = Uint8Array.from([...query('lan', 'SOA', { edns: 4096 }), 0, 100, 0, 2, 1, 2])
  withOption[withOption.length - 7] = 6
  const option = ask(withOption)!
  assert.deepEqual([read(option).rcode, read(option).answers.length], [0, 1])
  assert.equal(option[option.length - 1], 0, 'not echoed')
  const dnssec = ask(query('lan', 'SOA', { edns: 4096, dnssec: true }))!
  assert.equal(dnssec[dnssec.length - 4], 0x80, 'DO is repeated')
  assert.equal(seen(query('lan', 'SOA', { qclass: 3 })).rcode, 5)
  assert.equal(seen(query('lan', 252)).rcode, 5)
  assert.equal(seen(query('lan', 251)).rcode, 5)
  assert.equal(seen(query('elsewhere.example', 'ANY')).answers.length, 1)
})

test('what is not answered, and what is as far as it can be read', () => {
  const server = makeServer()
  const ask = askOf(server)
  assert.equal(ask(new Uint8Array(0)), null)
  assert.equal(ask(new Uint8Array(11)), null)
  assert.equal(ask(query('lan', 'A', { flags: 0x8000 })), null)
  const header = Uint8Array.of(9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
  assert.deepEqual([...ask(header)!], [9, 9, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0])
  assert.equal(server.ignored, 3)
})

test('too long for a datagram: the question with TC, over TCP all of it', () => {
  const server = makeServer()
  const ask = askOf(server)
  for (const edns of [null, 512, 1232, 4096]) {
    const got = read(ask(query('long.lan', 'TXT', { edns }))!)
    assert.deepEqual([got.flags & 0x0200, got.counts[1], got.hasOpt], [0x0200, 0, edns !== null])
  }
  assert.equal(read(ask(query('long.lan', 'TXT'), true)!).answers.length, 1)
  let small: Uint8Array | null = null
  server.handle(query('vm1', 'A', { edns: 4096 }), { ...CLIENT, maxUdpBytes: 40 }, (message) => (small = message))
  assert.equal(read(small!).flags & 0x0200, 0x0200)
})

test('mutated queries: at most one answer each, sound, never longer than may be', () => {
  const next = random(11)
  const server = makeServer()
  const seeds = [
    query('vm1.lan', 'A', { edns: 1232 }),
    query('www.lan', 'A'),
    query('5.0.0.10.in-addr.arpa', 'PTR', { edns: 4096, dnssec: true }),
    query('long.lan', 'TXT'),
    query('a.b.c.elsewhere.example', 'ANY', { edns: 600 }),
  ]
  let answered = 0
  for (let i = 0; i < 40_000; i++) {
    let message = seeds[next(seeds.length)].slice()
    for (let n = next(4); n > 0; n--) message[next(message.length)] = next(256)
    if (next(5) === 0) message = message.slice(0, next(message.length + 1))
    let count = 0
    server.handle(message, CLIENT, (response) => {
      count++
      assert.ok(response.length <= 1232)
      const got = read(response)
      assert.equal(got.id, (message[0] << 8) | message[1])
      assert.ok((got.flags & 0x8000) !== 0)
    })
    assert.ok(count <= 1)
    answered += count
  }
  assert.ok(answered > 20_000)
  assert.equal(server.forwarder.outstanding, 0)
})

test('frames of DNS over TCP: in pieces of any size, several in one', () => {
  const next = random(2)
  const messages = Array.from({ length: 50 }, (_, i) =>
    Uint8Array.from({ length: i === 7 ? 65535 : i * 13 }, () => next(256)),
  )
  const bytes = Uint8Array.from(messages.flatMap((message) => [...framed(message)]))
  for (const most of [1, 3, 700, bytes.length]) {
    const got: Uint8Array[] = []
    const frames = new DnsFrames((message) => got.push(message))
    for (let at = 0; at < bytes.length; ) {
      const size = 1 + next(most)
      frames.push(bytes.subarray(at, at + size))
      at += size
    }
    assert.deepEqual(got, messages)
  }
})

class FakeStream implements ByteStream {
  onData: (bytes: Uint8Array) => void = () => {}
  onEnd: () => void = () => {}
  onClose: () => void = () => {}
  written: Uint8Array[] = []
  ends = 0
  write(bytes: Uint8Array): void {
    this.written.push(bytes)
  }
  end(): void {
    this.ends++
  }
}

test('a connection gets its answers in any order, a hundred of them, and ends when they are given', () => {
  const stream = new FakeStream()
  const waiting: (() => void)[] = []
  serveStream(stream, (message, respond) => waiting.push(() => respond(message)))
  stream.onData(Uint8Array.of(0, 1, 7, 0, 1))
  stream.onData(Uint8Array.of(8, 0, 1, 9))
  for (const respond of waiting.reverse()) respond()
  assert.deepEqual(
    stream.written.map((bytes) => bytes[2]),
    [9, 8, 7],
  )
  stream.onData(Uint8Array.of(0, 1, 1))
  stream.onEnd()
  assert.equal(stream.ends, 0, 'an answer is still to come')
  waiting[3]()
  waiting[3]()
  assert.deepEqual([stream.written.length, stream.ends], [4, 1])

  const greedy = new FakeStream()
  serveStream(greedy, (message, respond) => respond(message))
  for (let i = 0; i < 150; i++) greedy.onData(Uint8Array.of(0, 1, 1))
  assert.deepEqual([greedy.written.length, greedy.ends], [100, 1])

  const gone = new FakeStream()
  const late: (() => void)[] = []
  serveStream(gone, (message, respond) => late.push(() => respond(message)))
  gone.onData(Uint8Array.of(0, 1, 1))
  gone.onClose()
  late[0]()
  assert.deepEqual([gone.written.length, gone.ends], [0, 0])
})

function hasDig(): boolean {
  try {
    execFileSync('dig', ['-v'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

const skip = hasDig() ? false : 'dig is not installed'

test('dig: RFC 8906 section 8, local and forwarded names, UDP and TCP', { skip }, async () => {
  const big = Array.from({ length: 90 }, (_, i) => i)
  const upstream = await fakeUpstream((asked, isTcp) => {
    const { name } = read(asked)
    if (!name.toLowerCase().startsWith('big')) return [answer(asked, { answers: [a(name, '192.0.2.1')] })]
    if (!isTcp) return [answer(asked, { flags: 0x0200 })]
    return [answer(asked, { answers: big.map((i) => a(name, `192.0.2.${i}`)) })]
  })
  const server = makeServer()
  server.forwarder.setUpstreams([new Upstream('127.0.0.1', upstream.port)])
  const udp = createSocket('udp4')
  udp.on('message', (bytes, from) => {
    server.handle(bytes, CLIENT, (message) => udp.send(message, from.port, from.address))
  })
  await new Promise<void>((resolve) => udp.bind(0, '127.0.0.1', resolve))
  const { port } = udp.address()
  const tcp = createServer((socket) => {
    const stream = new FakeStream()
    stream.write = (bytes) => socket.write(bytes)
    stream.end = () => socket.end()
    socket.on('data', (bytes) => stream.onData(bytes))
    socket.on('end', () => stream.onEnd())
    socket.on('close', () => stream.onClose())
    socket.on('error', () => socket.destroy())
    serveStream(stream, (message, respond) => server.handle(message, { ...CLIENT, isTcp: true }, respond))
  })
  await new Promise<void>((resolve) => tcp.listen(port, '127.0.0.1', resolve))
  assert.equal(portOf(tcp.address()), port)
  const dig = (line: string): Promise<string> =>
    new Promise((resolve) => {
      const words = ['@127.0.0.1', '-p', String(port), '+tries=1', '+time=3', ...line.split(' ')]
      execFile('dig', words, (_, out) => resolve(out))
    })
  const expected: [line: string, ...patterns: RegExp[]][] = [
    ['+short vm1.lan A', /^10\.0\.0\.5\n$/],
    ['+short www.lan AAAA', /vm1\.lan\.\n2001:db8::5/],
    ['+short -x 10.0.0.5', /^vm1\.lan\.\n$/],
    ['+short WWW.Example.org A', /^192\.0\.2\.1\n$/],
    ['+short +tcp vm1 A', /^10\.0\.0\.5\n$/],
    ['+short big.example A', /192\.0\.2\.89/],
    ['+short +tcp +keepopen big.example A', /192\.0\.2\.89/],
    ['nope.lan A', /status: NXDOMAIN/, /lan\.\s+5\s+IN\s+SOA\s+gateway\.lan\. hostmaster\.lan\./, /flags: qr aa rd/],
    // RFC 8906 section 8.1 and 8.2
    ['+noedns +noad +norec soa lan', /status: NOERROR/, /flags: qr aa/, /ANSWER: 1/],
    ['+noedns +noad +norec type1000 lan', /status: NOERROR/, /ANSWER: 0/],
    ['+noedns +noad +norec +cd soa lan', /status: NOERROR/, /flags: qr aa .*cd/],
    ['+noedns +noad +norec +ad soa lan', /status: NOERROR/],
    ['+noedns +noad +norec +zflag soa lan', /status: NOERROR/, /^((?!MBZ).)*$/s],
    ['+noedns +noad +norec +tcp soa lan', /status: NOERROR/, /flags: qr aa/],
    ['+noedns +noad +opcode=15 +norec +header-only lan', /status: NOTIMP/, /opcode: RESERVED15/],
    ['+nocookie +edns=0 +noad +norec soa lan', /status: NOERROR/, /EDNS: version: 0/],
    ['+nocookie +edns=100 +noednsneg +noad +norec soa lan', /status: BADVERS/, /EDNS: version: 0/, /ANSWER: 0/],
    ['+nocookie +edns=0 +noad +norec +ednsopt=100 soa lan', /status: NOERROR/, /^((?!OPT=100).)*$/s],
    ['+nocookie +edns=0 +noad +norec +ednsflags=0x0040 soa lan', /status: NOERROR/, /^((?!MBZ).)*$/s],
    ['+nocookie +edns=0 +noad +norec +dnssec soa lan', /status: NOERROR/, /flags: do/],
    ['+nocookie +edns=0 +noad +norec +bufsize=512 +ignore txt long.lan', /flags: qr aa tc/],
    ['+nocookie +edns=100 +noednsneg +noad +norec +ednsopt=100 soa lan', /status: BADVERS/],
    ['+nocookie +edns=0 +noad +norec +tcp soa lan', /status: NOERROR/],
    ['+cookie +edns=0 +noad +norec soa lan', /status: NOERROR/],
    ['ANY vm1.lan', /HINFO\s+"RFC8482" ""/],
    ['-c CH version.bind TXT', /status: REFUSED/],
  ]
  try {
    const outputs = await Promise.all(expected.map(([line]) => dig(line)))
    for (const [i, [line, ...patterns]] of expected.entries()) {
      for (const pattern of patterns) assert.match(outputs[i], pattern, `dig ${line}`)
      assert.doesNotMatch(outputs[i], /malformed|extra bytes|Warning|timed out|mismatch/i, `dig ${line}`)
    }
  } finally {
    udp.close()
    server.forwarder.close()
    await new Promise<void>((resolve) => tcp.close(() => resolve()))
    await upstream.close()
  }
})
