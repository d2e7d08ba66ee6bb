/* The life of one shard's replica: birth and reopening, what follows from each event of consensus,
 * and its end.
 *
 *   open -> running -> (installing a snapshot -> running)* -> failed | dropped
 *
 * Order in shard__absorb(): hard state and entries go to the log first; messages leave at once if
 * the newest hard state is durable, else they wait for its position; only then is anything applied.
 */
#include <stdio.h>
#include <string.h>

#include "base/hlc.h"
#include "base/log.h"
#include "replica/internal.h"

#define META_BYTES_MAX_DEFAULT ((uint64_t)64 << 20)

/* ---- small questions
 * -----------------------------------------------------------------------------------------------
 */

bool shard__leads(const struct shard *s)
{
    return !s->failed && consensus_state(s->consensus) == CONSENSUS_LEADER;
}

bool shard__hard_state_is_durable(const struct shard *s)
{
    return wal_durable_position(s->r->wal) >= s->hard_state_position;
}

const struct heap *shard_heap(const struct shard *shard)
{
    return shard->heap;
}

uint64_t shard_digest(struct shard *shard, uint64_t *index)
{
    *index = shard->heap != NULL ? heap_index(shard->heap) : 0;
    return shard->heap != NULL ? heap_digest(shard->heap) : 0;
}

void shard_get_info(const struct shard *shard, struct shard_info *out)
{
    memset(out, 0, sizeof *out);
    out->uid = shard->uid;
    out->heap_id = shard->heap_id;
    out->shard = shard->number;
    out->replica_id = shard->self_id;
    out->failed = shard->failed;
    out->state = CONSENSUS_UNAVAILABLE;
    out->applied_index = shard->applied;
    out->checkpoint_index = shard->checkpoint_index;
    out->checkpoint_sequence = shard->checkpoint_sequence;
    if (shard->heap != NULL) {
        struct fsm_header h;
        fsm_header_get(shard->heap, &h);
        out->sessions = h.session_count;
    }
    if (shard->log != NULL) {
        out->last_index = wal_log_last_index(shard->log);
        out->first_index = wal_log_prev_index(shard->log) + 1;
    }
    if (shard->consensus == NULL || shard->failed) {
        return;
    }
    out->state = consensus_state(shard->consensus);
    out->leader_node = replica_id_node(consensus_leader(shard->consensus));
    out->installing = shard->install.step != INSTALL_NONE;
    out->serving = shard__leads(shard) && shard->serving;
    out->led_ms = shard__leads(shard) ? env_now_ms(shard->r->env) - shard->lead_since_ms : 0;
    out->term = consensus_term(shard->consensus);
    out->commit_index = consensus_commit_index(shard->consensus);
    consensus_get_config(shard->consensus, &out->config);
}

/* ---- waiting and failing
 * ------------------------------------------------------------------------------------------- */

void shard__refuse_waiters(struct shard *s, int err)
{
    batch_refuse(s, err);
    read_refuse(s, err);
    if (err != ERR_NOTLEADER) {
        checkpoint_refuse(s, err); /* the others need no leader */
    }
}

void shard__fail(struct shard *s, int err, const char *text)
{
    if (s->failed) {
        return;
    }
    s->failed = true;
    s->serving = false;
    thrifty_forget(s);
    buf_clear(&s->held);
    if (s->r->cbs->on_shard_failed != NULL) {
        s->r->cbs->on_shard_failed(s->r->arg, s, err, text);
    }
    transfer_cancel(s);
    shard__refuse_waiters(s, ERR_IO);
}

/* While an image that came from another replica is being made durable, the files of what it
 * replaces go: pages of that heap that weren't loaded yet can't be read any more, and nobody will.
 * If the image fails, its files are still there, and what is damaged stays damaged. */
int shard_check_damage(struct shard *shard)
{
    const char *text;
    if (shard->install.step == INSTALL_WRITING) {
        return 0;
    }
    int rv = shard->heap == NULL ? 0 : heap_damage(shard->heap, &text);
    if (rv != 0) {
        shard__fail(shard, rv, text);
    }
    return rv;
}

/* ---- messages
 * ------------------------------------------------------------------------------------------------------
 */

/* The log's next durable position concerns this shard. */
static void await_durable(struct shard *s)
{
    if (list_empty(&s->durable_link)) {
        list_push_back(&s->r->durable_shards, &s->durable_link);
    }
}

