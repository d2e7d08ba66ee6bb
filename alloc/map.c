/* Maps: AVL trees whose nodes are the records themselves, so that a value keeps its place while
 * others come and go. The depth is bounded (1.44 log2 n), which no chosen set of keys can change.
 */
#include <string.h>

#include "alloc/ahead.h"
#include "alloc/engine.h"
#include "base/hash.h"

struct path {
    uint64_t at[MAP_HEIGHT_MAX + 2];
    uint32_t depth;
};

static const struct map_node *node_get(const struct heap *h, uint64_t place)
{
    return (const struct map_node *)arena_at(&h->arena, block_address(h, place));
}

static struct map_node *node_edit(struct heap *h, uint64_t place)
{
    return (struct map_node *)arena_write(&h->arena, block_address(h, place),
                                          sizeof(struct map_node));
}

static struct slice node_key(const struct map_node *n)
{
    return slice_of(n + 1, n->key_len);
}

static uint64_t value_offset(size_t key_len)
{
    return (sizeof(struct map_node) + key_len + 7) & ~(uint64_t)7;
}

static struct slice node_value(const struct map_node *n)
{
    return slice_of((const uint8_t *)n + value_offset(n->key_len), n->value_len);
}

static int key_compare(struct slice a, struct slice b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int c = len == 0 ? 0 : memcmp(a.data, b.data, len);
    if (c != 0) {
        return c;
    }
    return a.len < b.len ? -1 : a.len > b.len;
}

/* ---- where keys were found last
 *
 * Nodes keep their place until they are freed, which forgets it. Without this a look-up touches
 * another page at nearly every level of the tree, and where many shards take turns each of them is
 * a miss in the caches and in the TLB. For the same reason the places of a key share one line of
 * memory, and carry bits of their keys' hashes: no node but the right one is touched. */

#define KNOWN_LINES (MAP_PLACES / MAP_PLACES_PER_LINE)
static_assert((KNOWN_LINES & (KNOWN_LINES - 1)) == 0, "a mask");
static_assert(MAP_PLACES_PER_LINE * sizeof(uint64_t) == LINE_BYTES, "one miss");

void map_places_init(struct heap *h)
{
    uint64_t at = ((uintptr_t)h->map_places_room + LINE_BYTES - 1) & ~(uintptr_t)(LINE_BYTES - 1);
    h->map_places = (uint64_t *)at;
}

struct known {
    uint64_t *line; /* newest first */
    uint64_t tag;   /* of the key, above the bits of a place */
};

static struct known known_of(const struct heap *h, enum heap_map map, struct slice key)
{
    uint64_t hash = hash64(map, key.data, key.len);
    return (struct known){
        .line = h->map_places + (hash & (KNOWN_LINES - 1)) * MAP_PLACES_PER_LINE,
        .tag = hash >> PLACE_BITS << PLACE_BITS,
    };
}

/* The place that is the key's, unless another key has the same tag; NULL: none. */
static uint64_t *known_get(const struct known *k)
{
    for (unsigned i = 0; i < MAP_PLACES_PER_LINE; i++) {
        if (k->line[i] != 0 && k->line[i] >> PLACE_BITS == k->tag >> PLACE_BITS) {
            return &k->line[i];
        }
    }
    return NULL;
}

static uint64_t known_place(uint64_t word)
{
    return word & (((uint64_t)1 << PLACE_BITS) - 1);
}

static void known_put(const struct known *k, uint64_t place)
{
    uint64_t *old = known_get(k);
    if (old == NULL) {
        memmove(k->line + 1, k->line, (MAP_PLACES_PER_LINE - 1) * sizeof *k->line);
        old = k->line;
    }
    *old = k->tag | place;
}

static void forget_place(struct heap *h, enum heap_map map, struct slice key, uint64_t place)
{
    struct known k = known_of(h, map, key);
    uint64_t *known = known_get(&k);
    if (known != NULL && known_place(*known) == place) {
        *known = 0;
    }
}

static bool is_node_of(const struct map_node *n, enum heap_map map, struct slice key)
{
    return n->map == map && key_compare(key, node_key(n)) == 0;
}

