/* heap_check(): every structure against every other. It trusts nothing, since it is also what
 * stands between a page from the disk or a peer and the engine: a heap that passes can't make any
 * later call leave its bounds.
 *
 * It needs no memory of its own. "Each block has one owner" follows from: owners are told apart by
 * what the block says (slot number, map and key), each owner's block is in use, and there are as
 * many owners as blocks in use. */
#include <inttypes.h>
#include <string.h>

#include "alloc/engine.h"
#include "base/mem.h"

struct check {
    const struct heap *h;
    const struct heap_header *hd;
    struct err_text *e;
    uint64_t free_count;
    uint64_t slabs[2][SLAB_CLASSES];
    uint64_t partial[2][SLAB_CLASSES];
    uint64_t blocks[2], bytes[2];
    uint64_t map_nodes;
};

#define BAD(c, ...) err_set((c)->e, ERR_CORRUPT, __VA_ARGS__)

static int check_header(struct check *c)
{
    const struct heap_header *hd = c->hd;
    const struct heap_regions *r = &c->h->regions;
    if (!pageset_has(&c->h->arena.present, 0) || hd->magic != HEAP_MAGIC) {
        return BAD(c, "heap: page 0 is not a heap header");
    }
    if (hd->format != HEAP_FORMAT || hd->engine == 0 || hd->engine > HEAP_ENGINE) {
        return err_set(c->e, ERR_VERSION, "heap: format %u, engine %u; this program knows %u, %u",
                       hd->format, hd->engine, HEAP_FORMAT, HEAP_ENGINE);
    }
    if (hd->granule_shift != r->granule_shift || hd->shard >= 4096) {
        return BAD(c, "heap: header fields don't fit the size limit");
    }
    if (hd->extent_count == 0 || hd->extent_count > r->extents_max ||
        hd->slot_pages > r->slot_pages_max || hd->slot_frames > r->frames_max ||
        hd->data_bytes > hd->bytes_max || hd->data_bytes % PAGE_BYTES != 0 ||
        space_bytes(c->h) > hd->bytes_max) {
        return BAD(c, "heap: a region is larger than its limit");
    }
    return 0;
}

static uint64_t up(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
}

/* Present pages lie in what the regions use. */
static int check_present(struct check *c)
{
    const struct heap_regions *r = &c->h->regions;
    const struct heap_header *hd = c->hd;
    const uint64_t ranges[][2] = {
        {0, 1},
        {r->directory_at >> PAGE_SHIFT, up((uint64_t)hd->slot_pages * 4)},
        {r->extents_at >> PAGE_SHIFT, up((uint64_t)hd->extent_count * sizeof(struct extent))},
        {r->frames_at >> PAGE_SHIFT, hd->slot_frames},
        {r->data_at >> PAGE_SHIFT, hd->data_bytes >> PAGE_SHIFT},
    };
    const struct arena *a = &c->h->arena;
    uint64_t page = 0;
    uint64_t count = 0;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        page = pageset_next(&a->present, page, a->pages);
        if (page < ranges[i][0]) {
            break;
        }
        while (page < ranges[i][0] + ranges[i][1]) {
            count++;
            page = pageset_next(&a->present, page + 1, a->pages);
        }
    }
    if (page < a->pages) {
        return BAD(c, "heap: page %" PRIu64 " belongs to no region", page);
    }
    if (count != a->present_count) {
        return BAD(c, "heap: %" PRIu64 " pages are present, counted as %" PRIu64, count,
                   a->present_count);
    }
    return 0;
}

/* ---- extents and slabs ---- */

