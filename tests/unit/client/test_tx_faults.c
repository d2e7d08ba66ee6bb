/* Transactions over a connection survive any failed allocation, be it on the caller's thread or on
 * the library's: what they say is out of memory, that the call didn't come through, or success; and
 * nothing is left behind (the sanitizers look), so that the next transaction works. */
#include <pthread.h>

#include "support/fault.h"
#include "support/test.h"

#include "base/mem.h"
#include "unit/client/server.h"
#include "unit/client/tx_scenario.h"

static struct dir dir;
static struct server *server;
static cairn_client *client;
static struct tx_scenario s;

static void connect_anew(void)
{
    char paths[3][DIR_PATH_BYTES];
    cairn_client_opts opts;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.ca_file = dir_path(&dir, "ca.crt", paths[0]);
    opts.cert_file = dir_path(&dir, "alice.crt", paths[1]);
    opts.key_file = dir_path(&dir, "alice.key", paths[2]);
    opts.timeout_ms = 20000;
    assert_int_equal(cairn_connect(server_endpoint(server), &opts, &client), 0);
    assert_int_equal(cairn_heap_open(client, "two", &s.heap), 0);
    assert_int_equal(cairn_heap_open(client, "h", &s.other), 0);
}

static void disconnect(void)
{
    cairn_heap_close(s.heap);
    cairn_heap_close(s.other);
    cairn_client_free(client);
}

static int begin(void **state)
{
    (void)state;
    uint64_t zero = 0;
    dir_open(&dir);
    server = server_start(&dir);
    connect_anew();
    assert_int_equal(cairn_alloc_init(s.heap, 64, 0, &zero, sizeof zero, &s.a), 0);
    assert_int_equal(cairn_alloc_init(s.heap, 64, 0, &zero, sizeof zero, &s.b), 0);
    s.b.word |= UINT64_C(1) << 52; /* on the other shard */
    return 0;
}

static int end(void **state)
{
    (void)state;
    disconnect();
    server_stop(server);
    dir_close(&dir);
    return 0;
}

static int (*const scenarios[])(void *arg) = {
    tx_scenario_commit, tx_scenario_read, tx_scenario_snapshot, tx_scenario_async,
    tx_scenario_abort,  tx_scenario_save, tx_scenario_pointers};
#define SCENARIOS (sizeof scenarios / sizeof scenarios[0])

static void check(void *arg, int rv)
{
    if (rv != 0 && rv != CAIRN_E_NOMEM) {
        print_error("%s: %s\n", cairn_error_name(rv), cairn_errormsg());
    }
    assert_true(rv == 0 || rv == CAIRN_E_NOMEM);
    assert_true(rv == 0 || strstr(cairn_errormsg(), "memory") != NULL);
    assert_int_equal(tx_scenario_commit(arg), 0);
}

static void the_callers_thread_may_lack_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < SCENARIOS; i++) {
        assert_true(fault_memory_sweep(scenarios[i], check, &s, 1, 1000) > 2);
        assert_true(fault_memory_sweep(scenarios[i], check, &s, -1, 1000) > 2);
    }
}

/* ---- the library's thread ---- */

struct arming {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done;
    long after, repeat, hits;
};

static void arm(cairn_future *f, void *arg)
{
    struct arming *a = arg;
    (void)f;
    pthread_mutex_lock(&a->lock);
    a->hits = mem_fault_hits();
    mem_fault(a->after, a->repeat);
    a->is_done = true;
    pthread_cond_signal(&a->done);
    pthread_mutex_unlock(&a->lock);
}

/* Callbacks run there. How many allocations have failed since it was armed before. */
static long arm_there(long after, long repeat)
{
    struct arming a = {.lock = PTHREAD_MUTEX_INITIALIZER,
                       .done = PTHREAD_COND_INITIALIZER,
                       .after = after,
                       .repeat = repeat};
    cairn_future *f = NULL;
    assert_int_equal(cairn_stat_async(s.heap, s.a, &f), 0);
    assert_int_equal(cairn_future_on_ready(f, arm, &a), 0);
    pthread_mutex_lock(&a.lock);
    while (!a.is_done) {
        pthread_cond_wait(&a.done, &a.lock);
    }
    pthread_mutex_unlock(&a.lock);
    cairn_future_free(f);
    return a.hits;
}

/* Without memory it can't tell whether what it sent has arrived. */
static bool is_clean(int rv)
{
    return rv == 0 || rv == CAIRN_E_NOMEM || rv == CAIRN_E_INDOUBT;
}

static void the_librarys_thread_may_lack_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < SCENARIOS; i++) {
        long runs = 0;
        for (;; runs++) {
            disconnect(); /* a client that has sessions and buffers hardly allocates there */
            connect_anew();
            (void)arm_there(runs, 1);
            int rv = scenarios[i](&s);
            long hits = arm_there(0, 0);
            if (hits == 0) {
                assert_int_equal(rv, 0);
                break;
            }
            if (!is_clean(rv)) {
                print_error("scenario %zu, allocation %ld: %s: %s\n", i, runs, cairn_error_name(rv),
                            cairn_errormsg());
            }
            assert_true(is_clean(rv));
            assert_int_equal(tx_scenario_commit(&s), 0);
        }
        assert_true(runs > 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_callers_thread_may_lack_memory, begin, end),
        cmocka_unit_test_setup_teardown(the_librarys_thread_may_lack_memory, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
