/*
 * Runs a fuzz target without libFuzzer: seeded inputs from the target's own fuzz_make(), half of them then mutated.
 *
 *   driver ITERATIONS [FIRST]
 *
 * Iteration n depends on n alone, so the one that is named when a check or a sanitizer ends the process is run again
 * with `driver 1 n`. It does not follow coverage; for that, build with clang's libFuzzer and without this file.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "rig.h"

static unsigned long iteration;

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void tell(void) { fprintf(stderr, "in iteration %lu\n", iteration); }

static void on_abort(int number) {
    (void)number;
    tell();
}

static size_t mutate(uint64_t *random, uint8_t *data, size_t size) {
    for (int changes = 1 + random_below(random, 6); changes > 0 && size > 0; changes--) {
        size_t at = (size_t)random_below(random, (int32_t)size);
        switch (random_below(random, 6)) {
        case 0:
            data[at] ^= (uint8_t)(1 << random_below(random, 8));
            break;
        case 1:
            data[at] = (uint8_t)random_next(random);
            break;
        case 2:
            data[at] = random_next(random) & 1 ? 0xff : 0;
            break;
        case 3: /* headers are at the start */
            data[at % 80 % size] = (uint8_t)random_next(random);
            break;
        case 4:
            data[at] = (uint8_t)(data[at] + (random_next(random) & 1 ? 1 : -1));
            break;
        default:
            size = at;
        }
    }
    return size;
}

int main(int count, char **arguments) {
    unsigned long iterations = count > 1 ? strtoul(arguments[1], NULL, 10) : 1000;
    unsigned long first = count > 2 ? strtoul(arguments[2], NULL, 10) : 0;
    static uint8_t data[INPUT_MAX];
    signal(SIGABRT, on_abort);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(tell);
    for (iteration = first; iteration < first + iterations; iteration++) {
        uint64_t random = (iteration + 1) * 0x9e3779b97f4a7c15ULL;
        size_t size = fuzz_make(&random, data);
        if (random_next(&random) & 1) size = mutate(&random, data, size);
        /* a copy of its exact size, so that a read past the end is seen */
        uint8_t *copy = malloc(size > 0 ? size : 1);
        if (!copy) return 1;
        memcpy(copy, data, size);
        LLVMFuzzerTestOneInput(copy, size);
        free(copy);
    }
    printf("%lu inputs\n", iterations);
    return 0;
}
