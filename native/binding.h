/*
 * What the files of the binding share: a call's arguments, its results, the state of a Node environment.
 */
#ifndef WEFT_BINDING_H
#define WEFT_BINDING_H

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "watch.h"

#define ARGUMENTS_MAX 8
#define TEXT_MAX 256

struct instance {
    struct engine *engine; /* NULL until attachArena */
    napi_ref arena;        /* keeps the arena's memory while the engine uses it */
    struct watcher *watcher;
};

/* ---- arguments and results ---- */

struct call {
    napi_env env;
    struct instance *instance;
    napi_value arguments[ARGUMENTS_MAX];
    size_t count;
};

static inline struct call begin(napi_env env, napi_callback_info info) {
    struct call call = {.env = env, .count = ARGUMENTS_MAX};
    napi_get_cb_info(env, info, &call.count, call.arguments, NULL, NULL);
    napi_get_instance_data(env, (void **)&call.instance);
    return call;
}

static inline int64_t integer(const struct call *call, size_t index) {
    int64_t value = 0;
    if (index < call->count) napi_get_value_int64(call->env, call->arguments[index], &value);
    return value;
}

static inline int small_integer(const struct call *call, size_t index) { return (int)integer(call, index); }

static inline bool boolean(const struct call *call, size_t index) {
    bool value = false;
    if (index < call->count) napi_get_value_bool(call->env, call->arguments[index], &value);
    return value;
}

/* Copies a string; of one that does not fit what fits, which is longer than anything it is used for accepts. */
static inline const char *text(const struct call *call, size_t index, char out[TEXT_MAX]) {
    size_t length = 0;
    out[0] = 0;
    if (index < call->count) napi_get_value_string_utf8(call->env, call->arguments[index], out, TEXT_MAX, &length);
    return out;
}

static inline napi_value number(napi_env env, int64_t value) {
    napi_value result;
    napi_create_int64(env, value, &result);
    return result;
}

static inline void set(napi_env env, napi_value object, const char *name, int64_t value) {
    napi_set_named_property(env, object, name, number(env, value));
}

#define FUNCTION(name) static napi_value name(napi_env env, napi_callback_info info)

/* A function of the addon and its name in JavaScript. A table of them ends with a NULL name. */
struct function {
    const char *name;
    napi_callback call;
};
extern const struct function device_functions[];     /* binding_device.c */
extern const struct function vhost_user_functions[]; /* binding_vhost_user.c */

#endif
