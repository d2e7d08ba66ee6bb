/* Extents: the improved buddy as segregated fit. Every byte of the data region belongs to exactly
 * one extent; extents form a chain in address order, free ones also a list per bin. All links are
 * indexes into the table of descriptors. */
#include <string.h>

#include "alloc/engine.h"

#define GROW_BYTES     ((uint64_t)1 << 20)
#define GROW_BYTES_MAX ((uint64_t)64 << 20)
#define SHRINK_BYTES   ((uint64_t)64 << 10)
#define BIN_TRIES      4

uint64_t extent_granules(const struct heap *h, uint32_t i)
{
    const struct extent *x = extent_get(h, i);
    uint64_t end = x->next != 0 ? extent_get(h, x->next)->at
                                : header(h)->data_bytes >> h->regions.granule_shift;
    return end - x->at;
}

static void set_state(struct extent *x, enum extent_state state, uint32_t b)
{
    x->b = b | (uint32_t)state << EXTENT_INDEX_BITS;
}

/* ---- bins ---- */

uint32_t bin_of(uint64_t granules)
{
    if (granules < BIN_COLUMNS) {
        return (uint32_t)granules;
    }
    uint32_t log = 63 - (uint32_t)__builtin_clzll(granules);
    return (log - 3) * BIN_COLUMNS + (uint32_t)(granules >> (log - 4) & 15);
}

/* Smallest bin all of whose extents have at least so many granules. */
static uint32_t bin_above(uint64_t granules)
{
    if (granules < BIN_COLUMNS) {
        return (uint32_t)granules;
    }
    uint32_t log = 63 - (uint32_t)__builtin_clzll(granules);
    return bin_of(granules + ((uint64_t)1 << (log - 4)) - 1);
}

static void bin_insert(struct heap *h, uint32_t i, uint64_t granules)
{
    struct heap_header *hd = header_edit(h);
    uint32_t bin = bin_of(granules);
    uint32_t row = bin / BIN_COLUMNS;
    uint32_t column = bin % BIN_COLUMNS;
    struct extent *x = extent_edit(h, i);
    uint32_t head = hd->bins[row][column];
    x->a = head;
    set_state(x, EXTENT_FREE, 0);
    if (head != 0) {
        set_state(extent_edit(h, head), EXTENT_FREE, i);
    }
    hd->bins[row][column] = i;
    hd->bin_columns[row] = (uint16_t)(hd->bin_columns[row] | 1u << column);
    hd->bin_rows |= 1u << row;
    hd->free_granules += granules;
}

static void bin_remove(struct heap *h, uint32_t i, uint64_t granules)
{
    struct heap_header *hd = header_edit(h);
    uint32_t bin = bin_of(granules);
    uint32_t row = bin / BIN_COLUMNS;
    uint32_t column = bin % BIN_COLUMNS;
    const struct extent *x = extent_get(h, i);
    assert(extent_state(x) == EXTENT_FREE);
    uint32_t next = x->a;
    uint32_t prev = x->b & EXTENT_INDEX_MASK;
    if (next != 0) {
        set_state(extent_edit(h, next), EXTENT_FREE, prev);
    }
    if (prev != 0) {
        extent_edit(h, prev)->a = next;
    } else {
        assert(hd->bins[row][column] == i);
        hd->bins[row][column] = next;
        if (next == 0) {
            hd->bin_columns[row] = (uint16_t)(hd->bin_columns[row] & ~(1u << column));
            if (hd->bin_columns[row] == 0) {
                hd->bin_rows &= ~(1u << row);
            }
        }
    }
    hd->free_granules -= granules;
}

/* A free extent with at least so many granules, or 0. */
static uint32_t bin_find(const struct heap *h, uint64_t granules)
{
    const struct heap_header *hd = header(h);
    uint32_t own = bin_of(granules);
    uint32_t i = hd->bins[own / BIN_COLUMNS][own % BIN_COLUMNS];
    for (int tries = 0; i != 0 && tries < BIN_TRIES; tries++) {
        if (extent_granules(h, i) >= granules) {
            return i;
        }
        i = extent_get(h, i)->a;
    }
    uint32_t bin = bin_above(granules);
    if (bin >= BIN_ROWS * BIN_COLUMNS) {
        return 0;
    }
    uint32_t row = bin / BIN_COLUMNS;
    uint32_t columns = hd->bin_columns[row] & (~0u << bin % BIN_COLUMNS);
    if (columns == 0) {
        uint32_t rows = row + 1 < 32 ? hd->bin_rows & (~0u << (row + 1)) : 0;
        if (rows == 0) {
            return 0;
        }
        row = (uint32_t)__builtin_ctz(rows);
        columns = hd->bin_columns[row];
    }
    return hd->bins[row][__builtin_ctz(columns)];
}

