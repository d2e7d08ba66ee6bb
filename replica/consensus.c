/* The facade's core: life cycle, one step of libraft and what it wants done, local events. What
 * arrives from the network is in consensus_receive.c, snapshots in consensus_install.c, memory in
 * consensus_heap.c, questions that change nothing in consensus_known.c.
 *
 * Each event is begin (clear the update) -> step (raft_step, once or more) -> finish (say what
 * changed). libraft 0.22.1 has defects that a caller must steer around; the guards are listed in
 * docs/adr/0002 and marked "guard" here. */
#include "base/assert.h"
#include "base/err.h"
#include "base/mem.h"
#include "replica/consensus_internal.h"

#include <string.h>

static_assert((int)CONSENSUS_STANDBY == (int)RAFT_STANDBY, "roles are libraft's");
static_assert((int)CONSENSUS_VOTER == (int)RAFT_VOTER, "roles are libraft's");
static_assert((int)CONSENSUS_SPARE == (int)RAFT_SPARE, "roles are libraft's");
static_assert((int)CONSENSUS_LEADER == (int)RAFT_LEADER, "states are libraft's");
static_assert((int)CONSENSUS_FOLLOWER == (int)RAFT_FOLLOWER, "states are libraft's");
static_assert((int)ENTRY_CHANGE == (int)RAFT_CHANGE, "entry types are libraft's");
static_assert((int)MSG_TIMEOUT_NOW == (int)RAFT_TIMEOUT_NOW, "message types are libraft's");

/* ---- libraft's trail of (index, term) ----------------------------------------------------------
 */

/* It has no public accessor, but its structure is public and the version is pinned. */
static unsigned trail_records(const struct raft_trail *t)
{
    return t->front <= t->back ? t->back - t->front : t->size - t->front + t->back;
}

uint64_t consensus__trail_last(const struct raft_trail *t)
{
    unsigned n = trail_records(t);
    return n == 0 ? t->snapshot.index : t->records[(t->front + n - 1) % t->size].index;
}

uint64_t consensus__trail_term(const struct raft_trail *t, uint64_t index)
{
    unsigned n = trail_records(t);
    if (n > 0 && index > t->offset) {
        uint64_t term = 0;
        for (unsigned i = n; i-- > 0;) { /* from the newest: that is what is asked for */
            unsigned at = (t->front + i) % t->size;
            if (index > t->records[at].index) {
                break;
            }
            term = t->records[at].term;
        }
        if (term != 0) {
            return term;
        }
    }
    return index > 0 && index == t->snapshot.index ? t->snapshot.term : 0;
}

/* ---- configurations
 * ------------------------------------------------------------------------------ */

int consensus__to_raft_config(struct consensus *c, const struct consensus_config *config,
                              struct raft_configuration *out)
{
    int rv = 0;
    raft_configuration_init(out);
    consensus__heap_enter(c);
    for (uint32_t i = 0; i < config->count && rv == 0; i++) {
        char address[ADDRESS_BYTES];
        consensus__address(config->servers[i].id, address);
        rv = raft_configuration_add(out, config->servers[i].id, address,
                                    (int)config->servers[i].role);
    }
    consensus__heap_leave(c);
    assert(rv == 0); /* the configuration was checked and the heap doesn't fail */
    if (c->dead) {
        raft_configuration_close(out);
        return ERR_NOMEM;
    }
    return 0;
}

void consensus__from_raft_config(const struct raft_configuration *config,
                                 struct consensus_config *out)
{
    memset(out, 0, sizeof *out);
    assert(config->n <= NODES_MAX * 2);
    for (unsigned i = 0; i < config->n; i++) {
        out->servers[i].id = config->servers[i].id;
        out->servers[i].role = (enum consensus_role)config->servers[i].role;
    }
    out->count = config->n;
}

static const struct raft_server *server_of(const struct consensus *c, uint64_t id)
{
    for (unsigned i = 0; i < c->raft.configuration.n; i++) {
        if (c->raft.configuration.servers[i].id == id) {
            return &c->raft.configuration.servers[i];
        }
    }
    return NULL;
}

