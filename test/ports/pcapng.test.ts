/** Capture files: what is written is read by others (tshark, capinfos), what others write is read here. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import * as fc from 'fast-check'
import {
  type CaptureFrame,
  CaptureReader,
  type Direction,
  interfaceDescription,
  packetBytes,
  sectionHeader,
  writePacket,
} from '../../src/ports/pcapng.js'

const folder = mkdtempSync(join(tmpdir(), 'weft-pcapng-'))
after(() => rmSync(folder, { recursive: true }))

const has = (program: string) => spawnSync(program, ['--version']).status === 0
const wants = (program: string) => ({ skip: has(program) ? false : `${program} is missing` })

interface Written {
  interface: number
  timeNanos: bigint
  direction: Direction
  bytes: Uint8Array
}

function file(names: readonly string[], frames: readonly Written[]): Uint8Array {
  const packets = new Uint8Array(frames.reduce((sum, frame) => sum + packetBytes(frame.bytes.length), 0))
  frames.reduce((at, frame) => writePacket(packets, at, frame), 0)
  return Buffer.concat([sectionHeader(), ...names.map(interfaceDescription), packets])
}

function read(bytes: Uint8Array, chunk = bytes.length || 1): CaptureFrame[] {
  const reader = new CaptureReader()
  const frames: CaptureFrame[] = []
  for (let at = 0; at < bytes.length; at += chunk) {
    for (const frame of reader.read(bytes.subarray(at, at + chunk)))
      frames.push({ ...frame, bytes: frame.bytes.slice() })
  }
  reader.end()
  return frames
}

// An ARP request, 42 bytes: who has 10.0.0.2, tell 10.0.0.1.
const ARP = Buffer.from('ffffffffffff5254000000010806000108000604000152540000000a0a00000100000000000a0a000002', 'hex')
const frames: Written[] = [
  { interface: 0, timeNanos: 1_700_000_000_123_456_789n, direction: 'in', bytes: ARP },
  {
    interface: 1,
    timeNanos: 1_700_000_000_123_456_790n,
    direction: 'out',
    bytes: Buffer.concat([ARP, Buffer.alloc(19)]),
  },
]

test('what is written is read back, in chunks of any size', () => {
  const bytes = file(['vm1', 'uplink'], frames)
  for (const chunk of [1, 3, 7, 64, bytes.length]) {
    const got = read(bytes, chunk)
    assert.equal(got.length, 2)
    assert.deepEqual(
      got.map((one) => [one.interface, one.direction, one.timeNanos]),
      [
        ['vm1', 'in', frames[0]?.timeNanos],
        ['uplink', 'out', frames[1]?.timeNanos],
      ],
    )
    assert.deepEqual(
      got.map((one) => Buffer.from(one.bytes)),
      frames.map((one) => Buffer.from(one.bytes)),
    )
  }
})

test('property: any frames round trip', () => {
  const frame = fc.record({
    interface: fc.integer({ min: 0, max: 2 }),
    timeNanos: fc.bigInt({ min: 0n, max: (1n << 63n) - 1n }),
    direction: fc.constantFrom<Direction>('in', 'out'),
    bytes: fc.uint8Array({ maxLength: 200 }),
  })
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 20 }), fc.integer({ min: 1, max: 300 }), (list, chunk) => {
      const got = read(file(['a', 'b', 'ü'], list), chunk)
      assert.deepEqual(
        got.map(({ timeNanos, direction, bytes }) => ({ timeNanos, direction, bytes })),
        list.map(({ timeNanos, direction, bytes }) => ({ timeNanos, direction, bytes })),
      )
    }),
    { seed: 1 },
  )
})

test('tshark and capinfos read it', wants('tshark'), () => {
  const path = join(folder, 'written.pcapng')
  writeFileSync(path, file(['vm1', 'uplink'], frames))
  const fields = ['frame.interface_name', 'frame.time_epoch', 'frame.len', 'eth.src', 'frame.packet_flags_direction']
  const args = ['-n', '-r', path, '-T', 'fields', ...fields.flatMap((field) => ['-e', field])]
  const rows = execFileSync('tshark', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    .trim()
    .split('\n')
  assert.deepEqual(
    rows.map((row) => row.split('\t').map((cell) => (cell.startsWith('0x') ? String(Number(cell)) : cell))),
    [
      ['vm1', '1700000000.123456789', '42', '52:54:00:00:00:01', '1'],
      ['uplink', '1700000000.123456790', '61', '52:54:00:00:00:01', '2'],
    ],
  )
  if (has('capinfos')) {
    const info = execFileSync('capinfos', ['-M', path], { encoding: 'utf8' })
    assert.match(info, /Number of packets:\s+2/)
    assert.match(info, /Number of interfaces in file:\s+2/)
  }
})

/** A classic pcap file of two frames. */
function classic(little: boolean, nanos: boolean): Buffer {
  const records = frames.map(({ bytes }, n) => {
    const head = Buffer.alloc(16)
    const values = [1_700_000_000 + n, nanos ? 123_456_789 : 123_456, bytes.length, bytes.length + n]
    values.forEach((value, at) => (little ? head.writeUInt32LE(value, 4 * at) : head.writeUInt32BE(value, 4 * at)))
    return Buffer.concat([head, bytes])
  })
  const head = Buffer.alloc(24)
  const put = (value: number, at: number) => (little ? head.writeUInt32LE(value, at) : head.writeUInt32BE(value, at))
  put(nanos ? 0xa1b23c4d : 0xa1b2c3d4, 0)
  if (little) head.writeUInt32LE(0x00040002, 4)
  else head.writeUInt32BE(0x00020004, 4)
  put(65535, 16)
  put(1, 20)
  return Buffer.concat([head, ...records])
}

