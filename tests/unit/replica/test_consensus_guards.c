/* The defects of libraft 0.22.1 that the facade steers around: docs/adr/0002 has the list by the
 * same letters. Each test fails when its guard is taken out. */
#include "consensus_fixture.h"

static struct consensus_message vote(uint64_t from, uint64_t term, uint64_t index,
                                     uint64_t log_term, uint16_t flags)
{
    return (struct consensus_message){.type = MSG_VOTE,
                                      .from = from,
                                      .to = 1,
                                      .version = 2,
                                      .term = term,
                                      .index = index,
                                      .log_term = log_term,
                                      .flags = flags};
}

static void a_pre_vote_rejection_carries_the_higher_term(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    must_receive(&f, vote(3, 7, 1, 1, 0)); /* refused, but its term counts */
    assert_int_equal(f.u->term, 7);
    must_receive(&f, vote(2, 3, 9, 1, MSG_PRE_VOTE));
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, MSG_PRE_VOTE);
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->term, 7);
    fixture_close(&f);
}

static void b_a_rejection_points_back_to_the_commit_index(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 20);
    must_receive(&f, append(&f, 2, 3, 4, 1, 4)); /* matches up to 4 in term 3 */
    must_receive(&f, append(&f, 2, 3, 15, 2, 4));
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->rejected, 15);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 4);
    /* a match of this term is worth more than the commit index */
    must_receive(&f, append(&f, 2, 3, 10, 1, 4));
    must_receive(&f, append(&f, 2, 3, 15, 2, 4));
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 10);
    fixture_close(&f);
}

static void c_what_is_committed_is_neither_rejected_nor_appended_again(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 10);
    must_receive(&f, append(&f, 2, 2, 10, 1, 10));
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, 8, 1, 8, &f.u), 0);
    must_receive(&f, append(&f, 2, 2, 5, 1, 10)); /* trimmed here */
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->rejected, 0);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 10);
    struct consensus_config config = config_of(3, 3);
    struct wal_entry e[2] = {change_entry(1, &config), entry(1, "old")};
    struct consensus_message m =
        append(&f, 2, 2, 0, 0, 10); /* an old copy from the very beginning */
    m.entries = e;
    m.count = 2;
    must_receive(&f, m);
    assert_int_equal(f.u->entry_count, 0);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 10);
    /* and one that reaches beyond */
    struct wal_entry tail[3] = {entry(1, "9"), entry(1, "10"), entry(2, "11")};
    m = append(&f, 2, 2, 8, 1, 10);
    m.entries = tail;
    m.count = 3;
    must_receive(&f, m);
    assert_int_equal(f.u->first_index, 11);
    assert_int_equal(f.u->entry_count, 1);
    fixture_close(&f);
}

static void d_a_change_in_the_middle_of_a_message_is_known_by_its_own_index(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    struct consensus_config config = config_of(3, 4);
    struct wal_entry e[4] = {entry(2, "3"), entry(2, "4"), change_entry(2, &config), entry(2, "6")};
    struct consensus_message m = append(&f, 2, 2, 2, 1, 6);
    m.entries = e;
    m.count = 4;
    must_receive(&f, m);
    assert_int_equal(f.u->first_index, 3);
    assert_int_equal(f.u->entry_count, 4);
    assert_int_equal(f.u->commit_index, 6);
    assert_true(consensus_change_pending(f.c));
    assert_int_equal(consensus_configuration_applied(f.c, f.now, 5, f.log[4].data, &f.u), 0);
    assert_false(consensus_change_pending(f.c));
    fixture_close(&f);
}

static void e_an_answer_to_an_old_term_acknowledges_nothing_new(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 6);
    must_receive(&f, append(&f, 3, 5, 4, 1, 2)); /* matched up to 4 in term 5 */
    struct consensus_message old = {.type = MSG_SNAPSHOT,
                                    .from = 2,
                                    .to = 1,
                                    .term = 3,
                                    .index = 60,
                                    .log_term = 2,
                                    .config = config_of(3, 3),
                                    .config_index = 1};
    must_receive(&f, old);
    assert_null(f.u->install);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->term, 5);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->rejected, 0);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 4);
    must_receive(&f, append(&f, 2, 3, 0, 0, 0));
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 4);
    must_receive(&f, vote(2, 9, 1, 1, MSG_DISRUPT)); /* nothing is known of a leader of term 9 */
    must_receive(&f, append(&f, 3, 5, 4, 1, 2));
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->term, 9);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->rejected, 0);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 0);
    fixture_close(&f);
}

