/* Every public function, with NULL for each argument that the header doesn't allow to be NULL:
 * INVAL and a message that names the argument, on a directory (disk and pmem) as on a cluster. What
 * the library exports (tests/abi/symbols.txt) and isn't called here fails the last test. */
#include "unit/embed/fixture.h"

#include "cairn/btree.h"
#include "cairn/graph.h"
#include "cairn/hash.h"
#include "cairn/list.h"
#include "cairn/watch.h"

#define CALLS_MAX 512
static const char *called[CALLS_MAX]; /* as in the source: "cairn_read(heap, ...)" */
static int call_count;

static void note(const char *call)
{
    assert_true(call_count < CALLS_MAX);
    called[call_count++] = call;
}

/* The arguments are evaluated first: the message is that of the call. */
static void refused(const char *call, const char *argument, int rv)
{
    note(call);
    if (rv != CAIRN_E_INVAL || strstr(cairn_errormsg(), argument) == NULL) {
        fail_msg("%s: %s (%s), expected INVAL that names '%s'", call, cairn_error_name(rv),
                 cairn_errormsg(), argument);
    }
}
#define REFUSED(argument, call) refused(#call, argument, call)

/* What has no error to return. */
#define HARMLESS(expected, call)                                                                   \
    do {                                                                                           \
        note(#call);                                                                               \
        assert_true((call) == (expected));                                                         \
    } while (0)
#define NOTHING(call)                                                                              \
    do {                                                                                           \
        note(#call);                                                                               \
        call;                                                                                      \
    } while (0)

static char buffer[64];

/* ---- library, client, heaps ---- */

static void opening_and_heaps(void **state)
{
    (void)state;
    cairn_heap *other = NULL;
    char *json = NULL;
    uint32_t shards = cairn_heap_shards(heap);
    NOTHING(cairn_client_opts_init(NULL, sizeof(cairn_client_opts)));
    NOTHING(cairn_heap_opts_init(NULL, sizeof(cairn_heap_opts)));
    REFUSED("client", cairn_connect("file:///nowhere", NULL, NULL));
    NOTHING(cairn_client_free(NULL));
    REFUSED("client", cairn_heap_create(NULL, "other", NULL));
    REFUSED("name", cairn_heap_create(client, NULL, NULL));
    REFUSED("client", cairn_heap_drop(NULL, "other"));
    REFUSED("name", cairn_heap_drop(client, NULL));
    REFUSED("client", cairn_heap_open(NULL, "other", &other));
    REFUSED("name", cairn_heap_open(client, NULL, &other));
    REFUSED("heap", cairn_heap_open(client, "other", NULL));
    assert_null(other);
    NOTHING(cairn_heap_close(NULL));
    HARMLESS(0, cairn_heap_shards(NULL));
    REFUSED("heap", cairn_heap_set_retention(NULL, 1000));
    REFUSED("heap", cairn_heap_defrag(NULL, 0, 4096, NULL, NULL));
    must(cairn_heap_defrag(heap, shards - 1, 4096, NULL, NULL));
    REFUSED("heap", cairn_heap_trim(NULL, 0, 4096, NULL));
    must(cairn_heap_trim(heap, shards - 1, 4096, NULL));
    REFUSED("client", cairn_admin(NULL, NULL, "status", NULL, &json));
    REFUSED("verb", cairn_admin(client, NULL, NULL, NULL, &json));
    REFUSED("json", cairn_admin(client, NULL, "status", NULL, NULL));
    NOTHING(cairn_json_free(NULL));
}

/* ---- objects, roots, types ---- */

static void objects(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_ptr out;
    cairn_object found;
    cairn_iter *iter = NULL;
    int end;
    REFUSED("heap", cairn_alloc(NULL, 8, 0, &out));
    REFUSED("ptr", cairn_alloc(heap, 8, 0, NULL));
    REFUSED("heap", cairn_alloc_init(NULL, 8, 0, "a", 1, &out));
    REFUSED("init", cairn_alloc_init(heap, 8, 0, NULL, 1, &out));
    assert_true(cairn_ptr_is_null(out));
    REFUSED("ptr", cairn_alloc_init(heap, 8, 0, "a", 1, NULL));
    must(cairn_alloc_init(heap, 8, 0, NULL, 0, &out));
    REFUSED("heap", cairn_calloc(NULL, 1, 8, 0, &out));
    REFUSED("ptr", cairn_calloc(heap, 1, 8, 0, NULL));
    REFUSED("heap", cairn_realloc(NULL, ptr, 128));
    REFUSED("heap", cairn_free(NULL, ptr));
    REFUSED("heap", cairn_read(NULL, ptr, 0, buffer, 8, NULL));
    REFUSED("data", cairn_read(heap, ptr, 0, NULL, 8, NULL));
    must(cairn_read(heap, ptr, 0, NULL, 0, NULL));
    REFUSED("heap", cairn_read_at(NULL, ptr, 0, 0, buffer, 8, NULL));
    REFUSED("data", cairn_read_at(heap, ptr, 0, 0, NULL, 8, NULL));
    REFUSED("heap", cairn_write(NULL, ptr, 0, "a", 1));
    REFUSED("data", cairn_write(heap, ptr, 0, NULL, 1));
    REFUSED("heap", cairn_compare_and_write(NULL, ptr, 0, "a", "b", 1));
    REFUSED("expected", cairn_compare_and_write(heap, ptr, 0, NULL, "b", 1));
    REFUSED("desired", cairn_compare_and_write(heap, ptr, 0, "a", NULL, 1));
    REFUSED("heap", cairn_write_if_version(NULL, ptr, 1, 0, "a", 1));
    REFUSED("data", cairn_write_if_version(heap, ptr, 1, 0, NULL, 1));
    REFUSED("heap", cairn_add_u64(NULL, ptr, 0, 1, NULL));
    must(cairn_add_u64(heap, ptr, 8, 1, NULL));
    REFUSED("heap", cairn_stat(NULL, ptr, &found));
    REFUSED("object", cairn_stat(heap, ptr, NULL));
    REFUSED("heap", cairn_stat_at(NULL, ptr, 0, &found));
    REFUSED("object", cairn_stat_at(heap, ptr, 0, NULL));
    assert_int_equal(value_of(ptr), 7);
    NOTHING(cairn_ptr_format(ptr, NULL, 8));
    REFUSED("pointer", cairn_ptr_parse(NULL, &out));
    REFUSED("out", cairn_ptr_parse("0.1.0000000001", NULL));
    REFUSED("heap", cairn_iter_new(NULL, 0, &iter));
    REFUSED("iter", cairn_iter_new(heap, 0, NULL));
    must(cairn_iter_new(heap, 0, &iter));
    REFUSED("iter", cairn_iter_next(NULL, &found, &end));
    REFUSED("object", cairn_iter_next(iter, NULL, &end));
    REFUSED("end", cairn_iter_next(iter, &found, NULL));
    must(cairn_iter_next(iter, &found, &end));
    cairn_iter_free(iter);
    NOTHING(cairn_iter_free(NULL));
}

static int any_change(void *arg, const cairn_change *change)
{
    (void)arg;
    (void)change;
    return 0;
}

static int any_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)arg;
    (void)name;
    (void)ptr;
    (void)version;
    return 0;
}

