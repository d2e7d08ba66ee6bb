/* One small history per anomaly, with what each level says of it, and clean ones. */
#include "support/test.h"

#include "history/check.h"

/* Keys and values; 0 ends a list. */
enum { X = 10, Y = 20, Z = 30 };

static struct txn_history h;
static struct txn_verdict v;
static uint64_t now;
static enum txn_isolation isolation; /* of what begins next */

static int setup(void **state)
{
    (void)state;
    txn_history_init(&h, (struct txn_limits){100, 1000, 10000});
    now = 0;
    isolation = TXN_SERIALIZABLE;
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    txn_history_close(&h);
    return 0;
}

static uint32_t begin(void)
{
    return txn_history_begin(&h, h.txn_count + 1, isolation, ++now);
}
static void append(uint32_t t, uint64_t key, uint64_t value)
{
    assert_true(txn_history_append(&h, t, key, value));
}
static void see(uint32_t t, uint64_t key, const uint64_t *list)
{
    uint32_t count = 0;
    while (list[count] != 0) {
        count++;
    }
    assert_true(txn_history_read(&h, t, key, list, count));
}
#define SEE(t, key, ...) see((t), (key), (const uint64_t[]){__VA_ARGS__})
static void commit(uint32_t t)
{
    txn_history_end(&h, t, TXN_COMMITTED, ++now);
}
/* A whole transaction that appends. */
static uint32_t writer(uint64_t key, uint64_t value)
{
    uint32_t t = begin();
    append(t, key, value);
    commit(t);
    return t;
}

/* The history has this anomaly and no other. */
static void only(enum txn_level level, enum txn_anomaly anomaly, bool forbidden)
{
    txn_check(&h, level, &v);
    for (int a = 0; a < TXN_ANOMALY_COUNT; a++) {
        if (v.found[a] != (a == (int)anomaly)) {
            fail_msg("level %d: %u times %s: %s", level, v.found[a], txn_anomaly_name(a),
                     v.finding[0].text);
        }
    }
    assert_int_equal(v.forbidden[anomaly], forbidden);
    assert_int_equal(v.outcome, forbidden ? TXN_VIOLATION : TXN_OK);
    assert_int_equal(v.finding[0].allowed, !forbidden);
}
/* The anomaly is there; others may be. */
static void among(enum txn_level level, enum txn_anomaly anomaly)
{
    txn_check(&h, level, &v);
    assert_int_equal(v.outcome, TXN_VIOLATION);
    assert_true(v.forbidden[anomaly] > 0);
}
static void clean(enum txn_level level)
{
    txn_check(&h, level, &v);
    if (v.outcome != TXN_OK || v.findings > 0) {
        fail_msg("level %d, outcome %d: %s", level, v.outcome, v.finding[0].text);
    }
}
static void text_is(const char *text)
{
    assert_string_equal(v.finding[0].text, text);
}
/* Allowed up to a level, by the caller's demand. */
static void forbidden_from(enum txn_level from, enum txn_anomaly anomaly)
{
    for (enum txn_level level = TXN_LEVEL_READ_COMMITTED; level <= TXN_LEVEL_STRICT; level++) {
        only(level, anomaly, level >= from);
    }
}

/* ---- clean ---- */

static void a_serial_history_is_clean(void **state)
{
    (void)state;
    writer(X, 1);
    uint32_t t = begin();
    SEE(t, X, 1, 0);
    append(t, X, 2);
    SEE(t, X, 1, 2, 0);
    append(t, X, 3);
    SEE(t, X, 1, 2, 3, 0);
    SEE(t, Y, 0);
    commit(t);
    t = begin();
    SEE(t, X, 1, 2, 3, 0);
    commit(t);
    for (enum txn_level level = TXN_LEVEL_READ_COMMITTED; level <= TXN_LEVEL_STRICT; level++) {
        clean(level);
    }
    assert_int_equal(v.counted, 3);
}

static void concurrent_transactions_take_any_order(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin(), c = begin();
    append(a, X, 1);
    append(b, X, 2);
    SEE(c, X, 0);
    commit(a);
    commit(b);
    commit(c);
    uint32_t d = begin();
    SEE(d, X, 2, 1, 0);
    commit(d);
    clean(TXN_LEVEL_STRICT);
}

