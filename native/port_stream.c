/*
 * Frames over a connected stream socket, as QEMU's `-netdev stream` (and `socket`), passt and socket_vmnet speak: each
 * frame behind its length, 32 bits in network order, no FCS, no virtio_net header.
 *
 *   receive    socket --recv--> buffer (BUFFER_BYTES) --cut, copied--> slots
 *   transmit   slots --one sendmsg a batch--> socket; what it does not take at once --> queue --writable--> socket
 *
 * Receive. One read takes as much as the buffer holds, and whole frames are cut from it until the burst has no room;
 * the rest stays, with the port ready. A read that came back short is followed by one more, because the readiness of
 * the descriptor is told only once and the end of the stream may stand behind the last bytes. The stream's end is told
 * when all frames before it have been taken.
 *
 * A length of 0 or above QEMU's own limit (65536 + 4096) means that the peer speaks something else or attacks: the
 * stream cannot be read on, so the port ends with EPROTO. A length that the limit allows but no slot holds (the last
 * 66 bytes below it) is skipped, counted as receive-error. Runts are handed on, for TypeScript to drop and count.
 *
 * Transmit. A frame of which the socket took a part must be completed, or the stream is lost: its rest goes to the
 * queue, and so does everything behind it until the queue is empty again. The queue always has room for that rest,
 * since frames are sent past an empty queue only. A frame in the queue counts as transmitted; if the peer goes, it is
 * lost as one in a socket's own buffer is. A stream that cannot be sent to is shut down, which ends the reading too.
 *
 * Capacity: the buffer, allocated at the first read; the queue (queue.h), allocated when a peer is slow for the first
 * time, tail drop counted as queue-full. A peer that stops reading costs these and nobody else's time or slots.
 *
 * What it does not do: connect, listen or come again (TypeScript does), offloads, other dialects (16-bit lengths).
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "batch.h"
#include "queue.h"

#define QEMU_FRAME_MAX (65536 + 4096) /* net/socket.c and net/stream.c: NET_BUFSIZE */
#define BUFFER_BYTES (128 * 1024)
#define READS_MAX 2 /* a receive call: a peer that sends byte by byte gets no more than its turn */
_Static_assert(BUFFER_BYTES >= LENGTH_BYTES + QEMU_FRAME_MAX, "the longest frame fits");

struct stream {
    uint8_t *buffer;    /* BUFFER_BYTES */
    int32_t start, end; /* of the bytes not yet cut */
    bool broken;        /* a length was read that cannot be one */
    int send_error;     /* errno after which nothing can be sent any more; 0: none */
    bool awaiting;      /* writable() is asked for */
    struct queue queue;
};

/* The port's state, made at its first use; NULL without memory. */
static struct stream *stream_of(struct port *port) {
    if (!port->state) {
        struct stream *stream = calloc(1, sizeof *stream);
        if (!stream) return NULL;
        stream->buffer = malloc(BUFFER_BYTES);
        if (!stream->buffer) {
            free(stream);
            return NULL;
        }
        port->state = stream;
    }
    return port->state;
}

static void await(struct engine *engine, struct port *port, struct stream *stream, bool wanted) {
    if (stream->awaiting == wanted) return;
    stream->awaiting = wanted;
    port_await_writable(engine, port, wanted);
}

/*
 * Writes down how much of the stream only this process has: a shard that takes over from a dead one cannot go on in the
 * middle of a frame.
 */
static void note_held(struct engine *engine, const struct port *port, const struct stream *stream) {
    engine->counters[(port->index << COUNTER_SHIFT) + HELD_BYTES] =
        (double)(stream->end - stream->start) + (double)stream->queue.used;
}

/* ---- receive ---- */

/* Cuts up to `room` frames from the buffer; returns how many. A broken stream fails the port. */
static int cut(struct engine *engine, struct port *port, struct stream *stream, int32_t *packets, int room) {
    int got = 0;
    while (got < room && stream->end - stream->start >= LENGTH_BYTES) {
        const uint8_t *head = stream->buffer + stream->start;
        uint32_t length = load32(head);
        if (length == 0 || length > QEMU_FRAME_MAX) {
            /* the length stays in the buffer, so that asking again finds it again */
            port_failed(engine, port, EPROTO);
            stream->broken = true;
            break;
        }
        if (length > (uint32_t)(stream->end - stream->start - LENGTH_BYTES)) break;
        stream->start += LENGTH_BYTES + (int32_t)length;
        if (length > MAX_FRAME_BYTES) {
            count_drop(engine, port, DROP_RECEIVE_ERROR);
            continue;
        }
        int32_t packet = pool_copy_in(engine, head + LENGTH_BYTES, (int32_t)length);
        if (packet < 0)
            count_drop(engine, port, DROP_NO_SLOT);
        else
            packets[got++] = packet;
    }
    return got;
}

/* Makes room for the rest of any frame: at least half of the buffer behind `end`, or all that is not held. */
static void compact(struct stream *stream) {
    if (stream->start < stream->end && BUFFER_BYTES - stream->end >= BUFFER_BYTES / 2) return;
    memmove(stream->buffer, stream->buffer + stream->start, (size_t)(stream->end - stream->start));
    stream->end -= stream->start;
    stream->start = 0;
}