static void f_a_sole_voter_leads_only_in_a_term_of_its_own(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 1, 3); /* back from a crash in term 1 */
    assert_int_equal(f.u->term, 2);
    assert_int_equal(f.u->voted_for, 1);
    assert_true(f.u->hard_state_changed);
    fixture_close(&f);

    fixture_open(&f, 2, 3); /* 2 leads term 2 and removes itself */
    struct consensus_config config = config_of(1, 1);
    struct wal_entry e = change_entry(2, &config);
    struct consensus_message m = append(&f, 2, 2, 3, 1, 3);
    m.entries = &e;
    m.count = 1;
    must_receive(&f, m);
    persist(&f);
    struct consensus_message now = {
        .type = MSG_TIMEOUT_NOW, .from = 2, .to = 1, .term = 2, .index = 4, .log_term = 2};
    must_receive(&f, now);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    tick(&f, 2 * ELECTION_MS + 1);
    assert_int_equal(consensus_state(f.c), CONSENSUS_LEADER);
    assert_int_equal(f.u->term, 3);
    assert_int_equal(f.u->voted_for, 1);
    assert_true(f.u->hard_state_changed);
    fixture_close(&f);
}

static void g_no_change_before_an_entry_of_the_own_term_is_committed(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    tick(&f, 2 * ELECTION_MS + 1);
    struct consensus_message r = {
        .type = MSG_VOTE_RESULT, .from = 2, .to = 1, .version = 2, .term = 2};
    r.flags = MSG_GRANTED | MSG_PRE_VOTE;
    must_receive(&f, r);
    r.flags = MSG_GRANTED;
    must_receive(&f, r);
    assert_int_equal(consensus_state(f.c), CONSENSUS_LEADER);
    struct consensus_config config = config_of(3, 4);
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_BUSY);
    persist(&f);
    must_receive(&f, append_result(&f, 2, f.last, 0));
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), 0);
    wal_block_unref(f.u->entries[0].block);
    fixture_close(&f);
}

static void h_rolling_back_a_change_keeps_the_one_before_it(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    struct consensus_config standby = config_of(3, 4), voter = config_of(4, 4), got;
    struct wal_entry e[2] = {change_entry(2, &standby), change_entry(2, &voter)};
    struct consensus_message m =
        append(&f, 2, 2, 2, 1, 3); /* 3 is committed and waits to be applied */
    m.entries = e;
    m.count = 2;
    must_receive(&f, m);
    consensus_get_config(f.c, &got);
    assert_int_equal(got.servers[3].role, CONSENSUS_VOTER);
    struct wal_entry other = entry(3, "other");
    m = append(&f, 3, 3, 3, 2, 3);
    m.entries = &other;
    m.count = 1;
    must_receive(&f, m);
    assert_int_equal(f.u->first_index, 4);
    consensus_get_config(f.c, &got);
    assert_int_equal(got.count, 4);
    assert_int_equal(got.servers[3].role, CONSENSUS_STANDBY);
    assert_int_equal(consensus_configuration_applied(f.c, f.now, 3, f.log[2].data, &f.u), 0);
    consensus_get_config(f.c, &got);
    assert_int_equal(got.count, 4);
    fixture_close(&f);
}

static void i_a_late_rejection_of_what_matches_is_ignored(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 6);
    become_leader(&f);
    must_receive(&f, append_result(&f, 3, 1, f.last - 1)); /* it was far behind */
    must_receive(&f, append_result(&f, 3, f.last, 0));     /* and is no more */
    for (int i = 0; i < 8; i++) {                          /* then silent: the pipeline ends */
        tick(&f, HEARTBEAT_MS);
        must_receive(&f, append_result(&f, 2, f.last, 0));
    }
    must_receive(&f, append_result(&f, 3, 1, f.last)); /* an old copy */
    assert_int_equal(f.u->message_count, 0);
    tick(&f, HEARTBEAT_MS);
    assert_int_equal(sent_to(&f, MSG_APPEND, 3)->index, f.last);
    fixture_close(&f);
}

