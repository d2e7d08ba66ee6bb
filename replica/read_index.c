/* Linearizable reads without a log write (Ongaro, "Consensus: Bridging Theory and Practice", §6.4;
 * rules X22).
 *
 * All reads that wait at the end of a turn form a round: it notes the commit index and asks the
 * voters whether the term is still theirs. A majority that says yes after the round began proves
 * that no later leader existed then, so that whoever was acknowledged before is at or below the
 * noted index. One round at a time: the next one collects meanwhile.
 *
 * A round asks just as many voters as it needs, those that were fast last time; the others only
 * when no answer comes. */
#include <string.h>

#include "base/hlc.h"
#include "replica/internal.h"

#define ITEM_HEADER_BYTES 6u
#define READ_PATIENCE_MS  3u   /* then the others are asked, too */
#define READ_ASK_ALL_MS   200u /* after that happened */

/* ---- asking
 * --------------------------------------------------------------------------------------------------------
 */

/* Begins an item in the scratch buffer; NULL: no memory. */
static struct buf *item_begin(struct replica *r, uint16_t kind)
{
    buf_clear(&r->scratch);
    uint8_t *header = buf_extend(&r->scratch, ITEM_HEADER_BYTES);
    if (header == NULL) {
        return NULL;
    }
    store_u16(header, kind);
    return &r->scratch;
}

static void item_send(struct shard *s, uint32_t node)
{
    struct buf *b = &s->r->scratch;
    store_u32(b->data + 2, (uint32_t)(b->len - ITEM_HEADER_BYTES));
    replica__send(s, node, slice_of(b->data, b->len));
}

static void confirm_send(struct shard *s, uint64_t id, uint64_t seq)
{
    struct replica *r = s->r;
    struct msg_confirm m = {
        .uid = s->uid,
        .from = s->self_id,
        .to = id,
        .term = s->lead_term,
        .seq = seq,
        .wall_ms = env_wall_us(r->env) / 1000,
    };
    struct buf *b = item_begin(r, KIND_CONFIRM);
    if (b != NULL && message_encode_confirm(&m, b) == 0) {
        item_send(s, replica_id_node(id));
    }
}

void read_send_confirm(struct shard *s, uint64_t seq)
{
    struct consensus_config config;
    consensus_get_config(s->consensus, &config);
    s->confirm_ms = env_now_ms(s->r->env);
    for (uint32_t i = 0; i < config.count; i++) {
        const struct consensus_server *server = &config.servers[i];
        if (server->role == CONSENSUS_VOTER && server->id != s->self_id) {
            confirm_send(s, server->id, seq);
        }
    }
}

/* A question of term 0: no leader asks one, so that its answer proves nothing. Its number is when
 * it was asked. It brings word of this node's load, and of its end. */
void read_ask_clocks(struct shard *meta, uint64_t now_ms)
{
    struct replica *r = meta->r;
    struct consensus_config config;
    consensus_get_config(meta->consensus, &config);
    for (uint32_t i = 0; i < config.count; i++) {
        if (config.servers[i].id == meta->self_id) {
            continue;
        }
        struct msg_confirm m = {
            .uid = meta->uid,
            .from = meta->self_id,
            .to = config.servers[i].id,
            .seq = now_ms,
            .wall_ms = env_wall_us(r->env) / 1000,
            .busy = leaders_busy(r),
            .spread = r->leaders.spread,
            .stopping = r->stopping,
        };
        struct buf *b = item_begin(r, KIND_CONFIRM);
        if (b != NULL && message_encode_confirm(&m, b) == 0) {
            item_send(meta, replica_id_node(config.servers[i].id));
        }
    }
}

/* ---- rounds
 * --------------------------------------------------------------------------------------------------------
 */

static void reads_call(struct list *reads, int err)
{
    struct list all;
    list_init(&all);
    list_splice(&all, reads);
    while (!list_empty(&all)) {
        struct shard_read *read = list_entry(all.next, struct shard_read, link);
        list_remove(&read->link);
        read->cb(read, err);
    }
}

