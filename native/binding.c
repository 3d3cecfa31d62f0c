/*
 * The Node-API binding: thin, integers and one arena. src/ports/native.ts declares and describes every function.
 *
 * Functions that act return 0, a descriptor or a count, and -errno where they fail; TypeScript makes the error's
 * sentence. Arguments are checked for their type only: the caller is Weft itself, never a guest. What guests give is
 * checked where it is read, in the port kinds.
 *
 * State is per Node environment (one engine each), so that the addon also loads into several environments of one
 * process.
 */
#include "binding.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

/* ---- the engine ---- */

static void release_engine(struct instance *instance, napi_env env) {
    if (!instance->engine) return;
    engine_close(instance->engine);
    free(instance->engine);
    instance->engine = NULL;
    napi_delete_reference(env, instance->arena);
}

FUNCTION(attach_arena) {
    struct call call = begin(env, info);
    size_t bytes = 0;
    void *data = NULL;
    napi_typedarray_type type;
    if (call.count < 1 || napi_get_typedarray_info(env, call.arguments[0], &type, &bytes, &data, NULL, NULL) != napi_ok)
        return number(env, -EINVAL);
    release_engine(call.instance, env);
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return number(env, -ENOMEM);
    int error = engine_open(engine, data, bytes);
    if (error) {
        engine_close(engine);
        free(engine);
        return number(env, -error);
    }
    call.instance->engine = engine;
    napi_create_reference(env, call.arguments[0], 1, &call.instance->arena);
    return number(env, 0);
}

FUNCTION(detach_arena) {
    struct call call = begin(env, info);
    release_engine(call.instance, env);
    return number(env, 0);
}

FUNCTION(watch_channel) {
    struct call call = begin(env, info);
    if (!call.instance->engine) return number(env, -EINVAL);
    return number(env, -engine_watch(call.instance->engine, small_integer(&call, 0), small_integer(&call, 1)));
}

FUNCTION(attach_port) {
    struct call call = begin(env, info);
    if (!call.instance->engine) return number(env, -EINVAL);
    return number(env, -engine_attach(call.instance->engine, small_integer(&call, 0),
                                      (enum port_kind)small_integer(&call, 1), small_integer(&call, 2),
                                      small_integer(&call, 3)));
}

FUNCTION(detach_port) {
    struct call call = begin(env, info);
    if (!call.instance->engine) return number(env, -EINVAL);
    return number(env, -engine_detach(call.instance->engine, small_integer(&call, 0)));
}

FUNCTION(receive) {
    struct call call = begin(env, info);
    napi_value result;
    if (!call.instance->engine) return number(env, -EINVAL);
    napi_create_int32(env, engine_receive(call.instance->engine, small_integer(&call, 0)), &result);
    return result;
}

FUNCTION(transmit) {
    struct call call = begin(env, info);
    if (call.instance->engine) engine_transmit(call.instance->engine, small_integer(&call, 0));
    return NULL;
}

/* ---- memory, wake-up, channel ---- */

FUNCTION(create_memory) {
    struct call call = begin(env, info);
    return number(env, memory_create("weft", integer(&call, 0)));
}

static void unmap(napi_env env, void *data, void *hint) {
    (void)env;
    munmap(data, (size_t)(uintptr_t)hint);
}

FUNCTION(map_memory) {
    struct call call = begin(env, info);
    size_t bytes = (size_t)integer(&call, 1);
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, small_integer(&call, 0), 0);
    if (data == MAP_FAILED) return number(env, -errno);
    napi_value buffer;
    if (napi_create_external_arraybuffer(env, data, bytes, unmap, (void *)(uintptr_t)bytes, &buffer) == napi_ok)
        return buffer;
    munmap(data, bytes);
    return number(env, -ENOMEM);
}

FUNCTION(create_event) {
    (void)info;
    return number(env, event_create());
}

FUNCTION(signal_event) {
    struct call call = begin(env, info);
    return number(env, event_signal(small_integer(&call, 0)));
}

FUNCTION(drain_event) {
    struct call call = begin(env, info);
    uint64_t value;
    return number(env, read(small_integer(&call, 0), &value, sizeof value) < 0 ? -errno : 0);
}

