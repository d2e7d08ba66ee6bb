/* The set of shards of this node: one timer, one end of turn, one buffer per peer for all of them;
 * what arrives is handed to its shard; and what the catalogue wants is opened and dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap_layout.h"
#include "base/log.h"
#include "replica/fsm_layout.h"
#include "replica/internal.h"

#define META_BYTES_MAX_DEFAULT ((uint64_t)64 << 20)
#define OPENS_PER_TURN         8u
#define ITEM_HEADER_BYTES      6u
#define ENTRIES_IN_MAX         65536u
#define VOTERS_OF_META_MAX     REPLICAS_MAX
#define HAND_OVER_AGAIN_MS     100u

/* ---- shards and peers
 * ---------------------------------------------------------------------------------------------- */

static uint32_t bucket_of(uint64_t uid)
{
    return (uint32_t)(uid * 0x9e3779b97f4a7c15ull >> 32) % SHARD_TABLE_SIZE;
}

struct shard *replica_shard(struct replica *r, uint64_t uid)
{
    for (struct shard *s = r->table[bucket_of(uid)]; s != NULL; s = s->hash_next) {
        if (s->uid == uid) {
            return s->dropped ? NULL : s;
        }
    }
    return NULL;
}

static bool shard_is_here(struct replica *r, uint64_t uid)
{
    for (struct shard *s = r->table[bucket_of(uid)]; s != NULL; s = s->hash_next) {
        if (s->uid == uid) {
            return true;
        }
    }
    return false;
}

void replica_each_shard(struct replica *r, void (*cb)(void *arg, struct shard *shard), void *arg)
{
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (!s->dropped) {
            cb(arg, s);
        }
    }
}

void replica__add(struct replica *r, struct shard *s)
{
    struct shard **bucket = &r->table[bucket_of(s->uid)];
    s->hash_next = *bucket;
    *bucket = s;
    list_push_back(&r->shards, &s->link);
    r->shard_count++;
}

void replica__remove(struct replica *r, struct shard *s)
{
    struct shard **at = &r->table[bucket_of(s->uid)];
    while (*at != s) {
        assert(*at != NULL);
        at = &(*at)->hash_next;
    }
    *at = s->hash_next;
    list_remove(&s->link);
    r->shard_count--;
}

struct peer *replica__peer(struct replica *r, uint32_t node)
{
    return node < sizeof r->peer_of && r->peer_of[node] != 0 ? &r->peers[r->peer_of[node] - 1]
                                                             : NULL;
}

/* ---- sending
 * -------------------------------------------------------------------------------------------------------
 */

static void flush_peer(struct replica *r, struct peer *peer)
{
    if (peer->out.len > 0) {
        r->cbs->send(r->arg, peer->node, slice_of(peer->out.data, peer->out.len));
        buf_clear(&peer->out);
    }
}

struct buf *replica__out(struct replica *r, uint32_t node, size_t bytes)
{
    struct peer *peer = replica__peer(r, node);
    if (peer == NULL || r->stopped) {
        return NULL;
    }
    if (peer->out.len + bytes > PEER_ITEMS_BYTES_MAX) {
        flush_peer(r, peer);
    }
    env_defer(r->env, &r->turn);
    return &peer->out;
}

/* ---- the end of a turn
 * ---------------------------------------------------------------------------------------------- */

void replica__turn(struct shard *s)
{
    if (s->r->stopped) {
        return;
    }
    if (list_empty(&s->turn_link)) {
        list_push_back(&s->r->turn_shards, &s->turn_link);
    }
    env_defer(s->r->env, &s->r->turn);
}

static void meta_news(struct replica *r)
{
    r->meta_changed = false;
    r->reconcile = true;
    if (r->meta != NULL && !r->meta->failed) {
        /* A shard's birth or death is on disk only together with how far the catalogue was when it
         * was decided. */
        wal_log_set_commit_hint(r->meta->log, r->meta->applied);
    }
    replica__reconcile(r);
    if (r->cbs->on_catalog != NULL) {
        r->cbs->on_catalog(r->arg);
    }
}

