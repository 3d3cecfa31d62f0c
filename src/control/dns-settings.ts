/**
 * What a network's DNS answers for beside leases, and whom it asks for the rest, parsed and written.
 *
 *   dns:
 *     upstreams: [192.0.2.53, '[2001:db8::53]:5353']
 *     domains: [{ domain: corp.example, upstreams: [10.1.0.53] }]
 *     hosts: [{ name: db, addresses: [10.7.0.9, fd00:7::9] }]
 *     aliases: [{ name: www, target: db }]
 *     services: [{ name: _http._tcp, target: db, port: 80 }]
 *     texts: [{ name: db, text: [v=1] }]
 *
 * Names are kept in lower case, without a final dot. An alias stands alone at its name and leads to no loop (RFC 1034
 * section 3.6.2). A network has at most 16 upstreams, 64 domains and 4096 records.
 *
 * Standards: RFC 1035 section 2.3.4 (lengths), RFC 2782 (SRV), RFC 2181 section 11 (any octets: here letters, digits,
 * hyphens and underscores, which is what such names are made of).
 */
import { type Static, Type } from 'typebox'
import { formatIp, isLoopback, parseIp } from '../services/address.js'
import { Failure } from './failure.js'
import type { DnsSettings } from './model.js'
import { check, invalid, join, quote } from './schema.js'
import { parseAddress } from './subnet.js'

export const RECORDS_MAX = 4096
const UPSTREAMS_MAX = 16
const DOMAINS_MAX = 64
const TEXT_BYTES = 255

