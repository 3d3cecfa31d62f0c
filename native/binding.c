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
#define NAPI_VERSION 8
#include <errno.h>
#include <fcntl.h>
#include <node_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"
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

static struct call begin(napi_env env, napi_callback_info info) {
    struct call call = {.env = env, .count = ARGUMENTS_MAX};
    napi_get_cb_info(env, info, &call.count, call.arguments, NULL, NULL);
    napi_get_instance_data(env, (void **)&call.instance);
    return call;
}

static int64_t integer(const struct call *call, size_t index) {
    int64_t value = 0;
    if (index < call->count) napi_get_value_int64(call->env, call->arguments[index], &value);
    return value;
}

static int small_integer(const struct call *call, size_t index) { return (int)integer(call, index); }

static bool boolean(const struct call *call, size_t index) {
    bool value = false;
    if (index < call->count) napi_get_value_bool(call->env, call->arguments[index], &value);
    return value;
}

/* Copies a string; one that does not fit becomes longer than anything it is used for accepts. */
static const char *text(const struct call *call, size_t index, char out[TEXT_MAX]) {
    size_t length = 0;
    out[0] = 0;
    if (index < call->count) napi_get_value_string_utf8(call->env, call->arguments[index], out, TEXT_MAX, &length);
    return out;
}

/* Six octets from a MAC address's text; false if it is none. */
static bool address(const struct call *call, size_t index, uint8_t mac[6]) {
    char digits[TEXT_MAX];
    text(call, index, digits);
    return sscanf(digits, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
                  &mac[5]) == 6;
}

static napi_value number(napi_env env, int64_t value) {
    napi_value result;
    napi_create_int64(env, value, &result);
    return result;
}

static void set(napi_env env, napi_value object, const char *name, int64_t value) {
    napi_set_named_property(env, object, name, number(env, value));
}

static napi_value link_object(napi_env env, const struct link *link) {
    napi_value object, mac;
    char digits[18];
    snprintf(digits, sizeof digits, "%02x:%02x:%02x:%02x:%02x:%02x", link->mac[0], link->mac[1], link->mac[2],
             link->mac[3], link->mac[4], link->mac[5]);
    napi_create_object(env, &object);
    set(env, object, "index", link->index);
    set(env, object, "mtu", link->mtu);
    set(env, object, "flags", link->flags);
    napi_create_string_utf8(env, digits, NAPI_AUTO_LENGTH, &mac);
    napi_set_named_property(env, object, "mac", mac);
    return object;
}

#define FUNCTION(name) static napi_value name(napi_env env, napi_callback_info info)

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

/* ---- devices ---- */

FUNCTION(open_tap) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    uint8_t mac[6];
    struct tap_found found = {0};
    struct tap_request request = {
        .name = text(&call, 0, name),
        .netns = text(&call, 1, netns),
        .mtu = small_integer(&call, 2),
        .owner = integer(&call, 3),
        .offloads = boolean(&call, 4),
        .multi_queue = boolean(&call, 5),
        .mac = address(&call, 6, mac) ? mac : NULL,
    };
    int fd = tap_open(&request, &found);
    if (fd < 0) return number(env, fd);
    napi_value result, existed;
    result = link_object(env, &found.link);
    set(env, result, "fd", fd);
    napi_get_boolean(env, found.existed, &existed);
    napi_set_named_property(env, result, "existed", existed);
    return result;
}

FUNCTION(restore_tap) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    struct link link = {.mtu = small_integer(&call, 3), .flags = (unsigned)small_integer(&call, 4)};
    return number(env, tap_restore(small_integer(&call, 0), text(&call, 1, name), text(&call, 2, netns), &link));
}

FUNCTION(set_carrier) {
    struct call call = begin(env, info);
    return number(env, tap_set_carrier(small_integer(&call, 0), boolean(&call, 1)));
}

FUNCTION(open_packet) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    int fds[2];
    struct link link = {0};
    int error = packet_open(text(&call, 0, name), text(&call, 1, netns), fds, &link);
    if (error) return number(env, error);
    napi_value result = link_object(env, &link);
    set(env, result, "fd", fds[0]);
    set(env, result, "fdOut", fds[1]);
    return result;
}

FUNCTION(get_link) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    struct link link = {0};
    int error = link_get(text(&call, 0, name), text(&call, 1, netns), &link);
    return error ? number(env, error) : link_object(env, &link);
}

FUNCTION(set_link_mtu) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    return number(env, link_set_mtu(text(&call, 0, name), text(&call, 1, netns), small_integer(&call, 2)));
}

