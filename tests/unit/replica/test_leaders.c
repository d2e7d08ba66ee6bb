/* Which node leads: each shard's first member, or one node for all (placement.leaders). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define SHARDS     6u
#define HEAP_BYTES ((uint64_t)1 << 20)

static void gather(struct cluster *c)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (c->nodes[i].replica != NULL) {
            c->nodes[i].replica->opts.gather_leaders = true;
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
    gather(&c);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&c, 30000);
    assert_int_equal(led_by(&c, uid, 0), SHARDS);

    cluster_kill(&c, 0, SIM_SIGKILL);
    cluster_run_ms(&c, 5000); /* elected somewhere */
    assert_int_equal(led_by(&c, uid, 0), 0);
    cluster_run_ms(&c, 30000);
    assert_int_equal(led_by(&c, uid, 1), SHARDS);

    cluster_start(&c, 0);
    gather(&c);
    cluster_run_ms(&c, 60000);
    assert_int_equal(led_by(&c, uid, 0), SHARDS);
    uint64_t before = elections(&c);
    cluster_run_ms(&c, 120000);
    assert_int_equal(elections(&c), before); /* and there they stay */
    check_and_close(&c, uid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaders_are_spread_over_the_nodes),
        cmocka_unit_test(leaders_are_gathered_on_the_first_node_that_can),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
