/* A shard's heap: life, entries, objects, numbers. */
#include "alloc/heap.h"

#include <string.h>

#include "alloc/engine.h"
#include "base/mem.h"

#define OBJECT_SLOT_MASK   (((uint64_t)1 << PTR_SLOT_BITS) - 1)
#define OBJECT_SLACK_SHIFT 39
#define OBJECT_TYPE_SHIFT  45

/* ---- regions ---- */

bool heap_bytes_max_is_valid(uint64_t bytes_max)
{
    return bytes_max >= HEAP_BYTES_MIN && bytes_max <= HEAP_BYTES_MAX &&
           bytes_max % PAGE_BYTES == 0;
}

static uint64_t pages_up(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

void heap_regions_of(uint64_t bytes_max, struct heap_regions *out)
{
    assert(heap_bytes_max_is_valid(bytes_max));
    out->granule_shift = GRANULE_SHIFT_MIN;
    while (bytes_max >> out->granule_shift > UINT32_MAX) {
        out->granule_shift++;
    }
    /* A live slot has a block of 32 bytes at least, so a quarter is more than can ever be live; a
     * page's slots can be used 16383 times each, and 256 generations of pages keep a busy heap
     * going for years. */
    uint64_t frames = bytes_max / 4 / PAGE_BYTES;
    uint64_t pages = frames * 256;
    out->slot_pages_max = pages < SLOT_PAGES_MAX ? (uint32_t)pages : SLOT_PAGES_MAX;
    out->frames_max = frames < UINT32_MAX ? (uint32_t)frames : UINT32_MAX - 1;
    uint64_t extents = (bytes_max >> out->granule_shift) + 1;
    out->extents_max = extents < EXTENT_INDEX_MASK ? (uint32_t)extents : EXTENT_INDEX_MASK;
    out->directory_at = PAGE_BYTES;
    out->extents_at = out->directory_at + pages_up((uint64_t)out->slot_pages_max * 4);
    out->frames_at = out->extents_at + pages_up((uint64_t)out->extents_max * sizeof(struct extent));
    out->data_at = out->frames_at + (uint64_t)out->frames_max * PAGE_BYTES;
    out->end = out->data_at + bytes_max;
}

/* ---- life ---- */

struct arena *heap_arena(struct heap *heap)
{
    return &heap->arena;
}

uint64_t heap_page_count(const struct heap *heap)
{
    return (heap->regions.data_at + header(heap)->data_bytes) >> PAGE_SHIFT;
}

int heap_create(const struct heap_opts *opts, struct heap **out)
{
    *out = NULL;
    if (!heap_bytes_max_is_valid(opts->bytes_max) || opts->shard >= 4096) {
        return ERR_INVAL;
    }
    struct heap *h = mem_zalloc(sizeof *h);
    if (h == NULL) {
        return ERR_NOMEM;
    }
    heap_regions_of(opts->bytes_max, &h->regions);
    int rv = arena_open(&h->arena, h->regions.end >> PAGE_SHIFT);
    if (rv != 0) {
        goto err_after_alloc;
    }
    /* Descriptor 0 is never used: 0 is "none". */
    rv = arena_commit(&h->arena, 0, PAGE_BYTES);
    if (rv == 0) {
        rv = arena_commit(&h->arena, h->regions.extents_at, PAGE_BYTES);
    }
    if (rv != 0) {
        goto err_after_arena;
    }
    struct heap_header *hd = header_edit(h);
    hd->magic = HEAP_MAGIC;
    hd->format = HEAP_FORMAT;
    hd->engine = HEAP_ENGINE;
    hd->uid = opts->uid;
    hd->heap_id = opts->heap_id;
    hd->shard = opts->shard;
    hd->granule_shift = h->regions.granule_shift;
    hd->bytes_max = opts->bytes_max;
    hd->extent_count = 1;
    (void)extent_edit(h, 0);
    *out = h;
    return 0;

err_after_arena:
    arena_close(&h->arena);
err_after_alloc:
    mem_free(h);
    return rv;
}

void heap_free(struct heap *heap)
{
    if (heap == NULL) {
        return;
    }
    arena_close(&heap->arena);
    mem_free(heap);
}

void heap_get_opts(const struct heap *heap, struct heap_opts *out)
{
    const struct heap_header *hd = header(heap);
    out->uid = hd->uid;
    out->heap_id = hd->heap_id;
    out->shard = hd->shard;
    out->bytes_max = hd->bytes_max;
}

/* ---- entries ---- */

void heap_begin(struct heap *heap, uint64_t index, uint64_t term, uint64_t entry_time)
{
    assert(!heap->in_entry);
    assert(index > header(heap)->index);
    struct heap_header *hd = header_edit(heap);
    hd->index = index;
    hd->term = term;
    heap->entry_time = entry_time;
    heap->in_entry = true;
}

void heap_end(struct heap *heap)
{
    assert(heap->in_entry);
    heap->in_entry = false;
}

uint64_t heap_index(const struct heap *heap)
{
    return header(heap)->index;
}

uint64_t heap_term(const struct heap *heap)
{
    return header(heap)->term;
}

uint64_t heap_clock(const struct heap *heap)
{
    return header(heap)->clock;
}

uint64_t heap_next_version(struct heap *heap)
{
    assert(heap->in_entry);
    struct heap_header *hd = header_edit(heap);
    hd->clock = heap->entry_time > hd->clock ? heap->entry_time : hd->clock + 1;
    return hd->clock;
}

const uint8_t *heap_fsm(const struct heap *heap)
{
    return header(heap)->fsm;
}

uint8_t *heap_fsm_edit(struct heap *heap)
{
    static_assert(sizeof(((struct heap_header *)0)->fsm) == HEAP_FSM_BYTES, "contract");
    return header_edit(heap)->fsm;
}

/* ---- objects ---- */

void object_decode(const struct heap *h, uint64_t place, struct object_view *out)
{
    uint64_t address = block_address(h, place);
    const struct object_header *o = (const struct object_header *)arena_at(&h->arena, address);
    out->version = o->version;
    out->slot = o->word & OBJECT_SLOT_MASK;
    out->flags = 0;
    if ((o->word & OBJECT_WIDE) != 0) {
        const struct object_header_wide *w = (const struct object_header_wide *)o;
        out->size = w->size;
        out->type = w->type;
        out->payload = address + sizeof *w;
    } else {
        uint64_t slack = o->word >> OBJECT_SLACK_SHIFT & 63;
        out->size = block_bytes(h, place) - sizeof *o - slack;
        out->type = (uint32_t)(o->word >> OBJECT_TYPE_SHIFT) & (OBJECT_NARROW_TYPES - 1);
        out->payload = address + sizeof *o;
    }
}

static int object_find(const struct heap *h, uint64_t ptr, uint64_t *place)
{
    if (ptr == 0 || ptr_shard(ptr) != header(h)->shard) {
        return ERR_INVAL;
    }
    uint64_t word = slot_get(h, ptr_slot(ptr));
    if (slot_word_state(word) != SLOT_LIVE || slot_word_generation(word) != ptr_generation(ptr)) {
        return ERR_STALE;
    }
    *place = slot_word_place(word);
    return 0;
}

int heap_alloc(struct heap *heap, uint64_t version, uint64_t size, uint32_t type, struct slice init,
               uint64_t *ptr)
{
    *ptr = 0;
    if (size == 0 || init.len > size) {
        return ERR_INVAL;
    }
    if (size > OBJECT_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    bool narrow = size <= OBJECT_NARROW_BYTES_MAX - sizeof(struct object_header) &&
                  type < OBJECT_NARROW_TYPES;
    uint64_t head = narrow ? sizeof(struct object_header) : sizeof(struct object_header_wide);
    uint64_t slot = 0;
    int rv = slot_prepare(heap, &slot);
    if (rv != 0) {
        return rv;
    }
    uint64_t place = 0;
    rv = block_alloc(heap, POOL_OBJECTS, head + size, slot, &place);
    if (rv != 0) {
        return rv;
    }
    uint8_t *bytes = arena_write(&heap->arena, block_address(heap, place), head + init.len);
    struct object_header_wide *o = (struct object_header_wide *)(void *)bytes;
    o->narrow.version = version;
    if (narrow) {
        uint64_t slack = block_bytes(heap, place) - head - size;
        assert(slack < 64);
        o->narrow.word = slot | slack << OBJECT_SLACK_SHIFT | (uint64_t)type << OBJECT_TYPE_SHIFT;
    } else {
        o->narrow.word = slot | OBJECT_WIDE;
        o->size = (uint32_t)size;
        o->type = type;
        o->reserved = 0;
    }
    if (init.len > 0) {
        memcpy(bytes + head, init.data, init.len);
    }
    struct heap_header *hd = header_edit(heap);
    hd->object_count++;
    hd->object_bytes += size;
    *ptr = ptr_make(hd->shard, slot_take(heap, slot, place), slot);
    return 0;
}

int heap_free_object(struct heap *heap, uint64_t version, uint64_t ptr)
{
    (void)version; /* of the undo record, once there is one */
    uint64_t place = 0;
    int rv = object_find(heap, ptr, &place);
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(heap, place, &o);
    struct heap_header *hd = header_edit(heap);
    hd->object_count--;
    hd->object_bytes -= o.size;
    slot_release(heap, ptr_slot(ptr));
    block_free(heap, place);
    return 0;
}

int heap_write(struct heap *heap, uint64_t version, uint64_t ptr, uint64_t offset,
               struct slice data)
{
    uint64_t place = 0;
    int rv = object_find(heap, ptr, &place);
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(heap, place, &o);
    if (offset > o.size || data.len > o.size - offset) {
        return ERR_RANGE;
    }
    struct object_header *head =
        arena_write(&heap->arena, block_address(heap, place), sizeof *head);
    head->version = version;
    if (data.len > 0) {
        memcpy(arena_write(&heap->arena, o.payload + offset, data.len), data.data, data.len);
    }
    return 0;
}

int heap_read(const struct heap *heap, uint64_t ptr, uint64_t offset, uint64_t len,
              const uint8_t **bytes)
{
    *bytes = NULL;
    uint64_t place = 0;
    int rv = object_find(heap, ptr, &place);
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(heap, place, &o);
    if (offset > o.size || len > o.size - offset) {
        return ERR_RANGE;
    }
    /* Leftovers in absent pages aren't state: washing them changes nothing that anyone can see. */
    struct arena *a = (struct arena *)(uintptr_t)&heap->arena;
    *bytes = arena_read(a, o.payload + offset, len);
    return 0;
}

static void object_describe(const struct heap *h, uint64_t ptr, uint64_t place,
                            struct heap_object *out)
{
    struct object_view o;
    object_decode(h, place, &o);
    out->ptr = ptr;
    out->size = o.size;
    out->version = o.version;
    out->type = o.type;
    out->flags = o.flags;
}

int heap_stat(const struct heap *heap, uint64_t ptr, struct heap_object *out)
{
    memset(out, 0, sizeof *out);
    uint64_t place = 0;
    int rv = object_find(heap, ptr, &place);
    if (rv == 0) {
        object_describe(heap, ptr, place, out);
    }
    return rv;
}

size_t heap_list_objects(const struct heap *heap, uint64_t from, struct heap_object *out,
                         size_t max, uint64_t *next)
{
    const struct heap_header *hd = header(heap);
    uint64_t end = (uint64_t)hd->slot_pages * SLOTS_PER_PAGE;
    size_t count = 0;
    uint64_t slot = from;
    while (slot < end && count < max) {
        if (slot_frame(heap, slot / SLOTS_PER_PAGE) < 0) {
            slot = (slot / SLOTS_PER_PAGE + 1) * SLOTS_PER_PAGE;
            continue;
        }
        uint64_t word = slot_get(heap, slot);
        if (slot_word_state(word) == SLOT_LIVE) {
            object_describe(heap, ptr_make(hd->shard, slot_word_generation(word), slot),
                            slot_word_place(word), &out[count]);
            count++;
        }
        slot++;
    }
    *next = slot < end ? slot : 0;
    return count;
}

/* ---- numbers ---- */

static uint64_t largest_free(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    uint64_t most = 0;
    if (hd->bin_rows != 0) {
        uint32_t row = 31 - (uint32_t)__builtin_clz(hd->bin_rows);
        uint32_t column = 31 - (uint32_t)__builtin_clz(hd->bin_columns[row]);
        for (uint32_t i = hd->bins[row][column]; i != 0; i = extent_get(h, i)->a) {
            uint64_t granules = extent_granules(h, i);
            most = granules > most ? granules : most;
        }
    }
    most <<= h->regions.granule_shift;
    uint64_t grown = hd->bytes_max - space_bytes(h);
    if (hd->extent_last != 0 && extent_state(extent_get(h, hd->extent_last)) == EXTENT_FREE) {
        grown += extent_granules(h, hd->extent_last) << h->regions.granule_shift;
    }
    return grown > most ? grown : most;
}

void heap_get_stats(const struct heap *heap, struct heap_stats *out)
{
    const struct heap_header *hd = header(heap);
    memset(out, 0, sizeof *out);
    out->arena_bytes = space_bytes(heap);
    out->arena_bytes_max = hd->bytes_max;
    out->object_count = hd->object_count;
    out->object_bytes = hd->object_bytes;
    out->allocated_bytes = hd->block_bytes[POOL_OBJECTS] + hd->block_bytes[POOL_INTERNAL];
    out->free_bytes =
        (hd->free_granules << heap->regions.granule_shift) + hd->bytes_max - out->arena_bytes;
    out->largest_free_bytes = largest_free(heap);
    out->metadata_bytes =
        out->arena_bytes - hd->data_bytes + hd->object_count * sizeof(struct object_header);
    out->root_count = hd->maps[HEAP_MAP_ROOTS].count;
    out->session_count = hd->maps[HEAP_MAP_SESSIONS].count;
    out->dirty_pages = heap->arena.dirty_count;
    out->present_pages = heap->arena.present_count;
}

uint64_t heap_digest(struct heap *heap)
{
    return arena_digest(&heap->arena);
}
