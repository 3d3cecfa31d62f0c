/*
 * Fuzzes the receiving side of port_dgram.c: datagrams of any length, and a pool that runs empty.
 *
 *   input   1 byte: packets held back | then by datagram 3 bytes: length; its content is made from these
 *
 * What must hold: the frames that come out are the datagrams that went in, in order and byte for byte, except for those
 * counted as no-slot or receive-error (empty ones and those too long are always among these); and every slot is free at
 * the end.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "rig.h"

#define HELD_MAX 64
#define SENT_MAX 4096

static struct {
    int32_t lengths[SENT_MAX];
    int sent, next; /* datagrams; the first that has not come out */
    double skipped;
    int32_t held[HELD_MAX];
    int held_count, hold;
} run;
static uint8_t content[MAX_FRAME_BYTES + 8];

static void make(int number, int32_t length) {
    memset(content, number * 7 + 1, (size_t)length);
    for (int i = 0; i < 4 && i < length; i++) content[i] = content[length - 1 - i] = (uint8_t)(number >> (i * 4));
}

static void release(struct engine *engine) {
    for (int i = 0; i < run.held_count; i++) pool_give(engine, run.held[i]);
    run.held_count = 0;
}

static bool take(struct engine *engine) {
    int count = engine_receive(engine, 0);
    CHECK(count >= 0 && count <= BURST_CAPACITY);
    CHECK(engine->header[HEADER_EVENT_COUNT] == 0);
    for (int i = 0; i < count; i++) {
        int32_t packet = engine->burst[i];
        const struct record *record = record_of(engine, packet);
        CHECK(record->ingress == RIG_PORT && record->references == 1);
        CHECK(packet < RIG_SMALL ? record->length <= SMALL_FRAME_BYTES : record->length <= MAX_FRAME_BYTES);
        for (;; run.next++, run.skipped++) {
            CHECK(run.next < run.sent);
            if (run.lengths[run.next] != record->length) continue;
            make(run.next, record->length);
            if (memcmp(content, frame_of(engine, record), (size_t)record->length) == 0) break;
        }
        run.next++;
        if (run.held_count < run.hold)
            run.held[run.held_count++] = packet;
        else
            pool_give(engine, packet);
    }
    return count > 0 || engine->ports[RIG_PORT].ready;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int pair[2];
    if (size < 1) return 0;
    struct engine *engine = rig_engine();
    memset(&run, 0, sizeof run);
    run.hold = data[0] % HELD_MAX;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
    CHECK(engine_attach(engine, RIG_PORT, KIND_DGRAM, pair[0], -1) == 0);
    for (size_t at = 1; at + 3 <= size && run.sent < SENT_MAX; at += 3) {
        int32_t length = (data[at] | data[at + 1] << 8 | data[at + 2] << 16) % (int32_t)sizeof content;
        for (int tries = 0; tries < 3; tries++) {
            make(run.sent, length); /* again: take() makes others */
            if (send(pair[1], content, (size_t)length, MSG_NOSIGNAL) == length) {
                run.lengths[run.sent++] = length;
                break;
            }
            take(engine); /* its queue is full */
        }
        if (data[at] % 8 == 0) take(engine);
        if (data[at] % 16 == 0) release(engine);
    }
    while (take(engine)) {
    }
    run.skipped += run.sent - run.next;
    CHECK(run.skipped == rig_drops(engine, DROP_NO_SLOT) + rig_drops(engine, DROP_RECEIVE_ERROR));
    double never = 0;
    for (int i = 0; i < run.sent; i++) never += run.lengths[i] == 0 || run.lengths[i] > MAX_FRAME_BYTES;
    CHECK(run.skipped >= never);
    if (run.hold == 0) CHECK(run.skipped == never);
    release(engine);
    CHECK(engine_detach(engine, RIG_PORT) == 0);
    close(pair[1]);
    rig_check_pool(engine);
    return 0;
}

size_t fuzz_make(uint64_t *random, uint8_t *data) {
    static const int32_t lengths[] = {
        0, 1, 60, 1514, SMALL_FRAME_BYTES, SMALL_FRAME_BYTES + 1, 9014, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1};
    size_t at = 1;
    data[0] = random_next(random) & 1 ? 0 : (uint8_t)random_next(random);
    for (int count = random_below(random, 200); count > 0; count--, at += 3) {
        int32_t length = random_below(random, 4) ? random_below(random, 1600) : lengths[random_below(random, 9)];
        for (int i = 0; i < 3; i++) data[at + (size_t)i] = (uint8_t)(length >> (i * 8));
    }
    return at;
}
