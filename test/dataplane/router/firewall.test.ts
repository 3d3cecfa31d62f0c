/**
 * The firewall's verdicts: random rules and packets against a plain interpreter of the sentences, then what the header
 * of `firewall.ts` promises one by one: paths, states, families, unknown ports, counters, the log's limits.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compileRules, defaultPolicies } from '../../../src/control/rule-compile.js'
import {
  type Rule,
  type RuleEnd,
  type RulePorts,
  type RuleSets,
  formatRule,
  parseRule,
} from '../../../src/control/rule.js'
import * as firewall from '../../../src/dataplane/router/firewall.js'
import { Firewall } from '../../../src/dataplane/router/firewall.js'
import { Flow } from '../../../src/dataplane/router/flow.js'
import { contains, familyOf, parseIp, parseNetworkOrIp } from '../../../src/services/address.js'

const { ACCEPT, DROP, PATHS, PATH_GATEWAY, PATH_IN, PATH_LOCAL, PATH_OUT, PATH_SELF, REJECT } = firewall
const { LOGS_MAX, LOGS_PER_SECOND, LOG_WORDS, VERDICT_ACTION, VERDICT_LOG, VERDICT_RULE_SHIFT } = firewall
const { STATE_ESTABLISHED, STATE_INVALID, STATE_NEW, STATE_RELATED } = firewall
const STATES = [STATE_NEW, STATE_ESTABLISHED, STATE_RELATED, STATE_INVALID]
const ALL_PATHS = [PATH_OUT, PATH_IN, PATH_LOCAL, PATH_GATEWAY, PATH_SELF]
const PORTS: Record<string, number> = { vm1: 3, vm2: 4, 'vm.3': 0 }
const portNumber = (name: string): number | null => (Object.hasOwn(PORTS, name) ? PORTS[name] : null)
const NO_SETS: RuleSets = { addresses: {}, ports: {} }

interface Packet {
  source: string
  destination: string
  protocol: number
  sourcePort: number
  destinationPort: number
  icmp: number
  state: number
  ingress: number
  egress: number
}

const PLAIN: Packet = {
  source: '10.0.0.5',
  destination: '10.0.0.7',
  protocol: 6,
  sourcePort: 40000,
  destinationPort: 80,
  icmp: -1,
  state: STATE_NEW,
  ingress: 3,
  egress: 4,
}

function flowOf(packet: Packet): Flow {
  const flow = new Flow()
  const source = parseIp(packet.source)!
  const destination = parseIp(packet.destination)!
  flow.family = familyOf(source)
  flow.protocol = packet.protocol
  ;[flow.source0, flow.source1 = 0, flow.source2 = 0, flow.source3 = 0] = source
  ;[flow.destination0, flow.destination1 = 0, flow.destination2 = 0, flow.destination3 = 0] = destination
  flow.sourcePort = packet.sourcePort
  flow.destinationPort = packet.destinationPort
  return flow
}

const ask = (wall: Firewall, path: number, packet: Packet): number =>
  wall.evaluate(path, flowOf(packet), packet.icmp, packet.state, packet.ingress, packet.egress)

function wallOf(texts: string[], policies = defaultPolicies('nat'), sets = NO_SETS): Firewall {
  const rules = texts.map((text) => parseRule(text))
  return new Firewall(JSON.parse(JSON.stringify(compileRules(rules, sets, { policies, portNumber }))))
}

/** The action alone, of one packet and one set of rules. */
const actionOf = (texts: string[], path: number, changes: Partial<Packet> = {}): number =>
  ask(wallOf(texts), path, { ...PLAIN, ...changes }) & VERDICT_ACTION

// ---- the model: the sentences, word by word ----

const PORTED = [6, 17, 33, 132, 136]

function isOnPath(rule: Rule, path: number): boolean {
  if (rule.to?.kind === 'gateway') return path === (rule.direction === 'in' ? PATH_SELF : PATH_GATEWAY)
  if (rule.direction === 'in') return path === PATH_IN
  if (rule.direction === 'out') return path === PATH_OUT
  if (rule.direction === 'local') return path === PATH_LOCAL
  return true
}

function fitsEnd(
  end: RuleEnd | null,
  address: string,
  port: number,
  isGuest: boolean,
  rule: Rule,
  sets: RuleSets,
): boolean {
  if (end === null || end.kind === 'gateway') return true
  if (end.kind === 'port') {
    const wanted = portNumber(end.name)
    if (!isGuest || wanted === null) return false
    return port < 0 ? rule.action !== 'accept' : port === wanted
  }
  const ip = parseIp(address)!
  if (end.kind === 'prefix') return contains(end.prefix, ip)
  return sets.addresses[end.name].some((text) => contains(parseNetworkOrIp(text)!, ip))
}

