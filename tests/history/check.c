/* Classes of the cycles that a history shows, and the verdict. */
#include "history/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "history/internal.h"

const char *txn_anomaly_name(enum txn_anomaly anomaly)
{
    static const char *const names[] = {
        [TXN_GARBAGE] = "garbage",
        [TXN_DUPLICATE] = "duplicate append",
        [TXN_INCOMPATIBLE] = "incompatible order",
        [TXN_LOST] = "lost append",
        [TXN_INTERNAL] = "internal",
        [TXN_G1A] = "G1a",
        [TXN_G1B] = "G1b",
        [TXN_G0] = "G0",
        [TXN_G1C] = "G1c",
        [TXN_G_SINGLE] = "G-single",
        [TXN_G_NONADJACENT] = "G-nonadjacent",
        [TXN_G2] = "G2",
        [TXN_REAL_TIME] = "real time",
    };
    static_assert(sizeof names / sizeof *names == TXN_ANOMALY_COUNT, "every anomaly has a name");
    assert((size_t)anomaly < TXN_ANOMALY_COUNT);
    return names[anomaly];
}

void check__report(struct txn_verdict *v, enum txn_anomaly anomaly, bool allowed,
                   const char *format, ...)
{
    v->found[anomaly]++;
    v->forbidden[anomaly] += !allowed;
    if (v->findings == TXN_FINDINGS_MAX) {
        return;
    }
    struct txn_finding *f = &v->finding[v->findings++];
    f->anomaly = anomaly;
    f->allowed = allowed;
    int name = snprintf(f->text, sizeof f->text, "%s: ", txn_anomaly_name(anomaly));
    va_list args;
    va_start(args, format);
    vsnprintf(f->text + name, sizeof f->text - (size_t)name, format, args);
    va_end(args);
}

/* ---- a cycle as text ---- */

/* From the oldest transaction round to it again, so that one cycle always reads the same. */
static void print_cycle(const struct inference *in, const struct cycle *c, char *text, size_t bytes)
{
    static const char *const kinds[] = {
        [EDGE_WW] = "ww", [EDGE_WR] = "wr", [EDGE_RW] = "rw", [EDGE_RT] = "real time"};
    const struct edge *edges = in->graph.edges;
    uint32_t first = 0;
    for (uint32_t i = 1; i < c->count; i++) {
        first = edges[c->edges[i]].from < edges[c->edges[first]].from ? i : first;
    }
    size_t at = 0;
    for (uint32_t i = 0; i <= c->count && at < bytes; i++) {
        const struct edge *e = &edges[c->edges[(first + i) % c->count]];
        if (e->from >= in->graph.txns) {
            continue; /* stands between two transactions */
        }
        at += (size_t)snprintf(text + at, bytes - at, "T%" PRIu32 "(p%" PRIu32 ")", e->from,
                               in->h->txns[e->from].process);
        if (i == c->count || at >= bytes) {
            break;
        }
        at += (size_t)snprintf(text + at, bytes - at, " -%s", kinds[e->kind]);
        if (e->kind != EDGE_RT && at < bytes) {
            at += (size_t)snprintf(text + at, bytes - at, "(k%" PRIu64 ")", in->key_name[e->key]);
        }
        if (at < bytes) {
            at += (size_t)snprintf(text + at, bytes - at, "-> ");
        }
    }
}

static void report_cycle(struct inference *in, const struct cycle *c, enum txn_anomaly anomaly,
                         bool allowed)
{
    char text[TXN_TEXT_MAX];
    assert(c->weight > 1);
    print_cycle(in, c, text, sizeof text);
    check__report(in->verdict, anomaly, allowed, "%s", text);
}

/* ---- classes: from the weakest to the strongest, each walk can do all that those before can ----
 */

enum class { CLASS_G0, CLASS_G1C, CLASS_NONADJACENT, CLASS_ANY, CLASSES };

static struct walk walk_of(const struct inference *in, enum class class, bool by_level)
{
    struct walk w = {.g = &in->graph, .by_level = by_level, .kinds = EDGES_DEPENDENCY};
    switch (class) {
    case CLASS_G0:
        w.kinds = EDGE_WW;
        w.cap = TXN_LEVEL_READ_COMMITTED;
        break;
    case CLASS_G1C:
        w.kinds = EDGE_WW | EDGE_WR;
        w.cap = TXN_LEVEL_READ_COMMITTED;
        break;
    case CLASS_NONADJACENT:
        w.cap = TXN_LEVEL_SNAPSHOT;
        break;
    default:
        w.cap = TXN_LEVEL_STRICT;
    }
    return w;
}

/* For each component of all dependencies: one component of a narrower walk inside it. */
struct narrowed {
    struct walk walk;
    struct scc_set set;
    uint32_t *of_all;
};

