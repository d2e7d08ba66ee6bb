/* New entries leave at once for as many voters as a majority takes, and for the others a little
 * later, many at a time.
 *
 * An entry costs a follower two wakings, a write and a sync, and the leader a message out and one
 * in, whether its answer is the one that commits the entry or comes after. So the leader asks only
 * those whose answers it needs: voters that have stored all that is committed, itself included,
 * and of these the fastest. What is for the others is kept back: once
 * COMMITTED_MS have passed since the first of it, or much has gathered, it leaves as one message.
 *
 * When one that was asked doesn't answer, it leaves earlier: an entry that isn't committed after
 * UNCOMMITTED_MS goes to all, those that answer commit it, and who didn't isn't asked any more. No
 * state remembers that; who has stored what is committed is looked at for each entry.
 *
 * To consensus it is a message that takes its time. Only entries of commands that were submitted
 * just now are kept back: who catches up, votes or is handed leadership waits for nothing. */
#include <string.h>

#include "replica/internal.h"

#define COMMITTED_MS      20u
#define UNCOMMITTED_MS    5u
#define LOOK_MS           2u /* it isn't looked at more often */
#define THRIFTY_BYTES_MAX (128u << 10)
#define ANSWER_FAST_NS    500000u /* who answers within it isn't told from faster ones */
#define ANSWER_SHARE      8u      /* a new time's weight in the smoothed one, divided by */
#define ANSWER_LOST_MS    1000u
#define MS_NS             UINT64_C(1000000)

static bool has_all_committed(const struct shard *s, uint64_t id, uint64_t commit)
{
    uint64_t stored =
        id == s->self_id ? wal_log_durable_index(s->log) : consensus_match_index(s->consensus, id);
    return stored >= commit;
}

/* ---- how fast a server is
 * --------------------------------------------------------------------------------------------------
 *
 * One answer of each peer is timed at a time, whichever shard's; also those to what was kept back,
 * so that nobody is forgotten who could be faster. */

void thrifty_sent(struct shard *s, uint64_t to, uint64_t index)
{
    struct peer *peer = replica__peer(s->r, replica_id_node(to));
    uint64_t now_ns = env_now_ns(s->r->env);
    if (peer == NULL ||
        (peer->timed.uid != 0 && now_ns - peer->timed.sent_ns < ANSWER_LOST_MS * MS_NS)) {
        return;
    }
    peer->timed.uid = s->uid;
    peer->timed.index = index;
    peer->timed.sent_ns = now_ns;
}

void thrifty_answered(struct shard *s, uint64_t from)
{
    struct peer *peer = replica__peer(s->r, replica_id_node(from));
    if (peer == NULL || peer->timed.uid != s->uid ||
        consensus_match_index(s->consensus, from) < peer->timed.index) {
        return;
    }
    uint64_t ns = env_now_ns(s->r->env) - peer->timed.sent_ns;
    uint64_t old = peer->answer_ns == 0 ? ns : peer->answer_ns;
    peer->answer_ns = old - old / ANSWER_SHARE + ns / ANSWER_SHARE;
    peer->timed.uid = 0;
}

/* Voters are taken in this order, the leader itself first: by how long they take, as a power of
 * two, for small differences come and go; then by their node numbers, from our own on and around,
 * so that each node's first choice is another one. */
static uint32_t rank(const struct shard *s, uint64_t id)
{
    uint32_t node = replica_id_node(id);
    const struct peer *peer = replica__peer(s->r, node);
    uint32_t slowness = 0;
    for (uint64_t ns = peer == NULL ? 0 : peer->answer_ns; ns >= ANSWER_FAST_NS; ns /= 2) {
        slowness++;
    }
    return slowness << 8 | ((node - s->r->opts.node) & 0xffu);
}

/* ---- keeping back
 * ----------------------------------------------------------------------------------------------------------
 */

/* A majority is asked without this server: fast voters come before it. */
static bool can_wait(const struct shard *s, uint64_t id)
{
    uint64_t commit = consensus_commit_index(s->consensus);
    uint64_t fast[NODES_MAX * 2];
    uint32_t count = 0;
    bool is_fast = false;
    uint32_t voters = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < consensus_server_count(s->consensus); i++) {
        struct consensus_server server = consensus_server_at(s->consensus, i);
        if (server.role != CONSENSUS_VOTER) {
            continue;
        }
        voters++;
        if (has_all_committed(s, server.id, commit)) {
            fast[count++] = server.id;
            is_fast = is_fast || server.id == id;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        before += fast[i] != id && (!is_fast || rank(s, fast[i]) < rank(s, id));
    }
    return before > voters / 2;
}

static struct late *late_of(struct shard *s, uint64_t to)
{
    for (uint32_t i = 0; i < LATE_MAX; i++) {
        if (s->late[i].count > 0 && s->late[i].to == to) {
            return &s->late[i];
        }
    }
    return NULL;
}

