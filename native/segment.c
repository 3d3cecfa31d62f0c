/*
 * Software segmentation: cuts a TCP or UDP segmentation-offload frame into frames of one segment each.
 *
 * Every segment gets a copy of all headers, patched, and its share of the payload:
 *
 *   IPv4            total length; identification + index (RFC 6864: unique unless atomic); header checksum
 *   IPv6            payload length; extension headers are repeated as they are
 *   TCP (RFC 9293)  sequence number + payload before it; FIN and PSH only in the last segment, CWR only in the first
 *                   (RFC 3168, 6.1.2: once a window reduction); checksum
 *   UDP (RFC 768)   length; checksum, 0 sent as 0xffff. Each segment is a datagram of its own (USO)
 *
 * Checksums are computed from the bytes that leave, never derived from the sum that came: a wrong partial sum from a
 * guest is not spread, and a frame whose checksum another port has completed in place cuts just the same.
 *
 * The frame is read anew: of the record only the length and segment_bytes are used. Bytes behind the IP packet
 * (padding) are not sent. A frame without payload makes one segment. The output is never longer than the frame.
 *
 * What it does not do: fragment IP (RFC 791), cut frames whose IPv6 routing header has segments left (their
 * pseudo-header names an address elsewhere), tunnels, or look at any limit of the number of segments (offload.c does
 * on the way in).
 */
#include "engine.h"
#include "headers.h"

#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_CWR 0x80

bool segment_begin(struct segmenter *segmenter, const uint8_t *frame, const struct record *record) {
    struct headers found;
    if (record->segment_bytes <= 0 || record->segment_bytes > 0xffff) return false;
    if (!headers_find(frame, record->length, &found) || found.routed) return false;
    *segmenter = (struct segmenter){
        .frame = frame,
        .record = record,
        .header_length = found.length,
        .l3 = found.l3,
        .l4 = found.l4,
        .position = found.length,
        .end = found.end,
        .protocol = found.protocol,
        .ipv6 = found.ipv6,
    };
    return true;
}

/* Patches the IP header; returns the sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1). */
static uint32_t finish_ip(const struct segmenter *segmenter, uint8_t *ip, int32_t length) {
    uint8_t rest[4] = {0, segmenter->protocol};
    int32_t behind = length - segmenter->l4;
    store16(rest + 2, behind);
    uint32_t pseudo = checksum_add(rest, sizeof rest, 0);
    if (segmenter->ipv6) {
        store16(ip + 4, length - segmenter->l3 - 40);
        return checksum_add(ip + 8, 32, pseudo);
    }
    store16(ip + 2, length - segmenter->l3);
    store16(ip + 4, load16(ip + 4) + segmenter->index);
    store16(ip + 10, 0);
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add(ip, segmenter->l4 - segmenter->l3, 0));
    memcpy(ip + 10, &sum, sizeof sum);
    return checksum_add(ip + 12, 8, pseudo);
}

int32_t segment_next(struct segmenter *segmenter, uint8_t *out) {
    int32_t left = segmenter->end - segmenter->position, headers = segmenter->header_length;
    if (left == 0 && segmenter->index > 0) return 0;
    int32_t payload = left < segmenter->record->segment_bytes ? left : segmenter->record->segment_bytes;
    int32_t length = headers + payload;
    memcpy(out, segmenter->frame, (size_t)headers);
    memcpy(out + headers, segmenter->frame + segmenter->position, (size_t)payload);

    uint8_t *l4 = out + segmenter->l4, *field;
    if (segmenter->protocol == PROTOCOL_TCP) {
        store32(l4 + 4, load32(l4 + 4) + (uint32_t)(segmenter->position - headers));
        if (payload < left) l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (segmenter->index > 0) l4[13] &= (uint8_t)~TCP_CWR;
        field = l4 + 16;
    } else {
        store16(l4 + 4, length - segmenter->l4);
        field = l4 + 6;
    }
    store16(field, 0);
    uint32_t pseudo = finish_ip(segmenter, out + segmenter->l3, length);
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add(l4, length - segmenter->l4, pseudo));
    if (sum == 0 && segmenter->protocol == PROTOCOL_UDP) sum = 0xffff;
    memcpy(field, &sum, sizeof sum);

    segmenter->position += payload;
    segmenter->index++;
    return length;
}
