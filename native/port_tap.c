/*
 * TAP: one frame a system call, with a 12-byte virtio_net header, so that segmentation-offload frames and unfinished
 * checksums pass whole between guests.
 *
 * A reader cannot know the next frame's size. readv() is given the header's place, a small slot, and a large slot as the
 * continuation: an ordinary frame ends in the small slot and is done. A longer one goes to the large slot, to which only
 * the first SMALL_FRAME_BYTES bytes have to be copied; the small slot serves the next frame.
 *
 * The device is non-blocking. A write can fail when the interface is down (EIO): counted as a drop. A device that was
 * deleted gives EBADFD and ends the port.
 */
#include "engine.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

/* Reads one frame. Returns the packet; -1 with errno set: EAGAIN, or ENOBUFS for a frame dropped and counted. */
static int32_t read_frame(struct engine *engine, struct port *port, int32_t small, int32_t large) {
    struct vnet_header header;
    uint8_t *place = slot_of(engine, small);
    struct iovec parts[3] = {
        {&header, sizeof header},
        {place, SMALL_FRAME_BYTES},
        {large >= 0 ? slot_of(engine, large) + SMALL_FRAME_BYTES : engine->scratch, MAX_FRAME_BYTES - SMALL_FRAME_BYTES},
    };
    ssize_t got = readv(port->fd, parts, 3);
    if (got < 0) return -1;
    if (got <= (ssize_t)sizeof header) {
        count_drop(engine, port, DROP_RECEIVE_ERROR);
        errno = ENOBUFS;
        return -1;
    }
    int32_t length = (int32_t)got - (int32_t)sizeof header, packet = small;
    if (length > SMALL_FRAME_BYTES) {
        if (large < 0) {
            count_drop(engine, port, DROP_NO_SLOT);
            errno = ENOBUFS;
            return -1;
        }
        memcpy(slot_of(engine, large), place, SMALL_FRAME_BYTES);
        packet = large;
    }
    struct record *record = pool_fill(engine, packet, length);
    if (header.flags | header.gso_type) offload_accept(frame_of(engine, record), length, &header, record);
    return packet;
}

static int tap_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    int count = 0;
    int64_t bytes = 0;
    int32_t small = -1, large = -1;
    while (count < room && bytes < BURST_BYTES) {
        if (small < 0) small = pool_take_small(engine);
        if (large < 0) large = pool_take_large(engine);
        if (small < 0) break; /* the pool is empty: the frames wait in the device */
        int32_t packet = read_frame(engine, port, small, large);
        if (packet >= 0) {
            bytes += record_of(engine, packet)->length;
            packets[count++] = packet;
            if (packet == small)
                small = -1;
            else
                large = -1;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            port->ready = false;
            break;
        } else if (errno != ENOBUFS && errno != EINTR) {
            port_failed(engine, port, errno);
            break;
        }
    }
    if (small >= 0) pool_give(engine, small);
    if (large >= 0) pool_give(engine, large);
    return count;
}

/* Sends one frame, a tag in front of its payload if asked. Returns its bytes on the wire, -1 if it was dropped. */
static int64_t write_frame(struct port *port, struct vnet_header *header, uint8_t *frame, int32_t length, int tag_tci) {
    uint8_t tag[4] = {0x81, 0x00, (uint8_t)(tag_tci >> 8), (uint8_t)tag_tci};
    struct iovec parts[4] = {{header, sizeof *header}, {frame, (size_t)length}};
    int count = 2;
    if (tag_tci >= 0) {
        parts[1].iov_len = 12;
        parts[2] = (struct iovec){tag, sizeof tag};
        parts[3] = (struct iovec){frame + 12, (size_t)length - 12};
        count = 4;
    }
    ssize_t sent = writev(port->fd, parts, count);
    return sent < 0 ? -1 : sent - (ssize_t)sizeof *header;
}

static void write_segments(struct engine *engine, struct port *port, struct record *record, int tag_tci) {
    struct segmenter segmenter;
    struct vnet_header header = {0};
    if (!segment_begin(&segmenter, frame_of(engine, record), record)) {
        count_drop(engine, port, DROP_SEGMENTATION);
        return;
    }
    int32_t length;
    while ((length = segment_next(&segmenter, engine->scratch)) > 0) {
        int64_t sent = write_frame(port, &header, engine->scratch, length, tag_tci);
        if (sent < 0)
            count_drop(engine, port, errno == EAGAIN ? DROP_QUEUE_FULL : DROP_TRANSMIT_ERROR);
        else
            count_transmitted(engine, port, 1, sent);
    }
    count(engine, port, SEGMENTED_PACKETS);
}

static void tap_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count_out) {
    int packets = 0;
    int64_t bytes = 0;
    for (int i = 0; i < count_out; i++) {
        struct record *record = record_of(engine, out[i].packet);
        int tag_tci = out[i].port & EGRESS_TAGGED ? record->tci : -1;
        if (out[i].port & EGRESS_SEGMENT) {
            write_segments(engine, port, record, tag_tci);
            continue;
        }
        if (out[i].port & EGRESS_CHECKSUM) {
            if (!offload_complete(frame_of(engine, record), record)) {
                count_drop(engine, port, DROP_SEGMENTATION);
                continue;
            }
            count(engine, port, COMPLETED_CHECKSUMS);
        }
        struct vnet_header header;
        offload_express(record, tag_tci >= 0 ? 4 : 0, &header);
        int64_t sent = write_frame(port, &header, frame_of(engine, record), record->length, tag_tci);
        if (sent >= 0) {
            packets++;
            bytes += sent;
        } else {
            count_drop(engine, port, errno == EAGAIN ? DROP_QUEUE_FULL : DROP_TRANSMIT_ERROR);
            if (errno == EBADFD) port_failed(engine, port, EBADFD);
        }
    }
    count_transmitted(engine, port, packets, bytes);
}

static void tap_close(struct engine *engine, struct port *port) {
    (void)engine;
    close(port->fd);
}

const struct port_kind_ops tap_ops = {.receive = tap_receive, .transmit = tap_transmit, .close = tap_close};
