/*
 * io_uring for floods of small frames on a TAP, which knows no recvmmsg(): many reads, or many writes, in one system
 * call.
 *
 * What it gains is not so much the system calls as the registered buffers: for memory that is registered, the six small
 * copies that the kernel makes for a frame need no checks of user addresses. Measured: 1.15 times the frames a second
 * of one call a frame. For segmentation-offload frames it is slower, so port_tap.c uses it for runs of small frames
 * only.
 *
 * The pool's slots are registered as two buffers, small and large, when the ring is opened: that pins them, and an
 * unprivileged process may not pin so much (RLIMIT_MEMLOCK). Then, or where io_uring is switched off
 * (kernel.io_uring_disabled, seccomp), uring_of() answers NULL for ever and nothing is lost but the gain.
 *
 * Descriptors are entered in the ring's own table at their first use, which spares looking them up a frame.
 *
 * Every request carries RWF_NOWAIT: it completes while it is submitted, with -EAGAIN if it would have to wait, so a
 * batch is done when the call returns, in the order in which it was prepared. IORING_SETUP_SUBMIT_ALL (Linux 5.18)
 * keeps one failure from stopping those behind it. A driver that cannot promise not to wait refuses every request
 * (EOPNOTSUPP); TUN is such a one before Linux 6.4.
 */
#include "uring.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define BUFFER_SMALL 0
#define BUFFER_LARGE 1

struct uring {
    int fd;
    uint8_t *rings; /* submission and completion ring, one mapping (IORING_FEAT_SINGLE_MMAP) */
    size_t rings_bytes;
    struct io_uring_sqe *entries;
    size_t entries_bytes;
    unsigned *submit_tail, *submit_array, *complete_head, *complete_tail;
    unsigned submit_mask, complete_mask;
    struct io_uring_cqe *completions;
    const uint8_t *large; /* first byte of the large slots: where buffer 1 begins */
    unsigned prepared;
    bool known[PORTS_MAX]; /* the port's descriptor is in the ring's own table, at the port's number */
};

static int enter(struct uring *uring, unsigned submit, unsigned wait) {
    return (int)syscall(__NR_io_uring_enter, uring->fd, submit, wait, IORING_ENTER_GETEVENTS, NULL, 0);
}

static bool map_rings(struct uring *uring, const struct io_uring_params *params) {
    size_t submit_bytes = params->sq_off.array + params->sq_entries * sizeof(unsigned);
    size_t complete_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
    uring->rings_bytes = submit_bytes > complete_bytes ? submit_bytes : complete_bytes;
    uring->entries_bytes = params->sq_entries * sizeof(struct io_uring_sqe);
    void *rings = mmap(NULL, uring->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring->fd,
                       IORING_OFF_SQ_RING);
    if (rings == MAP_FAILED) return false;
    uring->rings = rings;
    void *entries =
        mmap(NULL, uring->entries_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring->fd, IORING_OFF_SQES);
    if (entries == MAP_FAILED) return false;
    uring->entries = entries;
    uring->submit_tail = (unsigned *)(void *)(uring->rings + params->sq_off.tail);
    uring->submit_array = (unsigned *)(void *)(uring->rings + params->sq_off.array);
    uring->submit_mask = *(unsigned *)(void *)(uring->rings + params->sq_off.ring_mask);
    uring->complete_head = (unsigned *)(void *)(uring->rings + params->cq_off.head);
    uring->complete_tail = (unsigned *)(void *)(uring->rings + params->cq_off.tail);
    uring->complete_mask = *(unsigned *)(void *)(uring->rings + params->cq_off.ring_mask);
    uring->completions = (struct io_uring_cqe *)(void *)(uring->rings + params->cq_off.cqes);
    return true;
}

static bool register_slots(struct uring *uring, struct engine *engine) {
    int32_t large = engine->slots - engine->small_slots;
    uint8_t *small_start = engine->base + engine->header[HEADER_SMALL];
    uint8_t *large_start = engine->base + engine->header[HEADER_LARGE];
    struct iovec buffers[2];
    buffers[BUFFER_SMALL] = (struct iovec){small_start, (size_t)engine->small_slots * SMALL_SLOT_BYTES};
    buffers[BUFFER_LARGE] = (struct iovec){large_start, (size_t)large * LARGE_SLOT_BYTES};
    uring->large = large_start;
    return syscall(__NR_io_uring_register, uring->fd, IORING_REGISTER_BUFFERS, buffers, 2) == 0;
}

