/* <cairn/hash.h>. All nodes are one list, ordered by their hash with its bits reversed, so that
 * doubling the number of buckets splits each of them in place. Bucket b's entry points at a dummy
 * node, which is put in when the bucket is used first; odd orders are entries, even ones dummies.
 * Links, marks and who frees what are as in client/list.c. */
#include "cairn/hash.h"

#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cairn/list.h"
#include "client/sdk.h"

#define BUCKETS_BITS_FIRST 4u
#define BUCKETS_BITS_MAX   30u
/* Segment 0 holds the first 16 buckets, segment i > 0 the next 16 << (i - 1). */
#define SEGMENTS   (BUCKETS_BITS_MAX - BUCKETS_BITS_FIRST + 1)
#define CHAIN_LONG 4u /* entries passed in one bucket, from which on the map grows */

struct hash_root {
    uint64_t bits; /* of the number of buckets */
    cairn_ptr segments[SEGMENTS];
};

struct hash_node {
    cairn_ptr next;
    uint64_t removed;
    cairn_ptr value;
    uint64_t order;
    uint32_t key_len;
    uint32_t reserved;
};
#define KEY_INLINE 40u /* read with the node: most keys need no second look */
struct hash_image {
    struct hash_node node;
    uint8_t key[KEY_INLINE];
};
static_assert(sizeof(struct hash_image) == 80, "one read; node objects are never smaller");

struct spot { /* between `pred` and what it points at */
    cairn_ptr pred;
    struct hash_node p;
    struct hash_node n; /* *p.next, when there is one */
    bool found;         /* n is the one looked for */
    unsigned passed;
};

static uint64_t reverse(uint64_t x)
{
    x = (x >> 1 & 0x5555555555555555ull) | (x & 0x5555555555555555ull) << 1;
    x = (x >> 2 & 0x3333333333333333ull) | (x & 0x3333333333333333ull) << 2;
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0full) | (x & 0x0f0f0f0f0f0f0f0full) << 4;
    return __builtin_bswap64(x);
}

static int damaged(void)
{
    return sdk__because(CAIRN_E_CORRUPT, "what the hash map is made of is damaged");
}

static int check_key(const void *key, size_t key_len)
{
    if (key == NULL && key_len > 0) {
        return sdk__missing("key");
    }
    return key_len > 0 && key_len <= CAIRN_HASH_KEY_BYTES_MAX
               ? 0
               : sdk__fail(key_len == 0 ? CAIRN_E_INVAL : CAIRN_E_TOOBIG,
                           "a key of %zu bytes: 1 to %u are allowed", key_len,
                           CAIRN_HASH_KEY_BYTES_MAX);
}

static int image_read(cairn_heap *heap, cairn_ptr ptr, struct hash_image *out)
{
    return cairn_read(heap, ptr, 0, out, sizeof *out, NULL);
}

static int link_move(cairn_heap *heap, cairn_ptr ptr, cairn_ptr from, cairn_ptr to)
{
    uint64_t before[2] = {from.word, 0};
    uint64_t after[2] = {to.word, 0};
    int rv = cairn_compare_and_write(heap, ptr, 0, before, after, sizeof before);
    return rv == CAIRN_E_STALE ? CAIRN_E_CONFLICT : rv;
}

static int node_new(cairn_heap *heap, struct hash_node node, const void *key, cairn_ptr *out)
{
    struct {
        struct hash_node node;
        uint8_t key[CAIRN_HASH_KEY_BYTES_MAX];
    } image;
    memset(&image, 0, sizeof image);
    image.node = node;
    if (node.key_len > 0) {
        memcpy(image.key, key, node.key_len);
    }
    size_t bytes = sizeof node + node.key_len;
    bytes = bytes < sizeof(struct hash_image) ? sizeof(struct hash_image) : bytes;
    return cairn_alloc_init(heap, bytes, CAIRN_TYPE_HASH_NODE, &image, bytes, out);
}

