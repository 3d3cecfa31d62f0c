/*
 * Scenarios of the socket ports, one by its name: `ports NAME FOLDER`, where FOLDER is empty and takes the sockets.
 * Exit status 0: as it should be; a check that fails says where. ports.test.ts says what each is about. The engine and
 * its small pool come from native/fuzz/rig.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../native/fuzz/rig.h"
#include "../../native/headers.h"
#include "../../native/stream_memory.h"

#define OTHER_PORT 5

static struct engine *engine;
static int peer = -1; /* the other end of RIG_PORT */
static uint8_t bytes[QUEUE_BYTES * 2];

/* What the last turns gave, all together. */
static int frames, event;
static int32_t lengths[4096];
static uint8_t firsts[4096];

static void turn(void) {
    int count = engine_receive(engine, 0);
    for (int i = 0; i < count; i++) {
        struct record *record = record_of(engine, engine->burst[i]);
        firsts[frames] = *frame_of(engine, record);
        lengths[frames++] = record->length;
        pool_give(engine, engine->burst[i]);
    }
    if (engine->header[HEADER_EVENT_COUNT] > 0) event = engine->events[0].code;
}

static void turns(int count) {
    for (int i = 0; i < count; i++) turn();
}

static void open_stream(void) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(engine_attach(engine, RIG_PORT, KIND_STREAM, pair[0], -1) == 0);
    peer = pair[1];
}

static size_t put_frame(size_t at, uint32_t length, uint8_t fill) {
    store32(bytes + at, length);
    memset(bytes + at + 4, fill, length);
    return at + 4 + length;
}

/* Sends a frame of `length` bytes filled with `fill` to a port. */
static void transmit(int port, int32_t length, uint8_t fill, int32_t flags, int32_t tci) {
    int32_t packet = length > SMALL_FRAME_BYTES ? pool_take_large(engine) : pool_take_small(engine);
    CHECK(packet >= 0);
    struct record *record = pool_fill(engine, packet, length);
    memset(frame_of(engine, record), fill, (size_t)length);
    record->tci = tci;
    engine->egress[0] = (struct outgoing){.packet = packet, .port = port | flags};
    engine_transmit(engine, 1);
}

static void stream_byte_by_byte(void) {
    open_stream();
    size_t size = put_frame(put_frame(put_frame(0, 60, 1), 14, 2), 1514, 3);
    for (size_t i = 0; i < size; i++) {
        CHECK(send(peer, bytes + i, 1, 0) == 1);
        turn();
    }
    CHECK(frames == 3 && lengths[0] == 60 && lengths[1] == 14 && lengths[2] == 1514);
    CHECK(firsts[0] == 1 && firsts[1] == 2 && firsts[2] == 3);
}

static void stream_many_in_one(void) {
    size_t size = 0;
    open_stream();
    for (int i = 0; i < 200; i++) size = put_frame(size, 60, (uint8_t)i);
    CHECK(send(peer, bytes, size, 0) == (ssize_t)size);
    close(peer);
    for (int i = 0; i < 12; i++) {
        int before = frames;
        turn();
        CHECK(frames - before <= PORT_BURST);
        CHECK(event < 0 || frames + rig_drops(engine, DROP_NO_SLOT) == 200);
    }
    CHECK(frames + rig_drops(engine, DROP_NO_SLOT) == 200 && event == 0);
}

static void stream_bad_length(void) {
    static const uint32_t bad[] = {0, 69633, 0x80000000, 0xffffffff};
    for (int i = 0; i < 4; i++) {
        frames = 0;
        event = -1;
        open_stream();
        size_t size = put_frame(0, 60, 1);
        store32(bytes + size, bad[i]);
        put_frame(size + 4, 60, 2);
        CHECK(send(peer, bytes, size + 68, 0) == (ssize_t)size + 68);
        turns(3);
        CHECK(frames == 1 && event == EPROTO);
        CHECK(engine_detach(engine, RIG_PORT) == 0);
        close(peer);
    }
}

