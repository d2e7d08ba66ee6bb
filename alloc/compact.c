/* Compaction: sparse slabs are poured into others of their class, and what lies highest moves into
 * free space below, so that the free space gathers at the end of the data and can be given back.
 *
 * What moves next is a function of the arena alone. Each move makes the bytes of all slabs fewer,
 * a slab that is being emptied emptier, or an address lower while no other one rises: so repeated
 * steps come to an end. The moves, in order of preference:
 *
 *   POUR   a class has more free blocks than one of its slabs has blocks: the sparsest of the first
 *          partial slabs gives its blocks to the others, and goes
 *   THIN   what is in a large slab fits into the others and a few small ones, made for it
 *   DOWN   one of the last extents fits into free space below it
 *   SLIDE  none does: the extent behind the lowest free run moves over it. Free runs add up that
 *          way until one of the last extents fits
 *
 * DOWN and SLIDE stop when little is to be won (HOLES_SHARE).
 *
 * A block is copied, then its owner is told. Blocks of a slab go one after the other in ascending
 * order, since they may own each other (a table its chunks, a record the next one): at any moment
 * each has one place. */
#include <string.h>

#include "alloc/engine.h"

#define HOLES_SHARE  2048 /* of what is below the last extent, so much may stay free */
#define LOOK_SLABS   32
#define LOOK_EXTENTS 16

enum move_kind { MOVE_NONE, MOVE_POUR, MOVE_THIN, MOVE_DOWN, MOVE_SLIDE };

struct move {
    enum move_kind kind;
    uint64_t from, to; /* granules */
    uint32_t small;    /* slabs to make */
};

/* ---- what to move ---- */

/* The sparsest of the first partial slabs whose blocks have room in the others. */
static bool find_sparse(struct heap *h, enum pool pool, uint32_t class_number, uint64_t *granule)
{
    uint32_t first = 0;
    uint64_t room = slab_free_blocks(h, pool, class_number);
    if (room < slab_shape(SLAB_BYTES_FIRST, class_number, &first) ||
        (header(h)->slabs[pool][class_number].slabs == 1 &&
         undo_needs_class(h, pool, class_number))) {
        return false;
    }
    uint32_t fewest = UINT32_MAX;
    uint32_t link = header(h)->slabs[pool][class_number].head;
    for (uint32_t i = 0; i < LOOK_SLABS && link != 0; i++) {
        const struct slab *s = slab_get(h, link - 1);
        if (s->blocks <= room && (s->used < fewest || (s->used == fewest && link - 1 > *granule))) {
            fewest = s->used;
            *granule = link - 1;
        }
        link = s->next;
    }
    return fewest != UINT32_MAX;
}

/* A large slab among the first partial ones whose blocks need fewer bytes in small ones. */
static bool find_thin(struct heap *h, enum pool pool, uint32_t class_number, struct move *m)
{
    uint32_t shift = h->regions.granule_shift;
    uint64_t granule = (uint64_t)1 << shift;
    uint64_t small = SLAB_BYTES_FIRST > granule ? SLAB_BYTES_FIRST : granule;
    uint32_t first = 0;
    uint64_t blocks = slab_shape(small, class_number, &first);
    uint64_t room = slab_free_blocks(h, pool, class_number);
    if (room < blocks) {
        return false;
    }
    uint64_t most = 0;
    uint32_t link = header(h)->slabs[pool][class_number].head;
    for (uint32_t i = 0; i < LOOK_SLABS && link != 0; i++) {
        const struct slab *s = slab_get(h, link - 1);
        uint64_t bytes = extent_granules(h, link - 1) << shift;
        /* POUR found nothing, so the others have less room than this one has blocks; or it is empty
         * and has to stay. */
        uint64_t count = s->blocks <= room ? 1 : (s->blocks - room + blocks - 1) / blocks;
        uint64_t won = bytes > count * small ? bytes - count * small : 0;
        uint64_t at = 0;
        if (won > most && extent_fits_below(h, count * small, space_granules(h), &at)) {
            most = won;
            m->from = link - 1;
            m->small = (uint32_t)count;
        }
        link = s->next;
    }
    return most != 0;
}

/* Free granules below the last extent are few. */
static bool is_dense(const struct heap *h, uint64_t last)
{
    uint64_t end = last + extent_granules(h, last);
    uint64_t holes = end - header(h)->used_granules;
    return holes * HOLES_SHARE <= end;
}