static uint64_t find(const struct heap *h, enum heap_map map, struct slice key)
{
    assert(map < HEAP_MAP_COUNT);
    struct known k = known_of(h, map, key);
    const uint64_t *known = known_get(&k);
    if (known != NULL && is_node_of(node_get(h, known_place(*known)), map, key)) {
        return known_place(*known);
    }
    uint64_t at = header(h)->maps[map].root;
    while (at != 0) {
        const struct map_node *n = node_get(h, at);
        int c = key_compare(key, node_key(n));
        if (c == 0) {
            known_put(&k, at);
            return at;
        }
        at = c < 0 ? n->left : n->right;
    }
    return 0;
}

void heap_map_ahead(const struct heap *heap, enum heap_map map, struct slice key, unsigned step,
                    size_t len)
{
    lines_ask();
    if (!heap_is_loaded(heap) || step > 3) {
        return;
    }
    struct known k = known_of(heap, map, key);
    if (step == 2) {
        __builtin_prefetch(k.line);
        return;
    }
    const uint64_t *known = known_get(&k);
    if (step == 3 && known != NULL) {
        uint64_t address = block_address(heap, known_place(*known));
        size_t bytes = sizeof(struct map_node) + key.len + len;
        for (size_t at = 0; at < bytes; at += LINE_BYTES) {
            __builtin_prefetch((const uint8_t *)node_get(heap, known_place(*known)) + at, 1);
        }
        __builtin_prefetch(&heap->arena.lines[address >> PAGE_SHIFT]);
    }
}

/* Path from the root to the key, or to where it would hang. True: found, as the last one. */
static bool find_path(const struct heap *h, enum heap_map map, struct slice key, struct path *path)
{
    path->depth = 0;
    uint64_t at = header(h)->maps[map].root;
    while (at != 0) {
        assert(path->depth < MAP_HEIGHT_MAX);
        path->at[path->depth++] = at;
        const struct map_node *n = node_get(h, at);
        int c = key_compare(key, node_key(n));
        if (c == 0) {
            return true;
        }
        at = c < 0 ? n->left : n->right;
    }
    return false;
}

static uint32_t height(const struct heap *h, uint64_t place)
{
    return place == 0 ? 0 : node_get(h, place)->height;
}

/* Sets the node's height from its children; true if that changed it. */
static bool update(struct heap *h, uint64_t place)
{
    const struct map_node *n = node_get(h, place);
    uint32_t left = height(h, n->left);
    uint32_t right = height(h, n->right);
    uint8_t tall = (uint8_t)((left > right ? left : right) + 1);
    if (n->height == tall) {
        return false;
    }
    node_edit(h, place)->height = tall;
    return true;
}

static uint64_t rotate_right(struct heap *h, uint64_t top)
{
    struct map_node *n = node_edit(h, top);
    uint64_t left = n->left;
    struct map_node *l = node_edit(h, left);
    n->left = l->right;
    l->right = top;
    (void)update(h, top);
    (void)update(h, left);
    return left;
}

static uint64_t rotate_left(struct heap *h, uint64_t top)
{
    struct map_node *n = node_edit(h, top);
    uint64_t right = n->right;
    struct map_node *r = node_edit(h, right);
    n->right = r->left;
    r->left = top;
    (void)update(h, top);
    (void)update(h, right);
    return right;
}

/* Restores the balance of one subtree; returns its new top. */
static uint64_t balance(struct heap *h, uint64_t top, bool *changed)
{
    uint8_t before = node_get(h, top)->height;
    (void)update(h, top);
    const struct map_node *n = node_get(h, top);
    int lean = (int)height(h, n->left) - (int)height(h, n->right);
    if (lean > 1) {
        const struct map_node *l = node_get(h, n->left);
        if (height(h, l->left) < height(h, l->right)) {
            uint64_t left = rotate_left(h, n->left);
            node_edit(h, top)->left = left;
        }
        top = rotate_right(h, top);
    } else if (lean < -1) {
        const struct map_node *r = node_get(h, n->right);
        if (height(h, r->right) < height(h, r->left)) {
            uint64_t right = rotate_right(h, n->right);
            node_edit(h, top)->right = right;
        }
        top = rotate_left(h, top);
    }
    *changed = node_get(h, top)->height != before;
    return top;
}

/* Makes the link to `from` below path[depth - 1] (or the root) point to `to`. */
static void relink(struct heap *h, enum heap_map map, const struct path *path, uint32_t depth,
                   uint64_t from, uint64_t to)
{
    if (depth == 0) {
        header_map_edit(h, map)->root = to;
        return;
    }
    struct map_node *parent = node_edit(h, path->at[depth - 1]);
    if (parent->left == from) {
        parent->left = to;
    } else {
        assert(parent->right == from);
        parent->right = to;
    }
}

