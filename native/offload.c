/*
 * Unfinished work that a frame carries: from a virtio_net header to the packet's record, back, and done in software.
 *
 * A guest's virtio_net header is a claim. offload_accept() compares it with the frame it came with and writes down
 * only what was found true; a claim that contradicts the frame makes the packet OFFLOAD_BAD. offload_express() builds
 * a header from the record alone, so nothing that a guest wrote reaches a kernel or another guest untouched.
 *
 *   claim                    accepted if
 *   nothing                  always
 *   NEEDS_CHECKSUM           at the checksum of the frame's own TCP or UDP header: written down, for its egress to do;
 *                            of its SCTP header (CRC32c), or elsewhere behind the Ethernet header: done here
 *   TCPV4 TCPV6 (with ECN)   and: NEEDS_CHECKSUM at the TCP checksum, headers complete, no fragment, gso_size > 0,
 *   UDP_L4                   and not more than SEGMENTS_MAX segments (of UDP likewise)
 *   UFO and all else         never
 *
 * SEGMENTS_MAX bounds what one frame can make software do: 65535 bytes in segments of 8, the smallest that Linux itself
 * accepts for TCP (TCP_MIN_GSO_SIZE). The header length that came is ignored and computed instead. DATA_VALID, RSC_INFO
 * and the buffer count are dropped: a switch gives no guest another one's word that a checksum was verified.
 *
 * A checksum that is done changes two bytes of the guest's choosing. Those of a TCP or UDP checksum are never judged;
 * any others may be an address, a port or a type, so they are final before guard, router or mirror see the frame. "Own"
 * is the outermost header: behind a tag at most, no fragment, extension headers walked as headers.c does.
 *
 * The frame may still carry one 802.1Q tag when it is accepted; TypeScript pops it and subtracts 4 from checksum_start
 * and header_length. It holds no state and has no capacity. Standards: virtio 1.2, 5.1.6; RFC 768 for UDP's zero; RFC
 * 9260 for SCTP.
 *
 * What it does not do: CRC32c of SCTP within a tunnel, UFO.
 */
#include "engine.h"
#include "headers.h"

#define TCP_CHECKSUM 16 /* byte of the TCP header */
#define UDP_CHECKSUM 6
#define SCTP_CHECKSUM 8
#define SCTP_BYTES 12 /* its common header */
#define SEGMENTS_MAX 8192

/* Whether a claim names the checksum of the frame's own TCP or UDP header; fills in what was found. */
static bool is_own_checksum(const uint8_t *frame, int32_t length, const struct vnet_header *header,
                            struct headers *found) {
    if (!headers_find(frame, length, found) || header->checksum_start != found->l4) return false;
    return header->checksum_offset == (found->protocol == PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM);
}

/* Whether a segmentation claim is true; fills in the length of all headers. */
static bool accept_segments(const uint8_t *frame, int32_t length, const struct vnet_header *header,
                            int32_t *all_headers) {
    struct headers found;
    if (!(header->flags & VNET_NEEDS_CHECKSUM) || header->gso_size == 0) return false;
    if (!is_own_checksum(frame, length, header, &found)) return false;
    switch (header->gso_type) {
    case GSO_TCP4:
    case GSO_TCP4 | GSO_ECN:
        if (found.ipv6 || found.protocol != PROTOCOL_TCP) return false;
        break;
    case GSO_TCP6:
    case GSO_TCP6 | GSO_ECN:
        if (!found.ipv6 || found.protocol != PROTOCOL_TCP) return false;
        break;
    case GSO_UDP:
        if (found.protocol != PROTOCOL_UDP) return false;
        break;
    default:
        return false;
    }
    if (found.end - found.length > header->gso_size * SEGMENTS_MAX) return false;
    *all_headers = found.length;
    return true;
}

/* CRC32c (RFC 9260, appendix A), four bits at a time: SCTP is rare, and its sum is cheap beside its way. */
static uint32_t crc32c(const uint8_t *bytes, int32_t length) {
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    uint32_t crc = 0xffffffff;
    for (int32_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* Finishes a checksum that no egress may be trusted with. Returns false if it lies outside of the frame. */
static bool finish_now(uint8_t *frame, const struct headers *found, struct record *record) {
    if (found->protocol == PROTOCOL_SCTP && record->checksum_start == found->l4 &&
        record->checksum_offset == SCTP_CHECKSUM) {
        if (found->end - found->l4 < SCTP_BYTES) return false;
        uint8_t *field = frame + found->l4 + SCTP_CHECKSUM;
        memset(field, 0, 4);
        uint32_t crc = crc32c(frame + found->l4, found->end - found->l4);
        for (int i = 0; i < 4; i++) field[i] = (uint8_t)(crc >> i * 8);
        record->offload &= ~OFFLOAD_CHECKSUM;
        return true;
    }
    return offload_complete(frame, record);
}

void offload_accept(uint8_t *frame, int32_t length, const struct vnet_header *header, struct record *record) {
    bool checksum = header->flags & VNET_NEEDS_CHECKSUM;
    record->offload &= OFFLOAD_TRUNCATED;
    record->segment_bytes = record->checksum_start = record->checksum_offset = record->header_length = 0;
    if (record->offload || (!checksum && header->gso_type == 0)) return;
    if (header->gso_type != 0) {
        int32_t all_headers = 0;
        if (!accept_segments(frame, length, header, &all_headers)) {
            record->offload = OFFLOAD_BAD;
            return;
        }
        record->segment_bytes = header->gso_size;
        record->header_length = all_headers;
    }
    record->offload = OFFLOAD_CHECKSUM | header->gso_type << GSO_SHIFT;
    record->checksum_start = header->checksum_start;
    record->checksum_offset = header->checksum_offset;
    struct headers found = {0};
    if (header->gso_type != 0 || is_own_checksum(frame, length, header, &found)) return;
    if (header->checksum_start < link_length(frame, length) || !finish_now(frame, &found, record))
        record->offload = OFFLOAD_BAD;
    record->checksum_start = record->checksum_offset = 0;
}

void offload_express(const struct record *record, int tag_bytes, struct vnet_header *header) {
    memset(header, 0, sizeof *header);
    if (record->offload & OFFLOAD_CHECKSUM) {
        header->flags = VNET_NEEDS_CHECKSUM;
        header->checksum_start = (uint16_t)(record->checksum_start + tag_bytes);
        header->checksum_offset = (uint16_t)record->checksum_offset;
    }
    if (record->segment_bytes > 0) {
        header->gso_type = (uint8_t)(record->offload >> GSO_SHIFT);
        header->gso_size = (uint16_t)record->segment_bytes;
        header->header_length = (uint16_t)(record->header_length + tag_bytes);
    }
}

bool offload_complete(uint8_t *frame, struct record *record) {
    if (!(record->offload & OFFLOAD_CHECKSUM)) return true; /* another egress port of the same packet did it */
    int32_t start = record->checksum_start, offset = record->checksum_offset, length = record->length;
    if (start < ETHERNET_BYTES || start > length || offset < 0 || offset > length - start - 2) return false;
    /* the field holds the pseudo-header's sum, so it takes part as it stands */
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add(frame + start, length - start, 0));
    if (sum == 0 && offset == UDP_CHECKSUM) sum = 0xffff; /* zero would say that there is none */
    memcpy(frame + start + offset, &sum, sizeof sum);
    record->offload &= ~OFFLOAD_CHECKSUM;
    return true;
}
