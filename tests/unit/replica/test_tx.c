/* Commands of coordinators in the state machine of a home shard: what the client's session has to
 * say to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "alloc/txn.h"
#include "base/hlc.h"
#include "replica/internal.h"
#include "unit/alloc/txn_part.h"

#define UID      16u
#define OTHER    17u /* the second participant: somewhere else */
#define OWNER    7u
#define START_MS 1000000u
#define DIGEST   0xd1u

struct machine {
    struct heap *heap;
    uint64_t index, now_ms;
    uint64_t session, seq, object;
};

static struct command_result apply(struct machine *m, uint16_t kind, struct buf *body)
{
    struct buf data = {0};
    struct command_result result;
    struct fsm_effects effects = {0};
    uint8_t *at = buf_extend(&data, ENTRY_HEADER_BYTES + ENTRY_COMMAND_HEADER_BYTES);
    assert_non_null(at);
    memset(at, 0, ENTRY_HEADER_BYTES + ENTRY_COMMAND_HEADER_BYTES);
    store_u16(at, ENTRY_FORMAT);
    store_u32(at + 4, 1);
    store_u64(at + 8, hlc_from_ms(m->now_ms));
    store_u16(at + ENTRY_HEADER_BYTES, kind);
    store_u32(at + ENTRY_HEADER_BYTES + 4, (uint32_t)body->len);
    assert_int_equal(buf_append(&data, body->data, body->len), 0);
    struct wal_entry entry = {
        .term = 1, .type = ENTRY_COMMAND, .data = slice_of(data.data, data.len)};
    assert_int_equal(fsm_apply(m->heap, ++m->index, &entry, &result, 1, &effects), 0);
    assert_int_equal(effects.tx, kind >= KIND_TX_PREPARE && kind <= KIND_TX_FORGET);
    struct err_text e;
    assert_int_equal(heap_check(m->heap, &e), 0);
    assert_int_equal(fsm_check(m->heap), 0);
    buf_close(&data);
    buf_close(body);
    return result;
}

