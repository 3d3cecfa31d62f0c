/**
 * The forwarding table as it is listed: read from the arena while the shard writes it.
 */
import {
  type Arena,
  FDB_KEY_HIGH,
  FDB_MAC_LOW,
  FDB_NETWORK,
  FDB_PORT,
  FDB_SEEN,
  FDB_SHIFT,
  FDB_STATIC,
  HEADER_NOW,
} from '../dataplane/layout.js'
import { macText } from './mac.js'
import type { FdbEntry } from './model.js'

/**
 * The entries of a network, by VLAN and address.
 * @param port number, null: all
 * @param portName null for a port that is not shown: the router's own
 */
export function listFdb(
  { fdb, header }: Arena,
  network: number,
  port: number | null,
  vid: number | null,
  portName: (port: number) => string | null,
): FdbEntry[] {
  const seconds = header[HEADER_NOW]
  const found: FdbEntry[] = []
  for (let entry = 0; entry < fdb.length; entry += 1 << FDB_SHIFT) {
    if (fdb[entry + FDB_NETWORK] !== network + 1) continue
    const name = portName(fdb[entry + FDB_PORT])
    const entryVid = fdb[entry + FDB_KEY_HIGH] >>> 16
    if (name === null || (port !== null && fdb[entry + FDB_PORT] !== port) || (vid !== null && entryVid !== vid))
      continue
    const seen = fdb[entry + FDB_SEEN]
    found.push({
      vid: entryVid,
      mac: macText(fdb[entry + FDB_MAC_LOW], fdb[entry + FDB_KEY_HIGH] & 0xffff),
      port: name,
      static: seen === FDB_STATIC,
      ageSeconds: seen === FDB_STATIC ? 0 : Math.max(0, seconds - seen),
    })
  }
  return found.sort((a, b) => a.vid - b.vid || (a.mac < b.mac ? -1 : 1))
}
