/* The SDK's threads, futures and blocking calls, through the public header, over real TLS. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/test.h"

#include "cairn/cairn.h"
#include "unit/client/server.h"

static struct dir dir;
static struct server *server;
static cairn_client *client;
static cairn_heap *heap;

static int connect_as(const char *name, uint32_t timeout_ms, cairn_client **out)
{
    char paths[3][DIR_PATH_BYTES];
    char file[64];
    cairn_client_opts opts;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.ca_file = dir_path(&dir, "ca.crt", paths[0]);
    (void)snprintf(file, sizeof file, "%s.crt", name);
    opts.cert_file = dir_path(&dir, file, paths[1]);
    (void)snprintf(file, sizeof file, "%s.key", name);
    opts.key_file = dir_path(&dir, file, paths[2]);
    opts.timeout_ms = timeout_ms;
    return cairn_connect(server_endpoint(server), &opts, out);
}

static int begin(void **state)
{
    (void)state;
    dir_open(&dir);
    server = server_start(&dir);
    if (connect_as("alice", 20000, &client) != 0 || cairn_heap_open(client, "h", &heap) != 0) {
        print_error("%s\n", cairn_errormsg());
        return -1;
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    cairn_heap_close(heap);
    cairn_client_free(client);
    server_stop(server);
    dir_close(&dir);
    return 0;
}

static void blocking_calls_work(void **state)
{
    (void)state;
    cairn_ptr ptr;
    cairn_ptr found;
    char text[16] = {0};
    uint64_t version = 0;
    cairn_object object;
    assert_int_equal(cairn_heap_shards(heap), 1);
    assert_int_equal(cairn_root_get(heap, "r", &found), CAIRN_E_NOTFOUND);
    assert_string_equal(cairn_errormsg(), "no such root");
    assert_int_equal(cairn_alloc_init(heap, 64, 3, "hello", 6, &ptr), 0);
    assert_int_equal(cairn_read(heap, ptr, 0, text, 6, &version), 0);
    assert_string_equal(text, "hello");
    assert_int_equal(version, 4);
    assert_int_equal(cairn_write(heap, ptr, 1, "a", 1), 0);
    assert_int_equal(cairn_read(heap, ptr, 0, text, 6, NULL), 0);
    assert_string_equal(text, "hallo");
    assert_int_equal(cairn_write(heap, ptr, 64, "a", 1), CAIRN_E_RANGE);
    assert_int_equal(cairn_stat(heap, ptr, &object), 0);
    assert_true(cairn_ptr_equals(object.ptr, ptr));
    assert_int_equal(object.type, 3);
    assert_int_equal(cairn_root_set(heap, "r", ptr), 0);
    assert_int_equal(cairn_root_get(heap, "r", &found), 0);
    assert_true(cairn_ptr_equals(found, ptr));
    assert_int_equal(cairn_free(heap, ptr), CAIRN_E_STALE);
    assert_int_equal(cairn_alloc(NULL, 1, 0, &ptr), CAIRN_E_INVAL);
    assert_int_equal(cairn_heap_open(client, "other", &(cairn_heap *){NULL}), CAIRN_E_NOTFOUND);
    char *json = NULL;
    assert_int_equal(cairn_admin(client, NULL, "status", NULL, &json), 0);
    assert_string_equal(json, "{\"ok\":true}");
    cairn_json_free(json);
    cairn_future *future = NULL;
    const void *bytes = NULL;
    size_t len = 0;
    assert_int_equal(cairn_admin_async(client, NULL, "status", NULL, 5000, &future), 0);
    assert_int_equal(cairn_future_wait(future, UINT32_MAX), 0);
    assert_int_equal(cairn_future_get_bytes(future, &bytes, &len, NULL), 0);
    assert_int_equal(len, strlen("{\"ok\":true}"));
    assert_memory_equal(bytes, "{\"ok\":true}", len);
    cairn_future_free(future);
    assert_int_equal(cairn_admin_async(client, "nobody", "status", NULL, 0, &future), 0);
    assert_int_equal(cairn_future_wait(future, UINT32_MAX), 0);
    assert_int_equal(cairn_future_get_bytes(future, &bytes, &len, NULL), CAIRN_E_NOTFOUND);
    cairn_future_free(future);
    assert_int_equal(cairn_admin_async(client, NULL, "", NULL, 0, &future), CAIRN_E_INVAL);
    assert_null(future);
}

static void a_large_read_comes_in_pieces(void **state)
{
    (void)state;
    size_t len = (2u << 20) + 5;
    char *data = malloc(len);
    cairn_ptr ptr;
    memset(data, 1, len);
    assert_int_equal(cairn_alloc_init(heap, 64, 0, "x", 1, &ptr), 0);
    assert_int_equal(cairn_read(heap, ptr, 0, data, len, NULL), 0);
    assert_int_equal(data[0], 'x');
    assert_int_equal(data[len - 1], 0);
    assert_int_equal(cairn_read(heap, ptr, 2u << 20, data, len, NULL), CAIRN_E_RANGE);
    free(data);
}

static int count_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)ptr;
    (void)version;
    char *names = arg;
    size_t len = strlen(names);
    (void)snprintf(names + len, 16 - len, "%s", name);
    return 0;
}

static void roots_are_listed_page_by_page(void **state)
{
    (void)state;
    char names[16] = "";
    assert_int_equal(cairn_root_list(heap, count_root, names), 0);
    assert_string_equal(names, "ab");
}

/* ---- futures ---- */

