/*
 * What is being sent, for the process that comes after this one when this one is killed in the middle of it.
 *
 * A stream carries frames behind their lengths. If a socket took half a frame and the process died, its peer waits for
 * the other half, and everything that follows is taken for it. So the one send that may be under way lives in the
 * arena: the heads and spans of its frames (their bodies are in slots and in the scratch memory, also in the arena) and
 * the message that sendmmsg() is called with. The kernel writes there how much the socket took (`msg_len`) before it
 * returns to the program, and a process does not die in between (recvmmsg(2), sendmmsg(2); Linux net/socket.c): the
 * count is true at whatever moment the process is killed.
 *
 *   batch built -- journal_begin -- sendmmsg -- rest of a frame sent in part, to the port's queue -- journal_end
 *
 * The next process finds in journal_recover(), before it uses the pool, whether a send was under way, and copies the
 * rest of a frame that was sent in part to a place of its own, where it waits until its stream is attached again. A
 * frame that was not begun is lost. The spans hold addresses of the process that died; `arena` says where it had the
 * arena mapped.
 *
 * Order. What a process had stored when it was killed is a prefix of its program, since a processor completes
 * instructions in their order; it is only the compiler that must keep it. That is what in_order() is for.
 *
 * Capacity: one send, SALVAGE_PLACES rests, more than shard processes may die in a minute. The oldest gives way; its
 * stream then finds none and is closed. Nothing that is found here is believed without a check: a journal that makes no
 * sense leaves no rest.
 */
#ifndef WEFT_JOURNAL_H
#define WEFT_JOURNAL_H

#include <stdatomic.h>
#include <sys/socket.h>

#include "batch.h"

#define SALVAGE_PLACES 8
#define SALVAGE_BYTES (LENGTH_BYTES + TAG_BYTES + MAX_FRAME_BYTES)

/* The rest of a frame that was sent in part. */
struct salvage {
    uint64_t stream; /* as stream_memory.h numbers them; 0: no rest here */
    int32_t length;  /* bytes; 0: no frame was sent in part */
    uint8_t bytes[SALVAGE_BYTES];
};

struct journal {
    uint64_t stream; /* whose send is under way; 0: none is */
    uint64_t arena;  /* address of the arena where the spans were written */
    int32_t frames;
    uint32_t salvaged; /* rests so far: the next one goes to the place behind */
    struct mmsghdr message;
    struct iovec spans[BATCH_FRAMES * 2]; /* head and body by turns */
    uint8_t heads[BATCH_FRAMES][HEAD_BYTES];
    struct salvage salvages[SALVAGE_PLACES];
};
_Static_assert(sizeof(struct journal) <= JOURNAL_BYTES, "JOURNAL_BYTES");

/* Stores before it come before those behind it. */
static inline void in_order(void) { atomic_signal_fence(memory_order_seq_cst); }

/* Salvages what a dead process left, and begins anew. Before the pool is used. */
void journal_recover(struct engine *engine, size_t arena_bytes);
/* A stream (0: one that nobody takes over) begins to send the first `frames` frames of the batch. */
struct mmsghdr *journal_begin(struct journal *journal, uint64_t stream, int frames);
/* The rest of the last frame, if there is one, is in the queue. */
void journal_end(struct journal *journal);
/* What is left of the stream's last frame; NULL if nothing is known of it. */
const struct salvage *journal_find(const struct journal *journal, uint64_t stream);
void journal_forget(struct journal *journal, uint64_t stream);

#endif