static struct move next_move(struct heap *h)
{
    struct move m = {MOVE_NONE, 0, 0, 0};
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        for (uint32_t class_number = 0; class_number < SLAB_CLASSES; class_number++) {
            if (find_sparse(h, (enum pool)pool, class_number, &m.from)) {
                m.kind = MOVE_POUR;
                return m;
            }
            if (find_thin(h, (enum pool)pool, class_number, &m)) {
                m.kind = MOVE_THIN;
                return m;
            }
        }
    }
    uint64_t last = extent_last_before(h, space_granules(h));
    if (last == UINT64_MAX || is_dense(h, last)) {
        return m;
    }
    m.from = last;
    for (uint32_t i = 0; i < LOOK_EXTENTS && m.from != UINT64_MAX; i++) {
        uint64_t bytes = extent_granules(h, m.from) << h->regions.granule_shift;
        if (extent_fits_below(h, bytes, m.from, &m.to)) {
            m.kind = MOVE_DOWN;
            return m;
        }
        m.from = extent_last_before(h, m.from);
    }
    bool any = extent_fits_below(h, 1, last, &m.to);
    assert(any); /* or it were dense */
    m.from = extent_next(h, m.to);
    m.kind = MOVE_SLIDE;
    return m;
}

/* ---- moving ---- */

/* Where the pages of the source are absent, those of the target read as zero and stay as absent as
 * they can be. The target may begin below the source and overlap it. */
static void copy_down(struct heap *h, uint64_t to, uint64_t from, uint64_t bytes)
{
    struct arena *a = &h->arena;
    while (bytes > 0) {
        uint64_t part = PAGE_BYTES - (from & (PAGE_BYTES - 1));
        part = part < bytes ? part : bytes;
        if (pageset_has(&a->present, from >> PAGE_SHIFT)) {
            memmove(arena_write(a, to, part), arena_at(a, from), part);
        } else {
            arena_zero(a, to, part);
        }
        to += part;
        from += part;
        bytes -= part;
    }
}

static void object_moved(struct heap *h, uint64_t from, uint64_t to)
{
    const struct object_header *o = arena_at(&h->arena, block_address(h, to));
    if ((o->word >> OBJECT_FLAGS_SHIFT & OBJECT_CHUNK) != 0) {
        chunk_moved(h, from, to);
        return;
    }
    uint64_t slot = o->word & (((uint64_t)1 << PTR_SLOT_BITS) - 1);
    uint64_t word = slot_get(h, slot);
    assert(slot_word_place(word) == from);
    slot_set(h, slot, slot_word_state(word), to);
}

/* The bytes are at `to`. */
static void block_moved(struct heap *h, enum pool pool, uint64_t from, uint64_t to)
{
    switch (pool) {
    case POOL_OBJECTS:
        object_moved(h, from, to);
        break;
    case POOL_MAPS:
        map_moved(h, from, to);
        break;
    case POOL_UNDO:
        undo_moved(h, from, to);
        break;
    case POOLS:
    default:
        assert(false);
    }
}

static void count_moved(struct heap *h, struct heap_defrag *out, uint64_t blocks, uint64_t bytes)
{
    struct heap_header *hd = header_edit(h);
    hd->moved_blocks += blocks;
    hd->moved_bytes += bytes;
    out->blocks += blocks;
    out->bytes += bytes;
    h->work += bytes >> 10;
}

/* Blocks of a slab go to others of the class, until it is empty or enough is done. */
static void pour(struct heap *h, uint64_t granule, uint64_t budget, struct heap_defrag *out)
{
    const struct slab *s = slab_get(h, granule);
    enum pool pool = (enum pool)s->pool;
    uint32_t class_number = s->class;
    uint32_t size = class_bytes(class_number);
    uint32_t left = s->used;
    slab_disuse(h, granule);
    bool drop = left == 0;
    uint32_t block = 0;
    for (; left > 0 && out->bytes < budget; left--) {
        bool any = slab_block_next(h, granule, block, &block);
        assert(any);
        uint64_t from = slab_place(h, granule, s, block);
        uint64_t to = 0;
        any = slab_alloc_elsewhere(h, pool, class_number, granule, &to);
        assert(any);
        memcpy(arena_write(&h->arena, block_address(h, to), size),
               arena_at(&h->arena, block_address(h, from)), size);
        block_moved(h, pool, from, to);
        /* block_free() lets an empty slab stay when it is the only partial one. */
        drop = left == 1 && header(h)->slabs[pool][class_number].partial == 1;
        block_free(h, pool, from);
        count_moved(h, out, 1, size);
    }
    if (drop) {
        slab_drop(h, granule);
    }
}

