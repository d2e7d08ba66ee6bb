/* The core against nodes that lead, don't, go silent, lose connections, expire sessions. */
#include "support/test.h"

#include "base/mem.h"
#include "unit/client/fake.h"

static struct fake f; /* large */

static void begin(const struct core_opts *opts)
{
    fake_open(&f, 1);
    assert_int_equal(fake_connect(&f, NULL, opts), 0);
    assert_int_equal(fake_heap_open(&f), 0);
    assert_int_equal(core_heap_shards(f.heap), FAKE_SHARDS);
}

/* Numbered commands seen since `from`, in order of arrival. */
static uint32_t numbered(uint32_t from, struct fake_seen *out, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = from; i < f.seen_count; i++) {
        if (f.seen[i].seq != 0 && n < max) {
            out[n++] = f.seen[i];
        }
    }
    return n;
}

/* ---- finding the cluster ---- */

static void any_endpoint_that_answers_will_do(void **state)
{
    (void)state;
    fake_open(&f, 1);
    fake_node_kill(&f.nodes[0]);
    f.leader = 3;
    assert_int_equal(fake_connect(&f, "n1:7420, nowhere:1,n2:7420", NULL), 0);
    assert_int_equal(fake_heap_open(&f), 0); /* node 3 was learned from node 2 */
    fake_close(&f);
}

static void no_endpoint_answers_and_the_deadline_says_so(void **state)
{
    (void)state;
    fake_open(&f, 1);
    for (uint32_t i = 0; i < FAKE_NODES; i++) {
        fake_node_kill(&f.nodes[i]);
    }
    struct core_opts opts = {.timeout_ms = 2000};
    uint64_t t0 = sim_now_ns(f.sim);
    assert_int_equal(fake_connect(&f, NULL, &opts), ERR_UNAVAILABLE);
    assert_true(sim_now_ns(f.sim) - t0 < 2100 * SIM_MS);
    assert_true(strlen(f.open_text) > 0);
    fake_close(&f);
}

static void endpoints_are_checked(void **state)
{
    (void)state;
    fake_open(&f, 1);
    assert_int_equal(fake_connect(&f, "", NULL), ERR_INVAL);
    assert_int_equal(fake_connect(&f, "host", NULL), ERR_INVAL);
    assert_int_equal(fake_connect(&f, "host:", NULL), ERR_INVAL);
    assert_int_equal(fake_connect(&f, ":1", NULL), ERR_INVAL);
    assert_int_equal(fake_connect(&f, "n1:1,,n2:1", NULL), ERR_INVAL);
    fake_close(&f);
}

/* ---- routing ---- */

static void a_hint_is_followed_at_once(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    fake_add(&f, &c, 2);
    assert_int_equal(fake_wait(&f, &c), 0);
    f.leader = 3;
    uint64_t before = f.nodes[1].requests;
    uint64_t t0 = sim_now_ns(f.sim);
    fake_add(&f, &c, 2);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_true(sim_now_ns(f.sim) - t0 < 10 * SIM_MS);
    assert_int_equal(f.nodes[1].requests, before); /* nobody else was asked */
    assert_int_equal(f.counters[2], 2);
    fake_close(&f);
}

static void without_a_hint_all_nodes_are_asked_in_turn(void **state)
{
    (void)state;
    fake_open(&f, 1);
    f.hints = false;
    f.leader = 3;
    assert_int_equal(fake_connect(&f, NULL, NULL), 0);
    assert_int_equal(fake_heap_open(&f), 0);
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    f.leader = 2;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.counters[0], 2);
    fake_close(&f);
}