FUNCTION(create_channel) {
    (void)info;
    int fds[2];
    int error = channel_create(fds);
    if (error) return number(env, error);
    napi_value result;
    napi_create_array_with_length(env, 2, &result);
    napi_set_element(env, result, 0, number(env, fds[0]));
    napi_set_element(env, result, 1, number(env, fds[1]));
    return result;
}

#define DESCRIPTORS_MAX 32

FUNCTION(send_message) {
    struct call call = begin(env, info);
    void *bytes = NULL;
    size_t length = 0;
    uint32_t count = 0;
    int fds[DESCRIPTORS_MAX];
    if (call.count < 3 || napi_get_buffer_info(env, call.arguments[1], &bytes, &length) != napi_ok ||
        napi_get_array_length(env, call.arguments[2], &count) != napi_ok || count > DESCRIPTORS_MAX)
        return number(env, -EINVAL);
    for (uint32_t i = 0; i < count; i++) {
        napi_value element;
        napi_get_element(env, call.arguments[2], i, &element);
        napi_get_value_int32(env, element, &fds[i]);
    }
    return number(env, channel_send(small_integer(&call, 0), bytes, length, fds, (int)count));
}

FUNCTION(receive_message) {
    struct call call = begin(env, info);
    void *bytes = NULL;
    size_t room = 0;
    int fds[DESCRIPTORS_MAX], count = 0;
    if (call.count < 2 || napi_get_buffer_info(env, call.arguments[1], &bytes, &room) != napi_ok)
        return number(env, -EINVAL);
    int64_t got = channel_receive(small_integer(&call, 0), bytes, room, fds, DESCRIPTORS_MAX, &count);
    if (count == 0) return number(env, got);
    napi_value result;
    napi_create_array_with_length(env, (size_t)count + 1, &result);
    napi_set_element(env, result, 0, number(env, got));
    for (int i = 0; i < count; i++) napi_set_element(env, result, (uint32_t)i + 1, number(env, fds[i]));
    return result;
}

/* ---- what test/native/layout.test.ts compares with layout.ts ---- */

