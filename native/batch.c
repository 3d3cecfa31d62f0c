/*
 * From the egress list to frames on the wire; batch.h describes it.
 *
 * Order within a port is the order of the list, whatever is asked for: segments go where their frame stood. A checksum
 * is finished in the slot itself, once for all ports that the frame leaves by (offload.c). A tag costs no copy of the
 * frame: the addresses are copied in front of it and the body starts behind them.
 *
 * A packet is dropped before any work is spent on it if the port's peer is gone or its queue has no room for it
 * anyway: a guest that stopped reading must not cost the others the time of segmenting for it. A packet dropped so
 * counts once, whatever number of segments it would have made; past this point each frame counts.
 */
#include "batch.h"

#include "journal.h"

static void flush(struct batch *batch) {
    if (batch->frames > 0) batch->send(batch);
    batch->frames = 0;
    batch->scratch_used = 0;
}

static void add(struct batch *batch, uint8_t *frame, int32_t length, bool tagged, int32_t tci) {
    if (batch->frames == BATCH_FRAMES) flush(batch);
    int32_t head_bytes = LENGTH_BYTES, moved = 0;
    uint8_t *head = batch->heads[batch->frames];
    if (tagged) {
        memcpy(head + LENGTH_BYTES, frame, ADDRESSES_BYTES);
        store16(head + LENGTH_BYTES + ADDRESSES_BYTES, TYPE_VLAN);
        store16(head + LENGTH_BYTES + ADDRESSES_BYTES + 2, tci);
        head_bytes = HEAD_BYTES;
        moved = ADDRESSES_BYTES;
        length += TAG_BYTES;
    }
    store32(head, (uint32_t)length);
    struct iovec *spans = &batch->spans[batch->frames * 2];
    spans[0] = (struct iovec){.iov_base = head, .iov_len = (size_t)head_bytes};
    spans[1] = (struct iovec){.iov_base = frame + moved, .iov_len = (size_t)(length + LENGTH_BYTES - head_bytes)};
    batch->frames++;
}

static void add_segments(struct batch *batch, uint8_t *frame, const struct record *record, bool tagged) {
    struct engine *engine = batch->engine;
    struct segmenter segmenter;
    if (!segment_begin(&segmenter, frame, record)) {
        count_drop(engine, batch->port, DROP_SEGMENTATION);
        return;
    }
    int32_t longest = segmenter.header_length + record->segment_bytes;
    if (longest > record->length) longest = record->length;
    for (;;) {
        /* a full batch is sent here, not in add(): sending lets go of the scratch memory */
        if (batch->frames == BATCH_FRAMES || batch->scratch_used + longest > SCRATCH_BYTES) flush(batch);
        uint8_t *segment = engine->scratch + batch->scratch_used;
        int32_t length = segment_next(&segmenter, segment);
        if (length == 0) break;
        batch->scratch_used += length;
        add(batch, segment, length, tagged, record->tci);
    }
    count(engine, batch->port, SEGMENTED_PACKETS);
}

void batch_transmit(struct engine *engine, struct port *port, struct queue *queue, void (*send)(struct batch *batch),
                    const struct outgoing *out, int count_out) {
    struct batch batch = {.engine = engine, .port = port, .queue = queue, .send = send};
    batch.heads = engine->journal->heads;
    batch.spans = engine->journal->spans;
    for (int i = 0; i < count_out; i++) {
        struct record *record = record_of(engine, out[i].packet);
        uint8_t *frame = frame_of(engine, record);
        bool tagged = out[i].port & EGRESS_TAGGED;
        if (port->failed) {
            count_drop(engine, port, DROP_NO_PEER);
        } else if (queue->used > 0 && (size_t)record->length > QUEUE_BYTES - queue->used) {
            count_drop(engine, port, DROP_QUEUE_FULL);
        } else if (record->length < ETHERNET_BYTES || record->length > MAX_FRAME_BYTES) {
            count_drop(engine, port, DROP_TRANSMIT_ERROR);
        } else if (out[i].port & EGRESS_SEGMENT) {
            add_segments(&batch, frame, record, tagged);
        } else {
            if (out[i].port & EGRESS_CHECKSUM && record->offload & OFFLOAD_CHECKSUM) {
                if (!offload_complete(frame, record)) {
                    count_drop(engine, port, DROP_SEGMENTATION);
                    continue;
                }
                count(engine, port, COMPLETED_CHECKSUMS);
            }
            add(&batch, frame, record->length, tagged, record->tci);
        }
    }
    flush(&batch);
}

int batch_sent(const struct iovec *spans, int frames, size_t sent, struct iovec rest[2]) {
    int frame = 0;
    rest[0] = rest[1] = (struct iovec){0};
    while (frame < frames && sent >= spans[frame * 2].iov_len + spans[frame * 2 + 1].iov_len) {
        sent -= spans[frame * 2].iov_len + spans[frame * 2 + 1].iov_len;
        frame++;
    }
    if (sent == 0 || frame == frames) return frame;
    for (int i = 0; i < 2; i++) {
        const struct iovec *span = &spans[frame * 2 + i];
        size_t part = sent < span->iov_len ? sent : span->iov_len;
        rest[i] = (struct iovec){.iov_base = (uint8_t *)span->iov_base + part, .iov_len = span->iov_len - part};
        sent -= part;
    }
    return frame;
}

void batch_drop(struct batch *batch, int from, enum drop reason) {
    for (int i = from; i < batch->frames; i++) count_drop(batch->engine, batch->port, reason);
}

void batch_queue(struct batch *batch, int from) {
    int packets = 0;
    int64_t bytes = 0;
    for (int i = from; i < batch->frames; i++) {
        if (queue_append(batch->queue, &batch->spans[i * 2], 2)) {
            packets++;
            bytes += batch_frame_bytes(batch, i);
        } else {
            count_drop(batch->engine, batch->port, DROP_QUEUE_FULL);
        }
    }
    count_transmitted(batch->engine, batch->port, packets, bytes);
}
