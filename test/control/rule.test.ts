/**
 * Rules as users write them: a table of good sentences with their canonical text, one of bad sentences with what is
 * said about them, sets, and what sentences compile to where the numbers tell more than `firewall.test.ts` can see.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Failure } from '../../src/control/failure.js'
import { compileRules, defaultPolicies, formatLogged } from '../../src/control/rule-compile.js'
import {
  ENTRIES_MAX,
  LIST_MAX,
  RULES_MAX,
  type RuleSets,
  SETS_MAX,
  SET_ENTRIES_MAX,
  formatRule,
  parseRule,
  parseRules,
  parseSets,
} from '../../src/control/rule.js'
import * as firewall from '../../src/dataplane/router/firewall.js'
import { parseIp } from '../../src/services/address.js'

function refusal(work: () => unknown): { code: string; message: string; path: string | undefined } {
  try {
    work()
  } catch (error) {
    assert.ok(error instanceof Failure, String(error))
    return { code: error.code, message: error.message, path: error.path }
  }
  throw new Error('it was not refused')
}

const NO_SETS: RuleSets = { addresses: {}, ports: {} }

/** A sentence, and its canonical text where that differs. */
const GOOD: [text: string, canonical?: string][] = [
  ['accept'],
  ['drop'],
  ['reject'],
  ['accept out'],
  ['accept in'],
  ['drop local'],
  ['accept from any to any', 'accept'],
  ['  drop \t in\n', 'drop in'],
  ['accept from 10.0.0.0/24 to 10.0.1.1'],
  ['accept from 10.0.0.1/32', 'accept from 10.0.0.1'],
  ['accept from 0.0.0.0/0'],
  ['accept from ::/0 to 2001:DB8::/32', 'accept from ::/0 to 2001:db8::/32'],
  ['accept from fe80::1/128', 'accept from fe80::1'],
  ['drop local from vm1 to vm2'],
  ['drop from vm-1.x_y to 7'],
  ['drop from any.host'],
  ['accept to gateway'],
  ['accept in to gateway icmp'],
  ['accept to gateway from vm1 udp dport 53', 'accept from vm1 to gateway udp dport 53'],
  ['accept from $friends to $servers'],
  ['accept tcp dport 80,443,8000-8100'],
  ['accept dport 80 tcp', 'accept tcp dport 80'],
  ['accept sport 80-80,0,65535', 'accept sport 80,0,65535'],
  ['accept udp sport $dns dport $dns'],
  ['accept dport 53'],
  ['accept 6', 'accept tcp'],
  ['accept 0'],
  ['accept 255'],
  ['accept 89 out', 'accept out 89'],
  ['drop gre'],
  ['drop sctp dport 5000'],
  ['accept icmp type 8'],
  ['accept icmp type 3/4'],
  ['accept type 128/0 icmp6', 'accept icmp6 type 128/0'],
  ['accept 1 type 8', 'accept icmp type 8'],
  ['accept from 10.0.0.1 icmp'],
  ['drop state invalid,new', 'drop state new,invalid'],
  ['accept state invalid'],
  ['drop state new,established,related,invalid log'],
  ['reject log in tcp', 'reject in tcp log'],
  [
    'drop log state established dport 25 sport 1-2 tcp to 2001:db8::1 from ::/0 out',
    'drop out from ::/0 to 2001:db8::1 tcp sport 1-2 dport 25 state established log',
  ],
]

