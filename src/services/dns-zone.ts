/**
 * The names of one network: its hosts as their leases come and go, the gateway, what the definition lists, and which
 * questions are not to leave the network.
 *
 * Two tables of nodes by full name. `configured` is made anew from the settings by `configure`; `live` holds the hosts
 * of leases. The configured one goes first, and `setHost` refuses a name that it has: no guest becomes `gateway` by
 * saying that this is its name. A live name belongs to the owner who had it first until it is removed, so a second
 * guest of the same name does not share the first one's traffic. A host has a node for its name and one for each
 * address (PTR). Nodes on the way to a node, such as `_tcp` in `_http._tcp.lan`, exist without data (RFC 8020): a
 * question for one finds nothing, which is not "no such name".
 *
 * A name without a dot is one of the network's domain: `web` is answered as `web.lan`, under the name asked for.
 *
 * What is decided here alone (authoritative): nodes; the network's domain; reverse domains of its subnets; the domains
 * of `dns-special.ts`; names without a dot, unless the question is for one of the types that only a domain has (NS,
 * SOA, DS, DNSKEY and such, which a guest's own resolver asks of top-level domains). Everything else is forwarded.
 * Domains in `delegated` are forwarded too, except for nodes; of several domains that a name is in, the longest
 * decides.
 *
 * Capacity: 65536 live hosts and 64 addresses a host; further ones are refused. Standards: RFC 1034, 1035, 2308
 * (negative answers carry a SOA record), 2782, 6303, 6761, 8482 (ANY is answered with HINFO).
 */
import { type Ip, type Prefix, formatIp, isSameIp } from './address.js'
import { NOERROR, NXDOMAIN, SERVFAIL, setTtl, setWord } from './dns-codec.js'
import * as codec from './dns-codec.js'
import { NameEntry, NameKey, NameTable } from './dns-name.js'
import { type Node, Nodes, ownName, textData, wireName } from './dns-nodes.js'
import { EMPTY_DOMAINS, reverseDomains } from './dns-special.js'
import type { MessageWriter } from './dns-writer.js'

export interface ZoneSettings {
  /** lower case, without final dot; null: names without a dot are all there are */
  domain: string | null
  /** the router's addresses in the network: `gateway` */
  gateway: readonly Ip[]
  /** `host`: where the machine that Weft runs on is reached; empty: there is no such name */
  host: readonly Ip[]
  subnets: readonly Prefix[]
  /** without a dot or under the domain: the network's own; others are taken as they are */
  hosts: readonly { name: string; addresses: readonly Ip[] }[]
  aliases: readonly { name: string; target: string }[]
  services: readonly { name: string; target: string; port: number; priority: number; weight: number }[]
  texts: readonly { name: string; text: readonly string[] }[]
  /** domains with upstreams of their own */
  delegated: readonly string[]
}

export const NO_ZONE: ZoneSettings = {
  domain: null,
  gateway: [],
  host: [],
  subnets: [],
  hosts: [],
  aliases: [],
  services: [],
  texts: [],
  delegated: [],
}

/** What `resolve` says. */
export const LOCAL = 0 // the answer is written
export const FORWARD = 1 // not ours
export const FOLLOW = 2 // aliases are written, the last one's target is not ours

const HOSTS = 65536
const ADDRESSES = 64
const CHAIN = 10
const TTL = 60
/** A name may come to be at any moment. */
const NEGATIVE_TTL = 5
/** Seconds for what cannot change: RFC 8482, and domains that are empty by definition. */
export const FIXED_TTL = 3600
/** Types that only a domain has: NS, SOA, DS, RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, CDS, CDNSKEY, ZONEMD. */
const DOMAIN_TYPES: ReadonlySet<number> = new Set([2, 6, 43, 46, 47, 48, 50, 51, 59, 60, 63])
/** Names that stand for the network itself in some systems: a guest that had them would be trusted by the others. */
const RESERVED: ReadonlySet<string> = new Set(['localhost', 'gateway', 'host', 'wpad', 'isatap'])
const HOST_NAME = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/

type DomainKind = 'own' | 'empty' | 'localhost' | 'delegated'

class Domain extends NameEntry {
  readonly kind: DomainKind
  readonly soa: Uint8Array
  readonly primary: Uint8Array
  /** labels of its name */
  readonly labels: number

