/* The calls, in both forms. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/sdk.h"

#define ROOTS_PER_PAGE 256u

static int no_future(const struct cairn_heap *heap)
{
    return heap == NULL ? sdk__missing("heap") : CAIRN_E_NOMEM;
}

/* ---- heaps ---- */

void cairn_heap_opts_init(cairn_heap_opts *opts, size_t struct_size)
{
    cairn_heap_opts defaults = {
        .struct_size = struct_size, .shards = 4, .replicas = 0, .bytes_max = UINT64_C(1) << 30};
    if (opts == NULL) {
        return;
    }
    memset(opts, 0, struct_size);
    memcpy(opts, &defaults, struct_size < sizeof defaults ? struct_size : sizeof defaults);
}

/* Waits until every shard has a leader that answers. */
static int heap_wait(struct cairn_heap *heap)
{
    for (uint32_t i = 0; i < core_heap_shards(heap->core); i++) {
        struct cairn_future f;
        int rv;
        int rounds = 0;
        do { /* NOSHARD: its nodes haven't heard of it yet (a round takes a good second) */
            sdk__future_init(&f, heap->client);
            rv = sdk__future_run(&f, core_prepare_probe(&f.call, heap->core, i));
            buf_close(&f.call.bytes);
        } while (rv == CAIRN_E_NOSHARD && ++rounds < 20);
        if (rv != 0) {
            return sdk__fail(rv, "the heap was created, but its shard %u doesn't serve yet: %s", i,
                             f.call.text);
        }
    }
    return 0;
}

/* What the catalogue refuses, in words: it answers with a code. */
static int create_failed(int rv, const struct core_call *call, const char *name,
                         const cairn_heap_opts *opts)
{
    if (rv != CAIRN_E_EXISTS && call->text[0] != '\0' &&
        strcmp(call->text, err_text_of(rv)) != 0) { /* has words already */
        return rv;
    }
    switch (rv) {
    case CAIRN_E_EXISTS:
        return sdk__fail(rv, "heap %s exists already; open it, or choose another name", name);
    case CAIRN_E_INVAL:
        return sdk__fail(rv,
                         "%u replicas of each shard need as many nodes, and the cluster has fewer",
                         opts->replicas);
    case CAIRN_E_TOOBIG:
        return sdk__fail(rv,
                         "the limits of all heaps together would be more than %llu TiB: drop one, "
                         "or ask for less",
                         (unsigned long long)(HEAPS_BYTES_MAX >> 40));
    case CAIRN_E_LIMIT:
        return sdk__fail(rv,
                         "the cluster has %d heaps, or a node %d shards: no more fit; drop one, or "
                         "ask for fewer shards",
                         HEAPS_MAX, SHARDS_PER_NODE_MAX);
    default:
        return rv;
    }
}

/* The calling thread's message of a failed call that names a heap. */
static int heap_failed(int rv, const char *name)
{
    return rv == CAIRN_E_NOTFOUND
               ? sdk__fail(rv, "heap %s does not exist; create it, or check the name", name)
               : rv;
}

int cairn_heap_create(cairn_client *client, const char *name, const cairn_heap_opts *opts)
{
    cairn_heap_opts taken;
    cairn_heap_opts_init(&taken, sizeof taken);
    if (client == NULL) {
        return sdk__missing("client");
    }
    if (opts != NULL) {
        if (opts->struct_size < sizeof opts->struct_size || opts->struct_size > 4096) {
            return sdk__fail(CAIRN_E_INVAL, "set up the options with cairn_heap_opts_init()");
        }
        memcpy(&taken, opts, opts->struct_size < sizeof taken ? opts->struct_size : sizeof taken);
    }
    uint64_t each = taken.shards == 0 ? 0 : taken.bytes_max / taken.shards;
    if (taken.shards != 0 && taken.bytes_max % taken.shards != 0) {
        each++;
    }
    struct cairn_future f;
    sdk__future_init(&f, client);
    int rv =
        sdk__future_run(&f, core_prepare_heap_create(&f.call, client->core, name, taken.shards,
                                                     taken.replicas, each, taken.retention_ms));
    if (rv != 0) {
        return create_failed(rv, &f.call, name, &taken);
    }
    struct cairn_heap *heap = NULL;
    rv = cairn_heap_open(client, name, &heap);
    if (rv != 0) {
        return rv;
    }
    assert(heap != NULL);
    rv = heap_wait(heap);
    cairn_heap_close(heap);
    return rv;
}

int cairn_heap_drop(cairn_client *client, const char *name)
{
    struct cairn_future f;
    if (client == NULL) {
        return sdk__missing("client");
    }
    sdk__future_init(&f, client);
    return heap_failed(sdk__future_run(&f, core_prepare_heap_drop(&f.call, client->core, name)),
                       name);
}

