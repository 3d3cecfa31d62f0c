/**
 * What a client asked to hear of: events by topic, and the rates of ports at an interval.
 *
 * A topic is an event's type (`port.added`), all of an object (`port.*`), all (`*`), or `rates`. Notifications:
 *
 *   event                  { subscription, type, network, … }
 *   rates                  { subscription, seconds, ports: [PortRates] }
 *   subscription.dropped   { subscription, reason }: the client reads too slowly; it may subscribe anew
 *
 * A slow client loses: a sample of rates is left out while 1 MiB waits to be sent, and at 1000 messages or 4 MiB its
 * subscriptions are dropped. Others do not notice. A client has at most 16 subscriptions.
 */
import type { Methods } from './api.js'
import type { PortRates } from './api-results.js'
import { Failure } from './failure.js'
import type { PortStatus } from './model.js'
import type { Event } from './network.js'
import type { Networks } from './networks.js'
import { quote } from './schema.js'

const SUBSCRIPTION_LIMIT = 16
const BACKLOG_MESSAGES = 1000
const BACKLOG_BYTES = 4 << 20
const RATES_BACKLOG_BYTES = 1 << 20

/** Where notifications go: a client's connection. */
export interface Sink {
  notify(method: string, params: object): void
  /** what has not been sent yet */
  backlog(): { messages: number; bytes: number }
}

interface Subscription {
  id: number
  topics: readonly string[]
  network: string | null
  timer: NodeJS.Timeout | null
}

/** The subscriptions of one client. */
export class Subscriptions {
  private readonly networks: Networks
  private readonly sink: Sink
  private readonly active = new Map<number, Subscription>()
  private readonly leave: () => void
  private last = 0

  constructor(networks: Networks, sink: Sink) {
    this.networks = networks
    this.sink = sink
    this.leave = networks.onEvent((event) => this.hear(event))
  }

  add({ topics, network, intervalSeconds = 1 }: Methods['subscribe']['params']): number {
    for (const topic of topics) {
      if (topic === 'rates' || /^(\*|[a-z]+\.(\*|[a-z]+))$/.test(topic)) continue
      throw new Failure('ERR_INVALID', `topics: ${quote(topic)} is not like port.added, port.*, * or rates`, 'topics')
    }
    if (this.active.size >= SUBSCRIPTION_LIMIT) {
      throw new Failure('ERR_CAPACITY', `a client has at most ${SUBSCRIPTION_LIMIT} subscriptions`)
    }
    const only = network === undefined ? null : this.networks.definition(network).name
    const subscription: Subscription = { id: ++this.last, topics, network: only, timer: null }
    if (topics.includes('rates')) {
      const meter = new RateMeter(this.networks, only)
      subscription.timer = setInterval(() => this.sample(subscription, meter), intervalSeconds * 1000)
    }
    this.active.set(subscription.id, subscription)
    return subscription.id
  }

  remove(id: number): void {
    const subscription = this.active.get(id)
    if (subscription === undefined) throw new Failure('ERR_NOT_FOUND', `there is no subscription ${id}`)
    this.end(subscription)
  }

  close(): void {
    this.leave()
    for (const subscription of this.active.values()) this.end(subscription)
  }

  private hear(event: Event): void {
    for (const subscription of this.active.values()) {
      const { id, topics, network } = subscription
      if (network !== null && 'network' in event && event.network !== network) continue
      if (!topics.some((topic) => covers(topic, event.type))) continue
      if (this.slow(subscription)) continue
      this.sink.notify('event', { subscription: id, ...event })
    }
  }

  private sample(subscription: Subscription, meter: RateMeter): void {
    if (this.sink.backlog().bytes > RATES_BACKLOG_BYTES || this.slow(subscription)) return
    this.sink.notify('rates', { subscription: subscription.id, ...meter.sample() })
  }

  private slow(subscription: Subscription): boolean {
    const { messages, bytes } = this.sink.backlog()
    if (messages < BACKLOG_MESSAGES && bytes < BACKLOG_BYTES) return false
    this.end(subscription)
    const reason = `${messages} messages and ${bytes} bytes wait to be read`
    this.sink.notify('subscription.dropped', { subscription: subscription.id, reason })
    return true
  }

  private end(subscription: Subscription): void {
    if (subscription.timer !== null) clearInterval(subscription.timer)
    this.active.delete(subscription.id)
  }
}

function covers(topic: string, type: string): boolean {
  return topic === '*' || topic === type || (topic.endsWith('.*') && type.startsWith(topic.slice(0, -1)))
}

/** Rates of ports between one sample and the next. */
export class RateMeter {
  private readonly networks: Networks
  private readonly network: string | null
  private before: Map<string, PortStatus>
  private at: number

  constructor(networks: Networks, network: string | null) {
    this.networks = networks
    this.network = network
    this.before = this.read()
    this.at = performance.now()
  }

  sample(): { seconds: number; ports: PortRates[] } {
    const now = performance.now()
    const seconds = Math.max((now - this.at) / 1000, 0.001)
    const after = this.read()
    const ports: PortRates[] = []
    for (const [key, port] of after) {
      const before = this.before.get(key)
      const network = key.slice(0, key.indexOf('/'))
      const rate = (count: (one: PortStatus) => number) =>
        before === undefined ? 0 : Math.max(0, Math.round((count(port) - count(before)) / seconds))
      ports.push({
        network,
        port: port.name,
        kind: port.kind,
        state: port.state,
        receive: {
          packetsPerSecond: rate((one) => one.receive.packets),
          bytesPerSecond: rate((one) => one.receive.bytes),
        },
        transmit: {
          packetsPerSecond: rate((one) => one.transmit.packets),
          bytesPerSecond: rate((one) => one.transmit.bytes),
        },
        droppedPerSecond: rate((one) => one.receive.dropped + one.transmit.dropped),
      })
    }
    this.before = after
    this.at = now
    return { seconds, ports }
  }

  private read(): Map<string, PortStatus> {
    const ports = new Map<string, PortStatus>()
    for (const { name } of this.networks.list(false)) {
      if (this.network !== null && name !== this.network) continue
      for (const port of this.networks.ports(name)) ports.set(`${name}/${port.name}`, port)
    }
    return ports
  }
}
