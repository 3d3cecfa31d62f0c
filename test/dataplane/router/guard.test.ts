/**
 * The guard: what hosts behind guarded ports may not do, and that nothing else is kept from them. Through the whole
 * pipeline: a frame that passes leaves by the port of the host that it is for.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  PORT_GATEWAY,
  PORT_GUARDED,
  PORT_LINK,
  PORT_ROUTES,
  PORT_SERVES_DHCP,
} from '../../../src/dataplane/port-table.js'
import { plain } from '../rig.js'
import { type Packet, build, extension } from './packet-builder.js'
import {
  A,
  BROADCAST,
  type Host,
  NOBODY,
  Routed,
  arp,
  discovery,
  framed,
  ip,
  macWords,
  routerOf,
} from './router-rig.js'

const [G1, G2, G3] = A.guests
const GROUP6 = '33:33:00:00:00:01'

class Guarded extends Routed {
  /** Whether a frame gets through to G2, or to all if it is for a group. Says why not. */
  passes(port: number, bytes: Uint8Array): true | string {
    const before = this.drops()
    const sent = this.pass(port, bytes)
    const news = Object.entries(this.drops()).filter(([key, count]) => count !== (before[key] ?? 0))
    if (news.length > 0) return news[0][0].slice(news[0][0].indexOf(' ') + 1)
    assert.ok(sent.length > 0, 'neither sent nor dropped')
    return true
  }

  udp(from: Host, source: string, more: Partial<Packet> = {}): true | string {
    const family = source.includes(':') ? 6 : 4
    return this.passes(
      from.port,
      framed(
        G2.mac,
        from.mac,
        build({
          family,
          source: ip(source),
          destination: ip(family === 4 ? G2.ip4 : G2.ip6),
          protocol: 17,
          sourcePort: 1000,
          destinationPort: 2000,
          ...more,
        }),
      ),
    )
  }

  raw(from: Host, packet: Uint8Array, type?: number): true | string {
    return this.passes(from.port, framed(G2.mac, from.mac, packet, type))
  }

  arp(from: Host, operation: number, senderMac: string, sender: string, target = G2.ip4): true | string {
    return this.passes(
      from.port,
      framed(BROADCAST, from.mac, arp(operation, senderMac, sender, NOBODY, target), 0x0806),
    )
  }

  bind(host: Host, address = host.ip4, mac: string | null = host.mac): void {
    const words = ip(address)
    const { low, high } = mac === null ? { low: 0, high: 0 } : macWords(mac)
    const [ip0, ip1 = 0, ip2 = 0, ip3 = 0] = words
    const family = words.length === 1 ? 4 : 6
    assert.ok(this.loop.pipeline.neighbors.bind(A.lan, family, ip0, ip1, ip2, ip3, low, high, host.port, this.now))
  }
}

function guarding(name: string, body: (weft: Guarded) => void, guestFlags = PORT_GUARDED): void {
  test(name, () => {
    const weft = new Guarded()
    weft.seconds = 1000
    weft.site(A, routerOf(A), guestFlags)
    // so that frames to it are no floods
    weft.pass(G2.port, framed(BROADCAST, G2.mac, arp(1, G2.mac, G2.ip4, NOBODY, A.gateway4), 0x0806))
    body(weft)
    weft.checkPool()
  })
}

guarding('plain traffic between guests passes', (weft) => {
  assert.equal(weft.udp(G1, G1.ip4), true)
  assert.equal(weft.udp(G1, G1.ip6), true)
  assert.equal(weft.udp(G1, 'fe80::11'), true)
  assert.equal(weft.arp(G1, 1, G1.mac, G1.ip4), true)
  assert.equal(weft.arp(G1, 2, G1.mac, G1.ip4), true)
  assert.equal(
    weft.raw(
      G1,
      Uint8Array.from({ length: 60 }, () => 7),
      0x88b5,
    ),
    true,
    'other ethertypes',
  )
})

// ---- MAC addresses ----

for (const flags of [0, PORT_GUARDED])
  guarding(
    `nobody uses the gateway's MAC, flags ${flags}`,
    (weft) => {
      const frame = framed(
        G2.mac,
        A.gatewayMac,
        build({ family: 4, source: ip(G1.ip4), destination: ip(G2.ip4), protocol: 17 }),
      )
      assert.equal(weft.passes(G1.port, frame), 'spoofed-mac')
      assert.equal(weft.passes(G1.port, framed(BROADCAST, A.gatewayMac, Uint8Array.of(1, 2, 3), 0x88b5)), 'spoofed-mac')
      assert.equal(weft.passes(A.isp.port, framed(BROADCAST, A.uplinkMac, Uint8Array.of(1), 0x88b5)), 'spoofed-mac')
    },
    flags,
  )

