/* What a participant remembers of transactions of several shards: PREPARED with the part, then
 * COMMITTED or REFUSED. txn_step() says what happens, this file does it. */
#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn_internal.h"
#include "base/hlc.h"
#include "base/mem.h"

/* ---- records ---- */

struct txn_key {
    uint8_t bytes[TXN_TIMED_KEY_BYTES];
};

static struct slice key_of(const struct txn_name *name, struct txn_key *key)
{
    key->bytes[0] = 't';
    store_u64(key->bytes + 1, __builtin_bswap64(name->home));
    store_u64(key->bytes + 9, __builtin_bswap64(name->session));
    store_u64(key->bytes + 17, __builtin_bswap64(name->seq));
    return slice_of(key->bytes, TXN_KEY_BYTES);
}

static struct slice timed_key_of(char kind, uint64_t time, const struct txn_name *name,
                                 struct txn_key *key)
{
    (void)key_of(name, key);
    memmove(key->bytes + 9, key->bytes + 1, TXN_KEY_BYTES - 1);
    key->bytes[0] = (uint8_t)kind;
    store_u64(key->bytes + 1, __builtin_bswap64(time));
    return slice_of(key->bytes, TXN_TIMED_KEY_BYTES);
}

static void name_of(const uint8_t *at, struct txn_name *out)
{
    out->home = __builtin_bswap64(load_u64(at));
    out->session = __builtin_bswap64(load_u64(at + 8));
    out->seq = __builtin_bswap64(load_u64(at + 16));
}

bool txn_oldest_prepared(const struct heap *h, struct txn_name *out)
{
    struct slice key;
    struct slice value;
    memset(out, 0, sizeof *out);
    if (heap_map_next(h, HEAP_MAP_TX, slice_of("p", 1), &key, &value) != 0 || key.data[0] != 'p') {
        return false;
    }
    name_of(key.data + 9, out);
    return true;
}

/* Where it stands in the arena (values of maps are 8-aligned). NULL: none. */
static const struct txn_record *record_get(const struct heap *h, const struct txn_name *name,
                                           struct slice *value)
{
    struct txn_key key;
    if (heap_map_count(h, HEAP_MAP_TX) == 0 ||
        heap_map_get(h, HEAP_MAP_TX, key_of(name, &key), value) != 0) {
        return NULL;
    }
    assert(value->len >= sizeof(struct txn_record));
    return (const struct txn_record *)(const void *)value->data;
}

static const uint64_t *uids_of(const struct txn_record *r)
{
    return (const uint64_t *)(const void *)(r + 1);
}

static struct slice part_of(const struct txn_record *r)
{
    return slice_of(uids_of(r) + r->participants, r->part_bytes);
}

static uint32_t *count_of(struct heap_header *hd, uint32_t state)
{
    return state == TXN_PREPARED    ? &hd->tx_prepared
           : state == TXN_COMMITTED ? &hd->tx_committed
                                    : &hd->tx_refused;
}

static void count_move(struct heap *h, uint32_t from, uint32_t to)
{
    struct heap_header *hd = header_edit(h);
    struct txn_name oldest;
    if (from != TXN_NONE) {
        *count_of(hd, from) -= 1;
    }
    if (to != TXN_NONE) {
        *count_of(hd, to) += 1;
    }
    if (from == TXN_PREPARED || to == TXN_PREPARED) {
        struct slice value;
        hd->tx_oldest =
            txn_oldest_prepared(h, &oldest) ? record_get(h, &oldest, &value)->prepared_at : 0;
    }
}

static bool is_late(const struct heap *h, uint64_t deadline)
{
    return header(h)->clock > deadline;
}

/* The record shrinks to what its outcome needs; where there is no room for that, in place. */
static int record_settle(struct heap *h, const struct txn_name *name, struct slice value)
{
    struct txn_key key;
    struct slice k = key_of(name, &key);
    int rv = heap_map_put(h, HEAP_MAP_TX, k, value);
    if (rv == ERR_NOSPACE) {
        map_cut(h, HEAP_MAP_TX, k, value.len);
        memcpy(heap_map_edit(h, HEAP_MAP_TX, k, 0, value.len), value.data, value.len);
        rv = 0;
    }
    return rv;
}