static int any_type(void *arg, const cairn_type *type, uint64_t version)
{
    (void)arg;
    (void)type;
    (void)version;
    return 0;
}

static void roots_and_types(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_ptr out;
    cairn_type nameless = {.size = 8};
    REFUSED("heap", cairn_history(NULL, ptr, any_change, NULL));
    REFUSED("cb", cairn_history(heap, ptr, NULL, NULL));
    REFUSED("heap", cairn_root_get(NULL, "r", &out));
    REFUSED("name", cairn_root_get(heap, NULL, &out));
    REFUSED("ptr", cairn_root_get(heap, "r", NULL));
    REFUSED("heap", cairn_root_set(NULL, "r", ptr));
    REFUSED("name", cairn_root_set(heap, NULL, ptr));
    REFUSED("heap", cairn_root_compare_and_set(NULL, "r", ptr, ptr));
    REFUSED("name", cairn_root_compare_and_set(heap, NULL, ptr, ptr));
    REFUSED("heap", cairn_root_delete(NULL, "r"));
    REFUSED("name", cairn_root_delete(heap, NULL));
    REFUSED("heap", cairn_root_list(NULL, any_root, NULL));
    REFUSED("cb", cairn_root_list(heap, NULL, NULL));
    HARMLESS(0, cairn_type_number(NULL));
    HARMLESS(0, cairn_type_number(&nameless));
    REFUSED("heap", cairn_type_register(NULL, &nameless));
    REFUSED("type", cairn_type_register(heap, NULL));
    REFUSED("name", cairn_type_register(heap, &nameless));
    REFUSED("heap", cairn_type_list(NULL, any_type, NULL));
    REFUSED("cb", cairn_type_list(heap, NULL, NULL));
}

