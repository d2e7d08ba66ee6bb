/* Hostile messages: refused field by field, and whatever gets through does no harm to memory. */
#include "consensus_fixture.h"

static struct consensus_message valid(struct fixture *f, enum consensus_message_type type)
{
    struct consensus_message m = append(f, 2, 2, 3, 1, 3);
    static struct wal_entry entries[2];
    m.type = type;
    m.version = type == MSG_APPEND_RESULT || type == MSG_VOTE || type == MSG_VOTE_RESULT ? 2 : 0;
    if (type == MSG_APPEND) {
        struct consensus_config config = config_of(3, 4);
        entries[0] = entry(1, "x");
        entries[1] = change_entry(2, &config);
        m.entries = entries;
        m.count = 2;
    }
    if (type == MSG_SNAPSHOT) {
        m.index = 20;
        m.config = config_of(3, 3);
        m.config_index = 5;
        m.data = slice_of("manifest", 8);
    }
    return m;
}

typedef void (*damage)(struct consensus_message *m);

static void wrong_sender(struct consensus_message *m)
{
    m->from = 1;
}
static void no_sender(struct consensus_message *m)
{
    m->from = 0;
}
static void wrong_receiver(struct consensus_message *m)
{
    m->to = 3;
}
static void no_type(struct consensus_message *m)
{
    m->type = (enum consensus_message_type)0;
}
static void unknown_type(struct consensus_message *m)
{
    m->type = (enum consensus_message_type)7;
}
static void wrong_version(struct consensus_message *m)
{
    m->version = 1;
}
static void no_term(struct consensus_message *m)
{
    m->term = 0;
}
static void huge_term(struct consensus_message *m)
{
    m->term = UINT64_MAX;
}
static void huge_index(struct consensus_message *m)
{
    m->index = UINT64_MAX;
}
static void huge_commit(struct consensus_message *m)
{
    m->commit = UINT64_MAX;
}
static void huge_rejected(struct consensus_message *m)
{
    m->rejected = UINT64_MAX;
}
static void index_without_term(struct consensus_message *m)
{
    m->log_term = 0;
}
static void term_without_index(struct consensus_message *m)
{
    m->index = 0;
}
static void log_term_above_term(struct consensus_message *m)
{
    m->log_term = m->term + 1;
}
static void unknown_flag(struct consensus_message *m)
{
    m->flags |= 0x80;
}
static void entry_of_term_zero(struct consensus_message *m)
{
    m->entries[0].term = 0;
}
static void falling_terms(struct consensus_message *m)
{
    m->entries[0].term = 2, m->entries[1].term = 1;
}
static void entry_below_previous(struct consensus_message *m)
{
    m->term = m->log_term = 2;
}
static void entry_above_term(struct consensus_message *m)
{
    m->entries[1].term = 3;
}
static void entry_of_no_type(struct consensus_message *m)
{
    m->entries[0].type = 0;
}
static void entry_of_unknown_type(struct consensus_message *m)
{
    m->entries[0].type = 4;
}
static void bad_configuration(struct consensus_message *m)
{
    m->entries[1].data.len--;
}
static void command_as_configuration(struct consensus_message *m)
{
    m->entries[0].type = ENTRY_CHANGE;
}
static void huge_entry(struct consensus_message *m)
{
    m->entries[0].data.len = ENTRY_BYTES_MAX + 1;
}
static void snapshot_of_nothing(struct consensus_message *m)
{
    m->index = m->log_term = 0;
}
static void empty_configuration(struct consensus_message *m)
{
    m->config.count = 0;
}
static void too_many_servers(struct consensus_message *m)
{
    m->config.count = NODES_MAX * 2 + 1;
}
static void unknown_role(struct consensus_message *m)
{
    m->config.servers[1].role = (enum consensus_role)9;
}
static void same_server_twice(struct consensus_message *m)
{
    m->config.servers[1].id = 1;
}
static void no_configuration_index(struct consensus_message *m)
{
    m->config_index = 0;
}
static void late_configuration_index(struct consensus_message *m)
{
    m->config_index = m->index + 1;
}
static void huge_manifest(struct consensus_message *m)
{
    m->data.len = 1 << 20;
}

#define ALL        ((1u << 7) - 2)
#define ONLY(type) (1u << (type))