static void calls_wait_for_a_leader_until_their_deadline(void **state)
{
    (void)state;
    begin(NULL);
    f.leader = 0;
    struct fake_call a = {0};
    struct fake_call b;
    assert_int_equal(core_prepare_stat(&a.call, f.heap, fake_ptr(1)), 0);
    a.call.timeout_ms = 500;
    fake_submit(&f, &a);
    fake_add(&f, &b, 1);
    uint64_t t0 = sim_now_ns(f.sim);
    assert_int_equal(fake_wait(&f, &a), ERR_TIMEOUT);
    assert_true(sim_now_ns(f.sim) - t0 < 510 * SIM_MS);
    fake_run(&f, 5000);
    assert_false(b.done);
    f.leader = 2;
    assert_int_equal(fake_wait(&f, &b), 0);
    assert_int_equal(f.counters[1], 1);
    fake_close(&f);
}

static void a_node_that_goes_away_gets_no_new_requests(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    fake_goaway(&f.nodes[0]);
    fake_run(&f, 50);
    f.leader = 2;
    uint64_t before = f.nodes[0].requests;
    for (uint32_t i = 0; i < 20; i++) {
        fake_add(&f, &c, i % FAKE_SHARDS);
        assert_int_equal(fake_wait(&f, &c), 0);
    }
    assert_int_equal(f.nodes[0].requests, before);
    fake_close(&f);
}

static void an_overloaded_node_is_left_alone_for_as_long_as_it_asks(void **state)
{
    (void)state;
    begin(NULL);
    f.refuse = ERR_BUSY;
    f.refuse_times = 1;
    f.retry_after_ms = 700;
    struct fake_call c;
    uint64_t t0 = sim_now_ns(f.sim);
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_true(sim_now_ns(f.sim) - t0 >= 700 * SIM_MS);
    assert_true(sim_now_ns(f.sim) - t0 < 800 * SIM_MS);
    fake_close(&f);
}

/* It is what the others wait for: their shard is held until it comes. */
static void what_ends_a_hold_overtakes_those_who_wait(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call add;
    struct fake_call end = {0};
    fake_add(&f, &add, 0);
    assert_int_equal(fake_wait(&f, &add), 0);
    f.refuse = ERR_BUSY;
    f.refuse_times = 1;
    f.retry_after_ms = 700;
    uint64_t t0 = sim_now_ns(f.sim);
    fake_add(&f, &add, 0);
    fake_run(&f, 20);
    assert_int_equal(core_prepare_tx_close(&end.call, f.heap, 0, 1000, 7, 1000), 0);
    fake_submit(&f, &end);
    assert_int_equal(fake_wait(&f, &end), 0);
    assert_true(sim_now_ns(f.sim) - t0 < 100 * SIM_MS);
    assert_false(add.done);
    /* Refused itself, it waits like any other. */
    f.refuse_times = 1;
    memset(&end, 0, sizeof end);
    assert_int_equal(core_prepare_tx_close(&end.call, f.heap, 0, 1000, 7, 1000), 0);
    fake_submit(&f, &end);
    assert_int_equal(fake_wait(&f, &end), 0);
    assert_true(sim_now_ns(f.sim) - t0 >= 700 * SIM_MS);
    assert_int_equal(fake_wait(&f, &add), 0);
    fake_close(&f);
}

/* A node without a replica says so to each of the requests that were on their way to it. */
static void a_node_without_the_shard_counts_once(void **state)
{
    (void)state;
    begin(NULL);
    static struct fake_call c[20];
    fake_add(&f, &c[0], 0);
    assert_int_equal(fake_wait(&f, &c[0]), 0);
    f.refuse = ERR_NOSHARD;
    f.refuse_times = 20;
    for (uint32_t i = 0; i < 20; i++) {
        fake_add(&f, &c[i], 0);
    }
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(fake_wait(&f, &c[i]), 0);
    }
    assert_int_equal(f.counters[0], 21);
    fake_close(&f);
}

static void a_silent_node_is_given_up_for_another(void **state)
{
    (void)state;
    begin(NULL);
    sim_proc_pause(f.nodes[0].env, true);
    struct fake_call c;
    fake_add(&f, &c, 0);
    fake_run(&f, 500);
    f.leader = 2;
    uint64_t t0 = sim_now_ns(f.sim);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_true(sim_now_ns(f.sim) - t0 < 3000 * SIM_MS);
    sim_proc_pause(f.nodes[0].env, false);
    fake_close(&f);
}

