/*
 * Fuzzes the sending side of port_stream.c and port_dgram.c: frames of all kinds to a peer that reads as it pleases.
 *
 *   input   1 byte: kind of port, size of the socket's buffer | then by step 4 bytes: what | how many | length
 *   steps   send frames (plain, tagged, with an unfinished checksum, to be cut into segments, runt), several in one
 *           transmit call; the peer reads some bytes or datagrams; the engine takes its turn; at last, all is read
 *
 * What must hold: what the peer reads is a frame, whole, every one it should have got at most once and in order; as
 * many frames and bytes as are counted as transmitted; and every frame that is missing is counted as dropped. A peer
 * that leaves early leaves no slot behind.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../headers.h"
#include "rig.h"

#define SEGMENT_BYTES 400
#define FRAMES_MAX 20000
#define TURNS_MAX 100000

/* What should come out, in order: enough of each frame to know it again. */
struct wire {
    int32_t length;
    uint32_t sum; /* naive, over the whole frame */
};

static struct wire expected[FRAMES_MAX];
static struct {
    struct engine *engine;
    int peer;
    bool stream;
    int expected, next; /* frames */
    double read_frames, read_bytes, refused;
    uint8_t bytes[4 + MAX_FRAME_BYTES + TAG_BYTES];
    size_t held; /* bytes of a frame that is not complete */
} run;

static void expect(const uint8_t *frame, int32_t length, bool tagged, int32_t tci) {
    CHECK(run.expected < FRAMES_MAX);
    uint32_t sum = naive_sum(frame, length, 0); /* the tag's place is even, so it simply adds */
    if (tagged) sum += TYPE_VLAN + (uint32_t)tci;
    expected[run.expected++] = (struct wire){.length = length + (tagged ? TAG_BYTES : 0), .sum = sum};
}

static void arrived(const uint8_t *frame, int32_t length) {
    uint32_t sum = naive_sum(frame, length, 0);
    while (run.next < run.expected && (expected[run.next].length != length || expected[run.next].sum != sum))
        run.next++;
    CHECK(run.next < run.expected);
    run.next++;
    run.read_frames++;
    run.read_bytes += length;
}

/* The peer reads up to `most` bytes, or datagrams; returns whether there was anything. */
static bool peer_reads(int32_t most) {
    bool any = false;
    while (most > 0) {
        size_t wanted = sizeof run.bytes;
        if (run.stream) {
            wanted = run.held < 4 ? 4 : 4 + load32(run.bytes);
            CHECK(wanted <= sizeof run.bytes);
            wanted -= run.held;
            if (wanted > (size_t)most) wanted = (size_t)most;
        }
        ssize_t got = recv(run.peer, run.bytes + run.held, wanted, MSG_DONTWAIT);
        if (got <= 0) break;
        any = true;
        if (!run.stream) {
            arrived(run.bytes, (int32_t)got);
            most -= 2000;
            continue;
        }
        most -= (int32_t)got;
        run.held += (size_t)got;
        if (run.held > 4 && run.held == 4 + load32(run.bytes)) {
            arrived(run.bytes + 4, (int32_t)run.held - 4);
            run.held = 0;
        }
    }
    return any;
}

static void turn(void) { CHECK(engine_receive(run.engine, 0) == 0); }

/* A TCP or UDP frame over IPv4 with an unfinished checksum; returns its length. */
static int32_t make_frame(uint8_t *frame, int32_t length, uint32_t mark, bool udp) {
    int32_t header = udp ? 42 : 54;
    if (length < header + 4) length = header + 4;
    memset(frame, (int)mark, (size_t)length);
    store32(frame + length - 4, mark * 2654435761u);
    memset(frame, 2, 12);
    store16(frame + 12, TYPE_IPV4);
    frame[14] = 0x45;
    store16(frame + 16, length - 14);
    store16(frame + 20, 0);
    frame[23] = udp ? PROTOCOL_UDP : PROTOCOL_TCP;
    if (!udp) frame[46] = 0x50;
    return length;
}

