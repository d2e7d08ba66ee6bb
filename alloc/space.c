/* Extents: runs of granules. The granule maps are all there is; where the next one goes follows
 * from them alone (space_index.h, ADR 0005).
 *
 * Whole pages inside free space are absent; bytes of a free run that share a page with something
 * used may be anything, and are zeroed when they are handed out. */
#include "alloc/space_index.h"

/* Where all extents would end if free space were so small a share of them: what is below is filled
 * best fit, and what is above becomes empty. */
#define LOW_SHARE      40
#define GROW_BYTES     ((uint64_t)64 << 10)
#define GROW_SHARE     4096 /* of the data, at a time */
#define GROW_BYTES_MAX ((uint64_t)64 << 20)
#define SHRINK_BYTES   ((uint64_t)64 << 10)

static uint64_t up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) & ~(unit - 1);
}

static uint64_t down(uint64_t bytes, uint64_t unit)
{
    return bytes & ~(unit - 1);
}

/* ---- regions ---- */

static uint32_t granule_shift_min(uint64_t bytes_max)
{
    uint32_t shift = GRANULE_SHIFT_MIN;
    while (bytes_max >> shift > (uint64_t)1 << 32) {
        shift++;
    }
    return shift;
}

bool heap_granule_shift_is_valid(uint64_t bytes_max, uint32_t granule_shift)
{
    return granule_shift == 0 ||
           (granule_shift >= granule_shift_min(bytes_max) && granule_shift <= GRANULE_SHIFT_MAX);
}

static uint64_t map_bytes(uint64_t granules)
{
    return up((granules + 63) / 64 * sizeof(struct granules), PAGE_BYTES);
}

void heap_regions_of(uint64_t bytes_max, uint32_t granule_shift, struct heap_regions *out)
{
    assert(heap_bytes_max_is_valid(bytes_max));
    assert(heap_granule_shift_is_valid(bytes_max, granule_shift));
    out->granule_shift = granule_shift != 0 ? granule_shift : granule_shift_min(bytes_max);
    /* A live slot has a block of 32 bytes at least, so a quarter is more than can ever be live; a
     * page's slots can be used 16383 times each, and 256 generations of pages keep a busy heap
     * going for years. */
    uint64_t frames = bytes_max / 4 / PAGE_BYTES;
    uint64_t pages = frames * 256;
    out->slot_pages_max = pages < SLOT_PAGES_MAX ? (uint32_t)pages : SLOT_PAGES_MAX;
    out->frames_max = frames < UINT32_MAX ? (uint32_t)frames : UINT32_MAX - 1;
    out->granules_max = bytes_max >> out->granule_shift;
    out->spares_until = out->granules_max - out->granules_max / SPARES_SHARE;
    out->directory_at = SPARES_AT + PAGE_BYTES;
    out->granules_at = out->directory_at + up((uint64_t)out->slot_pages_max * 4, PAGE_BYTES);
    out->frames_at = out->granules_at + map_bytes(out->granules_max);
    out->data_at = out->frames_at + (uint64_t)out->frames_max * PAGE_BYTES;
    out->end = out->data_at + bytes_max;
}

/* ---- the maps ---- */

static inline uint64_t bit_of(uint64_t granule)
{
    return (uint64_t)1 << (granule & 63);
}

/* Bits of [from, end) that lie in this word. */
static inline uint64_t mask_of(uint64_t word, uint64_t from, uint64_t end)
{
    uint64_t mask = ~(uint64_t)0;
    if (word == from / 64) {
        mask &= ~(uint64_t)0 << (from & 63);
    }
    if (word == end / 64) {
        mask &= bit_of(end) - 1;
    }
    return mask;
}

/* Words first .. last, marked as changed. */
static struct granules *words_edit(struct heap *h, uint64_t first, uint64_t last)
{
    return (struct granules *)arena_write(&h->arena,
                                          h->regions.granules_at + first * sizeof(struct granules),
                                          (last - first + 1) * sizeof(struct granules));
}

/* Free granules become further ones of an extent. from < end. */
static void mark_used(struct heap *h, uint64_t from, uint64_t end)
{
    uint64_t first = from / 64;
    uint64_t last = (end - 1) / 64;
    struct granules *g = words_edit(h, first, last);
    for (uint64_t w = first; w <= last; w++, g++) {
        uint64_t mask = mask_of(w, from, end);
        assert(((g->used | g->start) & mask) == 0);
        g->used |= mask;
    }
}

static void mark_start(struct heap *h, uint64_t granule, bool object)
{
    struct granules *g = words_edit(h, granule / 64, granule / 64);
    g->start |= bit_of(granule);
    if (!object) {
        g->used &= ~bit_of(granule);
    }
}