const BAD: [text: string, says: string][] = [
  ['', 'is empty: a rule begins with accept, drop or reject'],
  [' ', 'is empty: a rule begins with accept, drop or reject'],
  ['log', '"log" is not accept, drop or reject'],
  ['allow tcp', '"allow" is not accept, drop or reject'],
  ['Accept', '"Accept" is not accept, drop or reject'],
  ['constructor', '"constructor" is not accept, drop or reject'],
  ['accept tcp dprot 80', '"dprot" is not understood after "tcp"'],
  ['accept toString', '"toString" is not understood after "accept"'],
  ['accept constructor', '"constructor" is not understood after "accept"'],
  ['accept protocol', '"protocol" is not understood after "accept"'],
  ['accept direction', '"direction" is not understood after "accept"'],
  ['accept 256', '"256" is not understood after "accept"'],
  ['accept 06', '"06" is not understood after "accept"'],
  ['accept -1', '"-1" is not understood after "accept"'],
  ['accept any', '"any" is not understood after "accept"'],
  ['accept $x', '"$x" is not understood after "accept"'],
  ['accept drop', '"drop" is not understood after "accept"'],
  ['accept \u0007', '"?" is not understood after "accept"'],
  ['accept in out', '"out" is a second direction'],
  ['accept tcp udp', '"udp" is a second protocol'],
  ['accept tcp 6', '"6" is a second protocol'],
  ['accept log log', '"log" stands twice'],
  ['accept from vm1 from vm2', '"from" stands twice'],
  ['accept from any from vm2', '"from" stands twice'],
  ['accept tcp dport 1 dport 2', '"dport" stands twice'],
  ['accept from', '"from" needs an address, a prefix, a port\'s name, $set or any'],
  ['accept to', '"to" needs an address, a prefix, a port\'s name, $set, any or gateway'],
  ['accept from to vm1', '"from" needs an address, a prefix, a port\'s name, $set or any, not "to"'],
  ['accept tcp dport', '"dport" needs ports like 80 or 80,8000-8100, or $set'],
  ['accept tcp dport log', '"dport" needs ports like 80 or 80,8000-8100, or $set, not "log"'],
  ['accept icmp type', '"type" needs an ICMP type like 8 or 3/4'],
  ['accept state', '"state" needs new, established, related, invalid'],
  ['accept from gateway', '"from gateway": what the gateway itself sends is not judged by rules'],
  ['accept from 10.0.0', '"10.0.0" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from 10.0.0.256', '"10.0.0.256" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from 010.0.0.1', '"010.0.0.1" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from 10.0.0.0/33', '"10.0.0.0/33" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from vm1/24', '"vm1/24" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from fe80:', '"fe80:" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from fe80::1%eth0', '"fe80::1%eth0" is not an address or a prefix like 10.0.0.0/24'],
  ['drop from 10.0.0.1/24', '"10.0.0.1/24" has bits behind its prefix: the network is 10.0.0.0/24'],
  ['drop to fe80::1/64', '"fe80::1/64" has bits behind its prefix: the network is fe80::/64'],
  ['drop from -x', '"-x" after "from" is not an address, a prefix, a port\'s name, $set or any'],
  ['drop from a,b', '"a,b" after "from" is not an address, a prefix, a port\'s name, $set or any'],
  [`drop from ${'a'.repeat(65)}`, 'after "from" is not an address'],
  ['drop from $', '"$" is not a set\'s name'],
  ['drop from $a,b', '"$a,b" is not a set\'s name'],
  ['accept tcp dport 65536', '"65536" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport 90-80', '"90-80" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport 80,', '"" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport 80, 443', '"" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport 1-2-3', '"1-2-3" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport -5', '"-5" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport 0x50', '"0x50" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport http', '"http" is not a port (0..65535) or a range like 80-90'],
  ['accept tcp dport 80,$x', '"$x" is not a port (0..65535) or a range like 80-90'],
  [`accept dport ${'1,'.repeat(LIST_MAX)}1`, `"dport": more than ${LIST_MAX} entries, name a set`],
  ['accept icmp dport 80', '"dport" cannot stand with "icmp", which has no ports'],
  ['accept gre sport 80', '"sport" cannot stand with "gre", which has no ports'],
  ['accept 200 sport 80', '"sport" cannot stand with "200", which has no ports'],
  ['accept type 8', '"type" needs icmp or icmp6'],
  ['accept tcp type 8', '"type" needs icmp or icmp6'],
  ['accept icmp type 256', '"256" after "type" is not an ICMP type like 8 or 3/4 (0..255)'],
  ['accept icmp type 3/', '"3/" after "type" is not an ICMP type like 8 or 3/4 (0..255)'],
  ['accept icmp type 3/4/5', '"3/4/5" after "type" is not an ICMP type like 8 or 3/4 (0..255)'],
  ['accept icmp type echo', '"echo" after "type" is not an ICMP type like 8 or 3/4 (0..255)'],
  ['drop state old', '"old" is not one of new, established, related, invalid'],
  ['drop state new,', '"" is not one of new, established, related, invalid'],
  ['drop state new,new', '"new" stands twice after "state"'],
  ['drop out to gateway', '"to gateway" cannot stand with "out", which is guest to uplink'],
  ['drop to gateway local', '"to gateway" cannot stand with "local", which is guest to guest'],
  ['drop in from vm1', '"from vm1" cannot stand with "in": what comes in is from the uplink, not from a port'],
  ['drop in from vm1 to gateway', '"from vm1" cannot stand with "in"'],
  ['drop out to vm1', '"to vm1" cannot stand with "out": what goes out is to the uplink, not to a port'],
  ['drop from 10.0.0.1 to fe80::1', 'names both IPv4 and IPv6, which no packet is'],
  ['drop from fe80::1 icmp', 'names both IPv4 and IPv6, which no packet is'],
  ['drop to 10.0.0.1 icmp6', 'names both IPv4 and IPv6, which no packet is'],
  [`drop ${' '.repeat(1100)}`, 'is longer than 1024 characters'],
]

