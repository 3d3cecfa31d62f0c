/**
 * The forwarder and its cache against servers on loopback that lie, are slow, dead, broken or hostile, through the
 * server object, so that what is looked at is what a client gets.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DnsCache } from '../../src/services/dns-cache.js'
import { MessageScan } from '../../src/services/dns-codec.js'
import { DnsForwarder } from '../../src/services/dns-forwarder.js'
import { NameKey } from '../../src/services/dns-name.js'
import { DnsServer } from '../../src/services/dns-server.js'
import { Upstream, parseUpstream } from '../../src/services/dns-upstream.js'
import { DnsZone, NO_ZONE } from '../../src/services/dns-zone.js'
import {
  type Behaviour,
  type FakeUpstream,
  type QueryOptions,
  a,
  answer,
  cname,
  fakeUpstream,
  query,
  random,
  read,
  soa,
  wire,
} from './dns-messages.js'

const FAST = [60, 60, 60, 100]
const nameOf = (asked: Uint8Array): string => read(asked).name
const typeOf = (asked: Uint8Array): number => read(asked).type

interface Setting {
  fakes: FakeUpstream[]
  server: DnsServer
  forwarder: DnsForwarder
  clock: { now: number }
  ask(name: string, type?: string | number, options?: QueryOptions & Asking): Promise<Uint8Array>
}

interface Asking {
  port?: string
  isTcp?: boolean
}

/** Runs a test with upstreams that behave as told, and the default upstreams being all of them in order. */
async function withUpstreams(
  behaviours: Behaviour[],
  run: (setting: Setting) => Promise<void>,
  attempts = FAST,
): Promise<void> {
  const fakes = await Promise.all(behaviours.map(fakeUpstream))
  const clock = { now: 1_000_000 }
  const forwarder = new DnsForwarder({ attempts, now: () => clock.now })
  forwarder.setUpstreams(fakes.map(({ port }) => new Upstream('127.0.0.1', port)))
  const aliases = [{ name: 'ext', target: 'www.example.com' }]
  const server = new DnsServer(new DnsZone({ ...NO_ZONE, domain: 'lan', aliases }), forwarder)
  const ask: Setting['ask'] = (name, type = 'A', options = {}) =>
    new Promise((resolve) => {
      const client = { port: options.port ?? 'vm1', ip: Uint8Array.of(10, 0, 0, 5), isTcp: options.isTcp ?? false }
      server.handle(query(name, type, options), client, resolve)
    })
  try {
    await run({ fakes, server, forwarder, clock, ask })
  } finally {
    forwarder.close()
    await Promise.all(fakes.map((fake) => fake.close()))
  }
}

const honest = (asked: Uint8Array): Uint8Array[] => [answer(asked, { answers: [a(nameOf(asked), '192.0.2.1', 300)] })]

test('addresses of upstreams', () => {
  for (const text of ['192.0.2.1', '2001:db8::1', 'fe80::1%eth0', '192.0.2.1:5353', '[::1]:5353'])
    assert.equal(String(parseUpstream(text)), text)
  assert.equal(String(parseUpstream('[::1]:53')), '::1')
  for (const text of ['', 'dns', '1.2.3', '[1.2.3.4]:53', '::1:53x', '1.2.3.4:0', '1.2.3.4:65536', '[::1]'])
    assert.equal(parseUpstream(text), null, text)
})

test('a question goes out by a fresh port, identifier and case; its answer comes back as asked', async () => {
  await withUpstreams([honest], async ({ fakes: [fake], ask, forwarder }) => {
    for (let i = 0; i < 12; i++) {
      const seen = read(await ask(`WWW${i}.Some-Letters.example.COM`, 'A', { id: i }))
      assert.equal(seen.name, `WWW${i}.Some-Letters.example.COM`)
      assert.deepEqual([seen.id, seen.flags, seen.hasOpt, seen.answers.length], [i, 0x8180, false, 1])
    }
    const seen = fake.asked.map(read)
    assert.ok(new Set(fake.ports).size >= 11, 'ports')
    assert.ok(new Set(seen.map(({ id }) => id)).size >= 11, 'identifiers')
    assert.ok(new Set(seen.map(({ name }) => name.replace(/\d/g, ''))).size >= 11, 'spellings')
    assert.ok(seen.every(({ hasOpt, flags }) => hasOpt && flags === 0x0120))
    assert.equal(forwarder.outstanding, 0)
    const edns = read(await ask('www1.some-letters.example.com', 'A', { edns: 4096, flags: 0x0110, dnssec: true }))
    assert.deepEqual([edns.hasOpt, edns.flags], [true, 0x8190])
    assert.equal(fake.asked.length, 13, 'DO and CD make another question')
    const last = fake.asked[12]
    assert.equal(last[last.length - 4] & 0x80, 0x80, 'DO is passed on')
    assert.equal(last[3] & 0x10, 0x10, 'CD is passed on')
  })
})

