/*
 * dhcp-load: many DHCP clients at once, to see how many exchanges a second a server keeps up with.
 *
 * Each client is a MAC address at one of the given interfaces (an AF_PACKET socket an interface, so they need no IP
 * address of their own). It sends DISCOVER, answers the OFFER with a REQUEST, counts the ACK as one exchange, and
 * begins again: a guest that comes back and gets the same address (RFC 2131 sections 4.3.1 and 4.3.2). Answers are
 * asked for as unicast. A client that hears nothing for RETRY_SECONDS begins anew; that is counted as a loss.
 *
 *   dhcp-load --dev PREFIX [--devices N] [--macs N] [--rate EXCHANGES/S] [--parallel N] [--warm S] [--seconds S]
 *
 * The interfaces are PREFIX0, PREFIX1 and so on; `--macs` clients at each; `--rate` limits the exchanges begun at each
 * interface a second (0: no limit), since a server may limit what it takes from one; `--parallel` is how many exchanges
 * are on their way at once. What happens in the first `--warm` seconds is not counted. Prints one line
 * `exchanges N naks M lost L seconds S`. What it does not do: renew by unicast, read options other than the message
 * type and the server's identifier.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "program.h"

#define DEVICES_MAX 1024
#define CLIENTS_MAX 65536
#define RETRY_SECONDS 0.5
#define BOOTP 42 /* bytes of a frame before the BOOTP message */
#define COOKIE (BOOTP + 236)
#define OPTIONS (COOKIE + 4)
#define FRAME_BYTES (BOOTP + 300)

enum { IDLE, DISCOVERING, REQUESTING };

struct client {
    int device, state;
    uint32_t xid;
    double sent;
};

static int sockets[DEVICES_MAX];
static double earned[DEVICES_MAX]; /* exchanges that may begin */
static struct client clients[CLIENTS_MAX];

/* An AF_PACKET socket that hears datagrams to UDP port 68 only: what it sends itself is no answer. */
static int open_device(const char *name) {
    static struct sock_filter code[] = {
        {0x28, 0, 0, 12}, {0x15, 0, 5, 0x0800}, {0x30, 0, 0, 23}, {0x15, 0, 3, 17},
        {0x28, 0, 0, 36}, {0x15, 0, 1, 68},     {0x06, 0, 0, 2048}, {0x06, 0, 0, 0},
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), bytes = 4 << 20;
    if (fd < 0) fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0) fail("filter");
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
    address.sll_ifindex = (int)if_nametoindex(name);
    if (address.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail(name);
    return fd;
}

static void put16(uint8_t *at, unsigned value) {
    at[0] = (uint8_t)(value >> 8), at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16), put16(at + 2, value & 0xffff);
}

/* Sends a client's next message; of a REQUEST the address and the server that were offered. */
static void send_message(long index, int type, uint32_t address, uint32_t server) {
    struct client *client = &clients[index];
    uint8_t frame[FRAME_BYTES] = {0}, *ip = frame + 14, *option = frame + OPTIONS;
    uint8_t mac[6] = {0x02, 0xdc};
    put32(mac + 2, (uint32_t)index);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    put16(frame + 12, ETH_P_IP);
    put16(ip, 0x4500), put16(ip + 2, FRAME_BYTES - 14), ip[8] = 64, ip[9] = 17;
    memset(ip + 16, 0xff, 4);
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2) sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    put16(ip + 10, ~sum & 0xffff);
    put16(frame + 34, 68), put16(frame + 36, 67), put16(frame + 38, FRAME_BYTES - 34);
    uint8_t *message = frame + BOOTP;
    message[0] = 1, message[1] = 1, message[2] = 6;
    put32(message + 4, client->xid);
    memcpy(message + 28, mac, 6);
    put32(frame + COOKIE, 0x63825363);
    *option++ = 53, *option++ = 1, *option++ = (uint8_t)type;
    if (type == 3) {
        *option++ = 50, *option++ = 4, put32(option, address), option += 4;
        *option++ = 54, *option++ = 4, put32(option, server), option += 4;
    }
    *option++ = 55, *option++ = 3, *option++ = 1, *option++ = 3, *option++ = 6;
    *option = 255;
    client->state = type == 1 ? DISCOVERING : REQUESTING;
    client->sent = now();
    (void)!send(sockets[client->device], frame, sizeof frame, 0); /* a full queue is a loss like any other */
}

