#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "unit/replica/cluster.h"

#define SMALL_LOG  ((uint64_t)64 << 10)
#define HEAP_BYTES ((uint64_t)16 << 20)

struct number {
    uint64_t ptr, value;
};

static void look_number(void *arg, const struct heap *heap)
{
    struct number *n = arg;
    uint8_t bytes[8];
    assert_int_equal(heap_copy(heap, n->ptr, 0, bytes, sizeof bytes), 0);
    n->value = load_u64(bytes);
}

static uint64_t read_number(struct cluster *c, uint64_t uid, uint64_t ptr)
{
    struct number n = {.ptr = ptr};
    cluster_read(c, uid, look_number, &n);
    return n.value;
}

static void check_all(struct cluster *c, uint64_t uid)
{
    cluster_check_equal(c, SHARD_META);
    if (uid != 0) {
        cluster_check_equal(c, uid);
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_int_equal(c->nodes[i].shards_failed, 0);
    }
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 1, 0);
    uint64_t uid = cluster_heap(&c, "h", 3, HEAP_BYTES);
    assert_true(uid >= SHARD_UID_FIRST);
    for (uint32_t k = 0; k < 3; k++) {
        assert_int_equal(client_open(&client, &c, uid + k, 1, 8, 60000).code, 0);
        uint64_t ptr = client_alloc(&client, 16, slice_of("\1\0\0\0\0\0\0\0", 8));
        assert_int_equal(ptr_shard(ptr), k);
        assert_int_equal(client_add(&client, ptr, 41).value, 1);
        assert_int_equal(read_number(&c, uid + k, ptr), 42);
        assert_int_equal(client_write(&client, ptr, 12, slice_of("12345", 5)).code, ERR_RANGE);
        check_all(&c, uid + k);
    }
    cluster_close(&c);
}

static struct command_result add_as(struct cluster_client *client, uint64_t ptr, uint64_t delta,
                                    uint64_t seq, uint64_t acked)
{
    struct msg_add_u64 m = {.uid = client->uid,
                            .session = client->session,
                            .seq = seq,
                            .acked = acked,
                            .ptr = ptr,
                            .delta = delta};
    struct buf body = {0};
    assert_int_equal(message_encode_add_u64(&m, &body), 0);
    struct command_result result =
        cluster_command(client->cluster, KIND_ADD_U64, slice_of(body.data, body.len));
    buf_close(&body);
    return result;
}

static void a_command_sent_again_is_executed_once(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 2, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    struct command_result opened = client_open(&client, &c, uid, 9, 4, 60000);
    uint64_t session = client.session;
    assert_int_equal(client_open(&client, &c, uid, 9, 4, 60000).code, 0);
    assert_int_equal(client.session, session); /* the same nonce finds the session */
    assert_int_equal(opened.value, session);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));

    struct command_result first = add_as(&client, ptr, 5, 2, 0);
    struct command_result again = add_as(&client, ptr, 5, 2, 0);
    assert_int_equal(first.code, 0);
    assert_memory_equal(&first, &again, sizeof first);
    assert_int_equal(read_number(&c, uid, ptr), 5);
    assert_int_equal(add_as(&client, ptr, 6, 2, 0).code,
                     ERR_PROTOCOL); /* the number with another command */
    assert_int_equal(add_as(&client, ptr, 1, 4, 2).code, 0);
    assert_int_equal(add_as(&client, ptr, 5, 2, 1).code,
                     ERR_INVAL); /* its result was acknowledged */
    assert_int_equal(add_as(&client, ptr, 1, 7, 2).code, ERR_LIMIT); /* the window is 4 */
    assert_int_equal(add_as(&client, ptr, 1, 3, 3).code, ERR_PROTOCOL);
    assert_int_equal(read_number(&c, uid, ptr), 6);

    client.session++;
    assert_int_equal(add_as(&client, ptr, 1, 1, 0).code, ERR_SESSION_EXPIRED);
    check_all(&c, uid);
    cluster_close(&c);
}

static void a_killed_leader_loses_and_doubles_nothing(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 3, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    uint64_t sum = 0;
    for (uint32_t round = 0; round < 6; round++) {
        uint32_t leader = cluster_leader(&c, uid);
        for (uint32_t i = 0; i < 10; i++) {
            sum++;
            assert_int_equal(client_add(&client, ptr, 1).value, sum - 1);
        }
        cluster_kill(&c, leader, round % 2 == 0 ? SIM_SIGKILL : SIM_POWER_LOSS);
        sum++;
        assert_int_equal(client_add(&client, ptr, 1).value, sum - 1);
        cluster_start(&c, leader);
        cluster_run_ms(&c, 500);
    }
    assert_int_equal(read_number(&c, uid, ptr), sum);
    check_all(&c, uid);
    cluster_close(&c);
}

