/* A tree of runs. A leaf stands for 256 granules, an inner node for sixteen nodes of the level
 * below. What lies behind the data's end counts as used.
 *
 * A node also has a bit for each kind of size among the runs that begin in it: so the lowest run of
 * a kind is found by descending where the bit is set.
 *
 * What a node says lies in two places, each packed for sixteen nodes: a change reads all of the
 * sixteen, and in a large heap none of it is in a cache.
 *
 * The nodes of a level are arrays, made for the largest the data can become: memory that the
 * system gives when it is first touched. So growing the data never asks for any (ERR_NOMEM), and a
 * heap that can become a terabyte starts with a few pages. */
#include "alloc/space_index.h"

#include "alloc/arena_memory.h"
#include "base/mem.h"

#define LEAF_SHIFT 8 /* the granules of one cache line of the maps */
#define LEAF_WORDS (1u << (LEAF_SHIFT - 6))
#define FAN_SHIFT  4
#define FAN        (1u << FAN_SHIFT)
#define LEVELS     7 /* 2^32 granules */

/* Kinds of size: each length below 64, then 16 per doubling; the last has all from 480 on. */
#define KIND_EXACT  64u
#define KIND_LAST   110u
#define KIND_LONG   480u /* where it begins */
#define LOOK_LEAVES 2u   /* a shorter run ends in one of so many leaves behind its own */

#define CACHE_LINE 64u

struct kinds {
    uint64_t words[2]; /* bit k: a run of kind k begins here */
};

struct spans {
    uint32_t prefix, suffix, longest; /* free granules */
};
struct leaf_spans { /* the same, of at most 256 */
    uint16_t prefix, suffix, longest, reserved;
};
/* Of sixteen nodes: a search looks at one word of each. */
struct kinds_group {
    uint64_t words[2][FAN];
};

struct node {
    struct spans spans;
    struct kinds kinds;
};

struct space {
    struct leaf_spans *leaves;
    struct spans *inner[LEVELS]; /* none at level 0 */
    struct kinds_group *kinds[LEVELS];
    uint64_t counts[LEVELS]; /* nodes, for the data as it is */
    uint32_t top;            /* the level that has one node */
    uint8_t memory[];
};

static inline struct spans spans_at(const struct space *s, uint32_t level, uint64_t i)
{
    if (level != 0) {
        return s->inner[level][i];
    }
    const struct leaf_spans *l = &s->leaves[i];
    return (struct spans){.prefix = l->prefix, .suffix = l->suffix, .longest = l->longest};
}

static inline uint64_t kinds_word(const struct space *s, uint32_t level, uint64_t i, uint32_t word)
{
    return s->kinds[level][i >> FAN_SHIFT].words[word][i & (FAN - 1)];
}

static uint64_t level_count(uint64_t granules, uint32_t level)
{
    uint32_t shift = LEAF_SHIFT + FAN_SHIFT * level;
    return (granules + ((uint64_t)1 << shift) - 1) >> shift;
}

static inline uint32_t kind_of(uint64_t granules)
{
    if (granules < KIND_EXACT) {
        return (uint32_t)granules;
    }
    if (granules >= KIND_LONG) {
        return KIND_LAST;
    }
    uint32_t log = 31 - (uint32_t)__builtin_clz((uint32_t)granules);
    return KIND_EXACT + (log - 6) * 16 + ((uint32_t)granules >> (log - 4) & 15);
}