static void on_heap_close(struct sdk_item *item)
{
    struct cairn_heap *heap = container_of(item, struct cairn_heap, close);
    if (heap->client->embedded != NULL) {
        sdk__embedded_heap_close(heap);
        return;
    }
    core_heap_close(heap->core);
    mem_free(heap);
}

int cairn_heap_open(cairn_client *client, const char *name, cairn_heap **out)
{
    if (out == NULL) {
        return sdk__missing("heap");
    }
    *out = NULL;
    if (client == NULL) {
        return sdk__missing("client");
    }
    struct cairn_heap *heap = mem_zalloc(sizeof *heap);
    if (heap == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    struct cairn_future f;
    sdk__future_init(&f, client);
    int rv = sdk__future_run(&f, core_prepare_heap_open(&f.call, client->core, name));
    if (rv != 0) {
        mem_free(heap);
        (void)heap_failed(rv, name);
        return rv;
    }
    heap->client = client;
    heap->core = f.call.opened;
    heap->close.run = on_heap_close;
    *out = heap;
    return 0;
}

void cairn_heap_close(cairn_heap *heap)
{
    if (heap != NULL) {
        sdk__push(heap->client,
                  &heap->close); /* behind its calls, whose futures may be freed already */
    }
}

uint32_t cairn_heap_shards(const cairn_heap *heap)
{
    return heap == NULL ? 0 : core_heap_shards(heap->core);
}

/* ---- objects ---- */

int cairn_alloc_init(cairn_heap *heap, uint64_t bytes, uint32_t type, const void *init,
                     size_t init_bytes, cairn_ptr *ptr)
{
    if (ptr == NULL) {
        return sdk__missing("ptr");
    }
    *ptr = CAIRN_NULL;
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv = sdk__future_run(
        &f, core_prepare_alloc(&f.call, heap->core, bytes, type, slice_of(init, init_bytes)));
    if (rv == 0) {
        ptr->word = f.call.value;
    }
    return rv;
}

int cairn_alloc(cairn_heap *heap, uint64_t bytes, uint32_t type, cairn_ptr *ptr)
{
    return cairn_alloc_init(heap, bytes, type, NULL, 0, ptr);
}

int cairn_calloc(cairn_heap *heap, uint64_t count, uint64_t bytes, uint32_t type, cairn_ptr *ptr)
{
    if (ptr == NULL) {
        return sdk__missing("ptr");
    }
    *ptr = CAIRN_NULL;
    if (bytes != 0 && count > CAIRN_OBJECT_BYTES_MAX / bytes) {
        return sdk__fail(CAIRN_E_TOOBIG, "%llu times %llu bytes; an object has at most %u",
                         (unsigned long long)count, (unsigned long long)bytes,
                         CAIRN_OBJECT_BYTES_MAX);
    }
    return cairn_alloc_init(heap, count * bytes, type, NULL, 0, ptr);
}

int cairn_realloc(cairn_heap *heap, cairn_ptr ptr, uint64_t bytes)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_realloc(&f.call, heap->core, ptr.word, bytes));
}

int cairn_free(cairn_heap *heap, cairn_ptr ptr)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_free(&f.call, heap->core, ptr.word));
}

int cairn_read_at(cairn_heap *heap, cairn_ptr ptr, uint64_t at, uint64_t offset, void *data,
                  size_t len, uint64_t *version)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv = sdk__future_run(
        &f, core_prepare_read_at(&f.call, heap->core, ptr.word, at, offset, data, len));
    if (version != NULL) {
        *version = rv == 0 ? f.call.version : 0;
    }
    return rv;
}

int cairn_read(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, void *data, size_t len,
               uint64_t *version)
{
    return cairn_read_at(heap, ptr, 0, offset, data, len, version);
}

int cairn_write(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, const void *data, size_t len)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(
        &f, core_prepare_write(&f.call, heap->core, ptr.word, offset, slice_of(data, len)));
}

int cairn_compare_and_write(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, const void *expected,
                            const void *desired, size_t len)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_compare_and_write(&f.call, heap->core, ptr.word, offset,
                                                              slice_of(expected, len),
                                                              slice_of(desired, len)));
}

int cairn_write_if_version(cairn_heap *heap, cairn_ptr ptr, uint64_t version, uint64_t offset,
                           const void *data, size_t len)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_write_if_version(&f.call, heap->core, ptr.word, version,
                                                             offset, slice_of(data, len)));
}

int cairn_add_u64(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, uint64_t delta,
                  uint64_t *before)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv =
        sdk__future_run(&f, core_prepare_add_u64(&f.call, heap->core, ptr.word, offset, delta));
    if (before != NULL) {
        *before = rv == 0 ? f.call.value : 0;
    }
    return rv;
}

