/**
 * The layout of the memory that a shard's TypeScript and its native code share: one arena, one `ArrayBuffer`.
 *
 * The control process makes the arena (a memfd), writes its header, and hands the descriptor to the shard; native code
 * finds every section by the byte offsets in the header. `native/layout.h` mirrors this file;
 * `test/native/layout.test.ts` compares the two word by word.
 *
 *   header | records | free stacks | burst | egress | events | counters | drops | FDB | neighbors
 *          | connections and mappings, each with its index | scratch | journal | peers | rings | small slots
 *          | large slots
 *
 * Constants. V8 folds the constants of a module into its machine code, but loads an imported one, and checks it, at
 * every use: about a third of the frame path's time. So its files take what they need as their own, by `const { … } =
 * layout`.
 *
 * A packet is a number: the index of its slot. Small slots come first (0 to smallSlots-1), then the large ones. A frame
 * starts at 2 mod 4 in its slot, so that an IP header behind an Ethernet header is 4-aligned.
 *
 * Capacity: all of it is fixed when the arena is made. Nothing here grows. An arena is smaller than 2 GiB, so each
 * offset is an int32.
 */

/** First word of every arena: "Weft". */
export const ARENA_MAGIC = 0x74666557
/** Raised with every change of this file. */
export const ARENA_VERSION = 3

/** Bytes of a small slot: ordinary Ethernet frames. */
export const SMALL_SLOT_BYTES = 2048
/** Bytes of a large slot: segmentation-offload frames (64 KiB of IP) and jumbo. */
export const LARGE_SLOT_BYTES = 69632
/** Bytes before a frame in its slot. 2 mod 4, see above. */
export const SLOT_HEADROOM = 66
/** Longest frame that a large slot holds. */
export const MAX_FRAME_BYTES = LARGE_SLOT_BYTES - SLOT_HEADROOM

/** Packets in one burst, at most. */
export const BURST_CAPACITY = 256
/** Pairs in the egress list: one a frame and egress port. The pipeline transmits early when it runs full. */
export const EGRESS_CAPACITY = 8192
/** Where native code cuts frames into segments. */
export const SCRATCH_BYTES = 256 << 10
/** What native code is sending, for the process that comes after a dead one: `native/journal.h`. */
export const JOURNAL_BYTES = 608 << 10
/** Memory that goes with a port of KIND_STREAM, zeroed when its peer connects: `native/stream_memory.h`. */
export const STREAM_BYTES = 4096 + (144 << 10) + (1 << 20)
/** Port events that one receive call reports; further ones wait for the next call. */
export const EVENT_CAPACITY = 64