/* The first kind from `from` on; KIND_LAST + 1: none. */
static inline uint32_t kind_next(const struct kinds *kinds, uint32_t from)
{
    uint64_t bits = kinds->words[from / 64] & ~(uint64_t)0 << (from & 63);
    if (bits != 0) {
        return (from & 64) + (uint32_t)__builtin_ctzll(bits);
    }
    if (from < 64 && kinds->words[1] != 0) {
        return 64 + (uint32_t)__builtin_ctzll(kinds->words[1]);
    }
    return KIND_LAST + 1;
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

static struct spans leaf_spans_of(const struct heap *h, uint64_t leaf, uint64_t end)
{
    struct spans n = {0};
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

/* The runs that begin in a leaf, in ascending order. */
struct runs {
    uint64_t leaf, end; /* of the data */
    uint32_t words, word;
    uint64_t starts, bits; /* of `word`: begins not visited yet; free granules */
};

static void runs_word(const struct heap *h, struct runs *r)
{
    uint64_t word = r->leaf * LEAF_WORDS + r->word;
    uint64_t before = 0; /* the granule before the word's first is free */
    if (word > 0) {
        const struct granules *g = granules_at(h, word - 1);
        before = ~(g->used | g->start) >> 63;
    }
    r->bits = free_bits(h, word, r->end);
    r->starts = r->bits & ~(r->bits << 1 | before);
}

static void runs_open(const struct heap *h, uint64_t leaf, uint64_t end, struct runs *r)
{
    *r = (struct runs){.leaf = leaf, .end = end, .words = words_of_leaf(leaf, end)};
    runs_word(h, r);
}

/* One that is longer than KIND_LONG may be said to be shorter, but not below it. The leaves behind
 * this one must be up to date. */
static bool runs_next(const struct heap *h, struct runs *r, uint64_t *at, uint64_t *len)
{
    while (r->starts == 0) {
        if (++r->word >= r->words) {
            return false;
        }
        runs_word(h, r);
    }
    uint32_t first = (uint32_t)__builtin_ctzll(r->starts);
    r->starts &= r->starts - 1;
    *at = (r->leaf * LEAF_WORDS + r->word) * 64 + first;
    uint64_t over = ~(r->bits >> first); /* zeros were shifted in, unless first is 0 */
    uint64_t run = over == 0 ? 64 : (uint64_t)__builtin_ctzll(over);
    if (first + run < 64) {
        *len = run;
        return true;
    }
    uint32_t w = r->word + 1;
    for (; w < r->words; w++) {
        uint64_t bits = free_bits(h, r->leaf * LEAF_WORDS + w, r->end);
        if (bits != ~(uint64_t)0) {
            *len = run + (uint64_t)__builtin_ctzll(~bits);
            return true;
        }
        run += 64;
    }
    const struct space *s = h->space;
    for (uint64_t i = r->leaf + 1; i <= r->leaf + LOOK_LEAVES && i < s->counts[0]; i++) {
        run += s->leaves[i].prefix;
        if (s->leaves[i].prefix != 1u << LEAF_SHIFT) {
            break;
        }
    }
    *len = run;
    return true;
}

static struct kinds leaf_kinds_of(const struct heap *h, uint64_t leaf, uint64_t end)
{
    struct kinds kinds = {{0, 0}};
    uint64_t at = 0;
    uint64_t len = 0;
    struct runs r;
    runs_open(h, leaf, end, &r);
    while (runs_next(h, &r, &at, &len)) {
        uint32_t kind = kind_of(len);
        kinds.words[kind / 64] |= (uint64_t)1 << (kind & 63);
    }
    return kinds;
}

/* ---- inner nodes ---- */

static inline struct spans inner_spans_of(const struct space *s, uint32_t level, uint64_t i)
{
    uint64_t first = i << FAN_SHIFT;
    uint64_t count = s->counts[level - 1] - first;
    count = count < FAN ? count : FAN;
    uint64_t all = (uint64_t)1 << (LEAF_SHIFT + FAN_SHIFT * (level - 1));
    struct spans n = {0};
    uint32_t run = 0;
    bool whole = true;
    for (uint64_t c = first; c < first + count; c++) {
        struct spans child = spans_at(s, level - 1, c);
        uint32_t joined = run + child.prefix;
        n.longest = joined > n.longest ? joined : n.longest;
        n.longest = child.longest > n.longest ? child.longest : n.longest;
        if (child.prefix == all) {
            run = joined;
            continue;
        }
        if (whole) {
            n.prefix = joined;
            whole = false;
        }
        run = child.suffix;
    }
    if (whole) {
        n.prefix = run;
    }
    n.suffix = count == FAN ? run : 0;
    return n;
}

static struct node inner_of(const struct space *s, uint32_t level, uint64_t i)
{
    struct node n = {.kinds = {{0, 0}}};
    n.spans = level == 1 ? inner_spans_of(s, 1, i) : inner_spans_of(s, level, i);
    uint64_t count = s->counts[level - 1] - (i << FAN_SHIFT);
    count = count < FAN ? count : FAN;
    const struct kinds_group *children = &s->kinds[level - 1][i];
    for (uint64_t c = 0; c < count; c++) {
        n.kinds.words[0] |= children->words[0][c];
        n.kinds.words[1] |= children->words[1][c];
    }
    return n;
}

/* Has it changed? */
static bool node_set(struct space *s, uint32_t level, uint64_t i, const struct node *n)
{
    struct spans was = spans_at(s, level, i);
    struct kinds_group *group = &s->kinds[level][i >> FAN_SHIFT];
    uint64_t *low = &group->words[0][i & (FAN - 1)];
    uint64_t *high = &group->words[1][i & (FAN - 1)];
    if (was.prefix == n->spans.prefix && was.suffix == n->spans.suffix &&
        was.longest == n->spans.longest && *low == n->kinds.words[0] &&
        *high == n->kinds.words[1]) {
        return false;
    }
    *low = n->kinds.words[0];
    *high = n->kinds.words[1];
    if (level != 0) {
        s->inner[level][i] = n->spans;
    } else {
        s->leaves[i] = (struct leaf_spans){.prefix = (uint16_t)n->spans.prefix,
                                           .suffix = (uint16_t)n->spans.suffix,
                                           .longest = (uint16_t)n->spans.longest};
    }
    return true;
}

/* Nodes above leaves [first, last]; as far up as something changes, or all the way. */
static void update(struct heap *h, uint64_t first, uint64_t last, bool all_the_way)
{
    struct space *s = h->space;
    uint64_t end = space_granules(h);
    bool changed = all_the_way;
    /* Backwards: how long a run is follows from the leaves behind the one that it begins in. */
    for (uint64_t i = last + 1; i-- > first;) {
        struct node n = {leaf_spans_of(h, i, end), leaf_kinds_of(h, i, end)};
        if (node_set(s, 0, i, &n)) {
            changed = true;
        }
    }
    for (uint32_t level = 1; level <= s->top && changed; level++) {
        first >>= FAN_SHIFT;
        last >>= FAN_SHIFT;
        changed = all_the_way;
        for (uint64_t i = first; i <= last; i++) {
            struct node n = inner_of(s, level, i);
            if (node_set(s, level, i, &n)) {
                changed = true;
            }
        }
    }
}

/* All granules from the leaf's first to `from` are free, or there are none and the one before is:
 * what begins in an earlier leaf ends at `from`. */
static bool is_free_before(const struct heap *h, uint64_t from)
{
    uint64_t w = from / 64;
    uint64_t left = from % 64;
    if (left != 0 &&
        (free_bits(h, w, from) & (((uint64_t)1 << left) - 1)) != ((uint64_t)1 << left) - 1) {
        return false;
    }
    for (; w % LEAF_WORDS != 0; w--) {
        if (free_bits(h, w - 1, from) != ~(uint64_t)0) {
            return false;
        }
    }
    return w > 0 && free_bits(h, w - 1, from) >> 63 != 0;
}

void index_update(struct heap *h, uint64_t from, uint64_t end)
{
    assert(from < end);
    assert(end <= space_granules(h));
    struct space *s = h->space;
    uint64_t first = from >> LEAF_SHIFT;
    uint64_t last = end >> LEAF_SHIFT; /* a run may begin behind the range now, or no longer */
    last = last < s->counts[0] ? last : s->counts[0] - 1;
    /* So may one that ends where the range begins. */
    if (from > 0 && first > 0 && is_free_before(h, from)) {
        first -= first > 1 && s->leaves[first - 1].prefix == 1u << LEAF_SHIFT ? 2 : 1;
    }
    update(h, first, last, false);
}

static inline void prefetch_lines(const void *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += CACHE_LINE) {
        __builtin_prefetch((const uint8_t *)from + at);
    }
}

void index_prefetch(const struct heap *h, uint64_t granule)
{
    lines_ask();
    const struct space *s = h->space;
    uint64_t group = granule >> (LEAF_SHIFT + FAN_SHIFT);
    prefetch_lines(&s->leaves[group << FAN_SHIFT], FAN * sizeof(struct leaf_spans));
    prefetch_lines(&s->kinds[0][group], sizeof(struct kinds_group));
    if (s->top > 2) { /* else that is near */
        group >>= FAN_SHIFT;
        prefetch_lines(&s->inner[1][group << FAN_SHIFT], FAN * sizeof(struct spans));
        prefetch_lines(&s->kinds[1][group], sizeof(struct kinds_group));
    }
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
        /* The last leaf that both have changes, those from where a run reaches it, and all that
         * are new. */
        uint64_t from = before < now ? before : now - 1;
        uint64_t first = (from == 0 ? 0 : from - 1) >> LEAF_SHIFT;
        first = first > LOOK_LEAVES ? first - LOOK_LEAVES : 0;
        update(h, first, (now - 1) >> LEAF_SHIFT, true);
    }
}