static void lost_messages_delay_but_harm_nothing(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 4, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    c.loss_per_million = 100000;
    (void)client_open(&client, &c, uid, 1, 8, 600000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(client_add(&client, ptr, 1).value, i);
    }
    c.loss_per_million = 0;
    assert_int_equal(read_number(&c, uid, ptr), 100);
    check_all(&c, uid);
    cluster_close(&c);
}

static void an_idle_session_expires_and_a_busy_one_stays(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client idle;
    struct cluster_client busy;
    cluster_open(&c, 5, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&busy, &c, uid, 1, 8, 2000);
    (void)client_open(&idle, &c, uid, 2, 8, 2000);
    uint64_t ptr = client_alloc(&busy, 8, slice_of(NULL, 0));
    assert_int_equal(client_add(&idle, ptr, 1).code, 0);
    for (uint32_t i = 0; i < 20; i++) {
        cluster_run_ms(&c, 500);
        assert_int_equal(client_add(&busy, ptr, 1).code, 0);
    }
    assert_int_equal(client_add(&idle, ptr, 1).code, ERR_SESSION_EXPIRED);
    assert_int_equal(read_number(&c, uid, ptr), 21);
    assert_int_equal(cluster_info(&c, cluster_leader(&c, uid), uid).sessions, 1);
    check_all(&c, uid);
    cluster_close(&c);
}

static void a_retry_after_the_session_expired_gets_its_result(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 16, SMALL_LOG);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 2000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    struct command_result first = add_as(&client, ptr, 5, 2, 1);
    assert_int_equal(first.code, 0);
    cluster_run_ms(&c, 10000); /* the answer was lost, and so was the network */
    uint32_t leader = cluster_leader(&c, uid);
    assert_int_equal(cluster_info(&c, leader, uid).sessions, 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct command_result again = add_as(&client, ptr, 5, 2, 1);
        assert_memory_equal(&first, &again, sizeof first);
        assert_int_equal(add_as(&client, ptr, 7, 3, 1).code, ERR_SESSION_EXPIRED);
        assert_int_equal(read_number(&c, uid, ptr), 5);
        check_all(&c, uid);
        for (uint32_t k = 0; k < CLUSTER_NODES; k++) { /* it is in the arena and the log */
            cluster_kill(&c, k, SIM_POWER_LOSS);
        }
        for (uint32_t k = 0; k < CLUSTER_NODES; k++) {
            cluster_start(&c, k);
        }
    }
    (void)cluster_leader(&c, uid);
    cluster_close(&c);
}

static void a_jump_of_the_clock_expires_nobody(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 6, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 5000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        sim_clock_jump(c.nodes[i].host, 3600 * 1000000ll);
    }
    cluster_run_ms(&c, 2000);
    uint32_t leader = cluster_leader(&c, uid);
    cluster_kill(&c, leader, SIM_SIGKILL);
    cluster_run_ms(&c, 3000);
    cluster_start(&c, leader);
    assert_int_equal(client_add(&client, ptr, 1).code, 0);
    check_all(&c, uid);
    cluster_close(&c);
}

static uint32_t files_below(struct cluster *c, uint32_t i, const char *part)
{
    uint32_t count = 0;
    const char *path;
    for (size_t n = 0; (path = sim_disk_file(c->nodes[i].host, n)) != NULL; n++) {
        count += strstr(path, part) != NULL;
    }
    return count;
}

static void heaps_come_and_go_and_uids_are_never_used_again(void **state)
{
    (void)state;
    struct cluster c;
    struct catalog_heap heap;
    cluster_open(&c, 7, 0);
    uint64_t first = cluster_heap(&c, "one", 20, HEAP_BYTES);
    assert_int_equal(catalog_find(c.nodes[0].replica, slice_of("one", 3), &heap), 0);
    assert_int_equal(heap.shard_count, 20);
    assert_int_equal(heap.replicas, 3);
    uint64_t id = heap.heap_id;
    cluster_heap_drop(&c, "one");
    cluster_run_ms(&c, 2000);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_int_equal(catalog_find(c.nodes[i].replica, slice_of("one", 3), &heap), ERR_NOTFOUND);
        assert_null(replica_shard(c.nodes[i].replica, first));
        assert_null(wal_log_find(c.nodes[i].wal, first));
        assert_int_equal(files_below(&c, i, "shards/0000000000000010/"), 0);
    }
    uint64_t second = cluster_heap(&c, "one", 2, HEAP_BYTES);
    assert_true(second >= first + 20);
    assert_int_equal(catalog_find(c.nodes[0].replica, slice_of("one", 3), &heap), 0);
    assert_true(heap.heap_id > id);
    cluster_run_ms(&c, 20000); /* leaders spread to the first members */
    for (uint32_t k = 0; k < 2; k++) {
        struct catalog_shard shard;
        assert_int_equal(catalog_shard_of(c.nodes[0].replica, slice_of("one", 3), k, &shard), 0);
        assert_int_equal(cluster_leader(&c, second + k) + 1, replica_id_node(shard.members[0]));
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        cluster_kill(&c, i, SIM_POWER_LOSS);
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        cluster_start(&c, i);
    }
    (void)cluster_leader(&c, second);
    check_all(&c, second);
    check_all(&c, second + 1);
    cluster_close(&c);
}

