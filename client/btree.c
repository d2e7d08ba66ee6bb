/* <cairn/btree.h>. A node is one object:
 *
 *   leaf u8, 0 u8, count u16, bytes u32; then per entry: key_len u16, key, pointer u64
 *
 * In an inner node entry i leads to the keys from its own key on (the first one: to all below the
 * second). The tree's object holds the root's pointer, CAIRN_NULL when it is empty. */
#include "cairn/btree.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "cairn/list.h"
#include "client/sdk.h"

#define NODE_BYTES_FULL  4000u /* larger ones are split; fits a block of 4 KiB with its header */
#define NODE_BYTES_MERGE 1200u /* smaller ones are merged with a neighbour */
#define CELL_BYTES_MAX   (2u + CAIRN_BTREE_KEY_BYTES_MAX + 8u)
#define IMAGE_BYTES_MAX  (2u * NODE_BYTES_FULL + 2u * CELL_BYTES_MAX) /* while being edited */
#define DEPTH_MAX        24u
#define ENTRIES_MAX      (IMAGE_BYTES_MAX / 11u)

struct node_head {
    uint8_t leaf;
    uint8_t zero;
    uint16_t count;
    uint32_t bytes; /* of the whole node */
};
static_assert(sizeof(struct node_head) == 8, "format");

struct entry {
    const uint8_t *key;
    uint16_t key_len;
    cairn_ptr ptr;
};

/* A node in memory. Keys point into `image` or at the caller's key. */
struct node {
    bool leaf;
    unsigned count;
    struct entry entries[ENTRIES_MAX];
    uint8_t image[NODE_BYTES_FULL + CELL_BYTES_MAX];
};

struct level {
    cairn_ptr ptr;
    unsigned at; /* entry taken */
    struct node *node;
};

struct path {
    unsigned depth;
    struct level levels[DEPTH_MAX];
    /* What a change makes, and what it replaces. */
    cairn_ptr fresh[3 * DEPTH_MAX], old[3 * DEPTH_MAX];
    unsigned fresh_count, old_count;
};

static int damaged(void)
{
    return sdk__because(CAIRN_E_CORRUPT, "what the B-tree is made of is damaged");
}

static int check_key(const void *key, size_t key_len)
{
    if (key == NULL && key_len > 0) {
        return sdk__missing("key");
    }
    return key_len > 0 && key_len <= CAIRN_BTREE_KEY_BYTES_MAX
               ? 0
               : sdk__fail(key_len == 0 ? CAIRN_E_INVAL : CAIRN_E_TOOBIG,
                           "a key of %zu bytes: 1 to %u are allowed", key_len,
                           CAIRN_BTREE_KEY_BYTES_MAX);
}

static int key_compare(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    size_t len = a_len < b_len ? a_len : b_len;
    int c = len == 0 ? 0 : memcmp(a, b, len);
    return c != 0 ? c : (a_len > b_len) - (a_len < b_len);
}

static int root_read(cairn_heap *heap, cairn_ptr tree, cairn_ptr *root)
{
    *root = CAIRN_NULL;
    int rv = sdk__container_check(heap, tree, CAIRN_TYPE_BTREE);
    return rv != 0 ? rv : cairn_read(heap, tree, 0, root, sizeof *root, NULL);
}

/* ---- nodes ---- */

static int node_parse(struct node *n, size_t bytes)
{
    struct node_head head;
    memcpy(&head, n->image, sizeof head);
    size_t at = sizeof head;
    if (head.bytes > bytes || head.count == 0 || head.count > ENTRIES_MAX) {
        return damaged();
    }
    n->leaf = head.leaf != 0;
    n->count = head.count;
    for (unsigned i = 0; i < head.count; i++) {
        struct entry *e = &n->entries[i];
        if (at + 2 > head.bytes) {
            return damaged();
        }
        memcpy(&e->key_len, n->image + at, 2);
        e->key = n->image + at + 2;
        at += 2u + e->key_len;
        if (e->key_len > CAIRN_BTREE_KEY_BYTES_MAX || at + 8 > head.bytes) {
            return damaged();
        }
        memcpy(&e->ptr, n->image + at, 8);
        at += 8;
    }
    return at == head.bytes ? 0 : damaged();
}

