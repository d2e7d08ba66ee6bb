/* Messages of other replicas: checked by consensus_check.c, then compared with what this replica
 * knows, then rewritten where libraft 0.22.1 would go wrong, then given to it. */
#include "base/assert.h"
#include "base/err.h"
#include "replica/consensus_internal.h"

#include <string.h>

/* APPEND and SNAPSHOT come from the one leader of their term. A second one, or one while we lead
 * ourselves, is a lie, and libraft would corrupt its state over it. */
static int check_leader(struct consensus *c, const struct consensus_message *m)
{
    const struct raft *r = &c->raft;
    if (m->term < r->current_term) {
        return 0;
    }
    if (m->term == r->current_term &&
        (r->state == RAFT_LEADER || (c->leader_term == m->term && c->leader_id != m->from))) {
        return ERR_PROTOCOL;
    }
    c->leader_term = m->term;
    c->leader_id = m->from;
    c->held_back = 0;
    return 0;
}

static void address_message(const struct consensus_message *m, struct raft_message *out,
                            char address[ADDRESS_BYTES])
{
    memset(out, 0, sizeof *out);
    consensus__address(m->from, address);
    out->type = (enum raft_message_type)m->type;
    out->server_id = m->from;
    out->server_address = address;
}

static int give(struct consensus *c, struct raft_message *message, const struct wal_entry *source,
                size_t count, size_t *taken)
{
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_RECEIVE;
    event.receive.message = message;
    return consensus__step(c, &event, source, count, taken);
}

/* ---- APPEND
 * ------------------------------------------------------------------------------------------ */

/* Guard (h): while one change of configuration waits to be applied here, the next one may already
 * arrive. libraft then forgets the first: a roll-back of the second would return to the
 * configuration before both, and applying the first would be ignored. But the leader appended the
 * second only after the first was committed. */
static int commit_older_change(struct consensus *c, const struct consensus_message *m)
{
    struct raft *r = &c->raft;
    uint64_t pending = r->configuration_uncommitted_index;
    if (m->count == 0 || m->entries[0].type != ENTRY_CHANGE || pending == 0 || m->index < pending ||
        consensus__trail_term(&r->trail, m->index) != m->log_term) {
        return 0;
    }
    struct consensus_config config;
    consensus__from_raft_config(&r->configuration, &config);
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_CONFIGURATION;
    event.configuration.index = pending;
    int rv = consensus__to_raft_config(c, &config, &event.configuration.conf);
    if (rv != 0) {
        return rv;
    }
    return consensus__step(c, &event, NULL, 0, NULL);
}

/* One piece of an APPEND: a change of configuration is at most its first entry. */
static int append_piece(struct consensus *c, const struct consensus_message *m, size_t *taken)
{
    struct raft_message message;
    char address[ADDRESS_BYTES];
    *taken = 0;
    if (m->term >= c->raft.current_term && !c->raft.snapshot.installing) {
        int rv = commit_older_change(c, m);
        if (rv != 0) {
            return rv;
        }
    }
    address_message(m, &message, address);
    for (uint32_t i = 0; i < m->count; i++) {
        consensus__entry_for_raft(c, &m->entries[i], &c->work->scratch[i]);
    }
    message.append_entries.version = m->version;
    message.append_entries.term = m->term;
    message.append_entries.prev_log_index = m->index;
    message.append_entries.prev_log_term = m->log_term;
    message.append_entries.leader_commit = m->commit;
    message.append_entries.entries = m->count > 0 ? c->work->scratch : NULL;
    message.append_entries.n_entries = m->count;
    return give(c, &message, m->entries, m->count, taken);
}

static void unref_entries(const struct wal_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (entries[i].block != NULL) {
            wal_block_unref(entries[i].block);
        }
    }
}

/* Guard (c): what is committed here is in every later leader's log (Leader Completeness), so an
 * APPEND that begins below the commit index is the same as one that begins at it. libraft would
 * reject it when the log is trimmed there, and the leader would go back further and further; and an
 * old copy that begins at 0 isn't compared at all: libraft would append entry 1 behind the log's
 * end. */
