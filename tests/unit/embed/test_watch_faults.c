/* A watch survives any failed allocation: of its opening, which says so and leaves nothing behind
 * (the sanitizers look), and of the directory while it looks for changes, which ends the watch with
 * NOMEM. From its token another one goes on, and nothing is missed or doubled. */
#include <stdatomic.h>

#include "support/dir.h"
#include "support/fault.h"
#include "support/test.h"

#include "base/mem.h"
#include "cairn/watch.h"
#include "client/sdk.h"
#include "embed/table.h"

#define WAIT_MS 30000u

static struct dir dir;
static cairn_client *client;
static cairn_heap *heap;
static cairn_ptr object;
static _Atomic long fault_after = -1; /* of the next watch that is submitted; -1: none */
static _Atomic long hits;

static struct embedded_ops ops;

/* On the library thread, which looks with it. */
static void submit(struct embedded_heap *h, struct embedded_call *call)
{
    long after = atomic_exchange(&fault_after, -1);
    if (call->request->op == EMBEDDED_WATCH && after >= 0) {
        mem_fault(after, 1);
        embed_table.submit(h, call);
        atomic_store(&hits, mem_fault_hits());
        mem_fault(0, 0);
        return;
    }
    embed_table.submit(h, call);
}

static int begin(void **state)
{
    (void)state;
    char url[DIR_PATH_BYTES + 64];
    uint64_t zero = 0;
    cairn_heap_opts opts;
    dir_open(&dir);
    ops = embed_table;
    ops.submit = submit;
    sdk__embedded_use(&ops);
    (void)snprintf(url, sizeof url, "file://%s/db?mode=disk", dir.path);
    assert_int_equal(cairn_connect(url, NULL, &client), 0);
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.retention_ms = 600000;
    assert_int_equal(cairn_heap_create(client, "h", &opts), 0);
    assert_int_equal(cairn_heap_open(client, "h", &heap), 0);
    assert_int_equal(cairn_alloc_init(heap, 8, 0, &zero, sizeof zero, &object), 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    cairn_heap_close(heap);
    cairn_client_free(client);
    dir_close(&dir);
    return 0;
}

static int open_and_ask(void *arg)
{
    cairn_watch *w = NULL;
    cairn_future *f = NULL;
    (void)arg;
    int rv = cairn_watch_object(heap, object, NULL, &w);
    if (rv == 0) {
        rv = cairn_watch_ready_async(w, &f);
    }
    cairn_watch_free(w);
    cairn_future_free(f);
    return rv;
}

static void check(void *arg, int rv)
{
    (void)arg;
    assert_int_equal(rv, CAIRN_E_NOMEM);
}

static void opening_says_that_there_is_no_memory(void **state)
{
    (void)state;
    assert_int_equal(fault_memory_sweep(open_and_ask, check, NULL, 1, 100), 3);
    assert_int_equal(fault_memory_sweep(open_and_ask, check, NULL, -1, 100), 3);
}

static void write_value(uint64_t value)
{
    assert_int_equal(cairn_write(heap, object, 0, &value, sizeof value), 0);
}

static void no_memory_while_looking_misses_nothing(void **state)
{
    (void)state;
    char token[CAIRN_WATCH_TOKEN_BYTES];
    cairn_watch_opts opts;
    cairn_watch *w = NULL;
    cairn_watch_opts_init(&opts, sizeof opts);
    opts.values = 1;
    opts.token = token;
    assert_int_equal(cairn_watch_object(heap, object, &opts, &w), 0);
    assert_int_equal(cairn_watch_token(w, token, sizeof token), 0);
    cairn_watch_free(w);
    opts.from = CAIRN_WATCH_TOKEN;
    uint64_t seen = 0;
    long met = 0;
    for (long n = 0;; n++) {
        assert_true(n < 100);
        for (uint64_t i = 1; i <= 40; i++) { /* enough for the answer to grow several times */
            write_value(seen + i);
        }
        uint64_t until = seen + 40;
        atomic_store(&hits, 0);
        atomic_store(&fault_after, n);
        int rv = cairn_watch_object(heap, object, &opts, &w);
        bool hit = atomic_load(&hits) != 0;
        atomic_store(&fault_after, -1);
        assert_true(rv == 0 || (rv == CAIRN_E_NOMEM && hit));
        met += hit;
        if (rv != 0) { /* from the same token once more */
            assert_int_equal(cairn_watch_object(heap, object, &opts, &w), 0);
        }
        while (seen < until) {
            const cairn_event *e;
            uint64_t value;
            assert_int_equal(cairn_watch_next(w, WAIT_MS, &e), 0);
            assert_int_equal(e->new_len, sizeof value);
            memcpy(&value, e->new_bytes, sizeof value);
            assert_int_equal(value, ++seen);
        }
        assert_int_equal(cairn_watch_token(w, token, sizeof token), 0);
        cairn_watch_free(w);
        if (!hit) {
            break;
        }
    }
    assert_true(met >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(opening_says_that_there_is_no_memory, begin, end),
        cmocka_unit_test_setup_teardown(no_memory_while_looking_misses_nothing, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