/* All of a node in one read when it is as small as most are, else in two. *out is given. */
static int node_read(cairn_heap *heap, cairn_ptr ptr, struct node **out)
{
    *out = mem_alloc(sizeof **out);
    if (*out == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory");
    }
    struct node_head head;
    int rv = cairn_read(heap, ptr, 0, &head, sizeof head, NULL);
    if (rv == 0 && (head.bytes < sizeof head || head.bytes > sizeof(*out)->image)) {
        rv = damaged();
    }
    if (rv == 0) {
        rv = cairn_read(heap, ptr, 0, (*out)->image, head.bytes, NULL);
    }
    if (rv == 0) {
        rv = node_parse(*out, head.bytes);
    }
    if (rv != 0) {
        mem_free(*out);
        *out = NULL;
    }
    return rv;
}

static size_t entry_bytes(const struct entry *e)
{
    return 2u + e->key_len + 8u;
}

static size_t node_bytes(const struct node *n)
{
    size_t bytes = sizeof(struct node_head);
    for (unsigned i = 0; i < n->count; i++) {
        bytes += entry_bytes(&n->entries[i]);
    }
    return bytes;
}

/* Entries [from, to) as a node of their own. */
static int node_write(cairn_heap *heap, struct path *path, const struct node *n, unsigned from,
                      unsigned to, cairn_ptr *out)
{
    uint8_t image[NODE_BYTES_FULL + CELL_BYTES_MAX];
    size_t at = sizeof(struct node_head);
    for (unsigned i = from; i < to; i++) {
        const struct entry *e = &n->entries[i];
        assert(at + entry_bytes(e) <= sizeof image);
        memcpy(image + at, &e->key_len, 2);
        memcpy(image + at + 2, e->key, e->key_len);
        memcpy(image + at + 2 + e->key_len, &e->ptr, 8);
        at += entry_bytes(e);
    }
    struct node_head head = {n->leaf, 0, (uint16_t)(to - from), (uint32_t)at};
    memcpy(image, &head, sizeof head);
    assert(path->fresh_count < sizeof path->fresh / sizeof path->fresh[0]);
    int rv = cairn_alloc_init(heap, at, CAIRN_TYPE_BTREE_NODE, image, at, out);
    if (rv == 0) {
        path->fresh[path->fresh_count++] = *out;
    }
    return rv;
}

/* The entry to take for a key: the last one whose key isn't greater (in an inner node at least the
 * first). *equal: its key is this one. */
static unsigned node_find(const struct node *n, const uint8_t *key, size_t key_len, bool *equal)
{
    unsigned low = 0;
    unsigned high = n->count;
    *equal = false;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        int c = key_compare(key, key_len, n->entries[mid].key, n->entries[mid].key_len);
        if (c == 0) {
            *equal = true;
            return mid;
        }
        if (c < 0) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return low; /* of a leaf: where it would be inserted */
}

static unsigned child_find(const struct node *n, const uint8_t *key, size_t key_len)
{
    bool equal = false;
    unsigned at = node_find(n, key, key_len, &equal);
    return equal || at == 0 ? at : at - 1;
}

/* ---- paths ---- */

static void path_close(struct path *path)
{
    for (unsigned i = 0; i < path->depth; i++) {
        mem_free(path->levels[i].node);
    }
    path->depth = 0;
}

static void path_replace(struct path *path, cairn_ptr old)
{
    assert(path->old_count < sizeof path->old / sizeof path->old[0]);
    path->old[path->old_count++] = old;
}

/* From the root down to the key's leaf. A node that was replaced meanwhile is STALE: CONFLICT,
 * begin anew. depth 0: the tree is empty. */
static int path_open(cairn_heap *heap, cairn_ptr tree, const uint8_t *key, size_t key_len,
                     struct path *path, cairn_ptr *root)
{
    path->depth = path->fresh_count = path->old_count = 0;
    int rv = root_read(heap, tree, root);
    cairn_ptr at = *root;
    while (rv == 0 && !cairn_ptr_is_null(at)) {
        struct node *n = NULL;
        if (path->depth == DEPTH_MAX) {
            rv = damaged();
            break;
        }
        rv = node_read(heap, at, &n);
        if (rv != 0) {
            rv = rv == CAIRN_E_STALE ? CAIRN_E_CONFLICT : rv;
            break;
        }
        struct level *level = &path->levels[path->depth++];
        level->ptr = at;
        level->node = n;
        level->at = n->leaf ? 0 : child_find(n, key, key_len);
        if (n->leaf) {
            return 0;
        }
        at = n->entries[level->at].ptr;
    }
    if (rv != 0) {
        path_close(path);
    }
    return rv;
}

