/* A tree of runs. A leaf stands for 256 granules, an inner node for sixteen nodes of the level
 * below. What lies behind the data's end counts as used.
 *
 * The nodes of a level are an array, made for the largest the data can become: memory that the
 * system gives when it is first touched. So growing the data never asks for any (ERR_NOMEM), and a
 * heap that can become a terabyte starts with a few pages. */
#include "alloc/space_index.h"

#include "base/mem.h"

#define LEAF_SHIFT 8 /* the granules of one cache line of the maps */
#define LEAF_WORDS (1u << (LEAF_SHIFT - 6))
#define FAN_SHIFT  4
#define FAN        (1u << FAN_SHIFT)
#define LEVELS     7 /* 2^32 granules */

struct node {
    uint32_t prefix, suffix, longest; /* free granules */
};

struct space {
    struct node *levels[LEVELS];
    uint64_t counts[LEVELS]; /* nodes, for the data as it is */
    uint32_t top;            /* the level that has one node */
    struct node nodes[];
};

static uint64_t level_count(uint64_t granules, uint32_t level)
{
    uint32_t shift = LEAF_SHIFT + FAN_SHIFT * level;
    return (granules + ((uint64_t)1 << shift) - 1) >> shift;
}

/* ---- leaves ---- */

static inline uint64_t free_bits(const struct heap *h, uint64_t word, uint64_t end)
{
    const struct granules *g = granules_at(h, word);
    uint64_t bits = ~(g->used | g->start);
    uint64_t first = word * 64;
    if (end - first < 64) {
        bits &= ((uint64_t)1 << (end - first)) - 1;
    }
    return bits;
}

static inline uint32_t words_of_leaf(uint64_t leaf, uint64_t end)
{
    uint64_t words = (end + 63) / 64 - leaf * LEAF_WORDS;
    return words < LEAF_WORDS ? (uint32_t)words : LEAF_WORDS;
}

/* Bit i: the bits i .. i + count - 1 are set. count: 1..64. */
static inline uint64_t runs_of(uint64_t bits, uint32_t count)
{
    for (uint32_t have = 1; have < count && bits != 0;) {
        uint32_t step = have < count - have ? have : count - have;
        bits &= bits >> step;
        have += step;
    }
    return bits;
}

static struct node leaf_of(const struct heap *h, uint64_t leaf, uint64_t end)
{
    struct node n = {0, 0, 0};
    uint32_t words = words_of_leaf(leaf, end);
    uint32_t run = 0;
    bool whole = true;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t bits = free_bits(h, leaf * LEAF_WORDS + w, end);
        if (bits == ~(uint64_t)0) {
            run += 64;
            continue;
        }
        run += (uint32_t)__builtin_ctzll(~bits);
        if (whole) {
            n.prefix = run;
            whole = false;
        }
        n.longest = run > n.longest ? run : n.longest;
        run = (uint32_t)__builtin_clzll(~bits);
        /* Without the runs at both ends. */
        bits &= bits + 1;
        bits &= ~(uint64_t)0 >> run;
        if (bits != 0 && n.longest < 62) {
            for (uint64_t runs = runs_of(bits, n.longest + 1); runs != 0; runs &= runs >> 1) {
                n.longest++;
            }
        }
    }
    if (whole) {
        n.prefix = run;
    }
    n.longest = run > n.longest ? run : n.longest;
    n.suffix = words == LEAF_WORDS ? run : 0;
    return n;
}

static uint64_t leaf_find(const struct heap *h, uint64_t leaf, uint64_t count, uint64_t end)
{
    uint32_t words = words_of_leaf(leaf, end);
    uint64_t run = 0;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t word = leaf * LEAF_WORDS + w;
        uint64_t bits = free_bits(h, word, end);
        if (bits == ~(uint64_t)0) {
            if (run + 64 >= count) {
                return word * 64 - run;
            }
            run += 64;
            continue;
        }
        if (run + (uint32_t)__builtin_ctzll(~bits) >= count) {
            return word * 64 - run;
        }
        uint64_t runs = count < 64 ? runs_of(bits, (uint32_t)count) : 0;
        if (runs != 0) {
            return word * 64 + (uint32_t)__builtin_ctzll(runs);
        }
        run = (uint32_t)__builtin_clzll(~bits);
    }
    return INDEX_NONE;
}

/* ---- inner nodes ---- */

static struct node inner_of(const struct space *s, uint32_t level, uint64_t i)
{
    const struct node *children = s->levels[level - 1] + (i << FAN_SHIFT);
    uint64_t count = s->counts[level - 1] - (i << FAN_SHIFT);
    count = count < FAN ? count : FAN;
    uint64_t all = (uint64_t)1 << (LEAF_SHIFT + FAN_SHIFT * (level - 1));
    struct node n = {0, 0, 0};
    uint32_t run = 0;
    bool whole = true;
    for (uint64_t c = 0; c < count; c++) {
        const struct node *child = &children[c];
        uint32_t joined = run + child->prefix;
        n.longest = joined > n.longest ? joined : n.longest;
        n.longest = child->longest > n.longest ? child->longest : n.longest;
        if (child->prefix == all) {
            run = joined;
            continue;
        }
        if (whole) {
            n.prefix = joined;
            whole = false;
        }
        run = child->suffix;
    }
    if (whole) {
        n.prefix = run;
    }
    n.suffix = count == FAN ? run : 0;
    return n;
}