static void rebalance(struct heap *h, enum heap_map map, const struct path *path, uint32_t depth)
{
    while (depth > 0) {
        depth--;
        uint64_t was = path->at[depth];
        bool changed = false;
        uint64_t top = balance(h, was, &changed);
        if (top != was) {
            relink(h, map, path, depth, was, top);
        }
        if (!changed) {
            return;
        }
    }
}

int heap_map_get(const struct heap *heap, enum heap_map map, struct slice key, struct slice *value)
{
    *value = slice_of(NULL, 0);
    uint64_t at = find(heap, map, key);
    if (at == 0) {
        return ERR_NOTFOUND;
    }
    *value = node_value(node_get(heap, at));
    return 0;
}

uint8_t *heap_map_edit(struct heap *heap, enum heap_map map, struct slice key, uint64_t offset,
                       uint64_t len)
{
    uint64_t at = find(heap, map, key);
    if (at == 0) {
        return NULL;
    }
    const struct map_node *n = node_get(heap, at);
    if (len == 0 || offset > n->value_len || len > n->value_len - offset) {
        return NULL;
    }
    return arena_write(&heap->arena, block_address(heap, at) + value_offset(n->key_len) + offset,
                       len);
}

/* A record without links. */
static int node_new(struct heap *h, enum heap_map map, struct slice key, struct slice value,
                    uint64_t *out)
{
    uint64_t at = value_offset(key.len);
    int rv = block_alloc(h, POOL_MAPS, at + value.len, out);
    if (spares_give_way(h, at + value.len, &rv)) {
        rv = block_alloc(h, POOL_MAPS, at + value.len, out);
    }
    if (rv != 0) {
        return rv;
    }
    uint8_t *bytes = arena_write(&h->arena, block_address(h, *out), at + value.len);
    memset(bytes, 0, at);
    struct map_node *n = (struct map_node *)(void *)bytes;
    n->magic = BLOCK_MAGIC_MAP;
    n->value_len = (uint32_t)value.len;
    n->key_len = (uint16_t)key.len;
    n->height = 1;
    n->map = (uint8_t)map;
    memcpy(bytes + sizeof *n, key.data, key.len);
    if (value.len > 0) {
        memcpy(bytes + at, value.data, value.len);
    }
    return 0;
}

/* A record without links becomes the last one of the path. */
static void node_hang(struct heap *h, enum heap_map map, struct slice key, const struct path *path,
                      uint64_t place)
{
    if (path->depth == 0) {
        header_map_edit(h, map)->root = place;
        return;
    }
    struct map_node *parent = node_edit(h, path->at[path->depth - 1]);
    if (key_compare(key, node_key(parent)) < 0) {
        parent->left = place;
    } else {
        parent->right = place;
    }
    rebalance(h, map, path, path->depth);
}