int cairn_stat_at(cairn_heap *heap, cairn_ptr ptr, uint64_t at, cairn_object *object)
{
    if (object == NULL) {
        return sdk__missing("object");
    }
    memset(object, 0, sizeof *object);
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv = sdk__future_run(&f, core_prepare_stat_at(&f.call, heap->core, ptr.word, at));
    return rv != 0 ? rv : cairn_future_get_object(&f, object);
}

int cairn_stat(cairn_heap *heap, cairn_ptr ptr, cairn_object *object)
{
    return cairn_stat_at(heap, ptr, 0, object);
}

/* ---- roots ---- */

int cairn_root_get(cairn_heap *heap, const char *name, cairn_ptr *ptr)
{
    if (ptr == NULL) {
        return sdk__missing("ptr");
    }
    *ptr = CAIRN_NULL;
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    int rv = sdk__future_run(&f, core_prepare_root_get(&f.call, heap->core, name));
    if (rv == 0) {
        ptr->word = f.call.value;
    }
    return rv;
}

int cairn_root_set(cairn_heap *heap, const char *name, cairn_ptr ptr)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_root_set(&f.call, heap->core, name, ptr.word));
}

int cairn_root_compare_and_set(cairn_heap *heap, const char *name, cairn_ptr expected,
                               cairn_ptr desired)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_root_compare_and_set(&f.call, heap->core, name,
                                                                 expected.word, desired.word));
}

int cairn_root_delete(cairn_heap *heap, const char *name)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    return sdk__future_run(&f, core_prepare_root_delete(&f.call, heap->core, name));
}

struct root_page {
    char last[ROOT_NAME_BYTES_MAX + 1]; /* the next page begins after it */
    size_t last_len;
    bool stopped;
};

static int root_page_show(struct root_page *page, struct slice entries, cairn_root_cb cb, void *arg)
{
    struct cursor c = cursor_of(entries);
    while (cursor_left(&c) > 0) {
        struct slice name = cursor_bytes(&c, cursor_u16(&c));
        cairn_ptr ptr = {cursor_u64(&c)};
        uint64_t version = cursor_u64(&c);
        if (c.failed || name.len == 0 || name.len > ROOT_NAME_BYTES_MAX) {
            return sdk__because(CAIRN_E_PROTOCOL, "a node sent a malformed list of roots");
        }
        memcpy(page->last, name.data, name.len);
        page->last[name.len] = '\0';
        page->last_len = name.len;
        if (cb(arg, page->last, ptr, version) != 0) {
            page->stopped = true;
            return 0;
        }
    }
    return 0;
}

static int root_list_shard(struct cairn_heap *heap, uint32_t shard, struct root_page *page,
                           cairn_root_cb cb, void *arg)
{
    page->last_len = 0;
    for (;;) {
        struct cairn_future f;
        sdk__future_init(&f, heap->client);
        struct slice after = slice_of(page->last, page->last_len);
        int rv = sdk__future_run(
            &f, core_prepare_root_list(&f.call, heap->core, shard, after, ROOTS_PER_PAGE));
        bool more = f.call.more && f.call.bytes.len > 0;
        if (rv == 0) {
            rv = root_page_show(page, slice_of(f.call.bytes.data, f.call.bytes.len), cb, arg);
        }
        buf_close(&f.call.bytes);
        if (rv != 0 || page->stopped || !more) {
            return rv;
        }
    }
}

int cairn_root_list(cairn_heap *heap, cairn_root_cb cb, void *arg)
{
    if (heap == NULL || cb == NULL) {
        return sdk__missing(heap == NULL ? "heap" : "cb");
    }
    struct root_page page = {.stopped = false};
    int rv = 0;
    for (uint32_t i = 0; rv == 0 && !page.stopped && i < core_heap_shards(heap->core); i++) {
        rv = root_list_shard(heap, i, &page, cb, arg);
    }
    return rv;
}

/* ---- asynchronous forms ---- */

int cairn_alloc_init_async(cairn_heap *heap, uint64_t bytes, uint32_t type, const void *init,
                           size_t init_bytes, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap)
                       : core_prepare_alloc(&f->call, heap->core, bytes, type,
                                            slice_of(init, init_bytes));
    return sdk__future_start(f, rv, future);
}

int cairn_alloc_async(cairn_heap *heap, uint64_t bytes, uint32_t type, cairn_future **future)
{
    return cairn_alloc_init_async(heap, bytes, type, NULL, 0, future);
}

int cairn_realloc_async(cairn_heap *heap, cairn_ptr ptr, uint64_t bytes, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv =
        f == NULL ? no_future(heap) : core_prepare_realloc(&f->call, heap->core, ptr.word, bytes);
    return sdk__future_start(f, rv, future);
}

int cairn_free_async(cairn_heap *heap, cairn_ptr ptr, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap) : core_prepare_free(&f->call, heap->core, ptr.word);
    return sdk__future_start(f, rv, future);
}