static int check_slab(struct check *c, uint32_t i, const struct extent *x, uint64_t granules)
{
    uint32_t bits = x->b & EXTENT_INDEX_MASK;
    uint32_t number = bits & (EXTENT_INTERNAL - 1);
    uint32_t pool = (bits & EXTENT_INTERNAL) != 0 ? POOL_INTERNAL : POOL_OBJECTS;
    uint64_t bytes = granules << c->h->regions.granule_shift;
    if (bits >= EXTENT_INTERNAL * 2 || number >= SLAB_CLASSES || bytes < SLAB_BYTES_FIRST ||
        bytes > SLAB_BYTES) {
        return BAD(c, "extent %u: not a slab's class or size", i);
    }
    uint32_t first = 0;
    uint32_t blocks = slab_shape(bytes, number, &first);
    const struct slab *s = arena_at(&c->h->arena, extent_address(c->h, x));
    uint32_t words = (blocks + 63) / 64;
    if (x->a != first || s->blocks != blocks || s->used > blocks || s->hint >= words) {
        return BAD(c, "slab %u: header doesn't fit its class", i);
    }
    uint32_t used = 0;
    for (uint32_t w = 0; w < words; w++) {
        uint32_t in_word = blocks - w * 64 < 64 ? blocks - w * 64 : 64;
        uint64_t all = in_word == 64 ? ~(uint64_t)0 : ((uint64_t)1 << in_word) - 1;
        if ((s->map[w] & ~all) != 0 || (w < s->hint && s->map[w] != all)) {
            return BAD(c, "slab %u: bitmap word %u is wrong", i, w);
        }
        used += (uint32_t)__builtin_popcountll(s->map[w]);
    }
    if (used != s->used) {
        return BAD(c, "slab %u: %u blocks in use, counted as %u", i, used, s->used);
    }
    c->slabs[pool][number]++;
    c->partial[pool][number] += used < blocks;
    c->blocks[pool] += used;
    c->bytes[pool] += (uint64_t)used * class_bytes(number);
    return 0;
}

static int check_extent(struct check *c, uint32_t i, const struct extent *x, uint64_t granules)
{
    const struct arena *a = &c->h->arena;
    uint64_t from = extent_address(c->h, x);
    uint64_t end = from + (granules << c->h->regions.granule_shift);
    uint32_t bits = x->b & EXTENT_INDEX_MASK;
    switch (extent_state(x)) {
    case EXTENT_FREE:
        c->free_count++;
        if (pageset_next(&a->present, up(from), a->pages) < end >> PAGE_SHIFT) {
            return BAD(c, "extent %u is free, and has a page", i);
        }
        return 0;
    case EXTENT_SLAB:
        return check_slab(c, i, x, granules);
    case EXTENT_USED:
        if (bits >= EXTENT_INTERNAL * 2 ||
            ((bits & EXTENT_INTERNAL) != 0 && (x->a != 0 || bits != EXTENT_INTERNAL))) {
            return BAD(c, "extent %u: wrong owner", i);
        }
        c->blocks[(bits & EXTENT_INTERNAL) != 0]++;
        c->bytes[(bits & EXTENT_INTERNAL) != 0] += granules << c->h->regions.granule_shift;
        return 0;
    case EXTENT_UNUSED:
    default:
        return BAD(c, "extent %u is in the chain, but unused", i);
    }
}

static int check_chain(struct check *c)
{
    const struct heap *h = c->h;
    const struct heap_header *hd = c->hd;
    uint64_t total = hd->data_bytes >> h->regions.granule_shift;
    uint64_t at = 0;
    uint64_t free_granules = 0;
    uint64_t count = 0;
    uint32_t prev = 0;
    bool prev_free = false;
    for (uint32_t i = hd->extent_first; i != 0;) {
        if (i >= hd->extent_count || ++count >= hd->extent_count) {
            return BAD(c, "extent %u: the chain leads nowhere", i);
        }
        const struct extent *x = extent_get(h, i);
        if (x->prev != prev || x->at != at || x->next >= hd->extent_count) {
            return BAD(c, "extent %u: broken link", i);
        }
        uint64_t end = x->next != 0 ? extent_get(h, x->next)->at : total;
        if (end <= at || end > total) {
            return BAD(c, "extent %u: wrong size", i);
        }
        bool is_free = extent_state(x) == EXTENT_FREE;
        if (is_free && prev_free) {
            return BAD(c, "extent %u: not merged with its neighbour", i);
        }
        free_granules += is_free ? end - at : 0;
        int rv = check_extent(c, i, x, end - at);
        if (rv != 0) {
            return rv;
        }
        at = end;
        prev = i;
        prev_free = is_free;
        i = x->next;
    }
    if (at != total || hd->extent_last != prev || free_granules != hd->free_granules) {
        return BAD(c, "extents: the chain doesn't add up");
    }
    uint64_t spare = 0;
    for (uint32_t i = hd->extent_spare; i != 0; i = extent_get(h, i)->next) {
        if (i >= hd->extent_count || ++spare > hd->extent_spare_count ||
            extent_state(extent_get(h, i)) != EXTENT_UNUSED) {
            return BAD(c, "extents: broken list of spare descriptors");
        }
    }
    if (spare != hd->extent_spare_count || count + spare + 1 != hd->extent_count) {
        return BAD(c, "extents: descriptors are lost");
    }
    return 0;
}

