/* Pages become a heap. Foreign ones are checked, all of them (check.c). Those of our own image,
 * whose checksums are kept until they are read, are believed to be what they were when they were
 * written: then only what steers every call is loaded, and the rest when it is wanted (ADR 0008).
 *
 * What is loaded here, and what may be read with arena_at() from then on: header, slot directory,
 * granule maps; slabs with a free block (their headers); the records of maps and the undo records,
 * with the headers of their slabs. What isn't: slot frames, and the blocks and full slabs of
 * objects. Who reads those says so first (the last part of this file), before anything has changed.
 */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"
#include "alloc/image_internal.h"
#include "base/mem.h"

/* The regions that the header claims become accessible; the header itself is bounded here. */
static int commit_regions(struct heap *h)
{
    struct page_range ranges[CHECK_REGIONS];
    check_regions(h, ranges);
    for (size_t i = 0; i < CHECK_REGIONS; i++) {
        int rv = ranges[i].count == 0 ? 0
                                      : arena_commit(&h->arena, ranges[i].first << PAGE_SHIFT,
                                                     ranges[i].count << PAGE_SHIFT);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

/* The arena as a heap that only the checks may look at yet. The caller keeps the arena when this
 * fails. */
static int shell_new(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e)
{
    *out = NULL;
    if (!pageset_has(&arena->present, 0)) {
        return err_set(e, ERR_CORRUPT, "heap: page 0 is missing");
    }
    int rv = arena_load_now(arena, 0, PAGE_BYTES);
    if (rv != 0) {
        return err_set(e, rv, "%s", arena->damage_text.text);
    }
    struct heap *h = mem_zalloc(sizeof *h);
    if (h == NULL) {
        return ERR_NOMEM;
    }
    map_places_init(h);
    h->arena = *arena;
    const struct heap_header *hd = header(h);
    h->uid = hd->uid;
    if (hd->bytes_max != bytes_max || !heap_granule_shift_is_valid(bytes_max, hd->granule_shift) ||
        hd->granule_shift == 0) {
        rv = err_set(e, ERR_CORRUPT,
                     "heap: made for a limit of %" PRIu64 " bytes and granules of 2^%u, not for "
                     "%" PRIu64 " bytes",
                     hd->bytes_max, hd->granule_shift, bytes_max);
    }
    if (rv == 0) {
        heap_regions_of(bytes_max, hd->granule_shift, &h->regions);
        /* Whoever opened the arena before it had the header made room for the smallest granules. */
        assert(h->arena.pages >= h->regions.end >> PAGE_SHIFT);
        rv = check_header(h, e);
    }
    if (rv == 0) {
        rv = commit_regions(h);
    }
    if (rv != 0) {
        *arena = h->arena; /* what was loaded or made accessible stays so */
        mem_free(h);
        return rv;
    }
    *out = h;
    return 0;
}

/* The shell becomes the heap. */
static int adopt(struct arena *arena, struct heap *h, int rv, struct heap **out)
{
    if (rv == 0) {
        rv = space_open(h);
    }
    if (rv != 0) {
        *arena = h->arena;
        mem_free(h);
        return rv;
    }
    memset(arena, 0, sizeof *arena);
    *out = h;
    return 0;
}

int heap_adopt(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e)
{
    *out = NULL;
    struct heap *h = NULL;
    int rv = shell_new(arena, bytes_max, &h, e);
    if (rv != 0) {
        return rv;
    }
    assert(h != NULL);
    return adopt(arena, h, heap_check(h, e), out);
}

int heap_check_arena(struct arena *arena, uint64_t bytes_max, uint64_t max, heap_finding_cb cb,
                     void *arg, uint64_t *damage, struct err_text *e)
{
    struct heap *h = NULL;
    int rv = shell_new(arena, bytes_max, &h, e);
    if (rv != 0) {
        return rv;
    }
    assert(h != NULL);
    *damage = heap_check_all(h, max, cb, arg);
    *arena = h->arena;
    mem_free(h);
    return 0;
}

int heap_damage(const struct heap *heap, const char **text)
{
    *text = heap->arena.damage_text.text;
    return heap->arena.damage;
}

int heap_load_all(const struct heap *heap, struct err_text *e)
{
    struct arena *a = (struct arena *)(uintptr_t)&heap->arena;
    int rv = a->damage != 0 ? a->damage : arena_load_all(a);
    return rv == 0 ? 0 : err_set(e, rv, "%s", a->damage_text.text);
}

/* ---- what steers every call ---- */

/* Is [offset, offset + len) in the data? */
static bool in_data(const struct heap *h, uint64_t offset, uint64_t len)
{
    uint64_t end = header(h)->data_bytes;
    return offset <= end && len <= end - offset;
}

/* A slab's header; of this pool, if it is said which. */
static int load_slab(const struct heap *h, uint64_t granule)
{
    uint64_t offset = granule << h->regions.granule_shift;
    int rv = in_data(h, offset, sizeof(struct slab))
                 ? heap_load(h, granule_address(h, granule), sizeof(struct slab))
                 : ERR_CORRUPT;
    if (rv != 0) {
        return rv;
    }
    const struct slab *s = slab_get(h, granule);
    if (s->magic != BLOCK_MAGIC_SLAB || s->class >= SLAB_CLASSES || s->pool >= POOLS ||
        !in_data(h, offset, s->first)) {
        return ERR_CORRUPT;
    }
    return heap_load(h, granule_address(h, granule), s->first);
}

/* The slab that a block lies in, if it lies in one. */
static int load_slab_of(const struct heap *h, uint64_t place)
{
    return place_class(place) == PLACE_NO_CLASS ? 0 : load_slab(h, slab_of(h, place));
}

static int load_lists(const struct heap *h)
{
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        for (uint32_t class_number = 0; class_number < SLAB_CLASSES; class_number++) {
            const struct slab_list *list = header_slabs(h, (enum pool)pool, class_number);
            uint32_t link = list->head;
            for (uint64_t left = list->partial; link != 0; left--) {
                int rv = left == 0 ? ERR_CORRUPT : load_slab(h, link - 1);
                if (rv != 0) {
                    return rv;
                }
                link = slab_get(h, link - 1)->next;
            }
        }
    }
    return 0;
}

/* The first `len` bytes of a block, and its slab. */
static int load_block(const struct heap *h, uint64_t place, uint64_t len)
{
    int rv = ERR_CORRUPT;
    if (place != 0 && in_data(h, place_offset(place), len) &&
        (place_class(place) == PLACE_NO_CLASS || place_class(place) < SLAB_CLASSES)) {
        rv = heap_load(h, block_address(h, place), len);
    }
    return rv == 0 ? load_slab_of(h, place) : rv;
}

static const struct map_node *node_at(const struct heap *h, uint64_t place)
{
    return (const struct map_node *)arena_at(&h->arena, block_address(h, place));
}

static int load_node(const struct heap *h, uint64_t place)
{
    int rv = load_block(h, place, sizeof(struct map_node));
    if (rv != 0) {
        return rv;
    }
    const struct map_node *n = node_at(h, place);
    uint64_t bytes = ((sizeof *n + n->key_len + 7) & ~(uint64_t)7) + n->value_len;
    return n->magic == BLOCK_MAGIC_MAP ? load_block(h, place, bytes) : ERR_CORRUPT;
}

/* All records of a tree, from left to right. */
static int load_map(const struct heap *h, enum heap_map map)
{
    uint64_t path[MAP_HEIGHT_MAX];
    uint32_t depth = 0;
    uint64_t left = header(h)->maps[map].count;
    uint64_t at = header(h)->maps[map].root;
    while (at != 0 || depth > 0) {
        for (; at != 0; at = node_at(h, at)->left) {
            int rv = left == 0 || depth == MAP_HEIGHT_MAX ? ERR_CORRUPT : load_node(h, at);
            if (rv != 0) {
                return rv;
            }
            left--;
            path[depth++] = at;
        }
        at = node_at(h, path[--depth])->right;
    }
    return 0;
}

static int load_history(const struct heap *h)
{
    uint64_t left = header(h)->undo_count;
    for (uint64_t at = header(h)->undo_head; at != 0; at = undo_get(h, at)->next) {
        int rv = left-- == 0 ? ERR_CORRUPT : load_block(h, at, sizeof(struct undo_record));
        if (rv == 0) {
            rv = load_block(h, at, undo_record_bytes(undo_get(h, at)));
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int load_steering(const struct heap *h)
{
    struct page_range ranges[CHECK_REGIONS];
    check_regions(h, ranges);
    int rv = 0;
    for (size_t i = 0; i < 3 && rv == 0; i++) {
        rv = heap_load(h, ranges[i].first << PAGE_SHIFT, ranges[i].count << PAGE_SHIFT);
    }
    if (rv == 0) {
        rv = load_lists(h);
    }
    for (uint32_t map = 0; map < HEAP_MAP_COUNT && rv == 0; map++) {
        rv = load_map(h, (enum heap_map)map);
    }
    return rv == 0 ? load_history(h) : rv;
}

int heap_adopt_own(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e)
{
    *out = NULL;
    struct heap *h = NULL;
    int rv = shell_new(arena, bytes_max, &h, e);
    if (rv != 0) {
        return rv;
    }
    assert(h != NULL);
    uint64_t page = check_page_outside(h);
    if (page != 0) {
        rv = err_set(e, ERR_CORRUPT, "page %" PRIu64 " is present, but no region reaches there",
                     page);
    } else {
        rv = load_steering(h);
        if (rv != 0) {
            rv = err_set(e, rv, "%s",
                         h->arena.damage != 0 ? h->arena.damage_text.text
                                              : "heap: a list, a map or the history doesn't end");
        }
    }
    return adopt(arena, h, rv, out);
}

static bool extent_steers(const struct heap *h, uint64_t granule, uint64_t page)
{
    uint64_t address = granule_address(h, granule);
    if (extent_is_object(h, granule) || !arena_is_loaded(&h->arena, address >> PAGE_SHIFT)) {
        return false;
    }
    const struct slab *s = slab_get(h, granule);
    if (s->magic != BLOCK_MAGIC_SLAB || s->pool != POOL_OBJECTS) {
        return true;
    }
    return s->used < s->blocks && page << PAGE_SHIFT < address + s->first;
}

bool heap_page_steers(const struct heap *h, uint64_t page)
{
    uint64_t address = page << PAGE_SHIFT;
    uint32_t shift = h->regions.granule_shift;
    if (address < h->regions.data_at) {
        return address < h->regions.frames_at;
    }
    uint64_t offset = address - h->regions.data_at;
    if (offset >= header(h)->data_bytes) {
        return false;
    }
    uint64_t granule = offset >> shift;
    uint64_t end = (offset + PAGE_BYTES - 1) >> shift;
    for (; granule <= end; granule++) {
        const struct granules *g = granules_at(h, granule / 64);
        uint64_t bit = (uint64_t)1 << (granule & 63);
        bool begins = (g->start & bit) != 0;
        bool goes_on = granule == offset >> shift && !begins && (g->used & bit) != 0;
        if ((begins || goes_on) &&
            extent_steers(h, goes_on ? extent_of(h, granule) : granule, page)) {
            return true;
        }
    }
    return false;
}

/* ---- what a call will read ---- */

int slot_load_slow(const struct heap *h, uint64_t slot)
{
    int64_t frame = slot_frame(h, slot / SLOTS_PER_PAGE);
    return frame < 0 ? 0 : heap_load(h, slot_frame_address(h, (uint64_t)frame), PAGE_BYTES);
}

int object_load_slow(const struct heap *h, uint64_t place)
{
    uint64_t address = block_address(h, place);
    /* Blocks are multiples of 16 bytes, of 32 at least. */
    int rv = heap_load(h, address, sizeof(struct object_header_wide));
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(h, place, &o);
    return (o.flags & OBJECT_TABLE) == 0
               ? 0
               : heap_load(h, o.payload, object_chunks(o.size) * sizeof(uint64_t));
}

/* Slabs of the chunks that a record keeps. */
int undo_load_chunks(const struct heap *h, uint64_t place)
{
    const struct undo_record *r = undo_get(h, place);
    int rv = 0;
    for (uint32_t i = 0; i < r->chunks && rv == 0; i++) {
        uint64_t at = block_address(h, place) + undo_chunks_at(r->len) + i * 8u;
        rv = load_slab_of(h, load_u64(arena_at(&h->arena, at)));
    }
    return rv;
}

int object_load_all_slow(const struct heap *h, uint64_t place)
{
    int rv = object_load_slow(h, place);
    if (rv == 0) {
        rv = load_slab_of(h, place);
    }
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(h, place, &o);
    uint64_t chunks = (o.flags & OBJECT_TABLE) != 0 ? object_chunks(o.size) : 0;
    for (uint64_t i = 0; i < chunks && rv == 0; i++) {
        rv = load_slab_of(h, object_chunk_at(h, &o, i));
    }
    uint64_t newest = (o.flags & OBJECT_HISTORY) != 0 ? undo_newest(h, o.slot) : 0;
    return rv == 0 && newest != 0 ? undo_load_chunks(h, newest) : rv;
}

int slab_load_slow(const struct heap *h, uint64_t granule)
{
    uint64_t address = granule_address(h, granule);
    int rv = heap_load(h, address, sizeof(struct slab));
    return rv == 0 && slab_get(h, granule)->magic == BLOCK_MAGIC_SLAB ? load_slab(h, granule) : rv;
}

/* A block of POOL_OBJECTS moves: whoever leads to it. */
static int load_owner(const struct heap *h, uint64_t place)
{
    const struct object_header *o =
        (const struct object_header *)arena_at(&h->arena, block_address(h, place));
    uint64_t slot = o->word & OBJECT_SLOT_MASK;
    bool chunk = (o->word >> OBJECT_FLAGS_SHIFT & OBJECT_CHUNK) != 0;
    if (chunk && o->version >> CHUNK_KEEPER_SHIFT != 0) {
        return 0; /* an undo record */
    }
    int rv = slot_load_slow(h, slot);
    return rv == 0 && chunk ? object_load_slow(h, slot_word_place(slot_get(h, slot))) : rv;
}

int extent_load_slow(const struct heap *h, uint64_t granule)
{
    uint32_t shift = h->regions.granule_shift;
    int rv = heap_load(h, granule_address(h, granule), extent_granules(h, granule) << shift);
    if (rv != 0) {
        return rv;
    }
    if (extent_is_object(h, granule)) {
        return load_owner(h, place_make(granule << shift, PLACE_NO_CLASS));
    }
    const struct slab *s = slab_get(h, granule);
    if (s->magic != BLOCK_MAGIC_SLAB || s->pool != POOL_OBJECTS) {
        return 0;
    }
    for (uint32_t block = 0; rv == 0 && slab_block_next(h, granule, block, &block); block++) {
        rv = load_owner(h, slab_place(h, granule, s, block));
    }
    return rv;
}
