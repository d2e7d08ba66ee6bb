/* The dependency graph, how levels restrict walks in it, and Tarjan's components of such walks. */
#include <string.h>

#include "history/internal.h"

void graph__add(struct graph *g, uint32_t from, uint32_t to, uint32_t key, enum edge_kind kind)
{
    assert(from < g->nodes);
    assert(to < g->nodes);
    assert(g->first == NULL);
    if (from == to) {
        return; /* a transaction doesn't depend on itself */
    }
    if (g->edge_count == g->edge_capacity) {
        assert(g->edge_capacity < UINT32_MAX / 2);
        g->edge_capacity = g->edge_capacity == 0 ? 1024 : 2 * g->edge_capacity;
        g->edges = history__grow(g->edges, g->edge_capacity * sizeof *g->edges);
    }
    g->edges[g->edge_count++] = (struct edge){from, to, key, kind};
}

void graph__seal(struct graph *g)
{
    g->first = history__zalloc((size_t)g->nodes + 2, sizeof *g->first);
    struct edge *sorted = history__zalloc(g->edge_count, sizeof *sorted);
    uint32_t *at = g->first + 1; /* counted one place further on, so that filling shifts it back */
    for (uint32_t i = 0; i < g->edge_count; i++) {
        at[g->edges[i].from + 1]++;
    }
    for (uint32_t n = 1; n <= g->nodes; n++) {
        at[n] += at[n - 1];
    }
    for (uint32_t i = 0; i < g->edge_count; i++) {
        sorted[at[g->edges[i].from]++] = g->edges[i];
    }
    assert(g->first[g->nodes] == g->edge_count);
    mem_free(g->edges);
    g->edges = sorted;
}

void graph__close(struct graph *g)
{
    mem_free(g->edges);
    mem_free(g->first);
    memset(g, 0, sizeof *g);
}

static enum txn_level level_of(const struct walk *w, uint32_t node)
{
    if (w->by_level && w->g->level[node] < w->cap) {
        return w->g->level[node];
    }
    return w->cap;
}

uint32_t graph__step(const struct walk *w, uint32_t state, const struct edge *e)
{
    bool from_txn = e->from < w->g->txns, may_rw = state & 1;
    if ((e->kind & w->kinds) == 0) {
        return TXN_NONE;
    }
    if (from_txn && e->kind == EDGE_RW) {
        if (!may_rw || level_of(w, e->from) == TXN_LEVEL_READ_COMMITTED ||
            (w->untimed && w->g->level[e->from] == TXN_LEVEL_SNAPSHOT)) {
            return TXN_NONE;
        }
    }
    if (w->one_rw) {
        return STATE(e->to, may_rw && e->kind != EDGE_RW);
    }
    if (e->to >= w->g->txns) {
        return STATE(e->to, 1);
    }
    switch (level_of(w, e->to)) {
    case TXN_LEVEL_READ_COMMITTED:
        return STATE(e->to, 0);
    case TXN_LEVEL_SNAPSHOT:
        return STATE(e->to, e->kind != EDGE_RW);
    default:
        return STATE(e->to, 1);
    }
}

/* ---- Tarjan, without recursion: histories are longer than stacks ---- */

struct tarjan {
    const struct walk *w;
    uint32_t *number, *low; /* number 0: not visited */
    uint32_t *cursor;       /* next edge of a state that is being visited */
    uint32_t *path, *stack;
    uint32_t visited, path_count, stack_count;
};

static void enter(struct tarjan *t, uint32_t state)
{
    t->number[state] = t->low[state] = ++t->visited;
    t->cursor[state] = t->w->g->first[state / 2];
    t->path[t->path_count++] = state;
    t->stack[t->stack_count++] = state;
}

static void lower(uint32_t *low, uint32_t number)
{
    if (number < *low) {
        *low = number;
    }
}

/* All states reachable from this one are done: a component, if it is the root of one. */
static void leave(struct tarjan *t, uint32_t state, struct scc_set *out)
{
    t->path_count--;
    if (t->path_count > 0) {
        lower(&t->low[t->path[t->path_count - 1]], t->low[state]);
    }
    if (t->low[state] != t->number[state]) {
        return;
    }
    uint32_t top = t->stack_count;
    do {
        assert(t->stack_count > 0);
        t->stack_count--;
        t->low[t->stack[t->stack_count]] = UINT32_MAX; /* no longer on the stack */
    } while (t->stack[t->stack_count] != state);
    if (top - t->stack_count == 1) {
        return; /* alone: the graph has no edges of a node to itself */
    }
    uint32_t at = out->begin[out->count];
    for (uint32_t i = t->stack_count; i < top; i++) {
        out->of_state[t->stack[i]] = out->count;
        out->members[at++] = t->stack[i];
    }
    out->begin[++out->count] = at;
}

static void visit(struct tarjan *t, uint32_t root, struct scc_set *out)
{
    const struct graph *g = t->w->g;
    enter(t, root);
    while (t->path_count > 0) {
        uint32_t state = t->path[t->path_count - 1];
        if (t->cursor[state] == g->first[state / 2 + 1]) {
            leave(t, state, out);
            continue;
        }
        uint32_t to = graph__step(t->w, state, &g->edges[t->cursor[state]++]);
        if (to == TXN_NONE) {
            continue;
        }
        if (t->number[to] == 0) {
            enter(t, to);
        } else if (t->low[to] != UINT32_MAX) {
            lower(&t->low[state], t->number[to]);
        }
    }
}

void scc__find(const struct walk *w, struct scc_set *out)
{
    size_t states = 2 * (size_t)w->g->nodes;
    assert(states < TXN_NONE);
    assert(!w->one_rw); /* its paths have an end, so they make no components */
    struct tarjan t = {.w = w};
    t.number = history__zalloc(states, sizeof *t.number);
    t.low = history__zalloc(states, sizeof *t.low);
    t.cursor = history__zalloc(states, sizeof *t.cursor);
    t.path = history__zalloc(states, sizeof *t.path);
    t.stack = history__zalloc(states, sizeof *t.stack);
    out->count = 0;
    out->of_state = history__zalloc(states, sizeof *out->of_state);
    out->members = history__zalloc(states, sizeof *out->members);
    out->begin = history__zalloc(states / 2 + 1, sizeof *out->begin);
    memset(out->of_state, 0xff, states * sizeof *out->of_state);
    for (uint32_t state = 0; state < states; state++) {
        if (t.number[state] == 0) {
            visit(&t, state, out);
        }
    }
    mem_free(t.number);
    mem_free(t.low);
    mem_free(t.cursor);
    mem_free(t.path);
    mem_free(t.stack);
}

void scc__close(struct scc_set *s)
{
    mem_free(s->of_state);
    mem_free(s->members);
    mem_free(s->begin);
    memset(s, 0, sizeof *s);
}
