/*
 * What a vhost-user guest shares: memory, rings, log, from the calls of the control process to the state that
 * port_vhost_user.c works on. vhost_user.h describes it.
 *
 * A call describes a thing as a whole and replaces what was there. A ring whose places are not in the memory is set
 * all the same (-EFAULT says so) and begins when the memory comes: front-ends exchange regions one by one under running
 * rings.
 *
 * Kick and call must be eventfds. Anything else that can be polled or written could make that wait: a pipe that is
 * full, a file on FUSE. Kicks are never read; eventfd_call.c writes calls.
 */
#include "vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "eventfd_call.h"

struct vhost_user *vhost_user_of(struct engine *engine, int32_t index) {
    if (index < 0 || index >= PORTS_MAX || engine->ports[index].ops != &vhost_user_ops) return NULL;
    struct port *port = &engine->ports[index];
    if (!port->state) {
        struct vhost_user *vhost = calloc(1, sizeof *vhost);
        if (!vhost) return NULL;
        for (int i = 0; i < RINGS_MAX; i++) vhost->rings[i].vring.kick = vhost->rings[i].vring.call = -1;
        guest_memory_open(&vhost->memory);
        eventfd_call_open();
        port->state = vhost;
    }
    return port->state;
}

static void close_if(int fd) {
    if (fd >= 0) close(fd);
}

/* ---- rings ---- */

/* Drops what waits for a ring that takes no more. */
static void discard_waiting(struct engine *engine, struct port *port, struct vhost_user *vhost,
                            struct guest_ring *ring) {
    while (ring->queue.used > 0) {
        size_t length = 4 + VNET_HEADER_BYTES + queue_load32(&ring->queue, 0);
        queue_consume(&ring->queue, length);
        vhost->waiting -= (int32_t)length;
        count_drop(engine, port, DROP_NO_PEER);
    }
}

/* Sorts out which rings move frames, after anything about them has changed; all of them are asked at the next call. */
static void arrange(struct engine *engine, struct port *port, struct vhost_user *vhost) {
    vhost->transmitting = vhost->receiving = vhost->turn = 0;
    port->forced = port->timed = false;
    for (int i = 0; i < RINGS_MAX; i++) {
        struct guest_ring *ring = &vhost->rings[i];
        bool runs = ring->set && ring->begun && ring->vring.descriptors;
        if (i % 2 == 1 && runs && (ring->enabled || ring->was_enabled))
            vhost->transmitters[vhost->transmitting++] = ring;
        else if (i % 2 == 0 && runs && ring->enabled)
            vhost->receivers[vhost->receiving++] = ring;
        else if (i % 2 == 0 && !ring->enabled)
            discard_waiting(engine, port, vhost, ring);
        if (!runs || !ring->enabled) continue;
        port->forced |= ring->polled;
        port->timed |= ring->vring.kick < 0;
    }
    if (vhost->transmitting + vhost->receiving > 0) port_wake(engine, port);
}

/* Finds a ring's places, and begins it if this is the first time that they are there. */
static bool locate(struct vhost_user *vhost, struct guest_ring *ring) {
    if (!vring_locate(&ring->vring, &vhost->memory)) return false;
    if (!ring->begun) {
        vring_begin(&ring->vring, ring->position);
        vring_disarm(&ring->vring, &vhost->memory); /* until the port's poll is over */
    }
    ring->begun = true;
    return true;
}

static bool is_eventfd(int fd) {
    char path[32], target[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0) return false;
    target[length] = 0;
    return strcmp(target, "anon_inode:[eventfd]") == 0;
}

static int examine(int ring, const struct ring_request *request) {
    const struct vring_places *places = &request->places;
    if (ring < 0 || ring >= RINGS_MAX || request->position < -1 || request->position > UINT16_MAX) return EINVAL;
    if (request->size < 1 || request->size > VRING_SIZE_MAX || request->size & (request->size - 1)) return EINVAL;
    if (places->descriptors & 15 || places->available & 1 || places->used & 3) return EINVAL;
    if (request->kick >= 0 && !is_eventfd(request->kick)) return EINVAL;
    if (request->call >= 0) {
        int flags = fcntl(request->call, F_GETFL);
        if (!is_eventfd(request->call) || flags < 0) return EINVAL;
        if (fcntl(request->call, F_SETFL, flags | O_NONBLOCK) < 0) return errno;
    }
    return 0;
}

static void let_go(struct engine *engine, struct vring *vring) {
    if (vring->kick >= 0) port_unwatch(engine, vring->kick);
    close_if(vring->kick);
    close_if(vring->call);
    vring->kick = vring->call = -1;
}