// Words of the arena's header (Int32Array indices).
export const HEADER_MAGIC = 0
export const HEADER_VERSION = 1
export const HEADER_BYTES = 2 // size of the whole arena
export const HEADER_SMALL_SLOTS = 3 // slots
export const HEADER_LARGE_SLOTS = 4 // slots
export const HEADER_PORTS = 5 // rows of the port tables
export const HEADER_FDB_CAPACITY = 6 // entries, a power of two
export const HEADER_PUNT_BYTES = 7 // size of the ring from the shard to the control process
export const HEADER_INJECT_BYTES = 8 // size of the ring from the control process to the shard
export const HEADER_NEIGHBOR_CAPACITY = 9 // entries, a power of two
export const HEADER_CONNECTION_CAPACITY = 10 // entries, a power of two
export const HEADER_MAPPING_CAPACITY = 11 // entries, a power of two
export const HEADER_RECORDS = 16 // byte offsets of the sections from here on
export const HEADER_FREE_SMALL = 17
export const HEADER_FREE_LARGE = 18
export const HEADER_BURST = 19
export const HEADER_EGRESS = 20
export const HEADER_EVENTS = 21
export const HEADER_COUNTERS = 22
export const HEADER_DROPS = 23
export const HEADER_FDB = 24
export const HEADER_PUNT = 25
export const HEADER_INJECT = 26
export const HEADER_SMALL = 27
export const HEADER_LARGE = 28
export const HEADER_SCRATCH = 29
export const HEADER_JOURNAL = 30
export const HEADER_PEERS = 31
export const HEADER_NEIGHBORS = 48
export const HEADER_NEIGHBOR_INDEX = 49
export const HEADER_CONNECTIONS = 50
export const HEADER_CONNECTION_INDEX = 51
export const HEADER_MAPPINGS = 52
export const HEADER_MAPPING_INDEX = 53
export const HEADER_FREE_SMALL_COUNT = 32 // slots on the free stack
export const HEADER_FREE_LARGE_COUNT = 33 // slots on the free stack
export const HEADER_NOW = 34 // seconds that shards have run on this arena, written by each receive call
export const HEADER_EVENT_COUNT = 35 // events reported by the last receive call
export const HEADER_CONTROL = 36 // 1: the control channel has something to read
export const HEADER_FDB_USED = 37 // entries
export const HEADER_FDB_LEARNED = 38 // since the shard started, wraps
export const HEADER_FDB_EXPIRED = 39
export const HEADER_FDB_EVICTED = 40
export const HEADER_FDB_MOVED = 41
export const HEADER_FDB_REFUSED = 42 // addresses not learned, the port being at its limit
export const HEADER_TURNS = 43 // loop turns that carried frames, wraps
export const HEADER_TIME_SECONDS = 46 // since 1970, written by each receive call
export const HEADER_TIME_NANOS = 47
export const HEADER_SECRET = 56 // four random words for the hashes of the router's tables, written once for its life
export const HEADER_NEIGHBORS_USED = 64 // entries
export const HEADER_NEIGHBORS_EVICTED = 65 // since the shard started, wraps, as those below
export const HEADER_NEIGHBORS_FAILED = 66
export const HEADER_CONNECTIONS_USED = 67 // entries
export const HEADER_CONNECTIONS_MADE = 68
export const HEADER_CONNECTIONS_EXPIRED = 69
export const HEADER_CONNECTIONS_EVICTED = 70 // gave way to another
export const HEADER_CONNECTIONS_REFUSED = 71 // none could give way
export const HEADER_CONNECTIONS_INVALID = 72 // packets that fit no state
export const HEADER_MAPPINGS_USED = 73 // entries
export const HEADER_MAPPINGS_REFUSED = 74 // no port was free
export const HEADER_FRAGMENTS_HELD = 75 // packets
export const HEADER_ROUTED_PACKETS = 76
export const HEADER_ICMP_SENT = 77 // errors made here
export const HEADER_ICMP_LIMITED = 78 // errors not sent, too many
export const HEADER_SIZE = 1024 // bytes

// A packet's record: one 64-byte line (Int32Array indices from packet << RECORD_SHIFT).
export const RECORD_SHIFT = 4
export const OFFSET = 0 // byte in the arena where the frame starts
export const LENGTH = 1 // bytes of the frame, without FCS and without the popped tag
export const INGRESS = 2 // port
export const TAG = 3 // outer 802.1Q tag as received: TAG_PRESENT | TCI; 0: none
export const VID = 4 // VLAN the frame was classified to; 0: the VLAN-unaware part of the network
export const TCI = 5 // tag control information for tagged egress
export const ETHERTYPE = 6 // type of the payload, behind the popped tag
export const OFFLOAD = 7 // OFFLOAD_* bits
export const SEGMENT_BYTES = 8 // payload bytes of each segment of a segmentation-offload frame; 0: an ordinary frame
export const CHECKSUM_START = 9 // byte of the frame where an unfinished checksum starts
export const CHECKSUM_OFFSET = 10 // byte behind CHECKSUM_START where it is stored
export const HEADER_LENGTH = 11 // bytes of all headers of a segmentation-offload frame; 0: an ordinary frame
export const REFERENCES = 12 // holders; the last one frees
export const DESTINATION_LOW = 13 // destination MAC, octets 3 to 6, little-endian as loaded
export const SOURCE_LOW = 14 // source MAC, octets 3 to 6
export const MAC_HIGH = 15 // octets 1 and 2 of the destination in bits 0 to 15, of the source in bits 16 to 31

export const TAG_PRESENT = 0x10000

// OFFLOAD: what of the frame is unfinished. Bits 8 to 15 hold the segmentation type, in virtio's numbering.
// the checksum at CHECKSUM_START + CHECKSUM_OFFSET holds only the pseudo-header's sum
export const OFFLOAD_CHECKSUM = 0x01
export const OFFLOAD_BAD = 0x02 // the header that came with the frame contradicts it: drop
export const OFFLOAD_TRUNCATED = 0x04 // the frame did not fit its slot: drop
export const GSO_SHIFT = 8
export const GSO_TCP4 = 1
export const GSO_UDP4_FRAGMENTED = 3 // UFO: refused
export const GSO_TCP6 = 4
export const GSO_UDP = 5
export const GSO_ECN = 0x80