/* <0, 0, >0: where (order, key) lies beside the node. */
static int compare(cairn_heap *heap, cairn_ptr ptr, const struct hash_image *image, uint64_t order,
                   const void *key, size_t key_len, int *out)
{
    const struct hash_node *n = &image->node;
    uint8_t whole[CAIRN_HASH_KEY_BYTES_MAX];
    const uint8_t *bytes = image->key;
    *out = order < n->order ? -1 : order > n->order;
    if (*out != 0 || (order & 1) == 0) {
        return 0;
    }
    *out = key_len < n->key_len ? -1 : key_len > n->key_len;
    if (*out != 0) {
        return 0;
    }
    if (key_len > KEY_INLINE) {
        int rv = cairn_read(heap, ptr, sizeof *n, whole, key_len, NULL);
        if (rv != 0) {
            return rv;
        }
        bytes = whole;
    }
    *out = memcmp(key, bytes, key_len);
    return 0;
}

/* The first place behind `from` whose node isn't before (order, key). Removed nodes on the way are
 * unlinked and freed. CONFLICT: begin anew. */
static int walk(cairn_heap *heap, cairn_ptr from, uint64_t order, const void *key, size_t key_len,
                struct spot *s)
{
    struct hash_image image;
    s->pred = from;
    s->found = false;
    s->passed = 0;
    int rv = image_read(heap, from, &image);
    s->p = image.node;
    while (rv == 0 && !cairn_ptr_is_null(s->p.next)) {
        cairn_ptr at = s->p.next;
        rv = image_read(heap, at, &image);
        if (rv == CAIRN_E_STALE) {
            rv = image_read(heap, s->pred, &image);
            s->p = image.node;
            if (rv == CAIRN_E_STALE || (rv == 0 && s->p.removed != 0)) {
                return CAIRN_E_CONFLICT;
            }
            continue;
        }
        if (rv != 0) {
            return rv;
        }
        s->n = image.node;
        if (s->n.removed != 0) {
            rv = link_move(heap, s->pred, at, s->n.next);
            if (rv == 0) {
                s->p.next = s->n.next;
                rv = cairn_free(heap, at);
                rv = rv == CAIRN_E_STALE ? 0 : rv;
            }
            continue;
        }
        int side = 0;
        rv = compare(heap, at, &image, order, key, key_len, &side);
        if (rv == CAIRN_E_STALE) {
            rv = 0; /* gone since: look at pred's link again */
            continue;
        }
        if (rv != 0 || side <= 0) {
            s->found = rv == 0 && side == 0;
            return rv;
        }
        s->pred = at;
        s->p = s->n;
        s->passed++;
    }
    return rv;
}

/* ---- buckets ---- */

static void place_of(uint64_t bucket, unsigned *segment, uint64_t *offset, uint64_t *count)
{
    *segment = 0;
    *offset = bucket;
    *count = (uint64_t)1 << BUCKETS_BITS_FIRST;
    if (bucket >> BUCKETS_BITS_FIRST != 0) {
        unsigned log = 63 - (unsigned)__builtin_clzll(bucket);
        *segment = log - BUCKETS_BITS_FIRST + 1;
        *count = (uint64_t)1 << log;
        *offset = bucket - *count;
    }
}

/* The object with a segment's buckets, made if it isn't there yet. */
static int segment_get(cairn_heap *heap, cairn_ptr hash, const struct hash_root *root,
                       unsigned segment, uint64_t count, cairn_ptr *out)
{
    *out = root->segments[segment];
    if (!cairn_ptr_is_null(*out)) {
        return 0;
    }
    cairn_ptr fresh;
    int rv = cairn_alloc(heap, count * sizeof(cairn_ptr), CAIRN_TYPE_HASH_BUCKETS, &fresh);
    if (rv != 0) {
        return rv;
    }
    size_t at = offsetof(struct hash_root, segments) + segment * sizeof(cairn_ptr);
    rv = cairn_compare_and_write(heap, hash, at, &CAIRN_NULL, &fresh, sizeof fresh);
    if (rv == 0) {
        *out = fresh;
        return 0;
    }
    if (!cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        (void)cairn_free(heap, fresh);
    }
    return rv == CAIRN_E_CONFLICT ? cairn_read(heap, hash, at, out, sizeof *out, NULL) : rv;
}

