/*
 * A split virtqueue (virtio 1.2, section 2.7), seen from the device.
 *
 *   descriptors   16 bytes each, the driver's: address, length, flags, next
 *   available     the driver's: flags, index, heads of chains; behind them: call me when `used` is this far
 *   used          the device's: flags, index, heads and lengths; behind them: kick me when `available` is this far
 *
 * The driver writes its parts while they are read here. So each index, head and descriptor is fetched once, into
 * private memory, and what was fetched is checked and used. A chain that is wrong (an address outside of the guest's
 * memory, longer than the ring, an indirect table in an indirect table or of an odd length, a direction that does not
 * fit) is reported as no chain, and its owner gives it back unused. A ring that is wrong (a head or an index that
 * cannot be) is broken: nothing more is done with it.
 *
 * Chains are taken and given back in order and none is held between two calls of the engine. So `used` always says
 * where a successor goes on, whatever happened.
 *
 * Barriers: the driver's index is loaded with acquire, ours stored with release. Both sides ask for silence in memory
 * and look at the other's index after; a full fence is between the two, here as there, so one of both sees the other.
 *
 * Capacity: VRING_SIZE_MAX entries; as many spans a chain, or several chains together. Little-endian hosts only, where
 * rings of legacy drivers look the same as those of virtio 1.
 */
#ifndef WEFT_VRING_H
#define WEFT_VRING_H

#include <stdbool.h>
#include <stdint.h>

#include "guest_memory.h"

#define VRING_SIZE_MAX 1024
#define VRING_AHEAD 64 /* chains looked at together */

/* Flags of a descriptor. */
#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2 /* the device writes it */
#define DESCRIPTOR_INDIRECT 4

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian");

struct vring_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};
_Static_assert(sizeof(struct vring_descriptor) == 16, "virtio 1.2, 2.7.5");

struct vring_available {
    uint16_t flags; /* 1: no call */
    uint16_t index;
    uint16_t heads[]; /* size of them, then the used index at which a call is wanted */
};

struct vring_used_element {
    uint32_t head;
    uint32_t length; /* bytes written */
};

struct vring_used {
    uint16_t flags; /* 1: no kick */
    uint16_t index;
    struct vring_used_element elements[]; /* size of them, then the available index at which a kick is wanted */
};

/* Bytes of each part. */
#define VRING_DESCRIPTORS_BYTES(size) ((uint64_t)(size) * sizeof(struct vring_descriptor))
#define VRING_AVAILABLE_BYTES(size) ((uint64_t)(size)*2 + 6)
#define VRING_USED_BYTES(size) ((uint64_t)(size) * sizeof(struct vring_used_element) + 6)

/* What the front-end said of a ring. */
struct vring_places {
    uint64_t descriptors, available, used; /* front-end addresses */
    uint64_t log;                          /* guest address of `used` */
};

struct vring {
    const struct vring_descriptor *descriptors; /* NULL: the ring's memory is not there */
    const struct vring_available *available;
    struct vring_used *used;
    uint16_t size;       /* a power of two */
    uint16_t next;       /* available index of the next chain to take */
    uint16_t known;      /* available index as it was seen last */
    uint16_t used_index; /* chains given back, published or not */
    uint16_t published;  /* used index that the driver sees */
    uint16_t signalled;  /* used index when a call was considered last */
    bool is_signalled;   /* `signalled` says something */
    bool event_index;    /* VIRTIO_F_EVENT_IDX: both sides name indexes, flags say nothing */
    bool armed;          /* kicks are asked for */
    bool logged;         /* `used` goes to the dirty log */
    bool broken;
    int kick, call; /* eventfds, -1: none */
    struct vring_places places;
};

/* A part of a chain. */
struct vring_span {
    uint8_t *place;
    uint64_t guest;
    uint32_t length;
};

/* Looks the ring's memory up, anew after the memory has changed. Returns whether it is there. */
bool vring_locate(struct vring *ring, const struct guest_memory *memory);
/* Begins at an available index; `used_index` is read from the guest's memory. */
void vring_begin(struct vring *ring, int position);

/* Chains that wait, by a look at the driver's index. Marks a ring whose index is impossible as broken: 0. */
static inline int vring_look(struct vring *ring) {
    ring->known = __atomic_load_n(&ring->available->index, __ATOMIC_ACQUIRE);
    uint16_t waiting = (uint16_t)(ring->known - ring->next);
    if (waiting <= ring->size) return waiting;
    ring->broken = true;
    return 0;
}

/* Whether the driver has made more available since the last look. Costs one load. */
static inline bool vring_has_news(const struct vring *ring) {
    return __atomic_load_n(&ring->available->index, __ATOMIC_RELAXED) != ring->known;
}

/* The head of the chain at an available index; a head that cannot be breaks the ring. */
static inline bool vring_head(struct vring *ring, uint16_t index, uint16_t *head) {
    *head = __atomic_load_n(&ring->available->heads[index & (ring->size - 1)], __ATOMIC_RELAXED);
    if (*head < ring->size) return true;
    ring->broken = true;
    return false;
}

static inline struct vring_descriptor vring_fetch(const struct vring_descriptor *from) {
    const uint64_t *words = (const uint64_t *)(const void *)from;
    uint64_t address = __atomic_load_n(&words[0], __ATOMIC_RELAXED),
             rest = __atomic_load_n(&words[1], __ATOMIC_RELAXED);
    return (struct vring_descriptor){address, (uint32_t)rest, (uint16_t)(rest >> 32), (uint16_t)(rest >> 48)};
}

/* Chains ahead, as far as one look at each tells. */
struct vring_ahead {
    int count;
    uint16_t heads[VRING_AHEAD];
    struct vring_span spans[VRING_AHEAD]; /* place NULL: not a chain of one good descriptor, ask vring_chain() */
};

/*
 * Looks at the next `count` chains (VRING_AHEAD at most, no more than wait) and asks the processor for their buffers,
 * `bytes` of each at most. Of a broken ring only the chains before the bad head are looked at.
 */
void vring_look_ahead(struct vring *ring, struct guest_memory *memory, int count, bool writable, uint32_t bytes,
                      struct vring_ahead *ahead);

/*
 * Follows a chain; all of its descriptors must be writable, or none. Appends to spans[], which holds VRING_SIZE_MAX,
 * from `used` on and returns the new number; -1: a bad chain, or more than fits. `walked` counts descriptors.
 */
int vring_chain(const struct vring *ring, struct guest_memory *memory, uint16_t head, bool writable,
                struct vring_span *spans, int used, int *walked);

/* Gives the chain at `next` back with `length` bytes written; the driver sees it after vring_publish(). */
static inline void vring_give_back(struct vring *ring, uint16_t head, uint32_t length) {
    uint64_t element = head | (uint64_t)length << 32;
    __builtin_memcpy(&ring->used->elements[ring->used_index & (ring->size - 1)], &element, sizeof element);
    ring->used_index++;
    ring->next++;
}

/* Shows the driver what was given back, and calls it if it wants that. */
void vring_publish(struct vring *ring, struct guest_memory *memory);
/* Calls the driver, wanted or not. */
void vring_call(const struct vring *ring);

/* Asks for a kick when more than the known chains are available. Returns true if there are some now. */
bool vring_arm(struct vring *ring, struct guest_memory *memory);
/* No more kicks, please. */
void vring_disarm(struct vring *ring, struct guest_memory *memory);

#endif
