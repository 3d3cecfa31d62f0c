/*
 * The memory that native code and the shard's TypeScript share. Mirrors src/dataplane/layout.ts and
 * src/dataplane/drops.ts; test/native/layout.test.ts compares them through the table at the end of binding.c. Change
 * both or neither.
 */
#ifndef WEFT_LAYOUT_H
#define WEFT_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define ARENA_MAGIC 0x74666557
#define ARENA_VERSION 3

#define SMALL_SLOT_BYTES 2048
#define LARGE_SLOT_BYTES 69632
#define SLOT_HEADROOM 66
#define SMALL_FRAME_BYTES (SMALL_SLOT_BYTES - SLOT_HEADROOM)
#define MAX_FRAME_BYTES (LARGE_SLOT_BYTES - SLOT_HEADROOM)

#define BURST_CAPACITY 256
#define EGRESS_CAPACITY 8192
#define EVENT_CAPACITY 64
#define SCRATCH_BYTES (256 * 1024)
#define JOURNAL_BYTES (608 * 1024)
#define STREAM_BYTES (4096 + (144 << 10) + (1 << 20))

enum header_word {
    HEADER_MAGIC = 0,
    HEADER_VERSION = 1,
    HEADER_BYTES = 2,
    HEADER_SMALL_SLOTS = 3,
    HEADER_LARGE_SLOTS = 4,
    HEADER_PORTS = 5,
    HEADER_FDB_CAPACITY = 6,
    HEADER_PUNT_BYTES = 7,
    HEADER_INJECT_BYTES = 8,
    HEADER_RECORDS = 16,
    HEADER_FREE_SMALL = 17,
    HEADER_FREE_LARGE = 18,
    HEADER_BURST = 19,
    HEADER_EGRESS = 20,
    HEADER_EVENTS = 21,
    HEADER_COUNTERS = 22,
    HEADER_DROPS = 23,
    HEADER_FDB = 24,
    HEADER_PUNT = 25,
    HEADER_INJECT = 26,
    HEADER_SMALL = 27,
    HEADER_LARGE = 28,
    HEADER_SCRATCH = 29,
    HEADER_JOURNAL = 30,
    HEADER_PEERS = 31,
    HEADER_FREE_SMALL_COUNT = 32,
    HEADER_FREE_LARGE_COUNT = 33,
    HEADER_NOW = 34,
    HEADER_EVENT_COUNT = 35,
    HEADER_CONTROL = 36,
    HEADER_TIME_SECONDS = 46,
    HEADER_TIME_NANOS = 47,
    HEADER_SIZE = 1024,
};

/* A packet's record, one cache line. */
struct record {
    int32_t offset;          /* byte in the arena where the frame starts */
    int32_t length;          /* bytes */
    int32_t ingress;         /* port */
    int32_t tag;             /* TAG_PRESENT | TCI as received; 0: none */
    int32_t vid;             /* written by TypeScript only */
    int32_t tci;             /* for tagged egress */
    int32_t ethertype;       /* written by TypeScript only */
    int32_t offload;         /* OFFLOAD_* and the GSO type << GSO_SHIFT */
    int32_t segment_bytes;   /* payload bytes a segment; 0: ordinary frame */
    int32_t checksum_start;  /* byte of the frame */
    int32_t checksum_offset; /* byte behind checksum_start */
    int32_t header_length;   /* bytes of all headers of a GSO frame */
    int32_t references;
    int32_t destination_low; /* written by TypeScript only, like the two below */
    int32_t source_low;
    int32_t mac_high;
};
_Static_assert(sizeof(struct record) == 64, "a record is one cache line");

#define TAG_PRESENT 0x10000

#define OFFLOAD_CHECKSUM 0x01
#define OFFLOAD_BAD 0x02
#define OFFLOAD_TRUNCATED 0x04
#define GSO_SHIFT 8
#define GSO_TCP4 1
#define GSO_UDP4_FRAGMENTED 3
#define GSO_TCP6 4
#define GSO_UDP 5
#define GSO_ECN 0x80

/* One pair of the egress list. */
struct outgoing {
    int32_t packet;
    int32_t port; /* port in the low 16 bits, EGRESS_* above */
};
#define EGRESS_PORT_MASK 0xffff
#define EGRESS_TAGGED 0x10000
#define EGRESS_SEGMENT 0x20000
#define EGRESS_CHECKSUM 0x40000

struct port_event {
    int32_t port;
    int32_t code; /* 0: the peer closed; else errno */
};

#define COUNTER_SHIFT 3
enum counter {
    RECEIVED_PACKETS = 0,
    RECEIVED_BYTES = 1,
    TRANSMITTED_PACKETS = 2,
    TRANSMITTED_BYTES = 3,
    SEGMENTED_PACKETS = 4,
    COMPLETED_CHECKSUMS = 5,
};

#define PEER_SHIFT 7
#define DROP_SHIFT 6
enum drop {
    DROP_NO_SLOT = 13,
    DROP_RECEIVE_ERROR = 14,
    DROP_BAD_DESCRIPTOR = 41,
    DROP_SHARD_ENDED = 42,
    DROP_QUEUE_FULL = 50,
    DROP_NO_PEER = 51,
    DROP_TRANSMIT_ERROR = 52,
    DROP_SEGMENTATION = 53,
};

enum port_kind {
    KIND_NONE = 0,
    KIND_TAP = 1,
    KIND_PACKET = 2,
    KIND_STREAM = 3,
    KIND_DGRAM = 4,
    KIND_RING = 5,
    KIND_VHOST_USER = 6
};

#endif
