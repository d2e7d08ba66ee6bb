/* Wall clocks that are off (rules E18, X16): who leads, who says so, and that nothing hangs on it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hlc.h"
#include "unit/replica/cluster.h"

#define SHARDS     3u
#define HEAP_BYTES ((uint64_t)4 << 20)

static void jump_ms(struct cluster *c, uint32_t node, int64_t ms)
{
    sim_clock_jump(c->nodes[node].host, ms * 1000);
}

static bool is_off(struct cluster *c, uint32_t node)
{
    struct replica_clock clock;
    replica_get_clock(c->nodes[node].replica, &clock);
    return clock.off;
}

static uint32_t led_by(struct cluster *c, uint32_t node, uint64_t uid)
{
    uint32_t count = cluster_info(c, node, SHARD_META).state == CONSENSUS_LEADER;
    for (uint32_t k = 0; k < SHARDS; k++) {
        count += cluster_info(c, node, uid + k).state == CONSENSUS_LEADER;
    }
    return count;
}

static uint64_t terms(struct cluster *c, uint64_t uid)
{
    uint64_t sum = cluster_info(c, cluster_leader(c, SHARD_META), SHARD_META).term;
    for (uint32_t k = 0; k < SHARDS; k++) {
        sum += cluster_info(c, cluster_leader(c, uid + k), uid + k).term;
    }
    return sum;
}

static void a_leader_whose_clock_is_off_gives_up_and_stays_away(void **state)
{
    (void)state;
    static const int64_t jumps[] = {5000, -5000};
    for (uint32_t round = 0; round < 2; round++) {
        struct cluster c;
        struct cluster_client client;
        cluster_open(&c, 20 + round, 0);
        uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
        cluster_run_ms(&c, 20000); /* leaders spread to the first members */
        uint32_t node = cluster_leader(&c, uid);
        (void)client_open(&client, &c, uid, 1, 8, 60000);
        uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));

        jump_ms(&c, node, jumps[round]);
        cluster_run_ms(&c, 3000);
        struct replica_clock clock;
        replica_get_clock(c.nodes[node].replica, &clock);
        assert_true(clock.off);
        assert_in_range(clock.offset_ms * (jumps[round] > 0 ? -1 : 1), 4900, 5100);
        assert_int_equal(led_by(&c, node, uid), 0);
        assert_false(is_off(&c, (node + 1) % CLUSTER_NODES));
        assert_false(is_off(&c, (node + 2) % CLUSTER_NODES));
        uint64_t before = terms(&c, uid);
        for (uint32_t i = 0; i < 40; i++) {
            cluster_run_ms(&c, 1000);
            assert_int_equal(led_by(&c, node, uid), 0);
            assert_int_equal(client_add(&client, ptr, 1).value, i);
        }
        assert_int_equal(terms(&c, uid), before); /* and nobody tried to give it back */

        jump_ms(&c, node, -jumps[round]);
        cluster_run_ms(&c, 40000);
        assert_false(is_off(&c, node));
        assert_int_equal(cluster_leader(&c, uid), node);
        cluster_check_equal(&c, uid);
        cluster_close(&c);
    }
}

static void a_follower_whose_clock_is_off_leaves_elections_to_others(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 22, 0);
    cluster_run_ms(&c, 1000);
    uint32_t off = (cluster_leader(&c, SHARD_META) + 1) % CLUSTER_NODES;
    jump_ms(&c, off, 3000);
    cluster_run_ms(&c, 3000);
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t leader = cluster_leader(&c, SHARD_META);
        uint32_t other = 3 - off - leader;
        assert_int_not_equal(leader, off);
        cluster_kill(&c, leader, SIM_SIGKILL);
        uint64_t began = sim_now_ns(c.sim);
        assert_int_equal(cluster_leader(&c, SHARD_META), other);
        assert_true(sim_now_ns(c.sim) - began < 2000 * SIM_MS);
        cluster_start(&c, leader);
        cluster_run_ms(&c, 3000);
    }
    cluster_check_equal(&c, SHARD_META);
    cluster_close(&c);
}

static void the_alarm_has_hysteresis(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 23, 0);
    cluster_run_ms(&c, 1000);
    static const struct {
        int64_t jump;
        bool off;
    } steps[] = {{800, false}, {600, true}, {-600, true}, {-500, false}, {600, false}};
    for (uint32_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        jump_ms(&c, 1, steps[i].jump); /* 800, 1400, 800, 300, 900 */
        cluster_run_ms(&c, 3000);
        assert_int_equal(is_off(&c, 1), steps[i].off);
        assert_false(is_off(&c, 0));
        assert_false(is_off(&c, 2));
    }
    cluster_close(&c);
}

static void three_clocks_that_all_differ_leave_one_that_leads(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 24, 0);
    uint64_t uid = cluster_heap(&c, "h", SHARDS, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    jump_ms(&c, 0, 8000);
    jump_ms(&c, 2, -7000);
    cluster_run_ms(&c, 10000);
    assert_true(is_off(&c, 0));
    assert_false(is_off(&c, 1));
    assert_true(is_off(&c, 2));
    assert_int_equal(led_by(&c, 1, uid), SHARDS + 1);
    assert_int_equal(client_add(&client, ptr, 1).value, 0);

    /* Without it the other two can't tell whose clock is wrong, and go on. */
    cluster_kill(&c, 1, SIM_SIGKILL);
    assert_int_equal(client_add(&client, ptr, 1).value, 1);
    cluster_run_ms(&c, 10000);
    assert_false(is_off(&c, 0));
    assert_false(is_off(&c, 2));
    assert_int_equal(client_add(&client, ptr, 1).value, 2);
    cluster_start(&c, 1);
    cluster_run_ms(&c, 5000);
    cluster_check_equal(&c, uid);
    cluster_close(&c);
}