static void sizes_change_and_products_do_not_overflow(void **state)
{
    (void)state;
    cairn_ptr ptr;
    cairn_future *future;
    assert_int_equal(cairn_calloc(heap, 8, 8, 0, &ptr), 0);
    assert_false(cairn_ptr_is_null(ptr));
    assert_int_equal(cairn_realloc(heap, ptr, 100), 0);
    assert_int_equal(cairn_realloc(heap, ptr, 4u << 20), CAIRN_E_NOSPACE);
    assert_int_equal(cairn_realloc(heap, ptr, 0), CAIRN_E_INVAL);
    assert_int_equal(cairn_realloc(heap, ptr, CAIRN_OBJECT_BYTES_MAX + 1ull), CAIRN_E_TOOBIG);
    assert_int_equal(cairn_realloc(heap, CAIRN_NULL, 1), CAIRN_E_INVAL);
    assert_int_equal(cairn_realloc_async(heap, ptr, 5, &future), 0);
    assert_int_equal(cairn_future_wait(future, UINT32_MAX), 0);
    assert_int_equal(cairn_future_error(future), 0);
    cairn_future_free(future);
    assert_int_equal(cairn_calloc(heap, UINT64_MAX / 2, 4, 0, &ptr), CAIRN_E_TOOBIG);
    assert_int_equal(cairn_calloc(heap, 1u << 30, 2, 0, &ptr), CAIRN_E_TOOBIG);
    assert_int_equal(cairn_calloc(heap, 0, 8, 0, &ptr), CAIRN_E_INVAL);
}

static int add_version(void *arg, const cairn_change *change)
{
    uint64_t *sum = arg;
    assert_int_equal(change->size, 64);
    assert_int_equal(change->offset, 8);
    assert_int_equal(change->len, 4);
    assert_int_equal(change->kind, CAIRN_CHANGE_WRITE);
    *sum = *sum * 100 + change->version;
    return 0;
}

static int stop_at_once(void *arg, const cairn_change *change)
{
    (void)change;
    ++*(int *)arg;
    return 1;
}

static void older_versions_are_asked_for_and_changes_are_shown_once(void **state)
{
    (void)state;
    cairn_ptr ptr;
    cairn_object object;
    uint8_t byte;
    uint64_t version = 0;
    uint64_t sum = 0;
    int calls = 0;
    assert_int_equal(cairn_alloc(heap, 64, 0, &ptr), 0);
    assert_int_equal(cairn_read_at(heap, ptr, 77, 0, &byte, 1, &version), 0);
    assert_int_equal(version, 77);
    assert_int_equal(cairn_stat_at(heap, ptr, 78, &object), 0);
    assert_int_equal(object.version, 78);
    assert_int_equal(cairn_history(heap, ptr, add_version, &sum), 0);
    assert_int_equal(sum, 403020);
    assert_int_equal(cairn_history(heap, ptr, stop_at_once, &calls), 0);
    assert_int_equal(calls, 1);
}