static int record_delete(struct heap *h, const struct txn_name *name, char kind, uint64_t time)
{
    struct txn_key key;
    int rv = heap_map_delete(h, HEAP_MAP_TX, key_of(name, &key));
    if (rv == 0 && kind != 0) {
        rv = heap_map_delete(h, HEAP_MAP_TX, timed_key_of(kind, time, name, &key));
    }
    assert(rv == 0);
    return rv;
}

/* A record and its timed key. ERR_LIMIT, ERR_NOSPACE: nothing is there. */
static int record_put(struct heap *h, const struct txn_name *name, struct slice value, char kind,
                      uint64_t time)
{
    const struct heap_header *hd = header(h);
    struct txn_key key;
    struct txn_key timed;
    if (hd->tx_prepared + (uint64_t)hd->tx_committed + hd->tx_refused >= TX_RECORDS_MAX) {
        return ERR_LIMIT;
    }
    int rv = heap_map_put(h, HEAP_MAP_TX, key_of(name, &key), value);
    if (rv == 0) {
        rv = heap_map_put(h, HEAP_MAP_TX, timed_key_of(kind, time, name, &timed), slice_of("", 1));
        if (rv != 0) {
            (void)heap_map_delete(h, HEAP_MAP_TX, key_of(name, &key));
        }
    }
    return rv;
}

/* What a known record says to whoever asks. */
static void answer_by(const struct txn_record *r, struct txn_result *out)
{
    if (r->state == TXN_PREPARED) {
        out->version = r->prepared_at;
    } else if (r->state == TXN_COMMITTED) {
        out->version = r->committed_at;
    } else {
        out->code = -(int)r->code;
        out->conflict.what = r->conflict;
        out->conflict.version = r->conflict_version;
    }
}

/* ---- refusing ---- */

/* NONE becomes REFUSED. */
static int refuse_new(struct heap *h, const struct txn_name *name, const struct txn_record *record,
                      struct txn_result *out)
{
    int rv = record_put(h, name, slice_of(record, sizeof *record), 'x', record->deadline);
    if (rv == ERR_NOSPACE || rv == ERR_LIMIT) {
        out->answer = TXN_NO_VOTE;
        out->code = rv;
        return 0;
    }
    if (rv == 0) {
        count_move(h, TXN_NONE, TXN_REFUSED);
    }
    return rv;
}

int txn_apply_refuse(struct heap *heap, const struct txn_name *name, uint64_t digest,
                     uint64_t deadline, int code, struct txn_result *out)
{
    struct slice value;
    const struct txn_record *r = record_get(heap, name, &value);
    struct txn_conditions c = {.late = is_late(heap, deadline)};
    memset(out, 0, sizeof *out);
    if (r != NULL && r->digest != digest) {
        out->code = ERR_PROTOCOL;
        return 0;
    }
    struct txn_move m =
        txn_step(r == NULL ? TXN_NONE : (enum txn_state)r->state, TXN_ON_REFUSE, &c);
    out->answer = m.answer;
    if (r != NULL) {
        answer_by(r, out);
        return 0;
    }
    out->code = code != 0 ? code : ERR_TX_ABORTED;
    if (m.answer == TXN_LATE) {
        out->code = out->code == ERR_TX_ABORTED ? ERR_TX_TOO_LATE : out->code;
        return 0;
    }
    struct txn_record record = {
        .deadline = deadline, .digest = digest, .code = (uint32_t)-out->code, .state = TXN_REFUSED};
    return refuse_new(heap, name, &record, out);
}

int txn_sweep_refused(struct heap *heap, uint32_t max)
{
    struct slice key;
    struct slice value;
    while (max > 0 && header(heap)->tx_refused > 0 &&
           heap_map_next(heap, HEAP_MAP_TX, slice_of("x", 1), &key, &value) == 0) {
        struct txn_name name;
        uint64_t deadline = __builtin_bswap64(load_u64(key.data + 1));
        struct txn_conditions c = {.late = is_late(heap, deadline)};
        if (txn_step(TXN_REFUSED, TXN_ON_CLOCK, &c).next != TXN_NONE) {
            return 0;
        }
        name_of(key.data + 9, &name);
        int rv = record_delete(heap, &name, 'x', deadline);
        if (rv != 0) {
            return rv;
        }
        count_move(heap, TXN_REFUSED, TXN_NONE);
        max--;
    }
    return 0;
}

