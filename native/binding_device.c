/*
 * The binding's functions that open and watch devices and sockets, for the control process. src/ports/native.ts
 * describes them; device.c, address.c and watch.c do the work.
 */
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

/* Six octets from a MAC address's text; false if it is none. */
static bool address(const struct call *call, size_t index, uint8_t mac[6]) {
    char digits[TEXT_MAX];
    text(call, index, digits);
    return sscanf(digits, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
                  &mac[5]) == 6;
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

FUNCTION(packet_losses_of) {
    struct call call = begin(env, info);
    return number(env, packet_losses(small_integer(&call, 0)));
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

static bool is_null(const struct call *call, size_t index) {
    napi_valuetype type = napi_undefined;
    napi_typeof(call->env, call->arguments[index], &type);
    return type == napi_null || type == napi_undefined;
}

/* An IP address's bytes; one of another length than 4 or 16 is refused where it is used. */
static bool ip_bytes(const struct call *call, size_t index, struct ip_prefix *ip) {
    napi_typedarray_type type;
    size_t bytes = 0;
    void *data = NULL;
    if (index >= call->count ||
        napi_get_typedarray_info(call->env, call->arguments[index], &type, &bytes, &data, NULL, NULL) != napi_ok)
        return false;
    if (type != napi_uint8_array || (bytes != 4 && bytes != 16)) return false;
    memcpy(ip->bytes, data, bytes);
    ip->length = bytes;
    return true;
}

static napi_value on_address(napi_env env, napi_callback_info info, bool add) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    struct ip_prefix ip = {.prefix = small_integer(&call, 3)};
    if (!ip_bytes(&call, 2, &ip)) return number(env, -EINVAL);
    return number(env, address_change(text(&call, 0, name), text(&call, 1, netns), &ip, add));
}

FUNCTION(add_address) { return on_address(env, info, true); }
FUNCTION(remove_address) { return on_address(env, info, false); }

static napi_value on_route(napi_env env, napi_callback_info info, bool add) {
    struct call call = begin(env, info);
    char name[TEXT_MAX], netns[TEXT_MAX];
    struct ip_prefix ip = {.prefix = small_integer(&call, 3)}, gateway = {0};
    bool via = call.count > 4 && !is_null(&call, 4);
    if (!ip_bytes(&call, 2, &ip) || (via && !ip_bytes(&call, 4, &gateway))) return number(env, -EINVAL);
    return number(env, route_change(text(&call, 0, name), text(&call, 1, netns), &ip, via ? &gateway : NULL, add));
}

FUNCTION(add_route) { return on_route(env, info, true); }
FUNCTION(remove_route) { return on_route(env, info, false); }

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

FUNCTION(set_nonblocking) {
    struct call call = begin(env, info);
    return number(env, descriptor_set_nonblocking(small_integer(&call, 0)));
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

const struct function device_functions[] = {
    {"openTap", open_tap},
    {"restoreTap", restore_tap},
    {"setCarrier", set_carrier},
    {"openPacket", open_packet},
    {"packetLosses", packet_losses_of},
    {"getLink", get_link},
    {"setLinkMtu", set_link_mtu},
    {"addAddress", add_address},
    {"removeAddress", remove_address},
    {"addRoute", add_route},
    {"removeRoute", remove_route},
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
    {"setNonBlocking", set_nonblocking},
    {"close", close_descriptor},
    {"watch", watch},
    {"unwatch", unwatch},
    {NULL, NULL},
};
