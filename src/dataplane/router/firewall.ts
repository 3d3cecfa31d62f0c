/**
 * The firewall of one network: tells what becomes of a packet, by the first rule that fits it, else by the policy.
 *
 * `src/control/rule.ts` parses the sentences that users write and compiles them into a `CompiledFirewall`: plain arrays
 * of numbers, which travel as JSON to the shard process. The control process sends it anew on every change, and the
 * shard builds a new `Firewall` and lets it `adopt` the counters of the one before.
 *
 * Paths. A packet takes one of five, and every rule knows on which of them it is tried:
 *
 *   PATH_OUT      guest to uplink             PATH_GATEWAY   guest to the router itself
 *   PATH_IN       uplink to guest             PATH_SELF      uplink to the router itself
 *   PATH_LOCAL    guest to guest of one network
 *
 * What the router itself sends is not judged: it answers what was let in to it.
 *
 * States. Rules judge connections, so they are asked about a packet that begins one (STATE_NEW): that alone is what a
 * rule without `state` fits. Packets of an accepted connection (STATE_ESTABLISHED) and errors about it (STATE_RELATED)
 * pass, unless a rule that names their state says otherwise. A packet that fits no connection and may begin none
 * (STATE_INVALID) is dropped, unless a rule that names `invalid` says otherwise. Who forwards asks for every packet
 * that is new, related or invalid, and for established ones only where `needsEveryPacket`. Where not even `decides`,
 * everything new passes and nobody needs to ask: switching between guests then costs nothing.
 *
 * Nothing fails open. DROP is 0, so what is asked wrongly is dropped. A port that is not known (-1: no neighbor has
 * answered yet) fits the rules that drop and reject by a port, and none that accepts by one; so where `namesEgress`,
 * the caller finds the destination's port first. A name that no port has is compiled to PORT_NONE and fits nothing.
 *
 * A rule that names an address fits only packets of that address's family. Address and port sets are sorted ranges that
 * do not overlap, and are searched by halves; rules are tried in order, which only the first packet of a connection
 * pays for: at most 512 of them, see `rule.ts`.
 *
 * `evaluate` changes nothing, so `weft trace` can ask as well; `count` counts and `log` writes down what it found. Log
 * records wait in an array of LOGS_MAX until the shard tells them. More than LOGS_PER_SECOND, and what finds the array
 * full, is only counted (`suppressed`): nobody can flood the log.
 */
import type { Flow } from './flow.js'

export const PATH_OUT = 0
export const PATH_IN = 1
export const PATH_LOCAL = 2
export const PATH_GATEWAY = 3
export const PATH_SELF = 4
export const PATHS = 5

export const STATE_NEW = 1
export const STATE_ESTABLISHED = 2
export const STATE_RELATED = 4
export const STATE_INVALID = 8

export const DROP = 0
export const ACCEPT = 1
export const REJECT = 2

// A verdict: action in bits 0 and 1, VERDICT_LOG, and the rule's place (1 is the first, 0 the policy) from bit 3 on.
export const VERDICT_ACTION = 3
export const VERDICT_LOG = 4
export const VERDICT_RULE_SHIFT = 3

/** A port that no packet comes from or goes to: a rule names it, but it does not exist. */
export const PORT_NONE = -2
export const PROTOCOL_ANY = -1
/** Any protocol that has ports. */
export const PROTOCOL_PORTED = -2

// Words of a compiled rule.
export const RULE_VERDICT = 0 // as `evaluate` returns it
export const RULE_PATHS = 1 // bits, 1 << PATH_*
export const RULE_STATES = 2 // STATE_* bits
export const RULE_FAMILY = 3 // 4, 6, 0: both
export const RULE_PROTOCOL = 4 // 0 to 255, PROTOCOL_ANY or PROTOCOL_PORTED
export const RULE_ICMP_MASK = 5 // 0xffff type and code, 0xff00 the type alone, 0 neither
export const RULE_ICMP = 6 // type << 8 | code
export const RULE_FROM = 7 // END_*
export const RULE_FROM_4 = 8 // with END_ADDRESSES: first pair in `ranges` and their count; with END_PORT: the port
export const RULE_FROM_6 = 10 // first row in `ranges6`, and their count
export const RULE_TO = 12 // likewise
export const RULE_TO_4 = 13
export const RULE_TO_6 = 15
export const RULE_SOURCE_PORTS = 17 // first pair in `ranges`, and their count; -1: all ports
export const RULE_DESTINATION_PORTS = 19
export const RULE_WORDS = 21

export const END_ANY = 0
export const END_ADDRESSES = 1
export const END_PORT = 2