static void begin(long index) {
    clients[index].xid = clients[index].xid * 1664525u + 1013904223u;
    send_message(index, 1, 0, 0);
}

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Reads an answer: its message type (0: none of ours) and what it says. */
static int read_answer(const uint8_t *frame, ssize_t length, long count, long *index, uint32_t *address,
                       uint32_t *server) {
    if (length < OPTIONS || frame[14] != 0x45 || get32(frame + COOKIE) != 0x63825363) return 0;
    const uint8_t *message = frame + BOOTP;
    if (message[0] != 2 || message[28] != 0x02 || message[29] != 0xdc) return 0;
    *index = (long)get32(message + 30);
    if (*index >= count || clients[*index].xid != get32(message + 4)) return 0;
    *address = get32(message + 16);
    int type = 0;
    for (ssize_t at = OPTIONS; at + 2 <= length && frame[at] != 255;) {
        if (frame[at] == 0) {
            at++;
            continue;
        }
        int size = frame[at + 1];
        if (at + 2 + size > length) return 0;
        if (frame[at] == 53 && size == 1) type = frame[at + 2];
        if (frame[at] == 54 && size == 4) *server = get32(frame + at + 2);
        at += 2 + size;
    }
    return type;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"dev", 1, 0, 'd'},      {"devices", 1, 0, 'n'}, {"macs", 1, 0, 'm'},    {"rate", 1, 0, 'r'},
        {"parallel", 1, 0, 'l'}, {"warm", 1, 0, 'w'},    {"seconds", 1, 0, 's'}, {0, 0, 0, 0},
    };
    const char *dev = NULL;
    long devices = 1, macs = 1, rate = 0, parallel = 64;
    double warm = 1, seconds = 3;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'd': dev = optarg; break;
        case 'n': devices = number("devices", optarg, 1, DEVICES_MAX); break;
        case 'm': macs = number("macs", optarg, 1, CLIENTS_MAX); break;
        case 'r': rate = number("rate", optarg, 0, 1000000); break;
        case 'l': parallel = number("parallel", optarg, 1, CLIENTS_MAX); break;
        case 'w': warm = strtod(optarg, NULL); break;
        case 's': seconds = strtod(optarg, NULL); break;
        default: return 2;
        }
    }
    if (dev == NULL || devices * macs > CLIENTS_MAX || !(seconds > 0)) {
        fprintf(stderr, "usage: dhcp-load --dev PREFIX [--devices N] [--macs N] [--rate N] [--parallel N]"
                        " [--warm S] [--seconds S]\n");
        return 2;
    }
    struct rlimit files = {DEVICES_MAX + 64, DEVICES_MAX + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    int queue = epoll_create1(EPOLL_CLOEXEC);
    if (queue < 0) fail("epoll");
    for (long i = 0; i < devices; i++) {
        char name[IF_NAMESIZE + 16];
        snprintf(name, sizeof name, "%s%ld", dev, i);
        sockets[i] = open_device(name);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = sockets[i]};
        if (epoll_ctl(queue, EPOLL_CTL_ADD, sockets[i], &event) < 0) fail("epoll");
        earned[i] = 1;
    }
    long count = devices * macs, busy = 0, next = 0;
    for (long i = 0; i < count; i++) {
        clients[i].device = (int)(i % devices);
        clients[i].xid = (uint32_t)i * 7919u + 1u;
    }

    uint64_t exchanges = 0, naks = 0, lost = 0;
    double start = now(), time = start, looked = start, from = start + warm;
    int is_warm = 0;
    while (time < from + seconds) {
        if (!is_warm && time >= from) is_warm = 1, from = time, exchanges = naks = lost = 0;
        for (long tried = 0; busy < parallel && tried < count; tried++, next = (next + 1) % count) {
            struct client *client = &clients[next];
            if (client->state != IDLE || (rate > 0 && earned[client->device] < 1)) continue;
            earned[client->device] -= 1;
            begin(next);
            busy++;
        }
        struct epoll_event events[64];
        int ready = epoll_wait(queue, events, 64, 1);
        for (int i = 0; i < ready; i++) {
            uint8_t frame[2048];
            ssize_t length;
            for (int j = 0; j < 64 && (length = recv(events[i].data.fd, frame, sizeof frame, 0)) > 0; j++) {
                uint32_t address = 0, server = 0;
                long index = 0;
                int type = read_answer(frame, length, count, &index, &address, &server);
                struct client *client = &clients[index];
                if (type == 2 && client->state == DISCOVERING) {
                    send_message(index, 3, address, server);
                } else if ((type == 5 || type == 6) && client->state == REQUESTING) {
                    exchanges += type == 5, naks += type == 6;
                    client->state = IDLE;
                    busy--;
                }
            }
        }
        double before = time;
        time = now();
        for (long i = 0; rate > 0 && i < devices; i++) {
            earned[i] += (time - before) * (double)rate;
            if (earned[i] > 2) earned[i] = 2;
        }
        if (time - looked < 0.05) continue;
        looked = time;
        for (long i = 0; i < count; i++) {
            if (clients[i].state == IDLE || time - clients[i].sent < RETRY_SECONDS) continue;
            clients[i].state = IDLE;
            busy--;
            lost++;
        }
    }
    printf("exchanges %llu naks %llu ", (unsigned long long)exchanges, (unsigned long long)naks);
    printf("lost %llu seconds %.3f\n", (unsigned long long)lost, time - from);
    return 0;
}
