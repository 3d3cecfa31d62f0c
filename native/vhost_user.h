/*
 * A vhost-user port: what the guest shares (vhost_user.c), its frames (port_vhost_user.c), those for it
 * (vhost_user_send.c).
 *
 * Ring 2i is the guest's i-th receive queue: the port sends there. Ring 2i + 1 is its i-th transmit queue. A ring is
 * set when the front-end has described it, runs while its memory is there, and moves frames while it is enabled, too.
 * One that was enabled and is not any more loses what is sent, to the guest and by it; one that was never enabled keeps
 * it.
 *
 * Positions. Setting a ring that is set with position -1 keeps its place, so that a front-end may change a call
 * descriptor, or memory be added, under traffic. On a ring that is not set, -1 means where the used ring ends.
 *
 * Capacity: 32 rings, 16 queue pairs. A guest's receive queue that has no room lets frames wait, in order, up to
 * QUEUE_BYTES a port.
 */
#ifndef WEFT_VHOST_USER_H
#define WEFT_VHOST_USER_H

#include "engine.h"
#include "guest_memory.h"
#include "queue.h"
#include "vring.h"

#define RINGS_MAX 32
#define QUEUES_MAX (RINGS_MAX / 2)

/* Flags of a ring, mirrored in src/ports/native.ts. */
#define RING_ENABLED 1
#define RING_LOGGED 2
#define RING_POLLED 4

#define FEATURE_CSUM (1ULL << 0)
#define FEATURE_HOST_TSO4 (1ULL << 11)
#define FEATURE_HOST_TSO6 (1ULL << 12)
#define FEATURE_HOST_ECN (1ULL << 13)
#define FEATURE_HOST_USO (1ULL << 56)
#define FEATURE_MRG_RXBUF (1ULL << 15)
#define FEATURE_EVENT_IDX (1ULL << 29)
#define FEATURE_VERSION_1 (1ULL << 32)

struct ring_request {
    uint64_t features; /* negotiated */
    struct vring_places places;
    int64_t size;
    int64_t position; /* -1: keep it, or where the used ring ends */
    int flags;
    int kick, call; /* -1: none */
};

struct guest_ring {
    struct vring vring;
    struct queue queue; /* receive rings: frames that wait for room, each a virtio_net header and the frame */
    bool set;           /* described */
    bool begun;         /* its places were there once, so its indexes say something */
    bool enabled;
    bool was_enabled;     /* since it was set */
    bool polled;          /* never asks for kicks */
    bool mergeable;       /* a frame may take several chains */
    int32_t header_bytes; /* of the virtio_net header, 10 or 12 */
    uint64_t features;    /* negotiated: what its headers may ask for */
    int position;         /* where to begin; -1: at the used index */
    int expected;         /* chains to look at together */
};

#define LEGACY_HEADER_BYTES 10 /* of a guest that has neither VERSION_1 nor MRG_RXBUF */

/* A chain that is about to be written. */
struct chain {
    uint16_t head;
    int64_t room; /* bytes */
};

struct vhost_user {
    struct guest_memory memory;
    struct guest_ring rings[RINGS_MAX];
    /* rings that run: those that are asked, in turn, and those that frames are spread over */
    int transmitting, receiving;
    struct guest_ring *transmitters[QUEUES_MAX], *receivers[QUEUES_MAX];
    int turn;        /* the transmitter that is asked first */
    int32_t waiting; /* bytes in all queues */
    int allowance;   /* of descriptors that may be walked in this call, and of bad chains */
    struct vring_ahead ahead;
    struct vring_span spans[VRING_SIZE_MAX];
    struct chain chains[VRING_SIZE_MAX];
};

#define ALLOWANCE 4096 /* descriptors that one call may walk, chains of one descriptor left out */

/* Short frames are most of them, and memcpy's own decisions cost as much as the copy. */
static inline void copy_frame(uint8_t *to, const uint8_t *from, size_t length) {
    if (length < 16 || length > 256) {
        memcpy(to, from, length);
        return;
    }
    for (size_t at = 0; at + 16 < length; at += 16) __builtin_memcpy(to + at, from + at, 16);
    __builtin_memcpy(to + length - 16, from + length - 16, 16);
}

/* The port's state, NULL if it is no vhost-user port or there is no memory for it. */
struct vhost_user *vhost_user_of(struct engine *engine, int32_t port);

/* All take over the descriptors, also on failure, and return 0 or a negative errno. */
int vhost_user_set_memory(struct engine *engine, int32_t port, const struct guest_range *ranges, const int *fds,
                          int count);
int vhost_user_set_ring(struct engine *engine, int32_t port, int ring, const struct ring_request *request);
/* Returns the ring's next available index. */
int vhost_user_stop_ring(struct engine *engine, int32_t port, int ring);
int vhost_user_set_log(struct engine *engine, int32_t port, int fd, uint64_t bytes, uint64_t offset);
/* Lets go of everything that the guest shares, and of `state`. */
void vhost_user_close(struct engine *engine, struct port *port);

/* ---- frames ---- */

/* vhost_user_send.c: an operation of the kind. */
void vhost_user_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count_out);
/* Sends what waits for a ring, as far as there is room. */
void vhost_user_send_waiting(struct engine *engine, struct port *port, struct vhost_user *vhost,
                             struct guest_ring *ring);
/* After rings were worked: shows the guest what was done, and ends the port if something was wrong with them. */
void vhost_user_finish(struct engine *engine, struct port *port, struct vhost_user *vhost);

#endif