/** Records that wait to be told, and words of one. */
export const LOGS_MAX = 32
export const LOG_WORDS = 20
export const LOGS_PER_SECOND = 10
export const LOG_VERDICT = 0
export const LOG_PATH = 1
export const LOG_STATE = 2
export const LOG_FAMILY = 3
export const LOG_PROTOCOL = 4
export const LOG_SOURCE = 5 // 4 words
export const LOG_DESTINATION = 9 // 4 words
export const LOG_SOURCE_PORT = 13
export const LOG_DESTINATION_PORT = 14
export const LOG_ICMP = 15 // type << 8 | code, -1: none
export const LOG_INGRESS = 16 // port, -1: not known
export const LOG_EGRESS = 17
export const LOG_BYTES = 18 // of the IP packet
export const LOG_SECONDS = 19 // since the shard's start

/** What `ranges` and `ranges6` hold of an address, so that signed numbers have the order of unsigned ones. */
export const SIGN = -0x80000000
/** Words of a row of `ranges6`: first and last address. */
const ROW6 = 8

export interface CompiledFirewall {
  /** by PATH_*: what becomes of a packet that no rule fits, DROP, ACCEPT or REJECT */
  policies: number[]
  /** RULE_WORDS each, in order */
  rules: number[]
  /** by rule, its text: a rule whose text stays the same keeps its counters */
  identities: string[]
  /** first and last of ports or of IPv4 addresses (SIGN turned over) */
  ranges: number[]
  /** the same of IPv6 addresses, 4 words each (all with SIGN turned over) */
  ranges6: number[]
}

export class Firewall {
  /** packets and bytes, first by path those that no rule fitted, then by rule: see `count` */
  readonly counters: Float64Array
  /** records of LOG_WORDS that wait; who tells them sets `logCount` to 0 */
  readonly logs = new Int32Array(LOGS_MAX * LOG_WORDS)
  logCount = 0
  /** verdicts that should have been logged and were not */
  suppressed = 0
  private readonly policies: Int32Array
  private readonly rules: Int32Array
  private readonly ranges: Int32Array
  private readonly ranges6: Int32Array
  private readonly identities: string[]
  private readonly order: Int32Array // by path: the rules tried on it, as words of `rules`
  private readonly starts: Int32Array // where in `order` a path's rules start, by path; one more for the end
  private readonly traits: Int32Array // by path
  private logSecond = -1
  private logsInSecond = 0

  /** @param compiled null drops everything: a network whose rules are not known yet */
  constructor(compiled: CompiledFirewall | null) {
    this.policies = new Int32Array(PATHS)
    if (compiled !== null) this.policies.set(compiled.policies)
    this.rules = Int32Array.from(compiled?.rules ?? [])
    this.ranges = Int32Array.from(compiled?.ranges ?? [])
    this.ranges6 = Int32Array.from(compiled?.ranges6 ?? [])
    this.identities = [...(compiled?.identities ?? [])]
    const count = this.rules.length / RULE_WORDS
    this.counters = new Float64Array(2 * (PATHS + count))
    this.traits = new Int32Array(PATHS)
    this.starts = new Int32Array(PATHS + 1)
    const order: number[] = []
    for (let path = 0; path < PATHS; path++) {
      this.starts[path] = order.length
      if (this.policies[path] !== ACCEPT) this.traits[path] |= TRAIT_DECIDES
      for (let rule = 0; rule < this.rules.length; rule += RULE_WORDS) {
        if ((this.rules[rule + RULE_PATHS] & (1 << path)) === 0) continue
        order.push(rule)
        this.traits[path] |= traitsOf(this.rules, rule)
      }
    }
    this.starts[PATHS] = order.length
    this.order = Int32Array.from(order)
  }

  /** Whether on this path anything new can get another answer than ACCEPT. */
  decides(path: number): boolean {
    return (this.traits[path] & TRAIT_DECIDES) !== 0
  }

  /** Whether `evaluate` must be asked about established packets too: a rule drops, rejects or logs such. */
  needsEveryPacket(path: number): boolean {
    return (this.traits[path] & TRAIT_EVERY_PACKET) !== 0
  }

  /** Whether a rule asks for the port that the destination is behind. */
  namesEgress(path: number): boolean {
    return (this.traits[path] & TRAIT_EGRESS) !== 0
  }