static void turn_run(struct env_task *task)
{
    struct replica *r = container_of(task, struct replica, turn);
    if (wal_has_news(r->wal)) {
        env_defer(r->env, task); /* one message with what follows from them */
        return;
    }
    struct list now;
    list_init(&now);
    list_splice(&now, &r->turn_shards);
    wave_turn(r);
    if (r->wave.open) {
        ahead_submit(&now);
    }
    while (!list_empty(&now)) {
        struct shard *s = list_entry(now.next, struct shard, turn_link);
        list_remove(&s->turn_link);
        shard__end_of_turn(s);
        if (s->apply_again && r->again.slot == 0) {
            env_timer_start_in_ms(r->env, &r->again, 0);
        }
    }
    if (r->meta_changed && !r->opening && !r->stopped) {
        meta_news(r);
    }
    /* Before the log's write and the clients' answers, which are later tasks of this turn: to begin
     * a write takes the time of several messages, and the others' writes are what is waited for. */
    for (uint32_t i = 0; i < r->peer_count; i++) {
        if (r->peers[i].out.len > 0) {
            flush_peer(r, &r->peers[i]);
            if (r->cbs->flush != NULL) {
                r->cbs->flush(r->arg, r->peers[i].node);
            }
        }
    }
}

static void again_run(struct env_timer *timer)
{
    struct replica *r = container_of(timer, struct replica, again);
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (s->apply_again) {
            s->apply_again = false;
            if (!s->failed && !s->dropped) {
                shard__apply(s);
            }
            if (!s->failed) {
                read_serve(s);
            }
        }
    }
}

/* ---- shards that come and go
 * --------------------------------------------------------------------------------------- */

struct reconcile {
    struct replica *r;
    uint32_t opened;
    bool more;
};

static bool is_among(const uint64_t *ids, uint32_t count, uint64_t id)
{
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

static bool open_place(void *arg, const struct catalog_place *place)
{
    struct reconcile *job = arg;
    struct replica *r = job->r;
    if (!is_among(place->members, place->count, r->opts.self_id) || shard_is_here(r, place->uid)) {
        return true;
    }
    if (job->opened >= OPENS_PER_TURN) {
        job->more = true;
        return false;
    }
    job->opened++;
    struct consensus_config founders = {.count = place->count};
    for (uint32_t i = 0; i < place->count; i++) {
        founders.servers[i] =
            (struct consensus_server){.id = place->founders[i], .role = CONSENSUS_VOTER};
    }
    struct shard_open_opts opts = {
        .uid = place->uid,
        .heap_id = place->heap_id,
        .number = place->number,
        .bytes_max = place->shard_bytes_max,
        .retention_ms = place->retention_ms,
        .birth_allowed = true,
        .founder = is_among(place->founders, place->count, r->opts.self_id),
        .founders = &founders,
    };
    struct shard *s;
    if (shard__open(r, &opts, &s, NULL) != 0 && s == NULL) {
        job->more = true; /* no memory: later */
    }
    return true;
}

struct stale {
    uint64_t uids[SHARDS_PER_NODE_MAX];
    uint32_t count;
    struct replica *r;
};

/* Was given to a shard once, and the catalogue has it no more. */
static bool is_dropped(struct replica *r, uint64_t uid)
{
    struct catalog_place place;
    return uid >= SHARD_UID_FIRST && uid < catalog_next_uid(r->meta->heap) &&
           catalog_place_of(r->meta->heap, uid, &place) != 0;
}

static void collect_log(void *arg, struct wal_log *log)
{
    struct stale *stale = arg;
    uint64_t uid = wal_log_uid(log);
    if (stale->count < SHARDS_PER_NODE_MAX && !shard_is_here(stale->r, uid) &&
        is_dropped(stale->r, uid)) {
        stale->uids[stale->count++] = uid;
    }
}

static void collect_dir(void *arg, const char *name)
{
    struct stale *stale = arg;
    char *end;
    uint64_t uid = strtoull(name, &end, 16);
    if (*name != '\0' && *end == '\0' && stale->count < SHARDS_PER_NODE_MAX &&
        !shard_is_here(stale->r, uid) && is_dropped(stale->r, uid)) {
        stale->uids[stale->count++] = uid;
    }
}

static void destroy_dir(struct replica *r, uint64_t uid)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%016llx", r->dir, (unsigned long long)uid);
    (void)image_destroy(r->env, path);
}

