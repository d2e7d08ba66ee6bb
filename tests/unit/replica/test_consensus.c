/* The facade's contract: what each event lets the caller store, send and apply. */
#include "consensus_fixture.h"

static void a_replica_starts_as_follower_of_its_log(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 4);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    assert_int_equal(consensus_term(f.c), 1);
    assert_int_equal(consensus_leader(f.c), 0);
    assert_int_equal(consensus_commit_index(f.c), 1);
    assert_false(f.u->hard_state_changed);
    assert_false(f.u->state_changed);
    struct consensus_config config;
    consensus_get_config(f.c, &config);
    assert_int_equal(config.count, 3);
    assert_int_equal(config.servers[2].id, 3);
    assert_int_equal(config.servers[2].role, CONSENSUS_VOTER);
    assert_false(consensus_change_pending(f.c));
    fixture_close(&f);
}

static void a_sole_voter_leads_at_once_and_commits_alone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 1, 3);
    assert_int_equal(consensus_state(f.c), CONSENSUS_LEADER);
    assert_true(f.u->state_changed);
    assert_int_equal(consensus_leader(f.c), 1);
    assert_int_equal(consensus_commit_index(f.c), 3);
    assert_int_equal(submit(&f, "x"), 0);
    assert_int_equal(f.u->first_index, 4);
    assert_int_equal(f.u->entry_count, 1);
    assert_int_equal(f.log[3].term, consensus_term(f.c));
    assert_int_equal(consensus_commit_index(f.c), 3);
    persist(&f);
    assert_true(f.u->commit_changed);
    assert_int_equal(f.u->commit_index, 4);
    fixture_close(&f);
}

static void contradicting_state_is_refused_at_start(void **state)
{
    (void)state;
    struct wal_entry command = entry(1, "x");
    struct consensus_config config = config_of(3, 3);
    struct wal_entry change = change_entry(1, &config), later = change_entry(2, &config);
    struct consensus_start wrong[] = {
        {.term = 0, .voted_for = 1},
        {.term = 0, .first_index = 1, .entries = &change, .entry_count = 1},
        {.term = 1, .first_index = 1, .entries = &command, .entry_count = 1},
        {.term = 1, .first_index = 1, .entries = &later, .entry_count = 1},
        {.term = 1, .first_index = 2, .entries = &change, .entry_count = 1},
        {.term = 1, .snapshot_index = 5, .snapshot_term = 0, .config = config, .config_index = 1},
        {.term = 1, .snapshot_index = 5, .snapshot_term = 2, .config = config, .config_index = 1},
        {.term = 1, .snapshot_index = 5, .snapshot_term = 1, .config_index = 1},
        {.term = 1, .snapshot_index = 5, .snapshot_term = 1, .config = config, .config_index = 6},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct consensus_opts opts = {.id = 1, .election_ms = 100, .heartbeat_ms = 20};
        struct consensus *c;
        struct consensus_update *u;
        assert_int_equal(consensus_open(&opts, &c), 0);
        assert_int_equal(consensus_start(c, &wrong[i], &u), ERR_INVAL);
        consensus_free(c);
    }
    wal_block_unref(command.block);
    wal_block_unref(change.block);
    wal_block_unref(later.block);
}

static void a_start_from_a_snapshot_knows_its_configuration_and_commit_index(void **state)
{
    (void)state;
    struct consensus_opts opts = {.id = 1, .election_ms = 100, .heartbeat_ms = 20};
    struct consensus *c;
    struct consensus_update *u;
    struct wal_entry old[2] = {entry(1, "a"), entry(2, "b")};
    struct consensus_start start = {.term = 2,
                                    .snapshot_index = 8,
                                    .snapshot_term = 1,
                                    .config = config_of(2, 3),
                                    .config_index = 5,
                                    .first_index = 8,
                                    .entries = old,
                                    .entry_count = 2};
    assert_int_equal(consensus_open(&opts, &c), 0);
    assert_int_equal(consensus_start(c, &start, &u), 0);
    assert_int_equal(consensus_commit_index(c), 8);
    struct consensus_config config;
    consensus_get_config(c, &config);
    assert_int_equal(config.count, 3);
    assert_int_equal(config.servers[2].role, CONSENSUS_STANDBY);
    consensus_free(c);
    /* entries that end before the snapshot are of no use */
    start.first_index = 3;
    old[1].term = 1;
    assert_int_equal(consensus_open(&opts, &c), 0);
    assert_int_equal(consensus_start(c, &start, &u), 0);
    assert_int_equal(consensus_commit_index(c), 8);
    consensus_free(c);
    wal_block_unref(old[0].block);
    wal_block_unref(old[1].block);
}