bool consensus_sole_voter(const struct consensus *c)
{
    unsigned voters = 0;
    for (unsigned i = 0; i < c->raft.configuration.n; i++) {
        voters += c->raft.configuration.servers[i].role == RAFT_VOTER;
    }
    const struct raft_server *self = server_of(c, c->id);
    return voters == 1 && self != NULL && self->role == RAFT_VOTER;
}

/* ---- one step
 * -------------------------------------------------------------------------------------- */

static int grow(void **array, size_t *capacity, size_t want, size_t element_bytes)
{
    if (want <= *capacity) {
        return 0;
    }
    size_t n = *capacity == 0 ? 8 : *capacity;
    while (n < want) {
        n *= 2;
    }
    void *bigger = mem_realloc(*array, n * element_bytes);
    if (bigger == NULL) {
        return ERR_NOMEM;
    }
    *array = bigger;
    *capacity = n;
    return 0;
}

int consensus__reserve_entries(struct consensus *c, size_t more)
{
    void *array = c->work->update.entries;
    int rv = grow(&array, &c->work->entries_capacity, c->work->update.entry_count + more,
                  sizeof *c->work->update.entries);
    c->work->update.entries = array;
    return rv;
}

int consensus__reserve_scratch(struct consensus *c, size_t count)
{
    void *array = c->work->scratch;
    int rv = grow(&array, &c->work->scratch_capacity, count, sizeof *c->work->scratch);
    c->work->scratch = array;
    return rv;
}

void consensus__entry_for_raft(struct consensus *c, const struct wal_entry *entry,
                               struct raft_entry *out)
{
    out->term = entry->term;
    out->type = (enum raft_entry_type)entry->type;
    out->buf.base = (void *)(uintptr_t)entry->data.data; /* it only reads */
    out->buf.len = entry->data.len;
    out->batch = consensus__batch(c);
}

int consensus__begin(struct consensus *c, uint64_t now_ms)
{
    if (c->dead) {
        return ERR_NOMEM;
    }
    assert(c->started);
    if (now_ms > c->now) {
        c->now = now_ms;
    }
    struct consensus_update *u = &c->work->update;
    u->hard_state_changed = u->state_changed = u->commit_changed = false;
    u->first_index = 0;
    u->entry_count = 0;
    u->message_count = 0;
    u->install = NULL;
    return consensus__reserve_entries(c, 1); /* a barrier of libraft may come out of any event */
}

static void collect_entries(struct consensus *c, const struct raft_update *u,
                            const struct wal_entry *source, size_t source_count, size_t *taken)
{
    struct consensus_update *out = &c->work->update;
    if (out->entry_count == 0) {
        out->first_index = u->entries.index;
    }
    assert(u->entries.index == out->first_index + out->entry_count);
    assert(out->entry_count + u->entries.n <= c->work->entries_capacity);
    if (u->entries.batch == &c->raft.barrier) {
        /* Eight bytes that nobody reads: an empty entry says the same. */
        assert(u->entries.n == 1);
        out->entries[out->entry_count++] =
            (struct wal_entry){.term = c->raft.barrier.term, .type = ENTRY_BARRIER};
        raft_free(c->raft.barrier.batch);
        return;
    }
    assert(source != NULL); /* nothing else makes the library append */
    size_t skipped = (size_t)(u->entries.batch - c->work->scratch);
    assert(skipped + u->entries.n == source_count);
    memcpy(out->entries + out->entry_count, source + skipped, u->entries.n * sizeof *source);
    out->entry_count += u->entries.n;
    *taken = u->entries.n;
}

