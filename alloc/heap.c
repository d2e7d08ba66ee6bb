/* A shard's heap: its life, and the entries that change it. */
#include "alloc/heap.h"

#include <string.h>

#include "alloc/engine.h"
#include "base/mem.h"

/* ---- life ---- */

bool heap_bytes_max_is_valid(uint64_t bytes_max)
{
    return bytes_max >= HEAP_BYTES_MIN && bytes_max <= HEAP_BYTES_MAX &&
           bytes_max % PAGE_BYTES == 0;
}

struct arena *heap_arena(struct heap *heap)
{
    return &heap->arena;
}

uint64_t heap_page_count(const struct heap *heap)
{
    return (heap->regions.data_at + header(heap)->data_bytes) >> PAGE_SHIFT;
}

static void header_init(struct heap *h, const struct heap_opts *opts)
{
    struct heap_header *hd = header_edit(h);
    hd->magic = HEAP_MAGIC;
    hd->format = HEAP_FORMAT;
    hd->engine = HEAP_ENGINE;
    hd->uid = opts->uid;
    hd->heap_id = opts->heap_id;
    hd->shard = opts->shard;
    hd->granule_shift = h->regions.granule_shift;
    hd->bytes_max = opts->bytes_max;
    hd->retention_ms = opts->retention_ms;
    hd->lease_next = 1;
}

int heap_create(const struct heap_opts *opts, struct heap **out)
{
    *out = NULL;
    if (!heap_bytes_max_is_valid(opts->bytes_max) || opts->shard >= 1u << PTR_SHARD_BITS ||
        !heap_granule_shift_is_valid(opts->bytes_max, opts->granule_shift)) {
        return ERR_INVAL;
    }
    struct heap *h = mem_zalloc(sizeof *h);
    if (h == NULL) {
        return ERR_NOMEM;
    }
    map_places_init(h);
    h->uid = opts->uid;
    heap_regions_of(opts->bytes_max, opts->granule_shift, &h->regions);
    int rv = arena_open(&h->arena, h->regions.end >> PAGE_SHIFT);
    if (rv != 0) {
        goto err_after_alloc;
    }
    rv = arena_commit(&h->arena, 0, h->regions.directory_at);
    if (rv != 0) {
        goto err_after_arena;
    }
    header_init(h, opts);
    rv = space_open(h);
    if (rv != 0) {
        goto err_after_arena;
    }
    rv = opts->retention_ms != 0 ? undo_open(h) : 0;
    if (rv != 0) {
        goto err_after_space;
    }
    *out = h;
    return 0;

err_after_space:
    space_close(h);
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
    space_close(heap);
    arena_close(&heap->arena);
    mem_free(heap);
}

void heap_get_opts(const struct heap *heap, struct heap_opts *out)
{
    const struct heap_header *hd = header(heap);
    memset(out, 0, sizeof *out);
    out->uid = hd->uid;
    out->heap_id = hd->heap_id;
    out->shard = hd->shard;
    out->bytes_max = hd->bytes_max;
    out->granule_shift = hd->granule_shift;
    out->retention_ms = hd->retention_ms;
}

/* ---- entries ---- */

void heap_begin(struct heap *heap, uint64_t index, uint64_t term, uint64_t entry_time)
{
    assert(!heap->in_entry);
    assert(index > header(heap)->index);
    struct heap_header *hd = header_counts_edit(heap);
    hd->index = index;
    hd->term = term;
    heap->entry_time = entry_time;
    heap->in_entry = true;
    if (__builtin_expect(spares_are_dear(heap), 0)) {
        (void)spare_drop_all(heap); /* what it can't load is heap_damage()'s */
    }
}

void heap_end(struct heap *heap)
{
    assert(heap->in_entry);
    heap->in_entry = false;
    arena_settle(&heap->arena);
}

uint64_t heap_uid(const struct heap *heap)
{
    return heap->uid;
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

uint64_t heap_work(const struct heap *heap)
{
    return heap->work;
}

uint64_t heap_next_version(struct heap *heap)
{
    assert(heap->in_entry);
    struct heap_header *hd = header_counts(heap);
    hd->clock = heap->entry_time > hd->clock ? heap->entry_time : hd->clock + 1;
    return hd->clock;
}

const uint8_t *heap_fsm(const struct heap *heap)
{
    return header(heap)->fsm;
}

uint8_t *heap_fsm_edit(struct heap *heap, size_t at, size_t len)
{
    static_assert(sizeof(((struct heap_header *)0)->fsm) == HEAP_FSM_BYTES, "contract");
    assert(at <= HEAP_FSM_BYTES && len <= HEAP_FSM_BYTES - at);
    return arena_write(&heap->arena, offsetof(struct heap_header, fsm) + at, len);
}

uint64_t heap_digest(struct heap *heap)
{
    return arena_digest(&heap->arena);
}