static void a_leader_replicates_and_commits_by_majority(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    become_leader(&f);
    assert_int_equal(submit(&f, "x"), 0);
    const struct consensus_message *m = sent_to(&f, MSG_APPEND, 2);
    assert_non_null(m);
    assert_int_equal(m->index, f.last - 1);
    assert_int_equal(m->count, 1);
    assert_int_equal(m->from, 1);
    must_receive(&f, append_result(&f, 2, f.last, 0));
    assert_false(f.u->commit_changed); /* one of three: our own isn't durable */
    persist(&f);
    must_receive(&f, append_result(&f, 2, f.last, 0));
    assert_int_equal(consensus_commit_index(f.c), f.last);
    assert_int_equal(consensus_match_index(f.c, 2), f.last);
    assert_int_equal(consensus_match_index(f.c, 9), 0);
    fixture_close(&f);
}

static void a_majority_of_followers_commits_before_the_own_disk(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    become_leader(&f);
    must_receive(&f, append_result(&f, 3, f.last, 0));
    assert_int_equal(submit(&f, "x"), 0);
    must_receive(&f, append_result(&f, 2, f.last, 0));
    must_receive(&f, append_result(&f, 3, f.last, 0));
    assert_int_equal(consensus_commit_index(f.c), f.last);
    fixture_close(&f);
}

static void a_submission_elsewhere_is_refused_and_its_block_released(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 1);
    assert_int_equal(submit(&f, "x"), ERR_NOTLEADER);
    fixture_close(&f);
}

static void a_follower_acknowledges_what_is_durable(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    struct wal_entry e[2] = {entry(2, "a"), entry(2, "b")};
    struct consensus_message m = append(&f, 2, 2, 3, 1, 4);
    m.entries = e;
    m.count = 2;
    must_receive(&f, m);
    assert_true(f.u->hard_state_changed);
    assert_int_equal(f.u->term, 2);
    assert_int_equal(f.u->first_index, 4);
    assert_int_equal(f.u->entry_count, 2);
    assert_int_equal(f.u->commit_index, 4);
    assert_null(sent(&f, MSG_APPEND_RESULT));
    assert_int_equal(consensus_leader(f.c), 2);
    assert_int_equal(consensus_persisted(f.c, f.now, 4, 2, &f.u), 0); /* a prefix */
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 4);
    persist(&f);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 5);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->to, 2);
    persist(&f); /* no news */
    assert_null(sent(&f, MSG_APPEND_RESULT));
    fixture_close(&f);
}

static void a_conflicting_tail_is_replaced(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 4);
    struct wal_entry e = entry(3, "new");
    struct consensus_message m = append(&f, 3, 3, 2, 1, 1);
    m.entries = &e;
    m.count = 1;
    must_receive(&f, m);
    assert_int_equal(f.u->first_index, 3);
    assert_int_equal(f.last, 3);
    assert_int_equal(consensus_persisted(f.c, f.now, 4, 1, &f.u), 0); /* of the old tail */
    assert_int_equal(f.u->message_count, 0);
    assert_int_equal(consensus_persisted(f.c, f.now, 3, 1, &f.u), 0);
    assert_int_equal(f.u->message_count, 0);
    persist(&f);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 3);
    fixture_close(&f);
}

static void known_entries_are_released_and_not_stored_again(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    struct wal_entry e[3] = {entry(1, "old"), entry(1, "old"), entry(2, "new")};
    struct consensus_message m = append(&f, 2, 2, 1, 1, 1);
    m.entries = e;
    m.count = 3;
    must_receive(&f, m);
    assert_int_equal(f.u->first_index, 4);
    assert_int_equal(f.u->entry_count, 1);
    fixture_close(&f);
}

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

