/*
 * Frames over datagram sockets, one frame a datagram, as QEMU's `-netdev dgram` and vfkit speak: no length, no FCS, no
 * virtio_net header. `fd` is bound and receives; `fd_out` is connected to the peer and sends (a unix socket cannot be
 * both for a peer that is not there yet). Without a peer `fd_out` is -1 and every frame is dropped as no-peer,
 * until somebody sends: that is the peer then. Its address is noted in the arena, so that the next process on the same
 * bound socket knows it, also if the guest has nothing to say.
 *
 * Receive is one recvmmsg() straight into slots. How long a datagram is shows only afterwards, so each gets a small
 * slot and behind it, in a large one, room for the rest at the place where it would stand if the whole frame were
 * there:
 *
 *   small  [ first SMALL_FRAME_BYTES ]
 *   large  [ left free                ][ the rest ]     a long frame: its first bytes are copied over, the small slot
 *                                                       goes back; a short one: the large slot goes back untouched
 *
 * The number asked for follows what came last, from EXPECT_MIN to PORT_BURST: a lone frame is not charged for 128
 * slots.
 *
 * Transmit is one sendmmsg() a batch. A unix socket's peer takes net.unix.max_dgram_qlen datagrams (often 10) before it
 * must read; what does not fit waits in the queue (queue.h), in order, and counts as transmitted. A datagram that the
 * socket refuses for itself alone (too long for its buffer) is dropped as transmit-error. A peer that went away is told
 * once, as ECONNREFUSED; TypeScript then attaches the port anew.
 *
 * Capacity: of receiving none of its own. Without a large slot a long frame is dropped, without any slot each frame is,
 * both as no-slot; longer than MAX_FRAME_BYTES or empty: receive-error. The queue when full: tail drop as queue-full.
 *
 * What it does not do: ask who may send (the file mode of the bound path says that), or take over passed descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "batch.h"
#include "journal.h"
#include "queue.h"

#define EXPECT_MIN 4
#define REST_BYTES (MAX_FRAME_BYTES - SMALL_FRAME_BYTES)

struct dgram {
    int expected; /* datagrams to ask for in the next call */
    bool peer_gone;
    bool awaiting; /* writable() is asked for */
    struct queue queue;
};

static void await(struct engine *engine, struct port *port, struct dgram *dgram, bool wanted) {
    if (dgram->awaiting == wanted) return;
    dgram->awaiting = wanted;
    port_await_writable(engine, port, wanted);
}

/* ---- the peer ---- */

/* The peer that was found for a bound socket. */
struct peer {
    uint64_t socket; /* inode number of the bound socket; 0: none was found */
    uint32_t length; /* of the address */
    struct sockaddr_un address;
};
_Static_assert(sizeof(struct peer) <= 1 << PEER_SHIFT, "PEER_SHIFT");

static struct peer *peer_of(struct engine *engine, const struct port *port) {
    return (struct peer *)(void *)(engine->peers + ((size_t)port->index << PEER_SHIFT));
}

static uint64_t number_of(int socket) {
    struct stat status;
    return fstat(socket, &status) < 0 ? 0 : status.st_ino;
}

/*
 * A socket that sends to this address; -1: there is none. A peer that has connected itself to our path (vfkit, krunkit)
 * takes datagrams from the bound socket only (unix(7)): then that one is connected.
 */