static uint32_t voters_of(const struct consensus_config *config, uint32_t *mask)
{
    uint32_t count = 0;
    *mask = 0;
    for (uint32_t i = 0; i < config->count; i++) {
        if (config->servers[i].role == CONSENSUS_VOTER) {
            count++;
            *mask |= 1u << i;
        }
    }
    return count;
}

static bool same_config(const struct consensus_config *a, const struct consensus_config *b)
{
    if (a->count != b->count) {
        return false;
    }
    for (uint32_t i = 0; i < a->count; i++) {
        if (a->servers[i].id != b->servers[i].id || a->servers[i].role != b->servers[i].role) {
            return false;
        }
    }
    return true;
}

/* Reads of the round may be served if a majority has answered; begins anew when the voters changed
 * meanwhile. */
static void round_check(struct shard *s)
{
    struct read_round *round = &s->round;
    uint32_t mask;
    uint32_t voters = voters_of(&round->config, &mask);
    if (!round->running || (uint32_t)__builtin_popcount(round->yes & mask) <= voters / 2) {
        return;
    }
    round->running = false;
    struct consensus_config now;
    consensus_get_config(s->consensus, &now);
    if (!shard__leads(s) || s->lead_term != round->term || consensus_change_pending(s->consensus) ||
        !same_config(&now, &round->config)) {
        list_splice(&round->reads, &s->reads);
        list_splice(&s->reads, &round->reads); /* keeps the order */
        replica__turn(s);
        return;
    }
    list_splice(&s->reads_done, &round->reads);
    if (round->index > s->reads_done_index) {
        s->reads_done_index = round->index;
    }
    if (!list_empty(&s->reads)) {
        replica__turn(s);
    }
}

static bool heard_lately(const struct shard *s, uint64_t id, uint64_t now_ms)
{
    const struct peer *peer = replica__peer(s->r, replica_id_node(id));
    return peer != NULL && peer->heard_ms != 0 &&
           now_ms - peer->heard_ms <= 3 * (uint64_t)s->r->opts.heartbeat_ms;
}

/* Asks `count` voters, beginning with the one that was fast last time, if so many were heard
 * lately; else all. */
static void round_ask(struct shard *s, uint32_t count)
{
    struct read_round *round = &s->round;
    const struct consensus_config *config = &round->config;
    uint64_t to[NODES_MAX * 2];
    uint32_t found = 0;
    uint32_t first = 0;
    for (uint32_t i = 0; i < config->count; i++) {
        first = config->servers[i].id == s->read_voter ? i : first;
    }
    for (uint32_t k = 0; k < config->count && found < count; k++) {
        const struct consensus_server *server = &config->servers[(first + k) % config->count];
        if (server->role == CONSENSUS_VOTER && server->id != s->self_id &&
            heard_lately(s, server->id, round->started_ms)) {
            to[found++] = server->id;
        }
    }
    round->asked_all = found < count || round->started_ms < s->read_all_ms;
    if (round->asked_all) {
        read_send_confirm(s, round->seq);
        return;
    }
    for (uint32_t i = 0; i < found; i++) {
        confirm_send(s, to[i], round->seq);
    }
    if (s->read_patience.slot == 0) {
        env_timer_start_in_ms(s->r->env, &s->read_patience, READ_PATIENCE_MS);
    }
}

/* Armed by one round it looks at the one that is under way now, so that rounds cost no timer. */
void read_on_patience(struct env_timer *timer)
{
    struct shard *s = container_of(timer, struct shard, read_patience);
    struct read_round *round = &s->round;
    uint64_t now_ms = env_now_ms(s->r->env);
    if (!round->running || round->asked_all || !shard__leads(s)) {
        return;
    }
    if (now_ms - round->started_ms < READ_PATIENCE_MS) {
        env_timer_start_in_ms(s->r->env, timer, READ_PATIENCE_MS - (now_ms - round->started_ms));
        return;
    }
    round->asked_all = true;
    s->read_all_ms = now_ms + READ_ASK_ALL_MS;
    read_send_confirm(s, round->seq);
}

