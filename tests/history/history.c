#include "history/history.h"

#include <string.h>

#include "history/internal.h"

void txn_history_init(struct txn_history *h, struct txn_limits limits)
{
    assert(limits.txns_max > 0 && limits.txns_max < TXN_NONE);
    assert(limits.ops_max > 0 && limits.ops_max < TXN_NONE);
    *h = (struct txn_history){.limits = limits};
}

void txn_history_close(struct txn_history *h)
{
    mem_free(h->txns);
    mem_free(h->ops);
    mem_free(h->values);
    memset(h, 0, sizeof *h);
}

/* The capacity that holds `want`: doubled, at most `max`. */
static size_t grown(size_t capacity, size_t want, size_t max)
{
    assert(want <= max);
    size_t bigger = capacity == 0 ? 64 : capacity;
    while (bigger < want) {
        bigger *= 2;
    }
    return bigger < max ? bigger : max;
}

uint32_t txn_history_begin(struct txn_history *h, uint32_t process, enum txn_isolation isolation,
                           uint64_t now)
{
    if (h->txn_count == h->limits.txns_max) {
        h->full = true;
        return TXN_NONE;
    }
    if (h->txn_count == h->txn_capacity) {
        h->txn_capacity =
            (uint32_t)grown(h->txn_capacity, (size_t)h->txn_count + 1, h->limits.txns_max);
        h->txns = history__grow(h->txns, h->txn_capacity * sizeof *h->txns);
    }
    h->txns[h->txn_count] = (struct txn){.process = process,
                                         .isolation = isolation,
                                         .status = TXN_UNKNOWN,
                                         .start = now,
                                         .end = TXN_NEVER,
                                         .first_op = TXN_NONE,
                                         .last_op = TXN_NONE};
    return h->txn_count++;
}

static struct txn *running(struct txn_history *h, uint32_t id)
{
    assert(id < h->txn_count);
    struct txn *t = &h->txns[id];
    assert(t->status == TXN_UNKNOWN);
    assert(t->end == TXN_NEVER);
    return t;
}

void txn_history_at_older_version(struct txn_history *h, uint32_t id)
{
    if (id != TXN_NONE) {
        running(h, id)->at_older_version = true;
    }
}

static bool add_op(struct txn_history *h, uint32_t id, struct txn_op op)
{
    struct txn *t = running(h, id);
    if (h->op_count == h->limits.ops_max) {
        h->full = true;
        return false;
    }
    if (h->op_count == h->op_capacity) {
        h->op_capacity =
            (uint32_t)grown(h->op_capacity, (size_t)h->op_count + 1, h->limits.ops_max);
        h->ops = history__grow(h->ops, h->op_capacity * sizeof *h->ops);
    }
    op.next = TXN_NONE;
    h->ops[h->op_count] = op;
    if (t->last_op == TXN_NONE) {
        t->first_op = h->op_count;
    } else {
        h->ops[t->last_op].next = h->op_count;
    }
    t->last_op = h->op_count++;
    return true;
}

bool txn_history_append(struct txn_history *h, uint32_t id, uint64_t key, uint64_t value)
{
    return id != TXN_NONE && add_op(h, id, (struct txn_op){.key = key, .value = value});
}

bool txn_history_read(struct txn_history *h, uint32_t id, uint64_t key, const uint64_t *values,
                      uint32_t count)
{
    if (id == TXN_NONE) {
        return false;
    }
    if (count > h->limits.values_max - h->value_count) {
        h->full = true;
        return false;
    }
    if (h->value_count + count > h->value_capacity) {
        h->value_capacity = grown(h->value_capacity, h->value_count + count, h->limits.values_max);
        h->values = history__grow(h->values, h->value_capacity * sizeof *h->values);
    }
    struct txn_op op = {.is_read = true, .key = key, .value = h->value_count, .count = count};
    if (!add_op(h, id, op)) {
        return false;
    }
    if (count > 0) {
        memcpy(h->values + h->value_count, values, count * sizeof *values);
    }
    h->value_count += count;
    return true;
}

void txn_history_end(struct txn_history *h, uint32_t id, enum txn_status status, uint64_t now)
{
    if (id == TXN_NONE) {
        return;
    }
    struct txn *t = running(h, id);
    assert(now >= t->start);
    assert(now != TXN_NEVER);
    t->status = status;
    t->end = status == TXN_UNKNOWN ? TXN_NEVER : now;
}
