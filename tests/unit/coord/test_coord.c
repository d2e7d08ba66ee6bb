/* Transactions over several shards, through real nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "coord/coord.h"
#include "replica/replica.h"
#include "unit/alloc/txn_part.h"
#include "unit/coord/world.h"

/* A transaction that sets one object on each of `count` shards, in the session of the first. */
struct transfer {
    uint32_t shards[WORLD_SHARDS];
    uint64_t ptrs[WORLD_SHARDS];
    uint64_t versions[WORLD_SHARDS]; /* 0: not checked */
    uint32_t count;
    uint64_t seq; /* 0: the next one */
    uint64_t value;
};

static struct buf encode(struct world *w, struct transfer *t)
{
    static struct part part;
    struct buf parts = {0};
    struct buf body = {0};
    uint8_t bytes[8];
    uint32_t home = t->shards[0];
    store_u64(bytes, t->value);
    for (uint32_t i = 0; i < t->count; i++) {
        part_begin(&part, 0);
        if (t->versions[i] != 0) {
            part_check(&part, t->ptrs[i], t->versions[i], TXN_EQUAL);
        }
        part_write(&part, t->ptrs[i], 0, slice_of(bytes, sizeof bytes));
        uint8_t head[12];
        store_u64(head, w->uids[t->shards[i]]);
        store_u32(head + 8, (uint32_t)part.len);
        assert_int_equal(buf_append(&parts, head, sizeof head), 0);
        assert_int_equal(buf_append(&parts, part.bytes, part.len), 0);
    }
    if (t->seq == 0) {
        t->seq = ++w->seqs[home];
    }
    const struct heap *heap = world_heap(w, world_leader(w, w->uids[home]), w->uids[home]);
    struct msg_tx_commit m = {.uid = w->uids[home],
                              .session = w->sessions[home],
                              .seq = t->seq,
                              .acked = 0,
                              .deadline = heap_clock(heap) + hlc_from_ms(5000),
                              .parts = slice_of(parts.data, parts.len)};
    assert_int_equal(message_encode_tx_commit(&m, &body), 0);
    buf_close(&parts);
    return body;
}

static struct msg_result commit(struct world *w, struct transfer *t)
{
    struct buf body = encode(w, t);
    return world_command(w, w->uids[t->shards[0]], KIND_TX_COMMIT, &body);
}

static struct msg_result settle(struct world *w, uint32_t home, uint64_t seq)
{
    struct msg_tx_settle m = {.uid = w->uids[home],
                              .session = w->sessions[home],
                              .seq = ++w->seqs[home],
                              .tx_session = w->sessions[home],
                              .tx_seq = seq};
    struct buf body = {0};
    assert_int_equal(message_encode_tx_settle(&m, &body), 0);
    return world_command(w, w->uids[home], KIND_TX_SETTLE, &body);
}

static struct txn_counts counts_of(struct world *w, uint32_t shard)
{
    struct txn_counts counts;
    txn_count(world_heap(w, world_leader(w, w->uids[shard]), w->uids[shard]), &counts);
    return counts;
}

static void keepalive(struct world *w, uint32_t shard, uint64_t acked)
{
    struct msg_session_keepalive m = {
        .uid = w->uids[shard], .session = w->sessions[shard], .acked = acked};
    struct buf body = {0};
    assert_int_equal(message_encode_session_keepalive(&m, &body), 0);
    assert_int_equal(world_command(w, w->uids[shard], KIND_SESSION_KEEPALIVE, &body).code, 0);
}

