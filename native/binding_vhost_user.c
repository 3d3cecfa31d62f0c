/*
 * The binding's functions for what a vhost-user guest shares; vhost_user.c does the work, src/ports/native.ts describes
 * them. Whatever is wrong with the arguments, the descriptors are taken over, or closed.
 */
#include <errno.h>
#include <unistd.h>

#include "binding.h"
#include "vhost_user.h"

#define GIVEN_MAX 64 /* descriptors that are closed if they are too many */

/* The words of a BigUint64Array, NULL if the argument is none or not `wanted` long (-1: any length). */
static const uint64_t *words(const struct call *call, size_t index, int64_t wanted, size_t *length) {
    napi_typedarray_type type;
    void *data = NULL;
    if (index >= call->count ||
        napi_get_typedarray_info(call->env, call->arguments[index], &type, length, &data, NULL, NULL) != napi_ok)
        return NULL;
    if (type != napi_biguint64_array || (wanted >= 0 && *length != (size_t)wanted)) return NULL;
    static const uint64_t none;
    return data ? data : &none; /* an empty array has no place */
}

/* Reads an array of descriptors; returns how many there are. */
static int descriptors(const struct call *call, size_t index, int fds[GIVEN_MAX]) {
    uint32_t count = 0;
    if (index < call->count) napi_get_array_length(call->env, call->arguments[index], &count);
    if (count > GIVEN_MAX) count = GIVEN_MAX;
    for (uint32_t i = 0; i < count; i++) {
        napi_value element;
        fds[i] = -1;
        if (napi_get_element(call->env, call->arguments[index], i, &element) == napi_ok)
            napi_get_value_int32(call->env, element, &fds[i]);
    }
    return (int)count;
}

static void close_if(int fd) {
    if (fd >= 0) close(fd);
}

FUNCTION(set_guest_memory) {
    struct call call = begin(env, info);
    struct guest_range ranges[REGIONS_MAX];
    int fds[GIVEN_MAX], count = descriptors(&call, 2, fds);
    size_t length = 0;
    const uint64_t *given = words(&call, 1, (int64_t)count * 4, &length);
    if (!call.instance->engine || !given || count > REGIONS_MAX) {
        for (int i = 0; i < count; i++) close_if(fds[i]);
        return number(env, -EINVAL);
    }
    for (int i = 0; i < count; i++)
        ranges[i] = (struct guest_range){given[i * 4], given[i * 4 + 1], given[i * 4 + 2], given[i * 4 + 3]};
    return number(env, vhost_user_set_memory(call.instance->engine, small_integer(&call, 0), ranges, fds, count));
}

FUNCTION(set_ring) {
    struct call call = begin(env, info);
    size_t length = 0;
    const uint64_t *given = words(&call, 2, 5, &length);
    struct ring_request request = {
        .size = integer(&call, 3),
        .position = integer(&call, 4),
        .flags = small_integer(&call, 5),
        .kick = small_integer(&call, 6),
        .call = small_integer(&call, 7),
    };
    if (!call.instance->engine || !given || call.count < 8) {
        if (call.count > 6) close_if(request.kick);
        if (call.count > 7) close_if(request.call);
        return number(env, -EINVAL);
    }
    request.features = given[0];
    request.places = (struct vring_places){given[1], given[2], given[3], given[4]};
    return number(
        env, vhost_user_set_ring(call.instance->engine, small_integer(&call, 0), small_integer(&call, 1), &request));
}

FUNCTION(stop_ring) {
    struct call call = begin(env, info);
    if (!call.instance->engine) return number(env, -EINVAL);
    return number(env, vhost_user_stop_ring(call.instance->engine, small_integer(&call, 0), small_integer(&call, 1)));
}

FUNCTION(set_dirty_log) {
    struct call call = begin(env, info);
    size_t length = 0;
    const uint64_t *given = words(&call, 2, 2, &length);
    int fd = call.count > 1 ? small_integer(&call, 1) : -1;
    if (!call.instance->engine || !given) {
        close_if(fd);
        return number(env, -EINVAL);
    }
    return number(env, vhost_user_set_log(call.instance->engine, small_integer(&call, 0), fd, given[0], given[1]));
}

const struct function vhost_user_functions[] = {
    {"setGuestMemory", set_guest_memory}, {"setRing", set_ring}, {"stopRing", stop_ring},
    {"setDirtyLog", set_dirty_log},       {NULL, NULL},
};