/* ---- the budget ---- */

static uint64_t pages_up(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

uint64_t space_bytes(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    return PAGE_BYTES + pages_up((uint64_t)hd->slot_pages * 4) +
           pages_up((uint64_t)hd->extent_count * sizeof(struct extent)) +
           (uint64_t)hd->slot_frames * PAGE_BYTES + hd->data_bytes;
}

static void unlink_last(struct heap *h, uint32_t i)
{
    struct heap_header *hd = header_edit(h);
    uint32_t prev = extent_get(h, i)->prev;
    assert(hd->extent_last == i);
    hd->extent_last = prev;
    if (prev != 0) {
        extent_edit(h, prev)->next = 0;
    } else {
        hd->extent_first = 0;
    }
}

static void descriptor_free(struct heap *h, uint32_t i)
{
    struct heap_header *hd = header_edit(h);
    struct extent *x = extent_edit(h, i);
    memset(x, 0, sizeof *x);
    x->next = hd->extent_spare;
    hd->extent_spare = i;
    hd->extent_spare_count++;
}

/* Gives the tail of the data back to the budget, when it is free. */
static bool tail_shrink(struct heap *h)
{
    uint32_t shift = h->regions.granule_shift;
    uint32_t last = header(h)->extent_last;
    if (last == 0 || extent_state(extent_get(h, last)) != EXTENT_FREE) {
        return false;
    }
    uint64_t granules = extent_granules(h, last);
    uint64_t bytes = (granules << shift) & ~(PAGE_BYTES - 1);
    bytes = bytes < SHRINK_BYTES ? bytes : SHRINK_BYTES;
    if (bytes == 0) {
        return false;
    }
    bin_remove(h, last, granules);
    granules -= bytes >> shift;
    header_edit(h)->data_bytes -= bytes;
    if (granules == 0) {
        unlink_last(h, last);
        descriptor_free(h, last);
    } else {
        bin_insert(h, last, granules);
    }
    return true;
}

int space_take_page(struct heap *h)
{
    uint64_t max = header(h)->bytes_max;
    if (space_bytes(h) + PAGE_BYTES <= max || tail_shrink(h)) {
        return 0;
    }
    return ERR_NOSPACE;
}

/* ---- descriptors ---- */

/* Two spare descriptors: one split and one growth need no more. */
static int descriptors_prepare(struct heap *h)
{
    while (header(h)->extent_spare_count < 2) {
        uint32_t i = header(h)->extent_count;
        if (i >= h->regions.extents_max) {
            return ERR_NOSPACE;
        }
        uint64_t end = ((uint64_t)i + 1) * sizeof(struct extent);
        if (pages_up(end) != pages_up(end - sizeof(struct extent))) {
            int rv = space_take_page(h);
            if (rv != 0) {
                return rv;
            }
            if (header(h)->extent_spare_count >= 2) {
                return 0; /* the tail that made room gave its descriptor back */
            }
        }
        int rv = arena_commit(&h->arena, h->regions.extents_at, end);
        if (rv != 0) {
            return rv;
        }
        header_edit(h)->extent_count = i + 1;
        descriptor_free(h, i);
    }
    return 0;
}

static uint32_t descriptor_take(struct heap *h)
{
    struct heap_header *hd = header_edit(h);
    uint32_t i = hd->extent_spare;
    assert(i != 0);
    struct extent *x = extent_edit(h, i);
    hd->extent_spare = x->next;
    hd->extent_spare_count--;
    memset(x, 0, sizeof *x);
    return i;
}

/* ---- growth ---- */

/* Makes the last extent a free one of at least so many granules. */
static int data_grow(struct heap *h, uint64_t granules, uint32_t *out)
{
    uint32_t shift = h->regions.granule_shift;
    const struct heap_header *hd = header(h);
    uint32_t last = hd->extent_last;
    uint64_t have = 0;
    if (last != 0 && extent_state(extent_get(h, last)) == EXTENT_FREE) {
        have = extent_granules(h, last);
    }
    assert(have < granules);
    uint64_t need = pages_up((granules - have) << shift);
    uint64_t used = space_bytes(h);
    uint64_t room = hd->bytes_max > used ? hd->bytes_max - used : 0;
    if (need > room) {
        return ERR_NOSPACE;
    }
    uint64_t step = pages_up(hd->data_bytes / 16);
    step = step < GROW_BYTES ? GROW_BYTES : step > GROW_BYTES_MAX ? GROW_BYTES_MAX : step;
    step = step < need ? need : step;
    step = step > room ? room : step;
    int rv = arena_commit(&h->arena, h->regions.data_at + hd->data_bytes, step);
    if (rv != 0) {
        return rv;
    }
    if (have != 0) {
        bin_remove(h, last, have);
        header_edit(h)->data_bytes += step;
        bin_insert(h, last, have + (step >> shift));
        *out = last;
        return 0;
    }
    uint32_t i = descriptor_take(h);
    struct heap_header *edit = header_edit(h);
    struct extent *x = extent_edit(h, i);
    x->at = (uint32_t)(edit->data_bytes >> shift);
    x->prev = last;
    if (last != 0) {
        extent_edit(h, last)->next = i;
    } else {
        edit->extent_first = i;
    }
    edit->extent_last = i;
    edit->data_bytes += step;
    bin_insert(h, i, step >> shift);
    *out = i;
    return 0;
}

/* ---- allocate and free ---- */

int extent_alloc(struct heap *h, uint64_t bytes, uint32_t *out)
{
    uint32_t shift = h->regions.granule_shift;
    uint64_t granules = (bytes + ((uint64_t)1 << shift) - 1) >> shift;
    int rv = descriptors_prepare(h);
    if (rv != 0) {
        return rv;
    }
    uint32_t i = bin_find(h, granules);
    if (i == 0) {
        rv = data_grow(h, granules, &i);
        if (rv != 0) {
            return rv;
        }
    }
    uint64_t have = extent_granules(h, i);
    assert(have >= granules);
    bin_remove(h, i, have);
    struct extent *x = extent_edit(h, i);
    x->a = 0;
    set_state(x, EXTENT_USED, 0);
    if (have > granules) {
        uint32_t rest = descriptor_take(h);
        struct extent *r = extent_edit(h, rest);
        r->at = x->at + (uint32_t)granules;
        r->prev = i;
        r->next = x->next;
        if (x->next != 0) {
            extent_edit(h, x->next)->prev = rest;
        } else {
            header_edit(h)->extent_last = rest;
        }
        x->next = rest;
        bin_insert(h, rest, have - granules);
    }
    /* Whole pages of a free extent are absent: only its torn ends may hold old bytes. */
    uint64_t from = extent_address(h, x);
    uint64_t end = from + (granules << shift);
    uint64_t head = pages_up(from) < end ? pages_up(from) : end;
    if (head > from) {
        arena_zero(&h->arena, from, head - from);
    }
    uint64_t tail = end & ~(PAGE_BYTES - 1);
    if (tail >= head && end > tail) {
        arena_zero(&h->arena, tail, end - tail);
    }
    *out = i;
    return 0;
}

static void merge_with_next(struct heap *h, uint32_t i)
{
    struct extent *x = extent_edit(h, i);
    uint32_t next = x->next;
    bin_remove(h, next, extent_granules(h, next));
    uint32_t behind = extent_get(h, next)->next;
    x->next = behind;
    if (behind != 0) {
        extent_edit(h, behind)->prev = i;
    } else {
        header_edit(h)->extent_last = i;
    }
    descriptor_free(h, next);
}

void extent_free(struct heap *h, uint32_t i)
{
    uint32_t shift = h->regions.granule_shift;
    const struct extent *x = extent_get(h, i);
    assert(extent_state(x) == EXTENT_USED || extent_state(x) == EXTENT_SLAB);
    uint64_t from = extent_address(h, x);
    uint64_t end = from + (extent_granules(h, i) << shift);
    if (x->next != 0 && extent_state(extent_get(h, x->next)) == EXTENT_FREE) {
        merge_with_next(h, i);
    }
    uint32_t prev = extent_get(h, i)->prev;
    if (prev != 0 && extent_state(extent_get(h, prev)) == EXTENT_FREE) {
        bin_remove(h, prev, extent_granules(h, prev));
        /* i isn't in a bin, so it goes by hand. */
        uint32_t behind = extent_get(h, i)->next;
        extent_edit(h, prev)->next = behind;
        if (behind != 0) {
            extent_edit(h, behind)->prev = prev;
        } else {
            header_edit(h)->extent_last = prev;
        }
        descriptor_free(h, i);
        i = prev;
    }
    uint64_t granules = extent_granules(h, i);
    bin_insert(h, i, granules);
    /* Pages that are now wholly free become absent; those inside the neighbours already are. */
    uint64_t whole_from = pages_up(extent_address(h, extent_get(h, i)));
    uint64_t whole_end =
        (extent_address(h, extent_get(h, i)) + (granules << shift)) & ~(PAGE_BYTES - 1);
    from &= ~(PAGE_BYTES - 1);
    end = pages_up(end);
    from = from > whole_from ? from : whole_from;
    end = end < whole_end ? end : whole_end;
    if (end > from) {
        arena_drop(&h->arena, from >> PAGE_SHIFT, (end - from) >> PAGE_SHIFT);
    }
}
