/* What an operator asks about transactions: those that the shards led here remember, and what this
 * node has done as a coordinator. */
#include <inttypes.h>
#include <stdio.h>

#include "base/hlc.h"
#include "node/internal.h"

#define LISTED_MAX 1000u /* of all shards together; the answer says if there were more */

struct listing {
    json_t *rows;
    bool in_doubt, more;
};

static json_t *text_u64(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return json_string(text);
}

static json_t *row_of(struct shard *shard, const struct shard_info *info,
                      const struct txn_name *name, const struct txn_record *record)
{
    static const char *const states[] = {"none", "in doubt", "committed", "refused"};
    char id[72];
    uint64_t now = shard_now(shard);
    uint64_t since = record->prepared_at;
    uint64_t age = since != 0 && now > since ? hlc_to_ms(now) - hlc_to_ms(since) : 0;
    (void)snprintf(id, sizeof id, "%" PRIu64 ".%" PRIu64 ".%" PRIu64, name->home, name->session,
                   name->seq);
    return json_pack("{s:s,s:o,s:s,s:I,s:i,s:o,s:b}", "transaction", id, "uid", text_u64(info->uid),
                     "state", record->state < TXN_STATES ? states[record->state] : "?", "age_ms",
                     (json_int_t)age, "participants", (int)record->participants, "version",
                     text_u64(record->committed_at), "home", name->home == info->uid);
}

static void list_shard(void *arg, struct shard *shard)
{
    struct listing *l = arg;
    struct shard_info info;
    struct txn_name name = {0, 0, 0};
    struct txn_record record;
    shard_get_info(shard, &info);
    if (!info.serving || info.failed) {
        return;
    }
    while (txn_next(shard_heap(shard), &name, &record)) {
        if (l->in_doubt && record.state != TXN_PREPARED) {
            continue;
        }
        if (json_array_size(l->rows) == LISTED_MAX) {
            l->more = true;
            return;
        }
        json_array_append_new(l->rows, row_of(shard, &info, &name, &record));
    }
}

json_t *admin__transactions(struct node *node, const json_t *args)
{
    struct listing l = {.rows = json_array(),
                        .in_doubt = json_is_true(json_object_get(args, "in_doubt"))};
    struct coord_stats s = {0};
    struct turns_stats t = {0};
    if (node->turns != NULL) {
        turns_get_stats(node->turns, &t);
    }
    if (node->replica != NULL && node->coord != NULL) {
        replica_each_shard(node->replica, list_shard, &l);
        coord_get_stats(node->coord, &s);
    }
    return json_pack(
        "{s:o,s:b,s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:i,s:I,s:I,s:I,s:I}}",
        "transactions", l.rows, "more", l.more, "stats", "commits", (json_int_t)s.commits,
        "committed", (json_int_t)s.committed, "aborted", (json_int_t)s.aborted, "conflicts",
        (json_int_t)s.conflicts, "too_late", (json_int_t)s.too_late, "recoveries",
        (json_int_t)s.recoveries, "asks", (json_int_t)s.asks, "resends", (json_int_t)s.resends,
        "reads_waited", (json_int_t)s.reads_waited, "forgotten", (json_int_t)s.forgotten, "wrong",
        (json_int_t)s.wrong, "running", (int)s.running, "waiting", (int)s.waiting, "turns_taken",
        (json_int_t)t.taken, "turns_waited", (json_int_t)t.waited, "turns_expired",
        (json_int_t)t.expired, "turns_overdue", (json_int_t)t.overdue);
}
