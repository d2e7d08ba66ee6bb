/* Pages of what a heap holds: an object's changes, the registered types, the live objects. Each
 * holds the lock for a bounded time; the caller comes again for the next one. */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "embed/internal.h"

#define CHANGES_PER_PAGE   256u
#define CHANGE_BYTES       40u
#define TYPES_BYTES_MAX    ((size_t)256 << 10)
#define TYPE_HEAD_BYTES    16u
#define OBJECTS_PER_PAGE   1024u
#define OBJECTS_LOOKED_AT  8192u
#define OBJECTS_PER_STEP   256u
#define OBJECT_ENTRY_BYTES 32u

int embed__list_changes(struct embedded_heap *h, struct embedded_call *call)
{
    struct heap_change changes[CHANGES_PER_PAGE + 1]; /* one more tells whether there is more */
    size_t max = call->count < CHANGES_PER_PAGE ? call->count : CHANGES_PER_PAGE;
    size_t count = 0;
    int rv = heap_history(h->heap, call->ptr, call->offset, changes, max + 1, &count);
    call->version = heap_safepoint(h->heap);
    call->more = count > max;
    for (size_t i = 0; rv == 0 && i < count && i < max; i++) {
        uint8_t *at = buf_extend(&call->bytes, CHANGE_BYTES);
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
    return rv;
}

static int append_type(struct buf *out, struct heap_type *type)
{
    size_t head = out->len;
    if (buf_extend(out, TYPE_HEAD_BYTES) == NULL) {
        return ERR_NOMEM;
    }
    uint64_t version = type->version;
    type->version = 0;
    int rv = heap_type_encode(type, out);
    if (rv == 0) {
        store_u32(out->data + head, type->number);
        store_u64(out->data + head + 4, version);
        store_u32(out->data + head + 12, (uint32_t)(out->len - head - TYPE_HEAD_BYTES));
    }
    return rv;
}

int embed__list_types(struct embedded_heap *h, struct embedded_call *call)
{
    struct heap_type *type = mem_alloc(sizeof *type);
    uint32_t after = call->type;
    int rv = type == NULL ? ERR_NOMEM : 0;
    for (uint32_t count = 0; rv == 0 && heap_type_next(h->heap, after, type) == 0; count++) {
        if (count >= call->count || call->bytes.len >= TYPES_BYTES_MAX) {
            call->more = true;
            break;
        }
        after = type->number;
        rv = append_type(&call->bytes, type);
    }
    mem_free(type);
    return rv;
}

int embed__list_objects(struct embedded_heap *h, struct embedded_call *call)
{
    struct heap_object objects[OBJECTS_PER_STEP];
    size_t max = call->count < OBJECTS_PER_PAGE ? call->count : OBJECTS_PER_PAGE;
    uint64_t next = call->offset;
    if (max == 0) {
        return ERR_INVAL;
    }
    int rv = buf_reserve(&call->bytes, max * OBJECT_ENTRY_BYTES);
    for (size_t looked = 0; rv == 0 && looked < OBJECTS_LOOKED_AT; looked += OBJECTS_PER_STEP) {
        size_t room = max - call->bytes.len / OBJECT_ENTRY_BYTES;
        if (room == 0) {
            break;
        }
        size_t count = heap_list_objects(h->heap, next, objects,
                                         room < OBJECTS_PER_STEP ? room : OBJECTS_PER_STEP, &next);
        for (size_t i = 0; i < count; i++) {
            if (call->size != 0 && objects[i].type != call->type) {
                continue;
            }
            uint8_t *at = buf_extend(&call->bytes, OBJECT_ENTRY_BYTES);
            assert(at != NULL); /* reserved */
            store_u64(at, objects[i].ptr);
            store_u64(at + 8, objects[i].size);
            store_u64(at + 16, objects[i].version);
            store_u32(at + 24, objects[i].type);
            store_u32(at + 28, objects[i].flags);
        }
        if (next == 0) {
            break;
        }
    }
    call->value = next;
    return rv;
}
