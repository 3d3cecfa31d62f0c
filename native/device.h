/*
 * What the control process does to the host for a port: opens devices and sockets, and puts back what it changed. Each
 * function returns 0 or a descriptor, and -errno where it fails; a failed call leaves nothing behind.
 */
#ifndef WEFT_DEVICE_H
#define WEFT_DEVICE_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

struct link {
    int index;      /* interface index */
    int mtu;        /* bytes */
    unsigned flags; /* IFF_* */
    int type;       /* ARPHRD_* */
    uint8_t mac[6];
};

struct tap_request {
    const char *name;  /* 1 to 15 bytes */
    const char *netns; /* path of the namespace's file, "" for this process's */
    bool multi_queue;
    bool offloads; /* take checksum, TSO and USO work over from the host's stack */
    int mtu;
    int64_t owner;      /* uid, -1 none */
    const uint8_t *mac; /* six octets for a device that is made; NULL: the kernel's choice */
};

struct tap_found {
    bool existed; /* the device was there, so it is left there, as `link` describes it */
    struct link link;
};

/* Creates or adopts the TAP, sets it up, brings the link up. Returns a non-blocking descriptor. */
int tap_open(const struct tap_request *request, struct tap_found *found);
/* Pulls the cable of the device's host side, or plugs it in again. */
int tap_set_carrier(int fd, bool on);
/* Gives an adopted device its earlier MTU and flags back, and takes its offloads away. */
int tap_restore(int fd, const char *name, const char *netns, const struct link *link);

/*
 * AF_PACKET sockets on an existing Ethernet interface; fds[0] receives, fds[1] sends past the queueing discipline.
 * -EPROTOTYPE: the interface's frames are no Ethernet frames (a layer-3 device, the loopback).
 */
int packet_open(const char *name, const char *netns, int fds[2], struct link *link);
/* Frames that the kernel dropped since the last call, because the receiving socket's buffer was full. */
int64_t packet_losses(int fd);

int link_get(const char *name, const char *netns, struct link *link);
int link_set_mtu(const char *name, const char *netns, int mtu);

/* An address, or a prefix: the bits beyond it are 0. */
struct ip_prefix {
    uint8_t bytes[16];
    size_t length; /* bytes: 4 or 16 */
    int prefix;
};

/* Gives an interface an address or a route, or takes it away (address.c). */
int address_change(const char *name, const char *netns, const struct ip_prefix *ip, bool add);
int route_change(const char *name, const char *netns, const struct ip_prefix *destination,
                 const struct ip_prefix *gateway /* NULL: on the link */, bool add);

/* Runs `work` in a namespace given as above, in a thread of its own unless it is this process's; its result. */
int in_namespace(const char *netns, int (*work)(void *), void *argument);

/* Unix and TCP sockets; all descriptors are non-blocking and close on exec. `mode`: permissions of the path. */
int unix_listen(const char *path, int mode);
int unix_connect(const char *path);
int unix_bind_dgram(const char *path, int mode);
int unix_connect_dgram(const char *path);
int tcp_listen(const char *address, int port);  /* address: numeric, IPv4 or IPv6 */
int tcp_connect(const char *address, int port); /* may still be connecting */
int socket_accept(int fd);
/* 1 if the peer of a connected stream socket has closed it, else 0. */
int socket_peer_gone(int fd);
int peer_credentials(int fd, int *pid, int *uid, int *gid);

/* Memory, wake-up counters and the channel between the processes. */
int memory_create(const char *name, int64_t bytes);
int event_create(void);
int event_signal(int fd);
int descriptor_set_nonblocking(int fd);
int channel_create(int fds[2]); /* SOCK_SEQPACKET */
int channel_send(int fd, const uint8_t *bytes, size_t length, const int *fds, int fd_count);
/* Returns the length, 0 when the other side is gone. fds holds fd_max, *fd_count tells how many came. */
int64_t channel_receive(int fd, uint8_t *bytes, size_t room, int *fds, int fd_max, int *fd_count);

#endif