uint64_t index_longest(const struct heap *h)
{
    const struct space *s = h->space;
    return s->counts[0] == 0 ? 0 : spans_at(s, s->top, 0).longest;
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
            struct spans n = spans_at(s, level, i - 1);
            if (n.prefix != (uint64_t)1 << (LEAF_SHIFT + FAN_SHIFT * level)) {
                return run + n.suffix;
            }
            run += n.prefix;
        }
        i >>= FAN_SHIFT;
    }
    return run;
}

/* The kinds of the runs that begin in the first `leaves` leaves. */
static struct kinds kinds_before(const struct space *s, uint64_t leaves)
{
    struct kinds kinds = {{0, 0}};
    uint64_t at = 0;
    for (uint32_t level = s->top;; level--) {
        uint64_t stop = leaves >> (FAN_SHIFT * level);
        for (; at < stop && at < s->counts[level]; at++) {
            kinds.words[0] |= kinds_word(s, level, at, 0);
            kinds.words[1] |= kinds_word(s, level, at, 1);
        }
        if (level == 0 || at >= s->counts[level]) {
            return kinds;
        }
        at <<= FAN_SHIFT;
    }
}

/* The first leaf from `from` on in which a run of the kind begins; INDEX_NONE. */
static uint64_t leaf_with(const struct space *s, uint32_t kind, uint64_t from)
{
    uint32_t word = kind / 64;
    uint64_t bit = (uint64_t)1 << (kind & 63);
    uint64_t at = from;
    uint32_t level = 0;
    /* Up to where a node behind `from` has it, then down. */
    for (;; level++, at = (at >> FAN_SHIFT)) {
        uint64_t stop = level == s->top ? s->counts[level] : (at | (FAN - 1)) + 1;
        stop = stop < s->counts[level] ? stop : s->counts[level];
        while (at < stop && (kinds_word(s, level, at, word) & bit) == 0) {
            at++;
        }
        if (at < stop) {
            break;
        }
        if (level == s->top || at == s->counts[level]) {
            return INDEX_NONE;
        }
    }
    while (level > 0) {
        level--;
        at <<= FAN_SHIFT;
        while ((kinds_word(s, level, at, word) & bit) == 0) {
            at++;
        }
    }
    return at;
}

