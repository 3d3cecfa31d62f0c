/*
 * TAP: a frame a system call, with a 12-byte virtio_net header, so that segmentation-offload frames and unfinished
 * checksums pass whole between guests.
 *
 * A reader cannot know the next frame's size. readv() is given the header's place, a small slot, and a large slot as
 * the continuation: an ordinary frame ends in the small slot and is done. A longer one goes to the large slot, to which
 * only the first SMALL_FRAME_BYTES bytes have to be copied; the small slot serves the next frame. Behind a large frame
 * another is expected and read straight into the large slot.
 *
 * Floods of small frames go through io_uring (uring.c), many a system call: a port that gave FLOOD_LEAST frames at
 * once, none of them large, is read in batches, straight into large slots, until a batch brings less. Runs of as many
 * plain small frames are written in batches; the header then stands in the slot's headroom, in front of the frame. A
 * kernel whose TUN driver does not do without waiting (EOPNOTSUPP: Linux 6.1 is one) has neither read nor written then:
 * the ring is given up and every frame goes by a call of its own, those of the refused batch first.
 *
 * The device is non-blocking. A write can fail when the interface is down (EIO): counted as a drop. A device that was
 * deleted gives EBADFD and ends the port.
 */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine.h"
#include "uring.h"

#define FLOOD_LEAST 8 /* frames in one call that make a flood */

static int32_t refuse_frame(struct engine *engine, const struct port *port, enum drop reason) {
    count_drop(engine, port, reason);
    errno = ENOBUFS;
    return -1;
}

static int32_t accept_frame(struct engine *engine, int32_t packet, int32_t length, const struct vnet_header *header) {
    struct record *record = pool_fill(engine, packet, length);
    if (header->flags | header->gso_type) offload_accept(frame_of(engine, record), length, header, record);
    return packet;
}

/* Behind a large frame another is expected: reads it whole into the large slot; an ordinary one is copied out of it. */
static int32_t read_large_frame(struct engine *engine, struct port *port, int32_t small, int32_t large) {
    struct vnet_header header;
    uint8_t *place = slot_of(engine, large);
    struct iovec parts[2] = {{&header, sizeof header}, {place, MAX_FRAME_BYTES}};
    ssize_t got = readv(port->fd, parts, 2);
    if (got < 0) return -1;
    int32_t length = (int32_t)got - (int32_t)sizeof header, packet = large;
    if (length <= 0) return refuse_frame(engine, port, DROP_RECEIVE_ERROR);
    if (length <= SMALL_FRAME_BYTES) {
        memcpy(slot_of(engine, small), place, (size_t)length);
        packet = small;
    }
    return accept_frame(engine, packet, length, &header);
}

/* Reads one frame. Returns the packet; -1 with errno set: EAGAIN, or ENOBUFS for a frame dropped and counted. */
static int32_t read_frame(struct engine *engine, struct port *port, int32_t small, int32_t large) {
    struct vnet_header header;
    uint8_t *place = slot_of(engine, small);
    struct iovec parts[3] = {
        {&header, sizeof header},
        {place, SMALL_FRAME_BYTES},
        {large >= 0 ? slot_of(engine, large) + SMALL_FRAME_BYTES : engine->scratch,
         MAX_FRAME_BYTES - SMALL_FRAME_BYTES},
    };
    ssize_t got = readv(port->fd, parts, 3);
    if (got < 0) return -1;
    int32_t length = (int32_t)got - (int32_t)sizeof header, packet = small;
    if (length <= 0) return refuse_frame(engine, port, DROP_RECEIVE_ERROR);
    if (length > SMALL_FRAME_BYTES) {
        if (large < 0) return refuse_frame(engine, port, DROP_NO_SLOT);
        memcpy(slot_of(engine, large), place, SMALL_FRAME_BYTES);
        packet = large;
    }
    return accept_frame(engine, packet, length, &header);
}

/* Reads a batch. Returns the number of packets; -1 if there is no ring, none that reads TAPs, or no slot. */
static int read_batch(struct engine *engine, struct port *port, int32_t *packets, int room) {
    struct uring *uring = uring_of(engine);
    int32_t slots[URING_BATCH], results[URING_BATCH] = {0};
    int wanted = room < port->expected ? room : port->expected, count = 0, asked = 0, error = 0;
    bool large = false, unsupported = false;
    if (!uring) return -1;
    for (; asked < wanted && asked < URING_BATCH; asked++) {
        slots[asked] = pool_take_large(engine);
        if (slots[asked] < 0) break;
        uring_prepare(uring, false, port, slot_of(engine, slots[asked]) - VNET_HEADER_BYTES,
                      VNET_HEADER_BYTES + MAX_FRAME_BYTES);
    }
    if (asked == 0) return -1;
    bool performed = uring_perform(uring, results);
    for (int i = 0; i < asked; i++) {
        int32_t length = results[i] - VNET_HEADER_BYTES;
        if (results[i] == -EOPNOTSUPP)
            unsupported = true;
        else if (results[i] < 0)
            error = -results[i];
        if (length <= 0) continue;
        struct vnet_header header;
        memcpy(&header, slot_of(engine, slots[i]) - VNET_HEADER_BYTES, sizeof header);
        struct record *record = pool_fill(engine, slots[i], length);
        if (header.flags | header.gso_type) offload_accept(frame_of(engine, record), length, &header, record);
        large |= length > SMALL_FRAME_BYTES;
        packets[count++] = slots[i];
    }
    for (int i = asked - 1; i >= 0; i--) /* backwards: the pool's stack keeps its order */
        if (results[i] <= VNET_HEADER_BYTES) pool_give(engine, slots[i]);
    if (!performed || unsupported) uring_give_up(engine);
    if (error == EAGAIN)
        port->ready = false;
    else if (error != 0 && error != EINTR)
        port_failed(engine, port, error);
    port->expected = count * 2 > URING_BATCH ? URING_BATCH : count * 2;
    port->flooded = count >= FLOOD_LEAST && !large && !engine->uring_refused;
    return unsupported && count == 0 && !port->failed ? -1 : count;
}

