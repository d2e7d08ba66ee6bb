/* WATCH of a shard whose replica has stopped for good: because its image could not be opened, and
 * because a damaged page was met while somebody waited. It is refused, the node goes on, and
 * another replica continues from the token. */
#include "support/test.h"

#include <stdio.h>

#include "alloc/engine.h"
#include "base/log.h"
#include "unit/coord/world.h"

#define FROM_NOW   0u
#define FROM_TOKEN 1u
#define ALL        5u

static struct world w;
static uint64_t object; /* on shard 0 */

static int begin(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    sim_ignore_leaks(true); /* nodes are killed */
    world_open(&w, 4243);
    world_run_ms(&w, 10000); /* leaders have come to where they stay */
    struct msg_set_retention m = {
        .uid = w.uids[0], .session = w.sessions[0], .seq = ++w.seqs[0], .retention_ms = 600000};
    struct buf body = {0};
    assert_int_equal(message_encode_set_retention(&m, &body), 0);
    assert_int_equal(world_command(&w, w.uids[0], KIND_SET_RETENTION, &body).code, 0);
    object = world_alloc(&w, 0, 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    world_close(&w);
    sim_ignore_leaks(false);
    return 0;
}

static void write_value(uint64_t value)
{
    struct buf body = {0};
    uint8_t bytes[8];
    store_u64(bytes, value);
    struct msg_write m = {.uid = w.uids[0],
                          .session = w.sessions[0],
                          .seq = ++w.seqs[0],
                          .ptr = object,
                          .data = slice_of(bytes, sizeof bytes)};
    assert_int_equal(message_encode_write(&m, &body), 0);
    assert_int_equal(world_command(&w, w.uids[0], KIND_WRITE, &body).code, 0);
}

static struct answer *ask(uint32_t node, uint8_t from, uint64_t token, uint32_t wait_ms)
{
    struct msg_watch m = {.uid = w.uids[0],
                          .from = from,
                          .token = token,
                          .wait_ms = wait_ms,
                          .max = 1000,
                          .bytes_max = 1u << 20,
                          .what = ALL,
                          .values = 1};
    struct buf body = {0};
    assert_int_equal(message_encode_watch(&m, &body), 0);
    struct answer *a = world_send(&w, node, KIND_WATCH, slice_of(body.data, body.len));
    buf_close(&body);
    assert_non_null(a);
    return a;
}

/* *changes: bytes of them. */
static uint64_t token_of(struct answer *a, size_t *changes)
{
    struct msg_watch_result m;
    assert_true(world_wait(&w, a, 5000));
    assert_int_equal(a->kind, KIND_WATCH_RESULT);
    assert_int_equal(message_decode_watch_result(slice_of(a->body.data, a->body.len), &m), 0);
    *changes = m.changes.len;
    world_answer_free(a);
    return m.token;
}

static int refusal(struct answer *a)
{
    struct msg_error e;
    assert_true(world_wait(&w, a, 2000));
    assert_int_equal(a->kind, KIND_ERROR);
    assert_int_equal(message_decode_error(slice_of(a->body.data, a->body.len), &e), 0);
    world_answer_free(a);
    return -(int)e.code;
}

static struct shard_info info_of(uint32_t node)
{
    struct shard_info info = {0};
    struct shard *s = replica_shard(node_replica(w.nodes[node].node), w.uids[0]);
    assert_non_null(s);
    shard_get_info(s, &info);
    return info;
}

static void checkpoint_in(void *arg)
{
    uint32_t node = *(const uint32_t *)arg;
    (void)shard_checkpoint(replica_shard(node_replica(w.nodes[node].node), w.uids[0]));
}

static void a_shard_that_could_not_be_opened_is_not_watched(void **state)
{
    (void)state;
    char super[64];
    size_t changes;
    uint32_t node = (world_leader(&w, w.uids[0]) + 1) % WORLD_NODES;
    uint64_t token = token_of(ask(world_leader(&w, w.uids[0]), FROM_NOW, 0, 0), &changes);
    write_value(1);
    world_run_ms(&w, 500);
    sim_proc_call(w.nodes[node].env, checkpoint_in, &node);
    world_run_ms(&w, 1000);
    assert_true(info_of(node).checkpoint_index > 0);
    world_kill(&w, node);
    (void)snprintf(super, sizeof super, "%016llx/super", (unsigned long long)w.uids[0]);
    for (int i = 0; i < 4000; i++) {
        assert_true(sim_disk_flip_bit(w.nodes[node].host, super));
    }
    world_start(&w, node);
    world_run_ms(&w, 3000);
    assert_true(info_of(node).failed);
    assert_null(world_heap(&w, node, w.uids[0]));
    for (uint8_t from = FROM_NOW; from <= FROM_TOKEN; from++) {
        assert_int_equal(refusal(ask(node, from, token, 1000)), ERR_IO);
    }
    assert_non_null(w.nodes[node].node); /* it goes on */
    (void)token_of(ask(world_leader(&w, w.uids[0]), FROM_TOKEN, token, 0), &changes);
    assert_true(changes > 0);
}

/* As a worker or a read finds it. */
static void damage_in(void *arg)
{
    uint32_t node = *(const uint32_t *)arg;
    const struct heap *heap = world_heap(&w, node, w.uids[0]);
    ((struct heap *)(uintptr_t)heap)->arena.damage = ERR_CORRUPT;
}

static void who_waits_for_a_shard_that_is_found_damaged_is_told(void **state)
{
    (void)state;
    size_t changes;
    uint32_t leader = world_leader(&w, w.uids[0]);
    uint64_t token = token_of(ask(leader, FROM_NOW, 0, 0), &changes);
    struct answer *waits = ask(leader, FROM_TOKEN, token, 30000);
    world_run_ms(&w, 100);
    assert_false(waits->done);
    sim_proc_call(w.nodes[leader].env, damage_in, &leader);
    world_run_ms(&w, 60);
    assert_true(waits->done); /* at once, and not by the sweep */
    assert_int_equal(refusal(waits), ERR_IO);
    assert_true(info_of(leader).failed);
    assert_int_equal(refusal(ask(leader, FROM_TOKEN, token, 30000)), ERR_IO);

    write_value(2); /* at the next leader */
    uint32_t next = world_leader(&w, w.uids[0]);
    assert_int_not_equal(next, leader);
    (void)token_of(ask(next, FROM_TOKEN, token, 0), &changes);
    assert_true(changes > 0);
}

/* Damage that is met while the changes are put together: what stands there isn't given out. */
static void what_a_damaged_shard_says_of_its_past_is_not_told(void **state)
{
    (void)state;
    size_t changes;
    uint32_t leader = world_leader(&w, w.uids[0]);
    uint64_t token = token_of(ask(leader, FROM_NOW, 0, 0), &changes);
    write_value(3);
    struct answer *a = ask(leader, FROM_TOKEN, token, 1000);
    uint64_t applied = info_of(leader).applied_index;
    sim_proc_call(w.nodes[leader].env, damage_in, &leader); /* before it is there */
    int err = refusal(a);
    assert_true(err == ERR_CORRUPT || err == ERR_IO);
    assert_int_equal(info_of(leader).applied_index, applied);
    world_run_ms(&w, 100);
    assert_true(info_of(leader).failed);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(a_shard_that_could_not_be_opened_is_not_watched),
        TEST(who_waits_for_a_shard_that_is_found_damaged_is_told),
        TEST(what_a_damaged_shard_says_of_its_past_is_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