static void unknown_counts_once_it_was_seen(void **state)
{
    (void)state;
    uint32_t u = begin(), w = begin(), r = begin();
    append(u, X, 1);
    SEE(w, X, 1, 0); /* unknown itself, and seen below: so this was seen by one that counts */
    append(w, Y, 5);
    SEE(r, Y, 5, 0);
    commit(r);
    uint32_t unseen = begin();
    append(unseen, X, 2);
    clean(TXN_LEVEL_STRICT);
    assert_int_equal(v.counted, 3);
    /* and then it can't be unseen */
    uint32_t stale = begin();
    SEE(stale, X, 0);
    SEE(stale, Y, 5, 0);
    commit(stale);
    among(TXN_LEVEL_SNAPSHOT, TXN_G_SINGLE);
}

static void aborted_appends_that_nobody_saw_are_nothing(void **state)
{
    (void)state;
    uint32_t t = begin();
    append(t, X, 1);
    SEE(t, X, 7, 1, 0); /* what an aborted one saw isn't judged */
    txn_history_end(&h, t, TXN_ABORTED, ++now);
    t = begin();
    SEE(t, X, 0);
    commit(t);
    clean(TXN_LEVEL_STRICT);
}

static void an_older_version_may_be_read_when_asked_for(void **state)
{
    (void)state;
    writer(X, 1);
    writer(Y, 2);
    uint32_t t = begin();
    txn_history_at_older_version(&h, t);
    SEE(t, X, 0);
    SEE(t, Y, 0);
    commit(t);
    clean(TXN_LEVEL_STRICT);
    t = begin(); /* but of one version */
    txn_history_at_older_version(&h, t);
    SEE(t, X, 0);
    SEE(t, Y, 2, 0);
    commit(t);
    among(TXN_LEVEL_STRICT, TXN_REAL_TIME);
}

static void nothing_proves_nothing(void **state)
{
    (void)state;
    txn_check(&h, TXN_LEVEL_STRICT, &v);
    assert_int_equal(v.outcome, TXN_NO_VERDICT);
    writer(X, 1);
    txn_check(&h, TXN_LEVEL_STRICT, &v);
    assert_int_equal(v.outcome, TXN_NO_VERDICT);
    uint32_t t = begin();
    SEE(t, X, 1, 0);
    commit(t);
    clean(TXN_LEVEL_STRICT);
}

static void a_full_history_has_no_verdict(void **state)
{
    (void)state;
    txn_history_close(&h);
    txn_history_init(&h, (struct txn_limits){2, 3, 4});
    uint32_t t = begin();
    append(t, X, 1);
    SEE(t, X, 1, 0);
    assert_false(txn_history_read(&h, t, X, (const uint64_t[]){1, 2, 3, 4}, 4));
    assert_true(h.full);
    h.full = false;
    append(t, X, 2);
    assert_false(txn_history_append(&h, t, X, 3));
    assert_true(h.full);
    h.full = false;
    commit(t);
    clean(TXN_LEVEL_STRICT);
    assert_int_not_equal(begin(), TXN_NONE);
    uint32_t none = begin();
    assert_int_equal(none, TXN_NONE);
    assert_false(txn_history_append(&h, none, X, 9));
    assert_false(txn_history_read(&h, none, X, NULL, 0));
    txn_history_at_older_version(&h, none);
    txn_history_end(&h, none, TXN_COMMITTED, ++now);
    txn_check(&h, TXN_LEVEL_STRICT, &v);
    assert_int_equal(v.outcome, TXN_NO_VERDICT);
}

/* ---- single lists ---- */

static void garbage_is_found(void **state)
{
    (void)state;
    uint32_t t = begin();
    SEE(t, X, 9, 0);
    commit(t);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_GARBAGE);
    text_is("garbage: T0(p1) read 9 in k10, which nobody appended");
}

static void a_duplicate_append_is_found(void **state)
{
    (void)state;
    writer(X, 1);
    uint32_t t = begin();
    SEE(t, X, 1, 1, 0);
    commit(t);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_DUPLICATE);
}

static void an_incompatible_order_is_found(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin(), c = begin(), d = begin();
    append(a, X, 1);
    append(b, X, 2);
    SEE(c, X, 1, 2, 0);
    SEE(d, X, 2, 1, 0);
    commit(a);
    commit(b);
    commit(c);
    commit(d);
    among(TXN_LEVEL_READ_COMMITTED, TXN_INCOMPATIBLE);
    text_is("incompatible order: T3(p4) and T2(p3) read k10 in orders that exclude each other");
}