static int tap_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    if (port->flooded) {
        int batch = read_batch(engine, port, packets, room);
        if (batch >= 0) return batch;
        port->flooded = false;
    }
    int count = 0;
    int64_t bytes = 0;
    int32_t small = -1, large = -1;
    bool had_large = false;
    while (count < room && bytes < BURST_BYTES) {
        if (small < 0) small = pool_take_small(engine);
        if (large < 0) large = pool_take_large(engine);
        if (small < 0) break; /* the pool is empty: the frames wait in the device */
        int32_t packet = port->large && large >= 0 ? read_large_frame(engine, port, small, large)
                                                   : read_frame(engine, port, small, large);
        if (packet >= 0) {
            bytes += record_of(engine, packet)->length;
            packets[count++] = packet;
            port->large = packet == large;
            if (packet == small) {
                small = -1;
            } else {
                large = -1;
                had_large = true;
            }
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
    port->flooded = count >= FLOOD_LEAST && !had_large && !engine->uring_refused;
    port->expected = URING_BATCH;
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

static void count_refused(struct engine *engine, struct port *port, int error) {
    count_drop(engine, port, error == EAGAIN ? DROP_QUEUE_FULL : DROP_TRANSMIT_ERROR);
    if (error == EBADFD) port_failed(engine, port, EBADFD);
}

static void write_packet(struct engine *engine, struct port *port, const struct outgoing *out) {
    struct record *record = record_of(engine, out->packet);
    int tag_tci = out->port & EGRESS_TAGGED ? record->tci : -1;
    if (out->port & EGRESS_SEGMENT) {
        write_segments(engine, port, record, tag_tci);
        return;
    }
    if (out->port & EGRESS_CHECKSUM) {
        if (!offload_complete(frame_of(engine, record), record)) {
            count_drop(engine, port, DROP_SEGMENTATION);
            return;
        }
        count(engine, port, COMPLETED_CHECKSUMS);
    }
    struct vnet_header header;
    offload_express(record, tag_tci >= 0 ? 4 : 0, &header);
    int64_t sent = write_frame(port, &header, frame_of(engine, record), record->length, tag_tci);
    if (sent < 0)
        count_refused(engine, port, errno);
    else
        count_transmitted(engine, port, 1, sent);
}

/* How many of the next frames are small and need nothing done: what a batch can take. */
static int plain_run(struct engine *engine, const struct outgoing *out, int count_out) {
    int run = 0;
    while (run < count_out && run < URING_BATCH && !(out[run].port & ~EGRESS_PORT_MASK) &&
           record_of(engine, out[run].packet)->length <= SMALL_FRAME_BYTES)
        run++;
    return run;
}

/* Writes a run of plain frames in one call. Returns false if there is no ring: nothing was written then. */
static bool write_batch(struct engine *engine, struct port *port, const struct outgoing *out, int run) {
    struct uring *uring = uring_of(engine);
    int32_t results[URING_BATCH];
    if (!uring) return false;
    for (int i = 0; i < run; i++) {
        struct record *record = record_of(engine, out[i].packet);
        struct vnet_header header;
        offload_express(record, 0, &header);
        uint8_t *start = frame_of(engine, record) - VNET_HEADER_BYTES; /* headroom: not part of any holder's frame */
        memcpy(start, &header, sizeof header);
        uring_prepare(uring, true, port, start, (uint32_t)(record->length + VNET_HEADER_BYTES));
    }
    if (!uring_perform(uring, results)) {
        uring_give_up(engine);
        for (int i = 0; i < run; i++) count_drop(engine, port, DROP_TRANSMIT_ERROR);
        return true;
    }
    int packets = 0;
    int64_t bytes = 0;
    for (int i = 0; i < run; i++) {
        if (results[i] == -EOPNOTSUPP) {
            if (!engine->uring_refused) uring_give_up(engine);
            write_packet(engine, port, &out[i]);
        } else if (results[i] < 0) {
            count_refused(engine, port, -results[i]);
        } else {
            packets++;
            bytes += results[i] - VNET_HEADER_BYTES;
        }
    }
    count_transmitted(engine, port, packets, bytes);
    return true;
}

static void tap_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count_out) {
    for (int i = 0; i < count_out;) {
        int run = engine->uring_refused ? 0 : plain_run(engine, out + i, count_out - i);
        if (run >= FLOOD_LEAST && write_batch(engine, port, out + i, run)) {
            i += run;
            continue;
        }
        write_packet(engine, port, &out[i]);
        i++;
    }
}

static void tap_close(struct engine *engine, struct port *port) {
    if (engine->uring) uring_forget(engine->uring, port);
    close(port->fd);
}

const struct port_kind_ops tap_ops = {.receive = tap_receive, .transmit = tap_transmit, .close = tap_close};
