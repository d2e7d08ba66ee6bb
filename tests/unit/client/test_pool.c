/* Promised pointers of a cluster's client: how many are asked for, and when they go back. */
#include <unistd.h>

#include "support/test.h"

#include "base/limits.h"
#include "cairn/tx.h"
#include "unit/client/server.h"

#define EACH 250u /* allocations of a transaction */
#define MANY 16u

static struct dir dir;
static struct server *server;
static cairn_client *client;
static cairn_heap *heap;

static int begin(void **state)
{
    (void)state;
    char paths[3][DIR_PATH_BYTES];
    cairn_client_opts opts;
    dir_open(&dir);
    server = server_start(&dir);
    cairn_client_opts_init(&opts, sizeof opts);
    opts.ca_file = dir_path(&dir, "ca.crt", paths[0]);
    opts.cert_file = dir_path(&dir, "alice.crt", paths[1]);
    opts.key_file = dir_path(&dir, "alice.key", paths[2]);
    opts.lease_ms = 1000; /* an idle client looks around three times in it */
    assert_int_equal(cairn_connect(server_endpoint(server), &opts, &client), 0);
    assert_int_equal(cairn_heap_open(client, "h", &heap), 0);
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

static void commit(uint32_t allocations)
{
    cairn_tx *tx = NULL;
    cairn_ptr ptr;
    assert_int_equal(cairn_tx_begin(heap, NULL, &tx), 0);
    for (uint32_t i = 0; i < allocations; i++) {
        int rv = cairn_tx_alloc(tx, 64, 0, &ptr);
        if (rv != 0) {
            fail_msg("allocation %u: %s", i, cairn_errormsg());
        }
    }
    assert_int_equal(cairn_tx_commit(tx, NULL), 0);
}

static void many_allocations_take_few_leases(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_true(server_leases(server) < MANY * EACH / 64 / 2);
}

/* What is held then is what who allocates little holds. */
static void an_idle_client_gives_back_what_it_does_not_use(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_true(server_promised(server) > 64);
    for (int i = 0; i < 2000 && server_promised(server) != 64; i++) {
        (void)usleep(10000);
    }
    assert_int_equal(server_promised(server), 64);
    uint64_t leases = server_leases(server);
    commit(1);
    assert_int_equal(server_leases(server), leases);
}

static void leases_that_are_lost_are_asked_for_again(void **state)
{
    (void)state;
    server_lose_leases(server, 1); /* the first one, which somebody waits for */
    commit(33);                    /* behind which more is asked for ahead */
    server_lose_leases(server, 2);
    commit(EACH);
    commit(EACH);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(many_allocations_take_few_leases),
        TEST(an_idle_client_gives_back_what_it_does_not_use),
        TEST(leases_that_are_lost_are_asked_for_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
