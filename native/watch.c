/*
 * Calls JavaScript when a descriptor becomes readable: for the control process, whose descriptors (listening sockets,
 * the shards' channels, wake-up counters) Node's own event loop does not take.
 *
 * One thread waits in epoll for all of them and hands each event to the event loop through a thread-safe function. A
 * descriptor is disarmed (EPOLLONESHOT) while its callback is due and armed again when the callback has returned, so a
 * callback that does not read everything is called again, and a flood of events cannot queue up.
 */
#include "watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WATCHES_MAX 4096

struct watch {
    struct watcher *watcher;
    int fd;
    int id;
    napi_ref callback;
};

struct watcher {
    napi_env env;
    napi_threadsafe_function notify;
    pthread_t thread;
    int epoll;
    int stop; /* eventfd: ends the thread */
    bool started;
    struct watch *watches[WATCHES_MAX];
};

static void *wait_for_events(void *pointer) {
    struct watcher *watcher = pointer;
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(watcher->epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == UINT64_MAX) return NULL;
            napi_call_threadsafe_function(watcher->notify, (void *)(uintptr_t)events[i].data.u64, napi_tsfn_blocking);
        }
        if (count < 0 && errno != EINTR) return NULL;
    }
}

/* Runs on the event loop. `data` is the watch's number: the watch itself may be gone by now. */
static void call_javascript(napi_env env, napi_value unused, void *context, void *data) {
    struct watcher *watcher = context;
    (void)unused;
    if (!env) return;
    struct watch *watch = watcher->watches[(uintptr_t)data % WATCHES_MAX];
    if (!watch || watch->id != (int)(uintptr_t)data) return;
    napi_handle_scope scope;
    napi_value callback, receiver;
    napi_open_handle_scope(env, &scope);
    napi_get_undefined(env, &receiver);
    if (napi_get_reference_value(env, watch->callback, &callback) == napi_ok)
        napi_call_function(env, receiver, callback, 0, NULL, NULL);
    napi_close_handle_scope(env, scope);
    watch = watcher->watches[(uintptr_t)data % WATCHES_MAX]; /* the callback may have ended it */
    if (!watch || watch->id != (int)(uintptr_t)data) return;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = (uint64_t)(uintptr_t)data};
    epoll_ctl(watcher->epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

static int start(struct watcher *watcher) {
    napi_value name;
    napi_create_string_utf8(watcher->env, "weft watch", NAPI_AUTO_LENGTH, &name);
    watcher->epoll = epoll_create1(EPOLL_CLOEXEC);
    watcher->stop = eventfd(0, EFD_CLOEXEC);
    if (watcher->epoll < 0 || watcher->stop < 0) return -errno;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    if (epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, watcher->stop, &event) < 0) return -errno;
    if (napi_create_threadsafe_function(watcher->env, NULL, NULL, name, 0, 1, NULL, NULL, watcher, call_javascript,
                                        &watcher->notify) != napi_ok)
        return -ENOMEM;
    napi_unref_threadsafe_function(watcher->env, watcher->notify); /* what is watched does not keep Node alive */
    int error = pthread_create(&watcher->thread, NULL, wait_for_events, watcher);
    if (error) return -error;
    watcher->started = true;
    return 0;
}

struct watcher *watcher_create(napi_env env) {
    struct watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher) return NULL;
    watcher->env = env;
    watcher->epoll = watcher->stop = -1;
    return watcher;
}

void watcher_destroy(struct watcher *watcher) {
    if (watcher->started) {
        uint64_t one = 1;
        if (write(watcher->stop, &one, sizeof one) == sizeof one) pthread_join(watcher->thread, NULL);
        napi_release_threadsafe_function(watcher->notify, napi_tsfn_abort);
    }
    if (watcher->epoll >= 0) close(watcher->epoll);
    if (watcher->stop >= 0) close(watcher->stop);
    for (int i = 0; i < WATCHES_MAX; i++) free(watcher->watches[i]);
    free(watcher);
}

int watcher_add(struct watcher *watcher, int fd, napi_value callback) {
    static int generation = 1; /* numbers are not used again soon: a late event cannot reach a new watch */
    if (!watcher->started) {
        int error = start(watcher);
        if (error) return error;
    }
    int place = 0;
    while (place < WATCHES_MAX && watcher->watches[place]) place++;
    if (place == WATCHES_MAX) return -ENOSPC;
    struct watch *watch = calloc(1, sizeof *watch);
    if (!watch) return -ENOMEM;
    *watch = (struct watch){.watcher = watcher, .fd = fd, .id = generation * WATCHES_MAX + place};
    generation = generation % 100000 + 1;
    if (napi_create_reference(watcher->env, callback, 1, &watch->callback) != napi_ok) {
        free(watch);
        return -ENOMEM;
    }
    watcher->watches[place] = watch;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = (uint64_t)watch->id};
    if (epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, fd, &event) == 0) return watch->id;
    int error = -errno;
    watcher_remove(watcher, watch->id);
    return error;
}

void watcher_remove(struct watcher *watcher, int id) {
    if (id < 0) return;
    struct watch *watch = watcher->watches[id % WATCHES_MAX];
    if (!watch || watch->id != id) return;
    epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
    napi_delete_reference(watcher->env, watch->callback);
    watcher->watches[id % WATCHES_MAX] = NULL;
    free(watch);
}