test('records of any type are relayed byte by byte', async () => {
  const data = Array.from({ length: 300 }, (_, i) => (i * 7) & 255)
  const list = [64, 65, 48, 43, 257, 65280].map((type) => ({ name: 'x.example', type, ttl: 5, data }))
  const sent: Uint8Array[] = []
  const behave: Behaviour = (asked) => {
    const message = answer(asked, { answers: list.filter(({ type }) => type === typeOf(asked)), flags: 0x0420 })
    sent.push(message)
    return [message]
  }
  await withUpstreams([behave], async ({ ask }) => {
    for (const [i, { type }] of list.entries()) {
      const got = await ask('x.example', type, { edns: 1232, flags: 0x0120 })
      const question = 12 + wire('x.example').length
      assert.deepEqual(got.slice(question, -11), sent[i].slice(question, -11))
      assert.equal(read(got).flags, 0x81a0, 'AD is passed on, AA is not')
      const cached = await ask('x.example', type)
      assert.deepEqual(cached.slice(question), sent[i].slice(question, -11))
      assert.equal(read(cached).flags, 0x8180, 'AD only for who knows it')
    }
    assert.equal(sent.length, list.length)
  })
})

test('lies are ignored: identifier, question, type, port, answers nobody asked for', async () => {
  const behave: Behaviour = (asked) => {
    const lie = answer(asked, { answers: [a('www.example.com', '203.0.113.66')] })
    const wrongId = lie.slice()
    wrongId[0] ^= 1
    const wrongName = lie.slice()
    wrongName[13] ^= 3
    const wrongType = lie.slice()
    wrongType[12 + wire('www.example.com').length + 1] = 28
    const isQuery = lie.slice()
    isQuery[2] &= 0x7f
    return [wrongId, wrongName, wrongType, isQuery, lie.slice(0, 11), Uint8Array.of(), ...honest(asked)]
  }
  await withUpstreams([behave], async ({ ask, fakes: [fake] }) => {
    assert.deepEqual(
      read(await ask('www.example.com')).answers.map((text) => text.split(' ')[2]),
      ['192.0.2.1'],
    )
    assert.equal(fake.tcp, 0)
  })
})

test('a flood of lies makes the question go over TCP', async () => {
  const behave: Behaviour = (asked, isTcp) => {
    if (isTcp) return honest(asked)
    const lie = answer(asked, { answers: [a('www.example.com', '203.0.113.66')] })
    lie[0] ^= 1
    return new Array<Uint8Array>(20).fill(lie)
  }
  await withUpstreams([behave], async ({ ask, fakes: [fake] }) => {
    assert.match(read(await ask('www.example.com')).answers[0], /192\.0\.2\.1$/)
    assert.equal(fake.tcp, 1)
  })
})

test('a server that changes the case is asked once more in lower case, and remembered', async () => {
  const behave: Behaviour = (asked) => {
    const message = answer(asked, { answers: [a('www.example.com', '192.0.2.1')] })
    for (let i = 12; i < 28; i++) if (message[i] >= 65 && message[i] <= 90) message[i] |= 32
    return [message]
  }
  await withUpstreams([behave], async ({ ask, fakes: [fake] }) => {
    // a name in which at least one letter gets upper case, all but surely
    const name = 'abcdefghijklmno.abcdefghijklmnopqrstuvwxyz'
    assert.equal(read(await ask(name)).rcode, 0)
    const before = fake.asked.length
    assert.equal(before, 2)
    assert.equal(read(await ask(`b.${name}`)).rcode, 0)
    assert.equal(fake.asked.length, before + 1)
    assert.equal(nameOf(fake.asked[before]), `b.${name}`)
  })
})