static int check_bins(struct check *c)
{
    const struct heap_header *hd = c->hd;
    uint64_t count = 0;
    for (uint32_t bin = 0; bin < BIN_ROWS * BIN_COLUMNS; bin++) {
        uint32_t row = bin / BIN_COLUMNS;
        uint32_t column = bin % BIN_COLUMNS;
        uint32_t head = hd->bins[row][column];
        if ((head != 0) != ((hd->bin_columns[row] >> column & 1) != 0) ||
            (hd->bin_columns[row] != 0) != ((hd->bin_rows >> row & 1) != 0)) {
            return BAD(c, "bin %u: its bit is wrong", bin);
        }
        uint32_t prev = 0;
        for (uint32_t i = head; i != 0; i = extent_get(c->h, i)->a) {
            if (i >= hd->extent_count || ++count > c->free_count) {
                return BAD(c, "bin %u: broken list", bin);
            }
            const struct extent *x = extent_get(c->h, i);
            if (extent_state(x) != EXTENT_FREE || (x->b & EXTENT_INDEX_MASK) != prev ||
                bin_of(extent_granules(c->h, i)) != bin) {
                return BAD(c, "bin %u: extent %u doesn't belong there", bin, i);
            }
            prev = i;
        }
    }
    if (hd->bin_rows >> BIN_ROWS != 0 || count != c->free_count) {
        return BAD(c, "bins: %" PRIu64 " of %" PRIu64 " free extents", count, c->free_count);
    }
    return 0;
}

static int check_slab_lists(struct check *c)
{
    for (uint32_t pool = 0; pool < 2; pool++) {
        for (uint32_t number = 0; number < SLAB_CLASSES; number++) {
            const struct slab_list *list = &c->hd->slabs[pool][number];
            uint32_t bits = number | (pool == POOL_INTERNAL ? EXTENT_INTERNAL : 0);
            uint64_t count = 0;
            uint32_t prev = 0;
            for (uint32_t i = list->head; i != 0;) {
                if (i >= c->hd->extent_count || ++count > list->partial) {
                    return BAD(c, "slabs of class %u: broken list", number);
                }
                const struct extent *x = extent_get(c->h, i);
                if (extent_state(x) != EXTENT_SLAB || (x->b & EXTENT_INDEX_MASK) != bits) {
                    return BAD(c, "slabs of class %u: extent %u isn't one", number, i);
                }
                const struct slab *s = arena_at(&c->h->arena, extent_address(c->h, x));
                if (s->prev != prev || s->used == s->blocks) {
                    return BAD(c, "slab %u: shouldn't be listed there", i);
                }
                prev = i;
                i = s->next;
            }
            if (count != list->partial || list->tail != prev ||
                list->partial != c->partial[pool][number] ||
                list->slabs != c->slabs[pool][number]) {
                return BAD(c, "slabs of class %u: counts are wrong", number);
            }
        }
    }
    return 0;
}

/* Is `place` a block in use of this pool? */
static bool block_is_used(const struct check *c, uint64_t place, uint32_t pool)
{
    uint32_t i = (uint32_t)(place & EXTENT_INDEX_MASK);
    uint64_t block = place >> EXTENT_INDEX_BITS;
    if (i == 0 || i >= c->hd->extent_count) {
        return false;
    }
    const struct extent *x = extent_get(c->h, i);
    if (((x->b & EXTENT_INTERNAL) != 0) != (pool == POOL_INTERNAL)) {
        return false;
    }
    if (extent_state(x) == EXTENT_USED) {
        return block == 0;
    }
    if (extent_state(x) != EXTENT_SLAB) {
        return false;
    }
    const struct slab *s = arena_at(&c->h->arena, extent_address(c->h, x));
    return block < s->blocks && (s->map[block / 64] >> (block & 63) & 1) != 0;
}

