/* Undo records: what changes took away. Per object a chain, newest first, that HEAP_MAP_UNDO starts
 * (the object's header says whether there is one); over all objects a queue in the order in which
 * the changes were applied (X17), which is what heap_reclaim() eats from the old end: a record that
 * isn't due holds up those behind it. The order in
 * a chain is that of the queue, so the record at the head of the queue is always the oldest of its
 * object. */
#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn.h"
#include "base/hlc.h"

struct slot_key {
    uint8_t bytes[8];
};

static struct slice key_of(uint64_t slot, struct slot_key *key)
{
    store_u64(key->bytes, __builtin_bswap64(slot));
    return slice_of(key->bytes, sizeof key->bytes);
}

static struct undo_record *undo_edit(struct heap *h, uint64_t place)
{
    return (struct undo_record *)arena_write(&h->arena, block_address(h, place),
                                             sizeof(struct undo_record));
}

uint64_t undo_newest(const struct heap *h, uint64_t slot)
{
    struct slot_key key;
    struct slice value;
    if (heap_map_get(h, HEAP_MAP_UNDO, key_of(slot, &key), &value) != 0) {
        return 0;
    }
    assert(value.len == sizeof(uint64_t));
    return load_u64(value.data);
}

/* Where the map keeps it. */
static uint8_t *newest_edit(struct heap *h, uint64_t slot)
{
    struct slot_key key;
    uint8_t *value = heap_map_edit(h, HEAP_MAP_UNDO, key_of(slot, &key), 0, sizeof(uint64_t));
    assert(value != NULL);
    return value;
}

struct root_key {
    uint8_t bytes[1 + ROOT_NAME_BYTES_MAX];
};

static struct slice root_key_of(struct slice name, struct root_key *key)
{
    assert(name.len <= ROOT_NAME_BYTES_MAX);
    key->bytes[0] = 'h';
    memcpy(key->bytes + 1, name.data, name.len);
    return slice_of(key->bytes, 1 + name.len);
}

uint64_t undo_newest_root(const struct heap *h, struct slice name)
{
    struct root_key key;
    struct slice value;
    if (heap_map_count(h, HEAP_MAP_TX) == 0 ||
        heap_map_get(h, HEAP_MAP_TX, root_key_of(name, &key), &value) != 0) {
        return 0;
    }
    return load_u64(value.data);
}

/* ---- a new record ---- */

/* Makes the record the newest of its object. */
static int chain_push(struct heap *h, uint64_t place, struct undo_record *r, uint64_t object,
                      bool has_history)
{
    if (has_history) {
        uint8_t *newest = newest_edit(h, r->slot);
        uint64_t older = load_u64(newest);
        assert(undo_get(h, older)->at <= r->at);
        assert(undo_get(h, older)->order < r->order);
        assert(undo_get(h, older)->kind != UNDO_FREE);
        undo_edit(h, older)->newer = place;
        r->older = older;
        store_u64(newest, place);
        return 0;
    }
    struct slot_key key;
    int rv = heap_map_put(h, HEAP_MAP_UNDO, key_of(r->slot, &key), slice_of(&place, sizeof place));
    if (rv == 0) {
        object_set_flag(h, object, OBJECT_HISTORY, true);
    }
    return rv;
}

static void queue_push(struct heap *h, uint64_t place, struct undo_record *r)
{
    struct heap_header *hd = header_edit(h);
    r->prev = hd->undo_tail;
    if (hd->undo_tail != 0) {
        undo_edit(h, hd->undo_tail)->next = place;
    } else {
        hd->undo_head = place;
    }
    hd->undo_tail = place;
    hd->undo_count++;
    hd->undo_bytes += undo_record_bytes(r);
}

static uint64_t next_order(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    uint64_t first = hd->index << ORDER_INDEX_SHIFT;
    uint64_t next = hd->last_order < first ? first : hd->last_order + 1;
    assert(next >> ORDER_INDEX_SHIFT == hd->index);
    return next;
}