static void fill(struct cluster_client *client, uint64_t ptr, uint32_t writes)
{
    static uint8_t bytes[4096];
    for (uint32_t i = 0; i < writes; i++) {
        memset(bytes, (int)i + 1, sizeof bytes);
        assert_int_equal(
            client_write(client, ptr, (i % 64) * sizeof bytes, slice_of(bytes, sizeof bytes)).code,
            0);
    }
}

static void all_nodes_losing_power_lose_nothing(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    sim_ignore_leaks(true); /* of checkpoints under way */
    cluster_open(&c, 8, SMALL_LOG);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t number = client_alloc(&client, 8, slice_of(NULL, 0));
    uint64_t big = client_alloc(&client, 64 * 4096, slice_of(NULL, 0));
    for (uint32_t round = 0; round < 5; round++) {
        fill(&client, big, 40);
        assert_int_equal(client_add(&client, number, 1).value, round);
        for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
            cluster_kill(&c, i, SIM_POWER_LOSS);
        }
        for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
            cluster_start(&c, i);
        }
    }
    assert_int_equal(read_number(&c, uid, number), 5);
    assert_true(cluster_info(&c, cluster_leader(&c, uid), uid).checkpoint_index > 0);
    check_all(&c, uid);
    cluster_close(&c);
    sim_ignore_leaks(false);
}

/* ---- holds ---- */

static int hold_at(struct cluster *c, uint32_t node, uint64_t uid, uint64_t *hold)
{
    return shard_hold(replica_shard(c->nodes[node].replica, uid), TX_HOLD_MS_MAX, hold);
}

static void writers_are_held_off_for_half_of_the_time_by_the_leader_alone(void **state)
{
    (void)state;
    struct cluster c;
    uint64_t hold;
    cluster_open(&c, 15, SMALL_LOG);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    uint32_t leader = cluster_leader(&c, uid);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        assert_int_equal(hold_at(&c, i, uid, &hold), i == leader ? 0 : ERR_NOTLEADER);
        assert_true((hold != 0) == (i == leader));
    }
    uint32_t given = 0;
    for (uint32_t i = 0; i < 20; i++) { /* one after the other, each until its time is up */
        cluster_run_ms(&c, TX_HOLD_MS_MAX);
        int rv = hold_at(&c, leader, uid, &hold);
        assert_true(rv == 0 || rv == ERR_BUSY);
        given += rv == 0;
    }
    assert_in_range(given, 8, 13); /* half, and what is saved up at first */
    cluster_close(&c);
}

/* ---- commands that cost more than their bytes say ---- */

#define HEAVY 12u

struct heavy {
    struct shard_command commands[HEAVY];
    struct cluster_client *client;
    struct replica *replica;
    uint32_t done;
};

static void heavy_done(struct shard_command *command, const struct command_result *result)
{
    struct heavy *h = command->arg;
    assert_int_equal(result->err, 0);
    assert_int_equal(result->code, 0);
    h->done++;
}

static void heavy_propose(void *arg)
{
    struct heavy *h = arg;
    struct shard *s = replica_shard(h->replica, h->client->uid);
    for (uint32_t i = 0; i < HEAVY; i++) {
        struct msg_defrag m = {.uid = h->client->uid,
                               .session = h->client->session,
                               .seq = i + 1,
                               .bytes = HEAP_DEFRAG_BYTES_MAX};
        struct buf body = {0};
        assert_int_equal(message_encode_defrag(&m, &body), 0);
        h->commands[i].cb = heavy_done;
        h->commands[i].arg = h;
        assert_int_equal(shard_propose(s, KIND_DEFRAG, slice_of(body.data, body.len), CLUSTER_OWNER,
                                       &h->commands[i]),
                         0);
        buf_close(&body);
    }
}

