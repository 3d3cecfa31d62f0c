/**
 * The gateway's DNS, asked by dig and dnsperf: local names, what is forwarded to servers outside and what never is.
 *
 *   web, db (leased) ── lan ── gateway ── uplink host ── [sw] 127.0.0.1: `first`, 127.0.0.2: `second`, fake servers
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { needs, until, words } from '../rig/commands.js'
import { type Session, udhcpc } from '../rig/dhcp-clients.js'
import { DnsUpstream, type RecordGiven } from '../rig/dns-upstream.js'
import type { Host } from '../rig/hosts.js'
import { Routed, routerNeeds, scapy, writeResolvers } from '../rig/router.js'

interface Answer {
  status: string // NOERROR, NXDOMAIN …
  flags: string[]
  answers: string[] // name, TTL, class, type, data, one space between them
  authority: string[]
  additional: string[]
  udpBytes: number // in the answer's OPT record; 0 without
}

const gateway = '10.64.0.1'

/** What dig makes of an answer. */
async function dig(host: Host, question: string, server = gateway): Promise<Answer> {
  const args = ['+tries=1', '+time=15', '+nocookie', '+noidnin', ...words(question)]
  const text = await host.space.run('dig', [`@${server}`, ...args], { timeoutSeconds: 40 })
  const section = (name: string): string[] =>
    (new RegExp(`;; ${name} SECTION:\\n([\\s\\S]*?)\\n(?:\\n|;;|$)`).exec(text)?.[1] ?? '')
      .split('\n')
      .filter(Boolean)
      .map((line) => line.replaceAll(/\s+/g, ' '))
  return {
    status: /status: (\w+)/.exec(text)?.[1] ?? text,
    flags: (/flags: ([\w ]*);/.exec(text)?.[1] ?? '').split(' '),
    answers: section('ANSWER'),
    authority: section('AUTHORITY'),
    additional: section('ADDITIONAL'),
    udpBytes: Number(/udp: (\d+)/.exec(text)?.[1] ?? 0),
  }
}

/** The data of the answers. */
const short = async (host: Host, question: string): Promise<string[]> =>
  (await dig(host, question)).answers.map((line) => line.split(' ').slice(4).join(' '))

const wants = needs(...routerNeeds, 'busybox', 'dig')
const many = (count: number): RecordGiven[] =>
  Array.from({ length: count }, (_, i) => ({ type: 'TXT', data: `${i} `.padEnd(100, 'x') }))

