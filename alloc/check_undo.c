/* The check of history: the queue of undo records in order of apply, and each object's chain.
 *
 * Links go both ways and are compared at both ends, and both walks begin at a record without a
 * predecessor: so neither can come to a record twice. Both must count the same records. */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"
#include "alloc/command.h"

/* The record at a place, if its numbers fit each other and its block. */
static const struct undo_record *record_at(const struct check *c, uint64_t place)
{
    struct block b;
    if (!check_block(c, place, POOL_UNDO, &b)) {
        return NULL;
    }
    const struct undo_record *r = check_data(c, b.address, sizeof *r);
    if (r == NULL || r->magic != BLOCK_MAGIC_UNDO || r->kind < UNDO_WRITE || r->kind > UNDO_ROOT ||
        (r->kind != UNDO_ROOT && (r->size > OBJECT_BYTES_MAX || r->offset > OBJECT_BYTES_MAX)) ||
        r->chunks > object_chunks(OBJECT_BYTES_MAX)) {
        return NULL;
    }
    uint64_t bytes =
        r->chunks == 0 ? sizeof *r + r->len : undo_chunks_at(r->len) + r->chunks * sizeof(uint64_t);
    return bytes <= b.bytes && check_data(c, b.address, bytes) != NULL ? r : NULL;
}

static void fault(struct check *c, const char *code, uint64_t place, const char *what)
{
    check_damage(c, code, "undo record at offset %" PRIu64 " of the data: %s",
                 place == 0 ? 0 : place_offset(place), what);
}

/* Is the record's older one before it in the queue too? Both are in it, which is sorted. */
static bool older_comes_first(const struct check *c, const struct undo_record *r)
{
    const struct undo_record *older = r->older == 0 ? NULL : record_at(c, r->older);
    return r->older == 0 || (older != NULL && older->order < r->order && older->at <= r->at);
}

/* What it keeps, by itself; check_undo_chain() compares it with the object as it was. */
static bool kept_is_sound(const struct undo_record *r)
{
    switch (r->kind) {
    case UNDO_WRITE:
        return r->size > 0 && r->offset + r->len <= r->size && r->chunks == 0;
    case UNDO_RESIZE: {
        if (r->size == 0 || r->offset > r->size) {
            return false;
        }
        uint64_t end = object_chunks(r->offset) * OBJECT_CHUNK_BYTES;
        return r->len == (end < r->size ? end : r->size) - r->offset &&
               r->chunks == object_chunks(r->size) - object_chunks(r->offset);
    }
    case UNDO_BIRTH:
        return r->older == 0 && r->size == 0 && r->before == 0 && r->offset == 0 && r->len == 0 &&
               r->chunks == 0;
    default:
        return r->size > 0 && r->offset == 0 && r->len == 0 && r->chunks == 0;
    }
}

/* A record of a name, which map tx has: check_undo_root_chain(). */
static void check_root(struct check *c, uint64_t place, const struct undo_record *r)
{
    if (r->slot != 0 || r->chunks != 0 || !heap_root_name_is_valid(undo_root_name(r)) ||
        (r->size == 0) != (r->before == 0) || r->before > r->at || r->at > c->hd->clock ||
        (r->size | r->offset) == 0) {
        fault(c, "undo-record", place, "what it says of a root contradicts itself");
    }
    if (!older_comes_first(c, r)) {
        fault(c, "undo-queue", place, "an older one of its name isn't before it in the queue");
    }
}

static void check_record(struct check *c, uint64_t place, const struct undo_record *r)
{
    struct checked_object o;
    if (r->kind == UNDO_ROOT) {
        check_root(c, place, r);
        return;
    }
    bool there = check_object_get(c, r->slot, &o);
    if (!there || (o.flags & OBJECT_HISTORY) == 0 || r->at > o.version) {
        fault(c, "undo-record", place, "it belongs to no object; that object's past is lost");
        return;
    }
    if (!kept_is_sound(r) || r->at > c->hd->clock) {
        fault(c, "undo-record", place, "what it keeps contradicts itself");
    }
    if (!older_comes_first(c, r)) {
        fault(c, "undo-queue", place, "an older one of its object isn't before it in the queue");
    }
}

void check_undo_queue(struct check *c)
{
    const struct heap_header *hd = c->hd;
    uint64_t prev = 0;
    uint64_t order = 0;
    for (uint64_t place = hd->undo_head; place != 0 && !c->stop;) {
        const struct undo_record *r = record_at(c, place);
        if (r == NULL || r->prev != prev || ++c->queued > c->blocks[POOL_UNDO]) {
            fault(c, "undo-queue", place, "no such record in the queue; history behind it is lost");
            return;
        }
        if (r->order <= order || r->order > hd->last_order) {
            fault(c, "undo-queue", place, "out of order; it would be reclaimed too early");
        }
        check_record(c, place, r);
        c->queued_frees += r->kind == UNDO_FREE;
        c->queued_bytes += r->chunks == 0 ? sizeof *r + r->len
                                          : undo_chunks_at(r->len) + r->chunks * sizeof(uint64_t);
        order = r->order;
        prev = place;
        place = r->next;
    }
    if (!c->stop && prev != hd->undo_tail) {
        fault(c, "undo-queue", hd->undo_tail, "the queue doesn't end there");
    }
}