function fitsPorts(ports: RulePorts | null, protocol: number, port: number, sets: RuleSets): boolean {
  if (ports === null) return true
  if (!PORTED.includes(protocol)) return false
  const ranges: number[][] =
    ports.kind === 'list' ? ports.ranges : sets.ports[ports.name].map((text) => text.split('-').map(Number))
  return ranges.some(([first, last = first]) => port >= first && port <= last)
}

function model(rules: Rule[], sets: RuleSets, policies: number[], path: number, packet: Packet): number {
  const names = ['new', 'established', 'related', 'invalid']
  const state = names[STATES.indexOf(packet.state)]
  const family = familyOf(parseIp(packet.source)!)
  for (const [i, rule] of rules.entries()) {
    const { protocol, icmp } = rule
    const isInbound = path === PATH_IN || path === PATH_SELF
    const leadsToGuest = path === PATH_IN || path === PATH_LOCAL
    if (!isOnPath(rule, path)) continue
    if (!(rule.states ?? ['new']).some((one) => one === state)) continue
    if (protocol !== null && protocol !== packet.protocol) continue
    if ((protocol === 1 && family === 6) || (protocol === 58 && family === 4)) continue
    if (!fitsEnd(rule.from, packet.source, packet.ingress, !isInbound, rule, sets)) continue
    if (!fitsEnd(rule.to, packet.destination, packet.egress, leadsToGuest, rule, sets)) continue
    if (!fitsPorts(rule.sourcePorts, packet.protocol, packet.sourcePort, sets)) continue
    if (!fitsPorts(rule.destinationPorts, packet.protocol, packet.destinationPort, sets)) continue
    if (icmp !== null && (packet.icmp < 0 || packet.icmp >> 8 !== icmp.type)) continue
    if (icmp !== null && icmp.code !== null && (packet.icmp & 255) !== icmp.code) continue
    const action = { accept: ACCEPT, drop: DROP, reject: REJECT }[rule.action]
    return action + (rule.log ? VERDICT_LOG : 0) + (i + 1) * (1 << VERDICT_RULE_SHIFT)
  }
  if (state === 'new') return policies[path]
  return state === 'invalid' ? DROP : ACCEPT
}

// ---- random rules and packets ----

let seed = 11
const random = (below: number): number => {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0
  return (seed >>> 8) % below
}
const one = <T>(of: readonly T[]): T => of[random(of.length)]
const often = (): boolean => random(3) > 0

const HOSTS4 = ['10.0.0.1', '10.0.0.5', '10.0.0.127', '10.0.0.128', '10.0.1.0', '127.255.255.255', '128.0.0.0']
const HOSTS6 = ['2001:db8::1', '2001:db8::8000:0', '2001:db8:0:1::', '7fff:ffff::', '8000::', 'fe80::1', '::', '::1']
const NETS4 = ['10.0.0.0/24', '10.0.0.0/25', '10.0.0.128/25', '10.0.0.4/30', '0.0.0.0/0', '128.0.0.0/1']
const NETS6 = ['2001:db8::/32', '2001:db8::/64', '2001:db8::8000:0/97', '::/0', '8000::/1', 'fe80::/10', '::/127']
const PORT_VALUES = [0, 1, 79, 80, 81, 443, 8000, 8050, 8100, 32768, 65534, 65535]

function randomEnd(family: number, clause: string): string {
  const choice = random(10)
  if (choice < 5) return family === 4 ? one([...NETS4, ...HOSTS4]) : one([...NETS6, ...HOSTS6])
  if (choice < 7) return one(['vm1', 'vm2', 'vm.3', 'nobody'])
  if (choice < 9) return one(['$a', '$b', '$empty'])
  return clause === 'to' ? 'gateway' : 'any'
}

function randomPorts(): string {
  if (random(4) === 0) return one(['$w', '$none'])
  return Array.from({ length: 1 + random(3) }, () => {
    const [a, b] = [one(PORT_VALUES), one(PORT_VALUES)]
    return random(2) === 0 ? `${a}` : `${Math.min(a, b)}-${Math.max(a, b)}`
  }).join()
}