static void stream_longest(void) {
    static const uint32_t sizes[] = {MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 69632, 60};
    open_stream();
    for (int i = 0; i < 4; i++) {
        size_t size = put_frame(0, sizes[i], (uint8_t)i), sent = 0;
        while (sent < size) {
            ssize_t done = send(peer, bytes + sent, size - sent, MSG_NOSIGNAL);
            if (done > 0) sent += (size_t)done;
            turn();
        }
    }
    turns(3);
    CHECK(frames == 2 && lengths[0] == MAX_FRAME_BYTES && lengths[1] == 60 && event < 0);
    CHECK(rig_drops(engine, DROP_RECEIVE_ERROR) == 2);
}

static void stream_wire(void) {
    static const char expected[] = "\0\0\0\x10" "\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11\x11"
                                   "\0\0\0\x14" "\x22\x22\x22\x22\x22\x22\x22\x22\x22\x22\x22\x22"
                                   "\x81\0\x60\x07\x22\x22\x22\x22";
    open_stream();
    transmit(RIG_PORT, 16, 0x11, 0, 0);
    transmit(RIG_PORT, 16, 0x22, EGRESS_TAGGED, 0x6007);
    CHECK(recv(peer, bytes, sizeof bytes, 0) == sizeof expected - 1);
    CHECK(memcmp(bytes, expected, sizeof expected - 1) == 0);
    CHECK(rig_counter(engine, TRANSMITTED_PACKETS) == 2 && rig_counter(engine, TRANSMITTED_BYTES) == 36);
}

static void stream_never_reads(void) {
    int pair[2], sent = 3000, whole = 0, last = -1;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(engine_attach(engine, OTHER_PORT, KIND_DGRAM, dup(pair[0]), pair[0]) == 0);
    open_stream();
    for (int i = 0; i < sent; i++) {
        transmit(RIG_PORT, 1514, (uint8_t)(i % 251), 0, 0);
        transmit(OTHER_PORT, 60, (uint8_t)(i % 251), 0, 0);
        turn();
        CHECK(recv(pair[1], bytes, sizeof bytes, 0) == 60 && bytes[0] == i % 251);
    }
    double lost = rig_drops(engine, DROP_QUEUE_FULL);
    CHECK(lost > 0 && lost + rig_counter(engine, TRANSMITTED_PACKETS) == sent);
    rig_check_pool(engine);
    /* and now it does: what was taken comes, in order */
    ssize_t got = 0, more;
    while ((more = recv(peer, bytes + got, sizeof bytes - (size_t)got, 0)) > 0) {
        got += more;
        turn();
    }
    for (ssize_t at = 0; at < got; at += 1518, whole++) {
        CHECK(load32(bytes + at) == 1514 && (bytes[at + 4] == (last + 1) % 251 || whole == 0));
        last = bytes[at + 4];
    }
    CHECK(got == whole * 1518 && whole == rig_counter(engine, TRANSMITTED_PACKETS));
    CHECK(engine_detach(engine, OTHER_PORT) == 0);
    close(pair[1]);
}

static void stream_last_words(void) {
    open_stream();
    CHECK(send(peer, bytes, put_frame(0, 60, 7), 0) == 64);
    close(peer);
    transmit(RIG_PORT, 60, 1, 0, 0); /* refused: nobody is there */
    turns(2);
    CHECK(frames == 1 && firsts[0] == 7 && event == 0);
    CHECK(rig_drops(engine, DROP_NO_PEER) == 1);
}

/* The peer has not read what it was sent, so its end is an error, which recvmmsg() tells before what came first. */
static void stream_reset(void) {
    open_stream();
    CHECK(send(peer, bytes, put_frame(put_frame(0, 60, 7), 60, 8), 0) == 128);
    transmit(RIG_PORT, 60, 1, 0, 0);
    close(peer);
    turns(3);
    CHECK(frames == 2 && firsts[0] == 7 && firsts[1] == 8 && event == ECONNRESET);
}