static void mark_free(struct heap *h, uint64_t from, uint64_t end)
{
    uint64_t first = from / 64;
    uint64_t last = (end - 1) / 64;
    struct granules *g = words_edit(h, first, last);
    for (uint64_t w = first; w <= last; w++, g++) {
        uint64_t mask = mask_of(w, from, end);
        assert(((g->used | g->start) & mask) == mask);
        g->used &= ~mask;
        g->start &= ~mask;
    }
}

uint64_t space_granules(const struct heap *h)
{
    return header(h)->data_bytes >> h->regions.granule_shift;
}

uint64_t space_used_between(const struct heap *h, uint64_t from, uint64_t to)
{
    uint64_t count = 0;
    for (uint64_t w = from / 64; from < to && w <= (to - 1) / 64; w++) {
        const struct granules *g = granules_at(h, w);
        count += (uint64_t)__builtin_popcountll((g->used | g->start) & mask_of(w, from, to));
    }
    return count;
}

uint64_t space_largest_free(const struct heap *h)
{
    return index_longest(h);
}

/* ---- looking at extents ---- */

static bool is_start(const struct heap *h, uint64_t granule)
{
    return (granules_at(h, granule / 64)->start & bit_of(granule)) != 0;
}

bool extent_is_object(const struct heap *h, uint64_t granule)
{
    assert(is_start(h, granule));
    return (granules_at(h, granule / 64)->used & bit_of(granule)) != 0;
}

/* The granule behind it. */
static uint64_t extent_end(const struct heap *h, uint64_t granule)
{
    assert(is_start(h, granule));
    uint64_t total = space_granules(h);
    for (uint64_t w = (granule + 1) / 64; w * 64 < total; w++) {
        const struct granules *g = granules_at(h, w);
        uint64_t over = ~(g->used & ~g->start) & mask_of(w, granule + 1, UINT64_MAX);
        if (over != 0) {
            return w * 64 + (uint64_t)__builtin_ctzll(over);
        }
    }
    return total;
}

uint64_t extent_granules(const struct heap *h, uint64_t granule)
{
    return extent_end(h, granule) - granule;
}

uint64_t extent_next(const struct heap *h, uint64_t from)
{
    uint64_t total = space_granules(h);
    for (uint64_t w = from / 64; w * 64 < total; w++) {
        uint64_t starts = granules_at(h, w)->start & mask_of(w, from, UINT64_MAX);
        if (starts != 0) {
            return w * 64 + (uint64_t)__builtin_ctzll(starts);
        }
    }
    return total;
}

uint64_t extent_next_internal(const struct heap *h, uint64_t from)
{
    uint64_t total = space_granules(h);
    for (uint64_t w = from / 64; w * 64 < total; w++) {
        const struct granules *g = granules_at(h, w);
        uint64_t starts = g->start & ~g->used & mask_of(w, from, UINT64_MAX);
        if (starts != 0) {
            return w * 64 + (uint64_t)__builtin_ctzll(starts);
        }
    }
    return total;
}

uint64_t extent_last_before(const struct heap *h, uint64_t end)
{
    uint64_t most = space_granules(h) - index_tail(h); /* which may be long */
    end = end < most ? end : most;
    for (uint64_t w = (end + 63) / 64; w-- > 0;) {
        uint64_t starts = granules_at(h, w)->start & mask_of(w, 0, end);
        if (starts != 0) {
            return w * 64 + 63 - (uint64_t)__builtin_clzll(starts);
        }
    }
    return UINT64_MAX;
}

/* Where the free run at the end of the data begins. */
static uint64_t tail_of(const struct heap *h)
{
    return space_granules(h) - index_tail(h);
}

/* ---- the budget ---- */

/* The data ends at whole granules and whole pages. */
static uint64_t data_unit(const struct heap *h)
{
    uint64_t granule = (uint64_t)1 << h->regions.granule_shift;
    return granule > PAGE_BYTES ? granule : PAGE_BYTES;
}

static uint64_t fixed_bytes(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    return 2 * PAGE_BYTES + up((uint64_t)hd->slot_pages * 4, PAGE_BYTES) +
           (uint64_t)hd->slot_frames * PAGE_BYTES;
}

uint64_t space_bytes(const struct heap *h)
{
    return fixed_bytes(h) + map_bytes(space_granules(h)) + header(h)->data_bytes;
}

uint64_t space_data_bytes_max(const struct heap *h)
{
    uint64_t fixed = fixed_bytes(h);
    uint64_t max = header(h)->bytes_max;
    uint64_t room = max > fixed ? max - fixed : 0;
    /* Each page of the maps is needed for so much data: */
    uint64_t part = (PAGE_BYTES / sizeof(struct granules) * 64) << h->regions.granule_shift;
    uint64_t rest = room % (part + PAGE_BYTES);
    uint64_t bytes =
        room / (part + PAGE_BYTES) * part + (rest > PAGE_BYTES ? rest - PAGE_BYTES : 0);
    return down(bytes, data_unit(h));
}