/* Guards at the outgoing edge. */
static void fill_append_result(const struct consensus *c,
                               const struct raft_append_entries_result *in,
                               struct consensus_message *out)
{
    const struct raft *r = &c->raft;
    uint64_t match = r->state == RAFT_FOLLOWER ? r->follower_state.match : 0;
    out->term = in->term;
    out->rejected = in->rejected;
    out->index = in->last_log_index;
    out->features = in->features;
    out->capacity = in->capacity;
    if (c->stale_request) {
        /* Guard (e): the answer to a request of an older term carries our current one, and an
         * uninitialised index, as a success when the request began at index 0 or was a snapshot.
         * Its receiver may lead the current term by now and would count it. Say what is true in the
         * current term. */
        out->rejected = 0;
        out->index = match < r->last_stored ? match : r->last_stored;
    } else if (out->rejected > 0 && out->index == out->rejected - 1) {
        /* Guard (b): otherwise the leader goes back one entry per round trip. Everything up to the
         * commit index matches by Leader Completeness, so that is where the logs can be compared
         * next. */
        uint64_t hint = r->commit_index > match ? r->commit_index : match;
        if (hint < out->index) {
            out->index = hint;
        }
    }
}

static void collect_message(struct consensus *c, const struct raft_message *in)
{
    void *array = c->work->update.messages;
    int rv = grow(&array, &c->work->messages_capacity, c->work->update.message_count + 1,
                  sizeof *c->work->update.messages);
    c->work->update.messages = array;
    if (rv != 0) {
        return; /* a lost message, as the network loses them */
    }
    struct consensus_message *out = &c->work->update.messages[c->work->update.message_count++];
    memset(out, 0, sizeof *out);
    out->type = (enum consensus_message_type)in->type;
    out->from = c->id;
    out->to = in->server_id;
    switch (in->type) {
    case RAFT_APPEND_ENTRIES:
        out->version = in->append_entries.version;
        out->term = in->append_entries.term;
        out->index = in->append_entries.prev_log_index;
        out->log_term = in->append_entries.prev_log_term;
        out->commit = in->append_entries.leader_commit;
        out->count = in->append_entries.n_entries;
        if (out->index == 0 && c->raft.trail.offset > 0) {
            /* Guard (k): libraft takes a snapshot at index 1 for the entry itself, which it doesn't
             * have, and would send an empty message for ever. What the follower needs is the
             * snapshot. */
            out->type = MSG_SNAPSHOT;
            out->index = c->raft.trail.snapshot.index;
            out->log_term = c->raft.trail.snapshot.term;
            out->config_index = c->raft.configuration_last_snapshot_index;
            out->commit = 0;
            out->count = 0;
        }
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        out->version = in->append_entries_result.version;
        fill_append_result(c, &in->append_entries_result, out);
        break;
    case RAFT_REQUEST_VOTE:
        out->version = in->request_vote.version;
        out->term = in->request_vote.term;
        out->index = in->request_vote.last_log_index;
        out->log_term = in->request_vote.last_log_term;
        out->flags = (uint16_t)((in->request_vote.pre_vote ? MSG_PRE_VOTE : 0) |
                                (in->request_vote.disrupt_leader ? MSG_DISRUPT : 0));
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        out->version = in->request_vote_result.version;
        out->term = in->request_vote_result.term;
        out->flags = (uint16_t)((in->request_vote_result.pre_vote ? MSG_PRE_VOTE : 0) |
                                (in->request_vote_result.vote_granted ? MSG_GRANTED : 0));
        out->features = in->request_vote_result.features;
        out->capacity = in->request_vote_result.capacity;
        /* Guard (a): a pre-vote rejection echoes the candidate's term; without our higher one the
         * candidate never learns it, and a bare majority can stay without a leader for ever. */
        if (in->request_vote_result.pre_vote && !in->request_vote_result.vote_granted &&
            c->raft.current_term > out->term) {
            out->term = c->raft.current_term;
        }
        break;
    case RAFT_INSTALL_SNAPSHOT:
        out->version = in->install_snapshot.version;
        out->term = in->install_snapshot.term;
        out->index = in->install_snapshot.last_index;
        out->log_term = in->install_snapshot.last_term;
        out->config_index = in->install_snapshot.conf_index;
        break;
    case RAFT_TIMEOUT_NOW:
        out->version = in->timeout_now.version;
        out->term = in->timeout_now.term;
        out->index = in->timeout_now.last_log_index;
        out->log_term = in->timeout_now.last_log_term;
        break;
    }
}