static int connected_to(const struct port *port, const struct sockaddr_un *address, socklen_t length) {
    const struct sockaddr *any = (const struct sockaddr *)address;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    int error = connect(fd, any, length) < 0 ? errno : 0;
    if (error == EPERM) {
        close(fd);
        fd = fcntl(port->fd, F_DUPFD_CLOEXEC, 0);
        error = fd < 0 || connect(fd, any, length) < 0 ? errno : 0;
    }
    if (!error) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

/* Whoever sends is the peer of a port that has none: frames go where the next datagram came from. */
static void find_peer(struct engine *engine, struct port *port) {
    struct sockaddr_un address;
    socklen_t length = sizeof address;
    struct peer *peer = peer_of(engine, port);
    uint8_t byte;
    if (recvfrom(port->fd, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT, (struct sockaddr *)&address, &length) < 0)
        return;
    if (length <= offsetof(struct sockaddr_un, sun_path)) return; /* it has no address to answer to */
    int fd = connected_to(port, &address, length);
    if (fd < 0) return;
    port_set_out(engine, port, fd);
    peer->socket = 0;
    in_order();
    memcpy(&peer->address, &address, sizeof address);
    peer->length = length;
    in_order();
    peer->socket = number_of(port->fd);
}

/* Goes on with the peer that a predecessor has found for the same socket. */
static int dgram_attach(struct engine *engine, struct port *port) {
    const struct peer *peer = peer_of(engine, port);
    struct dgram *dgram = calloc(1, sizeof *dgram);
    if (!dgram) return ENOMEM;
    dgram->expected = EXPECT_MIN;
    port->state = dgram;
    bool is_known = peer->socket && peer->socket == number_of(port->fd) && peer->length <= sizeof peer->address;
    if (port->fd_out < 0 && is_known) port->fd_out = connected_to(port, &peer->address, peer->length);
    return 0;
}

/* ---- receive ---- */

/* Where one datagram may be put. */
struct place {
    int32_t small, large; /* -1: none was free */
};

/* Takes slots for one datagram. Returns the number of spans, 0 if the pool is empty. */
static int take_place(struct engine *engine, struct place *place, struct iovec spans[2]) {
    place->small = pool_take_small(engine);
    place->large = pool_take_large(engine);
    if (place->small < 0 && place->large < 0) return 0;
    if (place->small < 0) {
        spans[0] = (struct iovec){.iov_base = slot_of(engine, place->large), .iov_len = MAX_FRAME_BYTES};
        return 1;
    }
    spans[0] = (struct iovec){.iov_base = slot_of(engine, place->small), .iov_len = SMALL_FRAME_BYTES};
    if (place->large < 0) return 1;
    uint8_t *rest = slot_of(engine, place->large) + SMALL_FRAME_BYTES;
    spans[1] = (struct iovec){.iov_base = rest, .iov_len = REST_BYTES};
    return 2;
}

static void give_place(struct engine *engine, const struct place *place) {
    if (place->large >= 0) pool_give(engine, place->large);
    if (place->small >= 0) pool_give(engine, place->small);
}

/* Makes a packet of what was received; returns it, -1 if it was dropped. All slots are accounted for. */
static int32_t accept_datagram(struct engine *engine, const struct port *port, struct place *place, int32_t length,
                               bool truncated) {
    int32_t packet = place->small;
    if (truncated || length == 0) {
        count_drop(engine, port, truncated && place->large < 0 ? DROP_NO_SLOT : DROP_RECEIVE_ERROR);
        give_place(engine, place);
        return -1;
    }
    if (place->small < 0) {
        packet = place->large;
    } else if (length > SMALL_FRAME_BYTES) {
        packet = place->large;
        memcpy(slot_of(engine, packet), slot_of(engine, place->small), SMALL_FRAME_BYTES);
        pool_give(engine, place->small);
    } else if (place->large >= 0) {
        pool_give(engine, place->large);
    }
    pool_fill(engine, packet, length);
    return packet;
}

/* The pool is empty: takes up to `room` datagrams away, so that the port does not keep the loop from sleeping. */
static void discard(struct engine *engine, struct port *port, int room) {
    for (int i = 0; i < room; i++) {
        uint8_t byte;
        if (recv(port->fd, &byte, sizeof byte, MSG_DONTWAIT) < 0) {
            if (errno == EAGAIN) port->ready = false;
            return; /* any other error shows again when there are slots */
        }
        count_drop(engine, port, DROP_NO_SLOT);
    }
}

static int dgram_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    struct mmsghdr messages[PORT_BURST];
    struct iovec spans[PORT_BURST][2];
    struct place places[PORT_BURST];
    struct dgram *dgram = port->state;
    if (dgram->peer_gone) { /* once more, for want of room for the event */
        port_failed(engine, port, ECONNREFUSED);
        return 0;
    }
    if (port->fd_out < 0) find_peer(engine, port);
    if (room > PORT_BURST) room = PORT_BURST;
    int wanted = room < dgram->expected ? room : dgram->expected, asked = 0;
    for (; asked < wanted; asked++) {
        int count = take_place(engine, &places[asked], spans[asked]);
        if (count == 0) break;
        if (places[asked].large < 0 && asked > 0) { /* rather fewer at a time than long frames dropped */
            pool_give(engine, places[asked].small);
            break;
        }
        messages[asked].msg_hdr = (struct msghdr){.msg_iov = spans[asked], .msg_iovlen = (size_t)count};
        messages[asked].msg_len = 0;
    }
    if (asked == 0) {
        discard(engine, port, room);
        return 0;
    }
    int taken = recvmmsg(port->fd, messages, (unsigned)asked, MSG_DONTWAIT, NULL), error = errno, got = 0;
    for (int i = asked - 1; i >= (taken > 0 ? taken : 0); i--) give_place(engine, &places[i]);
    if (taken < 0) {
        if (error == EAGAIN)
            port->ready = false;
        else if (error == ECONNREFUSED || error == ECONNRESET) /* about something sent earlier; datagrams may follow */
            count_drop(engine, port, DROP_RECEIVE_ERROR);
        else if (error != EINTR)
            port_failed(engine, port, error);
        return 0;
    }
    for (int i = 0; i < taken; i++) {
        int32_t packet = accept_datagram(engine, port, &places[i], (int32_t)messages[i].msg_len,
                                         messages[i].msg_hdr.msg_flags & MSG_TRUNC);
        if (packet >= 0) packets[got++] = packet;
    }
    if (taken < asked) port->ready = false;
    dgram->expected = taken == dgram->expected ? taken * 2 : taken;
    if (dgram->expected > PORT_BURST) dgram->expected = PORT_BURST;
    if (dgram->expected < EXPECT_MIN) dgram->expected = EXPECT_MIN;
    return got;
}

