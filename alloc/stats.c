/* Numbers about a heap: what is used for what. Nothing here changes anything. */
#include <string.h>

#include "alloc/engine.h"

/* What could be handed out in one piece: a free run, or the last one and what the data can grow. */
static uint64_t largest_free_bytes(const struct heap *h)
{
    uint32_t shift = h->regions.granule_shift;
    uint64_t run = space_largest_free(h) << shift;
    uint64_t last = extent_last_before(h, space_granules(h));
    uint64_t end = last == UINT64_MAX ? 0 : (last + extent_granules(h, last)) << shift;
    uint64_t most = space_data_bytes_max(h);
    uint64_t grown = most > end ? most - end : 0;
    return run > grown ? run : grown;
}

/* *narrow: blocks of objects that are small enough for the narrow header. */
static void walk_slabs(const struct heap *heap, struct heap_class_stats out[HEAP_CLASSES],
                       uint64_t *narrow)
{
    static_assert(HEAP_CLASSES == SLAB_CLASSES + 1, "contract");
    const struct heap_header *hd = header(heap);
    uint32_t shift = heap->regions.granule_shift;
    struct heap_class_stats *extents = &out[HEAP_CLASSES - 1];
    memset(out, 0, HEAP_CLASSES * sizeof *out);
    *narrow = 0;
    for (uint32_t class_number = 0; class_number < SLAB_CLASSES; class_number++) {
        out[class_number].block_bytes = class_bytes(class_number);
        out[class_number].spare =
            class_number < SPARE_CLASSES ? spares_of(heap, class_number)->count : 0;
    }
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        extents->blocks += hd->block_count[pool];
        extents->bytes += hd->block_bytes[pool];
    }
    extents->arena_bytes = hd->used_granules << shift;
    uint64_t end = space_granules(heap);
    for (uint64_t g = extent_next_internal(heap, 0); g < end;
         g = extent_next_internal(heap, g + 1)) {
        if (slab_load(heap, g) != 0) {
            break; /* heap_damage() says so */
        }
        const struct slab *s = slab_get(heap, g);
        if (s->magic != BLOCK_MAGIC_SLAB) {
            continue;
        }
        struct heap_class_stats *c = &out[s->class];
        uint64_t arena_bytes = extent_granules(heap, g) << shift;
        uint64_t bytes = (uint64_t)s->used * c->block_bytes;
        c->slabs++;
        c->partial_slabs += s->used < s->blocks;
        c->blocks += s->used;
        c->capacity += s->blocks;
        c->bytes += bytes;
        c->arena_bytes += arena_bytes;
        if (s->pool == POOL_OBJECTS && c->block_bytes <= OBJECT_NARROW_BYTES_MAX) {
            *narrow += s->used;
        }
        extents->blocks -= s->used;
        extents->bytes -= bytes;
        extents->arena_bytes -= arena_bytes;
    }
    extents->capacity = extents->blocks;
}

void heap_get_class_stats(const struct heap *heap, struct heap_class_stats out[HEAP_CLASSES])
{
    uint64_t narrow = 0;
    walk_slabs(heap, out, &narrow);
}

/* What slabs have beside blocks, tables, and headers: taken as narrow in every block that can have
 * a narrow one (types of OBJECT_NARROW_TYPES and above have a wide one there, too). */
static uint64_t object_metadata_bytes(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    struct heap_class_stats classes[HEAP_CLASSES];
    uint64_t narrow = 0;
    walk_slabs(h, classes, &narrow);
    uint64_t bytes = hd->chunk_count * sizeof(uint64_t) + narrow * sizeof(struct object_header) +
                     (hd->block_count[POOL_OBJECTS] - narrow) * sizeof(struct object_header_wide);
    for (uint32_t i = 0; i < SLAB_CLASSES; i++) {
        bytes += classes[i].arena_bytes - classes[i].capacity * classes[i].block_bytes;
    }
    return bytes;
}

void heap_get_stats(const struct heap *heap, struct heap_stats *out)
{
    const struct heap_header *hd = header(heap);
    memset(out, 0, sizeof *out);
    out->arena_bytes = space_bytes(heap);
    out->arena_bytes_max = hd->bytes_max;
    out->object_count = hd->object_count;
    out->object_bytes = hd->object_bytes;
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        out->allocated_bytes += hd->block_bytes[pool];
    }
    out->object_block_bytes = hd->block_bytes[POOL_OBJECTS];
    out->spare_count = spares_count(heap, &out->spare_bytes);
    out->free_bytes = hd->bytes_max - out->arena_bytes + hd->data_bytes -
                      (hd->used_granules << heap->regions.granule_shift);
    out->largest_free_bytes = largest_free_bytes(heap);
    out->metadata_space_bytes = out->arena_bytes - hd->data_bytes;
    out->metadata_object_bytes = object_metadata_bytes(heap);
    out->root_count = hd->maps[HEAP_MAP_ROOTS].count - hd->roots_reserved;
    out->session_count = hd->maps[HEAP_MAP_SESSIONS].count;
    out->type_count = hd->maps[HEAP_MAP_TYPES].count;
    out->dead_count = hd->dead_count;
    out->dead_bytes = hd->dead_bytes;
    out->undo_count = hd->undo_count;
    out->undo_bytes = hd->undo_bytes;
    out->retention_ms = hd->retention_ms;
    out->safepoint = hd->safepoint;
    out->leased_slots = hd->leased_count;
    /* Of the pages that left the table; single ones in others aren't counted anywhere. */
    out->retired_slots = (uint64_t)hd->slot_retired * (SLOTS_PER_PAGE - SLOT_FIRST);
    out->moved_blocks = hd->moved_blocks;
    out->moved_bytes = hd->moved_bytes;
    out->dirty_pages = arena_dirty_pages(&heap->arena);
    out->present_pages = heap->arena.present_count;
}

void heap_get_counts(const struct heap *heap, struct heap_counts *out)
{
    out->dirty_pages = arena_dirty_pages(&heap->arena);
    out->present_pages = heap->arena.present_count;
    out->undo_count = header(heap)->undo_count;
}

void heap_stats_each(const struct heap_stats *s, heap_stat_cb cb, void *arg)
{
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"arena_bytes", s->arena_bytes},
        {"arena_bytes_max", s->arena_bytes_max},
        {"objects", s->object_count},
        {"object_bytes", s->object_bytes},
        {"allocated_bytes", s->allocated_bytes},
        {"object_block_bytes", s->object_block_bytes},
        {"spare_blocks", s->spare_count},
        {"spare_bytes", s->spare_bytes},
        {"free_bytes", s->free_bytes},
        {"largest_free_bytes", s->largest_free_bytes},
        {"metadata_bytes", s->metadata_space_bytes + s->metadata_object_bytes},
        {"metadata_space_bytes", s->metadata_space_bytes},
        {"metadata_object_bytes", s->metadata_object_bytes},
        {"roots", s->root_count},
        {"types", s->type_count},
        {"dead_objects", s->dead_count},
        {"dead_bytes", s->dead_bytes},
        {"undo_records", s->undo_count},
        {"undo_bytes", s->undo_bytes},
        {"retention_ms", s->retention_ms},
        {"leased_slots", s->leased_slots},
        {"retired_slots", s->retired_slots},
        {"moved_blocks", s->moved_blocks},
        {"moved_bytes", s->moved_bytes},
        {"dirty_pages", s->dirty_pages},
        {"present_pages", s->present_pages},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        cb(arg, numbers[i].name, numbers[i].value);
    }
}
