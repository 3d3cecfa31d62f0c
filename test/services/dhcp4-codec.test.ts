/**
 * services/dhcp4-codec.ts: frames made by scapy, option overload, long options, every truncation and inflated length,
 * and tshark as the judge of what is written, where it is installed.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, test } from 'node:test'
import { formatIp } from '../../src/services/address.js'
import { decodeMessage, encodeMessage, messageType } from '../../src/services/dhcp4-codec.js'
import type { Message4 } from '../../src/services/dhcp4-codec.js'
import { readDatagram, writeDatagram } from '../../src/services/frame.js'
import { frames, ip, macBytes, message, seeded } from './dhcp4-rig.js'

const payloadOf = (frame: Uint8Array): Uint8Array => readDatagram(frame)!.payload
const blank: Message4 = {
  op: 2,
  hops: 0,
  xid: 0x3903f326,
  secs: 0,
  isBroadcast: false,
  ciaddr: null,
  yiaddr: ip('10.0.0.77'),
  siaddr: null,
  giaddr: null,
  chaddr: macBytes('52:54:00:12:34:56'),
  sname: '',
  file: '',
  options: new Map([[53, Uint8Array.of(5)]]),
}

suite('dhcp4-codec', () => {
  test("scapy's messages are read", () => {
    const discover = decodeMessage(payloadOf(frames.discover))!
    assert.equal(messageType(discover), 1)
    assert.deepEqual([discover.xid, discover.secs, discover.isBroadcast, discover.op], [0x3903f326, 3, true, 1])
    assert.deepEqual(discover.options!.get(50), Uint8Array.of(10, 0, 0, 77))
    assert.deepEqual([...discover.options!.keys()], [53, 61, 50, 57, 12, 55])
    assert.equal(Buffer.from(discover.options!.get(12)!).toString(), 'vm1')
    const request = decodeMessage(payloadOf(frames.request))!
    assert.equal(formatIp(request.ciaddr!), '10.0.0.77')
    const ack = decodeMessage(payloadOf(frames.ack))!
    assert.deepEqual([formatIp(ack.yiaddr!), formatIp(ack.siaddr!), ack.file], ['10.0.0.77', '10.0.0.1', 'boot.efi'])
  })

  test("scapy's messages are written, with padding to 300 bytes", () => {
    for (const frame of [frames.discover, frames.request, frames.ack]) {
      const bytes = payloadOf(frame)
      const written = encodeMessage(decodeMessage(bytes)!, 1472)
      assert.deepEqual(written.subarray(0, bytes.length), bytes)
      assert.ok(written.length >= 300 && written.subarray(bytes.length).every((byte) => byte === 0))
    }
  })

  test('every truncation is refused, or read without the option that was cut off', () => {
    const bytes = payloadOf(frames.ack)
    const whole = decodeMessage(bytes)!.options!
    for (let length = 0; length < bytes.length; length++) {
      const found = decodeMessage(bytes.slice(0, length))
      if (length < 236) assert.equal(found, null)
      else if (length < 240) assert.equal(found!.options, null)
      else for (const [code, value] of found?.options ?? []) assert.deepEqual(value, whole.get(code), `${length}`)
    }
  })

  test('an inflated length of any option refuses the message, or shows received bytes only', () => {
    const bytes = payloadOf(frames.ack)
    for (let at = 240; at < bytes.length; at++) {
      const changed = bytes.slice()
      changed[at] = 255
      const found = decodeMessage(changed)
      let sum = 0
      for (const value of found?.options?.values() ?? []) sum += value.length
      assert.ok(sum <= bytes.length - 240)
    }
  })

  test('overload: options in file and sname count, once, and behind those of the options field', () => {
    const { payload } = message(1, { options: { 52: [3], 12: 'a' } })
    payload.set([12, 1, 98, 15, 1, 120, 52, 1, 3, 255], 108)
    payload.set([12, 1, 99], 44)
    const found = decodeMessage(payload)!
    assert.equal(Buffer.from(found.options!.get(12)!).toString(), 'abc')
    assert.equal(Buffer.from(found.options!.get(15)!).toString(), 'x')
    assert.deepEqual([found.file, found.sname, found.options!.has(52)], ['', '', false])
  })

  test('overload that is impossible, or whose options go beyond the field, is refused', () => {
    for (const value of [[0], [4], [255], [1, 1], []])
      assert.equal(decodeMessage(message(1, { options: { 52: value } }).payload), null, `${value}`)
    const { payload } = message(1, { options: { 52: [1] } })
    payload.set([12, 127], 108)
    assert.equal(decodeMessage(payload), null)
    const twice = message(1, { options: { 52: [1] } }).payload
    twice.set([52, 1, 1, 255], 246)
    assert.equal(decodeMessage(twice), null) // RFC 3396: a value of two bytes
  })

  test('duplicates are one value, of length 0 too; unknown options are kept', () => {
    const { payload } = message(1)
    payload.set([12, 0, 12, 2, 97, 98, 0, 0, 12, 1, 99, 200, 0, 255, 12, 1, 100], 243)
    const found = decodeMessage(payload)!
    assert.equal(Buffer.from(found.options!.get(12)!).toString(), 'abc')
    assert.deepEqual(found.options!.get(200), new Uint8Array(0))
  })

  test('other hardware, operations and hop counts are refused', () => {
    for (const [at, value] of [
      [0, 0],
      [0, 3],
      [1, 6],
      [2, 0],
      [2, 16],
      [2, 255],
      [3, 17],
    ]) {
      const { payload } = message(1)
      payload[at] = value
      assert.equal(decodeMessage(payload), null, `byte ${at} ${value}`)
    }
    assert.equal(decodeMessage(new Uint8Array(16385).fill(1)), null)
  })

  test('without the cookie it is BOOTP', () => {
    const found = decodeMessage(message(0).payload)!
    assert.deepEqual([found.options, messageType(found)], [null, 0])
    assert.equal(encodeMessage({ ...found, op: 2 }, 576).length, 300)
  })

  test('long values are cut and joined', () => {
    const random = seeded(3396)
    for (const length of [0, 1, 254, 255, 256, 510, 511, 700]) {
      const value = Uint8Array.from({ length }, random)
      const options = new Map([...blank.options!, [43, value]])
      const found = decodeMessage(encodeMessage({ ...blank, options }, 1472))!
      assert.deepEqual(found.options, options)
    }
  })

  test('what does not fit goes into file and sname; then it is left out, but for option 82', () => {
    const options = new Map(blank.options)
    for (let code = 100; code < 140; code++) options.set(code, new Uint8Array(12).fill(code))
    options.set(82, Uint8Array.of(1, 2, 7, 7))
    const bytes = encodeMessage({ ...blank, options }, 548)
    const found = decodeMessage(bytes)!
    assert.ok(bytes.length <= 548)
    assert.ok(Buffer.from(bytes).includes(Buffer.from([52, 1, 3])))
    for (const [code, value] of found.options!) assert.deepEqual(value, options.get(code))
    assert.ok(found.options!.has(82))
    assert.equal(found.options!.size, 2 + 21 + 9 + 4)
    const named = decodeMessage(encodeMessage({ ...blank, options, file: 'x', sname: 'y' }, 548))!
    assert.deepEqual([named.file, named.sname, named.options!.size], ['x', 'y', 2 + 21])
  })

  test('bytes at random do no harm', () => {
    const random = seeded(2131)
    for (let i = 0; i < 5000; i++) {
      const bytes = payloadOf(frames.ack).slice()
      for (let n = 0; n < 6; n++) bytes[random() % 2 === 0 ? 240 + (random() % 90) : random()] = random()
      const found = decodeMessage(bytes)
      if (found?.options) assert.deepEqual(decodeMessage(encodeMessage(found, 1472))!.options, found.options)
    }
  })

  const hasTshark = spawnSync('tshark', ['--version']).status === 0
  test('tshark reads what is written', { skip: !hasTshark && 'no tshark' }, () => {
    const options = new Map<number, Uint8Array>([
      [53, Uint8Array.of(2)],
      [54, Uint8Array.of(10, 0, 0, 1)],
      [51, Uint8Array.of(0, 0, 14, 16)],
      [121, Uint8Array.of(0, 10, 0, 0, 1, 22, 192, 168, 40, 10, 0, 0, 2)],
      [26, Uint8Array.of(5, 120)],
      [43, new Uint8Array(300).fill(0)],
      [15, Uint8Array.from(Buffer.from('weft.test'))],
    ])
    const payload = encodeMessage({ ...blank, options }, 576)
    const frame = writeDatagram({ ...readDatagram(frames.ack)!, payload })
    const folder = mkdtempSync(join(tmpdir(), 'weft-dhcp-'))
    const file = join(folder, 'one.pcap')
    const header = Buffer.alloc(40)
    header.set([0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1])
    header.set([frame.length & 255, frame.length >> 8, 0, 0, frame.length & 255, frame.length >> 8], 32)
    writeFileSync(file, Buffer.concat([header, frame]))
    const checks = ['-o', 'udp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE']
    const text: string = spawnSync('tshark', ['-r', file, '-V', ...checks]).stdout.toString()
    rmSync(folder, { recursive: true })
    for (const part of [
      'Dynamic Host Configuration Protocol (Offer)',
      'Your (client) IP address: 10.0.0.77',
      'DHCP Server Identifier (10.0.0.1)',
      '192.168.40.0/22-10.0.0.2',
      'Interface MTU: 1400',
      'Domain Name: weft.test',
      'Checksum Status: Good',
    ])
      assert.ok(text.includes(part), `${part}\n${text}`)
    assert.doesNotMatch(text, /Malformed|\[Expert Info \(Error|incorrect/)
  })
})