/* A memory as no process leaves it, byte by byte of its words: the port ends, or goes on, and nothing else happens. */
static void stream_bad_memory(void) {
    int memory = memfd_create("stream", 0), ended = 0, pair[2];
    CHECK(ftruncate(memory, STREAM_BYTES) == 0);
    struct stream_memory *words = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    CHECK(words != MAP_FAILED);
    size_t size = offsetof(struct stream_memory, sending) + sizeof words->sending;
    for (size_t at = 0; at < size; at++) {
        memset(words, 0, size);
        ((uint8_t *)words)[at] = 0xff;
        event = -1;
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
        CHECK(engine_attach(engine, RIG_PORT, KIND_STREAM, pair[0], dup(memory)) == 0);
        turns(2);
        transmit(RIG_PORT, 60, 1, 0, 0);
        turns(8);
        CHECK(event == -1 || event == ECONNRESET || event == EPROTO);
        ended += event == ECONNRESET;
        CHECK(engine_detach(engine, RIG_PORT) == 0);
        close(pair[1]);
    }
    CHECK(ended >= 10);
    CHECK(ftruncate(memory, STREAM_BYTES - 1) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(engine_attach(engine, RIG_PORT, KIND_STREAM, pair[0], memory) == EINVAL);
    close(pair[1]);
}

/* Detached in order and attached again, as when a network moves to another shard: half a frame each way goes along. */
static void stream_moves(void) {
    int memory = memfd_create("stream", 0), pair[2], sent = 0, small = 4608;
    CHECK(ftruncate(memory, STREAM_BYTES) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
    peer = pair[1];
    size_t size = put_frame(0, 1514, 7), got = 0;
    for (int round = 0; round < 6; round++) {
        CHECK(engine_attach(engine, RIG_PORT, KIND_STREAM, dup(pair[0]), dup(memory)) == 0);
        size_t from = size * (size_t)round / 6, to = size * (size_t)(round + 1) / 6;
        CHECK(send(peer, bytes + from, to - from, 0) == (ssize_t)(to - from));
        for (int i = 0; i < 5; i++, sent++) transmit(RIG_PORT, 1514, (uint8_t)sent, 0, 0);
        turns(3);
        CHECK(engine_detach(engine, RIG_PORT) == 0);
    }
    CHECK(frames == 1 && lengths[0] == 1514 && firsts[0] == 7);
    CHECK(engine_attach(engine, RIG_PORT, KIND_STREAM, pair[0], memory) == 0);
    ssize_t more;
    for (int idle = 0; idle < 9; turn(), idle++)
        while ((more = recv(peer, bytes + got, sizeof bytes - got, 0)) > 0) got += (size_t)more, idle = 0;
    CHECK(got == (size_t)sent * 1518);
    for (int i = 0; i < sent; i++) CHECK(load32(bytes + i * 1518) == 1514 && bytes[i * 1518 + 4] == i);
}

/* ---- datagrams ---- */

static const char *folder; /* the test removes it */
static struct sockaddr_un to; /* the port's */

static int bound(const char *name, struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "%s/%s", folder, name);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)address, sizeof *address) == 0);
    return fd;
}

/* From the peer to the port, as QEMU does it, without connecting. */
static ssize_t put(size_t length) { return sendto(peer, bytes, length, 0, (struct sockaddr *)&to, sizeof to); }

/* Two bound sockets, as QEMU's: the port's and the peer's; returns the peer's. */
static int open_dgram(bool connected) {
    struct sockaddr_un ours, theirs;
    int fd = bound("ours", &ours), other = bound("theirs", &theirs), out = -1;
    if (connected) {
        out = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        CHECK(out >= 0 && connect(out, (struct sockaddr *)&theirs, sizeof theirs) == 0);
    }
    to = ours;
    CHECK(engine_attach(engine, RIG_PORT, KIND_DGRAM, fd, out) == 0);
    return peer = other;
}

static void dgram_lengths(void) {
    static const int32_t sizes[] = {1, 14, 60, 1514, SMALL_FRAME_BYTES - 1, SMALL_FRAME_BYTES, SMALL_FRAME_BYTES + 1,
                                    9014, 65549, MAX_FRAME_BYTES};
    open_dgram(true);
    for (int i = 0; i < 10; i++) {
        for (int32_t k = 0; k < sizes[i]; k++) bytes[k] = (uint8_t)(k * 31 + i);
        CHECK(put((size_t)sizes[i]) == sizes[i]);
        CHECK(engine_receive(engine, 0) == 1);
        int32_t packet = engine->burst[0];
        const struct record *record = record_of(engine, packet);
        CHECK(record->length == sizes[i] && (packet < RIG_SMALL) == (sizes[i] <= SMALL_FRAME_BYTES));
        CHECK(memcmp(frame_of(engine, record), bytes, (size_t)sizes[i]) == 0);
        pool_give(engine, packet);
        rig_check_pool(engine);
    }
    CHECK(put(MAX_FRAME_BYTES + 1) > 0 && put(0) == 0);
    turns(2);
    CHECK(frames == 0 && rig_drops(engine, DROP_RECEIVE_ERROR) == 2);
}