/* ---- futures ---- */

static void asynchronous_forms(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_future *f = NULL;
    REFUSED("heap", cairn_alloc_async(NULL, 8, 0, &f));
    REFUSED("future", cairn_alloc_async(heap, 8, 0, NULL));
    REFUSED("heap", cairn_alloc_init_async(NULL, 8, 0, "a", 1, &f));
    REFUSED("init", cairn_alloc_init_async(heap, 8, 0, NULL, 1, &f));
    REFUSED("future", cairn_alloc_init_async(heap, 8, 0, "a", 1, NULL));
    REFUSED("heap", cairn_realloc_async(NULL, ptr, 128, &f));
    REFUSED("future", cairn_realloc_async(heap, ptr, 128, NULL));
    REFUSED("heap", cairn_free_async(NULL, ptr, &f));
    REFUSED("future", cairn_free_async(heap, ptr, NULL));
    REFUSED("heap", cairn_read_async(NULL, ptr, 0, 8, &f));
    REFUSED("future", cairn_read_async(heap, ptr, 0, 8, NULL));
    REFUSED("heap", cairn_write_async(NULL, ptr, 0, "a", 1, &f));
    REFUSED("data", cairn_write_async(heap, ptr, 0, NULL, 1, &f));
    REFUSED("future", cairn_write_async(heap, ptr, 0, "a", 1, NULL));
    REFUSED("heap", cairn_compare_and_write_async(NULL, ptr, 0, "a", "b", 1, &f));
    REFUSED("expected", cairn_compare_and_write_async(heap, ptr, 0, NULL, "b", 1, &f));
    REFUSED("desired", cairn_compare_and_write_async(heap, ptr, 0, "a", NULL, 1, &f));
    REFUSED("future", cairn_compare_and_write_async(heap, ptr, 0, "a", "b", 1, NULL));
    REFUSED("heap", cairn_write_if_version_async(NULL, ptr, 1, 0, "a", 1, &f));
    REFUSED("data", cairn_write_if_version_async(heap, ptr, 1, 0, NULL, 1, &f));
    REFUSED("future", cairn_write_if_version_async(heap, ptr, 1, 0, "a", 1, NULL));
    REFUSED("heap", cairn_add_u64_async(NULL, ptr, 0, 1, &f));
    REFUSED("future", cairn_add_u64_async(heap, ptr, 0, 1, NULL));
    REFUSED("heap", cairn_stat_async(NULL, ptr, &f));
    REFUSED("future", cairn_stat_async(heap, ptr, NULL));
    REFUSED("heap", cairn_root_get_async(NULL, "r", &f));
    REFUSED("name", cairn_root_get_async(heap, NULL, &f));
    REFUSED("future", cairn_root_get_async(heap, "r", NULL));
    REFUSED("heap", cairn_root_set_async(NULL, "r", ptr, &f));
    REFUSED("name", cairn_root_set_async(heap, NULL, ptr, &f));
    REFUSED("future", cairn_root_set_async(heap, "r", ptr, NULL));
    REFUSED("heap", cairn_root_compare_and_set_async(NULL, "r", ptr, ptr, &f));
    REFUSED("name", cairn_root_compare_and_set_async(heap, NULL, ptr, ptr, &f));
    REFUSED("future", cairn_root_compare_and_set_async(heap, "r", ptr, ptr, NULL));
    REFUSED("heap", cairn_root_delete_async(NULL, "r", &f));
    REFUSED("name", cairn_root_delete_async(heap, NULL, &f));
    REFUSED("future", cairn_root_delete_async(heap, "r", NULL));
    REFUSED("client", cairn_admin_async(NULL, NULL, "status", NULL, 0, &f));
    REFUSED("verb", cairn_admin_async(client, NULL, NULL, NULL, 0, &f));
    REFUSED("future", cairn_admin_async(client, NULL, "status", NULL, 0, NULL));
    assert_null(f);
    assert_int_equal(value_of(ptr), 7); /* none of them was begun */
}

static void any_future(cairn_future *future, void *arg)
{
    (void)future;
    (void)arg;
}

