/* Commands that are spread over the shards of a node: they go together, and a shard that can't go
 * on holds nobody up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define SHARDS     12u
#define HEAP_BYTES ((uint64_t)1 << 20)
#define AT_ONCE    4u /* batches that wait for nobody */

struct spread {
    struct cluster c;
    struct cluster_node *node;    /* leads all of them */
    struct shard *shards[SHARDS]; /* there */
    uint64_t before[SHARDS];      /* the last index when nothing was asked yet */
    struct shard_command commands[SHARDS];
    uint32_t next, done, failed;
};

static void done(struct shard_command *command, const struct command_result *result)
{
    struct spread *t = command->arg;
    t->done++;
    t->failed += result->err != 0;
}

static void propose_next(void *arg)
{
    struct spread *t = arg;
    uint32_t i = t->next++;
    t->commands[i] = (struct shard_command){.cb = done, .arg = t};
    assert_int_equal(shard_barrier(t->shards[i], &t->commands[i]), 0);
}

static void transfer_all(void *arg)
{
    struct cluster_node *node = arg;
    list_for_each (it, &node->replica->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        (void)shard_transfer_leadership(s, 1); /* those led here */
    }
}

/* One node leads all shards of a heap. */
static void spread_open(struct spread *t)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, 5, 0);
    uint64_t uid = cluster_heap(&t->c, "h", SHARDS, HEAP_BYTES);
    cluster_run_ms(&t->c, 1000);
    t->node = &t->c.nodes[0];
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        sim_proc_call(t->c.nodes[i].env, transfer_all, &t->c.nodes[i]);
    }
    cluster_run_ms(&t->c, 1000);
    for (uint32_t i = 0; i < SHARDS; i++) {
        assert_int_equal(t->c.nodes[cluster_leader(&t->c, uid + i)].number, 1);
        t->shards[i] = replica_shard(t->node->replica, uid + i);
        t->before[i] = wal_log_last_index(t->shards[i]->log);
    }
}

/* Each in a turn of its own, all before anything can have come back. */
static void propose_all(struct spread *t)
{
    while (t->next < SHARDS) {
        sim_proc_call(t->node->env, propose_next, t);
    }
}

static uint32_t submitted(const struct spread *t)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SHARDS; i++) {
        count += wal_log_last_index(t->shards[i]->log) > t->before[i];
    }
    return count;
}

static void what_is_spread_over_shards_goes_in_waves(void **state)
{
    (void)state;
    struct spread t;
    spread_open(&t);
    propose_all(&t);
    assert_int_equal(submitted(&t), AT_ONCE);
    uint64_t began = sim_now_ns(t.c.sim);
    while (t.done < AT_ONCE) {
        assert_int_equal(submitted(&t), AT_ONCE);
        (void)sim_step(t.c.sim);
    }
    cluster_run_ms(&t.c, 0);
    assert_int_equal(submitted(&t), SHARDS); /* as soon as all are back, all the rest at once */
    cluster_run_ms(&t.c, 50);
    assert_int_equal(t.done, SHARDS);
    assert_int_equal(t.failed, 0);
    assert_true(sim_now_ns(t.c.sim) - began < 100 * SIM_MS);
    cluster_close(&t.c);
}

/* Outside of all waves, as full batches go. */
static void push_three(void *arg)
{
    struct spread *t = arg;
    while (t->next < 3) {
        struct shard *s = t->shards[t->next];
        propose_next(t);
        batch_push(s);
    }
}

static void a_wave_waits_for_the_log(void **state)
{
    (void)state;
    struct spread t;
    spread_open(&t);
    sim_proc_call(t.node->env, push_three, &t);
    assert_true(wal_gathers(t.node->wal));
    sim_proc_call(t.node->env, propose_next, &t);
    assert_int_equal(t.node->replica->wave.in_flight, 0);
    while (wal_gathers(t.node->wal)) {
        assert_int_equal(submitted(&t), 3);
        (void)sim_step(t.c.sim);
    }
    cluster_run_ms(&t.c, 0);
    assert_int_equal(submitted(&t), 4);
    cluster_run_ms(&t.c, 50);
    assert_int_equal(t.done, 4);
    assert_int_equal(t.failed, 0);
    cluster_close(&t.c);
}

static void shards_that_get_no_answer_hold_nobody_up(void **state)
{
    (void)state;
    struct spread t;
    spread_open(&t);
    t.node->cut = true;
    propose_all(&t);
    assert_int_equal(submitted(&t), AT_ONCE);
    cluster_run_ms(&t.c, 4);
    assert_int_equal(submitted(&t), AT_ONCE);
    cluster_run_ms(&t.c, 4);
    assert_int_equal(submitted(&t), SHARDS);
    assert_int_equal(t.done, 0);
    t.node->cut = false;
    cluster_run_ms(&t.c, 3000);
    assert_int_equal(t.done, SHARDS);
    cluster_close(&t.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_spread_over_shards_goes_in_waves),
        cmocka_unit_test(a_wave_waits_for_the_log),
        cmocka_unit_test(shards_that_get_no_answer_hold_nobody_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