guarding('a port with a MAC of its own uses no other', (weft) => {
  const { low, high } = macWords(G1.mac)
  const guests = A.guests.map((guest) => plain(guest.port, { flags: PORT_LINK | PORT_GUARDED }))
  guests[0].ownMacLow = low
  guests[0].ownMacHigh = high
  weft.ports([...guests, plain(A.gatewayPort, { flags: PORT_LINK | PORT_GATEWAY })], A.lan)
  assert.equal(weft.udp(G1, G1.ip4), true)
  assert.equal(weft.udp({ ...G1, mac: G3.mac }, G1.ip4), 'spoofed-mac')
  assert.equal(weft.udp({ ...G1, mac: '02:00:00:01:00:81' }, G1.ip4), 'spoofed-mac')
  assert.equal(weft.udp(G1, G1.ip4), true)
  assert.equal(weft.raw({ ...G1, mac: G3.mac }, Uint8Array.of(1, 2), 0x88b5), 'spoofed-mac', 'whatever the type')
})

guarding('a MAC that is static at another port is not to be had', (weft) => {
  const { low, high } = macWords(G3.mac)
  weft.loop.pipeline.fdb.addStatic(low, high, A.lan, G3.port)
  assert.equal(weft.udp({ ...G1, mac: G3.mac }, G1.ip4), 'spoofed-mac')
  assert.equal(weft.udp(G3, G3.ip4), true)
})

// ---- addresses ----

guarding("the router's addresses are nobody's", (weft) => {
  assert.equal(weft.udp(G1, A.gateway4), 'spoofed-address')
  assert.equal(weft.udp(G1, A.gateway6), 'spoofed-address')
  assert.equal(weft.udp(G1, 'fe80::1'), 'spoofed-address')
  assert.equal(weft.arp(G1, 2, G1.mac, A.gateway4), 'spoofed-address')
  assert.equal(weft.arp(G1, 1, G1.mac, A.gateway4, A.gateway4), 'spoofed-address')
  const advertisement = discovery(136, G1.ip6, 'ff02::1', A.gateway6, { mac: G1.mac, flags: 0x20000000 })
  assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, advertisement)), 'spoofed-address')
  const linkLocal = discovery(136, 'fe80::11', 'ff02::1', 'fe80::1', { mac: G1.mac, flags: 0x20000000 })
  assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, linkLocal)), 'spoofed-address')
})

guarding("addresses of forwards, which the router answers for, are nobody's", (weft) => {
  const router = routerOf(A)
  router.lan.proxied = [ip('10.0.1.99')]
  weft.loop.pipeline.configureRouter(A.lan, router)
  assert.equal(weft.udp(G1, '10.0.1.99'), 'spoofed-address')
})

guarding('a leased address belongs to its port and MAC', (weft) => {
  weft.bind(G3)
  assert.equal(weft.udp(G1, G3.ip4), 'spoofed-address')
  assert.equal(weft.arp(G1, 2, G1.mac, G3.ip4), 'spoofed-address')
  assert.equal(weft.udp(G3, G3.ip4), true)
  assert.equal(weft.udp({ ...G3, mac: '02:00:00:01:00:99' }, G3.ip4), 'spoofed-address')
})

guarding('a port with a leased address uses no other of IPv4', (weft) => {
  weft.bind(G1)
  assert.equal(weft.udp(G1, G1.ip4), true)
  assert.equal(weft.udp(G1, '10.0.1.77'), 'spoofed-address')
  assert.equal(weft.arp(G1, 1, G1.mac, '10.0.1.77'), 'spoofed-address')
  assert.equal(weft.udp(G1, G1.ip6), true, 'IPv6 is another matter')
  assert.equal(weft.udp(G1, '0.0.0.0', { sourcePort: 68, destinationPort: 67 }), true, 'it may ask for its lease again')
  weft.bind(G1, '10.0.1.77')
  assert.equal(weft.udp(G1, '10.0.1.77'), true, 'it may have more than one')
})