static void outcomes(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_future *f = NULL;
    cairn_object found;
    const void *data;
    size_t len;
    uint64_t value;
    must(cairn_read_async(heap, ptr, 0, 8, &f));
    REFUSED("future", cairn_future_wait(NULL, 0));
    REFUSED("future", cairn_future_on_ready(NULL, any_future, NULL));
    REFUSED("cb", cairn_future_on_ready(f, NULL, NULL));
    must(cairn_future_wait(f, UINT32_MAX));
    REFUSED("future", cairn_future_error(NULL));
    note("cairn_future_errormsg(NULL)");
    assert_string_equal(cairn_future_errormsg(NULL), "");
    REFUSED("future", cairn_future_get_ptr(NULL, &ptr));
    REFUSED("ptr", cairn_future_get_ptr(f, NULL));
    REFUSED("future", cairn_future_get_u64(NULL, &value));
    REFUSED("value", cairn_future_get_u64(f, NULL));
    REFUSED("future", cairn_future_get_object(NULL, &found));
    REFUSED("object", cairn_future_get_object(f, NULL));
    REFUSED("future", cairn_future_get_bytes(NULL, &data, &len, NULL));
    REFUSED("data", cairn_future_get_bytes(f, NULL, &len, NULL));
    REFUSED("len", cairn_future_get_bytes(f, &data, NULL, NULL));
    must(cairn_future_get_bytes(f, &data, &len, NULL));
    assert_int_equal(len, 8);
    cairn_future_free(f);
    NOTHING(cairn_future_free(NULL));
}

/* ---- transactions ---- */

static void transactions(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_ptr out;
    cairn_object found;
    cairn_tx *tx = NULL;
    cairn_tx *part = NULL;
    char *bytes = NULL;
    size_t len = 0;
    NOTHING(cairn_tx_opts_init(NULL, sizeof(cairn_tx_opts)));
    REFUSED("heap", cairn_tx_begin(NULL, NULL, &tx));
    REFUSED("tx", cairn_tx_begin(heap, NULL, NULL));
    must(cairn_tx_begin(heap, NULL, &tx));
    REFUSED("tx", cairn_tx_join(NULL, heap, &part));
    REFUSED("heap", cairn_tx_join(tx, NULL, &part));
    REFUSED("part", cairn_tx_join(tx, heap, NULL));
    REFUSED("tx", cairn_tx_alloc(NULL, 8, 0, &out));
    REFUSED("ptr", cairn_tx_alloc(tx, 8, 0, NULL));
    REFUSED("tx", cairn_tx_alloc_near(NULL, ptr, 8, 0, &out));
    REFUSED("ptr", cairn_tx_alloc_near(tx, ptr, 8, 0, NULL));
    REFUSED("tx", cairn_tx_free(NULL, ptr));
    REFUSED("tx", cairn_tx_read(NULL, ptr, 0, buffer, 8));
    REFUSED("data", cairn_tx_read(tx, ptr, 0, NULL, 8));
    must(cairn_tx_read(tx, ptr, 0, NULL, 0));
    REFUSED("tx", cairn_tx_stat(NULL, ptr, &found));
    REFUSED("object", cairn_tx_stat(tx, ptr, NULL));
    REFUSED("tx", cairn_tx_write(NULL, ptr, 0, "a", 1));
    REFUSED("data", cairn_tx_write(tx, ptr, 0, NULL, 1));
    REFUSED("tx", cairn_tx_compare(NULL, ptr, 0, "a", 1));
    REFUSED("expected", cairn_tx_compare(tx, ptr, 0, NULL, 1));
    REFUSED("tx", cairn_tx_compare_version(NULL, ptr, 1));
    REFUSED("tx", cairn_tx_root_get(NULL, "r", &out));
    REFUSED("name", cairn_tx_root_get(tx, NULL, &out));
    REFUSED("ptr", cairn_tx_root_get(tx, "r", NULL));
    REFUSED("tx", cairn_tx_root_set(NULL, "r", ptr));
    REFUSED("name", cairn_tx_root_set(tx, NULL, ptr));
    REFUSED("tx", cairn_tx_root_list(NULL, any_root, NULL));
    REFUSED("cb", cairn_tx_root_list(tx, NULL, NULL));
    REFUSED("tx", cairn_tx_save(NULL, &bytes, &len));
    REFUSED("bytes", cairn_tx_save(tx, NULL, &len));
    REFUSED("len", cairn_tx_save(tx, &bytes, NULL));
    must(cairn_tx_save(tx, &bytes, &len));
    REFUSED("heap", cairn_tx_load(NULL, bytes, len, &part));
    REFUSED("bytes", cairn_tx_load(heap, NULL, len, &part));
    REFUSED("tx", cairn_tx_load(heap, bytes, len, NULL));
    assert_null(part);
    cairn_json_free(bytes);
    must(cairn_tx_commit(tx, NULL)); /* none of all that has hurt it */
    NOTHING(cairn_tx_abort(NULL));
}