#define APPLY(m, NAME, name, ...)                                                                  \
    apply((m), KIND_##NAME, &(struct buf[1]){encode_##name((struct msg_##name){__VA_ARGS__})}[0])
#define ENCODER(name)                                                                              \
    static struct buf encode_##name(struct msg_##name msg)                                         \
    {                                                                                              \
        struct buf body = {0};                                                                     \
        msg.uid = UID;                                                                             \
        assert_int_equal(message_encode_##name(&msg, &body), 0);                                   \
        return body;                                                                               \
    }
ENCODER(session_open)
ENCODER(session_close)
ENCODER(session_bury)
ENCODER(session_keepalive)
ENCODER(alloc)
ENCODER(tx_prepare)
ENCODER(tx_decide)
ENCODER(tx_refuse)
ENCODER(tx_forget)
ENCODER(tx_settle)

static uint64_t open_session(struct machine *m, uint64_t owner, uint64_t nonce)
{
    struct command_result r = APPLY(m, SESSION_OPEN, session_open, .nonce = nonce, .owner = owner,
                                    .window = 8, .lease_ms = 10000);
    assert_int_equal(r.code, 0);
    return r.value;
}

static void machine_open(struct machine *m)
{
    memset(m, 0, sizeof *m);
    struct heap_opts opts = {.uid = UID, .heap_id = 1, .bytes_max = 8u << 20};
    assert_int_equal(heap_create(&opts, &m->heap), 0);
    m->now_ms = START_MS;
    struct consensus_config config = {.count = 1, .servers = {{.id = 1, .role = CONSENSUS_VOTER}}};
    struct buf data = {0};
    struct fsm_effects effects = {0};
    assert_int_equal(consensus_config_encode(&config, &data), 0);
    struct wal_entry entry = {
        .term = 1, .type = ENTRY_CHANGE, .data = slice_of(data.data, data.len)};
    assert_int_equal(fsm_apply(m->heap, ++m->index, &entry, NULL, 0, &effects), 0);
    buf_close(&data);
    m->session = open_session(m, OWNER, 1);
    m->object = APPLY(m, ALLOC, alloc, .session = m->session, .seq = ++m->seq, .size = 8).value;
}

static void machine_close(struct machine *m)
{
    heap_free(m->heap);
}

static uint64_t deadline_of(const struct machine *m)
{
    return hlc_from_ms(m->now_ms + 5000);
}

static struct command_result prepare(struct machine *m, uint64_t seq, uint64_t digest)
{
    static struct part part;
    uint8_t uids[16];
    store_u64(uids, UID);
    store_u64(uids + 8, OTHER);
    part_begin(&part, 0);
    part_write(&part, m->object, 0, slice_of("new", 3));
    return APPLY(m, TX_PREPARE, tx_prepare, .home = UID, .tx_session = m->session, .tx_seq = seq,
                 .tx_acked = 0, .deadline = deadline_of(m), .owner = OWNER, .digest = digest,
                 .participants = slice_of(uids, sizeof uids), .part = part_slice(&part));
}

static struct command_result decide(struct machine *m, uint64_t seq, uint64_t own, uint64_t other)
{
    uint8_t times[16];
    store_u64(times, own);
    store_u64(times + 8, other);
    return APPLY(m, TX_DECIDE, tx_decide, .home = UID, .tx_session = m->session, .tx_seq = seq,
                 .deadline = deadline_of(m), .digest = DIGEST, .commit = 1,
                 .times = slice_of(times, sizeof times));
}

static struct command_result abort_it(struct machine *m, uint64_t seq, uint64_t refused_by)
{
    return APPLY(m, TX_DECIDE, tx_decide, .home = UID, .tx_session = m->session, .tx_seq = seq,
                 .deadline = deadline_of(m), .digest = DIGEST, .code = (uint32_t)-ERR_CONFLICT,
                 .refused_by = refused_by, .conflict = 77, .conflict_version = 3);
}

static struct command_result refuse(struct machine *m, uint64_t seq)
{
    return APPLY(m, TX_REFUSE, tx_refuse, .home = UID, .tx_session = m->session, .tx_seq = seq,
                 .deadline = deadline_of(m), .digest = DIGEST);
}

static struct command_result settle(struct machine *m, uint64_t seq)
{
    return APPLY(m, TX_SETTLE, tx_settle, .session = m->session, .seq = ++m->seq,
                 .tx_session = m->session, .tx_seq = seq);
}

static uint64_t forget(struct machine *m, const uint64_t *seqs, size_t count)
{
    uint8_t names[8 * 24];
    for (size_t i = 0; i < count; i++) {
        store_u64(names + i * 24, UID);
        store_u64(names + i * 24 + 8, m->session);
        store_u64(names + i * 24 + 16, seqs[i]);
    }
    struct command_result r = APPLY(m, TX_FORGET, tx_forget, .names = slice_of(names, count * 24));
    assert_int_equal(r.code, 0);
    return r.value;
}

static void a_session_does_not_end_before_its_transactions(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m);
    struct command_result vote = prepare(&m, 5, DIGEST);
    assert_int_equal(vote.code, 0);
    assert_int_equal(vote.value, TXN_YES);
    uint64_t p = vote.version;
    assert_int_equal(APPLY(&m, SESSION_CLOSE, session_close, .session = m.session).code, ERR_BUSY);
    m.now_ms += 20000;
    assert_int_equal(APPLY(&m, SESSION_BURY, session_bury, .expired = m.session,
                           .renewed = hlc_from_ms(START_MS), .tombstones_max = 4, .results_max = 64,
                           .keep_ms = 60000)
                         .code,
                     ERR_CONFLICT);
    /* A copy of the vote's request doesn't count twice. */
    struct command_result again = prepare(&m, 5, DIGEST);
    assert_int_equal(again.value, TXN_YES);
    assert_int_equal(again.version, p);
    struct command_result done = decide(&m, 5, p, p + 9);
    assert_int_equal(done.code, 0);
    assert_int_equal(done.value, TXN_APPLIED);
    assert_int_equal(decide(&m, 5, p, p + 9).value, TXN_APPLIED);
    struct command_result told = settle(&m, 5);
    assert_int_equal(told.code, 0);
    assert_int_equal(told.version, p + 9);
    assert_int_equal(APPLY(&m, SESSION_CLOSE, session_close, .session = m.session).code, 0);
    machine_close(&m);
}

static void what_the_ring_knows_counts_as_a_vote(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m);
    struct command_result vote = prepare(&m, 5, DIGEST);
    assert_int_equal(decide(&m, 5, vote.version, vote.version).value, TXN_APPLIED);
    assert_int_equal(prepare(&m, 5, DIGEST).value, TXN_WAS_COMMITTED);
    /* The same number with other contents never happens. */
    struct command_result other = prepare(&m, 5, DIGEST + 1);
    assert_int_equal(other.value, TXN_NO);
    assert_int_equal(other.code, ERR_PROTOCOL);

    /* Not forgotten while the client may ask; a name that isn't known is. */
    m.now_ms += 6000;
    uint64_t names[2] = {5, 6};
    assert_int_equal(forget(&m, names, 2), 1);
    assert_int_equal(
        APPLY(&m, SESSION_KEEPALIVE, session_keepalive, .session = m.session, .acked = 5).code, 0);
    assert_int_equal(forget(&m, names, 2), 0);
    /* Acknowledged and forgotten: a copy that comes late is refused, not run again. */
    struct command_result late = prepare(&m, 5, DIGEST);
    assert_int_equal(late.value, TXN_NO);
    assert_int_equal(late.code, ERR_INVAL);
    machine_close(&m);
}