/* Guard (l): libraft tells the next leader to stand for election as soon as it acknowledges
 * anything at all. While entries are on their way to it, it ignores that, and isn't told again:
 * this leader would refuse all work for an election timeout, and go on leading. What may have been
 * told too early isn't sent, and is said with the acknowledgement of the last entry. */
static bool is_too_early(struct consensus *c, const struct raft_message *message)
{
    if (message->type != RAFT_TIMEOUT_NOW ||
        consensus_match_index(c, message->server_id) >= message->timeout_now.last_log_index) {
        return false;
    }
    c->raft.leader_state.transferring = false;
    return true;
}

static int error_of(int raft_error)
{
    switch (raft_error) {
    case RAFT_NOMEM:
        return ERR_NOMEM;
    case RAFT_NOTLEADER:
        return ERR_NOTLEADER;
    case RAFT_CANTCHANGE:
        return ERR_BUSY;
    case RAFT_SHUTDOWN:
    case RAFT_MALFORMED:
        return ERR_PROTOCOL;
    default:
        return ERR_INVAL;
    }
}

/* libraft keeps the memory of its messages from one step to the next: all replicas on a thread get
 * the same. What it allocates or grows comes from the heap that consensus_heap.c gives it. */
static void lend_queue(struct consensus *c)
{
    assert(c->raft.messages == NULL);
    c->raft.messages = c->work->queue;
    c->raft.n_messages_cap = c->work->queue_capacity;
}

static void take_queue(struct consensus *c)
{
    c->work->queue = c->raft.messages;
    c->work->queue_capacity = c->raft.n_messages_cap;
    c->raft.messages = NULL;
    c->raft.n_messages_cap = 0;
}

int consensus__step(struct consensus *c, struct raft_event *event, const struct wal_entry *source,
                    size_t source_count, size_t *taken)
{
    struct raft_update u;
    size_t unused;
    memset(&u, 0, sizeof u);
    if (taken == NULL) {
        taken = &unused;
    }
    *taken = 0;
    event->time = c->now;
    event->capacity = UINT16_MAX;
    consensus__heap_enter(c);
    lend_queue(c);
    int rv = raft_step(&c->raft, event, &u);
    take_queue(c);
    consensus__heap_leave(c);
    if (u.flags & (RAFT_UPDATE_SNAPSHOT)) {
        c->install_meta = u.snapshot.metadata;
    }
    if (c->dead) {
        if ((u.flags & (RAFT_UPDATE_ENTRIES)) && u.entries.batch == &c->raft.barrier) {
            raft_free(c->raft.barrier.batch);
        }
        return ERR_NOMEM;
    }
    if (rv != 0) {
        return error_of(rv);
    }
    if (u.flags & (RAFT_UPDATE_ENTRIES)) {
        collect_entries(c, &u, source, source_count, taken);
    }
    if (u.flags & (RAFT_UPDATE_MESSAGES)) {
        for (unsigned i = 0; i < u.messages.n; i++) {
            if (!is_too_early(c, &u.messages.batch[i])) {
                collect_message(c, &u.messages.batch[i]);
            }
        }
    }
    return 0;
}

int consensus__finish(struct consensus *c, struct consensus_update **update)
{
    struct consensus_update *u = &c->work->update;
    const struct raft *r = &c->raft;
    enum consensus_state state = consensus_state(c);
    u->term = r->current_term;
    u->voted_for = r->voted_for;
    u->commit_index = consensus_commit_index(c);
    u->hard_state_changed = u->term != c->told_term || u->voted_for != c->told_vote;
    u->commit_changed = u->commit_index != c->told_commit;
    u->state_changed = state != c->told_state;
    assert(u->term >= c->told_term);
    assert(u->commit_index >= c->told_commit);
    c->told_term = u->term;
    c->told_vote = u->voted_for;
    c->told_commit = u->commit_index;
    c->told_state = state;
    *update = u;
    return 0;
}

