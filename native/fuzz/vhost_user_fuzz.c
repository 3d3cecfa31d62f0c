/*
 * Fuzzes vhost-user: a front-end and a driver that do anything, at any time, also while the engine is at work.
 *
 *   input   a byte: whether offloads are negotiated | steps, each a byte and what it takes: memory shared anew (whole,
 *           in parts, wrong, random), rings set and stopped, the dirty log, chains offered (of good and bad
 *           descriptors, direct and indirect), bytes written anywhere in the rings, kicks, turns of the engine, frames
 *           sent to the guest in all ways, the file cut short, the port attached anew, a second thread that scribbles
 *           over rings and descriptors for a while
 *
 * What must hold: no access outside of the regions (a part of the file before and behind them never changes, and the
 * sanitizers see the rest), every call ends soon, no slot and no descriptor is left behind, events name the port and
 * its two reasons, every frame sent to the port is counted once, and no frame is unfinished unless the driver has
 * negotiated that.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../headers.h"
#include "../vhost_user.h"
#include "rig.h"

#define GUEST 0x100000000ULL
#define USER 0x7f0000000000ULL
#define MARGIN 208 /* bytes before and behind what is shared */
#define RINGS 6
#define RING_BYTES 32768 /* descriptors of 1024, available, used */
#define AVAILABLE 16384
#define USED 20480
#define BUFFERS (RINGS * RING_BYTES)
#define SHARED (BUFFERS + 131072)
#define FILE_BYTES (SHARED + 2 * MARGIN)
#define LOG_BYTES 65536
#define CANARY 0x5c
#define CALL_SECONDS 5
#define FRAMES_PER_STEP 80
#define OFFLOAD_FEATURES                                                                                               \
    (FEATURE_CSUM | FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6 | FEATURE_HOST_ECN | FEATURE_HOST_USO)

static struct {
    struct engine *engine;
    int fd, log;     /* memfds */
    uint8_t *file;   /* all of it, as the guest sees it */
    uint8_t *memory; /* what is shared: behind the margin */
    double sent;     /* frames handed to the port */
    int lowest;      /* the descriptor that the next dup() gives */
    uint16_t available[RINGS], size[RINGS];
    int kicks[RINGS];
    bool cut;      /* the file is short now: keep off it */
    bool offloads; /* the driver has negotiated unfinished frames */
    const uint8_t *data;
    size_t left;
} run;

/* ---- the second thread ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile bool scribbling;

static void put16(size_t place, uint16_t value) {
    __atomic_store_n((uint16_t *)(void *)(run.memory + (place & ~(size_t)1)), value, __ATOMIC_RELAXED);
}

static void scribble(uint64_t *random) {
    uint32_t what = random_next(random), value = random_next(random);
    size_t ring = (size_t)(what % RINGS) * RING_BYTES;
    uint16_t index;
    switch (what >> 8 & 7) {
    case 0: /* available index, a step or a jump */
        index = __atomic_load_n((uint16_t *)(void *)(run.memory + ring + AVAILABLE + 2), __ATOMIC_RELAXED);
        put16(ring + AVAILABLE + 2, (uint16_t)(value & 3 ? index + 1U : value >> 8));
        break;
    case 1: /* a head */
        put16(ring + AVAILABLE + 4 + (value & 510), (uint16_t)(value >> 16 & (value & 1024 ? 255 : 1023)));
        break;
    case 2: /* flags and next of a descriptor */
        put16(ring + (value & 4080) + 12, (uint16_t)(value >> 16 & 7));
        put16(ring + (value & 4080) + 14, (uint16_t)(value >> 20 & 255));
        break;
    case 3: /* its length */
        put16(ring + (value & 4080) + 8, (uint16_t)(value >> 16));
        break;
    case 4: /* its address */
        put16(ring + (value & 4080) + (value >> 13 & 6), (uint16_t)(value >> 16));
        break;
    case 5: /* used: the device's own */
        put16(ring + USED + 2, (uint16_t)(value >> 16));
        break;
    default: /* a buffer, an indirect table */
        put16(BUFFERS + value % 131070, (uint16_t)(value >> 16));
    }
}

static void *scribbler(void *argument) {
    uint64_t random = 0x5eed;
    (void)argument;
    for (;;) {
        if (!scribbling) {
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
            continue;
        }
        pthread_mutex_lock(&lock);
        for (int i = 0; i < 100 && scribbling; i++) scribble(&random);
        pthread_mutex_unlock(&lock);
        sched_yield();
    }
    return NULL;
}

