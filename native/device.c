/*
 * TAP devices and AF_PACKET sockets, in this or another network namespace.
 *
 * A device in another namespace is made there from the start, not made here and moved: the work is done in a
 * short-lived thread that has entered the namespace (setns(2) is per thread), and only descriptors come back. So the
 * host's own namespace never sees the device, and no name can clash with one of the host's.
 *
 * A device that was there before (persistent TAP, made by an administrator) is adopted: its MTU and flags are
 * remembered and given back. One that Weft makes is not persistent: it goes with its last descriptor, also when the
 * process is killed.
 */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if_arp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Names that Debian 12's headers do not have. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

#define RECEIVE_BUFFER_BYTES (4 << 20)
#define VNET_HEADER_BYTES 12
#define BUSY_TRIES 10
#define BUSY_MILLIS 10

/* ---- work in a namespace ---- */

struct task {
    int (*work)(void *argument);
    void *argument;
    const char *netns;
    int result;
};

static void *run_in_namespace(void *pointer) {
    struct task *task = pointer;
    int fd = open(task->netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        task->result = -errno;
    else
        task->result = task->work(task->argument);
    if (fd >= 0) close(fd);
    return NULL;
}

int in_namespace(const char *netns, int (*work)(void *), void *argument) {
    if (!netns[0]) return work(argument);
    struct task task = {work, argument, netns, 0};
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run_in_namespace, &task);
    if (error) return -error;
    pthread_join(thread, NULL);
    return task.result;
}

/* ---- links, by the classic interface requests (netdevice(7)) ---- */

static int name_request(struct ifreq *request, const char *name) {
    memset(request, 0, sizeof *request);
    if (strlen(name) >= IFNAMSIZ) return -EINVAL;
    strcpy(request->ifr_name, name);
    return 0;
}

static int read_link(int fd, const char *name, struct link *link) {
    struct ifreq request;
    int error = name_request(&request, name);
    if (error) return error;
    if (ioctl(fd, SIOCGIFINDEX, &request) < 0) return -errno;
    link->index = request.ifr_ifindex;
    if (ioctl(fd, SIOCGIFMTU, &request) < 0) return -errno;
    link->mtu = request.ifr_mtu;
    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0) return -errno;
    memcpy(link->mac, request.ifr_hwaddr.sa_data, 6);
    link->type = request.ifr_hwaddr.sa_family;
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) return -errno;
    link->flags = (unsigned)(unsigned short)request.ifr_flags;
    return 0;
}

static int write_mtu(int fd, const char *name, int mtu) {
    struct ifreq request;
    int error = name_request(&request, name);
    if (error) return error;
    request.ifr_mtu = mtu;
    return ioctl(fd, SIOCSIFMTU, &request) < 0 ? -errno : 0;
}

static int write_flags(int fd, const char *name, unsigned flags) {
    struct ifreq request;
    int error = name_request(&request, name);
    if (error) return error;
    request.ifr_flags = (short)flags;
    return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

static int write_mac(int fd, const char *name, const uint8_t *mac) {
    struct ifreq request;
    int error = name_request(&request, name);
    if (error) return error;
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, mac, 6);
    return ioctl(fd, SIOCSIFHWADDR, &request) < 0 ? -errno : 0;
}

struct link_task {
    const char *name;
    struct link *link;
    int mtu;
};

static int get_link(void *argument) {
    struct link_task *task = argument;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int result = read_link(fd, task->name, task->link);
    close(fd);
    return result;
}

static int set_link_mtu(void *argument) {
    struct link_task *task = argument;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int result = write_mtu(fd, task->name, task->mtu);
    close(fd);
    return result;
}

int link_get(const char *name, const char *netns, struct link *link) {
    struct link_task task = {name, link, 0};
    return in_namespace(netns, get_link, &task);
}

int link_set_mtu(const char *name, const char *netns, int mtu) {
    struct link_task task = {name, NULL, mtu};
    return in_namespace(netns, set_link_mtu, &task);
}

/* ---- TAP ---- */

struct tap_task {
    const struct tap_request *request;
    struct tap_found *found;
};

/* Settings of an opened device; the device goes with fd if this fails. */
static int set_up_tap(int fd, int control, const struct tap_request *request, const struct tap_found *found) {
    int header_bytes = VNET_HEADER_BYTES, little_endian = 1;
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0) return -errno;
    if (ioctl(fd, TUNSETVNETLE, &little_endian) < 0) return -errno;
    unsigned long basic = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (!request->offloads) {
        if (ioctl(fd, TUNSETOFFLOAD, 0UL) < 0) return -errno;
    } else if (ioctl(fd, TUNSETOFFLOAD, basic | TUN_F_USO4 | TUN_F_USO6) < 0 && ioctl(fd, TUNSETOFFLOAD, basic) < 0) {
        return -errno; /* USO needs Linux 6.2 */
    }
    if (request->owner >= 0 && ioctl(fd, TUNSETOWNER, (unsigned long)request->owner) < 0) return -errno;
    int error = found->link.mtu == request->mtu ? 0 : write_mtu(control, request->name, request->mtu);
    if (error) return error;
    return found->link.flags & IFF_UP ? 0 : write_flags(control, request->name, found->link.flags | IFF_UP);
}

