/*
 * vhost-user: frames between a guest's own queues and the pool, by one copy each, without a system call. vhost_user.h
 * says what is shared and which ring is which.
 *
 * Receive asks the guest's transmit rings in turn. The chains that wait are looked at together before the first is
 * copied (vring.h), since the wait for another core's memory is most of the cost. A frame goes to the smallest slot
 * that holds it, and its virtio_net header through offload_accept(), if the driver has negotiated what it asks for;
 * else the packet is OFFLOAD_BAD. What the guest changes after that changes nothing. All chains of a burst are given
 * back by one store.
 *
 * Polling. While frames come, and for a while after, the engine looks at the rings itself (poll), and the guest is
 * told not to kick. Then `arm` asks for kicks again and looks once more: a frame that came between the two is seen.
 *
 * What a guest does wrong costs it alone. A bad chain is given back empty and counted as bad-descriptor; a broken ring
 * ends the port with EPROTO; memory that went away (guest_memory.h) ends it with EFAULT. A call walks ALLOWANCE
 * descriptors and the chain it is at, no more: chains of a thousand descriptors slow down their sender.
 *
 * Capacity: of slots none of its own; without one, frames stay with the guest. What is sent to it: vhost_user_send.c.
 *
 * Standards: virtio 1.2, 2.7 and 5.1.6. What it does not do: packed rings, hash reports, the control queue, which is
 * QEMU's.
 */
#include <errno.h>

#include "headers.h"
#include "vhost_user.h"

#define BYTES_WEIGH 3 /* measured: 64 frames of 1518 bytes a turn cost less than 22, in C alone */
#define TURN_BYTES (BURST_BYTES * BYTES_WEIGH)

void vhost_user_finish(struct engine *engine, struct port *port, struct vhost_user *vhost) {
    bool broken = false;
    for (int i = 0; i < vhost->receiving + vhost->transmitting; i++) {
        int k = i - vhost->receiving;
        struct vring *vring = k < 0 ? &vhost->receivers[i]->vring : &vhost->transmitters[k]->vring;
        vring_publish(vring, &vhost->memory);
        broken |= vring->broken;
    }
    if (vhost->memory.lost)
        port_failed(engine, port, EFAULT);
    else if (broken)
        port_failed(engine, port, EPROTO);
}

/* ---- receive ---- */

static int32_t take_slot(struct engine *engine, int64_t length) {
    int32_t packet = length <= SMALL_FRAME_BYTES ? pool_take_small(engine) : -1;
    return packet < 0 ? pool_take_large(engine) : packet;
}

/* Copies `length` bytes from `offset` of a chain. */
static void gather(const struct vring_span *spans, uint32_t offset, uint8_t *to, uint32_t length) {
    for (; length > 0; spans++) {
        if (offset >= spans->length) {
            offset -= spans->length;
            continue;
        }
        uint32_t part = spans->length - offset < length ? spans->length - offset : length;
        memcpy(to, spans->place + offset, part);
        to += part;
        length -= part;
        offset = 0;
    }
}

#define BAD_CHAIN (-1)
#define NO_SLOT (-2)

/* Whether a header asks only for what the guest's driver has agreed to (virtio 1.2, 5.1.6.2). */
static bool is_negotiated(uint64_t features, const struct vnet_header *header) {
    uint64_t needed = 0;
    if (header->flags & VNET_NEEDS_CHECKSUM) needed |= FEATURE_CSUM;
    if (header->gso_type & GSO_ECN) needed |= FEATURE_HOST_ECN;
    switch (header->gso_type & ~GSO_ECN) {
    case GSO_TCP4:
        return !(~features & (needed | FEATURE_HOST_TSO4));
    case GSO_TCP6:
        return !(~features & (needed | FEATURE_HOST_TSO6));
    case GSO_UDP:
        return !(~features & (needed | FEATURE_HOST_USO));
    default: /* none, or one that offload_accept() refuses */
        return !(~features & needed);
    }
}

/* Takes the frame of a chain. Returns the packet, BAD_CHAIN or NO_SLOT. */
static inline int32_t take_frame(struct engine *engine, const struct guest_ring *ring, const struct vring_span *spans,
                                 int count) {
    int32_t header_bytes = ring->header_bytes;
    int64_t length = -header_bytes;
    struct vnet_header header = {0};
    for (int i = 0; i < count; i++) length += spans[i].length;
    if (length < 1 || length > MAX_FRAME_BYTES) return BAD_CHAIN;
    int32_t packet = take_slot(engine, length);
    if (packet < 0) return NO_SLOT;
    struct record *record = pool_fill(engine, packet, (int32_t)length);
    uint8_t *frame = frame_of(engine, record);
    if (count == 1) {
        memcpy(&header, spans->place, 10); /* what follows says nothing here */
        copy_frame(frame, spans->place + header_bytes, (size_t)length);
    } else {
        gather(spans, 0, (uint8_t *)&header, 10);
        gather(spans, (uint32_t)header_bytes, frame, (uint32_t)length);
    }
    if (header.flags | header.gso_type) {
        if (is_negotiated(ring->features, &header))
            offload_accept(frame, (int32_t)length, &header, record);
        else
            record->offload = OFFLOAD_BAD;
    }
    return packet;
}