/* All at once: an empty slab that nothing needs yet would be the next to go. */
static void thin(struct heap *h, const struct move *m, struct heap_defrag *out)
{
    const struct slab *s = slab_get(h, m->from);
    for (uint32_t i = 0; i < m->small; i++) {
        slab_new_small(h, (enum pool)s->pool, s->class);
    }
    pour(h, m->from, UINT64_MAX, out);
}

/* A slab moves as a whole. It may overlap its old place, so its header is read before. */
static uint64_t slab_carry(struct heap *h, uint64_t granule, uint64_t to)
{
    struct slab s = *slab_get(h, granule);
    uint32_t size = class_bytes(s.class);
    memmove(arena_write(&h->arena, granule_address(h, to), s.first),
            arena_at(&h->arena, granule_address(h, granule)), s.first);
    slab_moved(h, granule, to);
    for (uint32_t block = 0; slab_block_next(h, to, block, &block); block++) {
        uint64_t old = slab_place(h, granule, &s, block);
        uint64_t new = slab_place(h, to, &s, block);
        memmove(arena_write(&h->arena, block_address(h, new), size),
                arena_at(&h->arena, block_address(h, old)), size);
        block_moved(h, (enum pool)s.pool, old, new);
    }
    return s.used;
}

static enum pool pool_of(const struct heap *h, uint64_t granule, uint32_t magic)
{
    if (extent_is_object(h, granule)) {
        return POOL_OBJECTS;
    }
    assert(magic == BLOCK_MAGIC_MAP || magic == BLOCK_MAGIC_UNDO);
    return magic == BLOCK_MAGIC_MAP ? POOL_MAPS : POOL_UNDO;
}

static void extent_done(struct heap *h, const struct move *m)
{
    if (m->kind == MOVE_SLIDE) {
        extent_slide(h, m->from, m->to);
    } else {
        extent_free(h, m->from);
    }
}

static void move_extent(struct heap *h, const struct move *m, struct heap_defrag *out)
{
    uint32_t shift = h->regions.granule_shift;
    uint64_t bytes = extent_granules(h, m->from) << shift;
    uint64_t from = granule_address(h, m->from);
    uint32_t magic = *(const uint32_t *)arena_at(&h->arena, from);
    bool is_slab = !extent_is_object(h, m->from) && magic == BLOCK_MAGIC_SLAB;
    if (m->kind == MOVE_DOWN) {
        uint64_t to = 0;
        bool fits = extent_alloc_below(h, extent_is_object(h, m->from), bytes, m->from, &to);
        assert(fits);
        assert(to == m->to);
    }
    if (is_slab) {
        uint64_t blocks = slab_carry(h, m->from, m->to);
        extent_done(h, m);
        count_moved(h, out, blocks, bytes);
        return;
    }
    enum pool pool = pool_of(h, m->from, magic);
    copy_down(h, granule_address(h, m->to), from, bytes);
    extent_done(h, m);
    block_moved(h, pool, place_make(m->from << shift, PLACE_NO_CLASS),
                place_make(m->to << shift, PLACE_NO_CLASS));
    count_moved(h, out, 1, bytes);
}

int heap_defrag(struct heap *heap, uint64_t bytes, struct heap_defrag *out)
{
    memset(out, 0, sizeof *out);
    uint64_t budget = bytes < HEAP_DEFRAG_BYTES_MAX ? bytes : HEAP_DEFRAG_BYTES_MAX;
    budget = budget > 0 ? budget : 1;
    uint64_t before = space_bytes(heap);
    int rv = spare_drop_all(heap);
    if (rv != 0) {
        return rv;
    }
    struct move m = next_move(heap);
    while (m.kind != MOVE_NONE && out->bytes < budget) {
        rv = extent_load(heap, m.from);
        if (rv != 0) {
            return rv;
        }
        if (m.kind == MOVE_POUR) {
            pour(heap, m.from, budget, out);
        } else if (m.kind == MOVE_THIN) {
            thin(heap, &m, out);
        } else {
            move_extent(heap, &m, out);
        }
        m = next_move(heap);
    }
    (void)space_trim(heap, UINT64_MAX);
    out->freed_bytes = before - space_bytes(heap);
    out->left = m.kind != MOVE_NONE;
    return 0;
}

uint64_t heap_trim(struct heap *heap, uint64_t bytes)
{
    (void)spare_drop_all(heap); /* what it can't load is heap_damage()'s */
    return space_trim(heap, bytes);
}
