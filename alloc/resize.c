/* heap_realloc(). Everything that can fail comes first: new blocks, then the undo record; after
 * that nothing fails. At most OBJECT_CHUNK_BYTES are copied, since what is larger is a table and
 * only its last chunk changes its size. */
#include <string.h>

#include "alloc/engine.h"

/* Where the contents of a block go when they need another size: stay, or a new block. */
struct fit {
    uint64_t from, to; /* places; equal: it stays */
    uint64_t need;
    uint64_t before; /* bytes of the block before it was made larger in place; 0: it wasn't */
};

static bool is_extent(uint64_t place)
{
    return place_class(place) == PLACE_NO_CLASS;
}

/* stay: a block that is larger than it has to be will do when there is no room for a smaller one,
 * so that giving space up doesn't fail for want of space. */
static int fit_find(struct heap *h, uint64_t place, uint64_t need, bool stay, struct fit *f)
{
    *f = (struct fit){.from = place, .to = place, .need = need};
    uint64_t have = block_bytes(h, place);
    uint64_t most = slab_block_bytes_max(h);
    if (is_extent(place) && need > most) {
        if (need <= have) {
            return 0; /* cut by fit_commit() */
        }
        if (block_resize(h, POOL_OBJECTS, place, need)) {
            f->before = have;
            return 0;
        }
    } else if (!is_extent(place) && need <= most && class_of(need) == place_class(place)) {
        return 0;
    }
    int rv = block_alloc(h, POOL_OBJECTS, need, &f->to);
    if (rv == ERR_NOSPACE && stay && need <= have) {
        f->to = place;
        return 0;
    }
    return rv;
}

static bool fit_moves(const struct fit *f)
{
    return f->to != f->from;
}

static void fit_cancel(struct heap *h, const struct fit *f)
{
    if (fit_moves(f)) {
        block_free(h, POOL_OBJECTS, f->to);
    } else if (f->before != 0) {
        bool done = block_resize(h, POOL_OBJECTS, f->from, f->before);
        assert(done);
    }
}

/* Contents and header are where they belong. What is behind them becomes zero again. */
static void fit_commit(struct heap *h, const struct fit *f)
{
    if (fit_moves(f)) {
        block_free(h, POOL_OBJECTS, f->from);
        return;
    }
    if (is_extent(f->to)) {
        /* Never so small that a narrow header would belong there. */
        uint64_t most = slab_block_bytes_max(h);
        uint64_t keep = f->need > most ? f->need : most + 1;
        if (keep < block_bytes(h, f->to)) {
            (void)block_resize(h, POOL_OBJECTS, f->to, keep);
        }
    }
    uint64_t have = block_bytes(h, f->to);
    assert(have >= f->need);
    if (have > f->need) {
        arena_zero(&h->arena, block_address(h, f->to) + f->need, have - f->need);
    }
}

/* The undo record, after which nothing may fail, and what it changed in the header. */
static int resize_record(struct heap *h, uint64_t place, struct object_view *o, uint64_t version,
                         uint64_t size, bool *kept)
{
    *kept = undo_is_kept(h, version);
    if (*kept) {
        int rv = undo_push_resize(h, version, place, size);
        if (rv != 0) {
            return rv;
        }
        o->flags |= OBJECT_HISTORY;
    }
    o->version = version;
    return 0;
}