/* r: kind, at, offset, len and chunks are set; the rest comes from the object. */
static int push(struct heap *h, uint64_t object, const struct object_view *o, struct undo_record *r)
{
    uint64_t place = 0;
    int rv = block_alloc(h, POOL_UNDO, undo_record_bytes(r), &place);
    if (rv != 0) {
        return rv;
    }
    r->magic = BLOCK_MAGIC_UNDO;
    r->slot = o->slot;
    r->order = next_order(h);
    if (r->kind != UNDO_BIRTH) {
        r->before = o->version;
        r->size = o->size;
    }
    rv = chain_push(h, place, r, object, (o->flags & OBJECT_HISTORY) != 0);
    if (rv != 0) {
        block_free(h, POOL_UNDO, place);
        return rv;
    }
    header_edit(h)->last_order = r->order;
    queue_push(h, place, r);
    uint8_t *to = arena_write(&h->arena, block_address(h, place), undo_record_bytes(r));
    memcpy(to, r, sizeof *r);
    object_get_bytes(h, o, r->offset, to + sizeof *r, r->len);
    uint64_t first = object_chunks(r->offset);
    for (uint32_t i = 0; i < r->chunks; i++) {
        uint64_t chunk = object_chunk_at(h, o, first + i);
        store_u64(to + undo_chunks_at(r->len) + i * 8u, chunk);
        chunk_set_keeper(h, chunk, place);
    }
    return 0;
}

int undo_push(struct heap *h, uint64_t version, uint64_t place, enum undo_kind kind,
              uint64_t offset, uint64_t len)
{
    struct object_view o;
    object_decode(h, place, &o);
    struct undo_record r = {.kind = kind, .at = version, .offset = offset, .len = (uint32_t)len};
    return push(h, place, &o, &r);
}

int undo_push_resize(struct heap *h, uint64_t version, uint64_t place, uint64_t size)
{
    struct object_view o;
    object_decode(h, place, &o);
    struct undo_record r = {.kind = UNDO_RESIZE, .at = version, .offset = o.size};
    if (size < o.size) {
        /* Of the chunk that gets shorter the bytes are kept; whole chunks change hands. */
        uint64_t end = object_chunks(size) * OBJECT_CHUNK_BYTES;
        r.offset = size;
        r.len = (uint32_t)((end < o.size ? end : o.size) - size);
        r.chunks = (uint32_t)(object_chunks(o.size) - object_chunks(size));
    }
    return push(h, place, &o, &r);
}

uint64_t undo_chunk_address(const struct heap *h, uint64_t place, uint64_t number)
{
    const struct undo_record *r = undo_get(h, place);
    uint64_t first = object_chunks(r->offset);
    assert(number >= first);
    assert(number - first < r->chunks);
    return block_address(h, place) + undo_chunks_at(r->len) + (number - first) * 8;
}

void undo_moved(struct heap *h, uint64_t from, uint64_t to)
{
    const struct undo_record *r = undo_get(h, to);
    struct heap_header *hd = header_edit(h);
    assert(r->magic == BLOCK_MAGIC_UNDO);
    if (r->prev != 0) {
        undo_edit(h, r->prev)->next = to;
    } else {
        assert(hd->undo_head == from);
        hd->undo_head = to;
    }
    if (r->next != 0) {
        undo_edit(h, r->next)->prev = to;
    } else {
        assert(hd->undo_tail == from);
        hd->undo_tail = to;
    }
    if (r->older != 0) {
        undo_edit(h, r->older)->newer = to;
    }
    if (r->newer != 0) {
        undo_edit(h, r->newer)->older = to;
    } else if (r->kind == UNDO_ROOT) {
        struct root_key key;
        struct slice k = root_key_of(undo_root_name(r), &key);
        store_u64(heap_map_edit(h, HEAP_MAP_TX, k, 0, sizeof to), to);
    } else {
        store_u64(newest_edit(h, r->slot), to);
    }
    for (uint64_t i = 0; i < r->chunks; i++) {
        uint64_t at = block_address(h, to) + undo_chunks_at(r->len) + i * 8;
        chunk_set_keeper(h, load_u64(arena_at(&h->arena, at)), to);
    }
}

int undo_push_root(struct heap *h, uint64_t version, struct slice name, uint64_t before_version,
                   uint64_t before, uint64_t after)
{
    struct undo_record r = {.magic = BLOCK_MAGIC_UNDO,
                            .kind = UNDO_ROOT,
                            .at = version,
                            .before = before_version,
                            .size = before,
                            .offset = after,
                            .len = (uint32_t)name.len,
                            .order = next_order(h)};
    struct root_key key;
    uint64_t place = 0;
    int rv = block_alloc(h, POOL_UNDO, undo_record_bytes(&r), &place);
    if (rv != 0) {
        return rv;
    }
    r.older = undo_newest_root(h, name);
    rv = heap_map_put(h, HEAP_MAP_TX, root_key_of(name, &key), slice_of(&place, sizeof place));
    if (rv != 0) {
        block_free(h, POOL_UNDO, place);
        return rv;
    }
    if (r.older != 0) {
        undo_edit(h, r.older)->newer = place;
    }
    header_edit(h)->last_order = r.order;
    queue_push(h, place, &r);
    uint8_t *to = arena_write(&h->arena, block_address(h, place), undo_record_bytes(&r));
    memcpy(to, &r, sizeof r);
    memcpy(to + sizeof r, name.data, name.len);
    return 0;
}

