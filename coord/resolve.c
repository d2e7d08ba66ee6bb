/* Transactions that nobody brings to an end: found by their records on the shards led here. And the
 * last of it, forgetting: records of what is done everywhere go when their deadline has passed, at
 * home first (ADR 0007 §4). */
#include <string.h>

#include "base/assert.h"
#include "base/hlc.h"
#include "base/mem.h"
#include "coord/internal.h"

#define FORGET_BACKOFF_MS_MAX 10000u
#define NAME_BYTES            24u

/* ---- orphans ---- */

void coord_push(struct coord *coord, uint64_t uid, const struct txn_name *name)
{
    struct shard *shard = replica_shard(coord->replica, uid);
    if (shard != NULL && coord__leads(shard)) {
        coord__adopt(coord, shard, name, COORD_RECOVER);
    }
}

void coord_finish(struct coord *coord, uint64_t uid, const struct txn_name *name)
{
    struct shard *shard = replica_shard(coord->replica, uid);
    if (shard != NULL && coord__leads(shard) && !coord__forgets(coord, name)) {
        coord__adopt(coord, shard, name, COORD_FINISH);
    }
}

/* By the time of the shard led here: wall clocks may jump back. */
static bool is_older(struct shard *shard, uint64_t version, uint64_t ms)
{
    return hlc_to_ms(shard_now(shard)) > hlc_to_ms(version) + ms;
}

/* Home's leader is who coordinates: without a machine here it was one that led before. */
static bool is_orphan(struct shard *shard, const struct shard_info *info,
                      const struct txn_name *name, const struct txn_record *record)
{
    uint64_t ms =
        name->home == info->uid && info->led_ms >= COORD_HEIR_MS ? COORD_HEIR_MS : COORD_ORPHAN_MS;
    return record->state == TXN_PREPARED && is_older(shard, record->prepared_at, ms);
}

static void scan_prepared(struct coord *coord, struct shard *shard, const struct shard_info *info)
{
    struct txn_name name = {0};
    struct txn_record record;
    while (txn_next(shard_heap(shard), &name, &record)) {
        if (is_orphan(shard, info, &name, &record)) {
            coord__adopt(coord, shard, &name, COORD_RECOVER);
        }
    }
}

/* Home's leader makes sure that all have applied; the others only when home has forgotten and
 * something was lost on the way. */
static void scan_committed(struct coord *coord, struct shard *shard, uint64_t uid)
{
    struct txn_name name = {0};
    struct txn_record record;
    if (coord->cursor_uid == uid) {
        name = coord->cursor;
    } else if (coord->cursor_uid != 0) {
        return;
    }
    coord->cursor_uid = 0;
    for (uint32_t i = 0; i < COORD_SCAN_MAX; i++) {
        if (!txn_next(shard_heap(shard), &name, &record)) {
            return;
        }
        uint64_t patience = name.home == uid ? COORD_HEIR_MS : 4 * COORD_ORPHAN_MS;
        if (record.state == TXN_COMMITTED && is_older(shard, record.deadline, patience) &&
            !coord__forgets(coord, &name)) {
            coord__adopt(coord, shard, &name, COORD_FINISH);
        }
    }
    coord->cursor_uid = uid;
    coord->cursor = name;
}

static void scan_shard(void *arg, struct shard *shard)
{
    struct coord *coord = arg;
    struct shard_info info;
    struct txn_counts counts;
    shard_get_info(shard, &info);
    if (!info.serving || info.failed || info.uid == SHARD_META) {
        if (coord->cursor_uid == info.uid) {
            coord->cursor_uid = 0;
        }
        return;
    }
    txn_count(shard_heap(shard), &counts);
    if (counts.prepared > 0 && is_older(shard, counts.oldest_prepared_at, COORD_HEIR_MS)) {
        scan_prepared(coord, shard, &info);
    }
    if (counts.committed > 0 || coord->cursor_uid == info.uid) {
        scan_committed(coord, shard, info.uid);
    }
}

void coord__scan(struct coord *coord)
{
    if (coord->cursor_uid != 0 && replica_shard(coord->replica, coord->cursor_uid) == NULL) {
        coord->cursor_uid = 0;
    }
    replica_each_shard(coord->replica, scan_shard, coord);
}

/* ---- forgetting ---- */

static struct coord_forget *forget_find(const struct coord *coord, const struct txn_name *name)
{
    list_for_each (it, &coord->forgets[coord__bucket(name)]) {
        struct coord_forget *forget = list_entry(it, struct coord_forget, bucket);
        if (txn_name_is(&forget->name, name)) {
            return forget;
        }
    }
    return NULL;
}

bool coord__forgets(const struct coord *coord, const struct txn_name *name)
{
    return forget_find(coord, name) != NULL;
}

void coord__forget_later(struct coord *coord, const struct coord_tx *tx)
{
    if (tx->machine.commit_time == 0 || coord__forgets(coord, &tx->name) ||
        coord->forget_count >= COORD_FORGETS_MAX) {
        return; /* refusals go by the clock alone; a commit is found again by its record */
    }
    size_t uids = tx->machine.count * sizeof tx->uids[0];
    struct coord_forget *forget = mem_zalloc(sizeof *forget + uids);
    if (forget == NULL) {
        return;
    }
    /* The shards' clocks are here at least, whatever ours says. */
    uint64_t wall_ms = coord__wall_ms(coord);
    uint64_t seen_ms = hlc_to_ms(tx->machine.commit_time);
    uint64_t until_ms = hlc_to_ms(tx->deadline) + 1;
    wall_ms = wall_ms > seen_ms ? wall_ms : seen_ms;
    forget->name = tx->name;
    forget->count = tx->machine.count;
    forget->backoff_ms = COORD_FORGET_MS;
    forget->due_ms = env_now_ms(coord->env) + (until_ms > wall_ms ? until_ms - wall_ms : 0);
    memcpy(forget->uids, tx->uids, uids);
    list_push_back(&coord->forgets[coord__bucket(&tx->name)], &forget->bucket);
    list_push_back(&coord->forgetting, &forget->link);
    coord->forget_count++;
}

