/*
 * Fuzzes offload.c and segment.c: a guest's virtio_net header and the frame it came with, both hostile.
 *
 *   input   12 bytes: the header | the frame, perhaps with a tag
 *
 * A frame changes only where an unfinished checksum is finished at once: in two bytes, four of SCTP's.
 *
 * What must hold of a packet that is accepted: after the tag is popped, as TypeScript does it, the record can be
 * expressed and accepted again without change; its checksum can be finished, and then verifies; cut into segments, the
 * payloads together are the payload, every length and checksum is right by a second, naive computation, no segment is
 * longer than the frame, and only the first and last carry what belongs there. Records that nobody accepted are tried
 * too: they may be refused, but nothing out of bounds may be touched. The frame lies in memory of its exact size for
 * that.
 */
#include <stdlib.h>

#include "../headers.h"
#include "rig.h"

#define FIN_PSH 0x09
#define CWR 0x80
#define SEGMENTS_TRIED 300 /* what is checked naively takes time */

/* ---- checks ---- */

static void check_segment(const struct segmenter *cut, const uint8_t *out, int32_t length, int32_t index,
                          int32_t done) {
    const uint8_t *ip = out + cut->l3, *l4 = out + cut->l4, *original = cut->frame;
    int32_t behind = length - cut->l4, headers = cut->header_length;
    uint32_t sum = naive_sum(l4, behind, 0) + cut->protocol + (uint32_t)behind;
    CHECK(memcmp(out, original, (size_t)cut->l3) == 0);
    if (cut->ipv6) {
        CHECK(load16(ip + 4) == length - cut->l3 - 40);
        CHECK(memcmp(ip + 6, original + cut->l3 + 6, (size_t)(cut->l4 - cut->l3 - 6)) == 0);
        sum = naive_sum(ip + 8, 32, sum);
    } else {
        CHECK(load16(ip + 2) == length - cut->l3);
        CHECK(load16(ip + 4) == ((load16(original + cut->l3 + 4) + index) & 0xffff));
        CHECK(naive_fold(naive_sum(ip, cut->l4 - cut->l3, 0)) == 0xffff);
        CHECK(memcmp(ip + 12, original + cut->l3 + 12, (size_t)(cut->l4 - cut->l3 - 12)) == 0);
        sum = naive_sum(ip + 12, 8, sum);
    }
    CHECK(naive_fold(sum) == 0xffff);
    if (cut->protocol == PROTOCOL_TCP) {
        const uint8_t *tcp = original + cut->l4;
        int gone = (index > 0 ? CWR : 0) | (headers + done + (length - headers) < cut->end ? FIN_PSH : 0);
        CHECK(load32(l4 + 4) == load32(tcp + 4) + (uint32_t)done);
        CHECK(l4[13] == (tcp[13] & ~gone));
    } else {
        CHECK(load16(l4 + 4) == behind);
        CHECK(load16(l4 + 6) != 0);
    }
    CHECK(memcmp(out + headers, original + headers + done, (size_t)(length - headers)) == 0);
}

static void try_segments(const uint8_t *frame, const struct record *record, bool must) {
    struct segmenter segmenter;
    struct headers found;
    bool cut = segment_begin(&segmenter, frame, record);
    CHECK(cut || !must || (headers_find(frame, record->length, &found) && found.routed));
    if (!cut) return;
    uint8_t *out = malloc((size_t)record->length);
    CHECK(out != NULL);
    int32_t done = 0, index = 0, length = 1;
    while (index < SEGMENTS_TRIED && (length = segment_next(&segmenter, out)) > 0) {
        CHECK(length <= record->length && length <= segmenter.header_length + record->segment_bytes);
        check_segment(&segmenter, out, length, index, done);
        done += length - segmenter.header_length;
        index++;
    }
    CHECK(index > 0);
    if (length == 0) CHECK(segmenter.header_length + done == segmenter.end && segment_next(&segmenter, out) == 0);
    free(out);
}