/* ---- life cycle
 * ---------------------------------------------------------------------------------- */

struct consensus_workspace *consensus_workspace_new(void)
{
    return mem_zalloc(sizeof(struct consensus_workspace));
}

void consensus_workspace_free(struct consensus_workspace *w)
{
    if (w == NULL) {
        return;
    }
    raft_free(w->queue);
    mem_free(w->update.entries);
    mem_free(w->update.messages);
    mem_free(w->scratch);
    mem_free(w);
}

int consensus_open(const struct consensus_opts *opts, struct consensus **out)
{
    *out = NULL;
    if (opts->id == 0 || opts->election_ms == 0 || opts->heartbeat_ms == 0 ||
        opts->heartbeat_ms >= opts->election_ms) {
        return ERR_INVAL;
    }
    consensus__heap_setup();
    struct consensus *c = mem_zalloc(sizeof *c);
    if (c == NULL) {
        return ERR_NOMEM;
    }
    c->own_work = opts->workspace == NULL;
    c->work = c->own_work ? consensus_workspace_new() : opts->workspace;
    if (c->work == NULL) {
        mem_free(c);
        return ERR_NOMEM;
    }
    c->id = opts->id;
    c->shard_uid = opts->shard_uid;
    c->told_state = CONSENSUS_FOLLOWER;
    char address[ADDRESS_BYTES];
    consensus__address(opts->id, address);
    consensus__heap_enter(c);
    int rv = raft_init(&c->raft, NULL, NULL, opts->id, address);
    consensus__heap_leave(c);
    assert(rv == 0);
    raft_seed(&c->raft, opts->seed);
    c->raft.tracer = NULL; /* the default one formats every message even when it prints none */
    raft_set_pre_vote(&c->raft, true);
    raft_set_election_timeout(&c->raft, opts->election_ms);
    raft_set_heartbeat_timeout(&c->raft, opts->heartbeat_ms);
    /* Sent again this often; the receiver drops it while it is still installing one. */
    raft_set_install_snapshot_timeout(&c->raft, opts->election_ms * 10);
    raft_set_max_inflight_entries(&c->raft, opts->inflight_entries_max != 0
                                                ? opts->inflight_entries_max
                                                : INFLIGHT_ENTRIES_DEFAULT);
    if (c->dead) {
        consensus_free(c);
        return ERR_NOMEM;
    }
    *out = c;
    return 0;
}

void consensus_free(struct consensus *c)
{
    if (c == NULL) {
        return;
    }
    consensus__heap_enter(c);
    if (c->raft.snapshot.installing) {
        raft_configuration_close(&c->install_meta.configuration);
    }
    raft_close(&c->raft, NULL);
    consensus__heap_leave(c);
    consensus__saved_log_close(&c->saved);
    buf_close(&c->install_data);
    if (c->own_work) {
        consensus_workspace_free(c->work);
    }
    mem_free(c);
}

/* ERR_INVAL when the parts contradict each other: then it isn't the state of a replica. */
static int check_start(const struct consensus_start *s)
{
    bool empty = s->snapshot_index == 0 && s->entry_count == 0;
    if (s->term == 0 && (s->voted_for != 0 || !empty)) {
        return ERR_INVAL;
    }
    if (s->snapshot_index > 0 &&
        (s->snapshot_term == 0 || s->snapshot_term > s->term || s->config_index == 0 ||
         s->config_index > s->snapshot_index || !consensus__config_valid(&s->config))) {
        return ERR_INVAL;
    }
    if (s->entry_count > 0 && (s->first_index == 0 || s->first_index > s->snapshot_index + 1)) {
        return ERR_INVAL;
    }
    if (s->snapshot_index == 0 && s->entry_count > 0 && s->entries[0].type != ENTRY_CHANGE) {
        return ERR_INVAL; /* a log is born with its configuration */
    }
    uint64_t term = 1;
    for (size_t i = 0; i < s->entry_count; i++) {
        const struct wal_entry *e = &s->entries[i];
        uint64_t index = s->first_index + i;
        if (e->term < term || e->term > s->term || e->type < ENTRY_COMMAND ||
            e->type > ENTRY_CHANGE || (index == s->snapshot_index && e->term != s->snapshot_term)) {
            return ERR_INVAL;
        }
        term = e->term;
        struct consensus_config config;
        if (e->type == ENTRY_CHANGE && consensus_config_decode(e->data, &config) != 0) {
            return ERR_INVAL;
        }
    }
    return 0;
}