static void free_all(cairn_heap *heap, const cairn_ptr *ptrs, unsigned count)
{
    cairn_future *futures[3 * DEPTH_MAX];
    unsigned started = 0;
    for (unsigned i = 0; i < count; i++) {
        if (cairn_free_async(heap, ptrs[i], &futures[started]) == 0) {
            started++;
        }
    }
    for (unsigned i = 0; i < started; i++) {
        (void)cairn_future_wait(futures[i], UINT32_MAX);
        cairn_future_free(futures[i]);
    }
}

/* The tree becomes what was written. CONFLICT: another change came first; nothing is left. */
static int path_commit(cairn_heap *heap, cairn_ptr tree, struct path *path, cairn_ptr from,
                       cairn_ptr to)
{
    int rv = cairn_compare_and_write(heap, tree, 0, &from, &to, sizeof from);
    if (rv == 0) {
        free_all(heap, path->old, path->old_count);
    } else if (!cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        free_all(heap, path->fresh, path->fresh_count);
    }
    return rv;
}

static void entry_insert(struct node *n, unsigned at, struct entry e)
{
    assert(n->count < ENTRIES_MAX);
    memmove(&n->entries[at + 1], &n->entries[at], (n->count - at) * sizeof e);
    n->entries[at] = e;
    n->count++;
}

static void entry_remove(struct node *n, unsigned at)
{
    assert(at < n->count);
    n->count--;
    memmove(&n->entries[at], &n->entries[at + 1], (n->count - at) * sizeof n->entries[0]);
}

/* Writes the node of a level anew, as two if it has grown too large: *left, and *right with the
 * entry that leads to it. */
static int level_write(cairn_heap *heap, struct path *path, const struct node *n, cairn_ptr *left,
                       struct entry *right)
{
    size_t bytes = node_bytes(n);
    right->ptr = CAIRN_NULL;
    if (bytes <= NODE_BYTES_FULL) {
        return node_write(heap, path, n, 0, n->count, left);
    }
    unsigned half = 0;
    for (size_t sum = 0; half + 1 < n->count && sum < bytes / 2; half++) {
        sum += entry_bytes(&n->entries[half]);
    }
    int rv = node_write(heap, path, n, 0, half, left);
    if (rv == 0) {
        rv = node_write(heap, path, n, half, n->count, &right->ptr);
    }
    right->key = n->entries[half].key;
    right->key_len = n->entries[half].key_len;
    return rv;
}

/* An underfull node takes in a neighbour, if both fit in one: the parent loses an entry. *keep
 * holds the neighbour's bytes until the path is written. */
static int level_merge(cairn_heap *heap, struct path *path, unsigned depth, struct node **keep)
{
    struct level *level = &path->levels[depth];
    struct level *parent = &path->levels[depth - 1];
    *keep = NULL;
    if (node_bytes(level->node) >= NODE_BYTES_MERGE || parent->node->count < 2) {
        return 0;
    }
    bool with_left = parent->at > 0;
    unsigned other = with_left ? parent->at - 1 : parent->at + 1;
    struct node *n = NULL;
    cairn_ptr ptr = parent->node->entries[other].ptr;
    int rv = node_read(heap, ptr, &n);
    if (rv != 0) {
        return rv == CAIRN_E_STALE ? CAIRN_E_CONFLICT : rv;
    }
    *keep = n;
    if (n->leaf != level->node->leaf || node_bytes(n) + node_bytes(level->node) > NODE_BYTES_FULL) {
        return 0;
    }
    if (!level->node->leaf) {
        /* The first entry of an inner node stands for everything below the second: between two
         * nodes its bound is the parent's. */
        struct node *second = with_left ? level->node : n;
        const struct entry *bound = &parent->node->entries[with_left ? parent->at : other];
        second->entries[0].key = bound->key;
        second->entries[0].key_len = bound->key_len;
    }
    unsigned at = with_left ? 0 : level->node->count;
    for (unsigned i = 0; i < n->count; i++) {
        entry_insert(level->node, at + i, n->entries[i]);
    }
    path_replace(path, ptr);
    if (with_left) {
        /* The merged node covers from the left one's bound on. */
        entry_remove(parent->node, parent->at);
        parent->at--;
    } else {
        entry_remove(parent->node, other);
    }
    return 0;
}