#define ITEM_HEADER_BYTES 6u /* kind u16, length u32 */
#define HELD_HEADER_BYTES 8u
#define RAFT_ITEM_BYTES   256u /* of a message without its payload, generously */

/* An item being written straight into the peer's batch, or into what is held. */
struct item {
    struct buf *out; /* NULL: lost, as the network loses messages */
    size_t start, body;
    uint32_t node;
    bool hold;
};

/* Writes all of a message but its payload; `payload_bytes` follow, appended to item.out by the
 * caller. */
static struct item item_begin(struct shard *s, const struct consensus_message *m,
                              size_t payload_bytes)
{
    struct msg_raft raft = {
        .uid = s->uid,
        .from = m->from,
        .to = m->to,
        .term = m->term,
        .index = m->index,
        .log_term = m->log_term,
        .commit = m->commit,
        .rejected = m->rejected,
        .config_index = m->config_index,
        .count = m->count,
        .flags = m->flags,
        .features = m->features,
        .capacity = m->capacity,
        .type = (uint8_t)m->type,
        .version = m->version,
    };
    struct item item = {.node = replica_id_node(m->to), .hold = !shard__hard_state_is_durable(s)};
    struct buf *out =
        item.hold ? &s->held : replica__out(s->r, item.node, payload_bytes + RAFT_ITEM_BYTES);
    if (out == NULL || (item.hold && out->len > HELD_BYTES_MAX) ||
        buf_reserve(out, payload_bytes + RAFT_ITEM_BYTES) != 0) {
        return item;
    }
    if (item.hold) {
        await_durable(s);
    }
    item.start = out->len;
    (void)buf_extend(out, (item.hold ? HELD_HEADER_BYTES : 0) + ITEM_HEADER_BYTES);
    item.body = out->len;
    if (message_encode_raft(&raft, out) != 0) {
        out->len = item.start;
        return item;
    }
    item.out = out;
    return item;
}

static void item_end(const struct item *item, size_t payload_bytes)
{
    struct buf *out = item->out;
    uint8_t *header = out->data + item->start;
    /* The payload is the last field: its length stands right before it. */
    store_u32(out->data + out->len - payload_bytes - 4, (uint32_t)payload_bytes);
    if (item->hold) {
        store_u32(header, item->node);
        store_u32(header + 4, (uint32_t)(out->len - item->start - HELD_HEADER_BYTES));
        header += HELD_HEADER_BYTES;
    }
    store_u16(header, KIND_RAFT);
    store_u32(header + 2, (uint32_t)(out->len - item->body));
}

static void send_raft(struct shard *s, const struct consensus_message *m, struct slice payload)
{
    struct item item = item_begin(s, m, payload.len);
    if (item.out != NULL) {
        int rv = buf_append(item.out, payload.data, payload.len);
        assert(rv == 0); /* reserved */
        item_end(&item, payload.len);
    }
}

static void send_entries(struct shard *s, const struct consensus_message *m,
                         const struct wal_entry *entries)
{
    size_t bytes = 0;
    for (size_t i = 0; i < m->count; i++) {
        bytes += ENTRY_ITEM_BYTES + entries[i].data.len;
    }
    struct item item = item_begin(s, m, bytes);
    if (item.out == NULL) {
        return;
    }
    uint8_t *at = buf_extend(item.out, bytes);
    assert(at != NULL); /* reserved */
    for (size_t i = 0; i < m->count; i++) {
        const struct wal_entry *e = &entries[i];
        store_u64(at, e->term);
        at[8] = e->type;
        store_u32(at + 9, (uint32_t)e->data.len);
        if (e->data.len > 0) {
            memcpy(at + ENTRY_ITEM_BYTES, e->data.data, e->data.len);
        }
        at += ENTRY_ITEM_BYTES + e->data.len;
    }
    item_end(&item, bytes);
}

void replica__send(struct shard *s, uint32_t node, struct slice item)
{
    if (shard__hard_state_is_durable(s)) {
        struct buf *out = replica__out(s->r, node, item.len);
        if (out != NULL) {
            (void)buf_append(out, item.data, item.len);
        }
        return;
    }
    if (s->held.len > HELD_BYTES_MAX) {
        return;
    }
    uint8_t *header = buf_extend(&s->held, HELD_HEADER_BYTES + item.len);
    if (header != NULL) {
        await_durable(s);
        store_u32(header, node);
        store_u32(header + 4, (uint32_t)item.len);
        memcpy(header + HELD_HEADER_BYTES, item.data, item.len);
    }
}