/* What a crash in the middle of dropping left, once after start. */
static void clean_up(struct replica *r)
{
    struct stale *stale = mem_zalloc(sizeof *stale);
    if (stale == NULL) {
        return;
    }
    stale->r = r;
    wal_log_each(r->wal, collect_log, stale);
    for (uint32_t i = 0; i < stale->count; i++) {
        struct wal_log *log = wal_log_find(r->wal, stale->uids[i]);
        if (log != NULL) {
            (void)wal_log_drop(log);
        }
    }
    stale->count = 0;
    (void)env_dir_list(r->env, r->dir, collect_dir, stale);
    for (uint32_t i = 0; i < stale->count; i++) {
        destroy_dir(r, stale->uids[i]);
    }
    mem_free(stale);
    r->dirs_cleaned = true;
}

void replica__reconcile(struct replica *r)
{
    struct shard *meta = r->meta;
    /* A catalogue older than one that was already acted on could bring back what was dropped. */
    if (meta == NULL || meta->failed || meta->applied == 0 ||
        meta->applied < wal_log_commit_hint(meta->log)) {
        return;
    }
    struct reconcile job = {.r = r};
    catalog_places(meta->heap, open_place, &job);
    r->reconcile = job.more;
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (s != meta && !s->dropped && is_dropped(r, s->uid)) {
            s->dropped = true;
            r->any_dropped = true;
            s->serving = false;
            transfer_cancel(s);
            shard__refuse_waiters(s, ERR_NOSHARD);
        }
    }
    if (!job.more && !r->dirs_cleaned) {
        clean_up(r);
    }
}

static void finish_drops(struct replica *r)
{
    r->any_dropped = false;
    list_for_each_safe (it, next, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (!s->dropped) {
            continue;
        }
        if (s->checkpoint_running || (s->image != NULL && image_busy(s->image))) {
            r->any_dropped = true;
            continue;
        }
        uint64_t uid = s->uid;
        struct wal_log *log = s->log;
        replica__remove(r, s);
        shard__free(s);
        if (log != NULL) {
            (void)wal_log_drop(log); /* fails only with the whole log */
        }
        destroy_dir(r, uid);
    }
}

/* ---- the tick
 * ------------------------------------------------------------------------------------------------------
 */

/* Leads a shard that somebody else could lead. */
static bool leads_anything(struct replica *r)
{
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (!s->dropped && shard__leads(s) && membership_heir(s) != 0) {
            return true;
        }
    }
    return false;
}

static void hand_over_all(struct replica *r)
{
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (!s->dropped && shard__leads(s) && consensus_transferee(s->consensus) == 0) {
            (void)membership_hand_over(s);
        }
    }
}

static void stop_now(struct replica *r)
{
    list_for_each (it, &r->shards) {
        shard__refuse_waiters(list_entry(it, struct shard, link), ERR_SHUTDOWN);
    }
    for (uint32_t i = 0; i < r->peer_count; i++) {
        flush_peer(r, &r->peers[i]);
    }
    r->stopped = true;
}

/* Pages that nobody has wanted since the node was started, one shard after the other. */
static void fill_run(struct replica *r)
{
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (s->heap != NULL && !s->failed && image_fill(s->heap, FILL_BYTES)) {
            return;
        }
    }
}