/* The tail of the data, `bytes` of it, goes. */
static void data_cut(struct heap *h, uint64_t bytes)
{
    uint64_t before = space_granules(h);
    header_edit(h)->data_bytes -= bytes;
    uint64_t now = space_granules(h);
    uint64_t pages = map_bytes(now) >> PAGE_SHIFT;
    uint64_t gone = (map_bytes(before) >> PAGE_SHIFT) - pages;
    if (gone != 0) {
        arena_drop(&h->arena, (h->regions.granules_at >> PAGE_SHIFT) + pages, gone);
    }
    index_resize(h, before);
}

static uint64_t tail_bytes(const struct heap *h)
{
    return header(h)->data_bytes - up(tail_of(h) << h->regions.granule_shift, data_unit(h));
}

uint64_t space_trim(struct heap *h, uint64_t bytes)
{
    uint64_t tail = tail_bytes(h);
    bytes = down(bytes < tail ? bytes : tail, data_unit(h));
    if (bytes != 0) {
        data_cut(h, bytes);
    }
    return bytes;
}

int space_take_pages(struct heap *h, uint64_t pages)
{
    uint64_t want = space_bytes(h) + pages * PAGE_BYTES;
    uint64_t max = header(h)->bytes_max;
    if (want <= max) {
        return 0;
    }
    uint64_t need = up(want - max, data_unit(h));
    uint64_t tail = tail_bytes(h);
    if (tail < need) {
        return ERR_NOSPACE;
    }
    /* A little more, so that the next page doesn't come for it again. */
    uint64_t more = need > SHRINK_BYTES ? need : SHRINK_BYTES;
    data_cut(h, more < tail ? more : tail);
    return 0;
}

/* ---- growth ---- */

static uint64_t grow_step(const struct heap *h)
{
    uint64_t step = up(header(h)->data_bytes / GROW_SHARE, data_unit(h));
    return step < GROW_BYTES ? GROW_BYTES : step > GROW_BYTES_MAX ? GROW_BYTES_MAX : step;
}

/* Makes the free run at the end of the data at least `granules` long. */
static int data_grow(struct heap *h, uint64_t granules, uint64_t *out)
{
    const struct heap_header *hd = header(h);
    uint64_t unit = data_unit(h);
    uint64_t tail = tail_of(h);
    uint64_t now = hd->data_bytes;
    uint64_t need = up((tail + granules) << h->regions.granule_shift, unit);
    uint64_t most = space_data_bytes_max(h);
    assert(need > now);
    if (need > most) {
        return ERR_NOSPACE;
    }
    uint64_t step = grow_step(h);
    uint64_t then = now + step > need ? now + step : need;
    then = then < most ? then : most;
    int rv = arena_commit(&h->arena, h->regions.data_at + now, then - now);
    if (rv == 0) {
        rv = arena_commit(&h->arena, h->regions.granules_at,
                          map_bytes(then >> h->regions.granule_shift));
    }
    if (rv != 0) {
        return rv;
    }
    uint64_t before = space_granules(h);
    header_edit(h)->data_bytes = then;
    index_resize(h, before);
    *out = tail;
    return 0;
}

/* ---- absent pages ---- */

/* Bytes of [at, stop), which was free until now, read as zero. */
static void zero_torn(struct heap *h, uint64_t at, uint64_t stop)
{
    uint64_t whole = up(at, PAGE_BYTES) < stop ? up(at, PAGE_BYTES) : stop;
    if (whole > at) {
        arena_zero(&h->arena, at, whole - at);
    }
    uint64_t tail = down(stop, PAGE_BYTES);
    if (tail >= whole && stop > tail) {
        arena_zero(&h->arena, tail, stop - tail);
    }
}

/* Pages of [from, end), which became free, and at its edges, go when nothing in them is used. */
static void drop_pages(struct heap *h, uint64_t from, uint64_t end)
{
    uint32_t shift = h->regions.granule_shift;
    uint64_t first = (from << shift) >> PAGE_SHIFT; /* of the data */
    uint64_t stop = up(end << shift, PAGE_BYTES) >> PAGE_SHIFT;
    if (shift < PAGE_SHIFT) {
        uint32_t per_page = PAGE_SHIFT - shift;
        if (space_used_between(h, first << per_page, from) != 0) {
            first++;
        }
        if (first < stop && space_used_between(h, end, stop << per_page) != 0) {
            stop--;
        }
    }
    if (first >= stop) {
        return;
    }
    uint64_t base = h->regions.data_at >> PAGE_SHIFT;
    /* Most pages of a large object that was never filled are absent already. */
    uint64_t page = pageset_next(&h->arena.present, base + first, base + stop);
    if (page < base + stop) {
        arena_drop(&h->arena, page, base + stop - page);
    }
}