/* ---- without room ---- */

void history_gives_way(struct heap *h)
{
    struct heap_header *hd = header_edit(h);
    hd->safepoint = hd->clock > hd->safepoint ? hd->clock : hd->safepoint;
    history_skips(h);
}

void history_skips(struct heap *h)
{
    if (history_is_kept(h)) {
        struct heap_header *hd = header_edit(h);
        hd->last_order = next_order(h); /* of the change that isn't recorded */
        hd->history_from = hd->last_order;
    }
}

void undo_turn_into_free(struct heap *h, uint64_t place)
{
    struct object_view o;
    object_decode(h, place, &o);
    uint64_t newest = undo_newest(h, o.slot);
    struct undo_record *r = undo_edit(h, newest);
    assert(r->newer == 0);
    header_edit(h)->undo_bytes -= undo_record_bytes(r) - sizeof *r;
    for (uint32_t i = 0; i < r->chunks; i++) {
        uint64_t at = block_address(h, newest) + undo_chunks_at(r->len) + i * 8u;
        chunk_drop(h, load_u64(arena_at(&h->arena, at)));
    }
    r->kind = UNDO_FREE;
    r->before = o.version;
    r->size = o.size;
    r->offset = 0;
    r->len = 0;
    r->chunks = 0;
}

/* ---- reclaiming ---- */

/* The freed object that the record has kept goes for good. Returns its chunks. */
static uint32_t bury(struct heap *h, uint64_t slot)
{
    uint64_t word = slot_get(h, slot);
    assert(slot_word_state(word) == SLOT_DEAD);
    struct object_view o;
    object_decode(h, slot_word_place(word), &o);
    struct heap_header *hd = header_edit(h);
    hd->dead_count--;
    hd->dead_bytes -= o.size;
    object_drop(h, slot_word_place(word));
    slot_release(h, slot);
    return (o.flags & OBJECT_TABLE) != 0 ? (uint32_t)object_chunks(o.size) : 0;
}

/* Gives the oldest record back. Returns what it costs of a step's budget. */
static uint64_t reclaim_oldest(struct heap *h)
{
    struct heap_header *hd = header_edit(h);
    uint64_t place = hd->undo_head;
    struct undo_record r = *undo_get(h, place);
    assert(r.prev == 0);
    assert(r.older == 0);
    hd->undo_head = r.next;
    if (r.next != 0) {
        undo_edit(h, r.next)->prev = 0;
    } else {
        hd->undo_tail = 0;
    }
    hd->undo_count--;
    hd->undo_bytes -= undo_record_bytes(&r);
    hd->history_from = r.order > hd->history_from ? r.order : hd->history_from;
    uint64_t cost = 1 + r.chunks;
    for (uint32_t i = 0; i < r.chunks; i++) {
        uint64_t at = block_address(h, place) + undo_chunks_at(r.len) + i * 8u;
        chunk_drop(h, load_u64(arena_at(&h->arena, at)));
    }
    if (r.newer != 0) {
        undo_edit(h, r.newer)->older = 0;
    } else if (r.kind == UNDO_ROOT) {
        struct root_key key;
        (void)heap_map_delete(h, HEAP_MAP_TX,
                              root_key_of(undo_root_name(undo_get(h, place)), &key));
    } else {
        struct slot_key key;
        int rv = heap_map_delete(h, HEAP_MAP_UNDO, key_of(r.slot, &key));
        assert(rv == 0);
        object_set_flag(h, slot_word_place(slot_get(h, r.slot)), OBJECT_HISTORY, false);
    }
    if (r.kind == UNDO_FREE) {
        assert(r.newer == 0);
        cost += bury(h, r.slot);
    }
    block_free(h, POOL_UNDO, place);
    return cost;
}

/* What giving it back reads. */
static int oldest_load(const struct heap *h)
{
    if (heap_is_loaded(h)) {
        return 0;
    }
    uint64_t place = header(h)->undo_head;
    const struct undo_record *r = undo_get(h, place);
    int rv = undo_load_chunks(h, place);
    if (rv != 0 || r->kind == UNDO_ROOT) {
        return rv;
    }
    rv = slot_load(h, r->slot);
    return rv == 0 ? object_load_all(h, slot_word_place(slot_get(h, r->slot))) : rv;
}

static bool is_due(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    return hd->undo_head != 0 && undo_get(h, hd->undo_head)->at <= hd->safepoint;
}

