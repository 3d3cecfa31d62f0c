/*
 * vhost-user, the way to the guest: from pairs of the egress list to its buffers. port_vhost_user.c has the other way.
 *
 * It writes a header made from the record, then the frame. With mergeable buffers a frame takes as many chains as
 * it needs, else it must fit one. Where several receive rings are enabled, a hash of the frame's addresses and ports
 * chooses, the same for a flow always. Segments, checksums and tags are done as in batch.c. What finds no room waits in
 * the ring's queue, behind its virtio_net header, and counts as transmitted; it is sent before anything later, as soon
 * as the guest gives buffers: it is asked while the port is polled, and asked to kick before the engine sleeps.
 *
 * Capacity: the queue's QUEUE_BYTES a port; when full, tail drop as queue-full. A frame that no number of the guest's
 * buffers can hold is dropped as transmit-error, and all of them without an enabled ring as no-peer. A call walks
 * ALLOWANCE descriptors; what is left then waits.
 *
 * Standards: virtio 1.2, 5.1.6.3. What it does not do: reorder, or take a flow to the ring that the guest sends it by.
 */
#include "headers.h"
#include "vhost_user.h"

#define WAITING_BYTES (4 + VNET_HEADER_BYTES) /* in front of a frame in the queue: length, header */

enum sent { SENT, FULL, REFUSED };

/* Scatters parts over spans that have room for them. */
static void scatter(struct guest_memory *memory, const struct vring_span *spans, const struct iovec *parts, int count) {
    uint32_t filled = 0;
    for (int i = 0; i < count; i++) {
        const uint8_t *from = parts[i].iov_base;
        size_t left = parts[i].iov_len;
        while (left > 0) {
            uint32_t room = spans->length - filled, part = left < room ? (uint32_t)left : room;
            memcpy(spans->place + filled, from, part);
            guest_mark(memory, spans->guest + filled, part);
            from += part;
            left -= part;
            filled += part;
            if (filled < spans->length) continue;
            spans++;
            filled = 0;
        }
    }
}

/* Gives chains back of which nothing was used. */
static void give_back_empty(struct engine *engine, struct port *port, struct vhost_user *vhost, struct vring *vring,
                            int chains) {
    for (int i = 0; i < chains; i++) vring_give_back(vring, vhost->chains[i].head, 0);
    count_drop(engine, port, DROP_BAD_DESCRIPTOR);
}

/*
 * Collects chains with room for `needed` bytes. Returns how many; 0 if the guest has to give more first, -1 if it
 * cannot give enough.
 */
static int collect(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                   int64_t needed) {
    struct vring *vring = &ring->vring;
    int64_t room = 0;
    int spans = 0, chains = 0;
    while (room < needed) {
        if (chains > 0 && (!ring->mergeable || chains == vring->size)) return -1;
        if ((uint16_t)(vring->known - vring->next) == chains && vring_look(vring) == chains) return 0;
        uint16_t head;
        if (vhost->allowance <= 0) vring->known = vring->next; /* so that what is left makes news in the next turn */
        if (vring->broken || vhost->allowance <= 0 || !vring_head(vring, (uint16_t)(vring->next + chains), &head))
            return 0;
        int walked = 0, before = spans;
        spans = vring_chain(vring, &vhost->memory, head, true, vhost->spans, spans, &walked);
        vhost->allowance -= walked;
        int64_t more = 0;
        for (int i = before; i < spans; i++) more += vhost->spans[i].length;
        vhost->chains[chains++] = (struct chain){.head = head, .room = more};
        if (spans < 0 || more <= ring->header_bytes) {
            give_back_empty(engine, port, vhost, vring, chains);
            spans = chains = 0;
            room = 0;
        } else {
            room += more;
        }
    }
    return chains;
}