static bool node_set(struct node *at, struct node n)
{
    if (at->prefix == n.prefix && at->suffix == n.suffix && at->longest == n.longest) {
        return false;
    }
    *at = n;
    return true;
}

/* Nodes above leaves [first, last]; as far up as something changes, or all the way. */
static void update(struct heap *h, uint64_t first, uint64_t last, bool all_the_way)
{
    struct space *s = h->space;
    uint64_t end = space_granules(h);
    bool changed = all_the_way;
    for (uint64_t i = first; i <= last; i++) {
        if (node_set(&s->levels[0][i], leaf_of(h, i, end))) {
            changed = true;
        }
    }
    for (uint32_t level = 1; level <= s->top && changed; level++) {
        first >>= FAN_SHIFT;
        last >>= FAN_SHIFT;
        changed = all_the_way;
        for (uint64_t i = first; i <= last; i++) {
            if (node_set(&s->levels[level][i], inner_of(s, level, i))) {
                changed = true;
            }
        }
    }
}

void index_update(struct heap *h, uint64_t from, uint64_t end)
{
    assert(from < end);
    assert(end <= space_granules(h));
    update(h, from >> LEAF_SHIFT, (end - 1) >> LEAF_SHIFT, false);
}

void index_resize(struct heap *h, uint64_t before)
{
    struct space *s = h->space;
    uint64_t now = space_granules(h);
    for (uint32_t level = 0; level < LEVELS; level++) {
        s->counts[level] = level_count(now, level);
    }
    s->top = 0;
    while (s->counts[s->top] > 1) {
        s->top++;
    }
    if (now != 0) {
        /* The last leaf that both have changes, and all that are new. */
        uint64_t from = before < now ? before : now - 1;
        update(h, (from == 0 ? 0 : from - 1) >> LEAF_SHIFT, (now - 1) >> LEAF_SHIFT, true);
    }
}

uint64_t index_longest(const struct heap *h)
{
    const struct space *s = h->space;
    return s->counts[0] == 0 ? 0 : s->levels[s->top][0].longest;
}

static uint64_t leaf_tail(const struct heap *h, uint64_t leaf, uint64_t end)
{
    uint64_t first = leaf * LEAF_WORDS;
    for (uint64_t word = first + words_of_leaf(leaf, end); word-- > first;) {
        const struct granules *g = granules_at(h, word);
        uint64_t taken = g->used | g->start;
        if (taken != 0) {
            return end - (word * 64 + 64 - (uint64_t)__builtin_clzll(taken));
        }
    }
    return end - first * 64;
}

uint64_t index_tail(const struct heap *h)
{
    const struct space *s = h->space;
    uint64_t end = space_granules(h);
    if (end == 0) {
        return 0;
    }
    uint64_t i = s->counts[0] - 1;
    uint64_t run = leaf_tail(h, i, end);
    if (run < end - (i << LEAF_SHIFT)) {
        return run;
    }
    /* All parts but the last one of a level have their full size. */
    for (uint32_t level = 0; level < s->top; level++) {
        for (; (i & (FAN - 1)) != 0; i--) {
            const struct node *n = &s->levels[level][i - 1];
            if (n->prefix != (uint64_t)1 << (LEAF_SHIFT + FAN_SHIFT * level)) {
                return run + n->suffix;
            }
            run += n->prefix;
        }
        i >>= FAN_SHIFT;
    }
    return run;
}

uint64_t index_find(const struct heap *h, uint64_t count)
{
    const struct space *s = h->space;
    if (index_longest(h) < count) {
        return INDEX_NONE;
    }
    uint64_t at = 0;
    for (uint32_t level = s->top; level > 0; level--) {
        uint32_t shift = LEAF_SHIFT + FAN_SHIFT * (level - 1);
        uint64_t run = 0;
        at <<= FAN_SHIFT;
        for (;; at++) {
            assert(at < s->counts[level - 1]);
            const struct node *n = &s->levels[level - 1][at];
            /* A run that ends in this part began before all that lie wholly inside. */
            if (run + n->prefix >= count) {
                return (at << shift) - run;
            }
            if (n->longest >= count) {
                break;
            }
            run = n->prefix == (uint64_t)1 << shift ? run + n->prefix : n->suffix;
        }
    }
    uint64_t found = leaf_find(h, at, count, space_granules(h));
    assert(found != INDEX_NONE);
    return found;
}

uint64_t space_index_bytes(const struct heap *h)
{
    uint64_t nodes = 0;
    for (uint32_t level = 0; level <= h->space->top; level++) {
        nodes += h->space->counts[level];
    }
    return nodes * sizeof(struct node);
}

/* ---- life ---- */

int space_open(struct heap *h)
{
    uint64_t nodes = 0;
    for (uint32_t level = 0; level < LEVELS; level++) {
        nodes += level_count(h->regions.granules_max, level);
    }
    struct space *s = mem_zalloc(sizeof *s + (size_t)nodes * sizeof(struct node));
    if (s == NULL) {
        return ERR_NOMEM;
    }
    struct node *at = s->nodes;
    for (uint32_t level = 0; level < LEVELS; level++) {
        s->levels[level] = at;
        at += level_count(h->regions.granules_max, level);
    }
    h->space = s;
    index_resize(h, 0);
    return 0;
}

void space_close(struct heap *h)
{
    mem_free(h->space);
    h->space = NULL;
}