  constructor(name: Uint8Array, kind: DomainKind, primary: Uint8Array, mailbox: Uint8Array, serial: number) {
    super(name)
    this.kind = kind
    this.primary = primary
    this.labels = new NameKey().compute(name, 0).count
    const times = new Uint8Array(20)
    const negative = kind === 'own' ? NEGATIVE_TTL : FIXED_TTL
    for (const [i, value] of [serial, 3600, 600, 86400, negative].entries()) setTtl(times, 4 * i, value)
    this.soa = Uint8Array.from([...primary, ...mailbox, ...times])
  }

  get negativeTtl(): number {
    return this.kind === 'own' ? NEGATIVE_TTL : FIXED_TTL
  }
}

interface LiveHost {
  owner: string
  ips: Ip[]
}

const ROOT = new Uint8Array(1)
const LOCALHOST = wireName('localhost')
const LOOPBACK_IPV4 = Uint8Array.of(127, 0, 0, 1)
const LOOPBACK_IPV6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
/** Data of the HINFO record that answers ANY: "RFC8482" "" */
export const REFUSES_ANY = Uint8Array.of(7, 0x52, 0x46, 0x43, 0x38, 0x34, 0x38, 0x32, 0)

export class DnsZone {
  /** the response code of what `resolve` has written */
  rcode = NOERROR
  /** with FOLLOW: the name to ask for, and its key */
  target: Uint8Array = ROOT
  readonly targetKey = new NameKey()
  private settings: ZoneSettings = NO_ZONE
  private domain: Uint8Array = ROOT
  private configured = new Nodes()
  private live = new Nodes()
  private domains = new NameTable<Domain>()
  private rootDomain = new Domain(ROOT, 'own', ROOT, ROOT, 1)
  private readonly hosts = new Map<string, LiveHost>()
  private readonly qualified = new Uint8Array(512)
  private readonly qualifiedKey = new NameKey()
  private serial = 1

  constructor(settings: ZoneSettings = NO_ZONE) {
    this.configure(settings)
  }

  /** live hosts */
  get size(): number {
    return this.hosts.size
  }

  /**
   * Takes other settings; live hosts stay. Throws RangeError, and keeps the former settings, if a name is none, with
   * the name: definitions are checked before they come here.
   */
  configure(settings: ZoneSettings): void {
    const domain = settings.domain === null ? ROOT : wireName(settings.domain)
    const nodes = new Nodes()
    const own = (name: string): Uint8Array => ownName(name, domain)
    if (settings.gateway.length > 0) nodes.putHost(own('gateway'), settings.gateway)
    if (settings.host.length > 0) nodes.putHost(own('host'), settings.host)
    for (const { name, addresses } of settings.hosts) nodes.putHost(own(name), addresses)
    for (const { name, target } of settings.aliases) nodes.make(own(name)).alias = own(target)
    for (const { name, target, port, priority, weight } of settings.services) {
      const data = new Uint8Array(6)
      for (const [i, value] of [priority, weight, port].entries()) setWord(data, 2 * i, value)
      nodes.put(own(name), codec.TYPE_SRV, Uint8Array.from([...data, ...own(target)]))
    }
    for (const { name, text } of settings.texts) nodes.put(own(name), codec.TYPE_TXT, textData(text))
    nodes.put(wireName('1.0.0.127.in-addr.arpa'), codec.TYPE_PTR, LOCALHOST)
    nodes.put(wireName(`1.${'0.'.repeat(31)}ip6.arpa`), codec.TYPE_PTR, LOCALHOST)
    const domains = this.makeDomains(settings, domain, nodes)
    this.settings = settings
    this.domain = domain
    this.configured = nodes
    this.domains = domains
    this.rootDomain = new Domain(ROOT, 'own', own('gateway'), wireName('nobody.invalid'), this.serial)
    this.live = new Nodes()
    for (const [name, { ips }] of this.hosts) this.live.putHost(own(name), ips)
  }