/* Sends a frame that the parts behind the first make up; the first is for the header. */
static enum sent send_parts(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                            struct vnet_header *header, struct iovec *parts, int count) {
    int64_t needed = 0;
    parts[0] = (struct iovec){.iov_base = header, .iov_len = (size_t)ring->header_bytes};
    for (int i = 0; i < count; i++) needed += (int64_t)parts[i].iov_len;
    int chains = collect(engine, port, vhost, ring, needed);
    if (chains <= 0) return chains < 0 ? REFUSED : FULL;
    header->buffers = (uint16_t)chains;
    scatter(&vhost->memory, vhost->spans, parts, count);
    for (int i = 0; i < chains; i++) {
        int64_t used = needed < vhost->chains[i].room ? needed : vhost->chains[i].room;
        vring_give_back(&ring->vring, vhost->chains[i].head, (uint32_t)used);
        needed -= used;
    }
    return SENT;
}

void vhost_user_send_waiting(struct engine *engine, struct port *port, struct vhost_user *vhost,
                             struct guest_ring *ring) {
    while (ring->queue.used > 0) {
        struct iovec parts[3], pieces[2];
        struct vnet_header header;
        size_t length = queue_load32(&ring->queue, 0);
        size_t at = 0;
        int count = queue_spans(&ring->queue, 4, VNET_HEADER_BYTES, pieces);
        for (int i = 0; i < count; at += pieces[i++].iov_len)
            memcpy((uint8_t *)&header + at, pieces[i].iov_base, pieces[i].iov_len);
        count = queue_spans(&ring->queue, WAITING_BYTES, length, parts + 1);
        enum sent sent = send_parts(engine, port, vhost, ring, &header, parts, count + 1);
        if (sent == FULL) break;
        if (sent == REFUSED) count_drop(engine, port, DROP_TRANSMIT_ERROR);
        queue_consume(&ring->queue, WAITING_BYTES + length);
        vhost->waiting -= (int32_t)(WAITING_BYTES + length);
    }
}

/* Lets a frame wait; parts as for send_parts(). Returns false if the queue is full. */
static bool let_wait(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                     struct vnet_header *header, struct iovec *parts, int count, int32_t length) {
    uint8_t head[WAITING_BYTES];
    if (vhost->waiting > QUEUE_BYTES - WAITING_BYTES - length) return false;
    store32(head, (uint32_t)length);
    memcpy(head + 4, header, VNET_HEADER_BYTES);
    parts[0] = (struct iovec){.iov_base = head, .iov_len = sizeof head};
    if (!queue_append(&ring->queue, parts, count)) return false;
    vhost->waiting += WAITING_BYTES + length;
    port_poll(engine, port);
    return true;
}

/* Sends a frame, a tag in front of its payload if tci is not negative, or lets it wait. */
static void send_frame(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                       struct vnet_header *header, uint8_t *frame, int32_t length, int32_t tci) {
    uint8_t tag[TAG_BYTES];
    struct iovec parts[4];
    int count = 2;
    parts[1] = (struct iovec){.iov_base = frame, .iov_len = (size_t)length};
    if (tci >= 0) {
        store16(tag, TYPE_VLAN);
        store16(tag + 2, tci);
        parts[1].iov_len = ADDRESSES_BYTES;
        parts[2] = (struct iovec){.iov_base = tag, .iov_len = TAG_BYTES};
        parts[3] = (struct iovec){.iov_base = frame + ADDRESSES_BYTES, .iov_len = (size_t)length - ADDRESSES_BYTES};
        count = 4;
        length += TAG_BYTES;
    }
    enum sent sent = ring->queue.used > 0 ? FULL : send_parts(engine, port, vhost, ring, header, parts, count);
    if (sent == FULL && let_wait(engine, port, vhost, ring, header, parts, count, length)) sent = SENT;
    if (sent == SENT)
        count_transmitted(engine, port, 1, length);
    else
        count_drop(engine, port, sent == FULL ? DROP_QUEUE_FULL : DROP_TRANSMIT_ERROR);
}

