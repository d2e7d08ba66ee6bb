/* The next change of an object or a name is found along its own chain of undo records, of anything
 * else along the queue of all of them. Both lists are ordered; from their newest end one walks back
 * to where the follower stands, once, and from there forward. */
#include "alloc/events.h"

#include <stdio.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn.h"

#define VALUE_RECORDS_MAX                                                                          \
    64u /* newer changes that are undone to tell what a change left behind                         \
         */

uint64_t heap_order(const struct heap *heap)
{
    return header(heap)->last_order;
}

uint64_t events_oldest(const struct heap *heap, uint64_t *at)
{
    *at = header(heap)->safepoint;
    return header(heap)->history_from;
}

/* ---- beginning ---- */

int events_begin(const struct heap *heap, const struct events_filter *filter, enum events_from from,
                 uint64_t token, struct events_cursor *cursor)
{
    uint64_t at = 0;
    *cursor = (struct events_cursor){.order = token};
    if (header(heap)->retention_ms == 0) {
        return ERR_UNSUPPORTED;
    }
    switch (from) {
    case EVENTS_NOW:
        cursor->order = heap_order(heap);
        return 0;
    case EVENTS_OLDEST:
        cursor->order = events_oldest(heap, &at);
        return filter->at != 0 && filter->at < at ? ERR_SNAPSHOT_TOO_OLD : 0;
    case EVENTS_TOKEN:
    case EVENTS_FROMS:
    default:
        return 0;
    }
}

void events_explain(const struct heap *heap, int err, char *text, size_t bytes)
{
    uint64_t at = 0;
    uint64_t order = events_oldest(heap, &at);
    text[0] = '\0';
    if (err == ERR_SNAPSHOT_TOO_OLD) {
        (void)snprintf(text, bytes,
                       "changes behind that are gone: the oldest version to watch this shard from "
                       "is %llu, the oldest token %llu",
                       (unsigned long long)at, (unsigned long long)order);
    } else if (err == ERR_UNSUPPORTED) {
        (void)snprintf(text, bytes,
                       "the heap keeps no history, which a watch reads: give it some, as "
                       "cairnctl heap set HEAP retention=10m does");
    } else if (err == ERR_INVAL) {
        (void)snprintf(text, bytes, "the token is ahead of this shard: it is of another heap");
    }
}

/* ---- what a record says ---- */

/* The object's size behind the change that a record undoes. */
static uint64_t size_after(const struct heap *h, const struct undo_record *r,
                           const struct object_view *o)
{
    if (r->kind == UNDO_FREE) {
        return 0;
    }
    return r->newer != 0 ? undo_get(h, r->newer)->size : o->size;
}

/* Of an image that isn't all in memory yet. */
static int describe_load(const struct heap *h, const struct undo_record *r)
{
    int rv = r->kind == UNDO_ROOT ? 0 : slot_load(h, r->slot);
    return rv == 0 && r->kind != UNDO_ROOT ? object_load(h, slot_word_place(slot_get(h, r->slot)))
                                           : rv;
}

/* 0, or a fatal code. */
static int describe(const struct heap *h, uint64_t place, struct heap_event *out)
{
    const struct undo_record *r = undo_get(h, place);
    int rv = describe_load(h, r);
    if (rv != 0) {
        return rv;
    }
    memset(out, 0, sizeof *out);
    out->order = r->order;
    out->version = r->at;
    out->before = r->before;
    out->kind = r->kind;
    out->record = place;
    out->offset = r->offset;
    if (r->kind == UNDO_ROOT) {
        out->ptr = r->offset;
        out->offset = r->size;
        out->name = undo_root_name(r);
        return 0;
    }
    struct object_view o;
    uint64_t word = slot_get(h, r->slot);
    object_decode(h, slot_word_place(word), &o);
    out->ptr = ptr_make(header(h)->shard, slot_word_generation(word), r->slot);
    out->size = size_after(h, r, &o);
    out->len = r->kind == UNDO_RESIZE ? (uint32_t)(r->size - r->offset) : r->len;
    out->type = o.type;
    return 0;
}

