/* From lists to a dependency graph, and what lists show by themselves. Appends get positions from
 * the longest list of their key; every other list should be a prefix of it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "history/internal.h"

/* What one list of a key, the longest, says about the key. */
struct key_order {
    const uint64_t *values;
    uint32_t count;
    uint32_t reader;
    uint32_t begin;         /* of its appends, in work.order */
    uint32_t updater;       /* read the whole order and made an append that no list shows */
    uint32_t fresh_reader;  /* the last to begin that read the key, at no older version */
    bool written_unguarded; /* by a read committed transaction: appends may be overwritten */
    bool has_tail;          /* committed appends that no list shows */
};

/* A mark of the transaction that is being walked, on a key. */
struct key_mark {
    uint32_t txn, op;
};

struct work {
    struct inference *in;
    const struct txn_history *h;
    uint32_t *table; /* open addressing; ops by {key, value} or by key */
    size_t table_size;
    uint32_t *op_key, *op_txn;
    uint32_t *own_before; /* the transaction's append of this key before this operation */
    uint32_t *shown;      /* reads: length without the own appends at its end; TXN_NONE: unusable */
    uint32_t *position;   /* appends: place in the key's order */
    bool *overtaken;      /* appends: the transaction appended to the key once more */
    struct key_order *keys;
    struct key_mark *mark;
    uint32_t *order; /* per key: append at each place, TXN_NONE: nobody's */
};

static void clear_marks(struct work *k)
{
    memset(k->mark, 0xff, k->in->keys * sizeof *k->mark);
}

/* ---- names ---- */

static bool same(const struct txn_op *a, const struct txn_op *b, bool by_value)
{
    return a->key == b->key && (!by_value || a->value == b->value);
}

/* The place of an operation like `op`, or the empty one where it belongs. */
static uint32_t *slot(struct work *k, const struct txn_op *op, bool by_value)
{
    uint64_t name[2] = {op->key, by_value ? op->value : 0};
    size_t at = hash64(0, name, sizeof name) & (k->table_size - 1);
    while (k->table[at] != TXN_NONE && !same(&k->h->ops[k->table[at]], op, by_value)) {
        at = (at + 1) & (k->table_size - 1);
    }
    return &k->table[at];
}

static void name_keys(struct work *k)
{
    const struct txn_history *h = k->h;
    for (uint32_t i = 0; i < h->op_count; i++) {
        uint32_t *first = slot(k, &h->ops[i], false);
        if (*first == TXN_NONE) {
            *first = i;
            k->op_key[i] = k->in->keys;
            k->in->key_name[k->in->keys++] = h->ops[i].key;
        } else {
            k->op_key[i] = k->op_key[*first];
        }
    }
}

static void name_appends(struct work *k)
{
    memset(k->table, 0xff, k->table_size * sizeof *k->table);
    for (uint32_t i = 0; i < k->h->op_count; i++) {
        if (!k->h->ops[i].is_read) {
            uint32_t *place = slot(k, &k->h->ops[i], true);
            assert(*place == TXN_NONE); /* history.h: a value is appended once per key */
            *place = i;
        }
    }
}

static uint32_t find_append(struct work *k, uint32_t key, uint64_t value)
{
    struct txn_op op = {.key = k->in->key_name[key], .value = value};
    return *slot(k, &op, true);
}

/* ---- a transaction and its own appends ---- */

/* How much of a list was there without the own appends, which must stand at its end. */
static uint32_t without_own(const struct work *k, uint32_t op)
{
    const uint64_t *list = k->h->values + k->h->ops[op].value;
    uint32_t count = k->h->ops[op].count;
    for (uint32_t a = k->own_before[op]; a != TXN_NONE; a = k->own_before[a]) {
        if (count == 0 || list[count - 1] != k->h->ops[a].value) {
            return TXN_NONE;
        }
        count--;
    }
    return count;
}

static void walk_own(struct work *k)
{
    clear_marks(k);
    for (uint32_t t = 0; t < k->h->txn_count; t++) {
        for (uint32_t i = k->h->txns[t].first_op; i != TXN_NONE; i = k->h->ops[i].next) {
            struct key_mark *mark = &k->mark[k->op_key[i]];
            k->op_txn[i] = t;
            k->own_before[i] = mark->txn == t ? mark->op : TXN_NONE;
            if (k->h->ops[i].is_read) {
                k->shown[i] = without_own(k, i);
                continue;
            }
            if (k->own_before[i] != TXN_NONE) {
                k->overtaken[k->own_before[i]] = true;
            }
            *mark = (struct key_mark){t, i};
        }
    }
}

