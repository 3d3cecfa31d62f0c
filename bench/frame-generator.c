/*
 * frame-generator: sends Ethernet frames out of an existing interface as fast as one core can, for a given time.
 *
 * It is the load of the small-frame benches: it runs inside the network namespace of a host and stands for whatever
 * that host would send. One AF_PACKET socket, PACKET_QDISC_BYPASS (no queueing discipline between it and the driver),
 * sendmmsg with a burst of frames that were built once; so it costs the sending core as little as a user program can,
 * and the switch under test is what bounds the rate. Frames carry Ethertype 0x88b5 (IEEE 802 local experimental),
 * which a receiving host counts and then drops without answering, and a source MAC that cycles through `--sources`
 * addresses. With `--udp FROM,TO` they are IPv4 datagrams between these addresses (UDP port 9, discard; no UDP
 * checksum), whose source port cycles through 256 values: the receiving host then pays for its IP layer too.
 *
 *   frame-generator --dev IFNAME --dst MAC [--src MAC] [--size 64] [--seconds 3] [--sources 1] [--burst 64]
 *                   [--rate FRAMES/S] [--udp FROM,TO]
 *
 * Prints one line `sent N refused M seconds S`: frames the interface took, send calls it refused (ENOBUFS: queue full),
 * and the measured time. The size counts the Ethernet header and no FCS. What it does not do: receive, vary sizes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "program.h"

#define FRAME_MAX 9216
#define BURST_MAX 1024
#define SOURCES_MAX 65536
#define EXPERIMENTAL 0x88b5

static volatile sig_atomic_t stopped;

static void stop(int signal_number) {
    (void)signal_number;
    stopped = 1;
}

static void parse_mac(const char *text, uint8_t mac[6]) {
    unsigned part[6];
    if (sscanf(text, "%x:%x:%x:%x:%x:%x", part, part + 1, part + 2, part + 3, part + 4, part + 5) != 6) {
        fprintf(stderr, "frame-generator: %s is not a MAC address\n", text);
        exit(2);
    }
    for (int i = 0; i < 6; i++) mac[i] = (uint8_t)part[i];
}

/* The IPv4 and UDP headers of RFC 791 and 768 over the Ethernet header; the rest of the frame stays zero. */
static void write_udp(uint8_t *frame, int size, const char *addresses, int flow) {
    char from[INET_ADDRSTRLEN] = "", to[INET_ADDRSTRLEN] = "";
    uint8_t *ip = frame + ETH_HLEN, *udp = ip + 20;
    int length = size - ETH_HLEN;
    if (length < 28 || sscanf(addresses, "%15[0-9.],%15[0-9.]", from, to) != 2 ||
        inet_pton(AF_INET, from, ip + 12) != 1 || inet_pton(AF_INET, to, ip + 16) != 1) {
        fprintf(stderr, "frame-generator: --udp %s is not ADDRESS,ADDRESS, or the frame is too short\n", addresses);
        exit(2);
    }
    frame[12] = 0x08, frame[13] = 0x00;
    ip[0] = 0x45, ip[2] = (uint8_t)(length >> 8), ip[3] = (uint8_t)length, ip[8] = 64, ip[9] = 17;
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2) sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    ip[10] = (uint8_t)(~sum >> 8), ip[11] = (uint8_t)~sum;
    udp[0] = 0x80, udp[1] = (uint8_t)flow, udp[2] = 0, udp[3] = 9;
    udp[4] = (uint8_t)((length - 20) >> 8), udp[5] = (uint8_t)(length - 20);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"dev", 1, 0, 'd'},   {"dst", 1, 0, 't'},     {"src", 1, 0, 'f'},
        {"size", 1, 0, 's'},  {"seconds", 1, 0, 'n'}, {"sources", 1, 0, 'm'},
        {"burst", 1, 0, 'b'}, {"rate", 1, 0, 'r'},    {"udp", 1, 0, 'u'},
        {0, 0, 0, 0},
    };
    const char *dev = NULL, *udp = NULL;
    uint8_t dst[6] = {0}, src[6] = {0x02, 0, 0, 0, 0, 1};
    long size = 64, sources = 1, burst = 64, rate = 0;
    double seconds = 3;
    int has_dst = 0, option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'd': dev = optarg; break;
        case 't': parse_mac(optarg, dst), has_dst = 1; break;
        case 'f': parse_mac(optarg, src); break;
        case 's': size = number("size", optarg, ETH_HLEN, FRAME_MAX); break;
        case 'n': seconds = strtod(optarg, NULL); break;
        case 'm': sources = number("sources", optarg, 1, SOURCES_MAX); break;
        case 'b': burst = number("burst", optarg, 1, BURST_MAX); break;
        case 'u': udp = optarg; break;
        case 'r': rate = number("rate", optarg, 1, 100000000); break;
        default: return 2;
        }
    }
    if (dev == NULL || !has_dst || !(seconds > 0)) {
        fprintf(stderr, "usage: frame-generator --dev IFNAME --dst MAC [--src MAC] [--size N] [--seconds S]"
                        " [--sources N] [--burst N] [--rate N] [--udp FROM,TO]\n");
        return 2;
    }

    int fd = socket(AF_PACKET, SOCK_RAW, 0); /* protocol 0: receives nothing */
    if (fd < 0) fail("socket");
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(dev)};
    if (address.sll_ifindex == 0) fail(dev);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    int one = 1;
    if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0) fail("PACKET_QDISC_BYPASS");
    signal(SIGTERM, stop);
    signal(SIGINT, stop);

    static uint8_t frame[BURST_MAX][FRAME_MAX];
    static struct iovec part[BURST_MAX];
    static struct mmsghdr message[BURST_MAX];
    for (long i = 0; i < burst; i++) {
        memcpy(frame[i], dst, 6);
        memcpy(frame[i] + 6, src, 6);
        frame[i][12] = EXPERIMENTAL >> 8;
        frame[i][13] = EXPERIMENTAL & 0xff;
        if (udp != NULL) write_udp(frame[i], (int)size, udp, (int)i);
        part[i] = (struct iovec){frame[i], (size_t)size};
        message[i].msg_hdr = (struct msghdr){.msg_iov = &part[i], .msg_iovlen = 1};
    }

    uint64_t sent = 0, refused = 0, source = 0;
    double start = now(), end = start + seconds, time = start;
    while (!stopped && time < end) {
        if (rate > 0 && (double)sent >= (time - start) * (double)rate) {
            struct timespec pause = {0, 20000};
            nanosleep(&pause, NULL);
            time = now();
            continue;
        }
        if (sources > 1) {
            for (long i = 0; i < burst; i++, source = (source + 1) % (uint64_t)sources) {
                frame[i][10] = (uint8_t)(src[4] ^ (source >> 8));
                frame[i][11] = (uint8_t)(src[5] ^ source);
            }
        }
        int n = sendmmsg(fd, message, (unsigned)burst, 0);
        if (n > 0) sent += (uint64_t)n;
        if (n < burst) {
            if (n < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR) fail("sendmmsg");
            refused++;
        }
        time = now();
    }
    printf("sent %llu refused %llu ", (unsigned long long)sent, (unsigned long long)refused);
    printf("seconds %.3f\n", time - start);
    return 0;
}