/* The lowest run of the kind with `count` granules, among the first `looks` of it that begin in the
 * first `leaves` leaves. */
static uint64_t kind_find(const struct heap *h, uint32_t kind, uint64_t count, uint64_t leaves,
                          uint32_t looks)
{
    uint64_t end = space_granules(h);
    for (uint64_t leaf = 0; leaf < leaves; leaf++) {
        leaf = leaf_with(h->space, kind, leaf);
        if (leaf >= leaves) {
            break;
        }
        uint64_t at = 0;
        uint64_t len = 0;
        struct runs r;
        index_prefetch(h, leaf << LEAF_SHIFT); /* it is likely to be this one */
        runs_open(h, leaf, end, &r);
        while (runs_next(h, &r, &at, &len)) {
            if (kind_of(len) != kind) {
                continue;
            }
            if (len >= count) {
                return at;
            }
            if (--looks == 0) {
                return INDEX_NONE;
            }
        }
    }
    return INDEX_NONE;
}

uint64_t index_find_best(const struct heap *h, uint64_t count, uint64_t below)
{
    const struct space *s = h->space;
    if (index_longest(h) < count) {
        return INDEX_NONE;
    }
    uint64_t leaves = (below >> LEAF_SHIFT) + 1;
    leaves = leaves < s->counts[0] ? leaves : s->counts[0];
    uint32_t kind = kind_of(count);
    if (kind == KIND_LAST) {
        return index_find(h, count);
    }
    struct kinds kinds = kinds_before(s, leaves);
    if ((kinds.words[kind / 64] >> (kind & 63) & 1) != 0) {
        uint64_t at = kind_find(h, kind, count, leaves, INDEX_LOOKS);
        if (at != INDEX_NONE) {
            return at;
        }
    }
    kind = kind_next(&kinds, kind + 1);
    return kind <= KIND_LAST ? kind_find(h, kind, count, leaves, 1) : index_find(h, count);
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
            struct spans n = spans_at(s, level - 1, at);
            /* A run that ends in this part began before all that lie wholly inside. */
            if (run + n.prefix >= count) {
                return (at << shift) - run;
            }
            if (n.longest >= count) {
                break;
            }
            run = n.prefix == (uint64_t)1 << shift ? run + n.prefix : n.suffix;
        }
    }
    uint64_t found = leaf_find(h, at, count, space_granules(h));
    assert(found != INDEX_NONE);
    return found;
}