/* ---- intents of a part ---- */

static enum intent_mode mode_of(const struct txn_target *t)
{
    return t->changes ? INTENT_EXCLUSIVE : INTENT_SHARED;
}

static void intents_drop(struct heap *h, const struct txn_plan *plan, uint32_t targets,
                         bool directory)
{
    if (directory && plan->changes_directory) {
        intent_drop(h, 0, slice_of(NULL, 0), INTENT_CHANGER);
    }
    if (directory && plan->reads_directory) {
        intent_drop(h, 0, slice_of(NULL, 0), INTENT_SHARED);
    }
    while (targets > 0) {
        const struct txn_target *t = &plan->targets[--targets];
        intent_drop(h, t->ptr, t->name, mode_of(t));
    }
}

static int directory_take(struct heap *h, const struct txn_plan *plan, const struct txn_name *by)
{
    struct slice none = slice_of(NULL, 0);
    int rv = plan->reads_directory ? intent_take(h, 0, none, INTENT_SHARED, by, 0) : 0;
    if (rv == 0 && plan->changes_directory) {
        rv = intent_take(h, 0, none, INTENT_CHANGER, by, 0);
        if (rv != 0 && plan->reads_directory) {
            intent_drop(h, 0, none, INTENT_SHARED);
        }
    }
    return rv;
}

static int intents_take(struct heap *h, const struct txn_plan *plan, const struct txn_name *by,
                        uint64_t at)
{
    uint32_t taken = 0;
    int rv = 0;
    while (rv == 0 && taken < plan->count) {
        const struct txn_target *t = &plan->targets[taken];
        rv = intent_take(h, t->ptr, t->name, mode_of(t), by, at);
        taken += rv == 0;
    }
    rv = rv == 0 ? directory_take(h, plan, by) : rv;
    if (rv != 0) {
        intents_drop(h, plan, taken, false);
    }
    return rv;
}

/* ---- preparing ---- */

/* Intents, objects and placeholders. ERR_NOSPACE: nothing has changed. */
static int hold(struct heap *h, const struct txn_name *name, uint64_t version,
                struct txn_plan *plan)
{
    int rv = intents_take(h, plan, name, version);
    if (rv != 0) {
        return rv;
    }
    rv = txn_plan_reserve(h, plan);
    if (rv != 0) {
        intents_drop(h, plan, plan->count, true);
        return rv;
    }
    for (uint32_t i = 0; i < plan->count; i++) {
        if (plan->targets[i].born) {
            intent_mark(h, plan->targets[i].ptr);
        }
    }
    return 0;
}

/* The PREPARED record, with room for what it becomes. */
static int prepared_put(struct heap *h, uint64_t version, const struct txn_prepare *p)
{
    struct slice uids = p->participants;
    struct txn_record record = {.deadline = p->deadline,
                                .prepared_at = version,
                                .owner = p->owner,
                                .digest = p->digest,
                                .state = TXN_PREPARED,
                                .participants = (uint32_t)(uids.len / 8),
                                .part_bytes = (uint32_t)p->part.len};
    size_t tail = p->part.len > uids.len ? p->part.len : uids.len;
    size_t len = sizeof record + uids.len + tail;
    uint8_t *value = mem_zalloc(len);
    if (value == NULL) {
        return ERR_NOMEM;
    }
    memcpy(value, &record, sizeof record);
    memcpy(value + sizeof record, uids.data, uids.len);
    memcpy(value + sizeof record + uids.len, p->part.data, p->part.len);
    int rv = record_put(h, &p->name, slice_of(value, len), 'p', version);
    mem_free(value);
    return rv;
}

static bool takes_part(const struct heap *h, struct slice participants)
{
    bool found = false;
    for (size_t i = 0; i + 8 <= participants.len; i += 8) {
        found = found || load_u64(participants.data + i) == header(h)->uid;
    }
    return found && participants.len % 8 == 0 && participants.len / 8 <= TX_PARTICIPANTS_MAX;
}