static void send_segments(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                          const struct record *record, int32_t tci) {
    struct segmenter segmenter;
    if (!segment_begin(&segmenter, frame_of(engine, record), record)) {
        count_drop(engine, port, DROP_SEGMENTATION);
        return;
    }
    for (int32_t length; (length = segment_next(&segmenter, engine->scratch)) > 0;) {
        struct vnet_header header = {0};
        send_frame(engine, port, vhost, ring, &header, engine->scratch, length, tci);
    }
    count(engine, port, SEGMENTED_PACKETS);
}

/* Does what the pair's flags ask for, whatever the buffers look like. */
static void send_packet(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                        const struct outgoing *out) {
    struct record *record = record_of(engine, out->packet);
    int32_t tci = out->port & EGRESS_TAGGED ? record->tci : -1;
    if (record->length < ETHERNET_BYTES || record->length > MAX_FRAME_BYTES) {
        count_drop(engine, port, DROP_TRANSMIT_ERROR);
    } else if (ring->queue.used > 0 && record->length > QUEUE_BYTES - vhost->waiting) {
        count_drop(engine, port, DROP_QUEUE_FULL); /* before any work is spent on it */
    } else if (out->port & EGRESS_SEGMENT) {
        send_segments(engine, port, vhost, ring, record, tci);
    } else {
        if (out->port & EGRESS_CHECKSUM && record->offload & OFFLOAD_CHECKSUM) {
            if (!offload_complete(frame_of(engine, record), record)) {
                count_drop(engine, port, DROP_SEGMENTATION);
                return;
            }
            count(engine, port, COMPLETED_CHECKSUMS);
        }
        struct vnet_header header;
        offload_express(record, tci >= 0 ? TAG_BYTES : 0, &header);
        send_frame(engine, port, vhost, ring, &header, frame_of(engine, record), record->length, tci);
    }
}

/*
 * Writes the header of a frame in one buffer. Most carry nothing unfinished: theirs is stored as constants, since a
 * struct that is filled in parts and copied whole has to wait for its own stores.
 */
static inline void put_header(uint8_t *to, const struct record *record, int32_t bytes) {
    if (record->offload) {
        struct vnet_header header;
        offload_express(record, 0, &header);
        header.buffers = 1;
        memcpy(to, &header, (size_t)bytes);
    } else if (bytes == VNET_HEADER_BYTES) {
        memcpy(to, &(const struct vnet_header){.buffers = 1}, VNET_HEADER_BYTES);
    } else {
        memset(to, 0, LEGACY_HEADER_BYTES);
    }
}

/* Sends up to VRING_AHEAD packets to one ring. The usual one, plain and into one buffer, is sent right here. */
static void send_ring(struct engine *engine, struct port *port, struct vhost_user *vhost, struct guest_ring *ring,
                      const struct outgoing *const *out, int count_out) {
    struct vring *vring = &ring->vring;
    struct vring_ahead *ahead = &vhost->ahead;
    int64_t bytes = 0;
    int packets = 0;
    if (ring->queue.used > 0 && vring_has_news(vring)) vhost_user_send_waiting(engine, port, vhost, ring);
    int waiting = ring->queue.used > 0 ? 0 : (uint16_t)(vring->known - vring->next);
    if (waiting < count_out && ring->queue.used == 0) waiting = vring_look(vring);
    uint16_t first = vring->next;
    int32_t bytes_ahead = record_of(engine, out[0]->packet)->length + ring->header_bytes;
    vring_look_ahead(vring, &vhost->memory, waiting < count_out ? waiting : count_out, true, (uint32_t)bytes_ahead,
                     ahead);
    for (int i = 0; i < count_out; i++) {
        const struct record *record = record_of(engine, out[i]->packet);
        uint16_t place = (uint16_t)(vring->next - first);
        const struct vring_span *span = &ahead->spans[place];
        int32_t length = record->length;
        if (i + VRING_NEAR < count_out && place + VRING_NEAR < ahead->count) {
            int32_t later = record_of(engine, out[i + VRING_NEAR]->packet)->length + ring->header_bytes;
            vring_look_near(span + VRING_NEAR, (uint32_t)later, true);
        }
        if (out[i]->port & ~EGRESS_PORT_MASK || place >= ahead->count || !span->place || length < ETHERNET_BYTES ||
            (int64_t)span->length < ring->header_bytes + (int64_t)length || ring->queue.used > 0) {
            send_packet(engine, port, vhost, ring, out[i]);
            continue;
        }
        put_header(span->place, record, ring->header_bytes);
        copy_frame(span->place + ring->header_bytes, frame_of(engine, record), (size_t)length);
        guest_mark(&vhost->memory, span->guest, (uint64_t)(ring->header_bytes + length));
        vring_give_back(vring, ahead->heads[place], (uint32_t)(ring->header_bytes + length));
        packets++;
        bytes += length;
    }
    count_transmitted(engine, port, packets, bytes);
}

