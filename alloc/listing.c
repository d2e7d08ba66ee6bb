#include "alloc/listing.h"

#include <string.h>

#include "alloc/heap_layout.h"
#include "base/assert.h"
#include "base/mem.h"

#define CHANGE_BYTES       40u
#define OBJECT_ENTRY_BYTES 32u
#define OBJECTS_PER_STEP   256u
#define OBJECTS_LOOKED_AT  8192u /* for one page: a rare type must not hold up a loop */

int listing_changes(const struct heap *heap, uint64_t ptr, uint64_t skip, uint32_t max,
                    struct buf *out, bool *more)
{
    struct heap_change changes[LISTING_CHANGES_MAX + 1]; /* one more tells whether there is more */
    size_t room = max < LISTING_CHANGES_MAX ? max : LISTING_CHANGES_MAX;
    size_t count = 0;
    *more = false;
    int rv = heap_history(heap, ptr, skip, changes, room + 1, &count);
    if (rv != 0) {
        return rv;
    }
    *more = count > room;
    for (size_t i = 0; i < count && i < room; i++) {
        uint8_t *at = buf_extend(out, CHANGE_BYTES);
        if (at == NULL) {
            return ERR_NOMEM;
        }
        store_u64(at, changes[i].version);
        store_u64(at + 8, changes[i].before);
        store_u64(at + 16, changes[i].size);
        store_u64(at + 24, changes[i].offset);
        store_u32(at + 32, changes[i].len);
        store_u32(at + 36, changes[i].kind);
    }
    return 0;
}

int listing_type(const struct heap_type *type, struct buf *out)
{
    size_t head = out->len;
    if (buf_extend(out, LISTING_TYPE_HEAD_BYTES) == NULL) {
        return ERR_NOMEM;
    }
    int rv = heap_type_encode(type, out);
    if (rv == 0) {
        uint8_t *at = out->data + head;
        store_u32(at, type->number);
        store_u64(at + 4, type->version);
        store_u32(at + 12, (uint32_t)(out->len - head - LISTING_TYPE_HEAD_BYTES));
        /* On the way a descriptor's own version is 0. */
        store_u64(at + LISTING_TYPE_HEAD_BYTES + offsetof(struct type_record, version), 0);
    }
    return rv;
}

int listing_types(const struct heap *heap, uint32_t after, uint32_t max, struct buf *out,
                  bool *more)
{
    size_t begin = out->len;
    struct heap_type *type = mem_alloc(sizeof *type);
    int rv = type == NULL ? ERR_NOMEM : 0;
    *more = false;
    for (uint32_t count = 0; rv == 0 && heap_type_next(heap, after, type) == 0; count++) {
        if (count >= max || out->len - begin >= LISTING_TYPES_BYTES) {
            *more = true;
            break;
        }
        after = type->number;
        rv = listing_type(type, out);
    }
    mem_free(type);
    return rv;
}

static void append_objects(const struct listing_filter *filter, const struct heap_object *objects,
                           size_t count, struct buf *out)
{
    for (size_t i = 0; i < count; i++) {
        if (filter->typed && objects[i].type != filter->type) {
            continue;
        }
        uint8_t *at = buf_extend(out, OBJECT_ENTRY_BYTES);
        assert(at != NULL); /* reserved */
        store_u64(at, objects[i].ptr);
        store_u64(at + 8, objects[i].size);
        store_u64(at + 16, objects[i].version);
        store_u32(at + 24, objects[i].type);
        store_u32(at + 28, objects[i].flags);
    }
}

int listing_objects(const struct heap *heap, const struct listing_filter *filter, struct buf *out,
                    uint64_t *next)
{
    struct heap_object objects[OBJECTS_PER_STEP];
    size_t begin = out->len;
    size_t max = filter->max < LISTING_OBJECTS_MAX ? filter->max : LISTING_OBJECTS_MAX;
    *next = filter->from;
    if (max == 0) {
        return ERR_INVAL;
    }
    int rv = buf_reserve(out, max * OBJECT_ENTRY_BYTES);
    for (size_t looked = 0; rv == 0 && looked < OBJECTS_LOOKED_AT; looked += OBJECTS_PER_STEP) {
        size_t room = max - (out->len - begin) / OBJECT_ENTRY_BYTES;
        if (room == 0) {
            break;
        }
        size_t count = heap_list_objects(heap, *next, objects,
                                         room < OBJECTS_PER_STEP ? room : OBJECTS_PER_STEP, next);
        append_objects(filter, objects, count, out);
        if (*next == 0) {
            break;
        }
    }
    const char *text;
    return rv == 0 ? heap_damage(heap, &text) : rv;
}

/* ---- changes ---- */

#define EVENT_HEAD_BYTES 68u

static int append_event(const struct heap *heap, const struct events_filter *filter,
                        const struct heap_event *e, bool values, struct buf *out)
{
    uint32_t before = UINT32_MAX;
    uint32_t after = UINT32_MAX;
    size_t begin = out->len;
    uint8_t *at = buf_extend(out, EVENT_HEAD_BYTES + e->name.len);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    store_u64(at, e->order);
    store_u64(at + 8, e->version);
    store_u64(at + 16, e->before);
    store_u64(at + 24, e->ptr);
    store_u64(at + 32, e->offset);
    store_u64(at + 40, e->size);
    store_u32(at + 48, e->len);
    store_u32(at + 52, e->type);
    at[56] = (uint8_t)e->kind;
    at[57] = events_more(heap, filter, e);
    store_u16(at + 58, (uint16_t)e->name.len);
    if (e->name.len > 0) {
        memcpy(at + EVENT_HEAD_BYTES, e->name.data, e->name.len);
    }
    int rv = values ? events_values(heap, e, WATCH_VALUE_BYTES_MAX, out, &before, &after) : 0;
    if (rv != 0) {
        out->len = begin;
        return rv;
    }
    store_u32(out->data + begin + 60, before);
    store_u32(out->data + begin + 64, after);
    return 0;
}

int listing_events(const struct heap *heap, const struct events_filter *filter,
                   struct events_cursor *cursor, const struct listing_share *share, uint32_t budget,
                   struct buf *out)
{
    size_t begin = out->len;
    uint32_t max = share->max < WATCH_CHANGES_MAX ? share->max : WATCH_CHANGES_MAX;
    uint32_t bytes_max = share->bytes_max < WATCH_BYTES_MAX ? share->bytes_max : WATCH_BYTES_MAX;
    uint32_t count = 0;
    int rv = max == 0 || bytes_max == 0 ? ERR_INVAL : 0;
    while (rv == 0 && count < max && out->len - begin < bytes_max) {
        struct heap_event e;
        struct events_cursor before = *cursor;
        rv = events_next(heap, filter, cursor, &budget, &e);
        if (rv == 0) {
            rv = append_event(heap, filter, &e, share->values, out);
            if (rv != 0) {
                *cursor = before; /* it comes again */
                break;
            }
            count++;
        }
    }
    return count > 0 ? 0 : rv;
}