static void check_complete(const uint8_t *frame, const struct record *given, bool must) {
    struct record record = *given;
    uint8_t *copy = malloc((size_t)record.length);
    CHECK(copy != NULL);
    memcpy(copy, frame, (size_t)record.length);
    bool done = offload_complete(copy, &record);
    CHECK(done || !must);
    if (done && given->offload & OFFLOAD_CHECKSUM) {
        int32_t start = record.checksum_start, field = start + record.checksum_offset;
        /* an odd place of the field swaps its bytes against the words of the sum */
        if (record.checksum_offset % 2 == 0) {
            uint32_t pseudo = (uint32_t)load16(frame + field);
            CHECK(naive_fold(naive_sum(copy + start, record.length - start, pseudo)) == 0xffff);
        }
        if (record.checksum_offset == 6) CHECK(load16(copy + field) != 0);
        memcpy(copy + field, frame + field, 2);
        CHECK(!(record.offload & OFFLOAD_CHECKSUM));
    }
    CHECK(memcmp(copy, frame, (size_t)record.length) == 0);
    free(copy);
}

static void check_express(uint8_t *frame, const struct record *record) {
    struct vnet_header header;
    struct record again = *record;
    offload_express(record, 0, &header);
    offload_accept(frame, record->length, &header, &again);
    CHECK(memcmp(&again, record, sizeof again) == 0);
    uint8_t *tagged = malloc((size_t)record->length + TAG_BYTES);
    CHECK(tagged != NULL);
    memcpy(tagged, frame, ADDRESSES_BYTES);
    store16(tagged + ADDRESSES_BYTES, TYPE_VLAN);
    store16(tagged + ADDRESSES_BYTES + 2, 0x2005);
    memcpy(tagged + ADDRESSES_BYTES + 4, frame + ADDRESSES_BYTES, (size_t)(record->length - ADDRESSES_BYTES));
    /* a frame that still has a tag would now have two, and is not looked through */
    if (record->checksum_start + TAG_BYTES <= 0xffff && link_length(frame, record->length) == ETHERNET_BYTES) {
        offload_express(record, TAG_BYTES, &header);
        offload_accept(tagged, record->length + TAG_BYTES, &header, &again);
        CHECK(again.offload == record->offload && again.segment_bytes == record->segment_bytes);
        CHECK(!record->offload || again.checksum_start == record->checksum_start + TAG_BYTES);
        CHECK(!record->segment_bytes || again.header_length == record->header_length + TAG_BYTES);
    }
    free(tagged);
}

static void check_change(const uint8_t *given, const uint8_t *frame, int32_t length, const struct vnet_header *header,
                         const struct record *record) {
    int32_t field = header->checksum_start + header->checksum_offset, bytes = header->checksum_offset == 8 ? 4 : 2;
    bool finished = header->flags & VNET_NEEDS_CHECKSUM && !record->offload;
    for (int32_t i = 0; i < length; i++)
        CHECK(given[i] == frame[i] || (finished && i >= field && i < field + bytes));
    CHECK(!finished || (field + 2 <= length && header->checksum_start >= ETHERNET_BYTES));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct vnet_header header;
    if (size < sizeof header + 1 || size > sizeof header + MAX_FRAME_BYTES) return 0;
    memcpy(&header, data, sizeof header);
    int32_t length = (int32_t)(size - sizeof header);
    uint8_t *frame = malloc((size_t)length);
    CHECK(frame != NULL);
    memcpy(frame, data + sizeof header, (size_t)length);

    struct record wild = {.length = length, .offload = OFFLOAD_CHECKSUM};
    wild.segment_bytes = header.gso_size;
    wild.checksum_start = header.checksum_start;
    wild.checksum_offset = header.checksum_offset;
    try_segments(frame, &wild, false);
    check_complete(frame, &wild, false);
    memcpy(&wild.checksum_start, data, 4);
    memcpy(&wild.checksum_offset, data + 4, 4);
    memcpy(&wild.segment_bytes, data + 8, 4);
    try_segments(frame, &wild, false);
    check_complete(frame, &wild, false);

    struct record record = {.length = length, .segment_bytes = -1, .header_length = -1};
    offload_accept(frame, length, &header, &record);
    check_change(data + sizeof header, frame, length, &header, &record);
    if (record.offload & OFFLOAD_BAD) {
        CHECK(record.offload == OFFLOAD_BAD && record.segment_bytes == 0);
    } else if (length >= ETHERNET_BYTES) {
        uint8_t *untagged = frame;
        if (link_length(frame, length) > ETHERNET_BYTES) {
            untagged = malloc((size_t)length - TAG_BYTES);
            CHECK(untagged != NULL);
            memcpy(untagged, frame, ADDRESSES_BYTES);
            record.length -= TAG_BYTES;
            const uint8_t *behind = frame + ADDRESSES_BYTES + TAG_BYTES;
            memcpy(untagged + ADDRESSES_BYTES, behind, (size_t)(record.length - ADDRESSES_BYTES));
            if (record.offload) record.checksum_start -= TAG_BYTES;
            if (record.segment_bytes) record.header_length -= TAG_BYTES;
        }
        if (link_length(untagged, record.length) == ETHERNET_BYTES) check_express(untagged, &record);
        check_complete(untagged, &record, true);
        if (record.segment_bytes > 0) try_segments(untagged, &record, true);
        if (untagged != frame) free(untagged);
    }
    free(frame);
    return 0;
}