static void round_begin(struct shard *s)
{
    struct read_round *round = &s->round;
    round->running = true;
    round->seq = ++s->read_seq;
    round->term = s->lead_term;
    round->index = consensus_commit_index(s->consensus);
    round->started_ms = round->sent_ms = env_now_ms(s->r->env);
    round->yes = 0;
    consensus_get_config(s->consensus, &round->config);
    list_splice(&round->reads, &s->reads);
    for (uint32_t i = 0; i < round->config.count; i++) {
        if (round->config.servers[i].id == s->self_id) {
            round->yes |= 1u << i;
        }
    }
    s->r->counters.read_batches++;
    uint32_t mask;
    uint32_t majority = voters_of(&round->config, &mask) / 2 + 1;
    round_ask(s, majority - (uint32_t)__builtin_popcount(round->yes & mask));
    round_check(s);
}

/* ---- reads at a version (rules X14)
 *
 * Answered when the shard clock has passed it: then every command with a smaller version is
 * applied, and none can come any more. Only an entry moves the clock, so a leader without other
 * work writes a tick as soon as its stamp is large enough; a client's number never moves it.
 */

static bool is_ahead(const struct shard *s, const struct shard_read *read)
{
    return read->at > heap_clock(s->heap);
}

/* Puts those of a list that must wait, or must not, where they belong. Confirmed reads exist only
 * while we lead. */
static void set_apart(struct shard *s, struct list *reads)
{
    struct list refused;
    list_init(&refused);
    list_for_each_safe (it, next, reads) {
        struct shard_read *read = list_entry(it, struct shard_read, link);
        if (!is_ahead(s, read)) {
            continue;
        }
        list_remove(&read->link);
        bool far = hlc_to_ms(read->at) > hlc_to_ms(shard__stamp(s)) + READ_AHEAD_MS;
        list_push_back(far ? &refused : &s->reads_ahead, &read->link);
    }
    reads_call(&refused, ERR_INVAL);
}

static void ahead_serve(struct shard *s)
{
    struct list due;
    list_init(&due);
    list_for_each_safe (it, next, &s->reads_ahead) {
        struct shard_read *read = list_entry(it, struct shard_read, link);
        if (!is_ahead(s, read)) {
            list_remove(&read->link);
            list_push_back(&due, &read->link);
        }
    }
    reads_call(&due, 0);
}

/* An entry in flight or in the open batch will move the clock by itself. */
static void ahead_tick(struct shard *s)
{
    if (list_empty(&s->reads_ahead) || s->in_flight_count > 0 || s->ready_count > 0) {
        return;
    }
    if (s->open != NULL && s->open->count > 0) {
        shard_hurry(s);
        return;
    }
    uint64_t stamp = shard__stamp(s);
    list_for_each (it, &s->reads_ahead) {
        if (list_entry(it, struct shard_read, link)->at <= stamp) {
            (void)shard__propose_tick(s);
            return;
        }
    }
}

void read_serve(struct shard *s)
{
    if (!list_empty(&s->reads_done) && s->applied >= s->reads_done_index) {
        struct list due;
        list_init(&due);
        list_splice(&due, &s->reads_done);
        set_apart(s, &due);
        reads_call(&due, 0);
        ahead_tick(s);
    }
    if (!list_empty(&s->reads_ahead)) {
        ahead_serve(s);
    }
}

void read_end_of_turn(struct shard *s)
{
    if (!s->round.running && !list_empty(&s->reads) && shard__leads(s) && s->serving &&
        !consensus_change_pending(s->consensus)) {
        round_begin(s);
        read_serve(s);
    }
}

void read_refuse(struct shard *s, int err)
{
    s->round.running = false;
    list_splice(&s->reads, &s->round.reads);
    list_splice(&s->reads, &s->reads_done);
    list_splice(&s->reads, &s->reads_ahead);
    s->reads_done_index = 0;
    reads_call(&s->reads, err);
}

