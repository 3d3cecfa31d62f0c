/**
 * Connection tracking of UDP, ICMP queries and other protocols, the timeouts of all, and the counters. TCP's states
 * have a file of their own.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CONN_COUNTERS,
  CONN_STATUS,
  CONN_WORDS,
  STATUS_REPLIED,
  TIMEOUTS,
  WORTH_ENDING,
  WORTH_KEPT,
  WORTH_UNPROVEN,
} from '../../../src/dataplane/router/connections.js'
import { TIMEOUTS as SAME, stateName } from '../../../src/dataplane/router/conntrack.js'
import type { Flow } from '../../../src/dataplane/router/flow.js'
import { FRAGMENT_LATER } from '../../../src/dataplane/router/headers.js'
import { HEADER_CONNECTIONS_EXPIRED, HEADER_CONNECTIONS_INVALID } from '../../../src/dataplane/layout.js'
import { ACK, FIN, RST, SYN, Session, Tracker, flow, reverse } from './conntrack-rig.js'

const UDP = flow({ protocol: 17 })
const PING = flow({ protocol: 1, sourcePort: 77, destinationPort: 77 })
const QUESTION = flow({ protocol: 17, destinationPort: 53 })
const GRE = flow({ protocol: 47, sourcePort: 0, destinationPort: 0 })
const IP6 = {
  family: 6,
  source0: 0x20010db8,
  source1: 1,
  source3: 5,
  destination0: 0x20010db8,
  destination1: 2,
  destination3: 9,
}

test('the timeouts are those of the RFCs or longer, in the order of their numbers', () => {
  assert.equal(SAME, TIMEOUTS)
  assert.deepEqual(
    TIMEOUTS.map(({ name, seconds }) => `${name} ${seconds}`),
    [
      'tcp-syn 240',
      'tcp-established 7440',
      'tcp-closing 240',
      'tcp-reset 10',
      'udp-new 120',
      'udp 300',
      'icmp 60',
      'other 600',
      'udp-query 30',
    ],
  )
})

test('UDP: unreplied, replied, assured', () => {
  for (const there of [UDP, flow({ ...IP6, protocol: 17 }), flow({ protocol: 136 })]) {
    const tracker = new Tracker()
    const back = reverse(there)
    const steps: [Flow, string, string, number][] = [
      [there, 'new', 'unreplied', WORTH_UNPROVEN],
      [there, 'ok', 'unreplied', WORTH_UNPROVEN],
      [back, 'ok', 'replied', WORTH_UNPROVEN],
      [back, 'ok', 'replied', WORTH_UNPROVEN],
      [there, 'ok', 'assured', WORTH_KEPT],
      [back, 'ok', 'assured', WORTH_KEPT],
    ]
    for (const [of, verdict, state, worth] of steps) {
      assert.equal(tracker.pass(of, 108), verdict)
      assert.equal(tracker.state(there), state)
      assert.equal(tracker.worth(there), worth)
    }
  }
})

test('others by their addresses, with a timeout of their own', () => {
  const tracker = new Tracker()
  assert.equal(tracker.pass(GRE, 50), 'new')
  assert.equal(tracker.pass(reverse(GRE), 50), 'ok')
  assert.equal(tracker.state(GRE), 'replied')
  assert.equal(tracker.pass(GRE, 50), 'ok')
  assert.equal(tracker.state(GRE), 'assured')
  assert.equal(tracker.worth(GRE), WORTH_KEPT)
  tracker.sweep(600)
  assert.equal(tracker.state(GRE), 'assured')
  tracker.sweep(620)
  assert.equal(tracker.state(GRE), 'gone')
})

test('echo and timestamp: the right reply answers, and nothing else', () => {
  const tracker = new Tracker()
  const back = reverse(PING)
  for (const type of [0, 3, 4, 5, 11, 12, 14, 15, 17, 255]) assert.equal(tracker.icmp(PING, type), 'invalid', `${type}`)
  assert.equal(tracker.icmp(PING, 8), 'new')
  assert.equal(tracker.icmp(back, 14), 'invalid', 'no timestamp was asked for')
  assert.equal(tracker.icmp(PING, 0), 'invalid', 'a reply to no question')
  assert.equal(tracker.state(PING), 'unreplied')
  assert.equal(tracker.icmp(back, 0), 'ok')
  assert.equal(tracker.state(PING), 'replied')
  assert.equal(tracker.icmp(PING, 13), 'ok')
  assert.equal(tracker.icmp(back, 14), 'ok')
  assert.equal(tracker.icmp(back, 0), 'ok')
  assert.equal(tracker.icmp(PING, 8), 'ok')
  assert.equal(tracker.worth(PING), WORTH_UNPROVEN)
  assert.equal(tracker.arena.header[HEADER_CONNECTIONS_INVALID], 2)
})

test('ICMPv6 echo, which is 128 and 129', () => {
  const tracker = new Tracker()
  const there = flow({ ...IP6, protocol: 58, sourcePort: 5, destinationPort: 5 })
  for (const type of [1, 2, 8, 0, 13, 129, 130, 135]) assert.equal(tracker.icmp(there, type), 'invalid', `${type}`)
  assert.equal(tracker.icmp(there, 128), 'new')
  assert.equal(tracker.icmp(reverse(there), 0), 'invalid')
  assert.equal(tracker.icmp(reverse(there), 129), 'ok')
})

test('two hosts that ping each other with the same identifier', () => {
  const tracker = new Tracker()
  const back = reverse(PING)
  assert.equal(tracker.icmp(PING, 8), 'new')
  assert.equal(tracker.icmp(back, 0), 'ok')
  assert.equal(tracker.icmp(back, 8), 'again', 'the other has its own question')
  assert.equal(tracker.icmp(PING, 0), 'ok')
  assert.equal(tracker.connections.heldIn(0), 1)
})

test('later fragments begin nothing, and belong where their first one did', () => {
  const tracker = new Tracker()
  const later = { fragment: FRAGMENT_LATER, icmp: -1 }
  for (const of of [UDP, PING, GRE]) assert.equal(tracker.pass(of, 100, later), 'invalid')
  tracker.pass(UDP, 100)
  tracker.icmp(PING, 8)
  tracker.pass(GRE, 100)
  for (const of of [UDP, PING, GRE]) {
    assert.equal(tracker.pass(of, 100, later), 'ok')
    assert.equal(tracker.pass(reverse(of), 100, later), 'ok')
  }
})

test('packets and bytes of both directions, whole segmentation-offload frames, nothing that was invalid', () => {
  const tracker = new Tracker()
  const session = new Session(tracker)
  session.shake()
  session.send(0, ACK, 1, 1, 60000)
  session.send(0, ACK, 1 << 30, 1, 60000)
  session.send(1, ACK, 1, 60001)
  const entry = tracker.connections.find(0, session.there) >> 1
  const at = (entry * CONN_WORDS + CONN_COUNTERS) / 2
  // two segments of the handshake, one with options
  assert.deepEqual([...tracker.connections.counters.subarray(at, at + 4)], [3, 52 + 40 + 60040, 3, 52 + 40 + 40])
  assert.notEqual(tracker.connections.words[entry * CONN_WORDS + CONN_STATUS] & STATUS_REPLIED, 0)
  assert.equal(stateName(tracker.connections.words, entry), 'established')
})

test('what begins where it should not is followed by its ends alone', () => {
  const tracker = new Tracker()
  tracker.isOpen = true
  const session = new Session(tracker)
  assert.equal(session.send(0, ACK, 70, 5, 100), 'new')
  assert.equal(session.state, 'unfollowed')
  assert.equal(session.send(1, ACK, 1 << 30, 5, 100), 'ok')
  assert.equal(tracker.worth(session.there), WORTH_UNPROVEN)
  assert.equal(session.send(0, FIN | ACK, -5, 9), 'ok')
  assert.equal(tracker.worth(session.there), WORTH_KEPT)
  assert.equal(session.send(0, RST, 0), 'ok')
  assert.equal(session.state, 'unfollowed')
  assert.equal(session.send(1, SYN, 9), 'again')
  assert.equal(session.state, 'syn-sent')

  const back = reverse(PING)
  for (const type of [0, 3, 14, 255]) {
    tracker.connections.flush(0)
    assert.equal(tracker.icmp(PING, type), 'new', `${type}`)
    assert.equal(tracker.icmp(PING, type), 'ok')
    assert.equal(tracker.icmp(back, 11), 'ok')
    assert.equal(tracker.icmp(PING, type), 'ok')
    assert.equal(tracker.worth(PING), WORTH_UNPROVEN)
    assert.equal(tracker.icmp(PING, 8), 'ok', 'from here on it is followed')
    assert.equal(tracker.icmp(back, 14), 'invalid')
    assert.equal(tracker.icmp(back, 0), 'ok')
  }
  for (const of of [flow({ sourcePort: 5 }), UDP, GRE, flow({ protocol: 1, sourcePort: 0, destinationPort: 0 })]) {
    assert.equal(tracker.pass(of, 0, { fragment: FRAGMENT_LATER }), 'new')
    assert.equal(tracker.pass(reverse(of), 0, { fragment: FRAGMENT_LATER }), 'ok')
    assert.notEqual(tracker.state(of), 'none')
  }
})

/** A datagram and its answer. */
function answered(tracker: Tracker, of: Flow): void {
  tracker.pass(of, 60)
  tracker.pass(reverse(of), 60)
}

