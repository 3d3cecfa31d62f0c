/*
 * AF_PACKET on an existing interface, with PACKET_VNET_HDR, by recvmmsg() and sendmmsg().
 *
 * Why not mapped rings: measured against them on a QEMU guest's TAP, TPACKET_V2 moved fewer frames a second than
 * recvmmsg and TPACKET_V3 waits up to a millisecond for its block timer, while both carry the same segmentation-offload
 * frames.
 *
 * Receive: each message is given the header's place, a small slot, and a large slot as the continuation (port_tap.c
 * says how). The batch grows with what came the last time, so that an idle port takes two slots, not 128. The kernel
 * strips the outer VLAN tag into the auxiliary data; it goes to the record as if TypeScript had popped it.
 *
 * Transmit: plain frames and those whose segmentation the device takes over go through fd_out, which bypasses the
 * queueing discipline: a full device says so (ENOBUFS) and the drop is counted. A device without TSO refuses
 * segmentation-offload frames there; they then go through fd, where the kernel segments them.
 *
 * A device that goes down or away ends the port with ENETDOWN; the control process opens it again when it is back.
 */
#include "engine.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PACKET_VNET_BYTES 10
#define BATCH_MIN 4
#define TPID_SERVICE 0x88a8
#define REFUSALS_MAX 4

#define CONTROL_BYTES CMSG_SPACE(sizeof(struct tpacket_auxdata))

struct packet_state {
    int batch;    /* messages asked for in the next receive call */
    int refusals; /* segmentation-offload frames in a row that fd_out would not take */
    struct mmsghdr messages[PORT_BURST];
    struct iovec parts[PORT_BURST][4];
    struct vnet_header headers[PORT_BURST];
    uint8_t tags[PORT_BURST][4];
    int32_t small[PORT_BURST], large[PORT_BURST];
    _Alignas(struct cmsghdr) uint8_t control[PORT_BURST][CONTROL_BYTES];
};

static struct packet_state *state_of(struct port *port) {
    if (!port->state) {
        struct packet_state *state = calloc(1, sizeof *state);
        if (state) state->batch = BATCH_MIN;
        port->state = state;
    }
    return port->state;
}

/* The auxiliary data's VLAN tag into the record; a service tag back into the frame, for TypeScript to refuse. */
static void restore_tag(struct engine *engine, struct msghdr *message, struct record *record) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
        struct tpacket_auxdata aux;
        memcpy(&aux, CMSG_DATA(c), sizeof aux);
        if (!(aux.tp_status & TP_STATUS_VLAN_VALID)) return;
        if (!(aux.tp_status & TP_STATUS_VLAN_TPID_VALID) || aux.tp_vlan_tpid != TPID_SERVICE) {
            record->tag = TAG_PRESENT | aux.tp_vlan_tci;
            return;
        }
        uint8_t *frame = frame_of(engine, record);
        if (record->length < 12) return;
        memmove(frame - 4, frame, 12); /* into the slot's headroom */
        uint8_t tag[4] = {TPID_SERVICE >> 8, TPID_SERVICE & 0xff, (uint8_t)(aux.tp_vlan_tci >> 8),
                          (uint8_t)aux.tp_vlan_tci};
        memcpy(frame + 8, tag, sizeof tag);
        record->offset -= 4;
        record->length += 4;
        return;
    }
}

/* Prepares up to `wanted` messages; returns how many the pool had slots for. */
static int prepare(struct engine *engine, struct packet_state *state, int wanted) {
    int count = 0;
    for (; count < wanted; count++) {
        int32_t small = pool_take_small(engine), large = pool_take_large(engine);
        if (small < 0 || large < 0) {
            if (small >= 0) pool_give(engine, small);
            if (large >= 0) pool_give(engine, large);
            break;
        }
        state->small[count] = small;
        state->large[count] = large;
        struct iovec *parts = state->parts[count];
        parts[0] = (struct iovec){&state->headers[count], PACKET_VNET_BYTES};
        parts[1] = (struct iovec){slot_of(engine, small), SMALL_FRAME_BYTES};
        parts[2] = (struct iovec){slot_of(engine, large) + SMALL_FRAME_BYTES, MAX_FRAME_BYTES - SMALL_FRAME_BYTES};
        state->messages[count].msg_hdr = (struct msghdr){
            .msg_iov = parts, .msg_iovlen = 3, .msg_control = state->control[count], .msg_controllen = CONTROL_BYTES};
    }
    return count;
}

