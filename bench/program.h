/*
 * program.h: what the small programs of the bench share: how they fail, read the time, and read a number of an option.
 *
 * Each program is one file that includes this; what it does not use costs nothing (static inline). Needs _GNU_SOURCE
 * before the first header. Messages begin with the program's own name. Status 1: the system refused; 2: wrong usage.
 */
#ifndef WEFT_BENCH_PROGRAM_H
#define WEFT_BENCH_PROGRAM_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Ends the program with what the system says. */
static inline _Noreturn void fail(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

/* Seconds of a clock that never goes back. */
static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The value of option `--name`, which must be a number from least to most. */
static inline long number(const char *name, const char *text, long least, long most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < least || value > most) {
        fprintf(stderr, "%s: --%s %s is not %ld..%ld\n", program_invocation_short_name, name, text, least, most);
        exit(2);
    }
    return value;
}

#endif