/* 0, or the code with which it is refused. */
static int prepare_plan(struct heap *h, uint64_t version, const struct txn_prepare *p,
                        struct txn_plan *plan, struct txn_conflict *conflict)
{
    struct txn_name by;
    int rv = txn_plan_validate(h, plan, conflict, &by);
    if (rv == ERR_TX_UNDECIDED) {
        rv = ERR_CONFLICT;
    }
    if (rv == 0 && header(h)->tx_prepared >= TX_PREPARED_MAX) {
        rv = ERR_LIMIT;
    }
    if (rv != 0) {
        return rv;
    }
    rv = prepared_put(h, version, p);
    if (rv != 0) {
        return rv;
    }
    rv = hold(h, &p->name, version, plan);
    if (rv != 0) {
        (void)record_delete(h, &p->name, 'p', version);
    }
    return rv;
}

static int prepare_new(struct heap *h, uint64_t version, const struct txn_prepare *p, int refuse,
                       struct txn_conflict *conflict)
{
    struct txn_plan plan;
    if (refuse != 0) {
        return refuse;
    }
    if (!takes_part(h, p->participants)) {
        return ERR_PROTOCOL;
    }
    if (p->part.len > TX_PART_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    int rv = txn_plan_open(h, p->part, &plan);
    if (rv != 0) {
        return rv;
    }
    rv = prepare_plan(h, version, p, &plan, conflict);
    if (rv != 0) {
        txn_plan_renounce(h, &plan);
    }
    txn_plan_close(&plan);
    return rv;
}

/* Further than a coordinator lets a client go by its own shard's clock: clocks have jumped apart.
 * It is refused and not prepared; and that is recorded like any refusal, or it stayed undecided
 * until this clock comes after. */
static bool is_far(const struct heap *h, uint64_t deadline)
{
    return deadline > header(h)->clock + hlc_from_ms(TX_DEADLINE_MS_MAX);
}

int txn_apply_prepare(struct heap *heap, uint64_t version, const struct txn_prepare *prepare,
                      int refuse, struct txn_result *out)
{
    struct slice value;
    const struct txn_record *r = record_get(heap, &prepare->name, &value);
    struct txn_conditions c = {.late = is_late(heap, prepare->deadline)};
    memset(out, 0, sizeof *out);
    if (r != NULL && r->digest != prepare->digest) {
        out->code = ERR_PROTOCOL;
        return 0;
    }
    if (r != NULL) {
        out->answer = txn_step((enum txn_state)r->state, TXN_ON_PREPARE, &c).answer;
        answer_by(r, out);
        return 0;
    }
    if (refuse == 0 && is_far(heap, prepare->deadline)) {
        refuse = ERR_TX_ABORTED;
    }
    if (!c.late) {
        int rv = prepare_new(heap, version, prepare, refuse, &out->conflict);
        if (err_stops_replica(rv)) {
            return rv;
        }
        out->code = rv;
        c.valid = rv == 0;
    } else {
        out->code = refuse != 0 ? refuse : ERR_TX_TOO_LATE;
    }
    struct txn_move m = txn_step(TXN_NONE, TXN_ON_PREPARE, &c);
    out->answer = m.answer;
    if (m.next == TXN_PREPARED) {
        out->version = version;
        count_move(heap, TXN_NONE, TXN_PREPARED);
    } else if (m.next == TXN_REFUSED) {
        struct txn_record record = {.deadline = prepare->deadline,
                                    .owner = prepare->owner,
                                    .digest = prepare->digest,
                                    .conflict = out->conflict.what,
                                    .conflict_version = out->conflict.version,
                                    .code = (uint32_t)-out->code,
                                    .state = TXN_REFUSED};
        return refuse_new(heap, &prepare->name, &record, out);
    }
    return 0;
}

/* ---- deciding ---- */

void heap_clock_advance(struct heap *heap, uint64_t at)
{
    if (at > header(heap)->clock) {
        header_counts(heap)->clock = at;
    }
}

/* The greatest of the times, one of which is the record's own. 0: they aren't its. */
static uint64_t commit_time(const struct heap *h, const struct txn_record *r, struct slice times)
{
    uint64_t most = 0;
    bool own = false;
    if (times.len != (size_t)r->participants * 8) {
        return 0;
    }
    for (uint32_t i = 0; i < r->participants; i++) {
        uint64_t time = load_u64(times.data + (size_t)i * 8);
        most = time > most ? time : most;
        own = own || (uids_of(r)[i] == header(h)->uid && time == r->prepared_at);
    }
    return own && most <= UINT64_MAX / 2 ? most : 0;
}

/* What the part wants happens. */
static int execute(struct heap *h, const struct txn_record *r, uint64_t version)
{
    struct txn_plan plan;
    int rv = txn_plan_open(h, part_of(r), &plan);
    if (rv != 0) {
        return rv;
    }
    intents_drop(h, &plan, plan.count, true);
    rv = txn_plan_execute(h, version, &plan);
    txn_plan_close(&plan);
    return rv;
}

static int commit(struct heap *h, const struct txn_name *name, const struct txn_record *r,
                  struct slice times, uint64_t version)
{
    struct txn_record record = *r;
    uint8_t value[sizeof record + 2 * TX_PARTICIPANTS_MAX * sizeof(uint64_t)];
    size_t uids = (size_t)record.participants * 8;
    struct txn_key key;
    heap_clock_advance(h, version);
    int rv = execute(h, r, version);
    if (rv != 0) {
        return rv;
    }
    record.state = TXN_COMMITTED;
    record.committed_at = version;
    record.part_bytes = 0;
    memcpy(value, &record, sizeof record);
    memcpy(value + sizeof record, r + 1, uids);
    memcpy(value + sizeof record + uids, times.data, uids);
    rv = heap_map_delete(h, HEAP_MAP_TX, timed_key_of('p', record.prepared_at, name, &key));
    if (rv == 0) {
        rv = record_settle(h, name, slice_of(value, sizeof record + 2 * uids));
    }
    if (rv == 0) {
        count_move(h, TXN_PREPARED, TXN_COMMITTED);
    }
    return rv;
}

int txn_apply_commit(struct heap *heap, const struct txn_name *name, uint64_t digest,
                     struct slice times, bool *committed, struct txn_result *out)
{
    struct slice value;
    const struct txn_record *r = record_get(heap, name, &value);
    struct txn_conditions c = {.valid = true};
    memset(out, 0, sizeof *out);
    *committed = false;
    struct txn_move m =
        txn_step(r == NULL ? TXN_NONE : (enum txn_state)r->state, TXN_ON_COMMIT, &c);
    out->answer = m.answer;
    if (r == NULL) {
        return 0;
    }
    uint64_t version = r->digest == digest ? commit_time(heap, r, times) : 0;
    if (r->digest != digest || (r->state == TXN_PREPARED && version == 0)) {
        out->answer = TXN_WRONG;
        out->code = ERR_PROTOCOL;
        return 0;
    }
    if (r->state != TXN_PREPARED) {
        answer_by(r, out);
        return 0;
    }
    *committed = true;
    out->version = version;
    return commit(heap, name, r, times, version);
}

/* PREPARED no more: nothing that the part wants happens. */
static int give_up(struct heap *h, const struct txn_record *r)
{
    struct txn_plan plan;
    int rv = txn_plan_open(h, part_of(r), &plan);
    if (rv == 0) {
        intents_drop(h, &plan, plan.count, true);
        txn_plan_release(h, &plan);
        txn_plan_close(&plan);
    }
    return rv;
}

static int abort_prepared(struct heap *h, const struct txn_name *name, const struct txn_record *r,
                          enum txn_state next)
{
    struct txn_record record = {.deadline = r->deadline,
                                .owner = r->owner,
                                .digest = r->digest,
                                .code = (uint32_t)-ERR_TX_ABORTED,
                                .state = TXN_REFUSED};
    uint64_t prepared_at = r->prepared_at;
    struct txn_key from;
    struct txn_key to;
    int rv = give_up(h, r);
    if (rv != 0) {
        return rv;
    }
    if (next == TXN_NONE) {
        rv = record_delete(h, name, 'p', prepared_at);
    } else {
        map_rekey(h, HEAP_MAP_TX, timed_key_of('p', prepared_at, name, &from),
                  timed_key_of('x', record.deadline, name, &to));
        rv = record_settle(h, name, slice_of(&record, sizeof record));
    }
    if (rv == 0) {
        count_move(h, TXN_PREPARED, next);
    }
    return rv;
}

int txn_apply_abort(struct heap *heap, const struct txn_name *name, uint64_t digest,
                    uint64_t deadline, struct txn_result *out)
{
    struct slice value;
    const struct txn_record *r = record_get(heap, name, &value);
    memset(out, 0, sizeof *out);
    if (r != NULL && r->digest != digest) {
        out->answer = TXN_WRONG;
        out->code = ERR_PROTOCOL;
        return 0;
    }
    struct txn_conditions c = {.late = is_late(heap, r != NULL ? r->deadline : deadline)};
    enum txn_state state = r == NULL ? TXN_NONE : (enum txn_state)r->state;
    struct txn_move m = txn_step(state, TXN_ON_ABORT, &c);
    out->answer = m.answer;
    if (state == TXN_PREPARED) {
        return abort_prepared(heap, name, r, m.next);
    }
    if (state == TXN_NONE && m.next == TXN_REFUSED) {
        struct txn_record record = {.deadline = deadline,
                                    .digest = digest,
                                    .code = (uint32_t)-ERR_TX_ABORTED,
                                    .state = TXN_REFUSED};
        return refuse_new(heap, name, &record, out);
    }
    return 0;
}

int txn_apply_forget(struct heap *heap, const struct txn_name *name, bool forgettable,
                     struct txn_result *out)
{
    struct slice value;
    const struct txn_record *r = record_get(heap, name, &value);
    struct txn_conditions c = {.late = r != NULL && is_late(heap, r->deadline),
                               .forgettable = forgettable};
    enum txn_state state = r == NULL ? TXN_NONE : (enum txn_state)r->state;
    memset(out, 0, sizeof *out);
    struct txn_move m = txn_step(state, TXN_ON_FORGET, &c);
    out->answer = m.answer;
    if (m.next == state) {
        return 0;
    }
    assert(r != NULL); /* what nobody knows stays so */
    int rv = record_delete(heap, name, state == TXN_REFUSED ? 'x' : 0, r->deadline);
    if (rv == 0) {
        count_move(heap, state, TXN_NONE);
    }
    return rv;
}

/* ---- looking ---- */

static bool is_outside(const struct txn_record *r, uint64_t first_uid, uint32_t shards)
{
    for (uint32_t i = 0; i < r->participants; i++) {
        if (uids_of(r)[i] - first_uid >= shards) {
            return true;
        }
    }
    return false;
}

bool txn_prepared_outside(const struct heap *heap, uint64_t first_uid, uint32_t shards,
                          uint64_t until)
{
    struct slice key = slice_of("p", 1);
    struct slice value;
    while (header(heap)->tx_prepared > 0 &&
           heap_map_next(heap, HEAP_MAP_TX, key, &key, &value) == 0 && key.data[0] == 'p' &&
           __builtin_bswap64(load_u64(key.data + 1)) <= until) {
        struct txn_name name;
        name_of(key.data + 9, &name);
        if (is_outside(record_get(heap, &name, &value), first_uid, shards)) {
            return true;
        }
    }
    return false;
}

bool txn_find(const struct heap *heap, const struct txn_name *name, struct txn_record *out,
              const uint64_t **participants, const uint64_t **times)
{
    struct slice value;
    const struct txn_record *r = record_get(heap, name, &value);
    memset(out, 0, sizeof *out);
    *participants = NULL;
    *times = NULL;
    if (r == NULL) {
        return false;
    }
    *out = *r;
    *participants = uids_of(r);
    *times = r->state == TXN_COMMITTED ? uids_of(r) + r->participants : NULL;
    return true;
}

bool txn_next(const struct heap *heap, struct txn_name *name, struct txn_record *out)
{
    struct txn_key key;
    struct slice found;
    struct slice value;
    memset(out, 0, sizeof *out);
    if (heap_map_next(heap, HEAP_MAP_TX, key_of(name, &key), &found, &value) != 0 ||
        found.data[0] != 't') {
        return false;
    }
    name_of(found.data + 1, name);
    memcpy(out, value.data, sizeof *out);
    return true;
}

void txn_count(const struct heap *heap, struct txn_counts *out)
{
    const struct heap_header *hd = header(heap);
    out->prepared = hd->tx_prepared;
    out->committed = hd->tx_committed;
    out->refused = hd->tx_refused;
    out->oldest_prepared_at = hd->tx_oldest;
}
