/* Transactions over several shards at their bounds and beyond, sent as raw messages in sessions
 * that are valid: each is answered with its reason, takes all of its effect or none, and leaves
 * nothing undecided behind. */
#include "support/test.h"

#include <stdlib.h>

#include "base/hash.h"
#include "base/hlc.h"
#include "base/log.h"
#include "replica/replica.h"
#include "unit/coord/world.h"

static struct world w;
static uint64_t ptrs[WORLD_SHARDS];
static struct buf parts;

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    memset(&w, 0, sizeof w);
    world_open(&w, 7);
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        ptrs[i] = world_alloc(&w, i, 100 + i);
    }
    return 0;
}

/* Nothing undecided, replicas that are sound and equal, and a node that serves. */
static int teardown(void **state)
{
    (void)state;
    struct err_text e = {""};
    world_run_ms(&w, 3000);
    world_settle(&w, 60000);
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        for (uint32_t n = 0; n < WORLD_NODES; n++) {
            struct shard *s = replica_shard(node_replica(w.nodes[n].node), w.uids[i]);
            if (heap_check(shard_heap(s), &e) != 0) {
                fail_msg("%s", e.text);
            }
        }
        uint64_t ptr = world_alloc(&w, i, 4711);
        assert_int_equal(world_value(&w, i, ptr, NULL), 4711);
    }
    buf_close(&parts);
    world_close(&w);
    return 0;
}

/* ---- making them ---- */

static void put(struct buf *b, const void *data, size_t len)
{
    assert_int_equal(buf_append(b, data, len), 0);
}

static void put_item(struct buf *part, struct txn_item item, const void *bytes)
{
    static const uint8_t zeros[1];
    put(part, &item, sizeof item);
    if (item.name_len + item.len > 0) {
        put(part, bytes != NULL ? bytes : zeros, (size_t)item.name_len + item.len);
    }
}

static void put_items(struct buf *part, uint32_t count, struct txn_item item, const void *bytes)
{
    struct txn_part_header head = {.items = count};
    put(part, &head, sizeof head);
    for (uint32_t i = 0; i < count; i++) {
        put_item(part, item, bytes);
    }
}

static void add_part(uint64_t uid, const struct buf *part)
{
    uint8_t head[12];
    store_u64(head, uid);
    store_u32(head + 8, (uint32_t)part->len);
    put(&parts, head, sizeof head);
    put(&parts, part->data, part->len);
}

/* A part of `count` times the same item. */
static void add(uint64_t uid, uint32_t count, struct txn_item item, const void *bytes)
{
    struct buf part = {0};
    put_items(&part, count, item, bytes);
    add_part(uid, &part);
    buf_close(&part);
}

static struct txn_item write_of(uint32_t shard)
{
    return (struct txn_item){.kind = TXN_WRITE, .len = 8, .ptr = ptrs[shard]};
}

static struct txn_item live(uint64_t ptr)
{
    return (struct txn_item){.kind = TXN_CHECK_LIVE, .ptr = ptr};
}

/* ---- sending them ---- */

static int code_of(struct answer *a, uint64_t *version)
{
    struct msg_result r;
    struct msg_error m;
    int code = 0;
    struct slice body = slice_of(a->body.data, a->body.len);
    if (a->kind == KIND_RESULT) {
        assert_int_equal(message_decode_result(body, &r), 0);
        code = -(int)r.code;
        *version = r.version;
    } else {
        assert_int_equal(a->kind, KIND_ERROR); /* and not: the connection is gone */
        assert_int_equal(message_decode_error(body, &m), 0);
        code = -(int)m.code;
    }
    world_answer_free(a);
    return code;
}

static uint64_t deadline_in_ms(uint64_t ms)
{
    uint32_t leader = world_leader(&w, w.uids[0]);
    return heap_clock(world_heap(&w, leader, w.uids[0])) + hlc_from_ms(ms);
}