static void release_held(struct shard *s)
{
    size_t at = 0;
    while (at < s->held.len) {
        uint32_t node = load_u32(s->held.data + at);
        uint32_t length = load_u32(s->held.data + at + 4);
        struct buf *out = replica__out(s->r, node, length);
        if (out != NULL) {
            (void)buf_append(out, s->held.data + at + HELD_HEADER_BYTES, length);
        }
        at += HELD_HEADER_BYTES + length;
    }
    buf_clear(&s->held);
}

void shard__send_append(struct shard *s, const struct consensus_message *message)
{
    struct consensus_message m = *message;
    struct wal_entry *entries = s->r->entries_out;
    uint64_t end = m.index + m.count;
    size_t total = 0;
    if (m.count == 0) {
        send_raft(s, &m, slice_of(NULL, 0));
        return;
    }
    while (m.index < end && total < APPEND_TOTAL_BYTES_MAX) {
        size_t count = 0;
        size_t want = end - m.index < ENTRIES_OUT_MAX ? (size_t)(end - m.index) : ENTRIES_OUT_MAX;
        int rv = wal_log_read(s->log, m.index + 1, entries, want, APPEND_PAYLOAD_BYTES, &count);
        if (rv != 0 || count == 0) {
            s->log_is_shorter = s->log_is_shorter || rv == ERR_NOTFOUND;
            return;
        }
        m.count = (uint32_t)count;
        send_entries(s, &m, entries);
        m.index += count;
        m.log_term = entries[count - 1].term;
        for (size_t i = 0; i < count; i++) {
            total += entries[i].data.len;
            if (entries[i].block != NULL) {
                wal_block_unref(entries[i].block);
            }
        }
    }
    thrifty_sent(s, m.to, m.index);
}

static void send_snapshot(struct shard *s, struct consensus_message m)
{
    struct buf *payload = &s->r->scratch;
    buf_clear(payload);
    if (transfer_fill(s, &m, payload) == 0) {
        send_raft(s, &m, slice_of(payload->data, payload->len));
    }
}

static void send_messages(struct shard *s, const struct consensus_update *u)
{
    for (size_t i = 0; i < u->message_count; i++) {
        const struct consensus_message *m = &u->messages[i];
        if (thrifty_keep(s, u, m)) {
            continue;
        }
        thrifty_release_to(s, m->to);
        if (m->type == MSG_APPEND) {
            shard__send_append(s, m);
        } else if (m->type == MSG_SNAPSHOT) {
            send_snapshot(s, *m);
        } else {
            send_raft(s, m, slice_of(NULL, 0));
        }
    }
}

/* ---- what follows from an event
 * ------------------------------------------------------------------------------------ */

static int mark_push(struct shard *s, uint64_t position, uint64_t index, uint64_t term)
{
    if (s->marks_head > 0 && s->marks_head + s->marks_count == s->marks_capacity) {
        memmove(s->marks, s->marks + s->marks_head, s->marks_count * sizeof *s->marks);
        s->marks_head = 0;
    }
    if (s->marks_count == s->marks_capacity) {
        size_t capacity = s->marks_capacity == 0 ? 16 : s->marks_capacity * 2;
        struct persist_mark *marks = mem_realloc(s->marks, capacity * sizeof *marks);
        if (marks == NULL) {
            return ERR_NOMEM;
        }
        s->marks = marks;
        s->marks_capacity = capacity;
    }
    s->marks[s->marks_head + s->marks_count++] =
        (struct persist_mark){.position = position, .index = index, .term = term};
    await_durable(s);
    return 0;
}

static int store_entries(struct shard *s, const struct consensus_update *u)
{
    int rv = 0;
    uint64_t position = 0;
    if (u->first_index <= wal_log_last_index(s->log)) {
        rv = wal_log_truncate(s->log, u->first_index, &position);
    }
    if (rv == 0) {
        rv = wal_log_append(s->log, u->first_index, u->entries, u->entry_count, &position);
    }
    if (rv == 0) {
        rv = mark_push(s, position, u->first_index + u->entry_count - 1,
                       u->entries[u->entry_count - 1].term);
    }
    for (size_t i = 0; i < u->entry_count; i++) {
        if (u->entries[i].block != NULL) {
            wal_block_unref(u->entries[i].block);
        }
    }
    return rv;
}