/* ---- transmit ---- */

enum refusal { REFUSED_NOW, REFUSED_FRAME, REFUSED_FOR_GOOD };

/* What an errno of sendmmsg() is about. */
static enum refusal refusal_of(int error) {
    switch (error) {
    case EAGAIN:
        return REFUSED_NOW;
    case ECONNREFUSED: /* unix: the peer closed its socket; UDP: nobody listens */
    case ECONNRESET:
    case ENOENT:
    case ENOTCONN: /* and this from the second time on */
    case EDESTADDRREQ:
    case EPERM: /* it has connected itself, to another socket than ours */
    case EPIPE:
        return REFUSED_FOR_GOOD;
    default:
        return REFUSED_FRAME;
    }
}

static void end_sending(struct engine *engine, struct port *port, struct dgram *dgram) {
    dgram->peer_gone = true;
    peer_of(engine, port)->socket = 0;
    queue_free(&dgram->queue);
    port_failed(engine, port, ECONNREFUSED);
}

static void dgram_send(struct batch *batch) {
    struct engine *engine = batch->engine;
    struct port *port = batch->port;
    struct dgram *dgram = port->state;
    struct mmsghdr messages[BATCH_FRAMES];
    int sent = 0, packets = 0;
    int64_t bytes = 0;
    bool direct = dgram->queue.used == 0 && !dgram->peer_gone;
    for (int i = 0; direct && i < batch->frames; i++) {
        struct iovec *spans = &batch->spans[i * 2];
        /* a datagram says its length itself: the head goes without it, an untagged frame without a head */
        bool headless = spans[0].iov_len == LENGTH_BYTES;
        messages[i].msg_hdr = (struct msghdr){.msg_iov = spans + headless, .msg_iovlen = headless ? 1 : 2};
        if (!headless) spans[0] = (struct iovec){batch->heads[i] + LENGTH_BYTES, HEAD_BYTES - LENGTH_BYTES};
    }
    while (direct && sent < batch->frames) {
        unsigned left = (unsigned)(batch->frames - sent);
        int taken = sendmmsg(port->fd_out, messages + sent, left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken > 0) {
            for (int i = sent; i < sent + taken; i++) bytes += batch_frame_bytes(batch, i);
            packets += taken;
            sent += taken;
            continue;
        }
        enum refusal refusal = refusal_of(errno);
        if (errno == EINTR) continue;
        if (refusal == REFUSED_FRAME) {
            count_drop(engine, port, DROP_TRANSMIT_ERROR);
            sent++;
            continue;
        }
        if (refusal == REFUSED_FOR_GOOD) end_sending(engine, port, dgram);
        break;
    }
    count_transmitted(engine, port, packets, bytes);
    if (dgram->peer_gone) {
        batch_drop(batch, sent, DROP_NO_PEER);
        return;
    }
    for (int i = sent; direct && i < batch->frames; i++) /* the queue keeps the length */
        if (batch->spans[i * 2].iov_len > LENGTH_BYTES)
            batch->spans[i * 2] = (struct iovec){batch->heads[i], HEAD_BYTES};
    batch_queue(batch, sent);
    if (dgram->queue.used > 0) await(engine, port, dgram, true);
}