static int any_tx(cairn_tx *tx, void *arg)
{
    (void)tx;
    (void)arg;
    return 0;
}

static void ends_of_transactions(void **state)
{
    (void)state;
    cairn_tx_id id = {{0}};
    cairn_tx *tx = NULL;
    cairn_future *f = NULL;
    uint32_t outcome = 0;
    must(cairn_tx_begin(heap, NULL, &tx));
    REFUSED("tx", cairn_tx_commit(NULL, NULL));
    REFUSED("tx", cairn_tx_commit_async(NULL, &f));
    REFUSED("tx", cairn_tx_id_of(NULL, &id));
    REFUSED("id", cairn_tx_id_of(tx, NULL));
    REFUSED("future", cairn_tx_commit_async(tx, NULL)); /* which ends it */
    assert_null(f);
    REFUSED("heap", cairn_tx_run(NULL, any_tx, NULL));
    REFUSED("fn", cairn_tx_run(heap, NULL, NULL));
    REFUSED("heap", cairn_tx_run_opts(NULL, NULL, any_tx, NULL));
    REFUSED("fn", cairn_tx_run_opts(heap, NULL, NULL, NULL));
    NOTHING(cairn_tx_id_format(&id, NULL, 8));
    NOTHING(cairn_tx_id_format(NULL, buffer, sizeof buffer));
    REFUSED("id", cairn_tx_id_parse(NULL, &id));
    REFUSED("out", cairn_tx_id_parse("0", NULL));
    REFUSED("client", cairn_tx_outcome(NULL, &id, &outcome, NULL));
    REFUSED("id", cairn_tx_outcome(client, NULL, &outcome, NULL));
    REFUSED("state", cairn_tx_outcome(client, &id, NULL, NULL));
}

static void pointers_in_one_step(void **state)
{
    (void)state;
    cairn_ptr a = object(0);
    cairn_ptr b = object(0);
    cairn_ptr out;
    REFUSED("heap", cairn_compare_and_link(NULL, a, 0, CAIRN_NULL, b));
    REFUSED("heap", cairn_ptr_swap(NULL, a, 0, b, 0));
    REFUSED("heap", cairn_ptr_move(NULL, a, 0, b, 0, 0, &out));
    assert_int_equal(cairn_ptr_move(heap, a, 0, b, 0, 0, NULL), CAIRN_E_NOTFOUND);
    REFUSED("heap", cairn_alloc_into(NULL, a, 0, 8, 0, "a", 1, UINT64_MAX, &out));
    REFUSED("init", cairn_alloc_into(heap, a, 0, 8, 0, NULL, 1, UINT64_MAX, &out));
    REFUSED("ptr", cairn_alloc_into(heap, a, 0, 8, 0, "a", 1, UINT64_MAX, NULL));
    assert_int_equal(value_of(a), 0);
}

/* ---- graphs, watches ---- */

static void graphs(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_graph *graph = NULL;
    cairn_node node;
    cairn_tx *tx = NULL;
    NOTHING(cairn_fetch_opts_init(NULL, sizeof(cairn_fetch_opts)));
    REFUSED("heap", cairn_fetch(NULL, ptr, NULL, &graph));
    REFUSED("graph", cairn_fetch(heap, ptr, NULL, NULL));
    must(cairn_tx_begin(heap, NULL, &tx));
    REFUSED("tx", cairn_tx_fetch(NULL, ptr, NULL, &graph));
    REFUSED("graph", cairn_tx_fetch(tx, ptr, NULL, NULL));
    cairn_tx_abort(tx);
    assert_null(graph);
    HARMLESS(0, cairn_graph_count(NULL));
    HARMLESS(0, cairn_graph_is_partial(NULL));
    REFUSED("graph", cairn_graph_get(NULL, 0, &node));
    REFUSED("graph", cairn_graph_find(NULL, ptr, &node));
    must(cairn_fetch(heap, ptr, NULL, &graph));
    REFUSED("node", cairn_graph_get(graph, 0, NULL));
    REFUSED("node", cairn_graph_find(graph, ptr, NULL));
    cairn_graph_free(graph);
    NOTHING(cairn_graph_free(NULL));
}

