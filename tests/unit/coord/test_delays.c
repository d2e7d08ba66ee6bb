/* How many messages follow one another before a client has its answer. Every way between two
 * machines takes as long, and so much longer than disks and timers that the time of an answer
 * counts them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "replica/replica.h"
#include "unit/alloc/txn_part.h"
#include "unit/coord/world.h"

#define WAY_NS (40 * SIM_MS)
#define ROUNDS 8u

/* client -> leader -> follower -> leader -> client */
#define WAYS_OF_A_WRITE 4u
/* client -> coordinator -> the other leader -> follower -> the other leader -> coordinator ->
 * client; what the coordinator's own shard needs happens meanwhile. */
#define WAYS_OF_TWO_SHARDS 6u

static void stretch(struct world *w)
{
    struct sim_host *hosts[WORLD_NODES + 1] = {w->client_host};
    for (uint32_t i = 0; i < WORLD_NODES; i++) {
        hosts[i + 1] = w->nodes[i].host;
    }
    for (uint32_t i = 0; i <= WORLD_NODES; i++) {
        for (uint32_t k = 0; k <= WORLD_NODES; k++) {
            if (i != k) {
                sim_net_link(hosts[i], hosts[k], WAY_NS, 0, UINT64_MAX);
            }
        }
    }
}

/* Sends a command to a shard's leader; how many ways it took until the answer is here. */
static uint32_t ways_of(struct world *w, uint32_t shard, uint16_t kind, struct buf *body)
{
    uint32_t leader = world_leader(w, w->uids[shard]);
    struct msg_result result;
    uint64_t began = sim_now_ns(w->sim);
    struct answer *a = world_send(w, leader, kind, slice_of(body->data, body->len));
    assert_non_null(a);
    while (!a->done) {
        assert_true(sim_step(w->sim));
    }
    uint64_t ns = sim_now_ns(w->sim) - began;
    assert_int_equal(a->kind, KIND_RESULT);
    assert_int_equal(message_decode_result(slice_of(a->body.data, a->body.len), &result), 0);
    assert_int_equal(result.code, 0);
    world_answer_free(a);
    buf_close(body);
    assert_true(ns % WAY_NS < WAY_NS / 2);
    return (uint32_t)(ns / WAY_NS);
}

static void add_part(struct world *w, struct buf *parts, uint32_t shard, uint64_t ptr,
                     uint64_t value)
{
    static struct part part;
    uint8_t bytes[8];
    uint8_t head[12];
    store_u64(bytes, value);
    part_begin(&part, 0);
    part_write(&part, ptr, 0, slice_of(bytes, sizeof bytes));
    store_u64(head, w->uids[shard]);
    store_u32(head + 8, (uint32_t)part.len);
    assert_int_equal(buf_append(parts, head, sizeof head), 0);
    assert_int_equal(buf_append(parts, part.bytes, part.len), 0);
}

static uint32_t write_one(struct world *w, uint32_t shard, uint64_t ptr, uint64_t value)
{
    uint8_t bytes[8];
    struct buf body = {0};
    store_u64(bytes, value);
    struct msg_write m = {.uid = w->uids[shard],
                          .session = w->sessions[shard],
                          .seq = ++w->seqs[shard],
                          .ptr = ptr,
                          .data = slice_of(bytes, sizeof bytes)};
    assert_int_equal(message_encode_write(&m, &body), 0);
    return ways_of(w, shard, KIND_WRITE, &body);
}

/* Home is the first. */
static uint32_t write_two(struct world *w, const uint32_t shards[2], const uint64_t *ptrs,
                          uint64_t value)
{
    struct buf parts = {0};
    struct buf body = {0};
    uint32_t home = shards[0];
    add_part(w, &parts, shards[0], ptrs[shards[0]], value);
    add_part(w, &parts, shards[1], ptrs[shards[1]], value);
    const struct heap *heap = world_heap(w, world_leader(w, w->uids[home]), w->uids[home]);
    struct msg_tx_commit m = {.uid = w->uids[home],
                              .session = w->sessions[home],
                              .seq = ++w->seqs[home],
                              .deadline = heap_clock(heap) + hlc_from_ms(5000),
                              .parts = slice_of(parts.data, parts.len)};
    assert_int_equal(message_encode_tx_commit(&m, &body), 0);
    buf_close(&parts);
    return ways_of(w, home, KIND_TX_COMMIT, &body);
}

/* One after the other, so that each meets what the one before has left to do. */
static void an_answer_takes_one_replicated_round(void **state)
{
    (void)state;
    static struct world w;
    uint64_t ptrs[WORLD_SHARDS];
    const uint32_t there[2] = {0, 1};
    const uint32_t back[2] = {1, 0};
    world_open(&w, 4);
    assert_int_not_equal(world_leader(&w, w.uids[0]), world_leader(&w, w.uids[1]));
    for (uint32_t i = 0; i < 2; i++) {
        ptrs[i] = world_alloc(&w, i, 0);
    }
    stretch(&w);
    world_run_ms(&w, 2000);
    for (uint64_t k = 1; k <= ROUNDS; k++) {
        assert_int_equal(write_one(&w, 0, ptrs[0], k), WAYS_OF_A_WRITE);
    }
    world_run_ms(&w, 1000);
    for (uint64_t k = 1; k <= ROUNDS; k++) {
        assert_int_equal(write_two(&w, there, ptrs, k), WAYS_OF_TWO_SHARDS);
    }
    world_run_ms(&w, 1000);
    for (uint64_t k = 1; k <= ROUNDS; k++) {
        assert_int_equal(write_two(&w, k % 2 == 0 ? there : back, ptrs, k), WAYS_OF_TWO_SHARDS);
    }
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_takes_one_replicated_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