/* ---- the input ---- */

static uint32_t next(int bytes) {
    uint32_t value = 0;
    for (; bytes > 0; bytes--) {
        value = value << 8 | (run.left > 0 ? *run.data : 0);
        if (run.left > 0) run.data++, run.left--;
    }
    return value;
}

/* A number that is mostly small, at times near an edge, at times anything. */
static uint64_t odd_number(void) {
    uint32_t kind = next(1), value = next(4);
    switch (kind & 7) {
    case 0:
        return UINT64_MAX - (value & 0xffff);
    case 1:
        return (uint64_t)value << 32 | next(4);
    case 2:
        return GUEST + value % (2 * SHARED);
    case 3:
        return USER + value % (2 * SHARED);
    case 4:
        return value;
    default:
        return value & 0xffff;
    }
}

/* ---- the front-end ---- */

static struct guest_range whole(void) { return (struct guest_range){GUEST, SHARED, USER, MARGIN}; }

static void share_memory(void) {
    struct guest_range ranges[REGIONS_MAX];
    int fds[REGIONS_MAX], count = 1;
    uint32_t kind = next(1);
    ranges[0] = whole();
    if ((kind & 7) == 1) { /* in two parts */
        uint64_t half = BUFFERS;
        ranges[1] = (struct guest_range){GUEST + half, SHARED - half, USER + half, MARGIN + half};
        ranges[0].bytes = half;
        count = 2;
    } else if ((kind & 7) == 2) { /* less of it */
        ranges[0].bytes = next(4) % SHARED + 1;
    } else if ((kind & 7) == 3) {
        count = 0;
    } else if ((kind & 7) == 4) { /* anything */
        count = (int)(next(1) % (REGIONS_MAX + 1));
        for (int i = 0; i < count; i++)
            ranges[i] = (struct guest_range){odd_number(), odd_number(), odd_number(), odd_number() % FILE_BYTES};
    }
    for (int i = 0; i < count; i++) fds[i] = kind & 128 && i == 0 ? eventfd(0, 0) : dup(run.fd);
    bool inside = true; /* a test of the margins needs regions within them */
    for (int i = 0; i < count; i++)
        inside &= ranges[i].offset >= MARGIN && ranges[i].offset <= MARGIN + SHARED &&
                  ranges[i].bytes <= MARGIN + SHARED - ranges[i].offset;
    if (inside) {
        vhost_user_set_memory(run.engine, RIG_PORT, ranges, fds, count);
    } else {
        for (int i = 0; i < count; i++) close(fds[i]);
    }
}

static void set_ring(void) {
    uint32_t number = next(1), kind = next(1), flags = next(1), shape = next(1);
    int ring = (int)(number % RINGS);
    uint64_t base = USER + (uint64_t)ring * RING_BYTES;
    struct ring_request request = {
        .features = (shape & 1 ? FEATURE_VERSION_1 : 0) | (shape & 2 ? FEATURE_MRG_RXBUF : 0) |
                    (shape & 4 ? FEATURE_EVENT_IDX : 0) | (run.offloads ? OFFLOAD_FEATURES : 0),
        .places = {base, base + AVAILABLE, base + USED, GUEST + (uint64_t)ring * RING_BYTES + USED},
        .size = 1 << (shape >> 4) % 11,
        .position = kind & 1 ? -1 : (int64_t)next(2),
        .flags = (int)((flags & 2) | (flags & 13 ? RING_ENABLED : 0) | (flags == 255 ? RING_POLLED : 0)),
        .kick = -1,
        .call = -1,
    };
    if ((kind & 0xf0) == 0x10) request.places.descriptors = odd_number();
    if ((kind & 0xf0) == 0x20) request.places.available = odd_number();
    if ((kind & 0xf0) == 0x30) request.places.used = odd_number();
    if ((kind & 0xf0) == 0x40) request.places.log = odd_number();
    if ((kind & 0xf0) == 0x50) request.size = (int64_t)odd_number();
    if ((kind & 0xf0) == 0x60) ring = (int)odd_number();
    bool known = ring >= 0 && ring < RINGS;
    if (!(kind & 8)) request.kick = known ? dup(run.kicks[ring]) : dup(run.fd);
    if (!(kind & 4)) request.call = kind & 2 && known ? dup(run.kicks[ring]) : eventfd(0, 0);
    uint64_t full = UINT64_MAX - 1; /* one more would block */
    if (request.call >= 0 && !(kind & 2) && shape & 8) CHECK(write(request.call, &full, sizeof full) == sizeof full);
    int call = dup(request.call); /* the front-end keeps one, and changes what both share */
    int result = vhost_user_set_ring(run.engine, RIG_PORT, ring, &request);
    if (call >= 0) fcntl(call, F_SETFL, 0);
    if (call >= 0) close(call);
    if (!known || (result != 0 && result != -EFAULT)) return;
    run.size[ring] = (uint16_t)request.size;
    if (request.position >= 0) run.available[ring] = (uint16_t)request.position;
    if (!run.cut) put16((size_t)ring * RING_BYTES + AVAILABLE + 2, run.available[ring]);
}