static void questions_go_to_the_node_they_name(void **state)
{
    (void)state;
    begin(NULL);
    static const char *const names[] = {"n3", "n1", "n2"};
    for (uint32_t i = 0; i < 3; i++) {
        struct fake_call c = {0};
        assert_int_equal(core_prepare_admin(&c.call, f.core, names[i], "status", slice_of("", 0)),
                         0);
        fake_submit(&f, &c);
        assert_int_equal(fake_wait(&f, &c), 0);
        assert_string_equal(f.admin_node, names[i]);
        assert_int_equal(c.call.bytes.len, 2);
        buf_close(&c.call.bytes);
    }
    struct fake_call c = {0};
    assert_int_equal(core_prepare_admin(&c.call, f.core, "n9", "status", slice_of("", 0)), 0);
    fake_submit(&f, &c);
    assert_int_equal(fake_wait(&f, &c), ERR_NOTFOUND);
    fake_node_kill(&f.nodes[1]);
    c = (struct fake_call){0};
    assert_int_equal(core_prepare_admin(&c.call, f.core, "n2", "status", slice_of("", 0)), 0);
    fake_submit(&f, &c);
    uint64_t t0 = sim_now_ns(f.sim);
    assert_int_equal(fake_wait(&f, &c), ERR_UNAVAILABLE);
    assert_true(sim_now_ns(f.sim) - t0 < 5000 * SIM_MS);
    fake_close(&f);
}

static void an_answer_of_the_wrong_kind_costs_the_connection_and_no_more(void **state)
{
    (void)state;
    begin(NULL);
    f.garbage = true;
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.counters[0], 1);
    fake_close(&f);
}

/* ---- numbers ---- */

static void a_resent_command_keeps_its_number_and_its_bytes(void **state)
{
    (void)state;
    begin(NULL);
    f.silent = true; /* applied, never answered */
    struct fake_call c;
    fake_add(&f, &c, 0);
    fake_run(&f, 100);
    assert_int_equal(f.counters[0], 1);
    f.leader = 2;
    f.silent = false;
    fake_node_kill(&f.nodes[0]);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(c.call.value, 0);  /* the answer of the first time */
    assert_int_equal(f.counters[0], 1); /* and it was the only time */
    struct fake_seen seen[8];
    uint32_t n = numbered(0, seen, 8);
    assert_true(n >= 2);
    for (uint32_t i = 1; i < n; i++) {
        assert_int_equal(seen[i].seq, 1);
        assert_int_equal(seen[i].session, seen[0].session);
        assert_int_equal(seen[i].hash, seen[0].hash);
    }
    fake_close(&f);
}

static void a_command_refused_after_it_was_proposed_takes_effect_once(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    f.late_notleader = true;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.counters[0], 2);
    fake_close(&f);
}

static void acknowledged_is_what_is_answered_without_a_gap(void **state)
{
    (void)state;
    begin(NULL);
    static struct fake_call c[6];
    f.hold = true;
    for (uint32_t i = 0; i < 3; i++) {
        fake_add(&f, &c[i], 0);
    }
    fake_run(&f, 50);
    assert_int_equal(f.held_count, 3);
    fake_release(&f, 1);
    fake_release(&f, 2);
    fake_run(&f, 50);
    assert_true(c[1].done && c[2].done);
    assert_false(c[0].done);
    fake_add(&f, &c[3], 0); /* 1 is open: nothing is acknowledged */
    fake_run(&f, 50);
    fake_release(&f, 0);
    fake_run(&f, 50);
    fake_add(&f, &c[4], 0); /* 1..3 are */
    fake_run(&f, 50);
    fake_release_all(&f);
    assert_int_equal(fake_wait(&f, &c[4]), 0);
    fake_add(&f, &c[5], 0);
    assert_int_equal(fake_wait(&f, &c[5]), 0);
    struct fake_seen seen[8];
    assert_int_equal(numbered(0, seen, 8), 6);
    static const uint64_t acked[6] = {0, 0, 0, 0, 3, 5};
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(seen[i].seq, i + 1);
        assert_int_equal(seen[i].acked, acked[i]);
    }
    fake_close(&f);
}

