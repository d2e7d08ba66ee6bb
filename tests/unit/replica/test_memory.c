/* A node whose memory runs out, at any allocation: it may refuse, or stop a replica, and whoever
 * asks again finds all that was acknowledged, once. The network and the disk of the simulator lack
 * nothing (mem_fault_hold()). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "unit/replica/cluster.h"

#define SMALL_LOG  ((uint64_t)64 << 10)
#define HEAP_BYTES ((uint64_t)8 << 20)
#define RUNS_MIN   20u

/* What a killed node had on its way to the disk or from it is nobody's leak. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

struct run {
    struct cluster c;
    struct cluster_client client;
    uint64_t uid, ptr, big, sum;
    uint64_t uids[4]; /* of all shards */
    uint32_t shards;
};

static void add(struct run *t, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) {
        assert_int_equal(client_add(&t->client, t->ptr, 1).value, t->sum++);
    }
}

static void fill(struct run *t, uint32_t writes)
{
    static uint8_t bytes[4096];
    for (uint32_t i = 0; i < writes; i++) {
        memset(bytes, (int)i + 1, sizeof bytes);
        struct slice data = slice_of(bytes, sizeof bytes);
        assert_int_equal(client_write(&t->client, t->big, i % 64 * sizeof bytes, data).code, 0);
    }
}

static void begin(struct run *t, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, seed, SMALL_LOG);
    log_set_level(LOG_OFF);
    t->uid = cluster_heap(&t->c, "h", 1, HEAP_BYTES);
    t->uids[0] = SHARD_META;
    t->uids[1] = t->uid;
    t->shards = 2;
    (void)client_open(&t->client, &t->c, t->uid, 1, 8, 600000);
    t->ptr = client_alloc(&t->client, 8, slice_of(NULL, 0));
    t->big = client_alloc(&t->client, 64 * 4096, slice_of(NULL, 0));
}

static void look_number(void *arg, const struct heap *heap)
{
    uint8_t bytes[8];
    struct run *t = arg;
    assert_int_equal(heap_copy(heap, t->ptr, 0, bytes, sizeof bytes), 0);
    assert_int_equal(load_u64(bytes), t->sum);
}

static void start(struct run *t, uint32_t node)
{
    while (t->c.nodes[node].env == NULL) {
        int rv = cluster_try_start(&t->c, node);
        assert_true(rv == 0 || rv == ERR_NOMEM);
    }
}

/* A replica that lacked memory stays stopped until its node starts again. */
static void heal(struct run *t)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        bool failed = false;
        for (uint32_t k = 0; k < t->shards; k++) {
            failed = failed || cluster_info(&t->c, i, t->uids[k]).failed;
        }
        if (failed) {
            cluster_kill(&t->c, i, SIM_SIGKILL);
        }
        start(t, i);
    }
}

static void end(struct run *t)
{
    heal(t);
    add(t, 3);
    cluster_read(&t->c, t->uid, look_number, t);
    for (uint32_t k = 0; k < t->shards; k++) {
        cluster_check_equal(&t->c, t->uids[k]);
    }
    cluster_close(&t->c);
}

/* prepare() and then scenario(), in which one allocation after the other fails. */
static void sweep(void (*prepare)(struct run *t), void (*scenario)(struct run *t))
{
    static struct run t;
    uint32_t runs = 0;
    for (long n = 0;; n += 1 + n / 50) {
        begin(&t, (uint64_t)n + 1);
        prepare(&t);
        mem_fault(n, 1);
        (void)mem_fault_hold(true);
        scenario(&t);
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        (void)mem_fault_hold(false);
        end(&t);
        if (hits == 0) {
            break;
        }
        runs++;
    }
    assert_true(runs >= RUNS_MIN);
}

static void nothing(struct run *t)
{
    (void)t;
}

static void lease(struct run *t)
{
    struct buf body = {0};
    struct msg_lease m = {.count = 16};
    assert_int_equal(message_encode_lease(&m, &body), 0);
    assert_int_equal(client_command(&t->client, KIND_LEASE, &body).code, 0);
}

static void work(struct run *t)
{
    struct cluster_client other;
    add(t, 4);
    lease(t);
    fill(t, 4);
    assert_int_equal(client_open(&other, &t->c, t->uid, 7, 8, 60000).code, 0);
    (void)client_alloc(&other, 100, slice_of("abc", 3));
    cluster_read(&t->c, t->uid, look_number, t);
    fill(t, 40); /* a checkpoint is due */
    cluster_run_ms(&t->c, 200);
}

static void any_allocation_of_commands_may_fail(void **state)
{
    (void)state;
    sweep(nothing, work);
}

static void heaps(struct run *t)
{
    struct cluster_client client;
    struct catalog_shard shard;
    struct buf body = {0};
    struct slice name = slice_of("other", 5);
    struct msg_heap_create m = {.shard_bytes_max = HEAP_BYTES, .shard_count = 2, .name = name};
    assert_int_equal(client_open(&client, &t->c, SHARD_META, 9, 4, 60000).code, 0);
    assert_int_equal(message_encode_heap_create(&m, &body), 0);
    assert_int_equal(client_command(&client, KIND_HEAP_CREATE, &body).code, 0);
    const struct replica *r = t->c.nodes[cluster_leader(&t->c, SHARD_META)].replica;
    assert_int_equal(catalog_shard_of(r, name, 0, &shard), 0);
    t->uids[2] = shard.uid;
    t->uids[3] = shard.uid + 1;
    t->shards = 4;
    cluster_run_ms(&t->c, 1000);
}

static void any_allocation_of_a_new_heap_may_fail(void **state)
{
    (void)state;
    sweep(nothing, heaps);
}

static void restart(struct run *t)
{
    uint32_t node = cluster_leader(&t->c, t->uid);
    cluster_kill(&t->c, node, SIM_POWER_LOSS);
    start(t, node);
    add(t, 1);
    cluster_run_ms(&t->c, 500);
}

static void written_much(struct run *t)
{
    fill(t, 60);
    cluster_run_ms(&t->c, 500);
}

static void any_allocation_of_a_start_may_fail(void **state)
{
    (void)state;
    sweep(written_much, restart);
}

static void one_is_behind(struct run *t)
{
    uint32_t behind = (cluster_leader(&t->c, t->uid) + 1) % CLUSTER_NODES;
    t->c.nodes[behind].cut = true;
    fill(t, 1500);
    cluster_run_ms(&t->c, 1000);
    assert_true(cluster_info(&t->c, cluster_leader(&t->c, t->uid), t->uid).first_index > 100);
}

static void it_is_filled(struct run *t)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        t->c.nodes[i].cut = false;
    }
    cluster_run_ms(&t->c, 3000);
    add(t, 1);
}

static void any_allocation_of_filling_a_replica_may_fail(void **state)
{
    (void)state;
    sweep(one_is_behind, it_is_filled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_allocation_of_commands_may_fail),
        cmocka_unit_test(any_allocation_of_a_new_heap_may_fail),
        cmocka_unit_test(any_allocation_of_a_start_may_fail),
        cmocka_unit_test(any_allocation_of_filling_a_replica_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