static void one_vote_per_term_for_a_log_that_is_as_good(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    must_receive(&f, vote(2, 2, 2, 1, 0)); /* a shorter log */
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, 0);
    assert_true(f.u->hard_state_changed); /* but its term is known now */
    must_receive(&f, vote(3, 2, 3, 1, 0));
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, MSG_GRANTED);
    assert_true(f.u->hard_state_changed);
    assert_int_equal(f.u->voted_for, 3);
    must_receive(&f, vote(2, 2, 9, 1, 0));
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, 0);
    assert_false(f.u->hard_state_changed);
    must_receive(&f, vote(2, 3, 9, 1, MSG_PRE_VOTE)); /* a pre-vote promises nothing */
    assert_int_equal(sent(&f, MSG_VOTE_RESULT)->flags, MSG_GRANTED | MSG_PRE_VOTE);
    assert_false(f.u->hard_state_changed);
    fixture_close(&f);
}

static void a_leader_of_an_older_term_steps_down(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    become_leader(&f);
    must_receive(&f, append(&f, 3, 9, 1, 1, 1));
    assert_true(f.u->state_changed);
    assert_true(f.u->hard_state_changed);
    assert_int_equal(f.u->term, 9);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    assert_int_equal(consensus_leader(f.c), 3);
    fixture_close(&f);
}

static void a_tick_before_its_time_does_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    tick(&f, ELECTION_MS / 2);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    assert_int_equal(f.u->message_count, 0);
    assert_true(consensus_timeout_ms(f.c) > f.now);
    become_leader(&f);
    tick(&f, 1);
    assert_int_equal(f.u->message_count, 0);
    tick(&f, HEARTBEAT_MS);
    assert_non_null(sent_to(&f, MSG_APPEND, 3));
    fixture_close(&f);
}

static struct consensus_message snapshot(uint64_t from, uint64_t term, uint64_t index,
                                         uint64_t log_term)
{
    return (struct consensus_message){.type = MSG_SNAPSHOT,
                                      .from = from,
                                      .to = 1,
                                      .term = term,
                                      .index = index,
                                      .log_term = log_term,
                                      .config = config_of(3, 4),
                                      .config_index = 6,
                                      .data = slice_of("manifest", 8)};
}

static void a_snapshot_replaces_the_log_once_it_is_installed(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    must_receive(&f, snapshot(2, 2, 10, 2));
    assert_non_null(f.u->install);
    assert_int_equal(f.u->install->index, 10);
    assert_int_equal(f.u->install->log_term, 2);
    assert_int_equal(f.u->install->config.count, 4);
    assert_memory_equal(f.u->install->data.data, "manifest", 8);
    assert_true(consensus_installing(f.c));
    must_receive(&f, append(&f, 2, 2, 10, 2, 10)); /* heartbeats go on */
    assert_int_equal(f.u->commit_index, 1);        /* the index that they carry isn't ours yet */
    assert_non_null(sent(&f, MSG_APPEND_RESULT));
    must_receive(&f, snapshot(2, 2, 10, 2)); /* offered again */
    assert_null(f.u->install);
    struct wal_entry e = entry(2, "too early");
    struct consensus_message m = append(&f, 2, 2, 10, 2, 10);
    m.entries = &e;
    m.count = 1;
    must_receive(&f, m);
    assert_int_equal(f.u->entry_count, 0);
    assert_int_equal(consensus_snapshot_installed(f.c, f.now, true, &f.u), 0);
    assert_false(consensus_installing(f.c));
    assert_int_equal(f.u->commit_index, 10);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 10);
    struct consensus_config config;
    consensus_get_config(f.c, &config);
    assert_int_equal(config.count, 4);
    fixture_close(&f);
}

static void a_snapshot_that_fails_leaves_the_log_as_it_was(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    struct wal_entry e = entry(2, "late");
    struct consensus_message m = append(&f, 2, 2, 3, 1, 1);
    m.entries = &e;
    m.count = 1;
    must_receive(&f, m);
    must_receive(&f, snapshot(2, 2, 10, 2));
    must_receive(&f, append(&f, 2, 2, 10, 2, 10));
    persist(&f); /* the entry from before the offer */
    assert_int_equal(consensus_snapshot_installed(f.c, f.now, false, &f.u), 0);
    assert_false(consensus_installing(f.c));
    assert_int_equal(consensus_commit_index(f.c), 1);
    must_receive(&f, append(&f, 2, 2, 4, 2, 4));
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->rejected, 0);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 4);
    must_receive(&f, append(&f, 2, 2, 10, 2, 10)); /* it doesn't claim the snapshot */
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->rejected, 10);
    assert_int_equal(sent(&f, MSG_APPEND_RESULT)->index, 4);
    must_receive(&f, snapshot(2, 2, 10, 2));
    assert_non_null(f.u->install);
    fixture_close(&f); /* while installing */
}

