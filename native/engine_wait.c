/*
 * How the engine waits: the epoll set, polled ports, spinning, sleeping.
 *
 * After a turn with frames the next one is often microseconds away, and sleeping costs more than that (a wake-up of the
 * scheduler, 5 to 50 us). So the engine first asks again for a while, then blocks. What ends a long sleep is a timer of
 * one second that always runs, not a timeout: arming a timer for each sleep costs more than the rest of it on a virtual
 * machine.
 *
 * Ports with descriptors alone. The spin doubles (to SPIN_MAX) whenever it was rewarded and halves when it was not,
 * down to none: an idle switch sleeps.
 *
 * Polled ports. Frames in memory (vhost-user) need no system call to be seen. While they come the port is polled: a
 * look in each turn and while the engine spins, and the peer is told to be silent. Before the engine sleeps it arms all
 * of them: they ask to be told, look once more, and are polled no longer. One that is idle while others are busy is
 * armed after IDLE_TURNS. A spin then saves the peer its kick and both the wake-up, REWARD_NANOS in all, so it may be
 * longer. It is paid for from a balance:
 *
 *   a spin that finds something       balance + REWARD_NANOS - its time, BALANCE_MAX at most
 *   one that does not                 balance - its time; at 0 there is no more spinning
 *   a sleep that was short            after a number of them a new balance, for one trial
 *   a trial that fails                the number doubles, to TRIAL_SLEEPS_MAX; a full balance sets it back
 *
 * So spinning goes on only where it costs less than it saves, whatever the gap between the frames; where a guest needs
 * this very core to go on, it ends, and is tried ever more rarely.
 *
 * With a forced port the engine does not sleep. With a timed one, whose frames nothing tells of, it sleeps for a
 * millisecond at most.
 */
#include "engine_wait.h"

#include <sys/epoll.h>
#include <unistd.h>

#define SPIN_MAX 8 /* microseconds; longer gains little and takes the core from the guests */
#define SPIN_MIN 2
#define SPIN_POLLED_NANOS 24000
#define REWARD_NANOS 20000
#define BALANCE_MAX (4 * SPIN_POLLED_NANOS)
#define TRIAL_SLEEPS_MIN 4
#define TRIAL_SLEEPS_MAX 512
#define SPINS_PER_LOOK 32 /* looks at polled ports between two at the set */
#define IDLE_TURNS 256    /* turns in which a polled port has nothing, until it is armed */
#define TIMED_MILLIS 1
#define FORCED_NANOS 1000000000LL /* a forced port's spin without a limit */
#define EPOLL_BATCH 128

/* Leaves the core's resources to its other thread for a moment. */
static inline void pause_processor(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

bool engine_poll(struct engine *engine, int wait_millis) {
    struct epoll_event events[EPOLL_BATCH];
    int count = epoll_wait(engine->epoll, events, EPOLL_BATCH, wait_millis);
    for (int i = 0; i < count; i++) {
        uint32_t key = events[i].data.u32;
        if (key == KEY_CONTROL) {
            engine->header[HEADER_CONTROL] = 1;
        } else if (key == KEY_TICK || key == KEY_WAKE) {
            /* the timer goes on only when it has been read; a counter that others emptied gives EAGAIN */
            uint64_t value;
            engine->woken = true;
            if (read(key == KEY_TICK ? engine->tick : engine->wake, &value, sizeof value) < 0) continue;
        } else {
            struct port *port = &engine->ports[key & EGRESS_PORT_MASK];
            if (!port->ops) continue;
            if (events[i].events & EPOLLOUT && port->ops->writable) port->ops->writable(engine, port);
            if (events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP) && !(key & KEY_OUT)) port->ending = true;
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP) && !(key & KEY_OUT))
                port_wake(engine, port);
        }
    }
    return count > 0;
}

/* ---- polled ports ---- */

/* What is done with a polled port that has nothing. */
enum polling {
    POLLING_SPIN, /* nothing */
    POLLING_TURN, /* counts a turn */
    POLLING_END   /* arms it */
};