test('a server without EDNS is asked once more without', async () => {
  const behave: Behaviour = (asked) =>
    read(asked).hasOpt
      ? [answer(asked, { rcode: 1, edns: false })]
      : [answer(asked, { answers: [a('x.example', '192.0.2.1')], edns: false })]
  await withUpstreams([behave], async ({ ask, fakes: [fake] }) => {
    const seen = read(await ask('x.example', 'A', { edns: 1232 }))
    assert.deepEqual([seen.rcode, seen.answers.length, seen.hasOpt], [0, 1, true])
    await ask('y.example')
    assert.equal(fake.asked.length, 3)
  })
})

test('TC: asked over TCP; UDP clients get TC in turn, TCP clients all of it', async () => {
  const list = (asked: Uint8Array) => Array.from({ length: 100 }, (_, i) => a(nameOf(asked), `192.0.2.${i}`))
  const behave: Behaviour = (asked, isTcp) =>
    isTcp ? [answer(asked, { answers: list(asked) })] : [answer(asked, { flags: 0x0200 })]
  await withUpstreams([behave], async ({ ask, fakes: [fake], server }) => {
    const udp = read(await ask('big.example', 'A', { edns: 4096 }))
    assert.deepEqual([udp.flags & 0x0200, udp.counts[1], udp.hasOpt], [0x0200, 0, true])
    const tcp = read(await ask('big.example', 'A', { isTcp: true }))
    assert.deepEqual([tcp.flags & 0x0200, tcp.answers.length], [0, 100])
    assert.equal(fake.tcp, 1, 'then it is known')
    assert.equal(server.truncated, 1)
  })
})

test('the limit of a datagram: 512 without EDNS, what the client says, 1232 in any case', async () => {
  const behave: Behaviour = (asked) => {
    const bytes = Number(nameOf(asked).split('.')[0].slice(1))
    const rest = bytes - (12 + wire(nameOf(asked)).length + 4 + wire(nameOf(asked)).length + 10)
    const data = new Array<number>(rest).fill(1)
    return [answer(asked, { answers: [{ name: nameOf(asked), type: 65280, ttl: 1, data }] })]
  }
  const isWhole = (message: Uint8Array): boolean => (read(message).flags & 0x0200) === 0
  await withUpstreams([behave], async ({ ask }) => {
    assert.ok(isWhole(await ask('n512.example', 65280)))
    assert.ok(!isWhole(await ask('n513.example', 65280)))
    assert.ok(isWhole(await ask('n1221.example', 65280, { edns: 4096 })))
    assert.ok(!isWhole(await ask('n1222.example', 65280, { edns: 4096 })))
    assert.ok(isWhole(await ask('n789.example', 65280, { edns: 800 })))
    assert.ok(!isWhole(await ask('n790.example', 65280, { edns: 800 })))
    assert.ok(isWhole(await ask('n512.example', 65280)), 'cached')
  })
})

test('dead, slow and failing upstreams: others are asked, the one that answers is preferred', async () => {
  const silent: Behaviour = () => []
  const failing: Behaviour = (asked) => [answer(asked, { rcode: 2 })]
  await withUpstreams([silent, failing, honest], async ({ ask, fakes }) => {
    assert.equal(read(await ask('a.example')).answers.length, 1)
    assert.deepEqual(
      fakes.map(({ asked }) => asked.length),
      [1, 1, 1],
    )
    assert.equal(read(await ask('b.example')).answers.length, 1)
    assert.deepEqual(
      fakes.map(({ asked }) => asked.length),
      [1, 1, 2],
    )
  })
  const slow: Behaviour = async (asked) => {
    await new Promise((resolve) => setTimeout(resolve, 100))
    return honest(asked)
  }
  await withUpstreams([slow], async ({ ask, fakes: [fake] }) => {
    assert.equal(read(await ask('a.example')).answers.length, 1)
    assert.equal(fake.asked.length, 2, 'a late answer counts')
  })
  await withUpstreams([silent], async ({ ask, fakes: [fake], clock, forwarder }) => {
    assert.equal(read(await ask('a.example')).rcode, 2)
    assert.equal(fake.asked.length, 4)
    assert.equal(read(await ask('A.example')).rcode, 2)
    assert.equal(fake.asked.length, 4, 'the failure is kept')
    clock.now += 5000
    void ask('a.example')
    assert.equal(forwarder.outstanding, 1, 'for 5 s')
  })
  await withUpstreams([failing, failing], async ({ ask, fakes }) => {
    assert.equal(read(await ask('a.example')).rcode, 2)
    assert.deepEqual(
      fakes.map(({ asked }) => asked.length),
      [1, 1],
    )
  })
  await withUpstreams([honest], async ({ ask, forwarder, fakes: [fake] }) => {
    const gone = await fakeUpstream(honest)
    await gone.close()
    forwarder.setUpstreams([new Upstream('127.0.0.1', gone.port)])
    assert.equal(read(await ask('a.example')).rcode, 2, 'nobody listens: known at once')
    forwarder.setUpstreams([new Upstream('127.0.0.1', gone.port), new Upstream('127.0.0.1', fake.port)])
    assert.equal(read(await ask('a.example')).rcode, 0)
    forwarder.setUpstreams([])
    assert.equal(read(await ask('b.example')).rcode, 2)
  })
})

