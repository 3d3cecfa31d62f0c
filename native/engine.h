/*
 * The burst engine: what the files of native/ share.
 *
 * One engine drives all ports of a shard, in one thread: engine_receive() takes frames from every ready port into pool
 * slots and lists them as the burst; engine_transmit() sends the pairs (packet, port) of the egress list and gives the
 * slots back. Which frame goes where is decided between the two calls, in TypeScript.
 *
 * A port kind is one file with a `struct port_kind_ops`. What a peer sends is never believed: every length is checked
 * before it is used, and a port that breaks ends with an event, not with the process.
 *
 * Ownership: a receive operation takes slots from the pool and leaves them to the burst. A transmit operation borrows
 * the packets for the length of the call; what cannot be sent at once is copied into the port's own bounded queue or
 * dropped and counted. The engine drops the references afterwards.
 */
#ifndef WEFT_ENGINE_H
#define WEFT_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "layout.h"

#define PORTS_MAX 2048
#define PORT_BURST 64 /* frames that one port may give in one receive call */
#define BURST_BYTES                                                                                                    \
    (32 * 1024) /* a burst ends with the frame that reaches this: it is sent while it is still in the cache */
#define QUEUE_BYTES (1 << 20) /* frames that wait for one port's peer */

struct engine;
struct journal;
struct port;
struct uring;

struct port_kind_ops {
    /*
     * Makes `state` before the descriptors are watched, and takes out of the port those that are not to be. Returns 0
     * or an errno; close() is called then too. May be NULL.
     */
    int (*attach)(struct engine *engine, struct port *port);
    /*
     * Takes up to `room` frames into packets[], their records filled except for `ingress`, `tag` unless the device gave
     * it apart, and what TypeScript writes. Returns how many. Clears port->ready when the device has no more. A
     * descriptor at its end: calls port_failed().
     */
    int (*receive)(struct engine *engine, struct port *port, int32_t *packets, int room);
    /* Sends count packets in order, counting each as transmitted or dropped. */
    void (*transmit)(struct engine *engine, struct port *port, const struct outgoing *out, int count);
    /* The descriptor takes more again; sends from the port's queue. May be NULL. */
    void (*writable)(struct engine *engine, struct port *port);
    /* Closes the descriptors and frees `state`. */
    void (*close)(struct engine *engine, struct port *port);
    /* Kinds that call port_poll(). A look at memory: is there anything for `receive` to do? */
    bool (*poll)(struct engine *engine, struct port *port);
    /* Asks the peer to tell from now on and looks once more: true if something is there now, of which nothing tells. */
    bool (*arm)(struct engine *engine, struct port *port);
    /* So many bytes of its frames count as one in BURST_BYTES; 0: one. */
    int bytes_weigh;
};

struct port {
    const struct port_kind_ops *ops; /* NULL: no such port */
    void *state;                     /* the kind's own, or NULL */
    int32_t index;
    int fd;       /* readable when frames wait; -1: none */
    int fd_out;   /* a second descriptor for sending, or -1 */
    bool ready;   /* may have frames: asked at the next receive call */
    bool listed;  /* stands in engine->ready */
    bool failed;  /* an event was raised; not asked again */
    bool ending;  /* epoll told of an end or an error of fd: there is more to read than bytes */
    bool large;   /* TAP: its last frame was large, so the next one is expected to be */
    bool flooded; /* TAP: brings many small frames at a time, worth reading in batches */
    int expected; /* TAP: frames to ask for in the next batch */
    bool polled;  /* stands in engine->polled */
    bool forced;  /* to be polled without end */
    bool timed;   /* nothing tells of some of its frames: to be polled once a millisecond at least */
    int idle;     /* turns since a poll found something */
};

struct engine {
    uint8_t *base; /* the arena */
    int32_t *header;
    struct record *records;
    int32_t *free_small, *free_large;
    int32_t small_slots;
    int32_t slots;
    int32_t *burst;
    struct outgoing *egress;
    struct port_event *events;
    double *counters;
    double *drops;
    int epoll;
    bool woken;  /* the wake-up counter or the second's timer ended a wait in this call */
    int wake;    /* eventfd: written by others to end the wait; -1: none */
    int control; /* the control channel's descriptor; -1: none */
    int tick;    /* timerfd: ends the wait once a second */
    struct port ports[PORTS_MAX];
    int32_t ready[PORTS_MAX]; /* ports that may have frames, in the order of their turn */
    int ready_count;
    int32_t polled[PORTS_MAX]; /* ports whose peers are not asked to tell; they are looked at instead */
    int polled_count;
    int reported;        /* events that the last receive call has told already */
    int64_t started;     /* CLOCK_MONOTONIC, nanoseconds */
    int unpolled;        /* receive calls since the set was looked at */
    int spin_micros;     /* what waiting for the next frame by asking may cost, adapted */
    int64_t balance;     /* nanoseconds: the same for polled ports */
    int trial_sleeps;    /* short sleeps until it is tried whether a longer wait pays */
    int short_sleeps;    /* of these */
    struct uring *uring; /* uring.c; NULL: not open */
    bool uring_refused;
    uint8_t *scratch;        /* SCRATCH_BYTES: a kind may use it within one call */
    struct journal *journal; /* journal.h */
    uint8_t *peers;          /* 1 << PEER_SHIFT bytes a port, for port_dgram.c */
    struct outgoing sorted[EGRESS_CAPACITY];
    int32_t next[EGRESS_CAPACITY];
    int32_t head[PORTS_MAX], tail[PORTS_MAX], visited[PORTS_MAX];
};