static int plain_to_plain(struct heap *h, uint64_t version, uint64_t place, struct object_view *o,
                          uint64_t size)
{
    struct object_shape shape = object_shape_of(size, o->type);
    struct object_view old = *o;
    struct fit f = {.from = place, .to = place, .need = shape.bytes};
    int rv;
    if (shape.head == old.head) {
        rv = fit_find(h, place, shape.bytes, false, &f);
    } else {
        rv = block_alloc(h, POOL_OBJECTS, shape.bytes, &f.to);
    }
    if (rv == ERR_NOSPACE && size < old.size && old.head == sizeof(struct object_header_wide)) {
        shape.head = old.head; /* the wide header says how long it is, in whatever block */
        shape.bytes = shape.head + size;
        f = (struct fit){.from = place, .to = place, .need = shape.bytes};
        rv = 0;
    }
    if (rv != 0) {
        return rv;
    }
    bool kept = false;
    rv = resize_record(h, place, o, version, size, &kept);
    if (rv != 0) {
        fit_cancel(h, &f);
        return rv;
    }
    o->size = size;
    if (fit_moves(&f)) {
        uint64_t len = size < old.size ? size : old.size;
        void *to = arena_write(&h->arena, block_address(h, f.to) + shape.head, len);
        memcpy(to, heap_bytes(h, old.payload, len), len);
        slot_set(h, o->slot, SLOT_LIVE, f.to);
    }
    object_set_header(h, f.to, &shape, o);
    fit_commit(h, &f);
    return 0;
}

static int plain_to_table(struct heap *h, uint64_t version, uint64_t place, struct object_view *o,
                          uint64_t size)
{
    struct object_view old = *o;
    struct object_view new = *o;
    new.size = size;
    uint64_t to = 0;
    int rv = object_build(h, &new, &to);
    if (rv != 0) {
        return rv;
    }
    bool kept = false;
    rv = resize_record(h, place, &new, version, size, &kept);
    if (rv != 0) {
        object_drop(h, to);
        return rv;
    }
    struct object_shape shape = object_shape_of(size, new.type);
    object_set_header(h, to, &shape, &new);
    object_decode(h, to, &new);
    object_put_bytes(h, &new, 0, heap_bytes(h, old.payload, old.size), old.size);
    slot_set(h, new.slot, SLOT_LIVE, to);
    block_free(h, POOL_OBJECTS, place);
    return 0;
}

/* Chunks from `first` on leave the table: their undo record has them, or nobody. */
static void chunks_cut(struct heap *h, const struct object_view *table, uint64_t first, bool kept)
{
    uint64_t chunks = object_chunks(table->size);
    for (uint64_t i = first; i < chunks && !kept; i++) {
        chunk_drop(h, object_chunk_at(h, table, i));
    }
}

static int table_to_plain(struct heap *h, uint64_t version, uint64_t place, struct object_view *o,
                          uint64_t size)
{
    struct object_shape shape = object_shape_of(size, o->type);
    struct object_view old = *o;
    uint64_t to = 0;
    int rv = block_alloc(h, POOL_OBJECTS, shape.bytes, &to);
    if (rv != 0) {
        return rv;
    }
    bool kept = false;
    rv = resize_record(h, place, o, version, size, &kept);
    if (rv != 0) {
        block_free(h, POOL_OBJECTS, to);
        return rv;
    }
    object_get_bytes(h, &old, 0, arena_write(&h->arena, block_address(h, to) + shape.head, size),
                     size);
    o->size = size;
    object_set_header(h, to, &shape, o);
    slot_set(h, o->slot, SLOT_LIVE, to);
    chunks_cut(h, &old, 1, kept);
    chunk_drop(h, object_chunk_at(h, &old, 0));
    block_free(h, POOL_OBJECTS, place);
    return 0;
}

/* ---- from table to table ---- */

struct table_plan {
    uint64_t size;
    uint64_t before, after; /* number of chunks */
    uint64_t last;          /* the last chunk of the smaller one: the one that changes its size */
    struct fit table, tail;
};

static uint64_t plan_entry(const struct heap *h, const struct table_plan *p, uint64_t chunk)
{
    return block_address(h, p->table.to) + sizeof(struct object_header_wide) + chunk * 8;
}

/* Gives back the new chunks [before, end). */
static void plan_drop_chunks(struct heap *h, const struct table_plan *p, uint64_t end)
{
    for (uint64_t i = p->before; i < end; i++) {
        uint64_t at = plan_entry(h, p, i);
        chunk_drop(h, load_u64(arena_at(&h->arena, at)));
        store_u64(arena_write(&h->arena, at, 8), 0);
    }
}

