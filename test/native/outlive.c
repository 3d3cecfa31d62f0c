/*
 * A stream that outlives the process that serves it: processes are killed with SIGKILL, one after another, on the same
 * socket, arena and stream memory.
 *
 *   outlive random KILLS SEED     at random moments, while frames go both ways as fast as they can
 *   outlive steps SCENARIO        after single instructions: wherever what a successor reads has changed, and between
 *
 * This process is the peer, its children serve the port. Frames carry numbers, and their bytes follow from the number:
 * plain ones, tagged ones, and ones that are cut into segments. What must hold, either way: every length is one, every
 * frame is whole and true, the numbers only rise, and at the end nothing is left of a frame. Exit status 0 if it does.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../native/fuzz/rig.h"
#include "../../native/headers.h"
#include "../../native/journal.h"
#include "../../native/stream_memory.h"

#define SMALL 96
#define LARGE 8
#define SEGMENT_PAYLOAD 1000
#define HEADERS 54 /* of a frame to be cut: Ethernet, IPv4, TCP */
#define SEND_BUFFER 16000
#define TAG 0x6007

/* What outlives a child, besides arena and stream memory. */
struct shared {
    uint32_t received; /* number of the last frame from the peer */
    uint32_t made;     /* frames that children have made */
    uint32_t final; /* number of the peer's last frame; a child that has it makes no more, and ends when all is sent */
};

static struct {
    struct shared *shared;
    int arena, memory; /* descriptors */
    size_t arena_bytes;
    uint8_t *seen_arena; /* the peer's view */
    struct stream_memory *seen_memory;
    int port, peer; /* sockets */
} world;

static void open_sockets(int bytes) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) == 0);
    world.port = pair[0];
    world.peer = pair[1];
}