/* The parts as they have been added, as the number `seq` of shard 0's session. */
static int commit_as(uint64_t seq, uint64_t deadline, uint64_t *version)
{
    struct msg_tx_commit m = {.uid = w.uids[0],
                              .session = w.sessions[0],
                              .seq = seq,
                              .acked = seq - 1,
                              .deadline = deadline,
                              .parts = slice_of(parts.data, parts.len)};
    struct buf body = {0};
    assert_int_equal(message_encode_tx_commit(&m, &body), 0);
    struct answer *a =
        world_send(&w, world_leader(&w, w.uids[0]), KIND_TX_COMMIT, slice_of(body.data, body.len));
    buf_close(&body);
    assert_non_null(a);
    assert_true(world_wait(&w, a, 60000));
    return code_of(a, version);
}

static int commit(void)
{
    uint64_t version = 0;
    int code = commit_as(++w.seqs[0], deadline_in_ms(5000), &version);
    assert_true(code != 0 || version != 0);
    buf_clear(&parts);
    return code;
}

/* Two shards write the value, and one part holds `count` items of this kind beside. */
static int commit_beside(uint64_t value, uint32_t count, struct txn_item item, const void *bytes)
{
    uint8_t le[8];
    store_u64(le, value);
    add(w.uids[0], 1, write_of(0), le);
    add(w.uids[1], 1, write_of(1), le);
    add(w.uids[2], count, item, bytes);
    return commit();
}

static void both_hold(uint64_t a, uint64_t b)
{
    assert_int_equal(world_value(&w, 0, ptrs[0], NULL), a);
    assert_int_equal(world_value(&w, 1, ptrs[1], NULL), b);
}

/* ---- tests ---- */

static void as_many_items_as_there_may_be_and_one_more(void **state)
{
    (void)state;
    uint8_t le[8];
    store_u64(le, 9);
    assert_int_equal(commit_beside(1, TX_ITEMS_MAX, live(ptrs[2]), NULL), 0);
    both_hold(1, 1);
    assert_int_equal(commit_beside(2, TX_ITEMS_MAX + 1, live(ptrs[2]), NULL), ERR_PROTOCOL);
    both_hold(1, 1);
    assert_int_equal(commit_beside(3, TX_ITEMS_MAX, write_of(2), le), 0);
    both_hold(3, 3);
    assert_int_equal(world_value(&w, 2, ptrs[2], NULL), 9);
    assert_int_equal(commit_beside(4, 0, live(ptrs[2]), NULL), 0); /* a part without items */
    both_hold(4, 4);
}

static void an_object_is_freed_once_however_often_it_is_asked_for(void **state)
{
    (void)state;
    uint64_t ptr = world_alloc(&w, 2, 1);
    struct txn_item item = {.kind = TXN_FREE, .ptr = ptr};
    assert_int_not_equal(commit_beside(1, 2, item, NULL), 0);
    both_hold(100, 101);
    assert_int_equal(world_value(&w, 2, ptr, NULL), 1);
    assert_int_equal(commit_beside(2, 1, item, NULL), 0);
    both_hold(2, 2);
    assert_int_not_equal(commit_beside(3, 1, item, NULL), 0);
    both_hold(2, 2);
}

