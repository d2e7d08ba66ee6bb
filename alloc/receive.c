/* A heap from pages that came from elsewhere: nothing of it is believed before heap_adopt() has
 * looked at all of it. */
#include <string.h>

#include "alloc/engine.h"
#include "base/mem.h"

struct heap_receive {
    struct arena arena;
    uint64_t page_count;
    uint64_t bytes_max;
};

int heap_receive_open(uint64_t page_count, uint64_t bytes_max, struct heap_receive **out)
{
    *out = NULL;
    if (!heap_bytes_max_is_valid(bytes_max)) {
        return ERR_INVAL;
    }
    /* How large its granules are only its header says: room for the smallest, which need the most
     * (heap_adopt() looks at the rest). */
    struct heap_regions regions;
    struct heap_regions least;
    heap_regions_of(bytes_max, 0, &regions);
    heap_regions_of(bytes_max, GRANULE_SHIFT_MAX, &least);
    if (page_count < least.data_at >> PAGE_SHIFT || page_count > regions.end >> PAGE_SHIFT) {
        return ERR_INVAL;
    }
    struct heap_receive *r = mem_zalloc(sizeof *r);
    if (r == NULL) {
        return ERR_NOMEM;
    }
    int rv = arena_open(&r->arena, regions.end >> PAGE_SHIFT);
    if (rv != 0) {
        mem_free(r);
        return rv;
    }
    r->page_count = page_count;
    r->bytes_max = bytes_max;
    *out = r;
    return 0;
}

int heap_receive_page(struct heap_receive *r, uint64_t page, const void *bytes)
{
    if (page >= r->page_count) {
        return ERR_RANGE;
    }
    return arena_load(&r->arena, page, bytes);
}

int heap_receive_finish(struct heap_receive *r, uint64_t uid, uint64_t index, uint64_t term,
                        uint64_t digest, struct heap **out)
{
    *out = NULL;
    int rv = r->arena.digest == digest ? 0 : ERR_CORRUPT;
    struct heap *heap = NULL;
    if (rv == 0) {
        rv = heap_adopt(&r->arena, r->bytes_max, &heap, NULL);
    }
    if (rv != 0) {
        heap_receive_cancel(r);
        return rv;
    }
    const struct heap_header *hd = header(heap);
    if (hd->uid != uid || hd->index != index || hd->term != term ||
        heap_page_count(heap) != r->page_count) {
        heap_free(heap);
        mem_free(r);
        return ERR_CORRUPT;
    }
    /* It has no image of its own yet: all of it has to be written. */
    struct arena *a = &heap->arena;
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        arena_write_again(a, p, PAGE_LINES_ALL);
    }
    mem_free(r);
    *out = heap;
    return 0;
}

void heap_receive_cancel(struct heap_receive *r)
{
    if (r == NULL) {
        return;
    }
    if (r->arena.base != NULL) {
        arena_close(&r->arena);
    }
    mem_free(r);
}