const closed = { additionalProperties: false }
const Number16 = Type.Integer({ minimum: 0, maximum: 65535 })
const Upstreams = Type.Array(Type.String())
export const DnsInput = Type.Object(
  {
    enabled: Type.Optional(Type.Boolean()),
    upstreams: Type.Optional(Upstreams),
    domains: Type.Optional(Type.Array(Type.Object({ domain: Type.String(), upstreams: Upstreams }, closed))),
    hosts: Type.Optional(
      Type.Array(Type.Object({ name: Type.String(), addresses: Type.Array(Type.String(), { minItems: 1 }) }, closed)),
    ),
    aliases: Type.Optional(Type.Array(Type.Object({ name: Type.String(), target: Type.String() }, closed))),
    services: Type.Optional(
      Type.Array(
        Type.Object(
          {
            name: Type.String(),
            target: Type.String(),
            port: Number16,
            priority: Type.Optional(Number16),
            weight: Type.Optional(Number16),
          },
          closed,
        ),
      ),
    ),
    texts: Type.Optional(
      Type.Array(Type.Object({ name: Type.String(), text: Type.Array(Type.String(), { minItems: 1 }) }, closed)),
    ),
    rebindProtection: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type DnsInput = Static<typeof DnsInput>

export function parseDns(value: unknown, path: string): DnsSettings {
  const given = value === undefined ? {} : check(DnsInput, value, path)
  const { domains = [], hosts = [], aliases = [], services = [], texts = [] } = given
  const records = hosts.length + aliases.length + services.length + texts.length
  if (records > RECORDS_MAX) throw tooMany(path, `${RECORDS_MAX} records`)
  if (domains.length > DOMAINS_MAX) throw tooMany(join(path, 'domains'), `${DOMAINS_MAX} domains`)
  const each = <T, R>(list: readonly T[], key: string, read: (one: T, at: string) => R): R[] =>
    list.map((one, index) => read(one, join(join(path, key), index)))
  const settings: DnsSettings = {
    enabled: given.enabled ?? true,
    upstreams: parseUpstreams(given.upstreams ?? [], join(path, 'upstreams')),
    domains: each(domains, 'domains', ({ domain, upstreams }, at) => ({
      domain: parseDomainName(domain, join(at, 'domain')),
      upstreams: parseUpstreams(upstreams, join(at, 'upstreams')),
    })),
    hosts: each(hosts, 'hosts', ({ name, addresses }, at) => ({
      name: parseDomainName(name, join(at, 'name')),
      addresses: addresses.map((text, index) => formatIp(parseAddress(text, join(join(at, 'addresses'), index)))),
    })),
    aliases: each(aliases, 'aliases', ({ name, target }, at) => ({
      name: parseDomainName(name, join(at, 'name')),
      target: parseDomainName(target, join(at, 'target')),
    })),
    services: each(services, 'services', ({ name, target, port, priority = 0, weight = 0 }, at) => ({
      name: parseDomainName(name, join(at, 'name')),
      target: parseDomainName(target, join(at, 'target')),
      port,
      priority,
      weight,
    })),
    texts: each(texts, 'texts', ({ name, text }, at) => ({
      name: parseDomainName(name, join(at, 'name')),
      text: text.map((one, index) => checkText(one, join(join(at, 'text'), index))),
    })),
    rebindProtection: given.rebindProtection ?? true,
  }
  refuseTwice(settings.hosts, join(path, 'hosts'))
  refuseTwice(settings.aliases, join(path, 'aliases'))
  settings.domains.forEach(({ domain }, index) => {
    if (settings.domains.findIndex((one) => one.domain === domain) < index) {
      throw invalid(`${join(join(path, 'domains'), index)}.domain`, `${domain} stands twice`)
    }
  })
  refuseAliases(settings, join(path, 'aliases'))
  return settings
}

/** The inverse, without what equals the default; undefined if nothing is left. */
export function writtenDns(dns: DnsSettings): DnsInput | undefined {
  const { enabled, rebindProtection, upstreams, domains, hosts, aliases, services, texts } = dns
  const lists = { upstreams, domains, hosts, aliases, services, texts }
  const written: DnsInput = {
    ...(enabled ? {} : { enabled }),
    ...Object.fromEntries(Object.entries(lists).filter(([, list]) => list.length > 0)),
    ...(rebindProtection ? {} : { rebindProtection }),
  }
  return Object.keys(written).length === 0 ? undefined : written
}

/** Lower case, without final dot; ERR_INVALID for what is no name of RFC 1035's lengths. */
export function parseDomainName(text: string, path: string): string {
  const name = text.toLowerCase().replace(/\.$/, '')
  const labels = name.split('.')
  if (name.length > 253 || !labels.every((label) => /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label))) {
    throw invalid(path, `${quote(text)} is not a DNS name (labels of 1 to 63 of a-z 0-9 - _, at most 253 in all)`)
  }
  return name
}

/** ADDRESS[:PORT], an IPv6 address with a port in brackets. */
function parseUpstreams(values: readonly string[], path: string): string[] {
  if (values.length > UPSTREAMS_MAX) throw tooMany(path, `${UPSTREAMS_MAX} upstreams`)
  return values.map((text, index) => {
    const at = join(path, index)
    const [, six, other, port] = /^(?:\[([^\]]+)\]|([^\s[\]]+?))(?::(\d{1,5}))?$/.exec(text) ?? []
    const address = (text.match(/:/g) ?? []).length > 1 && six === undefined ? text : (six ?? other)
    if (address === undefined) throw invalid(at, `${quote(text)} is not ADDRESS or ADDRESS:PORT`)
    // A resolver on this host's loopback is usual: the daemon asks, not the guest.
    const parsed = parseIp(address)
    const ip = formatIp(parsed !== null && isLoopback(parsed) ? parsed : parseAddress(address, at))
    if (port === undefined || address === text) return ip
    if (Number(port) < 1 || Number(port) > 65535) throw invalid(at, `${port} is not 1..65535`)
    if (Number(port) === 53) return ip
    return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`
  })
}

function checkText(text: string, path: string): string {
  const bytes = Buffer.byteLength(text)
  if (bytes > TEXT_BYTES)
    throw invalid(path, `is ${bytes} bytes long, a text of a TXT record has at most ${TEXT_BYTES}`)
  return text
}

function refuseTwice(list: readonly { name: string }[], path: string): void {
  const seen = new Set<string>()
  list.forEach(({ name }, index) => {
    if (seen.has(name)) throw invalid(join(join(path, index), 'name'), `${name} stands twice`)
    seen.add(name)
  })
}

function refuseAliases({ hosts, aliases, services, texts }: DnsSettings, path: string): void {
  const others = new Set([...hosts, ...services, ...texts].map(({ name }) => name))
  const targets = new Map(aliases.map(({ name, target }) => [name, target]))
  aliases.forEach(({ name, target }, index) => {
    const at = join(path, index)
    if (others.has(name)) throw invalid(join(at, 'name'), `${name} has other records, an alias stands alone`)
    const passed = new Set([name])
    for (let next: string | undefined = target; next !== undefined; next = targets.get(next)) {
      if (passed.has(next)) throw invalid(join(at, 'target'), `${name} leads back to ${next}`)
      passed.add(next)
    }
  })
}

function tooMany(path: string, limit: string): Failure {
  return new Failure('ERR_CAPACITY', `${path}: a network has at most ${limit}`, path)
}