static void no_more_than_the_window_is_in_flight(void **state)
{
    (void)state;
    struct core_opts opts = {.inflight_max = 4};
    begin(&opts);
    static struct fake_call c[40];
    f.hold = true;
    for (uint32_t i = 0; i < 40; i++) {
        fake_add(&f, &c[i], 0);
    }
    fake_run(&f, 100);
    assert_int_equal(f.held_count, 4);
    fake_release(&f, 3); /* the window begins at the oldest that is unanswered */
    fake_run(&f, 100);
    assert_int_equal(f.held_count, 4);
    fake_release(&f, 0);
    fake_run(&f, 100);
    assert_int_equal(f.held_count, 5);
    fake_release_all(&f);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(fake_wait(&f, &c[i]), 0);
    }
    assert_int_equal(f.counters[0], 40);
    for (uint32_t i = 0; i < f.seen_count; i++) {
        assert_true(f.seen[i].seq == 0 || f.seen[i].seq - f.seen[i].acked <= 4);
    }
    fake_close(&f);
}

static void an_unanswered_command_is_in_doubt_and_goes_on(void **state)
{
    (void)state;
    struct core_opts opts = {.timeout_ms = 1000};
    begin(&opts);
    f.silent = true;
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), ERR_INDOUBT);
    assert_true(strlen(c.call.text) > 0);
    struct core_stats stats;
    core_get_stats(f.core, &stats);
    assert_int_equal(stats.in_background, 1);
    memset(&c, 0xee, sizeof c); /* the caller's memory is the caller's */
    f.silent = false;
    fake_run(&f, 10000);
    core_get_stats(f.core, &stats);
    assert_int_equal(stats.in_background, 0);
    assert_int_equal(f.counters[0], 1);
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.seen[f.seen_count - 1].acked, 1); /* it no longer holds the window up */
    fake_close(&f);
}

static void a_command_surely_refused_until_the_deadline_is_not_in_doubt(void **state)
{
    (void)state;
    struct core_opts opts = {.timeout_ms = 1000};
    begin(&opts);
    f.refuse = ERR_BUSY;
    f.refuse_times = 1000000;
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), ERR_TIMEOUT);
    f.refuse_times = 0;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.counters[0], 1);
    fake_close(&f);
}

static void final_errors_end_the_call_and_free_its_number(void **state)
{
    (void)state;
    begin(NULL);
    static const int errs[] = {ERR_DENIED, ERR_INVAL, ERR_TOOBIG, ERR_PROTOCOL, ERR_UNSUPPORTED};
    struct fake_call c;
    for (uint32_t i = 0; i < 5; i++) {
        f.refuse = errs[i];
        f.refuse_times = 1;
        fake_add(&f, &c, 0);
        assert_int_equal(fake_wait(&f, &c), errs[i]);
        assert_string_equal(c.call.text, "refused");
    }
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.seen[f.seen_count - 1].seq, 6);
    assert_int_equal(f.seen[f.seen_count - 1].acked, 5);
    fake_close(&f);
}

/* ---- sessions ---- */

static void an_expired_session_is_replaced_unseen(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    fake_expire_sessions(&f);
    static struct fake_call many[20];
    for (uint32_t i = 0; i < 20; i++) {
        fake_add(&f, &many[i], 0);
    }
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(fake_wait(&f, &many[i]), 0);
    }
    assert_int_equal(f.counters[0], 21);
    assert_int_equal(f.session_count, 2);
    fake_close(&f);
}