static void tick_run(struct env_timer *timer)
{
    struct replica *r = container_of(timer, struct replica, tick);
    uint64_t now_ms = env_now_ms(r->env);
    if (r->stopped) {
        if (r->stop_done != NULL) {
            r->stop_done(r->stop_arg); /* frees r, perhaps */
        }
        return;
    }
    env_timer_start_in_ms(r->env, &r->tick, TICK_MS);
    leaders_tick(r, now_ms);
    clock_tick(r, now_ms);
    room_tick(r, now_ms);
    list_for_each (it, &r->shards) {
        shard__tick(list_entry(it, struct shard, link), now_ms);
    }
    checkpoint_bound(r, now_ms);
    if (r->reconcile) {
        replica__reconcile(r);
    }
    if (r->any_dropped) {
        finish_drops(r);
    }
    checkpoint_run(r);
    fill_run(r);
    if (r->stopping) {
        if (!leads_anything(r) || now_ms >= r->stop_deadline_ms) {
            stop_now(r);
        } else {
            hand_over_all(r);
        }
    }
}

void replica_stop(struct replica *r, uint32_t timeout_ms, void (*done)(void *arg), void *arg)
{
    assert(!r->stopping);
    r->stopping = true;
    r->stop_deadline_ms = env_now_ms(r->env) + timeout_ms;
    r->stop_done = done;
    r->stop_arg = arg;
    r->clock_ask_ms = 0; /* the others hear of it before they are handed anything */
    env_timer_start_in_ms(r->env, &r->tick, 0);
}

/* ---- opening
 * -------------------------------------------------------------------------------------------------------
 */

static int open_meta(struct replica *r, struct err_text *e)
{
    struct consensus_config founders = {.count = 0};
    uint32_t nodes[NODES_MAX];
    for (uint32_t i = 0; i < r->opts.node_count; i++) {
        uint32_t at = i;
        while (at > 0 && nodes[at - 1] > r->opts.nodes[i]) {
            nodes[at] = nodes[at - 1];
            at--;
        }
        nodes[at] = r->opts.nodes[i];
    }
    for (uint32_t i = 0; i < r->opts.node_count; i++) {
        founders.servers[founders.count++] = (struct consensus_server){
            .id = replica_id_make(0, nodes[i]),
            .role = i < VOTERS_OF_META_MAX ? CONSENSUS_VOTER : CONSENSUS_STANDBY,
        };
    }
    struct shard_open_opts opts = {
        .uid = SHARD_META,
        .bytes_max = r->opts.meta_bytes_max != 0 ? r->opts.meta_bytes_max : META_BYTES_MAX_DEFAULT,
        .birth_allowed = true,
        .founder =
            r->opts.founding &&
            is_among((const uint64_t[]){replica_id_make(0, r->opts.node)}, 1, r->opts.self_id),
        .founders = &founders,
    };
    int rv = shard__open(r, &opts, &r->meta, e);
    return r->meta != NULL ? 0 : rv; /* a failed one is there to be looked at */
}

static void collect_all(void *arg, struct wal_log *log)
{
    struct stale *all = arg;
    if (all->count < SHARDS_PER_NODE_MAX && wal_log_uid(log) != SHARD_META) {
        all->uids[all->count++] = wal_log_uid(log);
    }
}

/* Shards that the log holds, so that they don't wait for the catalogue. */
static int open_logged(struct replica *r)
{
    struct stale *all = mem_zalloc(sizeof *all);
    if (all == NULL) {
        return ERR_NOMEM;
    }
    wal_log_each(r->wal, collect_all, all);
    for (uint32_t i = 0; i < all->count; i++) {
        struct catalog_place place;
        struct shard_open_opts opts = {.uid = all->uids[i]};
        if (r->meta->heap != NULL && catalog_place_of(r->meta->heap, all->uids[i], &place) == 0) {
            opts.heap_id = place.heap_id;
            opts.number = place.number;
            opts.bytes_max = place.shard_bytes_max;
            opts.retention_ms = place.retention_ms;
        }
        struct consensus_config founders = {.count = 0};
        if (opts.bytes_max != 0) {
            founders.count = place.count;
            for (uint32_t k = 0; k < place.count; k++) {
                founders.servers[k] =
                    (struct consensus_server){.id = place.founders[k], .role = CONSENSUS_VOTER};
            }
            opts.founder = is_among(place.founders, place.count, r->opts.self_id);
            opts.founders = &founders;
        }
        struct shard *s;
        (void)shard__open(r, &opts, &s, NULL); /* failing, it fails alone and was reported */
    }
    mem_free(all);
    return 0;
}