/* One received message into a packet; -1 if it is none. The slot that was not used is given back. */
static int32_t accept_message(struct engine *engine, struct port *port, struct packet_state *state, int i) {
    struct msghdr *message = &state->messages[i].msg_hdr;
    int32_t length = (int32_t)state->messages[i].msg_len - PACKET_VNET_BYTES;
    int32_t small = state->small[i], large = state->large[i], packet = small;
    if (length <= 0) {
        count_drop(engine, port, DROP_RECEIVE_ERROR);
        pool_give(engine, small);
        pool_give(engine, large);
        return -1;
    }
    if (length > SMALL_FRAME_BYTES) {
        memcpy(slot_of(engine, large), slot_of(engine, small), SMALL_FRAME_BYTES);
        packet = large;
    }
    pool_give(engine, packet == small ? large : small);
    struct record *record = pool_fill(engine, packet, length);
    if (message->msg_flags & MSG_TRUNC) record->offload = OFFLOAD_TRUNCATED;
    struct vnet_header *header = &state->headers[i];
    if (header->flags | header->gso_type) offload_accept(frame_of(engine, record), length, header, record);
    restore_tag(engine, message, record);
    return packet;
}

static int packet_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    struct packet_state *state = state_of(port);
    if (!state) {
        port_failed(engine, port, ENOMEM);
        return 0;
    }
    int prepared = prepare(engine, state, room < state->batch ? room : state->batch);
    if (prepared == 0) return 0;
    int got = recvmmsg(port->fd, state->messages, (unsigned)prepared, MSG_DONTWAIT, NULL);
    int error = got < 0 ? errno : 0, count = 0;
    if (got < 0) got = 0;
    for (int i = 0; i < got; i++) {
        int32_t packet = accept_message(engine, port, state, i);
        if (packet >= 0) packets[count++] = packet;
    }
    /* backwards: the pool's stack keeps its order */
    for (int i = prepared - 1; i >= got; i--) {
        pool_give(engine, state->large[i]);
        pool_give(engine, state->small[i]);
    }
    state->batch = got * 2 < BATCH_MIN ? BATCH_MIN : got * 2 > PORT_BURST ? PORT_BURST : got * 2;
    if (error == EINVAL || error == ENOBUFS) /* a frame whose offload the header cannot express: gone */
        count_drop(engine, port, DROP_RECEIVE_ERROR);
    else if (error == EAGAIN || (error == 0 && got < prepared))
        port->ready = false;
    else if (error != 0 && error != EINTR)
        port_failed(engine, port, error);
    return count;
}

/* ---- transmit ---- */

static void set_message(struct packet_state *state, int i, uint8_t *frame, int32_t length, int tag_tci) {
    struct iovec *parts = state->parts[i];
    parts[0] = (struct iovec){&state->headers[i], PACKET_VNET_BYTES};
    parts[1] = (struct iovec){frame, (size_t)length};
    int count = 2;
    if (tag_tci >= 0) {
        uint8_t tag[4] = {0x81, 0x00, (uint8_t)(tag_tci >> 8), (uint8_t)tag_tci};
        memcpy(state->tags[i], tag, sizeof tag);
        parts[1].iov_len = 12;
        parts[2] = (struct iovec){state->tags[i], sizeof tag};
        parts[3] = (struct iovec){frame + 12, (size_t)length - 12};
        count = 4;
    }
    state->messages[i].msg_hdr = (struct msghdr){.msg_iov = parts, .msg_iovlen = (size_t)count};
}

static void refuse(struct engine *engine, struct port *port, int error) {
    count_drop(engine, port, error == ENOBUFS || error == EAGAIN ? DROP_QUEUE_FULL : DROP_TRANSMIT_ERROR);
    if (error == ENETDOWN || error == ENXIO || error == ENODEV) port_failed(engine, port, ENETDOWN);
}