static void a_commit_happens_on_all_shards_at_one_version(void **state)
{
    (void)state;
    static struct world w;
    struct transfer t = {.shards = {0, 1, 2}, .count = 3, .value = 42};
    world_open(&w, 1);
    for (uint32_t i = 0; i < 3; i++) {
        t.ptrs[i] = world_alloc(&w, i, i);
        (void)world_value(&w, i, t.ptrs[i], &t.versions[i]);
    }
    struct msg_result r = commit(&w, &t);
    assert_int_equal(r.code, 0);
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t version;
        assert_int_equal(world_value(&w, i, t.ptrs[i], &version), 42);
        assert_int_equal(version, r.version);
    }
    /* Once the client has heard of it and its time is over, nobody remembers it. */
    world_settle(&w, 1000);
    assert_int_equal(counts_of(&w, 0).committed, 1);
    world_run_ms(&w, 8000);
    assert_int_equal(counts_of(&w, 0).committed, 1);
    assert_int_equal(counts_of(&w, 1).committed, 1);
    keepalive(&w, 0, t.seq);
    world_run_ms(&w, 12000);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(counts_of(&w, i).committed, 0);
    }
    world_close(&w);
}

static void a_conflict_on_one_shard_leaves_all_as_they_were(void **state)
{
    (void)state;
    static struct world w;
    struct transfer t = {.shards = {1, 0}, .count = 2, .value = 7};
    world_open(&w, 2);
    t.ptrs[0] = world_alloc(&w, 1, 10);
    t.ptrs[1] = world_alloc(&w, 0, 20);
    uint64_t version;
    (void)world_value(&w, 0, t.ptrs[1], &version);
    t.versions[1] = version + 1;
    struct msg_result r = commit(&w, &t);
    assert_int_equal(r.code, -ERR_CONFLICT);
    assert_int_equal(r.value, t.ptrs[1]);
    assert_int_equal(world_value(&w, 1, t.ptrs[0], NULL), 10);
    assert_int_equal(world_value(&w, 0, t.ptrs[1], NULL), 20);
    world_settle(&w, 1000);
    /* The number is used up: whatever comes under it gets that answer. */
    assert_int_equal(settle(&w, 1, t.seq).code, -ERR_TX_ABORTED);
    t.seq = 0;
    t.versions[1] = version;
    assert_int_equal(commit(&w, &t).code, 0);
    assert_int_equal(world_value(&w, 1, t.ptrs[0], NULL), 7);
    assert_int_equal(world_value(&w, 0, t.ptrs[1], NULL), 7);
    world_close(&w);
}

static void a_retry_gets_the_same_answer_and_settling_tells_it(void **state)
{
    (void)state;
    static struct world w;
    struct transfer t = {.shards = {0, 2}, .count = 2, .value = 5};
    world_open(&w, 3);
    t.ptrs[0] = world_alloc(&w, 0, 1);
    t.ptrs[1] = world_alloc(&w, 2, 2);
    struct buf body = encode(&w, &t);
    struct buf again = {0};
    struct buf late = {0};
    assert_int_equal(buf_append(&again, body.data, body.len), 0);
    assert_int_equal(buf_append(&late, body.data, body.len), 0);
    struct msg_result r = world_command(&w, w.uids[0], KIND_TX_COMMIT, &body);
    assert_int_equal(r.code, 0);
    struct msg_result same = world_command(&w, w.uids[0], KIND_TX_COMMIT, &again);
    assert_int_equal(same.code, 0);
    assert_int_equal(same.version, r.version);
    world_settle(&w, 1000);
    struct msg_result told = settle(&w, 0, t.seq);
    assert_int_equal(told.code, 0);
    assert_int_equal(told.version, r.version);
    /* Behind its deadline it is the session's ring that knows. */
    world_run_ms(&w, 9000);
    same = world_command(&w, w.uids[0], KIND_TX_COMMIT, &late);
    assert_int_equal(same.code, 0);
    assert_int_equal(same.version, r.version);
    world_settle(&w, 5000);

    /* Settled before it came: it never happens. */
    uint64_t number = ++w.seqs[0];
    assert_int_equal(settle(&w, 0, number).code, -ERR_TX_ABORTED);
    struct transfer never = t;
    never.seq = number;
    never.value = 99;
    assert_int_equal(commit(&w, &never).code, -ERR_TX_ABORTED);
    world_settle(&w, 5000);
    assert_int_equal(world_value(&w, 0, t.ptrs[0], NULL), 5);
    assert_int_equal(world_value(&w, 2, t.ptrs[1], NULL), 5);
    world_close(&w);
}