static void items_that_make_no_sense_refuse_the_whole(void **state)
{
    (void)state;
    static const uint8_t bytes[8];
    uint64_t elsewhere = ptrs[1];         /* of another shard of the heap */
    uint64_t nowhere = ptrs[2] ^ 1u << 6; /* no such slot */
    const struct txn_item items[] = {
        {.kind = 0},
        {.kind = 99, .ptr = ptrs[2]},
        {.kind = TXN_CHECK_LIVE},
        {.kind = TXN_CHECK_LIVE, .ptr = elsewhere},
        {.kind = TXN_CHECK_LIVE, .ptr = nowhere},
        {.kind = TXN_CHECK_LIVE, .ptr = UINT64_MAX},
        {.kind = TXN_CHECK_LIVE, .ptr = ptrs[2], .mode = 1},
        {.kind = TXN_CHECK_LIVE, .ptr = ptrs[2], .reserved = 1},
        {.kind = TXN_CHECK_OBJECT, .ptr = ptrs[2], .value = 1},
        {.kind = TXN_CHECK_OBJECT, .ptr = ptrs[2], .mode = 2},
        {.kind = TXN_CHECK_BYTES, .ptr = ptrs[2], .value = UINT64_MAX - 3, .len = 8},
        {.kind = TXN_CHECK_BYTES, .ptr = ptrs[2], .value = 1, .len = 8},
        {.kind = TXN_WRITE, .ptr = ptrs[2], .value = 1, .len = 8},
        {.kind = TXN_WRITE, .ptr = ptrs[2], .value = UINT64_MAX - 7, .len = 8},
        {.kind = TXN_WRITE, .ptr = elsewhere, .len = 8},
        {.kind = TXN_ALLOC, .ptr = ptrs[2], .value = 8},
        {.kind = TXN_ALLOC, .ptr = nowhere, .value = 8},
        {.kind = TXN_ALLOC, .ptr = nowhere, .value = UINT64_MAX},
        {.kind = TXN_ROOT_SET, .ptr = ptrs[2]},
        {.kind = TXN_ROOT_SET, .name_len = 1},
        {.kind = TXN_ROOT_SET, .ptr = ptrs[2], .name_len = 1, .len = 1},
        {.kind = TXN_ROOT_DELETE, .name_len = 8}, /* zeros are no name */
        {.kind = TXN_CHECK_ROOT, .name_len = 8},
    };
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++) {
        int code = commit_beside(1, 1, items[i], bytes);
        if (code == 0 || code == ERR_UNAVAILABLE || code == ERR_TIMEOUT) {
            fail_msg("item %zu is answered with %d", i, code);
        }
        both_hold(100, 101);
    }
}

static void what_is_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    uint8_t le[8];
    store_u64(le, 5);
    add(w.uids[0], 1, write_of(0), le);
    size_t first = parts.len;
    add(w.uids[1], 1, write_of(1), le);
    size_t whole = parts.len;
    uint8_t *copy = malloc(whole);
    assert_non_null(copy);
    memcpy(copy, parts.data, whole);
    for (size_t len = 0; len < whole; len++) {
        buf_clear(&parts);
        put(&parts, copy, len);
        int code = commit();
        if (code != ERR_PROTOCOL) {
            fail_msg("%zu of %zu bytes (%zu are the first part) are answered with %d", len, whole,
                     first, code);
        }
    }
    both_hold(100, 101);
    /* Each byte of the lengths and headers changed: whatever it is then, it is answered. */
    for (size_t at = 0; at < whole; at++) {
        buf_clear(&parts);
        put(&parts, copy, whole);
        parts.data[at] ^= 0x41;
        (void)commit();
    }
    free(copy);
    world_settle(&w, 60000);
    both_hold(world_value(&w, 0, ptrs[0], NULL), world_value(&w, 1, ptrs[1], NULL));
}

static void a_part_of_the_greatest_length_and_one_byte_more(void **state)
{
    (void)state;
    size_t room = TX_PART_BYTES_MAX - sizeof(struct txn_part_header) - sizeof(struct txn_item);
    uint8_t *bytes = calloc(1, room + 1);
    struct msg_alloc m = {.uid = w.uids[2], .session = w.sessions[2], .size = room + 1};
    struct buf body = {0};
    assert_non_null(bytes);
    m.seq = ++w.seqs[2];
    m.acked = m.seq - 1;
    assert_int_equal(message_encode_alloc(&m, &body), 0);
    struct msg_result r = world_command(&w, m.uid, KIND_ALLOC, &body);
    assert_int_equal(r.code, 0);
    struct txn_item item = {.kind = TXN_WRITE, .ptr = r.value, .len = (uint32_t)room};
    assert_int_equal(commit_beside(1, 1, item, bytes), 0);
    both_hold(1, 1);
    item.len++;
    assert_int_equal(commit_beside(2, 1, item, bytes), ERR_TOOBIG);
    both_hold(1, 1);
    free(bytes);
}