int heap_map_put(struct heap *heap, enum heap_map map, struct slice key, struct slice value)
{
    assert(map < HEAP_MAP_COUNT);
    if (key.len == 0 || key.len > MAP_KEY_BYTES_MAX) {
        return key.len == 0 ? ERR_INVAL : ERR_TOOBIG;
    }
    if (value.len > MAP_VALUE_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    struct path path;
    bool found = find_path(heap, map, key, &path);
    uint64_t old = found ? path.at[path.depth - 1] : 0;
    if (found && node_get(heap, old)->value_len == value.len) {
        if (value.len > 0) {
            memcpy(heap_map_edit(heap, map, key, 0, value.len), value.data, value.len);
        }
        return 0;
    }
    uint64_t fresh = 0;
    int rv = node_new(heap, map, key, value, &fresh);
    if (rv != 0) {
        return rv;
    }
    if (found) {
        const struct map_node *o = node_get(heap, old);
        struct map_node *n = node_edit(heap, fresh);
        n->left = o->left;
        n->right = o->right;
        n->height = o->height;
        relink(heap, map, &path, path.depth - 1, old, fresh);
        forget_place(heap, map, key, old);
        block_free(heap, POOL_MAPS, old);
        return 0;
    }
    header_map_edit(heap, map)->count++;
    node_hang(heap, map, key, &path, fresh);
    return 0;
}

/* The last record of the path leaves the tree; its block stays. */
static void node_unhang(struct heap *h, enum heap_map map, struct path *path)
{
    uint32_t own = path->depth - 1;
    uint64_t at = path->at[own];
    const struct map_node *n = node_get(h, at);
    if (n->left == 0 || n->right == 0) {
        relink(h, map, path, own, at, n->left != 0 ? n->left : n->right);
        rebalance(h, map, path, own);
        return;
    }
    /* The next key takes the node's place. */
    uint64_t next = n->right;
    while (node_get(h, next)->left != 0) {
        path->at[path->depth++] = next;
        next = node_get(h, next)->left;
    }
    relink(h, map, path, path->depth, next, node_get(h, next)->right);
    struct map_node *s = node_edit(h, next);
    n = node_get(h, at);
    s->left = n->left;
    s->right = n->right;
    s->height = n->height;
    relink(h, map, path, own, at, next);
    path->at[own] = next;
    rebalance(h, map, path, path->depth);
}

int heap_map_delete(struct heap *heap, enum heap_map map, struct slice key)
{
    struct path path;
    assert(map < HEAP_MAP_COUNT);
    if (!find_path(heap, map, key, &path)) {
        return ERR_NOTFOUND;
    }
    uint64_t at = path.at[path.depth - 1];
    node_unhang(heap, map, &path);
    header_map_edit(heap, map)->count--;
    forget_place(heap, map, key, at);
    block_free(heap, POOL_MAPS, at);
    return 0;
}

void map_rekey(struct heap *h, enum heap_map map, struct slice from, struct slice to)
{
    struct path path;
    bool found = find_path(h, map, from, &path);
    assert(found);
    assert(from.len == to.len);
    uint64_t at = path.at[path.depth - 1];
    node_unhang(h, map, &path);
    forget_place(h, map, from, at);
    struct map_node *n =
        (struct map_node *)arena_write(&h->arena, block_address(h, at), sizeof *n + to.len);
    n->left = 0;
    n->right = 0;
    n->height = 1;
    memcpy(n + 1, to.data, to.len);
    found = find_path(h, map, to, &path);
    assert(!found);
    node_hang(h, map, to, &path, at);
}

void map_cut(struct heap *h, enum heap_map map, struct slice key, uint64_t len)
{
    uint64_t at = find(h, map, key);
    assert(at != 0);
    struct map_node *n = node_edit(h, at);
    assert(len <= n->value_len);
    n->value_len = (uint32_t)len;
    uint64_t need = value_offset(n->key_len) + len;
    uint64_t least = slab_block_bytes_max(h) + 1; /* of an extent */
    need = need > least ? need : least;
    if (place_class(at) == PLACE_NO_CLASS && need < block_bytes(h, at)) {
        (void)block_resize(h, POOL_MAPS, at, need);
    }
}

uint64_t heap_map_count(const struct heap *heap, enum heap_map map)
{
    assert(map < HEAP_MAP_COUNT);
    return header(heap)->maps[map].count;
}

int heap_map_next(const struct heap *heap, enum heap_map map, struct slice after, struct slice *key,
                  struct slice *value)
{
    assert(map < HEAP_MAP_COUNT);
    *key = slice_of(NULL, 0);
    *value = slice_of(NULL, 0);
    uint64_t at = header(heap)->maps[map].root;
    uint64_t best = 0;
    while (at != 0) {
        const struct map_node *n = node_get(heap, at);
        if (key_compare(node_key(n), after) > 0) {
            best = at;
            at = n->left;
        } else {
            at = n->right;
        }
    }
    if (best == 0) {
        return ERR_NOTFOUND;
    }
    *key = node_key(node_get(heap, best));
    *value = node_value(node_get(heap, best));
    return 0;
}

void map_moved(struct heap *h, uint64_t from, uint64_t to)
{
    const struct map_node *n = node_get(h, to);
    enum heap_map map = (enum heap_map)n->map;
    assert(n->magic == BLOCK_MAGIC_MAP);
    assert(map < HEAP_MAP_COUNT);
    /* The key leads to the parent: the bytes at `from`, which may be gone, aren't looked at. */
    struct path path = {.depth = 0};
    for (uint64_t at = header(h)->maps[map].root; at != from;) {
        assert(at != 0);
        assert(path.depth < MAP_HEIGHT_MAX);
        path.at[path.depth++] = at;
        const struct map_node *above = node_get(h, at);
        at = key_compare(node_key(n), node_key(above)) < 0 ? above->left : above->right;
    }
    relink(h, map, &path, path.depth, from, to);
    forget_place(h, map, node_key(n), from);
}