FUNCTION(layout) {
    (void)info;
    napi_value result;
    napi_create_object(env, &result);
#define WORD(name) set(env, result, #name, name)
#define FIELD(name, field) set(env, result, name, (int64_t)offsetof(struct record, field) / 4)
    WORD(ARENA_MAGIC), WORD(ARENA_VERSION), WORD(SMALL_SLOT_BYTES), WORD(LARGE_SLOT_BYTES), WORD(SLOT_HEADROOM);
    WORD(MAX_FRAME_BYTES), WORD(BURST_CAPACITY), WORD(EGRESS_CAPACITY), WORD(EVENT_CAPACITY), WORD(HEADER_MAGIC);
    WORD(HEADER_VERSION), WORD(HEADER_BYTES), WORD(HEADER_SMALL_SLOTS), WORD(HEADER_LARGE_SLOTS), WORD(HEADER_PORTS);
    WORD(HEADER_FDB_CAPACITY), WORD(HEADER_PUNT_BYTES), WORD(HEADER_INJECT_BYTES), WORD(HEADER_RECORDS);
    WORD(HEADER_FREE_SMALL), WORD(HEADER_FREE_LARGE), WORD(HEADER_BURST), WORD(HEADER_EGRESS), WORD(HEADER_EVENTS);
    WORD(HEADER_COUNTERS), WORD(HEADER_DROPS), WORD(HEADER_FDB), WORD(HEADER_PUNT), WORD(HEADER_INJECT);
    WORD(HEADER_SMALL), WORD(HEADER_LARGE), WORD(HEADER_FREE_SMALL_COUNT), WORD(HEADER_FREE_LARGE_COUNT);
    WORD(HEADER_TIME_SECONDS), WORD(HEADER_TIME_NANOS), WORD(KIND_RING);
    WORD(HEADER_NOW), WORD(HEADER_EVENT_COUNT), WORD(HEADER_CONTROL), WORD(HEADER_SIZE), WORD(TAG_PRESENT);
    WORD(OFFLOAD_CHECKSUM), WORD(OFFLOAD_BAD), WORD(OFFLOAD_TRUNCATED), WORD(GSO_SHIFT), WORD(GSO_TCP4);
    WORD(GSO_UDP4_FRAGMENTED), WORD(GSO_TCP6), WORD(GSO_UDP), WORD(GSO_ECN), WORD(EGRESS_PORT_MASK);
    WORD(EGRESS_TAGGED), WORD(EGRESS_SEGMENT), WORD(EGRESS_CHECKSUM), WORD(COUNTER_SHIFT), WORD(RECEIVED_PACKETS);
    WORD(RECEIVED_BYTES), WORD(TRANSMITTED_PACKETS), WORD(TRANSMITTED_BYTES), WORD(SEGMENTED_PACKETS);
    WORD(COMPLETED_CHECKSUMS), WORD(DROP_SHIFT), WORD(DROP_NO_SLOT), WORD(DROP_RECEIVE_ERROR), WORD(DROP_QUEUE_FULL);
    WORD(DROP_SHARD_ENDED), WORD(HEADER_SCRATCH), WORD(HEADER_JOURNAL), WORD(SCRATCH_BYTES), WORD(JOURNAL_BYTES);
    WORD(STREAM_BYTES), WORD(HEADER_PEERS), WORD(PEER_SHIFT);
    WORD(DROP_NO_PEER), WORD(DROP_TRANSMIT_ERROR), WORD(DROP_SEGMENTATION), WORD(KIND_TAP), WORD(KIND_PACKET);
    WORD(KIND_STREAM), WORD(KIND_DGRAM), WORD(KIND_VHOST_USER), WORD(DROP_BAD_DESCRIPTOR);
    FIELD("OFFSET", offset), FIELD("LENGTH", length), FIELD("INGRESS", ingress), FIELD("TAG", tag), FIELD("VID", vid);
    FIELD("TCI", tci), FIELD("ETHERTYPE", ethertype), FIELD("OFFLOAD", offload), FIELD("SEGMENT_BYTES", segment_bytes);
    FIELD("CHECKSUM_START", checksum_start), FIELD("CHECKSUM_OFFSET", checksum_offset);
    FIELD("HEADER_LENGTH", header_length), FIELD("REFERENCES", references);
    FIELD("DESTINATION_LOW", destination_low), FIELD("SOURCE_LOW", source_low), FIELD("MAC_HIGH", mac_high);
    return result;
}

/* ---- registration ---- */

static void finalize(napi_env env, void *data, void *hint) {
    (void)hint;
    struct instance *instance = data;
    release_engine(instance, env);
    watcher_destroy(instance->watcher);
    free(instance);
}

static const struct function functions[] = {
    {"attachArena", attach_arena},
    {"detachArena", detach_arena},
    {"watchChannel", watch_channel},
    {"attachPort", attach_port},
    {"detachPort", detach_port},
    {"receive", receive},
    {"transmit", transmit},
    {"createMemory", create_memory},
    {"mapMemory", map_memory},
    {"createEvent", create_event},
    {"signalEvent", signal_event},
    {"drainEvent", drain_event},
    {"createChannel", create_channel},
    {"sendMessage", send_message},
    {"receiveMessage", receive_message},
    {"layout", layout},
    {NULL, NULL},
};

static bool export_functions(napi_env env, napi_value exports, const struct function *table) {
    for (; table->name; table++) {
        napi_value function;
        if (napi_create_function(env, table->name, NAPI_AUTO_LENGTH, table->call, NULL, &function) != napi_ok ||
            napi_set_named_property(env, exports, table->name, function) != napi_ok)
            return false;
    }
    return true;
}

NAPI_MODULE_INIT() {
    struct instance *instance = calloc(1, sizeof *instance);
    if (!instance) return NULL;
    instance->watcher = watcher_create(env);
    if (!instance->watcher || napi_set_instance_data(env, instance, finalize, NULL) != napi_ok) {
        free(instance);
        return NULL;
    }
    bool exported = export_functions(env, exports, functions) && export_functions(env, exports, device_functions) &&
                    export_functions(env, exports, vhost_user_functions);
    return exported ? exports : NULL;
}
