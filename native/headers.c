/*
 * Finds IP, TCP and UDP headers in a frame that claims to be segmentation offload, believing nothing it says.
 *
 * Every length is checked against what holds it: the header against its packet, the packet against the frame. IPv6
 * extension headers are walked while they are of the kinds that may precede TCP and UDP in every segment alike:
 * hop-by-hop, routing, destination options (RFC 8200, section 4). Eight of them or 256 bytes are the limit; past it,
 * and at a fragment header, the frame is refused. An IPv4 fragment is refused, and so is a jumbogram (RFC 2675).
 *
 * What it does not do: tell TypeScript anything. It serves offload.c and segment.c; the pipeline reads headers itself.
 */
#include "headers.h"

#define EXTENSIONS_MAX 8
#define EXTENSION_BYTES_MAX 256
#define HOP_BY_HOP 0
#define ROUTING 43
#define DESTINATION_OPTIONS 60

static bool find_ipv4(const uint8_t *frame, int32_t length, struct headers *headers) {
    const uint8_t *ip = frame + headers->l3;
    int32_t left = length - headers->l3;
    if (left < 20 || ip[0] >> 4 != 4) return false;
    int32_t header = (ip[0] & 15) * 4, total = load16(ip + 2);
    if (header < 20 || total < header || total > left) return false;
    if (load16(ip + 6) & 0x3fff) return false; /* more fragments, or an offset */
    headers->ipv6 = false;
    headers->l4 = headers->l3 + header;
    headers->end = headers->l3 + total;
    headers->protocol = ip[9];
    return true;
}

static bool find_ipv6(const uint8_t *frame, int32_t length, struct headers *headers) {
    const uint8_t *ip = frame + headers->l3;
    int32_t left = length - headers->l3;
    if (left < 40 || ip[0] >> 4 != 6 || 40 + load16(ip + 4) > left) return false;
    int32_t at = headers->l3 + 40, first = at, end = at + load16(ip + 4);
    uint8_t next = ip[6];
    for (int i = 0; next == HOP_BY_HOP || next == ROUTING || next == DESTINATION_OPTIONS; i++) {
        if (i == EXTENSIONS_MAX || end - at < 8) return false;
        const uint8_t *extension = frame + at;
        if (next == ROUTING && extension[3] > 0) headers->routed = true;
        next = extension[0];
        at += (extension[1] + 1) * 8;
        if (at > end || at - first > EXTENSION_BYTES_MAX) return false;
    }
    headers->ipv6 = true;
    headers->l4 = at;
    headers->end = end;
    headers->protocol = next;
    return true;
}

bool headers_find(const uint8_t *frame, int32_t length, struct headers *headers) {
    if (length < ETHERNET_BYTES) return false;
    headers->routed = false;
    headers->l3 = link_length(frame, length);
    int32_t type = load16(frame + headers->l3 - 2);
    if (type == TYPE_IPV4) {
        if (!find_ipv4(frame, length, headers)) return false;
    } else if (type == TYPE_IPV6) {
        if (!find_ipv6(frame, length, headers)) return false;
    } else {
        return false;
    }
    const uint8_t *l4 = frame + headers->l4;
    int32_t left = headers->end - headers->l4, header = 8;
    if (headers->protocol == PROTOCOL_TCP) {
        if (left < 20) return false;
        header = (l4[12] >> 4) * 4;
        if (header < 20) return false;
    } else if (headers->protocol != PROTOCOL_UDP) {
        return false;
    }
    if (left < header) return false;
    headers->length = headers->l4 + header;
    return true;
}