static void an_abort_rests_on_a_participant_and_is_told(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m);
    assert_int_equal(prepare(&m, 5, DIGEST).value, TXN_YES);
    assert_int_equal(abort_it(&m, 5, 99).code, ERR_PROTOCOL);
    assert_int_equal(settle(&m, 5).code, ERR_TX_UNDECIDED);
    assert_int_equal(abort_it(&m, 5, OTHER).value, TXN_APPLIED);
    /* A client that has lost the answer asks again, and hears the same. */
    struct command_result no = prepare(&m, 5, DIGEST);
    assert_int_equal(no.value, TXN_NO);
    assert_int_equal(no.code, ERR_CONFLICT);
    assert_int_equal(no.version, 77);
    no = refuse(&m, 5);
    assert_int_equal(no.value, TXN_NO);
    assert_int_equal(no.code, ERR_CONFLICT);
    assert_int_equal(settle(&m, 5).code, ERR_TX_ABORTED);
    m.now_ms += 6000; /* its record goes; the ring says what the abort said */
    assert_int_equal(refuse(&m, 9).value, TXN_NO);
    no = prepare(&m, 5, DIGEST);
    assert_int_equal(no.value, TXN_NO);
    assert_int_equal(no.code, ERR_CONFLICT);
    assert_int_equal(no.version, 77);
    assert_int_equal(APPLY(&m, SESSION_CLOSE, session_close, .session = m.session).code, 0);
    machine_close(&m);
}

static void what_is_settled_first_never_happens(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m);
    assert_int_equal(settle(&m, 7).code, ERR_TX_ABORTED);
    struct command_result no = prepare(&m, 7, DIGEST);
    assert_int_equal(no.value, TXN_NO);
    assert_int_equal(no.code, ERR_TX_ABORTED);
    /* Also a plain command under that number. */
    assert_int_equal(APPLY(&m, ALLOC, alloc, .session = m.session, .seq = 7, .size = 8).code,
                     ERR_TX_ABORTED);
    /* Another user's session. */
    uint64_t mine = m.session;
    uint64_t theirs = open_session(&m, OWNER + 1, 2);
    assert_int_equal(APPLY(&m, TX_SETTLE, tx_settle, .session = mine, .seq = ++m.seq,
                           .tx_session = theirs, .tx_seq = 1)
                         .code,
                     ERR_DENIED);
    assert_int_equal(APPLY(&m, TX_SETTLE, tx_settle, .session = mine, .seq = ++m.seq,
                           .tx_session = 12345, .tx_seq = 1)
                         .code,
                     ERR_SESSION_EXPIRED);
    machine_close(&m);
}

static void a_session_that_is_gone_says_unknown(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m);
    struct command_result vote = prepare(&m, 5, DIGEST);
    assert_int_equal(decide(&m, 5, vote.version, vote.version).value, TXN_APPLIED);
    assert_int_equal(APPLY(&m, SESSION_CLOSE, session_close, .session = m.session).code, 0);
    m.now_ms += 6000;
    uint64_t name = 5;
    assert_int_equal(forget(&m, &name, 1), 0);
    struct command_result r = prepare(&m, 5, DIGEST);
    assert_int_equal(r.value, TXN_NO);
    assert_int_equal(r.code, ERR_SESSION_EXPIRED);
    r = refuse(&m, 6);
    assert_int_equal(r.value, TXN_NO);
    assert_int_equal(r.code, ERR_SESSION_EXPIRED);
    machine_close(&m);
}

static void what_makes_no_sense_changes_nothing(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m);
    uint8_t uids[24];
    static struct part part;
    part_begin(&part, 0);
    part_write(&part, m.object, 0, slice_of("x", 1));
    store_u64(uids, UID);
    store_u64(uids + 8, OTHER);
    store_u64(uids + 16, OTHER);
    const struct slice bad[] = {slice_of(uids, 8), slice_of(uids, 15), slice_of(uids, 24),
                                slice_of(uids + 8, 8)};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct command_result r =
            APPLY(&m, TX_PREPARE, tx_prepare, .home = UID, .tx_session = m.session, .tx_seq = 5,
                  .deadline = deadline_of(&m), .owner = OWNER, .digest = DIGEST,
                  .participants = bad[i], .part = part_slice(&part));
        assert_int_equal(r.code, ERR_PROTOCOL);
        assert_int_equal(r.value, TXN_NO_VOTE);
    }
    struct txn_counts counts;
    txn_count(m.heap, &counts);
    assert_int_equal(counts.prepared + counts.refused, 0);
    /* Of a session of its own it would be somebody else's command. */
    assert_int_equal(APPLY(&m, TX_REFUSE, tx_refuse, .session = m.session, .seq = 9).code,
                     ERR_PROTOCOL);
    assert_int_equal(APPLY(&m, TX_FORGET, tx_forget, .names = slice_of(uids, 23)).code,
                     ERR_PROTOCOL);
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_does_not_end_before_its_transactions),
        cmocka_unit_test(what_the_ring_knows_counts_as_a_vote),
        cmocka_unit_test(an_abort_rests_on_a_participant_and_is_told),
        cmocka_unit_test(what_is_settled_first_never_happens),
        cmocka_unit_test(a_session_that_is_gone_says_unknown),
        cmocka_unit_test(what_makes_no_sense_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
