/*
 * Addresses and routes of an interface, through rtnetlink: what a `host` uplink gives the TAP that leads into the
 * host's stack. Each change is one request, answered by the kernel before the function returns.
 *
 * What is made here belongs to the interface: it goes when the interface goes, also when the process is killed. An
 * address or a route that is there already is not taken over (-EEXIST), so that nothing of the administrator's is
 * removed later. An IPv6 address is usable at once: duplicate address detection is off, for Weft alone is on the link.
 *
 * Standards: rtnetlink(7), RFC 3549. Routes go to the main table with the protocol `static`.
 */
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"

#define ROOM 256 /* bytes: a header and at most four attributes of 16 bytes */
#define ANSWER_MILLIS 2000

struct request {
    struct nlmsghdr header;
    char body[ROOM];
};

static void begin_request(struct request *request, int type, const void *body, size_t bytes) {
    memset(request, 0, sizeof *request);
    request->header.nlmsg_type = (uint16_t)type;
    request->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    if (type == RTM_NEWADDR || type == RTM_NEWROUTE) request->header.nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
    request->header.nlmsg_len = (uint32_t)NLMSG_LENGTH(bytes);
    memcpy(request->body, body, bytes);
}

static void attribute(struct request *request, int type, const void *value, size_t bytes) {
    struct rtattr *at = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
    at->rta_type = (unsigned short)type;
    at->rta_len = (unsigned short)RTA_LENGTH(bytes);
    memcpy(RTA_DATA(at), value, bytes);
    request->header.nlmsg_len = (uint32_t)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(at->rta_len));
}

/* Sends the request and waits for the kernel's word. */
static int ask(const struct request *request) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return -errno;
    struct timeval limit = {.tv_sec = ANSWER_MILLIS / 1000};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    alignas(struct nlmsghdr) char answer[1024];
    int result = -EPROTO;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ssize_t sent = sendto(fd, request, request->header.nlmsg_len, 0, (const struct sockaddr *)&kernel, sizeof kernel);
    ssize_t got = sent < 0 ? -1 : recv(fd, answer, sizeof answer, 0);
    if (got < 0) {
        result = -errno;
    } else {
        const struct nlmsghdr *header = (const struct nlmsghdr *)answer;
        if (NLMSG_OK(header, (size_t)got) && header->nlmsg_type == NLMSG_ERROR &&
            header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr)))
            result = ((const struct nlmsgerr *)NLMSG_DATA(header))->error;
    }
    close(fd);
    return result;
}

static int family(const struct ip_prefix *ip) {
    if (ip->length == 4 && ip->prefix >= 0 && ip->prefix <= 32) return AF_INET;
    return ip->length == 16 && ip->prefix >= 0 && ip->prefix <= 128 ? AF_INET6 : -1;
}

struct change {
    const char *name;
    const struct ip_prefix *ip;
    const struct ip_prefix *gateway; /* NULL: the destination is on the link */
    bool add;
};

/* Runs in the device's namespace: the name is looked up there. */
static int index_of(const char *name) {
    unsigned index = strlen(name) < IFNAMSIZ ? if_nametoindex(name) : 0;
    return index ? (int)index : -ENODEV;
}

static int change_address(void *argument) {
    const struct change *change = argument;
    const struct ip_prefix *ip = change->ip;
    int index = index_of(change->name);
    if (index < 0) return index;
    struct ifaddrmsg body = {
        .ifa_family = (unsigned char)family(ip),
        .ifa_prefixlen = (unsigned char)ip->prefix,
        .ifa_flags = ip->length == 16 ? IFA_F_NODAD : 0,
        .ifa_scope = RT_SCOPE_UNIVERSE,
        .ifa_index = (unsigned)index,
    };
    struct request request;
    begin_request(&request, change->add ? RTM_NEWADDR : RTM_DELADDR, &body, sizeof body);
    attribute(&request, IFA_LOCAL, ip->bytes, ip->length);
    attribute(&request, IFA_ADDRESS, ip->bytes, ip->length);
    return ask(&request);
}

static int change_route(void *argument) {
    const struct change *change = argument;
    const struct ip_prefix *ip = change->ip;
    int index = index_of(change->name);
    if (index < 0) return index;
    struct rtmsg body = {
        .rtm_family = (unsigned char)family(ip),
        .rtm_dst_len = (unsigned char)ip->prefix,
        .rtm_table = RT_TABLE_MAIN,
        .rtm_protocol = RTPROT_STATIC,
        .rtm_scope = change->gateway || ip->length == 16 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
        .rtm_type = RTN_UNICAST,
    };
    struct request request;
    begin_request(&request, change->add ? RTM_NEWROUTE : RTM_DELROUTE, &body, sizeof body);
    attribute(&request, RTA_DST, ip->bytes, ip->length);
    attribute(&request, RTA_OIF, &index, sizeof index);
    if (change->gateway) attribute(&request, RTA_GATEWAY, change->gateway->bytes, change->gateway->length);
    return ask(&request);
}

int address_change(const char *name, const char *netns, const struct ip_prefix *ip, bool add) {
    if (family(ip) < 0) return -EINVAL;
    struct change change = {name, ip, NULL, add};
    return in_namespace(netns, change_address, &change);
}

int route_change(const char *name, const char *netns, const struct ip_prefix *destination,
                 const struct ip_prefix *gateway, bool add) {
    if (family(destination) < 0 || (gateway && gateway->length != destination->length)) return -EINVAL;
    struct change change = {name, destination, gateway, add};
    return in_namespace(netns, change_route, &change);
}
