/*
 * Unfinished work that a frame carries: from a virtio_net header to the packet's record, back, and done in software.
 *
 * A guest's virtio_net header is a claim. offload_accept() compares it with the frame it came with and writes down
 * only what was found true; a claim that contradicts the frame makes the packet OFFLOAD_BAD. offload_express() builds
 * a header from the record alone, so nothing that a guest wrote reaches a kernel or another guest untouched.
 *
 *   claim                    accepted if
 *   nothing                  always
 *   NEEDS_CHECKSUM           the range starts behind the Ethernet header (and its tag), the field lies in the frame
 *   TCPV4 TCPV6 (with ECN)   and: NEEDS_CHECKSUM at the TCP checksum, headers complete, no fragment, gso_size > 0,
 *   UDP_L4                   and not more than SEGMENTS_MAX segments (of UDP likewise)
 *   UFO and all else         never
 *
 * SEGMENTS_MAX bounds what one frame can make software do: 65535 bytes in segments of 8, the smallest that Linux itself
 * accepts for TCP (TCP_MIN_GSO_SIZE). The header length that came is ignored and computed instead. DATA_VALID, RSC_INFO
 * and the buffer count are dropped: a switch gives no guest another one's word that a checksum was verified.
 *
 * The frame may still carry one 802.1Q tag when it is accepted; TypeScript pops it and subtracts 4 from checksum_start
 * and header_length. It holds no state and has no capacity. Standard: virtio 1.2, 5.1.6; RFC 768 for UDP's zero.
 *
 * What it does not do: SCTP's CRC32c (a guest is offered no such offload), tunnels' inner checksums, UFO.
 */
#include "engine.h"
#include "headers.h"

#define TCP_CHECKSUM 16 /* byte of the TCP header */
#define UDP_CHECKSUM 6
#define SEGMENTS_MAX 8192

/* Whether a segmentation claim is true; fills in the length of all headers. */
static bool accept_segments(const uint8_t *frame, int32_t length, const struct vnet_header *header,
                            int32_t *all_headers) {
    struct headers found;
    if (!(header->flags & VNET_NEEDS_CHECKSUM) || header->gso_size == 0) return false;
    if (!headers_find(frame, length, &found)) return false;
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
    int32_t field = found.protocol == PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
    if (header->checksum_start != found.l4 || header->checksum_offset != field) return false;
    if (found.end - found.length > header->gso_size * SEGMENTS_MAX) return false;
    *all_headers = found.length;
    return true;
}

void offload_accept(const uint8_t *frame, int32_t length, const struct vnet_header *header, struct record *record) {
    bool checksum = header->flags & VNET_NEEDS_CHECKSUM;
    record->offload = 0;
    record->segment_bytes = record->checksum_start = record->checksum_offset = record->header_length = 0;
    if (!checksum && header->gso_type == 0) return;
    int32_t all_headers = 0;
    if (checksum && (header->checksum_start < link_length(frame, length) ||
                     header->checksum_start + header->checksum_offset + 2 > length)) {
        record->offload = OFFLOAD_BAD;
        return;
    }
    if (header->gso_type != 0) {
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