describe('names of a network', wants, () => {
  let routed: Routed
  let web: Host
  let db: Host
  let first: DnsUpstream
  let second: DnsUpstream
  const addresses: Record<string, string> = {}
  const sessions: Session[] = []

  before(async () => {
    routed = await Routed.route({
      subnets: ['10.64.0.0/24', 'fd64::/64'],
      uplink: 'host',
      domain: 'lab.internal',
      dns: {
        upstreams: ['127.0.0.1'],
        domains: [
          { domain: 'corp.example', upstreams: ['127.0.0.2'] },
          { domain: 'never.example', upstreams: [] },
        ],
        hosts: [
          { name: 'printer', addresses: ['10.64.0.250', 'fd64::250'] },
          { name: 'fixed.example.org', addresses: ['10.64.0.251'] },
        ],
        aliases: [
          { name: 'www', target: 'printer.lab.internal' },
          { name: 'far', target: 'plain.example' },
        ],
        services: [{ name: '_ipp._tcp', target: 'printer.lab.internal', port: 631, priority: 5, weight: 7 }],
        texts: [{ name: 'note', text: ['hello', 'world of words'] }],
      },
    })
    const space = routed.switchSpace()
    first = await DnsUpstream.start(space, '127.0.0.1', {
      'plain.example': [
        { type: 'A', data: '203.0.113.9' },
        { type: 'AAAA', data: '2001:db9::9' },
      ],
      'alias.example': [{ type: 'CNAME', data: 'plain.example' }],
      'brief.example': [{ type: 'A', data: '203.0.113.1', ttl: 2 }],
      'big.example': many(9),
      'huge.example': many(300),
      'inside.example': [{ type: 'A', data: '10.64.0.250' }],
      'loop.example': [{ type: 'A', data: '127.0.0.1' }],
      'inside6.example': [{ type: 'AAAA', data: 'fd64::250' }],
    })
    second = await DnsUpstream.start(space, '127.0.0.2', {
      'intranet.corp.example': [{ type: 'A', data: '10.9.9.9' }],
    })
    web = await routed.guest('web', { ipv6: true })
    db = await routed.guest('db')
    for (const host of [web, db]) {
      const session = await udhcpc.start(routed.lab, host, { hostname: host.name })
      sessions.push(session)
      addresses[host.name] = (await session.acquired()).address
    }
  })
  after(async () => {
    for (const session of sessions) await session.kill()
    await first?.stop()
    await second?.stop()
    await routed?.close()
  })

  it('a leased guest is found by name, full and short, in any case', async () => {
    for (const name of ['db.lab.internal', 'db', 'DB.Lab.Internal']) {
      assert.deepEqual(await short(web, `${name} A`), [addresses.db], name)
    }
    const { status, flags, answers } = await dig(web, 'db.lab.internal AAAA')
    assert.deepEqual([status, answers], ['NOERROR', []])
    assert.ok(flags.includes('aa'))
  })

  it('its address leads back to the name', async () => {
    assert.deepEqual(await short(web, `-x ${addresses.db}`), ['db.lab.internal.'])
  })

  it('the gateway has its name', async () => {
    assert.deepEqual(await short(web, 'gateway A'), [gateway])
    assert.deepEqual(await short(web, 'gateway.lab.internal AAAA'), ['fd64::1'])
    assert.deepEqual(await short(web, `-x ${gateway}`), ['gateway.lab.internal.'])
    assert.deepEqual(await short(web, '-x fd64::1'), ['gateway.lab.internal.'])
  })

  it('hosts, aliases, services and texts of the definition are answered', async () => {
    assert.deepEqual(await short(web, 'printer A'), ['10.64.0.250'])
    assert.deepEqual(await short(web, 'printer.lab.internal AAAA'), ['fd64::250'])
    assert.deepEqual(await short(web, 'fixed.example.org A'), ['10.64.0.251'])
    assert.deepEqual(await short(web, '-x 10.64.0.250'), ['printer.lab.internal.'])
    assert.deepEqual(await short(web, 'www.lab.internal A'), ['printer.lab.internal.', '10.64.0.250'])
    assert.deepEqual(await short(web, 'note.lab.internal TXT'), ['"hello" "world of words"'])
    const { answers, additional } = await dig(web, '_ipp._tcp.lab.internal SRV')
    assert.match(answers[0], / SRV 5 7 631 printer\.lab\.internal\.$/)
    assert.ok(additional.some((line) => line.endsWith(' A 10.64.0.250')))
  })

  it('an alias to a name outside is followed', async () => {
    assert.deepEqual(await short(web, 'far.lab.internal A'), ['plain.example.', '203.0.113.9'])
  })

  it('records are added and removed live', async () => {
    await routed.weft.do('record add lan extra a 10.64.0.240')
    assert.deepEqual(await short(web, 'extra A'), ['10.64.0.240'])
    await routed.weft.do('record remove lan extra')
    assert.equal((await dig(web, 'extra.lab.internal A')).status, 'NXDOMAIN')
  })

  it('a name with a lease goes when the lease does', async () => {
    const guest = await routed.guest('fleeting')
    const session = await udhcpc.start(routed.lab, guest, { hostname: 'fleeting' })
    const { address } = await session.acquired()
    assert.deepEqual(await short(web, 'fleeting A'), [address])
    await session.release()
    await until('it is gone', async () => (await dig(web, 'fleeting.lab.internal A')).status === 'NXDOMAIN')
  })

  it('no guest takes the name of another, or of the gateway', async () => {
    const guest = await routed.guest('thief')
    for (const name of ['gateway', 'db', 'printer', 'wpad', 'localhost']) {
      const session = await udhcpc.start(routed.lab, guest, { hostname: name })
      const { address } = await session.acquired()
      assert.ok(!(await short(web, `${name}.lab.internal A`)).includes(address), name)
      await session.kill()
    }
    assert.deepEqual(await short(web, 'db A'), [addresses.db])
  })

  it('unknown local names do not exist, and are never asked for outside', async () => {
    first.forget()
    second.forget()
    const local = [
      'nobody.lab.internal',
      'nobody',
      'a.b.lab.internal',
      'some.local',
      'x.test',
      'y.home.arpa',
      'z.onion',
    ]
    for (const name of local) {
      const { status, authority } = await dig(web, `${name} A`)
      assert.equal(status, 'NXDOMAIN', name)
      assert.ok(
        authority.some((line) => / SOA /.test(line)),
        name,
      )
    }
    for (const name of ['-x 10.64.0.77', '-x fd64::77', '-x 192.168.3.4', '-x fe80::1']) {
      assert.equal((await dig(web, name)).status, 'NXDOMAIN', name)
    }
    assert.equal((await dig(web, 'host.never.example A')).status, 'NXDOMAIN')
    await short(web, 'plain.example TXT')
    assert.deepEqual(first.names(), ['plain.example'])
    assert.deepEqual(second.names(), [])
  })

  it('other names are asked for outside, over UDP and TCP', async () => {
    assert.deepEqual(await short(web, 'plain.example A'), ['203.0.113.9'])
    assert.deepEqual(await short(web, '+tcp plain.example AAAA'), ['2001:db9::9'])
    assert.deepEqual(await short(web, 'alias.example A'), ['plain.example.', '203.0.113.9'])
    const { status, flags } = await dig(web, 'missing.example A')
    assert.equal(status, 'NXDOMAIN')
    assert.ok(flags.includes('ra') && !flags.includes('aa'))
  })

  it('questions outside have random identifiers, ports and letters', async () => {
    first.forget()
    for (let n = 0; n < 12; n++) await dig(web, `random-letters-${n}.long-enough-name.example A`)
    const asked = first.asked()
    assert.equal(asked.length, 12)
    assert.ok(new Set(asked.map(({ id }) => id)).size >= 11)
    assert.ok(new Set(asked.map(({ port }) => port)).size >= 11)
    assert.ok(asked.filter(({ name }) => name !== name.toLowerCase()).length >= 11)
    assert.ok(asked.every(({ udpBytes }) => udpBytes === 1232))
  })

  it('a guest never sees the random letters of the question outside', async () => {
    for (const name of ['some-rather-long-name-one.example', 'some-rather-long-name-two.example']) {
      await first.give({ [name]: [{ type: 'A', data: '203.0.113.44' }] })
      const { answers } = await dig(web, `${name} A`)
      assert.ok(answers[0].startsWith(`${name}. `), answers[0])
    }
  })

  it('answers are kept for their TTL, that names do not exist too', async () => {
    first.forget()
    await short(web, 'brief.example A')
    await short(db, 'brief.example A')
    await dig(web, 'gone.example A')
    await dig(db, 'gone.example A')
    assert.deepEqual(first.names(), ['brief.example', 'gone.example'])
    await first.give({ 'brief.example': [{ type: 'A', data: '203.0.113.2', ttl: 2 }] })
    await until('the new address is told', async () => (await short(web, 'brief.example A'))[0] === '203.0.113.2')
  })

  it('big answers come truncated over UDP, whole over TCP, and dig goes on by itself', async () => {
    first.forget()
    const cut = await dig(web, '+ignore +bufsize=4096 huge.example TXT')
    assert.ok(cut.flags.includes('tc'))
    assert.equal(cut.answers.length, 0)
    assert.equal((await dig(web, 'huge.example TXT')).answers.length, 300)
    assert.equal((await dig(web, '+tcp huge.example TXT')).answers.length, 300)
    assert.deepEqual(
      first.asked().map(({ tcp }) => tcp),
      [false, true],
      'asked over UDP, then over TCP, then known',
    )
  })

  it('an answer fits what the client takes', async () => {
    assert.ok((await dig(web, '+ignore +noedns big.example TXT')).flags.includes('tc'))
    assert.ok((await dig(web, '+ignore +bufsize=512 big.example TXT')).flags.includes('tc'))
    const whole = await dig(web, '+ignore +bufsize=1232 big.example TXT')
    assert.equal(whole.answers.length, 9)
    assert.equal(whole.udpBytes, 1232)
    assert.equal((await dig(web, '+ignore +noedns plain.example A')).udpBytes, 0)
    assert.equal((await dig(web, '+edns=1 +noednsneg plain.example A')).status, 'BADVERS')
  })

  it('an address of ours in an answer from outside is held back, unless its domain has own servers', async () => {
    for (const question of ['inside.example A', 'loop.example A', 'inside6.example AAAA']) {
      const { status, answers } = await dig(web, question)
      assert.deepEqual([status, answers], ['NOERROR', []], question)
    }
    assert.deepEqual(await short(web, 'intranet.corp.example A'), ['10.9.9.9'])
    assert.ok(!first.names().includes('intranet.corp.example'))
  })

  it('protection can be switched off, live', async () => {
    const { text } = await routed.weft.json<{ text: string }>('network export lan --format json')
    const { dns } = JSON.parse(text) as { dns: object }
    await routed.change({ dns: { ...dns, rebindProtection: false } })
    assert.deepEqual(await short(web, 'inside.example A'), ['10.64.0.250'])
    await routed.change({ dns })
    assert.deepEqual(await short(web, 'inside.example A'), [])
  })

  // a connection gets 100 answers, then it is closed (dns-stream.ts): over TCP there are 75 queries for each
  it('dnsperf loses no answer, local and forwarded, UDP and TCP', needs('dnsperf'), async () => {
    const names = ['db.lab.internal A', 'gateway A', 'nobody.lab.internal A', 'plain.example A', 'missing.example AAAA']
    const file = join(routed.lab.folder, 'queries')
    writeFileSync(file, `${names.join('\n')}\n`)
    for (const [mode, rounds] of [
      ['udp', 4000],
      ['tcp', 60],
    ] as const) {
      const load = ['-m', mode, '-c', '4', '-T', '1', '-q', '20', '-t', '20', '-n', `${rounds}`]
      const args = ['-s', gateway, '-d', file, ...load]
      const text = await web.space.run('dnsperf', args, { timeoutSeconds: 120 })
      assert.match(text, new RegExp(`Queries sent: +${rounds * 5}\n`), text)
      assert.match(text, new RegExp(`Queries completed: +${rounds * 5} `), text)
      assert.match(text, /Queries lost: +0 /, text)
      assert.doesNotMatch(text, /SERVFAIL|REFUSED/)
    }
  })

  it('hostile queries get what they deserve, and others their answers', needs('scapy'), async () => {
    await scapy(
      web.space,
      `
import random, socket
random.seed(2)
good = bytes(DNS(id=7, rd=1, qd=DNSQR(qname="db.lab.internal")))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
loop = good[:12] + bytes([0xc0, 12, 0, 1, 0, 1])
out.sendto(loop, ("${gateway}", 53))
for n in range(1500):
    data = bytearray(random.choice([good, loop])[:random.randrange(len(good) + 1)])
    for i in range(random.randrange(5)):
        if data: data[random.randrange(len(data))] = random.getrandbits(8)
    data += bytes(random.getrandbits(8) for i in range(random.choice([0, 0, 0, 3, 500, 1400])))
    if len(data) > 2: data[2] |= random.choice([0, 0, 0x80, 0x78])
    out.sendto(bytes(data[:1400]), ("${gateway}", 53))
for n in range(40):
    try:
        s = socket.create_connection(("${gateway}", 53), 5)
        s.sendall(bytes([255, 255]) + loop if n % 2 else bytes([0, len(loop)]) + loop)
        if n % 3 == 0: s.close()
    except OSError:
        pass
`,
      120,
    )
    assert.deepEqual(await short(db, 'web A'), [addresses.web])
    assert.deepEqual(await short(db, 'plain.example A'), ['203.0.113.9'])
    assert.deepEqual(await short(db, '+tcp web A'), [addresses.web])
    assert.ok(routed.weft.running)
  })

  it('one guest that floods questions does not silence the others', needs('dnsperf'), async () => {
    await first.behave('silent')
    const file = join(routed.lab.folder, 'flood')
    const names = Array.from({ length: 500 }, (_, i) => `silent-${i}.example A`)
    writeFileSync(file, `${names.join('\n')}\n`)
    const flood = web.space.spawn('dnsperf', ['-s', gateway, '-d', file, '-q', '400', '-t', '20', '-l', '10'])
    try {
      await until('the flood is on', () => first.names().filter((name) => name.startsWith('silent-')).length > 30)
      assert.deepEqual(await short(db, 'web A'), [addresses.web])
      await first.behave('answer')
      assert.deepEqual(await short(db, 'plain.example A'), ['203.0.113.9'])
    } finally {
      await flood.stop('SIGKILL')
    }
  })

  it('with the servers outside dead there is SERVFAIL, and local names as ever', async () => {
    await first.stop()
    // not by web, whose share of questions is still spent
    assert.equal((await dig(db, 'another.example A')).status, 'SERVFAIL')
    assert.deepEqual(await short(web, 'db A'), [addresses.db])
    assert.equal((await dig(db, 'intranet.corp.example A')).status, 'NOERROR')
  })

  it('other servers by a changed definition are asked at once', async () => {
    const { text } = await routed.weft.json<{ text: string }>('network export lan --format json')
    const { dns } = JSON.parse(text) as { dns: object }
    await second.give({ 'late.example': [{ type: 'A', data: '203.0.113.200' }] })
    await routed.change({ dns: { ...dns, upstreams: ['127.0.0.2'] } })
    assert.deepEqual(await short(db, 'late.example A'), ['203.0.113.200'])
  })
})