int replica_open(const struct replica_opts *opts, struct replica **out, struct err_text *e)
{
    *out = NULL;
    assert(opts->node > 0 && opts->node < 256);
    assert(opts->node_count > 0 && opts->node_count <= NODES_MAX);
    struct replica *r = mem_zalloc(sizeof *r);
    char *dir = mem_strdup(opts->dir);
    if (r == NULL || dir == NULL) {
        mem_free(r);
        mem_free(dir);
        return ERR_NOMEM;
    }
    r->consensus_work = consensus_workspace_new();
    r->blocks = block_pool_new();
    if (r->consensus_work == NULL || r->blocks == NULL) {
        consensus_workspace_free(r->consensus_work);
        block_pool_close(r->blocks);
        mem_free(r);
        mem_free(dir);
        return ERR_NOMEM;
    }
    list_init(&r->batch_pool);
    r->env = opts->env;
    r->wal = opts->wal;
    r->opts = *opts;
    r->opts.dir = r->dir = dir;
    r->cbs = opts->cbs;
    r->arg = opts->arg;
    r->opening = true;
    r->reconcile = true;
    list_init(&r->shards);
    list_init(&r->turn_shards);
    list_init(&r->durable_shards);
    list_init(&r->apply_shards);
    wave_init(r);
    r->turn.cb = turn_run;
    r->tick.cb = tick_run;
    r->again.cb = again_run;
    lazy_init(r);
    thrifty_init(r);
    for (uint32_t i = 0; i < opts->node_count; i++) {
        if (opts->nodes[i] != opts->node) {
            r->peers[r->peer_count].node = opts->nodes[i];
            r->peer_of[opts->nodes[i]] = (uint8_t)++r->peer_count;
        }
    }
    int rv = env_dir_create(r->env, dir);
    rv = rv == ERR_EXISTS ? 0 : rv;
    if (rv != 0) {
        (void)err_set(e, rv, "%s could not be created: %s", dir, err_why(rv));
    }
    if (rv == 0) {
        rv = open_meta(r, e);
    }
    if (rv == 0) {
        rv = open_logged(r);
    }
    r->opening = false;
    if (rv != 0) {
        replica_free(r);
        return rv;
    }
    env_timer_start_in_ms(r->env, &r->tick, TICK_MS);
    *out = r;
    return 0;
}

void replica_free(struct replica *r)
{
    if (r == NULL) {
        return;
    }
    r->stopped = true;
    env_timer_stop(r->env, &r->tick);
    env_timer_stop(r->env, &r->again);
    wave_close(r);
    thrifty_close(r);
    env_timer_stop(r->env, &r->lazy);
    if (r->turn.queued) {
        list_remove(&r->turn.link);
    }
    while (!list_empty(&r->shards)) {
        struct shard *s = list_entry(r->shards.next, struct shard, link);
        replica__remove(r, s);
        if (!s->failed && s->heap != NULL && s->image != NULL) {
            image_seal(s->image, s->heap);
        }
        shard__free(s);
    }
    for (uint32_t i = 0; i < r->peer_count; i++) {
        buf_close(&r->peers[i].out);
    }
    batch_pool_close(r);
    block_pool_close(r->blocks);
    consensus_workspace_free(r->consensus_work);
    buf_close(&r->scratch);
    mem_free(r->entries_in);
    mem_free(r->dir);
    mem_free(r);
}

/* ---- many shards at once
 * -----------------------------------------------------------------------------------------------
 */

/* What follows is about many shards: consensus first, for all of them, then applying. */
static void gather_begin(struct replica *r)
{
    r->gathering = true;
}