/* ---- slots ---- */

static int check_object(struct check *c, uint64_t slot, uint64_t place, uint64_t *size)
{
    if (!block_is_used(c, place, POOL_OBJECTS)) {
        return BAD(c, "slot %" PRIu64 ": its block isn't in use", slot);
    }
    const struct extent *x = extent_get(c->h, (uint32_t)(place & EXTENT_INDEX_MASK));
    if (extent_state(x) == EXTENT_USED &&
        (x->a | (uint64_t)(x->b & (EXTENT_INTERNAL - 1)) << 32) != slot) {
        return BAD(c, "slot %" PRIu64 ": its extent names another slot", slot);
    }
    uint64_t bytes = block_bytes(c->h, place);
    uint64_t address = block_address(c->h, place);
    const struct object_header *o = arena_at(&c->h->arena, address);
    struct object_view v;
    object_decode(c->h, place, &v);
    bool wide = (o->word & OBJECT_WIDE) != 0;
    uint64_t head = wide ? sizeof(struct object_header_wide) : sizeof(struct object_header);
    if (v.slot != slot || (!wide && bytes > OBJECT_NARROW_BYTES_MAX) || v.size == 0 ||
        v.size > OBJECT_BYTES_MAX || v.size > bytes - head) {
        return BAD(c, "slot %" PRIu64 ": wrong object header", slot);
    }
    *size = v.size;
    return 0;
}

static int check_slot_page(struct check *c, uint64_t page, const struct slot_page *p,
                           uint64_t *objects, uint64_t *object_bytes)
{
    const uint64_t *words = (const uint64_t *)(const void *)p;
    if (p->page != page || p->fresh < SLOT_FIRST || p->fresh > SLOTS_PER_PAGE) {
        return BAD(c, "slot page %" PRIu64 ": wrong header", page);
    }
    uint32_t states[3] = {0};
    for (uint32_t i = SLOT_FIRST; i < SLOTS_PER_PAGE; i++) {
        uint64_t slot = page * SLOTS_PER_PAGE + i;
        enum slot_state state = slot_word_state(words[i]);
        if (i >= p->fresh ? words[i] != 0
                          : state > SLOT_RETIRED || slot_word_generation(words[i]) == 0) {
            return BAD(c, "slot %" PRIu64 ": wrong entry", slot);
        }
        if (i >= p->fresh) {
            continue;
        }
        states[state]++;
        if (state == SLOT_LIVE) {
            uint64_t size = 0;
            int rv = check_object(c, slot, slot_word_place(words[i]), &size);
            if (rv != 0) {
                return rv;
            }
            *objects += 1;
            *object_bytes += size;
        }
    }
    uint32_t listed = 0;
    for (uint64_t i = p->head; i != 0; i = slot_word_place(words[i])) {
        if (i < SLOT_FIRST || i >= p->fresh || slot_word_state(words[i]) != SLOT_FREE ||
            ++listed > states[SLOT_FREE]) {
            return BAD(c, "slot page %" PRIu64 ": broken free list", page);
        }
    }
    if (listed != states[SLOT_FREE] || p->retired != states[SLOT_RETIRED] ||
        p->free_count != listed + SLOTS_PER_PAGE - p->fresh) {
        return BAD(c, "slot page %" PRIu64 ": counts are wrong", page);
    }
    return 0;
}

static const struct slot_page *slot_page_at(const struct check *c, uint64_t frame)
{
    return arena_at(&c->h->arena, c->h->regions.frames_at + frame * PAGE_BYTES);
}

