/**
 * The packet that `weft trace` is asked about, from its description to a frame:
 *
 *   tcp 10.0.0.5:1234 > 93.184.216.34:443     udp [fd00::5]:1000 > [fd00::6]:53     icmp 10.0.0.5 > 10.0.0.1
 *
 * The protocol is tcp (a SYN; `tcp-ack` is a packet of a connection under way), udp, icmp or icmp6 (echo requests), or
 * a number. Ports are given where the protocol has them; a source port that is left out is 40000.
 */
import type { Ip } from '../dataplane/router/router-table.js'
import { formatIp, ipBytes, parseIp } from '../services/address.js'
import { writeFrame } from '../services/frame.js'
import { invalid, quote } from './schema.js'

export interface Described {
  name: string
  protocol: number
  source: Ip
  sourcePort: number
  destination: Ip
  destinationPort: number
}

const PROTOCOLS: Record<string, number> = { tcp: 6, 'tcp-ack': 6, udp: 17, icmp: 1, icmp6: 58 }
const SOURCE_PORT = 40000
const IDENTIFIER = 1
const HOP_LIMIT = 64
/** Where a transport's checksum stands in it. */
const CHECKSUM_AT: Record<number, number> = { 6: 16, 17: 6, 1: 2, 58: 2 }
const NO_CHECKSUM = -1

/** Throws ERR_INVALID with what is not understood. */
export function parseDescription(text: string): Described {
  const words = text.trim().split(/\s+/)
  const [name = '', from = '', arrow = '', to = ''] = words
  if (words.length !== 4 || arrow !== '>')
    throw invalid('packet', `${quote(text)} is not like "tcp 10.0.0.5:1234 > 93.184.216.34:443"`)
  const protocol = PROTOCOLS[name.toLowerCase()] ?? (/^\d{1,3}$/.test(name) ? Number(name) : Number.NaN)
  if (!(protocol >= 0 && protocol <= 255)) throw invalid('packet', `${quote(name)} is no protocol`)
  const hasPorts = protocol === 6 || protocol === 17
  const source = parseEnd(from)
  const destination = parseEnd(to)
  if (source.ip.length !== destination.ip.length) throw invalid('packet', `${from} and ${to} are of two families`)
  if (hasPorts && destination.port === null) throw invalid('packet', `${to} lacks a port, as in ${to}:443`)
  if (!hasPorts && (source.port ?? destination.port) !== null) throw invalid('packet', `${name} has no ports`)
  const isIcmp6 = protocol === 58
  if ((isIcmp6 || protocol === 1) && isIcmp6 !== (source.ip.length === 4))
    throw invalid('packet', `${name} is not for ${formatIp(source.ip)}`)
  return {
    name: name.toLowerCase(),
    protocol,
    source: source.ip,
    sourcePort: hasPorts ? (source.port ?? SOURCE_PORT) : 0,
    destination: destination.ip,
    destinationPort: destination.port ?? 0,
  }
}

function parseEnd(text: string): { ip: Ip; port: number | null } {
  const bracketed = /^\[([^\]]+)\](?::(\d+))?$/.exec(text)
  const plain = parseIp(text)
  if (plain !== null) return { ip: plain, port: null }
  const [, address = '', port] = bracketed ?? /^([\d.]+):(\d+)$/.exec(text) ?? []
  const ip = parseIp(address)
  if (ip === null) throw invalid('packet', `${quote(text)} is no address with a port`)
  if (port === undefined) return { ip, port: null }
  if (Number(port) > 65535) throw invalid('packet', `port ${port} is not 0..65535`)
  return { ip, port: Number(port) }
}

/** The frame, with full checksums. */
export function frameOf(packet: Described, sourceMac: Uint8Array, destinationMac: Uint8Array): Uint8Array {
  const end = (mac: Uint8Array, ip: Ip, port: number) => ({ mac, ip: ipBytes(ip), port })
  return writeFrame(
    end(sourceMac, packet.source, packet.sourcePort),
    end(destinationMac, packet.destination, packet.destinationPort),
    packet.protocol,
    HOP_LIMIT,
    transportOf(packet),
    CHECKSUM_AT[packet.protocol] ?? NO_CHECKSUM,
  )
}

function transportOf({ name, protocol, sourcePort, destinationPort }: Described): Uint8Array {
  const ports = [sourcePort >> 8, sourcePort & 255, destinationPort >> 8, destinationPort & 255]
  switch (protocol) {
    case 6:
      return Uint8Array.of(
        ...ports,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0x50,
        name === 'tcp-ack' ? 0x10 : 0x02,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
      )
    case 17:
      return Uint8Array.of(...ports, 0, 8, 0, 0)
    case 1:
      return Uint8Array.of(8, 0, 0, 0, 0, IDENTIFIER, 0, 1)
    case 58:
      return Uint8Array.of(128, 0, 0, 0, 0, IDENTIFIER, 0, 1)
    default:
      return new Uint8Array(8)
  }
}