  private makeDomains(settings: ZoneSettings, domain: Uint8Array, nodes: Nodes): NameTable<Domain> {
    const domains = new NameTable<Domain>()
    const primary = ownName('gateway', domain)
    const mailbox = ownName('hostmaster', domain)
    const serial = ++this.serial
    const add = (name: Uint8Array, kind: DomainKind): void => {
      if (domains.get(name)) return
      const isOwn = kind === 'own'
      domains.add(new Domain(name, kind, isOwn ? primary : name, isOwn ? mailbox : wireName('nobody.invalid'), serial))
    }
    // the first of a name stays
    if (domain.length > 1) add(domain, 'own')
    for (const name of settings.delegated) add(wireName(name), 'delegated')
    for (const subnet of settings.subnets) for (const name of reverseDomains(subnet)) add(wireName(name), 'own')
    add(LOCALHOST, 'localhost')
    for (const name of EMPTY_DOMAINS) add(wireName(name), 'empty')
    if (domain.length > 1) {
      nodes.put(domain, codec.TYPE_SOA, domains.get(domain)!.soa)
      nodes.put(domain, codec.TYPE_NS, primary)
    }
    return domains
  }

  /**
   * The addresses of a host, as its leases say; of the families that occur in `ips` they replace the former ones.
   * Refused (false): a name that is none of a host, or of another domain, or that the definition or another owner has.
   * @param name as the guest says: with or without the network's domain, in any case
   * @param owner whose the name is: the guest's MAC, say
   */
  setHost(name: string, ips: readonly Ip[], owner = ''): boolean {
    const label = this.labelOf(name)
    if (label === null || RESERVED.has(label) || ips.length === 0) return false
    const full = ownName(label, this.domain)
    if (this.configured.get(full)?.isEmpty === false) return false
    const former = this.hosts.get(label)
    if (former ? former.owner !== owner : this.hosts.size >= HOSTS) return false
    const kept = former?.ips.filter((ip) => ips.every((other) => other.length !== ip.length)) ?? []
    const added = ips.filter((ip, i) => ips.findIndex((other) => isSameIp(other, ip)) === i)
    if (kept.length + added.length > ADDRESSES) return false
    if (former) this.live.takeHost(full, former.ips)
    const all = [...kept, ...added]
    this.hosts.set(label, { owner, ips: all })
    this.live.putHost(full, all)
    return true
  }

  /** Forgets a host, or its addresses of one family. False: this owner has no such host. */
  removeHost(name: string, owner = '', family: 4 | 6 | null = null): boolean {
    const label = this.labelOf(name)
    const former = label === null ? undefined : this.hosts.get(label)
    if (label === null || former === undefined || former.owner !== owner) return false
    const full = ownName(label, this.domain)
    this.live.takeHost(full, former.ips)
    const kept = family === null ? [] : former.ips.filter((ip) => (ip.length === 1 ? 4 : 6) !== family)
    this.hosts.set(label, { owner, ips: kept })
    if (kept.length === 0) this.hosts.delete(label)
    else this.live.putHost(full, kept)
    return true
  }

  /** Live hosts, for listing. */
  listHosts(): { name: string; owner: string; addresses: string[] }[] {
    return [...this.hosts].map(([name, { owner, ips }]) => ({ name, owner, addresses: ips.map(formatIp) }))
  }

  /** The one label of a host's name; null if it is not a host of this network. */
  private labelOf(name: string): string | null {
    let label = name.toLowerCase().replace(/\.$/, '')
    const { domain } = this.settings
    if (domain !== null && label.endsWith(`.${domain}`)) label = label.slice(0, -domain.length - 1)
    return HOST_NAME.test(label) && label.length + this.domain.length + 1 <= 255 ? label : null
  }

  /**
   * Answers a question of class IN as far as that is ours.
   * @param question the message it stands in, at 12
   * @param writer begun with the question; with FORWARD it stays so
   */
  resolve(question: Uint8Array, key: NameKey, type: number, writer: MessageWriter): number {
    let name = question
    let at = 12
    this.rcode = NOERROR
    for (let links = 0; ; links++) {
      const node = this.find(name, at, key)
      const alias = node?.alias ?? null
      if (node === null || node.isEmpty) return this.withoutNode(name, at, key, type, writer, node, links)
      if (alias === null || type === codec.TYPE_CNAME || type === codec.TYPE_ANY) {
        this.answer(name, at, key, type, writer, node)
        return LOCAL
      }
      if (links === CHAIN) {
        this.rcode = SERVFAIL
        return LOCAL
      }
      this.write(writer, name, at, codec.TYPE_CNAME, TTL, alias)
      writer.answers++
      name = alias
      at = 0
      key = this.targetKey.compute(alias, 0)
    }
  }