static void dgram_slow_peer(void) {
    int got = 0;
    open_dgram(true);
    for (int i = 0; i < 300; i++) transmit(RIG_PORT, 600, (uint8_t)i, i % 2 ? EGRESS_TAGGED : 0, 5);
    CHECK(rig_counter(engine, TRANSMITTED_PACKETS) == 300);
    for (int idle = 0; idle < 3; turn(), idle++) {
        ssize_t size;
        while ((size = recv(peer, bytes, sizeof bytes, 0)) > 0) {
            CHECK(size == (got % 2 ? 604 : 600) && bytes[0] == (uint8_t)got);
            got++;
            idle = 0;
        }
    }
    CHECK(got == 300);
}

static void dgram_no_peer(void) {
    open_dgram(false);
    transmit(RIG_PORT, 60, 1, 0, 0);
    turn();
    CHECK(rig_drops(engine, DROP_NO_PEER) == 1 && event < 0);
    CHECK(put(60) == 60);
    turn();
    CHECK(frames == 1);
}

/* Attached anew, as by the process that follows a dead one: the guest need not say anything first. */
static void dgram_remembers(void) {
    open_dgram(false);
    CHECK(put(60) == 60);
    turn();
    int fd = dup(engine->ports[RIG_PORT].fd);
    CHECK(frames == 1 && engine_detach(engine, RIG_PORT) == 0);
    CHECK(engine_attach(engine, RIG_PORT, KIND_DGRAM, fd, -1) == 0);
    transmit(RIG_PORT, 60, 9, 0, 0);
    CHECK(recv(peer, bytes, sizeof bytes, 0) == 60 && bytes[0] == 9);
    CHECK(rig_drops(engine, DROP_NO_PEER) == 0);
    /* another socket at that port has no peer yet */
    CHECK(engine_detach(engine, RIG_PORT) == 0);
    struct sockaddr_un address;
    CHECK(engine_attach(engine, RIG_PORT, KIND_DGRAM, bound("other", &address), -1) == 0);
    transmit(RIG_PORT, 60, 9, 0, 0);
    CHECK(rig_drops(engine, DROP_NO_PEER) == 1);
}

static void dgram_peer_leaves(void) {
    open_dgram(true);
    transmit(RIG_PORT, 60, 1, 0, 0);
    close(peer);
    transmit(RIG_PORT, 60, 1, 0, 0);
    transmit(RIG_PORT, 60, 1, 0, 0);
    turn();
    CHECK(event == ECONNREFUSED && rig_drops(engine, DROP_NO_PEER) == 2);
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {
        {"stream-byte-by-byte", stream_byte_by_byte},
        {"stream-many-in-one", stream_many_in_one},
        {"stream-bad-length", stream_bad_length},
        {"stream-longest", stream_longest},
        {"stream-wire", stream_wire},
        {"stream-never-reads", stream_never_reads},
        {"stream-last-words", stream_last_words},
        {"stream-reset", stream_reset},
        {"stream-bad-memory", stream_bad_memory},
        {"stream-moves", stream_moves},
        {"dgram-lengths", dgram_lengths},
        {"dgram-slow-peer", dgram_slow_peer},
        {"dgram-no-peer", dgram_no_peer},
        {"dgram-remembers", dgram_remembers},
        {"dgram-peer-leaves", dgram_peer_leaves},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (count < 3 || strcmp(arguments[1], all[i].name)) continue;
        folder = arguments[2];
        engine = rig_engine();
        event = -1;
        all[i].run();
        if (engine->ports[RIG_PORT].ops) CHECK(engine_detach(engine, RIG_PORT) == 0);
        rig_check_pool(engine);
        engine_close(engine);
        puts("as it should be");
        return 0;
    }
    return 2;
}
