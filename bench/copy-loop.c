/*
 * copy-loop: the yardstick of the benches: what a bare C loop moves between two TAPs.
 *
 * It opens two TAP devices with the offloads Weft asks for (virtio_net header of 12 bytes, checksum, TSO, USO), each
 * in the network namespace of its host, and copies every frame of one to the other and back: poll until one is
 * readable, then read one, write one, up to 64 times, then look at the other. One buffer of 68 KiB serves all frames,
 * so a large frame is written while it is still in the cache. No look-up, no learning, no VLAN, no counters, no header
 * checks: what any switch in user space over TAP has to pay at least, if it reads and writes as most programs do.
 *
 *   copy-loop NETNS DEV NETNS DEV       NETNS: a name under /run/netns, or `-` for the caller's own
 *
 * Prints `copy-loop: ready`, runs until SIGTERM or SIGINT, then prints how many frames it moved and how many writes the
 * kernel refused (a device that is down refuses with EIO). What it does not do on purpose: io_uring, several
 * threads, spinning. Weft may; the ratio shows whether that pays for the decisions it takes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "program.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#define BUFFER_BYTES (68 * 1024)
#define BURST 64

static volatile sig_atomic_t stopped;

static void stop(int signal_number) {
    (void)signal_number;
    stopped = 1;
}

static void enter(const char *netns) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/run/netns/%s", netns);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) fail(path);
    close(fd);
}

static int open_tap(const char *netns, const char *dev) {
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0) fail("/proc/self/ns/net");
    if (strcmp(netns, "-") != 0) enter(netns);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", dev);
    if (ioctl(fd, TUNSETIFF, &request) < 0) fail(dev);
    int header_bytes = 12;
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0) fail("TUNSETVNETHDRSZ");
    unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) < 0 && ioctl(fd, TUNSETOFFLOAD, offloads) < 0)
        fail("TUNSETOFFLOAD");
    if (setns(home, CLONE_NEWNET) < 0) fail("setns");
    close(home);
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: copy-loop NETNS DEV NETNS DEV\n");
        return 2;
    }
    struct pollfd device[2] = {
        {.fd = open_tap(argv[1], argv[2]), .events = POLLIN},
        {.fd = open_tap(argv[3], argv[4]), .events = POLLIN},
    };
    /* No SA_RESTART: poll must return. */
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    static unsigned char buffer[BUFFER_BYTES];
    unsigned long long moved = 0, refused = 0;
    puts("copy-loop: ready");
    fflush(stdout);
    while (!stopped) {
        if (poll(device, 2, -1) <= 0) continue;
        for (int from = 0; from < 2; from++) {
            if (!(device[from].revents & POLLIN)) continue;
            for (int i = 0; i < BURST; i++) {
                ssize_t length = read(device[from].fd, buffer, sizeof buffer);
                if (length <= 0) break;
                if (write(device[!from].fd, buffer, (size_t)length) == length)
                    moved++;
                else
                    refused++;
            }
        }
    }
    printf("copy-loop: moved %llu refused %llu\n", moved, refused);
    return 0;
}