static uint64_t last_stamp(struct shard *s)
{
    struct fsm_header h;
    fsm_header_get(s->heap, &h);
    uint64_t stamp = h.stamp > heap_clock(s->heap) ? h.stamp : heap_clock(s->heap);
    struct wal_entry entry;
    size_t count = 0;
    uint64_t last = wal_log_last_index(s->log);
    if (last > wal_log_prev_index(s->log) &&
        wal_log_read(s->log, last, &entry, 1, 1, &count) == 0 && count == 1) {
        if (entry.type == ENTRY_COMMAND && entry.data.len >= ENTRY_HEADER_BYTES &&
            load_u64(entry.data.data + 8) > stamp) {
            stamp = load_u64(entry.data.data + 8);
        }
        if (entry.block != NULL) {
            wal_block_unref(entry.block);
        }
    }
    return stamp;
}

static void lead(struct shard *s)
{
    struct replica *r = s->r;
    s->lead_term = consensus_term(s->consensus);
    s->lead_since_ms = env_now_ms(r->env);
    s->serving = false;
    s->needs_tick = true;
    uint64_t last = last_stamp(s);
    uint64_t wall = hlc_from_ms(env_wall_us(r->env) / 1000);
    s->stamp_last = last;
    s->stamp_base = wall > last ? wall : last;
    s->stamp_base_ms = s->lead_since_ms;
    s->slow_base_ms = 0;
    s->session_cursor_len = 0;
    s->housekeeping_ms = s->lead_since_ms + HOUSEKEEPING_MS;
    s->catch_up_id = 0;
    r->counters.elections++;
    replica__turn(s);
}

static void note_leadership(struct shard *s, bool was_leader)
{
    bool leads = shard__leads(s);
    if (leads && (!was_leader || consensus_term(s->consensus) != s->lead_term)) {
        lead(s);
    } else if (!leads && was_leader) {
        s->serving = false;
        s->needs_tick = false;
        s->lead_term = 0;
        thrifty_forget(s);
        shard__refuse_waiters(s, ERR_NOTLEADER);
    }
    uint64_t leader = consensus_leader(s->consensus);
    if (leader != s->leader) {
        s->leader = leader;
        s->leader_changed = true;
        replica__turn(s);
    }
}

void shard__absorb(struct shard *s, int err, struct consensus_update *u)
{
    if (err != 0 || u == NULL) {
        s->r->counters.malformed += err == ERR_PROTOCOL;
        if (consensus_state(s->consensus) == CONSENSUS_UNAVAILABLE) {
            shard__fail(s, ERR_NOMEM, "consensus ran out of memory");
        }
        return;
    }
    int rv = 0;
    if (u->hard_state_changed) {
        rv = wal_log_set_hard_state(s->log, u->term, u->voted_for, &s->hard_state_position);
    }
    if (u->entry_count > 0) {
        int stored = store_entries(s, u);
        rv = rv != 0 ? rv : stored;
    }
    if (rv != 0) {
        shard__fail(s, rv, "the log took no more");
        return;
    }
    send_messages(s, u);
    if (u->install != NULL) {
        transfer_install(s, u->install);
    }
    note_leadership(s, s->lead_term != 0);
}

void shard__handle(struct shard *s, int err, struct consensus_update *update)
{
    shard__absorb(s, err, update);
    if (!s->r->gathering) {
        shard__catch_up(s);
    } else if (list_empty(&s->apply_link)) {
        list_push_back(&s->r->apply_shards, &s->apply_link);
    }
}

void shard__catch_up(struct shard *s)
{
    if (!s->failed) {
        shard__apply(s);
    }
    if (!s->failed) {
        read_serve(s);
    }
}

