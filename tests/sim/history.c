#include "sim/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/internal.h"

#define STEPS_MAX 20000000u

void history_close(struct history *h)
{
    mem_free(h->ops);
    memset(h, 0, sizeof *h);
}

size_t history_call(struct history *h, uint32_t client, uint32_t object, enum history_kind kind,
                    uint64_t a, uint64_t b, uint64_t now_ns)
{
    if (h->count == h->capacity) {
        h->capacity = h->capacity == 0 ? 1024 : h->capacity * 2;
        h->ops = sim__grow(h->ops, h->capacity * sizeof *h->ops);
    }
    h->ops[h->count] = (struct history_op){.kind = kind,
                                           .object = object,
                                           .client = client,
                                           .a = a,
                                           .b = b,
                                           .call_ns = now_ns,
                                           .return_ns = HISTORY_NEVER};
    return h->count++;
}

void history_return(struct history *h, size_t op, uint64_t out, uint64_t now_ns)
{
    assert(op < h->count && h->ops[op].return_ns == HISTORY_NEVER && !h->ops[op].dropped);
    h->ops[op].out = out;
    h->ops[op].return_ns = now_ns;
}

void history_fail(struct history *h, size_t op)
{
    assert(op < h->count && h->ops[op].return_ns == HISTORY_NEVER);
    h->ops[op].dropped = true;
}

static int by_call(const void *a, const void *b)
{
    const struct history_op *x = *(const struct history_op *const *)a;
    const struct history_op *y = *(const struct history_op *const *)b;
    if (x->call_ns != y->call_ns) {
        return x->call_ns < y->call_ns ? -1 : 1;
    }
    return x < y ? -1 : x > y;
}

static int by_return(const void *a, const void *b)
{
    const struct history_op *x = *(const struct history_op *const *)a;
    const struct history_op *y = *(const struct history_op *const *)b;
    if (x->return_ns != y->return_ns) {
        return x->return_ns < y->return_ns ? -1 : 1;
    }
    return x < y ? -1 : x > y;
}

/* The object's operations that count, by call. */
static const struct history_op **pick(const struct history *h, uint32_t object, size_t *count)
{
    const struct history_op **ops = sim__alloc((h->count + 1) * sizeof *ops);
    size_t n = 0;
    for (size_t i = 0; i < h->count; i++) {
        const struct history_op *op = &h->ops[i];
        bool unknown_read = op->kind == HISTORY_READ && op->return_ns == HISTORY_NEVER;
        if (op->object == object && !op->dropped && !unknown_read) {
            ops[n++] = op;
        }
    }
    qsort(ops, n, sizeof *ops, by_call);
    *count = n;
    return ops;
}

/* ---- registers ---- */

struct seen {
    uint64_t *keys;
    size_t count, capacity; /* a power of two */
};

static bool seen_add(struct seen *seen, uint64_t key)
{
    key = key == 0 ? 1 : key;
    if (seen->count * 2 >= seen->capacity) {
        struct seen bigger = {.capacity = seen->capacity == 0 ? 4096 : seen->capacity * 2};
        bigger.keys = sim__alloc(bigger.capacity * sizeof *bigger.keys);
        for (size_t i = 0; i < seen->capacity; i++) {
            if (seen->keys[i] != 0) {
                (void)seen_add(&bigger, seen->keys[i]);
            }
        }
        mem_free(seen->keys);
        *seen = bigger;
    }
    for (size_t at = key & (seen->capacity - 1);; at = (at + 1) & (seen->capacity - 1)) {
        if (seen->keys[at] == key) {
            return false;
        }
        if (seen->keys[at] == 0) {
            seen->keys[at] = key;
            seen->count++;
            return true;
        }
    }
}

