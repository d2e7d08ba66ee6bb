#include "consensus_fixture.h"

size_t blocks_alive;

struct text_block {
    struct wal_block block;
    uint8_t bytes[];
};

static void text_block_release(struct wal_block *b)
{
    blocks_alive--;
    free(b);
}

static struct wal_block *block_of(const void *data, size_t len, struct slice *out)
{
    struct text_block *b = malloc(sizeof *b + len + 1);
    assert_non_null(b);
    b->block = (struct wal_block){.refs = 1, .release = text_block_release};
    memcpy(b->bytes, data, len);
    *out = slice_of(b->bytes, len);
    blocks_alive++;
    return &b->block;
}

struct wal_block *block(const char *text, struct slice *out)
{
    return block_of(text, strlen(text), out);
}

struct wal_entry entry(uint64_t term, const char *text)
{
    struct wal_entry e = {.term = term, .type = ENTRY_COMMAND};
    e.block = block(text, &e.data);
    return e;
}

struct wal_entry change_entry(uint64_t term, const struct consensus_config *config)
{
    struct wal_entry e = {.term = term, .type = ENTRY_CHANGE};
    struct buf bytes = {0};
    assert_int_equal(consensus_config_encode(config, &bytes), 0);
    e.block = block_of(bytes.data, bytes.len, &e.data);
    buf_close(&bytes);
    return e;
}

struct consensus_config config_of(uint32_t voters, uint32_t servers)
{
    struct consensus_config config = {.count = servers};
    for (uint32_t i = 0; i < servers; i++) {
        config.servers[i].id = i + 1;
        config.servers[i].role = i < voters ? CONSENSUS_VOTER : CONSENSUS_STANDBY;
    }
    return config;
}

/* Follows the caller's duties: truncate, append. */
static void keep(struct fixture *f)
{
    const struct consensus_update *u = f->u;
    if (u->entry_count == 0) {
        return;
    }
    while (f->last >= u->first_index) {
        struct wal_entry *e = &f->log[f->last-- - 1];
        if (e->block != NULL) {
            wal_block_unref(e->block);
        }
    }
    assert_int_equal(u->first_index, f->last + 1);
    for (size_t i = 0; i < u->entry_count; i++) {
        f->log[f->last++] = u->entries[i];
    }
}

static void open_at(struct fixture *f, struct consensus_start *start)
{
    struct consensus_opts opts = {.shard_uid = 9,
                                  .id = 1,
                                  .election_ms = ELECTION_MS,
                                  .heartbeat_ms = HEARTBEAT_MS,
                                  .seed = 7};
    assert_int_equal(consensus_open(&opts, &f->c), 0);
    f->now = start->now_ms = 1000;
    assert_int_equal(consensus_start(f->c, start, &f->u), 0);
    keep(f);
}

void fixture_open_config(struct fixture *f, struct consensus_config config, uint64_t entries)
{
    memset(f, 0, sizeof *f);
    f->config = config;
    f->first = 1;
    f->log[f->last++] = change_entry(1, &config);
    while (f->last < entries) {
        f->log[f->last++] = entry(1, "old");
    }
    struct consensus_start start = {
        .term = 1, .first_index = 1, .entries = f->log, .entry_count = (size_t)f->last};
    open_at(f, &start);
}

void fixture_open(struct fixture *f, uint32_t voters, uint64_t entries)
{
    fixture_open_config(f, config_of(voters, voters), entries);
}

void fixture_open_empty(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->first = 1;
    struct consensus_start start = {.term = 0};
    open_at(f, &start);
}

void fixture_close(struct fixture *f)
{
    consensus_free(f->c);
    for (uint64_t i = 0; i < f->last; i++) {
        if (f->log[i].block != NULL) {
            wal_block_unref(f->log[i].block);
        }
    }
    assert_int_equal(blocks_alive, 0);
}

int receive(struct fixture *f, struct consensus_message m)
{
    int rv = consensus_receive(f->c, f->now, &m, &f->u);
    if (rv == 0) {
        keep(f);
    } else {
        assert_null(f->u);
    }
    return rv;
}

void must_receive(struct fixture *f, struct consensus_message m)
{
    assert_int_equal(receive(f, m), 0);
}

void tick(struct fixture *f, uint64_t ms)
{
    f->now += ms;
    assert_int_equal(consensus_tick(f->c, f->now, &f->u), 0);
    keep(f);
}

void persist(struct fixture *f)
{
    assert_int_equal(consensus_persisted(f->c, f->now, f->last, f->log[f->last - 1].term, &f->u),
                     0);
}

int submit(struct fixture *f, const char *text)
{
    struct slice data;
    struct wal_block *b = block(text, &data);
    int rv = consensus_submit(f->c, f->now, ENTRY_COMMAND, data, b, &f->u);
    if (rv == 0) {
        keep(f);
    }
    return rv;
}

const struct consensus_message *sent_to(const struct fixture *f, enum consensus_message_type type,
                                        uint64_t to)
{
    const struct consensus_message *found = NULL;
    for (size_t i = 0; i < f->u->message_count; i++) {
        const struct consensus_message *m = &f->u->messages[i];
        if (m->type == type && (to == 0 || m->to == to)) {
            found = found == NULL ? m : found;
        }
    }
    return found;
}

const struct consensus_message *sent(const struct fixture *f, enum consensus_message_type type)
{
    return sent_to(f, type, 0);
}

struct consensus_message append(const struct fixture *f, uint64_t from, uint64_t term,
                                uint64_t index, uint64_t log_term, uint64_t commit)
{
    (void)f;
    return (struct consensus_message){.type = MSG_APPEND,
                                      .from = from,
                                      .to = 1,
                                      .term = term,
                                      .index = index,
                                      .log_term = log_term,
                                      .commit = commit};
}

struct consensus_message append_result(const struct fixture *f, uint64_t from, uint64_t index,
                                       uint64_t rejected)
{
    return (struct consensus_message){.type = MSG_APPEND_RESULT,
                                      .from = from,
                                      .to = 1,
                                      .version = 2,
                                      .term = consensus_term(f->c),
                                      .index = index,
                                      .rejected = rejected};
}

void become_leader(struct fixture *f)
{
    tick(f, 2 * ELECTION_MS + 1);
    assert_int_equal(consensus_state(f->c), CONSENSUS_CANDIDATE);
    uint32_t voters = 0;
    for (uint32_t i = 0; i < f->config.count; i++) {
        voters += f->config.servers[i].role == CONSENSUS_VOTER;
    }
    for (int round = 0; round < 2; round++) {
        const struct consensus_message *v = sent(f, MSG_VOTE);
        assert_non_null(v);
        struct consensus_message r = {.type = MSG_VOTE_RESULT,
                                      .to = 1,
                                      .version = 2,
                                      .term = v->term,
                                      .flags = (uint16_t)((v->flags & MSG_PRE_VOTE) | MSG_GRANTED)};
        for (r.from = 2; r.from <= voters / 2 + 1; r.from++) {
            must_receive(f, r);
        }
    }
    assert_int_equal(consensus_state(f->c), CONSENSUS_LEADER);
    assert_true(f->u->state_changed);
    if (f->u->entry_count == 0) { /* libraft saw no need */
        assert_int_equal(submit(f, "first"), 0);
    }
    persist(f);
    for (uint64_t id = 2; id <= voters / 2 + 1; id++) {
        must_receive(f, append_result(f, id, f->last, 0));
    }
    assert_int_equal(consensus_commit_index(f->c), f->last);
}