/* ---- making inputs ---- */

static int32_t make_ipv6_extensions(uint64_t *random, uint8_t *at, uint8_t *first, uint8_t protocol) {
    static const uint8_t kinds[] = {0, 60, 43};
    int32_t bytes = 0;
    uint8_t *next = first;
    for (int count = random_below(random, 4); count > 0; count--) {
        int32_t length = 8 * (1 + random_below(random, 3));
        *next = kinds[random_below(random, 3)];
        random_fill(random, at + bytes, (size_t)length);
        next = at + bytes;
        at[bytes + 1] = (uint8_t)(length / 8 - 1);
        if (random_below(random, 4)) at[bytes + 3] = 0; /* no segments left */
        bytes += length;
    }
    *next = protocol;
    return bytes;
}

size_t fuzz_make(uint64_t *random, uint8_t *data) {
    struct vnet_header header = {.flags = VNET_NEEDS_CHECKSUM};
    uint8_t *frame = data + sizeof header;
    bool tcp = random_below(random, 3) > 0, ipv6 = random_next(random) & 1;
    int32_t at = ETHERNET_BYTES, payload = random_below(random, random_below(random, 8) ? 6000 : 64000);
    random_fill(random, frame, 300);
    frame[0] &= 0xfe;
    if (random_below(random, 4) == 0) {
        store16(frame + 12, TYPE_VLAN);
        at += TAG_BYTES;
    }
    store16(frame + at - 2, ipv6 ? TYPE_IPV6 : TYPE_IPV4);
    uint8_t *ip = frame + at;
    uint8_t protocol = tcp ? PROTOCOL_TCP : PROTOCOL_UDP;
    if (ipv6) {
        ip[0] = 0x60;
        at += 40;
        at += make_ipv6_extensions(random, frame + at, ip + 6, protocol);
    } else {
        int32_t words = 5 + (random_below(random, 4) ? 0 : random_below(random, 11));
        ip[0] = (uint8_t)(0x40 | words);
        store16(ip + 6, random_next(random) & 1 ? 0x4000 : 0);
        ip[9] = protocol;
        at += words * 4;
    }
    header.checksum_start = (uint16_t)at;
    header.checksum_offset = tcp ? 16 : 6;
    if (tcp) {
        int32_t words = 5 + random_below(random, 11);
        frame[at + 12] = (uint8_t)(words << 4);
        at += words * 4;
    } else {
        at += 8;
    }
    header.header_length = (uint16_t)at;
    memset(frame + at, (int)random_next(random), (size_t)payload);
    at += payload;
    if (ipv6)
        store16(ip + 4, (int32_t)(frame + at - ip) - 40);
    else
        store16(ip + 2, (int32_t)(frame + at - ip));
    if (random_below(random, 5) == 0) at += random_below(random, 8); /* padding */
    header.gso_size = (uint16_t)(1 + random_below(random, random_below(random, 5) ? 1500 : 60000));
    header.gso_type = (uint8_t)(tcp ? (ipv6 ? GSO_TCP6 : GSO_TCP4) : GSO_UDP);
    if (tcp && random_below(random, 4) == 0) header.gso_type |= GSO_ECN;
    if (random_below(random, 6) == 0) header.gso_type = 0;
    if (random_below(random, 20) == 0) random_fill(random, (uint8_t *)&header, 1 + random_next(random) % sizeof header);
    memcpy(data, &header, sizeof header);
    return sizeof header + (size_t)at;
}