static void watches(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_watch *w = NULL;
    cairn_future *f = NULL;
    const cairn_event *event;
    must(cairn_heap_set_retention(heap, 60000));
    NOTHING(cairn_watch_opts_init(NULL, sizeof(cairn_watch_opts)));
    REFUSED("heap", cairn_watch_object(NULL, ptr, NULL, &w));
    REFUSED("watch", cairn_watch_object(heap, ptr, NULL, NULL));
    REFUSED("heap", cairn_watch_root(NULL, "r", NULL, &w));
    REFUSED("name", cairn_watch_root(heap, NULL, NULL, &w));
    REFUSED("watch", cairn_watch_root(heap, "r", NULL, NULL));
    REFUSED("heap", cairn_watch_roots(NULL, "r", NULL, &w));
    REFUSED("name", cairn_watch_roots(heap, NULL, NULL, &w));
    REFUSED("watch", cairn_watch_roots(heap, "r", NULL, NULL));
    REFUSED("heap", cairn_watch_type(NULL, 0, NULL, &w));
    REFUSED("watch", cairn_watch_type(heap, 0, NULL, NULL));
    REFUSED("heap", cairn_watch_heap(NULL, NULL, &w));
    REFUSED("watch", cairn_watch_heap(heap, NULL, NULL));
    assert_null(w);
    must(cairn_watch_object(heap, ptr, NULL, &w));
    REFUSED("watch", cairn_watch_next(NULL, 0, &event));
    REFUSED("event", cairn_watch_next(w, 0, NULL));
    REFUSED("watch", cairn_watch_ready_async(NULL, &f));
    REFUSED("future", cairn_watch_ready_async(w, NULL));
    REFUSED("watch", cairn_watch_token(NULL, buffer, sizeof buffer));
    REFUSED("token", cairn_watch_token(w, NULL, CAIRN_WATCH_TOKEN_BYTES));
    cairn_watch_free(w);
    NOTHING(cairn_watch_free(NULL));
    must(cairn_heap_set_retention(heap, 0));
}

/* ---- containers ---- */

static int any_node(void *arg, cairn_ptr node, const void *data, size_t len)
{
    (void)arg;
    (void)node;
    (void)data;
    (void)len;
    return 0;
}

static void lists(void **state)
{
    (void)state;
    cairn_ptr list;
    cairn_ptr node;
    size_t len;
    REFUSED("heap", cairn_list_new(NULL, &list));
    REFUSED("list", cairn_list_new(heap, NULL));
    must(cairn_list_new(heap, &list));
    REFUSED("heap", cairn_list_push(NULL, list, "a", 1, &node));
    REFUSED("data", cairn_list_push(heap, list, NULL, 1, &node));
    must(cairn_list_push(heap, list, NULL, 0, NULL));
    must(cairn_list_push(heap, list, "a", 1, &node));
    REFUSED("heap", cairn_list_pop(NULL, list, buffer, sizeof buffer, &len));
    REFUSED("data", cairn_list_pop(heap, list, NULL, 1, &len));
    REFUSED("len", cairn_list_pop(heap, list, buffer, sizeof buffer, NULL));
    REFUSED("heap", cairn_list_remove(NULL, list, node));
    REFUSED("heap", cairn_list_each(NULL, list, any_node, NULL));
    REFUSED("cb", cairn_list_each(heap, list, NULL, NULL));
    REFUSED("heap", cairn_list_destroy(NULL, list));
    must(cairn_list_pop(heap, list, buffer, sizeof buffer, &len));
    must(cairn_list_pop(heap, list, NULL, 0, &len));
    must(cairn_list_destroy(heap, list));
}

static int any_entry(void *arg, const void *key, size_t key_len, cairn_ptr value)
{
    (void)arg;
    (void)key;
    (void)key_len;
    (void)value;
    return 0;
}