/* Wherever the coordinator dies: all of it or nothing, soon, and the same for everybody. */
static void a_coordinator_may_die_at_any_moment(void **state)
{
    (void)state;
    static struct world w;
    uint32_t outcomes[2] = {0, 0};
    sim_ignore_leaks(true);
    for (uint32_t moment = 0; moment < 14; moment++) {
        struct transfer t = {.shards = {0, 1}, .count = 2, .value = 8};
        world_open(&w, 100 + moment);
        t.ptrs[0] = world_alloc(&w, 0, 1);
        t.ptrs[1] = world_alloc(&w, 1, 1);
        struct buf body = encode(&w, &t);
        uint32_t leader = world_leader(&w, w.uids[0]);
        struct answer *a = world_send(&w, leader, KIND_TX_COMMIT, slice_of(body.data, body.len));
        assert_non_null(a);
        sim_run_until(w.sim, sim_now_ns(w.sim) + moment * SIM_MS / 4);
        bool answered = a->done && a->kind == KIND_RESULT;
        buf_close(&body);
        world_answer_free(a);
        world_kill(&w, leader);
        /* Nobody sends it again: what was prepared is found, and brought to an end. */
        uint64_t values[2];
        for (uint32_t i = 0; i < 2; i++) {
            values[i] = world_value(&w, i, t.ptrs[i], NULL);
        }
        assert_int_equal(values[0], values[1]);
        assert_true(!answered || values[0] == 8);
        outcomes[values[0] == 8]++;
        world_start(&w, leader);
        world_settle(&w, 8000);
        struct msg_result r = settle(&w, 0, t.seq);
        assert_int_equal(r.code, values[0] == 8 ? 0 : -ERR_TX_ABORTED);
        world_close(&w);
    }
    sim_ignore_leaks(false);
    assert_true(outcomes[0] > 0);
    assert_true(outcomes[1] > 0);
}

#define SPREAD_MS 12000u /* leaders are where they belong by then */

/* False: the leaders are one, or the election took so long that others, who wait longer than the
 * heir does, would take it up before. */
static bool heir_brings_it_to_an_end(uint64_t seed)
{
    static struct world w;
    struct transfer t = {.shards = {0, 1}, .count = 2, .value = 3};
    world_open(&w, seed);
    world_run_ms(&w, SPREAD_MS);
    t.ptrs[0] = world_alloc(&w, 0, 1);
    t.ptrs[1] = world_alloc(&w, 1, 2);
    uint32_t home = world_leader(&w, w.uids[0]);
    uint32_t other = world_leader(&w, w.uids[1]);
    if (home == other) {
        world_close(&w);
        return false;
    }
    sim_net_cut(w.nodes[home].host, w.nodes[other].host, true);
    sim_net_cut(w.nodes[other].host, w.nodes[home].host, true);
    struct buf body = encode(&w, &t);
    struct answer *a = world_send(&w, home, KIND_TX_COMMIT, slice_of(body.data, body.len));
    uint64_t began_ns = sim_now_ns(w.sim);
    world_run_ms(&w, 50);
    assert_int_equal(counts_of(&w, 0).prepared, 1);
    assert_int_equal(counts_of(&w, 1).prepared, 0);
    world_kill(&w, home);
    (void)world_leader(&w, w.uids[0]);
    bool early = sim_now_ns(w.sim) - began_ns < (COORD_ORPHAN_MS - COORD_HEIR_MS - 150) * SIM_MS;
    if (early) {
        world_run_ms(&w, COORD_HEIR_MS - 200);
        assert_int_equal(counts_of(&w, 0).prepared, 1); /* the client might come again */
        world_run_ms(&w, 400);
        assert_int_equal(counts_of(&w, 0).prepared, 0);
    }
    buf_close(&body);
    world_answer_free(a);
    sim_net_heal(w.sim);
    world_start(&w, home);
    /* Where nobody has ended it yet, what was cut off may arrive, and it happens. */
    bool happened = !early && world_value(&w, 0, t.ptrs[0], NULL) == 3;
    assert_int_equal(world_value(&w, 0, t.ptrs[0], NULL), happened ? 3 : 1);
    assert_int_equal(world_value(&w, 1, t.ptrs[1], NULL), happened ? 3 : 2);
    world_close(&w);
    return early;
}

