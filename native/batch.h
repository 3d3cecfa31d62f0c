/*
 * Frames on their way out of a socket: from pairs of the egress list to the bytes that go on the wire.
 *
 * batch_transmit() walks the pairs of one port, does what their flags ask for (segments, checksum, tag) and collects
 * the resulting frames; when enough have come together, and at the end, it calls the kind's `send`. A frame is two
 * spans: a head that the batch writes, and the body, which is borrowed from the slot or from the engine's scratch
 * memory.
 *
 *   head   length, 32 bits in network order | of a tagged frame: 12 bytes of addresses, 4 of tag
 *   body   the rest of the frame
 *
 * The engine has one batch at a time. Heads, spans and scratch memory are in the arena: see journal.h for why.
 *
 * Capacity: BATCH_FRAMES frames (as many as one sendmsg() takes in spans, IOV_MAX) and SCRATCH_BYTES of segments; a
 * full batch is sent before the next frame. Standards: IEEE 802.1Q 9.6 for the tag.
 */
#ifndef WEFT_BATCH_H
#define WEFT_BATCH_H

#include <sys/uio.h>

#include "engine.h"
#include "headers.h"
#include "queue.h"

#define BATCH_FRAMES 512
#define LENGTH_BYTES 4
#define HEAD_BYTES (LENGTH_BYTES + ADDRESSES_BYTES + TAG_BYTES)

struct batch {
    struct engine *engine;
    struct port *port;
    struct queue *queue; /* the port's */
    /* Sends, queues or drops all frames, and counts each. Spans may be changed. */
    void (*send)(struct batch *batch);
    int frames;
    int32_t scratch_used;
    uint8_t (*heads)[HEAD_BYTES]; /* BATCH_FRAMES */
    struct iovec *spans;          /* BATCH_FRAMES * 2, head and body by turns */
};

void batch_transmit(struct engine *engine, struct port *port, struct queue *queue, void (*send)(struct batch *batch),
                    const struct outgoing *out, int count);

/* Bytes of a frame of the batch on the wire, tag included, without the length in front. */
static inline int32_t batch_frame_bytes(const struct batch *batch, int frame) {
    return (int32_t)load32(batch->heads[frame]);
}

/*
 * Returns the first of `frames` frames that is not among the first `sent` bytes of the spans as a whole. *rest: the
 * part of it that is not, if another part is; else empty.
 */
int batch_sent(const struct iovec *spans, int frames, size_t sent, struct iovec rest[2]);
/* Drops the frames from `from` on. */
void batch_drop(struct batch *batch, int from, enum drop reason);
/* Appends the frames from `from` on to the queue, counting those that fit as transmitted, dropping the others. */
void batch_queue(struct batch *batch, int from);

#endif