static void j_a_standby_votes_and_forgets_a_silent_leader(void **state)
{
    (void)state;
    struct fixture f;
    struct consensus_config config = config_of(4, 4);
    config.servers[0].role = CONSENSUS_STANDBY; /* its promotion is in the candidate's log only */
    fixture_open_config(&f, config, 3);
    must_receive(&f, append(&f, 2, 2, 3, 1, 3));
    must_receive(&f, vote(3, 3, 9, 1, MSG_PRE_VOTE));
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags,
                     MSG_PRE_VOTE); /* the leader was just heard of */
    tick(&f, 2 * ELECTION_MS + 1);
    must_receive(&f, vote(3, 3, 9, 1, MSG_PRE_VOTE));
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, MSG_PRE_VOTE | MSG_GRANTED);
    must_receive(&f, vote(3, 3, 9, 1, 0));
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, MSG_GRANTED);
    assert_int_equal(f.u->voted_for, 3);
    tick(&f, 2 * ELECTION_MS + 1); /* but it doesn't campaign */
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    consensus_get_config(f.c, &config);
    assert_int_equal(config.servers[0].role, CONSENSUS_STANDBY);
    fixture_close(&f);
}

static void k_a_snapshot_at_index_one_is_sent(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 1);
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, 1, 1, 1, &f.u), 0);
    become_leader(&f);
    must_receive(&f, append_result(&f, 3, 0, 1));
    const struct consensus_message *m = sent_to(&f, MSG_SNAPSHOT, 3);
    assert_non_null(m);
    assert_int_equal(m->index, 1);
    assert_int_equal(m->log_term, 1);
    assert_null(sent_to(&f, MSG_APPEND, 3));
    must_receive(&f, append_result(&f, 3, 1, 0)); /* installed */
    m = sent_to(&f, MSG_APPEND, 3);
    assert_int_equal(m->index, 1);
    assert_int_equal(m->count, f.last - 1);
    fixture_close(&f);
}

static void l_an_heir_is_told_when_it_has_everything(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    become_leader(&f);
    assert_int_equal(submit(&f, "x"), 0);
    assert_int_equal(submit(&f, "y"), 0);
    persist(&f);
    assert_int_equal(consensus_transfer(f.c, f.now, 2, &f.u), 0);
    assert_null(sent_to(&f, MSG_TIMEOUT_NOW, 2));
    must_receive(&f, append_result(&f, 2, f.last - 1, 0));
    assert_null(sent_to(&f, MSG_TIMEOUT_NOW, 2)); /* it would ignore it */
    assert_int_equal(consensus_transferee(f.c), 2);
    must_receive(&f, append_result(&f, 2, f.last, 0));
    const struct consensus_message *m = sent_to(&f, MSG_TIMEOUT_NOW, 2);
    assert_non_null(m);
    assert_int_equal(m->index, f.last);
    must_receive(&f, append_result(&f, 2, f.last, 0));
    assert_null(sent_to(&f, MSG_TIMEOUT_NOW, 2)); /* once */
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pre_vote_rejection_carries_the_higher_term),
        cmocka_unit_test(b_a_rejection_points_back_to_the_commit_index),
        cmocka_unit_test(c_what_is_committed_is_neither_rejected_nor_appended_again),
        cmocka_unit_test(d_a_change_in_the_middle_of_a_message_is_known_by_its_own_index),
        cmocka_unit_test(e_an_answer_to_an_old_term_acknowledges_nothing_new),
        cmocka_unit_test(f_a_sole_voter_leads_only_in_a_term_of_its_own),
        cmocka_unit_test(g_no_change_before_an_entry_of_the_own_term_is_committed),
        cmocka_unit_test(h_rolling_back_a_change_keeps_the_one_before_it),
        cmocka_unit_test(i_a_late_rejection_of_what_matches_is_ignored),
        cmocka_unit_test(k_a_snapshot_at_index_one_is_sent),
        cmocka_unit_test(j_a_standby_votes_and_forgets_a_silent_leader),
        cmocka_unit_test(l_an_heir_is_told_when_it_has_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