guarding("an address assigned without a MAC is any host's of the port", (weft) => {
  weft.bind(G1, G1.ip4, null)
  assert.equal(weft.udp(G1, G1.ip4), true)
  assert.equal(weft.udp({ ...G1, mac: '02:00:00:01:00:99' }, G1.ip4), true)
  assert.equal(weft.udp(G3, G1.ip4), 'spoofed-address')
})

guarding('an IPv6 address can be bound too', (weft) => {
  weft.bind(G3, G3.ip6)
  assert.equal(weft.udp(G1, G3.ip6), 'spoofed-address')
  assert.equal(weft.udp(G3, G3.ip6), true)
  const stolen = discovery(136, G1.ip6, 'ff02::1', G3.ip6, { mac: G1.mac, flags: 0x20000000 })
  assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, stolen)), 'spoofed-address')
})

for (const address of [G3.ip4, G3.ip6, 'fe80::77'])
  guarding(`the first to use ${address} has it, until it was silent for a minute`, (weft) => {
    assert.equal(weft.udp(G3, address), true)
    weft.wait(30)
    assert.equal(weft.udp(G1, address), 'spoofed-address')
    assert.equal(weft.udp(G3, address), true)
    weft.wait(60)
    assert.equal(weft.udp(G1, address), 'spoofed-address', 'for 60 seconds it stays')
    weft.wait(1)
    assert.equal(weft.udp(G1, address), true)
    assert.equal(weft.udp(G3, address), 'spoofed-address', "now it is the other's")
  })

guarding('a claim ends with the link of its port', (weft) => {
  assert.equal(weft.udp(G3, '10.0.1.50'), true)
  weft.ports(
    [
      ...A.guests.map((g) => plain(g.port, { flags: PORT_GUARDED | (g === G3 ? 0 : PORT_LINK) })),
      plain(A.gatewayPort, { flags: PORT_LINK | PORT_GATEWAY }),
    ],
    A.lan,
  )
  assert.equal(weft.udp(G1, '10.0.1.50'), true)
})

guarding('a host may change its MAC behind its port', (weft) => {
  assert.equal(weft.udp(G3, '10.0.1.50'), true)
  assert.equal(weft.udp({ ...G3, mac: '02:00:00:01:00:99' }, '10.0.1.50'), true)
})

guarding('what the router asks for goes to who answers', (weft) => {
  // a packet from outside makes the router ask; then the guest shows itself
  weft.greet(A.isp, A.uplinkMac, A.outside4, A.outside6)
  const sent = weft.from(A, G1, {
    family: 4,
    source: ip(G1.ip4),
    destination: ip('198.51.100.77'),
    protocol: 17,
    sourcePort: 5,
    destinationPort: 6,
  })
  assert.deepEqual(
    sent.map(({ port }) => port),
    [A.isp.port],
    'the router asks for the next hop',
  )
  assert.equal(weft.udp(G3, G3.ip4), true)
  weft.wait(10)
})

guarding('addresses of no subnet are not to be had but by order', (weft) => {
  for (const address of ['203.0.113.9', '1.1.1.1', '127.0.0.1', A.outside4, '2001:db8:5::1']) {
    assert.equal(weft.udp(G1, address), 'spoofed-address', address)
    assert.equal(weft.udp(G3, address), 'spoofed-address', address)
  }
  weft.bind(G1, '203.0.113.9')
  assert.equal(weft.udp(G1, '203.0.113.9'), true)
  assert.equal(weft.udp(G3, '203.0.113.9'), 'spoofed-address')
  assert.equal(weft.udp(G3, '169.254.7.7'), true, 'link-local addresses are of the link')
})

guarding('a host without an address reports its groups (RFC 3376 section 4.2.13), and does no more', (weft) => {
  assert.equal(weft.udp(G1, '0.0.0.0', { protocol: 2 }), true)
  assert.equal(weft.udp(G1, '0.0.0.0'), 'spoofed-address')
})

guarding(
  'a port that routes sends from addresses of other links',
  (weft) => {
    assert.equal(weft.udp(G1, '203.0.113.9'), true)
    assert.equal(weft.udp(G3, '203.0.113.9'), true)
  },
  PORT_GUARDED | PORT_ROUTES,
)

