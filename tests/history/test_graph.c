/* Components and shortest cycles of small random graphs, compared with all paths (Floyd &
 * Warshall). */
#include "support/test.h"

#include "history/internal.h"

enum { TXNS = 7, NODES = 11, FAR = 1000 };

static uint64_t random_state;
static uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 11) % below);
}

/* Nodes between transactions lead forward only, as the chain of instants does. */
static void random_graph(struct graph *g, uint32_t distance[NODES][NODES])
{
    static const uint8_t level[TXNS] = {0};
    *g = (struct graph){.nodes = NODES, .txns = TXNS, .level = level};
    for (int i = 0; i < NODES; i++) {
        for (int j = 0; j < NODES; j++) {
            distance[i][j] = FAR;
        }
    }
    uint32_t edges = 4 + draw(20);
    for (uint32_t e = 0; e < edges; e++) {
        uint32_t from = draw(NODES), to = draw(NODES);
        if (from == to || (from >= TXNS && to >= TXNS && to < from)) {
            continue;
        }
        graph__add(g, from, to, 0, EDGE_WW);
        distance[from][to] = from < TXNS;
    }
    graph__seal(g);
    for (int k = 0; k < NODES; k++) {
        for (int i = 0; i < NODES; i++) {
            for (int j = 0; j < NODES; j++) {
                uint32_t around = distance[i][k] + distance[k][j];
                distance[i][j] = around < distance[i][j] ? around : distance[i][j];
            }
        }
    }
}

static void components_are_right(const struct scc_set *set, uint32_t distance[NODES][NODES])
{
    for (uint32_t i = 0; i < NODES; i++) {
        uint32_t of_i = set->of_state[STATE(i, 1)];
        assert_int_equal(of_i != TXN_NONE, distance[i][i] < FAR);
        for (uint32_t j = 0; j < NODES; j++) {
            bool together = distance[i][j] < FAR && distance[j][i] < FAR;
            bool same = of_i != TXN_NONE && of_i == set->of_state[STATE(j, 1)];
            assert_int_equal(same, together);
        }
    }
}

/* Closed, of edges that follow each other, and as short as any cycle in the component. */
static void cycle_is_right(const struct graph *g, const struct scc_set *set, uint32_t id,
                           const struct cycle *c, uint32_t distance[NODES][NODES])
{
    uint32_t weight = 0, shortest = FAR;
    for (uint32_t i = 0; i < c->count; i++) {
        const struct edge *e = &g->edges[c->edges[i]];
        assert_int_equal(e->to, g->edges[c->edges[(i + 1) % c->count]].from);
        weight += e->from < TXNS;
    }
    for (uint32_t i = 0; i < TXNS; i++) {
        if (set->of_state[STATE(i, 1)] == id && distance[i][i] < shortest) {
            shortest = distance[i][i];
        }
    }
    assert_int_equal(weight, c->weight);
    assert_int_equal(weight, shortest);
}

static void components_and_cycles_agree_with_all_paths(void **state)
{
    (void)state;
    uint32_t cycles = 0;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        uint32_t distance[NODES][NODES];
        struct graph g;
        struct scc_set set;
        struct search s;
        struct cycle c = {0};
        random_state = seed * 0x9e3779b97f4a7c15u;
        random_graph(&g, distance);
        struct walk w = {.g = &g, .kinds = EDGES_DEPENDENCY, .cap = TXN_LEVEL_STRICT};
        scc__find(&w, &set);
        components_are_right(&set, distance);
        search__init(&s, &g);
        for (uint32_t id = 0; id < set.count; id++, cycles++) {
            cycle__shortest(&s, &w, &set, id, &c);
            cycle_is_right(&g, &set, id, &c, distance);
        }
        cycle__close(&c);
        search__close(&s);
        scc__close(&set);
        graph__close(&g);
    }
    assert_true(cycles > 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(components_and_cycles_agree_with_all_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
