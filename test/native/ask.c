/*
 * Lets a test in TypeScript ask native functions: a question a line, an answer a line. Frames are hexadecimal; each
 * lies in memory of its exact size while it is worked on, so that the sanitizers see a byte too many.
 *
 *   sum SHIFT HEX                                     folded sum, as it would be stored; SHIFT: misalignment
 *   accept FLAGS GSO HEADERS SIZE START OFFSET HEX    offload segment_bytes start offset header_length,
 *                                                     and the frame if it was changed
 *   express TAG OFFLOAD SEGMENT START OFFSET HEADERS  the 12 bytes of the header
 *   complete START OFFSET HEX                         the frame, or "refused"
 *   segment BYTES HEX                                 the segments, or "refused"
 */
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

static char line[400000];

static void print_hex(const uint8_t *bytes, int32_t length) {
    for (int32_t i = 0; i < length; i++) printf("%02x", bytes[i]);
}

/* The frame at the end of the question. */
static uint8_t *read_hex(const char *text, int32_t *length, int32_t shift) {
    int32_t count = (int32_t)strspn(text, "0123456789abcdef") / 2;
    uint8_t *bytes = malloc((size_t)(count + shift) + !(count + shift));
    if (!bytes) exit(1);
    for (int32_t i = 0; i < count; i++) {
        unsigned value = 0;
        sscanf(text + i * 2, "%2x", &value);
        bytes[shift + i] = (uint8_t)value;
    }
    *length = count;
    return bytes;
}

static void answer_sum(void) {
    int shift = 0, at = 0, length;
    sscanf(line, "sum %d %n", &shift, &at);
    uint8_t *bytes = read_hex(line + at, &length, shift);
    uint16_t sum = checksum_fold(checksum_add(bytes + shift, length, 0));
    print_hex((const uint8_t *)&sum, 2);
    free(bytes);
}

static void answer_accept(void) {
    unsigned flags = 0, gso = 0, headers = 0, size = 0, start = 0, offset = 0;
    int at = 0, length;
    sscanf(line, "accept %u %u %u %u %u %u %n", &flags, &gso, &headers, &size, &start, &offset, &at);
    uint8_t *frame = read_hex(line + at, &length, 0);
    struct vnet_header header = {(uint8_t)flags, (uint8_t)gso, (uint16_t)headers, (uint16_t)size, (uint16_t)start,
                                 (uint16_t)offset, 0};
    struct record record = {.length = length};
    uint8_t *given = malloc((size_t)length + !length);
    if (!given) exit(1);
    memcpy(given, frame, (size_t)length);
    offload_accept(frame, length, &header, &record);
    printf("%d %d %d %d %d", record.offload, record.segment_bytes, record.checksum_start, record.checksum_offset,
           record.header_length);
    if (memcmp(given, frame, (size_t)length) != 0) {
        printf(" ");
        print_hex(frame, length);
    }
    free(given);
    free(frame);
}

static void answer_express(void) {
    struct record record = {0};
    struct vnet_header header;
    int tag = 0;
    sscanf(line, "express %d %d %d %d %d %d", &tag, &record.offload, &record.segment_bytes, &record.checksum_start,
           &record.checksum_offset, &record.header_length);
    offload_express(&record, tag, &header);
    print_hex((const uint8_t *)&header, sizeof header);
}

static void answer_complete(void) {
    struct record record = {.offload = OFFLOAD_CHECKSUM};
    int at = 0;
    sscanf(line, "complete %d %d %n", &record.checksum_start, &record.checksum_offset, &at);
    uint8_t *frame = read_hex(line + at, &record.length, 0);
    if (offload_complete(frame, &record) && !(record.offload & OFFLOAD_CHECKSUM))
        print_hex(frame, record.length);
    else
        printf("refused");
    free(frame);
}

static void answer_segment(void) {
    struct record record = {0};
    struct segmenter segmenter;
    int at = 0;
    int32_t length;
    sscanf(line, "segment %d %n", &record.segment_bytes, &at);
    uint8_t *frame = read_hex(line + at, &record.length, 0);
    if (segment_begin(&segmenter, frame, &record)) {
        uint8_t *out = malloc((size_t)record.length);
        if (!out) exit(1);
        while ((length = segment_next(&segmenter, out)) > 0) {
            print_hex(out, length);
            printf(" ");
        }
        free(out);
    } else {
        printf("refused");
    }
    free(frame);
}

int main(void) {
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "sum ", 4)) answer_sum();
        else if (!strncmp(line, "accept ", 7)) answer_accept();
        else if (!strncmp(line, "express ", 8)) answer_express();
        else if (!strncmp(line, "complete ", 9)) answer_complete();
        else if (!strncmp(line, "segment ", 8)) answer_segment();
        else printf("not understood");
        printf("\n");
    }
    return 0;
}