test('broken answers are as none', async () => {
  const next = random(3)
  const broken: Behaviour = (asked) => {
    const message = answer(asked, { answers: [{ name: 'x.example', type: 5, ttl: 1, data: [0xc0, 200] }] })
    return [next(2) === 0 ? message : message.slice(0, -3)]
  }
  await withUpstreams([broken, honest], async ({ ask }) => {
    for (let i = 0; i < 5; i++) assert.match(read(await ask(`x${i}.example`)).answers[0], /192\.0\.2\.1$/)
  })
})

test('the cache: aged TTLs, negative answers by their SOA, bailiwick', async () => {
  const behave: Behaviour = (asked) => {
    const name = nameOf(asked).toLowerCase()
    if (name === 'no.example') return [answer(asked, { rcode: 3, authorities: [soa('example', 900, 60)] })]
    if (name === 'nosoa.example') return [answer(asked, { rcode: 3 })]
    if (name === 'zero.example') return [answer(asked, { answers: [a(name, '192.0.2.1', 0)] })]
    const glue = a('bank.example', '203.0.113.66', 300)
    const long = a(name, '192.0.2.1', 1_000_000)
    const first = name === 'bank.example' ? a(name, '192.0.2.7') : a(name, '192.0.2.1', 100)
    return [answer(asked, { answers: [first, long], additionals: [glue] })]
  }
  await withUpstreams([behave], async ({ ask, fakes: [fake], clock, forwarder }) => {
    const count = async (name: string, after: number): Promise<number> => {
      clock.now += after * 1000
      const before = fake.asked.length
      await ask(name)
      return fake.asked.length - before
    }
    assert.deepEqual(read(await ask('x.example')).ttls, [100, 1_000_000, 300])
    clock.now += 40_000
    assert.deepEqual(read(await ask('X.example')).ttls, [60, 86_360, 260])
    assert.equal(await count('x.example', 59), 0)
    assert.equal(await count('x.example', 1), 1)
    assert.match(read(await ask('bank.example')).answers[0], /192\.0\.2\.7$/, 'what came along is not believed')
    assert.equal(await count('no.example', 0), 1)
    assert.equal(await count('no.example', 59), 0)
    assert.deepEqual(read(await ask('no.example')).ttls, [841])
    assert.equal(await count('no.example', 1), 1)
    assert.equal(await count('nosoa.example', 0), 1)
    assert.equal(await count('nosoa.example', 0), 1)
    assert.equal(await count('zero.example', 0), 1)
    assert.equal(await count('zero.example', 0), 1)
    forwarder.setUpstreams([new Upstream('127.0.0.1', fake.port)])
    assert.equal(forwarder.cache.size, 0)
  })
})

test('the cache is bounded by entries and by bytes, the longest unused go first', () => {
  const cache = new DnsCache(100, 1 << 20)
  const scan = new MessageScan()
  const key = new NameKey()
  const put = (name: string, bytes: number): void => {
    const message = answer(query(name, 65280), {
      answers: [{ name, type: 65280, ttl: 100, data: new Array<number>(bytes).fill(0) }],
      edns: false,
    })
    assert.ok(scan.scan(message))
    cache.put(Uint8Array.from(wire(name)), 65280, message, scan, 0, 0)
  }
  const has = (name: string): boolean => {
    const bytes = Uint8Array.from(wire(name))
    return cache.find(bytes, 0, key.compute(bytes, 0), 65280, 1) !== null
  }
  for (let i = 0; i < 100; i++) put(`n${i}`, 10)
  assert.ok(has('n0'))
  put('n100', 10)
  assert.deepEqual([cache.size, has('n0'), has('n1'), cache.evicted], [100, true, false, 1])
  for (let i = 0; i < 60; i++) put(`big${i}`, 40_000)
  assert.ok(cache.bytes <= 1 << 20)
  assert.ok(cache.size < 30 && has('big59') && !has('n0'))
  put('huge', 65_400)
  assert.equal(cache.size > 0 && has('huge'), false, 'more than a sixteenth is not kept')
  cache.clear()
  assert.deepEqual([cache.size, cache.bytes], [0, 0])
})