describe("the host's own resolvers", wants, () => {
  let routed: Routed
  let guest: Host
  let session: Session
  const upstreams: DnsUpstream[] = []

  before(async () => {
    routed = await Routed.route(
      { subnets: ['10.64.0.0/24'], uplink: 'host' },
      { resolvers: '# of a test\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n' },
    )
    for (const [i, data] of ['203.0.113.1', '203.0.113.2', '203.0.113.3'].entries()) {
      const records: Record<string, RecordGiven[]> = { 'who.example': [{ type: 'A', data, ttl: 3600 }] }
      upstreams.push(await DnsUpstream.start(routed.switchSpace(), `127.0.0.${i + 1}`, records))
    }
    guest = await routed.guest('guest')
    session = await udhcpc.start(routed.lab, guest)
    await session.acquired()
  })
  after(async () => {
    await session?.kill()
    for (const one of upstreams) await one.stop()
    await routed?.close()
  })

  it('are asked, the second when the first fails', async () => {
    assert.deepEqual(await short(guest, 'who.example A'), ['203.0.113.1'])
    await upstreams[0].behave('refused')
    await upstreams[1].give({ 'other.example': [{ type: 'A', data: '203.0.113.22' }] })
    assert.deepEqual(await short(guest, 'other.example A'), ['203.0.113.22'])
  })

  it('are followed when they change, and nothing of the former ones is told any more', async () => {
    writeResolvers(routed.switchSpace(), 'nameserver 127.0.0.3\n')
    await until('the new one is asked', async () => (await short(guest, 'who.example A'))[0] === '203.0.113.3')
  })

  it('may be none: then there is SERVFAIL at once, and local names', async () => {
    writeResolvers(routed.switchSpace(), '# none\n')
    await until('nobody is asked', async () => (await dig(guest, 'else.example A')).status === 'SERVFAIL')
    assert.deepEqual(await short(guest, 'gateway A'), [gateway])
  })
})