test('classic pcap of both byte orders and resolutions', () => {
  for (const little of [true, false]) {
    for (const nanos of [true, false]) {
      for (const chunk of [1, 5, 1000]) {
        const got = read(classic(little, nanos), chunk)
        const parts = nanos ? 123_456_789n : 123_456_000n
        assert.deepEqual(
          got.map((one) => one.timeNanos),
          [1_700_000_000_000_000_000n + parts, 1_700_000_001_000_000_000n + parts],
        )
        assert.deepEqual(
          got.map((one) => [one.bytes.length, one.originalLength]),
          [
            [42, 42],
            [61, 62],
          ],
        )
      }
    }
  }
})

test('the classic files of this test are what pcap-parser takes for such', async () => {
  // @ts-expect-error the package has no types
  const { parse } = (await import('pcap-parser')).default
  const path = join(folder, 'classic.pcap')
  writeFileSync(path, classic(true, false))
  const packets: Buffer[] = []
  const parser = parse(path)
  parser.on('packet', (packet: { data: Buffer }) => packets.push(packet.data))
  await new Promise((resolve, reject) => parser.on('end', resolve).on('error', reject))
  assert.deepEqual(
    packets,
    read(readFileSync(path)).map((one) => Buffer.from(one.bytes)),
  )
})

test('files of text2pcap are read', wants('text2pcap'), () => {
  const text = join(folder, 'hex.txt')
  writeFileSync(text, `0000 ${ARP.toString('hex').replace(/../g, '$& ')}\n`)
  for (const format of ['pcapng', 'pcap', 'nsecpcap']) {
    const path = join(folder, `text2pcap.${format}`)
    execFileSync('text2pcap', ['-q', '-F', format, text, path], { stdio: 'ignore' })
    assert.deepEqual(
      read(readFileSync(path)).map((one) => Buffer.from(one.bytes)),
      [ARP],
      format,
    )
  }
})

test('files that contradict themselves are refused with the place', () => {
  const good = Buffer.from(file(['vm1'], frames.slice(0, 1)))
  const spoilt = (at: number, value: number) => {
    const bytes = Buffer.from(good)
    bytes.writeUInt32LE(value, at)
    return bytes
  }
  const header = sectionHeader().length
  const packet = header + interfaceDescription('vm1').length
  const cases: [Uint8Array, RegExp][] = [
    [Buffer.from('what is this'), /neither pcap nor pcapng \(at byte 0\)/],
    [new Uint8Array(0), /the file is empty/],
    [good.subarray(0, good.length - 1), /ends within a record/],
    [spoilt(8, 0), /without byte order/],
    [spoilt(header + 4, 13), /claims 13 bytes/],
    [spoilt(header + 4, 0xfffffff0), /claims 4294967280 bytes/],
    [spoilt(packet - 4, 0), /two lengths of a block differ/],
    [spoilt(packet + 8, 9), /interface 9, which the file does not describe/],
    [spoilt(packet + 20, 10_000), /holds less than the 10000 bytes/],
    [spoilt(header + 8, 113), /not Ethernet/],
  ]
  for (const [bytes, sentence] of cases) assert.throws(() => read(bytes), sentence)
})

test('property: mutated files are read or refused, nothing else', () => {
  const sources = [Buffer.from(file(['a', 'b'], frames)), classic(true, false), classic(false, true)]
  const place = fc.record({ at: fc.nat(400), value: fc.nat(255) })
  fc.assert(
    fc.property(fc.constantFrom(...sources), fc.array(place, { maxLength: 8 }), (source, places) => {
      const bytes = Buffer.from(source)
      for (const { at, value } of places) bytes[at % bytes.length] = value
      try {
        read(bytes, 50)
      } catch (error) {
        assert.match((error as Error).message, /\(at byte \d+\)$/)
      }
    }),
    { seed: 1, numRuns: 2000 },
  )
})