/* The value after op at `value`; false: its outcome contradicts that. */
static bool step(const struct history_op *op, uint64_t value, uint64_t *after)
{
    bool known = op->return_ns != HISTORY_NEVER;
    *after = value;
    switch (op->kind) {
    case HISTORY_READ:
        return op->out == value;
    case HISTORY_WRITE:
        *after = op->a;
        return true;
    case HISTORY_CAS:
        if (!known || op->out == 1) {
            *after = op->b;
            return op->a == value;
        }
        return op->a != value;
    default:
        return false;
    }
}

struct frame {
    size_t op;      /* taken */
    size_t next;    /* candidate to try next */
    uint64_t value; /* before */
};

enum history_verdict history_check_register(const struct history *h, uint32_t object,
                                            uint64_t first, char *why, size_t why_bytes)
{
    size_t n;
    const struct history_op **ops = pick(h, object, &n);
    size_t known = 0;
    uint64_t salt = 1;
    uint64_t *zobrist = sim__alloc((n + 1) * sizeof *zobrist);
    bool *taken = sim__alloc(n + 1);
    struct frame *stack = sim__alloc((n + 1) * sizeof *stack);
    struct seen seen = {0};
    /* Tried in the order of return, unknown ones last: a good history hardly ever goes back. */
    qsort(ops, n, sizeof *ops, by_return);
    for (size_t i = 0; i < n; i++) {
        zobrist[i] = sim__next(&salt);
        known += ops[i]->return_ns != HISTORY_NEVER;
    }
    enum history_verdict verdict = HISTORY_OK;
    size_t depth = 0, done = 0, best = 0, candidate = 0, low = 0, stuck = 0;
    uint64_t value = first, set = 0, steps = 0, stuck_value = first;
    while (done < known) {
        /* What may come next was called before the first of the rest returned. */
        while (low < n && taken[low]) {
            low++;
        }
        uint64_t limit = ops[low]->return_ns;
        bool moved = false;
        for (size_t i = candidate > low ? candidate : low; i < n; i++) {
            uint64_t after;
            if (taken[i] || ops[i]->call_ns > limit || !step(ops[i], value, &after)) {
                continue;
            }
            if (++steps > STEPS_MAX) {
                break;
            }
            if (!seen_add(&seen, (set ^ zobrist[i]) + after * 0x9e3779b97f4a7c15u)) {
                continue;
            }
            stack[depth++] = (struct frame){.op = i, .next = i + 1, .value = value};
            taken[i] = true;
            set ^= zobrist[i];
            value = after;
            done += ops[i]->return_ns != HISTORY_NEVER;
            moved = true;
            break;
        }
        candidate = 0;
        if (done > best) {
            best = done;
            for (stuck = 0; stuck < n && taken[stuck]; stuck++) {
            }
            stuck_value = value;
        }
        if (moved) {
            continue;
        }
        if (steps > STEPS_MAX || depth == 0) {
            verdict = steps > STEPS_MAX ? HISTORY_GAVE_UP : HISTORY_VIOLATION;
            break;
        }
        struct frame *top = &stack[--depth];
        taken[top->op] = false;
        low = top->op < low ? top->op : low;
        set ^= zobrist[top->op];
        value = top->value;
        done -= ops[top->op]->return_ns != HISTORY_NEVER;
        candidate = top->next;
    }
    if (verdict != HISTORY_OK) {
        const struct history_op *op = ops[stuck < n ? stuck : n - 1];
        static const char *const names[] = {"read", "write", "cas", "add"};
        (void)snprintf(why, why_bytes,
                       "object %" PRIu32 ": %zu of %zu operations explained, then value %" PRIx64
                       " but client %" PRIu32 " %s a=%" PRIx64 " b=%" PRIx64 " out=%" PRIx64
                       " called %" PRIu64 " us returned %" PRIu64 " us",
                       object, best, known, stuck_value, op->client, names[op->kind], op->a, op->b,
                       op->out, op->call_ns / 1000, op->return_ns / 1000);
    }
    mem_free(seen.keys);
    mem_free(stack);
    mem_free(taken);
    mem_free(zobrist);
    mem_free(ops);
    return verdict;
}