static void set_log(void) {
    uint32_t kind = next(1);
    uint64_t bytes = kind & 3 ? LOG_BYTES : odd_number(), offset = kind & 12 ? 0 : odd_number();
    vhost_user_set_log(run.engine, RIG_PORT, kind & 16 ? -1 : dup(run.log), bytes, offset);
}

/* ---- the driver ---- */

static void write_descriptor(size_t place, uint32_t kind, bool more, uint16_t next_one, bool writable) {
    uint32_t at = next(2), length = next(2);
    struct vring_descriptor one = {
        .address = GUEST + BUFFERS + (at & 0xffff),
        .length = kind & 0x10 ? length % 2048 : length,
        .flags = (uint16_t)((more ? DESCRIPTOR_NEXT : 0) | (writable ? DESCRIPTOR_WRITE : 0)),
        .next = next_one,
    };
    if ((kind & 15) == 1) one.address = odd_number();
    if ((kind & 15) == 2) one.length = (uint32_t)odd_number();
    if ((kind & 15) == 3) one.flags = (uint16_t)next(1);
    if ((kind & 15) == 4) one.next = (uint16_t)next(2);
    if (place + sizeof one <= SHARED) memcpy(run.memory + place, &one, sizeof one);
}

static void offer(void) {
    uint32_t which = next(1), kind = next(1), parts = 1 + next(1) % 6;
    int ring = (int)(which % RINGS);
    uint32_t size = run.size[ring] ? run.size[ring] : 1, head = next(2) % size;
    size_t base = (size_t)ring * RING_BYTES, table = base;
    bool writable = ring % 2 == 0;
    if (kind & 0x40) { /* indirect */
        size_t at = BUFFERS + 65536 + (next(2) & 0x7ff0);
        struct vring_descriptor one = {GUEST + at, parts * 16, DESCRIPTOR_INDIRECT, 0};
        if ((kind & 15) == 5) one.length = next(2);
        memcpy(run.memory + base + (size_t)head * 16, &one, sizeof one);
        table = at;
    }
    for (uint32_t i = 0; i < parts; i++) {
        uint32_t at = kind & 0x40 ? i : (head + i) % size, after = kind & 0x40 ? i + 1 : (head + i + 1) % size;
        write_descriptor(table + (size_t)at * 16, i == 0 ? kind : kind & 0x10, i + 1 < parts, (uint16_t)after,
                         writable);
    }
    put16(base + AVAILABLE + 4 + (run.available[ring] & (size - 1)) * 2, (uint16_t)(kind == 255 ? next(2) : head));
    put16(base + AVAILABLE + 2, ++run.available[ring]);
}

static void write_anywhere(void) {
    size_t place = next(3) % SHARED, length = next(1);
    for (size_t i = 0; i < length && place + i < SHARED; i++) run.memory[place + i] = (uint8_t)next(1);
}

/* ---- the engine ---- */

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void check_events(void) {
    for (int i = 0; i < run.engine->header[HEADER_EVENT_COUNT]; i++) {
        CHECK(run.engine->events[i].port == RIG_PORT);
        CHECK(run.engine->events[i].code == EPROTO || run.engine->events[i].code == EFAULT);
    }
}

static void turn(int wait) {
    double started = seconds();
    int count = engine_receive(run.engine, wait);
    CHECK(seconds() - started < CALL_SECONDS);
    check_events();
    CHECK(count <= PORT_BURST);
    for (int i = 0; i < count; i++) {
        const struct record *record = record_of(run.engine, run.engine->burst[i]);
        CHECK(record->ingress == RIG_PORT && record->length >= 1 && record->length <= MAX_FRAME_BYTES);
        CHECK(record->references == 1);
        if (record->offload && !(record->offload & OFFLOAD_BAD)) {
            CHECK(run.offloads && record->offload & OFFLOAD_CHECKSUM);
            CHECK(record->checksum_start + record->checksum_offset + 2 <= record->length);
        }
        pool_give(run.engine, run.engine->burst[i]);
    }
}