static void participants_that_cannot_be(void **state)
{
    (void)state;
    struct txn_item check = live(ptrs[0]);
    add(w.uids[0], 1, check, NULL);
    assert_int_equal(commit(), ERR_PROTOCOL); /* one is no several */
    add(w.uids[0], 1, check, NULL);
    add(w.uids[0], 1, check, NULL);
    assert_int_equal(commit(), ERR_PROTOCOL);
    add(w.uids[1], 1, live(ptrs[1]), NULL);
    add(w.uids[0], 1, check, NULL);
    assert_int_equal(commit(), ERR_PROTOCOL); /* home comes first */
    add(w.uids[0], 1, check, NULL);
    add(SHARD_META, 0, check, NULL);
    assert_int_equal(commit(), ERR_INVAL);
    add(w.uids[0], 1, check, NULL);
    add(2, 0, check, NULL);
    assert_int_equal(commit(), ERR_INVAL);
    add(w.uids[0], 1, check, NULL);
    add(UINT64_MAX, 0, check, NULL);
    assert_int_equal(commit(), ERR_BUSY); /* it may come to be */
    add(w.uids[0], 1, check, NULL);
    for (uint32_t i = 0; i < TX_PARTICIPANTS_MAX; i++) {
        add(1000 + i, 0, check, NULL);
    }
    assert_int_equal(commit(), ERR_PROTOCOL);
}

static void deadlines_that_have_passed_or_never_will(void **state)
{
    (void)state;
    uint64_t version = 0;
    const uint64_t late[] = {0, 1, deadline_in_ms(0) - hlc_from_ms(1)};
    const uint64_t far[] = {deadline_in_ms(120000), UINT64_MAX, UINT64_MAX / 2, 1ull << 63};
    uint8_t le[8] = {5};
    for (size_t i = 0; i < sizeof late / sizeof late[0]; i++) {
        add(w.uids[0], 1, write_of(0), le);
        add(w.uids[1], 1, write_of(1), le);
        assert_int_equal(commit_as(++w.seqs[0], late[i], &version), ERR_TX_TOO_LATE);
        buf_clear(&parts);
    }
    for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
        add(w.uids[0], 1, write_of(0), le);
        add(w.uids[1], 1, write_of(1), le);
        assert_int_equal(commit_as(++w.seqs[0], far[i], &version), ERR_TX_ABORTED);
        buf_clear(&parts);
    }
    both_hold(100, 101);
}

static void a_number_is_one_transaction_whatever_comes_under_it(void **state)
{
    (void)state;
    uint64_t first = 0;
    uint64_t again = 0;
    uint8_t le[8] = {5};
    uint64_t deadline = deadline_in_ms(5000);
    uint64_t seq = ++w.seqs[0];
    add(w.uids[0], 1, write_of(0), le);
    add(w.uids[1], 1, write_of(1), le);
    assert_int_equal(commit_as(seq, deadline, &first), 0);
    assert_int_equal(commit_as(seq, deadline, &again), 0);
    assert_int_equal(first, again);
    world_run_ms(&w, 3000); /* the record may have gone; the session's result hasn't */
    assert_int_equal(commit_as(seq, deadline, &again), 0);
    assert_int_equal(first, again);
    buf_clear(&parts);
    le[0] = 6;
    add(w.uids[0], 1, write_of(0), le);
    add(w.uids[1], 1, write_of(1), le);
    assert_int_equal(commit_as(seq, deadline, &again), ERR_PROTOCOL);
    both_hold(5, 5);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(as_many_items_as_there_may_be_and_one_more),
        TEST(an_object_is_freed_once_however_often_it_is_asked_for),
        TEST(items_that_make_no_sense_refuse_the_whole),
        TEST(what_is_cut_off_anywhere_is_refused),
        TEST(a_part_of_the_greatest_length_and_one_byte_more),
        TEST(participants_that_cannot_be),
        TEST(deadlines_that_have_passed_or_never_will),
        TEST(a_number_is_one_transaction_whatever_comes_under_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