static int bucket_get(cairn_heap *heap, cairn_ptr hash, const struct hash_root *root,
                      uint64_t bucket, cairn_ptr *dummy);

/* Puts the bucket's dummy into the list, beginning at its parent: the bucket without its top bit.
 */
static int bucket_new(cairn_heap *heap, cairn_ptr hash, const struct hash_root *root,
                      uint64_t bucket, cairn_ptr *dummy)
{
    uint64_t top = (uint64_t)1 << (63 - (unsigned)__builtin_clzll(bucket));
    cairn_ptr parent;
    int rv = bucket_get(heap, hash, root, bucket & ~top, &parent);
    while (rv == 0) {
        struct spot s;
        uint64_t order = reverse(bucket);
        rv = walk(heap, parent, order, NULL, 0, &s);
        if (rv == CAIRN_E_CONFLICT) {
            rv = 0;
            continue;
        }
        if (rv != 0) {
            return rv;
        }
        if (s.found) {
            *dummy = s.p.next;
            return 0;
        }
        struct hash_node node = {.next = s.p.next, .order = order};
        rv = node_new(heap, node, NULL, dummy);
        if (rv != 0) {
            return rv;
        }
        rv = link_move(heap, s.pred, s.p.next, *dummy);
        if (rv == 0) {
            return 0;
        }
        if (!cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
            (void)cairn_free(heap, *dummy);
        }
        rv = rv == CAIRN_E_CONFLICT ? 0 : rv;
    }
    return rv;
}

static int bucket_get(cairn_heap *heap, cairn_ptr hash, const struct hash_root *root,
                      uint64_t bucket, cairn_ptr *dummy)
{
    unsigned segment;
    uint64_t offset;
    uint64_t count;
    cairn_ptr buckets;
    place_of(bucket, &segment, &offset, &count);
    int rv = segment_get(heap, hash, root, segment, count, &buckets);
    if (rv == 0) {
        rv = cairn_read(heap, buckets, offset * sizeof *dummy, dummy, sizeof *dummy, NULL);
    }
    if (rv != 0 || !cairn_ptr_is_null(*dummy)) {
        return rv;
    }
    if (bucket == 0) {
        return damaged();
    }
    rv = bucket_new(heap, hash, root, bucket, dummy);
    if (rv == 0) {
        /* Two may come here: both found or made the same dummy. */
        rv = cairn_write(heap, buckets, offset * sizeof *dummy, dummy, sizeof *dummy);
    }
    return rv;
}

/* Twice as many buckets, unless somebody else was faster. */
static int grow(cairn_heap *heap, cairn_ptr hash, uint64_t bits)
{
    uint64_t more = bits + 1;
    if (bits >= BUCKETS_BITS_MAX) {
        return 0;
    }
    int rv = cairn_compare_and_write(heap, hash, offsetof(struct hash_root, bits), &bits, &more,
                                     sizeof bits);
    return rv == CAIRN_E_CONFLICT ? 0 : rv;
}

/* ---- the calls ---- */

int cairn_hash_new(cairn_heap *heap, cairn_ptr *hash)
{
    struct hash_root root;
    cairn_ptr first[1u << BUCKETS_BITS_FIRST];
    if (hash == NULL) {
        return sdk__missing("hash");
    }
    struct hash_node node = {.order = 0};
    memset(&root, 0, sizeof root);
    memset(first, 0, sizeof first);
    root.bits = BUCKETS_BITS_FIRST;
    int rv = node_new(heap, node, NULL, &first[0]);
    if (rv == 0) {
        rv = cairn_alloc_init(heap, sizeof first, CAIRN_TYPE_HASH_BUCKETS, first, sizeof first,
                              &root.segments[0]);
    }
    if (rv == 0) {
        rv = cairn_alloc_init(heap, sizeof root, CAIRN_TYPE_HASH, &root, sizeof root, hash);
    }
    return rv;
}