FUNCTION(listen_unix) {
    struct call call = begin(env, info);
    char path[TEXT_MAX];
    return number(env, unix_listen(text(&call, 0, path), small_integer(&call, 1)));
}

FUNCTION(connect_unix) {
    struct call call = begin(env, info);
    char path[TEXT_MAX];
    return number(env, unix_connect(text(&call, 0, path)));
}

FUNCTION(bind_dgram) {
    struct call call = begin(env, info);
    char path[TEXT_MAX];
    return number(env, unix_bind_dgram(text(&call, 0, path), small_integer(&call, 1)));
}

FUNCTION(connect_dgram) {
    struct call call = begin(env, info);
    char path[TEXT_MAX];
    return number(env, unix_connect_dgram(text(&call, 0, path)));
}

FUNCTION(listen_tcp) {
    struct call call = begin(env, info);
    char address[TEXT_MAX];
    return number(env, tcp_listen(text(&call, 0, address), small_integer(&call, 1)));
}

FUNCTION(connect_tcp) {
    struct call call = begin(env, info);
    char address[TEXT_MAX];
    return number(env, tcp_connect(text(&call, 0, address), small_integer(&call, 1)));
}

FUNCTION(accept_socket) {
    struct call call = begin(env, info);
    return number(env, socket_accept(small_integer(&call, 0)));
}

FUNCTION(peer_gone) {
    struct call call = begin(env, info);
    napi_value result;
    napi_get_boolean(env, socket_peer_gone(small_integer(&call, 0)) != 0, &result);
    return result;
}

FUNCTION(get_peer_credentials) {
    struct call call = begin(env, info);
    int pid, uid, gid;
    int error = peer_credentials(small_integer(&call, 0), &pid, &uid, &gid);
    if (error) return number(env, error);
    napi_value result;
    napi_create_object(env, &result);
    set(env, result, "pid", pid);
    set(env, result, "uid", uid);
    set(env, result, "gid", gid);
    return result;
}

FUNCTION(close_descriptor) {
    struct call call = begin(env, info);
    return number(env, close(small_integer(&call, 0)) < 0 ? -errno : 0);
}

FUNCTION(duplicate_descriptor) {
    struct call call = begin(env, info);
    int fd = fcntl(small_integer(&call, 0), F_DUPFD_CLOEXEC, 0);
    return number(env, fd < 0 ? -errno : fd);
}

FUNCTION(watch) {
    struct call call = begin(env, info);
    if (call.count < 2) return number(env, -EINVAL);
    return number(env, watcher_add(call.instance->watcher, small_integer(&call, 0), call.arguments[1]));
}

FUNCTION(unwatch) {
    struct call call = begin(env, info);
    watcher_remove(call.instance->watcher, small_integer(&call, 0));
    return NULL;
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
    WORD(COMPLETED_CHECKSUMS), WORD(HELD_BYTES), WORD(DROP_SHIFT), WORD(DROP_NO_SLOT), WORD(DROP_RECEIVE_ERROR),
        WORD(DROP_QUEUE_FULL);
    WORD(DROP_NO_PEER), WORD(DROP_TRANSMIT_ERROR), WORD(DROP_SEGMENTATION), WORD(KIND_TAP), WORD(KIND_PACKET);
    WORD(KIND_STREAM), WORD(KIND_DGRAM);
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

NAPI_MODULE_INIT() {
    static const struct {
        const char *name;
        napi_callback function;
    } functions[] = {
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
        {"openTap", open_tap},
        {"restoreTap", restore_tap},
        {"setCarrier", set_carrier},
        {"openPacket", open_packet},
        {"getLink", get_link},
        {"setLinkMtu", set_link_mtu},
        {"listenUnix", listen_unix},
        {"connectUnix", connect_unix},
        {"bindDgram", bind_dgram},
        {"connectDgram", connect_dgram},
        {"listenTcp", listen_tcp},
        {"connectTcp", connect_tcp},
        {"accept", accept_socket},
        {"peerGone", peer_gone},
        {"peerCredentials", get_peer_credentials},
        {"duplicate", duplicate_descriptor},
        {"close", close_descriptor},
        {"watch", watch},
        {"unwatch", unwatch},
        {"layout", layout},
    };
    struct instance *instance = calloc(1, sizeof *instance);
    if (!instance) return NULL;
    instance->watcher = watcher_create(env);
    if (!instance->watcher || napi_set_instance_data(env, instance, finalize, NULL) != napi_ok) {
        free(instance);
        return NULL;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        napi_value function;
        if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function) !=
                napi_ok ||
            napi_set_named_property(env, exports, functions[i].name, function) != napi_ok)
            return NULL;
    }
    return exports;
}