static void dgram_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count) {
    struct dgram *dgram = port->state;
    if (port->fd_out >= 0) {
        batch_transmit(engine, port, &dgram->queue, dgram_send, out, count);
        return;
    }
    for (int i = 0; i < count; i++) count_drop(engine, port, DROP_NO_PEER);
}

static void dgram_writable(struct engine *engine, struct port *port) {
    struct dgram *dgram = port->state;
    struct mmsghdr messages[PORT_BURST];
    struct iovec spans[PORT_BURST][2];
    if (port->failed) return;
    while (dgram->queue.used > 0) {
        int count = 0;
        for (size_t at = 0; count < PORT_BURST && at < dgram->queue.used; count++) {
            size_t length = queue_load32(&dgram->queue, at);
            int parts = queue_spans(&dgram->queue, at + LENGTH_BYTES, length, spans[count]);
            messages[count].msg_hdr = (struct msghdr){.msg_iov = spans[count], .msg_iovlen = (size_t)parts};
            at += LENGTH_BYTES + length;
        }
        int taken = sendmmsg(port->fd_out, messages, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken < 0) {
            if (errno == EINTR) continue;
            enum refusal refusal = refusal_of(errno);
            if (refusal == REFUSED_FOR_GOOD) end_sending(engine, port, dgram);
            if (refusal != REFUSED_FRAME) return;
            /* it was counted as transmitted when it was queued */
            count_transmitted(engine, port, -1, -(int64_t)queue_load32(&dgram->queue, 0));
            count_drop(engine, port, DROP_TRANSMIT_ERROR);
            taken = 1;
        }
        for (int i = 0; i < taken; i++)
            queue_consume(&dgram->queue, LENGTH_BYTES + (size_t)queue_load32(&dgram->queue, 0));
    }
    await(engine, port, dgram, false);
}

static void dgram_close(struct engine *engine, struct port *port) {
    struct dgram *dgram = port->state;
    (void)engine;
    if (dgram) queue_free(&dgram->queue);
    free(dgram);
    if (port->fd >= 0) close(port->fd);
    if (port->fd_out >= 0) close(port->fd_out);
    port->state = NULL;
    port->fd = port->fd_out = -1;
}

const struct port_kind_ops dgram_ops = {
    .attach = dgram_attach,
    .receive = dgram_receive,
    .transmit = dgram_transmit,
    .writable = dgram_writable,
    .close = dgram_close,
};