/* ---- pool ---- */

static inline struct record *record_of(struct engine *engine, int32_t packet) { return &engine->records[packet]; }

static inline uint8_t *frame_of(struct engine *engine, const struct record *record) {
    return engine->base + record->offset;
}

/* First byte of the slot's frame area: SLOT_HEADROOM behind the slot's start. */
static inline uint8_t *slot_of(struct engine *engine, int32_t packet) {
    if (packet < engine->small_slots)
        return engine->base + engine->header[HEADER_SMALL] + (int64_t)packet * SMALL_SLOT_BYTES + SLOT_HEADROOM;
    return engine->base + engine->header[HEADER_LARGE] + (int64_t)(packet - engine->small_slots) * LARGE_SLOT_BYTES +
           SLOT_HEADROOM;
}

/* A free slot, -1 if there is none. The caller owns it, references 1 from pool_fill() on. */
static inline int32_t pool_take_small(struct engine *engine) {
    int32_t left = engine->header[HEADER_FREE_SMALL_COUNT];
    if (left <= 0) return -1;
    engine->header[HEADER_FREE_SMALL_COUNT] = left - 1;
    return engine->free_small[left - 1];
}

static inline int32_t pool_take_large(struct engine *engine) {
    int32_t left = engine->header[HEADER_FREE_LARGE_COUNT];
    if (left <= 0) return -1;
    engine->header[HEADER_FREE_LARGE_COUNT] = left - 1;
    return engine->free_large[left - 1];
}

static inline void pool_give(struct engine *engine, int32_t packet) {
    if (packet < engine->small_slots)
        engine->free_small[engine->header[HEADER_FREE_SMALL_COUNT]++] = packet;
    else
        engine->free_large[engine->header[HEADER_FREE_LARGE_COUNT]++] = packet;
}

/* Makes the slot an ordinary packet of `length` bytes at its usual place, without tag and offload. */
static inline struct record *pool_fill(struct engine *engine, int32_t packet, int32_t length) {
    struct record *record = record_of(engine, packet);
    memset(record, 0, sizeof *record);
    record->offset = (int32_t)(slot_of(engine, packet) - engine->base);
    record->length = length;
    record->references = 1;
    return record;
}

/*
 * Copies a whole frame of `length` bytes (1 to MAX_FRAME_BYTES) into a slot of the right size and lists it as an
 * ordinary packet. Returns the packet, -1 without a free slot.
 */
int32_t pool_copy_in(struct engine *engine, const uint8_t *frame, int32_t length);

/* ---- counting ---- */

static inline void count_drop(struct engine *engine, const struct port *port, enum drop reason) {
    engine->drops[(port->index << DROP_SHIFT) + (int)reason] += 1;
}

static inline void count_transmitted(struct engine *engine, const struct port *port, int packets, int64_t bytes) {
    double *counters = engine->counters + (port->index << COUNTER_SHIFT);
    counters[TRANSMITTED_PACKETS] += packets;
    counters[TRANSMITTED_BYTES] += (double)bytes;
}

static inline void count(struct engine *engine, const struct port *port, enum counter counter) {
    engine->counters[(port->index << COUNTER_SHIFT) + (int)counter] += 1;
}

/* ---- events and waiting ---- */

/* The port's descriptor is of no more use: code 0 if the peer closed it, else errno. Told to TypeScript once. */
void port_failed(struct engine *engine, struct port *port, int code);
/* Asks for (or no longer for) a call of ops->writable when `fd` takes more. fd is port->fd or port->fd_out. */
void port_await_writable(struct engine *engine, struct port *port, bool wanted);
/* `receive` is called in the next turn. */
void port_wake(struct engine *engine, struct port *port);
/* Looks at the port by ops->poll from now on, until ops->arm ends that. */
void port_poll(struct engine *engine, struct port *port);
/* Wakes the port when a descriptor more becomes readable; the engine never reads it. Returns 0 or an errno. */
int port_watch(struct engine *engine, const struct port *port, int fd);
void port_unwatch(struct engine *engine, int fd);
/* Gives a port that had none its fd_out; takes the descriptor over, also on failure. */
void port_set_out(struct engine *engine, struct port *port, int fd);