/* Sends the first `count` messages, dropping what is refused. `segmented`: segmentation-offload frames. */
static void send_messages(struct engine *engine, struct port *port, struct packet_state *state, int count,
                          bool segmented) {
    int packets = 0, position = 0;
    int64_t bytes = 0;
    while (position < count && !port->failed) {
        bool bypass = port->fd_out >= 0 && !(segmented && state->refusals >= REFUSALS_MAX);
        int sent = sendmmsg(bypass ? port->fd_out : port->fd, state->messages + position, (unsigned)(count - position),
                            MSG_DONTWAIT);
        if (sent > 0) {
            for (int i = position; i < position + sent; i++) bytes += state->messages[i].msg_len - PACKET_VNET_BYTES;
            packets += sent;
            position += sent;
            if (bypass && segmented) state->refusals = 0;
        } else if (bypass && segmented && errno == ENOBUFS) {
            state->refusals++;
            if (sendmmsg(port->fd, state->messages + position, 1, MSG_DONTWAIT) == 1) {
                bytes += state->messages[position].msg_len - PACKET_VNET_BYTES;
                packets++;
            } else {
                refuse(engine, port, errno);
            }
            position++;
        } else {
            refuse(engine, port, errno);
            position++;
        }
    }
    for (; position < count; position++) count_drop(engine, port, DROP_TRANSMIT_ERROR);
    count_transmitted(engine, port, packets, bytes);
}

static void send_segments(struct engine *engine, struct port *port, struct packet_state *state, struct record *record,
                          int tag_tci) {
    struct segmenter segmenter;
    if (!segment_begin(&segmenter, frame_of(engine, record), record)) {
        count_drop(engine, port, DROP_SEGMENTATION);
        return;
    }
    int32_t used = 0, length, room = segmenter.header_length + record->segment_bytes;
    int count_made = 0;
    while ((length = segment_next(&segmenter, engine->scratch + used)) > 0) {
        state->headers[count_made] = (struct vnet_header){0};
        set_message(state, count_made++, engine->scratch + used, length, tag_tci);
        used += length;
        if (count_made == PORT_BURST || used + room > SCRATCH_BYTES) {
            send_messages(engine, port, state, count_made, false);
            count_made = used = 0;
        }
    }
    send_messages(engine, port, state, count_made, false);
    count(engine, port, SEGMENTED_PACKETS);
}

static void packet_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count_out) {
    struct packet_state *state = state_of(port);
    if (!state) {
        port_failed(engine, port, ENOMEM);
        return;
    }
    int pending = 0;
    bool pending_segmented = false;
    for (int i = 0; i < count_out; i++) {
        struct record *record = record_of(engine, out[i].packet);
        int tag_tci = out[i].port & EGRESS_TAGGED ? record->tci : -1;
        bool segmented = record->segment_bytes > 0;
        /* a batch is of one sort, so that frames keep their order over the two sockets */
        if (pending == PORT_BURST ||
            (pending > 0 && (segmented != pending_segmented || out[i].port & EGRESS_SEGMENT))) {
            send_messages(engine, port, state, pending, pending_segmented);
            pending = 0;
        }
        if (out[i].port & EGRESS_SEGMENT) {
            send_segments(engine, port, state, record, tag_tci);
            continue;
        }
        if (out[i].port & EGRESS_CHECKSUM) {
            if (!offload_complete(frame_of(engine, record), record)) {
                count_drop(engine, port, DROP_SEGMENTATION);
                continue;
            }
            count(engine, port, COMPLETED_CHECKSUMS);
        }
        offload_express(record, tag_tci >= 0 ? 4 : 0, &state->headers[pending]);
        set_message(state, pending++, frame_of(engine, record), record->length, tag_tci);
        pending_segmented = segmented;
    }
    send_messages(engine, port, state, pending, pending_segmented);
}

static void packet_close(struct engine *engine, struct port *port) {
    (void)engine;
    close(port->fd);
    if (port->fd_out >= 0) close(port->fd_out);
    free(port->state);
}

const struct port_kind_ops packet_ops = {.receive = packet_receive, .transmit = packet_transmit, .close = packet_close};