struct account {
    int64_t balance;
    cairn_ptr next;
    char name[32];
    double rates[4];
};
CAIRN_TYPE(account, CAIRN_I64(balance), CAIRN_PTR(next, account), CAIRN_CHARS(name),
           CAIRN_F64(rates));

static int see_type(void *arg, const cairn_type *type, uint64_t version)
{
    ++*(int *)arg;
    assert_int_equal(version, 12);
    assert_string_equal(type->name, "account");
    assert_int_equal(type->number, CAIRN_TYPE_NUMBER(account));
    assert_int_equal(type->size, sizeof(struct account));
    assert_int_equal(type->field_count, 4);
    assert_string_equal(type->fields[1].name, "next");
    assert_int_equal(type->fields[1].kind, CAIRN_FIELD_PTR);
    assert_int_equal(type->fields[1].target, CAIRN_TYPE_NUMBER(account));
    assert_int_equal(type->fields[2].count, 32);
    assert_int_equal(type->fields[3].offset, offsetof(struct account, rates));
    assert_int_equal(type->fields[3].count, 4);
    return 0;
}

static void a_type_comes_back_as_it_was_registered(void **state)
{
    (void)state;
    int seen = 0;
    assert_int_equal(cairn_type_register(heap, CAIRN_TYPE_OF(account)), 0);
    assert_int_equal(cairn_type_list(heap, see_type, &seen), 0);
    assert_int_equal(seen, 1);
    cairn_type other = *CAIRN_TYPE_OF(account);
    other.number = 5;
    assert_int_equal(cairn_type_register(heap, &other), CAIRN_E_CONFLICT);
    cairn_field field = {"", CAIRN_FIELD_U8, 0, 1, 0, NULL};
    cairn_type bad = {"bad", 1, 8, 1, &field};
    assert_int_equal(cairn_type_register(heap, &bad), CAIRN_E_INVAL);
    field.name = "f";
    field.kind = 99;
    assert_int_equal(cairn_type_register(heap, &bad), CAIRN_E_INVAL);
    bad.field_count = 129;
    assert_int_equal(cairn_type_register(heap, &bad), CAIRN_E_INVAL);
    assert_int_equal(cairn_type_register(heap, NULL), CAIRN_E_INVAL);
}

static void an_iterator_goes_over_empty_pages(void **state)
{
    (void)state;
    cairn_iter *iter;
    cairn_object object;
    uint64_t words = 0;
    int end = 0;
    int count = 0;
    assert_int_equal(cairn_iter_new(heap, 7, &iter), 0);
    for (;;) {
        assert_int_equal(cairn_iter_next(iter, &object, &end), 0);
        if (end != 0) {
            break;
        }
        assert_int_equal(object.type, 7);
        words = words * 1000 + object.ptr.word;
        count++;
    }
    assert_int_equal(count, 3);
    assert_int_equal(words, 1002100);
    assert_int_equal(cairn_iter_next(iter, &object, &end), 0);
    assert_int_equal(end, 1);
    cairn_iter_free(iter);
    assert_int_equal(cairn_iter_new(heap, CAIRN_TYPE_ANY, &iter), 0);
    assert_int_equal(cairn_iter_next(iter, &object, &end), 0);
    assert_int_equal(object.type, 99);
    cairn_iter_free(iter);
    cairn_iter_free(NULL);
}

static void upkeep_is_a_call_like_any_other(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    int more = 0;
    assert_int_equal(cairn_heap_set_retention(heap, 60000), 0);
    assert_int_equal(cairn_heap_set_retention(heap, UINT64_MAX), CAIRN_E_INVAL);
    assert_int_equal(cairn_heap_defrag(heap, 0, 500, &bytes, &more), 0);
    assert_int_equal(bytes, 500);
    assert_int_equal(more, 1);
    assert_int_equal(cairn_heap_defrag(heap, 1, 500, &bytes, &more), CAIRN_E_INVAL);
    assert_int_equal(cairn_heap_trim(heap, 0, 100, &bytes), 0);
    assert_int_equal(bytes, 100);
    assert_int_equal(cairn_heap_trim(heap, 0, UINT64_MAX, NULL), 0);
}