/* ---- the virtio_net header (virtio 1.2, 5.1.6) ---- */

#define VNET_HEADER_BYTES 12
struct vnet_header {
    uint8_t flags; /* VNET_NEEDS_CHECKSUM */
    uint8_t gso_type;
    uint16_t header_length;
    uint16_t gso_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
    uint16_t buffers; /* the last two bytes are missing in the 10-byte form */
};
_Static_assert(sizeof(struct vnet_header) == VNET_HEADER_BYTES, "virtio_net header");
#define VNET_NEEDS_CHECKSUM 1

/*
 * offload.c. Checks what came in the header against the frame and writes it to the record; a header that contradicts
 * its frame sets OFFLOAD_BAD, for TypeScript to drop. A checksum that is not TCP's or UDP's own is finished in the
 * frame, which may still carry its VLAN tags.
 */
void offload_accept(uint8_t *frame, int32_t length, const struct vnet_header *header, struct record *record);
/* Builds the header for a device from the record alone. tag_bytes: 4 if a tag is inserted, else 0. */
void offload_express(const struct record *record, int tag_bytes, struct vnet_header *header);
/*
 * Finishes an unfinished checksum in place and clears OFFLOAD_CHECKSUM in the record, so that bytes and record agree
 * for every other holder too. Returns false if the record's places are outside of the frame.
 */
bool offload_complete(uint8_t *frame, struct record *record);

/* segment.c: cuts a segmentation-offload frame into frames of one segment each, all checksums finished. */
struct segmenter {
    const uint8_t *frame;
    const struct record *record;
    int32_t header_length; /* Ethernet to the end of TCP or UDP header */
    int32_t l3, l4;        /* their offsets in the frame */
    int32_t position;      /* next payload byte, from the frame's start */
    int32_t end;           /* of the payload: of the IP packet, padding left out */
    int32_t index;         /* segments made */
    uint8_t protocol;      /* 6 or 17 */
    bool ipv6;
};
/* Returns false if the frame is none that can be cut (TCP or UDP over IPv4 or IPv6, complete headers, whole length). */
bool segment_begin(struct segmenter *segmenter, const uint8_t *frame, const struct record *record);
/* Writes the next segment, header included, to out and returns its length; 0 when all are made. out holds
 * header_length + segment_bytes. */
int32_t segment_next(struct segmenter *segmenter, uint8_t *out);

/* checksum.c: the Internet checksum (RFC 1071). */
uint32_t checksum_add(const uint8_t *bytes, int32_t length,
                      uint32_t sum);  /* partial sum, host order words, any parity of start */
uint16_t checksum_fold(uint32_t sum); /* not complemented */

/* ---- the kinds ---- */

extern const struct port_kind_ops tap_ops;    /* port_tap.c: fd is a TAP with a 12-byte virtio_net header */
extern const struct port_kind_ops packet_ops; /* port_packet.c: fd receives, fd_out sends without queueing discipline */
extern const struct port_kind_ops stream_ops; /* port_stream.c: fd is a connected stream socket, fd_out its memory */
extern const struct port_kind_ops dgram_ops;  /* port_dgram.c: fd is bound, fd_out connected to the peer or -1 */
extern const struct port_kind_ops vhost_user_ops; /* port_vhost_user.c: no descriptors but those of vhost_user.h */

/* ---- engine.c ---- */

/* Takes a formatted arena into use and empties its pool. Returns 0 or an errno. */
int engine_open(struct engine *engine, uint8_t *arena, size_t bytes);
void engine_close(struct engine *engine);
/* Watches the control channel and the wake-up counter too (-1: none). Returns 0 or an errno. */
int engine_watch(struct engine *engine, int control, int wake);
/* Takes over the descriptors, also on failure. Returns 0 or an errno. */
int engine_attach(struct engine *engine, int32_t index, enum port_kind kind, int fd, int fd_out);
int engine_detach(struct engine *engine, int32_t index);
/*
 * Waits up to wait_millis for a frame, an event or a wake-up, -1: as long as it takes, which is a second at most.
 * Returns the number of packets in the burst.
 */
int engine_receive(struct engine *engine, int wait_millis);
/* Sends the first `pairs` pairs of the egress list and drops one reference a pair. */
void engine_transmit(struct engine *engine, int pairs);

#endif