static void a_slow_network_is_no_clock_that_is_off(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 25, 0);
    cluster_run_ms(&c, 3000);
    c.delay_ns = 2500 * SIM_MS;
    for (uint32_t i = 0; i < 20; i++) {
        cluster_run_ms(&c, 500);
        for (uint32_t k = 0; k < CLUSTER_NODES; k++) {
            assert_false(is_off(&c, k));
        }
    }
    c.delay_ns = 200000;
    cluster_run_ms(&c, 3000); /* what was still carried */
    (void)cluster_leader(&c, SHARD_META);
    cluster_close(&c);
}

/* ---- clocks that were ahead, all of them, and are set right ---- */

static uint64_t clock_ms(struct cluster *c, uint64_t uid)
{
    return hlc_to_ms(
        heap_clock(shard_heap(replica_shard(c->nodes[cluster_leader(c, uid)].replica, uid))));
}

static uint64_t wall_ms(struct cluster *c, uint64_t uid)
{
    return env_wall_us(c->nodes[cluster_leader(c, uid)].env) / 1000;
}

static void jump_all_ms(struct cluster *c, int64_t ms)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        jump_ms(c, i, ms);
    }
}

/* While all clocks were ahead a new term began: that is where stamps come from. */
static void stamp_ahead(struct cluster *c, struct cluster_client *client, uint64_t ptr, int64_t ms)
{
    jump_all_ms(c, ms);
    uint32_t leader = cluster_leader(c, client->uid);
    cluster_kill(c, leader, SIM_SIGKILL);
    cluster_run_ms(c, 3000);
    cluster_start(c, leader);
    cluster_run_ms(c, 3000);
    (void)client_add(client, ptr, 1);
    assert_true(clock_ms(c, client->uid) + 2000 > wall_ms(c, client->uid));
    jump_all_ms(c, -ms);
    cluster_run_ms(c, 2000);
    assert_true(clock_ms(c, client->uid) > wall_ms(c, client->uid) + (uint64_t)ms - 10000);
}

static void time_goes_on_where_clocks_were_set_back(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    struct cluster_client silent;
    cluster_open(&c, 25, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    cluster_run_ms(&c, 5000);
    (void)client_open(&client, &c, uid, 1, 8, 600000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    stamp_ahead(&c, &client, ptr, 3600000);
    (void)client_open(&silent, &c, uid, 2, 8, 5000);
    uint64_t sessions = cluster_info(&c, cluster_leader(&c, uid), uid).sessions;
    /* Many entries a millisecond apart, or none for a while: at half the pace. */
    for (uint32_t round = 0; round < 2; round++) {
        uint64_t clock = clock_ms(&c, uid);
        uint64_t began = sim_now_ns(c.sim) / SIM_MS;
        while (sim_now_ns(c.sim) / SIM_MS - began < 10000) {
            (void)client_add(&client, ptr, 1);
            cluster_run_ms(&c, round == 0 ? 1 : 2500);
        }
        (void)client_add(&client, ptr, 1);
        uint64_t passed = sim_now_ns(c.sim) / SIM_MS - began;
        assert_in_range(clock_ms(&c, uid) - clock, passed / 2 - 500, passed / 2 + 100);
    }
    /* So who says nothing is forgotten. */
    assert_int_equal(cluster_info(&c, cluster_leader(&c, uid), uid).sessions, sessions - 1);
    cluster_check_equal(&c, uid);
    cluster_close(&c);
}

static void stamps_come_back_to_the_clocks(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 26, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    cluster_run_ms(&c, 5000);
    (void)client_open(&client, &c, uid, 1, 8, 600000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    stamp_ahead(&c, &client, ptr, 20000);
    uint64_t before = clock_ms(&c, uid);
    for (uint32_t i = 0; i < 40; i++) {
        cluster_run_ms(&c, 1000);
        (void)client_add(&client, ptr, 1);
        uint64_t now = clock_ms(&c, uid);
        assert_true(now > before + 400);
        before = now;
    }
    assert_in_range(clock_ms(&c, uid), wall_ms(&c, uid) - 100, wall_ms(&c, uid) + 600);
    cluster_check_equal(&c, uid);
    cluster_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_leader_whose_clock_is_off_gives_up_and_stays_away),
        cmocka_unit_test(a_follower_whose_clock_is_off_leaves_elections_to_others),
        cmocka_unit_test(the_alarm_has_hysteresis),
        cmocka_unit_test(three_clocks_that_all_differ_leave_one_that_leads),
        cmocka_unit_test(a_slow_network_is_no_clock_that_is_off),
        cmocka_unit_test(time_goes_on_where_clocks_were_set_back),
        cmocka_unit_test(stamps_come_back_to_the_clocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
