/* Reads: from applied state, which is never ahead of what is durable. */
#include <string.h>

#include "alloc/listing.h"
#include "base/assert.h"
#include "embed/internal.h"

#define ROOT_LIST_BYTES_MAX ((size_t)128 << 10)

bool embed__is_read(enum embedded_op op)
{
    return op >= EMBEDDED_READ && op <= EMBEDDED_OBJECT_LIST;
}

static int stat_object(struct embedded_heap *h, struct embedded_call *call,
                       struct heap_object *object)
{
    memset(object, 0, sizeof *object);
    return call->request->if_version == 0
               ? heap_stat(h->heap, call->request->ptr, object)
               : heap_stat_at(h->heap, call->request->if_version, call->request->ptr, object);
}

static int read_bytes(struct embedded_heap *h, struct embedded_call *call)
{
    struct heap_object object;
    int rv = stat_object(h, call, &object);
    if (rv != 0) {
        return rv;
    }
    if (call->request->offset > object.size ||
        call->request->size > object.size - call->request->offset) {
        return ERR_RANGE;
    }
    if (call->request->size > 0) {
        rv = call->request->if_version == 0
                 ? heap_copy(h->heap, call->request->ptr, call->request->offset, call->request->out,
                             call->request->size)
                 : heap_read_at(h->heap, call->request->if_version, call->request->ptr,
                                call->request->offset, call->request->out, call->request->size);
    }
    call->version = object.version;
    return rv;
}

static int read_stat(struct embedded_heap *h, struct embedded_call *call)
{
    struct heap_object object;
    int rv = stat_object(h, call, &object);
    call->version = object.version;
    call->object_size = object.size;
    call->object_type = object.type;
    call->object_flags = object.flags;
    return rv;
}

static int read_root(struct embedded_heap *h, struct embedded_call *call, const char **text)
{
    struct root_record root = {0, 0};
    int rv = heap_root_get(h->heap, call->request->name, &root);
    call->value = root.ptr;
    call->version = root.version;
    if (rv == ERR_NOTFOUND) {
        *text = "no such root";
    }
    return rv;
}

/* Entries as on the wire: length u16, name, pointer u64, version u64. */
static int read_roots(struct embedded_heap *h, struct embedded_call *call)
{
    struct slice after = call->request->name;
    struct slice key;
    struct slice value;
    uint32_t count = 0;
    while (heap_map_next(h->heap, HEAP_MAP_ROOTS, after, &key, &value) == 0) {
        if (count == call->request->count || call->bytes.len >= ROOT_LIST_BYTES_MAX) {
            call->more = true;
            return 0;
        }
        assert(value.len == sizeof(struct root_record));
        uint8_t *at = buf_extend(&call->bytes, 2 + key.len + value.len);
        if (at == NULL) {
            return ERR_NOMEM;
        }
        store_u16(at, (uint16_t)key.len);
        memcpy(at + 2, key.data, key.len);
        memcpy(at + 2 + key.len, value.data, value.len);
        after = key;
        count++;
    }
    return 0;
}

static int read_objects(struct embedded_heap *h, struct embedded_call *call)
{
    struct listing_filter filter = {.from = call->request->offset,
                                    .max = call->request->count,
                                    .typed = call->request->size != 0,
                                    .type = call->request->type};
    return listing_objects(h->heap, &filter, &call->bytes, &call->value);
}

void embed__read(struct embedded_heap *h, struct embedded_call *call)
{
    const char *text = NULL;
    int rv;
    switch (call->request->op) {
    case EMBEDDED_READ:
        rv = read_bytes(h, call);
        break;
    case EMBEDDED_STAT:
        rv = read_stat(h, call);
        break;
    case EMBEDDED_ROOT_GET:
        rv = read_root(h, call, &text);
        break;
    case EMBEDDED_ROOT_LIST:
        rv = read_roots(h, call);
        break;
    case EMBEDDED_HISTORY:
        rv = listing_changes(h->heap, call->request->ptr, call->request->offset,
                             call->request->count, &call->bytes, &call->more);
        call->version = heap_safepoint(h->heap);
        break;
    case EMBEDDED_TYPE_LIST:
        rv = listing_types(h->heap, call->request->type, call->request->count, &call->bytes,
                           &call->more);
        break;
    default:
        assert(call->request->op == EMBEDDED_OBJECT_LIST);
        rv = read_objects(h, call);
        break;
    }
    embed__finish(h->db, call, rv, text);
}
