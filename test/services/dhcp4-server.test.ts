/**
 * services/dhcp4-server.ts, -reply.ts and -options.ts: each exchange of RFC 2131, options, relays, PXE, the probe, the
 * journal, and hostile clients.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, test } from 'node:test'
import { formatIp, ipFromBytes } from '../../src/services/address.js'
import { decodeRelay, decodeRoutes, encodeOption, optionCode } from '../../src/services/dhcp4-options.js'
import type { Dhcp4Settings } from '../../src/services/dhcp4-reply.js'
import { Dhcp4Server } from '../../src/services/dhcp4-server.js'
import type { Dhcp4Options } from '../../src/services/dhcp4-server.js'
import { readDatagram } from '../../src/services/frame.js'
import type { Datagram } from '../../src/services/frame.js'
import { LeaseJournal } from '../../src/services/lease-journal.js'
import { DEFAULT_LEASE_SETTINGS, Leases } from '../../src/services/leases.js'
import type { LeaseSettings } from '../../src/services/leases.js'
import { CLIENT, SERVER_MAC, bytesOf, frames, ip, macBytes, message, read, seeded, settings } from './dhcp4-rig.js'
import type { RawFields, RawOptions } from './dhcp4-rig.js'

const NOW = 1_800_000_000
const [DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM] = [1, 2, 3, 4, 5, 6, 7, 8]
const SERVER = [10, 0, 0, 1]

interface Made {
  server: Dhcp4Server
  leases: Leases
  /** the answer, which must be there at once or not at all */
  ask: (type: number, fields?: RawFields, port?: string, at?: number) => Datagram | null
}

function make(
  changes: Partial<Dhcp4Settings> = {},
  leaseChanges: Partial<LeaseSettings> = {},
  more: Partial<Dhcp4Options> = {},
): Made {
  const leases = more.leases ?? new Leases('net', null, NOW, () => undefined)
  leases.configure({ ...DEFAULT_LEASE_SETTINGS, excluded: [ip('10.0.0.1')], ...leaseChanges })
  const server = new Dhcp4Server({ settings: settings(changes), probe: null, ...more, leases })
  const ask: Made['ask'] = (type, fields = {}, port = 'p1', at = NOW) => {
    const answer = server.handle(message(type, fields), { port, nowSeconds: at })
    assert.ok(!(answer instanceof Promise))
    return answer
  }
  return { server, leases, ask }
}

const quad = (text: string): number[] => text.split('.').map(Number)
const yours = (answer: Datagram | null): string => formatIp(read(answer!).yiaddr ?? [0])
const typeOf = (answer: Datagram | null): number => (answer === null ? 0 : read(answer).options.get(53)![0])

/** DISCOVER and REQUEST; the ACK. */
function exchange({ ask }: Made, fields: RawFields = {}, port = 'p1', at = NOW): Datagram | null {
  const offer = ask(DISCOVER, fields, port, at)
  if (offer === null) return null
  return ask(REQUEST, { ...fields, options: { ...fields.options, 50: quad(yours(offer)), 54: SERVER } }, port, at)
}