static void a_leader_sends_its_snapshot_to_who_needs_trimmed_entries(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 4);
    become_leader(&f);
    uint64_t index = f.last - 1;
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, index, 1, index, &f.u), 0);
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, index, 1, index, &f.u), 0); /* no news */
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, f.last + 1, 2, 1, &f.u), ERR_INVAL);
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, f.last, 7, 1, &f.u), ERR_INVAL);
    must_receive(&f, append_result(&f, 3, 1, f.last - 1));
    const struct consensus_message *m = sent_to(&f, MSG_SNAPSHOT, 3);
    assert_non_null(m);
    assert_int_equal(m->index, index);
    assert_int_equal(m->log_term, 1);
    fixture_close(&f);
}

static void what_the_log_releases_behind_a_known_snapshot_is_not_offered(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 8);
    become_leader(&f);
    uint64_t index = f.last - 1; /* nothing newer is committed, nor will it be without server 3 */
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, index, 1, 2, &f.u), 0);
    must_receive(&f, append_result(&f, 3, 4, f.last - 1));
    assert_int_equal(sent_to(&f, MSG_APPEND, 3)->index, 4);
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, index, 1, index, &f.u), 0);
    assert_int_equal(consensus_snapshot_taken(f.c, f.now, index, 1, 3, &f.u), 0); /* stays so */
    tick(&f, HEARTBEAT_MS);
    const struct consensus_message *m = sent_to(&f, MSG_SNAPSHOT, 3);
    assert_non_null(m);
    assert_int_equal(m->index, index);
    assert_int_equal(m->log_term, 1);
    fixture_close(&f);
}

static void leadership_is_handed_over(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    assert_int_equal(consensus_transfer(f.c, f.now, 2, &f.u), ERR_NOTLEADER);
    become_leader(&f);
    assert_int_equal(consensus_transfer(f.c, f.now, 1, &f.u), ERR_INVAL);
    assert_int_equal(consensus_transfer(f.c, f.now, 8, &f.u), ERR_INVAL);
    assert_int_equal(consensus_transfer(f.c, f.now, 2, &f.u), 0);
    const struct consensus_message *m = sent_to(&f, MSG_TIMEOUT_NOW, 2);
    assert_non_null(m);
    assert_int_equal(m->index, f.last);
    assert_int_equal(consensus_transferee(f.c), 2);
    assert_int_equal(submit(&f, "x"), ERR_BUSY);
    assert_int_equal(consensus_transfer(f.c, f.now, 3, &f.u), ERR_BUSY);
    for (int i = 0; i < 8; i++) { /* it never came */
        tick(&f, HEARTBEAT_MS);
        must_receive(&f, append_result(&f, 2, f.last, 0));
    }
    assert_int_equal(consensus_transferee(f.c), 0);
    assert_int_equal(submit(&f, "x"), 0);
    fixture_close(&f);
}

static void timeout_now_makes_an_up_to_date_follower_campaign_at_once(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    struct consensus_message m = {
        .type = MSG_TIMEOUT_NOW, .from = 2, .to = 1, .term = 2, .index = 3, .log_term = 1};
    must_receive(&f, m); /* from nobody it follows */
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    must_receive(&f, append(&f, 2, 2, 3, 1, 1));
    m.index = 2;
    must_receive(&f, m);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    m.index = 3;
    must_receive(&f, m);
    assert_int_equal(consensus_state(f.c), CONSENSUS_CANDIDATE);
    assert_int_equal(f.u->term, 3);
    assert_int_equal(f.u->voted_for, 1);
    assert_int_equal(sent_to(&f, MSG_VOTE, 3)->flags, MSG_DISRUPT);
    fixture_close(&f);
}