static struct late *late_new(struct shard *s, const struct consensus_message *m)
{
    for (uint32_t i = 0; i < LATE_MAX; i++) {
        struct late *late = &s->late[i];
        if (late->count == 0) {
            *late = (struct late){.to = m->to,
                                  .term = m->term,
                                  .index = m->index,
                                  .log_term = m->log_term,
                                  .version = m->version};
            return late;
        }
    }
    return NULL;
}

static bool is_committed(const struct shard *s)
{
    return consensus_commit_index(s->consensus) >= s->late_last;
}

/* Entries up to `last` are kept since now. */
static void begin(struct shard *s, uint64_t last)
{
    struct replica *r = s->r;
    uint64_t now_ms = env_now_ms(r->env);
    bool first = list_empty(&s->late_link);
    if (first || is_committed(s)) {
        s->late_open_ms = now_ms;
    }
    s->late_last = last;
    if (!first) {
        return;
    }
    s->late_ms = now_ms;
    s->late_bytes = 0;
    list_push_back(&r->late_shards, &s->late_link);
    if (r->late.slot == 0) {
        env_timer_start_in_ms(r->env, &r->late, UNCOMMITTED_MS);
    }
}

static void send(struct shard *s, struct late *late)
{
    struct consensus_message m = {
        .type = MSG_APPEND,
        .from = s->self_id,
        .to = late->to,
        .term = late->term,
        .index = late->index,
        .log_term = late->log_term,
        .commit = consensus_commit_index(s->consensus),
        .count = late->count,
        .version = late->version,
    };
    late->count = 0;
    if (shard__leads(s) && consensus_term(s->consensus) == m.term) {
        shard__send_append(s, &m);
    }
}

bool thrifty_keep(struct shard *s, const struct consensus_update *u,
                  const struct consensus_message *m)
{
    bool fresh = m->type == MSG_APPEND && m->count > 0 && m->count == u->entry_count &&
                 m->index + 1 == u->first_index && u->entries[0].type == ENTRY_COMMAND;
    if (!fresh || s->r->stopping || !can_wait(s, m->to)) {
        return false;
    }
    struct late *late = late_of(s, m->to);
    if (late != NULL && (late->term != m->term || late->index + late->count != m->index)) {
        return false;
    }
    late = late != NULL ? late : late_new(s, m);
    if (late == NULL) {
        return false;
    }
    begin(s, u->first_index + u->entry_count - 1);
    late->count += m->count;
    for (size_t i = 0; i < u->entry_count; i++) {
        s->late_bytes += u->entries[i].data.len;
    }
    if (s->late_bytes > THRIFTY_BYTES_MAX) {
        thrifty_release(s);
    }
    return true;
}

void thrifty_release_to(struct shard *s, uint64_t to)
{
    struct late *late = late_of(s, to);
    if (late != NULL) {
        send(s, late);
    }
}

void thrifty_release(struct shard *s)
{
    list_remove(&s->late_link);
    for (uint32_t i = 0; i < LATE_MAX; i++) {
        if (s->late[i].count > 0) {
            send(s, &s->late[i]);
        }
    }
}

void thrifty_forget(struct shard *s)
{
    list_remove(&s->late_link);
    memset(s->late, 0, sizeof s->late);
}

/* When what the shard keeps has to leave. The time of the oldest entry that isn't committed is
 * known only where one follows the other; where several are on their way, it may leave early. */
static uint64_t due_ms(const struct shard *s)
{
    uint64_t due = s->late_ms + COMMITTED_MS;
    uint64_t open = s->late_open_ms + UNCOMMITTED_MS;
    return is_committed(s) || due < open ? due : open;
}

/* What all shards have kept leaves with what was kept first, in one message. */
static void on_timer(struct env_timer *timer)
{
    struct replica *r = container_of(timer, struct replica, late);
    uint64_t now_ms = env_now_ms(r->env);
    uint64_t next_ms = now_ms + UNCOMMITTED_MS;
    if (list_empty(&r->late_shards)) {
        return;
    }
    struct shard *first = list_entry(r->late_shards.next, struct shard, late_link);
    bool all = now_ms >= first->late_ms + COMMITTED_MS;
    list_for_each_safe (it, following, &r->late_shards) {
        struct shard *s = list_entry(it, struct shard, late_link);
        uint64_t due = due_ms(s);
        if (all || due <= now_ms) {
            thrifty_release(s);
        } else if (due < next_ms) {
            next_ms = due;
        }
    }
    if (!list_empty(&r->late_shards)) {
        uint64_t in_ms = next_ms - now_ms;
        env_timer_start_in_ms(r->env, timer, in_ms < LOOK_MS ? LOOK_MS : in_ms);
    }
}

void thrifty_init(struct replica *r)
{
    list_init(&r->late_shards);
    r->late.cb = on_timer;
}

void thrifty_close(struct replica *r)
{
    env_timer_stop(r->env, &r->late);
}
