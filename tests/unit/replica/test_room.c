/* Admission by disk space (rules E12): what was accepted can always be checkpointed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/replica/cluster.h"

#define MIB          ((uint64_t)1 << 20)
#define PAGE_BYTES   4096u
#define OBJECT_BYTES (40 * MIB)
#define ROOM         (40 * MIB) /* 18 of them are the log's and the reserve */

static uint64_t dirty_bytes(struct cluster *c, uint32_t node, uint64_t uid)
{
    struct heap_stats stats;
    heap_get_stats(shard_heap(replica_shard(c->nodes[node].replica, uid)), &stats);
    return stats.dirty_pages * PAGE_BYTES;
}

/* A few bytes of the next page, sent to the leader as they are, without asking again: a page
 * becomes dirty and the log hardly grows. */
static int touch(struct cluster_client *client, uint32_t node, uint64_t ptr)
{
    struct command_result result = {0};
    struct msg_write m = {.uid = client->uid,
                          .session = client->session,
                          .seq = client->seq + 1,
                          .acked = client->acked,
                          .ptr = ptr,
                          .offset = client->seq % (OBJECT_BYTES / PAGE_BYTES) * PAGE_BYTES,
                          .data = slice_of("dirty", 5)};
    struct buf body = {0};
    assert_int_equal(message_encode_write(&m, &body), 0);
    int rv = cluster_command_at(client->cluster, node, KIND_WRITE, slice_of(body.data, body.len),
                                &result, 2000);
    buf_close(&body);
    if (rv == 0) {
        assert_int_equal(result.code, 0);
        client->acked = ++client->seq;
    }
    return rv;
}

static void what_was_accepted_can_be_checkpointed(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 30, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, 64 * MIB);
    cluster_run_ms(&c, 8000);
    uint32_t leader = cluster_leader(&c, uid);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, OBJECT_BYTES, slice_of(NULL, 0));
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        sim_disk_limit(c.nodes[i].host, ROOM);
    }
    int rv = 0;
    while (rv == 0 && client.seq < OBJECT_BYTES / PAGE_BYTES) {
        rv = touch(&client, leader, ptr);
    }
    assert_int_equal(rv, ERR_DISKFULL);
    assert_true(wal_has_room(c.nodes[leader].wal)); /* the log alone would have gone on */
    assert_in_range(client.seq * PAGE_BYTES, 15 * MIB, ROOM - 16 * MIB);

    /* It sees to the checkpoint by itself, and that one fits. */
    cluster_run_ms(&c, 5000);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        struct shard_info info = cluster_info(&c, i, uid);
        assert_int_equal(info.checkpoint_index, info.applied_index);
        assert_int_equal(dirty_bytes(&c, i, uid), 0);
        assert_int_equal(c.nodes[i].shards_failed, 0);
    }

    int read_err = -1;
    assert_int_equal(cluster_read_at(&c, leader, uid, 2000, &read_err), 0);
    assert_int_equal(read_err, 0);

    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        sim_disk_limit(c.nodes[i].host, 200 * MIB);
    }
    cluster_run_ms(&c, 1500);
    leader = cluster_leader(&c, uid);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(touch(&client, leader, ptr), 0);
    }
    cluster_check_equal(&c, uid);
    cluster_close(&c);
}

static void a_follower_without_room_does_not_stop_the_others(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 31, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, 64 * MIB);
    cluster_run_ms(&c, 8000);
    uint32_t leader = cluster_leader(&c, uid);
    uint32_t full = (leader + 1) % CLUSTER_NODES;
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, OBJECT_BYTES, slice_of(NULL, 0));
    sim_disk_limit(c.nodes[full].host, MIB);
    cluster_run_ms(&c, 1500);
    assert_false(replica_has_room(c.nodes[full].replica));
    assert_true(replica_has_room(c.nodes[leader].replica));
    for (uint32_t i = 0; i < 500; i++) {
        assert_int_equal(touch(&client, leader, ptr), 0);
    }
    /* A checkpoint there fails again and again; with the space comes the next attempt. */
    cluster_run_ms(&c, 9000);
    struct shard_info info = cluster_info(&c, full, uid);
    assert_true(info.checkpoint_index < info.applied_index);
    sim_disk_limit(c.nodes[full].host, 200 * MIB);
    cluster_run_ms(&c, 2500);
    assert_true(replica_has_room(c.nodes[full].replica));
    assert_true(cluster_info(&c, full, uid).checkpoint_index >= info.applied_index);
    cluster_check_equal(&c, uid);
    cluster_close(&c);
}

