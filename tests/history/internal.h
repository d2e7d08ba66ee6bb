/* Between the files of this folder: infer.c builds what graph.c searches and check.c judges. */
#ifndef CAIRN_TESTS_HISTORY_INTERNAL_H
#define CAIRN_TESTS_HISTORY_INTERNAL_H

#include "base/assert.h"
#include "base/mem.h"
#include "history/check.h"

/* Tools of tests: out of memory ends the test. */
static inline void *history__grow(void *block, size_t bytes)
{
    void *bigger = mem_realloc(block, bytes == 0 ? 1 : bytes);
    assert(bigger != NULL);
    return bigger;
}
static inline void *history__zalloc(size_t count, size_t bytes)
{
    void *block = mem_zalloc(count * bytes == 0 ? 1 : count * bytes);
    assert(block != NULL);
    return block;
}

/* ---- the dependency graph (graph.c) ---- */

enum edge_kind { EDGE_WW = 1, EDGE_WR = 2, EDGE_RW = 4, EDGE_RT = 8 };
#define EDGES_DEPENDENCY (EDGE_WW | EDGE_WR | EDGE_RW)

struct edge {
    uint32_t from, to;
    uint32_t key; /* dense; no meaning of EDGE_RT */
    uint32_t kind;
};

/* Nodes below `txns` are transactions. The others stand between transactions, so that "everybody in
 * A before everybody in B" takes A + B edges instead of A * B; in a path they count for nothing. */
struct graph {
    uint32_t nodes, txns;
    struct edge *edges; /* by `from`, once sealed */
    uint32_t edge_count, edge_capacity;
    uint32_t *first;      /* nodes + 1: edges of a node; NULL: not sealed yet */
    const uint8_t *level; /* enum txn_level per transaction */
};

void graph__add(struct graph *g, uint32_t from, uint32_t to, uint32_t key, enum edge_kind kind);
void graph__seal(struct graph *g);
void graph__close(struct graph *g);

/* How the graph is walked. A state is a node and whether it may be left by a read-write edge: a
 * transaction entered after its reads (its commit only) may not. */
struct walk {
    const struct graph *g;
    uint32_t kinds;
    enum txn_level cap; /* every transaction is treated as this level at most ... */
    bool by_level;      /* ... and as its own at most; else all as `cap` */
    bool untimed;       /* read-write edges don't leave those of snapshot level */
    bool one_rw;        /* paths with one read-write edge at most, whatever lies between */
};

#define STATE(node, may_rw) (2 * (node) + (may_rw))
/* The state after taking an edge from a state; TXN_NONE: not allowed. */
uint32_t graph__step(const struct walk *w, uint32_t state, const struct edge *e);

/* Strongly connected components of more than one state (Tarjan 1972). */
struct scc_set {
    uint32_t count;
    uint32_t *of_state; /* TXN_NONE: on no cycle */
    uint32_t *members;  /* states, component by component */
    uint32_t *begin;    /* count + 1: where one's members begin */
};

void scc__find(const struct walk *w, struct scc_set *out);
void scc__close(struct scc_set *s);

/* ---- shortest cycles (cycle.c) ---- */

struct cycle {
    uint32_t *edges; /* indexes in g->edges, in order */
    uint32_t count;
    uint32_t weight; /* edges that leave transactions; 0: no cycle found */
};

/* Memory for searches, kept between them. */
struct search {
    uint32_t *seen_in;                 /* per state: number of the search that reached it ... */
    uint32_t *distance, *via, *before; /* ... and from where */
    uint32_t *now, *next;              /* states of this and the next distance */
    uint32_t number;
};

void search__init(struct search *s, const struct graph *g);
void search__close(struct search *s);
/* A shortest cycle within component `id` of `within`; with one_rw, one that has exactly one
 * read-write edge, while `within` are components of a walk that includes all of these. */
void cycle__shortest(struct search *s, const struct walk *w, const struct scc_set *within,
                     uint32_t id, struct cycle *best);
void cycle__close(struct cycle *c);

/* ---- what the lists say (infer.c) ---- */

struct inference {
    const struct txn_history *h;
    uint8_t *level; /* per transaction */
    bool *counts;   /* per transaction: committed, or unknown and seen */
    uint32_t counted;
    uint64_t *key_name; /* per dense key */
    uint32_t keys;
    bool read_any; /* a transaction that counts read */
    struct graph graph;
    struct txn_verdict *verdict;
};

/* Reports what single lists show and builds the graph. */
void infer__run(struct inference *in, const struct txn_history *h, enum txn_level level,
                struct txn_verdict *verdict);
void infer__close(struct inference *in);

/* ---- findings (check.c) ---- */

void check__report(struct txn_verdict *v, enum txn_anomaly anomaly, bool allowed,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