static const struct {
    damage damage;
    uint32_t types;
} damages[] = {
    {wrong_sender, ALL},
    {no_sender, ALL},
    {wrong_receiver, ALL},
    {no_type, ALL},
    {unknown_type, ALL},
    {wrong_version, ALL},
    {no_term, ALL},
    {huge_term, ALL},
    {huge_index, ALL},
    {huge_commit, ALL},
    {huge_rejected, ALL},
    {index_without_term, ALL & ~ONLY(MSG_APPEND_RESULT) & ~ONLY(MSG_VOTE_RESULT)},
    {term_without_index, ALL & ~ONLY(MSG_APPEND_RESULT) & ~ONLY(MSG_VOTE_RESULT)},
    {log_term_above_term, ALL & ~ONLY(MSG_APPEND_RESULT) & ~ONLY(MSG_VOTE_RESULT)},
    {unknown_flag, ALL & ~ONLY(MSG_SNAPSHOT)},
    {entry_of_term_zero, ONLY(MSG_APPEND)},
    {falling_terms, ONLY(MSG_APPEND)},
    {entry_below_previous, ONLY(MSG_APPEND)},
    {entry_above_term, ONLY(MSG_APPEND)},
    {entry_of_no_type, ONLY(MSG_APPEND)},
    {entry_of_unknown_type, ONLY(MSG_APPEND)},
    {bad_configuration, ONLY(MSG_APPEND)},
    {command_as_configuration, ONLY(MSG_APPEND)},
    {huge_entry, ONLY(MSG_APPEND)},
    {snapshot_of_nothing, ONLY(MSG_SNAPSHOT)},
    {empty_configuration, ONLY(MSG_SNAPSHOT)},
    {too_many_servers, ONLY(MSG_SNAPSHOT)},
    {unknown_role, ONLY(MSG_SNAPSHOT)},
    {same_server_twice, ONLY(MSG_SNAPSHOT)},
    {no_configuration_index, ONLY(MSG_SNAPSHOT)},
    {late_configuration_index, ONLY(MSG_SNAPSHOT)},
    {huge_manifest, ONLY(MSG_SNAPSHOT)},
};

static void every_damaged_field_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        for (unsigned type = MSG_APPEND; type <= MSG_TIMEOUT_NOW; type++) {
            if ((damages[i].types & ONLY(type)) == 0) {
                continue;
            }
            struct consensus_message m = valid(&f, (enum consensus_message_type)type);
            damages[i].damage(&m);
            if (receive(&f, m) != ERR_PROTOCOL) {
                fail_msg("damage %zu of type %u passed", i, type);
            }
            assert_int_equal(consensus_term(f.c), 1);
        }
    }
    for (unsigned type = MSG_APPEND; type <= MSG_TIMEOUT_NOW; type++) {
        must_receive(&f, valid(&f, (enum consensus_message_type)type));
    }
    fixture_close(&f);
}

static void entries_on_a_message_that_has_none_are_refused_and_released(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    struct consensus_message m = valid(&f, MSG_APPEND);
    m.type = MSG_VOTE;
    m.version = 2;
    assert_int_equal(receive(&f, m), ERR_PROTOCOL);
    m = valid(&f, MSG_VOTE);
    m.count = 3;
    assert_int_equal(receive(&f, m), ERR_PROTOCOL);
    m = valid(&f, MSG_APPEND);
    wal_block_unref(m.entries[0].block);
    wal_block_unref(m.entries[1].block);
    m.entries = NULL;
    assert_int_equal(receive(&f, m), ERR_PROTOCOL);
    fixture_close(&f);
}

static void a_second_leader_in_a_term_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    must_receive(&f, append(&f, 2, 2, 3, 1, 1));
    assert_int_equal(receive(&f, append(&f, 3, 2, 3, 1, 1)), ERR_PROTOCOL);
    must_receive(&f, append(&f, 3, 3, 3, 1, 1));
    fixture_close(&f);
    fixture_open(&f, 3, 3);
    become_leader(&f);
    assert_int_equal(receive(&f, append(&f, 3, consensus_term(f.c), 3, 1, 1)), ERR_PROTOCOL);
    struct consensus_message m = valid(&f, MSG_SNAPSHOT);
    assert_int_equal(receive(&f, m), ERR_PROTOCOL);
    assert_int_equal(consensus_state(f.c), CONSENSUS_LEADER);
    fixture_close(&f);
}