/* ---- a sole voter ---- */

#define BURST       32u
#define BURST_BYTES (200u << 10)

struct burst {
    struct cluster_client *client;
    struct cluster_node *node;
    uint64_t ptr;
    struct shard_command commands[BURST];
    int errs[BURST]; /* 1: not answered */
};
static struct burst burst;
static uint8_t noise[BURST_BYTES];

static void burst_done(struct shard_command *command, const struct command_result *result)
{
    size_t at = (size_t)(command - burst.commands);
    assert_int_equal(burst.errs[at], 1);
    burst.errs[at] = result->err != 0 ? result->err : result->code;
}

/* All in one turn: nobody has looked at the disk in between. */
static void burst_send(void *arg)
{
    (void)arg;
    struct cluster_client *client = burst.client;
    struct shard *s = replica_shard(burst.node->replica, client->uid);
    for (uint32_t i = 0; i < BURST; i++) {
        struct msg_write m = {.uid = client->uid,
                              .session = client->session,
                              .seq = client->seq + 1 + i,
                              .acked = client->acked,
                              .ptr = burst.ptr,
                              .offset = 0,
                              .data = slice_of(noise, sizeof noise)};
        struct buf body = {0};
        assert_int_equal(message_encode_write(&m, &body), 0);
        burst.commands[i].cb = burst_done;
        burst.errs[i] = 1;
        int rv = shard_propose(s, KIND_WRITE, slice_of(body.data, body.len), CLUSTER_OWNER,
                               &burst.commands[i]);
        buf_close(&body);
        if (rv != 0) {
            burst.errs[i] = rv;
        }
    }
}

/* Nobody else can commit what a sole voter's log has no place for: it isn't taken, rather than
 * taken and in doubt until somebody makes space. */
static void a_sole_voter_leaves_nothing_in_doubt(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 32, 0);
    c.replicas = 1;
    uint64_t uid = cluster_heap(&c, "h", 1, 64 * MIB);
    cluster_run_ms(&c, 8000);
    uint32_t leader = cluster_leader(&c, uid);
    (void)client_open(&client, &c, uid, 1, 64, 60000);
    uint64_t ptr = client_alloc(&client, MIB, slice_of(NULL, 0));
    cluster_run_ms(&c, 100);
    sim_disk_limit(c.nodes[leader].host, 0);
    burst = (struct burst){.client = &client, .node = &c.nodes[leader], .ptr = ptr};
    sim_proc_call(c.nodes[leader].env, burst_send, NULL);
    cluster_run_ms(&c, 5000);
    uint32_t taken = 0;
    uint32_t refused = 0;
    for (uint32_t i = 0; i < BURST; i++) {
        taken += burst.errs[i] == 0;
        refused += burst.errs[i] == ERR_DISKFULL || burst.errs[i] == ERR_BUSY;
    }
    assert_true(taken > 0);
    assert_int_equal(burst.errs[taken], ERR_DISKFULL); /* the first that had no place */
    assert_int_equal(taken + refused, BURST);

    sim_disk_limit(c.nodes[leader].host, 200 * MIB);
    cluster_run_ms(&c, 2500);
    client.seq = BURST;
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(touch(&client, leader, ptr), 0);
    }
    cluster_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_accepted_can_be_checkpointed),
        cmocka_unit_test(a_follower_without_room_does_not_stop_the_others),
        cmocka_unit_test(a_sole_voter_leaves_nothing_in_doubt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
