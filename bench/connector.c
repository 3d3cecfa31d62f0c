/*
 * connector: opens TCP connections as fast as it can, and ends each as soon as it stands.
 *
 * It is the load of the bench of new connections. `serve` listens on some ports of an address and resets what it
 * accepts; `connect` keeps a number of attempts on their way, each from a source port of its own choice, counts those
 * that came to stand, and resets them. So a connection is four packets (SYN, SYN-ACK, ACK, RST), leaves nothing in
 * TIME_WAIT, and its 5-tuple may be used again at once. Source ports go round first, destination ports second:
 * `--sources` times `--ports` different tuples.
 *
 *   connector serve   --address A --port P [--ports N]
 *   connector connect --from A --to B --port P [--ports N] [--first PORT] [--sources N] [--parallel N] [--seconds S]
 *
 * `serve` prints `connector: ready` and runs until SIGTERM. `connect` prints one line
 * `connected N failed M seconds S`; an attempt that does not stand within a second has failed. What it does not do:
 * send data, IPv6.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "program.h"

#define PARALLEL_MAX 4096
#define EVENTS 256
#define PATIENCE_SECONDS 1.0

static struct in_addr parse_address(const char *text) {
    struct in_addr address;
    if (inet_pton(AF_INET, text, &address) != 1) {
        fprintf(stderr, "connector: %s is not an IPv4 address\n", text);
        exit(2);
    }
    return address;
}

/* Closes with a reset: nothing is left of the connection. */
static void reset(int fd) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

static void serve(struct in_addr address, long port, long ports) {
    int queue = epoll_create1(EPOLL_CLOEXEC), one = 1;
    if (queue < 0) fail("epoll");
    for (long i = 0; i < ports; i++) {
        struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = address};
        name.sin_port = htons((uint16_t)(port + i));
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) fail("socket");
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&name, sizeof name) < 0 || listen(fd, 4096) < 0) fail("listen");
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll");
    }
    puts("connector: ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(queue, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd;
            while ((fd = accept4(events[i].data.fd, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == ECONNABORTED)
                if (fd >= 0) reset(fd);
        }
    }
}

struct attempt {
    int fd; /* -1: none */
    double start;
};

struct load {
    struct in_addr from, to;
    long port, ports, first, sources, parallel;
    uint64_t next, connected, failed;
    int queue;
    struct attempt attempts[PARALLEL_MAX];
};

/* Begins the next attempt in a place. */
static void begin(struct load *load, long place) {
    for (int tries = 0; tries < 64; tries++) {
        uint64_t turn = load->next++;
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = load->from};
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = load->to};
        from.sin_port = htons((uint16_t)(load->first + (long)(turn % (uint64_t)load->sources)));
        to.sin_port = htons((uint16_t)(load->port + (long)(turn / (uint64_t)load->sources % (uint64_t)load->ports)));
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
        if (fd < 0) fail("socket");
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) == 0 &&
            (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS)) {
            struct epoll_event event = {.events = EPOLLOUT, .data.u64 = (uint64_t)place};
            if (epoll_ctl(load->queue, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll");
            load->attempts[place] = (struct attempt){fd, now()};
            return;
        }
        close(fd); /* the tuple is still in use: take the next */
    }
    fail("connect");
}

static void end(struct load *load, long place, int stands) {
    reset(load->attempts[place].fd);
    load->attempts[place].fd = -1;
    if (stands)
        load->connected++;
    else
        load->failed++;
}

static void run(struct load *load, double seconds) {
    load->queue = epoll_create1(EPOLL_CLOEXEC);
    if (load->queue < 0) fail("epoll");
    for (long i = 0; i < load->parallel; i++) begin(load, i);
    double start = now(), looked = start, time = start;
    while (time < start + seconds) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(load->queue, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            long place = (long)events[i].data.u64;
            int error = 0;
            socklen_t length = sizeof error;
            getsockopt(load->attempts[place].fd, SOL_SOCKET, SO_ERROR, &error, &length);
            /* the server's reset may be there before this side looks */
            end(load, place, error == 0 || error == ECONNRESET || error == EPIPE);
            begin(load, place);
        }
        time = now();
        if (time - looked < 0.1) continue;
        looked = time;
        for (long i = 0; i < load->parallel; i++) {
            if (time - load->attempts[i].start < PATIENCE_SECONDS) continue;
            end(load, i, 0);
            begin(load, i);
        }
    }
    printf("connected %llu failed %llu ", (unsigned long long)load->connected, (unsigned long long)load->failed);
    printf("seconds %.3f\n", time - start);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"address", 1, 0, 'a'}, {"from", 1, 0, 'f'},     {"to", 1, 0, 't'},
        {"port", 1, 0, 'p'},    {"ports", 1, 0, 'n'},    {"first", 1, 0, 'i'},
        {"sources", 1, 0, 's'}, {"parallel", 1, 0, 'l'}, {"seconds", 1, 0, 'd'},
        {0, 0, 0, 0},
    };
    static struct load load = {.port = 8000, .ports = 16, .first = 10000, .sources = 4096, .parallel = 64};
    double seconds = 3;
    int option, has_address = 0, has_from = 0, has_to = 0;
    const char *role = argc > 1 ? argv[1] : "";
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'a': load.to = parse_address(optarg), has_address = 1; break;
        case 'f': load.from = parse_address(optarg), has_from = 1; break;
        case 't': load.to = parse_address(optarg), has_to = 1; break;
        case 'p': load.port = number("port", optarg, 1, 65000); break;
        case 'n': load.ports = number("ports", optarg, 1, 500); break;
        case 'i': load.first = number("first", optarg, 1, 65535); break;
        case 's': load.sources = number("sources", optarg, 1, 60000); break;
        case 'l': load.parallel = number("parallel", optarg, 1, PARALLEL_MAX); break;
        case 'd': seconds = strtod(optarg, NULL); break;
        default: return 2;
        }
    }
    struct rlimit files = {PARALLEL_MAX + 1024, PARALLEL_MAX + 1024};
    setrlimit(RLIMIT_NOFILE, &files);
    if (strcmp(role, "serve") == 0 && has_address) serve(load.to, load.port, load.ports);
    if (strcmp(role, "connect") != 0 || !has_from || !has_to || load.first + load.sources > 65536 || !(seconds > 0)) {
        fprintf(stderr, "usage: connector serve --address A --port P [--ports N]\n"
                        "       connector connect --from A --to B --port P [--ports N] [--first PORT]"
                        " [--sources N] [--parallel N] [--seconds S]\n");
        return 2;
    }
    run(&load, seconds);
    return 0;
}