static int skip_committed(const struct consensus *c, struct consensus_message *m)
{
    const struct raft *r = &c->raft;
    uint64_t commit = r->commit_index;
    if (m->term < r->current_term || r->snapshot.installing || m->index >= commit) {
        return 0;
    }
    uint64_t term = consensus__trail_term(&r->trail, commit);
    assert(term != 0);
    uint64_t skip = commit - m->index;
    if (skip > m->count) {
        skip = m->count;
    } else if (m->entries[skip - 1].term != term) {
        return ERR_PROTOCOL;
    }
    unref_entries(m->entries, skip);
    m->entries += skip;
    m->count -= (uint32_t)skip;
    m->index = commit;
    m->log_term = term;
    return 0;
}

/* Takes over the references of all entries. */
static int receive_append(struct consensus *c, struct consensus_message *m)
{
    struct consensus_message rest = *m;
    int rv = consensus__reserve_scratch(c, m->count);
    if (rv == 0) {
        rv = consensus__reserve_entries(c, (size_t)m->count + 1);
    }
    if (rv == 0) {
        rv = check_leader(c, m);
    }
    if (rv == 0) {
        rv = skip_committed(c, &rest);
    }
    if (rv != 0) {
        unref_entries(rest.entries, rest.count);
        return rv;
    }
    /* Guard (d): libraft records the index of the first new entry for every change of configuration
     * in a message, so a change must come first. Pieces that follow one that was refused are
     * refused by themselves: their previous entry is missing. */
    do {
        struct consensus_message piece = rest;
        uint32_t n = rest.count > 0 ? 1 : 0;
        while (n < rest.count && rest.entries[n].type != ENTRY_CHANGE) {
            n++;
        }
        piece.count = n;
        piece.entries = n > 0 ? rest.entries : NULL;
        size_t taken = 0;
        bool refused = c->stale_request;
        size_t messages = c->work->update.message_count;
        rv = append_piece(c, &piece, &taken);
        unref_entries(rest.entries, n - taken);
        if (n > 0) {
            rest.index += n;
            rest.log_term = rest.entries[n - 1].term;
            rest.entries += n;
            rest.count -= n;
        }
        for (size_t i = messages; i < c->work->update.message_count; i++) {
            refused = refused || c->work->update.messages[i].rejected > 0;
        }
        if (refused) {
            break;
        }
    } while (rv == 0 && rest.count > 0);
    unref_entries(rest.entries, rest.count);
    if (rv == ERR_PROTOCOL && c->work->update.entry_count > 0) {
        return 0; /* the pieces before it stand */
    }
    return rv;
}

/* ---- the others
 * ---------------------------------------------------------------------------------------- */

static int receive_append_result(struct consensus *c, const struct consensus_message *m)
{
    /* Guard (i): a late copy of a rejection of what has matched since would send libraft's next
     * index below the match index, where its arithmetic wraps and the follower gets no more
     * entries. */
    raft_index match = 0;
    if (m->rejected > 0 && m->term == c->raft.current_term &&
        raft_match_index(&c->raft, m->from, &match) == 0 && m->rejected <= match) {
        return 0;
    }
    struct raft_message message;
    char address[ADDRESS_BYTES];
    address_message(m, &message, address);
    message.append_entries_result.version = m->version;
    message.append_entries_result.term = m->term;
    message.append_entries_result.rejected = m->rejected;
    message.append_entries_result.last_log_index =
        m->rejected > 0 && m->index < match ? match : m->index;
    message.append_entries_result.features = m->features;
    message.append_entries_result.capacity = m->capacity;
    return give(c, &message, NULL, 0, NULL);
}

static bool lacks_entries_of_ours(const struct consensus *c, const struct consensus_message *m)
{
    uint64_t last = consensus__trail_last(&c->raft.trail);
    uint64_t term = consensus__trail_term(&c->raft.trail, last);
    return m->log_term < term || (m->log_term == term && m->index < last);
}