/*
 * Makes or adopts the device. One that its last owner has just closed is busy for a few milliseconds more. One that is
 * there is opened with one queue or several as it was made, which the kernel does not tell: the other is tried then.
 */
static int take_tap(int fd, struct ifreq *interface, bool existed) {
    struct timespec pause = {.tv_nsec = BUSY_MILLIS * 1000000};
    bool tried = !existed;
    for (int i = 0; i < BUSY_TRIES; i++) {
        if (ioctl(fd, TUNSETIFF, interface) == 0) return 0;
        if (errno == EINVAL && !tried) {
            interface->ifr_flags ^= IFF_MULTI_QUEUE;
            tried = true;
            continue;
        }
        if (errno != EBUSY) return -errno;
        nanosleep(&pause, NULL);
    }
    return -EBUSY;
}

static int open_tap(void *argument) {
    struct tap_task *task = argument;
    const struct tap_request *request = task->request;
    struct ifreq interface;
    int error = name_request(&interface, request->name);
    if (error) return error;
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0) return -errno;
    task->found->existed = read_link(control, request->name, &task->found->link) == 0;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        error = -errno;
        close(control);
        return error;
    }
    interface.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (request->multi_queue ? IFF_MULTI_QUEUE : 0));
    error = take_tap(fd, &interface, task->found->existed);
    if (!error && !task->found->existed && request->mac) error = write_mac(control, request->name, request->mac);
    if (!error && !task->found->existed) error = read_link(control, request->name, &task->found->link);
    if (!error) error = set_up_tap(fd, control, request, task->found);
    close(control);
    if (!error) return fd;
    close(fd);
    return error;
}

int tap_open(const struct tap_request *request, struct tap_found *found) {
    struct tap_task task = {request, found};
    return in_namespace(request->netns, open_tap, &task);
}

static int restore_link(void *argument) {
    struct link_task *task = argument;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int error = write_mtu(fd, task->name, task->link->mtu);
    if (!error) error = write_flags(fd, task->name, task->link->flags);
    close(fd);
    return error;
}

int tap_set_carrier(int fd, bool on) {
    int carrier = on;
    return ioctl(fd, TUNSETCARRIER, &carrier) < 0 ? -errno : 0;
}

int tap_restore(int fd, const char *name, const char *netns, const struct link *link) {
    struct link copy = *link;
    struct link_task task = {name, &copy, 0};
    tap_set_carrier(fd, true);
    if (ioctl(fd, TUNSETOFFLOAD, 0UL) < 0) return -errno;
    return in_namespace(netns, restore_link, &task);
}

/* ---- AF_PACKET ---- */

struct packet_task {
    const char *name;
    int *fds;
    struct link *link;
};

static int set_option(int fd, int option, int value) {
    return setsockopt(fd, SOL_PACKET, option, &value, sizeof value) < 0 ? -errno : 0;
}

/* A socket bound to the interface, with the virtio_net header. `receives`: takes frames, in promiscuous mode. */
static int open_packet_socket(int index, bool receives) {
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int error = set_option(fd, PACKET_VNET_HDR, 1);
    if (!error && receives) {
        int bytes = RECEIVE_BUFFER_BYTES;
        struct packet_mreq promiscuous = {.mr_ifindex = index, .mr_type = PACKET_MR_PROMISC};
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0) /* needs CAP_NET_ADMIN */
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        error = set_option(fd, PACKET_AUXDATA, 1);
        if (!error) error = set_option(fd, PACKET_IGNORE_OUTGOING, 1);
        if (!error && setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) < 0)
            error = -errno;
    } else if (!error) {
        error = set_option(fd, PACKET_QDISC_BYPASS, 1);
    }
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = index};
    address.sll_protocol = receives ? (unsigned short)((ETH_P_ALL >> 8) | (ETH_P_ALL << 8)) : 0;
    if (!error && bind(fd, (struct sockaddr *)&address, sizeof address) < 0) error = -errno;
    if (!error) return fd;
    close(fd);
    return error;
}

static int open_packet(void *argument) {
    struct packet_task *task = argument;
    struct link_task link_task = {task->name, task->link, 0};
    int error = get_link(&link_task);
    if (error) return error;
    if (task->link->type != ARPHRD_ETHER) return -EPROTOTYPE;
    if (!(task->link->flags & IFF_UP)) return -ENETDOWN;
    task->fds[0] = open_packet_socket(task->link->index, true);
    if (task->fds[0] < 0) return task->fds[0];
    task->fds[1] = open_packet_socket(task->link->index, false);
    if (task->fds[1] >= 0) return 0;
    close(task->fds[0]);
    return task->fds[1];
}

int packet_open(const char *name, const char *netns, int fds[2], struct link *link) {
    struct packet_task task = {name, fds, link};
    return in_namespace(netns, open_packet, &task);
}

int64_t packet_losses(int fd) {
    struct tpacket_stats stats = {0};
    socklen_t length = sizeof stats;
    if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) < 0) return -errno;
    return stats.tp_drops;
}