static int root_read(cairn_heap *heap, cairn_ptr hash, struct hash_root *root)
{
    int rv = sdk__container_check(heap, hash, CAIRN_TYPE_HASH);
    if (rv == 0) {
        rv = cairn_read(heap, hash, 0, root, sizeof *root, NULL);
    }
    if (rv == 0 && (root->bits < BUCKETS_BITS_FIRST || root->bits > BUCKETS_BITS_MAX)) {
        rv = damaged();
    }
    return rv;
}

/* Where a key is or would be. */
static int find(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len, struct spot *s,
                uint64_t *order, uint64_t *bits)
{
    struct hash_root root;
    int rv = check_key(key, key_len);
    if (rv == 0) {
        rv = root_read(heap, hash, &root);
    }
    if (rv != 0) {
        return rv;
    }
    uint64_t h = hash64(0, key, key_len);
    *bits = root.bits;
    *order = reverse(h) | 1;
    cairn_ptr dummy;
    rv = bucket_get(heap, hash, &root, h & (((uint64_t)1 << root.bits) - 1), &dummy);
    while (rv == 0) {
        rv = walk(heap, dummy, *order, key, key_len, s);
        if (rv != CAIRN_E_CONFLICT) {
            break;
        }
        rv = 0;
    }
    return rv;
}

/* An entry that is there gets another value. */
static int value_move(cairn_heap *heap, const struct spot *s, cairn_ptr value)
{
    uint64_t before[2] = {0, s->n.value.word};
    uint64_t after[2] = {0, value.word};
    int rv = cairn_compare_and_write(heap, s->p.next, offsetof(struct hash_node, removed), before,
                                     after, sizeof before);
    return rv == CAIRN_E_STALE ? CAIRN_E_CONFLICT : rv;
}

int cairn_hash_put(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len,
                   cairn_ptr value, cairn_ptr *previous)
{
    if (cairn_ptr_is_null(value)) {
        return sdk__fail(CAIRN_E_INVAL, "the null pointer is no value: remove the key instead");
    }
    for (;;) {
        struct spot s;
        uint64_t order = 0;
        uint64_t bits = 0;
        int rv = find(heap, hash, key, key_len, &s, &order, &bits);
        if (rv != 0) {
            return rv;
        }
        if (s.found) {
            rv = value_move(heap, &s, value);
            if (rv == CAIRN_E_CONFLICT) {
                continue;
            }
            if (previous != NULL) {
                *previous = s.n.value;
            }
            return rv;
        }
        struct hash_node node = {
            .next = s.p.next, .value = value, .order = order, .key_len = (uint32_t)key_len};
        cairn_ptr fresh;
        rv = node_new(heap, node, key, &fresh);
        if (rv != 0) {
            return rv;
        }
        rv = link_move(heap, s.pred, s.p.next, fresh);
        if (rv == 0) {
            if (previous != NULL) {
                *previous = CAIRN_NULL;
            }
            if (s.passed >= CHAIN_LONG) {
                (void)grow(heap, hash, bits); /* the entry is in; if not now, another put will */
            }
            return 0;
        }
        if (!cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
            (void)cairn_free(heap, fresh);
        }
        if (rv != CAIRN_E_CONFLICT) {
            return rv;
        }
    }
}

int cairn_hash_get(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len,
                   cairn_ptr *value)
{
    struct spot s;
    uint64_t order;
    uint64_t bits;
    if (value == NULL) {
        return sdk__missing("value");
    }
    *value = CAIRN_NULL;
    int rv = find(heap, hash, key, key_len, &s, &order, &bits);
    if (rv == 0 && !s.found) {
        rv = sdk__fail(CAIRN_E_NOTFOUND, "no such key: put it first, or check it");
    }
    if (rv == 0) {
        *value = s.n.value;
    }
    return rv;
}