static int receive_vote(struct consensus *c, const struct consensus_message *m)
{
    if (c->reluctant && (m->flags & MSG_PRE_VOTE) != 0 && lacks_entries_of_ours(c, m)) {
        c->held_back += ELECTIONS_HELD_BACK / 2; /* they try, and perhaps only we can win */
    }
    struct raft_message message;
    char address[ADDRESS_BYTES];
    address_message(m, &message, address);
    message.request_vote.version = m->version;
    message.request_vote.term = m->term;
    message.request_vote.candidate_id = m->from;
    message.request_vote.last_log_index = m->index;
    message.request_vote.last_log_term = m->log_term;
    message.request_vote.disrupt_leader = (m->flags & MSG_DISRUPT) != 0;
    message.request_vote.pre_vote = (m->flags & MSG_PRE_VOTE) != 0;
    /* Guard (j) again: libraft lets only those vote that know themselves as voters. A standby whose
     * promotion is in the candidate's log and not yet in its own would be missing in that majority
     * for ever. Who counts is up to the candidate's configuration; a vote is safe from anyone who
     * keeps his word (Raft 6, dissertation 4.1). */
    struct raft_server *self = NULL;
    int role = RAFT_VOTER;
    for (unsigned i = 0; i < c->raft.configuration.n; i++) {
        if (c->raft.configuration.servers[i].id == c->id) {
            self = &c->raft.configuration.servers[i];
            role = self->role;
            self->role = RAFT_VOTER;
        }
    }
    int rv = give(c, &message, NULL, 0, NULL);
    if (self != NULL) {
        self->role = role; /* this event doesn't replace the configuration */
    }
    return rv;
}

static int receive_vote_result(struct consensus *c, const struct consensus_message *m)
{
    const struct raft *r = &c->raft;
    /* libraft looks at fields of the candidate before it looks whether it is one. */
    if (r->state != RAFT_CANDIDATE) {
        return 0;
    }
    bool pre_vote = (m->flags & MSG_PRE_VOTE) != 0;
    if ((m->flags & MSG_GRANTED) != 0 &&
        (pre_vote != r->candidate_state.in_pre_vote || m->term != r->current_term + pre_vote)) {
        return 0; /* a vote of another round */
    }
    struct raft_message message;
    char address[ADDRESS_BYTES];
    address_message(m, &message, address);
    message.request_vote_result.version = m->version;
    message.request_vote_result.term = m->term;
    message.request_vote_result.vote_granted = (m->flags & MSG_GRANTED) != 0;
    message.request_vote_result.pre_vote = pre_vote;
    message.request_vote_result.features = m->features;
    message.request_vote_result.capacity = m->capacity;
    return give(c, &message, NULL, 0, NULL);
}

static int receive_timeout_now(struct consensus *c, const struct consensus_message *m)
{
    /* Guard (f) again: the sole voter would lead without a new term. Its leader is on the way out
     * anyway. */
    if (consensus_sole_voter(c) || c->reluctant) {
        return 0;
    }
    struct raft_message message;
    char address[ADDRESS_BYTES];
    address_message(m, &message, address);
    message.timeout_now.version = m->version;
    message.timeout_now.term = m->term;
    message.timeout_now.last_log_index = m->index;
    message.timeout_now.last_log_term = m->log_term;
    return give(c, &message, NULL, 0, NULL);
}

int consensus_receive(struct consensus *c, uint64_t now_ms, struct consensus_message *message,
                      struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv == 0) {
        rv = consensus__check_message(c, message);
    }
    if (rv != 0) {
        if (message->entries != NULL) {
            unref_entries(message->entries, message->count);
        }
        return rv;
    }
    c->stale_request = message->term < c->raft.current_term;
    switch (message->type) {
    case MSG_APPEND:
        rv = receive_append(c, message);
        break;
    case MSG_APPEND_RESULT:
        rv = receive_append_result(c, message);
        break;
    case MSG_VOTE:
        rv = receive_vote(c, message);
        break;
    case MSG_VOTE_RESULT:
        rv = receive_vote_result(c, message);
        break;
    case MSG_SNAPSHOT:
        rv = check_leader(c, message);
        if (rv == 0) {
            rv = consensus__receive_snapshot(c, message);
        }
        break;
    case MSG_TIMEOUT_NOW:
        rv = receive_timeout_now(c, message);
        break;
    }
    c->stale_request = false;
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}
