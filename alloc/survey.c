/* Going through a whole heap for numbers that it doesn't keep: by type, and where the space is. */
#include "alloc/survey.h"

#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"

/* ---- by type ---- */

/* Types in ascending order of their number. */
static struct survey_type *type_find(struct buf *types, uint32_t type)
{
    struct survey_type *all = (struct survey_type *)(void *)types->data;
    size_t low = 0;
    size_t high = types->len / sizeof *all;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (all[middle].type < type) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    size_t count = types->len / sizeof *all;
    if (low < count && all[low].type == type) {
        return &all[low];
    }
    if (buf_extend(types, sizeof *all) == NULL) {
        return NULL;
    }
    all = (struct survey_type *)(void *)types->data;
    memmove(&all[low + 1], &all[low], (count - low) * sizeof *all);
    all[low] = (struct survey_type){.type = type};
    return &all[low];
}

/* Bytes of all blocks of the object, and how many of them are of no use to it. */
static uint64_t blocks_of(const struct heap *h, uint64_t place, uint64_t *slack)
{
    struct object_view o;
    object_decode(h, place, &o);
    uint64_t bytes = block_bytes(h, place);
    if ((o.flags & OBJECT_TABLE) == 0) {
        *slack += bytes - o.head - o.size;
        return bytes;
    }
    uint64_t chunks = object_chunks(o.size);
    *slack += bytes - o.head - chunks * sizeof(uint64_t);
    for (uint64_t i = 0; i < chunks; i++) {
        uint64_t chunk = block_bytes(h, object_chunk_at(h, &o, i));
        *slack += chunk - sizeof(struct object_header) - object_chunk_bytes(o.size, i);
        bytes += chunk;
    }
    return bytes;
}

static int more_bytes(const void *a, const void *b)
{
    const struct survey_type *x = a;
    const struct survey_type *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? 1 : -1;
    }
    return x->type > y->type ? 1 : -1;
}

int survey_types(const struct heap *heap, struct survey *out)
{
    struct buf types;
    struct heap_object list[64];
    uint64_t from = 0;
    memset(out, 0, sizeof *out);
    buf_init(&types);
    do {
        size_t count = heap_list_objects(heap, from, list, 64, &from);
        for (size_t i = 0; i < count; i++) {
            struct survey_type *t = type_find(&types, list[i].type);
            uint64_t place = 0;
            if (t == NULL || object_find(heap, list[i].ptr, false, &place) != 0) {
                buf_close(&types);
                return ERR_NOMEM;
            }
            t->count++;
            t->bytes += list[i].size;
            t->block_bytes += blocks_of(heap, place, &out->slack_bytes);
            out->objects++;
            out->object_bytes += list[i].size;
        }
    } while (from != 0);
    size_t count = types.len / sizeof(struct survey_type);
    if (count > 0) {
        qsort(types.data, count, sizeof(struct survey_type), more_bytes);
    }
    for (size_t i = 0; i < count; i++) {
        struct survey_type t;
        memcpy(&t, types.data + i * sizeof t, sizeof t);
        if (out->type_count < SURVEY_TYPES_MAX) {
            out->types[out->type_count++] = t;
            continue;
        }
        struct survey_type *last = &out->types[SURVEY_TYPES_MAX - 1];
        last->count += t.count;
        last->bytes += t.bytes;
        last->block_bytes += t.block_bytes;
    }
    buf_close(&types);
    return 0;
}

/* ---- the map ---- */

static enum survey_content content_of(const struct heap *h, uint64_t granule)
{
    if (extent_is_object(h, granule)) {
        return SURVEY_EXTENT;
    }
    const struct slab *s = slab_get(h, granule);
    return s->magic == BLOCK_MAGIC_SLAB && s->pool == POOL_OBJECTS ? SURVEY_SLAB : SURVEY_INTERNAL;
}

static void cell_close(struct survey_cell *cell, const uint64_t granules[4], uint64_t size)
{
    uint64_t used = 0;
    uint64_t most = 0;
    cell->content = SURVEY_FREE;
    for (unsigned what = SURVEY_SLAB; what <= SURVEY_INTERNAL; what++) {
        used += granules[what];
        if (granules[what] > most) {
            most = granules[what];
            cell->content = (uint8_t)what;
        }
    }
    /* A used cell never looks like a free one. */
    uint64_t permille = used * 1000 / size;
    cell->used_permille = (uint16_t)(used > 0 && permille == 0 ? 1 : permille);
}

uint64_t survey_map(const struct heap *heap, struct survey_cell *out, uint32_t cells)
{
    uint64_t total = space_granules(heap);
    if (cells == 0) {
        return 0;
    }
    memset(out, 0, cells * sizeof *out);
    uint64_t size = (total + cells - 1) / cells;
    size = size == 0 ? 1 : size;
    uint64_t granules[4] = {0};
    uint64_t cell = 0;
    for (uint64_t g = extent_next(heap, 0); g < total; g = extent_next(heap, g)) {
        enum survey_content what = content_of(heap, g);
        uint64_t end = g + extent_granules(heap, g);
        while (g < end) {
            if (g / size != cell) {
                cell_close(&out[cell], granules, size);
                memset(granules, 0, sizeof granules);
                cell = g / size;
            }
            uint64_t stop = (cell + 1) * size < end ? (cell + 1) * size : end;
            granules[what] += stop - g;
            g = stop;
        }
    }
    cell_close(&out[cell], granules, size);
    return size << heap->regions.granule_shift;
}