/* Chunks that were cut off: whole ones but for the last of the object as it was. */
static bool chunks_are_sound(struct check *c, uint64_t place, const struct undo_record *r)
{
    const uint64_t *places =
        (const uint64_t *)(const void *)((const uint8_t *)r + undo_chunks_at(r->len));
    uint64_t first = object_chunks(r->offset);
    for (uint64_t i = 0; i < r->chunks; i++) {
        if ((first + i) * OBJECT_CHUNK_BYTES >= r->size ||
            !check_chunk(c, places[i], r->slot, first + i, place,
                         object_chunk_bytes(r->size, first + i))) {
            return false;
        }
    }
    c->chunks += r->chunks;
    return true;
}

/* Does the record lead from an object of that size to what it was before? */
static bool step_is_sound(const struct undo_record *r, uint64_t size)
{
    switch (r->kind) {
    case UNDO_RESIZE: /* offset: the smaller size */
        return r->offset == (size < r->size ? size : r->size);
    case UNDO_BIRTH:
        return true;
    default:
        return r->size == size;
    }
}

void check_undo_chain(struct check *c, uint64_t slot, uint64_t newest)
{
    struct checked_object o;
    if (!check_object_get(c, slot, &o) || (o.flags & OBJECT_HISTORY) == 0) {
        check_damage(c, "undo-map", "slot %" PRIu64 " has a history, but its object says it hasn't",
                     slot);
        return;
    }
    const struct heap_header *hd = c->hd;
    bool dead = slot_word_state(check_slot_entry(c, slot)) == SLOT_DEAD;
    uint64_t newer = 0;
    uint64_t at = UINT64_MAX;
    uint64_t size = o.size;
    for (uint64_t place = newest; place != 0 || newer == 0;) {
        const struct undo_record *r = record_at(c, place);
        if (r == NULL || r->kind == UNDO_ROOT || r->slot != slot || r->newer != newer ||
            r->at > at || ++c->chained > c->blocks[POOL_UNDO]) {
            fault(c, "undo-chain", place, "broken chain; the object's older versions are lost");
            return;
        }
        /* Nobody goes back below the safepoint: what happened there while no history was kept
         * left no record, and the older ones don't fit any more. */
        bool followed = history_is_kept(c->h) && r->at > hd->safepoint;
        if ((dead && newer == 0) != (r->kind == UNDO_FREE) ||
            (followed && !step_is_sound(r, size)) || !chunks_are_sound(c, place, r)) {
            fault(c, "undo-record", place, "what it keeps doesn't fit the object's later versions");
            return;
        }
        if (c->stop) {
            return;
        }
        size = r->size;
        at = r->at;
        newer = place;
        place = r->older;
    }
}

void check_undo_root_chain(struct check *c, struct slice name, uint64_t newest)
{
    struct map_record found;
    struct root_record now = {0, 0};
    if (check_map_find(c, HEAP_MAP_ROOTS, name, &found) && found.value.len == sizeof now) {
        memcpy(&now, found.value.data, sizeof now);
    }
    uint64_t newer = 0;
    uint64_t at = UINT64_MAX;
    uint64_t ptr = now.ptr;
    for (uint64_t place = newest; place != 0 || newer == 0;) {
        const struct undo_record *r = record_at(c, place);
        if (r == NULL || r->kind != UNDO_ROOT || r->newer != newer || r->at > at ||
            r->len != name.len || memcmp(r + 1, name.data, name.len) != 0 ||
            ++c->chained > c->blocks[POOL_UNDO]) {
            fault(c, "undo-chain", place, "broken chain; what a root led to before is lost");
            return;
        }
        /* Where a root leads now is the user's: only whether it leads anywhere is compared. */
        bool fits = newer == 0 ? (r->offset == 0) == (ptr == 0) : r->offset == ptr;
        if (history_is_kept(c->h) && r->at > c->hd->safepoint && !fits) {
            fault(c, "undo-record", place, "what it says of a root doesn't fit what came later");
            return;
        }
        ptr = r->size;
        at = r->at;
        newer = place;
        place = r->older;
    }
}

bool check_undo_has_chunk(const struct check *c, uint64_t keeper, uint64_t slot, uint64_t place)
{
    const struct undo_record *r = record_at(c, keeper);
    if (r == NULL || r->slot != slot) {
        return false;
    }
    const uint8_t *places = (const uint8_t *)r + undo_chunks_at(r->len);
    for (uint32_t i = 0; i < r->chunks; i++) {
        if (load_u64(places + i * 8u) == place) {
            return true;
        }
    }
    return false;
}

static void undo_block(struct check *c, const struct block *b)
{
    const struct undo_record *r = record_at(c, b->place);
    const struct undo_record *prev = r == NULL || r->prev == 0 ? NULL : record_at(c, r->prev);
    bool queued = r != NULL && (r->prev == 0 ? c->hd->undo_head == b->place
                                             : prev != NULL && prev->next == b->place);
    if (!queued) {
        check_damage(c, "block-lost",
                     "block at offset %" PRIu64 " of the data (page %" PRIu64 "), %" PRIu64
                     " bytes: in use, but not in the queue of undo records; the space is lost",
                     place_offset(b->place), b->address >> PAGE_SHIFT, b->bytes);
    }
}

void check_lost_undo(struct check *c)
{
    check_each_block(c, POOL_UNDO, undo_block);
}
