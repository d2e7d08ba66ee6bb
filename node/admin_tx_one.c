/* What an operator asks about one transaction: what the shards led here know of it, whether this
 * node is at work on it, and what their logs still say. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/txn.h"
#include "base/hlc.h"
#include "node/internal.h"

struct question {
    struct node *node;
    struct txn_name name;
    const json_t *uids; /* shards that are to be listed also without a record; may be NULL */
    bool trace;
    json_t *records, *steps, *logs;
};

static json_t *text_u64(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return json_string(text);
}

static json_t *list_u64(const uint64_t *values, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; values != NULL && i < count; i++) {
        json_array_append_new(list, text_u64(values[i]));
    }
    return list;
}

static bool read_u64(const json_t *args, const char *key, uint64_t *out)
{
    const char *text = json_string_value(json_object_get(args, key));
    return text != NULL && sscanf(text, "%" SCNu64, out) == 1;
}

static bool is_asked_for(const struct question *q, uint64_t uid)
{
    char text[24];
    size_t i;
    const json_t *one;
    (void)snprintf(text, sizeof text, "%" PRIu64, uid);
    json_array_foreach(q->uids, i, one)
    {
        if (json_is_string(one) && strcmp(json_string_value(one), text) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- records ---- */

static void add_record(struct question *q, struct shard *shard, uint64_t uid)
{
    static const char *const states[] = {"no record", "in doubt", "committed", "refused"};
    struct txn_record r = {0};
    const uint64_t *uids = NULL;
    const uint64_t *times = NULL;
    bool found = txn_find(shard_heap(shard), &q->name, &r, &uids, &times);
    if (!found && !is_asked_for(q, uid)) {
        return;
    }
    uint64_t now = shard_now(shard);
    uint64_t age =
        r.prepared_at != 0 && now > r.prepared_at ? hlc_to_ms(now) - hlc_to_ms(r.prepared_at) : 0;
    /* The part stands behind the participants (alloc/txn.h). */
    bool has_part = found && r.state == TXN_PREPARED && r.part_bytes >= 16;
    uint32_t items = has_part ? load_u32((const uint8_t *)(uids + r.participants) + 8) : 0;
    json_t *row = json_pack(
        "{s:o,s:s,s:b,s:I,s:i,s:i,s:o,s:o,s:o,s:o,s:o,s:o}", "uid", text_u64(uid), "state",
        found && r.state < TXN_STATES ? states[r.state] : states[0], "home", q->name.home == uid,
        "age_ms", (json_int_t)age, "items", (int)items, "bytes", (int)r.part_bytes, "prepared_at",
        text_u64(r.prepared_at), "committed_at", text_u64(r.committed_at), "deadline",
        text_u64(r.deadline), "clock", text_u64(heap_clock(shard_heap(shard))), "participants",
        list_u64(uids, found ? r.participants : 0), "prepare_times",
        list_u64(times, found && r.state == TXN_COMMITTED ? r.participants : 0));
    if (row != NULL && found && r.state == TXN_REFUSED) {
        json_object_set_new(row, "reason", json_string(err_name(-(int)r.code)));
        json_object_set_new(row, "conflict", text_u64(r.conflict));
    }
    json_array_append_new(q->records, row);
}

/* ---- steps ---- */

struct shard_steps {
    struct question *q;
    uint64_t uid;
};

static void add_step(void *arg, const struct shard_tx_step *step)
{
    static const char *const names[] = {"prepare", "commit", "abort",     "refuse",
                                        "forget",  "settle", "commit one"};
    struct shard_steps *s = arg;
    json_t *row =
        json_pack("{s:o,s:s,s:o,s:o,s:o,s:i}", "uid", text_u64(s->uid), "step", names[step->what],
                  "index", text_u64(step->index), "term", text_u64(step->term), "stamp",
                  text_u64(step->stamp), "items", (int)step->items);
    if (row != NULL && step->what == SHARD_TX_COMMIT) {
        json_object_set_new(row, "committed_at", text_u64(step->committed_at));
    } else if (row != NULL && step->what == SHARD_TX_ABORT) {
        json_object_set_new(row, "reason", json_string(err_name(step->code)));
    }
    json_array_append_new(s->q->steps, row);
}

static void look_at(void *arg, struct shard *shard)
{
    struct question *q = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    if (!info.serving || info.failed || info.uid == SHARD_META) {
        return;
    }
    add_record(q, shard, info.uid);
    if (q->trace) {
        struct shard_steps s = {q, info.uid};
        uint64_t from = 0;
        size_t before = json_array_size(q->steps);
        int rv = shard_trace_tx(shard, &q->name, &from, add_step, &s);
        if (rv != 0 || json_array_size(q->steps) > before || is_asked_for(q, info.uid)) {
            json_array_append_new(q->logs,
                                  json_pack("{s:o,s:o,s:s}", "uid", text_u64(info.uid), "from",
                                            text_u64(from), "error", rv == 0 ? "" : err_name(rv)));
        }
    }
}

/* ---- who is at work on it ---- */

static json_t *work_json(struct node *node, const struct txn_name *name)
{
    static const char *const purposes[] = {"commit", "recover", "finish"};
    static const char *const states[] = {"gathering votes", "committing", "aborting", "done"};
    static const char *const parts[] = {"preparing", "asked to refuse", "yes", "no",
                                        "late",      "applied"};
    struct coord_view v;
    json_t *list = json_array();
    if (node->coord == NULL || !coord_look(node->coord, name, &v)) {
        return list;
    }
    json_t *shards = json_array();
    for (uint32_t i = 0; i < v.count; i++) {
        json_array_append_new(shards, json_pack("{s:o,s:s,s:i}", "uid", text_u64(v.uids[i]), "vote",
                                                parts[v.parts[i]], "tries", (int)v.tries[i]));
    }
    json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "purpose", purposes[v.purpose], "state",
                                          states[v.state], "shards", shards));
    return list;
}

json_t *admin__transaction(struct node *node, const json_t *args)
{
    struct question q = {.node = node,
                         .uids = json_object_get(args, "uids"),
                         .trace = json_is_true(json_object_get(args, "trace"))};
    if (!read_u64(args, "home", &q.name.home) || !read_u64(args, "session", &q.name.session) ||
        !read_u64(args, "seq", &q.name.seq)) {
        return NULL;
    }
    q.records = json_array();
    q.steps = json_array();
    q.logs = json_array();
    if (node->replica != NULL) {
        replica_each_shard(node->replica, look_at, &q);
    }
    return json_pack("{s:o,s:o,s:o,s:o}", "records", q.records, "work", work_json(node, &q.name),
                     "steps", q.steps, "logs", q.logs);
}