static void send_frames(uint8_t how, int many, int32_t length) {
    struct engine *engine = run.engine;
    int pairs = 0;
    for (int i = 0; i < many; i++) {
        int kind = how % 5;
        bool udp = how & 16, tagged = how & 8;
        bool large = length > SMALL_FRAME_BYTES || kind == 3;
        int32_t packet = large ? pool_take_large(engine) : pool_take_small(engine);
        if (packet < 0) break;
        struct record *record = pool_fill(engine, packet, 0);
        uint8_t *frame = frame_of(engine, record);
        record->length = make_frame(frame, length, (uint32_t)(run.expected + i), udp);
        record->tci = 0x2000 | i;
        record->offload = OFFLOAD_CHECKSUM;
        record->checksum_start = 34;
        record->checksum_offset = udp ? 6 : 16;
        int32_t flags = tagged ? EGRESS_TAGGED : 0;
        if (kind == 2) {
            flags |= EGRESS_CHECKSUM;
            offload_complete(frame, record); /* now, to know the bytes; and again: undone is what the port sees */
            record->offload = random_next(&(uint64_t){(uint64_t)i + 1}) & 1 ? OFFLOAD_CHECKSUM : 0;
            if (record->offload) {
                struct record once = *record;
                uint8_t copy[2];
                memcpy(copy, frame + 34 + record->checksum_offset, 2);
                CHECK(offload_complete(frame, &once));
                expect(frame, record->length, tagged, record->tci);
                memcpy(frame + 34 + record->checksum_offset, copy, 2);
            } else {
                expect(frame, record->length, tagged, record->tci);
            }
        } else if (kind == 3) {
            static uint8_t segment[LARGE_SLOT_BYTES];
            struct segmenter segmenter;
            int32_t bytes;
            flags |= EGRESS_SEGMENT;
            record->segment_bytes = SEGMENT_BYTES + 50 * i;
            CHECK(segment_begin(&segmenter, frame, record));
            while ((bytes = segment_next(&segmenter, segment)) > 0) expect(segment, bytes, tagged, record->tci);
        } else if (kind == 4 && i == 0) {
            record->length = 13; /* a runt, one that cannot be cut, and one with its checksum in the wrong place */
            run.refused++;
        } else if (kind == 4 && i == 1) {
            flags |= EGRESS_SEGMENT;
            run.refused++;
        } else if (kind == 4 && i == 2) {
            record->checksum_start = 13;
            flags |= EGRESS_CHECKSUM;
            run.refused++;
        } else {
            expect(frame, record->length, tagged, record->tci);
        }
        engine->egress[pairs++] = (struct outgoing){.packet = packet, .port = RIG_PORT | flags};
    }
    engine_transmit(engine, pairs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int pair[2], back[2] = {-1, -1};
    if (size < 1) return 0;
    memset(&run, 0, sizeof run);
    run.engine = rig_engine();
    run.stream = data[0] & 1;
    bool leaves = (data[0] & 12) == 12;
    CHECK(socketpair(AF_UNIX, (run.stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0, pair) == 0);
    if (!run.stream) CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, back) == 0);
    int bytes = data[0] & 2 ? 4608 : 212992;
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) == 0);
    run.peer = pair[1];
    if (run.stream)
        CHECK(engine_attach(run.engine, RIG_PORT, KIND_STREAM, pair[0], -1) == 0);
    else
        CHECK(engine_attach(run.engine, RIG_PORT, KIND_DGRAM, back[0], pair[0]) == 0);
    turn();
    for (size_t at = 1; at + 4 <= size && run.expected < FRAMES_MAX / 2; at += 4) {
        int32_t length = (data[at + 2] | data[at + 3] << 8) % 65000;
        if (data[at] >= 192)
            peer_reads(length);
        else if (data[at] >= 160)
            turn();
        else
            send_frames(data[at], 1 + data[at + 1] % 40, length);
    }
    if (leaves) {
        double told = 0;
        close(run.peer);
        for (int i = 0; i < 3; i++) {
            send_frames(i == 1 ? 3 : 0, 4, 1000);
            turn();
            for (int k = 0; k < run.engine->header[HEADER_EVENT_COUNT]; k++, told++) {
                int code = run.engine->events[k].code;
                CHECK(run.stream ? code == 0 || code == ECONNRESET : code == ECONNREFUSED);
            }
        }
        CHECK(told == 1 && run.engine->ports[RIG_PORT].failed);
        CHECK(rig_drops(run.engine, DROP_NO_PEER) >= 4);
    } else {
        int turns = 0, idle = 0;
        while (idle < 3) { /* a turn sends what the next read finds */
            idle = peer_reads(INT32_MAX) ? 0 : idle + 1;
            turn();
            CHECK(turns++ < TURNS_MAX);
        }
        double dropped = rig_drops(run.engine, DROP_QUEUE_FULL) + rig_drops(run.engine, DROP_TRANSMIT_ERROR) +
                         rig_drops(run.engine, DROP_SEGMENTATION);
        CHECK(run.held == 0);
        CHECK(run.read_frames == rig_counter(run.engine, TRANSMITTED_PACKETS));
        CHECK(run.read_bytes == rig_counter(run.engine, TRANSMITTED_BYTES));
        CHECK(rig_drops(run.engine, DROP_NO_PEER) == 0);
        CHECK(run.read_frames == run.expected || dropped > 0);
        CHECK(run.read_frames + dropped <= run.expected + run.refused);
    }
    CHECK(engine_detach(run.engine, RIG_PORT) == 0);
    if (!leaves) close(run.peer);
    if (back[1] >= 0) close(back[1]);
    rig_check_pool(run.engine);
    return 0;
}

size_t fuzz_make(uint64_t *random, uint8_t *data) {
    size_t at = 1;
    data[0] = (uint8_t)random_next(random);
    for (int steps = random_below(random, 60); steps > 0; steps--, at += 4) {
        random_fill(random, data + at, 4);
        if (random_below(random, 3)) store16(data + at + 2, random_below(random, 8) << 8 | random_below(random, 256));
    }
    return at;
}
