#include "explorer.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

struct node {
    struct world_key key;
    uint32_t parent;
    uint32_t detail;
    const char *what;
};

/* Numbers of nodes + 1 by hash; 0 is empty. */
struct table {
    uint32_t *slots;
    uint32_t mask;
};

struct explorer {
    const struct protocol *p;
    struct node *nodes;
    uint32_t count, max, from;
    struct table seen;    /* by the whole key */
    struct table durable; /* by its state without what is in flight, which protocol_stuck() drops */
    uint64_t moves;
    bool full;
    const char *violation;
    uint32_t culprit;
};

static uint64_t mix(struct world_key key)
{
    uint64_t h = key.state * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 29 ^ key.bag) * 0xBF58476D1CE4E5B9u;
    h = (h ^ h >> 32) * 0x94D049BB133111EBu;
    return h ^ h >> 31;
}

static void table_init(struct table *t, uint32_t max)
{
    uint32_t size = 16;
    while (size < 2 * max) {
        size *= 2;
    }
    t->mask = size - 1;
    t->slots = mem_zalloc((size_t)size * sizeof *t->slots);
    assert(t->slots != NULL);
}

/* Where it stands, or would. */
static uint32_t *table_find(const struct explorer *x, const struct table *t, struct world_key key,
                            bool state_only)
{
    uint64_t h = mix(state_only ? (struct world_key){.state = key.state} : key);
    for (uint32_t i = (uint32_t)h & t->mask;; i = (i + 1) & t->mask) {
        if (t->slots[i] == 0) {
            return &t->slots[i];
        }
        const struct world_key *there = &x->nodes[t->slots[i] - 1].key;
        if (there->state == key.state && (state_only || there->bag == key.bag)) {
            return &t->slots[i];
        }
    }
}

static void visit(void *arg, const char *what, uint32_t detail, const struct world *next)
{
    struct explorer *x = arg;
    x->moves++;
    if (x->violation != NULL) {
        return;
    }
    const char *wrong = protocol_violation(x->p, next);
    struct world_key key = protocol_key(x->p, next);
    uint32_t *place = table_find(x, &x->seen, key, false);
    if (*place != 0 && wrong == NULL) {
        return;
    }
    if (x->count == x->max) {
        x->full = true;
        return;
    }
    uint32_t number = x->count++;
    x->nodes[number] = (struct node){.key = key, .parent = x->from, .detail = detail, .what = what};
    *place = number + 1;
    uint32_t *durable = table_find(x, &x->durable, key, true);
    if (wrong == NULL && *durable == 0) {
        *durable = number + 1;
        wrong = protocol_stuck(x->p, next);
    }
    x->violation = wrong;
    x->culprit = number;
}

static void print_way(const struct explorer *x, uint32_t number)
{
    struct world w;
    if (number != 0) {
        print_way(x, x->nodes[number].parent);
        printf("  %s (%u)\n", x->nodes[number].what, x->nodes[number].detail);
    }
    protocol_unpack(x->p, x->nodes[number].key, &w);
    protocol_print(x->p, &w);
}

struct explorer_result explore(const struct protocol *p, uint32_t states_max, bool print)
{
    struct explorer x = {.p = p, .max = states_max};
    struct explorer_result result = {.depth = 0};
    struct world w;
    x.nodes = mem_alloc((size_t)states_max * sizeof *x.nodes);
    assert(x.nodes != NULL);
    table_init(&x.seen, states_max);
    table_init(&x.durable, states_max);
    protocol_init(&w);
    visit(&x, "", 0, &w);
    for (uint32_t level_end = x.count; x.from < x.count && x.violation == NULL && !x.full;
         x.from++) {
        if (x.from == level_end) {
            level_end = x.count;
            result.depth++;
        }
        protocol_unpack(p, x.nodes[x.from].key, &w);
        protocol_moves(p, &w, visit, &x);
    }
    if (x.violation != NULL && print) {
        printf("%s:\n", x.violation);
        print_way(&x, x.culprit);
    }
    result.states = x.count;
    result.moves = x.moves;
    result.complete = !x.full && x.violation == NULL;
    result.violation = x.violation;
    mem_free(x.durable.slots);
    mem_free(x.seen.slots);
    mem_free(x.nodes);
    return result;
}