/** The frame with an IEEE 802.1Q tag. */
const tagged = (frame: Uint8Array, vid: number): Uint8Array =>
  Uint8Array.from([...frame.subarray(0, 12), 0x81, 0, vid >> 8, vid & 255, ...frame.subarray(12)])

guarding('what guests tag among themselves is payload; a tag of a priority alone is none', (weft) => {
  const spoofed = framed(
    G2.mac,
    G1.mac,
    build({ family: 4, source: ip('1.1.1.1'), destination: ip(G2.ip4), protocol: 17 }),
  )
  assert.equal(weft.passes(G1.port, tagged(spoofed, 5)), true)
  assert.equal(weft.passes(G1.port, tagged(spoofed, 0)), 'spoofed-address')
  const question = framed(BROADCAST, G3.mac, arp(1, G3.mac, G3.ip4, NOBODY, A.gateway4), 0x0806)
  const flooded = weft.pass(G3.port, tagged(question, 5))
  assert.ok(flooded.length > 0 && flooded.every((sent) => sent.port !== G3.port), 'the gateway does not answer')
})

guarding('many claims cost their own port alone', (weft) => {
  assert.equal(weft.udp(G3, G3.ip4), true)
  for (let i = 0; i < 200; i++) weft.udp(G1, `10.0.1.${20 + i}`)
  assert.equal(weft.udp(G1, G3.ip4), 'spoofed-address')
})

guarding('the decision is the same when runs are judged once', (weft) => {
  // a burst of frames with changing and repeated addresses: each judged as if alone
  weft.bind(G3)
  const frame = (source: string): Uint8Array =>
    framed(
      G2.mac,
      G1.mac,
      build({ family: 4, source: ip(source), destination: ip(G2.ip4), protocol: 17, sourcePort: 1 }),
    )
  const sources = [G1.ip4, G1.ip4, G3.ip4, G1.ip4, G3.ip4, G3.ip4, A.gateway4, G1.ip4]
  for (const source of sources) weft.give(G1.port, frame(source))
  assert.equal(weft.run().length, 4)
  assert.equal(weft.reasons()['spoofed-address'], 4)
})

// ---- ARP ----

guarding('ARP says who sends it', (weft) => {
  assert.equal(weft.arp(G1, 1, G3.mac, G1.ip4), 'bad-arp')
  assert.equal(weft.arp(G1, 2, A.gatewayMac, G1.ip4), 'bad-arp')
  assert.equal(weft.arp(G1, 1, G1.mac, '0.0.0.0'), true, 'a probe (RFC 5227)')
  for (const [at, value] of [
    [1, 6],
    [2, 0x86],
    [4, 8],
    [5, 16],
    [7, 3],
    [7, 0],
    [6, 1],
  ]) {
    const packet = arp(1, G1.mac, G1.ip4, NOBODY, G2.ip4)
    packet[at] = value
    assert.equal(weft.passes(G1.port, framed(BROADCAST, G1.mac, packet, 0x0806)), 'bad-arp', `byte ${at}`)
  }
  const short = arp(1, G1.mac, G1.ip4, NOBODY, G2.ip4).subarray(0, 27)
  assert.equal(weft.passes(G1.port, framed(BROADCAST, G1.mac, short, 0x0806)), 'bad-arp')
})

// ---- servers and routers ----

guarding('no answers of a DHCP server', (weft) => {
  // clients look at the port that a message comes to
  assert.equal(weft.udp(G1, G1.ip4, { sourcePort: 1067, destinationPort: 68 }), 'dhcp-server')
  assert.equal(weft.udp(G1, G1.ip6, { sourcePort: 1547, destinationPort: 546 }), 'dhcp-server')
  assert.equal(weft.udp(G1, G1.ip4, { sourcePort: 67, destinationPort: 68 }), 'dhcp-server')
  assert.equal(weft.udp(G1, G1.ip4, { sourcePort: 67, destinationPort: 68, options: [1, 1, 1, 1] }), 'dhcp-server')
  assert.equal(
    weft.udp(G1, G1.ip4, {
      sourcePort: 67,
      destinationPort: 68,
      payload: new Array(64).fill(0),
      fragment: { id: 9, from: 0, to: 8, more: true },
    }),
    'dhcp-server',
  )
  assert.equal(weft.udp(G1, G1.ip6, { sourcePort: 547, destinationPort: 546 }), 'dhcp-server')
  assert.equal(
    weft.udp(G1, G1.ip6, {
      sourcePort: 547,
      destinationPort: 546,
      extensions: [
        [0, extension(8)],
        [60, extension(24)],
      ],
    }),
    'dhcp-server',
  )
  assert.equal(weft.udp(G1, G1.ip4, { sourcePort: 68, destinationPort: 67 }), true, 'clients may ask each other')
  assert.equal(weft.udp(G1, G1.ip4, { protocol: 6, sourcePort: 67 }), true)
})

