/* Commands on their way into the log and back: batches, who waits for them, and applying entries.
 *
 * All commands of a turn become one entry; while an entry is in flight the next batch collects, so
 * that the batch grows with the load and not with a timer. The bytes of a command are copied once,
 * from the frame into the entry. */
#include <string.h>

#include "base/hlc.h"
#include "base/log.h"
#include "replica/internal.h"

#define BATCH_POOL_MAX 64u
#define APPLY_ENTRIES  64u
#define APPLY_FEW      4u
#define CLOCK_LEAD_MS                                                                              \
    500u /* a stamp runs ahead of the median clock by this much at most (rules X16) */
#define STAMP_AHEAD_LOG_MS  1000u
#define CLOCK_SAMPLE_MS_MAX 5000u /* older samples say nothing */
#define NO_CLAIM            ((struct claim){0})

/* ---- memory
 * --------------------------------------------------------------------------------------------------------
 */

static int block_reserve(struct shard *s, struct batch *b, size_t more)
{
    size_t need = b->len + more;
    if (b->block != NULL && need <= b->block->capacity) {
        return 0;
    }
    size_t twice = b->block == NULL ? 0 : b->block->capacity * 2;
    struct entry_block *block = block_new(s->r->blocks, need > twice ? need : twice);
    if (block == NULL) {
        return ERR_NOMEM;
    }
    if (b->block != NULL) {
        memcpy(block->data, b->block->data, b->len);
        wal_block_unref(&b->block->block);
    }
    b->block = block;
    return 0;
}

static void batch_free(struct batch *b)
{
    if (b->block != NULL) {
        wal_block_unref(&b->block->block);
    }
    mem_free(b->waiters);
    mem_free(b->claims);
    mem_free(b->results);
    mem_free(b);
}

static struct batch *batch_new(struct shard *s)
{
    struct batch *b;
    if (s->r->batch_pool_count > 0) {
        b = list_entry(s->r->batch_pool.next, struct batch, link);
        list_remove(&b->link);
        s->r->batch_pool_count--;
    } else {
        b = mem_zalloc(sizeof *b);
        if (b == NULL) {
            return NULL;
        }
        list_init(&b->link);
    }
    b->len = 0;
    b->count = 0;
    b->work = 0;
    b->wave = 0;
    b->lazy = true;
    b->index = 0;
    size_t first = s->batch_bytes > ENTRY_HEADER_BYTES ? s->batch_bytes : ENTRY_HEADER_BYTES;
    if (block_reserve(s, b, first) != 0) {
        batch_free(b);
        return NULL;
    }
    b->len = ENTRY_HEADER_BYTES;
    return b;
}

/* The batch is unlinked and nobody waits any more. */
static void batch_done(struct shard *s, struct batch *b)
{
    if (b->block != NULL) {
        wal_block_unref(&b->block->block);
        b->block = NULL;
    }
    if (s->r->batch_pool_count >= BATCH_POOL_MAX) {
        batch_free(b);
        return;
    }
    list_push_front(&s->r->batch_pool, &b->link);
    s->r->batch_pool_count++;
}

static int waiters_reserve(struct batch *b)
{
    if (b->count < b->waiters_capacity) {
        return 0;
    }
    uint32_t capacity = b->waiters_capacity == 0 ? 16 : b->waiters_capacity * 2;
    struct shard_command **waiters = mem_realloc(b->waiters, capacity * sizeof *waiters);
    if (waiters == NULL) {
        return ERR_NOMEM;
    }
    b->waiters = waiters;
    struct claim *claims = mem_realloc(b->claims, capacity * sizeof *claims);
    if (claims == NULL) {
        return ERR_NOMEM;
    }
    b->claims = claims;
    struct command_result *results = mem_realloc(b->results, capacity * sizeof *results);
    if (results == NULL) {
        return ERR_NOMEM;
    }
    b->results = results;
    b->waiters_capacity = capacity;
    return 0;
}

/* ---- proposing
 * -----------------------------------------------------------------------------------------------------
 */

