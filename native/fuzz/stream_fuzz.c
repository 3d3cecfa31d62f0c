/*
 * Fuzzes the receiving side of port_stream.c: bytes of a hostile or broken peer, in pieces of any size.
 *
 *   input   1 byte: how pieces are cut | 1 byte: packets held back, which empties the pool | the stream
 *
 * The stream is parsed here a second time, all at once. What must hold: the frames that come out are those of the
 * stream, in order and byte for byte, except for those counted as no-slot; after a length that cannot be one, nothing
 * comes but the event EPROTO, else the event 0 when the peer has closed; and every slot is free at the end.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../headers.h"
#include "rig.h"

#define QEMU_FRAME_MAX 69632
#define HELD_MAX 64

struct run {
    struct engine *engine;
    const uint8_t *stream;
    size_t size, at; /* of the stream; where the next expected frame's length stands */
    double skipped;  /* frames that came out as drops */
    int event;       /* code of the event, -1 before */
    int32_t held[HELD_MAX];
    int held_count, hold;
};

static void release(struct run *run) {
    for (int i = 0; i < run->held_count; i++) pool_give(run->engine, run->held[i]);
    run->held_count = 0;
}

/* Finds the frame in the rest of the stream; frames before it were dropped. */
static void expect(struct run *run, const uint8_t *frame, int32_t length) {
    for (;;) {
        CHECK(run->size - run->at >= 4);
        uint32_t next = load32(run->stream + run->at);
        CHECK(next > 0 && next <= QEMU_FRAME_MAX && next <= run->size - run->at - 4);
        const uint8_t *expected = run->stream + run->at + 4;
        run->at += 4 + next;
        if (next == (uint32_t)length && memcmp(expected, frame, next) == 0) return;
        run->skipped++;
    }
}

/* Takes what the engine has; returns whether it had anything. */
static bool take(struct run *run) {
    struct engine *engine = run->engine;
    int count = engine_receive(engine, 0);
    CHECK(count >= 0 && count <= BURST_CAPACITY);
    for (int i = 0; i < count; i++) {
        int32_t packet = engine->burst[i];
        const struct record *record = record_of(engine, packet);
        CHECK(record->ingress == RIG_PORT && record->references == 1 && record->length > 0);
        CHECK(record->offload == 0 && record->segment_bytes == 0 && record->tag == 0);
        expect(run, frame_of(engine, record), record->length);
        if (run->held_count < run->hold)
            run->held[run->held_count++] = packet;
        else
            pool_give(engine, packet);
    }
    for (int i = 0; i < engine->header[HEADER_EVENT_COUNT]; i++) {
        CHECK(engine->events[i].port == RIG_PORT && run->event < 0);
        run->event = engine->events[i].code;
    }
    return count > 0 || engine->ports[RIG_PORT].ready;
}

/* What stands behind the last frame: 0 for the stream's end, EPROTO for a length that cannot be one. */
static int rest(struct run *run) {
    while (run->size - run->at >= 4) {
        uint32_t next = load32(run->stream + run->at);
        if (next == 0 || next > QEMU_FRAME_MAX) return EPROTO;
        if (next > run->size - run->at - 4) break;
        run->at += 4 + next;
        run->skipped++;
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int pair[2];
    if (size < 2) return 0;
    struct run run = {.engine = rig_engine(), .stream = data + 2, .size = size - 2, .event = -1};
    uint64_t random = 1 + data[0];
    run.hold = data[1] % HELD_MAX;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(engine_attach(run.engine, RIG_PORT, KIND_STREAM, pair[0], -1) == 0);
    int32_t most = data[0] & 1 ? 40 : data[0] & 2 ? 5000 : 200000;
    for (size_t sent = 0; sent < run.size;) {
        size_t piece = 1 + (size_t)random_below(&random, most);
        if (piece > run.size - sent) piece = run.size - sent;
        ssize_t done = send(pair[1], run.stream + sent, piece, MSG_NOSIGNAL);
        if (done > 0) sent += (size_t)done;
        take(&run);
        if (data[1] < 128 && random_below(&random, 8) == 0) release(&run);
        if (run.event >= 0) break;
    }
    while (run.event < 0 && take(&run)) {
    }
    close(pair[1]);
    while (run.event < 0 && take(&run)) {
    }
    CHECK(run.event == rest(&run));
    CHECK(run.skipped == rig_drops(run.engine, DROP_NO_SLOT) + rig_drops(run.engine, DROP_RECEIVE_ERROR));
    release(&run);
    CHECK(engine_detach(run.engine, RIG_PORT) == 0);
    rig_check_pool(run.engine);
    return 0;
}

size_t fuzz_make(uint64_t *random, uint8_t *data) {
    static const int32_t lengths[] = {1,
                                      13,
                                      14,
                                      60,
                                      1514,
                                      SMALL_FRAME_BYTES,
                                      SMALL_FRAME_BYTES + 1,
                                      9014,
                                      65549,
                                      MAX_FRAME_BYTES,
                                      MAX_FRAME_BYTES + 1,
                                      QEMU_FRAME_MAX};
    size_t at = 2;
    random_fill(random, data, 2);
    if (random_next(random) & 1) data[1] = 0;
    /* byte by byte is slow with long frames */
    int32_t kinds = data[0] & 1 ? 5 : (int32_t)(sizeof lengths / sizeof *lengths);
    for (int frames = random_below(random, 80); frames > 0; frames--) {
        int32_t length = 1 + random_below(random, 1600);
        if (random_next(random) & 1) length = lengths[random_below(random, kinds)];
        if (random_below(random, 200) == 0) length = random_below(random, 3) - 1;
        int32_t bytes = length < 0 ? 0 : length;
        if (at + 4 + (size_t)bytes > INPUT_MAX) break;
        store32(data + at, (uint32_t)length);
        memset(data + at + 4, (int)random_next(random), (size_t)bytes);
        if (bytes >= 4) store32(data + at + 4, random_next(random));
        at += 4 + (size_t)bytes;
    }
    return at - (at > 2 ? (size_t)random_below(random, 3) : 0);
}