static int check_slots(struct check *c)
{
    const struct heap_header *hd = c->hd;
    uint64_t objects = 0;
    uint64_t object_bytes = 0;
    uint64_t frames = 0;
    uint64_t queued = 0;
    for (uint64_t page = 0; page < hd->slot_pages; page++) {
        int64_t frame = slot_frame(c->h, page);
        if (frame < 0) {
            continue;
        }
        if (frame >= hd->slot_frames) {
            return BAD(c, "slot page %" PRIu64 ": no such frame", page);
        }
        const struct slot_page *p = slot_page_at(c, (uint64_t)frame);
        int rv = check_slot_page(c, page, p, &objects, &object_bytes);
        if (rv != 0) {
            return rv;
        }
        frames++;
        queued += (p->next & SLOT_PAGE_QUEUED) != 0;
    }
    if (objects != hd->object_count || object_bytes != hd->object_bytes ||
        objects != c->blocks[POOL_OBJECTS]) {
        return BAD(
            c, "objects: %" PRIu64 " live slots, %" PRIu64 " counted, %" PRIu64 " blocks in use",
            objects, hd->object_count, c->blocks[POOL_OBJECTS]);
    }
    if (hd->slot_pages - frames != hd->slot_retired ||
        frames + hd->slot_frame_free_count != hd->slot_frames) {
        return BAD(c, "slots: frames are lost");
    }
    uint64_t count = 0;
    for (uint64_t i = hd->slot_frame_free; i != 0;) {
        if (i > hd->slot_frames || ++count > hd->slot_frame_free_count) {
            return BAD(c, "slots: broken list of empty frames");
        }
        uint64_t link = *(const uint64_t *)(const void *)slot_page_at(c, i - 1);
        if (link > UINT32_MAX) { /* a page in use has more there (fresh >= 2) */
            return BAD(c, "slots: frame %" PRIu64 " isn't empty", i - 1);
        }
        i = link;
    }
    if (count != hd->slot_frame_free_count) {
        return BAD(c, "slots: broken list of empty frames");
    }
    if (hd->slot_current != 0 && slot_frame(c->h, hd->slot_current - 1) < 0) {
        return BAD(c, "slots: the current page is gone");
    }
    count = 0;
    uint32_t last = 0;
    for (uint32_t i = hd->slot_queue_head; i != 0;) {
        int64_t frame = slot_frame(c->h, i - 1);
        if (frame < 0 || ++count > hd->slot_queue_count || i == hd->slot_current) {
            return BAD(c, "slots: broken queue of pages");
        }
        const struct slot_page *p = slot_page_at(c, (uint64_t)frame);
        if ((p->next & SLOT_PAGE_QUEUED) == 0 || p->free_count == 0) {
            return BAD(c, "slot page %u: shouldn't be in the queue", i - 1);
        }
        last = i;
        i = p->next & (SLOT_PAGE_QUEUED - 1);
    }
    if (count != hd->slot_queue_count || queued != count || last != hd->slot_queue_tail) {
        return BAD(c, "slots: the queue of pages doesn't add up");
    }
    return 0;
}

/* ---- maps ---- */

static int key_order(const struct map_node *a, const struct map_node *b)
{
    size_t len = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = memcmp(a + 1, b + 1, len);
    return order != 0 ? order : (int)a->key_len - (int)b->key_len;
}

/* Every node has a key strictly between those of `low` and `high`: no node can come twice. */
static int check_tree(struct check *c, uint32_t map, uint64_t place, const struct map_node *low,
                      const struct map_node *high, uint32_t depth, uint32_t *height,
                      uint64_t *count)
{
    *height = 0;
    if (place == 0) {
        return 0;
    }
    if (depth >= MAP_HEIGHT_MAX || !block_is_used(c, place, POOL_INTERNAL)) {
        return BAD(c, "map %u: a link leads nowhere", map);
    }
    const struct map_node *n = arena_at(&c->h->arena, block_address(c->h, place));
    uint64_t value_at = (sizeof *n + n->key_len + 7) & ~(uint64_t)7;
    if (n->map != map || n->key_len == 0 || n->key_len > MAP_KEY_BYTES_MAX ||
        n->value_len > MAP_VALUE_BYTES_MAX || value_at + n->value_len > block_bytes(c->h, place)) {
        return BAD(c, "map %u: wrong record", map);
    }
    if ((low != NULL && key_order(low, n) >= 0) || (high != NULL && key_order(n, high) >= 0)) {
        return BAD(c, "map %u: keys out of order", map);
    }
    uint32_t left = 0;
    uint32_t right = 0;
    int rv = check_tree(c, map, n->left, low, n, depth + 1, &left, count);
    if (rv == 0) {
        rv = check_tree(c, map, n->right, n, high, depth + 1, &right, count);
    }
    if (rv != 0) {
        return rv;
    }
    uint32_t tall = (left > right ? left : right) + 1;
    if (n->height != tall || left > right + 1 || right > left + 1) {
        return BAD(c, "map %u: out of balance", map);
    }
    *height = tall;
    *count += 1;
    return 0;
}