/* Nobody waits for the outcome of a transaction to be applied, nor for its end to be forgotten,
 * unless shard_hurry() says so. */
static bool may_wait(uint16_t kind)
{
    return kind == KIND_TX_DECIDE || kind == KIND_TX_FORGET;
}

/* The open batch leaves its place; there is none afterwards. */
static struct batch *open_take(struct shard *s)
{
    struct batch *b = s->open;
    lazy_end(s);
    s->open = NULL;
    return b;
}

static void make_ready(struct shard *s)
{
    struct batch *b = open_take(s);
    list_push_back(&s->ready, &b->link);
    s->ready_count++;
    replica__turn(s);
}

static int batch_append(struct shard *s, uint16_t kind, struct slice body, struct claim claim,
                        struct shard_command *command)
{
    struct batch *b = s->open;
    bool full = b != NULL &&
                (b->len >= BATCH_BYTES_CLOSE || b->work >= BATCH_WORK_CLOSE ||
                 b->len + ENTRY_COMMAND_HEADER_BYTES + body.len > wal_entry_bytes_max(s->r->wal));
    if (full && b->count > 0) {
        if (s->ready_count >= BATCHES_READY_MAX) {
            return ERR_BUSY;
        }
        make_ready(s);
        b = NULL;
    }
    if (b == NULL) {
        s->open = b = batch_new(s);
        if (b == NULL) {
            return ERR_NOMEM;
        }
    }
    int rv = block_reserve(s, b, ENTRY_COMMAND_HEADER_BYTES + body.len);
    if (rv == 0) {
        rv = waiters_reserve(b);
    }
    if (rv != 0) {
        return rv;
    }
    uint8_t *at = b->block->data + b->len;
    store_u16(at, kind);
    store_u16(at + 2, 0);
    store_u32(at + 4, (uint32_t)body.len);
    memcpy(at + ENTRY_COMMAND_HEADER_BYTES, body.data, body.len);
    b->len += ENTRY_COMMAND_HEADER_BYTES + body.len;
    assert(b->len <= ENTRY_BYTES_MAX);
    b->claims[b->count] = claim;
    b->waiters[b->count++] = command;
    b->work += fsm_work(s->heap, kind, body);
    s->r->counters.commands++;
    if (b->lazy && may_wait(kind) && !s->r->stopping) {
        lazy_begin(s);
        return 0;
    }
    lazy_end(s);
    b->lazy = false;
    replica__turn(s);
    return 0;
}

static int check_open(const struct shard *s)
{
    if (s->failed) {
        return ERR_IO;
    }
    if (s->dropped) {
        return ERR_NOSHARD;
    }
    if (!shard__leads(s)) {
        return ERR_NOTLEADER;
    }
    if (s->r->stopping) {
        return ERR_SHUTDOWN;
    }
    if (!s->serving || consensus_transferee(s->consensus) != 0) {
        return ERR_BUSY;
    }
    return replica_has_room(s->r) ? 0 : ERR_DISKFULL;
}

