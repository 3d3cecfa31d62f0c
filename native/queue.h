/*
 * Frames that wait for a slow peer: a bounded ring of bytes, one a port.
 *
 * Every frame stands in it behind its length (32 bits, network order), as QEMU's stream carries it: port_stream.c
 * sends the bytes as they are, port_dgram.c takes the frames apart again. Frames may wrap around the end of the
 * memory, which is why what is read comes in up to two spans.
 *
 * A queue lives in memory of its own or in memory that it is given, to be found there by another process after this
 * one was killed. Then its place is also kept there, in one word that changes at once and only when the bytes are
 * there: whenever the process dies, the word tells of whole frames, and of what was not yet consumed.
 *
 * Capacity: QUEUE_BYTES, allocated when a frame waits for the first time and kept until the port is closed. When full
 * it takes no further frame (tail drop), and never a part of one: the caller counts the drop. Nothing is reordered.
 *
 * What it does not do: shorten delay (no CoDel, no priorities). A peer that reads at all drains it at its own speed.
 */
#ifndef WEFT_QUEUE_H
#define WEFT_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine.h"

struct queue {
    uint8_t *bytes;          /* QUEUE_BYTES, NULL until needed */
    size_t head;             /* index of the first byte */
    size_t used;             /* bytes */
    _Atomic uint64_t *place; /* of given memory: `head` in the low half, `used` in the high one; else NULL */
};

/*
 * Makes an empty queue go on in given memory, where `place` and the bytes say what is in it; all zero: nothing. Returns
 * false if the place is none of a queue.
 */
bool queue_use(struct queue *queue, uint8_t *bytes, _Atomic uint64_t *place);
/* Copies the parts in as one piece, all or nothing. Returns false if they do not fit (or there is no memory). */
bool queue_append(struct queue *queue, const struct iovec *parts, int count);
/* Where `length` bytes from `offset` (behind the head) lie; both within `used`. Returns the number of spans, 1 or 2. */
int queue_spans(const struct queue *queue, size_t offset, size_t length, struct iovec spans[2]);
/* The number in network order at `offset`: a frame's length. */
uint32_t queue_load32(const struct queue *queue, size_t offset);
void queue_consume(struct queue *queue, size_t length);
/* Empties it; memory that was given stays its giver's. */
void queue_free(struct queue *queue);

#endif
