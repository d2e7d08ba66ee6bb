/* Transactions survive any failed allocation of the SDK: what they say is out of memory or success,
 * and nothing is left behind (the sanitizers look). The directory itself works on other threads,
 * where no allocation fails: it would stop. */
#include <pthread.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/fault.h"
#include "support/test.h"

#include "cairn/graph.h"
#include "client/sdk.h"
#include "embed/internal.h"
#include "embed/table.h"
#include "unit/client/tx_scenario.h"

static struct dir dir;
static cairn_client *client;
static cairn_heap *heap;
static cairn_ptr a, b;

/* ---- the embedded mode, elsewhere ---- */

struct elsewhere {
    struct embedded_heap *heap;
    struct embedded_call *call;
    uint32_t timeout_ms;
};

static void *run_there(void *arg)
{
    struct elsewhere *e = arg;
    embed_table.run(e->heap, e->call, e->timeout_ms);
    return NULL;
}

static void run(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms)
{
    struct elsewhere e = {h, call, timeout_ms};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_there, &e), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void *submit_there(void *arg)
{
    struct elsewhere *e = arg;
    embed_table.submit(e->heap, e->call);
    return NULL;
}

static void submit(struct embedded_heap *h, struct embedded_call *call)
{
    struct elsewhere e = {h, call, 0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, submit_there, &e), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* The library thread finishes what was submitted. */
static bool wait_there(struct embedded *db, struct embedded_call *call, uint32_t timeout_ms)
{
    return embed_table.wait(db, call, timeout_ms == UINT32_MAX ? UINT32_MAX - 1 : timeout_ms);
}

static struct embedded_ops ops;

static int begin(void **state)
{
    (void)state;
    char url[DIR_PATH_BYTES + 64];
    uint64_t zero = 0;
    dir_open(&dir);
    ops = embed_table;
    ops.run = run;
    ops.submit = submit;
    ops.wait = wait_there;
    sdk__embedded_use(&ops);
    (void)snprintf(url, sizeof url, "file://%s/db?mode=disk", dir.path);
    assert_int_equal(cairn_connect(url, NULL, &client), 0);
    assert_int_equal(cairn_heap_create(client, "h", NULL), 0);
    assert_int_equal(cairn_heap_open(client, "h", &heap), 0);
    assert_int_equal(cairn_alloc_init(heap, 64, 0, &zero, sizeof zero, &a), 0);
    assert_int_equal(cairn_alloc_init(heap, 64, 0, &zero, sizeof zero, &b), 0);
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

static int read_twice(cairn_tx *tx, void *arg)
{
    uint32_t *tries = arg;
    uint64_t value = 0;
    int rv = cairn_tx_read(tx, a, 0, &value, sizeof value);
    if (rv == 0 && ++*tries == 1) { /* the next one is strict */
        value++;
        rv = cairn_write(heap, a, 0, &value, sizeof value);
    }
    return rv != 0 ? rv : cairn_tx_read(tx, b, 0, &value, sizeof value);
}

static int strict(void *arg)
{
    (void)arg;
    uint32_t tries = 0;
    return cairn_tx_run(heap, read_twice, &tries);
}

static int fetch(void *arg)
{
    (void)arg;
    cairn_tx *tx = NULL;
    cairn_graph *graph = NULL;
    int rv = cairn_fetch(heap, a, NULL, &graph);
    cairn_graph_free(graph);
    if (rv == 0) {
        rv = cairn_tx_begin(heap, NULL, &tx);
    }
    if (rv != 0) {
        return rv;
    }
    rv = cairn_tx_fetch(tx, a, NULL, &graph);
    cairn_graph_free(graph);
    if (rv != 0) {
        cairn_tx_abort(tx);
        return rv;
    }
    return cairn_tx_commit(tx, NULL);
}

/* What is said is said of this failure, and the next transaction works. */
static void check(void *arg, int rv)
{
    if (rv != 0 && rv != CAIRN_E_NOMEM) {
        print_error("%s: %s\n", cairn_error_name(rv), cairn_errormsg());
    }
    assert_true(rv == 0 || rv == CAIRN_E_NOMEM);
    assert_true(rv == 0 || strstr(cairn_errormsg(), "memory") != NULL);
    do { /* a commit that nobody has waited for may come in between */
        rv = tx_scenario_snapshot(arg);
    } while (rv == CAIRN_E_CONFLICT);
    assert_int_equal(rv, 0);
}

static void no_memory_is_said_and_leaves_nothing(void **state)
{
    (void)state;
    static int (*const scenarios[])(void *arg) = {tx_scenario_commit,
                                                  tx_scenario_read,
                                                  tx_scenario_snapshot,
                                                  tx_scenario_async,
                                                  tx_scenario_abort,
                                                  tx_scenario_save,
                                                  tx_scenario_pointers,
                                                  strict,
                                                  fetch};
    struct tx_scenario s = {.heap = heap, .a = a, .b = b};
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        assert_true(fault_memory_sweep(scenarios[i], check, &s, 1, 1000) > 2);
        assert_true(fault_memory_sweep(scenarios[i], check, &s, -1, 1000) > 2);
    }
}

/* ---- leases ---- */

static uint64_t leased(void)
{
    struct heap_stats stats;
    struct embedded_heap *h = NULL;
    assert_int_equal(embed_heap_open(client->db, slice_of("h", 1), &h, NULL), 0);
    inline_lock(&client->db->env);
    heap_get_stats(h->heap, &stats);
    inline_unlock(&client->db->env);
    return stats.leased_slots;
}

/* Whatever the program did with its transactions. */
static void a_closed_heap_holds_no_slots(void **state)
{
    (void)state;
    struct tx_scenario s = {.heap = heap, .a = a, .b = b};
    assert_int_equal(tx_scenario_commit(&s), 0);
    assert_int_equal(tx_scenario_abort(&s), 0);
    assert_int_equal(tx_scenario_async(&s), 0);
    assert_true(leased() > 0);
    cairn_heap_close(heap);
    for (int i = 0; i < 500 && leased() > 0; i++) {
        (void)usleep(10000);
    }
    assert_int_equal(leased(), 0);
    assert_int_equal(cairn_heap_open(client, "h", &heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_memory_is_said_and_leaves_nothing, begin, end),
        cmocka_unit_test_setup_teardown(a_closed_heap_holds_no_slots, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