bool events_match(const struct events_filter *filter, const struct heap_event *event)
{
    bool root = event->kind == UNDO_ROOT;
    switch (filter->what) {
    case EVENTS_OBJECT:
        return !root && event->ptr == filter->ptr;
    case EVENTS_ROOT:
        return root && slice_equals(event->name, filter->name);
    case EVENTS_ROOTS:
        return root && event->name.len >= filter->name.len &&
               (filter->name.len == 0 ||
                memcmp(event->name.data, filter->name.data, filter->name.len) == 0);
    case EVENTS_TYPE:
        return !root && event->type == filter->type;
    case EVENTS_ALL:
        return true;
    case EVENTS_WHATS:
    default:
        return false;
    }
}

/* ---- the two kinds of lists ---- */

static bool is_chain(const struct events_filter *filter)
{
    return filter->what == EVENTS_OBJECT || filter->what == EVENTS_ROOT;
}

static uint64_t older(const struct heap *h, const struct events_filter *filter, uint64_t place)
{
    return is_chain(filter) ? undo_get(h, place)->older : undo_get(h, place)->prev;
}

static uint64_t newer(const struct heap *h, const struct events_filter *filter, uint64_t place)
{
    return is_chain(filter) ? undo_get(h, place)->newer : undo_get(h, place)->next;
}

/* *place: 0, the list is empty. ERR_STALE: it is for good. */
static int newest(const struct heap *h, const struct events_filter *filter, uint64_t *place)
{
    struct object_view o;
    uint64_t object = 0;
    *place = 0;
    if (filter->what == EVENTS_ROOT) {
        *place = undo_newest_root(h, filter->name);
        return 0;
    }
    if (!is_chain(filter)) {
        *place = header(h)->undo_tail;
        return 0;
    }
    if (object_find(h, filter->ptr, true, &object) != 0) {
        return heap_ptr_is_unborn(h, filter->ptr) ? 0 : ERR_STALE;
    }
    object_decode(h, object, &o);
    *place = (o.flags & OBJECT_HISTORY) != 0 ? undo_newest(h, o.slot) : 0;
    return 0;
}

/* ---- going on ---- */

/* A record stays where it is until a block moves (which is counted), or until it is reclaimed, with
 * all that are older. Holds on every replica alike: their arenas are the same. */
static void forget_what_moved(const struct heap *h, struct events_cursor *c)
{
    const struct heap_header *hd = header(h);
    bool moved = c->moved != hd->moved_blocks;
    if (moved || c->place_order <= hd->history_from) {
        c->place = 0;
    }
    if (moved || c->walk_order <= hd->history_from) {
        c->walk = 0;
    }
    c->moved = hd->moved_blocks;
}

/* The list's first record behind the cursor; 0: none. ERR_BUSY, ERR_STALE. */
static int seek(const struct heap *h, const struct events_filter *filter, struct events_cursor *c,
                uint32_t *budget, uint64_t *first)
{
    *first = 0;
    if (c->place != 0) {
        *first = newer(h, filter, c->place);
        return 0;
    }
    uint64_t head = header(h)->undo_head;
    if (!is_chain(filter) && head != 0 && undo_get(h, head)->order > c->order) {
        *first = head;
        return 0;
    }
    uint64_t at = c->walk;
    if (at != 0) {
        *first = at;
        at = older(h, filter, at);
    } else {
        int rv = newest(h, filter, &at);
        if (rv != 0) {
            return rv;
        }
    }
    for (; at != 0 && undo_get(h, at)->order > c->order; at = older(h, filter, at)) {
        if (*budget == 0) {
            return ERR_BUSY;
        }
        *budget -= 1;
        *first = c->walk = at;
        c->walk_order = undo_get(h, at)->order;
    }
    c->walk = 0;
    return 0;
}