guarding(
  'a port may be allowed to serve DHCP',
  (weft) => {
    assert.equal(weft.udp(G1, G1.ip4, { sourcePort: 67, destinationPort: 68 }), true)
    assert.equal(weft.udp(G1, G1.ip6, { sourcePort: 547, destinationPort: 546 }), true)
    assert.equal(weft.udp(G1, A.gateway4, { sourcePort: 67, destinationPort: 68 }), 'spoofed-address')
  },
  PORT_GUARDED | PORT_SERVES_DHCP,
)

const advertisement = (more: Partial<Packet> = {}): Packet => ({
  family: 6,
  source: ip('fe80::11'),
  destination: ip('ff02::1'),
  protocol: 58,
  type: 134,
  hopLimit: 255,
  payload: new Array(8).fill(0),
  ...more,
})

/** Ways to hide a router advertisement from a guard that hosts may see through (RFC 7113). */
const EVASIONS: [name: string, more: Partial<Packet>][] = [
  ['plain', {}],
  ['a wrong hop limit', { hopLimit: 64 }],
  ['to a host', { destination: ip(G2.ip6) }],
  ['hop-by-hop options', { extensions: [[0, extension(8)]] }],
  ['destination options', { extensions: [[60, extension(8)]] }],
  ['long destination options', { extensions: [[60, extension(264)]] }],
  ['many headers', { extensions: Array.from({ length: 8 }, (): [number, number[]] => [60, extension(8)]) }],
  ['a routing header', { extensions: [[43, extension(8)]] }],
  ['an authentication header', { extensions: [[51, [4, ...new Array(22).fill(0)]]] }],
  ['an atomic fragment', { fragment: { id: 7, from: 0, to: 16, more: false } }],
  ['a first fragment', { fragment: { id: 7, from: 0, to: 8, more: true } }],
  ['options and a fragment', { extensions: [[60, extension(16)]], fragment: { id: 7, from: 0, to: 8, more: true } }],
  [
    'two fragment headers',
    { extensions: [[44, [0, 0, 0, 0, 0, 0, 1]]], fragment: { id: 7, from: 0, to: 16, more: false } },
  ],
]

for (const [name, more] of EVASIONS)
  guarding(`no router advertisements: ${name}`, (weft) => {
    const frame = (type: number): Uint8Array => framed(GROUP6, G1.mac, build(advertisement({ ...more, type })))
    assert.equal(weft.passes(G1.port, frame(134)), 'router-advertisement')
    assert.equal(weft.passes(G1.port, frame(137)), 'router-advertisement', 'nor redirects')
  })

guarding('a chain of headers that does not end is dropped', (weft) => {
  const nine = advertisement({ extensions: Array.from({ length: 9 }, (): [number, number[]] => [60, extension(8)]) })
  assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, build(nine))), 'ip-options', 'too long')
  const whole = build(advertisement({ extensions: [[60, extension(16)]] }))
  for (let length = 40; length < whole.length - 8; length++) {
    const cut = framed(GROUP6, G1.mac, whole.subarray(0, length))
    assert.equal(weft.passes(G1.port, cut), 'ip-options', `cut off at ${length}`)
  }
  for (let length = 0; length < 40; length++)
    assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, whole.subarray(0, length), 0x86dd)), 'bad-ip', `${length}`)
  // the header says 2048 bytes of options in a frame that is shorter
  const long = build({ ...advertisement(), extensions: [[60, [255, ...new Array(14).fill(0)]]] })
  assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, long)), 'ip-options')
})

guarding('a chain that ends behind the frame is dropped whatever it leads to', (weft) => {
  for (const protocol of [6, 59, 50, 132]) {
    const long = build({ ...advertisement(), protocol, extensions: [[60, [255, ...new Array(14).fill(0)]]] })
    assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, long)), 'ip-options', `${protocol}`)
  }
})

