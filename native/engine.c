/*
 * The burst engine: readiness, the two calls a turn, the pool, the sorting of the egress list by port.
 *
 * Readiness. All descriptors stand in one epoll set, edge-triggered. An event puts the port on the ready list, and it
 * stays there until its device has no more: while frames come, a port is asked by reading it, not by epoll. Ports take
 * turns of at most PORT_BURST frames, in the order of the list; a port that has more goes to the end of it. While any
 * port is ready the set is looked at only in every POLL_EVERY-th receive call, and without waiting.
 *
 * How it waits, and how ports without a descriptor are looked at: engine_wait.c.
 *
 * Transmit. The egress list comes in the order of the frames; it is sorted by port (stable, so each port's order is
 * kept) in one pass of chains and one of copying, because most kinds send many frames in one system call.
 *
 * What it does not do: decide. It knows neither VLANs nor addresses.
 */
#include "engine.h"
#include "engine_wait.h"
#include "journal.h"
#include "uring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define POLL_EVERY 4 /* turns with ready ports between two looks at the set */

static void fill_free_stacks(struct engine *engine) {
    int32_t small = engine->header[HEADER_SMALL_SLOTS], large = engine->header[HEADER_LARGE_SLOTS];
    /* lowest on top: a lightly used pool stays within few pages */
    for (int32_t i = 0; i < small; i++) engine->free_small[i] = small - 1 - i;
    for (int32_t i = 0; i < large; i++) engine->free_large[i] = small + large - 1 - i;
    engine->header[HEADER_FREE_SMALL_COUNT] = small;
    engine->header[HEADER_FREE_LARGE_COUNT] = large;
}

/* Counts the packets that a predecessor had in work when it was killed. */
static void count_lost(struct engine *engine) {
    for (int32_t i = 0; i < engine->slots; i++) {
        struct record *record = record_of(engine, i);
        bool is_known = record->ingress >= 0 && record->ingress < engine->header[HEADER_PORTS];
        if (record->references > 0 && is_known) engine->drops[(record->ingress << DROP_SHIFT) + DROP_SHARD_ENDED] += 1;
        record->references = 0;
    }
}

/* A section's first byte, NULL if it does not lie whole in the arena. */
static void *section(struct engine *engine, size_t arena_bytes, enum header_word word, int64_t bytes) {
    int64_t offset = engine->header[word];
    if (offset < HEADER_SIZE || bytes < 0 || offset + bytes > (int64_t)arena_bytes) return NULL;
    return engine->base + offset;
}