/** A random sentence; null if it contradicts itself. */
function randomRule(): Rule | null {
  const family = one([4, 6])
  const words = [one(['accept', 'drop', 'reject'])]
  if (random(2) === 0) words.push(one(['in', 'out', 'local']))
  if (random(2) === 0) words.push('from', randomEnd(family, 'from'))
  if (random(2) === 0) words.push('to', randomEnd(family, 'to'))
  const protocol = one(['tcp', 'udp', 'sctp', 'icmp', 'icmp6', '47', '', ''])
  words.push(protocol)
  if (random(3) === 0) words.push('sport', randomPorts())
  if (random(3) === 0) words.push('dport', randomPorts())
  if (protocol.startsWith('icmp') && random(2) === 0) words.push('type', one(['8', '3/4', '255', '0/0']))
  if (random(3) === 0)
    words.push('state', one(['new', 'established', 'related,invalid', 'new,established', 'invalid', 'new,invalid']))
  if (random(4) === 0) words.push('log')
  try {
    return parseRule(words.filter((word) => word !== '').join(' '))
  } catch {
    return null
  }
}

function randomPacket(): Packet {
  const hosts = one([HOSTS4, HOSTS6])
  const protocol = one([6, 6, 17, 33, 132, 136, 1, 58, 47])
  const isIcmp = protocol === 1 || protocol === 58
  return {
    source: one(hosts),
    destination: one(hosts),
    protocol,
    sourcePort: one(PORT_VALUES),
    destinationPort: one(PORT_VALUES),
    icmp: isIcmp && often() ? one([0x0800, 0x0304, 0x0303, 0xffff, 0]) : -1,
    state: often() ? STATE_NEW : one(STATES),
    ingress: one([0, 3, 4, 9, -1]),
    egress: one([0, 3, 4, 9, -1]),
  }
}

test("random rules and packets: every verdict is the model's", () => {
  const sets: RuleSets = {
    addresses: {
      a: ['10.0.0.5', '10.0.0.0/30', '10.0.0.128/25', '127.0.0.0/8', '2001:db8::/96', 'fe80::1', '2001:db8::1'],
      b: ['128.0.0.0/2', '10.0.0.0/9', '10.0.0.0/24'],
      empty: [],
    },
    ports: { w: ['80', '8000-8100', '79-81', '65535'], none: [] },
  }
  let ruled = 0
  for (let round = 0; round < 400; round++) {
    const rules = Array.from({ length: random(9) }, randomRule).filter((rule) => rule !== null)
    const policies = Array.from({ length: PATHS }, () => one([ACCEPT, DROP, REJECT]))
    const wall = wallOf(rules.map(formatRule), policies, sets)
    for (let i = 0; i < 60; i++) {
      const packet = randomPacket()
      for (const path of ALL_PATHS) {
        const verdict = ask(wall, path, packet)
        const expected = model(rules, sets, policies, path, packet)
        assert.equal(verdict, expected, JSON.stringify({ rules: rules.map(formatRule), path, packet }))
        if (verdict >> VERDICT_RULE_SHIFT > 0) ruled++
        // what the quick questions answer is never less than what happens
        if (!wall.decides(path) && packet.state === STATE_NEW) assert.equal(verdict, ACCEPT)
        if (packet.state === STATE_ESTABLISHED && !wall.needsEveryPacket(path))
          assert.equal(verdict & (VERDICT_ACTION | VERDICT_LOG), ACCEPT)
        if (!wall.namesEgress(path)) assert.equal(ask(wall, path, { ...packet, egress: one([-1, 0, 3, 4]) }), verdict)
      }
    }
  }
  assert.ok(ruled > 10000, String(ruled))
})

// ---- one by one ----

test('without rules the policy stands, and nobody needs to ask where it accepts', () => {
  const wall = wallOf([])
  for (const path of [PATH_OUT, PATH_LOCAL, PATH_GATEWAY]) {
    assert.equal(ask(wall, path, PLAIN), ACCEPT)
    assert.equal(wall.decides(path), false)
  }
  for (const path of [PATH_IN, PATH_SELF]) {
    assert.equal(ask(wall, path, PLAIN), DROP)
    assert.equal(wall.decides(path), true)
  }
  for (const path of ALL_PATHS) {
    assert.equal(wall.needsEveryPacket(path), false)
    assert.equal(wall.namesEgress(path), false)
    assert.equal(ask(wall, path, { ...PLAIN, state: STATE_ESTABLISHED }), ACCEPT)
    assert.equal(ask(wall, path, { ...PLAIN, state: STATE_RELATED }), ACCEPT)
    assert.equal(ask(wall, path, { ...PLAIN, state: STATE_INVALID }), DROP)
  }
})

