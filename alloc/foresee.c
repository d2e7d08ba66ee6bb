/* Commands of an entry are known before their turn comes. In a large heap none of what an object's
 * command touches is in a cache, and one leads to the next: slot, block, maps. So each is asked for
 * one command earlier. Nothing here changes anything, nor does it matter what the pointer is. */
#include "alloc/command.h"
#include "alloc/engine.h"

void heap_foresee_slot(const struct heap *h, uint64_t ptr)
{
    slot_prefetch(h, ptr_slot(ptr));
}

void heap_foresee_object(const struct heap *h, uint64_t ptr)
{
    if (h->arena.unloaded_count != 0) {
        return; /* the slot's page may be one of them */
    }
    uint64_t word = slot_peek(h, ptr_slot(ptr));
    if (slot_word_state(word) != SLOT_LIVE || slot_word_generation(word) != ptr_generation(ptr)) {
        return;
    }
    uint64_t place = slot_word_place(word);
    uint64_t address = block_address(h, place);
    __builtin_prefetch(h->arena.base + address);
    __builtin_prefetch(&h->arena.lines[address >> PAGE_SHIFT]);
    if (place_class(place) == PLACE_NO_CLASS) {
        extent_prefetch(h, place_granule(h, place));
    }
}