static void open_world(void) {
    world.arena_bytes = rig_format(NULL, SMALL, LARGE);
    world.arena = memfd_create("arena", 0);
    world.memory = memfd_create("stream", 0);
    CHECK(ftruncate(world.arena, (off_t)world.arena_bytes) == 0 && ftruncate(world.memory, STREAM_BYTES) == 0);
    world.seen_arena = mmap(NULL, world.arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, world.arena, 0);
    world.seen_memory = mmap(NULL, STREAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, world.memory, 0);
    world.shared = mmap(NULL, sizeof *world.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(world.seen_arena != MAP_FAILED && world.seen_memory != MAP_FAILED && world.shared != MAP_FAILED);
    rig_format(world.seen_arena, SMALL, LARGE);
    open_sockets(SEND_BUFFER);
}

static void close_world(void) {
    munmap(world.seen_arena, world.arena_bytes);
    munmap(world.seen_memory, STREAM_BYTES);
    munmap(world.shared, sizeof *world.shared);
    close(world.arena), close(world.memory), close(world.port), close(world.peer);
}

/* ---- what a successor finds ---- */

static struct journal *seen_journal(void) {
    const int32_t *header = (const int32_t *)(const void *)world.seen_arena;
    return (void *)(world.seen_arena + header[HEADER_JOURNAL]);
}

static bool is_received(void) { return world.seen_memory->receive.message.msg_len > 0; }
static bool is_drained(void) { return world.seen_memory->drain.message.msg_len > 0; }
static bool is_sent_in_part(void) {
    const struct journal *journal = seen_journal();
    struct iovec rest[2];
    if (!journal->stream || world.seen_memory->queued) return false;
    batch_sent(journal->spans, journal->frames, journal->message.msg_len, rest);
    return rest[0].iov_len + rest[1].iov_len > 0;
}

/* ---- frames ---- */

#define WHEEL 8192
static uint8_t wheel[WHEEL + QEMU_FRAME_MAX];

/* What the bytes of a frame are, from `at` on. */
static const uint8_t *pattern(uint32_t number, uint32_t at) {
    CHECK(at < QEMU_FRAME_MAX);
    return wheel + number * 37 % WHEEL + at;
}

/* addresses, type | number, length | pattern */
static void write_plain(uint8_t *frame, int32_t length, uint32_t number) {
    memset(frame, 0x02, ADDRESSES_BYTES);
    store16(frame + 12, 0x88b5);
    store32(frame + 14, number);
    store32(frame + 18, (uint32_t)length);
    memcpy(frame + 22, pattern(number, 22), (size_t)length - 22);
}

static uint32_t check_plain(const uint8_t *frame, int32_t length) {
    CHECK(length >= 22 && load16(frame + 12) == 0x88b5 && load32(frame + 18) == (uint32_t)length);
    uint32_t number = load32(frame + 14);
    CHECK(memcmp(frame + 22, pattern(number, 22), (size_t)length - 22) == 0);
    return number;
}

/* The number is TCP's acknowledgement, the pattern the payload, from sequence number 0. */
static void write_long(uint8_t *frame, int32_t payload, uint32_t number) {
    memset(frame, 0, HEADERS);
    store16(frame + 12, 0x0800);
    frame[14] = 0x45, frame[22] = 64, frame[23] = 6;
    store16(frame + 16, HEADERS - 14 + payload);
    store32(frame + 42, number);
    frame[46] = 0x50, frame[47] = 0x10;
    memcpy(frame + HEADERS, pattern(number, 0), (size_t)payload);
}

static uint32_t check_segment(const uint8_t *frame, int32_t length) {
    uint32_t number = load32(frame + 42), at = load32(frame + 38);
    CHECK(length > HEADERS && length <= HEADERS + SEGMENT_PAYLOAD && load16(frame + 16) == length - 14);
    CHECK(memcmp(frame + HEADERS, pattern(number, at), (size_t)(length - HEADERS)) == 0);
    return number;
}

/* ---- a child: serves the port ---- */

static struct engine engine;

static void serve(void) {
    uint8_t *arena = mmap(NULL, world.arena_bytes + (size_t)(getpid() % 64) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                          world.arena, 0);
    CHECK(arena != MAP_FAILED);
    CHECK(engine_open(&engine, arena, world.arena_bytes) == 0);
    CHECK(engine_attach(&engine, RIG_PORT, KIND_STREAM, dup(world.port), dup(world.memory)) == 0);
}

static void receive(void) {
    int count = engine_receive(&engine, 0);
    for (int i = 0; i < count; i++) {
        struct record *record = record_of(&engine, engine.burst[i]);
        uint32_t number = check_plain(frame_of(&engine, record), record->length);
        CHECK(number > world.shared->received);
        world.shared->received = number;
        record->references = 0;
        pool_give(&engine, engine.burst[i]);
    }
    CHECK(engine.header[HEADER_EVENT_COUNT] == 0);
}

/* Makes a frame of the next number; returns its pair of the egress list. */
static struct outgoing make(void) {
    static const int32_t lengths[] = {60, 22, 1514, 300, 1200, 500, 700, 900, 1514};
    uint32_t number = ++world.shared->made;
    int32_t length = number % 97 == 96 ? 60000 : lengths[number * 5 / 3 % 9],
            flags = number % 4 == 1 ? EGRESS_TAGGED : 0;
    bool is_long = number % 7 == 3;
    if (is_long) length = HEADERS + 5500;
    int32_t packet = length > SMALL_FRAME_BYTES ? pool_take_large(&engine) : pool_take_small(&engine);
    CHECK(packet >= 0);
    struct record *record = pool_fill(&engine, packet, length);
    uint8_t *frame = frame_of(&engine, record);
    record->tci = TAG;
    if (!is_long) {
        write_plain(frame, length, number);
        return (struct outgoing){.packet = packet, .port = RIG_PORT | flags};
    }
    write_long(frame, length - HEADERS, number);
    record->offload = GSO_TCP4 << GSO_SHIFT | OFFLOAD_CHECKSUM;
    record->segment_bytes = SEGMENT_PAYLOAD;
    record->checksum_start = 34, record->checksum_offset = 16, record->header_length = HEADERS;
    return (struct outgoing){.packet = packet, .port = RIG_PORT | flags | EGRESS_SEGMENT};
}

static void transmit(int frames) {
    for (int i = 0; i < frames; i++) engine.egress[i] = make();
    engine_transmit(&engine, frames);
}

static bool all_done(void) {
    return world.shared->final && world.shared->received == world.shared->final && world.seen_memory->queued == 0;
}

static _Noreturn void child_of_random(void) {
    int turns = 0;
    serve();
    while (!all_done()) {
        receive();
        /* mostly past an empty queue */
        bool is_due = ++turns % 64 == 0 || world.seen_memory->queued == 0;
        if (is_due && world.shared->final == 0) transmit(1 + turns % 20);
    }
    _exit(0);
}

/* ---- the peer ---- */

static struct peer {
    int32_t length; /* of the frames that it sends; 0: all kinds */
    uint8_t in[4 + QEMU_FRAME_MAX];
    size_t in_bytes;
    uint32_t number, got; /* of the last frame, and how many came */
    uint8_t out[4 + QEMU_FRAME_MAX];
    size_t out_bytes, out_sent;
    uint32_t sent;
} peer;

static void arrived(uint8_t *frame, int32_t length) {
    if (load16(frame + 12) == TYPE_VLAN) {
        CHECK(load16(frame + 14) == TAG);
        memmove(frame + TAG_BYTES, frame, ADDRESSES_BYTES);
        frame += TAG_BYTES;
        length -= TAG_BYTES;
    }
    bool is_segment = load16(frame + 12) == 0x0800;
    uint32_t number = is_segment ? check_segment(frame, length) : check_plain(frame, length);
    CHECK(number > peer.number || (is_segment && number == peer.number && load32(frame + 38) > 0));
    peer.number = number;
    peer.got++;
}

/* Reads up to `most` bytes; returns how many there were. */
static size_t peer_reads(size_t most) {
    size_t all = 0;
    while (all < most) {
        size_t wanted = peer.in_bytes < 4 ? 4 : 4 + load32(peer.in);
        CHECK(wanted > 4 || peer.in_bytes < 4);
        CHECK(wanted <= sizeof peer.in);
        wanted -= peer.in_bytes;
        ssize_t got = recv(world.peer, peer.in + peer.in_bytes, wanted < most - all ? wanted : most - all, 0);
        if (got <= 0) break;
        all += (size_t)got;
        peer.in_bytes += (size_t)got;
        if (peer.in_bytes < 4 || peer.in_bytes < 4 + load32(peer.in)) continue;
        arrived(peer.in + 4, (int32_t)load32(peer.in));
        peer.in_bytes = 0;
    }
    return all;
}

/* Goes on with its frame, up to `most` bytes. Returns whether the frame is sent whole. */
static bool peer_sends(size_t most) {
    static const int32_t lengths[] = {60, 1514, 22, 1514, 5000, 66, 40000};
    if (peer.out_sent == peer.out_bytes) {
        int32_t length = lengths[++peer.sent % 7];
        if (peer.sent % 1000 == 0) length = MAX_FRAME_BYTES;
        if (peer.length) length = peer.length;
        store32(peer.out, (uint32_t)length);
        write_plain(peer.out + 4, length, peer.sent);
        peer.out_bytes = 4 + (size_t)length;
        peer.out_sent = 0;
    }
    size_t left = peer.out_bytes - peer.out_sent;
    ssize_t done = send(world.peer, peer.out + peer.out_sent, left < most ? left : most, MSG_NOSIGNAL);
    if (done > 0) peer.out_sent += (size_t)done;
    return peer.out_sent == peer.out_bytes;
}

static int64_t micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/* Lets a last child have all that the peer has sent, and reads all that it has. */
static void finish(void) {
    int64_t until = micros() + 30000000;
    int status;
    while (!peer_sends(SIZE_MAX) && micros() < until) {
        /* a child reads */
        pid_t child = fork();
        if (!child) {
            serve();
            for (;;) receive();
        }
        while (!peer_sends(SIZE_MAX) && micros() < until) peer_reads(SIZE_MAX);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    world.shared->final = peer.sent;
    pid_t child = fork();
    if (!child) {
        serve();
        while (world.seen_memory->queued) receive();
        transmit(3);
        while (!all_done()) receive();
        _exit(0);
    }
    while (waitpid(child, &status, WNOHANG) == 0 && micros() < until) peer_reads(SIZE_MAX);
    peer_reads(SIZE_MAX);
    CHECK(micros() < until);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(peer.in_bytes == 0); /* nothing of a frame is left */
    CHECK(world.seen_memory->sending == 0);
    uint64_t held = world.seen_memory->held;
    CHECK((uint32_t)held == held >> 32 && world.seen_memory->queued == 0);
    CHECK(world.shared->received == peer.sent);
    CHECK(peer.number == world.shared->made);
}

/* ---- at random moments ---- */

static struct { int begun, in_receive, in_drain, in_send, partly; } found;

/* Notes what a dead process was about. */
static void note(void) {
    found.in_receive += world.seen_memory->receive.message.msg_len > 0;
    found.in_drain += world.seen_memory->drain.message.msg_len > 0;
    found.in_send += seen_journal()->stream != 0;
    found.partly += is_sent_in_part();
}

static void at_random(int kills, uint64_t seed) {
    int status;
    open_world();
    for (int i = 0; i < kills; i++) {
        pid_t child = fork();
        if (!child) child_of_random();
        int64_t until = micros() + 300 + random_below(&seed, 3000);
        bool is_slow = random_below(&seed, 3) == 0;
        do {
            for (int k = 0; k < 4; k++) peer_sends(1 + (size_t)random_below(&seed, 20000));
            peer_reads(is_slow ? (size_t)random_below(&seed, 300) : (size_t)random_below(&seed, 200000));
        } while (micros() < until);
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        note();
    }
    uint32_t sent = peer.sent, made = world.shared->made;
    finish();
    printf(
        "%d kills: %d with bytes received, %d drained, %d in a send, %d of them in part; %u frames in, %u out of %u\n",
        kills, found.in_receive, found.in_drain, found.in_send, found.partly, sent, peer.got, made);
    close_world();
}

/* ---- after single instructions ---- */

/* Stops for the peer to do its part; from the first time on the peer counts the instructions. */
static void mark(void) { CHECK(raise(SIGSTOP) == 0); }

static void child_receives(void) {
    serve();
    mark();
    for (int i = 0; i < 3; i++) receive();
}

static void child_sends(void) {
    serve();
    mark();
    transmit(9);
    transmit(30); /* more than the socket takes */
    transmit(2);
}

/* Until the engine has also looked who may send again. */
static void turns(void) {
    for (int i = 0; i < 5; i++) receive();
}

static void child_drains(void) {
    serve();
    transmit(30);
    transmit(30);
    mark();
    turns();
    transmit(2);
    turns();
}

static void child_takes_over(void) {
    mark();
    serve();
    turns();
}

static void peer_is_silent(void) {}

static void send_frames(int frames, int32_t length) {
    peer.length = length;
    for (int i = 0; i < frames; i++) CHECK(peer_sends(SIZE_MAX));
    peer.length = 1514;
}

/*
 * As many frames as one receive call takes, so that the next one begins with some left; and most of a long one, which
 * that call then has to move aside, or must not.
 */
static void send_most(int frames, int32_t length, size_t most) {
    send_frames(PORT_BURST, 60);
    send_frames(frames, 1514);
    peer.length = length;
    CHECK(!peer_sends(most));
    peer.length = 1514;
}

static void peer_fills_buffer(void) { send_most(40, 40000, 30000); }
static void peer_sends_longest(void) { send_most(4, MAX_FRAME_BYTES, 69000); }

static void peer_makes_room(void) { peer_reads(SIZE_MAX); }

struct act {
    void (*child)(void);
    void (*peer)(void); /* at the mark */
};

static const struct scenario {
    const char *name;
    struct act before;   /* a predecessor, killed as soon as */
    bool (*until)(void); /* this is so; NULL: there was none */
    struct act stepped;
} scenarios[] = {
    {"receive", {0}, NULL, {child_receives, peer_fills_buffer}},
    {"receive-longest", {0}, NULL, {child_receives, peer_sends_longest}},
    {"send", {0}, NULL, {child_sends, peer_is_silent}},
    {"drain", {0}, NULL, {child_drains, peer_makes_room}},
    {"after-receive", {child_receives, peer_fills_buffer}, is_received, {child_takes_over, peer_is_silent}},
    {"after-send", {child_sends, peer_is_silent}, is_sent_in_part, {child_takes_over, peer_makes_room}},
    {"after-drain", {child_drains, peer_makes_room}, is_drained, {child_takes_over, peer_makes_room}},
};

/* All that a successor goes by, short of the bytes themselves. */
static uint64_t fingerprint(void) {
    const struct stream_memory *memory = world.seen_memory;
    const struct journal *journal = seen_journal();
    uint64_t words[] = {memory->held,
                        memory->queued,
                        memory->receive.before,
                        memory->receive.message.msg_len,
                        memory->drain.before,
                        memory->drain.message.msg_len,
                        memory->sending,
                        journal->stream,
                        journal->arena,
                        (uint64_t)journal->frames,
                        journal->salvaged,
                        journal->message.msg_len,
                        journal->salvages[0].stream,
                        (uint64_t)journal->salvages[0].length};
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15ULL;
    return hash;
}

static pid_t begin(const struct act *act) {
    int status;
    pid_t child = fork();
    if (!child) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        act->child();
        mark();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    act->peer();
    return child;
}

/* One instruction. Returns false at the end of the act. */
static bool step(pid_t child) {
    int status;
    CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK(WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP);
    return WSTOPSIG(status) == SIGTRAP;
}

static void end(pid_t child) {
    int status;
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

/* What is in a socket and not yet read: bytes. */
static size_t waiting(int socket, uint8_t *bytes, size_t room) {
    ssize_t got = recv(socket, bytes, room, MSG_PEEK);
    CHECK(got < (ssize_t)room);
    return got < 0 ? 0 : (size_t)got;
}

/*
 * What if the child, which stands still, were killed here: a successor works with a copy of the sockets and on the same
 * memories, which are then put back for the child to go on.
 */
static void kill_here(void) {
    static uint8_t to_port[1 << 20], to_peer[1 << 20];
    static uint8_t *arena, *memory;
    int port = world.port, other = world.peer;
    struct shared shared = *world.shared;
    struct peer before = peer;
    if (!arena) arena = malloc(world.arena_bytes), memory = malloc(STREAM_BYTES);
    memcpy(arena, world.seen_arena, world.arena_bytes);
    memcpy(memory, world.seen_memory, STREAM_BYTES);
    size_t in = waiting(port, to_port, sizeof to_port), out = waiting(other, to_peer, sizeof to_peer);
    open_sockets(1 << 20);
    CHECK(in == 0 || send(world.peer, to_port, in, 0) == (ssize_t)in);
    CHECK(out == 0 || send(world.port, to_peer, out, 0) == (ssize_t)out);
    finish();
    close(world.port), close(world.peer);
    world.port = port, world.peer = other;
    memcpy(world.seen_arena, arena, world.arena_bytes);
    memcpy(world.seen_memory, memory, STREAM_BYTES);
    *world.shared = shared;
    peer = before;
}

#define CLOSE 3 /* instructions behind a change that are looked at one by one */
#define NEAR 3000
#define STRIDE 61        /* up to NEAR, one in so many */
#define LONG_STRIDE 5003 /* and further on */

static void by_steps(const struct scenario *scenario) {
    int instructions = 0, kills = 0, changes = 0, since = 0;
    peer.length = 1514;
    open_world();
    if (scenario->until) {
        pid_t before = begin(&scenario->before);
        while (!scenario->until()) CHECK(step(before));
        end(before);
    }
    pid_t child = begin(&scenario->stepped);
    uint64_t last = fingerprint();
    do {
        uint64_t now = fingerprint();
        since = now == last ? since + 1 : 0;
        changes += now != last;
        last = now;
        if (since <= CLOSE || (since < NEAR && since % STRIDE == 0) || since % LONG_STRIDE == 0) {
            kill_here();
            kills++;
        }
        instructions++;
    } while (step(child));
    end(child);
    finish();
    printf("%d kills in %d instructions, in which %d changes were made\n", kills, instructions, changes);
    close_world();
}

int main(int count, char **arguments) {
    uint64_t random = 1;
    random_fill(&random, wheel, sizeof wheel);
    if (count == 4 && strcmp(arguments[1], "random") == 0) {
        at_random(atoi(arguments[2]), strtoull(arguments[3], NULL, 10) + 1);
        return 0;
    }
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        if (count != 3 || strcmp(arguments[1], "steps") || strcmp(arguments[2], scenarios[i].name)) continue;
        by_steps(&scenarios[i]);
        return 0;
    }
    return 2;
}