/* The clock as it was `ms` ago, at the beginning of time if need be. */
static uint64_t clock_before(uint64_t clock, uint64_t ms)
{
    uint64_t ms_max = UINT64_MAX >> HLC_LOGICAL_BITS;
    uint64_t span = ms > ms_max ? UINT64_MAX : hlc_from_ms(ms);
    return clock > span ? clock - span : 0;
}

/* What is kept begins now: without history any change may have been the last that is known. An
 * order of its own tells who has seen the last one that was recorded from who has seen all. */
static void history_begins(struct heap *h)
{
    struct heap_header *hd = header_edit(h);
    hd->safepoint = hd->clock > hd->safepoint ? hd->clock : hd->safepoint;
    hd->last_order = next_order(h);
    hd->history_from = hd->last_order;
}

/* Readers at a time are gone, as far as is known. */
static void keep_ends(struct heap *h)
{
    struct heap_header *hd = header_edit(h);
    if (hd->keep_until != 0 && hd->clock >= hd->keep_until) {
        hd->keep_until = 0;
        if (hd->retention_ms == 0) {
            history_begins(h);
        }
    }
}

void heap_reclaim(struct heap *heap, uint64_t safepoint, uint32_t records, uint64_t *left)
{
    struct heap_header *hd = header_edit(heap);
    keep_ends(heap);
    uint64_t kept_ms = hd->retention_ms;
    if (hd->keep_until != 0 && kept_ms < TX_KEEP_MS) {
        kept_ms = TX_KEEP_MS;
    }
    uint64_t most = clock_before(hd->clock, kept_ms);
    safepoint = safepoint < most ? safepoint : most;
    if (safepoint > hd->safepoint) {
        hd->safepoint = safepoint;
    }
    uint64_t budget = records < HEAP_RECLAIM_RECORDS_MAX ? records : HEAP_RECLAIM_RECORDS_MAX;
    while (budget > 0 && is_due(heap) && oldest_load(heap) == 0) {
        uint64_t cost = reclaim_oldest(heap);
        budget -= cost < budget ? cost : budget;
    }
    *left = is_due(heap) ? header(heap)->undo_count : 0;
}

/* What the record of a free and its entry in the map take. */
static uint64_t reserved_bytes(enum pool pool)
{
    switch (pool) {
    case POOL_UNDO:
        return sizeof(struct undo_record);
    case POOL_MAPS:
        return sizeof(struct map_node) + sizeof(struct slot_key) + sizeof(uint64_t);
    case POOL_OBJECTS:
    case POOLS:
    default:
        return 0;
    }
}

bool undo_needs_class(const struct heap *h, enum pool pool, uint32_t class_number)
{
    uint64_t bytes = reserved_bytes(pool);
    return history_is_kept(h) && bytes != 0 && class_of(bytes) == class_number;
}

int undo_open(struct heap *h)
{
    const enum pool pools[] = {POOL_UNDO, POOL_MAPS};
    int rv = spare_drop_all(h);
    for (size_t i = 0; i < sizeof pools / sizeof pools[0] && rv == 0; i++) {
        uint64_t bytes = reserved_bytes(pools[i]);
        uint64_t place = 0;
        if (header(h)->slabs[pools[i]][class_of(bytes)].slabs != 0) {
            continue;
        }
        rv = block_alloc(h, pools[i], bytes, &place);
        if (rv == 0) {
            block_free(h, pools[i], place); /* the slab stays (alloc/slab.c, compact.c) */
        }
    }
    return rv;
}

int heap_set_retention(struct heap *heap, uint64_t retention_ms)
{
    if (retention_ms != 0) {
        int rv = undo_open(heap);
        if (rv != 0) {
            return rv;
        }
    }
    bool kept = history_is_kept(heap);
    header_edit(heap)->retention_ms = retention_ms;
    if (!kept || !history_is_kept(heap)) {
        history_begins(heap);
    }
    return 0;
}

int heap_close_at(struct heap *heap, uint64_t at, uint64_t limit, uint32_t keep_ms)
{
    if (at > limit || limit > UINT64_MAX / 4) {
        return ERR_INVAL;
    }
    int rv = history_is_kept(heap) ? 0 : undo_open(heap);
    if (rv != 0) {
        return rv;
    }
    heap_clock_advance(heap, at);
    if (!history_is_kept(heap)) {
        history_begins(heap);
    }
    struct heap_header *hd = header_edit(heap);
    uint64_t until = at + hlc_from_ms(keep_ms);
    hd->keep_until = until > hd->keep_until ? until : hd->keep_until;
    return 0;
}