/* The ring's table of descriptors, empty. */
static bool register_table(struct uring *uring) {
    int empty[PORTS_MAX];
    for (int i = 0; i < PORTS_MAX; i++) empty[i] = -1;
    return syscall(__NR_io_uring_register, uring->fd, IORING_REGISTER_FILES, empty, PORTS_MAX) == 0;
}

static bool write_table(struct uring *uring, int32_t index, int fd) {
    struct io_uring_files_update update = {.offset = (uint32_t)index, .fds = (uint64_t)(uintptr_t)&fd};
    return syscall(__NR_io_uring_register, uring->fd, IORING_REGISTER_FILES_UPDATE, &update, 1) == 1;
}

static struct uring *open_uring(struct engine *engine) {
    struct io_uring_params params = {.flags = IORING_SETUP_SUBMIT_ALL};
    struct uring *uring = calloc(1, sizeof *uring);
    if (!uring) return NULL;
    uring->fd = (int)syscall(__NR_io_uring_setup, URING_BATCH, &params);
    if (uring->fd >= 0 && params.features & IORING_FEAT_SINGLE_MMAP && map_rings(uring, &params) &&
        register_slots(uring, engine) && register_table(uring))
        return uring;
    uring_close(uring);
    return NULL;
}

struct uring *uring_of(struct engine *engine) {
    if (engine->uring_refused) return NULL;
    if (!engine->uring) engine->uring = open_uring(engine);
    engine->uring_refused = !engine->uring;
    return engine->uring;
}

void uring_close(struct uring *uring) {
    if (uring->entries) munmap(uring->entries, uring->entries_bytes);
    if (uring->rings) munmap(uring->rings, uring->rings_bytes);
    if (uring->fd >= 0) close(uring->fd);
    free(uring);
}

void uring_give_up(struct engine *engine) {
    if (engine->uring) uring_close(engine->uring);
    engine->uring = NULL;
    engine->uring_refused = true;
}

void uring_forget(struct uring *uring, const struct port *port) {
    if (uring->known[port->index]) write_table(uring, port->index, -1);
    uring->known[port->index] = false;
}

void uring_prepare(struct uring *uring, bool writes, const struct port *port, uint8_t *bytes, uint32_t length) {
    if (!uring->known[port->index]) uring->known[port->index] = write_table(uring, port->index, port->fd);
    bool known = uring->known[port->index];
    unsigned place = (*uring->submit_tail + uring->prepared) & uring->submit_mask;
    uring->entries[place] = (struct io_uring_sqe){
        .opcode = writes ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED,
        .flags = known ? IOSQE_FIXED_FILE : 0,
        .fd = known ? port->index : port->fd,
        .off = (uint64_t)-1, /* a TAP has no position */
        .addr = (uint64_t)(uintptr_t)bytes,
        .len = length,
        .rw_flags = RWF_NOWAIT,
        .user_data = uring->prepared,
        .buf_index = bytes >= uring->large ? BUFFER_LARGE : BUFFER_SMALL,
    };
    uring->submit_array[place] = place;
    uring->prepared++;
}

bool uring_perform(struct uring *uring, int32_t *results) {
    unsigned count = uring->prepared, done = 0;
    uring->prepared = 0;
    __atomic_store_n(uring->submit_tail, *uring->submit_tail + count, __ATOMIC_RELEASE);
    for (unsigned submitted = 0; done < count;) {
        int taken = enter(uring, count - submitted, count - done);
        if (taken < 0 && errno != EINTR) return false;
        if (taken > 0) submitted += (unsigned)taken;
        unsigned head = *uring->complete_head, tail = __atomic_load_n(uring->complete_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++, done++) {
            const struct io_uring_cqe *completion = &uring->completions[head & uring->complete_mask];
            if (completion->user_data < count) results[completion->user_data] = completion->res;
        }
        __atomic_store_n(uring->complete_head, head, __ATOMIC_RELEASE);
    }
    return true;
}