// The egress list: EGRESS_STRIDE words a pair.
export const EGRESS_STRIDE = 2
export const EGRESS_PACKET = 0
export const EGRESS_PORT = 1 // port in bits 0 to 15, EGRESS_* above
export const EGRESS_PORT_MASK = 0xffff
export const EGRESS_TAGGED = 0x10000 // insert an 802.1Q tag with the record's TCI
export const EGRESS_SEGMENT = 0x20000 // cut into segments, finish every checksum
export const EGRESS_CHECKSUM = 0x40000 // finish the checksum

// Events: EVENT_STRIDE words each.
export const EVENT_STRIDE = 2
export const EVENT_PORT = 0
export const EVENT_CODE = 1 // 0: the peer closed; above 0: the errno that ended the port's descriptor

// Counters of a port (Float64Array, exact to 2^53).
export const COUNTER_SHIFT = 3
export const RECEIVED_PACKETS = 0
export const RECEIVED_BYTES = 1
export const TRANSMITTED_PACKETS = 2
export const TRANSMITTED_BYTES = 3
export const SEGMENTED_PACKETS = 4 // segmentation-offload frames cut in software
export const COMPLETED_CHECKSUMS = 5 // checksums finished in software
/** Bytes a port, as a shift: the address that datagrams go to, see `native/port_dgram.c`. */
export const PEER_SHIFT = 7
/** Drop counters of a port: one Float64 a reason, see `drops.ts`. */
export const DROP_SHIFT = 6

// An FDB entry (Int32Array indices from entry << FDB_SHIFT), see `fdb.ts`.
export const FDB_SHIFT = 3
export const FDB_MAC_LOW = 0 // octets 3 to 6
export const FDB_KEY_HIGH = 1 // octets 1 and 2 in bits 0 to 15, VID in bits 16 to 27
export const FDB_NETWORK = 2 // network number + 1; 0: empty
export const FDB_PORT = 3
export const FDB_SEEN = 4 // second of HEADER_NOW; FDB_STATIC: never ages
export const FDB_OLDER = 5 // neighbour in the port's list, by age; -1: none
export const FDB_NEWER = 6
export const FDB_MOVES = 7 // times the address changed its port
export const FDB_STATIC = -1

/** Words of a slot of a hash index: the hash, and what it leads to + 1 (0: empty), see `router/hash-index.ts`. */
export const INDEX_SHIFT = 1
/** Words of a neighbor, a connection, a mapping: see `router/neighbors.ts`, `connections.ts`, `mappings.ts`. */
export const NEIGHBOR_SHIFT = 4
export const CONNECTION_SHIFT = 6
export const MAPPING_SHIFT = 4

/** Port kinds as native code knows them. */
export const KIND_TAP = 1
export const KIND_PACKET = 2
export const KIND_STREAM = 3
export const KIND_DGRAM = 4
export const KIND_RING = 5
export const KIND_VHOST_USER = 6

/** What the arena is made for. All counts are fixed for its life. */
export interface Geometry {
  smallSlots: number
  largeSlots: number
  ports: number
  /** entries; a power of two, of which half may be used */
  fdbCapacity: number
  /** entries; a power of two, as the two below */
  neighborCapacity: number
  connectionCapacity: number
  mappingCapacity: number
  /** bytes; a power of two */
  puntBytes: number
  /** bytes; a power of two */
  injectBytes: number
}

/**
 * The pool's size is a sum: a burst of 256 frames in work and 64 slots that a receive call of an AF_PACKET port keeps
 * ready, of each size; packets that wait for a neighbor (HELD_NEIGHBOR) and fragments that wait for their first
 * (HELD_FRAGMENTS), each at most a few hundred. What cannot be sent at once is copied or dropped. The rest is room for
 * rings to come. The tables are memory only as far as they are used.
 */
export const DEFAULT_GEOMETRY: Geometry = {
  smallSlots: 4096,
  largeSlots: 512,
  ports: 2048,
  fdbCapacity: 262144,
  neighborCapacity: 16384,
  connectionCapacity: 262144,
  mappingCapacity: 262144,
  puntBytes: 8 << 20,
  injectBytes: 1 << 20,
}