/* Whether the newest configuration makes this replica the only voter. */
static bool starts_alone(const struct consensus *c, const struct consensus_start *s)
{
    struct consensus_config config = s->config;
    for (size_t i = s->entry_count; i-- > 0;) {
        if (s->entries[i].type == ENTRY_CHANGE &&
            (s->snapshot_index == 0 || s->first_index + i > s->config_index)) {
            int rv = consensus_config_decode(s->entries[i].data, &config);
            assert(rv == 0);
            break;
        }
    }
    for (uint32_t i = 0; i < config.count; i++) {
        if (config.servers[i].id == c->id && config.servers[i].role == CONSENSUS_VOTER) {
            return consensus__voters(&config) == 1;
        }
    }
    return false;
}

int consensus_start(struct consensus *c, const struct consensus_start *start,
                    struct consensus_update **update)
{
    *update = NULL;
    assert(!c->started);
    int rv = check_start(start);
    if (rv != 0) {
        return rv;
    }
    /* Entries that end before the snapshot does say nothing. */
    size_t count = start->entry_count;
    if (count > 0 && start->first_index + count - 1 < start->snapshot_index) {
        count = 0;
    }
    rv = consensus__reserve_scratch(c, count);
    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < count; i++) {
        consensus__entry_for_raft(c, &start->entries[i], &c->work->scratch[i]);
    }
    struct raft_snapshot_metadata metadata;
    memset(&metadata, 0, sizeof metadata);
    if (start->snapshot_index > 0) {
        metadata.index = start->snapshot_index;
        metadata.term = start->snapshot_term;
        metadata.configuration_index = start->config_index;
        rv = consensus__to_raft_config(c, &start->config, &metadata.configuration);
        if (rv != 0) {
            return rv;
        }
    }
    c->started = true;
    c->now = start->now_ms;
    c->told_term = start->term;
    c->told_vote = start->voted_for;
    rv = consensus__begin(c, start->now_ms);
    if (rv != 0) {
        c->started = false;
        raft_configuration_close(&metadata.configuration);
        return rv;
    }
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_START;
    event.start.term = start->term;
    event.start.voted_for = start->voted_for;
    if (starts_alone(c, start)) {
        /* Guard (f): libraft makes a sole voter leader at once, without a new term. Entries of the
         * old term that it sent but lost in a crash would be written anew under the same index and
         * term, and standbys keep the old ones. A vote of its own in the next term costs nothing.
         */
        event.start.term++;
        event.start.voted_for = c->id;
    }
    event.start.metadata = start->snapshot_index > 0 ? &metadata : NULL;
    event.start.start_index = count > 0 ? start->first_index : start->snapshot_index + 1;
    event.start.entries = count > 0 ? c->work->scratch : NULL;
    event.start.n_entries = (unsigned)count;
    rv = consensus__step(c, &event, NULL, 0, NULL);
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}

/* ---- local events
 * ---------------------------------------------------------------------------------- */

/* Guard (j): a follower that may not campaign (a standby, or one whose disk is slow) never forgets
 * a leader that fell silent, and refuses every candidate on its account. */
static void forget_leader(struct consensus *c)
{
    struct raft *r = &c->raft;
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL;
    r->follower_state.current_leader.id = 0;
}