static void a_command_sent_twice_when_its_session_expires_is_in_doubt(void **state)
{
    (void)state;
    begin(NULL);
    f.silent = true;
    struct fake_call c;
    fake_add(&f, &c, 0);
    fake_run(&f, 100);
    fake_expire_sessions(&f);
    f.silent = false;
    f.leader = 2;
    fake_node_kill(&f.nodes[0]);
    assert_int_equal(fake_wait(&f, &c), ERR_INDOUBT);
    assert_int_equal(f.counters[0], 1);
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.counters[0], 2);
    fake_close(&f);
}

static const struct fake_seen *last_seen(void)
{
    return &f.seen[f.seen_count - 1];
}

static void a_command_that_meets_a_transaction_comes_again_under_another_number(void **state)
{
    (void)state;
    struct core_opts opts = {.timeout_ms = 500};
    begin(&opts);
    struct fake_call c;
    f.undecided = 3;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.counters[0], 1);
    assert_int_equal(last_seen()->seq, 4);
    assert_int_equal(last_seen()->acked, 3);
    struct fake_call late;
    f.undecided = UINT32_MAX;
    fake_add(&f, &late, 0);
    int rv = fake_wait(&f, &late); /* nothing has happened, and that is said */
    assert_true(rv == ERR_TIMEOUT || rv == ERR_INDOUBT);
    assert_int_equal(f.counters[0], 1);
    fake_close(&f);
}

static struct core_op *draw(struct fake_call *c)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(core_prepare_tx_reserve(&c->call, f.heap, 0), 0);
    fake_submit(&f, c);
    assert_int_equal(fake_wait(&f, c), 0);
    assert_non_null(c->call.op);
    return c->call.op;
}

static int commit_with(struct fake_call *c, struct core_op *number)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(core_prepare_tx_commit_one(&c->call, f.heap, 0, slice_of("part", 4)), 0);
    c->call.reserved = number;
    fake_submit(&f, c);
    return fake_wait(&f, c);
}

static void a_number_can_be_drawn_before_its_commit(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    struct fake_call drawn;
    struct core_op *number = draw(&drawn);
    assert_int_equal(drawn.call.seq, 1);
    assert_true(drawn.call.value > drawn.call.session); /* its deadline lies ahead */
    fake_add(&f, &c, 0); /* overtakes it, and acknowledges nothing beyond it */
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(last_seen()->seq, 2);
    assert_int_equal(last_seen()->acked, 0);
    assert_int_equal(commit_with(&c, number), 0);
    assert_int_equal(last_seen()->kind, KIND_TX_COMMIT_ONE);
    assert_int_equal(last_seen()->seq, 1);
    assert_int_equal(c.call.seq, 1);
    number = draw(&drawn);
    core_tx_release(number); /* never used: the next ones go past it */
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(last_seen()->acked, 3);
    (void)draw(&drawn); /* one that nobody gives back goes with the core */
    fake_close(&f);
}

static void a_drawn_number_never_becomes_another(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    struct fake_call drawn;
    struct core_op *number = draw(&drawn);
    fake_expire_sessions(&f);
    assert_int_equal(commit_with(&c, number), ERR_TX_ABORTED);
    assert_int_equal(f.counters[0], 0);
    number = draw(&drawn);
    fake_expire_sessions(&f);
    fake_add(&f, &c, 0); /* this one finds out, and gets a new session */
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(commit_with(&c, number), ERR_TX_ABORTED);
    assert_int_equal(f.counters[0], 1);
    fake_close(&f);
}

static void sessions_are_kept_alive_only_while_results_are_unacknowledged(void **state)
{
    (void)state;
    struct core_opts opts = {.lease_ms = 3000};
    begin(&opts);
    struct fake_call c;
    fake_run(&f, 10000);
    assert_int_equal(f.session_count, 0); /* opened when needed */
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    assert_int_equal(f.keepalives, 0);
    fake_run(&f, 20000);
    assert_int_equal(f.keepalives,
                     1); /* it told the result's receipt; then there was nothing to keep */
    assert_int_equal(f.sessions[0].acked, 1);
    fake_close(&f);
}

