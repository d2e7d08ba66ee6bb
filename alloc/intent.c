/* Intents of undecided transactions (alloc/intent.h). */
#include "alloc/intent.h"

#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn_internal.h"

struct intent_key {
    uint8_t bytes[1 + ROOT_NAME_BYTES_MAX];
};
static_assert(sizeof(struct intent_key) <= MAP_KEY_BYTES_MAX, "a key of a map");

static struct slice key_of(uint64_t ptr, struct slice name, struct intent_key *key)
{
    key->bytes[0] = ptr != 0 ? 'o' : 'r';
    if (ptr != 0) {
        store_u64(key->bytes + 1, __builtin_bswap64(ptr));
        return slice_of(key->bytes, 1 + sizeof ptr);
    }
    assert(name.len <= ROOT_NAME_BYTES_MAX);
    if (name.len > 0) {
        memcpy(key->bytes + 1, name.data, name.len);
    }
    return slice_of(key->bytes, 1 + name.len);
}

bool intent_find(const struct heap *h, uint64_t ptr, struct slice name, struct intent_record *out)
{
    struct intent_key key;
    struct slice value;
    memset(out, 0, sizeof *out);
    if (heap_map_count(h, HEAP_MAP_TX) == 0 ||
        heap_map_get(h, HEAP_MAP_TX, key_of(ptr, name, &key), &value) != 0) {
        return false;
    }
    assert(value.len == sizeof *out);
    memcpy(out, value.data, sizeof *out);
    return true;
}

static bool is_exclusive(const struct intent_record *r)
{
    return r->shared == 0 && r->changers == 0;
}

bool intent_in_the_way(const struct heap *h, uint64_t ptr, struct slice name, enum intent_mode mode,
                       struct txn_name *by)
{
    struct intent_record r;
    if (!intent_find(h, ptr, name, &r)) {
        return false;
    }
    *by = r.by;
    switch (mode) {
    case INTENT_SHARED:
        return is_exclusive(&r) || r.changers > 0;
    case INTENT_CHANGER:
        return r.shared > 0;
    case INTENT_EXCLUSIVE:
    default:
        return true;
    }
}

/* The block of what a pointer names, when intents on it are marked there. */
static bool marked_block(const struct heap *h, uint64_t ptr, uint64_t *place)
{
    uint64_t word = slot_get(h, ptr_slot(ptr));
    enum slot_state state = slot_word_state(word);
    *place = slot_word_place(word);
    return slot_word_generation(word) == ptr_generation(ptr) &&
           (state == SLOT_LIVE || state == SLOT_PREPARED);
}

static void mark(struct heap *h, uint64_t ptr, bool on)
{
    uint64_t place = 0;
    if (ptr != 0 && marked_block(h, ptr, &place)) {
        object_set_flag(h, place, OBJECT_INTENT, on);
    }
}

void intent_mark(struct heap *h, uint64_t ptr)
{
    mark(h, ptr, true);
}

int intent_take(struct heap *heap, uint64_t ptr, struct slice name, enum intent_mode mode,
                const struct txn_name *by, uint64_t at)
{
    struct intent_record r;
    struct intent_key key;
    bool found = intent_find(heap, ptr, name, &r);
    assert(!found || (mode != INTENT_EXCLUSIVE && !is_exclusive(&r)));
    r.shared += mode == INTENT_SHARED;
    r.changers += mode == INTENT_CHANGER;
    if (mode == INTENT_EXCLUSIVE) {
        r.by = *by;
        r.at = at;
    }
    int rv = heap_map_put(heap, HEAP_MAP_TX, key_of(ptr, name, &key), slice_of(&r, sizeof r));
    if (rv == 0) {
        mark(heap, ptr, true);
    }
    return rv;
}

void intent_drop(struct heap *heap, uint64_t ptr, struct slice name, enum intent_mode mode)
{
    struct intent_record r;
    struct intent_key key;
    struct slice k = key_of(ptr, name, &key);
    bool found = intent_find(heap, ptr, name, &r);
    assert(found);
    r.shared -= mode == INTENT_SHARED;
    r.changers -= mode == INTENT_CHANGER;
    if (!is_exclusive(&r)) {
        memcpy(heap_map_edit(heap, HEAP_MAP_TX, k, 0, sizeof r), &r, sizeof r);
        return;
    }
    (void)heap_map_delete(heap, HEAP_MAP_TX, k);
    mark(heap, ptr, false);
}

/* Is there anything on it? One look at the object's header tells, but for what isn't born. */
static bool may_be_marked(const struct heap *h, uint64_t ptr)
{
    uint64_t place = 0;
    if (heap_map_count(h, HEAP_MAP_TX) == 0 || ptr == 0 || ptr_shard(ptr) != header(h)->shard) {
        return false;
    }
    if (!marked_block(h, ptr, &place)) {
        return heap_ptr_is_unborn(h, ptr);
    }
    struct object_view o;
    object_decode(h, place, &o);
    return (o.flags & OBJECT_INTENT) != 0;
}

int intent_check_object(const struct heap *heap, uint64_t ptr)
{
    struct txn_name by;
    return may_be_marked(heap, ptr) &&
                   intent_in_the_way(heap, ptr, slice_of(NULL, 0), INTENT_EXCLUSIVE, &by)
               ? ERR_TX_UNDECIDED
               : 0;
}

int intent_check_root(const struct heap *heap, struct slice name, bool creates)
{
    struct txn_name by;
    return intent_in_the_way(heap, 0, name, INTENT_EXCLUSIVE, &by) ||
                   (creates && intent_in_the_way(heap, 0, slice_of(NULL, 0), INTENT_CHANGER, &by))
               ? ERR_TX_UNDECIDED
               : 0;
}

bool intent_blocks_read(const struct heap *heap, uint64_t ptr, struct slice name, uint64_t at,
                        struct txn_name *by)
{
    struct intent_record r;
    memset(by, 0, sizeof *by);
    if ((ptr != 0 && !may_be_marked(heap, ptr)) || !intent_find(heap, ptr, name, &r)) {
        return false;
    }
    if (r.changers > 0) {
        uint64_t oldest = header(heap)->tx_oldest;
        return (at == 0 || oldest <= at) && txn_oldest_prepared(heap, by);
    }
    *by = r.by;
    return is_exclusive(&r) && (at == 0 || r.at <= at);
}