/* A new leader of home knows that whoever coordinated is gone: it doesn't wait as others do. */
static void homes_next_leader_brings_it_to_an_end_soon(void **state)
{
    (void)state;
    uint32_t early = 0;
    sim_ignore_leaks(true);
    for (uint64_t seed = 10; seed < 40 && early < 1; seed++) {
        early += heir_brings_it_to_an_end(seed);
    }
    sim_ignore_leaks(false);
    assert_int_equal(early, 1);
}

static void a_read_waits_for_what_is_being_decided(void **state)
{
    (void)state;
    static struct world w;
    struct transfer t = {.shards = {0, 1}, .count = 2, .value = 3};
    world_open(&w, 9);
    t.ptrs[0] = world_alloc(&w, 0, 1);
    t.ptrs[1] = world_alloc(&w, 1, 2);
    /* Home's leader can't reach the other shard's, nor the third node: no vote of it comes. */
    uint32_t home = world_leader(&w, w.uids[0]);
    uint32_t other = world_leader(&w, w.uids[1]);
    assert_int_not_equal(home, other);
    sim_net_cut(w.nodes[home].host, w.nodes[other].host, true);
    sim_net_cut(w.nodes[other].host, w.nodes[home].host, true);
    struct buf body = encode(&w, &t);
    struct answer *c = world_send(&w, home, KIND_TX_COMMIT, slice_of(body.data, body.len));
    world_run_ms(&w, 100);
    struct msg_read m = {.uid = w.uids[0], .ptr = t.ptrs[0], .len = 8};
    struct buf read = {0};
    assert_int_equal(message_encode_read(&m, &read), 0);
    struct answer *r = world_send(&w, home, KIND_READ, slice_of(read.data, read.len));
    world_run_ms(&w, 100);
    assert_int_equal(counts_of(&w, 0).prepared, 1);
    assert_false(r->done);
    assert_false(c->done);
    sim_net_heal(w.sim);
    assert_true(world_wait(&w, r, 5000));
    assert_true(world_wait(&w, c, 5000));
    buf_close(&body);
    buf_close(&read);
    world_answer_free(r);
    world_answer_free(c);
    world_settle(&w, 5000);
    assert_int_equal(world_value(&w, 0, t.ptrs[0], NULL) == 3,
                     world_value(&w, 1, t.ptrs[1], NULL) == 3);
    world_close(&w);
}

static struct answer *hold(struct world *w, uint32_t shard, uint32_t hold_ms)
{
    struct msg_tx_hold m = {.uid = w->uids[shard], .hold_ms = hold_ms};
    struct buf body = {0};
    assert_int_equal(message_encode_tx_hold(&m, &body), 0);
    struct answer *a =
        world_send(w, world_leader(w, w->uids[shard]), KIND_TX_HOLD, slice_of(body.data, body.len));
    buf_close(&body);
    return a;
}

static struct msg_tx_held held(struct world *w, struct answer *a)
{
    struct msg_tx_held m;
    assert_true(world_wait(w, a, 5000));
    assert_int_equal(a->kind, KIND_TX_HELD);
    assert_int_equal(message_decode_tx_held(slice_of(a->body.data, a->body.len), &m), 0);
    world_answer_free(a);
    return m;
}