static int receive_ring(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                        int32_t *packets, int room) {
    struct vring *vring = &ring->vring;
    struct vring_ahead *ahead = &vhost->ahead;
    int waiting = vring_look(vring), count = 0;
    int64_t bytes = 0;
    if (waiting > room) waiting = room;
    if (waiting > ring->expected) waiting = ring->expected;
    if (waiting > VRING_AHEAD) waiting = VRING_AHEAD;
    vring_look_ahead(vring, &vhost->memory, waiting, false, VRING_FIRST_BYTES, ahead);
    for (int i = 0; i < ahead->count && bytes < TURN_BYTES && vhost->allowance > 0; i++) {
        const struct vring_span *spans = &ahead->spans[i];
        int span_count = 1;
        if (i + VRING_NEAR < ahead->count) vring_look_near(spans + VRING_NEAR, spans[VRING_NEAR].length, false);
        if (!spans->place) {
            int walked = 0;
            spans = vhost->spans;
            span_count = vring_chain(vring, &vhost->memory, ahead->heads[i], false, vhost->spans, 0, &walked);
            vhost->allowance -= walked;
        }
        int32_t packet = take_frame(engine, ring, spans, span_count);
        if (packet == NO_SLOT) break;
        vring_give_back(vring, ahead->heads[i], 0);
        if (packet == BAD_CHAIN) {
            count_drop(engine, port, DROP_BAD_DESCRIPTOR);
        } else if (!ring->enabled) {
            count_drop(engine, port, DROP_NO_PEER);
            pool_give(engine, packet);
        } else {
            bytes += record_of(engine, packet)->length;
            packets[count++] = packet;
        }
    }
    /* of large frames a burst has few: looking at more of them each time is for nothing */
    ring->expected = bytes >= TURN_BYTES ? count + 1 : VRING_AHEAD;
    return count;
}

/* ---- the turn ---- */

static int vhost_user_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    struct vhost_user *vhost = port->state;
    int count = 0, rings = vhost ? vhost->transmitting : 0;
    bool more = false;
    port->ready = false;
    if (!vhost) return 0;
    vhost->allowance = ALLOWANCE;
    for (int i = 0; i < vhost->receiving; i++) {
        struct guest_ring *ring = vhost->receivers[i];
        vring_disarm(&ring->vring, &vhost->memory);
        if (ring->queue.used > 0 && vring_has_news(&ring->vring)) vhost_user_send_waiting(engine, port, vhost, ring);
    }
    for (int i = 0; i < rings; i++) {
        struct guest_ring *ring = vhost->transmitters[(vhost->turn + i) % rings];
        vring_disarm(&ring->vring, &vhost->memory);
        count += receive_ring(engine, port, vhost, ring, packets + count, room - count);
        more |= ring->vring.known != ring->vring.next;
    }
    if (rings > 0) vhost->turn = (vhost->turn + 1) % rings;
    port->ready = more;
    vhost_user_finish(engine, port, vhost);
    if (!port->failed) port_poll(engine, port);
    return count;
}

static bool vhost_user_poll(struct engine *engine, struct port *port) {
    (void)engine;
    struct vhost_user *vhost = port->state;
    if (!vhost) return false;
    bool news = vhost->memory.lost;
    for (int i = 0; i < vhost->transmitting; i++) news |= vring_has_news(&vhost->transmitters[i]->vring);
    for (int i = 0; i < vhost->receiving; i++) {
        struct guest_ring *ring = vhost->receivers[i];
        if (ring->queue.used > 0) news |= vring_has_news(&ring->vring);
    }
    return news;
}

static bool vhost_user_arm(struct engine *engine, struct port *port) {
    (void)engine;
    struct vhost_user *vhost = port->state;
    bool news = false;
    for (int i = 0; vhost && i < vhost->transmitting; i++)
        news |= vring_arm(&vhost->transmitters[i]->vring, &vhost->memory);
    for (int i = 0; vhost && i < vhost->receiving; i++) {
        struct guest_ring *ring = vhost->receivers[i];
        if (ring->queue.used > 0) news |= vring_arm(&ring->vring, &vhost->memory);
    }
    return news;
}

const struct port_kind_ops vhost_user_ops = {.receive = vhost_user_receive,
                                             .transmit = vhost_user_transmit,
                                             .close = vhost_user_close,
                                             .poll = vhost_user_poll,
                                             .arm = vhost_user_arm,
                                             .bytes_weigh = BYTES_WEIGH};