static void maps(void **state)
{
    (void)state;
    cairn_ptr hash;
    cairn_ptr value = object(7);
    REFUSED("heap", cairn_hash_new(NULL, &hash));
    REFUSED("hash", cairn_hash_new(heap, NULL));
    must(cairn_hash_new(heap, &hash));
    REFUSED("heap", cairn_hash_put(NULL, hash, "a", 1, value, NULL));
    REFUSED("key", cairn_hash_put(heap, hash, NULL, 1, value, NULL));
    must(cairn_hash_put(heap, hash, "a", 1, value, NULL));
    REFUSED("heap", cairn_hash_get(NULL, hash, "a", 1, &value));
    REFUSED("key", cairn_hash_get(heap, hash, NULL, 1, &value));
    REFUSED("value", cairn_hash_get(heap, hash, "a", 1, NULL));
    REFUSED("heap", cairn_hash_remove(NULL, hash, "a", 1, NULL));
    REFUSED("key", cairn_hash_remove(heap, hash, NULL, 1, NULL));
    REFUSED("heap", cairn_hash_each(NULL, hash, any_entry, NULL));
    REFUSED("cb", cairn_hash_each(heap, hash, NULL, NULL));
    REFUSED("heap", cairn_hash_destroy(NULL, hash));
    must(cairn_hash_remove(heap, hash, "a", 1, NULL));
    must(cairn_hash_destroy(heap, hash));
}

static void trees(void **state)
{
    (void)state;
    cairn_ptr tree;
    cairn_ptr value = object(7);
    REFUSED("heap", cairn_btree_new(NULL, &tree));
    REFUSED("tree", cairn_btree_new(heap, NULL));
    must(cairn_btree_new(heap, &tree));
    REFUSED("heap", cairn_btree_put(NULL, tree, "a", 1, value, NULL));
    REFUSED("key", cairn_btree_put(heap, tree, NULL, 1, value, NULL));
    must(cairn_btree_put(heap, tree, "a", 1, value, NULL));
    REFUSED("heap", cairn_btree_get(NULL, tree, "a", 1, &value));
    REFUSED("key", cairn_btree_get(heap, tree, NULL, 1, &value));
    REFUSED("value", cairn_btree_get(heap, tree, "a", 1, NULL));
    REFUSED("heap", cairn_btree_remove(NULL, tree, "a", 1, NULL));
    REFUSED("key", cairn_btree_remove(heap, tree, NULL, 1, NULL));
    REFUSED("heap", cairn_btree_each(NULL, tree, NULL, 0, any_entry, NULL));
    REFUSED("from", cairn_btree_each(heap, tree, NULL, 1, any_entry, NULL));
    REFUSED("cb", cairn_btree_each(heap, tree, NULL, 0, NULL, NULL));
    must(cairn_btree_each(heap, tree, NULL, 0, any_entry, NULL));
    REFUSED("heap", cairn_btree_destroy(NULL, tree));
    must(cairn_btree_remove(heap, tree, "a", 1, NULL));
    must(cairn_btree_destroy(heap, tree));
}

/* ---- all of them ---- */

static bool was_called(const char *symbol)
{
    size_t len = strlen(symbol);
    for (int i = 0; i < call_count; i++) {
        if (strncmp(called[i], symbol, len) == 0 && called[i][len] == '(') {
            return true;
        }
    }
    return false;
}

static void nothing_exported_is_left_out(void **state)
{
    (void)state;
    /* No pointer in, or NULL means something. */
    note("cairn_version()");
    note("cairn_strerror(code)");
    note("cairn_error_name(code)");
    note("cairn_errormsg()");
    note("cairn_error_is(code, error_class)");
    note("cairn_tx_conflict()");
    NOTHING(cairn_set_log(NULL, NULL));
    char symbol[128];
    int symbols = 0;
    FILE *list = fopen(SYMBOLS_FILE, "r");
    assert_non_null(list);
    while (fscanf(list, "%127s", symbol) == 1) {
        symbols++;
        if (!was_called(symbol)) {
            fail_msg("%s is exported, and not called with NULL here", symbol);
        }
    }
    (void)fclose(list);
    assert_true(symbols > 100);
}

int main(int argc, char **argv)
{
    mode = argc > 1 ? argv[1] : "disk";
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_begin, fixture_end)
    const struct CMUnitTest tests[] = {
        TEST(opening_and_heaps),
        TEST(objects),
        TEST(roots_and_types),
        TEST(asynchronous_forms),
        TEST(outcomes),
        TEST(transactions),
        TEST(ends_of_transactions),
        TEST(pointers_in_one_step),
        TEST(graphs),
        TEST(watches),
        TEST(lists),
        TEST(maps),
        TEST(trees),
        cmocka_unit_test(nothing_exported_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_over);
}