/* Makes a frame of TCP over IPv4 that can be cut into segments; some length fields are wrong at times. */
static void make_tcp(uint8_t *frame, struct record *record, uint32_t segment_bytes) {
    static const uint8_t headers[40] = {0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1,   10,
                                        0,    0, 2, 0, 1, 0, 2, 0, 0,  0, 1, 0, 0,  0, 1, 0x50};
    if (record->length < ETHERNET_BYTES + 40) return;
    memcpy(frame + ETHERNET_BYTES, headers, sizeof headers);
    store16(frame + ADDRESSES_BYTES, TYPE_IPV4);
    store16(frame + ETHERNET_BYTES + 2, record->length - ETHERNET_BYTES);
    record->offload = OFFLOAD_CHECKSUM | GSO_TCP4 << GSO_SHIFT;
    record->segment_bytes = (int32_t)segment_bytes;
    record->checksum_start = ETHERNET_BYTES + 20;
    record->checksum_offset = 16;
}

static void send_frames(void) {
    int count = 1 + (int)(next(1) % FRAMES_PER_STEP), pairs = 0;
    uint32_t kind = next(1), length = next(2), flags = 0;
    if (kind & 8) flags |= EGRESS_TAGGED;
    if (kind & 16) flags |= kind & 32 ? EGRESS_SEGMENT : EGRESS_CHECKSUM;
    for (; pairs < count; pairs++) {
        int32_t bytes = (int32_t)(kind & 1 ? length + 14 : length % 1600 + 14);
        int32_t packet = bytes <= SMALL_FRAME_BYTES ? pool_take_small(run.engine) : pool_take_large(run.engine);
        if (packet < 0) break;
        struct record *record = pool_fill(run.engine, packet, bytes);
        uint8_t *frame = frame_of(run.engine, record);
        memset(frame, pairs, (size_t)bytes);
        store16(frame + ADDRESSES_BYTES, kind & 2 ? TYPE_IPV4 : kind & 64 ? TYPE_IPV6 : 0x88b5);
        record->tci = 7;
        if (kind & 4) {
            record->offload = OFFLOAD_CHECKSUM;
            record->checksum_start = 14;
        }
        if (kind & 32) make_tcp(frame, record, 100 + (kind & 3) * 400);
        run.engine->egress[pairs] = (struct outgoing){.packet = packet, .port = (int32_t)(RIG_PORT | flags)};
    }
    run.sent += pairs;
    double started = seconds();
    engine_transmit(run.engine, pairs);
    CHECK(seconds() - started < CALL_SECONDS);
}

/* The front-end cuts its file short; what is left of it is whole again afterwards, since this process reads it too. */
static void cut_short(void) {
    uint32_t left = next(3) % FILE_BYTES, kind = next(1);
    pthread_mutex_lock(&lock);
    CHECK(ftruncate(kind & 64 ? run.log : run.fd, kind & 64 ? 0 : (off_t)left) == 0);
    run.cut = true;
    turn(0);
    if (kind & 1) send_frames();
    if (kind & 2) share_memory();
    if (kind & 4) set_ring();
    turn(0);
    CHECK(ftruncate(run.log, LOG_BYTES) == 0);
    CHECK(ftruncate(run.fd, FILE_BYTES) == 0);
    run.cut = false;
    memset(run.file, CANARY, MARGIN);
    memset(run.file + MARGIN + SHARED, CANARY, MARGIN);
    pthread_mutex_unlock(&lock);
}

static void attach(void) { CHECK(engine_attach(run.engine, RIG_PORT, KIND_VHOST_USER, -1, -1) == 0); }

/* ---- the whole ---- */

static void set_up(void) {
    run.engine = rig_engine();
    run.sent = 0;
    run.offloads = next(1) & 3;
    if (!run.file) {
        pthread_t thread;
        run.fd = memfd_create("guest", MFD_CLOEXEC);
        run.log = memfd_create("log", MFD_CLOEXEC);
        CHECK(run.fd >= 0 && run.log >= 0 && ftruncate(run.fd, FILE_BYTES) == 0 && ftruncate(run.log, LOG_BYTES) == 0);
        run.file = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, run.fd, 0);
        CHECK(run.file != MAP_FAILED);
        run.memory = run.file + MARGIN;
        for (int i = 0; i < RINGS; i++) run.kicks[i] = eventfd(0, EFD_NONBLOCK);
        CHECK(pthread_create(&thread, NULL, scribbler, NULL) == 0 && pthread_detach(thread) == 0);
        run.lowest = dup(0);
        close(run.lowest);
    }
    memset(run.file, CANARY, FILE_BYTES);
    memset(run.memory, 0, SHARED);
    memset(run.available, 0, sizeof run.available);
    memset(run.size, 0, sizeof run.size);
    attach();
}