static void thousands_of_calls_are_in_flight_from_one_thread(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static cairn_future *futures[COUNT];
    cairn_ptr ptr;
    uint64_t value;
    assert_int_equal(cairn_alloc(heap, 64, 0, &ptr), 0);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(cairn_add_u64_async(heap, ptr, 0, 1, &futures[i]), 0);
    }
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(cairn_future_wait(futures[i], UINT32_MAX), 0);
        assert_int_equal(cairn_future_error(futures[i]), 0);
        assert_int_equal(cairn_future_get_u64(futures[i], &value), 0);
        cairn_future_free(futures[i]);
    }
    assert_int_equal(cairn_read(heap, ptr, 0, &value, sizeof value, NULL), 0);
    assert_int_equal(value, COUNT);
}

static void a_future_has_the_result_of_its_kind_once_it_is_ready(void **state)
{
    (void)state;
    cairn_future *f = NULL;
    cairn_ptr ptr;
    uint64_t value;
    cairn_object object;
    const void *data;
    size_t len;
    assert_int_equal(cairn_alloc(heap, 64, 0, &ptr), 0);
    server_hold(server, true);
    assert_int_equal(cairn_read_async(heap, ptr, 8, 16, &f), 0);
    assert_int_equal(cairn_future_error(f), CAIRN_E_INVAL);
    assert_int_equal(cairn_future_get_bytes(f, &data, &len, NULL), CAIRN_E_INVAL);
    assert_int_equal(cairn_future_wait(f, 0), CAIRN_E_TIMEOUT);
    assert_int_equal(cairn_future_wait(f, 30), CAIRN_E_TIMEOUT);
    server_hold(server, false);
    assert_int_equal(cairn_future_wait(f, 20000), 0);
    assert_int_equal(cairn_future_get_bytes(f, &data, &len, NULL), 0);
    assert_int_equal(len, 16);
    assert_int_equal(cairn_future_get_ptr(f, &ptr), CAIRN_E_INVAL);
    assert_int_equal(cairn_future_get_u64(f, &value), CAIRN_E_INVAL);
    assert_int_equal(cairn_future_get_object(f, &object), CAIRN_E_INVAL);
    assert_string_equal(cairn_future_errormsg(f), "");
    cairn_future_free(f);
    cairn_future_free(NULL);
    assert_int_equal(cairn_alloc_async(heap, 0, 0, &f), CAIRN_E_INVAL);
    assert_null(f);
}

struct seen {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int calls;
    int blocking;
    bool free_inside;
};

static void on_ready(cairn_future *future, void *arg)
{
    struct seen *seen = arg;
    cairn_ptr ptr;
    int rv = cairn_alloc(heap, 1, 0, &ptr); /* would wait for this very thread */
    if (seen->free_inside) {
        cairn_future_free(future);
    }
    pthread_mutex_lock(&seen->lock);
    seen->calls++;
    seen->blocking = rv;
    pthread_cond_broadcast(&seen->wake);
    pthread_mutex_unlock(&seen->lock);
}

static void await(struct seen *seen, int calls)
{
    pthread_mutex_lock(&seen->lock);
    while (seen->calls < calls) {
        pthread_cond_wait(&seen->wake, &seen->lock);
    }
    pthread_mutex_unlock(&seen->lock);
}

static void a_callback_runs_once_and_may_free_its_future(void **state)
{
    (void)state;
    struct seen seen = {.free_inside = true};
    pthread_mutex_init(&seen.lock, NULL);
    pthread_cond_init(&seen.wake, NULL);
    cairn_future *f = NULL;
    /* set before it is ready */
    server_hold(server, true);
    assert_int_equal(cairn_alloc_async(heap, 64, 0, &f), 0);
    assert_int_equal(cairn_future_on_ready(f, on_ready, &seen), 0);
    assert_int_equal(cairn_future_on_ready(f, on_ready, &seen), CAIRN_E_INVAL);
    server_hold(server, false);
    await(&seen, 1);
    assert_int_equal(seen.blocking, CAIRN_E_INVAL);
    /* and after */
    seen.free_inside = false;
    assert_int_equal(cairn_alloc_async(heap, 64, 0, &f), 0);
    assert_int_equal(cairn_future_wait(f, UINT32_MAX), 0);
    assert_int_equal(cairn_future_on_ready(f, on_ready, &seen), 0);
    await(&seen, 2);
    cairn_future_free(f);
    pthread_cond_destroy(&seen.wake);
    pthread_mutex_destroy(&seen.lock);
}