/** The views over one arena that the dataplane works on. */
export interface Arena {
  buffer: ArrayBufferLike
  bytes: Uint8Array
  header: Int32Array
  records: Int32Array
  freeSmall: Int32Array
  freeLarge: Int32Array
  burst: Int32Array
  egress: Int32Array
  events: Int32Array
  counters: Float64Array
  drops: Float64Array
  fdb: Int32Array
  neighbors: Int32Array
  neighborIndex: Int32Array
  connections: Int32Array
  connectionIndex: Int32Array
  mappings: Int32Array
  mappingIndex: Int32Array
}

const PAGE = 4096
const align = (bytes: number, to: number): number => Math.ceil(bytes / to) * to

/** An index has twice as many slots as there are keys: `keys` of each entry. */
const indexSlots = (capacity: number, keys: number): number => capacity * keys * 2
const indexBytes = (capacity: number, keys: number): number => indexSlots(capacity, keys) << (INDEX_SHIFT + 2)

/** The sections in their order: the header's word, the size in bytes, the alignment. */
function sections(geometry: Geometry): [word: number, bytes: number, alignment: number][] {
  const slots = geometry.smallSlots + geometry.largeSlots
  return [
    [HEADER_RECORDS, slots << (RECORD_SHIFT + 2), 64],
    [HEADER_FREE_SMALL, geometry.smallSlots * 4, 64],
    [HEADER_FREE_LARGE, geometry.largeSlots * 4, 64],
    [HEADER_BURST, BURST_CAPACITY * 4, 64],
    [HEADER_EGRESS, EGRESS_CAPACITY * EGRESS_STRIDE * 4, 64],
    [HEADER_EVENTS, EVENT_CAPACITY * EVENT_STRIDE * 4, 64],
    [HEADER_COUNTERS, geometry.ports << (COUNTER_SHIFT + 3), 64],
    [HEADER_DROPS, geometry.ports << (DROP_SHIFT + 3), 64],
    [HEADER_FDB, geometry.fdbCapacity << (FDB_SHIFT + 2), 64],
    [HEADER_NEIGHBORS, geometry.neighborCapacity << (NEIGHBOR_SHIFT + 2), 64],
    [HEADER_NEIGHBOR_INDEX, indexBytes(geometry.neighborCapacity, 1), 64],
    [HEADER_CONNECTIONS, geometry.connectionCapacity << (CONNECTION_SHIFT + 2), 64],
    [HEADER_CONNECTION_INDEX, indexBytes(geometry.connectionCapacity, 2), 64],
    [HEADER_MAPPINGS, geometry.mappingCapacity << (MAPPING_SHIFT + 2), 64],
    [HEADER_MAPPING_INDEX, indexBytes(geometry.mappingCapacity, 2), 64],
    [HEADER_SCRATCH, SCRATCH_BYTES, PAGE],
    [HEADER_JOURNAL, JOURNAL_BYTES, PAGE],
    [HEADER_PEERS, geometry.ports << PEER_SHIFT, PAGE],
    [HEADER_PUNT, geometry.puntBytes + RING_HEADER_BYTES, PAGE],
    [HEADER_INJECT, geometry.injectBytes + RING_HEADER_BYTES, PAGE],
    [HEADER_SMALL, geometry.smallSlots * SMALL_SLOT_BYTES, PAGE],
    [HEADER_LARGE, geometry.largeSlots * LARGE_SLOT_BYTES, PAGE],
  ]
}

/** Bytes before a ring's data: its cursors, 128 bytes apart, see `ring.ts`. */
export const RING_HEADER_BYTES = 4096

/** Bytes of an arena of this geometry. */
export function arenaBytes(geometry: Geometry): number {
  let offset = HEADER_SIZE
  for (const [, bytes, alignment] of sections(geometry)) offset = align(offset, alignment) + bytes
  return align(offset, PAGE)
}

const POWERS = [
  'fdbCapacity',
  'neighborCapacity',
  'connectionCapacity',
  'mappingCapacity',
  'puntBytes',
  'injectBytes',
] as const

/**
 * Writes the header of a fresh, zeroed arena.
 * @throws RangeError for a geometry that cannot be laid out
 */