void read_tick(struct shard *s, uint64_t now_ms)
{
    struct read_round *round = &s->round;
    if (!shard__leads(s)) {
        return;
    }
    ahead_tick(s);
    if (round->running && now_ms - round->started_ms > s->r->opts.election_ms) {
        round->running = false;
        reads_call(&round->reads, ERR_UNAVAILABLE);
        replica__turn(s);
    } else if (round->running && now_ms - round->sent_ms >= s->r->opts.heartbeat_ms) {
        round->sent_ms = now_ms; /* a question or an answer was lost */
        read_send_confirm(s, round->seq);
    } else if (!round->running && !list_empty(&s->reads)) {
        replica__turn(s); /* a change of configuration was pending */
    }
}

int shard_read_index(struct shard *shard, struct shard_read *read)
{
    if (shard->failed) {
        return ERR_IO;
    }
    if (shard->dropped) {
        return ERR_NOSHARD;
    }
    if (shard->r->stopped) {
        return ERR_SHUTDOWN;
    }
    if (!shard__leads(shard)) {
        return ERR_NOTLEADER;
    }
    if (!shard->serving) {
        return ERR_BUSY;
    }
    list_push_back(&shard->reads, &read->link);
    shard->r->counters.reads++;
    replica__turn(shard);
    return 0;
}

/* ---- answering
 * -----------------------------------------------------------------------------------------------------
 */

static void note_clock(struct replica *r, uint32_t node, uint64_t wall_ms)
{
    struct peer *peer = replica__peer(r, node);
    if (peer != NULL) {
        peer->wall_known = true;
        peer->wall_offset_ms = (int64_t)wall_ms - (int64_t)(env_wall_us(r->env) / 1000);
        peer->wall_ms = env_now_ms(r->env);
    }
}

int read_on_confirm(struct replica *r, uint32_t node, struct slice body)
{
    struct msg_confirm m;
    if (message_decode_confirm(body, &m) != 0 || replica_id_node(m.from) != node) {
        return ERR_PROTOCOL;
    }
    note_clock(r, node, m.wall_ms);
    if (m.term == 0) {
        leaders_on_word(r, node, m.busy, m.spread == 1, m.stopping == 1);
    }
    struct shard *s = replica_shard(r, m.uid);
    if (s == NULL || s->failed || m.to != s->self_id) {
        return 0;
    }
    struct msg_confirm_result answer = {
        .uid = m.uid,
        .from = s->self_id,
        .to = m.from,
        .term = m.term,
        .seq = m.seq,
        .yes = consensus_term(s->consensus) == m.term && s->install.step == INSTALL_NONE &&
               !consensus_installing(s->consensus),
        .wall_ms = env_wall_us(r->env) / 1000,
    };
    struct buf *b = item_begin(r, KIND_CONFIRM_RESULT);
    if (b != NULL && message_encode_confirm_result(&answer, b) == 0) {
        item_send(s, node); /* waits for the hard state like every message */
    }
    return 0;
}

int read_on_confirm_result(struct replica *r, uint32_t node, struct slice body)
{
    struct msg_confirm_result m;
    if (message_decode_confirm_result(body, &m) != 0 || replica_id_node(m.from) != node) {
        return ERR_PROTOCOL;
    }
    note_clock(r, node, m.wall_ms);
    if (m.term == 0) {
        clock_on_answer(r, node, m.seq, m.wall_ms);
        return 0;
    }
    struct shard *s = replica_shard(r, m.uid);
    if (s == NULL || s->failed || m.to != s->self_id) {
        return 0;
    }
    struct read_round *round = &s->round;
    if (!round->running || m.seq != round->seq || m.term != round->term || m.yes != 1) {
        return 0;
    }
    for (uint32_t i = 0; i < round->config.count; i++) {
        if (round->config.servers[i].id == m.from) {
            round->yes |= 1u << i;
            s->read_voter = m.from;
        }
    }
    round_check(s);
    read_serve(s);
    return 0;
}