static void closing_ends_the_sessions_and_cancels_what_is_pending(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c[3];
    for (uint32_t i = 0; i < 3; i++) {
        fake_add(&f, &c[i], i);
        assert_int_equal(fake_wait(&f, &c[i]), 0);
    }
    f.silent = true;
    fake_add(&f, &c[0], 0);
    fake_run(&f, 20);
    fake_core_close(&f);
    assert_true(c[0].done);
    assert_int_equal(c[0].call.err, ERR_CANCELED);
    assert_int_equal(f.closes, 3);
    fake_close(&f);
}

static void closing_takes_a_second_at_most(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    fake_add(&f, &c, 0);
    assert_int_equal(fake_wait(&f, &c), 0);
    sim_proc_pause(f.nodes[0].env, true);
    fake_core_close(&f); /* asserts the bound */
    sim_proc_pause(f.nodes[0].env, false);
    fake_close(&f);
}

/* ---- reads and placement ---- */

static void read_is(const uint8_t *data, size_t len, uint64_t offset, uint64_t version)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] != (uint8_t)((offset + i) * 7 + version)) {
            fail_msg("byte %zu", i);
        }
    }
}

static void a_large_read_has_one_version(void **state)
{
    (void)state;
    begin(NULL);
    size_t len = 5u * READ_BYTES_MAX + 17;
    uint8_t *data = malloc(len);
    for (uint32_t changes = 0; changes < 40; changes += 13) {
        struct fake_call c = {0};
        f.read_changes = changes;
        assert_int_equal(core_prepare_read(&c.call, f.heap, fake_ptr(3), 11, data, len), 0);
        fake_submit(&f, &c);
        assert_int_equal(fake_wait(&f, &c), 0);
        read_is(data, len, 11, c.call.version);
    }
    struct fake_call c = {0};
    f.read_changes = 1000000;
    assert_int_equal(core_prepare_read(&c.call, f.heap, fake_ptr(3), 0, data, len), 0);
    fake_submit(&f, &c);
    assert_int_equal(fake_wait(&f, &c), ERR_BUSY);
    f.read_changes = 0;
    free(data);
    fake_close(&f);
}

static void objects_are_spread_over_the_shards(void **state)
{
    (void)state;
    begin(NULL);
    struct fake_call c;
    for (uint32_t i = 0; i < 5 * FAKE_SHARDS; i++) {
        memset(&c, 0, sizeof c);
        assert_int_equal(core_prepare_alloc(&c.call, f.heap, 100, 0, slice_of("abc", 3)), 0);
        fake_submit(&f, &c);
        assert_int_equal(fake_wait(&f, &c), 0);
    }
    for (uint32_t i = 0; i < FAKE_SHARDS; i++) {
        assert_int_equal(f.counters[i], 5);
    }
    fake_close(&f);
}