guarding('neighbor discovery does not come in fragments (RFC 6980)', (weft) => {
  for (const type of [133, 135, 136]) {
    const packet = advertisement({
      type,
      payload: new Array(24).fill(0),
      fragment: { id: 7, from: 0, to: 24, more: true },
    })
    assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, build(packet))), 'bad-nd', `${type}`)
  }
})

guarding(
  'a port may be allowed to be a router',
  (weft) => {
    for (const [name, more] of EVASIONS) {
      const verdict = weft.passes(G1.port, framed(GROUP6, G1.mac, build(advertisement(more))))
      assert.equal(verdict, more.fragment === undefined ? true : 'bad-nd', name)
    }
  },
  PORT_GUARDED | PORT_ROUTES,
)

guarding(
  'without the guard all of this passes',
  (weft) => {
    weft.bind(G3)
    assert.equal(weft.udp(G1, G3.ip4), true)
    assert.equal(weft.udp(G1, A.gateway4), true)
    assert.equal(weft.udp(G1, G1.ip4, { sourcePort: 67, destinationPort: 68 }), true)
    for (const [name, more] of EVASIONS)
      assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, build(advertisement(more)))), true, name)
  },
  0,
)

guarding('IPv6 from a group or from nobody', (weft) => {
  assert.equal(weft.udp(G1, 'ff02::1'), 'martian')
  assert.equal(weft.udp(G1, '::'), 'spoofed-address')
  const probe = discovery(135, '::', 'ff02::1', 'fe80::55')
  assert.equal(weft.passes(G1.port, framed(GROUP6, G1.mac, probe)), true, 'duplicate address detection')
  const report = build(
    advertisement({
      source: ip('::'),
      destination: ip('ff02::16'),
      type: 143,
      extensions: [[0, [0, 5, 2, 0, 0, 1, 0]]],
    }),
  )
  assert.equal(weft.passes(G1.port, framed('33:33:00:00:00:16', G1.mac, report)), true, 'a multicast listener report')
})

guarding('IPv4 that is too short to be judged is dropped', (weft) => {
  const whole = build({ family: 4, source: ip(G1.ip4), destination: ip(G2.ip4), protocol: 17, sourcePort: 67 })
  for (let length = 0; length < 28; length++)
    assert.equal(weft.passes(G1.port, framed(G2.mac, G1.mac, whole.subarray(0, length), 0x0800)), 'bad-ip', `${length}`)
})

guarding('IP in SNAP is dropped, other LLC passes', (weft) => {
  const inner = build({ family: 4, source: ip(G1.ip4), destination: ip(G2.ip4), protocol: 17, sourcePort: 67 })
  for (const type of [0x0800, 0x0806, 0x86dd]) {
    const snap = Uint8Array.of(0xaa, 0xaa, 3, 0, 0, 0, type >> 8, type & 255, ...inner)
    assert.equal(weft.passes(G1.port, framed(G2.mac, G1.mac, snap, snap.length)), 'bad-ip')
  }
  const bpdu = Uint8Array.of(0x42, 0x42, 3, ...inner)
  assert.equal(weft.passes(G1.port, framed(G2.mac, G1.mac, bpdu, bpdu.length)), true)
  const cisco = Uint8Array.of(0xaa, 0xaa, 3, 0, 0, 0x0c, 8, 0, ...inner)
  assert.equal(weft.passes(G1.port, framed(G2.mac, G1.mac, cisco, cisco.length)), true)
})

guarding('a spoofer changes nothing for who is spoofed', (weft) => {
  weft.bind(G3)
  weft.greet(G3, A.gatewayMac, A.gateway4, A.gateway6)
  weft.greet(A.isp, A.uplinkMac, A.outside4, A.outside6)
  weft.arp(G1, 2, G1.mac, G3.ip4, A.gateway4)
  weft.from(A, { ...G1, mac: G3.mac }, { family: 4, source: ip(G3.ip4), destination: ip('192.0.2.1'), protocol: 17 })
  const sent = weft.from(A, G2, { family: 4, source: ip(G2.ip4), destination: ip(G2.ip4), protocol: 17 })
  assert.ok(sent.every(({ port }) => port !== G1.port))
  const pings = weft.from(A, A.isp, {
    family: 4,
    source: ip(A.isp.ip4),
    destination: ip(A.outside4),
    protocol: 1,
    type: 8,
  })
  assert.ok(pings.every(({ port }) => port === A.isp.port))
})