/* ---- counters ----
 *
 * Every operation has a place in the one order: an add that saw `before` stands at 2 * before + 1,
 * a read of v at 2 * v. Known adds have places of their own; the places that no known add holds
 * below the highest seen belong to unknown adds, one each, called early enough. */

static uint64_t place(const struct history_op *op)
{
    return op->out * 2 + (op->kind == HISTORY_ADD ? 1 : 0);
}

static int by_place(const void *a, const void *b)
{
    const struct history_op *x = *(const struct history_op *const *)a;
    const struct history_op *y = *(const struct history_op *const *)b;
    if (place(x) != place(y)) {
        return place(x) < place(y) ? -1 : 1;
    }
    return by_return(a, b);
}

static int counter_bad(char *why, size_t why_bytes, uint32_t object, const char *what,
                       const struct history_op *op)
{
    (void)snprintf(why, why_bytes,
                   "counter %" PRIu32 ": %s: client %" PRIu32 " %s %" PRIu64 ", called %" PRIu64
                   " us returned %" PRIu64 " us",
                   object, what, op->client, op->kind == HISTORY_ADD ? "added at" : "read", op->out,
                   op->call_ns / 1000, op->return_ns / 1000);
    return HISTORY_VIOLATION;
}

enum history_verdict history_check_counter(const struct history *h, uint32_t object, char *why,
                                           size_t why_bytes)
{
    size_t n, known = 0, unknown = 0;
    const struct history_op **ops = pick(h, object, &n);
    const struct history_op **sorted = sim__alloc((n + 1) * sizeof *sorted);
    const struct history_op **maybe = sim__alloc((n + 1) * sizeof *maybe);
    int verdict = HISTORY_OK;
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->return_ns == HISTORY_NEVER) {
            maybe[unknown++] = ops[i]; /* by call */
        } else {
            sorted[known++] = ops[i];
        }
    }
    /* Nothing that ended before another began stands behind it. */
    qsort(sorted, known, sizeof *sorted, by_return);
    size_t ended = 0;
    uint64_t highest = 0;
    bool any = false;
    const struct history_op **called = sim__alloc((known + 1) * sizeof *called);
    memcpy(called, sorted, known * sizeof *called);
    qsort(called, known, sizeof *called, by_call);
    for (size_t i = 0; i < known && verdict == HISTORY_OK; i++) {
        while (ended < known && sorted[ended]->return_ns < called[i]->call_ns) {
            uint64_t p = place(sorted[ended++]);
            highest = !any || p > highest ? p : highest;
            any = true;
        }
        if (any && place(called[i]) < highest) {
            verdict =
                counter_bad(why, why_bytes, object, "an acknowledged add is missing", called[i]);
        }
    }
    /* Each place once; holes filled by unknown adds, in the order of their calls: if that can be
     * done at all, it can be done so. */
    qsort(sorted, known, sizeof *sorted, by_place);
    uint64_t next = 0; /* the next add's `before` */
    size_t used = 0;
    for (size_t i = 0; i < known && verdict == HISTORY_OK; i++) {
        uint64_t upto = sorted[i]->out;
        if (sorted[i]->kind == HISTORY_ADD && upto < next) {
            verdict = counter_bad(why, why_bytes, object, "two adds at one value", sorted[i]);
            break;
        }
        while (next < upto) {
            if (used == unknown || maybe[used]->call_ns > sorted[i]->return_ns) {
                verdict = counter_bad(why, why_bytes, object, "more effects than calls", sorted[i]);
                break;
            }
            used++;
            next++;
        }
        next += verdict == HISTORY_OK && sorted[i]->kind == HISTORY_ADD ? 1 : 0;
    }
    mem_free(called);
    mem_free(maybe);
    mem_free(sorted);
    mem_free(ops);
    return (enum history_verdict)verdict;
}
