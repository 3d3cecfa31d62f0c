/*
 * What the fuzz targets share: an engine over a small arena, checks that end the process, and seeded random numbers.
 *
 * A target is one file with two functions. LLVMFuzzerTestOneInput() is libFuzzer's entry point; fuzz_make() writes a
 * mostly valid input, from which driver.c (no clang needed) mutates. To run one:
 *
 *   clang -fsanitize=fuzzer,address,undefined TARGET.c rig.c and native without binding*.c and watch.c
 *   cc -fsanitize=address,undefined TARGET.c rig.c driver.c and the same; then ./a.out ITERATIONS [FIRST]
 *
 * Capacity: RIG_SMALL and RIG_LARGE slots, so that inputs run the pool empty. The engine is the real one.
 */
#ifndef WEFT_FUZZ_RIG_H
#define WEFT_FUZZ_RIG_H

#include "../engine.h"

#define RIG_SMALL 48
#define RIG_LARGE 8
#define RIG_PORT 3
#define INPUT_MAX (256 * 1024)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) rig_fail(#condition, __FILE__, __LINE__);                                                    \
    } while (0)

_Noreturn void rig_fail(const char *condition, const char *file, int line);

/* Makes an arena with a pool of that many slots; NULL: only tells its size. Returns bytes. */
size_t rig_format(uint8_t *arena, int small, int large);
/* The engine, opened at first use, with all of its counters at zero. */
struct engine *rig_engine(void);
/* Every slot is free once, and nobody wrote into a headroom. */
void rig_check_pool(struct engine *engine);
double rig_counter(const struct engine *engine, enum counter counter);
double rig_drops(const struct engine *engine, enum drop reason);
/* The internet checksum's sum over big-endian words, by the slowest way there is. */
uint32_t naive_sum(const uint8_t *bytes, int32_t length, uint32_t sum);
uint16_t naive_fold(uint32_t sum);

/* xorshift64*; never 0 as a state. */
uint32_t random_next(uint64_t *state);
/* 0 to below `limit`. */
int32_t random_below(uint64_t *state, int32_t limit);
void random_fill(uint64_t *state, uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Writes an input of up to INPUT_MAX bytes and returns its size. */
size_t fuzz_make(uint64_t *random, uint8_t *data);

#endif
