/*
 * The memory of a stream port; stream_memory.h describes it.
 *
 * The streams of a shard are known by the inode numbers of their memories: no two memories that exist have the same.
 */
#include "stream_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "journal.h"

struct stream_memory *stream_memory_map(int fd, uint64_t *number) {
    struct stat status = {0};
    if (fd >= 0 && fstat(fd, &status) < 0) return NULL;
    if (fd >= 0 && status.st_size < STREAM_BYTES) {
        errno = EINVAL;
        return NULL;
    }
    *number = status.st_ino;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, STREAM_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void stream_memory_unmap(struct stream_memory *memory) { munmap(memory, STREAM_BYTES); }

/* ---- after a predecessor ---- */

static bool is_held(uint64_t word) {
    uint32_t start = (uint32_t)word, end = (uint32_t)(word >> 32);
    return start <= end && end <= BUFFER_BYTES;
}

static bool finish_receive(struct stream_memory *memory) {
    struct transfer *receive = &memory->receive;
    uint32_t length = receive->message.msg_len;
    uint64_t word = atomic_load(&memory->held);
    if (length > 0) {
        uint64_t after = receive->before + ((uint64_t)length << 32);
        if (!is_held(receive->before) || length > BUFFER_BYTES || (word != receive->before && word != after))
            return false;
        word = after;
    }
    if (!is_held(word)) return false;
    atomic_store(&memory->held, word);
    in_order();
    receive->message.msg_len = 0;
    return true;
}

static bool finish_drain(struct stream_memory *memory, struct queue *queue) {
    struct transfer *drain = &memory->drain;
    uint32_t length = drain->message.msg_len;
    uint64_t word = atomic_load(&memory->queued);
    if (length > 0) {
        _Atomic uint64_t place = drain->before;
        if (!queue_use(queue, memory->queue, &place) || length > queue->used) return false;
        queue_consume(queue, length);
        if (word != drain->before && word != atomic_load(&place)) return false;
        atomic_store(&memory->queued, atomic_load(&place));
    }
    in_order();
    drain->message.msg_len = 0;
    return queue_use(queue, memory->queue, &memory->queued);
}

/* The rest of a frame that was sent past the queue comes first in it. The queue was empty then. */
static bool finish_send(struct stream_memory *memory, struct journal *journal, uint64_t number, struct queue *queue) {
    if (memory->sending == 1) {
        const struct salvage *salvage = journal_find(journal, number);
        if (!salvage) return false;
        struct iovec rest = {.iov_base = (uint8_t *)salvage->bytes, .iov_len = (size_t)salvage->length};
        if (queue->used == 0 && rest.iov_len > 0) queue_append(queue, &rest, 1);
    }
    if (memory->sending > 1) return false;
    in_order();
    memory->sending = 0;
    in_order();
    journal_forget(journal, number);
    return true;
}

bool stream_memory_recover(struct stream_memory *memory, struct journal *journal, uint64_t number,
                           struct queue *queue) {
    return finish_receive(memory) && finish_drain(memory, queue) && finish_send(memory, journal, number, queue);
}

/* ---- system calls ---- */

static int64_t result_of(int taken, const struct transfer *transfer) {
    return taken < 0 ? -(int64_t)errno : (int64_t)transfer->message.msg_len;
}

static void begin(struct transfer *transfer, uint64_t word, struct iovec *spans, size_t count) {
    transfer->before = word;
    in_order();
    transfer->message = (struct mmsghdr){.msg_hdr = {.msg_iov = spans, .msg_iovlen = count}};
    in_order();
}

static void end(struct transfer *transfer) {
    in_order();
    transfer->message.msg_len = 0;
    in_order();
}

int64_t stream_memory_receive(struct stream_memory *memory, int fd, struct iovec *span) {
    struct transfer *receive = &memory->receive;
    begin(receive, atomic_load(&memory->held), span, 1);
    int64_t length = result_of(recvmmsg(fd, &receive->message, 1, MSG_DONTWAIT, NULL), receive);
    uint64_t after = receive->before + ((uint64_t)length << 32);
    if (length > 0) atomic_store_explicit(&memory->held, after, memory_order_release);
    end(receive);
    return length;
}

int64_t stream_memory_drain(struct stream_memory *memory, int fd, struct queue *queue) {
    struct transfer *drain = &memory->drain;
    struct iovec spans[2];
    begin(drain, atomic_load(&memory->queued), spans, (size_t)queue_spans(queue, 0, queue->used, spans));
    int64_t length = result_of(sendmmsg(fd, &drain->message, 1, MSG_NOSIGNAL | MSG_DONTWAIT), drain);
    if (length > 0) queue_consume(queue, (size_t)length);
    end(drain);
    return length;
}