test('private addresses from outside are dropped, but for domains with upstreams of their own', async () => {
  const hints = [0, 1, 0, 0, 4, 0, 8, 192, 0, 2, 1, 10, 0, 0, 1]
  const mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]
  const behave: Behaviour = (asked) => {
    const name = nameOf(asked)
    const type = typeOf(asked)
    const first = name.split('.')[0].toLowerCase()
    if (type === 65) return [answer(asked, { answers: [{ name, type, ttl: 9, data: hints }] })]
    const data = first === 'm' ? mapped : [0xfe, 0x80, ...new Array<number>(13).fill(0), 1]
    if (type === 28) return [answer(asked, { answers: [{ name, type, ttl: 9, data }] })]
    return [answer(asked, { answers: [a(name, '192.0.2.1'), a(name, first.replaceAll('-', '.'))] })]
  }
  await withUpstreams([behave], async ({ ask, forwarder, fakes: [fake] }) => {
    const bad = ['127-0-0-1', '10-1-2-3', '172-16-0-1', '172-31-255-255', '192-168-1-1', '169-254-169-254', '0-0-0-0']
    for (const name of bad) {
      const seen = read(await ask(`${name}.example`, 'A', { edns: 1232 }))
      assert.deepEqual([seen.rcode, seen.counts, seen.hasOpt], [0, [1, 0, 0, 1], true], name)
    }
    for (const name of ['172-15-0-1', '172-32-0-1', '192-167-1-1', '100-64-0-1', '8-8-8-8'])
      assert.equal(read(await ask(`${name}.example`)).answers.length, 2, name)
    for (const [name, type] of [
      ['m.example', 28],
      ['l.example', 28],
      ['h.example', 65],
    ] as const)
      assert.equal(read(await ask(name, type)).answers.length, 0, name)
    assert.equal(forwarder.rebindings, bad.length + 3)
    const upstream = new Upstream('127.0.0.1', fake.port)
    forwarder.setUpstreams([upstream], [{ domain: 'corp.example', upstreams: [upstream] }])
    assert.equal(read(await ask('10-0-0-1.corp.example')).answers.length, 2)
    assert.equal(read(await ask('10-0-0-1.notcorp.example')).answers.length, 0)
    forwarder.rebindProtection = false
    assert.equal(read(await ask('10-0-0-2.example')).answers.length, 2)
  })
})

test('upstreams by domain: the longest one decides, an empty list means never', async () => {
  const says =
    (ip: string): Behaviour =>
    (asked) => [answer(asked, { answers: [a(nameOf(asked), ip)] })]
  await withUpstreams([says('192.0.2.1'), says('192.0.2.2'), says('192.0.2.3')], async ({ ask, forwarder, fakes }) => {
    const [one, two, three] = fakes.map(({ port }) => new Upstream('127.0.0.1', port))
    forwarder.setUpstreams(
      [one],
      [
        { domain: 'example', upstreams: [two] },
        { domain: 'sub.example', upstreams: [three] },
        { domain: 'never.example', upstreams: [] },
      ],
    )
    const last = async (name: string): Promise<string> => read(await ask(name)).answers[0]?.slice(-1) ?? ''
    assert.equal(await last('a.b'), '1')
    assert.equal(await last('x.example'), '2')
    assert.equal(await last('xsub.example'), '2')
    assert.equal(await last('x.SUB.example'), '3')
    assert.equal(read(await ask('x.never.example')).rcode, 3)
    forwarder.setUpstreams([], [{ domain: 'example', upstreams: [two] }])
    assert.equal(await last('x.example'), '2')
    assert.equal(read(await ask('a.b')).rcode, 2)
  })
})