static void heavy_commands_dont_share_one_entry(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    struct replica_counters before;
    struct replica_counters after;
    cluster_open(&c, 11, SMALL_LOG);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, HEAVY, 60000);
    uint32_t leader = cluster_leader(&c, uid);
    struct heavy h = {.client = &client, .replica = c.nodes[leader].replica};
    replica_get_counters(h.replica, &before);
    sim_proc_call(c.nodes[leader].env, heavy_propose, &h);
    cluster_run_ms(&c, 1000);
    replica_get_counters(h.replica, &after);
    assert_int_equal(h.done, HEAVY);
    assert_true(after.batches - before.batches >= HEAVY / 2);
    check_all(&c, uid);
    cluster_close(&c);
}

static void a_replica_too_far_behind_is_filled_by_pages(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    struct replica_counters counters;
    cluster_open(&c, 9, SMALL_LOG);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t big = client_alloc(&client, 64 * 4096, slice_of(NULL, 0));
    for (uint32_t i = 0; i < HEAP_BYTES / 1000000 * 9 / 10; i++) {
        (void)client_alloc(&client, 1000000, slice_of(NULL, 0)); /* addresses reach far up */
    }
    uint32_t behind = (cluster_leader(&c, uid) + 1) % CLUSTER_NODES;
    cluster_kill(&c, behind, SIM_SIGKILL);
    fill(&client, big, 1500);
    cluster_run_ms(&c, 1000);
    assert_true(cluster_info(&c, cluster_leader(&c, uid), uid).first_index > 100);
    cluster_start(&c, behind);
    cluster_run_ms(&c, 5000);
    check_all(&c, uid);
    replica_get_counters(c.nodes[behind].replica, &counters);
    assert_true(counters.snapshots_installed >= 1);
    fill(&client, big, 10);
    cluster_kill(&c, behind, SIM_POWER_LOSS);
    cluster_start(&c, behind);
    check_all(&c, uid);
    cluster_close(&c);
}

static bool is_voter(const struct shard_info *info, uint64_t id)
{
    for (uint32_t i = 0; i < info->config.count; i++) {
        if (info->config.servers[i].id == id) {
            return info->config.servers[i].role == CONSENSUS_VOTER;
        }
    }
    return false;
}

static void a_node_that_lost_its_disk_joins_under_a_new_id(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 10, SMALL_LOG);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t big = client_alloc(&client, 64 * 4096, slice_of(NULL, 0));
    fill(&client, big, 300);
    cluster_kill(&c, 2, SIM_POWER_LOSS);
    sim_disk_wipe(c.nodes[2].host);

    struct msg_node_join join = {.uid = SHARD_META, .node = 3, .node_uid = 4711};
    struct buf body = {0};
    assert_int_equal(message_encode_node_join(&join, &body), 0);
    struct command_result result =
        cluster_command(&c, KIND_NODE_JOIN, slice_of(body.data, body.len));
    assert_int_equal(result.code, 0);
    assert_int_equal(result.value, replica_id_make(1, 3));
    assert_int_equal(cluster_command(&c, KIND_NODE_JOIN, slice_of(body.data, body.len)).value,
                     replica_id_make(1, 3));
    buf_close(&body);

    c.nodes[2].founding = false;
    c.nodes[2].self_id = replica_id_make(1, 3);
    cluster_start(&c, 2);
    cluster_run_ms(&c, 15000);
    const uint64_t uids[] = {SHARD_META, uid};
    for (uint32_t k = 0; k < 2; k++) {
        struct shard_info info = cluster_info(&c, cluster_leader(&c, uids[k]), uids[k]);
        assert_int_equal(info.config.count, 3);
        assert_true(is_voter(&info, replica_id_make(1, 3)));
        assert_false(is_voter(&info, replica_id_make(0, 3)));
    }
    check_all(&c, uid);
    /* A shard made now counts it among its founders. */
    uint64_t later = cluster_heap(&c, "later", 1, HEAP_BYTES);
    (void)cluster_leader(&c, later);
    check_all(&c, later);
    /* And with it alone the others may change. */
    cluster_kill(&c, 0, SIM_SIGKILL);
    fill(&client, big, 5);
    cluster_kill(&c, 2, SIM_POWER_LOSS);
    cluster_start(&c, 2);
    cluster_start(&c, 0);
    fill(&client, big, 5);
    check_all(&c, uid);
    cluster_close(&c);
}

static void press(void *arg)
{
    struct cluster_node *node = arg;
    replica_log_pressure(node->replica, wal_log_find(node->wal, SHARD_META));
}