static int hold_answer(struct world *w, uint32_t shard)
{
    struct answer *a = hold(w, shard, 50);
    struct msg_error error = {0};
    assert_true(world_wait(w, a, 5000));
    if (a->kind == KIND_ERROR) {
        assert_int_equal(message_decode_error(slice_of(a->body.data, a->body.len), &error), 0);
    }
    world_answer_free(a);
    return -(int)error.code;
}

/* One attempt: 0 with *clock, or why not. */
static int close_at(struct world *w, uint32_t shard, uint64_t at, uint64_t name, uint64_t *clock)
{
    struct msg_tx_close m = {.uid = w->uids[shard],
                             .session = w->sessions[shard],
                             .seq = ++w->seqs[shard],
                             .at = at,
                             .hold = name,
                             .keep_ms = 10000};
    struct buf body = {0};
    struct msg_error error;
    struct msg_result result;
    assert_int_equal(message_encode_tx_close(&m, &body), 0);
    struct answer *a = world_send(w, world_leader(w, w->uids[shard]), KIND_TX_CLOSE,
                                  slice_of(body.data, body.len));
    assert_true(world_wait(w, a, 5000));
    struct slice bytes = slice_of(a->body.data, a->body.len);
    int err;
    if (a->kind == KIND_ERROR) {
        assert_int_equal(message_decode_error(bytes, &error), 0);
        err = -(int)error.code;
    } else {
        assert_int_equal(message_decode_result(bytes, &result), 0);
        err = -(int)result.code;
        *clock = result.version;
    }
    buf_close(&body);
    world_answer_free(a);
    return err;
}

static int write_once(struct world *w, uint32_t shard, uint64_t ptr, uint64_t *version)
{
    struct msg_write m = {.uid = w->uids[shard],
                          .session = w->sessions[shard],
                          .seq = ++w->seqs[shard],
                          .ptr = ptr,
                          .data = slice_of("later...", 8)};
    struct buf body = {0};
    struct msg_error error;
    struct msg_result result;
    assert_int_equal(message_encode_write(&m, &body), 0);
    struct answer *a =
        world_send(w, world_leader(w, w->uids[shard]), KIND_WRITE, slice_of(body.data, body.len));
    assert_true(world_wait(w, a, 5000));
    struct slice bytes = slice_of(a->body.data, a->body.len);
    int err;
    if (a->kind == KIND_ERROR) {
        assert_int_equal(message_decode_error(bytes, &error), 0);
        err = -(int)error.code;
    } else {
        assert_int_equal(message_decode_result(bytes, &result), 0);
        err = -(int)result.code;
        *version = result.version;
    }
    buf_close(&body);
    world_answer_free(a);
    return err;
}