  private find(name: Uint8Array, at: number, key: NameKey): Node | null {
    if (key.count === 1 && this.domain.length > 1) {
      const size = name[at] + 1
      if (size + this.domain.length > 255) return null
      for (let i = 0; i < size; i++) this.qualified[i] = name[at + i]
      this.qualified.set(this.domain, size)
      const node = this.findFull(this.qualified, 0, this.qualifiedKey.compute(this.qualified, 0).hashes[0])
      return node?.isEmpty === false ? node : this.findFull(name, at, key.hashes[0])
    }
    return this.findFull(name, at, key.hashes[0])
  }

  private findFull(name: Uint8Array, at: number, hash: number): Node | null {
    const node = this.configured.find(name, at, hash)
    return node === null || node.isEmpty ? (this.live.find(name, at, hash) ?? node) : node
  }

  private withoutNode(
    name: Uint8Array,
    at: number,
    key: NameKey,
    type: number,
    writer: MessageWriter,
    node: Node | null,
    links: number,
  ): number {
    const domain = this.domains.findDomain(name, key)
    if (domain?.kind === 'localhost') {
      if (type === codec.TYPE_A) this.put(writer, name, at, type, LOOPBACK_IPV4)
      else if (type === codec.TYPE_AAAA) this.put(writer, name, at, type, LOOPBACK_IPV6)
      else this.negative(writer, domain)
      return LOCAL
    }
    if (domain !== null && domain.kind !== 'delegated') {
      const isTop = key.count === domain.labels
      if (isTop && type === codec.TYPE_SOA) this.put(writer, name, at, type, domain.soa)
      else if (isTop && type === codec.TYPE_NS) this.put(writer, name, at, type, domain.primary)
      else {
        if (!isTop && node === null) this.rcode = NXDOMAIN
        this.negative(writer, domain)
      }
      return LOCAL
    }
    if (domain === null && key.count === 1 && !DOMAIN_TYPES.has(type)) {
      this.rcode = NXDOMAIN
      this.negative(writer, this.rootDomain)
      return LOCAL
    }
    if (links === 0) return FORWARD
    this.target = name
    return FOLLOW
  }

  private answer(name: Uint8Array, at: number, key: NameKey, type: number, writer: MessageWriter, node: Node): void {
    if (type === codec.TYPE_ANY) {
      this.write(writer, name, at, codec.TYPE_HINFO, FIXED_TTL, REFUSES_ANY)
      writer.answers++
      return
    }
    if (type === codec.TYPE_CNAME && node.alias) return this.put(writer, name, at, type, node.alias)
    const before = writer.answers
    for (let i = 0; i < node.types.length; i++)
      if (node.types[i] === type) this.put(writer, name, at, type, node.data[i])
    if (writer.answers === before) {
      const domain = this.domains.findDomain(name, key)
      this.negative(writer, domain === null || domain.kind === 'delegated' ? this.rootDomain : domain)
    } else if (type === codec.TYPE_SRV) {
      for (let i = 0; i < node.types.length; i++) if (node.types[i] === type) this.addHosts(writer, node.data[i])
    }
  }

  /** The addresses of a service's target, if it is ours. */
  private addHosts(writer: MessageWriter, service: Uint8Array): void {
    const target = service.subarray(6)
    const node = this.findFull(target, 0, this.targetKey.compute(target, 0).hashes[0])
    if (node === null) return
    for (let i = 0; i < node.types.length; i++) {
      if (node.types[i] !== codec.TYPE_A && node.types[i] !== codec.TYPE_AAAA) continue
      this.write(writer, target, 0, node.types[i], TTL, node.data[i])
      writer.additionals++
    }
  }

  private negative(writer: MessageWriter, domain: Domain): void {
    this.write(writer, domain.name, 0, codec.TYPE_SOA, domain.negativeTtl, domain.soa)
    writer.authorities++
  }

  private put(writer: MessageWriter, name: Uint8Array, at: number, type: number, data: Uint8Array): void {
    this.write(writer, name, at, type, TTL, data)
    writer.answers++
  }

  private write(
    writer: MessageWriter,
    name: Uint8Array,
    at: number,
    type: number,
    ttl: number,
    data: Uint8Array,
  ): void {
    const opened = writer.open(name, at, type, ttl)
    writer.data(type, data, 0, data.length)
    writer.close(opened)
  }
}
