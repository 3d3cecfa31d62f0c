/*
 * Batched reads and writes of a TAP through io_uring, see uring.c. Everything here may be unavailable: callers fall
 * back to one system call a frame.
 */
#ifndef WEFT_URING_H
#define WEFT_URING_H

#include "engine.h"

#define URING_BATCH 64

struct uring;

/* The engine's ring, opened at the first call; NULL where the kernel or a limit forbids it. */
struct uring *uring_of(struct engine *engine);
void uring_close(struct uring *uring);
/* It is of no use here: closes it, and uring_of() answers NULL from now on. */
void uring_give_up(struct engine *engine);

/* One read or write of `length` bytes at `bytes`, which lie in the pool's slots, on the port's descriptor. */
void uring_prepare(struct uring *uring, bool writes, const struct port *port, uint8_t *bytes, uint32_t length);
/* Before a port's descriptor is closed: the ring holds it too once it was used. */
void uring_forget(struct uring *uring, const struct port *port);
/*
 * Performs what was prepared, in order, without blocking; results[i] is what read(2) or write(2) would have returned,
 * or -errno. Returns false if the ring is of no use any more; then nothing of results is valid.
 */
bool uring_perform(struct uring *uring, int32_t *results);

#endif
