/*
 * vhost-load: two guests' network cards in one process, which send to each other as fast as one core can.
 *
 * It is the load of the vhost-user benches where testpmd's flowgen does not do: that writes MAC addresses of its own,
 * the same at both ports, and knows no answers. The ports are DPDK's virtio-user devices, so the driver of the rings is
 * the same. Each frame is an IPv4 datagram to the MAC that is named for its port, from the port's own; there are
 * `--flows` of them, told apart by their source port, and they take turns of `--run` frames.
 *
 *   vhost-load EAL-OPTIONS --vdev … --vdev … -- --to MAC,MAC --ip A,B [--size 64] [--flows 64] [--run 1] [--echo]
 *
 * Port 0 sends from A to B at MAC 1, port 1 from B to A at MAC 2. With `--echo` port 1 sends nothing of its own: it
 * returns each frame to where it came from, as it came: so through NAT it answers to the translated address. All 42
 * octets of headers are right; a frame of 64 octets has a UDP checksum too. Sizes count the FCS, which is not there.
 *
 * Says `vhost-load: ready`; then, for each line `SECONDS` of its input, sends for so long and says one line `received
 * N sent N wrong N seconds S`: both ports together. After `verify SECONDS` it looks at each frame that arrives: its
 * length, that it is for the port's MAC, and both checksums, which cover all of a frame of 64 octets; else none is
 * wrong. In between it is attached and still. Ends with its input. What it does not do: answer ARP, several queues.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>
#include <stdbool.h>
#include <stdint.h>

#include "program.h"

#define PORTS 2
#define BURST 32
#define RING 256
#define BUFFERS 16384
#define BUFFER_CACHE 256
#define FLOWS_MAX 65536
#define FIRST_PORT 1024 /* of the flows */
#define SERVICE_PORT 7000
#define TEMPLATE 64
#define HEADERS (RTE_ETHER_HDR_LEN + sizeof(struct rte_ipv4_hdr) + sizeof(struct rte_udp_hdr))
#define FCS 4

struct template {
    uint8_t bytes[TEMPLATE];
};

struct port {
    struct template *flows;
    struct rte_ether_addr mac;
    uint32_t next, turns; /* the flow, and how many frames of it have gone in this turn */
    struct rte_mbuf *waiting[BURST]; /* built and not taken yet */
    uint16_t first, count;
};

static struct port ports[PORTS];
static struct rte_mempool *pool;
static uint32_t flows = 64, turn_frames = 1;
static uint16_t size = 64 - FCS;
static bool is_echo, is_verified;
static uint64_t wrong;

static void refuse(const char *what, const char *value) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, value);
    exit(2);
}

static void open_port(uint16_t id) {
    struct rte_eth_conf configuration = {0};
    int socket = rte_eth_dev_socket_id(id);
    if (rte_eth_dev_configure(id, 1, 1, &configuration) != 0) refuse("port", "not configured");
    if (rte_eth_rx_queue_setup(id, 0, RING, (unsigned)socket, NULL, pool) != 0) refuse("port", "no receive queue");
    if (rte_eth_tx_queue_setup(id, 0, RING, (unsigned)socket, NULL) != 0) refuse("port", "no transmit queue");
    if (rte_eth_dev_start(id) != 0) refuse("port", "not started");
}