static void gather_end(struct replica *r)
{
    struct shard *some[AHEAD_SHARDS_MAX];
    r->gathering = false;
    while (!list_empty(&r->apply_shards)) {
        uint32_t count = 0;
        while (count < AHEAD_SHARDS_MAX && !list_empty(&r->apply_shards)) {
            some[count] = list_entry(r->apply_shards.next, struct shard, apply_link);
            list_remove(&some[count++]->apply_link);
        }
        if (count > 1) {
            ahead_apply(some, count);
        }
        for (uint32_t i = 0; i < count; i++) {
            shard__catch_up(some[i]);
        }
    }
}

/* ---- from the log
 * --------------------------------------------------------------------------------------------------
 */

void replica_log_durable(struct replica *r, uint64_t position)
{
    struct list now;
    list_init(&now);
    list_splice(&now, &r->durable_shards);
    gather_begin(r);
    while (!list_empty(&now)) {
        struct shard *s = list_entry(now.next, struct shard, durable_link);
        list_remove(&s->durable_link);
        shard__durable(s, position);
        if ((s->marks_count > 0 || s->held.len > 0) && list_empty(&s->durable_link)) {
            list_push_back(&r->durable_shards, &s->durable_link);
        }
    }
    gather_end(r);
    wave_written(r);
    if (r->checkpoints_wanted && r->checkpointing == NULL) {
        checkpoint_run(r); /* now what was applied is durable, with some luck */
    }
}

void replica_log_failed(struct replica *r, int err)
{
    list_for_each (it, &r->shards) {
        shard__fail(list_entry(it, struct shard, link), err, "the node's log failed");
    }
}

void replica_log_pressure(struct replica *r, struct wal_log *log)
{
    struct shard *s = replica_shard(r, wal_log_uid(log));
    if (s != NULL) {
        checkpoint_want(s, true);
    }
}

/* ---- from the network
 * ---------------------------------------------------------------------------------------------- */

static int entries_reserve(struct replica *r, size_t count)
{
    if (count > r->entries_in_capacity) {
        struct wal_entry *entries = mem_realloc(r->entries_in, count * sizeof *entries);
        if (entries == NULL) {
            return ERR_NOMEM;
        }
        r->entries_in = entries;
        r->entries_in_capacity = count;
    }
    return 0;
}

/* The payload of an APPEND: copied into one block that all its entries point into. */
static int take_entries(struct replica *r, uint32_t count, struct slice payload,
                        struct consensus_message *m)
{
    if (count == 0) {
        return payload.len == 0 ? 0 : ERR_PROTOCOL;
    }
    if (count > ENTRIES_IN_MAX || payload.len / ENTRY_ITEM_BYTES < count) {
        return ERR_PROTOCOL;
    }
    if (entries_reserve(r, count) != 0) {
        return ERR_NOMEM;
    }
    struct entry_block *memory = block_new(r->blocks, payload.len);
    if (memory == NULL) {
        return ERR_NOMEM;
    }
    struct wal_block *block = &memory->block;
    uint8_t *data = memory->data;
    memcpy(data, payload.data, payload.len);
    struct cursor c = cursor_of(slice_of(data, payload.len));
    for (uint32_t i = 0; i < count; i++) {
        struct wal_entry *e = &r->entries_in[i];
        e->term = cursor_u64(&c);
        e->type = cursor_u8(&c);
        e->data = cursor_bytes(&c, cursor_u32(&c));
        e->block = block;
        if (c.failed || e->data.len > ENTRY_BYTES_MAX) {
            break;
        }
        block->refs++;
    }
    if (c.failed || cursor_left(&c) != 0 || block->refs != count + 1) {
        block->refs = 1;
        wal_block_unref(block);
        return ERR_PROTOCOL;
    }
    block->refs--;
    m->entries = r->entries_in;
    m->count = count;
    return 0;
}

static int take_snapshot(struct slice payload, struct consensus_message *m)
{
    struct cursor c = cursor_of(payload);
    struct slice config = cursor_bytes(&c, cursor_u32(&c));
    m->data = cursor_bytes(&c, cursor_u32(&c));
    if (c.failed || cursor_left(&c) != 0) {
        return ERR_PROTOCOL;
    }
    return consensus_config_decode(config, &m->config);
}

