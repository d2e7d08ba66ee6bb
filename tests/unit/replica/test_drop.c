/* What a dropped shard leaves on the disk: nothing, not even its directory, and also when the node
 * dies in the middle of removing it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define HEAP_BYTES ((uint64_t)8 << 20)
#define SMALL_LOG  ((uint64_t)64 << 10)
#define CUT_MAX    40u
#define CUT_STEP   3u

/* What a node that dies in the middle of a checkpoint held is nobody's leak. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static uint32_t names_with(const struct cluster *c, uint32_t i, const char *part)
{
    uint32_t count = 0;
    const char *path;
    for (size_t n = 0; (path = sim_disk_file(c->nodes[i].host, n)) != NULL; n++) {
        count += strstr(path, part) != NULL;
    }
    return count;
}

static const char *directory_of(uint64_t uid)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "/data/shards/%016llx", (unsigned long long)uid);
    return path;
}

/* So much that it has images, of several files. */
static void fill(struct cluster *c, uint64_t uid)
{
    static uint8_t bytes[4096];
    struct cluster_client client;
    (void)client_open(&client, c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 64 * sizeof bytes, slice_of(NULL, 0));
    for (uint32_t i = 0; i < 60; i++) {
        memset(bytes, (int)i + 1, sizeof bytes);
        assert_int_equal(
            client_write(&client, ptr, i * sizeof bytes, slice_of(bytes, sizeof bytes)).code, 0);
    }
    cluster_run_ms(c, 1000);
}

static void a_dropped_shard_leaves_no_directory(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 31, SMALL_LOG);
    uint64_t stays = cluster_heap(&c, "stays", 1, HEAP_BYTES);
    uint64_t goes = cluster_heap(&c, "goes", 2, HEAP_BYTES);
    fill(&c, goes);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_true(names_with(&c, i, directory_of(goes)) > 2);
    }
    cluster_heap_drop(&c, "goes");
    cluster_run_ms(&c, 2000);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_int_equal(names_with(&c, i, directory_of(goes)), 0);
        assert_int_equal(names_with(&c, i, directory_of(goes + 1)), 0);
        assert_true(names_with(&c, i, directory_of(stays)) > 0);
    }
    cluster_close(&c);
}

/* Dies after `operations` of what changes its disk, which begin with the drop. */
static void cut_short(uint32_t operations, enum sim_death how)
{
    struct cluster c;
    cluster_open(&c, 32 + operations, SMALL_LOG);
    uint64_t stays = cluster_heap(&c, "stays", 1, HEAP_BYTES);
    uint64_t goes = cluster_heap(&c, "goes", 2, HEAP_BYTES);
    fill(&c, goes);
    fill(&c, stays);
    uint32_t victim = (cluster_leader(&c, SHARD_META) + operations) % CLUSTER_NODES;
    cluster_heap_drop(&c, "goes");
    sim_proc_kill_in(c.nodes[victim].env, how, operations);
    for (uint32_t i = 0; i < 400 && !sim_proc_dead(c.nodes[victim].env); i++) {
        cluster_run_ms(&c, 5);
    }
    cluster_kill(&c, victim, how);
    cluster_start(&c, victim);
    cluster_run_ms(&c, 3000);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_int_equal(names_with(&c, i, directory_of(goes)), 0);
        assert_int_equal(names_with(&c, i, directory_of(goes + 1)), 0);
        assert_null(replica_shard(c.nodes[i].replica, goes));
        assert_null(wal_log_find(c.nodes[i].wal, goes));
    }
    cluster_check_equal(&c, stays);
    cluster_close(&c);
}

static void a_drop_that_was_cut_short_is_finished(void **state)
{
    (void)state;
    for (uint32_t operations = 0; operations < CUT_MAX; operations += CUT_STEP) {
        cut_short(operations, SIM_SIGKILL);
        cut_short(operations + 1, SIM_POWER_LOSS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dropped_shard_leaves_no_directory),
        cmocka_unit_test(a_drop_that_was_cut_short_is_finished),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
