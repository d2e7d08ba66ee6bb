/* Calls that concern a heap as a whole, or list what is in it: history, iteration, retention,
 * compaction. */
#include <string.h>

#include "base/mem.h"
#include "client/sdk.h"

#define CHANGES_PER_PAGE 256u
#define OBJECTS_PER_PAGE 1024u
#define OBJECT_BYTES     32u

/* ---- history ---- */

static int show_changes(struct slice changes, uint64_t *count, bool *stopped, cairn_history_cb cb,
                        void *arg)
{
    struct cursor c = cursor_of(changes);
    while (cursor_left(&c) > 0 && !*stopped) {
        cairn_change change = {0};
        change.version = cursor_u64(&c);
        change.before = cursor_u64(&c);
        change.size = cursor_u64(&c);
        change.offset = cursor_u64(&c);
        change.len = cursor_u32(&c);
        change.kind = cursor_u32(&c);
        if (c.failed) {
            return sdk__because(CAIRN_E_PROTOCOL, "a node sent a malformed history");
        }
        ++*count;
        *stopped = cb(arg, &change) != 0;
    }
    return 0;
}

/* A change that comes while pages are fetched moves the older ones down by one: `seen` is the
 * oldest version shown, and what isn't older is left out. */
struct history_page {
    cairn_history_cb cb;
    void *arg;
    uint64_t seen;
};

static int show_older(void *arg, const cairn_change *change)
{
    struct history_page *page = arg;
    if (change->version >= page->seen) {
        return 0;
    }
    page->seen = change->version;
    return page->cb(page->arg, change);
}

int cairn_history(cairn_heap *heap, cairn_ptr ptr, cairn_history_cb cb, void *arg)
{
    if (heap == NULL || cb == NULL) {
        return sdk__missing(heap == NULL ? "heap" : "cb");
    }
    struct history_page page = {.cb = cb, .arg = arg, .seen = UINT64_MAX};
    uint64_t count = 0;
    bool more = true;
    bool stopped = false;
    int rv = 0;
    while (rv == 0 && more && !stopped) {
        struct cairn_future f;
        sdk__future_init(&f, heap->client);
        rv = sdk__future_run(
            &f, core_prepare_history(&f.call, heap->core, ptr.word, count, CHANGES_PER_PAGE));
        more = f.call.more && f.call.bytes.len > 0;
        if (rv == 0) {
            rv = show_changes(slice_of(f.call.bytes.data, f.call.bytes.len), &count, &stopped,
                              show_older, &page);
        }
        buf_close(&f.call.bytes);
    }
    return rv;
}

/* ---- iterating ---- */

struct cairn_iter {
    struct cairn_heap *heap;
    uint32_t type;
    uint32_t shard;
    uint64_t from; /* slot of the next page */
    bool last;     /* the page is the shard's last */
    struct buf page;
    size_t at;
};

int cairn_iter_new(cairn_heap *heap, uint32_t type, cairn_iter **out)
{
    if (out == NULL) {
        return sdk__missing("iter");
    }
    *out = NULL;
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_iter *iter = mem_zalloc(sizeof *iter);
    if (iter == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    iter->heap = heap;
    iter->type = type;
    *out = iter;
    return 0;
}

static int fetch(struct cairn_iter *iter)
{
    struct cairn_future f;
    sdk__future_init(&f, iter->heap->client);
    int rv = sdk__future_run(
        &f, core_prepare_object_list(&f.call, iter->heap->core, iter->shard, iter->from,
                                     OBJECTS_PER_PAGE, iter->type != CAIRN_TYPE_ANY, iter->type));
    buf_close(&iter->page);
    iter->page = f.call.bytes;
    iter->at = 0;
    if (rv == 0 && iter->page.len % OBJECT_BYTES != 0) {
        rv = sdk__because(CAIRN_E_PROTOCOL, "a node sent a malformed list of objects");
    }
    if (rv != 0) {
        buf_clear(&iter->page); /* the call may be repeated */
        return rv;
    }
    iter->last = f.call.value == 0;
    iter->from = f.call.value;
    return 0;
}

int cairn_iter_next(cairn_iter *iter, cairn_object *object, int *end)
{
    if (iter == NULL || object == NULL || end == NULL) {
        return sdk__missing(iter == NULL ? "iter" : object == NULL ? "object" : "end");
    }
    memset(object, 0, sizeof *object);
    *end = 0;
    while (iter->at >= iter->page.len) {
        if (iter->last) {
            iter->last = false;
            iter->from = 0;
            iter->shard++;
        }
        if (iter->shard >= core_heap_shards(iter->heap->core)) {
            *end = 1;
            return 0;
        }
        int rv = fetch(iter);
        if (rv != 0) {
            return rv;
        }
    }
    const uint8_t *at = iter->page.data + iter->at;
    object->ptr.word = load_u64(at);
    object->size = load_u64(at + 8);
    object->version = load_u64(at + 16);
    object->type = load_u32(at + 24);
    object->flags = load_u32(at + 28);
    iter->at += OBJECT_BYTES;
    return 0;
}

void cairn_iter_free(cairn_iter *iter)
{
    if (iter != NULL) {
        buf_close(&iter->page);
        mem_free(iter);
    }
}

/* ---- operators' calls on a heap ---- */

int cairn_heap_set_retention(cairn_heap *heap, uint64_t retention_ms)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    int rv = 0;
    for (uint32_t i = 0; rv == 0 && i < core_heap_shards(heap->core); i++) {
        struct cairn_future f;
        sdk__future_init(&f, heap->client);
        rv = sdk__future_run(&f, core_prepare_set_retention(&f.call, heap->core, i, retention_ms));
    }
    return rv;
}

int cairn_heap_defrag(cairn_heap *heap, uint32_t shard, uint32_t bytes, uint64_t *moved, int *more)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv = sdk__future_run(&f, core_prepare_defrag(&f.call, heap->core, shard, bytes));
    if (moved != NULL) {
        *moved = rv == 0 ? f.call.value >> 1 : 0;
    }
    if (more != NULL) {
        *more = rv == 0 && (f.call.value & 1) != 0;
    }
    return rv;
}

int cairn_heap_trim(cairn_heap *heap, uint32_t shard, uint64_t bytes, uint64_t *freed)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv = sdk__future_run(&f, core_prepare_trim(&f.call, heap->core, shard, bytes));
    if (freed != NULL) {
        *freed = rv == 0 ? f.call.value : 0;
    }
    return rv;
}