test('one question outside, however many ask; shares of guests and of the network', async () => {
  let release: () => void = () => {}
  const gate = new Promise<void>((resolve) => (release = resolve))
  const held: Behaviour = async (asked) => {
    await gate
    return honest(asked)
  }
  await withUpstreams(
    [held],
    async ({ ask, forwarder, fakes: [fake] }) => {
      const same = Array.from({ length: 60 }, (_, id) => ask('Same.example', 'A', { id, port: 'vm1' }))
      assert.deepEqual([forwarder.outstanding, forwarder.refused], [1, 10])
      const others = ['vm2', 'vm3', 'vm4'].flatMap((port) =>
        Array.from({ length: 50 }, (_, i) => ask(`${port}-${i}.example`, 'A', { port })),
      )
      assert.deepEqual([forwarder.outstanding, forwarder.refused], [150, 11])
      assert.equal(read(await ask('more.example', 'A', { port: 'vm5' })).rcode, 5)
      assert.equal(read(await ask('vm9.lan', 'A', { port: 'vm1' })).rcode, 3, 'local names are answered all the same')
      release()
      const seen = (await Promise.all(same)).map(read)
      assert.deepEqual(
        seen.map(({ id }) => id),
        Array.from({ length: 60 }, (_, id) => id),
      )
      assert.equal(seen.filter(({ rcode }) => rcode === 0).length, 50)
      assert.equal(fake.asked.filter((one) => nameOf(one).toLowerCase() === 'same.example').length, 1)
      await Promise.all(others)
      assert.equal(forwarder.outstanding, 0)
      assert.equal(read(await ask('more.example', 'A', { port: 'vm1' })).rcode, 0, 'shares are given back')
    },
    [5000],
  )
})

test('an alias of ours is followed outside; a loop outside is the upstream’s answer', async () => {
  const behave: Behaviour = (asked) => {
    const name = nameOf(asked).toLowerCase()
    const loop = [cname('loop.example', 'pool.example'), cname('pool.example', 'loop.example')]
    if (name === 'loop.example') return [answer(asked, { answers: loop })]
    if (typeOf(asked) === 28) return [answer(asked, { authorities: [soa('example.com', 9, 9)] })]
    return [answer(asked, { answers: [cname(nameOf(asked), 'edge.example.com'), a('edge.example.com', '192.0.2.1')] })]
  }
  await withUpstreams([behave], async ({ ask, forwarder }) => {
    const lowered = (seen: { answers: string[] }): string[] => seen.answers.map((text) => text.toLowerCase())
    const expected = ['ext.lan 5 www.example.com', 'www.example.com 5 edge.example.com', 'edge.example.com 1 192.0.2.1']
    const seen = read(await ask('Ext.lan', 'A', { edns: 1232 }))
    assert.deepEqual(lowered(seen), expected)
    assert.deepEqual([seen.name, seen.flags, seen.hasOpt], ['Ext.lan', 0x8180, true])
    assert.deepEqual(lowered(read(await ask('ext.lan'))), expected)
    const none = read(await ask('ext.lan', 'AAAA'))
    assert.deepEqual([none.answers.length, none.authorities.length, none.rcode], [1, 1, 0])
    assert.equal(read(await ask('loop.example')).answers.length, 2)
    forwarder.setUpstreams([])
    assert.equal(read(await ask('ext.lan')).rcode, 2)
  })
})

test('upstreams may change and the forwarder close while questions are on their way', async () => {
  await withUpstreams([() => []], async ({ ask, forwarder }) => {
    const waiting = ask('a.example')
    forwarder.setUpstreams([])
    assert.equal(read(await waiting).rcode, 2)
    assert.equal(forwarder.outstanding, 0)
  })
})

test('OPT in the middle goes with all that is behind it', async () => {
  const behave: Behaviour = (asked) => {
    const answers = [a(nameOf(asked), '192.0.2.1')]
    const message = answer(asked, { answers, additionals: [a('x.example', '192.0.2.2')] })
    const tail = [0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 1, 0]
    const longer = Uint8Array.from([...message, ...tail])
    longer[11]++
    return [longer]
  }
  await withUpstreams([behave], async ({ ask }) => {
    const seen = read(await ask('a.example'))
    assert.deepEqual([seen.answers.length, seen.additionals.length, seen.hasOpt], [1, 1, false])
  })
})