test('good sentences, and their canonical text', () => {
  for (const [text, canonical = text] of GOOD) {
    const rule = parseRule(text)
    assert.equal(formatRule(rule), canonical, text)
    assert.deepEqual(parseRule(canonical), rule, canonical)
  }
})

test('bad sentences are refused with path and word', () => {
  for (const [text, says] of BAD) {
    const { code, message, path } = refusal(() => parseRule(text, 'rules[2]'))
    assert.equal(code, 'ERR_INVALID', text)
    assert.equal(path, 'rules[2]', text)
    assert.ok(message.startsWith('rules[2]: ') && message.includes(says), `${text}: ${message}`)
    assert.ok(!message.includes('\n'))
  }
})

test('clauses may stand in any order', () => {
  const clauses = ['in', 'from 10.0.0.0/8', 'to vm1', 'tcp', 'sport 1', 'dport 2-3', 'state new', 'log']
  const text = `drop ${clauses.join(' ')}`
  const rule = parseRule(text)
  for (let i = 0; i < clauses.length; i++) {
    const turned = [...clauses.slice(i), ...clauses.slice(0, i)]
    assert.deepEqual(parseRule(`drop ${turned.join(' ')}`), rule)
    assert.deepEqual(parseRule(`drop ${turned.reverse().join(' ')}`), rule)
  }
  assert.equal(formatRule(rule), text)
})

test('any words make a rule that round trips or a refusal of one line', () => {
  const words = GOOD.concat(BAD)
    .flatMap(([text]) => text.split(/\s+/))
    .filter((word) => word.length < 40)
  let seed = 3
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0
    return (seed >>> 8) % below
  }
  let parsed = 0
  for (let i = 0; i < 20000; i++) {
    const action = ['accept', 'drop', 'reject'][random(3)]
    const text = [action, ...Array.from({ length: random(6) }, () => words[random(words.length)])].join(' ')
    try {
      const rule = parseRule(text)
      assert.deepEqual(parseRule(formatRule(rule)), rule, text)
      assert.equal(formatRule(parseRule(formatRule(rule))), formatRule(rule))
      parsed++
    } catch (error) {
      assert.ok(error instanceof Failure && !error.message.includes('\n'), `${text}: ${error}`)
    }
  }
  assert.ok(parsed > 2000, String(parsed))
})

