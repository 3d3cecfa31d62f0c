/*
 * Frames over a connected stream socket, as QEMU's `-netdev stream` (and `socket`), passt and socket_vmnet speak: each
 * frame behind its length, 32 bits in network order, no FCS, no virtio_net header.
 *
 *   receive    socket --recvmmsg--> buffer (BUFFER_BYTES) --cut, copied--> slots
 *   transmit   slots --one sendmmsg a batch--> socket; what it does not take at once --> queue --writable--> socket
 *
 * Buffer and queue are in memory that outlives the process (stream_memory.h), and so is what is being sent (journal.h):
 * a process that takes the stream over from a killed one goes on in the middle of a frame, either way. Where it cannot,
 * the port ends with ECONNRESET, and the peer connects anew.
 *
 * Receive. One read takes as much as the buffer holds, and whole frames are cut from it until the burst has no room;
 * the rest stays, with the port ready. A read that came back short has emptied the socket (epoll(7)), and of the next
 * bytes we are told; it is followed by one more only if an end or an error stands behind the last bytes. The end is
 * told when all frames before it have been taken; an error of the socket too, though recvmmsg() tells that first.
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
 * Capacity: buffer and queue, tail drop counted as queue-full. A peer that stops reading costs these and nobody else's
 * time or slots.
 *
 * What it does not do: connect, listen or come again (TypeScript does), offloads, other dialects (16-bit lengths).
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "batch.h"
#include "journal.h"
#include "stream_memory.h"

#define READS_MAX 2 /* a receive call: a peer that sends byte by byte gets no more than its turn */

struct stream {
    struct stream_memory *memory;
    uint64_t number;    /* in the journal */
    int32_t start, end; /* of the bytes in memory->buffer that are not yet cut; memory->held follows */
    int defect;         /* errno for which the port ends: a length that cannot be one, a memory that makes no sense */
    int receive_error;  /* errno that the socket gave; what came before it is still read */
    int send_error;     /* errno after which nothing can be sent any more; 0: none */
    bool awaiting;      /* writable() is asked for */
    struct queue queue;
};

/* `fd_out` is the memory, needed no longer when it is mapped. */
static int stream_attach(struct engine *engine, struct port *port) {
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) return ENOMEM;
    port->state = stream;
    stream->memory = stream_memory_map(port->fd_out, &stream->number);
    if (!stream->memory) return errno;
    if (port->fd_out >= 0) close(port->fd_out);
    port->fd_out = -1;
    if (stream_memory_recover(stream->memory, engine->journal, stream->number, &stream->queue)) {
        uint64_t held = atomic_load(&stream->memory->held);
        stream->start = (int32_t)(uint32_t)held;
        stream->end = (int32_t)(held >> 32);
    } else {
        stream->defect = stream->send_error = ECONNRESET;
    }
    return 0;
}

static void await(struct engine *engine, struct port *port, struct stream *stream, bool wanted) {
    if (stream->awaiting == wanted) return;
    stream->awaiting = wanted;
    port_await_writable(engine, port, wanted);
}

/* ---- receive ---- */