static void a_lost_append_is_found(void **state)
{
    (void)state;
    writer(X, 1);
    uint32_t t = begin();
    SEE(t, X, 0);
    commit(t);
    only(TXN_LEVEL_READ_COMMITTED, TXN_LOST, false);
    only(TXN_LEVEL_SNAPSHOT, TXN_LOST, true);
    only(TXN_LEVEL_SERIALIZABLE, TXN_LOST, true);
    text_is("lost append: T0(p1) appended 1 to k10, in no list though T1(p2) read it later");
    among(TXN_LEVEL_STRICT, TXN_REAL_TIME);
}

static void a_torn_transaction_is_found(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    append(a, X, 1);
    append(a, X, 2);
    SEE(b, X, 2, 0);
    commit(a);
    commit(b);
    among(TXN_LEVEL_READ_COMMITTED, TXN_LOST);
    text_is("lost append: T0(p1) appended 1 to k10, in no list though its next is");
}

static void own_appends_must_be_seen(void **state)
{
    (void)state;
    uint32_t t = begin();
    append(t, X, 1);
    SEE(t, X, 0);
    commit(t);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_INTERNAL);
}

static void own_appends_must_be_in_order(void **state)
{
    (void)state;
    uint32_t t = begin();
    append(t, X, 1);
    append(t, X, 2);
    SEE(t, X, 2, 1, 0);
    commit(t);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_INTERNAL);
}

static void own_appends_must_not_be_seen_before(void **state)
{
    (void)state;
    uint32_t t = begin();
    SEE(t, X, 1, 0);
    append(t, X, 1);
    commit(t);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_INTERNAL);
}

static void g1a_is_found(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    append(a, X, 1);
    SEE(b, X, 1, 0);
    txn_history_end(&h, a, TXN_ABORTED, ++now);
    commit(b);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_G1A);
    text_is("G1a: T1(p2) read 1 in k10 of T0(p1), which was aborted");
}

static void g1b_is_found(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    append(a, X, 1);
    SEE(b, X, 1, 0);
    append(a, X, 2);
    commit(a);
    commit(b);
    /* What the reader then misses makes a cycle as well: the second append overtakes it. */
    among(TXN_LEVEL_READ_COMMITTED, TXN_G1B);
    text_is("G1b: T1(p2) read k10 up to 1, in the middle of T0(p1)");
}

/* ---- cycles ---- */

static void g0_is_found(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    append(a, X, 1);
    append(b, X, 2);
    append(b, Y, 3);
    append(a, Y, 4);
    commit(a);
    commit(b);
    uint32_t r = begin();
    SEE(r, X, 1, 2, 0);
    SEE(r, Y, 3, 4, 0);
    commit(r);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_G0);
    text_is("G0: T0(p1) -ww(k10)-> T1(p2) -ww(k20)-> T0(p1)");
}

static void g1c_is_found(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    append(a, X, 1);
    append(b, Y, 2);
    SEE(a, Y, 2, 0);
    SEE(b, X, 1, 0);
    commit(a);
    commit(b);
    forbidden_from(TXN_LEVEL_READ_COMMITTED, TXN_G1C);
    text_is("G1c: T0(p1) -wr(k10)-> T1(p2) -wr(k20)-> T0(p1)");
}

static void read_skew_is_g_single(void **state)
{
    (void)state;
    uint32_t w = begin(), r = begin();
    SEE(r, X, 0);
    append(w, X, 1);
    append(w, Y, 2);
    SEE(r, Y, 2, 0);
    commit(w);
    commit(r);
    uint32_t last = begin();
    SEE(last, X, 1, 0);
    commit(last);
    forbidden_from(TXN_LEVEL_SNAPSHOT, TXN_G_SINGLE);
    text_is("G-single: T0(p1) -wr(k20)-> T1(p2) -rw(k10)-> T0(p1)");
}

static void a_fuzzy_read_is_g_single(void **state)
{
    (void)state;
    uint32_t w = begin(), r = begin();
    SEE(r, X, 0);
    append(w, X, 1);
    SEE(r, X, 1, 0);
    commit(w);
    commit(r);
    forbidden_from(TXN_LEVEL_SNAPSHOT, TXN_G_SINGLE);
}

static void a_lost_update_is_g_single(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    SEE(a, X, 0);
    SEE(b, X, 0);
    append(a, X, 1);
    append(b, X, 2);
    commit(a);
    commit(b);
    uint32_t r = begin();
    SEE(r, X, 2, 0); /* the first one's is gone: so it would come after this read */
    commit(r);
    among(TXN_LEVEL_SNAPSHOT, TXN_G_SINGLE);
    assert_int_equal(v.forbidden[TXN_LOST], 1);
    isolation = TXN_READ_COMMITTED;
    txn_check(&h, TXN_LEVEL_READ_COMMITTED, &v);
    assert_int_equal(v.outcome, TXN_OK);
    assert_int_equal(v.found[TXN_G_SINGLE], 1);
}