test('nothing fails open: no rules yet, a path or a state that is none', () => {
  const unknown = new Firewall(null)
  for (const path of ALL_PATHS) {
    assert.equal(ask(unknown, path, PLAIN), DROP)
    assert.equal(unknown.decides(path), true)
  }
  const wall = wallOf([], new Array<number>(PATHS).fill(ACCEPT))
  assert.equal(ask(wall, 5, PLAIN) & VERDICT_ACTION, DROP)
  assert.equal(ask(wall, -1, PLAIN) & VERDICT_ACTION, DROP)
  for (const state of [0, 3, 16, STATE_INVALID | STATE_ESTABLISHED])
    assert.equal(ask(wall, PATH_OUT, { ...PLAIN, state }), DROP)
})

test('each rule is tried on its paths', () => {
  const table: [text: string, ...paths: number[]][] = [
    ['reject', ...ALL_PATHS],
    ['reject out', PATH_OUT],
    ['reject in', PATH_IN],
    ['reject local', PATH_LOCAL],
    ['reject to gateway', PATH_GATEWAY],
    ['reject in to gateway', PATH_SELF],
    ['reject from vm1', PATH_OUT, PATH_LOCAL, PATH_GATEWAY],
    ['reject to vm2', PATH_IN, PATH_LOCAL],
    ['reject in to vm2', PATH_IN],
    ['reject from vm1 to vm2', PATH_LOCAL],
    ['reject from vm1 to gateway', PATH_GATEWAY],
    ['reject from nobody'],
    ['reject to nobody'],
  ]
  for (const [text, ...paths] of table)
    for (const path of ALL_PATHS)
      assert.equal(actionOf([text], path) === REJECT, paths.includes(path), `${text} on ${path}`)
})

test('rules without a state judge what begins a connection', () => {
  for (const state of [STATE_ESTABLISHED, STATE_RELATED]) assert.equal(actionOf(['drop'], PATH_OUT, { state }), ACCEPT)
  assert.equal(actionOf(['accept'], PATH_OUT, { state: STATE_INVALID }), DROP)
  assert.equal(actionOf(['accept state invalid'], PATH_OUT, { state: STATE_INVALID }), ACCEPT)
  assert.equal(actionOf(['drop state established'], PATH_OUT, { state: STATE_ESTABLISHED }), DROP)
  assert.equal(actionOf(['drop state established'], PATH_OUT), ACCEPT)
  const every: [text: string, answer: boolean][] = [
    ['drop', false],
    ['drop state new,related', false],
    ['accept state established,related', false],
    ['accept state established log', true],
    ['drop state established', true],
    ['reject state new,established dport 25', true],
  ]
  for (const [text, answer] of every) assert.equal(wallOf([text]).needsEveryPacket(PATH_OUT), answer, text)
  assert.equal(wallOf(['drop in state established']).needsEveryPacket(PATH_OUT), false)
})

test('the first rule that fits decides, and the verdict names it', () => {
  const wall = wallOf(['drop tcp dport 81', 'accept tcp dport 80 log', 'drop tcp'])
  assert.equal(ask(wall, PATH_IN, PLAIN), ACCEPT | VERDICT_LOG | (2 << VERDICT_RULE_SHIFT))
  assert.equal(ask(wall, PATH_IN, { ...PLAIN, destinationPort: 82 }), DROP | (3 << VERDICT_RULE_SHIFT))
  assert.equal(ask(wall, PATH_IN, { ...PLAIN, protocol: 17 }), DROP)
})

test('families do not mix', () => {
  const six = { source: '2001:db8::5', destination: '2001:db8::7' }
  assert.equal(actionOf(['accept from 0.0.0.0/0'], PATH_IN), ACCEPT)
  assert.equal(actionOf(['accept from 0.0.0.0/0'], PATH_IN, six), DROP)
  assert.equal(actionOf(['accept from ::/0'], PATH_IN), DROP)
  assert.equal(actionOf(['accept from ::/0'], PATH_IN, six), ACCEPT)
  assert.equal(actionOf(['accept icmp'], PATH_IN, { protocol: 1, icmp: 0x800 }), ACCEPT)
  assert.equal(actionOf(['accept icmp'], PATH_IN, { ...six, protocol: 1, icmp: -1 }), DROP)
  assert.equal(actionOf(['accept icmp6 type 128'], PATH_IN, { ...six, protocol: 58, icmp: 0x8000 }), ACCEPT)
  assert.equal(actionOf(['accept icmp6'], PATH_IN, { protocol: 58, icmp: 0x8000 }), DROP)
  // the identifier of an echo stands where ports do
  const echo = { protocol: 1, icmp: 0x800, sourcePort: 80, destinationPort: 80 }
  assert.equal(actionOf(['accept dport 80'], PATH_IN, echo), DROP)
})