static int check_maps(struct check *c)
{
    uint64_t all = 0;
    for (uint32_t map = 0; map < HEAP_MAP_COUNT; map++) {
        uint32_t height = 0;
        uint64_t count = 0;
        int rv = check_tree(c, map, c->hd->maps[map].root, NULL, NULL, 0, &height, &count);
        if (rv != 0) {
            return rv;
        }
        if (count != c->hd->maps[map].count) {
            return BAD(c, "map %u: %" PRIu64 " records, counted as %" PRIu64, map, count,
                       c->hd->maps[map].count);
        }
        all += count;
    }
    if (all != c->blocks[POOL_INTERNAL]) {
        return BAD(c, "maps: %" PRIu64 " records, %" PRIu64 " blocks in use", all,
                   c->blocks[POOL_INTERNAL]);
    }
    return 0;
}

int heap_check(const struct heap *heap, struct err_text *e)
{
    struct check c = {.h = heap, .hd = header(heap), .e = e};
    int (*const steps[])(struct check *) = {check_header, check_present,    check_chain,
                                            check_bins,   check_slab_lists, check_slots,
                                            check_maps};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        int rv = steps[i](&c);
        if (rv != 0) {
            return rv;
        }
    }
    for (uint32_t pool = 0; pool < 2; pool++) {
        if (c.blocks[pool] != c.hd->block_count[pool] || c.bytes[pool] != c.hd->block_bytes[pool]) {
            return BAD(&c, "heap: block counters are wrong");
        }
    }
    return 0;
}

/* ---- adopting ---- */

/* The regions that the header claims become accessible; the header itself is bounded here. */
static int commit_regions(struct heap *h)
{
    const struct heap_header *hd = header(h);
    const struct heap_regions *r = &h->regions;
    const uint64_t ranges[][2] = {
        {r->directory_at, up((uint64_t)hd->slot_pages * 4) * PAGE_BYTES},
        {r->extents_at, up((uint64_t)hd->extent_count * sizeof(struct extent)) * PAGE_BYTES},
        {r->frames_at, (uint64_t)hd->slot_frames * PAGE_BYTES},
        {r->data_at, hd->data_bytes},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        int rv = ranges[i][1] == 0 ? 0 : arena_commit(&h->arena, ranges[i][0], ranges[i][1]);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

int heap_adopt(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e)
{
    *out = NULL;
    struct heap *h = mem_zalloc(sizeof *h);
    if (h == NULL) {
        return ERR_NOMEM;
    }
    h->arena = *arena;
    heap_regions_of(bytes_max, &h->regions);
    assert(h->arena.pages == h->regions.end >> PAGE_SHIFT);
    struct check c = {.h = h, .e = e};
    int rv = ERR_CORRUPT;
    if (!pageset_has(&h->arena.present, 0)) {
        (void)BAD(&c, "heap: page 0 is missing");
        goto out;
    }
    c.hd = header(h);
    if (c.hd->bytes_max != bytes_max) {
        (void)BAD(&c, "heap: made for a limit of %" PRIu64 " bytes, not %" PRIu64, c.hd->bytes_max,
                  bytes_max);
        goto out;
    }
    rv = check_header(&c);
    if (rv == 0) {
        rv = commit_regions(h);
    }
    if (rv == 0) {
        rv = heap_check(h, e);
    }
    if (rv == 0) {
        memset(arena, 0, sizeof *arena);
        *out = h;
        return 0;
    }
out:
    /* Chunks that were made accessible stay so: the caller closes the arena. */
    mem_free(h);
    return rv;
}