static void arguments_are_checked_before_anything_is_sent(void **state)
{
    (void)state;
    begin(NULL);
    struct core_call c = {0};
    static uint8_t big[WRITE_BYTES_MAX + 1];
    struct slice none = slice_of(NULL, 0);
    assert_int_equal(core_prepare_alloc(&c, f.heap, 0, 0, none), ERR_INVAL);
    assert_int_equal(core_prepare_alloc(&c, f.heap, OBJECT_BYTES_MAX + 1ull, 0, none), ERR_TOOBIG);
    assert_int_equal(core_prepare_alloc(&c, f.heap, 2, 0, slice_of("abc", 3)), ERR_RANGE);
    assert_int_equal(core_prepare_free(&c, f.heap, 0), ERR_INVAL);
    assert_int_equal(core_prepare_free(&c, f.heap, fake_ptr(FAKE_SHARDS)), ERR_INVAL);
    assert_int_equal(core_prepare_write(&c, f.heap, fake_ptr(0), 0, none), ERR_INVAL);
    assert_int_equal(core_prepare_write(&c, f.heap, fake_ptr(0), 0, slice_of(big, sizeof big)),
                     ERR_TOOBIG);
    assert_int_equal(core_prepare_write(&c, f.heap, fake_ptr(0), UINT64_MAX, slice_of("a", 1)),
                     ERR_RANGE);
    assert_int_equal(core_prepare_read(&c, f.heap, fake_ptr(0), OBJECT_BYTES_MAX, big, 1),
                     ERR_RANGE);
    assert_int_equal(core_prepare_root_get(&c, f.heap, ""), ERR_INVAL);
    assert_int_equal(core_prepare_root_set(&c, f.heap, "r", 0), ERR_INVAL);
    assert_int_equal(core_prepare_root_set(&c, f.heap, "r", fake_ptr(FAKE_SHARDS)), ERR_INVAL);
    assert_int_equal(core_prepare_heap_open(&c, f.core, "Heap"), ERR_INVAL);
    assert_int_equal(core_prepare_heap_open(&c, f.core, "-h"), ERR_INVAL);
    assert_int_equal(core_prepare_heap_create(&c, f.core, "h", 0, 0, 1, 0), ERR_INVAL);
    char name[300];
    memset(name, 'x', sizeof name);
    name[256] = '\0';
    assert_int_equal(core_prepare_root_get(&c, f.heap, name), ERR_INVAL);
    assert_true(strlen(c.text) > 0);
    fake_close(&f);
}

/* ---- all at once ---- */

static void every_increment_takes_effect_once(void **state)
{
    (void)state;
    enum { CALLS = 1500 };
    static struct fake_call c[CALLS];
    for (uint64_t seed = 1; seed <= 12; seed++) {
        fake_open(&f, seed);
        struct core_opts opts = {.inflight_max = 16, .timeout_ms = 4000};
        assert_int_equal(fake_connect(&f, NULL, &opts), 0);
        assert_int_equal(fake_heap_open(&f), 0);
        f.drop_per_million = 20000;
        for (uint32_t i = 0; i < CALLS; i++) {
            fake_add(&f, &c[i], i % FAKE_SHARDS);
            if (i % 50 == 0) {
                f.leader = 1 + (uint32_t)sim_below(f.sim, FAKE_NODES);
                f.hints = sim_chance(f.sim, 500000);
                f.silent = sim_chance(f.sim, 100000);
                f.late_notleader = sim_chance(f.sim, 300000);
                if (sim_chance(f.sim, 100000)) {
                    fake_expire_sessions(&f);
                }
                (void)sim_net_reset_one(f.sim, NULL);
                fake_run(&f, sim_below(f.sim, 200));
            }
        }
        f.silent = false;
        f.drop_per_million = 0;
        uint64_t good = 0;
        uint64_t doubt = 0;
        for (uint32_t i = 0; i < CALLS; i++) {
            int rv = fake_wait(&f, &c[i]);
            assert_true(rv == 0 || rv == ERR_INDOUBT || rv == ERR_TIMEOUT);
            good += rv == 0;
            doubt += rv == ERR_INDOUBT;
        }
        fake_run(&f, 10000);
        struct core_stats stats;
        core_get_stats(f.core, &stats);
        assert_int_equal(stats.in_background, 0);
        uint64_t sum = 0;
        for (uint32_t i = 0; i < FAKE_SHARDS; i++) {
            sum += f.counters[i];
        }
        assert_true(sum >= good);
        assert_true(sum <= good + doubt);
        assert_true(good > CALLS / 4);
        fake_close(&f);
    }
}

/* ---- no memory ---- */

struct sweep {
    struct fake_call c;
    long after;
    long hits;
    int prepared;
};