int shard_propose(struct shard *shard, uint16_t kind, struct slice body, uint64_t owner,
                  struct shard_command *command)
{
    int rv = check_open(shard);
    if (rv != 0) {
        return rv;
    }
    if (body.len > COMMAND_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    struct command_prefix prefix;
    struct msg_tx_close close = {0};
    struct claim claim = {0};
    rv = fsm_validate(shard->uid, kind, body, &prefix);
    if (rv != 0) {
        return rv;
    }
    if (kind != KIND_TX_CLOSE) {
        /* A session may be opened: TX_CLOSE needs one. */
        rv = kind != KIND_SESSION_OPEN && hold_is_on(shard) ? ERR_BUSY : 0;
    } else if (message_decode_tx_close(body, &close) == 0 && close.hold != 0) {
        rv = shard_holds(shard, close.hold) ? 0 : ERR_TX_UNDECIDED;
    }
    if (rv != 0) {
        return rv;
    }
    if (prefix.session != 0 && close.hold != 0) {
        rv = session_check(shard->heap, prefix.session, owner); /* the hold ends below */
    } else if (prefix.session != 0) {
        claim = (struct claim){.session = prefix.session, .owner = owner};
    } else if (kind == KIND_SESSION_OPEN) {
        struct msg_session_open m;
        rv = message_decode_session_open(body, &m);
        if (rv == 0 && m.owner != owner) {
            rv = ERR_DENIED;
        }
    } else if (kind != KIND_NODE_JOIN) {
        rv = ERR_DENIED; /* TICK, SESSION_BURY and RECLAIM are the leader's own */
    }
    if (rv == 0) {
        rv = batch_append(shard, kind, body, claim, command);
    }
    if (rv == 0 && close.hold != 0) {
        hold_end(shard, close.hold);
    }
    return rv;
}

int shard_barrier(struct shard *shard, struct shard_command *command)
{
    struct msg_tick m = {.uid = shard->uid};
    struct buf *scratch = &shard->r->scratch;
    buf_clear(scratch);
    int rv = check_open(shard);
    if (rv == 0) {
        rv = message_encode_tick(&m, scratch);
    }
    return rv != 0 ? rv
                   : batch_append(shard, KIND_TICK, slice_of(scratch->data, scratch->len), NO_CLAIM,
                                  command);
}

int shard_check_commit(const struct shard *shard, const struct command_prefix *prefix,
                       uint64_t owner)
{
    int rv = check_open(shard);
    if (rv == 0 && (prefix->session == 0 || prefix->seq == 0 || prefix->acked >= prefix->seq)) {
        rv = ERR_PROTOCOL;
    }
    return rv != 0 ? rv : session_check(shard->heap, prefix->session, owner);
}

int shard_propose_tx(struct shard *shard, uint16_t kind, struct slice body,
                     struct shard_command *command)
{
    struct command_prefix prefix;
    if (kind == KIND_TX_PREPARE) {
        int rv = check_open(shard);
        if (rv == 0 && hold_is_on(shard)) {
            rv = ERR_BUSY;
        }
        if (rv != 0) {
            return rv;
        }
    } else if (shard->failed || shard->dropped) {
        return shard->failed ? ERR_IO : ERR_NOSHARD;
    } else if (!shard__leads(shard)) {
        return ERR_NOTLEADER;
    } else if (!shard->serving || consensus_transferee(shard->consensus) != 0) {
        return ERR_BUSY;
    }
    if (kind != KIND_TX_PREPARE && kind != KIND_TX_DECIDE && kind != KIND_TX_REFUSE &&
        kind != KIND_TX_FORGET) {
        return ERR_DENIED;
    }
    int rv = fsm_validate(shard->uid, kind, body, &prefix);
    return rv != 0 ? rv : batch_append(shard, kind, body, NO_CLAIM, command);
}

int shard__propose_for(struct shard *s, uint16_t kind, struct slice body,
                       struct shard_command *command)
{
    if (s->failed || s->dropped || !shard__leads(s) || consensus_transferee(s->consensus) != 0) {
        return ERR_NOTLEADER;
    }
    return batch_append(s, kind, body, NO_CLAIM, command);
}

int shard__propose_own(struct shard *s, uint16_t kind, struct slice body)
{
    return shard__propose_for(s, kind, body, NULL);
}

/* ---- time
 * ----------------------------------------------------------------------------------------------------------
 */

/* What the voters' clocks allow, or UINT64_MAX while a majority of them isn't known. */
static uint64_t clock_bound_ms(struct shard *s, uint64_t now_ms)
{
    struct replica *r = s->r;
    int64_t offsets[NODES_MAX * 2];
    uint32_t count = 0;
    uint32_t voters = 0;
    for (uint32_t i = 0; i < consensus_server_count(s->consensus); i++) {
        struct consensus_server server = consensus_server_at(s->consensus, i);
        if (server.role != CONSENSUS_VOTER) {
            continue;
        }
        voters++;
        int64_t offset = 0;
        if (server.id != s->self_id) {
            const struct peer *peer = replica__peer(r, replica_id_node(server.id));
            if (peer == NULL || !peer->wall_known || now_ms - peer->wall_ms > CLOCK_SAMPLE_MS_MAX) {
                continue;
            }
            offset = peer->wall_offset_ms;
        }
        uint32_t at = count++;
        while (at > 0 && offsets[at - 1] > offset) {
            offsets[at] = offsets[at - 1];
            at--;
        }
        offsets[at] = offset;
    }
    if (voters < 2 || count <= voters / 2) {
        return UINT64_MAX;
    }
    int64_t bound =
        (int64_t)(env_wall_us(r->env) / 1000) + offsets[(count - 1) / 2] + CLOCK_LEAD_MS;
    return bound > 0 ? (uint64_t)bound : 0;
}

/* What was stamped by clocks that were ahead, or committed by a shard that is, lies behind `ms`,
 * where time should be. It passes at half its pace then, until the clocks have caught up: leases,
 * deadlines and history end by it, so that it may never stand. */
static uint64_t slowed_ms(struct shard *s, uint64_t last_ms, uint64_t ms, uint64_t now_ms)
{
    if (s->slow_base_ms == 0 && last_ms <= ms) {
        return ms;
    }
    if (s->slow_base_ms == 0) {
        s->slow_base_ms = last_ms;
        s->slow_since_ms = now_ms;
        if (last_ms - ms > STAMP_AHEAD_LOG_MS) {
            log_warn("replica",
                     "a shard's time is ahead of the clocks: it passes at half its pace until they "
                     "catch up",
                     "shard=%llx ahead_ms=%llu", (unsigned long long)s->uid,
                     (unsigned long long)(last_ms - ms));
        }
    }
    uint64_t slow = s->slow_base_ms + (now_ms - s->slow_since_ms) / 2;
    if (slow > ms) {
        return slow;
    }
    s->slow_base_ms = 0;
    return ms;
}

/* Within a term entry time follows our monotonic clock, so that a jump of the wall clock expires
 * nobody (rules E18). */
uint64_t shard__stamp(struct shard *s)
{
    uint64_t now_ms = env_now_ms(s->r->env);
    uint64_t ms = hlc_to_ms(s->stamp_base) + (now_ms - s->stamp_base_ms);
    uint64_t bound = clock_bound_ms(s, now_ms);
    uint64_t clock = heap_clock(s->heap); /* a commit may have moved it past our stamps */
    uint64_t last = s->stamp_last > clock ? s->stamp_last : clock;
    return hlc_next(last, slowed_ms(s, hlc_to_ms(last), ms < bound ? ms : bound, now_ms));
}

uint64_t shard_now(struct shard *shard)
{
    return shard__leads(shard) ? shard__stamp(shard) : heap_clock(shard->heap);
}

/* ---- submitting
 * ----------------------------------------------------------------------------------------------------
 */

static void waiters_answer(struct batch *b, int err)
{
    struct command_result result = {.err = err};
    for (uint32_t i = 0; i < b->count; i++) {
        struct shard_command *command = b->waiters[i];
        b->waiters[i] = NULL;
        if (command != NULL) {
            command->cb(command, &result);
        }
    }
}

static void batch_end(struct shard *s, struct batch *b, int err)
{
    wave_landed(s->r, b);
    waiters_answer(b, err);
    batch_done(s, b);
}

/* Takes a command out of a batch again. */
static void batch_drop(struct batch *b, uint32_t ordinal)
{
    uint8_t *at = b->block->data + ENTRY_HEADER_BYTES;
    for (uint32_t i = 0; i < ordinal; i++) {
        at += ENTRY_COMMAND_HEADER_BYTES + load_u32(at + 4);
    }
    size_t bytes = ENTRY_COMMAND_HEADER_BYTES + load_u32(at + 4);
    b->len -= bytes;
    memmove(at, at + bytes, b->len - (size_t)(at - b->block->data));
    b->count--;
    memmove(b->waiters + ordinal, b->waiters + ordinal + 1,
            (b->count - ordinal) * sizeof *b->waiters);
    memmove(b->claims + ordinal, b->claims + ordinal + 1, (b->count - ordinal) * sizeof *b->claims);
}

/* Nothing goes into the log in a session that is another's, or over. */
static void check_claims(struct shard *s, struct batch *b)
{
    uint32_t i = 0;
    while (i < b->count) {
        struct claim claim = b->claims[i];
        int rv = claim.session == 0 ? 0 : session_check(s->heap, claim.session, claim.owner);
        if (rv == 0) {
            i++;
            continue;
        }
        struct shard_command *command = b->waiters[i];
        batch_drop(b, i);
        if (command != NULL) {
            command->cb(command, &(struct command_result){.err = rv});
        }
    }
}

/* No part of the shard any more: what is called back may propose again. */
static void batch_submit(struct shard *s, struct batch *b)
{
    assert(b->block != NULL); /* what has commands has their bytes */
    check_claims(s, b);
    if (b->count == 0) {
        batch_end(s, b, 0);
        return;
    }
    uint8_t *header = b->block->data;
    uint64_t stamp = shard__stamp(s);
    store_u16(header, ENTRY_FORMAT);
    store_u16(header + 2, 0);
    store_u32(header + 4, b->count);
    store_u64(header + 8, stamp);
    s->batch_bytes = (s->batch_bytes * 3 + b->len) / 4 + 64;
    struct wal_block *block = &b->block->block;
    struct consensus_update *update = NULL;
    b->block = NULL; /* taken */
    int rv = consensus_submit(s->consensus, env_now_ms(s->r->env), ENTRY_COMMAND,
                              slice_of(header, b->len), block, &update);
    if (rv != 0 || update->entry_count == 0) {
        batch_end(s, b, rv == ERR_NOTLEADER ? ERR_NOTLEADER : ERR_BUSY);
        shard__handle(s, rv, update);
        return;
    }
    s->stamp_last = stamp;
    b->index = update->first_index;
    b->term = update->entries[0].term;
    list_push_back(&s->in_flight, &b->link);
    s->in_flight_count++;
    s->r->counters.batches++;
    shard__handle(s, rv, update);
}

/* What a sole voter's log has no place for, nobody else can commit: its clients would be in doubt
 * until somebody makes space. BUSY: a segment is being made, the next tick asks again. Before it
 * serves no client waits, and its first entry must go. */
static int check_place(const struct shard *s, const struct batch *b)
{
    bool alone = s->serving && consensus_sole_voter(s->consensus);
    return alone ? wal_prepared(s->r->wal, b->len) : 0;
}

bool batch_is_due(const struct shard *s)
{
    const struct batch *b = s->open;
    return b != NULL && b->count > 0 && !b->lazy && s->in_flight_count == 0 &&
           s->ready_count == 0 && !s->failed && shard__leads(s);
}

/* Full batches go at once, up to a few in flight; the open one when nothing is and somebody waits
 * for it, in its wave. */
void batch_end_of_turn(struct shard *s)
{
    if (s->failed || !shard__leads(s)) {
        return;
    }
    while (s->ready_count > 0 && s->in_flight_count < BATCHES_IN_FLIGHT_MAX && shard__leads(s)) {
        struct batch *b = list_entry(s->ready.next, struct batch, link);
        int rv = check_place(s, b);
        if (rv == ERR_BUSY) {
            return;
        }
        list_remove(&b->link);
        s->ready_count--;
        if (rv == 0) {
            batch_submit(s, b);
        } else {
            batch_end(s, b, rv);
        }
    }
    if (batch_is_due(s)) {
        struct batch *b = s->open;
        int rv = check_place(s, b);
        if (rv == 0 && wave_take(s)) {
            wave_sent(s->r, b);
            batch_submit(s, open_take(s));
        } else if (rv != 0 && rv != ERR_BUSY) {
            batch_end(s, open_take(s), rv);
        }
    }
}

void batch_tick(struct shard *s)
{
    bool none =
        s->in_flight_count == 0 && s->ready_count == 0 && (s->open == NULL || s->open->count == 0);
    if (none && !s->serving && shard__leads(s)) {
        /* The one that was to begin this term found no memory, and nobody waits for it. */
        s->needs_tick = true;
    }
    if (s->needs_tick || s->ready_count > 0 || s->open != NULL) {
        replica__turn(s);
    }
}

/* What was taken goes before something ends the time in which it can. */
void batch_push(struct shard *s)
{
    if (s->open != NULL && s->open->count > 0 && s->ready_count < BATCHES_READY_MAX) {
        make_ready(s);
    }
    batch_end_of_turn(s);
}

void batch_refuse(struct shard *s, int err)
{
    /* A callback may propose again: into a new open batch, which is refused at once since we don't
     * lead. */
    struct list all;
    list_init(&all);
    list_splice(&all, &s->in_flight);
    list_splice(&all, &s->ready);
    s->in_flight_count = 0;
    s->ready_count = 0;
    if (s->open != NULL) {
        struct batch *b = open_take(s);
        list_push_back(&all, &b->link);
    }
    while (!list_empty(&all)) {
        struct batch *b = list_entry(all.next, struct batch, link);
        list_remove(&b->link);
        batch_end(s, b, err);
    }
}

void batch_close(struct shard *s)
{
    assert(s->open == NULL && list_empty(&s->in_flight) && list_empty(&s->ready));
}

void batch_pool_close(struct replica *r)
{
    while (!list_empty(&r->batch_pool)) {
        struct batch *b = list_entry(r->batch_pool.next, struct batch, link);
        list_remove(&b->link);
        batch_free(b);
    }
    r->batch_pool_count = 0;
}

/* ---- applying
 * ------------------------------------------------------------------------------------------------------
 */

/* The batch that became entry `index`, or NULL. Those that lost their place to another term's entry
 * are answered. */
static struct batch *in_flight_take(struct shard *s, uint64_t index, uint64_t term)
{
    while (!list_empty(&s->in_flight)) {
        struct batch *b = list_entry(s->in_flight.next, struct batch, link);
        if (b->index > index) {
            return NULL;
        }
        list_remove(&b->link);
        s->in_flight_count--;
        wave_landed(s->r, b);
        if (b->index == index && b->term == term) {
            return b;
        }
        waiters_answer(b, ERR_UNAVAILABLE);
        batch_done(s, b);
    }
    return NULL;
}

static void results_deliver(struct shard *s, struct batch *b)
{
    for (uint32_t i = 0; i < b->count; i++) {
        struct shard_command *command = b->waiters[i];
        b->waiters[i] = NULL;
        if (command != NULL) {
            command->cb(command, &b->results[i]);
        }
    }
    batch_done(s, b);
    replica__turn(s); /* the next one may go */
}

static int apply_entry(struct shard *s, uint64_t index, const struct wal_entry *entry)
{
    struct batch *b = in_flight_take(s, index, entry->term);
    struct fsm_effects effects = {0};
    int rv = fsm_apply(s->heap, index, entry, b != NULL ? b->results : NULL,
                       b != NULL ? b->count : 0, &effects);
    const char *text = "an entry could not be applied";
    int damage = heap_damage(s->heap, &text);
    if (damage != 0 || rv != 0) {
        if (b != NULL) {
            waiters_answer(b, ERR_UNAVAILABLE);
            batch_done(s, b);
        }
        rv = damage != 0 ? damage : rv;
        shard__fail(s, rv, damage != 0 ? text : "an entry could not be applied");
        return rv;
    }
    s->applied = index;
    s->log_bytes += entry->data.len + 64;
    s->log_entries++;
    s->applied_tx = s->applied_tx || effects.tx;
    if (effects.meta_changed) {
        s->r->meta_changed = true;
        checkpoint_want(s, false);
        replica__turn(s);
    }
    if (shard__leads(s) && entry->term == s->lead_term) {
        s->serving = true;
    }
    if (b != NULL) {
        results_deliver(s, b);
    }
    return 0;
}

static int apply_configuration(struct shard *s, uint64_t index, const struct wal_entry *entry)
{
    int rv = apply_entry(s, index, entry);
    if (rv == 0) {
        struct consensus_update *update = NULL;
        rv = consensus_configuration_applied(s->consensus, env_now_ms(s->r->env), index,
                                             entry->data, &update);
        shard__absorb(s, rv, update);
    }
    return rv;
}

/* Where applying must stop for now. */
static uint64_t apply_limit(const struct shard *s)
{
    uint64_t limit = consensus_commit_index(s->consensus);
    uint64_t last = wal_log_last_index(s->log);
    limit = limit < last ? limit : last;
    if (s->r->opts.mode == IMAGE_PMEM) {
        /* The image follows apply at once, and must not run ahead of the log. Syncing costs nothing
         * there. */
        uint64_t durable = wal_log_durable_index(s->log);
        limit = limit < durable ? limit : durable;
    }
    return limit;
}

uint64_t shard__apply_due(const struct shard *s)
{
    bool none = s->failed || s->install.step != INSTALL_NONE || s->applied >= apply_limit(s);
    return none ? 0 : apply_limit(s) - s->applied;
}

static void apply_read(struct shard *s, struct wal_entry *entries, size_t entries_max)
{
    size_t budget = APPLY_BYTES_PER_TURN;
    while (!s->failed && s->install.step == INSTALL_NONE && s->applied < apply_limit(s)) {
        size_t count;
        uint64_t left = apply_limit(s) - s->applied;
        int rv = wal_log_read(s->log, s->applied + 1, entries,
                              left < entries_max ? (size_t)left : entries_max, APPLY_BYTES_PER_TURN,
                              &count);
        if (rv != 0 || count == 0) {
            shard__fail(s, rv != 0 ? rv : ERR_CORRUPT, "the log could not be read");
            break;
        }
        bool stop = false;
        for (size_t i = 0; i < count; i++) {
            uint64_t index = s->applied + 1;
            if (stop || s->failed) {
                /* only give back */
            } else if (entries[i].type != ENTRY_CHANGE) {
                budget -= entries[i].data.len + 64 < budget ? entries[i].data.len + 64 : budget;
                uint64_t work = heap_work(s->heap);
                stop = apply_entry(s, index, &entries[i]) != 0;
                work = (heap_work(s->heap) - work) * APPLY_BYTES_PER_WORK;
                budget -= work < budget ? work : budget;
                stop = stop || budget == 0;
            } else if (wal_log_durable_index(s->log) < index) {
                stop = true; /* a configuration counts only when it can't be lost here (rules E8) */
            } else {
                stop = apply_configuration(s, index, &entries[i]) != 0;
            }
            if (entries[i].block != NULL) {
                wal_block_unref(entries[i].block);
            }
        }
        if (stop) {
            if (budget == 0) {
                s->apply_again = true;
                replica__turn(s);
            }
            break;
        }
    }
}

/* A function of its own, so that only who needs so large an array has it zeroed. */
static __attribute__((noinline)) void apply_many(struct shard *s)
{
    struct wal_entry entries[APPLY_ENTRIES];
    apply_read(s, entries, APPLY_ENTRIES);
}

void shard__apply(struct shard *s)
{
    struct wal_entry few[APPLY_FEW];
    uint64_t before = s->applied;
    if (shard__apply_due(s) == 0) {
        return;
    }
    if (apply_limit(s) - before <= APPLY_FEW) {
        apply_read(s, few, APPLY_FEW);
    } else {
        apply_many(s);
    }
    if (s->applied != before && !s->failed) {
        wal_log_applied(s->log, s->applied);
        if (s->r->cbs->on_applied != NULL) {
            s->r->cbs->on_applied(s->r->arg, s, s->applied_tx);
        }
        s->applied_tx = false;
        if (s->r->opts.mode == IMAGE_PMEM && checkpoint_possible(s)) {
            int rv = image_commit(s->image, s->heap);
            if (rv != 0) {
                shard__fail(s, rv, "the image could not be committed");
            }
        }
    }
}
