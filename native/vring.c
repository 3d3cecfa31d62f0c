/*
 * The split virtqueue behind vring.h, which describes it.
 *
 * The hot part is vring_look_ahead(): heads, descriptors and buffers of up to 64 chains were written by another core,
 * and each is a miss of some hundred cycles; asked for together they come side by side.
 */
#include "vring.h"

#include "eventfd_call.h"

#define LINE_BYTES 64
#define AHEAD_LINES 4 /* of a buffer; the processor's own prefetcher does the rest */
#define NO_CALL 1
#define NO_KICK 1

bool vring_locate(struct vring *ring, const struct guest_memory *memory) {
    const struct vring_places *places = &ring->places;
    uint8_t *descriptors = guest_user_place(memory, places->descriptors, VRING_DESCRIPTORS_BYTES(ring->size));
    uint8_t *available = guest_user_place(memory, places->available, VRING_AVAILABLE_BYTES(ring->size));
    uint8_t *used = guest_user_place(memory, places->used, VRING_USED_BYTES(ring->size));
    bool found = descriptors && available && used;
    /* aligned in the front-end is not yet aligned here: the offset in the file is its choice */
    found = found && !((uintptr_t)descriptors & 15) && !((uintptr_t)available & 1) && !((uintptr_t)used & 3);
    ring->descriptors = found ? (const struct vring_descriptor *)(void *)descriptors : NULL;
    ring->available = (const struct vring_available *)(void *)available;
    ring->used = (struct vring_used *)(void *)used;
    return found;
}

void vring_begin(struct vring *ring, int position) {
    uint16_t used = __atomic_load_n(&ring->used->index, __ATOMIC_RELAXED);
    ring->used_index = ring->published = used;
    ring->next = ring->known = position < 0 ? used : (uint16_t)position;
    ring->is_signalled = false;
    ring->armed = true; /* what the driver, or one before us, has left there; whoever polls disarms */
    ring->broken = false;
}

/* ---- taking ---- */

/* Asks for the lines of a buffer. */
static inline void prefetch(const uint8_t *place, uint32_t length, bool writable) {
    const uint8_t *line = (const uint8_t *)((uintptr_t)place & ~(uintptr_t)(LINE_BYTES - 1));
    const uint8_t *end = place + length;
    for (int i = 0; i < AHEAD_LINES && line < end; i++, line += LINE_BYTES) {
        if (writable)
            __builtin_prefetch(line, 1);
        else
            __builtin_prefetch(line, 0);
    }
}

void vring_look_ahead(struct vring *ring, struct guest_memory *memory, int count, bool writable, uint32_t bytes,
                      struct vring_ahead *ahead) {
    int found = 0;
    for (; found < count && vring_head(ring, (uint16_t)(ring->next + found), &ahead->heads[found]); found++)
        __builtin_prefetch(&ring->descriptors[ahead->heads[found]]);
    for (int i = 0; i < found; i++) {
        struct vring_descriptor one = vring_fetch(&ring->descriptors[ahead->heads[i]]);
        struct vring_span *span = &ahead->spans[i];
        span->place = guest_place(memory, one.address, one.length);
        span->guest = one.address;
        span->length = one.length;
        if (!span->place) continue;
        bool direct = one.flags == (writable ? DESCRIPTOR_WRITE : 0) && one.length > 0;
        prefetch(span->place, one.length < bytes || one.flags & DESCRIPTOR_INDIRECT ? one.length : bytes,
                 direct && writable);
        if (!direct) span->place = NULL;
    }
    ahead->count = found;
}

/* Adds a descriptor's range; -1: not in the guest's memory, wrong direction or no room. Empty ones are passed over. */
static int add_span(struct guest_memory *memory, const struct vring_descriptor *one, bool writable,
                    struct vring_span *spans, int used) {
    if (!(one->flags & DESCRIPTOR_WRITE) == writable) return -1;
    if (one->length == 0) return used;
    uint8_t *place = used < VRING_SIZE_MAX ? guest_place(memory, one->address, one->length) : NULL;
    if (!place) return -1;
    spans[used] = (struct vring_span){.place = place, .guest = one->address, .length = one->length};
    return used + 1;
}

int vring_chain(const struct vring *ring, struct guest_memory *memory, uint16_t head, bool writable,
                struct vring_span *spans, int used, int *walked) {
    const struct vring_descriptor *table = ring->descriptors;
    uint32_t size = ring->size, at = head;
    bool indirect = false;
    for (uint32_t steps = 0; used >= 0; steps++) {
        if (at >= size || steps >= size) return -1; /* as many steps as descriptors: a loop */
        struct vring_descriptor one = vring_fetch(&table[at]);
        ++*walked;
        if (one.flags & DESCRIPTOR_INDIRECT) {
            if (indirect || one.flags & DESCRIPTOR_NEXT || one.length == 0 || one.length % sizeof one != 0 ||
                one.length > VRING_DESCRIPTORS_BYTES(VRING_SIZE_MAX))
                return -1;
            uint8_t *place = guest_place(memory, one.address, one.length);
            if (!place || (uintptr_t)place & 7) return -1; /* no driver has it less than 8-aligned */
            table = (const struct vring_descriptor *)(void *)place;
            size = one.length / (uint32_t)sizeof one;
            at = 0;
            indirect = true;
            steps = UINT32_MAX; /* the count begins anew, once */
            continue;
        }
        used = add_span(memory, &one, writable, spans, used);
        if (!(one.flags & DESCRIPTOR_NEXT)) break;
        at = one.next;
    }
    return used;
}

/* ---- giving back ---- */

static void mark_used(const struct vring *ring, struct guest_memory *memory) {
    if (ring->logged) guest_mark(memory, ring->places.log, VRING_USED_BYTES(ring->size));
}

static bool wants_call(struct vring *ring) {
    const struct vring_available *available = ring->available;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!ring->event_index) return !(__atomic_load_n(&available->flags, __ATOMIC_RELAXED) & NO_CALL);
    uint16_t event = __atomic_load_n(&available->heads[ring->size], __ATOMIC_RELAXED);
    uint16_t now = ring->published, before = ring->signalled;
    bool passed = (uint16_t)(now - event - 1) < (uint16_t)(now - before) || !ring->is_signalled;
    ring->signalled = now;
    ring->is_signalled = true;
    return passed;
}

void vring_call(const struct vring *ring) {
    if (ring->call >= 0) eventfd_call(ring->call);
}

void vring_publish(struct vring *ring, struct guest_memory *memory) {
    if (ring->published == ring->used_index) return;
    __atomic_store_n(&ring->used->index, ring->used_index, __ATOMIC_RELEASE);
    ring->published = ring->used_index;
    mark_used(ring, memory);
    if (wants_call(ring)) vring_call(ring);
}

/* ---- kicks ---- */

static uint16_t *kick_event(const struct vring *ring) { return (uint16_t *)(void *)&ring->used->elements[ring->size]; }

bool vring_arm(struct vring *ring, struct guest_memory *memory) {
    if (ring->event_index)
        __atomic_store_n(kick_event(ring), ring->known, __ATOMIC_RELAXED);
    else
        __atomic_store_n(&ring->used->flags, 0, __ATOMIC_RELAXED);
    mark_used(ring, memory);
    ring->armed = true;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vring_has_news(ring);
}

void vring_disarm(struct vring *ring, struct guest_memory *memory) {
    if (!ring->armed) return;
    ring->armed = false;
    /* with event indexes an index that is left behind is as good as silence */
    if (ring->event_index) return;
    __atomic_store_n(&ring->used->flags, NO_KICK, __ATOMIC_RELAXED);
    mark_used(ring, memory);
}
