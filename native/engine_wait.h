/*
 * Between engine.c and engine_wait.c: how the engine learns of news.
 */
#ifndef WEFT_ENGINE_WAIT_H
#define WEFT_ENGINE_WAIT_H

#include <time.h>

#include "engine.h"

/* What an event of the epoll set is about: a port's index, with KEY_OUT for its fd_out, or one of these. */
#define KEY_CONTROL PORTS_MAX
#define KEY_WAKE (PORTS_MAX + 1)
#define KEY_TICK (PORTS_MAX + 2)
#define KEY_OUT 0x10000

/* CLOCK_MONOTONIC. */
static inline int64_t engine_nanos(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Takes epoll's news, waiting for it at most so long; returns whether there was any. */
bool engine_poll(struct engine *engine, int wait_millis);
/* Looks at the polled ports, once a turn; returns whether one of them has something. */
bool engine_look(struct engine *engine);
/* Nothing is ready: spins for a while if that has paid lately, then sleeps until there is news, or for wait_millis. */
void engine_wait(struct engine *engine, int wait_millis);

#endif