test('sets: canonical entries, refused names and entries', () => {
  assert.deepEqual(
    parseSets({ addresses: { a: ['10.0.0.1/32', '2001:DB8::/32', '::1'] }, ports: { w: ['80', '8000-8000', '1-2'] } }),
    { addresses: { a: ['10.0.0.1', '2001:db8::/32', '::1'] }, ports: { w: ['80', '8000', '1-2'] } },
  )
  assert.deepEqual(parseSets({ addresses: { empty: [] }, ports: {} }), { addresses: { empty: [] }, ports: {} })
  const cases: [RuleSets, string, string, string?][] = [
    [{ addresses: { a: ['10.0.0.0/8', 'vm1'] }, ports: {} }, 'sets.addresses.a[1]', '"vm1" is not an address'],
    [{ addresses: { a: ['10.0.0.1/8'] }, ports: {} }, 'sets.addresses.a[0]', 'the network is 10.0.0.0/8'],
    [{ addresses: { 'a b': [] }, ports: {} }, 'sets.addresses', '"a b" is not a set\'s name'],
    [{ addresses: JSON.parse('{"__proto__": []}'), ports: {} }, 'sets.addresses', '"__proto__" is not a set\'s name'],
    [{ addresses: {}, ports: { w: ['80-70'] } }, 'sets.ports.w[0]', '"80-70" is not a port'],
    [{ addresses: {}, ports: { w: ['80,90'] } }, 'sets.ports.w[0]', '"80,90" is not a port'],
    [
      { addresses: { a: new Array<string>(SET_ENTRIES_MAX + 1).fill('10.0.0.1') }, ports: {} },
      'sets.addresses.a',
      `more than ${SET_ENTRIES_MAX} entries`,
      'ERR_CAPACITY',
    ],
    [
      { addresses: {}, ports: Object.fromEntries(Array.from({ length: SETS_MAX + 1 }, (_, i) => [`s${i}`, []])) },
      'sets.ports',
      `more than ${SETS_MAX} sets`,
      'ERR_CAPACITY',
    ],
  ]
  for (const [sets, path, says, code = 'ERR_INVALID'] of cases) {
    const refused = refusal(() => parseSets(sets))
    assert.equal(refused.code, code)
    assert.equal(refused.path, path)
    assert.ok(refused.message.includes(says), refused.message)
  }
})

test('rules name the sets that are there, and not too many', () => {
  const sets: RuleSets = { addresses: { a: ['10.0.0.0/8'] }, ports: { w: ['80'] } }
  assert.equal(parseRules(['drop from $a', 'accept dport $w'], sets).length, 2)
  const cases: [string[], RuleSets, string, string, string?][] = [
    [['drop', 'drop from $b'], sets, 'rules[1]', 'there is no set "$b" of this kind'],
    [['drop from $w'], sets, 'rules[0]', 'there is no set "$w" of this kind'],
    [['drop dport $a'], sets, 'rules[0]', 'there is no set "$a" of this kind'],
    [['drop to $constructor'], sets, 'rules[0]', 'there is no set "$constructor" of this kind'],
    [['drop', 'drop it'], sets, 'rules[1]', '"it" is not understood after "drop"'],
    [new Array<string>(RULES_MAX + 1).fill('drop'), sets, 'rules', `more than ${RULES_MAX} rules`, 'ERR_CAPACITY'],
    [
      new Array<string>(ENTRIES_MAX / 4096 + 1).fill('drop from $big'),
      { addresses: { big: new Array<string>(4096).fill('10.0.0.1') }, ports: {} },
      'rules',
      `use more than ${ENTRIES_MAX} entries of sets`,
      'ERR_CAPACITY',
    ],
  ]
  for (const [rules, given, path, says, code = 'ERR_INVALID'] of cases) {
    const refused = refusal(() => parseRules(rules, given))
    assert.equal(refused.code, code)
    assert.equal(refused.path, path)
    assert.ok(refused.message.includes(says), refused.message)
  }
  assert.throws(() => compileRules([parseRule('drop from $gone')], NO_SETS, context), Failure)
})

const context = { policies: defaultPolicies('nat'), portNumber: () => null }

