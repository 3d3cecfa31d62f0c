/*
 * A guest's memory, as a vhost-user front-end shares it: files mapped here, two kinds of addresses turned into
 * pointers, the dirty log of a migration.
 *
 *   guest address       guest-physical; what stands in descriptors
 *   front-end address   the front-end's own virtual address; what it gives as the places of rings
 *
 * Nothing about an address is believed: a range is good if it lies whole in one region. What is found there may change
 * at any moment, since the guest runs: whoever reads it reads once, into private memory, and checks that.
 *
 * A region's file can be truncated while it is mapped; touching the pages that went raises SIGBUS. A handler for the
 * process then puts zeros in the place of the whole region and sets `lost`: the instruction goes on, and the port ends
 * with an event after the call. An address in no region is a fault of Weft's own and ends the process as ever. The
 * handler knows the memories that were opened by the thread it runs in: an engine belongs to one thread.
 *
 * Capacity: REGIONS_MAX regions, which must not overlap in either kind of address. A table that replaces another keeps
 * what is the same in both mapped. Files on FUSE are refused: whoever serves them decides how long a page takes.
 *
 * Standards: vhost-user protocol ("Memory regions description", "Migration"). What it does not do: an IOMMU, and ranges
 * that go over the border of two adjacent regions.
 */
#ifndef WEFT_GUEST_MEMORY_H
#define WEFT_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REGIONS_MAX 32

/* A region as the front-end describes it. */
struct guest_range {
    uint64_t guest;  /* guest address */
    uint64_t bytes;  /* 1 or more */
    uint64_t user;   /* front-end address */
    uint64_t offset; /* in the file */
};

/* A file's part, mapped whole pages. */
struct mapping {
    uint8_t *start; /* NULL: none */
    size_t bytes;
};

struct guest_region {
    struct guest_range range;
    uint8_t *place; /* of range.guest */
    struct mapping mapping;
    uint64_t device, inode; /* the file */
};

struct guest_memory {
    int count;
    int last;           /* the region that was found last */
    volatile bool lost; /* set by the signal handler: zeros stand where the guest's bytes were */
    struct guest_region regions[REGIONS_MAX];
    struct mapping log_mapping;
    uint8_t *log; /* a bit a page of the guest; NULL: no log */
    uint64_t log_bytes;
    struct guest_memory *next; /* of this thread's */
};

/* Begins empty. The structure must stay where it is until it is closed. */
void guest_memory_open(struct guest_memory *memory);
void guest_memory_close(struct guest_memory *memory);
/* Replaces all regions; the descriptors stay the caller's. Returns 0, or an errno and nothing is changed. */
int guest_memory_replace(struct guest_memory *memory, const struct guest_range *ranges, const int *fds, int count);
/* Marks pages from now on; fd -1: no longer. Returns 0, or an errno and nothing is changed. */
int guest_memory_log(struct guest_memory *memory, int fd, uint64_t bytes, uint64_t offset);

/* The other regions; use guest_place(). */
uint8_t *guest_find(struct guest_memory *memory, uint64_t guest, uint64_t bytes);
/* The place of `bytes` from a front-end address on, NULL if they do not lie whole in one region. */
uint8_t *guest_user_place(const struct guest_memory *memory, uint64_t user, uint64_t bytes);

/* The place of `bytes` from a guest address on, NULL if they do not lie whole in one region. */
static inline uint8_t *guest_place(struct guest_memory *memory, uint64_t guest, uint64_t bytes) {
    const struct guest_region *region = &memory->regions[memory->last];
    uint64_t offset = guest - region->range.guest;
    if (offset < region->range.bytes && bytes <= region->range.bytes - offset) return region->place + offset;
    return guest_find(memory, guest, bytes);
}

/* Marks the pages of a range that has just been written, as far as the log has room for them. */
void guest_mark_pages(struct guest_memory *memory, uint64_t guest, uint64_t bytes);

static inline void guest_mark(struct guest_memory *memory, uint64_t guest, uint64_t bytes) {
    if (memory->log) guest_mark_pages(memory, guest, bytes);
}

#endif