static void a_reluctant_replica_stands_in_for_others_that_lack_entries(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    consensus_set_reluctant(f.c, true);
    must_receive(&f, append(&f, 2, 2, 3, 1, 1));
    tick(&f, consensus_timeout_ms(f.c) - f.now);
    must_receive(&f, vote(3, 3, 2, 1, MSG_PRE_VOTE));
    tick(&f, consensus_timeout_ms(f.c) - f.now);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    must_receive(&f, vote(3, 3, 2, 1, MSG_PRE_VOTE));
    tick(&f, consensus_timeout_ms(f.c) - f.now);
    assert_int_equal(consensus_state(f.c), CONSENSUS_CANDIDATE);
    fixture_close(&f);
}

static void a_reluctant_replica_leaves_elections_to_others_but_not_for_ever(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    consensus_set_reluctant(f.c, true);
    must_receive(&f, append(&f, 2, 2, 3, 1, 1));
    struct consensus_message m = {
        .type = MSG_TIMEOUT_NOW, .from = 2, .to = 1, .term = 2, .index = 3, .log_term = 1};
    must_receive(&f, m);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < ELECTIONS_HELD_BACK; k++) {
            assert_true(consensus_timeout_ms(f.c) > f.now);
            tick(&f, consensus_timeout_ms(f.c) - f.now);
            assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
            assert_int_equal(f.u->message_count, 0);
        }
        if (i == 0) { /* a leader is heard: all anew */
            must_receive(&f, append(&f, 2, 2, 3, 1, 1));
        }
    }
    /* It doesn't hold on to the silent leader when another one asks for its vote. */
    struct consensus_message vote = {.type = MSG_VOTE,
                                     .from = 3,
                                     .to = 1,
                                     .version = 2,
                                     .term = 3,
                                     .index = 3,
                                     .log_term = 1,
                                     .flags = MSG_PRE_VOTE};
    must_receive(&f, vote);
    assert_true((sent(&f, MSG_VOTE_RESULT)->flags & MSG_GRANTED) != 0);
    tick(&f, 2 * ELECTION_MS);
    assert_int_equal(consensus_state(f.c), CONSENSUS_CANDIDATE);
    fixture_close(&f);
}

/* Submits, commits and applies one change. */
static void change(struct fixture *f, const struct consensus_config *config)
{
    assert_int_equal(consensus_submit_change(f->c, f->now, config, &f->u), 0);
    assert_int_equal(f->u->entry_count, 1);
    f->log[f->last++] = f->u->entries[0];
    assert_true(consensus_change_pending(f->c));
    struct consensus_config other = *config;
    other.servers[0].role = CONSENSUS_STANDBY;
    assert_int_equal(consensus_submit_change(f->c, f->now, &other, &f->u), ERR_BUSY);
    persist(f);
    must_receive(f, append_result(f, 2, f->last, 0));
    if (consensus_commit_index(f->c) < f->last) {
        must_receive(f, append_result(f, 3, f->last, 0));
    }
    assert_int_equal(consensus_commit_index(f->c), f->last);
    assert_int_equal(
        consensus_configuration_applied(f->c, f->now, f->last, f->log[f->last - 1].data, &f->u), 0);
    assert_false(consensus_change_pending(f->c));
}

static void a_server_is_added_caught_up_promoted_and_another_removed(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    become_leader(&f);
    struct consensus_config config = config_of(3, 4), got;
    change(&f, &config);
    assert_int_equal(consensus_catch_up(f.c, f.now, 9, &f.u), ERR_INVAL);
    assert_int_equal(consensus_catch_up(f.c, f.now, 2, &f.u), ERR_INVAL);
    assert_int_equal(consensus_catch_up_status(f.c, 4), 0);
    assert_int_equal(consensus_catch_up(f.c, f.now, 4, &f.u), 0);
    assert_int_equal(consensus_catch_up_status(f.c, 4), 1);
    assert_int_equal(consensus_catch_up(f.c, f.now, 4, &f.u), ERR_BUSY);
    config = config_of(4, 4);
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_BUSY);
    must_receive(&f, append_result(&f, 4, f.last, 0));
    assert_int_equal(consensus_catch_up_status(f.c, 4), 3);
    change(&f, &config);
    must_receive(&f, append_result(&f, 4, f.last, 0));
    config.servers[1] = config.servers[3]; /* 2 goes, in another order than libraft holds them */
    config.count = 3;
    change(&f, &config);
    consensus_get_config(f.c, &got);
    assert_int_equal(got.count, 3);
    assert_int_equal(got.servers[0].id, 1);
    assert_int_equal(got.servers[1].id, 3);
    assert_int_equal(got.servers[2].id, 4);
    assert_int_equal(consensus_match_index(f.c, 2), 0);
    fixture_close(&f);
}