/* Writes the changed leaf and everything above it. *root: of the new tree. */
static int path_write(cairn_heap *heap, struct path *path, cairn_ptr *root)
{
    struct node *keep[DEPTH_MAX] = {NULL};
    int rv = 0;
    *root = CAIRN_NULL;
    for (unsigned depth = path->depth; depth-- > 0 && rv == 0;) {
        struct level *level = &path->levels[depth];
        struct level *parent = depth > 0 ? &path->levels[depth - 1] : NULL;
        path_replace(path, level->ptr);
        if (level->node->count == 0) {
            if (parent != NULL) {
                entry_remove(parent->node, parent->at);
            }
            continue;
        }
        if (parent != NULL) {
            rv = level_merge(heap, path, depth, &keep[depth]);
            if (rv != 0) {
                break;
            }
        } else if (!level->node->leaf && level->node->count == 1) {
            *root = level->node->entries[0].ptr; /* one level less */
            break;
        }
        cairn_ptr left;
        struct entry right;
        rv = level_write(heap, path, level->node, &left, &right);
        if (rv != 0) {
            break;
        }
        if (parent != NULL) {
            parent->node->entries[parent->at].ptr = left;
            if (!cairn_ptr_is_null(right.ptr)) {
                entry_insert(parent->node, parent->at + 1, right);
            }
        } else if (cairn_ptr_is_null(right.ptr)) {
            *root = left;
        } else {
            struct node *top = mem_alloc(sizeof *top);
            if (top == NULL) {
                rv = sdk__fail(CAIRN_E_NOMEM, "out of memory");
                break;
            }
            top->leaf = false;
            top->count = 2;
            top->entries[0] = level->node->entries[0];
            top->entries[0].ptr = left;
            top->entries[1] = right;
            rv = node_write(heap, path, top, 0, 2, root);
            mem_free(top);
        }
    }
    for (unsigned i = 0; i < DEPTH_MAX; i++) {
        mem_free(keep[i]);
    }
    if (rv != 0) {
        free_all(heap, path->fresh, path->fresh_count);
    }
    return rv;
}

/* ---- the calls ---- */

int cairn_btree_new(cairn_heap *heap, cairn_ptr *tree)
{
    return tree == NULL ? sdk__missing("tree")
                        : cairn_alloc(heap, sizeof(cairn_ptr), CAIRN_TYPE_BTREE, tree);
}

/* The first entry ever. */
static int put_first(cairn_heap *heap, cairn_ptr tree, struct path *path, struct entry e)
{
    struct node *n = mem_alloc(sizeof *n);
    cairn_ptr root;
    if (n == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory");
    }
    n->leaf = true;
    n->count = 1;
    n->entries[0] = e;
    int rv = node_write(heap, path, n, 0, 1, &root);
    mem_free(n);
    return rv != 0 ? rv : path_commit(heap, tree, path, CAIRN_NULL, root);
}

static int put_once(cairn_heap *heap, cairn_ptr tree, struct entry e, cairn_ptr *previous)
{
    struct path path;
    cairn_ptr root;
    int rv = path_open(heap, tree, e.key, e.key_len, &path, &root);
    *previous = CAIRN_NULL;
    if (rv != 0) {
        return rv;
    }
    if (path.depth == 0) {
        return put_first(heap, tree, &path, e);
    }
    struct node *leaf = path.levels[path.depth - 1].node;
    bool equal = false;
    unsigned at = node_find(leaf, e.key, e.key_len, &equal);
    if (equal) {
        *previous = leaf->entries[at].ptr;
        leaf->entries[at].ptr = e.ptr;
    } else {
        entry_insert(leaf, at, e);
    }
    cairn_ptr fresh;
    rv = path_write(heap, &path, &fresh);
    if (rv == 0) {
        rv = path_commit(heap, tree, &path, root, fresh);
    }
    path_close(&path);
    return rv;
}

int cairn_btree_put(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                    cairn_ptr value, cairn_ptr *previous)
{
    int rv = check_key(key, key_len);
    if (rv == 0 && cairn_ptr_is_null(value)) {
        rv = sdk__fail(CAIRN_E_INVAL, "the null pointer is no value: remove the key instead");
    }
    if (rv != 0) {
        return rv;
    }
    cairn_ptr before;
    struct entry e = {key, (uint16_t)key_len, value};
    do {
        rv = put_once(heap, tree, e, &before);
    } while (rv == CAIRN_E_CONFLICT);
    if (previous != NULL) {
        *previous = before;
    }
    return rv;
}

static int remove_once(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                       cairn_ptr *previous)
{
    struct path path;
    cairn_ptr root;
    bool equal = false;
    int rv = path_open(heap, tree, key, key_len, &path, &root);
    *previous = CAIRN_NULL;
    if (rv != 0) {
        return rv;
    }
    struct node *leaf = path.depth == 0 ? NULL : path.levels[path.depth - 1].node;
    unsigned at = leaf == NULL ? 0 : node_find(leaf, key, key_len, &equal);
    if (!equal) {
        path_close(&path);
        return sdk__fail(CAIRN_E_NOTFOUND, "no such key: put it first, or check it");
    }
    *previous = leaf->entries[at].ptr;
    entry_remove(leaf, at);
    cairn_ptr fresh;
    rv = path_write(heap, &path, &fresh);
    if (rv == 0) {
        rv = path_commit(heap, tree, &path, root, fresh);
    }
    path_close(&path);
    return rv;
}