static void tear_down(void) {
    scribbling = false;
    pthread_mutex_lock(&lock); /* what it has begun is done */
    pthread_mutex_unlock(&lock);
    turn(0);
    CHECK(engine_detach(run.engine, RIG_PORT) == 0);
    turn(0);
    rig_check_pool(run.engine);
    for (int i = 0; i < MARGIN; i++) CHECK(run.file[i] == CANARY && run.file[MARGIN + SHARED + i] == CANARY);
    double counted = rig_counter(run.engine, TRANSMITTED_PACKETS);
    for (int i = DROP_QUEUE_FULL; i <= DROP_SEGMENTATION; i++) counted += rig_drops(run.engine, (enum drop)i);
    CHECK(counted >= run.sent);
    int probe = dup(0);
    CHECK(probe == run.lowest);
    close(probe);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    run.data = data;
    run.left = size;
    set_up();
    for (int steps = 0; run.left > 0 && steps < 2000; steps++) {
        switch (next(1) & 31) {
        case 0:
            share_memory();
            break;
        case 1:
            set_ring();
            break;
        case 2:
            vhost_user_stop_ring(run.engine, RIG_PORT, (int)(next(1) % (RINGS + 1)));
            break;
        case 3:
            set_log();
            break;
        case 4:
            write_anywhere();
            break;
        case 5:
            cut_short();
            break;
        case 6:
            CHECK(engine_detach(run.engine, RIG_PORT) == 0);
            attach();
            break;
        case 7:
            scribbling = next(1) & 1;
            break;
        case 8:
            turn(1);
            break;
        case 9:
        case 10:
        case 11:
        case 12:
            turn(0);
            break;
        case 13:
        case 14:
        case 15:
        case 16:
            send_frames();
            break;
        case 17:
        case 18: {
            uint64_t one = 1;
            if (write(run.kicks[next(1) % RINGS], &one, sizeof one) < 0) break;
            break;
        }
        default:
            offer();
        }
    }
    tear_down();
    return 0;
}

/* ---- a mostly valid input ---- */

static uint8_t *put(uint8_t *at, int count, ...) {
    va_list values;
    va_start(values, count);
    for (int i = 0; i < count; i++) *at++ = (uint8_t)va_arg(values, int);
    va_end(values);
    return at;
}

size_t fuzz_make(uint64_t *random, uint8_t *data) {
    uint8_t *at = data;
    int rings = 2 + 2 * random_below(random, RINGS / 2);
    uint8_t shape = (uint8_t)(random_below(random, 8) | (3 + random_below(random, 6)) << 4);
    at = put(at, 3, random_below(random, 4), 0, random_below(random, 2));
    if (random_below(random, 3) == 0) at = put(at, 2, 3, 5);
    for (int i = 0; i < rings; i++) at = put(at, 5, 1, i, 1, random_below(random, 2) ? 3 : 1, shape);
    if (random_below(random, 3) == 0) at = put(at, 2, 7, 1);
    for (int steps = random_below(random, 400); steps > 0; steps--) {
        int what = random_below(random, 100);
        if (what < 55) { /* a chain */
            int kind =
                random_below(random, 8) ? 0x10 | (random_below(random, 3) ? 0 : 0x40) : random_below(random, 256);
            int parts = random_below(random, 4);
            at = put(at, 4, 19, random_below(random, rings), kind, parts);
            random_fill(random, at, (size_t)(4 + 4 * (parts + 1)));
            at += 4 + 4 * (parts + 1) - (kind & 0x40 ? 0 : 2);
        } else if (what < 70) {
            at = put(at, 2, 17, random_below(random, rings));
        } else if (what < 85) {
            at = put(at, 1, random_below(random, 8) ? 9 : 8);
        } else if (what < 97) {
            at = put(at, 5, 13, random_below(random, 80), random_below(random, 256), random_below(random, 256),
                     random_below(random, 256));
        } else {
            at = put(at, 1, random_below(random, 8));
            random_fill(random, at, 6);
            at += 6;
        }
    }
    return (size_t)(at - data);
}