static int stream_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    struct stream *stream = stream_of(port);
    if (!stream) {
        port_failed(engine, port, ENOMEM);
        return 0;
    }
    int got = cut(engine, port, stream, packets, room);
    for (int reads = 0; !stream->broken && got < room && reads < READS_MAX; reads++) {
        compact(stream);
        size_t space = (size_t)(BUFFER_BYTES - stream->end);
        ssize_t taken = recv(port->fd, stream->buffer + stream->end, space, MSG_DONTWAIT);
        if (taken < 0 && errno == EINTR) continue;
        if (taken < 0 && errno == EAGAIN) {
            port->ready = false;
            break;
        }
        if (taken <= 0) {
            port_failed(engine, port, taken < 0 ? errno : stream->send_error == EPIPE ? 0 : stream->send_error);
            break;
        }
        stream->end += (int32_t)taken;
        got += cut(engine, port, stream, packets + got, room - got);
        if ((size_t)taken == space) break;
    }
    note_held(engine, port, stream);
    return got;
}

/* ---- transmit ---- */

/* Takes n sent bytes off the spans from *frame on; returns whether the frame that is now first was sent in part. */
static bool advance(struct batch *batch, int *frame, size_t sent) {
    int packets = 0;
    int64_t bytes = 0;
    bool partly = false;
    while (sent > 0) {
        struct iovec *spans = &batch->spans[*frame * 2];
        if (sent >= spans[0].iov_len + spans[1].iov_len) {
            sent -= spans[0].iov_len + spans[1].iov_len;
            packets++;
            bytes += batch_frame_bytes(batch, *frame);
            ++*frame;
            continue;
        }
        for (int i = 0; i < 2; i++) {
            size_t part = sent < spans[i].iov_len ? sent : spans[i].iov_len;
            spans[i].iov_base = (uint8_t *)spans[i].iov_base + part;
            spans[i].iov_len -= part;
            sent -= part;
        }
        partly = true;
    }
    count_transmitted(batch->engine, batch->port, packets, bytes);
    return partly;
}

/*
 * The socket refused for good. Only sending stops now: what the peer sent before it went is still read, and the
 * shutdown puts an end behind it, at which the port fails.
 */
static void end_sending(struct engine *engine, struct port *port, struct stream *stream, int error) {
    stream->send_error = error;
    queue_free(&stream->queue);
    await(engine, port, stream, false);
    shutdown(port->fd, SHUT_RDWR);
}

static void stream_send(struct batch *batch) {
    struct engine *engine = batch->engine;
    struct port *port = batch->port;
    struct stream *stream = port->state;
    int frame = 0;
    bool partly = false;
    while (!stream->send_error && stream->queue.used == 0 && frame < batch->frames) {
        size_t count = (size_t)(batch->frames - frame) * 2;
        struct msghdr message = {.msg_iov = &batch->spans[frame * 2], .msg_iovlen = count};
        ssize_t sent = sendmsg(port->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            partly = advance(batch, &frame, (size_t)sent);
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR) {
            end_sending(engine, port, stream, errno);
        }
    }
    if (partly && !stream->send_error) {
        /* counted and kept whatever happens to the others */
        int32_t bytes = batch_frame_bytes(batch, frame);
        if (queue_append(&stream->queue, &batch->spans[frame * 2], 2)) {
            count_transmitted(engine, port, 1, bytes);
            frame++;
        } else {
            end_sending(engine, port, stream, ENOMEM);
        }
    }
    if (stream->send_error) {
        batch_drop(batch, frame, DROP_NO_PEER);
        return;
    }
    batch_queue(batch, frame);
    if (stream->queue.used > 0) await(engine, port, stream, true);
}

static void stream_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count) {
    struct stream *stream = stream_of(port);
    if (stream) {
        batch_transmit(engine, port, &stream->queue, stream_send, out, count);
        note_held(engine, port, stream);
        return;
    }
    for (int i = 0; i < count; i++) count_drop(engine, port, DROP_NO_PEER);
    port_failed(engine, port, ENOMEM);
}

static void stream_writable(struct engine *engine, struct port *port) {
    struct stream *stream = port->state;
    if (!stream || port->failed) return;
    while (stream->queue.used > 0) {
        struct iovec spans[2];
        int count = queue_spans(&stream->queue, 0, stream->queue.used, spans);
        struct msghdr message = {.msg_iov = spans, .msg_iovlen = (size_t)count};
        ssize_t sent = sendmsg(port->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            queue_consume(&stream->queue, (size_t)sent);
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR) {
            end_sending(engine, port, stream, errno);
        }
    }
    if (stream->queue.used == 0) await(engine, port, stream, false);
    note_held(engine, port, stream);
}

static void stream_close(struct engine *engine, struct port *port) {
    struct stream *stream = port->state;
    (void)engine;
    if (stream) {
        queue_free(&stream->queue);
        free(stream->buffer);
        free(stream);
    }
    if (port->fd >= 0) close(port->fd);
    if (port->fd_out >= 0) close(port->fd_out);
    port->state = NULL;
    port->fd = port->fd_out = -1;
}

const struct port_kind_ops stream_ops = {
    .receive = stream_receive,
    .transmit = stream_transmit,
    .writable = stream_writable,
    .close = stream_close,
};
