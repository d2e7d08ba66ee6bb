/* Which node leads: each shard's first member, one node for all, or what the load asks for
 * (placement.leaders). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define SHARDS     6u
#define HEAP_BYTES ((uint64_t)1 << 20)

static void want(struct cluster *c, enum replica_leaders leaders)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (c->nodes[i].replica != NULL) {
            c->nodes[i].replica->opts.leaders = leaders;
        }
    }
}

static uint32_t led_by(struct cluster *c, uint64_t uid, uint32_t node)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SHARDS; i++) {
        count += cluster_leader(c, uid + i) == node;
    }
    return count;
}

static uint64_t elections(const struct cluster *c)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        struct replica_counters counters;
        replica_get_counters(c->nodes[i].replica, &counters);
        sum += counters.elections;
    }
    return sum;
}

static void check_and_close(struct cluster *c, uint64_t uid)
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        cluster_check_equal(c, uid + i);
    }
    cluster_close(c);
}

static void leaders_are_spread_over_the_nodes(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 3, 0);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&c, 30000);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_int_equal(led_by(&c, uid, i), SHARDS / CLUSTER_NODES);
    }
    check_and_close(&c, uid);
}

static void leaders_are_gathered_on_the_first_node_that_can(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 3, 0);
    want(&c, REPLICA_LEADERS_GATHER);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&c, 30000);
    assert_int_equal(led_by(&c, uid, 0), SHARDS);

    cluster_kill(&c, 0, SIM_SIGKILL);
    cluster_run_ms(&c, 5000); /* elected somewhere */
    assert_int_equal(led_by(&c, uid, 0), 0);
    cluster_run_ms(&c, 30000);
    assert_int_equal(led_by(&c, uid, 1), SHARDS);

    cluster_start(&c, 0);
    want(&c, REPLICA_LEADERS_GATHER);
    cluster_run_ms(&c, 60000);
    assert_int_equal(led_by(&c, uid, 0), SHARDS);
    uint64_t before = elections(&c);
    cluster_run_ms(&c, 120000);
    assert_int_equal(elections(&c), before); /* and there they stay */
    check_and_close(&c, uid);
}

static bool is_gathered(struct cluster *c, uint64_t uid)
{
    return led_by(c, uid, 0) == SHARDS;
}

static bool is_spread(struct cluster *c, uint64_t uid)
{
    bool yes = true;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        yes = yes && led_by(c, uid, i) == SHARDS / CLUSTER_NODES;
    }
    return yes;
}

static void busy(struct cluster *c, uint32_t a, uint32_t b, uint32_t d)
{
    sim_host_busy(c->nodes[0].host, a);
    sim_host_busy(c->nodes[1].host, b);
    sim_host_busy(c->nodes[2].host, d);
}

/* They don't move while the load stays: two minutes without an election. */
static void check_calm(struct cluster *c)
{
    uint64_t before = elections(c);
    cluster_run_ms(c, 120000);
    assert_int_equal(elections(c), before);
}

static void leaders_follow_the_load(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 3, 0);
    want(&c, REPLICA_LEADERS_AUTO);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&c, 30000);
    assert_true(is_gathered(&c, uid));

    busy(&c, 700, 300, 100); /* work, but no node is at its bound */
    check_calm(&c);
    assert_true(is_gathered(&c, uid));

    busy(&c, 900, 300, 100);
    cluster_run_ms(&c, 40000);
    assert_true(is_spread(&c, uid));

    busy(&c, 300, 300, 300); /* between the bounds: as it was */
    check_calm(&c);
    assert_true(is_spread(&c, uid));

    busy(&c, 100, 100, 100);
    cluster_run_ms(&c, 120000);
    assert_true(is_gathered(&c, uid));
    check_calm(&c);
    check_and_close(&c, uid);
}