static void checkpoint_meta(void *arg)
{
    struct cluster_node *node = arg;
    (void)shard_checkpoint(replica_shard(node->replica, SHARD_META));
}

static void a_log_released_under_pressure_does_not_keep_a_replica_empty(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 15, 0);
    (void)cluster_heap(&c, "h", 1, HEAP_BYTES);
    cluster_run_ms(&c, 2000);
    uint32_t leader = cluster_leader(&c, SHARD_META);
    uint32_t lost = (leader + 1) % CLUSTER_NODES;
    cluster_kill(&c, lost, SIM_POWER_LOSS);
    sim_disk_wipe(c.nodes[lost].host);
    struct msg_node_join join = {.uid = SHARD_META, .node = lost + 1, .node_uid = 4711};
    struct buf body = {0};
    assert_int_equal(message_encode_node_join(&join, &body), 0);
    uint64_t id = cluster_command(&c, KIND_NODE_JOIN, slice_of(body.data, body.len)).value;
    buf_close(&body);
    cluster_run_ms(&c, 3000);
    leader = cluster_leader(&c, SHARD_META);
    /* A checkpoint, and the same one again for the log's sake. */
    sim_proc_call(c.nodes[leader].env, checkpoint_meta, &c.nodes[leader]);
    cluster_run_ms(&c, 300);
    struct shard_info before = cluster_info(&c, leader, SHARD_META);
    assert_int_equal(before.checkpoint_index, before.applied_index);
    assert_int_equal(before.first_index, 1);
    sim_proc_call(c.nodes[leader].env, press, &c.nodes[leader]);
    cluster_run_ms(&c, 300);
    assert_true(cluster_info(&c, leader, SHARD_META).first_index > 1);
    c.nodes[lost].founding = false;
    c.nodes[lost].self_id = id;
    cluster_start(&c, lost);
    cluster_run_ms(&c, 15000);
    struct shard_info info = cluster_info(&c, cluster_leader(&c, SHARD_META), SHARD_META);
    assert_true(is_voter(&info, id));
    check_all(&c, 0);
    cluster_close(&c);
}

