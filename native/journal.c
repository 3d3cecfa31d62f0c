/*
 * The journal of sends; journal.h describes it.
 */
#include "journal.h"

/* What lay at the span in the arena of the process that died; NULL if the span is not all in it. */
static const uint8_t *found(const struct engine *engine, size_t arena_bytes, const struct iovec *span) {
    uint64_t offset = (uint64_t)(uintptr_t)span->iov_base - engine->journal->arena;
    if (offset > arena_bytes || span->iov_len > arena_bytes - offset) return NULL;
    return engine->base + offset;
}

/* Copies the rest of the frame that was being sent to the next place. None if the journal makes no sense. */
static void salvage(struct engine *engine, size_t arena_bytes) {
    struct journal *journal = engine->journal;
    struct salvage *place = &journal->salvages[journal->salvaged % SALVAGE_PLACES];
    struct iovec rest[2];
    size_t length = 0;
    if (journal->frames < 0 || journal->frames > BATCH_FRAMES) return;
    batch_sent(journal->spans, journal->frames, journal->message.msg_len, rest);
    place->stream = 0;
    in_order();
    for (int i = 0; i < 2; i++) {
        if (rest[i].iov_len == 0) continue;
        const uint8_t *bytes = found(engine, arena_bytes, &rest[i]);
        if (!bytes || rest[i].iov_len > SALVAGE_BYTES - length) return;
        memcpy(place->bytes + length, bytes, rest[i].iov_len);
        length += rest[i].iov_len;
    }
    place->length = (int32_t)length;
    in_order();
    place->stream = journal->stream;
    in_order();
    journal->salvaged++;
}

void journal_recover(struct engine *engine, size_t arena_bytes) {
    struct journal *journal = engine->journal;
    if (journal->stream) salvage(engine, arena_bytes);
    in_order();
    journal->stream = 0;
    in_order();
    journal->arena = (uint64_t)(uintptr_t)engine->base;
}

struct mmsghdr *journal_begin(struct journal *journal, uint64_t stream, int frames) {
    struct msghdr header = {.msg_iov = journal->spans, .msg_iovlen = (size_t)frames * 2};
    journal->message = (struct mmsghdr){.msg_hdr = header};
    journal->frames = frames;
    in_order();
    journal->stream = stream;
    in_order();
    return &journal->message;
}

void journal_end(struct journal *journal) {
    in_order();
    journal->stream = 0;
    in_order();
}

const struct salvage *journal_find(const struct journal *journal, uint64_t stream) {
    for (int i = 0; stream && i < SALVAGE_PLACES; i++) {
        const struct salvage *place = &journal->salvages[i];
        if (place->stream == stream && place->length >= 0 && place->length <= SALVAGE_BYTES) return place;
    }
    return NULL;
}

void journal_forget(struct journal *journal, uint64_t stream) {
    for (int i = 0; i < SALVAGE_PLACES; i++)
        if (journal->salvages[i].stream == stream) journal->salvages[i].stream = 0;
}