static void a_lost_update_that_nobody_saw_is_g_single(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin();
    SEE(a, X, 0);
    append(a, X, 1);
    append(b, X, 2);
    SEE(b, X, 2, 0);
    commit(a);
    commit(b);
    only(TXN_LEVEL_STRICT, TXN_G_SINGLE, true);
    text_is("G-single: T0(p1) and T1(p2) both appended to one version of k10");
    clean(TXN_LEVEL_READ_COMMITTED);
}

static void long_fork_is_g_nonadjacent(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin(), c = begin(), d = begin();
    append(a, X, 1);
    append(b, Y, 2);
    SEE(c, X, 1, 0);
    SEE(c, Y, 0);
    SEE(d, X, 0);
    SEE(d, Y, 2, 0);
    commit(a);
    commit(b);
    commit(c);
    commit(d);
    forbidden_from(TXN_LEVEL_SNAPSHOT, TXN_G_NONADJACENT);
}

static void write_skew(void)
{
    uint32_t a = begin(), b = begin();
    SEE(a, X, 0);
    SEE(b, Y, 0);
    append(a, Y, 1);
    append(b, X, 2);
    commit(a);
    commit(b);
    uint32_t r = begin();
    SEE(r, X, 2, 0);
    SEE(r, Y, 1, 0);
    commit(r);
}

static void write_skew_is_g2(void **state)
{
    (void)state;
    write_skew();
    forbidden_from(TXN_LEVEL_SERIALIZABLE, TXN_G2);
    text_is("G2: T0(p1) -rw(k10)-> T1(p2) -rw(k20)-> T0(p1)");
}

static void each_transaction_is_held_to_what_it_asked_for(void **state)
{
    (void)state;
    isolation = TXN_SNAPSHOT;
    write_skew();
    only(TXN_LEVEL_STRICT, TXN_G2, false);
    h.txns[0].isolation = TXN_SERIALIZABLE; /* the other one still may */
    only(TXN_LEVEL_STRICT, TXN_G2, false);
    h.txns[1].isolation = TXN_SERIALIZABLE;
    only(TXN_LEVEL_STRICT, TXN_G2, true);
    h.txns[1].isolation = TXN_READ_COMMITTED;
    only(TXN_LEVEL_STRICT, TXN_G2, false);
}

/* One component with an allowed G-single through a read committed transaction. */
static void an_allowed_cycle_does_not_stand_for_a_forbidden_one(void **state)
{
    (void)state;
    isolation = TXN_SNAPSHOT;
    uint32_t a = begin(), b = begin(), c = begin(), d = begin();
    isolation = TXN_READ_COMMITTED;
    uint32_t e = begin();
    append(a, X, 1);
    append(a, Z, 3);
    append(b, Y, 2);
    SEE(c, X, 1, 0);
    SEE(c, Y, 0);
    SEE(d, X, 0);
    SEE(d, Y, 2, 0);
    SEE(e, X, 1, 0);
    SEE(e, Z, 0);
    commit(a);
    commit(b);
    commit(c);
    commit(d);
    commit(e);
    only(TXN_LEVEL_STRICT, TXN_G_NONADJACENT, true);
    only(TXN_LEVEL_READ_COMMITTED, TXN_G_SINGLE, false);
}

static void a_ring_of_unseen_appends_is_g2(void **state)
{
    (void)state;
    uint32_t a = begin(), b = begin(), c = begin(); /* three in a ring */
    SEE(a, X, 0);
    SEE(b, Y, 0);
    SEE(c, Z, 0);
    append(a, Y, 1);
    append(b, Z, 2);
    append(c, X, 3);
    commit(a);
    commit(b);
    commit(c);
    forbidden_from(TXN_LEVEL_SERIALIZABLE, TXN_G2); /* of appends that no list shows */
    text_is("G2: T0(p1) -rw(k10)-> T2(p3) -rw(k30)-> T1(p2) -rw(k20)-> T0(p1)");
}

/* ---- real time ---- */

static void a_stale_read_is_serializable_but_not_strict(void **state)
{
    (void)state;
    writer(X, 1);
    uint32_t r = begin(), s = begin();
    SEE(r, X, 0);
    SEE(s, X, 1, 0);
    commit(r);
    commit(s);
    clean(TXN_LEVEL_SERIALIZABLE);
    only(TXN_LEVEL_STRICT, TXN_REAL_TIME, true);
    text_is("real time: T0(p1) -real time-> T1(p2) -rw(k10)-> T0(p1)");
    h.txns[r].isolation = TXN_SNAPSHOT; /* of which recency isn't demanded */
    clean(TXN_LEVEL_STRICT);
}