static bool look(struct engine *engine, enum polling polling) {
    bool news = false;
    for (int i = engine->polled_count - 1; i >= 0; i--) {
        struct port *port = &engine->ports[engine->polled[i]];
        bool lives = port->ops && port->ops->poll && !port->failed;
        if (lives && port->ready) continue;
        if (lives) {
            if (polling == POLLING_TURN) port->idle++;
            bool ends = !port->forced && (polling == POLLING_END || port->idle > IDLE_TURNS);
            if (ends ? port->ops->arm(engine, port) : port->ops->poll(engine, port)) {
                port->idle = 0;
                port_wake(engine, port);
                news = true;
                continue;
            }
            if (!ends || port->timed) continue;
        }
        port->polled = false;
        engine->polled[i] = engine->polled[--engine->polled_count];
    }
    return news;
}

bool engine_look(struct engine *engine) { return engine->polled_count > 0 && look(engine, POLLING_TURN); }

/* How long a sleep may be at most; 0: not at all. */
static int longest_sleep(const struct engine *engine, int wait_millis) {
    bool timed = false;
    for (int i = 0; i < engine->polled_count; i++) {
        const struct port *port = &engine->ports[engine->polled[i]];
        if (!port->ops || port->failed) continue;
        if (port->forced) return 0;
        timed |= port->timed;
    }
    return timed && (wait_millis < 0 || wait_millis > TIMED_MILLIS) ? TIMED_MILLIS : wait_millis;
}

/* ---- spinning ---- */

/* Asks again and again; returns whether that was rewarded. */
static bool spin(struct engine *engine, int64_t nanos) {
    int64_t until = engine_nanos() + nanos;
    do {
        for (int i = 0; i < SPINS_PER_LOOK && engine->polled_count > 0; i++) {
            if (look(engine, POLLING_SPIN)) return true;
            pause_processor();
        }
        if (engine_poll(engine, 0)) return true;
    } while (engine_nanos() < until);
    return false;
}

static bool spin_for_descriptors(struct engine *engine) {
    if (engine->spin_micros >= SPIN_MIN && spin(engine, engine->spin_micros * 1000LL)) {
        engine->spin_micros = engine->spin_micros * 2 < SPIN_MAX ? engine->spin_micros * 2 : SPIN_MAX;
        return true;
    }
    engine->spin_micros /= 2;
    return false;
}

static bool spin_for_polled(struct engine *engine) {
    if (engine->balance <= 0) return false;
    int64_t started = engine_nanos();
    bool found = spin(engine, SPIN_POLLED_NANOS);
    engine->balance += (found ? REWARD_NANOS : 0) - (engine_nanos() - started);
    if (engine->balance >= BALANCE_MAX) {
        engine->balance = BALANCE_MAX;
        engine->trial_sleeps = TRIAL_SLEEPS_MIN;
    } else if (engine->balance <= 0) {
        engine->trial_sleeps =
            engine->trial_sleeps * 2 < TRIAL_SLEEPS_MAX ? engine->trial_sleeps * 2 : TRIAL_SLEEPS_MAX;
        engine->short_sleeps = 0;
    }
    return found;
}

/* A short sleep would better have been a spin: that is tried again. */
static void judge_sleep(struct engine *engine, bool polled, int64_t nanos) {
    if (!polled) {
        if (nanos < SPIN_MAX * 1000LL && engine->spin_micros < SPIN_MIN) engine->spin_micros = SPIN_MIN;
    } else if (nanos < SPIN_POLLED_NANOS && engine->balance <= 0 && ++engine->short_sleeps >= engine->trial_sleeps) {
        engine->balance = SPIN_POLLED_NANOS;
    }
}

void engine_wait(struct engine *engine, int wait_millis) {
    if (wait_millis == 0 || engine->header[HEADER_CONTROL] || engine->header[HEADER_EVENT_COUNT]) {
        engine_poll(engine, 0);
        return;
    }
    bool polled = engine->polled_count > 0;
    if (polled ? spin_for_polled(engine) : spin_for_descriptors(engine)) return;
    int sleep = longest_sleep(engine, wait_millis);
    if (sleep == 0) {
        spin(engine, wait_millis < 0 ? FORCED_NANOS : wait_millis * 1000000LL);
        return;
    }
    if (look(engine, POLLING_END)) return;
    int64_t before = engine_nanos();
    engine_poll(engine, sleep);
    judge_sleep(engine, polled, engine_nanos() - before);
}