static void build(struct template *to, const struct rte_ether_addr *next, uint16_t id, const uint32_t ends[2],
                  uint32_t flow) {
    struct rte_ether_hdr *ethernet = (struct rte_ether_hdr *)to->bytes;
    struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(ethernet + 1);
    struct rte_udp_hdr *udp = (struct rte_udp_hdr *)(ip + 1);
    uint16_t own = (uint16_t)(FIRST_PORT + flow);
    memset(to, 0, sizeof *to);
    ethernet->dst_addr = *next;
    ethernet->src_addr = ports[id].mac;
    ethernet->ether_type = htons(RTE_ETHER_TYPE_IPV4);
    ip->version_ihl = RTE_IPV4_VHL_DEF;
    ip->total_length = htons((uint16_t)(size - RTE_ETHER_HDR_LEN));
    ip->time_to_live = 64;
    ip->next_proto_id = IPPROTO_UDP;
    ip->src_addr = ends[id];
    ip->dst_addr = ends[1 - id];
    ip->hdr_checksum = rte_ipv4_cksum(ip);
    udp->src_port = htons(id == 0 ? own : SERVICE_PORT);
    udp->dst_port = htons(id == 0 ? SERVICE_PORT : own);
    udp->dgram_len = htons((uint16_t)(size - RTE_ETHER_HDR_LEN - sizeof *ip));
    if (size <= TEMPLATE) udp->dgram_cksum = rte_ipv4_udptcp_cksum(ip, udp);
}

static void fill(struct port *port) {
    port->first = port->count = 0;
    if (rte_pktmbuf_alloc_bulk(pool, port->waiting, BURST) != 0) return;
    for (int i = 0; i < BURST; i++) {
        struct rte_mbuf *frame = port->waiting[i];
        memcpy(rte_pktmbuf_mtod(frame, void *), port->flows[port->next].bytes, TEMPLATE);
        frame->data_len = size;
        frame->pkt_len = size;
        if (++port->turns < turn_frames) continue;
        port->turns = 0;
        if (++port->next == flows) port->next = 0;
    }
    port->count = BURST;
}

static uint64_t send_waiting(uint16_t id) {
    struct port *port = &ports[id];
    uint16_t sent = rte_eth_tx_burst(id, 0, port->waiting + port->first, port->count);
    port->first += sent;
    port->count -= sent;
    return sent;
}

/* Back to where it came from: the headers' checksums stay right, since sums do not mind the order. */
static void turn(struct rte_mbuf *frame) {
    struct rte_ether_hdr *ethernet = rte_pktmbuf_mtod(frame, struct rte_ether_hdr *);
    struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(ethernet + 1);
    struct rte_udp_hdr *udp = (struct rte_udp_hdr *)(ip + 1);
    struct rte_ether_addr mac = ethernet->src_addr;
    uint32_t address = ip->src_addr;
    uint16_t number = udp->src_port;
    ethernet->src_addr = ethernet->dst_addr;
    ethernet->dst_addr = mac;
    ip->src_addr = ip->dst_addr;
    ip->dst_addr = address;
    udp->src_port = udp->dst_port;
    udp->dst_port = number;
}

static bool is_right(const struct rte_mbuf *frame, uint16_t id) {
    const struct rte_ether_hdr *ethernet = rte_pktmbuf_mtod(frame, const struct rte_ether_hdr *);
    const struct rte_ipv4_hdr *ip = (const struct rte_ipv4_hdr *)(ethernet + 1);
    const struct rte_udp_hdr *udp = (const struct rte_udp_hdr *)(ip + 1);
    if (frame->nb_segs != 1 || frame->data_len != size) return false;
    if (!rte_is_same_ether_addr(&ethernet->dst_addr, &ports[id].mac)) return false;
    if (ethernet->ether_type != htons(RTE_ETHER_TYPE_IPV4) || ip->version_ihl != RTE_IPV4_VHL_DEF) return false;
    if (ip->total_length != htons((uint16_t)(size - RTE_ETHER_HDR_LEN))) return false;
    if (rte_raw_cksum(ip, sizeof *ip) != 0xffff) return false;
    if (size > TEMPLATE) return true;
    uint32_t sum = (uint32_t)rte_raw_cksum(udp, size - HEADERS + sizeof *udp) + rte_ipv4_phdr_cksum(ip, 0);
    return udp->dgram_cksum != 0 && (sum & 0xffff) + (sum >> 16) == 0xffff;
}