/* ---- who counts, and the order of each key ---- */

static void count_in(struct work *k, uint32_t t)
{
    k->in->counts[t] = true;
    k->in->counted++;
    for (uint32_t i = k->h->txns[t].first_op; i != TXN_NONE; i = k->h->ops[i].next) {
        const struct txn_op *op = &k->h->ops[i];
        struct key_order *o = &k->keys[k->op_key[i]];
        if (!op->is_read) {
            o->written_unguarded |= k->in->level[t] == TXN_LEVEL_READ_COMMITTED;
            continue;
        }
        k->in->read_any = true;
        if (k->shown[i] == TXN_NONE) {
            continue;
        }
        if (o->reader == TXN_NONE || k->shown[i] > o->count) {
            o->values = k->h->values + op->value;
            o->count = k->shown[i];
            o->reader = t;
        }
        bool fresh = !k->h->txns[t].at_older_version;
        if (fresh && (o->fresh_reader == TXN_NONE ||
                      k->h->txns[t].start > k->h->txns[o->fresh_reader].start)) {
            o->fresh_reader = t;
        }
    }
}

/* Unknown ones that somebody saw join, until no list grows by it. */
static void count_seen(struct work *k)
{
    for (bool again = true; again;) {
        again = false;
        for (uint32_t key = 0; key < k->in->keys; key++) {
            for (uint32_t i = 0; i < k->keys[key].count; i++) {
                uint32_t a = find_append(k, key, k->keys[key].values[i]);
                uint32_t t = a == TXN_NONE ? TXN_NONE : k->op_txn[a];
                if (t != TXN_NONE && !k->in->counts[t] && k->h->txns[t].status == TXN_UNKNOWN) {
                    count_in(k, t);
                    again = true;
                }
            }
        }
    }
}

static void count_all(struct work *k)
{
    for (uint32_t key = 0; key < k->in->keys; key++) {
        k->keys[key].reader = k->keys[key].fresh_reader = k->keys[key].updater = TXN_NONE;
    }
    for (uint32_t t = 0; t < k->h->txn_count; t++) {
        if (k->h->txns[t].status == TXN_COMMITTED) {
            count_in(k, t);
        }
    }
    count_seen(k);
}

/* ---- findings ---- */

#define NAME     "T%" PRIu32 "(p%" PRIu32 ")"
#define NAMED(t) (t), k->h->txns[t].process
#define KEY      "k%" PRIu64

/* One value of a list that `reader` saw: somebody's who counts? */
static void judge_value(struct work *k, uint32_t key, uint64_t value, uint32_t a, uint32_t reader)
{
    if (a == TXN_NONE) {
        check__report(k->in->verdict, TXN_GARBAGE, false,
                      NAME " read %" PRIu64 " in " KEY ", which nobody appended", NAMED(reader),
                      value, k->in->key_name[key]);
    } else if (k->h->txns[k->op_txn[a]].status == TXN_ABORTED) {
        check__report(k->in->verdict, TXN_G1A, false,
                      NAME " read %" PRIu64 " in " KEY " of " NAME ", which was aborted",
                      NAMED(reader), value, k->in->key_name[key], NAMED(k->op_txn[a]));
    }
}

static void report_duplicate(struct work *k, uint32_t key, uint64_t value, uint32_t reader)
{
    check__report(k->in->verdict, TXN_DUPLICATE, false, NAME " read %" PRIu64 " twice in " KEY,
                  NAMED(reader), value, k->in->key_name[key]);
}

