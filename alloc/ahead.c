/* What a command of a heap will read, asked for step by step. */
#include "alloc/ahead.h"

#include "alloc/small.h"

#define OBJECT_LINES 5u /* of header and bytes: what a small object has */

void heap_ahead(const struct heap *heap, unsigned step)
{
    lines_ask();
    if (step == 0) {
        __builtin_prefetch(&heap->arena.base);
        __builtin_prefetch(&heap->arena.lines);
        __builtin_prefetch(&heap->arena.unloaded_count);
        __builtin_prefetch(&heap->regions);
        __builtin_prefetch(&heap->regions.data_at);
        __builtin_prefetch(&heap->map_places);
    } else if (step == 1 && heap_is_loaded(heap)) {
        const struct heap_header *hd = header(heap);
        __builtin_prefetch(&hd->uid);
        __builtin_prefetch(&hd->index);
        __builtin_prefetch(&hd->slot_pages);
        __builtin_prefetch(&hd->retention_ms);
        __builtin_prefetch(hd->fsm);
        __builtin_prefetch(hd->fsm + LINE_BYTES);
        __builtin_prefetch(heap->arena.lines);
    }
}

void heap_object_ahead(const struct heap *heap, uint64_t ptr, unsigned step)
{
    lines_ask();
    uint64_t slot = ptr_slot(ptr);
    if (!heap_is_loaded(heap) || slot / SLOTS_PER_PAGE >= header(heap)->slot_pages) {
        return;
    }
    if (step == 2) {
        uint64_t at = heap->regions.directory_at + slot / SLOTS_PER_PAGE * sizeof(uint32_t);
        __builtin_prefetch(heap->arena.base + at);
    } else if (step == 3) {
        int64_t frame = slot_frame(heap, slot / SLOTS_PER_PAGE);
        if (frame >= 0) {
            __builtin_prefetch(heap->arena.base + slot_frame_address(heap, (uint64_t)frame) +
                               slot % SLOTS_PER_PAGE * 8);
        }
    } else if (step == 4) {
        uint64_t word = slot_peek(heap, slot);
        if (slot_word_state(word) == SLOT_LIVE) {
            uint64_t at = block_address(heap, slot_word_place(word));
            for (unsigned i = 0; i < OBJECT_LINES; i++) {
                __builtin_prefetch(heap->arena.base + at + (size_t)i * LINE_BYTES, 1);
            }
            __builtin_prefetch(&heap->arena.lines[at >> PAGE_SHIFT]);
        }
    }
}

/* ---- within an entry ---- */

void heap_foresee_slot(const struct heap *h, uint64_t ptr)
{
    lines_ask();
    uint64_t slot = ptr_slot(ptr);
    int64_t frame = slot_frame(h, slot / SLOTS_PER_PAGE);
    if (frame >= 0) {
        const uint8_t *page = h->arena.base + slot_frame_address(h, (uint64_t)frame);
        __builtin_prefetch(page + slot % SLOTS_PER_PAGE * 8, 1);
    }
}

/* A slab's header and bitmap, and the header of the slot's page: what a free changes that leaves no
 * spare. */
static void foresee_slab(const struct heap *h, uint64_t slot, uint64_t place)
{
    lines_ask();
    const uint8_t *data = h->arena.base + h->regions.data_at;
    uint64_t offset = place_offset(place);
    uint32_t noted = h->slab_pages[offset >> PAGE_SHIFT];
    if (noted != 0) {
        uint64_t at = (uint64_t)(noted - 1) << h->regions.granule_shift;
        uint64_t block = (offset - at) * slab_classes[place_class(place)].inverse >> 32;
        __builtin_prefetch(data + at, 1);
        /* The bitmap; exact but for what lies before the first block. */
        __builtin_prefetch(data + at + sizeof(struct slab) + block / 8, 1);
    }
    __builtin_prefetch(slot_entry(h, slot - slot % SLOTS_PER_PAGE), 1);
}

void heap_foresee_object(const struct heap *h, uint64_t ptr)
{
    lines_ask();
    if (!heap_is_loaded(h)) {
        return; /* the slot's page may be one of those that aren't */
    }
    uint64_t word = slot_peek(h, ptr_slot(ptr));
    if (!slot_word_is(word, ptr_generation(ptr), SLOT_LIVE)) {
        return;
    }
    uint64_t place = slot_word_place(word);
    const uint8_t *object = h->arena.base + block_address(h, place);
    uint32_t class_number = place_class(place);
    __builtin_prefetch(object, 1);
    if (class_number < SPARE_CLASSES && spares_of(h, class_number)->count < SPARES_MAX) {
        __builtin_prefetch(object + slab_classes[class_number].bytes - 1, 1); /* the next one's */
    } else if (class_number == PLACE_NO_CLASS) {
        extent_prefetch(h, place_granule(h, place));
    } else {
        foresee_slab(h, ptr_slot(ptr), place);
    }
}