static void a_leader_that_is_cut_off_answers_no_read(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    int err = 0;
    cluster_open(&c, 11, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    uint32_t old = cluster_leader(&c, uid);
    assert_int_equal(cluster_read_at(&c, old, uid, 5000, &err), 0);
    assert_int_equal(err, 0);
    c.nodes[old].cut = true;
    assert_int_equal(cluster_read_at(&c, old, uid, 5000, &err), 0);
    assert_true(err == ERR_UNAVAILABLE || err == ERR_NOTLEADER);
    assert_int_equal(client_add(&client, ptr, 1).code, 0); /* by the other two */
    assert_int_not_equal(cluster_leader(&c, uid), old);
    c.nodes[old].cut = false;
    cluster_run_ms(&c, 1000);
    check_all(&c, uid);
    cluster_close(&c);
}

/* A round asks one of the two others; whichever of them is gone, reads go on by the other. */
static void reads_go_on_when_the_voter_that_was_asked_is_gone(void **state)
{
    (void)state;
    struct cluster c;
    int err = 0;
    cluster_open(&c, 12, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    cluster_run_ms(&c, 3000);
    uint32_t leader = cluster_leader(&c, uid);
    for (uint32_t i = 0; i < 3; i++) {
        if (i == leader) {
            continue;
        }
        c.nodes[i].cut = true;
        for (int k = 0; k < 20; k++) {
            assert_int_equal(cluster_read_at(&c, leader, uid, 20, &err), 0);
            assert_int_equal(err, 0);
            cluster_run_ms(&c, 50);
        }
        c.nodes[i].cut = false;
        cluster_run_ms(&c, 2000);
        assert_int_equal(cluster_leader(&c, uid), leader);
    }
    cluster_close(&c);
}

static struct command_result retain(struct cluster_client *client, uint64_t ms)
{
    struct msg_set_retention m = {.uid = client->uid, .retention_ms = ms};
    struct buf body = {0};
    assert_int_equal(message_encode_set_retention(&m, &body), 0);
    return client_command(client, KIND_SET_RETENTION, &body);
}

static void the_newest_writers_are_found_in_a_long_log(void **state)
{
    (void)state;
    static uint8_t bytes[64 << 10];
    struct cluster c;
    struct cluster_client client;
    struct shard_writer writers[64];
    size_t count = 0;
    uint64_t from = 0;
    cluster_open(&c, 21, (uint64_t)64 << 20);
    uint64_t uid = cluster_heap(&c, "h", 1, (uint64_t)64 << 20);
    (void)client_open(&client, &c, uid, 77, 8, 60000);
    assert_int_equal(retain(&client, 600000).code, 0);
    uint64_t small = client_alloc(&client, 8, slice_of(NULL, 0));
    uint64_t large = client_alloc(&client, sizeof bytes, slice_of(NULL, 0));
    assert_int_equal(client_add(&client, small, 1).code, 0);
    for (uint32_t i = 0; i < 150; i++) { /* more than is read again */
        memset(bytes, (int)i + 1, sizeof bytes);
        assert_int_equal(client_write(&client, large, 0, slice_of(bytes, sizeof bytes)).code, 0);
    }
    assert_int_equal(client_add(&client, small, 1).code, 0);
    struct shard *shard = replica_shard(c.nodes[cluster_leader(&c, uid)].replica, uid);
    assert_int_equal(shard_writers(shard, small, writers, 64, &count, &from), 0);
    assert_true(count >= 2);
    assert_int_equal(writers[0].session, client.session);
    assert_int_equal(writers[0].kind, KIND_ADD_U64);
    assert_int_equal(writers[1].session, 0);
    assert_true(from > 1);
    cluster_close(&c);
}

struct moment {
    uint64_t ptr, at, clock, value;
    int rv;
};

static void look_moment(void *arg, const struct heap *heap)
{
    struct moment *m = arg;
    uint8_t bytes[8];
    m->clock = heap_clock(heap);
    m->rv = heap_read_at(heap, m->at, m->ptr, 0, bytes, sizeof bytes);
    m->value = m->rv == 0 ? load_u64(bytes) : 0;
}

static void a_read_at_a_version_waits_for_the_clock_and_never_moves_it(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    int err = 0;
    cluster_open(&c, 31, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    assert_int_equal(retain(&client, 60000).code, 0);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    struct command_result first = client_add(&client, ptr, 1);
    (void)client_add(&client, ptr, 1);
    struct moment m = {.ptr = ptr, .at = first.version};
    cluster_read_version(&c, uid, m.at, 5000, look_moment, &m, &err);
    assert_int_equal(err, 0);
    assert_int_equal(m.rv, 0);
    assert_int_equal(m.value, 1);

    /* Half a second ahead: answered when an entry has carried the clock there, not before. */
    uint64_t clock = m.clock;
    uint64_t began = sim_now_ns(c.sim);
    m.at = hlc_from_ms(hlc_to_ms(clock) + 500);
    cluster_read_version(&c, uid, m.at, 5000, look_moment, &m, &err);
    assert_int_equal(err, 0);
    assert_true(m.clock >= m.at);
    assert_int_equal(m.value, 2);
    assert_true(sim_now_ns(c.sim) - began > 100 * SIM_MS);
    assert_true(sim_now_ns(c.sim) - began < 1500 * SIM_MS);

    /* Far ahead: refused, and the clock stays where it was. */
    clock = m.clock;
    m.at = hlc_from_ms(hlc_to_ms(clock) + 100000);
    cluster_read_version(&c, uid, m.at, 5000, look_moment, &m, &err);
    assert_int_equal(err, ERR_INVAL);
    m.at = first.version;
    cluster_read_version(&c, uid, m.at, 5000, look_moment, &m, &err);
    assert_true(m.clock < hlc_from_ms(hlc_to_ms(clock) + 50000));
    check_all(&c, uid);
    cluster_close(&c);
}

static void look_undo(void *arg, const struct heap *heap)
{
    heap_get_stats(heap, arg);
}

static void a_leader_gives_history_back_when_its_time_is_over(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    struct heap_stats stats;
    cluster_open(&c, 32, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    assert_int_equal(retain(&client, 5000).code, 0);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    for (uint32_t i = 0; i < 3000; i++) {
        assert_int_equal(client_add(&client, ptr, 1).code, 0);
    }
    cluster_read(&c, uid, look_undo, &stats);
    assert_true(stats.undo_count > HEAP_RECLAIM_RECORDS_MAX);
    cluster_kill(&c, cluster_leader(&c, uid), SIM_SIGKILL); /* the next one goes on with it */
    cluster_run_ms(&c, 12000);
    cluster_read(&c, uid, look_undo, &stats);
    assert_int_equal(stats.undo_count, 0);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (c.nodes[i].env == NULL) {
            cluster_start(&c, i);
        }
    }
    /* With nothing to give back, a quiet shard writes nothing. */
    cluster_run_ms(&c, 3000);
    uint64_t last = cluster_info(&c, cluster_leader(&c, uid), uid).last_index;
    cluster_run_ms(&c, 10000);
    assert_int_equal(cluster_info(&c, cluster_leader(&c, uid), uid).last_index, last);
    check_all(&c, uid);
    cluster_close(&c);
}

struct waiting {
    struct cluster_node *node;
    uint64_t uid;
    struct shard_checkpoint_wait wait;
    int calls, err;
    bool hold;
};

static void on_checkpoint(struct shard_checkpoint_wait *wait, int err)
{
    struct waiting *w = container_of(wait, struct waiting, wait);
    w->calls++;
    w->err = err;
}

static void checkpoint_for(void *arg)
{
    struct waiting *w = arg;
    w->wait.cb = on_checkpoint;
    shard_checkpoint_for(replica_shard(w->node->replica, w->uid), &w->wait);
    assert_int_equal(w->calls, 0);
}

static void hold_image(void *arg)
{
    struct waiting *w = arg;
    shard_hold_image(replica_shard(w->node->replica, w->uid), w->hold);
}

static void a_checkpoint_is_waited_for_and_held_off(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 33, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    uint32_t node = cluster_leader(&c, uid);
    struct env *env = c.nodes[node].env;
    struct waiting w = {.node = &c.nodes[node], .uid = uid};
    sim_proc_call(env, checkpoint_for, &w);
    cluster_run_ms(&c, 500);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.err, 0);
    assert_true(w.wait.pages_written > 0);
    assert_true(w.wait.index == cluster_info(&c, node, uid).checkpoint_index);

    /* Up to date already. */
    w.calls = 0;
    sim_proc_call(env, checkpoint_for, &w);
    cluster_run_ms(&c, 500);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.wait.pages_written, 0);
    assert_true(w.wait.pages_total > 0);

    /* Held: it waits, however much is asked for. */
    assert_int_equal(client_add(&client, ptr, 1).code, 0);
    w.calls = 0;
    w.hold = true;
    sim_proc_call(env, hold_image, &w);
    sim_proc_call(env, checkpoint_for, &w);
    cluster_run_ms(&c, 5000);
    assert_int_equal(w.calls, 0);
    w.hold = false;
    sim_proc_call(env, hold_image, &w);
    cluster_run_ms(&c, 500);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.err, 0);

    /* A shard that goes tells who waits for it. */
    assert_int_equal(client_add(&client, ptr, 1).code, 0);
    w.calls = 0;
    w.hold = true;
    sim_proc_call(env, hold_image, &w);
    sim_proc_call(env, checkpoint_for, &w);
    cluster_heap_drop(&c, "h");
    cluster_run_ms(&c, 1000);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.err, ERR_NOSHARD);
    check_all(&c, 0);
    cluster_close(&c);
}

