/*
 * Mapping, translation and the dirty log; guest_memory.h describes them.
 *
 * Mappings are of whole pages of the file system, which on hugetlbfs are huge. Regions are few (QEMU: two to eight), so
 * a search is a walk; the last one found is asked first.
 *
 * The list of memories that the signal handler walks is the thread's own, so it never changes while it is walked: a
 * SIGBUS of this kind comes from an instruction of the very thread.
 */
#include "guest_memory.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGE_SHIFT 12 /* of the dirty log, whatever the host's pages are */
#define MAGIC_HUGETLBFS 0x958458f6
#define MAGIC_FUSE 0x65735546

/* ---- SIGBUS ---- */

static _Thread_local struct guest_memory *first __attribute__((tls_model("initial-exec")));
static struct sigaction previous;

/* Puts zeros in a mapping's place if the address is within it. */
static bool replace_lost(const struct mapping *mapping, uintptr_t address) {
    if (!mapping->start || address - (uintptr_t)mapping->start >= mapping->bytes) return false;
    return mmap(mapping->start, mapping->bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    int error = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (struct guest_memory *memory = info->si_code > 0 ? first : NULL; memory; memory = memory->next) {
        bool found = replace_lost(&memory->log_mapping, address);
        for (int i = 0; i < memory->count && !found; i++) found = replace_lost(&memory->regions[i].mapping, address);
        if (!found) continue;
        memory->lost = true;
        errno = error;
        return;
    }
    sigaction(SIGBUS, &previous, NULL); /* the instruction faults again, for whoever was here before */
}

static void install(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

/* ---- mapping ---- */

/* Whether a file may be mapped from `offset` on for `bytes`; its identity and the size of its pages. */
static int examine(int fd, uint64_t offset, uint64_t bytes, struct stat *file, uint64_t *page) {
    struct statfs system;
    if (fstat(fd, file) < 0 || fstatfs(fd, &system) < 0) return errno;
    if (!S_ISREG(file->st_mode) || file->st_size < 0) return EINVAL;
    if ((uint32_t)system.f_type == MAGIC_FUSE) return EOPNOTSUPP;
    if (bytes == 0 || offset > (uint64_t)file->st_size || bytes > (uint64_t)file->st_size - offset) return EINVAL;
    bool huge = (uint32_t)system.f_type == MAGIC_HUGETLBFS;
    *page = huge ? (uint64_t)system.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
    return 0;
}

/* Maps a part of a file; *place is where the part begins. */
static int map(int fd, uint64_t offset, uint64_t bytes, uint64_t page, struct mapping *mapping, uint8_t **place) {
    uint64_t start = offset & ~(page - 1), end = (offset + bytes + page - 1) & ~(page - 1);
    void *mapped = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
    if (mapped == MAP_FAILED) return errno;
    madvise(mapped, end - start, MADV_DONTDUMP);
    *mapping = (struct mapping){mapped, end - start};
    *place = mapping->start + (offset - start);
    return 0;
}

static void unmap(struct mapping *mapping) {
    if (mapping->start) munmap(mapping->start, mapping->bytes);
    mapping->start = NULL;
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

static bool are_apart(const struct guest_range *ranges, int count) {
    for (int i = 0; i < count; i++) {
        const struct guest_range *range = &ranges[i];
        if (range->bytes == 0 || range->guest > UINT64_MAX - range->bytes || range->user > UINT64_MAX - range->bytes)
            return false;
        for (int k = 0; k < i; k++)
            if (overlap(range->guest, range->bytes, ranges[k].guest, ranges[k].bytes) ||
                overlap(range->user, range->bytes, ranges[k].user, ranges[k].bytes))
                return false;
    }
    return true;
}

/* The region that is mapped already for the same part of the same file, NULL if none is. */
static struct guest_region *mapped_already(struct guest_memory *memory, const struct guest_range *range,
                                           const struct stat *file) {
    for (int i = 0; i < memory->count && !memory->lost; i++) {
        struct guest_region *region = &memory->regions[i];
        if (memcmp(&region->range, range, sizeof *range) == 0 && region->device == file->st_dev &&
            region->inode == file->st_ino)
            return region;
    }
    return NULL;
}

static int make_region(struct guest_memory *memory, const struct guest_range *range, int fd,
                       struct guest_region *region) {
    struct stat file;
    uint64_t page = 0;
    int error = examine(fd, range->offset, range->bytes, &file, &page);
    if (error) return error;
    const struct guest_region *same = mapped_already(memory, range, &file);
    if (same) {
        *region = *same;
        return 0;
    }
    *region = (struct guest_region){.range = *range, .device = file.st_dev, .inode = file.st_ino};
    return map(fd, range->offset, range->bytes, page, &region->mapping, &region->place);
}

/* Unmaps the regions that do not stand in the other table too. */
static void unmap_others(struct guest_region *regions, int count, const struct guest_region *kept, int kept_count) {
    for (int i = 0; i < count; i++) {
        bool found = false;
        for (int k = 0; k < kept_count && !found; k++) found = kept[k].mapping.start == regions[i].mapping.start;
        if (!found) unmap(&regions[i].mapping);
    }
}

int guest_memory_replace(struct guest_memory *memory, const struct guest_range *ranges, const int *fds, int count) {
    struct guest_region made[REGIONS_MAX] = {0};
    if (count < 0 || count > REGIONS_MAX || !are_apart(ranges, count)) return EINVAL;
    for (int i = 0; i < count; i++) {
        int error = make_region(memory, &ranges[i], fds[i], &made[i]);
        if (!error) continue;
        unmap_others(made, i, memory->regions, memory->count);
        return error;
    }
    unmap_others(memory->regions, memory->count, made, count);
    memcpy(memory->regions, made, sizeof made);
    memory->count = count;
    memory->last = 0;
    memory->lost = false;
    return 0;
}

int guest_memory_log(struct guest_memory *memory, int fd, uint64_t bytes, uint64_t offset) {
    struct mapping mapping = {0};
    uint8_t *log = NULL;
    if (fd >= 0) {
        struct stat file;
        uint64_t page = 0;
        int error = examine(fd, offset, bytes, &file, &page);
        if (!error) error = map(fd, offset, bytes, page, &mapping, &log);
        if (error) return error;
    }
    unmap(&memory->log_mapping);
    memory->log_mapping = mapping;
    memory->log = log;
    memory->log_bytes = log ? bytes : 0;
    return 0;
}

void guest_memory_open(struct guest_memory *memory) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    memset(memory, 0, sizeof *memory);
    memory->next = first;
    first = memory;
}

void guest_memory_close(struct guest_memory *memory) {
    guest_memory_log(memory, -1, 0, 0);
    unmap_others(memory->regions, memory->count, NULL, 0);
    memory->count = 0;
    for (struct guest_memory **at = &first; *at; at = &(*at)->next) {
        if (*at != memory) continue;
        *at = memory->next;
        return;
    }
}

/* ---- addresses ---- */

uint8_t *guest_find(struct guest_memory *memory, uint64_t guest, uint64_t bytes) {
    for (int i = 0; i < memory->count; i++) {
        const struct guest_region *region = &memory->regions[i];
        uint64_t offset = guest - region->range.guest;
        if (offset >= region->range.bytes) continue;
        if (bytes > region->range.bytes - offset) return NULL;
        memory->last = i;
        return region->place + offset;
    }
    return NULL;
}

uint8_t *guest_user_place(const struct guest_memory *memory, uint64_t user, uint64_t bytes) {
    for (int i = 0; i < memory->count; i++) {
        const struct guest_region *region = &memory->regions[i];
        uint64_t offset = user - region->range.user;
        if (offset < region->range.bytes && bytes <= region->range.bytes - offset) return region->place + offset;
    }
    return NULL;
}

void guest_mark_pages(struct guest_memory *memory, uint64_t guest, uint64_t bytes) {
    if (bytes == 0 || guest > UINT64_MAX - (bytes - 1)) return;
    uint64_t end = (guest + bytes - 1) >> PAGE_SHIFT;
    for (uint64_t page = guest >> PAGE_SHIFT; page <= end && page / 8 < memory->log_bytes; page++) {
        uint8_t *byte = memory->log + page / 8, bit = (uint8_t)(1 << page % 8);
        if (!(__atomic_load_n(byte, __ATOMIC_RELAXED) & bit)) __atomic_fetch_or(byte, bit, __ATOMIC_RELEASE);
    }
}