int cairn_btree_remove(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                       cairn_ptr *previous)
{
    cairn_ptr before = CAIRN_NULL;
    int rv = check_key(key, key_len);
    if (rv == 0) {
        do {
            rv = remove_once(heap, tree, key, key_len, &before);
        } while (rv == CAIRN_E_CONFLICT);
    }
    if (previous != NULL) {
        *previous = before;
    }
    return rv;
}

int cairn_btree_get(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                    cairn_ptr *value)
{
    struct path path;
    cairn_ptr root;
    if (value == NULL) {
        return sdk__missing("value");
    }
    *value = CAIRN_NULL;
    int rv = check_key(key, key_len);
    if (rv != 0) {
        return rv;
    }
    do {
        rv = path_open(heap, tree, key, key_len, &path, &root);
    } while (rv == CAIRN_E_CONFLICT);
    if (rv != 0) {
        return rv;
    }
    bool equal = false;
    if (path.depth > 0) {
        const struct node *leaf = path.levels[path.depth - 1].node;
        unsigned at = node_find(leaf, key, key_len, &equal);
        *value = equal ? leaf->entries[at].ptr : CAIRN_NULL;
    }
    path_close(&path);
    return equal ? 0 : sdk__fail(CAIRN_E_NOTFOUND, "no such key: put it first, or check it");
}

/* The smallest bound above the path's leaf: where the next leaf begins. False: it is the last. */
static bool path_next(const struct path *path, uint8_t *key, size_t *key_len)
{
    for (unsigned depth = path->depth - 1; depth-- > 0;) {
        const struct level *level = &path->levels[depth];
        if (level->at + 1 < level->node->count) {
            const struct entry *e = &level->node->entries[level->at + 1];
            memcpy(key, e->key, e->key_len);
            *key_len = e->key_len;
            return true;
        }
    }
    return false;
}

/* Leaf by leaf; each is found from the root, since another change may have replaced the path. */
int cairn_btree_each(cairn_heap *heap, cairn_ptr tree, const void *from, size_t from_len,
                     cairn_btree_cb cb, void *arg)
{
    uint8_t key[CAIRN_BTREE_KEY_BYTES_MAX];
    size_t key_len = from_len;
    if (cb == NULL || (from == NULL && from_len > 0)) {
        return sdk__missing(cb == NULL ? "cb" : "from");
    }
    if (from_len > CAIRN_BTREE_KEY_BYTES_MAX) {
        return check_key(from, from_len);
    }
    if (from_len > 0) {
        memcpy(key, from, from_len);
    }
    for (;;) {
        struct path path;
        cairn_ptr root;
        int rv = path_open(heap, tree, key, key_len, &path, &root);
        if (rv == CAIRN_E_CONFLICT) {
            continue;
        }
        if (rv != 0 || path.depth == 0) {
            return rv;
        }
        const struct node *leaf = path.levels[path.depth - 1].node;
        bool equal = false;
        for (unsigned i = node_find(leaf, key, key_len, &equal); i < leaf->count && rv == 0; i++) {
            const struct entry *e = &leaf->entries[i];
            rv = cb(arg, e->key, e->key_len, e->ptr);
        }
        bool more = rv == 0 && path_next(&path, key, &key_len);
        path_close(&path);
        if (!more) {
            return rv;
        }
    }
}

static int destroy_below(cairn_heap *heap, cairn_ptr ptr, unsigned depth)
{
    struct node *n = NULL;
    int rv = depth == DEPTH_MAX ? damaged() : node_read(heap, ptr, &n);
    if (rv == 0 && !n->leaf) {
        for (unsigned i = 0; i < n->count && rv == 0; i++) {
            rv = destroy_below(heap, n->entries[i].ptr, depth + 1);
        }
    }
    mem_free(n);
    return rv != 0 ? rv : cairn_free(heap, ptr);
}

int cairn_btree_destroy(cairn_heap *heap, cairn_ptr tree)
{
    cairn_ptr root;
    int rv = root_read(heap, tree, &root);
    if (rv == 0 && !cairn_ptr_is_null(root)) {
        rv = destroy_below(heap, root, 0);
    }
    return rv != 0 ? rv : cairn_free(heap, tree);
}