suite('dhcp4-server', () => {
  test("scapy's DISCOVER gets the address that it asks for, and the options in its order", () => {
    const { server } = make({ routes: [{ destination: { ip: ip('192.168.40.0'), prefix: 22 }, via: ip('10.0.0.2') }] })
    const answer = server.handle(readDatagram(frames.discover)!, { port: 'p1', nowSeconds: NOW }) as Datagram
    const offer = read(answer)
    assert.equal(formatIp(offer.yiaddr!), '10.0.0.77')
    assert.deepEqual([...offer.options.keys()], [53, 54, 61, 51, 58, 59, 1, 121, 3, 6, 15, 26, 28])
    assert.equal(offer.xid, 0x3903f326)
    assert.deepEqual([...offer.options.get(51)!], [0, 0, 14, 16])
    assert.deepEqual([...offer.options.get(59)!], [0, 0, 0x0c, 0x4e])
    assert.deepEqual([...offer.options.get(61)!], [1, ...macBytes(CLIENT)])
    const routes = decodeRoutes(offer.options.get(121)!)!
    assert.deepEqual(
      routes.map(({ destination, via }) => `${formatIp(destination.ip)} ${formatIp(via)}`),
      ['0.0.0.0 10.0.0.1', '192.168.40.0 10.0.0.2'],
    )
    // broadcast, as its flag says
    assert.deepEqual([...answer.destination.ip], [255, 255, 255, 255])
    assert.deepEqual([answer.source.port, answer.destination.port], [67, 68])
    assert.deepEqual([...answer.source.mac], [...macBytes(SERVER_MAC)])
  })

  test('selecting: ACK to the offered address, by unicast to it', () => {
    const made = make()
    const ack = exchange(made)!
    assert.equal(typeOf(ack), ACK)
    assert.equal(formatIp(ipFromBytes(ack.destination.ip)), yours(ack))
    assert.deepEqual([...ack.destination.mac], [...macBytes(CLIENT)])
    assert.equal(made.leases.list().length, 1)
  })

  test('selecting another server: silence, and the offer is free again', () => {
    const made = make()
    const offered = yours(made.ask(DISCOVER))
    assert.equal(made.ask(REQUEST, { options: { 50: quad(offered), 54: [10, 0, 0, 9] } }), null)
    assert.equal(made.leases.find({ mac: CLIENT, port: 'p1', client: '', association: '' }, [0]), null)
  })

  test('renewing and rebinding: the same address, a new end; unicast to ciaddr', () => {
    const made = make()
    const address = yours(exchange(made))
    const ack = made.ask(REQUEST, { ciaddr: address }, 'p1', NOW + 30)
    assert.deepEqual([typeOf(ack), yours(ack)], [ACK, address])
    assert.equal(formatIp(ipFromBytes(ack!.destination.ip)), address)
    assert.equal(made.leases.list()[0].expiresAt, NOW + 3630)
  })

  test('init-reboot: its own address; the wrong network is refused by broadcast; so is what is another’s', () => {
    const made = make()
    const address = yours(exchange(made))
    assert.equal(typeOf(made.ask(REQUEST, { options: { 50: quad(address) } })), ACK)
    for (const wrong of ['192.168.1.5', '10.0.0.1', '10.0.0.255', '10.0.0.251']) {
      const nak = made.ask(REQUEST, { options: { 50: quad(wrong) } })!
      assert.equal(typeOf(nak), NAK, wrong)
      assert.deepEqual([...nak.destination.mac], new Array(6).fill(255))
      assert.deepEqual([read(nak).yiaddr, read(nak).options.has(51), read(nak).options.has(1)], [null, false, false])
    }
    const other = '52:54:00:00:00:09'
    assert.equal(typeOf(made.ask(REQUEST, { mac: other, options: { 50: quad(address) } }, 'p2')), NAK)
    assert.equal(typeOf(made.ask(REQUEST, { mac: other, ciaddr: address }, 'p2')), NAK)
  })

  test('an address that it does not know, but that is free, is confirmed: its journal was lost', () => {
    assert.equal(yours(make().ask(REQUEST, { ciaddr: '10.0.0.33' })), '10.0.0.33')
    assert.equal(yours(make().ask(REQUEST, { options: { 50: [10, 0, 0, 34], 54: SERVER } })), '10.0.0.34')
  })

  test('rapid commit', () => {
    const { ask, leases } = make()
    const ack = ask(DISCOVER, { options: { 80: [] } })
    assert.deepEqual([typeOf(ack), read(ack!).options.get(80)!.length], [ACK, 0])
    assert.equal(leases.list().length, 1)
  })

  test('INFORM: options without an address or times, only for the one who has the address', () => {
    const made = make()
    const address = yours(exchange(made))
    const ack = made.ask(INFORM, { ciaddr: address })!
    const { yiaddr, options } = read(ack)
    assert.deepEqual([typeOf(ack), yiaddr, options.has(51), options.has(3)], [ACK, null, false, true])
    assert.equal(made.ask(INFORM, { ciaddr: address, mac: '52:54:00:00:00:09' }, 'p2'), null)
    assert.equal(made.ask(INFORM, { ciaddr: '192.168.1.1' }), null)
    assert.equal(typeOf(made.ask(INFORM, { ciaddr: '10.0.0.5' }, 'p3')), ACK) // a host with a fixed address
    assert.equal(made.ask(INFORM), null)
  })

  test('DECLINE: the address rests, the client gets another; RELEASE: only from the owner’s port', () => {
    const made = make()
    const address = yours(exchange(made))
    const options = { 50: quad(address), 54: SERVER }
    assert.equal(made.ask(RELEASE, { ciaddr: address, options: { 54: SERVER } }, 'p2'), null)
    assert.equal(made.ask(DECLINE, { options }, 'p2'), null)
    assert.equal(made.ask(DECLINE, { options: { ...options, 54: [9, 9, 9, 9] } }), null)
    assert.equal(made.leases.list().length, 1)
    made.ask(DECLINE, { options })
    const second = yours(exchange(made))
    assert.notEqual(second, address)
    made.ask(RELEASE, { ciaddr: second, options: { 54: SERVER } })
    assert.equal(made.leases.list().length, 0)
  })

  test('BOOTP: only with a reservation, for good, without options', () => {
    const reservations = [{ mac: CLIENT, address: ip('10.0.0.5'), name: 'old' }]
    const { ask, leases } = make({ bootServer: ip('10.0.0.3'), bootFiles: { default: 'kernel' } }, { reservations })
    const found = ask(0)!
    assert.equal(yours(found), '10.0.0.5')
    assert.deepEqual([read(found).options.size, read(found).file, found.payload.length], [0, 'kernel', 300])
    assert.equal(leases.list()[0].expiresAt, Number.POSITIVE_INFINITY)
    assert.equal(ask(0, { mac: '52:54:00:00:00:09' }, 'p2'), null)
  })

  test('lease times: as asked for within bounds, infinite', () => {
    const seconds = (made: Made, wish: number[]): number =>
      Buffer.from(read(made.ask(DISCOVER, { options: { 51: wish } })!).options.get(51)!).readUInt32BE(0)
    assert.equal(seconds(make(), [0, 0, 2, 0]), 512)
    assert.equal(seconds(make(), [0, 0, 0, 1]), 120)
    assert.equal(seconds(make(), [255, 255, 255, 255]), 3600)
    assert.equal(seconds(make(), [1]), 3600)
    const ack = read(exchange(make({ leaseSeconds: Number.POSITIVE_INFINITY }))!)
    assert.deepEqual([...ack.options.get(51)!], [255, 255, 255, 255])
    assert.equal(ack.options.has(58), false)
  })

  test('MTU unasked if it is not 1500; host name, domain, search, NTP when asked; FQDN', () => {
    const made = make({ mtu: 1400, search: ['a.test', 'b.test'], ntp: [ip('10.0.0.7')] })
    const wished = { 55: [12, 15, 119, 42, 43, 249], 12: 'Web.x', 81: [0, 0, 0, ...Buffer.from('web')] }
    const { options } = read(exchange(made, { options: wished })!)
    assert.deepEqual([...options.get(26)!], [5, 120])
    const text = (code: number): string => Buffer.from(options.get(code)!).toString('latin1')
    assert.deepEqual([text(12), text(15), text(119)], ['web', 'weft.test', '\x01a\x04test\0\x01b\x04test\0'])
    assert.deepEqual([...options.get(42)!], [10, 0, 0, 7])
    assert.equal(options.has(3), false)
    assert.equal(text(81), '\x03\xff\xffweb.weft.test')
    const wire = [5, 0, 0, 2, 100, 98, 0]
    const encoded = read(exchange(made, { options: { 81: wire }, mac: '52:54:00:00:00:02' }, 'p2')!).options
    assert.equal(Buffer.from(encoded.get(81)!).toString('latin1'), '\x05\xff\xff\x02db\x04weft\x04test\0')
    // a second guest with the name: the address, not the name
    const second = read(exchange(made, { options: { 12: 'web' }, mac: '52:54:00:00:00:03' }, 'p3')!).options
    assert.equal(second.has(12), false)
  })

  test('PXE: by architecture, iPXE, the rest; HTTP boot hears its class', () => {
    const http16 = 'http://10.0.0.3/boot.efi'
    const bootFiles = { 0: 'pxelinux.0', 7: 'grub.efi', 16: http16, ipxe: 'menu.ipxe', default: 'x' }
    const made = make({ bootServer: ip('10.0.0.3'), bootFiles })
    const ask = (options: RawOptions): ReturnType<typeof read> => read(made.ask(DISCOVER, { options })!)
    assert.equal(ask({ 93: [0, 0] }).file, 'pxelinux.0')
    const efi = ask({ 93: [0, 7], 97: [0, ...new Array(16).fill(7)] })
    assert.deepEqual([efi.file, formatIp(efi.siaddr!), efi.options.get(97)!.length], ['grub.efi', '10.0.0.3', 17])
    assert.equal(Buffer.from(efi.options.get(67)!).toString(), 'grub.efi')
    assert.equal(Buffer.from(efi.options.get(66)!).toString(), '10.0.0.3')
    assert.equal(ask({ 93: [0, 7], 77: 'iPXE' }).file, 'menu.ipxe')
    const http = ask({ 93: [0, 16], 60: 'HTTPClient:Arch:00016' })
    assert.equal(Buffer.from(http.options.get(60)!).toString(), 'HTTPClient')
    for (const odd of [{ 93: [0, 9] }, { 93: [7] }, { 93: [] }, {}]) assert.equal(ask(odd).file, 'x')
    assert.equal(ask({ 97: [0, 1] }).options.has(97), false)
  })

  test('own options by number', () => {
    const options = new Map([
      [6, encodeOption(6, '9.9.9.9, 1.1.1.1')],
      [114, encodeOption(114, 'https://portal.test/')],
      [150, encodeOption(150, '10.0.0.4')],
      [43, encodeOption(43, 'hex:01020304')],
    ])
    const { options: said } = read(make({ options }).ask(DISCOVER)!)
    assert.deepEqual([...said.get(6)!], [9, 9, 9, 9, 1, 1, 1, 1])
    assert.deepEqual([...said.get(43)!], [1, 2, 3, 4])
    assert.equal(Buffer.from(said.get(114)!).toString(), 'https://portal.test/')
  })

  test('relay: to the relay, option 82 last and as it came; the relay’s subnet; RFC 3527 and 5107', () => {
    const far = {
      subnet: { ip: ip('10.5.0.0'), prefix: 24 },
      server: ip('10.0.0.1'),
      router: ip('10.5.0.1'),
      range: { from: ip('10.5.0.10'), to: ip('10.5.0.20') },
      isOnLink: false,
    }
    const made = make({ subnets: [...settings().subnets, far] })
    const from = '02:00:00:00:00:99'
    const relay = [1, 2, 0xab, 0xcd, 11, 4, 10, 5, 0, 1]
    const fields = { giaddr: '10.5.0.1', from, options: { 82: relay, 61: [1, 2, 3] } }
    const offer = made.ask(DISCOVER, fields)!
    const found = read(offer)
    assert.equal(formatIp(found.yiaddr!), yours(made.ask(DISCOVER, fields)))
    assert.match(formatIp(found.yiaddr!), /^10\.5\.0\./)
    assert.deepEqual([[...offer.destination.ip], offer.destination.port], [[10, 5, 0, 1], 67])
    assert.deepEqual([...offer.destination.mac], [...macBytes(from)])
    assert.deepEqual([[...found.options.keys()].at(-1), [...found.options.get(82)!]], [82, relay])
    assert.deepEqual([...found.options.get(54)!], [10, 5, 0, 1])
    const request = { ...fields, options: { ...fields.options, 50: quad(yours(offer)), 54: [10, 5, 0, 1] } }
    assert.equal(typeOf(made.ask(REQUEST, request)), ACK)
    const linked = { 82: [5, 4, 10, 5, 0, 0] }
    const chosen = made.ask(DISCOVER, { giaddr: '172.16.0.1', from, mac: '52:54:00:00:00:05', options: linked })
    assert.match(yours(chosen), /^10\.5\.0\./)
    assert.equal(made.ask(DISCOVER, { giaddr: '172.16.0.1', from }), null)
    // malformed: not echoed, not obeyed; without a relay: not echoed
    for (const wrong of [[1], [1, 5, 0], [11, 4, 1, 2, 3]])
      assert.equal(read(made.ask(DISCOVER, { ...fields, options: { 82: wrong } })!).options.has(82), false)
    assert.equal(read(made.ask(DISCOVER, { options: { 82: relay } })!).options.has(82), false)
    const nak = made.ask(REQUEST, { ...fields, options: { 50: [1, 2, 3, 4] } })!
    assert.deepEqual([read(nak).isBroadcast, nak.destination.port], [true, 67])
  })

  test('a hardware address that is not the frame’s source gets nothing', () => {
    const { ask, server } = make()
    assert.equal(ask(DISCOVER, { from: '52:54:00:00:00:99' }), null)
    assert.equal(server.counts.spoofed, 1)
  })

  test('a port that sends too much is limited, the others are not', () => {
    const { ask, server } = make()
    let answers = 0
    for (let i = 0; i < 100; i++) if (ask(DISCOVER, {}, 'bad') !== null) answers++
    assert.deepEqual([answers, server.counts.limited], [20, 80])
    assert.ok(ask(DISCOVER, { mac: '52:54:00:00:00:02' }, 'good'))
    assert.ok(ask(DISCOVER, {}, 'bad', NOW + 1))
  })

  test('every truncation and inflated length: nothing is echoed that was not sent', () => {
    const marker = 'c0ffee'
    const { server } = make()
    const options = { 61: bytesOf(`01${marker}`), 82: [1, 3, ...bytesOf(marker)] }
    const whole = message(DISCOVER, { giaddr: '10.0.0.9', options })
    let now = NOW
    const tryOne = (payload: Uint8Array): void => {
      now += 1
      const answer = server.handle({ ...whole, payload }, { port: 'p1', nowSeconds: now }) as Datagram | null
      if (answer === null) return
      const said = read(answer).options
      for (const code of [61, 82, 97]) {
        const echoed = said.get(code)
        if (echoed === undefined) continue
        assert.ok(Buffer.from(payload).includes(Buffer.from(echoed)), `option ${code}`)
        assert.ok(code !== 82 || decodeRelay(echoed) !== null)
      }
    }
    for (let length = 0; length <= whole.payload.length; length++) tryOne(whole.payload.slice(0, length))
    for (let at = 236; at < 275; at++)
      for (const value of [0, 1, 52, 127, 254, 255]) {
        const payload = whole.payload.slice()
        payload[at] = value
        tryOne(payload)
      }
    const random = seeded(52)
    for (let i = 0; i < 3000; i++) {
      const payload = whole.payload.slice()
      for (let n = 0; n < 8; n++) payload[random() % 2 ? 236 + (random() % 60) : random()] = random()
      tryOne(payload)
    }
  })

  test('the probe: an address in use is passed over, silence means free, the answer does not wait long', async () => {
    const asked: string[] = []
    const used = new Set<string>()
    let later = (): void => undefined
    const more: Partial<Dhcp4Options> = {
      probe: (address) => {
        asked.push(formatIp(address))
        return used.has(formatIp(address)) ? Promise.resolve(true) : new Promise(() => undefined)
      },
      later: (run, milliseconds) => {
        assert.equal(milliseconds, 200)
        later = run
      },
    }
    const { server, leases } = make({}, {}, more)
    used.add('10.0.0.77')
    const options = { 50: [10, 0, 0, 77] }
    const context = { port: 'p1', nowSeconds: NOW }
    const waiting = server.handle(message(DISCOVER, { options }), context)
    assert.ok(waiting instanceof Promise)
    assert.equal(server.handle(message(DISCOVER, { options }), context), null) // a repetition
    for (let i = 0; i < 20; i++) await Promise.resolve()
    later()
    const offer = await waiting
    assert.notEqual(yours(offer), '10.0.0.77')
    assert.deepEqual(asked, ['10.0.0.77', yours(offer)])
    assert.equal(server.counts.inUse, 1)
    // asked once: the next offer and the request are answered at once
    assert.ok(!(server.handle(message(DISCOVER), context) instanceof Promise))
    const request = message(REQUEST, { options: { 50: quad(yours(offer)), 54: SERVER } })
    assert.equal(typeOf(server.handle(request, context) as Datagram), ACK)
    assert.equal(leases.list().length, 1)
    // an unknown address is probed before it is confirmed
    used.add('10.0.0.88')
    const other = { mac: '52:54:00:00:00:08', ciaddr: '10.0.0.88' }
    const answer = server.handle(message(REQUEST, other), { port: 'p2', nowSeconds: NOW })
    assert.ok(answer instanceof Promise)
    for (let i = 0; i < 20; i++) await Promise.resolve()
    later()
    assert.equal(typeOf(await answer), NAK)
  })

  test('a probe of everything in use ends, and a failing one means free', async () => {
    const tight = { ...settings().subnets[0], range: { from: ip('10.0.0.10'), to: ip('10.0.0.12') } }
    const context = { port: 'p1', nowSeconds: NOW }
    const later = (): void => undefined
    const all = make({ subnets: [tight] }, {}, { probe: () => Promise.resolve(true), later })
    assert.equal(await all.server.handle(message(DISCOVER), context), null)
    assert.deepEqual([all.server.counts.inUse, all.server.counts.exhausted], [3, 1])
    const broken = make({}, {}, { probe: () => Promise.reject(new Error('no')), later })
    assert.equal(typeOf(await broken.server.handle(message(DISCOVER), context)), OFFER)
  })

  test('the journal: an ACK only after it, one wait for many, none if it fails; a restart keeps all', () => {
    const folder = mkdtempSync(join(tmpdir(), 'weft-dhcp4-'))
    const file = join(folder, 'net.journal')
    const journal = new LeaseJournal(file)
    const problems: string[] = []
    const leases = new Leases('net', journal, NOW, () => undefined)
    const made = make({}, {}, { leases, onProblem: (reason) => problems.push(reason) })
    const address = yours(exchange(made))
    assert.ok(journal.isClean)
    const restarted = make({}, {}, { leases: new Leases('net', new LeaseJournal(file), NOW + 9, () => undefined) })
    assert.equal(yours(exchange(restarted, {}, 'p1', NOW + 9)), address)
    const nobody = exchange(restarted, { mac: '52:54:00:00:00:02', options: { 50: quad(address) } }, 'p2', NOW + 9)
    assert.notEqual(yours(nobody), address)
    const commit = journal.commit.bind(journal)
    let commits = 0
    journal.commit = () => {
      commits++
      commit()
    }
    const macs = ['3', '4', '5'].map((n) => `52:54:00:00:00:0${n}`)
    const answers = made.server.handleAll(
      macs.map((mac) => [message(DISCOVER, { mac, options: { 80: [] } }), { port: mac, nowSeconds: NOW }]),
    )
    assert.deepEqual([answers.map((one) => typeOf(one as Datagram)), commits], [[ACK, ACK, ACK], 1])
    journal.commit = () => {
      throw new Error('ENOSPC')
    }
    assert.equal(made.ask(REQUEST, { ciaddr: address }), null)
    assert.deepEqual(problems, ['leases cannot be written: ENOSPC'])
    rmSync(folder, { recursive: true })
  })

  test('starvation: a port with many addresses leaves the others theirs', () => {
    const range = { from: ip('10.0.0.10'), to: ip('10.0.0.20') }
    const made = make({ subnets: [{ ...settings().subnets[0], range }] }, { portLimit: 4 })
    for (let i = 0; i < 200; i++) {
      const mac = `52:54:00:00:01:${i.toString(16).padStart(2, '0')}`
      exchange(made, { mac }, 'bad', NOW + i)
    }
    assert.equal(typeOf(exchange(made, {}, 'good', NOW + 200)), ACK)
  })
})