static void a_standby_that_lacks_nothing_has_caught_up_at_once(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open_config(&f, config_of(3, 4), 3);
    become_leader(&f);
    must_receive(&f, append_result(&f, 4, f.last, 0));
    assert_int_equal(consensus_catch_up(f.c, f.now, 4, &f.u), 0);
    assert_int_equal(consensus_catch_up_status(f.c, 4), 3);
    fixture_close(&f);
}

static void only_one_server_changes_at_a_time(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    struct consensus_config config = config_of(3, 4);
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_NOTLEADER);
    become_leader(&f);
    config = config_of(3, 3);
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_INVAL); /* none */
    config = config_of(3, 5);
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_INVAL); /* two */
    config = config_of(3, 3);
    config.servers[2].id = 7; /* one for another: the table of progress would keep the old one's */
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_INVAL);
    config = config_of(0, 3);
    assert_int_equal(consensus_submit_change(f.c, f.now, &config, &f.u), ERR_INVAL);
    fixture_close(&f);
}

static void a_leader_that_removed_itself_steps_down(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 2);
    become_leader(&f);
    struct consensus_config config = config_of(3, 3);
    config.servers[0] = config.servers[2];
    config.count = 2;
    change(&f, &config);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    tick(&f, 3 * ELECTION_MS);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    fixture_close(&f);
}

static void an_empty_replica_waits_and_learns_everything_from_the_leader(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open_empty(&f);
    assert_int_equal(consensus_term(f.c), 0);
    tick(&f, 3 * ELECTION_MS);
    assert_int_equal(consensus_state(f.c), CONSENSUS_FOLLOWER);
    struct consensus_config config = config_of(3, 3), got;
    struct wal_entry e[2] = {change_entry(1, &config), entry(2, "x")};
    struct consensus_message m = append(&f, 2, 2, 0, 0, 2);
    m.entries = e;
    m.count = 2;
    must_receive(&f, m);
    assert_int_equal(f.u->first_index, 1);
    assert_int_equal(f.u->entry_count, 2);
    assert_int_equal(f.u->commit_index, 2);
    assert_int_equal(consensus_configuration_applied(f.c, f.now, 1, f.log[0].data, &f.u), 0);
    consensus_get_config(f.c, &got);
    assert_int_equal(got.count, 3);
    fixture_close(&f);
}

/* ---- memory
 * ------------------------------------------------------------------------------------------- */

/* A bit of everything; stops at the first ERR_NOMEM. */
static int scenario(struct fixture *f, struct consensus_start *start)
{
    struct consensus_opts opts = {
        .id = 1, .election_ms = ELECTION_MS, .heartbeat_ms = HEARTBEAT_MS};
    int rv = consensus_open(&opts, &f->c);
    if (rv != 0) {
        return rv;
    }
    f->now = start->now_ms = 1000;
    rv = consensus_start(f->c, start, &f->u);
    for (int i = 0; rv == 0 && i < 3; i++) {
        struct wal_entry e[2] = {entry(2, "a"), entry(2, "b")};
        struct consensus_message m = append(f, 2, 2, f->last + 2 * (uint64_t)i, i == 0 ? 1 : 2, 1);
        m.entries = e;
        m.count = 2;
        rv = consensus_receive(f->c, f->now, &m, &f->u);
        for (size_t k = 0; rv == 0 && k < f->u->entry_count; k++) {
            wal_block_unref(f->u->entries[k].block);
        }
    }
    if (rv == 0) {
        rv = consensus_persisted(f->c, f->now, f->last + 6, 2, &f->u);
    }
    if (rv == 0) {
        struct consensus_message m = snapshot(2, 3, 20, 2);
        rv = consensus_receive(f->c, f->now, &m, &f->u);
    }
    if (rv == 0) {
        rv = consensus_snapshot_installed(f->c, f->now, false, &f->u);
    }
    if (rv == 0) {
        rv = consensus_tick(f->c, f->now += 3 * ELECTION_MS, &f->u);
    }
    for (uint16_t flags = MSG_PRE_VOTE | MSG_GRANTED; rv == 0 && flags != 0;
         flags = flags == MSG_GRANTED ? 0 : MSG_GRANTED) {
        struct consensus_message m = {
            .type = MSG_VOTE_RESULT, .from = 2, .to = 1, .version = 2, .term = 4, .flags = flags};
        rv = consensus_receive(f->c, f->now, &m, &f->u);
    }
    if (rv == 0) {
        struct slice data;
        struct wal_block *b = block("x", &data);
        rv = consensus_submit(f->c, f->now, ENTRY_COMMAND, data, b, &f->u);
        for (size_t k = 0; rv == 0 && k < f->u->entry_count; k++) {
            wal_block_unref(f->u->entries[k].block);
        }
    }
    return rv;
}