/* The same for all frames of a flow: a hash of addresses and, where they are not fragments, ports. */
static uint32_t flow_of(const uint8_t *frame, int32_t length) {
    uint64_t hash = 0, word;
    int32_t from = 0, to = ADDRESSES_BYTES;
    int32_t type = length >= ETHERNET_BYTES ? load16(frame + ADDRESSES_BYTES) : 0;
    if (type == TYPE_IPV4 && length >= ETHERNET_BYTES + 24) {
        const uint8_t *ip = frame + ETHERNET_BYTES;
        bool ports = (ip[9] == PROTOCOL_TCP || ip[9] == PROTOCOL_UDP) && ip[0] == 0x45 && !(load16(ip + 6) & 0x3fff);
        from = ETHERNET_BYTES + 12;
        to = from + (ports ? 12 : 8);
    } else if (type == TYPE_IPV6 && length >= ETHERNET_BYTES + 44) {
        const uint8_t *ip = frame + ETHERNET_BYTES;
        bool ports = ip[6] == PROTOCOL_TCP || ip[6] == PROTOCOL_UDP;
        from = ETHERNET_BYTES + 8;
        to = from + (ports ? 36 : 32);
    }
    for (; from < to; from += 4) {
        word = load32(frame + from);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
    }
    return (uint32_t)(hash >> 32);
}

/* Several receive rings: each gets its packets, in order. */
static void spread(struct engine *engine, struct port *port, struct vhost_user *vhost, const struct outgoing *out,
                   int count_out) {
    uint8_t chosen[VRING_AHEAD];
    const struct outgoing *theirs[VRING_AHEAD];
    uint32_t wanted = 0;
    for (int i = 0; i < count_out; i++) {
        const struct record *record = record_of(engine, out[i].packet);
        chosen[i] = (uint8_t)(flow_of(frame_of(engine, record), record->length) % (uint32_t)vhost->receiving);
        wanted |= 1U << chosen[i];
    }
    for (int k = 0; k < vhost->receiving; k++) {
        int count = 0;
        if (!(wanted >> k & 1)) continue;
        for (int i = 0; i < count_out; i++)
            if (chosen[i] == k) theirs[count++] = &out[i];
        send_ring(engine, port, vhost, vhost->receivers[k], theirs, count);
    }
}

void vhost_user_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count_out) {
    struct vhost_user *vhost = port->state;
    if (!vhost || vhost->receiving == 0) {
        for (int i = 0; i < count_out; i++) count_drop(engine, port, DROP_NO_PEER);
        return;
    }
    vhost->allowance = ALLOWANCE;
    for (int from = 0; from < count_out; from += VRING_AHEAD) {
        int count = count_out - from < VRING_AHEAD ? count_out - from : VRING_AHEAD;
        if (vhost->receiving > 1) {
            spread(engine, port, vhost, out + from, count);
            continue;
        }
        const struct outgoing *all[VRING_AHEAD];
        for (int i = 0; i < count; i++) all[i] = &out[from + i];
        send_ring(engine, port, vhost, vhost->receivers[0], all, count);
    }
    vhost_user_finish(engine, port, vhost);
}