static void forget_free(struct coord *coord, struct coord_forget *forget)
{
    list_remove(&forget->bucket);
    list_remove(&forget->link);
    coord->forget_count--;
    mem_free(forget);
}

/* The participant to tell next, or count: none. Home (0) comes first, alone. */
static uint32_t next_of(const struct coord_forget *forget)
{
    uint32_t over = forget->told | forget->asked;
    for (uint32_t i = 0; i < forget->count; i++) {
        if ((over & 1u << i) == 0) {
            return i;
        }
        if (i == 0 && (forget->told & 1u) == 0) {
            break;
        }
    }
    return forget->count;
}

static uint32_t index_of(const struct coord_forget *forget, uint64_t uid)
{
    uint32_t i = 0;
    while (i < forget->count && forget->uids[i] != uid) {
        i++;
    }
    return i;
}

static bool wants(const struct coord_forget *forget, uint64_t uid, uint64_t now_ms)
{
    uint32_t i = index_of(forget, uid);
    return forget->due_ms <= now_ms && i < forget->count &&
           ((forget->told | forget->asked) & 1u << i) == 0 && (i == 0 || (forget->told & 1u) != 0);
}

/* One TX_FORGET to a shard, with all that it may forget from *first on. False: it wasn't sent, and
 * entries may be gone. */
static bool forget_send(struct coord *coord, struct list *first, uint64_t uid, uint64_t now_ms)
{
    struct coord_route route = {0};
    uint8_t names[COORD_NAMES_MAX * NAME_BYTES];
    struct coord_send *send = coord__send_new(coord, COORD_NAMES_MAX);
    if (send == NULL) {
        return false;
    }
    send->kind = KIND_TX_FORGET;
    send->uid = uid;
    for (struct list *it = first; it != &coord->forgetting && send->count < COORD_NAMES_MAX;
         it = it->next) {
        struct coord_forget *forget = list_entry(it, struct coord_forget, link);
        if (!wants(forget, uid, now_ms)) {
            continue;
        }
        uint8_t *at = names + send->count * NAME_BYTES;
        store_u64(at, forget->name.home);
        store_u64(at + 8, forget->name.session);
        store_u64(at + 16, forget->name.seq);
        send->names[send->count++] = forget->name;
        forget->asked |= 1u << index_of(forget, uid);
    }
    struct msg_tx_forget m = {.uid = uid, .names = slice_of(names, send->count * NAME_BYTES)};
    buf_clear(&coord->scratch);
    int rv = message_encode_tx_forget(&m, &coord->scratch);
    if (rv == 0) {
        rv = coord__send(coord, send, &route, slice_of(coord->scratch.data, coord->scratch.len));
    }
    if (rv != 0) {
        coord__forget_answered(send, rv, NULL);
        coord__send_free(send);
    }
    return rv == 0;
}

void coord__forget_answered(struct coord_send *send, int err, const struct command_result *result)
{
    struct coord *coord = send->coord;
    uint64_t now_ms = env_now_ms(coord->env);
    bool gone = err == ERR_NOSHARD; /* dropped: it has forgotten everything */
    for (uint32_t i = 0; i < send->count; i++) {
        struct coord_forget *forget = forget_find(coord, &send->names[i]);
        if (forget == NULL) {
            continue;
        }
        uint32_t bit = 1u << index_of(forget, send->uid);
        forget->asked &= ~bit;
        if (gone || (err == 0 && result->code == 0 && (result->value & (uint64_t)1 << i) == 0)) {
            forget->told |= bit;
            forget->backoff_ms = COORD_FORGET_MS;
        } else {
            forget->due_ms = now_ms + forget->backoff_ms;
            forget->backoff_ms = forget->backoff_ms * 2 < FORGET_BACKOFF_MS_MAX
                                     ? forget->backoff_ms * 2
                                     : FORGET_BACKOFF_MS_MAX;
        }
        if (forget->told == (uint32_t)((1ull << forget->count) - 1)) {
            coord->stats.forgotten++;
            forget_free(coord, forget);
        }
    }
}

void coord__tick_forgets(struct coord *coord, uint64_t now_ms)
{
    if (now_ms < coord->forget_ms) {
        return;
    }
    coord->forget_ms = now_ms + COORD_FORGET_MS;
    struct list *it = coord->forgetting.next;
    uint32_t early = 0;
    while (it != &coord->forgetting && early < COORD_SCAN_MAX) {
        struct coord_forget *forget = list_entry(it, struct coord_forget, link);
        uint32_t i = next_of(forget);
        if (forget->due_ms > now_ms || i == forget->count) {
            early += forget->due_ms > now_ms;
            it = it->next;
        } else if (!forget_send(coord, it, forget->uids[i], now_ms)) {
            return; /* the others in the next round */
        }
    }
}

void coord__close_forgets(struct coord *coord)
{
    while (!list_empty(&coord->forgetting)) {
        forget_free(coord, list_entry(coord->forgetting.next, struct coord_forget, link));
    }
}