  /**
   * The verdict on a packet.
   * @param icmp type << 8 | code, -1: it is no ICMP
   * @param state one of STATE_*
   * @param ingress the port it came in by, -1: not known
   * @param egress the port its destination is behind, -1: not known
   */
  evaluate(path: number, flow: Flow, icmp: number, state: number, ingress: number, egress: number): number {
    const { rules, order } = this
    const end = this.starts[path + 1]
    for (let i = this.starts[path]; i < end; i++) {
      const rule = order[i]
      if (
        (rules[rule + RULE_STATES] & state) !== 0 &&
        this.fitsProtocol(rule, flow, icmp) &&
        this.fitsSource(rule, flow, ingress) &&
        this.fitsDestination(rule, flow, egress)
      )
        return rules[rule + RULE_VERDICT]
    }
    if (state === STATE_NEW) return this.policies[path]
    return state === STATE_ESTABLISHED || state === STATE_RELATED ? ACCEPT : DROP
  }

  /** Counts packets and bytes at what a verdict came from: a rule, or the path's policy. */
  count(path: number, verdict: number, packets: number, bytes: number): void {
    const { counters } = this
    const rule = verdict >> VERDICT_RULE_SHIFT
    const at = rule <= 0 ? 2 * path : 2 * (PATHS + rule - 1)
    if (at >= counters.length) return // a verdict of rules that are no more
    counters[at] += packets
    counters[at + 1] += bytes
  }

  /** Writes down a packet whose verdict has VERDICT_LOG, unless there were too many in this second. */
  log(
    verdict: number,
    path: number,
    flow: Flow,
    icmp: number,
    state: number,
    ingress: number,
    egress: number,
    bytes: number,
    now: number,
  ): void {
    if (now !== this.logSecond) {
      this.logSecond = now
      this.logsInSecond = 0
    }
    if (this.logsInSecond >= LOGS_PER_SECOND || this.logCount >= LOGS_MAX) {
      this.suppressed++
      return
    }
    this.logsInSecond++
    const { logs } = this
    const at = this.logCount++ * LOG_WORDS
    logs[at + LOG_VERDICT] = verdict
    logs[at + LOG_PATH] = path
    logs[at + LOG_STATE] = state
    logs[at + LOG_FAMILY] = flow.family
    logs[at + LOG_PROTOCOL] = flow.protocol
    logs[at + LOG_SOURCE] = flow.source0
    logs[at + LOG_SOURCE + 1] = flow.source1
    logs[at + LOG_SOURCE + 2] = flow.source2
    logs[at + LOG_SOURCE + 3] = flow.source3
    logs[at + LOG_DESTINATION] = flow.destination0
    logs[at + LOG_DESTINATION + 1] = flow.destination1
    logs[at + LOG_DESTINATION + 2] = flow.destination2
    logs[at + LOG_DESTINATION + 3] = flow.destination3
    logs[at + LOG_SOURCE_PORT] = flow.sourcePort
    logs[at + LOG_DESTINATION_PORT] = flow.destinationPort
    logs[at + LOG_ICMP] = icmp
    logs[at + LOG_INGRESS] = ingress
    logs[at + LOG_EGRESS] = egress
    logs[at + LOG_BYTES] = bytes
    logs[at + LOG_SECONDS] = now
  }

  /**
   * Takes over the counters of the firewall that this one replaces, by the rules' texts, and how many records it wrote
   * in this second. Its waiting records are not taken over, because they name places: tell them before. Of rules with
   * the same text the first takes over from the first. Afterwards the other is of no more use.
   */
  adopt(previous: Firewall): void {
    const { identities, counters } = this
    const others = previous.identities
    for (let i = 0; i < 2 * PATHS; i++) counters[i] = previous.counters[i]
    let at = 0 // most rules stand where they stood, so the search goes on behind the last one found
    for (let rule = 0; rule < identities.length; rule++) {
      for (let tries = 0; tries < others.length; tries++) {
        const other = (at + tries) % others.length
        if (others[other] !== identities[rule]) continue
        counters[2 * (PATHS + rule)] = previous.counters[2 * (PATHS + other)]
        counters[2 * (PATHS + rule) + 1] = previous.counters[2 * (PATHS + other) + 1]
        others[other] = '' // no rule's text: it is taken
        at = other + 1
        break
      }
    }
    this.logSecond = previous.logSecond
    this.logsInSecond = previous.logsInSecond
    this.suppressed = previous.suppressed
  }

  private fitsProtocol(rule: number, flow: Flow, icmp: number): boolean {
    const { rules } = this
    const family = rules[rule + RULE_FAMILY]
    if (family !== 0 && family !== flow.family) return false
    const protocol = rules[rule + RULE_PROTOCOL]
    if (protocol === PROTOCOL_PORTED ? !hasPorts(flow.protocol) : protocol >= 0 && protocol !== flow.protocol)
      return false
    const mask = rules[rule + RULE_ICMP_MASK]
    return mask === 0 || (icmp >= 0 && (icmp & mask) === rules[rule + RULE_ICMP])
  }

