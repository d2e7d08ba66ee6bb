/* How long a view for replicas that are filled is kept: it keeps the log behind it, and a full log
 * keeps writers waiting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define MIB       ((uint64_t)1 << 20)
#define SMALL_LOG (64u << 10)

struct filled {
    struct cluster c;
    struct cluster_client client;
    uint64_t uid, big;
    uint32_t leader, behind, third;
};

static struct shard *shard_of(struct filled *t, uint32_t node)
{
    return replica_shard(t->c.nodes[node].replica, t->uid);
}

static void write_pages(struct filled *t, uint32_t writes)
{
    static uint8_t bytes[4096];
    for (uint32_t i = 0; i < writes; i++) {
        memset(bytes, (int)i + 1, sizeof bytes);
        assert_int_equal(
            client_write(&t->client, t->big, i % 64 * sizeof bytes, slice_of(bytes, sizeof bytes))
                .code,
            0);
    }
}

/* A replica is away, and the log goes on without it. */
static void fall_behind(struct filled *t)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, 11, SMALL_LOG);
    t->uid = cluster_heap(&t->c, "h", 1, 8 * MIB);
    cluster_run_ms(&t->c, 8000);
    (void)client_open(&t->client, &t->c, t->uid, 1, 8, 60000);
    t->big = client_alloc(&t->client, 64 * 4096, slice_of(NULL, 0));
    t->leader = cluster_leader(&t->c, t->uid);
    t->behind = (t->leader + 1) % CLUSTER_NODES;
    t->third = (t->leader + 2) % CLUSTER_NODES;
    t->c.nodes[t->behind].cut = true;
    write_pages(t, 1500);
    cluster_run_ms(&t->c, 1000);
}

/* It comes back and has just been sent the last page of a view. */
static void come_back(struct filled *t)
{
    t->c.nodes[t->behind].cut = false;
    for (uint32_t i = 0; shard_of(t, t->leader)->pin.done_ms == 0; i++) {
        assert_true(i < 5000);
        assert_int_equal(cluster_leader(&t->c, t->uid), t->leader);
        cluster_run_ms(&t->c, 1);
    }
    assert_non_null(shard_of(t, t->leader)->pin.view);
}

static void no_room(struct filled *t)
{
    sim_disk_limit(t->c.nodes[t->leader].host, 0);
    for (uint32_t i = 0; wal_has_room(t->c.nodes[t->leader].wal); i++) {
        assert_true(i < 1200);
        cluster_run_ms(&t->c, 1);
    }
}

/* How long the view stays from now on, at most so long. */
static uint64_t kept_ms(struct filled *t, uint64_t ms)
{
    uint64_t since = sim_now_ns(t->c.sim);
    while (shard_of(t, t->leader)->pin.view != NULL && sim_now_ns(t->c.sim) < since + ms * SIM_MS) {
        cluster_run_ms(&t->c, 1);
    }
    return (sim_now_ns(t->c.sim) - since) / SIM_MS;
}

static bool has(struct filled *t, uint32_t node)
{
    return consensus_match_index(shard_of(t, t->leader)->consensus, replica_id_make(0, node + 1)) >=
           shard_of(t, t->leader)->pin.manifest.index;
}

static void with_room_it_stays_for_the_next_one(void **state)
{
    (void)state;
    struct filled t;
    fall_behind(&t);
    come_back(&t);
    cluster_run_ms(&t.c, 500);
    assert_true(has(&t, t.behind) && has(&t, t.third));
    assert_in_range(kept_ms(&t, 60000), PIN_DONE_MS - 600, PIN_DONE_MS);
    cluster_close(&t.c);
}

static void without_room_it_goes_when_everybody_has_what_it_holds(void **state)
{
    (void)state;
    struct filled t;
    fall_behind(&t);
    come_back(&t);
    cluster_run_ms(&t.c, 500);
    assert_true(has(&t, t.behind) && has(&t, t.third));
    uint64_t index = shard_of(&t, t.leader)->pin.manifest.index;
    no_room(&t);
    assert_true(kept_ms(&t, 60000) <= 40);
    /* And the log behind it, by a checkpoint that leaves nothing for laggards. */
    sim_disk_limit(t.c.nodes[t.leader].host, 200 * MIB);
    cluster_run_ms(&t.c, 2500);
    assert_true(cluster_info(&t.c, t.leader, t.uid).first_index > index);
    cluster_close(&t.c);
}

/* It has all pages, but its disk is slow: should writing them fail, they are wanted again. */
static void without_room_it_stays_while_somebody_is_behind(void **state)
{
    (void)state;
    struct filled t;
    fall_behind(&t);
    no_room(&t);
    sim_disk_slow(t.c.nodes[t.behind].host, 200);
    come_back(&t);
    uint64_t ms = 0;
    for (; !has(&t, t.behind); ms++) {
        assert_non_null(shard_of(&t, t.leader)->pin.view);
        assert_true(ms < PIN_DONE_MS);
        cluster_run_ms(&t.c, 1);
    }
    assert_true(ms > 100);
    assert_true(kept_ms(&t, 60000) <= PIN_DONE_MS + TICK_MS);
    cluster_close(&t.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_room_it_stays_for_the_next_one),
        cmocka_unit_test(without_room_it_goes_when_everybody_has_what_it_holds),
        cmocka_unit_test(without_room_it_stays_while_somebody_is_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
