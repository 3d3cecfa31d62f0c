/*
 * The rig of the fuzz targets; rig.h describes it. It formats an arena as src/dataplane/layout.ts does, only smaller
 * and without the sections that native code does not read.
 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>

#define PORTS 8
#define CANARY 0xa5

_Noreturn void rig_fail(const char *condition, const char *file, int line) {
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
    abort();
}

static int32_t place(int32_t *header, enum header_word word, int32_t *end, size_t bytes) {
    int32_t start = (*end + 63) & ~63;
    header[word] = start;
    *end = start + (int32_t)bytes;
    return start;
}

size_t rig_format(uint8_t *arena, int small, int large) {
    int32_t header[HEADER_SIZE / 4] = {0}, end = HEADER_SIZE, slots = small + large;
    header[HEADER_MAGIC] = ARENA_MAGIC;
    header[HEADER_VERSION] = ARENA_VERSION;
    header[HEADER_SMALL_SLOTS] = small;
    header[HEADER_LARGE_SLOTS] = large;
    header[HEADER_PORTS] = PORTS;
    place(header, HEADER_RECORDS, &end, (size_t)slots * sizeof(struct record));
    place(header, HEADER_FREE_SMALL, &end, (size_t)small * 4);
    place(header, HEADER_FREE_LARGE, &end, (size_t)large * 4);
    place(header, HEADER_BURST, &end, BURST_CAPACITY * 4);
    place(header, HEADER_EGRESS, &end, EGRESS_CAPACITY * sizeof(struct outgoing));
    place(header, HEADER_EVENTS, &end, EVENT_CAPACITY * sizeof(struct port_event));
    place(header, HEADER_COUNTERS, &end, (PORTS << COUNTER_SHIFT) * sizeof(double));
    place(header, HEADER_DROPS, &end, (PORTS << DROP_SHIFT) * sizeof(double));
    place(header, HEADER_SCRATCH, &end, SCRATCH_BYTES);
    place(header, HEADER_JOURNAL, &end, JOURNAL_BYTES);
    place(header, HEADER_PEERS, &end, PORTS << PEER_SHIFT);
    int32_t first = place(header, HEADER_SMALL, &end, (size_t)small * SMALL_SLOT_BYTES);
    place(header, HEADER_LARGE, &end, (size_t)large * LARGE_SLOT_BYTES);
    header[HEADER_BYTES] = end;
    if (arena) {
        memset(arena, 0, (size_t)first);
        memset(arena + first, CANARY, (size_t)(end - first));
        memcpy(arena, header, sizeof header);
    }
    return (size_t)end;
}

struct engine *rig_engine(void) {
    static struct engine engine;
    static uint8_t *arena;
    if (!arena) {
        size_t bytes = rig_format(NULL, RIG_SMALL, RIG_LARGE);
        arena = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
        CHECK(arena != NULL);
        rig_format(arena, RIG_SMALL, RIG_LARGE);
        CHECK(engine_open(&engine, arena, bytes) == 0);
    }
    memset(engine.counters, 0, (PORTS << COUNTER_SHIFT) * sizeof(double));
    memset(engine.drops, 0, (PORTS << DROP_SHIFT) * sizeof(double));
    return &engine;
}

void rig_check_pool(struct engine *engine) {
    bool seen[RIG_SMALL + RIG_LARGE] = {false};
    CHECK(engine->header[HEADER_FREE_SMALL_COUNT] == RIG_SMALL);
    CHECK(engine->header[HEADER_FREE_LARGE_COUNT] == RIG_LARGE);
    for (int i = 0; i < RIG_SMALL + RIG_LARGE; i++) {
        int32_t packet = i < RIG_SMALL ? engine->free_small[i] : engine->free_large[i - RIG_SMALL];
        CHECK(packet >= 0 && packet < RIG_SMALL + RIG_LARGE && !seen[packet]);
        CHECK((packet < RIG_SMALL) == (i < RIG_SMALL));
        seen[packet] = true;
        const uint8_t *frame = slot_of(engine, packet);
        for (int k = 1; k <= SLOT_HEADROOM; k++) CHECK(frame[-k] == CANARY);
    }
}

double rig_counter(const struct engine *engine, enum counter counter) {
    return engine->counters[(RIG_PORT << COUNTER_SHIFT) + counter];
}

double rig_drops(const struct engine *engine, enum drop reason) {
    return engine->drops[(RIG_PORT << DROP_SHIFT) + reason];
}

uint32_t naive_sum(const uint8_t *bytes, int32_t length, uint32_t sum) {
    for (int32_t i = 0; i < length; i++) sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
    return sum;
}

uint16_t naive_fold(uint32_t sum) {
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

uint32_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 0x2545f4914f6cdd1dULL) >> 32);
}

int32_t random_below(uint64_t *state, int32_t limit) { return (int32_t)(random_next(state) % (uint32_t)limit); }

void random_fill(uint64_t *state, uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)random_next(state);
}
