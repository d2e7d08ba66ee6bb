/* Promised pointers in a directory: how many are asked for, who waits for them, and when they go
 * back. The table of the embedded mode is ours here, and counts. */
#include <unistd.h>

#include "support/dir.h"
#include "support/test.h"

#include "cairn/tx.h"
#include "client/sdk.h"
#include "embed/internal.h"
#include "embed/table.h"

#define EACH 250u /* allocations of a transaction */
#define MANY 16u
#define HELD 1536u /* pointers at most: what is asked for at a time, and the half before */

static struct dir dir;
static cairn_client *client;
static cairn_heap *heap;
static struct embedded_ops ops;
static uint32_t waits; /* of who allocates, for a lease or for anything else */
static uint32_t ahead; /* leases that nobody waits for */
static bool refusing;  /* those */

static void run(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms)
{
    waits += call->request->op == EMBEDDED_LEASE;
    embed_table.run(h, call, timeout_ms);
}

static void submit(struct embedded_heap *h, struct embedded_call *call)
{
    bool lease = call->request->op == EMBEDDED_LEASE;
    ahead += lease;
    if (lease && refusing) {
        call->err = ERR_NOSPACE;
        call->finished = true;
        assert_false(call->settled(call));
        return;
    }
    embed_table.submit(h, call);
}

static bool wait(struct embedded *db, struct embedded_call *call, uint32_t timeout_ms)
{
    waits++;
    return embed_table.wait(db, call, timeout_ms);
}

static int begin(void **state)
{
    (void)state;
    char url[DIR_PATH_BYTES + 64];
    dir_open(&dir);
    ops = embed_table;
    ops.run = run;
    ops.submit = submit;
    ops.wait = wait;
    refusing = false;
    sdk__embedded_use(&ops);
    (void)snprintf(url, sizeof url, "file://%s/db?mode=disk", dir.path);
    assert_int_equal(cairn_connect(url, NULL, &client), 0);
    assert_int_equal(cairn_heap_create(client, "h", NULL), 0);
    assert_int_equal(cairn_heap_open(client, "h", &heap), 0);
    waits = ahead = 0;
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

static cairn_tx *with_allocations(uint32_t count)
{
    cairn_tx *tx = NULL;
    cairn_ptr ptr;
    assert_int_equal(cairn_tx_begin(heap, NULL, &tx), 0);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(cairn_tx_alloc(tx, 64, 0, &ptr), 0);
    }
    return tx;
}

static void commit(uint32_t allocations)
{
    assert_int_equal(cairn_tx_commit(with_allocations(allocations), NULL), 0);
}

static struct heap_stats stats(void)
{
    struct heap_stats out;
    struct embedded_heap *h = NULL;
    assert_int_equal(embed_heap_open(client->db, slice_of("h", 1), &h, NULL), 0);
    inline_lock(&client->db->env);
    heap_get_stats(h->heap, &out);
    inline_unlock(&client->db->env);
    return out;
}

static void close_and_open(void)
{
    cairn_heap_close(heap);
    heap = NULL;
    for (int i = 0; i < 500 && stats().leased_slots > 0; i++) {
        (void)usleep(10000);
    }
    assert_int_equal(stats().leased_slots, 0);
    assert_int_equal(cairn_heap_open(client, "h", &heap), 0);
}

static void who_runs_transactions_in_a_row_waits_for_no_lease(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_true(waits > 0); /* the first one has */
    waits = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_int_equal(waits, 0);
}

static void many_allocations_take_few_leases(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_true(waits + ahead < MANY * EACH / 64 / 2);
    assert_true(stats().leased_slots <= HELD);
}

static void who_allocates_little_holds_little(void **state)
{
    (void)state;
    commit(1);
    assert_int_equal(stats().leased_slots, 63);
    assert_int_equal(ahead, 0);
}

/* And only then is more asked for ahead. */
static void what_is_refused_is_asked_for_by_who_waits(void **state)
{
    (void)state;
    refusing = true;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_int_equal(waits, (MANY * EACH + 63) / 64);
    assert_int_equal(ahead, waits);
    refusing = false;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    waits = 0;
    commit(EACH);
    assert_int_equal(waits, 0);
}

static void a_closed_heap_holds_no_slots(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        commit(EACH);
    }
    assert_true(stats().leased_slots > 64);
    close_and_open();
    /* More is on its way, and nothing of it is there. */
    cairn_tx *tx = with_allocations(33);
    assert_true(ahead > 0);
    cairn_tx_abort(tx);
    close_and_open();
}

/* A heap with a history would keep objects that were allocated only to be freed. */
static void what_goes_back_leaves_no_objects(void **state)
{
    (void)state;
    assert_int_equal(cairn_heap_set_retention(heap, 3600000), 0);
    cairn_tx_abort(with_allocations(1000));
    close_and_open();
    assert_int_equal(stats().dead_count, 0);
    assert_int_equal(stats().undo_count, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(who_runs_transactions_in_a_row_waits_for_no_lease),
        TEST(many_allocations_take_few_leases),
        TEST(who_allocates_little_holds_little),
        TEST(what_is_refused_is_asked_for_by_who_waits),
        TEST(a_closed_heap_holds_no_slots),
        TEST(what_goes_back_leaves_no_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
