/**
 * The judge of checksums (the rig's `outside-world.ts`), itself judged: TCP's other zero passes, as Linux sends it, and
 * nothing else that is wrong does.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { needs } from '../rig/commands.js'
import { checksum, concat, ethernet, ipBytes, ipv4, mac, udp } from '../rig/frames.js'
import { judge } from '../rig/outside-world.js'

const A = '10.0.0.5'
const B = '192.0.2.9'
const TCP = 6
const TCP_CHECKSUM = 16
const UDP_CHECKSUM = 6
const IP_CHECKSUM = 10
const IP_BYTES = 20

const folder = mkdtempSync(join(tmpdir(), `weftt-${process.pid}-judge-`))
after(() => rmSync(folder, { recursive: true }))
let files = 0

/** A capture of IP packets. */
function captured(...packets: Uint8Array[]): string {
  const head = new Uint8Array(new Uint32Array([0xa1b2c3d4, 0x00040002, 0, 0, 65535, 1]).buffer)
  const records = packets.flatMap((packet) => {
    const frame = ethernet(mac(1), mac(2), 0x0800, packet)
    return [new Uint8Array(new Uint32Array([1, 0, frame.length, frame.length]).buffer), frame]
  })
  const path = join(folder, `${files++}.pcap`)
  writeFileSync(path, concat(head, ...records))
  return path
}

const put = (bytes: Uint8Array, at: number, value: number): Uint8Array => {
  bytes[at] = value >> 8
  bytes[at + 1] = value & 0xff
  return bytes
}
const get = (bytes: Uint8Array, at: number): number => (bytes[at] << 8) | bytes[at + 1]

/** A TCP segment whose checksum, rightly computed, is `sum`: its last two bytes see to that. */
function segment(sum: number): Uint8Array {
  const bytes = concat([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0], [1, 2, 0, 0])
  const summed = (): number => checksum(concat(ipBytes(A), ipBytes(B), [0, TCP, 0, bytes.length], bytes))
  // one's complement: what is missing to the wanted sum, added in the last word
  let missing = summed() - sum
  if (missing < 0) missing += 0xffff
  put(bytes, bytes.length - 2, missing)
  assert.equal(summed(), sum)
  return ipv4(A, B, TCP, put(bytes, TCP_CHECKSUM, sum))
}

const tcpWith = (sum: number, field: number): Uint8Array => put(segment(sum), IP_BYTES + TCP_CHECKSUM, field)
const wrong = { message: /wrong checksum/ }

test('right checksums pass, and so does 0xffff of TCP for 0x0000', needs('tshark'), async () => {
  const packets = [segment(0x1234), segment(0), tcpWith(0, 0xffff), udp(A, 1, B, 2, new Uint8Array(4))]
  assert.equal(await judge(captured(...packets)), packets.length)
})

test('everything else that is wrong is found', needs('tshark'), async () => {
  const datagram = (): Uint8Array => udp(A, 1, B, 2, new Uint8Array(4))
  const cases: [what: string, packet: Uint8Array][] = [
    ['TCP 0xffff for another sum', tcpWith(0x1234, 0xffff)],
    ['TCP 0x0000 for another sum', tcpWith(0x1234, 0)],
    ['TCP another value for 0x0000', tcpWith(0, 0xfffe)],
    ['UDP 0xffff for another sum', put(datagram(), IP_BYTES + UDP_CHECKSUM, 0xffff)],
    ['an IPv4 header with 0xffff', put(segment(0x1234), IP_CHECKSUM, 0xffff)],
    ['an IPv4 header with another value', put(segment(0), IP_CHECKSUM, get(segment(0), IP_CHECKSUM) ^ 1)],
    ['an IPv4 header beside the TCP that passes', put(tcpWith(0, 0xffff), IP_CHECKSUM, 0xffff)],
  ]
  for (const [what, packet] of cases) await assert.rejects(judge(captured(packet, segment(0x77))), wrong, what)
})