static int watch(struct engine *engine, int fd, uint32_t events, uint32_t key) {
    struct epoll_event event = {.events = events, .data.u32 = key};
    return epoll_ctl(engine->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
}

/* A timer that ends the wait once a second. */
static int start_tick(struct engine *engine) {
    struct itimerspec second = {.it_interval = {.tv_sec = 1}, .it_value = {.tv_sec = 1}};
    engine->tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (engine->tick < 0 || timerfd_settime(engine->tick, 0, &second, NULL) < 0) return errno;
    return watch(engine, engine->tick, EPOLLIN, KEY_TICK);
}

int engine_open(struct engine *engine, uint8_t *arena, size_t bytes) {
    memset(engine, 0, sizeof *engine);
    engine->epoll = engine->wake = engine->control = engine->tick = -1;
    if (bytes < HEADER_SIZE) return EINVAL;
    engine->base = arena;
    int32_t *header = engine->header = (int32_t *)(void *)arena;
    if (header[HEADER_MAGIC] != ARENA_MAGIC || header[HEADER_VERSION] != ARENA_VERSION) return EINVAL;
    int32_t small = header[HEADER_SMALL_SLOTS], large = header[HEADER_LARGE_SLOTS], ports = header[HEADER_PORTS];
    if (small < 0 || large < 0 || ports < 0 || ports > PORTS_MAX) return EINVAL;
    engine->small_slots = small;
    engine->slots = small + large;
    engine->records = section(engine, bytes, HEADER_RECORDS, engine->slots * (int64_t)sizeof(struct record));
    engine->free_small = section(engine, bytes, HEADER_FREE_SMALL, small * 4LL);
    engine->free_large = section(engine, bytes, HEADER_FREE_LARGE, large * 4LL);
    engine->burst = section(engine, bytes, HEADER_BURST, BURST_CAPACITY * 4LL);
    engine->egress = section(engine, bytes, HEADER_EGRESS, EGRESS_CAPACITY * (int64_t)sizeof(struct outgoing));
    engine->events = section(engine, bytes, HEADER_EVENTS, EVENT_CAPACITY * (int64_t)sizeof(struct port_event));
    engine->counters = section(engine, bytes, HEADER_COUNTERS, ((int64_t)ports << COUNTER_SHIFT) * 8);
    engine->drops = section(engine, bytes, HEADER_DROPS, ((int64_t)ports << DROP_SHIFT) * 8);
    engine->scratch = section(engine, bytes, HEADER_SCRATCH, SCRATCH_BYTES);
    engine->journal = section(engine, bytes, HEADER_JOURNAL, JOURNAL_BYTES);
    engine->peers = section(engine, bytes, HEADER_PEERS, (int64_t)ports << PEER_SHIFT);
    if (!engine->records || !engine->free_small || !engine->free_large || !engine->burst || !engine->egress ||
        !engine->events || !engine->counters || !engine->drops || !engine->scratch || !engine->journal ||
        !engine->peers || !section(engine, bytes, HEADER_SMALL, (int64_t)small * SMALL_SLOT_BYTES) ||
        !section(engine, bytes, HEADER_LARGE, (int64_t)large * LARGE_SLOT_BYTES))
        return EINVAL;
    engine->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (engine->epoll < 0) return errno;
    int error = start_tick(engine);
    if (error) return error;
    for (int i = 0; i < PORTS_MAX; i++) engine->head[i] = -1;
    /* seconds go on where a predecessor on the same arena left them */
    engine->started = engine_nanos() - (int64_t)header[HEADER_NOW] * 1000000000;
    header[HEADER_EVENT_COUNT] = 0;
    header[HEADER_CONTROL] = 0;
    journal_recover(engine, bytes);
    count_lost(engine);
    fill_free_stacks(engine);
    return 0;
}

void engine_close(struct engine *engine) {
    for (int32_t i = 0; i < PORTS_MAX; i++)
        if (engine->ports[i].ops) engine_detach(engine, i);
    if (engine->uring) uring_close(engine->uring);
    if (engine->tick >= 0) close(engine->tick);
    if (engine->epoll >= 0) close(engine->epoll);
    engine->epoll = -1;
    engine->uring = NULL;
}

/* ---- ports ---- */

/* The control channel and the wake-up counter are looked after like ports, level-triggered. */
int engine_watch(struct engine *engine, int control, int wake) {
    int error = 0;
    engine->control = control;
    engine->wake = wake;
    if (control >= 0) error = watch(engine, control, EPOLLIN, KEY_CONTROL);
    if (!error && wake >= 0) error = watch(engine, wake, EPOLLIN, KEY_WAKE);
    return error;
}

void port_wake(struct engine *engine, struct port *port) {
    port->ready = true;
    if (port->listed || port->failed) return;
    port->listed = true;
    engine->ready[engine->ready_count++] = port->index;
}

int engine_attach(struct engine *engine, int32_t index, enum port_kind kind, int fd, int fd_out) {
    static const struct port_kind_ops *const kinds[] = {
        [KIND_TAP] = &tap_ops,     [KIND_PACKET] = &packet_ops, [KIND_STREAM] = &stream_ops,
        [KIND_DGRAM] = &dgram_ops, [KIND_RING] = NULL,          [KIND_VHOST_USER] = &vhost_user_ops};
    int error = 0;
    if (index < 0 || index >= engine->header[HEADER_PORTS] || kind < KIND_TAP || kind > KIND_VHOST_USER || !kinds[kind])
        error = EINVAL;
    if (!error && engine->ports[index].ops) error = EEXIST;
    if (!error) {
        struct port *port = &engine->ports[index];
        /* an earlier port's places on the lists may not have been cleared yet */
        bool listed = port->listed, polled = port->polled;
        *port = (struct port){
            .ops = kinds[kind], .index = index, .fd = fd, .fd_out = fd_out, .listed = listed, .polled = polled};
        if (port->ops->attach) error = port->ops->attach(engine, port);
        if (!error && kind != KIND_VHOST_USER)
            error = watch(engine, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, (uint32_t)index);
        if (!error && port->fd_out >= 0) error = watch(engine, port->fd_out, EPOLLET, (uint32_t)index | KEY_OUT);
        if (!error) {
            port_wake(engine, port);
            return 0;
        }
        port->ops->close(engine, port);
        port->ops = NULL;
        return error;
    }
    if (fd >= 0) close(fd);
    if (fd_out >= 0) close(fd_out);
    return error;
}

/* Removes the events from `from` to before `to`, of one port or (-1) of all; a transmit call may have raised others. */
static void forget_events(struct engine *engine, int from, int to, int32_t port) {
    int count = engine->header[HEADER_EVENT_COUNT], kept = from;
    for (int i = from; i < count; i++)
        if (i >= to || (port >= 0 && engine->events[i].port != port)) engine->events[kept++] = engine->events[i];
    engine->header[HEADER_EVENT_COUNT] = kept;
}

int engine_detach(struct engine *engine, int32_t index) {
    if (index < 0 || index >= PORTS_MAX || !engine->ports[index].ops) return ENOENT;
    struct port *port = &engine->ports[index];
    /* the control process keeps a copy of the descriptor, so closing ours does not take it out of the set */
    if (port->fd >= 0) epoll_ctl(engine->epoll, EPOLL_CTL_DEL, port->fd, NULL);
    if (port->fd_out >= 0) epoll_ctl(engine->epoll, EPOLL_CTL_DEL, port->fd_out, NULL);
    port->ops->close(engine, port);
    port->ops = NULL;
    port->ready = false;
    /* what was not told yet would be taken for news of the next port of this number */
    forget_events(engine, engine->reported, EVENT_CAPACITY, index);
    return 0;
}

void port_failed(struct engine *engine, struct port *port, int code) {
    port->ready = false;
    if (port->failed) return;
    int32_t used = engine->header[HEADER_EVENT_COUNT];
    if (used >= EVENT_CAPACITY) { /* no room to tell: ask again in a later call, it fails again */
        port_wake(engine, port);
        return;
    }
    port->failed = true;
    engine->events[used] = (struct port_event){.port = port->index, .code = code};
    engine->header[HEADER_EVENT_COUNT] = used + 1;
}

void port_poll(struct engine *engine, struct port *port) {
    port->idle = 0;
    if (port->polled) return;
    port->polled = true;
    engine->polled[engine->polled_count++] = port->index;
}

int port_watch(struct engine *engine, const struct port *port, int fd) {
    return watch(engine, fd, EPOLLIN | EPOLLET, (uint32_t)port->index);
}

void port_unwatch(struct engine *engine, int fd) { epoll_ctl(engine->epoll, EPOLL_CTL_DEL, fd, NULL); }

void port_set_out(struct engine *engine, struct port *port, int fd) {
    if (watch(engine, fd, EPOLLET, (uint32_t)port->index | KEY_OUT) == 0)
        port->fd_out = fd;
    else
        close(fd);
}

void port_await_writable(struct engine *engine, struct port *port, bool wanted) {
    int fd = port->fd_out >= 0 ? port->fd_out : port->fd;
    uint32_t key = (uint32_t)port->index | (port->fd_out >= 0 ? KEY_OUT : 0);
    uint32_t events = EPOLLET | (port->fd_out >= 0 ? 0 : EPOLLIN | EPOLLRDHUP) | (wanted ? EPOLLOUT : 0);
    struct epoll_event event = {.events = events, .data.u32 = key};
    epoll_ctl(engine->epoll, EPOLL_CTL_MOD, fd, &event);
}

/* ---- receive ---- */

int32_t pool_copy_in(struct engine *engine, const uint8_t *frame, int32_t length) {
    int32_t packet = length <= SMALL_FRAME_BYTES ? pool_take_small(engine) : pool_take_large(engine);
    if (packet < 0) return -1;
    struct record *record = pool_fill(engine, packet, length);
    memcpy(frame_of(engine, record), frame, (size_t)length);
    return packet;
}

/* Asks the ports on the ready list, in turns, until the burst is full. */
static int read_ready(struct engine *engine) {
    int count = 0, asked = engine->ready_count, kept = 0;
    int64_t bytes = 0;
    int i = 0;
    for (; i < asked && count < BURST_CAPACITY && bytes < BURST_BYTES; i++) {
        int32_t index = engine->ready[i];
        struct port *port = &engine->ports[index];
        if (port->ops && port->ready && !port->failed) {
            int room = BURST_CAPACITY - count < PORT_BURST ? BURST_CAPACITY - count : PORT_BURST;
            int got = port->ops->receive(engine, port, engine->burst + count, room);
            for (int k = count; k < count + got; k++) {
                struct record *record = record_of(engine, engine->burst[k]);
                record->ingress = index;
                bytes += port->ops->bytes_weigh > 1 ? record->length / port->ops->bytes_weigh : record->length;
            }
            count += got;
        }
        if (port->ops && port->ready && !port->failed)
            engine->next[kept++] = index;
        else
            port->listed = false;
    }
    /* those not asked come first next time, then those that have more */
    int left = engine->ready_count - i;
    memmove(engine->ready, engine->ready + i, (size_t)left * sizeof *engine->ready);
    memcpy(engine->ready + left, engine->next, (size_t)kept * sizeof *engine->ready);
    engine->ready_count = left + kept;
    return count;
}

static void write_time(struct engine *engine) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    engine->header[HEADER_TIME_SECONDS] = (int32_t)time.tv_sec;
    engine->header[HEADER_TIME_NANOS] = (int32_t)time.tv_nsec;
    engine->header[HEADER_NOW] = (int32_t)((engine_nanos() - engine->started) / 1000000000);
}

