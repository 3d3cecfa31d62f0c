/* Calls JavaScript when a descriptor becomes readable, see watch.c. */
#ifndef WEFT_WATCH_H
#define WEFT_WATCH_H

#include <node_api.h>
#include <stdbool.h>

struct watcher;

struct watcher *watcher_create(napi_env env);
void watcher_destroy(struct watcher *watcher);
/* Calls back on readiness until removed. The descriptor stays the caller's. Returns the watch's number or -errno. */
int watcher_add(struct watcher *watcher, int fd, napi_value callback);
/* Before the descriptor is closed. */
void watcher_remove(struct watcher *watcher, int id);

#endif
