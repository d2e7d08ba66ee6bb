/* Reads: from applied state, when it isn't ahead of what is durable (ahead.c). */
#include <string.h>

#include "alloc/graph.h"
#include "alloc/listing.h"
#include "alloc/txn.h"
#include "base/assert.h"
#include "embed/internal.h"

#define ROOT_LIST_BYTES_MAX ((size_t)128 << 10)

bool embed__is_read(enum embedded_op op)
{
    return op >= EMBEDDED_READ && op <= EMBEDDED_WATCH;
}

static int stat_object(struct embedded_heap *h, struct embedded_call *call,
                       struct heap_object *object)
{
    const struct embedded_request *r = call->request;
    memset(object, 0, sizeof *object);
    if (r->if_version != 0) {
        return heap_stat_at(h->heap, r->if_version, r->ptr, object);
    }
    int rv = heap_stat(h->heap, r->ptr, object);
    return rv == ERR_STALE && heap_ptr_is_unborn(h->heap, r->ptr) ? ERR_NOT_YET : rv;
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

static int read_root(struct embedded_heap *h, struct embedded_call *call)
{
    struct root_record root = {0, 0};
    int rv = heap_root_get_at(h->heap, call->request->if_version, call->request->name, &root);
    call->value = root.ptr;
    call->version = root.version;
    return rv;
}

/* Entries as on the wire: length u16, name, pointer u64, version u64. */
static int read_roots(struct embedded_heap *h, struct embedded_call *call)
{
    struct slice after = call->request->name;
    struct slice key;
    struct root_record root;
    uint32_t count = 0;
    int rv;
    call->version = heap_directory_version(h->heap);
    while ((rv = heap_root_next_at(h->heap, call->request->if_version, after, &key, &root)) == 0) {
        if (count == call->request->count || call->bytes.len >= ROOT_LIST_BYTES_MAX) {
            call->more = true;
            return 0;
        }
        uint8_t *at = buf_extend(&call->bytes, 2 + key.len + sizeof root);
        if (at == NULL) {
            return ERR_NOMEM;
        }
        store_u16(at, (uint16_t)key.len);
        memcpy(at + 2, key.data, key.len);
        memcpy(at + 2 + key.len, &root, sizeof root);
        after = key;
        count++;
    }
    return rv == ERR_NOTFOUND ? 0 : rv;
}

static int read_objects(struct embedded_heap *h, struct embedded_call *call)
{
    struct listing_filter filter = {.from = call->request->offset,
                                    .max = call->request->count,
                                    .typed = call->request->size != 0,
                                    .type = call->request->type};
    return listing_objects(h->heap, &filter, &call->bytes, &call->value);
}

static int read_lease(struct embedded_heap *h, struct embedded_call *call)
{
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    uint32_t count = 0;
    int rv = heap_lease_get(h->heap, call->request->offset, &call->value, ptrs, &count);
    return rv != 0 ? rv : buf_append(&call->bytes, ptrs, count * sizeof ptrs[0]);
}

/* Nothing is ever prepared in a directory, so that nobody is in the way. */
static int read_validate(struct embedded_heap *h, struct embedded_call *call)
{
    struct txn_conflict conflict;
    struct txn_name by;
    int rv = txn_validate(h->heap, call->request->data, &conflict, &by);
    call->value = conflict.what;
    call->version = conflict.version;
    return rv;
}

/* Nothing is ever prepared in a directory: nobody is in the way. */
static int read_graph(struct embedded_heap *h, struct embedded_call *call)
{
    const struct embedded_request *r = call->request;
    struct graph_query query = {.at = r->if_version,
                                .depth = r->type,
                                .bytes_max = r->count,
                                .path = r->name,
                                .starts = r->data,
                                .known = r->expected};
    struct buf frontier = {0};
    struct txn_name by;
    int rv = graph_fetch(h->heap, &query, &call->bytes, &frontier, &call->version, &by);
    call->value = call->bytes.len;
    if (rv == 0 && frontier.len > 0) {
        rv = buf_append(&call->bytes, frontier.data, frontier.len);
    }
    buf_close(&frontier);
    return rv;
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
        rv = read_root(h, call);
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
    case EMBEDDED_LEASE_GET:
        rv = read_lease(h, call);
        break;
    case EMBEDDED_VALIDATE:
        rv = read_validate(h, call);
        break;
    case EMBEDDED_FETCH:
        rv = read_graph(h, call);
        break;
    case EMBEDDED_CLOCK:
        call->version = heap_clock(h->heap);
        rv = 0;
        break;
    case EMBEDDED_WATCH:
        embed__watch(h, call);
        return;
    default:
        assert(call->request->op == EMBEDDED_OBJECT_LIST);
        rv = read_objects(h, call);
        break;
    }
    if (rv == ERR_SNAPSHOT_TOO_OLD) {
        call->version = heap_safepoint(h->heap);
        call->value = heap_retention_ms(h->heap);
    }
    if (embed__check_damage(h) != 0) {
        rv = h->db->failed;
        text = h->db->fail_text;
    }
    embed__finish(h->db, call, rv, text);
}