/* Of two changes, one made after the other, a reader sees only the later one. */
static void causal_reverse_is_a_snapshots_right(void **state)
{
    (void)state;
    uint32_t r = begin();
    writer(X, 1);
    writer(Y, 1);
    SEE(r, X, 0);
    SEE(r, Y, 1, 0);
    commit(r);
    uint32_t s = begin();
    SEE(s, X, 1, 0);
    SEE(s, Y, 1, 0);
    commit(s);
    clean(TXN_LEVEL_SERIALIZABLE);
    only(TXN_LEVEL_STRICT, TXN_REAL_TIME, true);
    h.txns[r].isolation = TXN_SNAPSHOT;
    clean(TXN_LEVEL_STRICT);
}

static void touching_intervals_are_concurrent(void **state)
{
    (void)state;
    writer(X, 1);
    now--; /* begins in the instant in which the writer ended */
    uint32_t r = begin();
    SEE(r, X, 0);
    commit(r);
    now--;
    uint32_t s = begin();
    SEE(s, X, 1, 0);
    commit(s);
    clean(TXN_LEVEL_STRICT);
}

static void order_through_time_is_transitive(void **state)
{
    (void)state;
    uint32_t late = writer(Y, 1); /* appended first, ordered last */
    for (int i = 0; i < 20; i++) {
        writer(Z, 100 + (uint64_t)i);
    }
    writer(Y, 2);
    uint32_t r = begin();
    SEE(r, Y, 2, 1, 0);
    commit(r);
    only(TXN_LEVEL_STRICT, TXN_REAL_TIME, true);
    assert_int_equal(late, 0);
    text_is("real time: T0(p1) -real time-> T21(p22) -ww(k20)-> T0(p1)");
    clean(TXN_LEVEL_SERIALIZABLE);
}

/* A component of many transactions is told by its smallest cycle. */
static void a_minimal_cycle_is_shown(void **state)
{
    (void)state;
    uint32_t t[8];
    for (int i = 0; i < 8; i++) {
        t[i] = begin();
        append(t[i], (uint64_t)(100 + i), 1);
    }
    for (int i = 0; i < 8; i++) {
        SEE(t[(i + 1) % 8], (uint64_t)(100 + i), 1, 0);
    }
    SEE(t[3], 105, 1, 0);
    SEE(t[5], 103, 1, 0);
    for (int i = 0; i < 8; i++) {
        commit(t[i]);
    }
    only(TXN_LEVEL_READ_COMMITTED, TXN_G1C, true);
    text_is("G1c: T3(p4) -wr(k103)-> T5(p6) -wr(k105)-> T3(p4)");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_serial_history_is_clean),
        TEST(concurrent_transactions_take_any_order),
        TEST(unknown_counts_once_it_was_seen),
        TEST(aborted_appends_that_nobody_saw_are_nothing),
        TEST(an_older_version_may_be_read_when_asked_for),
        TEST(nothing_proves_nothing),
        TEST(a_full_history_has_no_verdict),
        TEST(garbage_is_found),
        TEST(a_duplicate_append_is_found),
        TEST(an_incompatible_order_is_found),
        TEST(a_lost_append_is_found),
        TEST(a_torn_transaction_is_found),
        TEST(own_appends_must_be_seen),
        TEST(own_appends_must_be_in_order),
        TEST(own_appends_must_not_be_seen_before),
        TEST(g1a_is_found),
        TEST(g1b_is_found),
        TEST(g0_is_found),
        TEST(g1c_is_found),
        TEST(read_skew_is_g_single),
        TEST(a_fuzzy_read_is_g_single),
        TEST(a_lost_update_is_g_single),
        TEST(a_lost_update_that_nobody_saw_is_g_single),
        TEST(long_fork_is_g_nonadjacent),
        TEST(write_skew_is_g2),
        TEST(each_transaction_is_held_to_what_it_asked_for),
        TEST(an_allowed_cycle_does_not_stand_for_a_forbidden_one),
        TEST(a_ring_of_unseen_appends_is_g2),
        TEST(a_stale_read_is_serializable_but_not_strict),
        TEST(causal_reverse_is_a_snapshots_right),
        TEST(touching_intervals_are_concurrent),
        TEST(order_through_time_is_transitive),
        TEST(a_minimal_cycle_is_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
