/*
 * probe: what the tests ask of the kernel and Node cannot, compiled at run time by raw.ts.
 *
 *   probe send IFNAME             frames from standard input, each after its length (u32, network order), out of a raw
 *                                 socket as they are: any EtherType, any tag, any length the kernel lets through.
 *                                 Prints "sent N refused M".
 *   probe send-unfinished IFNAME  the same, each frame behind a virtio_net header of 10 bytes (PACKET_VNET_HDR).
 *   probe sink PORT               counts UDP datagrams on PORT by size until standard input
 *                                 ends; prints "ready", then lines "SIZE COUNT".
 *   probe segments ADDRESS PORT SIZE COUNT
 *                                 one UDP send of SIZE*COUNT bytes that the kernel (or whoever takes the large frame)
 *                                 cuts into COUNT datagrams of SIZE bytes (UDP_SEGMENT).
 *   probe stream-in PORT          accepts one TCP connection, reads it to its end and compares it with the pattern.
 *                                 Prints "ready", then "intact BYTES" or "broken at BYTE".
 *   probe stream-out ADDRESS PORT BYTES   connects and sends that much of the pattern.
 *
 * It believes its own test; it checks no more than system calls need.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static unsigned char frame[1 << 17];

static int fail(const char *what) {
    perror(what);
    return 1;
}

static int send_frames(const char *device, int headers) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0) return fail("socket");
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device)};
    if (to.sll_ifindex == 0) return fail(device);
    if (bind(fd, (struct sockaddr *)&to, sizeof to) != 0) return fail("bind");
    if (headers && setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &headers, sizeof headers) != 0)
        return fail("PACKET_VNET_HDR");
    long sent = 0, refused = 0;
    uint32_t length;
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        length = ntohl(length);
        if (length > sizeof frame || fread(frame, 1, length, stdin) != length) break;
        while (send(fd, frame, length, 0) < 0) {
            if (errno == ENOBUFS || errno == EAGAIN) {
                usleep(1000);
                continue;
            }
            refused++;
            sent--;
            break;
        }
        sent++;
    }
    printf("sent %ld refused %ld\n", sent, refused);
    return 0;
}

static int sink(const char *port) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int size = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) != 0) return fail("bind");
    printf("ready\n");
    fflush(stdout);
    static long counts[65536];
    struct pollfd ready[2] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    while (poll(ready, 2, -1) > 0) {
        if (ready[0].revents) {
            ssize_t got = recv(fd, frame, sizeof frame, 0);
            if (got >= 0 && got < 65536) counts[got]++;
            continue;
        }
        if (read(0, frame, sizeof frame) <= 0) break;
    }
    for (int i = 0; i < 65536; i++)
        if (counts[i] > 0) printf("%d %ld\n", i, counts[i]);
    return 0;
}

static int segments(const char *address, const char *port, int size, int count) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) return fail(address);
    if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) != 0) return fail("UDP_SEGMENT");
    for (int i = 0; i < size * count; i++) frame[i] = (unsigned char)(i % 251);
    if (sendto(fd, frame, (size_t)(size * count), 0, (struct sockaddr *)&to, sizeof to) < 0) return fail("sendto");
    return 0;
}

/* Byte n of the pattern: no period that divides a segment's or a page's size. */
static unsigned char pattern(uint64_t n) {
    return (unsigned char)((n * 2654435761u) >> 13 ^ n / 65521);
}

static int stream_in(const char *port) {
    int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    struct sockaddr_in here4 = {.sin_family = AF_INET, .sin_port = here.sin6_port};
    struct sockaddr *name = (struct sockaddr *)&here;
    socklen_t size = sizeof here;
    if (fd < 0) {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        name = (struct sockaddr *)&here4;
        size = sizeof here4;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, name, size) != 0 || listen(fd, 1) != 0) return fail("listen");
    printf("ready\n");
    fflush(stdout);
    int peer = accept(fd, NULL, NULL);
    if (peer < 0) return fail("accept");
    uint64_t total = 0;
    ssize_t got;
    while ((got = read(peer, frame, sizeof frame)) > 0)
        for (ssize_t i = 0; i < got; i++, total++)
            if (frame[i] != pattern(total)) {
                printf("broken at %llu\n", (unsigned long long)total);
                return 1;
            }
    if (got < 0) return fail("read");
    printf("intact %llu\n", (unsigned long long)total);
    return 0;
}

static int stream_out(const char *address, const char *port, uint64_t bytes) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *to;
    if (getaddrinfo(address, port, &hints, &to) != 0) return fail(address);
    int fd = socket(to->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) != 0) return fail("connect");
    for (uint64_t sent = 0; sent < bytes;) {
        size_t amount = bytes - sent < sizeof frame ? (size_t)(bytes - sent) : sizeof frame;
        for (size_t i = 0; i < amount; i++) frame[i] = pattern(sent + i);
        for (size_t done = 0; done < amount;) {
            ssize_t wrote = write(fd, frame + done, amount - done);
            if (wrote < 0) return fail("write");
            done += (size_t)wrote;
        }
        sent += amount;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "send") == 0) return send_frames(argv[2], 0);
    if (argc == 3 && strcmp(argv[1], "send-unfinished") == 0) return send_frames(argv[2], 1);
    if (argc == 3 && strcmp(argv[1], "sink") == 0) return sink(argv[2]);
    if (argc == 6 && strcmp(argv[1], "segments") == 0)
        return segments(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
    if (argc == 3 && strcmp(argv[1], "stream-in") == 0) return stream_in(argv[2]);
    if (argc == 5 && strcmp(argv[1], "stream-out") == 0)
        return stream_out(argv[2], argv[3], strtoull(argv[4], NULL, 10));
    fprintf(stderr, "usage: probe send|send-unfinished|sink|segments|stream-in|stream-out, see the head of probe.c\n");
    return 2;
}