static uint16_t take(uint16_t id) {
    struct rte_mbuf *frames[BURST];
    struct port *port = &ports[id];
    /* what cannot be returned yet waits in the ring, as with a guest that is busy */
    if (is_echo && id == 1 && port->count > 0) return 0;
    uint16_t count = rte_eth_rx_burst(id, 0, frames, BURST);
    for (uint16_t i = 0; is_verified && i < count; i++) wrong += !is_right(frames[i], id);
    if (!is_echo || id == 0) {
        if (count > 0) rte_pktmbuf_free_bulk(frames, count);
        return count;
    }
    port->first = 0;
    for (uint16_t i = 0; i < count; i++) {
        if (frames[i]->data_len < HEADERS || frames[i]->nb_segs != 1) {
            rte_pktmbuf_free(frames[i]);
            continue;
        }
        turn(frames[i]);
        port->waiting[port->count++] = frames[i];
    }
    return count;
}

static void run(double seconds) {
    uint64_t received = 0, sent = 0;
    wrong = 0;
    double start = now(), time = start;
    while (time < start + seconds) {
        for (int i = 0; i < 64; i++) {
            for (uint16_t id = 0; id < PORTS; id++) {
                received += take(id);
                if (ports[id].count == 0 && !(is_echo && id == 1)) fill(&ports[id]);
                if (ports[id].count > 0) sent += send_waiting(id);
            }
        }
        time = now();
    }
    printf("received %llu sent %llu ", (unsigned long long)received, (unsigned long long)sent);
    printf("wrong %llu seconds %.4f\n", (unsigned long long)wrong, time - start);
}

static void parse_pair(char *text, const char *name, char *pair[2]) {
    pair[0] = strtok(text, ",");
    pair[1] = strtok(NULL, ",");
    if (pair[0] == NULL || pair[1] == NULL) refuse(name, "two are needed, with a comma between");
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"to", 1, 0, 't'},    {"ip", 1, 0, 'i'},   {"size", 1, 0, 's'},
                                            {"flows", 1, 0, 'f'}, {"run", 1, 0, 'r'},  {"echo", 0, 0, 'e'},
                                            {0}};
    int taken = rte_eal_init(argc, argv);
    if (taken < 0) refuse("EAL", "not begun");
    argc -= taken;
    argv += taken;
    struct rte_ether_addr next[PORTS] = {0};
    uint32_t ends[PORTS] = {0};
    char *pair[2];
    int one;
    while ((one = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (one) {
        case 't':
            parse_pair(optarg, "--to", pair);
            for (int i = 0; i < PORTS; i++)
                if (rte_ether_unformat_addr(pair[i], &next[i]) != 0) refuse("--to", pair[i]);
            break;
        case 'i':
            parse_pair(optarg, "--ip", pair);
            for (int i = 0; i < PORTS; i++)
                if (inet_pton(AF_INET, pair[i], &ends[i]) != 1) refuse("--ip", pair[i]);
            break;
        case 's': size = (uint16_t)(number("size", optarg, 64, 1518) - FCS); break;
        case 'f': flows = (uint32_t)number("flows", optarg, 1, FLOWS_MAX - FIRST_PORT); break;
        case 'r': turn_frames = (uint32_t)number("run", optarg, 1, FLOWS_MAX); break;
        case 'e': is_echo = true; break;
        default: return 2;
        }
    }
    if (rte_eth_dev_count_avail() != PORTS) refuse("--vdev", "two ports are needed");
    pool = rte_pktmbuf_pool_create("pool", BUFFERS, BUFFER_CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (pool == NULL) refuse("pool", "no memory");
    for (uint16_t id = 0; id < PORTS; id++) {
        open_port(id);
        rte_eth_macaddr_get(id, &ports[id].mac);
        ports[id].flows = calloc(flows, sizeof(struct template));
        if (ports[id].flows == NULL) fail("flows");
        for (uint32_t flow = 0; flow < flows; flow++) build(&ports[id].flows[flow], &next[id], id, ends, flow);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("vhost-load: ready");
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        is_verified = strncmp(line, "verify ", 7) == 0;
        run(strtod(is_verified ? line + 7 : line, NULL));
    }
    for (uint16_t id = 0; id < PORTS; id++) rte_eth_dev_stop(id);
    return 0;
}