static void place_appends(struct work *k)
{
    size_t total = 0;
    for (uint32_t key = 0; key < k->in->keys; key++) {
        k->keys[key].begin = (uint32_t)total;
        total += k->keys[key].count;
    }
    assert(total < TXN_NONE);
    k->order = history__zalloc(total, sizeof *k->order);
    for (uint32_t key = 0; key < k->in->keys; key++) {
        const struct key_order *o = &k->keys[key];
        for (uint32_t i = 0; i < o->count; i++) {
            uint32_t a = find_append(k, key, o->values[i]);
            judge_value(k, key, o->values[i], a, o->reader);
            if (a != TXN_NONE && k->position[a] != TXN_NONE) {
                report_duplicate(k, key, o->values[i], o->reader);
            } else if (a != TXN_NONE) {
                k->position[a] = i;
            }
            k->order[o->begin + i] = a;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* A list that contradicts its key's order: nothing is known of its values yet. */
static void judge_incompatible(struct work *k, uint32_t op)
{
    uint32_t key = k->op_key[op], t = k->op_txn[op], count = k->shown[op];
    const uint64_t *list = k->h->values + k->h->ops[op].value;
    check__report(k->in->verdict, TXN_INCOMPATIBLE, false,
                  NAME " and " NAME " read " KEY " in orders that exclude each other", NAMED(t),
                  NAMED(k->keys[key].reader), k->in->key_name[key]);
    uint64_t *sorted = history__zalloc(count, sizeof *sorted);
    memcpy(sorted, list, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_value);
    for (uint32_t i = 0; i < count; i++) {
        judge_value(k, key, sorted[i], find_append(k, key, sorted[i]), t);
        if (i > 0 && sorted[i] == sorted[i - 1]) {
            report_duplicate(k, key, sorted[i], t);
        }
    }
    mem_free(sorted);
}

static void report_internal(struct work *k, uint32_t op)
{
    check__report(k->in->verdict, TXN_INTERNAL, false,
                  NAME " read " KEY " and it didn't end with exactly its own appends so far",
                  NAMED(k->op_txn[op]), k->in->key_name[k->op_key[op]]);
}

static void judge_unseen(struct work *k, uint32_t op)
{
    const struct key_order *o = &k->keys[k->op_key[op]];
    const struct txn *t = &k->h->txns[k->op_txn[op]];
    if (o->fresh_reader == TXN_NONE || k->h->txns[o->fresh_reader].start <= t->end) {
        return; /* so too if its outcome is unknown: that never ended */
    }
    check__report(k->in->verdict, TXN_LOST, o->written_unguarded,
                  NAME " appended %" PRIu64 " to " KEY ", in no list though " NAME " read it later",
                  NAMED(k->op_txn[op]), k->h->ops[op].value, k->in->key_name[k->op_key[op]],
                  NAMED(o->fresh_reader));
}

/* A list that shows an append but not the one that the same transaction made before it. */
static void judge_torn(struct work *k, uint32_t op)
{
    uint32_t before = k->own_before[op];
    if (before != TXN_NONE && k->position[before] == TXN_NONE) {
        check__report(k->in->verdict, TXN_LOST, false,
                      NAME " appended %" PRIu64 " to " KEY ", in no list though its next is",
                      NAMED(k->op_txn[op]), k->h->ops[before].value,
                      k->in->key_name[k->op_key[op]]);
    }
}

/* ---- edges ---- */

static uint32_t tail_of(const struct work *k, uint32_t key, enum edge_kind kind)
{
    return k->h->txn_count + 2 * key + (kind == EDGE_RW);
}

/* The transaction at a place of a key's order, if it counts. */
static uint32_t writer_at(const struct work *k, uint32_t key, uint32_t place)
{
    uint32_t a = k->order[k->keys[key].begin + place];
    return a == TXN_NONE || !k->in->counts[k->op_txn[a]] ? TXN_NONE : k->op_txn[a];
}

static bool has_unseen(const struct work *k, uint32_t t, uint32_t key)
{
    for (uint32_t i = k->h->txns[t].first_op; i != TXN_NONE; i = k->h->ops[i].next) {
        if (!k->h->ops[i].is_read && k->op_key[i] == key && k->position[i] == TXN_NONE) {
            return true;
        }
    }
    return false;
}

static void link_order(struct work *k, uint32_t key)
{
    const struct key_order *o = &k->keys[key];
    uint32_t before = TXN_NONE;
    for (uint32_t i = 0; i < o->count; i++) {
        uint32_t writer = writer_at(k, key, i);
        if (before != TXN_NONE && writer != TXN_NONE) {
            graph__add(&k->in->graph, before, writer, key, EDGE_WW);
        }
        before = writer;
    }
    /* One that is in the tail itself has no known place among the others there. */
    if (o->has_tail && before != TXN_NONE && !has_unseen(k, before, key)) {
        graph__add(&k->in->graph, before, tail_of(k, key, EDGE_WW), key, EDGE_WW);
    }
}

static void link_seen(struct work *k, uint32_t op, uint32_t a)
{
    uint32_t t = k->op_txn[op], writer = k->op_txn[a], key = k->op_key[op];
    if (!k->in->counts[writer] || writer == t) {
        return;
    }
    graph__add(&k->in->graph, writer, t, key, EDGE_WR);
    if (k->overtaken[a]) {
        check__report(k->in->verdict, TXN_G1B, false,
                      NAME " read " KEY " up to %" PRIu64 ", in the middle of " NAME, NAMED(t),
                      k->in->key_name[key], k->h->ops[a].value, NAMED(writer));
    }
}

/* Two transactions read the same version and appended to it: whichever came second missed the
 * first. No list shows which one it was, so there is no edge to add; but it is a lost update. */
static void judge_update(struct work *k, uint32_t op)
{
    uint32_t t = k->op_txn[op], *updater = &k->keys[k->op_key[op]].updater;
    if (k->in->level[t] == TXN_LEVEL_READ_COMMITTED) {
        return;
    }
    if (*updater != TXN_NONE && *updater != t) {
        check__report(k->in->verdict, TXN_G_SINGLE, false,
                      NAME " and " NAME " both appended to one version of " KEY, NAMED(*updater),
                      NAMED(t), k->in->key_name[k->op_key[op]]);
    }
    *updater = t;
}

static void link_read(struct work *k, uint32_t op)
{
    uint32_t t = k->op_txn[op], key = k->op_key[op], count = k->shown[op];
    const struct key_order *o = &k->keys[key];
    const uint64_t *list = k->h->values + k->h->ops[op].value;
    if (count == TXN_NONE) {
        report_internal(k, op);
        return;
    }
    assert(count <= o->count);
    uint32_t last = count == 0 ? TXN_NONE : find_append(k, key, list[count - 1]);
    if (last != TXN_NONE) {
        link_seen(k, op, last);
    }
    if (count > 0 && memcmp(list, o->values, count * sizeof *list) != 0) {
        judge_incompatible(k, op);
        return;
    }
    if (count < o->count) {
        uint32_t next = writer_at(k, key, count);
        if (next != TXN_NONE) {
            graph__add(&k->in->graph, t, next, key, EDGE_RW);
        }
    } else if (o->has_tail && has_unseen(k, t, key)) {
        judge_update(k, op);
    } else if (o->has_tail) {
        graph__add(&k->in->graph, t, tail_of(k, key, EDGE_RW), key, EDGE_RW);
    }
}

/* A transaction that saw its own appends before it made them. */
static void judge_future(struct work *k, uint32_t t)
{
    for (uint32_t i = k->h->txns[t].first_op; i != TXN_NONE; i = k->h->ops[i].next) {
        struct key_mark *mark = &k->mark[k->op_key[i]];
        if (!k->h->ops[i].is_read || k->shown[i] == TXN_NONE) {
            continue;
        }
        if (mark->txn != t || k->shown[i] > k->shown[mark->op]) {
            *mark = (struct key_mark){t, i};
        }
    }
    for (uint32_t i = k->h->txns[t].first_op; i != TXN_NONE; i = k->h->ops[i].next) {
        const struct key_mark *mark = &k->mark[k->op_key[i]];
        if (!k->h->ops[i].is_read && mark->txn == t && k->position[i] != TXN_NONE &&
            k->position[i] < k->shown[mark->op]) {
            report_internal(k, mark->op);
        }
    }
}

static void link_all(struct work *k)
{
    struct graph *g = &k->in->graph;
    for (uint32_t i = 0; i < k->h->op_count; i++) {
        if (k->h->ops[i].is_read || !k->in->counts[k->op_txn[i]]) {
            continue;
        }
        if (k->position[i] != TXN_NONE) {
            judge_torn(k, i);
        } else {
            uint32_t key = k->op_key[i];
            k->keys[key].has_tail = true;
            graph__add(g, tail_of(k, key, EDGE_WW), k->op_txn[i], key, EDGE_WW);
            graph__add(g, tail_of(k, key, EDGE_RW), k->op_txn[i], key, EDGE_RW);
            judge_unseen(k, i);
        }
    }
    for (uint32_t key = 0; key < k->in->keys; key++) {
        link_order(k, key);
    }
    clear_marks(k);
    for (uint32_t t = 0; t < k->h->txn_count; t++) {
        if (!k->in->counts[t]) {
            continue;
        }
        judge_future(k, t);
        for (uint32_t i = k->h->txns[t].first_op; i != TXN_NONE; i = k->h->ops[i].next) {
            if (k->h->ops[i].is_read) {
                link_read(k, i);
            }
        }
    }
}

/* ---- real time ---- */

struct start {
    uint64_t time;
    uint32_t txn;
};

static int by_time(const void *a, const void *b)
{
    const struct start *x = a, *y = b;
    if (x->time != y->time) {
        return x->time < y->time ? -1 : 1;
    }
    return x->txn < y->txn ? -1 : x->txn > y->txn;
}

/* The first that starts after `end`. */
static uint32_t first_after(const struct start *starts, uint32_t count, uint64_t end)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (starts[middle].time > end) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* A chain of instants, one per start: whoever ended leads to the next instant, each instant to its
 * transaction and to the next one. Three edges per transaction say all pairs. */
static void link_time(struct work *k)
{
    struct inference *in = k->in;
    uint32_t count = 0, chain = k->h->txn_count + 2 * in->keys;
    struct start *starts = history__zalloc(k->h->txn_count, sizeof *starts);
    for (uint32_t t = 0; t < k->h->txn_count; t++) {
        if (in->counts[t] && in->level[t] == TXN_LEVEL_STRICT) {
            starts[count++] = (struct start){k->h->txns[t].start, t};
        }
    }
    qsort(starts, count, sizeof *starts, by_time);
    for (uint32_t i = 0; i < count; i++) {
        graph__add(&in->graph, chain + i, starts[i].txn, 0, EDGE_RT);
        if (i + 1 < count) {
            graph__add(&in->graph, chain + i, chain + i + 1, 0, EDGE_RT);
        }
    }
    for (uint32_t t = 0; t < k->h->txn_count; t++) {
        uint32_t i = in->counts[t] ? first_after(starts, count, k->h->txns[t].end) : count;
        if (i < count) {
            graph__add(&in->graph, t, chain + i, 0, EDGE_RT);
        }
    }
    mem_free(starts);
}

/* ---- the whole ---- */

static uint8_t level_asked(const struct txn *t, enum txn_level level)
{
    static const enum txn_level promised[] = {[TXN_READ_COMMITTED] = TXN_LEVEL_READ_COMMITTED,
                                              [TXN_SNAPSHOT] = TXN_LEVEL_SNAPSHOT,
                                              [TXN_SERIALIZABLE] = TXN_LEVEL_STRICT};
    enum txn_level asked = promised[t->isolation];
    if (asked == TXN_LEVEL_STRICT && t->at_older_version) {
        asked = TXN_LEVEL_SERIALIZABLE;
    }
    return (uint8_t)(asked < level ? asked : level);
}

static void work_init(struct work *k, struct inference *in, const struct txn_history *h)
{
    size_t n = h->op_count;
    *k = (struct work){.in = in, .h = h, .table_size = 64};
    while (k->table_size < 2 * n) {
        k->table_size *= 2;
    }
    k->table = history__zalloc(k->table_size, sizeof *k->table);
    memset(k->table, 0xff, k->table_size * sizeof *k->table);
    k->op_key = history__zalloc(n, sizeof *k->op_key);
    k->op_txn = history__zalloc(n, sizeof *k->op_txn);
    k->own_before = history__zalloc(n, sizeof *k->own_before);
    k->shown = history__zalloc(n, sizeof *k->shown);
    k->overtaken = history__zalloc(n, sizeof *k->overtaken);
    k->position = history__zalloc(n, sizeof *k->position);
    memset(k->position, 0xff, n * sizeof *k->position);
    name_keys(k);
    name_appends(k);
    k->keys = history__zalloc(in->keys, sizeof *k->keys);
    k->mark = history__zalloc(in->keys, sizeof *k->mark);
}

static void work_close(struct work *k)
{
    mem_free(k->table);
    mem_free(k->op_key);
    mem_free(k->op_txn);
    mem_free(k->own_before);
    mem_free(k->shown);
    mem_free(k->overtaken);
    mem_free(k->position);
    mem_free(k->keys);
    mem_free(k->mark);
    mem_free(k->order);
}

void infer__run(struct inference *in, const struct txn_history *h, enum txn_level level,
                struct txn_verdict *verdict)
{
    struct work k;
    *in = (struct inference){.h = h, .verdict = verdict};
    in->level = history__zalloc(h->txn_count, sizeof *in->level);
    in->counts = history__zalloc(h->txn_count, sizeof *in->counts);
    in->key_name = history__zalloc(h->op_count, sizeof *in->key_name);
    for (uint32_t t = 0; t < h->txn_count; t++) {
        in->level[t] = level_asked(&h->txns[t], level);
    }
    work_init(&k, in, h);
    walk_own(&k);
    count_all(&k);
    uint64_t nodes = 2 * ((uint64_t)h->txn_count + in->keys);
    assert(nodes < TXN_NONE / 2);
    in->graph = (struct graph){.nodes = (uint32_t)nodes, .txns = h->txn_count, .level = in->level};
    place_appends(&k);
    link_all(&k);
    if (level == TXN_LEVEL_STRICT) {
        link_time(&k);
    }
    graph__seal(&in->graph);
    work_close(&k);
}

void infer__close(struct inference *in)
{
    graph__close(&in->graph);
    mem_free(in->level);
    mem_free(in->counts);
    mem_free(in->key_name);
    memset(in, 0, sizeof *in);
}