static uint64_t groups_of(uint64_t nodes)
{
    return (nodes + FAN - 1) >> FAN_SHIFT;
}

uint64_t space_index_bytes(const struct heap *h)
{
    const struct space *s = h->space;
    uint64_t bytes = s->counts[0] * sizeof *s->leaves;
    for (uint32_t level = 0; level <= s->top; level++) {
        bytes += level == 0 ? 0 : s->counts[level] * sizeof *s->inner[0];
        bytes += groups_of(s->counts[level]) * sizeof *s->kinds[0];
    }
    return bytes;
}

/* ---- life ---- */

static size_t slab_pages_bytes(const struct heap *h)
{
    return (size_t)((h->regions.end - h->regions.data_at) >> PAGE_SHIFT) * sizeof *h->slab_pages;
}

/* Room for `count` things in whole cache lines. */
static uint64_t lines_bytes(uint64_t count, size_t size)
{
    return (count * size + CACHE_LINE - 1) & ~(uint64_t)(CACHE_LINE - 1);
}

int space_open(struct heap *h)
{
    uint64_t granules = h->regions.granules_max;
    uint64_t bytes = CACHE_LINE + lines_bytes(level_count(granules, 0), sizeof(struct leaf_spans));
    for (uint32_t level = 0; level < LEVELS; level++) {
        uint64_t nodes = level_count(granules, level);
        bytes += lines_bytes(groups_of(nodes), sizeof(struct kinds_group));
        bytes += level == 0 ? 0 : lines_bytes(nodes, sizeof(struct spans));
    }
    struct space *s = mem_zalloc(sizeof *s + (size_t)bytes);
    if (s == NULL) {
        return ERR_NOMEM;
    }
    uint8_t *at = s->memory + (-(uintptr_t)s->memory & (CACHE_LINE - 1));
    s->leaves = (struct leaf_spans *)(void *)at;
    at += lines_bytes(level_count(granules, 0), sizeof(struct leaf_spans));
    for (uint32_t level = 0; level < LEVELS; level++) {
        uint64_t nodes = level_count(granules, level);
        s->kinds[level] = (struct kinds_group *)(void *)at;
        at += lines_bytes(groups_of(nodes), sizeof(struct kinds_group));
        if (level != 0) {
            s->inner[level] = (struct spans *)(void *)at;
            at += lines_bytes(nodes, sizeof(struct spans));
        }
    }
    h->space = s;
    h->slab_pages = arena_memory_reserve(slab_pages_bytes(h), true);
    if (h->slab_pages == NULL) {
        space_close(h);
        return ERR_NOMEM;
    }
    index_resize(h, 0);
    return 0;
}

void space_close(struct heap *h)
{
    mem_free(h->space);
    h->space = NULL;
    if (h->slab_pages != NULL) {
        arena_memory_release(h->slab_pages, slab_pages_bytes(h));
        h->slab_pages = NULL;
    }
}