int cairn_read_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, size_t len,
                     cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap) : 0;
    if (rv == 0 && len > CAIRN_OBJECT_BYTES_MAX) {
        rv = CAIRN_E_RANGE;
    }
    if (rv == 0) {
        f->data = mem_alloc(len == 0 ? 1 : len);
        rv = f->data == NULL
                 ? CAIRN_E_NOMEM
                 : core_prepare_read(&f->call, heap->core, ptr.word, offset, f->data, len);
    }
    return sdk__future_start(f, rv, future);
}

int cairn_write_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, const void *data,
                      size_t len, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL
                 ? no_future(heap)
                 : core_prepare_write(&f->call, heap->core, ptr.word, offset, slice_of(data, len));
    return sdk__future_start(f, rv, future);
}

int cairn_compare_and_write_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset,
                                  const void *expected, const void *desired, size_t len,
                                  cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL
                 ? no_future(heap)
                 : core_prepare_compare_and_write(&f->call, heap->core, ptr.word, offset,
                                                  slice_of(expected, len), slice_of(desired, len));
    return sdk__future_start(f, rv, future);
}

int cairn_write_if_version_async(cairn_heap *heap, cairn_ptr ptr, uint64_t version, uint64_t offset,
                                 const void *data, size_t len, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap)
                       : core_prepare_write_if_version(&f->call, heap->core, ptr.word, version,
                                                       offset, slice_of(data, len));
    return sdk__future_start(f, rv, future);
}

int cairn_add_u64_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, uint64_t delta,
                        cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap)
                       : core_prepare_add_u64(&f->call, heap->core, ptr.word, offset, delta);
    return sdk__future_start(f, rv, future);
}

int cairn_stat_async(cairn_heap *heap, cairn_ptr ptr, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap) : core_prepare_stat(&f->call, heap->core, ptr.word);
    return sdk__future_start(f, rv, future);
}

int cairn_root_get_async(cairn_heap *heap, const char *name, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap) : core_prepare_root_get(&f->call, heap->core, name);
    return sdk__future_start(f, rv, future);
}

int cairn_root_set_async(cairn_heap *heap, const char *name, cairn_ptr ptr, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv =
        f == NULL ? no_future(heap) : core_prepare_root_set(&f->call, heap->core, name, ptr.word);
    return sdk__future_start(f, rv, future);
}

int cairn_root_compare_and_set_async(cairn_heap *heap, const char *name, cairn_ptr expected,
                                     cairn_ptr desired, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap)
                       : core_prepare_root_compare_and_set(&f->call, heap->core, name,
                                                           expected.word, desired.word);
    return sdk__future_start(f, rv, future);
}

int cairn_root_delete_async(cairn_heap *heap, const char *name, cairn_future **future)
{
    struct cairn_future *f = sdk__future_new(heap);
    int rv = f == NULL ? no_future(heap) : core_prepare_root_delete(&f->call, heap->core, name);
    return sdk__future_start(f, rv, future);
}

/* ---- operators ---- */

int cairn_admin(cairn_client *client, const char *node, const char *verb, const char *args_json,
                char **json)
{
    if (json == NULL) {
        return sdk__missing("json");
    }
    *json = NULL;
    if (client == NULL) {
        return sdk__missing("client");
    }
    size_t len = args_json == NULL ? 0 : strlen(args_json);
    struct cairn_future f;
    sdk__future_init(&f, client);
    int rv = sdk__future_run(
        &f, core_prepare_admin(&f.call, client->core, node, verb, slice_of(args_json, len)));
    if (rv == 0 && buf_append(&f.call.bytes, "", 1) != 0) {
        rv = sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    if (rv != 0) {
        buf_close(&f.call.bytes);
        return rv;
    }
    *json = (char *)f.call.bytes.data;
    return 0;
}

int cairn_admin_async(cairn_client *client, const char *node, const char *verb,
                      const char *args_json, uint32_t timeout_ms, cairn_future **future)
{
    if (future == NULL) {
        return sdk__missing("future");
    }
    *future = NULL;
    if (client == NULL) {
        return sdk__missing("client");
    }
    size_t len = args_json == NULL ? 0 : strlen(args_json);
    struct cairn_future *f = sdk__future_of(client);
    int rv = f == NULL
                 ? CAIRN_E_NOMEM
                 : core_prepare_admin(&f->call, client->core, node, verb, slice_of(args_json, len));
    if (rv != 0 || client->embedded == NULL) {
        if (f != NULL) {
            f->call.timeout_ms = timeout_ms;
        }
        return sdk__future_start(f, rv, future);
    }
    sdk__embedded_run(f);
    *future = f;
    return 0;
}

void cairn_json_free(char *json)
{
    mem_free(json);
}