static int plan_reserve(struct heap *h, uint64_t place, const struct object_view *o,
                        struct table_plan *p)
{
    uint64_t bytes = object_shape_of(p->size, o->type).bytes;
    int rv = fit_find(h, place, bytes, true, &p->table);
    if (rv != 0) {
        return rv;
    }
    rv = fit_find(h, object_chunk_at(h, o, p->last),
                  sizeof(struct object_header) + object_chunk_bytes(p->size, p->last), true,
                  &p->tail);
    if (rv != 0) {
        fit_cancel(h, &p->table);
        return rv;
    }
    for (uint64_t i = p->before; i < p->after; i++) {
        uint64_t chunk = 0;
        rv = chunk_build(h, o->slot, i, object_chunk_bytes(p->size, i), &chunk);
        if (rv != 0) {
            plan_drop_chunks(h, p, i);
            fit_cancel(h, &p->tail);
            fit_cancel(h, &p->table);
            return rv;
        }
        store_u64(arena_write(&h->arena, plan_entry(h, p, i), 8), chunk);
    }
    return 0;
}

static void plan_commit(struct heap *h, const struct object_view *old, struct object_view *o,
                        const struct table_plan *p, bool kept)
{
    if (p->after < p->before) {
        chunks_cut(h, old, p->after, kept);
    }
    if (fit_moves(&p->tail)) {
        uint64_t was = object_chunk_bytes(old->size, p->last);
        uint64_t len = object_chunk_bytes(p->size, p->last);
        len = sizeof(struct object_header) + (len < was ? len : was);
        memcpy(arena_write(&h->arena, block_address(h, p->tail.to), len),
               heap_bytes(h, block_address(h, p->tail.from), len), len);
    }
    if (fit_moves(&p->table)) {
        uint64_t len = (p->last + 1) * 8;
        memcpy(arena_write(&h->arena, plan_entry(h, p, 0), len), arena_at(&h->arena, old->payload),
               len);
        slot_set(h, o->slot, SLOT_LIVE, p->table.to);
    }
    store_u64(arena_write(&h->arena, plan_entry(h, p, p->last), 8), p->tail.to);
    o->size = p->size;
    struct object_shape shape = object_shape_of(p->size, o->type);
    object_set_header(h, p->table.to, &shape, o);
    fit_commit(h, &p->tail);
    fit_commit(h, &p->table);
}

static int table_to_table(struct heap *h, uint64_t version, uint64_t place, struct object_view *o,
                          uint64_t size)
{
    struct object_view old = *o;
    struct table_plan p = {
        .size = size, .before = object_chunks(o->size), .after = object_chunks(size)};
    p.last = (p.before < p.after ? p.before : p.after) - 1;
    int rv = plan_reserve(h, place, o, &p);
    if (rv != 0) {
        return rv;
    }
    bool kept = false;
    rv = resize_record(h, place, o, version, size, &kept);
    if (rv != 0) {
        plan_drop_chunks(h, &p, p.after);
        fit_cancel(h, &p.tail);
        fit_cancel(h, &p.table);
        return rv;
    }
    plan_commit(h, &old, o, &p, kept);
    return 0;
}

int heap_realloc(struct heap *heap, uint64_t version, uint64_t ptr, uint64_t size)
{
    if (size == 0 || size > OBJECT_BYTES_MAX) {
        return size == 0 ? ERR_INVAL : ERR_TOOBIG;
    }
    uint64_t place = 0;
    int rv = object_find(heap, ptr, false, &place);
    if (rv == 0) {
        rv = object_load_all(heap, place);
    }
    if (rv != 0) {
        return rv;
    }
    if (size > header(heap)->bytes_max) {
        return ERR_NOSPACE;
    }
    struct object_view o;
    object_decode(heap, place, &o);
    uint64_t before = o.size;
    bool was_table = (o.flags & OBJECT_TABLE) != 0;
    if (object_shape_of(size, o.type).table) {
        rv = (was_table ? table_to_table : plain_to_table)(heap, version, place, &o, size);
    } else {
        rv = (was_table ? table_to_plain : plain_to_plain)(heap, version, place, &o, size);
    }
    if (rv == 0) {
        header_edit(heap)->object_bytes += size - before;
    }
    return rv;
}
