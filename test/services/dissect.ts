/**
 * tshark as the judge of frames that services write: what it makes of them, as text, and whether it finds them wrong.
 * Checksums of UDP are checked, which tshark does not do unless told (ICMPv6's and IPv4's it does).
 */
import { spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** For a test's options: why it cannot run, or false. */
export const withoutTshark = spawnSync('tshark', ['--version']).status === 0 ? false : 'no tshark'

export interface Dissection {
  /** the whole tree, as `tshark -V` prints it */
  text: string
  /** the numbers of frames that are malformed or have something wrong in them, checksums too */
  wrong: string
}

export function dissect(frames: readonly Uint8Array[]): Dissection {
  const path = join(tmpdir(), `weft-dissect-${process.pid}-${Math.random().toString(36).slice(2)}.pcap`)
  const header = Buffer.alloc(24)
  header.writeUInt32LE(0xa1b2c3d4, 0)
  header.writeUInt16LE(2, 4)
  header.writeUInt16LE(4, 6)
  header.writeUInt32LE(65535, 16)
  header.writeUInt32LE(1, 20) // Ethernet
  const records = frames.flatMap((frame) => {
    const record = Buffer.alloc(16)
    record.writeUInt32LE(frame.length, 8)
    record.writeUInt32LE(frame.length, 12)
    return [record, frame]
  })
  writeFileSync(path, Buffer.concat([header, ...records]))
  try {
    const ask = (...args: string[]): string => {
      const options = ['-n', '-r', path, '-o', 'udp.check_checksum:TRUE', ...args]
      const { status, stdout, stderr } = spawnSync('tshark', options, { encoding: 'utf8' })
      if (status !== 0) throw new Error(stderr)
      return stdout
    }
    const filter = '_ws.malformed or _ws.expert.severity >= "Warning" or icmpv6.checksum.status == 0'
    const wrong = ask('-Y', `${filter} or udp.checksum.status == 0`, '-T', 'fields', '-e', 'frame.number')
    return { text: ask('-V'), wrong: wrong.trim() }
  } finally {
    rmSync(path, { force: true })
  }
}