static int receive_raft(struct replica *r, uint32_t node, struct slice body)
{
    struct msg_raft raft;
    if (message_decode_raft(body, &raft) != 0 || replica_id_node(raft.from) != node) {
        return ERR_PROTOCOL;
    }
    struct shard *s = replica_shard(r, raft.uid);
    if (s == NULL || s->failed || raft.to != s->self_id) {
        return 0; /* not born here yet, dropped, or for a replica that this node was before */
    }
    struct consensus_message m = {
        .type = (enum consensus_message_type)raft.type,
        .from = raft.from,
        .to = raft.to,
        .term = raft.term,
        .index = raft.index,
        .log_term = raft.log_term,
        .commit = raft.commit,
        .rejected = raft.rejected,
        .config_index = raft.config_index,
        .flags = raft.flags,
        .features = raft.features,
        .capacity = raft.capacity,
        .version = raft.version,
    };
    int rv = 0;
    if (raft.type == MSG_APPEND) {
        rv = take_entries(r, raft.count, raft.payload, &m);
    } else if (raft.type == MSG_SNAPSHOT) {
        rv = take_snapshot(raft.payload, &m);
    } else if (raft.count != 0 || raft.payload.len != 0) {
        rv = ERR_PROTOCOL;
    }
    if (rv != 0) {
        return rv;
    }
    struct consensus_update *update = NULL;
    rv = consensus_receive(s->consensus, env_now_ms(r->env), &m, &update);
    if (raft.type == MSG_APPEND_RESULT) {
        thrifty_answered(s, raft.from);
    }
    shard__handle(s, rv, update);
    return rv == ERR_PROTOCOL ? rv : 0;
}

static int receive_items(struct replica *r, uint32_t node, struct slice items)
{
    int result = 0;
    struct cursor c = cursor_of(items);
    while (cursor_left(&c) > 0) {
        uint16_t kind = cursor_u16(&c);
        struct slice body = cursor_bytes(&c, cursor_u32(&c));
        int rv = ERR_PROTOCOL;
        if (c.failed) {
            r->counters.malformed++;
            return ERR_PROTOCOL;
        }
        if (kind == KIND_RAFT) {
            rv = receive_raft(r, node, body);
        } else if (kind == KIND_CONFIRM) {
            rv = read_on_confirm(r, node, body);
        } else if (kind == KIND_CONFIRM_RESULT) {
            rv = read_on_confirm_result(r, node, body);
        }
        if (rv == ERR_PROTOCOL) {
            r->counters.malformed++;
            result = rv;
        }
    }
    return result;
}

int replica_receive(struct replica *r, uint32_t node, struct slice items)
{
    struct peer *peer = replica__peer(r, node);
    if (peer == NULL || r->stopped) {
        return peer == NULL ? ERR_PROTOCOL : 0;
    }
    peer->heard_ms = env_now_ms(r->env);
    ahead_receive(r, items);
    gather_begin(r);
    int rv = receive_items(r, node, items);
    gather_end(r);
    return rv;
}

int replica_bulk_serve(struct replica *r, uint32_t node, uint16_t kind, struct slice body,
                       uint16_t *answer_kind, struct buf *out)
{
    *answer_kind = KIND_NONE;
    return r->stopped ? ERR_SHUTDOWN : transfer_serve(r, node, kind, body, answer_kind, out);
}

void replica_bulk_answer(struct replica *r, uint64_t token, int err, uint16_t kind,
                         struct slice body)
{
    if (r->stopped) {
        return;
    }
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (s->install.step != INSTALL_NONE && s->install.token == token) {
            transfer_answer(s, token, err, kind, body);
            return;
        }
    }
}

uint32_t replica_engine(void)
{
    return HEAP_ENGINE << 16 | FSM_FORMAT;
}

void replica_get_counters(const struct replica *r, struct replica_counters *out)
{
    *out = r->counters;
}