static void every_failing_allocation_is_a_clean_error(void **state)
{
    (void)state;
    struct fixture f = {.first = 1};
    struct consensus_config config = config_of(3, 3);
    f.log[f.last++] = change_entry(1, &config);
    f.log[f.last++] = entry(1, "old");
    struct consensus_start start = {
        .term = 1, .first_index = 1, .entries = f.log, .entry_count = 2};
    long n = 0;
    for (;; n++) {
        f.c = NULL;
        mem_fault(n, 1);
        int rv = scenario(&f, &start);
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        if (hits == 0) {
            assert_int_equal(rv, 0);
            assert_int_equal(consensus_state(f.c), CONSENSUS_LEADER);
            consensus_free(f.c);
            break;
        }
        if (rv != 0) { /* a lost message may pass unnoticed */
            assert_int_equal(rv, ERR_NOMEM);
        }
        consensus_free(f.c);
        assert_int_equal(blocks_alive, 2);
    }
    assert_true(n > 20);
    wal_block_unref(f.log[0].block);
    wal_block_unref(f.log[1].block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replica_starts_as_follower_of_its_log),
        cmocka_unit_test(a_sole_voter_leads_at_once_and_commits_alone),
        cmocka_unit_test(contradicting_state_is_refused_at_start),
        cmocka_unit_test(a_start_from_a_snapshot_knows_its_configuration_and_commit_index),
        cmocka_unit_test(a_leader_replicates_and_commits_by_majority),
        cmocka_unit_test(a_majority_of_followers_commits_before_the_own_disk),
        cmocka_unit_test(a_submission_elsewhere_is_refused_and_its_block_released),
        cmocka_unit_test(a_follower_acknowledges_what_is_durable),
        cmocka_unit_test(a_conflicting_tail_is_replaced),
        cmocka_unit_test(known_entries_are_released_and_not_stored_again),
        cmocka_unit_test(one_vote_per_term_for_a_log_that_is_as_good),
        cmocka_unit_test(a_leader_of_an_older_term_steps_down),
        cmocka_unit_test(a_tick_before_its_time_does_nothing),
        cmocka_unit_test(a_snapshot_replaces_the_log_once_it_is_installed),
        cmocka_unit_test(a_snapshot_that_fails_leaves_the_log_as_it_was),
        cmocka_unit_test(a_leader_sends_its_snapshot_to_who_needs_trimmed_entries),
        cmocka_unit_test(what_the_log_releases_behind_a_known_snapshot_is_not_offered),
        cmocka_unit_test(leadership_is_handed_over),
        cmocka_unit_test(timeout_now_makes_an_up_to_date_follower_campaign_at_once),
        cmocka_unit_test(a_reluctant_replica_leaves_elections_to_others_but_not_for_ever),
        cmocka_unit_test(a_reluctant_replica_stands_in_for_others_that_lack_entries),
        cmocka_unit_test(a_server_is_added_caught_up_promoted_and_another_removed),
        cmocka_unit_test(a_standby_that_lacks_nothing_has_caught_up_at_once),
        cmocka_unit_test(only_one_server_changes_at_a_time),
        cmocka_unit_test(a_leader_that_removed_itself_steps_down),
        cmocka_unit_test(an_empty_replica_waits_and_learns_everything_from_the_leader),
        cmocka_unit_test(every_failing_allocation_is_a_clean_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