/* Cuts up to `room` frames from the buffer; returns how many. */
static int cut(struct engine *engine, struct port *port, struct stream *stream, int32_t *packets, int room) {
    int got = 0;
    while (got < room && stream->end - stream->start >= LENGTH_BYTES) {
        const uint8_t *head = stream->memory->buffer + stream->start;
        uint32_t length = load32(head);
        if (length == 0 || length > QEMU_FRAME_MAX) {
            stream->defect = EPROTO; /* a successor finds the length again: it stays in the buffer */
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

static void settle(struct stream *stream) {
    atomic_store_explicit(&stream->memory->held, held_word(stream->start, stream->end), memory_order_release);
}

/*
 * Makes room behind `end`: half of the buffer, or for the rest of the frame that begins at `start`. What is moved is
 * never moved over itself, so a successor finds it whole, at the one place or the other.
 */
static void compact(struct stream *stream) {
    uint8_t *buffer = stream->memory->buffer;
    int32_t held = stream->end - stream->start;
    settle(stream);
    if (held > 0 && (BUFFER_BYTES - stream->end >= BUFFER_BYTES / 2 || held > stream->start)) return;
    in_order();
    memcpy(buffer, buffer + stream->start, (size_t)held);
    stream->start = 0;
    stream->end = held;
    settle(stream);
}

/* The stream has come to its end, or the socket has given an error. Returns whether there may be more. */
static bool receive_failed(struct engine *engine, struct port *port, struct stream *stream, int error) {
    if (error == EINTR) return true;
    if (error == EAGAIN && !stream->receive_error) {
        port->ready = false;
        return false;
    }
    if (error && !stream->receive_error) {
        stream->receive_error = error;
        return true;
    }
    int sending = stream->send_error == EPIPE ? 0 : stream->send_error;
    port_failed(engine, port, stream->receive_error ? stream->receive_error : sending);
    return false;
}

static int stream_receive(struct engine *engine, struct port *port, int32_t *packets, int room) {
    struct stream *stream = port->state;
    int got = cut(engine, port, stream, packets, room);
    if (stream->queue.used > 0) await(engine, port, stream, true); /* from a predecessor */
    for (int reads = 0; !stream->defect && got < room && reads < READS_MAX; reads++) {
        compact(stream);
        size_t space = (size_t)(BUFFER_BYTES - stream->end);
        struct iovec span = {.iov_base = stream->memory->buffer + stream->end, .iov_len = space};
        int64_t taken = stream_memory_receive(stream->memory, port->fd, &span);
        if (taken <= 0) {
            if (receive_failed(engine, port, stream, (int)-taken)) continue;
            break;
        }
        stream->end += (int32_t)taken;
        got += cut(engine, port, stream, packets + got, room - got);
        if ((size_t)taken == space || got == room) break;
        if (!port->ending) {
            port->ready = false;
            break;
        }
    }
    if (stream->defect) port_failed(engine, port, stream->defect);
    settle(stream);
    return got;
}

/* ---- transmit ---- */

/*
 * The socket refused for good. Only sending stops now: what the peer sent before it went is still read, and the
 * shutdown puts an end behind it, at which the port fails. It comes first: nobody may send behind a frame that is
 * thrown away.
 */
static void end_sending(struct engine *engine, struct port *port, struct stream *stream, int error) {
    stream->send_error = error;
    shutdown(port->fd, SHUT_RDWR);
    queue_free(&stream->queue);
    await(engine, port, stream, false);
}

/* Sends the batch by one call, past the empty queue. Returns the first frame that is neither sent nor begun. */
static int send_past_queue(struct batch *batch, struct stream *stream) {
    struct journal *journal = batch->engine->journal;
    struct iovec rest[2];
    struct mmsghdr *message = journal_begin(journal, stream->number, batch->frames);
    stream->memory->sending = 1;
    in_order();
    int error = sendmmsg(batch->port->fd, message, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
    int frame = batch_sent(batch->spans, batch->frames, message->msg_len, rest);
    if (rest[0].iov_len + rest[1].iov_len > 0) {
        queue_append(&stream->queue, rest, 2);
        frame++;
    }
    in_order();
    stream->memory->sending = 0;
    journal_end(journal);
    int64_t bytes = 0;
    for (int i = 0; i < frame; i++) bytes += batch_frame_bytes(batch, i);
    count_transmitted(batch->engine, batch->port, frame, bytes);
    if (error && error != EAGAIN && error != EINTR) end_sending(batch->engine, batch->port, stream, error);
    return frame;
}

static void stream_send(struct batch *batch) {
    struct stream *stream = batch->port->state;
    int frame = 0;
    if (!stream->send_error && stream->queue.used == 0) frame = send_past_queue(batch, stream);
    if (stream->send_error) {
        batch_drop(batch, frame, DROP_NO_PEER);
        return;
    }
    batch_queue(batch, frame);
    if (stream->queue.used > 0) await(batch->engine, batch->port, stream, true);
}

static void stream_transmit(struct engine *engine, struct port *port, const struct outgoing *out, int count) {
    struct stream *stream = port->state;
    batch_transmit(engine, port, &stream->queue, stream_send, out, count);
}

static void stream_writable(struct engine *engine, struct port *port) {
    struct stream *stream = port->state;
    if (port->failed) return;
    while (stream->queue.used > 0) {
        int64_t sent = stream_memory_drain(stream->memory, port->fd, &stream->queue);
        if (sent == -EAGAIN) return;
        if (sent < 0 && sent != -EINTR) end_sending(engine, port, stream, (int)-sent);
    }
    await(engine, port, stream, false);
}

/* The memory is left as it is: the port may be moved, and go on elsewhere. */
static void stream_close(struct engine *engine, struct port *port) {
    struct stream *stream = port->state;
    (void)engine;
    if (stream && stream->memory) stream_memory_unmap(stream->memory);
    free(stream);
    if (port->fd >= 0) close(port->fd);
    if (port->fd_out >= 0) close(port->fd_out);
    port->state = NULL;
    port->fd = port->fd_out = -1;
}

const struct port_kind_ops stream_ops = {
    .attach = stream_attach,
    .receive = stream_receive,
    .transmit = stream_transmit,
    .writable = stream_writable,
    .close = stream_close,
};