/** Each: its steps, and the timeout that must then hold. */
const AGES: [name: string, seconds: number, steps: (tracker: Tracker) => void, of: Flow][] = [
  ['tcp-syn, not answered', 240, (t) => new Session(t).send(0, SYN, 0), flow()],
  [
    'tcp-syn, answered',
    240,
    (t) => {
      const session = new Session(t)
      session.send(0, SYN, 0)
      session.send(1, SYN | ACK, 0, 1)
    },
    flow(),
  ],
  ['tcp-established', 7440, (t) => new Session(t).shake(), flow()],
  [
    'tcp-established, half-closed',
    7440,
    (t) => {
      const session = new Session(t)
      session.shake()
      session.send(0, FIN | ACK, 1, 1)
    },
    flow(),
  ],
  [
    'tcp-closing',
    240,
    (t) => {
      const session = new Session(t)
      session.shake()
      session.send(0, FIN | ACK, 1, 1)
      session.send(1, FIN | ACK, 1, 2)
    },
    flow(),
  ],
  [
    'tcp-reset',
    10,
    (t) => {
      const session = new Session(t)
      session.shake()
      session.send(0, RST, 1)
    },
    flow(),
  ],
  ['udp-new', 120, (t) => t.pass(UDP, 60), UDP],
  ['udp-new, answered', 120, (t) => answered(t, UDP), UDP],
  [
    'udp',
    300,
    (t) => {
      answered(t, UDP)
      t.pass(UDP, 60)
    },
    UDP,
  ],
  ['udp-query, not answered', 30, (t) => t.pass(QUESTION, 60), QUESTION],
  ['udp-query, answered', 30, (t) => answered(t, QUESTION), QUESTION],
  [
    'udp-query of NTP',
    30,
    (t) => answered(t, flow({ protocol: 17, destinationPort: 123 })),
    flow({ protocol: 17, destinationPort: 123 }),
  ],
  [
    'udp-query, asked again',
    30,
    (t) => {
      answered(t, QUESTION)
      t.pass(QUESTION, 60)
    },
    QUESTION,
  ],
  [
    'TCP to port 53',
    240,
    (t) => new Session(t, [1, 2], flow({ destinationPort: 53 })).send(0, SYN, 0),
    flow({ destinationPort: 53 }),
  ],
  ['icmp', 60, (t) => t.icmp(PING, 8), PING],
  ['other', 600, (t) => t.pass(GRE, 60), GRE],
]