/* A peak of two seconds moves nothing. */
static void a_short_peak_moves_no_leader(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 4, 0);
    want(&c, REPLICA_LEADERS_AUTO);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&c, 30000);
    uint64_t before = elections(&c);
    for (uint32_t i = 0; i < 6; i++) {
        busy(&c, 1000, 1000, 1000);
        cluster_run_ms(&c, 2000);
        busy(&c, 0, 0, 0);
        cluster_run_ms(&c, 10000);
    }
    assert_int_equal(elections(&c), before);
    assert_true(is_gathered(&c, uid));
    check_and_close(&c, uid);
}

/* Between the bounds a new leader of the meta shard goes on from what the one before had decided,
 * and so does a node that was away. */
static void what_was_decided_outlasts_who_decided(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 5, 0);
    want(&c, REPLICA_LEADERS_AUTO);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    busy(&c, 900, 300, 100);
    cluster_run_ms(&c, 60000);
    assert_true(is_spread(&c, uid));

    busy(&c, 300, 300, 300);
    uint32_t old = cluster_leader(&c, SHARD_META);
    cluster_kill(&c, old, SIM_SIGKILL);
    cluster_run_ms(&c, 10000);
    assert_int_not_equal(cluster_leader(&c, SHARD_META), old);
    cluster_start(&c, old);
    want(&c, REPLICA_LEADERS_AUTO);
    cluster_run_ms(&c, 60000);
    assert_true(is_spread(&c, uid));
    check_calm(&c);
    check_and_close(&c, uid);
}

/* What every node that runs takes for decided. */
static bool all_say_gathered(struct cluster *c, bool yes)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        struct replica_load load;
        if (c->nodes[i].replica == NULL) {
            continue;
        }
        replica_get_load(c->nodes[i].replica, &load);
        if (load.gathered != yes) {
            return false;
        }
    }
    return true;
}

static void run_until(struct cluster *c, bool gathered, uint32_t seconds_max)
{
    uint32_t ms = 0;
    while (!all_say_gathered(c, gathered)) {
        assert_true(ms < seconds_max * 1000);
        cluster_run_ms(c, 100);
        ms += 100;
    }
}

/* For a minute after a change nothing is decided, whatever the load; also by who takes over. */
static void check_settling(bool taken_over)
{
    struct cluster c;
    cluster_open(&c, 6, 0);
    want(&c, REPLICA_LEADERS_AUTO);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&c, 30000);
    busy(&c, 1000, 1000, 1000);
    run_until(&c, false, 60);
    for (uint32_t i = 0; i < 4; i++) { /* to and fro */
        bool gathered = i % 2 != 0;
        uint32_t old = cluster_leader(&c, SHARD_META);
        if (taken_over) {
            cluster_kill(&c, old, SIM_SIGKILL);
        }
        uint32_t load = gathered ? 1000 : 0; /* asks for the opposite */
        busy(&c, load, load, load);
        for (uint32_t s = 0; s < 55; s++) {
            cluster_run_ms(&c, 1000);
            assert_true(all_say_gathered(&c, gathered));
        }
        if (taken_over) {
            assert_int_not_equal(cluster_leader(&c, SHARD_META), old);
            cluster_start(&c, old);
            want(&c, REPLICA_LEADERS_AUTO);
        }
        run_until(&c, !gathered, 20);
    }
    check_and_close(&c, uid);
}

static void a_change_settles_before_the_next_one(void **state)
{
    (void)state;
    check_settling(false);
}

static void a_change_settles_also_under_the_next_leader(void **state)
{
    (void)state;
    check_settling(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaders_are_spread_over_the_nodes),
        cmocka_unit_test(leaders_are_gathered_on_the_first_node_that_can),
        cmocka_unit_test(leaders_follow_the_load),
        cmocka_unit_test(a_short_peak_moves_no_leader),
        cmocka_unit_test(what_was_decided_outlasts_who_decided),
        cmocka_unit_test(a_change_settles_before_the_next_one),
        cmocka_unit_test(a_change_settles_also_under_the_next_leader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
