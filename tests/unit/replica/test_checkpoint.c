/* When a shard is checkpointed before its own log is long: the log of all shards of a node is
 * bounded, and who has most of it goes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define KIB        ((uint64_t)1 << 10)
#define MIB        ((uint64_t)1 << 20)
#define SHARDS     6u
#define LOG_MAX    (512 * KIB)
#define WRITE      (4 * KIB)
#define A_SHARDS   (64 * MIB) /* of its own: never reached */
#define IN_A_TICKS (128 * KIB)

struct many {
    struct cluster c;
    struct cluster_client clients[SHARDS];
    uint64_t ptrs[SHARDS];
    uint64_t uid;
};

static struct shard *shard_at(struct many *t, uint32_t node, uint32_t i)
{
    return replica_shard(t->c.nodes[node].replica, t->uid + i);
}

static uint64_t sum_of(struct many *t, uint32_t node)
{
    uint64_t sum = 0;
    list_for_each (it, &t->c.nodes[node].replica->shards) {
        sum += list_entry(it, struct shard, link)->log_bytes;
    }
    return sum;
}

static void many_open(struct many *t, uint64_t log_max)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, 40, A_SHARDS);
    t->uid = cluster_heap(&t->c, "h", SHARDS, 4 * MIB);
    cluster_run_ms(&t->c, 8000);
    for (uint32_t i = 0; i < SHARDS; i++) {
        (void)client_open(&t->clients[i], &t->c, t->uid + i, 1, 8, 600000);
        t->ptrs[i] = client_alloc(&t->clients[i], WRITE, slice_of(NULL, 0));
    }
    cluster_run_ms(&t->c, 100);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        t->c.nodes[i].replica->opts.log_bytes_max = log_max;
    }
}

static void write_to(struct many *t, uint32_t shard, uint64_t bytes)
{
    static uint8_t noise[WRITE];
    for (uint64_t done = 0; done < bytes; done += WRITE) {
        assert_int_equal(
            client_write(&t->clients[shard], t->ptrs[shard], 0, slice_of(noise, WRITE)).code, 0);
        for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
            assert_true(sum_of(t, i) <= LOG_MAX + IN_A_TICKS);
        }
    }
}

static void the_shard_with_most_of_the_log_is_checkpointed(void **state)
{
    (void)state;
    struct many t;
    many_open(&t, LOG_MAX);
    for (uint32_t i = 0; i < SHARDS; i++) {
        write_to(&t, i, (i == 2 ? 160 : 40) * KIB);
    }
    for (uint32_t i = 0; i < SHARDS; i++) {
        assert_int_equal(cluster_info(&t.c, 0, t.uid + i).checkpoint_index, 0);
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        sim_disk_slow(t.c.nodes[i].host, 100); /* no other is begun until one is done */
    }
    write_to(&t, 4, 160 * KIB); /* 520 KiB, with 200 of them this one's */
    cluster_run_ms(&t.c, 3000);
    for (uint32_t node = 0; node < CLUSTER_NODES; node++) {
        for (uint32_t i = 0; i < SHARDS; i++) {
            assert_int_equal(cluster_info(&t.c, node, t.uid + i).checkpoint_index > 0, i == 4);
            assert_int_equal(shard_at(&t, node, i)->log_bytes < 30 * KIB, i == 4);
        }
    }
    cluster_close(&t.c);
}

/* However long it goes on, and whichever of them it is. */
static void the_log_of_all_shards_stays_within_its_bound(void **state)
{
    (void)state;
    struct many t;
    many_open(&t, LOG_MAX);
    for (uint32_t round = 0; round < 8; round++) {
        for (uint32_t i = 0; i < SHARDS; i++) {
            write_to(&t, i, (round * 5 + i * 3) % 11 * 16 * KIB);
        }
    }
    for (uint32_t i = 0; i < SHARDS; i++) {
        cluster_check_equal(&t.c, t.uid + i);
        for (uint32_t node = 0; node < CLUSTER_NODES; node++) {
            assert_true(cluster_info(&t.c, node, t.uid + i).checkpoint_index > 0);
        }
    }
    cluster_close(&t.c);
}

/* The one with most of it can't be checkpointed for a while: then the next one is. */
static void one_that_has_to_wait_keeps_no_other_from_it(void **state)
{
    (void)state;
    struct many t;
    many_open(&t, LOG_MAX);
    shard_hold_image(shard_at(&t, 0, 1), true);
    write_to(&t, 1, 300 * KIB);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 2; i < SHARDS; i++) {
            write_to(&t, i, 80 * KIB);
        }
    }
    assert_int_equal(cluster_info(&t.c, 0, t.uid + 1).checkpoint_index, 0);
    shard_hold_image(shard_at(&t, 0, 1), false);
    cluster_run_ms(&t.c, 3000);
    assert_true(cluster_info(&t.c, 0, t.uid + 1).checkpoint_index > 0);
    cluster_close(&t.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shard_with_most_of_the_log_is_checkpointed),
        cmocka_unit_test(the_log_of_all_shards_stays_within_its_bound),
        cmocka_unit_test(one_that_has_to_wait_keeps_no_other_from_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