static void a_freed_future_lets_its_call_go_on(void **state)
{
    (void)state;
    cairn_ptr ptr;
    uint64_t value = 0;
    assert_int_equal(cairn_alloc(heap, 64, 0, &ptr), 0);
    for (int i = 0; i < 1000; i++) {
        cairn_future *f = NULL;
        assert_int_equal(cairn_add_u64_async(heap, ptr, 0, 1, &f), 0);
        cairn_future_free(f);
    }
    for (int i = 0; i < 5000 && value < 1000; i++) {
        assert_int_equal(cairn_read(heap, ptr, 0, &value, sizeof value, NULL), 0);
    }
    assert_int_equal(value, 1000);
}

static void *adder(void *arg)
{
    cairn_ptr *ptr = arg;
    for (int i = 0; i < 300; i++) {
        if (cairn_add_u64(heap, *ptr, 0, 1, NULL) != 0) {
            return arg;
        }
    }
    return NULL;
}

static void a_heap_is_used_by_many_threads(void **state)
{
    (void)state;
    pthread_t threads[8];
    cairn_ptr ptr;
    uint64_t value;
    assert_int_equal(cairn_alloc(heap, 64, 0, &ptr), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, adder, &ptr), 0);
    }
    for (int i = 0; i < 8; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(cairn_read(heap, ptr, 0, &value, sizeof value, NULL), 0);
    assert_int_equal(value, 2400);
}

static void freeing_the_client_cancels_what_is_pending(void **state)
{
    (void)state;
    cairn_client *c = NULL;
    cairn_heap *h = NULL;
    static cairn_future *f[3]; /* futures outlive their heap here only to look at them */
    assert_int_equal(connect_as("alice", 20000, &c), 0);
    assert_int_equal(cairn_heap_open(c, "h", &h), 0);
    server_hold(server, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cairn_alloc_async(h, 8, 0, &f[i]), 0);
    }
    cairn_heap_close(h);
    cairn_client_free(c);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cairn_future_error(f[i]), CAIRN_E_CANCELED);
        cairn_future_free(f[i]);
    }
    server_hold(server, false);
}

static void a_deadline_in_flight_leaves_a_write_in_doubt_and_a_read_timed_out(void **state)
{
    (void)state;
    cairn_client *c = NULL;
    cairn_heap *h = NULL;
    cairn_ptr ptr;
    char byte;
    assert_int_equal(connect_as("alice", 300, &c), 0);
    assert_int_equal(cairn_heap_open(c, "h", &h), 0);
    assert_int_equal(cairn_alloc(h, 8, 0, &ptr), 0);
    server_hold(server, true);
    assert_int_equal(cairn_write(h, ptr, 0, "a", 1), CAIRN_E_INDOUBT);
    assert_true(cairn_error_is(CAIRN_E_INDOUBT, CAIRN_ERROR_MAYBE_COMMITTED));
    assert_int_equal(cairn_read(h, ptr, 0, &byte, 1, NULL), CAIRN_E_TIMEOUT);
    server_hold(server, false);
    cairn_heap_close(h);
    cairn_client_free(c);
}

/* ---- connecting ---- */