void consensus_set_reluctant(struct consensus *c, bool reluctant)
{
    c->reluctant = reluctant;
}

/* This election timeout passes without a campaign. A replica that already campaigns goes on: it is
 * over with the next leader. */
static bool holds_back(const struct consensus *c)
{
    return c->reluctant && c->raft.state == RAFT_FOLLOWER && !consensus_sole_voter(c) &&
           c->held_back < ELECTIONS_HELD_BACK;
}

int consensus_tick(struct consensus *c, uint64_t now_ms, struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    struct raft *r = &c->raft;
    /* A leader that is asked more often than due drops followers which didn't answer in between out
     * of its pipeline. */
    uint64_t due = raft_timeout(r);
    if (c->now >= due && holds_back(c)) {
        c->held_back++;
        r->election_timer_start = c->now;
        forget_leader(c);
        return consensus__finish(c, update);
    }
    if (c->now >= due) {
        if (r->state == RAFT_FOLLOWER && consensus_sole_voter(c) && !r->snapshot.installing &&
            r->last_stored >= consensus__trail_last(&r->trail)) {
            /* Guard (f), while running: a sole voter would lead its current term, which another
             * server may have won under the configuration before (two voters, one being removed).
             */
            r->current_term++;
            r->voted_for = c->id;
        }
        struct raft_event event;
        memset(&event, 0, sizeof event);
        event.type = RAFT_TIMEOUT;
        rv = consensus__step(c, &event, NULL, 0, NULL);
        if (rv != 0) {
            return rv;
        }
        if (r->state == RAFT_FOLLOWER && c->now >= due) {
            forget_leader(c);
        }
    }
    return consensus__finish(c, update);
}

int consensus_persisted(struct consensus *c, uint64_t now_ms, uint64_t index, uint64_t term,
                        struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    struct raft *r = &c->raft;
    if (r->snapshot.installing) {
        /* It may be needed again when the installation fails. */
        if (index > c->saved.last_stored && term != 0 &&
            consensus__trail_term(&c->saved.trail, index) == term) {
            c->saved.last_stored = index;
        }
    } else if (index > r->last_stored && term != 0 && r->state != RAFT_CANDIDATE &&
               consensus__trail_term(&r->trail, index) == term) {
        struct raft_event event;
        memset(&event, 0, sizeof event);
        event.type = RAFT_PERSISTED_ENTRIES;
        event.persisted_entries.index = index;
        rv = consensus__step(c, &event, NULL, 0, NULL);
        if (rv != 0) {
            return rv;
        }
    }
    return consensus__finish(c, update);
}

int consensus_submit(struct consensus *c, uint64_t now_ms, enum consensus_entry_type type,
                     struct slice data, struct wal_block *block, struct consensus_update **update)
{
    *update = NULL;
    assert(type == ENTRY_COMMAND || type == ENTRY_BARRIER || type == ENTRY_CHANGE);
    assert(data.len == 0 || block != NULL);
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        goto err;
    }
    struct raft *r = &c->raft;
    if (r->state != RAFT_LEADER) {
        rv = ERR_NOTLEADER;
        goto err;
    }
    if (r->leader_state.transferee != 0) {
        rv = ERR_BUSY;
        goto err;
    }
    rv = consensus__reserve_scratch(c, 1);
    if (rv != 0) {
        goto err;
    }
    struct wal_entry entry = {
        .term = r->current_term, .type = (uint8_t)type, .data = data, .block = block};
    consensus__entry_for_raft(c, &entry, &c->work->scratch[0]);
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_SUBMIT;
    event.submit.entries = c->work->scratch;
    event.submit.n = 1;
    rv = consensus__step(c, &event, &entry, 1, NULL);
    if (rv != 0) {
        goto err;
    }
    assert(c->work->update.entry_count == 1);
    return consensus__finish(c, update);
err:
    if (block != NULL) {
        wal_block_unref(block);
    }
    return rv;
}

