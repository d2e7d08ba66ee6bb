/* Shortest cycles of a component, by breadth first searches. */
#include <string.h>

#include "history/internal.h"

/* Edges looked at per component; a larger component gets a cycle that may not be the shortest. */
#define STEPS_MAX 20000000u

void search__init(struct search *s, const struct graph *g)
{
    size_t states = 2 * (size_t)g->nodes;
    s->seen_in = history__zalloc(states, sizeof *s->seen_in);
    s->via = history__zalloc(states, sizeof *s->via);
    s->before = history__zalloc(states, sizeof *s->before);
    s->distance = history__zalloc(states, sizeof *s->distance);
    s->now = history__zalloc(states, sizeof *s->now);
    s->next = history__zalloc(states, sizeof *s->next);
    s->number = 0;
}

void search__close(struct search *s)
{
    mem_free(s->seen_in);
    mem_free(s->via);
    mem_free(s->before);
    mem_free(s->distance);
    mem_free(s->now);
    mem_free(s->next);
    memset(s, 0, sizeof *s);
}

void cycle__close(struct cycle *c)
{
    mem_free(c->edges);
    memset(c, 0, sizeof *c);
}

static bool inside(const struct walk *w, const struct scc_set *within, uint32_t id, uint32_t state)
{
    return within->of_state[w->one_rw ? state | 1 : state] == id;
}

static bool closes(const struct walk *w, uint32_t start, uint32_t to)
{
    return w->one_rw ? to == (start & ~1u) : to == start;
}

/* The way from `start` to `last` and over `edge`, written backwards and then turned around. */
static void keep(const struct search *s, uint32_t start, uint32_t last, uint32_t edge,
                 uint32_t weight, struct cycle *best)
{
    uint32_t count = 1;
    for (uint32_t at = last; at != start; at = s->before[at]) {
        count++;
    }
    best->edges = history__grow(best->edges, count * sizeof *best->edges);
    best->count = count;
    best->weight = weight;
    best->edges[--count] = edge;
    for (uint32_t at = last; at != start; at = s->before[at]) {
        best->edges[--count] = s->via[at];
    }
    assert(count == 0);
}

struct frontier {
    uint32_t weight, now, next; /* distance of s->now, and how many wait for each */
};

/* A state was reached over an edge: to be gone on from, unless that happened as near before. */
static void reach(struct search *s, struct frontier *f, uint32_t from, uint32_t e, uint32_t to,
                  uint32_t length)
{
    if (s->seen_in[to] == s->number && s->distance[to] <= length) {
        return;
    }
    s->seen_in[to] = s->number;
    s->distance[to] = length;
    s->via[to] = e;
    s->before[to] = from;
    if (length == f->weight) {
        s->now[f->now++] = to;
    } else {
        s->next[f->next++] = to;
    }
}

static void turn(struct search *s, struct frontier *f)
{
    uint32_t *swap = s->now;
    s->now = s->next;
    s->next = swap;
    f->now = f->next;
    f->next = 0;
    f->weight++;
}

/* One search from and back to `start`, for something shorter than the best so far. Edges out of
 * transactions have length 1, others 0. The steps taken. */
static uint32_t shortest_from(struct search *s, const struct walk *w, const struct scc_set *within,
                              uint32_t id, uint32_t start, struct cycle *best)
{
    const struct graph *g = w->g;
    struct frontier f = {.now = 1};
    uint32_t steps = 0;
    s->number++;
    s->now[0] = start;
    s->seen_in[start] = s->number;
    s->distance[start] = 0;
    for (; f.now > 0 && (best->weight == 0 || f.weight < best->weight); turn(s, &f)) {
        for (uint32_t i = 0; i < f.now; i++) {
            uint32_t state = s->now[i], node = state / 2;
            if (s->distance[state] < f.weight) {
                continue; /* found nearer meanwhile */
            }
            uint32_t length = f.weight + (node < g->txns);
            for (uint32_t e = g->first[node]; e < g->first[node + 1]; e++, steps++) {
                uint32_t to = graph__step(w, state, &g->edges[e]);
                if (to == TXN_NONE || !inside(w, within, id, to)) {
                    continue;
                }
                if (!closes(w, start, to)) {
                    reach(s, &f, state, e, to, length);
                } else if (best->weight == 0 || length < best->weight) {
                    keep(s, start, state, e, length, best);
                }
            }
        }
    }
    return steps;
}

void cycle__shortest(struct search *s, const struct walk *w, const struct scc_set *within,
                     uint32_t id, struct cycle *best)
{
    assert(id < within->count);
    best->weight = best->count = 0;
    uint64_t steps = 0;
    for (uint32_t i = within->begin[id]; i < within->begin[id + 1]; i++) {
        uint32_t state = within->members[i];
        if (state / 2 >= w->g->txns || (w->one_rw && (state & 1) == 0)) {
            continue; /* every cycle has a transaction to begin with */
        }
        steps += shortest_from(s, w, within, id, state, best);
        if (steps > STEPS_MAX) {
            break;
        }
    }
}
