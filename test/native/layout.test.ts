/**
 * The constants of `native/layout.h` against those of `src/dataplane/layout.ts` and `drops.ts`, by name and value.
 *
 * The addon tells what it was compiled with. Every name it tells must stand in TypeScript with the same value, and
 * every constant of the shared memory that native code works with must be told: a word added on one side only is found
 * here.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as drops from '../../src/dataplane/drops.js'
import * as layout from '../../src/dataplane/layout.js'
import { native } from '../../src/ports/native.js'

const ours = new Map<string, unknown>([...Object.entries(layout), ...Object.entries(drops)])
const theirs = native.layout()

/** Words that only TypeScript reads and writes. */
const OURS_ALONE = [
  /^HEADER_FDB_(USED|LEARNED|EXPIRED|EVICTED|MOVED|REFUSED)$/,
  /^HEADER_(TURNS|SECRET)$/,
  /^HEADER_(NEIGHBOR|CONNECTION|MAPPING)(S|_CAPACITY|_INDEX)$/,
  /^HEADER_(NEIGHBORS|CONNECTIONS|MAPPINGS|FRAGMENTS|ROUTED|ICMP)_[A-Z]+$/,
  /^EGRESS_(STRIDE|PACKET|PORT)$/,
  /^EVENT_(STRIDE|PORT|CODE)$/,
  /^DROP_(NAMES|REASONS|FIRST_TRANSMIT)$/,
  /^DROP_(RUNT|OVERSIZE|BAD_LENGTH|BAD_OFFLOAD|BAD_SOURCE|DOUBLE_TAG|VLAN_RESERVED|VLAN_NOT_ALLOWED)$/,
  /^DROP_(SPOOFED|DHCP|ROUTER|BAD_(ARP|ND|IP|TRANSPORT)|IP|MARTIAN|HOP|NO_(ROUTE|NEIGHBOR|NAT)|NEIGHBOR|TOO)/,
  /^DROP_(FRAGMENT|INVALID|CONNECTION|POLICY|NOT|SERVICE|ISOLATED)/,
  /^DROP_(LINK_LOCAL|LINK_DOWN|SAME_PORT|NO_RECIPIENT|RECEIVE_OVERFLOW|EGRESS_DOWN|EGRESS_MTU)$/,
]
const SHARED =
  /^(ARENA_|HEADER_|OFFLOAD_|GSO_|EGRESS_|EVENT_|KIND_|DROP_|COUNTER_|TAG_PRESENT$|\w+_SLOT_BYTES$|SLOT_|BURST_CAP)/
const FIELDS = [
  'OFFSET',
  'LENGTH',
  'INGRESS',
  'TAG',
  'VID',
  'TCI',
  'ETHERTYPE',
  'OFFLOAD',
  'SEGMENT_BYTES',
  'CHECKSUM_START',
  'CHECKSUM_OFFSET',
  'HEADER_LENGTH',
  'REFERENCES',
  'DESTINATION_LOW',
  'SOURCE_LOW',
  'MAC_HIGH',
]

test('what the addon was compiled with is what TypeScript works with', () => {
  assert.ok(Object.keys(theirs).length > 80)
  for (const [name, value] of Object.entries(theirs)) {
    assert.ok(ours.has(name), `${name} is not in TypeScript`)
    assert.equal(value, ours.get(name), name)
  }
})

test('every constant that native code needs is told', () => {
  const names = [...ours.keys()].filter((name) => SHARED.test(name) && !OURS_ALONE.some((own) => own.test(name)))
  assert.ok(names.length > 50)
  assert.deepEqual(
    names.filter((name) => !(name in theirs)),
    [],
  )
  for (const name of names) assert.equal(typeof ours.get(name), 'number', name)
})

test('a record is sixteen words, each told', () => {
  assert.deepEqual(
    FIELDS.map((name) => theirs[name]),
    FIELDS.map((_, word) => word),
  )
  assert.equal(1 << layout.RECORD_SHIFT, FIELDS.length)
})

test('the list of what is ours alone names nothing that is gone', () => {
  for (const own of OURS_ALONE)
    assert.ok(
      [...ours.keys()].some((name) => own.test(name)),
      String(own),
    )
})