/* Writes down what the front-end said; the descriptors are the ring's from here on. */
static void describe(struct guest_ring *ring, const struct ring_request *request) {
    bool enabled = request->flags & RING_ENABLED;
    ring->was_enabled = ring->set && (ring->was_enabled || ring->enabled);
    ring->enabled = enabled;
    ring->polled = request->flags & RING_POLLED;
    ring->features = request->features;
    ring->mergeable = request->features & FEATURE_MRG_RXBUF;
    ring->header_bytes =
        request->features & (FEATURE_MRG_RXBUF | FEATURE_VERSION_1) ? VNET_HEADER_BYTES : LEGACY_HEADER_BYTES;
    ring->vring.logged = request->flags & RING_LOGGED;
    ring->vring.event_index = request->features & FEATURE_EVENT_IDX;
    ring->vring.size = (uint16_t)request->size;
    ring->vring.places = request->places;
    ring->vring.kick = request->kick;
    ring->vring.call = request->call;
    if (request->position >= 0 || !ring->set) {
        ring->position = (int)request->position;
        ring->begun = false;
    }
    ring->expected = VRING_AHEAD;
    ring->set = true;
}

int vhost_user_set_ring(struct engine *engine, int32_t index, int number, const struct ring_request *request) {
    struct vhost_user *vhost = vhost_user_of(engine, index);
    int error = vhost ? examine(number, request) : ENODEV;
    struct guest_ring *ring = error ? NULL : &vhost->rings[number];
    if (ring && number % 2 == 0 && !ring->queue.bytes) {
        ring->queue.bytes = malloc(QUEUE_BYTES); /* not in the frame path; pages come with use */
        if (!ring->queue.bytes) error = ENOMEM;
    }
    struct port *port = error ? NULL : &engine->ports[index];
    if (!error && request->kick >= 0) error = port_watch(engine, port, request->kick);
    if (error) {
        close_if(request->kick);
        close_if(request->call);
        return -error;
    }
    let_go(engine, &ring->vring);
    describe(ring, request);
    bool found = locate(vhost, ring);
    arrange(engine, port, vhost);
    /* a call that went to the descriptor before, or to nobody, must not be missing */
    if (found && ring->enabled) vring_call(&ring->vring);
    return found && !vhost->memory.lost ? 0 : -EFAULT;
}

int vhost_user_stop_ring(struct engine *engine, int32_t index, int number) {
    struct vhost_user *vhost = vhost_user_of(engine, index);
    if (!vhost) return -ENODEV;
    if (number < 0 || number >= RINGS_MAX) return -EINVAL;
    struct guest_ring *ring = &vhost->rings[number];
    if (!ring->set) return -ENOENT;
    int position = ring->begun ? ring->vring.next : ring->position < 0 ? 0 : ring->position;
    let_go(engine, &ring->vring);
    ring->set = ring->begun = ring->enabled = ring->was_enabled = false;
    arrange(engine, &engine->ports[index], vhost);
    return position;
}

/* ---- memory and log ---- */

int vhost_user_set_memory(struct engine *engine, int32_t index, const struct guest_range *ranges, const int *fds,
                          int count) {
    struct vhost_user *vhost = vhost_user_of(engine, index);
    int error = vhost ? guest_memory_replace(&vhost->memory, ranges, fds, count) : ENODEV;
    for (int i = 0; i < count; i++) close_if(fds[i]);
    if (error) return -error;
    for (int i = 0; i < RINGS_MAX; i++)
        if (vhost->rings[i].set) locate(vhost, &vhost->rings[i]);
    arrange(engine, &engine->ports[index], vhost);
    return vhost->memory.lost ? -EFAULT : 0;
}

int vhost_user_set_log(struct engine *engine, int32_t index, int fd, uint64_t bytes, uint64_t offset) {
    struct vhost_user *vhost = vhost_user_of(engine, index);
    int error = vhost ? guest_memory_log(&vhost->memory, fd, bytes, offset) : ENODEV;
    close_if(fd);
    return -error;
}

void vhost_user_close(struct engine *engine, struct port *port) {
    struct vhost_user *vhost = port->state;
    if (!vhost) return;
    for (int i = 0; i < RINGS_MAX; i++) {
        let_go(engine, &vhost->rings[i].vring);
        queue_free(&vhost->rings[i].queue);
    }
    guest_memory_close(&vhost->memory);
    free(vhost);
    port->state = NULL;
}