void shard__durable(struct shard *s, uint64_t position)
{
    if (s->failed || s->consensus == NULL) {
        return;
    }
    if (s->held.len > 0 && position >= s->hard_state_position) {
        release_held(s);
    }
    uint64_t index = 0;
    uint64_t term = 0;
    while (s->marks_count > 0 && s->marks[s->marks_head].position <= position) {
        index = s->marks[s->marks_head].index;
        term = s->marks[s->marks_head].term;
        s->marks_head++;
        s->marks_count--;
    }
    if (s->marks_count == 0) {
        s->marks_head = 0;
    }
    if (index == 0) {
        return;
    }
    if (index > wal_log_durable_index(s->log)) {
        /* Truncated since, and stored again: only what is durable in the log as it is now counts.
         */
        index = wal_log_durable_index(s->log);
        term = wal_log_term(s->log, index);
    }
    if (index == 0 || term == 0 || s->install.step != INSTALL_NONE) {
        return;
    }
    struct consensus_update *update = NULL;
    int rv = consensus_persisted(s->consensus, env_now_ms(s->r->env), index, term, &update);
    shard__handle(s, rv, update);
}

void shard__tick(struct shard *s, uint64_t now_ms)
{
    if (s->failed || s->dropped || shard_check_damage(s) != 0) {
        return;
    }
    consensus_set_reluctant(s->consensus, s->r->clock.off);
    if (consensus_timeout_ms(s->consensus) <= now_ms) {
        struct consensus_update *update = NULL;
        int rv = consensus_tick(s->consensus, now_ms, &update);
        shard__handle(s, rv, update);
    }
    if (s->failed) {
        return;
    }
    batch_tick(s);
    read_tick(s, now_ms);
    reclaim_tick(s, now_ms);
    transfer_tick(s, now_ms);
    checkpoint_tick(s, now_ms);
    if (shard__leads(s) && s->serving && now_ms >= s->housekeeping_ms) {
        s->housekeeping_ms = now_ms + HOUSEKEEPING_MS;
        checkpoint_heal(s);
        session_sweep(s);
        membership_tick(s, now_ms);
    }
}

int shard__propose_tick(struct shard *s)
{
    struct msg_tick m = {.uid = s->uid};
    struct buf *scratch = &s->r->scratch;
    buf_clear(scratch);
    int rv = message_encode_tick(&m, scratch);
    return rv != 0 ? rv : shard__propose_own(s, KIND_TICK, slice_of(scratch->data, scratch->len));
}

void shard__end_of_turn(struct shard *s)
{
    if (s->leader_changed) {
        s->leader_changed = false;
        if (s->r->cbs->on_leader != NULL) {
            s->r->cbs->on_leader(s->r->arg, s);
        }
    }
    if (s->failed || s->dropped) {
        shard__refuse_waiters(s, s->failed ? ERR_IO : ERR_NOSHARD);
        return;
    }
    if (s->needs_tick && shard__leads(s)) {
        /* The first entry with a stamp of this term: it renews all sessions. */
        s->needs_tick = shard__propose_tick(s) != 0;
    }
    read_end_of_turn(s);
    reclaim_end_of_turn(s);
    batch_end_of_turn(s);
}

/* ---- opening
 * -------------------------------------------------------------------------------------------------------
 */

/* All founding members write the same first entry: the configuration, in term 1. */
static int birth(struct shard *s, const struct consensus_config *founders)
{
    struct buf data = {0};
    int rv = consensus_config_encode(founders, &data);
    struct entry_block *block = NULL;
    if (rv == 0) {
        block = block_new(s->r->blocks, data.len);
        rv = block == NULL ? ERR_NOMEM : 0;
    }
    if (rv == 0) {
        memcpy(block->data, data.data, data.len);
        struct wal_entry entry = {
            .term = 1,
            .type = ENTRY_CHANGE,
            .data = slice_of(block->data, data.len),
            .block = &block->block,
        };
        rv = wal_log_set_hard_state(s->log, 1, 0, &s->hard_state_position);
        if (rv == 0) {
            rv = wal_log_append(s->log, 1, &entry, 1, &s->hard_state_position);
        }
        wal_block_unref(&block->block);
    }
    buf_close(&data);
    return rv;
}

/* Image and log must fit together (rules E7). */
static int fit_log(struct shard *s, struct err_text *e)
{
    uint64_t index = heap_index(s->heap);
    uint64_t term = heap_term(s->heap);
    if (wal_log_prev_index(s->log) > index) {
        return err_set(e, ERR_CORRUPT,
                       "shard %llx: the log begins at entry %llu but the image ends at %llu; "
                       "remove this node's data and "
                       "let it be filled by its peers",
                       (unsigned long long)s->uid,
                       (unsigned long long)wal_log_prev_index(s->log) + 1,
                       (unsigned long long)index);
    }
    if (wal_log_last_index(s->log) < index || wal_log_term(s->log, index) != term) {
        /* A snapshot was installed and the log not yet restarted behind it. */
        return wal_log_restart(s->log, index, term, &s->hard_state_position);
    }
    return 0;
}