/* The payload of a change: the block and its bytes in one piece. */
struct change_block {
    struct wal_block block;
    struct buf bytes;
};

static void change_block_release(struct wal_block *block)
{
    struct change_block *b = (struct change_block *)block;
    buf_close(&b->bytes);
    mem_free(b);
}

int consensus_submit_change(struct consensus *c, uint64_t now_ms,
                            const struct consensus_config *config, struct consensus_update **update)
{
    *update = NULL;
    const struct raft *r = &c->raft;
    if (c->dead) {
        return ERR_NOMEM;
    }
    if (r->state != RAFT_LEADER) {
        return ERR_NOTLEADER;
    }
    /* Guard (g): a leader may change the configuration only after it committed an entry of its own
     * term; otherwise it may not know of a change of an earlier term that is committed, and two
     * configurations that differ in more than one server would be at work. libraft checks only for
     * one that it knows to be pending. */
    if (r->configuration_uncommitted_index != 0 || r->leader_state.promotee_id != 0 ||
        r->leader_state.transferee != 0 ||
        consensus__trail_term(&r->trail, r->commit_index) != r->current_term) {
        return ERR_BUSY;
    }
    /* libraft rebuilds its table of progress only when the number of servers changes. */
    struct consensus_config now, next = *config;
    consensus_get_config(c, &now);
    if (!consensus__config_valid(&next) || consensus__config_edit(&now, &next) != 0) {
        return ERR_INVAL;
    }
    struct change_block *b = mem_zalloc(sizeof *b);
    if (b == NULL) {
        return ERR_NOMEM;
    }
    b->block = (struct wal_block){.refs = 1, .release = change_block_release};
    int rv = consensus_config_encode(&next, &b->bytes);
    if (rv != 0) {
        change_block_release(&b->block);
        return rv;
    }
    return consensus_submit(c, now_ms, ENTRY_CHANGE, slice_of(b->bytes.data, b->bytes.len),
                            &b->block, update);
}

int consensus_configuration_applied(struct consensus *c, uint64_t now_ms, uint64_t index,
                                    struct slice data, struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    struct consensus_config config;
    rv = consensus_config_decode(data, &config);
    if (rv != 0) {
        return rv;
    }
    assert(index > 0);
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_CONFIGURATION;
    event.configuration.index = index;
    rv = consensus__to_raft_config(c, &config, &event.configuration.conf);
    if (rv != 0) {
        return rv;
    }
    rv = consensus__step(c, &event, NULL, 0, NULL);
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}

int consensus_transfer(struct consensus *c, uint64_t now_ms, uint64_t to,
                       struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    if (c->raft.state != RAFT_LEADER) {
        return ERR_NOTLEADER;
    }
    if (c->raft.leader_state.transferee != 0) {
        return ERR_BUSY;
    }
    c->raft.leader_state.transferring =
        false; /* libraft leaves the flag of an earlier one standing */
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_TRANSFER;
    event.transfer.server_id = to;
    rv = consensus__step(c, &event, NULL, 0, NULL);
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}

int consensus_catch_up(struct consensus *c, uint64_t now_ms, uint64_t id,
                       struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    if (c->raft.state != RAFT_LEADER) {
        return ERR_NOTLEADER;
    }
    const struct raft_server *server = server_of(c, id);
    if (server == NULL || server->role == RAFT_VOTER || id == c->id) {
        return ERR_INVAL;
    }
    if (c->raft.leader_state.promotee_id != 0) {
        return ERR_BUSY;
    }
    raft_index match = 0;
    rv = raft_match_index(&c->raft, id, &match);
    if (rv == 0 && match == consensus__trail_last(&c->raft.trail)) {
        /* libraft looks only when a match index grows: it would wait for the next entry. */
        c->caught_up_id = id;
        c->caught_up_term = c->raft.current_term;
        return consensus__finish(c, update);
    }
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_CATCH_UP;
    event.catch_up.server_id = id;
    rv = consensus__step(c, &event, NULL, 0, NULL);
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}