test('policies by mode', () => {
  const { ACCEPT, DROP, PATHS, PATH_GATEWAY, PATH_IN, PATH_LOCAL, PATH_OUT, PATH_SELF } = firewall
  for (const mode of ['nat', 'route', 'isolated'] as const) {
    const policies = defaultPolicies(mode)
    assert.equal(policies.length, PATHS)
    for (const path of [PATH_OUT, PATH_LOCAL, PATH_GATEWAY]) assert.equal(policies[path], ACCEPT)
    for (const path of [PATH_IN, PATH_SELF]) assert.equal(policies[path], DROP)
  }
  for (const mode of ['open', 'bridge'] as const) assert.deepEqual(defaultPolicies(mode), new Array(PATHS).fill(ACCEPT))
})

test('compiled rules are plain numbers, survive JSON, and share lists', () => {
  const sets: RuleSets = {
    addresses: { a: ['10.0.1.0/24', '10.0.0.0/24', '10.0.0.5', '10.0.0.0/25', '::1'] },
    ports: { w: ['90', '80-85', '82-88', '84'] },
  }
  const texts = ['drop from $a tcp dport $w', 'accept to $a dport $w', 'drop from 10.0.0.5', 'drop to 10.0.0.5']
  const compiled = compileRules(parseRules(texts, sets), sets, context)
  assert.deepEqual(JSON.parse(JSON.stringify(compiled)), compiled)
  assert.equal(compiled.rules.length, texts.length * firewall.RULE_WORDS)
  assert.ok([...compiled.rules, ...compiled.ranges, ...compiled.ranges6].every((word) => word === (word | 0)))
  assert.deepEqual(compiled.identities, texts)
  const address = (text: string): number => parseIp(text)![0] ^ firewall.SIGN
  const set = ['10.0.0.0', '10.0.0.255', '10.0.1.0', '10.0.1.255'].map(address)
  const single = ['10.0.0.5', '10.0.0.5'].map(address)
  assert.deepEqual(compiled.ranges, [...set, 80, 88, 90, 90, ...single])
  assert.equal(compiled.ranges6.length, 8)
})

test('log records in words', () => {
  const { DROP, LOG_WORDS, PATH_LOCAL, PATH_SELF, STATE_INVALID, STATE_NEW, VERDICT_LOG } = firewall
  const names = new Map([
    [4, 'vm1'],
    [5, 'vm2'],
  ])
  const portName = (port: number): string | null => names.get(port) ?? null
  const record = new Int32Array(LOG_WORDS)
  record.set([DROP | VERDICT_LOG | (3 << 3), PATH_LOCAL, STATE_NEW, 4, 6])
  record[firewall.LOG_SOURCE] = parseIp('10.0.0.5')![0]
  record[firewall.LOG_DESTINATION] = parseIp('200.0.0.7')![0]
  record[firewall.LOG_SOURCE_PORT] = 1234
  record[firewall.LOG_DESTINATION_PORT] = 80
  record[firewall.LOG_ICMP] = -1
  record[firewall.LOG_INGRESS] = 4
  record[firewall.LOG_EGRESS] = 5
  record[firewall.LOG_BYTES] = 60
  assert.deepEqual(formatLogged(record, portName), {
    rule: 3,
    packet: 'dropped tcp 10.0.0.5:1234 > 200.0.0.7:80 (local, new, from port vm1, to port vm2, 60 bytes)',
  })
  record.set([firewall.REJECT | VERDICT_LOG | (1 << 3), PATH_SELF, STATE_INVALID, 6, 58])
  record.set(parseIp('2001:db8::1')!, firewall.LOG_SOURCE)
  record.set(parseIp('fe80::1')!, firewall.LOG_DESTINATION)
  record[firewall.LOG_ICMP] = (128 << 8) | 1
  record[firewall.LOG_INGRESS] = 9
  record[firewall.LOG_EGRESS] = -1
  assert.deepEqual(formatLogged(record, portName), {
    rule: 1,
    packet: 'rejected icmp6 type 128/1 2001:db8::1 > fe80::1 (in to gateway, invalid, 60 bytes)',
  })
  record[firewall.LOG_PROTOCOL] = 17
  record[firewall.LOG_ICMP] = -1
  assert.match(formatLogged(record, portName).packet, /udp \[2001:db8::1\]:1234 > \[fe80::1\]:80/)
})