static void stop_done(void *arg)
{
    struct cluster_node *node = arg;
    node->stopped = true;
}

static void stop_start(void *arg)
{
    struct cluster_node *node = arg;
    replica_stop(node->replica, 2000, stop_done, node);
}

static void a_node_that_stops_hands_its_shards_over(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 12, 0);
    uint64_t uid = cluster_heap(&c, "h", 3, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    uint64_t sum = 0;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        cluster_run_ms(&c, 1000);
        uint64_t term = cluster_info(&c, cluster_leader(&c, uid), uid).term;
        bool led = cluster_leader(&c, uid) == i;
        sim_proc_call(c.nodes[i].env, stop_start, &c.nodes[i]);
        uint64_t began = sim_now_ns(c.sim);
        for (uint32_t k = 0; k < 5; k++) {
            assert_int_equal(client_add(&client, ptr, 1).value, sum++);
        }
        while (!c.nodes[i].stopped) {
            cluster_run_ms(&c, 10);
        }
        assert_true(sim_now_ns(c.sim) - began < 1000 * SIM_MS);
        assert_int_not_equal(cluster_leader(&c, uid), i);
        assert_true(!led || cluster_info(&c, cluster_leader(&c, uid), uid).term == term + 1);
        cluster_kill(&c, i, SIM_SIGKILL);
        cluster_start(&c, i);
    }
    assert_int_equal(read_number(&c, uid, ptr), sum);
    check_all(&c, uid);
    cluster_close(&c);
}

struct noise {
    struct cluster *cluster;
    struct cluster_node *node;
    uint8_t bytes[256];
    size_t len;
};

static void noise_in(void *arg)
{
    struct noise *n = arg;
    uint16_t kind = 0;
    struct buf out = {0};
    (void)replica_receive(n->node->replica, n->node->number % 3 + 1, slice_of(n->bytes, n->len));
    (void)replica_bulk_serve(n->node->replica, n->node->number % 3 + 1,
                             (uint16_t)(KIND_PAGES_OPEN + n->bytes[0] % 5),
                             slice_of(n->bytes, n->len), &kind, &out);
    buf_close(&out);
}