static void narrow(const struct inference *in, const struct scc_set *all, enum class class,
                   bool by_level, struct narrowed *out)
{
    out->walk = walk_of(in, class, by_level);
    scc__find(&out->walk, &out->set);
    out->of_all = history__zalloc(all->count, sizeof *out->of_all);
    memset(out->of_all, 0xff, all->count * sizeof *out->of_all);
    for (uint32_t id = 0; id < out->set.count; id++) {
        uint32_t outer = all->of_state[out->set.members[out->set.begin[id]] | 1];
        assert(outer != TXN_NONE); /* the walk of all dependencies can do whatever this one can */
        if (out->of_all[outer] == TXN_NONE) {
            out->of_all[outer] = id;
        }
    }
}

static const enum txn_anomaly class_anomaly[] = {[CLASS_G0] = TXN_G0,
                                                 [CLASS_G1C] = TXN_G1C,
                                                 [CLASS_NONADJACENT] = TXN_G_NONADJACENT,
                                                 [CLASS_ANY] = TXN_G2};

/* The weakest class of one component; false: these walks have no cycle in it. */
static bool weakest(const struct inference *in, const struct scc_set *all, uint32_t id,
                    const struct narrowed by_class[CLASSES], struct search *s, struct cycle *c,
                    enum txn_anomaly *anomaly)
{
    for (enum class class = CLASS_G0; class < CLASSES; class ++) {
        const struct narrowed *n = &by_class[class];
        if (n->of_all[id] == TXN_NONE) {
            continue;
        }
        if (class == CLASS_NONADJACENT) {
            struct walk single = walk_of(in, CLASS_ANY, n->walk.by_level);
            single.one_rw = true;
            cycle__shortest(s, &single, all, id, c);
            if (c->weight != 0) {
                *anomaly = TXN_G_SINGLE;
                return true;
            }
        }
        cycle__shortest(s, &n->walk, &n->set, n->of_all[id], c);
        *anomaly = class_anomaly[class];
        return true;
    }
    return false;
}

/* Cycles of dependencies alone. forbidden[transaction]: on a reported cycle's component. */
static void judge_dependencies(struct inference *in, bool *forbidden)
{
    struct walk everything = walk_of(in, CLASS_ANY, false);
    struct scc_set all;
    scc__find(&everything, &all);
    struct narrowed levels[CLASSES], plain[CLASSES];
    for (enum class class = CLASS_G0; class < CLASSES && all.count > 0; class ++) {
        narrow(in, &all, class, true, &levels[class]);
        narrow(in, &all, class, false, &plain[class]);
    }
    struct search s;
    struct cycle c = {0};
    search__init(&s, &in->graph);
    for (uint32_t id = 0; id < all.count; id++) {
        enum txn_anomaly anomaly;
        bool bad = weakest(in, &all, id, levels, &s, &c, &anomaly);
        if (!bad) {
            bool found = weakest(in, &all, id, plain, &s, &c, &anomaly);
            assert(found);
        }
        report_cycle(in, &c, anomaly, !bad);
        for (uint32_t i = all.begin[id]; bad && i < all.begin[id + 1]; i++) {
            forbidden[all.members[i] / 2] = true;
        }
    }
    for (enum class class = CLASS_G0; class < CLASSES && all.count > 0; class ++) {
        scc__close(&levels[class].set);
        scc__close(&plain[class].set);
        mem_free(levels[class].of_all);
        mem_free(plain[class].of_all);
    }
    cycle__close(&c);
    search__close(&s);
    scc__close(&all);
}

/* Cycles that real time closes, where dependencies alone are in order. What a snapshot has missed
 * says nothing of real time: it may show a change without an earlier one elsewhere. */
static void judge_time(struct inference *in, const bool *forbidden)
{
    struct walk w = walk_of(in, CLASS_ANY, true);
    w.kinds |= EDGE_RT;
    w.untimed = true;
    struct scc_set set;
    scc__find(&w, &set);
    struct search s;
    struct cycle c = {0};
    search__init(&s, &in->graph);
    for (uint32_t id = 0; id < set.count; id++) {
        bool known = false;
        for (uint32_t i = set.begin[id]; i < set.begin[id + 1]; i++) {
            known |= forbidden[set.members[i] / 2];
        }
        if (!known) {
            cycle__shortest(&s, &w, &set, id, &c);
            report_cycle(in, &c, TXN_REAL_TIME, false);
        }
    }
    cycle__close(&c);
    search__close(&s);
    scc__close(&set);
}

void txn_check(const struct txn_history *h, enum txn_level level, struct txn_verdict *out)
{
    memset(out, 0, sizeof *out);
    if (h->full) {
        out->outcome = TXN_NO_VERDICT;
        return;
    }
    struct inference in;
    infer__run(&in, h, level, out);
    bool *forbidden = history__zalloc(in.graph.nodes, sizeof *forbidden);
    judge_dependencies(&in, forbidden);
    if (level == TXN_LEVEL_STRICT) {
        judge_time(&in, forbidden);
    }
    out->counted = in.counted;
    out->edges = in.graph.edge_count;
    out->outcome = in.counted > 0 && in.read_any ? TXN_OK : TXN_NO_VERDICT;
    for (int a = 0; a < TXN_ANOMALY_COUNT; a++) {
        if (out->forbidden[a] > 0) {
            out->outcome = TXN_VIOLATION;
        }
    }
    mem_free(forbidden);
    infer__close(&in);
}