/* ---- allocate, free, resize, slide ---- */

static uint64_t granules_for(const struct heap *h, uint64_t bytes)
{
    assert(bytes > 0);
    uint32_t shift = h->regions.granule_shift;
    return (bytes + ((uint64_t)1 << shift) - 1) >> shift;
}

static void take(struct heap *h, bool object, uint64_t from, uint64_t end, uint64_t filled)
{
    mark_used(h, from, end);
    mark_start(h, from, object);
    index_update(h, from, end);
    header_edit(h)->used_granules += end - from;
    zero_torn(h, granule_address(h, from) + filled, granule_address(h, end));
}

int extent_alloc_filled(struct heap *h, bool object, uint64_t bytes, uint64_t filled,
                        uint64_t *granule)
{
    uint64_t count = granules_for(h, bytes);
    uint64_t used = header(h)->used_granules;
    uint64_t at = index_find_best(h, count, used + used / LOW_SHARE);
    if (at == INDEX_NONE) {
        int rv = data_grow(h, count, &at);
        if (rv != 0) {
            return rv;
        }
    }
    take(h, object, at, at + count, filled);
    *granule = at;
    return 0;
}

int extent_alloc(struct heap *h, bool object, uint64_t bytes, uint64_t *granule)
{
    return extent_alloc_filled(h, object, bytes, 0, granule);
}

bool extent_fits_below(const struct heap *h, uint64_t bytes, uint64_t limit, uint64_t *granule)
{
    uint64_t count = granules_for(h, bytes);
    *granule = index_find(h, count);
    return *granule < limit && count <= limit - *granule;
}

bool extent_alloc_below(struct heap *h, bool object, uint64_t bytes, uint64_t limit,
                        uint64_t *granule)
{
    if (!extent_fits_below(h, bytes, limit, granule)) {
        return false;
    }
    take(h, object, *granule, *granule + granules_for(h, bytes), 0);
    return true;
}

static void give_back(struct heap *h, uint64_t from, uint64_t end)
{
    mark_free(h, from, end);
    index_update(h, from, end);
    header_edit(h)->used_granules -= end - from;
    drop_pages(h, from, end);
}

/* Granules up to `end` became free. Of a long tail one step stays. */
static void settle_tail(struct heap *h, uint64_t end)
{
    uint64_t total = space_granules(h);
    uint64_t step = grow_step(h);
    if ((total - end) << h->regions.granule_shift > 4 * step ||
        space_used_between(h, end, total) != 0) {
        return; /* it is as long as it was */
    }
    uint64_t tail = tail_bytes(h);
    if (tail > 2 * step) {
        data_cut(h, tail - step);
    }
}

void extent_prefetch(const struct heap *h, uint64_t granule)
{
    lines_ask();
    uint64_t word = granule / 64 & ~(uint64_t)3; /* of its line */
    __builtin_prefetch(granules_at(h, word));
    __builtin_prefetch(granules_at(h, word + 4));
    uint64_t address = h->regions.granules_at + word * sizeof(struct granules);
    __builtin_prefetch(&h->arena.lines[address >> PAGE_SHIFT]);
    uint64_t page = granule_address(h, granule) >> PAGE_SHIFT;
    __builtin_prefetch(&h->arena.present.words[page >> 6]);
    __builtin_prefetch(&h->arena.present.sums[page >> 12]);
    index_prefetch(h, granule);
}

void extent_free(struct heap *h, uint64_t granule)
{
    extent_prefetch(h, granule);
    uint64_t end = extent_end(h, granule);
    give_back(h, granule, end);
    settle_tail(h, end);
}

bool extent_resize(struct heap *h, uint64_t granule, uint64_t bytes)
{
    uint64_t end = extent_end(h, granule);
    uint64_t new_end = granule + granules_for(h, bytes);
    if (new_end < end) {
        give_back(h, new_end, end);
        settle_tail(h, end);
    } else if (new_end > end) {
        if (new_end > space_granules(h) || space_used_between(h, end, new_end) != 0) {
            return false;
        }
        mark_used(h, end, new_end);
        index_update(h, end, new_end);
        header_edit(h)->used_granules += new_end - end;
        zero_torn(h, granule_address(h, end), granule_address(h, new_end));
    }
    return true;
}

void extent_slide(struct heap *h, uint64_t granule, uint64_t to)
{
    assert(to < granule);
    assert(space_used_between(h, to, granule) == 0);
    bool object = extent_is_object(h, granule);
    uint64_t end = extent_end(h, granule);
    uint64_t new_end = to + (end - granule);
    mark_free(h, granule, end);
    mark_used(h, to, new_end);
    mark_start(h, to, object);
    index_update(h, to, end);
    drop_pages(h, new_end > granule ? new_end : granule, end);
}