static void bytes_that_mean_nothing_are_refused(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 13, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    for (uint32_t i = 0; i < 3000; i++) {
        struct noise n = {.cluster = &c, .node = &c.nodes[i % CLUSTER_NODES]};
        n.len = sim_below(c.sim, sizeof n.bytes);
        for (size_t k = 0; k < n.len; k++) {
            n.bytes[k] = (uint8_t)sim_random(c.sim);
        }
        if (n.len >= 30 && i % 2 == 0) {
            /* A frame that holds, with a body for the shard. */
            store_u16(n.bytes, (uint16_t)(KIND_RAFT + i % 3));
            store_u32(n.bytes + 2, (uint32_t)(n.len - 6));
            store_u64(n.bytes + 6, uid);
            store_u64(n.bytes + 14, replica_id_make(0, n.node->number % 3 + 1));
            store_u64(n.bytes + 22, n.node->self_id);
        }
        sim_proc_call(n.node->env, noise_in, &n);
    }
    assert_int_equal(client_add(&client, ptr, 1).code, 0);
    struct command_result result = {0};
    uint32_t leader = cluster_leader(&c, uid);
    uint8_t junk[64] = {0};
    store_u64(junk, uid);
    for (uint16_t kind = 0; kind < KIND_LIMIT; kind++) {
        assert_int_not_equal(
            cluster_command_at(&c, leader, kind, slice_of(junk, sizeof junk), &result, 100), 0);
    }
    check_all(&c, uid);
    cluster_close(&c);
}

static void a_failed_sync_stops_that_node_alone(void **state)
{
    (void)state;
    struct cluster c;
    struct cluster_client client;
    cluster_open(&c, 14, 0);
    uint64_t uid = cluster_heap(&c, "h", 1, HEAP_BYTES);
    (void)client_open(&client, &c, uid, 1, 8, 60000);
    uint64_t ptr = client_alloc(&client, 8, slice_of(NULL, 0));
    uint32_t leader = cluster_leader(&c, uid);
    sim_disk_fail_sync(c.nodes[leader].host, 0);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(client_add(&client, ptr, 1).value, i);
    }
    assert_true(c.nodes[leader].shards_failed >= 2);
    assert_true(cluster_info(&c, leader, uid).failed);
    cluster_kill(&c, leader, SIM_POWER_LOSS);
    sim_disk_heal(c.nodes[leader].host);
    cluster_start(&c, leader);
    assert_int_equal(read_number(&c, uid, ptr), 20);
    cluster_check_equal(&c, uid);
    cluster_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_command_sent_again_is_executed_once),
        cmocka_unit_test(a_killed_leader_loses_and_doubles_nothing),
        cmocka_unit_test(lost_messages_delay_but_harm_nothing),
        cmocka_unit_test(an_idle_session_expires_and_a_busy_one_stays),
        cmocka_unit_test(a_retry_after_the_session_expired_gets_its_result),
        cmocka_unit_test(a_jump_of_the_clock_expires_nobody),
        cmocka_unit_test(heaps_come_and_go_and_uids_are_never_used_again),
        cmocka_unit_test(all_nodes_losing_power_lose_nothing),
        cmocka_unit_test(the_newest_writers_are_found_in_a_long_log),
        cmocka_unit_test(writers_are_held_off_for_half_of_the_time_by_the_leader_alone),
        cmocka_unit_test(heavy_commands_dont_share_one_entry),
        cmocka_unit_test(a_replica_too_far_behind_is_filled_by_pages),
        cmocka_unit_test(a_node_that_lost_its_disk_joins_under_a_new_id),
        cmocka_unit_test(a_log_released_under_pressure_does_not_keep_a_replica_empty),
        cmocka_unit_test(a_leader_that_is_cut_off_answers_no_read),
        cmocka_unit_test(reads_go_on_when_the_voter_that_was_asked_is_gone),
        cmocka_unit_test(a_read_at_a_version_waits_for_the_clock_and_never_moves_it),
        cmocka_unit_test(a_leader_gives_history_back_when_its_time_is_over),
        cmocka_unit_test(a_checkpoint_is_waited_for_and_held_off),
        cmocka_unit_test(a_node_that_stops_hands_its_shards_over),
        cmocka_unit_test(bytes_that_mean_nothing_are_refused),
        cmocka_unit_test(a_failed_sync_stops_that_node_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
