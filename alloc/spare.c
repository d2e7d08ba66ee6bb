/* Spares, for everybody who isn't in the usual case (small.h has that), and what ends them. */
#include "alloc/small.h"

bool spare_fits(const struct heap *h, uint64_t place, uint64_t word, const struct object_header *o)
{
    uint32_t class_number = place_class(place);
    return class_number < SPARE_CLASSES && object_is_plain(o) && !history_is_kept(h) &&
           spare_has_room(h, class_number, word);
}

void spare_put(struct heap *h, uint64_t slot, uint64_t place)
{
    struct slot_at at = slot_locate(h, slot);
    assert(at.page != NULL);
    struct spares *k = spares_edit(h, place_class(place));
    slot_mark_word(h, at.entry);
    spare_push(k, slot, at.entry, *at.entry);
}

/* Its slot's page, and the page that its block begins in. */
static int load(const struct heap *h, uint64_t slot)
{
    int rv = slot_load(h, slot);
    return rv == 0 ? object_load(h, slot_word_place(slot_peek(h, slot))) : rv;
}

bool spare_take(struct heap *h, uint32_t class_number, uint64_t *slot, uint64_t *place, int *rv)
{
    const struct spares *k = spares_of(h, class_number);
    *rv = 0;
    if (k->count == 0) {
        return false;
    }
    assert(!history_is_kept(h));
    *slot = k->slots[k->count - 1];
    *rv = load(h, *slot);
    if (*rv == 0) {
        struct slot_at at = slot_locate(h, *slot);
        assert(at.page != NULL);
        *place = slot_word_place(*at.entry);
        slot_mark_word(h, at.entry);
        spare_pop(spares_edit(h, class_number), k->count - 1, at.entry, *at.entry);
    }
    return true;
}

static int drop(struct heap *h, uint64_t slot)
{
    int rv = load(h, slot);
    uint64_t place = slot_word_place(slot_peek(h, slot));
    rv = rv == 0 ? object_load_all(h, place) : rv;
    if (rv == 0) {
        slot_release(h, slot);
        block_free(h, POOL_OBJECTS, place);
    }
    return rv;
}

int spare_drop_all(struct heap *h)
{
    int rv = 0;
    for (uint32_t class_number = 0; class_number < SPARE_CLASSES; class_number++) {
        const struct spares *k = spares_of(h, class_number);
        while (k->count > 0 && rv == 0) {
            rv = drop(h, k->slots[k->count - 1]);
            if (rv == 0) {
                struct spares *edit = spares_edit(h, class_number);
                edit->slots[--edit->count] = 0;
            }
        }
    }
    return rv;
}

uint64_t spares_count(const struct heap *h, uint64_t *bytes)
{
    uint64_t count = 0;
    *bytes = 0;
    for (uint32_t class_number = 0; class_number < SPARE_CLASSES; class_number++) {
        const struct spares *k = spares_of(h, class_number);
        count += k->count;
        *bytes += k->count * class_bytes(class_number);
    }
    return count;
}

bool spares_exist(const struct heap *h)
{
    uint64_t bytes = 0;
    return spares_count(h, &bytes) != 0;
}

/* Granules that are free, or could be grown, when there are no spares: at most, as if each of them
 * were the last of its slab. */
static uint64_t free_at_most(const struct heap *h)
{
    uint64_t bytes;
    uint64_t shift = h->regions.granule_shift;
    uint64_t slab = (SLAB_BYTES + ((uint64_t)1 << shift) - 1) >> shift;
    uint64_t all = space_data_bytes_max(h) >> shift;
    all = all > space_granules(h) ? all : space_granules(h);
    return all - header(h)->used_granules + spares_count(h, &bytes) * slab;
}

bool spares_give_way(struct heap *h, uint64_t bytes, int *rv)
{
    if (*rv != ERR_NOSPACE || !spares_exist(h) ||
        bytes >> h->regions.granule_shift > free_at_most(h)) {
        return false;
    }
    *rv = spare_drop_all(h);
    return *rv == 0;
}