int cairn_hash_remove(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len,
                      cairn_ptr *previous)
{
    for (;;) {
        struct spot s;
        uint64_t order;
        uint64_t bits;
        int rv = find(heap, hash, key, key_len, &s, &order, &bits);
        if (rv == 0 && !s.found) {
            rv = sdk__fail(CAIRN_E_NOTFOUND, "no such key: put it first, or check it");
        }
        if (rv != 0) {
            return rv;
        }
        /* Marked together with its link and value: neither can change afterwards. */
        uint64_t before[3] = {s.n.next.word, 0, s.n.value.word};
        uint64_t after[3] = {s.n.next.word, 1, s.n.value.word};
        rv = cairn_compare_and_write(heap, s.p.next, 0, before, after, sizeof before);
        if (rv == CAIRN_E_CONFLICT || rv == CAIRN_E_STALE) {
            continue;
        }
        if (rv != 0) {
            return rv;
        }
        if (previous != NULL) {
            *previous = s.n.value;
        }
        /* Unlinked by the next walk that comes by, at the latest. */
        cairn_ptr gone = s.p.next;
        if (link_move(heap, s.pred, gone, s.n.next) == 0) {
            (void)cairn_free(heap, gone);
        }
        return 0;
    }
}

/* Calls for every node of the list in order. Begins anew behind the last one when it must. */
static int each(cairn_heap *heap, cairn_ptr hash, cairn_hash_cb cb, void *arg)
{
    struct hash_root root;
    cairn_ptr first = CAIRN_NULL;
    uint8_t last[CAIRN_HASH_KEY_BYTES_MAX];
    uint8_t key[CAIRN_HASH_KEY_BYTES_MAX];
    size_t last_len = 0;
    uint64_t last_order = 0;
    int rv = root_read(heap, hash, &root);
    if (rv == 0) {
        rv = bucket_get(heap, hash, &root, 0, &first);
    }
    cairn_ptr from = first;
    while (rv == 0) {
        struct spot s;
        rv = walk(heap, from, last_order, last, last_len, &s);
        if (rv == CAIRN_E_CONFLICT || rv == CAIRN_E_STALE) {
            from = first; /* dummies stay for ever */
            rv = 0;
            continue;
        }
        if (rv != 0 || cairn_ptr_is_null(s.p.next)) {
            return rv;
        }
        cairn_ptr at = s.p.next;
        if (s.found && last_order != 0) {
            /* The last one itself is still there: go on behind it. */
            if (cairn_ptr_is_null(s.n.next)) {
                return 0;
            }
            at = s.n.next;
        }
        struct hash_image image;
        rv = image_read(heap, at, &image);
        if (rv == 0 && image.node.key_len > sizeof key) {
            return damaged();
        }
        if (rv == 0 && image.node.key_len > 0) {
            rv = cairn_read(heap, at, sizeof image.node, key, image.node.key_len, NULL);
        }
        if (rv == CAIRN_E_STALE) {
            rv = 0;
            continue;
        }
        if (rv == 0 && image.node.removed == 0 && image.node.key_len > 0) {
            rv = cb(arg, key, image.node.key_len, image.node.value);
        }
        /* A dummy is found again by its order alone, an entry by order and key. */
        last_order = image.node.order;
        last_len = image.node.key_len;
        memcpy(last, key, last_len);
        if (image.node.removed == 0) {
            from = at;
        }
    }
    return rv;
}

int cairn_hash_each(cairn_heap *heap, cairn_ptr hash, cairn_hash_cb cb, void *arg)
{
    return cb == NULL ? sdk__missing("cb") : each(heap, hash, cb, arg);
}

int cairn_hash_destroy(cairn_heap *heap, cairn_ptr hash)
{
    struct hash_root root;
    cairn_ptr at;
    int rv = root_read(heap, hash, &root);
    if (rv == 0) {
        rv = bucket_get(heap, hash, &root, 0, &at);
    }
    while (rv == 0 && !cairn_ptr_is_null(at)) {
        struct hash_image image;
        rv = image_read(heap, at, &image);
        if (rv == 0) {
            rv = cairn_free(heap, at);
        }
        at = image.node.next;
    }
    for (unsigned i = 0; i < SEGMENTS && rv == 0; i++) {
        if (!cairn_ptr_is_null(root.segments[i])) {
            rv = cairn_free(heap, root.segments[i]);
        }
    }
    return rv == 0 ? cairn_free(heap, hash) : rv;
}
