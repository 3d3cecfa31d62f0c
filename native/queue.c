/*
 * The ring behind queue.h, which describes it.
 *
 * Head and length are counted, not head and tail: a full ring and an empty one look different without a spare byte. An
 * emptied ring starts again at its first byte, so that a peer that is only a little slow touches few pages of it.
 */
#include "queue.h"

#include <stdlib.h>

#define MASK ((size_t)QUEUE_BYTES - 1)
_Static_assert((QUEUE_BYTES & (QUEUE_BYTES - 1)) == 0, "QUEUE_BYTES is a power of two");

/* Writes down where the queue is now; what the word tells of must be in place. */
static void settle(struct queue *queue) {
    uint64_t word = (uint64_t)queue->used << 32 | (uint64_t)queue->head;
    if (queue->place) atomic_store_explicit(queue->place, word, memory_order_release);
}

bool queue_use(struct queue *queue, uint8_t *bytes, _Atomic uint64_t *place) {
    uint64_t word = atomic_load_explicit(place, memory_order_acquire);
    *queue = (struct queue){.bytes = bytes, .head = (uint32_t)word, .used = (size_t)(word >> 32), .place = place};
    return queue->head < QUEUE_BYTES && queue->used <= QUEUE_BYTES;
}

bool queue_append(struct queue *queue, const struct iovec *parts, int count) {
    size_t total = 0, tail = queue->head + queue->used;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    if (total > QUEUE_BYTES - queue->used) return false;
    if (!queue->bytes) queue->bytes = malloc(QUEUE_BYTES);
    if (!queue->bytes) return false;
    for (int i = 0; i < count; i++) {
        const uint8_t *from = parts[i].iov_base;
        size_t length = parts[i].iov_len, at = tail & MASK;
        size_t first = length < QUEUE_BYTES - at ? length : QUEUE_BYTES - at;
        if (length == 0) continue;
        memcpy(queue->bytes + at, from, first);
        memcpy(queue->bytes, from + first, length - first);
        tail += length;
    }
    queue->used += total;
    settle(queue);
    return true;
}

int queue_spans(const struct queue *queue, size_t offset, size_t length, struct iovec spans[2]) {
    size_t start = (queue->head + offset) & MASK;
    size_t first = length < QUEUE_BYTES - start ? length : QUEUE_BYTES - start;
    spans[0] = (struct iovec){.iov_base = queue->bytes + start, .iov_len = first};
    if (first == length) return 1;
    spans[1] = (struct iovec){.iov_base = queue->bytes, .iov_len = length - first};
    return 2;
}

uint32_t queue_load32(const struct queue *queue, size_t offset) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) value = value << 8 | queue->bytes[(queue->head + offset + i) & MASK];
    return value;
}

void queue_consume(struct queue *queue, size_t length) {
    queue->used -= length;
    queue->head = queue->used > 0 ? (queue->head + length) & MASK : 0;
    settle(queue);
}

void queue_free(struct queue *queue) {
    if (queue->place) {
        queue_consume(queue, queue->used);
    } else {
        free(queue->bytes);
        *queue = (struct queue){0};
    }
}
