/*
 * Where the headers of a frame lie: what offload.c and segment.c ask of a segmentation-offload frame.
 */
#ifndef WEFT_HEADERS_H
#define WEFT_HEADERS_H

#include <stdbool.h>
#include <stdint.h>

#define ETHERNET_BYTES 14
#define TAG_BYTES 4
#define ADDRESSES_BYTES 12 /* both MAC addresses: a tag stands behind them */
#define TYPE_IPV4 0x0800
#define TYPE_IPV6 0x86dd
#define TYPE_VLAN 0x8100
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_SCTP 132

/* TCP or UDP over IPv4 or IPv6; all offsets from the frame's start. */
struct headers {
    int32_t l3, l4;
    int32_t length;   /* to the end of the TCP or UDP header */
    int32_t end;      /* of the IP packet; what follows is padding */
    uint8_t protocol; /* PROTOCOL_TCP or PROTOCOL_UDP where all were found */
    bool ipv6;
    bool routed; /* an IPv6 routing header with segments left: the destination is not the final one */
};

/*
 * Finds the headers, behind one 802.1Q tag at most. Returns false unless all of them are complete, the IP packet lies
 * whole in the frame, and it is no fragment. If just the protocol is another, l4, end and protocol are filled in still.
 */
bool headers_find(const uint8_t *frame, int32_t length, struct headers *headers);

static inline int32_t load16(const uint8_t *bytes) { return bytes[0] << 8 | bytes[1]; }

static inline void store16(uint8_t *bytes, int32_t value) {
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

static inline uint32_t load32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static inline void store32(uint8_t *bytes, uint32_t value) {
    store16(bytes, (int32_t)(value >> 16));
    store16(bytes + 2, (int32_t)(value & 0xffff));
}

/* Bytes of the frame before its IP header, one tag included. */
static inline int32_t link_length(const uint8_t *frame, int32_t length) {
    bool tagged = length >= ETHERNET_BYTES + TAG_BYTES && load16(frame + ADDRESSES_BYTES) == TYPE_VLAN;
    return tagged ? ETHERNET_BYTES + TAG_BYTES : ETHERNET_BYTES;
}

#endif