/* A heap without retention keeps what readers at a closed version need. */
static void a_hold_stops_writes_until_it_is_closed(void **state)
{
    (void)state;
    static struct world w;
    uint64_t clock = 0;
    uint64_t version = 0;
    world_open(&w, 21);
    uint64_t ptr = world_alloc(&w, 0, 1);
    struct msg_tx_held h = held(&w, hold(&w, 0, 50));
    struct msg_tx_held h1 = held(&w, hold(&w, 1, 50));
    assert_true(h.hold != 0);
    assert_int_equal(write_once(&w, 0, ptr, &version), ERR_BUSY);
    uint64_t at = h.clock > h1.clock ? h.clock : h1.clock;
    assert_int_equal(close_at(&w, 0, at, h.hold + 1, &clock), ERR_TX_UNDECIDED);
    /* History begins with the first reader, who comes again. */
    assert_int_equal(close_at(&w, 0, at, h.hold, &clock), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(close_at(&w, 0, at, h.hold, &clock), ERR_TX_UNDECIDED);
    h = held(&w, hold(&w, 0, 50));
    h1 = held(&w, hold(&w, 1, 50));
    at = h.clock > h1.clock ? h.clock : h1.clock;
    assert_int_equal(close_at(&w, 0, at, h.hold, &clock), 0);
    assert_true(clock >= at);
    assert_int_equal(write_once(&w, 0, ptr, &version), 0);
    assert_true(version > at);
    /* The object as it was. */
    struct msg_read m = {.uid = w.uids[0], .ptr = ptr, .len = 8, .at = at};
    struct msg_read_result result;
    struct buf body = {0};
    int err;
    assert_int_equal(message_encode_read(&m, &body), 0);
    struct buf out = world_read(&w, w.uids[0], KIND_READ, &body, &err);
    assert_int_equal(err, 0);
    assert_int_equal(message_decode_read_result(slice_of(out.data, out.len), &result), 0);
    assert_int_equal(load_u64(result.data.data), 1);
    buf_close(&out);
    /* A hold ends by itself; then it can't be closed any more. */
    h = held(&w, hold(&w, 0, 50));
    world_run_ms(&w, 60);
    assert_int_equal(write_once(&w, 0, ptr, &version), 0);
    assert_int_equal(close_at(&w, 0, h.clock, h.hold, &clock), ERR_TX_UNDECIDED);
    /* Readers that keep a shard held without a break have to wait for the writers. */
    uint32_t held_count = 0;
    while (hold_answer(&w, 0) == 0) {
        held_count++;
        assert_true(held_count < 16);
        world_run_ms(&w, 60);
    }
    assert_true(held_count > 0);
    assert_int_equal(write_once(&w, 0, ptr, &version), 0);
    world_run_ms(&w, 60);
    assert_int_equal(hold_answer(&w, 0), 0);
    world_run_ms(&w, 60);
    /* Without a hold it only asks for the clock. */
    h = held(&w, hold(&w, 0, 0));
    assert_int_equal(h.hold, 0);
    assert_int_equal(write_once(&w, 0, ptr, &version), 0);
    assert_int_equal(close_at(&w, 0, h.clock + hlc_from_ms(5000), 0, &clock), ERR_INVAL);
    world_close(&w);
}

static uint64_t entries_of(struct world *w, uint32_t shard)
{
    return heap_index(world_heap(w, world_leader(w, w->uids[shard]), w->uids[shard]));
}

static void outcomes_share_an_entry_with_the_next_command(void **state)
{
    (void)state;
    static struct world w;
    struct transfer t = {.shards = {0, 1}, .count = 2};
    world_open(&w, 7);
    for (uint32_t i = 0; i < 2; i++) {
        t.ptrs[i] = world_alloc(&w, i, 0);
    }
    world_settle(&w, 1000);
    uint64_t before[2] = {entries_of(&w, 0), entries_of(&w, 1)};
    for (uint64_t k = 1; k <= 20; k++) {
        t.seq = 0;
        t.value = k;
        assert_int_equal(commit(&w, &t).code, 0);
    }
    /* Two for each transaction would be 40. The last outcome goes when its time has come. */
    world_settle(&w, 1000);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t entries = entries_of(&w, i) - before[i];
        assert_true(entries >= 21);
        assert_true(entries <= 30);
        assert_int_equal(world_value(&w, i, t.ptrs[i], NULL), 20);
    }
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_happens_on_all_shards_at_one_version),
        cmocka_unit_test(a_conflict_on_one_shard_leaves_all_as_they_were),
        cmocka_unit_test(a_retry_gets_the_same_answer_and_settling_tells_it),
        cmocka_unit_test(a_coordinator_may_die_at_any_moment),
        cmocka_unit_test(a_hold_stops_writes_until_it_is_closed),
        cmocka_unit_test(homes_next_leader_brings_it_to_an_end_soon),
        cmocka_unit_test(a_read_waits_for_what_is_being_decided),
        cmocka_unit_test(outcomes_share_an_entry_with_the_next_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