  private fitsSource(rule: number, flow: Flow, ingress: number): boolean {
    const { rules } = this
    const kind = rules[rule + RULE_FROM]
    if (kind === END_PORT) {
      if (!isAt(ingress, rules[rule + RULE_FROM_4], rules[rule + RULE_VERDICT])) return false
    } else if (kind === END_ADDRESSES) {
      const { source0, source1, source2, source3 } = flow
      const fits =
        flow.family === 4
          ? this.isWithin(rules[rule + RULE_FROM_4], rules[rule + RULE_FROM_4 + 1], source0 ^ SIGN)
          : this.isWithin6(rules[rule + RULE_FROM_6], rules[rule + RULE_FROM_6 + 1], source0, source1, source2, source3)
      if (!fits) return false
    }
    const count = rules[rule + RULE_SOURCE_PORTS + 1]
    return count < 0 || this.isWithin(rules[rule + RULE_SOURCE_PORTS], count, flow.sourcePort)
  }

  private fitsDestination(rule: number, flow: Flow, egress: number): boolean {
    const { rules } = this
    const kind = rules[rule + RULE_TO]
    if (kind === END_PORT) {
      if (!isAt(egress, rules[rule + RULE_TO_4], rules[rule + RULE_VERDICT])) return false
    } else if (kind === END_ADDRESSES) {
      const { destination0: to0, destination1: to1, destination2: to2, destination3: to3 } = flow
      const fits =
        flow.family === 4
          ? this.isWithin(rules[rule + RULE_TO_4], rules[rule + RULE_TO_4 + 1], to0 ^ SIGN)
          : this.isWithin6(rules[rule + RULE_TO_6], rules[rule + RULE_TO_6 + 1], to0, to1, to2, to3)
      if (!fits) return false
    }
    const count = rules[rule + RULE_DESTINATION_PORTS + 1]
    return count < 0 || this.isWithin(rules[rule + RULE_DESTINATION_PORTS], count, flow.destinationPort)
  }

  /** Whether a value is in one of `count` pairs from the pair `first` on. */
  private isWithin(first: number, count: number, value: number): boolean {
    const { ranges } = this
    let low = 0
    let high = count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (ranges[(first + middle) << 1] <= value) low = middle + 1
      else high = middle
    }
    return low > 0 && value <= ranges[((first + low - 1) << 1) + 1]
  }

  private isWithin6(first: number, count: number, ip0: number, ip1: number, ip2: number, ip3: number): boolean {
    const { ranges6 } = this
    let low = 0
    let high = count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (compare(ranges6, (first + middle) * ROW6, ip0, ip1, ip2, ip3) <= 0) low = middle + 1
      else high = middle
    }
    return low > 0 && compare(ranges6, (first + low - 1) * ROW6 + 4, ip0, ip1, ip2, ip3) >= 0
  }
}

const TRAIT_DECIDES = 1
const TRAIT_EVERY_PACKET = 2
const TRAIT_EGRESS = 4

function traitsOf(rules: Int32Array, rule: number): number {
  const verdict = rules[rule + RULE_VERDICT]
  const states = rules[rule + RULE_STATES]
  const isQuietAccept = (verdict & (VERDICT_ACTION | VERDICT_LOG)) === ACCEPT
  return (
    TRAIT_DECIDES |
    ((states & STATE_ESTABLISHED) !== 0 && !isQuietAccept ? TRAIT_EVERY_PACKET : 0) |
    (rules[rule + RULE_TO] === END_PORT ? TRAIT_EGRESS : 0)
  )
}

/** Whether a packet at `port` fits a rule that names the port `wanted`. */
function isAt(port: number, wanted: number, verdict: number): boolean {
  if (wanted < 0) return false
  return port === wanted || (port < 0 && (verdict & VERDICT_ACTION) !== ACCEPT)
}

/** TCP, UDP, DCCP, SCTP, UDP-Lite. */
function hasPorts(protocol: number): boolean {
  return protocol === 6 || protocol === 17 || protocol === 33 || protocol === 132 || protocol === 136
}

/** The order of the address at `at` in `rows` and another: below 0 if it stands before. */
function compare(rows: Int32Array, at: number, ip0: number, ip1: number, ip2: number, ip3: number): number {
  if (rows[at] !== (ip0 ^ SIGN)) return rows[at] < (ip0 ^ SIGN) ? -1 : 1
  if (rows[at + 1] !== (ip1 ^ SIGN)) return rows[at + 1] < (ip1 ^ SIGN) ? -1 : 1
  if (rows[at + 2] !== (ip2 ^ SIGN)) return rows[at + 2] < (ip2 ^ SIGN) ? -1 : 1
  if (rows[at + 3] !== (ip3 ^ SIGN)) return rows[at + 3] < (ip3 ^ SIGN) ? -1 : 1
  return 0
}
