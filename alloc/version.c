/* Older versions: the newest one is in place, and undo records newer than the time asked for lead
 * back to it, one by one (E22). */
#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn.h"

uint64_t heap_safepoint(const struct heap *heap)
{
    const struct heap_header *hd = header(heap);
    return history_is_kept(heap) ? hd->safepoint : hd->clock;
}

enum history_known history_known(const struct heap *h, uint64_t at)
{
    if (at >= heap_safepoint(h)) {
        return HISTORY_KEPT;
    }
    return header(h)->retention_ms == 0 ? HISTORY_UNCHANGED : HISTORY_GONE;
}

uint64_t heap_retention_ms(const struct heap *heap)
{
    return header(heap)->retention_ms;
}

/* An object as it was: how far back in its chain, and what it was then. */
struct past {
    struct object_view now;
    uint64_t newest; /* place of its newest record */
    uint64_t end;    /* the first record that is not newer than asked for; 0 none */
    uint64_t size, version;
};

/* Place of the object and whether it is freed. */
static int find_any(const struct heap *h, uint64_t ptr, uint64_t *place, bool *dead)
{
    int rv = object_find(h, ptr, true, place);
    if (rv == 0) {
        *dead = slot_word_state(slot_get(h, ptr_slot(ptr))) == SLOT_DEAD;
    }
    return rv;
}

static int go_back(const struct heap *h, uint64_t at, uint64_t ptr, struct past *p)
{
    enum history_known known = history_known(h, at);
    if (known == HISTORY_GONE) {
        return ERR_SNAPSHOT_TOO_OLD;
    }
    uint64_t place = 0;
    bool dead = false;
    int rv = find_any(h, ptr, &place, &dead);
    if (rv == ERR_STALE && heap_ptr_is_unborn(h, ptr)) {
        return ERR_NOTFOUND;
    }
    if (rv == ERR_STALE && known == HISTORY_UNCHANGED) {
        return ERR_SNAPSHOT_TOO_OLD; /* freed before or after: nobody knows */
    }
    if (rv != 0) {
        return rv;
    }
    object_decode(h, place, &p->now);
    if (known == HISTORY_UNCHANGED && (dead || p->now.version > at)) {
        return ERR_SNAPSHOT_TOO_OLD;
    }
    p->size = p->now.size;
    p->version = p->now.version;
    p->newest = (p->now.flags & OBJECT_HISTORY) != 0 ? undo_newest(h, p->now.slot) : 0;
    p->end = p->newest;
    while (p->end != 0) {
        const struct undo_record *r = undo_get(h, p->end);
        if (r->at <= at) {
            break;
        }
        if (r->kind == UNDO_BIRTH) {
            return ERR_NOTFOUND;
        }
        dead = dead && r->kind != UNDO_FREE;
        p->size = r->size;
        p->version = r->before;
        p->end = r->older;
    }
    return dead ? ERR_STALE : 0;
}

int heap_stat_at(const struct heap *heap, uint64_t at, uint64_t ptr, struct heap_object *out)
{
    memset(out, 0, sizeof *out);
    struct past p;
    int rv = go_back(heap, at, ptr, &p);
    if (rv == 0) {
        out->ptr = ptr;
        out->size = p.size;
        out->version = p.version;
        out->type = p.now.type;
        out->flags = p.now.flags;
    }
    return rv;
}

/* Bytes wanted: [offset, offset + len) of the object. */
struct window {
    uint8_t *data;
    uint64_t offset, len;
};

/* Puts what `from` has of [offset, offset + len) where the window shows it. */
static void window_put(const struct heap *h, const struct window *w, uint64_t offset,
                       uint64_t address, uint64_t len)
{
    uint64_t from = offset > w->offset ? offset : w->offset;
    uint64_t end = offset + len < w->offset + w->len ? offset + len : w->offset + w->len;
    if (from < end) {
        memcpy(w->data + (from - w->offset), heap_bytes(h, address + (from - offset), end - from),
               end - from);
    }
}

static void window_put_record(const struct heap *h, const struct window *w, uint64_t place)
{
    const struct undo_record *r = undo_get(h, place);
    uint64_t address = block_address(h, place);
    window_put(h, w, r->offset, address + sizeof *r, r->len);
    uint64_t first = object_chunks(r->offset);
    for (uint64_t i = 0; i < r->chunks; i++) {
        uint64_t chunk = load_u64(arena_at(&h->arena, address + undo_chunks_at(r->len) + i * 8));
        window_put(h, w, (first + i) * OBJECT_CHUNK_BYTES,
                   block_address(h, chunk) + sizeof(struct object_header),
                   object_chunk_bytes(r->size, first + i));
    }
}

void undo_bytes_behind(const struct heap *h, const struct object_view *o, uint64_t newest,
                       uint64_t end, uint64_t offset, void *data, uint64_t len)
{
    if (len == 0) {
        return;
    }
    struct window w = {.data = data, .offset = offset, .len = len};
    uint64_t have = o->size > offset ? o->size - offset : 0;
    have = have < len ? have : len;
    object_get_bytes(h, o, offset, w.data, have);
    if (have < len) {
        memset(w.data + have, 0, len - have); /* a record has them: they were cut off */
    }
    for (uint64_t i = newest; i != end; i = undo_get(h, i)->older) {
        window_put_record(h, &w, i);
    }
}

int heap_read_at(const struct heap *heap, uint64_t at, uint64_t ptr, uint64_t offset, void *data,
                 uint64_t len)
{
    struct past p;
    int rv = go_back(heap, at, ptr, &p);
    if (rv != 0) {
        return rv;
    }
    if (offset > p.size || len > p.size - offset) {
        return ERR_RANGE;
    }
    undo_bytes_behind(heap, &p.now, p.newest, p.end, offset, data, len);
    return heap->arena.damage;
}

/* The change that a record undoes; size is the object's after it. */
static void describe(const struct undo_record *r, uint64_t size, struct heap_change *out)
{
    out->version = r->at;
    out->before = r->before;
    out->size = size;
    out->offset = r->offset;
    out->len = r->kind == UNDO_RESIZE ? (uint32_t)(r->size - r->offset) : r->len;
    out->kind = r->kind;
    out->order = r->order;
}

int heap_history(const struct heap *heap, uint64_t ptr, uint64_t skip, struct heap_change *out,
                 size_t max, size_t *count)
{
    *count = 0;
    uint64_t place = 0;
    bool dead = false;
    int rv = find_any(heap, ptr, &place, &dead);
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(heap, place, &o);
    uint64_t at = (o.flags & OBJECT_HISTORY) != 0 ? undo_newest(heap, o.slot) : 0;
    uint64_t size = dead ? 0 : o.size;
    uint64_t version = o.version;
    bool born = false;
    while (at != 0 && *count < max && undo_get(heap, at)->at > heap_safepoint(heap)) {
        const struct undo_record *r = undo_get(heap, at);
        if (skip > 0) {
            skip--;
        } else {
            describe(r, size, &out[*count]);
            *count += 1;
        }
        born = r->kind == UNDO_BIRTH;
        size = r->size;
        version = r->before;
        at = r->older;
    }
    /* What was there before the history begins. */
    if (!born && *count < max && skip == 0) {
        out[*count] = (struct heap_change){.version = version, .size = size};
        *count += 1;
    }
    return 0;
}