static int start_consensus(struct shard *s)
{
    struct replica *r = s->r;
    struct consensus_start start = {
        .now_ms = env_now_ms(r->env),
        .snapshot_index = heap_index(s->heap),
        .snapshot_term = heap_term(s->heap),
        .first_index = wal_log_prev_index(s->log) + 1,
    };
    wal_log_hard_state(s->log, &start.term, &start.voted_for);
    if (start.snapshot_index > 0) {
        fsm_config(s->heap, &start.config, &start.config_index);
    }
    size_t count = (size_t)(wal_log_last_index(s->log) - wal_log_prev_index(s->log));
    struct wal_entry *entries = count > 0 ? mem_zalloc(count * sizeof *entries) : NULL;
    int rv = count > 0 && entries == NULL ? ERR_NOMEM : 0;
    size_t have = 0;
    while (rv == 0 && have < count) {
        size_t got = 0;
        rv = wal_log_read(s->log, start.first_index + have, entries + have, count - have,
                          APPEND_PAYLOAD_BYTES, &got);
        rv = rv == 0 && got == 0 ? ERR_CORRUPT : rv;
        for (size_t i = 0; i < got; i++) {
            struct wal_entry *entry = &entries[have + i];
            if (entry->type != ENTRY_CHANGE && entry->block != NULL) {
                wal_block_unref(entry->block);
                entry->block = NULL;
                entry->data = slice_of(NULL, 0);
            }
        }
        have += got;
    }
    if (rv == 0) {
        start.entries = entries;
        start.entry_count = count;
        struct consensus_opts opts = {
            .workspace = r->consensus_work,
            .shard_uid = s->uid,
            .id = s->self_id,
            .election_ms = r->opts.election_ms,
            .heartbeat_ms = r->opts.heartbeat_ms,
            .seed = (uint32_t)env_random_u64(r->env),
        };
        rv = consensus_open(&opts, &s->consensus);
        struct consensus_update *update = NULL;
        if (rv == 0) {
            rv = consensus_start(s->consensus, &start, &update);
        }
        if (rv == 0) {
            shard__handle(s, 0, update);
        }
    }
    for (size_t i = 0; i < have; i++) {
        if (entries[i].block != NULL) {
            wal_block_unref(entries[i].block);
        }
    }
    mem_free(entries);
    return rv;
}

static struct shard *shard_new(struct replica *r, uint64_t uid)
{
    struct shard *s = mem_zalloc(sizeof *s);
    size_t dir_bytes = strlen(r->dir) + 24;
    char *dir = mem_alloc(dir_bytes);
    if (s == NULL || dir == NULL) {
        mem_free(s);
        mem_free(dir);
        return NULL;
    }
    (void)snprintf(dir, dir_bytes, "%s/%016llx", r->dir, (unsigned long long)uid);
    s->dir = dir;
    s->r = r;
    s->uid = uid;
    s->self_id = r->opts.self_id;
    struct list *lists[] = {&s->link,        &s->turn_link,   &s->wave_link,       &s->durable_link,
                            &s->apply_link,  &s->lazy_link,   &s->late_link,       &s->ready,
                            &s->in_flight,   &s->reads,       &s->reads_done,      &s->reads_failed,
                            &s->reads_ahead, &s->round.reads, &s->checkpoint_waits};
    s->read_patience.cb = read_on_patience;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        list_init(lists[i]);
    }
    return s;
}

static int open_heap(struct shard *s, const struct shard_open_opts *opts, struct err_text *e)
{
    if (s->heap != NULL) {
        struct heap_opts have;
        heap_get_opts(s->heap, &have);
        s->heap_id = have.heap_id;
        s->number = have.shard;
        return fsm_check(s->heap) == 0
                   ? 0
                   : err_set(e, ERR_CORRUPT,
                             "shard %llx: what the replica keeps in %s makes no sense; remove this "
                             "node's data and let it be filled by its peers",
                             (unsigned long long)s->uid, s->dir);
    }
    if (wal_log_prev_index(s->log) > 0) {
        return err_set(e, ERR_CORRUPT,
                       "shard %llx: %s holds no image, but the log begins behind one; remove this "
                       "node's data and let it "
                       "be filled by its peers",
                       (unsigned long long)s->uid, s->dir);
    }
    struct heap_opts create = {.uid = s->uid,
                               .heap_id = opts->heap_id,
                               .shard = opts->number,
                               .bytes_max = opts->bytes_max,
                               .retention_ms = opts->retention_ms};
    s->heap_id = opts->heap_id;
    s->number = opts->number;
    return heap_create(&create, &s->heap);
}