test('each timeout holds to its second, and at most a 64th more', () => {
  for (const [name, seconds, steps, of] of AGES) {
    const tracker = new Tracker()
    tracker.now = 1000
    steps(tracker)
    tracker.sweep(1000 + seconds)
    assert.notEqual(tracker.state(of), 'gone', `${name} after ${seconds} s`)
    tracker.sweep(1000 + seconds + Math.max(1, seconds >> 6))
    assert.equal(tracker.state(of), 'gone', name)
    assert.equal(tracker.arena.header[HEADER_CONNECTIONS_EXPIRED], 1)
  }
})

test('a packet keeps its connection, whichever way it goes; one that is invalid does not', () => {
  for (const of of [UDP, reverse(UDP)]) {
    const tracker = new Tracker()
    tracker.pass(UDP, 60)
    tracker.pass(reverse(UDP), 60)
    for (let now = 100; now <= 2000; now += 100) {
      tracker.sweep(now)
      assert.equal(tracker.pass(of, 60), 'ok')
    }
    const seconds = of === UDP ? 300 : 120
    tracker.sweep(2000 + seconds)
    assert.notEqual(tracker.state(UDP), 'gone')
    tracker.sweep(2010 + seconds)
    assert.equal(tracker.state(UDP), 'gone')
  }
  const session = new Session(new Tracker())
  session.shake()
  session.tracker.now = 7400
  assert.equal(session.send(0, ACK, 1 << 30, 1), 'invalid')
  assert.equal(session.send(1, RST, 500), 'ok')
  session.tracker.sweep(7600)
  assert.equal(session.state, 'gone')
})

test('timeouts can be set, and hold for what is there', () => {
  const tracker = new Tracker()
  tracker.pass(UDP, 60)
  const timeouts = TIMEOUTS.map(({ name, seconds }) => (name === 'udp-new' ? 20 : seconds))
  tracker.connections.configure(0, timeouts, 100, 100)
  tracker.sweep(20)
  assert.equal(tracker.state(UDP), 'unreplied')
  tracker.sweep(21)
  assert.equal(tracker.state(UDP), 'gone')
})

test('what is worth how much', () => {
  const worth = (steps: (session: Session) => void): number => {
    const session = new Session(new Tracker())
    steps(session)
    return session.tracker.worth(session.there)
  }
  assert.equal(
    worth((s) => s.send(0, SYN, 0)),
    WORTH_UNPROVEN,
  )
  assert.equal(
    worth((s) => s.shake()),
    WORTH_KEPT,
  )
  const closing = (s: Session): void => {
    s.shake()
    s.send(0, FIN | ACK, 1, 1)
  }
  assert.equal(worth(closing), WORTH_ENDING)
  const reset = (s: Session): void => {
    s.shake()
    s.send(0, RST, 1)
  }
  assert.equal(worth(reset), WORTH_ENDING)
})