static void a_failed_connect_says_why(void **state)
{
    (void)state;
    cairn_client *c = NULL;
    assert_int_equal(connect_as("nobody", 1000, &c), CAIRN_E_NOTFOUND);
    assert_non_null(strstr(cairn_errormsg(), "nobody"));
    int rv = connect_as("eve", 3000, &c);
    assert_true(rv == CAIRN_E_TLS || rv == CAIRN_E_UNAUTHENTICATED || rv == CAIRN_E_UNAVAILABLE);
    assert_null(c);
    assert_int_equal(cairn_connect("nothing", NULL, &c), CAIRN_E_INVAL);
    cairn_client_opts opts = {.struct_size = 0};
    assert_int_equal(cairn_connect("a:1", &opts, &c), CAIRN_E_INVAL);
    cairn_client_opts_init(&opts, sizeof opts);
    opts.inflight_max = 100000;
    assert_int_equal(cairn_connect("a:1", &opts, &c), CAIRN_E_INVAL);
}

/* ---- several clients on one thread ---- */

struct where {
    cairn_client *client;
    pthread_t thread;
    int err; /* of a connection beside the client's, tried in its callback */
    atomic_bool done;
};

static void note_thread(cairn_future *future, void *arg)
{
    struct where *seen = arg;
    cairn_client_opts opts;
    cairn_client *none = NULL;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.thread_of = seen->client;
    seen->thread = pthread_self();
    seen->err = cairn_connect(server_endpoint(server), &opts, &none);
    cairn_future_free(future);
    atomic_store(&seen->done, true);
}

static void see_thread(cairn_client *c, cairn_heap *on, struct where *seen)
{
    cairn_future *future = NULL;
    seen->client = c;
    atomic_init(&seen->done, false);
    assert_int_equal(cairn_stat_async(on, (cairn_ptr){.word = 1}, &future), 0);
    assert_int_equal(cairn_future_on_ready(future, note_thread, seen), 0);
    while (!atomic_load(&seen->done)) {
        (void)sched_yield();
    }
    assert_int_equal(seen->err, CAIRN_E_INVAL);
}

static int connect_beside(cairn_client *with, const char *endpoints, cairn_client **out)
{
    cairn_client_opts opts;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.thread_of = with;
    opts.timeout_ms = 2000;
    return cairn_connect(endpoints, &opts, out);
}

/* An error, or 0. cmocka's asserts are the main thread's. */
static int come_and_go_once(cairn_client *with)
{
    cairn_client *mine = NULL;
    cairn_heap *h = NULL;
    cairn_ptr found;
    int rv = connect_beside(with, server_endpoint(server), &mine);
    rv = rv != 0 ? rv : cairn_heap_open(mine, "h", &h);
    rv = rv != 0 ? rv : cairn_root_get(h, "nothing", &found);
    cairn_heap_close(h);
    cairn_client_free(mine);
    return rv == CAIRN_E_NOTFOUND ? 0 : rv;
}

static void *come_and_go(void *arg)
{
    int rv = 0;
    for (int i = 0; rv == 0 && i < 20; i++) {
        rv = come_and_go_once(arg);
    }
    return (void *)(intptr_t)rv;
}

static void clients_share_a_thread_and_end_in_any_order(void **state)
{
    (void)state;
    cairn_client *first = NULL;
    cairn_client *second = NULL;
    cairn_client *third = NULL;
    cairn_heap *heaps[3];
    struct where seen[3];
    assert_int_equal(connect_as("alice", 20000, &first), 0);
    assert_int_equal(connect_beside(first, server_endpoint(server), &second), 0);
    assert_int_equal(cairn_heap_open(first, "h", &heaps[0]), 0);
    assert_int_equal(cairn_heap_open(second, "h", &heaps[1]), 0);
    see_thread(first, heaps[0], &seen[0]);
    see_thread(second, heaps[1], &seen[1]);
    assert_true(pthread_equal(seen[0].thread, seen[1].thread));
    cairn_heap_close(heaps[0]);
    cairn_client_free(first);
    assert_int_equal(connect_beside(second, server_endpoint(server), &third), 0);
    assert_int_equal(cairn_heap_open(third, "h", &heaps[2]), 0);
    see_thread(third, heaps[2], &seen[2]);
    assert_true(pthread_equal(seen[0].thread, seen[2].thread));

    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, third), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *rv = NULL;
        pthread_join(threads[i], &rv);
        assert_int_equal((intptr_t)rv, 0);
    }
    see_thread(second, heaps[1], &seen[1]);
    assert_true(pthread_equal(seen[1].thread, seen[2].thread));
    cairn_heap_close(heaps[1]);
    cairn_heap_close(heaps[2]);
    cairn_client_free(third);
    cairn_client_free(second);
}