static void nobody_rewrites_what_is_committed(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 5);
    must_receive(&f, append(&f, 2, 2, 5, 1, 5));
    struct wal_entry e[3] = {entry(1, "4"), entry(2, "5?"), entry(2, "6")};
    struct consensus_message m = append(&f, 2, 2, 3, 1, 5);
    m.entries = e;
    m.count = 3;
    assert_int_equal(receive(&f, m), ERR_PROTOCOL);
    m = valid(&f, MSG_SNAPSHOT);
    m.index = 5;
    m.log_term = 2;
    assert_int_equal(receive(&f, m), ERR_PROTOCOL);
    assert_int_equal(receive(&f, append(&f, 2, 2, 5, 2, 5)), ERR_PROTOCOL);
    assert_int_equal(consensus_commit_index(f.c), 5);
    /* An event that fails isn't lost on the hard state: the next one reports it. */
    assert_int_equal(receive(&f, append(&f, 2, 6, 5, 2, 5)), ERR_PROTOCOL);
    must_receive(&f, append(&f, 2, 6, 5, 1, 5));
    assert_true(f.u->hard_state_changed);
    assert_int_equal(f.u->term, 6);
    fixture_close(&f);
}

static void a_vote_of_another_round_isnt_counted(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, 3, 3);
    struct consensus_message r = {
        .type = MSG_VOTE_RESULT, .from = 2, .to = 1, .version = 2, .term = 2, .flags = MSG_GRANTED};
    must_receive(&f, r); /* nobody asked */
    assert_int_equal(consensus_term(f.c), 1);
    tick(&f, 2 * ELECTION_MS + 1);
    must_receive(&f, r); /* a vote, while asking for pre-votes */
    r.flags = MSG_GRANTED | MSG_PRE_VOTE;
    r.term = 1;
    must_receive(&f, r);
    r.term = 3;
    must_receive(&f, r);
    assert_int_equal(consensus_state(f.c), CONSENSUS_CANDIDATE);
    assert_int_equal(consensus_term(f.c), 1);
    r.term = 2;
    r.from = 9;
    must_receive(&f, r); /* no voter */
    assert_int_equal(consensus_term(f.c), 1);
    r.from = 2;
    must_receive(&f, r);
    assert_int_equal(consensus_term(f.c), 2);
    fixture_close(&f);
}

static uint64_t random_state = 88172645463325252u;
static uint64_t draw(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static void random_messages_break_nothing(void **state)
{
    (void)state;
    struct fixture f;
    for (int round = 0; round < 300; round++) {
        fixture_open(&f, 1 + (uint32_t)draw(5), 1 + draw(8));
        for (int i = 0; i < 60; i++) {
            struct wal_entry e[4];
            struct consensus_message m = {.type = (enum consensus_message_type)(1 + draw(6)),
                                          .from = draw(6),
                                          .to = 1,
                                          .term = consensus_term(f.c) + draw(3) - (draw(4) == 0),
                                          .index = draw(14),
                                          .log_term = draw(4),
                                          .commit = draw(16),
                                          .rejected = draw(3) == 0 ? draw(14) : 0,
                                          .flags = (uint16_t)draw(8),
                                          .config = config_of(1 + (uint32_t)draw(3), 4),
                                          .config_index = draw(4)};
            m.version =
                m.type == MSG_APPEND_RESULT || m.type == MSG_VOTE || m.type == MSG_VOTE_RESULT ? 2
                                                                                               : 0;
            m.flags &= m.type == MSG_VOTE ? 3 : m.type == MSG_VOTE_RESULT ? 5 : 0;
            if (m.type == MSG_APPEND) {
                m.count = (uint32_t)draw(5);
                m.entries = m.count > 0 ? e : NULL;
                for (uint32_t k = 0; k < m.count; k++) {
                    struct consensus_config config = config_of(1 + (uint32_t)draw(4), 5);
                    e[k] = draw(4) == 0 ? change_entry(m.log_term + draw(3), &config)
                                        : entry(m.log_term + draw(3), "r");
                }
            }
            if (f.last > 50) {
                break;
            }
            (void)receive(&f, m);
            if (draw(3) == 0 && f.last > 0 && !consensus_installing(f.c)) {
                persist(&f);
            }
            if (draw(6) == 0) {
                tick(&f, draw(2 * ELECTION_MS));
            }
            if (consensus_installing(f.c)) {
                assert_int_equal(consensus_snapshot_installed(f.c, f.now, false, &f.u), 0);
            }
            if (draw(8) == 0) {
                (void)submit(&f, "s");
            }
        }
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_damaged_field_is_refused_and_changes_nothing),
        cmocka_unit_test(entries_on_a_message_that_has_none_are_refused_and_released),
        cmocka_unit_test(a_second_leader_in_a_term_is_refused),
        cmocka_unit_test(nobody_rewrites_what_is_committed),
        cmocka_unit_test(a_vote_of_another_round_isnt_counted),
        cmocka_unit_test(random_messages_break_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
