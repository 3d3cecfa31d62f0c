/**
 * What a network's DHCP servers hand out beside addresses: reservations, lease times, boot files, further options.
 *
 * In a definition `dhcp` is `off`, a range, or an object of these settings, with `range` for the range. A reservation
 * gives a MAC one address of a family, outside or inside the leased range, and is kept from everyone else. A network
 * has at most 1024 reservations and 64 further options. Options that the server itself answers for are refused.
 *
 * Standards: RFC 2132 (options), RFC 4578 (client architectures), RFC 2131.
 */
import { type Static, Type } from 'typebox'
import { formatIp } from '../services/address.js'
import { Failure } from './failure.js'
import { HOST_NAME } from './forwarding.js'
import type { DhcpSettings, Reservation, Subnet } from './model.js'
import { Mac, parseMac } from './port-definition.js'
import { check, invalid, join, quote } from './schema.js'
import { RangeInput, guestAddress, parseAddress } from './subnet.js'

export const RESERVATIONS_MAX = 1024
const OPTIONS_MAX = 64
const LEASE_SECONDS = 3600
/** Options that the server sets by itself or that end and fill the field. */
const OWN_OPTIONS: readonly number[] = [0, 1, 3, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 80, 82, 116, 255]

export const LeaseSeconds = Type.Integer({ minimum: 60, maximum: 31_536_000 })
export const ReservationInput = Type.Object(
  { mac: Mac, address: Type.String(), name: Type.Optional(Type.Union([Type.String(), Type.Null()])) },
  { additionalProperties: false },
)
const Texts = Type.Record(Type.String(), Type.String({ maxLength: 1024 }))
const DhcpObject = Type.Object(
  {
    range: Type.Optional(RangeInput),
    leaseSeconds: Type.Optional(LeaseSeconds),
    portLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
    reservations: Type.Optional(Type.Array(ReservationInput)),
    bootServer: Type.Optional(Type.Union([Type.String(), Type.Null()])),
    bootFiles: Type.Optional(Texts),
    options: Type.Optional(Texts),
  },
  { additionalProperties: false },
)
export type DhcpObject = Static<typeof DhcpObject>
export const DhcpInput = Type.Union([Type.String(), Type.Null(), DhcpObject], {
  errorText: 'off, a range FROM-TO, or settings',
})

export interface DhcpGiven {
  /** what stands over the ranges of the subnets; undefined: nothing */
  range: Static<typeof RangeInput> | undefined
  settings: DhcpObject
}

/** Takes `dhcp` apart: its range is about the subnets, the rest is for later. */
export function splitDhcp(value: unknown, path: string): DhcpGiven {
  if (value === undefined) return { range: undefined, settings: {} }
  if (typeof value === 'string' || value === null) return { range: value, settings: {} }
  const settings = check(DhcpObject, value, path)
  return { range: settings.range, settings }
}

export function parseDhcp(given: DhcpObject, subnets: readonly Subnet[], path: string): DhcpSettings {
  const { bootServer = null, bootFiles = {}, options = {} } = given
  for (const key of Object.keys(bootFiles)) {
    if (key === 'default' || (/^\d{1,5}$/.test(key) && Number(key) <= 65535)) continue
    throw invalid(join(join(path, 'bootFiles'), key), 'is neither default nor a client architecture, 0..65535')
  }
  checkOptions(options, join(path, 'options'))
  return {
    leaseSeconds: given.leaseSeconds ?? LEASE_SECONDS,
    portLimit: given.portLimit ?? null,
    reservations: parseReservations(given.reservations ?? [], subnets, join(path, 'reservations')),
    bootServer: bootServer === null ? null : formatIp(parseAddress(bootServer, join(path, 'bootServer'))),
    bootFiles: { ...bootFiles },
    options: { ...options },
  }
}

/** The inverse of `parseDhcp`, without what equals the default; undefined if nothing is left. */
export function writtenDhcp(dhcp: DhcpSettings): DhcpObject | undefined {
  const { leaseSeconds, portLimit, reservations, bootServer, bootFiles, options } = dhcp
  const written: DhcpObject = {
    ...(leaseSeconds === LEASE_SECONDS ? {} : { leaseSeconds }),
    ...(portLimit === null ? {} : { portLimit }),
    ...(reservations.length === 0 ? {} : { reservations: reservations.map(writtenReservation) }),
    ...(bootServer === null ? {} : { bootServer }),
    ...(Object.keys(bootFiles).length === 0 ? {} : { bootFiles }),
    ...(Object.keys(options).length === 0 ? {} : { options }),
  }
  return Object.keys(written).length === 0 ? undefined : written
}

const writtenReservation = ({ mac, address, name }: Reservation) => ({
  mac,
  address,
  ...(name === null ? {} : { name }),
})

function parseReservations(values: readonly unknown[], subnets: readonly Subnet[], path: string): Reservation[] {
  if (values.length > RESERVATIONS_MAX) {
    throw new Failure('ERR_CAPACITY', `${path}: a network has at most ${RESERVATIONS_MAX} reservations`, path)
  }
  const byAddress = new Map<string, Reservation>()
  const byMac = new Map<string, Reservation>()
  const byName = new Map<string, Reservation>()
  return values.map((value, index) => {
    const at = join(path, index)
    const one = parseReservation(value, subnets, at)
    const taken = byAddress.get(one.address)
    if (taken !== undefined) throw invalid(join(at, 'address'), `${one.address} is reserved already, for ${taken.mac}`)
    byAddress.set(one.address, one)
    const key = `${one.mac} ${one.address.includes(':') ? 6 : 4}`
    const other = byMac.get(key)
    if (other !== undefined) throw invalid(join(at, 'mac'), `${one.mac} has ${other.address} reserved already`)
    byMac.set(key, one)
    if (one.name === null) return one
    const owner = byName.get(one.name)
    if (owner !== undefined && owner.mac !== one.mac) {
      throw invalid(join(at, 'name'), `${one.name} is the name of ${owner.mac} already`)
    }
    byName.set(one.name, one)
    return one
  })
}

function parseReservation(value: unknown, subnets: readonly Subnet[], path: string): Reservation {
  const given = check(ReservationInput, value, path)
  const name = given.name ?? null
  if (name !== null && !HOST_NAME.test(name)) {
    throw invalid(join(path, 'name'), `${quote(name)} is not a host name (1 to 63 of a-z 0-9 -, not - at its ends)`)
  }
  return {
    mac: parseMac(given.mac, join(path, 'mac')),
    address: formatIp(guestAddress(subnets, given.address, join(path, 'address'))),
    name: name?.toLowerCase() ?? null,
  }
}

function checkOptions(options: Record<string, string>, path: string): void {
  const keys = Object.keys(options)
  if (keys.length > OPTIONS_MAX) {
    throw new Failure('ERR_CAPACITY', `${path}: a network has at most ${OPTIONS_MAX} further options`, path)
  }
  for (const key of keys) {
    const number = /^[1-9]\d{0,2}$/.test(key) ? Number(key) : 0
    if (number < 1 || number > 254) throw invalid(join(path, key), 'is not the number of an option, 1..254')
    if (OWN_OPTIONS.includes(number)) throw invalid(join(path, key), `option ${number} is the server's own to set`)
  }
}
