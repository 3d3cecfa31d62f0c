/*
 * The memory of a stream port: all that must be known of the stream by the process that takes it over when this one is
 * killed.
 *
 *   one page: where things stand | receive buffer, BUFFER_BYTES | send queue, QUEUE_BYTES (queue.h)
 *
 * The control process makes it, all zero, when a peer connects, and hands it to every shard process that has the port.
 * All zero is a fresh stream. A shard process goes on where its predecessor stopped, to the byte, at whatever
 * instruction that was killed:
 *
 *   held     bytes received and not yet cut into frames, one word of start and end in the buffer. It follows once a
 *            receive call: frames that were cut but not handed on are cut again.
 *   queued   place of the queue, one word
 *   sending  a send past the queue is under way: journal.h says how far it came
 *
 * A system call moves bytes and the words follow later. So each call notes the word from before it, and the kernel
 * notes how many bytes it moved (see journal.h for why that is certain):
 *
 *   before = word;  recvmmsg() writes msg_len;  word = before moved by msg_len;  msg_len = 0
 *
 * Whoever finds a msg_len that is not 0 does the last two steps, again or for the first time, with the same result.
 *
 * Capacity: STREAM_BYTES a port, pages as they are used. A memory that makes no sense is refused: the port then ends as
 * if the peer had gone.
 */
#ifndef WEFT_STREAM_MEMORY_H
#define WEFT_STREAM_MEMORY_H

#include <sys/socket.h>

#include "batch.h"

#define QEMU_FRAME_MAX (65536 + 4096) /* net/socket.c and net/stream.c: NET_BUFSIZE */
#define BUFFER_BYTES (144 * 1024)
#define PAGE_BYTES 4096
/* what is held is moved to the front only where it does not overlap itself, and then the longest frame always fits */
_Static_assert(BUFFER_BYTES >= 2 * (LENGTH_BYTES + QEMU_FRAME_MAX), "room to move a frame aside");

/* A system call and the word that it is about, as it was before. */
struct transfer {
    uint64_t before;
    struct mmsghdr message; /* msg_len: bytes moved and not yet in the word */
};

struct stream_memory {
    _Atomic uint64_t held;   /* start in the low half, end in the high one */
    _Atomic uint64_t queued; /* struct queue's place */
    struct transfer receive, drain;
    uint32_t sending; /* 1: past the queue */
    _Alignas(PAGE_BYTES) uint8_t buffer[BUFFER_BYTES];
    uint8_t queue[QUEUE_BYTES];
};
_Static_assert(sizeof(struct stream_memory) == STREAM_BYTES, "STREAM_BYTES");

/*
 * Maps the memory of a descriptor, which stays the caller's; -1: memory that nobody else sees. *number: what the stream
 * is known by in the journal, 0 for -1. Returns NULL and sets errno if it cannot be had.
 */
struct stream_memory *stream_memory_map(int fd, uint64_t *number);
void stream_memory_unmap(struct stream_memory *memory);
/*
 * Finishes what a predecessor was about, and takes the queue into use. Returns false if the memory makes no sense.
 */
bool stream_memory_recover(struct stream_memory *memory, struct journal *journal, uint64_t number, struct queue *queue);

/* One system call that receives into the span, or sends from the queue. Returns bytes, 0: stream's end, or -errno. */
int64_t stream_memory_receive(struct stream_memory *memory, int fd, struct iovec *span);
int64_t stream_memory_drain(struct stream_memory *memory, int fd, struct queue *queue);

static inline uint64_t held_word(int32_t start, int32_t end) { return (uint64_t)(uint32_t)end << 32 | (uint32_t)start; }

#endif