suite('dhcp4-options', () => {
  test('text of each type, and what is none', () => {
    const good: [number, string, string][] = [
      [42, '10.0.0.1,10.0.0.2', '0a0000010a000002'],
      [23, '64', '40'],
      [13, '513', '0201'],
      [2, '-3600', 'fffff1f0'],
      [108, '4294967295', 'ffffffff'],
      [19, 'true', '01'],
      [67, 'boot', '626f6f74'],
      [119, 'a.test', '01610474657374' + '00'],
      [121, '10.1.0.0/16 10.0.0.2, 0.0.0.0/0 10.0.0.1', '100a010a000002' + '000a000001'],
      [43, '01:02', '0102'],
      [224, '10.0.0.1', '0a000001'],
      [224, 'word', '776f7264'],
      [224, 'hex:00ff', '00ff'],
    ]
    for (const [code, text, hex] of good) assert.equal(Buffer.from(encodeOption(code, text)).toString('hex'), hex, text)
    const bad: [number, string][] = [
      [42, '10.0.0'],
      [42, 'fd00::1'],
      [16, '10.0.0.1,10.0.0.2'],
      [23, '256'],
      [23, '-1'],
      [23, '1.5'],
      [108, '4294967296'],
      [19, 'yes'],
      [67, ''],
      [119, 'a..b'],
      [121, '10.1.0.1/16 10.0.0.2'],
      [121, '10.1.0.0/16'],
      [121, 'fd00::/64 fd00::1'],
      [43, '0'],
      [43, 'hex:'],
      [53, '1'],
    ]
    for (const [code, text] of bad)
      assert.throws(() => encodeOption(code, text), /^Error: option \d+: /, `${code} ${text}`)
    assert.throws(() => encodeOption(67, 'x'.repeat(1025)), /at most 1024/)
  })

  test('names and numbers; what belongs to the protocol cannot be set', () => {
    assert.deepEqual(['42', 'ntp-servers', '252', '224'].map(optionCode), [42, 42, 252, 224])
    for (const key of ['0', '255', '256', '-1', '1e2', 'x', '', '53', 'lease-time', '82', '052', '__proto__'])
      assert.equal(optionCode(key), null, key)
  })

  test('routes: every truncation is refused', () => {
    const bytes = Uint8Array.from(bytesOf('180a00010a000002' + '20c0a80101' + '0a000003'))
    assert.equal(decodeRoutes(bytes)!.length, 2)
    for (let length = 1; length < bytes.length; length++)
      if (length !== 8) assert.equal(decodeRoutes(bytes.slice(0, length)), null, `${length}`)
    assert.equal(decodeRoutes(Uint8Array.of(33, 0, 0, 0, 0, 0, 0, 0, 0, 0)), null)
  })
})