static void sweep_turn(void *arg)
{
    struct sweep *s = arg;
    mem_fault(s->after, 1);
    s->prepared = core_prepare_add_u64(&s->c.call, f.heap, fake_ptr(0), 0, 1);
    if (s->prepared == 0) {
        core_call(f.core, &s->c.call);
    }
    s->hits = mem_fault_hits();
    mem_fault(0, 0);
}

static void sweep_done(struct core_call *call)
{
    container_of(call, struct sweep, c.call)->c.done = true;
}

static void a_call_survives_any_failed_allocation(void **state)
{
    (void)state;
    uint64_t good = 0;
    long after = 0;
    for (;; after++) {
        begin(NULL); /* anew: the first call of a shard opens its session */
        struct sweep s = {.after = after};
        s.c.call.cb = sweep_done;
        sim_proc_call(f.env, sweep_turn, &s);
        if (s.prepared == 0) {
            int rv = fake_wait(&f, &s.c);
            assert_int_equal(rv, 0); /* inside, another attempt is made */
            good++;
            assert_int_equal(f.counters[0], 1);
        } else {
            assert_int_equal(s.prepared, ERR_NOMEM);
        }
        bool last = s.hits == 0;
        fake_close(&f);
        if (last) {
            break;
        }
        assert_true(after < 100);
    }
    assert_true(good >= 2);
    assert_true(after >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_endpoint_that_answers_will_do),
        cmocka_unit_test(no_endpoint_answers_and_the_deadline_says_so),
        cmocka_unit_test(endpoints_are_checked),
        cmocka_unit_test(a_hint_is_followed_at_once),
        cmocka_unit_test(without_a_hint_all_nodes_are_asked_in_turn),
        cmocka_unit_test(calls_wait_for_a_leader_until_their_deadline),
        cmocka_unit_test(a_node_that_goes_away_gets_no_new_requests),
        cmocka_unit_test(an_overloaded_node_is_left_alone_for_as_long_as_it_asks),
        cmocka_unit_test(what_ends_a_hold_overtakes_those_who_wait),
        cmocka_unit_test(a_node_without_the_shard_counts_once),
        cmocka_unit_test(a_silent_node_is_given_up_for_another),
        cmocka_unit_test(questions_go_to_the_node_they_name),
        cmocka_unit_test(an_answer_of_the_wrong_kind_costs_the_connection_and_no_more),
        cmocka_unit_test(a_resent_command_keeps_its_number_and_its_bytes),
        cmocka_unit_test(a_command_refused_after_it_was_proposed_takes_effect_once),
        cmocka_unit_test(acknowledged_is_what_is_answered_without_a_gap),
        cmocka_unit_test(no_more_than_the_window_is_in_flight),
        cmocka_unit_test(an_unanswered_command_is_in_doubt_and_goes_on),
        cmocka_unit_test(a_command_surely_refused_until_the_deadline_is_not_in_doubt),
        cmocka_unit_test(final_errors_end_the_call_and_free_its_number),
        cmocka_unit_test(an_expired_session_is_replaced_unseen),
        cmocka_unit_test(a_command_that_meets_a_transaction_comes_again_under_another_number),
        cmocka_unit_test(a_number_can_be_drawn_before_its_commit),
        cmocka_unit_test(a_drawn_number_never_becomes_another),
        cmocka_unit_test(a_command_sent_twice_when_its_session_expires_is_in_doubt),
        cmocka_unit_test(sessions_are_kept_alive_only_while_results_are_unacknowledged),
        cmocka_unit_test(closing_ends_the_sessions_and_cancels_what_is_pending),
        cmocka_unit_test(closing_takes_a_second_at_most),
        cmocka_unit_test(a_large_read_has_one_version),
        cmocka_unit_test(objects_are_spread_over_the_shards),
        cmocka_unit_test(arguments_are_checked_before_anything_is_sent),
        cmocka_unit_test(every_increment_takes_effect_once),
        cmocka_unit_test(a_call_survives_any_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