static int open_parts(struct shard *s, const struct shard_open_opts *opts, struct err_text *e)
{
    struct replica *r = s->r;
    struct image_opts image_opts = {.dir = s->dir, .uid = s->uid, .mode = r->opts.mode};
    uint64_t mark_index = 0;
    if (s->log != NULL) {
        wal_log_checkpoint(s->log, &image_opts.mark_sequence, &mark_index);
    }
    int rv = image_open(r->env, &image_opts, &s->image, &s->heap, e);
    if (rv != 0) {
        return rv;
    }
    if (s->log == NULL) {
        if (s->heap != NULL) {
            return err_set(e, ERR_CORRUPT,
                           "shard %llx: %s holds an image, but the log knows nothing of it",
                           (unsigned long long)s->uid, s->dir);
        }
        rv = wal_log_create(r->wal, s->uid, 0, 0, &s->log);
        if (rv != 0) {
            return rv;
        }
    }
    rv = open_heap(s, opts, e);
    if (rv != 0) {
        return rv;
    }
    uint64_t term;
    uint64_t vote;
    wal_log_hard_state(s->log, &term, &vote);
    if (opts->founder && term == 0 && heap_index(s->heap) == 0 && wal_log_last_index(s->log) == 0) {
        rv = birth(s, opts->founders);
    } else {
        rv = fit_log(s, e);
    }
    if (rv != 0) {
        return rv;
    }
    struct image_stats stats;
    image_get_stats(s->image, &stats);
    s->checkpoint_sequence = stats.sequence;
    s->checkpoint_index = stats.index;
    s->checkpoint_ms = env_now_ms(r->env);
    s->applied = heap_index(s->heap);
    s->keep_after = wal_log_prev_index(s->log);
    if (stats.index > mark_index) {
        /* The superblock was flipped and its mark was lost. */
        rv = wal_log_mark_checkpoint(s->log, stats.sequence, stats.index, s->keep_after, NULL);
    }
    return rv != 0 ? rv : start_consensus(s);
}

int shard__open(struct replica *r, const struct shard_open_opts *opts, struct shard **out,
                struct err_text *e)
{
    *out = NULL;
    struct wal_log *log = wal_log_find(r->wal, opts->uid);
    if (log == NULL && !opts->birth_allowed) {
        return ERR_NOTFOUND;
    }
    struct shard *s = shard_new(r, opts->uid);
    if (s == NULL) {
        return ERR_NOMEM;
    }
    s->log = log;
    struct err_text text = {.text = ""};
    int rv = open_parts(s, opts, &text);
    if (rv != 0 && opts->bytes_max == 0 && s->heap == NULL && s->image != NULL) {
        /* Only the catalogue knows how large it may be: opened when that has been applied. */
        shard__free(s);
        return ERR_NOTFOUND;
    }
    replica__add(r, s);
    *out = s;
    if (rv != 0) {
        (void)err_set(e, rv, "%s", text.text[0] != '\0' ? text.text : "it could not be opened");
        shard__fail(s, rv, text.text[0] != '\0' ? text.text : "it could not be opened");
    }
    return rv;
}

void shard__free(struct shard *s)
{
    s->failed = true;
    env_timer_stop(s->r->env, &s->read_patience);
    thrifty_forget(s);
    shard__refuse_waiters(s, ERR_SHUTDOWN);
    if (s->image != NULL) {
        image_close(s->image);
        s->image = NULL;
    }
    transfer_cancel(s);
    batch_close(s);
    consensus_free(s->consensus);
    if (s->heap != NULL) {
        heap_free(s->heap);
    }
    list_remove(&s->turn_link);
    list_remove(&s->wave_link);
    list_remove(&s->durable_link);
    list_remove(&s->apply_link);
    list_remove(&s->lazy_link);
    buf_close(&s->held);
    mem_free(s->marks);
    mem_free(s->dir);
    mem_free(s);
}