test('a port that is not known yet fits what drops, and nothing that accepts', () => {
  for (const [text, action] of [
    ['drop local to vm1', DROP],
    ['reject local to vm1', REJECT],
    ['drop local to nobody', ACCEPT],
  ] as const)
    assert.equal(actionOf([text], PATH_LOCAL, { egress: -1 }), action, text)
  assert.equal(actionOf(['accept in to vm1'], PATH_IN, { egress: -1 }), DROP)
  assert.equal(actionOf(['accept in to vm1'], PATH_IN, { egress: PORTS.vm1 }), ACCEPT)
  assert.equal(actionOf(['accept in to nobody'], PATH_IN, { egress: firewall.PORT_NONE }), DROP)
  assert.equal(actionOf(['reject to vm1'], PATH_OUT, { egress: -1 }), ACCEPT)
  const wall = wallOf(['drop to vm1'])
  assert.deepEqual(
    ALL_PATHS.map((path) => wall.namesEgress(path)),
    ALL_PATHS.map((path) => path === PATH_IN || path === PATH_LOCAL),
  )
})

test('counters: rules and policies apart, kept by text when rules change', () => {
  const counted = (wall: Firewall): number[][] =>
    Array.from({ length: wall.counters.length / 2 }, (_, i) => [wall.counters[2 * i], wall.counters[2 * i + 1]])
  const before = wallOf(['drop dport 1', 'drop dport 2', 'drop dport 2', 'drop dport 3'])
  const at = (rule: number): number => rule << VERDICT_RULE_SHIFT
  for (let rule = 1; rule <= 4; rule++) before.count(PATH_OUT, at(rule), rule, rule * 100)
  before.count(PATH_IN, DROP, 7, 700)
  before.count(PATH_IN, at(5), 1, 1) // a verdict of rules that are no more
  before.suppressed = 5
  assert.deepEqual(counted(before).slice(PATHS), [
    [1, 100],
    [2, 200],
    [3, 300],
    [4, 400],
  ])
  assert.deepEqual(counted(before)[PATH_IN], [7, 700])
  const after = wallOf(['drop dport 3', 'drop dport 2', 'drop dport 9', 'drop dport 2', 'drop dport 2'])
  after.adopt(before)
  assert.equal(after.suppressed, 5)
  assert.deepEqual(counted(after)[PATH_IN], [7, 700])
  assert.deepEqual(counted(after).slice(PATHS), [
    [4, 400],
    [2, 200],
    [0, 0],
    [3, 300],
    [0, 0],
  ])
  const many = Array.from({ length: 500 }, (_, i) => `drop dport ${i}`)
  const long = wallOf(many)
  for (let rule = 1; rule <= 500; rule++) long.count(PATH_OUT, at(rule), rule, 0)
  const turned = wallOf(many.toReversed())
  turned.adopt(long)
  for (let rule = 1; rule <= 500; rule++) assert.equal(counted(turned)[PATHS + rule - 1][0], 501 - rule)
})

test('asking changes nothing', () => {
  const wall = wallOf(['drop log'])
  for (let i = 0; i < 100; i++) ask(wall, PATH_OUT, PLAIN)
  assert.ok(wall.counters.every((count) => count === 0))
  assert.equal(wall.logCount, 0)
})

test('the log takes so many in a second, and waits for its reader', () => {
  const wall = wallOf(['drop log'])
  const flow = flowOf(PLAIN)
  const verdict = ask(wall, PATH_OUT, PLAIN)
  const write = (now: number): void => wall.log(verdict, PATH_OUT, flow, -1, STATE_NEW, 3, -1, 60, now)
  for (let i = 0; i < 25; i++) write(0)
  assert.equal(wall.logCount, LOGS_PER_SECOND)
  assert.equal(wall.suppressed, 25 - LOGS_PER_SECOND)
  for (let i = 0; i < 100; i++) write(i)
  assert.equal(wall.logCount, LOGS_MAX)
  assert.equal(wall.suppressed, 25 - LOGS_PER_SECOND + 100 - (LOGS_MAX - LOGS_PER_SECOND))
  const record = wall.logs.slice(0, LOG_WORDS)
  const addresses = [flow.source0, 0, 0, 0, flow.destination0, 0, 0, 0]
  assert.deepEqual([...record], [verdict, PATH_OUT, STATE_NEW, 4, 6, ...addresses, 40000, 80, -1, 3, -1, 60, 0])
  wall.logCount = 0
  write(1000)
  assert.equal(wall.logCount, 1)
  const next = wallOf(['drop log'])
  next.adopt(wall)
  for (let i = 0; i < 20; i++) next.log(verdict, PATH_OUT, flow, -1, STATE_NEW, 3, -1, 60, 1000)
  assert.equal(next.logCount, LOGS_PER_SECOND - 1)
})