int engine_receive(struct engine *engine, int wait_millis) {
    forget_events(engine, 0, engine->reported, -1);
    engine->header[HEADER_CONTROL] = 0;
    engine->woken = false;
    bool news = engine_look(engine);
    if (engine->ready_count == 0 && !news) {
        engine_wait(engine, wait_millis);
    } else if (++engine->unpolled >= POLL_EVERY) {
        engine->unpolled = 0;
        engine_poll(engine, 0);
    }
    int count = read_ready(engine);
    bool is_called = engine->woken || engine->header[HEADER_CONTROL];
    if (count == 0 && engine->ready_count == 0 && wait_millis != 0 && !is_called) {
        /* what was thought ready had no more; who was called does not wait: the frames are in the inject ring */
        engine_wait(engine, wait_millis);
        count = read_ready(engine);
    }
    engine->reported = engine->header[HEADER_EVENT_COUNT];
    write_time(engine);
    return count;
}

/* ---- transmit ---- */

void engine_transmit(struct engine *engine, int pairs) {
    const struct outgoing *egress = engine->egress;
    int visited = 0;
    if (pairs > EGRESS_CAPACITY) pairs = EGRESS_CAPACITY;
    for (int i = 0; i < pairs; i++) {
        int32_t index = egress[i].port & EGRESS_PORT_MASK;
        if (index >= PORTS_MAX) continue;
        engine->next[i] = -1;
        if (engine->head[index] < 0) {
            engine->head[index] = i;
            engine->visited[visited++] = index;
        } else {
            engine->next[engine->tail[index]] = i;
        }
        engine->tail[index] = i;
    }
    for (int v = 0; v < visited; v++) {
        int32_t index = engine->visited[v];
        struct port *port = &engine->ports[index];
        int count = 0;
        for (int i = engine->head[index]; i >= 0; i = engine->next[i]) engine->sorted[count++] = egress[i];
        engine->head[index] = -1;
        if (port->ops && !port->failed) {
            port->ops->transmit(engine, port, engine->sorted, count);
        } else if (index < engine->header[HEADER_PORTS]) {
            engine->drops[(index << DROP_SHIFT) + DROP_NO_PEER] += count;
        }
    }
    for (int i = 0; i < pairs; i++) {
        struct record *record = record_of(engine, egress[i].packet);
        if (--record->references == 0) pool_give(engine, egress[i].packet);
    }
}