export function formatArena(buffer: ArrayBufferLike, geometry: Geometry): void {
  for (const name of POWERS) {
    const value = geometry[name]
    if (value < 256 || (value & (value - 1)) !== 0) throw new RangeError(`arena: ${name} ${value} is no power of two`)
  }
  const size = arenaBytes(geometry)
  if (size > 0x7fffffff) throw new RangeError(`arena: ${size} bytes are more than an int32 offset reaches`)
  if (buffer.byteLength < size) throw new RangeError(`arena: ${buffer.byteLength} bytes given, ${size} needed`)
  const header = new Int32Array(buffer, 0, HEADER_SIZE / 4)
  header[HEADER_VERSION] = ARENA_VERSION
  header[HEADER_BYTES] = size
  header[HEADER_SMALL_SLOTS] = geometry.smallSlots
  header[HEADER_LARGE_SLOTS] = geometry.largeSlots
  header[HEADER_PORTS] = geometry.ports
  header[HEADER_FDB_CAPACITY] = geometry.fdbCapacity
  header[HEADER_NEIGHBOR_CAPACITY] = geometry.neighborCapacity
  header[HEADER_CONNECTION_CAPACITY] = geometry.connectionCapacity
  header[HEADER_MAPPING_CAPACITY] = geometry.mappingCapacity
  header[HEADER_PUNT_BYTES] = geometry.puntBytes
  header[HEADER_INJECT_BYTES] = geometry.injectBytes
  let offset = HEADER_SIZE
  for (const [word, bytes, alignment] of sections(geometry)) {
    offset = align(offset, alignment)
    header[word] = offset
    offset += bytes
  }
  header[HEADER_MAGIC] = ARENA_MAGIC
}

/**
 * The views over a formatted arena.
 * @throws Error if the buffer holds no arena of this version
 */
export function viewArena(buffer: ArrayBufferLike): Arena {
  const header = new Int32Array(buffer, 0, HEADER_SIZE / 4)
  if (header[HEADER_MAGIC] !== ARENA_MAGIC || header[HEADER_VERSION] !== ARENA_VERSION) {
    throw new Error(`arena: magic ${header[HEADER_MAGIC]}, version ${header[HEADER_VERSION]}: not this program's`)
  }
  const word = (index: number): number => header[index]
  const int32 = (section: number, words: number): Int32Array => new Int32Array(buffer, word(section), words)
  const slots = word(HEADER_SMALL_SLOTS) + word(HEADER_LARGE_SLOTS)
  const entries = (section: number, capacity: number, shift: number): Int32Array =>
    int32(section, word(capacity) << shift)
  const index = (section: number, capacity: number, keys: number): Int32Array =>
    int32(section, indexSlots(word(capacity), keys) << INDEX_SHIFT)
  return {
    buffer,
    bytes: new Uint8Array(buffer, 0, word(HEADER_BYTES)),
    header,
    records: int32(HEADER_RECORDS, slots << RECORD_SHIFT),
    freeSmall: int32(HEADER_FREE_SMALL, word(HEADER_SMALL_SLOTS)),
    freeLarge: int32(HEADER_FREE_LARGE, word(HEADER_LARGE_SLOTS)),
    burst: int32(HEADER_BURST, BURST_CAPACITY),
    egress: int32(HEADER_EGRESS, EGRESS_CAPACITY * EGRESS_STRIDE),
    events: int32(HEADER_EVENTS, EVENT_CAPACITY * EVENT_STRIDE),
    counters: new Float64Array(buffer, word(HEADER_COUNTERS), word(HEADER_PORTS) << COUNTER_SHIFT),
    drops: new Float64Array(buffer, word(HEADER_DROPS), word(HEADER_PORTS) << DROP_SHIFT),
    fdb: entries(HEADER_FDB, HEADER_FDB_CAPACITY, FDB_SHIFT),
    neighbors: entries(HEADER_NEIGHBORS, HEADER_NEIGHBOR_CAPACITY, NEIGHBOR_SHIFT),
    neighborIndex: index(HEADER_NEIGHBOR_INDEX, HEADER_NEIGHBOR_CAPACITY, 1),
    connections: entries(HEADER_CONNECTIONS, HEADER_CONNECTION_CAPACITY, CONNECTION_SHIFT),
    connectionIndex: index(HEADER_CONNECTION_INDEX, HEADER_CONNECTION_CAPACITY, 2),
    mappings: entries(HEADER_MAPPINGS, HEADER_MAPPING_CAPACITY, MAPPING_SHIFT),
    mappingIndex: index(HEADER_MAPPING_INDEX, HEADER_MAPPING_CAPACITY, 2),
  }
}
