/** What users write about networks and ports: parsed with defaults, written back, refused with path and value. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { parseNetwork, writtenNetwork } from '../../src/control/definition.js'
import { readDocument, writeDocument } from '../../src/control/document.js'
import { Failure } from '../../src/control/failure.js'
import { parsePort, parseVids, writtenPort, writtenVids } from '../../src/control/port-definition.js'

const tap = { name: 'vm1', kind: 'tap' }

function refusal(work: () => unknown): { code: string; message: string; path: string | undefined } {
  try {
    work()
  } catch (error) {
    assert.ok(error instanceof Failure, String(error))
    return { code: error.code, message: error.message, path: error.path }
  }
  throw new Error('it was not refused')
}

test('a port gets every default', () => {
  assert.deepEqual(parsePort(tap), {
    kind: 'tap',
    dev: 'vm1',
    netns: null,
    queues: 1,
    owner: null,
    offloads: true,
    name: 'vm1',
    vlan: { mode: 'none', access: null, native: null, trunk: [] },
    mac: null,
    mtu: null,
    isolated: false,
    link: true,
    macLimit: 1024,
    leaseLimit: null,
    addresses: [],
    allow: [],
  })
})

test('the native VLAN need not be listed', () => {
  const { vlan } = parsePort({ ...tap, trunk: '10,20-22', native: 5 })
  assert.deepEqual(vlan, { mode: 'trunk', access: null, native: 5, trunk: [5, 10, 20, 21, 22] })
})

test('ports are refused with path and value', () => {
  const network = (ports: unknown[]) => () => parseNetwork({ name: 'n', ports })
  const cases: [() => unknown, string, string][] = [
    [
      network([tap, { name: 'b', kind: 'tap' }, { name: 'c', kind: 'tap', access: 4095 }]),
      'ports[2].access',
      '4095 is not 1..4094',
    ],
    [network([{ ...tap, access: 0 }]), 'ports[0].access', '0 is not 1..4094'],
    [network([{ ...tap, trunk: '10,4095' }]), 'ports[0].trunk', '4095 is not 1..4094'],
    [network([{ ...tap, trunk: '20-10' }]), 'ports[0].trunk', '20-10 runs backwards'],
    [network([{ ...tap, trunk: 'x' }]), 'ports[0].trunk', 'x is not a VLAN ID or a range like 20-29'],
    [network([{ ...tap, native: 5 }]), 'ports[0].native', '5 needs trunk'],
    [network([{ ...tap, access: 5, trunk: '6' }]), 'ports[0].access', '5 and a trunk exclude each other'],
    [network([{ ...tap, acess: 5 }]), 'ports[0].acess', 'unknown key (known are name, kind, dev'],
    [network([{ kind: 'tap' }]), 'ports[0].name', 'is missing'],
    [network([{ name: 'a' }]), 'ports[0].kind', 'is missing (tap, netdev, vhost-user, qemu, pcap)'],
    [network([{ name: 'a', kind: 'tun' }]), 'ports[0].kind', 'tun is not one of tap, netdev, vhost-user, qemu, pcap'],
    [network([{ name: 'a', kind: 'netdev' }]), 'ports[0].dev', 'is missing'],
    [network([{ ...tap, mac: '01:00:5e:00:00:01' }]), 'ports[0].mac', '01:00:5e:00:00:01 is a group address'],
    [network([{ ...tap, mac: '00:00:00:00:00:00' }]), 'ports[0].mac', 'is no address of a host'],
    [network([{ ...tap, mac: '52:54' }]), 'ports[0].mac', '52:54 is not a MAC address like'],
    [network([{ ...tap, mtu: 65522 }]), 'ports[0].mtu', '65522 is not 576..65521'],
    [network([{ ...tap, name: '-x' }]), 'ports[0].name', '-x is not a name'],
    [network([{ ...tap, name: 'a/b' }]), 'ports[0].name', 'a/b is not a name'],
    [network([{ ...tap, name: 'a-name-longer-than-15' }]), 'ports[0].dev', 'is not an interface name'],
    [network([tap, tap]), 'ports[1].name', 'there are two ports named vm1'],
    [network([tap, { name: 'b', kind: 'netdev', dev: 'vm1' }]), 'ports[1]', 'interface vm1 is in use by port vm1'],
    [network([{ name: 'q', kind: 'qemu', path: 'x.sock' }]), 'ports[0].path', 'x.sock is not an absolute path'],
    [
      network([{ name: 'q', kind: 'qemu', path: '10.0.0.1:80' }]),
      'ports[0].path',
      '10.0.0.1 is not a loopback address',
    ],
    [network([{ name: 'q', kind: 'qemu', path: '127.0.0.1:0' }]), 'ports[0].path', '0 is not 1..65535'],
    [network([{ name: 'q', kind: 'qemu', path: `/${'x'.repeat(107)}` }]), 'ports[0].path', 'is 108 bytes long'],
    [network([{ name: 'v', kind: 'vhost-user' }]), 'ports[0].path', 'is missing'],
    [network([{ name: 'v', kind: 'vhost-user', path: 'v.sock' }]), 'ports[0].path', 'v.sock is not an absolute path'],
    [network([{ name: 'v', kind: 'vhost-user', path: '127.0.0.1:99' }]), 'ports[0].path', 'is not an absolute path'],
    [network([{ name: 'v', kind: 'vhost-user', path: `/${'x'.repeat(107)}` }]), 'ports[0].path', 'is 108 bytes long'],
    [network([{ name: 'v', kind: 'vhost-user', path: '/v', queues: 17 }]), 'ports[0].queues', '17 is not 1..16'],
    [network([{ name: 'v', kind: 'vhost-user', path: '/v', dgram: true }]), 'ports[0].dgram', 'unknown key'],
    [network([{ name: 'v', kind: 'vhost-user', path: '/v', poll: 'yes' }]), 'ports[0].poll', 'yes'],
    [
      network([
        { name: 'q', kind: 'qemu', path: '/v' },
        { name: 'v', kind: 'vhost-user', path: '/v' },
      ]),
      'ports[1]',
      'socket /v is in use by port q',
    ],
    [network([{ name: 'p', kind: 'pcap' }]), 'ports[0].read', 'reads a file, writes one, or both'],
    [network([7]), 'ports[0]', '7 is not a port'],
    [network([{ ...tap, addresses: ['10.0.0.300'] }]), 'ports[0].addresses[0]', '10.0.0.300 is not an IP address'],
    [network([{ ...tap, addresses: ['224.0.0.1'] }]), 'ports[0].addresses[0]', '224.0.0.1 is no address of a host'],
    [network([{ ...tap, allow: ['all'] }]), 'ports[0].allow[0]', 'all is not one of spoofing, dhcp-server, router'],
    [() => parseNetwork({ name: 'n', mode: 'star' }), 'mode', 'star is not one of nat, route, open, isolated, bridge'],
    [() => parseNetwork({ name: 'n', mode: 'bridge' }), 'uplink', 'is missing: a bridge network needs netdev:IFNAME'],
    [() => parseNetwork({ name: 'n', uplink: 'netdev:eth0' }), 'uplink', 'an isolated network has none'],
    [() => parseNetwork({ name: 'n', mode: 'bridge', uplink: 'netdev:' }), 'uplink', 'is not an interface name'],
    [() => parseNetwork({ name: 'n', fdbAgeSeconds: 0 }), 'fdbAgeSeconds', '0 is not 1..1000000'],
    [() => parseNetwork({ name: 'n', fdb: [{ mac: '52:54:00:00:00:01', port: 'x' }] }), 'fdb[0].port', 'no port x'],
    [() => parseNetwork([]), '', 'is not an object'],
  ]
  for (const [work, path, sentence] of cases) {
    const { code, message, path: at } = refusal(work)
    assert.equal(code, 'ERR_INVALID', message)
    assert.equal(at ?? '', path, message)
    assert.ok(message.startsWith(path) && message.includes(sentence), `${message} should say: ${sentence}`)
  }
})

test('what comes later is unsupported by name', () => {
  const cases: [() => unknown, RegExp][] = [
    [
      () => parseNetwork({ name: 'n', mode: 'nat', subnets: ['10.0.0.0/24'], uplink: 'sockets' }),
      /^uplink: uplink sockets comes in a later version/,
    ],
    [() => parsePort({ name: 'a', kind: 'xdp' }), /ports of kind xdp come in a later version/],
    [() => parsePort({ name: 'a', kind: 'vde' }), /vde/],
    [() => readDocument('<network/>'), /XML comes in a later version/],
  ]
  for (const [work, sentence] of cases) {
    const { code, message } = refusal(work)
    assert.equal(code, 'ERR_UNSUPPORTED', message)
    assert.match(message, sentence)
  }
  const plain = parseNetwork({ name: 'n', subnets: [], dhcp: 'off', domain: null, uplink: 'none' })
  assert.deepEqual([plain.mode, plain.uplink, plain.domain, plain.subnets], ['isolated', null, null, []])
})

test('what needs a router is refused where there is none', () => {
  const bridge = { name: 'n', mode: 'bridge', uplink: 'netdev:e0' }
  const cases: [object, string, string][] = [
    [{ name: 'n', domain: 'x.org' }, 'domain', 'x.org needs a subnet'],
    [{ name: 'n', dhcp: '10.0.0.1-10.0.0.9' }, 'dhcp', '10.0.0.1-10.0.0.9 needs a subnet'],
    [{ name: 'n', dhcp: { leaseSeconds: 600 } }, 'dhcp', 'a network without subnets has none: it has no router'],
    [{ name: 'n', rules: ['drop in'] }, 'rules', 'a network without subnets has none'],
    [{ name: 'n', mode: 'nat' }, 'subnets', 'a network of mode nat needs one'],
    [{ ...bridge, subnets: ['10.0.0.0/24'] }, 'subnets', 'a bridge network has none'],
    [{ ...bridge, dns: { enabled: false } }, 'dns', 'a bridge network has none: it has no router'],
    [{ ...bridge, uplink: 'netdev:e0,address=dhcp' }, 'uplink', 'it takes netdev:IFNAME alone'],
    [{ ...bridge, uplink: 'host' }, 'uplink', 'a bridge network needs netdev:IFNAME, not host'],
    [
      { name: 'n', subnets: ['10.0.0.0/24'], forwards: ['tcp:80 10.0.0.5'] },
      'forwards',
      'an isolated network has none',
    ],
  ]
  for (const [given, path, sentence] of cases) {
    const { code, message, path: at } = refusal(() => parseNetwork(given))
    assert.deepEqual([code, at], ['ERR_INVALID', path], message)
    assert.ok(message.includes(sentence), `${message} should say: ${sentence}`)
  }
})

test('a bridge network has its uplink as a port', () => {
  const network = parseNetwork({ name: 'lan', mode: 'bridge', uplink: 'netdev:eth0', ports: [tap] })
  assert.deepEqual(
    network.ports.map((port) => [port.name, port.kind, port.macLimit]),
    [
      ['uplink', 'netdev', 8192],
      ['vm1', 'tap', 1024],
    ],
  )
  // What is beyond the interface has routers and DHCP servers of its own.
  assert.deepEqual(
    network.ports.map((port) => port.allow),
    [['spoofing', 'dhcp-server', 'router'], []],
  )
  assert.deepEqual(parseNetwork(writtenNetwork(network)), network)
  const twice = { ...writtenNetwork(network), uplink: 'netdev:eth1' }
  assert.match(refusal(() => parseNetwork(twice)).message, /the port named uplink is not the interface eth1/)
})

test('documents: YAML and JSON round trip, faults have a line', () => {
  const network = parseNetwork({ name: 'n', fdbAgeSeconds: 7, ports: [{ ...tap, trunk: [1, 2, 3, 9], native: 9 }] })
  for (const format of ['yaml', 'json'] as const) {
    assert.deepEqual(parseNetwork(readDocument(writeDocument(writtenNetwork(network), format))), network)
  }
  assert.match(refusal(() => readDocument('a: 1\na: 2\n')).message, /line 2/)
  assert.match(refusal(() => readDocument('{"a":')).message, /line 1/)
  const ten = (word: string): string => `[${new Array<string>(11).fill(word).join(',')}]`
  const bomb = `a: &a ${ten('1')}\nb: &b ${ten('*a')}\nc: ${ten('*b')}\n`
  assert.equal(refusal(() => readDocument(bomb)).code, 'ERR_INVALID')
})

test('property: VIDs and ports round trip', () => {
  const vids = fc.uniqueArray(fc.integer({ min: 1, max: 4094 }), { minLength: 1, maxLength: 50 })
  fc.assert(
    fc.property(vids, (list) => {
      const sorted = [...list].sort((a, b) => a - b)
      assert.deepEqual(parseVids(writtenVids(sorted), 'x'), sorted)
      assert.deepEqual(parseVids(list, 'x'), sorted)
    }),
    { seed: 1 },
  )
  const name = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/)
  const port = fc.record(
    {
      name,
      kind: fc.constant('tap'),
      trunk: vids,
      native: fc.integer({ min: 1, max: 4094 }),
      mtu: fc.integer({ min: 576, max: 65521 }),
      isolated: fc.boolean(),
      addresses: fc.subarray(['10.0.0.5', 'fd00::5', '2001:db8::1']),
      allow: fc.subarray(['spoofing', 'dhcp-server', 'router']),
      link: fc.boolean(),
      queues: fc.integer({ min: 1, max: 16 }),
      netns: name,
      owner: fc.constantFrom('root', 1000),
    },
    { requiredKeys: ['name', 'kind', 'trunk'] },
  )
  fc.assert(
    fc.property(port, (given) => {
      const parsed = parsePort(given)
      assert.deepEqual(parsePort(writtenPort(parsed)), parsed)
    }),
    { seed: 1 },
  )
})

test('a vhost-user port round trips, and says only what is not the default', () => {
  const plain = { name: 'v', kind: 'vhost-user', path: '/run/v.sock' }
  assert.deepEqual(writtenPort(parsePort(plain)), plain)
  const all = { ...plain, client: true, queues: 4, poll: true, offloads: false }
  assert.deepEqual(writtenPort(parsePort(all)), all)
})

test('property: whatever is given, it is parsed or refused as a Failure', () => {
  const keys = fc.constantFrom(
    'name',
    'kind',
    'dev',
    'path',
    'access',
    'trunk',
    'mac',
    'mtu',
    'ports',
    'fdb',
    'mode',
    '__proto__',
  )
  const value = fc.oneof(fc.anything(), fc.constantFrom('tap', 'qemu', 'netdev', 'bridge'))
  fc.assert(
    fc.property(fc.dictionary(keys, value), (given) => {
      for (const parse of [parsePort, parseNetwork]) {
        try {
          parse(given)
        } catch (error) {
          assert.ok(error instanceof Failure, `${(error as Error).stack}`)
        }
      }
    }),
    { seed: 1, numRuns: 500 },
  )
})