static void a_thread_is_not_shared_where_it_cannot_be(void **state)
{
    (void)state;
    cairn_client *none = NULL;
    struct where seen;
    cairn_client_opts opts;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.thread_of = client;
    opts.ca_file = "ca.crt";
    assert_int_equal(cairn_connect(server_endpoint(server), &opts, &none), CAIRN_E_INVAL);
    assert_non_null(strstr(cairn_errormsg(), "certificate"));
    assert_int_equal(connect_beside(client, "file:///nowhere", &none), CAIRN_E_INVAL);
    assert_non_null(strstr(cairn_errormsg(), "directory"));
    /* A connection that comes to nothing leaves the other client alone. */
    assert_int_equal(connect_beside(client, "127.0.0.1:1", &none), CAIRN_E_UNAVAILABLE);
    assert_int_equal(connect_beside(client, "127.0.0.1", &none), CAIRN_E_INVAL);
    assert_null(none);
    see_thread(client, heap, &seen);
}

/* A child has neither the thread that answers nor the right to use the connections. */
static int child_of_a_fork(cairn_ptr ptr, cairn_future *pending)
{
    uint64_t value = 0;
    cairn_client *beside = NULL;
    cairn_client_opts opts;
    if (cairn_add_u64(heap, ptr, 0, 1, &value) != CAIRN_E_CLOSED ||
        cairn_future_wait(pending, UINT32_MAX) != CAIRN_E_CLOSED) {
        return 1;
    }
    cairn_client_opts_init(&opts, sizeof opts);
    opts.thread_of = client;
    if (cairn_connect(server_endpoint(server), &opts, &beside) != CAIRN_E_CLOSED) {
        return 2;
    }
    cairn_future_free(pending);
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}

static void a_child_of_fork_is_told_so(void **state)
{
    (void)state;
    cairn_ptr ptr;
    cairn_future *pending = NULL;
    int status = -1;
    assert_int_equal(cairn_alloc(heap, 64, 0, &ptr), 0);
    server_hold(server, true);
    assert_int_equal(cairn_write_async(heap, ptr, 0, "a", 1, &pending), 0);
    pid_t child = fork();
    if (child == 0) {
        (void)alarm(20); /* a call that never returns ends the child */
        _exit(child_of_a_fork(ptr, pending));
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    server_hold(server, false);
    assert_int_equal(cairn_future_wait(pending, UINT32_MAX), 0);
    assert_int_equal(cairn_future_error(pending), 0);
    cairn_future_free(pending);
    assert_int_equal(cairn_stat(heap, ptr, &(cairn_object){0}), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocking_calls_work),
        cmocka_unit_test(a_large_read_comes_in_pieces),
        cmocka_unit_test(roots_are_listed_page_by_page),
        cmocka_unit_test(sizes_change_and_products_do_not_overflow),
        cmocka_unit_test(older_versions_are_asked_for_and_changes_are_shown_once),
        cmocka_unit_test(a_type_comes_back_as_it_was_registered),
        cmocka_unit_test(an_iterator_goes_over_empty_pages),
        cmocka_unit_test(upkeep_is_a_call_like_any_other),
        cmocka_unit_test(thousands_of_calls_are_in_flight_from_one_thread),
        cmocka_unit_test(a_future_has_the_result_of_its_kind_once_it_is_ready),
        cmocka_unit_test(a_callback_runs_once_and_may_free_its_future),
        cmocka_unit_test(a_freed_future_lets_its_call_go_on),
        cmocka_unit_test(a_heap_is_used_by_many_threads),
        cmocka_unit_test(freeing_the_client_cancels_what_is_pending),
        cmocka_unit_test(a_deadline_in_flight_leaves_a_write_in_doubt_and_a_read_timed_out),
        cmocka_unit_test(a_failed_connect_says_why),
        cmocka_unit_test(clients_share_a_thread_and_end_in_any_order),
        cmocka_unit_test(a_thread_is_not_shared_where_it_cannot_be),
        cmocka_unit_test(a_child_of_fork_is_told_so),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
