/**
 * The nodes of a zone: names, what they stand for, and the names on the way to them.
 *
 * A node without data is there because others are below it (RFC 8020); it goes when the last of them goes. Data is kept
 * as it goes into a record, with the names in it uncompressed. A table has no limit of its own; `dns-zone.ts` has.
 */
import { type Ip, ipBytes } from './address.js'
import { TYPE_A, TYPE_AAAA, TYPE_PTR } from './dns-codec.js'
import { NameEntry, NameTable, nameFromText, nameToText } from './dns-name.js'
import { reverseName } from './dns-special.js'

export class Node extends NameEntry {
  /** a name that this one is an alias of */
  alias: Uint8Array | null = null
  readonly types: number[] = []
  /** side by side with `types`: data with names uncompressed */
  readonly data: Uint8Array[] = []
  /** nodes right below */
  children = 0

  get isEmpty(): boolean {
    return this.types.length === 0 && this.alias === null
  }
}

export class Nodes extends NameTable<Node> {
  /** The node of a name, made if it is not there, with all nodes on the way from the root. */
  make(name: Uint8Array): Node {
    let node = this.get(name)
    if (node) return node
    node = new Node(name)
    this.add(node)
    if (name[0] !== 0) this.make(name.slice(name[0] + 1)).children++
    return node
  }

  /** Removes a node that has nothing left, and those above that were there for it alone. */
  prune(node: Node): void {
    if (!node.isEmpty || node.children > 0) return
    this.remove(node)
    if (node.name[0] === 0) return
    const parent = this.get(node.name.slice(node.name[0] + 1))
    if (!parent) return
    parent.children--
    this.prune(parent)
  }

  put(name: Uint8Array, type: number, data: Uint8Array): void {
    const node = this.make(name)
    node.types.push(type)
    node.data.push(data)
  }

  take(name: Uint8Array, type: number, data: Uint8Array): void {
    const node = this.get(name)
    const at = node?.data.findIndex((one, i) => node.types[i] === type && isSameBytes(one, data)) ?? -1
    if (!node || at < 0) return
    node.types.splice(at, 1)
    node.data.splice(at, 1)
    this.prune(node)
  }

  /** A host's name and, for each address that has none yet, the way back. */
  putHost(name: Uint8Array, ips: readonly Ip[]): void {
    for (const ip of ips) {
      this.put(name, addressType(ip), ipBytes(ip))
      this.put(nameFromText(reverseName(ip))!, TYPE_PTR, name)
    }
  }

  takeHost(name: Uint8Array, ips: readonly Ip[]): void {
    for (const ip of ips) {
      this.take(name, addressType(ip), ipBytes(ip))
      this.take(nameFromText(reverseName(ip))!, TYPE_PTR, name)
    }
  }
}

function addressType(ip: Ip): number {
  return ip.length === 1 ? TYPE_A : TYPE_AAAA
}

function isSameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

export function wireName(text: string): Uint8Array {
  const name = nameFromText(text)
  if (name === null) throw new RangeError(`${text} is not a domain name`)
  return name
}

/** A name of the definition: without a dot, or of underscored labels alone (`_http._tcp`), it is one of the domain. */
export function ownName(text: string, domain: Uint8Array): Uint8Array {
  const name = wireName(text)
  const labels = nameToText(name).split('.')
  if (labels.length > 1 && !labels.every((label) => label.startsWith('_'))) return name
  const full = Uint8Array.from([...name.subarray(0, -1), ...domain])
  if (full.length > 255) throw new RangeError(`${text} is too long a name in its domain`)
  return full
}

export function textData(texts: readonly string[]): Uint8Array {
  const bytes: number[] = []
  for (const text of texts.length === 0 ? [''] : texts) {
    const encoded = new TextEncoder().encode(text)
    if (encoded.length > 255) throw new RangeError(`a text of ${encoded.length} bytes: up to 255 fit into one string`)
    bytes.push(encoded.length, ...encoded)
  }
  return Uint8Array.from(bytes)
}