static int check(const struct heap *h, const struct events_filter *filter,
                 const struct events_cursor *c)
{
    const struct heap_header *hd = header(h);
    if (hd->retention_ms == 0) {
        return ERR_UNSUPPORTED;
    }
    if (c->order > hd->last_order) {
        return ERR_INVAL;
    }
    /* All that is gone, or was never recorded, has a version of at most the safepoint. */
    bool wanted = filter->at == 0 || filter->at < hd->safepoint;
    return c->order < hd->history_from && wanted ? ERR_SNAPSHOT_TOO_OLD : 0;
}

int events_next(const struct heap *heap, const struct events_filter *filter,
                struct events_cursor *cursor, uint32_t *budget, struct heap_event *out)
{
    uint64_t at = 0;
    int rv = check(heap, filter, cursor);
    if (rv == 0) {
        forget_what_moved(heap, cursor);
        rv = seek(heap, filter, cursor, budget, &at);
    }
    if (rv != 0) {
        return rv;
    }
    for (; at != 0; at = newer(heap, filter, at)) {
        if (*budget == 0) {
            return ERR_BUSY;
        }
        *budget -= 1;
        rv = describe(heap, at, out);
        if (rv != 0) {
            return rv;
        }
        cursor->order = cursor->place_order = out->order;
        cursor->place = at;
        if (out->version > filter->at && events_match(filter, out)) {
            return 0;
        }
    }
    cursor->order = heap_order(heap);
    return ERR_NOTFOUND;
}

bool events_more(const struct heap *heap, const struct events_filter *filter,
                 const struct heap_event *event)
{
    uint64_t at = newer(heap, filter, event->record);
    for (; at != 0; at = newer(heap, filter, at)) {
        const struct undo_record *r = undo_get(heap, at);
        struct heap_event next;
        if (r->at != event->version ||
            r->order >> ORDER_INDEX_SHIFT != event->order >> ORDER_INDEX_SHIFT) {
            return false;
        }
        if (describe(heap, at, &next) == 0 && events_match(filter, &next)) {
            return true;
        }
    }
    return false;
}

/* ---- values ---- */

/* Bytes of the object as they were when the change `end`, and nothing newer, had been made: what is
 * newer is undone. False: too much of it. */
static bool few_newer(const struct heap *h, uint64_t end)
{
    uint32_t count = 0;
    for (uint64_t at = undo_get(h, end)->newer; at != 0; at = undo_get(h, at)->newer) {
        if (++count > VALUE_RECORDS_MAX) {
            return false;
        }
    }
    return true;
}

static int value(const struct heap *h, uint64_t slot, uint64_t end, uint64_t offset, uint32_t len,
                 struct buf *out)
{
    struct object_view o;
    uint8_t *to = buf_extend(out, len);
    if (to == NULL && len > 0) {
        return ERR_NOMEM;
    }
    object_decode(h, slot_word_place(slot_get(h, slot)), &o);
    undo_bytes_behind(h, &o, undo_newest(h, slot), end, offset, to, len);
    return h->arena.damage;
}

int events_values(const struct heap *heap, const struct heap_event *event, uint32_t max,
                  struct buf *out, uint32_t *before_len, uint32_t *after_len)
{
    const struct undo_record *r = undo_get(heap, event->record);
    bool before = r->kind == UNDO_WRITE || r->kind == UNDO_FREE || r->kind == UNDO_RESIZE;
    bool after = r->kind == UNDO_WRITE || r->kind == UNDO_BIRTH;
    uint64_t offset = r->kind == UNDO_WRITE || r->kind == UNDO_RESIZE ? r->offset : 0;
    uint64_t len = r->kind == UNDO_BIRTH  ? event->size
                   : r->kind == UNDO_FREE ? r->size
                                          : event->len;
    int rv = 0;
    *before_len = *after_len = UINT32_MAX;
    if (len > max || r->kind == UNDO_ROOT || !few_newer(heap, event->record)) {
        return 0;
    }
    if (before) {
        rv = value(heap, r->slot, r->older, offset, (uint32_t)len, out);
        *before_len = (uint32_t)len;
    }
    if (rv == 0 && after) {
        rv = value(heap, r->slot, event->record, offset, (uint32_t)len, out);
        *after_len = (uint32_t)len;
    }
    return rv;
}
